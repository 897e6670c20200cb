/**
 * `GET /api/v1/events` and `/api/v2/events` as OpenMeter has them: the events that count, newest first. Those that were
 * pushed stand as they were sent, or as they were amended; readings as Meterline sealed them. What was refused, replaced
 * or voided is not among them.
 */
import Type, { type Static } from 'typebox'
import type { Account } from '../../../schemas/accounts.ts'
import { fits, misfits } from '../../../schemas/check.ts'
import { decimalOfJsonNumber, isBoundedDecimal } from '../../../schemas/decimal.ts'
import { partitionKey, type ReadingData, showReadat } from '../../../schemas/event.ts'
import { JsonNumber, parseExact } from '../../../schemas/json.ts'
import type { FilterString, Meter } from '../../../schemas/meters.ts'
import { parsePath, valueAt } from '../../../schemas/paths.ts'
import { latestMs } from '../../../schemas/pushed.ts'
import { showInstant } from '../../../schemas/window.ts'
import type { Catalogue, CatalogueMeter } from '../../catalogue.ts'
import type { Queries } from '../../queries.ts'
import type { Store } from '../../store.ts'
import { type Routes, route } from '../route.ts'
import { tenantsOf } from '../tenants.ts'
import { filterOf, jsonOf, momentOf } from './asked.ts'
import { type FilterTime, type ListAsked, type ListedEvent, type ListPlace, listEvents } from './listed.ts'
import { checkTexts, invalid, WireEventFilter, WireEventPage, WireIngestedEvent } from './wire.ts'

const limitMax = 100
const limit = Type.Optional(
  Type.String({
    pattern: '^(?:[1-9][0-9]?|100)$',
    description: 'So many at most, 1 to 100; 100 if not given.',
  }),
)
const clientId = Type.Optional(Type.String({ minLength: 1, maxLength: 36, description: 'Changes nothing.' }))
const moment = (description: string) =>
  Type.Optional(Type.String({ description: `RFC 3339. ${description}` }))
const strict = { additionalProperties: false }

const ListQuery = Type.Object(
  {
    clientId,
    ingestedAtFrom: moment('Those ingested from here on.'),
    ingestedAtTo: moment('Those ingested until here, inclusive.'),
    id: Type.Optional(Type.String({ maxLength: 1024, description: 'A part of the id.' })),
    subject: Type.Optional(Type.String({ maxLength: 1024, description: 'A part of the subject.' })),
    customerId: Type.Optional(
      Type.Array(Type.String(), { description: 'Refused: there are no customers here.' }),
    ),
    from: moment('Those that happened from here on.'),
    to: moment('Those that happened until here, inclusive.'),
    limit,
  },
  strict,
)

const PageQuery = Type.Object(
  {
    cursor: Type.Optional(Type.String({ maxLength: 8192, description: 'Where the page before ended.' })),
    limit,
    clientId,
    filter: Type.Optional(
      Type.String({
        maxLength: 65_536,
        description: 'JSON: filters by id, source, subject, type, time and ingestedAt.',
      }),
    ),
  },
  strict,
)

export interface EventListParts {
  readonly store: Store
  readonly queries: Queries
  readonly catalogue: Pick<Catalogue, 'meters'>
  readonly accounts: () => Promise<readonly Account[]>
}

export function eventListRoutes({ store, queries, catalogue, accounts }: EventListParts): Routes {
  const list = async (asked: ListAsked, signal: AbortSignal): Promise<readonly ListedEvent[]> => {
    const answers = queries.ask(signal, async function* (reading) {
      yield await listEvents(store, asked, reading)
    })
    for await (const events of answers) return events
    return []
  }

  return app => {
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/events',
        scope: 'read',
        tags: ['openmeter'],
        summary: 'Lists the events that count, newest first',
        query: ListQuery,
        answers: { 200: { description: 'Events.', body: Type.Array(WireIngestedEvent) } },
      },
      async ({ query, caller, signal, reply }) => {
        const tenants = await tenantsOf(caller, accounts)
        const listed = await list({ ...listAsked(query), tenants }, signal)
        const known = await catalogue.meters()
        const items = listed.map(event => itemText(event, known))
        return reply.type('application/json').send(`[${items.join(',')}]`)
      },
    )
    route(
      app,
      {
        method: 'GET',
        url: '/api/v2/events',
        scope: 'read',
        tags: ['openmeter'],
        summary: 'Lists the events that count, newest first, page by page',
        query: PageQuery,
        answers: { 200: { description: 'A page of events.', body: WireEventPage } },
      },
      async ({ query, caller, signal, reply }) => {
        const asked = pageAsked(query)
        const tenants = await tenantsOf(caller, accounts)
        // One more than is shown tells whether there is another page.
        const listed = await list({ ...asked, limit: asked.limit + 1, tenants }, signal)
        const shown = listed.slice(0, asked.limit)
        const known = await catalogue.meters()
        const last = shown.at(-1)
        const next = last && listed.length > shown.length ? `,"nextCursor":"${showCursor(last)}"` : ''
        const items = shown.map(event => itemText(event, known))
        return reply.type('application/json').send(`{"items":[${items.join(',')}]${next}}`)
      },
    )
  }
}

// -- what is asked

type Frozen<T> = {
  readonly [Key in keyof T]: T[Key] extends string[] | undefined ? readonly string[] : T[Key]
}
type ListParameters = Frozen<Static<typeof ListQuery>>

/** @throws Unfit */
export function listAsked(query: ListParameters): ListAsked {
  const { id, subject, customerId, from, to, ingestedAtFrom, ingestedAtTo } = query
  if (customerId !== undefined && customerId.length > 0)
    throw invalid('query', 'customerId', 'there are no customers here: say which subject')
  return {
    texts: {
      ...(id !== undefined && { id: containing(id) }),
      ...(subject !== undefined && { subject: containing(subject) }),
    },
    time: between({ from, to }, ['from', 'to']),
    ingestedAt: between({ from: ingestedAtFrom, to: ingestedAtTo }, ['ingestedAtFrom', 'ingestedAtTo']),
    limit: Number(query.limit ?? limitMax),
  }
}

function containing(part: string): FilterString {
  return { $like: `%${part.replace(/[\\%_]/g, '\\$&')}%` }
}

function between(
  { from, to }: { readonly from?: string | undefined; readonly to?: string | undefined },
  [fromField, toField]: readonly [string, string],
): readonly FilterTime[] {
  momentOf(from, 'query', fromField)
  momentOf(to, 'query', toField)
  if (from === undefined && to === undefined) return []
  return [{ ...(from !== undefined && { $gte: from }), ...(to !== undefined && { $lte: to }) }]
}

/** @throws Unfit */
export function pageAsked({ cursor, filter: written, limit: most }: Static<typeof PageQuery>): ListAsked {
  const filter = written === undefined ? {} : jsonOf(written, 'filter')
  const [misfit] = misfits(WireEventFilter, filter)
  if (misfit || !fits(WireEventFilter, filter))
    throw invalid('query', `filter${misfit?.path ?? ''}`, misfit?.message ?? 'is an object')
  const { time, ingestedAt, customerId, ...texts } = filter
  if (customerId !== undefined && customerId !== null)
    throw invalid('query', 'filter/customerId', 'there are no customers here: say which subject')
  return {
    texts: Object.fromEntries(
      Object.entries(texts).map(([name, said]) => [name, filterOf(said, 'query', `filter/${name}`)]),
    ),
    time: timesOf(time, 'filter/time'),
    ingestedAt: timesOf(ingestedAt, 'filter/ingestedAt'),
    ...(cursor !== undefined && { after: readCursor(cursor) }),
    limit: Number(most ?? limitMax),
  }
}

function timesOf(filter: unknown, field: string): readonly FilterTime[] {
  if (filter === undefined) return []
  const said: FilterTime = Object.fromEntries(
    Object.entries(filter as object)
      .filter(([, value]) => value !== null)
      .map(([name, value]) => {
        if (typeof value === 'string') momentOf(value, 'query', `${field}/${name}`)
        return [name, Array.isArray(value) ? value.flatMap(part => timesOf(part, `${field}/${name}`)) : value]
      }),
  )
  return [said]
}

/** Time, key and source of a place; nothing is billed before or after these times. */
const Cursor = Type.Tuple([Type.Integer({ minimum: 0, maximum: latestMs }), Type.String(), Type.String()])

function showCursor({ timeMs, key, source }: ListPlace): string {
  return Buffer.from(JSON.stringify([timeMs, key, source])).toString('base64url')
}

function readCursor(text: string): ListPlace {
  let place: unknown
  try {
    place = JSON.parse(Buffer.from(text, 'base64url').toString())
  } catch {
    // Told below.
  }
  if (!fits(Cursor, place)) throw invalid('query', 'cursor', 'is none that this API gave')
  checkTexts('query', place, '/cursor')
  const [timeMs, key, source] = place
  return { timeMs, key, source }
}

// -- what is answered

/** JSON of an IngestedEvent; the data stands in it as it was sent, to the last digit. */
function itemText(event: ListedEvent, meters: readonly Counting[]): string {
  const { head, data } = event.kind === 'pushed' ? pushedEvent(event) : readingEvent(event)
  const why = event.kind === 'pushed' ? whyUncounted(event, meters) : undefined
  const rest = {
    ...(why !== undefined && { validationError: why }),
    ingestedAt: showInstant(event.ingestedMs),
    storedAt: showInstant(event.storedMs),
  }
  const said = data === '' ? '' : `,"data":${data}`
  return `{"event":${JSON.stringify(head).slice(0, -1)}${said}},${JSON.stringify(rest).slice(1)}`
}

function pushedEvent({ id, source, type, subject, timeText, timeMs, data, attributes }: ListedEvent) {
  const others: Record<string, unknown> = attributes === '' ? {} : JSON.parse(attributes)
  const { datacontenttype, ...rest } = others
  const head = {
    ...rest,
    id,
    source,
    specversion: '1.0',
    type,
    subject,
    time: timeText === '' ? showInstant(timeMs) : timeText,
    // Whatever kind of JSON it was said to be: OpenMeter knows one.
    ...(datacontenttype !== undefined && { datacontenttype: 'application/json' }),
  }
  return { head, data }
}

function readingEvent({ id, source, type, subject, scope, timeMs, ingestedMs, data }: ListedEvent) {
  const [endS, usedStartMs, usedEndMs, kind, resource, name, measures, labels, parts, estimated] =
    JSON.parse(data)
  const window = { start: showInstant(timeMs), end: showInstant(Number(endS) * 1000) }
  const interval = { start: showInstant(Number(usedStartMs)), end: showInstant(Number(usedEndMs)) }
  const isWhole = interval.start === window.start && interval.end === window.end
  const said: ReadingData = {
    window,
    ...(!isWhole && { interval }),
    resource: { kind, id: resource, ...(name !== '' && { name }) },
    measures,
    labels,
    ...(Number(parts) > 1 && { parts: Number(parts) }),
    estimated,
  }
  const readat = showReadat(ingestedMs)
  const head = {
    id,
    source,
    specversion: '1.0',
    type,
    subject,
    time: window.start,
    scope,
    readat,
    partitionkey: partitionKey(source, scope),
    datacontenttype: 'application/json',
  }
  return { head, data: JSON.stringify(said) }
}

/** What may count an event. */
type Counting = Pick<CatalogueMeter, 'meter' | 'eventFromMs'>

/** Why no meter counts a pushed event; undefined where one does. */
export function whyUncounted(
  { type, data, timeMs }: Pick<ListedEvent, 'type' | 'data' | 'timeMs'>,
  meters: readonly Counting[],
): string | undefined {
  const asking = meters.filter(({ meter }) => meter.eventTypes.includes(type))
  if (asking.length === 0) return `no meter counts events of the type ${type}`
  const parsed = data === '' ? undefined : parseExact(data)
  const reasons: string[] = []
  for (const { meter, eventFromMs = timeMs } of asking) {
    const isEarly = timeMs < eventFromMs
    const why = isEarly
      ? `meter ${meter.slug}: it begins at ${showInstant(eventFromMs)}`
      : whyNot(meter, parsed)
    if (why === undefined) return undefined
    reasons.push(why)
  }
  return reasons.join('; ')
}

function whyNot({ slug, aggregation, value = '' }: Meter, data: unknown): string | undefined {
  if (aggregation === 'COUNT') return undefined
  const path = parsePath(value)
  if (path.kind === 'name' && (value === 'subject' || value === 'source')) return undefined
  const found = valueAt(data, path.kind === 'data' ? path.steps : [path.name])
  const text = found instanceof JsonNumber ? found.text : found
  if (text === undefined || text === null || text === '') return `meter ${slug}: there is nothing at ${value}`
  if (typeof text !== 'string' && typeof text !== 'boolean')
    return `meter ${slug}: no text or number is at ${value}`
  if (aggregation === 'UNIQUE_COUNT') return undefined
  return isQuantity(String(text))
    ? undefined
    : `meter ${slug}: no number within 1e24 and 12 decimals is at ${value}`
}

function isQuantity(text: string): boolean {
  try {
    return isBoundedDecimal(text) || isBoundedDecimal(decimalOfJsonNumber(text))
  } catch {
    return false
  }
}
