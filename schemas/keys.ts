/** What a key may do: its scopes, whose usage it shows, and which sources and subjects it may write. Pure. */
import Type, { type Static } from 'typebox'
import type { CloudEvent } from './cloudevents.ts'
import { Fault } from './fault.ts'
import { amendmentType, isOwnSource, isOwnType, pushedMarkType } from './pushed.ts'

/**
 * `ingest`: pushes events and marks. `amend`: says what an event is to say instead, or that it counts for nothing. `read`:
 * usage, coverage and what they are made of. `bill`: what is charged for it. `admin`: meters, keys, and what went wrong.
 * None holds another.
 */
export const keyScopes = ['ingest', 'amend', 'read', 'bill', 'admin'] as const
export type KeyScope = (typeof keyScopes)[number]

/** Those that a key may have that is bound to one account: it is its customer's, who sees what is theirs and changes nothing. */
export const accountScopes = ['read', 'bill'] as const satisfies readonly KeyScope[]

/** What who holds a key may do. */
export interface Grant {
  /** Of the key: it stands in metrics, in the log of the process, and as the author of amendments. */
  readonly name: string
  readonly scopes: readonly KeyScope[]
  /** The one account whose usage it shows; without it that of all. */
  readonly account?: string
  /** From then on it is nobody's. */
  readonly expiresMs?: number
  /** Patterns, see `matches`. None of them opens a source of Meterline's own. */
  readonly sources: readonly string[]
  readonly subjects: readonly string[]
  readonly bounds?: PushBounds
  /** Of the API, beside what it pushes. */
  readonly requestsPerMinute?: number
}

/** May it ask for what tells of all alike: metrics, and in words what is wrong? */
export function seesAll({ scopes, account }: Grant): boolean {
  return account === undefined && (scopes.includes('read') || scopes.includes('admin'))
}

/** How much may be pushed by a key, over time and at once. */
export interface PushBounds {
  readonly eventsPerSecond: number
  readonly bytesPerSecond: number
  /** For how many seconds it may push all at once, after a rest. */
  readonly burstSeconds: number
  /** Of one request. */
  readonly bodyMaxBytes: number
}

export const pushBoundsDefault = {
  eventsPerSecond: 2000,
  bytesPerSecond: 4 * 1024 ** 2,
  burstSeconds: 30,
  bodyMaxBytes: 10 * 1024 ** 2,
} as const satisfies PushBounds

/** What may be said of how much a key may, from and to. */
export const keyLimitRanges = {
  eventsPerSecond: [1, 1_000_000],
  bytesPerSecond: [1024, 1024 ** 3],
  burstSeconds: [1, 3600],
  bodyMaxBytes: [1024, 10 * 1024 ** 2],
  requestsPerMinute: [1, 1_000_000],
} as const

const limit = (description: string, [minimum, maximum]: readonly [number, number]) =>
  Type.Optional(Type.Integer({ minimum, maximum, description }))

/** How much a key of the store may, as JSON; what is not said is as for keys that say nothing. */
export const KeyLimits = Type.Object(
  {
    events_per_second: limit('How many events a second it may push.', keyLimitRanges.eventsPerSecond),
    bytes_per_second: limit('How many bytes a second it may push.', keyLimitRanges.bytesPerSecond),
    burst_seconds: limit(
      'For how many seconds it may push all at once, after a rest.',
      keyLimitRanges.burstSeconds,
    ),
    body_max_bytes: limit('How large a request may be, in bytes.', keyLimitRanges.bodyMaxBytes),
    requests_per_minute: limit(
      'How many requests a minute the API answers it, beside those that push.',
      keyLimitRanges.requestsPerMinute,
    ),
  },
  { additionalProperties: false },
)
export type KeyLimits = Readonly<Static<typeof KeyLimits>>

/** Of the name of a key. */
export const keyNameShape = /^[A-Za-z0-9._-]{1,128}$/

/** Of who is let in without a key: they push what is not Meterline's, and amends nothing. */
export const keyless: Grant = { name: '', scopes: ['ingest'], sources: ['*'], subjects: ['*'] }

/** What is wrong with a key whose parts fit by themselves, by the part; undefined where nothing is. */
export function keyMisfit({
  scopes,
  account,
  sources,
  subjects,
}: {
  readonly scopes: readonly KeyScope[]
  readonly account?: string | undefined
  readonly sources?: readonly string[] | undefined
  readonly subjects?: readonly string[] | undefined
}): { readonly part: 'scopes' | 'sources' | 'subjects'; readonly message: string } | undefined {
  const beyond = scopes.find(scope => !(accountScopes as readonly KeyScope[]).includes(scope))
  if (account !== undefined && beyond !== undefined)
    return {
      part: 'scopes',
      message: `may not hold ${beyond} where a key is bound to an account: only ${accountScopes.join(' and ')}. Make a key of its own for it`,
    }
  const writes = scopes.find(scope => scope === 'ingest' || scope === 'amend')
  for (const [part, patterns] of Object.entries({ sources, subjects }) as ['sources', typeof sources][])
    if (writes !== undefined && patterns === undefined)
      return { part, message: `must say what a key with ${writes} may write; ['*'] is all` }
  if (scopes.includes('amend') && !subjects?.includes('*'))
    return {
      part: 'subjects',
      message: "must be ['*'] where a key may amend: only the ledger knows whose the event was",
    }
  return undefined
}

/**
 * May it write this event? Decided before anything else is said of the event, so that what is refused here is no
 * message of the log that could come in later as a replay. What is refused is told in words of the event itself.
 * @returns SOURCE_RESERVED, KEY_FORBIDS, or undefined where it may
 */
export function mayWrite(grant: Grant, event: CloudEvent): Fault | undefined {
  const { source, type, subject } = event
  if (isOwnSource(source))
    return new Fault('SOURCE_RESERVED', `source: "${clip(source)}" is of Meterline's own sources`)
  const amends = type === amendmentType
  if (isOwnType(type) && !amends && type !== pushedMarkType)
    return new Fault('SOURCE_RESERVED', `type: "${clip(type)}" is of Meterline's own types`)
  if (!grant.scopes.includes(amends ? 'amend' : 'ingest'))
    return forbidden(grant, amends ? 'amend or void events' : 'write events')
  if (!anyMatches(grant.sources, source)) return forbidden(grant, `write source "${clip(source)}"`)
  return amends ? mayAmend(grant, event) : mayWriteSubject(grant, subject)
}

/** The subject of an event; without one a mark speaks for all of them. */
function mayWriteSubject(grant: Grant, subject: string | undefined): Fault | undefined {
  if (grant.subjects.includes('*')) return undefined
  if (subject === undefined) return forbidden(grant, 'write without a subject')
  return anyMatches(grant.subjects, subject)
    ? undefined
    : forbidden(grant, `write subject "${clip(subject)}"`)
}

function mayAmend(grant: Grant, { data }: CloudEvent): Fault | undefined {
  const amended = (data as { readonly source?: unknown } | null | undefined)?.source
  // What names no event amends none: its schema says so.
  if (typeof amended !== 'string') return undefined
  if (isOwnSource(amended))
    return new Fault('SOURCE_RESERVED', `/data/source: "${clip(amended)}" is of Meterline's own sources`)
  if (!anyMatches(grant.sources, amended)) return forbidden(grant, `amend source "${clip(amended)}"`)
  // Only the ledger knows whose the event is that it would take away.
  return grant.subjects.includes('*') ? undefined : forbidden(grant, 'amend: it is bound to subjects')
}

function forbidden({ name }: Grant, what: string): Fault {
  return new Fault(
    'KEY_FORBIDS',
    name === '' ? `nobody may ${what} without a key` : `this key may not ${what}`,
  )
}

function anyMatches(patterns: readonly string[], text: string): boolean {
  return patterns.some(pattern => matches(pattern, text))
}

/** Does all of the text match? A `*` stands for any number of any characters, all else for itself. */
export function matches(pattern: string, text: string): boolean {
  let [at, from] = [0, 0]
  let star = -1
  let resume = 0
  while (at < text.length) {
    if (from < pattern.length && pattern[from] === '*') {
      star = from
      resume = at
      from += 1
    } else if (from < pattern.length && pattern[from] === text[at]) {
      at += 1
      from += 1
    } else if (star >= 0) {
      // The last star takes one character more: those before it need not be looked at again.
      resume += 1
      at = resume
      from = star + 1
    } else return false
  }
  while (pattern[from] === '*') from += 1
  return from === pattern.length
}

function clip(text: string): string {
  return (text.length > 80 ? `${text.slice(0, 80)}…` : text).toWellFormed()
}
