/**
 * What the samples of one pod say of a window: measures, summed over all of its GPUs, and what no sample tells. Owns the
 * rules, for invoices depend on them; who asks for samples is metrics.ts. Pure.
 *
 * - A sample holds until the next one of its GPU, at most `maxGapMs`, and only while the pod ran. Rates of bytes a second
 *   become bytes that way (DCGM's gauges of NVLink and PCIe, which Run:ai hands on, are rates in spite of their names).
 * - What no sample tells counts nothing. As long as it is short, at a pod's start for instance, that is how samples are;
 *   from `maxGapMs` on, or a whole window if that is shorter, the reading is `estimated` and its `doubt` says what lacks.
 * - A type of which there is no sample at all is not in the measures but among `missing`: a gap, never zero. Only a pod
 *   too short to have any counts zero, `estimated`.
 * - A GPU is idle while its utilization is at most `idlePercent`. Of a pod that has less GPUs than it sees (fractions)
 *   each counts with its share.
 * - GPUs without NVLink have no samples of it: where those of PCIe are there and the answer is whole, it is left out.
 */
import Fraction from 'fraction.js'
import { decimalOfJsonNumber, exact, showQuantity, showRounded } from '../../../schemas/decimal.ts'
import { Fault } from '../../../schemas/fault.ts'
import {
  fractionOf,
  isJsonArray,
  isJsonObject,
  type Json,
  JsonNumber,
  type JsonObject,
} from '../../../schemas/json.ts'
import type { MeasureName } from '../../../schemas/measures.ts'
import { instantMs, secondMs, type Window } from '../../../schemas/window.ts'
import { gaugeIntegral, type Sample } from '../../samples.ts'

export type GpuGroup = 'utilization' | 'memory' | 'idle' | 'bandwidth'

/** What of the options says how samples are understood. */
export interface GpuRules {
  readonly collect: readonly GpuGroup[]
  readonly maxGapMs: number
  readonly idlePercent: string
}

/** The pod as its samples are held against it. */
export interface SampledPod {
  /** GPUs allocated to it, whole or not; more than none. */
  readonly gpus: Fraction
  /** When it ran, in order, without overlaps; the end of what runs on may be in the future. */
  readonly runs: readonly Window[]
}

/** All that Run:ai said of one pod, in as many calls as it took. */
export interface SampleAnswer {
  /** As they came. */
  readonly measurements: readonly Json[]
  /** Did an answer say that it is not whole (207)? */
  readonly isPartial: boolean
  /** Types that this control plane does not know. */
  readonly unknown: readonly string[]
}

export interface GpuFigures {
  /** Empty where everything is missing. */
  readonly measures: Readonly<Partial<Record<MeasureName, string>>>
  /** Types of which nothing is known, each with why. */
  readonly missing: readonly string[]
  readonly estimated: boolean
  /** What the samples leave open, in words. */
  readonly doubts: readonly string[]
  /** How many GPUs had samples. */
  readonly gpusSampled: number
}

/** The types that are billed: the measure each becomes, and what one unit of a sample is in its unit. */
const metrics = {
  GPU_UTILIZATION_PER_GPU: { measure: 'gpu_active_seconds', perUnit: new Fraction(1, 100) },
  GPU_MEMORY_USAGE_BYTES_PER_GPU: { measure: 'gpu_memory_byte_seconds', perUnit: new Fraction(1) },
  GPU_NVLINK_RECEIVED_BANDWIDTH_PER_GPU: { measure: 'nvlink_receive_bytes', perUnit: new Fraction(1) },
  GPU_NVLINK_TRANSMITTED_BANDWIDTH_PER_GPU: { measure: 'nvlink_transmit_bytes', perUnit: new Fraction(1) },
  GPU_PCIE_RECEIVED_BANDWIDTH_PER_GPU: { measure: 'pcie_receive_bytes', perUnit: new Fraction(1) },
  GPU_PCIE_TRANSMITTED_BANDWIDTH_PER_GPU: { measure: 'pcie_transmit_bytes', perUnit: new Fraction(1) },
} as const satisfies Record<string, { measure: MeasureName; perUnit: Fraction }>
export type PodMetric = keyof typeof metrics

const utilization: PodMetric = 'GPU_UTILIZATION_PER_GPU'
const typesOf: Readonly<Record<GpuGroup, readonly PodMetric[]>> = {
  utilization: [utilization],
  idle: [utilization],
  memory: ['GPU_MEMORY_USAGE_BYTES_PER_GPU'],
  bandwidth: [
    'GPU_NVLINK_RECEIVED_BANDWIDTH_PER_GPU',
    'GPU_NVLINK_TRANSMITTED_BANDWIDTH_PER_GPU',
    'GPU_PCIE_RECEIVED_BANDWIDTH_PER_GPU',
    'GPU_PCIE_TRANSMITTED_BANDWIDTH_PER_GPU',
  ],
}

/** Samples are rounded to so many places: times whole milliseconds, that fits the twelve of a stored value. */
const samplePlaces = 9

/** What is to be asked for: each type once. */
export function typesFor(collect: readonly GpuGroup[]): readonly PodMetric[] {
  return [...new Set(collect.flatMap(group => typesOf[group]))]
}

/** How long the pod ran in the window, in milliseconds. */
export function ranMs(pod: SampledPod, window: Window): number {
  return clipped(pod.runs, window).reduce((sum, run) => sum + run.endMs - run.startMs, 0)
}

/** The parts of spans that are in the window. */
export function clipped(spans: readonly Window[], window: Window): readonly Window[] {
  return spans
    .map(({ startMs, endMs }) => ({
      startMs: Math.max(startMs, window.startMs),
      endMs: Math.min(endMs, window.endMs),
    }))
    .filter(({ startMs, endMs }) => startMs < endMs)
}

/** @throws Fault ITEM_UNREADABLE, its fact `path` naming the measurement. */
export function gpuFigures(
  pod: SampledPod,
  answer: SampleAnswer,
  window: Window,
  rules: GpuRules,
): GpuFigures {
  const { collect, maxGapMs } = rules
  const types = typesFor(collect)
  const series = seriesOf(answer.measurements, types)
  const runs = clipped(pod.runs, window)
  const ran = ranMs(pod, window)
  /** Before that no sample can be missed: the first one may not be there yet. */
  const isOld = pod.runs.some(
    run => run.startMs < window.endMs && Math.min(run.endMs, window.endMs) - run.startMs > maxGapMs,
  )
  const isHole = (untoldMs: number) => isOld && untoldMs >= Math.min(maxGapMs, window.endMs - window.startMs)

  const measures: Partial<Record<MeasureName, string>> = {}
  const missing: string[] = []
  const doubts: string[] = []
  let estimated = false
  let gpusSampled = 0

  for (const type of types) {
    const sampled = (series.get(type) ?? []).filter(each => each.samples.some(isValue))
    if (sampled.length === 0) {
      if (answer.unknown.includes(type)) missing.push(`${type} is not known to this control plane`)
      else if (type.includes('NVLINK') && !answer.isPartial && hasPcie(series)) continue
      else if (isHole(ran)) missing.push(`${type} has no samples`)
      else {
        estimated = true
        for (const measure of measuresOf(type, collect)) measures[measure] = '0'
      }
      continue
    }
    gpusSampled = Math.max(gpusSampled, sampled.length)
    const { measure, perUnit } = metrics[type]
    const sums = { own: new Fraction(0), idle: new Fraction(0) }
    // Whole GPUs count whole; shares of them by what was allocated.
    const share = pod.gpus.compare(sampled.length) < 0 ? pod.gpus.div(sampled.length) : new Fraction(1)
    for (const { gpu, path, samples } of sampled) {
      const own = overRuns(samples, runs, { maxGapMs, scale: { perUnit, places: samplePlaces } }, path)
      sums.own = sums.own.add(own.integral)
      if (type === utilization && collect.includes('idle'))
        sums.idle = sums.idle.add(
          overRuns(idleSamples(samples, rules.idlePercent, share), runs, { maxGapMs }, path).integral,
        )
      if (isHole(ran - own.coveredMs)) {
        estimated = true
        doubts.push(
          `${type}${gpu && ` of GPU ${gpu}`}: ${seconds(own.coveredMs)} of ${seconds(ran)} s sampled`,
        )
      }
    }
    // A fraction may be of several GPUs, so only too few are too few.
    const gpusDue = Number(pod.gpus.ceil())
    if (sampled.length < gpusDue && isHole(ran)) {
      estimated = true
      doubts.push(`${type}: samples of ${sampled.length} of ${gpusDue} GPUs`)
    }
    for (const name of measuresOf(type, collect))
      measures[name] = showQuantity(name === measure ? sums.own : sums.idle)
  }
  return { measures, missing, estimated, doubts, gpusSampled }
}

/** What a type gives: of utilization what is used, or idle, or both, as configured. */
function measuresOf(type: PodMetric, collect: readonly GpuGroup[]): readonly MeasureName[] {
  if (type !== utilization) return [metrics[type].measure]
  return [
    ...(collect.includes('utilization') ? [metrics[type].measure] : []),
    ...(collect.includes('idle') ? (['gpu_idle_seconds'] as const) : []),
  ]
}

export interface Series {
  /** Its label, for people; empty where there is none. */
  readonly gpu: string
  readonly path: string
  readonly samples: readonly Sample[]
}

/**
 * The series of each type. Several measurements have one type, told apart by labels alone: who keeps them by type keeps
 * one GPU of eight.
 */
export function seriesOf<Type extends string>(
  measurements: readonly Json[],
  types: readonly Type[],
): ReadonlyMap<Type, readonly Series[]> {
  const found = new Map<Type, Series[]>()
  const labelled = new Set<string>()
  for (const [index, measurement] of measurements.entries()) {
    const path = `/measurements/${index}`
    if (!isJsonObject(measurement)) throw unreadable(path, 'is not an object')
    const type = types.find(each => each === measurement.type)
    if (type === undefined) continue
    const labels = labelsOf(measurement.labels, path)
    const key = JSON.stringify([type, ...labels.map(label => label.join('='))])
    const gpu = labels.find(([name]) => name === 'gpu')?.[1] ?? ''
    if (labelled.has(key)) throw unreadable(path, `is ${type} of GPU "${gpu}" once more`)
    labelled.add(key)
    const series = found.get(type) ?? []
    found.set(type, series)
    series.push({ gpu, path, samples: samplesOf(measurement.values, type, path) })
  }
  return found
}

function labelsOf(value: Json | undefined, path: string): readonly (readonly [string, string])[] {
  if (value === undefined || value === null) return []
  if (!isJsonObject(value)) throw unreadable(`${path}/labels`, 'is not an object')
  return Object.entries(value)
    .flatMap(([name, label]) => {
      const text = label instanceof JsonNumber ? label.text : label
      return typeof text === 'string' ? [[name, text] as const] : []
    })
    .sort(([a], [b]) => (a < b ? -1 : 1))
}

function samplesOf(values: Json | undefined, type: string, path: string): readonly Sample[] {
  if (values === undefined || values === null) return []
  if (!isJsonArray(values)) throw unreadable(`${path}/values`, 'is not a list')
  const samples: Sample[] = []
  for (const [index, value] of values.entries()) {
    // A null among them is a sample that was missed.
    if (value === null) continue
    const at = `${path}/values/${index}`
    if (!isJsonObject(value)) throw unreadable(at, 'is not an object')
    const atMs = sampleMs(value.timestamp, at)
    if (atMs !== undefined) samples.push({ atMs, value: sampleText(value, type, at) })
  }
  return samples
}

/**
 * One example of the OpenAPI files is `2023-06-06 12:09:18.211`: with a space, and no zone, which is taken for UTC.
 * Undefined where the timestamp is null, as they allow: nobody knows when that was.
 */
export function sampleMs(timestamp: Json | undefined, path: string): number | undefined {
  if (timestamp === undefined || timestamp === null) return undefined
  if (typeof timestamp === 'string') {
    const text = timestamp.trim().replace(/^(\d{4}-\d{2}-\d{2}) +(?=\d)/, '$1T')
    const ms = instantMs(text) ?? instantMs(`${text}Z`)
    if (ms !== undefined) return ms
  }
  throw unreadable(`${path}/timestamp`, 'is no time')
}

const sampleShape = /^(-0|\d+(\.\d+)?([eE][+-]?\d{1,2})?)$/

/** As text, `NaN` where there is no value. */
function sampleText(sample: JsonObject, type: string, path: string): string {
  const { value } = sample
  const text = value instanceof JsonNumber ? value.text : value
  if (text === undefined || text === null || text === '' || text === 'NaN') return 'NaN'
  if (typeof text !== 'string' || !sampleShape.test(text)) throw unreadable(`${path}/value`, 'is no quantity')
  if (type === utilization && !isAtMost(text, '100'))
    throw unreadable(`${path}/value`, 'is a utilization of more than 100 %')
  return text
}

export function isValue(sample: Sample): boolean {
  return sample.value !== 'NaN'
}

function hasPcie(series: ReadonlyMap<PodMetric, readonly Series[]>): boolean {
  return [...series].some(
    ([type, each]) => type.includes('PCIE') && each.some(({ samples }) => samples.some(isValue)),
  )
}

/** The share while it is idle, and zero while it works: the time of both is told. */
function idleSamples(samples: readonly Sample[], idlePercent: string, share: Fraction): readonly Sample[] {
  const idle = showRounded(share, samplePlaces)
  return samples.map(sample =>
    isValue(sample) ? { atMs: sample.atMs, value: isAtMost(sample.value, idlePercent) ? idle : '0' } : sample,
  )
}

/** Floats decide where they differ, for rounding keeps the order; where they do not, the digits do. */
function isAtMost(value: string, most: string): boolean {
  const [x, y] = [Number(value), Number(most)]
  if (x !== y) return x < y
  const digits = fractionOf(new JsonNumber(value))
  return digits === undefined || digits.compare(exact(most)) <= 0
}

function overRuns(
  samples: readonly Sample[],
  runs: readonly Window[],
  options: Parameters<typeof gaugeIntegral>[2],
  path: string,
): { readonly integral: Fraction; readonly coveredMs: number } {
  let integral = new Fraction(0)
  let coveredMs = 0
  try {
    for (const run of runs) {
      const part = gaugeIntegral(samples, run, options)
      integral = integral.add(part.integral)
      coveredMs += part.coveredMs
    }
  } catch (error) {
    if (error instanceof Fault) throw unreadable(path, error.message)
    throw error
  }
  return { integral, coveredMs }
}

function seconds(ms: number): string {
  return decimalOfJsonNumber(String(ms / secondMs))
}

function unreadable(path: string, what: string): Fault {
  return new Fault('ITEM_UNREADABLE', `${path} ${what}`, { path })
}
