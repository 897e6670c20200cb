/**
 * Marks of pushers in the ledger: which mark of a window counts, whether a new one fits the grid of its scope, and what the
 * marked windows hold. Coverage makes states of it.
 */
import { Fault } from '../schemas/fault.ts'
import { type PushedMark, wholeScope } from '../schemas/pushed.ts'
import { hourMs, showInstant, showWindow, type Window } from '../schemas/window.ts'
import type { AcceptedPushedMark } from './accept.ts'
import { chunksOf } from './reads.ts'
import type { Store } from './store.ts'

export const pushedMarkColumns = [
  'source',
  'scope',
  'start',
  'end',
  'events',
  'settled',
  'id',
  'identity',
  'id_hash',
  'content',
  'appended',
  'log',
  'partition',
  'offset',
] as const

export function pushedMarkLine(
  { identity, idHash }: { readonly identity: bigint; readonly idHash: bigint },
  mark: AcceptedPushedMark,
  log: string,
): string {
  const { source, id, scope, window, events, isSettled, content, message, partition, offset } = mark
  return JSON.stringify([
    source,
    scope,
    window.startMs / 1000,
    window.endMs / 1000,
    events,
    isSettled,
    id,
    identity.toString(),
    idHash.toString(),
    content.toString(),
    new Date(message.appendedMs).toISOString(),
    log,
    partition,
    offset.toString(),
  ])
}

/** What a mark says, as JSON for a person to compare. */
export function showMark({ scope, window, events, isSettled }: PushedMark): string {
  const span = { start: showInstant(window.startMs), end: showInstant(window.endMs) }
  return JSON.stringify({ scope, window: span, events, settled: isSettled })
}

type Marked = Pick<PushedMark, 'source' | 'scope' | 'window'>

/** The hours of scopes in which there are marks, and how wide their windows are: all in one hour have one width. */
export class MarkedHours {
  readonly #windows = new Map<string, Window>()

  add({ source, scope, window }: Marked): void {
    const key = hourKey({ source, scope, window })
    if (!this.#windows.has(key)) this.#windows.set(key, window)
  }

  /** Why this mark cannot be taken, where the hour has windows of another width. */
  crossing(mark: Marked): Fault | undefined {
    const { source, scope, window } = mark
    const before = this.#windows.get(hourKey(mark))
    if (!before || before.endMs - before.startMs === window.endMs - window.startMs) return undefined
    return new Fault(
      'GRID_OVERLAP',
      `${source} ${scope}: /data/window ${showWindow(window)} overlaps the grid of ${showWindow(before)}, which was marked: go on in that width until the hour is over`,
    )
  }
}

function hourKey({ source, scope, window }: Marked): string {
  return JSON.stringify([source, scope, Math.floor(window.startMs / hourMs)])
}

/** What the ledger has of the hours of these marks. */
export async function markedHours(store: Store, marks: readonly Marked[]): Promise<MarkedHours> {
  const hours = new MarkedHours()
  for (const some of chunksOf(marks)) {
    const rows = await store.rows<{ source: string; scope: string; start_s: number; end_s: number }>(
      `select source, scope, toUnixTimestamp(min(start)) as start_s, toUnixTimestamp(argMin(end, start)) as end_s
       from pushed_marks
       where (source, scope, toUnixTimestamp(toStartOfHour(start))) in (
           select m.1, m.2, m.3 from (select arrayJoin(arrayZip({sources:Array(String)}, {scopes:Array(String)},
             {hours:Array(UInt32)})) as m))
         and source in ({sources:Array(String)}) and scope in ({scopes:Array(String)}) and ${undisplaced}
       group by source, scope, toStartOfHour(start)`,
      {
        sources: some.map(({ source }) => source),
        scopes: some.map(({ scope }) => scope),
        hours: some.map(({ window }) => (Math.floor(window.startMs / hourMs) * hourMs) / 1000),
      },
    )
    for (const { source, scope, start_s, end_s } of rows)
      hours.add({ source, scope, window: { startMs: Number(start_s) * 1000, endMs: Number(end_s) * 1000 } })
  }
  return hours
}

/** A condition on rows of `pushed` and `pushed_marks`: no earlier message of their identity took their place. */
export const undisplaced =
  '(log, partition, offset) not in (select toString(log), partition, offset from pushed_displaced)'

/**
 * The windows that pushers marked, a row each: source, scope, start_s, end_s, `events` that its mark says, `found`, how many
 * the ledger has, `settled`, and `appended`, when the log took the mark. The last mark of a window in its partition counts;
 * where two partitions or logs have one, that which was taken last.
 *
 * Counted is what was pushed, as it was pushed: an amendment changes what an event says, and not that it came.
 * @param range a condition on source, scope, `start` and `end`
 * @param times a condition on `time` that every event of these windows fulfils
 */
export function markedWindows(range: string, times: string): string {
  const latest = `
    select source, scope, toUnixTimestamp(start) as start_s, toUnixTimestamp(end) as end_s,
      argMax(said, (said.3, log, partition)) as mark
    from (
      select source, scope, start, end, log, partition, argMax((events, settled, appended), offset) as said
      from pushed_marks final where ${range} and ${undisplaced}
      group by source, scope, start, end, log, partition)
    group by source, scope, start, end`
  // Of each hour how many events are in each of its minutes: of the subjects that are marked, and of all others together.
  const counted = `
    select source, arrayJoin(arrayDistinct(['${wholeScope}', named])) as scope, hour_s, by_minute
    from (
      select source, if((source, subject) in (select source, scope from pushed_marks where ${range}), subject, '${wholeScope}') as named,
        toUnixTimestamp(toStartOfHour(time, 'UTC')) as hour_s, countResample(0, 60, 1)(toMinute(time, 'UTC')) as by_minute
      from pushed final
      where ${times} and source in (select source from pushed_marks where ${range}) and ${undisplaced}
      group by source, named, hour_s)`
  // No window crosses an hour: its marks and its minutes stand side by side.
  return `(
    select source, scope, window.1 as start_s, window.2 as end_s, window.3 as events, window.4 as settled,
      window.5 as appended,
      arraySum(arraySlice(minutes, intDiv(start_s % 3600, 60) + 1, intDiv(end_s - start_s, 60))) as found
    from (
      select source, scope, groupArrayIf(marked, is_mark) as windows, sumForEachIf(by_minute, not is_mark) as minutes
      from (
        select source, scope, intDiv(start_s, 3600) * 3600 as hour_s, true as is_mark, []::Array(UInt64) as by_minute,
          tuple(start_s, end_s, mark.1, mark.2, mark.3) as marked
        from (${latest})
        union all
        select source, scope, hour_s, false, by_minute,
          tuple(toUInt32(0), toUInt32(0), toUInt64(0), false, toDateTime64(0, 3, 'UTC'))
        from (${counted}))
      group by source, scope, hour_s)
    array join windows as window)`
}
