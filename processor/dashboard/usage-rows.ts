/** What the API says of usage, put together for a chart: windows by groups, the largest groups first. Pure. */
import { added, compared } from './figures.ts'

/** A row of `GET /api/v1/usage`. */
export interface UsageRow {
  readonly unit: string
  readonly window_start: string
  readonly window_end: string
  readonly source?: string | null
  readonly subject?: string | null
  readonly group_by: Readonly<Record<string, string | null>>
  readonly value: string
  readonly split?: boolean
}

/** What a row is shown under. */
export interface Group {
  readonly key: string
  readonly name: string
  /** Over the whole span, as the API says. */
  readonly total: string
}

export interface Series {
  readonly groups: readonly Group[]
  /** How many more there are that are shown as one, or not at all. */
  readonly others: number
  readonly starts: readonly number[]
  /** By group and window; undefined where there is no usage. */
  readonly values: readonly (readonly (string | undefined)[])[]
  /** Some readings were cut at the edge of a window. */
  readonly isSplit: boolean
}

export const othersKey = '\u0000others'
export const noName = '(none)'

/** The value of a dim, or the tenant of a row. */
export function keyOf(row: UsageRow, by: string): string {
  if (by === 'tenant')
    return tenantKey(row.source ?? row.group_by.source, row.subject ?? row.group_by.subject)
  return row.group_by[by] ?? ''
}

/** A tenant is a subject of a source: two clusters both have a `default`. */
export function tenantKey(source: string | null | undefined, subject: string | null | undefined): string {
  return JSON.stringify([source ?? '', subject ?? ''])
}

/** Adds up rows that have the same key, in the order of their totals, largest first. */
export function totalsBy(
  rows: readonly UsageRow[],
  key: (row: UsageRow) => string,
): ReadonlyMap<string, string> {
  const values = new Map<string, string[]>()
  for (const row of rows) {
    const found = values.get(key(row)) ?? []
    values.set(key(row), found)
    found.push(row.value)
  }
  return new Map(
    [...values]
      .map(([name, found]) => [name, found.length === 1 ? found[0]! : added(found)] as const)
      .sort(([a, left], [b, right]) => compared(right, left) || (a < b ? -1 : 1)),
  )
}

/**
 * Rows by window and rows of the whole span, as a chart shows them. Of more groups than `groupsMax` the smallest are one,
 * where values can be added up, and else left out.
 */
export function seriesOf(
  rows: readonly UsageRow[],
  totals: readonly UsageRow[],
  options: {
    readonly by: string
    readonly starts: readonly number[]
    readonly groupsMax: number
    readonly isAdditive: boolean
    readonly nameOf: (key: string) => string
  },
): Series {
  const { by, groupsMax, isAdditive, nameOf } = options
  const all = [...totalsBy(totals, row => keyOf(row, by))].map(([key, total]) => ({
    key,
    name: nameOf(key),
    total,
  }))
  const shown = all.length > groupsMax ? all.slice(0, groupsMax - 1) : all
  const rest = all.slice(shown.length)
  const groups =
    rest.length === 0 || !isAdditive
      ? shown
      : [
          ...shown,
          { key: othersKey, name: `${rest.length} others`, total: added(rest.map(({ total }) => total)) },
        ]
  const starts = [...new Set([...options.starts, ...rows.map(row => Date.parse(row.window_start))])].sort(
    (a, b) => a - b,
  )
  const places = new Map(groups.map(({ key }, index) => [key, index]))
  const windows = new Map(starts.map((start, index) => [start, index]))
  const found = groups.map(() => starts.map((): string[] => []))
  for (const row of rows) {
    const place = places.get(keyOf(row, by)) ?? places.get(othersKey)
    const window = windows.get(Date.parse(row.window_start))
    if (place !== undefined && window !== undefined) found[place]?.[window]?.push(row.value)
  }
  return {
    groups,
    others: rest.length,
    starts,
    values: found.map(windowsOfGroup =>
      windowsOfGroup.map(values => (values.length > 1 ? added(values) : values[0])),
    ),
    isSplit: rows.some(({ split }) => split === true),
  }
}
