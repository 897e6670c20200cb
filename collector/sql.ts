/**
 * What the sources that ask a database have in common: the options of a query, how its columns are found by name, and how
 * rows become usages, each resource summed exactly; and the source that is made of them. How a database is asked is each
 * one's own.
 */
import Type, { type Static } from 'typebox'
import { Secret } from '../schemas/config.ts'
import { isBoundedDecimal } from '../schemas/decimal.ts'
import type { Usage } from '../schemas/event.ts'
import { Fault } from '../schemas/fault.ts'
import { type MeasureName, measureNames } from '../schemas/measures.ts'
import {
  dayMs,
  type GridMinutes,
  gridMinutes,
  instantMs,
  showWindow,
  type Window,
} from '../schemas/window.ts'
import { checkKnowable, rereadsAfter, stopIfAborted } from './asking.ts'
import type { Findings, Source } from './source.ts'
import { type BoundSql, bindPlaceholders, type Dialect, type Placeholder } from './sql-text.ts'

const strict = { additionalProperties: false }
const Column = (description: string) => Type.String({ minLength: 1, maxLength: 256, description })
export const Seconds = (description: string, initial: number, maximum: number) =>
  Type.Integer({ minimum: 1, maximum, default: initial, description })

/** A SELECT, and what its columns are. */
export const SqlQuery = Type.Object(
  {
    name: Type.String({
      pattern: '^[A-Za-z0-9._-]{1,128}$',
      description: 'Its name: the scope of its readings, so another name is another scope.',
    }),
    sql: Type.String({
      minLength: 1,
      maxLength: 100_000,
      description:
        'One SELECT of the rows that count in the window [:start, :end). It may page by a key: `:after` is the last value of the column `after`, NULL at first, `:limit` is pageSize.',
    }),
    thing: Type.String({
      pattern: '^[a-z0-9_-]{1,64}$',
      default: 'usage',
      description: 'The last word of the event type: `instance` for io.meterline.<kind>.instance.v1.',
    }),
    subject: Column('Column with the tenant, by an id that never changes.'),
    resource: Type.Object(
      {
        kind: Type.String({
          minLength: 1,
          maxLength: 64,
          pattern: '^[^\\u0000-\\u001f\\u007f-\\u009f]+$',
          default: 'row',
          description: 'What it is, one word for all rows: instance, volume …',
        }),
        kindColumn: Type.Optional(Column('Column that says what it is, instead of `kind`.')),
        id: Column('Column with its id. Rows of one subject, kind and id in a window are summed.'),
        name: Type.Optional(Column('Column with what people call it.')),
      },
      { ...strict, description: 'What was used.' },
    ),
    measures: Type.Partial(
      Type.Object(
        Object.fromEntries(
          measureNames.map(name => [name, Column('Column with this quantity, over the window.')]),
        ) as Record<MeasureName, ReturnType<typeof Column>>,
      ),
      { ...strict, minProperties: 1, description: 'Measures, and the column of each. NULL is refused.' },
    ),
    labels: Type.Record(Type.String({ pattern: '^[a-z][a-z0-9_]{0,63}$' }), Column('Column with its text.'), {
      ...strict,
      maxProperties: 64,
      default: {},
      description: 'Labels to group and price by, and the column of each. NULL leaves a label out.',
    }),
    time: Type.Optional(
      Column('Column with the time of a row: one outside of the window shows that the query is wrong.'),
    ),
    interval: Type.Optional(
      Type.Object(
        { start: Column('Column with its start.'), end: Column('Column with its end.') },
        { ...strict, description: 'The time really used, cut to the window by the query.' },
      ),
    ),
    after: Type.Optional(
      Column('Column of the key by which the query pages: unique, and the one it is ordered by.'),
    ),
  },
  { ...strict, description: 'A query: each is a scope of its own.' },
)
export type SqlQuery = Static<typeof SqlQuery>

/** The options of every source that asks a database. */
export const sqlOptions = {
  queries: Type.Array(SqlQuery, { minItems: 1, maxItems: 1000, description: 'What to ask, each a scope.' }),
  windowMinutes: Type.Enum([...gridMinutes], { default: 15, description: 'Width of the windows.' }),
  rereadAfterMinutes: Type.Array(Type.Integer({ minimum: 1, maximum: 100_000 }), {
    default: [60, 1440],
    minItems: 1,
    description:
      'When a window is read again, counted from its end, for rows that were committed late: the last one is the latest that counts by itself.',
  }),
  retentionDays: Type.Integer({
    default: 3650,
    minimum: 1,
    maximum: 36_500,
    description: 'How far back the tables hold everything: windows before are faulted, not taken for empty.',
  }),
  concurrency: Type.Integer({
    default: 2,
    minimum: 1,
    maximum: 64,
    description: 'How many queries run at once.',
  }),
  pageSize: Type.Integer({
    default: 1000,
    minimum: 1,
    maximum: 100_000,
    description: 'Rows to take at a time.',
  }),
  statementSeconds: Seconds('How long a statement may run.', 120, 3600),
}

/** A query of the config, ready to be asked. */
export interface PreparedQuery {
  readonly query: SqlQuery
  readonly bound: BoundSql
}

/**
 * The queries by their names.
 * @throws Fault CONFIG_INVALID naming the query and what is wrong with it
 */
export function prepareQueries(
  queries: readonly SqlQuery[],
  dialect: Dialect,
  write: (name: Placeholder) => string,
): ReadonlyMap<string, PreparedQuery> {
  const prepared = new Map<string, PreparedQuery>()
  for (const query of queries) {
    const wrong = (what: string) => new Fault('CONFIG_INVALID', `query ${query.name}: ${what}`)
    if (prepared.has(query.name)) throw wrong('there are two of this name')
    let bound: BoundSql
    try {
      bound = bindPlaceholders(query.sql, dialect, write)
    } catch (error) {
      throw error instanceof Fault ? wrong(error.message) : error
    }
    const { used } = bound
    if (!used.has('start') || !used.has('end'))
      throw wrong('it must say `:start` and `:end`, or every window would have the same rows')
    if (used.has('after') !== (query.after !== undefined))
      throw wrong('`:after` in it and the option `after` go together')
    if (used.has('limit') && !used.has('after')) throw wrong('`:limit` without `:after` would leave rows out')
    prepared.set(query.name, { query, bound })
  }
  return prepared
}

/** A value as the database wrote it, NULL, or undefined where it is no single value (a list, an object). */
export type SqlValue = string | null | undefined
export type SqlRow = readonly SqlValue[]

/** The rows of one resource in a window, added up; or why it, or a row that names none, cannot be taken. */
export interface SqlItem {
  readonly query: SqlQuery
  readonly subject?: string
  readonly kind?: string
  readonly id?: string
  readonly name?: string
  readonly sums: ReadonlyMap<MeasureName, Scaled>
  readonly labels: Readonly<Record<string, string>>
  readonly interval?: Window
  readonly parts: number
  readonly problem?: string
}

/** units × 10⁻ᵖˡᵃᶜᵉˢ, exactly. */
export interface Scaled {
  readonly units: bigint
  readonly places: number
}

/** After so many rows that name no resource, a read is given up by who takes its items. */
const namelessMax = 1001

/**
 * Adds rows to resources as they come: memory is that of the resources, however many rows they have.
 */
export class ResourceSums {
  readonly #query: SqlQuery
  readonly #window: Window
  readonly #columns: Columns
  readonly #byResource = new Map<string, Group>()
  readonly #nameless: SqlItem[] = []
  #lastKey: string | undefined

  /** @throws Fault SOURCE_REFUSED where the answer lacks a column that is mapped */
  constructor(query: SqlQuery, window: Window, columns: readonly string[]) {
    this.#query = query
    this.#window = window
    this.#columns = columnsOf(query, columns)
  }

  /** The key of the row added last, for `:after`. */
  get lastKey(): string | undefined {
    return this.#lastKey
  }

  /** @throws Fault SOURCE_REFUSED where the row shows that the query is wrong */
  add(row: SqlRow): void {
    const query = this.#query
    const columns = this.#columns
    if (columns.after !== undefined) this.#advance(row[columns.after])
    const problems: string[] = []
    this.#checkTime(row, problems)
    const subject = identity(row[columns.subject], query.subject, 512, problems)
    const kind =
      columns.kind === undefined
        ? query.resource.kind
        : identity(row[columns.kind], query.resource.kindColumn ?? '', 64, problems)
    const id = identity(row[columns.id], query.resource.id, 1024, problems)
    if (subject === undefined || kind === undefined || id === undefined) {
      if (this.#nameless.length < namelessMax)
        this.#nameless.push({
          query,
          ...(subject !== undefined && { subject }),
          ...(id !== undefined && { id }),
          sums: new Map(),
          labels: {},
          parts: 1,
          problem: problems[0] ?? 'it names no resource',
        })
      return
    }
    const key = JSON.stringify([subject, kind, id])
    const group = this.#byResource.get(key)
    if (group) addTo(group, this.#read(row, problems), problems)
    else
      this.#byResource.set(key, {
        query,
        subject,
        kind,
        id,
        parts: 1,
        ...this.#read(row, problems),
        ...(problems[0] !== undefined && { problem: problems[0] }),
      })
  }

  *items(): Generator<SqlItem> {
    yield* this.#nameless
    yield* this.#byResource.values()
  }

  /** A key that stays, or is NULL, would page for ever or leave rows out. */
  #advance(value: SqlValue): void {
    const { name, after = '' } = this.#query
    if (typeof value !== 'string')
      throw refused(name, `its key ${after} is ${value === null ? 'NULL' : 'no single value'}`)
    if (value === this.#lastKey)
      throw refused(name, `its key ${after} is the same in two rows: it must tell them apart`)
    this.#lastKey = value
  }

  #checkTime(row: SqlRow, problems: string[]): void {
    const column = this.#columns.time
    if (column === undefined) return
    const { name, time = '' } = this.#query
    const instant = instantOf(row[column])
    // Edges are whole milliseconds, so what is finer does not change on which side of one an instant is.
    if (!instant) problems.push(`${time} ${unfit(row[column])}, no time`)
    else if (instant.floorMs < this.#window.startMs || instant.floorMs >= this.#window.endMs)
      throw refused(
        name,
        `it gave a row whose ${time} is ${shown(row[column] ?? '')}, outside of its window ${showWindow(this.#window)}: compare it with :start (>=) and :end (<)`,
      )
  }

  #read(row: SqlRow, problems: string[]): Pick<Group, 'sums' | 'labels' | 'name' | 'interval'> {
    const query = this.#query
    const columns = this.#columns
    const sums = new Map<MeasureName, Scaled>()
    for (const [measure, column, at] of columns.measures) {
      const value = row[at]
      const quantity = typeof value === 'string' ? scaledOf(value) : undefined
      if (quantity) sums.set(measure, quantity)
      else problems.push(`${column} ${unfit(value)}, no quantity`)
    }
    const labels: Record<string, string> = {}
    for (const [label, column, at] of columns.labels) {
      const value = row[at]
      if (typeof value === 'string' && value.length <= 4096) labels[label] = value
      else if (value !== null)
        problems.push(`${column} ${typeof value === 'string' ? 'is longer than 4096' : unfit(value)}`)
    }
    const name = columns.name === undefined ? undefined : row[columns.name]
    const interval =
      columns.interval && query.interval
        ? this.#interval(row[columns.interval[0]], row[columns.interval[1]], problems)
        : undefined
    return {
      sums,
      labels,
      ...(typeof name === 'string' && name !== '' && { name }),
      ...(interval && { interval }),
    }
  }

  /** To the millisecond, outwards: edges by which it is split are no finer. */
  #interval(from: SqlValue, to: SqlValue, problems: string[]): Window | undefined {
    const { start = '', end = '' } = this.#query.interval ?? {}
    const first = instantOf(from)
    const last = instantOf(to)
    if (!first) problems.push(`${start} ${unfit(from)}, no time`)
    if (!last) problems.push(`${end} ${unfit(to)}, no time`)
    if (!first || !last) return undefined
    const interval = { startMs: first.floorMs, endMs: last.ceilMs }
    if (interval.startMs < this.#window.startMs || interval.endMs > this.#window.endMs)
      problems.push(
        `${start} to ${end} reaches out of its window: cut both, and the quantities, with greatest(…, :start) and least(…, :end)`,
      )
    else if (interval.startMs >= interval.endMs) problems.push(`${end} is not after ${start}`)
    else return interval
    return undefined
  }
}

/** The usage of a resource. @throws Fault ITEM_UNREADABLE with its subject, where that can be read */
export function usageOfSql(item: SqlItem): Usage {
  const { query, subject, kind, id, name, interval, parts } = item
  const unreadable = (what: string) =>
    new Fault(
      'ITEM_UNREADABLE',
      `query ${query.name}, ${subject === undefined ? 'a row' : `subject ${shown(subject)}`}${id === undefined ? '' : `, resource ${shown(id)}`}: ${what}`,
      {
        query: query.name,
        ...(subject !== undefined && { subject }),
        ...(id !== undefined && { resource: id }),
      },
    )
  if (item.problem !== undefined || subject === undefined || kind === undefined || id === undefined)
    throw unreadable(item.problem ?? 'it names no resource')
  const measures: Partial<Record<MeasureName, string>> = {}
  for (const [measure, sum] of item.sums) {
    const text = showScaled(sum)
    if (text.startsWith('-')) throw unreadable(`${query.measures[measure]} is ${shown(text)}, below zero`)
    if (!isBoundedDecimal(text))
      throw unreadable(
        `${query.measures[measure]} is ${shown(text)}, beyond 1e24 or of more than 12 decimals: round it in the query`,
      )
    measures[measure] = text
  }
  return {
    thing: query.thing,
    subject,
    resource: { kind, id, ...(name !== undefined && { name }) },
    measures,
    labels: item.labels,
    ...(interval && { interval }),
    ...(parts > 1 && { parts }),
  }
}

/** What of a source of queries is each database's own. */
export interface SqlDatabase {
  readonly queries: ReadonlyMap<string, PreparedQuery>
  /**
   * Every row that a query gives for a window, summed, once the database's own clock says that the window is over there:
   * see `checkClock`.
   */
  sums(prepared: PreparedQuery, window: Window, signal: AbortSignal): Promise<ResourceSums>
  check(signal: AbortSignal): Promise<Findings>
  close(): PromiseLike<void>
}

/** A source whose scopes are queries. */
export function sqlSource(
  config: Parameters<typeof widthOf>[0] & {
    readonly rereadAfterMinutes: readonly number[]
    readonly retentionDays: number
    readonly concurrency: number
  },
  database: SqlDatabase,
  nowMs: () => number,
): Source<SqlItem> {
  const { queries } = database
  const { retentionDays, concurrency } = config
  return {
    widthMinutes: widthOf(config),
    rereadAfterMs: rereadsAfter(config.rereadAfterMinutes),
    retentionMs: retentionDays * dayMs,
    concurrency,
    async scopes(signal) {
      stopIfAborted(signal)
      return [...queries.keys()].map(scope => ({ scope }))
    },
    async *read(scope, window, signal) {
      stopIfAborted(signal)
      const prepared = queries.get(scope)
      if (!prepared) throw new Fault('SOURCE_MISSING', `there is no query ${scope} any more`, { scope })
      checkKnowable(scope, window, { nowMs: nowMs(), retentionDays })
      const sums = await database.sums(prepared, window, signal)
      for (const item of sums.items()) {
        stopIfAborted(signal)
        yield item
      }
    },
    toUsage: item => [usageOfSql(item)],
    check: signal => database.check(signal),
    [Symbol.asyncDispose]: () => database.close(),
  }
}

/** What a database is shown and trusts; each is read anew at each connection. */
export const SqlTls = {
  ca: Type.Optional(Secret('The authority that signed the certificate of the server, PEM.')),
  cert: Type.Optional(Secret('A certificate of our own, PEM.')),
  key: Type.Optional(Secret('Its key, PEM.')),
}

export function tlsFilesOf(
  tls: { readonly ca?: string; readonly cert?: string; readonly key?: string },
  secret: (reference: string) => string,
): { readonly ca?: string; readonly cert?: string; readonly key?: string } {
  return {
    ...(tls.ca !== undefined && { ca: secret(tls.ca) }),
    ...(tls.cert !== undefined && { cert: secret(tls.cert) }),
    ...(tls.key !== undefined && { key: secret(tls.key) }),
  }
}

/** A window is over when it is over where its rows are written. */
export function checkClock(scope: string, window: Window, databaseMs: number, whose: string): void {
  // Not `<`: a clock that says nothing ends no window either.
  if (!(databaseMs >= window.endMs))
    throw new Fault(
      'WINDOW_UNKNOWABLE',
      `${showWindow(window)} is not over yet by ${whose}, which says ${Number.isNaN(databaseMs) ? 'nothing' : new Date(databaseMs).toISOString()}`,
      { scope },
    )
}

export function refused(query: string, what: string): Fault {
  return new Fault('SOURCE_REFUSED', `query ${query}: ${what}`, { query })
}

export function widthOf(config: { readonly windowMinutes: number }): GridMinutes {
  return config.windowMinutes as GridMinutes
}

// -- columns

interface Columns {
  readonly subject: number
  readonly kind: number | undefined
  readonly id: number
  readonly name: number | undefined
  readonly measures: readonly (readonly [MeasureName, string, number])[]
  readonly labels: readonly (readonly [string, string, number])[]
  readonly time: number | undefined
  readonly interval: readonly [number, number] | undefined
  readonly after: number | undefined
}

/** The columns that a query maps and its answer lacks, or has twice. */
export function missingColumns(query: SqlQuery, columns: readonly string[]): readonly string[] {
  return mappedColumns(query).filter(column => columns.filter(name => name === column).length !== 1)
}

function mappedColumns(query: SqlQuery): readonly string[] {
  const { resource, interval } = query
  const all = [
    query.subject,
    resource.kindColumn,
    resource.id,
    resource.name,
    ...Object.values(query.measures),
    ...Object.values(query.labels),
    query.time,
    interval?.start,
    interval?.end,
    query.after,
  ]
  return [...new Set(all.filter(column => column !== undefined))]
}

function columnsOf(query: SqlQuery, names: readonly string[]): Columns {
  const missing = missingColumns(query, names)
  if (missing.length > 0)
    throw refused(
      query.name,
      missing
        .map(column => `its answer has ${names.includes(column) ? 'two columns' : 'no column'} ${column}`)
        .join(', '),
    )
  const at = (column: string) => names.indexOf(column)
  const maybe = (column: string | undefined) => (column === undefined ? undefined : at(column))
  return {
    subject: at(query.subject),
    kind: maybe(query.resource.kindColumn),
    id: at(query.resource.id),
    name: maybe(query.resource.name),
    measures: Object.entries(query.measures).map(
      ([measure, column]) => [measure as MeasureName, column, at(column)] as const,
    ),
    labels: Object.entries(query.labels).map(([label, column]) => [label, column, at(column)] as const),
    time: maybe(query.time),
    interval: query.interval && [at(query.interval.start), at(query.interval.end)],
    after: maybe(query.after),
  }
}

// -- rows

type Group = { -readonly [Key in keyof SqlItem]: SqlItem[Key] } & { sums: Map<MeasureName, Scaled> }

function addTo(
  group: Group,
  row: Pick<Group, 'sums' | 'labels' | 'name' | 'interval'>,
  problems: string[],
): void {
  group.parts += 1
  for (const [measure, value] of row.sums) {
    const sum = group.sums.get(measure)
    group.sums.set(measure, sum ? plus(sum, value) : value)
  }
  // Which of two values a quantity is priced by must not depend on which row came first.
  for (const label of Object.keys(group.query.labels))
    if (group.labels[label] !== row.labels[label])
      problems.push(
        `its rows differ in ${group.query.labels[label]}: make it part of the resource's id, or leave the label out`,
      )
  if (row.name !== undefined && (group.name === undefined || row.name > group.name)) group.name = row.name
  if (group.interval && row.interval)
    group.interval = {
      startMs: Math.min(group.interval.startMs, row.interval.startMs),
      endMs: Math.max(group.interval.endMs, row.interval.endMs),
    }
  if (problems[0] !== undefined) group.problem ??= problems[0]
}

/** Control characters are in no attribute of an event. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: that is what it looks for
const control = /[\u0000-\u001f\u007f-\u009f]/

function identity(
  value: SqlValue,
  column: string,
  lengthMax: number,
  problems: string[],
): string | undefined {
  if (typeof value === 'string' && value !== '' && value.length <= lengthMax && !control.test(value))
    return value
  const why =
    typeof value !== 'string' || value === ''
      ? unfit(value)
      : value.length > lengthMax
        ? `is longer than ${lengthMax}`
        : 'has control characters'
  problems.push(`${column} ${why}`)
  return undefined
}

function unfit(value: SqlValue): string {
  if (value === null) return 'is NULL'
  if (value === undefined) return 'is no single value'
  return value === '' ? 'is empty' : `is "${shown(value)}"`
}

function shown(text: string): string {
  const line = text.replace(/\p{C}+/gu, ' ')
  return line.length > 60 ? `${line.slice(0, 60)}…` : line
}

// -- values

const decimalShape = /^([+-]?)(\d{1,400})(?:\.(\d{0,400}))?(?:[eE]([+-]?\d{1,3}))?$/

/** The decimal that a database wrote, digit for digit; undefined for NaN, Infinity and all that is none. */
export function scaledOf(text: string): Scaled | undefined {
  const match = decimalShape.exec(text)
  if (!match) return undefined
  const [, sign, whole = '', fraction = '', exponent = '0'] = match
  const kept = fraction.replace(/0+$/, '')
  const digits = BigInt(whole + kept)
  const places = kept.length - Number(exponent)
  const units = places < 0 ? digits * 10n ** BigInt(-places) : digits
  return { units: sign === '-' ? -units : units, places: Math.max(places, 0) }
}

function plus(a: Scaled, b: Scaled): Scaled {
  const places = Math.max(a.places, b.places)
  const at = (value: Scaled) =>
    value.places === places ? value.units : value.units * 10n ** BigInt(places - value.places)
  return { units: at(a) + at(b), places }
}

function showScaled({ units, places }: Scaled): string {
  const digits = (units < 0n ? -units : units).toString().padStart(places + 1, '0')
  const whole = digits.slice(0, digits.length - places)
  const fraction = digits.slice(digits.length - places).replace(/0+$/, '')
  return `${units < 0n ? '-' : ''}${whole}${fraction === '' ? '' : `.${fraction}`}`
}

interface Instant {
  readonly floorMs: number
  readonly ceilMs: number
}

const instantShape =
  /^(\d{4}-\d{2}-\d{2})(?:[ T](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?)?(Z|[+-]\d{2}(?::?\d{2})?)?$/

/** A time as a database writes it; without an offset it is UTC, which is what its session is set to. */
function instantOf(value: SqlValue): Instant | undefined {
  const match = typeof value === 'string' ? instantShape.exec(value) : undefined
  if (!match) return undefined
  const [, date, time = '00:00:00', fraction = '', zone = 'Z'] = match
  const offset = zone === 'Z' ? 'Z' : `${zone.slice(0, 3)}:${zone.slice(3).replace(':', '') || '00'}`
  const floorMs = instantMs(`${date}T${time}.${fraction.padEnd(3, '0').slice(0, 3)}${offset}`)
  if (floorMs === undefined) return undefined
  return { floorMs, ceilMs: /[1-9]/.test(fraction.slice(3)) ? floorMs + 1 : floorMs }
}
