/** Kubernetes quantities: every suffix worked by hand, and properties against a second reading of the grammar. */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { describe, expect, test } from 'vitest'
import { nanoOf, unitsOf } from '../../collector/quantity.ts'

const unit = 1_000_000_000n

describe('a quantity is read exactly', () => {
  test.each<[string, bigint]>([
    ['0', 0n],
    ['1', unit],
    ['+1', unit],
    ['-1', -unit],
    ['1.', unit],
    ['.5', unit / 2n],
    ['0.1', unit / 10n],
    ['100m', unit / 10n],
    ['1500m', (3n * unit) / 2n],
    ['1n', 1n],
    ['7u', 7000n],
    ['1k', 1000n * unit],
    ['1M', 10n ** 6n * unit],
    ['1G', 10n ** 9n * unit],
    ['1T', 10n ** 12n * unit],
    ['1P', 10n ** 15n * unit],
    ['1E', 10n ** 18n * unit],
    ['1E3', 1000n * unit],
    ['1e3', 1000n * unit],
    ['1E+3', 1000n * unit],
    ['5e-9', 5n],
    ['1Ki', 1024n * unit],
    ['1Mi', 1024n ** 2n * unit],
    ['80Gi', 80n * 1024n ** 3n * unit],
    ['1Ti', 1024n ** 4n * unit],
    ['1Pi', 1024n ** 5n * unit],
    ['1Ei', 1024n ** 6n * unit],
    ['1.5Gi', 1610612736n * unit],
    ['0.3Ki', 307_200_000_000n],
    ['123456789012345678', 123456789012345678n * unit],
  ])('%s', (text, nano) => {
    expect(nanoOf(text)).toBe(nano)
  })

  test('what is finer than a billionth is rounded away from zero, as the API server does', () => {
    expect(nanoOf('0.1n')).toBe(1n)
    expect(nanoOf('1.0000000001')).toBe(unit + 1n)
    expect(nanoOf('-0.1n')).toBe(-1n)
    expect(nanoOf('0.0000000001Ki')).toBe(103n)
  })

  test('what is beyond 2^63-1 is what it says', () => {
    expect(nanoOf('8Ei')).toBe(2n ** 63n * unit)
    expect(nanoOf('-9223372036854775808')).toBe(-(2n ** 63n) * unit)
    expect(nanoOf('48410143328T')).toBe(48410143328n * 10n ** 12n * unit)
  })

  test.each([
    '',
    ' 1',
    '1 ',
    '.',
    '+',
    '1e',
    '0B',
    '1KB',
    '1ki',
    '1mi',
    '1K',
    '1e1.5',
    '1Ki3',
    '0x1',
    'NaN',
    '1e9999',
    '1,5',
    '--1',
    '1.2.3',
    '١',
  ])('%j is none', text => {
    expect(nanoOf(text)).toBeUndefined()
  })

  test('0.1 and 0.2 are 0.3', () => {
    expect(unitsOf(nanoOf('0.1')! + nanoOf('0.2')!).equals(new Fraction(3, 10))).toBe(true)
  })
})

describe('for any number and suffix', () => {
  const scales: Readonly<Record<string, Fraction>> = {
    '': new Fraction(1),
    n: new Fraction('1/1000000000'),
    u: new Fraction('1/1000000'),
    m: new Fraction('1/1000'),
    k: new Fraction(1000),
    M: new Fraction(1000 ** 2),
    G: new Fraction(1000 ** 3),
    T: new Fraction(1000 ** 4),
    P: new Fraction(1000 ** 5),
    Ki: new Fraction(1024),
    Mi: new Fraction(1024 ** 2),
    Gi: new Fraction(1024 ** 3),
    Ti: new Fraction(1024 ** 4),
  }
  const number = fc.tuple(fc.nat(9000), fc.nat(999)).map(([whole, thousandths]) => ({
    text: `${whole}.${String(thousandths).padStart(3, '0')}`,
    value: new Fraction(whole * 1000 + thousandths, 1000),
  }))

  test('it is number times scale, rounded up to a billionth', () => {
    fc.assert(
      fc.property(number, fc.constantFrom(...Object.keys(scales)), ({ text, value }, suffix) => {
        const exactly = value.mul(scales[suffix]!).mul(new Fraction(unit))
        expect(new Fraction(nanoOf(text + suffix)!).equals(exactly.ceil())).toBe(true)
      }),
    )
  })

  test('an exponent says the same as the suffix of its size', () => {
    const suffixes: Readonly<Record<number, string>> = {
      [-9]: 'n',
      [-6]: 'u',
      [-3]: 'm',
      3: 'k',
      6: 'M',
      9: 'G',
    }
    fc.assert(
      fc.property(
        number,
        fc.constantFrom(-9, -6, -3, 3, 6, 9),
        fc.constantFrom('e', 'E'),
        ({ text }, power, e) => {
          expect(nanoOf(`${text}${e}${power}`)).toBe(nanoOf(text + suffixes[power]))
        },
      ),
    )
  })

  test('no text is read as anything but a number or nothing, in bounded time', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom(...'0123456789.+-eEKMGTPinumk '.split('')), maxLength: 60 }),
        text => {
          const nano = nanoOf(text)
          expect(nano === undefined || typeof nano === 'bigint').toBe(true)
        },
      ),
    )
  })
})
