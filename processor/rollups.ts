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

const staleColumns = ['source', 'subject', 'hour', 'token', 'done'] as const

/** Tokens are never ordered, only told apart. */
export function newToken(): bigint {
  return randomBytes(8).readBigUInt64BE()
}

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
  const families = Map.groupBy(
    meters.map(({ meter: key, definition }) => ({ key, meter: JSON.parse(definition) as Meter })),
    ({ meter }) => familyKey(meter),
  )
  for (const family of families.values()) await recomputeFamily(store, run, family)
  await store.run(
    `insert into stale (source, subject, hour, token, done)
     select source, subject, hour, token, 1 from recomputes where run = {run:UInt64}`,
    { run },
  )
  return Number(taken.cells)
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
  const cells = 'select source, subject, hour from recomputes where run = {run:UInt64}'
  const days = 'select toDate(hour) from recomputes where run = {run:UInt64}'
  const each = (text: (part: { index: number; value: string; has: string }) => string) =>
    parts.map(({ index, sql: { value, has } }) => text({ index, value, has })).join(',\n')
  const lists = ['dims', 'sums', 'counts', 'mins', 'maxs']
  const perMeter = lists.map(
    list => `[${parts.map(({ index }) => `a.${list}${index}`).join(', ')}] as ${list}`,
  )
  await store.run(
    `insert into rollups (meter, source, subject, hour, version, dims, sums, counts, mins, maxs)
     select meter, c.source, c.subject, c.hour, c.version, ${lists.join(', ')}
     from (
       select source, subject, hour, max(previous) as before, before + uniqExactIf(token, seen) as version
       from (
         select source, subject, hour, token, true as seen, toUInt64(0) as previous
         from recomputes where run = {run:UInt64}
         union all
         select source, subject, hour, toUInt64(0) as token, false as seen, version as previous
         from rollups final
         where meter in ({keys:Array(String)}) and toDate(hour) in (${days}) and (source, subject, hour) in (${cells}))
       group by source, subject, hour
     ) as c
     left join (
       select source, subject, hour,
         ${each(
           ({ index: i }) => `groupArrayIf(group_dims, count${i} > 0) as dims${i},
         groupArrayIf(sum${i}, count${i} > 0) as sums${i}, groupArrayIf(count${i}, count${i} > 0) as counts${i},
         groupArrayIf(min${i}, count${i} > 0) as mins${i}, groupArrayIf(max${i}, count${i} > 0) as maxs${i}`,
         )}
       from (
         select source, subject, toStartOfHour(start) as hour, ${first.sql.dims} as group_dims,
           ${each(
             ({ index: i, value, has }) => `sumIf(toDecimal256(${value}, 12), ${has}) as sum${i},
           countIf(${has}) as count${i}, minIf(${value}, ${has}) as min${i}, maxIf(${value}, ${has}) as max${i}`,
           )}
         from events final
         where toDate(start) in (${days}) and (source, subject, toStartOfHour(start)) in (${cells})
           and ${first.sql.where}
           and (source, scope, start, readat) in (${currentReads(`toDate(start) in (${days})`)})
         group by source, subject, hour, group_dims)
       group by source, subject, hour
     ) as a on a.source = c.source and a.subject = c.subject and a.hour = c.hour
     array join {keys:Array(String)} as meter, ${perMeter.join(', ')}
     where notEmpty(dims) or c.before > 0`,
    { ...Object.assign({}, ...parts.map(({ sql }) => sql.params)), run, keys: parts.map(({ key }) => key) },
  )
}
