/** The readings of a batch as rows of `events`: columns as ClickHouse reads them, and what a row says that is held already. Pure. */
import type { ReadingContent, ReadingEvent } from '../schemas/event.ts'
import type { LogPlace } from '../schemas/pushed.ts'
import type { Window } from '../schemas/window.ts'
import {
  bools,
  decimals,
  Maps,
  Names,
  nativeBlock,
  Texts,
  times,
  timesMs,
  uint32s,
  uint64s,
  uint128s,
} from './native.ts'

/** Which reading a row is, what it says as a hash, and which message it came in. */
export interface RowIdentity extends LogPlace {
  /** 32 hex digits, as in the event's id. */
  readonly identity: string
  readonly content: bigint
}

/** What a row has that its reading's content does not say. */
export interface RowPlace {
  readonly readatMs: number
  readonly window: Window
  /** When it was used inside the window. */
  readonly used: Window
  /** 64 bits of the content. */
  readonly hash: bigint
  readonly offset: bigint
}

/** Nothing of a reading is kept but its bytes in each column: whole ones would be a heap of small objects. */
export class EventRows {
  readonly #log: string
  readonly #partition: number
  readonly #columns
  #count = 0

  /** @param rows about so many will come, of one partition of the log */
  constructor(log: string, partition: number, rows: number) {
    this.#log = log
    this.#partition = partition
    this.#columns = {
      type: new Names(rows),
      subject: new Texts(rows),
      start: times(rows),
      end: times(rows),
      used_start: timesMs(rows),
      used_end: timesMs(rows),
      resource_kind: new Names(rows),
      resource_id: new Texts(rows),
      resource_name: new Texts(rows),
      measures: new Maps(rows, 2, decimals),
      labels: new Maps(rows, 8, entries => new Texts(entries)),
      parts: uint32s(rows),
      estimated: bools(rows),
      source: new Names(rows),
      scope: new Texts(rows),
      readat: timesMs(rows),
      identity: uint128s(rows),
      content: uint64s(rows),
      log: new Names(rows),
      partition: uint32s(rows),
      offset: uint64s(rows),
    }
  }

  get count(): number {
    return this.#count
  }

  /**
   * Appends a row, and says which it is.
   * @param content as `contentOf` gives it of the event
   */
  add({ source, scope, id }: ReadingEvent, content: ReadingContent, place: RowPlace): number {
    const [type, subject, , , , , kind, resource, name, measures, labels, parts, estimated] = content
    const { window, used } = place
    const to = this.#columns
    to.type.add(type)
    to.subject.add(subject)
    to.start.add(window.startMs)
    to.end.add(window.endMs)
    to.used_start.add(used.startMs)
    to.used_end.add(used.endMs)
    to.resource_kind.add(kind)
    to.resource_id.add(resource)
    to.resource_name.add(name)
    to.measures.add(measures)
    to.labels.add(labels)
    to.parts.add(parts)
    to.estimated.add(estimated)
    to.source.add(source)
    to.scope.add(scope)
    to.readat.add(place.readatMs)
    to.identity.add(id.slice(0, 32))
    to.content.add(place.hash)
    to.log.add(this.#log)
    to.partition.add(this.#partition)
    to.offset.add(place.offset)
    return this.#count++
  }

  contentAt(row: number): bigint {
    return this.#columns.content.at(row).readBigUInt64LE()
  }

  identityAt(row: number): RowIdentity {
    return {
      identity: Buffer.from(this.#columns.identity.at(row)).reverse().toString('hex'),
      content: this.contentAt(row),
      log: this.#log,
      partition: this.#partition,
      offset: this.#columns.offset.at(row).readBigUInt64LE(),
    }
  }

  /** The rows without these, as a block of the Native format; undefined where none is left. */
  block(without: ReadonlySet<number> = new Set()): Buffer | undefined {
    const spans: [from: number, to: number][] = []
    let from = 0
    for (const row of [...[...without].sort((a, b) => a - b), this.#count]) {
      if (row > from) spans.push([from, row])
      from = row + 1
    }
    return spans.length === 0 ? undefined : nativeBlock(this.#columns, spans)
  }
}
