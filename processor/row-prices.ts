/**
 * Prices one row of an instance's hours by what the row itself tells: the rate and amount that rafay-csv adds. Pure.
 */
import { exact, showQuantity, showRounded } from '../schemas/decimal.ts'
import { Fault } from '../schemas/fault.ts'
import { fractionOf, JsonNumber } from '../schemas/json.ts'
import { type Book, bookMinorDigits, type Charge } from '../schemas/pricebook.ts'
import type { Window } from '../schemas/window.ts'
import { rate } from './rate.ts'
import { ratecardMeter } from './ratecards.ts'

export interface InstanceRow {
  readonly organization: string
  readonly profileType: string
  readonly profile: string
  readonly instance: string
  /** A number as JSON or Python write it, such as `17.73` or `1e-07`. */
  readonly usageHours: string
}

export interface RowPrice {
  /** As the book or ratecard has it. */
  readonly rate: string
  /** Rounded once, to the currency's decimals. */
  readonly amount: string
}

/** All that a row says of its instance. A charge that asks for more cannot be decided by the row. */
const columns = ['organization', 'profile_type', 'profile', 'instance'] as const
const decidableKeys = new Set(['id', 'meter', 'where', 'per', 'unit', 'price', 'prices', 'additive'])

/**
 * The function that prices rows by a book's charges for `instance_hours`. It gives undefined where no charge takes
 * the row, where its usage is no number, and where a charge might take it that depends on more than the row tells
 * (a GPU type, a parameter, tiers over the whole period): half a price is no price.
 */
export function rowPrices(book: Book, period: Window): (row: InstanceRow) => RowPrice | undefined {
  const charges = book.charges.filter(charge => charge.meter === ratecardMeter)
  const byProfile = Map.groupBy(charges, charge => charge.where?.profile)
  const minorDigits = bookMinorDigits(book)
  return row => {
    const dims: Record<string, string> = {
      organization: row.organization,
      profile_type: row.profileType,
      profile: row.profile,
      instance: row.instance,
    }
    const hours = fractionOf(new JsonNumber(row.usageHours))
    const mine = new Set([...(byProfile.get(row.profile) ?? []), ...(byProfile.get(undefined) ?? [])])
    // Book order, as lines have it.
    const candidates = charges.filter(charge => mine.has(charge) && mightTake(charge, dims))
    if (!hours || candidates.length === 0 || !candidates.every(isDecidable)) return undefined
    try {
      const usage = [{ meter: ratecardMeter, quantity: hours, dims }]
      const rated = rate({ book: { ...book, charges: candidates, adjust: [] }, period, usage })
      const priced = rated.lines.length > 0 ? rated.lines.map(line => line.proof) : candidates
      const text = rateText(priced as readonly Pick<Charge, 'price' | 'per'>[])
      return text === undefined ? undefined : { rate: text, amount: showRounded(rated.total, minorDigits) }
    } catch (error) {
      if (error instanceof Fault) return undefined
      throw error
    }
  }
}

/** Does every column that the charge names have its value? What it asks beyond the columns may be so or not. */
function mightTake(charge: Charge, dims: Readonly<Record<string, string>>): boolean {
  return columns.every(
    column => charge.where?.[column] === undefined || charge.where[column] === dims[column],
  )
}

function isDecidable(charge: Charge): boolean {
  return (
    Object.keys(charge).every(key => decidableKeys.has(key)) &&
    Object.keys(charge.where ?? {}).every(dim => (columns as readonly string[]).includes(dim)) &&
    (charge.price ? [charge.price] : (charge.prices ?? [])).every(price => typeof price.unit === 'string')
  )
}

/** One charge's price as written. Of several that add up, their sum by the hour. */
function rateText(priced: readonly Pick<Charge, 'price' | 'per'>[]): string | undefined {
  const units = priced.map(({ price }) => price?.unit)
  if (!units.every(unit => typeof unit === 'string')) return undefined
  if (units.length === 1) return units[0]
  const byHour = priced.map(({ per }, place) => exact(units[place]!).div(exact(String(per ?? '1'))))
  return showQuantity(byHour.reduce((sum, each) => sum.add(each)))
}
