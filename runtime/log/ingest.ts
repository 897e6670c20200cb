/**
 * CloudEvents over HTTP into the log: structured, binary and batch. An answer of 204 means that the log has them all.
 * What is refused for what it says is in the log too, as a refusal that becomes a reject of the ledger. What is refused
 * for who sends it, or cannot be read, is counted and not kept: nobody without a key fills the log, and nothing that a
 * key may not write waits there to be replayed.
 */
import { hash, randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createGunzip } from 'node:zlib'
import { Counter, Gauge } from 'prom-client'
import {
  batchType,
  type CloudEvent,
  decodeHttp,
  decodeStructured,
  encodeStructured,
  type HttpHeadersIn,
  structuredType,
} from '../../schemas/cloudevents.ts'
import { asFault, describeFault, Fault, type FaultCode } from '../../schemas/fault.ts'
import { type Grant, mayWrite } from '../../schemas/keys.ts'
import {
  amendmentType,
  checkSent,
  keptBytesMax,
  pushedBytesMax,
  pushedDepthMax,
  pushedKey,
  pushedValuesMax,
  type RefusalEvent,
  refusalType,
  sealAbout,
  sealPushedAmendment,
} from '../../schemas/pushed.ts'
import { minuteMs } from '../../schemas/window.ts'
import { type Admitted, anybody, Door } from '../keys.ts'
import { registry } from '../metrics.ts'
import { type ProblemDetails, problemType, requestIdOf, titled } from '../problem.ts'
import type { PushedEvent } from './outbox.ts'
import type { EventSink } from './sink.ts'

const eventsTotal = new Counter({
  name: 'meterline_ingest_events_total',
  help: 'Events that came over HTTP, by what became of them.',
  labelNames: ['outcome'],
  registers: [registry],
})
const refusedTotal = new Counter({
  name: 'meterline_ingest_requests_refused_total',
  help: 'Requests of which nothing was taken or kept: without a key that may push, beyond its rate, too large to be read, cut off, or the log was away.',
  labelNames: ['reason'],
  registers: [registry],
})
const forbiddenTotal = new Counter({
  name: 'meterline_ingest_forbidden_total',
  help: 'Events that a key may not write, and requests beyond its rate, by its name.',
  labelNames: ['key', 'reason'],
  registers: [registry],
})
const inHandBytes = new Gauge({
  name: 'meterline_ingest_in_hand_bytes',
  help: 'Bytes of requests that are being read or stored.',
  registers: [registry],
})

export const bodyBytesMax = 10 * 1024 * 1024
/** Of all requests at once: beyond it a request is asked to come again. */
const inHandBytesMax = 64 * 1024 * 1024
/** Of those of one key: a slow one leaves room for the others. */
const inHandOfOneMax = inHandBytesMax / 2
export const batchEventsMax = 10_000
const headerBytesMax = 16 * 1024
/** How many of a batch's faults an answer names. */
const namedMax = 100
const bodyWithinMs = 30_000
const retryAfterSeconds = 5
const troubleMs = minuteMs
/** How much of a body nobody wants is let in, so that its sender is there to read the answer. */
const drained = { withinMs: 5000, bytesMax: 4 * bodyBytesMax }
const drainedOfStrangers = { withinMs: 1000, bytesMax: 256 * 1024 }

export const eventsPath = '/api/v1/events'

export interface IngestAnswer {
  readonly status: number
  readonly retryAfterSeconds?: number
  /** RFC 9457, where something was refused. */
  readonly problem?: Problem
}

interface Problem extends ProblemDetails {
  /** How many events of the request were taken all the same. */
  readonly taken: number
  readonly extensions: { readonly validationErrors: readonly NamedFault[] }
}

interface NamedFault {
  readonly index: number
  readonly code: string
  readonly message: string
}

export interface IngestOptions {
  readonly sink: EventSink
  readonly nowMs: () => number
  /** Who may push; without it, whoever is on this machine. */
  readonly door?: Door
  /** Told why the log took nothing: where a person must act, or the process begin anew, nobody else may notice. */
  readonly onFault?: (fault: Fault) => void
}

export class Ingest {
  readonly #sink: EventSink
  readonly #nowMs: () => number
  readonly #door: Door
  readonly #onFault: ((fault: Fault) => void) | undefined
  #inHand = 0
  readonly #inHandOf = new Map<string, number>()
  #lastRefused: { readonly fault: Fault; readonly atMs: number } | undefined

  constructor({ sink, nowMs, door, onFault }: IngestOptions) {
    this.#sink = sink
    this.#onFault = onFault
    this.#nowMs = nowMs
    this.#door = door ?? new Door({ open: 'loopback', nowMs })
  }

  /** For health: why the log took nothing the last time, until it takes again or nobody has asked it for a while. */
  trouble(): string | undefined {
    const { fault, atMs } = this.#lastRefused ?? {}
    if (fault === undefined || performance.now() - (atMs ?? 0) > troubleMs) return undefined
    return describeFault(fault)
  }

  /** Answers what comes to the API of a process that has no other routes. */
  async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (request.url?.split('?')[0] !== eventsPath)
      await this.#turnAway(request, response, { status: 404, detail: 'there is nothing here but the events' })
    else if (request.method !== 'POST') {
      response.setHeader('allow', 'POST')
      await this.#turnAway(request, response, { status: 405, detail: 'events are posted' })
    } else await this.serve(request, response)
  }

  async #turnAway(
    request: IncomingMessage,
    response: ServerResponse,
    { status, detail }: { readonly status: number; readonly detail: string },
  ): Promise<void> {
    if (!request.complete) await drain(request, drainedOfStrangers)
    reply(request, response, problem(status, new Fault('USAGE', detail)))
  }

  /** Answers a request whose body nobody has read yet. Never throws. */
  async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let answer: IngestAnswer
    let hand: Hand | undefined
    try {
      const admitted = await this.#door.admit(request)
      if (admitted instanceof Fault) answer = refusedAtDoor(admitted, response)
      else {
        hand = this.#handOf(admitted.grant.name)
        const body = await readBody(request, admitted, hand.hold)
        answer = Buffer.isBuffer(body) ? await this.take(request.headers, body, admitted) : body
      }
      if (!request.complete) await drain(request, answer.status === 401 ? drainedOfStrangers : drained)
    } catch (error) {
      answer = problem(500, asFault(error, 'INTERNAL'))
    } finally {
      hand?.[Symbol.dispose]()
    }
    reply(request, response, answer)
  }

  /** What a request may keep in memory, given back when it is answered. */
  #handOf(name: string): Hand {
    let held = 0
    const count = (bytes: number) => {
      held += bytes
      this.#inHand += bytes
      const own = (this.#inHandOf.get(name) ?? 0) + bytes
      if (own === 0) this.#inHandOf.delete(name)
      else this.#inHandOf.set(name, own)
      inHandBytes.set(this.#inHand)
    }
    return {
      hold: bytes => {
        const ownMax = name === '' ? inHandBytesMax : inHandOfOneMax
        if (this.#inHand + bytes > inHandBytesMax) return false
        if ((this.#inHandOf.get(name) ?? 0) + bytes > ownMax) return false
        count(bytes)
        return true
      },
      [Symbol.dispose]: () => count(-held),
    }
  }

  /** Takes the events of a request. What is refused goes to the log as well; the answer names it. */
  async take(headers: HttpHeadersIn, body: Buffer, admitted: Admitted = anybody): Promise<IngestAnswer> {
    const { grant } = admitted
    const nowMs = this.#nowMs()
    const events: PushedEvent[] = []
    const refusals: PushedEvent[] = []
    const faults: NamedFault[] = []
    let forbidden = 0
    const refuse = (fault: Fault, index: number, piece: Piece) => {
      if (fault.code === 'KEY_FORBIDS') forbidden += 1
      else refusals.push(refusalOf(fault, piece, nowMs))
      faults.push({ index, code: fault.code, message: fault.message.toWellFormed() })
    }
    const pieces = piecesOf(headers, body)
    admitted.spend(pieces.length, 0)
    for (const [index, piece] of pieces.entries())
      try {
        events.push(eventOf(piece, grant, nowMs))
      } catch (error) {
        refuse(asFault(error, 'EVENT_INVALID'), index, piece)
      }
    try {
      if (events.length + refusals.length > 0) {
        await this.#sink.put([...events, ...refusals])
        this.#lastRefused = undefined
      }
    } catch (error) {
      const fault = asFault(error, 'LOG_UNREACHABLE')
      this.#lastRefused = { fault, atMs: performance.now() }
      refusedTotal.inc({ reason: 'log' })
      this.#onFault?.(fault)
      return notTaken(fault)
    }
    eventsTotal.inc({ outcome: 'taken' }, events.length)
    eventsTotal.inc({ outcome: 'refused' }, refusals.length)
    eventsTotal.inc({ outcome: 'forbidden' }, forbidden)
    if (forbidden > 0) forbiddenTotal.inc({ key: grant.name, reason: 'grant' }, forbidden)
    return faults.length === 0 ? { status: 204 } : refusedAnswer(faults, events.length)
  }
}

// -- requests

/** An event of a request, not yet decoded: its bytes, and the headers that say what they are. */
interface Piece {
  readonly headers: Readonly<Record<string, string>>
  readonly bytes: Buffer
  /** @throws Fault */
  readonly decode: () => CloudEvent
}

function piecesOf(headersIn: HttpHeadersIn, body: Buffer): readonly Piece[] {
  const headers = keptHeaders(headersIn)
  let type: string | undefined
  const whole = (decode: () => CloudEvent): readonly Piece[] => [
    { headers: type === undefined ? headers : { 'content-type': type }, bytes: body, decode },
  ]
  const failed = (error: unknown) =>
    whole(() => {
      throw error
    })
  try {
    const form = formOf(headersIn, body)
    // As what it was taken, whatever it was called: so it can be taken again.
    if (form !== 'binary') type = form === 'batch' ? batchType : structuredType
    if (form === 'binary') {
      const one = () => decodeHttp(headersIn, body)[0]!
      return whole(() => (isJsonLike(headersIn) ? within(body, shapeOf(body).whole, one) : one()))
    }
    if (form === 'structured')
      return whole(() => within(body, shapeOf(body).whole, () => decodeStructured(body)))
    const { elements } = shapeOf(body)
    if (elements === undefined) throw new Fault('EVENT_NOT_JSON', 'the body is not a JSON array of events')
    if (elements.length > batchEventsMax)
      throw new Fault('EVENT_TOO_LARGE', `the batch has more than ${batchEventsMax} events`)
    return elements.map(element => {
      const bytes = body.subarray(element.from, element.to)
      const decode = () => within(bytes, element, () => decodeStructured(bytes))
      return { headers: { 'content-type': structuredType }, bytes, decode }
    })
  } catch (error) {
    return failed(error)
  }
}

/** Before it is parsed: a short text can hold more values, or be deeper, than any event may. */
function within(bytes: Buffer, shape: Shape, decode: () => CloudEvent): CloudEvent {
  if (bytes.length > pushedBytesMax)
    throw new Fault('EVENT_TOO_LARGE', `${bytes.length} bytes are more than ${pushedBytesMax}`)
  // The event is an object around its data.
  if (shape.depth > pushedDepthMax + 1)
    throw new Fault('EVENT_DATA_INVALID', `/data is nested more than ${pushedDepthMax} deep`)
  if (shape.commas > pushedValuesMax + headersMax)
    throw new Fault('EVENT_DATA_INVALID', `/data has more than ${pushedValuesMax} values`)
  return decode()
}

const headersMax = 200

/** Which of the three forms it is; JSON without a `ce-` header is what OpenMeter's clients send. */
function formOf(headers: HttpHeadersIn, body: Buffer): 'batch' | 'structured' | 'binary' {
  const type = String(headers['content-type'] ?? '').toLowerCase()
  if (type.startsWith('application/cloudevents')) {
    const [essence = ''] = type.split(';', 1)
    const charset = /;\s*charset="?([^";\s]*)/.exec(type)?.[1]
    if (charset !== undefined && charset !== 'utf-8' && charset !== 'us-ascii')
      throw new Fault('EVENT_INVALID', 'content-type has a charset other than utf-8')
    if (essence.trim() === 'application/cloudevents-batch+json') return 'batch'
    if (essence.trim() === 'application/cloudevents+json') return 'structured'
    throw new Fault('EVENT_INVALID', 'content-type is an event format that is not known here, only +json is')
  }
  const isBinary = Object.keys(headers).some(name => name.toLowerCase().startsWith('ce-'))
  if (isBinary || !isJsonLike(headers)) return 'binary'
  return body.subarray(0, 100).toString('latin1').trimStart().startsWith('[') ? 'batch' : 'structured'
}

function isJsonLike(headers: HttpHeadersIn): boolean {
  return /^application\/(?:[\w.+-]+\+)?json\b/i.test(String(headers['content-type'] ?? ''))
}

/** Those that say what the bytes are, and no others: credentials stay out of the log. */
function keptHeaders(headers: HttpHeadersIn): Readonly<Record<string, string>> {
  const kept: Record<string, string> = {}
  let bytes = 0
  for (const [name, value] of Object.entries(headers)) {
    const lower = name.toLowerCase()
    if ((lower !== 'content-type' && !lower.startsWith('ce-')) || value === undefined) continue
    const text = (Array.isArray(value) ? value.join(', ') : String(value)).toWellFormed()
    bytes += lower.length + text.length
    if (bytes <= headerBytesMax && Object.keys(kept).length < headersMax) kept[lower] = text
  }
  return kept
}

/** As the log takes it. The text is written anew, so that whatever mode it came in, one form travels. */
function eventOf({ decode }: Piece, grant: Grant, nowMs: number): PushedEvent {
  const event = decode()
  const fault = mayWrite(grant, event)
  if (fault) throw fault
  const { source, id, key, value } = sentOf(event, grant, nowMs)
  if (value.length > pushedBytesMax)
    throw new Fault('EVENT_TOO_LARGE', `${value.length} bytes are more than ${pushedBytesMax}`)
  return { source, id, key, value }
}

function sentOf(event: CloudEvent, { name }: Grant, nowMs: number): PushedEvent {
  if (event.type === amendmentType) {
    const { text, ...amendment } = sealPushedAmendment(event, name, nowMs)
    return { ...amendment, value: Buffer.from(text) }
  }
  return { ...checkSent(event, nowMs), value: Buffer.from(encodeStructured(event)) }
}

/** What is refused travels as an event of ours: raw bytes could be an event after all for whoever reads them next. */
function refusalOf(fault: Fault, { headers, bytes }: Piece, nowMs: number): PushedEvent {
  const id = randomUUID()
  const source = 'meterline/ingest/http'
  const key = pushedKey(source, id)
  const text = sealAbout<RefusalEvent>({
    source,
    id,
    type: refusalType,
    partitionkey: key,
    timeMs: nowMs,
    data: {
      code: fault.code,
      reason: fault.message.toWellFormed().slice(0, 1000).toWellFormed(),
      headers,
      value: bytes.subarray(0, keptBytesMax).toString('base64'),
      bytes: bytes.length,
      sha256: hash('sha256', bytes, 'hex'),
    },
  })
  return { source, id, key, value: Buffer.from(text) }
}

// -- the shape of a JSON text

/** How deep a JSON text is nested, and how many commas stand between its values. */
interface Shape {
  readonly depth: number
  readonly commas: number
}

interface Element extends Shape {
  readonly from: number
  readonly to: number
}

const [quote, comma, backslash] = [0x22, 0x2c, 0x5c]
const [openList, closeList, openObject, closeObject] = [0x5b, 0x5d, 0x7b, 0x7d]

/**
 * Looks at the brackets, commas and strings of a JSON text without making values of it; and where it is an array, where
 * its elements stand. Whether it is JSON in every detail is for whoever parses it, element by element.
 */
function shapeOf(bytes: Buffer): {
  readonly whole: Shape
  readonly elements: readonly Element[] | undefined
} {
  const elements: Element[] = []
  let [depth, deepest, commas] = [0, 0, 0]
  let [from, elementDeepest, elementCommas] = [0, 0, 0]
  let state: 'before' | 'inside' | 'after' | 'no array' = 'before'
  const end = (to: number) => {
    const trimmed = trimmedSpan(bytes, from, to)
    const isEmpty = trimmed.from === trimmed.to
    // An array without elements has one empty one.
    if (!isEmpty || elements.length > 0 || bytes[to] === comma)
      elements.push({ ...trimmed, depth: elementDeepest, commas: elementCommas })
    from = to + 1
    elementDeepest = 0
    elementCommas = 0
  }
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at]!
    if (byte === quote) {
      at = endOfString(bytes, at)
      if (depth === 0) state = 'no array'
    } else if (byte === openList || byte === openObject) {
      depth += 1
      if (depth > deepest) deepest = depth
      if (depth - 1 > elementDeepest) elementDeepest = depth - 1
      if (depth === 1) {
        state = state === 'before' && byte === openList ? 'inside' : 'no array'
        from = at + 1
      }
    } else if (byte === closeList || byte === closeObject) {
      depth -= 1
      if (depth === 0 && state === 'inside') {
        end(at)
        state = 'after'
      }
      if (depth < 0) state = 'no array'
    } else if (byte === comma) {
      commas += 1
      if (depth === 1 && state === 'inside') {
        end(at)
        if (elements.length > batchEventsMax) break
      } else elementCommas += 1
    } else if (depth === 0 && byte > 0x20) state = 'no array'
  }
  const isArray = state === 'after' || elements.length > batchEventsMax
  return { whole: { depth: deepest, commas }, elements: isArray ? elements : undefined }
}

/** Where its closing quote stands, or the end of the text. */
function endOfString(bytes: Buffer, from: number): number {
  for (let at = bytes.indexOf(quote, from + 1); at >= 0; at = bytes.indexOf(quote, at + 1)) {
    let slashes = 0
    while (bytes[at - 1 - slashes] === backslash) slashes += 1
    if (slashes % 2 === 0) return at
  }
  return bytes.length
}

function trimmedSpan(bytes: Buffer, start: number, end: number): { from: number; to: number } {
  let [from, to] = [start, end]
  while (from < to && bytes[from]! <= 0x20) from += 1
  while (to > from && bytes[to - 1]! <= 0x20) to -= 1
  return { from, to }
}

// -- HTTP

/** Leaving the loop leaves the connection: the answer goes through it. */
function chunksOf(request: IncomingMessage): AsyncIterable<Buffer> {
  return { [Symbol.asyncIterator]: () => request.iterator({ destroyOnReturn: false }) }
}

/** Lets a sender finish, within reason, so that it is there to read the answer. */
async function drain(
  request: IncomingMessage,
  { withinMs, bytesMax }: { readonly withinMs: number; readonly bytesMax: number },
): Promise<void> {
  let bytes = 0
  const late = setTimeout(() => request.destroy(), withinMs)
  try {
    for await (const chunk of chunksOf(request)) {
      bytes += chunk.length
      if (bytes > bytesMax) return
    }
  } catch {
    // It went away.
  } finally {
    clearTimeout(late)
  }
}

interface Hand extends Disposable {
  /** False where it would be too much. */
  readonly hold: (bytes: number) => boolean
}

/** The body, or the answer where it cannot be read. */
async function readBody(
  request: IncomingMessage,
  { grant, spend }: Admitted,
  hold: Hand['hold'],
): Promise<Buffer | IngestAnswer> {
  const bytesMax = Math.min(grant.bounds?.bodyMaxBytes ?? bodyBytesMax, bodyBytesMax)
  const declared = Number(request.headers['content-length'] ?? 0)
  if (declared > bytesMax) return tooLarge(bytesMax)
  const encoding = (request.headers['content-encoding'] ?? 'identity').toLowerCase()
  if (encoding !== 'identity' && encoding !== 'gzip') {
    refusedTotal.inc({ reason: 'encoding' })
    return problem(415, new Fault('EVENT_INVALID', 'content-encoding: a body is taken as it is, or as gzip'))
  }
  if (declared > 0 && !hold(declared)) return busy()
  using body = encoding === 'gzip' ? inflated(request) : { chunks: chunksOf(request), [Symbol.dispose]() {} }
  const chunks: Buffer[] = []
  let bytes = 0
  const late = setTimeout(() => request.destroy(new Error('the body did not come in time')), bodyWithinMs)
  try {
    for await (const chunk of body.chunks) {
      bytes += chunk.length
      if (bytes > bytesMax) return tooLarge(bytesMax)
      if (bytes > declared && !hold(chunk.length)) return busy()
      chunks.push(chunk)
    }
  } catch (error) {
    const isGzipWrong = (error as NodeJS.ErrnoException).code?.startsWith('Z_') === true
    // Else nobody is there to be answered: the sender does not have a 204, and will send it again.
    refusedTotal.inc({ reason: isGzipWrong ? 'encoding' : 'cut off' })
    return problem(
      400,
      isGzipWrong ? new Fault('EVENT_INVALID', 'the body is not whole gzip') : asFault(error, 'ABORTED'),
    )
  } finally {
    clearTimeout(late)
    spend(0, bytes)
  }
  return Buffer.concat(chunks)
}

/** What a gzip holds, as it comes; the reader says how much of it is wanted. */
function inflated(request: IncomingMessage): Disposable & { readonly chunks: AsyncIterable<Buffer> } {
  const gunzip = createGunzip()
  const cut = () => void (request.complete || gunzip.destroy(new Error('the request was cut off')))
  request.once('close', cut)
  request.pipe(gunzip)
  return {
    chunks: gunzip,
    [Symbol.dispose]() {
      request.off('close', cut)
      request.unpipe(gunzip)
      gunzip.destroy()
    },
  }
}

function refusedAtDoor(fault: Fault, response: ServerResponse): IngestAnswer {
  const { code, facts } = fault
  if (code === 'RATE_EXCEEDED') {
    refusedTotal.inc({ reason: 'rate' })
    forbiddenTotal.inc({ key: String(facts.key), reason: 'rate' })
    return { ...problem(429, fault), retryAfterSeconds: Number(facts.retryAfterSeconds) }
  }
  refusedTotal.inc({ reason: 'key' })
  if (code === 'KEY_FORBIDS') {
    forbiddenTotal.inc({ key: String(facts.key), reason: 'grant' })
    return problem(403, fault)
  }
  // Where the keys cannot be looked up, whose this one is nobody knows: a sender that is told "unknown" does not come again.
  if (code !== 'KEY_UNKNOWN') return notTaken(fault)
  response.setHeader('www-authenticate', 'Bearer realm="meterline"')
  return problem(401, fault)
}

function tooLarge(bytesMax: number): IngestAnswer {
  refusedTotal.inc({ reason: 'size' })
  return problem(413, new Fault('EVENT_TOO_LARGE', `a body of more than ${bytesMax} bytes is not read`))
}

function busy(): IngestAnswer {
  refusedTotal.inc({ reason: 'busy' })
  return problem(503, new Fault('LOG_UNREACHABLE', 'too many bytes are in hand: send it again'))
}

/** Whatever is wrong with the log, the event is not: it may be sent again. */
function notTaken(fault: Fault): IngestAnswer {
  return problem(statuses[fault.code] ?? (fault.code === 'INTERNAL' ? 500 : 503), fault)
}

function problem(
  status: number,
  fault: Fault,
  { taken = 0, faults = [] }: { taken?: number; faults?: readonly NamedFault[] } = {},
): IngestAnswer {
  const { code } = fault
  return {
    status,
    problem: {
      ...titled(status),
      // What went wrong inside is for the log: nobody outside can act on it.
      detail: status === 500 ? 'Something went wrong here; the log says what.' : fault.message.toWellFormed(),
      code,
      retryable: status === 503 || status === 429,
      taken,
      extensions: { validationErrors: faults },
    },
  }
}

const statuses: Partial<Record<FaultCode, number>> = {
  EVENT_TOO_LARGE: 413,
  SOURCE_RESERVED: 403,
  KEY_FORBIDS: 403,
}

/** One status for all where they share one, else 400. The good rest was taken: sent again, it is a duplicate. */
function refusedAnswer(faults: readonly NamedFault[], taken: number): IngestAnswer {
  const kinds = new Set(faults.map(({ code }) => statuses[code as FaultCode] ?? 400))
  const [first] = faults
  const status = taken === 0 && kinds.size === 1 ? ([...kinds][0] ?? 400) : 400
  const count = faults.length + taken
  const detail =
    count === 1
      ? (first?.message ?? '')
      : `${faults.length} of ${count} events were refused, the others were taken; event ${first?.index}: ${first?.message}`
  const code = (first?.code ?? 'EVENT_INVALID') as FaultCode
  return problem(status, new Fault(code, detail), { taken, faults: faults.slice(0, namedMax) })
}

function reply(
  request: IncomingMessage,
  response: ServerResponse,
  {
    status,
    problem: details,
    retryAfterSeconds: seconds = status === 503 ? retryAfterSeconds : undefined,
  }: IngestAnswer,
): void {
  if (response.destroyed) return
  // A body that was not read to its end would be taken for the next request.
  if (!request.complete) {
    response.setHeader('connection', 'close')
    response.once('finish', () => request.destroy())
  }
  if (seconds !== undefined) response.setHeader('retry-after', seconds)
  response.setHeader('cache-control', 'no-store')
  const id = String(response.getHeader('x-request-id') ?? requestIdOf(request))
  response.setHeader('x-request-id', id)
  if (details === undefined) {
    response.writeHead(status).end()
    return
  }
  response.writeHead(status, { 'content-type': problemType })
  response.end(JSON.stringify({ ...details, instance: `urn:request:${id}` }))
}
