/**
 * A stand-in for a Kubernetes API server over HTTP: lists in chunks, watches with bookmarks, a history that can be
 * compacted, and what a cluster does to its pods, by a clock that it is given. What tests make misbehave.
 */
import { Buffer } from 'node:buffer'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { secondMs, showInstant } from '../../schemas/window.ts'

/** An object as the API writes it; of numbers only small whole ones. */
export type KubernetesObject = Record<string, unknown> & { metadata: KubernetesMeta }
export interface KubernetesMeta {
  name: string
  namespace?: string
  uid: string
  resourceVersion?: string
  creationTimestamp?: string
  deletionTimestamp?: string
  deletionGracePeriodSeconds?: number
  labels?: Record<string, string>
  annotations?: Record<string, string>
  managedFields?: unknown[]
  ownerReferences?: unknown[]
  finalizers?: string[]
}

const kinds: Readonly<Record<string, readonly [path: string, kind: string, apiVersion: string]>> = {
  pods: ['/api/v1/pods', 'Pod', 'v1'],
  nodes: ['/api/v1/nodes', 'Node', 'v1'],
  namespaces: ['/api/v1/namespaces', 'Namespace', 'v1'],
  persistentvolumeclaims: ['/api/v1/persistentvolumeclaims', 'PersistentVolumeClaim', 'v1'],
  persistentvolumes: ['/api/v1/persistentvolumes', 'PersistentVolume', 'v1'],
  services: ['/api/v1/services', 'Service', 'v1'],
  resourceclaims: ['/apis/resource.k8s.io/v1/resourceclaims', 'ResourceClaim', 'resource.k8s.io/v1'],
  resourceslices: ['/apis/resource.k8s.io/v1/resourceslices', 'ResourceSlice', 'resource.k8s.io/v1'],
}
export type KubernetesResource = keyof typeof kinds & string

/**
 * What can go wrong with an answer: a status; `cut` (the connection ends in mid-body), `truncated` (whole by its length,
 * half a JSON), `reset` (no answer), `hang`; a body of another shape; `gone`, the 410 that says that history is gone;
 * of a list `expired`, the same for its next chunk; of a watch `silence`: it opens and says nothing, ever.
 */
export type KubernetesMisbehaviour =
  | { readonly status: number; readonly retryAfter?: string; readonly html?: boolean }
  /** It is what it should be, but begins only then. */
  | { readonly after: Promise<void> }
  | 'cut'
  | 'truncated'
  | 'reset'
  | 'hang'
  | 'list'
  | 'empty_object'
  | 'gone'
  | 'expired'
  | 'silence'

export interface KubernetesFault {
  readonly on?: 'list' | 'watch'
  readonly resource?: string
  /** How many calls it hits; all where absent. */
  times?: number
  readonly answer: KubernetesMisbehaviour
}

/** What happens to the watches that are open: they end, whole or not, or say that something is wrong. */
export type KubernetesBreak = 'end' | 'reset' | 'mid_line' | 'broken_line' | 'error_410' | 'error_500'

export interface KubernetesCall {
  readonly verb: 'list' | 'watch' | 'get'
  readonly resource: string
  readonly path: string
  readonly query: Readonly<Record<string, string>>
}

export interface KubernetesDoubleOptions {
  readonly nowMs: () => number
  readonly token?: string
  /** Serves resource.k8s.io too. */
  readonly claims?: boolean
  /** How a watch from before the history is refused: real servers do both. */
  readonly gone?: 'http' | 'stream'
  /** By the clock of the machine; none by themselves where absent. */
  readonly bookmarkMs?: number
}

interface Happened {
  readonly version: number
  readonly resource: string
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED'
  readonly object: string
}
interface Watching {
  readonly resource: string
  readonly response: ServerResponse
  readonly bookmarks: boolean
}

export type KubernetesDouble = Awaited<ReturnType<typeof startKubernetesDouble>>

export async function startKubernetesDouble(options: KubernetesDoubleOptions) {
  const { nowMs, token } = options
  const objects = new Map<string, Map<string, KubernetesObject>>(
    Object.keys(kinds).map(resource => [resource, new Map()]),
  )
  /** Lists that are being read in chunks: each is one moment. */
  const snapshots = new Map<string, { readonly version: number; readonly items: readonly string[] }>()
  const watches = new Set<Watching>()
  const faults: KubernetesFault[] = []
  const denied = new Set<string>()
  const calls: KubernetesCall[] = []
  const metrics = new Map<string, string>()
  let history: Happened[] = []
  let version = 1000
  let compacted = 1000
  let snapshotCount = 0

  const server = createServer((request, response) => {
    void answer(request, response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const ticking =
    options.bookmarkMs === undefined ? undefined : setInterval(() => bookmark(), options.bookmarkMs)

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const asked = new URL(request.url ?? '/', url)
    const query = Object.fromEntries(asked.searchParams)
    const path = asked.pathname
    if (token !== undefined && request.headers.authorization !== `Bearer ${token}`) {
      sendStatus(response, 401, 'Unauthorized', 'Unauthorized')
      return
    }
    const node = /^\/api\/v1\/nodes\/([^/]+)\/proxy\/metrics\/cadvisor$/.exec(path)?.[1]
    if (node !== undefined) {
      calls.push({ verb: 'get', resource: 'nodes/proxy', path, query })
      const text = metrics.get(decodeURIComponent(node))
      if (denied.has('nodes/proxy')) sendStatus(response, 403, 'Forbidden', 'nodes/proxy is forbidden')
      else if (text === undefined) sendStatus(response, 404, 'NotFound', `nodes "${node}" not found`)
      else response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4' }).end(text)
      return
    }
    if (path === '/apis/resource.k8s.io' && options.claims) {
      calls.push({ verb: 'get', resource: 'resource.k8s.io', path, query })
      sendJson(response, 200, {
        kind: 'APIGroup',
        apiVersion: 'v1',
        name: 'resource.k8s.io',
        versions: [{ groupVersion: 'resource.k8s.io/v1', version: 'v1' }],
      })
      return
    }
    const resource = Object.entries(kinds).find(([, [at]]) => at === path)?.[0]
    if (resource === undefined || (path.startsWith('/apis/') && !options.claims)) {
      sendStatus(response, 404, 'NotFound', 'the server could not find the requested resource')
      return
    }
    const verb = query.watch === 'true' || query.watch === '1' ? 'watch' : 'list'
    calls.push({ verb, resource, path, query })
    if (denied.has(resource)) {
      sendStatus(
        response,
        403,
        'Forbidden',
        `${resource} is forbidden: User "system:serviceaccount:meterline:meterline" cannot ${verb} resource "${resource}" in API group "" at the cluster scope`,
      )
      return
    }
    const fault = faults.find(
      each => (each.on ?? verb) === verb && (each.resource ?? resource) === resource && (each.times ?? 1) > 0,
    )
    if (fault) {
      if (fault.times !== undefined) fault.times -= 1
      if (typeof fault.answer !== 'object' || 'status' in fault.answer) {
        misbehave(response, fault.answer, () =>
          verb === 'watch' ? watch(resource, query, response, true) : list(resource, query, response),
        )
        return
      }
      await fault.answer.after
    }
    if (verb === 'watch') watch(resource, query, response)
    else list(resource, query, response)
  }

  function misbehave(
    response: ServerResponse,
    how: Exclude<KubernetesMisbehaviour, { readonly after: unknown }>,
    otherwise: () => void,
  ): void {
    if (typeof how === 'object') {
      const headers = how.retryAfter === undefined ? {} : { 'retry-after': how.retryAfter }
      if (how.html)
        response
          .writeHead(how.status, { 'content-type': 'text/html', ...headers })
          .end('<html>bad gateway</html>')
      else sendStatus(response, how.status, 'Broken', 'made to fail', headers)
      return
    }
    const half = '{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[{"meta'
    switch (how) {
      case 'cut':
        response.writeHead(200, { 'content-type': 'application/json', 'content-length': '5000' })
        response.write(half, () => response.destroy())
        return
      case 'truncated':
        response.writeHead(200, { 'content-type': 'application/json' }).end(half)
        return
      case 'reset':
        response.destroy()
        return
      case 'hang':
        return
      case 'list':
        sendJson(response, 200, [])
        return
      case 'empty_object':
        sendJson(response, 200, {})
        return
      case 'gone':
        sendExpired(response)
        return
      case 'expired':
        snapshots.clear()
        otherwise()
        return
      case 'silence':
        otherwise()
    }
  }

  function list(resource: string, query: Readonly<Record<string, string>>, response: ServerResponse): void {
    const [, kind, apiVersion] = kinds[resource]!
    const limit = Number(query.limit ?? '0') || Number.POSITIVE_INFINITY
    let from = 0
    let id: string
    let snapshot: { readonly version: number; readonly items: readonly string[] } | undefined
    if (query.continue) {
      const [given = '', offset = ''] = Buffer.from(query.continue, 'base64url').toString().split(' ')
      id = given
      from = Number(offset)
      snapshot = snapshots.get(id)
      if (!snapshot) {
        // The token that goes on as of now: whoever takes it gets a list that is no snapshot.
        sendJson(response, 410, {
          ...statusOf(
            410,
            'Expired',
            'The provided continue parameter is too old to display a consistent list result.',
          ),
          metadata: { continue: Buffer.from(`now ${offset}`).toString('base64url') },
        })
        return
      }
    } else {
      // Another moment than now is not kept; 0 means any.
      if (query.resourceVersionMatch === 'Exact' && Number(query.resourceVersion) !== version) {
        sendExpired(response)
        return
      }
      if (query.resourceVersion !== undefined && Number(query.resourceVersion) > version) {
        sendStatus(response, 504, 'Timeout', 'Too large resource version')
        return
      }
      id = String(snapshotCount++)
      const selected = [...objects.get(resource)!.values()].filter(matching(query.fieldSelector))
      snapshot = {
        version,
        items: selected.sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1)).map(object => JSON.stringify(object)),
      }
    }
    const items = snapshot.items.slice(from, from + limit)
    const left = snapshot.items.length - from - items.length
    if (left > 0) snapshots.set(id, snapshot)
    else snapshots.delete(id)
    const metadata = {
      resourceVersion: String(snapshot.version),
      ...(left > 0 && {
        continue: Buffer.from(`${id} ${from + items.length}`).toString('base64url'),
        remainingItemCount: left,
      }),
    }
    const head = JSON.stringify({ kind: `${kind}List`, apiVersion, metadata }).slice(0, -1)
    response
      .writeHead(200, { 'content-type': 'application/json' })
      .end(`${head},"items":[${items.join(',')}]}`)
  }

  function watch(
    resource: string,
    query: Readonly<Record<string, string>>,
    response: ServerResponse,
    silent = false,
  ): void {
    const from = Number(query.resourceVersion ?? '0')
    if (from > 0 && from < compacted && !silent) {
      if (options.gone === 'http') {
        sendExpired(response)
        return
      }
      response.writeHead(200, { 'content-type': 'application/json' })
      response.end(`${JSON.stringify({ type: 'ERROR', object: expired() })}\n`)
      return
    }
    response.writeHead(200, { 'content-type': 'application/json' })
    response.flushHeaders()
    if (silent) return
    const one: Watching = { resource, response, bookmarks: query.allowWatchBookmarks === 'true' }
    // From nowhere: first all that is there.
    if (from === 0)
      for (const object of objects.get(resource)!.values())
        response.write(line(resource, 'ADDED', JSON.stringify(object)))
    for (const each of history)
      if (each.resource === resource && each.version > from && from > 0)
        response.write(line(resource, each.type, each.object))
    watches.add(one)
    const seconds = Number(query.timeoutSeconds ?? '0')
    const timer = seconds > 0 ? setTimeout(() => response.end(), seconds * secondMs) : undefined
    response.on('close', () => {
      clearTimeout(timer)
      watches.delete(one)
    })
  }

  function line(resource: string, type: string, object: string): string {
    const [, kind, apiVersion] = kinds[resource]!
    // In a watch an object says what it is; in a list it does not.
    return `{"type":"${type}","object":{"kind":"${kind}","apiVersion":"${apiVersion}",${object.slice(1)}}\n`
  }

  function happen(resource: string, type: Happened['type'], object: KubernetesObject): void {
    const text = JSON.stringify(object)
    history.push({ version, resource, type, object: text })
    for (const each of watches)
      if (each.resource === resource) each.response.write(line(resource, type, text))
  }

  /** Creates an object, or writes over the one of its uid. */
  function apply(resource: KubernetesResource, object: KubernetesObject): KubernetesObject {
    version += 1
    const before = objects.get(resource)!.get(object.metadata.uid)
    const now = showInstant(Math.floor(nowMs() / secondMs) * secondMs)
    const stored: KubernetesObject = {
      ...object,
      metadata: {
        ...object.metadata,
        resourceVersion: String(version),
        creationTimestamp: object.metadata.creationTimestamp ?? now,
        managedFields: [
          {
            manager: 'double',
            operation: 'Update',
            apiVersion: 'v1',
            time: now,
            fieldsType: 'FieldsV1',
            fieldsV1: {},
          },
        ],
      },
    }
    objects.get(resource)!.set(object.metadata.uid, stored)
    happen(resource, before ? 'MODIFIED' : 'ADDED', stored)
    return stored
  }

  /** Takes an object out, as when its last finalizer is gone. */
  function remove(resource: KubernetesResource, uid: string): void {
    const object = objects.get(resource)!.get(uid)
    if (!object) return
    version += 1
    objects.get(resource)!.delete(uid)
    happen(resource, 'DELETED', {
      ...object,
      metadata: { ...object.metadata, resourceVersion: String(version) },
    })
  }

  function bookmark(): void {
    // One counter for all of a cluster: something else happens all the time.
    version += 1
    for (const { resource, response, bookmarks } of watches) {
      const [, kind, apiVersion] = kinds[resource]!
      if (bookmarks)
        response.write(
          `${JSON.stringify({
            type: 'BOOKMARK',
            object: {
              kind,
              apiVersion,
              metadata: { resourceVersion: String(version), creationTimestamp: null },
            },
          })}\n`,
        )
    }
  }

  function breakWatches(how: KubernetesBreak, resource?: string): void {
    for (const each of [...watches]) {
      if (resource !== undefined && each.resource !== resource) continue
      const { response } = each
      watches.delete(each)
      if (how === 'end') response.end()
      else if (how === 'reset') response.destroy()
      else if (how === 'mid_line')
        response.write('{"type":"MODIFIED","object":{"metadata":{"uid":"ha', () => response.destroy())
      else if (how === 'broken_line') response.end('{"type":"MODIFIED","object":{"metadata":{"uid":\n')
      else {
        const status =
          how === 'error_410' ? expired() : statusOf(500, 'InternalError', 'etcdserver: leader changed')
        response.end(`${JSON.stringify({ type: 'ERROR', object: status })}\n`)
      }
    }
  }

  function get(resource: KubernetesResource, uid: string): KubernetesObject {
    const object = objects.get(resource)?.get(uid)
    if (!object) throw new Error(`the double has no ${resource} ${uid}`)
    return structuredClone(object)
  }

  return {
    url,
    apply,
    remove,
    get,
    has: (resource: KubernetesResource, uid: string): boolean => objects.get(resource)?.has(uid) ?? false,
    /** Tells all watches how far they are. */
    bookmark,
    breakWatches,
    /** Forgets what has been: a watch from before finds it gone. */
    compact(): void {
      history = []
      compacted = version
      snapshots.clear()
    },
    /** Later ones wait until those before them are used up. */
    faults,
    /** Resources that this account may not see. */
    denied,
    /** The text of cAdvisor, by node. */
    metrics,
    calls,
    watching: (resource: KubernetesResource): number =>
      [...watches].filter(each => each.resource === resource).length,
    version: (): number => version,
    async close(): Promise<void> {
      clearInterval(ticking)
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

function keyOf({ metadata }: KubernetesObject): string {
  return `${metadata.namespace ?? ''}/${metadata.name}`
}

/** `=`, `==` and `!=` on the fields that the API server knows of any kind, and those of pods. */
function matching(selector: string | undefined): (object: KubernetesObject) => boolean {
  const terms = (selector ?? '')
    .split(',')
    .filter(term => term !== '')
    .map(term => /^([\w.]+)(!=|==?)(.*)$/.exec(term))
  return object =>
    terms.every(term => {
      if (!term) return false
      const [, path = '', operator, wanted] = term
      let value: unknown = object
      for (const part of path.split('.')) value = (value as Record<string, unknown> | undefined)?.[part]
      return ((value ?? '') === wanted) === (operator !== '!=')
    })
}

function statusOf(code: number, reason: string, message: string) {
  return { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Failure', message, reason, code }
}

function expired() {
  return statusOf(410, 'Expired', 'too old resource version: 1 (2)')
}

function sendJson(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
}

function sendStatus(
  response: ServerResponse,
  code: number,
  reason: string,
  message: string,
  headers: Record<string, string> = {},
): void {
  sendJson(response, code, statusOf(code, reason, message), headers)
}

function sendExpired(response: ServerResponse): void {
  sendJson(response, 410, expired())
}

// -- what a cluster does to its pods

export interface PodPlan {
  readonly uid: string
  readonly name?: string
  readonly namespace?: string
  readonly node?: string
  readonly labels?: Record<string, string>
  readonly annotations?: Record<string, string>
  readonly requests?: Record<string, string>
  readonly spec?: Record<string, unknown>
}

type Fields = Record<string, unknown>

/** The scheduler, the kubelets and the one who deletes, by the clock of the double; times are whole seconds. */
export function clusterOf(double: KubernetesDouble, nowMs: () => number) {
  const now = () => showInstant(Math.floor(nowMs() / secondMs) * secondMs)
  const pod = (uid: string) => {
    const object = double.get('pods', uid)
    return { object, spec: object.spec as Fields, status: object.status as Fields }
  }
  const statusesOf = (spec: Fields, state: unknown) =>
    (spec.containers as Fields[]).map(({ name }) => ({ name, state, restartCount: 0 }))

  return {
    node(name: string, labels: Record<string, string> = {}): void {
      double.apply('nodes', { metadata: { name, uid: `node-${name}`, labels }, spec: {}, status: {} })
    },
    namespace(
      name: string,
      labels: Record<string, string> = {},
      annotations: Record<string, string> = {},
    ): void {
      double.apply('namespaces', {
        metadata: { name, uid: `namespace-${name}`, labels, annotations },
        spec: {},
        status: { phase: 'Active' },
      })
    },
    create({
      uid,
      name = uid,
      namespace = 'default',
      labels,
      annotations,
      requests = {},
      spec = {},
    }: PodPlan): void {
      double.apply('pods', {
        metadata: { name, namespace, uid, ...(labels && { labels }), ...(annotations && { annotations }) },
        spec: { containers: [{ name: 'main', resources: { requests } }], ...spec },
        status: {
          phase: 'Pending',
          conditions: [{ type: 'PodScheduled', status: 'False', lastTransitionTime: now() }],
        },
      })
    },
    /** The scheduler binds it to a node: from here on it holds what it requests. */
    schedule(uid: string, node = 'node-1'): void {
      const { object, spec, status } = pod(uid)
      double.apply('pods', {
        ...object,
        spec: { ...spec, nodeName: node },
        status: {
          ...status,
          conditions: [{ type: 'PodScheduled', status: 'True', lastTransitionTime: now() }],
        },
      })
    },
    start(uid: string): void {
      const { object, spec, status } = pod(uid)
      double.apply('pods', {
        ...object,
        status: {
          ...status,
          phase: 'Running',
          startTime: status.startTime ?? now(),
          containerStatuses: statusesOf(spec, { running: { startedAt: now() } }),
        },
      })
    },
    /** A container ends and is begun again: the pod keeps what it holds. */
    restart(uid: string): void {
      const { object, status } = pod(uid)
      const statuses = (status.containerStatuses as Fields[]).map(each => {
        const { startedAt } = ((each.state as Fields).running ?? {}) as Fields
        return {
          ...each,
          restartCount: Number(each.restartCount) + 1,
          lastState: { terminated: { exitCode: 1, startedAt, finishedAt: now() } },
          state: { running: { startedAt: now() } },
        }
      })
      double.apply('pods', { ...object, status: { ...status, containerStatuses: statuses } })
    },
    /** All containers have ended; a phase where that is the end of the pod. */
    finish(uid: string, phase?: 'Succeeded' | 'Failed'): void {
      const { object, status } = pod(uid)
      const statuses = (status.containerStatuses as Fields[]).map(each => {
        const { startedAt } = ((each.state as Fields).running ?? {}) as Fields
        return {
          ...each,
          state: { terminated: { exitCode: 0, startedAt: startedAt ?? now(), finishedAt: now() } },
        }
      })
      double.apply('pods', {
        ...object,
        status: { ...status, ...(phase && { phase }), containerStatuses: statuses },
      })
    },
    /** The request to delete it: it goes on until its grace is over or its containers have ended. */
    ask(uid: string, graceSeconds = 30): void {
      const { object } = pod(uid)
      const at = showInstant((Math.floor(nowMs() / secondMs) + graceSeconds) * secondMs)
      double.apply('pods', {
        ...object,
        metadata: { ...object.metadata, deletionTimestamp: at, deletionGracePeriodSeconds: graceSeconds },
      })
    },
    /** The object is taken out: after `ask` and `finish` by the kubelet, or by force without them. */
    remove(uid: string): void {
      double.remove('pods', uid)
    },
    resize(uid: string, requests: Record<string, string>): void {
      const { object, spec, status } = pod(uid)
      const containers = (spec.containers as Fields[]).map(each => ({ ...each, resources: { requests } }))
      const statuses = ((status.containerStatuses ?? []) as Fields[]).map(each => ({
        ...each,
        allocatedResources: requests,
        resources: { requests },
      }))
      double.apply('pods', {
        ...object,
        spec: { ...spec, containers },
        status: { ...status, ...(statuses.length > 0 && { containerStatuses: statuses }) },
      })
    },
  }
}
