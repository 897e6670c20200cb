/**
 * The processor's HTTP API: one Fastify application, mounted beside health on the server that there is. Owns what all
 * routes have in common: who may ask, how a failure is answered (RFC 9457), how much and how often may be asked, and how
 * the API ends. Each noun has its routes in a file of its own, declared as route.ts says.
 */
import { hash } from 'node:crypto'
import type { RequestListener, ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import rateLimit from '@fastify/rate-limit'
import { context, propagation, type Span, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api'
import fastify, {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type RouteOptions,
} from 'fastify'
import { Histogram } from 'prom-client'
import type { Mount } from '../../runtime/health.ts'
import type { Keyless, Keys } from '../../runtime/keys.ts'
import type { Logger } from '../../runtime/logs.ts'
import { registry } from '../../runtime/metrics.ts'
import {
  apiPrefix,
  codeOf,
  detailOf,
  type ProblemDetails,
  problemType,
  requestIdOf,
  statusOf,
  titled,
  type ValidationError,
} from '../../runtime/problem.ts'
import { asFault, Fault, faults } from '../../schemas/fault.ts'
import { minuteMs, secondMs } from '../../schemas/window.ts'
import type { Store } from '../store.ts'
import { callerOf } from './callers.ts'
import { rememberWrites } from './idempotency.ts'
import { serveDocument } from './openapi.ts'
import { acceptedType, type Declared, offeredTypes, partChecker, type Routes, Unfit } from './route.ts'

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
  /** Where it is remembered what was done under an `Idempotency-Key`; without it nothing is. */
  readonly store?: Store
  /** A line a request: of those that write or fail inside at `info` and above, of the rest at `debug`. */
  readonly log?: Logger
  /** Told of failures that are nobody's request's fault. */
  readonly onFault?: (fault: Fault) => void
  /** How often a key may ask that says nothing of it, and whoever needs none. */
  readonly requestsPerMinute?: number
  /** How long requests that are being answered may go on when the API ends. */
  readonly drainMs?: number
}

export interface Api extends AsyncDisposable {
  /** All that is served, as it is declared; pages of people aside. */
  readonly routes: readonly Declared[]
}

const requestSeconds = new Histogram({
  name: 'meterline_api_request_seconds',
  help: 'How long requests to the API took, by route and status.',
  labelNames: ['method', 'route', 'status'],
  buckets: [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
  registers: [registry],
})

/** For whoever configures an SDK of OpenTelemetry; without one it makes nothing. */
const tracer = trace.getTracer('meterline')

/** A minute, of one key or, where none is needed, of one address. */
const requestsPerMinuteDefault = 6000
const bodyBytesDefault = 1024 * 1024
/** Longer names are in no route: a subject has 1,024 characters at most, some of which take nine in a URL. */
const paramLengthMax = 9 * 1024
const drainMsDefault = 10 * secondMs

interface Track {
  readonly startedMs: number
  readonly leave: AbortController
  readonly span: Span
  /** Of the trace that the caller is in, or the SDK's. */
  readonly traceId?: string
}

declare module 'fastify' {
  interface FastifyRequest {
    track: Track
  }
}

/** Serves the routes until it is disposed of: then those that are being answered may end, and no other is begun. */
export async function openApi(options: ApiOptions): Promise<Api> {
  const { mount, routes, access, keys, store, nowMs = Date.now, drainMs = drainMsDefault } = options
  const app = fastify({
    genReqId: requestIdOf,
    bodyLimit: bodyBytesDefault,
    routerOptions: { maxParamLength: paramLengthMax },
    // Before a route is known: a path that is no text, for instance.
    frameworkErrors: (error, request, reply) => {
      const { status, headers, body } = problemOf(error, request as FastifyRequest)
      void (reply as FastifyReply).code(status).header('x-request-id', request.id).headers(headers).send(body)
    },
  })
  app.setValidatorCompiler(partChecker as unknown as Parameters<typeof app.setValidatorCompiler>[0])
  readBodies(app)
  app.decorateRequest('caller', null as never)
  app.decorateRequest('track', null as never)
  app.decorateRequest('signal', {
    getter() {
      return this.track.leave.signal
    },
  })
  const known = knownRoutes(app)

  const nowhere = (request: FastifyRequest, reply: FastifyReply): Error => {
    const [path = ''] = request.url.split('?')
    const methods = known.methodsOf(path)
    if (methods.length === 0) return problem(404, `there is no ${request.method} ${path}`)
    reply.header('allow', methods.join(', '))
    return problem(405, `${path} takes ${methods.join(', ')}`)
  }
  app.setNotFoundHandler((request, reply) => {
    throw nowhere(request, reply)
  })

  app.addHook('onRequest', async (request, reply) => {
    request.track = begun(request)
    reply.header('x-request-id', request.id)
    reply.raw.once('close', () => {
      if (!reply.raw.writableFinished) request.track.leave.abort()
    })
    const { declared, open } = request.routeOptions.config
    reply.header('cache-control', declared?.etag ? 'private, no-cache' : 'no-store')
    // What one key is shown is not for another.
    if (declared?.etag) reply.header('vary', 'authorization, accept')
    const entrance = { access, nowMs, ...(keys && { keys }) }
    const scope = declared?.guarded || open ? 'nobody' : declared?.scope
    request.caller = await callerOf(request.raw, scope, entrance)
    // Before anything is made of a body that nobody takes.
    if (request.is404) throw nowhere(request, reply)
    if (!declared || declared.guarded) return
    const offered = offeredTypes(declared)
    if (offered.length > 0 && acceptedType(request.headers.accept, offered) === undefined)
      throw problem(406, `accept: this answers ${offered.join(' or ')}`)
  })
  await app.register(rateLimit, {
    enableDraftSpec: true,
    timeWindow: minuteMs,
    max: request => request.caller.requestsPerMinute ?? options.requestsPerMinute ?? requestsPerMinuteDefault,
    keyGenerator: ({ caller, ip }) => (caller.name === '' ? `ip ${ip}` : `key ${caller.name}`),
    errorResponseBuilder: (_request, { after }) =>
      new Fault('RATE_EXCEEDED', `this asks more often than it may: again in ${after}`),
  })
  // So that what an SDK sees done for a request, the store's answers for instance, lies below its span.
  app.addHook('preHandler', (request, _reply, done) =>
    context.with(trace.setSpan(context.active(), request.track.span), done),
  )
  app.addHook('onSend', async (request, reply, payload) => {
    if (request.routeOptions.config.declared?.etag !== true || reply.statusCode !== 200) return payload
    if (typeof payload !== 'string' && !Buffer.isBuffer(payload)) return payload
    const etag = `"${hash('sha256', payload, 'base64url').slice(0, 32)}"`
    reply.header('etag', etag)
    if (!isHeld(etag, request.headers['if-none-match'])) return payload
    reply.code(304).removeHeader('content-type').removeHeader('content-length')
    // Not '': its length would be told, and that of a 304 is the length of what it stands for (RFC 9110, 8.6).
    return null
  })
  app.addHook('onResponse', async (request, reply) => ended(request, reply.statusCode, options.log))
  app.setErrorHandler((error: FastifyError, request, reply) => {
    const { status, headers, body } = problemOf(error, request)
    if (status >= 500) options.onFault?.(asFault(error, 'INTERNAL'))
    if (status >= 500) request.track.span.recordException(error)
    return reply.code(status).headers(headers).send(body)
  })
  if (store) rememberWrites(app, { store, nowMs, onFault: fault => options.onFault?.(fault) })
  serveDocument(app, known.declared)
  for (const add of routes) add(app)
  await app.ready()

  const answering = new Set<ServerResponse>()
  const handle: RequestListener = (request, response) => {
    answering.add(response)
    response.once('close', () => answering.delete(response))
    app.routing(request, response)
  }
  // The page has its own addresses; those of the API are somebody else's before and after.
  const mounted = [mount('/', handle), mount(apiPrefix, handle)]
  return {
    routes: known.declared(),
    async [Symbol.asyncDispose]() {
      for (const each of mounted) each[Symbol.dispose]()
      await drained(answering, drainMs)
      await app.close()
    },
  }
}

/** Waits for the answers that are under way; those that take too long are cut, which their clients see. */
async function drained(answering: ReadonlySet<ServerResponse>, withinMs: number): Promise<void> {
  // The connection is of no use to anyone afterwards.
  for (const response of answering) if (!response.headersSent) response.setHeader('connection', 'close')
  const untilMs = performance.now() + withinMs
  while (answering.size > 0 && performance.now() < untilMs) await sleep(20)
  for (const response of answering) response.destroy()
}

/** JSON alone, as text of UTF-8; nothing is made of what is left away. */
function readBodies(app: FastifyInstance): void {
  const parse = app.getDefaultJsonParser('error', 'error')
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, text, done) => {
    const { bodyMaxBytes = Number.POSITIVE_INFINITY } = request.caller
    if (Buffer.byteLength(text) > bodyMaxBytes)
      return done(problem(413, `this key may send ${bodyMaxBytes} bytes in one request`))
    // Clients name the type also where they send nothing, to delete something for instance.
    if (text === '') return done(null, undefined)
    return parse(request, text as string, done)
  })
}

/** Refuses routes that are not declared, and knows what is declared, for those who ask by a wrong method. */
function knownRoutes(app: FastifyInstance): {
  methodsOf(path: string): readonly string[]
  declared(): readonly Declared[]
} {
  const known: { readonly pattern: RegExp; readonly options: RouteOptions }[] = []
  app.addHook('onRoute', options => {
    const text = options.url.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replace(/:[A-Za-z]+/g, '[^/]+')
    known.push({ pattern: new RegExp(`^${text}/?$`), options })
  })
  app.addHook('onReady', async () => {
    for (const { method, url, config } of known.map(({ options }) => options))
      if (config?.declared === undefined && config?.open !== true)
        throw new Error(`${method} ${url} does not say whom it answers: see route()`)
  })
  return {
    declared: () =>
      known.flatMap(({ options: { method, config } }) =>
        config?.declared && method !== 'HEAD' ? [config.declared] : [],
      ),
    methodsOf: path =>
      Array.from(
        new Set(
          known.filter(({ pattern }) => pattern.test(path)).flatMap(({ options: { method } }) => method),
        ),
      ),
  }
}

/** Does who sent `If-None-Match` have this? A weak tag is as good as a strong one here (RFC 9110, 13.1.2). */
function isHeld(etag: string, ifNoneMatch: string | undefined): boolean {
  if (ifNoneMatch === undefined) return false
  return ifNoneMatch
    .split(',')
    .map(tag => tag.trim())
    .some(tag => tag === '*' || tag === etag || tag === `W/${etag}`)
}

// -- what is wrong

/** An error that is answered with this status. */
export function problem(status: number, detail: string): Error {
  return Object.assign(new Error(detail), { statusCode: status })
}

interface ProblemAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  /** Bytes: to text that is JSON Fastify adds a charset, and clients compare the media type as a whole. */
  readonly body: Buffer
}

function problemOf(error: FastifyError, request: FastifyRequest): ProblemAnswer {
  const who = request.caller?.scopes.includes('admin') ? 'operator' : 'asker'
  const details = { ...detailsOf(error, who), instance: `urn:request:${request.id}` }
  const seconds = error instanceof Fault ? error.facts.retryAfterSeconds : undefined
  return {
    status: details.status,
    headers: {
      'content-type': problemType,
      'cache-control': 'no-store',
      ...(details.status === 401 && { 'www-authenticate': 'Bearer realm="meterline"' }),
      ...(details.status === 503 && { 'retry-after': String(seconds ?? 5) }),
    },
    body: Buffer.from(JSON.stringify(details)),
  }
}

function detailsOf(error: FastifyError, who: 'operator' | 'asker'): ProblemDetails {
  if (error instanceof Fault) {
    const status = statusOf(error)
    const retryable = error.fate === 'retry'
    const detail = detailOf(error, status, who)
    // Where clients of OpenMeter look for what to mend.
    const named = status === 400 && {
      extensions: { validationErrors: [{ code: error.code, message: detail }] },
    }
    return { ...titled(status), detail, code: error.code, retryable, ...named }
  }
  if (error instanceof Unfit)
    return {
      ...titled(400),
      detail: error.message,
      code: 'USAGE',
      retryable: false,
      extensions: {
        validationErrors: error.misfits.map(({ field, message }) => ({ code: 'USAGE', message, field })),
      },
    }
  const status = error.statusCode ?? 500
  const code = codeOf(status)
  const { validationErrors } = error as { readonly validationErrors?: readonly ValidationError[] }
  return {
    ...titled(status),
    detail: status < 500 ? error.message : 'Something went wrong here; the log says what.',
    code,
    retryable: faults[code].fate === 'retry',
    ...(validationErrors && { extensions: { validationErrors } }),
  }
}

// -- what is said of a request

function begun(request: FastifyRequest): Track {
  const { method, headers, routeOptions, id } = request
  const route = routeOptions.url ?? 'unknown'
  const around = propagation.extract(context.active(), headers)
  const span = tracer.startSpan(
    `${method} ${route}`,
    {
      kind: SpanKind.SERVER,
      attributes: { 'http.request.method': method, 'http.route': route, 'meterline.request.id': id },
    },
    around,
  )
  // Without an SDK nobody reads the header: the line of the log still belongs to the caller's trace (W3C Trace Context).
  const said = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$/.exec(String(headers.traceparent ?? ''))
  const own = span.isRecording() ? span.spanContext().traceId : said?.[1]
  return {
    startedMs: performance.now(),
    leave: new AbortController(),
    span,
    ...(own !== undefined && { traceId: own }),
  }
}

function ended(request: FastifyRequest, status: number, log: Logger | undefined): void {
  const { method, routeOptions, track, caller, id } = request
  const tookMs = performance.now() - track.startedMs
  const route = routeOptions.url ?? 'unknown'
  requestSeconds.observe({ method, route, status: String(status) }, tookMs / secondMs)
  track.span.setAttribute('http.response.status_code', status)
  if (status >= 500) track.span.setStatus({ code: SpanStatusCode.ERROR })
  track.span.end()
  const level = status >= 500 ? 'warn' : method === 'GET' || method === 'HEAD' ? 'debug' : 'info'
  log?.[level](
    {
      request_id: id,
      ...(track.traceId !== undefined && { trace_id: track.traceId }),
      method,
      route,
      status,
      took_ms: Math.round(tookMs),
      caller: caller?.name,
    },
    'request',
  )
}
