/** `meterline audit` as a command: what it prints, and with which code it exits. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { World } from '../processor/planted.ts'
import { instance } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { auditedBy } from './audited.ts'

let rig: Awaited<ReturnType<typeof startClickHouse>>

beforeAll(async () => {
  rig = await startClickHouse()
})
afterAll(async () => {
  await rig?.stop()
})

const audited = (world: World, options?: Parameters<typeof auditedBy>[2]) => auditedBy(rig, world, options)

test('exits 0 over what is whole, 3 with gaps named on stderr, 1 with the first difference', async () => {
  await using world = await (await World.open(rig)).fill()
  const whole = await audited(world)
  expect(whole.stdout).toMatch(/ {2}received +24\n= accepted +23\n[\s\S]*✓ outbox ↔ ledger[\s\S]*\nok\n$/)
  expect({ code: whole.code, stderr: whole.stderr }).toEqual({ code: 0, stderr: [] })

  world.read('compute', 0, 2000, [instance('a', 'i1', '60')])
  await world.travel()
  const gaps = await audited(world)
  expect(gaps.code).toBe(3)
  expect(gaps.stderr).toEqual([expect.stringMatching(/^gap: 1 windows wait as suspect/)])
  expect(gaps.stdout).toMatch(/\nok, with 1 known gaps\n$/)

  await world.plant('alter table rejected delete where 1')
  const wrong = await audited(world, { json: true })
  expect(wrong.code).toBe(1)
  const report = JSON.parse(wrong.stdout)
  expect(report.state).toBe('differs')
  expect(report.equations[0].holds).toBe(false)
  expect(report.compared.find(({ check }: { check: string }) => check === 'messages')).toMatchObject({
    differing: '1',
    differences: [{ place: `${world.outbox.id}/0 offset 24` }],
  })
  // Messages are all looked at, of whichever windows they are; readings and lines only those of the span.
  const span = await audited(world, { from: '2025-06-01T02:00:00Z', to: '2025-06-01T03:00:00Z' })
  expect(span.stdout).toMatch(/ {2}received +26\n/)
  expect(span.stdout).toMatch(/ {2}accepted +7\n= marks +3\n\+ current +4\n/)
})
