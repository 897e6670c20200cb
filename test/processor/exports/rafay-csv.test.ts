/** Rafay's CSV from a real ledger: its columns, names summed, re-reads and failed reads as everywhere. */
import { readFileSync } from 'node:fs'
import { parse } from 'csv-parse/sync'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { accept } from '../../../processor/accept.ts'
import { exportFormats } from '../../../processor/exports/list.ts'
import { Ledger } from '../../../processor/ledger.ts'
import { Store } from '../../../processor/store.ts'
import type { MarkData, Usage } from '../../../schemas/event.ts'
import { hourMs, type Window } from '../../../schemas/window.ts'
import { batchOf, instance, readEvents } from '../../reads.ts'
import { startClickHouse } from '../../rig/clickhouse.ts'

const june: Window = { startMs: Date.UTC(2025, 5, 1), endMs: Date.UTC(2025, 6, 1) }
const source = 'meterline/rafay/test'
let rig: Awaited<ReturnType<typeof startClickHouse>>
let databases = 0

beforeAll(async () => {
  rig = await startClickHouse()
})
afterAll(async () => {
  await rig?.stop()
})

async function openWorld() {
  const store = await Store.open({ ...rig, database: `rafay_csv_${process.pid}_${databases++}` })
  const ledger = new Ledger(store, 'log', null)
  let offset = 0
  return {
    async read(hour: number, usages: readonly Usage[], readatMs = hour, mark: Partial<MarkData> = {}) {
      const startMs = june.startMs + hour * hourMs
      const window = { startMs, endMs: startMs + hourMs }
      const events = readEvents(
        { source, scope: 'all', window, readatMs: startMs + hourMs + readatMs },
        usages,
        mark,
      )
      await ledger.put([accept(batchOf(events, offset), 'log')])
      offset += events.length
    },
    async files() {
      const format = exportFormats.find(({ name }) => name === 'rafay-csv')!
      const nowMs = Date.UTC(2025, 11, 9, 14, 41, 46)
      const written = await format.write({
        store,
        period: june,
        nowMs,
        zone: 'Europe/Berlin',
        lineItems: async () => [],
      })
      return written.map(({ name, chunks }) => ({ name, text: [...chunks].join('') }))
    },
    async [Symbol.asyncDispose]() {
      await store[Symbol.asyncDispose]()
    },
  }
}

const vm = (
  subject: string,
  id: string,
  name: string,
  seconds: string,
  labels: Record<string, string> = {},
): Usage => {
  const { resource, ...usage } = instance(subject, id, seconds, labels)
  return { ...usage, resource: { kind: resource.kind, id, ...(name !== '' && { name }) } }
}

test('both files have the columns of the script, names summed, the newest status, by the wall clock', async () => {
  await using world = await openWorld()
  await world.read(0, [
    vm('b', 'i-1', 'vm-10', '3600', { status: 'running', organization: 'Old name' }),
    vm('b', 'i-2', 'vm-9', '1', {}),
    vm('a', 'i-3', 'vm, "9"', '0.00036', { status: 'failed', profile_type: 'service' }),
  ])
  await world.read(700, [
    vm('b', 'i-1', 'vm-10', '3600', { status: 'stopped', organization: 'Acme' }),
    vm('b', 'i-4', 'vm-10', '1800', { status: 'stopped', organization: 'Acme' }),
    vm('b', 'i-5', '', '0', { status: 'stopped' }),
  ])
  const [plain, sorted] = await world.files()
  expect([plain?.name, sorted?.name]).toEqual([
    'ncp-metrics-12092025-154146.csv',
    'ncp-metrics-sorted-12092025-154146.csv',
  ])
  expect(sorted?.text.split('\r\n')).toEqual([
    'Organization,Profile Type,Profile,Instance,Usage(h),Status',
    'Acme,compute,small,vm-10,2.5,stopped',
    'Org a,service,small,"vm, ""9""",0.0000001,failed',
    'Org b,compute,small,i-5,0,stopped',
    'Org b,compute,small,vm-9,0.000277777778,',
    '',
  ])
  expect(plain?.text.split('\r\n').toSorted()).toEqual(sorted?.text.split('\r\n').toSorted())
  const header = readFileSync('test/fixtures/rafay/golden/ncp-metrics.csv', 'utf8').split('\r\n')[0]
  expect(plain?.text.split('\r\n')[0]).toBe(header)
})

test('a re-read replaces, a failed read counts for nothing, and what lies outside the period is not in it', async () => {
  await using world = await openWorld()
  await world.read(0, [vm('a', 'i-1', 'gone', '3600'), vm('a', 'i-2', 'kept', '3600')])
  await world.read(0, [vm('a', 'i-2', 'kept', '1800')], hourMs)
  await world.read(1, [vm('a', 'i-2', 'kept', '3600')], 0, { outcome: 'failed' })
  await world.read(-1, [vm('a', 'i-2', 'kept', '3600')])
  await world.read(720, [vm('a', 'i-2', 'kept', '3600')])
  const [, sorted] = await world.files()
  const rows = parse(sorted!.text, { columns: true }) as Record<string, string>[]
  expect(rows.map(row => [row.Instance, row['Usage(h)']])).toEqual([['kept', '0.5']])
})

test('a ledger without usage gives the header alone', async () => {
  await using world = await openWorld()
  const texts = (await world.files()).map(({ text }) => text)
  expect(texts).toEqual(Array(2).fill('Organization,Profile Type,Profile,Instance,Usage(h),Status\r\n'))
})
