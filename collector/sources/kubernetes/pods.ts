/**
 * What a pod says of its allocation: since when, until when, and what a second of it counts. How its end is told from
 * what is left of it. docs/decisions/0015 has the rules. Pure.
 */
import type Fraction from 'fraction.js'
import type { MeasureName } from '../../../schemas/measures.ts'
import type { Window } from '../../../schemas/window.ts'
import {
  type GpuRules,
  type GpuShare,
  gpuLabels,
  gpusOf,
  isReservationPod,
  nodeFacts,
  podGpus,
} from './gpus.ts'
import { asFaultText, askedToGoMs, goneAt, type Rates, rateText, type Says, type Sight } from './intervals.ts'
import type { Container, Meta, Pod } from './objects.ts'
import { podRequests } from './requests.ts'

/** From when a pod counts: its node is reserved; the kubelet took it; its first container runs. */
export type Allocation = 'scheduled' | 'started' | 'running'

export interface PodRules extends GpuRules {
  readonly allocation: Allocation
}

/** What else is known when a pod is looked at. */
export interface Around {
  /** Its node, with the labels it had when the pod began. */
  readonly node?: Meta
  /** Says whose it is, or throws. */
  readonly tenant: () => string | undefined
  /** What it holds through its claims, or throws. */
  readonly claimed: () => readonly GpuShare[]
}

export function podSays(pod: Pod, around: Around, rules: PodRules, sight: Sight): Says {
  const { node } = around
  const facts = node && nodeFacts(node, rules)
  const startMs = startOf(pod, rules.allocation)
  const endMs = startMs === undefined ? undefined : terminalMs(pod, sight)
  const labels: Record<string, string> = {
    namespace: pod.namespace,
    ...(pod.nodeName !== undefined && { node: pod.nodeName }),
    ...(facts?.pool !== undefined && { node_pool: facts.pool }),
    ...(facts?.instanceType !== undefined && { instance_type: facts.instanceType }),
    ...(pod.owner && { owner_kind: pod.owner.kind, owner: pod.owner.name }),
    ...(pod.priorityClass !== undefined && { priority_class: pod.priorityClass }),
  }
  const common = {
    kind: 'pod',
    name: pod.name,
    namespace: pod.namespace,
    ...(startMs !== undefined && { startMs }),
    ...(endMs !== undefined && { endMs }),
  }
  let subject: string | undefined
  try {
    subject = around.tenant()
    const requests = podRequests(pod)
    const isReservation = isReservationPod(pod, rules)
    const shares = isReservation
      ? []
      : podGpus(pod, { requests, node: facts, claimed: around.claimed() }, rules)
    const gpus = gpusOf(shares.filter(share => share.claim === undefined))
    const rates: Partial<Record<MeasureName, Fraction>> = {
      cpu_core_seconds: requests.cpuCores,
      memory_byte_seconds: requests.memoryBytes,
      ...(gpus.compare(0) > 0 && { gpu_seconds: gpus }),
    }
    return {
      ...common,
      ...(subject !== undefined && { subject }),
      labels: { ...labels, ...gpuLabels(shares) },
      shared: shares.flatMap(({ claim, gpus }) =>
        claim === undefined ? [] : [{ claim, gpus: rateText(gpus) }],
      ),
      rates: {
        instance_seconds: '1',
        ...Object.fromEntries(Object.entries(rates).map(([measure, rate]) => [measure, rateText(rate)])),
      } as Rates,
    }
  } catch (error) {
    return {
      ...common,
      ...(subject !== undefined && { subject }),
      labels,
      rates: {},
      fault: asFaultText(error),
    }
  }
}

function startOf(pod: Pod, allocation: Allocation): number | undefined {
  // A static pod may lack the condition; that it has a node says the same.
  const scheduledMs =
    pod.scheduledMs ?? (pod.nodeName === undefined ? undefined : (pod.startMs ?? pod.createdMs))
  if (allocation === 'scheduled') return scheduledMs
  if (allocation === 'started') return pod.startMs
  return least(pod.containers.map(each => least([each.runningSinceMs, each.startedMs])))
}

/** A pod that has done its work, or failed, holds nothing more, though it stays. */
function terminalMs(pod: Pod, sight: Sight): number | undefined {
  if (pod.phase !== 'Succeeded' && pod.phase !== 'Failed') return undefined
  // Evicted before a container began: what is left is when its status was written.
  return lastFinishedMs(pod) ?? sight.changedMs ?? (sight.how === 'live' ? sight.atMs : sight.sureMs)
}

const all = (pod: Pod): readonly Container[] => [...pod.containers, ...pod.initContainers]

function lastFinishedMs(pod: Pod): number | undefined {
  return most(all(pod).map(each => each.finishedMs))
}

/**
 * When a pod ended that is gone, by the last state of it that was seen. A container that stopped may begin again until
 * its pod is asked to go; that moment is its deletionTimestamp less its grace, which lies ahead while it terminates.
 */
export function podGoneAt(pod: Pod, sight: Sight): { readonly ms: number; readonly guessed?: Window } {
  const askedMs = askedToGoMs(pod)
  const hasStopped =
    pod.containers.every(each => each.finishedMs !== undefined) &&
    all(pod).every(each => each.runningSinceMs === undefined)
  const finishedMs = lastFinishedMs(pod)
  if (askedMs !== undefined && hasStopped && finishedMs !== undefined)
    return { ms: Math.max(finishedMs, askedMs) }
  return goneAt(askedMs, sight)
}

function least(instants: readonly (number | undefined)[]): number | undefined {
  const known = instants.filter(each => each !== undefined)
  return known.length === 0 ? undefined : Math.min(...known)
}

function most(instants: readonly (number | undefined)[]): number | undefined {
  const known = instants.filter(each => each !== undefined)
  return known.length === 0 ? undefined : Math.max(...known)
}
