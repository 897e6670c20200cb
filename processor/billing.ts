/** From the ledger to line items: whose usage it is, by which book it is priced, and what nobody pays for. */
import type { Account } from '../schemas/accounts.ts'
import { Fault } from '../schemas/fault.ts'
import type { Meter } from '../schemas/meters.ts'
import { type Book, bookMeters } from '../schemas/pricebook.ts'
import { parseInstant, type Window } from '../schemas/window.ts'
import { type AccountLines, type MeteredUsage, needsHours, rateLines } from './line-items.ts'
import { dimNames } from './meters.ts'
import type { Bounds } from './queries.ts'
import type { Store } from './store.ts'
import { type Quantity, quantities } from './usage.ts'
import type { UsageQuery } from './usage-plan.ts'

/** What a period is billed by: read once, so that all accounts see the same. */
export interface Billing {
  readonly accounts: readonly Account[]
  readonly books: readonly Book[]
  readonly meters: readonly Meter[]
}

/** A tenant with usage of a billed meter that no account pays for. */
export interface Unassigned {
  readonly source: string
  readonly subject: string
  readonly meter: string
}

/**
 * The lines of every account over the period or of `only` one, in the order of the accounts, and the tenants that no account
 * has. A price may depend on all that was used in the period, so that no line is known before all usage of its account is.
 * @throws Fault CONFIG_INVALID for a book or meter that is not there, and what rating throws, naming the account;
 *   QUERY_TOO_LARGE beyond `bounds`, which are those of each statement and of all rows together.
 */
export async function bill(
  store: Store,
  billing: Billing,
  period: Window,
  { only, bounds = {} }: { readonly only?: string | undefined; readonly bounds?: Partial<Bounds> } = {},
): Promise<{ readonly accounts: readonly AccountLines[]; readonly unassigned: readonly Unassigned[] }> {
  const chosen = billing.accounts.filter(account => only === undefined || account.id === only)
  if (only !== undefined && chosen.length === 0)
    throw new Fault('CONFIG_INVALID', `there is no account "${only}"`, { account: only })
  const metered = new Map<string, readonly Quantity[]>()
  const accounts: AccountLines[] = []
  for (const account of chosen) {
    const book = bookOf(billing, account)
    const usage: MeteredUsage[] = []
    for (const slug of bookMeters(book)) {
      const rows = await meteredOnce(store, billing, metered, {
        slug,
        period,
        byHour: splits(account, book, period),
        // Of one account only its own is read: what others used is nothing to it, nor how long that takes.
        ...(only !== undefined && { of: account.subjects }),
        bounds,
      })
      usage.push(...rows.filter(row => pays(account, row)).map(row => ({ meter: slug, ...row })))
    }
    accounts.push(
      rateLines({ account: account.id, book, period, usage, ...(account.dims && { dims: account.dims }) }),
    )
  }
  return { accounts, unassigned: only === undefined ? unassignedOf(billing, metered) : [] }
}

function bookOf(billing: Billing, account: Account): Book {
  const book = billing.books.find(({ id }) => id === account.priceBook)
  if (!book)
    throw new Fault('CONFIG_INVALID', `account ${account.id}: there is no price book "${account.priceBook}"`)
  if (book.currency !== account.currency)
    throw new Fault(
      'CONFIG_INVALID',
      `account ${account.id} pays ${account.currency}, its book is in ${book.currency}`,
    )
  return book
}

/** One quantity for the period does, unless the book or the account's own dates tell its hours apart. */
function splits(account: Account, book: Book, period: Window): boolean {
  return (
    needsHours(book, period) ||
    account.subjects.some(({ from, to }) => from !== undefined || to !== undefined)
  )
}

async function meteredOnce(
  store: Store,
  billing: Billing,
  metered: Map<string, readonly Quantity[]>,
  ask: {
    readonly slug: string
    readonly period: Window
    readonly byHour: boolean
    readonly of?: Account['subjects']
    readonly bounds: Partial<Bounds>
  },
): Promise<readonly Quantity[]> {
  const key = `${ask.slug}${ask.byHour ? ' by hour' : ''}`
  const held = metered.get(key)
  if (held) return held
  const meter = billing.meters.find(({ slug }) => slug === ask.slug)
  if (!meter)
    throw new Fault(
      'METER_UNKNOWN',
      `a price book prices the meter "${ask.slug}", which is not in the catalogue`,
    )
  const { rowsMax = Number.POSITIVE_INFINITY, ...reading } = ask.bounds
  const heldRows = metered.values().reduce((all, rows) => all + rows.length, 0)
  const query: UsageQuery = {
    meter,
    span: ask.period,
    zone: 'UTC',
    groupBy: dimNames(meter),
    where: {},
    ...(ask.byHour && { step: 'HOUR' as const }),
    ...(ask.of && {
      sources: Array.from(new Set(ask.of.map(({ source }) => source))),
      subjects: Array.from(new Set(ask.of.map(({ subject }) => subject))),
    }),
  }
  const rows = await quantities(store, query, { ...reading, rowsMax: rowsMax - heldRows })
  metered.set(key, rows)
  return rows
}

/** Does the account pay for this tenant at that time? */
export function pays(account: Account, row: Pick<Quantity, 'source' | 'subject' | 'window'>): boolean {
  return account.subjects.some(
    ({ source, subject, from, to }) =>
      source === row.source &&
      subject === row.subject &&
      (from === undefined || row.window.startMs >= parseInstant(from, `account ${account.id}: from`)) &&
      (to === undefined || row.window.startMs < parseInstant(to, `account ${account.id}: to`)),
  )
}

function unassignedOf(
  billing: Billing,
  metered: ReadonlyMap<string, readonly Quantity[]>,
): readonly Unassigned[] {
  const found = new Map<string, Unassigned>()
  for (const [key, rows] of metered)
    for (const row of rows)
      if (!billing.accounts.some(account => pays(account, row))) {
        const one = { source: row.source, subject: row.subject, meter: key.split(' ')[0] ?? key }
        found.set(JSON.stringify(one), one)
      }
  return Array.from(found.values())
}
