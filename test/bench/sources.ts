/**
 * Benchmark: each kind of source reads what its provider holds, in a process of its own: items a second, CPU an item, memory,
 * and how long the same calls take bare. The providers are the doubles and servers of the tests, in this process or theirs.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { clusterOf, startKubernetesDouble } from '../../deploy/demo/kubernetes.ts'
import { rafayDemoKey, startRafayDouble } from '../../deploy/demo/rafay.ts'
import {
  type RunaiFixture,
  runaiDemoClientId,
  runaiDemoSecret,
  startRunaiDouble,
} from '../../deploy/demo/runai.ts'
import { runaiMetricsBehaviour, runaiMetricsRoutes } from '../../deploy/demo/runai-metrics.ts'
import { printRows } from '../../runtime/print.ts'
import { hourMs, minuteMs, type Window, windowsOver } from '../../schemas/window.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { startPostgres } from '../rig/postgres.ts'
import { startPrometheus } from '../rig/prometheus.ts'
import type { ReaderFigures, ReaderLoad } from './source-reader.ts'
import { pushHolds, readPush } from './sources-push.ts'

/** A provider with something to read, until it is disposed of. */
interface Provider extends AsyncDisposable {
  readonly load: ReaderLoad
  /** In words. */
  readonly holds: string
}

const reader = fileURLToPath(new URL('source-reader.ts', import.meta.url))
/** Over yesterday: ends on a full hour. */
const endMs = Math.floor(Date.now() / hourMs) * hourMs - 2 * hourMs
const hours = (count: number, widthMinutes: 15 | 60 = 60): readonly Window[] =>
  windowsOver({ startMs: endMs - count * hourMs, endMs }, widthMinutes)
const key = '${env:KEY}'

const uuidOf = (number: number) => `00000000-0000-4000-8000-${String(number).padStart(12, '0')}`
const usageQuery = {
  name: 'vms',
  sql: 'select id, tenant, vm, at, seconds, bytes, gpu from usage where at >= :start and at < :end',
  thing: 'instance',
  subject: 'tenant',
  resource: { kind: 'vm', id: 'vm' },
  measures: { gpu_seconds: 'seconds', network_receive_bytes: 'bytes' },
  labels: { gpu_type: 'gpu' },
}

// A kind is an entry here.
const providers: Readonly<Record<string, () => Promise<Provider>>> = {
  rafay: async () => {
    const count = 4000
    const organizations = Array.from({ length: 50 }, (_, at) => ({
      id: `org${at}`,
      name: `Organization ${at}`,
      slug: `organization-${at}`,
    }))
    const double = await startRafayDouble({
      fixture: {
        organizations,
        profiles: [{ id: 'p', name: 'h100-8x', kind: 'compute' }],
        instances: Array.from({ length: count }, (_, at) => ({
          id: `i-${at}`,
          name: `vm-${at}`,
          organizationId: `org${at % 50}`,
          profileId: 'p',
          startMs: endMs - 24 * hourMs,
          parameters: [
            { name: 'gpu_type', label: 'Nvidia H100' },
            { name: 'GPU Count', label: '8' },
            { name: 'Memory', label: '256' },
          ],
        })),
        tokens: [],
      },
      dialects: ['billing'],
    })
    return {
      holds: `${count} instances of 50 organizations, pages of 400, windows of 15 minutes`,
      load: {
        kind: 'rafay',
        config: { name: 'bench', url: double.url, apiKey: key, kinds: ['compute'] },
        secrets: { [key]: rafayDemoKey },
        windows: hours(2, 15),
        nowMs: Date.now(),
      },
      [Symbol.asyncDispose]: () => double.close(),
    }
  },
  kubernetes: async () => {
    const count = 5000
    const token = 'bench-token'
    let clockMs = endMs - 2 * hourMs - 2 * minuteMs
    const double = await startKubernetesDouble({ nowMs: () => clockMs, token })
    const cluster = clusterOf(double, () => clockMs)
    for (let at = 0; at < 50; at++) cluster.namespace(`team-${at}`)
    for (let at = 0; at < 200; at++)
      cluster.node(`node-${at}`, { 'nvidia.com/gpu.product': 'NVIDIA-H100-80GB-HBM3' })
    for (let at = 0; at < count; at++) {
      cluster.create({
        uid: `p-${at}`,
        namespace: `team-${at % 50}`,
        requests: { cpu: '4', memory: '16Gi', 'nvidia.com/gpu': '1' },
      })
      cluster.schedule(`p-${at}`, `node-${at % 200}`)
      cluster.start(`p-${at}`)
    }
    clockMs = Date.now()
    const marking = setInterval(() => double.bookmark(), 200)
    return {
      holds: `${count} pods on 200 nodes, listed and watched, windows of 15 minutes`,
      load: {
        kind: 'kubernetes',
        config: { name: 'bench', url: double.url, token: key },
        secrets: { [key]: token },
        windows: hours(2, 15),
        watchedFromMs: endMs - 2 * hourMs - minuteMs,
        nowMs: endMs + minuteMs,
      },
      async [Symbol.asyncDispose]() {
        clearInterval(marking)
        await double.close()
      },
    }
  },
  runai: async () => {
    const latencyMs = 20
    const clusterId = uuidOf(1)
    const fixture: RunaiFixture = {
      clusters: [{ id: clusterId, name: 'gpu-1', createdMs: endMs - 100 * hourMs }],
      workloads: Array.from({ length: 1000 }, (_, at) => ({
        id: uuidOf(10_000 + at),
        name: `job-${at}`,
        clusterId,
        projectId: String(at % 20),
        projectName: `project-${at % 20}`,
        departmentId: '2',
        departmentName: 'research',
        type: 'runai-job',
        category: 'Train',
        submittedBy: 'ada@example.com',
        priorityClassName: 'train',
        preemptible: true,
        createdMs: endMs - 24 * hourMs,
      })),
      pods: Array.from({ length: 2000 }, (_, at) => ({
        id: uuidOf(20_000 + at),
        name: `job-${at % 1000}-${at}`,
        workloadId: uuidOf(10_000 + (at % 1000)),
        clusterId,
        nodeName: `gpu-node-${at % 100}`,
        nodePool: 'a100',
        createdMs: endMs - 24 * hourMs,
        startedMs: endMs - 23 * hourMs,
        allocated: { gpu: '1', gpuMemory: '80Gi', cpu: '4', cpuMemory: '16Gi' },
      })),
      nodes: [],
    }
    // A call for each pod and each workload: sequential lists are little beside them.
    const routes = runaiMetricsRoutes(fixture, runaiMetricsBehaviour())
    const double = await startRunaiDouble({ fixture, routes, behaviour: { latencyMs } })
    return {
      holds: `1000 workloads with 2000 pods and their GPUs, ${latencyMs} ms a call (wanted: a ratio under 1.5)`,
      load: {
        kind: 'runai',
        config: {
          name: 'bench',
          url: double.url,
          clientId: runaiDemoClientId,
          clientSecret: key,
          metrics: { collect: ['utilization', 'memory', 'idle'] },
        },
        secrets: { [key]: runaiDemoSecret },
        windows: hours(0.25, 15),
        nowMs: Date.now(),
      },
      [Symbol.asyncDispose]: () => double.close(),
    }
  },
  prometheus: async () => {
    const series = 200
    const startMs = endMs - 24 * hourMs
    const samplesOf = (at: number) => {
      const samples: [number, string][] = []
      for (let ms = startMs - 5 * minuteMs, n = 0; ms <= endMs; ms += 15_000, n++)
        samples.push([ms + at, String(n * (at + 1))])
      return samples
    }
    const server = await startPrometheus({
      past: Array.from({ length: series }, (_, at) => ({
        series: `requests_total{tenant="team-${at % 20}",pod="pod-${at}"}`,
        samples: samplesOf(at),
      })),
    })
    return {
      holds: `${series} counters, a day at 15 s, windows of an hour (wanted: under 30 s)`,
      load: {
        kind: 'prometheus',
        config: {
          name: 'bench',
          url: server.url,
          windowMinutes: 60,
          queries: [
            {
              name: 'requests',
              kind: 'counter',
              selector: 'requests_total',
              measure: 'requests',
              subjectLabel: 'tenant',
              resourceKind: 'pod',
              resourceLabels: ['pod'],
            },
          ],
        },
        secrets: {},
        windows: hours(24),
        nowMs: Date.now(),
      },
      [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
    }
  },
  postgresql: async () => {
    const server = await startPostgres()
    const admin = await server.connect()
    await admin.query(`create table usage (id bigint primary key, tenant text, vm text, at timestamptz, seconds numeric, bytes int8, gpu text);
      insert into usage select n, 'tenant-' || n % 50, 'vm-' || n, to_timestamp(${(endMs - 2 * hourMs) / 1000}) + n * interval '72 milliseconds', 3600.25, n, 'H100'
        from generate_series(0, 99999) as n;
      create index on usage (at)`)
    await admin.end()
    return {
      holds: '100,000 rows over two hours, each of a resource of its own, windows of 15 minutes',
      load: {
        kind: 'postgresql',
        config: {
          name: 'bench',
          host: server.host,
          port: server.port,
          database: 'postgres',
          user: server.user,
          password: key,
          tls: { mode: 'off' },
          windowMinutes: 15,
          queries: [usageQuery],
        },
        secrets: { [key]: server.password },
        windows: hours(2, 15),
        nowMs: Date.now(),
        bareSql: {
          connection: `postgres://${server.user}:${server.password}@${server.host}:${server.port}/postgres`,
          statement: usageQuery.sql.replace(':start', '$1').replace(':end', '$2'),
        },
      },
      [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
    }
  },
  clickhouse: async () => {
    const server = await startClickHouse()
    const run = async (sql: string) => {
      const headers = { 'x-clickhouse-user': server.user, 'x-clickhouse-key': server.password }
      const answer = await fetch(`${server.url}/?database=${server.database}`, {
        method: 'POST',
        body: sql,
        headers,
      })
      if (!answer.ok) throw new Error(await answer.text())
    }
    await run(
      'create table usage (id UInt64, tenant String, vm String, at DateTime64(6), seconds Decimal(38, 6), bytes UInt64, gpu LowCardinality(String)) engine = MergeTree order by at',
    )
    await run(
      `insert into usage select number, concat('tenant-', number % 50), concat('vm-', number), toDateTime64(${(endMs - 2 * hourMs) / 1000}, 6) + toIntervalMillisecond(number * 72), 3600.25, number, 'H100' from numbers(100000)`,
    )
    return {
      holds: '100,000 rows over two hours, each of a resource of its own, windows of 15 minutes',
      load: {
        kind: 'clickhouse',
        config: {
          name: 'bench',
          url: server.url,
          database: server.database,
          user: server.user,
          password: key,
          windowMinutes: 15,
          queries: [usageQuery],
        },
        secrets: { [key]: server.password },
        windows: hours(2, 15),
        nowMs: Date.now(),
      },
      [Symbol.asyncDispose]: () => server.stop(),
    }
  },
}

/** `npm run bench -- sources [KIND …]` */
export async function benchSources(args: readonly string[]): Promise<void> {
  const rows: (ReaderFigures & { readonly kind: string })[] = []
  for (const [kind, start] of Object.entries(providers)) {
    if (args.length > 0 && !args.includes(kind)) continue
    try {
      await using provider = await start()
      console.log(`${kind}: ${provider.holds}`)
      rows.push({ kind, ...(await readIn(provider.load)) })
    } catch (error) {
      // A server that is not on this machine, say: the others are still worth their figures.
      console.error(`${kind}: ${error instanceof Error ? error.message : String(error)}`)
      process.exitCode = 1
    }
  }
  if (args.length === 0 || args.includes('push')) {
    console.log(`push: ${pushHolds}`)
    rows.push({ kind: 'push', ...(await readPush()) })
  }
  const megabytes = (bytes: number) => String(Math.round(bytes / 1e6))
  console.log(
    printRows(
      rows,
      [
        { heading: 'kind', text: row => row.kind },
        { heading: 'items', text: row => String(row.items), align: 'right' },
        { heading: 'readings', text: row => String(row.readings), align: 'right' },
        { heading: 'calls', text: row => String(row.calls), align: 'right' },
        { heading: 'seconds', text: row => row.seconds.toFixed(2), align: 'right' },
        { heading: 'items/s', text: row => String(Math.round(row.items / row.seconds)), align: 'right' },
        {
          heading: 'CPU µs/item',
          text: row => ((row.cpuSeconds / row.items) * 1e6).toFixed(1),
          align: 'right',
        },
        { heading: 'RSS MB', text: row => megabytes(row.idleBytes), align: 'right' },
        { heading: 'peak MB', text: row => megabytes(row.peakBytes), align: 'right' },
        { heading: 'bare s', text: row => row.bareSeconds?.toFixed(2) ?? '', align: 'right' },
        { heading: 'ratio', text: row => ratio(row.seconds, row.bareSeconds), align: 'right' },
        { heading: 'of CPU', text: row => ratio(row.cpuSeconds, row.bareCpuSeconds), align: 'right' },
        { heading: 'watch s', text: row => row.watchSeconds?.toFixed(2) ?? '', align: 'right' },
      ],
      'table',
    ),
  )
}

function ratio(seconds: number, bareSeconds: number | undefined): string {
  return bareSeconds === undefined || bareSeconds === 0 ? '' : (seconds / bareSeconds).toFixed(2)
}

async function readIn(load: ReaderLoad): Promise<ReaderFigures> {
  const child = spawn(process.execPath, [reader], { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = once(child, 'close')
  child.stdin.end(JSON.stringify(load))
  const said = await text(child.stdout)
  const [code] = await ended
  if (code !== 0) throw new Error(`its reader ended with ${code}`)
  return JSON.parse(said) as ReaderFigures
}
