/** The steps in which usage is shown, by any calendar of the world, as runs of windows of one width. Pure. */
import { Fault } from './fault.ts'
import { dayMs, hourMs, minuteMs, secondMs, showWindow, type Window } from './window.ts'

/** Steps by name: of the clock and the calendar of a zone. Weeks begin on Monday. */
export const stepNames = ['MINUTE', 'HOUR', 'DAY', 'WEEK', 'MONTH'] as const

/**
 * `clock`: whole minutes or hours of the zone's clock. `fixed`: a length of time, whatever clocks say; lengths that divide
 * a day lie as they do on a UTC day, others begin where the span does. `calendar`: days or months of the zone, from its
 * midnights; `aligned` to the calendar's own weeks and months, else counted from the day on which the span begins.
 */
export type Step =
  | { readonly kind: 'clock'; readonly widthMs: number }
  | { readonly kind: 'fixed'; readonly widthMs: number }
  | {
      readonly kind: 'calendar'
      readonly unit: 'days' | 'months'
      readonly count: number
      readonly aligned: boolean
    }

/** `count` windows, each `widthMs` long, the first of which begins at `startMs`, without a hole between them. */
export interface WindowRun {
  readonly startMs: number
  readonly widthMs: number
  readonly count: number
}

/** Of one answer: more are refused before they are made. 69 days of minutes, or eleven years of hours. */
export const windowsMax = 100_000

const named: Readonly<Record<(typeof stepNames)[number], Step>> = {
  MINUTE: { kind: 'clock', widthMs: minuteMs },
  HOUR: { kind: 'clock', widthMs: hourMs },
  DAY: { kind: 'calendar', unit: 'days', count: 1, aligned: true },
  WEEK: { kind: 'calendar', unit: 'days', count: 7, aligned: true },
  MONTH: { kind: 'calendar', unit: 'months', count: 1, aligned: true },
}

const duration =
  /^P(?=.)(?:(\d{1,6})Y)?(?:(\d{1,6})M)?(?:(\d{1,6})W)?(?:(\d{1,6})D)?(?:T(?=.)(?:(\d{1,6})H)?(?:(\d{1,7})M)?(?:(\d{1,9})S)?)?$/

/**
 * A step by its name, or an ISO 8601 duration in whole numbers: of months and years, of weeks and days, or of time.
 * @throws Fault USAGE for anything else: P1M15D and P1DT6H are as long as the calendar makes them, so they tile nothing.
 */
export function parseStep(text: string): Step {
  if (Object.hasOwn(named, text)) return named[text as keyof typeof named]
  const parts = duration.exec(text)
  if (!parts)
    throw new Fault(
      'USAGE',
      `window "${text}": it is one of ${stepNames.join(', ')}, or an ISO 8601 duration such as PT15M, P1W or P3M`,
    )
  const [years, months, weeks, days, hours, minutes, seconds] = parts.slice(1).map(part => Number(part ?? 0))
  const monthCount = (years ?? 0) * 12 + (months ?? 0)
  const dayCount = (weeks ?? 0) * 7 + (days ?? 0)
  const widthMs = (hours ?? 0) * hourMs + (minutes ?? 0) * minuteMs + (seconds ?? 0) * secondMs
  const kinds = [monthCount, dayCount, widthMs].filter(length => length > 0)
  if (kinds.length !== 1)
    throw new Fault(
      'USAGE',
      kinds.length === 0
        ? `window "${text}" has no length`
        : `window "${text}" mixes months, days and time: take one of them`,
    )
  if (widthMs > 0) return { kind: 'fixed', widthMs }
  return monthCount > 0
    ? { kind: 'calendar', unit: 'months', count: monthCount, aligned: false }
    : { kind: 'calendar', unit: 'days', count: dayCount, aligned: false }
}

/**
 * The windows of a step that touch the span, cut to it, oldest first; without a step the span is one. They tile it
 * without hole or overlap. A day on which the clocks change has 23 or 25 hours, one that a zone left out is none.
 * @throws Fault USAGE for more than `windowsMax`
 */
export function windowRuns(span: Window, step: Step | undefined, zone: string): readonly WindowRun[] {
  const runs = new Runs(span)
  if (span.startMs >= span.endMs) return []
  if (step?.kind === 'clock') cutByClock(runs, span, step.widthMs, zone)
  else if (step?.kind === 'calendar') cutByCalendar(runs, span, step, zone)
  else if (step?.kind === 'fixed') {
    const { widthMs } = step
    const originMs = dayMs % widthMs === 0 ? 0 : span.startMs
    runs.cutEvery(nextMultiple(span.startMs, widthMs, originMs), widthMs, span.endMs)
  }
  return runs.end()
}

/** The windows of runs one by one. */
export function* windowsIn(runs: readonly WindowRun[]): Generator<Window> {
  for (const { startMs, widthMs, count } of runs)
    for (let index = 0; index < count; index += 1)
      yield { startMs: startMs + index * widthMs, endMs: startMs + (index + 1) * widthMs }
}

/** The window of runs that holds the instant, found by halving; undefined outside of them. */
export function windowHolding(runs: readonly WindowRun[], ms: number): Window | undefined {
  let low = 0
  let high = runs.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (runs[middle]!.startMs <= ms) low = middle + 1
    else high = middle
  }
  const run = runs[low - 1]
  if (!run) return undefined
  const index = Math.floor((ms - run.startMs) / run.widthMs)
  if (index >= run.count) return undefined
  const startMs = run.startMs + index * run.widthMs
  return { startMs, endMs: startMs + run.widthMs }
}

/** Cuts a span at instants that come in order; neighbours of one width become a run. */
class Runs {
  readonly #span: Window
  readonly #runs: { startMs: number; widthMs: number; count: number }[] = []
  #openMs: number
  #count = 0

  constructor(span: Window) {
    this.#span = span
    this.#openMs = span.startMs
  }

  /** Ends the open window here; where it would be empty nothing happens. */
  cut(ms: number): void {
    if (ms > this.#openMs) this.#add(ms - this.#openMs, 1)
  }

  /** Cuts at `firstMs` and then every `widthMs`, at all places before `endMs`. */
  cutEvery(firstMs: number, widthMs: number, endMs: number): void {
    if (firstMs >= endMs) return
    this.cut(firstMs)
    const count = Math.ceil((endMs - firstMs) / widthMs) - 1
    if (count > 0) this.#add(widthMs, count)
  }

  end(): readonly WindowRun[] {
    this.cut(this.#span.endMs)
    return this.#runs
  }

  #add(widthMs: number, count: number): void {
    this.#count += count
    if (this.#count > windowsMax)
      throw new Fault(
        'USAGE',
        `${showWindow(this.#span)} has more than ${windowsMax} windows of this step: ask for less time, or a wider window`,
      )
    const last = this.#runs.at(-1)
    if (last?.widthMs === widthMs) last.count += count
    else this.#runs.push({ startMs: this.#openMs, widthMs, count })
    this.#openMs += widthMs * count
  }
}

/** The first place after `ms` that is a whole number of widths from the origin. */
function nextMultiple(ms: number, widthMs: number, originMs: number): number {
  return originMs + (Math.floor((ms - originMs) / widthMs) + 1) * widthMs
}

/**
 * Between two changes of its clocks a zone has one offset. A change itself begins a window where the clock shows a whole
 * hour after it, or another hour than before: Lord Howe's clocks change by half an hour, so that its hour of the change
 * has 30 or 90 minutes.
 */
function cutByClock(runs: Runs, span: Window, widthMs: number, zone: string): void {
  let at = Temporal.Instant.fromEpochMilliseconds(span.startMs).toZonedDateTimeISO(zone)
  let offsetMs = at.offsetNanoseconds / 1e6
  for (;;) {
    const next = at.getTimeZoneTransition('next')
    const endMs = Math.min(next?.epochMilliseconds ?? span.endMs, span.endMs)
    runs.cutEvery(nextMultiple(at.epochMilliseconds, widthMs, -offsetMs), widthMs, endMs)
    if (next === null || next.epochMilliseconds >= span.endMs) return
    const changeMs = next.epochMilliseconds
    const localMs = changeMs + next.offsetNanoseconds / 1e6
    const before = Math.floor((changeMs - 1 + offsetMs) / widthMs)
    if (localMs % widthMs === 0 || Math.floor(localMs / widthMs) !== before) runs.cut(changeMs)
    at = next
    offsetMs = next.offsetNanoseconds / 1e6
  }
}

function cutByCalendar(
  runs: Runs,
  span: Window,
  step: Extract<Step, { kind: 'calendar' }>,
  zone: string,
): void {
  const first = firstDay(span.startMs, step, zone)
  // Counted from the first each time: from 31 January by months are the 28th of February and the 31st of March.
  for (let index = 1; ; index += 1) {
    const day = first.add({ [step.unit]: index * step.count }, { overflow: 'constrain' })
    const startMs = day.toZonedDateTime(zone).epochMilliseconds
    if (startMs >= span.endMs) return
    runs.cut(startMs)
  }
}

function firstDay(
  ms: number,
  { unit, count, aligned }: Extract<Step, { kind: 'calendar' }>,
  zone: string,
): Temporal.PlainDate {
  const day = Temporal.Instant.fromEpochMilliseconds(ms).toZonedDateTimeISO(zone).toPlainDate()
  if (!aligned) return day
  if (unit === 'months') return day.with({ day: 1 })
  return count === 7 ? day.subtract({ days: day.dayOfWeek - 1 }) : day
}
