/** Quantities and money on the page: each digit as the API wrote it, sums exact. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { added, axisLabel, compared, grouped, share } from '../../../processor/dashboard/figures.ts'
import { exact, show } from '../../../schemas/decimal.ts'

/** As the API writes them: up to 24 digits before the point and 12 behind it. */
const decimal = fc
  .tuple(
    fc.boolean(),
    fc.bigInt({ min: 0n, max: 10n ** 24n - 1n }),
    fc.bigInt({ min: 0n, max: 10n ** 12n - 1n }),
  )
  .map(([isNegative, whole, part]) => {
    const behind = part.toString().padStart(12, '0').replace(/0+$/, '')
    const text = `${whole}${behind === '' ? '' : `.${behind}`}`
    return isNegative && text !== '0' ? `-${text}` : text
  })

test('what is grouped is what came: the same digits in the same order', () => {
  fc.assert(
    fc.property(decimal, value => {
      const shown = grouped(value)
      expect(shown.replaceAll(',', '').replace('\u2212', '-')).toBe(value)
      for (const part of shown.replace('\u2212', '').split('.')[0]!.split(',').slice(1))
        expect(part).toHaveLength(3)
    }),
  )
  expect(grouped('1234567.1234567')).toBe('1,234,567.1234567')
  expect(grouped('12.50')).toBe('12.50')
  // A quantity that is no finite decimal, or a price that is more than one number.
  expect(grouped('1/3')).toBe('1/3')
})

test('sums and orders are those of the rationals', () => {
  fc.assert(
    fc.property(fc.array(decimal, { minLength: 1, maxLength: 20 }), values => {
      const sum = values.reduce((total, value) => total.add(exact(value)), exact('0'))
      expect(added(values)).toBe(show(sum))
    }),
  )
  fc.assert(
    fc.property(decimal, decimal, (a, b) => {
      expect(Math.sign(compared(a, b))).toBe(Math.sign(exact(a).compare(exact(b))))
    }),
  )
  expect(added(['0.1', '0.2'])).toBe('0.3')
  expect(() => added(['1e3'])).toThrow(RangeError)
})

test('shares are rounded once, and are not there where they would say nothing', () => {
  expect([share('1', '3'), share('2', '3'), share('1', '2000'), share('5', '5')]).toEqual([
    ...['33.3 %', '66.7 %', '0.1 %', '100.0 %'],
  ])
  expect([share('1', '0'), share('-1', '3'), share('0', '3')]).toEqual(['', '', '0.0 %'])
})

test('an axis is short', () => {
  expect([0, 5, 1500, 20_000, 3_000_000, 12_500_000, 4e13].map(axisLabel)).toEqual([
    ...['0', '5', '1500', '20 k', '3000 k', '12.5 M', '40 T'],
  ])
})
