/**
 * A question for usage as a plan: its windows, which of its hours they cut, and the statement that answers it.
 *
 * An hour that no edge cuts is answered from its rollups, where these are fresh. An edge of a window, or of the time from
 * which an account pays, may lie inside an hour: all of that hour comes from the ledger, where a SUM is split by the time
 * really used on either side, and everything else stands where its window begins.
 */
import type { AccountSubject } from '../schemas/accounts.ts'
import { Fault } from '../schemas/fault.ts'
import type { FilterString, Meter } from '../schemas/meters.ts'
import { parseStep, type WindowRun, windowRuns, windowsIn } from '../schemas/step.ts'
import { hourMs, instantMs, isZone, showInstant, type Window } from '../schemas/window.ts'
import { answerOf, cellRows, figuresOf, one, wholeCellRows } from './cells.ts'
import { type Bind, bindColumns, binder, filterSql } from './filters.ts'
import { dimNames, ledgerRows } from './meters.ts'
import { type Position, positionParams } from './reads.ts'
import { rollupKey } from './rollups.ts'

export interface UsageQuery {
  readonly meter: Meter
  readonly span: Window
  /** Events before it do not count, as if the span began there: `eventFrom` of a meter made by API. */
  readonly sinceMs?: number | undefined
  /** A name of a step or an ISO 8601 duration (schemas/step.ts); without it the span is one window. */
  readonly step?: string
  /** An IANA zone, for the step: days of 23 and 25 hours come out right. */
  readonly zone: string
  /** Dims to keep; the others are summed over. */
  readonly groupBy: readonly string[]
  /** Dims, each with the text that it must equal or the filter that it must fit. */
  readonly where: Readonly<Record<string, string | FilterString>>
  readonly subjects?: readonly string[]
  readonly sources?: readonly string[]
  /** Only what these are, from and until when they say: what an account may see, whatever else is asked. */
  readonly tenants?: readonly AccountSubject[]
  /** Which of the two tell rows apart; both unless it says otherwise. Of one that does not, rows have ''. */
  readonly keep?: { readonly source: boolean; readonly subject: boolean }
  /** So many rows of each window, those of the largest values, the largest first. */
  readonly top?: number
  /** So many rows at most, after the row of which `after` is the key. */
  readonly limit?: number
  readonly after?: RowKey
  /** As the ledger stood there; now without it. */
  readonly asOf?: Position
  /** Cells of exactly this meter, where somebody has just seen that they are ready; else that is looked up. */
  readonly rollups?: SeenRollups | undefined
}

export interface SeenRollups {
  readonly key: string
  /** Of `performance.now()`. */
  readonly seenMs: number
}

/** By what rows are ordered: the start of the window, then source, subject and dims as far as they are kept. */
export type RowKey = readonly [startMs: number, ...texts: string[]]

/** A tenant from and until an instant. */
interface Tenure {
  readonly source: string
  readonly subject: string
  readonly fromMs: number
  readonly toMs: number
}

export interface UsagePlan {
  /** With the part of the span in which events count. */
  readonly query: UsageQuery
  /** Nothing can be in the answer: nobody is asked for, or the meter begins behind the span. */
  readonly isEmpty: boolean
  readonly runs: readonly WindowRun[]
  /** Whole hours around the span, and behind the key of the row before, in seconds. */
  readonly hours: { readonly fromS: number; readonly toS: number }
  /** How many of the hours an edge cuts. */
  readonly cut: 'none' | 'some' | 'all'
  /** Instants beside those of windows at which who may see something changes, inside an hour. */
  readonly edges: readonly number[]
  readonly tenures: readonly Tenure[] | undefined
  readonly keys: readonly string[]
}

/** A cell that is not what the ledger says. */
export interface StaleCell {
  readonly source: string
  readonly subject: string
  readonly hourS: number
}

/** Where the ledger answers, and not the rollups: cells, or where these are too many to name, whole hours. */
export type Stale = { readonly cells: readonly StaleCell[] } | { readonly hours: readonly number[] }

/** What may be asked of rollups: all but what is stale, or nothing at all. */
export type Freshness = { readonly rollups: string; readonly stale: Stale } | 'ledger only'

/** ClickHouse's DateTime ends in 2106. */
const hoursEndS = Math.floor(2 ** 32 / 3600) * 3600

/**
 * @throws Fault METER_UNKNOWN for a dim that the meter does not have; USAGE for an empty span, a step or zone that is none,
 *   or too many windows
 */
export function planUsage(asked: UsageQuery): UsagePlan {
  const { meter, sinceMs = Number.NEGATIVE_INFINITY, step, zone, after } = asked
  const isCounted = sinceMs < asked.span.endMs
  const span = isCounted
    ? { startMs: Math.max(asked.span.startMs, sinceMs), endMs: asked.span.endMs }
    : asked.span
  const query = { ...asked, span }
  const names = dimNames(meter)
  for (const dim of [...query.groupBy, ...Object.keys(query.where)])
    if (!names.includes(dim))
      throw new Fault(
        'METER_UNKNOWN',
        `meter ${meter.slug} has no dim "${dim}"; it has ${names.join(', ') || 'none'}`,
        { meter: meter.slug },
      )
  if (!(span.startMs < span.endMs))
    throw new Fault('USAGE', `from ${showInstant(span.startMs)} is not before to ${showInstant(span.endMs)}`)
  if (!isZone(zone)) throw new Fault('USAGE', `"${zone}" is no IANA time zone`)
  const runs = windowRuns(span, step === undefined ? undefined : parseStep(step), zone)
  const tenures = query.tenants && tenuresIn(span, query.tenants)
  const edges = (tenures ?? [])
    .flatMap(({ fromMs, toMs }) => [fromMs, toMs])
    .filter(ms => ms > span.startMs && ms < span.endMs && ms % hourMs !== 0)
  const startMs = Math.max(span.startMs, after?.[0] ?? span.startMs)
  const keep = query.keep ?? { source: true, subject: true }
  const keys = [
    ...(keep.source ? ['source'] : []),
    ...(keep.subject ? ['subject'] : []),
    ...query.groupBy.map((_, index) => `kept${index}`),
  ]
  if (after && after.length !== 1 + keys.length)
    throw new Fault('USAGE', 'the cursor is of another question: its rows are told apart by other names')
  return {
    query,
    isEmpty:
      !isCounted || tenures?.length === 0 || query.subjects?.length === 0 || query.sources?.length === 0,
    runs,
    hours: {
      fromS: clampedHour(Math.floor(startMs / hourMs)),
      toS: clampedHour(Math.ceil(span.endMs / hourMs)),
    },
    cut: cutOf(runs, edges, span),
    edges,
    tenures,
    keys,
  }
}

function clampedHour(hour: number): number {
  return Math.min(Math.max(hour * 3600, 0), hoursEndS)
}

/** Tenants within the span; what one of them pays for twice is joined into one. */
function tenuresIn(span: Window, tenants: readonly AccountSubject[]): readonly Tenure[] {
  const msOf = (text: string | undefined, otherwise: number) => {
    const ms = text === undefined ? otherwise : instantMs(text)
    if (ms === undefined) throw new Fault('CONFIG_INVALID', `"${text}" is no RFC 3339 time`)
    return ms
  }
  const within = tenants
    .map(({ source, subject, from, to }) => ({
      source,
      subject,
      fromMs: Math.max(msOf(from, span.startMs), span.startMs),
      toMs: Math.min(msOf(to, span.endMs), span.endMs),
    }))
    .filter(({ fromMs, toMs }) => fromMs < toMs)
    .sort((a, b) => a.fromMs - b.fromMs)
  const last = new Map<string, { -readonly [Key in keyof Tenure]: Tenure[Key] }>()
  const joined: Tenure[] = []
  for (const tenure of within) {
    const key = JSON.stringify([tenure.source, tenure.subject])
    const before = last.get(key)
    if (before && tenure.fromMs <= before.toMs) before.toMs = Math.max(before.toMs, tenure.toMs)
    else {
      last.set(key, tenure)
      joined.push(tenure)
    }
  }
  return joined
}

function cutOf(runs: readonly WindowRun[], edges: readonly number[], span: Window): UsagePlan['cut'] {
  const cut = new Set<number>()
  const look = (ms: number) => {
    if (ms % hourMs !== 0) cut.add(Math.floor(ms / hourMs))
  }
  for (const ms of [...edges, span.endMs]) look(ms)
  for (const { startMs } of windowsIn(runs)) look(startMs)
  if (cut.size === 0) return 'none'
  return cut.size === Math.ceil(span.endMs / hourMs) - Math.floor(span.startMs / hourMs) ? 'all' : 'some'
}

/**
 * Which cells do not stand for the ledger, of those that the plan looks at, and whose they are, and which cells there are at
 * all, unless that is known; the first question of two.
 */
export function staleSql(
  plan: UsagePlan,
  { cellsMax, isReadyKnown }: { readonly cellsMax: number; readonly isReadyKnown: boolean },
): { readonly sql: string; readonly params: Record<string, unknown> } {
  const { meter } = plan.query
  const key = rollupKey(meter)
  const params: Record<string, unknown> = isReadyKnown ? {} : { slug: meter.slug, key, again: `${key}:` }
  const bind = binder(params, 'asked')
  const range = `not done and ${hourRange(plan, 'hour', bind)}`
  const whose = whoseSql(plan, bind).map(condition => ` and ${condition}`)
  // As `readyKey` in rollups.ts: a definition may have been given up and taken again.
  const ready = `select 'ready' as kind, meter as source, '' as subject, toUInt32(0) as hour_s
      from builds final where state = 'ready' and slug = {slug:String}
        and (meter = {key:String} or startsWith(meter, {again:String})) order by ordinal desc limit 1`
  const stale = `select distinct 'stale' as kind, toString(source), subject, toUnixTimestamp(hour) as hour_s
      from stale final array join subjects as subject where ${range}${whose.join('')} limit ${cellsMax + 1}`
  return { sql: isReadyKnown ? stale : `${ready} union all ${stale}`, params }
}

/** The hours of stale cells, where the cells are too many. */
export function staleHoursSql(plan: UsagePlan): {
  readonly sql: string
  readonly params: Record<string, unknown>
} {
  const params: Record<string, unknown> = {}
  const range = hourRange(plan, 'hour', binder(params, 'asked'))
  return {
    sql: `select distinct toUnixTimestamp(hour) as hour_s from stale final where not done and ${range}`,
    params,
  }
}

/** How the rows of an answer are laid out: columns of each by place. */
export interface UsageStatement {
  readonly sql: string
  readonly params: Record<string, unknown>
  /** The start of the window, the keys, the amount, the divisor, and where anything may be split the parts. */
  readonly hasParts: boolean
  /** The largest come first already, and no more than were asked for. */
  readonly isTopped: boolean
}

/** The statement that answers the plan, given what rollups are good for. */
export function usageSql(plan: UsagePlan, fresh: Freshness): UsageStatement {
  const { query, keys } = plan
  const { meter, top, limit, after } = query
  const params: Record<string, unknown> = {}
  const bind = binder(params, 'asked')
  const isSplit = meter.aggregation === 'SUM' && plan.cut !== 'none'
  const windowOf = windowSql(plan.runs, bind)
  const stale = fresh === 'ledger only' ? undefined : fresh.stale
  const cutHours = plan.cut === 'some' && stale ? cutHoursSql(plan, bind) : undefined
  const parts: string[] = []
  const hasCells = fresh !== 'ledger only' && plan.cut !== 'all'
  const isByCell = hasCells && isOneCellARow(plan)
  if (hasCells) parts.push(cellsSql(plan, fresh, { bind, windowOf, cutHours, isByCell, isSplit }))
  if (!hasCells || cutHours !== undefined || (stale !== undefined && !isNone(stale))) {
    const ledger = ledgerSql(plan, hasCells ? stale : undefined, { bind, windowOf, cutHours, isSplit })
    Object.assign(params, ledger.params)
    parts.push(ledger.sql)
  }
  if (query.asOf) Object.assign(params, positionParams(query.asOf))
  const by = ['window_ms', ...keys].join(', ')
  const { amount, divisor } = answerOf(meter, ({ name, merge }) => {
    if (isByCell) return `p.${name}`
    // Only SUM is ever split.
    return isSplit ? 'sumIf(p.sum, p.length_ms = 0)' : merge(`p.${name}`)
  })
  const split = isSplit ? ', groupArrayIf((p.length_ms, p.sum), p.length_ms > 0) as parts' : ''
  const isTopped = top !== undefined && divisor === one && !isSplit
  const order = isTopped ? ['window_ms', 'amount desc', ...keys] : ['window_ms', ...keys]
  return {
    sql: `select ${by}, ${amount} as amount, ${divisor} as divisor${split} from (${parts.join(' union all ')}) as p
      ${after === undefined ? '' : `where (${by}) > (${afterSql(after, bind)})`} ${isByCell ? '' : `group by ${by}`}
      order by ${order.join(', ')}
      ${isTopped ? `limit {top:UInt32} by window_ms` : ''} ${limit === undefined ? '' : 'limit {limit:UInt32}'}`,
    params: { ...params, ...(isTopped && { top }), ...(limit !== undefined && { limit }) },
    hasParts: isSplit,
    isTopped,
  }
}

function afterSql([startMs, ...texts]: RowKey, bind: Bind): string {
  return [bind('Int64', startMs), ...texts.map(text => bind('String', text))].join(', ')
}

/** Every row of the answer is a cell: nothing is left to be put together. */
function isOneCellARow({ cut, runs, keys, query: { meter, groupBy, where } }: UsagePlan): boolean {
  return (
    cut === 'none' &&
    // Groups of a cell may have texts in common.
    meter.aggregation !== 'UNIQUE_COUNT' &&
    groupBy.length === 0 &&
    keys.length === 2 &&
    Object.keys(where).length === 0 &&
    runs.every(({ widthMs }) => widthMs === hourMs)
  )
}

export function isNone(stale: Stale): boolean {
  return 'cells' in stale ? stale.cells.length === 0 : stale.hours.length === 0
}

/** A condition on an hour, or on a time; why that of a pushed event is held against a DateTime64 is said at `currentPushed`. */
function hourRange({ hours }: UsagePlan, at: string, bind: Bind): string {
  const instant = (seconds: number) =>
    at === 'time'
      ? `toDateTime64(${bind('UInt32', seconds)}, 3, 'UTC')`
      : `toDateTime(${bind('UInt32', seconds)}, 'UTC')`
  return `${at} >= ${instant(hours.fromS)} and ${at} < ${instant(hours.toS)}`
}

/** Conditions on `source` and `subject`. */
function whoseSql({ query: { subjects, sources }, tenures }: UsagePlan, bind: Bind): string[] {
  return [
    ...(subjects ? [`subject in (${bind('Array(String)', subjects)})`] : []),
    ...(sources ? [`source in (${bind('Array(String)', sources)})`] : []),
    ...(tenures ? [tenantSql(tenures, bind)] : []),
  ]
}

function tenantSql(tenures: readonly Tenure[], bind: Bind): string {
  const { source, subject } = bindColumns(bind, tenures, { source: 'String', subject: 'String' })
  return `(toString(source), subject) in (select t.1, t.2 from (select arrayJoin(arrayZip(${source}, ${subject})) as t))`
}

/** Those that pay for a part of the span only. */
function partial({ query: { span }, tenures }: UsagePlan): readonly Tenure[] {
  return (tenures ?? []).filter(({ fromMs, toMs }) => fromMs > span.startMs || toMs < span.endMs)
}

/** The spans in which the row may be seen, as an Array(Tuple(Int64, Int64)) of it. */
function tenureSql(plan: UsagePlan, bind: Bind): string {
  const { startMs, endMs } = plan.query.span
  const all = `[(${bind('Int64', startMs)}, ${bind('Int64', endMs)})]`
  const some = partial(plan)
  if (some.length === 0) return all
  const types = { source: 'String', subject: 'String', fromMs: 'Int64', toMs: 'Int64' }
  const lists = Object.values(bindColumns(bind, some, types)).join(', ')
  const own = `arrayMap(t -> (t.3, t.4), arrayFilter(t -> t.1 = source and t.2 = subject, arrayZip(${lists})))`
  return `if(${tenantSql(some, bind)}, ${own}, ${all})`
}

const hourOfCellMs = 'toInt64(toUnixTimestamp(hour)) * 1000'

interface Making {
  readonly bind: Bind
  readonly windowOf: (ms: string) => string
  /** A set of hours, in parentheses; without it no hour is cut, or the ledger answers for all. */
  readonly cutHours: string | undefined
  readonly isSplit: boolean
}

/** The fresh cells of whole hours, each with its window. */
function cellsSql(
  plan: UsagePlan,
  { rollups, stale }: Exclude<Freshness, 'ledger only'>,
  { bind, windowOf, cutHours, isByCell, isSplit }: Making & { readonly isByCell: boolean },
): string {
  const { meter, groupBy, where } = plan.query
  const some = partial(plan)
  const conditions = [
    // The key has the day before the source: without it nothing would be left out by subject.
    `toDate(hour) >= ${bind('Date', showInstant(plan.hours.fromS * 1000).slice(0, 10))}`,
    `toDate(hour) <= ${bind('Date', showInstant(plan.hours.toS * 1000).slice(0, 10))}`,
    hourRange(plan, 'hour', bind),
    ...whoseSql(plan, bind),
    ...(some.length > 0
      ? [`arrayExists(t -> t.1 <= ${hourOfCellMs} and ${hourOfCellMs} < t.2, ${tenureSql(plan, bind)})`]
      : []),
    ...(cutHours === undefined ? [] : [`hour not in ${cutHours}`]),
    ...(isNone(stale) ? [] : [`not ${staleCondition(stale, 'hour', bind)}`]),
  ].join(' and ')
  const key = bind('String', rollups)
  const figures = figuresOf(meter)
  const columns = [
    `${windowOf(hourOfCellMs)} as window_ms`,
    ...(isByCell ? ['source', 'subject'] : keyColumns(plan)),
    ...figures.map(({ name }) => name),
    ...(isSplit ? ['toInt64(0) as length_ms'] : []),
  ].join(', ')
  if (groupBy.length > 0 || Object.keys(where).length > 0)
    return `select ${columns} from ${cellRows(meter, key, conditions)}${whereSql(plan, bind)}`
  return `select ${columns} from ${wholeCellRows(meter, key, conditions)}`
}

function keyColumns({ query: { meter, groupBy }, keys }: UsagePlan): readonly string[] {
  const names = dimNames(meter)
  const kept = groupBy.map((dim, index) => `dims[${names.indexOf(dim) + 1}] as kept${index}`)
  return [...keys.slice(0, keys.length - groupBy.length), ...kept]
}

function whereSql({ query: { meter, where } }: UsagePlan, bind: Bind, also?: string): string {
  const names = dimNames(meter)
  const conditions = Object.entries(where).map(([dim, filter]) =>
    filterSql(`dims[${names.indexOf(dim) + 1}]`, filter, bind),
  )
  if (also !== undefined) conditions.unshift(also)
  return conditions.length === 0 ? '' : ` where ${conditions.join(' and ')}`
}

/** What the ledger has of cut hours and stale cells, or of the whole span, put together by window and key. */
function ledgerSql(
  plan: UsagePlan,
  stale: Stale | undefined,
  { bind, windowOf, cutHours, isSplit }: Making,
): { readonly sql: string; readonly params: Readonly<Record<string, unknown>> } {
  const { meter, asOf } = plan.query
  const picked = stale && [
    ...(cutHours === undefined
      ? []
      : [{ hours: cutHours, cells: (hour: string) => `${hour} in ${cutHours}` }]),
    ...(isNone(stale)
      ? []
      : [{ hours: staleHours(stale, bind), cells: (hour: string) => staleCondition(stale, hour, bind) }]),
  ]
  const whose = whoseSql(plan, bind)
  const hasDims = plan.query.groupBy.length > 0 || Object.keys(plan.query.where).length > 0
  const columns = [
    ...['source', 'subject', 'value0', 'has0', 'at_ms'],
    ...(meter.aggregation === 'LATEST' ? ['log', 'partition', 'offset'] : []),
    ...(isSplit ? ['from_ms', 'to_ms'] : []),
    ...(hasDims ? ['dims'] : []),
  ]
  const either = (conditions: readonly string[]) => `(${conditions.join(' or ')})`
  const hourOf = (at: string) => `toStartOfHour(${at})`
  const rows = ledgerRows([meter], {
    range: at =>
      [
        hourRange(plan, at, bind),
        ...(picked ? [either(picked.map(({ hours }) => `toStartOfHour(${at}) in ${hours}`))] : []),
      ].join(' and '),
    and: at =>
      ['true', ...whose, ...(picked ? [either(picked.map(({ cells }) => cells(hourOf(at))))] : [])].join(
        ' and ',
      ),
    asOf: asOf ? 'position' : 'now',
    only: new Set(columns),
  })
  const figures = figuresOf(meter)
  const by = ['window_ms', ...plan.keys].join(', ')
  const made = figures.map(({ name, ofRows }) => `${ofRows(0)} as ${name}`).join(', ')
  const has = whereSql(plan, bind, 'has0')
  const keyed = keyColumns(plan).join(', ')
  const comma = keyed === '' ? '' : `${keyed}, `
  const tenure = tenureSql(plan, bind)
  if (!isSplit) {
    // Hours that no edge cuts are those of the span: who pays for all of it sees all that is in them.
    const isSeen = plan.cut === 'none' && partial(plan).length === 0
    const seen = isSeen ? '' : ` and arrayExists(t -> t.1 <= at_ms and at_ms < t.2, ${tenure})`
    return {
      sql: `select ${windowOf('at_ms')} as window_ms, ${comma}${made} from ${rows.sql}${has}${seen} group by ${by}`,
      params: rows.params,
    }
  }
  // A row and a span in which it is seen: the windows that it reaches into, and for how long. A sum of whole rows stays
  // one; that of rows cut is kept by their length, since it is divided by it once at the end.
  return {
    sql: `select ${by}, sum(toDecimal256(value0, 12) * if(is_whole, 1, piece.2)) as sum,
        if(is_whole, 0, to_ms - from_ms) as length_ms
      from (
        select ${plan.keys.map(key => `${key}, `).join('')}value0, from_ms, to_ms, arrayJoin(${piecesSql(plan, windowOf, bind)}) as piece,
          piece.1 as window_ms, piece.2 = to_ms - from_ms as is_whole
        from (select ${comma}value0, from_ms, to_ms, at_ms, arrayJoin(${tenure}) as tenure from ${rows.sql}${has}))
      group by ${by}, length_ms`,
    params: rows.params,
  }
}

/**
 * Of a row with `from_ms`, `to_ms`, `at_ms` and a `tenure`: an array of (start of the window, how long the row reaches into
 * it), in milliseconds. What happened at an instant is whole, of length 0.
 */
function piecesSql({ runs }: UsagePlan, windowOf: (ms: string) => string, bind: Bind): string {
  const instant = `if(tenure.1 <= at_ms and at_ms < tenure.2, [(${windowOf('at_ms')}, toInt64(0))], [])`
  const first = 'greatest(from_ms, tenure.1)'
  const last = 'least(to_ms, tenure.2)'
  if (runs.length === 1 && runs[0]?.count === 1) {
    const whole = `[(${windowOf('at_ms')}, ${last} - ${first})]`
    return `multiIf(to_ms = from_ms, ${instant}, ${first} >= ${last}, [], ${whole})`
  }
  let place = 0
  const placed = runs.map(run => {
    const row = { ...run, place }
    place += run.count
    return row
  })
  const types = { startMs: 'Int64', widthMs: 'Int64', place: 'Int64' }
  const { startMs: starts, widthMs: widths, place: firsts } = bindColumns(bind, placed, types)
  const placeOf = (ms: string) => {
    const run = `roundDown(${ms}, ${starts})`
    return `transform(${run}, ${starts}, ${firsts}, toInt64(0)) + intDiv(${ms} - ${run}, transform(${run}, ${starts}, ${widths}, toInt64(1)))`
  }
  const run = `roundDown(toInt64(place), ${firsts})`
  const width = `transform(${run}, ${firsts}, ${widths}, toInt64(1))`
  const start = `(transform(${run}, ${firsts}, ${starts}, toInt64(0)) + (toInt64(place) - ${run}) * ${width})`
  const pieces = `arrayMap(place -> (${start}, least(${last}, ${start} + ${width}) - greatest(${first}, ${start})),
    range(toUInt64(${placeOf(first)}), toUInt64(${placeOf(`(${last} - 1)`)} + 1)))`
  return `multiIf(to_ms = from_ms, ${instant}, ${first} >= ${last}, [], ${pieces})`
}

/** The start of the window that an instant of the span lies in, as Int64. */
function windowSql(runs: readonly WindowRun[], bind: Bind): (ms: string) => string {
  const [run] = runs
  if (runs.length === 1 && run) {
    const start = bind('Int64', run.startMs)
    if (run.count === 1) return () => start
    const width = bind('Int64', run.widthMs)
    return ms => `(${start} + intDiv(${ms} - ${start}, ${width}) * ${width})`
  }
  if (runs.every(({ count }) => count === 1)) {
    const { startMs: starts } = bindColumns(bind, runs, { startMs: 'Int64' })
    return ms => `roundDown(${ms}, ${starts})`
  }
  const { startMs: starts, widthMs: widths } = bindColumns(bind, runs, { startMs: 'Int64', widthMs: 'Int64' })
  return ms => {
    const start = `roundDown(${ms}, ${starts})`
    const width = `transform(${start}, ${starts}, ${widths}, toInt64(1))`
    return `(${start} + intDiv(${ms} - ${start}, ${width}) * ${width})`
  }
}

/** The hours that an edge cuts, as a set in parentheses. They are made of the runs: there may be a hundred thousand. */
function cutHoursSql({ runs, edges, query: { span } }: UsagePlan, bind: Bind): string {
  const types = { startMs: 'Int64', widthMs: 'Int64', count: 'UInt32' }
  const lists = Object.values(bindColumns(bind, runs, types)).join(', ')
  const others = bind('Array(Int64)', [...edges, span.endMs])
  return `(select toDateTime(intDiv(edge, ${hourMs}) * 3600, 'UTC') from (
      select arrayJoin(arrayConcat(${others}, arrayFlatten(arrayMap(
        (start, width, count) -> arrayMap(place -> start + place * width, range(count)), ${lists})))) as edge)
    where edge % ${hourMs} != 0 and edge >= 0)`
}

/** A set in parentheses. As a list and not as a select: ClickHouse would plan each of these by itself. */
function staleHours(stale: Stale, bind: Bind): string {
  const hours = 'cells' in stale ? new Set(stale.cells.map(({ hourS }) => hourS)) : stale.hours
  const texts = Array.from(hours, hourS =>
    new Date(hourS * 1000).toISOString().slice(0, 19).replace('T', ' '),
  )
  return `(${bind("Array(DateTime('UTC'))", texts)})`
}

/** Is the cell of the row stale? A condition on `source`, `subject` and an hour. */
function staleCondition(stale: Stale, hour: string, bind: Bind): string {
  if ('hours' in stale) return `${hour} in ${staleHours(stale, bind)}`
  const { cells } = stale
  const [first] = cells
  // The usual question is for one tenant.
  if (first && cells.every(({ source, subject }) => source === first.source && subject === first.subject))
    return `(source = ${bind('String', first.source)} and subject = ${bind('String', first.subject)}
      and ${hour} in ${staleHours(stale, bind)})`
  const types = { source: 'String', subject: 'String', hourS: 'UInt32' }
  const lists = Object.values(bindColumns(bind, cells, types)).join(', ')
  return `(toString(source), subject, toUnixTimestamp(${hour})) in (
    select c.1, c.2, c.3 from (select arrayJoin(arrayZip(${lists})) as c))`
}
