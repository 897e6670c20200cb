/** Owns the chdb addon and its data directory: one fresh connection a request, so no setting outlives its query. */
import { createRequire } from 'node:module'

/**
 * chdb's public Session is not used: its `close` waits for every operation of the process, and it hides the raw
 * insert's query text. chdb is pinned exactly, so its addon's own functions are safe to call.
 */
interface Addon {
  CreateConnection(directory: string, args?: readonly string[]): Connection | null
  CloseConnection(connection: Connection): void
  QueryAsyncConnection(connection: Connection, sql: string, format: string): Promise<RawResult>
  InsertRawAsyncConnection(
    connection: Connection,
    prefix: string,
    data: Buffer,
    countLines: boolean,
  ): Promise<RawInsert>
  StreamQuery(connection: Connection, sql: string, format: string): StreamHandle
  StreamFetch(stream: StreamHandle): Promise<RawChunk>
  StreamCancel(stream: StreamHandle): void
}
type Connection = object
type StreamHandle = object
interface RawResult {
  readonly bytes: Uint8Array
  readonly elapsed: number
  readonly rowsRead: number
  readonly bytesRead: number
}
interface RawInsert {
  readonly elapsed: number
  readonly rowsWritten: number
  readonly bytesWritten: number
}
interface RawChunk {
  readonly bytes: Uint8Array
  readonly numRows: number
  readonly done: boolean
}

/** A failure as ClickHouse words it: `Code: 60. DB::Exception: … (UNKNOWN_TABLE)`. */
export class EngineError extends Error {
  override readonly name = 'EngineError'
  readonly code: number

  constructor(message: string) {
    super(
      message.startsWith('Code: ') ? message : `Code: 1002. DB::Exception: ${message} (UNKNOWN_EXCEPTION)`,
    )
    this.code = Number(/^Code: (\d+)/.exec(this.message)?.[1] ?? 1002)
  }
}

export type EngineErrorName = keyof typeof engineErrors
const engineErrors = {
  NOT_IMPLEMENTED: 48,
  SYNTAX_ERROR: 62,
  BAD_ARGUMENTS: 36,
  UNKNOWN_FORMAT: 73,
  TOO_MANY_SIMULTANEOUS_QUERIES: 202,
  TOO_LARGE_STRING_SIZE: 131,
  QUERY_WAS_CANCELLED: 394,
  AUTHENTICATION_FAILED: 516,
  CANNOT_DECOMPRESS: 271,
} as const

/** An error of this server itself, in the engine's words and numbers. */
export function engineError(name: EngineErrorName, message: string): EngineError {
  return new EngineError(`Code: ${engineErrors[name]}. DB::Exception: ${message} (${name})`)
}

/** What a request brings besides its statement. */
export interface Context {
  /** Unique: the query is found by it to be killed. */
  readonly tag: string
  readonly database?: string
  readonly settings: ReadonlyMap<string, string>
  /** Names without `param_`, values as the HTTP interface has them (escaped text). */
  readonly params: ReadonlyMap<string, string>
}

/** Rows and bytes as the engine counted them. */
export interface Counts {
  readonly readRows: number
  readonly readBytes: number
  readonly writtenRows: number
  readonly writtenBytes: number
  readonly elapsedMs: number
}

export class LockedError extends Error {
  override readonly name = 'LockedError'
}

/**
 * The base every connection starts from: where `clickhouse local`, which chdb is built on, differs from a server.
 * @see `select name, value from system.settings where changed` on a fresh session.
 */
const baseSettings: Readonly<Record<string, string>> = {
  implicit_select: '0',
  allow_introspection_functions: '0',
}

/** The engine's own bound on a query's text (max_query_size), when the request sets no other. */
const queryLengthMax = 262_144

/** Formats whose parts may be joined as they are; the others have a head or a tail (or both) in every part. */
const joinableFormats = new Set([
  'jsoneachrow',
  'jsonlines',
  'ndjson',
  'jsoncompacteachrow',
  'jsonstringseachrow',
  'jsoncompactstringseachrow',
  'csv',
  'tsv',
  'tabseparated',
  'tsvraw',
  'tabseparatedraw',
  'rowbinary',
  'native',
])

export function isJoinable(format: string): boolean {
  return joinableFormats.has(format.toLowerCase())
}

/** Loads the addon, or throws what `require` throws when chdb is not installed. */
export function loadAddon(): Addon {
  const require = createRequire(import.meta.url)
  // The loader is not among chdb's exports, hence the require that starts at its main file.
  const loader = createRequire(require.resolve('chdb'))('./dist/loader.js') as { loadNative(): Addon }
  return loader.loadNative()
}

export class Engine {
  readonly #addon: Addon
  readonly #directory: string
  /** Keeps the engine up while no request is running. */
  readonly #anchor: Connection

  /** @throws LockedError while another process has the directory. */
  constructor(addon: Addon, { directory, memoryBytesMax }: { directory: string; memoryBytesMax: number }) {
    this.#addon = addon
    this.#directory = directory
    try {
      const anchor = addon.CreateConnection(directory, serverArguments(memoryBytesMax))
      if (anchor === null) throw new Error('no connection')
      this.#anchor = anchor
    } catch (error) {
      // The addon says only that it failed; the engine prints on stderr that the status file is locked.
      throw new LockedError(error instanceof Error ? error.message : String(error), { cause: error })
    }
  }

  /** Runs a statement and gives its whole answer. */
  async run(sql: string, format: string, context: Context): Promise<{ bytes: Uint8Array; counts: Counts }> {
    return await this.#withConnection(context, async connection => {
      const result = await this.#addon.QueryAsyncConnection(connection, sql, format)
      return { bytes: result.bytes, counts: countsOf(result) }
    })
  }

  /**
   * Runs a select and gives its answer in parts; memory stays flat whatever its size.
   * The first part comes after the query has begun without error. Only for formats that are `isJoinable`.
   */
  async *stream(sql: string, format: string, context: Context): AsyncGenerator<Uint8Array, void> {
    const connection = this.#open()
    try {
      await this.#prepare(connection, context)
      const stream = this.#addon.StreamQuery(connection, sql, format)
      for (;;) {
        const chunk = await this.#addon.StreamFetch(stream)
        if (chunk.done) return
        if (chunk.bytes.byteLength === 0) continue
        // Cancelled when the reader leaves early, and only then: a stream that ended or failed is gone already.
        // No fetch is in flight then, as a generator is never closed in the middle of its own await.
        let left = true
        try {
          yield chunk.bytes
          left = false
        } finally {
          if (left) this.#addon.StreamCancel(stream)
        }
      }
    } catch (error) {
      throw asEngineError(error)
    } finally {
      this.#addon.CloseConnection(connection)
    }
  }

  /** Inserts text data; the engine parses the buffer where it lies. `prefix` ends in `format X` or `values`. */
  async insert(prefix: string, data: Buffer, context: Context): Promise<Counts> {
    return await this.#withConnection(context, async connection => {
      const result = await this.#addon.InsertRawAsyncConnection(connection, prefix, data, false)
      return {
        readRows: result.rowsWritten,
        readBytes: data.byteLength,
        writtenRows: result.rowsWritten,
        writtenBytes: result.bytesWritten,
        elapsedMs: result.elapsed * 1000,
      }
    })
  }

  /** Asks the engine to stop the query of this tag; it ends with code 394 soon after. */
  async kill(tag: string): Promise<void> {
    const context = { tag: `${tag}-kill`, settings: new Map(), params: new Map([['tag', tag]]) }
    await this.run(`kill query where Settings['log_comment'] = {tag:String} async`, 'TabSeparated', context)
  }

  /** Call when nothing is running: closing under a running query breaks the engine. */
  close(): void {
    this.#addon.CloseConnection(this.#anchor)
  }

  #open(): Connection {
    const connection = this.#addon.CreateConnection(this.#directory)
    if (connection === null) throw new EngineError('no connection')
    return connection
  }

  async #withConnection<T>(context: Context, act: (connection: Connection) => Promise<T>): Promise<T> {
    const connection = this.#open()
    try {
      await this.#prepare(connection, context)
      return await act(connection)
    } catch (error) {
      throw asEngineError(error)
    } finally {
      this.#addon.CloseConnection(connection)
    }
  }

  async #prepare(connection: Connection, { tag, database, settings, params }: Context): Promise<void> {
    const set = [
      ...Object.entries(baseSettings),
      ...settings,
      // One query is found by this to be killed: chdb has no other way to name it. Nothing else reads it, as chdb has no query_log.
      ['log_comment', tag] as const,
    ].map(([name, value]) => `${identifier(name)} = ${literal(value)}`)
    const setParams = [...params].map(([name, value]) => `${identifier(`param_${name}`)} = ${literal(value)}`)
    const use = database === undefined ? '' : `use ${quoted(database)}; `
    const run = async (sql: string) =>
      void (await this.#addon.QueryAsyncConnection(connection, sql, 'TabSeparated'))
    if (setParams.reduce((length, param) => length + param.length, 0) < queryLengthMax / 4) {
      await run(`${use}set ${[...set, ...setParams].join(', ')}`)
      return
    }
    // A server's params are no part of the query that max_query_size bounds; here they are set by one.
    await run(`set max_query_size = ${2 ** 31}`)
    await run(`set ${setParams.join(', ')}`)
    await run(`${use}set max_query_size = ${queryLengthMax}, ${set.join(', ')}`)
  }
}

/** Server settings: they are read once, at the first connection. */
function serverArguments(memoryBytesMax: number): readonly string[] {
  // Caches are small (they grow to gigabytes by default): the rows asked for often are few, and memory belongs to queries.
  const cacheBytes = 64 * 1024 * 1024
  return [
    `--max_server_memory_usage=${memoryBytesMax}`,
    `--mark_cache_size=${cacheBytes}`,
    `--index_mark_cache_size=${cacheBytes}`,
    `--primary_index_cache_size=${cacheBytes}`,
  ]
}

function asEngineError(error: unknown): EngineError {
  if (error instanceof EngineError) return error
  return new EngineError(error instanceof Error ? error.message : String(error))
}

function countsOf(result: RawResult): Counts {
  return {
    readRows: result.rowsRead,
    readBytes: result.bytesRead,
    writtenRows: 0,
    writtenBytes: 0,
    elapsedMs: result.elapsed * 1000,
  }
}

function identifier(name: string): string {
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) throw engineError('BAD_ARGUMENTS', `Bad name ${name}`)
  return name
}

function literal(value: string): string {
  return `'${value.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
}

function quoted(name: string): string {
  return `\`${name.replaceAll('\\', '\\\\').replaceAll('`', '\\`')}\``
}
