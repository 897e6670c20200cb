/**
 * The part of the Run:ai double that tells what GPUs did: samples of pods, and of the allocation of workloads. They are a
 * function of the pod, the number of its GPU and the time, a believable day unless a test says otherwise. Which types are
 * known, how many a call may name and what is null is as in the published OpenAPI files, or worse.
 */
import { hash } from 'node:crypto'
import { type Json, JsonNumber, type JsonObject } from '../../schemas/json.ts'
import { hourMs, instantMs } from '../../schemas/window.ts'
import type { RunaiCall, RunaiFixture, RunaiPod, RunaiReply, RunaiRoute, RunaiVersion } from './runai.ts'

/** One GPU of a pod at one time. */
export interface GpuMoment {
  readonly pod: RunaiPod
  readonly gpu: number
  readonly type: string
  readonly atMs: number
}

/** May be changed while it runs. */
export interface RunaiMetricsBehaviour {
  /** The value as it stands in the answer; null for a sample that is missing, undefined for none of this GPU at all. */
  value: (moment: GpuMoment) => string | null | undefined
  /** Of all GPUs of a workload together; in its default what its pods hold. */
  allocation: (pods: readonly RunaiPod[], atMs: number) => string | null
  /** "Advanced GPU Metrics" in the settings: without it those types have no values. */
  advanced: boolean
  typesPerCallMax: number
  /** What no version knows, or this one not any more. */
  unknown: readonly string[]
  /** Left out of answers, which then are 207. */
  withheld: readonly string[]
  /** `space` as in one example of the OpenAPI files: `2023-06-06 12:09:18.211`. */
  timestamps: 'rfc3339' | 'space'
  /** Where the samples of a call lie; by default `numberOfSamples` of them from its start on, equally far apart. */
  times: (startMs: number, endMs: number, samples: number) => readonly number[]
  /** In which order the measurements come. */
  order: (measurements: readonly JsonObject[]) => readonly JsonObject[]
}

const gpuTypes = [
  'GPU_UTILIZATION_PER_GPU',
  'GPU_UTILIZATION',
  'GPU_MEMORY_USAGE_BYTES_PER_GPU',
  'GPU_MEMORY_USAGE_BYTES',
]
const cpuTypes = ['CPU_USAGE_CORES', 'CPU_MEMORY_USAGE_BYTES']
const advancedTypes = [
  'GPU_GRAPHICS_ENGINE_ACTIVITY_PER_GPU',
  'GPU_SM_ACTIVITY_PER_GPU',
  'GPU_SM_OCCUPANCY_PER_GPU',
  'GPU_TENSOR_ACTIVITY_PER_GPU',
  'GPU_FP64_ENGINE_ACTIVITY_PER_GPU',
  'GPU_FP32_ENGINE_ACTIVITY_PER_GPU',
  'GPU_FP16_ENGINE_ACTIVITY_PER_GPU',
  'GPU_MEMORY_BANDWIDTH_UTILIZATION_PER_GPU',
  'GPU_NVLINK_TRANSMITTED_BANDWIDTH_PER_GPU',
  'GPU_NVLINK_RECEIVED_BANDWIDTH_PER_GPU',
  'GPU_PCIE_TRANSMITTED_BANDWIDTH_PER_GPU',
  'GPU_PCIE_RECEIVED_BANDWIDTH_PER_GPU',
]
const laterPodTypes = [
  'GPU_SWAP_MEMORY_BYTES_PER_GPU',
  'NVLINK_BANDWIDTH_TOTAL',
  'NVLINK_BANDWIDTH_TOTAL_PER_GPU',
]
const workloadTypes = [
  'GPU_UTILIZATION',
  'GPU_MEMORY_USAGE_BYTES',
  'GPU_MEMORY_REQUEST_BYTES',
  'CPU_USAGE_CORES',
  'CPU_REQUEST_CORES',
  'CPU_LIMIT_CORES',
  'CPU_MEMORY_USAGE_BYTES',
  'CPU_MEMORY_REQUEST_BYTES',
  'CPU_MEMORY_LIMIT_BYTES',
  'POD_COUNT',
  'RUNNING_POD_COUNT',
  'GPU_ALLOCATION',
]

/** The types of pods that a version knows, as far as they are about GPUs, CPUs and memory. */
export function podTypesOf(version: RunaiVersion): readonly string[] {
  return [...gpuTypes, ...cpuTypes, ...advancedTypes, ...(version === '2.19' ? [] : laterPodTypes)]
}

export function runaiMetricsBehaviour(given: Partial<RunaiMetricsBehaviour> = {}): RunaiMetricsBehaviour {
  return {
    value: believable,
    allocation: (pods, atMs) =>
      String(
        pods.filter(pod => runs(pod, atMs)).reduce((sum, pod) => sum + Number(pod.allocated?.gpu ?? 0), 0),
      ),
    advanced: true,
    typesPerCallMax: 9,
    unknown: [],
    withheld: [],
    timestamps: 'rfc3339',
    times: (startMs, endMs, samples) =>
      Array.from(
        { length: samples },
        (_, index) => startMs + Math.round((index * (endMs - startMs)) / samples),
      ),
    order: measurements => measurements,
    ...given,
  }
}

export function runaiMetricsRoutes(
  fixture: RunaiFixture,
  behaviour: RunaiMetricsBehaviour,
): readonly RunaiRoute[] {
  const uuid = '([0-9a-f-]{36})'
  return [
    {
      endpoint: 'pod_metrics',
      method: 'GET',
      path: new RegExp(`^/api/v1/workloads/${uuid}/pods/${uuid}/metrics$`),
      answer: (call, [, workloadId, podId], { nowMs, version }) => {
        const pod = fixture.pods.find(({ id }) => id === podId)
        if (!pod || pod.workloadId !== workloadId) return problem(404, 'Resource id not found.')
        const asked = askedOf(call, podTypesOf(version), behaviour)
        if ('status' in asked) return asked
        return reply(asked, behaviour, type => podMeasurements(pod, type, asked.timesMs, behaviour, nowMs))
      },
    },
    {
      endpoint: 'workload_metrics',
      method: 'GET',
      path: new RegExp(`^/api/v1/workloads/${uuid}/metrics$`),
      answer: (call, [, workloadId], { nowMs, version }) => {
        if (!fixture.workloads.some(({ id }) => id === workloadId))
          return problem(404, 'Resource id not found.')
        const types = version === '2.19' ? workloadTypes : [...workloadTypes, 'NVLINK_BANDWIDTH_TOTAL']
        const asked = askedOf(call, types, behaviour)
        if ('status' in asked) return asked
        const pods = fixture.pods.filter(pod => pod.workloadId === workloadId)
        return reply(asked, behaviour, type => [
          {
            type,
            labels: null,
            values:
              type === 'GPU_ALLOCATION'
                ? samples(asked.timesMs, nowMs, behaviour, atMs => behaviour.allocation(pods, atMs))
                : [],
          },
        ])
      },
    },
  ]
}

interface Asked {
  readonly types: readonly string[]
  readonly timesMs: readonly number[]
}

function askedOf(
  call: RunaiCall,
  known: readonly string[],
  behaviour: RunaiMetricsBehaviour,
): Asked | RunaiReply {
  const { metricType = '', start = '', end = '', numberOfSamples = '20' } = call.query
  const types = metricType.split(',').filter(Boolean)
  const [startMs, endMs] = [instantMs(start), instantMs(end)]
  if (types.length === 0 || startMs === undefined || endMs === undefined || endMs <= startMs)
    return problem(400, 'metricType, start and end are required.')
  if (!/^\d{1,4}$/.test(numberOfSamples) || Number(numberOfSamples) > 1000)
    return problem(400, 'numberOfSamples is 0 to 1000.')
  if (types.length > behaviour.typesPerCallMax)
    return problem(400, `At most ${behaviour.typesPerCallMax} metric types in one call.`)
  const strange = types.find(type => !known.includes(type) || behaviour.unknown.includes(type))
  if (strange !== undefined) return problem(400, `Metric type ${strange} is not known.`)
  return { types, timesMs: behaviour.times(startMs, endMs, Number(numberOfSamples)) }
}

function reply(
  asked: Asked,
  behaviour: RunaiMetricsBehaviour,
  measurementsOf: (type: string) => readonly JsonObject[],
): RunaiReply {
  const given = asked.types.filter(type => !behaviour.withheld.includes(type))
  return {
    status: given.length === asked.types.length ? 200 : 207,
    body: { measurements: [...behaviour.order(given.flatMap(measurementsOf))] },
  }
}

/** Several measurements of one type, told apart by the label alone. */
function podMeasurements(
  pod: RunaiPod,
  type: string,
  timesMs: readonly number[],
  behaviour: RunaiMetricsBehaviour,
  nowMs: number,
): readonly JsonObject[] {
  if (!behaviour.advanced && advancedTypes.includes(type)) return [{ type, labels: null, values: null }]
  if (!type.endsWith('_PER_GPU')) return [{ type, labels: null, values: [] }]
  const gpus = Math.ceil(Number(pod.allocated?.gpu ?? 0))
  return Array.from({ length: gpus }, (_, gpu) => ({
    type,
    labels: { gpu: String(gpu) },
    values: samples(
      timesMs.filter(atMs => runs(pod, atMs)),
      nowMs,
      behaviour,
      atMs => behaviour.value({ pod, gpu, type, atMs }),
    ),
  }))
}

function samples(
  timesMs: readonly number[],
  nowMs: number,
  behaviour: RunaiMetricsBehaviour,
  valueAt: (atMs: number) => string | null | undefined,
): Json {
  const values = timesMs.flatMap(atMs => {
    const value = atMs > nowMs ? undefined : valueAt(atMs)
    if (value === undefined) return []
    const iso = new Date(atMs).toISOString()
    const timestamp = behaviour.timestamps === 'space' ? iso.replace('T', ' ').replace('Z', '') : iso
    // In the OpenAPI files a value is a string and a timestamp may be null: a missing one has neither.
    return [value === null ? { value: '', timestamp: null } : { value, timestamp }]
  })
  return values.length === 0 ? null : values
}

function runs(pod: RunaiPod, atMs: number): boolean {
  const endMs = Math.min(
    pod.completedMs ?? Number.POSITIVE_INFINITY,
    pod.deletedMs ?? Number.POSITIVE_INFINITY,
  )
  return pod.startedMs !== undefined && pod.startedMs <= atMs && atMs < endMs
}

const gib = 1024 ** 3

/** Loads its data for two minutes, then works, with a pause for a checkpoint each hour; memory and links follow. */
function believable({ pod, gpu, type, atMs }: GpuMoment): string {
  const sinceMs = atMs - (pod.startedMs ?? atMs)
  const isPaused = sinceMs < 120_000 || sinceMs % hourMs > 0.95 * hourMs
  const noise = chance(`${pod.id} ${gpu} ${Math.floor(atMs / 30_000)}`)
  const level = 25 + 60 * chance(pod.id)
  const busy = isPaused ? 0 : level + 14 * noise
  if (type.startsWith('GPU_UTILIZATION')) return busy.toFixed(1)
  if (type.startsWith('GPU_MEMORY_USAGE'))
    return String(Math.round((isPaused && sinceMs < 120_000 ? 4 : 58 + 4 * noise) * gib))
  if (type.includes('NVLINK')) return String(Math.round(busy * 0.9 * gib))
  if (type.includes('PCIE')) return String(Math.round((isPaused ? 6 : 1.5 + noise) * gib))
  return (busy / 100).toFixed(4)
}

/** In [0, 1), the same each time for the same text. */
function chance(text: string): number {
  return Number.parseInt(hash('sha256', text, 'hex').slice(0, 8), 16) / 2 ** 32
}

function problem(status: number, message: string): RunaiReply {
  return { status, body: { code: new JsonNumber(String(status)), message, details: message } }
}
