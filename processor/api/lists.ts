/** Lists as they are answered: whole or in pages, as JSON or CSV. What is in them is of the routes. */
import { stringify } from 'csv-stringify/sync'
import type { FastifyReply, FastifyRequest } from 'fastify'
import Type, { type TSchema } from 'typebox'
import type { Answer } from './route.ts'

export const listLimitMax = 10_000

/** Members of a query that asks for a page. */
export const pageQuery = {
  limit: Type.Optional(
    Type.String({
      pattern: '^([1-9]\\d{0,3}|10000)$',
      description: 'So many rows at most, up to 10,000. The header Link leads to those behind them.',
      examples: ['100'],
    }),
  ),
  offset: Type.Optional(
    Type.String({ pattern: '^(0|[1-9]\\d{0,8})$', description: 'So many rows are passed over.' }),
  ),
}

/** Which form is asked for, where `Accept` cannot be set: the address of a download for instance. */
export const formatQuery = {
  format: Type.Optional(
    Type.Enum(['json', 'csv'], { description: 'The form of the answer; it wins over the header Accept.' }),
  ),
}

/** The form that is asked for: by name, else by the media type that who asks likes best. */
export function formatOf(query: { readonly format?: 'json' | 'csv' }, accepts: string): 'json' | 'csv' {
  return query.format ?? (accepts === 'text/csv' ? 'csv' : 'json')
}

/**
 * The same from its first piece on, which is awaited here: what goes wrong before it has a status of its own, and what goes
 * wrong later breaks the answer off. Whoever is given it ends it, read or not.
 */
export async function started<Piece>(pieces: AsyncGenerator<Piece>): Promise<AsyncGenerator<Piece>> {
  const all = (async function* () {
    try {
      const first = await pieces.next()
      // Up to here it is run at once: of a generator that was never begun `return` would end nothing.
      yield undefined as Piece
      if (!first.done) yield first.value
      yield* pieces
    } finally {
      await pieces.return(undefined)
    }
  })()
  await all.next()
  return all
}

/** A JSON array of values as they come, each as text; its first piece comes with the first of them. */
export async function* arrayText(rows: AsyncIterable<readonly string[]>): AsyncGenerator<string> {
  let between = '['
  for await (const some of rows)
    if (some.length > 0) {
      yield between + some.join(',')
      between = ','
    }
  yield between === '[' ? '[]' : ']'
}

/** What a list answers: a page of it has the address of the next one in its headers. */
export function listAnswer<Row extends TSchema>(row: Row, description: string) {
  return {
    description,
    body: {
      'application/json': Type.Array(row),
      'text/csv': Type.String({ description: 'The same, with a header line (RFC 4180).' }),
    },
    headers: {
      Link: Type.String({ description: 'The next page, where there is one: <…>; rel="next" (RFC 8288).' }),
    },
  } satisfies Answer
}

interface Page {
  readonly offset: number
  readonly limit: number
}

/** Without a limit all rows are asked for. */
export function pageOf(query: { readonly limit?: string; readonly offset?: string }): Page {
  return { offset: Number(query.offset ?? 0), limit: Number(query.limit ?? Number.POSITIVE_INFINITY) }
}

/** Says where the next page is. */
export function linkNext(
  request: FastifyRequest,
  reply: FastifyReply,
  members: Readonly<Record<string, string>>,
): void {
  const url = new URL(request.url, 'http://localhost')
  for (const [name, value] of Object.entries(members)) url.searchParams.set(name, value)
  reply.header('link', `<${url.pathname}${url.search}>; rel="next"`)
}

interface Paged {
  readonly query: { readonly limit?: string; readonly offset?: string }
  readonly request: FastifyRequest
  readonly reply: FastifyReply
}

/** The page of all the rows, with the way to the next one in the headers. */
export function cutToPage<Row>(rows: readonly Row[], asked: Paged): readonly Row[] {
  return endPage(rows.slice(pageOf(asked.query).offset), asked)
}

/** As `cutToPage`, of rows from the page's offset on: one more than its limit says that there is a next one. */
export function endPage<Row>(rows: readonly Row[], asked: Paged): readonly Row[] {
  const { offset, limit } = pageOf(asked.query)
  if (rows.length > limit)
    linkNext(asked.request, asked.reply, { offset: String(offset + limit), limit: String(limit) })
  return rows.slice(0, limit)
}

type Cell = string | number | boolean | undefined
export type Columns<Row> = Readonly<Record<string, (row: Row) => Cell>>

/** The rows in the form that was asked for. */
export function asAsked<Row>(
  rows: readonly Row[],
  columns: Columns<Row>,
  asked: {
    readonly query: { readonly format?: 'json' | 'csv' }
    readonly accepts: string
    readonly reply: FastifyReply
    readonly name: string
  },
): readonly Row[] | FastifyReply {
  if (formatOf(asked.query, asked.accepts) === 'json') return rows
  const names = Object.keys(columns)
  const lines = rows.map(row => names.map(name => String(columns[name]?.(row) ?? '')))
  return asked.reply
    .header('content-type', 'text/csv; charset=utf-8')
    .header('content-disposition', `attachment; filename="${asked.name}.csv"`)
    .send(stringify([names, ...lines], { record_delimiter: 'windows' }))
}
