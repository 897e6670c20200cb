/**
 * Run:ai: what the pods of its workloads held, exactly from when they ran. Owns its options, its scopes and which of its
 * parts answers; the parts are beside this in runai/.
 */
import Type, { type Static } from 'typebox'
import { Secret } from '../../schemas/config.ts'
import { Fault } from '../../schemas/fault.ts'
import { isJsonObject, type JsonObject } from '../../schemas/json.ts'
import { dayMs, minuteMs, showInstant, showWindow, type Window } from '../../schemas/window.ts'
import { defineSource, type Scope, type Source, type SourceContext } from '../source.ts'
import { openCalls, type RunaiCalls, stopIfAborted } from './runai/calls.ts'
import {
  type Cluster,
  type ListOptions,
  readClusters,
  readPods,
  readWorkload,
  readWorkloads,
} from './runai/lists.ts'
import { type PodItem, podUsage } from './runai/pods.ts'

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

export type RunaiItem = PodItem

export const runai = defineSource({
  kind: 'runai',
  summary: 'GPUs, cores and memory of Run:ai workloads by project, department, user and GPU type.',
  config: RunaiConfig,
  open(config: RunaiConfig, context: SourceContext): Source<RunaiItem> {
    const { nowMs, secret } = context
    const { ca } = config
    const http = context.client({
      concurrency: config.concurrency,
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

    return {
      widthMinutes: config.windowMinutes,
      rereadAfterMs: [...new Set(config.rereadAfterMinutes)].sort((a, b) => a - b).map(m => m * minuteMs),
      retentionMs,
      concurrency: config.concurrency,
      async scopes(signal) {
        stopIfAborted(signal)
        const clusters = chosen(await readClusters(calls, signal), config.clusters)
        return clusters.map(scopeOf)
      },
      async *read(scope, window, signal) {
        stopIfAborted(signal)
        refuseUnknowable(scope, window, nowMs(), config.retentionDays)
        const cluster = await clusterOf(calls, scope, window, signal)
        const items = await readCluster(calls, config, { cluster, window, signal })
        for (const item of items) {
          stopIfAborted(signal)
          yield item
        }
      },
      toUsage: podUsage,
      async [Symbol.asyncDispose]() {
        await http[Symbol.asyncDispose]()
      },
    }
  },
})

function scopeOf({ id, createdMs, deletedMs }: Cluster): Scope {
  return {
    scope: id,
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

function refuseUnknowable(scope: string, window: Window, nowMs: number, retentionDays: number): void {
  if (window.endMs > nowMs)
    throw new Fault('WINDOW_UNKNOWABLE', `${showWindow(window)} is not over yet`, { scope })
  if (window.startMs < nowMs - retentionDays * dayMs)
    throw new Fault(
      'WINDOW_UNKNOWABLE',
      `${showWindow(window)} is more than ${retentionDays} days ago (retentionDays)`,
      { scope },
    )
}

/**
 * The cluster of a scope, as the control plane has it.
 * @throws Fault WINDOW_UNKNOWABLE where the control plane lost it before the window was over: what it still lists as
 * running, nobody has seen since
 */
async function clusterOf(
  calls: RunaiCalls,
  scope: string,
  window: Window,
  signal: AbortSignal,
): Promise<Cluster> {
  const cluster = (await readClusters(calls, signal)).find(({ id }) => id === scope)
  if (!cluster)
    throw new Fault('SOURCE_MISSING', `cluster ${scope} is not there, or the access key may not see it`, {
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

async function readCluster(
  calls: RunaiCalls,
  config: RunaiConfig,
  asked: { readonly cluster: Cluster; readonly window: Window; readonly signal: AbortSignal },
): Promise<readonly RunaiItem[]> {
  const { cluster, window, signal } = asked
  const options: ListOptions = {
    clusterId: cluster.id,
    window,
    pageSize: config.pageSize,
    counts: config.counts,
    facts: { scope: cluster.id },
    signal,
  }
  const [rows, workloads] = await Promise.all([readPods(calls, options), readWorkloads(calls, options)])
  const wanted = new Set<string>()
  for (const row of rows)
    if (isJsonObject(row) && typeof row.workloadId === 'string' && !workloads.has(row.workloadId))
      wanted.add(row.workloadId)
  await Promise.all(
    [...wanted].map(async id => {
      const workload = await readWorkload(calls, id, options)
      if (workload) workloads.set(id, workload)
    }),
  )
  return rows.map(row => {
    const workload = workloadOf(row, workloads)
    return { of: 'pod', row, cluster, ...(workload && { workload }) }
  })
}

function workloadOf(
  row: RunaiItem['row'],
  workloads: ReadonlyMap<string, JsonObject>,
): JsonObject | undefined {
  const id = isJsonObject(row) ? row.workloadId : undefined
  return typeof id === 'string' ? workloads.get(id) : undefined
}
