/** How HTTP says that something is wrong (RFC 9457), and whether a request comes from this machine. */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { isIP } from 'node:net'
import { type Fault, type FaultCode, faults } from '../schemas/fault.ts'

/** Clients compare the media type as a whole: no charset behind it. */
export const problemType = 'application/problem+json'

/** One thing of a request that does not fit. */
export interface ValidationError {
  readonly code: string
  readonly message: string
  /** `query window`, `body /groupBy/0`. */
  readonly field?: string
}

/** A problem as RFC 9457 has it; `code` and `retryable` are of the fault behind it. */
export interface ProblemDetails {
  readonly type: 'about:blank'
  readonly title: string
  readonly status: number
  readonly detail: string
  /** `urn:request:` and the id under which the process logs what it has to say of it. */
  readonly instance?: string
  readonly code?: string
  readonly retryable?: boolean
  readonly extensions?: { readonly validationErrors: readonly ValidationError[] }
}

const titles: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  406: 'Not Acceptable',
  408: 'Request Timeout',
  409: 'Conflict',
  412: 'Precondition Failed',
  413: 'Content Too Large',
  414: 'URI Too Long',
  415: 'Unsupported Media Type',
  422: 'Unprocessable Content',
  429: 'Too Many Requests',
  431: 'Request Header Fields Too Large',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
}

export function titled(status: number): Pick<ProblemDetails, 'type' | 'title' | 'status'> {
  return { type: 'about:blank', title: titles[status] ?? 'Error', status }
}

/** Of faults that are the asker's, or of what they ask for. */
const statuses: Partial<Readonly<Record<FaultCode, number>>> = {
  USAGE: 400,
  KEY_UNKNOWN: 401,
  KEY_FORBIDS: 403,
  SOURCE_RESERVED: 403,
  NOT_THERE: 404,
  METER_UNKNOWN: 404,
  METER_INVALID: 400,
  METER_EXISTS: 409,
  METER_FIXED: 409,
  EVENT_TOO_LARGE: 413,
  IDEMPOTENCY_RUNNING: 409,
  IDEMPOTENCY_DIFFERS: 422,
  QUERY_TOO_LARGE: 422,
  RATE_EXCEEDED: 429,
  // What is asked for cannot be priced as things stand: the book is to be mended, not Meterline.
  UNPRICED: 409,
  WEIGHT_MISSING: 409,
  PRICE_AMBIGUOUS: 409,
}

/** The status that answers a fault: 503 where the same may go better later, else 500, unless it is the asker's. */
export function statusOf(fault: Fault): number {
  return statuses[fault.code] ?? (fault.fate === 'retry' ? 503 : 500)
}

/** The codes that a status stands for, of faults that are the asker's. */
export function codesOf(status: number): readonly FaultCode[] {
  return (Object.keys(faults) as FaultCode[]).filter(code => statuses[code] === status)
}

/** The code of a problem that comes from no fault: what HTTP itself has to say. */
export function codeOf(status: number): FaultCode {
  const found = Object.entries(statuses).find(([, one]) => one === status)?.[0] as FaultCode | undefined
  return found ?? (status >= 500 ? 'INTERNAL' : 'USAGE')
}

/**
 * What a fault is called for who asked. What went wrong inside is for the log, and for those who run it: others cannot act
 * on it, and it may speak of what is not theirs.
 */
export function detailOf(fault: Fault, status: number, who: 'operator' | 'asker'): string {
  if (status < 500) return fault.message
  if (who === 'operator' && status === 503) return fault.message
  return status === 503 ? faults[fault.code].meaning : 'Something went wrong here; the log says what.'
}

/** The id of a request: as its sender says it, where that is fit for a log line, else a new one. */
export function requestIdOf({ headers }: Pick<IncomingMessage, 'headers'>): string {
  const said = headers['x-request-id']
  return typeof said === 'string' && /^[A-Za-z0-9._:/+=-]{1,128}$/.test(said) ? said : randomUUID()
}

/** What a server answers that cannot even read a request (`clientError` of node:http), as it stands on the wire. */
export function unreadable(error: Error & { readonly code?: string }): string {
  const status = { HPE_HEADER_OVERFLOW: 431, ERR_HTTP_REQUEST_TIMEOUT: 408 }[error.code ?? ''] ?? 400
  const details: ProblemDetails = {
    ...titled(status),
    detail:
      { 408: 'The request did not come in time.', 431: 'The address and headers are too long.' }[status] ??
      'This is no request of HTTP.',
    instance: `urn:request:${randomUUID()}`,
    code: 'USAGE',
    retryable: false,
  }
  const body = JSON.stringify(details)
  return [
    `HTTP/1.1 ${status} ${details.title}`,
    `content-type: ${problemType}`,
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
    '',
    body,
  ].join('\r\n')
}

export const apiPrefix = '/api/'

/** What the API answers while nobody else does, at the start and at the end of a process: come again. */
export function answerNotYet(request: IncomingMessage, response: ServerResponse): void {
  const id = requestIdOf(request)
  const details: ProblemDetails = {
    ...titled(503),
    detail: 'This process has not started yet, or is stopping; /readyz says what it waits for.',
    instance: `urn:request:${id}`,
    code: 'ABORTED',
    retryable: true,
  }
  // Nothing was read of the request: its body would be taken for the next one.
  response.writeHead(503, {
    'content-type': problemType,
    'cache-control': 'no-store',
    'retry-after': '5',
    'x-request-id': id,
    connection: 'close',
  })
  response.end(JSON.stringify(details))
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
