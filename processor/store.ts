/** The way to ClickHouse: one client over HTTP, faults instead of its errors, and the numbered migrations. */
import { hash, randomUUID } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { finished } from 'node:stream/promises'
import {
  type ClickHouseClient,
  ClickHouseError,
  ClickHouseLogLevel,
  type ClickHouseSettings,
  createClient,
} from '@clickhouse/client'
import { Fault, type FaultCode } from '../schemas/fault.ts'

export interface StoreAddress {
  readonly url: string
  readonly user: string
  readonly password: string
  readonly database: string
}

export type Params = Readonly<Record<string, unknown>>

/** ClickHouse refuses these for a while: what is in none of these lists is for a person to mend. */
const passing = new Set([
  '159', // TIMEOUT_EXCEEDED
  '202', // TOO_MANY_SIMULTANEOUS_QUERIES
  '209', // SOCKET_TIMEOUT
  '210', // NETWORK_ERROR
  '241', // MEMORY_LIMIT_EXCEEDED
  '252', // TOO_MANY_PARTS
  '319', // UNKNOWN_STATUS_OF_INSERT
  '394', // QUERY_WAS_CANCELLED
  '439', // CANNOT_SCHEDULE_TASK
])
const readOnly = new Set([
  '164', // READONLY
  '242', // TABLE_IS_READ_ONLY
])
/** NOT_ENOUGH_SPACE; that of the disk itself comes under many codes, with errno 28 or 122 in its words. */
const full = '243'
const fullWords = /No space left on device|Disk quota exceeded/
const readOnlyWords = /Read-only file system/

/** The data of a statement is at fault, not the statement: so fuzzing what `accept` takes has found, and their kin. */
const contentRefusals = new Set([
  '6', // CANNOT_PARSE_TEXT
  '25', // CANNOT_PARSE_ESCAPE_SEQUENCE
  '26', // CANNOT_PARSE_QUOTED_STRING
  '27', // CANNOT_PARSE_INPUT_ASSERTION_FAILED
  '33', // CANNOT_READ_ALL_DATA
  '38', // CANNOT_PARSE_DATE
  '41', // CANNOT_PARSE_DATETIME
  '53', // TYPE_MISMATCH
  '69', // ARGUMENT_OUT_OF_BOUND
  '70', // CANNOT_CONVERT_TYPE
  '72', // CANNOT_PARSE_NUMBER
  '117', // INCORRECT_DATA
  '128', // TOO_LARGE_ARRAY_SIZE
  '130', // CANNOT_READ_ARRAY_FROM_TEXT
  '131', // TOO_LARGE_STRING_SIZE
  '321', // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
  '349', // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
  '407', // DECIMAL_OVERFLOW
  '457', // BAD_QUERY_PARAMETER
  '469', // VIOLATED_CONSTRAINT
])

/** Did ClickHouse refuse what a message brought, so that the others of its batch may still be put without it? */
export function isContentRefusal(error: unknown): error is Fault {
  return (
    error instanceof Fault &&
    error.code === 'STORE_REFUSED' &&
    contentRefusals.has(String(error.facts.clickhouse_code))
  )
}

/** What bounds a statement that somebody asked for. Without it a statement runs as those of Meterline itself do. */
export interface Reading {
  /** Aborted when nobody waits for the answer any longer: then the statement ends in ClickHouse too. */
  readonly signal?: AbortSignal
  readonly settings?: ClickHouseSettings
}

/** A statement went over the bounds of a `Reading`. */
const beyondBounds = new Set([
  '158', // TOO_MANY_ROWS
  '159', // TIMEOUT_EXCEEDED
  '160', // TOO_SLOW
  '191', // SET_SIZE_LIMIT_EXCEEDED
  '241', // MEMORY_LIMIT_EXCEEDED
  '307', // TOO_MANY_BYTES
  '396', // TOO_MANY_ROWS_OR_BYTES
])
/** All statements together went over the bound of the server: another one may pass. */
const totalMemory = /\(total\)|OvercommitTracker/

/** Answers that may be on their way to somebody who reads slowly, without keeping inserts from a connection. */
const streamsMax = 64

/** How long a server may take to say that it is there. */
const firstAnswerMs = 30_000

/** A connection to one database. Close it. */
export class Store implements AsyncDisposable {
  readonly #client: ClickHouseClient
  /** With connections of its own. */
  readonly #streams: ClickHouseClient

  private constructor(client: ClickHouseClient, streams: ClickHouseClient) {
    this.#client = client
    this.#streams = streams
  }

  /**
   * Connects, makes the database where it is missing, and applies the migrations that are not yet there. The signal ends
   * the wait for a server that says nothing.
   * @throws Fault STORE_UNREACHABLE | STORE_REFUSED | MIGRATION_CHANGED
   */
  static async open(
    address: StoreAddress,
    {
      deadlineMs = 120_000,
      threadsMax,
      signal,
    }: {
      readonly deadlineMs?: number
      /** Of a statement; without it as many as ClickHouse thinks fit. */
      readonly threadsMax?: number
      readonly signal?: AbortSignal
    } = {},
  ): Promise<Store> {
    const common = {
      url: address.url,
      username: address.user,
      password: address.password,
      request_timeout: deadlineMs,
      max_open_connections: 8,
      compression: { request: false, response: false },
      // What fails comes back as a fault: one voice to the operator.
      log: { level: ClickHouseLogLevel.OFF },
    }
    const first = createClient({ ...common, request_timeout: Math.min(deadlineMs, firstAnswerMs) })
    try {
      const query = `create database if not exists ${identifier(address.database)}`
      await faulted(first.command({ query, ...(signal && { abort_signal: signal }) }))
    } finally {
      await first.close()
    }
    const client = {
      ...common,
      database: address.database,
      clickhouse_settings: {
        // A day is a column prefix of every key, so parts of two months never hold the same identity.
        do_not_merge_across_partitions_select_final: 1,
        output_format_json_quote_64bit_integers: 1,
        output_format_json_quote_decimals: 1,
        date_time_output_format: 'iso',
        date_time_input_format: 'best_effort',
        // It costs more than it gains where inserts come beside each other.
        input_format_parallel_parsing: 0,
        // A batch may hold readings of as many months as a backfill spans; the default takes 100.
        max_partitions_per_insert_block: '0',
        // What is there twice is put together where it is asked for (`final`) and by merges, of one insert as of several.
        // To do it in each insert beforehand costs a third of it, and more where rows are as wide as those of `cells`.
        optimize_on_insert: 0,
        // Answers are small and parts many: to lay out each part's rows, and to read each, on threads of their own was
        // half of what a statement cost (13 parts: 27 ms of CPU, and 14 without).
        output_format_parallel_formatting: 0,
        local_filesystem_read_method: 'pread',
        ...(threadsMax !== undefined && { max_threads: threadsMax }),
      },
    } as const
    const store = new Store(
      createClient(client),
      createClient({ ...client, max_open_connections: streamsMax }),
    )
    await migrate(store)
    return store
  }

  /**
   * Rows of a select. Numbers of 64 bits and decimals are strings, times are ISO texts.
   * @throws Fault QUERY_TOO_LARGE beyond the bounds of `settings`
   */
  async rows<Row>(
    query: string,
    params: Params = {},
    { settings }: Pick<Reading, 'settings'> = {},
  ): Promise<Row[]> {
    const result = await faulted(
      this.#client.query({
        query,
        query_params: { ...params },
        format: 'JSONEachRow',
        // The answer is held whole here anyway; so a failure in its middle has a status of its own, too.
        clickhouse_settings: { wait_end_of_query: 1, ...settings },
      }),
      settings,
    )
    return await faulted(result.json<Row>(), settings)
  }

  /**
   * Rows of a select as they come, each as a list of its columns, in memory that does not grow with the answer. Whoever
   * stops reading, or aborts, ends the statement in ClickHouse as well.
   * @throws Fault QUERY_TOO_LARGE beyond the bounds of `reading`, also in the middle; ABORTED
   */
  async *stream(
    query: string,
    params: Params = {},
    { signal, settings }: Reading = {},
  ): AsyncGenerator<readonly (readonly unknown[])[]> {
    const id = randomUUID()
    const left = new AbortController()
    const gone = signal ? AbortSignal.any([signal, left.signal]) : left.signal
    let isWhole = false
    try {
      if (gone.aborted) throw new Fault('ABORTED', 'nobody waits for the answer any longer')
      const result = await this.#streams.query({
        query,
        query_id: id,
        query_params: { ...params },
        format: 'JSONCompactEachRow',
        abort_signal: gone,
        ...(settings && { clickhouse_settings: settings }),
      })
      const stream = result.stream<unknown[]>()
      // Once the answer has begun the client looks at its signal no more.
      gone.addEventListener('abort', () => stream.destroy(new Error('left')), { once: true })
      for await (const rows of stream) yield rows.map(row => row.json())
      isWhole = true
    } catch (error) {
      if (gone.aborted)
        throw new Fault('ABORTED', 'nobody waits for the answer any longer', {}, { cause: error })
      throw refused(error, settings)
    } finally {
      if (!isWhole) {
        left.abort()
        // A server goes on with a statement whose client is gone, unless it is told.
        void this.run(`kill query where query_id = {id:String} async`, { id }).catch(() => undefined)
      }
    }
  }

  /** A statement without an answer. */
  async run(query: string, params: Params = {}): Promise<void> {
    await faulted(this.#client.command({ query, query_params: { ...params } }))
  }

  /** Inserts lines of JSONCompactEachRow, already serialised, for the columns named. Acknowledged means durable. */
  async insert(table: string, columns: readonly string[], lines: readonly string[]): Promise<void> {
    if (lines.length === 0) return
    const query = `insert into ${table} (${columns.join(', ')}) format JSONCompactEachRow`
    await this.#insertBytes(query, [Buffer.from(lines.join('\n'))])
  }

  /** Inserts blocks of the Native format, which name their columns (native.ts). Acknowledged means durable. */
  async insertBlocks(table: string, blocks: readonly Buffer[]): Promise<void> {
    if (blocks.length > 0) await this.#insertBytes(`insert into ${table} format Native`, blocks)
  }

  async #insertBytes(query: string, bodies: readonly Buffer[]): Promise<void> {
    // `insert` of the client would serialise objects again; `exec` takes the bytes as they are.
    const result = await faulted(
      this.#client.exec({
        query,
        values: Readable.from(bodies, { objectMode: false }),
        // Before what is asked (queries.ts).
        clickhouse_settings: { priority: '1' },
      }),
    )
    await faulted(finished(result.stream.resume()))
  }

  /** Inserts lines of JSONCompactEachRow where a condition holds, looked at in the same statement; else false, and nothing. */
  async insertWhere(
    table: string,
    columns: readonly string[],
    types: readonly string[],
    lines: readonly string[],
    where: { readonly condition: string; readonly params: Params },
  ): Promise<boolean> {
    const structure = columns.map((name, index) => `${name} ${types[index]}`).join(', ')
    try {
      await this.run(
        `insert into ${table} (${columns.join(', ')})
         select ${columns.join(', ')} from format(JSONCompactEachRow, '${structure}', {lines:String})
         where throwIf(not (${where.condition})) = 0`,
        { ...where.params, lines: lines.join('\n') },
      )
      return true
    } catch (error) {
      if (error instanceof Fault && error.facts.clickhouse_code === thrownIf) return false
      throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#client.close(), this.#streams.close()])
  }
}

/** FUNCTION_THROW_IF_VALUE_IS_NON_ZERO */
const thrownIf = '395'

/** A ClickHouse failure as a fault: what may pass is retried, what a person must mend halts. */
async function faulted<T>(answer: Promise<T>, bounds?: ClickHouseSettings): Promise<T> {
  try {
    return await answer
  } catch (error) {
    throw refused(error, bounds)
  }
}

function refused(error: unknown, bounds?: ClickHouseSettings): Fault {
  if (error instanceof Fault) return error
  if (!(error instanceof ClickHouseError)) {
    const message = error instanceof Error ? error.message : String(error)
    return new Fault('STORE_UNREACHABLE', `ClickHouse: ${message.slice(0, 300)}`, {}, { cause: error })
  }
  const facts = { clickhouse_code: error.code, clickhouse_type: error.type }
  if (bounds && beyondBounds.has(error.code) && !totalMemory.test(error.message))
    return new Fault('QUERY_TOO_LARGE', `${boundOf(error, bounds)}: ask for less at once`, facts, {
      cause: error,
    })
  const message = error.message.split('\n')[0]?.slice(0, 800) ?? 'refused'
  return new Fault(refusalOf(error), message, facts, { cause: error })
}

function boundOf({ code, type }: ClickHouseError, bounds: ClickHouseSettings): string {
  if (code === '241') return `the answer takes more than ${bounds.max_memory_usage} bytes of memory to make`
  if (code === '159' || code === '160')
    return `the answer takes longer than ${bounds.max_execution_time} s to make`
  return `the answer is too large (${type ?? code})`
}

function refusalOf({ code, message }: ClickHouseError): FaultCode {
  if (code === full || fullWords.test(message)) return 'STORE_FULL'
  if (readOnly.has(code) || readOnlyWords.test(message)) return 'STORE_READONLY'
  return passing.has(code) ? 'STORE_UNREACHABLE' : 'STORE_REFUSED'
}

/** Applies processor/tables/NNNN-*.sql in order, each once; a statement that is there already is not an error. */
async function migrate(store: Store): Promise<void> {
  await store.run(`create table if not exists migrations (
    number UInt32, name String, sha256 String, at DateTime64(3, 'UTC') default now64(3)
  ) engine = ReplacingMergeTree order by number settings fsync_after_insert = 1, fsync_part_directory = 1`)
  const applied = new Map(
    (await store.rows<{ number: number; sha256: string }>('select number, sha256 from migrations final')).map(
      row => [row.number, row.sha256],
    ),
  )
  const folder = new URL('./tables/', import.meta.url)
  const done: string[] = []
  for (const name of (await readdir(folder)).filter(file => file.endsWith('.sql')).sort()) {
    const number = Number(name.slice(0, 4))
    const text = await readFile(new URL(name, folder), 'utf8')
    const sha256 = hash('sha256', text, 'hex')
    const before = applied.get(number)
    if (before === sha256) continue
    if (before !== undefined)
      throw new Fault('MIGRATION_CHANGED', `${name} is not what was applied to this store`, {
        number,
        sha256,
        before,
      })
    const byTable = Map.groupBy(statementsOf(text), tableOf)
    if (byTable.has('') && byTable.size > 1)
      throw new Error(`${name}: what is not of one table, a view for instance, has a file of its own`)
    // Each statement may have been applied by a process that died before it could say so. Those of a table go in their
    // order, tables side by side.
    await Promise.all(
      byTable.values().map(async statements => {
        for (const statement of statements)
          await store.run(
            statement.replace(/^create table (?!if not exists)/i, 'create table if not exists '),
          )
      }),
    )
    done.push(JSON.stringify([number, name, sha256]))
  }
  // Whoever dies before this does all of it once more, to no effect.
  await store.insert('migrations', ['number', 'name', 'sha256'], done)
}

function statementsOf(text: string): readonly string[] {
  return text
    .split('\n')
    .filter(line => !line.startsWith('--'))
    .join('\n')
    .split(/;\s*(?:\n|$)/)
    .map(statement => statement.trim())
    .filter(statement => statement !== '')
}

/** The table that a statement makes, alters or drops; '' where it does none of these, as a view, which may need any table. */
function tableOf(statement: string): string {
  return /^(?:create|alter|drop) table (?:if (?:not )?exists )?(\w+)/i.exec(statement)?.[1] ?? ''
}

function identifier(name: string): string {
  if (!/^[A-Za-z_][A-Za-z0-9_]{0,63}$/.test(name))
    throw new Fault('CONFIG_INVALID', `store.database: "${name}" is no plain name`)
  return name
}
