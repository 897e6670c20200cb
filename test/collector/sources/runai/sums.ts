/** Sums of readings, exactly, for tests that hold totals against each other. */
import Fraction from 'fraction.js'
import { exact, show } from '../../../../schemas/decimal.ts'
import type { Usage } from '../../../../schemas/event.ts'

/** By resource and measure. */
export function sumsOf(usages: readonly Usage[]): Readonly<Record<string, string>> {
  const sums = new Map<string, Fraction>()
  for (const { resource, measures } of usages)
    for (const [measure, value] of Object.entries(measures)) {
      const key = `${resource.id} ${measure}`
      sums.set(key, (sums.get(key) ?? new Fraction(0)).add(exact(value)))
    }
  return Object.fromEntries(
    [...sums].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, sum]) => [key, show(sum)]),
  )
}
