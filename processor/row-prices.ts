/**
 * Prices one row of an instance's hours by what is known of it: the rate and amount that rafay-csv adds. Pure.
 */
import Fraction from 'fraction.js'
import { showQuantity, showRounded } from '../schemas/decimal.ts'
import { Fault } from '../schemas/fault.ts'
import { fractionOf, JsonNumber } from '../schemas/json.ts'
import { type Book, bookMinorDigits, type Charge } from '../schemas/pricebook.ts'
import type { Window } from '../schemas/window.ts'
import { type RatedLine, rate } from './rate.ts'
import { ratecardMeter } from './ratecards.ts'

export interface InstanceRow {
  readonly organization: string
  readonly profileType: string
  readonly profile: string
  readonly instance: string
  /** A number as JSON or Python write it, such as `17.73` or `1e-07`. */
  readonly usageHours: string
  /** What is known of the instance besides, such as its `gpu_type`: dims of the book. */
  readonly dims?: Readonly<Record<string, string>>
}

export interface RowPrice {
  /** As the book or ratecard has it. Where several prices add up to it, the cost of an hour. */
  readonly rate: string
  /** Rounded once, to the currency's decimals. */
  readonly amount: string
}

/** What a charge may have whose price of a row depends on the row alone: tiers and minimums need the whole period. */
const decidableKeys = new Set([
  ...['id', 'meter', 'where', 'per', 'unit', 'price', 'prices', 'additive'],
  ...['times', 'weight'],
])

/**
 * The function that prices rows by a book's charges for `instance_hours`. It gives undefined where no charge takes
 * the row, where its usage is no number, and where a charge might take it that depends on more than is known of it
 * (a GPU type, a parameter, tiers over the whole period): half a price is no price.
 */
export function rowPrices(book: Book, period: Window): (row: InstanceRow) => RowPrice | undefined {
  const charges = book.charges.filter(charge => charge.meter === ratecardMeter)
  const byProfile = Map.groupBy(charges, charge => charge.where?.profile)
  const minorDigits = bookMinorDigits(book)
  const hasBase = charges.some(charge => !charge.additive)
  return row => {
    const dims: Record<string, string> = {
      ...row.dims,
      organization: row.organization,
      profile_type: row.profileType,
      profile: row.profile,
      instance: row.instance,
    }
    const mine = new Set([...(byProfile.get(row.profile) ?? []), ...(byProfile.get(undefined) ?? [])])
    // Book order, as lines have it.
    const candidates = charges.filter(charge => mine.has(charge) && mightTake(charge, dims))
    const hours = fractionOf(new JsonNumber(row.usageHours))
    if (!hours || candidates.length === 0 || !candidates.every(charge => isDecidable(charge, dims)))
      return undefined
    // What only additive charges take has no price (rate.ts), and these are not all of the book.
    if (hasBase && candidates.every(charge => charge.additive)) return undefined
    const priced: Book = { ...book, unpriced: 'error', charges: candidates, adjust: [] }
    const rated = (quantity: Fraction) =>
      rate({ book: priced, period, usage: [{ meter: ratecardMeter, quantity, dims }] })
    try {
      // Of an hour, since zero hours have no lines to take the price from.
      const { lines } = rated(new Fraction(1))
      return { rate: rateText(lines), amount: showRounded(rated(hours).total, minorDigits) }
    } catch (error) {
      if (error instanceof Fault) return undefined
      throw error
    }
  }
}

/** Has every dim that the charge names its value, as far as it is known? What is not known may be so or not. */
function mightTake(charge: Charge, dims: Readonly<Record<string, string>>): boolean {
  return Object.entries(charge.where ?? {}).every(
    ([dim, value]) => !Object.hasOwn(dims, dim) || dims[dim] === value,
  )
}

function isDecidable(charge: Charge, dims: Readonly<Record<string, string>>): boolean {
  return (
    Object.keys(charge).every(key => decidableKeys.has(key)) &&
    Object.keys(charge.where ?? {}).every(dim => Object.hasOwn(dims, dim)) &&
    (charge.price ? [charge.price] : (charge.prices ?? [])).every(price => typeof price.unit === 'string')
  )
}

/** One line's price as written. Of several that add up, and of one by weights, what an hour costs. */
function rateText(lines: readonly RatedLine[]): string {
  const [first, ...others] = lines
  if (first && others.length === 0 && first.proof.modifiers.weight === undefined)
    return String(first.proof.price.unit)
  return showQuantity(lines.reduce((sum, line) => sum.add(line.exact), new Fraction(0)))
}
