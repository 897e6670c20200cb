/** ClickHouse's HTTP interface over an engine: as much of it as the official client uses. */
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { rmSync, writeFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { join } from 'node:path'
import { pipeline, type Readable, type Transform } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import zlib from 'node:zlib'
import { type Context, type Counts, type Engine, EngineError, engineError, isJoinable } from './engine.ts'
import { readStatement, type Statement } from './statement.ts'

export interface HttpOptions {
  readonly user: string
  readonly password: string
  /** Rows of binary formats pass through `clickhouse-inserts/` in it. */
  readonly dataDir: string
  /** Statements that run at once; UV_THREADPOOL_SIZE must be larger, as each holds a thread. */
  readonly runningMax: number
  /** Requests that are open, running or waiting; more are refused with code 202. */
  readonly waitingMax: number
}

/** Statements larger than this are refused; rows to insert have no such bound. */
const statementBytesMax = 32 * 1024 * 1024
/** One insert of the engine: a body that is larger is cut at line ends into several. */
const insertBytesMax = 32 * 1024 * 1024
/** An insert whose format cannot be cut. */
const wholeBytesMax = 256 * 1024 * 1024
/** Bodies held at once: with `insertBytesMax` the bound on memory for rows that wait. */
const bodiesMax = 8
/** How long a query is killed again and again. */
export const killMs = 2_000
/** How long a connection may lie idle. */
export const keepAliveMs = 60_000

/** A counting lock, first come first served, with a bound on those that wait. */
export class Slots {
  #free: number
  readonly #waitingMax: number
  readonly #waiting: Array<() => void> = []

  constructor({ free, waitingMax }: { free: number; waitingMax: number }) {
    this.#free = free
    this.#waitingMax = waitingMax
  }

  /** @returns a function that gives the slot back; it may be called more than once. */
  async take(signal: AbortSignal): Promise<() => void> {
    if (this.#free > 0) this.#free -= 1
    else {
      if (this.#waiting.length >= this.#waitingMax) {
        throw engineError('TOO_MANY_SIMULTANEOUS_QUERIES', `${this.#waitingMax} statements wait already`)
      }
      await this.#wait(signal)
    }
    let held = true
    return () => {
      if (!held) return
      held = false
      const next = this.#waiting.shift()
      if (next) next()
      else this.#free += 1
    }
  }

  async #wait(signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const leave = () => {
      const index = this.#waiting.indexOf(resolve)
      if (index < 0) return
      this.#waiting.splice(index, 1)
      reject(engineError('QUERY_WAS_CANCELLED', 'The client left while its statement waited'))
    }
    this.#waiting.push(resolve)
    signal.addEventListener('abort', leave, { once: true })
    if (signal.aborted) leave()
    try {
      await promise
    } finally {
      signal.removeEventListener('abort', leave)
    }
  }
}

/** Query parameters that are the interface's own; every other one is a setting. */
const reserved = new Set([
  'query',
  'query_id',
  'database',
  'default_format',
  'user',
  'password',
  'quota_key',
  'stacktrace',
  'compress',
  'decompress',
  'role',
  'session_id',
  'session_timeout',
  'session_check',
  'close_session',
  'buffer_size',
  'wait_end_of_query',
  'client_protocol_version',
  'enable_http_compression',
  'send_progress_in_http_headers',
  'http_headers_progress_interval_ms',
  'log_comment',
])
/** They ask for what this server does not have; to ignore them would change what a statement means. */
const unsupported = ['session_id', 'role', 'compress', 'decompress']

/** Text formats whose rows never hold a raw line feed: a body of them may be cut at any. */
const lineFormats = new Set([
  'jsoneachrow',
  'jsonlines',
  'ndjson',
  'jsoncompacteachrow',
  'jsonstringseachrow',
  'jsoncompactstringseachrow',
  'tsv',
  'tabseparated',
])
/** Formats that the engine takes as bytes after the statement; others go through a file (binary data would be cut). */
const textFormats =
  /^(json|ndjson|csv|customseparated|tsv|tskv|tabseparated|values|lineasstring|regexp|template)/i

interface Outcome {
  readonly format: string
  readonly body: Uint8Array | AsyncGenerator<Uint8Array, void>
  readonly counts?: Counts
}

/** The HTTP interface over one engine. */
export class HttpInterface {
  readonly #engine: Engine
  readonly #options: HttpOptions
  readonly #running: Slots
  readonly #bodies: Slots
  /** Tags of requests that are being answered. */
  readonly #active = new Set<string>()
  readonly #orphaned: () => boolean
  #stopping = false

  /** @param orphaned whether nobody should begin to rely on this process any more. */
  constructor(engine: Engine, options: HttpOptions, orphaned: () => boolean) {
    this.#engine = engine
    this.#orphaned = orphaned
    this.#options = options
    this.#running = new Slots({ free: options.runningMax, waitingMax: options.waitingMax })
    this.#bodies = new Slots({ free: bodiesMax, waitingMax: options.waitingMax })
  }

  get activeCount(): number {
    return this.#active.size
  }

  /** From now on new requests find their connection closed, as if the server were gone. */
  stop(): void {
    this.#stopping = true
  }

  async killAll(): Promise<void> {
    await Promise.all([...this.#active].map(tag => this.#kill(tag)))
  }

  /** Again until it is gone: a kill that comes a moment before its query has begun finds nothing. */
  async #kill(tag: string): Promise<void> {
    const deadlineMs = performance.now() + killMs
    while (this.#active.has(tag) && performance.now() < deadlineMs) {
      await this.#engine.kill(tag).catch(() => undefined)
      await sleep(100)
    }
  }

  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const tag = randomBytes(12).toString('hex')
    const gone = new AbortController()
    response.on('close', () => {
      if (!response.writableFinished) gone.abort()
    })
    response.on('error', () => gone.abort())
    // Also in the moment between the parent's death and the pipe's end: nobody should begin to rely on this process.
    if (this.#stopping || this.#orphaned()) {
      request.socket.destroy()
      return
    }
    try {
      const url = urlOf(request)
      response.setHeader('X-ClickHouse-Server-Display-Name', 'meterline')
      response.setHeader('X-ClickHouse-Query-Id', encodeURI(url.searchParams.get('query_id') ?? tag))
      response.setHeader('Keep-Alive', `timeout=${keepAliveMs / 1000}`)
      if (url.pathname === '/ping') {
        // As a server's, open to all; but who does show a password learns whether it is the right one.
        if (request.headers.authorization || header(request, 'x-clickhouse-key')) {
          this.#authenticate(request, url.searchParams)
        }
        response.end('Ok.\n')
        return
      }
      this.#authenticate(request, url.searchParams)
      if (this.#active.size >= this.#options.waitingMax) {
        throw engineError('TOO_MANY_SIMULTANEOUS_QUERIES', `${this.#active.size} requests are open already`)
      }
      this.#active.add(tag)
      try {
        await this.#answer(request, response, { parameters: url.searchParams, tag, gone: gone.signal })
      } finally {
        this.#active.delete(tag)
      }
    } catch (error) {
      fail(response, error)
    } finally {
      // An unread body would block the connection for the next request.
      if (!request.complete) request.resume()
    }
  }

  #authenticate(request: IncomingMessage, parameters: URLSearchParams): void {
    const basic = /^Basic (.+)$/i.exec(request.headers.authorization ?? '')?.[1]
    const decoded = basic === undefined ? '' : Buffer.from(basic, 'base64').toString()
    const colon = decoded.indexOf(':')
    const user =
      header(request, 'x-clickhouse-user') ?? parameters.get('user') ?? decoded.slice(0, Math.max(colon, 0))
    const password =
      header(request, 'x-clickhouse-key') ?? parameters.get('password') ?? decoded.slice(colon + 1)
    if (user === this.#options.user && equalSecrets(password, this.#options.password)) return
    throw engineError(
      'AUTHENTICATION_FAILED',
      `${user || 'default'}: Authentication failed: password is incorrect, or there is no user with such name.`,
    )
  }

  async #answer(
    request: IncomingMessage,
    response: ServerResponse,
    { parameters, tag, gone }: { parameters: URLSearchParams; tag: string; gone: AbortSignal },
  ): Promise<void> {
    for (const name of unsupported) {
      if ((parameters.get(name) ?? '0') !== '0') {
        throw engineError('NOT_IMPLEMENTED', `The embedded server has no ${name}`)
      }
    }
    const context = contextOf(request, parameters, tag)
    const inUrl = parameters.get('query') ?? ''
    const defaultFormat =
      header(request, 'x-clickhouse-format') ?? parameters.get('default_format') ?? 'TabSeparated'
    const statement = readStatement(inUrl)
    if (statement.takesData) {
      const counts = await this.#insert(statement, request, context, gone)
      await send(request, response, parameters, { format: defaultFormat, body: Buffer.alloc(0), counts })
      return
    }
    const { sql, params } = await statementOf(request, inUrl)
    const outcome = await this.#run(
      readStatement(sql),
      defaultFormat,
      params.size === 0 ? context : { ...context, params: new Map([...context.params, ...params]) },
      { gone, inWhole: parameters.get('wait_end_of_query') === '1' },
    )
    await send(request, response, parameters, outcome)
  }

  async #run(
    statement: Statement,
    defaultFormat: string,
    context: Context,
    { gone, inWhole }: { gone: AbortSignal; inWhole: boolean },
  ): Promise<Outcome> {
    if (statement.verb === '') throw engineError('SYNTAX_ERROR', 'Empty query')
    if (statement.several) throw engineError('SYNTAX_ERROR', 'Multi-statements are not allowed')
    const reads = readVerbs.has(statement.verb)
    // As a server with cancel_http_readonly_queries_on_client_close: a read nobody waits for ends, a write goes on.
    if (reads) gone.addEventListener('abort', () => void this.#kill(context.tag), { once: true })
    const format = statement.format ?? defaultFormat
    // What is streamed the addon plans on the one thread that answers requests, and what is given whole on another.
    if (!inWhole && streamedVerbs.has(statement.verb) && isJoinable(format)) {
      const parts = this.#paced(this.#engine.stream(statement.text, defaultFormat, context), gone)
      try {
        // The first part is awaited here, so that a statement that fails at once has its own HTTP status.
        const first = await parts.next()
        return { format, body: first.done ? Buffer.alloc(0) : startingWith(first.value, parts) }
      } catch (error) {
        // `with … insert …` for one: the engine says so before it runs anything.
        if (!(error instanceof EngineError && error.message.includes(notStreamed))) throw error
      }
    }
    const release = await this.#running.take(gone)
    try {
      const { bytes, counts } = await this.#engine.run(statement.text, defaultFormat, context)
      return { format, body: bytes, counts }
    } finally {
      release()
    }
  }

  /** A stream counts as running only while a part is fetched: one that its client does not read blocks nobody else. */
  async *#paced(
    parts: AsyncGenerator<Uint8Array, void>,
    gone: AbortSignal,
  ): AsyncGenerator<Uint8Array, void> {
    try {
      for (;;) {
        const release = await this.#running.take(gone)
        let part: IteratorResult<Uint8Array, void>
        try {
          part = await parts.next()
        } finally {
          release()
        }
        if (part.done) return
        yield part.value
      }
    } finally {
      await parts.return()
    }
  }

  /** Inserts the body, in one piece up to `insertBytesMax`, else in pieces cut at line ends at places that do not depend on arrival. */
  async #insert(
    statement: Statement,
    request: IncomingMessage,
    context: Context,
    gone: AbortSignal,
  ): Promise<Counts> {
    const format = statement.format ?? 'Values'
    const giveBody = await this.#bodies.take(gone)
    const total = { readRows: 0, readBytes: 0, writtenRows: 0, writtenBytes: 0, elapsedMs: 0 }
    try {
      let piece = 0
      const cut = lineFormats.has(format.toLowerCase()) ? 'at line ends' : 'never'
      for await (const data of pieces(bodyOf(request), { cut, sizeHint: sizeHint(request) })) {
        const release = await this.#running.take(gone)
        try {
          const counts = await this.#insertPiece(statement, format, data, withPiece(context, piece))
          total.readRows += counts.readRows
          total.readBytes += counts.readBytes
          total.writtenRows += counts.writtenRows
          total.writtenBytes += counts.writtenBytes
          total.elapsedMs += counts.elapsedMs
        } finally {
          release()
        }
        piece += 1
      }
      return total
    } finally {
      giveBody()
    }
  }

  async #insertPiece(statement: Statement, format: string, data: Buffer, context: Context): Promise<Counts> {
    if (textFormats.test(format)) return await this.#engine.insert(statement.text, data, context)
    const file = join(insertDir(this.#options.dataDir), context.tag)
    try {
      writeFileSync(file, data, { mode: 0o600 })
      const into = statement.text.slice(0, statement.formatStart)
      const sql = `${into} from infile '${file.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}' format ${format}`
      const { counts } = await this.#engine.run(sql, 'TabSeparated', context)
      return { ...counts, writtenRows: counts.readRows, writtenBytes: counts.readBytes }
    } finally {
      rmSync(file, { force: true })
    }
  }
}

const readVerbs = new Set(['select', 'with', 'show', 'explain', 'describe', 'desc', 'exists'])
/** The others give little, and the engine streams only selects. */
const streamedVerbs = new Set(['select', 'with'])
const notStreamed = 'Streaming query is not supported for query'

function urlOf(request: IncomingMessage): URL {
  try {
    return new URL(`http://localhost${request.url}`)
  } catch {
    throw engineError('BAD_ARGUMENTS', 'The request has no valid path')
  }
}

function contextOf(request: IncomingMessage, parameters: URLSearchParams, tag: string): Context {
  const settings = new Map<string, string>()
  const params = new Map<string, string>()
  for (const [name, value] of parameters) {
    if (name.startsWith('param_')) params.set(name.slice('param_'.length), value)
    else if (!reserved.has(name)) settings.set(name, value)
  }
  const database = header(request, 'x-clickhouse-database') ?? parameters.get('database') ?? undefined
  return { tag, settings, params, ...(database === undefined ? {} : { database }) }
}

/**
 * A deduplication token names one insert. Pieces after the first get one of their own: with the same token the
 * engine would drop them as repeats.
 */
function withPiece(context: Context, piece: number): Context {
  const token = context.settings.get('insert_deduplication_token')
  if (piece === 0 || token === undefined || token === '') return context
  return {
    ...context,
    settings: new Map(context.settings).set('insert_deduplication_token', `${token}/${piece}`),
  }
}

function header(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name]
  return Array.isArray(value) ? value[0] : value
}

function equalSecrets(given: string, expected: string): boolean {
  const [a, b] = [Buffer.from(given), Buffer.from(expected)]
  return a.byteLength === b.byteLength && timingSafeEqual(a, b)
}

function bodyOf(request: IncomingMessage): Readable {
  const encoding = header(request, 'content-encoding') ?? 'identity'
  const decoder = decoders[encoding]
  if (encoding === 'identity' || encoding === '') return request
  if (!decoder) throw engineError('NOT_IMPLEMENTED', `Unknown Content-Encoding ${encoding}`)
  return pipeline(request, decoder(), () => undefined)
}

const decoders: Readonly<Record<string, () => Transform>> = {
  gzip: zlib.createGunzip,
  deflate: zlib.createInflate,
  br: zlib.createBrotliDecompress,
  zstd: zlib.createZstdDecompress,
}

/** Fastest first: the answer crosses loopback only. */
const encoders: Readonly<Record<string, () => Transform>> = {
  gzip: () => zlib.createGzip({ level: 1 }),
  zstd: () => zlib.createZstdCompress(),
  br: () => zlib.createBrotliCompress({ params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 1 } }),
  deflate: () => zlib.createDeflate({ level: 1 }),
}

function sizeHint(request: IncomingMessage): number {
  const length = Number(request.headers['content-length'] ?? 0)
  return request.headers['content-encoding'] === undefined ? length : 0
}

/** The statement: in the URL, in the body, or the one continued by the other; params may come in a form. */
async function statementOf(
  request: IncomingMessage,
  inUrl: string,
): Promise<{ sql: string; params: ReadonlyMap<string, string> }> {
  const body = await wholeBody(request, statementBytesMax)
  const params = new Map<string, string>()
  const contentType = header(request, 'content-type') ?? ''
  if (!contentType.startsWith('multipart/form-data')) {
    const text = body.toString()
    return { sql: inUrl === '' || text === '' ? inUrl + text : `${inUrl}\n${text}`, params }
  }
  let sql = inUrl
  const form = await new Response(new Uint8Array(body), { headers: { 'content-type': contentType } })
    .formData()
    .catch((error: unknown) => {
      throw engineError('BAD_ARGUMENTS', `The form cannot be read: ${error}`)
    })
  for (const [name, value] of form) {
    if (typeof value !== 'string') {
      throw engineError('NOT_IMPLEMENTED', 'The embedded server has no external tables')
    }
    if (name === 'query') sql += value
    else if (name.startsWith('param_')) params.set(name.slice('param_'.length), value)
  }
  return { sql, params }
}

async function wholeBody(request: IncomingMessage, bytesMax: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  let bytes = 0
  try {
    for await (const chunk of bodyOf(request) as AsyncIterable<Buffer>) {
      bytes += chunk.byteLength
      if (bytes > bytesMax)
        throw engineError('TOO_LARGE_STRING_SIZE', `A statement has at most ${bytesMax} bytes`)
      chunks.push(chunk)
    }
  } catch (error) {
    throw bodyError(error)
  }
  return Buffer.concat(chunks)
}

function bodyError(error: unknown): EngineError {
  if (error instanceof EngineError) return error
  const message = error instanceof Error ? error.message : String(error)
  return engineError('CANNOT_DECOMPRESS', `The body ended early or is badly encoded: ${message}`)
}

/** The body in pieces of at most `insertBytesMax`; the same bytes are always cut at the same places. Empty: no piece. */
export async function* pieces(
  body: AsyncIterable<Buffer>,
  {
    cut,
    sizeHint,
    bytesMax = insertBytesMax,
  }: { cut: 'at line ends' | 'never'; sizeHint: number; bytesMax?: number },
): AsyncGenerator<Buffer, void> {
  let held = Buffer.allocUnsafeSlow(Math.min(Math.max(sizeHint, 64 * 1024), bytesMax))
  let filled = 0
  const room = (bytes: number) => {
    if (bytes <= held.byteLength) return
    const larger = Buffer.allocUnsafeSlow(Math.max(bytes, held.byteLength * 2))
    held.copy(larger, 0, 0, filled)
    held = larger
  }
  try {
    for await (const chunk of body) {
      let taken = 0
      while (taken < chunk.byteLength) {
        const wanted =
          cut === 'never' ? chunk.byteLength - taken : Math.min(chunk.byteLength - taken, bytesMax - filled)
        if (cut === 'never' && filled + wanted > wholeBytesMax) {
          throw engineError(
            'TOO_LARGE_STRING_SIZE',
            `An insert of this format has at most ${wholeBytesMax} bytes`,
          )
        }
        room(filled + wanted)
        chunk.copy(held, filled, taken, taken + wanted)
        filled += wanted
        taken += wanted
        if (cut === 'never' || filled < bytesMax) continue
        const lineEnd = held.lastIndexOf(0x0a, filled - 1)
        if (lineEnd < 0) throw engineError('TOO_LARGE_STRING_SIZE', `A row has at most ${bytesMax} bytes`)
        const rest = Buffer.from(held.subarray(lineEnd + 1, filled))
        yield held.subarray(0, lineEnd + 1)
        // The engine reads a piece where it lies: what was given away is never written to again.
        held = Buffer.allocUnsafeSlow(bytesMax)
        rest.copy(held)
        filled = rest.byteLength
      }
    }
  } catch (error) {
    throw bodyError(error)
  }
  if (filled > 0) yield held.subarray(0, filled)
}

async function* startingWith(
  first: Uint8Array,
  rest: AsyncGenerator<Uint8Array, void>,
): AsyncGenerator<Uint8Array, void> {
  try {
    yield first
    yield* rest
  } finally {
    await rest.return()
  }
}

async function send(
  request: IncomingMessage,
  response: ServerResponse,
  parameters: URLSearchParams,
  { format, body, counts }: Outcome,
): Promise<void> {
  response.statusCode = 200
  response.setHeader('X-ClickHouse-Format', format)
  response.setHeader('Content-Type', contentType(format))
  if (counts) {
    response.setHeader(
      'X-ClickHouse-Summary',
      JSON.stringify({
        read_rows: String(counts.readRows),
        read_bytes: String(counts.readBytes),
        written_rows: String(counts.writtenRows),
        written_bytes: String(counts.writtenBytes),
        total_rows_to_read: '0',
        result_rows: '0',
        result_bytes: String(body instanceof Uint8Array ? body.byteLength : 0),
        elapsed_ns: String(Math.round(counts.elapsedMs * 1e6)),
      }),
    )
  }
  const encoding = parameters.get('enable_http_compression') === '1' ? acceptedEncoding(request) : undefined
  let out: ServerResponse | Transform = response
  let end: 'whole' | 'broken' = 'whole'
  if (encoding !== undefined && !(body instanceof Uint8Array && body.byteLength === 0)) {
    response.setHeader('Content-Encoding', encoding)
    const encoder = encoders[encoding]!()
    encoder.on('error', () => response.destroy())
    encoder.on('end', () => (end === 'whole' ? response.end() : breakOff(response)))
    response.on('close', () => encoder.destroy())
    encoder.pipe(response, { end: false })
    out = encoder
  }
  if (body instanceof Uint8Array) {
    out.end(body)
    return
  }
  const exceptionTag = randomBytes(8).toString('hex')
  response.setHeader('X-ClickHouse-Exception-Tag', exceptionTag)
  try {
    for await (const part of body) {
      if (response.destroyed) return
      if (!out.write(part)) await drained(out, response)
    }
    out.end()
  } catch (error) {
    // The status is sent already: the client finds the error by its tag.
    const message = textOf(error)
    out.write(
      `\r\n__exception__\r\n${exceptionTag}\r\n${message}\n${Buffer.byteLength(message) + 1} ${exceptionTag}\r\n__exception__\r\n`,
    )
    end = 'broken'
    if (out === response) breakOff(response)
    else out.end()
  }
}

/** Ends the connection in the middle of the answer: a reader who does not look for the tag cannot take it for whole. */
function breakOff(response: ServerResponse): void {
  if (response.destroyed) return
  response.write('\n', () => response.socket?.end())
}

async function drained(out: ServerResponse | Transform, response: ServerResponse): Promise<void> {
  const closed = new AbortController()
  const onClose = () => closed.abort()
  response.once('close', onClose)
  try {
    if (!response.destroyed) await once(out, 'drain', { signal: closed.signal })
  } catch {
    // The client left: the loop sees that the response is destroyed.
  } finally {
    response.off('close', onClose)
  }
}

function acceptedEncoding(request: IncomingMessage): string | undefined {
  const accepted = (header(request, 'accept-encoding') ?? '')
    .split(',')
    .map(part => part.split(';')[0]!.trim())
  return accepted.find(name => name in encoders)
}

function contentType(format: string): string {
  if (/^(JSON|JSONCompact|JSONStrings|JSONCompactStrings)$/i.test(format))
    return 'application/json; charset=UTF-8'
  if (/eachrow|ndjson|jsonlines/i.test(format)) return 'application/x-ndjson; charset=UTF-8'
  if (/^csv/i.test(format)) return 'text/csv; charset=UTF-8; header=absent'
  if (/^(tsv|tabseparated)/i.test(format)) return 'text/tab-separated-values; charset=UTF-8'
  return /^(native|rowbinary|parquet|arrow|orc|avro)/i.test(format)
    ? 'application/octet-stream'
    : 'text/plain; charset=UTF-8'
}

function textOf(error: unknown): string {
  return error instanceof EngineError ? error.message : new EngineError(String(error)).message
}

function fail(response: ServerResponse, error: unknown): void {
  if (response.headersSent || response.destroyed) {
    response.destroy()
    return
  }
  const engine = error instanceof EngineError ? error : new EngineError(String(error))
  response.statusCode = statuses.get(engine.code) ?? 500
  for (const name of ['Content-Encoding', 'X-ClickHouse-Summary', 'X-ClickHouse-Exception-Tag']) {
    response.removeHeader(name)
  }
  response.setHeader('X-ClickHouse-Exception-Code', String(engine.code))
  response.setHeader('Content-Type', 'text/plain; charset=UTF-8')
  response.end(`${engine.message}\n`)
}

/** The HTTP status of an error code, as a server gives it; others are 500. */
const statuses: ReadonlyMap<number, number> = new Map([
  ...[516, 194, 192].map(code => [code, 401] as const),
  ...[497].map(code => [code, 403] as const),
  ...[46, 47, 60, 81].map(code => [code, 404] as const),
  ...[6, 26, 27, 36, 38, 41, 43, 53, 62, 69, 70, 72, 115, 117, 130, 131, 271, 386, 456, 457].map(
    code => [code, 400] as const,
  ),
  ...[48, 344].map(code => [code, 501] as const),
  ...[202].map(code => [code, 503] as const),
  ...[159].map(code => [code, 408] as const),
])

/** Rows of binary formats on their way into the engine; what a crash leaves here was never acknowledged. */
export function insertDir(dataDir: string): string {
  return join(dataDir, 'clickhouse-inserts')
}
