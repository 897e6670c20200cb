/**
 * What a pod takes of its node, as the scheduler counts it: PodRequests of k8s.io/component-helpers (0.37) with what
 * the status says of resizes and claims, in exact numbers. Pure.
 */
import type Fraction from 'fraction.js'
import { Fault } from '../../../schemas/fault.ts'
import { type Nano, nanoOf, unitsOf } from '../../quantity.ts'
import type { Container, Pod, Texts } from './objects.ts'

export interface PodRequests {
  readonly cpuCores: Fraction
  readonly memoryBytes: Fraction
  /** All of them by name, also those two; in billionths. */
  readonly resources: ReadonlyMap<string, Nano>
}

/** @throws Fault ITEM_UNREADABLE where a quantity is none, or negative */
export function podRequests(pod: Pod): PodRequests {
  const wanted = sumOf(pod, wantedBy)
  const spec = plus(wanted, claimedBy(pod))
  // Before a resize, and in a kubelet that knows of none, the three sets are equal. 0.35 took the greatest container by
  // container, which differs only while containers of one pod are resized in opposite directions.
  const [allocated, actual] = inEffect(pod)
  const resources = greatest(pod.resizeInfeasible ? [allocated, actual] : [spec, allocated, actual])
  for (const [name, nano] of podLevel(pod, wanted)) resources.set(name, nano)
  for (const [name, nano] of listOf(pod, 'overhead', pod.overhead))
    resources.set(name, (resources.get(name) ?? 0n) + nano)
  return {
    cpuCores: unitsOf(resources.get('cpu') ?? 0n),
    memoryBytes: unitsOf(resources.get('memory') ?? 0n),
    resources,
  }
}

type List = Map<string, Nano>

/** What is set aside for its containers, and what they run with. */
function inEffect(pod: Pod): readonly [List, List] {
  const { allocated, actual } = pod
  // The kubelet's own sums over all containers have what claims take in them already.
  if (allocated && actual?.requests)
    return [
      listOf(pod, 'status/allocatedResources', allocated),
      listOf(pod, 'status/resources', actual.requests),
    ]
  return [plus(sumOf(pod, allocatedFor), claimedBy(pod)), sumOf(pod, runWith)]
}

/** Where the pod as a whole asks for cpu, memory or huge pages, that is what it gets, whatever its containers ask for. */
function podLevel(pod: Pod, wanted: List): List {
  const requests = podLevelRequests(pod, wanted)
  if (requests.size === 0 || !pod.actual) return requests
  return greatest([
    ...(pod.resizeInfeasible ? [] : [requests]),
    whole(listOf(pod, 'status/resources', pod.actual.requests)),
    whole(listOf(pod, 'status/allocatedResources', pod.allocated)),
  ])
}

/** As the API server fills in what is left out: what the containers ask for, else the limit. */
function podLevelRequests(pod: Pod, wanted: List): List {
  const requests = whole(listOf(pod, 'spec/resources/requests', pod.wanted?.requests))
  const limits = whole(listOf(pod, 'spec/resources/limits', pod.wanted?.limits))
  if (Object.keys(pod.wanted?.limits ?? {}).length > 0)
    for (const name of ['cpu', 'memory']) {
      const sum = wanted.get(name)
      if (sum !== undefined && !requests.has(name)) requests.set(name, sum)
    }
  return new Map([...limits, ...requests])
}

/** Without the resources that a pod cannot ask for as a whole. */
function whole(list: List): List {
  return new Map([...list].filter(([name]) => /^(cpu|memory|hugepages-.*)$/.test(name)))
}

type Reading = (pod: Pod, container: Container) => List

function wantedBy(pod: Pod, { name, wanted }: Container): List {
  // An object of the API has its requests filled in from its limits; one of a test may not.
  return new Map([
    ...listOf(pod, `containers/${name}/limits`, wanted.limits),
    ...listOf(pod, `containers/${name}/requests`, wanted.requests),
  ])
}

function allocatedFor(pod: Pod, container: Container): List {
  if (container.allocated)
    return listOf(pod, `containers/${container.name}/allocatedResources`, container.allocated)
  return pod.resizeInfeasible ? new Map() : wantedBy(pod, container)
}

function runWith(pod: Pod, container: Container): List {
  const requests = container.actual?.requests
  return requests
    ? listOf(pod, `containers/${container.name}/resources`, requests)
    : allocatedFor(pod, container)
}

/**
 * What all containers together may take at once: those that run beside each other, sidecars among them, or while one
 * init container runs, that one and the sidecars before it, whichever is more.
 */
function sumOf(pod: Pod, read: Reading): List {
  let together: List = new Map()
  let sidecars: List = new Map()
  const starting: List[] = []
  for (const container of pod.containers) together = plus(together, read(pod, container))
  for (const container of pod.initContainers) {
    const list = read(pod, container)
    starting.push(plus(sidecars, list))
    if (!container.sidecar) continue
    sidecars = plus(sidecars, list)
    together = plus(together, list)
  }
  return greatest([together, ...starting])
}

function claimedBy(pod: Pod): List {
  const sum: List = new Map()
  for (const { resource, quantity, times } of pod.claimedResources) {
    const nano = nanoIn(pod, `nodeAllocatableResourceClaimStatuses/${resource}`, quantity)
    sum.set(resource, (sum.get(resource) ?? 0n) + nano * BigInt(times))
  }
  return sum
}

function plus(a: List, b: List): List {
  const sum = new Map(a)
  for (const [name, nano] of b) sum.set(name, (sum.get(name) ?? 0n) + nano)
  return sum
}

function greatest(lists: readonly List[]): List {
  const most: List = new Map()
  for (const list of lists)
    for (const [name, nano] of list) if (nano > (most.get(name) ?? -1n)) most.set(name, nano)
  return most
}

function listOf(pod: Pod, path: string, texts: Texts | undefined): List {
  return new Map(
    Object.entries(texts ?? {}).map(([name, text]) => [name, nanoIn(pod, `${path}/${name}`, text)]),
  )
}

function nanoIn({ namespace, name, uid }: Pod, path: string, text: string): Nano {
  const nano = nanoOf(text)
  if (nano === undefined || nano < 0n)
    throw new Fault(
      'ITEM_UNREADABLE',
      `pod ${namespace}/${name}: ${path} is "${text.slice(0, 80)}", not a quantity`,
      { subject: namespace, pod: name, uid, path },
    )
  return nano
}
