/**
 * Which windows were read: the state of every (source, scope, window), from marks, listings and decisions. Owns what is
 * expected and in which state it is; what an invoice makes of it is gate.ts.
 */

import { type BadItem, type ListedScope, listingScope, showReadat } from '../schemas/event.ts'
import type { FaultCode } from '../schemas/fault.ts'
import { isOwnSource, wholeScope } from '../schemas/pushed.ts'
import {
  type GridMinutes,
  gridMinutes,
  hourMs,
  minuteMs,
  showInstant,
  type Window,
  windowAt,
  windowsOver,
} from '../schemas/window.ts'
import { markedWindows, undisplaced } from './pushed-marks.ts'
import type { Store } from './store.ts'

/**
 * `never`: nobody tried, or no pusher marked it. `failed`: the newest try did, with its fault. `incomplete`: the ledger does
 * not hold what the mark says. `suspect`: there is a read that takes too much away, and waits for a second one or a person.
 * `read`: there is a complete one. `settled`: so is the last planned re-read, or the mark is its pusher's last word.
 * `waived`: a person lets invoices close over it.
 */
export const coverageStates = [
  'never',
  'failed',
  'incomplete',
  'suspect',
  'read',
  'settled',
  'waived',
] as const
export type CoverageState = (typeof coverageStates)[number]

/** The states in which nothing is missing. */
export const coveredStates: ReadonlySet<CoverageState> = new Set(['read', 'settled', 'waived'])

/** A window counts as never read only so long after its end: sources are first asked some seconds after it. */
export const dueAfterMs = minuteMs

/** One window of one scope, or one bad item of its current read: as design.md prints it. */
export interface CoverageRow {
  readonly source: string
  readonly scope: string
  readonly start: string
  readonly end: string
  readonly state: CoverageState
  /** Whose gap a bad item is, where that can be read. */
  readonly subject?: string
  readonly fault?: { readonly code: string; readonly message: string }
  /** Of the log: where the mark of an incomplete read stands, and so what of its readings is missing. */
  readonly partition?: number
}

/** Consecutive windows of one width that are in the same state, or one bad item that is in all of them. */
export interface CoverageSpan extends Omit<CoverageRow, 'start' | 'end'> {
  readonly window: Window
  readonly widthMinutes: GridMinutes
  /** It is a bad item, and no window. */
  readonly isItem: boolean
}

export interface CoverageQuery {
  readonly span: Window
  /** Its name, or all of `meterline/kind/name`; of a pushed source what is behind a slash, or all of it. */
  readonly source?: string
  readonly scope?: string
  /** Windows that have not ended by now are not expected yet. */
  readonly nowMs: number
}

/** Which windows of a scope are expected: those that end after `sinceMs` and start before `endedMs`. */
export interface ScopeLife {
  readonly source: string
  readonly scope: string
  readonly sinceMs: number
  /** When its provider ended it, or a person: whatever is earlier. */
  readonly endedMs?: number
  /** Of its newest window, where it has any. */
  readonly widthMinutes?: GridMinutes
}

/** A span in which a person lets invoices close over what is missing; of one subject where it names one. */
export interface Waiver {
  readonly source: string
  readonly scope: string
  readonly window: Window
  readonly subject?: string
}

/** Consecutive windows whose marks say the same. */
export interface MarkedRun {
  readonly window: Window
  readonly widthMinutes: GridMinutes
  readonly state: Exclude<CoverageState, 'never' | 'waived'>
  /** There is a read that counts. */
  readonly isCurrent: boolean
  readonly fault?: { readonly code: string; readonly message: string }
  readonly partition?: number
  readonly bad: readonly BadItem[]
}

/**
 * The state of each window of the span, of every scope that is expected or was read, ordered by source, scope and start.
 * Bad items of the current read are rows of their own, behind their window.
 */
export async function coverage(store: Store, query: CoverageQuery): Promise<readonly CoverageRow[]> {
  return rowsOf(await coverageSpans(store, query))
}

/** The same, with consecutive windows that are alike as one: small, however long the span. */
export async function coverageSpans(
  store: Store,
  query: CoverageQuery,
  known?: readonly ScopeLife[],
): Promise<readonly CoverageSpan[]> {
  const lives = known ?? (await scopeLives(store, query))
  const [read, pushed, waivers] = await Promise.all([
    markedRuns(store, query, readWindows),
    lives.some(({ source }) => !isOwnSource(source)) ? markedRuns(store, query, pushedWindows) : new Map(),
    waiversOf(store),
  ])
  const runs = new Map([...read, ...pushed])
  const waiversBy = Map.groupBy(waivers, scopeKey)
  return lives
    .filter(({ source, scope }) => isChosen(query, source, scope))
    .sort((a, b) => (scopeKey(a) < scopeKey(b) ? -1 : 1))
    .flatMap(life =>
      scopeSpans(life, runs.get(scopeKey(life)) ?? [], waiversBy.get(scopeKey(life)) ?? [], query),
    )
}

// -- what is expected, and in which state it is: pure

/** The spans of one scope in order of time, bad items behind their windows. */
export function scopeSpans(
  life: ScopeLife,
  runs: readonly MarkedRun[],
  waivers: readonly Waiver[],
  { span, nowMs }: Pick<CoverageQuery, 'span' | 'nowMs'>,
): readonly CoverageSpan[] {
  const { source, scope } = life
  const expected = {
    startMs: Math.max(life.sinceMs, span.startMs),
    endMs: Math.min(life.endedMs ?? Number.POSITIVE_INFINITY, span.endMs, nowMs),
  }
  const never = (window: Window, widthMinutes: GridMinutes): Unjudged | undefined => {
    const windows = windowsOver(
      { startMs: Math.max(window.startMs, expected.startMs), endMs: Math.min(window.endMs, expected.endMs) },
      widthMinutes,
    ).filter(one => one.endMs + dueAfterMs <= nowMs)
    const [first, last] = [windows[0], windows.at(-1)]
    return first && last && { window: { startMs: first.startMs, endMs: last.endMs }, widthMinutes, bad: [] }
  }
  const all: { readonly run: Unjudged; readonly state: CoverageState }[] = []
  const addNever = (window: Window, widthMinutes: GridMinutes) => {
    const run = window.startMs < window.endMs ? never(window, widthMinutes) : undefined
    if (run) all.push({ run, state: 'never' })
  }
  let atMs = Number.NEGATIVE_INFINITY
  let width = runs[0]?.widthMinutes ?? life.widthMinutes ?? 60
  for (const run of runs) {
    // The hour in which a run begins has its width; the hours before it that of the run before.
    const hourOfRunMs = Math.max(atMs, Math.floor(run.window.startMs / hourMs) * hourMs)
    addNever({ startMs: atMs, endMs: hourOfRunMs }, width)
    addNever({ startMs: hourOfRunMs, endMs: run.window.startMs }, run.widthMinutes)
    const kept = run.isCurrent ? run : within(run, expected)
    if (kept) all.push({ run: kept, state: kept.state })
    atMs = run.window.endMs
    width = run.widthMinutes
  }
  addNever({ startMs: atMs, endMs: Number.POSITIVE_INFINITY }, width)

  const whole = waivers.filter(({ subject }) => subject === undefined)
  return all.flatMap(({ run, state }) => {
    const at = { source, scope, widthMinutes: run.widthMinutes }
    const windows = cut(run, state === 'settled' ? [] : whole).map(({ window, isWaived }) => ({
      ...at,
      window,
      isItem: false,
      state: isWaived ? ('waived' as const) : state,
      ...(run.fault && { fault: run.fault }),
      ...(run.partition !== undefined && { partition: run.partition }),
    }))
    const items = run.bad.flatMap(({ subject, code, message, counted }) => {
      const about = {
        ...at,
        isItem: true,
        ...(subject !== undefined && { subject }),
        fault: { code, message },
      }
      // It is no gap: in the state of its windows it stands in the way of nothing that they do not, and is there to see.
      if (counted) return windows.map(({ window, state }) => ({ ...about, window, state }))
      const of = waivers.filter(waiver => waiver.subject === undefined || waiver.subject === subject)
      return cut(run, of).map(({ window, isWaived }) => ({
        ...about,
        window,
        state: isWaived ? ('waived' as const) : ('failed' as const),
      }))
    })
    return [...windows, ...items]
  })
}

type Unjudged = Omit<MarkedRun, 'state' | 'isCurrent'>

/** The windows of a run that end after the start of the span and start before its end. */
function within(run: MarkedRun, span: Window): MarkedRun | undefined {
  const widthMs = run.widthMinutes * minuteMs
  const { startMs, endMs } = run.window
  const from = Math.max(startMs, windowAt(span.startMs, run.widthMinutes).startMs)
  const to = Number.isFinite(span.endMs) ? Math.min(endMs, Math.ceil(span.endMs / widthMs) * widthMs) : endMs
  return from < to ? { ...run, window: { startMs: from, endMs: to } } : undefined
}

/** The run in pieces, each inside of the waivers or outside: a window is inside where one waiver holds all of it. */
function cut(
  { window, widthMinutes }: Pick<MarkedRun, 'window' | 'widthMinutes'>,
  waivers: readonly Waiver[],
): readonly { readonly window: Window; readonly isWaived: boolean }[] {
  const widthMs = widthMinutes * minuteMs
  const inside = waivers
    .map(waiver => ({
      startMs: Math.max(window.startMs, Math.ceil(waiver.window.startMs / widthMs) * widthMs),
      endMs: Math.min(window.endMs, Math.floor(waiver.window.endMs / widthMs) * widthMs),
    }))
    .filter(({ startMs, endMs }) => startMs < endMs)
    .sort((a, b) => a.startMs - b.startMs)
  const pieces: { window: Window; isWaived: boolean }[] = []
  let atMs = window.startMs
  const until = (endMs: number, isWaived: boolean) => {
    if (endMs > atMs) pieces.push({ window: { startMs: atMs, endMs }, isWaived })
    atMs = Math.max(atMs, endMs)
  }
  for (const { startMs, endMs } of inside) {
    until(startMs, false)
    until(endMs, true)
  }
  until(window.endMs, false)
  return pieces
}

// -- from the ledger

interface RunRow {
  readonly source: string
  readonly scope: string
  readonly start_s: number
  readonly end_s: number
  readonly width: number
  readonly state: MarkedRun['state']
  readonly has_current: boolean
  readonly fault_code: string
  readonly fault_message: string
  readonly place: number
  readonly bad: string
}

const inReach = `start >= fromUnixTimestamp({reach:UInt32}) and end > fromUnixTimestamp({from:UInt32})
  and start < fromUnixTimestamp({to:UInt32})`

const chosen = `({source:String} = '' or source = {source:String} or endsWith(source, concat('/', {source:String})))
  and ({scope:String} = '' or scope = {scope:String})`

/**
 * A row a window that was tried: which read counts is as in `currentReads`. A read that waits shows only where it would
 * take the place of that one.
 */
const readWindows = `
  select source, scope, toUnixTimestamp(start) as start_s, toUnixTimestamp(end) as end_s,
    dateDiff('minute', start, end) as width, maxIf(rank, counts) as current_rank, current_rank > 0 as has_current,
    max(readat_ms) as tried, argMaxIf(said, readat_ms, not counts) as latest,
    multiIf(has_current and maxIf(rank, waits) > current_rank, 'suspect',
      has_current and maxIf(readat_ms, counts and settled) >= bitAnd(current_rank, {exact:Int64} - 1), 'settled',
      has_current, 'read', latest.1 = 'failed', 'failed', latest.2, 'suspect', 'incomplete') as state,
    tuple(state, has_current, if(state = 'failed', latest.3, ''), if(state = 'failed', latest.4, ''),
      if(state = 'incomplete', toInt64(latest.5), -1), argMaxIf(bad, rank, counts)) as gist
  from (
    select source, scope, start, end, settled, bad, toUnixTimestamp64Milli(readat) as readat_ms,
      readat_ms + if(estimated, 0, {exact:Int64}) as rank,
      tuple(toString(outcome), held, toString(fault_code), fault_message, partition) as said,
      held and outcome = 'complete' and not suspect as counts,
      held and outcome = 'complete' and suspect as waits
    from reads final where ${inReach} and ${chosen})
  group by source, scope, start, end`

/** A row a window that its pusher marked. */
const pushedWindows = `
  select source, scope, start_s, end_s, intDiv(end_s - start_s, 60) as width, events = found as has_current,
    toUnixTimestamp64Milli(appended) as tried,
    tuple(multiIf(not has_current, 'incomplete', settled, 'settled', 'read'), has_current,
      if(has_current, '', '${'MARK_DIFFERS' satisfies FaultCode}'),
      if(has_current, '', concat('the mark says ', toString(events), ' events, the ledger has ', toString(found))),
      toInt64(-1), '') as gist
  from ${markedWindows(
    `${inReach} and ${chosen}`,
    // Why a DateTime64: see `currentPushed`.
    "time >= toDateTime64({reach:UInt32}, 3, 'UTC') and time < toDateTime64({to:UInt32}, 3, 'UTC') + interval 1 hour",
  )}`

/**
 * Consecutive windows that are alike as one. Of windows of several widths in one hour, which only failures and two
 * partitions can make, those count that have the width of what was read.
 */
async function markedRuns(
  store: Store,
  query: CoverageQuery,
  windows: typeof readWindows | typeof pushedWindows,
): Promise<ReadonlyMap<string, readonly MarkedRun[]>> {
  const rows = await store.rows<RunRow>(
    // Sorted within each scope, by number: sorting all windows by the text of their scopes takes several times as long.
    // The window before the first one is the last one, which never ends where the first begins.
    `select source, scope, run.1 as start_s, run.2 as end_s, run.3 as width, run.4.1 as state, run.4.2 as has_current,
       run.4.3 as fault_code, run.4.4 as fault_message, run.4.5 as place, run.4.6 as bad
     from (
       select source, scope, arraySort(one -> one.1, groupArrayArray(kept)) as windows,
         arrayFilter((one, before) -> one.1 != before.2 or one.3 != before.3 or one.4 != before.4,
           windows, arrayRotateRight(windows, 1)) as firsts,
         arrayFilter((one, next) -> one.2 != next.1 or one.3 != next.3 or one.4 != next.4,
           windows, arrayRotateLeft(windows, 1)) as lasts,
         arrayJoin(arrayMap((first, last) -> tuple(first.1, last.2, first.3, first.4), firsts, lasts)) as run
       from (
         select source, scope, arrayFilter(one -> one.3 = hour_width, groupArray(tuple(start_s, end_s, width, gist))) as kept,
           argMax(width, tuple(has_current, tried)) as hour_width
         from (${windows})
         group by source, scope, intDiv(start_s, 3600))
       group by source, scope)
     order by source, scope, start_s`,
    {
      ...chosenParams(query),
      from: Math.floor(query.span.startMs / 1000),
      reach: Math.max(0, Math.floor((query.span.startMs - hourMs) / 1000)),
      to: Math.ceil(Math.min(query.span.endMs, query.nowMs) / 1000),
      // A number above every readat: reads without estimates rank above those with. Numbers compare faster than pairs.
      exact: (2n ** 62n).toString(),
    },
  )
  const runs = new Map<string, MarkedRun[]>()
  for (const row of rows) {
    const key = scopeKey(row)
    const list = runs.get(key) ?? []
    runs.set(key, list)
    list.push({
      window: { startMs: Number(row.start_s) * 1000, endMs: Number(row.end_s) * 1000 },
      widthMinutes: gridOf(Number(row.width)),
      state: row.state,
      isCurrent: row.has_current,
      ...(row.fault_code !== '' && { fault: { code: row.fault_code, message: row.fault_message } }),
      ...(Number(row.place) >= 0 && { partition: Number(row.place) }),
      bad: row.bad === '' ? [] : JSON.parse(row.bad),
    })
  }
  return runs
}

/**
 * Every scope that was ever listed, read, tried, or marked by its pusher, and when it is expected. One that no listing
 * named is expected from its first window on.
 */
export async function scopeLives(
  store: Store,
  query: Pick<CoverageQuery, 'source' | 'scope'> = {},
): Promise<readonly ScopeLife[]> {
  const seenIn = (table: 'reads' | 'pushed_marks', which = 'true') =>
    store.rows<{ source: string; scope: string; first_s: number; width: number }>(
      `select source, scope, toUnixTimestamp(min(start)) as first_s,
         argMax(dateDiff('minute', start, end), start) as width
       from ${table} where ${chosen} and ${which} group by source, scope`,
      chosenParams(query),
    )
  const [read, marked, listed, ended] = await Promise.all([
    seenIn('reads'),
    seenIn('pushed_marks', undisplaced),
    store.rows<{ source: string; listed: string }>(
      `select source, listed from reads
       where scope = {listing:String} and listed != '' order by readat`,
      { listing: listingScope },
    ),
    store.rows<{ source: string; scope: string; from_s: number }>(
      `select source, scope, toUnixTimestamp(argMax(start, tuple(decided, offset))) as from_s
       from decisions final where action = 'end' group by source, scope`,
    ),
  ])
  const lives = new Map<string, { -readonly [Key in keyof ScopeLife]: ScopeLife[Key] }>()
  for (const { source, scope, first_s, width } of [...read, ...marked])
    lives.set(scopeKey({ source, scope }), {
      source,
      scope,
      sinceMs: Number(first_s) * 1000,
      widthMinutes: gridOf(Number(width)),
    })
  // What a later listing says of a scope is all that holds of it.
  for (const { source, listed: text } of listed)
    for (const { scope, since, ended: endedAt } of JSON.parse(text) as ListedScope[]) {
      const key = scopeKey({ source, scope })
      const { widthMinutes } = lives.get(key) ?? {}
      lives.set(key, {
        source,
        scope,
        sinceMs: Date.parse(since),
        ...(endedAt !== undefined && { endedMs: Date.parse(endedAt) }),
        ...(widthMinutes !== undefined && { widthMinutes }),
      })
    }
  for (const { source, scope, from_s } of ended) {
    const life = lives.get(scopeKey({ source, scope }))
    if (life) life.endedMs = Math.min(life.endedMs ?? Number.POSITIVE_INFINITY, Number(from_s) * 1000)
  }
  return Array.from(lives.values()).filter(({ source, scope }) => isChosen(query, source, scope))
}

async function waiversOf(store: Store): Promise<readonly Waiver[]> {
  const rows = await store.rows<{
    source: string
    scope: string
    start_s: number
    end_s: number
    subject: string
  }>(
    `select source, scope, toUnixTimestamp(start) as start_s, toUnixTimestamp(end) as end_s, subject
     from decisions final where action = 'waive'`,
  )
  return rows.map(({ source, scope, start_s, end_s, subject }) => ({
    source,
    scope,
    window: { startMs: Number(start_s) * 1000, endMs: Number(end_s) * 1000 },
    ...(subject !== '' && { subject }),
  }))
}

/** A read that waits, and what it would take the place of. Totals are decimals by measure. */
export interface HeldBack {
  readonly source: string
  readonly scope: string
  readonly window: Window
  readonly readat: string
  readonly before: Readonly<Record<string, string>>
  readonly after: Readonly<Record<string, string>>
}

/** The newest read that is held back of each window of the span, where it would take the place of the current one. */
export async function heldBack(
  store: Store,
  query: Omit<CoverageQuery, 'nowMs'>,
): Promise<readonly HeldBack[]> {
  const rows = await store.rows<{
    source: string
    scope: string
    start_s: number
    end_s: number
    readat_ms: string
    before: Readonly<Record<string, string>>
    after: Readonly<Record<string, string>>
  }>(
    `select source, scope, toUnixTimestamp(start) as start_s, toUnixTimestamp(end) as end_s,
       toUnixTimestamp64Milli(maxIf(rank, suspect).2) as readat_ms, argMaxIf(totals, rank, not suspect) as before,
       argMaxIf(totals, rank, suspect) as after
     from (select *, tuple(not estimated, readat) as rank from reads final
           where held and outcome = 'complete' and start >= fromUnixTimestamp({reach:UInt32})
             and end > fromUnixTimestamp({from:UInt32}) and start < fromUnixTimestamp({to:UInt32}) and ${chosen})
     group by source, scope, start, end
     having maxIf(rank, suspect) > maxIf(rank, not suspect)
     order by source, scope, start_s`,
    {
      ...chosenParams(query),
      from: Math.floor(query.span.startMs / 1000),
      reach: Math.max(0, Math.floor((query.span.startMs - hourMs) / 1000)),
      to: Math.ceil(query.span.endMs / 1000),
    },
  )
  return rows.map(({ source, scope, start_s, end_s, readat_ms, before, after }) => ({
    source,
    scope,
    window: { startMs: Number(start_s) * 1000, endMs: Number(end_s) * 1000 },
    readat: showReadat(Number(readat_ms)),
    before,
    after,
  }))
}

/** Whose usage a scope was ever seen to hold. */
export interface ScopeTenants {
  readonly source: string
  readonly scope: string
  readonly subjects: readonly string[]
  /** Of a pushed source: its first mark. Nothing tells what is missing before. */
  readonly sinceMs?: number
}

/**
 * Of every scope that was ever listed, read or tried; without subjects where no read of it had any. Marks of a pusher name
 * the one subject that they speak for, or speak for all and name none.
 */
export async function scopeTenants(
  store: Store,
  sources: readonly string[],
): Promise<readonly ScopeTenants[]> {
  const [lives, rows] = await Promise.all([
    scopeLives(store),
    store.rows<ScopeTenants>(
      `select source, scope, groupUniqArrayArray(r.subjects) as subjects from reads as r
       where held and notEmpty(r.subjects) and source in ({sources:Array(String)}) group by source, scope`,
      { sources },
    ),
  ])
  const subjects = new Map(rows.map(row => [scopeKey(row), row.subjects]))
  return lives
    .filter(({ source }) => sources.includes(source))
    .map(({ source, scope, sinceMs }) =>
      isOwnSource(source)
        ? { source, scope, subjects: subjects.get(scopeKey({ source, scope })) ?? [] }
        : { source, scope, subjects: scope === wholeScope ? [] : [scope], sinceMs },
    )
}

function chosenParams({ source, scope }: Pick<CoverageQuery, 'source' | 'scope'>) {
  return { source: source ?? '', scope: scope ?? '' }
}

function isChosen(query: Pick<CoverageQuery, 'source' | 'scope'>, source: string, scope: string): boolean {
  const named = query.source === undefined || source === query.source || source.endsWith(`/${query.source}`)
  return named && (query.scope === undefined || scope === query.scope)
}

function scopeKey({ source, scope }: { readonly source: string; readonly scope: string }): string {
  return JSON.stringify([source, scope])
}

function gridOf(minutes: number): GridMinutes {
  return gridMinutes.find(width => width === minutes) ?? 60
}

// -- as rows, and as lines for people

/** How many rows the spans make. */
export function countRows(spans: readonly Pick<CoverageSpan, 'window' | 'widthMinutes'>[]): number {
  return spans.reduce(
    (sum, { window, widthMinutes }) => sum + (window.endMs - window.startMs) / (widthMinutes * minuteMs),
    0,
  )
}

/** A row for each window of the spans, in order of source, scope and start; bad items behind their window. */
export function rowsOf(spans: readonly CoverageSpan[]): readonly CoverageRow[] {
  const byScope = Map.groupBy(spans, scopeKey)
  return Array.from(byScope.values()).flatMap(some =>
    some
      .flatMap(({ window, widthMinutes, isItem, ...row }) =>
        windowsOver(window, widthMinutes).map(one => ({ ms: one.startMs, row: rowOf(row, one) })),
      )
      .sort((a, b) => a.ms - b.ms)
      .map(({ row }) => row),
  )
}

function rowOf(row: Omit<CoverageRow, 'start' | 'end'>, window: Window): CoverageRow {
  const { source, scope, ...rest } = row
  return { source, scope, start: showInstant(window.startMs), end: showInstant(window.endMs), ...rest }
}

/** Consecutive windows of one state as one line, for people. */
export function spansOf(
  rows: readonly CoverageRow[],
): readonly (CoverageRow & { readonly windows: number })[] {
  const spans: (CoverageRow & { windows: number; end: string })[] = []
  const open = new Map<string, CoverageRow & { windows: number; end: string }>()
  for (const { start, end, ...said } of rows) {
    const key = JSON.stringify(said)
    const last = open.get(key)
    if (last?.end === start) {
      last.end = end
      last.windows += 1
      continue
    }
    const next = { start, end, ...said, windows: 1 }
    open.set(key, next)
    spans.push(next)
  }
  return spans
}

/** Does this row say that something is missing? */
export function isGap(row: Pick<CoverageRow, 'state'>): boolean {
  return !coveredStates.has(row.state)
}

/** One line on stderr for each gap: `gap: source=… scope=… start/end state code message`. */
export function gapLine(span: CoverageRow & { readonly windows: number }): string {
  const subject = span.subject === undefined ? '' : ` subject=${span.subject}`
  const partition = span.partition === undefined ? '' : ` partition=${span.partition}`
  const fault = span.fault ? ` ${span.fault.code} ${span.fault.message}` : ''
  return `gap: source=${span.source} scope=${span.scope}${subject} ${span.start}/${span.end} windows=${span.windows} ${span.state}${partition}${fault}`
}
