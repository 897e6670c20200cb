/**
 * What samples say of a window: how much a counter grew, and a gauge times the time. Sums of neighbouring windows are
 * those of the whole, however time is cut; no float holds a quantity. Pure.
 */
import Fraction from 'fraction.js'
import { Fault } from '../schemas/fault.ts'
import { showInstant, type Window } from '../schemas/window.ts'

/** One sample of one series. */
export interface Sample {
  readonly atMs: number
  /** As the provider printed it: `17`, `0.25`, `1.5e+09`; `NaN` says that there is no value at this time. */
  readonly value: string
}

/**
 * What one unit of a sample is in the unit of the measure: a decimal times a ratio, rounded once a sample, half away
 * from zero, to `places`. Rounding samples, not sums, is what lets windows of any width still add up.
 */
export interface Scale {
  readonly perUnit: Fraction
  readonly places: number
}

export interface CounterOptions {
  /**
   * What the first sample counts where none is before it. `first`: nothing, it is only where counting begins.
   * `zero`: its whole value, for who knows that the counter began at zero inside the window of this sample, or after
   * the one before.
   */
  readonly firstSight: 'first' | 'zero'
  readonly scale?: Scale
}

export interface Growth {
  /** In the unit of the samples, or of `scale`. */
  readonly growth: Fraction
  /** How often the counter began anew in this window. */
  readonly resets: number
  /** How many samples of this window were counted. */
  readonly samples: number
}

/**
 * How much a counter grew in the window. What is between two samples belongs to the window that holds the later one,
 * `[start, end)`; a sample that is less than the one before began anew at zero. So a gap loses nothing: the next
 * sample counts for it. NaN is passed over.
 * @param samples of one series, in any order: those of the window, and the last one before it. Others change nothing.
 * @throws Fault ITEM_UNREADABLE for a value that is negative or no number, and for two values at one time.
 */
export function counterGrowth(samples: readonly Sample[], window: Window, options: CounterOptions): Growth {
  const { firstSight, scale } = options
  let growth = nothing
  let resets = 0
  let counted = 0
  // A rise from `base` to `before` is added when it ends: what lies between them cancels.
  let base: Sample | undefined
  let before: Sample | undefined
  for (const sample of inOrder(samples)) {
    if (sample.atMs >= window.endMs) break
    if (isNone(sample)) continue
    if (sample.atMs < window.startMs) {
      base = sample
      before = sample
      continue
    }
    counted += 1
    if (before === undefined) {
      base = sample
      if (firstSight === 'zero') growth = plus(growth, scaledOf(sample, scale))
    } else if (isLess(sample, before)) {
      growth = plus(growth, rise(base, before, scale))
      growth = plus(growth, scaledOf(sample, scale))
      base = sample
      resets += 1
    }
    before = sample
  }
  growth = plus(growth, rise(base, before, scale))
  return { growth: fractionOf(growth), resets, samples: counted }
}

export interface GaugeOptions {
  /** How long a sample holds where no other follows: what is beyond is not known, and counts nothing. */
  readonly maxGapMs: number
  readonly scale?: Scale
}

export interface Integral {
  /** Value times seconds, the value in the unit of the samples or of `scale`. */
  readonly integral: Fraction
  /** How much of the window the samples speak for. */
  readonly coveredMs: number
  /** How many samples were counted: those of the window, and one before it that held into it. */
  readonly samples: number
}

/**
 * A gauge times the time in the window: each sample holds until the next, at most `maxGapMs`. NaN ends what the one
 * before said, and says nothing itself.
 * @param samples of one series, in any order: those of the window, and of `maxGapMs` before it. Others change nothing.
 * @throws Fault ITEM_UNREADABLE for a value that is negative or no number, and for two values at one time.
 */
export function gaugeIntegral(samples: readonly Sample[], window: Window, options: GaugeOptions): Integral {
  const { maxGapMs, scale } = options
  const sorted = inOrder(samples)
  let sum = nothing
  let coveredMs = 0
  let counted = 0
  // Samples that repeat a value are one, held for as long as all of them.
  let held: Sample | undefined
  let heldMs = 0
  for (const [index, sample] of sorted.entries()) {
    if (sample.atMs >= window.endMs) break
    if (isNone(sample)) continue
    const nextMs = sorted[index + 1]?.atMs ?? Number.POSITIVE_INFINITY
    const fromMs = Math.max(sample.atMs, window.startMs)
    const toMs = Math.min(nextMs, sample.atMs + maxGapMs, window.endMs)
    if (toMs <= fromMs) continue
    if (held?.value !== sample.value) {
      sum = plus(sum, timesMs(held, heldMs, scale))
      held = sample
      heldMs = 0
    }
    heldMs += toMs - fromMs
    coveredMs += toMs - fromMs
    counted += 1
  }
  sum = plus(sum, timesMs(held, heldMs, scale))
  return { integral: fractionOf(sum).div(1000), coveredMs, samples: counted }
}

/**
 * One sample in units of 10^-`places` of the measure: for who divides or sums samples before they are held against time.
 * @throws Fault ITEM_UNREADABLE for a value that is negative or no number
 */
export function unitsOf(sample: Sample, scale: Scale): bigint {
  return scaledOf(sample, scale).units
}

/** Rising in time, each time once. Providers give them so; pages that overlap repeat some. */
function inOrder(samples: readonly Sample[]): readonly Sample[] {
  if (samples.every((sample, index) => index === 0 || (samples[index - 1]?.atMs ?? 0) < sample.atMs))
    return samples
  const sorted: Sample[] = []
  for (const sample of [...samples].sort((a, b) => a.atMs - b.atMs)) {
    const last = sorted.at(-1)
    if (last?.atMs !== sample.atMs) sorted.push(sample)
    else if (last.value !== sample.value)
      throw new Fault(
        'ITEM_UNREADABLE',
        `at ${showInstant(sample.atMs)} it has two values, ${clip(last.value)} and ${clip(sample.value)}`,
      )
  }
  return sorted
}

function isNone(sample: Sample): boolean {
  return sample.value === 'NaN'
}

/** Floats decide where they differ, for rounding keeps the order; where they do not, the digits do. */
function isLess(a: Sample, b: Sample): boolean {
  if (a.value === b.value) return false
  const [x, y] = [floatOf(a), floatOf(b)]
  if (x !== y) return x < y
  const [exactX, exactY] = alike(scaledOf(a), scaledOf(b))
  return exactX < exactY
}

/** For comparing only. @throws Fault ITEM_UNREADABLE */
function floatOf(sample: Sample): number {
  const float = Number(sample.value)
  if (!(float >= 0 && float < Number.POSITIVE_INFINITY)) scaledOf(sample)
  return float
}

/** `units` of 10^-places: sums of these are much cheaper than sums of rationals. */
interface Scaled {
  readonly units: bigint
  readonly places: number
}
const nothing: Scaled = { units: 0n, places: 0 }

function rise(base: Sample | undefined, last: Sample | undefined, scale: Scale | undefined): Scaled {
  if (base === undefined || last === undefined || base === last) return nothing
  const [from, to, places] = alike(scaledOf(base, scale), scaledOf(last, scale))
  return { units: to - from, places }
}

function timesMs(sample: Sample | undefined, ms: number, scale: Scale | undefined): Scaled {
  if (sample === undefined) return nothing
  const { units, places } = scaledOf(sample, scale)
  return { units: units * BigInt(ms), places }
}

function plus(a: Scaled, b: Scaled): Scaled {
  const [x, y, places] = alike(a, b)
  return { units: x + y, places }
}

/** The units of both at the places of the finer one. */
function alike(a: Scaled, b: Scaled): readonly [bigint, bigint, number] {
  const places = Math.max(a.places, b.places)
  const at = (one: Scaled) =>
    one.places === places ? one.units : one.units * 10n ** BigInt(places - one.places)
  return [at(a), at(b), places]
}

function fractionOf({ units, places }: Scaled): Fraction {
  return new Fraction(units, 10n ** BigInt(places))
}

const sampleShape = /^(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d{1,3}))?$/

/** @throws Fault ITEM_UNREADABLE: no quantity is negative or endless. */
function scaledOf(sample: Sample, scale?: Scale): Scaled {
  const match = sampleShape.exec(sample.value === '-0' ? '0' : sample.value)
  if (!match)
    throw new Fault(
      'ITEM_UNREADABLE',
      `its value at ${showInstant(sample.atMs)}, "${clip(sample.value)}", is no quantity`,
    )
  const [, whole = '', fraction = '', exponent = '0'] = match
  const digits = BigInt(whole + fraction)
  const places = fraction.length - Number(exponent)
  const value: Scaled =
    places >= 0 ? { units: digits, places } : { units: digits * 10n ** BigInt(-places), places: 0 }
  return scale === undefined ? value : rounded(value, scale)
}

/** Neither is negative, so half away from zero is half up. */
function rounded({ units, places }: Scaled, scale: Scale): Scaled {
  const { n, d } = scale.perUnit
  const over = d * 10n ** BigInt(places)
  const numerator = units * n * 10n ** BigInt(scale.places)
  return { units: (2n * numerator + over) / (2n * over), places: scale.places }
}

function clip(text: string): string {
  return text.length > 40 ? `${text.slice(0, 40)}…` : text
}
