/** Cuts the ledger by time, so that what an audit groups in ClickHouse stays within its memory. */
import { hourMs, type Window } from '../../schemas/window.ts'
import type { Store } from '../store.ts'

/** Whole hours, or an open end: `startMs` of the first and `endMs` of the last are those of the span. */
export interface Slice extends Window {
  readonly events: bigint
}

/** Groups of so many events take a few hundred megabytes. */
const eventsPerSlice = 500_000n
/** Before and behind every window there can be: DateTime holds 1970 to 2106. */
export const always: Window = { startMs: 0, endMs: (2 ** 32 - 3600) * 1000 }

/** The span in slices one behind the other; an hour is never cut. */
export async function slicesOf(store: Store, span: Window): Promise<readonly Slice[]> {
  const hours = await store.rows<{ hour_s: number; events: string }>(
    `select toUnixTimestamp(toStartOfHour(start)) as hour_s, count() as events from events
     where ${inSlice} group by hour_s order by hour_s`,
    sliceParams(span),
  )
  const slices: Slice[] = []
  let startMs = span.startMs
  let events = 0n
  for (const hour of hours) {
    const hourStartMs = Number(hour.hour_s) * 1000
    const more = BigInt(hour.events)
    if (events > 0n && events + more > eventsPerSlice && hourStartMs > startMs) {
      slices.push({ startMs, endMs: hourStartMs, events })
      startMs = hourStartMs
      events = 0n
    }
    events += more
  }
  return [...slices, { startMs, endMs: span.endMs, events }]
}

/** A condition on `events` and `reads`: those of a slice. */
export const inSlice =
  'toStartOfHour(start) >= fromUnixTimestamp({sliceFrom:UInt32}) and toStartOfHour(start) < fromUnixTimestamp({sliceTo:UInt32})'

export function sliceParams({ startMs, endMs }: Window) {
  return { sliceFrom: startMs / 1000, sliceTo: endMs / 1000 }
}

/** The span widened to whole hours. */
export function wholeHours({ startMs, endMs }: Window): Window {
  return { startMs: Math.floor(startMs / hourMs) * hourMs, endMs: Math.ceil(endMs / hourMs) * hourMs }
}
