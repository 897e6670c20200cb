/** Windows of any step and zone over a real ledger: nothing is dropped or doubled at an edge, whatever answers. */
import { setTimeout } from 'node:timers/promises'
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readyKey, recompute, settlingMs } from '../../processor/rollups.ts'
import type { Store } from '../../processor/store.ts'
import { quantities, usage } from '../../processor/usage.ts'
import type { SeenRollups, UsageQuery } from '../../processor/usage-plan.ts'
import { show } from '../../schemas/decimal.ts'
import type { Usage } from '../../schemas/event.ts'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { hourMs, minuteMs, showInstant } from '../../schemas/window.ts'
import { instance } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { day, hourOf, hours, nextToken, openWorld, source, type World } from './ledger-world.ts'

let rig: Awaited<ReturnType<typeof startClickHouse>>
let at: World

/** Seconds that no number of parts divides, used from and to odd milliseconds of an hour. */
function used(
  subject: string,
  id: string,
  seconds: string,
  hour: number,
  fromMs: number,
  toMs: number,
): Usage {
  const { startMs } = hourOf(hour)
  return {
    ...instance(subject, id, seconds, { gpu_type: id.startsWith('h') ? 'H100' : 'L40' }),
    interval: { startMs: startMs + fromMs, endMs: startMs + toMs },
  }
}

beforeAll(async () => {
  rig = await startClickHouse()
  at = await openWorld(rig)
  for (let hour = 0; hour < 24; hour += 3)
    await at.read('compute', hour, 1000, [
      used('a', 'i-1', '1000.000000000001', hour, 1, 7 * minuteMs + 11),
      used('a', 'h-2', '3599.999999999999', hour, 0, hourMs),
      used('b', 'i-3', '77.7', hour, 29 * minuteMs + 7, 31 * minuteMs),
      instance('b', 'h-4', '3'),
    ])
  // Half of the cells come from rollups, half from the ledger.
  await recompute(at.store, { run: nextToken(), cellsMax: 9 })
})
afterAll(async () => {
  await at?.[Symbol.asyncDispose]()
  await rig?.stop()
})

const ask = { meter: hours, span: day, zone: 'UTC', groupBy: [], where: {} } satisfies UsageQuery
const total = (rows: readonly { readonly quantity: Fraction }[]) =>
  show(rows.reduce((all, { quantity }) => all.add(quantity), new Fraction(0)))

test('the windows of a span, of any step and zone, add up to it to the last digit', async () => {
  const whole = total(await quantities(at.store, ask))
  expect(whole).toBe(show(new Fraction('4680.7').mul(8).div(3600)))
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('MINUTE', 'HOUR', 'DAY', 'WEEK', 'MONTH', 'PT7M', 'PT45M', 'PT5H', 'P1D', 'PT11S'),
      fc.constantFrom('UTC', 'Asia/Kolkata', 'Asia/Kathmandu', 'Australia/Lord_Howe', 'America/St_Johns'),
      fc.array(fc.integer({ min: 1, max: 24 * hourMs - 1 }), { maxLength: 2 }),
      async (step, zone, cuts) => {
        // The day in one piece or in several, at any millisecond.
        const edges = [0, ...cuts.toSorted((a, b) => a - b), 24 * hourMs].map(ms => day.startMs + ms)
        const pieces = edges.slice(1).map((endMs, index) => ({ startMs: edges[index]!, endMs }))
        const rows = []
        for (const span of pieces.filter(({ startMs, endMs }) => startMs < endMs))
          for (const row of await quantities(at.store, { ...ask, span, step, zone, groupBy: ['gpu_type'] })) {
            expect(row.window.startMs >= span.startMs && row.window.endMs <= span.endMs).toBe(true)
            rows.push(row)
          }
        expect([step, zone, cuts, total(rows)]).toEqual([step, zone, cuts, whole])
      },
    ),
    { numRuns: 10 },
  )
})

test('a window is given what was used in it, and says that it was split', async () => {
  const { startMs } = hourOf(0)
  const span = { startMs: startMs + 30 * minuteMs, endMs: startMs + 32 * minuteMs }
  const rows = await usage(at.store, { ...ask, span, step: 'MINUTE', groupBy: ['instance'] })
  expect(rows.map(row => [row.window_start, row.group_by.instance, row.value, row.split])).toEqual([
    ['2025-06-01T00:30:00Z', 'h-2', '0.016666666667', true],
    ['2025-06-01T00:30:00Z', 'h-4', '0.000013888889', true],
    // 60,000 of its 119,993 milliseconds.
    ['2025-06-01T00:30:00Z', 'i-3', '0.010792296217', true],
    ['2025-06-01T00:31:00Z', 'h-2', '0.016666666667', true],
    ['2025-06-01T00:31:00Z', 'h-4', '0.000013888889', true],
  ])
})

test('a meter that begins within the span answers as if the span began there, and behind it nothing', async () => {
  const of = async (more: Partial<UsageQuery>) => await quantities(at.store, { ...ask, step: 'DAY', ...more })
  const sinceMs = day.startMs + 30 * minuteMs
  const sinceThen = await of({ span: { ...day, startMs: sinceMs } })
  expect(sinceThen.map(row => row.isSplit)).toEqual([true, true])
  expect(await of({ sinceMs })).toEqual(sinceThen)
  expect(await of({ sinceMs: day.startMs - 1 })).toEqual(await of({}))
  expect(await of({ sinceMs: day.endMs })).toEqual([])
  // What is asked is looked at all the same.
  await expect(of({ sinceMs: day.endMs, groupBy: ['colour'] })).rejects.toThrow('no dim "colour"')
  await expect(of({ sinceMs: day.endMs, step: 'P1DT1H' })).rejects.toThrow('P1DT1H')
})

test('a tenant from the middle of an hour is split like a window, and whoever else asks sees no more', async () => {
  const turn = showInstant(day.startMs + 30 * minuteMs)
  const of = async (tenants: UsageQuery['tenants'], more: Partial<UsageQuery> = {}) =>
    await quantities(at.store, { ...ask, ...more, ...(tenants && { tenants }) })
  const a = { source, subject: 'a' }
  const [all] = await of([a])
  const before = await of([{ ...a, to: turn }])
  const after = await of([{ ...a, from: turn }])
  expect(before.map(row => row.isSplit)).toEqual([true])
  expect(total([...before, ...after])).toBe(show(all!.quantity))
  // Paid for twice is paid for once; what others have is not there, whatever is asked.
  expect(total(await of([a, { ...a, from: turn }]))).toBe(show(all!.quantity))
  expect(await of([a], { subjects: ['b'] })).toEqual([])
  expect(await of([])).toEqual([])
  const kept = await of([a], { keep: { source: false, subject: false } })
  expect(kept.map(row => [row.source, row.subject, show(row.quantity)])).toEqual([
    ['', '', show(all!.quantity)],
  ])
})

test.each(['SUM', 'AVG', 'COUNT', 'MAX'] as const)(
  'the largest of %s are the first of all rows by value',
  async aggregation => {
    const { value: _, ...counted } = { ...hours, slug: `top_${aggregation.toLowerCase()}`, aggregation }
    const meter: Meter = aggregation === 'COUNT' ? counted : { ...counted, value: 'instance_seconds' }
    const query = { ...ask, meter, groupBy: ['instance'], step: 'PT100M' }
    const all = await quantities(at.store, query)
    const byWindow = Map.groupBy(all, row => row.window.startMs)
    const largest = Array.from(byWindow.values()).flatMap(rows =>
      rows.toSorted((x, y) => y.quantity.compare(x.quantity)).slice(0, 2),
    )
    const top = await quantities(at.store, { ...query, top: 2 })
    expect(top.map(row => [row.window.startMs, row.dims, show(row.quantity)])).toEqual(
      largest.map(row => [row.window.startMs, row.dims, show(row.quantity)]),
    )
  },
)

/** A store in which something happens between the first statement of a question and the second. */
function between(store: Store, act: () => Promise<unknown>): Store {
  const wrapped = Object.create(store) as Store
  let statements = 0
  wrapped.stream = async function* (...args) {
    statements += 1
    if (statements === 2) await act()
    yield* store.stream(...args)
  }
  return wrapped
}

test('what is recomputed or read anew while a question is asked is seen as it was or as it is, never less', async () => {
  await using world = await openWorld(rig)
  const read = async (readatMs: number, seconds: string) =>
    await world.read('compute', 0, readatMs, [instance('a', 'i', seconds)])
  const answer = async (act: () => Promise<unknown>) =>
    (await quantities(between(world.store, act), ask)).map(row => show(row.quantity))
  await read(1000, '900')
  expect(await answer(async () => undefined)).toEqual(['0.25'])
  // The cell was stale, and is fresh by the time it is read.
  expect(await answer(() => world.freshen())).toEqual(['0.25'])
  // It was fresh, and something else is in the ledger by then: both are answers.
  expect(await answer(() => read(2000, '1800'))).toEqual(['0.25'])
  expect(await answer(() => world.freshen())).toEqual(['0.5'])
  const renewed = async () => {
    await read(3000, '2700')
    await world.freshen()
  }
  expect(await answer(renewed)).toEqual(['0.75'])
})

test.each([
  ['soon', settlingMs / 4],
  ['late', 60_000],
])(
  'what was acknowledged is in an answer that was read before its cell was computed again, and looked up %s after',
  async (_, withinMs) => {
    await using world = await openWorld(rig)
    const read = async (readatMs: number, seconds: string) =>
      await world.read('compute', 0, readatMs, [instance('a', 'i', seconds)])
    await read(1000, '900')
    await world.freshen()
    const key = (await readyKey(world.store, hours)) ?? ''
    const answer = async (store: Store) => {
      const rollups = { key, seenMs: performance.now() }
      const rows = await quantities(store, { ...ask, subjects: ['a'], rollups })
      return rows.map(row => show(row.quantity))
    }
    let begun: ('look' | 'answer')[] = []
    let isRead = Promise.withResolvers<void>()
    let recomputing: Promise<unknown> | undefined
    const late = Object.create(world.store) as Store
    late.stream = async function* (sql, ...rest) {
      const one = sql.startsWith("select distinct 'stale'") ? 'look' : 'answer'
      begun.push(one)
      if (one === 'look' && begun[0] === 'answer') {
        await isRead.promise
        if (isHeld) {
          recomputing = recompute(world.store, { run: nextToken(), cellsMax: 9 })
          await Promise.race([recomputing, setTimeout(withinMs, undefined, { ref: false })])
        }
      }
      yield* world.store.stream(sql, ...rest)
      isRead.resolve()
    }
    let isHeld = false
    const asked = async () => {
      begun = []
      isRead = Promise.withResolvers()
      return await answer(late)
    }
    // Asked at once it is only where the question before found nothing stale, and soon.
    for (let tries = 0; begun[0] !== 'answer'; tries += 1) {
      expect(tries).toBeLessThan(50)
      expect(await asked()).toEqual(['0.25'])
    }
    await read(2000, '1800')
    isHeld = true
    expect(await asked()).toEqual(['0.5'])
    expect(begun).toEqual(['answer', 'look', 'answer'])
    await recomputing
    expect(await answer(world.store)).toEqual(['0.5'])
  },
)

test.each(['gpu_hours'])('%s by the hour is the same from rollups and from the ledger', async slug => {
  const meter = defaultMeters.find(one => one.slug === slug) as Meter
  await using world = await openWorld(rig)
  for (const hour of [1, 5])
    await world.read('compute', hour, 1000, [used('a', 'h-1', '1.5', hour, 0, 9), instance('b', 'i', '4')])
  const query = { ...ask, meter, step: 'HOUR' }
  const ledger = await quantities(world.store, query)
  expect(ledger.length).toBeGreaterThan(0)
  await world.freshen()
  await world.store.run('truncate table events')
  expect(await quantities(world.store, query)).toEqual(ledger)
})

test('rollups that somebody has just seen ready are asked, and those seen long ago are looked up again', async () => {
  const key = await readyKey(at.store, hours)
  const whole = total(await quantities(at.store, ask))
  const seen = async (rollups: SeenRollups) => total(await quantities(at.store, { ...ask, rollups }))
  expect(key).toBeDefined()
  expect(await seen({ key: key ?? '', seenMs: performance.now() })).toBe(whole)
  // Cells of a key that has none: what is stale comes from the ledger, and nothing else is there.
  expect(await seen({ key: 'none', seenMs: performance.now() })).not.toBe(whole)
  expect(await seen({ key: 'none', seenMs: performance.now() - 61_000 })).toBe(whole)
})
