/** The Kubernetes source against its double: the contract of every source, and what is its own. */
import { afterEach, describe, expect, test } from 'vitest'
import type { KubernetesMisbehaviour } from '../../../deploy/demo/kubernetes.ts'
import { hourMs, minuteMs, secondMs, type Window } from '../../../schemas/window.ts'
import { type Breakage, runSourceContract, type SourceRig } from '../../contract/source.ts'
import { openWatched, testToken, type Watched, type WatchedOptions } from './kubernetes/watched.ts'

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
    it.set(at(8, 15, 1))
    await it.settled()
    expect(await it.usages('pods', quarter(8))).toEqual([
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
})
