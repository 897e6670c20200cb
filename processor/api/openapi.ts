/** The OpenAPI document of the routes as they are declared, and a page that shows it. The document itself is made here, purely. */
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance } from 'fastify'
import Type, { type TSchema } from 'typebox'
import { codesOf, problemType, titled } from '../../runtime/problem.ts'
import { faults } from '../../schemas/fault.ts'
import { version } from '../../schemas/version.ts'
import { type Answer, byType, type Declared, isMap, problemStatuses, route } from './route.ts'

type Json = Readonly<Record<string, unknown>>

/** What the tags of routes mean, in the order in which they are shown. */
const tags: Readonly<Record<string, string>> = {
  usage: 'What was used, by meter, time and group: exact as soon as an event is acknowledged.',
  meters: 'Named aggregations over events, as OpenMeter has them.',
  subjects: 'Whose usage it is, as OpenMeter has them.',
  openmeter: 'As the API of OpenMeter has it: its published clients work unmodified.',
  events: 'What others push, and what is known of it.',
  coverage: 'Which windows of which source were read, and where something is missing.',
  rejected: 'Messages that did not count, and why.',
  accounts: 'Who pays for which usage.',
  'line-items': 'What usage costs, each line with its proof.',
  status: 'How the processor is doing.',
  keys: 'Who may do what.',
  api: 'This document.',
}

const problemSchema = Type.Object(
  {
    type: Type.String({ description: 'Always about:blank: `code` says which problem it is.' }),
    title: Type.String({ description: 'The status in words.' }),
    status: Type.Integer({ minimum: 400, maximum: 599 }),
    detail: Type.String({ description: 'One sentence for a person.' }),
    instance: Type.Optional(Type.String({ description: 'urn:request: and the id of the request.' })),
    code: Type.Optional(
      Type.Enum(Object.keys(faults), { description: 'Of the table in docs/reference/faults.md.' }),
    ),
    retryable: Type.Optional(Type.Boolean({ description: 'The same request may succeed later.' })),
    taken: Type.Optional(
      Type.Integer({ minimum: 0, description: 'Of pushed events: how many were taken all the same.' }),
    ),
    extensions: Type.Optional(
      Type.Object({
        validationErrors: Type.Array(
          Type.Object({
            code: Type.String(),
            message: Type.String(),
            field: Type.Optional(Type.String({ examples: ['query from', 'body /groupBy/0'] })),
            index: Type.Optional(Type.Integer({ minimum: 0, description: 'Of an event in a batch.' })),
          }),
        ),
      }),
    ),
  },
  { title: 'Problem', description: 'What is wrong, as RFC 9457 has it.' },
)

/** The document as JSON holds it. Pure. */
export function documentOf(declared: readonly Declared[]): Json {
  const schemas = new Map<string, Json>()
  const paths = new Map<string, Record<string, Json>>()
  for (const one of declared) {
    const path = one.url.replace(/:([A-Za-z]+)/g, '{$1}')
    const methods = paths.get(path) ?? {}
    paths.set(path, methods)
    methods[one.method.toLowerCase()] = operationOf(one, path, schemas)
  }
  const statuses = Array.from(new Set(declared.flatMap(problemStatuses))).sort((a, b) => a - b)
  const responses = Object.fromEntries(
    statuses.map(status => [componentOf(status), problemResponse(status, schemas)]),
  )
  const used = new Set(declared.flatMap(one => one.tags))
  return {
    openapi: '3.1.0',
    info: {
      title: 'Meterline',
      version,
      summary: 'Usage, meters and what they cost.',
      description:
        'Quantities and money are decimal texts, except where the wire format of OpenMeter has numbers. Times are RFC 3339, windows half-open. Every failure is a problem of RFC 9457 with a code.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/', description: 'This processor.' }],
    tags: Object.entries(tags)
      .filter(([name]) => used.has(name))
      .map(([name, description]) => ({ name, description })),
    paths: Object.fromEntries(Array.from(paths).sort(([a], [b]) => (a < b ? -1 : 1))),
    components: {
      securitySchemes: {
        key: {
          type: 'http',
          scheme: 'bearer',
          description:
            'An API key. The roles that a route names are the scopes that it asks of the key: ingest, amend, read, bill or admin. One that names none takes any key.',
        },
      },
      responses,
      schemas: Object.fromEntries(Array.from(schemas).sort(([a], [b]) => (a < b ? -1 : 1))),
    },
  }
}

function operationOf(declared: Declared, path: string, schemas: Map<string, Json>): Json {
  const {
    method,
    scope,
    summary,
    description,
    body,
    reads,
    bodiless,
    consumes = ['application/json'],
  } = declared
  const taken = reads ?? (body && Object.fromEntries(consumes.map(type => [type, body])))
  const answers = Object.entries(declared.answers).map(
    ([status, answer]) => [status, responseOf(declared, answer, schemas)] as const,
  )
  const problems = problemStatuses(declared).map(
    status => [String(status), { $ref: `#/components/responses/${componentOf(status)}` }] as const,
  )
  const parameters = parametersOf(declared, schemas)
  return {
    operationId: operationId(method, path),
    tags: declared.tags,
    summary,
    ...(description !== undefined && { description }),
    security: scope === 'nobody' ? [] : [{ key: scope === 'any' ? [] : [scope] }],
    ...(parameters.length > 0 && { parameters }),
    ...(taken && { requestBody: { required: !bodiless, content: contentOf(taken, schemas) } }),
    responses: Object.fromEntries([
      ...answers,
      ...(declared.etag ? [['304', { description: 'As it was: the ETag of `If-None-Match` holds.' }]] : []),
      ...problems,
    ]),
  }
}

/** `getMeter`, `listOf…` would need more than a path: `getMetersBySlug` is made of it, and stays as it is. */
function operationId(method: string, path: string): string {
  const words = path
    .replace(/^\/api\//, '')
    .replaceAll(/\{(\w+)\}/g, 'by/$1')
    .split(/[^A-Za-z0-9]+/)
    .filter(word => word !== '')
  return [method.toLowerCase(), ...words.map(word => word.charAt(0).toUpperCase() + word.slice(1))].join('')
}

function parametersOf(declared: Declared, schemas: Map<string, Json>): readonly Json[] {
  const of = (where: 'path' | 'query', schema: TSchema | undefined): readonly Json[] => {
    const { properties = {}, required = [] } = (schema ?? {}) as {
      readonly properties?: Readonly<Record<string, TSchema & { readonly description?: string }>>
      readonly required?: readonly string[]
    }
    return Object.entries(properties).map(([name, { description, ...rest }]) => ({
      name,
      in: where,
      required: where === 'path' || required.includes(name),
      ...(description !== undefined && { description }),
      ...(where === 'query' && isMap(rest) && { style: 'deepObject', explode: true }),
      schema: shown(rest, schemas),
    }))
  }
  const header = (name: string, description: string, schema: Json): Json => ({
    name,
    in: 'header',
    required: false,
    description,
    schema,
  })
  return [
    ...of('path', declared.params),
    ...of('query', declared.query),
    ...(declared.etag
      ? [header('If-None-Match', 'The ETag of what one has: 304 while it holds.', { type: 'string' })]
      : []),
    ...(declared.idempotent
      ? [
          header(
            'Idempotency-Key',
            'The same request under the same key is done once within a day, and answered alike.',
            { type: 'string', minLength: 1, maxLength: 255, pattern: '^[!-~]+$' },
          ),
        ]
      : []),
  ]
}

function responseOf(declared: Declared, answer: Answer, schemas: Map<string, Json>): Json {
  const { description, body } = answer
  const headers: Record<string, Json> = {
    'X-Request-Id': { description: 'Under which the process logs it.', schema: { type: 'string' } },
    ...(declared.etag && { ETag: { description: 'Of the content, strong.', schema: { type: 'string' } } }),
  }
  for (const [name, schema] of Object.entries(answer.headers ?? {}))
    headers[name] = { schema: shown(schema, schemas) }
  return { description, headers, ...(body && { content: contentOf(byType(body), schemas) }) }
}

function contentOf(content: Readonly<Record<string, TSchema>>, schemas: Map<string, Json>): Json {
  return Object.fromEntries(
    Object.entries(content).map(([type, schema]) => [type, { schema: shown(schema, schemas) }]),
  )
}

function componentOf(status: number): string {
  return titled(status).title.replaceAll(' ', '')
}

function problemResponse(status: number, schemas: Map<string, Json>): Json {
  const codes = codesOf(status)
  const again = status === 429 || status === 503
  return {
    description: `${titled(status).title}${codes.length > 0 ? `: ${codes.join(', ')}` : ''}`,
    headers: {
      'X-Request-Id': { description: 'Under which the process logs it.', schema: { type: 'string' } },
      ...(again && {
        'Retry-After': { description: 'Seconds to wait.', schema: { type: 'string', pattern: '^[0-9]+$' } },
      }),
    },
    content: { [problemType]: { schema: shown(problemSchema, schemas) } },
  }
}

/**
 * A schema as it stands in the document: one with a title is a component of that name, and stands where it is used as a
 * reference to it, as do the parts of one that refers to itself.
 */
function shown(schema: unknown, schemas: Map<string, Json>): Json {
  const walk = (node: unknown, at: 'top' | 'inside'): unknown => {
    if (Array.isArray(node)) return node.map(one => walk(one, 'inside'))
    if (typeof node !== 'object' || node === null) return node
    const { $defs, $id: _, ...rest } = node as Readonly<Record<string, unknown>>
    for (const [name, part] of Object.entries($defs ?? {})) {
      if (schemas.has(name)) continue
      schemas.set(name, {})
      schemas.set(name, walk(part, 'top') as Json)
    }
    const title =
      typeof rest.title === 'string' && /^[A-Z][A-Za-z0-9]*$/.test(rest.title) ? rest.title : undefined
    if (title !== undefined && at === 'inside') {
      const component = walk(rest, 'top') as Json
      const there = schemas.get(title)
      if (there && JSON.stringify(there) !== JSON.stringify(component))
        throw new Error(`two schemas have the title ${title}`)
      schemas.set(title, component)
      return { $ref: `#/components/schemas/${title}` }
    }
    return Object.fromEntries(
      Object.entries(rest).map(([name, value]) => {
        if (name === '$ref' && typeof value === 'string')
          return [name, `#/components/schemas/${value.replace(/^#\/(\$defs\/)?/, '')}`]
        return [name, literal.has(name) ? value : walk(value, 'inside')]
      }),
    )
  }
  return walk(schema, 'inside') as Json
}

/** Members of a schema that are values and no schemas. */
const literal: ReadonlySet<string> = new Set(['default', 'examples', 'enum', 'const', 'required'])

// -- served

const documentPath = '/api/openapi.json'
export const docsPath = '/api/docs'

/** Everything is of the page's own origin; its small pictures stand in its styles. */
const pagePolicy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

/** Adds the document, and the page. What is declared is asked for when all routes are there. */
export function serveDocument(app: FastifyInstance, declared: () => readonly Declared[]): void {
  const document: Record<string, unknown> = {}
  let text = ''
  app.addHook('onReady', async () => {
    Object.assign(document, documentOf(declared()))
    text = JSON.stringify(document)
  })
  route(
    app,
    {
      method: 'GET',
      url: documentPath,
      scope: 'nobody',
      tags: ['api'],
      summary: 'Gives this document',
      description: 'It says what there is, and nothing of what is in it: anyone may read it.',
      etag: true,
      answers: {
        200: { description: 'OpenAPI 3.1.', body: Type.Object({ openapi: Type.String() }) },
      },
    },
    async ({ reply }) => await reply.type('application/json').send(text),
  )
  void app.register(async pages => {
    // The page's own files say nothing of schemas or scopes: no data is in them.
    pages.addHook('onRoute', options => {
      options.config = { ...options.config, open: true }
    })
    await pages.register(swagger, { mode: 'static', specification: { document: document as never } })
    await pages.register(swaggerUi, {
      routePrefix: docsPath,
      staticCSP: pagePolicy,
      theme: { title: 'Meterline API' },
      // Without a bar that asks for the address of another document, which the policy would refuse.
      uiConfig: { layout: 'BaseLayout', docExpansion: 'list', displayRequestDuration: true },
    })
  })
}
