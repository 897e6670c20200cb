/** Decides what becomes of each message of a batch: a reading, a mark, or a reject with its reason. Pure. */
import { hash } from 'node:crypto'
import type { LogBatch, LogMessage, RejectedMessage } from '../runtime/log/log.ts'
import { misfitOf, validator } from '../schemas/check.ts'
import { decodeKafka, decodeStructured, structuredType } from '../schemas/cloudevents.ts'
import {
  checkBounds,
  contentHash,
  MarkEvent,
  markType,
  partitionKey,
  ReadingEvent,
} from '../schemas/event.ts'
import { asFault, Fault, type FaultCode } from '../schemas/fault.ts'
import { instantMs, isOnGrid, secondMs, type Window } from '../schemas/window.ts'

export interface AcceptedReading {
  readonly offset: bigint
  readonly event: ReadingEvent
  readonly window: Window
  /** 128 bits: who the reading is of, whatever the read. */
  readonly identity: bigint
  readonly content: bigint
  /** Source, scope, window start and readat as one text: the read it belongs to. */
  readonly read: string
}

export interface AcceptedMark {
  readonly offset: bigint
  readonly event: MarkEvent
  readonly window: Window
  readonly read: string
}

/** A batch with every message in exactly one of readings, marks, duplicates and rejects. */
export interface AcceptedBatch {
  readonly partition: number
  readonly first: bigint
  readonly last: bigint
  readonly messages: number
  readonly readings: readonly AcceptedReading[]
  readonly marks: readonly AcceptedMark[]
  readonly duplicates: number
  readonly rejects: readonly RejectedMessage[]
}

/** How much of a rejected message is kept: enough to replay nearly all, bounded for hostile ones. */
const keptBytesMax = 64 * 1024
export const messageBytesMax = 1024 * 1024

const isReading = validator(ReadingEvent)
const isMark = validator(MarkEvent)

/** Takes a batch apart. Never throws for a bad message: it becomes a reject and the rest goes on. */
export function accept(batch: LogBatch): AcceptedBatch {
  const readings: AcceptedReading[] = []
  const marks: AcceptedMark[] = []
  const rejects: RejectedMessage[] = []
  const seen = new Set<string>()
  const same = new SameRead()
  let duplicates = 0
  for (const message of batch.messages) {
    try {
      const accepted = acceptMessage(message, same)
      if (seen.has(accepted.event.id)) {
        duplicates += 1
        continue
      }
      seen.add(accepted.event.id)
      if ('identity' in accepted) readings.push(accepted)
      else marks.push(accepted)
    } catch (error) {
      rejects.push(rejected(batch.partition, message, asFault(error, 'EVENT_INVALID')))
    }
  }
  const first = batch.messages[0]
  const last = batch.messages.at(-1)
  if (!first || !last) throw new Error('a batch is never empty')
  return {
    partition: batch.partition,
    first: first.offset,
    last: last.offset,
    messages: batch.messages.length,
    readings,
    marks,
    duplicates,
    rejects,
  }
}

function acceptMessage(message: LogMessage, same: SameRead): AcceptedReading | AcceptedMark {
  if (message.value && message.value.length > messageBytesMax)
    throw new Fault('EVENT_TOO_LARGE', `${message.value.length} bytes are more than ${messageBytesMax}`)
  const event: unknown = decode(message)
  const { type, source } = event as { type: string; source: string }
  if (!source.startsWith('meterline/'))
    throw new Fault('EVENT_INVALID', `source "${source.slice(0, 100)}": only meterline/… sources are taken`)
  if (type === markType) {
    if (!isMark(event)) throw misfit(isMark.errors)
    const mark = event as MarkEvent
    return { offset: message.offset, event: mark, ...same.of(mark) }
  }
  if (!isReading(event)) throw misfit(isReading.errors)
  const reading = event as ReadingEvent
  const { window, read } = same.of(reading)
  checkBounds(reading, (window.endMs - window.startMs) / secondMs)
  checkInterval(reading, window)
  return {
    offset: message.offset,
    event: reading,
    window,
    identity: BigInt(`0x${reading.id.slice(0, 32)}`),
    content: contentHash(reading),
    read,
  }
}

/** Nearly every message is as our relay sends it: the headers of those need no taking apart. */
function decode(message: LogMessage): unknown {
  const plain = message.value !== null && message.headers['content-type'] === structuredType
  return plain
    ? decodeStructured(message.value)
    : decodeKafka({ headers: message.headers, value: message.value })
}

/** What all events of a read share is checked for the first of them: they stand one behind the other. */
class SameRead {
  #event: ReadingEvent | MarkEvent | undefined
  #shared: { readonly window: Window; readonly read: string } | undefined

  of(event: ReadingEvent | MarkEvent): { readonly window: Window; readonly read: string } {
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
  if (instantMs(event.readat) === undefined)
    throw new Fault('EVENT_DATA_INVALID', `/readat ${event.readat} is no time`)
  if (event.partitionkey !== partitionKey(event.source, event.scope))
    throw new Fault('EVENT_DATA_INVALID', '/partitionkey is not the source and the scope')
  return { startMs, endMs }
}

function checkInterval(event: ReadingEvent, window: Window): void {
  const { interval } = event.data
  if (!interval) return
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
}

function misfit(errors: typeof isReading.errors): Fault {
  const [first] = errors ?? []
  const { path, message } = first ? misfitOf(first) : { path: '', message: 'does not fit' }
  const code: FaultCode = path.startsWith('/data') ? 'EVENT_DATA_INVALID' : 'EVENT_INVALID'
  return new Fault(code, `${path} ${message}`.slice(0, 500))
}

function rejected(partition: number, message: LogMessage, fault: Fault): RejectedMessage {
  const value = message.value ?? Buffer.alloc(0)
  return {
    partition,
    offset: message.offset,
    code: fault.code,
    reason: fault.message,
    value: value.subarray(0, keptBytesMax),
    bytes: value.length,
    sha256: hash('sha256', value, 'hex'),
  }
}
