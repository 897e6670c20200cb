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

/**
 * The reads that count: of each source, scope and window the newest complete one that the ledger holds whole; one
 * with estimates only where there is none without. Nothing else of that window counts.
 * @param range a condition on `start`, so that only the reads of the span are looked at.
 */
export function currentReads(range: string): string {
  return `select source, scope, start, argMax(content_readat, (not estimated, readat)) from reads final
    where held and outcome = 'complete' and ${range} group by source, scope, start`
}
