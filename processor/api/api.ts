/**
 * The processor's HTTP API: one Fastify application, mounted beside health on the server that there is. Owns who may ask
 * and how a failure is answered (RFC 9457); each noun has its routes in a file of its own.
 */
import fastify, { type FastifyError, type FastifyInstance } from 'fastify'
import type { Mount } from '../../runtime/health.ts'
import { apiPrefix, isFromHere, type ProblemDetails, titled } from '../../runtime/problem.ts'
import { asFault, Fault } from '../../schemas/fault.ts'

/** What a route asks of who calls it: one of the scopes of a key, or `nobody` where anyone may. */
export type RouteScope = 'ingest' | 'amend' | 'read' | 'bill' | 'admin' | 'nobody'

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

/** Whoever is let in without a key. */
const local: Caller = { name: '', scopes: ['ingest', 'read', 'bill', 'admin'] }

/** Adds the routes of one noun. */
export type Routes = (app: FastifyInstance) => void

export interface ApiOptions {
  /** Where it is served. */
  readonly mount: Mount
  readonly routes: readonly Routes[]
  /**
   * `loopback`: only connections of this machine that also name it as the host, so that no page of a browser can ask
   * under a name of its own. `anyone` is anyone who reaches the port. Routes that are `guarded` ask for themselves.
   */
  readonly access: 'loopback' | 'anyone'
  /** Told of failures that are nobody's request's fault. */
  readonly onFault?: (fault: Fault) => void
}

/** Serves the routes until it is disposed of. */
export async function openApi({ mount, routes, access, onFault }: ApiOptions): Promise<AsyncDisposable> {
  const app = fastify({
    // What a client wrote is what is checked: nothing is turned into what the schema would like, or left out.
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, allErrors: false } },
  })
  app.decorateRequest('caller', null as unknown as Caller)
  app.addHook('onRoute', ({ method, url, config }) => {
    if (config?.scope === undefined && config?.guarded !== true)
      throw new Error(`${method} ${url} does not say whom it answers: config.scope`)
  })
  app.addHook('onRequest', async request => {
    request.caller = local
    if (request.routeOptions.config.guarded !== true && access === 'loopback' && !isFromHere(request.raw))
      throw problem(403, 'this API answers only the machine it runs on: see `listen.api`')
  })
  app.setNotFoundHandler(request => {
    throw problem(404, `there is no ${request.method} ${request.url.split('?')[0]}`)
  })
  app.setErrorHandler((error: FastifyError, _request, reply) => {
    const details = detailsOf(error)
    if (details.status >= 500) onFault?.(asFault(error, 'INTERNAL'))
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

function detailsOf(error: FastifyError): ProblemDetails {
  if (error instanceof Fault) {
    const status = error.code === 'USAGE' ? 400 : error.fate === 'retry' ? 503 : 500
    return { ...titled(status), detail: error.message, code: error.code, retryable: error.fate === 'retry' }
  }
  const status = error.statusCode ?? 500
  // What went wrong inside is for the log: nobody outside can act on it.
  return {
    ...titled(status),
    detail: status < 500 ? error.message : 'Something went wrong here; the log says what.',
  }
}
