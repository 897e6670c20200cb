/** Exact decimals, held against BigInt arithmetic that shares no code with them. */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { describe, expect, test } from 'vitest'
import {
  decimalOfJsonNumber,
  exact,
  isBoundedDecimal,
  isTerminating,
  quotientPrinter,
  roundHalfAway,
  show,
  showQuantity,
  showRounded,
  trillionths,
} from '../../schemas/decimal.ts'
import { Fault } from '../../schemas/fault.ts'

const places = 12
/** A decimal within bounds, as how many 1e-12 it is. */
const scaled = fc.bigInt({ min: -(10n ** 36n) + 1n, max: 10n ** 36n - 1n })
/** The same as text, by hand. */
function textOf(value: bigint): string {
  const digits = (value < 0n ? -value : value).toString().padStart(places + 1, '0')
  const text = `${digits.slice(0, -places)}.${digits.slice(-places)}`.replace(/\.?0+$/, '')
  return value < 0n ? `-${text}` : text
}
const ratio = fc
  .tuple(fc.bigInt({ min: -(10n ** 30n), max: 10n ** 30n }), fc.bigInt({ min: 1n, max: 10n ** 30n }))
  .map(([n, d]) => ({ n, d, value: new Fraction(n, d) }))

describe('reading and showing', () => {
  test('a bounded decimal comes back as its shortest text', () => {
    fc.assert(
      fc.property(scaled, value => {
        const text = textOf(value)
        expect(isBoundedDecimal(text)).toBe(true)
        expect(show(exact(text))).toBe(text)
        expect(showQuantity(exact(text))).toBe(text)
        expect(show(exact(`${text}${text.includes('.') ? '' : '.'}000`))).toBe(text)
      }),
    )
  })

  test('sums are exact, where floats are not', () => {
    expect(show(exact('0.1').add(exact('0.2')))).toBe('0.3')
    fc.assert(
      fc.property(fc.array(scaled, { maxLength: 20 }), values => {
        const sum = values.reduce((total, value) => total.add(exact(textOf(value))), new Fraction(0))
        expect(show(sum)).toBe(textOf(values.reduce((total, value) => total + value, 0n)))
      }),
    )
  })

  test('a ratio is read and shown whole, and a third is no decimal', () => {
    expect(show(exact('1/3'))).toBe('1/3')
    expect(show(exact('-2/6'))).toBe('-1/3')
    expect(show(exact('1/8'))).toBe('0.125')
    expect(show(exact('1.5/0.5'))).toBe('3')
    fc.assert(
      fc.property(ratio, ({ n, d, value }) => {
        expect(exact(`${n}/${d}`).equals(value)).toBe(true)
        expect(exact(show(value)).equals(value)).toBe(true)
        expect(show(value).includes('/')).toBe(!isTerminating(value))
      }),
    )
  })

  test.each([
    '',
    ' ',
    '1e3',
    '+1',
    '.5',
    '1.',
    '01',
    '1,0',
    '1_0',
    'NaN',
    '0x1',
    '1/0',
    '1/0.00',
    '1/2/3',
    '1/',
    '/1',
    '0.(3)',
    '1 1/2',
    '١',
  ])('%j is no decimal', text => {
    expect(() => exact(text)).toThrow(expect.objectContaining({ code: 'VALUE_OUT_OF_BOUNDS' }))
  })

  test.each(['1000000000000000000000000', '0.1234567890123', '1e2', '-', '--1', '00', '1\n'])(
    '%j is beyond the bounds of a stored value',
    text => {
      expect(isBoundedDecimal(text)).toBe(false)
    },
  )

  test('a fault clips what it names', () => {
    expect(() => exact('x'.repeat(10_000))).toThrow(Fault)
    expect(() => exact('x'.repeat(10_000))).toThrow(/^.{1,120}$/)
  })
})

describe('rounding', () => {
  test.each([
    ['0.5', 0, '1'],
    ['-0.5', 0, '-1'],
    ['1.5', 0, '2'],
    ['2.5', 0, '3'],
    ['-2.5', 0, '-3'],
    ['2.4999999999999999999999', 0, '2'],
    ['1.005', 2, '1.01'],
    ['-1.005', 2, '-1.01'],
    ['1/3', 2, '0.33'],
    ['2/3', 2, '0.67'],
    ['0', 2, '0.00'],
    ['-0.001', 2, '0.00'],
    ['7', 3, '7.000'],
  ])('%s to %i places is %s: half goes away from zero', (text, to, shown) => {
    expect(showRounded(exact(text), to)).toBe(shown)
  })

  test('the rounded value is the nearest, ties away from zero, and a refund is the exact negative', () => {
    fc.assert(
      fc.property(ratio, fc.integer({ min: 0, max: 6 }), ({ n, d, value }, to) => {
        const rounded = roundHalfAway(value, to)
        expect(exact(showRounded(value, to)).equals(rounded)).toBe(true)
        expect(roundHalfAway(value.neg(), to).equals(rounded.neg())).toBe(true)
        // |rounded·10^to·d − n·10^to| · 2 <= d, and at a tie it lies outwards.
        const steps = BigInt(rounded.mul(10n ** BigInt(to)).toFraction())
        const twice = 2n * (steps * d - n * 10n ** BigInt(to))
        const off = twice < 0n ? -twice : twice
        expect(off <= d).toBe(true)
        if (off === d) expect(rounded.abs().compare(value.abs())).toBe(1)
      }),
    )
  })

  test('what has no finite form is printed to 12 places, without zeros at its end', () => {
    expect(showQuantity(exact('1/3'))).toBe('0.333333333333')
    expect(showQuantity(exact('2/3'))).toBe('0.666666666667')
    expect(showQuantity(exact('-1/7000000000000'))).toBe('0')
    expect(showQuantity(new Fraction(10n ** 30n + 1n, 3n * 10n ** 29n))).toBe('3.333333333333')
    expect(
      showQuantity(
        new Fraction(300000000000001n, 30000000000000n * 1n).add(new Fraction(1n, 3n * 10n ** 20n)),
      ),
    ).toBe('10')
  })
})

describe('numbers of JSON', () => {
  test.each([
    ['0', '0'],
    ['-0', '0'],
    ['-0.000e5', '0'],
    ['2.0', '2'],
    ['1e-07', '0.0000001'],
    ['20.594723', '20.594723'],
    ['1.5E3', '1500'],
    ['-12.30e1', '-123'],
    ['123e-2', '1.23'],
    ['999999999999999999999999.999999999999', '999999999999999999999999.999999999999'],
    ['0.1e24', '100000000000000000000000'],
  ])('%s is %s', (source, plain) => {
    expect(decimalOfJsonNumber(source)).toBe(plain)
  })

  test.each([
    '1e24',
    '-1e24',
    '1e-13',
    '0.1234567890123',
    '1e999999999',
    '1e-101',
    '',
    '1.',
    '.1',
    '01',
    '+1',
    '1e',
    'Infinity',
    '"1"',
  ])('%s is refused, never rounded', source => {
    expect(() => decimalOfJsonNumber(source)).toThrow(
      expect.objectContaining({ code: 'VALUE_OUT_OF_BOUNDS' }),
    )
  })

  test('moving the point and undoing it by the exponent changes nothing', () => {
    fc.assert(
      fc.property(scaled, fc.integer({ min: -40, max: 40 }), (value, shift) => {
        const digits = (value < 0n ? -value : value).toString()
        const source = `${value < 0n ? '-' : ''}${digits}${shift >= 0 ? '0'.repeat(digits === '0' ? 0 : shift) : ''}e${shift >= 0 ? -places - shift : -places}`
        expect(decimalOfJsonNumber(source)).toBe(textOf(value))
      }),
    )
  })

  test('whatever JSON prints of a number, its decimal is the same number', () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true, min: -1e21, max: 1e21 }), number => {
        const source = JSON.stringify(number)
        let text: string
        try {
          text = decimalOfJsonNumber(source)
        } catch (error) {
          expect((error as Fault).code).toBe('VALUE_OUT_OF_BOUNDS')
          expect(source).toMatch(/e-|\.\d{13}/)
          return
        }
        expect(Number(text)).toBe(number === 0 ? 0 : number)
      }),
    )
  })
})

describe('printing many quotients', () => {
  const divisor = fc.oneof(
    fc.constantFrom(1n, 2n, 3n, 7n, 1000n, 3600n, 3_600_000n, 3_865_470_566_400n),
    fc.bigInt({ min: 1n, max: 10n ** 25n }),
  )
  // Amounts that the divisor goes into, and its neighbours, where ties and finite decimals are.
  const amounts = fc.tuple(
    fc.oneof(scaled, fc.bigInt({ min: -(10n ** 9n), max: 10n ** 9n })),
    fc.boolean(),
    divisor,
  )

  test('whole numbers print what rationals do', () => {
    fc.assert(
      fc.property(amounts, ([some, isMultiple, by]) => {
        const amount = isMultiple ? (some * by) / 2n : some
        const slow = showQuantity(new Fraction(amount, by * 10n ** BigInt(places)))
        expect(quotientPrinter(by)(amount)).toBe(slow)
      }),
      { numRuns: 2000 },
    )
  })

  test('a decimal of up to 12 places is so many trillionths', () => {
    fc.assert(
      fc.property(scaled, value => {
        expect(trillionths(textOf(value))).toBe(value)
      }),
    )
    expect(trillionths('-0.5')).toBe(-500_000_000_000n)
  })
})
