/**
 * The processor's HTTP API: one Fastify application, mounted beside health on the server that there is. Owns who may ask
 * and how a failure is answered (RFC 9457); each noun has its routes in a file of its own.
 */
import fastify, { type FastifyError, type FastifyInstance } from 'fastify'
import type { Mount } from '../../runtime/health.ts'
import type { Keyless, Keys } from '../../runtime/keys.ts'
import { apiPrefix, type ProblemDetails, titled } from '../../runtime/problem.ts'
import { asFault, Fault, type FaultCode } from '../../schemas/fault.ts'
import type { KeyScope } from '../../schemas/keys.ts'
import { callerOf } from './callers.ts'

/** What a route asks of who calls it: one of the scopes of a key, or `nobody` where anyone may. */
export type RouteScope = KeyScope | 'nobody'

/** Who calls: the key's name and scopes, and the one account that it is bound to, if it is. */
export interface Caller {
  readonly name: string
  readonly scopes: readonly RouteScope[]
  /** It sees what this account pays for and nothing else. */
  readonly account?: string
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Every route says it; one that does not is refused when the API starts. */
    readonly scope?: RouteScope
    /** It asks for the key itself, in the way of those who push. */
    readonly guarded?: boolean
  }
  interface FastifyRequest {
    caller: Caller
  }
}

/** Adds the routes of one noun. */
export type Routes = (app: FastifyInstance) => void

export interface ApiOptions {
  /** Where it is served. */
  readonly mount: Mount
  readonly routes: readonly Routes[]
  /**
   * Who is answered without a key. `loopback`: only connections of this machine that also name it as the host, so that no
   * page of a browser can ask under a name of its own. Routes that are `guarded` ask for themselves.
   */
  readonly access: Keyless
  /** Those that are known; without them nobody has one. */
  readonly keys?: Keys
  readonly nowMs?: () => number
  /** Told of failures that are nobody's request's fault. */
  readonly onFault?: (fault: Fault) => void
}

/** Serves the routes until it is disposed of. */
export async function openApi({
  mount,
  routes,
  access,
  keys,
  nowMs = Date.now,
  onFault,
}: ApiOptions): Promise<AsyncDisposable> {
  const app = fastify({
    // What a client wrote is what is checked: nothing is turned into what the schema would like, or left out.
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, allErrors: false } },
  })
  app.decorateRequest('caller', null as unknown as Caller)
  app.addHook('onRoute', ({ method, url, config }) => {
    if (config?.scope === undefined && config?.guarded !== true)
      throw new Error(`${method} ${url} does not say whom it answers: config.scope`)
  })
  const entrance = { access, nowMs, ...(keys && { keys }) }
  app.addHook('onRequest', async request => {
    const { scope, guarded } = request.routeOptions.config
    request.caller = await callerOf(request.raw, guarded ? 'nobody' : scope, entrance)
  })
  app.setNotFoundHandler(request => {
    throw problem(404, `there is no ${request.method} ${request.url.split('?')[0]}`)
  })
  app.setErrorHandler((error: FastifyError, _request, reply) => {
    const details = detailsOf(error)
    if (details.status >= 500) onFault?.(asFault(error, 'INTERNAL'))
    if (details.status === 401) void reply.header('www-authenticate', 'Bearer realm="meterline"')
    return reply.code(details.status).type('application/problem+json').send(JSON.stringify(details))
  })
  for (const add of routes) add(app)
  await app.ready()
  const mounted = mount(apiPrefix, (request, response) => app.routing(request, response))
  return {
    async [Symbol.asyncDispose]() {
      mounted[Symbol.dispose]()
      await app.close()
    },
  }
}

/** An error that is answered with this status. */
export function problem(status: number, detail: string): Error {
  return Object.assign(new Error(detail), { statusCode: status })
}

/** Of faults that are the asker's; others are 503 where it may go better later, else 500. */
const statuses: Partial<Readonly<Record<FaultCode, number>>> = {
  USAGE: 400,
  KEY_UNKNOWN: 401,
  KEY_FORBIDS: 403,
}

function detailsOf(error: FastifyError): ProblemDetails {
  if (error instanceof Fault) {
    const status = statuses[error.code] ?? (error.fate === 'retry' ? 503 : 500)
    return { ...titled(status), detail: error.message, code: error.code, retryable: error.fate === 'retry' }
  }
  const status = error.statusCode ?? 500
  // What went wrong inside is for the log: nobody outside can act on it.
  return {
    ...titled(status),
    detail: status < 500 ? error.message : 'Something went wrong here; the log says what.',
  }
}
