/**
 * The events that count, newest first, in pages that stay where they are while others are written: those that were pushed,
 * as they were sent or amended, and the readings of the reads that count.
 */
import type { FilterString } from '../../../schemas/meters.ts'
import { hourMs, instantMs, type Window } from '../../../schemas/window.ts'
import { type Bind, bindColumns, binder, filterSql } from '../../filters.ts'
import { currentPushed } from '../../pushed.ts'
import { currentReads } from '../../reads.ts'
import type { Params, Reading, Store } from '../../store.ts'
import type { Tenant } from '../tenants.ts'

/** A place in the list: behind the event of this time, `key` and source. */
export interface ListPlace {
  readonly timeMs: number
  /** The id of a pushed event; of a reading its id without the readat, so that a newer read of it is the same place. */
  readonly key: string
  readonly source: string
}

/** Instants of an event: all that is said holds. */
export interface FilterTime {
  readonly $gt?: string
  readonly $gte?: string
  readonly $lt?: string
  readonly $lte?: string
  readonly $and?: readonly FilterTime[]
  readonly $or?: readonly FilterTime[]
}

export interface ListAsked {
  readonly texts: Readonly<Partial<Record<'id' | 'source' | 'type' | 'subject', FilterString>>>
  readonly time: readonly FilterTime[]
  readonly ingestedAt: readonly FilterTime[]
  /** Nothing else is seen. */
  readonly tenants?: readonly Tenant[] | undefined
  readonly after?: ListPlace | undefined
  readonly limit: number
}

export interface ListedEvent extends ListPlace {
  readonly kind: 'pushed' | 'reading'
  readonly id: string
  readonly type: string
  readonly subject: string
  /** As it was sent, '' where it was not. */
  readonly timeText: string
  /** JSON, '' where there is none; of a reading what its row says. */
  readonly data: string
  /** JSON of the other attributes of a pushed event. */
  readonly attributes: string
  readonly scope: string
  readonly ingestedMs: number
  readonly storedMs: number
}

type Row = readonly [
  kind: ListedEvent['kind'],
  source: string,
  key: string,
  id: string,
  type: string,
  subject: string,
  timeMs: string,
  timeText: string,
  data: string,
  attributes: string,
  scope: string,
  ingestedMs: string,
  storedMs: string,
]

/** All rows of a select, each as the list of its columns, within the bounds of those who ask. */
export async function readAll<Columns extends readonly unknown[]>(
  store: Store,
  sql: string,
  params: Params,
  reading?: Reading,
): Promise<readonly Columns[]> {
  const found: Columns[] = []
  for await (const rows of store.stream(sql, params, reading))
    found.push(...(rows as readonly unknown[] as readonly Columns[]))
  return found
}

/** How many events the first look goes over, about, and how much further back each goes than the one before. */
const lookedAt = 20_000
const growth = 8

/** At most `limit` of them, in order of time, key and source, each falling. */
export async function listEvents(
  store: Store,
  asked: ListAsked,
  reading?: Reading,
): Promise<readonly ListedEvent[]> {
  const { after, limit } = asked
  const extent = await extentOf(store, reading)
  if (!extent) return []
  const bounds = boundsOf(asked.time)
  const startMs = Math.max(extent.startMs, bounds.startMs)
  const found: ListedEvent[] = []
  let endMs = Math.min(extent.endMs, bounds.endMs, after ? after.timeMs + 1 : Number.POSITIVE_INFINITY)
  // Most lists end within the last hours: older months are not looked at before they are needed, unless they hold little.
  const firstMs = Math.max(hourMs, Math.ceil(((extent.endMs - extent.startMs) / extent.events) * lookedAt))
  for (let widthMs = firstMs; endMs > startMs && found.length < limit; widthMs *= growth) {
    const span = { startMs: Math.max(startMs, endMs - widthMs), endMs }
    found.push(...(await listedWithin(store, asked, { ...span, limit: limit - found.length, reading })))
    endMs = span.startMs
  }
  return found
}

/** Between which times there are events at all, and about how many; undefined where there are none. */
async function extentOf(
  store: Store,
  reading?: Reading,
): Promise<(Window & { readonly events: number }) | undefined> {
  const rows = await readAll<readonly [first: string, last: string, count: string]>(
    store,
    `select toUnixTimestamp64Milli(min(first)), toUnixTimestamp64Milli(max(last)), sum(n) from (
       select min(time) as first, max(time) as last, count() as n from pushed having n > 0
       union all
       select min(time), max(time), count() as n from amendments where action = 'amend' having n > 0
       union all
       select toDateTime64(min(start), 3, 'UTC'), toDateTime64(max(start), 3, 'UTC'), count() as n from events having n > 0)`,
    {},
    reading,
  )
  const [first, last, count] = rows[0] ?? ['0', '0', '0']
  return count === '0'
    ? undefined
    : { startMs: Number(first), endMs: Number(last) + 1, events: Number(count) }
}

/** What must hold of the times, as far as it is said outright; the rest is a condition. */
function boundsOf(filters: readonly FilterTime[]): { startMs: number; endMs: number } {
  let [startMs, endMs] = [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY]
  for (const { $gt, $gte, $lt, $lte } of filters) {
    for (const from of [$gt, $gte])
      if (from !== undefined) startMs = Math.max(startMs, instantMs(from) ?? startMs)
    for (const to of [$lt, $lte]) if (to !== undefined) endMs = Math.min(endMs, (instantMs(to) ?? endMs) + 1)
  }
  return { startMs, endMs }
}

/**
 * When one was stored is noted after it, so one that is being put is stored now; and where two have put a part of the log
 * at a time, spans of `positions` lie over each other: the last that begins before it tells the time. Neither hides one.
 */
async function listedWithin(
  store: Store,
  { texts, time, ingestedAt, tenants, after }: ListAsked,
  {
    startMs,
    endMs,
    limit,
    reading,
  }: Window & { readonly limit: number; readonly reading: Reading | undefined },
): Promise<readonly ListedEvent[]> {
  const params: Record<string, unknown> = {}
  const bind = binder(params, 'asked')
  const seconds = (ms: number) => `fromUnixTimestamp(${bind('Int64', Math.ceil(ms / 1000))})`
  const millis = (ms: number) => `fromUnixTimestamp64Milli(${bind('Int64', ms)}, 'UTC')`
  const readings = `start >= ${seconds(startMs)} and start < ${seconds(endMs)}`
  const pushed = `time >= ${millis(startMs)} and time < ${millis(endMs)}`
  const conditions = [
    'true',
    ...Object.entries(texts).map(([column, filter]) => filterSql(column, filter, bind)),
    ...time.map(filter => timeSql('timeMs', filter, bind)),
    ...ingestedAt.map(filter => timeSql('ingestedMs', filter, bind)),
    ...(tenants ? [tenantsSql(tenants, bind)] : []),
  ]
  if (after)
    conditions.push(
      `(timeMs, key, source) < (${bind('Int64', after.timeMs)}, ${bind('String', after.key)}, ${bind('String', after.source)})`,
    )
  const rows = await readAll<Row>(
    store,
    `select kind, source, key, id, type, subject, timeMs, timeText, data, attributes, scope,
       if(kind = 'reading', readatMs, storedMs) as ingestedMs,
       toUnixTimestamp64Milli(if(toUnixTimestamp64Milli(stored.at) = 0, now64(3), stored.at)) as storedMs
     from (
       select 'pushed' as kind, source, id as key, id, type, subject, toUnixTimestamp64Milli(time) as timeMs,
         time_text as timeText, data, attributes, '' as scope, toInt64(0) as readatMs, toString(log) as log, partition, offset
       from ${currentPushed(pushed)}
       union all
       select 'reading', toString(source), lower(leftPad(hex(identity), 32, '0')) as reading, concat(reading, '@', formatDateTime(readat, '%Y-%m-%dT%H:%i:%S', 'UTC'), '.',
           leftPad(toString(toUnixTimestamp64Milli(readat) % 1000), 3, '0'), 'Z'), type, subject,
         toInt64(toUnixTimestamp(start)) * 1000, '', toJSONString((toUnixTimestamp(end), toUnixTimestamp64Milli(used_start),
           toUnixTimestamp64Milli(used_end), resource_kind, resource_id, resource_name, mapApply((name, value) -> (toString(name), toString(value)), measures),
           labels, parts, estimated)),
         '', scope, toUnixTimestamp64Milli(readat), toString(log), partition, offset
       from events final
       where ${readings} and (source, scope, start, readat) in (${currentReads(readings)})
     ) as listed
     asof left join (select log, partition, first, at from positions final) as stored
       on listed.log = stored.log and listed.partition = stored.partition and listed.offset >= stored.first
     where ${conditions.join(' and ')}
     order by timeMs desc, key desc, source desc limit ${bind('UInt32', limit)}`,
    params,
    reading,
  )
  return rows.map(
    ([kind, source, key, id, type, subject, at, timeText, data, attributes, scope, ingested, stored]) => ({
      ...{ kind, source, key, id, type, subject, timeText, data, attributes, scope },
      timeMs: Number(at),
      ingestedMs: Number(ingested),
      storedMs: Number(stored),
    }),
  )
}

const comparisons = { $gt: '>', $gte: '>=', $lt: '<', $lte: '<=' } as const

/** @param column of milliseconds */
function timeSql(column: string, filter: FilterTime, bind: Bind): string {
  const conditions = Object.entries(comparisons).flatMap(([name, operator]) => {
    const said = filter[name as keyof typeof comparisons]
    return said === undefined ? [] : [`${column} ${operator} ${bind('Int64', instantMs(said) ?? 0)}`]
  })
  for (const [name, between] of [
    ['$and', ' and '],
    ['$or', ' or '],
  ] as const) {
    const parts = filter[name]
    if (parts?.length) conditions.push(`(${parts.map(part => timeSql(column, part, bind)).join(between)})`)
  }
  return conditions.length === 0 ? 'true' : `(${conditions.join(' and ')})`
}

const forever = 1e15

/** A condition on `source`, `subject` and `timeMs`. */
export function tenantsSql(tenants: readonly Tenant[], bind: Bind): string {
  const rows = tenants.map(({ source, subject, from, to }) => ({
    source,
    subject,
    fromMs: from === undefined ? -forever : (instantMs(from) ?? forever),
    toMs: to === undefined ? forever : (instantMs(to) ?? -forever),
  }))
  const types = { source: 'String', subject: 'String', fromMs: 'Int64', toMs: 'Int64' }
  const lists = Object.values(bindColumns(bind, rows, types)).join(', ')
  return `arrayExists((s, j, f, u) -> source = s and subject = j and timeMs >= f and timeMs < u, ${lists})`
}
