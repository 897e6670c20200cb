/** The Kubernetes source against its double: the contract of every source, and what is its own. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleepFor } from 'node:timers/promises'
import { afterEach, describe, expect, test } from 'vitest'
import { parseAllDocuments } from 'yaml'
import { resourceNames } from '../../../collector/sources/kubernetes/lives.ts'
import type { KubernetesMisbehaviour, PodPlan } from '../../../deploy/demo/kubernetes.ts'
import { passingState } from '../../../runtime/log/source-state.ts'
import type { Usage } from '../../../schemas/event.ts'
import { Fault } from '../../../schemas/fault.ts'
import { hourMs, minuteMs, secondMs, showInstant, type Window } from '../../../schemas/window.ts'
import { type Breakage, runSourceContract, type SourceRig } from '../../contract/source.ts'
import { faultFrom } from '../../faults.ts'
import { live, openWatched, testToken, type Watched, type WatchedOptions } from './kubernetes/watched.ts'

/** As long as a busy machine may need. */
const soon = { timeout: 8000 }
const opened: AsyncDisposable[] = []
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]()
})

const dayMs = Date.UTC(2026, 1, 12)
const at = (hours: number, minutes = 0, seconds = 0): number =>
  dayMs + hours * hourMs + minutes * minuteMs + seconds * secondMs
const quarter = (hours: number, minutes = 0): Window => ({
  startMs: at(hours, minutes),
  endMs: at(hours, minutes + 15),
})

async function openFor(options: Partial<WatchedOptions> = {}): Promise<Watched> {
  const each = await openWatched({ startMs: at(7, 58), ...options })
  opened.push(each)
  return each
}

/** A cluster of one node whose watch began two minutes before eight. */
async function begun(options: Partial<WatchedOptions> = {}): Promise<Watched> {
  const each = await openFor(options)
  each.cluster.namespace('default')
  each.cluster.node('node-1', { 'nvidia.com/gpu.product': 'NVIDIA-H100' })
  each.watch()
  await each.settled()
  return each
}

/** Two hours: pods that were there before, come, are resized and go, a volume and a load balancer. */
async function played(options: Partial<WatchedOptions>, spoiled?: string): Promise<Watched> {
  const it = await openWatched({ startMs: at(7, 58), ...options })
  const { cluster, double } = it
  const steps: readonly (readonly [number, () => void])[] = [
    [at(8, 10, 7), () => cluster.create({ uid: 'p-1', requests: { cpu: '250m', memory: '100M' } })],
    [at(8, 10, 8), () => cluster.schedule('p-1')],
    [at(8, 10, 11), () => cluster.start('p-1')],
    [at(8, 40), () => bind(it, 'c-1')],
    [
      at(8, 50),
      () =>
        cluster.create({
          uid: 'p-2',
          requests: { cpu: spoiled === 'p-2' ? 'abc' : '1', 'nvidia.com/gpu': '1' },
        }),
    ],
    [at(8, 50, 1), () => cluster.schedule('p-2')],
    [at(8, 52), () => cluster.resize('p-1', { cpu: '750m', memory: '100M' })],
    [at(8, 52, 59), () => address(it, 's-1')],
    [at(9, 20, 31), () => cluster.ask('p-1')],
    [at(9, 20, 40), () => cluster.finish('p-1')],
    [at(9, 20, 41), () => cluster.remove('p-1')],
    [at(9, 30), () => double.remove('services', 's-1')],
    [at(9, 40, 3), () => cluster.ask('p-2', 0)],
    [at(9, 40, 3), () => cluster.remove('p-2')],
  ]
  cluster.namespace('default')
  cluster.node('node-1')
  for (const uid of ['old-1', 'old-2', 'old-3']) {
    cluster.create({ uid, requests: { cpu: '1', memory: '1Gi' } })
    cluster.schedule(uid)
  }
  it.watch()
  await it.settled()
  for (const [ms, step] of steps) {
    it.set(ms)
    step()
    await it.settled()
  }
  it.set(at(10, 0, 1))
  await it.settled()
  return it
}

/** A claim of 10 GiB and its volume. */
function bind({ double }: Watched, uid: string): void {
  double.apply('persistentvolumes', {
    metadata: { name: `pv-${uid}`, uid: `pv-${uid}` },
    spec: {
      capacity: { storage: '10Gi' },
      storageClassName: 'fast',
      persistentVolumeReclaimPolicy: 'Retain',
    },
    status: { phase: 'Available' },
  })
  double.apply('persistentvolumeclaims', {
    metadata: { name: uid, namespace: 'default', uid },
    spec: { storageClassName: 'fast', volumeName: `pv-${uid}` },
    status: { phase: 'Bound', capacity: { storage: '10Gi' } },
  })
}

function address({ double }: Watched, uid: string): void {
  double.apply('services', {
    metadata: { name: uid, namespace: 'default', uid },
    spec: { type: 'LoadBalancer' },
    status: { loadBalancer: { ingress: [{ ip: '192.0.2.7' }] } },
  })
}

const misbehaviours: Readonly<Record<Breakage, KubernetesMisbehaviour>> = {
  '500': { status: 500 },
  '502 HTML': { status: 502, html: true },
  '401': { status: 401 },
  '404': { status: 404 },
  truncated: 'truncated',
  cut: 'cut',
  list: 'list',
  'empty object': 'empty_object',
  hang: 'hang',
}

runSourceContract('kubernetes', {
  span: { startMs: at(8), endMs: at(10) },
  window: { startMs: at(8, 45), endMs: at(9) },
  scope: 'pods',
  widthsMinutes: [60, 30, 15, 5, 1],
  secrets: [testToken],
  async open({ pageSize = 500, widthMinutes = 15 } = {}): Promise<SourceRig> {
    const options = { config: { pageSize, windowMinutes: widthMinutes }, deadlineMs: 150 }
    let it = await played(options)
    return {
      kind: 'kubernetes',
      get source() {
        return it.source
      },
      // What was seen is no longer asked for: only a collector without memory is hurt.
      async break(how) {
        await it.stop()
        it.double.faults.push({ on: 'list', answer: misbehaviours[how as Breakage] })
        it.afresh()
      },
      async spoilOne() {
        await it[Symbol.asyncDispose]()
        it = await played(options, 'p-2')
        return 'default'
      },
      [Symbol.asyncDispose]: () => it[Symbol.asyncDispose](),
    }
  },
})

/** All readings of a quarter that is over, by what was read. */
async function readOf(it: Watched, scope: string, window: Window): Promise<Record<string, Usage>> {
  if (it.nowMs() < window.endMs + secondMs) it.set(window.endMs + secondMs)
  await it.settled()
  const usages = await it.usages(scope, window)
  return Object.fromEntries(usages.map(usage => [usage.resource.id, usage]))
}
/** A pod of one core that runs since then. */
async function runs(it: Watched, uid: string, atMs: number, plan: Partial<PodPlan> = {}): Promise<void> {
  it.set(atMs)
  it.cluster.create({ uid, requests: { cpu: '1' }, ...plan })
  it.cluster.schedule(uid)
  it.cluster.start(uid)
  await it.settled()
}

describe('what is billed', () => {
  test('a pod of three seconds is billed three seconds', async () => {
    const it = await begun()
    it.set(at(8, 3, 10))
    it.cluster.create({ uid: 'p-1', requests: { cpu: '500m', memory: '1Gi', 'nvidia.com/gpu': '2' } })
    it.cluster.schedule('p-1')
    await it.settled()
    it.pass(1)
    it.cluster.start('p-1')
    await it.settled()
    it.pass(2)
    it.cluster.finish('p-1', 'Succeeded')
    await it.settled()
    expect(Object.values(await readOf(it, 'pods', quarter(8)))).toEqual([
      {
        thing: 'pod',
        subject: 'default',
        resource: { kind: 'pod', id: 'p-1', name: 'p-1' },
        measures: {
          instance_seconds: '3',
          cpu_core_seconds: '1.5',
          memory_byte_seconds: '3221225472',
          gpu_seconds: '6',
        },
        labels: {
          namespace: 'default',
          node: 'node-1',
          gpu_type: 'NVIDIA-H100',
          gpu_resource: 'nvidia.com/gpu',
        },
        interval: { startMs: at(8, 3, 10), endMs: at(8, 3, 13) },
      },
    ])
  })

  test.each([
    ['scheduled', 60],
    ['started', 55],
    ['running', 40],
  ])('a pod counts from when it is %s', async (allocation, seconds) => {
    const it = await begun({ config: { allocation } })
    it.set(at(8, 1))
    it.cluster.create({ uid: 'p-1', requests: { cpu: '1' } })
    it.cluster.schedule('p-1')
    await it.settled()
    it.pass(5)
    const pod = it.double.get('pods', 'p-1')
    it.double.apply('pods', {
      ...pod,
      status: { ...(pod.status as object), startTime: showInstant(it.nowMs()) },
    })
    await it.settled()
    it.pass(15)
    it.cluster.start('p-1')
    await it.settled()
    it.pass(10)
    it.cluster.restart('p-1')
    await it.settled()
    it.pass(30)
    it.cluster.finish('p-1', 'Failed')
    await it.settled()
    const { 'p-1': usage } = await readOf(it, 'pods', quarter(8))
    expect(usage?.measures.instance_seconds).toBe(String(seconds))
  })

  test('a pod that failed holds nothing more though it stays, also after a restart and when it is deleted', async () => {
    const it = await begun()
    await runs(it, 'p-1', at(8, 1))
    it.set(at(8, 2))
    it.cluster.finish('p-1', 'Failed')
    await it.settled()
    await it.stop()
    it.again()
    it.set(at(8, 20))
    it.cluster.ask('p-1', 0)
    it.cluster.remove('p-1')
    expect((await readOf(it, 'pods', quarter(8)))['p-1']?.measures.instance_seconds).toBe('60')
    expect(await readOf(it, 'pods', quarter(8, 15))).toEqual({})
  })

  test('a pod that is asked to go is billed until its containers stopped, not until its grace is over', async () => {
    const it = await begun()
    await runs(it, 'p-1', at(8, 1))
    it.set(at(8, 2))
    it.cluster.ask('p-1', 600)
    await it.settled()
    it.pass(12)
    it.cluster.finish('p-1')
    await it.settled()
    it.pass(3)
    it.cluster.remove('p-1')
    await it.settled()
    const { 'p-1': usage } = await readOf(it, 'pods', quarter(8))
    expect(usage?.measures.instance_seconds).toBe('72')
    expect(usage?.estimated).toBeUndefined()
  })

  test('one that is removed by force is billed until we saw it', async () => {
    const it = await begun()
    await runs(it, 'p-1', at(8, 1))
    it.set(at(8, 2))
    it.cluster.ask('p-1', 600)
    await it.settled()
    it.set(at(8, 3))
    it.cluster.remove('p-1')
    await it.settled()
    const { 'p-1': usage } = await readOf(it, 'pods', quarter(8))
    expect(usage?.measures.instance_seconds).toBe('120')
    expect(usage?.estimated).toBeUndefined()
  })

  test('the name of a StatefulSet pod comes back with another uid: two readings, each its own time', async () => {
    const it = await begun()
    await runs(it, 'first', at(8, 1), { name: 'web-0' })
    await it.stop()
    it.set(at(8, 2))
    it.cluster.ask('first', 0)
    it.cluster.finish('first')
    it.cluster.remove('first')
    it.cluster.create({ uid: 'second', name: 'web-0', requests: { cpu: '1' } })
    it.pass(10)
    it.cluster.schedule('second')
    it.again()
    const read = await readOf(it, 'pods', quarter(8))
    expect(read.first?.measures.cpu_core_seconds).toBe('60')
    expect(read.second?.measures.cpu_core_seconds).toBe('770')
    expect(Object.values(read).some(usage => usage.estimated)).toBe(false)
  })

  test('a resize counts from its second, inside the one reading', async () => {
    const it = await begun()
    await runs(it, 'p-1', at(8, 0))
    it.set(at(8, 5))
    it.cluster.resize('p-1', { cpu: '3' })
    await it.settled()
    const { 'p-1': usage } = await readOf(it, 'pods', quarter(8))
    expect(usage?.measures.cpu_core_seconds).toBe(String(300 + 3 * 600))
  })

  test('sidecars and overhead are in what a pod holds', async () => {
    const it = await begun()
    await runs(it, 'p-1', at(8), {
      requests: { cpu: '1' },
      spec: {
        overhead: { cpu: '250m' },
        containers: [{ name: 'main', resources: { requests: { cpu: '1' } } }],
        initContainers: [
          { name: 'mesh', restartPolicy: 'Always', resources: { requests: { cpu: '500m' } } },
          { name: 'setup', resources: { requests: { cpu: '1200m' } } },
        ],
      },
    })
    const { 'p-1': usage } = await readOf(it, 'pods', quarter(8))
    expect(usage?.measures.cpu_core_seconds).toBe(String(900 * 1.95))
  })

  test('labels of the node are those at the start; what comes late is filled in; a node that is gone still tells', async () => {
    const it = await begun()
    it.cluster.node('late', {})
    await runs(it, 'p-1', at(8), { requests: { 'nvidia.com/gpu': '1' } })
    it.set(at(8, 1))
    it.cluster.create({ uid: 'p-2', requests: { 'nvidia.com/gpu': '1' } })
    it.cluster.schedule('p-2', 'late')
    await it.settled()
    it.pass(60)
    it.cluster.node('node-1', { 'nvidia.com/gpu.product': 'NVIDIA-H100-changed' })
    it.cluster.node('late', { 'nvidia.com/gpu.product': 'NVIDIA-A100' })
    await it.settled()
    it.double.remove('nodes', 'node-late')
    await it.settled()
    it.set(at(8, 20))
    it.cluster.resize('p-2', { cpu: '1', 'nvidia.com/gpu': '1' })
    const read = await readOf(it, 'pods', quarter(8))
    expect(read['p-1']?.labels.gpu_type).toBe('NVIDIA-H100')
    expect(read['p-2']?.labels.gpu_type).toBe('NVIDIA-A100')
    const later = await readOf(it, 'pods', quarter(8, 15))
    expect(later['p-2']?.labels.gpu_type).toBe('NVIDIA-A100')
  })

  test('a claim that two pods hold is split while both do', async () => {
    const it = await begun({ double: { claims: true } })
    it.double.apply('resourceslices', {
      metadata: { name: 'slice', uid: 'slice' },
      spec: {
        driver: 'gpu.nvidia.com',
        nodeName: 'node-1',
        pool: { name: 'node-1', generation: 1, resourceSliceCount: 1 },
        devices: [{ name: 'gpu-0', attributes: { productName: { string: 'NVIDIA H100' } } }],
      },
    })
    it.double.apply('resourceclaims', {
      metadata: { name: 'both', namespace: 'default', uid: 'claim' },
      spec: {},
      status: {
        allocation: {
          devices: {
            results: [{ request: 'gpu', driver: 'gpu.nvidia.com', pool: 'node-1', device: 'gpu-0' }],
          },
        },
      },
    })
    const spec = {
      containers: [{ name: 'main', resources: {} }],
      resourceClaims: [{ name: 'gpu', resourceClaimName: 'both' }],
    }
    await runs(it, 'p-1', at(8), { spec })
    await runs(it, 'p-2', at(8, 5), { spec })
    it.set(at(8, 10))
    it.cluster.finish('p-2', 'Succeeded')
    await it.settled()
    const read = await readOf(it, 'pods', quarter(8))
    expect(read['p-1']?.measures.gpu_seconds).toBe(String(300 + 150 + 300))
    expect(read['p-2']?.measures.gpu_seconds).toBe('150')
    expect(read['p-2']?.labels.gpu_type).toBe('NVIDIA-H100')
  })

  test('whose it is, by a label of the namespace that may come after the pod', async () => {
    const it = await openFor({
      config: { tenant: [{ from: 'namespace-label', name: 'customer' }] },
    })
    it.watch()
    await it.settled()
    await runs(it, 'p-1', at(8), { namespace: 'team-a' })
    it.set(at(8, 1))
    it.cluster.namespace('team-a', { customer: 'acme' })
    const { 'p-1': usage } = await readOf(it, 'pods', quarter(8))
    expect(usage?.subject).toBe('acme')
    expect(usage?.labels.namespace).toBe('team-a')
  })

  test.each([
    ['volume', 600],
    ['claim', 602],
  ])(
    'a volume: its claim while bound, more after it grew, itself once released, at no time both; %s first',
    async (order, seconds) => {
      const it = await begun()
      it.set(at(8))
      bind(it, 'c-1')
      await it.settled()
      it.set(at(8, 5))
      const claim = it.double.get('persistentvolumeclaims', 'c-1')
      it.double.apply('persistentvolumeclaims', {
        ...claim,
        status: { phase: 'Bound', capacity: { storage: '20Gi' } },
      })
      await it.settled()
      it.set(at(8, 10))
      if (order === 'claim') {
        // What becomes of the volume is told later: nothing is billed twice in this order either.
        it.double.faults.push({ on: 'watch', resource: 'persistentvolumes', answer: { status: 500 } })
        it.double.breakWatches('end', 'persistentvolumes')
      }
      const volume = it.double.get('persistentvolumes', 'pv-c-1')
      it.double.apply('persistentvolumes', {
        ...volume,
        spec: {
          ...(volume.spec as object),
          capacity: { storage: '20Gi' },
          claimRef: { namespace: 'default', name: 'c-1', uid: 'c-1' },
        },
        status: { phase: 'Released', lastPhaseTransitionTime: showInstant(at(8, 10)) },
      })
      if (order === 'volume') await it.settled()
      it.pass(2)
      it.double.remove('persistentvolumeclaims', 'c-1')
      if (order === 'claim') {
        await expect.poll(() => it.state.get('object/persistentvolumeclaims/c-1'), soon).toBeUndefined()
        it.double.faults.length = 0
      }
      await it.settled()
      it.set(at(8, 12))
      it.double.remove('persistentvolumes', 'pv-c-1')
      await it.settled()
      const read = await readOf(it, 'volumes', quarter(8))
      const gib = 1024n ** 3n
      expect(read['c-1']?.measures.storage_byte_seconds).toBe(
        String(gib * (10n * 300n + 20n * BigInt(seconds - 300))),
      )
      expect(read['pv-c-1']?.measures.storage_byte_seconds).toBe(String(gib * 20n * BigInt(720 - seconds)))
      expect(read['c-1']?.labels.storage_class).toBe('fast')
      expect(read['pv-c-1']?.subject).toBe('default')
    },
  )

  test('a load balancer counts from its address to its end', async () => {
    const it = await begun()
    it.set(at(8, 1))
    it.double.apply('services', {
      metadata: { name: 's-1', namespace: 'default', uid: 's-1' },
      spec: { type: 'LoadBalancer' },
      status: { loadBalancer: {} },
    })
    await it.settled()
    it.set(at(8, 2))
    address(it, 's-1')
    await it.settled()
    it.set(at(8, 7))
    it.double.remove('services', 's-1')
    await it.settled()
    const { 's-1': usage } = await readOf(it, 'services', quarter(8))
    expect(usage?.measures).toEqual({ load_balancer_seconds: '300' })
  })

  test('the traffic of pods, through the API server', async () => {
    const it = await begun({ config: { parts: ['pods', 'network'], sampleSeconds: 5 } })
    const line = (direction: string, bytes: number) =>
      `container_network_${direction}_bytes_total{container="",id="/kubepods/podp-1",image="pause",interface="eth0",name="sandbox",namespace="default",pod="p-1"} ${bytes}\n`
    const text = (bytes: number) => `${line('receive', bytes)}${line('transmit', 2 * bytes)}`
    it.double.metrics.set('node-1', text(0))
    await runs(it, 'p-1', at(8, 1))
    await it.stop()
    it.double.metrics.set('node-1', text(1000))
    it.again()
    await expect.poll(() => it.state.get('network/node/node-1') ?? '', soon).toContain('1000')
    await it.stop()
    it.set(at(8, 15, 1))
    it.again()
    await expect.poll(() => Number(it.state.get('network/round')), soon).toBe(at(8, 15, 1))
    const usages = await it.usages('network', quarter(8))
    expect(
      usages.map(({ subject, resource, measures }) => ({ subject, id: resource.id, ...measures })),
    ).toEqual([
      { subject: 'default', id: 'p-1', network_receive_bytes: '1000', network_transmit_bytes: '2000' },
    ])
  })
})

describe('what nobody saw', () => {
  /** p-1 runs; then the collector is away from 8:05 to 8:20, and the history of that time is gone. */
  async function away(during: (it: Watched) => void): Promise<Watched> {
    const it = await begun()
    await runs(it, 'p-1', at(8, 1))
    await runs(it, 'stays', at(8, 1))
    it.set(at(8, 5))
    await it.settled()
    await it.stop()
    it.set(at(8, 10))
    during(it)
    it.double.compact()
    it.set(at(8, 20))
    it.again()
    return it
  }

  test('a pod that vanished ends when it was last seen, as an estimate; what is before and who stays is exact', async () => {
    const it = await away(({ double }) => double.remove('pods', 'p-1'))
    const first = await readOf(it, 'pods', quarter(8))
    expect(first['p-1']?.measures.instance_seconds).toBe('240')
    expect(first['p-1']?.estimated).toBe(true)
    expect(first.stays?.measures.instance_seconds).toBe('840')
    expect(first.stays?.estimated).toBeUndefined()
    expect(Object.values(first).flatMap(usage => usage.doubt ?? [])).toEqual([
      'pods were not seen from 2026-02-12T08:05:00Z to 2026-02-12T08:20:00Z, and the history of the API server had gone: what began and ended in between is missing',
    ])
    const second = await readOf(it, 'pods', quarter(8, 15))
    expect(Object.keys(second)).toEqual(['stays'])
    expect(second.stays?.doubt).toContain('were not seen')
    const third = await readOf(it, 'pods', quarter(8, 30))
    expect(third.stays?.doubt).toBeUndefined()
  })

  test('one that was asked to go before ends there, and one whose containers had stopped ends exactly', async () => {
    const it = await begun()
    await runs(it, 'asked', at(8, 1))
    await runs(it, 'stopped', at(8, 1))
    it.set(at(8, 5))
    it.cluster.ask('asked', 300)
    it.cluster.ask('stopped', 300)
    it.cluster.finish('stopped')
    await it.settled()
    await it.stop()
    it.set(at(8, 14))
    it.cluster.remove('asked')
    it.cluster.remove('stopped')
    it.double.compact()
    it.again()
    const read = await readOf(it, 'pods', quarter(8))
    expect(read.asked?.measures.instance_seconds).toBe('240')
    expect(read.asked?.estimated).toBe(true)
    expect(read.stopped?.measures.instance_seconds).toBe('240')
    expect(read.stopped?.estimated).toBeUndefined()
  })

  test('where the history was still there, even a pod that came and went is exact', async () => {
    const it = await begun()
    await it.stop()
    it.set(at(8, 2))
    it.cluster.create({ uid: 'p-1', requests: { cpu: '1' } })
    it.cluster.schedule('p-1')
    it.cluster.start('p-1')
    it.pass(7)
    it.cluster.finish('p-1', 'Succeeded')
    it.cluster.ask('p-1', 0)
    it.cluster.remove('p-1')
    it.set(at(8, 10))
    it.again()
    const { 'p-1': usage } = await readOf(it, 'pods', quarter(8))
    expect(usage?.measures.cpu_core_seconds).toBe('7')
    expect(usage?.estimated).toBeUndefined()
    expect(usage?.doubt).toBeUndefined()
  })

  test('one that was removed by force while nobody looked ends when it was asked to go, as an estimate', async () => {
    const it = await begun()
    await runs(it, 'p-1', at(8, 1))
    await it.stop()
    it.set(at(8, 3))
    it.cluster.ask('p-1', 0)
    it.cluster.remove('p-1')
    it.set(at(8, 10))
    it.again()
    const { 'p-1': usage } = await readOf(it, 'pods', quarter(8))
    expect(usage?.measures.instance_seconds).toBe('120')
    expect(usage?.estimated).toBe(true)
    expect(usage?.doubt).toBeUndefined()
  })

  test('what happened while a watch was waiting for its answer was not seen live', async () => {
    const it = await begun()
    await runs(it, 'p-1', at(8, 1))
    const answers = Promise.withResolvers<void>()
    const watches = () =>
      it.double.calls.filter(({ resource, verb }) => resource === 'pods' && verb === 'watch')
    const before = watches().length
    it.double.faults.push({ on: 'watch', resource: 'pods', answer: { after: answers.promise }, times: 1 })
    it.double.breakWatches('end', 'pods')
    await expect.poll(() => watches().length, soon).toBe(before + 1)
    it.set(at(8, 3))
    it.cluster.ask('p-1', 0)
    it.cluster.remove('p-1')
    it.set(at(8, 10))
    answers.resolve()
    const { 'p-1': usage } = await readOf(it, 'pods', quarter(8))
    expect(usage?.measures.instance_seconds).toBe('120')
    expect(usage?.estimated).toBe(true)
  })

  test('a fresh disk knows nothing of the past, and says so', async () => {
    const it = await begun()
    await runs(it, 'p-1', at(8, 1))
    it.set(at(8, 31))
    await it.settled()
    await it.stop()
    it.afresh()
    await it.settled()
    it.set(at(9, 0, 1))
    await it.settled()
    expect((await it.source.scopes(live)).find(({ scope }) => scope === 'pods')?.sinceMs).toBe(at(8, 45))
    const fault = await faultFrom(it.usages('pods', quarter(8, 30)))
    expect(fault.code).toBe('WINDOW_UNKNOWABLE')
    expect(fault.message).toContain('from 2026-02-12T08:45:00Z on only')
    const { 'p-1': usage } = await readOf(it, 'pods', quarter(8, 45))
    expect(usage?.measures.instance_seconds).toBe('900')
  })

  test('a window is not known before it was seen to its end: a read waits for the bookmark', async () => {
    const it = await begun()
    await runs(it, 'p-1', at(8, 14))
    it.set(at(8, 15, 10))
    let isRead = false
    const reading = it.usages('pods', quarter(8)).then(usages => {
      isRead = true
      return usages
    })
    await sleepFor(50)
    expect(isRead).toBe(false)
    it.double.bookmark()
    expect(await reading).toHaveLength(1)
  })

  test('what could not be kept is seen again: memory and disk never differ', async () => {
    const kept = passingState()
    let isFull = false
    const it = await begun({
      state: {
        ...kept,
        write(changes) {
          if (isFull) throw new Fault('OUTBOX_FULL', 'the disk is full')
          kept.write(changes)
        },
      },
    })
    isFull = true
    it.set(at(8, 1))
    it.cluster.create({ uid: 'p-1', requests: { cpu: '1' } })
    it.cluster.schedule('p-1')
    await expect.poll(() => it.source.problem?.(), soon).toMatch(/pods: OUTBOX_FULL/)
    isFull = false
    const { 'p-1': usage } = await readOf(it, 'pods', quarter(8))
    expect(usage?.measures.cpu_core_seconds).toBe('840')
    expect(usage?.estimated).toBeUndefined()
  })

  test('a pod that cannot be read is a gap of its own until it can', async () => {
    const it = await begun()
    await runs(it, 'p-1', at(8, 1), { requests: { cpu: 'much' } })
    await runs(it, 'p-2', at(8, 1))
    it.set(at(8, 15, 1))
    await it.settled()
    const faults: string[] = []
    const read: string[] = []
    for await (const item of it.source.read('pods', quarter(8), live))
      try {
        read.push(...it.source.toUsage(item, quarter(8)).map(usage => usage.resource.id))
      } catch (error) {
        faults.push((error as Fault).message)
      }
    expect(read).toEqual(['p-2'])
    expect(faults).toEqual(['pod default/p-1: containers/main/requests/cpu is "much", not a quantity'])
    it.cluster.resize('p-1', { cpu: '1' })
    const mended = await readOf(it, 'pods', quarter(8))
    expect(mended['p-1']?.measures.cpu_core_seconds).toBe('840')
  })
})

describe('the protocol', () => {
  test('lists are asked for in chunks, watches for bookmarks and an end, from the version of the list', async () => {
    const it = await openFor({ config: { pageSize: 2 } })
    for (const uid of ['a', 'b', 'c', 'd', 'e']) it.cluster.create({ uid })
    it.watch()
    await expect.poll(() => it.double.watching('pods'), soon).toBe(1)
    const calls = it.double.calls.filter(({ resource }) => resource === 'pods')
    expect(calls.map(({ verb }) => verb)).toEqual(['list', 'list', 'list', 'watch'])
    expect(calls.map(({ query }) => query.limit)).toEqual(['2', '2', '2', undefined])
    expect(calls[0]?.query).toEqual({ limit: '2' })
    expect(calls[1]?.query.continue).toBeTruthy()
    expect(calls[3]?.query).toEqual({
      watch: 'true',
      resourceVersion: '1005',
      allowWatchBookmarks: 'true',
      timeoutSeconds: '300',
    })
  })

  test('a list that expires between chunks is begun anew: nothing twice, nothing missing', async () => {
    const it = await openFor({ config: { pageSize: 2 } })
    for (const uid of ['a', 'b', 'c', 'd', 'e']) {
      it.cluster.create({ uid, requests: { cpu: '1' } })
      it.cluster.schedule(uid)
    }
    let expired = false
    const { calls } = it.double
    const push = calls.push.bind(calls)
    calls.push = (...added) => {
      // The third chunk finds its snapshot gone.
      if (
        !expired &&
        added[0]?.resource === 'pods' &&
        calls.filter(each => each.resource === 'pods').length === 2
      ) {
        expired = true
        it.double.faults.push({ on: 'list', resource: 'pods', answer: 'expired', times: 1 })
      }
      return push(...added)
    }
    it.watch()
    await it.settled()
    expect(Object.keys(await readOf(it, 'pods', quarter(8)))).toEqual(['a', 'b', 'c', 'd', 'e'])
    expect(calls.filter(({ verb, resource }) => verb === 'list' && resource === 'pods')).toHaveLength(6)
  })

  test.each(['http', 'stream'] as const)('a 410 by %s means a new list', async gone => {
    const it = await begun({ double: { gone } })
    await runs(it, 'p-1', at(8, 1))
    await it.stop()
    it.set(at(8, 2))
    it.cluster.create({ uid: 'p-2' })
    it.cluster.schedule('p-2')
    it.double.compact()
    it.again()
    expect(Object.keys(await readOf(it, 'pods', quarter(8)))).toEqual(['p-1', 'p-2'])
    expect(
      it.double.calls.filter(({ verb, resource }) => verb === 'list' && resource === 'pods'),
    ).toHaveLength(2)
  })

  test.each(['end', 'reset', 'mid_line', 'broken_line', 'error_500'] as const)(
    'after "%s" it goes on where it was, without a list, and loses nothing',
    async how => {
      const it = await begun()
      await runs(it, 'p-1', at(8, 1))
      it.double.breakWatches(how)
      it.cluster.create({ uid: 'p-2' })
      it.cluster.schedule('p-2')
      expect(Object.keys(await readOf(it, 'pods', quarter(8)))).toEqual(['p-1', 'p-2'])
      expect(
        it.double.calls.filter(({ verb, resource }) => verb === 'list' && resource === 'pods'),
      ).toHaveLength(1)
    },
  )

  test('a watch that falls silent is left for another one', async () => {
    const it = await openFor({ config: { silenceSeconds: 1 } })
    it.double.faults.push({ on: 'watch', resource: 'pods', answer: 'silence', times: 1 })
    it.watch()
    await expect.poll(() => it.double.watching('pods'), soon).toBe(1)
    await runs(it, 'p-1', at(8, 1))
    expect(Object.keys(await readOf(it, 'pods', quarter(8)))).toEqual(['p-1'])
  })

  test('a server that is too busy is given the time that it asks for', async () => {
    const it = await begun()
    it.double.faults.push({
      on: 'watch',
      resource: 'pods',
      answer: { status: 429, retryAfter: '1' },
      times: 2,
    })
    const before = it.double.calls.length
    const startedMs = performance.now()
    it.double.breakWatches('end', 'pods')
    await expect.poll(() => it.source.problem?.(), soon).toMatch(/^pods: SOURCE_BUSY .*429/)
    await expect.poll(() => it.double.watching('pods'), soon).toBe(1)
    expect(performance.now() - startedMs).toBeGreaterThan(1900)
    expect(
      it.double.calls.slice(before).filter(({ resource }) => resource === 'pods').length,
    ).toBeLessThanOrEqual(4)
    await it.settled()
    await expect.poll(() => it.source.problem?.(), soon).toBeUndefined()
  })

  test('what it may not see is a gap of that scope alone, and check says how to mend it', async () => {
    const it = await openFor({ double: { bookmarkMs: 20 } })
    it.double.denied.add('services')
    it.watch()
    await expect.poll(() => it.source.problem?.(), soon).toMatch(/^services: SOURCE_DENIED/)
    await expect.poll(() => it.double.watching('pods'), soon).toBe(1)
    it.set(at(8, 15, 1))
    expect(await it.usages('pods', quarter(8))).toEqual([])
    expect((await faultFrom(it.usages('services', quarter(8)))).code).toBe('WINDOW_UNKNOWABLE')
    const findings = await it.source.check?.(live)
    expect(findings?.missing).toEqual([
      {
        what: 'the right to list and watch services',
        remedy: 'bind the ClusterRole of deploy/examples/kubernetes-rbac.yaml to its service account',
      },
    ])
    expect(findings?.works).toContain('pods: 0')
  })

  test('an API server without resource.k8s.io is no fault unless it must have it', async () => {
    const it = await begun({ config: { dynamicResources: 'on', parts: ['pods'] } })
    await expect.poll(() => it.source.problem?.(), soon).toContain('this API server has no resource.k8s.io')
    expect((await it.source.check?.(live))?.missing.map(({ remedy }) => remedy)).toContain(
      'use a cluster that has it, or set dynamicResources: auto',
    )
    const other = await begun({ config: { parts: ['pods'] } })
    expect(other.source.problem?.()).toBeUndefined()
    expect((await other.source.check?.(live))?.missing).toEqual([])
  })

  test('its example of rights has what it asks for, and nothing else', async () => {
    const it = await begun({
      config: { parts: ['pods', 'volumes', 'services'] },
      double: { claims: true },
    })
    for (const resource of resourceNames) await expect.poll(() => it.double.watching(resource), soon).toBe(1)
    const asked = new Set(
      it.double.calls
        .filter(({ resource }) => resource !== 'resource.k8s.io')
        .map(({ verb, resource }) => `${verb} ${resource}`),
    )
    const text = readFileSync(
      join(import.meta.dirname, '../../../deploy/examples/kubernetes-rbac.yaml'),
      'utf8',
    )
    const documents = parseAllDocuments(text).map(each => each.toJS() as { kind: string; rules?: Rule[] })
    interface Rule {
      readonly resources: readonly string[]
      readonly verbs: readonly string[]
    }
    const allowed = documents
      .filter(({ kind }) => kind === 'ClusterRole')
      .flatMap(({ rules = [] }) => rules)
      .flatMap(({ resources, verbs }) =>
        resources.flatMap(resource => verbs.map(verb => `${verb} ${resource}`)),
      )
    expect([...asked].sort()).toEqual(allowed.sort())
  })
})
