/**
 * PostgreSQL: usage that a query finds in its tables, window by window. Owns its options and how a query is asked; the
 * connection and what its errors mean are beside this in postgresql/, what rows become is sql.ts.
 */
import Type, { type Static } from 'typebox'
import { Secret } from '../../schemas/config.ts'
import { Fault, type FaultCode } from '../../schemas/fault.ts'
import { dayMs, minuteMs, secondMs, showInstant, type Window } from '../../schemas/window.ts'
import { defineSource, type Findings, type Source, type SourceContext } from '../source.ts'
import {
  checkClock,
  missingColumns,
  type PreparedQuery,
  prepareQueries,
  ResourceSums,
  refused,
  Seconds,
  type SqlItem,
  SqlTls,
  sqlOptions,
  sqlSource,
  tlsFilesOf,
} from '../sql.ts'
import { type Placeholder, placeIn } from '../sql-text.ts'
import { openSession, type Session } from './postgresql/session.ts'

export const PostgresqlConfig = Type.Object(
  {
    kind: Type.Optional(Type.Literal('postgresql')),
    name: Type.String({
      pattern: '^[A-Za-z0-9._-]{1,128}$',
      description: 'Its name in events: meterline/postgresql/<name>.',
    }),
    host: Type.String({
      minLength: 1,
      maxLength: 255,
      description: 'Host of the server, or the directory of its socket.',
    }),
    port: Type.Integer({ default: 5432, minimum: 1, maximum: 65_535, description: 'Its port.' }),
    database: Type.String({ minLength: 1, maxLength: 63, description: 'The database.' }),
    user: Type.String({ minLength: 1, maxLength: 63, description: 'A role that may only read.' }),
    password: Type.Optional(Secret('Its password.')),
    tls: Type.Object(
      {
        mode: Type.Enum(['verify', 'unverified', 'off'], {
          default: 'verify',
          description:
            'verify: TLS, and the certificate must be of this host. unverified: TLS with any certificate. off: in clear, also the password.',
        }),
        ...SqlTls,
      },
      { additionalProperties: false, default: {}, description: 'How the connection is kept from others.' },
    ),
    ...sqlOptions,
    connectSeconds: Seconds('How long it may take to connect.', 10, 300),
  },
  { additionalProperties: false },
)
export type PostgresqlConfig = Static<typeof PostgresqlConfig>

/** Casts give the parameters their types, also where a column has another one. */
const parameters: Readonly<Record<Placeholder, string>> = {
  start: '$1::timestamptz',
  end: '$2::timestamptz',
  after: '$3::text',
  limit: '$4::int8',
}
const declare = (number: number) => `declare meterline_${number} no scroll cursor without hold for `

export const postgresql = defineSource({
  kind: 'postgresql',
  summary: 'Usage that queries find in the tables of a PostgreSQL database.',
  config: PostgresqlConfig,
  open(config: PostgresqlConfig, context: SourceContext): Source<SqlItem> {
    return openPostgresql(config, context)
  },
})

function openPostgresql(config: PostgresqlConfig, context: SourceContext): Source<SqlItem> {
  const { host, port, database, user, tls, pageSize } = config
  const queries = prepareQueries(config.queries, 'postgresql', name => parameters[name])
  const facts = { host, database }

  function connect(signal: AbortSignal): Promise<Session> {
    const { secret } = context
    return openSession(
      {
        host,
        port,
        database,
        user,
        password: config.password === undefined ? '' : secret(config.password),
        ...(tls.mode !== 'off' && {
          tls: { ...tlsFilesOf(tls, secret), ...(tls.mode === 'unverified' && { verify: 'nobody checks' }) },
        }),
        connectMs: config.connectSeconds * secondMs,
        statementMs: config.statementSeconds * secondMs,
      },
      facts,
      signal,
    )
  }

  return sqlSource(
    config,
    {
      queries,
      async sums(prepared, window, signal) {
        await using session = await connect(signal)
        const clock = session.isStandby ? 'the standby' : 'the database'
        checkClock(prepared.query.name, window, session.seenMs, clock)
        return await sumRows(session, prepared, window, pageSize)
      },
      check: signal => check([...queries.values()], connect, context.nowMs, signal),
      close: async () => {},
    },
    context.nowMs,
  )
}

/** By a cursor, so that memory holds a page of rows, and a query is nothing but one: a cursor has no other statement. */
async function sumRows(
  session: Session,
  prepared: PreparedQuery,
  window: Window,
  pageSize: number,
): Promise<ResourceSums> {
  const { used } = prepared.bound
  const about = aboutOf(prepared)
  let sums: ResourceSums | undefined
  for (let page = 0; ; page += 1) {
    const cursor = `meterline_${page}`
    await declareCursor(session, prepared, page, window, { after: sums?.lastKey ?? null, limit: pageSize })
    let rowsOfPage = 0
    for (;;) {
      const { columns, rows } = await session.ask(
        `fetch forward ${pageSize} from ${cursor}`,
        undefined,
        about,
      )
      sums ??= new ResourceSums(
        prepared.query,
        window,
        columns.map(column => column.name),
      )
      for (const row of rows) sums.add(row)
      rowsOfPage += rows.length
      if (rows.length < pageSize) break
    }
    await session.ask(`close ${cursor}`, undefined, about)
    const isLast = used.has('limit') ? rowsOfPage < pageSize : rowsOfPage === 0
    if (!used.has('after') || isLast) return sums
    if (used.has('limit') && rowsOfPage > pageSize)
      throw refused(prepared.query.name, `it gave ${rowsOfPage} rows for a :limit of ${pageSize}`)
  }
}

async function declareCursor(
  session: Session,
  prepared: PreparedQuery,
  number: number,
  window: Window,
  page: { readonly after: string | null; readonly limit: number },
): Promise<void> {
  const { text, used } = prepared.bound
  const prefix = declare(number)
  const placeOf = (position: number) => {
    // PostgreSQL counts characters from 1, also those beyond 16 bits as one.
    const offset = [...(prefix + text)].slice(0, position - 1).join('').length - prefix.length
    return offset < 0 ? undefined : placeIn(prepared.query.sql, prepared.bound.originOf(offset))
  }
  const values = [
    showInstant(window.startMs),
    showInstant(window.endMs),
    ...(used.has('after') ? [page.after] : []),
    ...(used.has('limit') ? [String(page.limit)] : []),
  ]
  await session.ask(prefix + text, values, { ...aboutOf(prepared), placeOf })
}

function aboutOf({ query }: PreparedQuery): { readonly what: string } {
  return { what: `query ${query.name}` }
}

/** Types of which sums differ in their last digits with the order of rows. */
const floats = new Map([
  [700, 'real'],
  [701, 'double precision'],
])

async function check(
  queries: readonly PreparedQuery[],
  connect: (signal: AbortSignal) => Promise<Session>,
  nowMs: () => number,
  signal: AbortSignal,
): Promise<Findings> {
  const works: string[] = []
  const missing: { what: string; remedy: string }[] = []
  for (const [index, prepared] of queries.entries()) {
    await using session = await connect(signal).catch((error: unknown) => {
      if (!(error instanceof Fault) || error.code === 'ABORTED') throw error
      missing.push({ what: error.message, remedy: connectRemedies[error.code] ?? queryRemedy(error) })
      return undefined
    })
    if (!session) break
    if (index === 0) await checkServer(session, nowMs(), works, missing)
    const { query } = prepared
    try {
      const endMs = Math.floor(nowMs() / dayMs) * dayMs
      await declareCursor(session, prepared, 0, { startMs: endMs - dayMs, endMs }, { after: null, limit: 1 })
      const { columns } = await session.ask('fetch forward 0 from meterline_0', undefined, aboutOf(prepared))
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
      const inexact = columns.filter(({ name, typeOid }) => measured.includes(name) && floats.has(typeOid))
      for (const { name, typeOid } of inexact)
        missing.push({
          what: `query ${query.name}: ${name} is ${floats.get(typeOid)}, no exact number`,
          remedy: `cast it before it is summed: ${name}::numeric`,
        })
      if (lacking.length === 0) works.push(`query ${query.name}: ${columns.length} columns`)
    } catch (error) {
      if (!(error instanceof Fault) || error.code === 'ABORTED') throw error
      missing.push({ what: error.message, remedy: queryRemedy(error) })
    }
  }
  return { works, missing }
}

async function checkServer(
  session: Session,
  nowMs: number,
  works: string[],
  missing: { what: string; remedy: string }[],
): Promise<void> {
  works.push(`PostgreSQL ${session.version}${session.isStandby ? ', a standby' : ''}`)
  const behindMs = nowMs - session.seenMs
  if (session.isStandby && !(behindMs < minuteMs))
    missing.push({
      what: `the standby has replayed its primary until ${Number.isNaN(session.seenMs) ? 'nobody knows when' : showInstant(session.seenMs)}`,
      remedy:
        'grant pg_read_all_stats to the role, so that an idle primary can be told from one that is behind',
    })
  else if (Math.abs(behindMs) > minuteMs)
    missing.push({
      what: `its clock is ${Math.round(Math.abs(behindMs) / secondMs)} s ${behindMs > 0 ? 'behind' : 'ahead of'} ours`,
      remedy: 'let both keep the time by NTP',
    })
  const { rows } = await session.ask(writableSql)
  const [row = []] = rows
  if (row[0] !== null && row[0] !== undefined)
    missing.push({
      what: `its role may write, for instance ${row[0]}`,
      remedy: 'use a role with select on what is read, and nothing else',
    })
}

/** A table that the role may change, or why it may change all. */
const writableSql = `
select case
  when (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then 'everything: it is a superuser'
  else (
    select n.nspname || '.' || c.relname
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and n.nspname not in ('pg_catalog', 'information_schema')
      and n.nspname not like 'pg\\_t%'
      and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'insert, update, delete, truncate')
    order by 1 limit 1)
end
`

const connectRemedies: Partial<Record<FaultCode, string>> = {
  SOURCE_UNREACHABLE: 'check `host`, `port` and `tls`, and what is between',
  SOURCE_MISSING: 'check `database`',
  SOURCE_DENIED: 'check `user`, `password` and the certificate in `tls`, and pg_hba.conf of the server',
  SOURCE_REFUSED: 'check `tls`',
}

function queryRemedy(fault: Fault): string {
  if (fault.code === 'SOURCE_DENIED') return 'grant select on what it reads, and usage on its schema'
  if (fault.code === 'SOURCE_REFUSED') return 'mend the query, there'
  return 'look at the server, and check again'
}
