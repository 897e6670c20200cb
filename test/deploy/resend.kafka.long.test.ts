/** What the outbox has sent and the ledger lacks: sent again where it is kept, due again where it is not. A real Kafka and ClickHouse. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { dueWindows } from '../../collector/schedule.ts'
import { isClean, Resending, type ResendReport, resendMissing } from '../../deploy/resend.ts'
import { startProcessor } from '../../processor/process.ts'
import { Store } from '../../processor/store.ts'
import { Health } from '../../runtime/health.ts'
import type { KafkaConfig } from '../../runtime/log/kafka.ts'
import { kafkaEventLog, kafkaLogStart } from '../../runtime/log/kafka-event-log.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { partitionOf } from '../../runtime/log/partition.ts'
import { openLog } from '../../runtime/logs.ts'
import { Fault } from '../../schemas/fault.ts'
import { dayMs, hourMs, minuteMs } from '../../schemas/window.ts'
import { drained } from '../collector/relayed.ts'
import { hourAfterJune1, june1Ms, readOf, testSource } from '../reads.ts'
import { startClickHouse, type TestClickHouse } from '../rig/clickhouse.ts'
import { type KafkaRig, startKafka } from '../rig/kafka.ts'
import { asAdmin, freshConfig, truncate } from '../rig/kafka-topics.ts'
import { expectExact, ledgerHasAll, relayOn } from '../runtime/log/into-ledger.ts'

let kafka: KafkaRig
let clickhouse: TestClickHouse
let store: Store
let dir: string
let config: KafkaConfig
let outbox: SqliteOutbox
let nowMs: number
let reads: number
let faults: Fault[]

const span = { startMs: june1Ms, endMs: june1Ms + 3 * dayMs }
const readings = 5
const scopes = ['a', 'b', 'c']
const noon = june1Ms + 12 * hourMs

beforeAll(async () => {
  ;[kafka, clickhouse] = await Promise.all([startKafka(), startClickHouse()])
}, 300_000)
afterAll(async () => {
  await kafka?.stop()
  await clickhouse?.stop()
})
beforeEach(async () => {
  store = await Store.open(clickhouse)
  dir = mkdtempSync(join(tmpdir(), 'meterline-resend-'))
  config = freshConfig(kafka, { partitions: 2 })
  nowMs = span.endMs
  reads = 0
  faults = []
  outbox = SqliteOutbox.open({
    dir,
    access: 'append',
    partitions: { count: 2, of: key => partitionOf(key, 2) },
    nowMs: () => nowMs,
  })
  outbox.see(
    testSource,
    scopes.map(scope => ({ scope })),
    june1Ms,
  )
})
afterEach(async () => {
  outbox[Symbol.dispose]()
  for (const table of ['events', 'reads', 'positions', 'passed', 'stale', 'cells', 'decisions'])
    await store.run(`truncate table ${table}`)
  await store[Symbol.asyncDispose]()
  rmSync(dir, { recursive: true, force: true })
})

/** A read of each of these hours after June 1, in three scopes. */
function readHours(from: number, to: number): void {
  for (let hour = from; hour < to; hour += 1)
    for (const scope of scopes) {
      outbox.append(
        readOf({ scope, window: hourAfterJune1(hour), readings, settled: true, readatMs: nowMs + reads }),
      )
      reads += 1
    }
}

/** Sends what waits. */
async function send(): Promise<void> {
  const stop = new AbortController()
  const relaying = relayOn(outbox, config, stop.signal)
  await drained(outbox)
  stop.abort()
  await relaying
}

/** Lets a processor take in all that the log has. */
async function takeIn(): Promise<void> {
  await using log = await kafkaEventLog(config, { onFault: fault => void faults.push(fault) })
  const stop = new AbortController()
  const processor = await startProcessor({ store, log, meters: [], signal: stop.signal, say: () => {} })
  const bounds = await asAdmin(kafka, admin => admin.fetchTopicOffsets(config.topic))
  const ends = new Map(
    bounds.filter(one => one.low !== one.high).map(one => [one.partition, BigInt(one.high)]),
  )
  await ledgerHasAll(store, ends, 30_000)
  stop.abort()
  await processor.done
}

async function compare(): Promise<ResendReport> {
  const log = { ...(await kafkaLogStart(config)), resends: true }
  const sources = [{ name: testSource, retentionMs: 90 * dayMs }]
  return await resendMissing({ outbox, store, log, sources, nowMs, pastMs: Number.POSITIVE_INFINITY })
}

/** Retention takes all that the log has now. */
async function retentionTakesAll(): Promise<void> {
  for (const partition of [0, 1]) await truncate(kafka, config.topic, partition, -1)
}

const exact = () => expectExactReads(reads)
const expectExactReads = (count: number) =>
  expectExact(store, outbox, { reads: count, readings: count * readings, span })

test('what the log lost before the ledger had it is sent again by the outbox, once', async () => {
  readHours(0, 10)
  await send()
  await takeIn()
  readHours(10, 20)
  await send()
  await retentionTakesAll()

  // The ledger stands before the log's beginning: nobody has to wait for the next message to know what is gone.
  const first = await compare()
  expect(first).toMatchObject({
    rowsMissing: 30 * (readings + 1),
    rowsResent: 30 * (readings + 1),
    windowsDue: [],
  })
  expect(await compare(), 'what is on its way is not missing').toMatchObject({
    rowsMissing: 0,
    rowsResent: 0,
  })
  await send()
  await takeIn()
  expect(faults.map(fault => fault.code)).toEqual(['LOG_TRUNCATED', 'LOG_TRUNCATED'])
  expect(isClean(await compare())).toBe(true)
  await exact()
})

test('what no outbox keeps is due again, and its read sends everything', async () => {
  readHours(0, 4)
  await send()
  await takeIn()
  readHours(4, 8)
  await send()
  await retentionTakesAll()
  nowMs += 8 * dayMs
  while (outbox.purge() > 0);
  readHours(8, 9)
  const due = () =>
    dueWindows({
      plan: { widthMinutes: 60, rereadAfterMs: [hourMs], retentionMs: 90 * dayMs },
      scopes: outbox.memory
        .scopes(testSource)
        .map(scope => ({ ...scope, endedMs: hourAfterJune1(9).startMs })),
      nowMs,
      fromMs: june1Ms,
      limit: 1000,
    }).due.map(({ scope, window, why }) => [scope, (window.startMs - june1Ms) / hourMs, why])
  expect(outbox.memory.scope(testSource, 'a')?.settled).toEqual([
    { startMs: june1Ms, endMs: hourAfterJune1(9).startMs },
  ])
  const report = await compare()
  expect(report.rowsMissing).toBe(0)
  expect(report.windowsDue.map(window => [window.scope, (window.startMs - june1Ms) / hourMs])).toEqual(
    scopes.flatMap(scope => [4, 5, 6, 7].map(hour => [scope, hour])),
  )
  expect(report.windowsUnderWay, 'of the last hour rows wait').toBe(3)
  expect(due().toSorted()).toEqual(scopes.flatMap(scope => [4, 5, 6, 7].map(hour => [scope, hour, 'missed'])))
  expect(await compare(), 'what is due again is not so twice').toMatchObject({ windowsDue: [] })
})

test('a day that the ledger lost is sent again; of readings alone their windows are due again', async () => {
  readHours(0, 48)
  await send()
  await takeIn()
  await exact()
  for (const table of ['events', 'reads'])
    await store.run(`delete from ${table} where start < '2025-06-02 00:00:00'`)
  await store.run(`delete from events where start = '2025-06-02 12:00:00' and scope = 'b'`)

  const report = await compare()
  expect(report).toMatchObject({ rowsMissing: 72 * (readings + 1), rowsResent: 72 * (readings + 1) })
  expect(report.windowsDue).toEqual([
    { source: testSource, scope: 'b', startMs: noon + dayMs, endMs: noon + dayMs + hourMs },
  ])
  await send()
  await takeIn()
  const readatMs = outbox.memory.nextReadatMs(
    testSource,
    'b',
    { startMs: noon + dayMs, endMs: noon + dayMs + hourMs },
    0,
  )
  expect(readatMs, 'readat does not go back').toBeGreaterThan(nowMs)
  // A read under a later readat brings its readings back.
  outbox.append(readOf({ scope: 'b', window: hourAfterJune1(36), readings, settled: true, readatMs }))
  await send()
  await takeIn()
  expect(isClean(await compare())).toBe(true)
  const [counted] = await store.rows<{ readings: string }>(
    `select count() as readings from events final where (source, scope, start, readat) in
       (select source, scope, start, argMax(content_readat, readat) from reads final where held group by source, scope, start)`,
  )
  expect(counted?.readings).toBe(String(reads * readings))
})

test('a fresh ledger gets what the log no longer has from the outbox', async () => {
  readHours(0, 10)
  await send()
  await retentionTakesAll()
  readHours(10, 12)
  await send()
  await takeIn()
  expect(await compare()).toMatchObject({ rowsMissing: 30 * (readings + 1) })
  await send()
  await takeIn()
  expect(isClean(await compare())).toBe(true)
  await exact()
})

test('what the ledger rejected, or has from elsewhere, is not sent for ever', async () => {
  readHours(0, 2)
  outbox.push([
    { source: 'theirs', key: 'k', id: 'one', value: Buffer.from('no JSON') },
    { source: 'theirs', key: 'k', id: 'two', value: Buffer.from('{"specversion":"1.0"}') },
  ])
  await send()
  await takeIn()
  expect(await compare()).toMatchObject({ rowsMissing: 0 })
})

test('a loss turns readiness red until all of it is on its way, and one that cannot be compared says so', async () => {
  readHours(0, 3)
  await send()
  await takeIn()
  readHours(3, 6)
  await send()
  await retentionTakesAll()
  const health = new Health()
  const stop = new AbortController()
  let isAway = true
  const resending = new Resending({
    open: async () => {
      if (isAway) throw new Error('the store is away')
      const log = { ...(await kafkaLogStart(config)), resends: true }
      return {
        outbox,
        store,
        log,
        sources: [{ name: testSource, retentionMs: 90 * dayMs }],
        close: async () => {},
      }
    },
    health,
    log: openLog({ level: 'fatal', role: 'test' }),
    nowMs: () => nowMs,
    signal: stop.signal,
    recentMs: 7 * dayMs,
    firstMs: 50,
    everyMs: minuteMs,
  })
  const running = resending.run()
  const says = async (what: RegExp | 'ok') => {
    for (let waitedMs = 0; waitedMs < 15_000; waitedMs += 20) {
      const said = health.results().resend ?? ''
      if (what === 'ok' ? said === 'ok' : what.test(said)) return
      await sleep(20)
    }
    throw new Error(`resend: ${health.results().resend}`)
  }
  await says(/could not be compared/)
  isAway = false
  resending.lost(new Fault('LOG_TRUNCATED', 'the ledger lacks offsets'))
  await says(/LOG_TRUNCATED/)
  await says('ok')
  expect(outbox.depth().rows).toBe(9 * (readings + 1))
  stop.abort()
  await running
  await send()
  await takeIn()
  await exact()
})
