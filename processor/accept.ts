/** Decides what becomes of each message of a batch: a reading, a mark, or a reject with its reason. Pure. */
import { hash } from 'node:crypto'
import type { LogBatch, LogMessage, RejectedMessage } from '../runtime/log/log.ts'
import { misfitOf, validator } from '../schemas/check.ts'
import { decodeKafka } from '../schemas/cloudevents.ts'
import {
  checkBounds,
  contentHash,
  MarkEvent,
  markType,
  partitionKey,
  type ReadIdentity,
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
  let duplicates = 0
  for (const message of batch.messages) {
    try {
      const accepted = acceptMessage(message)
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

function acceptMessage(message: LogMessage): AcceptedReading | AcceptedMark {
  if (message.value && message.value.length > messageBytesMax)
    throw new Fault('EVENT_TOO_LARGE', `${message.value.length} bytes are more than ${messageBytesMax}`)
  const event: unknown = decodeKafka({ headers: message.headers, value: message.value })
  const { type, source } = event as { type: string; source: string }
  if (!source.startsWith('meterline/'))
    throw new Fault('EVENT_INVALID', `source "${source.slice(0, 100)}": only meterline/… sources are taken`)
  if (type === markType) {
    if (!isMark(event)) throw misfit(isMark.errors)
    const mark = event as MarkEvent
    return {
      offset: message.offset,
      event: mark,
      window: checkOwn(mark, mark.data.window),
      read: readKey(mark),
    }
  }
  if (!isReading(event)) throw misfit(isReading.errors)
  const reading = event as ReadingEvent
  const window = checkOwn(reading, reading.data.window)
  checkBounds(reading, (window.endMs - window.startMs) / secondMs)
  checkInterval(reading, window)
  return {
    offset: message.offset,
    event: reading,
    window,
    identity: BigInt(`0x${reading.id.slice(0, 32)}`),
    content: contentHash(reading),
    read: readKey(reading),
  }
}

/** What a schema cannot say of an event of ours: that its attributes agree with each other. */
function checkOwn(
  event: ReadingEvent | MarkEvent,
  span: { readonly start: string; readonly end: string },
): Window {
  const startMs = instantMs(span.start)
  const endMs = instantMs(span.end)
  if (startMs === undefined || endMs === undefined || !isOnGrid({ startMs, endMs }))
    throw new Fault('EVENT_DATA_INVALID', `/data/window: ${span.start}/${span.end} is no window of a grid`)
  if (event.time !== span.start)
    throw new Fault('EVENT_DATA_INVALID', `/time ${event.time} is not the window's start ${span.start}`)
  if (!event.id.endsWith(`@${event.readat}`) || instantMs(event.readat) === undefined)
    throw new Fault('EVENT_DATA_INVALID', `/id "${event.id}" does not end in @readat`)
  if (event.partitionkey !== partitionKey(event.source, event.scope))
    throw new Fault('EVENT_DATA_INVALID', '/partitionkey is not the source and the scope')
  if (event.type !== markType && !event.type.startsWith(`io.meterline.${event.source.split('/')[1]}.`))
    throw new Fault('EVENT_DATA_INVALID', `/type ${event.type} is not of the kind that ${event.source} names`)
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

/** The text under which a read is known inside a batch. The parts cannot hold a line feed's worth of ambiguity: the key is source, space, scope, and times have a fixed form at the end. */
function readKey(event: ReadingEvent | MarkEvent): string {
  return `${event.partitionkey} ${event.time} ${event.readat}`
}

export function readIdentityOf(accepted: AcceptedReading | AcceptedMark): ReadIdentity {
  const { event, window } = accepted
  return { source: event.source, scope: event.scope, window, readatMs: instantMs(event.readat) ?? 0 }
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
