/**
 * The ledger's side of a batch: readings in, marks held against what is there and judged, cells marked stale, positions
 * written. Every step may be repeated; the order of the steps is what makes a crash between any two of them harmless.
 * Owns that order and the rows; what they say of readings and of marks is found out in readings.ts and marks.ts.
 */
import { randomUUID } from 'node:crypto'
import type { RejectedMessage } from '../runtime/log/log.ts'
import { idHash } from '../schemas/event.ts'
import { Fault } from '../schemas/fault.ts'
import { type SuspectRule, showTotals, suspectDefault } from '../schemas/suspect.ts'
import type { AcceptedBatch, AcceptedDecision, PassedMessage } from './accept.ts'
import {
  groundsOf,
  judge,
  type KnownRead,
  knownDecisions,
  knownReads,
  type PuttingMarks,
  type Verdict,
  windowOf,
} from './marks.ts'
import { putPushed } from './pushed.ts'
import { dropKnownRows, OpenReads, type PuttingReadings, readsWithRows } from './readings.ts'
import { chunksOf, namedReads, readParams } from './reads.ts'
import { newToken, touchCells } from './stale.ts'
import type { Store } from './store.ts'
import type { Position } from './witness.ts'

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

/** All but `log` and `partition` are UInt64. */
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
  'pushed_marks',
] as const

const positionTypes = positionColumns.map(name =>
  name === 'log' ? 'String' : name === 'partition' ? 'UInt32' : 'UInt64',
)

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

/** Of a reject's headers, as JSON: what is longer cannot be replayed. */
const headersLengthMax = 64 * 1024

/** What became of the messages of the batches beyond what `accept` knew. */
export interface PutOutcome {
  readonly readings: number
  readonly marks: number
  readonly decisions: number
  readonly pushed: number
  readonly pushedMarks: number
  readonly amendments: number
  readonly duplicates: number
  readonly conflicts: number
  readonly rejects: readonly RejectedMessage[]
}

/** One batch on its way in, with what was found out about it. */
interface Putting extends PuttingReadings, PuttingMarks {
  readonly batch: AcceptedBatch
  droppedPushed: number
  droppedPushedMarks: number
  droppedAmendments: number
}

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

/** Writes accepted batches of one log. One `put` at a time. */
export class Ledger {
  readonly #store: Store
  readonly #log: string
  readonly #rule: SuspectRule | null
  readonly #open = new OpenReads()
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
   * events, reads, decisions, pushed, pushed_marks, amendments, passed and rejected, is in every answer, and the positions
   * say so: the log may be told.
   * @param proof positions that must stand in the ledger when the new ones go in
   * @throws Fault STORE_PUT_BACK where they do not, or the tables are no longer those of its own first statement
   */
  async put(batches: readonly AcceptedBatch[], proof: readonly Position[] = []): Promise<PutOutcome> {
    const token = randomUUID()
    await this.#store.insert('puts', ['log', 'token'], [JSON.stringify([this.#log, token])])
    const puttings = batches.map(newPutting)
    const marks = batches.flatMap(batch => batch.marks)
    const decisions = batches.flatMap(batch => batch.decisions)
    const [known, prior, decided] = await Promise.all([
      knownReads(this.#store, [...marks, ...decisions].map(windowOf)),
      readsWithRows(this.#store, batches),
      knownDecisions(this.#store, decisions),
    ])
    await dropKnownRows(this.#store, puttings, prior)
    this.#open.add(puttings)
    const blocks = puttings.map(({ batch, dropped }) => batch.rows.block(dropped))
    await this.#store.insertBlocks(
      'events',
      blocks.filter(block => block !== undefined),
    )
    const pushedCells = await putPushed(this.#store, this.#log, puttings)

    // Readings count for nothing before their mark, so only now is anything marked stale.
    const log = this.#log
    const grounds = await groundsOf(this.#store, marks, { log, known, open: this.#open })
    const outcome = judge(puttings, { log, rule: this.#rule, known, grounds, decided })
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
      touchCells(this.#store, pushedCells, newToken()),
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
    await this.#putPositions(this.#positionLines(puttings), token, proof)
    for (const { marks: done, partition, last } of batches) {
      for (const mark of done) this.#open.delete(mark.read)
      this.#next.set(partition, last + 1n)
    }
    return outcomeOf(puttings)
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

  /** In one statement with the look at what must be there: between two the tables could be put back. */
  async #putPositions(lines: readonly string[], token: string, proof: readonly Position[]): Promise<void> {
    const log = this.#log
    const conditions = [
      '(select count() from puts where token = {token:UUID} and log = {log:String}) > 0',
      ...proof.map(
        (_, index) =>
          `(select count() from positions where log = {log:String} and partition = {partition${index}:UInt32}
             and first >= {from${index}:UInt64} and last = {last${index}:UInt64}) > 0`,
      ),
    ]
    const params = Object.fromEntries(
      proof.flatMap(({ partition, from, last }, index) => [
        [`partition${index}`, partition],
        [`from${index}`, from.toString()],
        [`last${index}`, last.toString()],
      ]),
    )
    const where = { condition: conditions.join(' and '), params: { ...params, log, token } }
    if (await this.#store.insertWhere('positions', positionColumns, positionTypes, lines, where)) return
    const [partition, , last] = JSON.parse(lines.at(-1) ?? '[]').slice(1, 4)
    const message = 'the ledger is not the one in which this put began'
    throw new Fault('STORE_PUT_BACK', message, { log, partition, last })
  }

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
    const { batch, passed, rejects, dropped, droppedMarks, droppedDecisions } = putting
    // From where the last batch ended: offsets that the log no longer has are passed over and show as `messages`
    // being less than the span.
    const first = next !== undefined && next < batch.first ? next : batch.first
    return JSON.stringify([
      this.#log,
      batch.partition,
      first.toString(),
      batch.last.toString(),
      batch.messages,
      batch.readings - dropped.size,
      batch.marks.length - droppedMarks,
      passed.filter(({ fate }) => fate === 'duplicate').length,
      passed.filter(({ fate }) => fate === 'conflict').length,
      rejects.length,
      batch.decisions.length - droppedDecisions,
      batch.pushed.length - putting.droppedPushed,
      batch.amendments.length - putting.droppedAmendments,
      batch.pushedMarks.length - putting.droppedPushedMarks,
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

function newPutting(batch: AcceptedBatch): Putting {
  return {
    batch,
    passed: [...batch.passed],
    rejects: [...batch.rejects],
    dropped: new Set(),
    droppedMarks: 0,
    droppedDecisions: 0,
    droppedPushed: 0,
    droppedPushedMarks: 0,
    droppedAmendments: 0,
  }
}

function outcomeOf(puttings: readonly Putting[]): PutOutcome {
  const sum = (of: (putting: Putting) => number) => puttings.reduce((total, one) => total + of(one), 0)
  const passed = puttings.flatMap(putting => putting.passed)
  return {
    readings: sum(({ batch, dropped }) => batch.readings - dropped.size),
    marks: sum(({ batch, droppedMarks }) => batch.marks.length - droppedMarks),
    decisions: sum(({ batch, droppedDecisions }) => batch.decisions.length - droppedDecisions),
    pushed: sum(({ batch, droppedPushed }) => batch.pushed.length - droppedPushed),
    pushedMarks: sum(({ batch, droppedPushedMarks }) => batch.pushedMarks.length - droppedPushedMarks),
    amendments: sum(({ batch, droppedAmendments }) => batch.amendments.length - droppedAmendments),
    duplicates: passed.filter(({ fate }) => fate === 'duplicate').length,
    conflicts: passed.filter(({ fate }) => fate === 'conflict').length,
    rejects: puttings.flatMap(({ rejects }) => rejects),
  }
}
