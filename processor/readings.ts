/**
 * Readings of a batch, for which nothing counts before their mark comes: which of them the ledger has from another
 * message, and what is known meanwhile of the reads that they are of.
 */
import { showReadat } from '../schemas/event.ts'
import type { LogPlace } from '../schemas/pushed.ts'
import type { Totals } from '../schemas/suspect.ts'
import type { AcceptedBatch, PassedMessage, ReadPart } from './accept.ts'
import type { RowIdentity } from './event-rows.ts'
import { isAt, type KnownRead, knownReads } from './marks.ts'
import { chunksOf, namedReads, type ReadKey, readParams } from './reads.ts'
import type { Store } from './store.ts'

/** Open reads that are remembered at most; one that was forgotten is only checked in the ledger instead. */
const openReadsMax = 10_000

/** What the ledger is finding out of a batch; of this only that about readings. */
export interface PuttingReadings {
  readonly batch: Pick<AcceptedBatch, 'reads' | 'rows' | 'said'>
  readonly passed: PassedMessage[]
  /** Rows that the ledger has from elsewhere. */
  readonly dropped: Set<number>
}

/** What is known of a read's readings. */
export type ReadGist = Pick<ReadPart, 'subjects' | 'readings' | 'digest' | 'totals'>

/**
 * Readings seen of reads whose mark has not come yet: one may begin in one batch and end in a later one. Where they do
 * not agree with the mark the ledger itself is asked.
 */
export class OpenReads {
  readonly #open = new Map<string, ReadGist>()

  of(read: string): ReadGist | undefined {
    return this.#open.get(read)
  }

  /** Takes in what batches have of reads. One of which a row was dropped is no longer known: the ledger has another. */
  add(puttings: readonly PuttingReadings[]): void {
    for (const { batch } of puttings) for (const [name, part] of batch.reads) this.#add(name, part)
    for (const { batch, dropped } of puttings)
      if (dropped.size > 0)
        for (const [name, { rows }] of batch.reads)
          if (rows.some(row => dropped.has(row))) this.#open.delete(name)
  }

  delete(read: string): void {
    this.#open.delete(read)
  }

  clear(): void {
    this.#open.clear()
  }

  #add(name: string, part: ReadPart): void {
    const open = this.#open.get(name)
    if (!open) {
      const [oldest] = this.#open.keys()
      if (this.#open.size >= openReadsMax && oldest !== undefined) this.#open.delete(oldest)
      // Not the part itself, which would keep its rows.
      const { subjects, readings, digest, totals } = part
      this.#open.set(name, { subjects, readings, digest, totals })
      return
    }
    this.#open.set(name, {
      subjects: open.subjects.union(part.subjects),
      readings: open.readings + part.readings,
      digest: BigInt.asUintN(64, open.digest + part.digest),
      totals: added(open.totals, part.totals),
    })
  }
}

/** Which reads of these batches have rows in the ledger already, or come in several of them. */
export async function readsWithRows(
  store: Store,
  batches: readonly AcceptedBatch[],
): Promise<ReadonlySet<string>> {
  const parts = new Map<string, ReadPart>()
  const found = new Set<string>()
  for (const { reads } of batches)
    for (const [name, part] of reads) {
      if (parts.has(name)) found.add(name)
      parts.set(name, part)
    }
  const names = new Map(Array.from(parts, ([name, part]) => [keyOf(keyFrom(part)), name]))
  for (const some of chunksOf(Array.from(parts.values(), keyFrom))) {
    const rows = await store.rows<NamedRow>(
      `select distinct source, scope, toUnixTimestamp(start) as start_s, toUnixTimestamp64Milli(readat) as readat_ms
       from events where ${namedReads}`,
      readParams(some),
    )
    for (const row of rows) {
      const name = names.get(keyOf(keyFromRow(row)))
      if (name !== undefined) found.add(name)
    }
  }
  return found
}

/**
 * Finds rows of these reads that the ledger has from another message. The first message of an identity and readat
 * counts: what says the same later is a duplicate, what says something else a conflict, and so is a reading that
 * comes after a mark which was complete without it.
 */
export async function dropKnownRows(
  store: Store,
  puttings: readonly PuttingReadings[],
  names: ReadonlySet<string>,
): Promise<void> {
  if (names.size === 0) return
  const parts = new Map<string, ReadPart>()
  for (const { batch } of puttings)
    for (const [name, part] of batch.reads) if (names.has(name)) parts.set(name, part)
  const keys = Array.from(parts.values(), keyFrom)
  const held = await heldRows(store, keys)
  const marks = await knownReads(store, Array.from(parts.values()))
  for (const putting of puttings)
    for (const [name, part] of putting.batch.reads) {
      if (!names.has(name)) continue
      const rows = held.get(keyOf(keyFrom(part))) ?? new Map<string, RowIdentity>()
      held.set(keyOf(keyFrom(part)), rows)
      const mark = marks.get(part)?.find(read => read.readatMs === part.readatMs)
      for (const row of part.rows) dropIfKnown(putting, part, row, rows, mark)
    }
}

function dropIfKnown(
  putting: PuttingReadings,
  { source, readatMs }: ReadPart,
  row: number,
  rows: Map<string, RowIdentity>,
  mark: KnownRead | undefined,
): void {
  const { batch, dropped, passed } = putting
  const mine = batch.rows.identityAt(row)
  const first = rows.get(mine.identity)
  const id = `${mine.identity}@${showReadat(readatMs)}`
  const drop = (fate: PassedMessage['fate']) => {
    dropped.add(row)
    const value = fate === 'conflict' ? batch.said(mine.offset) : ''
    passed.push({ partition: mine.partition, offset: mine.offset, fate, source, id, value })
  }
  const fateAgainst = (other: RowIdentity) => (other.content === mine.content ? 'duplicate' : 'conflict')
  if (first === undefined) {
    const isStranger = mark?.isHeld === true && !isAt(mark, mine) && isBehind(mine, mark)
    if (isStranger) {
      drop('conflict')
      return
    }
  } else if (isAt(first, mine)) return
  else if (first.log !== mine.log || first.partition !== mine.partition || first.offset < mine.offset) {
    drop(fateAgainst(first))
    return
  } else {
    // The same partition was read on from a later offset before: that row gives way to this one.
    const { partition, offset } = first
    passed.push({ partition, offset, fate: fateAgainst(first), source, id, value: '' })
  }
  rows.set(mine.identity, mine)
}

/** The rows that the ledger has of these reads, by read and identity. */
async function heldRows(
  store: Store,
  keys: readonly ReadKey[],
): Promise<Map<string, Map<string, RowIdentity>>> {
  const held = new Map<string, Map<string, RowIdentity>>()
  for (const some of chunksOf(keys)) {
    const rows = await store.rows<
      NamedRow & { identity: string; content: string; log: string; partition: number; offset: string }
    >(
      `select source, scope, toUnixTimestamp(start) as start_s, toUnixTimestamp64Milli(readat) as readat_ms,
         lower(leftPad(hex(identity), 32, '0')) as identity, content, log, partition, offset
       from events final where ${namedReads}`,
      readParams(some),
    )
    for (const row of rows) {
      const key = keyOf(keyFromRow(row))
      const list = held.get(key) ?? new Map<string, RowIdentity>()
      held.set(key, list)
      list.set(row.identity, {
        identity: row.identity,
        content: BigInt(row.content),
        log: row.log,
        partition: Number(row.partition),
        offset: BigInt(row.offset),
      })
    }
  }
  return held
}

function added(a: Totals, b: Totals): Totals {
  const sum = new Map(a)
  for (const [name, value] of b) sum.set(name, (sum.get(name) ?? 0n) + value)
  return sum
}

interface NamedRow {
  readonly source: string
  readonly scope: string
  readonly start_s: number
  readonly readat_ms: string
}

function keyFrom({ source, scope, window, readatMs }: ReadPart): ReadKey {
  return { source, scope, startMs: window.startMs, readatMs }
}

function keyFromRow(row: NamedRow): ReadKey {
  return {
    source: row.source,
    scope: row.scope,
    startMs: Number(row.start_s) * 1000,
    readatMs: Number(row.readat_ms),
  }
}

function keyOf({ source, scope, startMs, readatMs }: ReadKey): string {
  return JSON.stringify([source, scope, startMs, readatMs])
}

/** Does it stand behind the other in the log? In another log or partition it is taken to. */
function isBehind(one: LogPlace, other: LogPlace): boolean {
  return one.log !== other.log || one.partition !== other.partition || one.offset > other.offset
}
