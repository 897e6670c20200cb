/** Coverage from a real ledger: each state, what leads to it and away from it, and what is expected at all. */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import {
  type CoverageRow,
  coverage,
  dueAfterMs,
  heldBack,
  isGap,
  type MarkedRun,
  rowsOf,
  scopeSpans,
  scopeTenants,
  spansOf,
  type Waiver,
} from '../../processor/coverage.ts'
import { gateOf } from '../../processor/gate.ts'
import { Ledger } from '../../processor/ledger.ts'
import { Store } from '../../processor/store.ts'
import {
  type DecisionEvent,
  decisionType,
  type MarkData,
  partitionKey,
  showReadat,
  type Usage,
} from '../../schemas/event.ts'
import { hourMs, minuteMs, showInstant, type Window } from '../../schemas/window.ts'
import { batchOf, hourAfterJune1, instance, june1Ms, readEvents, testSource } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'

let rig: Awaited<ReturnType<typeof startClickHouse>>
let store: Store
let worlds = 0

beforeAll(async () => {
  rig = await startClickHouse()
  store = await Store.open({ ...rig, database: `coverage_${process.pid}` })
})
afterAll(async () => {
  await store?.[Symbol.asyncDispose]()
  await rig?.stop()
})

const both = [instance('a', 'i1', '3600'), instance('b', 'i2', '3600')]
const one = [instance('a', 'i1', '3600')]
const busy = { outcome: 'failed', fault: { code: 'SOURCE_BUSY', message: 'busy' }, settled: false } as const
const torn = { code: 'ITEM_UNREADABLE', message: 'no hours' }

/** A source of its own in the one ledger. */
class World {
  readonly source = `meterline/rafay/coverage-${worlds++}`
  readonly #log = `log-${worlds}`
  readonly #ledger = new Ledger(store, this.#log)
  #offset = 0
  #decisions = 0

  async read(
    window: Window,
    afterMs: number,
    usages: readonly Usage[],
    mark: Partial<Omit<MarkData, 'window'>> = {},
    { scope = 'compute', source = this.source, partition = 0 } = {},
  ): Promise<void> {
    const read = { source, scope, window, readatMs: window.endMs + afterMs }
    await this.#put(readEvents(read, usages, { settled: false, ...mark }), partition)
  }

  /** The scopes that a listing names, in the mark of an hour. */
  async list(hour: number, scopes: MarkData['scopes']): Promise<void> {
    await this.read(hourAfterJune1(hour), 0, [], { settled: true, ...(scopes && { scopes }) }, { scope: '*' })
  }

  async decide(data: Partial<DecisionEvent['data']>, window: Window, scope = 'compute'): Promise<void> {
    const event = {
      specversion: '1.0',
      id: `decision-${this.#decisions++}`,
      source: this.source,
      type: decisionType,
      time: showReadat(june1Ms + this.#decisions * 1000),
      scope,
      partitionkey: partitionKey(this.source, scope),
      datacontenttype: 'application/json',
      data: {
        action: 'waive',
        window: { start: showInstant(window.startMs), end: showInstant(window.endMs) },
        author: 'Ada',
        reason: 'the site was closed',
        ...data,
      },
    }
    await this.#put([event as never], 0)
  }

  async #put(events: ReturnType<typeof readEvents>, partition: number): Promise<void> {
    const { rejects } = await this.#ledger.put([accept(batchOf(events, this.#offset, partition), this.#log)])
    expect(rejects).toEqual([])
    this.#offset += events.length
  }

  /** Of the first hours of June, as of a day later. */
  async rows(hours: number, query: { scope?: string; source?: string; nowMs?: number } = {}) {
    const span = { startMs: june1Ms, endMs: june1Ms + hours * hourMs }
    return await coverage(store, {
      span,
      nowMs: june1Ms + 48 * hourMs,
      source: this.source,
      scope: 'compute',
      ...query,
    })
  }

  /** `state` a window, `state subject code` a bad item. */
  async states(hours: number, query: { scope?: string; nowMs?: number } = {}): Promise<readonly string[]> {
    return (await this.rows(hours, query)).map(shown)
  }
}

function shown(row: CoverageRow): string {
  const bad = row.subject !== undefined || (row.fault && row.fault.code === torn.code)
  return bad ? `${row.state} ${row.subject ?? '-'} ${row.fault?.code}` : row.state
}

describe('the state of a window', () => {
  test('is never, failed with its fault, incomplete with its partition, read or settled', async () => {
    const at = new World()
    await at.read(hourAfterJune1(0), 0, both, { settled: true })
    await at.read(hourAfterJune1(1), 0, both)
    await at.read(hourAfterJune1(2), 0, [], busy)
    await at.read(hourAfterJune1(3), 0, both, { events: 3 }, { partition: 7 })
    await at.read(hourAfterJune1(5), 0, [])
    const rows = await at.rows(6)
    expect(rows.map(shown)).toEqual(['settled', 'read', 'failed', 'incomplete', 'never', 'read'])
    expect(rows[2]).toEqual({
      source: at.source,
      scope: 'compute',
      start: '2025-06-01T02:00:00Z',
      end: '2025-06-01T03:00:00Z',
      state: 'failed',
      fault: { code: 'SOURCE_BUSY', message: 'busy' },
    })
    expect(rows[3]).toMatchObject({ state: 'incomplete', partition: 7 })
    expect(Object.keys(rows[1] ?? {})).toEqual(['source', 'scope', 'start', 'end', 'state'])
  })

  test('is that of the read that counts, whatever failed since; without one that of the newest try', async () => {
    const at = new World()
    await at.read(hourAfterJune1(0), 0, both)
    await at.read(hourAfterJune1(0), minuteMs, [], busy)
    await at.read(hourAfterJune1(1), 0, both, { events: 9 })
    await at.read(hourAfterJune1(1), minuteMs, [], busy)
    await at.read(hourAfterJune1(2), 0, [], busy)
    await at.read(hourAfterJune1(2), minuteMs, both, { events: 9 })
    expect(await at.states(3)).toEqual(['read', 'failed', 'incomplete'])
    await at.read(hourAfterJune1(1), 2 * minuteMs, both)
    await at.read(hourAfterJune1(2), 2 * minuteMs, both, { settled: true })
    expect(await at.states(3)).toEqual(['read', 'read', 'settled'])
    // Somebody with a longer plan reads it again: the last planned read is yet to come.
    await at.read(hourAfterJune1(2), 3 * minuteMs, both)
    expect(await at.states(3)).toEqual(['read', 'read', 'read'])
  })

  test('is suspect while a newer read is held back, until a second one agrees or a person confirms it', async () => {
    const at = new World()
    for (const hour of [0, 1, 2]) await at.read(hourAfterJune1(hour), 0, both)
    for (const hour of [0, 1]) await at.read(hourAfterJune1(hour), minuteMs, one, { settled: true })
    expect(await at.states(3)).toEqual(['suspect', 'suspect', 'read'])
    const [first, second, ...others] = await heldBack(store, {
      source: at.source,
      span: { startMs: june1Ms, endMs: june1Ms + 3 * hourMs },
    })
    expect(others).toEqual([])
    expect(first).toMatchObject({ window: hourAfterJune1(0), readat: '2025-06-01T01:01:00.000Z' })
    expect([Number(first?.before.gpu_seconds), Number(first?.after.gpu_seconds)]).toEqual([7200, 3600])
    // Read again within the hour it is held back too, and only the newest is asked about.
    await at.read(hourAfterJune1(1), 2 * minuteMs, one)
    const again = await heldBack(store, { source: at.source, span: hourAfterJune1(1) })
    expect(again.map(({ readat }) => readat)).toEqual(['2025-06-01T02:02:00.000Z'])

    await at.decide({ action: 'confirm', readat: first?.readat ?? '' }, hourAfterJune1(0))
    expect(await at.states(3)).toEqual(['settled', 'suspect', 'read'])
    await at.read(hourAfterJune1(1), 70 * minuteMs, one)
    expect(await at.states(3)).toEqual(['settled', 'read', 'read'])
    expect(second?.window).toEqual(hourAfterJune1(1))
  })

  test('is not suspect for a read that could not count anyway, nor for one that a newer read left behind', async () => {
    const at = new World()
    // Estimates rank below exact figures.
    await at.read(hourAfterJune1(0), 0, both)
    await at.read(hourAfterJune1(0), minuteMs, both, { estimated: true })
    await at.read(hourAfterJune1(0), 2 * minuteMs, one, { estimated: true })
    await at.read(hourAfterJune1(1), 0, both)
    await at.read(hourAfterJune1(1), minuteMs, one)
    await at.read(hourAfterJune1(1), 2 * minuteMs, both)
    expect(await at.states(2)).toEqual(['read', 'read'])
    expect(
      await heldBack(store, { source: at.source, span: { startMs: june1Ms, endMs: june1Ms + 2 * hourMs } }),
    ).toEqual([])
  })

  test('shows the bad items of the read that counts, and no others', async () => {
    const at = new World()
    await at.read(hourAfterJune1(0), 0, both, { bad: [torn, { subject: 'x', ...torn }] })
    await at.read(hourAfterJune1(1), 0, both, { bad: [{ subject: 'x', ...torn }] })
    await at.read(hourAfterJune1(1), minuteMs, both)
    await at.read(hourAfterJune1(2), 0, both, { bad: [{ subject: 'x', ...torn }] })
    await at.read(hourAfterJune1(2), minuteMs, [], busy)
    await at.read(hourAfterJune1(3), 0, both, { events: 9, bad: [{ subject: 'x', ...torn }] })
    expect(await at.states(4)).toEqual([
      'read',
      'failed - ITEM_UNREADABLE',
      'failed x ITEM_UNREADABLE',
      'read',
      'read',
      'failed x ITEM_UNREADABLE',
      'incomplete',
    ])
  })
})

describe('a reading that another figure contradicts', () => {
  const doubt = { subject: 'x', code: 'FIGURES_DIFFER', message: '3600 s and 3599 s', counted: true } as const

  test('is named in the state of its window, and is no gap', async () => {
    const at = new World()
    await at.read(hourAfterJune1(0), 0, both, { settled: true, bad: [doubt] })
    await at.read(hourAfterJune1(1), 0, both, { bad: [doubt, { subject: 'y', ...torn }] })
    const rows = await at.rows(2)
    expect(rows.map(shown)).toEqual([
      'settled',
      'settled x FIGURES_DIFFER',
      'read',
      'read x FIGURES_DIFFER',
      'failed y ITEM_UNREADABLE',
    ])
    expect(rows[1]).toMatchObject({ subject: 'x', fault: { message: '3600 s and 3599 s' } })
    expect(rows.filter(isGap).map(shown)).toEqual(['failed y ITEM_UNREADABLE'])
    // The ledger keeps all of it: from there a mark is made again for a replay, and must be the same.
    const [kept] = await store.rows<{ bad: string }>(
      'select bad from reads where source = {source:String} and settled',
      { source: at.source },
    )
    expect(kept?.bad).toBe(JSON.stringify([doubt]))
    // An account that pays for x can close over the settled hour.
    const settled = { startMs: june1Ms, endMs: june1Ms + hourMs }
    const account = { subjects: [{ source: at.source, subject: 'x' }] }
    const tenants = [{ source: at.source, scope: 'compute', subjects: ['x', 'y'] }]
    expect(gateOf({ account, period: settled, rows: rows.slice(0, 2), tenants }).closes).toBe(true)
  })

  test('is gone with a read in which they agree, though the readings are the same', async () => {
    const at = new World()
    await at.read(hourAfterJune1(0), 0, both, { bad: [doubt] })
    await at.read(hourAfterJune1(0), hourMs, both, { settled: true })
    expect(await at.states(1)).toEqual(['settled'])
  })

  test('is waived with its window: what was suspect or not settled there stands in no way through it', async () => {
    const at = new World()
    await at.read(hourAfterJune1(0), 0, both, { bad: [doubt] })
    await at.read(hourAfterJune1(1), 0, both, { bad: [doubt] })
    await at.read(hourAfterJune1(1), minuteMs, one)
    expect(await at.states(2)).toEqual([
      'read',
      'read x FIGURES_DIFFER',
      'suspect',
      'suspect x FIGURES_DIFFER',
    ])
    await at.decide({}, { startMs: june1Ms, endMs: june1Ms + 2 * hourMs })
    expect(new Set((await at.rows(2)).map(({ state }) => state))).toEqual(new Set(['waived']))
  })
})

describe('a waiver', () => {
  test('takes every gap whose window lies inside it, and what is not settled; settled stays settled', async () => {
    const at = new World()
    await at.read(hourAfterJune1(0), 0, both, { settled: true })
    await at.read(hourAfterJune1(1), 0, both)
    await at.read(hourAfterJune1(2), 0, [], busy)
    await at.read(hourAfterJune1(3), 0, both, { events: 9 })
    await at.read(hourAfterJune1(4), 0, both, { bad: [torn, { subject: 'x', ...torn }] })
    await at.read(hourAfterJune1(5), 0, both)
    await at.read(hourAfterJune1(5), minuteMs, one)
    // Hour 6 is never read, and hour 7 does not lie inside.
    await at.decide({}, { startMs: june1Ms, endMs: june1Ms + 7.5 * hourMs })
    expect(await at.states(8)).toEqual([
      'settled',
      ...['waived', 'waived', 'waived', 'waived', 'waived - ITEM_UNREADABLE', 'waived x ITEM_UNREADABLE'],
      ...['waived', 'waived', 'never'],
    ])
    // Of that scope, and no other.
    await at.read(hourAfterJune1(2), 0, [], busy, { scope: 'service' })
    expect(await at.states(3, { scope: 'service' })).toEqual(['failed'])
    // What is read in the end is read.
    await at.read(hourAfterJune1(2), hourMs, both, { settled: true })
    expect((await at.states(8))[2]).toBe('settled')
  })

  test('of a subject takes its bad items alone', async () => {
    const at = new World()
    await at.read(hourAfterJune1(0), 0, both, {
      bad: [
        { subject: 'x', ...torn },
        { subject: 'y', ...torn },
      ],
    })
    await at.read(hourAfterJune1(1), 0, [], busy)
    await at.decide({ subject: 'x' }, { startMs: june1Ms, endMs: june1Ms + 2 * hourMs })
    expect(await at.states(2)).toEqual([
      'read',
      'waived x ITEM_UNREADABLE',
      'failed y ITEM_UNREADABLE',
      'failed',
    ])
  })
})

describe('what is expected', () => {
  test('is a scope since its provider has it, until the provider ends it, opens it again, or a person ends it', async () => {
    const at = new World()
    const since = '2025-06-01T02:00:00Z'
    await at.list(0, [
      { scope: '*', since: '2025-06-01T00:00:00Z' },
      { scope: 'compute', since },
    ])
    expect(await at.states(6)).toEqual(['never', 'never', 'never', 'never'])
    expect((await at.rows(6))[0]?.start).toBe(since)
    await at.list(1, [{ scope: 'compute', since, ended: '2025-06-01T04:30:00Z' }])
    expect(await at.states(6)).toEqual(['never', 'never', 'never'])
    // What failed after its end, or before it was there, is no gap; what was read is shown.
    await at.read(hourAfterJune1(0), 0, [], busy)
    await at.read(hourAfterJune1(1), 0, both)
    await at.read(hourAfterJune1(5), 0, [], busy)
    expect(await at.states(6)).toEqual(['read', 'never', 'never', 'never'])
    await at.list(2, [{ scope: 'compute', since }])
    expect(await at.states(6)).toEqual(['read', 'never', 'never', 'never', 'failed'])
    await at.decide({ action: 'end' }, { startMs: june1Ms + 3 * hourMs, endMs: june1Ms + 4 * hourMs })
    expect(await at.states(6)).toEqual(['read', 'never'])
    await at.decide({ action: 'end' }, { startMs: june1Ms + 4 * hourMs, endMs: june1Ms + 5 * hourMs })
    expect(await at.states(6)).toEqual(['read', 'never', 'never'])
    // Listing is a window of its own: hours 3 to 5 had none.
    expect(await at.states(6, { scope: '*' })).toEqual([
      ...['settled', 'settled', 'settled'],
      ...['never', 'never', 'never'],
    ])
  })

  test('is no window before it is over, nor one that nobody could have read by now', async () => {
    const at = new World()
    await at.read(hourAfterJune1(0), 0, both)
    const atMs = (afterMs: number) => at.states(9, { nowMs: june1Ms + 2 * hourMs + afterMs })
    expect(await atMs(-1)).toEqual(['read'])
    expect(await atMs(dueAfterMs - 1)).toEqual(['read'])
    expect(await atMs(dueAfterMs)).toEqual(['read', 'never'])
  })

  test('has the width in which its hour was read: failures of another width are no windows', async () => {
    const at = new World()
    const quarter = (index: number): Window => ({
      startMs: june1Ms + hourMs + index * 15 * minuteMs,
      endMs: june1Ms + hourMs + (index + 1) * 15 * minuteMs,
    })
    await at.read(hourAfterJune1(0), 0, both, { settled: true })
    await at.read(hourAfterJune1(1), 0, [], busy)
    expect(await at.states(2)).toEqual(['settled', 'failed'])
    await at.read(quarter(1), hourMs, [instance('a', 'i1', '900')], { settled: true })
    const rows = await at.rows(3)
    expect(rows.map(row => `${row.start.slice(11, 16)} ${row.state}`)).toEqual([
      '00:00 settled',
      '01:00 never',
      '01:15 settled',
      '01:30 never',
      '01:45 never',
      ...['02:00 never', '02:15 never', '02:30 never', '02:45 never'],
    ])
  })

  test('is asked by source and scope, and knows who was seen in which scope', async () => {
    const at = new World()
    const [, , name] = at.source.split('/')
    const other = `meterline/rafay/other-${name}`
    await at.read(hourAfterJune1(0), 0, both)
    await at.read(hourAfterJune1(1), 0, [instance('c', 'i1', '60')])
    await at.read(hourAfterJune1(0), 0, [], busy, { scope: 'service' })
    await at.read(hourAfterJune1(0), 0, one, {}, { source: other })
    const asked = async (query: object) => {
      const rows = await coverage(store, {
        span: hourAfterJune1(0),
        nowMs: june1Ms + 9 * hourMs,
        ...query,
      })
      return rows
        .filter(({ source }) => source.endsWith(`${name}`))
        .map(({ source, scope, state }) => `${source === other ? 'other' : 'this'} ${scope} ${state}`)
    }
    expect(await asked({})).toEqual(['this compute read', 'this service failed', 'other compute read'])
    expect(await asked({ source: name })).toEqual(['this compute read', 'this service failed'])
    expect(await asked({ source: other, scope: 'compute' })).toEqual(['other compute read'])
    expect(await asked({ scope: 'none' })).toEqual([])
    const tenants = await scopeTenants(store, [at.source])
    expect(tenants.map(({ scope, subjects }) => [scope, subjects.toSorted()]).toSorted()).toEqual([
      ['compute', ['a', 'b', 'c']],
      ['service', []],
    ])
  })
})

describe('the spans of a scope', () => {
  const widths = fc.constantFrom(15, 60)
  const states = fc.constantFrom('failed', 'incomplete', 'suspect', 'read', 'settled')
  /** Runs in order of time, some hours apart, each within whole hours of its width. */
  const runs = fc
    .array(
      fc.record({ apart: fc.nat(2), hours: fc.integer({ min: 1, max: 3 }), width: widths, state: states }),
      {
        maxLength: 5,
      },
    )
    .map(parts => {
      let atMs = june1Ms
      return parts.map(({ apart, hours, width, state }): MarkedRun => {
        const startMs = atMs + apart * hourMs
        atMs = startMs + hours * hourMs
        return {
          window: { startMs, endMs: atMs },
          widthMinutes: width as MarkedRun['widthMinutes'],
          state: state as MarkedRun['state'],
          isCurrent: state === 'read' || state === 'settled' || state === 'suspect',
          bad: [],
        }
      })
    })
  const quarters = fc.integer({ min: -4, max: 100 }).map(count => june1Ms + count * 15 * minuteMs)
  const spans = fc
    .tuple(quarters, quarters)
    .map(([a, b]) => ({ startMs: Math.min(a, b), endMs: Math.max(a, b) }))
  const waivers = fc.array(
    spans.map((window): Waiver => ({ source: testSource, scope: 's', window })),
    { maxLength: 3 },
  )

  test('hold each expected instant once, whatever the widths, ends and waivers', () => {
    fc.assert(
      fc.property(
        runs,
        waivers,
        quarters,
        fc.option(quarters),
        quarters,
        (marked, waived, since, ended, now) => {
          const life = {
            source: testSource,
            scope: 's',
            sinceMs: since,
            ...(ended !== null && { endedMs: ended }),
          }
          const span = { startMs: june1Ms - 2 * hourMs, endMs: june1Ms + 30 * hourMs }
          const nowMs = Math.max(now, marked.at(-1)?.window.endMs ?? 0)
          const rows = rowsOf(scopeSpans(life, marked, waived, { span, nowMs }))
          for (let atMs = span.startMs; atMs < span.endMs; atMs += 15 * minuteMs) {
            const here = rows.filter(row => Date.parse(row.start) <= atMs && atMs < Date.parse(row.end))
            expect(here.length).toBeLessThanOrEqual(1)
            const run = marked.find(({ window }) => window.startMs <= atMs && atMs < window.endMs)
            const isExpected = atMs >= since && atMs < (ended ?? nowMs)
            // What began before the end, or ends after the beginning, is expected whole: hence an hour's leeway.
            if (run?.isCurrent) expect(here).toHaveLength(1)
            else if (isExpected && atMs + hourMs + dueAfterMs < nowMs) expect(here).toHaveLength(1)
            else if (atMs + hourMs <= since || (ended !== null && atMs - hourMs >= ended))
              expect(here).toEqual([])
            const [row] = here
            if (!row) continue
            const inside = waived.some(
              ({ window }) => window.startMs <= Date.parse(row.start) && Date.parse(row.end) <= window.endMs,
            )
            const was = run?.state ?? 'never'
            expect(row.state).toBe(inside && was !== 'settled' ? 'waived' : was)
          }
        },
      ),
      { numRuns: 100 },
    )
  })

  test('are lines for people, whether bad items lie between them or not', () => {
    const at = (hour: number) => ({ source: testSource, scope: 's', ...shownWindow(hour) })
    const bad = { state: 'failed', subject: 'x', fault: torn } as const
    const rows = [0, 1, 2].flatMap(hour => [
      { ...at(hour), state: 'read' as const },
      { ...at(hour), ...bad },
    ])
    expect(
      spansOf([...rows, { ...at(4), state: 'read' }]).map(span => [
        span.start.slice(11, 16),
        span.windows,
        shown(span),
      ]),
    ).toEqual([
      ['00:00', 3, 'read'],
      ['00:00', 3, 'failed x ITEM_UNREADABLE'],
      ['04:00', 1, 'read'],
    ])
  })
})

function shownWindow(hour: number) {
  const { startMs, endMs } = hourAfterJune1(hour)
  return { start: showInstant(startMs), end: showInstant(endMs) }
}
