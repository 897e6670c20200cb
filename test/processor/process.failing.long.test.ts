/** The processor while ClickHouse fails: it waits and says why, rejects what is poison, and comes to exact answers by itself. */
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { coverage } from '../../processor/coverage.ts'
import { type Processor, type ProcessorLimits, startProcessor } from '../../processor/process.ts'
import { Store } from '../../processor/store.ts'
import { quantities } from '../../processor/usage.ts'
import { type EmbeddedOptions, embeddedLog } from '../../runtime/log/embedded.ts'
import type { EventLog } from '../../runtime/log/log.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { show } from '../../schemas/decimal.ts'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { dayMs } from '../../schemas/window.ts'
import { hourAfterJune1, june1Ms, readOf } from '../reads.ts'
import { startClickHouse, type TestClickHouse } from '../rig/clickhouse.ts'
import { type SlowProxy, slowProxy } from '../rig/slow-proxy.ts'

const meter = defaultMeters.find(({ slug }) => slug === 'instance_hours') as Meter
const soonMs = 40_000
let rig: TestClickHouse
let databases = 0

beforeAll(async () => {
  rig = await startClickHouse()
})
afterAll(async () => {
  await rig?.stop()
})

/** A processor over an outbox of its own and a database of its own. */
class World implements AsyncDisposable {
  readonly dir = mkdtempSync(join(tmpdir(), 'meterline-failing-'))
  readonly outbox = SqliteOutbox.open({ dir: this.dir, access: 'append', nowMs: Date.now })
  readonly stop = new AbortController()
  readonly said: string[] = []
  readonly proxy: SlowProxy
  /** Past the proxy. */
  readonly store: Store
  readonly #proxied: Store
  processor!: Processor
  reads = 0

  private constructor(proxy: SlowProxy, store: Store, proxied: Store) {
    this.proxy = proxy
    this.store = store
    this.#proxied = proxied
  }

  static async open(): Promise<World> {
    const proxy = await slowProxy(rig.url)
    const database = `failing_${process.pid}_${databases++}`
    const store = await Store.open({ ...rig, database })
    const proxied = await Store.open({ ...rig, url: proxy.url, database }, { deadlineMs: 2000 })
    return new World(proxy, store, proxied)
  }

  async process(
    options: {
      readonly limits?: Partial<ProcessorLimits>
      readonly batches?: EmbeddedOptions
      readonly log?: (log: EventLog) => EventLog
    } = {},
  ): Promise<void> {
    const { limits = {}, batches, log = one => one } = options
    this.processor = await startProcessor({
      store: this.#proxied,
      log: log(embeddedLog(this.outbox, batches)),
      meters: [meter],
      signal: this.stop.signal,
      say: line => void this.said.push(line),
      limits: { watchEveryMs: 200, ...limits },
    })
  }

  /** So many reads of the next hours: two readings and a mark each. */
  append(count: number): void {
    for (let read = 0; read < count; read += 1) {
      this.outbox.append(
        readOf({
          scope: `org/${Math.floor(this.reads / 24)}`,
          window: hourAfterJune1(this.reads % 24),
          readings: 2,
        }),
      )
      this.reads += 1
    }
  }

  async taken(): Promise<void> {
    await expect
      .poll(() => this.processor.taken(), { timeout: soonMs, interval: 10 })
      .toBe(BigInt(this.reads * 3))
  }

  async trouble(words: RegExp): Promise<void> {
    await expect
      .poll(() => this.processor.trouble() ?? 'none', { timeout: soonMs, interval: 10 })
      .toMatch(words)
  }

  async noTrouble(): Promise<void> {
    await expect.poll(() => this.processor.trouble(), { timeout: soonMs, interval: 10 }).toBeUndefined()
  }

  async hours(): Promise<string> {
    const span = { startMs: june1Ms, endMs: june1Ms + dayMs }
    const rows = await quantities(this.store, { meter, span, zone: 'UTC', groupBy: [], where: {} })
    return rows.map(row => show(row.quantity)).join()
  }

  /** From the ledger where cells are stale, then from rollups alone. */
  async expectHours(hours: number): Promise<void> {
    expect(await this.hours()).toBe(String(hours))
    await this.processor.fresh(AbortSignal.timeout(soonMs))
    expect(await this.hours()).toBe(String(hours))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop.abort()
    await this.processor?.done.catch(() => undefined)
    await this.#proxied[Symbol.asyncDispose]()
    await this.store[Symbol.asyncDispose]()
    await this.proxy[Symbol.asyncDispose]()
    this.outbox[Symbol.dispose]()
    rmSync(this.dir, { recursive: true, force: true })
  }
}

let world: World

beforeEach(async () => {
  world = await World.open()
})
afterEach(async () => {
  await world[Symbol.asyncDispose]()
})

interface Trouble {
  readonly begin: () => Promise<void> | void
  readonly end: () => Promise<void> | void
  readonly words: RegExp
}

const altered = (table: string, begin: string, end: string): Omit<Trouble, 'words'> => ({
  begin: () => world.store.run(`alter table ${table} modify setting ${begin}`),
  end: () => world.store.run(`alter table ${table} reset setting ${end}`),
})

const troubles: Record<string, Trouble> = {
  'a user who may only read': {
    begin: () => {
      world.proxy.settings = 'readonly=1&'
    },
    end: () => {
      world.proxy.settings = ''
    },
    words: /^STORE_READONLY .*readonly mode/,
  },
  'a disk with no room': {
    ...altered(
      'events',
      `min_free_disk_bytes_to_perform_insert = ${2 ** 60}`,
      'min_free_disk_bytes_to_perform_insert',
    ),
    words: /^STORE_FULL /,
  },
  'too many parts': {
    ...altered(
      'reads',
      'parts_to_delay_insert = 1, parts_to_throw_insert = 1',
      'parts_to_delay_insert, parts_to_throw_insert',
    ),
    words: /^STORE_UNREACHABLE Too many parts/,
  },
}

test.each(Object.entries(troubles))(
  '%s: waited for, red in words while it lasts, and gone over by itself',
  async (_, { begin, end, words }) => {
    await world.process()
    world.append(2)
    await world.taken()
    await begin()
    world.append(4)
    await world.trouble(words)
    expect(await world.hours()).toBe('4')
    await end()
    await world.taken()
    await world.noTrouble()
    await world.expectHours(12)
    expect(world.said.at(-1)).toMatch(/works again$/)
  },
)

test('a server that is slow, then silent, then gone, then back: nothing is lost or doubled', async () => {
  await world.process()
  world.append(2)
  world.proxy.delayMs = 50
  await world.taken()
  world.proxy.delayMs = 0
  world.proxy.mode = 'silent'
  world.append(3)
  await world.trouble(/^STORE_UNREACHABLE ClickHouse: Timeout/)
  world.proxy.mode = 'gone'
  world.proxy.cut()
  world.append(3)
  await world.trouble(/^STORE_UNREACHABLE ClickHouse: .*(hang up|ECONNRESET|closed)/)
  world.proxy.mode = 'pass'
  await world.taken()
  await world.noTrouble()
  await world.expectHours(16)
})

test('a stop does not wait for a server that is silent', async () => {
  await world.process({ limits: { stopWithinMs: 300 } })
  world.append(1)
  await world.taken()
  world.proxy.mode = 'silent'
  world.append(1)
  await world.trouble(/^STORE_UNREACHABLE/)
  const beganMs = performance.now()
  world.stop.abort()
  await world.processor.done
  // Less than the deadline of a statement, which is two seconds here and two minutes by default.
  expect(performance.now() - beganMs).toBeLessThan(1700)
})

test('while the ledger is away no more is taken from the log than the bounds say, in messages or in bytes', async () => {
  for (const limits of [{ waitingMessagesMax: 60 }, { waitingBytesMax: 60 * 900 }]) {
    await using other = await World.open()
    let given = 0
    await other.process({
      limits,
      batches: { rowsMax: 30 },
      log: log => ({
        ...log,
        id: log.id,
        async *batches(options) {
          for await (const batch of log.batches(options)) {
            given += batch.messages.length
            yield batch
          }
        },
      }),
    })
    other.append(1)
    await other.taken()
    given = 0
    other.proxy.mode = 'gone'
    other.proxy.cut()
    other.append(100)
    await other.trouble(/STORE_UNREACHABLE/)
    await expect.poll(() => given, { timeout: soonMs }).toBeGreaterThanOrEqual(60)
    const before = given
    await new Promise(done => setTimeout(done, 300))
    // What is being put, what waits, and one batch that has just come.
    expect([given, given <= 30 + 60 + 30 + 30]).toEqual([before, true])
    other.proxy.mode = 'pass'
    await other.taken()
  }
})

test('of a batch with poison in it the poison is rejected, with the words of ClickHouse, and the rest is in', async () => {
  await world.store.run(`alter table events add constraint poison check
    not (resource_id = 'i-1' and toHour(start) in (2, 3))`)
  await world.store.run(`alter table reads add constraint poison check toHour(start) != 5`)
  world.append(7)
  await world.process()
  await world.taken()
  // Two readings are lacking, so their reads are not whole; so is a mark, and its read was never told of.
  await world.expectHours((7 - 3) * 2)
  const rejected = await world.store.rows<{ code: string; offset: string; reason: string; type: string }>(
    `select code, offset, reason, JSONExtractString(base64Decode(value_base64), 'type') as type
     from rejected final order by offset`,
  )
  expect(rejected.map(({ code, offset, type }) => [code, offset, type])).toEqual([
    ['STORE_POISON', String(2 * 3 + 2), 'io.meterline.rafay.instance.v1'],
    ['STORE_POISON', String(3 * 3 + 2), 'io.meterline.rafay.instance.v1'],
    ['STORE_POISON', String(5 * 3 + 3), 'io.meterline.read.v1'],
  ])
  expect(rejected[0]?.reason).toMatch(/poison.*violated/)
  const span = { startMs: june1Ms, endMs: hourAfterJune1(7).startMs }
  const states = await coverage(world.store, { span, nowMs: june1Ms + dayMs })
  expect(
    states.filter(({ state }) => state !== 'read').map(({ start, state }) => [start.slice(11, 13), state]),
  ).toEqual([
    ['02', 'incomplete'],
    ['03', 'incomplete'],
    ['05', 'never'],
  ])
  // The record of positions has no hole, and counts every message once.
  const positions = await world.store.rows<{
    first: string
    last: string
    messages: string
    rejects: string
  }>(
    'select min(first) as first, max(last) as last, sum(messages) as messages, sum(rejects) as rejects from positions final',
  )
  expect(positions).toEqual([{ first: '1', last: '21', messages: '21', rejects: '3' }])
  expect(world.outbox.depth().rows).toBe(0)
})

test('where one message after another is refused it is not their fault: it halts, and the rest stays in the log', async () => {
  await world.store.run(`alter table events add constraint nothing check resource_id = ''`)
  world.append(20)
  await world.process({ limits: { refusedInARowMax: 3 } })
  await expect(world.processor.done).rejects.toMatchObject({
    code: 'STORE_REFUSED',
    facts: { in_a_row: 4, clickhouse_type: 'VIOLATED_CONSTRAINT' },
  })
  // The first read and half of the second: the marks between them are no proof that readings are taken.
  expect(await world.store.rows('select max(last) as last from positions')).toEqual([{ last: '3' }])
  expect(await world.store.rows('select count() as rejected from rejected')).toEqual([{ rejected: '2' }])
})

test('a table that is gone halts: a person must act', async () => {
  await world.process()
  await world.store.run('drop table reads')
  world.append(1)
  await expect(world.processor.done).rejects.toMatchObject({
    code: 'STORE_REFUSED',
    facts: { clickhouse_type: 'UNKNOWN_TABLE' },
  })
})

test('a ledger put back to an older copy, with log and cursor as they are, is noticed and read again while running', async () => {
  const copy = join(world.dir, 'copy')
  await world.process()
  world.append(4)
  await world.taken()
  await rig.whileDead(directory => cpSync(directory, copy, { recursive: true }))
  world.append(4)
  await world.taken()
  await world.expectHours(16)
  await rig.whileDead(directory => {
    rmSync(directory, { recursive: true })
    cpSync(copy, directory, { recursive: true })
  })
  // Nothing comes that would have to be put behind what is lost.
  await expect.poll(() => world.hours().catch(() => 'away'), { timeout: soonMs }).toBe('16')
  world.append(1)
  await expect.poll(() => world.hours(), { timeout: soonMs }).toBe('18')
  await world.expectHours(18)
  expect(world.said).toContain(
    'ledger: it was put back to an older copy: the log is read again from where that ends',
  )
  await world.noTrouble()
  const [row] = await world.store.rows(
    'select count() as n, uniqExact(identity, readat) as ids from events final',
  )
  expect(row).toEqual({ n: '18', ids: '18' })
}, 120_000)

test('a log that gives nothing though it lags, or says no more how far it is, or pauses a partition: red', async () => {
  let state = async () => ({ lag: 5n, partitions: [0] }) as Awaited<ReturnType<EventLog['state']>>
  await world.process({
    limits: { watchEveryMs: 50, stuckAfterMs: 400, silentAfterMs: 400 },
    log: log => ({ ...log, id: log.id, state: () => state() }),
  })
  await world.trouble(/^stuck: nothing was acknowledged for \d+ s, and 5 messages wait$/)
  state = async () => ({ lag: 0n, partitions: [0], paused: [0] })
  await world.trouble(/^paused: partitions 0 are not read$/)
  state = async () => ({ lag: 0n, partitions: [0], problem: 'its group has thrown it out' })
  await world.trouble(/^the log: its group has thrown it out$/)
  state = () => new Promise(() => undefined)
  await world.trouble(/the log has not said for \d+ s how far it is/)
})
