/** The nodes of a cluster, on each version of the control plane. */
import { afterEach, expect, test } from 'vitest'
import { openCalls } from '../../../../collector/sources/runai/calls.ts'
import { openNodes } from '../../../../collector/sources/runai/nodes.ts'
import {
  type RunaiFixture,
  type RunaiVersion,
  runaiDemoClientId,
  runaiDemoSecret,
  startRunaiDouble,
} from '../../../../deploy/demo/runai.ts'
import { openHttp } from '../../../../runtime/http.ts'
import { hourMs } from '../../../../schemas/window.ts'
import { faultFrom } from '../../../faults.ts'
import { sourceContext } from '../../source-context.ts'

const live = new AbortController().signal
const opened: AsyncDisposable[] = []
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]()
})

const clusterId = '71f69d83-ba66-4822-adf5-55ce55efd210'
const otherId = '9f55255e-11ed-47c7-acef-fc4054768dbc'

/** So many nodes of eight H100 in the cluster, one without GPUs, and one of another cluster. */
function fixtureOf(count: number): RunaiFixture {
  const node = (name: string, gpuType?: string, cluster = clusterId) => ({
    id: `00000003-0000-4000-8000-${String(name.length).padStart(12, '0')}`,
    name,
    clusterId: cluster,
    nodePool: gpuType === undefined ? 'cpu' : 'h100',
    ...(gpuType !== undefined && { gpuType, gpuCount: 8 }),
  })
  return {
    clusters: [clusterId, otherId].map(id => ({ id, name: id.slice(0, 4), createdMs: 0 })),
    workloads: [],
    pods: [],
    nodes: [
      ...Array.from({ length: count }, (_, index) =>
        node(`gpu-${String(index).padStart(4, '0')}`, 'NVIDIA-H100-80GB-HBM3'),
      ),
      node('login'),
      node('elsewhere', 'Tesla-V100', otherId),
    ],
  }
}

async function open(
  count: number,
  given: { version?: RunaiVersion; pageSize?: number; nowMs?: () => number } = {},
) {
  const fixture = fixtureOf(count)
  const nowMs = given.nowMs ?? Date.now
  const double = await startRunaiDouble({
    fixture,
    nowMs,
    behaviour: { version: given.version ?? 'latest', tokenLifeMs: 100 * hourMs },
  })
  const http = openHttp({ retries: 1, deadlineMs: 2000, random: () => 0 })
  opened.push(double, http)
  const calls = openCalls(
    { url: double.url, auth: 'auto' },
    { http, nowMs, clientId: () => runaiDemoClientId, clientSecret: () => runaiDemoSecret },
  )
  const { state } = sourceContext({ http })
  const { pageSize } = given
  const fresh = () => openNodes({ calls, state, nowMs, ...(pageSize !== undefined && { pageSize }) })
  return { fixture, double, nodes: fresh(), fresh }
}

test.each(['2.19', '2.24', 'latest'] as const)('all of them on %s, with pool and GPU type', async version => {
  for (const count of [0, 48, 49, 50, 99, 149]) {
    const { nodes } = await open(count, { version })
    const found = await nodes.of(clusterId, live)
    expect(found.size).toBe(count + 1)
    expect(found.get('login')).toEqual({ nodePool: 'cpu' })
    if (count > 0)
      expect(found.get('gpu-0000')).toEqual({
        nodePool: 'h100',
        gpuType: 'NVIDIA-H100-80GB-HBM3',
        gpuCount: 8,
      })
    expect(found.has('elsewhere')).toBe(false)
  }
})

test('a control plane between, that pages by cluster and has no list of all, gives all too', async () => {
  const { double, nodes } = await open(120)
  double.behaviour.faults.push({ endpoint: 'nodes', answer: { status: 404 } })
  expect((await nodes.of(clusterId, live)).size).toBe(121)
})

test('pages of any size agree', async () => {
  const one = await (await open(7, { pageSize: 1 })).nodes.of(clusterId, live)
  const many = await (await open(7)).nodes.of(clusterId, live)
  expect([...one]).toEqual([...many])
})

test('a node that is gone keeps what it was, also after a restart; one that comes back without GPUs too', async () => {
  let now = Date.now()
  const { fixture, nodes, fresh } = await open(3, { nowMs: () => now })
  const before = await nodes.of(clusterId, live)
  fixture.nodes.splice(0, 1)
  delete fixture.nodes[0]?.gpuType
  expect([...(await fresh().of(clusterId, live))]).toEqual([...before])
  now += hourMs
  expect([...(await nodes.of(clusterId, live))]).toEqual([...before])
})

test('they are asked for once in a while, not for each window', async () => {
  let now = Date.now()
  const { double, nodes } = await open(3, { nowMs: () => now })
  const asked = () => double.calls.filter(call => call.endpoint === 'nodes').length
  for (let time = 0; time < 5; time++) await nodes.of(clusterId, live)
  expect(asked()).toBe(1)
  now += hourMs
  await nodes.of(clusterId, live)
  expect(asked()).toBe(2)
})

test('of an answer that holds other clusters too, only those that were asked for count', async () => {
  const { double, nodes } = await open(2)
  // A control plane that does not filter.
  double.behaviour.onCall = call => {
    delete (call.query as Record<string, string>).filterBy
  }
  expect([...(await nodes.of(clusterId, live)).keys()].sort()).toEqual(['gpu-0000', 'gpu-0001', 'login'])
})

test.each([403, 500, 'list', 'empty_object', 'null_rows'] as const)(
  '%s is a fault, never no nodes',
  async how => {
    const { double, nodes } = await open(3)
    double.behaviour.faults.push({
      endpoint: 'nodes',
      answer: typeof how === 'number' ? { status: how } : how,
    })
    expect((await faultFrom(nodes.of(clusterId, live))).fate).toBe('retry')
  },
)
