/**
 * Queries of a meter as OpenMeter's clients ask them (`/api/v1/meters/{id or slug}/query`, by address or body, as JSON or
 * CSV), and which subjects and group-by values a meter has. The answer goes out as it comes from the store, however long.
 *
 * A value is a JSON number with all its digits, which most readers cut to those of a double; `valueExact` is the same as
 * text. Readings of one subject from several sources are one row.
 */
import { Readable } from 'node:stream'
import { stringify } from 'csv-stringify/sync'
import Type from 'typebox'
import type { Account } from '../../../schemas/accounts.ts'
import type { Meter, UsageRow } from '../../../schemas/meters.ts'
import { parseStep, windowHolding, windowRuns } from '../../../schemas/step.ts'
import { dayMs, hourMs, minuteMs, showInstant, type Window } from '../../../schemas/window.ts'
import type { Catalogue } from '../../catalogue.ts'
import { binder } from '../../filters.ts'
import type { Queries } from '../../queries.ts'
import type { Reading, Store } from '../../store.ts'
import { usageRows } from '../../usage.ts'
import type { SeenRollups, UsageQuery } from '../../usage-plan.ts'
import { arrayText, started } from '../lists.ts'
import { type Asked as AskedOf, type Declared, partChecker, type Routes, route } from '../route.ts'
import { type Tenant, tenantsOf } from '../tenants.ts'
import { type AddressQuery, type Asked, askedInAddress, askedInBody, momentOf } from './asked.ts'
import { readAll, tenantsSql } from './listed.ts'
import {
  invalid,
  type Part,
  WireMeterQuery,
  WireMeterQueryResult,
  type WireMeterQuery as WireQuery,
  type WireWindowSize,
} from './wire.ts'

const idOrSlug = Type.String({ minLength: 1, maxLength: 64, description: 'Its id, or its slug.' })
const tags = ['openmeter'] as const
const { filterGroupBy: _, advancedMeterGroupByFilters: __, ...plain } = WireMeterQuery.properties

export const AddressParameters = Type.Object(
  {
    ...plain,
    filterGroupBy: Type.Optional(
      Type.Union(
        [
          Type.String({ maxLength: 65_536 }),
          Type.Record(
            Type.String(),
            Type.Union([Type.String({ maxLength: 1024 }), Type.Array(Type.String({ maxLength: 1024 }))]),
          ),
        ],
        { description: 'filterGroupBy[dim]=value; a value may stand there several times.' },
      ),
    ),
    advancedMeterGroupByFilters: Type.Optional(
      Type.String({ maxLength: 65_536, description: 'JSON: a filter for each dim.' }),
    ),
  },
  { additionalProperties: false },
)

const Span = Type.Object(
  {
    from: Type.Optional(Type.String({ description: 'RFC 3339, inclusive.' })),
    to: Type.Optional(Type.String({ description: 'RFC 3339, exclusive.' })),
  },
  { additionalProperties: false },
)

export interface QueryParts {
  readonly store: Store
  readonly queries: Queries
  readonly catalogue: Pick<Catalogue, 'find'>
  readonly accounts: () => Promise<readonly Account[]>
  readonly nowMs: () => number
}

/** The definition that answers now, and from when on events count. */
interface Answering {
  readonly meter: Meter
  readonly rollups: SeenRollups | undefined
  readonly sinceMs: number | undefined
}

export function queryRoutes({ store, queries, catalogue, accounts, nowMs }: QueryParts): Routes {
  /** @throws Fault METER_UNKNOWN, also for one that was removed */
  const find = async (idOrSlug: string): Promise<Answering> => {
    const { answering, rollups, eventFromMs } = await catalogue.find(idOrSlug)
    return { meter: answering, rollups, sinceMs: eventFromMs }
  }

  const usageOf = (
    answering: Answering,
    asked: Asked,
    tenants: readonly Tenant[] | undefined,
    signal: AbortSignal,
  ): AsyncGenerator<readonly UsageRow[]> =>
    queries.ask(signal, async function* (reading) {
      const span = await spanOf(store, answering.meter, asked, { tenants, reading })
      if (span) yield* usageRows(store, usageQuery(answering, asked, span, tenants), reading)
    })

  type Who = Pick<AskedOf<Declared>, 'caller' | 'accepts' | 'signal' | 'reply'>

  const answer = async (slug: string, asked: Asked, part: Part, { caller, accepts, signal, reply }: Who) => {
    const found = await find(slug)
    const { meter } = found
    checkDims(meter, asked, part)
    const tenants = await tenantsOf(caller, accounts)
    const rows = usageOf(found, asked, tenants, signal)
    const isCsv = accepts === 'text/csv'
    const text = await started(isCsv ? csvOf(asked, rows) : jsonOf(asked, rows))
    if (isCsv) reply.header('content-disposition', `attachment; filename=${meter.slug}.csv`)
    return reply.type(isCsv ? 'text/csv' : 'application/json').send(Readable.from(text))
  }

  /** A word for each group of a meter that has a value in the span, in order; groups without a word are passed over. */
  const words = async (
    wordOf: (row: UsageRow) => string | undefined,
    found: Answering,
    { from, to }: { readonly from?: string | undefined; readonly to?: string | undefined },
    { groupBy, bySubject }: Pick<Asked, 'groupBy' | 'bySubject'>,
    {
      caller,
      signal,
      reply,
      fromMs: since,
    }: Pick<Who, 'caller' | 'signal' | 'reply'> & { readonly fromMs?: number },
  ) => {
    const fromMs = momentOf(from, 'query', 'from') ?? since
    const toMs = momentOf(to, 'query', 'to')
    if (fromMs !== undefined && toMs !== undefined && fromMs >= toMs) return []
    const asked: Asked = {
      ...(fromMs !== undefined && { fromMs }),
      ...(toMs !== undefined && { toMs }),
      zone: 'UTC',
      groupBy,
      bySubject,
      where: {},
    }
    const tenants = await tenantsOf(caller, accounts)
    const rows = usageOf(found, asked, tenants, signal)
    const texts = (async function* () {
      for await (const some of rows)
        yield some
          .map(wordOf)
          .filter(word => word !== undefined)
          .map(word => JSON.stringify(word))
    })()
    return reply.type('application/json').send(Readable.from(await started(arrayText(texts))))
  }

  const answers = {
    200: {
      description: 'Usage by window, and by what is to be kept apart.',
      body: { 'application/json': WireMeterQueryResult, 'text/csv': Type.String() },
    },
  } as const
  const Params = Type.Object({ meterIdOrSlug: idOrSlug })

  return app => {
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/meters/:meterIdOrSlug/query',
        scope: 'read',
        tags,
        summary: 'Answers how much was used',
        description: 'As CSV where `Accept: text/csv` says so.',
        params: Params,
        query: AddressParameters,
        answers,
        problems: [404],
      },
      async who =>
        await answer(who.params.meterIdOrSlug, askedInAddress(who.query as AddressQuery), 'query', who),
    )
    route(
      app,
      {
        method: 'POST',
        url: '/api/v1/meters/:meterIdOrSlug/query',
        scope: 'read',
        tags,
        summary: 'Answers how much was used, asked by a body',
        description: 'As CSV where `Accept: text/csv` says so.',
        params: Params,
        reads: { 'application/json': WireMeterQuery },
        bodiless: true,
        answers,
        problems: [404],
      },
      async who => await answer(who.params.meterIdOrSlug, askedInBody(bodyOf(who.request.body)), 'body', who),
    )
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/meters/:meterIdOrSlug/subjects',
        scope: 'read',
        tags,
        summary: 'Lists the subjects that a meter has values of',
        params: Params,
        query: Span,
        answers: { 200: { description: 'In order.', body: Type.Array(Type.String()) } },
        problems: [404],
      },
      async ({ params, query, caller, signal, reply }) => {
        const found = await find(params.meterIdOrSlug)
        const by = { groupBy: [], bySubject: true }
        return await words(({ subject }) => subject, found, query, by, { caller, signal, reply })
      },
    )
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/meters/:meterIdOrSlug/group-by/:groupByKey/values',
        scope: 'read',
        tags,
        summary: 'Lists the values that a dim of a meter has',
        description: 'Of the last 24 hours, unless `from` says otherwise.',
        params: Type.Object({
          meterIdOrSlug: idOrSlug,
          groupByKey: Type.String({ minLength: 1, maxLength: 64, description: 'The dim.' }),
        }),
        query: Span,
        answers: { 200: { description: 'In order.', body: Type.Array(Type.String()) } },
        problems: [404],
      },
      async ({ params: { meterIdOrSlug, groupByKey }, query, caller, signal, reply }) => {
        const found = await find(meterIdOrSlug)
        const isSubject = groupByKey === 'subject'
        const groupBy = isSubject ? [] : [groupByKey]
        checkDims(found.meter, { groupBy, where: {} }, 'path')
        // A time that is asked for but not from when ends a span as long as that of the recent past.
        const fromMs = (momentOf(query.to, 'query', 'to') ?? nowMs()) - dayMs
        const wordOf = ({ subject, group_by }: UsageRow) =>
          (isSubject ? subject : group_by[groupByKey]) || undefined
        const by = { groupBy, bySubject: isSubject }
        return await words(wordOf, found, query, by, { caller, signal, reply, fromMs })
      },
    )
  }
}

const checkBody = partChecker({ schema: WireMeterQuery })

/** Python's client asks for CSV without a body: that is everything. One that is there is an object, and not null. */
function bodyOf(body: unknown): WireQuery {
  const checked = checkBody(body === undefined ? {} : body)
  if ('error' in checked) throw checked.error
  return checked.value as WireQuery
}

function checkDims(meter: Meter, { groupBy, where }: Pick<Asked, 'groupBy' | 'where'>, part: Part): void {
  const names = Object.keys(meter.groupBy).sort()
  const known = names.length === 0 ? 'none' : names.join(', ')
  for (const dim of groupBy)
    if (!names.includes(dim))
      throw invalid(
        part,
        part === 'path' ? 'groupByKey' : 'groupBy',
        `meter ${meter.slug} has no dim "${dim}"; it has ${known}`,
      )
  for (const dim of Object.keys(where))
    if (!names.includes(dim))
      throw invalid(part, 'filterGroupBy', `meter ${meter.slug} has no dim "${dim}"; it has ${known}`)
}

function usageQuery(
  answering: Answering,
  { windowSize, zone, subjects, groupBy, bySubject, where }: Asked,
  span: Window,
  tenants: readonly Tenant[] | undefined,
): UsageQuery {
  return {
    ...answering,
    span,
    zone,
    groupBy,
    where,
    keep: { source: false, subject: bySubject },
    ...(windowSize !== undefined && { step: windowSize }),
    ...(subjects && { subjects }),
    ...(tenants && { tenants }),
  }
}

/**
 * From when to when is answered: as asked, and where that is open, from and to the windows, or without windows the minutes,
 * of the first and the last event that the meter may count; undefined where there is none.
 */
async function spanOf(
  store: Store,
  { eventTypes }: Meter,
  { fromMs, toMs, windowSize = 'MINUTE', zone }: Asked,
  { tenants, reading }: { readonly tenants: readonly Tenant[] | undefined; readonly reading: Reading },
): Promise<Window | undefined> {
  if (fromMs !== undefined && toMs !== undefined) return { startMs: fromMs, endMs: toMs }
  const params: Record<string, unknown> = {}
  const bind = binder(params, 'extent')
  const types = bind('Array(String)', [...eventTypes])
  const seen = tenants ? tenantsSql(tenants, bind) : 'true'
  const rows = await readAll<readonly [first: string, last: string, count: string]>(
    store,
    `select min(timeMs), max(lastMs), count() from (
       select toString(source) as source, subject, toInt64(toUnixTimestamp(start)) * 1000 as timeMs,
         toInt64(toUnixTimestamp(end)) * 1000 as lastMs
       from events where type in (${types}) and ${seen}
       union all
       select source, subject, toUnixTimestamp64Milli(time) as timeMs, timeMs + 1 from pushed
       where type in (${types}) and ${seen}
       union all
       select source, subject, toUnixTimestamp64Milli(time) as timeMs, timeMs + 1 from amendments
       where type in (${types}) and ${seen})`,
    params,
    reading,
  )
  const [first, last, count] = rows[0] ?? ['0', '0', '0']
  if (count === '0') return undefined
  const startMs = fromMs ?? windowAround(Number(first), windowSize, zone).startMs
  const endMs = toMs ?? windowAround(Number(last) - 1, windowSize, zone).endMs
  return startMs < endMs ? { startMs, endMs } : undefined
}

/** No window is longer, whatever the clocks do in it. */
const longestMs = { MINUTE: minuteMs, HOUR: 2 * hourMs, DAY: 2 * dayMs, MONTH: 32 * dayMs } as const

function windowAround(ms: number, windowSize: WireWindowSize, zone: string): Window {
  const around = { startMs: ms - longestMs[windowSize], endMs: ms + longestMs[windowSize] }
  const window = windowHolding(windowRuns(around, parseStep(windowSize), zone), ms)
  if (!window) throw new Error(`no ${windowSize} of ${zone} holds ${ms}`)
  return window
}

// -- what is answered

async function* jsonOf(asked: Asked, rows: AsyncIterable<readonly UsageRow[]>): AsyncGenerator<string> {
  const { fromMs, toMs, windowSize } = asked
  const head = {
    ...(fromMs !== undefined && { from: showInstant(fromMs) }),
    ...(toMs !== undefined && { to: showInstant(toMs) }),
    ...(windowSize !== undefined && { windowSize }),
    data: [],
  }
  let before = JSON.stringify(head).slice(0, -'[]}'.length)
  const texts = (async function* () {
    for await (const some of rows) yield some.map(row => rowText(row, asked))
  })()
  for await (const text of arrayText(texts)) {
    yield before + text
    before = ''
  }
  yield '}'
}

/** The value stands there as a number with all its digits: a decimal is one in JSON as well. */
function rowText(row: UsageRow, asked: Asked): string {
  const { value, subject, group_by } = row
  const groupBy = Object.fromEntries(
    Object.entries(group_by).map(([dim, text]) => [dim, text === '' ? null : text]),
  )
  const [windowStart, windowEnd] = windowOf(row, asked)
  const rest = {
    valueExact: value,
    windowStart,
    windowEnd,
    subject: asked.bySubject ? subject : null,
    groupBy,
  }
  return `{"value":${value},${JSON.stringify(rest).slice(1)}`
}

/** Without windows the one that was asked for, also where the meter begins within it. */
function windowOf(
  { window_start, window_end }: UsageRow,
  { fromMs, windowSize }: Asked,
): readonly [string, string] {
  return [windowSize === undefined && fromMs !== undefined ? showInstant(fromMs) : window_start, window_end]
}

async function* csvOf(asked: Asked, rows: AsyncIterable<readonly UsageRow[]>): AsyncGenerator<string> {
  const { groupBy, bySubject } = asked
  let before = stringify([['window_start', 'window_end', 'subject', ...groupBy, 'value']])
  for await (const some of rows) {
    const lines = some.map(row => [
      ...windowOf(row, asked),
      bySubject ? row.subject : '',
      ...groupBy.map(dim => row.group_by[dim] ?? ''),
      row.value,
    ])
    yield before + stringify(lines)
    before = ''
  }
  if (before !== '') yield before
}
