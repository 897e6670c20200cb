/**
 * The collector's durable outbox: one SQLite file with the events on their way to the log and the collector's memory of
 * its reads. Owns the file, its lock and its bounds; how rows travel on is relay.ts (Kafka) or embedded.ts.
 */
import assert from 'node:assert'
import { randomUUID } from 'node:crypto'
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import type { ReadIdentity } from '../../schemas/event.ts'
import { idHash } from '../../schemas/event.ts'
import { asFault, Fault } from '../../schemas/fault.ts'
import { dayMs, type Window } from '../../schemas/window.ts'
import {
  checkWhole,
  finishSetAside,
  openDamaged,
  outboxName,
  type RescuedRow,
  setAside,
  setAsideIn,
} from './damaged.ts'
import type { OutboxRow } from './log.ts'
import {
  beliefs,
  CollectorMemory,
  endedByHand,
  memoryTables,
  type ReadRecord,
  type RequestedWindow,
  requests,
  type SeenScope,
  settledAt,
} from './memory.ts'
import { preparedOnce, primaryCode, type Statement, sqliteBusy, sqliteFault } from './sqlite.ts'

export const outboxBytesMaxDefault = 2 * 1024 ** 3
export const outboxRetentionMsDefault = 7 * dayMs
/** What SQLite keeps beside a row's value: its columns and index entries. Part of every count of bytes. */
const rowOverheadBytes = 256
const purgeRowsMax = 2000
/** How long a read by hand that was cut short may be taken up. */
const requestKeptMs = dayMs
/** How long, and up to how many bytes, `appendSoon` waits for others. */
const soonMs = 25
const soonBytesMax = 4 * 1024 ** 2

export interface OutboxOptions {
  /** The directory of outbox.db and its lock. */
  readonly dir: string
  /**
   * `append`: the one writer of reads, which locks other such writers out. Beside it, in as many processes as like:
   * `drain` takes rows away; `push` stores pushed events and ends scopes, and stores no reads.
   */
  readonly access: 'append' | 'drain' | 'push'
  /** How keys are dealt to the log's partitions; all to partition 0 when embedded. */
  readonly partitions?: { readonly count: number; readonly of: (key: string) => number }
  /** How many bytes may wait; released rows are kept as far as they fit beside them. */
  readonly bytesMax?: number
  /** A hard bound on the file, as a full disk would be; none if not given. */
  readonly fileBytesMax?: number
  readonly retentionMs?: number
  readonly nowMs: () => number
  /** Told of OUTBOX_DAMAGED when a damaged file was set aside and this fresh one begun. */
  readonly onFault?: (fault: Fault) => void
}

/** An event as it is stored and sent. */
export interface EncodedEvent {
  readonly id: string
  readonly value: Buffer
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

/** A released row, for holding it against what the ledger has. */
export interface ReleasedRow {
  readonly seq: number
  readonly offset: bigint
  readonly source: string
  readonly id: string
  /** As of `idHash`: unsigned. */
  readonly idHash: bigint
  readonly releasedMs: number
}

/**
 * What the log was given of a window of a scope: how many events, and the sum of their id hashes mod 2^64. Of pushed
 * events, which have no scope, it is of a source and the UTC hour of their `time`, undefined where they have none.
 */
export interface ReleasedSum {
  readonly source: string
  readonly scope?: string
  readonly startMs?: number
  readonly events: number
  readonly sum: bigint
}

/** A row of a read's window, or of what was pushed. */
export interface WindowRow {
  readonly seq: number
  readonly partition: number
  /** Where the log has it, once it is released. */
  readonly offset?: bigint
  /** As of `idHash`: unsigned. */
  readonly idHash: bigint
  readonly source: string
  readonly scope?: string
  readonly startMs?: number
}

/** A row as the embedded log reads it. */
export interface StoredRow extends OutboxRow {
  readonly appendedMs: number
}

export interface OutboxDepth {
  /** Rows that the log has not acknowledged. */
  readonly rows: number
  readonly bytes: number
  /** How long the oldest of them has waited; 0 when there is none. */
  readonly oldestAgeMs: number
  /** Rows set aside because the log would never take them. */
  readonly quarantinedRows: number
  /** Released rows still kept. */
  readonly keptRows: number
  readonly keptBytes: number
}

export interface TakeLimits {
  readonly rowsMax: number
  readonly bytesMax: number
}

const migrations: readonly string[] = [
  `
create table meta (name text primary key, value text not null) strict, without rowid;
create table rows (
  seq integer primary key autoincrement,
  partition integer not null,
  key text not null,
  id text not null,
  id_hash integer not null,
  source text not null,
  scope text, start_ms integer, end_ms integer, readat_ms integer,
  value blob not null,
  bytes integer not null,
  appended_ms integer not null,
  log_offset integer,
  released_ms integer,
  quarantined text
) strict;
create index rows_pending on rows (partition, seq) where log_offset is null and quarantined is null;
create index rows_released on rows (released_ms, seq) where log_offset is not null;
create table totals (
  one integer primary key check (one = 1),
  waiting_rows integer not null, waiting_bytes integer not null, quarantined_rows integer not null,
  kept_rows integer not null, kept_bytes integer not null
) strict;
insert into totals values (1, 0, 0, 0, 0, 0);
${memoryTables}`,
  `
create index rows_sent on rows (partition, log_offset) where log_offset is not null;
${endedByHand}`,
  requests,
  beliefs,
  settledAt,
]

interface Totals {
  waiting_rows: number
  waiting_bytes: number
  quarantined_rows: number
  kept_rows: number
  kept_bytes: number
}

export class SqliteOutbox implements Disposable {
  readonly memory: CollectorMemory
  readonly bytesMax: number
  readonly #db: DatabaseSync
  readonly #lock: DatabaseSync | undefined
  readonly #access: OutboxOptions['access']
  readonly #partitions: { readonly count: number; readonly of: (key: string) => number }
  readonly #retentionMs: number
  readonly #nowMs: () => number
  readonly #waiters = new Set<() => void>()
  readonly #statement: (sql: string) => Statement
  readonly #dir: string
  /** Of the file that a pusher opened: it may be set aside meanwhile. */
  readonly #inode: bigint | undefined
  /** The number behind the last row that was ever handed out; kept in the file, so that it goes back with it. */
  #knownSeq = 1
  #soon: { readonly read: NewRead; readonly stored: PromiseWithResolvers<void> }[] = []
  #soonBytes = 0
  #soonTimer: NodeJS.Timeout | undefined
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
    try {
      mkdirSync(dir, { recursive: true })
    } catch (error) {
      throw asFault(error, 'OUTBOX_UNREADABLE', { dir })
    }
    this.#lock = access === 'append' ? holdLock(dir) : undefined
    let db: DatabaseSync | undefined
    try {
      if (access === 'append') finishSetAside(dir)
      let damage: Fault | undefined
      try {
        db = openFile(options)
      } catch (error) {
        if (access !== 'append' || !(error instanceof Fault) || error.code !== 'OUTBOX_DAMAGED') throw error
        damage = error
        setAside(dir, nowMs())
        db = openFile(options)
      }
      this.#db = db
      this.#statement = preparedOnce(db)
      this.memory = new CollectorMemory(db)
      this.#inode = access === 'push' ? inodeOf(dir) : undefined
      this.#id = this.#transaction(() => {
        const id = this.#meta('id')
        if (id !== undefined) return id
        this.#setMeta('handed', '1')
        return this.#setMeta('id', randomUUID())
      })
      if (access === 'append') {
        this.#rescue(damage, options.onFault)
        this.#holdPartitions()
      }
      // A file of before it was kept: then what is there now.
      this.#knownSeq = Number(this.#meta('handed') ?? this.bounds().nextSeq)
    } catch (error) {
      db?.close()
      this.#lock?.close()
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
    try {
      checkWhole(this.#db)
    } catch (error) {
      throw sqliteFault(error, this.#dir)
    }
  }

  /** Damaged outboxes that lie beside this one until a person takes them away. */
  get damagedFiles(): readonly string[] {
    return setAsideIn(this.#dir)
  }

  /** When the outbox before this one was begun, where that one's memory of its scopes could not be read. */
  get begunMs(): number | undefined {
    const begun = this.#meta('begun')
    return begun === undefined ? undefined : Number(begun)
  }

  /**
   * Stores whole reads, all or none, durable when it returns.
   * @throws Fault OUTBOX_FULL | GRID_OVERLAP; then nothing was stored.
   */
  append(...reads: readonly NewRead[]): void {
    assert(this.#access === 'append', 'reads are stored by the one process that has the lock')
    this.#transaction(() => {
      for (const { identity, key, readings, mark, record, announces, request } of reads) {
        const { source, scope, window, readatMs } = identity
        const span = [scope, window.startMs, window.endMs, readatMs] as const
        this.#insert(source, key, span, [...readings, mark])
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
    const stored = Promise.withResolvers<void>()
    this.#soon.push({ read, stored })
    this.#soonBytes += read.readings.reduce((sum, event) => sum + event.value.length, 0)
    if (this.#soonBytes >= soonBytesMax) this.#flush()
    else this.#soonTimer ??= setTimeout(() => this.#flush(), soonMs)
    return stored.promise
  }

  /**
   * Stores pushed events, all or none, durable when it returns. The reader of the outbox sees them at once in this
   * process, within its poll in another.
   * @throws Fault OUTBOX_FULL | OUTBOX_LOCKED, LOG_UNSAFE where the collector deals keys to another count of partitions,
   * or OUTBOX_DAMAGED where the collector set this file aside: open it again and push again.
   */
  push(events: readonly PushedEvent[]): void {
    this.#transaction(() => {
      if (this.#access === 'push') this.#sharePartitions()
      for (const event of events) this.#insert(event.source, event.key, [null, null, null, null], [event])
    })
    this.#wake()
  }

  /** Takes note of the scopes a provider lists; `expectedMs` counts where it does not say since when. */
  see(source: string, seen: readonly SeenScope[], expectedMs: number): void {
    this.#undurable(() => this.memory.see(source, seen, expectedMs))
  }

  /**
   * A person ends a scope: windows that start from then on are not due, whatever its provider lists. Replaces an
   * earlier end by hand. A collector that runs takes note when it next lists, so within a window.
   */
  end(source: string, scope: string, fromMs: number): void {
    this.#transaction(() => this.memory.end(source, scope, fromMs))
  }

  /** The clock was ahead of now: what it has settled is due again. */
  distrust(source: string, nowMs: number): void {
    this.#transaction(() => this.memory.distrust(source, nowMs))
  }

  /** What a read by hand that was cut short has read: of one that was begun within a day. */
  takeUpRequest(request: string): readonly RequestedWindow[] {
    const nowMs = this.#nowMs()
    return this.#transaction(() => this.memory.takeUp(request, { sinceMs: nowMs - requestKeptMs, nowMs }))
  }

  /** Done, or to begin anew: asking again reads everything again. */
  forgetRequest(request: string): void {
    this.#transaction(() => this.memory.forgetRequest(request))
  }

  /** Makes windows due again of which the ledger lacks what was read. A collector that runs takes note when it next lists. */
  reopen(windows: readonly (RequestedWindow & { readonly endMs: number })[]): void {
    this.#transaction(() => this.memory.reopen(windows))
  }

  /** Lets go of what is remembered of open windows that the provider no longer answers for. */
  forget(source: string, beforeMs: number): void {
    this.#undurable(() => this.memory.forget(source, beforeMs))
  }

  /** The oldest rows of a partition that are not released, at least one if there is one. */
  pending(partition: number, limits: TakeLimits): OutboxRow[] {
    return this.#take(
      `select seq, partition, key, value, appended_ms from rows
       where partition = ? and log_offset is null and quarantined is null order by seq limit ?`,
      [partition, limits.rowsMax],
      limits.bytesMax,
    )
  }

  /** The log has acknowledged these rows of a partition, in this order, from `baseOffset` on. */
  release(partition: number, seqs: readonly number[], baseOffset: bigint): void {
    const nowMs = this.#nowMs()
    const update = this.#statement(`
      update rows set log_offset = ?, released_ms = ? where seq = ? and partition = ? and log_offset is null
      returning bytes`)
    this.#undurable(() => {
      let rows = 0
      let bytes = 0
      for (const [index, seq] of seqs.entries()) {
        const row = update.get(baseOffset + BigInt(index), nowMs, seq, partition) as
          | { bytes: number }
          | undefined
        if (!row) continue
        rows += 1
        bytes += row.bytes
      }
      this.#moveToKept(rows, bytes)
    })
  }

  /** Sets aside a row that the log would never take, so that those behind it go on. */
  quarantine(seq: number, reason: string): void {
    this.#transaction(() => {
      const { changes } = this.#statement(
        'update rows set quarantined = ? where seq = ? and log_offset is null and quarantined is null',
      ).run(reason, seq)
      this.#statement('update totals set quarantined_rows = quarantined_rows + ?').run(changes)
    })
  }

  /** Released rows of a partition from an offset on, in the order of their offsets. */
  releasedRows(partition: number, fromOffset: bigint, limit: number): ReleasedRow[] {
    const select = this.#statement(`
      select seq, log_offset, source, id, id_hash, released_ms from rows indexed by rows_sent
      where partition = ? and log_offset >= ? and log_offset is not null order by log_offset limit ?`)
    select.setReadBigInts(true)
    const rows = select.all(partition, fromOffset, limit) as unknown as {
      seq: bigint
      log_offset: bigint
      source: string
      id: string
      id_hash: bigint
      released_ms: bigint
    }[]
    return rows.map(row => ({
      seq: Number(row.seq),
      offset: row.log_offset,
      source: row.source,
      id: row.id,
      idHash: BigInt.asUintN(64, row.id_hash),
      releasedMs: Number(row.released_ms),
    }))
  }

  /**
   * Puts released rows back to waiting, to be sent again: the log lost them. They may go beyond `bytesMax`; then reading
   * stops until they are out. Returns how many there were; rows that were purged meanwhile are not.
   */
  resend(seqs: readonly number[]): number {
    const update = this.#statement(`
      update rows set log_offset = null, released_ms = null where seq = ? and log_offset is not null returning bytes`)
    const rows = this.#transaction(() => {
      const again = seqs.flatMap(seq => (update.get(seq) as { bytes: number } | undefined) ?? [])
      const bytes = again.reduce((sum, row) => sum + row.bytes, 0)
      if (again.length > 0) this.#moveToKept(-again.length, -bytes)
      return again.length
    })
    this.#wake()
    return rows
  }

  /**
   * What the log was given of the windows that start in a span, in order of source, scope and start: of released rows
   * that are still kept. One pass over the whole file.
   */
  sums(span: Window): ReleasedSum[] {
    // A sum of 64-bit numbers overflows in SQLite, which throws; of their halves it does not, up to 2^31 rows.
    const halves = `count(*) as events,
      sum(id_hash >> 32 & 0xffffffff) as high, sum(id_hash & 0xffffffff) as low from rows not indexed`
    const select = this.#statement(`
      select source, scope, start_ms, ${halves}
      where log_offset is not null and scope is not null and start_ms >= ?1 and start_ms < ?2
      group by source, scope, start_ms
      union all
      select source, null, hour_s * 1000, events, high, low from (
        select source, case when json_valid(cast(value as text))
          then unixepoch(json_extract(cast(value as text), '$.time')) / 3600 * 3600 end as hour_s, ${halves}
        where log_offset is not null and scope is null group by source, hour_s)
      where hour_s is null or hour_s * 1000 >= ?1 and hour_s * 1000 < ?2
      order by 1, 2, 3`)
    select.setReadBigInts(true)
    const rows = select.all(span.startMs, span.endMs) as unknown as {
      source: string
      scope: string | null
      start_ms: bigint | null
      events: bigint
      high: bigint
      low: bigint
    }[]
    return rows.map(row => ({
      source: row.source,
      ...(row.scope !== null && { scope: row.scope }),
      ...(row.start_ms !== null && { startMs: Number(row.start_ms) }),
      events: Number(row.events),
      sum: BigInt.asUintN(64, (row.high << 32n) + row.low),
    }))
  }

  /** The rows of these windows, waiting ones too, in the order of the file. One pass over all of it. */
  rowsOf(windows: readonly RequestedWindow[]): WindowRow[] {
    const select = this.#statement(`
      select seq, partition, log_offset, id_hash, source, scope, start_ms from rows not indexed
      where quarantined is null and scope is not null and (source, scope, start_ms) in
        (select value ->> 0, value ->> 1, value ->> 2 from json_each(?)) order by seq`)
    const names = windows.map(({ source, scope, startMs }) => [source, scope, startMs])
    return this.#windowRows(select, [JSON.stringify(names)])
  }

  /** Released rows that are no part of a read, behind a sequence number, in the order of the file. */
  releasedPushes(afterSeq: number, limit: number): WindowRow[] {
    const select = this.#statement(`
      select seq, partition, log_offset, id_hash, source, scope, start_ms from rows
      where seq > ? and scope is null and log_offset is not null order by seq limit ?`)
    return this.#windowRows(select, [afterSeq, limit])
  }

  #windowRows(select: Statement, values: readonly (string | number)[]): WindowRow[] {
    select.setReadBigInts(true)
    const rows = select.all(...values) as unknown as {
      seq: bigint
      partition: bigint
      log_offset: bigint | null
      id_hash: bigint
      source: string
      scope: string | null
      start_ms: bigint | null
    }[]
    return rows.map(row => ({
      seq: Number(row.seq),
      partition: Number(row.partition),
      ...(row.log_offset !== null && { offset: row.log_offset }),
      idHash: BigInt.asUintN(64, row.id_hash),
      source: row.source,
      ...(row.scope !== null && { scope: row.scope }),
      ...(row.start_ms !== null && { startMs: Number(row.start_ms) }),
    }))
  }

  depth(): OutboxDepth {
    const totals = this.#totals()
    const partitions = Number(this.#meta('partitions') ?? 1)
    let oldestMs = Number.POSITIVE_INFINITY
    const oldest = this.#statement(
      `select appended_ms from rows where partition = ? and log_offset is null and quarantined is null order by seq limit 1`,
    )
    for (let partition = 0; totals.waiting_rows > 0 && partition < partitions; partition += 1) {
      const row = oldest.get(partition) as { appended_ms: number } | undefined
      if (row) oldestMs = Math.min(oldestMs, row.appended_ms)
    }
    return {
      rows: totals.waiting_rows,
      bytes: totals.waiting_bytes,
      oldestAgeMs: Number.isFinite(oldestMs) ? Math.max(0, this.#nowMs() - oldestMs) : 0,
      quarantinedRows: totals.quarantined_rows,
      keptRows: totals.kept_rows,
      keptBytes: totals.kept_bytes,
    }
  }

  /** Is there room for another read? Waiting rows alone count: released ones give way. */
  isFull(): boolean {
    return this.#totals().waiting_bytes >= this.bytesMax
  }

  /**
   * Drops released rows that are older than the retention, or beyond the bound. A few thousand at a time, so that
   * nobody waits for it: returns how many, 0 when there is nothing left to drop.
   */
  purge(): number {
    const beforeMs = this.#nowMs() - this.#retentionMs
    return this.#undurable(
      () => this.#dropReleased(beforeMs, purgeRowsMax) + this.#dropExcess(0, purgeRowsMax),
    )
  }

  /** Rows from a sequence number on, released or not: what the embedded log reads. */
  rowsFrom(seq: number, limits: TakeLimits): StoredRow[] {
    const rows = this.#take(
      'select seq, partition, key, value, appended_ms from rows where seq >= ? order by seq limit ?',
      [seq, limits.rowsMax],
      limits.bytesMax,
    )
    const nextSeq = (rows.at(-1)?.seq ?? 0) + 1
    if (nextSeq > this.#knownSeq) {
      // Before they are handed out. Where a power cut loses it the ledger is asked to take them twice, which it does not.
      this.#undurable(() => this.#setMeta('handed', String(nextSeq)))
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
    this.#undurable(() => {
      const released = this.#statement(`
        update rows set log_offset = seq, released_ms = ?
        where partition = 0 and seq <= ? and log_offset is null and quarantined is null`)
      const sums = this.#statement(`
        select count(*) as rows, coalesce(sum(bytes), 0) as bytes from rows
        where partition = 0 and seq <= ? and log_offset is null and quarantined is null`)
      const { rows, bytes } = sums.get(seq) as { rows: number; bytes: number }
      if (rows === 0) return
      released.run(this.#nowMs(), seq)
      this.#moveToKept(rows, bytes)
    })
  }

  /** The oldest row still kept and the next to be written: equal when there is none. */
  bounds(): { readonly firstSeq: number; readonly nextSeq: number } {
    const next = this.#statement(`select seq from sqlite_sequence where name = 'rows'`).get() as
      | { seq: number }
      | undefined
    const first = this.#statement('select min(seq) as seq from rows').get() as { seq: number | null }
    const nextSeq = (next?.seq ?? 0) + 1
    return { firstSeq: first.seq ?? nextSeq, nextSeq }
  }

  /** Another log from now on: for a file that was put back to an older copy, whose numbers were given out before. */
  renew(): string {
    this.#id = this.#transaction(() => this.#setMeta('id', randomUUID()))
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
    this.#flush()
    this.#wake()
    if (this.#db.isOpen) this.#db.close()
    if (this.#lock?.isOpen) this.#lock.close()
  }

  #flush(): void {
    clearTimeout(this.#soonTimer)
    this.#soonTimer = undefined
    const together = this.#soon
    this.#soon = []
    this.#soonBytes = 0
    if (together.length === 0) return
    try {
      this.append(...together.map(({ read }) => read))
      for (const { stored } of together) stored.resolve()
    } catch {
      // One of them did not go in, and took the others with it: each for itself, so that each has its own answer.
      for (const { read, stored } of together)
        try {
          this.append(read)
          stored.resolve()
        } catch (error) {
          stored.reject(error)
        }
    }
  }

  #insert(
    source: string,
    key: string,
    span: readonly [string, number, number, number] | readonly [null, null, null, null],
    events: readonly EncodedEvent[],
  ): void {
    const insert = this.#statement(`
      insert into rows (partition, key, source, scope, start_ms, end_ms, readat_ms, appended_ms, id, id_hash, value, bytes)
      values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
    const head = [this.#partitions.of(key), key, source, ...span, this.#nowMs()] as const
    let bytes = 0
    for (const event of events) {
      const rowBytes = event.value.length + key.length + rowOverheadBytes
      insert.run(...head, event.id, BigInt.asIntN(64, idHash(source, event.id)), event.value, rowBytes)
      bytes += rowBytes
    }
    this.#hold(bytes)
    this.#statement(
      'update totals set waiting_rows = waiting_rows + ?, waiting_bytes = waiting_bytes + ?',
    ).run(events.length, bytes)
  }

  #wake(): void {
    for (const wake of [...this.#waiters]) wake()
  }

  /** Makes room for what is appended by letting released rows go; refuses where waiting rows alone are too many. */
  #hold(moreBytes: number): void {
    const totals = this.#totals()
    if (totals.waiting_bytes + moreBytes > this.bytesMax)
      throw new Fault(
        'OUTBOX_FULL',
        moreBytes > this.bytesMax
          ? `one read of ${moreBytes} bytes is more than the outbox may hold (${this.bytesMax})`
          : `${totals.waiting_bytes} bytes wait in the outbox, which may hold ${this.bytesMax}`,
        { waitingBytes: totals.waiting_bytes, bytesMax: this.bytesMax },
      )
    while (this.#dropExcess(moreBytes, purgeRowsMax) > 0);
  }

  /** Drops the oldest released rows as far as all rows and `moreBytes` are beyond the bound. */
  #dropExcess(moreBytes: number, rowsMax: number): number {
    const { waiting_bytes, kept_rows, kept_bytes } = this.#totals()
    const excessBytes = waiting_bytes + kept_bytes + moreBytes - this.bytesMax
    if (excessBytes <= 0 || kept_rows === 0) return 0
    const rows = Math.ceil(excessBytes / (kept_bytes / kept_rows))
    return this.#dropReleased(Number.MAX_SAFE_INTEGER, Math.min(rows, rowsMax))
  }

  #dropReleased(beforeMs: number, rowsMax: number): number {
    const gone = this.#statement(`
      delete from rows where seq in (
        select seq from rows where log_offset is not null and released_ms < ? order by released_ms, seq limit ?)
      returning bytes`).all(beforeMs, rowsMax) as { bytes: number }[]
    const bytes = gone.reduce((sum, row) => sum + row.bytes, 0)
    this.#statement('update totals set kept_rows = kept_rows - ?, kept_bytes = kept_bytes - ?').run(
      gone.length,
      bytes,
    )
    return gone.length
  }

  #moveToKept(rows: number, bytes: number): void {
    this.#statement(`
      update totals set waiting_rows = waiting_rows - ?1, waiting_bytes = waiting_bytes - ?2,
        kept_rows = kept_rows + ?1, kept_bytes = kept_bytes + ?2`).run(rows, bytes)
  }

  #take(sql: string, values: readonly number[], bytesMax: number): StoredRow[] {
    const rows: StoredRow[] = []
    let bytes = 0
    for (const found of this.#statement(sql).iterate(...values)) {
      const row = found as {
        seq: number
        partition: number
        key: string
        value: Uint8Array
        appended_ms: number
      }
      bytes += row.value.length
      if (rows.length > 0 && bytes > bytesMax) break
      rows.push({
        seq: row.seq,
        partition: row.partition,
        key: row.key,
        value: Buffer.from(row.value.buffer, row.value.byteOffset, row.value.byteLength),
        appendedMs: row.appended_ms,
      })
    }
    return rows
  }

  #holdPartitions(): void {
    const held = this.#meta('partitions')
    const { count } = this.#partitions
    if (held === String(count)) return
    const totals = this.#totals()
    const waiting = totals.waiting_rows + totals.quarantined_rows
    if (held !== undefined && waiting > 0)
      throw new Fault(
        'LOG_UNSAFE',
        `${waiting} rows wait in the outbox, dealt to ${held} partitions; the log has ${count}: let them out first`,
        { held: Number(held), count, waiting },
      )
    this.#transaction(() => this.#setMeta('partitions', String(count)))
  }

  /** Brings over what can be read of outboxes that were set aside, each once, however often this is cut short. */
  #rescue(damage: Fault | undefined, onFault: OutboxOptions['onFault']): void {
    for (const name of setAsideIn(this.#dir)) {
      const known = `rescued ${name}`
      if (this.#meta(known) !== undefined) continue
      using damaged = openDamaged(join(this.#dir, name))
      const scopes = damaged?.scopes
      let rows = 0
      this.#transaction(() => {
        for (const row of scopes ?? []) this.memory.rescueScope(row)
        for (const row of damaged?.grids ?? []) this.memory.rescueGrid(row)
        if (!scopes)
          this.#setMeta('begun', String(damaged?.begunMs ?? statSync(join(this.#dir, name)).birthtimeMs))
      })
      for (const some of inLots(damaged?.rows ?? [], purgeRowsMax)) {
        this.#transaction(() => this.#insertRescued(some))
        rows += some.length
      }
      // Last: cut short before it, all is brought over again, and the ledger tells by the ids what it has.
      this.#transaction(() => this.#setMeta(known, String(rows)))
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

  #insertRescued(rows: readonly RescuedRow[]): void {
    const insert = this.#statement(`
      insert into rows (partition, key, source, scope, start_ms, end_ms, readat_ms, appended_ms, id, id_hash, value,
        bytes, quarantined) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
    let bytes = 0
    for (const row of rows) {
      const { key, source, id, value, quarantined } = row
      const rowBytes = value.length + key.length + rowOverheadBytes
      const span = [row.scope, row.start_ms, row.end_ms, row.readat_ms, row.appended_ms] as const
      const hash = BigInt.asIntN(64, idHash(source, id))
      insert.run(this.#partitions.of(key), key, source, ...span, id, hash, value, rowBytes, quarantined)
      bytes += rowBytes
    }
    this.#statement(`
      update totals set waiting_rows = waiting_rows + ?, waiting_bytes = waiting_bytes + ?,
        quarantined_rows = quarantined_rows + ?`).run(
      rows.length,
      bytes,
      rows.filter(row => row.quarantined !== null).length,
    )
  }

  /** A pusher deals keys as the collector does; where none ever ran, the first pusher says how. */
  #sharePartitions(): void {
    const { count } = this.#partitions
    const held = this.#meta('partitions') ?? this.#setMeta('partitions', String(count))
    if (held !== String(count))
      throw new Fault(
        'LOG_UNSAFE',
        `the outbox deals its keys to ${held} partitions, and the config says ${count}: start the collector once first`,
        { held: Number(held), count },
      )
  }

  #totals(): Totals {
    return this.#statement('select * from totals').get() as unknown as Totals
  }

  #meta(name: string): string | undefined {
    const row = this.#statement('select value from meta where name = ?').get(name) as
      | { value: string }
      | undefined
    return row?.value
  }

  #setMeta(name: string, value: string): string {
    this.#statement('insert or replace into meta (name, value) values (?, ?)').run(name, value)
    return value
  }

  /** As a transaction, that a power cut may undo: for what is known elsewhere, and only costs a repetition. */
  #undurable<Result>(work: () => Result): Result {
    // In WAL mode the next durable commit takes it to the disk too: https://www.sqlite.org/pragma.html#pragma_synchronous
    this.#db.exec('pragma synchronous = normal')
    try {
      return this.#transaction(work)
    } finally {
      if (this.#db.isOpen) this.#db.exec('pragma synchronous = full')
    }
  }

  /** All of it or nothing; durable when it returns. */
  #transaction<Result>(work: () => Result): Result {
    try {
      this.#db.exec('begin immediate')
      const result = work()
      this.#db.exec('commit')
      // Looked at after the commit: a file that is set aside later still has what was stored, and it is brought over.
      if (this.#inode !== undefined && this.#inode !== inodeOf(this.#dir))
        throw new Fault(
          'OUTBOX_DAMAGED',
          `the outbox in ${this.#dir} was set aside meanwhile: store it again`,
          {
            dir: this.#dir,
          },
        )
      return result
    } catch (error) {
      this.#rollback()
      throw sqliteFault(error, this.#dir)
    }
  }

  #rollback(): void {
    try {
      if (this.#db.isOpen && this.#db.isTransaction) this.#db.exec('rollback')
    } catch {
      // What made it fail is thrown; SQLite rolls back by itself at the next opening.
    }
  }
}

/**
 * The memory of an outbox, without opening the outbox: nothing is made, locked or brought up to date. Undefined where
 * there is none.
 * @throws Fault OUTBOX_DAMAGED | OUTBOX_UNREADABLE
 */
export function readMemory(dir: string): ({ readonly memory: CollectorMemory } & Disposable) | undefined {
  if (inodeOf(dir) === undefined) return undefined
  let db: DatabaseSync | undefined
  try {
    db = new DatabaseSync(join(dir, outboxName), { readOnly: true, timeout: 10_000 })
    const opened = db
    return { memory: new CollectorMemory(opened), [Symbol.dispose]: () => opened.close() }
  } catch (error) {
    db?.close()
    throw sqliteFault(error, dir)
  }
}

function inodeOf(dir: string): bigint | undefined {
  return statSync(join(dir, outboxName), { bigint: true, throwIfNoEntry: false })?.ino
}

/** Opens and brings up to date. @throws Fault, or what SQLite throws of no failure of the file */
function openFile({ dir, access, fileBytesMax }: OutboxOptions): DatabaseSync {
  let db: DatabaseSync | undefined
  try {
    db = new DatabaseSync(join(dir, outboxName), { timeout: 10_000 })
    inWalMode(db)
    db.exec('pragma synchronous = full; pragma journal_size_limit = 67108864')
    migrate(db)
    // About a second for a gigabyte, once in the life of a collector.
    if (access === 'append') checkWhole(db)
    if (fileBytesMax !== undefined) {
      const { page_size } = db.prepare('pragma page_size').get() as { page_size: number }
      db.exec(`pragma max_page_count = ${Math.floor(fileBytesMax / page_size)}`)
    }
    return db
  } catch (error) {
    db?.close()
    throw sqliteFault(error, dir)
  }
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

/**
 * Holds an exclusive lock for the life of the process: the operating system lets go of it at kill -9 too. It lies on a
 * file beside the outbox, so that reading and draining the outbox stay possible.
 */
function holdLock(dir: string): DatabaseSync {
  const ownerPath = join(dir, 'outbox.owner')
  let lock: DatabaseSync | undefined
  try {
    lock = new DatabaseSync(join(dir, 'outbox.lock'), { timeout: 0 })
    lock.exec('begin exclusive')
  } catch (error) {
    lock?.close()
    if (primaryCode(error) !== sqliteBusy) throw sqliteFault(error, dir)
    let owner = 'unknown'
    try {
      owner = readFileSync(ownerPath, 'utf8').trim()
    } catch {
      // It is about to write its name.
    }
    throw new Fault('OUTBOX_LOCKED', `process ${owner} has the outbox in ${dir}`, { pid: owner, dir })
  }
  writeFileSync(ownerPath, `${process.pid}\n`)
  return lock
}

/** A new file that several processes open at once is busy without the wait that `timeout` gives other statements. */
function inWalMode(db: DatabaseSync): void {
  for (let tries = 1; ; tries += 1)
    try {
      db.exec('pragma journal_mode = wal')
      return
    } catch (error) {
      if (primaryCode(error) !== sqliteBusy || tries === 100) throw error
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20)
    }
}

function migrate(db: DatabaseSync): void {
  const versionOf = () => (db.prepare('pragma user_version').get() as { user_version: number }).user_version
  if (versionOf() === migrations.length) return
  db.exec('begin immediate')
  const version = versionOf()
  if (version > migrations.length)
    throw new Fault(
      'OUTBOX_UNREADABLE',
      `the outbox has version ${version}, this Meterline knows ${migrations.length}`,
    )
  for (const migration of migrations.slice(version)) db.exec(migration)
  db.exec(`pragma user_version = ${migrations.length}; commit`)
}
