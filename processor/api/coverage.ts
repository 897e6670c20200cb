/** `GET /api/v1/coverage`: which windows were read. The command prints the same answer. */
import type { Account } from '../../schemas/accounts.ts'
import { Fault } from '../../schemas/fault.ts'
import { dayMs, parseInstant, showInstant, type Window } from '../../schemas/window.ts'
import { type CoverageRow, coverage, scopeTenants } from '../coverage.ts'
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

/** @throws Fault USAGE for a time that is none, an empty span, or an account that is not there */
export async function coverageAnswer(
  store: Store,
  asked: CoverageAsked,
  { accounts, nowMs }: { readonly accounts: readonly Account[]; readonly nowMs: number },
): Promise<CoverageAnswer> {
  const endMs = asked.to === undefined ? nowMs : parseInstant(asked.to, 'to')
  const startMs = asked.from === undefined ? endMs - 7 * dayMs : parseInstant(asked.from, 'from')
  if (startMs >= endMs)
    throw new Fault('USAGE', `from ${showInstant(startMs)} is not before to ${showInstant(endMs)}`)
  const span = { startMs, endMs }
  const account = accounts.find(({ id }) => id === asked.account)
  if (asked.account !== undefined && !account)
    throw new Fault('USAGE', `there is no account "${asked.account}"`)
  const rows = await coverage(store, {
    span,
    nowMs,
    ...(asked.source !== undefined && { source: asked.source }),
    ...(asked.scope !== undefined && { scope: asked.scope }),
  })
  if (!account) return { rows, unknown: [], span }
  const sources = Array.from(new Set(account.subjects.map(({ source }) => source)))
  const given = { account, period: span, rows, tenants: await scopeTenants(store, sources) }
  const isAsked = (source: string) =>
    asked.source === undefined || source === asked.source || source.endsWith(`/${asked.source}`)
  return {
    rows: awaited(given),
    unknown: gateOf(given).unknown.filter(({ source }) => isAsked(source)),
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
      { schema: { querystring: Query } },
      async ({ query }) => {
        const accounts = query.account === undefined ? [] : await parts.accounts()
        const { rows } = await coverageAnswer(parts.store, query, { accounts, nowMs: parts.nowMs() })
        return rows
      },
    )
  }
}
