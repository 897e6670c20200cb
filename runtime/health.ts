/** Whether this process does its work: checks by name, and the small HTTP server that shows them and the metrics. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { Registry } from 'prom-client'
import { asFault, Fault, faults } from '../schemas/fault.ts'
import { statusOf, unreadable } from './problem.ts'
import { ServedTls, type TlsPaths, tlsOptions } from './tls.ts'

/** What is wrong, in a sentence; undefined while all is well. */
export type Problem = string | undefined

/** The checks of the roles in this process. It is ready while none of them has a problem. */
export class Health {
  readonly #reported = new Map<string, Problem>()
  readonly #checks = new Map<string, () => Problem>()

  /** Says how a part is doing, until it says otherwise. */
  report(name: string, problem: Problem): void {
    this.#reported.set(name, problem)
  }

  /** A check that is asked each time. */
  check(name: string, ask: () => Problem): void {
    this.#checks.set(name, ask)
  }

  /** All checks in order of name, each ok or with its problem. */
  results(): Readonly<Record<string, string>> {
    const results = new Map<string, string>()
    for (const [name, problem] of this.#reported) results.set(name, problem ?? 'ok')
    for (const [name, ask] of this.#checks) {
      let problem: Problem
      try {
        problem = ask()
      } catch (error) {
        problem = error instanceof Error ? error.message : String(error)
      }
      results.set(name, problem ?? 'ok')
    }
    return Object.fromEntries([...results].sort(([a], [b]) => (a < b ? -1 : 1)))
  }

  /** The problems alone, named. */
  problems(): readonly string[] {
    return Object.entries(this.results())
      .filter(([, result]) => result !== 'ok')
      .map(([name, result]) => `${name}: ${result}`)
  }
}

/** What is wrong by its code alone: the words may name whose usage it is. */
function inCodes(results: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(results).map(([name, result]) => {
      const code = /^[A-Z_]+/.exec(result)?.[0] ?? ''
      return [name, result === 'ok' ? result : Object.hasOwn(faults, code) ? code : 'not ok']
    }),
  )
}

/**
 * Hands requests whose path begins with the prefix to somebody else, until it is disposed of. The longest prefix wins, of
 * two alike the last one, and what was there before it is there again after it. `/healthz`, `/readyz` and `/metrics` are
 * never handed on.
 */
export type Mount = (prefix: string, handle: RequestListener) => Disposable

const owned: readonly string[] = ['/healthz', '/readyz', '/metrics']

/** Beyond them a connection is closed at once: files, and what is written to them, need handles too. */
const connectionsMax = 500

export interface HealthServer extends AsyncDisposable {
  readonly url: string
  readonly mount: Mount
}

/** Of every answer. What is mounted says more of its own pages, and what of its answers may be kept. */
const headers: Readonly<Record<string, string>> = {
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'content-security-policy': "frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
}

/**
 * Serves `/healthz` (the process answers), `/readyz` (200 when every check is ok, else 503; both with the checks as
 * JSON) and `/metrics`; what is mounted beside them answers for itself. Port 0 takes a free one.
 * @throws Fault USAGE where the address cannot be had, CONFIG_INVALID where certificate and key are none
 */
export async function serveHealth(options: {
  readonly health: Health
  readonly registry: Registry
  readonly host: string
  readonly port: number
  /** Without them it is served in the clear. */
  readonly tls?: TlsPaths
  /**
   * Why who asks may not see metrics, nor in words what is wrong: they are told which check it is, and its code. Without
   * it everybody may.
   */
  readonly refusal?: (request: IncomingMessage) => Promise<Fault | undefined>
}): Promise<HealthServer> {
  const { health, registry, refusal = async () => undefined } = options
  const mounts: { readonly prefix: string; readonly handle: RequestListener }[] = []
  const own = async (path: string, request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const answer = (status: number, type: string, body: string) => {
      response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' })
      response.end(request.method === 'HEAD' ? undefined : body)
    }
    if (request.method !== 'GET' && request.method !== 'HEAD') return answer(405, 'text/plain', 'GET only\n')
    if (!owned.includes(path)) return answer(404, 'text/plain', 'not found\n')
    const refused = await refusal(request)
    if (path === '/metrics') {
      if (!refused) return answer(200, registry.contentType, await registry.metrics())
      const status = statusOf(refused)
      if (status === 401) response.setHeader('www-authenticate', 'Bearer realm="meterline"')
      return answer(status, 'text/plain', `${refused.message}\n`)
    }
    const checks = refused ? inCodes(health.results()) : health.results()
    const ready = Object.values(checks).every(result => result === 'ok')
    const body = `${JSON.stringify({ ready, checks })}\n`
    answer(path === '/healthz' || ready ? 200 : 503, 'application/json', body)
  }
  const mountedAt = (path: string) =>
    mounts
      .toReversed()
      .filter(({ prefix }) => path.startsWith(prefix))
      .reduce<(typeof mounts)[number] | undefined>(
        (longest, one) => (longest && longest.prefix.length >= one.prefix.length ? longest : one),
        undefined,
      )
  const answering = new WeakSet<object>()
  const listener: RequestListener = (request, response) => {
    answering.add(request.socket)
    response.once('close', () => answering.delete(request.socket))
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value)
    const path = request.url?.split('?')[0] ?? '/'
    const mounted = owned.includes(path) ? undefined : mountedAt(path)
    if (mounted) return mounted.handle(request, response)
    own(path, request, response).catch(error => {
      if (!response.headersSent) response.writeHead(500, { 'content-type': 'text/plain' })
      response.end(`${asFault(error, 'ABORTED').message}\n`)
    })
  }
  // By itself it looks twice a minute for connections that say nothing.
  const bounds = { connectionsCheckingInterval: 1000 }
  const tls = options.tls && new ServedTls(options.tls)
  const secure = tls && createTlsServer({ ...bounds, ...tlsOptions, ...tls.read() }, listener)
  const server = secure ?? createServer(bounds, listener)
  server.requestTimeout = 10_000
  server.headersTimeout = 5_000
  server.maxConnections = connectionsMax
  server.on('clientError', (error, socket) => {
    // Nothing can be said where an answer was begun, or nobody is there.
    if (socket.writable && !answering.has(socket)) socket.end(unreadable(error))
    else socket.destroy()
  })
  server.listen(options.port, options.host)
  try {
    await once(server, 'listening')
  } catch (error) {
    throw new Fault('USAGE', `health: cannot listen on ${options.host}:${options.port}`, {}, { cause: error })
  }
  const following = tls && secure && tls.follow(secure)
  if (tls) health.check('tls', () => tls.problem())
  // Serving health is no reason to stay alive.
  server.unref()
  const { port } = server.address() as AddressInfo
  const host = options.host.includes(':') ? `[${options.host}]` : options.host
  return {
    url: `${tls ? 'https' : 'http'}://${host}:${port}`,
    mount(prefix, handle) {
      const mounted = { prefix, handle }
      mounts.push(mounted)
      return {
        [Symbol.dispose]() {
          if (mounts.includes(mounted)) mounts.splice(mounts.indexOf(mounted), 1)
        },
      }
    },
    async [Symbol.asyncDispose]() {
      following?.[Symbol.dispose]()
      server.closeAllConnections()
      await new Promise<void>(resolve => server.close(() => resolve()))
    },
  }
}
