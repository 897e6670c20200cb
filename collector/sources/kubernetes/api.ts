/**
 * The two calls of the Kubernetes API that metering needs, to the letter of its protocol: a list in chunks that is one
 * moment of the cluster, and a watch that goes on from there. What an object says is objects.ts; when to call is watch.ts.
 */
import type { Http, HttpRequest } from '../../../runtime/http.ts'
import { Fault } from '../../../schemas/fault.ts'
import { isJsonArray, isJsonObject, type Json, JsonNumber, type JsonObject } from '../../../schemas/json.ts'
import { secondMs } from '../../../schemas/window.ts'
import type { Connection } from './connection.ts'
import { parseLean } from './lean.ts'

/** A resource of the API: its plural name, and where its lists are. */
export interface Resource {
  readonly name: string
  /** `/api/v1/pods` */
  readonly path: string
}

export type Change = 'ADDED' | 'MODIFIED' | 'DELETED'

export interface WatchEvent {
  readonly type: Change | 'BOOKMARK'
  readonly object: JsonObject
  readonly resourceVersion: string
}

/** The history from this version on is gone: only a new list helps. In HTTP or in the stream, it means the same. */
export class Expired extends Error {
  override readonly name = 'Expired'
}

export interface ApiOptions {
  readonly connection: Connection
  readonly http: Http
  /** Objects in a chunk. */
  readonly pageSize: number
  readonly watchTimeoutSeconds: number
  readonly silenceMs: number
}

/** A snapshot that expires while it is read is begun anew this often. */
const restartsMax = 4
/** etcd takes no object above 1.5 MiB by default; escaped in JSON it may be longer. */
const lineLengthMax = 32 * 1024 * 1024

export type Api = ReturnType<typeof openApi>

export function openApi(options: ApiOptions) {
  const { connection, http, pageSize } = options

  function call(
    path: string,
    endpoint: string,
    query: Readonly<Record<string, string>>,
  ): Omit<HttpRequest, 'signal'> {
    const asked = new URLSearchParams(query).toString()
    return {
      url: `${connection.url()}${path}${asked === '' ? '' : `?${asked}`}`,
      endpoint: `kubernetes.${endpoint}`,
      headers: connection.headers(),
    }
  }

  /** One document. */
  async function get(
    path: string,
    endpoint: string,
    signal: AbortSignal,
    query: Readonly<Record<string, string>> = {},
  ): Promise<JsonObject> {
    const answer = await http.request({ ...call(path, endpoint, query), signal })
    return objectOf(answer.text, `kubernetes.${endpoint}`)
  }

  /** A text, such as metrics. */
  async function text(path: string, endpoint: string, signal: AbortSignal): Promise<string> {
    const { headers, ...rest } = call(path, endpoint, {})
    const answer = await http.request({ ...rest, headers: { ...headers, accept: 'text/plain' }, signal })
    return answer.text
  }

  /**
   * Every object there is, as of one version of the cluster. `take` gets each once; it begins anew with `reset` where the
   * snapshot expired meanwhile.
   */
  async function list(
    resource: Resource,
    visit: { readonly reset: () => void; readonly take: (item: JsonObject) => void },
    signal: AbortSignal,
  ): Promise<{ readonly resourceVersion: string }> {
    const endpoint = `list_${resource.name}`
    for (let restarts = 0; ; restarts++) {
      visit.reset()
      try {
        let resourceVersion: string | undefined
        let more = ''
        do {
          const page = await get(resource.path, endpoint, signal, {
            limit: String(pageSize),
            ...(more !== '' && { continue: more }),
          })
          const { items, version, next } = pageOf(page, endpoint)
          // The rest of an expired list may be offered as of another moment: that is no snapshot.
          if (resourceVersion !== undefined && version !== resourceVersion) throw new Expired()
          resourceVersion = version
          for (const item of items) visit.take(item)
          if (next !== '' && next === more)
            throw unreadable(endpoint, 'the token to continue does not move on')
          more = next
        } while (more !== '')
        return { resourceVersion }
      } catch (error) {
        if (!isExpired(error)) throw error
        if (restarts === restartsMax)
          throw new Fault(
            'SOURCE_BUSY',
            `kubernetes.${endpoint}: the list expired ${restarts + 1} times while it was read (pageSize)`,
            { endpoint: `kubernetes.${endpoint}` },
          )
      }
    }
  }

  /**
   * What happens after this version, in batches as they come, until the server ends the watch, as it does in its time.
   * @throws Expired; Fault as Http.stream, or BODY_UNREADABLE | SOURCE_BUSY for what the stream itself says
   */
  async function* watch(
    resource: Resource,
    resourceVersion: string,
    signal: AbortSignal,
    opened: () => void = () => {},
    timeoutSeconds = options.watchTimeoutSeconds,
  ): AsyncGenerator<readonly WatchEvent[]> {
    const endpoint = `watch_${resource.name}`
    const asked = call(resource.path, endpoint, {
      watch: 'true',
      resourceVersion,
      allowWatchBookmarks: 'true',
      timeoutSeconds: String(timeoutSeconds),
    })
    let rest = ''
    try {
      const stream = await http.stream({ ...asked, signal, idleMs: options.silenceMs })
      opened()
      for await (const piece of stream.pieces) {
        const lines = (rest + piece).split('\n')
        rest = lines.pop() ?? ''
        if (rest.length > lineLengthMax)
          throw new Fault('BODY_TOO_LARGE', `kubernetes.${endpoint}: an event of more than 32 MiB`, {
            endpoint,
          })
        const events: WatchEvent[] = []
        let ended: unknown
        for (const line of lines)
          if (line.trim() !== '')
            try {
              events.push(eventOf(line, endpoint))
            } catch (error) {
              // What came before it is whole, and counts.
              ended = error
              break
            }
        if (events.length > 0) yield events
        if (ended) throw ended
      }
    } catch (error) {
      throw isExpired(error) ? new Expired() : error
    }
    // A line that was cut short is told again after the version reached.
  }

  return { get, text, list, watch, watchTimeoutSeconds: options.watchTimeoutSeconds }
}

function isExpired(error: unknown): boolean {
  return error instanceof Expired || (error instanceof Fault && error.facts.status === 410)
}

function unreadable(endpoint: string, why: string): Fault {
  return new Fault('BODY_UNREADABLE', `kubernetes.${endpoint}: ${why}`, {
    endpoint: `kubernetes.${endpoint}`,
  })
}

function objectOf(text: string, endpoint: string): JsonObject {
  let value: Json
  try {
    value = parseLean(text)
  } catch (error) {
    throw new Fault('BODY_UNREADABLE', `${endpoint}: no JSON`, { endpoint }, { cause: error })
  }
  if (!isJsonObject(value)) throw new Fault('BODY_UNREADABLE', `${endpoint}: no JSON object`, { endpoint })
  return value
}

function pageOf(page: JsonObject, endpoint: string) {
  const metadata = isJsonObject(page.metadata) ? page.metadata : {}
  const version = metadata.resourceVersion
  // Go writes an empty list of some kinds as null.
  const items = page.items === null ? [] : page.items
  if (typeof page.kind !== 'string' || !page.kind.endsWith('List') || !isJsonArray(items))
    throw unreadable(endpoint, 'the answer is no list')
  if (typeof version !== 'string' || version === '')
    throw unreadable(endpoint, 'the list has no resourceVersion')
  if (!items.every(isJsonObject)) throw unreadable(endpoint, 'an item of the list is no object')
  const next = metadata.continue ?? ''
  if (typeof next !== 'string') throw unreadable(endpoint, 'the token to continue is no text')
  return { items, version, next }
}

function eventOf(line: string, endpoint: string): WatchEvent {
  let event: Json
  try {
    event = parseLean(line)
  } catch {
    throw unreadable(endpoint, 'a line of the watch is no JSON')
  }
  const object = isJsonObject(event) ? event.object : undefined
  const type = isJsonObject(event) ? event.type : undefined
  if (!isJsonObject(object)) throw unreadable(endpoint, 'an event of the watch has no object')
  if (type === 'ERROR') throw statusOf(object, endpoint)
  if (type !== 'ADDED' && type !== 'MODIFIED' && type !== 'DELETED' && type !== 'BOOKMARK')
    throw unreadable(endpoint, 'an event of the watch is of no known type')
  const metadata = isJsonObject(object.metadata) ? object.metadata : {}
  const { resourceVersion } = metadata
  if (typeof resourceVersion !== 'string' || resourceVersion === '')
    throw unreadable(endpoint, 'an event of the watch has no resourceVersion')
  return { type, object, resourceVersion }
}

/** A Status in the stream, whose HTTP status was 200 long ago. */
function statusOf(status: JsonObject, endpoint: string): Error {
  const code = status.code instanceof JsonNumber ? Number(status.code.text) : 0
  if (code === 410) return new Expired()
  const details = isJsonObject(status.details) ? status.details : {}
  const wait = details.retryAfterSeconds
  const reason = typeof status.reason === 'string' ? status.reason.slice(0, 60) : 'no reason'
  return new Fault('SOURCE_BUSY', `kubernetes.${endpoint}: the watch ended with ${code} (${reason})`, {
    endpoint: `kubernetes.${endpoint}`,
    status: code,
    ...(wait instanceof JsonNumber && { retryAfterMs: Number(wait.text) * secondMs }),
  })
}
