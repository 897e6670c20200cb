/** The Run:ai source against its double: the contract of every source, and what is its own. */
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
import { openHttp } from '../../../runtime/http.ts'
import { passingState, type SourceState } from '../../../runtime/log/source-state.ts'
import { misfits } from '../../../schemas/check.ts'
import type { Usage } from '../../../schemas/event.ts'
import { hourMs, minuteMs, secondMs, type Window } from '../../../schemas/window.ts'
import { type Breakage, runSourceContract, type SourceRig } from '../../contract/source.ts'
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
  const double = await startRunaiDouble({ fixture, nowMs, behaviour: { ...options.behaviour } })
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
        openHttp({ retries: 2, deadlineMs: options.deadlineMs ?? 2000, random: () => 0, ...given }),
      secret: reference => (reference === secretRef ? (options.secret ?? runaiDemoSecret) : ''),
      nowMs,
      state: options.state ?? passingState(),
    }),
  ) as Source<RunaiItem>
  return {
    source,
    double,
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

runSourceContract('runai', {
  async open({ pageSize, widthMinutes } = {}): Promise<SourceRig> {
    const config = {
      ...(pageSize && { pageSize: Math.min(500, pageSize) }),
      ...(widthMinutes && { windowMinutes: widthMinutes }),
    }
    const { source, double, ...rest } = await open(smallFixture(), config, { deadlineMs: 250 })
    return {
      ...rest,
      kind: 'runai',
      source: source as Source<unknown>,
      break: how => {
        double.behaviour.faults = [{ answer: misbehaviours[how as Breakage] }]
      },
      spoilOne: () => {
        const spoilt = double.fixture.pods.find(({ name }) => name === 'job-2-3')
        if (spoilt) spoilt.row = { allocatedResources: { gpu: 'many' } }
        return '8'
      },
    }
  },
  span: { startMs: at(7), endMs: at(12) },
  window: { startMs: at(9), endMs: at(9, 15) },
  scope: clusterId,
  widthsMinutes: [15, 60, 30],
  secrets: [runaiDemoSecret, plantedSecret],
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
