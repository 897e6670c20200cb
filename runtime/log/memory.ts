/**
 * What a collector remembers of its reads, in the outbox's SQLite file: scopes once seen, windows still open, spans that
 * are settled, and the width each hour was cut in. Written in the transaction of the read it tells of.
 */
import assert from 'node:assert'
import type { DatabaseSync } from 'node:sqlite'
import { listingScope } from '../../schemas/event.ts'
import { Fault } from '../../schemas/fault.ts'
import { parseTotals, showTotals, type Totals } from '../../schemas/suspect.ts'
import {
  type GridMinutes,
  hourMs,
  isOnGrid,
  minuteMs,
  showWindow,
  type Window,
} from '../../schemas/window.ts'
import type { RescuedMemory } from './damaged.ts'
import { preparedOnce, type Statement } from './sqlite.ts'

/** A window that was tried and is not settled. Times are of the collector's clock, except `readat`, which never goes back. */
export interface WindowMemory extends Window {
  readonly readatMs: number
  /** When the last attempt began. */
  readonly attemptedMs: number
  /** Attempts that failed since the last complete read. */
  readonly failures: number
  readonly complete?: CompleteRead
}

/** The newest complete read of a window. */
export interface CompleteRead {
  readonly atMs: number
  readonly digest: string
  readonly events: number
  /** The read whose readings it holds: its own readat, or the one that it repeats. */
  readonly contentReadatMs: number
  readonly belief?: Belief
}

/** What is thought of a window's totals: the ledger will hold back a read that takes too much of them away. */
export interface Belief {
  readonly totals: Totals
  /** The last read said so much less that it waits for one that agrees. */
  readonly low?: { readonly readatMs: number; readonly totals: Totals }
}

/** Hours that were read in windows of one width: an hour never changes its grid. */
export interface GridSpan extends Window {
  readonly widthMinutes: GridMinutes
}

/** When a scope is there. */
export interface ScopeLife {
  readonly scope: string
  /** Since when its provider has it, where that is known. */
  readonly sinceMs?: number
  /** Since when it is expected otherwise: it was first seen, or asked for by hand. */
  readonly expectedMs: number
  /** When its provider ended it. */
  readonly endedMs?: number
  /** From when on a person says that nothing is expected of it; no listing changes that. */
  readonly endedByHandMs?: number
}

/** All that is known of one scope. */
export interface ScopeMemory extends ScopeLife {
  /** A listing's mark has named it as it is. */
  readonly announced: boolean
  /** Spans whose last planned read is done, oldest first, merged. */
  readonly settled: readonly Window[]
  /** When, by the collector's clock, the latest read began that settled any of them; 0 without one. */
  readonly settledAtMs: number
  readonly grids: readonly GridSpan[]
  /** Open windows by their start. */
  readonly windows: ReadonlyMap<number, WindowMemory>
}

/** What to keep of a read besides its rows. */
export interface ReadRecord {
  readonly source: string
  readonly scope: string
  readonly window: Window
  readonly readatMs: number
  readonly attemptedMs: number
  readonly complete?: {
    readonly digest: string
    readonly events: number
    readonly contentReadatMs: number
    readonly settled: boolean
    readonly belief?: Belief
  }
}

/** A window that a read by hand has read. */
export interface RequestedWindow {
  readonly source: string
  readonly scope: string
  readonly startMs: number
}

/** A scope as its provider lists it. */
export interface SeenScope {
  readonly scope: string
  readonly sinceMs?: number
  readonly endedMs?: number
}

export const memoryTables = `
create table scopes (
  source text not null, scope text not null,
  since_ms integer, expected_ms integer not null, ended_ms integer,
  announced integer not null default 0,
  primary key (source, scope)
) strict, without rowid;
create table windows (
  source text not null, scope text not null, start_ms integer not null, end_ms integer not null,
  readat_ms integer not null, attempted_ms integer not null, failures integer not null,
  complete_ms integer, digest text, events integer, content_readat_ms integer,
  primary key (source, scope, start_ms)
) strict, without rowid;
create table settled (
  source text not null, scope text not null, start_ms integer not null, end_ms integer not null,
  readat_ms integer not null,
  primary key (source, scope, start_ms)
) strict, without rowid;
create table grids (
  source text not null, scope text not null, start_ms integer not null, end_ms integer not null,
  width_minutes integer not null,
  primary key (source, scope, start_ms)
) strict, without rowid;
`

/** The second migration. */
export const endedByHand = 'alter table scopes add column ended_by_hand_ms integer;'

/** The third: what a read by hand has read so far. */
export const requests = `
create table requests (request text primary key, begun_ms integer not null) strict, without rowid;
create table requested (
  request text not null, source text not null, scope text not null, start_ms integer not null,
  primary key (request, source, scope, start_ms)
) strict, without rowid;
`

/** The fourth: what the window's measures came to, and of a read that said much less, when it was and what it said. */
export const beliefs = `
alter table windows add column totals text;
alter table windows add column low_readat_ms integer;
alter table windows add column low_totals text;
`

/** The fifth: what was settled by a clock that ran ahead can be told, and is let go of without its readats coming back. */
export const settledAt = `
alter table settled add column attempted_ms integer not null default 0;
alter table scopes add column readat_floor_ms integer not null default 0;
`

interface WindowRow {
  start_ms: number
  end_ms: number
  readat_ms: number
  attempted_ms: number
  failures: number
  complete_ms: number | null
  digest: string | null
  events: number | null
  content_readat_ms: number | null
  totals: string | null
  low_readat_ms: number | null
  low_totals: string | null
}

interface SpanRow {
  start_ms: number
  end_ms: number
}

interface SettledRow extends SpanRow {
  readonly readat_ms: number
  readonly attempted_ms: number
}

interface ScopeRow {
  scope: string
  since_ms: number | null
  expected_ms: number
  ended_ms: number | null
  ended_by_hand_ms: number | null
  announced: number
}

const insertSettled =
  'insert into settled (source, scope, start_ms, end_ms, readat_ms, attempted_ms) values (?, ?, ?, ?, ?, ?)'

export class CollectorMemory {
  readonly #prepare: (sql: string) => Statement

  constructor(db: DatabaseSync) {
    this.#prepare = preparedOnce(db)
  }

  /** Every scope of a source, in order of name. */
  scopes(source: string): readonly ScopeMemory[] {
    const names = this.#all<{ scope: string }>(
      'select scope from scopes where source = ? order by scope',
      source,
    )
    return names.map(({ scope }) => this.scope(source, scope)!)
  }

  scope(source: string, scope: string): ScopeMemory | undefined {
    const row = this.#get<ScopeRow>('select * from scopes where source = ? and scope = ?', source, scope)
    if (!row) return undefined
    const of = (table: string) => `select * from ${table} where source = ? and scope = ? order by start_ms`
    const windows = this.#all<WindowRow>(of('windows'), source, scope)
    const settled = this.#all<SettledRow>(of('settled'), source, scope)
    return {
      ...lifeOf(row),
      announced: row.announced === 1,
      settled: settled.map(spanOf),
      settledAtMs: Math.max(0, ...settled.map(span => span.attempted_ms)),
      grids: this.#all<SpanRow & { width_minutes: number }>(of('grids'), source, scope).map(grid => ({
        ...spanOf(grid),
        widthMinutes: grid.width_minutes as GridMinutes,
      })),
      windows: new Map(windows.map(window => [window.start_ms, windowOf(window)])),
    }
  }

  /** Scopes that no listing's mark has named as they are. */
  unannounced(source: string): readonly ScopeLife[] {
    const sql = 'select * from scopes where source = ? and announced = 0 order by scope'
    return this.#all<ScopeRow>(sql, source).map(lifeOf)
  }

  /** The last read of an open window; undefined for one that was never read, or is settled. */
  window(source: string, scope: string, startMs: number): WindowMemory | undefined {
    const row = this.#get<WindowRow>(
      'select * from windows where source = ? and scope = ? and start_ms = ?',
      source,
      scope,
      startMs,
    )
    return row && windowOf(row)
  }

  /** The readat for a read that begins now: of one scope and window it never goes back, whatever the clock does. */
  nextReadatMs(source: string, scope: string, window: Window, nowMs: number): number {
    const last = this.#get<{ readat_ms: number | null }>(
      `select max(readat_ms) as readat_ms from (
         select readat_ms from windows where source = ?1 and scope = ?2 and start_ms = ?3
         union all select readat_ms from settled where source = ?1 and scope = ?2 and start_ms <= ?3 and end_ms > ?3
         union all select readat_floor_ms from scopes where source = ?1 and scope = ?2 and readat_floor_ms > 0)`,
      source,
      scope,
      window.startMs,
    )
    return Math.max(nowMs, (last?.readat_ms ?? -1) + 1)
  }

  /**
   * Takes note of what a provider lists. A scope once seen stays, listed or not, and is expected from `expectedMs`
   * where the provider does not say since when; what is learnt later counts. Call it inside a transaction.
   */
  see(source: string, seen: readonly SeenScope[], expectedMs: number): void {
    const upsert = this.#prepare(`
      insert into scopes (source, scope, since_ms, ended_ms, expected_ms) values (?, ?, ?, ?, ?)
      on conflict do update set
        announced = announced and coalesce(excluded.since_ms, since_ms) is since_ms
          and excluded.ended_ms is ended_ms and excluded.expected_ms >= expected_ms,
        since_ms = coalesce(excluded.since_ms, since_ms), ended_ms = excluded.ended_ms,
        expected_ms = min(expected_ms, excluded.expected_ms)`)
    for (const { scope, sinceMs, endedMs } of seen)
      upsert.run(source, scope, sinceMs ?? null, endedMs ?? null, expectedMs)
  }

  /** A person ends a scope, known here or not. Call it inside a transaction. */
  end(source: string, scope: string, fromMs: number): void {
    this.#prepare(`
      insert into scopes (source, scope, expected_ms, ended_by_hand_ms) values (?1, ?2, ?3, ?3)
      on conflict do update set ended_by_hand_ms = excluded.ended_by_hand_ms`).run(source, scope, fromMs)
  }

  /** Takes over what a damaged outbox knew of a scope; a listing's mark is to name it again. Call it inside a transaction. */
  rescueScope(row: RescuedMemory): void {
    const columns = ['source', 'scope', 'since_ms', 'expected_ms', 'ended_ms', 'ended_by_hand_ms']
    this.#prepare(`insert or ignore into scopes (${columns}) values (?, ?, ?, ?, ?, ?)`).run(
      ...columns.map(column => row[column] ?? null),
    )
  }

  /** The same of hours that were read in one width. */
  rescueGrid(row: RescuedMemory): void {
    const columns = ['source', 'scope', 'start_ms', 'end_ms', 'width_minutes']
    this.#prepare(`insert or ignore into grids (${columns}) values (?, ?, ?, ?, ?)`).run(
      ...columns.map(column => row[column] ?? null),
    )
  }

  /** These scopes have been named in a listing's mark. Call it inside the transaction of that mark. */
  announce(source: string, scopes: readonly string[]): void {
    const update = this.#prepare('update scopes set announced = 1 where source = ? and scope = ?')
    for (const scope of scopes) update.run(source, scope)
  }

  /**
   * Takes note of a read. Call it inside the transaction of its rows.
   * @throws Fault GRID_OVERLAP where the hour was read in windows of another width.
   */
  record(read: ReadRecord): void {
    const { source, scope, window, complete } = read
    assert(isOnGrid(window), `${showWindow(window)} lies on a grid`)
    this.#pinGrid(source, scope, window)
    // Of a settled window only a bound is kept, over its whole span: there nextReadatMs alone sees to it.
    const last = this.window(source, scope, window.startMs)
    assert(!last || last.readatMs < read.readatMs, 'the readat of a scope and window never goes back')
    if (complete?.settled) {
      this.#settle(read)
      return
    }
    this.#unsettle(source, scope, window)
    const key = [source, scope, window.startMs, window.endMs, read.readatMs, read.attemptedMs] as const
    if (complete)
      this.#prepare(`
        insert or replace into windows (source, scope, start_ms, end_ms, readat_ms, attempted_ms, failures,
          complete_ms, digest, events, content_readat_ms, totals, low_readat_ms, low_totals)
        values (?, ?, ?, ?, ?, ?6, 0, ?6, ?, ?, ?, ?, ?, ?)`).run(
        ...key,
        complete.digest,
        complete.events,
        complete.contentReadatMs,
        complete.belief ? totalsText(complete.belief.totals) : null,
        complete.belief?.low?.readatMs ?? null,
        complete.belief?.low ? totalsText(complete.belief.low.totals) : null,
      )
    else
      this.#prepare(`
        insert into windows (source, scope, start_ms, end_ms, readat_ms, attempted_ms, failures)
        values (?, ?, ?, ?, ?, ?, 1) on conflict do update set
          readat_ms = excluded.readat_ms, attempted_ms = excluded.attempted_ms, failures = failures + 1`).run(
        ...key,
      )
  }

  /**
   * Begins a read by hand, or takes up one that was begun since `sinceMs`. Returns what it has read so far: source, scope
   * and start of each window. What was begun before is forgotten, and by a clock ahead of now. Call it inside a transaction.
   */
  takeUp(
    request: string,
    span: { readonly sinceMs: number; readonly nowMs: number },
  ): readonly RequestedWindow[] {
    const old = 'begun_ms < ?1 or begun_ms > ?2'
    this.#prepare(`delete from requested where request in (select request from requests where ${old})`).run(
      span.sinceMs,
      span.nowMs,
    )
    this.#prepare(`delete from requests where ${old}`).run(span.sinceMs, span.nowMs)
    this.#prepare('insert or ignore into requests (request, begun_ms) values (?, ?)').run(request, span.nowMs)
    const sql = 'select source, scope, start_ms as startMs from requested where request = ?'
    return this.#all<{ source: string; scope: string; startMs: number }>(sql, request)
  }

  /** A read by hand has read a window. Call it inside the transaction of its rows. */
  noteRequested(request: string, { source, scope, startMs }: RequestedWindow): void {
    this.#prepare(
      'insert or ignore into requested (request, source, scope, start_ms) values (?, ?, ?, ?)',
    ).run(request, source, scope, startMs)
  }

  /** A read by hand is done. Call it inside a transaction. */
  forgetRequest(request: string): void {
    this.#prepare('delete from requested where request = ?').run(request)
    this.#prepare('delete from requests where request = ?').run(request)
  }

  /**
   * These windows are due again, whatever was read of them: the ledger lacks it. Their reads send everything, under a
   * later readat. Where they are listings, each scope is to be named again. Call it inside a transaction.
   */
  reopen(windows: readonly (RequestedWindow & { readonly endMs: number })[]): void {
    const upsert = this.#prepare(`
      insert into windows (source, scope, start_ms, end_ms, readat_ms, attempted_ms, failures) values (?, ?, ?, ?, ?, ?, 0)
      on conflict do update set complete_ms = null, digest = null, events = null, content_readat_ms = null, failures = 0`)
    for (const { source, scope, startMs, endMs } of windows) {
      const window = { startMs, endMs }
      const readatMs = this.nextReadatMs(source, scope, window, 0) - 1
      this.#unsettle(source, scope, window)
      upsert.run(source, scope, startMs, endMs, readatMs, 0)
      if (scope === listingScope)
        this.#prepare('update scopes set announced = 0 where source = ?').run(source)
    }
  }

  /** Lets go of open windows behind the provider's retention. Call it inside a transaction. */
  forget(source: string, beforeMs: number): void {
    this.#prepare('delete from windows where source = ? and end_ms <= ?').run(source, beforeMs)
  }

  /**
   * Lets go of what a clock ahead of now has settled: it may have been read before it was over. Its windows are due again,
   * under readats that do not go back. Call it inside a transaction.
   */
  distrust(source: string, nowMs: number): void {
    const ahead = this.#all<{ scope: string; readat_ms: number }>(
      'select scope, max(readat_ms) as readat_ms from settled where source = ? and attempted_ms > ? group by scope',
      source,
      nowMs,
    )
    for (const { scope, readat_ms } of ahead)
      this.#prepare(
        'update scopes set readat_floor_ms = max(readat_floor_ms, ?) where source = ? and scope = ?',
      ).run(readat_ms, source, scope)
    this.#prepare('delete from settled where source = ? and attempted_ms > ?').run(source, nowMs)
  }

  #settle({ source, scope, window, readatMs, attemptedMs }: ReadRecord): void {
    this.#prepare('delete from windows where source = ? and scope = ? and start_ms = ?').run(
      source,
      scope,
      window.startMs,
    )
    const touching = this.#all<SettledRow>(
      'select * from settled where source = ? and scope = ? and start_ms <= ? and end_ms >= ?',
      source,
      scope,
      window.endMs,
      window.startMs,
    )
    this.#merge('settled', source, scope, window, touching)
    this.#prepare(insertSettled).run(
      source,
      scope,
      Math.min(window.startMs, ...touching.map(span => span.start_ms)),
      Math.max(window.endMs, ...touching.map(span => span.end_ms)),
      Math.max(readatMs, ...touching.map(span => span.readat_ms)),
      Math.max(attemptedMs, ...touching.map(span => span.attempted_ms)),
    )
  }

  /** A settled window that is read again is open until a read settles it. */
  #unsettle(source: string, scope: string, window: Window): void {
    const span = this.#spanHolding('settled', source, scope, window)
    if (!span) return
    this.#prepare('delete from settled where source = ? and scope = ? and start_ms = ?').run(
      source,
      scope,
      span.start_ms,
    )
    const insert = this.#prepare(insertSettled)
    const { readat_ms: readatMs = 0, attempted_ms: attemptedMs = 0 } = span
    if (span.start_ms < window.startMs)
      insert.run(source, scope, span.start_ms, window.startMs, readatMs, attemptedMs)
    if (span.end_ms > window.endMs)
      insert.run(source, scope, window.endMs, span.end_ms, readatMs, attemptedMs)
  }

  #pinGrid(source: string, scope: string, window: Window): void {
    const widthMinutes = (window.endMs - window.startMs) / minuteMs
    const startMs = Math.floor(window.startMs / hourMs) * hourMs
    const hour = { startMs, endMs: startMs + hourMs }
    const held = this.#spanHolding('grids', source, scope, hour)
    if (held?.width_minutes === widthMinutes) return
    if (held)
      throw new Fault(
        'GRID_OVERLAP',
        `${source} ${scope} ${showWindow(window)}: this hour was read in windows of ${held.width_minutes} minutes`,
        { source, scope, widthMinutes, heldMinutes: held.width_minutes },
      )
    const touching = this.#all<SpanRow>(
      `select * from grids where source = ? and scope = ? and start_ms <= ? and end_ms >= ? and width_minutes = ?`,
      source,
      scope,
      hour.endMs,
      hour.startMs,
      widthMinutes,
    )
    this.#merge('grids', source, scope, hour, touching)
    this.#prepare(
      'insert into grids (source, scope, start_ms, end_ms, width_minutes) values (?, ?, ?, ?, ?)',
    ).run(
      source,
      scope,
      Math.min(hour.startMs, ...touching.map(span => span.start_ms)),
      Math.max(hour.endMs, ...touching.map(span => span.end_ms)),
      widthMinutes,
    )
  }

  /** Takes away the spans that touch a window, before one span over all of them is written. */
  #merge(
    table: 'settled' | 'grids',
    source: string,
    scope: string,
    by: Window,
    touching: readonly SpanRow[],
  ) {
    assert(touching.length <= 3, `spans of ${table} are merged, so few touch ${showWindow(by)}`)
    const remove = this.#prepare(`delete from ${table} where source = ? and scope = ? and start_ms = ?`)
    for (const span of touching) remove.run(source, scope, span.start_ms)
  }

  #spanHolding(table: 'settled' | 'grids', source: string, scope: string, window: Window) {
    return this.#get<SpanRow & { width_minutes?: number; readat_ms?: number; attempted_ms?: number }>(
      `select * from ${table} where source = ? and scope = ? and start_ms <= ? and end_ms >= ?`,
      source,
      scope,
      window.startMs,
      window.endMs,
    )
  }

  #get<Row>(sql: string, ...values: readonly (string | number)[]): Row | undefined {
    return this.#prepare(sql).get(...values) as Row | undefined
  }

  #all<Row>(sql: string, ...values: readonly (string | number)[]): Row[] {
    return this.#prepare(sql).all(...values) as Row[]
  }
}

function lifeOf(row: ScopeRow): ScopeLife {
  return {
    scope: row.scope,
    ...(row.since_ms !== null && { sinceMs: row.since_ms }),
    expectedMs: row.expected_ms,
    ...(row.ended_ms !== null && { endedMs: row.ended_ms }),
    ...(row.ended_by_hand_ms !== null && { endedByHandMs: row.ended_by_hand_ms }),
  }
}

function spanOf(row: SpanRow): Window {
  return { startMs: row.start_ms, endMs: row.end_ms }
}

function totalsText(totals: Totals): string {
  return JSON.stringify(showTotals(totals))
}

function beliefOf({ low_readat_ms: readatMs, low_totals: low }: WindowRow, totals: string): Belief {
  return {
    totals: parseTotals(JSON.parse(totals)),
    ...(readatMs !== null && low !== null && { low: { readatMs, totals: parseTotals(JSON.parse(low)) } }),
  }
}

function windowOf(row: WindowRow): WindowMemory {
  return {
    ...spanOf(row),
    readatMs: row.readat_ms,
    attemptedMs: row.attempted_ms,
    failures: row.failures,
    ...(row.complete_ms !== null && {
      complete: {
        atMs: row.complete_ms,
        digest: row.digest ?? '',
        events: row.events ?? 0,
        contentReadatMs: row.content_readat_ms ?? row.readat_ms,
        ...(row.totals !== null && { belief: beliefOf(row, row.totals) }),
      },
    }),
  }
}
