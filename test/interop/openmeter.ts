/**
 * The answers of OpenMeter's API v1 as its OpenAPI document has them, cut to what its clients read: written from the
 * document and not from our own schemas, so that both can be held against each other. What we add is named.
 */
import { Ajv, type ValidateFunction } from 'ajv'
import addFormats from 'ajv-formats'

const text = { type: 'string' }
const time = { type: 'string', format: 'date-time' }
const ulid = { type: 'string', pattern: '^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$' }
const nullable = (shape: object) => ({ anyOf: [shape, { type: 'null' }] })
const textMap = { type: 'object', additionalProperties: text }
const name = { type: 'string', minLength: 1 }

function object(required: Readonly<Record<string, object>>, optional: Readonly<Record<string, object>> = {}) {
  return {
    type: 'object',
    required: Object.keys(required),
    properties: { ...required, ...optional },
    additionalProperties: false,
  }
}

const event = {
  ...object(
    { id: name, source: name, specversion: name, type: name, subject: name },
    {
      time: nullable(time),
      datacontenttype: nullable({ enum: ['application/json'] }),
      dataschema: nullable({ type: 'string', minLength: 1 }),
      data: nullable({ type: 'object' }),
    },
  ),
  // Ours: CloudEvents may have more attributes, which are texts.
  additionalProperties: text,
}
const ingestedEvent = object(
  { event, ingestedAt: time, storedAt: time },
  { customerId: ulid, validationError: text },
)
const meter = object(
  {
    id: ulid,
    createdAt: time,
    updatedAt: time,
    slug: { type: 'string', minLength: 1, maxLength: 64, pattern: '^[a-z0-9]+(?:_[a-z0-9]+)*$' },
    aggregation: { enum: ['SUM', 'COUNT', 'UNIQUE_COUNT', 'AVG', 'MIN', 'MAX', 'LATEST'] },
    eventType: name,
  },
  {
    name: { type: 'string', minLength: 1, maxLength: 256 },
    description: { type: 'string', maxLength: 1024 },
    metadata: nullable(textMap),
    deletedAt: time,
    eventFrom: time,
    valueProperty: name,
    groupBy: textMap,
    annotations: nullable({ type: 'object' }),
  },
)
const row = object(
  {
    value: { type: 'number' },
    windowStart: time,
    windowEnd: time,
    subject: nullable(text),
    groupBy: { type: 'object', additionalProperties: nullable(text) },
  },
  // Ours: `valueExact`.
  { customerId: ulid, valueExact: { type: 'string', pattern: '^-?\\d+(\\.\\d+)?$' } },
)
const subject = object(
  { id: ulid, createdAt: time, updatedAt: time, key: text },
  {
    deletedAt: time,
    displayName: nullable(text),
    metadata: nullable({ type: 'object' }),
    currentPeriodStart: time,
    currentPeriodEnd: time,
    stripeCustomerId: nullable(text),
  },
)
const validationError = {
  type: 'object',
  required: ['code', 'message'],
  properties: { code: text, message: text, field: text },
}

const shapes = {
  events: { type: 'array', items: ingestedEvent },
  eventPage: object({ items: { type: 'array', items: ingestedEvent } }, { nextCursor: text }),
  meter,
  meters: { type: 'array', items: meter },
  queryResult: object(
    { data: { type: 'array', items: row } },
    { from: time, to: time, windowSize: { enum: ['MINUTE', 'HOUR', 'DAY', 'MONTH'] } },
  ),
  texts: { type: 'array', items: text },
  subject,
  subjects: { type: 'array', items: subject },
  problem: {
    type: 'object',
    required: ['type', 'title', 'status', 'detail'],
    properties: {
      type: text,
      title: text,
      status: { type: 'integer' },
      detail: text,
      instance: { type: 'string', pattern: '^urn:request:.' },
      extensions: {
        type: 'object',
        properties: { validationErrors: { type: 'array', items: validationError } },
      },
    },
  },
}

const ajv = new Ajv({ strict: false, allErrors: true })
;(addFormats as unknown as (instance: Ajv) => void)(ajv)
const validators = Object.fromEntries(
  Object.entries(shapes).map(([shape, schema]) => [shape, ajv.compile(schema)]),
) as unknown as Readonly<Record<keyof typeof shapes, ValidateFunction>>

export type Shape = keyof typeof shapes

/** What does not fit, in words; none where all does. */
export function unlike(shape: Shape, answer: unknown): readonly string[] {
  const validate = validators[shape]
  return validate(answer)
    ? []
    : (validate.errors ?? []).map(error => `${error.instancePath} ${error.message}`)
}

/** Of each operation: where it is, and what it answers where all is well. */
const operations: readonly (readonly [
  method: string,
  path: RegExp,
  status: number,
  shape: Shape | 'none',
])[] = [
  ['POST', /^\/api\/v1\/events$/, 204, 'none'],
  ['GET', /^\/api\/v1\/events$/, 200, 'events'],
  ['GET', /^\/api\/v2\/events$/, 200, 'eventPage'],
  ['POST', /^\/api\/v1\/meters$/, 201, 'meter'],
  ['GET', /^\/api\/v1\/meters$/, 200, 'meters'],
  ['GET', /^\/api\/v1\/meters\/[^/]+$/, 200, 'meter'],
  ['PUT', /^\/api\/v1\/meters\/[^/]+$/, 200, 'meter'],
  ['DELETE', /^\/api\/v1\/meters\/[^/]+$/, 204, 'none'],
  ['GET', /^\/api\/v1\/meters\/[^/]+\/query$/, 200, 'queryResult'],
  ['POST', /^\/api\/v1\/meters\/[^/]+\/query$/, 200, 'queryResult'],
  ['GET', /^\/api\/v1\/meters\/[^/]+\/subjects$/, 200, 'texts'],
  ['GET', /^\/api\/v1\/meters\/[^/]+\/group-by\/[^/]+\/values$/, 200, 'texts'],
  ['POST', /^\/api\/v1\/subjects$/, 200, 'subjects'],
  ['GET', /^\/api\/v1\/subjects$/, 200, 'subjects'],
  ['GET', /^\/api\/v1\/subjects\/[^/]+$/, 200, 'subject'],
  ['DELETE', /^\/api\/v1\/subjects\/[^/]+$/, 204, 'none'],
]

/** One call as it went over the wire. */
export interface Exchange {
  readonly method: string
  readonly url: string
  readonly status: number
  readonly type: string | null
  readonly body: string
}

/** In which ways an answer is none of OpenMeter's. */
export function strayed({ method, url, status, type, body }: Exchange): readonly string[] {
  const at = `${method} ${url} ${status}`
  const told = (problems: readonly string[]) => problems.map(problem => `${at}: ${problem}`)
  if (status >= 400)
    return told([
      // One of its clients compares the type as a whole.
      ...(type === 'application/problem+json' ? [] : [`has the type ${type}`]),
      ...unlike('problem', JSON.parse(body)),
    ])
  const operation = operations.find(([verb, path]) => verb === method && path.test(new URL(url).pathname))
  if (!operation) return told(['is no operation of OpenMeter'])
  const [, , wanted, shape] = operation
  if (status !== wanted) return told([`has another status than ${wanted}`])
  if (shape === 'none')
    return told([...(type === null ? [] : [`has the type ${type}`]), ...(body === '' ? [] : ['has a body'])])
  if (type?.startsWith('text/csv')) return []
  if (!type?.startsWith('application/json')) return told([`has the type ${type}`])
  return told(unlike(shape, JSON.parse(body)))
}

/** `fetch` that keeps what went over the wire. */
export function listening(): { readonly fetch: typeof fetch; readonly heard: Exchange[] } {
  const heard: Exchange[] = []
  const listen = async (input: Request | URL | string, init?: RequestInit) => {
    const request = new Request(input, init)
    const { method, url } = request
    const response = await fetch(request)
    const body = await response.clone().text()
    heard.push({ method, url, status: response.status, type: response.headers.get('content-type'), body })
    return response
  }
  return { fetch: listen, heard }
}
