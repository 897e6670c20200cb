/** The one way out to providers: an HTTP client with a deadline, retries, bounded concurrency and a histogram per endpoint. */
import type { Readable } from 'node:stream'
import { setTimeout as sleepFor } from 'node:timers/promises'
import { getCACertificates } from 'node:tls'
import { promisify } from 'node:util'
import { brotliDecompress, brotliDecompressSync, gunzip, gunzipSync } from 'node:zlib'
import { Counter, Histogram } from 'prom-client'
import { Agent, type Dispatcher, EnvHttpProxyAgent, request as undiciRequest } from 'undici'
import { Fault, type FaultFacts } from '../schemas/fault.ts'
import { minuteMs, secondMs } from '../schemas/window.ts'
import { registry } from './metrics.ts'

export interface HttpRequest {
  readonly method?: 'GET' | 'POST'
  readonly url: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  /** A name for metrics and faults, such as `rafay.instance_usage`: never the URL, which has ids in it. */
  readonly endpoint: string
  /** What an answer other than 2xx means, where its body says more than its status; undefined leaves it to the status. */
  readonly refusal?: (answer: HttpAnswer) => { readonly fault: Fault; readonly again: boolean } | undefined
  readonly signal: AbortSignal
}

export interface HttpAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly text: string
}

export interface Http extends AsyncDisposable {
  /**
   * Answers only with a 2xx, after retries. A POST is retried like a GET: providers are only ever asked, never told.
   * @throws Fault SOURCE_UNREACHABLE | SOURCE_BUSY | SOURCE_DENIED | SOURCE_MISSING | SOURCE_REFUSED | BODY_TOO_LARGE |
   * BODY_UNREADABLE (cut off or badly encoded) | ABORTED, with endpoint and status in its facts.
   */
  request(request: HttpRequest): Promise<HttpAnswer>
  /**
   * One attempt, for a body that is read while it comes, a watch for instance: no slot is taken, nothing tried again.
   * @throws Fault as `request`, with `retryAfterMs` in its facts where the provider gave it
   */
  stream(request: HttpStreamRequest): Promise<HttpStream>
}

export interface HttpStreamRequest extends HttpRequest {
  /** How long it may take until the answer begins, and then between two pieces of it. */
  readonly idleMs: number
}

export interface HttpStream {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  /**
   * The body in pieces of text, cut anywhere, until the provider ends it. To leave the loop closes it.
   * @throws Fault SOURCE_UNREACHABLE where it fell silent, BODY_UNREADABLE where it broke off, ABORTED
   */
  readonly pieces: AsyncIterable<string>
}

/** What a client shows and trusts besides what Node trusts (NODE_EXTRA_CA_CERTS is among that); each is PEM. */
export interface TlsFiles {
  readonly ca?: string
  readonly cert?: string
  readonly key?: string
  /** `nobody checks` takes any certificate: whoever is in between reads and writes what they like. */
  readonly verify?: 'nobody checks'
}

/** Addresses of proxies as the environment gives them (HTTP_PROXY, HTTPS_PROXY, NO_PROXY). */
export interface HttpProxy {
  readonly http?: string
  readonly https?: string
  readonly none?: string
}

/** What the environment says of proxies, in the names that curl and Python read too. */
export function proxyOf(env: Readonly<Record<string, string | undefined>>): HttpProxy {
  const http = env.http_proxy || env.HTTP_PROXY
  const https = env.https_proxy || env.HTTPS_PROXY
  const none = env.no_proxy || env.NO_PROXY
  return { ...(http && { http }), ...(https && { https }), ...(none && { none }) }
}

export interface HttpOptions {
  /** How many calls may be under way at once. */
  readonly concurrency?: number
  /** How long one attempt may take, body included. Rafay took 2.7 s for one row. */
  readonly deadlineMs?: number
  /** How often a call is tried again after the first attempt. */
  readonly retries?: number
  /** The longest Retry-After that is waited for; what asks for more is given up at once. */
  readonly retryAfterMsMax?: number
  /** The most a body may hold, after decoding. */
  readonly responseBytesMax?: number
  readonly userAgent?: string
  /** Asked before each call, so that files that were rotated count at once. */
  readonly tls?: () => TlsFiles
  readonly proxy?: HttpProxy
  readonly nowMs?: () => number
  readonly sleep?: (ms: number, signal: AbortSignal) => Promise<void>
  /** In [0, 1): the jitter. */
  readonly random?: () => number
}

const backoffFirstMs = 250
const backoffMostMs = 20 * secondMs
const waitingMax = 100_000
/** Of an error's body: enough for its sentence. */
const refusalBytesMax = 64 * 1024

const calls = new Counter({
  name: 'meterline_http_calls_total',
  help: 'Attempts to call a provider, by endpoint and status (`error` where no answer came).',
  labelNames: ['endpoint', 'status'],
  registers: [registry],
})
const seconds = new Histogram({
  name: 'meterline_http_call_seconds',
  help: 'How long an attempt took, body included.',
  labelNames: ['endpoint', 'status'],
  buckets: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 90],
  registers: [registry],
})
const retried = new Counter({
  name: 'meterline_http_retries_total',
  help: 'Attempts after the first, by endpoint.',
  labelNames: ['endpoint'],
  registers: [registry],
})

export function openHttp(options: HttpOptions = {}): Http {
  const deadlineMs = options.deadlineMs ?? 90 * secondMs
  const retries = options.retries ?? 5
  const retryAfterMsMax = options.retryAfterMsMax ?? 5 * minuteMs
  const bytesMax = options.responseBytesMax ?? 64 * 1024 * 1024
  const nowMs = options.nowMs ?? Date.now
  const random = options.random ?? Math.random
  const sleep = options.sleep ?? ((ms, signal) => sleepFor(ms, undefined, { signal }))
  const concurrency = options.concurrency ?? 8
  const slots = openSlots(concurrency)
  const dispatchers = openDispatchers(options, concurrency)
  // Apart from those: a watch would hold the connection that a call waits for.
  const streaming = openDispatchers(options, null)
  const closing = new AbortController()

  async function request(asked: HttpRequest): Promise<HttpAnswer> {
    const { endpoint } = asked
    const stop = anyOf([asked.signal, closing.signal])
    const aborted = () => new Fault('ABORTED', `${endpoint}: stopped`, { endpoint })
    try {
      for (let tried = 1; ; tried++) {
        await slots.take(stop.signal)
        let outcome: Outcome
        try {
          outcome = await attempt(asked, stop.signal)
        } finally {
          slots.give()
        }
        if ('answer' in outcome) return outcome.answer
        if (stop.signal.aborted) throw aborted()
        const { fault, retryAfterMs } = outcome
        if (!outcome.again || tried > retries) throw withAttempts(fault, tried)
        if (retryAfterMs !== undefined && retryAfterMs > retryAfterMsMax) throw withAttempts(fault, tried)
        // Full jitter: callers that failed together do not come back together.
        const backoffMs = random() * Math.min(backoffMostMs, backoffFirstMs * 2 ** (tried - 1))
        retried.inc({ endpoint })
        await sleep((retryAfterMs ?? 0) + backoffMs, stop.signal)
      }
    } catch (error) {
      if (error instanceof Fault) throw error
      if (stop.signal.aborted) throw aborted()
      throw error
    } finally {
      stop.release()
    }
  }

  function send(
    asked: HttpRequest,
    {
      headers,
      ...way
    }: {
      readonly headers: Readonly<Record<string, string>>
      readonly dispatcher: Dispatcher
      readonly signal: AbortSignal
    },
  ) {
    return undiciRequest(asked.url, {
      method: asked.method ?? 'GET',
      headers: {
        accept: 'application/json',
        ...headers,
        ...(options.userAgent !== undefined && { 'user-agent': options.userAgent }),
        ...asked.headers,
      },
      ...(asked.body !== undefined && { body: asked.body }),
      ...way,
    })
  }

  async function attempt(asked: HttpRequest, stop: AbortSignal): Promise<Outcome> {
    const { endpoint } = asked
    const either = anyOf([stop])
    let late = false
    const deadline = setTimeout(() => {
      late = true
      either.abort()
    }, deadlineMs)
    const startedMs = performance.now()
    let status: number | undefined
    const done = (shown: string) => {
      calls.inc({ endpoint, status: shown })
      seconds.observe({ endpoint, status: shown }, (performance.now() - startedMs) / secondMs)
    }
    try {
      const response = await send(asked, {
        headers: { 'accept-encoding': 'gzip, br' },
        dispatcher: dispatchers.of(asked.url),
        signal: either.signal,
      })
      status = response.statusCode
      const headers = plainHeaders(response.headers)
      if (status >= 200 && status < 300) {
        const text = await readText(response.body, headers, bytesMax)
        done(String(status))
        return { answer: { status, headers, text } }
      }
      const said = await readText(response.body, headers, refusalBytesMax).catch(() => '')
      done(String(status))
      return (
        asked.refusal?.({ status, headers, text: said }) ??
        refusal(asked, status, said, retryAfterOf(headers, nowMs()))
      )
    } catch (error) {
      done(status === undefined ? 'error' : String(status))
      const facts: FaultFacts = { endpoint, ...(status !== undefined && { status }) }
      if (error instanceof Fault)
        return {
          fault: new Fault(error.code, `${endpoint}: ${error.message}`, facts, { cause: error }),
          again: error.code === 'BODY_UNREADABLE',
        }
      if (late && !stop.aborted)
        return {
          fault: new Fault(
            'SOURCE_UNREACHABLE',
            `${endpoint}: no whole answer within ${deadlineMs / secondMs} s`,
            facts,
          ),
          again: true,
        }
      const reason = reasonOf(error)
      if (status !== undefined)
        return {
          fault: new Fault('BODY_UNREADABLE', `${endpoint}: the body broke off (${reason})`, facts, {
            cause: error,
          }),
          again: true,
        }
      const origin = URL.canParse(asked.url) ? new URL(asked.url).host : 'an address that is none'
      return {
        fault: new Fault(
          'SOURCE_UNREACHABLE',
          `${endpoint}: ${origin} cannot be reached (${reason})`,
          facts,
          {
            cause: error,
          },
        ),
        again: !isHopeless(reason),
      }
    } finally {
      clearTimeout(deadline)
      either.release()
    }
  }

  async function stream(asked: HttpStreamRequest): Promise<HttpStream> {
    const { endpoint, idleMs } = asked
    const either = anyOf([asked.signal, closing.signal])
    let silent = false
    let watchdog: NodeJS.Timeout | undefined
    const expectSoon = () => {
      clearTimeout(watchdog)
      watchdog = setTimeout(() => {
        silent = true
        either.abort()
      }, idleMs)
    }
    expectSoon()
    let status: number | undefined
    const end = (shown: string) => {
      clearTimeout(watchdog)
      either.release()
      calls.inc({ endpoint, status: shown })
    }
    const broken = (error: unknown): Fault => {
      if (error instanceof Fault) return error
      const facts: FaultFacts = { endpoint, ...(status !== undefined && { status }) }
      if (silent)
        return new Fault('SOURCE_UNREACHABLE', `${endpoint}: silent for ${idleMs / secondMs} s`, facts)
      if (either.signal.aborted) return new Fault('ABORTED', `${endpoint}: stopped`, { endpoint })
      const code = status === undefined ? 'SOURCE_UNREACHABLE' : 'BODY_UNREADABLE'
      const what = status === undefined ? 'cannot be reached' : 'the body broke off'
      return new Fault(code, `${endpoint}: ${what} (${reasonOf(error)})`, facts, { cause: error })
    }
    try {
      const dispatcher = streaming.of(asked.url)
      const response = await send(asked, { headers: {}, dispatcher, signal: either.signal })
      status = response.statusCode
      const headers = plainHeaders(response.headers)
      if (status < 200 || status >= 300) {
        const said = await readText(response.body, headers, refusalBytesMax).catch(() => '')
        const outcome = refusal(asked, status, said, retryAfterOf(headers, nowMs()))
        if ('fault' in outcome) throw outcome.fault
      }
      return { status, headers, pieces: piecesOf(response.body) }
    } catch (error) {
      const fault = broken(error)
      end(status === undefined ? 'error' : String(status))
      throw fault
    }

    async function* piecesOf(body: Readable): AsyncGenerator<string> {
      const decoder = new TextDecoder('utf-8', { fatal: true })
      try {
        for await (const chunk of body) {
          // While a piece is looked at nothing is expected: whoever takes long over it is not the provider.
          clearTimeout(watchdog)
          const text = decoder.decode(chunk as Buffer, { stream: true })
          if (text !== '') yield text
          expectSoon()
        }
        decoder.decode()
      } catch (error) {
        throw broken(error)
      } finally {
        end(String(status))
        body.on('error', () => {})
        if (!body.readableEnded) body.destroy()
      }
    }
  }

  return {
    request,
    stream,
    async [Symbol.asyncDispose]() {
      closing.abort()
      await Promise.all([dispatchers.destroy(), streaming.destroy()])
    },
  }
}

type Outcome =
  | { readonly answer: HttpAnswer }
  | { readonly fault: Fault; readonly again: boolean; readonly retryAfterMs?: number }

function withAttempts(fault: Fault, attempts: number): Fault {
  return new Fault(fault.code, fault.message, { ...fault.facts, attempts }, { cause: fault.cause })
}

/** What a status other than 2xx means, and whether the same call may succeed later. */
function refusal(
  asked: HttpRequest,
  status: number,
  said: string,
  retryAfterMs: number | undefined,
): Outcome {
  const { endpoint } = asked
  const sentence = sentenceOf(said, secretsIn(asked.headers ?? {}))
  const message = `${endpoint}: HTTP ${status}${sentence && ` (${sentence})`}`
  const facts: FaultFacts = { endpoint, status, ...(retryAfterMs !== undefined && { retryAfterMs }) }
  if (status === 408 || status === 425 || status === 429 || status >= 500)
    return {
      fault: new Fault('SOURCE_BUSY', message, facts),
      again: true,
      ...(retryAfterMs !== undefined && { retryAfterMs }),
    }
  const code =
    status === 401 || status === 403
      ? 'SOURCE_DENIED'
      : status === 404 || status === 410
        ? 'SOURCE_MISSING'
        : 'SOURCE_REFUSED'
  return { fault: new Fault(code, message, facts), again: false }
}

/**
 * What a provider may repeat of a call and nobody should read: each header may be a key, whole or behind its scheme, and
 * Basic holds a password.
 */
function secretsIn(headers: Readonly<Record<string, string>>): readonly string[] {
  return Object.entries(headers)
    .filter(([name]) => !/^(accept|content-type|user-agent)/i.test(name))
    .flatMap(([, value]) => {
      const [scheme = '', ...parts] = value.split(' ')
      if (!/^basic$/i.test(scheme)) return [value, ...parts]
      const [, ...password] = Buffer.from(parts.join(''), 'base64').toString().split(':')
      return [value, ...parts, password.join(':')]
    })
    .filter(secret => secret.length > 3)
}

/**
 * The provider's own sentence, where its body is JSON with an `error` or `message`: one line, clipped, and without
 * the secrets of the call, in case it repeats them.
 */
function sentenceOf(body: string, secrets: readonly string[]): string {
  let sentence: unknown
  try {
    const parsed = JSON.parse(body) as { error?: unknown; message?: unknown } | null
    sentence = typeof parsed?.error === 'string' ? parsed.error : parsed?.message
  } catch {
    return ''
  }
  if (typeof sentence !== 'string') return ''
  let shown = sentence.replace(/[\p{C}\s]+/gu, ' ').trim()
  for (const secret of secrets) shown = shown.replaceAll(secret, '…')
  return shown.length > 200 ? `${shown.slice(0, 200)}…` : shown
}

/** Retry-After as seconds or as an HTTP date. */
function retryAfterOf(headers: Readonly<Record<string, string>>, nowMs: number): number | undefined {
  const text = headers['retry-after']?.trim()
  if (!text) return undefined
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text) * secondMs
  const atMs = Date.parse(text)
  return Number.isNaN(atMs) ? undefined : Math.max(0, atMs - nowMs)
}

/** @throws Fault BODY_TOO_LARGE | BODY_UNREADABLE; or what the connection threw. */
async function readText(
  body: Readable,
  headers: Readonly<Record<string, string>>,
  bytesMax: number,
): Promise<string> {
  try {
    if (Number(headers['content-length'] ?? 0) > bytesMax) throw tooLarge(bytesMax)
    const chunks: Buffer[] = []
    let bytes = 0
    for await (const chunk of body) {
      bytes += (chunk as Buffer).length
      if (bytes > bytesMax) throw tooLarge(bytesMax)
      chunks.push(chunk as Buffer)
    }
    const whole = await decoded(Buffer.concat(chunks), headers['content-encoding'], bytesMax)
    return new TextDecoder('utf-8', { fatal: true }).decode(whole)
  } catch (error) {
    const code = (error as { code?: unknown }).code
    if (code === 'ERR_BUFFER_TOO_LARGE') throw tooLarge(bytesMax)
    if (
      typeof code === 'string' &&
      (/^(Z_|ERR__ERROR|ERR_BROTLI)/.test(code) || code === 'ERR_ENCODING_INVALID_ENCODED_DATA')
    )
      throw new Fault(
        'BODY_UNREADABLE',
        `the body is cut off or badly encoded (${code})`,
        {},
        { cause: error },
      )
    throw error
  } finally {
    // A body that is left unread would hold its connection.
    body.on('error', () => {})
    if (!body.readableEnded) body.destroy()
  }
}

function tooLarge(bytesMax: number): Fault {
  return new Fault('BODY_TOO_LARGE', `the body is larger than ${bytesMax} bytes`)
}

/** Small bodies are decoded at once: a stream or a thread for each costs more than the work. */
const atOnceBytesMax = 64 * 1024
const gunzipLater = promisify<Buffer, { maxOutputLength: number }, Buffer>(gunzip)
const brotliLater = promisify<Buffer, { maxOutputLength: number }, Buffer>(brotliDecompress)

async function decoded(bytes: Buffer, encoding: string | undefined, bytesMax: number): Promise<Buffer> {
  const name = encoding?.trim().toLowerCase() ?? ''
  if (name === '' || name === 'identity') return bytes
  const bound = { maxOutputLength: bytesMax }
  const atOnce = bytes.length <= atOnceBytesMax
  if (name === 'gzip' || name === 'x-gzip')
    return atOnce ? gunzipSync(bytes, bound) : gunzipLater(bytes, bound)
  if (name === 'br') return atOnce ? brotliDecompressSync(bytes, bound) : brotliLater(bytes, bound)
  throw new Fault('BODY_UNREADABLE', `the content encoding "${name.slice(0, 40)}" was not asked for`)
}

function plainHeaders(
  headers: Readonly<Record<string, string | string[] | undefined>>,
): Readonly<Record<string, string>> {
  const plain: Record<string, string> = {}
  for (const [name, value] of Object.entries(headers))
    if (value !== undefined) plain[name] = Array.isArray(value) ? value.join(', ') : value
  return plain
}

/** A code where there is one: messages may hold addresses, codes do not. */
function reasonOf(error: unknown): string {
  const { code, name } = error as { code?: unknown; name?: unknown }
  if (typeof code === 'string') return code
  return typeof name === 'string' ? name : 'unknown'
}

/** A certificate, an address or a header that is wrong stays wrong: trying again only hides it. */
function isHopeless(reason: string): boolean {
  return (
    /^(CERT_|UNABLE_TO_|DEPTH_ZERO|SELF_SIGNED|ERR_TLS_CERT|ERR_INVALID)/.test(reason) ||
    reason === 'UND_ERR_INVALID_ARG'
  )
}

/** At most `most` at once, first come first served. */
function openSlots(most: number) {
  let taken = 0
  const waiting = new Set<() => void>()
  return {
    async take(signal: AbortSignal): Promise<void> {
      signal.throwIfAborted()
      if (taken < most) {
        taken++
        return
      }
      if (waiting.size >= waitingMax)
        throw new Fault('SOURCE_BUSY', `${waitingMax} calls are waiting already`)
      await new Promise<void>((resolve, reject) => {
        const granted = () => {
          signal.removeEventListener('abort', stopped)
          resolve()
        }
        const stopped = () => {
          waiting.delete(granted)
          reject(signal.reason)
        }
        waiting.add(granted)
        signal.addEventListener('abort', stopped, { once: true })
      })
    },
    /** The slot goes straight to the next in line, so `taken` does not change then. */
    give(): void {
      const [next] = waiting
      if (next) {
        waiting.delete(next)
        next()
      } else taken--
    },
  }
}

/** AbortSignal.any keeps its sources' listeners until it is collected; this one lets go when told. */
function anyOf(signals: readonly AbortSignal[]) {
  const either = new AbortController()
  const abort = () => either.abort()
  for (const signal of signals) {
    if (signal.aborted) abort()
    else signal.addEventListener('abort', abort)
  }
  return {
    signal: either.signal,
    abort,
    release() {
      for (const signal of signals) signal.removeEventListener('abort', abort)
    },
  }
}

/** Connections stay open between calls; a proxy is used only for the protocol it is named for. */
function openDispatchers(options: HttpOptions, connections: number | null) {
  let held:
    | { readonly shown: string; readonly plain: Agent; readonly proxied: Agent | EnvHttpProxyAgent }
    | undefined
  const retired: Promise<void>[] = []
  const { proxy } = options

  function current() {
    const files = options.tls?.() ?? {}
    const shown = JSON.stringify([files.ca, files.cert, files.key, files.verify])
    if (held?.shown === shown) return held
    // Calls that are under way on the old certificates end on them.
    if (held) retired.push(closed(held))
    held = { shown, ...dispatchersOf(files, proxy, connections) }
    return held
  }

  return {
    of(url: string): Dispatcher {
      const named = url.startsWith('https:') ? proxy?.https : proxy?.http
      const { plain, proxied } = current()
      return named ? proxied : plain
    },
    async destroy(): Promise<void> {
      if (held) await Promise.all([held.plain.destroy(), held.proxied.destroy()])
      await Promise.allSettled(retired)
    },
  }
}

async function closed({ plain, proxied }: ReturnType<typeof dispatchersOf>): Promise<void> {
  await Promise.all([plain.close(), proxied.close()])
}

function dispatchersOf(
  { ca, cert, key, verify }: TlsFiles,
  proxy: HttpProxy | undefined,
  connections: number | null,
) {
  const tls = {
    ...(ca !== undefined && { ca: [...getCACertificates('default'), ca] }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(verify !== undefined && { rejectUnauthorized: false }),
  }
  const shared = {
    connections,
    // The deadline of an attempt bounds headers and body together.
    headersTimeout: 0,
    bodyTimeout: 0,
    allowH2: false,
    ...(Object.keys(tls).length > 0 && { connect: tls }),
  }
  const plain = new Agent(shared)
  if (!proxy?.http && !proxy?.https) return { plain, proxied: plain }
  const proxied = new EnvHttpProxyAgent({
    ...shared,
    httpProxy: proxy.http ?? '',
    httpsProxy: proxy.https ?? '',
    noProxy: proxy.none ?? '',
    ...(Object.keys(tls).length > 0 && { requestTls: tls, proxyTls: tls }),
  })
  return { plain, proxied }
}
