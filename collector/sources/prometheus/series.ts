/** A series: its labels, its samples, and how one is told from another. Pure. */
import type { Sample } from '../../samples.ts'

type Metric = Readonly<Record<string, string>>

/** A series with its samples, rising in time; `metric` are its labels, `__name__` among them. */
export interface Series {
  readonly metric: Metric
  readonly samples: readonly Sample[]
  /** Why its samples cannot be taken: they are native histograms, and nobody said what of them counts. */
  readonly unfit?: string
}

/** Its labels in one order: two answers may have them in two. */
export function keyOf(metric: Metric): string {
  return JSON.stringify(Object.entries(metric).sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** The first of `a|b` that the series has; undefined where it has none. */
export function labelOf(metric: Metric, alternatives: string): string | undefined {
  for (const name of alternatives.split('|')) {
    const text = Object.hasOwn(metric, name) ? metric[name] : undefined
    if (text !== undefined && text !== '') return text
  }
  return undefined
}

/** By what a series is found among others: each `name`, or `name=name there`. */
export function joinKeys(on: readonly string[]) {
  const pairs = on.map(pair => {
    const [here = '', there = here] = pair.split('=')
    return { here, there }
  })
  return {
    here: (metric: Metric) => JSON.stringify(pairs.map(pair => labelOf(metric, pair.here))),
    there: (metric: Metric) => JSON.stringify(pairs.map(pair => labelOf(metric, pair.there))),
  }
}
