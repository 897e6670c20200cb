/**
 * Hourly cells of every meter, as a pure function of the ledger: which cells are stale, and how they are computed
 * again. A cell is recomputed whole and never incremented, so two processors may do it at once.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { type Meter, meterHash } from '../schemas/meters.ts'
import { isOwnType } from '../schemas/pushed.ts'
import { figuresOf, noFigure } from './cells.ts'
import { dimNames, familiesOf, type LedgerRows, ledgerRows } from './meters.ts'
import type { Reading, Store } from './store.ts'

// -- which meters have cells

/** The key of a meter's cells, but where the same definition was retired before: a changed one is another meter to them. */
export function rollupKey(meter: Meter): string {
  return `${meter.slug}:${meterHash(meter)}`
}

/** A definition of a meter under its key, and how far it is computed. */
export interface Build {
  readonly key: string
  readonly meter: Meter
  /** Of a slug the ready one with the highest answers. */
  readonly ordinal: number
  readonly state: 'building' | 'ready' | 'retired'
  /** Since it is so. */
  readonly ageSeconds: number
}

const buildColumns = ['meter', 'slug', 'definition', 'ordinal', 'state', 'rank'] as const
/** A build never goes back: of two rows of a key the later state counts. */
const ranks = { building: 0, ready: 1, retired: 2, gone: 3 } as const

/** All of them, or those of a slug, in the order in which they were asked for. */
export async function buildsOf(store: Store, slug?: string): Promise<readonly Build[]> {
  const rows = await store.rows<{
    meter: string
    definition: string
    ordinal: string
    state: Build['state']
    age: string
  }>(
    `select meter, definition, ordinal, state, dateDiff('second', at, now64(3)) as age
     from builds final where state != 'gone' ${slug === undefined ? '' : 'and slug = {slug:String}'} order by ordinal, meter`,
    { slug },
  )
  return rows.map(({ meter, definition, ordinal, state, age }) => ({
    key: meter,
    meter: JSON.parse(definition) as Meter,
    ordinal: Number(ordinal),
    state,
    ageSeconds: Number(age),
  }))
}

async function enter(store: Store, builds: readonly Build[], state: keyof typeof ranks): Promise<void> {
  const lines = builds.map(({ key, meter, ordinal }) =>
    JSON.stringify([key, meter.slug, JSON.stringify(meter), ordinal, state, ranks[state]]),
  )
  await store.insert('builds', buildColumns, lines)
}

/**
 * Makes the store keep cells of these meters. A new or changed one is registered, so that every recompute from now on
 * includes it, and `recompute` goes through its history hour by hour; until that is done its answers come from the ledger.
 * Where there is no history it is ready at once. One that is computed, or about to be, stays, and what was to take its place
 * is given up. Meters that are not named stay as they are.
 */
export async function registerMeters(store: Store, meters: readonly Meter[]): Promise<void> {
  const builds = await buildsOf(store)
  const latest = builds.reduce((most, { ordinal }) => Math.max(most, ordinal), 0)
  const added: Build[] = []
  const dropped: Build[] = []
  const used = await usedKeys(store)
  for (const meter of meters) {
    const key = rollupKey(meter)
    const live = builds.filter(build => build.meter.slug === meter.slug && build.state !== 'retired')
    const same = live.find(build => rollupKey(build.meter) === key)
    if (same) {
      dropped.push(...live.filter(({ ordinal }) => ordinal > same.ordinal))
      continue
    }
    // Cells of a retired key stand for no time that is known: the same definition gets a new one.
    const before = used.filter(one => one === key || one.startsWith(`${key}:`)).length
    const newKey = before === 0 ? key : `${key}:${before}`
    added.push({ key: newKey, meter, ordinal: latest + 1, state: 'building', ageSeconds: 0 })
  }
  await enter(store, dropped, 'retired')
  if (added.length === 0) return
  await enter(store, added, 'building')
  await finishBuilds(store, added)
}

/** Of all definitions that ever were. */
async function usedKeys(store: Store): Promise<readonly string[]> {
  const rows = await store.rows<{ meter: string }>('select distinct meter from builds')
  return rows.map(({ meter }) => meter)
}

/** Stops computing the meters of these slugs. */
export async function retire(store: Store, isGone: (slug: string) => boolean): Promise<void> {
  const builds = await buildsOf(store)
  await enter(
    store,
    builds.filter(({ state, meter }) => state !== 'retired' && isGone(meter.slug)),
    'retired',
  )
}

/** The key under which exactly this definition has cells for all of history; undefined where only the ledger has it. */
export async function readyKey(store: Store, meter: Meter): Promise<string | undefined> {
  const key = rollupKey(meter)
  const [row] = await store.rows<{ meter: string }>(
    `select meter from builds final where state = 'ready' and slug = {slug:String}
       and (meter = {key:String} or startsWith(meter, {more:String})) order by ordinal desc limit 1`,
    { slug: meter.slug, key, more: `${key}:` },
  )
  return row?.meter
}

/** No statement takes so long. */
const statementSecondsMax = 900

/** A definition that was retired is kept fresh for queries that had begun to use it; then its cells go. */
function isKept({ state, ageSeconds }: Build): boolean {
  return state !== 'retired' || ageSeconds < statementSecondsMax
}

/** May a build of it, in another process too, still have to write what it read of the ledger before? */
function isBeingBuilt({ state, ageSeconds }: Build): boolean {
  return state === 'building' || ageSeconds < statementSecondsMax
}

// -- cells of history

/** So many rows of the ledger are computed in a statement, unless one hour has more. */
const buildRowsMax = 500_000

const eventTables = [
  { table: 'events', at: 'start', isOwn: true },
  { table: 'pushed', at: 'time', isOwn: false },
  { table: 'amendments', at: 'time', isOwn: false },
] as const

/** Those that may have events of these types, with their columns of time. */
function tablesOf(types: readonly string[]) {
  return eventTables.filter(({ isOwn }) => types.some(type => isOwnType(type) === isOwn))
}

/** A condition on an instant, whose column is given: it is in one of the hours of the parameter `hours`, in seconds. */
export function inHours(at: string): string {
  return `toStartOfHour(${at}) in (select fromUnixTimestamp(arrayJoin({hours:Array(UInt32)})))`
}

/**
 * The hours of the ledger that have events of a meter's types, with how many rows; the newest first.
 * @param options `unbuilt`: only those that the build of this key has not computed
 */
export async function hoursOf(
  store: Store,
  { eventTypes }: Meter,
  { unbuilt, ...reading }: { readonly unbuilt?: string } & Pick<Reading, 'settings'> = {},
): Promise<readonly { readonly hourS: number; readonly rows: number }[]> {
  const parts = tablesOf(eventTypes).map(
    ({ table, at }) =>
      `select toStartOfHour(${at}) as hour, count() as found from ${table} where type in ({types:Array(String)}) group by hour`,
  )
  const rows = await store.rows<{ hour_s: number; found: string }>(
    `select toUnixTimestamp(hour) as hour_s, sum(found) as found from (${parts.join(' union all ')})
     where ${unbuilt === undefined ? 'true' : 'hour not in (select hour from built where meter = {key:String})'}
     group by hour order by hour desc`,
    { types: eventTypes, key: unbuilt },
    reading,
  )
  return rows.map(({ hour_s, found }) => ({ hourS: Number(hour_s), rows: Number(found) }))
}

/** How far the build of a definition is. */
export interface BuildProgress {
  readonly hoursDone: number
  readonly hours: number
  /** Events of history that have something where the value should be that is no number within bounds: they do not count. */
  readonly unusable: number
  /** One of them, as source, subject, time and what stands there; '' where there is none. */
  readonly example: string
}

/** By key, of those that are not retired. One that is building costs a look through the ledger, and all of them the same one. */
export async function progressOf(
  store: Store,
  builds: readonly Build[],
): Promise<ReadonlyMap<string, BuildProgress>> {
  const kept = builds.filter(({ state }) => state !== 'retired')
  if (kept.length === 0) return new Map()
  const rows = await store.rows<{ meter: string; done: string; unusable: string; example: string }>(
    `select meter, count() as done, sum(unusable) as unusable, argMax(example, (example != '', hour)) as example
     from built final where meter in ({keys:Array(String)}) group by meter`,
    { keys: kept.map(({ key }) => key) },
  )
  const known = new Map(rows.map(row => [row.meter, row]))
  const left = await hoursLeft(
    store,
    kept.filter(({ state }) => state === 'building'),
  )
  return new Map(
    kept.map(({ key }) => {
      const row = known.get(key)
      const hoursDone = Number(row?.done ?? 0)
      const hours = hoursDone + (left.get(key) ?? 0)
      return [key, { hoursDone, hours, unusable: Number(row?.unusable ?? 0), example: row?.example ?? '' }]
    }),
  )
}

/** By key, how many hours of the ledger have events of its types and are not built. */
async function hoursLeft(store: Store, builds: readonly Build[]): Promise<ReadonlyMap<string, number>> {
  const pairs = builds.flatMap(({ key, meter }) => meter.eventTypes.map(type => [key, type] as const))
  if (pairs.length === 0) return new Map()
  const types = pairs.map(([, type]) => type)
  const there = tablesOf(types).map(
    ({ table, at }) =>
      `select distinct type, toStartOfHour(${at}) as hour from ${table} where type in ({types:Array(String)})`,
  )
  const rows = await store.rows<{ meter: string; hours: string }>(
    `select meter, uniqExact(hour) as hours
     from (select arrayJoin(arrayZip({keys:Array(String)}, {types:Array(String)})) as pair, pair.1 as meter, pair.2 as type) as asked
     join (select toString(type) as type, hour from (${there.join(' union all ')})) as there using type
     where (meter, hour) not in (select meter, hour from built where meter in ({keys:Array(String)}))
     group by meter`,
    { keys: pairs.map(([key]) => key), types },
  )
  return new Map(rows.map(({ meter, hours }) => [meter, Number(hours)]))
}

/**
 * Computes the next hours of a meter that is new or changed, the newest first, and resolves to how many hours
 * those were; 0 where no meter has history left to compute.
 *
 * What is written has version 0, so a recompute of the cell that knew the meter wins, whichever comes first, also where it
 * found no events: see `isBeingBuilt`. One that did not know it had begun before the meter was registered, and so before
 * the ledger is read here.
 */
async function build(store: Store, builds: readonly Build[], rowsMax: number): Promise<number> {
  for (const first of builds) {
    if (first.state !== 'building') continue
    const left = await hoursOf(store, first.meter, { unbuilt: first.key })
    if (left.length === 0) {
      await finish(store, [first])
      continue
    }
    let rows = 0
    const hours: number[] = []
    for (const hour of left) {
      if (rows > 0 && rows + hour.rows > rowsMax) break
      rows += hour.rows
      hours.push(hour.hourS)
    }
    const families = familiesOf(builds.filter(({ state }) => state === 'building'))
    const alike = families.find(family => family.includes(first)) ?? []
    const done = await store.rows<{ meter: string }>(
      'select distinct meter from built where meter in ({keys:Array(String)}) and toUnixTimestamp(hour) in ({hours:Array(UInt32)})',
      { keys: alike.map(({ key }) => key), hours },
    )
    const isBegun = new Set(done.map(({ meter }) => meter))
    await buildHours(
      store,
      alike.filter(({ key }) => !isBegun.has(key)),
      hours,
    )
    return hours.length
  }
  return 0
}

async function buildHours(store: Store, family: readonly Build[], hours: readonly number[]): Promise<void> {
  const meters = family.map(({ meter }) => meter)
  const ledger = ledgerRows(meters, { range: inHours })
  const keys = family.map(({ key }) => key)
  const params = { ...ledger.params, keys, hours }
  const { all, columns, lists, select } = cellSql(meters, ledger)
  await store.run(
    `insert into cells (meter, source, subject, hour, version, ${columns.join(', ')})
     select meter, source, subject, hour, 0, ${columns.join(', ')}
     from (select source, subject, hour, groupArray((dims, ${all})) as groups from (${select})
       group by source, subject, hour)
     array join {keys:Array(String)} as meter, ${lists.join(', ')}
     where notEmpty(dims)`,
    params,
  )
  const counts = meters.map((_, index) => `countIf(unusable${index} != '')`)
  const examples = meters.map(
    (_, index) =>
      `anyIf(concat(toString(source), ' ', subject, ' ', toString(fromUnixTimestamp64Milli(at_ms, 'UTC')), ' ', substringUTF8(unusable${index}, 1, 80)), unusable${index} != '')`,
  )
  await store.run(
    `insert into built (meter, hour, unusable, example)
     with found as (select hour, [${counts.join(', ')}] as unusables, [${examples.join(', ')}] as examples
       from ${ledger.sql} group by hour)
     select meter, fromUnixTimestamp(hour_s) as hour, number, text
     from (select arrayJoin({hours:Array(UInt32)}) as hour_s) as asked
     left join found on fromUnixTimestamp(asked.hour_s) = found.hour
     array join {keys:Array(String)} as meter, arrayResize(unusables, ${meters.length}) as number, arrayResize(examples, ${meters.length}) as text`,
    params,
  )
}

/** Those of whose types the ledger has nothing are ready. */
async function finishBuilds(store: Store, builds: readonly Build[]): Promise<void> {
  const asked = builds.flatMap(({ meter }) => meter.eventTypes)
  const tables = tablesOf(asked).map(({ table }) => `select type from ${table}`)
  const rows = await store.rows<{ type: string }>(
    `select distinct type from (${tables.join(' union all ')}) where type in ({types:Array(String)})`,
    { types: asked },
  )
  const types = new Set(rows.map(({ type }) => type))
  await finish(
    store,
    builds.filter(({ meter }) => !meter.eventTypes.some(type => types.has(type))),
  )
}

/** Ready first, then those retired that a ready one takes the place of: in between both would be right. */
async function finish(store: Store, done: readonly Build[]): Promise<void> {
  if (done.length === 0) return
  await enter(store, done, 'ready')
  const builds = await buildsOf(store)
  const ready = builds.filter(({ state }) => state === 'ready')
  const latest = new Map(ready.map(({ meter, ordinal }) => [meter.slug, ordinal]))
  const before = builds.filter(
    ({ meter, state, ordinal }) => state !== 'retired' && ordinal < (latest.get(meter.slug) ?? 0),
  )
  await enter(store, before, 'retired')
}

/**
 * Deletes the cells of those that no query can be using any more. Deleting goes on in ClickHouse, and may be lost with it:
 * they are gone when nothing is left of them, and asked for once more until then.
 */
async function clear(store: Store, builds: readonly Build[]): Promise<void> {
  const left = builds.filter(build => !isKept(build) && build.ageSeconds > 2 * statementSecondsMax)
  if (left.length === 0) return
  const params = { keys: left.map(({ key }) => key) }
  const ofKeys = 'where meter in ({keys:Array(String)})'
  const [row] = await store.rows<{ is_there: boolean; is_going: boolean }>(
    `select exists(select 1 from cells ${ofKeys}) or exists(select 1 from built ${ofKeys}) as is_there,
       exists(select 1 from system.mutations
         where database = currentDatabase() and table in ('cells', 'built') and not is_done) as is_going`,
    params,
  )
  if (!row?.is_there) await enter(store, left, 'gone')
  else if (!row.is_going) {
    await store.run(`alter table cells delete ${ofKeys}`, params)
    await store.run(`alter table built delete ${ofKeys}`, params)
  }
}

// -- cells that were touched

/**
 * For so long, in milliseconds, a cell stays stale after it was computed again. So whoever finds it fresh within this time
 * of a moment knows that its row was there at that moment already: who asks may read cells and look up the stale ones
 * at once (usage.ts).
 */
export const settlingMs = 500

interface RecomputeOptions {
  readonly run: bigint
  readonly cellsMax: number
  /** Less than `settlingMs` only where nobody asks meanwhile. */
  readonly settleMs?: number
  /** Of history, in a statement. */
  readonly rowsMax?: number
}

/**
 * Recomputes stale cells of every registered meter, whole hours of a source, the oldest first, until they are
 * `cellsMax`, and then goes on with what new meters lack of history. Resolves to how much there was to do: 0 where every
 * cell is fresh and every meter is ready.
 *
 * The order matters: tokens are seen first, then the meters and the ledger are read, then the rows are written, and
 * only then, `settleMs` later, are exactly those tokens finished. Whatever touches a cell in between leaves a token of its
 * own. A row's version is that of the row it replaces plus the tokens seen, so of two recomputes the one that knew more wins.
 */
export async function recompute(store: Store, options: RecomputeOptions): Promise<number> {
  const { cells, builds } = await recomputeStale(store, options)
  const hours = await build(store, builds, options.rowsMax ?? buildRowsMax)
  await clear(store, builds)
  return cells + hours
}

async function recomputeStale(
  store: Store,
  options: RecomputeOptions,
): Promise<{ readonly cells: number; readonly builds: readonly Build[] }> {
  const run = options.run.toString()
  // Mostly there is nothing, and what follows is three times as dear. What is touched from now on is for the next look.
  const [stale] = await store.rows<{ is_there: boolean }>(
    'select exists(select 1 from stale final where not done) as is_there',
  )
  if (!stale?.is_there) return { cells: 0, builds: await buildsOf(store) }
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
  const builds = await buildsOf(store)
  const cells = Number(taken?.cells ?? 0)
  if (cells === 0) return { cells, builds }
  const families = familiesOf(builds.filter(isKept))
  // Of a single family the look at the types would save nothing: there is hardly an hour without any of its.
  const types = families.length > 1 ? await typesIn(store, run) : undefined
  const touched = families.filter(
    family => !types || family.some(({ meter }) => meter.eventTypes.some(type => types.has(type))),
  )
  for (const family of touched) await recomputeFamily(store, run, family)
  await sleep(options.settleMs ?? settlingMs)
  await store.run(
    `insert into stale (source, hour, token, subjects, done)
     select source, hour, token, [], 1 from recomputes where run = {run:UInt64}`,
    { run },
  )
  return { cells, builds }
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
async function recomputeFamily(store: Store, run: string, family: readonly Build[]): Promise<void> {
  const meters = family.map(({ meter }) => meter)
  const cells =
    'select source, subject, hour from recomputes array join subjects as subject where run = {run:UInt64}'
  const hours = 'select hour from recomputes where run = {run:UInt64}'
  const days = 'select toDate(hour) from recomputes where run = {run:UInt64}'
  const ledger = ledgerRows(meters, {
    range: at => `toStartOfHour(${at}) in (${hours})`,
    and: at => `(source, subject, toStartOfHour(${at})) in (${cells})`,
  })
  const { all, none, columns, lists, select } = cellSql(meters, ledger)
  // One `group by` over three kinds of rows: the tokens seen, what the cells have, and what the ledger has. The
  // defaults give the first two the columns of the third. A cell without events takes the place of one that is there, or
  // that a build may yet write, of events which it had.
  await store.run(
    `insert into cells (meter, source, subject, hour, version, ${columns.join(', ')})
     select meter, source, subject, hour, version, ${columns.join(', ')}
     from (
       select source, subject, hour, max(previous) + uniqExactIf(token, kind = 1) as version,
         countIf(kind = 2) > 0 as is_there, groupArrayIf((dims, ${all}), kind = 3) as groups
       from (
         select source, subject, hour, 1 as kind, token, toUInt64(0) as previous, []::Array(String) as dims, ${none}
         from recomputes array join subjects as subject where run = {run:UInt64}
         union all
         select source, subject, hour, 2, toUInt64(0), version, []::Array(String), ${none}
         from (select source, subject, hour, version from cells final
           where meter in ({keys:Array(String)}) and toDate(hour) in (${days}) and (source, subject, hour) in (${cells}))
         union all
         select source, subject, hour, 3, toUInt64(0), toUInt64(0), dims, ${all} from (${select}))
       group by source, subject, hour)
     array join {keys:Array(String)} as meter, ${lists.join(', ')}
     where notEmpty(dims) or is_there or meter in ({building:Array(String)})`,
    {
      ...ledger.params,
      run,
      keys: family.map(({ key }) => key),
      building: family.filter(isBeingBuilt).map(({ key }) => key),
    },
  )
}

/** The words of the statements that make cells of a family of meters. */
function cellSql(meters: readonly Meter[], ledger: LedgerRows) {
  const dims = meters[0] ? dimNames(meters[0]).map((_, index) => `dim${index}`) : []
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
  // The groups of a cell are (dims, then these): a meter has those that it counted. Of each only what is kept is taken
  // out of them: whole groups copied for each meter cost twice as much.
  const placeOf = (of: number, column: string) =>
    figures.findIndex(figure => figure.of === of && figure.column === column) + 2
  const counted = (of: number, place: number) =>
    `arrayFilter((x, n) -> n > 0, groups.${place}, groups.${placeOf(of, 'there')})`
  const listOf = (of: number, column: string) =>
    figures.some(figure => figure.of === of && figure.column === column)
      ? counted(of, placeOf(of, column))
      : undefined
  const each = (text: (index: number) => string) => `[${meters.map((_, index) => text(index)).join(', ')}]`
  const kept = new Map(meters.flatMap(meter => figuresOf(meter).map(figure => [figure.name, figure])))
  const lists = [`${each(index => counted(index, 1))} as dims`]
  const columns = ['dims']
  for (const { name, column, type, whole } of kept.values()) {
    columns.push(column)
    lists.push(`${each(index => listOf(index, column) ?? `[]::Array(${type})`)} as ${column}`)
    if (whole === undefined) continue
    const one = (list: string | undefined) =>
      list === undefined ? `defaultValueOfTypeName('${type}')` : `arrayReduce('${whole}', ${list})`
    columns.push(name)
    lists.push(`${each(index => one(listOf(index, column)))} as ${name}`)
  }
  const key = ['source', 'subject', 'hour', ...dims].join(', ')
  return {
    all: figures.map(({ as }) => as).join(', '),
    none: figures.map(({ none, as }) => `${none} as ${as}`).join(', '),
    columns,
    lists,
    /** A row a group of a cell. */
    select: `select source, subject, hour, [${dims.join(', ')}]::Array(String) as dims,
        ${figures.map(({ sql, as }) => `${sql} as ${as}`).join(', ')}
      from ${ledger.sql} group by ${key}`,
  }
}
