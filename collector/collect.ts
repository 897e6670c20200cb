/** One read of a source: drained, sealed into events, and stored whole with its mark; or its failure, as a mark too. */
import assert from 'node:assert'
import { Buffer } from 'node:buffer'
import type { Belief, CompleteRead } from '../runtime/log/memory.ts'
import type { NewRead, SqliteOutbox } from '../runtime/log/outbox.ts'
import type { EncodedEvent } from '../runtime/log/outbox-rows.ts'
import { misfitOf, validator } from '../schemas/check.ts'
import {
  type BadItem,
  checkBounds,
  contentHash,
  type MarkData,
  partitionKey,
  type ReadIdentity,
  ReadingEvent,
  sealMark,
  sealReading,
  showDigest,
  showReadat,
  type Usage,
} from '../schemas/event.ts'
import { asFault, Fault } from '../schemas/fault.ts'
import { type SuspectRule, suspectDefault, type Totals, TotalsSum, takesAway } from '../schemas/suspect.ts'
import { minuteMs, secondMs, showWindow, type Window } from '../schemas/window.ts'
import { rereadsServed } from './schedule.ts'
import type { Source } from './source.ts'

/** A source under the name that its config gives it. */
export interface OpenedSource {
  readonly kind: string
  readonly name: string
  readonly source: Source<unknown>
  /** Nothing before this is expected of it. */
  readonly fromMs?: number
}

/** As it stands in events: `meterline/rafay/prod`. */
export function sourceName(opened: Pick<OpenedSource, 'kind' | 'name'>): string {
  return `meterline/${opened.kind}/${opened.name}`
}

/** What became of a read. */
export type ReadOutcome =
  | {
      readonly outcome: 'complete'
      readonly readings: number
      /** The readings were those of the last read: only the mark was written. */
      readonly repeats: boolean
      readonly settled: boolean
      /** Gaps. */
      readonly bad: readonly BadItem[]
      /** Readings that count and that another figure contradicts. */
      readonly doubts: readonly BadItem[]
      readonly subjects: ReadonlySet<string>
    }
  | { readonly outcome: 'failed'; readonly fault: Fault }

export interface CollectOptions {
  readonly opened: OpenedSource
  readonly scope: string
  readonly window: Window
  readonly outbox: SqliteOutbox
  /** A read `by` hand sends everything; the schedule's may say that it repeats the last one. */
  readonly by: 'schedule' | 'hand'
  /** The read by hand that remembers this window when it was read without a gap. */
  readonly request?: string
  /** By which the ledger will hold a read back that takes too much away. */
  readonly suspect?: SuspectRule
  readonly nowMs: () => number
  readonly signal: AbortSignal
  readonly deadlineMs?: number
  /** Called when the source has given the whole answer: what is left is to store it, together with other reads. */
  readonly answered?: () => void
}

const readDeadlineMsDefault = 10 * minuteMs
const badItemsMax = 1000
const markBytesMax = 512 * 1024
const eventBytesMax = 256 * 1024
const messageLengthMax = 1000
const noDigest = showDigest(0n)

/**
 * Reads a window of a scope and stores what came of it, whole: a failed read leaves a mark with its fault, never an
 * empty read.
 * @throws Fault ABORTED when the signal stopped it, OUTBOX_FULL | GRID_OVERLAP | OUTBOX_UNREADABLE when it could not be
 * stored: then nothing was, and the window is due as before.
 */
export async function collectRead(options: CollectOptions): Promise<ReadOutcome> {
  const { opened, scope, window, outbox, signal } = options
  const source = sourceName(opened)
  const startedMs = options.nowMs()
  assert(window.endMs <= startedMs, `${showWindow(window)} is over`)
  const readatMs = outbox.memory.nextReadatMs(source, scope, window, startedMs)
  const identity: ReadIdentity = { source, scope, window, readatMs }
  const asked = await askSource(asking => drain(opened, identity, asking), {
    signal,
    deadlineMs: options.deadlineMs,
    facts: { source, scope },
  })
  if (asked.fault) {
    await outbox.appendSoon(failedRead(identity, startedMs, asked.fault))
    return { outcome: 'failed', fault: asked.fault }
  }
  const drained = asked.answer
  options.answered?.()

  const digest = showDigest(drained.contentSum)
  const before = outbox.memory.window(source, scope, window.startMs)?.complete
  const belief = believed(before?.belief, { readatMs, totals: drained.totals }, options.suspect)
  const isLast =
    rereadsServed(window, opened.source.rereadAfterMs, startedMs) === opened.source.rereadAfterMs.length
  // A read that will be held back as suspect is not the last: another one is to say whether it was right.
  const settled = isLast && belief.low === undefined
  const last = options.by === 'schedule' ? before : undefined
  const repeated = repeats(last, digest, drained.readings.length) ? last : undefined
  const noted = [...drained.bad, ...drained.doubts].slice(0, badItemsMax)
  const mark = completeMark(identity, {
    outcome: 'complete',
    events: drained.readings.length,
    digest,
    ...(repeated && { repeats: showReadat(repeated.contentReadatMs) }),
    settled,
    estimated: drained.estimated,
    ...(noted.length > 0 && { bad: noted }),
  })
  await outbox.appendSoon({
    identity,
    key: partitionKey(source, scope),
    readings: repeated ? [] : drained.readings,
    mark,
    ...(options.request !== undefined && drained.bad.length === 0 && { request: options.request }),
    record: {
      source,
      scope,
      window,
      readatMs,
      attemptedMs: startedMs,
      complete: {
        digest,
        events: drained.readings.length,
        contentReadatMs: repeated?.contentReadatMs ?? readatMs,
        settled,
        belief,
      },
    },
  })
  return {
    outcome: 'complete',
    readings: drained.readings.length,
    repeats: repeated !== undefined,
    settled,
    bad: drained.bad,
    doubts: drained.doubts,
    subjects: drained.subjects,
  }
}

/**
 * What to think of a window after one more read of it, by the rule of the ledger: one that takes too much away is `low`
 * until another, late enough, agrees with it.
 */
export function believed(
  before: Belief | undefined,
  read: { readonly readatMs: number; readonly totals: Totals },
  rule: SuspectRule = suspectDefault,
): Belief {
  if (!before || !takesAway(before.totals, read.totals, rule.percent)) return { totals: read.totals }
  const { low } = before
  const agrees = low !== undefined && !takesAway(low.totals, read.totals, rule.percent)
  if (!agrees) return { totals: before.totals, low: read }
  if (low.readatMs + rule.confirmAfterMs <= read.readatMs) return { totals: read.totals }
  return before
}

/** A mark with a thousand bad items says less of each, rather than be larger than a message may be. */
function completeMark(identity: ReadIdentity, data: Omit<MarkData, 'window'>): EncodedEvent {
  const mark = encode(sealMark(data, identity))
  if (mark.value.length <= markBytesMax) return mark
  const bad = (data.bad ?? []).map(({ subject, code, message, counted }) => ({
    // Without its subject an item is a gap of the whole scope: the wider claim, never a wrong one.
    ...(subject !== undefined && subject.length <= 64 && { subject }),
    code,
    message: clip(message, 60),
    ...(counted && { counted }),
  }))
  return encode(sealMark({ ...data, bad }, identity))
}

/** The listing of a window: a read without readings, whose mark names the scopes that were not named before. */
export function listingRead(options: {
  readonly identity: ReadIdentity
  readonly startedMs: number
  readonly scopes: NonNullable<MarkData['scopes']>
}): NewRead {
  const { identity, startedMs, scopes } = options
  const { source, scope, window, readatMs } = identity
  const data: Omit<MarkData, 'window'> = {
    outcome: 'complete',
    events: 0,
    digest: noDigest,
    settled: true,
    estimated: false,
    ...(scopes.length > 0 && { scopes: [...scopes] }),
  }
  return {
    identity,
    key: partitionKey(source, scope),
    readings: [],
    mark: encode(sealMark(data, identity)),
    announces: scopes.map(listed => listed.scope),
    record: {
      source,
      scope,
      window,
      readatMs,
      attemptedMs: startedMs,
      complete: { digest: noDigest, events: 0, contentReadatMs: readatMs, settled: true },
    },
  }
}

/** A read that failed: its mark says why. */
export function failedRead(identity: ReadIdentity, startedMs: number, fault: Fault): NewRead {
  const { source, scope, window, readatMs } = identity
  const data: Omit<MarkData, 'window'> = {
    outcome: 'failed',
    events: 0,
    digest: noDigest,
    settled: false,
    estimated: false,
    fault: { code: fault.code, message: clip(fault.message) },
  }
  return {
    identity,
    key: partitionKey(source, scope),
    readings: [],
    mark: encode(sealMark(data, identity)),
    record: { source, scope, window, readatMs, attemptedMs: startedMs },
  }
}

/**
 * Asks the source, for so long at most. Its failure comes back as the Fault for the mark.
 * @throws Fault ABORTED: to be stopped from outside is no failure of the source.
 */
export async function askSource<Answer>(
  ask: (signal: AbortSignal) => Promise<Answer>,
  limits: {
    readonly signal: AbortSignal
    readonly deadlineMs: number | undefined
    readonly facts: { readonly source: string; readonly scope: string }
  },
): Promise<{ readonly answer: Answer; readonly fault?: never } | { readonly fault: Fault }> {
  const { signal, facts, deadlineMs = readDeadlineMsDefault } = limits
  // Not AbortSignal.timeout or any: they would live on for the whole deadline, thousands of them.
  const asking = new AbortController()
  const stop = () => asking.abort()
  const timer = setTimeout(stop, deadlineMs)
  signal.addEventListener('abort', stop)
  if (signal.aborted) stop()
  try {
    const answer = await ask(asking.signal)
    // A source that ends quietly when it is stopped has not given the whole answer.
    asking.signal.throwIfAborted()
    return { answer }
  } catch (error) {
    if (signal.aborted) throw new Fault('ABORTED', 'stopped while reading', facts, { cause: error })
    if (asking.signal.aborted)
      return {
        fault: new Fault(
          'SOURCE_UNREACHABLE',
          `the read was not done after ${deadlineMs / secondMs} s`,
          facts,
          {
            cause: error,
          },
        ),
      }
    return { fault: asFault(error, 'BODY_UNREADABLE', facts) }
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', stop)
  }
}

interface Drained {
  readonly readings: readonly EncodedEvent[]
  readonly bad: readonly BadItem[]
  readonly doubts: readonly BadItem[]
  readonly subjects: ReadonlySet<string>
  readonly contentSum: bigint
  readonly totals: Totals
  readonly estimated: boolean
}

/** Takes the whole answer. Only the encoded events are kept, so that a large answer stays as small as its JSON. */
async function drain(opened: OpenedSource, identity: ReadIdentity, signal: AbortSignal): Promise<Drained> {
  const { kind, source } = opened
  const windowSeconds = (identity.window.endMs - identity.window.startMs) / secondMs
  const readings: EncodedEvent[] = []
  const bad: BadItem[] = []
  const doubts: BadItem[] = []
  const subjects = new Set<string>()
  const seen = new Set<string>()
  const totals = new TotalsSum()
  let contentSum = 0n
  let estimated = false

  function take(usage: Usage): void {
    const event = sealReading(usage, kind, identity)
    if (seen.has(event.id))
      throw new Fault(
        'READING_TWICE',
        `${usage.resource.kind} ${usage.resource.id} of ${usage.subject} comes twice`,
        {
          source: identity.source,
          scope: identity.scope,
          resource: usage.resource.id,
        },
      )
    checkReading(event, windowSeconds)
    const encoded = encode(event)
    if (encoded.value.length > eventBytesMax)
      throw new Fault(
        'EVENT_TOO_LARGE',
        `${usage.resource.kind} ${usage.resource.id} has ${encoded.value.length} bytes`,
        {
          subject: usage.subject,
        },
      )
    seen.add(event.id)
    readings.push(encoded)
    subjects.add(usage.subject)
    contentSum += contentHash(event)
    totals.add(event.data.measures)
    estimated ||= event.data.estimated
    if (usage.doubt !== undefined && doubts.length < badItemsMax)
      doubts.push({
        subject: usage.subject,
        code: 'FIGURES_DIFFER',
        message: clip(usage.doubt),
        counted: true,
      })
  }

  for await (const item of source.read(identity.scope, identity.window, signal)) {
    let usages: readonly Usage[] = []
    try {
      usages = source.toUsage(item, identity.window)
    } catch (error) {
      bad.push(badItem(error))
    }
    for (const usage of usages)
      try {
        take(usage)
      } catch (error) {
        bad.push(badItem(error, usage.subject))
      }
    if (bad.length > badItemsMax)
      throw new Fault(
        'BODY_UNREADABLE',
        `more than ${badItemsMax} items are unreadable, the first: ${bad[0]?.message}`,
        {
          source: identity.source,
          scope: identity.scope,
        },
      )
  }
  return { readings, bad, doubts, subjects, contentSum, totals: totals.totals(), estimated }
}

function checkReading(event: ReadingEvent, windowSeconds: number): void {
  const validate = validator(ReadingEvent)
  const fits: boolean = validate(event)
  if (!fits) {
    const misfit = misfitOf(validate.errors![0]!)
    throw new Fault('ITEM_UNREADABLE', `${event.data.resource.id}: ${misfit.path} ${misfit.message}`)
  }
  checkBounds(event, windowSeconds)
}

/** An item that is set aside. A failure of another fate is one of the whole read, and is thrown on. */
function badItem(error: unknown, subjectKnown?: string): BadItem {
  const fault = asFault(error, 'ITEM_UNREADABLE')
  if (fault.fate !== 'reject') throw fault
  const subject = subjectKnown ?? fault.facts.subject
  return {
    ...(typeof subject === 'string' && subject !== '' && subject.length <= 512 && { subject }),
    code: fault.code,
    message: clip(fault.message),
  }
}

function repeats(last: CompleteRead | undefined, digest: string, events: number): last is CompleteRead {
  return last !== undefined && events > 0 && last.digest === digest && last.events === events
}

function encode(event: ReadingEvent | ReturnType<typeof sealMark>): EncodedEvent {
  return { id: event.id, value: Buffer.from(JSON.stringify(event)) }
}

function clip(text: string, lengthMax = messageLengthMax): string {
  return text.length > lengthMax ? `${text.slice(0, lengthMax)}…` : text
}
