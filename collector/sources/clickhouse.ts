/**
 * ClickHouse: usage that a query finds in its tables, window by window, over its HTTP interface. Owns its options, how a
 * query is asked, and what an answer must say to be whole; what its errors mean is in clickhouse/, what rows become in sql.ts.
 */
import Type, { type Static } from 'typebox'
import type { HttpAnswer } from '../../runtime/http.ts'
import { Secret } from '../../schemas/config.ts'
import { Fault } from '../../schemas/fault.ts'
import { isJsonArray, isJsonObject, type Json, JsonNumber, parseExact } from '../../schemas/json.ts'
import { dayMs, minuteMs, secondMs, type Window } from '../../schemas/window.ts'
import { defineSource, type Findings, type Source, type SourceContext } from '../source.ts'
import {
  checkClock,
  missingColumns,
  type PreparedQuery,
  prepareQueries,
  ResourceSums,
  refused,
  type SqlItem,
  type SqlRow,
  SqlTls,
  type SqlValue,
  sqlOptions,
  sqlSource,
  tlsFilesOf,
} from '../sql.ts'
import type { Placeholder } from '../sql-text.ts'
import { exceptionIn, faultOfException } from './clickhouse/exceptions.ts'

export const ClickhouseConfig = Type.Object(
  {
    kind: Type.Optional(Type.Literal('clickhouse')),
    name: Type.String({
      pattern: '^[A-Za-z0-9._-]{1,128}$',
      description: 'Its name in events: meterline/clickhouse/<name>.',
    }),
    url: Type.String({
      pattern: '^https?://[^\\s/@?#]+(/[^\\s?#]*)?$',
      description: 'Address of its HTTP interface, without user and password: https://host:8443.',
    }),
    database: Type.Optional(
      Type.String({ minLength: 1, maxLength: 256, description: 'The database, if not that of the user.' }),
    ),
    user: Type.String({
      minLength: 1,
      maxLength: 256,
      default: 'default',
      description: 'A user that may only read; its profile may say readonly = 2, not 1.',
    }),
    password: Type.Optional(Secret('Its password.')),
    tls: Type.Object(
      {
        mode: Type.Enum(['verify', 'unverified'], {
          default: 'verify',
          description: 'With https: the certificate must be of this host, or may be any.',
        }),
        ...SqlTls,
      },
      { additionalProperties: false, default: {}, description: 'How the connection is kept from others.' },
    ),
    ...sqlOptions,
  },
  { additionalProperties: false },
)
export type ClickhouseConfig = Static<typeof ClickhouseConfig>

const parameters: Readonly<Record<Placeholder, string>> = {
  start: "{start:DateTime64(6, 'UTC')}",
  end: "{end:DateTime64(6, 'UTC')}",
  after: '{after:Nullable(String)}',
  limit: '{limit:UInt64}',
}

/** What decides on what is written, and on whether all of it is, whatever the profile of the user says. */
const settings: Readonly<Record<string, string>> = {
  // Else a failure after the first rows comes inside of an answer that began as 200.
  wait_end_of_query: '1',
  // Quoted or not, numbers are read digit for digit; quoted, no proxy in between rounds them either.
  output_format_json_quote_64bit_integers: '1',
  output_format_json_quote_decimals: '1',
  // Without it NaN is written as null.
  output_format_json_quote_denormals: '1',
  date_time_output_format: 'iso',
  // Each of these makes a query succeed with less than there is.
  skip_unavailable_shards: '0',
  fallback_to_stale_replicas_for_distributed_queries: '0',
  result_overflow_mode: 'throw',
  read_overflow_mode: 'throw',
  timeout_overflow_mode: 'throw',
  group_by_overflow_mode: 'throw',
  sort_overflow_mode: 'throw',
  distinct_overflow_mode: 'throw',
  join_overflow_mode: 'throw',
  set_overflow_mode: 'throw',
  limit: '0',
  offset: '0',
  cancel_http_readonly_queries_on_client_close: '1',
}

const format = 'JSONCompact'
const responseBytesMax = 64 * 1024 * 1024
/** Past its own time-out a server has so long to say so. */
const graceMs = 5 * secondMs

export const clickhouse = defineSource({
  kind: 'clickhouse',
  summary: 'Usage that queries find in the tables of a ClickHouse database.',
  config: ClickhouseConfig,
  open(config: ClickhouseConfig, context: SourceContext): Source<SqlItem> {
    return openClickhouse(config, context)
  },
})

interface Table {
  readonly columns: readonly { readonly name: string; readonly type: string }[]
  readonly rows: readonly SqlRow[]
}
type Ask = (
  asked: {
    readonly sql: string
    readonly about: string
    readonly parameters?: Readonly<Record<string, string>>
    readonly prepared?: PreparedQuery
  },
  signal: AbortSignal,
) => Promise<Table>

function openClickhouse(config: ClickhouseConfig, context: SourceContext): Source<SqlItem> {
  const { database, user, tls, pageSize, statementSeconds } = config
  const queries = prepareQueries(config.queries, 'clickhouse', name => parameters[name])
  const http = context.client({
    concurrency: config.concurrency,
    deadlineMs: statementSeconds * secondMs + graceMs,
    responseBytesMax,
    tls: () => ({
      ...tlsFilesOf(tls, context.secret),
      ...(tls.mode === 'unverified' && { verify: 'nobody checks' }),
    }),
  })

  const ask: Ask = async (asked, signal) => {
    const url = new URL(config.url)
    const given = {
      ...settings,
      max_execution_time: String(statementSeconds),
      default_format: format,
      ...(database !== undefined && { database }),
      ...Object.fromEntries(
        Object.entries(asked.parameters ?? {}).map(([name, value]) => [`param_${name}`, value]),
      ),
      query: asked.sql,
    }
    for (const [name, value] of Object.entries(given)) url.searchParams.set(name, value)
    const answer = await http.request({
      // A GET is read-only, whatever the user may do, and readonly = 2 needs no leave of the profile.
      method: 'GET',
      url: url.href,
      headers: {
        'x-clickhouse-user': user,
        ...(config.password !== undefined && { 'x-clickhouse-key': context.secret(config.password) }),
      },
      endpoint: 'clickhouse.query',
      signal,
      refusal: refused => {
        const exception = exceptionIn(refused)
        return exception && faultOfException(exception, asked.about, asked.prepared)
      },
    })
    return tableOf(answer, asked.about, asked.prepared)
  }

  return sqlSource(
    config,
    {
      queries,
      async sums(prepared, window, signal) {
        // Asked before the query, so that the query sees at least what was there then.
        checkClock(prepared.query.name, window, await clockMs(ask, signal), 'the database')
        return await sumRows(ask, prepared, { window, pageSize }, signal)
      },
      check: signal => check([...queries.values()], ask, context.nowMs, signal),
      close: () => http[Symbol.asyncDispose](),
    },
    context.nowMs,
  )
}

async function clockMs(ask: Ask, signal: AbortSignal): Promise<number> {
  const { rows } = await ask(
    { sql: 'select toUnixTimestamp64Milli(now64(3))', about: 'the clock of ClickHouse' },
    signal,
  )
  const [[said] = []] = rows
  return typeof said === 'string' && /^\d{1,15}$/.test(said) ? Number(said) : Number.NaN
}

/** One answer, or pages by a key: each is held whole, so a large one is paged. */
async function sumRows(
  ask: Ask,
  prepared: PreparedQuery,
  { window, pageSize }: { readonly window: Window; readonly pageSize: number },
  signal: AbortSignal,
): Promise<ResourceSums> {
  const { query, bound } = prepared
  let sums: ResourceSums | undefined
  for (;;) {
    const { columns, rows } = await askWindow(
      ask,
      prepared,
      { window, pageSize, after: sums?.lastKey },
      signal,
    )
    sums ??= new ResourceSums(
      query,
      window,
      columns.map(column => column.name),
    )
    for (const row of rows) sums.add(row)
    const isLast = bound.used.has('limit') ? rows.length < pageSize : rows.length === 0
    if (!bound.used.has('after') || isLast) return sums
    if (bound.used.has('limit') && rows.length > pageSize)
      throw refused(query.name, `it gave ${rows.length} rows for a :limit of ${pageSize}`)
  }
}

function askWindow(
  ask: Ask,
  prepared: PreparedQuery,
  page: { readonly window: Window; readonly pageSize: number; readonly after: string | undefined },
  signal: AbortSignal,
): Promise<Table> {
  const { query, bound } = prepared
  const instant = (ms: number) => `${new Date(ms).toISOString().slice(0, 23).replace('T', ' ')}000`
  return ask(
    {
      sql: bound.text,
      about: `query ${query.name}`,
      prepared,
      parameters: {
        start: instant(page.window.startMs),
        end: instant(page.window.endMs),
        ...(bound.used.has('after') && { after: page.after === undefined ? '\\N' : escaped(page.after) }),
        ...(bound.used.has('limit') && { limit: String(page.pageSize) }),
      },
    },
    signal,
  )
}

/** Parameters are read as a field of TabSeparated. */
function escaped(text: string): string {
  const letters: Readonly<Record<string, string>> = { '\\': '\\\\', '\t': '\\t', '\n': '\\n', '\r': '\\r' }
  return text.replace(/[\\\t\n\r]/g, letter => letters[letter] ?? letter)
}

/**
 * The answer, where it is whole: it ends with how many rows there are.
 * @throws Fault BODY_UNREADABLE where it is not, or what the exception in it means
 */
function tableOf(answer: HttpAnswer, about: string, prepared: PreparedQuery | undefined): Table {
  const unreadable = (what: string) => new Fault('BODY_UNREADABLE', `${about}: the answer ${what}`)
  if (answer.headers['x-clickhouse-exception-code'] !== undefined) throw failed(answer, about, prepared)
  const written = answer.headers['x-clickhouse-format']
  if (written !== undefined && written !== format)
    throw new Fault('SOURCE_REFUSED', `${about}: leave its format ${written} out`)
  let body: Json
  try {
    body = parseExact(answer.text)
  } catch {
    throw exceptionIn(answer) ? failed(answer, about, prepared) : unreadable('is not whole, or no JSON')
  }
  if (!isJsonObject(body)) throw unreadable('is no table')
  // Servers with http_write_exception_in_output_format end a table with it.
  if (typeof body.exception === 'string') throw failed({ ...answer, text: body.exception }, about, prepared)
  const { meta, data, rows } = body
  if (!isJsonArray(meta) || !isJsonArray(data) || !(rows instanceof JsonNumber))
    throw unreadable('is no table')
  if (rows.text !== String(data.length)) throw unreadable(`has ${data.length} rows of ${rows.text}`)
  const columns = meta.map(column => {
    const { name, type } = isJsonObject(column) ? column : {}
    if (typeof name !== 'string' || typeof type !== 'string') throw unreadable('does not name its columns')
    return { name, type }
  })
  return {
    columns,
    rows: data.map(row => {
      if (!isJsonArray(row) || row.length !== columns.length) throw unreadable('has a row of another length')
      return row.map(cellOf)
    }),
  }
}

function failed(answer: HttpAnswer, about: string, prepared: PreparedQuery | undefined): Fault {
  const exception = exceptionIn(answer) ?? { code: 0, name: '', words: '' }
  return faultOfException(exception, about, prepared).fault
}

function cellOf(value: Json): SqlValue {
  if (value === null || typeof value === 'string') return value
  if (value instanceof JsonNumber) return value.text
  return typeof value === 'boolean' ? String(value) : undefined
}

async function check(
  queries: readonly PreparedQuery[],
  ask: Ask,
  nowMs: () => number,
  signal: AbortSignal,
): Promise<Findings> {
  const works: string[] = []
  const missing: { what: string; remedy: string }[] = []
  const { rows } = await ask({ sql: 'select version()', about: 'the version of ClickHouse' }, signal)
  works.push(`ClickHouse ${rows[0]?.[0] ?? ''}`)
  const behindMs = nowMs() - (await clockMs(ask, signal))
  if (!(Math.abs(behindMs) <= minuteMs))
    missing.push({
      what: `its clock is ${Math.round(Math.abs(behindMs) / secondMs)} s ${behindMs > 0 ? 'behind' : 'ahead of'} ours`,
      remedy: 'let both keep the time by NTP',
    })
  const endMs = Math.floor(nowMs() / dayMs) * dayMs
  const page = { window: { startMs: endMs - minuteMs, endMs }, pageSize: 1, after: undefined }
  for (const prepared of queries) {
    const { query } = prepared
    try {
      const { columns } = await askWindow(ask, prepared, page, signal)
      const lacking = missingColumns(
        query,
        columns.map(column => column.name),
      )
      for (const column of lacking)
        missing.push({
          what: `query ${query.name}: no column ${column}, or two`,
          remedy: `name it once in the select: … as ${column}`,
        })
      const measured = Object.values(query.measures)
      // Sums of these differ in their last digits with the order of rows.
      for (const { name, type } of columns)
        if (measured.includes(name) && /\b(B?Float\d+)\b/.test(type))
          missing.push({
            what: `query ${query.name}: ${name} is ${type}, no exact number`,
            remedy: `turn it into a decimal before it is summed: toDecimal128(${name}, 12)`,
          })
      if (lacking.length === 0) works.push(`query ${query.name}: ${columns.length} columns`)
    } catch (error) {
      if (!(error instanceof Fault) || error.code === 'ABORTED') throw error
      missing.push({
        what: error.message,
        remedy:
          error.code === 'SOURCE_DENIED'
            ? 'grant select on what it reads; a profile needs readonly = 2, not 1'
            : 'mend the query, or look at the server, and check again',
      })
    }
  }
  return { works, missing }
}
