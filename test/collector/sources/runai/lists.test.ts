/** Lists that change while their pages are read: nothing lost, nothing twice, and known where that is not so. */
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { openCalls } from '../../../../collector/sources/runai/calls.ts'
import {
  idOf,
  type ListOptions,
  readClusters,
  readPods,
  readPodsOf,
  readWorkload,
  readWorkloads,
} from '../../../../collector/sources/runai/lists.ts'
import {
  type RunaiBehaviour,
  type RunaiFixture,
  type RunaiPod,
  runaiDemoClientId,
  runaiDemoSecret,
  startRunaiDouble,
} from '../../../../deploy/demo/runai.ts'
import { openHttp } from '../../../../runtime/http.ts'
import { JsonNumber } from '../../../../schemas/json.ts'
import { hourMs, minuteMs, secondMs, type Window } from '../../../../schemas/window.ts'
import { faultFrom } from '../../../faults.ts'

const live = new AbortController().signal
const opened: AsyncDisposable[] = []
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]()
})

const window: Window = { startMs: Date.UTC(2026, 4, 4, 9), endMs: Date.UTC(2026, 4, 4, 10) }
const uuid = (number: number) => `00000000-0000-4000-8000-${String(number).padStart(12, '0')}`
const clusterId = uuid(1)
const workloadId = uuid(50)

const pod = (number: number, more: Partial<RunaiPod> = {}): RunaiPod => ({
  id: uuid(1000 + number),
  name: `pod-${number}`,
  workloadId,
  clusterId,
  createdMs: window.startMs - hourMs + number,
  startedMs: window.startMs - hourMs + number + 1,
  ...more,
})

async function open(pods: RunaiPod[], behaviour: Partial<RunaiBehaviour> = {}) {
  const clock = { nowMs: window.endMs + 2 * hourMs }
  const fixture: RunaiFixture = {
    clusters: [{ id: clusterId, name: 'gpu-1', createdMs: 0 }],
    workloads: [],
    pods,
    nodes: [],
  }
  const double = await startRunaiDouble({ fixture, nowMs: () => clock.nowMs, behaviour })
  const http = openHttp({ retries: 0, deadlineMs: 2000 })
  opened.push(double, http)
  const calls = openCalls(
    { url: double.url, auth: 'v2' },
    { http, clientId: () => runaiDemoClientId, clientSecret: () => runaiDemoSecret, nowMs: Date.now },
  )
  const options = (pageSize: number): ListOptions => ({
    clusterId,
    window,
    pageSize,
    counts: 'checked',
    facts: {},
    signal: live,
  })
  const ids = async (pageSize: number) => (await readPods(calls, options(pageSize))).map(idOf).sort()
  return { calls, double, clock, options, ids }
}

const idsOf = (pods: readonly RunaiPod[]) => pods.map(({ id }) => id).sort()

test('all that may have lived in the window is listed, and no more than that', async () => {
  const { ids, double } = await open([
    pod(1),
    pod(2, { completedMs: window.startMs + 1 }),
    pod(3, { completedMs: window.startMs - 1 }),
    pod(4, { deletedMs: window.startMs + 1 }),
    pod(5, { deletedMs: window.startMs - 1 }),
    pod(6, { completedMs: window.endMs + 1, deletedMs: window.endMs + 2 }),
    pod(7, { createdMs: window.endMs + hourMs }),
    pod(8, { clusterId: uuid(2) }),
    pod(9, { completedMs: window.startMs - minuteMs, deletedMs: window.startMs + minuteMs }),
  ])
  const expected = [1, 2, 4, 6, 9].map(number => uuid(1000 + number))
  const sizes = [1, 2, 3, 500]
  for (const pageSize of sizes) expect(await ids(pageSize)).toEqual(expected)
  // The short lists were enough: none was read, or counted, again.
  expect(double.calls.filter(({ endpoint }) => endpoint === 'pods_count')).toHaveLength(3 * sizes.length)
})

test('the next page begins where `next` says, which is not where kept rows end', async () => {
  const pods = Array.from({ length: 7 }, (_, number) => pod(number))
  const { ids, double } = await open(pods)
  expect(await ids(3)).toEqual(idsOf(pods))
  const asked = double.calls.filter(
    ({ endpoint, query }) => endpoint === 'pods' && query.completed === 'false',
  )
  // Each page but the first begins with the last row of the one before.
  expect(asked.map(({ query }) => query.offset)).toEqual(['0', '2', '4'])
})

describe('a list that shifts', () => {
  const shifted = (change: (pods: RunaiPod[], now: { nowMs: number }) => void) => async () => {
    const pods = Array.from({ length: 12 }, (_, number) => pod(number))
    const { ids, double, clock } = await open(pods)
    const before = idsOf(pods)
    let page = 0
    double.behaviour.onCall = ({ endpoint }) => {
      if (endpoint === 'pods' && ++page === 2) change(double.fixture.pods, clock)
    }
    const listed = await ids(4)
    expect(new Set(listed).size).toBe(listed.length)
    expect(listed).toEqual(expect.arrayContaining(before))
    // It was put right within one reading: no count was asked for again.
    expect(double.calls.filter(({ endpoint }) => endpoint === 'pods_count')).toHaveLength(3)
  }

  test(
    'loses nothing where the first of it end meanwhile',
    shifted((pods, { nowMs }) => {
      for (const each of pods.slice(0, 3)) each.completedMs = nowMs
    }),
  )
  test(
    'loses nothing where the first of it are deleted meanwhile',
    shifted((pods, { nowMs }) => {
      for (const each of pods.slice(0, 5)) each.deletedMs = nowMs
    }),
  )
  test(
    'repeats nothing where rows come in before',
    shifted(pods => {
      for (let number = 0; number < 3; number++)
        pods.unshift(pod(-10 - number, { createdMs: window.startMs - 2 * hourMs }))
    }),
  )
  test(
    'loses nothing where the last row of a page goes',
    shifted((pods, { nowMs }) => {
      for (const each of pods.slice(2, 6)) each.deletedMs = nowMs
    }),
  )

  test('in any way, and with rows of one time, loses and repeats nothing', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            created: fc.integer({ min: 0, max: 6 }),
            ends: fc.option(fc.integer({ min: 0, max: 12 })),
            how: fc.constantFrom('completed', 'deleted', 'both'),
          }),
          { minLength: 1, maxLength: 14 },
        ),
        fc.integer({ min: 1, max: 6 }),
        async (lives, pageSize) => {
          const nowMs = window.endMs + 2 * hourMs
          const pods = lives.map(({ created, ends, how }, number) => {
            const endMs = ends === null ? undefined : nowMs + ends * secondMs
            return pod(number, {
              createdMs: window.startMs - hourMs + created,
              ...(endMs !== undefined && how !== 'deleted' && { completedMs: endMs }),
              ...(endMs !== undefined &&
                how !== 'completed' && { deletedMs: endMs + (how === 'both' ? 2000 : 0) }),
            })
          })
          const { ids, double, clock } = await open(pods)
          try {
            // Each call is a second later, so that rows move from list to list under the reader.
            double.behaviour.onCall = () => {
              clock.nowMs += secondMs
            }
            expect(await ids(pageSize)).toEqual(idsOf(pods))
          } finally {
            for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]()
          }
        },
      ),
      { numRuns: 60 },
    )
  })
})

describe('what the counts tell', () => {
  test('a list that is shorter than its count is not believed', async () => {
    const { ids } = await open([pod(1), pod(2)], { countError: 1 })
    const fault = await faultFrom(ids(500))
    expect(fault.code).toBe('PAGES_DRIFTED')
    expect(fault.fate).toBe('retry')
    expect(fault.message).toMatch(/2 were listed and \d counted/)
  })

  test('unless the options say that the count is of more', async () => {
    const { calls, options, double } = await open([pod(1), pod(2)], { countError: 1 })
    expect(await readPods(calls, { ...options(500), counts: 'ignored' })).toHaveLength(2)
    expect(double.calls.some(({ endpoint }) => endpoint === 'pods_count')).toBe(false)
  })

  test('pods that are in neither short list are found in the long one', async () => {
    // Held for completed by the control plane, which does not say since when.
    const hidden = pod(3, { row: { k8sPhase: 'Failed' } })
    const { ids, double } = await open([pod(1), hidden])
    double.behaviour.hidden = (row, query) => row.id === hidden.id && query.completed === 'false'
    expect(await ids(500)).toEqual(idsOf([pod(1), hidden]))
  })
})

test('an answer that leads nowhere, or is no list, is not the end of one', async () => {
  for (const row of ['soon', new JsonNumber('-1'), new JsonNumber('0')]) {
    const { ids, double } = await open([pod(1), pod(2), pod(3)])
    double.behaviour.bend = (body, endpoint) =>
      endpoint === 'pods' ? { ...(body as object), next: row } : body
    expect((await faultFrom(ids(2))).code).toBe('BODY_UNREADABLE')
  }
  const { ids, double } = await open([pod(1)])
  double.behaviour.faults = [{ endpoint: 'pods', answer: 'null_rows' }]
  const fault = await faultFrom(ids(2))
  expect(fault.code).toBe('BODY_UNREADABLE')
  expect(fault.facts.path).toBe('/pods')
})

test('workloads are listed as far as they may have lived in the window; one that is not is asked for alone', async () => {
  const workload = (number: number, more = {}) => ({
    id: uuid(number),
    name: `w-${number}`,
    clusterId,
    projectId: '1',
    projectName: 'p',
    departmentId: '1',
    departmentName: 'd',
    type: 'runai-job',
    category: 'Train',
    submittedBy: 'me',
    priorityClassName: 'train',
    preemptible: false,
    createdMs: window.startMs - hourMs,
    ...more,
  })
  const { calls, double, options } = await open([])
  double.fixture.workloads.push(
    workload(50),
    workload(51, { completedMs: window.startMs + 1 }),
    workload(52, { completedMs: window.startMs - 1 }),
    workload(53, { deletedMs: window.startMs + 1 }),
    workload(54, { createdMs: window.endMs + hourMs }),
    workload(55, { clusterId: uuid(2) }),
  )
  for (const pageSize of [1, 2, 500])
    expect([...(await readWorkloads(calls, options(pageSize))).keys()].sort()).toEqual([
      uuid(50),
      uuid(51),
      uuid(53),
    ])
  expect((await readWorkload(calls, uuid(52), options(1)))?.name).toBe('w-52')
  expect(await readWorkload(calls, uuid(99), options(1))).toBeUndefined()
})

test('the pods of a workload are those of all its times', async () => {
  const { calls, options } = await open([
    pod(1, { completedMs: 1 }),
    pod(2, { deletedMs: 2 }),
    pod(3),
    pod(4, { workloadId: uuid(51) }),
  ])
  const rows = await readPodsOf(calls, workloadId, options(1))
  expect(rows.map(idOf).sort()).toEqual([1, 2, 3].map(number => uuid(1000 + number)))
})

test('clusters are told in one order, with what is known of their end and their connection', async () => {
  const { calls, double, clock } = await open([])
  double.fixture.clusters.unshift(
    { id: uuid(9), name: 'old', createdMs: 1, deletedMs: 5 },
    { id: uuid(8), name: 'lost', createdMs: 1, lostMs: clock.nowMs - 1 },
  )
  expect(await readClusters(calls, live)).toEqual([
    { id: uuid(1), name: 'gpu-1', createdMs: 0 },
    { id: uuid(8), name: 'lost', createdMs: 1, lost: { sinceMs: clock.nowMs - 1 } },
    { id: uuid(9), name: 'old', createdMs: 1, deletedMs: 5 },
  ])
})
