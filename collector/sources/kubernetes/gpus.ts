/**
 * How many GPUs a pod holds, and of which kind: by its requests, by the annotations of Run:ai and KAI, and by the
 * devices of its claims; what the labels of its node say of them. Shares of one GPU sum to one. Pure.
 */
import Fraction from 'fraction.js'
import Type, { type Static } from 'typebox'
import { exact, isBoundedDecimal } from '../../../schemas/decimal.ts'
import { Fault } from '../../../schemas/fault.ts'
import { unitsOf } from '../../quantity.ts'
import type { Meta, Pod, Texts } from './objects.ts'
import type { PodRequests } from './requests.ts'

const names = (description: string, defaults: readonly string[]) =>
  Type.Array(Type.String({ minLength: 1 }), { default: [...defaults], description })

/** The options of GPUs and nodes, to be spread into the schema of the source. */
export const gpuOptions = {
  gpuShares: Type.Enum(['fraction', 'count'], {
    default: 'fraction',
    description:
      'What a MIG slice or a replica of a shared GPU counts. fraction: its part of the GPU, so that those of one GPU sum to one. count: one, as it is requested.',
  }),
  reservationNamespaces: names(
    'Namespaces of the pods with which Run:ai and KAI hold a GPU that others share: their GPUs do not count a second time.',
    ['runai-reservation', 'kai-resource-reservation'],
  ),
  gpuTypeLabels: names('Labels of nodes that name the type of their GPUs, the first one present counts.', [
    'nvidia.com/gpu.product',
    'amd.com/gpu.product-name',
    'beta.amd.com/gpu.product-name',
    'gpu.intel.com/product',
    'cloud.google.com/gke-accelerator',
    'karpenter.k8s.aws/instance-gpu-name',
  ]),
  claimDrivers: names('Drivers of resource claims (DRA) whose devices are GPUs.', [
    'gpu.nvidia.com',
    'gpu.amd.com',
    'gpu.intel.com',
  ]),
  nodePoolLabels: names('Labels of nodes that name their pool, the first one present counts.', [
    'runai/node-pool',
    'kai.scheduler/node-pool',
    'cloud.google.com/gke-nodepool',
    'eks.amazonaws.com/nodegroup',
    'kubernetes.azure.com/agentpool',
    'karpenter.sh/nodepool',
  ]),
}
const GpuOptions = Type.Object(gpuOptions)
export type GpuRules = Static<typeof GpuOptions>

/** Annotations of pods that tell of fractions. */
export const gpuAnnotations = [
  'gpu-fraction',
  'gpu-fraction-num-devices',
  'gpu-memory',
  'runai-allocated-gpus',
] as const

/** Is this a label of nodes from which `nodeFacts` reads? */
export function isNodeFact(name: string, rules: GpuRules): boolean {
  return (
    rules.gpuTypeLabels.includes(name) ||
    rules.nodePoolLabels.includes(name) ||
    name === instanceTypeLabel ||
    /^nvidia\.com\/(gpu\.(product|memory|replicas|sharing-strategy)|mig-.*\.replicas)$/.test(name)
  )
}

/** What of a node matters to who pays; its labels change, so they are kept as they were when a pod began on it. */
export interface NodeFacts {
  readonly node: string
  readonly pool?: string
  readonly instanceType?: string
  /** `NVIDIA-H100-80GB-HBM3`, without the suffixes that tell how it is shared. */
  readonly gpuType?: string
  /** Where all GPUs of the node are cut alike and requested as nvidia.com/gpu. */
  readonly migProfile?: string
  /** A reconfiguration of MIG is under way or failed. */
  readonly migInvalid?: true
  /** Of one GPU. */
  readonly gpuMemoryMib?: string
  /** Into how many each GPU is shared, by resource: `gpu`, or `mig-1g.10gb`. */
  readonly replicas: Texts
}

const instanceTypeLabel = 'node.kubernetes.io/instance-type'

export function nodeFacts(node: Meta, rules: GpuRules): NodeFacts {
  const { labels } = node
  const first = (wanted: readonly string[]) =>
    wanted.map(name => labels[name]).find(value => value !== undefined && value !== '')
  const product = first(rules.gpuTypeLabels)?.replace(/-SHARED$/, '')
  // GPU feature discovery, strategy `single`: A100-SXM4-40GB-MIG-1g.5gb, and -MIG-INVALID (gpu-operator#479).
  const cut = /^(.*)-MIG-(.*)$/.exec(product ?? '')
  const gpuType = cut ? cut[1] : product
  const replicas: Record<string, string> = {}
  for (const [name, value] of Object.entries(labels)) {
    const resource = /^nvidia\.com\/(gpu|mig-.*)\.replicas$/.exec(name)?.[1]
    if (resource !== undefined) replicas[resource] = value
  }
  const [pool, instanceType, gpuMemoryMib] = [
    first(rules.nodePoolLabels),
    labels[instanceTypeLabel],
    labels['nvidia.com/gpu.memory'],
  ]
  return {
    node: node.name,
    ...(pool !== undefined && { pool }),
    ...(instanceType !== undefined && { instanceType }),
    ...(gpuType && { gpuType }),
    ...(cut && (cut[2] === 'INVALID' ? { migInvalid: true as const } : { migProfile: cut[2] ?? '' })),
    ...(gpuMemoryMib !== undefined && { gpuMemoryMib }),
    replicas,
  }
}

/** GPUs of one kind that a pod holds. */
export interface GpuShare {
  /** `nvidia.com/gpu`, `nvidia.com/mig-1g.10gb`, `gpu-fraction`; of a claim its driver. */
  readonly resource: string
  /** GPUs, exactly: 1/7 for a slice of seven. */
  readonly gpus: Fraction
  readonly type?: string
  /** `1g.10gb` */
  readonly migProfile?: string
  /** How one GPU is divided among several. */
  readonly sharing?: 'mig' | 'replicas' | 'fraction' | 'capacity'
  /** The claim it is held by: at each instant its GPUs are split among the pods that hold the claim then (claims.ts). */
  readonly claim?: string
}

/** Is it a pod that only holds a GPU which others share? Told by its namespace: anyone can set a label. */
export function isReservationPod(pod: Pod, rules: GpuRules): boolean {
  return rules.reservationNamespaces.includes(pod.namespace)
}

/** What is known beside a pod. */
export interface Beside {
  readonly requests: PodRequests
  /** Undefined while nothing is known of its node. */
  readonly node: NodeFacts | undefined
  /** What it holds by claims (claims.ts). */
  readonly claimed: readonly GpuShare[]
}

/**
 * The GPUs that a pod holds, of its claims too. Those that stand behind requests are counted where they are requested.
 * @throws Fault ITEM_UNREADABLE where the share of a GPU cannot be known
 */
export function podGpus(pod: Pod, beside: Beside, rules: GpuRules): readonly GpuShare[] {
  const { requests, node, claimed } = beside
  // Those of nothing only say of which type the requested ones are, for nodes that do not.
  const shares = claimed.filter(({ gpus }) => !gpus.equals(0) || node?.gpuType === undefined)
  for (const [resource, nano] of requests.resources)
    if (nano > 0n && isGpu(resource)) shares.push(requested(pod, resource, unitsOf(nano), node, rules))
  // Run:ai writes what it gave to every pod: of one that has GPUs otherwise this would be the same again.
  const fraction = shares.length === 0 && annotated(pod, node)
  return fraction ? [fraction] : shares
}

export function isGpu(resource: string): boolean {
  // Others of gpu.intel.com are parts of these, or only watch them: millicores, memory.max, tiles, i915_monitoring.
  return /^(nvidia\.com\/(gpu(\.shared)?|mig-.+)|amd\.com\/gpu|gpu\.intel\.com\/(i915|xe))$/.test(resource)
}

function requested(
  pod: Pod,
  resource: string,
  units: Fraction,
  node: NodeFacts | undefined,
  rules: GpuRules,
): GpuShare {
  const nvidia = /^nvidia\.com\/(gpu|mig-.+?)(\.shared)?$/.exec(resource)
  const type = node?.gpuType
  const whole = { resource, gpus: units, ...(type !== undefined && { type }) }
  if (!nvidia) return whole
  const [, device = '', renamed] = nvidia
  if (device === 'gpu' && node?.migInvalid)
    throw unknowable(pod, `the MIG configuration of its node ${node.node} is invalid`)
  const migProfile = device === 'gpu' ? node?.migProfile : device.slice('mig-'.length)
  // In strategy `single` slices are called gpu, and so are their replicas.
  const replicas = replicasOf(pod, node, device, renamed !== undefined && rules.gpuShares === 'fraction')
  const part = migProfile === undefined ? new Fraction(1) : migPart(pod, migProfile, type)
  const sharing = replicas > 1n || renamed ? 'replicas' : migProfile === undefined ? undefined : 'mig'
  return {
    ...whole,
    ...(rules.gpuShares === 'fraction' && { gpus: units.mul(part).div(replicas) }),
    ...(migProfile !== undefined && { migProfile }),
    ...(sharing && { sharing }),
  }
}

/** Into how many its node shares such a device. One where nothing is said, unless the resource itself says more. */
function replicasOf(pod: Pod, node: NodeFacts | undefined, device: string, isShared: boolean): bigint {
  const text = node?.replicas[device]
  // 0 is what discovery writes where there is no such device to share.
  if (text === undefined || text === '0') {
    if (isShared)
      throw unknowable(
        pod,
        `its node ${node?.node ?? '(unknown)'} has no label nvidia.com/${device}.replicas, so a share is unknown (or set gpuShares: count)`,
      )
    return 1n
  }
  if (!/^[1-9]\d{0,5}$/.test(text))
    throw unknowable(pod, `nvidia.com/${device}.replicas of its node ${node?.node} is "${clip(text)}"`)
  return BigInt(text)
}

/**
 * The compute slices of a profile over those of its GPU: `1g.10gb` is 1/7, `1c.3g.40gb` too. Seven on all GPUs with MIG
 * but two (NVIDIA MIG user guide, supported profiles).
 */
export function migPart(pod: Pod, profile: string, type: string | undefined): Fraction {
  const match = /^(?:([1-7])c\.)?([1-7])g\.\d+gb\b/.exec(profile)
  if (!match) throw unknowable(pod, `"${clip(profile)}" is no MIG profile`)
  const slices = /\bA30\b|RTX[- _]PRO[- _]6000/i.test(type ?? '') ? 4 : 7
  return new Fraction(Number(match[1] ?? match[2]), slices)
}

/** Fractions of Run:ai and KAI: such a pod requests no GPU, it says so in annotations. */
function annotated(pod: Pod, node: NodeFacts | undefined): GpuShare | undefined {
  const { annotations } = pod
  const number = (name: (typeof gpuAnnotations)[number]) => {
    const text = annotations[name]?.trim()
    if (text === undefined) return undefined
    if (!isBoundedDecimal(text) || text.startsWith('-'))
      throw unknowable(pod, `its annotation ${name} is "${clip(text)}", not a number`)
    return exact(text)
  }
  // What the scheduler gave counts before what was asked for.
  const devices = number('gpu-fraction-num-devices') ?? new Fraction(1)
  const gpus = number('runai-allocated-gpus') ?? number('gpu-fraction')?.mul(devices) ?? byMemory()
  if (gpus === undefined || gpus.equals(0)) return undefined
  const type = node?.gpuType
  return { resource: 'gpu-fraction', gpus, sharing: 'fraction', ...(type !== undefined && { type }) }

  function byMemory(): Fraction | undefined {
    const mib = number('gpu-memory')
    if (mib === undefined) return undefined
    const total = node?.gpuMemoryMib
    if (total === undefined || !/^[1-9]\d{0,11}$/.test(total))
      throw unknowable(
        pod,
        `it holds ${annotations['gpu-memory']} MiB of a GPU, and its node ${node?.node ?? '(unknown)'} has no label nvidia.com/gpu.memory`,
      )
    return mib.mul(devices).div(new Fraction(total))
  }
}

/** All GPUs of the shares; those of claims count as if held alone. */
export function gpusOf(shares: readonly GpuShare[]): Fraction {
  return shares.reduce((sum, { gpus }) => sum.add(gpus), new Fraction(0))
}

/** What tells the GPUs apart in prices; where a pod holds several kinds, all of them, in order, by commas. */
export function gpuLabels(shares: readonly GpuShare[]): Texts {
  const all = (pick: (share: GpuShare) => string | undefined) =>
    [...new Set(shares.map(pick).filter(value => value !== undefined))].sort().join(',')
  const labels = {
    gpu_resource: all(share => share.resource),
    gpu_type: all(share => share.type),
    mig_profile: all(share => share.migProfile),
    gpu_sharing: all(share => share.sharing),
  }
  return Object.fromEntries(Object.entries(labels).filter(([, value]) => value !== ''))
}

function unknowable({ namespace, name, uid }: Pod, what: string): Fault {
  return new Fault('ITEM_UNREADABLE', `pod ${namespace}/${name}: ${what}`, {
    subject: namespace,
    pod: name,
    uid,
  })
}

function clip(text: string): string {
  return text.length > 60 ? `${text.slice(0, 60)}…` : text
}
