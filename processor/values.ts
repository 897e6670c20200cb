/** Whether what is pushed has numbers within bounds where meters look for their value: before it is in the ledger. Pure. */
import { decimalOfJsonNumber } from '../schemas/decimal.ts'
import { Fault } from '../schemas/fault.ts'
import type { FilterString, Meter } from '../schemas/meters.ts'
import { parsePath, type Step, valueAt } from '../schemas/paths.ts'
import { isOwnType } from '../schemas/pushed.ts'
import { fits } from './filters.ts'

/** What is looked at of a pushed event. */
export interface Content {
  readonly type: string
  readonly source: string
  readonly subject: string
  /** As `decodeKafka` gives it: a number that a double cannot hold is raw JSON. */
  readonly data: unknown
}

/** @throws Fault VALUE_OUT_OF_BOUNDS naming the meter and its path */
export type ValueCheck = (content: Content) => void

interface Metered {
  readonly slug: string
  readonly path: string
  readonly textOf: TextOf
  readonly filters: readonly { readonly textOf: TextOf; readonly filter: string | FilterString }[]
}

type TextOf = (content: Content) => string | undefined

/**
 * Holds events against the meters that are known: an event that a meter counts must have there nothing (then it does not
 * count), or a number within bounds, bare or as text. Anything else would be usage that nobody is billed for, so it is
 * rejected, where it is listed and can be mended. COUNT and UNIQUE_COUNT take anything.
 */
export function valueCheck(meters: readonly Meter[]): ValueCheck {
  const byType = new Map<string, Metered[]>()
  for (const { slug, aggregation, value, eventTypes, groupBy, filter = {} } of meters) {
    if (aggregation === 'COUNT' || aggregation === 'UNIQUE_COUNT' || value === undefined) continue
    const filters = Object.entries(filter).map(([dim, wanted]) => ({
      textOf: textAt(groupBy[dim] ?? dim),
      filter: wanted,
    }))
    for (const type of eventTypes) {
      if (isOwnType(type)) continue
      const metered = byType.get(type) ?? []
      byType.set(type, metered)
      metered.push({ slug, path: value, textOf: textAt(value), filters })
    }
  }
  return content => {
    for (const { slug, path, textOf, filters } of byType.get(content.type) ?? []) {
      const text = textOf(content)
      if (text === '') continue
      if (!filters.every(({ textOf, filter }) => fits(textOf(content) ?? '', filter))) continue
      const where = `meter ${slug} wants a number at ${path}`
      if (text === undefined)
        throw new Fault('VALUE_OUT_OF_BOUNDS', `${where}, and there stands an object or a list`, {
          meter: slug,
        })
      try {
        decimalOfJsonNumber(text)
      } catch (error) {
        throw new Fault('VALUE_OUT_OF_BOUNDS', `${where}: ${(error as Error).message}`, { meter: slug })
      }
    }
  }
}

/** The text that stands there, '' where nothing does, and undefined where it is more than one. */
function textAt(text: string): TextOf {
  if (text === 'subject' || text === 'source') return content => content[text]
  if (text === 'scope') return () => ''
  const path = parsePath(text)
  const steps: readonly Step[] = path.kind === 'data' ? path.steps : [path.name]
  return ({ data }) => {
    const value = valueAt(data, steps)
    if (value === undefined || value === null) return ''
    if (typeof value === 'object') return isRawJSON(value) ? value.rawJSON : undefined
    return String(value)
  }
}

// In Node 26, and not yet in TypeScript's library.
const { isRawJSON } = JSON as unknown as {
  readonly isRawJSON: (value: unknown) => value is { readonly rawJSON: string }
}
