/**
 * A stand-in for a Run:ai control plane over HTTP: what the demo runs against, and what tests make misbehave. Its paths,
 * parameters and fields are those of the published OpenAPI files of 2.19, 2.24 and later. Clusters, workloads, pods and
 * nodes live by the clock: an answer shows what was known at its time. Further routes are mounted by who starts it.
 */
import { Buffer } from 'node:buffer'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleepFor } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import {
  isJsonArray,
  isJsonObject,
  type Json,
  JsonNumber,
  type JsonObject,
  parseExact,
  stringifyExact,
} from '../../schemas/json.ts'
import { instantMs } from '../../schemas/window.ts'

export interface RunaiCluster {
  id: string
  name: string
  createdMs: number
  deletedMs?: number
  /** The last word from it, where the control plane lost it then. */
  lostMs?: number
}

export interface RunaiWorkload {
  id: string
  name: string
  clusterId: string
  projectId: string
  projectName: string
  departmentId: string
  departmentName: string
  type: string
  category: string
  submittedBy: string
  priorityClassName: string
  preemptible: boolean
  createdMs: number
  completedMs?: number
  deletedMs?: number
  /** Its phases in order of time; Running from its creation on where absent. */
  phases?: { atMs: number; phase: string }[]
  /** Since 2.23. */
  totalRunningTimeSeconds?: number
  environmentVariables?: JsonObject
  /** Fields as they are, over those made of the above. */
  row?: JsonObject
}

export interface RunaiPod {
  id: string
  name: string
  workloadId: string
  clusterId: string
  nodeName?: string
  nodePool?: string
  createdMs: number
  /** When its first container ran; Pending before, and for ever where absent. */
  startedMs?: number
  completedMs?: number
  deletedMs?: number
  /** How it ended. */
  outcome?: 'Succeeded' | 'Failed'
  /** What it holds while it runs; numbers as JSON writes them. */
  allocated?: { gpu?: string; gpuMemory?: string; cpu?: string; cpuMemory?: string } | null
  requested?: JsonObject | null
  /** When the control plane hears of each of its changes later than it happens. */
  lagMs?: number
  row?: JsonObject
}

export interface RunaiNode {
  id: string
  name: string
  clusterId: string
  nodePool: string
  gpuType?: string
  gpuCount?: number
  row?: JsonObject
}

export interface RunaiFixture {
  clusters: RunaiCluster[]
  workloads: RunaiWorkload[]
  pods: RunaiPod[]
  nodes: RunaiNode[]
}

export type RunaiVersion = '2.19' | '2.24' | 'latest'

/** One call as it came in. */
export interface RunaiCall {
  readonly endpoint: string
  readonly method: string
  readonly path: string
  /** As it stood in the URL, undecoded, for who validates it. */
  readonly rawQuery: string
  readonly query: Readonly<Record<string, string>>
  /** Of a POST. */
  readonly body?: string
}

export interface RunaiReply {
  readonly status: number
  readonly body: Json
}

/** A route that others mount: its path with groups, and what it answers. */
export interface RunaiRoute {
  readonly endpoint: string
  readonly method: 'GET'
  readonly path: RegExp
  answer(
    call: RunaiCall,
    match: RegExpExecArray,
    at: { readonly nowMs: number; readonly version: RunaiVersion },
  ): RunaiReply
}

/**
 * What can go wrong with an answer: a status; `cut` (the connection ends in mid-body), `truncated` (whole by its
 * length, half a JSON), `reset` (no answer), `hang`; a body of another shape.
 */
export type RunaiMisbehaviour =
  | {
      readonly status: number
      readonly retryAfter?: string
      readonly html?: boolean
      readonly message?: string
    }
  | 'cut'
  | 'truncated'
  | 'reset'
  | 'hang'
  | 'list'
  | 'empty_object'
  | 'null_rows'

/** A misbehaviour, and which calls it hits. */
export interface RunaiFault {
  readonly endpoint?: string
  /** Calls that are not to be hit. */
  readonly except?: readonly string[]
  /** The first matching call that it hits, from 1, and how many from there on (default: all). */
  readonly from?: number
  readonly times?: number
  readonly answer: RunaiMisbehaviour
}

/** May be changed while it runs. */
export interface RunaiBehaviour {
  version: RunaiVersion
  latencyMs: number
  tokenLifeMs: number
  /** The answer of v1 says how long its token holds: since 2.24. */
  tokenSaysLife: boolean
  gzip: boolean
  /** The page size where a call asks for none. */
  defaultLimit: number
  limitMax: number
  /** What the count endpoints add to the truth. */
  countError: number
  /** Rows that a list leaves out, as a role or another meaning of `completed` would; counts know of them. */
  hidden: (row: JsonObject, query: RunaiCall['query']) => boolean
  /** The last hand at a good answer. */
  bend: (body: Json, endpoint: string) => Json
  faults: RunaiFault[]
  /** Runs before an answer is made: the place to change the fixture between two pages. */
  onCall: (call: RunaiCall) => void
  /** Sees each call with its answer; calls that were made to fail are not shown. */
  onExchange: (call: RunaiCall, reply: RunaiReply) => void
}

export interface RunaiDoubleOptions {
  readonly fixture: RunaiFixture
  readonly clientId?: string
  readonly clientSecret?: string
  readonly port?: number
  readonly nowMs?: () => number
  readonly routes?: readonly RunaiRoute[]
  readonly behaviour?: Partial<RunaiBehaviour>
}

export interface RunaiDouble extends AsyncDisposable {
  readonly url: string
  readonly port: number
  readonly fixture: RunaiFixture
  readonly behaviour: RunaiBehaviour
  /** The calls so far, tokens included, oldest first; beyond a hundred thousand the oldest are dropped. */
  readonly calls: RunaiCall[]
  /** No token given until now is good any more. */
  revokeTokens(): void
  close(): Promise<void>
}

export const runaiDemoClientId = 'meterline'
export const runaiDemoSecret = 'demo-client-secret'
const callsKept = 100_000

export async function startRunaiDouble(options: RunaiDoubleOptions): Promise<RunaiDouble> {
  const { fixture } = options
  const nowMs = options.nowMs ?? Date.now
  const clientId = options.clientId ?? runaiDemoClientId
  const clientSecret = options.clientSecret ?? runaiDemoSecret
  const behaviour: RunaiBehaviour = {
    version: 'latest',
    latencyMs: 0,
    tokenLifeMs: 3_600_000,
    tokenSaysLife: true,
    gzip: true,
    defaultLimit: 50,
    limitMax: 500,
    countError: 0,
    hidden: () => false,
    bend: body => body,
    faults: [],
    onCall: () => {},
    onExchange: () => {},
    ...options.behaviour,
  }
  const calls: RunaiCall[] = []
  const hits = new WeakMap<RunaiFault, number>()
  const tokens = new Map<string, number>()
  let tokenNumber = 0
  const closing = new AbortController()
  const routes: readonly RunaiRoute[] = [...listRoutes(fixture, behaviour), ...(options.routes ?? [])]

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'http://double')
    const asked = await bodyOf(request)
    const method = request.method ?? 'GET'
    const isToken = method === 'POST' && /^\/api\/v[12]\/token$/.test(url.pathname)
    const found = routes
      .map(route => ({ route, match: route.method === method ? route.path.exec(url.pathname) : null }))
      .find(({ match }) => match !== null)
    const endpoint = isToken
      ? url.pathname === '/api/v2/token'
        ? 'token_v2'
        : 'token'
      : found?.route.endpoint
    const call: RunaiCall = {
      endpoint: endpoint ?? 'unknown',
      method,
      path: url.pathname,
      rawQuery: url.search.slice(1),
      query: Object.fromEntries(url.searchParams),
      ...(isToken && { body: asked }),
    }
    calls.push(call)
    if (calls.length > callsKept) calls.shift()
    behaviour.onCall(call)
    if (behaviour.latencyMs > 0) await sleepFor(behaviour.latencyMs, undefined, { signal: closing.signal })
    const how = faultFor(call)?.answer
    if (how === 'reset') {
      response.destroy()
      return
    }
    if (how === 'hang') {
      await once(response, 'close')
      return
    }
    if (typeof how === 'object') {
      if (how.retryAfter !== undefined) response.setHeader('retry-after', how.retryAfter)
      if (how.html) {
        response
          .writeHead(how.status, { 'content-type': 'text/html' })
          .end(`<html><body><h1>${how.status}</h1></body></html>`)
        return
      }
      return send(response, problem(how.status, how.message ?? `Made to answer ${how.status}.`))
    }
    const made = isToken
      ? tokenReply(call.endpoint, asked)
      : !isLetIn(request)
        ? problem(401, 'Issuer is not familiar.')
        : found?.match
          ? found.route.answer(call, found.match, { nowMs: nowMs(), version: behaviour.version })
          : problem(404, 'Resource not found.')
    const reply = { status: made.status, body: behaviour.bend(made.body, call.endpoint) }
    if (how === undefined) {
      behaviour.onExchange(call, reply)
      return send(response, reply)
    }
    const text = stringifyExact(bent(reply.body, how))
    if (how === 'cut') {
      response.writeHead(200, { 'content-type': 'application/json' })
      response.write(text.slice(0, Math.floor(text.length / 2)))
      await sleepFor(5)
      response.destroy()
      return
    }
    response.writeHead(reply.status, { 'content-type': 'application/json' })
    response.end(how === 'truncated' ? text.slice(0, Math.floor(text.length / 2)) : text)
  }

  function faultFor(call: RunaiCall): RunaiFault | undefined {
    for (const fault of behaviour.faults) {
      if (fault.endpoint !== undefined && fault.endpoint !== call.endpoint) continue
      if (fault.except?.includes(call.endpoint)) continue
      const hit = (hits.get(fault) ?? 0) + 1
      hits.set(fault, hit)
      const from = fault.from ?? 1
      if (hit >= from && hit < from + (fault.times ?? Number.POSITIVE_INFINITY)) return fault
    }
    return undefined
  }

  function isLetIn(request: IncomingMessage): boolean {
    const token = /^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1]
    const untilMs = token === undefined ? undefined : tokens.get(token)
    return untilMs !== undefined && nowMs() < untilMs
  }

  function tokenReply(endpoint: string, asked: string): RunaiReply {
    if (endpoint === 'token_v2') {
      if (behaviour.version === '2.19') return problem(404, 'Resource not found.')
      const form = new URLSearchParams(asked)
      if (form.get('grant_type') !== 'client_credentials')
        return { status: 400, body: { error: 'unsupported_grant_type', error_description: 'not known' } }
      if (form.get('client_id') !== clientId || form.get('client_secret') !== clientSecret)
        return {
          status: 401,
          body: { error: 'invalid_client', error_description: 'Invalid client credentials' },
        }
      const given = newToken()
      return {
        status: 200,
        body: {
          access_token: given,
          token_type: 'Bearer',
          expires_in: whole(Math.floor(behaviour.tokenLifeMs / 1000)),
        },
      }
    }
    const fields = foldedKeys(asked)
    const grant = fields.granttype
    const old = behaviour.version === '2.19'
    if (grant !== 'app_token' && (old || grant !== 'client_credentials'))
      return problem(400, `Grant type ${String(grant).slice(0, 40)} is not supported.`)
    const [id, secret] =
      grant === 'app_token' ? [fields.appid, fields.appsecret] : [fields.clientid, fields.clientsecret]
    if (id !== clientId || secret !== clientSecret)
      return problem(400, 'Invalid client or client credentials.')
    const given = newToken()
    return {
      status: 200,
      body: {
        accessToken: given,
        ...(!old &&
          behaviour.tokenSaysLife && { expiresIn: whole(Math.floor(behaviour.tokenLifeMs / 1000)) }),
      },
    }
  }

  /** Shaped like a JWT, signed by nobody. */
  function newToken(): string {
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
    const iat = Math.floor(nowMs() / 1000)
    const exp = iat + Math.floor(behaviour.tokenLifeMs / 1000)
    const token = `${part({ alg: 'none' })}.${part({ iat, exp, jti: String(++tokenNumber) })}.c2ln`
    tokens.set(token, nowMs() + behaviour.tokenLifeMs)
    return token
  }

  function send(response: ServerResponse, { status, body }: RunaiReply): void {
    const text = stringifyExact(body)
    const accepts = String(response.req.headers['accept-encoding'] ?? '').includes('gzip')
    if (behaviour.gzip && accepts && text.length > 1024)
      response
        .writeHead(status, { 'content-type': 'application/json', 'content-encoding': 'gzip' })
        .end(gzipSync(text, { level: 1 }))
    else response.writeHead(status, { 'content-type': 'application/json' }).end(text)
  }

  const server = createServer((request, response) => {
    answer(request, response).catch(error => {
      if (response.headersSent || response.destroyed) return
      send(response, problem(500, error instanceof Error ? error.message : 'failed'))
    })
  })
  server.listen(options.port ?? 0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const close = async () => {
    closing.abort()
    if (!server.listening) return
    const closed = once(server, 'close')
    server.close()
    server.closeAllConnections()
    await closed
  }
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    fixture,
    behaviour,
    calls,
    revokeTokens: () => tokens.clear(),
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** The lists and counts of clusters, workloads and pods. */
function listRoutes(fixture: RunaiFixture, behaviour: RunaiBehaviour): readonly RunaiRoute[] {
  const get = (
    endpoint: string,
    path: RegExp,
    rows: (nowMs: number, version: RunaiVersion) => readonly JsonObject[],
    key: string,
  ): readonly RunaiRoute[] => [
    {
      endpoint,
      method: 'GET',
      path: new RegExp(`^${path.source}$`),
      answer: (call, _, { nowMs, version }) => {
        const kept = chosen(rows(nowMs, version), call, key, version)
        if ('status' in kept) return kept
        return paged(
          kept.rows.filter(row => !behaviour.hidden(row, call.query)),
          call,
          key,
        )
      },
    },
    {
      endpoint: `${endpoint}_count`,
      method: 'GET',
      path: new RegExp(`^${path.source}/count$`),
      answer: (call, _, { nowMs, version }) => {
        const kept = chosen(rows(nowMs, version), call, key, version)
        if ('status' in kept) return kept
        return { status: 200, body: { count: whole(Math.max(0, kept.rows.length + behaviour.countError)) } }
      },
    },
  ]

  function paged(
    rows: readonly JsonObject[],
    call: RunaiCall,
    key: string,
    next: 'with next' | 'without next' = 'with next',
  ): RunaiReply {
    const limit = call.query.limit === undefined ? behaviour.defaultLimit : Number(call.query.limit)
    const offset = Number(call.query.offset ?? '0')
    if (!Number.isInteger(limit) || limit < 1 || limit > behaviour.limitMax || !(offset >= 0))
      return problem(400, 'limit and offset are whole numbers, limit at most 500.')
    const page = rows.slice(offset, offset + limit)
    const isLast = next === 'without next' || offset + limit >= rows.length
    return { status: 200, body: { [key]: page, ...(!isLast && { next: whole(offset + limit) }) } }
  }

  return [
    {
      endpoint: 'clusters',
      method: 'GET',
      path: /^\/api\/v1\/clusters$/,
      answer: (_, __, { nowMs }) => ({ status: 200, body: clusterRows(fixture, nowMs) }),
    },
    ...get(
      'workloads',
      /\/api\/v1\/workloads/,
      (nowMs, version) => workloadRows(fixture, nowMs, version),
      'workloads',
    ),
    ...get(
      'pods',
      /\/api\/v1\/workloads\/pods/,
      (nowMs, version) => podRows(fixture, nowMs, version),
      'pods',
    ),
    {
      endpoint: 'nodes',
      method: 'GET',
      path: /^\/api\/v1\/nodes$/,
      answer: (call, _, { version }) => {
        if (version === '2.19') return problem(404, 'Resource not found.')
        const clusterId = /^clusterUuid==(.+)$/.exec(call.query.filterBy ?? '')?.[1]
        const rows = nodeRows(fixture).filter(row => clusterId === undefined || row.clusterUuid === clusterId)
        return paged(rows, call, 'nodes', 'without next')
      },
    },
    {
      endpoint: 'cluster_nodes',
      method: 'GET',
      path: /^\/api\/v1\/clusters\/([^/]+)\/nodes$/,
      answer: (call, match, { version }) => {
        const rows = nodeRows(fixture).filter(row => row.clusterUuid === match[1])
        // All at once before it had pages.
        return version === '2.19'
          ? { status: 200, body: { nodes: rows } }
          : paged(rows, call, 'nodes', 'without next')
      },
    },
    {
      endpoint: 'workload',
      method: 'GET',
      path: /^\/api\/v1\/workloads\/([0-9a-f-]{36})$/,
      answer: (_, match, { nowMs, version }) => {
        const row = workloadRows(fixture, nowMs, version).find(({ id }) => id === match[1])
        return row ? { status: 200, body: row } : problem(404, 'Resource id not found.')
      },
    },
  ]
}

const filterFields: Readonly<Record<string, readonly string[]>> = {
  workloads: [
    'type',
    'name',
    'clusterId',
    'projectId',
    'projectName',
    'departmentId',
    'departmentName',
    'createdAt',
    'deletedAt',
    'submittedBy',
    'phase',
    'completedAt',
  ],
  pods: ['clusterId', 'nodeName', 'currentNodepool', 'createdAt', 'completedAt', 'deletedAt'],
}
const laterFilterFields: Readonly<Record<string, readonly string[]>> = {
  workloads: ['phaseUpdatedAt', 'category', 'priorityClassName', 'totalRunningTimeSeconds'],
  pods: ['workloadId', 'revisionId'],
}

/** The rows that a call asks for by deleted, completed, filterBy and sortBy; or why it cannot be answered. */
function chosen(
  rows: readonly JsonObject[],
  call: RunaiCall,
  key: string,
  version: RunaiVersion,
): { readonly rows: readonly JsonObject[] } | RunaiReply {
  const fields = [...(filterFields[key] ?? []), ...(version === '2.19' ? [] : (laterFilterFields[key] ?? []))]
  let kept = rows.filter(row => (row.deletedAt !== null) === (call.query.deleted === 'true'))
  const { completed, filterBy, sortBy = 'createdAt', sortOrder = 'asc' } = call.query
  if (completed === 'true') kept = kept.filter(row => row.completedAt !== null)
  if (completed === 'false') kept = kept.filter(row => row.completedAt === null)
  for (const filter of (filterBy ?? '').split(',').filter(Boolean)) {
    const match = /^([A-Za-z]+)(==|!=|<=|>=|=@|!@|=\^|=\$)(.+)$/.exec(filter)
    const [, field = '', operator = '', value = ''] = match ?? []
    if (!fields.includes(field)) return problem(400, `Filter "${filter.slice(0, 60)}" is not known.`)
    kept = kept.filter(row => passes(row[field], operator, value))
  }
  if (!fields.includes(sortBy)) return problem(400, `Sorting by "${sortBy.slice(0, 60)}" is not known.`)
  const sign = sortOrder === 'desc' ? -1 : 1
  const sorted = kept
    .map(row => ({ row, by: orderOf(row[sortBy]) }))
    .sort((a, b) => (a.by < b.by ? -sign : a.by > b.by ? sign : 0))
  return { rows: sorted.map(({ row }) => row) }
}

/** As a database compares: what is null passes no filter. */
function passes(value: Json | undefined, operator: string, wanted: string): boolean {
  if (value === null || value === undefined) return false
  const own = orderOf(value)
  const other = typeof own === 'number' ? (instantMs(wanted) ?? Number(wanted)) : wanted
  switch (operator) {
    case '==':
      return own === other
    case '!=':
      return own !== other
    case '<=':
      return own <= other
    case '>=':
      return own >= other
    case '=@':
      return String(own).includes(wanted)
    case '!@':
      return !String(own).includes(wanted)
    case '=^':
      return String(own).startsWith(wanted)
    default:
      return String(own).endsWith(wanted)
  }
}

function orderOf(value: Json | undefined): string | number {
  if (value instanceof JsonNumber) return Number(value.text)
  return typeof value === 'string' ? (instantMs(value) ?? value) : ''
}

const tenantId = whole(1001)
const time = (ms: number | undefined): string | null => (ms === undefined ? null : new Date(ms).toISOString())

function clusterRows(fixture: RunaiFixture, nowMs: number): readonly JsonObject[] {
  return fixture.clusters.map(({ id, name, createdMs, deletedMs, lostMs }) => {
    const lost = lostMs !== undefined && lostMs <= nowMs
    return {
      uuid: id,
      tenantId,
      name,
      createdAt: time(createdMs),
      domain: `${name}.example.com`,
      version: '2.24.0',
      status: { state: lost ? 'Disconnected' : 'Connected', conditions: [] },
      updatedAt: time(createdMs),
      deletedAt: time(deletedMs !== undefined && deletedMs <= nowMs ? deletedMs : undefined),
      lastLiveness: time(lost ? lostMs : nowMs),
      deleteRequestedAt: null,
    }
  })
}

function workloadRows(
  fixture: RunaiFixture,
  nowMs: number,
  version: RunaiVersion,
): readonly (JsonObject & { id: string })[] {
  const podsOf = Map.groupBy(fixture.pods, pod => pod.workloadId)
  return fixture.workloads
    .filter(({ createdMs }) => createdMs <= nowMs)
    .map(workload => {
      const known = (ms: number | undefined) => (ms !== undefined && ms <= nowMs ? ms : undefined)
      const completedMs = known(workload.completedMs)
      const deletedMs = known(workload.deletedMs)
      const phases = workload.phases ?? [
        { atMs: workload.createdMs, phase: 'Running' },
        ...(workload.completedMs === undefined ? [] : [{ atMs: workload.completedMs, phase: 'Completed' }]),
      ]
      const last = phases.filter(({ atMs }) => atMs <= nowMs).at(-1)
      const running = (podsOf.get(workload.id) ?? []).filter(
        pod =>
          known(pod.startedMs) !== undefined &&
          known(pod.completedMs) === undefined &&
          known(pod.deletedMs) === undefined,
      ).length
      return {
        tenantId,
        type: workload.type,
        name: workload.name,
        id: workload.id,
        source: 'CLI',
        priority: whole(50),
        priorityClassName: workload.priorityClassName,
        submittedBy: workload.submittedBy,
        clusterId: workload.clusterId,
        projectName: workload.projectName,
        projectId: workload.projectId,
        departmentName: workload.departmentName,
        departmentId: workload.departmentId,
        namespace: `runai-${workload.projectName}`,
        createdAt: time(workload.createdMs),
        completedAt: time(completedMs),
        deletedAt: time(deletedMs),
        phase: last?.phase ?? 'Creating',
        phaseUpdatedAt: time(last?.atMs ?? workload.createdMs),
        k8sPhase: last?.phase ?? 'Creating',
        k8sPhaseUpdatedAt: time(last?.atMs ?? workload.createdMs),
        updatedAt: time(nowMs),
        runningPods: whole(running),
        requestedPods: { number: whole(1) },
        conditions: [],
        ...(version !== '2.19' && { category: workload.category, preemptible: workload.preemptible }),
        ...(version !== '2.19' &&
          workload.totalRunningTimeSeconds !== undefined && {
            totalRunningTimeSeconds: whole(workload.totalRunningTimeSeconds),
          }),
        environmentVariables: workload.environmentVariables ?? {},
        images: ['alpine:latest'],
        ...workload.row,
      }
    })
}

function podRows(fixture: RunaiFixture, nowMs: number, version: RunaiVersion): readonly JsonObject[] {
  const workloads = new Map(fixture.workloads.map(workload => [workload.id, workload]))
  return fixture.pods
    .filter(({ createdMs, lagMs = 0 }) => createdMs + lagMs <= nowMs)
    .map(pod => {
      const known = (ms: number | undefined) =>
        ms !== undefined && ms + (pod.lagMs ?? 0) <= nowMs ? ms : undefined
      const startedMs = known(pod.startedMs)
      const completedMs = known(pod.completedMs)
      const workload = workloads.get(pod.workloadId)
      const [phase, phaseMs] =
        completedMs !== undefined
          ? [pod.outcome ?? 'Succeeded', completedMs]
          : startedMs !== undefined
            ? ['Running', startedMs]
            : ['Pending', pod.createdMs]
      const { gpu, gpuMemory, cpu, cpuMemory } = pod.allocated ?? {}
      const number = (text: string | undefined) => (text === undefined ? null : new JsonNumber(text))
      return {
        name: pod.name,
        id: pod.id,
        priorityClassName: workload?.priorityClassName ?? '',
        workloadId: pod.workloadId,
        clusterId: pod.clusterId,
        ...(workload && { projectId: workload.projectId }),
        nodeName: pod.nodeName ?? null,
        createdAt: time(pod.createdMs),
        completedAt: time(completedMs),
        containers: [{ name: 'main', image: 'alpine:latest', startedAt: time(startedMs) }],
        currentNodePool: pod.nodePool ?? null,
        requestedNodePools: ['default'],
        requestedResources: pod.requested ?? null,
        allocatedResources:
          startedMs === undefined || !pod.allocated
            ? null
            : {
                gpu: number(gpu),
                gpuMemory: gpuMemory ?? null,
                cpu: number(cpu),
                cpuMemory: cpuMemory ?? null,
              },
        tolerations: [],
        k8sPhase: phase,
        ip: null,
        tenantId,
        k8sPhaseUpdatedAt: time(phaseMs),
        updatedAt: time(phaseMs),
        deletedAt: time(known(pod.deletedMs)),
        ...(version !== '2.19' && { revisionId: null }),
        ...(workload && { projectName: workload.projectName, workloadName: workload.name }),
        ...pod.row,
      }
    })
}

function nodeRows(fixture: RunaiFixture): readonly JsonObject[] {
  return fixture.nodes.map(node => ({
    id: node.id,
    name: node.name,
    clusterUuid: node.clusterId,
    status: 'Ready',
    conditions: [],
    taints: [],
    nodePool: node.nodePool,
    createdAt: time(0),
    updatedAt: time(0),
    gpuInfo:
      node.gpuType === undefined ? null : { gpuType: node.gpuType, gpuCount: whole(node.gpuCount ?? 1) },
    ...node.row,
  }))
}

function problem(status: number, message: string): RunaiReply {
  return { status, body: { code: whole(status), message, details: message } }
}

function bent(body: Json, how: 'list' | 'empty_object' | 'null_rows' | 'cut' | 'truncated'): Json {
  if (how === 'list') return [body]
  if (how === 'empty_object') return {}
  if (how !== 'null_rows' || !isJsonObject(body)) return body
  return Object.fromEntries(
    Object.entries(body).map(([key, value]) => [key, isJsonArray(value) ? null : value]),
  )
}

/** Keys whatever their case, as Go's JSON reads them. */
function foldedKeys(text: string): Readonly<Record<string, Json | undefined>> {
  try {
    const body = parseExact(text)
    if (!isJsonObject(body)) return {}
    return Object.fromEntries(Object.entries(body).map(([key, value]) => [key.toLowerCase(), value]))
  } catch {
    return {}
  }
}

function whole(value: number): JsonNumber {
  return new JsonNumber(String(value))
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}
