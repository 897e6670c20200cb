/** Objects of the Kubernetes API for tests, as they come from its JSON, and what is picked of them. */
import Type from 'typebox'
import { type GpuRules, gpuOptions } from '../../../../collector/sources/kubernetes/gpus.ts'
import {
  claimOf,
  nodeOf,
  type Pod,
  podOf,
  type ResourceClaim,
  type ResourceSlice,
  sliceOf,
  type Wanted,
} from '../../../../collector/sources/kubernetes/objects.ts'
import { fits } from '../../../../schemas/check.ts'
import { type Json, parseExact } from '../../../../schemas/json.ts'

export const json = (value: unknown): Json => parseExact(JSON.stringify(value))

/** Keeps all labels and annotations. */
export const everything: Wanted = {
  podLabels: all(),
  podAnnotations: all(),
  namespaceLabels: all(),
  namespaceAnnotations: all(),
  nodeLabel: () => true,
}

function all(): ReadonlySet<string> {
  const set = new Set<string>()
  return Object.assign(set, { has: () => true })
}

export interface ContainerManifest {
  readonly name?: string
  readonly restartPolicy?: string
  readonly requests?: object
  readonly limits?: object
  /** Of its status. */
  readonly allocated?: object
  readonly actual?: object
}

export interface PodManifest {
  readonly metadata?: object
  readonly containers?: readonly ContainerManifest[]
  readonly initContainers?: readonly ContainerManifest[]
  readonly spec?: object
  readonly status?: object
}

/** A pod as the API server answers it. */
export function podManifest({
  metadata = {},
  containers = [{}],
  initContainers = [],
  spec = {},
  status = {},
}: PodManifest) {
  const named = (list: readonly ContainerManifest[], prefix: string) =>
    list.map((each, index) => ({ name: `${prefix}${index}`, ...each }))
  const [plain, init] = [named(containers, 'c'), named(initContainers, 'i')]
  const specs = (list: typeof plain) =>
    list.map(({ name, restartPolicy, requests, limits }) => ({
      name,
      image: 'busybox',
      ...(restartPolicy !== undefined && { restartPolicy }),
      resources: { ...(requests && { requests }), ...(limits && { limits }) },
    }))
  const statuses = (list: typeof plain) =>
    list.map(({ name, allocated, actual }) => ({
      name,
      restartCount: 0,
      ...(allocated && { allocatedResources: allocated }),
      ...(actual && { resources: { requests: actual } }),
    }))
  return {
    metadata: { name: 'p', namespace: 'team', uid: 'uid-p', resourceVersion: '7', ...metadata },
    spec: { nodeName: 'n1', containers: specs(plain), initContainers: specs(init), ...spec },
    status: {
      phase: 'Running',
      containerStatuses: statuses(plain),
      initContainerStatuses: statuses(init),
      ...status,
    },
  }
}

export const pod = (manifest: PodManifest = {}): Pod => podOf(json(podManifest(manifest)), everything)

export const node = (labels: Readonly<Record<string, string>>) =>
  nodeOf(json({ metadata: { name: 'n1', uid: 'uid-n1', labels } }), everything)

export const claim = (
  name: string,
  results: readonly object[],
  uids: readonly string[] = [],
): ResourceClaim =>
  claimOf(
    json({
      metadata: { name, namespace: 'team', uid: `uid-${name}` },
      spec: { devices: { requests: [{ name: 'gpu', exactly: { deviceClassName: 'gpu.nvidia.com' } }] } },
      status: {
        allocation: { devices: { results } },
        reservedFor: uids.map(uid => ({ resource: 'pods', name: uid, uid })),
      },
    }),
  )

/** A device given to a claim. */
export const given = (device: string, more: object = {}) => ({
  request: 'gpu',
  driver: 'gpu.nvidia.com',
  pool: 'n1',
  device,
  ...more,
})

export const slice = (devices: readonly object[], generation = 1): ResourceSlice =>
  sliceOf(
    json({
      metadata: { name: `slice-${generation}`, uid: `uid-slice-${generation}` },
      spec: {
        driver: 'gpu.nvidia.com',
        nodeName: 'n1',
        pool: { name: 'n1', generation, resourceSliceCount: 1 },
        devices,
      },
    }),
  )

/** The options of GPUs where nothing is configured. */
export function gpuDefaults(): GpuRules {
  const rules = {}
  const schema = Type.Object(gpuOptions)
  if (!fits(schema, rules)) throw new Error('an option of GPUs has no default')
  return rules
}
