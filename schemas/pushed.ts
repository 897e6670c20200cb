/**
 * Events that others push: what Meterline takes of them, the marks by which a pusher says how many there are, and
 * Meterline's own events about them, which only it may send: the amendment of one, what HTTP refused, and a rejected
 * message that comes again. Pure.
 */
import { hash } from 'node:crypto'
import Type, { type Static } from 'typebox'
import { misfitOf, validator } from './check.ts'
import { type CloudEvent, decodeStructured, encodeStructured, isJsonType } from './cloudevents.ts'
import { listingScope, partitionKey } from './event.ts'
import { Fault } from './fault.ts'
import { dayMs, instantMs, isOnGrid, showInstant, type Window } from './window.ts'

/** A broker takes a mebibyte with key, headers and all; an event leaves room for these. */
export const pushedBytesMax = 1024 * 1024 - 8192
/** How deep data may be nested, and how many values it may have in all. */
export const pushedDepthMax = 64
export const pushedValuesMax = 10_000
/** Nothing that is billed is older, or said before it happened. */
export const earliestMs = Date.UTC(2000, 0, 1)
export const latestMs = Date.UTC(2100, 0, 1)
export const pushedAheadMsMax = dayMs
/** How much of a message that cannot be taken is kept: enough to replay nearly all, bounded for hostile ones. */
export const keptBytesMax = 64 * 1024

/** Sources and types that begin with these are Meterline's own. */
const ownSource = 'meterline/'
const ownType = 'io.meterline.'

export function isOwnSource(source: string): boolean {
  return source.startsWith(ownSource)
}

export function isOwnType(type: string): boolean {
  return type.startsWith(ownType)
}

/** What a pushed event says, beside the source and id that name it. */
export interface PushedContent {
  readonly type: string
  readonly subject: string
  /** As it was sent, to the last digit; '' where it was not: then it happened when the log took it. */
  readonly time: string
  readonly timeMs: number
  /** JSON as it was sent but for spaces, '' where there is none. */
  readonly data: string
  /** JSON of the other attributes. */
  readonly attributes: string
  /** 64 bits of all that, but for what a sender may say otherwise the second time. */
  readonly content: bigint
}

/** A pushed event that may be taken. */
export interface Pushed extends PushedContent {
  readonly source: string
  readonly id: string
}

const nameLengthMax = 1024
const typeLengthMax = 256
const attributesLengthMax = 16_384
/** They say how a message travelled, or how its data is written: a retry may say otherwise. */
const passing: ReadonlySet<string> = new Set([
  'traceparent',
  'tracestate',
  'partitionkey',
  'datacontenttype',
  'recordedtime',
])

/**
 * Holds an event against what Meterline takes from others, beyond the rules of CloudEvents.
 * @param appendedMs when the log took it, or takes it now
 * @param timelessMs when it happened where it does not say so
 * @throws Fault SOURCE_RESERVED | EVENT_INVALID | EVENT_DATA_INVALID | TIME_OUT_OF_BOUNDS
 */
export function checkPushed(event: CloudEvent, appendedMs: number, timelessMs: number = appendedMs): Pushed {
  const { source, id, type } = event
  checkName(event)
  if (isOwnType(type)) throw new Fault('SOURCE_RESERVED', `type: "${clip(type)}" is of Meterline's own types`)
  return { source, id, ...contentOf(event, appendedMs, timelessMs) }
}

function checkName({ source, id }: CloudEvent): void {
  if (isOwnSource(source))
    throw new Fault('SOURCE_RESERVED', `source: "${clip(source)}" is of Meterline's own sources`)
  atMost('source', source, nameLengthMax)
  atMost('id', id, nameLengthMax)
}

function contentOf(event: PushedEnvelope, appendedMs: number, timelessMs: number): PushedContent {
  const { type, subject, time = '', data, datacontenttype } = event
  atMost('type', type, typeLengthMax)
  if (typeof subject !== 'string')
    throw new Fault('EVENT_INVALID', 'subject is missing: it says whose usage it is')
  atMost('subject', subject, nameLengthMax)
  if (data instanceof Uint8Array) throw new Fault('EVENT_DATA_INVALID', '/data is bytes: only JSON is taken')
  if (typeof datacontenttype === 'string' && !isJsonType(datacontenttype))
    throw new Fault('EVENT_DATA_INVALID', `/datacontenttype "${clip(datacontenttype)}": only JSON is taken`)
  const timeMs = timeOf(time, appendedMs, timelessMs)
  const attributes: Record<string, unknown> = {}
  const told: Record<string, unknown> = {}
  for (const name of Object.keys(event).sort()) {
    if (envelope.has(name) || event[name] === undefined) continue
    attributes[name] = event[name]
    if (!passing.has(name)) told[name] = event[name]
  }
  const attributesText = JSON.stringify(attributes)
  atMost('attributes', attributesText, attributesLengthMax)
  const canonical = data === undefined ? '' : canonicalText(data)
  const content = hash64(JSON.stringify([type, subject, time, told, canonical]))
  const text = data === undefined ? '' : JSON.stringify(data)
  return { type, subject, time, timeMs, data: text, attributes: attributesText, content }
}

/** Of a pushed event, or of what one is amended to. */
interface PushedEnvelope {
  readonly type: string
  readonly subject?: string
  readonly time?: string
  readonly datacontenttype?: string
  readonly data?: unknown
  readonly [extension: string]: unknown
}

const envelope: ReadonlySet<string> = new Set([
  'specversion',
  'id',
  'source',
  'type',
  'subject',
  'time',
  'data',
])

function timeOf(time: string, appendedMs: number, timelessMs: number): number {
  if (time === '') return timelessMs
  const timeMs = instantMs(time)
  if (timeMs === undefined) throw new Fault('EVENT_INVALID', `time "${clip(time)}" is no RFC 3339 time`)
  if (timeMs < earliestMs)
    throw new Fault('TIME_OUT_OF_BOUNDS', `time ${clip(time)} is before ${showInstant(earliestMs)}`)
  if (timeMs > appendedMs + pushedAheadMsMax)
    throw new Fault(
      'TIME_OUT_OF_BOUNDS',
      `time ${clip(time)} is more than a day after ${showInstant(appendedMs)}, when it was sent`,
    )
  return timeMs
}

function atMost(name: string, text: string, lengthMax: number): void {
  if (text.length > lengthMax)
    throw new Fault('EVENT_INVALID', `${name} is longer than ${lengthMax} characters`)
}

// In Node 26, and not yet in TypeScript's library.
const { isRawJSON } = JSON as unknown as {
  readonly isRawJSON: (value: unknown) => value is { rawJSON: string }
}

/**
 * JSON with its keys in order, so that equal data is equal text.
 * @throws Fault EVENT_DATA_INVALID where it is nested too deep or has too many values
 */
function canonicalText(data: unknown): string {
  let values = 0
  const write = (value: unknown, depth: number): string => {
    values += 1
    if (values > pushedValuesMax)
      throw new Fault('EVENT_DATA_INVALID', `/data has more than ${pushedValuesMax} values`)
    if (typeof value !== 'object' || value === null) return JSON.stringify(value)
    if (isRawJSON(value)) return value.rawJSON
    if (depth === pushedDepthMax)
      throw new Fault('EVENT_DATA_INVALID', `/data is nested more than ${pushedDepthMax} deep`)
    if (Array.isArray(value)) return `[${value.map(part => write(part, depth + 1)).join(',')}]`
    const parts = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))
    return `{${parts.map(([key, part]) => `${JSON.stringify(key)}:${write(part, depth + 1)}`).join(',')}}`
  }
  return write(data, 0)
}

/** What a pushed event says, as JSON for a person to compare. */
export function showPushed(pushed: PushedContent): string {
  const { type, subject, time, attributes, data } = pushed
  const head = JSON.stringify({ type, subject, ...(time !== '' && { time }) }).slice(0, -1)
  const others = attributes === '{}' ? '' : `,${attributes.slice(1, -1)}`
  return `${head}${others}${data === '' ? '' : `,"data":${data}`}}`
}

/** 128 bits of source and id, which alone make an event what it is. */
export function pushedIdentity(source: string, id: string): bigint {
  return BigInt(`0x${hash('sha256', JSON.stringify([source, id]), 'hex').slice(0, 32)}`)
}

/** One identity is in one partition, with all that is said of it later. */
export function pushedKey(source: string, id: string): string {
  return `${source} ${id}`
}

/**
 * Holds whatever a pusher may send, an event or a mark, against what is taken of it, and says under which key it goes:
 * what is said of one event is in one partition, and so are the marks of one scope, whose order says which counts.
 * @throws Fault as `checkPushed` and `checkPushedMark`
 */
export function checkSent(
  event: CloudEvent,
  nowMs: number,
): { readonly source: string; readonly id: string; readonly key: string } {
  if (event.type === pushedMarkType) {
    const { source, id, scope } = checkPushedMark(event, nowMs)
    return { source, id, key: partitionKey(source, scope) }
  }
  const { source, id } = checkPushed(event, nowMs)
  return { source, id, key: pushedKey(source, id) }
}

function hash64(text: string): bigint {
  return BigInt(`0x${hash('sha256', text, 'hex').slice(0, 16)}`)
}

function clip(text: string): string {
  return (text.length > 80 ? `${text.slice(0, 80)}…` : text).toWellFormed()
}

// -- a pusher's own marks

export const pushedMarkType = 'io.meterline.pushed.v1'
/** The scope of marks that speak for all tenants of a pushed source. */
export const wholeScope = 'all'

/** What a pusher says of a window of its own source. Other attributes of CloudEvents may be there, and say nothing. */
export const PushedMarkEvent = Type.Object(
  {
    specversion: Type.Literal('1.0', { description: 'CloudEvents 1.0.' }),
    id: Type.String({ minLength: 1, description: 'Used once: a later mark of the window has another.' }),
    source: Type.String({ minLength: 1, description: "Of the events that it counts: the pusher's own." }),
    type: Type.Literal(pushedMarkType, { description: 'A mark of a pusher.' }),
    subject: Type.Optional(
      Type.String({
        minLength: 1,
        description: 'The one tenant that it speaks for; without it, it speaks for all of them.',
      }),
    ),
    data: Type.Object(
      {
        window: Type.Object(
          {
            start: Type.String({ description: 'Start, inclusive, RFC 3339.' }),
            end: Type.String({ description: 'End, exclusive, RFC 3339.' }),
          },
          {
            additionalProperties: false,
            description: '60, 30, 15, 5 or 1 minutes, from a multiple of that after a full hour UTC.',
          },
        ),
        events: Type.Integer({
          minimum: 0,
          maximum: Number.MAX_SAFE_INTEGER,
          description: 'How many events have their `time` in the window, each source and id once.',
        }),
        settled: Type.Optional(
          Type.Boolean({ default: true, description: 'false: more of the window may still be sent.' }),
        ),
      },
      { additionalProperties: false, description: 'What was sent.' },
    ),
  },
  { description: 'A mark of a pusher.' },
)

/** A mark that may be taken. */
export interface PushedMark {
  readonly source: string
  readonly id: string
  /** The tenant that it speaks for, or `wholeScope`. */
  readonly scope: string
  readonly window: Window
  readonly events: number
  readonly isSettled: boolean
  /** 64 bits of all that: sent again, it is the same whatever else the envelope says. */
  readonly content: bigint
}

const isPushedMark = validator(PushedMarkEvent)
const windowRemedy =
  'a window has 60, 30, 15, 5 or 1 minutes and begins at a multiple of that after a full hour UTC, such as 08:15Z/08:30Z'
const markRemedies = {
  '/data/window': windowRemedy,
  '/data/events': 'say how many events of the window there are, as a whole number',
  '/data/settled': 'say true or false, or leave it out',
} as const

/**
 * Holds a mark of a pusher against its schema, the grid and the bounds of time.
 * @param appendedMs when the log took it, or takes it now
 * @throws Fault SOURCE_RESERVED | EVENT_INVALID | EVENT_DATA_INVALID | TIME_OUT_OF_BOUNDS naming field, value and remedy
 */
export function checkPushedMark(event: CloudEvent, appendedMs: number): PushedMark {
  checkName(event)
  const { source, id, subject, datacontenttype } = event
  if (typeof datacontenttype === 'string' && !isJsonType(datacontenttype))
    throw new Fault('EVENT_DATA_INVALID', `/datacontenttype "${clip(datacontenttype)}": only JSON is taken`)
  if (!isPushedMark(event)) throw markMisfit(event)
  if (subject !== undefined) {
    atMost('subject', subject, nameLengthMax)
    if (subject === wholeScope || subject === listingScope)
      throw new Fault(
        'EVENT_INVALID',
        `subject "${subject}" names no tenant in a mark: leave subject out where it speaks for all of them`,
      )
  }
  const { window: span, events, settled } = (event as unknown as Static<typeof PushedMarkEvent>).data
  const window = { startMs: instantMs(span.start) ?? Number.NaN, endMs: instantMs(span.end) ?? Number.NaN }
  const isWhole = [span.start, span.end].every(text => !/\.0*[1-9]/.test(text))
  if (!isWhole || !isOnGrid(window))
    throw new Fault(
      'EVENT_DATA_INVALID',
      `/data/window "${clip(span.start)}/${clip(span.end)}" is no window of a grid: ${windowRemedy}`,
    )
  if (window.startMs < earliestMs || window.endMs > Math.min(appendedMs + pushedAheadMsMax, latestMs))
    throw new Fault(
      'TIME_OUT_OF_BOUNDS',
      `/data/window "${span.start}/${span.end}" begins before ${showInstant(earliestMs)}, or ends more than a day after ${showInstant(appendedMs)}, when the mark was sent: mend the clock, or send it later`,
    )
  const scope = subject ?? wholeScope
  const isSettled = settled ?? true
  const said = [pushedMarkType, scope, window.startMs, window.endMs, events, isSettled]
  return { source, id, scope, window, events, isSettled, content: hash64(JSON.stringify(said)) }
}

function markMisfit(event: CloudEvent): Fault {
  const [first] = isPushedMark.errors ?? []
  const { path, message } = first ? misfitOf(first) : { path: '', message: 'does not fit' }
  let value: unknown = event
  for (const name of path.split('/').slice(1))
    value = typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined
  const said = value === undefined ? '' : ` "${clip(JSON.stringify(value))}"`
  const remedy =
    Object.entries(markRemedies).find(([member]) => path.startsWith(member))?.[1] ??
    'data holds window, events and settled, and nothing else'
  return new Fault(
    path.startsWith('/data') ? 'EVENT_DATA_INVALID' : 'EVENT_INVALID',
    `${path}${said} ${message}: ${remedy}`.slice(0, 500).toWellFormed(),
  )
}

// -- Meterline's own events

const word = (description: string, maxLength: number) =>
  Type.String({ minLength: 1, maxLength, pattern: '^[^\\u0000-\\u001f\\u007f-\\u009f]+$', description })
const instant = (description: string) =>
  Type.String({ pattern: '^\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}(\\.\\d{3})?Z$', description })

const own = {
  specversion: Type.Literal('1.0', { description: 'CloudEvents 1.0.' }),
  id: word('Used once.', 128),
  time: instant('When it was made.'),
  partitionkey: word('Of the event that it is about.', 4096),
  datacontenttype: Type.Literal('application/json', { description: 'The data is JSON.' }),
}

export const amendmentType = 'io.meterline.amendment.v1'

const amendedName = word('Of the pushed event.', nameLengthMax)
const action = Type.Union([Type.Literal('amend'), Type.Literal('void')], {
  description: 'amend: it says what `event` says. void: it counts for nothing.',
})
const said = Type.Optional(
  Type.Object(
    {
      type: word('Its type.', typeLengthMax),
      subject: word('Its subject.', nameLengthMax),
      time: word('Its time, RFC 3339.', 64),
      data: Type.Optional(Type.Unknown({ description: 'Its data.' })),
    },
    { additionalProperties: false, description: 'What it says instead, whole.' },
  ),
)

/** A pushed event is to be taken otherwise than it was sent, or not at all; the latest in the log counts. */
export const AmendmentEvent = Type.Object(
  {
    ...own,
    source: Type.Literal('meterline/amend/person', { description: 'A person amends.' }),
    type: Type.Literal(amendmentType, { description: 'An amendment.' }),
    data: Type.Object(
      {
        source: amendedName,
        id: amendedName,
        action,
        event: said,
        author: word('Who amends.', 256),
        reason: word('Why.', 1024),
      },
      { additionalProperties: false, description: 'Which event, and what becomes of it.' },
    ),
  },
  { additionalProperties: false },
)
export type AmendmentEvent = Static<typeof AmendmentEvent>

/** An amendment as it is pushed. Other attributes of CloudEvents may be there, and say nothing. */
export const PushedAmendmentEvent = Type.Object(
  {
    specversion: own.specversion,
    id: Type.String({ minLength: 1, description: 'Its own, kept when it is sent again.' }),
    source: Type.String({ minLength: 1, description: 'Who amends: a source of the key, not of Meterline.' }),
    type: Type.Literal(amendmentType, { description: 'An amendment.' }),
    data: Type.Object(
      {
        source: amendedName,
        id: amendedName,
        action,
        event: said,
        reason: word('Why; who amends is the name of the key.', 1024),
      },
      { additionalProperties: false, description: 'Which event, and what becomes of it.' },
    ),
  },
  { description: 'An amendment as it is pushed.' },
)

const isPushedAmendment = validator(PushedAmendmentEvent)

/**
 * The amendment that a key posted, as it goes to the log: sent again, it is the same one.
 * @param author the name of the key
 * @throws Fault EVENT_INVALID | EVENT_DATA_INVALID | TIME_OUT_OF_BOUNDS | SOURCE_RESERVED naming the path
 */
export function sealPushedAmendment(event: CloudEvent, author: string, nowMs: number): SealedAmendment {
  checkName(event)
  if (!isPushedAmendment(event)) throw firstMisfit(isPushedAmendment.errors)
  const { data } = event as unknown as Static<typeof PushedAmendmentEvent>
  const source = 'meterline/amend/person'
  const id = hash('sha256', JSON.stringify([event.source, event.id]), 'hex')
  const key = pushedKey(data.source, data.id)
  const text = sealAbout<AmendmentEvent>({
    source,
    id,
    type: amendmentType,
    partitionkey: key,
    timeMs: nowMs,
    data: { ...data, author },
  })
  // What the processor would reject is better refused here.
  amendedContent(checkAboutPushed(decodeStructured(text)) as AmendmentEvent, nowMs)
  return { source, id, key, text }
}

/** An amendment, and where it goes. */
export interface SealedAmendment {
  readonly source: string
  readonly id: string
  readonly key: string
  readonly text: string
}

const headersOf = Type.Unsafe<Record<string, string>>({
  type: 'object',
  additionalProperties: { type: 'string' },
  maxProperties: 200,
  description: 'The headers that say what the bytes are.',
})
const base64 = (description: string) =>
  Type.String({ maxLength: Math.ceil(keptBytesMax / 3) * 4, description })

export const refusalType = 'io.meterline.refusal.v1'

/** What HTTP refused, on its way through the log to the other rejects, so that a crash loses none and each is counted once. */
export const RefusalEvent = Type.Object(
  {
    ...own,
    source: Type.Literal('meterline/ingest/http', { description: 'The ingest route.' }),
    type: Type.Literal(refusalType, { description: 'A refusal.' }),
    data: Type.Object(
      {
        code: word('The code of the fault.', 64),
        reason: Type.String({ maxLength: 1024, description: 'What is wrong with it.' }),
        headers: headersOf,
        value: base64('The first 64 KiB of it.'),
        bytes: Type.Integer({ minimum: 0, description: 'Its whole length.' }),
        sha256: Type.String({ pattern: '^[0-9a-f]{64}$', description: 'Of the whole.' }),
      },
      { additionalProperties: false, description: 'What was refused, and why.' },
    ),
  },
  { additionalProperties: false },
)
export type RefusalEvent = Static<typeof RefusalEvent>

export const replayType = 'io.meterline.replay.v1'

/** Where a message of the log stands. */
export interface LogPlace {
  readonly log: string
  readonly partition: number
  readonly offset: bigint
}

/** A rejected message that comes again, with the place that it came from. */
export const ReplayEvent = Type.Object(
  {
    ...own,
    source: Type.Literal('meterline/replay/rejected', { description: 'The rejects.' }),
    type: Type.Literal(replayType, { description: 'A replay.' }),
    data: Type.Object(
      {
        log: word('The log that it came from.', 256),
        partition: Type.Integer({ minimum: 0, description: 'Its partition there.' }),
        offset: Type.String({ pattern: '^\\d{1,20}$', description: 'Its offset there.' }),
        part: Type.Integer({ minimum: 0, description: 'Which event, where one message holds several.' }),
        received: instant('When it first came.'),
        headers: headersOf,
        value: Type.String({ description: 'All of its bytes, in base64.' }),
      },
      { additionalProperties: false, description: 'The message, and where it stood.' },
    ),
  },
  { additionalProperties: false },
)
export type ReplayEvent = Static<typeof ReplayEvent>

const checks = {
  [amendmentType]: validator(AmendmentEvent),
  [refusalType]: validator(RefusalEvent),
  [replayType]: validator(ReplayEvent),
} as const

/** Is it one of the types of this file? */
export function isAboutPushed(type: string): type is keyof typeof checks {
  return Object.hasOwn(checks, type)
}

/** @throws Fault EVENT_INVALID | EVENT_DATA_INVALID naming the path */
export function checkAboutPushed(event: CloudEvent): AmendmentEvent | RefusalEvent | ReplayEvent {
  assertAbout(event.type)
  const validate = checks[event.type]
  if (!validate(event)) throw firstMisfit(validate.errors)
  return event as unknown as AmendmentEvent | RefusalEvent | ReplayEvent
}

function firstMisfit(errors: typeof isPushedMark.errors): Fault {
  const [first] = errors ?? []
  const { path, message } = first ? misfitOf(first) : { path: '', message: 'does not fit' }
  return new Fault(
    path.startsWith('/data') ? 'EVENT_DATA_INVALID' : 'EVENT_INVALID',
    `${path} ${message}`.slice(0, 500).toWellFormed(),
  )
}

function assertAbout(type: string): asserts type is keyof typeof checks {
  if (!isAboutPushed(type)) throw new Fault('INTERNAL', `${type} is not about pushed events`)
}

/**
 * What an amended event says; undefined where it is void.
 * @throws Fault EVENT_DATA_INVALID | TIME_OUT_OF_BOUNDS | SOURCE_RESERVED, as for an event that is pushed
 */
export function amendedContent(
  { data, partitionkey }: AmendmentEvent,
  appendedMs: number,
): PushedContent | undefined {
  if (isOwnSource(data.source))
    throw new Fault(
      'EVENT_DATA_INVALID',
      `/data/source "${clip(data.source)}": a read is replaced by a newer read`,
    )
  if (partitionkey !== pushedKey(data.source, data.id))
    throw new Fault('EVENT_DATA_INVALID', '/partitionkey is not the source and id of the event')
  if ((data.action === 'amend') !== (data.event !== undefined))
    throw new Fault('EVENT_DATA_INVALID', '/data/event says what an amended event says, and only that')
  if (data.event === undefined) return undefined
  const { type, subject, time, data: said } = data.event
  if (isOwnType(type))
    throw new Fault('SOURCE_RESERVED', `/data/event/type: "${clip(type)}" is of Meterline's own types`)
  return contentOf({ type, subject, time, data: said }, appendedMs, appendedMs)
}

/** An event of Meterline's about an event that was pushed, as it goes to the log. */
export function sealAbout<Event extends AmendmentEvent | RefusalEvent | ReplayEvent>(
  event: Omit<Event, 'specversion' | 'datacontenttype' | 'time'> & { readonly timeMs: number },
): string {
  const { timeMs, ...rest } = event
  return encodeStructured({
    specversion: '1.0',
    ...(rest as unknown as { id: string; source: string; type: string }),
    time: showInstant(timeMs),
    datacontenttype: 'application/json',
  })
}
