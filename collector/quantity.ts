/** Kubernetes quantities, exactly: `100m`, `1Gi`, `1e3` in billionths, the finest that Kubernetes keeps. Pure. */
import Fraction from 'fraction.js'

/** Billionths of the unit: of a core, a byte, a device. */
export type Nano = bigint

const nanoPerUnit = 1_000_000_000n

const shape = /^([+-]?)(\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?\d{1,3})?$/
const binarySuffixes = ['Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei']
const decimalExponents: Readonly<Record<string, number>> = {
  n: -9,
  u: -6,
  m: -3,
  k: 3,
  M: 6,
  G: 9,
  T: 12,
  P: 15,
  E: 18,
}

/**
 * What the text of a quantity says; undefined where it is none. `1E` is exa, `1E3` an exponent. What is finer than a
 * billionth is rounded away from zero, as the API server does before anyone sees it. Beyond 2^63-1 units, Kubernetes cuts
 * some texts off and others not; here they are what they say.
 */
export function nanoOf(text: string): Nano | undefined {
  const match = shape.exec(text)
  if (!match) return undefined
  const [, sign, digits = '', suffix = ''] = match
  const [whole = '', decimals = ''] = digits.split('.')
  let numerator = BigInt(whole + decimals) * nanoPerUnit
  let denominator = 10n ** BigInt(decimals.length)
  const binary = binarySuffixes.indexOf(suffix)
  if (binary >= 0) numerator *= 1024n ** BigInt(binary + 1)
  else {
    const exponent = decimalExponents[suffix] ?? Number(suffix.slice(1))
    // An exponent of three digits is no quantity of anything, and costs nothing to refuse.
    if (Math.abs(exponent) > 99) return undefined
    if (exponent >= 0) numerator *= 10n ** BigInt(exponent)
    else denominator *= 10n ** BigInt(-exponent)
  }
  const rounded = (numerator + denominator - 1n) / denominator
  return sign === '-' ? -rounded : rounded
}

/** The same in whole units, as a rational. */
export function unitsOf(nano: Nano): Fraction {
  return new Fraction(nano, nanoPerUnit)
}
