/**
 * The rows of an outbox: events on their way to the log and those that it has, with running totals of both. Owns their
 * tables and the bound on their bytes. What changes them is called in a transaction, which is the outbox's to begin.
 */
import { idHash } from '../../schemas/event.ts'
import { Fault } from '../../schemas/fault.ts'
import type { Window } from '../../schemas/window.ts'
import type { RescuedRow } from './damaged.ts'
import type { OutboxRow } from './log.ts'
import type { RequestedWindow } from './memory.ts'
import type { Statement } from './sqlite.ts'

/** What SQLite keeps beside a row's value: its columns and index entries. Part of every count of bytes. */
const rowOverheadBytes = 256
const purgeRowsMax = 2000

/** An event as it is stored and sent. */
export interface EncodedEvent {
  readonly id: string
  readonly value: Buffer
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

export const rowTables = `
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
`

/** To find rows by where the log has them. */
export const sentIndex =
  'create index rows_sent on rows (partition, log_offset) where log_offset is not null;'

/** The read that a row is of: scope, start and end of its window, readat; nulls where it was pushed. */
type Span = readonly [string, number, number, number] | readonly [null, null, null, null]

/** As they are kept: `waiting` counts what is quarantined too. */
export interface Totals {
  waiting_rows: number
  waiting_bytes: number
  quarantined_rows: number
  kept_rows: number
  kept_bytes: number
}

export class OutboxRows {
  readonly #statement: (sql: string) => Statement
  readonly #bytesMax: number
  readonly #partitionOf: (key: string) => number
  readonly #nowMs: () => number

  constructor(
    statement: (sql: string) => Statement,
    options: {
      readonly bytesMax: number
      readonly partitionOf: (key: string) => number
      readonly nowMs: () => number
    },
  ) {
    this.#statement = statement
    this.#bytesMax = options.bytesMax
    this.#partitionOf = options.partitionOf
    this.#nowMs = options.nowMs
  }

  /** @throws Fault OUTBOX_FULL */
  insert(source: string, key: string, span: Span, events: readonly EncodedEvent[]): void {
    const insert = this.#statement(`
      insert into rows (partition, key, source, scope, start_ms, end_ms, readat_ms, appended_ms, id, id_hash, value, bytes)
      values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
    const head = [this.#partitionOf(key), key, source, ...span, this.#nowMs()] as const
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

  /** Takes over rows of a file that was set aside, beyond the bound if need be. */
  insertRescued(rows: readonly RescuedRow[]): void {
    const insert = this.#statement(`
      insert into rows (partition, key, source, scope, start_ms, end_ms, readat_ms, appended_ms, id, id_hash, value,
        bytes, quarantined) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
    let bytes = 0
    for (const row of rows) {
      const { key, source, id, value, quarantined } = row
      const rowBytes = value.length + key.length + rowOverheadBytes
      const span = [row.scope, row.start_ms, row.end_ms, row.readat_ms, row.appended_ms] as const
      const hash = BigInt.asIntN(64, idHash(source, id))
      insert.run(this.#partitionOf(key), key, source, ...span, id, hash, value, rowBytes, quarantined)
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
  }

  /** As `release`, of all up to a row, at their own numbers. */
  releaseThrough(seq: number): void {
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
  }

  /** Sets aside a row that the log would never take, so that those behind it go on. */
  quarantine(seq: number, reason: string): void {
    const { changes } = this.#statement(
      'update rows set quarantined = ? where seq = ? and log_offset is null and quarantined is null',
    ).run(reason, seq)
    this.#statement('update totals set quarantined_rows = quarantined_rows + ?').run(changes)
  }

  /** Puts released rows back to waiting. Returns how many there were. */
  resend(seqs: readonly number[]): number {
    const update = this.#statement(`
      update rows set log_offset = null, released_ms = null where seq = ? and log_offset is not null returning bytes`)
    const again = seqs.flatMap(seq => (update.get(seq) as { bytes: number } | undefined) ?? [])
    const bytes = again.reduce((sum, row) => sum + row.bytes, 0)
    if (again.length > 0) this.#moveToKept(-again.length, -bytes)
    return again.length
  }

  /** Rows from a sequence number on, released or not. */
  from(seq: number, limits: TakeLimits): StoredRow[] {
    return this.#take(
      'select seq, partition, key, value, appended_ms from rows where seq >= ? order by seq limit ?',
      [seq, limits.rowsMax],
      limits.bytesMax,
    )
  }

  /** Released rows of a partition from an offset on, in the order of their offsets. */
  released(partition: number, fromOffset: bigint, limit: number): ReleasedRow[] {
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

  /** Sums of what the log was given of windows that start in a span. */
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
  ofWindows(windows: readonly RequestedWindow[]): WindowRow[] {
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

  /** Over so many partitions. */
  depth(partitions: number): OutboxDepth {
    const totals = this.totals()
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
    return this.totals().waiting_bytes >= this.#bytesMax
  }

  /** Drops some of the released rows that are older than that, or beyond the bound; returns how many. */
  purge(beforeMs: number): number {
    return this.#dropReleased(beforeMs, purgeRowsMax) + this.#dropExcess(0, purgeRowsMax)
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

  totals(): Totals {
    return this.#statement('select * from totals').get() as unknown as Totals
  }

  /** Makes room for what is appended by letting released rows go; refuses where waiting rows alone are too many. */
  #hold(moreBytes: number): void {
    const totals = this.totals()
    if (totals.waiting_bytes + moreBytes > this.#bytesMax)
      throw new Fault(
        'OUTBOX_FULL',
        moreBytes > this.#bytesMax
          ? `one read of ${moreBytes} bytes is more than the outbox may hold (${this.#bytesMax})`
          : `${totals.waiting_bytes} bytes wait in the outbox, which may hold ${this.#bytesMax}`,
        { waitingBytes: totals.waiting_bytes, bytesMax: this.#bytesMax },
      )
    while (this.#dropExcess(moreBytes, purgeRowsMax) > 0);
  }

  /** Drops the oldest released rows as far as all rows and `moreBytes` are beyond the bound. */
  #dropExcess(moreBytes: number, rowsMax: number): number {
    const { waiting_bytes, kept_rows, kept_bytes } = this.totals()
    const excessBytes = waiting_bytes + kept_bytes + moreBytes - this.#bytesMax
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
}
