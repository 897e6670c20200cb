/** Days, weeks and months of an IANA zone, as instants: what the browser's calendar says, without Temporal, which not all have. Pure. */

export const hourMs = 3_600_000
export const dayMs = 24 * hourMs

/** A day of a calendar; the month counts from 1. */
export interface CalendarDay {
  readonly year: number
  readonly month: number
  readonly day: number
}

const clocks = new Map<string, Intl.DateTimeFormat>()

function clockOf(zone: string): Intl.DateTimeFormat {
  const known = clocks.get(zone)
  if (known) return known
  const clock = new Intl.DateTimeFormat('en-US', {
    timeZone: zone,
    hourCycle: 'h23',
    calendar: 'iso8601',
    era: 'short',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  })
  clocks.set(zone, clock)
  return clock
}

export function isZone(zone: string): boolean {
  try {
    return zone !== '' && clockOf(zone) !== undefined
  } catch {
    return false
  }
}

/** What a clock on the wall shows there, written as if it were UTC. */
function wallMs(zone: string, atMs: number): number {
  const parts = new Map(
    clockOf(zone)
      .formatToParts(atMs)
      .map(({ type, value }) => [type, Number(value)]),
  )
  const part = (name: Intl.DateTimeFormatPartTypes) => parts.get(name) ?? 0
  return Date.UTC(part('year'), part('month') - 1, part('day'), part('hour'), part('minute'), part('second'))
}

/** The day on which the instant falls there. */
export function dayOf(zone: string, atMs: number): CalendarDay {
  const wall = new Date(wallMs(zone, atMs))
  return { year: wall.getUTCFullYear(), month: wall.getUTCMonth() + 1, day: wall.getUTCDate() }
}

/** The first instant of that day there, also where midnight is skipped or comes twice. Days beyond a month's end count on. */
export function startOf(zone: string, { year, month, day }: CalendarDay): number {
  const wanted = Date.UTC(year, month - 1, day)
  const offset = (atMs: number) => wallMs(zone, atMs) - atMs
  const before = wanted - offset(wanted - dayMs)
  const after = wanted - offset(wanted + dayMs)
  const earlier = Math.min(before, after)
  const found = [earlier, Math.max(before, after)].find(atMs => wallMs(zone, atMs) === wanted)
  if (found !== undefined) return found
  // Midnight is skipped: the day begins at the change, which lies between the two guesses.
  let [low, high] = [earlier - hourMs, earlier + 3 * hourMs]
  while (high - low > 1000) {
    const middle = Math.floor((low + high) / 2000) * 1000
    if (wallMs(zone, middle) < wanted) low = middle
    else high = middle
  }
  return high
}

export type Step = 'HOUR' | 'DAY' | 'WEEK' | 'MONTH'

/** The next day, week or month, as a day; the first one is the one in which the instant falls. Weeks begin on Monday. */
function firstDay(step: Step, day: CalendarDay): CalendarDay {
  if (step === 'MONTH') return { ...day, day: 1 }
  if (step !== 'WEEK') return day
  const weekday = (new Date(Date.UTC(day.year, day.month - 1, day.day)).getUTCDay() + 6) % 7
  return { ...day, day: day.day - weekday }
}

function next(step: Step, { year, month, day }: CalendarDay): CalendarDay {
  if (step === 'MONTH') return { year, month: month + 1, day: 1 }
  return { year, month, day: day + (step === 'WEEK' ? 7 : 1) }
}

/** Where the hour, day, week or month of the instant begins. */
export function floorTo(zone: string, step: Step, atMs: number): number {
  if (step === 'HOUR') {
    const into = wallMs(zone, atMs) % hourMs
    return Math.floor(atMs / 1000) * 1000 - into
  }
  return startOf(zone, firstDay(step, dayOf(zone, atMs)))
}

export const windowsMax = 3000

/** Where the windows of a span begin: the span's own start first, then each boundary in it. At most `windowsMax`. */
export function windowStarts(
  span: { readonly fromMs: number; readonly toMs: number },
  zone: string,
  step: Step,
): readonly number[] {
  const starts = [span.fromMs]
  if (step === 'HOUR') {
    // The hours of a wall clock are hours of the world, but for zones that change by half an hour.
    let atMs = floorTo(zone, step, span.fromMs) + hourMs
    for (; atMs < span.toMs && starts.length < windowsMax; atMs += hourMs) starts.push(atMs)
    return starts
  }
  let day = next(step, firstDay(step, dayOf(zone, span.fromMs)))
  for (let atMs = startOf(zone, day); atMs < span.toMs && starts.length < windowsMax; ) {
    if (atMs > span.fromMs) starts.push(atMs)
    day = next(step, day)
    atMs = startOf(zone, day)
  }
  return starts
}

/** The same day of the calendar, so many days or months later. */
export function shifted(
  zone: string,
  atMs: number,
  by: { readonly days?: number; readonly months?: number },
): number {
  const { year, month, day } = dayOf(zone, atMs)
  return startOf(zone, { year, month: month + (by.months ?? 0), day: day + (by.days ?? 0) })
}

/** `2025-06-01`, as date fields have it. */
export function dateText(zone: string, atMs: number): string {
  const { year, month, day } = dayOf(zone, atMs)
  return `${String(year).padStart(4, '0')}-${String(month).padStart(2, '0')}-${String(day).padStart(2, '0')}`
}

/** The day that a date field names; undefined where it names none. */
export function dateOf(text: string): CalendarDay | undefined {
  const [, year, month, day] = /^(\d{4})-(\d{2})-(\d{2})$/.exec(text) ?? []
  if (year === undefined) return undefined
  const found = { year: Number(year), month: Number(month), day: Number(day) }
  const there = new Date(Date.UTC(found.year, found.month - 1, found.day))
  return there.getUTCMonth() + 1 === found.month && there.getUTCDate() === found.day ? found : undefined
}

const labels = new Map<string, Intl.DateTimeFormat>()

function label(zone: string, name: string, options: Intl.DateTimeFormatOptions, atMs: number): string {
  const key = `${zone} ${name}`
  const format = labels.get(key) ?? new Intl.DateTimeFormat('en-GB', { ...options, timeZone: zone })
  labels.set(key, format)
  return format.format(atMs)
}

/** `1 Jun 2025` */
export function dayLabel(zone: string, atMs: number): string {
  return label(zone, 'day', { day: 'numeric', month: 'short', year: 'numeric' }, atMs)
}

/** `June 2025` */
export function monthLabel(zone: string, atMs: number): string {
  return label(zone, 'month', { month: 'long', year: 'numeric' }, atMs)
}

/** `1 Jun 2025, 14:00` */
export function timeLabel(zone: string, atMs: number): string {
  const options = {
    day: 'numeric',
    month: 'short',
    year: 'numeric',
    hour: '2-digit',
    minute: '2-digit',
  } as const
  return label(zone, 'time', { ...options, hourCycle: 'h23' }, atMs)
}

/** Of a window, in words. */
export function windowLabel(zone: string, step: Step, atMs: number): string {
  if (step === 'HOUR') return timeLabel(zone, atMs)
  if (step === 'MONTH') return monthLabel(zone, atMs)
  return step === 'WEEK' ? `Week of ${dayLabel(zone, atMs)}` : dayLabel(zone, atMs)
}

/** The same on an axis, where the year is said elsewhere. */
export function tickLabel(zone: string, step: Step, atMs: number): string {
  if (step === 'MONTH') return label(zone, 'tick month', { month: 'short', year: '2-digit' }, atMs)
  const day = label(zone, 'tick day', { day: 'numeric', month: 'short' }, atMs)
  if (step !== 'HOUR') return day
  const time = label(zone, 'tick time', { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }, atMs)
  return time === '00:00' ? day : time
}
