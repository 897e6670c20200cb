/**
 * Hourly cells of every meter, as a pure function of the ledger: which cells are stale, and how they are computed
 * again. A cell is recomputed whole and never incremented, so two processors may do it at once.
 */
import { randomBytes } from 'node:crypto'
import { type Meter, meterHash } from '../schemas/meters.ts'
import { hourMs } from '../schemas/window.ts'
import { familyKey, meterSql } from './meters.ts'
import { currentReads } from './reads.ts'
import type { Store } from './store.ts'

const staleColumns = ['source', 'hour', 'token', 'subjects', 'done'] as const

/** Tokens are never ordered, only told apart. */
export function newToken(): bigint {
  return randomBytes(8).readBigUInt64BE()
}

/** Cells (source, subject, hour), gathered by source and hour: that is how they come and how they are stored. */
export class Cells {
  readonly #subjects = new Map<string, Set<string>>()

  add(source: string, startMs: number, subjects: Iterable<string>): void {
    const key = JSON.stringify([source, Math.floor(startMs / hourMs) * (hourMs / 1000)])
    const all = this.#subjects.get(key) ?? new Set()
    for (const subject of subjects) all.add(subject)
    // A touch of no cell, as by a read without readings, would never be done.
    if (all.size > 0) this.#subjects.set(key, all)
  }

  /** Rows of `stale`, as lines of its columns. */
  lines(token: bigint): readonly string[] {
    return Array.from(
      this.#subjects,
      ([key, subjects]) => `${key.slice(0, -1)},"${token}",${JSON.stringify(Array.from(subjects))},0]`,
    )
  }
}

/** Marks cells stale: until a recompute that saw the token, answers for them come from the ledger. */
export async function touchCells(store: Store, cells: Cells, token: bigint): Promise<void> {
  await store.insert('stale', staleColumns, cells.lines(token))
}

/** The name of a meter's rollups: a changed definition is another meter to them. */
export function rollupKey(meter: Meter): string {
  return `${meter.slug}:${meterHash(meter)}`
}

/**
 * Makes the store keep rollups of these meters. A new or changed one is computed from history: it is registered
 * first, so that every recompute from now on includes it, then every cell of the ledger is marked stale, then it is
 * ready; until then its answers come from the ledger.
 */
export async function registerMeters(
  store: Store,
  meters: readonly Meter[],
  newToken: () => bigint,
): Promise<void> {
  const ready = await readyMeters(store)
  const added = meters.filter(meter => !ready.has(rollupKey(meter)))
  if (added.length === 0) return
  const columns = ['meter', 'definition', 'ready']
  const lines = (state: boolean) =>
    added.map(meter => JSON.stringify([rollupKey(meter), JSON.stringify(meter), state]))
  await store.insert('rollup_meters', columns, lines(false))
  await store.run(
    `insert into stale (source, hour, token, subjects, done)
     select source, toStartOfHour(start) as hour, {token:UInt64}, groupUniqArray(subject), 0
     from events group by source, hour`,
    { token: newToken().toString() },
  )
  await store.insert('rollup_meters', columns, lines(true))
}

/** The rollup keys that queries may use. */
export async function readyMeters(store: Store): Promise<ReadonlySet<string>> {
  const rows = await store.rows<{ meter: string }>('select distinct meter from rollup_meters where ready')
  return new Set(rows.map(row => row.meter))
}

/**
 * Recomputes stale cells of every registered meter, whole hours of a source, the oldest first, until they are
 * `cellsMax`. Resolves to how many it took on.
 *
 * The order matters: tokens are seen first, then the meters and the ledger are read, then the rows are written, and
 * only then are exactly those tokens finished. Whatever touches a cell in between leaves a token of its own. A row's
 * version is that of the row it replaces plus the tokens seen, so of two recomputes the one that knew more wins.
 */
export async function recompute(
  store: Store,
  options: { readonly run: bigint; readonly cellsMax: number },
): Promise<number> {
  const run = options.run.toString()
  await store.run(
    `insert into recomputes (run, source, hour, token, subjects)
     select {run:UInt64}, source, hour, token, subjects from stale final
     where not done and (source, hour) in (
       select source, hour from (
         select source, hour, uniqExactArray(subjects) as cells,
           sum(cells) over (order by hour, source rows between unbounded preceding and current row) as upto
         from stale final where not done group by source, hour)
       where upto - cells < {cellsMax:UInt32})`,
    { run, cellsMax: options.cellsMax },
  )
  const [taken] = await store.rows<{ cells: string }>(
    `select sum(subjects) as cells from (
       select uniqExactArray(subjects) as subjects from recomputes where run = {run:UInt64} group by source, hour)`,
    { run },
  )
  if (!taken || taken.cells === '0') return 0
  const meters = await store.rows<{ meter: string; definition: string }>(
    'select distinct meter, definition from rollup_meters',
  )
  const families = Map.groupBy(
    meters.map(({ meter: key, definition }) => ({ key, meter: JSON.parse(definition) as Meter })),
    ({ meter }) => familyKey(meter),
  )
  const types = await typesIn(store, run)
  const touched = families.values().filter(([of]) => of?.meter.eventTypes.some(type => types.has(type)))
  for (const family of touched) await recomputeFamily(store, run, family)
  await store.run(
    `insert into stale (source, hour, token, subjects, done)
     select source, hour, token, [], 1 from recomputes where run = {run:UInt64}`,
    { run },
  )
  return Number(taken.cells)
}

/**
 * The types of all events that are, or ever were, in the hours of the run: a meter of none of them has no rows there and
 * gets none, since the ledger forgets nothing. What comes in between leaves a token of its own.
 */
async function typesIn(store: Store, run: string): Promise<ReadonlySet<string>> {
  const rows = await store.rows<{ type: string }>(
    `select distinct type from events
     where toStartOfHour(start) in (select hour from recomputes where run = {run:UInt64})
       and source in (select source from recomputes where run = {run:UInt64})`,
    { run },
  )
  return new Set(rows.map(({ type }) => type))
}

/** One pass over the events of the cells for all meters of a family, and a row a meter and cell. */
async function recomputeFamily(
  store: Store,
  run: string,
  family: readonly { readonly key: string; readonly meter: Meter }[],
): Promise<void> {
  const parts = family.map(({ key, meter }, index) => ({
    key,
    index,
    sql: meterSql(meter, `measure${index}`),
  }))
  const [first] = parts
  if (!first) return
  const cells =
    'select source, subject, hour from recomputes array join subjects as subject where run = {run:UInt64}'
  const hours = 'select hour from recomputes where run = {run:UInt64}'
  const days = 'select toDate(hour) from recomputes where run = {run:UInt64}'
  const each = (text: (part: { index: number; value: string; has: string }) => string) =>
    parts.map(({ index, sql: { value, has } }) => text({ index, value, has })).join(',\n')
  const dims = first.sql.dims.map((_, index) => `dim${index}`)
  // The groups of a cell are (dims, then sum, count, min and max of each meter): a meter has those that it counted.
  const groupsOf = (index: number) => `arrayFilter(g -> g.${4 * index + 3} > 0, groups)`
  const columnsOf = (index: number) => [1, 2, 3, 4, 5].map(at => `g${index}.${at === 1 ? 1 : 4 * index + at}`)
  const lists = ['dims', 'sums', 'counts', 'mins', 'maxs'].map(
    (list, at) => `[${parts.map(({ index }) => columnsOf(index)[at]).join(', ')}] as ${list}`,
  )
  // One `group by` over three kinds of rows: the tokens seen, what the rollups have, and what the ledger has. The
  // defaults give the first two the columns of the third.
  const none = each(
    ({ index: i }) =>
      `toDecimal256(0, 12) as sum${i}, toUInt64(0) as count${i}, toDecimal128(0, 12) as min${i}, toDecimal128(0, 12) as max${i}`,
  )
  const all = each(({ index: i }) => `sum${i}, count${i}, min${i}, max${i}`)
  await store.run(
    `insert into rollups (meter, source, subject, hour, version, dims, sums, counts, mins, maxs)
     select meter, source, subject, hour, version, dims, sums, counts, mins, maxs
     from (
       select source, subject, hour, max(previous) as before, before + uniqExactIf(token, kind = 1) as version,
         groupArrayIf((dims, ${all}), kind = 3) as groups, ${each(({ index }) => `${groupsOf(index)} as g${index}`)}
       from (
         select source, subject, hour, 1 as kind, token, toUInt64(0) as previous, []::Array(String) as dims, ${none}
         from recomputes array join subjects as subject where run = {run:UInt64}
         union all
         select source, subject, hour, 2, toUInt64(0), version, []::Array(String), ${none}
         from rollups final
         where meter in ({keys:Array(String)}) and toDate(hour) in (${days}) and (source, subject, hour) in (${cells})
         union all
         select source, subject, hour, 3, toUInt64(0), toUInt64(0), [${dims.join(', ')}]::Array(String), ${all}
         from (
           select source, subject, toStartOfHour(start) as hour,
             ${first.sql.dims.map((sql, index) => `${sql} as dim${index}, `).join('')}
             ${each(
               ({ index: i, value, has }) => `sumIf(toDecimal256(${value}, 12), ${has}) as sum${i},
             countIf(${has}) as count${i}, minIf(${value}, ${has}) as min${i}, maxIf(${value}, ${has}) as max${i}`,
             )}
           from events final
           where toStartOfHour(start) in (${hours}) and (source, subject, toStartOfHour(start)) in (${cells})
             and ${first.sql.where}
             and (source, scope, start, readat) in (${currentReads(`toStartOfHour(start) in (${hours})`)})
           group by ${['source', 'subject', 'hour', ...dims].join(', ')}))
       group by source, subject, hour)
     array join {keys:Array(String)} as meter, ${lists.join(', ')}
     where notEmpty(dims) or before > 0`,
    { ...Object.assign({}, ...parts.map(({ sql }) => sql.params)), run, keys: parts.map(({ key }) => key) },
  )
}
