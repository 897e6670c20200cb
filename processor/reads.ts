/** Which reads count, and how reads are named in a statement: the snapshot rule in SQL. */

/** One read's readings: those of a scope and window under one readat. */
export interface ReadKey {
  readonly source: string
  readonly scope: string
  readonly startMs: number
  readonly readatMs: number
}

/** Parameters travel in the address of a request: what names many reads is said in parts. */
const namedMax = 500

export function* chunksOf<T>(all: readonly T[]): Generator<readonly T[]> {
  for (let at = 0; at < all.length; at += namedMax) yield all.slice(at, at + namedMax)
}

/** The parallel arrays under which reads go into a statement. */
export function readParams(reads: readonly ReadKey[]): Record<string, unknown> {
  return {
    sources: reads.map(read => read.source),
    scopes: reads.map(read => read.scope),
    starts: reads.map(read => read.startMs / 1000),
    readats: reads.map(read => read.readatMs),
  }
}

/** A condition on `events` or `reads`: the rows of the reads that `readParams` names. */
export const namedReads = `toStartOfHour(start) in (select toStartOfHour(fromUnixTimestamp(arrayJoin({starts:Array(UInt32)}))))
  and (toString(source), scope, toUnixTimestamp(start), toUnixTimestamp64Milli(readat)) in (
    select r.1, r.2, r.3, r.4 from (select arrayJoin(arrayZip({sources:Array(String)}, {scopes:Array(String)},
      {starts:Array(UInt32)}, {readats:Array(Int64)})) as r))`

/** A place in the log: of each partition (`log/partition`) the offset behind the last message that is looked at. */
export type Position = ReadonlyMap<string, bigint>

/** The parameters of `asOfEnd`. */
export function positionParams(asOf: Position): Record<string, unknown> {
  return { asOfPlaces: Array.from(asOf.keys()), asOfEnds: Array.from(asOf.values()) }
}

/** The end of a row's partition as of the position, 0 where the position does not name it: nothing of it was there. */
export const asOfEnd =
  "{asOfEnds:Array(UInt64)}[indexOf({asOfPlaces:Array(String)}, concat(log, '/', toString(partition)))]"

/**
 * The reads that count: of each source, scope and window the newest complete one that the ledger holds whole and that is
 * believed; one with estimates only where there is none without. Nothing else of that window counts.
 * @param range a condition on `start`, so that only the reads of the span are looked at.
 * @param asOf `position`: as the ledger stood there, with the parameters of `positionParams`.
 */
export function currentReads(range: string, asOf: 'now' | 'position' = 'now'): string {
  const believed = asOf === 'now' ? 'not suspect' : `counts_from < ${asOfEnd}`
  return `select source, scope, start, argMax(content_readat, (not estimated, readat)) from reads final
    where held and outcome = 'complete' and ${believed} and ${range} group by source, scope, start`
}
