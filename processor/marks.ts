/**
 * Marks and decisions of a batch, each held against the reads that the ledger has of its window and judged, in the order
 * of the log: what is to be written of them, and which cells they change. Writing it is the ledger's.
 */
import type { RejectedMessage } from '../runtime/log/log.ts'
import { Fault } from '../schemas/fault.ts'
import type { LogPlace } from '../schemas/pushed.ts'
import { parseTotals, type SuspectRule, type Totals } from '../schemas/suspect.ts'
import { hourMs, showWindow, type Window } from '../schemas/window.ts'
import {
  type AcceptedBatch,
  type AcceptedDecision,
  type AcceptedMark,
  type PassedMessage,
  rejected,
} from './accept.ts'
import { currentOf, isSuspect, type JudgedRead, overlapped } from './judge.ts'
import { chunksOf, readParams } from './reads.ts'
import { Cells } from './stale.ts'
import type { Store } from './store.ts'

/** `counts_from` of a read that does not count. */
const never = 2n ** 64n - 1n

/** What the ledger is finding out of a batch; of this only that about marks and decisions. */
export interface PuttingMarks {
  readonly batch: Pick<AcceptedBatch, 'marks' | 'decisions'>
  readonly passed: PassedMessage[]
  readonly rejects: RejectedMessage[]
  droppedMarks: number
  droppedDecisions: number
}

export interface ScopeWindow {
  readonly source: string
  readonly scope: string
  readonly window: Window
}

/** A read as `reads` has it, or as a mark of this batch will leave it there. */
export interface KnownRead extends JudgedRead, LogPlace {
  readonly source: string
  readonly scope: string
  isHeld: boolean
  isSuspect: boolean
  countsFrom: bigint
  readonly events: number
  readonly digest: bigint
  /** Those of its readings. */
  subjects: Iterable<string>
  totals: Totals
  readonly content: bigint
  version: bigint
}

/** A read whose row is to be written, from its mark. */
export interface Verdict {
  readonly mark: AcceptedMark
  readonly read: KnownRead
}

/** What a mark's readings are, where memory or the ledger shows that they are all there. */
export interface Grounds {
  readonly subjects: Iterable<string>
  readonly totals: Totals
}

/** What is to be written: new reads, those that are suspect no longer, decisions; and the cells that this changes. */
export interface Judged {
  readonly verdicts: Verdict[]
  readonly confirmed: KnownRead[]
  readonly decisions: AcceptedDecision[]
  readonly cells: Cells
}

/** What marks and decisions are judged by. */
export interface Given {
  /** The log that they are of. */
  readonly log: string
  /** When a complete read has to wait; null where none ever has. */
  readonly rule: SuspectRule | null
  readonly known: KnownReads
  readonly grounds: ReadonlyMap<AcceptedMark, Grounds>
  /** Where decisions are that are known, by source and id. */
  readonly decided: ReadonlyMap<string, LogPlace>
}

/** Marks and decisions one after the other as the log has them, each against what was before it. */
export function judge(puttings: readonly PuttingMarks[], given: Given): Judged {
  const judged: Judged = { verdicts: [], confirmed: [], decisions: [], cells: new Cells() }
  const seen = new Map(given.decided)
  for (const putting of puttings) {
    const { marks, decisions } = putting.batch
    const inOrder = [...marks, ...decisions].sort((a, b) => (a.offset < b.offset ? -1 : 1))
    for (const one of inOrder)
      if ('read' in one) judgeMark(putting, one, given, judged)
      else judgeDecision(putting, one, { ...given, decided: seen }, judged)
  }
  return judged
}

function judgeMark(
  putting: PuttingMarks,
  mark: AcceptedMark,
  { log, rule, known, grounds }: Given,
  judged: Judged,
): void {
  const { event, window, readatMs, partition, offset, content } = mark
  const { data } = event
  const crossed = overlapped(window, known.ofHour(windowOf(mark)))
  if (crossed) {
    const message = `${event.source} ${event.scope}: ${showWindow(window)} overlaps ${showWindow(crossed.window)}, which was read`
    putting.rejects.push(rejected(partition, mark.message, new Fault('GRID_OVERLAP', message)))
    putting.droppedMarks += 1
    return
  }
  const others = known.of(windowOf(mark))
  const same = others.find(read => read.readatMs === readatMs)
  const isReplay = same !== undefined && isAt(same, { log, partition, offset })
  if (same && !isReplay) {
    const isConflict = same.content !== 0n && same.content !== content
    const value = isConflict ? JSON.stringify(data) : ''
    const fate = isConflict ? 'conflict' : 'duplicate'
    putting.passed.push({ partition, offset, fate, source: event.source, id: event.id, value })
    putting.droppedMarks += 1
    // A mark that comes again with readings that were lost heals its read.
    if (isConflict || same.isHeld) return
  }
  const found = grounds.get(mark)
  const contentMs = contentOf(mark)
  const before = currentOf(others)
  const read: KnownRead = {
    source: event.source,
    scope: event.scope,
    window,
    readatMs,
    contentMs,
    isComplete: data.outcome === 'complete',
    isHeld: found !== undefined,
    isSuspect: false,
    isEstimated: data.estimated,
    events: data.events,
    digest: BigInt(`0x${data.digest}`),
    subjects: found ? Array.from(found.subjects) : [],
    totals: found?.totals ?? new Map(),
    content,
    // The first message of a readat has its place, whatever healed it later.
    log: same?.log ?? log,
    partition: same?.partition ?? partition,
    offset: same?.offset ?? offset,
    countsFrom: offset,
    version: (same?.version ?? 0n) + 1n,
  }
  if (isReplay && same.isHeld) {
    // It was judged by what was there before it; by now there may be more.
    read.isSuspect = same.isSuspect
    read.countsFrom = same.countsFrom
  } else if (
    isSuspect(
      read,
      others.filter(other => other !== same),
      rule,
    )
  ) {
    read.isSuspect = true
    read.countsFrom = never
  }
  // Where the repeated content counts already, nothing changes but the time of its confirmation. A mark that was
  // here before may have died between its row and the touch behind it: then all that it changed is touched again.
  const changes =
    read.isComplete &&
    read.isHeld &&
    !read.isSuspect &&
    (same !== undefined || before?.contentMs !== contentMs)
  if (changes) {
    judged.cells.add(read.source, window.startMs, read.subjects)
    // A replaced read's readings may be of other subjects and lie in other cells: those change too.
    for (const other of same ? others : before ? [before] : [])
      if (other.isHeld && other.isComplete && other.contentMs !== contentMs)
        judged.cells.add(other.source, window.startMs, other.subjects)
  }
  known.add(read, same)
  judged.verdicts.push({ mark, read })
}

function judgeDecision(
  putting: PuttingMarks,
  decision: AcceptedDecision,
  { log, known, decided }: Given & { readonly decided: Map<string, LogPlace> },
  judged: Judged,
): void {
  const { event, partition, offset } = decision
  const name = `${event.source} ${event.id}`
  const first = decided.get(name)
  const mine = { log, partition, offset }
  if (first && !isAt(first, mine)) {
    const { source, id } = event
    putting.passed.push({ partition, offset, fate: 'duplicate', source, id, value: '' })
    putting.droppedDecisions += 1
    return
  }
  decided.set(name, mine)
  judged.decisions.push(decision)
  if (event.data.action !== 'confirm' || event.data.readat === undefined) return
  const readatMs = Date.parse(event.data.readat)
  const others = known.of(windowOf(decision))
  const read = others.find(other => other.readatMs === readatMs)
  if (!read || !(read.isSuspect || read.countsFrom === offset)) return
  const before = currentOf(others.filter(other => other !== read))
  for (const other of before ? [read, before] : [read])
    judged.cells.add(other.source, other.window.startMs, other.subjects)
  read.isSuspect = false
  read.countsFrom = offset
  read.version += 1n
  if (!judged.verdicts.some(verdict => verdict.read === read)) judged.confirmed.push(read)
}

// -- what the ledger knows

/** The marks there are of the hours of these windows, in their scopes. */
export async function knownReads(store: Store, windows: readonly ScopeWindow[]): Promise<KnownReads> {
  const known = new KnownReads()
  const byHour = new Map<number, ScopeWindow[]>()
  for (const one of windows) {
    const hour = hourOf(one.window)
    const list = byHour.get(hour)
    if (list) list.push(one)
    else byHour.set(hour, [one])
  }
  for (const hours of chunksOf(Array.from(byHour.keys()))) {
    const asked = hours.flatMap(hour => byHour.get(hour) ?? [])
    for (const scopes of chunksOf(Array.from(new Set(asked.map(one => one.scope))))) {
      const rows = await store.rows<StoredRead>(
        `select source, scope, toUnixTimestamp(start) as start_s, toUnixTimestamp(end) as end_s,
           toUnixTimestamp64Milli(readat) as readat_ms, toUnixTimestamp64Milli(content_readat) as content_ms, outcome,
           held, suspect, estimated, events, digest, subjects, totals, content, log, partition, offset, counts_from,
           version
         from reads final
         where toStartOfHour(start) in (select fromUnixTimestamp(arrayJoin({hours:Array(UInt32)})))
           and start >= fromUnixTimestamp({from:UInt32}) and start < fromUnixTimestamp({to:UInt32})
           and source in ({sources:Array(String)}) and scope in ({scopes:Array(String)})`,
        {
          hours: hours.map(hour => hour / 1000),
          from: Math.min(...hours) / 1000,
          to: (Math.max(...hours) + hourMs) / 1000,
          sources: Array.from(new Set(asked.map(one => one.source))),
          scopes,
        },
      )
      for (const row of rows) known.add(fromStored(row))
    }
  }
  return known
}

/** Where the ledger has these decisions, by source and id. */
export async function knownDecisions(
  store: Store,
  decisions: readonly AcceptedDecision[],
): Promise<ReadonlyMap<string, LogPlace>> {
  const known = new Map<string, LogPlace>()
  for (const some of chunksOf(decisions)) {
    const rows = await store.rows<{
      source: string
      id: string
      log: string
      partition: number
      offset: string
    }>(`select source, id, log, partition, offset from decisions final where id in ({ids:Array(String)})`, {
      ids: some.map(({ event }) => event.id),
    })
    for (const row of rows)
      known.set(`${row.source} ${row.id}`, {
        log: row.log,
        partition: Number(row.partition),
        offset: BigInt(row.offset),
      })
  }
  return known
}

/** For each mark what its readings are, where all are there; what memory cannot tell the events themselves do. */
export async function groundsOf(
  store: Store,
  marks: readonly AcceptedMark[],
  held: Held,
): Promise<ReadonlyMap<AcceptedMark, Grounds>> {
  const grounds = new Map<AcceptedMark, Grounds>()
  const unknown: AcceptedMark[] = []
  for (const mark of marks) {
    if (mark.event.data.outcome === 'failed') continue
    const found = remembered(mark, held)
    if (found) grounds.set(mark, found)
    else unknown.push(mark)
  }
  for (const some of chunksOf(unknown)) {
    const rows = await store.rows<{
      key: number
      readings: string
      digest: string
      subjects: readonly string[]
      totals: readonly (readonly [string, string])[]
    }>(
      `select key, count() as readings, sum(content) as digest, groupUniqArray(subject) as subjects,
         arrayZip((sumMap(arrayMap(name -> toString(name), mapKeys(measures)),
           arrayMap(value -> toDecimal256(value, 12), mapValues(measures))) as sums).1, sums.2) as totals
       from events final
       join (select r.1 as r_source, r.2 as r_scope, r.3 as r_start, r.4 as r_readat, r.5 as key
             from (select arrayJoin(arrayZip({sources:Array(String)}, {scopes:Array(String)},
               {starts:Array(UInt32)}, {readats:Array(Int64)}, {keys:Array(UInt32)})) as r)) as wanted
         on r_source = toString(source) and r_scope = scope and r_start = toUnixTimestamp(start)
           and r_readat = toUnixTimestamp64Milli(readat)
       where toStartOfHour(start) in (select toStartOfHour(fromUnixTimestamp(arrayJoin({starts:Array(UInt32)}))))
       group by key`,
      {
        keys: some.map((_, index) => index),
        ...readParams(
          some.map(mark => ({
            ...windowOf(mark),
            startMs: mark.window.startMs,
            readatMs: contentOf(mark),
          })),
        ),
      },
    )
    const found = new Map(rows.map(row => [row.key, row]))
    some.forEach((mark, index) => {
      const { events, digest } = mark.event.data
      const row = found.get(index)
      const isWhole =
        BigInt(row?.readings ?? 0) === BigInt(events) && BigInt(row?.digest ?? 0) === BigInt(`0x${digest}`)
      if (isWhole)
        grounds.set(mark, {
          subjects: row?.subjects ?? [],
          totals: parseTotals(Object.fromEntries(row?.totals ?? [])),
        })
    })
  }
  return grounds
}

/** What is known of reads without asking the events: from `reads`, and from memory those whose mark has not come yet. */
export interface Held {
  readonly log: string
  readonly known: KnownReads
  readonly open: {
    of(read: string): (Grounds & { readonly readings: number; readonly digest: bigint }) | undefined
  }
}

/** From memory and `reads`; undefined where only the events can tell. */
function remembered(mark: AcceptedMark, { log, known, open: openReads }: Held): Grounds | undefined {
  const { data } = mark.event
  const digest = BigInt(`0x${data.digest}`)
  const others = known.of(windowOf(mark))
  const same = others.find(read => read.readatMs === mark.readatMs)
  // The same message again, after a crash: it was judged when its readings were in.
  if (same?.isHeld === true && isAt(same, { log, ...mark })) return same
  if (data.repeats !== undefined) {
    const repeated = others.find(read => read.readatMs === contentOf(mark))
    const agrees = repeated?.isHeld === true && repeated.digest === digest && repeated.events === data.events
    return agrees ? repeated : undefined
  }
  const open = openReads.of(mark.read)
  const isWhole =
    same === undefined && (open?.readings ?? 0) === data.events && (open?.digest ?? 0n) === digest
  return isWhole ? (open ?? { subjects: [], totals: new Map() }) : undefined
}

/** The mark of a read as `reads` has it. */
interface StoredRead {
  readonly source: string
  readonly scope: string
  readonly start_s: number
  readonly readat_ms: string
  readonly end_s: number
  readonly content_ms: string
  readonly outcome: string
  readonly held: boolean
  readonly suspect: boolean
  readonly estimated: boolean
  readonly events: number
  readonly digest: string
  readonly subjects: readonly string[]
  readonly totals: Readonly<Record<string, string>>
  readonly content: string
  readonly log: string
  readonly partition: number
  readonly offset: string
  readonly counts_from: string
  readonly version: string
}

/** Reads by scope and hour: those of a window, and those whose windows may cross it. */
export class KnownReads {
  readonly #byHour = new Map<string, KnownRead[]>()

  add(read: KnownRead, instead?: KnownRead): void {
    const key = hourKey(read)
    const list = (this.#byHour.get(key) ?? []).filter(other => other !== instead)
    list.push(read)
    this.#byHour.set(key, list)
  }

  ofHour(window: ScopeWindow): readonly KnownRead[] {
    return this.#byHour.get(hourKey(window)) ?? []
  }

  of(window: ScopeWindow): readonly KnownRead[] {
    return this.ofHour(window).filter(read => read.window.startMs === window.window.startMs)
  }

  get(window: ScopeWindow): readonly KnownRead[] | undefined {
    return this.of(window)
  }
}

function hourKey({ source, scope, window }: ScopeWindow): string {
  return JSON.stringify([source, scope, hourOf(window)])
}

function hourOf(window: Window): number {
  return Math.floor(window.startMs / hourMs) * hourMs
}

export function windowOf({ event, window }: AcceptedMark | AcceptedDecision): ScopeWindow {
  return { source: event.source, scope: event.scope, window }
}

/** When the read was made whose readings a mark speaks of. */
function contentOf({ event, readatMs }: AcceptedMark): number {
  return event.data.repeats === undefined ? readatMs : Date.parse(event.data.repeats)
}

export function isAt(one: LogPlace, other: LogPlace): boolean {
  return one.log === other.log && one.partition === other.partition && one.offset === other.offset
}

function fromStored(row: StoredRead): KnownRead {
  return {
    source: row.source,
    scope: row.scope,
    window: { startMs: Number(row.start_s) * 1000, endMs: Number(row.end_s) * 1000 },
    readatMs: Number(row.readat_ms),
    contentMs: Number(row.content_ms),
    isComplete: row.outcome === 'complete',
    isHeld: row.held,
    isSuspect: row.suspect,
    isEstimated: row.estimated,
    events: row.events,
    digest: BigInt(row.digest),
    subjects: row.subjects,
    totals: parseTotals(row.totals),
    content: BigInt(row.content),
    log: row.log,
    partition: Number(row.partition),
    offset: BigInt(row.offset),
    countsFrom: BigInt(row.counts_from),
    version: BigInt(row.version),
  }
}
