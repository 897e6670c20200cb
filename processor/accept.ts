/** Decides what becomes of each message of a batch: a reading, a mark, or a reject with its reason. Pure. */
import assert from 'node:assert'
import { isUtf8 } from 'node:buffer'
import { hash } from 'node:crypto'
import type { LogBatch, LogMessage, RejectedMessage } from '../runtime/log/log.ts'
import { misfitOf, validator } from '../schemas/check.ts'
import { decodeKafka, structuredType } from '../schemas/cloudevents.ts'
import {
  checkBounds,
  contentHash,
  contentText,
  MarkEvent,
  markType,
  partitionKey,
  ReadingEvent,
} from '../schemas/event.ts'
import { asFault, Fault, type FaultCode } from '../schemas/fault.ts'
import { instantMs, isOnGrid, secondMs, type Window } from '../schemas/window.ts'

/** What a batch has of one read's readings, as far as the mark will ask for it. */
export interface ReadPart {
  readonly subjects: ReadonlySet<string>
  readonly readings: number
  /** The sum of their content hashes mod 2^64. */
  readonly digest: bigint
}

export interface AcceptedMark {
  readonly partition: number
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
  readonly readings: number
  /** The readings as rows of `events`: lines of JSONCompactEachRow in the order of `eventColumns`, each with its end. */
  readonly rows: Buffer
  /** By source, scope, window start and readat as one text: `read` of the mark that will come. */
  readonly reads: ReadonlyMap<string, ReadPart>
  readonly marks: readonly AcceptedMark[]
  readonly duplicates: number
  readonly rejects: readonly RejectedMessage[]
}

/** How much of a rejected message is kept: enough to replay nearly all, bounded for hostile ones. */
const keptBytesMax = 64 * 1024
export const messageBytesMax = 1024 * 1024

const isReading = validator(ReadingEvent)
const isMark = validator(MarkEvent)

/** Takes a batch of the log `log` apart. Never throws for a bad message: it becomes a reject and the rest goes on. */
export function accept(batch: LogBatch, log: string): AcceptedBatch {
  const accepting = new Accepting(batch, log)
  while (accepting.take(batch.messages.length));
  return accepting.accepted()
}

/** A batch that is taken apart bit by bit, so that whoever does it can let others in between. */
export class Accepting {
  readonly #batch: LogBatch
  readonly #place: string
  readonly #rows: Rows
  readonly #reads = new Map<string, OpenPart>()
  readonly #marks: AcceptedMark[] = []
  readonly #rejects: RejectedMessage[] = []
  readonly #seen = new Set<string>()
  readonly #same = new SameRead()
  #readings = 0
  #duplicates = 0
  #next = 0

  constructor(batch: LogBatch, log: string) {
    assert(batch.messages.length > 0, 'a batch is never empty')
    this.#batch = batch
    this.#place = `${JSON.stringify(log)},${batch.partition}`
    this.#rows = new Rows(batch.messages.reduce((sum, { value }) => sum + (value?.length ?? 0), 0))
  }

  /** Takes the next messages, and says whether there are more. */
  take(count: number): boolean {
    const { messages } = this.#batch
    const end = Math.min(this.#next + count, messages.length)
    for (; this.#next < end; this.#next += 1) {
      const message = messages[this.#next]!
      try {
        this.#takeOne(message)
      } catch (error) {
        this.#rejects.push(rejected(this.#batch.partition, message, asFault(error, 'EVENT_INVALID')))
      }
    }
    return end < messages.length
  }

  #takeOne(message: LogMessage): void {
    const event = eventOf(message)
    const same = this.#same.of(event)
    if (this.#seen.has(event.id)) {
      this.#duplicates += 1
      return
    }
    if (event.type === markType)
      this.#marks.push({
        partition: this.#batch.partition,
        offset: message.offset,
        event: event as MarkEvent,
        window: same.window,
        read: same.read,
      })
    else this.#takeReading(event as ReadingEvent, same, message.offset)
    this.#seen.add(event.id)
  }

  /** Nothing of a reading is kept but its row and its share in its read: whole ones would be a heap of small objects. */
  #takeReading(event: ReadingEvent, { window, read, sender }: Same, offset: bigint): void {
    checkBounds(event, (window.endMs - window.startMs) / secondMs)
    checkInterval(event, window)
    const text = contentText(event)
    const content = contentHash(event, text)
    const identity = BigInt(`0x${event.id.slice(0, 32)}`)
    this.#rows.add(`${text.slice(0, -1)},${sender},"${identity}","${content}",${this.#place},"${offset}"]\n`)
    let part = this.#reads.get(read)
    if (!part) {
      part = { subjects: new Set(), readings: 0, digest: 0n }
      this.#reads.set(read, part)
    }
    part.subjects.add(event.subject)
    part.readings += 1
    part.digest = BigInt.asUintN(64, part.digest + content)
    this.#readings += 1
  }

  accepted(): AcceptedBatch {
    const { partition, messages } = this.#batch
    assert(this.#next === messages.length, 'every message was taken')
    return {
      partition,
      first: messages[0]!.offset,
      last: messages[messages.length - 1]!.offset,
      messages: messages.length,
      readings: this.#readings,
      rows: this.#rows.bytes(),
      reads: this.#reads,
      marks: this.#marks,
      duplicates: this.#duplicates,
      rejects: this.#rejects,
    }
  }
}

/**
 * The event of a message. Nearly all are readings as our relay sends them: one that is JSON in UTF-8 and fits the
 * schema of readings, which knows every attribute, fits the rules of CloudEvents as well. What does not is decoded
 * by those rules, for its mode, or for the reason why it is none.
 */
function eventOf(message: LogMessage): ReadingEvent | MarkEvent {
  const { value, headers } = message
  if (value && value.length > messageBytesMax)
    throw new Fault('EVENT_TOO_LARGE', `${value.length} bytes are more than ${messageBytesMax}`)
  if (value && headers['content-type'] === structuredType) {
    const reading = readingIn(value)
    if (reading) return reading
  }
  const event: unknown = decodeKafka({ headers, value })
  const { type, source } = event as { type: string; source: string }
  if (!source.startsWith('meterline/'))
    throw new Fault('EVENT_INVALID', `source "${source.slice(0, 100)}": only meterline/… sources are taken`)
  const validate = type === markType ? isMark : isReading
  if (!validate(event)) throw misfit(validate.errors)
  return event as ReadingEvent | MarkEvent
}

function readingIn(value: Buffer): ReadingEvent | undefined {
  if (!isUtf8(value)) return undefined
  let event: unknown
  try {
    event = JSON.parse(value.toString())
  } catch {
    return undefined
  }
  return isReading(event) ? (event as ReadingEvent) : undefined
}

/** Columns of `events`, in the order in which a line has them: what `contentText` writes, then who said it, and where. */
export const eventColumns = [
  'type',
  'subject',
  'start',
  'end',
  'used_start',
  'used_end',
  'resource_kind',
  'resource_id',
  'resource_name',
  'measures',
  'labels',
  'parts',
  'estimated',
  'source',
  'scope',
  'readat',
  'identity',
  'content',
  'log',
  'partition',
  'offset',
] as const

interface OpenPart extends ReadPart {
  readonly subjects: Set<string>
  readings: number
  digest: bigint
}

/** Lines behind each other in one buffer, which grows where they are longer than was thought. */
class Rows {
  #bytes: Buffer
  #end = 0

  constructor(size: number) {
    this.#bytes = Buffer.allocUnsafe(size)
  }

  add(line: string): void {
    // No unit of UTF-16 takes more than three bytes of UTF-8.
    if (this.#bytes.length - this.#end < line.length * 3) {
      const grown = Buffer.allocUnsafe(2 * this.#bytes.length + line.length * 3)
      this.#bytes.copy(grown, 0, 0, this.#end)
      this.#bytes = grown
    }
    this.#end += this.#bytes.write(line, this.#end)
  }

  bytes(): Buffer {
    return this.#bytes.subarray(0, this.#end)
  }
}

interface Same {
  readonly window: Window
  readonly read: string
  /** Source, scope and readat, as they stand in a line. */
  readonly sender: string
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
        read: `${event.partitionkey} ${event.time} ${event.readat}`,
        sender: `${JSON.stringify(event.source)},${JSON.stringify(event.scope)},"${event.readat}"`,
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
