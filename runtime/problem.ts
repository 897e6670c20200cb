/** How HTTP says that something is wrong (RFC 9457), and whether a request comes from this machine. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { isIP } from 'node:net'

/** A problem as RFC 9457 has it; `code` and `retryable` are of the fault behind it. */
export interface ProblemDetails {
  readonly type: 'about:blank'
  readonly title: string
  readonly status: number
  readonly detail: string
  readonly code?: string
  readonly retryable?: boolean
}

const titles: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  409: 'Conflict',
  413: 'Content Too Large',
  415: 'Unsupported Media Type',
  429: 'Too Many Requests',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
}

export function titled(status: number): Pick<ProblemDetails, 'type' | 'title' | 'status'> {
  return { type: 'about:blank', title: titles[status] ?? 'Error', status }
}

export const apiPrefix = '/api/'

/** What the API answers while nobody else does, at the start and at the end of a process: come again. */
export function answerNotYet(_request: IncomingMessage, response: ServerResponse): void {
  const details: ProblemDetails = {
    ...titled(503),
    detail: 'This process has not started yet, or is stopping; /readyz says what it waits for.',
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
