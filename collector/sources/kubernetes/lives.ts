/**
 * All that was seen of a cluster, in memory and in the state of the source: the objects there are, the lives of those that
 * are billed, and how far the watch of each resource has come. What was seen and how far that is are kept in one write, so
 * they never tell different stories.
 */
import { Fault } from '../../../schemas/fault.ts'
import { isJsonArray, isJsonObject, type JsonObject } from '../../../schemas/json.ts'
import { dayMs, hourMs, instantMs, overlaps, secondMs, type Window } from '../../../schemas/window.ts'
import type { SourceContext } from '../../source.ts'
import type { WatchEvent } from './api.ts'
import { claimGpus, devicesOf, splitAmong } from './claims.ts'
import {
  advance,
  asFaultText,
  askedToGoMs,
  changeAt,
  ended,
  forgotten,
  goneAt,
  isIn,
  type Life,
  rateText,
  type Says,
  type SharesOf,
  type Sight,
  spansOf,
} from './intervals.ts'
import { isBalancing } from './load-balancers.ts'
import {
  claimOf,
  type Meta,
  namespaceOf,
  nodeOf,
  type Pod,
  podOf,
  type ResourceClaim,
  type ResourceSlice,
  type Service,
  serviceOf,
  sliceOf,
  type Volume,
  type VolumeClaim,
  volumeClaimOf,
  volumeOf,
  type Wanted,
} from './objects.ts'
import { type PodRules, podGoneAt, podSays } from './pods.ts'
import { heldByClaim, keptByVolume } from './storage.ts'
import { type TenantRules, tenantOf } from './tenant.ts'

export const resourceNames = [
  'nodes',
  'namespaces',
  'resourceslices',
  'resourceclaims',
  'pods',
  'persistentvolumes',
  'persistentvolumeclaims',
  'services',
] as const
export type ResourceName = (typeof resourceNames)[number]
/** A part of the cluster that is billed by time, and a scope. */
export type Part = 'pods' | 'volumes' | 'services'

const partOf: Readonly<Partial<Record<ResourceName, Part>>> = {
  pods: 'pods',
  persistentvolumes: 'volumes',
  persistentvolumeclaims: 'volumes',
  services: 'services',
}

/** How far the watch of a resource has come. */
export interface Position {
  /** Empty where a new list is needed. */
  readonly resourceVersion: string
  /** Since when all was seen, but for `blind` spans. */
  readonly beganMs: number
  /** Until when. */
  readonly observedMs: number
  /** There was no such API. */
  readonly absent?: true
}

export type LivesRules = PodRules &
  TenantRules & {
    readonly wanted: Wanted
    readonly retentionMs: number
    /** Told of each pod that is gone. */
    readonly gone?: (pod: Pod) => void
  }

/** An object that exists, as far as it is picked. */
interface Entry {
  readonly object: Meta
  readonly life?: Life
  /** Where its life is kept that ended though the object stays. */
  readonly closedKey?: string
  /** Of a pod: its node, with the labels it had when the pod began. */
  readonly node?: Meta
  /** It is gone since; kept so that what it says of others is not forgotten. */
  readonly goneMs?: number
}

/** An object as it came, reduced to what is kept. */
export interface Picked {
  readonly uid: string
  readonly object: Meta
  /** Why nothing more of it could be read than what it is called. */
  readonly fault?: string
  readonly changedMs?: number
}

/** What a window holds of one resource. */
export interface LifeItem {
  readonly of: Part
  readonly life: Life
  readonly sharesOf: SharesOf
  readonly doubt?: string
}

/** Nodes and namespaces are remembered after they are gone: what was on them may be told later. */
const goneKeptMs = 7 * dayMs
/** Lives are kept by how long they were, so that a window finds its own without looking at all that came after. */
const lengths = [hourMs, dayMs, Number.POSITIVE_INFINITY] as const

export type Lives = ReturnType<typeof openLives>

export function openLives(state: SourceContext['state'], rules: LivesRules) {
  let positions = new Map<ResourceName, Position>()
  let objects = new Map<ResourceName, Map<string, Entry>>()
  let byName = new Map<string, string>()
  let slices: ReturnType<typeof devicesOf> | undefined
  let changes = new Map<string, string | undefined>()
  let prunedMs = 0
  /** Of claims that are gone since this process began: their volumes are told of later. */
  const claimEnds = new Map<string, number>()
  const known = (resource: ResourceName) => objects.get(resource)!
  const nameKey = (resource: ResourceName, namespace: string, name: string) =>
    `${resource} ${namespace}/${name}`
  load()

  function load(): void {
    positions = new Map()
    objects = new Map(resourceNames.map(resource => [resource, new Map()]))
    byName = new Map()
    slices = undefined
    changes = new Map()
    for (const resource of resourceNames) {
      const at = state.get(`at/${resource}`)
      if (at !== undefined) positions.set(resource, JSON.parse(at) as Position)
      for (const [key, value] of state.range(`object/${resource}/`, `object/${resource}0`))
        hold(resource, key.slice(key.lastIndexOf('/') + 1), JSON.parse(value) as Entry)
    }
  }

  function hold(resource: ResourceName, uid: string, entry: Entry | undefined): void {
    const before = known(resource).get(uid)
    if (before) {
      const key = nameKey(resource, before.object.namespace, before.object.name)
      if (byName.get(key) === uid) byName.delete(key)
    }
    if (entry) {
      known(resource).set(uid, entry)
      const key = nameKey(resource, entry.object.namespace, entry.object.name)
      // A node that is gone does not hide the one that has its name now.
      const other = byName.get(key)
      if (entry.goneMs === undefined || other === undefined) byName.set(key, uid)
    } else known(resource).delete(uid)
    if (resource === 'resourceslices') slices = undefined
  }

  function keep(resource: ResourceName, uid: string, entry: Entry | undefined): void {
    hold(resource, uid, entry)
    changes.set(`object/${resource}/${uid}`, entry && JSON.stringify(entry))
  }

  function find<Object extends Meta>(resource: ResourceName, namespace: string, name: string) {
    const uid = byName.get(nameKey(resource, namespace, name))
    return uid === undefined ? undefined : (known(resource).get(uid)?.object as Object | undefined)
  }

  /** Everything since the last call, or nothing: then it is as it was at the last call. */
  function commit(resource: ResourceName, position: Position): void {
    positions.set(resource, position)
    changes.set(`at/${resource}`, JSON.stringify(position))
    try {
      state.write(changes)
    } catch (error) {
      load()
      throw error
    }
    changes = new Map()
  }

  function closedKeyOf(part: Part, life: Life & { readonly endMs: number }): string {
    const length = lengths.findIndex(most => life.endMs - life.startMs <= most)
    return `closed/${part}/${length}/${instantKey(life.endMs)}/${life.uid}`
  }

  /** Takes what an object became, and keeps its life elsewhere once that is over. */
  function store(
    resource: ResourceName,
    uid: string,
    entry: Entry | undefined,
    over: Life | undefined,
  ): void {
    const part = partOf[resource]
    const before = known(resource).get(uid)?.closedKey
    let closedKey: string | undefined
    if (part && over?.endMs !== undefined && over.endMs > over.startMs) {
      const kept = { ...over, endMs: over.endMs }
      closedKey = closedKeyOf(part, kept)
      changes.set(closedKey, JSON.stringify(kept))
    }
    if (before !== undefined && over && before !== closedKey) changes.set(before, undefined)
    if (!entry) {
      keep(resource, uid, undefined)
      return
    }
    const { closedKey: _, ...rest } = entry
    keep(resource, uid, closedKey === undefined ? rest : { ...rest, closedKey })
  }

  const claims = {
    claim: (namespace: string, name: string) => find<ResourceClaim>('resourceclaims', namespace, name),
    device: (allocated: Parameters<ReturnType<typeof devicesOf>>[0]) => {
      slices ??= devicesOf([...known('resourceslices').values()].map(({ object }) => object as ResourceSlice))
      return slices(allocated)
    },
  }

  function podOfEntry(before: Entry | undefined, pod: Pod, sight: Sight, fault?: string): Entry {
    const here = pod.nodeName === undefined ? undefined : find<Meta>('nodes', '', pod.nodeName)
    const node = before?.life ? filledIn(before.node, here) : here
    const says = podSays(
      pod,
      {
        ...(node && { node }),
        tenant: () => tenant('pod', pod),
        claimed: () => claimGpus(pod, claims, rules),
      },
      rules,
      sight,
    )
    const life = advance(before?.life, pod.uid, fault === undefined ? says : { ...says, fault }, sight)
    return { object: pod, ...(node && { node }), ...(life && { life }) }
  }

  function tenant(kind: string, object: Pick<Meta, 'name' | 'namespace' | 'labels' | 'annotations'>) {
    const namespace = find('namespaces', '', object.namespace)
    if (!namespace && rules.tenant.some(({ from }) => from.startsWith('namespace-'))) return undefined
    return tenantOf({ ...object, kind }, namespace, rules)
  }

  function held(
    of: { readonly kind: string; readonly object: Meta; readonly namespace: string },
    before: Life | undefined,
    sight: Sight,
    hold: () =>
      | { readonly rates: Says['rates']; readonly labels: Says['labels']; readonly sinceMs?: number }
      | undefined,
  ): Life | undefined {
    const { kind, object, namespace } = of
    const common = { kind, name: object.name, namespace, labels: { namespace } }
    const change = changeAt(sight)
    const start = (sinceMs: number | undefined) =>
      before
        ? { startMs: before.startMs }
        : sinceMs !== undefined
          ? { startMs: sinceMs }
          : { startMs: change.ms, ...(change.guessed && { startGuessed: change.guessed }) }
    try {
      const now = hold()
      if (!now) return advance(before, object.uid, { ...common, rates: {} }, sight)
      const subject = tenant(kind, { ...object, namespace })
      const labels = { ...common.labels, ...now.labels }
      return advance(
        before,
        object.uid,
        {
          ...common,
          labels,
          rates: now.rates,
          ...start(now.sinceMs),
          ...(subject !== undefined && { subject }),
        },
        sight,
      )
    } catch (error) {
      return advance(
        before,
        object.uid,
        { ...common, rates: {}, fault: asFaultText(error), ...start(undefined) },
        sight,
      )
    }
  }

  function classLabel(storageClass: string | undefined) {
    return storageClass === undefined ? {} : { storage_class: storageClass }
  }

  function picked(resource: ResourceName, json: JsonObject): Picked {
    const uid = uidOf(json)
    try {
      return { uid, object: pick(resource, json), ...changedOf(json) }
    } catch (error) {
      return { uid, object: bare(uid, json), fault: asFaultText(error), ...changedOf(json) }
    }
  }

  function see(resource: ResourceName, seen: Picked, sight: Sight): void {
    const { uid, fault } = seen
    const before = known(resource).get(uid)
    const object = fault === undefined ? seen.object : (before?.object ?? seen.object)
    const entry = entryOf(resource, before, object, sight, fault)
    const life = entry.life
    store(resource, uid, entry, life?.endMs === undefined ? undefined : life)
    if (life?.endMs === undefined && before?.closedKey !== undefined) changes.set(before.closedKey, undefined)
    touch(resource, before?.object, object, sight)
  }

  function entryOf(
    resource: ResourceName,
    before: Entry | undefined,
    object: Meta,
    sight: Sight,
    fault?: string,
  ): Entry {
    const life = lifeOf()
    return resource === 'pods'
      ? podOfEntry(before, object as Pod, sight, fault)
      : { object, ...(life && { life }) }

    function lifeOf(): Life | undefined {
      const unfit = () => {
        if (fault !== undefined) throw new Fault('ITEM_UNREADABLE', fault)
      }
      if (resource === 'persistentvolumeclaims') {
        const claim = object as VolumeClaim
        return held(
          { kind: 'volume_claim', object, namespace: object.namespace },
          before?.life,
          sight,
          () => {
            unfit()
            const volume = find<Volume>('persistentvolumes', '', claim.volumeName ?? '')
            const now = heldByClaim(claim, volume)
            return (
              now && {
                rates: { storage_byte_seconds: rateText(now.bytes) },
                labels: {
                  ...classLabel(now.storageClass),
                  ...(claim.volumeName !== undefined && { volume: claim.volumeName }),
                },
                ...(now.sinceMs !== undefined && { sinceMs: now.sinceMs }),
              }
            )
          },
        )
      }
      if (resource === 'persistentvolumes') {
        const volume = object as Volume
        const namespace = volume.claim?.namespace ?? ''
        return held({ kind: 'volume', object, namespace }, before?.life, sight, () => {
          unfit()
          const now = keptByVolume(volume)
          return (
            now && {
              rates: { storage_byte_seconds: rateText(now.bytes) },
              labels: { ...classLabel(now.storageClass), volume: volume.name },
              // Its claim was billed until then.
              ...(now.sinceMs !== undefined && {
                sinceMs: Math.max(now.sinceMs, claimEnds.get(now.claimUid ?? '') ?? 0),
              }),
            }
          )
        })
      }
      if (resource === 'services') {
        const service = object as Service
        const was = before?.life?.pieces.at(-1)?.rates.load_balancer_seconds !== undefined
        return held(
          { kind: 'load_balancer', object, namespace: object.namespace },
          before?.life,
          sight,
          () => {
            unfit()
            return isBalancing(service, was)
              ? {
                  rates: { load_balancer_seconds: '1' },
                  labels: service.loadBalancerClass ? { load_balancer_class: service.loadBalancerClass } : {},
                }
              : undefined
          },
        )
      }
      return undefined
    }
  }

  function pick(resource: ResourceName, json: JsonObject): Meta {
    const { wanted } = rules
    switch (resource) {
      case 'pods':
        return podOf(json, wanted)
      case 'nodes':
        return nodeOf(json, wanted)
      case 'namespaces':
        return namespaceOf(json, wanted)
      case 'resourceclaims':
        return claimOf(json)
      case 'resourceslices':
        return sliceOf(json)
      case 'persistentvolumeclaims':
        return volumeClaimOf(json, wanted)
      case 'persistentvolumes':
        return volumeOf(json)
      case 'services':
        return serviceOf(json, wanted)
    }
  }

  /** What others become by what this one says of them. */
  function touch(resource: ResourceName, before: Meta | undefined, now: Meta, sight: Sight): void {
    const { changedMs, ...plain } = sight
    const again = (of: ResourceName, matches: (entry: Entry) => boolean) => {
      for (const [uid, entry] of known(of))
        if (entry.goneMs === undefined && entry.life?.endMs === undefined && matches(entry)) {
          const next = entryOf(of, entry, entry.object, {
            ...plain,
            ...(changedMs !== undefined && { changedMs }),
          })
          // An end is told by the object itself.
          if (next.life?.endMs === undefined && JSON.stringify(next) !== JSON.stringify(entry))
            keep(of, uid, next)
        }
    }
    if (resource === 'nodes') {
      if (before && JSON.stringify(before.labels) === JSON.stringify(now.labels)) return
      again('pods', ({ object, life }) => life !== undefined && (object as Pod).nodeName === now.name)
    } else if (resource === 'resourceclaims') {
      const names = (pod: Pod) => pod.claims.includes(now.name) || pod.extendedClaim?.claim === now.name
      again('pods', ({ object }) => object.namespace === now.namespace && names(object as Pod))
    } else if (resource === 'resourceslices')
      again('pods', ({ life }) => life?.pieces.at(-1)?.fault !== undefined)
    else if (resource === 'namespaces') {
      const texts = (of: Meta) => JSON.stringify([of.labels, of.annotations])
      if (before && texts(before) === texts(now)) return
      // Whose something is stays as it was, unless nobody knew.
      const isOpen = ({ subject, pieces }: Life) =>
        subject === undefined || pieces.at(-1)?.fault !== undefined
      for (const kind of ['pods', 'persistentvolumeclaims', 'persistentvolumes', 'services'] as const)
        again(kind, ({ life }) => life !== undefined && life.namespace === now.name && isOpen(life))
    }
  }

  function gone(resource: ResourceName, uid: string, last: Meta | undefined, sight: Sight): void {
    const entry = known(resource).get(uid)
    if (!entry) return
    const object = last ?? entry.object
    if (resource === 'nodes' || resource === 'namespaces') {
      keep(resource, uid, { ...entry, object, goneMs: sight.atMs })
      return
    }
    if (resource === 'pods') rules.gone?.(object as Pod)
    const { life } = entry
    if (!life || life.endMs !== undefined) {
      store(resource, uid, undefined, undefined)
      return
    }
    const end =
      resource === 'pods'
        ? podGoneAt(object as Pod, sight)
        : (releasedAt(resource, object) ?? goneAt(askedToGoMs(object), sight))
    const over = ended(life, end)
    if (resource === 'persistentvolumeclaims' && over.endMs !== undefined) claimEnds.set(uid, over.endMs)
    store(resource, uid, undefined, over)
  }

  /** Where its volume says since when it is released, that is when the claim ended. */
  function releasedAt(resource: ResourceName, object: Meta): { readonly ms: number } | undefined {
    if (resource !== 'persistentvolumeclaims') return undefined
    const volume = find<Volume>('persistentvolumes', '', (object as VolumeClaim).volumeName ?? '')
    return volume?.phase === 'Released' &&
      volume.claim?.uid === object.uid &&
      volume.phaseSinceMs !== undefined
      ? { ms: volume.phaseSinceMs }
      : undefined
  }

  function prune(nowMs: number): void {
    if (nowMs < prunedMs + hourMs) return
    prunedMs = nowMs
    for (const [uid, endMs] of claimEnds) if (endMs < nowMs - dayMs) claimEnds.delete(uid)
    const beforeMs = nowMs - rules.retentionMs - 2 * dayMs
    const drop = (prefix: string) => {
      for (const [key] of state.range(`${prefix}/`, `${prefix}/${instantKey(beforeMs)}`))
        changes.set(key, undefined)
    }
    for (const part of ['pods', 'volumes', 'services'])
      for (const length of lengths.keys()) drop(`closed/${part}/${length}`)
    for (const resource of resourceNames) drop(`blind/${resource}`)
    for (const resource of ['nodes', 'namespaces'] as const)
      for (const [uid, { goneMs }] of [...known(resource)])
        if (goneMs !== undefined && goneMs < nowMs - goneKeptMs) keep(resource, uid, undefined)
    for (const resource of resourceNames)
      for (const [uid, entry] of known(resource)) {
        const life = entry.life && forgotten(entry.life, beforeMs)
        if (life !== entry.life && life) keep(resource, uid, { ...entry, life })
      }
  }

  /** Spans of the window in which something may have begun and gone without a trace, in words. */
  function blindIn(resource: ResourceName, window: Window): readonly string[] {
    const spans: string[] = []
    for (const [key] of state.range(
      `blind/${resource}/${instantKey(window.startMs + 1)}`,
      `blind/${resource}/~`,
    )) {
      const [, , end = '', start = ''] = key.split('/')
      const span = { startMs: Number(start), endMs: Number(end) }
      if (overlaps(span, window))
        spans.push(
          `${resource} were not seen from ${showTime(span.startMs)} to ${showTime(span.endMs)}, and the history of the API server had gone: what began and ended in between is missing`,
        )
    }
    return spans
  }

  return {
    position: (resource: ResourceName): Position | undefined => positions.get(resource),

    /** What is kept of an object until its list is whole. */
    picked,

    /** All there is, as of one version that is no older than `startedMs`: what is missing is gone. */
    listed(
      resource: ResourceName,
      items: Iterable<Picked>,
      list: { readonly resourceVersion: string; readonly startedMs: number; readonly atMs: number },
    ): void {
      const before = positions.get(resource)
      const startedMs = wholeSecond(list.startedMs)
      const sureMs = before?.observedMs ?? 0
      const sight = { atMs: wholeSecond(list.atMs), how: 'listed', sureMs } as const
      const seen = new Set<string>()
      for (const item of items) {
        seen.add(item.uid)
        see(resource, item, { ...sight, ...changeOf(item) })
      }
      for (const [uid, entry] of [...known(resource)])
        if (!seen.has(uid) && entry.goneMs === undefined) gone(resource, uid, undefined, sight)
      if (before && !before.absent && startedMs > sureMs)
        changes.set(`blind/${resource}/${instantKey(list.atMs)}/${instantKey(sureMs)}`, '')
      prune(list.atMs)
      commit(resource, {
        resourceVersion: list.resourceVersion,
        beganMs: before?.beganMs ?? list.startedMs,
        observedMs: Math.max(list.startedMs, sureMs),
      })
    },

    /** The next of what happened, in its order. `live`: the watch has caught up with what was missed. */
    happened(
      resource: ResourceName,
      events: readonly WatchEvent[],
      at: { readonly atMs: number; readonly how: 'live' | 'replayed' },
    ): void {
      const position = positions.get(resource)!
      let { observedMs } = position
      let sureMs = observedMs
      const atMs = wholeSecond(at.atMs)
      for (const { type, object } of events) {
        if (type === 'BOOKMARK') {
          observedMs = Math.max(observedMs, at.atMs)
          continue
        }
        const item = picked(resource, object)
        const changed = changeOf(item)
        const sight: Sight = { atMs, how: at.how, sureMs, ...changed }
        if (type === 'DELETED') {
          // A pod that was bound and deleted between two events is told by its last state alone.
          if (!known(resource).has(item.uid)) see(resource, item, sight)
          gone(resource, item.uid, item.fault === undefined ? item.object : undefined, sight)
        } else see(resource, item, sight)
        // Events come in their order, so what one tells of its time tells that all before was seen until then.
        if (changed.changedMs !== undefined && at.how === 'replayed' && type !== 'DELETED')
          sureMs = Math.max(sureMs, Math.min(changed.changedMs, atMs))
        if (at.how === 'live') observedMs = Math.max(observedMs, at.atMs)
        else observedMs = Math.max(observedMs, sureMs)
      }
      prune(at.atMs)
      commit(resource, { ...position, resourceVersion: events.at(-1)!.resourceVersion, observedMs })
    },

    /** This API server has no such thing. */
    absent(resource: ResourceName, atMs: number): void {
      commit(resource, {
        resourceVersion: '',
        beganMs: positions.get(resource)?.beganMs ?? atMs,
        observedMs: atMs,
        absent: true,
      })
    },

    /** The watch has been up until now, and nothing else happened. */
    observed(resource: ResourceName, atMs: number): void {
      const position = positions.get(resource)
      if (position && atMs > position.observedMs) commit(resource, { ...position, observedMs: atMs })
    },

    /** The version reached is of no use any more. */
    expire(resource: ResourceName): void {
      const position = positions.get(resource)
      if (position) commit(resource, { ...position, resourceVersion: '' })
    },

    /** Every life that lies in the window at least in part. */
    *read(part: Part, window: Window): Generator<LifeItem> {
      const found: Life[] = []
      for (const resource of resourceNames)
        if (partOf[resource] === part)
          for (const { life } of known(resource).values())
            if (life && life.endMs === undefined && isIn(life, window)) found.push(life)
      for (const [length, mostMs] of lengths.entries()) {
        const prefix = `closed/${part}/${length}/`
        const before = Number.isFinite(mostMs) ? instantKey(window.endMs + mostMs + 1) : '~'
        for (const [, value] of state.range(
          `${prefix}${instantKey(window.startMs + 1)}`,
          `${prefix}${before}`,
        )) {
          const life = JSON.parse(value) as Life
          if (isIn(life, window)) found.push(life)
        }
      }
      const sharesOf = sharedBy(found)
      const blind = resourceNames.flatMap(resource =>
        partOf[resource] === part ? blindIn(resource, window) : [],
      )
      found.sort((a, b) => (a.uid < b.uid ? -1 : 1))
      // Said once a window: it is about the window, not about each of its readings.
      let doubt = blind.length > 0 ? blind.join('; ') : undefined
      for (const life of found) {
        const says = doubt !== undefined && isReadable(life, window) ? doubt : undefined
        yield { of: part, life, sharesOf, ...(says !== undefined && { doubt: says }) }
        if (says !== undefined) doubt = undefined
      }
    },

    pod: (uid: string): Pod | undefined => known('pods').get(uid)?.object as Pod | undefined,
    podNamed: (namespace: string, name: string): Pod | undefined => find<Pod>('pods', namespace, name),
    nodes: function* (): Generator<Meta> {
      for (const { object, goneMs } of known('nodes').values()) if (goneMs === undefined) yield object
    },
    tenant,
  }
}

function isReadable(life: Life, window: Window): boolean {
  const inside = spansOf(life).filter(({ span }) => overlaps(span, window))
  return (
    inside.every(({ piece }) => piece.fault === undefined) &&
    inside.some(({ piece }) => Object.keys(piece.rates).length > 0)
  )
}

/** Splits each claim among the lives that hold it. */
function sharedBy(lives: readonly Life[]): SharesOf {
  const holders = new Map<string, { uid: string; startMs: number; endMs: number }[]>()
  for (const life of lives)
    for (const { piece, span } of spansOf(life))
      for (const { claim } of piece.shared ?? []) {
        const of = holders.get(claim) ?? []
        of.push({ uid: life.uid, ...span })
        holders.set(claim, of)
      }
  const shares = new Map([...holders].map(([claim, of]) => [claim, splitAmong(of)]))
  return claim => shares.get(claim) ?? []
}

/** What was not known when it began is filled in when it is; what was known stays. */
function filledIn(before: Meta | undefined, now: Meta | undefined): Meta | undefined {
  if (!before || !now) return before ?? now
  const labels = { ...now.labels, ...before.labels }
  return Object.keys(labels).length === Object.keys(before.labels).length ? before : { ...before, labels }
}

function uidOf(json: JsonObject): string {
  const uid = isJsonObject(json.metadata) ? json.metadata.uid : undefined
  if (typeof uid === 'string' && uid !== '' && !uid.includes('/')) return uid
  throw new Fault('BODY_UNREADABLE', 'an object of the API server has no uid')
}

/** What names an object of which nothing else can be read. */
function bare(uid: string, json: JsonObject): Pod {
  const metadata = isJsonObject(json.metadata) ? json.metadata : {}
  const text = (name: string) => (typeof metadata[name] === 'string' ? metadata[name] : '')
  const createdMs = instantMs(text('creationTimestamp'))
  return {
    uid,
    name: text('name') || uid,
    namespace: text('namespace'),
    resourceVersion: text('resourceVersion'),
    labels: {},
    annotations: {},
    containers: [],
    initContainers: [],
    claims: [],
    claimedResources: [],
    // Nobody knows since when it held what: at most since then.
    ...(createdMs !== undefined && { createdMs, scheduledMs: createdMs, startMs: createdMs }),
  } as Pod
}

/** The API server's own time of the last change: the latest of managedFields, in whole seconds. */
function changedOf(json: JsonObject): { readonly changedMs?: number } {
  const metadata = isJsonObject(json.metadata) ? json.metadata : {}
  const fields = isJsonArray(metadata.managedFields) ? metadata.managedFields : []
  let changedMs: number | undefined
  for (const each of fields) {
    const time = isJsonObject(each) && typeof each.time === 'string' ? instantMs(each.time) : undefined
    if (time !== undefined && time > (changedMs ?? 0)) changedMs = time
  }
  return changedMs === undefined ? {} : { changedMs }
}

function changeOf({ changedMs }: Picked): { readonly changedMs?: number } {
  return changedMs === undefined ? {} : { changedMs }
}

function wholeSecond(ms: number): number {
  return Math.floor(ms / secondMs) * secondMs
}

/** Orders as the instant does. */
function instantKey(ms: number): string {
  return String(Math.max(0, Math.floor(ms))).padStart(15, '0')
}

function showTime(ms: number): string {
  return new Date(ms).toISOString().replace('.000Z', 'Z')
}
