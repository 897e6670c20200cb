/** Marks of pushers in a real ClickHouse: the states they lead to, what becomes of a second one, and that no order matters. */
import fc from 'fast-check'
import { Registry } from 'prom-client'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import { openApi } from '../../processor/api/api.ts'
import { coverageAnswer, coverageRoutes } from '../../processor/api/coverage.ts'
import { eventRoutes } from '../../processor/api/events.ts'
import { type CoverageRow, coverage, coverageSpans, scopeTenants } from '../../processor/coverage.ts'
import { Ledger } from '../../processor/ledger.ts'
import { conflicts, replayRejected } from '../../processor/replay.ts'
import { Store } from '../../processor/store.ts'
import { bySource } from '../../processor/watch-coverage.ts'
import { Health, serveHealth } from '../../runtime/health.ts'
import { Ingest } from '../../runtime/log/ingest.ts'
import type { PushedEvent } from '../../runtime/log/outbox.ts'
import { encodeKafka } from '../../schemas/cloudevents.ts'
import { type DecisionEvent, decisionType, partitionKey } from '../../schemas/event.ts'
import { type AmendmentEvent, amendmentType, pushedMarkType, sealAbout } from '../../schemas/pushed.ts'
import { hourMs, minuteMs, showInstant, type Window } from '../../schemas/window.ts'
import { headers, hourAfterJune1, june1Ms } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'

const appendedMs = june1Ms + 48 * hourMs
let rig: Awaited<ReturnType<typeof startClickHouse>>
let store: Store
let worlds = 0

beforeAll(async () => {
  rig = await startClickHouse()
  store = await Store.open({ ...rig, database: `pushed_marks_${process.pid}` })
})
afterAll(async () => {
  await store?.[Symbol.asyncDispose]()
  await rig?.stop()
})

const json = (event: object) => Buffer.from(JSON.stringify(event))
const minutes = (from: number, to: number): Window => ({
  startMs: june1Ms + from * minuteMs,
  endMs: june1Ms + to * minuteMs,
})

/** A pusher with a source and a log of its own. */
class World {
  readonly source = `https://app-${worlds++}.example/usage`
  readonly log = `log of ${this.source}`
  next = 0

  event(id: string, atMs: number, { subject = 'acme', ...change }: Record<string, unknown> = {}): Buffer {
    const time = showInstant(atMs)
    const base = { specversion: '1.0', id, source: this.source, type: 'call', subject, time }
    return json({ ...base, data: { tokens: 7 }, ...change })
  }

  mark(
    id: string,
    window: Window,
    events: number,
    more: { settled?: boolean; subject?: string } = {},
  ): Buffer {
    const { subject, ...data } = more
    const span = { start: showInstant(window.startMs), end: showInstant(window.endMs) }
    const base = { specversion: '1.0', id, source: this.source, type: pushedMarkType }
    return json({
      ...base,
      ...(subject !== undefined && { subject }),
      data: { window: span, events, ...data },
    })
  }

  decision(data: Partial<DecisionEvent['data']>, window: Window, scope = 'all'): Buffer {
    const span = { start: showInstant(window.startMs), end: showInstant(window.endMs) }
    return json({
      specversion: '1.0',
      id: `decision-${this.next}`,
      source: this.source,
      type: decisionType,
      time: showInstant(appendedMs),
      scope,
      partitionkey: partitionKey(this.source, scope),
      datacontenttype: 'application/json',
      data: { action: 'waive', window: span, author: 'Ada', reason: 'they were closed', ...data },
    })
  }

  async put(...values: readonly Buffer[]) {
    return await this.putAt(this.next, values)
  }

  async putAt(first: number, values: readonly Buffer[], { partition = 0, afterMs = 0, by = store } = {}) {
    const messages = values.map((value, index) => ({
      offset: BigInt(first + index),
      key: null,
      value,
      headers,
      appendedMs: appendedMs + afterMs,
    }))
    if (partition === 0) this.next = Math.max(this.next, first + values.length)
    return await new Ledger(by, this.log, null).put([accept({ partition, messages }, this.log)])
  }

  /** Of the first hours of June, as of two days later: `HH:MM state` a window, with the words of its fault. */
  async states(hours: number, scope = 'all', nowMs = appendedMs): Promise<readonly string[]> {
    const span = { startMs: june1Ms, endMs: june1Ms + hours * hourMs }
    return (await coverage(store, { span, nowMs, source: this.source, scope })).map(shown)
  }
}

function shown({ start, state, fault }: CoverageRow): string {
  return [start.slice(11, 16), state, ...(fault ? [fault.code, fault.message] : [])].join(' ')
}

const differs = (said: number, has: number) =>
  `incomplete MARK_DIFFERS the mark says ${said} events, the ledger has ${has}`

describe('a marked window', () => {
  test('is settled or read once the ledger has as many events as its mark says, and never where there is no mark', async () => {
    const at = new World()
    const [first, second] = [hourAfterJune1(0), hourAfterJune1(1)]
    await at.put(
      at.event('1', first.startMs),
      at.event('2', first.endMs - 1, { subject: 'other' }),
      at.event('3', second.startMs),
      at.mark('m0', first, 2),
      at.mark('m1', second, 1, { settled: false }),
      at.mark('m2', hourAfterJune1(2), 0),
      at.mark('m4', hourAfterJune1(4), 3),
    )
    await at.put(at.event('4', hourAfterJune1(4).startMs), at.event('4', hourAfterJune1(4).startMs))
    expect(await at.states(6)).toEqual([
      '00:00 settled',
      '01:00 read',
      '02:00 settled',
      '03:00 never',
      `04:00 ${differs(3, 1)}`,
      '05:00 never',
    ])
    // More than was said is as wrong as less.
    await at.put(at.event('5', first.startMs + 1))
    expect((await at.states(1))[0]).toBe(`00:00 ${differs(2, 3)}`)
    // Not before it is over.
    expect(await at.states(6, 'all', june1Ms + 3.5 * hourMs)).toHaveLength(3)
    expect(await at.states(6, 'acme')).toEqual([])
  })

  test('has the state of its later mark, by the log of its partition; of two partitions by when they were taken', async () => {
    const at = new World()
    const window = hourAfterJune1(0)
    await at.put(at.event('1', window.startMs), at.mark('m1', window, 5), at.mark('m2', window, 1))
    expect(await at.states(1)).toEqual(['00:00 settled'])
    await at.put(at.mark('m3', window, 1, { settled: false }))
    expect(await at.states(1)).toEqual(['00:00 read'])
    // What comes again stands where it first stood.
    expect(await at.put(at.mark('m1', window, 5))).toMatchObject({ pushedMarks: 0, duplicates: 1 })
    expect(await at.states(1)).toEqual(['00:00 read'])
    await at.putAt(0, [at.mark('m4', window, 9)], { partition: 3, afterMs: -1 })
    expect(await at.states(1)).toEqual(['00:00 read'])
    await at.putAt(1, [at.mark('m5', window, 8)], { partition: 3, afterMs: 1 })
    expect(await at.states(1)).toEqual([`00:00 ${differs(8, 1)}`])
  })

  test('speaks for one subject where it names one, in a grid of its own, and for all where it names none', async () => {
    const at = new World()
    const hour = hourAfterJune1(0)
    await at.put(
      at.event('1', hour.startMs),
      at.event('2', hour.startMs + 16 * minuteMs),
      at.event('3', hour.startMs, { subject: 'other' }),
      at.event('4', hour.startMs, { subject: 'all' }),
      at.mark('a', hour, 4),
      ...[1, 1, 0].map((events, quarter) =>
        at.mark(`q${quarter}`, minutes(quarter * 15, quarter * 15 + 15), events, { subject: 'acme' }),
      ),
      at.mark('o', hour, 2, { subject: 'other' }),
    )
    expect(await at.states(1)).toEqual(['00:00 settled'])
    expect(await at.states(1, 'acme')).toEqual([
      '00:00 settled',
      '00:15 settled',
      '00:30 settled',
      '00:45 never',
    ])
    expect(await at.states(1, 'other')).toEqual([`00:00 ${differs(2, 1)}`])
    expect(await scopeTenants(store, [at.source])).toEqual(
      expect.arrayContaining([
        { source: at.source, scope: 'all', subjects: [], sinceMs: june1Ms },
        { source: at.source, scope: 'acme', subjects: ['acme'], sinceMs: june1Ms },
        { source: at.source, scope: 'other', subjects: ['other'], sinceMs: june1Ms },
      ]),
    )
  })

  test('counts what was pushed: an amendment changes what an event says, and not that it came', async () => {
    const at = new World()
    const window = hourAfterJune1(0)
    const amendment = (id: string, change: object) =>
      Buffer.from(
        sealAbout<AmendmentEvent>({
          id: `${at.source} ${id}`,
          source: 'meterline/amend/person',
          type: amendmentType,
          partitionkey: `${at.source} ${id}`,
          timeMs: appendedMs,
          data: { source: at.source, id, action: 'void', author: 'Ann', reason: 'a test', ...change },
        }),
      )
    const elsewhere = { type: 'call', subject: 'other', time: '2025-06-01T01:00:00Z' }
    await at.put(at.event('1', window.startMs), at.event('2', window.startMs), at.mark('m', window, 2))
    expect(
      await at.put(amendment('1', {}), amendment('2', { action: 'amend', event: elsewhere })),
    ).toMatchObject({ amendments: 2 })
    expect(await at.states(1)).toEqual(['00:00 settled'])
  })

  test('is waived and ended by a person like any other, and is a gap of the metrics until then', async () => {
    const at = new World()
    await at.put(at.mark('m', hourAfterJune1(0), 1), at.mark('n', hourAfterJune1(4), 0))
    const span = { startMs: june1Ms, endMs: june1Ms + 5 * hourMs }
    const seen = async () => {
      const spans = await coverageSpans(store, { span, nowMs: appendedMs, source: at.source })
      return bySource(spans, appendedMs).get(at.source)
    }
    expect(await seen()).toMatchObject({ oldestGapSeconds: 47 * 3600 })
    expect(await at.put(at.decision({}, minutes(0, 120)))).toMatchObject({ decisions: 1, rejects: [] })
    expect(await at.states(4)).toEqual([
      '00:00 waived MARK_DIFFERS the mark says 1 events, the ledger has 0',
      ...['01:00 waived', '02:00 never', '03:00 never'],
    ])
    expect(await seen()).toMatchObject({ oldestGapSeconds: 45 * 3600 })
    await at.put(at.decision({ action: 'end' }, minutes(180, 240)))
    expect((await at.states(6)).map(row => row.slice(0, 12))).toEqual([
      ...['00:00 waived', '01:00 waived', '02:00 never', '04:00 settle'],
    ])
  })
})

describe('a second mark', () => {
  test('of one id is a duplicate where it says the same, else a conflict with both contents; so is an event of that id', async () => {
    const at = new World()
    const window = hourAfterJune1(0)
    expect(
      await at.put(
        at.mark('m', window, 1),
        at.mark('m', window, 1, { settled: true }),
        at.mark('m', window, 2),
        at.event('m', window.startMs),
        at.event('e', window.startMs),
        at.mark('e', window, 7),
      ),
    ).toMatchObject({ pushedMarks: 1, pushed: 1, duplicates: 1, conflicts: 3, rejects: [] })
    expect(await at.put(at.mark('m', minutes(0, 15), 1), at.mark('m', window, 1))).toMatchObject({
      duplicates: 1,
      conflicts: 1,
      rejects: [],
    })
    expect(await at.states(1)).toEqual(['00:00 settled'])
    const found = (await conflicts(store, { startMs: june1Ms, endMs: june1Ms + hourMs })).filter(
      ({ source }) => source === at.source,
    )
    expect(found.map(({ what, id, offset }) => `${what} ${id} ${offset}`)).toEqual([
      ...['pushed e 5', 'mark m 2', 'mark m 3', 'mark m 6'],
    ])
    expect(JSON.parse(found[1]?.first ?? '')).toMatchObject({ scope: 'all', events: '1' })
    expect(JSON.parse(found[1]?.second ?? '')).toMatchObject({ scope: 'all', events: 2 })
  })

  test('of another width in the same hour and scope is refused, and its id is free for a right one', async () => {
    const at = new World()
    const hour = hourAfterJune1(0)
    const outcome = await at.put(
      at.mark('m', hour, 0),
      at.mark('q', minutes(0, 15), 0),
      at.mark('next', minutes(60, 75), 0),
      at.mark('other', minutes(0, 15), 0, { subject: 'acme' }),
    )
    expect(outcome).toMatchObject({ pushedMarks: 3, rejects: [{ code: 'GRID_OVERLAP', offset: 1n }] })
    const { rejects } = await at.put(at.mark('half', minutes(90, 120), 0), at.mark('q', minutes(75, 90), 0))
    expect(rejects.map(({ code, reason }) => `${code} ${reason}`)).toEqual([
      `GRID_OVERLAP ${at.source} all: /data/window 2025-06-01T01:30:00Z/2025-06-01T02:00:00Z overlaps the grid of 2025-06-01T01:00:00Z/2025-06-01T01:15:00Z, which was marked: go on in that width until the hour is over`,
    ])
    expect(await at.states(2)).toEqual([
      ...['00:00 settled', '01:00 settled', '01:15 settled', '01:30 never', '01:45 never'],
    ])
  })

  test('and all else is counted once: messages are the sum of what became of them', async () => {
    const rows = await store.rows<{ all: number; marks: string; rows: string }>(
      `select sum(messages) = sum(events + reads + decisions + pushed + pushed_marks + amendments + duplicates + conflicts
         + rejects) as all, sum(pushed_marks) as marks, (select count() from pushed_marks final) as rows
       from positions final`,
    )
    expect(rows).toMatchObject([{ all: 1 }])
    expect(rows[0]?.marks).toBe(rows[0]?.rows)
  })
})

test('a mark or an event that gave way to an earlier message of its id is not counted', async () => {
  const at = new World()
  const [first, second] = [hourAfterJune1(0), hourAfterJune1(1)]
  // The partition is read on from offset 10, and then from 0: what stands first in the log counts.
  await at.putAt(10, [at.event('e', second.startMs), at.mark('n', second, 0), at.mark('m', second, 9)])
  expect(await at.states(2)).toEqual([`01:00 ${differs(9, 1)}`])
  expect(await at.putAt(0, [at.event('e', first.startMs), at.mark('m', first, 1)])).toMatchObject({
    pushed: 1,
    pushedMarks: 1,
    conflicts: 2,
  })
  expect(await at.states(2)).toEqual(['00:00 settled', '01:00 settled'])
  // Nor does it say since when marks are expected, or in which width.
  const early = new World()
  await early.putAt(10, [early.mark('m', first, 9)])
  await early.putAt(0, [early.mark('m', second, 0)])
  expect(await early.states(2)).toEqual(['01:00 settled'])
  expect((await early.put(early.mark('q', minutes(0, 15), 0))).rejects).toEqual([])
})

test.each(['before', 'after'] as const)('dying %s any statement loses and doubles no mark', async when => {
  const at = new World()
  const window = hourAfterJune1(0)
  const values = [
    at.mark('m', window, 1),
    at.mark('m', window, 1),
    at.mark('m', window, 2),
    at.mark('q', minutes(0, 15), 2),
    at.event('e', window.startMs),
    at.mark('n', window, 1, { settled: false }),
  ]
  for (let statement = 1; ; statement += 1) {
    let count = 0
    const dying = Object.create(store) as Store
    for (const name of ['rows', 'insert', 'insertBlocks', 'run'] as const)
      dying[name] = (async (...args: never[]) => {
        count += 1
        if (count > statement || (count === statement && when === 'before')) throw new Error('killed')
        const done = await (store[name] as (...args: never[]) => Promise<unknown>)(...args)
        if (count === statement) throw new Error('killed')
        return done
      }) as never
    const died = await at.putAt(0, values, { by: dying }).then(
      () => false,
      () => true,
    )
    if (!died) {
      expect(statement).toBeGreaterThan(6)
      break
    }
  }
  expect(await at.states(1)).toEqual(['00:00 read'])
  const fates = await store.rows(
    `select fate, arraySort(groupArray(offset)) as offsets from (
       select 'accepted' as fate, offset from pushed_marks final where log = {log:String}
       union all select 'accepted', offset from pushed final where log = {log:String}
       union all select toString(fate), offset from passed final where log = {log:String}
       union all select 'rejected', offset from rejected final where log = {log:String})
     group by fate order by fate`,
    { log: at.log },
  )
  expect(fates).toEqual([
    { fate: 'accepted', offsets: ['0', '4', '5'] },
    { fate: 'conflict', offsets: ['2'] },
    { fate: 'duplicate', offsets: ['1'] },
    { fate: 'rejected', offsets: ['3'] },
  ])
})

interface Sent {
  readonly events: readonly { readonly id: number; readonly minute: number; readonly subject: string }[]
  readonly marks: readonly {
    readonly window: number
    readonly scope: string
    readonly off: number
    readonly settled: boolean
  }[]
  /** Indexes of events, then of marks: each once at least, in any order, some again. */
  readonly order: readonly number[]
  readonly cut: number
}

const windows = [minutes(0, 30), minutes(30, 60), minutes(60, 120)] as const
const scopes = ['all', 'x'] as const
const anySent: fc.Arbitrary<Sent> = fc
  .record({
    events: fc.uniqueArray(
      fc.record({
        id: fc.integer({ min: 0, max: 20 }),
        minute: fc.oneof(fc.nat(119), fc.constantFrom(0, 29, 30, 59, 60)),
        subject: fc.constantFrom('x', 'y'),
      }),
      { selector: ({ id }) => id, maxLength: 12 },
    ),
    marks: fc.uniqueArray(
      fc.record({
        window: fc.nat(windows.length - 1),
        scope: fc.constantFrom(...scopes),
        off: fc.constantFrom(0, 0, 0, 1),
        settled: fc.boolean(),
      }),
      { selector: ({ window, scope }) => `${window} ${scope}`, minLength: 1, maxLength: 6 },
    ),
  })
  .chain(({ events, marks }) => {
    const count = events.length + marks.length
    return fc.record({
      events: fc.constant(events),
      marks: fc.constant(marks),
      order: fc
        .array(fc.nat(count - 1), { maxLength: 10 })
        .map(again => [...Array(count).keys(), ...again])
        .chain(all => fc.shuffledSubarray(all, { minLength: all.length, maxLength: all.length })),
      cut: fc.nat(20),
    })
  })

test('marks before, between and after their events, repeated, in any order, end in the same coverage', async () => {
  await fc.assert(
    // Many pushers at once: one batch and one question for all of them.
    fc.asyncProperty(fc.array(anySent, { minLength: 25, maxLength: 25 }), async all => {
      const log = new World()
      const pushers = all.map(sent => ({ at: new World(), sent }))
      const parts = [[] as Buffer[], [] as Buffer[]]
      for (const { at, sent } of pushers)
        for (const [turn, index] of sent.order.entries()) {
          const event = sent.events[index]
          const mark = sent.marks[index - sent.events.length]
          const value = event
            ? at.event(`e${event.id}`, june1Ms + event.minute * minuteMs, { subject: event.subject })
            : at.mark(`m${index}`, windows[mark!.window]!, countOf(sent, mark!) + mark!.off, {
                settled: mark!.settled,
                ...(mark!.scope !== 'all' && { subject: mark!.scope }),
              })
          parts[turn < sent.cut ? 0 : 1]?.push(value)
        }
      for (const part of parts) if (part.length > 0) expect((await log.put(...part)).rejects).toEqual([])
      const span = { startMs: june1Ms, endMs: june1Ms + 2 * hourMs }
      const rows = Map.groupBy(
        await coverage(store, { span, nowMs: appendedMs }),
        ({ source, scope }) => `${source} ${scope}`,
      )
      for (const { at, sent } of pushers)
        for (const scope of scopes)
          expect((rows.get(`${at.source} ${scope}`) ?? []).map(shown)).toEqual(wantedOf(sent, scope))
    }),
    { numRuns: 3 },
  )
})

function countOf({ events }: Sent, { window, scope }: Sent['marks'][number]): number {
  const { startMs, endMs } = windows[window]!
  return events.filter(({ minute, subject }) => {
    const atMs = june1Ms + minute * minuteMs
    return startMs <= atMs && atMs < endMs && (scope === 'all' || scope === subject)
  }).length
}

/** From the first mark on: what each says, and never in between, in the width of what is around. */
function wantedOf(sent: Sent, scope: string): readonly string[] {
  const of = new Map(sent.marks.filter(mark => mark.scope === scope).map(mark => [mark.window, mark]))
  const marked = windows.map((window, index) => {
    const start = showInstant(window.startMs).slice(11, 16)
    const mark = of.get(index)
    if (!mark) return `${start} never`
    const has = countOf(sent, mark)
    if (mark.off > 0) return `${start} ${differs(has + mark.off, has)}`
    return `${start} ${mark.settled ? 'settled' : 'read'}`
  })
  const first = Math.min(...of.keys())
  if (of.size === 0) return []
  // An hour without a mark has the width of the marks before it.
  if (!of.has(2)) return [...marked.slice(first, 2), '01:00 never', '01:30 never']
  return marked.slice(first)
}

test('over HTTP: events and marks go in, coverage says what is missing, and an account waits for its own', async () => {
  const at = new World()
  const nowMs = june1Ms + 2 * hourMs + 2 * minuteMs
  await using server = await serveHealth({
    health: new Health(),
    registry: new Registry(),
    host: '127.0.0.1',
    port: 0,
  })
  const keys: string[] = []
  const sink = {
    async put(events: readonly PushedEvent[]) {
      keys.push(...events.map(({ key }) => key))
      await at.put(...events.map(({ value }) => value))
    },
  }
  const account = (id: string) => ({
    id,
    currency: 'USD',
    timezone: 'UTC',
    priceBook: 'list',
    subjects: [{ source: at.source, subject: id }],
  })
  const accounts = [account('acme'), account('other'), account('third')]
  const routes = [
    eventRoutes({ ingest: new Ingest({ sink, nowMs: () => nowMs }) }),
    coverageRoutes({ store, accounts: async () => accounts, nowMs: () => nowMs }),
  ]
  await using _api = await openApi({ mount: server.mount, routes, access: 'loopback' })
  const post = async (more: Record<string, string>, body: string) => {
    const response = await fetch(`${server.url}/api/v1/events`, { method: 'POST', headers: more, body })
    const text = await response.text()
    return { status: response.status, ...(text !== '' && { body: JSON.parse(text) }) }
  }
  const structured = { 'content-type': 'application/cloudevents+json' }
  const get = async (query: Record<string, string>) => {
    const span = { from: '2025-06-01T00:00:00Z', to: '2025-06-01T02:00:00Z', source: at.source }
    const response = await fetch(
      `${server.url}/api/v1/coverage?${new URLSearchParams({ ...span, ...query })}`,
    )
    const rows = (await response.json()) as {
      scope: string
      start: string
      state: string
      fault?: { message: string }
    }[]
    return rows.map(({ scope, start, state, fault }) =>
      [scope, start.slice(11, 13), state, ...(fault ? [fault.message] : [])].join(' '),
    )
  }

  const batch = [at.event('1', june1Ms), at.event('2', june1Ms + hourMs, { subject: 'other' })]
  expect(
    await post(
      { 'content-type': 'application/cloudevents-batch+json' },
      `[${batch.join(',')},${at.mark('m', hourAfterJune1(0), 2, { subject: 'acme' })}]`,
    ),
  ).toEqual({ status: 204 })
  // As OpenMeter's clients send, and in binary mode.
  const plain = { 'content-type': 'application/json' }
  expect(await post(plain, at.mark('o', hourAfterJune1(1), 1, { subject: 'other' }).toString())).toEqual({
    status: 204,
  })
  const span = { start: '2025-06-01T01:00:00Z', end: '2025-06-01T02:00:00Z' }
  const binary = {
    ...plain,
    'ce-specversion': '1.0',
    'ce-id': 'a',
    'ce-source': at.source,
    'ce-type': pushedMarkType,
  }
  expect(await post(binary, JSON.stringify({ window: span, events: 1 }))).toEqual({ status: 204 })
  expect(keys).toEqual([
    `${at.source} 1`,
    `${at.source} 2`,
    ...['acme', 'other', 'all'].map(scope => `${at.source} ${scope}`),
  ])
  expect(await get({})).toEqual([
    ...['acme 00 incomplete the mark says 2 events, the ledger has 1', 'acme 01 never'],
    ...['all 01 settled', 'other 01 settled'],
  ])
  expect(await post(structured, at.event('3', june1Ms + 1).toString())).toEqual({ status: 204 })
  expect(await get({ account: 'acme' })).toEqual(['acme 00 settled', 'acme 01 never', 'all 01 settled'])
  expect(await get({ account: 'third' })).toEqual(['all 01 settled'])
  // Of the hour before the first mark that speaks for them nobody can tell what is missing.
  const answer = async (account: string) =>
    (
      await coverageAnswer(
        store,
        { from: '2025-06-01T00:00:00Z', to: '2025-06-01T02:00:00Z', account },
        { accounts, nowMs },
      )
    ).unknown
  expect(await answer('acme')).toEqual([])
  expect(await answer('third')).toEqual([
    { source: at.source, isPushed: true, isAllowed: false, subject: 'third', window: hourAfterJune1(0) },
  ])

  const wrong = await post(structured, at.mark('w', minutes(0, 10), 1).toString())
  expect(wrong).toMatchObject({ status: 400, body: { code: 'EVENT_DATA_INVALID' } })
  expect(wrong.body.detail).toMatch(
    /^\/data\/window "2025-06-01T00:00:00Z\/2025-06-01T00:10:00Z" .*60, 30, 15, 5 or 1/,
  )
  const decided = await post(structured, at.decision({}, hourAfterJune1(0)).toString())
  expect(decided).toMatchObject({ status: 403, body: { code: 'SOURCE_RESERVED' } })
  expect(
    await post(structured, at.mark('f', minutes(24 * 60 + 180, 24 * 60 + 240), 1).toString()),
  ).toMatchObject({
    status: 400,
    body: { code: 'TIME_OUT_OF_BOUNDS' },
  })
  // What was only too early is taken by a replay; a decision that came over HTTP is not.
  const replayed = await replayRejected(store, sink, { nowMs: nowMs + 3 * hourMs, log: at.log } as never)
  expect(replayed.left.map(({ code }) => code)).toEqual(expect.arrayContaining(['SOURCE_RESERVED']))
  const later = { from: '2025-06-02T03:00:00Z', to: '2025-06-02T04:00:00Z' }
  expect(replayed.sent).toBeGreaterThan(0)
  expect(
    (
      await coverage(store, {
        span: { startMs: Date.parse(later.from), endMs: Date.parse(later.to) },
        source: at.source,
        scope: 'all',
        nowMs: appendedMs,
      })
    ).map(({ state }) => state),
  ).toEqual(['incomplete'])
})

test('through Kafka in binary mode a mark is the same, and a decision about its source is taken', () => {
  const at = new World()
  const structured = JSON.parse(at.mark('m', hourAfterJune1(0), 3, { subject: 'acme' }).toString())
  const { headers: ce, value } = encodeKafka(structured, 'binary')
  const decision = at.decision({}, hourAfterJune1(0))
  const messages = [
    { offset: 0n, key: null, value, headers: ce, appendedMs },
    { offset: 1n, key: null, value: decision, headers, appendedMs },
  ]
  const accepted = accept({ partition: 0, messages }, 'log')
  expect(accepted).toMatchObject({
    rejects: [],
    pushedMarks: [{ source: at.source, scope: 'acme', events: 3, isSettled: true, offset: 0n }],
    decisions: [{ offset: 1n }],
  })
})
