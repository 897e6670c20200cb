/** Metrics of Run:ai pods against the double: which calls are made, and what becomes of what they answer. */
import Fraction from 'fraction.js'
import { afterEach, describe, expect, test } from 'vitest'
import { openCalls } from '../../../../collector/sources/runai/calls.ts'
import {
  type MeasuredPod,
  type MetricsOptions,
  metricsUsage,
  openMetrics,
  type RunaiMetrics,
} from '../../../../collector/sources/runai/metrics.ts'
import {
  type RunaiDouble,
  type RunaiFixture,
  type RunaiVersion,
  runaiDemoClientId,
  runaiDemoSecret,
  startRunaiDouble,
} from '../../../../deploy/demo/runai.ts'
import {
  type GpuMoment,
  type RunaiMetricsBehaviour,
  runaiMetricsBehaviour,
  runaiMetricsRoutes,
} from '../../../../deploy/demo/runai-metrics.ts'
import { openHttp } from '../../../../runtime/http.ts'
import type { Usage } from '../../../../schemas/event.ts'
import { Fault } from '../../../../schemas/fault.ts'
import { hourMs, minuteMs, type Window, windowsOver } from '../../../../schemas/window.ts'
import { faultFrom } from '../../../faults.ts'
import { sumsOf } from './sums.ts'

const live = new AbortController().signal
const opened: AsyncDisposable[] = []
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]()
})

const startMs = Date.parse('2026-03-02T08:00:00Z')
const hour: Window = { startMs, endMs: startMs + hourMs }
const clusterId = '71f69d83-ba66-4822-adf5-55ce55efd210'
const id = (kind: number, number: number) =>
  `${String(kind).padStart(8, '0')}-0000-4000-8000-${String(number).padStart(12, '0')}`

/** A workload of so many pods of eight GPUs that run all day. */
function fixtureOf(pods: number, gpu = '8'): RunaiFixture {
  const workloadId = id(1, 1)
  return {
    clusters: [{ id: clusterId, name: 'one', createdMs: startMs - 24 * hourMs }],
    workloads: [
      {
        id: workloadId,
        name: 'train',
        clusterId,
        projectId: '7',
        projectName: 'vision',
        departmentId: '1',
        departmentName: 'research',
        type: 'runai-job',
        category: 'Train',
        submittedBy: 'ada@example.com',
        priorityClassName: 'train',
        preemptible: true,
        createdMs: startMs - 2 * hourMs,
      },
    ],
    pods: Array.from({ length: pods }, (_, index) => ({
      id: id(2, index),
      name: `train-${index}`,
      workloadId,
      clusterId,
      createdMs: startMs - 2 * hourMs,
      startedMs: startMs - hourMs,
      allocated: { gpu },
    })),
    nodes: [],
  }
}

function measured(fixture: RunaiFixture): readonly MeasuredPod[] {
  return fixture.pods.map(pod => ({
    workloadId: pod.workloadId,
    podId: pod.id,
    name: pod.name,
    subject: '7',
    labels: { project: 'vision' },
    gpus: new Fraction(pod.allocated?.gpu ?? 0),
    runs: [{ startMs: pod.startedMs ?? 0, endMs: pod.completedMs ?? Number.POSITIVE_INFINITY }],
  }))
}

interface Rig {
  readonly metrics: RunaiMetrics
  readonly double: RunaiDouble
  readonly behaviour: RunaiMetricsBehaviour
  readonly pods: readonly MeasuredPod[]
  usages(window: Window): Promise<{ readonly usages: readonly Usage[]; readonly faults: readonly Fault[] }>
  metricCalls(): readonly { readonly types: readonly string[]; readonly samples: string | undefined }[]
}

async function open(
  given: {
    readonly fixture?: RunaiFixture
    readonly options?: Partial<MetricsOptions>
    readonly behaviour?: Partial<RunaiMetricsBehaviour>
    readonly version?: RunaiVersion
    readonly nowMs?: () => number
  } = {},
): Promise<Rig> {
  const fixture = given.fixture ?? fixtureOf(1)
  const nowMs = given.nowMs ?? (() => startMs + 26 * hourMs)
  const behaviour = runaiMetricsBehaviour(given.behaviour)
  const double = await startRunaiDouble({
    fixture,
    nowMs,
    routes: runaiMetricsRoutes(fixture, behaviour),
    behaviour: { version: given.version ?? 'latest' },
  })
  const http = openHttp({ retries: 1, deadlineMs: 2000, random: () => 0 })
  opened.push(double, http)
  const calls = openCalls(
    { url: double.url, auth: 'auto' },
    { http, nowMs, clientId: () => runaiDemoClientId, clientSecret: () => runaiDemoSecret },
  )
  const options: MetricsOptions = {
    collect: ['utilization', 'memory', 'idle', 'bandwidth'],
    sampleSeconds: 30,
    maxGapSeconds: 120,
    idlePercent: '0',
    missing: 'gap',
    concurrency: 4,
    ...given.options,
  }
  const metrics = openMetrics(options, { calls, nowMs })
  const pods = measured(fixture)
  return {
    metrics,
    double,
    behaviour,
    pods,
    async usages(window) {
      const usages: Usage[] = []
      const faults: Fault[] = []
      for await (const item of metrics.read(pods, window, live))
        try {
          usages.push(metricsUsage(item, window))
        } catch (error) {
          if (!(error instanceof Fault)) throw error
          faults.push(error)
        }
      return { usages, faults }
    },
    metricCalls: () =>
      double.calls
        .filter(call => call.endpoint === 'pod_metrics')
        .map(call => ({
          types: (call.query.metricType ?? '').split(','),
          samples: call.query.numberOfSamples,
        })),
  }
}

/** Half busy, 10 GiB, and a different rate on each link. */
const steady: RunaiMetricsBehaviour['value'] = ({ type, gpu }) =>
  type === 'GPU_UTILIZATION_PER_GPU'
    ? gpu === 0
      ? '0'
      : '50.5'
    : type === 'GPU_MEMORY_USAGE_BYTES_PER_GPU'
      ? '10737418240'
      : String(1000 * (gpu + 1) + (type.includes('NVLINK') ? 0 : 1) + (type.includes('RECEIVED') ? 0 : 500))

describe('what a pod used', () => {
  test('all of its GPUs are summed, each by its own samples', async () => {
    const rig = await open({ behaviour: { value: steady } })
    const { usages, faults } = await rig.usages(hour)
    expect(faults).toEqual([])
    expect(usages).toEqual([
      {
        thing: 'gpu',
        subject: '7',
        resource: { kind: 'pod', id: id(2, 0), name: 'train-0' },
        measures: {
          gpu_active_seconds: String(0.505 * 7 * 3600),
          gpu_idle_seconds: '3600',
          gpu_memory_byte_seconds: String(10737418240 * 8 * 3600),
          nvlink_receive_bytes: String(36_000 * 3600),
          nvlink_transmit_bytes: String((36_000 + 8 * 500) * 3600),
          pcie_receive_bytes: String((36_000 + 8) * 3600),
          pcie_transmit_bytes: String((36_000 + 8 + 8 * 500) * 3600),
        },
        labels: { project: 'vision' },
        interval: hour,
        parts: 8,
        estimated: false,
      },
    ])
  })

  test('in one call of six types, with a sample for each 30 s of the window and what holds into it', async () => {
    const rig = await open({ behaviour: { value: steady } })
    await rig.usages(hour)
    expect(rig.metricCalls()).toEqual([
      { types: expect.objectContaining({ length: 6 }), samples: String((3600 + 120) / 30) },
    ])
  })

  test('pods without a GPU, and those that did not run in the window, are not asked for', async () => {
    const rig = await open({ fixture: fixtureOf(1, '0') })
    expect((await rig.usages(hour)).usages).toEqual([])
    const before = { startMs: startMs - 3 * hourMs, endMs: startMs - 2 * hourMs }
    const other = await open()
    expect((await other.usages(before)).usages).toEqual([])
    expect([...rig.metricCalls(), ...other.metricCalls()]).toEqual([])
  })

  test('windows of any width add up to the same totals', async () => {
    const fixture = fixtureOf(2, '2')
    const [first, second] = fixture.pods
    if (!first || !second) throw new Error('two pods')
    first.startedMs = startMs + 17 * minuteMs + 3217
    second.completedMs = startMs + 41 * minuteMs + 919
    const day: Window = { startMs, endMs: startMs + hourMs }
    const totals = await Promise.all(
      ([60, 30, 15, 5, 1] as const).map(async width => {
        const rig = await open({ fixture })
        const all: Usage[] = []
        for (const window of windowsOver(day, width)) all.push(...(await rig.usages(window)).usages)
        return sumsOf(all)
      }),
    )
    expect(Object.keys(totals[0] ?? {})).toHaveLength(14)
    for (const each of totals) expect(each).toEqual(totals[0])
  })

  test('also where samples come when they were scraped, unevenly, and whatever their number', async () => {
    // About every 20 s, with a hole of four minutes; an answer holds those in its range, its end included.
    const scrapesMs = Array.from(
      { length: 240 },
      (_, at) => startMs + (at - 30) * 20_000 + ((at * 7919) % 9000),
    )
    const told = scrapesMs.filter(ms => ms < startMs + 20 * minuteMs || ms > startMs + 24 * minuteMs)
    const times: RunaiMetricsBehaviour['times'] = (from, to) => told.filter(ms => from <= ms && ms <= to)
    const totals = await Promise.all(
      ([60, 15, 5, 1] as const).map(async width => {
        const rig = await open({ fixture: fixtureOf(1, '2'), behaviour: { times } })
        const all: Usage[] = []
        for (const window of windowsOver(hour, width)) {
          const { usages, faults } = await rig.usages(window)
          // Of a minute in the hole nothing is known: that is a gap, not zero.
          const isInHole =
            window.startMs >= startMs + 22 * minuteMs && window.endMs <= startMs + 24 * minuteMs
          expect([width, faults.length > 0]).toEqual([width, isInHole])
          all.push(...usages)
        }
        return sumsOf(all)
      }),
    )
    for (const each of totals) expect(each).toEqual(totals[0])
  })

  test('many pods are asked for a few at a time, in order, and all come', async () => {
    const rig = await open({ fixture: fixtureOf(25, '1'), behaviour: { value: steady } })
    const { usages } = await rig.usages(hour)
    expect(usages.map(usage => usage.resource.id)).toEqual(rig.pods.map(pod => pod.podId))
  })
})

describe('what cannot be told', () => {
  test('types that an answer leaves out are a fault; the others count', async () => {
    const rig = await open({
      behaviour: {
        value: steady,
        withheld: ['GPU_MEMORY_USAGE_BYTES_PER_GPU', 'GPU_NVLINK_RECEIVED_BANDWIDTH_PER_GPU'],
      },
    })
    const { usages, faults } = await rig.usages(hour)
    expect(Object.keys(usages[0]?.measures ?? {}).sort()).toEqual([
      'gpu_active_seconds',
      'gpu_idle_seconds',
      'nvlink_transmit_bytes',
      'pcie_receive_bytes',
      'pcie_transmit_bytes',
    ])
    expect(faults.map(({ code, facts }) => [code, facts.subject])).toEqual([['ITEM_UNREADABLE', '7']])
    expect(faults[0]?.message).toBe(
      `metrics of pod ${id(2, 0)}: GPU_MEMORY_USAGE_BYTES_PER_GPU has no samples; GPU_NVLINK_RECEIVED_BANDWIDTH_PER_GPU has no samples`,
    )
  })

  test('a type that this control plane does not know costs the others nothing, and is not asked for again', async () => {
    let now = startMs + 26 * hourMs
    const rig = await open({
      nowMs: () => now,
      behaviour: { value: steady, unknown: ['GPU_PCIE_RECEIVED_BANDWIDTH_PER_GPU'] },
    })
    const { usages, faults } = await rig.usages(hour)
    expect(Object.keys(usages[0]?.measures ?? {})).toHaveLength(6)
    expect(faults[0]?.message).toContain(
      'GPU_PCIE_RECEIVED_BANDWIDTH_PER_GPU is not known to this control plane',
    )
    const calls = rig.metricCalls().length
    expect(calls).toBeGreaterThan(1)
    expect((await rig.usages(hour)).faults).toHaveLength(1)
    expect(rig.metricCalls().length).toBe(calls + 1)
    // After an upgrade it is known.
    rig.behaviour.unknown = []
    now += 2 * hourMs
    expect((await rig.usages(hour)).faults).toEqual([])
  })

  test('a control plane that takes fewer types in a call is asked more often', async () => {
    const whole = await open({ behaviour: { value: steady } })
    const rig = await open({ behaviour: { value: steady, typesPerCallMax: 2 } })
    expect(await rig.usages(hour)).toEqual(await whole.usages(hour))
  })

  test('where not one type is taken, it is not the types that are wrong', async () => {
    const rig = await open({ behaviour: { value: steady, typesPerCallMax: 0 } })
    const { usages, faults } = await rig.usages(hour)
    expect(usages).toEqual([])
    expect(faults.map(fault => fault.message)).toEqual([expect.stringContaining('At most 0 metric types')])
    rig.behaviour.typesPerCallMax = 9
    expect((await rig.usages(hour)).faults).toEqual([])
  })

  test('without "Advanced GPU Metrics" bandwidth is a gap, not zero', async () => {
    const rig = await open({ behaviour: { value: steady, advanced: false } })
    const { usages, faults } = await rig.usages(hour)
    expect(Object.keys(usages[0]?.measures ?? {}).filter(name => /nvlink|pcie/.test(name))).toEqual([])
    expect(faults[0]?.message).toContain('GPU_PCIE_RECEIVED_BANDWIDTH_PER_GPU has no samples')
  })

  test('a type without samples is a doubt where that is configured, as MIG slices have no utilization', async () => {
    const types = ({ type }: GpuMoment) => (type === 'GPU_UTILIZATION_PER_GPU' ? undefined : '1000')
    const rig = await open({ behaviour: { value: types }, options: { missing: 'doubt' } })
    const { usages, faults } = await rig.usages(hour)
    expect(faults).toEqual([])
    expect(Object.keys(usages[0]?.measures ?? {})).toHaveLength(5)
    expect(usages[0]?.doubt).toBe('GPU_UTILIZATION_PER_GPU has no samples')
    // Where there are none at all, there is nothing to doubt.
    const none = await open({ behaviour: { value: () => undefined }, options: { missing: 'doubt' } })
    expect((await none.usages(hour)).faults).toHaveLength(1)
  })

  test('of a pod whose end is an estimate the reading is one', async () => {
    const rig = await open({ behaviour: { value: steady } })
    const [pod] = rig.pods
    if (!pod) throw new Error('one pod')
    const usages: Usage[] = []
    for await (const item of rig.metrics.read([{ ...pod, hasEstimatedRuns: true }], hour, live))
      usages.push(metricsUsage(item, hour))
    expect(usages.map(({ estimated }) => estimated)).toEqual([true])
  })

  test('a pod that the control plane has forgotten is a gap of its own; the others are read', async () => {
    const rig = await open({ fixture: fixtureOf(3), behaviour: { value: steady } })
    rig.double.fixture.pods.splice(1, 1)
    const { usages, faults } = await rig.usages(hour)
    expect(usages).toHaveLength(2)
    expect(faults.map(({ facts }) => facts.pod)).toEqual([id(2, 1)])
  })

  test.each([403, 500, 503])('%i for metrics is a fault of the whole read', async status => {
    const rig = await open({ fixture: fixtureOf(3) })
    rig.double.behaviour.faults.push({ endpoint: 'pod_metrics', answer: { status } })
    expect((await faultFrom(rig.usages(hour))).fate).toBe('retry')
  })

  test.each(['list', 'empty_object', 'null_rows', 'truncated', 'cut'] as const)(
    'an answer that is none is a fault, never nothing used: %s',
    async how => {
      const rig = await open()
      rig.double.behaviour.faults.push({ endpoint: 'pod_metrics', answer: how })
      expect((await faultFrom(rig.usages(hour))).code).toBe('BODY_UNREADABLE')
    },
  )

  test('an abort stops it', async () => {
    const rig = await open({ fixture: fixtureOf(5) })
    rig.double.behaviour.faults.push({ endpoint: 'pod_metrics', from: 2, answer: 'hang' })
    const stop = new AbortController()
    const read = (async () => {
      for await (const _ of rig.metrics.read(rig.pods, hour, stop.signal)) stop.abort()
    })()
    expect((await faultFrom(read)).code).toBe('ABORTED')
  })
})

describe('samples of what is allocated', () => {
  const tolerance = { toleranceSeconds: 120, tolerancePercent: '1' }

  test('that agree raise no doubt, and cost one call a workload', async () => {
    const rig = await open({ fixture: fixtureOf(3), options: { tolerance } })
    const { usages } = await rig.usages(hour)
    expect(usages.map(usage => usage.doubt)).toEqual([undefined, undefined, undefined])
    expect(rig.double.calls.filter(call => call.endpoint === 'workload_metrics')).toHaveLength(1)
  })

  test('that differ are a doubt on the first pod of the workload, with both figures', async () => {
    const rig = await open({
      fixture: fixtureOf(2),
      options: { tolerance },
      behaviour: { allocation: () => '24' },
    })
    const { usages, faults } = await rig.usages(hour)
    expect(faults).toEqual([])
    expect(usages.map(usage => usage.doubt)).toEqual([
      'gpu_seconds 57600 by its pods, 86400 by samples of GPU_ALLOCATION',
      undefined,
    ])
  })

  test('that are not there are no doubt, and no gap', async () => {
    for (const behaviour of [{ unknown: ['GPU_ALLOCATION'] }, { withheld: ['GPU_ALLOCATION'] }]) {
      const rig = await open({ options: { tolerance }, behaviour })
      const { usages, faults } = await rig.usages(hour)
      expect([usages[0]?.doubt, faults]).toEqual([undefined, []])
    }
  })
})

describe('check', () => {
  test('says what is measured', async () => {
    const rig = await open()
    const [pod] = rig.pods
    expect(pod && (await rig.metrics.check(pod, live))).toEqual({
      works: [`8 GPUs of pod ${id(2, 0)} have samples of utilization, memory, NVLink, PCIe`],
      missing: [],
    })
  })

  test('says that Advanced GPU Metrics are off, and what to do', async () => {
    const rig = await open({ behaviour: { advanced: false } })
    const [pod] = rig.pods
    const { missing } = pod ? await rig.metrics.check(pod, live) : { missing: [] }
    expect(missing.map(({ what }) => what)).toEqual([
      'GPU_PCIE_RECEIVED_BANDWIDTH_PER_GPU has no samples',
      'GPU_PCIE_TRANSMITTED_BANDWIDTH_PER_GPU has no samples',
    ])
    expect(missing[0]?.remedy).toContain('turn on "Advanced GPU Metrics"')
  })

  test('says what this control plane does not know, and tries no pod that ran too briefly', async () => {
    const rig = await open({ behaviour: { unknown: ['GPU_UTILIZATION_PER_GPU'] } })
    const [pod] = rig.pods
    if (!pod) throw new Error('one pod')
    expect((await rig.metrics.check(pod, live)).missing).toEqual([
      {
        what: 'GPU_UTILIZATION_PER_GPU is not known to this control plane',
        remedy: 'upgrade the control plane, or take it out of metrics.collect',
      },
    ])
    const brief = { ...pod, runs: [{ startMs, endMs: startMs + 3000 }] }
    expect((await rig.metrics.check(brief, live)).works[0]).toContain('ran too briefly')
  })

  test('says that bandwidth could be had', async () => {
    const rig = await open({ options: { collect: ['utilization'] } })
    const [pod] = rig.pods
    const { works } = pod ? await rig.metrics.check(pod, live) : { works: [] }
    expect(works.at(-1)).toContain('`bandwidth` in metrics.collect')
  })
})

test('a gap shorter than two samples cannot be bridged: the options say so', async () => {
  const fault = await faultFrom(open({ options: { maxGapSeconds: 50 } }))
  expect([fault.code, fault.message]).toEqual([
    'CONFIG_INVALID',
    expect.stringContaining('metrics.maxGapSeconds'),
  ])
})
