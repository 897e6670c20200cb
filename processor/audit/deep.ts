/**
 * Every event read again: its content and its identity are hashed anew from what the row says, and each read's totals are
 * added up against its mark. This finds what was changed in a row itself, where its stored hash still fits the mark.
 */
import { hash } from 'node:crypto'
import { showInstant } from '../../schemas/window.ts'
import type { Store } from '../store.ts'
import { showPlace } from './readings.ts'
import { type Compared, type Difference, namedMax } from './report.ts'
import { inSlice, type Slice, sliceParams } from './slices.ts'

/** As `showInstant` writes it; `ms` where the column has milliseconds. */
const second = (column: string) => `formatDateTime(${column}, '%Y-%m-%dT%H:%i:%SZ', 'UTC')`
const instant = (column: string) => `concat(formatDateTime(${column}, '%Y-%m-%dT%H:%i:%S', 'UTC'),
  if(toUnixTimestamp64Milli(${column}) % 1000 = 0, '', concat('.', leftPad(toString(toUnixTimestamp64Milli(${column}) % 1000), 3, '0'))), 'Z')`
const object = (map: string, value: string) =>
  `concat('{', arrayStringConcat(arrayMap((k, v) -> concat(toJSONString(toString(k)), ':', ${value}), mapKeys(${map}), mapValues(${map})), ','), '}')`
const text = (column: string) => `toJSONString(toString(${column}))`
const list = (parts: readonly string[]) => `concat('[', ${parts.join(", ',', ")}, ']')`
const quoted = (sql: string) => `concat('"', ${sql}, '"')`

/** What `contentText` of schemas/event.ts writes, in SQL: equal for all that Meterline's own collectors seal. */
export const contentSql = list([
  text('type'),
  text('subject'),
  quoted(second('start')),
  quoted(second('end')),
  quoted(instant('used_start')),
  quoted(instant('used_end')),
  text('resource_kind'),
  text('resource_id'),
  text('resource_name'),
  object('measures', `concat('"', toString(v), '"')`),
  object('labels', 'toJSONString(v)'),
  'toString(parts)',
  "if(estimated, 'true', 'false')",
])
export const identitySql = list([
  text('source'),
  text('scope'),
  text('type'),
  text('subject'),
  text('resource_kind'),
  text('resource_id'),
  quoted(second('start')),
  quoted(second('end')),
])
export const hash64 = (sql: string) => `reinterpretAsUInt64(reverse(substring(SHA256(${sql}), 1, 8)))`
export const hash128 = (sql: string) => `reinterpretAsUInt128(reverse(substring(SHA256(${sql}), 1, 16)))`

interface EventRow {
  readonly source: string
  readonly scope: string
  readonly type: string
  readonly subject: string
  readonly start_s: number
  readonly end_s: number
  readonly used_start_ms: string
  readonly used_end_ms: string
  readonly readat: string
  readonly resource_kind: string
  readonly resource_id: string
  readonly resource_name: string
  readonly measures: Readonly<Record<string, string>>
  readonly labels: Readonly<Record<string, string>>
  readonly parts: number
  readonly estimated: boolean
  readonly content: string
  readonly identity_text: string
}

/** Rows whose hash SQL could not make again are looked at one by one, so many of a slice. */
const rowsAloneMax = 50_000
/** Ways to write a row's decimals that are tried; few events have measures with trailing zeros, and few measures. */
const writingsMax = 20_000

export async function auditContents(store: Store, slices: readonly Slice[]): Promise<readonly Compared[]> {
  const contents: Difference[] = []
  const totals: Difference[] = []
  let events = 0n
  let reads = 0n
  let changed = 0n
  let mistotalled = 0n
  for (const slice of slices) {
    const [counted] = await store.rows<{ events: string }>(
      `select count() as events from events final where ${inSlice}`,
      sliceParams(slice),
    )
    events += BigInt(counted?.events ?? 0)
    const rows = await store.rows<EventRow>(
      `select source, scope, type, subject, toUnixTimestamp(start) as start_s, toUnixTimestamp(end) as end_s,
         toUnixTimestamp64Milli(used_start) as used_start_ms, toUnixTimestamp64Milli(used_end) as used_end_ms, readat,
         resource_kind, resource_id, resource_name, measures, labels, parts, estimated, content,
         toString(identity) as identity_text
       from events final
       where ${inSlice} and (content != ${hash64(contentSql)} or identity != ${hash128(identitySql)})
       order by start, source, scope limit ${rowsAloneMax + 1}
       settings output_format_json_escape_forward_slashes = 0`,
      sliceParams(slice),
    )
    const found = rows.slice(0, rowsAloneMax).flatMap(contentDifference)
    if (rows.length > rowsAloneMax)
      found.push({
        check: 'contents',
        place: `from ${showInstant(slice.startMs)}`,
        message: `more than ${rowsAloneMax} readings are not what their hash says, or written as nobody writes them`,
        remedy: 'Read these windows again.',
      })
    changed += BigInt(found.length)
    contents.push(...found.slice(0, namedMax - contents.length))
    const wrong = await wrongTotals(store, slice)
    reads += wrong.reads
    mistotalled += wrong.differing
    totals.push(...wrong.differences.slice(0, namedMax - totals.length))
  }
  return [
    { check: 'contents', compared: events, things: 'readings', differing: changed, differences: contents },
    { check: 'totals', compared: reads, things: 'reads', differing: mistotalled, differences: totals },
  ]
}

function contentDifference(row: EventRow): readonly Difference[] {
  const place = `${showPlace([row.source, row.scope, row.start_s])} ${row.resource_kind} ${row.resource_id} of ${row.subject}`
  const times = [(ms: number) => showInstant(ms), (ms: number) => new Date(ms).toISOString()]
  const windowMs = [Number(row.start_s) * 1000, Number(row.end_s) * 1000] as const
  const isOurs = times.some(show => {
    const parts = [row.source, row.scope, row.type, row.subject, row.resource_kind, row.resource_id]
    const digits = hash('sha256', JSON.stringify([...parts, ...windowMs.map(show)]), 'hex').slice(0, 32)
    return BigInt(`0x${digits}`) === BigInt(row.identity_text)
  })
  const isSame = times.some(show => {
    const end = JSON.stringify([...Object.entries(row.labels)].length === 0 ? {} : row.labels)
    const rest = `${end},${row.parts},${row.estimated}]`
    const head = JSON.stringify([
      row.type,
      row.subject,
      ...windowMs.map(show),
      ...[row.used_start_ms, row.used_end_ms].map(ms => show(Number(ms))),
      row.resource_kind,
      row.resource_id,
      row.resource_name,
    ]).slice(0, -1)
    for (const measures of writings(row.measures)) {
      const digits = hash('sha256', `${head},${JSON.stringify(measures)},${rest}`, 'hex').slice(0, 16)
      if (BigInt(`0x${digits}`) === BigInt(row.content)) return true
    }
    return false
  })
  const remedy = 'Read the window again: `meterline collect --once`; the newer read replaces this one.'
  if (!isSame)
    return [
      {
        check: 'contents',
        place,
        message: 'the reading is not what its content hash says: it was changed',
        remedy,
      },
    ]
  if (!isOurs)
    return [
      {
        check: 'contents',
        place,
        message: 'the reading has the identity of another resource, tenant or window',
        remedy,
      },
    ]
  return []
}

/** A decimal keeps its value in the ledger, and not its trailing zeros: all the ways in which it may have been written. */
function* writings(measures: Readonly<Record<string, string>>): Generator<Readonly<Record<string, string>>> {
  const names = Object.keys(measures)
  const ways = names.map(name => {
    const value = measures[name] ?? ''
    const places = value.includes('.') ? value.length - value.indexOf('.') - 1 : 0
    const point = places === 0 ? `${value}.` : value
    return [value, ...Array.from({ length: 12 - places }, (_, more) => point + '0'.repeat(more + 1))]
  })
  const all = ways.reduce((product, { length }) => product * length, 1)
  for (let at = 0; at < Math.min(all, writingsMax); at += 1) {
    let rest = at
    const written: Record<string, string> = {}
    for (const [index, name] of names.entries()) {
      const of = ways[index] ?? []
      written[name] = of[rest % of.length] ?? ''
      rest = Math.floor(rest / of.length)
    }
    yield written
  }
}

/** Each read's sum of each measure against what the ledger noted with its mark; reads of before that have none. */
async function wrongTotals(
  store: Store,
  slice: Slice,
): Promise<{
  readonly reads: bigint
  readonly differing: bigint
  readonly differences: readonly Difference[]
}> {
  const nonZero = (pairs: string) => `arraySort(arrayFilter(p -> p.2 != 0, ${pairs}))`
  const [row] = await store.rows<{
    reads: string
    differing: string
    found: readonly (readonly [string, string, number])[]
  }>(
    `select count() as reads, countIf(differs) as differing,
       groupArrayIf(${namedMax})((toString(source), scope, toUnixTimestamp(start)), differs) as found
     from (
       select r.source as source, r.scope as scope, r.start as start,
         ${nonZero('arrayMap((k, v) -> (toString(k), v), mapKeys(r.totals), mapValues(r.totals))')}
           != ${nonZero('e.sums')} as differs
       from (select source, scope, start, content_readat, totals from reads final
         where ${inSlice} and held and outcome = 'complete' and notEmpty(totals)) as r
       left join (
         select source, scope, start, readat,
           arrayZip((sumMap(arrayMap(name -> toString(name), mapKeys(measures)),
             arrayMap(value -> toDecimal256(value, 12), mapValues(measures))) as s).1, s.2) as sums
         from events final where ${inSlice} group by source, scope, start, readat) as e
         on r.source = e.source and r.scope = e.scope and r.start = e.start and r.content_readat = e.readat)`,
    sliceParams(slice),
  )
  return {
    reads: BigInt(row?.reads ?? 0),
    differing: BigInt(row?.differing ?? 0),
    differences: (row?.found ?? []).map(place => ({
      check: 'totals',
      place: showPlace(place),
      message: 'the totals noted with the mark are not the sums of its readings',
      remedy: 'Read the window again: `meterline collect --once`.',
    })),
  }
}
