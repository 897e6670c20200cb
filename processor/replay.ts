/** Rejected messages: which there are, and how those that can be taken by now come back into the log. */
import { hash } from 'node:crypto'
import type { PushedEvent } from '../runtime/log/outbox.ts'
import type { EventSink } from '../runtime/log/sink.ts'
import {
  type CloudEvent,
  decodeHttp,
  decodeKafka,
  encodeStructured,
  structuredType,
} from '../schemas/cloudevents.ts'
import {
  decisionType,
  type MarkData,
  markType,
  partitionKey,
  sealMark,
  showDigest,
} from '../schemas/event.ts'
import { asFault, Fault } from '../schemas/fault.ts'
import {
  checkSent,
  isOwnSource,
  pushedKey,
  type ReplayEvent,
  refusalType,
  replayType,
  sealAbout,
} from '../schemas/pushed.ts'
import { showInstant, type Window } from '../schemas/window.ts'
import { undisplaced } from './pushed-marks.ts'
import { chunksOf } from './reads.ts'
import type { Store } from './store.ts'

/** What became of a rejected message that came again. */
export interface ReplayFate {
  readonly fate: 'accepted' | 'duplicate' | 'conflict' | 'rejected'
  readonly part: number
  readonly log: string
  readonly partition: number
  readonly offset: string
  readonly code?: string
  readonly reason?: string
}

/** A rejected message as it is listed. */
export interface RejectedRow {
  readonly log: string
  readonly partition: number
  readonly offset: string
  /** When the ledger noted it. */
  readonly at: string
  readonly origin: 'log' | 'http'
  readonly code: string
  readonly reason: string
  readonly bytes: number
  /** Of its bytes these are kept; where that is all of them it can be replayed. */
  readonly kept: number
  readonly sha256: string
  readonly replays: readonly ReplayFate[]
}

export interface RejectedAsked {
  readonly code?: string
  /** When it was rejected. */
  readonly span?: Window
  readonly limit?: number
  readonly after?: Place
}

/** Where a message stands. */
export interface Place {
  readonly log: string
  readonly partition: number
  readonly offset: string
}

interface StoredReject {
  readonly log: string
  readonly partition: number
  readonly offset: string
  readonly at_ms: string
  readonly origin: string
  readonly code: string
  readonly reason: string
  readonly bytes: string
  readonly kept: string
  readonly sha256: string
  readonly headers: string
  readonly value: string
}

const rowsMax = 1000
/** Each may keep 64 KiB. */
const pageRows = 100

/** Rejects, the oldest place first: those that were replays themselves are told with what they were a replay of. */
export async function rejectedRows(store: Store, asked: RejectedAsked = {}): Promise<readonly RejectedRow[]> {
  const { after } = asked
  const page = { limit: asked.limit ?? rowsMax, ...(after && { after }) }
  const rows = await rejectsFrom(store, asked, { ...page, value: 'left out' })
  const fates = await fatesOf(store, rows)
  return rows.map(row => ({
    log: row.log,
    partition: Number(row.partition),
    offset: row.offset,
    at: showInstant(Number(row.at_ms)),
    origin: row.origin === 'http' ? 'http' : 'log',
    code: row.code,
    reason: row.reason,
    bytes: Number(row.bytes),
    kept: Number(row.kept),
    sha256: row.sha256,
    replays: fates.get(placeOf(row)) ?? [],
  }))
}

async function rejectsFrom(
  store: Store,
  { code, span }: RejectedAsked,
  page: {
    readonly limit: number
    readonly value: 'with' | 'left out'
    readonly after?: Place
  },
): Promise<readonly StoredReject[]> {
  return await store.rows<StoredReject>(
    `select log, partition, offset, toUnixTimestamp64Milli(at) as at_ms, origin, code, reason, bytes, sha256, headers,
       ${page.value === 'with' ? 'value_base64' : "''"} as value,
       intDiv(length(value_base64) * 3, 4) - if(endsWith(value_base64, '=='), 2, endsWith(value_base64, '=')) as kept
     from rejected final
     where ({code:String} = '' or code = {code:String})
       and at >= fromUnixTimestamp64Milli({from:Int64}) and at < fromUnixTimestamp64Milli({to:Int64})
       and (log, partition, offset) > ({log:String}, {partition:Int64}, {offset:Int64})
       and (log, partition, offset) not in (select via_log, via_partition, via_offset from replays)
     order by log, partition, offset limit {limit:UInt32}`,
    {
      code: code ?? '',
      from: span?.startMs ?? 0,
      to: span?.endMs ?? Date.UTC(2200, 0, 1),
      log: page.after?.log ?? '',
      partition: page.after?.partition ?? -1,
      offset: page.after?.offset ?? -1,
      limit: page.limit,
    },
  )
}

async function fatesOf(
  store: Store,
  rows: readonly Pick<StoredReject, 'log' | 'partition' | 'offset'>[],
): Promise<ReadonlyMap<string, readonly ReplayFate[]>> {
  const fates = new Map<string, ReplayFate[]>()
  for (const some of chunksOf(rows)) {
    const found = await store.rows<{
      log: string
      partition: number
      offset: string
      part: number
      via_log: string
      via_partition: number
      via_offset: string
      fate: ReplayFate['fate']
      code: string
      reason: string
    }>(
      `select log, partition, offset, part, via_log, via_partition, via_offset, fate, code, reason from replays final
       where (toString(log), partition, offset) in (select p.1, p.2, p.3 from (select arrayJoin(arrayZip(
         {logs:Array(String)}, {partitions:Array(UInt32)}, {offsets:Array(UInt64)})) as p))
       order by at, via_offset`,
      {
        logs: some.map(({ log }) => log),
        partitions: some.map(({ partition }) => partition),
        offsets: some.map(({ offset }) => BigInt(offset)),
      },
    )
    for (const row of found) {
      const list = fates.get(placeOf(row)) ?? []
      fates.set(placeOf(row), list)
      list.push({
        fate: row.fate,
        part: Number(row.part),
        log: row.via_log,
        partition: Number(row.via_partition),
        offset: row.via_offset,
        ...(row.code !== '' && { code: row.code, reason: row.reason }),
      })
    }
  }
  return fates
}

function placeOf({ log, partition, offset }: Pick<StoredReject, 'log' | 'partition' | 'offset'>): string {
  return `${log} ${partition} ${offset}`
}

// -- back into the log

/** A rejected message that did not go back into the log. */
export interface NotReplayed {
  readonly log: string
  readonly partition: number
  readonly offset: string
  /** cut: only a part of it was kept. refused: it still cannot be taken. done: it came in by an earlier replay. */
  readonly why: 'cut' | 'refused' | 'done'
  readonly code: string
  readonly reason: string
}

export interface Replayed {
  /** Messages that went back into the log. */
  readonly sent: number
  /** Marks that went behind readings which their reads lacked, so that these count. */
  readonly marks: number
  readonly left: readonly NotReplayed[]
  /** Reads that got readings back and whose mark could not be sent again: read these windows again. */
  readonly unmarked: readonly {
    readonly source: string
    readonly scope: string
    readonly start: string
    readonly end: string
  }[]
}

/** The read that a reading belongs to. */
interface ReadOf {
  readonly source: string
  readonly scope: string
  readonly startMs: number
  readonly readatMs: number
}

/**
 * Sends the rejects that can be taken by now into the log again, each with the place that it came from. What went in by
 * an earlier replay is left alone; one that is under way goes again, and its identity makes it count once.
 */
export async function replayRejected(
  store: Store,
  sink: EventSink,
  asked: RejectedAsked & { readonly nowMs: number; readonly signal?: AbortSignal },
): Promise<Replayed> {
  const left: NotReplayed[] = []
  const reads = new Map<string, ReadOf>()
  let sent = 0
  for (let after: StoredReject | undefined; ; ) {
    const rows = await rejectsFrom(store, asked, { limit: pageRows, value: 'with', ...(after && { after }) })
    after = rows.at(-1)
    if (after === undefined) break
    asked.signal?.throwIfAborted()
    const fates = await fatesOf(store, rows)
    const events: PushedEvent[] = []
    for (const row of rows) {
      const not = (why: NotReplayed['why'], code: string, reason: string) =>
        left.push({ log: row.log, partition: Number(row.partition), offset: row.offset, why, code, reason })
      const isIn = fates.get(placeOf(row))?.some(({ fate }) => fate !== 'rejected') === true
      if (isIn) not('done', row.code, row.reason)
      else if (row.kept !== row.bytes)
        not(
          'cut',
          row.code,
          `only ${row.kept} of its ${row.bytes} bytes were kept: it is to be sent again by its sender`,
        )
      else
        try {
          const messages = messagesOf(row, asked.nowMs)
          for (const [part, message] of messages.entries())
            events.push(sealReplay(row, message, part, asked.nowMs))
          for (const { read } of messages) if (read) reads.set(JSON.stringify(Object.values(read)), read)
        } catch (error) {
          const fault = asFault(error, 'EVENT_INVALID')
          not('refused', fault.code, fault.message)
        }
    }
    if (events.length > 0) await sink.put(events)
    sent += events.length
  }
  const { marks, unmarked } = await marksOf(store, Array.from(reads.values()))
  if (marks.length > 0) await sink.put(marks)
  return { sent, marks: marks.length, left, unmarked }
}

interface InnerMessage {
  readonly key: string
  readonly headers: Readonly<Record<string, string>>
  readonly value: Buffer
  readonly read?: ReadOf
}

/** @throws Fault where it can still not be taken, as far as that can be known before the ledger sees it */
function messagesOf(row: StoredReject, nowMs: number): readonly InnerMessage[] {
  const value = Buffer.from(row.value, 'base64')
  const headers = headersOf(row)
  if (row.origin === 'http')
    return decodeHttp(headers, value).map(event => {
      return {
        key: keyTaken(event, nowMs, 'http'),
        headers: { 'content-type': structuredType },
        value: Buffer.from(encodeStructured(event)),
      }
    })
  const event = decodeKafka({ headers, value })
  const key = keyTaken(event, nowMs, 'log')
  const read = readOf(event)
  return [{ key, headers, value, ...(read && { read }) }]
}

function headersOf({ headers }: StoredReject): Readonly<Record<string, string>> {
  try {
    // Rejects of earlier versions have none: what was in the log then was structured.
    return headers === '' ? { 'content-type': structuredType } : JSON.parse(headers)
  } catch (error) {
    throw new Fault(
      'EVENT_INVALID',
      'its headers were longer than what is kept of them',
      {},
      { cause: error },
    )
  }
}

/** The key under which it goes. @throws Fault where it can not be taken */
function keyTaken(event: CloudEvent, nowMs: number, origin: 'log' | 'http'): string {
  const { source, id, type, partitionkey } = event
  // What HTTP does not let in does not get in by being refused first.
  if (origin === 'http' || (!isOwnSource(source) && type !== decisionType)) return checkSent(event, nowMs).key
  if (type === replayType || type === refusalType)
    throw new Fault('EVENT_INVALID', `type ${type} is not replayed`)
  return typeof partitionkey === 'string' ? partitionkey : pushedKey(source, id)
}

function readOf(event: CloudEvent): ReadOf | undefined {
  const { source, type, scope, time, readat } = event
  if (!isOwnSource(source) || type === markType || type === decisionType) return undefined
  if (typeof scope !== 'string' || typeof readat !== 'string' || time === undefined) return undefined
  return { source, scope, startMs: Date.parse(time), readatMs: Date.parse(readat) }
}

function sealReplay(row: StoredReject, message: InnerMessage, part: number, nowMs: number): PushedEvent {
  const source = 'meterline/replay/rejected'
  const id = hash('sha256', JSON.stringify([placeOf(row), part, nowMs]), 'hex').slice(0, 32)
  const text = sealAbout<ReplayEvent>({
    source,
    id,
    type: replayType,
    partitionkey: message.key,
    timeMs: nowMs,
    data: {
      log: row.log,
      partition: Number(row.partition),
      offset: row.offset,
      part,
      received: showInstant(Number(row.at_ms)),
      headers: message.headers,
      value: message.value.toString('base64'),
    },
  })
  return { source, id, key: message.key, value: Buffer.from(text) }
}

// -- the marks of reads that lacked readings

interface StoredMark {
  readonly source: string
  readonly scope: string
  readonly start_s: number
  readonly end_s: number
  readonly readat_ms: string
  readonly content_ms: string
  readonly outcome: 'complete' | 'failed'
  readonly events: number
  readonly digest: string
  readonly settled: boolean
  readonly estimated: boolean
  readonly bad: string
  readonly content: string
}

/** The marks of these reads that the ledger holds as not complete, as they were sent: behind their readings they heal them. */
async function marksOf(
  store: Store,
  reads: readonly ReadOf[],
): Promise<{ marks: readonly PushedEvent[]; unmarked: Replayed['unmarked'] }> {
  const marks: PushedEvent[] = []
  const unmarked: Replayed['unmarked'][number][] = []
  for (const some of chunksOf(reads)) {
    const rows = await store.rows<StoredMark>(
      `select source, scope, toUnixTimestamp(start) as start_s, toUnixTimestamp(end) as end_s,
         toUnixTimestamp64Milli(readat) as readat_ms, toUnixTimestamp64Milli(content_readat) as content_ms,
         outcome, events, digest, settled, estimated, bad, content
       from reads final
       where not held and outcome = 'complete'
         and (toString(source), scope, toUnixTimestamp(start), toUnixTimestamp64Milli(content_readat)) in (
           select r.1, r.2, r.3, r.4 from (select arrayJoin(arrayZip({sources:Array(String)}, {scopes:Array(String)},
             {starts:Array(UInt32)}, {readats:Array(Int64)})) as r))`,
      {
        sources: some.map(read => read.source),
        scopes: some.map(read => read.scope),
        starts: some.map(read => read.startMs / 1000),
        readats: some.map(read => read.readatMs),
      },
    )
    for (const row of rows) {
      const mark = markOf(row)
      if (mark) marks.push(mark)
      else
        unmarked.push({
          source: row.source,
          scope: row.scope,
          start: showInstant(Number(row.start_s) * 1000),
          end: showInstant(Number(row.end_s) * 1000),
        })
    }
  }
  return { marks, unmarked }
}

/** Made again from its row, in the order in which collectors write it; undefined where it was written otherwise. */
function markOf(row: StoredMark): PushedEvent | undefined {
  const { source, scope } = row
  const [readatMs, contentMs] = [Number(row.readat_ms), Number(row.content_ms)]
  const data: Omit<MarkData, 'window'> = {
    outcome: row.outcome,
    events: row.events,
    digest: showDigest(BigInt(row.digest)),
    ...(contentMs !== readatMs && { repeats: new Date(contentMs).toISOString() }),
    settled: row.settled,
    estimated: row.estimated,
    ...(row.bad !== '' && { bad: JSON.parse(row.bad) }),
  }
  const window = { startMs: Number(row.start_s) * 1000, endMs: Number(row.end_s) * 1000 }
  const mark = sealMark(data, { source, scope, window, readatMs })
  const content = BigInt(`0x${hash('sha256', JSON.stringify(mark.data), 'hex').slice(0, 16)}`)
  if (content !== BigInt(row.content)) return undefined
  return {
    source,
    id: mark.id,
    key: partitionKey(source, scope),
    value: Buffer.from(encodeStructured(mark)),
  }
}

// -- conflicts

/** Two messages under one identity that say different things: the first counts. */
export interface ConflictRow {
  readonly source: string
  readonly id: string
  readonly what: 'reading' | 'mark' | 'pushed' | 'other'
  /** Where the second one stands. */
  readonly log: string
  readonly partition: number
  readonly offset: string
  /** When it happened, by the first; undefined where that is not known. */
  readonly time?: string
  /** What counts, and what does not: JSON as text. */
  readonly first: string
  readonly second: string
}

/** Conflicts whose first or second message is of the span, with both contents, in order of time, source and id. */
export async function conflicts(
  store: Store,
  span: Window,
  {
    offset = 0,
    limit = Number.POSITIVE_INFINITY,
  }: { readonly offset?: number; readonly limit?: number } = {},
): Promise<readonly ConflictRow[]> {
  const rows = await store.rows<{
    source: string
    id: string
    what: ConflictRow['what']
    log: string
    partition: number
    offset: string
    time_s: string
    first: string
    second: string
  }>(
    `with conflict as (
       select log, partition, offset, toString(source) as source, id, id_hash, value from passed final where fate = 'conflict')
     select c.source as source, c.id as id, f.what as what, c.log as log, c.partition as partition, c.offset as offset,
       f.time_s as time_s, f.first as first, c.value as second
     from conflict as c left join (
       select id_hash, 'reading' as what, toUnixTimestamp(start) as time_s,
         toJSONString(tuple(type, subject, start, end, used_start, used_end, resource_kind, resource_id, resource_name,
           measures, labels, parts, estimated)) as first
       -- The identity of a reading is in its id, and found without making the hash of every row.
       from events final where identity in (
           select reinterpretAsUInt128(reverse(unhex(substring(id, 1, 32)))) from conflict
           where match(id, '^[0-9a-f]{32}@'))
         and id_hash in (select id_hash from conflict)
       union all
       select id_hash, 'mark', toUnixTimestamp(start),
         toJSONString(map('outcome', toString(outcome), 'events', toString(events), 'digest', lower(leftPad(hex(digest), 16, '0')),
           'settled', toString(settled), 'estimated', toString(estimated), 'bad', bad, 'fault', toString(fault_code)))
       from reads final where id_hash in (select id_hash from conflict)
       union all
       select id_hash, 'mark', toUnixTimestamp(start),
         toJSONString(map('scope', scope, 'end', toString(end), 'events', toString(events), 'settled', toString(settled)))
       from pushed_marks final where id_hash in (select id_hash from conflict) and ${undisplaced}
       union all
       select id_hash, 'pushed', toUnixTimestamp(toDateTime(time)),
         concat('{"type":', toJSONString(type), ',"subject":', toJSONString(subject), ',"time":', toJSONString(time_text),
           ',"attributes":', attributes, ',"data":', if(data = '', 'null', data), '}')
       from pushed final where id_hash in (select id_hash from conflict)
         and (identity, log, partition, offset) in
           (select identity, toString(log), partition, offset from pushed_firsts final
            where id_hash in (select id_hash from conflict))) as f
     on c.id_hash = f.id_hash
     where f.what = '' or (f.time_s >= {from:UInt32} and f.time_s < {to:UInt32})
     order by f.time_s, c.source, c.id, c.log, c.partition, c.offset limit {limit:UInt32} offset {offset:UInt32}`,
    {
      from: Math.floor(span.startMs / 1000),
      to: Math.ceil(span.endMs / 1000),
      limit: Math.min(limit, 2 ** 32 - 1),
      offset,
    },
  )
  return rows.map(row => ({
    source: row.source,
    id: row.id,
    what: row.what || 'other',
    log: row.log,
    partition: Number(row.partition),
    offset: row.offset,
    ...(row.what && { time: showInstant(Number(row.time_s) * 1000) }),
    first: row.first,
    second: row.second,
  }))
}
