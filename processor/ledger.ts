/**
 * The ledger's side of a batch: readings in, marks held against what is there and judged, cells marked stale, positions
 * written. Every step may be repeated; the order of the steps is what makes a crash between any two of them harmless.
 */
import type { RejectedMessage } from '../runtime/log/log.ts'
import { idHash } from '../schemas/event.ts'
import { Fault } from '../schemas/fault.ts'
import { parseTotals, type SuspectRule, showTotals, suspectDefault, type Totals } from '../schemas/suspect.ts'
import { hourMs, showWindow, type Window } from '../schemas/window.ts'
import {
  type AcceptedBatch,
  type AcceptedDecision,
  type AcceptedMark,
  eventColumns,
  type PassedMessage,
  type ReadPart,
  type RowValues,
  rejected,
} from './accept.ts'
import { currentOf, isSuspect, type JudgedRead, overlapped } from './judge.ts'
import { putPushed } from './pushed.ts'
import { chunksOf, namedReads, type ReadKey, readParams } from './reads.ts'
import { Cells, newToken, touchCells } from './rollups.ts'
import type { Store } from './store.ts'

const readColumns = [
  'source',
  'scope',
  'start',
  'end',
  'readat',
  'content_readat',
  'outcome',
  'held',
  'events',
  'digest',
  'subjects',
  'totals',
  'settled',
  'estimated',
  'bad',
  'listed',
  'fault_code',
  'fault_message',
  'log',
  'partition',
  'offset',
  'suspect',
  'counts_from',
  'content',
  'id_hash',
  'version',
] as const

const positionColumns = [
  'log',
  'partition',
  'first',
  'last',
  'messages',
  'events',
  'reads',
  'duplicates',
  'conflicts',
  'rejects',
  'decisions',
  'pushed',
  'amendments',
] as const

const passedColumns = ['log', 'partition', 'offset', 'fate', 'source', 'id', 'id_hash', 'value'] as const

const decisionColumns = [
  'source',
  'scope',
  'start',
  'end',
  'action',
  'readat',
  'subject',
  'author',
  'reason',
  'decided',
  'id',
  'id_hash',
  'log',
  'partition',
  'offset',
] as const

const rejectColumns = [
  'log',
  'partition',
  'offset',
  'code',
  'reason',
  'value_base64',
  'bytes',
  'sha256',
  'headers',
  'origin',
] as const

const replayColumns = [
  'log',
  'partition',
  'offset',
  'part',
  'via_log',
  'via_partition',
  'via_offset',
  'fate',
  'code',
  'reason',
] as const

/** Open reads that are remembered at most; one that was forgotten is only checked in the ledger instead. */
const openReadsMax = 10_000
/** Of a reject's headers, as JSON: what is longer cannot be replayed. */
const headersLengthMax = 64 * 1024
/** `counts_from` of a read that does not count. */
const never = 2n ** 64n - 1n

/** A read as `reads` has it, or as a mark of this batch will leave it there. */
interface KnownRead extends JudgedRead {
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
  readonly log: string
  readonly partition: number
  readonly offset: bigint
  version: bigint
}

/** A read whose row is to be written, from its mark. */
interface Verdict {
  readonly mark: AcceptedMark
  readonly read: KnownRead
}

/** What a mark's readings are, where memory or the ledger shows that they are all there. */
interface Grounds {
  readonly subjects: Iterable<string>
  readonly totals: Totals
}

/** What became of the messages of the batches beyond what `accept` knew. */
export interface PutOutcome {
  readonly readings: number
  readonly marks: number
  readonly decisions: number
  readonly pushed: number
  readonly amendments: number
  readonly duplicates: number
  readonly conflicts: number
  readonly rejects: readonly RejectedMessage[]
}

/** One batch on its way in, with what was found out about it. */
interface Putting {
  readonly batch: AcceptedBatch
  readonly passed: PassedMessage[]
  readonly rejects: RejectedMessage[]
  /** Where rows begin and end that the ledger has from elsewhere, in turns. */
  readonly dropped: number[]
  droppedRows: number
  droppedMarks: number
  droppedDecisions: number
  droppedPushed: number
  droppedAmendments: number
}

/** Writes accepted batches of one log. One `put` at a time. */
/** The tables whose rows say where in the log they stand. */
const placedTables = [
  'events',
  'reads',
  'decisions',
  'passed',
  'rejected',
  'pushed_firsts',
  'pushed',
  'amendments',
]

export class Ledger {
  readonly #store: Store
  readonly #log: string
  readonly #rule: SuspectRule | null
  /**
   * Readings seen of reads whose mark has not come yet: one may begin in one batch and end in a later one. Where they do
   * not agree with the mark the ledger itself is asked.
   */
  readonly #open = new Map<string, ReadGist>()
  readonly #next = new Map<number, bigint>()

  /** @param suspect when a complete read has to wait; null where none ever has. */
  constructor(store: Store, log: string, suspect: SuspectRule | null = suspectDefault) {
    this.#store = store
    this.#log = log
    this.#rule = suspect
  }

  /**
   * The offset at which a partition goes on: the end of what is held from its first row on without a hole, or
   * undefined where nothing is. This, not what was committed to the log, is where reading starts: the cursor must not
   * outlive the ledger (a restored backup).
   */
  async resumeAt(partition: number): Promise<bigint | undefined> {
    const spans = await this.#store.rows<{ first: string; last: string }>(
      `select first, max(last) as last from positions
       where log = {log:String} and partition = {partition:UInt32} group by first order by first`,
      { log: this.#log, partition },
    )
    let next: bigint | undefined
    for (const span of spans) {
      if (next !== undefined && BigInt(span.first) > next) break
      const after = BigInt(span.last) + 1n
      if (next === undefined || after > next) next = after
    }
    if (next !== undefined) this.#next.set(partition, next)
    else this.#next.delete(partition)
    // After a rebalance another process may have gone on with them.
    this.#open.clear()
    return next
  }

  /**
   * The highest offset of a partition of which anything stands in the ledger, whether its batch was put whole or only
   * begun; undefined where nothing does. Looks at one column of all rows of the log, so it is for a start.
   */
  async reachedAt(partition: number): Promise<bigint | undefined> {
    const [row] = await this.#store.rows<{ reached: string; found: string }>(
      `select max(reached) as reached, sum(found) as found from (${placedTables
        .map(
          table => `select max(offset) as reached, count() as found from ${table}
            where log = {log:String} and partition = {partition:UInt32}`,
        )
        .join(' union all ')})`,
      { log: this.#log, partition },
    )
    return row === undefined || row.found === '0' ? undefined : BigInt(row.reached)
  }

  /**
   * Takes batches in, of one partition or of several. When it resolves every message of them is durable in one of
   * events, reads, decisions, passed and rejected, is in every answer, and the positions say so: the log may be told.
   */
  async put(batches: readonly AcceptedBatch[]): Promise<PutOutcome> {
    const puttings = batches.map(newPutting)
    const marks = batches.flatMap(batch => batch.marks)
    const decisions = batches.flatMap(batch => batch.decisions)
    const [known, prior, before] = await Promise.all([
      this.#knownReads([...marks, ...decisions].map(windowOf)),
      this.#readsWithRows(batches),
      this.#knownDecisions(decisions),
    ])
    await this.#dropKnownRows(puttings, prior)
    for (const { batch } of puttings) for (const [name, part] of batch.reads) this.#remember(name, part)
    for (const { batch, dropped } of puttings)
      if (dropped.length > 0) for (const name of readsOf(batch, dropped)) this.#open.delete(name)
    await this.#store.insertBytes('events', eventColumns, puttings.flatMap(keptRows))
    await putPushed(this.#store, this.#log, puttings)

    // Readings count for nothing before their mark, so only now is anything marked stale.
    const grounds = await this.#groundsOf(marks, known)
    const outcome = this.#judge(puttings, { known, grounds, before })
    await touchCells(this.#store, outcome.cells, newToken())
    await this.#store.insert(
      'decisions',
      decisionColumns,
      outcome.decisions.map(one => this.#decisionLine(one)),
    )
    await this.#store.insert(
      'reads',
      readColumns,
      outcome.verdicts.map(verdict => this.#readLine(verdict)),
    )
    await this.#confirm(outcome.confirmed)
    await Promise.all([
      touchCells(this.#store, outcome.cells, newToken()),
      this.#store.insert(
        'passed',
        passedColumns,
        puttings.flatMap(({ passed }) => passed.map(message => this.#passedLine(message))),
      ),
      this.#store.insert(
        'rejected',
        rejectColumns,
        puttings.flatMap(({ rejects }) => rejects.map(reject => this.#rejectLine(reject))),
      ),
      this.#store.insert(
        'replays',
        replayColumns,
        puttings.flatMap(putting => this.#replayLines(putting)),
      ),
    ])
    await this.#store.insert('positions', positionColumns, this.#positionLines(puttings))
    for (const { marks: done, partition, last } of batches) {
      for (const mark of done) this.#open.delete(mark.read)
      this.#next.set(partition, last + 1n)
    }
    return outcomeOf(puttings)
  }

  // -- readings

  /** Which reads of these batches have rows in the ledger already, or come in several of them. */
  async #readsWithRows(batches: readonly AcceptedBatch[]): Promise<ReadonlySet<string>> {
    const parts = new Map<string, ReadPart>()
    const found = new Set<string>()
    for (const { reads } of batches)
      for (const [name, part] of reads) {
        if (parts.has(name)) found.add(name)
        parts.set(name, part)
      }
    const names = new Map(Array.from(parts, ([name, part]) => [keyOf(keyFrom(part)), name]))
    for (const some of chunksOf(Array.from(parts.values(), keyFrom))) {
      const rows = await this.#store.rows<NamedRow>(
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
  async #dropKnownRows(puttings: readonly Putting[], names: ReadonlySet<string>): Promise<void> {
    if (names.size === 0) return
    const parts = new Map<string, ReadPart>()
    for (const { batch } of puttings)
      for (const [name, part] of batch.reads) if (names.has(name)) parts.set(name, part)
    const keys = Array.from(parts.values(), keyFrom)
    const held = await this.#heldRows(keys)
    const marks = await this.#knownReads(Array.from(parts.values()))
    for (const putting of puttings)
      for (const [name, part] of putting.batch.reads) {
        if (!names.has(name)) continue
        const rows = held.get(keyOf(keyFrom(part))) ?? new Map<string, HeldRow>()
        held.set(keyOf(keyFrom(part)), rows)
        const mark = marks.get(part)?.find(read => read.readatMs === part.readatMs)
        for (const line of linesOf(putting.batch.rows, part.spans))
          this.#dropIfKnown(putting, line, rows, mark)
      }
  }

  #dropIfKnown(
    putting: Putting,
    line: RowLine,
    rows: Map<string, HeldRow>,
    mark: KnownRead | undefined,
  ): void {
    const mine = heldRow(line.values)
    const first = rows.get(mine.identity)
    const drop = (fate: PassedMessage['fate']) => {
      putting.dropped.push(line.from, line.to)
      putting.droppedRows += 1
      const { source, id } = nameOf(line.values)
      const value = fate === 'conflict' ? line.text : ''
      putting.passed.push({ partition: mine.partition, offset: mine.offset, fate, source, id, value })
    }
    const fateAgainst = (other: HeldRow) => (other.content === mine.content ? 'duplicate' : 'conflict')
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
      const { source, id } = nameOf(line.values)
      putting.passed.push({
        partition: first.partition,
        offset: first.offset,
        fate: fateAgainst(first),
        source,
        id,
        value: '',
      })
    }
    rows.set(mine.identity, mine)
  }

  /** The rows that the ledger has of these reads, by read and identity. */
  async #heldRows(keys: readonly ReadKey[]): Promise<Map<string, Map<string, HeldRow>>> {
    const held = new Map<string, Map<string, HeldRow>>()
    for (const some of chunksOf(keys)) {
      const rows = await this.#store.rows<
        NamedRow & { identity: string; content: string; log: string; partition: number; offset: string }
      >(
        `select source, scope, toUnixTimestamp(start) as start_s, toUnixTimestamp64Milli(readat) as readat_ms,
           toString(identity) as identity, content, log, partition, offset
         from events final where ${namedReads}`,
        readParams(some),
      )
      for (const row of rows) {
        const key = keyOf(keyFromRow(row))
        const list = held.get(key) ?? new Map<string, HeldRow>()
        held.set(key, list)
        list.set(row.identity, {
          identity: row.identity,
          content: row.content,
          log: row.log,
          partition: Number(row.partition),
          offset: BigInt(row.offset),
        })
      }
    }
    return held
  }

  #remember(name: string, part: ReadPart): void {
    const open = this.#open.get(name)
    if (!open) {
      const [oldest] = this.#open.keys()
      if (this.#open.size >= openReadsMax && oldest !== undefined) this.#open.delete(oldest)
      // Not the part itself, which would keep its spans.
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

  // -- marks

  /** The marks there are of the hours of these windows, in their scopes. */
  async #knownReads(windows: readonly ScopeWindow[]): Promise<KnownReads> {
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
        const rows = await this.#store.rows<StoredRead>(
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

  /** For each mark what its readings are, where all are there; what memory cannot tell the events themselves do. */
  async #groundsOf(
    marks: readonly AcceptedMark[],
    known: KnownReads,
  ): Promise<ReadonlyMap<AcceptedMark, Grounds>> {
    const grounds = new Map<AcceptedMark, Grounds>()
    const unknown: AcceptedMark[] = []
    for (const mark of marks) {
      if (mark.event.data.outcome === 'failed') continue
      const found = this.#remembered(mark, known)
      if (found) grounds.set(mark, found)
      else unknown.push(mark)
    }
    for (const some of chunksOf(unknown)) {
      const rows = await this.#store.rows<{
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

  /** From memory and `reads`; undefined where only the events can tell. */
  #remembered(mark: AcceptedMark, known: KnownReads): Grounds | undefined {
    const { data } = mark.event
    const digest = BigInt(`0x${data.digest}`)
    const others = known.of(windowOf(mark))
    const same = others.find(read => read.readatMs === mark.readatMs)
    // The same message again, after a crash: it was judged when its readings were in.
    if (same?.isHeld === true && isAt(same, { log: this.#log, ...mark })) return same
    if (data.repeats !== undefined) {
      const repeated = others.find(read => read.readatMs === contentOf(mark))
      const agrees =
        repeated?.isHeld === true && repeated.digest === digest && repeated.events === data.events
      return agrees ? repeated : undefined
    }
    const open = this.#open.get(mark.read)
    const isWhole =
      same === undefined && (open?.readings ?? 0) === data.events && (open?.digest ?? 0n) === digest
    return isWhole ? (open ?? { subjects: [], totals: new Map() }) : undefined
  }

  /** Marks and decisions one after the other as the log has them, each against what was before it. */
  #judge(
    puttings: readonly Putting[],
    given: {
      readonly known: KnownReads
      readonly grounds: ReadonlyMap<AcceptedMark, Grounds>
      readonly before: ReadonlyMap<string, KnownDecision>
    },
  ): Judged {
    const judged: Judged = { verdicts: [], confirmed: [], decisions: [], cells: new Cells() }
    const seen = new Map(given.before)
    for (const putting of puttings) {
      const { marks, decisions } = putting.batch
      const inOrder = [...marks, ...decisions].sort((a, b) => (a.offset < b.offset ? -1 : 1))
      for (const one of inOrder)
        if ('read' in one) this.#judgeMark(putting, one, given, judged)
        else this.#judgeDecision(putting, one, { known: given.known, seen }, judged)
    }
    return judged
  }

  #judgeMark(
    putting: Putting,
    mark: AcceptedMark,
    { known, grounds }: { known: KnownReads; grounds: ReadonlyMap<AcceptedMark, Grounds> },
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
    const isReplay = same !== undefined && isAt(same, { log: this.#log, partition, offset })
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
      log: same?.log ?? this.#log,
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
        this.#rule,
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

  // -- decisions

  async #knownDecisions(decisions: readonly AcceptedDecision[]): Promise<ReadonlyMap<string, KnownDecision>> {
    const known = new Map<string, KnownDecision>()
    for (const some of chunksOf(decisions)) {
      const rows = await this.#store.rows<{
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

  #judgeDecision(
    putting: Putting,
    decision: AcceptedDecision,
    { known, seen }: { known: KnownReads; seen: Map<string, KnownDecision> },
    judged: Judged,
  ): void {
    const { event, partition, offset } = decision
    const name = `${event.source} ${event.id}`
    const first = seen.get(name)
    const mine = { log: this.#log, partition, offset }
    if (first && !isAt(first, mine)) {
      const { source, id } = event
      putting.passed.push({ partition, offset, fate: 'duplicate', source, id, value: '' })
      putting.droppedDecisions += 1
      return
    }
    seen.set(name, mine)
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

  /** Rows of reads that were suspect, written again as confirmed. */
  async #confirm(reads: readonly KnownRead[]): Promise<void> {
    for (const some of chunksOf(reads))
      await this.#store.run(
        `insert into reads select * replace (false as suspect, version + 1 as version,
           {offsets:Array(UInt64)}[indexOf({readats:Array(Int64)}, toUnixTimestamp64Milli(readat))] as counts_from)
         from reads final where ${namedReads}`,
        {
          ...readParams(some.map(read => ({ ...read, startMs: read.window.startMs }))),
          offsets: some.map(read => read.countsFrom),
        },
      )
  }

  // -- rows

  /** Of two batches of a partition the second goes on where the first ends. */
  #positionLines(puttings: readonly Putting[]): readonly string[] {
    const next = new Map(this.#next)
    return puttings.map(putting => {
      const line = this.#positionLine(putting, next.get(putting.batch.partition))
      next.set(putting.batch.partition, putting.batch.last + 1n)
      return line
    })
  }

  #positionLine(putting: Putting, next: bigint | undefined): string {
    const { batch, passed, rejects, droppedRows, droppedMarks, droppedDecisions } = putting
    // From where the last batch ended: offsets that the log no longer has are passed over and show as `messages`
    // being less than the span.
    const first = next !== undefined && next < batch.first ? next : batch.first
    return JSON.stringify([
      this.#log,
      batch.partition,
      first.toString(),
      batch.last.toString(),
      batch.messages,
      batch.readings - droppedRows,
      batch.marks.length - droppedMarks,
      passed.filter(({ fate }) => fate === 'duplicate').length,
      passed.filter(({ fate }) => fate === 'conflict').length,
      rejects.length,
      batch.decisions.length - droppedDecisions,
      batch.pushed.length - putting.droppedPushed,
      batch.amendments.length - putting.droppedAmendments,
    ])
  }

  #rejectLine(reject: RejectedMessage): string {
    return JSON.stringify([
      this.#log,
      reject.partition,
      reject.offset.toString(),
      reject.code,
      reject.reason,
      reject.value.toString('base64'),
      reject.bytes,
      reject.sha256,
      reject.headers === undefined
        ? ''
        : JSON.stringify(reject.headers).slice(0, headersLengthMax).toWellFormed(),
      reject.origin ?? 'log',
    ])
  }

  /** What became of the messages that came again from the rejects. */
  #replayLines({ batch, passed, rejects }: Putting): string[] {
    if (batch.replays.length === 0) return []
    const fates = new Map<bigint, { fate: string; code: string; reason: string }>()
    for (const { offset, fate } of passed) fates.set(offset, { fate, code: '', reason: '' })
    for (const { offset, code, reason } of rejects) fates.set(offset, { fate: 'rejected', code, reason })
    return batch.replays.map(({ offset, from, part }) => {
      const { fate, code, reason } = fates.get(offset) ?? { fate: 'accepted', code: '', reason: '' }
      const place = [from.log, from.partition, from.offset.toString(), part]
      return JSON.stringify([...place, this.#log, batch.partition, offset.toString(), fate, code, reason])
    })
  }

  #passedLine({ partition, offset, fate, source, id, value }: PassedMessage): string {
    const identity = idHash(source, id).toString()
    return JSON.stringify([this.#log, partition, offset.toString(), fate, source, id, identity, value])
  }

  #decisionLine({ event, window, partition, offset }: AcceptedDecision): string {
    const { action, readat, subject, author, reason } = event.data
    return JSON.stringify([
      event.source,
      event.scope,
      window.startMs / 1000,
      window.endMs / 1000,
      action,
      readat ?? '1970-01-01T00:00:00.000Z',
      subject ?? '',
      author,
      reason,
      event.time,
      event.id,
      idHash(event.source, event.id).toString(),
      this.#log,
      partition,
      offset.toString(),
    ])
  }

  #readLine({ mark, read }: Verdict): string {
    const { data } = mark.event
    return JSON.stringify([
      read.source,
      read.scope,
      read.window.startMs / 1000,
      read.window.endMs / 1000,
      mark.event.readat,
      data.repeats ?? mark.event.readat,
      data.outcome,
      read.isHeld,
      read.events,
      read.digest.toString(),
      Array.from(read.subjects),
      showTotals(read.totals),
      data.settled,
      data.estimated,
      data.bad && data.bad.length > 0 ? JSON.stringify(data.bad) : '',
      data.scopes && data.scopes.length > 0 ? JSON.stringify(data.scopes) : '',
      data.fault?.code ?? '',
      data.fault?.message ?? '',
      read.log,
      read.partition,
      read.offset.toString(),
      read.isSuspect,
      read.countsFrom.toString(),
      read.content.toString(),
      idHash(read.source, mark.event.id).toString(),
      read.version.toString(),
    ])
  }
}

// -- readings of a batch

type ReadGist = Pick<ReadPart, 'subjects' | 'readings' | 'digest' | 'totals'>

interface HeldRow {
  readonly identity: string
  readonly content: string
  readonly log: string
  readonly partition: number
  readonly offset: bigint
}

interface RowLine {
  readonly from: number
  readonly to: number
  readonly text: string
  readonly values: RowValues
}

function newPutting(batch: AcceptedBatch): Putting {
  return {
    batch,
    passed: [...batch.passed],
    rejects: [...batch.rejects],
    dropped: [],
    droppedRows: 0,
    droppedMarks: 0,
    droppedDecisions: 0,
    droppedPushed: 0,
    droppedAmendments: 0,
  }
}

function* linesOf(rows: Buffer, spans: readonly number[]): Generator<RowLine> {
  for (let at = 0; at < spans.length; at += 2)
    for (let from = spans[at] ?? 0; from < (spans[at + 1] ?? 0); ) {
      const end = rows.indexOf(10, from)
      const text = rows.toString('utf8', from, end)
      yield { from, to: end + 1, text, values: JSON.parse(text) }
      from = end + 1
    }
}

const [identityAt, contentAt, logAt, partitionAt, offsetAt, sourceAt, readatAt] = (
  ['identity', 'content', 'log', 'partition', 'offset', 'source', 'readat'] as const
).map(name => eventColumns.indexOf(name)) as [number, number, number, number, number, number, number]

function heldRow(values: RowValues): HeldRow {
  return {
    identity: String(values[identityAt]),
    content: String(values[contentAt]),
    log: String(values[logAt]),
    partition: Number(values[partitionAt]),
    offset: BigInt(values[offsetAt] as string),
  }
}

/** Source and id of the event that a row was made from. */
function nameOf(values: RowValues): { source: string; id: string } {
  const identity = BigInt(values[identityAt] as string)
    .toString(16)
    .padStart(32, '0')
  return { source: String(values[sourceAt]), id: `${identity}@${String(values[readatAt])}` }
}

/** The rows of a batch without those that were dropped. */
function keptRows({ batch, dropped }: Putting): readonly Buffer[] {
  if (dropped.length === 0) return [batch.rows]
  const kept: Buffer[] = []
  let from = 0
  const spans = Array.from({ length: dropped.length / 2 }, (_, at) => [
    dropped[2 * at] ?? 0,
    dropped[2 * at + 1] ?? 0,
  ])
  for (const [start, end] of spans.sort(([a = 0], [b = 0]) => a - b) as [number, number][]) {
    if (start > from) kept.push(batch.rows.subarray(from, start))
    from = end
  }
  kept.push(batch.rows.subarray(from))
  return kept
}

/** The reads of which a row was dropped: what memory would say of them is not what the ledger has. */
function readsOf(batch: AcceptedBatch, dropped: readonly number[]): string[] {
  const names: string[] = []
  for (const [name, { spans }] of batch.reads)
    for (let at = 0; at < dropped.length; at += 2) {
      const from = dropped[at] ?? 0
      if (spans.some((start, index) => index % 2 === 0 && start <= from && from < (spans[index + 1] ?? 0))) {
        names.push(name)
        break
      }
    }
  return names
}

function outcomeOf(puttings: readonly Putting[]): PutOutcome {
  const sum = (of: (putting: Putting) => number) => puttings.reduce((total, one) => total + of(one), 0)
  const passed = puttings.flatMap(putting => putting.passed)
  return {
    readings: sum(({ batch, droppedRows }) => batch.readings - droppedRows),
    marks: sum(({ batch, droppedMarks }) => batch.marks.length - droppedMarks),
    decisions: sum(({ batch, droppedDecisions }) => batch.decisions.length - droppedDecisions),
    pushed: sum(({ batch, droppedPushed }) => batch.pushed.length - droppedPushed),
    amendments: sum(({ batch, droppedAmendments }) => batch.amendments.length - droppedAmendments),
    duplicates: passed.filter(({ fate }) => fate === 'duplicate').length,
    conflicts: passed.filter(({ fate }) => fate === 'conflict').length,
    rejects: puttings.flatMap(({ rejects }) => rejects),
  }
}

function added(a: Totals, b: Totals): Totals {
  const sum = new Map(a)
  for (const [name, value] of b) sum.set(name, (sum.get(name) ?? 0n) + value)
  return sum
}

// -- reads of the ledger

interface Judged {
  readonly verdicts: Verdict[]
  readonly confirmed: KnownRead[]
  readonly decisions: AcceptedDecision[]
  readonly cells: Cells
}

interface Place {
  readonly log: string
  readonly partition: number
  readonly offset: bigint
}

type KnownDecision = Place

interface ScopeWindow {
  readonly source: string
  readonly scope: string
  readonly window: Window
}

/** The mark of a read as `reads` has it. */
interface StoredRead extends NamedRow {
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

interface NamedRow {
  readonly source: string
  readonly scope: string
  readonly start_s: number
  readonly readat_ms: string
}

/** Reads by scope and hour: those of a window, and those whose windows may cross it. */
class KnownReads {
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

function windowOf({ event, window }: AcceptedMark | AcceptedDecision): ScopeWindow {
  return { source: event.source, scope: event.scope, window }
}

/** When the read was made whose readings a mark speaks of. */
function contentOf({ event, readatMs }: AcceptedMark): number {
  return event.data.repeats === undefined ? readatMs : Date.parse(event.data.repeats)
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

function isAt(one: Place, other: Place): boolean {
  return one.log === other.log && one.partition === other.partition && one.offset === other.offset
}

/** Does it stand behind the other in the log? In another log or partition it is taken to. */
function isBehind(one: Place, other: Place): boolean {
  return one.log !== other.log || one.partition !== other.partition || one.offset > other.offset
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
