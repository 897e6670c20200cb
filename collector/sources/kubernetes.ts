/**
 * Kubernetes: the time of what is allocated in a cluster, to the second: pods with their cores, memory and GPUs, volumes,
 * load balancers, and the traffic of pods. Owns the options, which parts are watched, and when a window can be known; the
 * parts are beside this in kubernetes/.
 */
import Type, { type Static } from 'typebox'
import { Secret } from '../../schemas/config.ts'
import type { Usage } from '../../schemas/event.ts'
import { asFault, Fault } from '../../schemas/fault.ts'
import { isJsonArray, isJsonObject, JsonNumber } from '../../schemas/json.ts'
import { dayMs, minuteMs, secondMs, showInstant, showWindow, type Window } from '../../schemas/window.ts'
import { checkKnowable, rereadsAfter, stopIfAborted } from '../asking.ts'
import { defineSource, type Findings, type Scope, type Source, type SourceContext } from '../source.ts'
import { openApi, type Resource } from './kubernetes/api.ts'
import { connectionOf } from './kubernetes/connection.ts'
import { gpuAnnotations, gpuOptions, isNodeFact } from './kubernetes/gpus.ts'
import { usageOf } from './kubernetes/intervals.ts'
import { type LifeItem, openLives, type ResourceName } from './kubernetes/lives.ts'
import { openNetwork, type PodOwner, type Traffic, trafficUsage } from './kubernetes/network.ts'
import type { Pod } from './kubernetes/objects.ts'
import { tenantNames, tenantOptions } from './kubernetes/tenant.ts'
import { follow, type Pace, usualPace } from './kubernetes/watch.ts'

export const KubernetesConfig = Type.Object(
  {
    kind: Type.Optional(Type.Literal('kubernetes')),
    name: Type.String({
      pattern: '^[A-Za-z0-9._-]{1,128}$',
      description: 'Its name in events: meterline/kubernetes/<name>. One source is one cluster.',
    }),
    url: Type.Optional(
      Type.String({
        pattern: '^https?://',
        description:
          'Address of the API server. Without it and without `kubeconfig`, that of the cluster in which the collector runs, by its service account.',
      }),
    ),
    token: Type.Optional(
      Secret('Token of a service account. In a pod, by default that which is mounted; it rotates.'),
    ),
    ca: Type.Optional(
      Secret('Certificate of who signed that of the API server, PEM. In a pod, by default the mounted one.'),
    ),
    clientCertificate: Type.Optional(Secret('Certificate to show instead of a token, PEM.')),
    clientKey: Type.Optional(Secret('Key of the certificate, PEM.')),
    kubeconfig: Type.Optional(
      Secret(
        'A kubeconfig file instead of all these: with a token or a client certificate; exec and auth providers are refused.',
      ),
    ),
    context: Type.Optional(
      Type.String({ minLength: 1, description: 'Context of the kubeconfig, if not its current one.' }),
    ),
    parts: Type.Array(Type.Enum(['pods', 'volumes', 'services', 'network']), {
      default: ['pods', 'volumes', 'services'],
      minItems: 1,
      uniqueItems: true,
      description:
        'What is read, each a scope. network samples the cAdvisor of each node through the API server, which needs the right nodes/proxy: that right is wide.',
    }),
    allocation: Type.Enum(['scheduled', 'started', 'running'], {
      default: 'scheduled',
      description:
        'From when a pod counts. scheduled: its node is reserved for it. started: the kubelet took it. running: its first container runs, after images were pulled.',
    }),
    dynamicResources: Type.Enum(['auto', 'on', 'off'], {
      default: 'auto',
      description:
        'GPUs by resource claims (DRA). auto: where the API server has resource.k8s.io. on: it must. off: they are not counted.',
    }),
    ...tenantOptions,
    ...gpuOptions,
    windowMinutes: Type.Enum([60, 30, 15, 5, 1], { default: 15, description: 'Width of the windows.' }),
    rereadAfterMinutes: Type.Array(Type.Integer({ minimum: 1, maximum: 100_000 }), {
      default: [60, 1440],
      minItems: 1,
      description:
        'When a window is read again, counted from its end: a node that was cut off tells late when its pods ended.',
    }),
    retentionDays: Type.Integer({
      default: 14,
      minimum: 1,
      maximum: 3650,
      description:
        'How long it is kept what was seen, about 600 bytes for each pod that ended: windows before are faulted, not taken for empty.',
    }),
    pageSize: Type.Integer({
      default: 500,
      minimum: 1,
      maximum: 10_000,
      description: 'Objects to ask for in a chunk of a list.',
    }),
    watchTimeoutSeconds: Type.Integer({
      default: 300,
      minimum: 1,
      maximum: 3600,
      description: 'After how long the API server shall end a watch, which then goes on in a new one.',
    }),
    silenceSeconds: Type.Integer({
      default: 150,
      minimum: 1,
      maximum: 3600,
      description:
        'After how long a watch that says nothing counts as dead: an API server sends a bookmark about every minute.',
    }),
    sampleSeconds: Type.Integer({
      default: 60,
      minimum: 5,
      maximum: 900,
      description: 'How often the counters of the network are sampled.',
    }),
  },
  { additionalProperties: false },
)
export type KubernetesConfig = Static<typeof KubernetesConfig>

export type KubernetesItem = LifeItem | { readonly of: 'network'; readonly traffic: Traffic }

type PartName = KubernetesConfig['parts'][number]

const corePaths: Readonly<Partial<Record<ResourceName, string>>> = {
  pods: '/api/v1/pods',
  nodes: '/api/v1/nodes',
  namespaces: '/api/v1/namespaces',
  persistentvolumeclaims: '/api/v1/persistentvolumeclaims',
  persistentvolumes: '/api/v1/persistentvolumes',
  services: '/api/v1/services',
}
const claimsGroup = 'resource.k8s.io'
/** Newest first: of these the fields that are read are alike. */
const claimsVersions = ['v1', 'v1beta2', 'v1beta1']

/** What each part has to have seen, so that its windows can be known. */
const needs: Readonly<Record<PartName, readonly ResourceName[]>> = {
  pods: ['nodes', 'namespaces', 'resourceslices', 'resourceclaims', 'pods'],
  volumes: ['namespaces', 'persistentvolumes', 'persistentvolumeclaims'],
  services: ['namespaces', 'services'],
  network: ['nodes', 'namespaces', 'pods'],
}

const things = { pods: 'pod', volumes: 'volume', services: 'load_balancer' } as const
const role = 'bind the ClusterRole of deploy/examples/kubernetes-rbac.yaml to its service account'
/** An API server sends a bookmark about once in so long; only then is it known that nothing else has been. */
const bookmarkMs = 75 * secondMs
/** How long a read waits for the next one. */
const bookmarkWaitMs = bookmarkMs + 15 * secondMs
/** Pods are known to the network part for so long after they are gone. */
const ownersKept = 20_000

export const kubernetes = defineSource({
  kind: 'kubernetes',
  summary:
    'Time of pods by cores, memory and GPUs, of volumes and load balancers, and traffic, from the API server.',
  config: KubernetesConfig,
  open: (config: KubernetesConfig, context: SourceContext) => openKubernetes(config, context),
})

/** With another pace for tests. */
export function openKubernetes(
  config: KubernetesConfig,
  context: SourceContext,
  pace: Pace = usualPace,
): Source<KubernetesItem> {
  const { nowMs } = context
  const connection = connectionOf(config, context.secret)
  const http = context.client({ tls: connection.tls })
  const api = openApi({
    connection,
    http,
    pageSize: config.pageSize,
    watchTimeoutSeconds: config.watchTimeoutSeconds,
    silenceMs: config.silenceSeconds * secondMs,
  })
  const retentionMs = config.retentionDays * dayMs
  const widthMs = config.windowMinutes * minuteMs
  const names = tenantNames(config)
  const lives = openLives(context.state, {
    ...config,
    retentionMs,
    wanted: {
      podLabels: names.label,
      podAnnotations: new Set([...names.annotation, ...gpuAnnotations]),
      namespaceLabels: names['namespace-label'],
      namespaceAnnotations: names['namespace-annotation'],
      nodeLabel: name => isNodeFact(name, config),
    },
    gone: pod => remember(pod),
  })
  const parts = [...config.parts].sort()
  const isClaims = (resource: ResourceName) => resource === 'resourceslices' || resource === 'resourceclaims'
  const needsOf = (part: PartName) =>
    needs[part].filter(resource => config.dynamicResources !== 'off' || !isClaims(resource))
  const resources = [...new Set(parts.flatMap(needsOf))]
  const problems = new Map<ResourceName, string>()
  const waiting = new Set<() => void>()
  const wake = () => {
    for (const each of waiting) each()
  }
  let watching = false

  const goneOwners = new Map<string, PodOwner>()
  function remember(pod: Pod): void {
    goneOwners.set(pod.uid, ownerOf(pod))
    const [first] = goneOwners.keys()
    if (goneOwners.size > ownersKept && first !== undefined) goneOwners.delete(first)
  }
  function ownerOf(pod: Pod): PodOwner {
    let subject: string
    try {
      subject = lives.tenant('pod', pod) ?? pod.namespace
    } catch {
      // Its pod reading is the fault that says so.
      subject = pod.namespace
    }
    return {
      uid: pod.uid,
      name: pod.name,
      subject,
      labels: { namespace: pod.namespace, ...(pod.nodeName !== undefined && { node: pod.nodeName }) },
      createdMs: pod.createdMs ?? 0,
      hostNetwork: pod.hostNetwork === true,
    }
  }
  const network = config.parts.includes('network')
    ? openNetwork(
        { widthMinutes: config.windowMinutes, sampleSeconds: config.sampleSeconds, retentionMs },
        context,
        {
          nodes: () => [...lives.nodes()].map(node => node.name),
          scrape: (node, signal) => api.text(cadvisorPath(node), 'cadvisor', signal),
          pod: uid => {
            const pod = lives.pod(uid)
            return pod ? ownerOf(pod) : goneOwners.get(uid)
          },
          podNamed: (namespace, name) => {
            const pod = lives.podNamed(namespace, name)
            return pod && ownerOf(pod)
          },
        },
      )
    : undefined

  async function locate(resource: ResourceName, signal: AbortSignal): Promise<Resource | undefined> {
    const path = corePaths[resource]
    if (path !== undefined) return { name: resource, path }
    const version = await claimsVersion(signal)
    return version === undefined
      ? undefined
      : { name: resource, path: `/apis/${claimsGroup}/${version}/${resource}` }
  }

  async function claimsVersion(signal: AbortSignal): Promise<string | undefined> {
    try {
      const group = await api.get(`/apis/${claimsGroup}`, 'discover_claims', signal)
      const served = isJsonArray(group.versions) ? group.versions : []
      const versions = served.map(each => (isJsonObject(each) ? each.version : undefined))
      const version = claimsVersions.find(each => versions.includes(each))
      if (version !== undefined) return version
      // An older or a newer one than these: its claims would not be counted, and nobody would know.
      if (versions.length > 0 || group.kind !== 'APIGroup')
        throw new Fault(
          'SOURCE_REFUSED',
          `kubernetes: ${claimsGroup} is served in no version that is known here (${claimsVersions.join(', ')}); set dynamicResources: off to leave it out`,
        )
    } catch (error) {
      if (!(error instanceof Fault) || error.facts.status !== 404) throw error
      if (config.dynamicResources === 'on')
        throw new Fault(
          'SOURCE_MISSING',
          `kubernetes: this API server has no ${claimsGroup} (dynamicResources: on)`,
        )
    }
    return undefined
  }

  /** Since when all that a part needs was seen. */
  function beganMs(part: PartName): number | undefined {
    const began = needsOf(part).map(resource => lives.position(resource)?.beganMs)
    return began.includes(undefined) ? undefined : Math.max(...(began as number[]))
  }

  function sinceMs(part: PartName): number | undefined {
    if (part === 'network') return network?.sinceMs()
    const began = beganMs(part)
    return began === undefined ? undefined : Math.ceil(began / widthMs) * widthMs
  }

  /** Why the window cannot be known yet, or undefined where it can. */
  function unseen(part: PartName, window: Window): string | undefined {
    for (const resource of needsOf(part)) {
      const position = lives.position(resource)
      if (!position) return `${resource} were never listed`
      if (position.observedMs < window.endMs)
        return `${resource} were last seen at ${showInstant(position.observedMs)}, before it was over`
    }
    return undefined
  }

  async function seen(part: PartName, window: Window, signal: AbortSignal): Promise<void> {
    const giveUpMs = performance.now() + bookmarkWaitMs
    for (;;) {
      stopIfAborted(signal)
      const why = unseen(part, window)
      if (why === undefined) return
      const problem = needsOf(part).flatMap(resource => problems.get(resource) ?? [])[0]
      const leftMs = giveUpMs - performance.now()
      if (!watching || problem !== undefined || leftMs <= 0)
        throw unknowable(part, window, problem === undefined ? why : `${why} (${problem})`)
      await next(leftMs, signal)
    }
  }

  /** Resolves when more was seen, at the signal, or after this time. */
  function next(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise(resolve => {
      const done = () => {
        clearTimeout(timer)
        waiting.delete(done)
        signal.removeEventListener('abort', done)
        resolve()
      }
      const timer = setTimeout(done, ms)
      waiting.add(done)
      signal.addEventListener('abort', done)
    })
  }

  return {
    widthMinutes: config.windowMinutes,
    settleDelayMs: bookmarkMs,
    rereadAfterMs: rereadsAfter(config.rereadAfterMinutes),
    retentionMs,
    concurrency: parts.length,

    async scopes(signal) {
      stopIfAborted(signal)
      return parts.map((scope): Scope => {
        const since = sinceMs(scope)
        return { scope, ...(since !== undefined && { sinceMs: since }) }
      })
    },

    async *read(scope, window, signal) {
      stopIfAborted(signal)
      const part = parts.find(each => each === scope)
      if (!part) throw unknowable(scope, window, `this source has no part of this name (parts)`)
      checkKnowable(scope, window, { nowMs: nowMs(), retentionDays: config.retentionDays })
      if (part === 'network') {
        for (const traffic of network?.read(window) ?? []) {
          stopIfAborted(signal)
          yield { of: 'network', traffic }
        }
        return
      }
      await seen(part, window, signal)
      const since = sinceMs(part) ?? 0
      if (window.startMs < since)
        throw unknowable(
          scope,
          window,
          `the watch knows whole windows from ${showInstant(since)} on only, and Kubernetes tells nothing of the past`,
        )
      for (const item of lives.read(part, window)) {
        stopIfAborted(signal)
        yield item
      }
    },

    toUsage(item, window) {
      if (item.of === 'network') return [trafficUsage(item.traffic)]
      const usage = usageOf(item.life, things[item.of], window, item.sharesOf)
      if (!usage) return []
      return [item.doubt === undefined ? usage : ({ ...usage, doubt: item.doubt } satisfies Usage)]
    },

    async watch(signal) {
      watching = true
      const failed = new AbortController()
      const either = AbortSignal.any([signal, failed.signal])
      const loops = resources.map(resource =>
        follow(
          { name: resource, locate: at => locate(resource, at) },
          {
            api,
            lives,
            nowMs,
            pace,
            report: problem => {
              if (problem === undefined) problems.delete(resource)
              else problems.set(resource, problem)
              wake()
            },
            advanced: wake,
          },
          either,
        ),
      )
      if (network) loops.push(network.watch(either))
      for (const loop of loops) loop.catch(() => failed.abort())
      const results = await Promise.allSettled(loops)
      watching = false
      wake()
      for (const result of results) if (result.status === 'rejected') throw result.reason
    },

    problem() {
      const all = [...problems].map(([resource, problem]) => `${resource}: ${problem}`)
      const sampling = network?.problem()
      if (sampling !== undefined) all.push(sampling)
      return all.length === 0 ? undefined : all.join('; ')
    },

    async check(signal): Promise<Findings> {
      const works: string[] = []
      const missing: { what: string; remedy: string }[] = []
      await Promise.all(
        resources.map(async resource => {
          const at = await locateFor(resource)
          if (!at) return
          try {
            const page = await api.get(at.path, `list_${resource}`, signal, { limit: '1' })
            const version = isJsonObject(page.metadata) ? page.metadata.resourceVersion : undefined
            if (!isJsonArray(page.items) || typeof version !== 'string')
              throw new Fault('BODY_UNREADABLE', `kubernetes.list_${resource}: the answer is no list`)
            for await (const _ of api.watch(at, version, signal, () => {}, 1)) break
            works.push(`${resource}: ${countOf(page)}`)
          } catch (error) {
            note(error, `list and watch ${resource}`)
          }
        }),
      )
      if (network) {
        try {
          const page = await api.get('/api/v1/nodes', 'list_nodes', signal, { limit: '1' })
          const [first] = isJsonArray(page.items) ? page.items : []
          const name = isJsonObject(first) && isJsonObject(first.metadata) ? first.metadata.name : undefined
          if (typeof name === 'string') {
            const text = await api.text(cadvisorPath(name), 'cadvisor', signal)
            if (text.includes('container_network_receive_bytes_total')) works.push('cAdvisor of nodes')
            else
              missing.push({
                what: `traffic in the cAdvisor of node ${name}`,
                remedy: 'the kubelet or its runtime does not tell it: take network out of `parts`',
              })
          }
        } catch (error) {
          note(error, 'get nodes/proxy')
        }
      }
      return { works: works.sort(), missing }

      async function locateFor(resource: ResourceName): Promise<Resource | undefined> {
        try {
          return await locate(resource, signal)
        } catch (error) {
          note(error, `find ${resource}`)
          return undefined
        }
      }

      function note(error: unknown, what: string): void {
        const fault = asFault(error, 'INTERNAL')
        if (fault.code === 'SOURCE_DENIED' && fault.facts.status === 403) {
          missing.push({ what: `the right to ${what}`, remedy: role })
          return
        }
        if (fault.code !== 'SOURCE_MISSING') throw fault
        missing.push({
          what: `${what}: ${fault.message}`,
          remedy: 'use a cluster that has it, or set dynamicResources: auto',
        })
      }
    },

    async [Symbol.asyncDispose]() {
      await http[Symbol.asyncDispose]()
    },
  }
}

function cadvisorPath(node: string): string {
  return `/api/v1/nodes/${encodeURIComponent(node)}/proxy/metrics/cadvisor`
}

function countOf(page: { readonly items?: unknown; readonly metadata?: unknown }): string {
  const { metadata, items } = page as {
    metadata?: { remainingItemCount?: unknown }
    items: readonly unknown[]
  }
  const more = metadata?.remainingItemCount
  return more instanceof JsonNumber ? String(Number(more.text) + items.length) : String(items.length)
}

function unknowable(scope: string, window: Window, why: string): Fault {
  return new Fault('WINDOW_UNKNOWABLE', `${showWindow(window)}: ${why}`, { scope })
}
