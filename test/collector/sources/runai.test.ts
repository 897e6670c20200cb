/** The Run:ai source against its double: the contract of every source, and what is its own. */
import Fraction from 'fraction.js'
import { afterEach, expect, test } from 'vitest'
import type { Source } from '../../../collector/source.ts'
import { sources } from '../../../collector/sources/list.ts'
import { RunaiConfig, type RunaiItem, runai } from '../../../collector/sources/runai.ts'
import {
  type RunaiBehaviour,
  type RunaiDouble,
  type RunaiFixture,
  type RunaiMisbehaviour,
  runaiDemoClientId,
  runaiDemoSecret,
  startRunaiDouble,
} from '../../../deploy/demo/runai.ts'
import {
  type RunaiMetricsBehaviour,
  runaiMetricsBehaviour,
  runaiMetricsRoutes,
} from '../../../deploy/demo/runai-metrics.ts'
import { openHttp } from '../../../runtime/http.ts'
import { passingState, type SourceState } from '../../../runtime/log/source-state.ts'
import { misfits } from '../../../schemas/check.ts'
import { exact, show } from '../../../schemas/decimal.ts'
import type { Usage } from '../../../schemas/event.ts'
import { hourMs, minuteMs, secondMs, type Window, windowsOver } from '../../../schemas/window.ts'
import { type Breakage, runSourceContract, type SourceRig } from '../../contract/source.ts'
import { faultFrom } from '../../faults.ts'
import { sourceContext } from '../source-context.ts'

const live = new AbortController().signal
const opened: AsyncDisposable[] = []
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]()
})

const secretRef = `\${env:SECRET}`

interface Runai extends AsyncDisposable {
  readonly source: Source<RunaiItem>
  readonly double: RunaiDouble
  readonly gpus: RunaiMetricsBehaviour
}

interface Options {
  readonly behaviour?: Partial<RunaiBehaviour>
  readonly nowMs?: () => number
  readonly deadlineMs?: number
  readonly secret?: string
  readonly state?: SourceState
}

/** The source against a double of its own. */
async function open(fixture: RunaiFixture, config: object = {}, options: Options = {}): Promise<Runai> {
  const nowMs = options.nowMs ?? (() => nowAtMs)
  const gpus = runaiMetricsBehaviour()
  const routes = runaiMetricsRoutes(fixture, gpus)
  const double = await startRunaiDouble({ fixture, nowMs, routes, behaviour: { ...options.behaviour } })
  const http = openHttp()
  const whole = {
    name: 'test',
    url: double.url,
    clientId: runaiDemoClientId,
    clientSecret: secretRef,
    ...config,
  }
  expect(misfits(RunaiConfig, whole)).toEqual([])
  const source = runai.open(
    whole as RunaiConfig,
    sourceContext({
      http,
      client: given =>
        openHttp({ retries: 1, deadlineMs: options.deadlineMs ?? 2000, random: () => 0, ...given }),
      secret: reference => (reference === secretRef ? (options.secret ?? runaiDemoSecret) : ''),
      nowMs,
      state: options.state ?? passingState(),
    }),
  ) as Source<RunaiItem>
  return {
    source,
    double,
    gpus,
    async [Symbol.asyncDispose]() {
      await source[Symbol.asyncDispose]()
      await http[Symbol.asyncDispose]()
      await double.close()
    },
  }
}
async function openFor(...args: Parameters<typeof open>): Promise<Runai> {
  const each = await open(...args)
  opened.push(each)
  return each
}

async function usages(source: Source<RunaiItem>, scope: string, window: Window): Promise<Usage[]> {
  const all: Usage[] = []
  for await (const item of source.read(scope, window, live)) all.push(...source.toUsage(item, window))
  return all
}

const dayStartMs = Date.now() - (Date.now() % (24 * hourMs)) - 48 * hourMs
const at = (hours: number, minutes = 0, seconds = 0, ms = 0): number =>
  dayStartMs + hours * hourMs + minutes * minuteMs + seconds * secondMs + ms
const nowAtMs = at(30)
const hour = (from: number): Window => ({ startMs: at(from), endMs: at(from + 1) })

const idOf = (number: number): string => `00000000-0000-4000-8000-${String(number).padStart(12, '0')}`
const clusterId = idOf(1)
const metricsOptions = {
  collect: ['utilization', 'memory', 'idle', 'bandwidth'],
  sampleSeconds: 60,
  maxGapSeconds: 120,
  idlePercent: '0',
}
const plantedSecret = 'sk-planted-in-environment'

const workload = (number: number, more: Partial<RunaiFixture['workloads'][number]> = {}) => ({
  id: idOf(100 + number),
  name: `job-${number}`,
  clusterId,
  projectId: '7',
  projectName: 'vision',
  departmentId: '2',
  departmentName: 'research',
  type: 'runai-job',
  category: 'Train',
  submittedBy: 'ada@example.com',
  priorityClassName: 'train',
  preemptible: true,
  createdMs: at(7),
  environmentVariables: { OPENAI_API_KEY: plantedSecret },
  ...more,
})
const pod = (number: number, of: number, more: Partial<RunaiFixture['pods'][number]> = {}) => ({
  id: idOf(1000 + number),
  name: `job-${of}-${number}`,
  workloadId: idOf(100 + of),
  clusterId,
  nodeName: 'gpu-node-1',
  nodePool: 'a100',
  createdMs: at(7),
  startedMs: at(8),
  allocated: { gpu: '1', gpuMemory: '80Gi', cpu: '4', cpuMemory: '16Gi' },
  ...more,
})

/** A day of one cluster: whole GPUs and a fraction, a suspend and a resume, what was deleted, and three seconds. */
function smallFixture(): RunaiFixture {
  return {
    clusters: [{ id: clusterId, name: 'gpu-1', createdMs: at(0) - 100 * hourMs }],
    workloads: [
      workload(1),
      workload(2, { projectId: '8', projectName: 'speech', category: 'Workspace', preemptible: false }),
      workload(3, { completedMs: at(9, 40) }),
      workload(4, { deletedMs: at(11) }),
    ],
    pods: [
      pod(1, 1, { startedMs: at(8, 51, 3, 417), completedMs: at(11, 20, 0, 1) }),
      pod(2, 1, { startedMs: at(9), createdMs: at(8, 59) }),
      pod(3, 2, {
        allocated: { gpu: '0.3', cpu: '0.5', cpuMemory: '0B' },
        startedMs: at(7, 3),
        deletedMs: at(9, 10),
      }),
      pod(4, 2, { createdMs: at(9, 30), startedMs: at(9, 31), allocated: { gpu: '0.3', cpu: '0.5' } }),
      pod(5, 3, { startedMs: at(9, 12, 57), completedMs: at(9, 13), deletedMs: at(9, 50) }),
      pod(6, 4, { startedMs: at(9, 5), deletedMs: at(10, 59, 59, 999) }),
      pod(7, 4, { startedMs: undefined as never }),
    ],
    nodes: [
      {
        id: idOf(9),
        name: 'gpu-node-1',
        clusterId,
        nodePool: 'a100',
        gpuType: 'NVIDIA-A100-SXM4-80GB',
        gpuCount: 8,
      },
    ],
  }
}

const misbehaviours: Record<Breakage, RunaiMisbehaviour> = {
  '500': { status: 500 },
  '502 HTML': { status: 502, html: true },
  '401': { status: 401 },
  '404': { status: 404 },
  truncated: 'truncated',
  cut: 'cut',
  list: 'list',
  'empty object': 'empty_object',
  hang: 'hang',
}

async function rig(
  given: { pageSize?: number; widthMinutes?: number },
  metrics: object,
  spoil: (each: Runai) => string,
): Promise<SourceRig> {
  const { pageSize, widthMinutes } = given
  const config = {
    ...metrics,
    ...(pageSize && { pageSize: Math.min(500, pageSize) }),
    ...(widthMinutes && { windowMinutes: widthMinutes }),
  }
  const each = await open(smallFixture(), config, { deadlineMs: 250 })
  return {
    kind: 'runai',
    source: each.source as Source<unknown>,
    break: how => {
      each.double.behaviour.faults = [{ answer: misbehaviours[how as Breakage] }]
    },
    spoilOne: () => spoil(each),
    [Symbol.asyncDispose]: () => each[Symbol.asyncDispose](),
  }
}

const contract = {
  span: { startMs: at(8), endMs: at(11) },
  window: { startMs: at(9), endMs: at(9, 15) },
  widthsMinutes: [15, 60, 30] as const,
  secrets: [runaiDemoSecret, plantedSecret],
}
runSourceContract('runai, pods', {
  ...contract,
  open: (options = {}) =>
    rig(options, {}, ({ double }) => {
      const spoilt = double.fixture.pods.find(({ name }) => name === 'job-2-3')
      if (spoilt) spoilt.row = { allocatedResources: { gpu: 'many' } }
      return '8'
    }),
  scope: clusterId,
})
runSourceContract('runai, metrics', {
  ...contract,
  widthsMinutes: [15, 60],
  open: (options = {}) =>
    rig(options, { metrics: metricsOptions }, ({ gpus }) => {
      const { value } = gpus
      gpus.value = moment => (moment.pod.name === 'job-2-3' ? 'many' : value(moment))
      return '8'
    }),
  scope: `${clusterId} metrics`,
})

test('it is in the list of sources, with a sentence for each of its options', () => {
  expect(sources).toContain(runai)
  for (const [name, option] of Object.entries(RunaiConfig.properties))
    if (name !== 'kind')
      expect((option as { description?: string }).description ?? '', name).toMatch(/\.( |$)|https\.|Write/)
})

test('a pod is read by its interval, what was allocated and whose it was', async () => {
  const { source } = await openFor(smallFixture())
  const [usage] = (await usages(source, clusterId, hour(8))).filter(
    ({ resource }) => resource.name === 'job-1-1',
  )
  expect(usage).toEqual({
    thing: 'pod',
    subject: '7',
    resource: { kind: 'pod', id: idOf(1001), name: 'job-1-1' },
    measures: {
      instance_seconds: '536.583',
      gpu_seconds: '536.583',
      cpu_core_seconds: '2146.332',
      memory_byte_seconds: '9218425746358.272',
    },
    labels: {
      cluster: 'gpu-1',
      cluster_id: clusterId,
      department: 'research',
      department_id: '2',
      project: 'vision',
      user: 'ada@example.com',
      workload: 'job-1',
      workload_id: idOf(101),
      workload_type: 'runai-job',
      category: 'Train',
      priority_class: 'train',
      preemptible: 'true',
      node: 'gpu-node-1',
      node_pool: 'a100',
      gpu_type: 'NVIDIA-A100-SXM4-80GB',
    },
    interval: { startMs: at(8, 51, 3, 417), endMs: at(9) },
  })
})

test('a pod whose node has a clock behind that of its cluster loses nothing at the edge of a window', async () => {
  const fixture = smallFixture()
  fixture.pods = [
    pod(1, 1, { createdMs: at(10, 0, 1), startedMs: at(9, 59, 58), completedMs: at(10, 0, 30) }),
  ]
  const { source } = await openFor(fixture)
  const seconds = async (from: number) =>
    (await usages(source, clusterId, hour(from))).map(({ measures }) => measures.instance_seconds)
  expect([await seconds(9), await seconds(10)]).toEqual([['2'], ['30']])
})

test('a suspended workload counts nothing until it is resumed, by another pod', async () => {
  const fixture = smallFixture()
  fixture.workloads = [
    workload(1, {
      phases: [
        { atMs: at(8), phase: 'Running' },
        { atMs: at(9, 10), phase: 'Stopped' },
        { atMs: at(9, 30), phase: 'Resuming' },
        { atMs: at(9, 31), phase: 'Running' },
      ],
    }),
  ]
  fixture.pods = [
    pod(1, 1, { deletedMs: at(9, 10) }),
    pod(2, 1, { createdMs: at(9, 30), startedMs: at(9, 31), completedMs: at(9, 50, 0, 1) }),
  ]
  const { source } = await openFor(fixture)
  const read = await usages(source, clusterId, hour(9))
  expect(read.map(({ measures }) => measures.gpu_seconds).sort()).toEqual(['1140.001', '600'])
  expect(read.every(({ estimated }) => estimated === undefined)).toBe(true)
})

test('a re-read says what the first read said, and what was told late besides', async () => {
  const fixture = smallFixture()
  fixture.pods = [
    pod(1, 1, { completedMs: at(9, 50), lagMs: 30 * minuteMs }),
    pod(2, 1, { startedMs: at(9, 55), createdMs: at(9, 54), lagMs: 30 * minuteMs }),
  ]
  const clock = { nowMs: at(10, 1) }
  const { source } = await openFor(fixture, {}, { nowMs: () => clock.nowMs })
  const seconds = async () =>
    (await usages(source, clusterId, hour(9))).map(({ measures }) => measures.instance_seconds)
  expect(await seconds()).toEqual(['3600'])
  clock.nowMs = at(11)
  expect((await seconds()).sort()).toEqual(['300', '3000'])
})

test('a container that was started again takes nothing away from a window that is read again', async () => {
  const state = passingState()
  const fixture = smallFixture()
  fixture.pods = [pod(1, 1)]
  const clock = { nowMs: at(10, 1) }
  const { source } = await openFor(fixture, {}, { nowMs: () => clock.nowMs, state })
  const [first] = await usages(source, clusterId, hour(9))
  clock.nowMs = at(12)
  fixture.pods = [
    pod(1, 1, {
      completedMs: at(11, 30),
      row: {
        containers: [{ name: 'main', image: 'x', startedAt: new Date(at(11)).toISOString() }],
        allocatedResources: null,
      },
    }),
  ]
  const [again] = await usages(source, clusterId, hour(9))
  expect(again?.measures).toEqual(first?.measures)
  expect(again?.measures.gpu_seconds).toBe('3600')
  // A collector that never saw it run knows the last start alone.
  const { source: fresh } = await openFor(fixture, {}, { nowMs: () => clock.nowMs })
  expect(await usages(fresh, clusterId, hour(9))).toEqual([])
})

test('a pod that was seen running and is listed nowhere any more is a gap, not nothing', async () => {
  const state = passingState()
  const fixture = smallFixture()
  fixture.pods = [pod(1, 1), pod(2, 2)]
  const clock = { nowMs: at(10, 1) }
  const { source } = await openFor(fixture, {}, { nowMs: () => clock.nowMs, state })
  expect(await usages(source, clusterId, hour(9))).toHaveLength(2)
  fixture.pods = [pod(1, 1)]
  clock.nowMs = at(12)
  const fault = await faultFrom(usages(source, clusterId, hour(9)))
  expect(fault.code).toBe('WINDOW_UNKNOWABLE')
  expect(fault.message).toContain(idOf(1002))
  // Of what came after it was seen last nothing is claimed.
  expect(await usages(source, clusterId, hour(11))).toHaveLength(1)
})

test('a pod that was listed as running though it had ended before the window is no gap', async () => {
  const state = passingState()
  const fixture = smallFixture()
  fixture.pods = [
    pod(1, 1),
    pod(2, 2, { deletedMs: at(8, 30), lagMs: 2 * hourMs, createdMs: at(6), startedMs: at(6) }),
  ]
  const clock = { nowMs: at(10, 1) }
  const { source } = await openFor(fixture, {}, { nowMs: () => clock.nowMs, state })
  expect(await usages(source, clusterId, hour(9))).toHaveLength(2)
  clock.nowMs = at(12)
  const [only, ...others] = await usages(source, clusterId, hour(9))
  expect(only?.resource.id).toBe(idOf(1001))
  expect(others).toEqual([])
})

test('a pod that stayed in the list after its workload had ended, and goes from it later, is no gap', async () => {
  const state = passingState()
  const fixture = smallFixture()
  fixture.workloads = [workload(1), workload(2, { completedMs: at(8, 30) })]
  fixture.pods = [pod(1, 1), pod(2, 2)]
  const clock = { nowMs: at(10, 1) }
  const { source } = await openFor(fixture, {}, { nowMs: () => clock.nowMs, state })
  expect(await usages(source, clusterId, hour(9))).toHaveLength(1)
  fixture.pods = [pod(1, 1)]
  clock.nowMs = at(12)
  expect(await usages(source, clusterId, hour(9))).toHaveLength(1)
})

test('of a cluster that the control plane has lost no window is known after its last word', async () => {
  const fixture = smallFixture()
  fixture.clusters = [{ id: clusterId, name: 'gpu-1', createdMs: at(0), lostMs: at(10, 5) }]
  const { source } = await openFor(fixture)
  expect(await usages(source, clusterId, hour(9))).not.toEqual([])
  const fault = await faultFrom(usages(source, clusterId, hour(10)))
  expect(fault.code).toBe('WINDOW_UNKNOWABLE')
  expect(fault.message).toContain('gpu-1')
  const found = await source.check?.(live)
  expect(found?.missing.map(({ what }) => what)).toContainEqual(expect.stringContaining('no connection'))
})

test('a pod whose end nobody told ends with its workload, and says that this is estimated', async () => {
  const fixture = smallFixture()
  fixture.workloads = [workload(1, { completedMs: at(9, 20) })]
  fixture.pods = [pod(1, 1)]
  const { source } = await openFor(fixture)
  const [usage] = await usages(source, clusterId, hour(9))
  expect(usage?.measures.instance_seconds).toBe('1200')
  expect(usage?.estimated).toBe(true)
  expect(await usages(source, clusterId, hour(10))).toEqual([])
})

test('what Run:ai counted for a workload is held against its intervals when it ends', async () => {
  const fixture = smallFixture()
  fixture.pods = [
    pod(1, 1, { startedMs: at(7), deletedMs: at(8) }),
    pod(2, 1, { createdMs: at(8, 30), startedMs: at(8, 30), completedMs: at(9, 30) }),
  ]
  const read = async (totalRunningTimeSeconds: number) => {
    fixture.workloads = [workload(1, { completedMs: at(9, 30), totalRunningTimeSeconds })]
    const { source } = await openFor(fixture)
    return (await usages(source, clusterId, hour(9))).map(({ doubt }) => doubt)
  }
  // The hour before it was suspended is part of it, though it is no part of this window.
  expect(await read(7200)).toEqual([undefined])
  expect(await read(3600)).toEqual([expect.stringMatching(/pod job-1-2: .*7200/)])
})

test('a workload that is in no list is asked for; one that is gone leaves the project of its pod, and a doubt', async () => {
  const fixture = smallFixture()
  // Failed without a time: in none of the lists.
  fixture.workloads = [workload(1, { phases: [{ atMs: at(11), phase: 'Failed' }] })]
  fixture.pods = [
    pod(1, 1, { completedMs: at(11) }),
    pod(2, 2, { row: { projectId: '8', workloadName: 'gone' } }),
  ]
  const { source } = await openFor(fixture)
  const [listed, gone] = (await usages(source, clusterId, hour(9))).sort((a, b) =>
    a.subject < b.subject ? -1 : 1,
  )
  expect(listed?.labels.user).toBe('ada@example.com')
  expect(listed?.doubt).toBeUndefined()
  expect(gone).toMatchObject({
    subject: '8',
    labels: { workload: 'gone' },
    measures: { gpu_seconds: '3600' },
  })
  expect(gone?.labels.user).toBeUndefined()
  expect(gone?.doubt).toMatch(/workload is not known/)
})

test('a control plane of 2.19 is read as one of today, its category by its type', async () => {
  const read = async (version: RunaiBehaviour['version']) => {
    const { source } = await openFor(smallFixture(), {}, { behaviour: { version } })
    return await usages(source, clusterId, hour(9))
  }
  const [old, today] = [await read('2.19'), await read('latest')]
  expect(old.map(({ measures }) => measures)).toEqual(today.map(({ measures }) => measures))
  expect(old[0]?.labels).toMatchObject({ category: 'Train', gpu_type: 'NVIDIA-A100-SXM4-80GB' })
  expect(old[0]?.labels.preemptible).toBeUndefined()
})

test('GPUs that were asked for by memory need the memory of a GPU where Run:ai does not tell the share', async () => {
  const fixture = smallFixture()
  const requested = { gpuRequestType: 'memory', gpuMemory: { request: '20Gi' } }
  fixture.pods = [pod(1, 1, { allocated: null, requested })]
  const told = { gpuMemory: [{ gpuType: 'NVIDIA-A100-SXM4-80GB', memory: '80Gi' }] }
  const [usage] = await usages((await openFor(fixture, told)).source, clusterId, hour(9))
  expect(usage?.measures.gpu_seconds).toBe('900')
  const { source } = await openFor(fixture)
  const fault = await faultFrom(usages(source, clusterId, hour(9)))
  expect(fault).toMatchObject({ code: 'ITEM_UNREADABLE', facts: { subject: '7', pod: 'job-1-1' } })
})

test('a seventh of a GPU adds up to the digit, whatever the width of windows', async () => {
  const fixture = smallFixture()
  const requested = { gpuRequestType: 'migProfile', migProfile: '1g.10gb' }
  fixture.pods = [
    pod(1, 1, { allocated: null, requested, startedMs: at(8, 51, 3, 417), completedMs: at(9, 59, 59, 1) }),
  ]
  const sum = async (windowMinutes: 5 | 15 | 60) => {
    const { source } = await openFor(fixture, { windowMinutes })
    let total = new Fraction(0)
    for (const window of windowsOver({ startMs: at(8), endMs: at(10) }, windowMinutes))
      for (const { measures } of await usages(source, clusterId, window))
        total = total.add(exact(measures.gpu_seconds ?? ''))
    return show(total)
  }
  const [narrow, wide] = [await sum(15), await sum(60)]
  expect(narrow).toBe(wide)
  expect(wide).toMatch(/^590\.797714285/)
})

test('clusters are those configured, by id or name, and one that is not there is not left out in silence', async () => {
  const fixture = smallFixture()
  fixture.clusters.push({ id: idOf(2), name: 'gpu-2', createdMs: at(1), deletedMs: at(5) })
  const { source: all } = await openFor(fixture)
  expect(await all.scopes(live)).toEqual([
    { scope: clusterId, sinceMs: at(0) - 100 * hourMs },
    { scope: idOf(2), sinceMs: at(1), endedMs: at(5) },
  ])
  const { source: one } = await openFor(fixture, { clusters: ['gpu-2'], metrics: metricsOptions })
  expect((await one.scopes(live)).map(({ scope }) => scope)).toEqual([idOf(2), `${idOf(2)} metrics`])
  const { source: none } = await openFor(fixture, { clusters: ['gpu-3'] })
  expect((await faultFrom(none.scopes(live))).code).toBe('SOURCE_MISSING')
})

test('metrics that are not there leave what was allocated as it is', async () => {
  const { source, double } = await openFor(smallFixture(), { metrics: metricsOptions })
  double.behaviour.faults = [{ endpoint: 'pod_metrics', answer: { status: 503 } }]
  expect(await usages(source, clusterId, hour(9))).toHaveLength(6)
  expect((await faultFrom(usages(source, `${clusterId} metrics`, hour(9)))).code).toBe('SOURCE_BUSY')
})

test('a pod that cannot be understood is a fault among the metrics as well', async () => {
  const fixture = smallFixture()
  fixture.pods = [pod(1, 1, { row: { completedAt: 'soon' } })]
  const { source } = await openFor(fixture, { metrics: metricsOptions })
  for (const scope of [clusterId, `${clusterId} metrics`]) {
    const fault = await faultFrom(usages(source, scope, hour(9)))
    expect(fault).toMatchObject({ code: 'ITEM_UNREADABLE', facts: { subject: '7', path: '/completedAt' } })
  }
})

test('asked whether it can work, it tells a key that sees no cluster, and one that may not list pods', async () => {
  const blind = smallFixture()
  blind.clusters = []
  const { source } = await openFor(blind)
  expect((await source.check?.(live))?.missing[0]?.remedy).toMatch(/role that views clusters/)
  const { source: refused, double } = await openFor(smallFixture())
  double.behaviour.faults = [
    { endpoint: 'pods', answer: { status: 403, message: 'You do not have sufficient permissions.' } },
  ]
  const found = await refused.check?.(live)
  expect(found?.works).toEqual(['1 cluster: gpu-1'])
  expect(found?.missing[0]?.what).toMatch(/sufficient permissions/)
  expect(found?.missing[0]?.remedy).toMatch(/views workloads/)
})

test('a key that sees a part alone is found out by the counts', async () => {
  const { source, double } = await openFor(smallFixture())
  double.behaviour.hidden = row => row.projectId === '8'
  expect((await faultFrom(usages(source, clusterId, hour(9)))).code).toBe('PAGES_DRIFTED')
})
