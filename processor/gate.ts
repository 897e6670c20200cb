/**
 * The gate before an invoice: what still stands in the way of closing a period for an account. Pure: coverage, who was
 * seen in which scope, and the account come in as arguments.
 *
 * Which scopes an account waits for (decision 0012): all scopes of each of its sources that may hold its tenant, and the
 * source's listing. A source in which some scope was ever seen with two tenants is shared: everybody waits for all of
 * it. Else a tenant waits for the scopes in which it was seen, and for those in which nobody was seen yet; one that was
 * seen nowhere waits for all. A bad item that names its tenant stands in the way of that tenant alone. Of a pushed source
 * everybody waits for the marks that speak for all, and for those that name its own tenant.
 */
import type { Account } from '../schemas/accounts.ts'
import { isOwnSource } from '../schemas/pushed.ts'
import { instantMs, overlaps, showWindow, type Window } from '../schemas/window.ts'
import type { CoverageRow, CoverageState, ScopeTenants } from './coverage.ts'

/** The states that let a period close. */
const closedStates: ReadonlySet<CoverageState> = new Set(['settled', 'waived'])

export interface GateInput {
  readonly account: Pick<Account, 'subjects' | 'uncovered'>
  readonly period: Window
  /** Coverage of the period, of every source of the account, of all scopes. */
  readonly rows: readonly CoverageRow[]
  /** Every scope of those sources that was ever listed, read or tried. */
  readonly tenants: readonly ScopeTenants[]
}

export interface Gate {
  /** Windows and bad items that are neither settled nor waived, in the order of the rows. */
  readonly open: readonly CoverageRow[]
  /** Sources of which no window was ever tried, or for which no marks speak: nothing tells what they lack. */
  readonly unknown: readonly UnknownSource[]
  /** Nothing stands in the way. */
  readonly closes: boolean
}

export interface UnknownSource {
  readonly source: string
  /** Its events are pushed by others, who post no marks: none at all, or none for this subject and time. */
  readonly isPushed: boolean
  /** Where there are marks, and none that speak for this subject, or not for all of the period: for whom, and when. */
  readonly subject?: string
  readonly window?: Window
  /** The account bills it nevertheless: it is named, and does not stand in the way. */
  readonly isAllowed: boolean
}

/** What stands in the way of closing the period for the account. */
export function gateOf({ account, period, rows, tenants }: GateInput): Gate {
  const waited = awaited({ account, period, rows, tenants })
  const unknown = unknownSources(account, period, tenants)
  const open = waited.filter(({ state }) => !closedStates.has(state))
  return { open, unknown, closes: open.length === 0 && unknown.every(({ isAllowed }) => isAllowed) }
}

/** The rows that the account waits for, whatever their state. */
export function awaited({ account, period, rows, tenants }: GateInput): readonly CoverageRow[] {
  const bindings = bindingsWithin(account, period)
  const bySource = Map.groupBy(tenants, ({ source }) => source)
  const waits = bindings.map(({ source, subject, span }) => {
    const scopes = bySource.get(source) ?? []
    const mayHold = isOwnSource(source) ? scopesOf(subject, scopes) : namesOf(marksFor(subject, scopes))
    // A scope that nothing is known of may hold anybody.
    const known = new Set(scopes.map(({ scope }) => scope))
    return { source, subject, span, holds: (scope: string) => mayHold.has(scope) || !known.has(scope) }
  })
  return rows.filter(row => {
    const window = { startMs: Date.parse(row.start), endMs: Date.parse(row.end) }
    return waits.some(
      ({ source, subject, span, holds }) =>
        source === row.source &&
        overlaps(span, window) &&
        (row.subject === undefined ? holds(row.scope) : row.subject === subject),
    )
  })
}

/** Sources of the account that nobody ever tried to read, or of which marks do not speak for all that it pays for. */
function unknownSources(
  account: GateInput['account'],
  period: Window,
  tenants: readonly ScopeTenants[],
): readonly UnknownSource[] {
  const bySource = Map.groupBy(tenants, ({ source }) => source)
  const bindings = Map.groupBy(bindingsWithin(account, period), ({ source }) => source)
  return Array.from(bindings.keys())
    .sort()
    .flatMap(source => {
      const scopes = bySource.get(source)
      const isPushed = !isOwnSource(source)
      const unknown = { source, isPushed, isAllowed: isPushed && account.uncovered === 'allow' }
      if (!scopes) return [unknown]
      if (!isPushed) return []
      return (bindings.get(source) ?? []).flatMap(({ subject, span }) => {
        const firstMs = Math.min(
          ...marksFor(subject, scopes).map(({ sinceMs }) => sinceMs ?? Number.NEGATIVE_INFINITY),
        )
        const window = { startMs: span.startMs, endMs: Math.min(span.endMs, firstMs) }
        return window.startMs < window.endMs ? [{ ...unknown, subject, window }] : []
      })
    })
}

/** Of a pushed source: the marks that speak for all tenants, and those that speak for this one. */
function marksFor(subject: string, scopes: readonly ScopeTenants[]): readonly ScopeTenants[] {
  return scopes.filter(({ subjects }) => subjects.length === 0 || subjects.includes(subject))
}

function namesOf(scopes: readonly ScopeTenants[]): ReadonlySet<string> {
  return new Set(scopes.map(({ scope }) => scope))
}

/** Of a source of Meterline's: the scopes that may hold a tenant. The listing is always one of them: a scope that it missed may be the tenant's. */
function scopesOf(subject: string, scopes: readonly ScopeTenants[]): ReadonlySet<string> {
  const isShared = scopes.some(({ subjects }) => subjects.length > 1)
  const isSeen = scopes.some(({ subjects }) => subjects.includes(subject))
  const some =
    isShared || !isSeen
      ? scopes
      : scopes.filter(({ subjects }) => subjects.length === 0 || subjects.includes(subject))
  return namesOf(some)
}

/** What the account pays for within the period, and from when to when. */
function bindingsWithin(account: GateInput['account'], period: Window) {
  return account.subjects.flatMap(({ source, subject, from, to }) => {
    const span = {
      startMs: Math.max(period.startMs, (from === undefined ? undefined : instantMs(from)) ?? period.startMs),
      endMs: Math.min(period.endMs, (to === undefined ? undefined : instantMs(to)) ?? period.endMs),
    }
    return span.startMs < span.endMs ? [{ source, subject, span }] : []
  })
}

/** One line for a person: what the gate lacks of a source. */
export function unknownLine(
  { source, isPushed, isAllowed, subject, window }: UnknownSource,
  period: Window,
): string {
  const whose = subject === undefined ? '' : ` subject=${subject}`
  const lack = subject === undefined ? 'without marks' : 'and no mark speaks for it then'
  const why = isPushed
    ? `its events are pushed ${lack}, so nobody can tell what is missing${isAllowed ? ' (the account allows it)' : ': `uncovered: allow` of the account bills it so'}`
    : 'it was never read'
  return `${isAllowed ? 'uncovered' : 'gap'}: source=${source}${whose} ${showWindow(window ?? period)} ${why}`
}
