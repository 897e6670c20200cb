/** `GET /api/v1/coverage`: which windows were read. The command prints the same answer. */
import type { Account } from '../../schemas/accounts.ts'
import { Fault } from '../../schemas/fault.ts'
import { dayMs, parseInstant, showInstant, type Window } from '../../schemas/window.ts'
import { type CoverageRow, countRows, coverageSpans, rowsOf, scopeTenants } from '../coverage.ts'
import { awaited, gateOf, type UnknownSource } from '../gate.ts'
import type { Store } from '../store.ts'
import type { Routes } from './api.ts'

/** What may be asked, as text. */
export interface CoverageAsked {
  readonly from?: string
  readonly to?: string
  readonly source?: string
  readonly scope?: string
  readonly account?: string
}

/** Of one answer over HTTP: some ten megabytes. */
export const rowsMax = 50_000

const Query = {
  type: 'object',
  additionalProperties: false,
  properties: {
    from: { type: 'string', description: 'RFC 3339, inclusive; a week before `to` where it is not given.' },
    to: { type: 'string', description: 'RFC 3339, exclusive; now where it is not given.' },
    source: { type: 'string', description: 'Only this source: its name, or meterline/kind/name.' },
    scope: { type: 'string', description: 'Only this scope.' },
    account: { type: 'string', description: 'Only what this account waits for before a period closes.' },
  },
} as const

export interface CoverageAnswer {
  readonly rows: readonly CoverageRow[]
  /** Of an account that is asked for: its sources of which no window was ever tried. */
  readonly unknown: readonly UnknownSource[]
  readonly span: Window
}

/** @throws Fault USAGE for a time that is none, an empty span, an account that is not there, or too many rows */
export async function coverageAnswer(
  store: Store,
  asked: CoverageAsked,
  given: {
    readonly accounts: readonly Account[]
    readonly nowMs: number
    /** More than that are refused, before they are made. */
    readonly rowsMax?: number
  },
): Promise<CoverageAnswer> {
  const { accounts, nowMs, rowsMax = Number.POSITIVE_INFINITY } = given
  const endMs = asked.to === undefined ? nowMs : parseInstant(asked.to, 'to')
  const startMs = asked.from === undefined ? endMs - 7 * dayMs : parseInstant(asked.from, 'from')
  if (startMs >= endMs)
    throw new Fault('USAGE', `from ${showInstant(startMs)} is not before to ${showInstant(endMs)}`)
  const span = { startMs, endMs }
  const account = accounts.find(({ id }) => id === asked.account)
  if (asked.account !== undefined && !account)
    throw new Fault('USAGE', `there is no account "${asked.account}"`)
  const spans = await coverageSpans(store, {
    span,
    nowMs,
    ...(asked.source !== undefined && { source: asked.source }),
    ...(asked.scope !== undefined && { scope: asked.scope }),
  })
  const count = countRows(spans)
  if (count > rowsMax)
    throw new Fault(
      'USAGE',
      `these are ${count} rows, and ${rowsMax} is the most: ask for less time, or by scope`,
    )
  const rows = rowsOf(spans)
  if (!account) return { rows, unknown: [], span }
  const sources = Array.from(new Set(account.subjects.map(({ source }) => source)))
  const gate = { account, period: span, rows, tenants: await scopeTenants(store, sources) }
  const isAsked = (source: string) =>
    asked.source === undefined || source === asked.source || source.endsWith(`/${asked.source}`)
  return {
    rows: awaited(gate),
    unknown: gateOf(gate).unknown.filter(({ source }) => isAsked(source)),
    span,
  }
}

export function coverageRoutes(parts: {
  readonly store: Store
  /** Read anew for each request that names one. */
  readonly accounts: () => Promise<readonly Account[]>
  readonly nowMs: () => number
}): Routes {
  return app => {
    app.get<{ Querystring: CoverageAsked }>(
      '/api/v1/coverage',
      { config: { scope: 'read' }, schema: { querystring: Query } },
      async ({ query }) => {
        const accounts = query.account === undefined ? [] : await parts.accounts()
        const { rows } = await coverageAnswer(parts.store, query, { accounts, nowMs: parts.nowMs(), rowsMax })
        return rows
      },
    )
  }
}
