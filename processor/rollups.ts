/**
 * Hourly cells of every meter, as a pure function of the ledger: which cells are stale, and how they are computed
 * again. A cell is recomputed whole and never incremented, so two processors may do it at once.
 */
import { type Meter, meterHash } from '../schemas/meters.ts'
import { hourMs } from '../schemas/window.ts'
import { meterSql } from './meters.ts'
import { currentReads } from './reads.ts'
import type { Store } from './store.ts'

const staleColumns = ['source', 'subject', 'hour', 'token', 'done'] as const

/** A cell as one text: its line in `stale` but for the token. */
export function cellOf(source: string, subject: string, startMs: number): string {
  return JSON.stringify([source, subject, Math.floor(startMs / hourMs) * (hourMs / 1000)])
}

/** Marks cells stale: until a recompute that saw the token, answers for them come from the ledger. */
export async function touchCells(store: Store, cells: ReadonlySet<string>, token: bigint): Promise<void> {
  const tail = `,"${token}",0]`
  await store.insert(
    'stale',
    staleColumns,
    Array.from(cells, cell => cell.slice(0, -1) + tail),
  )
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
    `insert into stale (source, subject, hour, token, done)
     select distinct source, subject, toStartOfHour(start), {token:UInt64}, 0 from events`,
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
 * Recomputes up to `cellsMax` stale cells of every registered meter. Resolves to how many it took on.
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
    `insert into recomputes (run, source, subject, hour, token)
     select {run:UInt64}, source, subject, hour, token from stale final
     where not done and (source, subject, hour) in (
       select source, subject, hour from stale final where not done
       group by source, subject, hour order by hour, source, subject limit {cellsMax:UInt32})`,
    { run, cellsMax: options.cellsMax },
  )
  const [taken] = await store.rows<{ cells: string }>(
    'select uniqExact(source, subject, hour) as cells from recomputes where run = {run:UInt64}',
    { run },
  )
  if (!taken || taken.cells === '0') return 0
  const meters = await store.rows<{ meter: string; definition: string }>(
    'select distinct meter, definition from rollup_meters',
  )
  for (const { meter, definition } of meters)
    await recomputeMeter(store, run, meter, JSON.parse(definition) as Meter)
  await store.run(
    `insert into stale (source, subject, hour, token, done)
     select source, subject, hour, token, 1 from recomputes where run = {run:UInt64}`,
    { run },
  )
  return Number(taken.cells)
}

async function recomputeMeter(store: Store, run: string, key: string, meter: Meter): Promise<void> {
  const { dims, value, where, params } = meterSql(meter)
  const cells = 'select source, subject, hour from recomputes where run = {run:UInt64}'
  const days = 'select toDate(hour) from recomputes where run = {run:UInt64}'
  await store.run(
    `insert into rollups (meter, source, subject, hour, version, dims, sums, counts, mins, maxs)
     select {key:String}, c.source, c.subject, c.hour, c.version, a.dims, a.sums, a.counts, a.mins, a.maxs
     from (
       select source, subject, hour, max(previous) as before, before + uniqExactIf(token, seen) as version
       from (
         select source, subject, hour, token, true as seen, toUInt64(0) as previous
         from recomputes where run = {run:UInt64}
         union all
         select source, subject, hour, toUInt64(0) as token, false as seen, version as previous
         from rollups final
         where meter = {key:String} and toDate(hour) in (${days}) and (source, subject, hour) in (${cells}))
       group by source, subject, hour
     ) as c
     left join (
       select source, subject, hour, groupArray(group_dims) as dims, groupArray(group_sum) as sums,
         groupArray(group_count) as counts, groupArray(group_min) as mins, groupArray(group_max) as maxs
       from (
         select source, subject, toStartOfHour(start) as hour, ${dims} as group_dims,
           sum(toDecimal256(${value}, 12)) as group_sum, count() as group_count,
           min(${value}) as group_min, max(${value}) as group_max
         from events final
         where toDate(start) in (${days}) and (source, subject, toStartOfHour(start)) in (${cells})
           and ${where}
           and (source, scope, start, readat) in (${currentReads(`toDate(start) in (${days})`)})
         group by source, subject, hour, group_dims)
       group by source, subject, hour
     ) as a on a.source = c.source and a.subject = c.subject and a.hour = c.hour
     where notEmpty(a.dims) or c.before > 0`,
    { ...params, run, key },
  )
}
