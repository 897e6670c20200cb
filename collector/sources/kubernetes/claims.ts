/**
 * The GPUs that pods hold by ResourceClaims (DRA), which are in no container's requests: counted by the devices that
 * were allocated, and split among the pods that hold a claim at the same time. Pure.
 */
import Fraction from 'fraction.js'
import { Fault } from '../../../schemas/fault.ts'
import type { Window } from '../../../schemas/window.ts'
import { nanoOf } from '../../quantity.ts'
import { type GpuRules, type GpuShare, isGpu, migPart } from './gpus.ts'
import type { AllocatedDevice, Device, Pod, ResourceClaim, ResourceSlice } from './objects.ts'

/** What is known of claims and devices. */
export interface Claims {
  /** In the namespace of the pod. */
  readonly claim: (namespace: string, name: string) => ResourceClaim | undefined
  readonly device: (device: AllocatedDevice) => Device | undefined
}

/**
 * The GPUs of the claims of a pod, each as if it held the claim alone; `claim` of the share tells which to split.
 * Nothing where a claim has no devices yet. Devices given for administration are for watching others, and count nothing.
 * @throws Fault ITEM_UNREADABLE where the claim, or how much of a GPU its device is, cannot be known
 */
export function claimGpus(pod: Pod, known: Claims, rules: GpuRules): readonly GpuShare[] {
  const shares: GpuShare[] = []
  const add = (name: string, counts: (device: AllocatedDevice) => boolean) => {
    const claim = known.claim(pod.namespace, name)
    if (!claim) throw unknowable(pod, `its resource claim ${name} is not known`)
    for (const device of claim.devices)
      if (device.adminAccess !== true && rules.claimDrivers.includes(device.driver) && counts(device))
        shares.push(shareOf(pod, claim, device, known.device(device), rules))
  }
  for (const name of pod.claims) add(name, () => true)
  const { extendedClaim } = pod
  if (!extendedClaim) return shares
  // What serves nvidia.com/gpu is in the requests, and counted there: its devices say only of which type they are, which
  // no label of the node does where DRA has taken the place of the device plugin.
  const serves = new Map(extendedClaim.serves.map(({ request, resource }) => [request, resource]))
  const requested = (device: AllocatedDevice) => serves.get(device.request) ?? ''
  for (const device of known.claim(pod.namespace, extendedClaim.claim)?.devices ?? [])
    if (isGpu(requested(device))) {
      const type = typeOf(known.device(device))
      if (type) shares.push({ resource: requested(device), gpus: new Fraction(0), type })
    }
  // What serves a name that tells of no GPU is counted here.
  if ([...serves.values()].some(resource => !isGpu(resource)))
    add(extendedClaim.claim, device => serves.has(device.request) && !isGpu(requested(device)))
  return shares
}

/** As GPU feature discovery writes it into the label of a node, so that both are one type in prices. */
function typeOf(device: Device | undefined): string | undefined {
  return device?.attributes.productName?.trim().replaceAll(/\s+/g, '-') || undefined
}

function shareOf(
  pod: Pod,
  claim: ResourceClaim,
  allocated: AllocatedDevice,
  device: Device | undefined,
  rules: GpuRules,
): GpuShare {
  const { driver, pool, device: name, shareId } = allocated
  const one = new Fraction(1)
  const whole = { resource: driver, claim: claim.uid }
  if (!device) {
    if (rules.gpuShares === 'count') return { ...whole, gpus: one }
    throw unknowable(
      pod,
      `no resource slice names the device ${driver}/${pool}/${name} of its claim, so that it may be a slice of a GPU (or set gpuShares: count)`,
    )
  }
  const type = typeOf(device)
  const migProfile = device.attributes.type === 'mig' ? (device.attributes.profile ?? '') : undefined
  const part = migProfile === undefined ? one : migPart(pod, migProfile, type)
  const capacity = shareId === undefined ? one : capacityShare(pod, allocated, device)
  const sharing = shareId === undefined ? (migProfile === undefined ? undefined : 'mig') : 'capacity'
  return {
    ...whole,
    gpus: rules.gpuShares === 'fraction' ? part.mul(capacity) : one,
    ...(type && { type }),
    ...(migProfile && { migProfile }),
    ...(sharing && { sharing }),
  }
}

/** Of a device that several claims take capacity from: its part of the memory. */
function capacityShare(pod: Pod, { consumedCapacity = {}, device: name }: AllocatedDevice, device: Device) {
  const memory = (capacities: Readonly<Record<string, string>>) =>
    nanoOf(Object.entries(capacities).find(([key]) => /(^|\/)memory$/.test(key))?.[1] ?? '')
  const [consumed, total] = [memory(consumedCapacity), memory(device.capacity)]
  if (consumed === undefined || total === undefined || consumed < 0n || total <= 0n)
    throw unknowable(pod, `it holds a part of the device ${name}, and its memory does not tell how much`)
  return new Fraction(consumed, total)
}

/**
 * Finds devices by driver, pool and name. While a driver writes its pool anew, slices of two generations are there, and
 * the latest counts.
 */
export function devicesOf(slices: Iterable<ResourceSlice>): Claims['device'] {
  const found = new Map<string, { readonly generation: number; readonly device: Device }>()
  for (const { driver, pool, generation, devices } of slices)
    for (const device of devices) {
      const key = JSON.stringify([driver, pool, device.name])
      if (generation >= (found.get(key)?.generation ?? -1)) found.set(key, { generation, device })
    }
  return ({ driver, pool, device }) => found.get(JSON.stringify([driver, pool, device]))?.device
}

/** A pod that holds a claim, and when; an end that is not known yet lies at Infinity. */
export interface Holder extends Window {
  readonly uid: string
}

/** When a pod held a claim beside as many others as make `share`. */
export interface HeldShare extends Holder {
  readonly share: Fraction
}

/**
 * Splits a claim among those who hold it: at each instant in equal parts that sum to one. Who holds it is told by the
 * spans of the pods that name it, which have times of the API; `reservedFor` of the claim has none.
 * A pod's GPUs of the claim in a window: Σ over its parts of `amountIn(gpus × share, part, window)`.
 */
export function splitAmong(holders: readonly Holder[]): readonly HeldShare[] {
  const edges = [...new Set(holders.flatMap(({ startMs, endMs }) => [startMs, endMs]))].sort((a, b) => a - b)
  const shares: HeldShare[] = []
  for (const [index, startMs] of edges.entries()) {
    const endMs = edges[index + 1]
    if (endMs === undefined) break
    // A pod is one holder, however often it is named.
    const uids = new Set(
      holders.filter(held => held.startMs <= startMs && held.endMs >= endMs).map(({ uid }) => uid),
    )
    for (const uid of uids) shares.push({ uid, startMs, endMs, share: new Fraction(1, uids.size) })
  }
  return shares
}

function unknowable({ namespace, name, uid }: Pod, what: string): Fault {
  return new Fault('ITEM_UNREADABLE', `pod ${namespace}/${name}: ${what}`, {
    subject: namespace,
    pod: name,
    uid,
  })
}
