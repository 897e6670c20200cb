/**
 * When a pod ran: from the start of its first container until it completed, was deleted, or its workload was. What the
 * control plane says of times is taken as it is; docs/decisions/0017 has the rules where it says nothing. Pure.
 */
import { isJsonArray, isJsonObject, type Json, type JsonObject } from '../../../schemas/json.ts'
import { instantMs } from '../../../schemas/window.ts'
import { Unfit, unfit } from './unfit.ts'

/** In milliseconds of UTC. */
export interface Run {
  readonly startMs: number
  /** Not there while it runs on. */
  readonly endMs?: number
  /** Why its end, or its start, is not the control plane's own word. */
  readonly estimated?: string
}

/** Phases in which a pod of Kubernetes has ended; Completed is what Run:ai calls Succeeded at times. */
const endedPhases = new Set(['Succeeded', 'Failed', 'Completed'])
/** Phases in which a workload of Run:ai has no pods any more. */
const workloadEndedPhases = new Set(['Completed', 'Failed', 'Stopped'])

/**
 * When this pod ran, or undefined where none of its containers did.
 * @param rememberedStartMs the earliest start that was ever seen of it
 * @throws Unfit where a time is no time, or where it ran and nothing says since when
 */
export function runOf(
  pod: JsonObject,
  workload: JsonObject | undefined,
  rememberedStartMs?: number,
): Run | undefined {
  const end = endOf(pod)
  const startMs = startOf(pod, rememberedStartMs)
  if (startMs === undefined) {
    // Failed pods may never have run, as those that were evicted or whose image is not there.
    const ran = pod.k8sPhase === 'Succeeded' || pod.k8sPhase === 'Completed'
    if (ran) throw new Unfit('/containers', 'has no startedAt, though the pod succeeded')
    return undefined
  }
  if (end !== undefined) return startMs < end ? { startMs, endMs: end } : undefined
  const over = workloadEndOf(workload)
  if (over === undefined) return { startMs }
  // Its workload has ended and nobody told its own end. Where the cluster had a word of it later, it was there until then.
  const endMs = Math.max(over.endMs, timeAt(pod.updatedAt, '/updatedAt') ?? 0)
  return startMs < endMs ? { startMs, endMs, estimated: over.why } : undefined
}

/** Has it ended, by its own word? */
export function hasEnded(pod: JsonObject): boolean {
  return endOf(pod) !== undefined
}

/**
 * The earliest of: the start of a container, the time since when it is Running, and the earliest start seen before. A
 * container that was started again shows the last start alone (Kubernetes keeps no other), while the pod, and what is
 * allocated to it, were there since the first.
 */
function startOf(pod: JsonObject, rememberedStartMs: number | undefined): number | undefined {
  const starts: number[] = rememberedStartMs === undefined ? [] : [rememberedStartMs]
  const { containers } = pod
  if (containers !== undefined && containers !== null) {
    if (!isJsonArray(containers)) throw new Unfit('/containers', unfit(containers))
    for (const [index, container] of containers.entries()) {
      const path = `/containers/${index}`
      if (!isJsonObject(container)) throw new Unfit(path, unfit(container))
      const startedMs = timeAt(container.startedAt, `${path}/startedAt`)
      if (startedMs !== undefined) starts.push(startedMs)
    }
  }
  if (pod.k8sPhase === 'Running') {
    const runningMs = timeAt(pod.k8sPhaseUpdatedAt, '/k8sPhaseUpdatedAt')
    if (runningMs !== undefined) starts.push(runningMs)
  }
  return starts.length === 0 ? undefined : Math.min(...starts)
}

function endOf(pod: JsonObject): number | undefined {
  const completedMs = timeAt(pod.completedAt, '/completedAt')
  const deletedMs = timeAt(pod.deletedAt, '/deletedAt')
  // What is deleted may have completed long before.
  if (completedMs !== undefined && deletedMs !== undefined) return Math.min(completedMs, deletedMs)
  const ended = completedMs ?? deletedMs
  if (ended !== undefined) return ended
  return endedPhases.has(String(pod.k8sPhase))
    ? timeAt(pod.k8sPhaseUpdatedAt, '/k8sPhaseUpdatedAt')
    : undefined
}

/** When the workload ended, where it has. */
function workloadEndOf(
  workload: JsonObject | undefined,
): { readonly endMs: number; readonly why: string } | undefined {
  if (!workload) return undefined
  const ends: { readonly endMs: number; readonly why: string }[] = []
  for (const field of ['completedAt', 'deletedAt'] as const) {
    const endMs = timeAt(workload[field], `/workload/${field}`)
    if (endMs !== undefined) ends.push({ endMs, why: `no end is told, its workload has ${field}` })
  }
  const phase = String(workload.phase)
  if (workloadEndedPhases.has(phase)) {
    const endMs = timeAt(workload.phaseUpdatedAt, '/workload/phaseUpdatedAt')
    if (endMs !== undefined) ends.push({ endMs, why: `no end is told, its workload is ${phase}` })
  }
  return ends.sort((a, b) => a.endMs - b.endMs)[0]
}

function timeAt(value: Json | undefined, path: string): number | undefined {
  if (value === undefined || value === null || value === '') return undefined
  const ms = typeof value === 'string' ? instantMs(value) : undefined
  if (ms === undefined) throw new Unfit(path, `${unfit(value)}, no time`)
  return ms
}
