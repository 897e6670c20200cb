/**
 * The collector while things fail around it: its disk full or fresh or damaged, its clock wrong, its provider hung or
 * shrinking, its key rotated, its log away for a day, and a second collector that is behind.
 */
import { cpSync, mkdtempSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { OpenedSource } from '../../collector/collect.ts'
import type { CollectorOptions } from '../../collector/collector.ts'
import { relay } from '../../collector/relay.ts'
import type { Source } from '../../collector/source.ts'
import { RafayConfig, rafay } from '../../collector/sources/rafay.ts'
import { type RafayFixture, rafayDemoKey, startRafayDouble } from '../../deploy/demo/rafay.ts'
import { startProcessor } from '../../processor/process.ts'
import { Store } from '../../processor/store.ts'
import { quantities } from '../../processor/usage.ts'
import { Health } from '../../runtime/health.ts'
import { openHttp } from '../../runtime/http.ts'
import { embeddedLog } from '../../runtime/log/embedded.ts'
import type { OutboxRow } from '../../runtime/log/log.ts'
import { type OutboxOptions, SqliteOutbox } from '../../runtime/log/outbox.ts'
import { openLog } from '../../runtime/logs.ts'
import { readSecret } from '../../runtime/secrets.ts'
import { misfits } from '../../schemas/check.ts'
import { show } from '../../schemas/decimal.ts'
import type { MarkEvent, ReadingEvent } from '../../schemas/event.ts'
import { Fault } from '../../schemas/fault.ts'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { dayMs, hourMs, minuteMs, secondMs, windowsOver } from '../../schemas/window.ts'
import { hourAfterJune1, june1Ms, readOf } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { mountSmallDisk } from '../rig/small-disk.ts'
import { type Looping, startLoop, until } from './looping.ts'
import { Provider } from './provider.ts'
import { sourceContext } from './source-context.ts'

type Event = MarkEvent | ReadingEvent
const log = openLog({ level: 'silent', role: 'test' })
const everything = { rowsMax: 1e6, bytesMax: 1e9 }
let dir: string
let provider: Provider
let health: Health
let clockMs: number
let faults: Fault[]
let cleanup: (() => unknown)[]

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-failures-'))
  provider = new Provider()
  health = new Health()
  clockMs = june1Ms
  faults = []
  cleanup = [() => rmSync(dir, { recursive: true, force: true })]
})
afterEach(async () => {
  for (const end of cleanup.reverse()) await end()
})

function open(options: Partial<OutboxOptions> = {}): SqliteOutbox {
  const onFault = (fault: Fault) => faults.push(fault)
  const outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: () => clockMs, onFault, ...options })
  cleanup.push(() => outbox[Symbol.dispose]())
  return outbox
}

/** Starts the loop over an outbox. `end` stops it and waits for its end. */
function start(outbox: SqliteOutbox, options: Partial<CollectorOptions> = {}): Looping {
  const loop = { outbox, health, log, nowMs: () => clockMs, restMsMax: 20 }
  const looping = startLoop({ sources: [provider.opened()], ...loop, ...options })
  cleanup.push(() => looping.end().catch(() => undefined))
  return looping
}

const eventsOf = (rows: readonly { readonly value: Buffer }[]): Event[] =>
  rows.map(row => JSON.parse(row.value.toString()))
const stored = (outbox: SqliteOutbox) => eventsOf(outbox.rowsFrom(0, everything))

/** What counts, by the rule of the ledger: of each window `scope hour` the seconds in its newest complete read. */
function currentOf(events: readonly Event[]): Map<string, number> {
  const marks = new Map<string, MarkEvent>()
  const place = (event: Event) => `${event.scope} ${(Date.parse(event.time) - june1Ms) / hourMs}`
  const isMark = (event: Event): event is MarkEvent => event.type === 'io.meterline.read.v1'
  for (const event of events.filter(isMark))
    if (event.scope !== '*' && event.data.outcome === 'complete') {
      const before = marks.get(place(event))
      if (!before || before.readat < event.readat) marks.set(place(event), event)
    }
  const readings = Map.groupBy(
    events.filter((event): event is ReadingEvent => !isMark(event)),
    event => `${place(event)} ${event.readat}`,
  )
  return new Map(
    [...marks].map(([at, mark]) => {
      const held = readings.get(`${at} ${mark.data.repeats ?? mark.readat}`) ?? []
      const byId = new Map(held.map(reading => [reading.id, reading]))
      expect(byId.size).toBe(mark.data.events)
      const seconds = [...byId.values()].map(reading => Number(reading.data.measures.instance_seconds))
      return [at, seconds.reduce((sum, each) => sum + each, 0)]
    }),
  )
}

const wholeHours = (scopes: readonly string[], hours: number, from = 0) =>
  new Map(
    scopes.flatMap(scope =>
      Array.from({ length: hours }, (_, hour) => [`${scope} ${from + hour}`, 3600] as const),
    ),
  )
const sorted = (map: ReadonlyMap<string, number>) => [...map].sort(([a], [b]) => (a < b ? -1 : 1))

describe('its disk', () => {
  test('is full: reading stops, health says so, nothing is lost, and it goes on by itself when there is room', async () => {
    using disk = mountSmallDisk(4)
    provider.scopes = Array.from({ length: 12 }, (_, index) => ({ scope: `s${index}` }))
    const outbox = open({ dir: disk.dir })
    cleanup.pop()
    try {
      const running = start(outbox, { sources: [provider.opened({ rereadAfterMs: [] })] })
      await until(() => provider.listings > 0)
      clockMs += hourMs + minuteMs
      await until(() => currentOf(stored(outbox)).size === 12)
      const before = stored(outbox)
      disk.fill()
      clockMs += 3 * hourMs
      await until(() => health.problems().some(problem => /^outbox: OUTBOX_FULL .*disk/.test(problem)))
      const calls = provider.calls.length
      await sleep(2500)
      // Some tries, ever rarer, and not one for each window that waits.
      expect(provider.calls.length - calls).toBeLessThan(40)
      expect(stored(outbox).slice(0, before.length)).toEqual(before)
      disk.free()
      await until(() => currentOf(stored(outbox)).size === 48, 60_000)
      await until(() => health.problems().length === 0)
      expect(sorted(currentOf(stored(outbox)))).toEqual(
        sorted(
          wholeHours(
            provider.scopes.map(({ scope }) => scope),
            4,
          ),
        ),
      )
      await running.end()
    } finally {
      outbox[Symbol.dispose]()
    }
  })

  test('is full at the start: it fails in words, and starts when there is room', () => {
    using disk = mountSmallDisk(1)
    disk.fill()
    expect(() => open({ dir: disk.dir })).toThrow(/full|OUTBOX/)
    disk.free()
    using outbox = open({ dir: disk.dir })
    cleanup.pop()
    expect(outbox.depth().rows).toBe(0)
  })

  test('is fresh: all that the provider still knows of what it lists is read again', async () => {
    provider.scopes = [{ scope: 'a', sinceMs: june1Ms - 90 * dayMs }]
    const outbox = open()
    const sources = [provider.opened({ rereadAfterMs: [], retentionMs: 3 * dayMs })]
    start(outbox, { sources })
    await until(() => currentOf(stored(outbox)).size === 71)
    expect(sorted(currentOf(stored(outbox)))).toEqual(sorted(wholeHours(['a'], 71, -72)).slice(0))
  })

  test('damages the file while it runs: it ends with that, and begun anew everything is there again', async () => {
    provider.scopes = [{ scope: 'a' }]
    const outbox = open()
    outbox.see('meterline/test/one', [{ scope: 'a' }], june1Ms)
    // More than SQLite keeps of it in memory.
    for (let hour = 0; hour < 500; hour += 1)
      outbox.append(readOf({ scope: 'other', window: hourAfterJune1(hour), readings: 9, labelBytes: 900 }))
    const waiting = outbox.depth().rows
    clockMs += 6 * hourMs + minuteMs
    const sources = [provider.opened({ rereadAfterMs: [] })]
    const running = start(outbox, { sources, checkEveryMs: 300 })
    await until(() => provider.calls.length >= 6)
    const file = join(dir, 'outbox.db')
    truncateSync(file, Math.floor(statSync(file).size / 2 / 4096) * 4096)
    await expect(running.run).rejects.toMatchObject({ code: 'OUTBOX_DAMAGED' })
    outbox[Symbol.dispose]()

    const fresh = open()
    expect(faults).toMatchObject([{ code: 'OUTBOX_DAMAGED' }])
    expect(readdirSync(dir).filter(name => name.startsWith('outbox.db.damaged-'))).not.toEqual([])
    expect(fresh.depth().rows).toBeGreaterThan(waiting / 4)
    start(fresh, { sources })
    await until(() => [...currentOf(stored(fresh)).keys()].filter(at => at.startsWith('a ')).length === 6)
  })
})

describe('its clock', () => {
  test('jumps a day ahead and back, and a day behind: each window ends with what was used, under readats that rise', async () => {
    // The provider has the right time: it knows what was used so far.
    let trueMs = june1Ms
    provider.scopes = [{ scope: 'a' }, { scope: 'b' }]
    provider.items = (_, { startMs, endMs }) => [
      { id: 'i', subject: 'org', seconds: String(Math.max(0, Math.min(endMs, trueMs) - startMs) / secondMs) },
    ]
    const outbox = open()
    start(outbox, { sources: [provider.opened({ rereadAfterMs: [hourMs] })] })
    await until(() => provider.listings > 0)
    for (const [hours, wrongMs] of [
      [5, 0],
      [3, dayMs],
      [4, 0],
      [3, -dayMs],
      [30, 0],
    ] as const)
      for (let hour = 0; hour < hours; hour += 1) {
        trueMs += hourMs
        clockMs = trueMs + wrongMs + minuteMs
        await sleep(80)
      }
    const hours = (trueMs - june1Ms) / hourMs
    const expected = sorted(wholeHours(['a', 'b'], hours))
    await until(
      () =>
        JSON.stringify(
          sorted(currentOf(stored(outbox))).filter(([at]) => Number(at.split(' ')[1]) < hours),
        ) === JSON.stringify(expected),
    )
    const readats = new Map<string, string>()
    for (const event of stored(outbox))
      if (event.type === 'io.meterline.read.v1') {
        const at = `${event.scope} ${event.time}`
        expect(event.readat > (readats.get(at) ?? '')).toBe(true)
        readats.set(at, event.readat)
      }
  })
})

describe('its provider', () => {
  const fixture = (): RafayFixture => ({
    organizations: [{ id: 'aaaaaa1', name: 'A', slug: 'a' }],
    profiles: [
      { id: 'p1', name: 'small', kind: 'compute' },
      { id: 'p2', name: 'big', kind: 'compute' },
    ],
    instances: Array.from({ length: 6 }, (_, index) => ({
      id: `i${index}`,
      name: `vm-${index}`,
      organizationId: 'aaaaaa1',
      profileId: index % 2 === 0 ? 'p1' : 'p2',
      startMs: june1Ms,
    })),
    tokens: [],
  })

  async function rafayOf(options: { config?: object; secret?: () => string; deadlineMs?: number } = {}) {
    const double = await startRafayDouble({ fixture: fixture(), nowMs: () => clockMs })
    const http = openHttp({ retries: 0, deadlineMs: options.deadlineMs ?? 2000 })
    const config: unknown = {
      name: 'one',
      apiKey: '${env:KEY}',
      url: double.url,
      dialect: 'console',
      rereadAfterMinutes: [1],
      ...options.config,
    }
    // Which also fills in what is not given.
    expect(misfits(RafayConfig, config)).toEqual([])
    const source = rafay.open(
      config as RafayConfig,
      sourceContext({
        http,
        secret: options.secret ?? (() => rafayDemoKey),
        nowMs: () => clockMs,
      }),
    )
    cleanup.push(
      () => http[Symbol.asyncDispose](),
      () => double.close(),
    )
    const opened: OpenedSource = {
      kind: 'rafay',
      name: 'one',
      source: source as Source<unknown>,
      fromMs: june1Ms,
    }
    return { double, opened }
  }
  const failuresOf = (outbox: SqliteOutbox) =>
    stored(outbox).flatMap(event =>
      event.type === 'io.meterline.read.v1' && 'fault' in event.data
        ? [`${event.scope} ${event.data.fault?.code}`]
        : [],
    )
  const scopes = ['aaaaaa1/big', 'aaaaaa1/small']
  const threeEach = (hours: number) =>
    sorted(new Map([...wholeHours(scopes, hours).keys()].map(at => [at, 3 * 3600])))

  test('hangs and is slow for one scope: that is a gap, all else is read, and the gap is closed when it answers', async () => {
    const { double, opened } = await rafayOf({ deadlineMs: 400 })
    double.behaviour.faults.push({ endpoint: 'usage', profile: 'big', answer: 'hang' })
    double.behaviour.latencyMs = 100
    const outbox = open()
    start(outbox, { sources: [opened] })
    clockMs += 4 * hourMs + 2 * minuteMs
    await until(() => currentOf(stored(outbox)).size === 4 && failuresOf(outbox).length > 0)
    expect(new Set(failuresOf(outbox))).toEqual(new Set(['aaaaaa1/big SOURCE_UNREACHABLE']))
    double.behaviour.faults.length = 0
    // What failed rests, then is tried again.
    await until(() => {
      clockMs += minuteMs
      return currentOf(stored(outbox)).size >= 8
    })
    const hours = 4
    expect(sorted(currentOf(stored(outbox))).filter(([at]) => Number(at.split(' ')[1]) < hours)).toEqual(
      threeEach(hours),
    )
  })

  test('has its key rotated under it: the file is read again, and it goes on without a restart', async () => {
    const file = join(dir, 'key')
    writeFileSync(file, 'the old key\n')
    const secret = () => readSecret(`\${file:${file}}`, { env: {}, option: 'apiKey' })
    const { opened } = await rafayOf({ secret })
    const outbox = open()
    start(outbox, { sources: [opened] })
    clockMs += hourMs + 2 * minuteMs
    await until(() => failuresOf(outbox).includes('* SOURCE_DENIED'))
    // While it is written it is empty for a moment: that is a failure like others.
    writeFileSync(file, '')
    await sleep(200)
    writeFileSync(file, `${rafayDemoKey}\n`)
    await until(() => currentOf(stored(outbox)).size === 2)
    expect(sorted(currentOf(stored(outbox)))).toEqual(threeEach(1))
    await until(() => health.problems().length === 0)
  })

  test('shrinks and grows between two pages: what counts is one of its answers, never a part of one', async () => {
    const { double, opened } = await rafayOf({ config: { pageSize: 1 } })
    const [first] = double.fixture.instances
    let calls = 0
    double.behaviour.onCall = call => {
      if (call.endpoint !== 'usage') return
      calls += 1
      const { instances } = double.fixture
      const at = instances.indexOf(first!)
      if (calls % 3 === 0 && at >= 0) instances.splice(at, 1)
      if (calls % 7 === 0 && at < 0) instances.unshift(first!)
    }
    const outbox = open()
    start(outbox, { sources: [opened] })
    clockMs += 6 * hourMs + 2 * minuteMs
    await until(() => {
      clockMs += 10 * minuteMs
      return calls > 100
    })
    for (const [at, seconds] of currentOf(stored(outbox)))
      expect(at.startsWith('aaaaaa1/big') ? [10800] : [7200, 10800]).toContain(seconds)
    double.behaviour.onCall = () => undefined
    if (!double.fixture.instances.includes(first!)) double.fixture.instances.unshift(first!)
    const calmHour = Math.ceil((clockMs - june1Ms) / hourMs)
    await until(() => {
      clockMs += 10 * minuteMs
      return currentOf(stored(outbox)).get(`aaaaaa1/small ${calmHour + 3}`) === 10800
    })
  })
})

describe('its log', () => {
  test('is away for a day: the outbox fills to its bound and no further, drops nothing, and all arrives when it is back', async () => {
    provider.scopes = [{ scope: 'a' }, { scope: 'b' }, { scope: 'c' }]
    const bytesMax = 60_000
    const outbox = open({ bytesMax })
    let isAway = true
    const sent: OutboxRow[] = []
    const lanes = {
      partitions: 1,
      limits: { rowsMax: 50, bytesMax: 1e6 },
      send: async (_: number, rows: readonly OutboxRow[]) => {
        if (isAway) throw new Fault('LOG_UNREACHABLE', 'nobody there')
        const baseOffset = BigInt(sent.length)
        sent.push(...rows)
        return { baseOffset, rows: rows.length }
      },
    }
    start(outbox, {
      sources: [provider.opened({ rereadAfterMs: [], concurrency: 1 })],
      relay: signal => relay({ outbox, lanes: lanes as never, signal, unreachableAfterMs: 600_000 }),
    })
    await until(() => provider.listings > 0)
    for (let hour = 1; hour <= 24; hour += 1) {
      clockMs = june1Ms + hour * hourMs + minuteMs
      await sleep(60)
      expect(outbox.depth().bytes).toBeLessThanOrEqual(bytesMax)
    }
    await until(() => health.problems().some(problem => problem.startsWith('outbox: ')))
    const rows = outbox.pending(0, everything)
    // From the very first on, none is missing.
    expect(rows.map(row => row.seq)).toEqual(Array.from({ length: rows.length }, (_, index) => index + 1))
    expect(currentOf(eventsOf(rows)).size).toBeLessThan(72)
    isAway = false
    await until(() => currentOf(eventsOf(sent)).size === 72, 60_000)
    expect(sorted(currentOf(eventsOf(sent)))).toEqual(sorted(wholeHours(['a', 'b', 'c'], 24)))
    expect(new Set(sent.map(row => row.seq)).size).toBe(sent.length)
    await until(() => health.problems().length === 0)
  })
})

describe('a second collector', () => {
  test('of the same source, with an older copy of the outbox: the totals are those of one', async () => {
    await using rig = await startClickHouse()
    await using store = await Store.open(rig)
    const meter: Meter = {
      ...(defaultMeters.find(({ slug }) => slug === 'instance_hours') as Meter),
      eventTypes: ['io.meterline.test.instance.v1'],
    }
    provider.scopes = [{ scope: 'a' }, { scope: 'b' }]
    // Figures settle: an hour later there is a little more.
    provider.items = (scope, { startMs, endMs }) =>
      ['i', 'j'].map(id => ({
        id: `${scope}-${id}`,
        subject: `org-${scope}`,
        seconds: clockMs < endMs + hourMs ? '1800' : String((endMs - startMs) / secondMs),
      }))
    const sources = [provider.opened({ rereadAfterMs: [hourMs] })]
    const other = mkdtempSync(join(tmpdir(), 'meterline-failures-'))
    cleanup.push(() => rmSync(other, { recursive: true, force: true }))

    /** Runs a collector and its own processor into the one ledger, hour by hour. */
    const runTo = async (outboxes: readonly SqliteOutbox[], hours: number) => {
      const stop = new AbortController()
      const processors = await Promise.all(
        outboxes.map(outbox =>
          startProcessor({
            store,
            log: embeddedLog(outbox),
            meters: [meter],
            signal: stop.signal,
            say: () => undefined,
          }),
        ),
      )
      const collectors = outboxes.map(outbox => start(outbox, { sources, health: new Health() }))
      for (; clockMs < june1Ms + hours * hourMs; clockMs += hourMs) await sleep(120)
      clockMs += 2 * minuteMs
      const isDone = (outbox: SqliteOutbox) =>
        outbox.memory
          .scopes('meterline/test/one')
          .filter(({ scope }) => scope !== '*')
          .every(({ settled }) => (settled.at(-1)?.endMs ?? 0) >= june1Ms + (hours - 1) * hourMs) &&
        outbox.depth().rows === 0
      await until(() => outboxes.every(isDone), 60_000)
      for (const collector of collectors) await collector.end()
      stop.abort()
      for (const processor of processors) await processor.done
      clockMs -= 2 * minuteMs
    }
    const total = async () => {
      const span = { startMs: june1Ms, endMs: june1Ms + dayMs }
      const rows = await quantities(store, { meter, span, zone: 'UTC', groupBy: [], where: {} })
      return Object.fromEntries(rows.map(row => [row.subject, show(row.quantity)]))
    }

    const first = open()
    first.see('meterline/test/one', provider.scopes, june1Ms)
    clockMs += hourMs
    await runTo([first], 4)
    first[Symbol.dispose]()
    cpSync(dir, other, { recursive: true })
    const ahead = open()
    await runTo([ahead], 8)
    expect(await total()).toEqual({ 'org-a': '15', 'org-b': '15' })
    // The copy knows four hours, thinks the others were never read, and has numbers that the first gave out since.
    const behind = open({ dir: other })
    expect(behind.id).toBe(ahead.id)
    await runTo([ahead, behind], 12)
    expect(await total()).toEqual({ 'org-a': '23', 'org-b': '23' })
  })
})

test('windows are of UTC, wherever it runs and whatever the clocks there do', async () => {
  const before = process.env.TZ
  try {
    for (const [zone, changeMs] of [
      ['Europe/Berlin', Date.UTC(2026, 2, 29, 1)],
      ['Europe/Berlin', Date.UTC(2026, 9, 25, 1)],
      ['Australia/Lord_Howe', Date.UTC(2026, 3, 4, 15)],
      ['Asia/Kolkata', Date.UTC(2026, 5, 1)],
    ] as const) {
      process.env.TZ = zone
      expect(new Date(changeMs).getTimezoneOffset()).not.toBe(0)
      const scratch = mkdtempSync(join(tmpdir(), 'meterline-failures-'))
      cleanup.push(() => rmSync(scratch, { recursive: true, force: true }))
      const outbox = open({ dir: scratch })
      clockMs = changeMs - 6 * hourMs
      provider.scopes = [{ scope: 'a', sinceMs: clockMs }]
      const { end } = start(outbox, { sources: [provider.opened({ rereadAfterMs: [], widthMinutes: 15 })] })
      const listings = provider.listings
      await until(() => provider.listings > listings)
      const fromMs = clockMs
      for (let hour = 1; hour <= 12; hour += 1) {
        clockMs = fromMs + hour * hourMs + minuteMs
        await sleep(20)
      }
      const expected = windowsOver({ startMs: fromMs, endMs: fromMs + 12 * hourMs }, 15).map(
        ({ startMs }) => startMs,
      )
      const starts = () =>
        stored(outbox)
          .filter(event => event.type === 'io.meterline.read.v1' && event.scope === 'a')
          .map(event => Date.parse(event.time))
          .sort((a, b) => a - b)
      await until(() => starts().length >= 48)
      expect(starts()).toEqual(expected)
      await end()
    }
  } finally {
    if (before === undefined) delete process.env.TZ
    else process.env.TZ = before
  }
})
