/** Sums of measures: exact over any decimals, and the same text there and back. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { exact } from '../../schemas/decimal.ts'
import { parseTotals, showTotals, TotalsSum, takesAway } from '../../schemas/suspect.ts'

const decimal = fc
  .tuple(fc.bigInt({ min: 0n, max: 10n ** 24n - 1n }), fc.stringMatching(/^[0-9]{0,12}$/))
  .map(([whole, parts]) => (parts === '' ? `${whole}` : `${whole}.${parts}`))

test('any decimals add up exactly, in any order', () => {
  fc.assert(
    fc.property(fc.array(decimal, { maxLength: 50 }), values => {
      const sum = new TotalsSum()
      for (const value of values) sum.add({ gpu_seconds: value })
      const expected = values.reduce((total, value) => total.add(exact(value)), exact('0'))
      const total = sum.totals().get('gpu_seconds') ?? 0n
      expect(exact(total.toString()).div(exact('1000000000000')).equals(expected)).toBe(true)
    }),
  )
})

test('many small whole numbers come to the last digit', () => {
  const sum = new TotalsSum()
  for (let count = 0; count < 20_000; count += 1) sum.add({ tokens: '99999999999', instance_seconds: '1' })
  expect(showTotals(sum.totals())).toEqual({
    tokens: '1999999999980000.000000000000',
    instance_seconds: '20000.000000000000',
  })
})

test('totals as text come back as they were', () => {
  fc.assert(
    fc.property(
      fc.dictionary(fc.constantFrom('a', 'b', 'c'), fc.bigInt({ min: 0n, max: 10n ** 40n })),
      sums => {
        const totals = new Map(Object.entries(sums))
        expect(parseTotals(showTotals(totals))).toEqual(totals)
        expect(takesAway(totals, totals, 1)).toBe(false)
      },
    ),
  )
})
