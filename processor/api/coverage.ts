/** `GET /api/v1/coverage`: which windows were read. The command prints the same answer. */
import Type from 'typebox'
import type { Account } from '../../schemas/accounts.ts'
import { Fault } from '../../schemas/fault.ts'
import { dayMs, parseInstant, showInstant, type Window } from '../../schemas/window.ts'
import {
  type CoverageRow,
  countRows,
  coverageSpans,
  coverageStates,
  rowsOf,
  scopeTenants,
} from '../coverage.ts'
import { awaited, gateOf, type UnknownSource } from '../gate.ts'
import type { Store } from '../store.ts'
import { type Routes, route } from './route.ts'

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

const Query = Type.Object(
  {
    from: Type.Optional(
      Type.String({ description: 'RFC 3339, inclusive; a week before `to` where it is not given.' }),
    ),
    to: Type.Optional(Type.String({ description: 'RFC 3339, exclusive; now where it is not given.' })),
    source: Type.Optional(
      Type.String({ description: 'Only this source: its name, or meterline/kind/name.' }),
    ),
    scope: Type.Optional(Type.String({ description: 'Only this scope.' })),
    account: Type.Optional(
      Type.String({ description: 'Only what this account waits for before a period closes.' }),
    ),
  },
  { additionalProperties: false },
)

const Row = Type.Object(
  {
    source: Type.String({ description: 'The `source` of its events.' }),
    scope: Type.String({ description: 'The part of the source that was read.' }),
    start: Type.String({ description: 'RFC 3339, inclusive.' }),
    end: Type.String({ description: 'RFC 3339, exclusive.' }),
    state: Type.Enum(coverageStates, {
      description: 'What is known of the window; nothing is missing where it is read, settled or waived.',
    }),
    subject: Type.Optional(
      Type.String({ description: 'Of a bad item: whose gap it is, where that can be read.' }),
    ),
    fault: Type.Optional(
      Type.Object(
        { code: Type.String(), message: Type.String() },
        { additionalProperties: false, description: 'Why it is so.' },
      ),
    ),
    partition: Type.Optional(
      Type.Integer({ description: 'Of the log: where the mark of an incomplete read stands.' }),
    ),
  },
  { additionalProperties: false, title: 'CoverageRow' },
)

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
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/coverage',
        scope: 'read',
        tags: ['coverage'],
        summary: 'Lists which windows were read',
        description: 'In order of source, scope and start; a bad item of a window comes behind it.',
        query: Query,
        answers: { 200: { description: 'A row a window.', body: Type.Array(Row) } },
      },
      async ({ query }) => {
        const accounts = query.account === undefined ? [] : await parts.accounts()
        const { rows } = await coverageAnswer(parts.store, query, { accounts, nowMs: parts.nowMs(), rowsMax })
        return rows
      },
    )
  }
}
