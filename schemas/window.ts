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

/**
 * Milliseconds of an RFC 3339 text (offset mandatory, `:60` legal, sub-millisecond digits cut off), or undefined
 * where it is none. The text itself is what travels: this is for comparing only. By hand, since it runs for every
 * event: a tenth of the time of a pattern and Date.parse, which also takes 30 February for 2 March.
 */
export function instantMs(text: string): number | undefined {
  const year = digits(text, 0, 2) * 100 + digits(text, 2, 2)
  const month = digits(text, 5, 2)
  const day = digits(text, 8, 2)
  const hour = digits(text, 11, 2)
  const minute = digits(text, 14, 2)
  const second = digits(text, 17, 2)
  const separators =
    text[4] === '-' &&
    text[7] === '-' &&
    (text[10] === 'T' || text[10] === 't') &&
    text[13] === ':' &&
    text[16] === ':'
  // Every comparison with NaN, which stands for missing digits, is false.
  if (!separators || !(year >= 0 && month >= 1 && month <= 12 && day >= 1 && day <= daysOfMonth(year, month)))
    return undefined
  if (!(hour <= 23 && minute <= 59 && second <= 60)) return undefined

  let at = 19
  let millis = 0
  if (text[at] === '.') {
    const first = ++at
    for (let digit = digits(text, at, 1); digit >= 0; digit = digits(text, at, 1)) {
      if (at - first < 3) millis += digit * 10 ** (2 - (at - first))
      at += 1
    }
    if (at === first) return undefined
  }
  const offset = offsetMinutes(text, at)
  if (offset === undefined) return undefined
  return (
    dayNumber(year, month, day) * dayMs +
    hour * hourMs +
    (minute - offset) * minuteMs +
    second * secondMs +
    millis
  )
}

/** The number that these ASCII digits write, NaN where one of them is none. */
function digits(text: string, at: number, count: number): number {
  let number = 0
  for (let index = at; index < at + count; index += 1) {
    const digit = text.charCodeAt(index) - 48
    number = digit >= 0 && digit <= 9 ? number * 10 + digit : Number.NaN
  }
  return number
}

/** The offset that ends the text: `Z`, or hours and minutes. */
function offsetMinutes(text: string, at: number): number | undefined {
  const sign = text[at]
  if (sign === 'Z' || sign === 'z') return text.length === at + 1 ? 0 : undefined
  const hours = digits(text, at + 1, 2)
  const minutes = digits(text, at + 4, 2)
  const shaped = (sign === '+' || sign === '-') && text[at + 3] === ':' && text.length === at + 6
  if (!shaped || !(hours <= 23 && minutes <= 59)) return undefined
  return (sign === '-' ? -1 : 1) * (hours * 60 + minutes)
}

function daysOfMonth(year: number, month: number): number {
  if (month === 2) return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28
  return month === 4 || month === 6 || month === 9 || month === 11 ? 30 : 31
}

/** Days since 1970-01-01 in the Gregorian calendar; years begin in March here, so that a leap day ends one. */
function dayNumber(year: number, month: number, day: number): number {
  const marchYear = month > 2 ? year : year - 1
  const marchMonth = month > 2 ? month - 3 : month + 9
  const leapDays = Math.floor(marchYear / 4) - Math.floor(marchYear / 100) + Math.floor(marchYear / 400)
  return marchYear * 365 + leapDays + Math.floor((153 * marchMonth + 2) / 5) + day - 719469
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

/** The calendar month of the zone that holds the instant, whole. */
export function monthOf(ms: number, zone: string): Window {
  const day = Temporal.Instant.fromEpochMilliseconds(ms).toZonedDateTimeISO(zone).toPlainDate()
  const first = day.with({ day: 1 })
  return {
    startMs: first.toZonedDateTime(zone).epochMilliseconds,
    endMs: first.add({ months: 1 }).toZonedDateTime(zone).epochMilliseconds,
  }
}

/** Is this the name of an IANA time zone? An offset such as +02:00 is none: it does not know when clocks change. */
export function isZone(name: string): boolean {
  if (!/^[A-Za-z]/.test(name)) return false
  try {
    Temporal.Instant.fromEpochMilliseconds(0).toZonedDateTimeISO(name)
    return true
  } catch {
    return false
  }
}
