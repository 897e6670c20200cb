/** A ledger that lost a day: the collector that had sent it reads the day once more, by hand, and every answer is as before. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { type RafayDouble, rafayDemoKey } from '../../deploy/demo/rafay.ts'
import { openEmbedded } from '../../deploy/embedded/embedded.ts'
import { Store } from '../../processor/store.ts'
import { meterline } from '../rig/meterline.ts'
import { goldenSource, startGolden } from './golden.ts'

const env = { RAFAY_DEFAULT_API_KEY: rafayDemoKey }
const days = ['--from', '2025-06-01T00:00:00Z', '--to', '2025-06-04T00:00:00Z']
const lostDay = ['--from', '2025-06-02T00:00:00Z', '--to', '2025-06-03T00:00:00Z']
let dir: string
let double: RafayDouble

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-lost-day-'))
  double = await startGolden(['zero', 'nvidia-h100-8gpu-vm', 'test-abc', 'i-001', 'i-002'])
  writeFileSync(
    join(dir, 'meterline.yaml'),
    stringify({ data: 'data', sources: [goldenSource(double)], listen: { port: 0, api: 'loopback' } }),
  )
})
afterAll(async () => {
  await double.close()
  rmSync(dir, { recursive: true, force: true })
})

async function ask(...args: string[]): Promise<string> {
  const answer = await meterline(['--config', join(dir, 'meterline.yaml'), ...args], { env, cwd: dir })
  expect(answer.code, answer.stderr).toBe(0)
  return answer.stdout
}

const usage = () =>
  ask('usage', 'instance_hours', ...days, '--window', 'DAY', '--group-by', 'profile', '--json')

test('a ledger that lost a day is healed by a read by hand of the collector that had sent it', async () => {
  await ask('collect', '--once', ...days)
  const before = await usage()
  expect(JSON.parse(before)).not.toEqual([])
  {
    await using embedded = await openEmbedded({ dataDir: join(dir, 'data') })
    const { url, user, password } = embedded
    await using store = await Store.open({ url, user, password, database: 'meterline' })
    for (const table of ['events', 'reads', 'cells'])
      await store.run(
        `delete from ${table} where toDate(${table === 'cells' ? 'hour' : 'start'}) = '2025-06-02'`,
      )
  }
  expect(await usage()).not.toBe(before)
  const lost = await meterline(['--config', join(dir, 'meterline.yaml'), 'coverage', ...days], {
    env,
    cwd: dir,
  })
  expect(lost.code).toBe(3)
  expect(lost.stderr).toMatch(/gap: .* 2025-06-02T00:00:00Z\/2025-06-03T00:00:00Z windows=24 never/)

  await ask('collect', '--once', ...lostDay)
  await ask('coverage', ...days)
  expect(await usage()).toBe(before)
}, 240_000)

test('`resend` finds windows of which no row can be sent again, and the collector then has them to read', async () => {
  {
    await using embedded = await openEmbedded({ dataDir: join(dir, 'data') })
    const { url, user, password } = embedded
    await using store = await Store.open({ url, user, password, database: 'meterline' })
    for (const table of ['events', 'reads'])
      await store.run(`delete from ${table} where start = '2025-06-02 05:00:00'`)
  }
  const resend = () =>
    meterline(['--config', join(dir, 'meterline.yaml'), 'resend', '--json'], { env, cwd: dir })
  const first = await resend()
  expect(first.code, first.stderr).toBe(3)
  const { windows_due } = JSON.parse(first.stdout) as { windows_due: { start: string }[] }
  expect(new Set(windows_due.map(({ start }) => start))).toEqual(new Set(['2025-06-02T05:00:00Z']))
  expect(first.stderr).toMatch(/gap: source=meterline\/rafay\/prod scope=\S+ 2025-06-02T05:00:00Z/)
  const second = await resend()
  expect(JSON.parse(second.stdout).windows_due, 'due again already').toEqual([])
}, 240_000)
