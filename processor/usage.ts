/** Answers for a meter: from rollups where they are fresh, from the ledger where they are not, exact either way. */
import type Fraction from 'fraction.js'
import { exact, showQuantity } from '../schemas/decimal.ts'
import { Fault } from '../schemas/fault.ts'
import type { Meter, UsageRow } from '../schemas/meters.ts'
import { parseStep, windowRuns, windowsIn } from '../schemas/step.ts'
import { hourMs, showInstant, type Window } from '../schemas/window.ts'
import { answerOf, cellRows, figuresOf } from './cells.ts'
import { dimNames, ledgerRows } from './meters.ts'
import { type Position, positionParams } from './reads.ts'
import { readyMeters, rollupKey } from './rollups.ts'
import type { Store } from './store.ts'

export interface UsageQuery {
  readonly meter: Meter
  /** Both on the hour. */
  readonly span: Window
  /** A name of a step or an ISO 8601 duration (schemas/step.ts); without it the span is one window. */
  readonly step?: string
  /** An IANA zone, for the step: days of 23 and 25 hours come out right. */
  readonly zone: string
  /** Dims to keep; the others are summed over. */
  readonly groupBy: readonly string[]
  /** Dims that must equal a value. */
  readonly where: Readonly<Record<string, string>>
  readonly subjects?: readonly string[]
  /** As the ledger stood there; now without it. */
  readonly asOf?: Position
}

/** One group of one window, with its exact quantity. */
export interface Quantity {
  readonly window: Window
  readonly source: string
  readonly subject: string
  readonly dims: Readonly<Record<string, string>>
  readonly quantity: Fraction
}

/** Stale cells that are named one by one; beyond that, all of their hours come from the ledger. */
const staleNamedMax = 1000

interface Aggregate {
  readonly window_s: number
  readonly source: string
  readonly subject: string
  readonly dims: readonly string[]
  readonly amount: string
  readonly divisor: string
}

/**
 * The quantities of a meter, ordered by window, source, subject and dims; groups without usage are not there.
 * @throws Fault METER_UNKNOWN for a dim the meter does not have, USAGE for a span or zone that cuts an hour.
 */
export async function quantities(store: Store, query: UsageQuery): Promise<readonly Quantity[]> {
  const { meter } = query
  const names = dimNames(meter)
  for (const dim of [...query.groupBy, ...Object.keys(query.where)])
    if (!names.includes(dim))
      throw new Fault(
        'METER_UNKNOWN',
        `meter ${meter.slug} has no dim "${dim}"; it has ${names.join(', ')}`,
        { meter: meter.slug },
      )
  const windows = windowsOf(query)
  if (windows.length === 0) return []
  const statement = await aggregateSql(store, query, windows)
  const rows = await store.rows<Aggregate>(statement.sql, statement.params)
  const byStart = new Map(windows.map(window => [window.startMs / 1000, window]))
  const per = exact(meter.per ?? '1')
  return rows.map(row => {
    const window = byStart.get(Number(row.window_s))
    if (!window) throw new Error(`no window starts at ${row.window_s}`)
    return {
      window,
      source: row.source,
      subject: row.subject,
      dims: Object.fromEntries(query.groupBy.map((dim, index) => [dim, row.dims[index] ?? ''])),
      quantity: exact(row.amount).div(exact(row.divisor)).div(per),
    }
  })
}

/** As `quantities`, in the words of design.md's `usage`. */
export async function usage(store: Store, query: UsageQuery): Promise<readonly UsageRow[]> {
  return (await quantities(store, query)).map(row => ({
    meter: query.meter.slug,
    unit: query.meter.unit,
    window_start: showInstant(row.window.startMs),
    window_end: showInstant(row.window.endMs),
    source: row.source,
    subject: row.subject,
    group_by: row.dims,
    value: showQuantity(row.quantity),
  }))
}

function windowsOf(query: UsageQuery): readonly Window[] {
  const { span, step, zone } = query
  const windows = Array.from(
    windowsIn(windowRuns(span, step === undefined ? undefined : parseStep(step), zone)),
  )
  for (const { startMs, endMs } of windows)
    if (startMs % hourMs !== 0 || endMs % hourMs !== 0)
      throw new Fault(
        'USAGE',
        `${showInstant(startMs % hourMs === 0 ? endMs : startMs)} cuts an hour: from, to and the zone's offset must be whole hours`,
        { zone },
      )
  return windows.filter(window => window.startMs < window.endMs)
}

/**
 * The stale cells are looked up first, then rollups and ledger are read: a cell that is recomputed in between is
 * answered from the ledger, which is right as well. The other way round a rollup read before, and a cell found fresh
 * after, would lack what was acknowledged long ago.
 */
async function aggregateSql(
  store: Store,
  query: UsageQuery,
  windows: readonly Window[],
): Promise<{ sql: string; params: Record<string, unknown> }> {
  const { meter, span } = query
  const names = dimNames(meter)
  const params: Record<string, unknown> = {
    key: rollupKey(meter),
    from: span.startMs / 1000,
    to: span.endMs / 1000,
    starts: windows.map(window => window.startMs / 1000),
    kept: query.groupBy.map(dim => names.indexOf(dim) + 1),
  }
  const filters: string[] = []
  if (query.subjects) {
    params.subjects = [...query.subjects]
    filters.push('subject in ({subjects:Array(String)})')
  }
  const dimFilters = Object.entries(query.where).map(([dim, wanted], index) => {
    params[`where${index}`] = wanted
    return `all_dims[${names.indexOf(dim) + 1}] = {where${index}:String}`
  })
  // Rollups stand for now: what was before is in the ledger alone.
  const ready = query.asOf === undefined && (await readyMeters(store)).has(rollupKey(meter))
  const fresh = ready
    ? await freshness(store, query, params)
    : { rollups: 'false', ledger: () => 'true', reads: true }
  if (query.asOf) Object.assign(params, positionParams(query.asOf))
  const range = (at: string) =>
    `${at} >= fromUnixTimestamp({from:UInt32}) and ${at} < fromUnixTimestamp({to:UInt32})`
  const and = (conditions: readonly string[]) => conditions.map(condition => ` and ${condition}`).join('')
  const cells = cellRows(
    meter,
    '{key:String}',
    `toDate(hour) >= toDate(fromUnixTimestamp({from:UInt32}))
       and toDate(hour) <= toDate(fromUnixTimestamp({to:UInt32})) and ${range('hour')}${and(filters)} and ${fresh.rollups}`,
  )
  const ledger = ledgerRows([meter], {
    range,
    and: at => ['true', ...filters, fresh.ledger(at)].join(' and '),
    asOf: query.asOf ? 'position' : 'now',
  })
  Object.assign(params, ledger.params)
  const figures = figuresOf(meter)
  const kept = figures.map(({ name }) => name).join(', ')
  const { amount, divisor } = answerOf(meter)
  const sql = `
    select window_s, source, subject, dims, ${amount} as amount, ${divisor} as divisor from (
    select roundDown(toUnixTimestamp(hour), {starts:Array(UInt32)}) as window_s, source, subject,
      arrayMap(i -> all_dims[i], {kept:Array(UInt8)}) as dims,
      ${figures.map(({ name, merge }) => `${merge(`cell.${name}`)} as ${name}`).join(', ')}
    from (
      select source, subject, hour, dims as all_dims, ${kept} from ${cells}
      ${
        fresh.reads
          ? `union all
      select source, subject, hour, dims as all_dims, ${figures.map(({ name, ofRows }) => `${ofRows(0)} as ${name}`).join(', ')}
      from ${ledger.sql} where has0
      group by source, subject, hour, dims`
          : ''
      }
    ) as cell
    where true${and(dimFilters)}
    group by window_s, source, subject, dims)
    order by window_s, source, subject, dims`
  return { sql, params }
}

/** Conditions that say which cells the rollups answer and which the ledger; nothing is in both or in neither. */
async function freshness(
  store: Store,
  query: UsageQuery,
  params: Record<string, unknown>,
): Promise<{ rollups: string; ledger: (at: string) => string; reads: boolean }> {
  const range = `not done and hour >= fromUnixTimestamp({from:UInt32}) and hour < fromUnixTimestamp({to:UInt32})${
    query.subjects ? ' and subject in ({subjects:Array(String)})' : ''
  }`
  const cells = await store.rows<{ source: string; subject: string; hour_s: number }>(
    `select distinct source, subject, toUnixTimestamp(hour) as hour_s
     from stale final array join subjects as subject where ${range}
     limit ${staleNamedMax + 1}`,
    params,
  )
  if (cells.length === 0) return { rollups: 'true', ledger: () => 'false', reads: false }
  if (cells.length <= staleNamedMax) {
    params.staleSources = cells.map(cell => cell.source)
    params.staleSubjects = cells.map(cell => cell.subject)
    params.staleHours = cells.map(cell => Number(cell.hour_s))
    const named = `(select c.1, c.2, c.3 from (select arrayJoin(arrayZip(
      {staleSources:Array(String)}, {staleSubjects:Array(String)}, {staleHours:Array(UInt32)})) as c))`
    return {
      rollups: `(source, subject, toUnixTimestamp(hour)) not in ${named}`,
      ledger: at => `(source, subject, toUnixTimestamp(toStartOfHour(${at}))) in ${named}`,
      reads: true,
    }
  }
  const hours = await store.rows<{ hour_s: number }>(
    `select distinct toUnixTimestamp(hour) as hour_s from stale final array join subjects as subject where ${range}`,
    params,
  )
  params.staleHours = hours.map(hour => Number(hour.hour_s))
  return {
    rollups: 'toUnixTimestamp(hour) not in ({staleHours:Array(UInt32)})',
    ledger: at => `toUnixTimestamp(toStartOfHour(${at})) in ({staleHours:Array(UInt32)})`,
    reads: true,
  }
}
