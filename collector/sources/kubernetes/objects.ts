/**
 * What is picked of the objects of the Kubernetes API: plain values that can be kept as JSON, and nothing secret (no
 * environment, no command, of labels and annotations only those that are named). Quantities keep their text. Pure.
 */
import { Fault } from '../../../schemas/fault.ts'
import { isJsonArray, isJsonObject, type Json, JsonNumber, type JsonObject } from '../../../schemas/json.ts'
import { instantMs } from '../../../schemas/window.ts'

export type Texts = Readonly<Record<string, string>>

/** What every object has. */
export interface Meta {
  /** The only key: a name comes back with another object behind it. */
  readonly uid: string
  readonly name: string
  /** Empty for what lies in no namespace. */
  readonly namespace: string
  readonly resourceVersion: string
  readonly createdMs?: number
  /** When it shall be gone at the latest: while it terminates, this lies ahead by its grace. */
  readonly deletionMs?: number
  readonly deletionGraceSeconds?: number
  readonly labels: Texts
  readonly annotations: Texts
}

/** The texts of quantities by the name of the resource: `cpu`, `memory`, `nvidia.com/gpu`. */
export interface Resources {
  readonly requests?: Texts
  readonly limits?: Texts
}

export interface Container {
  readonly name: string
  /** An init container that goes on beside the others: restartPolicy Always. */
  readonly sidecar?: true
  /** As the pod asks for. */
  readonly wanted: Resources
  /** What the kubelet has set aside for it. */
  readonly allocated?: Texts
  /** What it runs with. */
  readonly actual?: Resources
  readonly runningSinceMs?: number
  readonly startedMs?: number
  readonly finishedMs?: number
  /** Of its run before the last restart. */
  readonly finishedBeforeMs?: number
}

export interface Pod extends Meta {
  readonly nodeName?: string
  readonly hostNetwork?: true
  readonly priorityClass?: string
  /** Its controller. */
  readonly owner?: { readonly kind: string; readonly name: string }
  /** Pending | Running | Succeeded | Failed | Unknown. */
  readonly phase?: string
  /** Condition PodScheduled True. */
  readonly scheduledMs?: number
  /** When the kubelet took it. */
  readonly startMs?: number
  /** A resize that was asked for will never be granted (PodResizePending, Infeasible). */
  readonly resizeInfeasible?: true
  readonly containers: readonly Container[]
  readonly initContainers: readonly Container[]
  readonly overhead?: Texts
  /** For the pod as a whole. */
  readonly wanted?: Resources
  readonly allocated?: Texts
  readonly actual?: Resources
  /** Names of its ResourceClaims, in its namespace: those it asks for and that exist. */
  readonly claims: readonly string[]
  /** The claim that stands behind requests such as nvidia.com/gpu, and which of its requests serve which of them. */
  readonly extendedClaim?: {
    readonly claim: string
    readonly serves: readonly { readonly request: string; readonly resource: string }[]
  }
  /** What claims take of the node's cpu and memory. */
  readonly claimedResources: readonly ClaimedResource[]
}

export interface ClaimedResource {
  readonly resource: string
  readonly quantity: string
  /** How many times it counts. */
  readonly times: number
}

export interface Node extends Meta {
  readonly ready?: boolean
}

export type Namespace = Meta

export interface ResourceClaim extends Meta {
  readonly devices: readonly AllocatedDevice[]
  /** The pods that may use it now; uids. */
  readonly reservedFor: readonly string[]
}

export interface AllocatedDevice {
  /** `main`, or `main/sub` where one of several alternatives was taken. */
  readonly request: string
  readonly driver: string
  readonly pool: string
  readonly device: string
  /** For watching, not for use. */
  readonly adminAccess?: true
  /** There where others hold shares of the same device. */
  readonly shareId?: string
  readonly consumedCapacity?: Texts
}

export interface ResourceSlice extends Meta {
  readonly driver: string
  readonly pool: string
  /** Slices of an older generation of their pool do not count. */
  readonly generation: number
  readonly devices: readonly Device[]
}

export interface Device {
  readonly name: string
  /** Texts alone, by name without the driver's domain. */
  readonly attributes: Texts
  readonly capacity: Texts
}

export interface VolumeClaim extends Meta {
  /** Pending | Bound | Lost. */
  readonly phase?: string
  readonly storageClass?: string
  readonly volumeName?: string
  /** What it has, which may be more than it asked for. */
  readonly capacity?: string
}

export interface Volume extends Meta {
  /** Pending | Available | Bound | Released | Failed. */
  readonly phase?: string
  readonly phaseSinceMs?: number
  readonly storageClass?: string
  readonly capacity?: string
  readonly reclaimPolicy?: string
  /** Whose it is, or was. */
  readonly claim?: { readonly namespace: string; readonly name: string; readonly uid?: string }
}

/** A Kubernetes Service; what it balances is in its type. */
export interface Service extends Meta {
  readonly type: string
  readonly loadBalancerClass?: string
  /** It has an address now. */
  readonly hasAddress?: true
}

/** Which labels and annotations are wanted of each kind; all others are left where they are. */
export interface Wanted {
  readonly podLabels: ReadonlySet<string>
  readonly podAnnotations: ReadonlySet<string>
  readonly namespaceLabels: ReadonlySet<string>
  readonly namespaceAnnotations: ReadonlySet<string>
  readonly nodeLabel: (name: string) => boolean
}

/** @throws Fault ITEM_UNREADABLE naming the path, as all of these */
export function podOf(json: Json, wanted: Wanted): Pod {
  const at = new Place('pod', json)
  const spec = at.object('spec')
  const status = at.optional('status')
  const conditions = status.list('conditions')
  const scheduled = conditions.find(each => each.text('type') === 'PodScheduled')
  const resize = conditions.find(each => each.text('type') === 'PodResizePending')
  const statuses = new Map(
    // Names are unique over both lists, and the plain ones come first where they are not.
    [...status.list('initContainerStatuses'), ...status.list('containerStatuses')].map(each => [
      each.text('name') ?? '',
      each,
    ]),
  )
  const containers = spec.list('containers').map(each => containerOf(each, statuses))
  const initContainers = spec.list('initContainers').map(each => containerOf(each, statuses))
  const resources = spec.optional('resources')
  const actual = status.optional('resources')
  const owner = at
    .optional('metadata')
    .list('ownerReferences')
    .find(each => each.flag('controller'))
  const extended = status.optional('extendedResourceClaimStatus')
  const extendedName = extended.text('resourceClaimName')
  return {
    ...metaOf(
      at,
      name => wanted.podLabels.has(name),
      name => wanted.podAnnotations.has(name),
    ),
    ...known({
      nodeName: spec.text('nodeName'),
      hostNetwork: spec.flag('hostNetwork'),
      priorityClass: spec.text('priorityClassName'),
      owner: owner && { kind: owner.text('kind') ?? '', name: owner.text('name') ?? '' },
      phase: status.text('phase'),
      scheduledMs: scheduled?.text('status') === 'True' ? scheduled.instant('lastTransitionTime') : undefined,
      startMs: status.instant('startTime'),
      resizeInfeasible: resize?.text('reason') === 'Infeasible' || undefined,
      overhead: spec.texts('overhead'),
      wanted: resources.there ? resourcesOf(resources) : undefined,
      allocated: status.texts('allocatedResources'),
      actual: actual.there ? resourcesOf(actual) : undefined,
      extendedClaim:
        extendedName === undefined
          ? undefined
          : {
              claim: extendedName,
              serves: extended.list('requestMappings').map(each => ({
                request: each.need('requestName'),
                resource: each.need('resourceName'),
              })),
            },
    }),
    containers,
    initContainers,
    claims: claimsOf(spec, status),
    claimedResources: status.list('nodeAllocatableResourceClaimStatuses').flatMap(claimedResourcesOf),
  }
}

function containerOf(spec: Place, statuses: ReadonlyMap<string, Place>): Container {
  const name = spec.need('name')
  const status = statuses.get(name)
  const actual = status?.optional('resources')
  const state = status?.optional('state')
  const running = state?.optional('running')
  const terminated = state?.optional('terminated')
  const before = status?.optional('lastState').optional('terminated')
  return {
    name,
    wanted: resourcesOf(spec.optional('resources')),
    ...known({
      sidecar: spec.text('restartPolicy') === 'Always' || undefined,
      allocated: status?.texts('allocatedResources'),
      actual: actual?.there ? resourcesOf(actual) : undefined,
      runningSinceMs: running?.instant('startedAt'),
      startedMs: terminated?.instant('startedAt'),
      finishedMs: terminated?.instant('finishedAt'),
      finishedBeforeMs: before?.instant('finishedAt'),
    }),
  }
}

/** The names under which the claims of the pod really exist: one made from a template is told in the status alone. */
function claimsOf(spec: Place, status: Place): readonly string[] {
  const made = new Map(
    status
      .list('resourceClaimStatuses')
      .map(each => [each.need('name'), each.text('resourceClaimName')] as const),
  )
  const names = spec
    .list('resourceClaims')
    .map(each => made.get(each.need('name')) ?? each.text('resourceClaimName'))
  return [...new Set(names.filter(name => name !== undefined))]
}

function claimedResourcesOf(status: Place): readonly ClaimedResource[] {
  const containers = status.count('containers')
  const whole = status.list('mapping').flatMap(each => {
    const quantity = each.quantity('quantity')
    return quantity === undefined ? [] : [{ resource: each.need('name'), quantity, times: 1 }]
  })
  const over = status.list('overhead').flatMap(each => {
    const [perPod, perContainer] = [each.quantity('perPod'), each.quantity('perContainer')]
    const resource = each.need('name')
    return [
      ...(perPod === undefined ? [] : [{ resource, quantity: perPod, times: 1 }]),
      ...(perContainer === undefined || containers === 0
        ? []
        : [{ resource, quantity: perContainer, times: containers }]),
    ]
  })
  return [...whole, ...over]
}

function resourcesOf(at: Place): Resources {
  return known({ requests: at.texts('requests'), limits: at.texts('limits') })
}

export function nodeOf(json: Json, wanted: Wanted): Node {
  const at = new Place('node', json)
  const ready = at
    .optional('status')
    .list('conditions')
    .find(each => each.text('type') === 'Ready')
  return {
    ...metaOf(at, wanted.nodeLabel, nothing),
    ...known({ ready: ready && ready.text('status') === 'True' }),
  }
}

export function namespaceOf(json: Json, wanted: Wanted): Namespace {
  return metaOf(
    new Place('namespace', json),
    name => wanted.namespaceLabels.has(name),
    name => wanted.namespaceAnnotations.has(name),
  )
}

export function claimOf(json: Json): ResourceClaim {
  const at = new Place('resource claim', json)
  const status = at.optional('status')
  return {
    ...metaOf(at, nothing, nothing),
    devices: status
      .optional('allocation')
      .optional('devices')
      .list('results')
      .map(each => ({
        request: each.need('request'),
        driver: each.need('driver'),
        pool: each.need('pool'),
        device: each.need('device'),
        ...known({
          adminAccess: each.flag('adminAccess'),
          shareId: each.text('shareID'),
          consumedCapacity: each.texts('consumedCapacity'),
        }),
      })),
    reservedFor: status
      .list('reservedFor')
      .filter(each => each.text('resource') === 'pods' && (each.text('apiGroup') ?? '') === '')
      .map(each => each.need('uid')),
  }
}

export function sliceOf(json: Json): ResourceSlice {
  const at = new Place('resource slice', json)
  const spec = at.object('spec')
  const driver = spec.need('driver')
  const pool = spec.object('pool')
  const plain = (name: string) => (name.startsWith(`${driver}/`) ? name.slice(driver.length + 1) : name)
  return {
    ...metaOf(at, nothing, nothing),
    driver,
    pool: pool.need('name'),
    generation: pool.whole('generation') ?? 0,
    devices: spec.list('devices').map(each => {
      // v1beta1 of the API has them one deeper.
      const facts = each.optional('basic').there ? each.optional('basic') : each
      const attributes: Record<string, string> = {}
      for (const [name, value] of facts.optional('attributes').entries()) {
        const text = value.text('string')
        if (text !== undefined) attributes[plain(name)] = text
      }
      const capacity: Record<string, string> = {}
      for (const [name, value] of facts.optional('capacity').entries())
        capacity[plain(name)] = value.quantity('value') ?? ''
      return { name: each.need('name'), attributes, capacity }
    }),
  }
}

export function volumeClaimOf(json: Json, wanted: Wanted): VolumeClaim {
  const at = new Place('volume claim', json)
  const spec = at.object('spec')
  const status = at.optional('status')
  return {
    ...metaOf(
      at,
      name => wanted.podLabels.has(name),
      name => wanted.podAnnotations.has(name),
    ),
    ...known({
      phase: status.text('phase'),
      storageClass: spec.text('storageClassName'),
      volumeName: spec.text('volumeName') || undefined,
      capacity: status.optional('capacity').quantity('storage'),
    }),
  }
}

export function volumeOf(json: Json): Volume {
  const at = new Place('volume', json)
  const spec = at.object('spec')
  const status = at.optional('status')
  const claim = spec.optional('claimRef')
  return {
    ...metaOf(at, nothing, nothing),
    ...known({
      phase: status.text('phase'),
      phaseSinceMs: status.instant('lastPhaseTransitionTime'),
      storageClass: spec.text('storageClassName'),
      capacity: spec.optional('capacity').quantity('storage'),
      reclaimPolicy: spec.text('persistentVolumeReclaimPolicy'),
      claim: claim.there
        ? {
            namespace: claim.text('namespace') ?? '',
            name: claim.text('name') ?? '',
            ...known({ uid: claim.text('uid') }),
          }
        : undefined,
    }),
  }
}

export function serviceOf(json: Json, wanted: Wanted): Service {
  const at = new Place('service', json)
  const spec = at.object('spec')
  const addresses = at.optional('status').optional('loadBalancer').count('ingress')
  return {
    ...metaOf(
      at,
      name => wanted.podLabels.has(name),
      name => wanted.podAnnotations.has(name),
    ),
    type: spec.text('type') ?? 'ClusterIP',
    ...known({
      loadBalancerClass: spec.text('loadBalancerClass'),
      hasAddress: addresses > 0 || undefined,
    }),
  }
}

const nothing = () => false

function metaOf(at: Place, label: (name: string) => boolean, annotation: (name: string) => boolean): Meta {
  const meta = at.object('metadata')
  return {
    uid: meta.need('uid'),
    name: meta.need('name'),
    namespace: meta.text('namespace') ?? '',
    resourceVersion: meta.text('resourceVersion') ?? '',
    ...known({
      createdMs: meta.instant('creationTimestamp'),
      deletionMs: meta.instant('deletionTimestamp'),
      deletionGraceSeconds: meta.whole('deletionGracePeriodSeconds'),
    }),
    labels: meta.named('labels', label),
    annotations: meta.named('annotations', annotation),
  }
}

/** Without the fields that are not known: JSON has no undefined. */
function known<Fields extends object>(
  fields: Fields,
): { [Name in keyof Fields]?: Exclude<Fields[Name], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [Name in keyof Fields]?: Exclude<Fields[Name], undefined>
  }
}

/** A place in an object, which knows its path. What is absent or null reads as empty; what has another shape throws. */
class Place {
  readonly #root: Place | undefined
  readonly #path: string
  readonly #kind: string
  readonly #value: JsonObject | undefined

  constructor(kind: string, value: Json | undefined, path = '', root?: Place) {
    this.#kind = kind
    this.#path = path
    this.#root = root
    if (value !== undefined && value !== null && !isJsonObject(value)) throw this.#unfit('', value)
    this.#value = value ?? undefined
    if (!root && !this.#value) throw this.#unfit('', value)
  }

  get there(): boolean {
    return this.#value !== undefined
  }

  object(name: string): Place {
    const inner = this.optional(name)
    if (!inner.there) throw this.#unfit(name, undefined)
    return inner
  }

  optional(name: string): Place {
    return new Place(this.#kind, this.#value?.[name], `${this.#path}/${name}`, this.#root ?? this)
  }

  entries(): readonly (readonly [string, Place])[] {
    return Object.keys(this.#value ?? {}).map(name => [name, this.optional(name)])
  }

  list(name: string): readonly Place[] {
    const value = this.#value?.[name] ?? []
    if (!isJsonArray(value)) throw this.#unfit(name, value)
    return value.map(
      (each, index) => new Place(this.#kind, each, `${this.#path}/${name}/${index}`, this.#root ?? this),
    )
  }

  /** How many entries a list has, whatever they are. */
  count(name: string): number {
    const value = this.#value?.[name] ?? []
    if (!isJsonArray(value)) throw this.#unfit(name, value)
    return value.length
  }

  text(name: string): string | undefined {
    const value = this.#value?.[name] ?? undefined
    if (value !== undefined && typeof value !== 'string') throw this.#unfit(name, value)
    return value
  }

  need(name: string): string {
    const text = this.text(name)
    if (text === undefined || text === '') throw this.#unfit(name, this.#value?.[name])
    return text
  }

  flag(name: string): true | undefined {
    const value = this.#value?.[name] ?? false
    if (typeof value !== 'boolean') throw this.#unfit(name, value)
    return value || undefined
  }

  whole(name: string): number | undefined {
    const value = this.#value?.[name] ?? undefined
    if (value === undefined) return undefined
    if (!(value instanceof JsonNumber) || !/^-?\d{1,15}$/.test(value.text)) throw this.#unfit(name, value)
    return Number(value.text)
  }

  instant(name: string): number | undefined {
    const text = this.text(name)
    if (text === undefined) return undefined
    const ms = instantMs(text)
    if (ms === undefined) throw this.#unfit(name, text)
    return ms
  }

  /** The API writes quantities as texts; a number is one too. */
  quantity(name: string): string | undefined {
    const value = this.#value?.[name] ?? undefined
    if (value instanceof JsonNumber) return value.text
    return this.text(name)
  }

  /** A map of quantities; undefined where there is none, which an empty one is not. */
  texts(name: string): Texts | undefined {
    const inner = this.optional(name)
    if (!inner.there) return undefined
    return Object.fromEntries(Object.keys(inner.#value ?? {}).map(each => [each, inner.quantity(each) ?? '']))
  }

  named(name: string, isWanted: (name: string) => boolean): Texts {
    const inner = this.optional(name)
    const names = Object.keys(inner.#value ?? {}).filter(isWanted)
    return Object.fromEntries(names.map(each => [each, inner.text(each) ?? '']))
  }

  #unfit(name: string, value: Json | undefined): Fault {
    const path = name === '' ? this.#path || '/' : `${this.#path}/${name}`
    const what =
      value === undefined || value === null
        ? 'is missing'
        : value === ''
          ? 'is empty'
          : `is ${value instanceof JsonNumber ? 'a number' : isJsonArray(value) ? 'a list' : typeof value === 'object' ? 'an object' : `a ${typeof value} that cannot be read`}`
    // Of the object itself only what names it: a fault is shown and logged.
    const meta = (this.#root ?? this).#value?.metadata
    const nameOf = (field: string) => {
      const text = isJsonObject(meta) ? meta[field] : undefined
      return typeof text === 'string' ? text : undefined
    }
    const [namespace, own] = [nameOf('namespace'), nameOf('name')]
    return new Fault(
      'ITEM_UNREADABLE',
      `${this.#kind} ${namespace === undefined ? '' : `${namespace}/`}${own ?? '?'}: ${path} ${what}`,
      { subject: namespace, [this.#kind.replace(' ', '_')]: own, uid: nameOf('uid'), path },
    )
  }
}
