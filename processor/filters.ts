/** Filters over one text, as a condition in SQL. Pure; every text that somebody wrote is bound, never written out. */
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

const comparisons = { $gt: '>', $gte: '>=', $lt: '<', $lte: '<=' } as const
const patterns = { $like: 'like', $nlike: 'not like', $ilike: 'ilike', $nilike: 'not ilike' } as const

/**
 * A condition that holds where the text fits the filter: a text must be equal, of an object all that it says must hold.
 * Order is that of the bytes of UTF-8. In patterns `%` is any text, `_` any character, and `\` takes the next one as it is.
 * @param expression a String in SQL, repeated in the condition: a column, not a computation
 * @throws Fault CONFIG_INVALID for a pattern that ends in a lone backslash, or a filter that says nothing
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
    if (/(?:^|[^\\])(?:\\\\)*\\$/.test(pattern))
      throw new Fault('CONFIG_INVALID', `the pattern ${pattern} ends in a backslash that stands for nothing`)
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
