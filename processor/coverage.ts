/** Which windows were read: the state of every (source, scope, window), from the marks. */

import { type ListedScope, listingScope } from '../schemas/event.ts'
import {
  type GridMinutes,
  gridMinutes,
  overlaps,
  showInstant,
  type Window,
  windowsOver,
} from '../schemas/window.ts'
import type { Store } from './store.ts'

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

/** One window of one scope, or one bad item of its current read: as design.md prints it. */
export interface CoverageRow {
  readonly source: string
  readonly scope: string
  readonly start: string
  readonly end: string
  readonly state: CoverageState
  readonly subject?: string
  readonly fault?: { readonly code: string; readonly message: string }
}

export interface CoverageQuery {
  readonly span: Window
  readonly source?: string
  readonly scope?: string
  /** Windows that have not ended by now are not expected yet. */
  readonly nowMs: number
}

interface MarkRow {
  readonly source: string
  readonly scope: string
  readonly start_s: number
  readonly end_s: number
  readonly outcome: string
  readonly held: boolean
  readonly settled: boolean
  readonly bad: string
  readonly fault_code: string
  readonly fault_message: string
}

/**
 * The state of each window of the span, of every scope that was ever read, ordered by source, scope and start.
 * A window with a complete read that the ledger holds whole has that read's state; without one, that of its latest
 * mark; without a mark it was never read. Bad items of the current read are rows of their own, failed.
 */
export async function coverage(store: Store, query: CoverageQuery): Promise<readonly CoverageRow[]> {
  const params: Record<string, unknown> = {
    from: query.span.startMs / 1000,
    to: Math.min(query.span.endMs, query.nowMs) / 1000,
    source: query.source ?? '',
    scope: query.scope ?? '',
  }
  const chosen = `({source:String} = '' or source = {source:String} or endsWith(source, concat('/', {source:String})))
    and ({scope:String} = '' or scope = {scope:String})`
  const scopes = await store.rows<{ source: string; scope: string; width: number }>(
    `select source, scope, argMax(dateDiff('minute', start, end), start) as width from reads
     where ${chosen} group by source, scope order by source, scope`,
    params,
  )
  const marks = await store.rows<MarkRow>(
    `select source, scope, toUnixTimestamp(start) as start_s, toUnixTimestamp(end) as end_s,
       argMax(outcome, counts) as outcome, argMax(held, counts) as held,
       argMax(settled, counts) as settled, argMax(bad, counts) as bad, argMax(fault_code, counts) as fault_code,
       argMax(fault_message, counts) as fault_message
     from (select *, (held and outcome = 'complete', held and not estimated, readat) as counts from reads final
           where end > fromUnixTimestamp({from:UInt32}) and start < fromUnixTimestamp({to:UInt32}) and ${chosen})
     group by source, scope, start, end
     order by source, scope, start`,
    { ...params, to: Math.ceil(Number(params.to)) },
  )
  const since = await listedSince(store)
  const byScope = new Map<string, MarkRow[]>()
  for (const mark of marks) {
    const key = scopeKey(mark.source, mark.scope)
    const list = byScope.get(key)
    if (list) list.push(mark)
    else byScope.set(key, [mark])
  }
  const seen = new Map(
    scopes.map(({ source, scope, width }) => [scopeKey(source, scope), { source, scope, width }]),
  )
  // A scope that a listing found and that was never read is a gap from its first day.
  for (const [key, { source, scope }] of since)
    if (!seen.has(key) && isChosen(query, source, scope)) seen.set(key, { source, scope, width: 60 })
  return Array.from(seen.values())
    .sort((a, b) => (scopeKey(a.source, a.scope) < scopeKey(b.source, b.scope) ? -1 : 1))
    .flatMap(({ source, scope, width }) => {
      const key = scopeKey(source, scope)
      const fromMs = Math.max(query.span.startMs, since.get(key)?.sinceMs ?? query.span.startMs)
      return scopeRows(source, scope, gridOf(Number(width)), byScope.get(key) ?? [], { ...query, fromMs })
    })
}

interface Expected {
  readonly source: string
  readonly scope: string
  readonly sinceMs: number
}

/** Since when each scope is expected, as the listings said: before that its provider did not have it. */
async function listedSince(store: Store): Promise<ReadonlyMap<string, Expected>> {
  const rows = await store.rows<{ source: string; listed: string }>(
    `select source, listed from reads final where scope = {listing:String} and listed != '' order by readat`,
    { listing: listingScope },
  )
  const since = new Map<string, Expected>()
  for (const { source, listed } of rows)
    for (const { scope, since: text } of JSON.parse(listed) as ListedScope[])
      since.set(scopeKey(source, scope), { source, scope, sinceMs: Date.parse(text) })
  return since
}

function isChosen(query: CoverageQuery, source: string, scope: string): boolean {
  const named = query.source === undefined || source === query.source || source.endsWith(`/${query.source}`)
  return named && (query.scope === undefined || scope === query.scope)
}

function scopeKey(source: string, scope: string): string {
  return JSON.stringify([source, scope])
}

function scopeRows(
  source: string,
  scope: string,
  width: GridMinutes,
  marks: readonly MarkRow[],
  query: CoverageQuery & { readonly fromMs: number },
): readonly CoverageRow[] {
  const read = marks.map(mark => ({
    window: { startMs: Number(mark.start_s) * 1000, endMs: Number(mark.end_s) * 1000 },
    mark,
  }))
  const expected = windowsOver(query.span, width).filter(
    window => window.endMs <= query.nowMs && window.endMs > query.fromMs,
  )
  const starts = new Set(read.map(({ window }) => window.startMs))
  // A grid that changed its width leaves windows of the old one: what they cover was not "never" read.
  const never = expected.filter(
    window => !starts.has(window.startMs) && !read.some(other => overlaps(other.window, window)),
  )
  const rows: CoverageRow[] = never.map(window => row(source, scope, window, 'never'))
  for (const { window, mark } of read) {
    const state = stateOf(mark)
    rows.push({
      ...row(source, scope, window, state),
      ...(state === 'failed' && { fault: { code: mark.fault_code, message: mark.fault_message } }),
    })
    if (state !== 'failed' && state !== 'incomplete')
      for (const item of badItems(mark.bad))
        rows.push({
          ...row(source, scope, window, 'failed'),
          ...(item.subject !== undefined && { subject: item.subject }),
          fault: { code: item.code, message: item.message },
        })
  }
  return rows.sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0))
}

function stateOf(mark: MarkRow): CoverageState {
  if (mark.outcome === 'failed') return 'failed'
  if (!mark.held) return 'incomplete'
  return mark.settled ? 'settled' : 'read'
}

function row(source: string, scope: string, window: Window, state: CoverageState): CoverageRow {
  return { source, scope, start: showInstant(window.startMs), end: showInstant(window.endMs), state }
}

function badItems(text: string): readonly { subject?: string; code: string; message: string }[] {
  return text === '' ? [] : JSON.parse(text)
}

function gridOf(minutes: number): GridMinutes {
  return gridMinutes.find(width => width === minutes) ?? 60
}

/** Consecutive windows of one state as one line, for people. */
export function spansOf(
  rows: readonly CoverageRow[],
): readonly (CoverageRow & { readonly windows: number })[] {
  const spans: (CoverageRow & { windows: number; end: string })[] = []
  for (const next of rows) {
    const last = spans.at(-1)
    const same =
      last !== undefined &&
      last.source === next.source &&
      last.scope === next.scope &&
      last.state === next.state &&
      last.subject === next.subject &&
      last.fault?.code === next.fault?.code &&
      last.fault?.message === next.fault?.message &&
      last.end === next.start
    if (same) {
      last.end = next.end
      last.windows += 1
    } else spans.push({ ...next, windows: 1 })
  }
  return spans
}

/** Does this row say that something is missing? */
export function isGap(row: CoverageRow): boolean {
  return !coveredStates.has(row.state)
}

/** One line on stderr for each gap: `gap: source=… scope=… start/end state code message`. */
export function gapLine(span: CoverageRow & { readonly windows: number }): string {
  const subject = span.subject === undefined ? '' : ` subject=${span.subject}`
  const fault = span.fault ? ` ${span.fault.code} ${span.fault.message}` : ''
  return `gap: source=${span.source} scope=${span.scope}${subject} ${span.start}/${span.end} windows=${span.windows} ${span.state}${fault}`
}
