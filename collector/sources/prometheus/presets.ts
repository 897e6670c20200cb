/** Queries that come with Meterline, for exporters that many clusters have. Pure. */
import { misfits } from '../../../schemas/check.ts'
import type { MeasureName } from '../../../schemas/measures.ts'
import { type Query, QueryConfig } from './queries.ts'

export const presetNames = ['dcgm', 'kube-state-metrics', 'cadvisor-network'] as const
export type PresetName = (typeof presetNames)[number]

/** The queries of the presets, each selector with the given matchers added. */
export function queriesOf(
  names: readonly PresetName[],
  options: { readonly matchers: string; readonly idle: 'leave_out' | 'unattributed' },
): readonly Query[] {
  return names.flatMap(name => presets[name](options).map(whole))
}

type Asked = { readonly matchers: string; readonly idle: 'leave_out' | 'unattributed' }
type Short = Partial<Query> & Pick<Query, 'name' | 'kind' | 'measure'>

const presets: Readonly<Record<PresetName, (asked: Asked) => readonly Short[]>> = {
  dcgm,
  'kube-state-metrics': kubeStateMetrics,
  'cadvisor-network': cadvisorNetwork,
}

function whole(short: Short): Query {
  const query = structuredClone(short)
  const wrong = misfits(QueryConfig, query)
  if (wrong[0]) throw new Error(`preset ${short.name}: ${wrong[0].path} ${wrong[0].message}`)
  return query as Query
}

/** `{a, b}` of those that are none empty. */
function matching(...matchers: readonly string[]): string {
  const given = matchers.map(matcher => matcher.trim()).filter(matcher => matcher !== '')
  return given.length === 0 ? '' : `{${given.join(',')}}`
}

/**
 * Where targets keep labels of their own (honorLabels: false, the default of the chart) those of the pod are renamed
 * to exported_…; old exporters said pod_name and pod_namespace.
 */
const namespace = 'exported_namespace|pod_namespace|namespace'
const pod = 'exported_pod|pod_name|pod'
const container = 'exported_container|container_name|container'

function dcgm({ matchers, idle }: Asked): readonly Short[] {
  const gpu = {
    thing: 'gpu',
    subjectLabel: namespace,
    withoutSubject: idle,
    // A GPU that nobody uses loses its pod labels, and then shows the pod of the exporter that its target has.
    idle: { label: pod, contains: 'dcgm-exporter' },
    resourceKind: 'gpu',
    resourceLabels: ['UUID|gpu_uuid', 'GPU_I_ID', pod],
    resourceName: pod,
    labels: {
      gpu_uuid: 'UUID|gpu_uuid',
      gpu_type: 'modelName|model_name',
      gpu_profile: 'GPU_I_PROFILE',
      node: 'hostname|Hostname',
      namespace,
      pod,
      pod_uid: 'pod_uid',
      container,
    },
  } as const satisfies Partial<Query>
  // A time-sliced GPU shows its whole value once for each pod; those of MIG are devices of their own.
  const instance = { ...gpu, deviceLabels: ['UUID|gpu_uuid', 'GPU_I_ID'] }
  const gauge = (name: string, metric: string, measure: MeasureName, factor: string): Short => ({
    ...instance,
    name,
    kind: 'gauge',
    selector: `${metric}${matching(matchers)}`,
    measure,
    factor,
  })
  return [
    gauge('dcgm_gpu_active', 'DCGM_FI_DEV_GPU_UTIL', 'gpu_active_seconds', '1/100'),
    {
      // Parts of a GPU have no utilization in DCGM_FI_DEV_GPU_UTIL: here it is that of the part, 0 to 1.
      ...gauge('dcgm_mig_active', '', 'gpu_active_seconds', '1'),
      thing: 'mig',
      selector: `DCGM_FI_PROF_GR_ENGINE_ACTIVE${matching('GPU_I_ID!=""', matchers)}`,
    },
    // MiB, as the exporter's own list of its metrics says.
    gauge('dcgm_gpu_memory', 'DCGM_FI_DEV_FB_USED', 'gpu_memory_byte_seconds', '1048576'),
    {
      ...gpu,
      name: 'dcgm_energy',
      kind: 'counter',
      selector: `DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION${matching(matchers)}`,
      measure: 'energy_joules',
      // mJ since the driver was loaded, of the whole GPU also where it is shown for parts of it.
      factor: '1/1000',
      deviceLabels: ['UUID|gpu_uuid'],
    },
    // Rates in bytes a second in spite of their names, and of the TYPE that older exporters gave them.
    gauge('dcgm_pcie_receive', 'DCGM_FI_PROF_PCIE_RX_BYTES', 'pcie_receive_bytes', '1'),
    gauge('dcgm_pcie_transmit', 'DCGM_FI_PROF_PCIE_TX_BYTES', 'pcie_transmit_bytes', '1'),
    gauge('dcgm_nvlink_receive', 'DCGM_FI_PROF_NVLINK_RX_BYTES', 'nvlink_receive_bytes', '1'),
    gauge('dcgm_nvlink_transmit', 'DCGM_FI_PROF_NVLINK_TX_BYTES', 'nvlink_transmit_bytes', '1'),
  ]
}

/** Requests of pods that have a node and have not ended: kube-state-metrics shows those of completed pods too. */
function kubeStateMetrics({ matchers }: Asked): readonly Short[] {
  const request = (name: string, resource: string, measure: MeasureName): Short => ({
    name,
    thing: 'pod',
    kind: 'gauge',
    // Two replicas of kube-state-metrics say the same twice: max, not sum, takes one. Containers are summed exactly.
    query:
      `max by (namespace, exported_namespace, pod, exported_pod, uid, container, exported_container, node) (` +
      `kube_pod_container_resource_requests${matching(`resource=~"${resource}"`, 'node!=""', matchers)}) ` +
      `and on (uid) (kube_pod_status_phase${matching('phase=~"Pending|Running"', matchers)} == 1)`,
    stepSeconds: 30,
    measure,
    subjectLabel: namespace,
    resourceKind: 'pod',
    resourceLabels: ['uid'],
    resourceName: pod,
    labels: { namespace, pod, node: 'node' },
  })
  return [
    request('ksm_cpu_requests', 'cpu', 'cpu_core_seconds'),
    request('ksm_memory_requests', 'memory', 'memory_byte_seconds'),
    request('ksm_gpu_requests', 'nvidia_com_gpu|amd_com_gpu', 'gpu_seconds'),
    {
      name: 'ksm_volumes',
      thing: 'volume',
      kind: 'gauge',
      query:
        `max by (namespace, exported_namespace, persistentvolumeclaim) (` +
        `kube_persistentvolumeclaim_resource_requests_storage_bytes${matching(matchers)}) ` +
        `and on (namespace, exported_namespace, persistentvolumeclaim) ` +
        `(kube_persistentvolumeclaim_status_phase${matching('phase="Bound"', matchers)} == 1)`,
      stepSeconds: 30,
      measure: 'storage_byte_seconds',
      subjectLabel: namespace,
      resourceKind: 'volume',
      resourceLabels: ['persistentvolumeclaim'],
      resourceName: 'persistentvolumeclaim',
      labels: { namespace, volume: 'persistentvolumeclaim' },
    },
  ]
}

function cadvisorNetwork({ matchers }: Asked): readonly Short[] {
  const bytes = (name: string, metric: string, measure: MeasureName): Short => ({
    name,
    thing: 'pod',
    kind: 'counter',
    // What runs on the node itself, bridges and the ends of pods on the node are not traffic of a pod.
    selector: `${metric}${matching('pod!=""', 'id!="/"', 'interface!~"lo|cni.*|veth.*|docker.*|cali.*|flannel.*"', matchers)}`,
    measure,
    firstSight: 'zero',
    startedAt: {
      selector: `kube_pod_start_time${matching(matchers)}`,
      on: [`namespace=exported_namespace|namespace`, `pod=exported_pod|pod`],
    },
    // Pods on the network of their node report all of its traffic (cadvisor#2615).
    unless: {
      selector: `kube_pod_info${matching('host_network="true"', matchers)}`,
      on: [`namespace=exported_namespace|namespace`, `pod=exported_pod|pod`],
    },
    subjectLabel: 'namespace',
    resourceKind: 'pod',
    resourceLabels: ['pod'],
    resourceName: 'pod',
    labels: { namespace: 'namespace', pod: 'pod', node: 'node|instance' },
  })
  return [
    bytes('cadvisor_receive', 'container_network_receive_bytes_total', 'network_receive_bytes'),
    bytes('cadvisor_transmit', 'container_network_transmit_bytes_total', 'network_transmit_bytes'),
  ]
}
