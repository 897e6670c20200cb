/**
 * What travels between OpenMeter's clients and us: the shapes of its API v1 (events also v2), as far as they are answered
 * here. Times are RFC 3339 texts.
 */
import Type, { type Static, type TSchema } from 'typebox'
import { pointerPart } from '../../../schemas/check.ts'
import { Unfit } from '../route.ts'

const time = (description: string) => Type.String({ format: 'date-time', description })
const strict = { additionalProperties: false } as const
const Labels = Type.Record(Type.String(), Type.String({ maxLength: 1024 }), { maxProperties: 100 })

export const ulidPattern = '^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$'
const slugPattern = '^[a-z0-9]+(?:_[a-z0-9]+)*$'

// -- events

export const WireEvent = Type.Object(
  {
    id: Type.String({ minLength: 1 }),
    source: Type.String({ minLength: 1 }),
    specversion: Type.String({ minLength: 1 }),
    type: Type.String({ minLength: 1 }),
    subject: Type.String({ minLength: 1 }),
    time: Type.Optional(Type.Union([time('When it happened.'), Type.Null()])),
    datacontenttype: Type.Optional(Type.Union([Type.Literal('application/json'), Type.Null()])),
    dataschema: Type.Optional(Type.Union([Type.String({ minLength: 1 }), Type.Null()])),
    data: Type.Optional(Type.Unknown({ description: 'As it was sent.' })),
  },
  { description: 'A CloudEvent; other attributes of it may be there.' },
)

export const WireIngestedEvent = Type.Object(
  {
    event: WireEvent,
    customerId: Type.Optional(Type.String()),
    validationError: Type.Optional(Type.String({ description: 'Why no meter counts it.' })),
    ingestedAt: time('When it was read of its source; of what was pushed, when it came into the ledger.'),
    storedAt: time('When the ledger had it.'),
  },
  strict,
)

export const WireEventPage = Type.Object(
  {
    items: Type.Array(WireIngestedEvent),
    nextCursor: Type.Optional(Type.String({ description: 'Of the next page, where there is one.' })),
  },
  strict,
)

// -- filters

const texts = Type.Union([Type.Array(Type.String({ maxLength: 1024 }), { maxItems: 1000 }), Type.Null()])
const text = Type.Union([Type.String({ maxLength: 1024 }), Type.Null()])

const operators = {
  $eq: Type.Optional(text),
  $ne: Type.Optional(text),
  $in: Type.Optional(texts),
  $nin: Type.Optional(texts),
  $like: Type.Optional(text),
  $nlike: Type.Optional(text),
  $ilike: Type.Optional(text),
  $nilike: Type.Optional(text),
  $gt: Type.Optional(text),
  $gte: Type.Optional(text),
  $lt: Type.Optional(text),
  $lte: Type.Optional(text),
}
const both = <Part extends TSchema>(part: Part) => {
  const parts = Type.Optional(Type.Union([Type.Array(part, { maxItems: 20 }), Type.Null()]))
  return Type.Object({ ...operators, $and: parts, $or: parts }, strict)
}

/** The `FilterString` of schemas/meters.ts, with null for what is not said. */
export const WireFilterString = both(both(Type.Object(operators, strict)))

const moments = {
  $gt: Type.Optional(Type.Union([time('After it.'), Type.Null()])),
  $gte: Type.Optional(Type.Union([time('From it on.'), Type.Null()])),
  $lt: Type.Optional(Type.Union([time('Before it.'), Type.Null()])),
  $lte: Type.Optional(Type.Union([time('Until it, inclusive.'), Type.Null()])),
}
const bothTimes = <Part extends TSchema>(part: Part) => {
  const parts = Type.Optional(Type.Union([Type.Array(part, { maxItems: 20 }), Type.Null()]))
  return Type.Object({ ...moments, $and: parts, $or: parts }, strict)
}
export const WireFilterTime = bothTimes(bothTimes(Type.Object(moments, strict)))

/** What `filter` of `GET /api/v2/events` says, as JSON. */
export const WireEventFilter = Type.Object(
  {
    id: Type.Optional(WireFilterString),
    source: Type.Optional(WireFilterString),
    subject: Type.Optional(WireFilterString),
    type: Type.Optional(WireFilterString),
    time: Type.Optional(WireFilterTime),
    ingestedAt: Type.Optional(WireFilterTime),
    customerId: Type.Optional(Type.Unknown({ description: 'Refused: there are no customers here.' })),
  },
  strict,
)

// -- meters

export const wireAggregations = ['SUM', 'COUNT', 'UNIQUE_COUNT', 'AVG', 'MIN', 'MAX', 'LATEST'] as const
export type WireAggregation = (typeof wireAggregations)[number]

const name = Type.String({ minLength: 1, maxLength: 256, description: 'What people call it.' })
const description = Type.String({ maxLength: 1024, description: 'What it counts, for people.' })
const metadata = Type.Union([Labels, Type.Null()], { description: 'Whatever its maker wants to remember.' })
const path = Type.String({
  minLength: 1,
  maxLength: 256,
  description: 'A JSONPath into the data of an event.',
})
const groupBy = Type.Record(Type.String({ pattern: '^[A-Za-z0-9_]{1,63}$' }), path, {
  maxProperties: 100,
  description: 'Its dims, each with its path.',
})
const slug = Type.String({
  minLength: 1,
  maxLength: 64,
  pattern: slugPattern,
  description: 'Its name in paths.',
})

export const WireMeter = Type.Object(
  {
    id: Type.String({ pattern: ulidPattern }),
    createdAt: time('When it was made.'),
    updatedAt: time('When it was changed last.'),
    deletedAt: Type.Optional(time('When it was deleted.')),
    slug: Type.String({ minLength: 1, maxLength: 64 }),
    name: Type.Optional(name),
    description: Type.Optional(description),
    metadata: Type.Optional(metadata),
    aggregation: Type.Enum(wireAggregations),
    eventType: Type.String({ minLength: 1 }),
    eventFrom: Type.Optional(time('Events before it do not count.')),
    valueProperty: Type.Optional(Type.String({ minLength: 1 })),
    groupBy: Type.Optional(Type.Record(Type.String(), Type.String())),
    annotations: Type.Optional(
      Type.Record(Type.String(), Type.Unknown(), { description: 'What OpenMeter has no word for.' }),
    ),
  },
  strict,
)
export type WireMeter = Static<typeof WireMeter>

export const WireMeterCreate = Type.Object(
  {
    slug,
    name: Type.Optional(name),
    description: Type.Optional(description),
    metadata: Type.Optional(metadata),
    aggregation: Type.Enum(wireAggregations),
    eventType: Type.String({ minLength: 1, maxLength: 256 }),
    eventFrom: Type.Optional(time('Events before it do not count.')),
    valueProperty: Type.Optional(path),
    groupBy: Type.Optional(groupBy),
  },
  strict,
)
export type WireMeterCreate = Static<typeof WireMeterCreate>

export const WireMeterUpdate = Type.Object(
  {
    name: Type.Optional(name),
    description: Type.Optional(description),
    metadata: Type.Optional(metadata),
    groupBy: Type.Optional(groupBy),
  },
  strict,
)
export type WireMeterUpdate = Static<typeof WireMeterUpdate>

// -- queries

export const wireWindowSizes = ['MINUTE', 'HOUR', 'DAY', 'MONTH'] as const
export type WireWindowSize = (typeof wireWindowSizes)[number]

const many = (items: string) =>
  Type.Array(Type.String({ minLength: 1, maxLength: 1024 }), { maxItems: 100, description: items })

export const WireMeterQuery = Type.Object(
  {
    clientId: Type.Optional(Type.String({ minLength: 1, maxLength: 36 })),
    from: Type.Optional(time('Inclusive.')),
    to: Type.Optional(time('Exclusive.')),
    windowSize: Type.Optional(Type.Enum(wireWindowSizes)),
    windowTimeZone: Type.Optional(Type.String({ minLength: 1, maxLength: 64, description: 'An IANA zone.' })),
    subject: Type.Optional(many('Only these, and each by itself.')),
    filterCustomerId: Type.Optional(many('Refused: there are no customers here.')),
    filterGroupBy: Type.Optional(
      Type.Record(
        Type.String(),
        Type.Array(Type.String({ maxLength: 1024 }), {
          maxItems: 100,
          description: "Any of these; '' is of those that have none.",
        }),
        { maxProperties: 100, description: 'By dim.' },
      ),
    ),
    advancedMeterGroupByFilters: Type.Optional(
      Type.Record(Type.String(), WireFilterString, { maxProperties: 100, description: 'By dim.' }),
    ),
    groupBy: Type.Optional(many('Dims to keep apart, and `subject`.')),
  },
  strict,
)
export type WireMeterQuery = Static<typeof WireMeterQuery>

export const WireMeterQueryResult = Type.Object(
  {
    from: Type.Optional(time('As asked.')),
    to: Type.Optional(time('As asked.')),
    windowSize: Type.Optional(Type.Enum(wireWindowSizes)),
    data: Type.Array(
      Type.Object(
        {
          value: Type.Number({ description: 'To the last digit, as far as who reads it keeps them.' }),
          valueExact: Type.String({ description: 'The same, as text.' }),
          windowStart: time('Inclusive.'),
          windowEnd: time('Exclusive.'),
          subject: Type.Union([Type.String(), Type.Null()]),
          groupBy: Type.Record(Type.String(), Type.Union([Type.String(), Type.Null()])),
        },
        strict,
      ),
    ),
  },
  strict,
)

// -- subjects

const known = {
  displayName: Type.Optional(Type.Union([Type.String({ maxLength: 1024 }), Type.Null()])),
  metadata: Type.Optional(Type.Union([Type.Record(Type.String(), Type.Unknown()), Type.Null()])),
  stripeCustomerId: Type.Optional(Type.Union([Type.String({ maxLength: 256 }), Type.Null()])),
  currentPeriodStart: Type.Optional(time('Kept, and used for nothing.')),
  currentPeriodEnd: Type.Optional(time('Kept, and used for nothing.')),
}
const key = Type.String({ minLength: 1, maxLength: 1024, description: 'The `subject` of its events.' })

export const WireSubjectUpsert = Type.Object({ key, ...known }, strict)
export type WireSubjectUpsert = Static<typeof WireSubjectUpsert>

export const WireSubject = Type.Object(
  {
    id: Type.String({ pattern: ulidPattern }),
    createdAt: time('When it was first named.'),
    updatedAt: time('When it was named last.'),
    deletedAt: Type.Optional(time('Never: deleted ones are not shown.')),
    key,
    ...known,
  },
  strict,
)
export type WireSubject = Static<typeof WireSubject>

// -- problems

/** In which part of a request something is wrong. */
export type Part = 'query' | 'body' | 'path'

/** A 400 that names what is wrong, in the way that OpenMeter's clients read it. */
export function invalid(part: Part, path: string, message: string): Unfit {
  return new Unfit(part, [{ path: `/${path}`, message }])
}

/**
 * Half a character (a lone surrogate) can be written in JSON and in no text that the store takes.
 * @throws Unfit
 */
export function checkTexts(part: Part, value: unknown, path = ''): void {
  if (typeof value === 'string') {
    if (!value.isWellFormed())
      throw new Unfit(part, [{ path, message: 'has half a character: it is no Unicode' }])
  } else if (typeof value === 'object' && value !== null)
    for (const [name, member] of Object.entries(value)) {
      checkTexts(part, name, path)
      checkTexts(part, member, `${path}/${pointerPart(name)}`)
    }
}
