/** What a pod says of a window: its time and what it held, whose it was and what it ran. Pure. */
import Fraction from 'fraction.js'
import { decimalPlacesMax, isBoundedDecimal, roundHalfAway, show } from '../../../schemas/decimal.ts'
import type { Usage } from '../../../schemas/event.ts'
import { Fault } from '../../../schemas/fault.ts'
import { isJsonObject, type Json, type JsonObject } from '../../../schemas/json.ts'
import type { MeasureName } from '../../../schemas/measures.ts'
import { secondMs, type Window } from '../../../schemas/window.ts'
import { hasEnded, type Run, runOf } from './intervals.ts'
import { allocatedOf, type Held, heldBy, migProfilesOf, requestedOf } from './resources.ts'
import { Unfit, unfit } from './unfit.ts'

/** What is told of the node that a pod ran on. */
export interface PodNode {
  readonly gpuType?: string
  /** Of one GPU. */
  readonly gpuMemoryBytes?: Fraction
  readonly nodePool?: string
}

/** What was seen of a pod when it ran, and is not told afterwards. */
export interface Remembered {
  readonly startMs: number
  readonly held?: Held
}

/** A row of the list of pods, and what is known of it besides. Rows hold secrets: what is taken of them is picked here. */
export interface PodItem {
  readonly of: 'pod'
  readonly row: Json
  readonly cluster: { readonly id: string; readonly name: string }
  readonly workload?: JsonObject
  readonly node?: PodNode
  readonly remembered?: Remembered
  /** Another figure of the control plane that contradicts the intervals of its workload. */
  readonly doubt?: string
}

/** A pod as it is understood. */
export interface Pod {
  readonly id: string
  readonly name?: string
  readonly workloadId?: string
  /** The id of its project. */
  readonly subject: string
  readonly run: Run
  readonly held: Held
  readonly labels: Readonly<Record<string, string>>
}

/**
 * @returns undefined where no container of it ever ran
 * @throws Fault ITEM_UNREADABLE with the subject, where that can be read
 */
export function podOf(item: PodItem): Pod | undefined {
  const { row, workload } = item
  if (!isJsonObject(row)) throw unreadable({}, '/', unfit(row))
  const subject = textOf(workload?.projectId) ?? textOf(row.projectId)
  const where: Where = {
    ...(subject !== undefined && { subject }),
    ...named('project', workload?.projectName ?? row.projectName),
    ...named('workload', workload?.name ?? row.workloadName),
    ...named('pod', row.name),
  }
  const id = textOf(row.id)
  if (id === undefined) throw unreadable(where, '/id', unfit(row.id))
  try {
    const run = runOf(row, workload, item.remembered?.startMs)
    if (!run) return undefined
    if (subject === undefined) throw new Unfit('/projectId', unfit(row.projectId))
    const mig = migProfilesOf(row.allocatedResources) ?? migProfilesOf(row.requestedResources)
    const held = heldBy({
      allocated: allocatedOf(row.allocatedResources),
      requested: requestedOf(row.requestedResources),
      ended: hasEnded(row),
      ...(mig !== undefined && { mig }),
      ...(item.remembered?.held && { remembered: item.remembered.held }),
      ...(item.node?.gpuMemoryBytes && { nodeGpuMemoryBytes: item.node.gpuMemoryBytes }),
    })
    const name = textOf(row.name)
    const workloadId = textOf(row.workloadId)
    return {
      id,
      ...(name !== undefined && { name }),
      ...(workloadId !== undefined && { workloadId }),
      subject,
      run,
      held,
      labels: labelsOf(item, row),
    }
  } catch (error) {
    if (error instanceof Unfit) throw unreadable(where, error.path, error.message)
    throw error
  }
}

/** One reading where the pod ran in the window, none where it did not. */
export function podUsage(item: PodItem, window: Window): readonly Usage[] {
  const pod = podOf(item)
  const interval = pod && clamped(pod.run, window)
  if (!pod || !interval) return []
  const { gpus, cpuCores, memoryBytes } = pod.held
  const rates: [MeasureName, Fraction | undefined][] = [
    ['instance_seconds', new Fraction(1)],
    ['gpu_seconds', gpus],
    ['cpu_core_seconds', cpuCores],
    ['memory_byte_seconds', memoryBytes],
  ]
  const shown: Partial<Record<MeasureName, string>> = {}
  for (const [name, rate] of rates) {
    if (rate === undefined) continue
    const text = show(over(rate, interval))
    if (!isBoundedDecimal(text))
      throw unreadable({ subject: pod.subject, ...named('pod', pod.name) }, name, 'is beyond 1e24')
    shown[name] = text
  }
  const doubts = [
    ...(item.workload ? [] : ['its workload is not known any more: labels of it are missing']),
    ...(item.doubt === undefined ? [] : [item.doubt]),
  ]
  return [
    {
      thing: 'pod',
      subject: pod.subject,
      resource: { kind: 'pod', id: pod.id, ...(pod.name !== undefined && { name: pod.name }) },
      measures: shown,
      labels: pod.labels,
      interval,
      ...(pod.run.estimated !== undefined && { estimated: true }),
      ...(doubts.length > 0 && { doubt: `pod ${pod.name ?? pod.id}: ${doubts.join('; ')}` }),
    },
  ]
}

/**
 * A rate times the time. A seventh of a second has no finite decimal: each edge is rounded as a distance from the epoch,
 * so that windows of any width add up to the digit.
 */
function over(rate: Fraction, { startMs, endMs }: Window): Fraction {
  const until = (ms: number) => roundHalfAway(rate.mul(new Fraction(ms, secondMs)), decimalPlacesMax)
  return until(endMs).sub(until(startMs))
}

/** The part of a run that is in the window. */
export function clamped(run: Run, window: Window): Window | undefined {
  const startMs = Math.max(run.startMs, window.startMs)
  const endMs = Math.min(run.endMs ?? window.endMs, window.endMs)
  return startMs < endMs ? { startMs, endMs } : undefined
}

/** What a biller groups by; nothing that a user of the cluster writes freely but names. */
function labelsOf(item: PodItem, pod: JsonObject): Readonly<Record<string, string>> {
  const { cluster, workload = {}, node } = item
  const preemptible = workload.preemptible
  const mig = migProfilesOf(pod.allocatedResources) ?? migProfilesOf(pod.requestedResources)
  return {
    cluster: cluster.name,
    cluster_id: cluster.id,
    ...named('department', workload.departmentName),
    ...named('department_id', workload.departmentId),
    ...named('project', workload.projectName ?? pod.projectName),
    ...named('user', workload.submittedBy),
    ...named('workload', workload.name ?? pod.workloadName),
    ...named('workload_id', pod.workloadId),
    ...named('workload_type', workload.type),
    ...named('category', workload.category ?? categoryOf(workload.type)),
    ...named('priority_class', workload.priorityClassName ?? pod.priorityClassName),
    ...(typeof preemptible === 'boolean' && { preemptible: String(preemptible) }),
    ...named('node', pod.nodeName),
    ...named('node_pool', pod.currentNodePool ?? node?.nodePool),
    ...(node?.gpuType !== undefined && { gpu_type: node.gpuType }),
    ...(mig !== undefined && { mig_profile: mig }),
  }
}

/** Up to 2.19 workloads have no category; what their type is called tells it. */
function categoryOf(type: Json | undefined): string | undefined {
  if (typeof type !== 'string') return undefined
  if (/inference/i.test(type)) return 'Inference'
  if (/interactive|workspace/i.test(type)) return 'Workspace'
  return /train|distributed|runai-job/i.test(type) ? 'Train' : undefined
}

interface Where {
  readonly subject?: string
  readonly project?: string
  readonly workload?: string
  readonly pod?: string
}

function unreadable(where: Where, path: string, what: string): Fault {
  const { subject, project, workload, pod } = where
  const place = [
    `project ${project ?? subject ?? '?'}`,
    workload !== undefined && `workload ${workload}`,
    pod !== undefined && `pod ${pod}`,
  ]
  return new Fault('ITEM_UNREADABLE', `${place.filter(Boolean).join(', ')}: ${path} ${what}`, {
    ...where,
    path,
  })
}

function textOf(value: Json | undefined): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined
}

function named<Name extends string>(name: Name, value: Json | undefined): { readonly [K in Name]?: string } {
  const text = textOf(value)
  return text === undefined ? {} : ({ [name]: text } as { [K in Name]?: string })
}
