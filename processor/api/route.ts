/**
 * How a route is declared: one value says its path, whom it answers, what may be asked and what it answers. From it come
 * validation, the OpenAPI document and the types of its handler. How it is served is api.ts.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Static, TSchema } from 'typebox'
import { type Misfit, misfitOf, validator } from '../../schemas/check.ts'
import type { KeyScope } from '../../schemas/keys.ts'

/** What a route asks of who calls it: one of the scopes of a key, `any` where each key will do, or `nobody` where anyone may. */
export type RouteScope = KeyScope | 'any' | 'nobody'

/** Who calls: the key's name and scopes, and the one account that it is bound to, if it is. */
export interface Caller {
  readonly name: string
  readonly scopes: readonly KeyScope[]
  /** It sees what this account pays for and nothing else. */
  readonly account?: string
  /** How often it may ask; without it as often as the API lets anyone. */
  readonly requestsPerMinute?: number
  /** Of one request; without it as the route says. */
  readonly bodyMaxBytes?: number
}

/** Something that is answered: JSON of this schema, or by media type. */
export type AnswerBody = TSchema | Readonly<Record<`${string}/${string}`, TSchema>>

export interface Answer {
  readonly description: string
  /** Without it the answer has no body. */
  readonly body?: AnswerBody
  /** Beside those that every answer has. */
  readonly headers?: Readonly<Record<string, TSchema>>
}

export interface Declared {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** With `:name` for each of `params`. */
  readonly url: string
  readonly scope: RouteScope
  /** It asks for the key itself, in the way of those who push; `scope` is said for people. */
  readonly guarded?: true
  readonly tags: readonly [string, ...string[]]
  /** One line, in the present tense. */
  readonly summary: string
  readonly description?: string
  /** Names of the query; see `readQuery` for lists and maps. */
  readonly query?: TSchema
  readonly params?: TSchema
  readonly body?: TSchema
  /** Of the body, where it is not only application/json. */
  readonly consumes?: readonly string[]
  /** Of one that reads its body by itself: what it takes, for people. */
  readonly reads?: Readonly<Record<`${string}/${string}`, TSchema>>
  /** One that reads its body by itself, and does without. */
  readonly bodiless?: true
  readonly bodyMaxBytes?: number
  /** By status; the first is that of what the handler returns. */
  readonly answers: Readonly<Record<number, Answer>>
  /** Statuses of problems beside those that follow from the rest: 404 for what is not there, 409, 412 … */
  readonly problems?: readonly number[]
  /** The answer has a strong ETag, and is 304 to who has it. */
  readonly etag?: true
  /**
   * A request with an `Idempotency-Key` is done once: the same again gets the same answer. `secret`: the answer shows
   * something once, and is not kept.
   */
  readonly idempotent?: 'answer' | 'secret'
}

type Frozen<T> = T extends object ? { readonly [Key in keyof T]: Frozen<T[Key]> } : T
type Of<Schema> = Schema extends TSchema ? Frozen<Static<Schema>> : undefined

/** A request that fits its declaration. */
export interface Asked<D extends Declared> {
  readonly query: Of<D['query']>
  readonly params: Of<D['params']>
  readonly body: Of<D['body']>
  readonly caller: Caller
  /** The media type that who asks likes best of those that are offered. */
  readonly accepts: string
  /** Aborted when the client goes away before it has the answer, or the API stops and waits no longer. */
  readonly signal: AbortSignal
  readonly request: FastifyRequest
  readonly reply: FastifyReply
}

type Bodies<A> = A extends { readonly body: infer Body }
  ? Body extends TSchema
    ? Frozen<Static<Body>>
    : unknown
  : undefined

/** What a handler gives: a body of one of the answers, or the reply that it has sent by itself. */
export type Given<D extends Declared> = Bodies<D['answers'][keyof D['answers']]> | FastifyReply

export type Handle<D extends Declared> = (asked: Asked<D>) => Promise<Given<D>>

/** Adds the routes of one noun. */
export type Routes = (app: FastifyInstance) => void

declare module 'fastify' {
  interface FastifyContextConfig {
    readonly declared?: Declared
    /** Of the files of a page: anyone has them, and no data is in them. */
    readonly open?: boolean
  }
  interface FastifyRequest {
    caller: Caller
    /** See `Asked.signal`. */
    readonly signal: AbortSignal
  }
}

/** Adds one route. The types of the handler's query, params, body and answer are those of the schemas. */
export function route<const D extends Declared>(app: FastifyInstance, declared: D, handle: Handle<D>): void {
  const { method, url, query, params, body, bodyMaxBytes } = declared
  const status = Number(Object.keys(declared.answers)[0] ?? 200)
  const offered = offeredTypes(declared)
  app.route({
    method,
    url,
    ...(bodyMaxBytes !== undefined && { bodyLimit: bodyMaxBytes }),
    // Who pushes is bounded by events and bytes, of each key: see its `rate`.
    config: { declared, ...(declared.guarded && { rateLimit: false as const }) },
    schema: {
      ...(query && { querystring: query }),
      ...(params && { params }),
      ...(body && { body }),
    },
    async handler(request, reply) {
      reply.code(status)
      const given = await handle({
        query: request.query,
        params: request.params,
        body: request.body,
        caller: request.caller,
        accepts: acceptedType(request.headers.accept, offered) ?? '',
        signal: request.signal,
        request,
        reply,
      } as Asked<D>)
      if (given === reply || reply.sent) return reply
      return given === undefined ? reply.send() : given
    },
  })
}

/** The statuses of its problems: those that follow from what it is, and those that it names. */
export function problemStatuses(declared: Declared): readonly number[] {
  const { scope, query, params, body, reads, problems = [], idempotent } = declared
  const writes = body !== undefined || reads !== undefined
  return Array.from(
    new Set([
      ...(query || params || writes || idempotent ? [400] : []),
      ...(scope === 'nobody' ? [] : [401, 403]),
      ...(params ? [404] : []),
      406,
      // By the server itself, of which the line of a request is a header.
      ...(query || params ? [431] : []),
      ...(idempotent ? [409, 422] : []),
      ...(writes ? [413, 415] : []),
      ...problems,
      ...[429, 500, 503],
    ]),
  ).sort((a, b) => a - b)
}

/** The media types of what it answers where all is well, the first the one for who says nothing. */
export function offeredTypes({ answers }: Declared): readonly string[] {
  return Array.from(
    new Set(Object.values(answers).flatMap(({ body }) => (body ? Object.keys(byType(body)) : []))),
  )
}

/** By media type, whether it was written so or is JSON. */
export function byType(body: AnswerBody): Readonly<Record<string, TSchema>> {
  return Object.keys(body).some(name => name.includes('/'))
    ? (body as Readonly<Record<string, TSchema>>)
    : { 'application/json': body as TSchema }
}

/**
 * Of the media types that are offered the one that `Accept` likes best, the first of those that it likes alike; undefined
 * where it takes none (RFC 9110, 12.5.1). Parameters but `q` are not looked at.
 */
export function acceptedType(accept: string | undefined, offered: readonly string[]): string | undefined {
  if (accept === undefined || accept.trim() === '') return offered[0]
  const ranges = accept.split(',').map(part => {
    const [range = '', ...parameters] = part.split(';').map(text => text.trim().toLowerCase())
    const q = Number(parameters.find(text => text.startsWith('q='))?.slice(2) ?? 1)
    return { range, q: q >= 0 && q <= 1 ? q : 0 }
  })
  const likings = offered.map(type => {
    const [whole, kind] = [type.toLowerCase(), `${type.split('/')[0]?.toLowerCase()}/*`]
    // The most exact range says how well it is liked.
    const found = [whole, kind, '*/*'].map(one => ranges.find(({ range }) => range === one)).find(Boolean)
    return { type, q: found?.q ?? 0 }
  })
  const best = Math.max(...likings.map(({ q }) => q))
  return best > 0 ? likings.find(({ q }) => q === best)?.type : undefined
}

// -- what is asked, held against its schema

interface Node {
  readonly type?: string | readonly string[]
  readonly anyOf?: readonly Node[]
  readonly properties?: Readonly<Record<string, Node>>
}

function takes(node: Node, type: string): boolean {
  return (
    node.type === type ||
    (Array.isArray(node.type) && node.type.includes(type)) ||
    node.anyOf?.some(one => takes(one, type)) === true
  )
}

/** Is it written `name[key]=value` in a query? */
export function isMap(schema: unknown): boolean {
  return takes(schema as Node, 'object')
}

/**
 * The query as its schema means it, from the texts of the URL: nothing is turned into a number or a boolean. A name that
 * takes a list may stand there once or several times (form, exploded); one that takes a map is written `name[key]=value`
 * (deep object), where a key that stands there twice has a list of values.
 */
export function readQuery(schema: TSchema, raw: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { properties = {} } = schema as Node
  const read = new Map<string, unknown>()
  const maps = new Map<string, [string, unknown][]>()
  for (const [name, value] of Object.entries(raw)) {
    const [, outer, inner] = /^([^[\]]+)\[([^\]]*)\]$/.exec(name) ?? []
    const map = outer === undefined ? undefined : properties[outer]
    if (outer !== undefined && inner !== undefined && map && takes(map, 'object')) {
      const entries = maps.get(outer) ?? []
      maps.set(outer, entries)
      entries.push([inner, value])
      continue
    }
    const node = properties[name]
    const isList = node !== undefined && takes(node, 'array') && !takes(node, 'string')
    read.set(name, isList && typeof value === 'string' ? [value] : value)
  }
  // A name in both forms keeps the plain one: nothing says how they would go together.
  for (const [name, entries] of maps) if (!read.has(name)) read.set(name, Object.fromEntries(entries))
  return Object.fromEntries(read)
}

/** In which part of a request something does not fit, and how. */
export class Unfit extends Error {
  readonly misfits: readonly (Misfit & { readonly field: string })[]

  constructor(part: string, misfits: readonly Misfit[]) {
    const named = misfits.map(misfit => ({ ...misfit, field: fieldOf(part, misfit.path) }))
    super(named.map(({ field, message }) => `${field}: ${message}`).join('; '))
    this.misfits = named
  }
}

const parts: Readonly<Record<string, string>> = { querystring: 'query', params: 'path', body: 'body' }
/** Of one answer: a body of ten thousand wrong members says enough with the first of them. */
const namedMax = 20

/** For Fastify: holds a part of a request against its schema, and gives it as the schema means it. */
export function partChecker({ schema, httpPart }: { readonly schema: TSchema; readonly httpPart?: string }) {
  const fits = validator(schema)
  const part = parts[httpPart ?? 'body'] ?? 'body'
  return (raw: unknown): { readonly value: unknown } | { readonly error: Error } => {
    if (part === 'body' && raw === undefined)
      return { error: new Unfit(part, [{ path: '', message: 'is missing' }]) }
    const value = part === 'query' ? readQuery(schema, raw as Record<string, unknown>) : raw
    if (fits(value)) return { value }
    const found = (fits.errors ?? []).filter(({ keyword }) => keyword !== 'anyOf' && keyword !== 'if')
    const told = found.length > 0 ? found : (fits.errors ?? [])
    return { error: new Unfit(part, told.slice(0, namedMax).map(misfitOf)) }
  }
}

/** `query window`, `path slug`, `body /groupBy/0`. */
function fieldOf(part: string, path: string): string {
  if (path === '') return part
  return part === 'body'
    ? `body ${path}`
    : `${part} ${path.slice(1).replaceAll('~1', '/').replaceAll('~0', '~')}`
}
