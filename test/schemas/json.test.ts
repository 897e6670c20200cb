/** JSON without loss: numbers keep their digits, and nothing else changes. */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { expect, test } from 'vitest'
import { decimalOfJsonNumber, show } from '../../schemas/decimal.ts'
import { fractionOf, isJsonObject, JsonNumber, parseExact, stringifyExact } from '../../schemas/json.ts'

test('every number keeps its text, digit for digit', () => {
  for (const text of [
    '0',
    '-0',
    '-0.0',
    '2.0',
    '1e-07',
    '1E5',
    '9007199254740993',
    '123456789.123456789123456789',
    '1e400',
  ])
    expect(parseExact(`{"a":[${text}]}`)).toEqual({ a: [new JsonNumber(text)] })
})

test('an object that looks like a number is not taken for one', () => {
  const value = parseExact('{"text":"5"}')
  expect(value).not.toBeInstanceOf(JsonNumber)
  expect(isJsonObject(value)).toBe(true)
  expect(isJsonObject(parseExact('5'))).toBe(false)
  expect(isJsonObject(parseExact('[]'))).toBe(false)
  expect(isJsonObject(parseExact('null'))).toBe(false)
})

test('a key __proto__ changes no prototype and is left out', () => {
  const value = parseExact('{"__proto__":{"admin":true},"a":{"__proto__":1,"b":2}}')
  expect(Object.getPrototypeOf(value)).toBe(Object.prototype)
  expect(stringifyExact(value)).toBe('{"a":{"b":2}}')
})

test('what is written after reading is what was read', () => {
  fc.assert(
    fc.property(fc.jsonValue({ noUnicodeString: false }), value => {
      const text = JSON.stringify(value)
      fc.pre(!text.includes('"__proto__"'))
      expect(stringifyExact(parseExact(text))).toBe(text)
    }),
  )
  expect(stringifyExact(parseExact('{"a":1.50,"b":[1e-07]}'))).toBe('{"a":1.50,"b":[1e-07]}')
})

test('the rational of a number is exactly its text', () => {
  fc.assert(
    fc.property(
      fc.bigInt({ min: -(10n ** 20n), max: 10n ** 20n }),
      fc.integer({ min: 0, max: 12 }),
      (digits, places) => {
        const sign = digits < 0n ? '-' : ''
        const plain = (digits < 0n ? -digits : digits).toString().padStart(places + 1, '0')
        const text = places === 0 ? sign + plain : `${sign}${plain.slice(0, -places)}.${plain.slice(-places)}`
        const fraction = fractionOf(new JsonNumber(text))
        expect(fraction?.equals(new Fraction(digits, 10n ** BigInt(places)))).toBe(true)
        expect(fraction && show(fraction)).toBe(decimalOfJsonNumber(text))
      },
    ),
  )
  expect(show(fractionOf(new JsonNumber('1.5e-07')) ?? new Fraction(9))).toBe('0.00000015')
  expect(show(fractionOf(new JsonNumber('2E3')) ?? new Fraction(9))).toBe('2000')
  expect(fractionOf(new JsonNumber('1e999999999'))).toBeUndefined()
})

test('what is no JSON is a SyntaxError, never half a value', () => {
  for (const text of ['', '{"a":1', '<html>', 'NaN', '{"a":01}', '[1,]'])
    expect(() => parseExact(text)).toThrow(SyntaxError)
})
