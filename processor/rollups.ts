/**
 * Hourly cells of every meter, as a pure function of the ledger: which cells are stale, and how they are computed
 * again. A cell is recomputed whole and never incremented, so two processors may do it at once.
 */
import { randomBytes } from 'node:crypto'
import { type Meter, meterHash } from '../schemas/meters.ts'
import { hourMs } from '../schemas/window.ts'
import { figuresOf, noFigure } from './cells.ts'
import { dimNames, familyKey, ledgerRows } from './meters.ts'
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
  const there = (
    at: string,
  ) => `toStartOfHour(${at}) in (select hour from recomputes where run = {run:UInt64})
       and source in (select source from recomputes where run = {run:UInt64})`
  const rows = await store.rows<{ type: string }>(
    `select distinct type from events where ${there('start')}
     union distinct select distinct type from pushed where ${there('time')}
     union distinct select distinct type from amendments where ${there('time')}`,
    { run },
  )
  return new Set(rows.map(({ type }) => type))
}

/** One pass over the rows of the cells for all meters of a family, and a row a meter and cell. */
async function recomputeFamily(
  store: Store,
  run: string,
  family: readonly { readonly key: string; readonly meter: Meter }[],
): Promise<void> {
  const meters = family.map(({ meter }) => meter)
  const [first] = meters
  if (!first) return
  const cells =
    'select source, subject, hour from recomputes array join subjects as subject where run = {run:UInt64}'
  const hours = 'select hour from recomputes where run = {run:UInt64}'
  const days = 'select toDate(hour) from recomputes where run = {run:UInt64}'
  const ledger = ledgerRows(meters, {
    range: at => `toStartOfHour(${at}) in (${hours})`,
    and: at => `(source, subject, toStartOfHour(${at})) in (${cells})`,
  })
  const dims = dimNames(first).map((_, index) => `dim${index}`)
  // The figures of all meters side by side, each meter's behind the number of its rows.
  const figures = meters.flatMap((meter, index) => [
    { of: index, as: `there${index}`, sql: `countIf(has${index})`, none: 'toUInt64(0)', column: 'there' },
    ...figuresOf(meter).map(figure => ({
      of: index,
      as: `${figure.name}${index}`,
      sql: figure.ofRows(index),
      none: noFigure(figure),
      column: figure.column as string,
    })),
  ])
  const all = figures.map(({ as }) => as).join(', ')
  // The groups of a cell are (dims, then these): a meter has those that it counted.
  const placeOf = (of: number, column: string) =>
    figures.findIndex(figure => figure.of === of && figure.column === column) + 2
  const groups = meters
    .map((_, index) => `arrayFilter(g -> g.${placeOf(index, 'there')} > 0, groups) as g${index}`)
    .join(', ')
  const types: ReadonlyMap<string, string> = new Map(
    meters.flatMap(meter => figuresOf(meter).map(({ column, type }) => [column, type])),
  )
  const columns = ['dims', ...types.keys()]
  const lists = columns.map(column => {
    const of = meters.map((_, index) => {
      const place = column === 'dims' ? 1 : placeOf(index, column)
      return place === 1 && column !== 'dims' ? `[]::Array(${types.get(column)})` : `g${index}.${place}`
    })
    return `[${of.join(', ')}] as ${column}`
  })
  // One `group by` over three kinds of rows: the tokens seen, what the rollups have, and what the ledger has. The
  // defaults give the first two the columns of the third.
  const none = figures.map(({ none, as }) => `${none} as ${as}`).join(', ')
  await store.run(
    `insert into rollups (meter, source, subject, hour, version, ${columns.join(', ')})
     select meter, source, subject, hour, version, ${columns.join(', ')}
     from (
       select source, subject, hour, max(previous) as before, before + uniqExactIf(token, kind = 1) as version,
         groupArrayIf((dims, ${all}), kind = 3) as groups, ${groups}
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
           select ${['source', 'subject', 'hour', ...dims].join(', ')}, ${figures.map(({ sql, as }) => `${sql} as ${as}`).join(', ')}
           from ${ledger.sql}
           group by ${['source', 'subject', 'hour', ...dims].join(', ')}))
       group by source, subject, hour)
     array join {keys:Array(String)} as meter, ${lists.join(', ')}
     where notEmpty(dims) or before > 0`,
    { ...ledger.params, run, keys: family.map(({ key }) => key) },
  )
}
