/**
 * The collector's durable outbox: one SQLite file with the events on their way to the log and the collector's memory of
 * its reads. Owns what goes into it together and what of it has to outlive a power cut; the file is outbox-file.ts, its
 * rows outbox-rows.ts, and how rows travel on is relay.ts (Kafka) or embedded.ts.
 */
import assert from 'node:assert'
import { randomUUID } from 'node:crypto'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import type { ReadIdentity } from '../../schemas/event.ts'
import { Fault } from '../../schemas/fault.ts'
import { dayMs, type Window } from '../../schemas/window.ts'
import { openDamaged, setAsideIn } from './damaged.ts'
import { gathering } from './gathering.ts'
import type { OutboxRow } from './log.ts'
import { CollectorMemory, type ReadRecord, type RequestedWindow, type SeenScope } from './memory.ts'
import { type FileOptions, OutboxFile, openAsItIs } from './outbox-file.ts'
import {
  type EncodedEvent,
  type OutboxDepth,
  OutboxRows,
  type ReleasedRow,
  type ReleasedSum,
  type StoredRow,
  type TakeLimits,
  type WindowRow,
} from './outbox-rows.ts'
import { type SourceState, sourceState } from './source-state.ts'
import { sqliteFault } from './sqlite.ts'

export const outboxBytesMaxDefault = 2 * 1024 ** 3
export const outboxRetentionMsDefault = 7 * dayMs
/** Rows of a file that was set aside that are brought over at once. */
const rescuedRowsMax = 2000
/** How long a read by hand that was cut short may be taken up. */
const requestKeptMs = dayMs
/** How long, and up to how many bytes, `appendSoon` waits for others. */
const soonMs = 25
const soonBytesMax = 4 * 1024 ** 2

export interface OutboxOptions extends FileOptions {
  /** How keys are dealt to the log's partitions; all to partition 0 when embedded. */
  readonly partitions?: { readonly count: number; readonly of: (key: string) => number }
  /** How many bytes may wait; released rows are kept as far as they fit beside them. */
  readonly bytesMax?: number
  readonly retentionMs?: number
  /** Told of OUTBOX_DAMAGED when a damaged file was set aside and this fresh one begun. */
  readonly onFault?: (fault: Fault) => void
}

/** An event that is no part of a read: somebody pushed it. */
export interface PushedEvent extends EncodedEvent {
  readonly source: string
  readonly key: string
}

/** A whole read: its events, its mark behind them, and what to remember of it. */
export interface NewRead {
  readonly identity: ReadIdentity
  readonly key: string
  readonly readings: readonly EncodedEvent[]
  readonly mark: EncodedEvent
  readonly record: ReadRecord
  /** Scopes that the mark of a listing names. */
  readonly announces?: readonly string[]
  /** The read by hand that it serves, to be remembered by it. */
  readonly request?: string
}

export class SqliteOutbox implements Disposable {
  readonly memory: CollectorMemory
  readonly bytesMax: number
  readonly #file: OutboxFile
  readonly #rows: OutboxRows
  readonly #access: OutboxOptions['access']
  readonly #partitions: { readonly count: number; readonly of: (key: string) => number }
  readonly #retentionMs: number
  readonly #nowMs: () => number
  readonly #waiters = new Set<() => void>()
  readonly #dir: string
  /** The number behind the last row that was ever handed out; kept in the file, so that it goes back with it. */
  #knownSeq = 1
  /** How often this process changed what is due, other than by reading. */
  #changes = 0
  readonly #soon = gathering((reads: readonly NewRead[]) => this.append(...reads), {
    waitMs: soonMs,
    sizeOf: ({ readings }) => readings.reduce((sum, event) => sum + event.value.length, 0),
    sizeMax: soonBytesMax,
  })
  #id: string

  /**
   * Opens the outbox of a directory, making it where there is none. For `append` a damaged file is set aside, a fresh
   * one begun with a new id, and what can still be read brought over: rows that wait, scopes and grids. The windows are
   * not: all are due again.
   * @throws Fault OUTBOX_LOCKED | OUTBOX_UNREADABLE | OUTBOX_FULL, OUTBOX_DAMAGED where it is not opened for `append`,
   * or LOG_UNSAFE where the count of partitions changed while rows wait: they were dealt by the old count, and order
   * within a key would break.
   */
  static open(options: OutboxOptions): SqliteOutbox {
    return new SqliteOutbox(options)
  }

  private constructor(options: OutboxOptions) {
    const { dir, access, nowMs } = options
    this.#dir = dir
    this.#access = access
    this.bytesMax = options.bytesMax ?? outboxBytesMaxDefault
    this.#retentionMs = options.retentionMs ?? outboxRetentionMsDefault
    this.#partitions = options.partitions ?? { count: 1, of: () => 0 }
    this.#nowMs = nowMs
    this.#file = new OutboxFile(options)
    try {
      const { bytesMax } = this
      const partitionOf = (key: string) => this.#partitions.of(key)
      this.#rows = new OutboxRows(this.#file.statement, { bytesMax, partitionOf, nowMs })
      this.memory = new CollectorMemory(this.#file.db)
      this.#id = this.#file.transaction(() => {
        const id = this.#file.meta('id')
        if (id !== undefined) return id
        this.#file.setMeta('handed', '1')
        return this.#file.setMeta('id', randomUUID())
      })
      if (access === 'append') {
        this.#rescue(options.onFault)
        this.#holdPartitions()
      }
      // A file of before it was kept: then what is there now.
      this.#knownSeq = Number(this.#file.meta('handed') ?? this.bounds().nextSeq)
    } catch (error) {
      this.#file[Symbol.dispose]()
      throw sqliteFault(error, dir)
    }
  }

  /** Tells outboxes apart: made with the file, and made anew when the file turns out to be an older copy. */
  get id(): string {
    return this.#id
  }

  /**
   * Reads through the file; nothing else goes on meanwhile, about a second for a gigabyte.
   * @throws Fault OUTBOX_DAMAGED
   */
  checkWhole(): void {
    this.#file.checkWhole()
  }

  /** Damaged outboxes that lie beside this one until a person takes them away. */
  get damagedFiles(): readonly string[] {
    return setAsideIn(this.#dir)
  }

  /** When the outbox before this one was begun, where that one's memory of its scopes could not be read. */
  get begunMs(): number | undefined {
    const begun = this.#file.meta('begun')
    return begun === undefined ? undefined : Number(begun)
  }

  /**
   * Stores whole reads, all or none, durable when it returns.
   * @throws Fault OUTBOX_FULL | GRID_OVERLAP; then nothing was stored.
   */
  append(...reads: readonly NewRead[]): void {
    assert(this.#access === 'append', 'reads are stored by the one process that has the lock')
    this.#file.transaction(() => {
      for (const { identity, key, readings, mark, record, announces, request } of reads) {
        const { source, scope, window, readatMs } = identity
        const span = [scope, window.startMs, window.endMs, readatMs] as const
        this.#rows.insert(source, key, span, [...readings, mark])
        this.memory.record(record)
        if (announces) this.memory.announce(source, announces)
        if (request !== undefined)
          this.memory.noteRequested(request, { source, scope, startMs: window.startMs })
      }
    })
    this.#wake()
  }

  /**
   * As `append`, together with what others store in these milliseconds: one wait for the disk, not one for each.
   * @throws (rejects with) what `append` of this read alone would throw.
   */
  appendSoon(read: NewRead): Promise<void> {
    return this.#soon.put(read)
  }

  /**
   * Stores pushed events, all or none, durable when it returns. The reader of the outbox sees them at once in this
   * process, within its poll in another.
   * @throws Fault OUTBOX_FULL | OUTBOX_LOCKED, LOG_UNSAFE where the collector deals keys to another count of partitions,
   * or OUTBOX_DAMAGED where the collector set this file aside: open it again and push again.
   */
  push(events: readonly PushedEvent[]): void {
    this.#file.transaction(() => {
      if (this.#access === 'push') this.#sharePartitions()
      for (const event of events)
        this.#rows.insert(event.source, event.key, [null, null, null, null], [event])
    })
    this.#wake()
  }

  /** What this source keeps over a restart; it writes as the one collector that has the lock. */
  state(source: string): SourceState {
    assert(this.#access === 'append', 'what a source keeps is stored by the one process that has the lock')
    return sourceState(this.#file, source)
  }

  /** Takes note of the scopes a provider lists; `expectedMs` counts where it does not say since when. */
  see(source: string, seen: readonly SeenScope[], expectedMs: number): void {
    this.#file.undurable(() => this.memory.see(source, seen, expectedMs))
  }

  /**
   * A person ends a scope: windows that start from then on are not due, whatever its provider lists. Replaces an
   * earlier end by hand. A collector that runs takes note by `revision`.
   */
  end(source: string, scope: string, fromMs: number): void {
    this.#file.transaction(() => this.memory.end(source, scope, fromMs))
    this.#changes += 1
  }

  /**
   * Another text as soon as somebody else may have changed what is due: another process that wrote to the file, or this
   * one by `end` or `reopen`. Reads stored here do not change it.
   */
  get revision(): string {
    // Changes with each commit of another connection: https://www.sqlite.org/pragma.html#pragma_data_version
    const { data_version } = this.#file.statement('pragma data_version').get() as { data_version: number }
    return `${data_version} ${this.#changes}`
  }

  /** The clock was ahead of now: what it has settled is due again. */
  distrust(source: string, nowMs: number): void {
    this.#file.transaction(() => this.memory.distrust(source, nowMs))
  }

  /** What a read by hand that was cut short has read: of one that was begun within a day. */
  takeUpRequest(request: string): readonly RequestedWindow[] {
    const nowMs = this.#nowMs()
    return this.#file.transaction(() =>
      this.memory.takeUp(request, { sinceMs: nowMs - requestKeptMs, nowMs }),
    )
  }

  /** Done, or to begin anew: asking again reads everything again. */
  forgetRequest(request: string): void {
    this.#file.transaction(() => this.memory.forgetRequest(request))
  }

  /** Makes windows due again of which the ledger lacks what was read. A collector that runs takes note by `revision`. */
  reopen(windows: readonly (RequestedWindow & { readonly endMs: number })[]): void {
    if (windows.length === 0) return
    this.#file.transaction(() => this.memory.reopen(windows))
    this.#changes += 1
  }

  /** Lets go of what is remembered of open windows that the provider no longer answers for. */
  forget(source: string, beforeMs: number): void {
    this.#file.undurable(() => this.memory.forget(source, beforeMs))
  }

  /** The oldest rows of a partition that are not released, at least one if there is one. */
  pending(partition: number, limits: TakeLimits): OutboxRow[] {
    return this.#rows.pending(partition, limits)
  }

  /** The log has acknowledged these rows of a partition, in this order, from `baseOffset` on. */
  release(partition: number, seqs: readonly number[], baseOffset: bigint): void {
    this.#file.undurable(() => this.#rows.release(partition, seqs, baseOffset))
  }

  /** Sets aside a row that the log would never take, so that those behind it go on. */
  quarantine(seq: number, reason: string): void {
    this.#file.transaction(() => this.#rows.quarantine(seq, reason))
  }

  /** Released rows of a partition from an offset on, in the order of their offsets. */
  releasedRows(partition: number, fromOffset: bigint, limit: number): ReleasedRow[] {
    return this.#rows.released(partition, fromOffset, limit)
  }

  /**
   * Puts released rows back to waiting, to be sent again: the log lost them. They may go beyond `bytesMax`; then reading
   * stops until they are out. Returns how many there were; rows that were purged meanwhile are not.
   */
  resend(seqs: readonly number[]): number {
    const rows = this.#file.transaction(() => this.#rows.resend(seqs))
    this.#wake()
    return rows
  }

  /**
   * What the log was given of the windows that start in a span, in order of source, scope and start: of released rows
   * that are still kept. One pass over the whole file.
   */
  sums(span: Window): ReleasedSum[] {
    return this.#rows.sums(span)
  }

  /** The rows of these windows, waiting ones too, in the order of the file. One pass over all of it. */
  rowsOf(windows: readonly RequestedWindow[]): WindowRow[] {
    return this.#rows.ofWindows(windows)
  }

  /** Released rows that are no part of a read, behind a sequence number, in the order of the file. */
  releasedPushes(afterSeq: number, limit: number): WindowRow[] {
    return this.#rows.releasedPushes(afterSeq, limit)
  }

  depth(): OutboxDepth {
    return this.#rows.depth(Number(this.#file.meta('partitions') ?? 1))
  }

  /** Is there room for another read? Waiting rows alone count: released ones give way. */
  isFull(): boolean {
    return this.#rows.isFull()
  }

  /**
   * Drops released rows that are older than the retention, or beyond the bound. A few thousand at a time, so that
   * nobody waits for it: returns how many, 0 when there is nothing left to drop.
   */
  purge(): number {
    const beforeMs = this.#nowMs() - this.#retentionMs
    return this.#file.undurable(() => this.#rows.purge(beforeMs))
  }

  /** Rows from a sequence number on, released or not: what the embedded log reads. */
  rowsFrom(seq: number, limits: TakeLimits): StoredRow[] {
    const rows = this.#rows.from(seq, limits)
    const nextSeq = (rows.at(-1)?.seq ?? 0) + 1
    if (nextSeq > this.#knownSeq) {
      // Before they are handed out. Where a power cut loses it the ledger is asked to take them twice, which it does not.
      this.#file.undurable(() => this.#file.setMeta('handed', String(nextSeq)))
      this.#knownSeq = nextSeq
    }
    return rows
  }

  /**
   * How far a ledger can have read this file: to what was handed out of it. One that has read further has read another
   * copy, however much was appended to this one meanwhile.
   */
  get readableSeq(): number {
    return this.#knownSeq
  }

  /** The log read in place has everything up to this row. */
  releaseThrough(seq: number): void {
    this.#file.undurable(() => this.#rows.releaseThrough(seq))
  }

  /** The oldest row still kept and the next to be written: equal when there is none. */
  bounds(): { readonly firstSeq: number; readonly nextSeq: number } {
    return this.#rows.bounds()
  }

  /** Another log from now on: for a file that was put back to an older copy, whose numbers were given out before. */
  renew(): string {
    this.#id = this.#file.transaction(() => this.#file.setMeta('id', randomUUID()))
    return this.#id
  }

  /** Waits until something may have been appended: at once by this process, within the timeout by another. */
  async appended(options: { readonly signal: AbortSignal; readonly timeoutMs: number }): Promise<void> {
    if (options.signal.aborted) return
    await new Promise<void>(resolve => {
      const wake = () => {
        clearTimeout(timer)
        options.signal.removeEventListener('abort', wake)
        this.#waiters.delete(wake)
        resolve()
      }
      const timer = setTimeout(wake, options.timeoutMs)
      options.signal.addEventListener('abort', wake)
      this.#waiters.add(wake)
    })
  }

  [Symbol.dispose](): void {
    this.#soon.flush()
    this.#wake()
    this.#file[Symbol.dispose]()
  }

  #wake(): void {
    for (const wake of [...this.#waiters]) wake()
  }

  #holdPartitions(): void {
    const held = this.#file.meta('partitions')
    const { count } = this.#partitions
    if (held === String(count)) return
    const totals = this.#rows.totals()
    const waiting = totals.waiting_rows + totals.quarantined_rows
    if (held !== undefined && waiting > 0)
      throw new Fault(
        'LOG_UNSAFE',
        `${waiting} rows wait in the outbox, dealt to ${held} partitions; the log has ${count}: let them out first`,
        { held: Number(held), count, waiting },
      )
    this.#file.transaction(() => this.#file.setMeta('partitions', String(count)))
  }

  /** Brings over what can be read of outboxes that were set aside, each once, however often this is cut short. */
  #rescue(onFault: OutboxOptions['onFault']): void {
    const { damage } = this.#file
    for (const name of setAsideIn(this.#dir)) {
      const known = `rescued ${name}`
      if (this.#file.meta(known) !== undefined) continue
      using damaged = openDamaged(join(this.#dir, name))
      const scopes = damaged?.scopes
      let rows = 0
      this.#file.transaction(() => {
        for (const row of scopes ?? []) this.memory.rescueScope(row)
        for (const row of damaged?.grids ?? []) this.memory.rescueGrid(row)
        if (!scopes)
          this.#file.setMeta('begun', String(damaged?.begunMs ?? statSync(join(this.#dir, name)).birthtimeMs))
      })
      for (const some of inLots(damaged?.rows ?? [], rescuedRowsMax)) {
        this.#file.transaction(() => this.#rows.insertRescued(some))
        rows += some.length
      }
      // Last: cut short before it, all is brought over again, and the ledger tells by the ids what it has.
      this.#file.transaction(() => this.#file.setMeta(known, String(rows)))
      const unreadable = damaged?.unreadable() ?? 0
      onFault?.(
        new Fault(
          'OUTBOX_DAMAGED',
          `${damage ? `${damage.message}: it` : `an outbox in ${this.#dir}`} is set aside as ${name}; ${rows} rows that waited were brought over, ${damaged ? unreadable : 'none'} ${damaged ? 'could not be read' : 'of it can be read'}; all windows are read again`,
          { dir: this.#dir, file: name, rows, unreadable, scopes: scopes?.length ?? null },
          { cause: damage },
        ),
      )
    }
  }

  /** A pusher deals keys as the collector does; where none ever ran, the first pusher says how. */
  #sharePartitions(): void {
    const { count } = this.#partitions
    const held = this.#file.meta('partitions') ?? this.#file.setMeta('partitions', String(count))
    if (held !== String(count))
      throw new Fault(
        'LOG_UNSAFE',
        `the outbox deals its keys to ${held} partitions, and the config says ${count}: start the collector once first`,
        { held: Number(held), count },
      )
  }
}

/**
 * The memory of an outbox, without opening the outbox: nothing is made, locked or brought up to date. Undefined where
 * there is none.
 * @throws Fault OUTBOX_DAMAGED | OUTBOX_UNREADABLE
 */
export function readMemory(dir: string): ({ readonly memory: CollectorMemory } & Disposable) | undefined {
  const db = openAsItIs(dir)
  return db && { memory: new CollectorMemory(db), [Symbol.dispose]: () => db.close() }
}

function* inLots<Item>(items: Iterable<Item>, lot: number): Generator<readonly Item[]> {
  let some: Item[] = []
  for (const item of items) {
    some.push(item)
    if (some.length < lot) continue
    yield some
    some = []
  }
  if (some.length > 0) yield some
}
