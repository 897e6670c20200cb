/**
 * Filters over one text, as a condition in SQL, and how values are bound. Pure; every text that somebody wrote is bound,
 * never written out.
 */
import { Fault } from '../schemas/fault.ts'
import type { FilterString } from '../schemas/meters.ts'

/** Binds a value and gives the placeholder that stands for it in the statement. */
export type Bind = (type: string, value: unknown) => string

/** Binds into `params`, under names that begin with `prefix`. */
export function binder(params: Record<string, unknown>, prefix: string): Bind {
  let bound = 0
  return (type, value) => {
    const name = `${prefix}${bound++}`
    params[name] = value
    return `{${name}:${type}}`
  }
}

/** Binds a list for each member of the rows that `types` names: the placeholders by name, in the order of `types`. */
export function bindColumns<Name extends string>(
  bind: Bind,
  rows: readonly Readonly<Record<NoInfer<Name>, unknown>>[],
  types: Readonly<Record<Name, string>>,
): Readonly<Record<Name, string>> {
  const bound = Object.entries<string>(types).map(([name, type]) => [
    name,
    bind(
      `Array(${type})`,
      rows.map(row => row[name as Name]),
    ),
  ])
  return Object.fromEntries(bound)
}

const comparisons = { $gt: '>', $gte: '>=', $lt: '<', $lte: '<=' } as const
const patterns = { $like: 'like', $nlike: 'not like', $ilike: 'ilike', $nilike: 'not ilike' } as const

/**
 * A condition that holds where the text fits the filter: a text must be equal, of an object all that it says must hold.
 * Order is that of the bytes of UTF-8. In patterns `%` is any text, `_` any character, and `\%`, `\_` and `\\` these themselves.
 * @param expression a String in SQL, repeated in the condition: a column, not a computation
 * @throws Fault CONFIG_INVALID for a pattern with another backslash, or a filter that says nothing
 */
export function filterSql(expression: string, filter: string | FilterString, bind: Bind): string {
  if (typeof filter === 'string') return `${expression} = ${bind('String', filter)}`
  const text = (value: string) => bind('String', value)
  const list = (values: readonly string[]) => bind('Array(String)', [...values])
  const conditions: string[] = []
  if (filter.$eq !== undefined) conditions.push(`${expression} = ${text(filter.$eq)}`)
  if (filter.$ne !== undefined) conditions.push(`${expression} != ${text(filter.$ne)}`)
  if (filter.$in !== undefined) conditions.push(`has(${list(filter.$in)}, ${expression})`)
  if (filter.$nin !== undefined) conditions.push(`not has(${list(filter.$nin)}, ${expression})`)
  for (const [name, operator] of Object.entries(patterns)) {
    const pattern = filter[name as keyof typeof patterns]
    if (pattern === undefined) continue
    if (!/^(?:[^\\]|\\[%_\\])*$/.test(pattern))
      throw new Fault('CONFIG_INVALID', `the pattern ${pattern} has a backslash before none of % _ and \\`)
    conditions.push(`${expression} ${operator} ${text(pattern)}`)
  }
  for (const [name, operator] of Object.entries(comparisons)) {
    const bound = filter[name as keyof typeof comparisons]
    if (bound !== undefined) conditions.push(`${expression} ${operator} ${text(bound)}`)
  }
  const parts = (filters: readonly FilterString[], between: string) =>
    `(${filters.map(part => filterSql(expression, part, bind)).join(` ${between} `)})`
  if (filter.$and?.length) conditions.push(parts(filter.$and, 'and'))
  if (filter.$or?.length) conditions.push(parts(filter.$or, 'or'))
  if (conditions.length === 0) throw new Fault('CONFIG_INVALID', 'a filter says at least one thing')
  return conditions.length === 1 ? (conditions[0] as string) : `(${conditions.join(' and ')})`
}

/** Does the text fit the filter? The same rule as `filterSql`, for one text at hand. */
export function fits(text: string, filter: string | FilterString): boolean {
  if (typeof filter === 'string') return text === filter
  const order = (other: string) => Buffer.compare(Buffer.from(text), Buffer.from(other))
  const { $eq, $ne, $in, $nin, $like, $nlike, $ilike, $nilike, $gt, $gte, $lt, $lte, $and, $or } = filter
  return (
    ($eq === undefined || text === $eq) &&
    ($ne === undefined || text !== $ne) &&
    ($in === undefined || $in.includes(text)) &&
    ($nin === undefined || !$nin.includes(text)) &&
    ($like === undefined || shape($like, 'su').test(text)) &&
    ($nlike === undefined || !shape($nlike, 'su').test(text)) &&
    ($ilike === undefined || shape($ilike, 'isu').test(text)) &&
    ($nilike === undefined || !shape($nilike, 'isu').test(text)) &&
    ($gt === undefined || order($gt) > 0) &&
    ($gte === undefined || order($gte) >= 0) &&
    ($lt === undefined || order($lt) < 0) &&
    ($lte === undefined || order($lte) <= 0) &&
    ($and === undefined || $and.every(part => fits(text, part))) &&
    ($or === undefined || $or.some(part => fits(text, part)))
  )
}

function shape(pattern: string, flags: string): RegExp {
  const parts = pattern.replace(/\\([%_\\])|[%_]|[\^$\\.*+?()[\]{}|/]/g, (all, literal?: string) => {
    if (literal !== undefined) return literal === '\\' ? '\\\\' : literal
    return all === '%' ? '.*' : all === '_' ? '.' : `\\${all}`
  })
  return new RegExp(`^${parts}$`, flags)
}
