/** What a meter's definition means in SQL: which rows of the ledger it looks at, and which value and dims it takes of each. */
import { asFault, Fault } from '../schemas/fault.ts'
import { measureNames } from '../schemas/measures.ts'
import type { Meter } from '../schemas/meters.ts'
import { parsePath, type Step } from '../schemas/paths.ts'
import { isOwnType } from '../schemas/pushed.ts'
import { binder, filterSql } from './filters.ts'
import { currentPushed } from './pushed.ts'
import { asOfEnd, currentReads } from './reads.ts'
import type { Params } from './store.ts'

export interface MeterSql {
  /** The meter's dims in the order of `dimNames`, each a String. */
  readonly dims: readonly string[]
  /** The Decimal(38, 12) that is aggregated; of UNIQUE_COUNT a String. */
  readonly value: string
  /** Has an event this value at all? */
  readonly has: string
  /** The text that stands where the value should be, and is no number within bounds; '' where there is none. */
  readonly unusable: string
  /** Which events are looked at: the same for all meters of a family. */
  readonly where: string
  readonly params: Params
}

/** The meter's dims in the order in which rollups keep them. */
export function dimNames(meter: Meter): readonly string[] {
  return Object.keys(meter.groupBy).sort()
}

/** The path of a dim; a filter may name a path in its place. */
function pathOf({ groupBy }: Meter, dim: string): string {
  return (Object.hasOwn(groupBy, dim) ? groupBy[dim] : undefined) ?? dim
}

/** Why a meter cannot be computed, in a sentence; undefined where it can. */
export function meterMisfit(meter: Meter): string | undefined {
  try {
    ledgerRows([meter], { range: at => at })
    return undefined
  } catch (error) {
    return asFault(error, 'CONFIG_INVALID').message
  }
}

/**
 * Meters of one family take the same dims of events of the same tables: one pass does for all, whatever each looks for there.
 * The key is equal for meters of one family.
 */
export function familyKey({ groupBy, eventTypes }: Meter): string {
  return JSON.stringify([
    inOrder(groupBy),
    eventTypes.some(isOwnType),
    eventTypes.some(type => !isOwnType(type)),
  ])
}

/** Equal for meters that look at the same events. */
export function lookKey({ eventTypes, filter = {} }: Meter): string {
  return JSON.stringify([[...eventTypes].sort(), inOrder(filter)])
}

function inOrder(record: Readonly<Record<string, unknown>>): readonly (readonly [string, unknown])[] {
  return Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1))
}

/** So many meters at most are computed in one pass: a statement has an end. */
const familyMax = 16

/** The families of these, each of a size for one pass. */
export function familiesOf<Of extends { readonly meter: Meter }>(
  all: readonly Of[],
): readonly (readonly Of[])[] {
  const families = Map.groupBy(all, ({ meter }) => familyKey(meter))
  return Array.from(families.values()).flatMap(family =>
    Array.from({ length: Math.ceil(family.length / familyMax) }, (_, at) =>
      family.slice(at * familyMax, (at + 1) * familyMax),
    ),
  )
}

/** Which rows of the ledger are looked at. */
export interface LedgerSpan {
  /**
   * A condition on the instant by which a row is placed, whose column is given: the start of a reading's window
   * (DateTime), the time of a pushed event (DateTime64(3)), both in UTC.
   */
  readonly range: (at: string) => string
  /** A further condition, on `source`, `subject` and that instant. */
  readonly and?: (at: string) => string
  /** `position`: as the ledger stood there, with the parameters of `positionParams`. */
  readonly asOf?: 'now' | 'position'
  /** The columns that are wanted; all unless it says so. What is not asked for need not be planned either. */
  readonly only?: ReadonlySet<string>
}

/** A select in parentheses, and its parameters. */
export interface LedgerRows {
  readonly sql: string
  readonly params: Params
}

/**
 * The current rows that a family of meters counts, readings and pushed events alike. Columns: `source`, `subject`, `hour`
 * (DateTime), `from_ms` and `to_ms` (Int64: when it was used inside its window, equal for what happened at an instant),
 * `at_ms` (Int64: by which LATEST orders, before `log`, `partition` and `offset`), `dims` (Array(String), in the order of
 * `dimNames`) and the same one by one as `dim0`…, and for meter number i `value<i>` (Decimal(38, 12); String for
 * UNIQUE_COUNT), `has<i>`, and `unusable<i>`: the text that stands for its value and is none, else ''.
 *
 * Readings are those of types `io.meterline.…`, which nobody may push; all other types are pushed events. A table that the
 * meters take no type of is not read.
 * @throws Fault CONFIG_INVALID for a path that names no place
 */
export function ledgerRows(meters: readonly Meter[], span: LedgerSpan): LedgerRows {
  const [first] = meters
  if (!first) throw new Error('a family has a meter')
  const parts: LedgerRows[] = []
  if (first.eventTypes.some(isOwnType)) parts.push(readingRows(meters, span))
  if (!first.eventTypes.every(isOwnType)) parts.push(pushedRows(meters, span))
  return {
    sql: `(${parts.map(part => part.sql).join(' union all ')})`,
    params: Object.assign({}, ...parts.map(part => part.params)),
  }
}

/** The columns that both kinds of rows have, in one order. */
function columnsOf(
  dims: readonly string[],
  values: readonly Taken[],
  more: Readonly<Record<string, string>>,
  only?: ReadonlySet<string>,
): string {
  const all: readonly (readonly [name: string, text: string])[] = [
    ...Object.entries(more),
    ['dims', `[${dims.join(', ')}]::Array(String)`],
    ...dims.map((text, index) => [`dim${index}`, text] as const),
    ...values.flatMap(({ value, has, unusable }, index) => [
      [`value${index}`, value] as const,
      [`has${index}`, has] as const,
      [`unusable${index}`, unusable] as const,
    ]),
  ]
  const some = only ? all.filter(([name]) => only.has(name)) : all
  return some.map(([name, text]) => `${text} as ${name}`).join(', ')
}

// -- readings

function readingRows(meters: readonly Meter[], { range, and, asOf = 'now', only }: LedgerSpan): LedgerRows {
  const params: Record<string, unknown> = {}
  const dims = readingDims(meters[0] as Meter, params)
  const looks = looksOf(meters, {
    name: 'types',
    types: ({ eventTypes }) => eventTypes.filter(isOwnType),
    filters: (meter, prefix) => readingFilters(meter, prefix, params),
    params,
  })
  const where = [range('start'), looks.type, ...looks.filters, ...(and ? [and('start')] : [])]
  const values = meters.map((meter, index) =>
    lookedAt(readingValue(meter, `measure${index}`, params), looks.each[index]),
  )
  const placed = {
    source: 'source',
    subject: 'subject',
    hour: 'toStartOfHour(start)',
    from_ms: 'toUnixTimestamp64Milli(used_start)',
    to_ms: 'toUnixTimestamp64Milli(used_end)',
    at_ms: 'toInt64(toUnixTimestamp(start)) * 1000',
    log: 'log',
    partition: 'partition',
    offset: 'offset',
  }
  const columns = columnsOf(dims, values, placed, only)
  return {
    sql: `select ${columns} from events final
      where ${where.join(' and ')}
        ${asOf === 'position' ? `and offset < ${asOfEnd}` : ''}
        and (source, scope, start, readat) in (${currentReads(range('start'), asOf)})`,
    params,
  }
}

/**
 * What a meter takes of the readings, as SQL on `events`.
 * @param name tells the parameters of this meter's value from those of another in one statement.
 * @throws Fault CONFIG_INVALID for a path that cannot be computed.
 */
export function meterSql(meter: Meter, name = 'measure'): MeterSql {
  const params: Record<string, unknown> = { types: meter.eventTypes.filter(isOwnType) }
  const where = ['type in ({types:Array(String)})', ...readingFilters(meter, 'filter', params)]
  const dims = readingDims(meter, params)
  return { dims, ...readingValue(meter, name, params), where: where.join(' and '), params }
}

function readingDims(meter: Meter, params: Record<string, unknown>): readonly string[] {
  return dimNames(meter).map((dim, index) => readingText(meter, pathOf(meter, dim), `dim${index}`, params))
}

function readingFilters(meter: Meter, prefix: string, params: Record<string, unknown>): readonly string[] {
  const bind = binder(params, prefix)
  return Object.entries(meter.filter ?? {}).map(([dim, filter], index) =>
    filterSql(readingText(meter, pathOf(meter, dim), `${prefix}ed${index}`, params), filter, bind),
  )
}

function readingValue(meter: Meter, name: string, params: Record<string, unknown>): Taken {
  if (meter.aggregation === 'COUNT') return each
  const path = meter.value ?? ''
  const measure = /^\$\.measures\.([a-z_]+)$/.exec(path)?.[1] ?? path
  const isMeasure = (measureNames as readonly string[]).includes(measure)
  if (isMeasure) params[name] = measure
  const there = `mapContains(measures, {${name}:String})`
  const quantity = `measures[{${name}:String}]`
  if (meter.aggregation === 'UNIQUE_COUNT') {
    const text = isMeasure
      ? `if(${there}, toString(${quantity}), '')`
      : readingText(meter, path, name, params)
    return textTaken(text)
  }
  if (isMeasure) return { value: quantity, has: there, unusable: "''" }
  return decimalTaken(readingText(meter, path, name, params))
}

type Taken = Pick<MeterSql, 'value' | 'has' | 'unusable'>

interface Looks {
  /** A condition on `type`: what any of them looks at. */
  readonly type: string
  /** Conditions that are those of all. */
  readonly filters: readonly string[]
  /** A condition for each; undefined where a meter looks at all that these let through. */
  readonly each: readonly (string | undefined)[]
}

/** Which events meters that are computed in one pass look at. */
function looksOf(
  meters: readonly Meter[],
  {
    name,
    types,
    filters,
    params,
  }: {
    /** Of the parameters. */
    readonly name: string
    readonly types: (meter: Meter) => readonly string[]
    readonly filters: (meter: Meter, prefix: string) => readonly string[]
    readonly params: Record<string, unknown>
  },
): Looks {
  const all = new Set(meters.flatMap(types))
  params[name] = Array.from(all)
  const type = `type in ({${name}:Array(String)})`
  const conditions = new Map<string, readonly string[]>()
  for (const meter of meters) {
    if (conditions.has(lookKey(meter))) continue
    const index = conditions.size
    const some = types(meter)
    const isOfSome = new Set(some).size < all.size
    if (isOfSome) params[`${name}${index}_`] = some
    conditions.set(lookKey(meter), [
      ...(isOfSome ? [`type in ({${name}${index}_:Array(String)})`] : []),
      ...filters(meter, `${name}Filter${index}_`),
    ])
  }
  const [only = [], ...others] = conditions.values()
  if (others.length === 0) return { type, filters: only, each: [] }
  const each = meters.map(meter => conditions.get(lookKey(meter))?.join(' and ') || undefined)
  return { type, filters: [], each }
}

/** What a meter takes of a row where its look says whether it looks at the row at all. */
function lookedAt(taken: Taken, look: string | undefined): Taken {
  if (look === undefined) return taken
  const { value, has, unusable } = taken
  return {
    value,
    has: has === 'true' ? `(${look})` : `((${look}) and ${has})`,
    unusable: unusable === "''" ? unusable : `if(${look}, ${unusable}, '')`,
  }
}

/** What COUNT takes of a row. */
const each: Taken = { value: 'toDecimal128(1, 12)', has: 'true', unusable: "''" }

function textTaken(text: string): Taken {
  return { value: text, has: `${text} != ''`, unusable: "''" }
}

function decimalTaken(text: string): Taken {
  const decimal = decimalSql(text)
  return {
    value: `ifNull(${decimal}, toDecimal128(0, 12))`,
    has: `${decimal} is not null`,
    unusable: `if(${decimal} is null, ${text}, '')`,
  }
}

const attributes: ReadonlyMap<string, string> = new Map([
  ['subject', 'subject'],
  ['scope', 'scope'],
  ['source', 'toString(source)'],
  ['$.resource.id', 'resource_id'],
  ['$.resource.name', 'resource_name'],
  ['$.resource.kind', 'toString(resource_kind)'],
])

/** A label by its name, an attribute, or a JSONPath into what the ledger keeps of `data`. */
function readingText(meter: Meter, text: string, param: string, params: Record<string, unknown>): string {
  const attribute = attributes.get(text)
  if (attribute) return attribute
  const path = parsePath(text)
  const [first, second, ...rest] = path.kind === 'data' ? path.steps : ['labels', path.name]
  if (first === 'labels' && typeof second === 'string' && rest.length === 0) {
    params[param] = second
    return `labels[{${param}:String}]`
  }
  // A meter of pushed events too takes nothing there of a reading.
  if (!meter.eventTypes.every(isOwnType)) return "''"
  throw new Fault('CONFIG_INVALID', `meter ${meter.slug}: the path ${text} is not one that readings have`, {
    meter: meter.slug,
  })
}

// -- pushed events

const pushedAttributes: ReadonlyMap<string, string> = new Map([
  ['subject', 'subject'],
  ['source', 'source'],
  ['scope', "''"],
])

function pushedRows(meters: readonly Meter[], { range, and, asOf = 'now', only }: LedgerSpan): LedgerRows {
  const [first] = meters as readonly [Meter, ...Meter[]]
  const params: Record<string, unknown> = {}
  const bind = binder(params, 'place')
  /** Each path is taken out of the data once. */
  const texts = new Map<string, string>()
  const textOf = (path: string) => {
    const attribute = pushedAttributes.get(path)
    if (attribute) return attribute
    const name = texts.get(path) ?? `text${texts.size}`
    texts.set(path, name)
    return name
  }
  const dims = dimNames(first).map(dim => textOf(pathOf(first, dim)))
  const looks = looksOf(meters, {
    name: 'pushedTypes',
    types: ({ eventTypes }) => eventTypes.filter(type => !isOwnType(type)),
    filters: (meter, prefix) => {
      const filterBind = binder(params, prefix)
      return Object.entries(meter.filter ?? {}).map(([dim, filter]) =>
        filterSql(textOf(pathOf(meter, dim)), filter, filterBind),
      )
    },
    params,
  })
  const values = meters.map(({ aggregation, value = '' }, index) => {
    if (aggregation === 'COUNT') return lookedAt(each, looks.each[index])
    const text = textOf(value)
    const taken = aggregation === 'UNIQUE_COUNT' ? textTaken(text) : decimalTaken(text)
    return lookedAt(taken, looks.each[index])
  })
  const atMs = 'toUnixTimestamp64Milli(time)'
  const placed = {
    source: 'source',
    subject: 'subject',
    hour: "toStartOfHour(toDateTime(time, 'UTC'))",
    from_ms: atMs,
    to_ms: atMs,
    at_ms: atMs,
    log: 'log',
    partition: 'partition',
    offset: 'offset',
  }
  const columns = columnsOf(dims, values, placed, only)
  const within = (at: string) => `${range(at)} and ${looks.type}${and ? ` and ${and(at)}` : ''}`
  const extracted = Array.from(texts, ([path, name]) => `${dataText(path, bind)} as ${name}`)
  const plain = 'type, source, subject, time, log, partition, offset'
  return {
    sql: `select ${columns} from (
        select ${[plain, ...extracted].join(', ')} from (
          select ${plain}, ${quotedSql('data')} as json from ${currentPushed(within('time'), asOf)}))
      ${looks.filters.length > 0 ? `where ${looks.filters.join(' and ')}` : ''}`,
    params,
  }
}

/**
 * JSON in which every number became a text of the same digits: whatever reads JSON in ClickHouse makes doubles of
 * numbers, and takes none at all of a document with one that is longer than 64 bits. Half a character (a lone surrogate),
 * which it refuses too, is left out.
 */
function quotedSql(json: string): string {
  // Texts are passed over whole. No control character stands raw in JSON, so two of them may mark what was a number.
  const marked = String.raw`replaceRegexpAll(${json}, '("(?:[^"\\\\]|\\\\.)*")|(-?[0-9][-+.0-9eE]*)', '\\1\x01\\2\x02')`
  const quoted = String.raw`replaceAll(replaceAll(replaceAll(${marked}, '\x01\x02', ''), '\x01', '"'), '\x02', '"')`
  const halves = String.raw`replaceRegexpAll(${quoted}, '(\\\\u[dD][89a-fA-F][0-9a-fA-F]{2})|(\\\\.)', '\\2')`
  return String.raw`if(position(${json}, '\\ud') > 0, ${halves}, ${quoted})`
}

/** The text at a place of the data: of a text, a number or a truth value; '' where none of these stands there. */
function dataText(text: string, bind: (type: string, value: unknown) => string): string {
  const path = parsePath(text)
  const steps: readonly Step[] = path.kind === 'data' ? path.steps : [path.name]
  const args = ['json', ...steps.map(by => (typeof by === 'number' ? String(by + 1) : bind('String', by)))]
  const at = args.join(', ')
  // A number would take a place in an object too, as if that were a list.
  const lists = steps.flatMap((by, index) =>
    typeof by === 'number' ? [`JSONType(${args.slice(0, index + 1).join(', ')}) = 'Array'`] : [],
  )
  const value = `multiIf(JSONType(${at}) = 'String', JSONExtractString(${at}), JSONType(${at}) = 'Bool', JSONExtractRaw(${at}), '')`
  return lists.length === 0 ? value : `if(${lists.join(' and ')}, ${value}, '')`
}

/**
 * A text as Nullable(Decimal(38, 12)), exactly: a number as JSON writes it, with or without exponent. NULL for any other
 * text, and beyond 1e24 or 12 decimals: the rule of `decimalOfJsonNumber`. ClickHouse by itself would cut decimals off.
 */
export function decimalSql(text: string): string {
  // Most are plain and short. For the others: the digits, and how many places they move for a whole number of 1e-12.
  const plain = `match(${text}, '^-?(?:0|[1-9][0-9]{0,23})(?:[.][0-9]{1,12})?$')`
  const parts = `extractGroups(${text}, '^(-?)(0|[1-9][0-9]*)(?:[.]([0-9]+))?(?:[eE]([-+]?[0-9]+))?$')`
  const shifted = `if(shift >= 0, concat(digits, repeat('0', toUInt64(shift))),
    if(match(substring(digits, greatest(1, length(digits) + shift + 1)), '^0*$'), substring(digits, 1, greatest(0, length(digits) + shift)), 'x'))`
  const filled = "concat(repeat('0', toUInt64(greatest(0, 13 - toInt64(length(w))))), w)"
  const pointed = `arrayMap(w -> if(length(w) > 36, '', concat(p[1], substring(w, 1, length(w) - 12), '.', substring(w, length(w) - 11))),
    arrayMap(w -> ${filled}, [trimLeft(${shifted}, '0')]))[1]`
  const moved = `arrayMap((digits, shift) -> ${pointed}, [concat(p[2], p[3])], [12 - toInt64(length(p[3])) + toInt64OrZero(p[4])])[1]`
  const slow = `arrayMap(p -> if(length(p) != 4 or abs(toInt64OrZero(p[4])) > 100, '', ${moved}), [${parts}])[1]`
  return `toDecimal128OrNull(if(${plain}, ${text}, ${slow}), 12)`
}
