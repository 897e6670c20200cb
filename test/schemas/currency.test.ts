/** The decimals that each currency has. */
import { expect, test } from 'vitest'
import { currencies, minorDigitsOf } from '../../schemas/currency.ts'

test('an amount has the decimals that ISO 4217 gives its currency', () => {
  const digits = Object.fromEntries(
    ['USD', 'EUR', 'JPY', 'KRW', 'CLP', 'KWD', 'TND', 'CLF', 'HUF', 'ISK'].map(code => [
      code,
      minorDigitsOf(code),
    ]),
  )
  expect(digits).toEqual({
    USD: 2,
    EUR: 2,
    JPY: 0,
    KRW: 0,
    CLP: 0,
    KWD: 3,
    TND: 3,
    CLF: 4,
    HUF: 2,
    ISK: 0,
  })
})

test('what is no currency is not known', () => {
  for (const code of ['usd', 'XXX', 'XAU', 'US', 'DOLLAR', '', 'constructor'])
    expect(minorDigitsOf(code)).toBeUndefined()
})

test('every code is written once, in three capitals', () => {
  expect(new Set(currencies).size).toBe(currencies.length)
  expect(currencies.filter(code => !/^[A-Z]{3}$/.test(code))).toEqual([])
  expect(currencies.length).toBeGreaterThan(160)
})
