/** `GET /api/v1/coverage`: which windows were read. The command prints the same answer. */
import Type, { type Static } from 'typebox'
import type { Account } from '../../schemas/accounts.ts'
import { Fault, type FaultCode, faults } from '../../schemas/fault.ts'
import { dayMs, type Window } from '../../schemas/window.ts'
import {
  type CoverageQuery,
  type CoverageRow,
  type CoverageSpan,
  countRows,
  coverageSpans,
  coverageStates,
  rowsOf,
  scopeTenants,
} from '../coverage.ts'
import { awaited, gateOf, type UnknownSource } from '../gate.ts'
import type { Store } from '../store.ts'
import { accountFor } from './accounts.ts'
import { ofTenants } from './coverage-days.ts'
import {
  asAsked,
  type Columns,
  cutToPage,
  formatQuery,
  linkNext,
  listAnswer,
  pageOf,
  pageQuery,
} from './lists.ts'
import { type Asked, type Declared, type Routes, route } from './route.ts'
import { askedSpan, Instant } from './spans.ts'

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
    from: Type.Optional(Instant('inclusive; a week before `to` where it is not given')),
    to: Type.Optional(Instant('exclusive; now where it is not given')),
    source: Type.Optional(
      Type.String({ description: 'Only this source: its name, or meterline/kind/name.' }),
    ),
    scope: Type.Optional(Type.String({ description: 'Only this scope.' })),
    account: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 128,
        description: 'Only what this account waits for before a period closes.',
      }),
    ),
    ...pageQuery,
    ...formatQuery,
  },
  { additionalProperties: false },
)

const Row = Type.Object(
  {
    source: Type.String({ description: 'The `source` of its events.' }),
    scope: Type.String({
      description: 'The part of the source that was read; empty for a key that is bound to an account.',
    }),
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
  const chosen = chosenBy(asked, nowMs)
  const { span } = chosen
  const account = accounts.find(({ id }) => id === asked.account)
  if (asked.account !== undefined && !account)
    throw new Fault('USAGE', `there is no account "${asked.account}"`)
  const spans = await coverageSpans(store, chosen)
  const count = countRows(spans)
  if (count > rowsMax) throw tooMany(count)
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

function tooMany(count: number): Fault {
  return new Fault(
    'USAGE',
    `these are ${count} rows, and ${rowsMax} is the most: ask for less time, by scope, or in pages of \`limit\` rows`,
  )
}

/** A week, where nothing else is asked for. */
function spanOf(asked: CoverageAsked, nowMs: number): Window {
  return askedSpan(asked, { startMs: endMs => endMs - 7 * dayMs, endMs: nowMs })
}

function chosenBy(asked: CoverageAsked, nowMs: number): CoverageQuery {
  const { source, scope } = asked
  return {
    span: spanOf(asked, nowMs),
    nowMs,
    ...(source !== undefined && { source }),
    ...(scope !== undefined && { scope }),
  }
}

export function coverageRoutes(parts: {
  readonly store: Store
  /** Read anew for each request that names one. */
  readonly accounts: () => Promise<readonly Account[]>
  readonly nowMs: () => number
}): Routes {
  const { store, accounts } = parts
  return app => {
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/coverage',
        scope: 'read',
        tags: ['coverage'],
        summary: 'Lists which windows were read',
        description:
          'In order of source, scope and start; a bad item of a window comes behind it. A key that is bound to an account sees the windows in which its own usage was read, and is not told the names of scopes.',
        query: Query,
        answers: { 200: listAnswer(Row, 'A row a window.') },
        problems: [404],
      },
      async asked => {
        const { query, caller } = asked
        const nowMs = parts.nowMs()
        const whose = query.account ?? caller.account
        if (whose !== undefined && caller.account !== undefined) {
          const { subjects } = await accountFor(caller, accounts, whose)
          const { source, scope } = query
          const spans = await coverageSpans(store, {
            span: spanOf(query, nowMs),
            nowMs,
            ...(source && { source }),
          })
          const own = masked(await ofTenants(store, spans, subjects))
          return answered(
            own.filter(one => (scope ?? one.scope) === one.scope),
            asked,
          )
        }
        if (query.account !== undefined) {
          await accountFor(caller, accounts, query.account)
          const { rows } = await coverageAnswer(store, query, { accounts: await accounts(), nowMs, rowsMax })
          return asAsked(cutToPage(rows, asked), columns, { ...asked, name: 'coverage' })
        }
        return answered(await coverageSpans(store, chosenBy(query, nowMs)), asked)
      },
    )
  }
}

/** As an account may see it: not where else its source is read, nor in words that may speak of others. */
function masked(spans: readonly CoverageSpan[]): readonly CoverageSpan[] {
  return spans.map(({ partition: _, fault, ...span }) => {
    const meaning = faults[fault?.code as FaultCode]?.meaning ?? ''
    return { ...span, scope: '', ...(fault && { fault: { code: fault.code, message: meaning } }) }
  })
}

const columns: Columns<CoverageRow> = {
  source: row => row.source,
  scope: row => row.scope,
  start: row => row.start,
  end: row => row.end,
  state: row => row.state,
  subject: row => row.subject,
  fault_code: row => row.fault?.code,
  fault_message: row => row.fault?.message,
  partition: row => row.partition,
}

/** One page of the rows of these spans; scopes before and behind it are not written out. */
function answered(
  spans: readonly CoverageSpan[],
  asked: Pick<Asked<Declared>, 'request' | 'reply' | 'accepts'> & { readonly query: Static<typeof Query> },
) {
  const { offset, limit } = pageOf(asked.query)
  const count = countRows(spans)
  if (Math.min(limit, count - offset) > rowsMax) throw tooMany(count)
  const rows: CoverageRow[] = []
  let before = 0
  for (const some of Map.groupBy(spans, ({ source, scope }) => JSON.stringify([source, scope])).values()) {
    const own = countRows(some)
    const from = Math.max(0, offset - before)
    const to = Math.min(own, offset + limit - before)
    if (from < to) rows.push(...rowsOf(some).slice(from, to))
    before += own
  }
  if (offset + limit < count)
    linkNext(asked.request, asked.reply, { offset: String(offset + limit), limit: String(limit) })
  return asAsked(rows, columns, { ...asked, name: 'coverage' })
}
