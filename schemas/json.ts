/** JSON read without loss: every number keeps the text it was written in. Pure. */
import Fraction from 'fraction.js'

/**
 * A number as it stood in the text, digit for digit: `2.0`, `1e-07` and 2^60+1 stay what they are.
 * A class, not a plain object, so that no `{"text": …}` of a provider can pass for one.
 */
export class JsonNumber {
  readonly text: string

  constructor(text: string) {
    this.text = text
  }
}

export type Json = null | boolean | string | JsonNumber | readonly Json[] | JsonObject
export interface JsonObject {
  readonly [name: string]: Json | undefined
}

/**
 * JSON.parse with exact numbers. A key `__proto__` is left out: nobody's data is called that, and a later copy of the
 * object would take it for its prototype.
 * @throws SyntaxError where the text is no JSON; the caller knows whose fault that is.
 */
export function parseExact(text: string): Json {
  return JSON.parse(text, (key: string, value: unknown, context?: { readonly source?: string }) => {
    if (key === '__proto__') return undefined
    return typeof value === 'number' ? new JsonNumber(context?.source ?? String(value)) : value
  }) as Json
}

/** The way back: numbers are written as they were read. */
export function stringifyExact(value: Json, indent?: number): string {
  // JSON.rawJSON is not in TypeScript's library yet.
  const { rawJSON } = JSON as unknown as { readonly rawJSON: (text: string) => unknown }
  return JSON.stringify(
    value,
    (_, part: unknown) => (part instanceof JsonNumber ? rawJSON(part.text) : part),
    indent,
  )
}

export function isJsonObject(value: Json | undefined): value is JsonObject {
  return (
    typeof value === 'object' && value !== null && !(value instanceof JsonNumber) && !Array.isArray(value)
  )
}

export function isJsonArray(value: Json | undefined): value is readonly Json[] {
  return Array.isArray(value)
}

const numberShape = /^(-?)(0|[1-9]\d*)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/
/** No quantity of anything has more digits; beyond, a short text such as 1e999999999 would fill the memory. */
const exponentMax = 100

/** The number as a rational, exactly; undefined where its exponent is beyond ±100. */
export function fractionOf(number: JsonNumber): Fraction | undefined {
  const match = numberShape.exec(number.text)
  if (!match) return undefined
  const [, sign = '', whole = '', fraction = '', exponentText = '0'] = match
  const exponent = Number(exponentText)
  if (Math.abs(exponent) > exponentMax) return undefined
  const digits = BigInt(`${sign}${whole}${fraction}`)
  const places = fraction.length - exponent
  return places >= 0
    ? new Fraction(digits, 10n ** BigInt(places))
    : new Fraction(digits * 10n ** BigInt(-places))
}
