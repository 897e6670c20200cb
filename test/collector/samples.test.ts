/** The rules of counters and gauges, held against sums by hand, and any cut of time against the whole. */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { describe, expect, test } from 'vitest'
import { counterGrowth, gaugeIntegral, type Sample, unitsOf } from '../../collector/samples.ts'
import { show } from '../../schemas/decimal.ts'
import { Fault } from '../../schemas/fault.ts'
import type { Window } from '../../schemas/window.ts'

const second = 1000
const span = (from: number, to: number): Window => ({ startMs: from * second, endMs: to * second })
/** `at 10 100, 20 150`: seconds and values. */
const at = (text: string): readonly Sample[] =>
  text.split(', ').map(pair => {
    const [seconds, value = ''] = pair.split(' ')
    return { atMs: Number(seconds) * second, value }
  })
const growth = (text: string, window: Window, firstSight: 'first' | 'zero' = 'first') =>
  show(counterGrowth(at(text), window, { firstSight }).growth)
const integral = (text: string, window: Window, maxGapMs = 60 * second) =>
  show(gaugeIntegral(at(text), window, { maxGapMs }).integral)

describe('growth of a counter', () => {
  test('is what lies between samples, given to the window of the later one', () => {
    const samples = '0 100, 10 110, 20 125, 30 150'
    expect(growth(samples, span(10, 20))).toBe('10')
    expect(growth(samples, span(10, 30))).toBe('25')
    expect(growth(samples, span(11, 20))).toBe('0')
    expect(growth(samples, span(0, 31))).toBe('50')
  })

  test('a sample on an edge belongs to the window that begins there', () => {
    expect(growth('5 1, 10 4', span(5, 10))).toBe('0')
    expect(growth('5 1, 10 4', span(10, 15))).toBe('3')
  })

  test('one that is less began anew at zero, also over the edge of a window', () => {
    expect(
      counterGrowth(at('0 100, 10 130, 20 7, 30 9'), span(1, 40), { firstSight: 'first' }),
    ).toMatchObject({
      resets: 1,
      samples: 3,
    })
    expect(growth('0 100, 10 130, 20 7, 30 9', span(1, 40))).toBe('39')
    expect(growth('0 100, 10 7', span(5, 15))).toBe('7')
    expect(growth('0 100, 10 0, 20 0, 30 5', span(5, 40))).toBe('5')
  })

  test('the first sight counts nothing, or from zero for who knows that it began there', () => {
    expect(growth('10 40, 20 50', span(0, 30), 'first')).toBe('10')
    expect(growth('10 40, 20 50', span(0, 30), 'zero')).toBe('50')
    expect(growth('10 40, 20 50', span(15, 30), 'zero')).toBe('10')
    expect(growth('10 40', span(20, 30), 'zero')).toBe('0')
  })

  test('a gap loses nothing, NaN is passed over, floats as text stay exact', () => {
    expect(growth('0 1, 5000 1001', span(4000, 6000))).toBe('1000')
    expect(growth('0 1, 10 NaN, 20 5', span(5, 30))).toBe('4')
    expect(growth('0 NaN, 10 3, 20 5', span(5, 30))).toBe('2')
    expect(growth('0 0.1, 10 0.30000000000000004', span(5, 30))).toBe('0.20000000000000004')
    expect(growth('0 1.5e+21, 10 1.5000000000000001e+21', span(5, 30))).toBe('100000')
    expect(growth('0 9007199254740992, 10 9007199254740993', span(5, 30))).toBe('1')
    expect(growth('0 9007199254740993, 10 9007199254740992', span(5, 30))).toBe('9007199254740992')
  })

  test('no samples, or none in the window, is nothing, and says so', () => {
    expect(counterGrowth([], span(0, 10), { firstSight: 'zero' })).toMatchObject({ samples: 0, resets: 0 })
    expect(counterGrowth(at('0 5'), span(1, 10), { firstSight: 'first' }).samples).toBe(0)
  })
})

describe('a gauge times the time', () => {
  test('each sample holds until the next', () => {
    expect(integral('0 100, 10 50, 20 0', span(0, 30))).toBe('1500')
    expect(integral('0 100, 10 50, 20 0', span(5, 15))).toBe('750')
  })

  test('no longer than the gap, and nothing is known beyond', () => {
    expect(gaugeIntegral(at('0 1, 100 1'), span(0, 200), { maxGapMs: 30 * second })).toMatchObject({
      coveredMs: 60 * second,
      samples: 2,
    })
    expect(integral('0 1, 100 1', span(0, 200), 30 * second)).toBe('60')
    expect(integral('0 1', span(29, 200), 30 * second)).toBe('1')
    expect(integral('0 1', span(30, 200), 30 * second)).toBe('0')
  })

  test('NaN ends what was said before, and says nothing', () => {
    expect(integral('0 1, 10 NaN, 20 2', span(0, 30))).toBe('30')
    expect(gaugeIntegral(at('0 1, 10 NaN, 20 2'), span(0, 30), { maxGapMs: 60_000 }).coveredMs).toBe(20_000)
  })

  test('a part of a second counts as that part', () => {
    const samples = [
      { atMs: 0, value: '0.1' },
      { atMs: 7, value: '3e-07' },
    ]
    const { integral: found } = gaugeIntegral(samples, { startMs: 0, endMs: 10 }, { maxGapMs: 100 })
    expect(show(found)).toBe('0.0007000009')
  })
})

test.each(['+Inf', '-Inf', '-1', '', '1,5', '0x10', 'null', '1e9999'])('%j is no quantity', value => {
  const samples = [
    { atMs: 0, value: '1' },
    { atMs: 10, value },
    { atMs: 15, value: '0.5' },
  ]
  const whole = { startMs: 0, endMs: 20 }
  for (const ask of [
    () => counterGrowth(samples, whole, { firstSight: 'first' }),
    () => gaugeIntegral(samples, whole, { maxGapMs: 100 }),
  ])
    try {
      ask()
      expect.unreachable()
    } catch (error) {
      expect(error).toBeInstanceOf(Fault)
      expect((error as Fault).code).toBe('ITEM_UNREADABLE')
    }
})

test('each sample is rounded once to the places of the scale, half away from zero', () => {
  const scale = { perUnit: new Fraction(1, 8), places: 2 }
  // 0.125, 0.25 and 1.375 are 0.13, 0.25 and 1.38.
  const samples = at('0 1, 10 2, 20 11')
  const counted = (window: Window) =>
    show(counterGrowth(samples, window, { firstSight: 'zero', scale }).growth)
  expect([span(0, 10), span(10, 20), span(20, 30)].map(counted)).toEqual(['0.13', '0.12', '1.13'])
  expect(counted(span(0, 30))).toBe('1.38')
  const held = gaugeIntegral(samples, span(0, 20), { maxGapMs: 60_000, scale }).integral
  expect(show(held)).toBe('3.8')
  expect(unitsOf({ atMs: 0, value: '1.1e+01' }, scale)).toBe(138n)
})

test('two values at one time are a fault, the same one twice is one', () => {
  expect(growth('0 1, 10 4, 10 4, 20 5', span(5, 30))).toBe('4')
  expect(() => growth('0 1, 10 4, 10 5, 20 6', span(5, 30))).toThrow('two values')
})

/** A value as Prometheus prints floats, among them resets and gaps; and a scale with a ratio that has no end. */
const value = fc.oneof(
  { weight: 6, arbitrary: fc.double({ min: 0, max: 1e22, noNaN: true }).map(printed) },
  { weight: 6, arbitrary: fc.nat(1000).map(String) },
  { weight: 1, arbitrary: fc.constant('NaN') },
)
function printed(float: number): string {
  return Object.is(float, -0) ? '0' : String(float)
}
const series = fc
  .uniqueArray(fc.tuple(fc.nat(100_000), value), { selector: ([atMs]) => atMs, maxLength: 40 })
  .map(pairs => pairs.map(([atMs, text]) => ({ atMs, value: text })))
const cuts = fc
  .uniqueArray(fc.nat(100_000), { maxLength: 8 })
  .map(inner => [...new Set([0, ...inner, 100_001])].sort((a, b) => a - b))
const scale = fc.option(
  fc.record({
    perUnit: fc
      .tuple(fc.integer({ min: 1, max: 2 ** 20 }), fc.integer({ min: 1, max: 999 }))
      .map(([n, d]) => new Fraction(n, d)),
    places: fc.integer({ min: 0, max: 12 }),
  }),
  { nil: undefined },
)

test('however time is cut, the parts add up to the whole, in whatever order samples come', () => {
  fc.assert(
    fc.property(
      series,
      cuts,
      scale,
      fc.constantFrom('first' as const, 'zero' as const),
      fc.integer({ min: 1, max: 50_000 }),
      fc.infiniteStream(fc.nat()),
      (samples, edges, given, firstSight, maxGapMs, mixed) => {
        const whole = { startMs: 0, endMs: 100_001 }
        const scaled = given && { scale: given }
        const shuffled = samples
          .map(sample => ({ sample, key: mixed.next().value }))
          .sort((a, b) => a.key - b.key)
          .map(({ sample }) => sample)
        let grown = new Fraction(0)
        let held = new Fraction(0)
        for (const [index, startMs] of edges.slice(0, -1).entries()) {
          const part = { startMs, endMs: edges[index + 1] ?? 0 }
          grown = grown.add(counterGrowth(shuffled, part, { firstSight, ...scaled }).growth)
          held = held.add(gaugeIntegral(shuffled, part, { maxGapMs, ...scaled }).integral)
        }
        expect(show(counterGrowth(samples, whole, { firstSight, ...scaled }).growth)).toBe(show(grown))
        expect(show(gaugeIntegral(samples, whole, { maxGapMs, ...scaled }).integral)).toBe(show(held))
      },
    ),
  )
})

test('a window needs no more than its samples, and the last one before it or those of the gap', () => {
  fc.assert(
    fc.property(
      series,
      fc.nat(100_000),
      fc.nat(50_000),
      fc.nat(20_000),
      (samples, startMs, wideMs, maxGapMs) => {
        const window = { startMs, endMs: startMs + wideMs }
        const before = samples.filter(each => each.atMs < startMs && each.value !== 'NaN')
        const last = Math.max(...before.map(each => each.atMs))
        const of = (fromMs: number) => samples.filter(each => each.atMs >= fromMs && each.atMs < window.endMs)
        const counted = (some: readonly Sample[]) =>
          show(counterGrowth(some, window, { firstSight: 'first' }).growth)
        expect(counted(of(Math.min(last, startMs)))).toBe(counted(samples))
        const held = (some: readonly Sample[]) => show(gaugeIntegral(some, window, { maxGapMs }).integral)
        expect(held(of(startMs - maxGapMs))).toBe(held(samples))
      },
    ),
  )
})

test('growth is the plain sum of differences, by floats that hold whole numbers', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(1000), { minLength: 1, maxLength: 50 }), values => {
      let sum = 0
      for (const [index, next] of values.entries()) {
        const last = values[index - 1]
        if (last !== undefined) sum += next < last ? next : next - last
      }
      const samples = values.map((each, index) => ({ atMs: index, value: String(each) }))
      const { growth: found } = counterGrowth(samples, { startMs: 0, endMs: 99 }, { firstSight: 'first' })
      expect(show(found)).toBe(String(sum))
    }),
  )
})
