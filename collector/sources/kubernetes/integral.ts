/** A rate times the seconds of a span inside a window, to twelve decimals, so that windows of any width add up. Pure. */
import Fraction from 'fraction.js'
import { decimalPlacesMax, roundHalfAway } from '../../../schemas/decimal.ts'
import type { Window } from '../../../schemas/window.ts'

/**
 * A seventh of a GPU for an hour has no finite decimal, and windows rounded each by itself would not add up to the
 * day. So each edge is rounded as a distance from the epoch, and what lies between two edges is their difference: where
 * a span is cut changes nothing. What has a finite decimal is not rounded at all.
 * @param ratePerSecond of the unit: GPUs, cores, bytes
 */
export function amountIn(ratePerSecond: Fraction, span: Window, window: Window): Fraction {
  const startMs = Math.max(span.startMs, window.startMs)
  const endMs = Math.min(span.endMs, window.endMs)
  if (startMs >= endMs) return new Fraction(0)
  const since = (ms: number) => roundHalfAway(ratePerSecond.mul(ms).div(1000), decimalPlacesMax)
  return since(endMs).sub(since(startMs))
}
