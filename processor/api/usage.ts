/** `GET /api/v1/usage`: the quantities of a meter, as the command of this name prints them, however many. */
import { Readable } from 'node:stream'
import Type from 'typebox'
import type { Account } from '../../schemas/accounts.ts'
import { misfits } from '../../schemas/check.ts'
import { Fault } from '../../schemas/fault.ts'
import { FilterString } from '../../schemas/meters.ts'
import { stepNames } from '../../schemas/step.ts'
import { parseInstant } from '../../schemas/window.ts'
import type { CatalogueMeter } from '../catalogue.ts'
import type { Queries } from '../queries.ts'
import type { Store } from '../store.ts'
import { type Amount, amounts, keyOf } from '../usage.ts'
import type { RowKey, UsageQuery } from '../usage-plan.ts'
import { mediaTypes, usageText } from '../usage-text.ts'
import { formatOf, formatQuery, linkNext, listAnswer, pageQuery, started } from './lists.ts'
import { type Routes, route } from './route.ts'
import { tenantsOf } from './tenants.ts'

const strict = { additionalProperties: false }
const Name = Type.String({ minLength: 1, maxLength: 1024 })
const Names = (description: string) => Type.Optional(Type.Array(Name, { maxItems: 1000, description }))

const Query = Type.Object(
  {
    meter: Type.String({ minLength: 1, maxLength: 64, description: 'The slug of the meter.' }),
    from: Type.String({ description: 'RFC 3339, inclusive.' }),
    to: Type.String({ description: 'RFC 3339, exclusive.' }),
    window: Type.Optional(
      Type.String({
        maxLength: 64,
        description: `${stepNames.join(', ')} of the zone's calendar, or an ISO 8601 duration: of time (PT15M), of days (P1W) or of months (P3M). Without it all of the span is one window.`,
        examples: ['HOUR', 'PT15M'],
      }),
    ),
    zone: Type.Optional(
      Type.String({ maxLength: 64, description: 'The IANA time zone of the windows; UTC if not given.' }),
    ),
    groupBy: Type.Optional(
      Type.Array(Type.String({ maxLength: 1024 }), {
        maxItems: 100,
        description:
          'What tells rows apart: dims of the meter, `source` and `subject`; several with commas between, or each by itself. All others are put together; of nothing at all, everything is. Without it rows are told apart by source and subject.',
      }),
    ),
    filter: Type.Optional(
      Type.Record(Type.String(), Type.Union([Name, Type.Array(Name, { maxItems: 100 })]), {
        description: '`filter[dim]=value`: only this value of a dim; several times, any of them.',
      }),
    ),
    where: Type.Optional(
      Type.String({
        maxLength: 65_536,
        description:
          'JSON, an object with a filter for each dim: `{"gpu_type":{"$like":"H%"}}`. Its operators are $eq $ne $in $nin $like $nlike $ilike $nilike $gt $gte $lt $lte $and $or; all compare as text.',
      }),
    ),
    subject: Names('Only these tenants.'),
    source: Names('Only these sources.'),
    top: Type.Optional(
      Type.String({
        pattern: '^[1-9][0-9]{0,3}$',
        description: 'So many rows of each window at most: those of the largest values, the largest first.',
      }),
    ),
    limit: pageQuery.limit,
    cursor: Type.Optional(
      Type.String({ maxLength: 65_536, description: 'Of a `Link` to the next page: rows behind those.' }),
    ),
    ...formatQuery,
  },
  strict,
)

const Where = Type.Record(Type.String(), Type.Union([Type.String({ maxLength: 1024 }), FilterString]), {
  maxProperties: 100,
})

const Row = Type.Object(
  {
    meter: Type.String(),
    unit: Type.String(),
    window_start: Type.String({ description: 'RFC 3339, inclusive.' }),
    window_end: Type.String({ description: 'RFC 3339, exclusive.' }),
    source: Type.String({ description: 'Empty where rows are not told apart by it.' }),
    subject: Type.String({ description: 'Empty where rows are not told apart by it.' }),
    group_by: Type.Record(Type.String(), Type.String({ description: 'Empty where an event has none.' })),
    value: Type.String({
      pattern: '^-?[0-9]+(\\.[0-9]+)?$',
      description:
        'Exact; a quotient that is no finite decimal is printed to 12 places, half away from zero.',
    }),
    split: Type.Optional(
      Type.Literal(true, {
        description: 'Readings that reach over an edge of the window were split by the time really used.',
      }),
    ),
  },
  { ...strict, title: 'UsageRow' },
)

export interface UsageParts {
  readonly store: Store
  readonly queries: Queries
  /** @throws Fault METER_UNKNOWN */
  readonly meterOf: (slug: string) => Promise<Pick<CatalogueMeter, 'answering' | 'rollups' | 'eventFromMs'>>
  readonly accounts: () => Promise<readonly Account[]>
}

export function usageRoutes({ store, queries, meterOf, accounts }: UsageParts): Routes {
  return app => {
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/usage',
        scope: 'read',
        tags: ['usage'],
        summary: 'Gives the quantities of a meter',
        description:
          'Rows are ordered by window, source, subject and dims; groups without usage have none. The answer is exact as of everything acknowledged before it was asked for. It goes out as it is made: one that breaks off in the middle ends its connection, and is no whole document.',
        query: Query,
        answers: { 200: listAnswer(Row, 'The rows.') },
        problems: [404, 422],
      },
      async ({ query: asked, caller, accepts, signal, request, reply }) => {
        const tenants = await tenantsOf(caller, accounts)
        const limit = asked.limit === undefined ? undefined : Number(asked.limit)
        if (limit !== undefined && asked.top !== undefined)
          throw new Fault('USAGE', 'top has no pages: give limit or top, not both')
        const found = await meterOf(asked.meter)
        const query: UsageQuery = {
          meter: found.answering,
          rollups: found.rollups,
          span: { startMs: parseInstant(asked.from, 'from'), endMs: parseInstant(asked.to, 'to') },
          sinceMs: found.eventFromMs,
          ...(asked.window !== undefined && { step: asked.window }),
          zone: asked.zone ?? 'UTC',
          ...keptOf(asked.groupBy),
          where: { ...whereOf(asked.where), ...anyOf(asked.filter ?? {}) },
          ...(asked.subject && { subjects: asked.subject }),
          ...(asked.source && { sources: asked.source }),
          ...(tenants && { tenants }),
          ...(asked.top !== undefined && { top: Number(asked.top) }),
          // One more than is shown tells whether there is a next page.
          ...(limit !== undefined && { limit: limit + 1 }),
          ...(asked.cursor !== undefined && { after: readCursor(asked.cursor) }),
        }
        const format = formatOf(asked, accepts)
        const rows = queries.ask(signal, reading => amounts(store, query, reading))
        let shown: AsyncIterable<readonly Amount[]> = rows
        if (limit !== undefined) {
          const page = await paged(rows, limit)
          const last = page.rows.at(-1)
          if (page.hasMore && last) linkNext(request, reply, { cursor: cursorOf(keyOf(last, query)) })
          shown = once(page.rows)
        }
        const text = await started(usageText(query, format, shown))
        if (format === 'csv') reply.header('content-disposition', `attachment; filename="${asked.meter}.csv"`)
        return reply.type(mediaTypes[format]).send(Readable.from(text))
      },
    )
  }
}

async function* once<T>(rows: T): AsyncGenerator<T> {
  yield rows
}

async function paged(
  rows: AsyncIterable<readonly Amount[]>,
  limit: number,
): Promise<{ readonly rows: readonly Amount[]; readonly hasMore: boolean }> {
  const found: Amount[] = []
  for await (const some of rows) found.push(...some)
  return { rows: found.slice(0, limit), hasMore: found.length > limit }
}

function keptOf(groupBy: readonly string[] | undefined): Pick<UsageQuery, 'groupBy' | 'keep'> {
  if (groupBy === undefined) return { groupBy: [] }
  const named = new Set(groupBy.flatMap(text => text.split(',')).filter(name => name !== ''))
  const keep = { source: named.delete('source'), subject: named.delete('subject') }
  return { groupBy: Array.from(named), keep }
}

function anyOf(filter: Readonly<Record<string, string | readonly string[]>>): UsageQuery['where'] {
  return Object.fromEntries(
    Object.entries(filter).map(([dim, value]) => [dim, typeof value === 'string' ? value : { $in: value }]),
  )
}

function whereOf(text: string | undefined): UsageQuery['where'] {
  if (text === undefined) return {}
  let where: unknown
  try {
    where = JSON.parse(text)
  } catch {
    throw new Fault('USAGE', 'where: it is no JSON')
  }
  const [misfit] = misfits(Where, where)
  if (misfit) throw new Fault('USAGE', `where${misfit.path} ${misfit.message}`)
  return where as UsageQuery['where']
}

function cursorOf(key: RowKey): string {
  return Buffer.from(JSON.stringify(key)).toString('base64url')
}

function readCursor(text: string): RowKey {
  try {
    const [startMs, ...texts] = JSON.parse(Buffer.from(text, 'base64url').toString()) as unknown[]
    if (Number.isSafeInteger(startMs) && texts.every(one => typeof one === 'string'))
      return [startMs as number, ...(texts as string[])]
  } catch {
    // Whatever it is, it is not from here.
  }
  throw new Fault('USAGE', 'cursor: it is none of an answer of this address')
}
