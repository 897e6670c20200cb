/**
 * The ledger's side of a batch: readings in, marks held against what is there, cells marked stale, positions written.
 * Every step may be repeated; the order of the steps is what makes a crash between any two of them harmless.
 */
import type { RejectedMessage } from '../runtime/log/log.ts'
import { showInstant } from '../schemas/window.ts'
import { type AcceptedBatch, type AcceptedMark, eventColumns, type ReadPart } from './accept.ts'
import { chunksOf, type ReadKey, readParams } from './reads.ts'
import { Cells, newToken, touchCells } from './rollups.ts'
import type { Store } from './store.ts'

const readColumns = [
  'source',
  'scope',
  'start',
  'end',
  'readat',
  'content_readat',
  'outcome',
  'held',
  'events',
  'digest',
  'subjects',
  'settled',
  'estimated',
  'bad',
  'listed',
  'fault_code',
  'fault_message',
  'log',
  'partition',
  'offset',
  'version',
] as const

const positionColumns = [
  'log',
  'partition',
  'first',
  'last',
  'messages',
  'events',
  'reads',
  'duplicates',
  'conflicts',
  'rejects',
] as const

const rejectColumns = [
  'log',
  'partition',
  'offset',
  'code',
  'reason',
  'value_base64',
  'bytes',
  'sha256',
] as const

/** Open reads that are remembered at most; one that was forgotten is only checked in the ledger instead. */
const openReadsMax = 10_000

/** The mark of a read as `reads` has it. */
interface StoredRead {
  readonly source: string
  readonly scope: string
  readonly start_s: number
  readonly readat_ms: string
  readonly content_ms: string
  readonly outcome: string
  readonly held: boolean
  readonly estimated: boolean
  readonly events: number
  readonly digest: string
  readonly subjects: readonly string[]
  readonly log: string
  readonly partition: number
  readonly offset: string
  readonly version: string
}

interface Verdict {
  readonly mark: AcceptedMark
  readonly contentMs: number
  readonly version: bigint
  /** Does another content count from now on? */
  readonly changes: boolean
  held: boolean
  /** Those of its readings. */
  subjects: Iterable<string>
}

/** A read that no longer counts, as far as its cells go. */
type Replaced = Pick<StoredRead, 'source' | 'start_s' | 'subjects'>

/** Writes accepted batches of one log. One `put` at a time. */
export class Ledger {
  readonly #store: Store
  readonly #log: string
  /**
   * Readings seen of reads whose mark has not come yet: one may begin in one batch and end in a later one. A reading
   * that came twice makes the count or the digest differ from the mark's, and then the ledger itself is asked.
   */
  readonly #open = new Map<string, ReadPart>()
  readonly #next = new Map<number, bigint>()

  constructor(store: Store, log: string) {
    this.#store = store
    this.#log = log
  }

  /**
   * The offset at which a partition goes on: the end of what is held from its first row on without a hole, or
   * undefined where nothing is. This, not what was committed to the log, is where reading starts: the cursor must not
   * outlive the ledger (a restored backup).
   */
  async resumeAt(partition: number): Promise<bigint | undefined> {
    const spans = await this.#store.rows<{ first: string; last: string }>(
      `select first, max(last) as last from positions
       where log = {log:String} and partition = {partition:UInt32} group by first order by first`,
      { log: this.#log, partition },
    )
    let next: bigint | undefined
    for (const span of spans) {
      if (next !== undefined && BigInt(span.first) > next) break
      const after = BigInt(span.last) + 1n
      if (next === undefined || after > next) next = after
    }
    if (next !== undefined) this.#next.set(partition, next)
    else this.#next.delete(partition)
    // After a rebalance another process may have gone on with them.
    this.#open.clear()
    return next
  }

  /**
   * Takes batches in, of one partition or of several. When it resolves every message of them is durable in one of
   * events, reads and rejected, is in every answer, and the positions say so: the log may be told.
   */
  async put(batches: readonly AcceptedBatch[]): Promise<void> {
    for (const batch of batches) for (const [read, part] of batch.reads) this.#remember(read, part)
    // Readings count for nothing before their mark, so they may go in while the marks are looked at.
    const [{ cells, known, unknown }] = await Promise.all([
      this.#announce(batches.flatMap(batch => batch.marks)),
      this.#store.insertBytes(
        'events',
        eventColumns,
        batches.map(batch => batch.rows),
      ),
    ])
    await this.#verify(unknown)
    const found = new Cells()
    addCells(found, unknown)
    await touchCells(this.#store, found, newToken())
    addCells(cells, unknown)
    await this.#store.insert(
      'reads',
      readColumns,
      [...known, ...unknown].map(verdict => this.#readLine(verdict)),
    )
    await Promise.all([
      touchCells(this.#store, cells, newToken()),
      this.#store.insert(
        'rejected',
        rejectColumns,
        batches.flatMap(batch => batch.rejects.map(reject => this.#rejectLine(reject))),
      ),
    ])
    await this.#store.insert(
      'positions',
      positionColumns,
      batches.map(batch => this.#positionLine(batch)),
    )
    for (const { marks, partition, last } of batches) {
      for (const mark of marks) this.#open.delete(mark.read)
      this.#next.set(partition, last + 1n)
    }
  }

  /** Judges the marks, and marks the cells stale that they are about to change, as far as they are known. */
  async #announce(marks: readonly AcceptedMark[]) {
    const { known, unknown, replaced } = await this.#judge(marks)
    const cells = new Cells()
    addCells(cells, known)
    // A replaced read's readings may be of other subjects and lie in other cells: those change too.
    for (const { source, start_s, subjects } of replaced) cells.add(source, start_s * 1000, subjects)
    await touchCells(this.#store, cells, newToken())
    return { cells, known, unknown }
  }

  #positionLine(batch: AcceptedBatch): string {
    // From where the last batch ended: offsets that the log no longer has are passed over and show as `messages`
    // being less than the span.
    const next = this.#next.get(batch.partition)
    const first = next !== undefined && next < batch.first ? next : batch.first
    return JSON.stringify([
      this.#log,
      batch.partition,
      first.toString(),
      batch.last.toString(),
      batch.messages,
      batch.readings,
      batch.marks.length,
      batch.duplicates,
      0,
      batch.rejects.length,
    ])
  }

  #rejectLine(reject: RejectedMessage): string {
    return JSON.stringify([
      this.#log,
      reject.partition,
      reject.offset.toString(),
      reject.code,
      reject.reason,
      reject.value.toString('base64'),
      reject.bytes,
      reject.sha256,
    ])
  }

  /** Sorts the marks into those that memory and `reads` can judge and those only the events can. */
  async #judge(
    marks: readonly AcceptedMark[],
  ): Promise<{ known: Verdict[]; unknown: Verdict[]; replaced: Replaced[] }> {
    const known: Verdict[] = []
    const unknown: Verdict[] = []
    const replaced: Replaced[] = []
    if (marks.length === 0) return { known, unknown, replaced }
    const stored = await this.#storedReads(marks)
    for (const mark of marks) {
      const { data } = mark.event
      const readatMs = Date.parse(mark.event.readat)
      const contentMs = data.repeats === undefined ? readatMs : Date.parse(data.repeats)
      const others = stored.get(windowKey(mark.event.source, mark.event.scope, mark.window.startMs)) ?? []
      const before = currentOf(others)
      const same = others.find(isAt(readatMs))
      const version = same ? BigInt(same.version) + 1n : 1n
      // Where the repeated content counts already, nothing changes but the time of its confirmation. A mark that was
      // here before may have died between its row and the touch behind it: then all that it changed is touched again.
      const isOther = (read: StoredRead) => isCurrentable(read) && Number(read.content_ms) !== contentMs
      const changes =
        data.outcome === 'complete' && (same !== undefined || Number(before?.content_ms) !== contentMs)
      if (changes) replaced.push(...(same ? others : before ? [before] : []).filter(isOther))
      const verdict: Verdict = { mark, contentMs, version, changes, held: false, subjects: [] }
      const grounds =
        data.outcome === 'failed' ? 'none' : this.#grounds(mark, same, others.find(isAt(contentMs)))
      if (grounds === undefined) unknown.push(verdict)
      else known.push(grounds === 'none' ? verdict : { ...verdict, held: true, subjects: grounds })
      // A later mark of the same window in this batch must see this one.
      others.push({
        source: mark.event.source,
        scope: mark.event.scope,
        start_s: mark.window.startMs / 1000,
        readat_ms: String(readatMs),
        content_ms: String(contentMs),
        outcome: data.outcome,
        held: Array.isArray(grounds),
        subjects: Array.isArray(grounds) ? grounds : [],
        estimated: data.estimated,
        events: data.events,
        digest: BigInt(`0x${data.digest}`).toString(),
        log: this.#log,
        partition: mark.partition,
        offset: mark.offset.toString(),
        version: version.toString(),
      })
      stored.set(windowKey(mark.event.source, mark.event.scope, mark.window.startMs), others)
    }
    return { known, unknown, replaced }
  }

  /**
   * The subjects of a mark's readings where memory and `reads` show that the ledger holds them whole; undefined where
   * only the events can tell.
   */
  #grounds(
    mark: AcceptedMark,
    same: StoredRead | undefined,
    repeated: StoredRead | undefined,
  ): readonly string[] | undefined {
    const { data } = mark.event
    const digest = BigInt(`0x${data.digest}`)
    // The same message again, after a crash: it was judged when its readings were in.
    if (same?.held === true && isOf(same, mark, this.#log)) return same.subjects
    if (data.repeats !== undefined) {
      const agrees =
        repeated?.held === true && BigInt(repeated.digest) === digest && repeated.events === data.events
      return agrees ? repeated.subjects : undefined
    }
    const open = this.#open.get(mark.read)
    const whole =
      same === undefined && (open?.readings ?? 0) === data.events && (open?.digest ?? 0n) === digest
    return whole ? Array.from(open?.subjects ?? []) : undefined
  }

  /** The marks there are of these windows: all of a start's, since naming each (scope, start) would be longer. */
  async #storedReads(marks: readonly AcceptedMark[]): Promise<Map<string, StoredRead[]>> {
    const stored = new Map<string, StoredRead[]>()
    const wanted = new Set(
      marks.map(mark => windowKey(mark.event.source, mark.event.scope, mark.window.startMs)),
    )
    const sources = Array.from(new Set(marks.map(mark => mark.event.source)))
    const starts = Array.from(new Set(marks.map(mark => mark.window.startMs / 1000)))
    for (const some of chunksOf(starts)) {
      const rows = await this.#store.rows<StoredRead>(
        `select source, scope, toUnixTimestamp(start) as start_s, toUnixTimestamp64Milli(readat) as readat_ms,
           toUnixTimestamp64Milli(content_readat) as content_ms, outcome, held, estimated, events, digest, subjects, log,
           partition, offset, version
         from reads final
         where source in ({sources:Array(String)}) and toUnixTimestamp(start) in ({starts:Array(UInt32)})
           and start >= fromUnixTimestamp({from:UInt32}) and start <= fromUnixTimestamp({to:UInt32})`,
        { sources, starts: some, from: Math.min(...some), to: Math.max(...some) },
      )
      for (const row of rows) {
        const key = windowKey(row.source, row.scope, Number(row.start_s) * 1000)
        if (!wanted.has(key)) continue
        const list = stored.get(key)
        if (list) list.push(row)
        else stored.set(key, [row])
      }
    }
    return stored
  }

  /** Sets `held` where the ledger has exactly what the mark says: as many readings, of that content. */
  async #verify(verdicts: readonly Verdict[]): Promise<void> {
    for (const some of chunksOf(verdicts)) {
      const rows = await this.#store.rows<{
        key: number
        readings: string
        digest: string
        subjects: readonly string[]
      }>(
        `select key, count() as readings, sum(content) as digest, groupUniqArray(subject) as subjects
         from events final
         join (select r.1 as r_source, r.2 as r_scope, r.3 as r_start, r.4 as r_readat, r.5 as key
               from (select arrayJoin(arrayZip({sources:Array(String)}, {scopes:Array(String)},
                 {starts:Array(UInt32)}, {readats:Array(Int64)}, {keys:Array(UInt32)})) as r)) as wanted
           on r_source = toString(source) and r_scope = scope and r_start = toUnixTimestamp(start)
             and r_readat = toUnixTimestamp64Milli(readat)
         where toStartOfHour(start) in (select toStartOfHour(fromUnixTimestamp(arrayJoin({starts:Array(UInt32)}))))
         group by key`,
        { keys: some.map((_, index) => index), ...readParams(some.map(readOf)) },
      )
      const found = new Map(rows.map(row => [row.key, row]))
      some.forEach((verdict, index) => {
        const { events, digest } = verdict.mark.event.data
        const row = found.get(index)
        verdict.held =
          BigInt(row?.readings ?? 0) === BigInt(events) && BigInt(row?.digest ?? 0) === BigInt(`0x${digest}`)
        if (verdict.held) verdict.subjects = row?.subjects ?? []
      })
    }
  }

  #remember(read: string, part: ReadPart): void {
    const open = this.#open.get(read)
    if (!open) {
      const [oldest] = this.#open.keys()
      if (this.#open.size >= openReadsMax && oldest !== undefined) this.#open.delete(oldest)
      this.#open.set(read, part)
      return
    }
    this.#open.set(read, {
      subjects: open.subjects.union(part.subjects),
      readings: open.readings + part.readings,
      digest: BigInt.asUintN(64, open.digest + part.digest),
    })
  }

  #readLine(verdict: Verdict): string {
    const { event, window, partition, offset } = verdict.mark
    const { data } = event
    return JSON.stringify([
      event.source,
      event.scope,
      window.startMs / 1000,
      window.endMs / 1000,
      event.readat,
      data.repeats ?? event.readat,
      data.outcome,
      verdict.held,
      data.events,
      BigInt(`0x${data.digest}`).toString(),
      Array.from(verdict.subjects),
      data.settled,
      data.estimated,
      data.bad && data.bad.length > 0 ? JSON.stringify(data.bad) : '',
      data.scopes && data.scopes.length > 0 ? JSON.stringify(data.scopes) : '',
      data.fault?.code ?? '',
      data.fault?.message ?? '',
      this.#log,
      partition,
      offset.toString(),
      verdict.version.toString(),
    ])
  }
}

function readOf(verdict: Verdict): ReadKey {
  const { event, window } = verdict.mark
  return { source: event.source, scope: event.scope, startMs: window.startMs, readatMs: verdict.contentMs }
}

/** The newest complete read that is held whole; one with estimates only where there is none without. */
function currentOf(reads: readonly StoredRead[]): StoredRead | undefined {
  let current: StoredRead | undefined
  for (const read of reads) {
    if (!isCurrentable(read)) continue
    const newer = current === undefined || Number(read.readat_ms) > Number(current.readat_ms)
    const better = current?.estimated === true && !read.estimated
    const worse = current?.estimated === false && read.estimated
    if (better || (newer && !worse)) current = read
  }
  return current
}

function isCurrentable(read: StoredRead): boolean {
  return read.held && read.outcome === 'complete'
}

function isOf(read: StoredRead, mark: AcceptedMark, log: string): boolean {
  return read.log === log && read.partition === mark.partition && read.offset === mark.offset.toString()
}

function isAt(readatMs: number): (read: StoredRead) => boolean {
  return read => Number(read.readat_ms) === readatMs
}

/** Adds the cells that change where these marks are held. */
function addCells(cells: Cells, verdicts: readonly Verdict[]): void {
  for (const { mark, held, changes, subjects } of verdicts)
    if (held && changes) cells.add(mark.event.source, mark.window.startMs, subjects)
}

function windowKey(source: string, scope: string, startMs: number): string {
  return `${source} ${scope} ${showInstant(startMs)}`
}
