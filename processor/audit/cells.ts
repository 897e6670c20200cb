/**
 * Rollups are a pure function of the ledger: every fresh cell is computed again, in one pass over the events for all meters
 * of a family, and held against what is stored. Stale cells are answered from the ledger, and are not compared.
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
export async function auditCells(store: Store, slices: readonly Slice[]): Promise<CellsFound> {
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
      const found = await compareFamily(store, family, slice)
      compared += found.compared
      differing += found.differing
      if (differences.length < namedMax) differences.push(...found.rows.map(cellDifference))
    }
  const stale = await countStale(store)
  return {
    compared: {
      check: 'cells',
      compared,
      things: 'groups of cells',
      differing,
      differences: differences.slice(0, namedMax),
    },
    notes:
      stale === 0n
        ? []
        : [`${stale} cells are stale: they are answered from the ledger, and were not compared`],
  }
}

/**
 * What is stale is looked up in the statement that compares. A cell that is touched between that look and the reading of
 * ledger and rollups would differ for no fault of theirs: cells that differ are looked at once more, and only then named.
 */
async function compareFamily(
  store: Store,
  family: readonly { readonly key: string; readonly meter: Meter }[],
  slice: Slice,
): Promise<{ readonly compared: bigint; readonly differing: bigint; readonly rows: readonly CellRow[] }> {
  const first = await compareOnce(store, family, slice)
  if (first.differing === 0n) return first
  return await compareOnce(store, family, slice)
}

async function compareOnce(
  store: Store,
  family: readonly { readonly key: string; readonly meter: Meter }[],
  slice: Slice,
): Promise<{ readonly compared: bigint; readonly differing: bigint; readonly rows: readonly CellRow[] }> {
  const parts = family.map(({ key, meter }, index) => ({
    key,
    index,
    sql: meterSql(meter, `measure${index}`),
  }))
  const [any] = parts
  if (!any) return { compared: 0n, differing: 0n, rows: [] }
  const { dims, where } = any.sql
  const each = (text: (part: { index: number; value: string; has: string }) => string) =>
    parts.map(({ index, sql: { value, has } }) => text({ index, value, has })).join(',\n')
  const fresh = `(source, subject, hour) not in (
    select source, subject, hour from stale final array join subjects as subject where not done and ${hourInSlice})`
  // As the events give them: a row a group of a cell, with the figures of every meter side by side.
  const ledger = `
    select source, subject, toStartOfHour(start) as hour, [${dims.join(', ')}]::Array(String) as dims,
      ${each(
        ({ index, value, has }) => `sumIf(toDecimal256(${value}, 12), ${has}) as sum${index},
      countIf(${has}) as count${index}, minIf(${value}, ${has}) as min${index}, maxIf(${value}, ${has}) as max${index}`,
      )}
    from events final
    where ${inSlice} and ${where} and (source, scope, start, readat) in (${currentReads(inSlice)})
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
      where meter in ({keys:Array(String)}) and toDate(hour) >= toDate(fromUnixTimestamp({sliceFrom:UInt32}))
        and toDate(hour) <= toDate(fromUnixTimestamp({sliceTo:UInt32})) and ${hourInSlice})`
  const [row] = await store.rows<{ compared: string; differing: string; found: readonly CellTuple[] }>(
    `select count() as compared, countIf(differs) as differing,
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
    },
  )
  return {
    compared: BigInt(row?.compared ?? 0),
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
