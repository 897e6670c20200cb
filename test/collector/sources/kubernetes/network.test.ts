/** The traffic of pods from samples: whatever the times of the samples, the totals are those of the counters. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { openNetwork, type PodOwner, trafficUsage } from '../../../../collector/sources/kubernetes/network.ts'
import { passingState, type SourceState } from '../../../../runtime/log/source-state.ts'
import { Fault } from '../../../../schemas/fault.ts'
import { hourMs, minuteMs, secondMs, type Window } from '../../../../schemas/window.ts'
import { faultOf } from '../../../faults.ts'

const live = new AbortController().signal
const began = Date.UTC(2026, 1, 12, 8)
const window = (hours: number): Window => ({
  startMs: began + hours * hourMs,
  endMs: began + (hours + 1) * hourMs,
})
const uidOf = (index: number) => `00000000-0000-4000-8000-${String(index).padStart(12, '0')}`

interface Counter {
  readonly uid: string
  readonly sandbox?: string
  readonly receive: number
  readonly transmit?: number
  readonly netInterface?: string
  readonly atMs?: number
}

/** Nodes whose answers and clock a test sets, with a sampler over them that can be opened anew. */
function cluster({
  widthMinutes = 60,
  state = passingState(),
}: {
  widthMinutes?: number
  state?: SourceState
} = {}) {
  const world = {
    nowMs: began,
    nodes: new Map<string, readonly Counter[] | 'down'>([['n1', []]]),
    owners: new Map<string, PodOwner>(),
    state,
  }
  const pod = (index: number, more: Partial<PodOwner> = {}): string => {
    const uid = uidOf(index)
    world.owners.set(uid, {
      uid,
      name: `p${index}`,
      subject: 'team',
      labels: { namespace: 'team' },
      createdMs: world.nowMs,
      hostNetwork: false,
      ...more,
    })
    return uid
  }
  const open = (width = widthMinutes) =>
    openNetwork(
      { widthMinutes: width, sampleSeconds: 60, retentionMs: 48 * hourMs },
      { state: world.state, nowMs: () => world.nowMs },
      {
        nodes: () => world.nodes.keys(),
        scrape: async node => {
          const counters = world.nodes.get(node)
          if (counters === undefined || counters === 'down')
            throw new Fault('SOURCE_UNREACHABLE', `${node} does not answer`)
          return text(counters)
        },
        pod: uid => world.owners.get(uid),
        podNamed: (namespace, name) =>
          [...world.owners.values()].find(each => each.name === name && each.subject === namespace),
      },
    )
  return { world, pod, open, network: open() }
}

function text(counters: readonly Counter[]): string {
  const lines = counters.flatMap(
    ({ uid, sandbox = 's', receive, transmit = 0, netInterface = 'eth0', atMs }) =>
      [
        ['receive', receive],
        ['transmit', transmit],
      ].map(
        ([direction, value]) =>
          `container_network_${direction}_bytes_total{container="",id="/kubepods/pod${uid}/${sandbox}",image="pause",interface="${netInterface}",name="${sandbox}",namespace="team",pod="p"} ${value}${atMs === undefined ? '' : ` ${atMs}`}`,
      ),
  )
  return `${['container_network_receive_bytes_total{id="/",interface="eth0",namespace="",pod=""} 5', ...lines].join('\n')}\n`
}

type Sampled = ReturnType<typeof cluster>
const received = ({ network }: Pick<Sampled, 'network'>, at: Window) =>
  Object.fromEntries([...network.read(at)].map(each => [each.owner.name, each.bytes.receive]))

async function sampleAt(each: Sampled, minutes: number, counters: readonly Counter[]): Promise<void> {
  each.world.nowMs = began + minutes * minuteMs
  each.world.nodes.set('n1', counters)
  await each.network.sample(live)
}

describe('what a pod received', () => {
  test('lies in the window of the sample that shows it, over all of its interfaces', async () => {
    const each = cluster()
    await sampleAt(each, 0, [])
    const uid = each.pod(1)
    await sampleAt(each, 59, [
      { uid, receive: 100 },
      { uid, receive: 7, netInterface: 'net1' },
    ])
    await sampleAt(each, 61, [
      { uid, receive: 130 },
      { uid, receive: 7, netInterface: 'net1' },
    ])
    await sampleAt(each, 120, [
      { uid, receive: 150 },
      { uid, receive: 8, netInterface: 'net1' },
    ])
    await sampleAt(each, 180, [])
    expect(received(each, window(0))).toEqual({ p1: '107' })
    expect(received(each, window(1))).toEqual({ p1: '30' })
    expect(received(each, window(2))).toEqual({ p1: '21' })
  })

  test('is told as a usage of the pod, with both directions', async () => {
    const each = cluster()
    await sampleAt(each, 0, [])
    const uid = each.pod(1)
    await sampleAt(each, 10, [{ uid, receive: 100, transmit: 3 }])
    await sampleAt(each, 60, [{ uid, receive: 100, transmit: 3 }])
    expect([...each.network.read(window(0))].map(trafficUsage)).toEqual([
      {
        thing: 'network',
        subject: 'team',
        resource: { kind: 'pod', id: uid, name: 'p1' },
        measures: { network_receive_bytes: '100', network_transmit_bytes: '3' },
        labels: { namespace: 'team' },
      },
    ])
  })

  test('goes by the time of the sample, which a node takes from its own clock', async () => {
    const each = cluster()
    await sampleAt(each, 0, [])
    const uid = each.pod(1)
    await sampleAt(each, 30, [])
    await sampleAt(each, 60.2, [{ uid, receive: 100, atMs: began + 59.9 * minuteMs }])
    await sampleAt(each, 120, [{ uid, receive: 100, atMs: began + 59.9 * minuteMs }])
    expect(received(each, window(0))).toEqual({ p1: '100' })
    expect(received(each, window(1))).toEqual({})
  })

  test('goes into no window that may have been read, whatever the clock of the node says', async () => {
    const each = cluster()
    await sampleAt(each, 0, [])
    const uid = each.pod(1)
    await sampleAt(each, 60, [])
    expect(received(each, window(0))).toEqual({})
    await sampleAt(each, 61, [{ uid, receive: 100, atMs: began + 5 * minuteMs }])
    await sampleAt(each, 120, [{ uid, receive: 150, atMs: began + 999 * minuteMs }])
    await sampleAt(each, 180, [{ uid, receive: 175, atMs: began + 7 * minuteMs }])
    await sampleAt(each, 181, [{ uid, receive: 176, atMs: began + 8 * minuteMs }])
    expect(received(each, window(0))).toEqual({})
    expect(received(each, window(1))).toEqual({ p1: '100' })
    expect(received(each, window(2))).toEqual({ p1: '75' })
    await sampleAt(each, 240, [{ uid, receive: 176, atMs: began + 8 * minuteMs }])
    expect(received(each, window(3))).toEqual({ p1: '1' })
  })

  test('is counted from zero again by a new sandbox, and by a counter that fell', async () => {
    const each = cluster()
    await sampleAt(each, 0, [])
    const uid = each.pod(1)
    await sampleAt(each, 1, [{ uid, receive: 100 }])
    await sampleAt(each, 2, [{ uid, sandbox: 'new', receive: 40 }])
    await sampleAt(each, 3, [{ uid, sandbox: 'new', receive: 10 }])
    await sampleAt(each, 60, [])
    expect(received(each, window(0))).toEqual({ p1: '150' })
  })

  test('before anybody looked is not known, and not counted', async () => {
    const each = cluster()
    const old = each.pod(1, { createdMs: began - hourMs })
    const young = each.pod(2, { createdMs: began + minuteMs })
    await sampleAt(each, 0, [{ uid: old, receive: 1_000_000 }])
    each.world.nodes.set('n2', [{ uid: young, receive: 50 }])
    await sampleAt(each, 5, [{ uid: old, receive: 1_000_010 }])
    await sampleAt(each, 60, [{ uid: old, receive: 1_000_010 }])
    expect(received(each, window(0))).toEqual({ p1: '10', p2: '50' })
  })

  test('by a pod that is not known yet is told when it is, and no more than since anybody looked', async () => {
    const each = cluster()
    const [old, young] = [uidOf(1), uidOf(2)]
    await sampleAt(each, 0, [{ uid: old, receive: 1000 }])
    await sampleAt(each, 1, [
      { uid: old, receive: 1100 },
      { uid: young, receive: 5 },
    ])
    each.pod(1, { createdMs: began - hourMs })
    each.pod(2, { createdMs: began + 30 * secondMs })
    await sampleAt(each, 2, [
      { uid: old, receive: 1200 },
      { uid: young, receive: 6 },
    ])
    await sampleAt(each, 60, [])
    expect(received(each, window(0))).toEqual({ p1: '200', p2: '6' })
  })

  test('by a new pod that was not known when its node was first looked at is told whole', async () => {
    const each = cluster()
    await sampleAt(each, 0, [])
    each.world.nowMs = began + minuteMs
    each.world.nodes.set('n2', [{ uid: uidOf(1), receive: 500 }])
    await each.network.sample(live)
    each.pod(1)
    each.world.nodes.set('n2', [{ uid: uidOf(1), receive: 600 }])
    await sampleAt(each, 2, [])
    await sampleAt(each, 60, [])
    expect(received(each, window(0))).toEqual({ p1: '600' })
  })

  test('is counted once where a line is told twice', async () => {
    const each = cluster()
    await sampleAt(each, 0, [])
    const uid = each.pod(1)
    await sampleAt(each, 1, [
      { uid, receive: 10 },
      { uid, receive: 10 },
    ])
    await sampleAt(each, 60, [])
    expect(received(each, window(0))).toEqual({ p1: '10' })
  })

  test('by a pod in the network of its node is that of the node, and left out', async () => {
    const each = cluster()
    await sampleAt(each, 0, [])
    const uid = each.pod(1, { hostNetwork: true })
    await sampleAt(each, 1, [{ uid, receive: 1_000_000 }])
    await sampleAt(each, 60, [])
    expect(received(each, window(0))).toEqual({})
  })

  test('by a static pod, whose id at the node is another, goes to the pod of its name', async () => {
    const each = cluster()
    await sampleAt(each, 0, [])
    each.world.owners.set('mirror', {
      uid: 'mirror',
      name: 'p',
      subject: 'team',
      labels: {},
      createdMs: began,
      hostNetwork: false,
    })
    await sampleAt(each, 1, [{ uid: 'b8a1f2c3d4e5f60718293a4b5c6d7e8f', receive: 9 }])
    // Another id that could be one of the API is another pod of the same name, and not known.
    await sampleAt(each, 2, [{ uid: uidOf(9), receive: 1000 }])
    await sampleAt(each, 60, [])
    expect(received(each, window(0))).toEqual({ p: '9' })
  })

  test('is exact beyond what a float holds of a sum', async () => {
    const each = cluster()
    await sampleAt(each, 0, [])
    const [a, b] = [each.pod(1), each.pod(1)]
    expect(a).toBe(b)
    await sampleAt(each, 1, [
      { uid: a, receive: 9007199254740991 },
      { uid: a, receive: 9007199254740990, netInterface: 'net1' },
    ])
    await sampleAt(each, 60, [])
    expect(received(each, window(0))).toEqual({ p1: '18014398509481981' })
  })
})

describe('what is not known', () => {
  test('is a window before the first sample, or not sampled past its end, or behind what is kept', async () => {
    const each = cluster()
    expect(faultOf(() => [...each.network.read(window(0))]).message).toMatch(/no node was sampled yet/)
    expect(each.network.sinceMs()).toBeUndefined()
    await sampleAt(each, 1, [])
    expect(each.network.sinceMs()).toBe(began + hourMs)
    await sampleAt(each, 61, [])
    expect(faultOf(() => [...each.network.read(window(0))])).toMatchObject({ code: 'WINDOW_UNKNOWABLE' })
    await sampleAt(each, 119, [])
    expect(faultOf(() => [...each.network.read(window(1))]).message).toMatch(/before it was over/)
    await sampleAt(each, 120, [])
    expect([...each.network.read(window(1))]).toEqual([])
    each.world.nowMs = began + 60 * hourMs
    expect(faultOf(() => [...each.network.read(window(1))]).message).toMatch(/behind what is kept/)
  })

  test('is a window in which nobody looked at all: what came then is in the one after, as an estimate', async () => {
    const each = cluster()
    await sampleAt(each, 0, [])
    const uid = each.pod(1)
    await sampleAt(each, 30, [{ uid, receive: 10 }])
    await sampleAt(each, 200, [{ uid, receive: 500, atMs: began + 179 * minuteMs }])
    await sampleAt(each, 240, [{ uid, receive: 501 }])
    await sampleAt(each, 300, [{ uid, receive: 501 }])
    expect(received(each, window(0))).toEqual({ p1: '10' })
    for (const hours of [1, 2])
      expect(faultOf(() => [...each.network.read(window(hours))])).toMatchObject({
        code: 'WINDOW_UNKNOWABLE',
      })
    expect([...each.network.read(window(3))]).toMatchObject([{ bytes: { receive: '490' }, late: true }])
    expect([...each.network.read(window(4))]).toMatchObject([{ bytes: { receive: '1' }, late: false }])
  })

  test('is the traffic of a node that does not answer, until it does; the others go on', async () => {
    const each = cluster()
    const [far, near] = [each.pod(1), each.pod(2)]
    each.world.nodes.set('n2', [])
    await sampleAt(each, 0, [])
    each.world.nodes.set('n2', 'down')
    await sampleAt(each, 60, [{ uid: near, receive: 5 }])
    expect(each.network.problem()).toMatch(/^network of node n2: n2 does not answer/)
    await sampleAt(each, 120, [{ uid: near, receive: 6 }])
    each.world.nodes.set('n2', [{ uid: far, receive: 77 }])
    await sampleAt(each, 121, [{ uid: near, receive: 6 }])
    expect(each.network.problem()).toBeUndefined()
    await sampleAt(each, 180, [])
    expect(received(each, window(1))).toEqual({ p2: '5' })
    expect([...each.network.read(window(2))]).toMatchObject([
      { owner: { name: 'p2' }, late: false },
      { owner: { name: 'p1' }, bytes: { receive: '77' }, late: true },
    ])
  })

  test('is no window in which the last look before an outage fell', async () => {
    const each = cluster()
    await sampleAt(each, 0, [])
    const uid = each.pod(1)
    // The round begins in one window, and its answer comes in the next.
    each.world.nodes.set('n1', [{ uid, receive: 5 }])
    each.world.nowMs = began + hourMs - 100
    const round = each.network.sample(live)
    each.world.nowMs = began + hourMs + 100
    await round
    await sampleAt(each, 150, [{ uid, receive: 5 }])
    await sampleAt(each, 180, [])
    expect(received(each, window(1))).toEqual({ p1: '5' })
  })

  test('is a window in which no node answered, as if nobody had looked', async () => {
    const each = cluster()
    await sampleAt(each, 0, [])
    const uid = each.pod(1)
    each.world.nodes.set('n1', 'down')
    for (const minutes of [61, 121, 179]) {
      each.world.nowMs = began + minutes * minuteMs
      await each.network.sample(live)
    }
    expect(faultOf(() => [...each.network.read(window(1))]).message).toMatch(
      /last sampled at 2026-02-12T08:00:00Z/,
    )
    await sampleAt(each, 181, [{ uid, receive: 5 }])
    await sampleAt(each, 240, [])
    for (const hours of [1, 2])
      expect(faultOf(() => [...each.network.read(window(hours))]).message).toMatch(/no node was sampled from/)
    expect([...each.network.read(window(3))]).toMatchObject([{ bytes: { receive: '5' }, late: true }])
  })

  test('is a window that was sampled for wider ones', async () => {
    const each = cluster()
    const uid = each.pod(1)
    await sampleAt(each, 0, [])
    await sampleAt(each, 10, [{ uid, receive: 5 }])
    await sampleAt(each, 60, [])
    const quarter = (index: number) => ({
      startMs: began + index * 15 * minuteMs,
      endMs: began + (index + 1) * 15 * minuteMs,
    })
    const narrow = each.open(15)
    for (const index of [0, 1, 3])
      expect(faultOf(() => [...narrow.read(quarter(index))]).message).toMatch(/wider/)
  })
})

test('nothing of what is kept stays beyond the retention but how far counters are', async () => {
  const state = passingState()
  const each = cluster({ state })
  const uid = each.pod(1)
  await sampleAt(each, 0, [])
  await sampleAt(each, 10, [{ uid, receive: 5 }])
  await sampleAt(each, 150 * 60, [])
  await sampleAt(each, 300 * 60, [])
  expect([...state.range('network/', 'network0')].map(([key]) => key)).toEqual([
    'network/began',
    expect.stringMatching(/^network\/gap\//),
    'network/node/n1',
    'network/round',
  ])
})

test('whatever is sampled when, through nodes that fail, resets and restarts: the totals are those of the counters', async () => {
  const step = fc.record({
    /** Until the next sample. */
    seconds: fc.integer({ min: 1, max: 4000 }),
    /** What each pod receives before it, by pod. */
    bytes: fc.array(fc.nat(1_000_000), { minLength: 3, maxLength: 3 }),
    /** Pods that get a new sandbox before it receives. */
    renewed: fc.subarray([0, 1, 2]),
    isDown: fc.boolean(),
    isRestarted: fc.boolean(),
    width: fc.constantFrom(5, 15, 60),
  })
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(5, 15, 60),
      fc.array(step, { minLength: 1, maxLength: 25 }),
      async (width, steps) => {
        const each = cluster({ widthMinutes: width })
        await each.network.sample(live)
        const uids = [0, 1, 2].map(index => each.pod(index))
        const counters = uids.map(uid => ({ uid, sandbox: 0, receive: 0 }))
        const shown = () => counters.map(({ sandbox, ...rest }) => ({ ...rest, sandbox: `s${sandbox}` }))
        // What a sandbox received after its last sample, before another took its place, nobody can know.
        const ledger = [0, 0, 0]
        const sampled = [0, 0, 0]
        for (const { seconds, bytes, renewed, isDown, isRestarted } of steps) {
          each.world.nowMs += seconds * secondMs
          for (const index of renewed) {
            counters[index] = { uid: uids[index]!, sandbox: counters[index]!.sandbox + 1, receive: 0 }
            sampled[index] = 0
          }
          bytes.forEach((more, index) => {
            counters[index]!.receive += more
          })
          if (isRestarted) each.network = each.open()
          each.world.nodes.set('n1', isDown ? 'down' : shown())
          await each.network.sample(live)
          if (!isDown)
            counters.forEach(({ receive }, index) => {
              ledger[index]! += receive - sampled[index]!
              sampled[index] = receive
            })
        }
        each.world.nowMs += hourMs
        each.world.nodes.set('n1', shown())
        await each.network.sample(live)
        counters.forEach(({ receive }, index) => {
          ledger[index]! += receive - sampled[index]!
        })
        // And once more, so that the window of the last sample is over.
        each.world.nowMs += hourMs
        await each.network.sample(live)

        const sums = [0, 0, 0]
        for (
          let startMs = began;
          startMs + width * minuteMs <= each.world.nowMs;
          startMs += width * minuteMs
        ) {
          const at = { startMs, endMs: startMs + width * minuteMs }
          let items: readonly { readonly pod: string; readonly bytes: { readonly receive: string } }[]
          try {
            items = [...each.network.read(at)]
            expect([...each.network.read(at)]).toEqual(items)
          } catch (error) {
            // Only a window in which nobody looked.
            expect(error).toMatchObject({ code: 'WINDOW_UNKNOWABLE' })
            expect((error as Fault).message).toMatch(/no node was sampled from/)
            continue
          }
          for (const { pod, bytes } of items) sums[uids.indexOf(pod)]! += Number(bytes.receive)
        }
        expect(sums).toEqual(ledger)
      },
    ),
    { numRuns: 60 },
  )
})

test('few nodes are asked at once, and all of them in each round', async () => {
  let [underWay, most] = [0, 0]
  const asked: string[] = []
  const nodes = Array.from({ length: 25 }, (_, index) => `n${index}`)
  const network = openNetwork(
    { widthMinutes: 60, sampleSeconds: 60, retentionMs: hourMs },
    { state: passingState(), nowMs: () => began },
    {
      nodes: () => nodes,
      scrape: async node => {
        asked.push(node)
        underWay += 1
        most = Math.max(most, underWay)
        await new Promise(resolve => setImmediate(resolve))
        underWay -= 1
        if (node === 'n3') throw new Fault('SOURCE_BUSY', 'later')
        return text([])
      },
      pod: () => undefined,
      podNamed: () => undefined,
    },
  )
  await network.sample(live)
  expect(asked).toEqual(nodes)
  expect(most).toBe(4)
  expect(network.problem()).toBe('network of node n3: later')
})

test('a watch samples at each multiple of its interval, tells what it could not keep, and ends with the signal', async () => {
  const each = cluster()
  const stop = new AbortController()
  const problems: (string | undefined)[] = []
  const full: SourceState = {
    ...each.world.state,
    write(changes) {
      problems.push(network.problem())
      if (problems.length === 1) throw new Fault('OUTBOX_FULL', 'the disk is full')
      each.world.state.write(changes)
      if (problems.length > 4) stop.abort()
    },
  }
  let nowMs = began
  const network = openNetwork(
    { widthMinutes: 60, sampleSeconds: 1, retentionMs: hourMs },
    {
      state: full,
      // A hair before each multiple, so that the test waits little.
      nowMs: () => {
        nowMs += 1000
        return nowMs - 5
      },
    },
    { nodes: () => [], scrape: async () => '', pod: () => undefined, podNamed: () => undefined },
  )
  await network.watch(stop.signal)
  expect(problems).toEqual([
    undefined,
    'network: the disk is full',
    'network: the disk is full',
    undefined,
    undefined,
  ])
})
