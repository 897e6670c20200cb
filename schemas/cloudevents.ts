/**
 * CloudEvents 1.0 on the wire: JSON (single and batch), Kafka (structured, binary) and HTTP (structured, binary,
 * batch), by the letter of the specification; what an event of Meterline says is event.ts. Pure.
 *
 * Written here because the npm SDK shifts `time`, loses Kafka tombstones, sends raw Unicode in headers and re-parses
 * string data. Every event that decodes here can be encoded again in every mode.
 */
import { isUtf8 } from 'node:buffer'
import { Fault } from './fault.ts'
import { fractionOf, JsonNumber } from './json.ts'
import { instantMs } from './window.ts'

/** Integers are 32 bits wide in CloudEvents: quantities go into `data`, as decimal text. */
export type AttributeValue = string | number | boolean

/**
 * One event, its extension attributes beside the others. `time` is the sender's text to the last digit. `data` is
 * absent where the member is absent, null where the sender wrote null, a string where it was one, bytes where it was
 * binary, else a JSON value; a number in it that a double cannot hold is a raw JSON number (see `parseJson`).
 */
export interface CloudEvent {
  readonly specversion: '1.0'
  readonly id: string
  readonly source: string
  readonly type: string
  readonly time?: string
  readonly subject?: string
  readonly datacontenttype?: string
  readonly dataschema?: string
  readonly data?: unknown
  readonly [extension: string]: unknown
}

export type ContentMode = 'structured' | 'binary'

/** What a Kafka client hands over: names in any case, values as text or bytes. */
export type KafkaHeadersIn = Readonly<
  Record<string, string | Uint8Array | readonly (string | Uint8Array)[] | null | undefined>
>
/** As node:http gives them. */
export type HttpHeadersIn = Readonly<Record<string, string | readonly string[] | undefined>>

export interface KafkaMessage {
  readonly headers: Readonly<Record<string, string>>
  /** Null in binary mode where the event has no data: a tombstone on a compacted topic. */
  readonly value: Buffer | null
}

export interface HttpMessage {
  readonly headers: Readonly<Record<string, string>>
  readonly body: Buffer | undefined
}

export const structuredType = 'application/cloudevents+json; charset=UTF-8'
export const batchType = 'application/cloudevents-batch+json; charset=UTF-8'

// -- JSON

/**
 * The hot path: a parse and cheap checks, no copy.
 * @throws Fault EVENT_NOT_JSON | EVENT_INVALID, which names the attribute.
 */
export function decodeStructured(message: string | Uint8Array): CloudEvent {
  return eventOfJson(parseJson(utf8(message, 'EVENT_NOT_JSON', 'the event')))
}

/** @throws Fault EVENT_INVALID, which names the attribute. */
export function encodeStructured(event: CloudEvent): string {
  return JSON.stringify(jsonOfEvent(event))
}

/** @throws Fault EVENT_NOT_JSON | EVENT_INVALID, which names the event by its index, and the attribute. */
export function decodeBatch(message: string | Uint8Array): readonly CloudEvent[] {
  const batch = parseJson(utf8(message, 'EVENT_NOT_JSON', 'the batch'))
  if (!Array.isArray(batch)) throw new Fault('EVENT_INVALID', 'a batch is a JSON array of events')
  return batch.map((json: unknown, index) => atIndex(index, () => eventOfJson(json)))
}

/** @throws Fault EVENT_INVALID, which names the event by its index, and the attribute. */
export function encodeBatch(events: readonly CloudEvent[]): string {
  return JSON.stringify(events.map((event, index) => atIndex(index, () => jsonOfEvent(event))))
}

/** Turns a parsed JSON value, of which nobody else holds a reference, into an event in place. */
function eventOfJson(json: unknown): CloudEvent {
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    throw new Fault('EVENT_INVALID', 'an event is a JSON object')
  let members = json as Record<string, unknown>
  let unset = false
  for (const name in members) {
    if (name === 'data') continue
    if (name === 'data_base64') unset = true
    else if (members[name] === null) {
      checkName(name)
      unset = true
    }
  }
  // Rare: rebuilt without its nulls, which mean unset, and with its bytes.
  if (unset) {
    const { data_base64: base64, ...rest } = members
    if (base64 !== null && base64 !== undefined) {
      if ('data' in rest) throw invalid('data_base64', 'stands beside data: only one of them may')
      rest.data = bytesOfBase64(base64)
    }
    members = Object.fromEntries(
      Object.entries(rest).filter(([name, value]) => value !== null || name === 'data'),
    )
  }
  checkEvent(members)
  return members
}

function jsonOfEvent(event: CloudEvent): object {
  checkEvent(event)
  const { data } = event
  if (data !== undefined && !(data instanceof Uint8Array)) checkJson(data)
  let plain = !(data instanceof Uint8Array)
  for (const name in event) if (event[name] === null && name !== 'data') plain = false
  if (plain) return event
  const json: Record<string, unknown> = Object.fromEntries(attributesOf(event))
  if (data instanceof Uint8Array) json.data_base64 = Buffer.from(data).toString('base64')
  else if (data !== undefined) json.data = data
  return json
}

// -- Kafka

const kafkaPrefix = 'ce_'

/**
 * No percent-encoding in Kafka: header values are UTF-8 text.
 * @throws Fault EVENT_INVALID, which names the attribute.
 */
export function encodeKafka(event: CloudEvent, mode: ContentMode): KafkaMessage {
  if (mode === 'structured')
    return { headers: { 'content-type': structuredType }, value: Buffer.from(encodeStructured(event)) }
  const { datacontenttype, body } = bodyOf(event)
  const headers: Record<string, string> = {}
  if (datacontenttype !== undefined) headers['content-type'] = datacontenttype
  for (const [name, value] of attributesOf(event))
    if (name !== 'datacontenttype') headers[kafkaPrefix + name] = String(value)
  return { headers, value: body ?? null }
}

/**
 * The key of a Kafka record, where a caller wants one made: a key given by the user is used, else the event's own
 * `partitionkey`, which stays in the event. A given key never becomes an attribute, neither here nor on receipt.
 */
export function kafkaKeyOf(event: CloudEvent, given?: string): string | null {
  if (given !== undefined) return given
  return typeof event.partitionkey === 'string' ? event.partitionkey : null
}

/** @throws Fault EVENT_NOT_JSON | EVENT_INVALID, which names the attribute. */
export function decodeKafka(message: {
  readonly headers: KafkaHeadersIn
  readonly value: Uint8Array | null
}): CloudEvent {
  const headers = new Map<string, string>()
  for (const [name, value] of Object.entries(message.headers)) {
    const values = isList(value) ? value : [value]
    for (const one of values)
      if (one !== null && one !== undefined)
        addHeader(headers, name, kafkaPrefix, utf8(one, 'EVENT_INVALID', name))
  }
  const contentType = headers.get('content-type')
  const mode = modeOf(contentType)
  if (mode === 'batch') throw invalid('content-type', 'is a batch, which Kafka does not have')
  if (mode === 'structured') {
    if (message.value === null)
      throw new Fault('EVENT_NOT_JSON', 'a structured message has no value: its event stands there')
    return decodeStructured(message.value)
  }
  const attributes: Record<string, unknown> = {}
  for (const [name, value] of headers)
    if (name.startsWith(kafkaPrefix)) setAttribute(attributes, name.slice(kafkaPrefix.length), value)
  // The npm SDK sends both; that is against the binding but harmless where they agree.
  if (attributes.datacontenttype !== undefined && attributes.datacontenttype !== contentType)
    throw invalid('datacontenttype', 'stands in ce_datacontenttype, but differs from the header content-type')
  return eventOfBinary(attributes, contentType, message.value ?? undefined)
}

// -- HTTP

const httpPrefix = 'ce-'

/** @throws Fault EVENT_INVALID, which names the attribute. */
export function encodeHttp(event: CloudEvent, mode: ContentMode): HttpMessage {
  if (mode === 'structured')
    return { headers: { 'content-type': structuredType }, body: Buffer.from(encodeStructured(event)) }
  const { datacontenttype, body } = bodyOf(event)
  const headers: Record<string, string> = {}
  if (datacontenttype !== undefined) headers['content-type'] = datacontenttype
  for (const [name, value] of attributesOf(event))
    if (name !== 'datacontenttype') headers[httpPrefix + name] = percentEncode(String(value))
  return { headers, body }
}

/** Only for a receiver that asked for batches: the binding forbids sending one unasked. */
export function encodeHttpBatch(events: readonly CloudEvent[]): HttpMessage {
  return { headers: { 'content-type': batchType }, body: Buffer.from(encodeBatch(events)) }
}

/**
 * All events of a request or answer, in whichever mode it is; none only for an empty batch. An empty body is no data:
 * HTTP cannot tell the two apart.
 * @throws Fault EVENT_NOT_JSON | EVENT_INVALID, which names the attribute.
 */
export function decodeHttp(
  headersIn: HttpHeadersIn,
  body: string | Uint8Array | undefined,
): readonly CloudEvent[] {
  const headers = new Map<string, string>()
  for (const [name, value] of Object.entries(headersIn)) {
    const values = isList(value) ? value : [value]
    for (const one of values) if (one !== undefined) addHeader(headers, name, httpPrefix, one)
  }
  const contentType = headers.get('content-type')
  const mode = modeOf(contentType)
  if (mode === 'batch') return decodeBatch(body ?? '')
  if (mode === 'structured') return [decodeStructured(body ?? '')]
  const attributes: Record<string, unknown> = {}
  for (const [name, value] of headers) {
    if (!name.startsWith(httpPrefix)) continue
    const attribute = name.slice(httpPrefix.length)
    if (attribute === 'datacontenttype')
      throw invalid(attribute, 'must not stand in ce-datacontenttype: the header Content-Type carries it')
    const text = rawText(value) ?? percentDecode(unquote(value, attribute), attribute)
    setAttribute(attributes, attribute, text)
  }
  const bytes = typeof body === 'string' ? Buffer.from(body) : body
  return [eventOfBinary(attributes, contentType, bytes?.length ? bytes : undefined)]
}

// -- what the modes share

/** The batch type begins with the structured one, so it is looked for first. */
function modeOf(contentType: string | undefined): 'binary' | 'structured' | 'batch' {
  const lower = contentType?.toLowerCase() ?? ''
  if (!lower.startsWith('application/cloudevents')) return 'binary'
  const [essence = ''] = lower.split(';', 1)
  const charset = charsetOf(lower)
  if (charset !== undefined && charset !== 'utf-8' && charset !== 'us-ascii')
    throw invalid('content-type', `has charset ${clip(charset)}: events in JSON are UTF-8`)
  if (essence.trim() === 'application/cloudevents-batch+json') return 'batch'
  if (essence.trim() === 'application/cloudevents+json') return 'structured'
  throw invalid('content-type', `${clip(essence)} is an event format that is not known here, only +json is`)
}

/** Array.isArray does not narrow readonly arrays. */
function isList<Item>(value: Item | readonly Item[]): value is readonly Item[] {
  return Array.isArray(value)
}

/** Keeps what the binary modes need; a second value of an attribute is a fault, of another header it is nothing. */
function addHeader(headers: Map<string, string>, name: string, prefix: string, value: string): void {
  const lower = name.toLowerCase()
  if (lower !== 'content-type' && !lower.startsWith(prefix)) return
  if (headers.has(lower)) throw invalid(lower, 'is a header that stands there twice')
  headers.set(lower, value)
}

function setAttribute(attributes: Record<string, unknown>, name: string, value: string): void {
  if (name === 'data') throw invalid('data', 'is reserved: no attribute may have this name')
  checkName(name)
  attributes[name] = value
}

function eventOfBinary(
  attributes: Record<string, unknown>,
  contentType: string | undefined,
  body: Uint8Array | undefined,
): CloudEvent {
  if (contentType !== undefined) attributes.datacontenttype = contentType
  checkEvent(attributes)
  if (body === undefined) return attributes
  return { ...attributes, data: dataOfBytes(body, contentType) }
}

/** Without a type nothing is known of the bytes: they stay bytes, JSON or not. */
function dataOfBytes(body: Uint8Array, contentType: string | undefined): unknown {
  if (contentType === undefined) return body
  if (isJsonType(contentType)) return parseJson(utf8(body, 'EVENT_NOT_JSON', 'the data'))
  return isTextType(contentType) && isUtf8Charset(contentType) && isUtf8(body) ? decodeUtf8(body) : body
}

/** The bytes of the data and their type, which is written out where JSON data went without one. */
function bodyOf(event: CloudEvent): {
  readonly datacontenttype: string | undefined
  readonly body: Buffer | undefined
} {
  checkEvent(event)
  const { data, datacontenttype = undefined } = event
  const type = datacontenttype ?? undefined
  if (data === undefined) return { datacontenttype: type, body: undefined }
  if (data instanceof Uint8Array)
    return { datacontenttype: type, body: Buffer.from(data.buffer, data.byteOffset, data.byteLength) }
  if (type === undefined || isJsonType(type)) {
    checkJson(data)
    return { datacontenttype: type ?? 'application/json', body: Buffer.from(JSON.stringify(data)) }
  }
  if (!isUtf8Charset(type))
    throw invalid('datacontenttype', `${clip(type)}: text can only be written as UTF-8 here`)
  return { datacontenttype: type, body: Buffer.from(data as string) }
}

/** Everything that is set, but for the data. */
function attributesOf(event: CloudEvent): [name: string, value: AttributeValue][] {
  return Object.entries(event).filter(
    (entry): entry is [string, AttributeValue] =>
      entry[0] !== 'data' && entry[1] !== null && entry[1] !== undefined,
  )
}

// -- the rules of attributes

const nameShape = /^[a-z0-9]+$/
const printableAscii = /^[\x20-\x7e]*$/
/** Control characters, lone surrogates and noncharacters: what no attribute may hold. */
const forbidden = /[\p{Cc}\p{Cs}\p{Noncharacter_Code_Point}]/u

const hex = '%[0-9A-Fa-f]{2}'
const segmentNoColon = `(?:[A-Za-z0-9._~!$&'()*+,;=@-]|${hex})`
const segment = `(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|${hex})`
const userinfo = `(?:[A-Za-z0-9._~!$&'()*+,;=:-]|${hex})*@`
const regName = `(?:[A-Za-z0-9._~!$&'()*+,;=-]|${hex})*`
const ipLiteral = "\\[(?:[0-9A-Fa-f:.]+|[vV][0-9A-Fa-f]+\\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\\]"
const afterAuthority = `//(?:${userinfo})?(?:${ipLiteral}|${regName})(?::[0-9]*)?(?:/${segment}*)*`
const absolutePath = `/(?:${segment}+(?:/${segment}*)*)?`
const query = `(?:\\?(?:${segment}|[/?])*)?`
const fragment = `(?:#(?:${segment}|[/?])*)?`
const absolute = `[A-Za-z][A-Za-z0-9+.-]*:(?:${afterAuthority}|${absolutePath}|${segment}+(?:/${segment}*)*)?${query}`
const relative = `(?:${afterAuthority}|${absolutePath}|${segmentNoColon}+(?:/${segment}*)*)?${query}`
/** RFC 3986, sections 4.1 and 4.3 (an absolute URI has no fragment). */
const uriReferenceShape = new RegExp(`^(?:${absolute}|${relative})${fragment}$`)
const absoluteUriShape = new RegExp(`^${absolute}$`)

const token = "[A-Za-z0-9!#$%&'*+.^_`|~-]+"
/** RFC 2046 by the syntax of RFC 9110, 8.3.1. */
const mediaTypeShape = new RegExp(
  `^${token}/${token}[ \\t]*(?:;[ \\t]*(?:${token}=(?:${token}|"(?:[\\x20\\x21\\x23-\\x5b\\x5d-\\x7e]|\\\\[\\x20-\\x7e])*")[ \\t]*)?)*$`,
)

/** Everything the specification says of attributes; unset ones (null or undefined) are skipped. */
function checkEvent(event: Readonly<Record<string, unknown>>): asserts event is CloudEvent {
  if (event.specversion !== '1.0')
    throw invalid(
      'specversion',
      event.specversion === undefined || event.specversion === null
        ? 'is missing'
        : `must be "1.0", not ${shown(event.specversion)}`,
    )
  if (event.id === undefined || event.id === null) throw invalid('id', 'is missing')
  if (event.source === undefined || event.source === null) throw invalid('source', 'is missing')
  if (event.type === undefined || event.type === null) throw invalid('type', 'is missing')
  for (const name in event) {
    if (name === 'data' || name === 'specversion') continue
    const value = event[name]
    if (value === null || value === undefined) {
      checkName(name)
      continue
    }
    switch (name) {
      case 'id':
      case 'type':
      case 'subject':
      case 'partitionkey':
        checkText(name, value)
        if (value === '') throw invalid(name, 'must not be empty')
        break
      case 'source':
        checkText(name, value)
        if (value === '') throw invalid(name, 'must not be empty')
        if (!uriReferenceShape.test(value)) throw invalid(name, `${shown(value)} is not a URI reference`)
        break
      case 'time':
        checkText(name, value)
        if (instantMs(value) === undefined)
          throw invalid(name, `${shown(value)} is not an RFC 3339 time such as 2026-02-12T08:00:00Z`)
        break
      case 'dataschema':
        checkText(name, value)
        if (!absoluteUriShape.test(value)) throw invalid(name, `${shown(value)} is not an absolute URI`)
        break
      case 'datacontenttype':
        if (value === 'application/json') break
        checkText(name, value)
        if (!mediaTypeShape.test(value)) throw invalid(name, `${shown(value)} is not a media type`)
        break
      default:
        checkName(name)
        checkExtension(name, value)
    }
  }
  checkData(event)
}

function checkName(name: string): void {
  if (!nameShape.test(name))
    throw invalid(clip(name), 'is not a name of an attribute: only a to z and 0 to 9 are')
}

function checkText(name: string, value: unknown): asserts value is string {
  if (typeof value !== 'string') throw invalid(name, `must be a string, not ${shown(value)}`)
  if (!printableAscii.test(value) && forbidden.test(value))
    throw invalid(name, 'holds a control character, a lone surrogate or a noncharacter')
}

function checkExtension(name: string, value: unknown): void {
  if (typeof value === 'boolean') return
  if (typeof value === 'number') {
    if (!Number.isInteger(value) || value < -2147483648 || value > 2147483647)
      throw invalid(name, `${shown(value)} is not an integer of 32 bits: write it as a string`)
    return
  }
  if (typeof value !== 'string')
    throw invalid(name, `must be a string, a boolean or an integer, not ${shown(value)}`)
  checkText(name, value)
}

/** Data that is declared to be no JSON is text or bytes. */
function checkData(event: Readonly<Record<string, unknown>>): void {
  const { data, datacontenttype } = event
  if (data === undefined || typeof data === 'string' || data instanceof Uint8Array) return
  if (typeof datacontenttype !== 'string' || isJsonType(datacontenttype)) return
  throw invalid('data', `must be a string where datacontenttype is ${clip(datacontenttype)}`)
}

// -- media types

/** Is a `datacontenttype` of JSON: subtype `json`, or one that ends in `+json`. */
export function isJsonType(mediaType: string): boolean {
  if (mediaType === 'application/json') return true
  const essence = essenceOf(mediaType)
  return essence.endsWith('/json') || essence.endsWith('+json')
}

function isTextType(mediaType: string): boolean {
  const essence = essenceOf(mediaType)
  return essence.startsWith('text/') || essence.endsWith('/xml') || essence.endsWith('+xml')
}

function isUtf8Charset(mediaType: string): boolean {
  const charset = charsetOf(mediaType)
  return charset === undefined || charset === 'utf-8' || charset === 'utf8'
}

function essenceOf(mediaType: string): string {
  return (mediaType.split(';', 1)[0] ?? '').trim().toLowerCase()
}

function charsetOf(mediaType: string): string | undefined {
  return /;\s*charset="?([^";\s]*)/i.exec(mediaType)?.[1]?.toLowerCase()
}

// -- HTTP header values

/** Space, double quote, percent and all beyond printable ASCII, by Unicode character. */
function percentEncode(value: string): string {
  return value.replace(/[^\x21\x23\x24\x26-\x7e]/gu, character =>
    Array.from(Buffer.from(character), byte => `%${byte.toString(16).toUpperCase().padStart(2, '0')}`).join(
      '',
    ),
  )
}

/**
 * What the Go SDK sends: beyond ASCII it writes bytes of UTF-8, which node:http gives as one character each, and it
 * encodes nothing, percent signs no more than the rest. Undefined where it is no such text.
 */
function rawText(value: string): string | undefined {
  if (!/[\x80-\xff]/.test(value) || /[^\0-\xff]/.test(value)) return undefined
  const bytes = Buffer.from(value, 'latin1')
  return isUtf8(bytes) ? decodeUtf8(bytes) : undefined
}

/** Older senders quote values: what stands in double quotes loses them, and its backslashes. */
function unquote(value: string, attribute: string): string {
  const trimmed = value.replace(/^[ \t]+|[ \t]+$/g, '')
  if (!printableAscii.test(trimmed))
    throw invalid(attribute, 'holds a raw character outside printable ASCII: percent-encode it')
  if (!trimmed.includes('"')) return trimmed
  return trimmed.replace(/"((?:[^"\\]|\\.)*)"|"/g, (quoted, inside: string | undefined) => {
    if (inside === undefined) throw invalid(attribute, 'has a double quote that is not closed')
    return quoted.slice(1, -1).replace(/\\(.)/g, '$1')
  })
}

/** One round. Needless encoding is fine; bytes that are no UTF-8 are not. */
function percentDecode(value: string, attribute: string): string {
  if (!value.includes('%')) return value
  try {
    return decodeURIComponent(value)
  } catch {
    throw invalid(attribute, 'is not percent-encoded UTF-8')
  }
}

// -- bytes, text and JSON

/**
 * JSON with every number kept: one that a double cannot hold to the last digit becomes a raw JSON number
 * (`JSON.rawJSON`), which prints as it was written and is no `number` that could be counted wrongly.
 */
function parseJson(text: string): unknown {
  const json = parsed(text)
  // Most events hold no number at all, and a look at their few values costs less than one at their text.
  return holdsNumber(json, depthMax) && longNumber.test(text) ? parsed(text, exactNumber) : json
}

function parsed(text: string, reviver?: typeof exactNumber): unknown {
  try {
    return JSON.parse(text, reviver)
  } catch (error) {
    throw new Fault('EVENT_NOT_JSON', `not JSON: ${clip((error as Error).message)}`, {}, { cause: error })
  }
}

/** JSON.parse takes any depth, and whoever walks or prints the value later would overflow the stack. */
const depthMax = 1000

function holdsNumber(json: unknown, depth: number): boolean {
  if (typeof json !== 'object' || json === null) return typeof json === 'number'
  if (depth === 0) throw tooDeep()
  let found = false
  for (const key in json) if (holdsNumber((json as Record<string, unknown>)[key], depth - 1)) found = true
  return found
}

function tooDeep(): Fault {
  return invalid('data', `is nested more than ${depthMax} deep`)
}

/** Never misses one: a double holds any 15 digits, and any exponent of two. */
const longNumber = /(?:^|[:,[])\s*-?(?:[\d.]{16}|[\d.]+[eE][+-]?\d{3})/

// In Node 26, and not yet in TypeScript's library.
const { rawJSON } = JSON as unknown as { readonly rawJSON: (text: string) => object }

function exactNumber(
  this: unknown,
  _key: string,
  value: unknown,
  context?: { readonly source?: string },
): unknown {
  const source = context?.source
  if (typeof value !== 'number' || source === undefined) return value
  const exact = fractionOf(new JsonNumber(source))
  const held = fractionOf(new JsonNumber(String(value)))
  return exact && held?.equals(exact) ? value : rawJSON(source)
}

/** JSON has no NaN, no infinity and no undefined: they would silently become null. */
function checkJson(data: unknown, depth = depthMax): void {
  if (typeof data === 'number' ? !Number.isFinite(data) : !jsonKinds.has(typeof data))
    throw invalid('data', `holds ${String(data)}, which JSON cannot say`)
  if (typeof data !== 'object' || data === null) return
  if (data instanceof Uint8Array) throw invalid('data', 'holds bytes inside JSON: write them as text')
  if (depth === 0) throw tooDeep()
  for (const value of Array.isArray(data) ? data : Object.values(data).filter(value => value !== undefined))
    checkJson(value, depth - 1)
}
const jsonKinds: ReadonlySet<string> = new Set(['string', 'boolean', 'object'])

function bytesOfBase64(text: unknown): Uint8Array {
  if (typeof text !== 'string') throw invalid('data_base64', `must be a string, not ${shown(text)}`)
  const bytes = Buffer.from(text, 'base64')
  // Buffer forgives everything; what does not come back as it was is not the base64 of RFC 4648.
  if (bytes.toString('base64') !== text) throw invalid('data_base64', 'is not base64')
  return bytes
}

function utf8(bytes: string | Uint8Array, code: 'EVENT_NOT_JSON' | 'EVENT_INVALID', what: string): string {
  if (typeof bytes === 'string') return bytes
  if (!isUtf8(bytes)) throw new Fault(code, `${what} is not UTF-8`, { attribute: what })
  return decodeUtf8(bytes)
}

function decodeUtf8(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8')
}

// -- faults

function invalid(attribute: string, what: string): Fault {
  return new Fault('EVENT_INVALID', `${attribute} ${what}`, { attribute })
}

function atIndex<Result>(index: number, work: () => Result): Result {
  try {
    return work()
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    throw new Fault(error.code, `event ${index}: ${error.message}`, { ...error.facts, index })
  }
}

function shown(value: unknown): string {
  return typeof value === 'object' && value !== null
    ? 'an object'
    : clip(JSON.stringify(value) ?? typeof value)
}

function clip(text: string): string {
  return text.length > 80 ? `${text.slice(0, 80)}…` : text
}
