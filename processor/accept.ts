/** Decides what becomes of each message of a batch: a reading, a mark, or a reject with its reason. Pure. */
import assert from 'node:assert'
import { isUtf8 } from 'node:buffer'
import { hash } from 'node:crypto'
import type { LogBatch, LogMessage, RejectedMessage } from '../runtime/log/log.ts'
import { misfitOf, validator } from '../schemas/check.ts'
import { type CloudEvent, decodeKafka, structuredType } from '../schemas/cloudevents.ts'
import {
  checkBounds,
  contentHash,
  contentOf,
  contentText,
  DecisionEvent,
  decisionType,
  MarkEvent,
  markType,
  partitionKey,
  ReadingEvent,
} from '../schemas/event.ts'
import { asFault, Fault, type FaultCode } from '../schemas/fault.ts'
import {
  type AmendmentEvent,
  amendedContent,
  checkAboutPushed,
  checkPushed,
  checkPushedMark,
  earliestMs,
  isAboutPushed,
  isOwnSource,
  keptBytesMax,
  type LogPlace,
  latestMs,
  type Pushed,
  type PushedContent,
  type PushedMark,
  pushedMarkType,
  type RefusalEvent,
  type ReplayEvent,
} from '../schemas/pushed.ts'
import { type Totals, TotalsSum } from '../schemas/suspect.ts'
import { instantMs, isOnGrid, secondMs, type Window } from '../schemas/window.ts'
import { EventRows } from './event-rows.ts'
import type { ValueCheck } from './values.ts'

/** What a batch has of one read's readings, as far as the mark will ask for it. */
export interface ReadPart {
  readonly source: string
  readonly scope: string
  readonly window: Window
  readonly readatMs: number
  readonly subjects: ReadonlySet<string>
  readonly readings: number
  /** The sum of their content hashes mod 2^64. */
  readonly digest: bigint
  readonly totals: Totals
  /** Which of `rows` are theirs. */
  readonly rows: readonly number[]
}

export interface AcceptedMark {
  readonly partition: number
  readonly offset: bigint
  readonly message: LogMessage
  readonly event: MarkEvent
  readonly window: Window
  readonly readatMs: number
  readonly read: string
  /** 64 bits of what it says. */
  readonly content: bigint
}

export interface AcceptedDecision {
  readonly partition: number
  readonly offset: bigint
  readonly event: DecisionEvent
  readonly window: Window
}

/** An event that somebody pushed. */
export interface AcceptedPushed extends Pushed {
  readonly partition: number
  readonly offset: bigint
}

/** What a pusher says of a window of its source. */
export interface AcceptedPushedMark extends PushedMark {
  readonly partition: number
  readonly offset: bigint
  readonly message: LogMessage
}

export interface AcceptedAmendment {
  readonly partition: number
  readonly offset: bigint
  readonly event: AmendmentEvent
  /** What the event says from now on; undefined where it is void. */
  readonly amended: PushedContent | undefined
  /** 64 bits of what it says. */
  readonly content: bigint
}

/** A message that came again from the rejects, and the place that it came from. */
export interface ReplayedMessage {
  readonly offset: bigint
  readonly from: LogPlace
  readonly part: number
}

/** A message whose source and id the ledger has already: it says the same, or something else. */
export interface PassedMessage {
  readonly partition: number
  readonly offset: bigint
  readonly fate: 'duplicate' | 'conflict'
  readonly source: string
  readonly id: string
  /** Of a conflict: what it says, as text. */
  readonly value: string
}

/**
 * A batch with every message in exactly one of readings, marks, decisions, pushed, pushed marks, amendments, passed and
 * rejects.
 */
export interface AcceptedBatch {
  readonly partition: number
  readonly first: bigint
  readonly last: bigint
  readonly messages: number
  readonly readings: number
  /** The readings as rows of `events`. */
  readonly rows: EventRows
  /** What the reading in the message of this offset says, as text: it is read again, as `rows` are not to be read. */
  readonly said: (offset: bigint) => string
  /** By source, scope, window start and readat as one text: `read` of the mark that will come. */
  readonly reads: ReadonlyMap<string, ReadPart>
  readonly marks: readonly AcceptedMark[]
  readonly decisions: readonly AcceptedDecision[]
  readonly pushed: readonly AcceptedPushed[]
  readonly pushedMarks: readonly AcceptedPushedMark[]
  readonly amendments: readonly AcceptedAmendment[]
  /** Those of all these that are replays. */
  readonly replays: readonly ReplayedMessage[]
  /** Known from within the batch: what the ledger has already is found when it is put. */
  readonly passed: readonly PassedMessage[]
  readonly rejects: readonly RejectedMessage[]
}

export const messageBytesMax = 1024 * 1024

/** Said of a reading that comes behind the mark of its read: the batch ends before it. */
const behindItsMark = Symbol('behind its mark')

/** What decides of messages beyond what they say themselves. */
export interface AcceptRules {
  /** By offset: messages that the ledger could not take, and why. */
  readonly refused?: ReadonlyMap<bigint, Fault>
  /** Holds what is pushed, and what it is amended to, against the meters that are known. */
  readonly checkValues?: ValueCheck | undefined
}

const isReading = validator(ReadingEvent)
const isMark = validator(MarkEvent)
const isDecision = validator(DecisionEvent)

/**
 * Takes a batch of the log `log` apart, in which no reading is behind the mark of its read. Never throws for a bad message:
 * it becomes a reject and the rest goes on.
 */
export function accept(batch: LogBatch, log: string, rules?: AcceptRules): AcceptedBatch {
  const accepting = new Accepting(batch, log, rules)
  while (accepting.take(batch.messages.length));
  assert(accepting.rest() === undefined, 'no reading is behind the mark of its read')
  return accepting.accepted()
}

/** May they go in at once, the second behind the first? Not where it has readings of a read that the first has the mark of. */
export function fitTogether(first: AcceptedBatch, second: AcceptedBatch): boolean {
  return second.reads.size === 0 || !first.marks.some(({ read }) => second.reads.has(read))
}

/**
 * A batch that is taken apart bit by bit, so that whoever does it can let others in between. A mark is held against all the
 * readings that go in with it. So that these are the ones before it in the log, however its messages came in batches, a
 * batch ends where a reading comes behind the mark of its read.
 */
export class Accepting {
  readonly #batch: LogBatch
  readonly #rules: AcceptRules
  readonly #rows: EventRows
  readonly #reads = new Map<string, Part>()
  readonly #marks: AcceptedMark[] = []
  readonly #decisions: AcceptedDecision[] = []
  readonly #pushed: AcceptedPushed[] = []
  readonly #pushedMarks: AcceptedPushedMark[] = []
  readonly #amendments: AcceptedAmendment[] = []
  readonly #replays: ReplayedMessage[] = []
  readonly #passed: PassedMessage[] = []
  readonly #rejects: RejectedMessage[] = []
  /** Which row a reading is, or which mark or decision it was: to tell the same from something else. */
  readonly #seenRows = new Map<string, number>()
  readonly #seenOthers = new Map<string, bigint>()
  readonly #same = new SameRead()
  /** Of which reads there was a mark. */
  readonly #marked = new Set<string>()
  #next = 0
  #end: number

  constructor(batch: LogBatch, log: string, rules: AcceptRules = {}) {
    assert(batch.messages.length > 0, 'a batch is never empty')
    this.#batch = batch
    this.#end = batch.messages.length
    this.#rules = rules
    this.#rows = new EventRows(log, batch.partition, batch.messages.length)
  }

  /** Takes the next messages, and says whether there are more. */
  take(count: number): boolean {
    const { messages } = this.#batch
    const end = Math.min(this.#next + count, messages.length)
    for (; this.#next < end; this.#next += 1) {
      const message = messages[this.#next]!
      try {
        const fault = this.#rules.refused?.get(message.offset)
        if (fault) throw fault
        this.#takeOne(message)
      } catch (error) {
        if (error === behindItsMark) {
          this.#end = this.#next
          return false
        }
        this.#rejects.push(rejected(this.#batch.partition, message, asFault(error, 'EVENT_INVALID')))
      }
    }
    return end < messages.length
  }

  /** @param receivedMs when a message that comes again came first */
  #takeOne(message: LogMessage, receivedMs?: number): void {
    const event = eventOf(message)
    if (event.type === decisionType) {
      this.#takeDecision(event as DecisionEvent, message.offset)
      return
    }
    if (!isOwnSource(event.source)) {
      this.#takePushed(event, message, receivedMs)
      return
    }
    if (isAboutPushed(event.type)) {
      this.#takeAbout(checkAboutPushed(event), message, receivedMs !== undefined)
      return
    }
    const same = this.#same.of(event as ReadingEvent | MarkEvent)
    if (event.type === markType) this.#takeMark(event as MarkEvent, same, message)
    else this.#takeReading(event as ReadingEvent, same, message.offset)
  }

  #takePushed(event: CloudEvent, message: LogMessage, receivedMs: number | undefined): void {
    const { partition } = this.#batch
    const { offset, appendedMs } = message
    if (event.type === pushedMarkType)
      this.#pushedMarks.push({ partition, offset, message, ...checkPushedMark(event, appendedMs) })
    else {
      const pushed = checkPushed(event, appendedMs, receivedMs)
      const { type, source, subject } = pushed
      this.#rules.checkValues?.({ type, source, subject, data: event.data })
      this.#pushed.push({ partition, offset, ...pushed })
    }
  }

  #takeAbout(
    event: AmendmentEvent | RefusalEvent | ReplayEvent,
    message: LogMessage,
    isReplayed: boolean,
  ): void {
    const { partition } = this.#batch
    const { offset, appendedMs } = message
    if ('action' in event.data) {
      const amendment = event as AmendmentEvent
      const amended = amendedContent(amendment, appendedMs)
      if (amended) {
        const { type, subject } = amended
        const { source, event: said } = amendment.data
        this.#rules.checkValues?.({ type, source, subject, data: said?.data })
      }
      const content = textHash(JSON.stringify(event.data))
      this.#amendments.push({ partition, offset, event: amendment, amended, content })
      return
    }
    if (isReplayed) throw new Fault('EVENT_INVALID', `type ${event.type} is not replayed`)
    const { value, headers } = event.data
    const bytes = Buffer.from(value, 'base64')
    if (!('log' in event.data)) {
      const { code, reason, bytes: length, sha256 } = event.data
      this.#rejects.push({
        partition,
        offset,
        code,
        reason,
        headers,
        origin: 'http',
        value: bytes,
        bytes: length,
        sha256,
      })
      return
    }
    const { log, partition: fromPartition, offset: fromOffset, part, received } = event.data
    const from = { log, partition: fromPartition, offset: BigInt(fromOffset) }
    this.#replays.push({ offset, from, part })
    const inner = { ...message, value: bytes, headers }
    try {
      this.#takeOne(inner, instantMs(received) ?? appendedMs)
    } catch (error) {
      if (error === behindItsMark) {
        this.#replays.pop()
        throw error
      }
      this.#rejects.push(rejected(partition, inner, asFault(error, 'EVENT_INVALID')))
    }
  }

  #takeMark(event: MarkEvent, { window, read, readatMs }: Same, message: LogMessage): void {
    const { offset } = message
    const value = JSON.stringify(event.data)
    checkWhole(value, event.scope)
    const content = textHash(value)
    if (this.#wasSeen(event, content, value, offset)) return
    this.#marked.add(read)
    this.#marks.push({
      partition: this.#batch.partition,
      offset,
      message,
      event,
      window,
      readatMs,
      read,
      content,
    })
  }

  #takeDecision(event: DecisionEvent, offset: bigint): void {
    const value = JSON.stringify(event.data)
    checkWhole(value, event.scope)
    const { action, readat, window } = event.data
    const startMs = instantMs(window.start)
    const endMs = instantMs(window.end)
    if (startMs === undefined || endMs === undefined || startMs > endMs)
      throw new Fault('EVENT_DATA_INVALID', `/data/window: ${window.start}/${window.end} is no span`)
    if (event.partitionkey !== partitionKey(event.source, event.scope))
      throw new Fault('EVENT_DATA_INVALID', '/partitionkey is not the source and the scope')
    if ((action === 'confirm') !== (readat !== undefined))
      throw new Fault('EVENT_DATA_INVALID', '/data/readat names the read that is confirmed, and only that')
    if (this.#wasSeen(event, textHash(value), value, offset)) return
    this.#decisions.push({ partition: this.#batch.partition, offset, event, window: { startMs, endMs } })
  }

  #wasSeen(event: MarkEvent | DecisionEvent, content: bigint, value: string, offset: bigint): boolean {
    const before = this.#seenOthers.get(`${event.source} ${event.id}`)
    if (before === undefined) this.#seenOthers.set(`${event.source} ${event.id}`, content)
    else this.#pass(event, before === content ? 'duplicate' : 'conflict', value, offset)
    return before !== undefined
  }

  /** Nothing of a reading is kept but its row and its share in its read. */
  #takeReading(event: ReadingEvent, same: Same, offset: bigint): void {
    const { window, read, readatMs } = same
    checkBounds(event, (window.endMs - window.startMs) / secondMs)
    const used = checkInterval(event, window)
    const content = contentOf(event)
    const text = JSON.stringify(content)
    checkWhole(text, event.scope)
    const hash = contentHash(event, text)
    const before = this.#seenRows.get(event.id)
    if (before !== undefined) {
      const isSame = this.#rows.contentAt(before) === hash
      this.#pass(event, isSame ? 'duplicate' : 'conflict', text, offset)
      return
    }
    if (this.#marked.has(read)) throw behindItsMark
    const row = this.#rows.add(event, content, { readatMs, window, used, hash, offset })
    let part = this.#reads.get(read)
    if (!part) {
      part = new Part(event, same)
      this.#reads.set(read, part)
    }
    part.take(event, hash, row)
    this.#seenRows.set(event.id, row)
  }

  #pass(
    { source, id }: { readonly source: string; readonly id: string },
    fate: PassedMessage['fate'],
    value: string,
    offset: bigint,
  ): void {
    const { partition } = this.#batch
    this.#passed.push({ partition, offset, fate, source, id, value: fate === 'conflict' ? value : '' })
  }

  /** What is left from a reading on that comes behind the mark of its read; undefined where all was taken. */
  rest(): LogBatch | undefined {
    const { partition, messages } = this.#batch
    return this.#end < messages.length ? { partition, messages: messages.slice(this.#end) } : undefined
  }

  accepted(): AcceptedBatch {
    const { partition, messages } = this.#batch
    assert(this.#next === this.#end, 'every message was taken')
    return {
      partition,
      first: messages[0]!.offset,
      last: messages[this.#end - 1]!.offset,
      messages: this.#end,
      readings: this.#rows.count,
      rows: this.#rows,
      said: offset => readingSaid(messages, offset),
      reads: this.#reads,
      marks: this.#marks,
      decisions: this.#decisions,
      pushed: this.#pushed,
      pushedMarks: this.#pushedMarks,
      amendments: this.#amendments,
      replays: this.#replays,
      passed: this.#passed,
      rejects: this.#rejects,
    }
  }
}

/**
 * The event of a message. Nearly all are readings as our relay sends them: one that is JSON in UTF-8 and fits the
 * schema of readings, which knows every attribute, fits the rules of CloudEvents as well. What does not is decoded
 * by those rules, for its mode, or for the reason why it is none.
 */
function eventOf(message: LogMessage): ReadingEvent | MarkEvent | DecisionEvent | CloudEvent {
  const { value, headers } = message
  if (value && value.length > messageBytesMax)
    throw new Fault('EVENT_TOO_LARGE', `${value.length} bytes are more than ${messageBytesMax}`)
  if (value && headers['content-type'] === structuredType) {
    const reading = readingIn(value)
    if (reading) return reading
  }
  const event = decodeKafka({ headers, value })
  const { type, source } = event
  if (type !== decisionType && (!isOwnSource(source) || isAboutPushed(type))) return event
  const validate = type === markType ? isMark : type === decisionType ? isDecision : isReading
  if (!validate(event)) throw misfit(validate.errors)
  return event
}

/** The content of the reading in the message of this offset, which may be one that came again from the rejects. */
function readingSaid(messages: readonly LogMessage[], offset: bigint): string {
  const message = messages.find(one => one.offset === offset)
  assert(message, 'the batch has the message')
  const event = eventOf(message)
  if (!isAboutPushed(event.type)) return contentText(event as ReadingEvent)
  const { value, headers } = (event as ReplayEvent).data
  return contentText(eventOf({ ...message, value: Buffer.from(value, 'base64'), headers }) as ReadingEvent)
}

function readingIn(value: Buffer): ReadingEvent | undefined {
  if (!isUtf8(value)) return undefined
  let event: unknown
  try {
    event = JSON.parse(value.toString())
  } catch {
    return undefined
  }
  // What others push is none, and would be told at length why.
  const source = (event as { readonly source?: unknown } | null)?.source
  if (typeof source !== 'string' || !isOwnSource(source)) return undefined
  return isReading(event) ? (event as ReadingEvent) : undefined
}

function textHash(text: string): bigint {
  return BigInt(`0x${hash('sha256', text, 'hex').slice(0, 16)}`)
}

class Part implements ReadPart {
  readonly source: string
  readonly scope: string
  readonly window: Window
  readonly readatMs: number
  readonly subjects = new Set<string>()
  readonly rows: number[] = []
  digest = 0n
  readonly #sums = new TotalsSum()

  constructor(event: ReadingEvent, { window, readatMs }: Same) {
    this.source = event.source
    this.scope = event.scope
    this.window = window
    this.readatMs = readatMs
  }

  take(event: ReadingEvent, content: bigint, row: number): void {
    this.subjects.add(event.subject)
    this.rows.push(row)
    this.digest = BigInt.asUintN(64, this.digest + content)
    this.#sums.add(event.data.measures)
  }

  get readings(): number {
    return this.rows.length
  }

  get totals(): Totals {
    return this.#sums.totals()
  }
}

interface Same {
  readonly window: Window
  readonly readatMs: number
  readonly read: string
}

/** What all events of a read share is checked for the first of them: they stand one behind the other. */
class SameRead {
  #event: ReadingEvent | MarkEvent | undefined
  #shared: Same | undefined

  of(event: ReadingEvent | MarkEvent): Same {
    const before = this.#event
    const again =
      this.#shared !== undefined &&
      before?.source === event.source &&
      before.scope === event.scope &&
      before.partitionkey === event.partitionkey &&
      before.readat === event.readat &&
      before.time === event.time &&
      before.data.window.start === event.data.window.start &&
      before.data.window.end === event.data.window.end
    if (!again || this.#shared === undefined) {
      this.#shared = {
        window: checkShared(event),
        readatMs: Date.parse(event.readat),
        read: `${event.partitionkey} ${event.time} ${event.readat}`,
      }
      this.#event = event
    }
    // An id is the identity's 32 digits, an @ and the readat: the schema knows the form, this the time.
    if (event.id.slice(33) !== event.readat)
      throw new Fault('EVENT_DATA_INVALID', `/id "${event.id}" does not end in @readat`)
    const type = `io.meterline.${event.source.slice(10, event.source.indexOf('/', 10))}.`
    if (event.type !== markType && !event.type.startsWith(type))
      throw new Fault(
        'EVENT_DATA_INVALID',
        `/type ${event.type} is not of the kind that ${event.source} names`,
      )
    return this.#shared
  }
}

/** What a schema cannot say of an event of ours: that its attributes agree with each other. */
function checkShared(event: ReadingEvent | MarkEvent): Window {
  const span = event.data.window
  const startMs = instantMs(span.start)
  const endMs = instantMs(span.end)
  if (startMs === undefined || endMs === undefined || !isOnGrid({ startMs, endMs }))
    throw new Fault('EVENT_DATA_INVALID', `/data/window: ${span.start}/${span.end} is no window of a grid`)
  if (event.time !== span.start)
    throw new Fault('EVENT_DATA_INVALID', `/time ${event.time} is not the window's start ${span.start}`)
  const readatMs = instantMs(event.readat)
  if (readatMs === undefined) throw new Fault('EVENT_DATA_INVALID', `/readat ${event.readat} is no time`)
  if (startMs < earliestMs || endMs > latestMs || readatMs > latestMs)
    throw new Fault(
      'TIME_OUT_OF_BOUNDS',
      `${span.start}/${span.end} read at ${event.readat} is not of this century`,
    )
  if (event.partitionkey !== partitionKey(event.source, event.scope))
    throw new Fault('EVENT_DATA_INVALID', '/partitionkey is not the source and the scope')
  return { startMs, endMs }
}

/** JSON writes half a character (a lone surrogate) as an escape, and only that; ClickHouse takes none. */
const halfCharacter = /(?:^|[^\\])(?:\\\\)*\\ud/

function checkWhole(json: string, scope: string): void {
  if ((json.includes('\\ud') && halfCharacter.test(json)) || !scope.isWellFormed())
    throw new Fault('EVENT_DATA_INVALID', '/data holds half a character: a lone surrogate')
}

/** When it was used inside the window. */
function checkInterval(event: ReadingEvent, window: Window): Window {
  const { interval } = event.data
  if (!interval) return window
  const startMs = instantMs(interval.start)
  const endMs = instantMs(interval.end)
  if (
    startMs === undefined ||
    endMs === undefined ||
    startMs >= endMs ||
    startMs < window.startMs ||
    endMs > window.endMs
  )
    throw new Fault(
      'EVENT_DATA_INVALID',
      `/data/interval: ${interval.start}/${interval.end} is not inside the window`,
    )
  return { startMs, endMs }
}

function misfit(errors: typeof isReading.errors): Fault {
  const [first] = errors ?? []
  const { path, message } = first ? misfitOf(first) : { path: '', message: 'does not fit' }
  const code: FaultCode = path.startsWith('/data') ? 'EVENT_DATA_INVALID' : 'EVENT_INVALID'
  return new Fault(code, `${path} ${message}`.slice(0, 500))
}

/** A message with the reason why it was not taken: the first 64 KiB of it, and the length and sha256 of the whole. */
export function rejected(partition: number, message: LogMessage, fault: Fault): RejectedMessage {
  const value = message.value ?? Buffer.alloc(0)
  return {
    partition,
    offset: message.offset,
    code: fault.code,
    // A text cut in the middle of a pair would be refused by ClickHouse.
    reason: fault.message.toWellFormed(),
    // Those that say what the bytes are; others may carry what is nobody's business.
    headers: Object.fromEntries(
      Object.entries(message.headers).filter(([name]) => name === 'content-type' || /^ce[_-]/.test(name)),
    ),
    value: value.subarray(0, keptBytesMax),
    bytes: value.length,
    sha256: hash('sha256', value, 'hex'),
  }
}
