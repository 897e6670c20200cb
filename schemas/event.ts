/**
 * Meterline's own events: the reading of one resource in one window, and the mark that ends a read.
 * Owns their shape, their identity and the digest of a read; how a CloudEvent is written on a wire is cloudevents.ts.
 * Pure.
 */
import { hash } from 'node:crypto'
import Type, { type Static } from 'typebox'
import { isBoundedDecimal } from './decimal.ts'
import { Fault } from './fault.ts'
import { type MeasureName, measureNames, measures } from './measures.ts'
import { showInstant, type Window } from './window.ts'

/** CloudEvents forbids control characters in attributes. */
const text = (description: string, maxLength = 1024) =>
  Type.String({ minLength: 1, maxLength, pattern: '^[^\\u0000-\\u001f\\u007f-\\u009f]+$', description })
const utc = (description: string) =>
  Type.String({ pattern: '^\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}(\\.\\d{3})?Z$', description })
/** What a column of 32 bits holds. */
const countMax = 4_294_967_295
const decimal = Type.String({ pattern: '^(0|[1-9][0-9]{0,23})(\\.[0-9]{1,12})?$' })

const span = (description: string) =>
  Type.Object(
    { start: utc('Start, inclusive.'), end: utc('End, exclusive.') },
    { additionalProperties: false, description },
  )

/** The `data` of a reading. */
export const ReadingData = Type.Object(
  {
    window: span('The window that was asked for.'),
    interval: Type.Optional(span('The time really used inside the window, where the source knows it.')),
    resource: Type.Object(
      {
        kind: text('What it is: instance, pod, volume …', 64),
        id: text("The provider's id; where there is none, its name."),
        name: Type.Optional(
          Type.String({ maxLength: 1024, description: 'What people call it; it may change.' }),
        ),
      },
      { additionalProperties: false, description: 'What was used.' },
    ),
    measures: Type.Partial(
      Type.Object(
        Object.fromEntries(measureNames.map(name => [name, decimal])) as Record<MeasureName, typeof decimal>,
      ),
      {
        additionalProperties: false,
        minProperties: 1,
        description: 'How much, integrated over the window: at least one, each a decimal as text.',
      },
    ),
    // Not a Type.Record, which would try a pattern on every key.
    labels: Type.Unsafe<Record<string, string>>({
      type: 'object',
      propertyNames: { minLength: 1, maxLength: 256 },
      additionalProperties: { type: 'string', maxLength: 4096 },
      maxProperties: 64,
      description: 'What else the provider says of it; meters group and filter by these.',
    }),
    parts: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: countMax,
        description: 'How many provider rows were summed, if not one.',
      }),
    ),
    estimated: Type.Boolean({ description: 'True where the provider did not say, and a rule filled in.' }),
  },
  { additionalProperties: false, description: 'What one resource used.' },
)
export type ReadingData = Static<typeof ReadingData>

/** An item of a read that could not be taken: a gap of its own. */
export const BadItem = Type.Object(
  {
    subject: Type.Optional(text('Whose gap it is; of the whole scope where this is missing.')),
    code: Type.String({ maxLength: 64, description: 'The code of the fault.' }),
    message: Type.String({ maxLength: 1024, description: 'What is wrong with it.' }),
    counted: Type.Optional(
      Type.Literal(true, {
        description:
          'It was taken all the same and is no gap: another figure of the provider contradicts it, and a person should look.',
      }),
    ),
  },
  { additionalProperties: false },
)
export type BadItem = Static<typeof BadItem>

/** A scope that a listing saw for the first time, or of which it learnt more: it is expected from `since`. */
export const ListedScope = Type.Object(
  {
    scope: text('The scope.', 512),
    since: utc('Its first window is expected from here.'),
    ended: Type.Optional(utc('Nothing is expected from here.')),
  },
  { additionalProperties: false },
)
export type ListedScope = Static<typeof ListedScope>
/** So that a mark stays well below what a message may hold; the next listing names the rest. */
export const listedScopesMax = 2000

/** The `data` of a mark. */
export const MarkData = Type.Object(
  {
    window: span('The window that was read.'),
    outcome: Type.Union([Type.Literal('complete'), Type.Literal('failed')], {
      description: 'A failed read counts for nothing: it is a recorded gap.',
    }),
    events: Type.Integer({ minimum: 0, maximum: countMax, description: 'How many readings the read holds.' }),
    digest: Type.String({ pattern: '^[0-9a-f]{16}$', description: 'Sum of their content hashes mod 2^64.' }),
    repeats: Type.Optional(utc('readat of the read whose readings this one repeats; then it sends none.')),
    settled: Type.Boolean({ description: 'The last planned read of this window.' }),
    estimated: Type.Boolean({ description: 'Some reading of it is estimated: one without ranks above it.' }),
    bad: Type.Optional(
      Type.Array(BadItem, {
        maxItems: 1000,
        description: 'Items that could not be taken: each a gap of its own, unless it says `counted`.',
      }),
    ),
    scopes: Type.Optional(
      Type.Array(ListedScope, {
        maxItems: listedScopesMax,
        description: 'In the mark of a listing: scopes that are new, or of which more is known.',
      }),
    ),
    fault: Type.Optional(
      Type.Object(
        {
          code: Type.String({ maxLength: 64, description: 'Its code.' }),
          message: Type.String({ maxLength: 1024, description: 'What happened.' }),
        },
        { additionalProperties: false, description: 'Why a read failed.' },
      ),
    ),
  },
  { additionalProperties: false, description: 'What was read, or why nothing was.' },
)
export type MarkData = Static<typeof MarkData>

export const markType = 'io.meterline.read.v1'
/** The scope of the window in which a source lists its scopes. */
export const listingScope = '*'

const EventId = Type.String({
  pattern: '^[0-9a-f]{32}@\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}\\.\\d{3}Z$',
  description: 'Hash of source, scope, type, subject, resource and window, then `@` and readat.',
})
const own = {
  specversion: Type.Literal('1.0', { description: 'CloudEvents 1.0.' }),
  id: EventId,
  source: Type.String({
    pattern: '^meterline/[a-z0-9-]+/[A-Za-z0-9._-]+$',
    maxLength: 256,
    description: 'meterline, the kind of source, and its name in the config.',
  }),
  time: utc("The window's start."),
  scope: text('The part of the source that one answer covers.', 512),
  readat: Type.String({
    pattern: '^\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}\\.\\d{3}Z$',
    description: 'When the read was made, with milliseconds: it tells the reads of a window apart.',
  }),
  partitionkey: text('Source and scope.', 1024),
  datacontenttype: Type.Literal('application/json', { description: 'The data is JSON.' }),
}

/** A reading as a CloudEvent. */
export const ReadingEvent = Type.Object(
  {
    ...own,
    type: Type.String({
      pattern: '^io\\.meterline\\.[a-z0-9-]+\\.[a-z0-9_-]+\\.v1$',
      description: 'io.meterline, the kind of source, what was read, and v1.',
    }),
    subject: text("The tenant, by the provider's id, which never changes.", 512),
    data: ReadingData,
  },
  { additionalProperties: false },
)
export type ReadingEvent = Static<typeof ReadingEvent>

/** A mark as a CloudEvent. */
export const MarkEvent = Type.Object(
  { ...own, type: Type.Literal(markType, { description: 'A mark.' }), data: MarkData },
  { additionalProperties: false },
)
export type MarkEvent = Static<typeof MarkEvent>

export const decisionType = 'io.meterline.decision.v1'

/** What a person decided of a span of a scope; recorded with name and reason, in the order of the scope's reads. */
export const DecisionEvent = Type.Object(
  {
    specversion: own.specversion,
    id: text('Any text that is used once.', 128),
    source: Type.String({
      pattern: '^(meterline/[a-z0-9-]+/[A-Za-z0-9._-]+|(?!meterline/)[^\\u0000-\\u001f\\u007f-\\u009f]+)$',
      maxLength: 1024,
      description: 'That it is about: of Meterline, or one that is pushed.',
    }),
    type: Type.Literal(decisionType, { description: 'A decision.' }),
    time: utc('When it was made.'),
    scope: text('The scope that it is about.', 1024),
    partitionkey: text('Source and scope.', 4096),
    datacontenttype: own.datacontenttype,
    data: Type.Object(
      {
        action: Type.Union([Type.Literal('confirm'), Type.Literal('waive'), Type.Literal('end')], {
          description:
            'confirm: a suspect read counts as it is. waive: invoices may close over the gap. end: nothing is expected of the scope from the start of the window on.',
        }),
        window: span('The windows that it is about.'),
        readat: Type.Optional(utc('Of the read that is confirmed.')),
        subject: Type.Optional(text('Waived is the gap of this subject alone.', 512)),
        author: text('Who decided.', 256),
        reason: text('Why.', 1024),
      },
      { additionalProperties: false, description: 'What was decided.' },
    ),
  },
  { additionalProperties: false },
)
export type DecisionEvent = Static<typeof DecisionEvent>

/** What a source says of one resource in one window, before it is sealed into an event. */
export interface Usage {
  /** The last word of the event type: `instance` gives `io.meterline.rafay.instance.v1`. */
  readonly thing: string
  /** The tenant, by the provider's unchanging id. */
  readonly subject: string
  readonly resource: { readonly kind: string; readonly id: string; readonly name?: string }
  readonly measures: Readonly<Partial<Record<MeasureName, string>>>
  readonly labels: Readonly<Record<string, string>>
  /** The time really used inside the window, where the source knows it. */
  readonly interval?: Window
  /** How many provider rows were summed into this reading, if not one. */
  readonly parts?: number
  readonly estimated?: boolean
  /** Another figure of the provider that contradicts this one: it counts, and coverage names the difference. */
  readonly doubt?: string
}

export interface ReadIdentity {
  readonly source: string
  readonly scope: string
  readonly window: Window
  readonly readatMs: number
}

/** All events of a scope go to one partition, its mark behind them. */
export function partitionKey(source: string, scope: string): string {
  return `${source} ${scope}`
}

/** `readat` as it travels: always with milliseconds. */
export function showReadat(ms: number): string {
  return new Date(ms).toISOString()
}

/** Seals a usage into the event of its read. The id is the identity of the reading, `@`, the read. */
export function sealReading(usage: Usage, kind: string, read: ReadIdentity): ReadingEvent {
  const type = `io.meterline.${kind}.${usage.thing}.v1`
  const window = { start: showInstant(read.window.startMs), end: showInstant(read.window.endMs) }
  const identity = identityOf([
    read.source,
    read.scope,
    type,
    usage.subject,
    usage.resource.kind,
    usage.resource.id,
    window.start,
    window.end,
  ])
  const readat = showReadat(read.readatMs)
  return {
    specversion: '1.0',
    id: `${identity}@${readat}`,
    source: read.source,
    type,
    subject: usage.subject,
    time: window.start,
    scope: read.scope,
    readat,
    partitionkey: partitionKey(read.source, read.scope),
    datacontenttype: 'application/json',
    data: {
      window,
      ...(usage.interval && {
        interval: { start: showInstant(usage.interval.startMs), end: showInstant(usage.interval.endMs) },
      }),
      resource: { ...usage.resource },
      measures: { ...inKeyOrder(usage.measures) },
      labels: { ...inKeyOrder(usage.labels) },
      ...(usage.parts !== undefined && usage.parts !== 1 && { parts: usage.parts }),
      estimated: usage.estimated ?? false,
    },
  }
}

/** The event that ends a read. */
export function sealMark(data: Omit<MarkData, 'window'>, read: ReadIdentity): MarkEvent {
  const window = { start: showInstant(read.window.startMs), end: showInstant(read.window.endMs) }
  const readat = showReadat(read.readatMs)
  return {
    specversion: '1.0',
    id: `${identityOf([read.source, read.scope, markType, '', '', '', window.start, window.end])}@${readat}`,
    source: read.source,
    type: markType,
    time: window.start,
    scope: read.scope,
    readat,
    partitionkey: partitionKey(read.source, read.scope),
    datacontenttype: 'application/json',
    data: { window, ...data },
  }
}

/** 128 bits as 32 hex digits. The parts are length-prefixed by JSON, so no two lists share a text. */
function identityOf(parts: readonly string[]): string {
  return hash('sha256', JSON.stringify(parts), 'hex').slice(0, 32)
}

/** What a reading says, without its id and readat: the ledger's rows have these columns. */
export type ReadingContent = readonly [
  type: string,
  subject: string,
  start: string,
  end: string,
  usedStart: string,
  usedEnd: string,
  resourceKind: string,
  resourceId: string,
  resourceName: string,
  measures: Readonly<Record<string, string>>,
  labels: Readonly<Record<string, string>>,
  parts: number,
  estimated: boolean,
]

/** Keys in order: the JSON text of equal content is equal, whatever the order in the event. */
export function contentOf(event: ReadingEvent): ReadingContent {
  const { window, interval, resource, measures: quantities, labels, parts, estimated } = event.data
  return [
    event.type,
    event.subject,
    window.start,
    window.end,
    interval?.start ?? window.start,
    interval?.end ?? window.end,
    resource.kind,
    resource.id,
    resource.name ?? '',
    inKeyOrder(quantities),
    inKeyOrder(labels),
    parts ?? 1,
    estimated,
  ]
}

/** `contentOf` as one JSON array. */
export function contentText(event: ReadingEvent): string {
  return JSON.stringify(contentOf(event))
}

/**
 * 64-bit hash of what a reading says. A read's digest is the sum of these mod 2^64, so it does not depend on the order
 * of the readings.
 */
export function contentHash(event: ReadingEvent, text: string = contentText(event)): bigint {
  return BigInt(`0x${hash('sha256', text, 'hex').slice(0, 16)}`)
}

/**
 * 64-bit hash of an event's identity. Summed mod 2^64 it tells whether two stores hold the same events; in ClickHouse
 * the same is `reinterpretAsUInt64(reverse(substring(SHA256(concat(source, ' ', id)), 1, 8)))`.
 */
export function idHash(source: string, id: string): bigint {
  return BigInt(`0x${hash('sha256', `${source} ${id}`, 'hex').slice(0, 16)}`)
}

/** The order-free digest of a read, as it stands in its mark. */
export function showDigest(sum: bigint): string {
  return BigInt.asUintN(64, sum).toString(16).padStart(16, '0')
}

/** The record itself where its keys are in order already, as events that Meterline sealed have them. */
function inKeyOrder<Value>(record: Readonly<Record<string, Value>>): Readonly<Record<string, Value>> {
  let before = ''
  for (const key in record) {
    if (key < before) return Object.fromEntries(Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1)))
    before = key
  }
  return record
}

/**
 * Holds a reading's quantities against what its window can hold.
 * @throws Fault VALUE_OUT_OF_BOUNDS naming the measure.
 */
export function checkBounds(event: ReadingEvent, windowSeconds: number): void {
  for (const [name, value] of Object.entries(event.data.measures)) {
    if (!isBoundedDecimal(value) || value.startsWith('-'))
      throw new Fault('VALUE_OUT_OF_BOUNDS', `${name} "${value}" is no quantity within bounds`, {
        measure: name,
        value,
      })
    if (measures[name as MeasureName].bound !== 'window') continue
    // Exact without a rational: whole seconds compare as integers (of nine digits at most, else it is too much), and
    // a fraction only matters at equality.
    const point = value.indexOf('.')
    const whole = point < 0 ? value : value.slice(0, point)
    const most = windowSeconds * (event.data.parts ?? 1)
    const isMore = whole.length > 9 ? BigInt(whole) > BigInt(most) : Number(whole) > most
    if (isMore || (point > 0 && Number(whole) === most && /[1-9]/.test(value.slice(point))))
      throw new Fault(
        'VALUE_OUT_OF_BOUNDS',
        `${name} ${value} is more than its window of ${windowSeconds} s holds`,
        {
          measure: name,
          value,
          resource: event.data.resource.id,
        },
      )
  }
}
