/**
 * When a complete read takes so much away that it has to wait for a second one: the ledger holds it back by this rule, and
 * the collector by the same reads again. Pure.
 */
import { decimalPlacesMax } from './decimal.ts'

export interface SuspectRule {
  /** More than so many percent of a measure's total in the scope and window, or all of it. */
  readonly percent: number
  /** A second read made so much later that agrees is believed. */
  readonly confirmAfterMs: number
}

export const suspectDefault: SuspectRule = { percent: 10, confirmAfterMs: 3_600_000 }

/** Sums of measures over a read's readings, in units of 10⁻¹². */
export type Totals = ReadonlyMap<string, bigint>

/** Does any measure lose all, or more than so many percent of what it was? */
export function takesAway(before: Totals, after: Totals, percent: number): boolean {
  for (const [measure, was] of before) {
    if (was <= 0n) continue
    const is = after.get(measure) ?? 0n
    if (is === 0n || (was - is) * 100n > was * BigInt(percent)) return true
  }
  return false
}

/** Adds up the measures of readings, exactly. */
export class TotalsSum {
  readonly #sums = new Map<string, Sum>()

  add(measures: Readonly<Partial<Record<string, string>>>): void {
    for (const name in measures) {
      let sum = this.#sums.get(name)
      if (!sum) {
        sum = new Sum()
        this.#sums.set(name, sum)
      }
      sum.add(measures[name] ?? '0')
    }
  }

  totals(): Totals {
    return new Map(Array.from(this.#sums, ([name, sum]) => [name, sum.total()]))
  }
}

/** Adds up decimals of up to 12 places. Nearly all are whole, and small enough to be added as such. */
class Sum {
  #small = 0
  #whole = 0n
  #parts = 0n

  add(value: string): void {
    const point = value.indexOf('.')
    if (point < 0 && value.length < 12) {
      this.#small += Number(value)
      // Whole numbers below 2^53 are exact: carried over long before that.
      if (this.#small > 1e15) this.#carry()
    } else if (point < 0) this.#whole += BigInt(value)
    else {
      this.#whole += BigInt(value.slice(0, point))
      this.#parts += BigInt(value.slice(point + 1).padEnd(decimalPlacesMax, '0'))
    }
  }

  total(): bigint {
    this.#carry()
    return this.#whole * 10n ** BigInt(decimalPlacesMax) + this.#parts
  }

  #carry(): void {
    this.#whole += BigInt(this.#small)
    this.#small = 0
  }
}

/** Totals as decimals, for a table or a file. */
export function showTotals(totals: Totals): Record<string, string> {
  return Object.fromEntries(
    Array.from(totals, ([name, sum]) => {
      const digits = sum.toString().padStart(decimalPlacesMax + 1, '0')
      return [name, `${digits.slice(0, -decimalPlacesMax)}.${digits.slice(-decimalPlacesMax)}`]
    }),
  )
}

/** What `showTotals` wrote, or any decimals that are not negative and have at most 12 places. */
export function parseTotals(texts: Readonly<Record<string, string>>): Totals {
  return new Map(
    Object.entries(texts).map(([name, value]) => {
      const [whole = '0', parts = ''] = value.split('.')
      return [name, BigInt(whole + parts.padEnd(decimalPlacesMax, '0'))]
    }),
  )
}
