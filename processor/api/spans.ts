/** Times as they are asked for: RFC 3339, within what the ledger can hold, the start before the end. */
import Type from 'typebox'
import { Fault } from '../../schemas/fault.ts'
import { parseInstant, showInstant, type Window } from '../../schemas/window.ts'

/** A time of a query. */
export const Instant = (description: string) =>
  Type.String({ format: 'date-time', maxLength: 64, description: `RFC 3339, ${description}.` })

/** The store's DateTime is 32 bits of seconds. */
const times = { firstMs: 0, lastMs: Date.UTC(2106, 0, 1) }

/** @throws Fault USAGE naming `what` */
export function askedInstant(text: string, what: string): number {
  const ms = parseInstant(text, what)
  if (ms < times.firstMs || ms > times.lastMs)
    throw new Fault('USAGE', `${what}: "${text}" is not within the years 1970 to 2105`)
  return ms
}

/**
 * @param otherwise what holds where one of them is not asked for
 * @throws Fault USAGE for a time that is none, or an empty span
 */
export function askedSpan(
  { from, to }: { readonly from?: string; readonly to?: string },
  otherwise: { readonly startMs: (endMs: number) => number; readonly endMs: number },
): Window {
  const endMs = to === undefined ? otherwise.endMs : askedInstant(to, 'to')
  const startMs = from === undefined ? otherwise.startMs(endMs) : askedInstant(from, 'from')
  if (startMs >= endMs)
    throw new Fault('USAGE', `from ${showInstant(startMs)} is not before to ${showInstant(endMs)}`)
  return { startMs, endMs }
}
