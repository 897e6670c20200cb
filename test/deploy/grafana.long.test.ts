/**
 * The dashboards for Grafana: every query of theirs is asked, of a real ClickHouse with a ledger in it or of a real
 * Prometheus that reads a real /metrics, and answers what is so. Grafana itself is not here: its macros are expanded as the
 * documentation of its ClickHouse plugin says, its variables as its own does.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Counter, Gauge, Histogram } from 'prom-client'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parse } from 'yaml'
import '../../collector/counters.ts'
import '../../processor/process.ts'
import '../../processor/watch-coverage.ts'
import '../../runtime/http.ts'
import '../../runtime/log/ingest.ts'
import { accept } from '../../processor/accept.ts'
import { Health, serveHealth } from '../../runtime/health.ts'
import { collectProcessMetrics, registry } from '../../runtime/metrics.ts'
import { secondMs } from '../../schemas/window.ts'
import { day, hourOf, openWorld, source, type World } from '../processor/ledger-world.ts'
import { batchOf, instance, readEvents } from '../reads.ts'
import { startClickHouse, type TestClickHouse } from '../rig/clickhouse.ts'
import { type PrometheusServer, startPrometheus } from '../rig/prometheus.ts'

interface Target {
  readonly refId: string
  readonly datasource: { readonly type: string; readonly uid: string }
  readonly rawSql?: string
  readonly expr?: string
}
interface Panel {
  readonly id: number
  readonly title: string
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number }
  readonly interval?: string
  readonly targets: readonly Target[]
}
interface Dashboard {
  readonly uid: string
  readonly panels: readonly Panel[]
  readonly templating: {
    readonly list: readonly {
      readonly name: string
      readonly type: string
      readonly query: string
      readonly current: unknown
    }[]
  }
}

const folder = new URL('../../deploy/grafana/', import.meta.url)
const read = (path: string) => readFileSync(new URL(path, folder), 'utf8')
const dashboards = readdirSync(new URL('dashboards/', folder)).map(
  name => JSON.parse(read(`dashboards/${name}`)) as Dashboard,
)
const panels = dashboards.flatMap(({ uid, panels: all }) => all.map(panel => ({ uid, panel })))

// -- the ledger

/** Of the variables that the queries name, as somebody chose them. */
const chosen: Readonly<Record<string, readonly string[]>> = {
  meter: ['gpu_hours'],
  dim: ['gpu_type'],
  source: [source, "it's another"],
  subject: ['a', "b'c"],
  price: ['2.50'],
}

/** As Grafana's ClickHouse plugin expands them, with the day as the time chosen and `intervalS` as the width of a point. */
function expanded(sql: string, intervalS: number): string {
  const [from, to] = [day.startMs, day.endMs].map(ms => `toDateTime(${ms / secondMs})`)
  return sql
    .replace(/\$__timeFilter\((\w+)\)/g, (_, column) => `${column} >= ${from} AND ${column} <= ${to}`)
    .replace(/\$__timeInterval\((\w+)\)/g, `toStartOfInterval(toDateTime($1), INTERVAL ${intervalS} second)`)
    .replace(/\$\{(\w+)(?::(singlequote))?\}/g, (_, name: string, format?: string) =>
      (chosen[name] ?? [`no variable ${name}`])
        .map(value => (format === 'singlequote' ? `'${value.replaceAll("'", "\\'")}'` : value))
        .join(','),
    )
}

const at = (hour: number) => `2025-06-01T${String(hour).padStart(2, '0')}:00:00Z`

/** What each query of the ledger answers, with two hours a point where there are points. */
const ofLedger: Readonly<Record<string, readonly unknown[]>> = {
  'In the time chosen': [{ quantity: 4.5 }],
  'Cells that wait': [{ cells: '1' }],
  'Tenants with usage': [{ tenants: '2' }],
  'At the list price': [{ amount: 11.25 }],
  '$meter by $dim': [
    { time: at(8), name: '(none)', quantity: 0.5 },
    { time: at(8), name: 'H100', quantity: 3 },
    { time: at(10), name: 'H100', quantity: 1 },
  ],
  '$meter by tenant': [
    { time: at(8), name: `${source} a`, quantity: 2 },
    { time: at(8), name: `${source} b'c`, quantity: 1.5 },
    { time: at(10), name: `${source} a`, quantity: 1 },
  ],
  Tenants: [
    { source, tenant: 'a', unit: 'h', quantity: 3, at_list_price: 7.5, last_hour: at(10), is_stale: 1 },
    { source, tenant: "b'c", unit: 'h', quantity: 1.5, at_list_price: 3.75, last_hour: at(9), is_stale: 0 },
  ],
  Meters: [
    { meter: 'gpu_hours', unit: 'h', quantity: 4.5, tenants: '2', last_hour: at(10) },
    { meter: 'instance_hours', unit: 'h', quantity: 4.5, tenants: '2', last_hour: at(10) },
  ],
  'Windows without a good read': [
    { time: at(8), source, missing: 0 },
    { time: at(10), source, missing: 0.5 },
  ],
  Gaps: [
    {
      source,
      scope: 'scope',
      start: at(11),
      end: at(12),
      state: 'failed',
      fault_code: 'SOURCE_BUSY',
      fault_message: 'busy',
      tried_at: '2025-06-02T01:00:00.000Z',
    },
  ],
  Rejected: [expect.objectContaining({ code: 'EVENT_INVALID', messages: '1' })],
}

const ofVariables: Readonly<Record<string, readonly string[]>> = {
  meter: ['gpu_hours', 'instance_hours'],
  dim: ['gpu_type', 'instance', 'organization', 'profile', 'profile_type'],
  source: [source],
  subject: ['a', "b'c"],
}

let rig: TestClickHouse
let world: World
const scope = new AsyncDisposableStack()
let prometheus: PrometheusServer
const readatMs = Date.parse('2025-06-02T01:00:00Z')

beforeAll(async () => {
  rig = scope.use(await startClickHouse())
  world = scope.use(await openWorld(rig))
  await world.read('scope', 8, readatMs, [
    instance('a', 'i-1', '3600', { gpu_type: 'H100' }),
    instance("b'c", 'i-2', '1800', { gpu_type: '' }),
  ])
  await world.read('scope', 9, readatMs, [
    instance('a', 'i-1', '3600', { gpu_type: 'H100' }),
    instance("b'c", 'i-2', '3600', { gpu_type: 'H100' }),
  ])
  await world.read('scope', 10, readatMs, [instance('a', 'i-1', '3600', { gpu_type: 'H100' })])
  const fault = { code: 'SOURCE_BUSY', message: 'busy' }
  await world.read('scope', 11, readatMs, [], { outcome: 'failed', fault })
  while ((await world.freshen()) > 0);
  // What comes now is not in the cells yet.
  await world.read('scope', 10, readatMs + 1000, [instance('a', 'i-1', '1800', { gpu_type: 'H100' })])
  const bad = batchOf(readEvents({ source, scope: 'x', window: hourOf(1), readatMs }, []), world.offset)
  const message = { ...bad.messages[0]!, value: Buffer.from('{}') }
  await world.ledger.put([accept({ ...bad, messages: [message] }, 'log')])
  // The moment of a reject is when it came: the time that is asked for is of long ago.
  await world.store.run(
    `insert into rejected select * replace (toDateTime64('${at(12)}', 3) as at) from rejected final`,
  )
  prometheus = scope.use(await startMetrics())
})
afterAll(() => scope.disposeAsync())

test('every query of the ledger answers what is in it', async () => {
  const asked: string[] = []
  for (const { panel } of panels)
    for (const { rawSql } of panel.targets) {
      if (rawSql === undefined) continue
      asked.push(panel.title)
      const intervalS = 2 * 3600
      // A point narrower than an hour would show usage where there is none: cells are of hours.
      if (rawSql.includes('$__timeInterval')) expect(panel.interval, panel.title).toBe('1h')
      const rows = await world.store.rows(expanded(rawSql, intervalS))
      expect({ [panel.title]: rows }).toEqual({ [panel.title]: ofLedger[panel.title] })
    }
  expect(asked.sort()).toEqual(Object.keys(ofLedger).sort())
})

test('what may be chosen is what is there', async () => {
  const found = new Map<string, readonly string[]>()
  for (const { name, type, query } of dashboards.flatMap(({ templating }) => templating.list)) {
    if (type !== 'query') continue
    const rows = await world.store.rows<Record<string, string>>(expanded(query, 1))
    found.set(
      name,
      rows.map(row => Object.values(row)[0] ?? ''),
    )
  }
  expect(Object.fromEntries(found)).toEqual(ofVariables)
})

test('the view of readings is exact at once, and that of usage once its cells are computed', async () => {
  const hours = `select sum(measures['gpu_seconds']) / 3600 as hours from current_readings
    where start >= '2025-06-01' and start < '2025-06-02'`
  const usage = `select sum(amount) / 3600 as hours, max(is_stale) as stale from usage_hourly where meter = 'gpu_hours'`
  expect(await world.store.rows(hours)).toEqual([{ hours: '4' }])
  expect(await world.store.rows(usage)).toEqual([{ hours: '4.5', stale: 1 }])
  while ((await world.freshen()) > 0);
  expect(await world.store.rows(usage)).toEqual([{ hours: '4', stale: 0 }])
  expect(await world.store.rows('select * from stale_cells')).toEqual([])
})

// -- metrics

const labels = { source }
const kept = (name: string) => {
  const metric = registry.getSingleMetric(name)
  if (!metric) throw new Error(`no metric ${name}`)
  return metric
}
const gauge = (name: string) => kept(name) as Gauge
const counter = (name: string) => kept(name) as Counter
const histogram = (name: string) => kept(name) as Histogram

/** Counts for as long as Prometheus looks, once a second. */
async function startMetrics(): Promise<PrometheusServer> {
  collectProcessMetrics()
  const server = scope.use(await serveHealth({ health: new Health(), registry, host: '127.0.0.1', port: 0 }))
  gauge('meterline_coverage_oldest_gap_seconds').set(labels, 7200)
  for (const [state, windows] of [
    ['settled', 90],
    ['failed', 2],
    ['never', 3],
  ] as const)
    gauge('meterline_coverage_windows').set({ ...labels, state }, windows)
  gauge('meterline_coverage_bad_items').set(labels, 4)
  gauge('meterline_coverage_looked_at_timestamp_seconds').set(Date.now() / 1000 - 100)
  gauge('meterline_processor_lag_messages').set(7)
  gauge('meterline_processor_last_acknowledged_timestamp_seconds').set(Date.now() / 1000 - 50)
  gauge('meterline_processor_rejected_last_hour').set(3)
  gauge('meterline_rollup_stale_seconds').set(5)
  gauge('meterline_collector_windows_due').set(labels, 6)
  const count = () => {
    counter('meterline_processor_messages_total').inc({ outcome: 'event' }, 100)
    histogram('meterline_processor_put_seconds').observe(0.3)
    counter('meterline_collector_windows_read_total').inc({ ...labels, why: 'new' })
    counter('meterline_collector_windows_failed_total').inc({ ...labels, code: 'SOURCE_BUSY' })
    histogram('meterline_http_call_seconds').observe({ endpoint: 'usage', status: '200' }, 0.2)
    counter('meterline_http_calls_total').inc({ endpoint: 'usage', status: '200' }, 10)
    counter('meterline_ingest_events_total').inc({ outcome: 'accepted' }, 20)
    counter('meterline_rollup_cells_recomputed_total').inc(50)
  }
  count()
  const timer = setInterval(count, 1000)
  scope.defer(() => clearInterval(timer))
  return await startPrometheus({ targets: [new URL(server.url).host] })
}

/** By panel and query: the labels that stand in the legend, and between which values theirs is. */
const ofMetrics: Readonly<Record<string, readonly [Record<string, string>, number, number][]>> = {
  'Oldest gap A': [[{}, 7200, 7200]],
  'Windows missing A': [[{}, 5, 5]],
  'Items that could not be taken A': [[{}, 4, 4]],
  'Told A': [[{}, 100, 400]],
  'Windows by state A': [
    [{ state: 'failed' }, 2, 2],
    [{ state: 'never' }, 3, 3],
    [{ state: 'settled' }, 90, 90],
  ],
  'Oldest gap by source A': [[{ source }, 7200, 7200]],
  'Lag A': [[{}, 7, 7]],
  'Acknowledged A': [[{}, 50, 350]],
  'Outbox A': [[{}, 0, 0]],
  'Oldest in the outbox A': [[{}, 0, 0]],
  'Rejected in an hour A': [[{}, 3, 3]],
  'Rollups behind A': [[{}, 5, 5]],
  // What is counted once a second, on a machine that may be late.
  'Messages by fate A': [[{ outcome: 'event' }, 20, 400]],
  'Time to put a batch A': [[{}, 0.1, 0.5]],
  'Time to put a batch B': [[{}, 0.29, 0.31]],
  'Reads A': [[{ why: 'new' }, 700, 14_000]],
  'Failed reads A': [[{ source, code: 'SOURCE_BUSY' }, 700, 14_000]],
  'Windows due A': [[{ source }, 6, 6]],
  'Calls to providers A': [[{ endpoint: 'usage' }, 0.1, 0.25]],
  'Calls by status A': [[{ status: '200' }, 2, 40]],
  'Pushed over HTTP A': [[{ outcome: 'accepted' }, 4, 80]],
  'Cells computed again A': [[{}, 10, 200]],
  'Memory A': [[{ instance: expect.stringMatching(/^127/) }, 1e7, 1e11]],
}

test('every query of the metrics answers what they say', async () => {
  const ask = async (expr: string) => {
    const query = expr
      .replaceAll('$__rate_interval', '10s')
      // As its data source for Prometheus writes several values.
      .replaceAll('$source', `(${source.replaceAll('.', '\\.')}|another)`)
    const response = await fetch(`${prometheus.url}/api/v1/query?${new URLSearchParams({ query })}`)
    const { status, error, data } = (await response.json()) as {
      status: string
      error?: string
      data?: { result: { metric: Record<string, string>; value: [number, string] }[] }
    }
    if (status !== 'success') throw new Error(`${query}: ${error}`)
    return data?.result ?? []
  }
  // A rate needs several looks.
  for (
    let waitedMs = 0;
    Number((await ask('count_over_time(meterline_rollup_cells_recomputed_total[1m])'))[0]?.value[1] ?? 0) < 4;
    waitedMs += 200
  ) {
    expect(waitedMs).toBeLessThan(40_000)
    await sleep(200)
  }
  const asked: string[] = []
  for (const { panel } of panels)
    for (const { refId, expr } of panel.targets) {
      if (expr === undefined) continue
      const name = `${panel.title} ${refId}`
      asked.push(name)
      const found = (await ask(expr)).sort((a, b) =>
        JSON.stringify(a.metric) < JSON.stringify(b.metric) ? -1 : 1,
      )
      const wanted = ofMetrics[name] ?? []
      expect({ [name]: found.map(({ metric }) => metric) }).toEqual({
        [name]: wanted.map(([metric]) => metric),
      })
      found.forEach(({ value }, index) => {
        const [, least, most] = wanted[index] ?? [{}, 0, 0]
        expect(Number(value[1]), name).toBeGreaterThanOrEqual(least)
        expect(Number(value[1]), name).toBeLessThanOrEqual(most)
      })
    }
  expect(asked.sort()).toEqual(Object.keys(ofMetrics).sort())
})

test('what is provisioned fits together', () => {
  const { datasources } = parse(read('provisioning/datasources/meterline.yaml')) as {
    datasources: { name: string; uid: string; type: string }[]
  }
  expect(datasources.map(({ type }) => type)).toEqual(['grafana-clickhouse-datasource', 'prometheus'])
  const { providers } = parse(read('provisioning/dashboards/meterline.yaml')) as {
    providers: { type: string }[]
  }
  expect(providers).toHaveLength(1)
  expect(new Set(dashboards.map(({ uid }) => uid)).size).toBe(dashboards.length)
  for (const { templating, panels: all } of dashboards) {
    // At first those that are provisioned, also where Grafana has others of their kind.
    const shown = templating.list.filter(({ type }) => type === 'datasource')
    for (const { query, current } of shown) {
      const { name, uid } = datasources.find(({ type }) => type === query)!
      expect(current).toEqual({ text: name, value: uid })
    }
    for (const { datasource } of all.flatMap(({ targets }) => targets))
      expect(shown.map(({ name, query }) => ({ type: query, uid: `\${${name}}` }))).toContainEqual(datasource)
    expect(new Set(all.map(({ id }) => id)).size).toBe(all.length)
    // 24 columns, and nothing lies over anything.
    const places = all.flatMap(({ gridPos: { x, y, w, h } }) =>
      Array.from({ length: w * h }, (_, at) => `${x + (at % w)} ${y + Math.floor(at / w)}`),
    )
    expect(new Set(places).size).toBe(places.length)
    expect(Math.max(...all.map(({ gridPos: { x, w } }) => x + w))).toBe(24)
  }
})
