/** Exact decimals and rationals: text in, Fraction inside, text out. No float ever holds a quantity or money. Pure. */
import Fraction from 'fraction.js'
import { Fault } from './fault.ts'

/** An exact number as text: an optional minus, digits, an optional point and digits. No exponent, no plus. */
export type DecimalText = string

/** Bounds of every value Meterline keeps: |v| < 1e24 and at most 12 decimals (Decimal(38,12) in ClickHouse). */
export const decimalDigitsMax = 24
export const decimalPlacesMax = 12

const decimalShape = /^-?(?:0|[1-9]\d*)(?:\.\d+)?$/
const boundedShape = /^-?(?:0|[1-9]\d{0,23})(?:\.\d{1,12})?$/
const jsonNumberShape = /^(-?)(0|[1-9]\d*)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/

/** Is this text a decimal within the bounds of a stored value? Cheap: for the hot path. */
export function isBoundedDecimal(text: string): boolean {
  return boundedShape.test(text)
}

/**
 * Reads a decimal, or an exact ratio written `n/d`.
 * @throws Fault VALUE_OUT_OF_BOUNDS when the text is neither.
 */
export function exact(text: string): Fraction {
  const [numerator = '', denominator, ...rest] = text.split('/')
  if (
    rest.length > 0 ||
    !decimalShape.test(numerator) ||
    (denominator !== undefined && (!decimalShape.test(denominator) || /^-?0(?:\.0+)?$/.test(denominator)))
  )
    throw new Fault('VALUE_OUT_OF_BOUNDS', `"${clip(text)}" is not a decimal`, { value: clip(text) })
  const value = new Fraction(numerator)
  return denominator === undefined ? value : value.div(denominator)
}

/**
 * A JSON number's source text (which may have an exponent) as a plain decimal, digit for digit:
 * `1e-07` → `0.0000001`, `2.0` → `2`.
 * @throws Fault VALUE_OUT_OF_BOUNDS beyond 1e24 or 12 decimals, or where the text is no JSON number.
 */
export function decimalOfJsonNumber(text: string): DecimalText {
  const match = jsonNumberShape.exec(text)
  const exponent = Number(match?.[4] ?? '0')
  if (!match || Math.abs(exponent) > 100)
    throw new Fault('VALUE_OUT_OF_BOUNDS', `"${clip(text)}" is not a number within bounds`, {
      value: clip(text),
    })
  const [, sign = '', whole = '', fraction = ''] = match
  const digits = whole + fraction
  const point = whole.length + exponent
  const padded = point <= 0 ? '0'.repeat(1 - point) + digits : digits.padEnd(point, '0')
  const cut = Math.max(point, 1)
  const left = padded.slice(0, cut).replace(/^0+(?=\d)/, '')
  const right = padded.slice(cut).replace(/0+$/, '')
  const plain = right === '' ? left : `${left}.${right}`
  const shown = plain === '0' ? '0' : sign + plain
  if (!isBoundedDecimal(shown))
    throw new Fault('VALUE_OUT_OF_BOUNDS', `${clip(text)} is beyond 1e24 or has more than 12 decimals`, {
      value: clip(text),
    })
  return shown
}

/** Has this rational a finite decimal form? */
export function isTerminating(value: Fraction): boolean {
  let rest = value.d
  while (rest % 2n === 0n) rest /= 2n
  while (rest % 5n === 0n) rest /= 5n
  return rest === 1n
}

/** The shortest decimal where there is one, else `n/d` in lowest terms. */
export function show(value: Fraction): string {
  if (!isTerminating(value)) return `${value.s < 0n ? '-' : ''}${value.n}/${value.d}`
  let places = 0
  let scale = 1n
  while (scale % value.d !== 0n) {
    scale *= 10n
    places += 1
  }
  return printScaled(value.s * value.n * (scale / value.d), places)
}

/**
 * The decimal rounded to `places`, half away from zero, trailing zeros kept (`2.50` for 2 places).
 * The one rounding rule of Meterline (facts: nobody in the field defaults to banker's; a refund is the exact negative).
 */
export function showRounded(value: Fraction, places: number): DecimalText {
  return printScaled(scaledHalfAway(value, places), places)
}

/** Rounded to `places`, half away from zero, as a rational again. */
export function roundHalfAway(value: Fraction, places: number): Fraction {
  return new Fraction(scaledHalfAway(value, places), 10n ** BigInt(places))
}

/** Rounded to `places`, ties to the even digit: for price books that ask for it. */
export function roundHalfEven(value: Fraction, places: number): Fraction {
  const scale = 10n ** BigInt(places)
  const numerator = value.n * scale
  const whole = numerator / value.d
  const twice = 2n * (numerator % value.d)
  const up = twice > value.d || (twice === value.d && whole % 2n === 1n)
  return new Fraction(value.s * (up ? whole + 1n : whole), scale)
}

/** The shortest decimal; what has no finite one is printed to 12 places, half away from zero. */
export function showQuantity(value: Fraction): DecimalText {
  if (isTerminating(value)) return show(value)
  return showRounded(value, decimalPlacesMax).replace(/\.?0+$/, '')
}

/**
 * Prints quotients of one divisor as `showQuantity` does, of amounts in units of 1e-12. In whole numbers, with what the
 * divisor decides worked out once: for hundreds of thousands of rows.
 */
export function quotientPrinter(divisor: bigint): (amount: bigint) => DecimalText {
  assertPositive(divisor)
  // divisor = odd × 2^twos × 5^fives: only `odd` keeps a quotient from being a finite decimal.
  let odd = divisor
  let twos = 0
  let fives = 0
  for (; odd % 2n === 0n; twos += 1) odd /= 2n
  for (; odd % 5n === 0n; fives += 1) odd /= 5n
  const places = Math.max(twos, fives)
  const factor = 2n ** BigInt(places - twos) * 5n ** BigInt(places - fives)
  return amount => {
    if (odd === 1n || amount % odd === 0n)
      return printTrimmed((amount / odd) * factor, decimalPlacesMax + places)
    const twice = 2n * (amount < 0n ? -amount : amount)
    const rounded = (twice + divisor) / (2n * divisor)
    return printTrimmed(amount < 0n ? -rounded : rounded, decimalPlacesMax)
  }
}

/** A decimal of at most 12 places, as ClickHouse prints it, in units of 1e-12. */
export function trillionths(text: DecimalText): bigint {
  const point = text.indexOf('.')
  if (point < 0) return BigInt(text) * trillion
  return BigInt(text.slice(0, point) + text.slice(point + 1).padEnd(decimalPlacesMax, '0'))
}

const trillion = 10n ** BigInt(decimalPlacesMax)

function assertPositive(divisor: bigint): void {
  if (divisor <= 0n) throw new Error(`a divisor is above 0, not ${divisor}`)
}

function printTrimmed(scaled: bigint, places: number): string {
  const text = printScaled(scaled, places)
  if (places === 0) return text
  let end = text.length
  while (text.charCodeAt(end - 1) === 48) end -= 1
  return text.slice(0, text.charCodeAt(end - 1) === 46 ? end - 1 : end)
}

function scaledHalfAway(value: Fraction, places: number): bigint {
  const numerator = value.n * 10n ** BigInt(places)
  const rounded = (2n * numerator + value.d) / (2n * value.d)
  return value.s < 0n ? -rounded : rounded
}

function printScaled(scaled: bigint, places: number): string {
  const sign = scaled < 0n ? '-' : ''
  const digits = (scaled < 0n ? -scaled : scaled).toString().padStart(places + 1, '0')
  if (places === 0) return sign + digits
  return `${sign}${digits.slice(0, -places)}.${digits.slice(-places)}`
}

function clip(text: string): string {
  return text.length > 60 ? `${text.slice(0, 60)}…` : text
}
