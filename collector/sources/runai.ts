/**
 * Run:ai: what the pods of its workloads held, exactly from when they ran. Owns its options, its scopes and which of its
 * parts answers; the parts are beside this in runai/.
 */
import type Fraction from 'fraction.js'
import Type, { type Static } from 'typebox'
import { Secret } from '../../schemas/config.ts'
import type { Usage } from '../../schemas/event.ts'
import { Fault } from '../../schemas/fault.ts'
import { dayMs, minuteMs, showInstant, showWindow, type Window, windowAt } from '../../schemas/window.ts'
import { checkKnowable, rereadsAfter, stopIfAborted } from '../asking.ts'
import { defineSource, type Scope, type Source, type SourceContext } from '../source.ts'
import { openCalls, type RunaiCalls } from './runai/calls.ts'
import { checkRunai } from './runai/check.ts'
import { RunaiCrossCheckConfig } from './runai/crosscheck.ts'
import { openJoined } from './runai/joined.ts'
import { type Cluster, readClusters } from './runai/lists.ts'
import {
  type MeasuredPod,
  type MetricsItem,
  measuredPod,
  metricsUsage,
  openMetrics,
  RunaiMetricsConfig,
} from './runai/metrics.ts'
import { openNodes } from './runai/nodes.ts'
import { clamped, type PodItem, podOf, podUsage } from './runai/pods.ts'
import { quantityOf } from './runai/resources.ts'

export const RunaiConfig = Type.Object(
  {
    kind: Type.Optional(Type.Literal('runai')),
    name: Type.String({
      pattern: '^[A-Za-z0-9._-]{1,128}$',
      description: 'Its name in events: meterline/runai/<name>.',
    }),
    url: Type.String({
      minLength: 1,
      description: 'Address of the control plane, such as tenant.run.ai; without a scheme it is https.',
    }),
    clientId: Secret('Id of the access key (service account).', { literal: 'allowed' }),
    clientSecret: Secret('Secret of the access key.'),
    auth: Type.Enum(['auto', 'v2', 'v1', 'app_token'], {
      default: 'auto',
      description:
        'How a token is asked for. v2: /api/v2/token, from 2.24. v1: /api/v1/token with client_credentials, from 2.20. app_token: the same as applications before. auto: the first of them that the control plane knows.',
    }),
    ca: Type.Optional(
      Secret('Certificate of the authority that signed that of a control plane of your own, as PEM.'),
    ),
    clusters: Type.Optional(
      Type.Array(Type.String({ minLength: 1, maxLength: 256 }), {
        minItems: 1,
        uniqueItems: true,
        description: 'Ids or names of the clusters to read; without it all that the access key may see.',
      }),
    ),
    windowMinutes: Type.Enum([5, 15, 30, 60], {
      default: 15,
      description: 'Width of the windows. Totals do not depend on it.',
    }),
    rereadAfterMinutes: Type.Array(Type.Integer({ minimum: 1, maximum: 100_000 }), {
      default: [15, 60, 1440],
      minItems: 1,
      description:
        'When a window is read again, counted from its end: clusters tell the control plane late what happened.',
    }),
    retentionDays: Type.Integer({
      default: 30,
      minimum: 1,
      maximum: 3650,
      description:
        'How long the control plane still lists what was deleted: windows before are faulted, not taken for empty.',
    }),
    pageSize: Type.Integer({
      default: 500,
      minimum: 1,
      maximum: 500,
      description: 'Rows to ask for in a page; Run:ai gives no more than 500.',
    }),
    counts: Type.Enum(['checked', 'ignored'], {
      default: 'checked',
      description:
        'Whether the pods read are held against the count of the control plane. ignored: for one whose count is of more than the access key may list.',
    }),
    gpuMemory: Type.Array(
      Type.Object(
        {
          gpuType: Type.String({ minLength: 1, description: 'The type as the list of nodes has it.' }),
          memory: Type.String({
            pattern: '^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$',
            description: 'Memory of one GPU of it, such as 80Gi.',
          }),
        },
        { additionalProperties: false },
      ),
      {
        default: [],
        description:
          'Memory of GPUs by type: for pods that ask for GPUs by memory, where Run:ai does not say what share of a GPU it gave. Its API tells it nowhere.',
      },
    ),
    metrics: Type.Optional(RunaiMetricsConfig),
    crossCheck: RunaiCrossCheckConfig,
    concurrency: Type.Integer({
      default: 8,
      minimum: 1,
      maximum: 64,
      description: 'How many calls may be under way at once, and how many clusters are read at once.',
    }),
  },
  { additionalProperties: false },
)
export type RunaiConfig = Static<typeof RunaiConfig>

/** A pod as it is listed, or what its GPUs did; or one whose GPUs are not asked for, as it is not to be understood. */
export type RunaiItem = PodItem | MetricsItem | { readonly of: 'pod_unreadable'; readonly fault: Fault }

/** Behind the id of the cluster: what a metrics store cannot tell must not spoil what was allocated. */
const metricsSuffix = ' metrics'

export const runai = defineSource({
  kind: 'runai',
  summary: 'GPUs, cores and memory of Run:ai workloads by project, department, user and GPU type.',
  config: RunaiConfig,
  open(config: RunaiConfig, context: SourceContext): Source<RunaiItem> {
    const { nowMs, secret, state } = context
    const { ca, concurrency, crossCheck } = config
    const http = context.client({
      concurrency,
      ...(ca !== undefined && { tls: () => ({ ca: secret(ca) }) }),
    })
    // An id is no secret: it may stand in the config as it is, and `secret` takes references alone.
    const isReference = /^(\$\{(env|file):|file:)/.test(config.clientId)
    const calls = openCalls(config, {
      http,
      clientId: () => (isReference ? secret(config.clientId) : config.clientId),
      clientSecret: () => secret(config.clientSecret),
      nowMs,
    })
    const retentionMs = config.retentionDays * dayMs
    const tolerance = crossCheck.enabled ? crossCheck : undefined
    const nodes = openNodes({ calls, state, nowMs, pageSize: config.pageSize })
    const joined = openJoined(
      {
        ...config,
        retentionMs,
        gpuMemoryBytes: gpuMemoryOf(config.gpuMemory),
        ...(tolerance && { tolerance }),
      },
      { calls, nodes, state, nowMs },
    )
    const metrics =
      config.metrics &&
      openMetrics({ ...config.metrics, concurrency, ...(tolerance && { tolerance }) }, { calls, nowMs })

    return {
      widthMinutes: config.windowMinutes,
      rereadAfterMs: rereadsAfter(config.rereadAfterMinutes),
      retentionMs,
      concurrency,
      async scopes(signal) {
        stopIfAborted(signal)
        const clusters = chosen(await readClusters(calls, signal), config.clusters)
        return clusters.flatMap(cluster => [
          scopeOf(cluster, ''),
          ...(metrics ? [scopeOf(cluster, metricsSuffix)] : []),
        ])
      },
      async *read(scope, window, signal) {
        stopIfAborted(signal)
        checkKnowable(scope, window, { nowMs: nowMs(), retentionDays: config.retentionDays })
        const ofMetrics = scope.endsWith(metricsSuffix)
        const clusterId = ofMetrics ? scope.slice(0, -metricsSuffix.length) : scope
        const cluster = await clusterOf(calls, { scope, clusterId, window, signal })
        const pods = await joined.pods(cluster, window, signal)
        if (!ofMetrics) yield* untilAborted(pods, signal)
        else if (metrics) {
          const { measured, unreadable } = measuredOf(pods, window)
          yield* unreadable
          yield* metrics.read(measured, window, signal)
        } else throw new Fault('SOURCE_MISSING', 'metrics are not configured', { scope })
      },
      toUsage: usageOf,
      check: signal =>
        checkRunai({
          clusters: async () => chosen(await readClusters(calls, signal), config.clusters),
          pods: (cluster, window) => joined.pods(cluster, window, signal),
          measured: (pods, window) => measuredOf(pods, window).measured,
          ...(metrics && { metrics: pod => metrics.check(pod, signal) }),
          window: windowAt(nowMs() - config.windowMinutes * minuteMs, config.windowMinutes),
        }),
      async [Symbol.asyncDispose]() {
        await http[Symbol.asyncDispose]()
      },
    }
  },
})

function usageOf(item: RunaiItem, window: Window): readonly Usage[] {
  if (item.of === 'pod') return podUsage(item, window)
  if (item.of === 'pod_unreadable') throw item.fault
  return [metricsUsage(item, window)]
}

function* untilAborted<Item>(items: readonly Item[], signal: AbortSignal): Iterable<Item> {
  for (const item of items) {
    stopIfAborted(signal)
    yield item
  }
}

/** The pods that held GPUs in the window. One that cannot be understood is a fault here as well. */
function measuredOf(
  items: readonly PodItem[],
  window: Window,
): { readonly measured: readonly MeasuredPod[]; readonly unreadable: readonly RunaiItem[] } {
  const measured: MeasuredPod[] = []
  const unreadable: RunaiItem[] = []
  for (const item of items)
    try {
      const pod = podOf(item)
      const asked = pod && clamped(pod.run, window) && measuredPod(pod)
      if (asked) measured.push(asked)
    } catch (error) {
      if (!(error instanceof Fault)) throw error
      unreadable.push({ of: 'pod_unreadable', fault: error })
    }
  return { measured, unreadable }
}

function gpuMemoryOf(given: RunaiConfig['gpuMemory']): ReadonlyMap<string, Fraction> {
  return new Map(
    given.flatMap(({ gpuType, memory }) => {
      const bytes = quantityOf(memory)
      return bytes ? [[gpuType, bytes] as const] : []
    }),
  )
}

function scopeOf({ id, createdMs, deletedMs }: Cluster, suffix: string): Scope {
  return {
    scope: id + suffix,
    ...(createdMs !== undefined && { sinceMs: createdMs }),
    ...(deletedMs !== undefined && { endedMs: deletedMs }),
  }
}

/** @throws Fault SOURCE_MISSING where one that is configured is not there, or may not be seen. */
function chosen(clusters: readonly Cluster[], wanted: readonly string[] | undefined): readonly Cluster[] {
  if (wanted === undefined) return clusters
  const missing = wanted.filter(text => !clusters.some(({ id, name }) => id === text || name === text))
  if (missing.length > 0)
    throw new Fault(
      'SOURCE_MISSING',
      `clusters: ${missing.join(', ')} is not there, or the access key may not see it`,
    )
  return clusters.filter(({ id, name }) => wanted.includes(id) || wanted.includes(name))
}

/**
 * The cluster of a scope, as the control plane has it.
 * @throws Fault WINDOW_UNKNOWABLE where the control plane lost it before the window was over: what it still lists as
 * running, nobody has seen since
 */
async function clusterOf(
  calls: RunaiCalls,
  asked: {
    readonly scope: string
    readonly clusterId: string
    readonly window: Window
    readonly signal: AbortSignal
  },
): Promise<Cluster> {
  const { scope, clusterId, window, signal } = asked
  const cluster = (await readClusters(calls, signal)).find(({ id }) => id === clusterId)
  if (!cluster)
    throw new Fault('SOURCE_MISSING', `cluster ${clusterId} is not there, or the access key may not see it`, {
      scope,
    })
  const { lost, name } = cluster
  if (lost && (lost.sinceMs === undefined || lost.sinceMs < window.endMs)) {
    const since = lost.sinceMs === undefined ? '' : ` since ${showInstant(lost.sinceMs)}`
    throw new Fault(
      'WINDOW_UNKNOWABLE',
      `the control plane has no connection to cluster ${name}${since}: it cannot know ${showWindow(window)}`,
      { scope },
    )
  }
  return cluster
}
