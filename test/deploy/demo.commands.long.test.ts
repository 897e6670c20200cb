/** What a user does with the demo: other commands on its directory, its live windows, and the same through a real Kafka. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type KafkaRig, startKafka } from '../rig/kafka.ts'
import { meterline, start } from '../rig/meterline.ts'
import { type Demo, demoOf } from './demo-run.ts'

let dir: string
let embedded: Demo

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-demo-test-'))
  embedded = await demoOf(join(dir, 'embedded'))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

test('other commands answer from the demo’s directory', async () => {
  const config = ['--config', join(dir, 'embedded', 'meterline.yaml')]
  const period = ['--from', '2025-06-01T00:00:00Z', '--to', '2025-07-01T00:00:00Z']
  const usage = await meterline([
    ...config,
    'usage',
    'gpu_hours',
    ...period,
    '--group-by',
    'gpu_type',
    '--format',
    'csv',
  ])
  expect(usage.stdout).toContain(
    'gpu_hours,2025-06-01T00:00:00Z,2025-07-01T00:00:00Z,meterline/rafay/demo,qm7kd2x,H100,100,h',
  )
  const csv = await meterline([...config, 'export', 'csv', ...period, '--account', 'Org-C'])
  expect(csv.code, csv.stderr).toBe(0)
  expect(csv.stdout.trim().split('\n')).toHaveLength(4)
  const check = await meterline([...config, 'check', '--offline'])
  expect([check.code, check.stdout]).toEqual([0, expect.stringContaining('no problem found')])
  // The double ended with its demo.
  const asked = await meterline([...config, 'check'])
  expect([asked.code, asked.stdout]).toEqual([1, expect.stringContaining('rafay/demo: MISSING: usage of')])
  const bad = await meterline([...config, 'usage', 'nothing', ...period])
  expect([bad.code, bad.stdout]).toEqual([1, ''])
  expect(bad.stderr).toContain('METER_UNKNOWN')
  expect(
    (await meterline([...config, 'usage', 'gpu_hours', '--from', 'yesterday', '--to', 'today'])).code,
  ).toBe(2)
  expect((await meterline(['nonsense'])).code).toBe(2)
})

test('without --once it goes on with live windows until it is told to stop', async () => {
  const running = start(['demo', '--data', join(dir, 'live')])
  await expect.poll(() => running.stderr(), { timeout: 60_000 }).toContain('live windows')
  expect(running.process.exitCode).toBeNull()
  expect(await running.stop()).toBe(0)
})

let kafka: KafkaRig | undefined
afterAll(async () => {
  await kafka?.stop()
})

test('through a real Kafka the line items are the same, byte for byte', async () => {
  kafka = await startKafka()
  const through = await demoOf(join(dir, 'kafka'), ['--log', 'kafka'], {
    KAFKA_BROKERS: kafka.brokers.join(','),
  })
  expect(JSON.stringify(through.lines)).toBe(JSON.stringify(embedded.lines))
  expect(JSON.stringify(through.usage)).toBe(JSON.stringify(embedded.usage))
})
