/** Half-open UTC windows, the grids they lie on, and RFC 3339 instants. Pure: no clock. */
import { Fault } from './fault.ts'

export const secondMs = 1000
export const minuteMs = 60 * secondMs
export const hourMs = 60 * minuteMs
export const dayMs = 24 * hourMs

/** Half-open span `[startMs, endMs)` in milliseconds since the epoch, UTC. */
export interface Window {
  readonly startMs: number
  readonly endMs: number
}

/** Widths a grid may have, in minutes: each divides an hour, so no window crosses one. */
export const gridMinutes = [60, 30, 15, 5, 1] as const
export type GridMinutes = (typeof gridMinutes)[number]

const instantShape = /^(\d{4})-(\d{2})-(\d{2})[Tt](\d{2}):(\d{2}):(\d{2})(?:\.(\d+))?([Zz]|[+-]\d{2}:\d{2})$/

/**
 * Milliseconds of an RFC 3339 text (offset mandatory, `:60` legal, sub-millisecond digits cut off), or undefined
 * where it is none. The text itself is what travels: this is for comparing only.
 */
export function instantMs(text: string): number | undefined {
  const match = instantShape.exec(text)
  if (!match) return undefined
  const [, year, month, day, hour, minute, second, fraction = '', zone = 'Z'] = match
  if (Number(hour) > 23 || Number(minute) > 59 || Number(second) > 60) return undefined
  const leap = second === '60'
  const offset = zone === 'Z' || zone === 'z' ? 'Z' : zone
  if (offset !== 'Z' && (Number(offset.slice(1, 3)) > 23 || Number(offset.slice(4)) > 59)) return undefined
  const iso = `${year}-${month}-${day}T${hour}:${minute}:${leap ? '59' : second}.${fraction.padEnd(3, '0').slice(0, 3)}${offset}`
  const ms = Date.parse(iso)
  if (Number.isNaN(ms)) return undefined
  // Date.parse takes 30 February for 2 March in some forms: hold the day against the calendar.
  if (Number(day) > new Date(Date.UTC(Number(year), Number(month), 0)).getUTCDate()) return undefined
  return leap ? ms + secondMs : ms
}

/**
 * As `instantMs`, for what people and configs write.
 * @throws Fault USAGE naming `what`.
 */
export function parseInstant(text: string, what: string): number {
  const ms = instantMs(text)
  if (ms === undefined)
    throw new Fault('USAGE', `${what}: "${text}" is not an RFC 3339 time such as 2026-02-12T08:00:00Z`)
  return ms
}

/** `2026-02-12T08:00:00Z`; milliseconds are shown only where there are any. */
export function showInstant(ms: number): string {
  const iso = new Date(ms).toISOString()
  return ms % secondMs === 0 ? `${iso.slice(0, 19)}Z` : iso
}

export function showWindow(window: Window): string {
  return `${showInstant(window.startMs)}/${showInstant(window.endMs)}`
}

/** The grid window of this width that holds the instant. */
export function windowAt(ms: number, widthMinutes: GridMinutes): Window {
  const widthMs = widthMinutes * minuteMs
  const startMs = Math.floor(ms / widthMs) * widthMs
  return { startMs, endMs: startMs + widthMs }
}

/** All grid windows that touch `[fromMs, toMs)`: the span is widened to the grid. Oldest first. */
export function windowsOver(span: Window, widthMinutes: GridMinutes): readonly Window[] {
  const windows: Window[] = []
  for (
    let at = windowAt(span.startMs, widthMinutes);
    at.startMs < span.endMs;
    at = windowAt(at.endMs, widthMinutes)
  )
    windows.push(at)
  return windows
}

/** Do the two half-open spans share an instant? */
export function overlaps(a: Window, b: Window): boolean {
  return a.startMs < b.endMs && b.startMs < a.endMs
}

/** Is this a window of the grid of its own width? */
export function isOnGrid(window: Window): boolean {
  const minutes = (window.endMs - window.startMs) / minuteMs
  return (gridMinutes as readonly number[]).includes(minutes) && window.startMs % (minutes * minuteMs) === 0
}

/** The step of a local calendar in which usage is shown. */
export type CalendarStep = 'HOUR' | 'DAY' | 'WEEK' | 'MONTH'

/**
 * The local calendar windows of an IANA zone that touch the span, as instants, cut to the span.
 * A day on which the clocks change has 23 or 25 hours. Weeks begin on Monday.
 */
export function calendarWindows(span: Window, step: CalendarStep, zone: string): readonly Window[] {
  const windows: Window[] = []
  let at = startOfStep(Temporal.Instant.fromEpochMilliseconds(span.startMs).toZonedDateTimeISO(zone), step)
  while (at.epochMilliseconds < span.endMs) {
    const next = nextStep(at, step)
    windows.push({
      startMs: Math.max(at.epochMilliseconds, span.startMs),
      endMs: Math.min(next.epochMilliseconds, span.endMs),
    })
    at = next
  }
  return windows.filter(window => window.startMs < window.endMs)
}

/** The calendar month of the zone that holds the instant, whole. */
export function monthOf(ms: number, zone: string): Window {
  const start = startOfStep(Temporal.Instant.fromEpochMilliseconds(ms).toZonedDateTimeISO(zone), 'MONTH')
  return { startMs: start.epochMilliseconds, endMs: nextStep(start, 'MONTH').epochMilliseconds }
}

function startOfStep(at: Temporal.ZonedDateTime, step: CalendarStep): Temporal.ZonedDateTime {
  if (step === 'HOUR') return at.round({ smallestUnit: 'hour', roundingMode: 'floor' })
  const day = at.startOfDay()
  if (step === 'DAY') return day
  const days = step === 'WEEK' ? day.dayOfWeek - 1 : day.day - 1
  return day.subtract({ days }).startOfDay()
}

function nextStep(at: Temporal.ZonedDateTime, step: CalendarStep): Temporal.ZonedDateTime {
  if (step === 'HOUR') return at.add({ hours: 1 })
  if (step === 'DAY') return at.add({ days: 1 }).startOfDay()
  if (step === 'WEEK') return at.add({ weeks: 1 }).startOfDay()
  return at.add({ months: 1 }).startOfDay()
}
