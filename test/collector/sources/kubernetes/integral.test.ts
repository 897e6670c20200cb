/** A rate times time in windows: rounded so that however time is cut, the parts add up. */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { expect, test } from 'vitest'
import { amountIn } from '../../../../collector/sources/kubernetes/integral.ts'
import { isBoundedDecimal, show } from '../../../../schemas/decimal.ts'

const hourMs = 3_600_000
const seventh = new Fraction(1, 7)

test('two cores for a quarter of an hour inside the window are 1800', () => {
  const window = { startMs: 10 * hourMs, endMs: 11 * hourMs }
  const span = { startMs: 10.75 * hourMs, endMs: 12 * hourMs }
  expect(show(amountIn(new Fraction(2), span, window))).toBe('1800')
})

test('outside of the span there is nothing', () => {
  const span = { startMs: 0, endMs: 1000 }
  expect(show(amountIn(seventh, span, { startMs: 1000, endMs: 2000 }))).toBe('0')
})

test('a seventh of an hour is a decimal, and four quarters of it are the hour', () => {
  const span = { startMs: 5 * hourMs, endMs: 6 * hourMs }
  const whole = amountIn(seventh, span, span)
  expect(show(whole)).toMatch(/^514\.28571428571[3-5]$/)
  let sum = new Fraction(0)
  for (let at = 0; at < 4; at++)
    sum = sum.add(
      amountIn(seventh, span, {
        startMs: span.startMs + (at * hourMs) / 4,
        endMs: span.startMs + ((at + 1) * hourMs) / 4,
      }),
    )
  expect(show(sum)).toBe(show(whole))
})

test('any rate over any cuts of time adds up to the whole, each part a decimal that an event can hold', () => {
  const instant = fc.integer({ min: 1_700_000_000_000, max: 1_900_000_000_000 })
  fc.assert(
    fc.property(
      fc.tuple(fc.nat(10_000), fc.integer({ min: 1, max: 256 })),
      fc.uniqueArray(instant, { minLength: 2, maxLength: 12 }),
      fc.uniqueArray(instant, { maxLength: 6 }),
      ([numerator, denominator], instants, splits) => {
        const rate = new Fraction(numerator, denominator)
        const edges = instants.sort((a, b) => a - b)
        const span = { startMs: edges[0]!, endMs: edges.at(-1)! }
        const whole = amountIn(rate, span, span)
        // Cut by windows, and the span itself into pieces of the same rate.
        const cuts = [
          ...new Set([...edges, ...splits.filter(at => at > span.startMs && at < span.endMs)]),
        ].sort((a, b) => a - b)
        let sum = new Fraction(0)
        for (const [index, endMs] of edges.entries())
          if (index > 0)
            for (const [next, untilMs] of cuts.entries())
              if (next > 0) {
                const part = amountIn(
                  rate,
                  { startMs: cuts[next - 1]!, endMs: untilMs },
                  { startMs: edges[index - 1]!, endMs },
                )
                expect(isBoundedDecimal(show(part))).toBe(true)
                sum = sum.add(part)
              }
        expect(show(sum)).toBe(show(whole))
        const exactly = rate.mul(span.endMs - span.startMs).div(1000)
        expect(
          sum
            .sub(exactly)
            .abs()
            .compare(new Fraction(1, 10n ** 12n)),
        ).toBeLessThanOrEqual(0)
      },
    ),
  )
})
