/**
 * The processor's HTTP API: one Fastify application, mounted beside health on the server that there is. Owns who may ask
 * and how a failure is answered (RFC 9457); each noun has its routes in a file of its own.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { isIP } from 'node:net'
import fastify, { type FastifyError, type FastifyInstance } from 'fastify'
import type { Mount } from '../../runtime/health.ts'
import { asFault, Fault } from '../../schemas/fault.ts'

/** Adds the routes of one noun. */
export type Routes = (app: FastifyInstance) => void

export const apiPrefix = '/api/'

/** A problem as RFC 9457 has it; `code` and `retryable` are of the fault behind it. */
export interface ProblemDetails {
  readonly type: 'about:blank'
  readonly title: string
  readonly status: number
  readonly detail: string
  readonly code?: string
  readonly retryable?: boolean
}

export interface ApiOptions {
  /** Where it is served. */
  readonly mount: Mount
  readonly routes: readonly Routes[]
  /**
   * `loopback`: only connections of this machine that also name it as the host, so that no page of a browser can ask
   * under a name of its own. There are no keys yet: `anyone` is anyone who reaches the port.
   */
  readonly access: 'loopback' | 'anyone'
  /** Told of failures that are nobody's request's fault. */
  readonly onFault?: (fault: Fault) => void
}

/** What the API answers while there is none yet: come again. */
export function answerNotYet(_request: IncomingMessage, response: ServerResponse): void {
  const details: ProblemDetails = {
    ...titled(503),
    detail: 'This processor has not started yet; /readyz says what it waits for.',
    retryable: true,
  }
  // Nothing was read of the request: its body would be taken for the next one.
  response.writeHead(503, {
    'content-type': 'application/problem+json',
    'cache-control': 'no-store',
    'retry-after': '5',
    connection: 'close',
  })
  response.end(JSON.stringify(details))
}

/** Serves the routes until it is disposed of. */
export async function openApi({ mount, routes, access, onFault }: ApiOptions): Promise<AsyncDisposable> {
  const app = fastify({
    // What a client wrote is what is checked: nothing is turned into what the schema would like, or left out.
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, allErrors: false } },
  })
  app.addHook('onRequest', async request => {
    if (access === 'loopback' && !isFromHere(request.raw))
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

const titles: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  403: 'Forbidden',
  404: 'Not Found',
  409: 'Conflict',
  413: 'Content Too Large',
  415: 'Unsupported Media Type',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
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

function titled(status: number) {
  return { type: 'about:blank', title: titles[status] ?? 'Error', status } as const
}

/** Did the request come over loopback, under a name that can only mean this machine? */
export function isFromHere(
  request: Pick<IncomingMessage, 'headers'> & {
    readonly socket: { readonly remoteAddress?: string | undefined }
  },
): boolean {
  const host = (request.headers.host ?? '').replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
  return isLoopback(request.socket.remoteAddress ?? '') && (host === 'localhost' || isLoopback(host))
}

function isLoopback(address: string): boolean {
  const plain = address.replace(/^::ffff:/i, '')
  return plain === '::1' || (isIP(plain) === 4 && plain.startsWith('127.'))
}
