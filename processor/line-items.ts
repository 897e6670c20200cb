/** Line items: what an account is charged for the metered usage of a period, each with its proof. Pure. */
import Fraction from 'fraction.js'
import { exact, show, showRounded } from '../schemas/decimal.ts'
import { Fault } from '../schemas/fault.ts'
import type { Book } from '../schemas/pricebook.ts'
import { instantMs, showInstant, type Window } from '../schemas/window.ts'
import { type LineProof, type Rated, rate, type UsageRecord } from './rate.ts'

/** One row of a meter, for one account. `quantity` is the exact quotient, as a rational or as decimal or n/d text. */
export interface MeteredUsage {
  readonly meter: string
  readonly source: string
  readonly subject: string
  readonly dims: Readonly<Record<string, string>>
  readonly quantity: Fraction | string
  /** The row's own window. Without it, or where it is the period's, the row lies in the period as a whole. */
  readonly window?: Window
}

/** As it is exported and answered: quantities and money are text. */
export interface LineItem {
  readonly account: string
  readonly charge: string
  readonly meter: string
  /** The dims of this share of the charge; empty where the charge is not itemised. */
  readonly group: Readonly<Record<string, string>>
  /** The shortest decimal, else n/d; empty where an amount has no quantity. */
  readonly quantity: string
  readonly unit: string
  /** As the book has it; of a price that is more than one number, its JSON. */
  readonly price: string
  readonly amount: string
  readonly currency: string
  readonly period_start: string
  readonly period_end: string
  readonly book: string
  readonly book_sha256: string
  readonly proof: LineProof
}

export interface UnpricedUsage {
  readonly account: string
  readonly meter: string
  readonly dims: Readonly<Record<string, string>>
  readonly quantity: string
}

export interface AccountLines {
  readonly account: string
  readonly lines: readonly LineItem[]
  readonly total: string
  readonly currency: string
  /** Empty unless the book says `unpriced: report`; otherwise such usage throws. */
  readonly unpriced: readonly UnpricedUsage[]
}

/**
 * Rates one account's usage. `dims` are the contract's own and win over those of the usage.
 * Give it the meters that the book prices (`bookMeters`): other meters measure the same usage another way.
 * @throws Fault UNPRICED | PRICE_AMBIGUOUS | WEIGHT_MISSING | CASE_INVALID
 */
export function rateLines({
  account,
  book,
  period,
  usage,
  dims = {},
}: {
  readonly account: string
  readonly book: Book
  readonly period: Window
  readonly usage: readonly MeteredUsage[]
  readonly dims?: Readonly<Record<string, string>>
}): AccountLines {
  const rated = rateNaming(account, {
    book,
    period,
    usage: usage.map(
      (row): UsageRecord => ({
        meter: row.meter,
        quantity: typeof row.quantity === 'string' ? exact(row.quantity) : row.quantity,
        dims: { ...row.dims, ...dims },
        ...(row.window && !covers(row.window, period) && row.window),
      }),
    ),
  })
  const lines = rated.lines.map(
    ({ charge, group, quantity, amount, proof }): LineItem => ({
      account,
      charge,
      meter: proof.meter ?? '',
      group: group ?? {},
      quantity: quantity ? show(quantity) : '',
      unit: proof.unit ?? '',
      price: typeof proof.price.unit === 'string' ? proof.price.unit : JSON.stringify(proof.price),
      amount: showRounded(amount, rated.minorDigits),
      currency: rated.currency,
      period_start: showInstant(period.startMs),
      period_end: showInstant(period.endMs),
      book: bookName(book, proof.sha256),
      book_sha256: proof.sha256,
      proof,
    }),
  )
  return {
    account,
    lines,
    total: showRounded(rated.total, rated.minorDigits),
    currency: rated.currency,
    unpriced: rated.unpriced.map(({ meter, dims, quantity }) => ({
      account,
      meter,
      dims,
      quantity: show(quantity),
    })),
  }
}

/** Whose usage it is that cannot be rated is the first thing one wants to know. */
function rateNaming(account: string, input: Parameters<typeof rate>[0]): Rated {
  try {
    return rate(input)
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    const facts = { account, ...error.facts }
    throw new Fault(error.code, `account ${account}: ${error.message}`, facts, { cause: error })
  }
}

/**
 * Does the book price hours of the period unlike each other? Then it needs the usage by the hour; otherwise one
 * quantity for the whole period does.
 */
export function needsHours(book: Book, period: Window): boolean {
  const fromMs = book.from === undefined ? undefined : instantMs(book.from)
  return (
    (fromMs !== undefined && fromMs > period.startMs) ||
    book.charges.some(charge => charge.prices !== undefined)
  )
}

/** A quantity of the whole period says nothing of when it was used: splitting it by time would be a guess. */
function covers(window: Window, period: Window): boolean {
  return window.startMs <= period.startMs && window.endMs >= period.endMs
}

/** `neocloud-us@3`; a book without an id goes by its hash. */
function bookName({ id, version }: Book, sha256: string): string {
  return `${id ?? sha256.slice(0, 12)}${version === undefined ? '' : `@${version}`}`
}

/** Totals over accounts, a currency each: amounts of two currencies are never added. */
export function totalsByCurrency(
  accounts: readonly Pick<AccountLines, 'currency' | 'total'>[],
): Readonly<Record<string, string>> {
  const sums = new Map<string, { total: Fraction; minorDigits: number }>()
  for (const { currency, total } of accounts) {
    const held = sums.get(currency)
    const minorDigits = total.split('.')[1]?.length ?? 0
    sums.set(currency, { total: (held?.total ?? new Fraction(0)).add(exact(total)), minorDigits })
  }
  return Object.fromEntries(
    [...sums].map(([currency, { total, minorDigits }]) => [currency, showRounded(total, minorDigits)]),
  )
}
