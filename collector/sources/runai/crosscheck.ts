/**
 * Holds what was read of a workload against what Run:ai says of it elsewhere: intervals against its own count of running
 * seconds, and against samples of its allocation. A difference is for a person to look at; the intervals count. Pure.
 */
import Fraction from 'fraction.js'
import Type, { type Static } from 'typebox'
import { exact, showQuantity } from '../../../schemas/decimal.ts'
import { secondMs, type Window } from '../../../schemas/window.ts'
import { gaugeIntegral, type Sample } from '../../samples.ts'

export const RunaiCrossCheckConfig = Type.Object(
  {
    enabled: Type.Boolean({
      default: true,
      description:
        'Hold intervals against totalRunningTimeSeconds (from 2.23) and, with metrics, against samples of GPU_ALLOCATION; coverage names what differs as FIGURES_DIFFER, and it counts all the same.',
    }),
    toleranceSeconds: Type.Integer({
      default: 120,
      minimum: 0,
      maximum: 86_400,
      description:
        'What each start and end may be apart, on each GPU: phases change before containers start and after they end, and samples are a scrape apart.',
    }),
    tolerancePercent: Type.String({
      default: '1',
      pattern: '^(100|[0-9]{1,2})(\\.[0-9]{1,6})?$',
      description: 'What the larger of two figures may be more besides, for scrapes that were missed.',
    }),
  },
  { additionalProperties: false, default: {}, description: "Hold intervals against Run:ai's own totals." },
)
export type RunaiCrossCheckConfig = Static<typeof RunaiCrossCheckConfig>

export type Tolerance = Pick<RunaiCrossCheckConfig, 'toleranceSeconds' | 'tolerancePercent'>

/**
 * How the times in which any pod of a workload ran differ from Run:ai's count, which is a total over all suspends.
 * @param runs of all pods that it ever had, in any order; only who knows all of them may ask
 * @param toldAtMs when the count was taken: what runs on is counted up to here
 * @returns a sentence, or undefined where they agree
 */
export function runningTimeDoubt(
  runs: readonly Window[],
  totalRunningTimeSeconds: Fraction,
  toldAtMs: number,
  tolerance: Tolerance,
): string | undefined {
  const merged = union(runs.map(({ startMs, endMs }) => ({ startMs, endMs: Math.min(endMs, toldAtMs) })))
  const ours = merged.reduce(
    (sum, run) => sum.add(new Fraction(run.endMs - run.startMs, secondMs)),
    new Fraction(0),
  )
  const edges = new Fraction(2 * tolerance.toleranceSeconds * Math.max(1, merged.length))
  if (!isApart(ours, totalRunningTimeSeconds, edges, tolerance)) return undefined
  return `its pods ran ${showQuantity(ours)} s, totalRunningTimeSeconds is ${showQuantity(totalRunningTimeSeconds)}`
}

export interface AllocatedPod {
  readonly gpus: Fraction
  readonly runs: readonly Window[]
}

/**
 * How GPUs times the intervals of a workload's pods differ from samples of its GPU_ALLOCATION, where there are samples.
 * @param pods all of the workload that ran in the window
 * @returns a sentence, or undefined where they agree
 * @throws Fault ITEM_UNREADABLE for a sample that is no quantity
 */
export function allocationDoubt(
  pods: readonly AllocatedPod[],
  samples: readonly Sample[],
  window: Window,
  tolerance: Tolerance & { readonly maxGapMs: number },
): string | undefined {
  const { maxGapMs } = tolerance
  const told = union(toldSpans(samples, window, maxGapMs))
  if (told.length === 0) return undefined
  let ours = new Fraction(0)
  let edges = new Fraction(0)
  for (const { gpus, runs } of pods) {
    const merged = union(runs)
    for (const span of told)
      for (const run of merged) {
        const ms = Math.min(run.endMs, span.endMs) - Math.max(run.startMs, span.startMs)
        if (ms > 0) ours = ours.add(gpus.mul(ms).div(secondMs))
      }
    const changes = merged
      .flatMap(run => [run.startMs, run.endMs])
      .filter(ms => ms > window.startMs - maxGapMs && ms < window.endMs + maxGapMs).length
    edges = edges.add(gpus.mul(changes * tolerance.toleranceSeconds))
  }
  const theirs = gaugeIntegral(samples, window, { maxGapMs }).integral
  if (!isApart(ours, theirs, edges, tolerance)) return undefined
  return `gpu_seconds ${showQuantity(ours)} by its pods, ${showQuantity(theirs)} by samples of GPU_ALLOCATION`
}

function isApart(a: Fraction, b: Fraction, edges: Fraction, tolerance: Tolerance): boolean {
  const larger = a.compare(b) > 0 ? a : b
  const allowed = edges.add(larger.mul(exact(tolerance.tolerancePercent)).div(100))
  return a.sub(b).abs().compare(allowed) > 0
}

/** The times of the window for which a sample speaks. */
function toldSpans(samples: readonly Sample[], window: Window, maxGapMs: number): readonly Window[] {
  const sorted = [...samples].sort((a, b) => a.atMs - b.atMs)
  return sorted.flatMap((sample, index) => {
    if (sample.value === 'NaN') return []
    const nextMs = sorted[index + 1]?.atMs ?? Number.POSITIVE_INFINITY
    const startMs = Math.max(sample.atMs, window.startMs)
    const endMs = Math.min(nextMs, sample.atMs + maxGapMs, window.endMs)
    return startMs < endMs ? [{ startMs, endMs }] : []
  })
}

/** Spans in order, those that touch or overlap made one. */
export function union(spans: readonly Window[]): readonly Window[] {
  const merged: Window[] = []
  for (const span of [...spans].sort((a, b) => a.startMs - b.startMs)) {
    if (span.startMs >= span.endMs) continue
    const last = merged.at(-1)
    if (last === undefined || last.endMs < span.startMs) merged.push(span)
    else if (last.endMs < span.endMs) merged[merged.length - 1] = { startMs: last.startMs, endMs: span.endMs }
  }
  return merged
}
