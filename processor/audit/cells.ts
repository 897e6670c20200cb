/**
 * Rollups are a pure function of the ledger: every fresh cell is computed again, in one pass over the events for all meters
 * of a family, and held against what is stored. Stale cells are answered from the ledger, and are not compared.
 *
 * Groups are compared by a sum that has one figure a cell: Σ hash(dims) × value mod 2^128 over the events equals
 * Σ hash(dims) × sum over the groups of the rollup, and the same with counts, so no group is built of the events. Only
 * where these differ, for least and greatest values, and in a deep audit all groups are compared one by one.
 */
import type { Meter } from '../../schemas/meters.ts'
import { showInstant } from '../../schemas/window.ts'
import { familyKey, meterSql } from '../meters.ts'
import { currentReads } from '../reads.ts'
import type { Store } from '../store.ts'
import { type Compared, type Difference, namedMax } from './report.ts'
import { inSlice, type Slice, sliceParams } from './slices.ts'

const hourInSlice =
  'hour >= fromUnixTimestamp({sliceFrom:UInt32}) and hour < fromUnixTimestamp({sliceTo:UInt32})'

interface CellRow {
  readonly meter: string
  readonly source: string
  readonly subject: string
  readonly hour_s: number
  readonly dims: readonly string[]
  readonly held: string
  readonly wanted: string
  readonly held_count: string
  readonly wanted_count: string
}

export interface CellsFound {
  readonly compared: Compared
  readonly notes: readonly string[]
}

/** Compares the rollups of all meters that queries use. */
export async function auditCells(
  store: Store,
  slices: readonly Slice[],
  how: 'by sums' | 'by groups' = 'by sums',
): Promise<CellsFound> {
  const meters = await store.rows<{ meter: string; definition: string }>(
    'select meter, any(definition) as definition from rollup_meters where ready group by meter order by meter',
  )
  const families = Map.groupBy(
    meters.map(({ meter: key, definition }) => ({ key, meter: JSON.parse(definition) as Meter })),
    ({ meter }) => familyKey(meter),
  )
  const differences: Difference[] = []
  let compared = 0n
  let differing = 0n
  for (const family of families.values())
    for (const slice of slices) {
      const sums = await compareSums(store, family, slice)
      compared += sums.compared
      let found: GroupsFound = { differing: 0n, rows: [] }
      if (how === 'by groups' || family.some(({ meter }) => isExtreme(meter)))
        found = await compareGroups(store, family, slice)
      else if (sums.cells.length > 0) found = await compareGroups(store, family, slice, sums.cells)
      differing += found.differing === 0n ? sums.differing : found.differing
      if (differences.length < namedMax) differences.push(...found.rows.map(cellDifference))
    }
  const stale = await countStale(store)
  return {
    compared: {
      check: 'cells',
      compared,
      things: 'cells of meters',
      differing,
      differences: differences.slice(0, namedMax),
    },
    notes:
      stale === 0n
        ? []
        : [`${stale} cells are stale: they are answered from the ledger, and were not compared`],
  }
}

type Family = readonly { readonly key: string; readonly meter: Meter }[]

function isExtreme({ aggregation }: Meter): boolean {
  return aggregation === 'MIN' || aggregation === 'MAX'
}

/** Cells that nobody has touched since they were computed. Needs the parameters of the slice. */
const fresh = `(source, subject, hour) not in (
  select source, subject, hour from stale final array join subjects as subject where not done and ${hourInSlice})`
const rollupsInSlice = `meter in ({keys:Array(String)}) and toDate(hour) >= toDate(fromUnixTimestamp({sliceFrom:UInt32}))
  and toDate(hour) <= toDate(fromUnixTimestamp({sliceTo:UInt32})) and ${hourInSlice}`

interface SumsFound {
  readonly compared: bigint
  readonly differing: bigint
  /** The first of those that differ. */
  readonly cells: readonly Cell[]
}

type Cell = readonly [source: string, subject: string, hourS: number]

/**
 * What is stale is looked up in the statement that compares. A cell that is touched between that look and the reading of
 * ledger and rollups would differ for no fault of theirs: what differs is looked at once more, and only then believed.
 */
async function compareSums(store: Store, family: Family, slice: Slice): Promise<SumsFound> {
  const first = await sumOnce(store, family, slice)
  return first.differing === 0n ? first : await sumOnce(store, family, slice)
}

async function sumOnce(store: Store, family: Family, slice: Slice): Promise<SumsFound> {
  const parts = family.map(({ key, meter }, index) => ({
    key,
    index,
    sql: meterSql(meter, `measure${index}`),
  }))
  const [any] = parts
  if (!any) return { compared: 0n, differing: 0n, cells: [] }
  const each = (text: (part: (typeof parts)[number]) => string, between = ', ') =>
    parts.map(text).join(between)
  const [row] = await store.rows<{ compared: string; differing: string; cells: readonly Cell[] }>(
    `select sum(${each(({ index }) => `there${index}`, ' + ')}) as compared,
       sum(${each(({ index }) => `differs${index}`, ' + ')}) as differing,
       groupArrayIf(${namedMax})((toString(source), subject, toUnixTimestamp(hour)), ${each(({ index }) => `differs${index}`, ' or ')}) as cells
     from (
       select source, subject, hour,
         ${each(
           ({ index: i }) => `sum(wanted_count${i}) > 0 or sum(held_count${i}) > 0 as there${i},
         sum(wanted_value${i}) != sum(held_value${i}) or sum(wanted_count${i}) != sum(held_count${i}) as differs${i}`,
         )}
       from (
         select source, subject, toStartOfHour(start) as hour,
           ${each(
             ({
               index: i,
               sql: { value, has },
             }) => `sumIf(toUInt128(h) * reinterpretAsUInt128(${value}), ${has}) as wanted_value${i},
           sumIf(h, ${has}) as wanted_count${i}, toUInt128(0) as held_value${i}, toUInt64(0) as held_count${i}`,
           )}
         from (
           select source, subject, start, measures, cityHash64([${any.sql.dims.join(', ')}]::Array(String)) as h
           from events final
           where ${inSlice} and ${any.sql.where} and (source, scope, start, readat) in (${currentReads(inSlice)}))
         group by source, subject, hour
         union all
         select source, subject, hour,
           ${each(
             ({ index: i }) =>
               `toUInt128(0), toUInt64(0), if(i = ${i + 1}, value, 0), if(i = ${i + 1}, number, 0)`,
           )}
         from (
           select source, subject, hour, indexOf({keys:Array(String)}, toString(meter)) as i,
             arrayReduce('sum', arrayMap((d, v) -> toUInt128(cityHash64(d)) * reinterpretAsUInt128(v), dims, sums)) as value,
             arrayReduce('sum', arrayMap((d, n) -> cityHash64(d) * n, dims, counts)) as number
           from rollups final where ${rollupsInSlice}))
       where ${fresh}
       group by source, subject, hour)`,
    {
      ...Object.assign({}, ...parts.map(({ sql }) => sql.params)),
      ...sliceParams(slice),
      keys: parts.map(({ key }) => key),
    },
  )
  return {
    compared: BigInt(row?.compared ?? 0),
    differing: BigInt(row?.differing ?? 0),
    cells: (row?.cells ?? []).map(([source, subject, hourS]) => [source, subject, Number(hourS)]),
  }
}

interface GroupsFound {
  readonly differing: bigint
  readonly rows: readonly CellRow[]
}

/** Group by group: of these cells, or of all. */
async function compareGroups(
  store: Store,
  family: Family,
  slice: Slice,
  cells?: readonly Cell[],
): Promise<GroupsFound> {
  const first = await groupOnce(store, family, slice, cells)
  return first.differing === 0n ? first : await groupOnce(store, family, slice, cells)
}

async function groupOnce(
  store: Store,
  family: Family,
  slice: Slice,
  cells: readonly Cell[] | undefined,
): Promise<GroupsFound> {
  const parts = family.map(({ key, meter }, index) => ({
    key,
    index,
    sql: meterSql(meter, `measure${index}`),
  }))
  const [any] = parts
  if (!any) return { differing: 0n, rows: [] }
  const { dims, where } = any.sql
  const each = (text: (part: { index: number; value: string; has: string }) => string) =>
    parts.map(({ index, sql: { value, has } }) => text({ index, value, has })).join(',\n')
  const among = (hour: string) =>
    cells
      ? `(toString(source), subject, toUnixTimestamp(${hour})) in (select c.1, c.2, c.3 from (
           select arrayJoin(arrayZip({sources:Array(String)}, {subjects:Array(String)}, {hours:Array(UInt32)})) as c))`
      : 'true'
  // As the events give them: a row a group of a cell, with the figures of every meter side by side.
  const ledger = `
    select source, subject, toStartOfHour(start) as hour, [${dims.join(', ')}]::Array(String) as dims,
      ${each(
        ({ index, value, has }) => `sumIf(toDecimal256(${value}, 12), ${has}) as sum${index},
      countIf(${has}) as count${index}, minIf(${value}, ${has}) as min${index}, maxIf(${value}, ${has}) as max${index}`,
      )}
    from events final
    where ${inSlice} and ${where} and (source, scope, start, readat) in (${currentReads(inSlice)})
      and ${among('toStartOfHour(start)')}
    group by source, subject, hour, dims`
  // One behind the other, a row a meter: those that a meter counted nothing of have no group in its cells.
  const wanted = `
    select {keys:Array(String)}[i] as meter, source, subject, hour, dims, true as is_wanted,
      [${each(({ index }) => `sum${index}`)}][i] as sum, [${each(({ index }) => `count${index}`)}][i] as count,
      [${each(({ index }) => `min${index}`)}][i] as min, [${each(({ index }) => `max${index}`)}][i] as max
    from (${ledger}) array join [${parts.map(({ index }) => index + 1).join(', ')}] as i where count > 0`
  const held = `
    select toString(meter) as meter, source, subject, hour, g.1 as dims, false as is_wanted, g.2 as sum, g.3 as count,
      g.4 as min, g.5 as max
    from (select meter, source, subject, hour, arrayJoin(arrayZip(dims, sums, counts, mins, maxs)) as g
      from rollups final
      where ${rollupsInSlice} and ${among('hour')})`
  const [row] = await store.rows<{ differing: string; found: readonly CellTuple[] }>(
    `select countIf(differs) as differing,
       groupArrayIf(${namedMax})((meter, toString(source), subject, toUnixTimestamp(hour), dims, toString(held_sum),
         toString(wanted_sum), toString(held_count), toString(wanted_count)), differs) as found
     from (
       select meter, source, subject, hour, dims, sumIf(sum, is_wanted) as wanted_sum, sumIf(sum, not is_wanted) as held_sum,
         sumIf(count, is_wanted) as wanted_count, sumIf(count, not is_wanted) as held_count,
         countIf(is_wanted) != 1 or countIf(not is_wanted) != 1 or wanted_sum != held_sum or wanted_count != held_count
           or min(min) != max(min) or min(max) != max(max) as differs
       from (${wanted} union all ${held}) where ${fresh}
       group by meter, source, subject, hour, dims)`,
    {
      ...Object.assign({}, ...parts.map(({ sql }) => sql.params)),
      ...sliceParams(slice),
      keys: parts.map(({ key }) => key),
      ...(cells && {
        sources: cells.map(([source]) => source),
        subjects: cells.map(([, subject]) => subject),
        hours: cells.map(([, , hourS]) => hourS),
      }),
    },
  )
  return {
    differing: BigInt(row?.differing ?? 0),
    rows: (row?.found ?? []).map(
      ([meter, source, subject, hour_s, dims, held, wanted, held_count, wanted_count]) => ({
        meter,
        source,
        subject,
        hour_s,
        dims,
        held,
        wanted,
        held_count,
        wanted_count,
      }),
    ),
  }
}

type CellTuple = readonly [string, string, string, number, readonly string[], string, string, string, string]

async function countStale(store: Store): Promise<bigint> {
  const [row] = await store.rows<{ cells: string }>(
    `select count() as cells from (
       select distinct source, subject, hour from stale final array join subjects as subject where not done)`,
  )
  return BigInt(row?.cells ?? 0)
}

function cellDifference(row: CellRow): Difference {
  const slug = row.meter.slice(0, row.meter.indexOf(':'))
  const says = (sum: string, count: string) =>
    count === '0' ? 'has nothing' : `has ${sum} of ${count} readings`
  return {
    check: 'cells',
    place: `${slug} ${row.source} ${row.subject} ${showInstant(Number(row.hour_s) * 1000)} (${row.dims.join(', ')})`,
    message: `the rollup ${says(row.held, row.held_count)}, the ledger ${says(row.wanted, row.wanted_count)}`,
    remedy:
      'Read the hour again with `meterline collect --once`: it is computed anew. Until then trust the ledger.',
  }
}
