/**
 * Each call that the Run:ai source makes, and each answer of its double, against the OpenAPI files of the control planes
 * from 2.19 to the latest: the double is no freer than they are, and the source asks for nothing that they do not have.
 */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import type { Source } from '../../../../collector/source.ts'
import { RunaiConfig, type RunaiItem, runai } from '../../../../collector/sources/runai.ts'
import {
  type RunaiBehaviour,
  type RunaiFixture,
  runaiDemoClientId,
  runaiDemoSecret,
  startRunaiDouble,
} from '../../../../deploy/demo/runai.ts'
import {
  podTypesOf,
  type RunaiMetricsBehaviour,
  runaiMetricsBehaviour,
  runaiMetricsRoutes,
} from '../../../../deploy/demo/runai-metrics.ts'
import { openHttp } from '../../../../runtime/http.ts'
import { misfits } from '../../../../schemas/check.ts'
import { Fault } from '../../../../schemas/fault.ts'
import { stringifyExact } from '../../../../schemas/json.ts'
import { minuteMs } from '../../../../schemas/window.ts'
import {
  type CutVersion,
  calledPaths,
  cutFile,
  cutOpenApi,
  cutVersions,
  type OpenApi,
} from '../../../fixtures/runai/cut.ts'
import { sourceContext } from '../../source-context.ts'
import { type Exchange, openApiOf } from './openapi.ts'
import { sumsOf } from './sums.ts'

const live = new AbortController().signal
const startMs = Date.parse('2026-03-02T08:00:00Z')
const at = (minutes: number) => startMs + minutes * minuteMs
const id = (kind: number, number: number) =>
  `${String(kind).padStart(8, '0')}-0000-4000-8000-${String(number).padStart(12, '0')}`
const clusterId = id(9, 1)

/** What runs, what ended, what was deleted and what was suspended and resumed; with GPUs, fractions and without. */
function fixtureOf(): RunaiFixture {
  const workload = (number: number, more: Partial<RunaiFixture['workloads'][number]> = {}) => ({
    id: id(1, number),
    name: `job-${number}`,
    clusterId,
    projectId: '7',
    projectName: 'vision',
    departmentId: '1',
    departmentName: 'research',
    type: 'runai-job',
    category: 'Train',
    submittedBy: 'ada@example.com',
    priorityClassName: 'train',
    preemptible: true,
    createdMs: at(-60),
    ...more,
  })
  const pod = (number: number, of: number, more: Partial<RunaiFixture['pods'][number]> = {}) => ({
    id: id(2, number),
    name: `job-${of}-${number}`,
    workloadId: id(1, of),
    clusterId,
    nodeName: 'gpu-1',
    nodePool: 'h100',
    createdMs: at(-60),
    startedMs: at(-50),
    allocated: { gpu: '2', gpuMemory: '160Gi', cpu: '8', cpuMemory: '64Gi' },
    ...more,
  })
  return {
    clusters: [{ id: clusterId, name: 'one', createdMs: at(-24 * 60) }],
    workloads: [
      workload(1),
      workload(2, { completedMs: at(20), totalRunningTimeSeconds: 70 * 60 }),
      workload(3, { deletedMs: at(30) }),
      workload(4, {
        category: 'Workspace',
        // Suspended for ten minutes; and Run:ai counts an hour more than its pods ran.
        totalRunningTimeSeconds: 3600 + 100 * 60,
        phases: [
          { atMs: at(-60), phase: 'Pending' },
          { atMs: at(-50), phase: 'Running' },
          { atMs: at(10), phase: 'Stopped' },
          { atMs: at(20), phase: 'Running' },
        ],
      }),
      workload(5),
      // In none of the lists, as it ended before its pod did: it is asked for by itself.
      workload(6, { completedMs: at(-5) }),
    ],
    pods: [
      pod(1, 1),
      pod(2, 2, { completedMs: at(20), outcome: 'Succeeded' }),
      pod(3, 3, { deletedMs: at(30), completedMs: at(30) }),
      pod(4, 4, { completedMs: at(10), deletedMs: at(11), allocated: { gpu: '0.5', cpu: '1' } }),
      pod(5, 4, { createdMs: at(19), startedMs: at(20), allocated: { gpu: '0.5', cpu: '1' } }),
      // Not `0B`, which is in an example of the files and does not fit their own pattern.
      pod(6, 5, { nodeName: 'cpu-1', nodePool: 'cpu', allocated: { gpu: '0', cpu: '4', cpuMemory: '0' } }),
      pod(7, 6, { completedMs: at(5), outcome: 'Failed' }),
    ],
    nodes: [
      { id: id(3, 1), name: 'gpu-1', clusterId, nodePool: 'h100', gpuType: 'NVIDIA-H100', gpuCount: 8 },
      { id: id(3, 2), name: 'cpu-1', clusterId, nodePool: 'cpu' },
    ],
  }
}

interface Seen {
  readonly exchanges: readonly Exchange[]
  readonly usages: readonly ReturnType<Source<unknown>['toUsage']>[number][]
  readonly faults: readonly Fault[]
}

/** Two windows of each scope, and what `check` asks; as the control plane of this version answers. */
async function runOf(
  version: CutVersion,
  given: {
    readonly auth?: string
    readonly behaviour?: Partial<RunaiBehaviour>
    readonly metrics?: Partial<RunaiMetricsBehaviour>
  } = {},
): Promise<Seen> {
  const exchanges: Exchange[] = []
  const fixture = fixtureOf()
  const nowMs = () => at(65)
  await using double = await startRunaiDouble({
    fixture,
    nowMs,
    routes: runaiMetricsRoutes(fixture, runaiMetricsBehaviour(given.metrics)),
    behaviour: {
      version,
      onExchange: ({ method, path, rawQuery, body }, reply) =>
        exchanges.push({
          method,
          path,
          rawQuery,
          ...(body !== undefined && { body }),
          status: reply.status,
          answer: JSON.parse(stringifyExact(reply.body)),
        }),
      ...given.behaviour,
    },
  })
  await using http = openHttp()
  const config = {
    name: 'test',
    url: double.url,
    clientId: runaiDemoClientId,
    clientSecret: '${env:SECRET}',
    auth: given.auth ?? 'auto',
    windowMinutes: 30,
    pageSize: 3,
    metrics: { collect: ['utilization', 'memory', 'idle', 'bandwidth'] },
  }
  expect(misfits(RunaiConfig, config)).toEqual([])
  await using source = runai.open(
    config as unknown as RunaiConfig,
    sourceContext({ http, secret: () => runaiDemoSecret, nowMs }),
  ) as Source<RunaiItem>
  const usages = []
  const faults: Fault[] = []
  for (const { scope } of await source.scopes(live))
    for (const window of [
      { startMs: at(0), endMs: at(30) },
      { startMs: at(30), endMs: at(60) },
    ])
      for await (const item of source.read(scope, window, live))
        try {
          usages.push(...source.toUsage(item, window))
        } catch (error) {
          if (!(error instanceof Fault)) throw error
          faults.push(error)
        }
  await source.check?.(live)
  return { exchanges, usages, faults }
}

const plainRuns = new Map<CutVersion, Promise<Seen>>()
/** As it is configured by default: read once for all tests. */
function plainRunOf(version: CutVersion): Promise<Seen> {
  const run = plainRuns.get(version) ?? runOf(version)
  plainRuns.set(version, run)
  return run
}

/** A refusal that the source expects, as it tries what a version may have. */
function isTried({ status, path }: Exchange): boolean {
  return (status === 404 && /\/(nodes|token)$/.test(path)) || (status === 400 && path.endsWith('/token'))
}

describe.each(cutVersions)('control plane %s', version => {
  test('all calls and all answers fit its OpenAPI file', async () => {
    const { exchanges, usages, faults } = await plainRunOf(version)
    const api = openApiOf(version)
    expect(faults).toEqual([])
    expect(usages.length).toBeGreaterThan(10)
    expect(exchanges.filter(each => !isTried(each)).flatMap(each => api.misfits(each))).toEqual([])
  })

  test('what is tried and not there is refused by its double too', async () => {
    const { exchanges } = await plainRunOf(version)
    const api = openApiOf(version)
    for (const each of exchanges)
      if (isTried(each) && each.status === 404) expect(api.pathOf(each)).toBeUndefined()
  })

  test('half an answer (207), and what is refused (400), fit too', async () => {
    const { exchanges, faults } = await runOf(version, {
      metrics: {
        withheld: ['GPU_MEMORY_USAGE_BYTES_PER_GPU'],
        unknown: ['GPU_PCIE_RECEIVED_BANDWIDTH_PER_GPU'],
      },
    })
    const api = openApiOf(version)
    const ofMetrics = exchanges.filter(({ path }) => path.endsWith('/metrics'))
    expect(new Set(ofMetrics.map(({ status }) => status))).toEqual(new Set([200, 207, 400]))
    expect(faults.length).toBeGreaterThan(0)
    expect(exchanges.filter(each => !isTried(each)).flatMap(each => api.misfits(each))).toEqual([])
  })

  test('the double knows the types of pods that the file has, but those of NIM', () => {
    const types = openApiOf(version).api.components.schemas?.PodMetricType?.enum as readonly string[]
    expect([...podTypesOf(version)].sort()).toEqual(types.filter(type => !type.startsWith('NIM_')).sort())
  })

  test('its file is cut to what is called, and all of it is called', async () => {
    const whole = JSON.parse(readFileSync(cutFile(version), 'utf8')) as OpenApi
    expect(cutOpenApi(whole, version)).toEqual(whole)
    const api = openApiOf(version)
    const called = new Set<string | undefined>()
    const withoutNodes = { faults: [{ endpoint: 'nodes', answer: { status: 404 } }] }
    for (const run of [
      plainRunOf(version),
      runOf(version, { auth: version === '2.19' ? 'app_token' : 'v1', behaviour: withoutNodes }),
    ])
      for (const exchange of (await run).exchanges) called.add(api.pathOf(exchange))
    expect(Object.keys(api.api.paths).filter(path => !called.has(path))).toEqual([])
  })
})

test('all versions say the same of what was used', async () => {
  const [oldest, ...others] = await Promise.all(cutVersions.map(plainRunOf))
  for (const other of others) expect(sumsOf(other.usages)).toEqual(sumsOf(oldest?.usages ?? []))
  const labelled = (seen: Seen | undefined) => seen?.usages.filter(({ labels }) => labels.gpu_type).length
  expect(others.map(labelled)).toEqual(others.map(() => labelled(oldest)))
})

test('what the latest has that the oldest lacks is known', () => {
  const [oldest, latest] = [openApiOf('2.19').api.paths, openApiOf('latest').api.paths]
  expect(Object.keys(calledPaths).filter(path => !latest[path])).toEqual([])
  expect(Object.keys(latest).filter(path => !oldest[path])).toEqual(['/api/v2/token', '/api/v1/nodes'])
})

describe('the check finds', () => {
  const api = openApiOf('2.24')
  const exchange: Exchange = {
    method: 'GET',
    path: `/api/v1/workloads/${id(1, 1)}/pods/${id(2, 1)}/metrics`,
    rawQuery: `metricType=GPU_UTILIZATION,CPU_USAGE_CORES&start=2026-03-02T08%3A00%3A00Z&end=2026-03-02T09%3A00%3A00Z`,
    status: 200,
    answer: { measurements: [{ type: 'GPU_UTILIZATION', labels: null, values: null }] },
  }
  test('nothing in a call that fits', () => {
    expect(api.misfits(exchange)).toEqual([])
  })
  test.each<readonly [string, Partial<Exchange>]>([
    ['a path that is not there', { path: '/api/v1/gpus' }],
    ['an id that is none', { path: exchange.path.replace(id(2, 1), 'pod-1') }],
    ['a type that is unknown', { rawQuery: exchange.rawQuery.replace('CPU_USAGE_CORES', 'CPU_JOULES') }],
    ['a list in several parameters', { rawQuery: `${exchange.rawQuery}&metricType=GPU_UTILIZATION` }],
    ['a parameter that lacks', { rawQuery: exchange.rawQuery.replace(/&end=.*/, '') }],
    ['a parameter too many', { rawQuery: `${exchange.rawQuery}&step=30` }],
    ['a number beyond its bound', { rawQuery: `${exchange.rawQuery}&numberOfSamples=1001` }],
    ['a time that is none', { rawQuery: exchange.rawQuery.replace('2026-03-02T08%3A00%3A00Z', 'now') }],
    ['a status that is not foreseen', { status: 418 }],
    ['a field too many in an answer', { answer: { measurements: [], took: 3 } }],
    [
      'one deep in it',
      { answer: { measurements: [{ type: 'A', values: [{ value: '1', timestamp: null, at: 1 }] }] } },
    ],
    ['a field that lacks', { answer: {} }],
    [
      'a number for a text',
      { answer: { measurements: [{ type: 'A', values: [{ value: 1, timestamp: null }] }] } },
    ],
  ])('%s', (_, wrong) => {
    expect(api.misfits({ ...exchange, ...wrong })).not.toEqual([])
  })
})
