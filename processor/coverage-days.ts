/** Coverage by source and day: how many windows of a day are in which state, and its first gaps with their reasons. */
import { minuteMs, showInstant, type Window } from '../schemas/window.ts'
import { type CoverageSpan, type CoverageState, coveredStates } from './coverage.ts'

/** A gap of a day: consecutive windows of one scope, or one bad item of them. */
export interface DayGap {
  readonly scope?: string
  readonly start: string
  readonly end: string
  readonly state: CoverageState
  readonly windows: number
  /** Of a bad item: whose gap it is, where that can be read. */
  readonly subject?: string
  readonly code?: string
  readonly message?: string
}

export interface CoverageDay {
  readonly source: string
  readonly start: string
  readonly end: string
  /** That were expected, or read. */
  readonly windows: number
  /** Of these windows, by state; states of which there are none are not there. */
  readonly states: Readonly<Partial<Record<CoverageState, number>>>
  readonly gaps: readonly DayGap[]
  /** Gaps beyond those that are named. */
  readonly gaps_more: number
}

/** Of one day and source. */
export const gapsNamedMax = 20

/** What one who is bound to an account may know: that something is missing, and its code, not of whom else or from where. */
export type Teller = 'operator' | 'tenant'

/**
 * The days, in order of source and start; a window is of the day in which it starts. Days of a source of which nothing
 * was expected are not there.
 */
export function coverageDays(
  spans: readonly CoverageSpan[],
  days: readonly Window[],
  teller: Teller,
): readonly CoverageDay[] {
  return [...Map.groupBy(spans, ({ source }) => source)]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .flatMap(([source, ofSource]) =>
      days.flatMap(day => {
        const parts = ofSource.flatMap(span => partOf(span, day) ?? [])
        return parts.length === 0 ? [] : [dayOf(source, day, parts, teller)]
      }),
    )
}

interface Part {
  readonly span: CoverageSpan
  readonly window: Window
  readonly count: number
}

/** Those windows of a run that start within the day. */
function partOf(span: CoverageSpan, day: Window): Part | undefined {
  const { startMs, endMs } = span.window
  const widthMs = span.widthMinutes * minuteMs
  const skipped = Math.max(0, Math.ceil((day.startMs - startMs) / widthMs))
  const until = Math.min(
    Math.round((endMs - startMs) / widthMs),
    Math.max(0, Math.ceil((day.endMs - startMs) / widthMs)),
  )
  if (until <= skipped) return undefined
  const window = { startMs: startMs + skipped * widthMs, endMs: startMs + until * widthMs }
  return { span, window, count: until - skipped }
}

function dayOf(source: string, day: Window, parts: readonly Part[], teller: Teller): CoverageDay {
  const states: Partial<Record<CoverageState, number>> = {}
  for (const { span, count } of parts)
    if (!span.isItem) states[span.state] = (states[span.state] ?? 0) + count
  const gaps = parts.filter(({ span }) => !coveredStates.has(span.state))
  return {
    source,
    start: showInstant(day.startMs),
    end: showInstant(day.endMs),
    windows: Object.values(states).reduce((sum, count) => sum + count, 0),
    states,
    gaps: gaps.slice(0, gapsNamedMax).map(part => gapOf(part, teller)),
    gaps_more: Math.max(0, gaps.length - gapsNamedMax),
  }
}

function gapOf({ span: { scope, state, subject, fault }, window, count }: Part, teller: Teller): DayGap {
  return {
    start: showInstant(window.startMs),
    end: showInstant(window.endMs),
    state,
    windows: count,
    ...(subject !== undefined && { subject }),
    ...(fault && { code: fault.code }),
    ...(teller === 'operator' && { scope, ...(fault && { message: fault.message }) }),
  }
}
