/** The processor's loop over an outbox and a real ClickHouse: nothing waits for a next batch, and a killed engine is waited for. */
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Catalogue } from '../../processor/catalogue.ts'
import { Ledger } from '../../processor/ledger.ts'
import { type Processor, startProcessor } from '../../processor/process.ts'
import { buildsOf, registerMeters } from '../../processor/rollups.ts'
import { Store } from '../../processor/store.ts'
import { quantities } from '../../processor/usage.ts'
import { embeddedLog } from '../../runtime/log/embedded.ts'
import type { EventLog, LogBatch } from '../../runtime/log/log.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { show } from '../../schemas/decimal.ts'
import { Fault } from '../../schemas/fault.ts'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { dayMs, hourMs } from '../../schemas/window.ts'
import { batchOf, hourAfterJune1, instance, june1Ms, readEvents, readOf } from '../reads.ts'
import { startClickHouse, type TestClickHouse } from '../rig/clickhouse.ts'

const meter = defaultMeters.find(({ slug }) => slug === 'instance_hours') as Meter
let dir: string
let rig: TestClickHouse
let store: Store
let outbox: SqliteOutbox
let processor: Processor
let stop: AbortController
let said: string[]

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-process-'))
  rig = await startClickHouse()
  store = await Store.open(rig)
  outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: Date.now })
  said = []
  await start()
})
afterEach(async () => {
  stop.abort()
  await processor.done
  await store[Symbol.asyncDispose]()
  outbox[Symbol.dispose]()
  await rig.stop()
  rmSync(dir, { recursive: true, force: true })
})

async function start(log: EventLog = embeddedLog(outbox)): Promise<void> {
  stop = new AbortController()
  processor = await startProcessor({
    store,
    log,
    meters: [meter],
    signal: stop.signal,
    say: line => void said.push(line),
  })
}

async function hours(): Promise<string> {
  const span = { startMs: june1Ms, endMs: june1Ms + dayMs }
  const rows = await quantities(store, { meter, span, zone: 'UTC', groupBy: [], where: {} })
  return rows.map(row => show(row.quantity)).join()
}

async function taken(count: number, limitMs: number): Promise<void> {
  const untilMs = performance.now() + limitMs
  while (processor.taken() < BigInt(count) && performance.now() < untilMs) await sleep(5)
  expect(processor.taken()).toBe(BigInt(count))
}

test('what comes at any moment is in every answer soon after, without waiting for more to come', async () => {
  let messages = 0
  for (let hour = 0; hour < 24; hour += 1) {
    outbox.append(readOf({ window: hourAfterJune1(hour), readings: 2 }))
    messages += 3
    // Now and then the next read comes while the one before is on its way into the ledger, or just when it arrives.
    if (hour % 3 !== 0) await taken(messages, 20_000)
    else await sleep(hour * 4)
  }
  await taken(messages, 20_000)
  expect(await hours()).toBe('48')
  await processor.fresh(AbortSignal.timeout(20_000))
  expect(await hours()).toBe('48')
  expect(outbox.depth().rows).toBe(0)
})

test('an engine that is killed is waited for, said so, and nothing is lost or doubled', async () => {
  for (let hour = 0; hour < 12; hour += 1) {
    outbox.append(readOf({ window: hourAfterJune1(hour), readings: 2 }))
    if (hour % 4 === 1) await rig.kill()
    await sleep(100)
  }
  await taken(36, 60_000)
  expect(await hours()).toBe('24')
  expect(said.join('\n')).toMatch(/STORE_UNREACHABLE[\s\S]*works again/)
  expect(processor.trouble()).toBeUndefined()
})

test('it begins with the meters made by API as well, and without those that are none any more', async () => {
  stop.abort()
  await processor.done
  const catalogue = new Catalogue(store, [meter], Date.now)
  for (const slug of ['made', 'removed']) await catalogue.create({ ...meter, slug })
  await catalogue.remove('removed')
  // As a copy of the store from in between would have it.
  await store.run('truncate table builds')
  await registerMeters(store, [{ ...meter, slug: 'removed' }])
  await start()
  const builds = await buildsOf(store)
  expect(builds.map(build => `${build.meter.slug} ${build.state}`).sort()).toEqual([
    'instance_hours ready',
    'made ready',
    'removed retired',
  ])
})

/** A log of these batches; what it was told to commit is kept. */
class GivenLog implements EventLog {
  readonly id: string
  readonly committed: LogBatch[] = []
  readonly #given: readonly LogBatch[]

  constructor(id: string, given: readonly LogBatch[]) {
    this.id = id
    this.#given = given
  }

  async *batches({ resumeAt, signal }: Parameters<EventLog['batches']>[0]) {
    const next = (await resumeAt(0)) ?? 0n
    for (const batch of this.#given) if ((batch.messages[0]?.offset ?? 0n) >= next) yield batch
    if (!signal.aborted) await once(signal, 'abort')
  }

  async commit(batch: LogBatch): Promise<void> {
    this.committed.push(batch)
  }

  async state() {
    return { lag: 0n, partitions: [0] }
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

test('what becomes of a read does not depend on how messages came in batches', async () => {
  const cuts = [[6], [1, 1, 1, 1, 1, 1], [2, 4], [3, 3], [5, 1]]
  for (const [index, cut] of cuts.entries()) {
    stop.abort()
    await processor.done
    // The mark of the first read comes before one of its readings, and a newer read, which says less, in between.
    const read = { source: `meterline/rafay/cut${index}`, scope: 'compute', window: hourAfterJune1(0) }
    const [a, b] = [instance('acme', 'a', '3600'), instance('acme', 'b', '3600')]
    const [early, late, mark] = readEvents({ ...read, readatMs: june1Ms + 2 * hourMs }, [a, b])
    const newer = readEvents({ ...read, readatMs: june1Ms + 3 * hourMs }, [a])
    const { messages } = batchOf([early, mark, ...newer, late, mark] as never, 0)
    const left = [...messages]
    const given = cut.map(size => ({ partition: 0, messages: left.splice(0, size) }))
    const log = new GivenLog(`cut${index}`, given)
    await start(log)
    await taken(6, 20_000)
    await expect.poll(() => log.committed, { timeout: 5000 }).toEqual(given)
    const reads = await store.rows(
      `select toString(offset) as offset, held, suspect, toString(counts_from) as counts_from from reads final
       where source = {source:String} order by reads.offset`,
      { source: read.source },
    )
    expect(reads, cut.join()).toEqual([
      { offset: '1', held: true, suspect: false, counts_from: '5' },
      { offset: '3', held: true, suspect: false, counts_from: '3' },
    ])
  }
})

/** The store, but that readings go in only where `look` does not throw. */
function refusingReadings(look: (rows: Buffer) => void): Store {
  const refusing = Object.create(store) as Store
  // The ledger puts readings in by this alone.
  refusing.insertBlocks = async (table, blocks) => {
    if (blocks.length > 0) look(Buffer.concat(blocks))
    await store.insertBlocks(table, blocks)
  }
  for (const method of ['insert', 'rows', 'run', 'insertWhere'] as const)
    refusing[method] = store[method].bind(store) as never
  return refusing
}

test('nothing goes in behind what the ledger could not take before a stop', async () => {
  stop.abort()
  await processor.done
  const [first, second, third] = [0, 1, 2].map(hour => {
    const read = { source: 'meterline/rafay/stopped', scope: 'compute', window: hourAfterJune1(hour) }
    const events = readEvents({ ...read, readatMs: june1Ms + 24 * hourMs }, [instance('acme', 'a', '3600')])
    return batchOf(events, 2 * hour)
  }) as [LogBatch, LogBatch, LogBatch]
  // The ledger has the first, refuses the second until the stop, and would take the third.
  const puts: unknown[] = []
  const refusing = refusingReadings(rows => {
    puts.push(rows)
    if (puts.length === 2) throw new Fault('STORE_UNREACHABLE', 'it is away')
    if (puts.length === 3) stop.abort()
    if (puts.length === 3) throw new Fault('STORE_UNREACHABLE', 'it is still away')
  })
  const log = new GivenLog('stopped', [first])
  log.batches = async function* ({ resumeAt }) {
    await resumeAt(0)
    yield first
    await expect.poll(() => puts.length).toBe(1)
    yield second
    await expect.poll(() => puts.length).toBe(2)
    yield third
  }
  stop = new AbortController()
  const { signal } = stop
  const options = { log, meters: [meter], signal, say: () => undefined }
  await (await startProcessor({ ...options, store: refusing })).done
  expect(log.committed).toEqual([first])
  expect(await new Ledger(store, 'stopped').resumeAt(0)).toBe(2n)
})

test('a batch with poison in it is taken apart also where its readings came twice, the second time behind their mark', async () => {
  stop.abort()
  await processor.done
  const read = { source: 'meterline/rafay/apart', scope: 'compute', readatMs: june1Ms + 24 * hourMs }
  const whole = readEvents({ ...read, window: hourAfterJune1(0) }, [instance('acme', 'a', '3600')])
  const poison = readEvents({ ...read, window: hourAfterJune1(1) }, [instance('poison', 'b', '3600')])
  // The second half begins with a mark, and has its reading behind it, which the first half has as well.
  const batch = batchOf([...poison, ...whole, ...whole], 0)
  const refusing = refusingReadings(rows => {
    if (rows.includes('poison')) throw new Fault('STORE_REFUSED', 'it is poison', { clickhouse_code: '117' })
  })
  const log = new GivenLog('apart', [batch])
  stop = new AbortController()
  const { signal } = stop
  const options = { log, meters: [meter], signal, say: () => undefined }
  processor = await startProcessor({ ...options, store: refusing })
  await taken(batch.messages.length, 20_000)
  await expect.poll(() => log.committed, { timeout: 5000 }).toEqual([batch])
  expect(await hours()).toBe('1')
  const rejected = await store.rows(
    `select code, toString(offset) as offset from rejected where log = 'apart'`,
  )
  expect(rejected).toEqual([{ code: 'STORE_POISON', offset: '0' }])
})
