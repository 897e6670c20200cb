/** The presets on a real server that holds what the exporters say, in the variants of their labels. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { presetNames, queriesOf } from '../../../../collector/sources/prometheus/presets.ts'
import { checkQuery } from '../../../../collector/sources/prometheus/queries.ts'
import { PrometheusConfig, prometheus } from '../../../../collector/sources/prometheus.ts'
import { type Http, openHttp } from '../../../../runtime/http.ts'
import { misfits } from '../../../../schemas/check.ts'
import { hourMs, minuteMs, secondMs, type Window } from '../../../../schemas/window.ts'
import { type PastSeries, type PrometheusServer, startPrometheus } from '../../../rig/prometheus.ts'
import { sourceContext } from '../../source-context.ts'

const endMs = Math.floor(Date.now() / hourMs) * hourMs - hourMs
const window: Window = { startMs: endMs - 15 * minuteMs, endMs }
const scrapeMs = 30 * secondMs

/** Every scrape from `from` to before `to`, in minutes of the window; `offset` milliseconds late. */
function samples(
  valueAt: (scrape: number) => number | string,
  { from = -10, to = 18, offsetMs = 0 } = {},
): PastSeries['samples'] {
  const all: [number, string][] = []
  for (let atMs = window.startMs + from * minuteMs; atMs < window.startMs + to * minuteMs; atMs += scrapeMs)
    all.push([atMs + offsetMs, String(valueAt((atMs - window.startMs) / scrapeMs))])
  return all
}

const labels = (pairs: Record<string, string>) =>
  Object.entries(pairs)
    .map(([name, text]) => `${name}="${text}"`)
    .join(',')
const dcgm = (
  metric: string,
  pairs: Record<string, string>,
  ...rest: Parameters<typeof samples>
): PastSeries => ({
  series: `${metric}{${labels({ job: 'dcgm', namespace: 'gpu-operator', container: 'exporter', pod: 'nvidia-dcgm-exporter-4x', ...pairs })}}`,
  samples: samples(...rest),
})
/** As a target with labels of its own shows them: those of the pod are renamed. */
const exported = (namespace: string, pod: string) => ({
  exported_namespace: namespace,
  exported_pod: pod,
  exported_container: 'main',
})
const gpu = (uuid: string) => ({
  UUID: uuid,
  gpu: '0',
  modelName: 'NVIDIA H100 80GB HBM3',
  Hostname: 'node-a',
})

const past: readonly PastSeries[] = [
  { series: 'up{job="dcgm"}', samples: samples(() => 1) },
  // A GPU of one pod, at 40 %; one that two pods share, at 60 %; one that nobody has; one without renamed labels.
  dcgm('DCGM_FI_DEV_GPU_UTIL', { ...gpu('GPU-1'), ...exported('red', 'train') }, () => 40),
  dcgm('DCGM_FI_DEV_GPU_UTIL', { ...gpu('GPU-2'), ...exported('red', 'slice-1') }, () => 60),
  dcgm('DCGM_FI_DEV_GPU_UTIL', { ...gpu('GPU-2'), ...exported('blue', 'slice-2') }, () => 60),
  dcgm('DCGM_FI_DEV_GPU_UTIL', gpu('GPU-3'), () => 3),
  {
    series: `DCGM_FI_DEV_GPU_UTIL{${labels({ UUID: 'GPU-4', modelName: 'NVIDIA L40S', hostname: 'node-b', namespace: 'blue', pod: 'infer', pod_uid: 'u-4' })}}`,
    samples: samples(() => 10),
  },
  // A part of a GPU, and what is used of its memory.
  dcgm(
    'DCGM_FI_PROF_GR_ENGINE_ACTIVE',
    { ...gpu('GPU-5'), GPU_I_ID: '12', GPU_I_PROFILE: '1g.10gb', ...exported('red', 'mig') },
    () => '0.25',
  ),
  dcgm(
    'DCGM_FI_DEV_FB_USED',
    { ...gpu('GPU-5'), GPU_I_ID: '12', GPU_I_PROFILE: '1g.10gb', ...exported('red', 'mig') },
    () => 421,
  ),
  // Energy goes on while a pod gives way to another: 300 W, which is 9,000,000 mJ a scrape.
  dcgm(
    'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION',
    { ...gpu('GPU-1'), ...exported('red', 'train') },
    n => 7e9 + n * 9_000_000,
    { to: 5 },
  ),
  dcgm(
    'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION',
    { ...gpu('GPU-1'), ...exported('blue', 'next') },
    n => 7e9 + n * 9_000_000,
    { from: 5 },
  ),
  // A rate, whatever its name says.
  dcgm('DCGM_FI_PROF_PCIE_RX_BYTES', { ...gpu('GPU-1'), ...exported('red', 'train') }, () => 1_000_000),
  dcgm('DCGM_FI_PROF_NVLINK_TX_BYTES', { ...gpu('GPU-1'), ...exported('red', 'train') }, () => '5e+09'),
]

/** kube-state-metrics, twice, as of two replicas of it. */
function ksm(): readonly PastSeries[] {
  const all: PastSeries[] = []
  const pod = (name: string, uid: string) => ({ namespace: 'red', pod: name, uid })
  for (const instance of ['ksm-0', 'ksm-1']) {
    const add = (metric: string, pairs: Record<string, string>, ...rest: Parameters<typeof samples>) =>
      all.push({ series: `${metric}{${labels({ instance, ...pairs })}}`, samples: samples(...rest) })
    const request = (
      of: { pod: string; uid: string; namespace: string },
      container: string,
      resource: string,
      value: string,
    ) =>
      add('kube_pod_container_resource_requests', { ...of, container, resource, node: 'node-a' }, () => value)
    request(pod('web', 'u-web'), 'main', 'cpu', '0.1')
    request(pod('web', 'u-web'), 'side', 'cpu', '0.2')
    request(pod('web', 'u-web'), 'main', 'nvidia_com_gpu', '2')
    add('kube_pod_status_phase', { ...pod('web', 'u-web'), phase: 'Running' }, n => (n < 20 ? 1 : 0))
    add('kube_pod_status_phase', { ...pod('web', 'u-web'), phase: 'Succeeded' }, n => (n < 20 ? 0 : 1))
    const claim = { namespace: 'red', persistentvolumeclaim: 'data' }
    add('kube_persistentvolumeclaim_resource_requests_storage_bytes', claim, () => 1024 ** 3)
    add('kube_persistentvolumeclaim_status_phase', { ...claim, phase: 'Bound' }, () => 1)
    add('kube_pod_info', { ...pod('proxy', 'u-proxy'), host_network: 'true' }, () => 1)
    add('kube_pod_info', { ...pod('web', 'u-web'), host_network: 'false' }, () => 1)
    add('kube_pod_start_time', pod('fresh', 'u-fresh'), () => (window.startMs + 2 * minuteMs) / 1000, {
      from: 2,
    })
    add('kube_pod_start_time', pod('web', 'u-web'), () => (window.startMs - 24 * hourMs) / 1000)
  }
  return all
}

const network = (pod: string, interfaceName: string, ...rest: Parameters<typeof samples>): PastSeries => ({
  series: `container_network_receive_bytes_total{${labels({ namespace: 'red', pod, interface: interfaceName, id: `/kubepods/${pod}`, node: 'node-a' })}}`,
  samples: samples(...rest),
})
const cadvisor: readonly PastSeries[] = [
  network('web', 'eth0', n => 1e12 + n * 1000, { offsetMs: 421 }),
  network('web', 'lo', n => n * 5000),
  network('fresh', 'eth0', n => 77 + n * 10, { from: 3, offsetMs: 99 }),
  network('proxy', 'eth0', n => n * 1e9 + 1e12),
  {
    series: 'container_network_receive_bytes_total{id="/",interface="eth0",node="node-a"}',
    samples: samples(n => n * 1e9 + 1e12),
  },
]

let server: PrometheusServer
let http: Http
beforeAll(async () => {
  server = await startPrometheus({ past: [...past, ...ksm(), ...cadvisor] })
  http = openHttp({ retries: 0 })
})
afterAll(async () => {
  await http?.[Symbol.asyncDispose]()
  await server?.[Symbol.asyncDispose]()
})

function open(config: object) {
  const whole = { name: 'test', url: server.url, ...config }
  expect(misfits(PrometheusConfig, whole)).toEqual([])
  const nowMs = () => endMs + 2 * minuteMs
  return prometheus.open(whole as object as PrometheusConfig, sourceContext({ http, nowMs }))
}

async function read(scope: string, config: object = {}) {
  await using source = open({ presets: [...presetNames], ...config })
  const rows: unknown[] = []
  for await (const item of source.read(scope, window, new AbortController().signal))
    for (const { subject, resource, measures } of source.toUsage(item, window))
      rows.push([subject, resource.id, ...Object.values(measures)])
  return rows
}

test('each query of each preset is one that can be configured, under a name of its own', () => {
  const queries = queriesOf(presetNames, { matchers: 'cluster="a"', idle: 'leave_out' })
  for (const query of queries) expect(() => checkQuery(query)).not.toThrow()
  expect(new Set(queries.map(({ name }) => name)).size).toBe(queries.length)
  for (const { selector, query } of queries) expect(selector ?? query).toContain('cluster="a"')
})

describe('dcgm', () => {
  test('utilization by GPU and pod: shared ones divided, those of nobody left out', async () => {
    expect(await read('dcgm_gpu_active')).toEqual([
      ['red', 'GPU-1/train', '360'],
      ['blue', 'GPU-2/slice-2', '270'],
      ['red', 'GPU-2/slice-1', '270'],
      ['blue', 'GPU-4/infer', '90'],
    ])
    const all = await read('dcgm_gpu_active', { presetIdle: 'unattributed' })
    expect(all).toContainEqual(['unattributed', 'GPU-3/nvidia-dcgm-exporter-4x', '27'])
    expect(all).toHaveLength(5)
  })

  test('labels say node, GPU type and pod in all their variants', async () => {
    await using source = open({ presets: ['dcgm'] })
    const found: unknown[] = []
    for await (const item of source.read('dcgm_gpu_active', window, new AbortController().signal))
      found.push(source.toUsage(item, window)[0]?.labels)
    expect(found[0]).toEqual({
      gpu_uuid: 'GPU-1',
      gpu_type: 'NVIDIA H100 80GB HBM3',
      node: 'node-a',
      namespace: 'red',
      pod: 'train',
      container: 'main',
    })
    expect(found.at(-1)).toEqual({
      gpu_uuid: 'GPU-4',
      gpu_type: 'NVIDIA L40S',
      node: 'node-b',
      namespace: 'blue',
      pod: 'infer',
      pod_uid: 'u-4',
    })
  })

  test('parts of a GPU by their id, memory in MiB', async () => {
    expect(await read('dcgm_mig_active')).toEqual([['red', 'GPU-5/12/mig', '225']])
    expect(await read('dcgm_gpu_memory')).toEqual([['red', 'GPU-5/12/mig', String(421 * 1024 ** 2 * 900)]])
  })

  test('energy goes on from pod to pod, and none is lost between them', async () => {
    // 300 W for 15 minutes: to the first pod what came in its ten scrapes, the rest to the next.
    expect(await read('dcgm_energy')).toEqual([
      ['blue', 'GPU-1/next', '180000'],
      ['red', 'GPU-1/train', '90000'],
    ])
  })

  test('PCIe and NVLink are rates, times the time', async () => {
    expect(await read('dcgm_pcie_receive')).toEqual([['red', 'GPU-1/train', '900000000']])
    expect(await read('dcgm_nvlink_transmit')).toEqual([['red', 'GPU-1/train', '4500000000000']])
  })
})

describe('kube-state-metrics', () => {
  test('requests while the pod has not ended, of two replicas once, summed exactly', async () => {
    // Its phase changes at scrape 20, which is minute 10.
    expect(await read('ksm_cpu_requests')).toEqual([['red', 'u-web', '180']])
    expect(await read('ksm_gpu_requests')).toEqual([['red', 'u-web', '1200']])
    expect(await read('ksm_volumes')).toEqual([['red', 'data', String(1024 ** 3 * 900)]])
  })
})

describe('cadvisor-network', () => {
  test('bytes of pods: no loopback, no node, no pod on the network of its node; a new pod from zero', async () => {
    expect(await read('cadvisor_receive')).toEqual([
      // Seen from scrape 6 on, at 77 + 60; the last one before the end is scrape 29.
      ['red', 'fresh', String(77 + 29 * 10)],
      ['red', 'web', '30000'],
    ])
  })
})

test('check names the metrics that are not there, and how to have them', async () => {
  await using source = open({ presets: ['dcgm'], retentionDays: 20_000 })
  const { works, missing } = (await source.check?.(new AbortController().signal)) ?? {
    works: [],
    missing: [],
  }
  expect(works).toContain('dcgm_gpu_active: 5 series, a sample about every 30 s')
  expect(missing).toEqual([
    {
      what: 'it keeps samples for 30y, retentionDays is 20000',
      remedy: 'raise --storage.tsdb.retention.time, or lower retentionDays',
    },
    ...[
      'dcgm_pcie_transmit: no series of DCGM_FI_PROF_PCIE_TX_BYTES',
      'dcgm_nvlink_receive: no series of DCGM_FI_PROF_NVLINK_RX_BYTES',
    ].map(what => ({
      what,
      remedy:
        'add it to the metrics file of the DCGM exporter, with profiling allowed; or list only the queries you want',
    })),
  ])
})
