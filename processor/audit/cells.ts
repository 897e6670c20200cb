/**
 * Rollups are a pure function of the ledger: every fresh cell is computed again, in one pass over the rows for all meters
 * of a family, and held against what is stored. Stale cells are answered from the ledger, and are not compared.
 *
 * What adds up is compared by a sum that has one figure a cell: Σ hash(dims) × value mod 2^128 over the rows equals
 * Σ hash(dims) × sum over the groups of the rollup, and the same with counts, so no group is built of the rows. Only
 * where these differ, for meters whose figures do not add up, and in a deep audit all groups are compared one by one: that
 * alone sees a group of sum 0 that is there or not. What a cell says as a whole must be what its own groups come to.
 */
import type { Meter } from '../../schemas/meters.ts'
import { showInstant } from '../../schemas/window.ts'
import { cellRows, type Figure, figuresOf } from '../cells.ts'
import { familiesOf, ledgerRows } from '../meters.ts'
import type { Store } from '../store.ts'
import { type Compared, type Difference, namedMax } from './report.ts'
import { type Slice, sliceParams } from './slices.ts'

const during = (at: string) =>
  `toStartOfHour(${at}) >= fromUnixTimestamp({sliceFrom:UInt32}) and toStartOfHour(${at}) < fromUnixTimestamp({sliceTo:UInt32})`
const hourInSlice =
  'hour >= fromUnixTimestamp({sliceFrom:UInt32}) and hour < fromUnixTimestamp({sliceTo:UInt32})'

interface CellRow {
  readonly meter: string
  readonly source: string
  readonly subject: string
  readonly hour_s: number
  readonly dims: readonly string[]
  /** As text; empty where there is nothing. */
  readonly held: string
  readonly wanted: string
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
    "select meter, definition from builds final where state = 'ready' order by meter",
  )
  const families = familiesOf(
    meters.map(({ meter: key, definition }) => ({ key, meter: JSON.parse(definition) as Meter })),
  )
  const differences: Difference[] = []
  let compared = 0n
  let differing = 0n
  for (const family of families)
    for (const slice of slices) {
      const sums = await compareSums(store, family, slice)
      compared += sums.compared
      let found: GroupsFound = { differing: 0n, rows: [] }
      if (how === 'by groups' || family.some(({ meter }) => !addsUp(meter)))
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

function addsUp(meter: Meter): boolean {
  return figuresOf(meter).every(({ name }) => name === 'sum' || name === 'count')
}

/** Cells that nobody has touched since they were computed. Needs the parameters of the slice. */
const fresh = `(source, subject, hour) not in (
  select source, subject, hour from stale final array join subjects as subject where not done and ${hourInSlice})`
const daysInSlice =
  'toDate(hour) >= toDate(fromUnixTimestamp({sliceFrom:UInt32})) and toDate(hour) <= toDate(fromUnixTimestamp({sliceTo:UInt32}))'
const rollupsInSlice = `meter in ({keys:Array(String)}) and ${daysInSlice} and ${hourInSlice}`

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
  const ledger = ledgerRows(
    family.map(({ meter }) => meter),
    { range: during },
  )
  const each = (text: (part: { readonly index: number; readonly figures: readonly Figure[] }) => string) =>
    family.map(({ meter }, index) => text({ index, figures: addsUp(meter) ? figuresOf(meter) : [] }))
  const total = (name: string, index: number) =>
    name === 'sum'
      ? `sumIf(toUInt128(h) * reinterpretAsUInt128(value${index}), has${index})`
      : `sumIf(toUInt128(h), has${index})`
  const held = ({ name, column }: Figure) =>
    name === 'sum'
      ? `arrayReduce('sum', arrayMap((d, v) -> toUInt128(cityHash64(d)) * reinterpretAsUInt128(v), dims, ${column}))`
      : `arrayReduce('sum', arrayMap((d, n) -> toUInt128(cityHash64(d)) * n, dims, ${column}))`
  // Of each meter: is it there, and of each of its figures what the ledger wants and what the rollup holds.
  const names = each(({ index, figures }) =>
    [`there${index}`, `torn${index}`, ...figures.map(({ name }) => `${name}${index}`)].join(', '),
  ).join(', ')
  const differs = (index: number, figures: readonly Figure[]) =>
    [
      `max(torn${index})`,
      ...figures.map(({ name }) => `sumIf(${name}${index}, wanted) != sumIf(${name}${index}, not wanted)`),
    ].join(' or ')
  const [row] = await store.rows<{ compared: string; differing: string; cells: readonly Cell[] }>(
    `select sum(${each(({ index }) => `is_there${index}`).join(' + ')}) as compared,
       sum(${each(({ index }) => `differs${index}`).join(' + ')}) as differing,
       groupArrayIf(${namedMax})((toString(source), subject, toUnixTimestamp(hour)), ${each(({ index }) => `differs${index}`).join(' or ')}) as cells
     from (
       select source, subject, hour, ${each(
         ({ index, figures }) =>
           `max(there${index}) as is_there${index}, ${differs(index, figures)} as differs${index}`,
       ).join(', ')}
       from (
         select source, subject, hour, true as wanted, ${each(({ index, figures }) =>
           [
             `countIf(has${index}) > 0 as there${index}`,
             `false as torn${index}`,
             ...figures.map(({ name }) => `${total(name, index)} as ${name}${index}`),
           ].join(', '),
         ).join(', ')}
         from (select *, cityHash64(dims) as h from ${ledger.sql})
         group by source, subject, hour
         union all
         select source, subject, hour, false as wanted, ${names} from (
           select source, subject, hour, indexOf({keys:Array(String)}, toString(meter)) as i, ${each(
             ({ index, figures }) =>
               [
                 `i = ${index + 1} and notEmpty(dims) as there${index}`,
                 `i = ${index + 1} and (${torn(family[index]?.meter)}) as torn${index}`,
                 ...figures.map(
                   figure => `if(i = ${index + 1}, ${held(figure)}, toUInt128(0)) as ${figure.name}${index}`,
                 ),
               ].join(', '),
           ).join(', ')}
           from cells final where ${rollupsInSlice}))
       where ${fresh}
       group by source, subject, hour)`,
    { ...ledger.params, ...sliceParams(slice), keys: family.map(({ key }) => key) },
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
  const among = (hour: string) =>
    cells
      ? `(toString(source), subject, toUnixTimestamp(${hour})) in (select c.1, c.2, c.3 from (
           select arrayJoin(arrayZip({sources:Array(String)}, {subjects:Array(String)}, {hours:Array(UInt32)})) as c))`
      : 'true'
  const meters = family.map(({ meter }) => meter)
  const ledger = ledgerRows(meters, { range: during, and: at => among(`toStartOfHour(${at})`) })
  // A group's figures as one text and one hash, those that are lists in order: a row a meter, of which it counted something.
  const shown = (figures: readonly Figure[], name: (figure: Figure) => string) =>
    `[${figures.map(figure => showFigure(figure, name(figure))).join(', ')}]`
  const wanted = `
    select {keys:Array(String)}[f.1] as meter, source, subject, hour, dims, true as is_wanted, f.3 as said
    from (
      select source, subject, hour, dims, ${meters
        .map((meter, index) =>
          [
            `countIf(has${index}) as there${index}`,
            ...figuresOf(meter).map(figure => `${figure.ofRows(index)} as ${figure.name}${index}`),
          ].join(', '),
        )
        .join(', ')}
      from ${ledger.sql} group by source, subject, hour, dims)
    array join [${meters
      .map(
        (meter, index) =>
          `(${index + 1}, there${index}, ${shown(figuresOf(meter), ({ name }) => `${name}${index}`)})`,
      )
      .join(', ')}] as f where f.2 > 0`
  const held = family.map(
    ({ meter }, index) => `
    select {keys:Array(String)}[${index + 1}] as meter, source, subject, hour, dims, false as is_wanted,
      ${shown(figuresOf(meter), ({ name }) => name)} as said
    from ${cellRows(meter, `{keys:Array(String)}[${index + 1}]`, `${daysInSlice} and ${hourInSlice} and ${among('hour')}`)}`,
  )
  // Where what a cell is as a whole is not what its groups come to, a group of that name says both.
  const wholes = family.flatMap(({ meter }, index) =>
    [true, false].map(isWanted => {
      const kept = figuresOf(meter).filter(({ whole }) => whole !== undefined)
      const said = shown(kept, ({ name, column, whole }) =>
        isWanted ? `arrayReduce('${whole}', ${column})` : name,
      )
      return `select {keys:Array(String)}[${index + 1}], source, subject, hour, ['all groups'], ${isWanted}, ${said}::Array(String)
        from cells final where meter = {keys:Array(String)}[${index + 1}] and ${daysInSlice} and ${hourInSlice}
          and ${among('hour')} and (${torn(meter)})`
    }),
  )
  const [row] = await store.rows<{ differing: string; found: readonly CellTuple[] }>(
    `select countIf(differs) as differing,
       groupArrayIf(${namedMax})((meter, toString(source), subject, toUnixTimestamp(hour), dims, held_said, wanted_said), differs) as found
     from (
       select meter, source, subject, hour, dims,
         arrayStringConcat(groupArrayArrayIf(said, is_wanted), ' of ') as wanted_said,
         arrayStringConcat(groupArrayArrayIf(said, not is_wanted), ' of ') as held_said,
         countIf(is_wanted) != 1 or countIf(not is_wanted) != 1 or wanted_said != held_said as differs
       from (${[wanted, ...held, ...wholes].join(' union all ')}) where ${fresh}
       group by meter, source, subject, hour, dims)`,
    {
      ...ledger.params,
      ...sliceParams(slice),
      keys: family.map(({ key }) => key),
      ...(cells && {
        sources: cells.map(([source]) => source),
        subjects: cells.map(([, subject]) => subject),
        hours: cells.map(([, , hourS]) => hourS),
      }),
    },
  )
  return {
    differing: BigInt(row?.differing ?? 0),
    rows: (row?.found ?? []).map(([meter, source, subject, hour_s, dims, held, wanted]) => ({
      meter,
      source,
      subject,
      hour_s,
      dims,
      held,
      wanted,
    })),
  }
}

/** Is what a cell is as a whole something else than its groups come to? */
function torn(meter: Meter | undefined): string {
  const differ = (meter ? figuresOf(meter) : []).flatMap(({ name, column, whole }) =>
    whole === undefined ? [] : [`${name} != arrayReduce('${whole}', ${column})`],
  )
  return differ.length === 0 ? 'false' : differ.join(' or ')
}

/** A figure as a text that is equal for what is equal; of a list how long it is, and a hash. */
function showFigure({ name }: Figure, sql: string): string {
  switch (name) {
    case 'sum':
    case 'least':
    case 'greatest':
      return `toString(${sql})`
    case 'count':
      return `concat(toString(${sql}), ' readings')`
    case 'latest':
      return `concat(toString(${sql}.5), ' at ', toString(${sql}.1), ' from ', ${sql}.2, '/', toString(${sql}.3), '/', toString(${sql}.4))`
    case 'uniques':
      return `concat(toString(length(${sql})), ' texts, hash ', hex(sipHash64(arraySort(${sql}))))`
    case 'amounts':
      return `concat(toString(length(${sql})), ' values, hash ', hex(sipHash64(arraySort(${sql}))))`
  }
}

type CellTuple = readonly [string, string, string, number, readonly string[], string, string]

async function countStale(store: Store): Promise<bigint> {
  const [row] = await store.rows<{ cells: string }>(
    `select count() as cells from (
       select distinct source, subject, hour from stale final array join subjects as subject where not done)`,
  )
  return BigInt(row?.cells ?? 0)
}

function cellDifference(row: CellRow): Difference {
  const slug = row.meter.slice(0, row.meter.indexOf(':'))
  const says = (what: string) => (what === '' ? 'has nothing' : `has ${what}`)
  return {
    check: 'cells',
    place: `${slug} ${row.source} ${row.subject} ${showInstant(Number(row.hour_s) * 1000)} (${row.dims.join(', ')})`,
    message: `the rollup ${says(row.held)}, the ledger ${says(row.wanted)}`,
    remedy:
      'Read the hour again with `meterline collect --once`: it is computed anew. Until then trust the ledger.',
  }
}
