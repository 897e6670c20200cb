/** The demo as a user runs it: the table of usage by GPU type to the cent, through the embedded log and a real Kafka. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { CoverageRow } from '../../processor/coverage.ts'
import type { LineItem } from '../../processor/line-items.ts'
import type { UsageRow } from '../../schemas/meters.ts'
import { type KafkaRig, startKafka } from '../rig/kafka.ts'
import { meterline, start } from '../rig/meterline.ts'

interface Demo {
  readonly usage: readonly UsageRow[]
  readonly lines: readonly LineItem[]
  readonly total: string
  readonly coverage: readonly CoverageRow[]
  readonly files: readonly string[]
}

let dir: string
let embedded: Demo

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-demo-test-'))
  embedded = await demoOf('embedded')
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

async function demoOf(
  name: string,
  args: readonly string[] = [],
  env: Record<string, string> = {},
): Promise<Demo> {
  const answer = await meterline(['demo', '--once', '--json', '--data', join(dir, name), ...args], { env })
  expect(answer.code, answer.stderr).toBe(0)
  return JSON.parse(answer.stdout) as Demo
}

test('the demo bills the table of usage by GPU type to the cent', () => {
  const hours = Object.groupBy(embedded.usage, row => row.group_by.gpu_type ?? '')
  const sum = (type: string) => hours[type]?.reduce((total, row) => total + BigInt(row.value), 0n)
  expect([sum('L40'), sum('A100'), sum('H100')]).toEqual([100n, 60n, 173n])
  expect(
    embedded.usage.map(row => `${row.group_by.organization} ${row.group_by.gpu_type} ${row.value}`).sort(),
  ).toEqual([
    'Org-A A100 10',
    'Org-A H100 100',
    'Org-A L40 30',
    'Org-B A100 20',
    'Org-B H100 40',
    'Org-B L40 60',
    'Org-C A100 30',
    'Org-C H100 33',
    'Org-C L40 10',
  ])
  expect(
    embedded.lines.map(line => `${line.account} ${line.charge} ${line.quantity} ${line.amount}`),
  ).toEqual([
    'Org-A gpu.l40 30 29.70',
    'Org-A gpu.a100 10 17.90',
    'Org-A gpu.h100 100 299.00',
    'Org-B gpu.l40 60 59.40',
    'Org-B gpu.a100 20 35.80',
    'Org-B gpu.h100 40 119.60',
    'Org-C gpu.l40 10 9.90',
    'Org-C gpu.a100 30 53.70',
    'Org-C gpu.h100 33 98.67',
  ])
  expect(embedded.total).toBe('723.67')
})

test('its coverage is complete: 720 hours of two kinds and of the listing', () => {
  expect(embedded.coverage).toHaveLength(3 * 720)
  expect(new Set(embedded.coverage.map(row => row.state))).toEqual(new Set(['settled']))
})

test('the files it names hold the lines, and the columns of the published script', () => {
  const read = (name: string) =>
    readFileSync(embedded.files.find(path => path.includes(name)) ?? name, 'utf8')
  expect(read('line-items.csv').split('\n')[0]?.trim()).toBe(
    'account,charge,meter,group,quantity,unit,price,amount,currency,period_start,period_end,book,book_sha256',
  )
  expect(read('line-items.csv').trim().split('\n')).toHaveLength(10)
  expect(read('ncp-metrics-sorted')).toMatch(
    /^Organization,Profile Type,Profile,Instance,Usage\(h\),Status\r\nOrg-A,compute,/,
  )
})

test('collecting again changes nothing, to the byte', async () => {
  const again = await demoOf('embedded')
  expect(JSON.stringify(again.lines)).toBe(JSON.stringify(embedded.lines))
  expect(JSON.stringify(again.usage)).toBe(JSON.stringify(embedded.usage))
})

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
  const through = await demoOf('kafka', ['--log', 'kafka'], { KAFKA_BROKERS: kafka.brokers.join(',') })
  expect(JSON.stringify(through.lines)).toBe(JSON.stringify(embedded.lines))
  expect(JSON.stringify(through.usage)).toBe(JSON.stringify(embedded.usage))
})
