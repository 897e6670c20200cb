/**
 * `npm run bench -- query [short] [EVENTS …]`: questions for usage through our own code, against the table and the SQL of OpenMeter
 * made of the same events in the same embedded ClickHouse. Without numbers: 2 and 20 million over a week, and 20 million
 * over 720 hours. `short` looks whether it works: a day, and nothing is asked often enough to be measured.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { openEmbedded } from '../../deploy/embedded/embedded.ts'
import { currentReads } from '../../processor/reads.ts'
import { readyKey, registerMeters } from '../../processor/rollups.ts'
import { type Params, Store } from '../../processor/store.ts'
import { planUsage, staleSql, type UsageQuery, usageSql } from '../../processor/usage-plan.ts'
import type { Meter } from '../../schemas/meters.ts'
import { hourMs, showInstant } from '../../schemas/window.ts'
import { freshen } from '../freshen.ts'
import { cpuSeconds } from './ingest.ts'
import { loadStartMs } from './load.ts'
import { type MadePlan, makeLedger, makePeerTable, peerId } from './made-ledger.ts'
import { askUsage, serveUsage } from './usage-api.ts'
import { atMost } from './wanted.ts'

const subjects = 1000
const types = 10

/** How long it measures. Ticks are of 10 ms: what takes less is asked so often that it is `cpuMsMin`. */
interface Effort {
  readonly rounds: number
  readonly cpuMsMin: number
  readonly lone: number
}
const full: Effort = { rounds: 5, cpuMsMin: 250, lone: 200 }
const short: Effort = { rounds: 1, cpuMsMin: 10, lone: 5 }
const repeatsMax = 60
const week = 168

const typeName = (type: number) => `io.meterline.bench.thing${type}.v1`
const groupBy = { gpu_type: 'gpu_type', profile: 'profile' }
const meterOf = (slug: string, eventTypes: readonly string[]): Meter => ({
  slug,
  eventTypes: [...eventTypes],
  aggregation: 'SUM',
  value: 'gpu_seconds',
  groupBy,
  unit: 's',
})
/** Without `per`, so that sums are compared digit by digit. */
const all = meterOf(
  'gpu_seconds',
  Array.from({ length: types }, (_, type) => typeName(type)),
)
const one = meterOf('gpu_seconds_of_one', [typeName(3)])
const meters = [all, one]
const subject = 'tenant-0500'

interface Case {
  readonly name: string
  readonly ours: UsageQuery
  readonly asked: Readonly<Record<string, string>>
  readonly theirs: (value: string) => string
  /** How many times less CPU than with their default. */
  readonly wanted?: number
}

export async function benchQuery(args: readonly string[]): Promise<void> {
  const isShort = args.includes('short')
  const given = args.filter(arg => arg !== 'short').map(Number)
  const of = (events: number, hours: number) => ({ events, subjects, types, hours, rereadPercent: 2 })
  const plans =
    given.length > 0
      ? given.map(events => of(events, isShort ? 24 : week))
      : [of(2_000_000, week), of(20_000_000, week), of(20_000_000, 720)]
  for (const plan of plans) await benchPlan(plan, isShort ? short : full)
}

async function benchPlan(plan: MadePlan, effort: Effort): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'meterline-bench-query-'))
  try {
    await using embedded = await openEmbedded({ dataDir: dir })
    const { url, user, password, pid } = embedded
    await using store = await Store.open({ url, user, password, database: 'bench' }, { deadlineMs: 900_000 })
    const readings = await makeLedger(store, plan)
    console.log(`\n# ${readings.toLocaleString('en')} events over ${plan.hours} hours`)
    await makePeerTable(store, plan)
    await registerMeters(store, meters)
    await freshen(store, { cellsMax: 20_000 })
    await quiet(store)
    await printBytes(store, readings)
    await compareSums(store, plan)
    await benchCases(store, pid, plan, effort)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

/** Until no merge has run for a while: as a store is that nobody writes to. */
async function quiet(store: Store): Promise<void> {
  for (let calm = 0; calm < 6; calm += 1) {
    await sleep(500)
    const [row] = await store.rows<{ merges: string }>('select count() as merges from system.merges')
    if (row?.merges !== '0') calm = -1
  }
}

// -- bytes

async function printBytes(store: Store, readings: number): Promise<void> {
  const rows = await store.rows<{ table: string; bytes: string; parts: string }>(
    `select table, sum(bytes_on_disk) as bytes, count() as parts from system.parts
     where active and database = currentDatabase() and table in ('events', 'reads', 'cells', 'om_events') group by table`,
  )
  const bytes = new Map(rows.map(row => [row.table, Number(row.bytes)]))
  const of = (table: string) => bytes.get(table) ?? 0
  const each = (count: number) => `${(count / readings).toFixed(1)} bytes an event`
  const ours = of('events') + of('reads') + of('cells')
  console.log(
    `on disk: ledger ${each(of('events') + of('reads'))}, rollups of ${meters.length} meters ${each(of('cells'))}; theirs ${each(of('om_events'))}: ${(ours / of('om_events')).toFixed(3)} of it ${atMost(ours / of('om_events'), 0.5)}`,
  )
}

// -- sums

/** Every sum by hour and subject, to the last digit, over the reads that count: they would bill re-reads twice. */
async function compareSums(store: Store, plan: MadePlan): Promise<void> {
  const superseded = `select ${peerId} from events where (source, scope, start, readat) not in (${currentReads('true')})`
  const { from, to } = bounds(plan)
  const theirs = new Map<string, string>()
  const value = decimalOf('data')
  const sql = `select toUnixTimestamp(tumbleStart(time, toIntervalHour(1), 'UTC')) as hour_s, subject, sum(${value}) as value
    from om_events where namespace = 'default' and time >= ${from} and time < ${to} and id not in (${superseded})
    group by hour_s, subject`
  for await (const rows of store.stream(sql))
    for (const [hourS, of, sum] of rows as [number, string, string][]) theirs.set(`${hourS} ${of}`, sum)
  await using api = await serveUsage(store, meters)
  const answer = JSON.parse(
    (await askUsage(api.url, { meter: all.slug, ...span(plan), window: 'HOUR' })).toString(),
  ) as readonly { readonly window_start: string; readonly subject: string; readonly value: string }[]
  for (const row of answer) {
    const key = `${Date.parse(row.window_start) / 1000} ${row.subject}`
    if (theirs.get(key) !== row.value) throw new Error(`${key}: ours ${row.value}, theirs ${theirs.get(key)}`)
  }
  if (answer.length !== theirs.size)
    throw new Error(`${answer.length} sums of ours, ${theirs.size} of theirs`)
  console.log(`${answer.length.toLocaleString('en')} sums by hour and subject are equal to the last digit`)
}

// -- questions

const bounds = ({ hours }: MadePlan) => ({
  from: loadStartMs / 1000,
  to: (loadStartMs + hours * hourMs) / 1000,
})
const span = ({ hours }: MadePlan) => ({
  from: showInstant(loadStartMs),
  to: showInstant(loadStartMs + hours * hourMs),
})

/** As OpenMeter's query package writes them: its default is floats, decimals are an option. */
const measure = `JSON_VALUE(om_events.data, '$.measures.gpu_seconds')`
const float = `ifNotFinite(toFloat64OrNull(${measure}), null)`
const decimalOf = (data: string) =>
  `toDecimal128OrNull(nullIf(JSON_VALUE(${data}, '$.measures.gpu_seconds'), 'null'), 19)`
const decimal = decimalOf('om_events.data')

function casesOf(plan: MadePlan): readonly Case[] {
  const { from, to } = bounds(plan)
  const whole = { startMs: from * 1000, endMs: to * 1000 }
  const peer =
    (where: string, window: string | undefined, limit = '') =>
    (value: string) => {
      const start =
        window === undefined
          ? `tumbleStart(min(om_events.time), toIntervalMinute(1)) as windowstart, tumbleEnd(max(om_events.time), toIntervalMinute(1)) as windowend`
          : `tumbleStart(om_events.time, toInterval${window}(1), 'UTC') as windowstart, tumbleEnd(om_events.time, toInterval${window}(1), 'UTC') as windowend`
      return `select ${start}, sum(${value}) as value, om_events.subject from om_events
      where om_events.namespace = 'default' and ${where} and om_events.time >= ${from} and om_events.time < ${to}
      group by ${window === undefined ? '' : 'windowstart, windowend, '}om_events.subject
      ${window === undefined ? limit : 'order by windowstart'}`
    }
  const ofAll = `om_events.type in (${all.eventTypes.map(type => `'${type}'`).join(', ')})`
  const ofOne = `om_events.type = '${typeName(3)}'`
  const ofSubject = `om_events.subject in ('${subject}')`
  const ask = (meter: Meter, more: Partial<UsageQuery>, also: Readonly<Record<string, string>>) => ({
    ours: { meter, span: whole, zone: 'UTC', groupBy: [], where: {}, ...more },
    asked: { meter: meter.slug, ...span(plan), ...also },
  })
  const hourly = [{ step: 'HOUR' }, { window: 'HOUR' }] as const
  const daily = [{ step: 'DAY' }, { window: 'DAY' }] as const
  const isWeek = plan.hours === week
  return [
    {
      name: 'all subjects, by hour',
      ...ask(all, ...hourly),
      theirs: peer(ofAll, 'Hour'),
      ...(isWeek && { wanted: 20 }),
    },
    {
      name: 'one type, by hour',
      ...ask(one, ...hourly),
      theirs: peer(ofOne, 'Hour'),
      ...(isWeek && { wanted: 8 }),
    },
    {
      name: 'one subject, by hour',
      ...ask(all, { ...hourly[0], subjects: [subject] }, { ...hourly[1], subject }),
      theirs: peer(`${ofAll} and ${ofSubject}`, 'Hour'),
      ...(isWeek && { wanted: 1 }),
    },
    {
      name: 'one subject of one type, by hour',
      ...ask(one, { ...hourly[0], subjects: [subject] }, { ...hourly[1], subject }),
      theirs: peer(`${ofOne} and ${ofSubject}`, 'Hour'),
      ...(isWeek && { wanted: 1 }),
    },
    {
      name: 'one subject, by day',
      ...ask(all, { ...daily[0], subjects: [subject] }, { ...daily[1], subject }),
      theirs: peer(`${ofAll} and ${ofSubject}`, 'Day'),
    },
    { name: 'all subjects, by day', ...ask(all, ...daily), theirs: peer(ofAll, 'Day') },
    {
      name: 'top 10 subjects of all of it',
      ...ask(all, { top: 10 }, { top: '10' }),
      theirs: peer(ofAll, undefined, 'order by value desc limit 10'),
    },
    {
      name: 'by hour and a group, subjects put together',
      ...ask(
        all,
        { ...hourly[0], groupBy: ['profile'], keep: { source: false, subject: false } },
        { ...hourly[1], groupBy: 'profile' },
      ),
      theirs: value =>
        peer(
          ofAll,
          'Hour',
        )(value).replaceAll('om_events.subject', `JSON_VALUE(om_events.data, '$.labels.profile')`),
    },
  ]
}

interface Statement {
  readonly sql: string
  readonly params: Params
}

/** What is asked of the store for one question: what is stale first, then the answer. */
async function statementsOf(store: Store, query: UsageQuery): Promise<readonly Statement[]> {
  const plan = planUsage(query)
  const rollups = await readyKey(store, query.meter)
  if (rollups === undefined) throw new Error(`${query.meter.slug} has no rollups`)
  // The API has found the meter before, and its rollups with it.
  return [
    staleSql(plan, { cellsMax: 1000, isReadyKnown: true }),
    usageSql(plan, { rollups, stale: { cells: [] } }),
  ]
}

async function benchCases(store: Store, pid: number, plan: MadePlan, effort: Effort): Promise<void> {
  await using api = await serveUsage(store, meters)
  const cases = casesOf(plan)
  console.log(
    '| question | CPU of ClickHouse: ours / theirs / theirs in decimals | **ratio** | wanted | end to end: ours / theirs | ratio |',
  )
  console.log('|---|---|---|---|---|---|')
  for (const { name, ours, asked, theirs, wanted } of cases) {
    const statements = await statementsOf(store, ours)
    const cpu = await bestCpuMs(pid, effort, [
      async () => await toNothing(store, statements),
      async () => await toNothing(store, [{ sql: theirs(float), params: {} }]),
      async () => await toNothing(store, [{ sql: theirs(decimal), params: {} }]),
    ])
    const wall = await bestWallMs(effort, [
      async () => void (await askUsage(api.url, asked)),
      async () => await toJson(store, theirs(float)),
    ])
    const [mine = 0, other = 0, exact = 0] = cpu
    const [mineMs = 0, otherMs = 0] = wall
    console.log(
      `| ${name} | ${ms(mine)} / ${ms(other)} / ${ms(exact)} | **${(other / mine).toFixed(1)}** | ${wanted === undefined ? '' : `${wanted}, ${other / mine >= wanted ? 'holds' : 'MISSED'}`} | ${ms(mineMs)} / ${ms(otherMs)} | ${(otherMs / mineMs).toFixed(1)} |`,
    )
  }
  const lone = cases.filter(({ name }) => name.startsWith('one subject'))
  for (const { name, asked } of lone) await printLatency(api.url, name, asked, effort)
  // As they are an hour after the last of them was touched (processor/tables/0016-cells-at-rest.sql).
  await store.run('optimize table cells final')
  for (const { name, asked } of lone) await printLatency(api.url, `${name}, its month at rest`, asked, effort)
  await benchCoarser(store, pid, plan, effort)
}

async function printLatency(
  url: string,
  name: string,
  asked: Case['asked'],
  { lone }: Effort,
): Promise<void> {
  const times: number[] = []
  for (let at = 0; at < lone; at += 1) times.push(await wallMs(async () => void (await askUsage(url, asked))))
  times.sort((a, b) => a - b)
  const of = (share: number) => times[Math.floor(lone * share)] ?? 0
  console.log(
    `${name}, over HTTP ${lone} times: p50 ${ms(of(0.5))}, p95 ${ms(of(0.95))} ${atMost(of(0.95), 50, ' ms')}`,
  )
}

/** What rollups by day would give beside those by hour: made here for this alone. */
async function benchCoarser(store: Store, pid: number, plan: MadePlan, effort: Effort): Promise<void> {
  const key = await readyKey(store, all)
  await store.run(
    `create table days engine = MergeTree order by (day, source, subject) as
     select toDate(hour) as day, source, subject, sum(sum) as sum from cells final where meter = {key:String}
     group by day, source, subject`,
    { key },
  )
  const byHour = await statementsOf(store, {
    meter: all,
    span: { startMs: bounds(plan).from * 1000, endMs: bounds(plan).to * 1000 },
    zone: 'UTC',
    groupBy: [],
    where: {},
    step: 'DAY',
  })
  const byDay = {
    sql: 'select day, source, subject, sum from days order by day, source, subject',
    params: {},
  }
  const [hourly = 0, daily = 0] = await bestCpuMs(pid, effort, [
    async () => await toNothing(store, byHour),
    async () => await toNothing(store, [byDay]),
  ])
  console.log(
    `all subjects by day over ${plan.hours} hours: of rollups by hour ${ms(hourly)} of CPU, of rollups by day it would be ${ms(daily)}, ${(hourly / daily).toFixed(1)} times less`,
  )
}

/** With one thread each, as questions are asked. */
async function toNothing(store: Store, statements: readonly Statement[]): Promise<void> {
  for (const { sql, params } of statements)
    await store.run(`${sql} settings max_threads = 1 format Null`, params)
}

async function toJson(store: Store, sql: string): Promise<void> {
  for await (const _ of store.stream(sql, {}, { settings: { max_threads: 1 } }));
}

/** The least of each, alternating; each first runs once for the caches. */
async function bestCpuMs(
  pid: number,
  { rounds, cpuMsMin }: Effort,
  runs: readonly (() => Promise<void>)[],
): Promise<readonly number[]> {
  const used = async (run: () => Promise<void>, times: number) => {
    const before = cpuSeconds(pid)
    for (let at = 0; at < times; at += 1) await run()
    return ((cpuSeconds(pid) - before) * 1000) / times
  }
  const repeats: number[] = []
  for (const run of runs) {
    await run()
    repeats.push(Math.min(repeatsMax, Math.ceil(cpuMsMin / Math.max(1, await used(run, 1)))))
  }
  const best = runs.map(() => Number.POSITIVE_INFINITY)
  for (let round = 0; round < rounds; round += 1)
    for (const [index, run] of runs.entries())
      best[index] = Math.min(best[index] ?? 0, await used(run, repeats[index] ?? 1))
  return best
}

async function bestWallMs(
  { rounds }: Effort,
  runs: readonly (() => Promise<void>)[],
): Promise<readonly number[]> {
  const best = runs.map(() => Number.POSITIVE_INFINITY)
  for (let round = 0; round < rounds; round += 1)
    for (const [index, run] of runs.entries()) best[index] = Math.min(best[index] ?? 0, await wallMs(run))
  return best
}

async function wallMs(run: () => Promise<void>): Promise<number> {
  const startedMs = performance.now()
  await run()
  return performance.now() - startedMs
}

const ms = (value: number) => `${value < 100 ? value.toFixed(1) : Math.round(value).toLocaleString('en')} ms`
