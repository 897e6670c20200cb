/**
 * The traffic of pods: samples cAdvisor of each node while the watch runs, keeps how far each counter was and what it
 * grew by, and answers windows from that. Where to ask, and which pod is whose, it is given.
 */
import { setTimeout as sleepFor } from 'node:timers/promises'
import Fraction from 'fraction.js'
import { exact, show, showQuantity } from '../../../schemas/decimal.ts'
import type { Usage } from '../../../schemas/event.ts'
import { asFault, Fault } from '../../../schemas/fault.ts'
import { minuteMs, showInstant, showWindow, type Window } from '../../../schemas/window.ts'
import { counterGrowth } from '../../samples.ts'
import type { SourceContext } from '../../source.ts'
import { type Direction, type NetworkSample, networkSamples } from './cadvisor.ts'
import type { Texts } from './objects.ts'

export interface NetworkOptions {
  readonly widthMinutes: number
  readonly sampleSeconds: number
  readonly retentionMs: number
}

/** What is said of a pod that is seen on a node. */
export interface PodOwner {
  readonly uid: string
  readonly name: string
  readonly subject: string
  readonly labels: Texts
  readonly createdMs: number
  /** It uses the network of its node: its counters are those of the node (cadvisor#2615). */
  readonly hostNetwork: boolean
}

export interface Around {
  /** All nodes there are now; asked only when they have been listed. */
  readonly nodes: () => Iterable<string>
  /** The text of `/api/v1/nodes/<node>/proxy/metrics/cadvisor`. */
  readonly scrape: (node: string, signal: AbortSignal) => Promise<string>
  /** Also of a pod that has ended lately; undefined while it is not known. */
  readonly pod: (uid: string) => PodOwner | undefined
  readonly podNamed: (namespace: string, name: string) => PodOwner | undefined
}

/** How much one pod received and sent in a window, and whether some of it may be of before. */
export interface Traffic {
  readonly pod: string
  readonly owner: KeptOwner
  readonly bytes: Readonly<Record<Direction, string>>
  readonly late: boolean
}

type KeptOwner = Pick<PodOwner, 'name' | 'subject' | 'labels'>

/** How far a counter was when it was last sampled. */
interface Seen {
  readonly value: string
  /** By the clock of the node, so that the same sample told twice is known. */
  readonly atMs: number
  /** By ours: a series that is gone for a day is forgotten. */
  readonly sampledMs: number
  /** It was there when its node was first looked at, and its pod was not known yet. */
  readonly unknown?: true
}
interface NodeSeen {
  readonly scrapedMs: number
  readonly series: Readonly<Record<string, Seen>>
}
interface Bucket {
  readonly endMs: number
  readonly pods: Readonly<Record<string, Readonly<Record<Direction, string>> & { readonly late?: true }>>
}

const beganKey = 'network/began'
const roundKey = 'network/round'
const nodeKey = (node: string) => `network/node/${node}`
const podKey = (uid: string) => `network/pod/${uid}`
const padded = (ms: number) => String(Math.max(ms, 0)).padStart(15, '0')
const bucketsFrom = (ms: number) => `network/in/${padded(ms)}/`
const startOfBucket = (key: string) => Number(key.split('/')[2])
const gapKey = (fromMs: number) => `network/gap/${padded(fromMs)}`
const lanes = 4
const seriesKeptMs = 24 * 60 * minuteMs

export type Network = ReturnType<typeof openNetwork>

/**
 * What a counter grew by belongs to the window in which the sample lies that shows it; so the totals do not depend on
 * how often is sampled, but for what a pod sends after its last sample. A node that does not answer loses nothing: its
 * next sample tells all since the one before, marked as an estimate where that is longer than a window.
 */
export function openNetwork(
  options: NetworkOptions,
  { state, nowMs }: Pick<SourceContext, 'state' | 'nowMs'>,
  around: Around,
) {
  const { sampleSeconds, retentionMs } = options
  const widthMs = options.widthMinutes * minuteMs
  const failing = new Map<string, Fault>()
  /** Why a round could not be kept. */
  let unsaved: Fault | undefined

  const numberAt = (key: string): number | undefined => {
    const text = state.get(key)
    return text === undefined ? undefined : Number(text)
  }
  const floorMs = (ms: number) => Math.floor(ms / widthMs) * widthMs

  /** Samples every node once. @throws Fault ABORTED, and what the state throws; a node that fails is a `problem`. */
  async function sample(signal: AbortSignal): Promise<void> {
    const startMs = nowMs()
    const beganMs = numberAt(beganKey) ?? startMs
    const lastMs = numberAt(roundKey)
    const lookedMs = lastMs === undefined ? startMs : startMs - lastMs > widthMs ? lastLookMs(lastMs) : lastMs
    const isGap = startMs - lookedMs > widthMs
    // Nothing goes into a window that may have been read, nor into one in which nobody looked.
    const sealedMs = floorMs(isGap ? startMs : (lastMs ?? startMs))
    const nodes = [...new Set(around.nodes())]
    state.write([
      [beganKey, String(beganMs)],
      ...(isGap ? [[gapKey(lookedMs), String(startMs)] as const] : []),
    ])
    // A kubelet answers megabytes: few of them are held at once.
    const waiting = nodes.values()
    const lane = async () => {
      for (const node of waiting) {
        let samples: readonly NetworkSample[]
        try {
          samples = networkSamples(await around.scrape(node, signal))
        } catch (error) {
          const fault = asFault(error, 'SOURCE_UNREACHABLE', { node })
          if (signal.aborted || fault.fate === 'halt') throw fault
          failing.set(node, fault)
          continue
        }
        take(node, samples, { sealedMs, beganMs })
        failing.delete(node)
      }
    }
    await Promise.all(Array.from({ length: lanes }, lane))
    for (const node of failing.keys()) if (!nodes.includes(node)) failing.delete(node)
    // Where none answered, nobody looked.
    if (nodes.length > 0 && failing.size === nodes.length) return
    // What ended before this round began is told in full now: no later sample goes into it.
    state.write([[roundKey, String(startMs)], ...forgotten(startMs, nodes)])
  }

  /** When the last sample of any node was taken, also in a round that was not finished. */
  function lastLookMs(roundMs: number): number {
    let ms = roundMs
    for (const [, text] of state.range('network/node/', 'network/node0'))
      ms = Math.max(ms, (JSON.parse(text) as NodeSeen).scrapedMs)
    return ms
  }

  /** One scrape of one node: what grew, and how far it is now, in one write. */
  function take(
    node: string,
    samples: readonly NetworkSample[],
    { sealedMs, beganMs }: { readonly sealedMs: number; readonly beganMs: number },
  ): void {
    const scrapedMs = nowMs()
    const text = state.get(nodeKey(node))
    const before = text === undefined ? undefined : (JSON.parse(text) as NodeSeen)
    const series: Record<string, Seen> = {}
    for (const [key, seen] of Object.entries(before?.series ?? {}))
      if (seen.sampledMs > scrapedMs - seriesKeptMs) series[key] = seen
    const buckets = new Map<number, Map<string, Record<Direction, Fraction> & { late?: true }>>()
    const owners = new Map<string, PodOwner>()
    const taken = new Set<string>()

    for (const { direction, series: name, value, atMs = scrapedMs, ...named } of samples) {
      const key = `${direction} ${name}`
      if (value === 'NaN' || taken.has(key)) continue
      taken.add(key)
      const last = before?.series[key]
      const owner = ownerOf(named)
      if (!owner) {
        // Its counter stays where it was, so that what it grew by is told when its pod is known.
        if (!before) series[key] = { value, atMs, sampledMs: scrapedMs, unknown: true }
        continue
      }
      if (owner.hostNetwork) continue
      if (last?.atMs === atMs && last.value === value && !last.unknown) {
        series[key] = { ...last, sampledMs: scrapedMs }
        continue
      }
      // A counter that was not there before began at zero, unless its pod began before anybody looked.
      const isNew = owner.createdMs >= beganMs
      const base = last?.unknown && isNew ? undefined : last
      // In the order of the scrapes, for the clock of a node may be set back.
      const { growth } = counterGrowth(
        [...(base ? [{ atMs: 0, value: base.value }] : []), { atMs: 1, value }],
        { startMs: 1, endMs: 2 },
        { firstSight: before || isNew ? 'zero' : 'first' },
      )
      series[key] = { value, atMs, sampledMs: scrapedMs }
      if (growth.equals(0)) continue
      const bucketMs = floorMs(Math.max(Math.min(atMs, scrapedMs), sealedMs))
      const pods = buckets.get(bucketMs) ?? new Map()
      const sums = pods.get(owner.uid) ?? { receive: new Fraction(0), transmit: new Fraction(0) }
      sums[direction] = sums[direction].add(growth)
      const sinceMs = last?.sampledMs ?? before?.scrapedMs
      if (sinceMs !== undefined && scrapedMs - sinceMs > widthMs) sums.late = true
      buckets.set(bucketMs, pods.set(owner.uid, sums))
      owners.set(owner.uid, owner)
    }

    const changes: [string, string][] = [[nodeKey(node), JSON.stringify({ scrapedMs, series })]]
    for (const [startMs, pods] of buckets) {
      const key = `${bucketsFrom(startMs)}${node}`
      changes.push([key, JSON.stringify(grown(state.get(key), startMs + widthMs, pods))])
    }
    for (const [uid, { name, subject, labels }] of owners) {
      const kept = state.get(podKey(uid))
      const forgetMs = kept === undefined ? 0 : (JSON.parse(kept) as { readonly forgetMs: number }).forgetMs
      // Written again only now and then: a pod lives through many windows.
      if (forgetMs < scrapedMs + retentionMs + widthMs)
        changes.push([
          podKey(uid),
          JSON.stringify({ name, subject, labels, forgetMs: scrapedMs + 2 * (retentionMs + widthMs) }),
        ])
    }
    state.write(changes)
  }

  function ownerOf({ uid, namespace, pod }: Pick<NetworkSample, 'uid' | 'namespace' | 'pod'>) {
    const known = uid === undefined ? undefined : around.pod(uid)
    // The id of a static pod is the hash of its file, which has no dashes; of any other, another id is another pod.
    if (known || (uid?.includes('-') ?? false)) return known
    return pod === '' ? undefined : around.podNamed(namespace, pod)
  }

  /** What nobody asks for any more. */
  function forgotten(atMs: number, nodes: readonly string[]): readonly [string, undefined][] {
    const beforeMs = floorMs(atMs - retentionMs - widthMs)
    const gone: [string, undefined][] = []
    for (const [key] of state.range(bucketsFrom(0), bucketsFrom(beforeMs))) gone.push([key, undefined])
    if (gone.length === 0) return gone
    for (const [key] of state.range(gapKey(0), gapKey(beforeMs))) gone.push([key, undefined])
    for (const [key, text] of state.range('network/pod/', 'network/pod0'))
      if ((JSON.parse(text) as { readonly forgetMs: number }).forgetMs < atMs) gone.push([key, undefined])
    for (const [key, text] of state.range('network/node/', 'network/node0'))
      if (!nodes.some(node => nodeKey(node) === key) && (JSON.parse(text) as NodeSeen).scrapedMs < beforeMs)
        gone.push([key, undefined])
    return gone
  }

  return {
    sample,

    /** Samples at each multiple of the interval until the signal. @throws a Fault with fate `halt` alone */
    async watch(signal: AbortSignal): Promise<void> {
      const intervalMs = sampleSeconds * 1000
      while (!signal.aborted) {
        try {
          await sample(signal)
          unsaved = undefined
        } catch (error) {
          if (signal.aborted) return
          unsaved = asFault(error, 'INTERNAL')
          if (unsaved.fate === 'halt') throw unsaved
        }
        await sleepFor(intervalMs - (nowMs() % intervalMs), undefined, { signal }).catch(() => {})
      }
    },

    /** From when on its windows can be known: the first that began after the first round. */
    sinceMs(): number | undefined {
      const beganMs = numberAt(beganKey)
      return beganMs === undefined ? undefined : Math.ceil(beganMs / widthMs) * widthMs
    },

    /** @throws Fault WINDOW_UNKNOWABLE where not all of the window was sampled, or not yet */
    *read(window: Window): Generator<Traffic> {
      const beganMs = numberAt(beganKey)
      const roundMs = numberAt(roundKey)
      const unknowable = (why: string) =>
        new Fault('WINDOW_UNKNOWABLE', `${showWindow(window)}: ${why}`, { scope: 'network' })
      if (beganMs === undefined || roundMs === undefined) throw unknowable('no node was sampled yet')
      if (window.startMs < beganMs) throw unknowable(`nodes are sampled since ${showInstant(beganMs)} only`)
      if (window.endMs > roundMs)
        throw unknowable(`nodes were last sampled at ${showInstant(roundMs)}, before it was over`)
      if (window.startMs < floorMs(nowMs() - retentionMs))
        throw unknowable('it lies behind what is kept of samples')
      for (const [key, text] of state.range(gapKey(0), gapKey(window.startMs))) {
        const [fromMs, toMs] = [startOfBucket(key), Number(text)]
        if (toMs >= window.endMs)
          throw unknowable(
            `no node was sampled from ${showInstant(fromMs)} to ${showInstant(toMs)}: what is left of it is in the window after`,
          )
      }
      const traffic = new Map<string, Kept>()
      // Windows may have been wider when it was sampled.
      const widestMs = 60 * minuteMs
      for (const [key, text] of state.range(
        bucketsFrom(window.startMs - widestMs),
        bucketsFrom(window.endMs),
      )) {
        const { endMs, pods } = JSON.parse(text) as Bucket
        if (endMs <= window.startMs) continue
        if (endMs > window.endMs || startOfBucket(key) < window.startMs)
          throw unknowable('windows were wider when it was sampled')
        for (const [uid, bytes] of Object.entries(pods)) traffic.set(uid, both(traffic.get(uid), bytes))
      }
      for (const [pod, { receive, transmit, late }] of traffic) {
        const owner = state.get(podKey(pod))
        if (owner === undefined)
          throw new Fault('INTERNAL', `the traffic of pod ${pod} is kept, and not whose it is`)
        yield {
          pod,
          owner: JSON.parse(owner) as KeptOwner,
          bytes: { receive, transmit },
          late: late === true,
        }
      }
    },

    /** Which nodes do not answer. */
    problem(): string | undefined {
      if (unsaved) return `network: ${unsaved.message}`
      const [first] = failing
      if (!first) return undefined
      const [node, { message }] = first
      const others = failing.size - 1
      return `network of node ${node}${others > 0 ? ` and ${others} more` : ''}: ${message}`
    },
  }
}

export function trafficUsage({ pod, owner, bytes, late }: Traffic): Usage {
  const { name, subject, labels } = owner
  return {
    thing: 'network',
    subject,
    resource: { kind: 'pod', id: pod, name },
    measures: {
      network_receive_bytes: showQuantity(exact(bytes.receive)),
      network_transmit_bytes: showQuantity(exact(bytes.transmit)),
    },
    labels,
    ...(late && { estimated: true }),
  }
}

function grown(
  text: string | undefined,
  endMs: number,
  pods: ReadonlyMap<string, Readonly<Record<Direction, Fraction>> & { readonly late?: true }>,
): Bucket {
  const bucket = text === undefined ? { endMs, pods: {} } : (JSON.parse(text) as Bucket)
  const all = { ...bucket.pods }
  for (const [uid, { receive, transmit, late }] of pods)
    all[uid] = both(all[uid], {
      receive: show(receive),
      transmit: show(transmit),
      ...(late && { late }),
    })
  return { endMs: bucket.endMs, pods: all }
}

type Kept = Bucket['pods'][string]

function both(a: Kept | undefined, b: Kept): Kept {
  if (!a) return b
  const sum = (direction: Direction) => show(exact(a[direction]).add(exact(b[direction])))
  const late = a.late ?? b.late
  return { receive: sum('receive'), transmit: sum('transmit'), ...(late && { late }) }
}
