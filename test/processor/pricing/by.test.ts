/** An itemised line sums to the line, whatever it is split over. */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { expect, test } from 'vitest'
import { largestRemainder } from '../../../processor/pricing/by.ts'
import { rate } from '../../../processor/rate.ts'
import { roundHalfAway, show } from '../../../schemas/decimal.ts'
import type { Book } from '../../../schemas/pricebook.ts'

const period = { startMs: Date.UTC(2025, 5, 1), endMs: Date.UTC(2025, 6, 1) }
const zero = new Fraction(0)
const fraction = fc
  .tuple(fc.bigInt(-(10n ** 9n), 10n ** 9n), fc.constantFrom(1n, 3n, 7n, 1000n))
  .map(([n, d]) => new Fraction(n, d))

test('parts are split into whole minor units that sum to the rounded total, each less than one off', () => {
  fc.assert(
    fc.property(
      fc.array(fraction, { minLength: 1, maxLength: 12 }),
      fc.integer({ min: 0, max: 4 }),
      (parts, minorDigits) => {
        const total = roundHalfAway(
          parts.reduce((a, b) => a.add(b), zero),
          minorDigits,
        )
        const amounts = largestRemainder({ total, parts, minorDigits })
        const unit = new Fraction(1, 10n ** BigInt(minorDigits))
        expect(show(amounts.reduce((a, b) => a.add(b), zero))).toBe(show(total))
        for (const [place, amount] of amounts.entries()) {
          expect(amount.div(unit).d).toBe(1n)
          expect(amount.sub(parts[place]!).abs().lt(unit)).toBe(true)
        }
      },
    ),
  )
})

test('units that are left go to the largest remainders, ties to the first', () => {
  const split = (total: string, parts: string[]) =>
    largestRemainder({
      total: new Fraction(total),
      parts: parts.map(part => new Fraction(part)),
      minorDigits: 0,
    }).map(show)
  expect(split('3', ['1/2', '1/2', '2'])).toEqual(['1', '0', '2'])
  expect(split('3', ['0.2', '0.9', '1.9'])).toEqual(['0', '1', '2'])
  expect(split('-3', ['-1/2', '-1/2', '-2'])).toEqual(['0', '-1', '-2'])
})

test('itemising a charge changes neither its total nor its quantity, and its items come by code point', () => {
  const values = fc.constantFrom('b', 'B', 'a', '\ue000', '\u{1f600}', '')
  const usage = fc.array(
    fc.record({
      meter: fc.constant('gpu'),
      quantity: fraction,
      dims: fc.record({ project: values, team: values }, { requiredKeys: ['team'] }),
    }),
    { maxLength: 12 },
  )
  fc.assert(
    fc.property(usage, given => {
      const book = (by?: string[]): Book => ({
        currency: 'USD',
        charges: [{ id: 'gpu', meter: 'gpu', price: { unit: '2.99' }, ...(by && { by }) }],
      })
      const whole = rate({ book: book(), period, usage: given })
      const items = rate({ book: book(['project', 'team']), period, usage: given })
      expect(show(items.total)).toBe(show(whole.total))
      expect(show(items.lines.reduce((a, line) => a.add(line.quantity!), zero))).toBe(
        show(whole.lines[0]?.quantity ?? zero),
      )
      const keys = items.lines.map(({ group }) => Buffer.from(`${group!.project}\u0000${group!.team}`))
      expect(keys).toEqual(keys.toSorted(Buffer.compare))
    }),
  )
})
