/**
 * Reads what the GPUs of pods did: asks a control plane for samples, pod by pod, and makes them into readings of their
 * own, so that a metrics outage does not spoil what was allocated. Owns the options and the calls, whatever the version
 * knows; what samples say of a window is gpu-figures.ts, which pods there are, and when they ran, is given.
 */
import Type, { type Static } from 'typebox'
import type { Usage } from '../../../schemas/event.ts'
import { Fault } from '../../../schemas/fault.ts'
import { hourMs, secondMs, showInstant, type Window } from '../../../schemas/window.ts'
import { stopIfAborted } from '../../asking.ts'
import type { Findings } from '../../source.ts'
import { listOf, type RunaiCalls } from './calls.ts'
import { allocationDoubt, type Tolerance } from './crosscheck.ts'
import {
  clipped,
  type GpuFigures,
  type GpuRules,
  gpuFigures,
  isValue,
  type PodMetric,
  ranMs,
  type SampleAnswer,
  type SampledPod,
  seriesOf,
  typesFor,
} from './gpu-figures.ts'
import type { Pod } from './pods.ts'

export const RunaiMetricsConfig = Type.Object(
  {
    collect: Type.Array(Type.Enum(['utilization', 'memory', 'idle', 'bandwidth']), {
      default: ['utilization', 'memory', 'idle'],
      minItems: 1,
      uniqueItems: true,
      description:
        'What is measured of GPUs. bandwidth is NVLink and PCIe, for which "Advanced GPU Metrics" must be on in the settings of Run:ai: without it each pod would be a gap.',
    }),
    sampleSeconds: Type.Enum([5, 10, 15, 20, 30, 60], {
      default: 30,
      description: 'How far apart samples are asked for; closer than Run:ai scrapes tells nothing more.',
    }),
    maxGapSeconds: Type.Integer({
      default: 120,
      minimum: 10,
      maximum: 600,
      description:
        'How long a sample holds where no other follows, at least two sampleSeconds: 120 bridges three scrapes of 30 s that were missed. What is beyond counts nothing, and the reading is estimated.',
    }),
    idlePercent: Type.String({
      default: '0',
      pattern: '^(100|[0-9]|[1-9][0-9])(\\.[0-9]{1,6})?$',
      description: 'A GPU is idle while its utilization is at most this.',
    }),
    missing: Type.Enum(['gap', 'doubt'], {
      default: 'gap',
      description:
        'What it is when a pod has samples, but none of something collected. gap: its project is not billed before somebody looked. doubt: coverage names it and the rest counts; for MIG slices, which have no utilization.',
    }),
  },
  {
    additionalProperties: false,
    description: 'What GPUs did, as a scope of its own beside each cluster. Without it they are not asked.',
  },
)
export type RunaiMetricsConfig = Static<typeof RunaiMetricsConfig>

export interface MetricsOptions extends RunaiMetricsConfig {
  /** How many pods may be asked for at once. */
  readonly concurrency: number
  /** Undefined: samples of GPU_ALLOCATION are not asked for. */
  readonly tolerance?: Tolerance
}

/** A pod whose GPUs are measured. */
export interface MeasuredPod extends SampledPod {
  readonly workloadId: string
  readonly podId: string
  readonly name?: string
  readonly subject: string
  readonly labels: Readonly<Record<string, string>>
  /** The control plane did not say when it ended, or began. */
  readonly hasEstimatedRuns?: boolean
}

/** Undefined where there is nothing to measure: no GPU, or no workload to ask for. */
export function measuredPod(pod: Pod): MeasuredPod | undefined {
  const { id, name, workloadId, subject, labels, run, held } = pod
  if (workloadId === undefined || held.gpus === undefined || held.gpus.compare(0) <= 0) return undefined
  return {
    workloadId,
    podId: id,
    ...(name !== undefined && { name }),
    subject,
    labels,
    gpus: held.gpus,
    runs: [{ startMs: run.startMs, endMs: run.endMs ?? Number.POSITIVE_INFINITY }],
    ...(run.estimated !== undefined && { hasEstimatedRuns: true }),
  }
}

/** A reading of one pod; or beside it, or instead of it, what is not known of that pod, whose `toUsage` is the fault. */
export type MetricsItem =
  | {
      readonly of: 'gpu'
      readonly pod: MeasuredPod
      readonly figures: GpuFigures
    }
  | { readonly of: 'gpu_unknown'; readonly pod: MeasuredPod; readonly why: string; readonly path?: string }

/** More in one call is refused. The OpenAPI files do not say so, OpenMeter's collector does. */
export const typesPerCallMax = 9
const samplesPerCallMax = 1000
/** A control plane may be upgraded while this runs. */
const unknownKeptMs = hourMs

export interface RunaiMetrics {
  /**
   * The items of these pods in this window, without those that have no GPU or did not run in it. Some pods are asked for
   * ahead of who takes them, so that many are never in memory.
   * @throws Fault where the control plane answers for no pod at all
   */
  read(pods: readonly MeasuredPod[], window: Window, signal: AbortSignal): AsyncIterable<MetricsItem>
  /** Can GPUs be measured as the options say? Asks for the last time in which this pod ran, an hour at most. */
  check(pod: MeasuredPod, signal: AbortSignal): Promise<Findings>
}

interface Ask {
  readonly path: string
  readonly types: readonly string[]
  readonly window: Window
  readonly about: string
  readonly signal: AbortSignal
}

/** What came of one or more calls; the types that were refused when they were asked for alone. */
interface Answer extends SampleAnswer {
  readonly refused: readonly Fault[]
}

/** @throws Fault CONFIG_INVALID */
export function openMetrics(
  options: MetricsOptions,
  given: { readonly calls: RunaiCalls; readonly nowMs: () => number },
): RunaiMetrics {
  const { calls, nowMs } = given
  const { maxGapSeconds, sampleSeconds, tolerance } = options
  if (maxGapSeconds < 2 * sampleSeconds)
    throw new Fault(
      'CONFIG_INVALID',
      `metrics.maxGapSeconds: ${maxGapSeconds} is less than two sampleSeconds of ${sampleSeconds}`,
    )
  const maxGapMs = maxGapSeconds * secondMs
  const stepMs = sampleSeconds * secondMs
  const rules: GpuRules = { collect: options.collect, maxGapMs, idlePercent: options.idlePercent }
  const types = typesFor(options.collect)
  const unknownUntilMs = new Map<string, number>()

  /** From before the window, for what holds into it, and all on one grid: windows of any width see the same samples. */
  function reach(window: Window): Window {
    return { startMs: Math.floor((window.startMs - maxGapMs) / stepMs) * stepMs, endMs: window.endMs }
  }

  /** All types in as few calls as may be; those that were unknown a while ago are not asked for. */
  async function ask(asked: Ask): Promise<SampleAnswer> {
    const isKnown = (type: string) => (unknownUntilMs.get(type) ?? 0) <= nowMs()
    const types = asked.types.filter(isKnown)
    const answers = await Promise.all(
      chunksOf(types, typesPerCallMax).map(chunk => askHalving({ ...asked, types: chunk })),
    )
    const answer = together(answers)
    const [refused] = answer.refused
    // Where not one type is taken it is not the types that are wrong.
    if (refused && answer.unknown.length === types.length) throw refused
    for (const type of answer.unknown) unknownUntilMs.set(type, nowMs() + unknownKeptMs)
    return { ...answer, unknown: [...answer.unknown, ...asked.types.filter(type => !types.includes(type))] }
  }

  /** One unknown type is a 400 for the whole call, as are too many: halves are asked for, until one is alone. */
  async function askHalving(asked: Ask): Promise<Answer> {
    const { types } = asked
    try {
      return await askOnce(asked)
    } catch (error) {
      if (!(error instanceof Fault) || error.facts.status !== 400) throw error
      if (types.length < 2) return { measurements: [], isPartial: false, unknown: types, refused: [error] }
      const middle = Math.ceil(types.length / 2)
      return together(
        await Promise.all([
          askHalving({ ...asked, types: types.slice(0, middle) }),
          askHalving({ ...asked, types: types.slice(middle) }),
        ]),
      )
    }
  }

  async function askOnce({ path, types, window, about, signal }: Ask): Promise<Answer> {
    const samples = Math.ceil((window.endMs - window.startMs) / stepMs)
    const asked = {
      path,
      query: {
        metricType: types,
        start: showInstant(window.startMs),
        end: showInstant(window.endMs),
        numberOfSamples: Math.min(samples, samplesPerCallMax),
      },
      endpoint: 'runai.metrics',
      about,
      signal,
    }
    const { status, body } = await calls.get(asked)
    return {
      measurements: listOf(body, 'measurements', asked),
      isPartial: status === 207,
      unknown: [],
      refused: [],
    }
  }

  const askPod = (pod: MeasuredPod, types: readonly string[], window: Window, signal: AbortSignal) =>
    ask({
      path: `${pathOf(pod.workloadId)}/pods/${encodeURIComponent(pod.podId)}/metrics`,
      types,
      window,
      about: `metrics of pod ${pod.podId}`,
      signal,
    })

  async function readPod(
    pod: MeasuredPod,
    siblings: readonly MeasuredPod[] | undefined,
    window: Window,
    signal: AbortSignal,
  ): Promise<readonly MetricsItem[]> {
    const [answer, doubt] = await Promise.all([
      askPod(pod, types, reach(window), signal).catch(notFound),
      siblings && allocationOf(siblings, window, signal),
    ])
    if (typeof answer === 'string') return [{ of: 'gpu_unknown', pod, why: answer }]
    return itemsOf(pod, answer, doubt, window)
  }

  function itemsOf(
    pod: MeasuredPod,
    answer: SampleAnswer,
    doubt: string | undefined,
    window: Window,
  ): readonly MetricsItem[] {
    let figures: GpuFigures
    try {
      figures = gpuFigures(pod, answer, window, rules)
    } catch (error) {
      if (!(error instanceof Fault) || error.code !== 'ITEM_UNREADABLE') throw error
      const { path } = error.facts
      return [{ of: 'gpu_unknown', pod, why: error.message, ...(typeof path === 'string' && { path }) }]
    }
    const { measures, missing } = figures
    const hasReading = Object.keys(measures).length > 0
    // Without a reading there is nothing that could be in doubt.
    const isGap = missing.length > 0 && (options.missing === 'gap' || !hasReading)
    const doubts = [...figures.doubts, ...(isGap ? [] : missing), ...(doubt === undefined ? [] : [doubt])]
    return [
      ...(hasReading ? [{ of: 'gpu', pod, figures: { ...figures, doubts } } as const] : []),
      ...(isGap ? [{ of: 'gpu_unknown', pod, why: missing.join('; ') } as const] : []),
    ]
  }

  /** A workload's samples against all of its pods; one call for all of them. */
  async function allocationOf(
    pods: readonly MeasuredPod[],
    window: Window,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const [first] = pods
    if (!first || !tolerance) return undefined
    const answer = await ask({
      path: `${pathOf(first.workloadId)}/metrics`,
      types: ['GPU_ALLOCATION'],
      window: reach(window),
      about: `allocation of workload ${first.workloadId}`,
      signal,
    }).catch(notFound)
    // What cannot be held against anything is not in doubt for that.
    if (typeof answer === 'string') return undefined
    try {
      const series = seriesOf(answer.measurements, ['GPU_ALLOCATION']).get('GPU_ALLOCATION') ?? []
      const [samples] = series.map(each => each.samples)
      return series.length === 1 && samples
        ? // Held for longer, the last sample before an end would be a difference of its own.
          allocationDoubt(pods, samples, window, { ...tolerance, maxGapMs: 2 * stepMs })
        : undefined
    } catch (error) {
      if (error instanceof Fault && error.code === 'ITEM_UNREADABLE')
        return `samples of GPU_ALLOCATION: ${error.message}`
      throw error
    }
  }

  return {
    async *read(pods, window, signal) {
      const measured = pods.filter(pod => pod.gpus.compare(0) > 0 && ranMs(pod, window) > 0)
      const ofWorkload = Map.groupBy(measured, pod => pod.workloadId)
      const stop = new AbortController()
      const either = AbortSignal.any([signal, stop.signal])
      try {
        for await (const items of ahead(measured, options.concurrency, pod => {
          const siblings = ofWorkload.get(pod.workloadId)
          return readPod(pod, siblings?.[0] === pod ? siblings : undefined, window, either)
        })) {
          stopIfAborted(signal)
          yield* items
        }
      } finally {
        stop.abort()
      }
    },

    async check(pod, signal) {
      const endMs = Math.min(nowMs(), pod.runs.at(-1)?.endMs ?? nowMs())
      const startMs = Math.max(endMs - hourMs, pod.runs.at(-1)?.startMs ?? 0)
      const all = typesFor(['utilization', 'memory', 'bandwidth'])
      if (endMs - startMs < maxGapMs)
        return { works: [`pod ${pod.podId} ran too briefly for metrics: not tried`], missing: [] }
      const answer = await askPod(pod, all, { startMs, endMs }, signal)
      const series = seriesOf(answer.measurements, all)
      const sampled = all.filter(type => series.get(type)?.some(each => each.samples.some(isValue)))
      const gpus = Math.max(0, ...sampled.map(type => series.get(type)?.length ?? 0))
      const bandwidth = typesFor(['bandwidth'])
      const remedyOf = (type: PodMetric) =>
        answer.unknown.includes(type)
          ? 'upgrade the control plane, or take it out of metrics.collect'
          : bandwidth.includes(type)
            ? 'turn on "Advanced GPU Metrics" in the settings of Run:ai, or take `bandwidth` out of metrics.collect'
            : "look whether the cluster's Prometheus runs and sends to the control plane; MIG slices have no utilization: `metrics.missing: doubt`"
      return {
        works: [
          ...(sampled.length > 0
            ? [
                `${gpus} GPUs of pod ${pod.podId} have samples of ${[...new Set(sampled.map(wordOf))].join(', ')}`,
              ]
            : []),
          ...(!options.collect.includes('bandwidth') && sampled.some(type => bandwidth.includes(type))
            ? ['NVLink and PCIe are measured too: `bandwidth` in metrics.collect would take them']
            : []),
        ],
        // Not all GPUs have NVLink; where the flag is off, PCIe lacks as well.
        missing: types
          .filter(type => !sampled.includes(type) && !type.includes('NVLINK'))
          .map(type => ({
            what: `${type} ${answer.unknown.includes(type) ? 'is not known to this control plane' : 'has no samples'}`,
            remedy: remedyOf(type),
          })),
      }
    },
  }
}

/** @throws Fault ITEM_UNREADABLE for what is not known of the pod: a gap of its tenant. */
export function metricsUsage(item: MetricsItem, window: Window): Usage {
  const { pod } = item
  if (item.of === 'gpu_unknown')
    throw new Fault('ITEM_UNREADABLE', `metrics of pod ${pod.podId}: ${item.why}`, {
      subject: pod.subject,
      pod: pod.podId,
      ...(item.path !== undefined && { path: item.path }),
    })
  const { measures, estimated, doubts, gpusSampled } = item.figures
  const runs = clipped(pod.runs, window)
  return {
    thing: 'gpu',
    subject: pod.subject,
    resource: { kind: 'pod', id: pod.podId, ...(pod.name !== undefined && { name: pod.name }) },
    measures,
    labels: pod.labels,
    interval: { startMs: runs[0]?.startMs ?? window.startMs, endMs: runs.at(-1)?.endMs ?? window.endMs },
    ...(gpusSampled > 1 && { parts: gpusSampled }),
    estimated: estimated || pod.hasEstimatedRuns === true,
    ...(doubts.length > 0 && { doubt: doubts.join('; ') }),
  }
}

function wordOf(type: PodMetric): string {
  if (type.includes('NVLINK')) return 'NVLink'
  if (type.includes('PCIE')) return 'PCIe'
  return type.includes('MEMORY') ? 'memory' : 'utilization'
}

function pathOf(workloadId: string): string {
  return `/api/v1/workloads/${encodeURIComponent(workloadId)}`
}

/** A pod or workload that is not known any more, or of which nothing is taken, is its own gap and nobody else's. */
function notFound(error: unknown): string {
  if (error instanceof Fault && (error.code === 'SOURCE_MISSING' || error.code === 'SOURCE_REFUSED'))
    return error.message
  throw error
}

function together(answers: readonly Answer[]): Answer {
  return {
    measurements: answers.flatMap(answer => answer.measurements),
    isPartial: answers.some(answer => answer.isPartial),
    unknown: answers.flatMap(answer => answer.unknown),
    refused: answers.flatMap(answer => answer.refused),
  }
}

function chunksOf<T>(all: readonly T[], size: number): readonly (readonly T[])[] {
  return Array.from({ length: Math.ceil(all.length / size) }, (_, index) =>
    all.slice(index * size, (index + 1) * size),
  )
}

/** Works on some items ahead of the one that is given next; in their order. */
async function* ahead<From, To>(
  all: readonly From[],
  most: number,
  work: (each: From) => Promise<To>,
): AsyncGenerator<To> {
  const under: Promise<To>[] = []
  for (const each of all) {
    const one = work(each)
    // It fails where it is waited for, in its turn.
    one.catch(() => {})
    under.push(one)
    if (under.length >= most) yield (await under.shift()) as To
  }
  for (const one of under) yield await one
}
