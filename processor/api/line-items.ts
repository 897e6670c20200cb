/**
 * `GET /api/v1/line-items`: what the usage of a time costs by the price books as they are now. It is the first cut: nothing
 * of it is issued, and the same question may be answered otherwise when usage comes late or a book changes.
 */
import Type from 'typebox'
import { monthOf, showInstant, type Window } from '../../schemas/window.ts'
import { type Billing, bill } from '../billing.ts'
import type { AccountLines, LineItem } from '../line-items.ts'
import type { Queries } from '../queries.ts'
import { showDims } from '../rate.ts'
import type { Store } from '../store.ts'
import { accountFor } from './accounts.ts'
import { asAsked, type Columns, cutToPage, formatQuery, listAnswer, pageQuery } from './lists.ts'
import { type Caller, type Routes, route } from './route.ts'
import { askedSpan, Instant } from './spans.ts'

const strict = { additionalProperties: false }

const spanQuery = {
  account: Type.Optional(Type.String({ minLength: 1, maxLength: 128, description: 'Only this account.' })),
  from: Type.Optional(
    Instant('inclusive; the beginning of the month of `to`, in UTC, where it is not given'),
  ),
  to: Type.Optional(Instant('exclusive; now where it is not given')),
}

const Line = Type.Object(
  {
    account: Type.String(),
    charge: Type.String({ description: 'Of the price book.' }),
    meter: Type.String({ description: 'Empty where the charge is not for usage.' }),
    group: Type.Record(Type.String(), Type.String(), {
      description: 'The dims of this share of the charge; empty where it is not itemised.',
    }),
    quantity: Type.String({
      description: 'Exact: the shortest decimal, else n/d; empty where there is none.',
    }),
    unit: Type.String(),
    price: Type.String({ description: 'As the book has it; of more than one number, its JSON.' }),
    amount: Type.String({ description: 'Rounded once, to the minor unit of the currency.' }),
    currency: Type.String({ description: 'ISO 4217.' }),
    period_start: Type.String({ description: 'RFC 3339, inclusive.' }),
    period_end: Type.String({ description: 'RFC 3339, exclusive.' }),
    book: Type.String(),
    book_sha256: Type.String(),
    proof: Type.Unknown({ description: 'How the amount comes about.' }),
  },
  { ...strict, title: 'LineItem' },
)

const Total = Type.Object(
  {
    account: Type.String(),
    currency: Type.String({ description: 'ISO 4217.' }),
    total: Type.String({ description: 'The sum of the lines.' }),
    lines: Type.Integer({ minimum: 0 }),
    unpriced: Type.Integer({ minimum: 0, description: 'Groups of usage that no charge takes.' }),
    period_start: Type.String({ description: 'RFC 3339, inclusive.' }),
    period_end: Type.String({ description: 'RFC 3339, exclusive.' }),
  },
  { ...strict, title: 'CostTotal' },
)

const columns: Columns<LineItem> = {
  account: row => row.account,
  charge: row => row.charge,
  meter: row => row.meter,
  group: row => showDims(row.group),
  quantity: row => row.quantity,
  unit: row => row.unit,
  price: row => row.price,
  amount: row => row.amount,
  currency: row => row.currency,
  period_start: row => row.period_start,
  period_end: row => row.period_end,
  book: row => row.book,
  book_sha256: row => row.book_sha256,
}

export function lineItemRoutes(parts: {
  readonly store: Store
  /** Accounts, books and meters, read anew for each request: what is billed by. */
  readonly billing: () => Promise<Billing>
  /** They take turns with all other questions for usage. */
  readonly queries: Queries
  readonly nowMs: () => number
}): Routes {
  const linesOf = async ({
    caller,
    query,
    signal,
  }: {
    readonly caller: Caller
    readonly query: { readonly account?: string; readonly from?: string; readonly to?: string }
    readonly signal: AbortSignal
  }): Promise<{ readonly lines: readonly AccountLines[]; readonly period: Window }> => {
    const period = askedSpan(query, { startMs: monthBefore, endMs: parts.nowMs() })
    const billing = await parts.billing()
    const chosen = query.account ?? caller.account
    if (chosen !== undefined) await accountFor(caller, async () => billing.accounts, chosen)
    const billed = parts.queries.ask(signal, async function* (bounds) {
      yield await bill(parts.store, billing, period, { only: chosen, bounds })
    })
    const lines: AccountLines[] = []
    for await (const { accounts } of billed) lines.push(...accounts)
    return { lines: lines.sort((a, b) => (a.account < b.account ? -1 : 1)), period }
  }
  return app => {
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/line-items',
        scope: 'bill',
        tags: ['line-items'],
        summary: 'Prices the usage of a time',
        description:
          'The first cut: by the price books as they are, of the usage that is there now; nothing of it is issued. In order of account, then of the charges of its book. A key that is bound to an account sees that one. A price may depend on all of the usage, so a page costs as much as the whole: ask for one account, or for all lines at once.',
        query: Type.Object({ ...spanQuery, ...pageQuery, ...formatQuery }, strict),
        answers: { 200: listAnswer(Line, 'A row a line.') },
        problems: [404, 409, 422],
      },
      async asked => {
        const { lines } = await linesOf(asked)
        const page = cutToPage(
          lines.flatMap(account => account.lines),
          asked,
        )
        return asAsked(page, columns, { ...asked, name: 'line-items' })
      },
    )
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/line-items/totals',
        scope: 'bill',
        tags: ['line-items'],
        summary: 'Sums what usage costs, by account',
        description: 'As line-items, one row an account: without `from`, the month so far.',
        query: Type.Object(spanQuery, strict),
        answers: { 200: { description: 'A row an account.', body: Type.Array(Total) } },
        problems: [404, 409, 422],
      },
      async asked => {
        const { lines, period } = await linesOf(asked)
        return lines.map(({ account, currency, total, lines: items, unpriced }) => ({
          account,
          currency,
          total,
          lines: items.length,
          unpriced: unpriced.length,
          period_start: showInstant(period.startMs),
          period_end: showInstant(period.endMs),
        }))
      },
    )
  }
}

/** The month that the last instant before the end lies in: of the first of a month, the month before. */
const monthBefore = (endMs: number) => monthOf(endMs - 1, 'UTC').startMs
