/**
 * Pushed events in the ledger: the first message of an identity counts, what comes later under it is a duplicate or a
 * conflict, and amendments say what counts instead. Marks of pushers go the same way; what they lead to is
 * pushed-marks.ts. Every step may be repeated after a crash.
 */

import type { RejectedMessage } from '../runtime/log/log.ts'
import { idHash } from '../schemas/event.ts'
import type { LogPlace } from '../schemas/pushed.ts'
import { type PushedContent, pushedIdentity, showPushed } from '../schemas/pushed.ts'
import {
  type AcceptedAmendment,
  type AcceptedBatch,
  type AcceptedPushed,
  type AcceptedPushedMark,
  type PassedMessage,
  rejected,
} from './accept.ts'
import { markedHours, pushedMarkColumns, pushedMarkLine, showMark } from './pushed-marks.ts'
import { asOfEnd } from './reads.ts'
import { Cells, newToken, touchCells } from './stale.ts'
import type { Store } from './store.ts'

const firstColumns = ['id_hash', 'identity', 'content', 'log', 'partition', 'offset'] as const

const pushedColumns = [
  'source',
  'id',
  'identity',
  'id_hash',
  'type',
  'subject',
  'time',
  'time_text',
  'data',
  'attributes',
  'content',
  'log',
  'partition',
  'offset',
] as const

const amendmentColumns = [
  'source',
  'id',
  'identity',
  'action',
  'type',
  'subject',
  'time',
  'time_text',
  'data',
  'author',
  'reason',
  'decided',
  'amendment',
  'id_hash',
  'log',
  'partition',
  'offset',
] as const

/** What the ledger is finding out of a batch; of this only that about pushed events. */
export interface PuttingPushed {
  readonly batch: Pick<AcceptedBatch, 'pushed' | 'pushedMarks' | 'amendments'>
  readonly passed: PassedMessage[]
  readonly rejects: RejectedMessage[]
  droppedPushed: number
  droppedPushedMarks: number
  droppedAmendments: number
}

interface First extends LogPlace {
  readonly content: bigint
}

type Message = AcceptedPushed | AcceptedPushedMark | AcceptedAmendment

/** A pushed event, a mark or an amendment, under the identity by which the first of it is known. */
interface Named {
  readonly putting: PuttingPushed
  readonly message: Message
  readonly source: string
  readonly id: string
  readonly identity: bigint
  readonly idHash: bigint
}

/**
 * Puts the pushed events, marks and amendments of batches in, notes those that the ledger has already in `passed`, and
 * marks whose window crosses the grid of their scope in `rejects`. Resolves to the cells that this changes: they were
 * marked stale before anything went in, and the caller marks them once more when all is in.
 */
export async function putPushed(
  store: Store,
  log: string,
  puttings: readonly PuttingPushed[],
): Promise<Cells> {
  const named = puttings.flatMap(putting => {
    const { pushed, pushedMarks, amendments } = putting.batch
    const all = [
      ...pushed.map(message => name(putting, message, message)),
      ...pushedMarks.map(message => name(putting, message, message)),
      ...amendments.map(message => name(putting, message, message.event)),
    ]
    // An event and a mark may have one id: then the first of them in the log has it.
    return pushedMarks.length === 0 ? all : all.sort((a, b) => (a.message.offset < b.message.offset ? -1 : 1))
  })
  if (named.length === 0) return new Cells()
  const marks = puttings.flatMap(({ batch }) => batch.pushedMarks)
  const [firsts, hours] = await Promise.all([knownFirsts(store, named), markedHours(store, marks)])
  const taken: Named[] = []
  const displaced: LogPlace[] = []
  // Those that stand at this very place already were begun before: what they displaced then is not known any more.
  const isRepeated = new Set(firsts.keys())
  for (const one of named) {
    const { message, identity, putting } = one
    // A mark that is known was held against the grid when it first came.
    if ('scope' in message && !firsts.has(identity)) {
      const fault = hours.crossing(message)
      if (fault) {
        putting.rejects.push(rejected(message.partition, message.message, fault))
        putting.droppedPushedMarks += 1
        continue
      }
    }
    if (!takes(one, log, { firsts, displaced })) continue
    taken.push(one)
    if ('scope' in message) hours.add(message)
  }
  const cells = await changedCells(store, taken, isRepeated)
  await touchCells(store, cells, newToken())
  await store.insert(
    'pushed_displaced',
    ['log', 'partition', 'offset'],
    displaced.map(place => JSON.stringify([place.log, place.partition, place.offset.toString()])),
  )
  // Before their rows: whoever dies in between finds its own place here when it comes again.
  await store.insert(
    'pushed_firsts',
    firstColumns,
    taken.map(({ message, identity, idHash: hash }) =>
      JSON.stringify([
        hash.toString(),
        identity.toString(),
        message.content.toString(),
        log,
        message.partition,
        message.offset.toString(),
      ]),
    ),
  )
  const lines = { pushed: [] as string[], marks: [] as string[], amendments: [] as string[] }
  for (const one of taken) {
    const { message } = one
    if ('event' in message) lines.amendments.push(amendmentLine(one, message, log))
    else if ('scope' in message) lines.marks.push(pushedMarkLine(one, message, log))
    else lines.pushed.push(pushedLine(one, message, log))
  }
  await Promise.all([
    store.insert('pushed', pushedColumns, lines.pushed),
    store.insert('pushed_marks', pushedMarkColumns, lines.marks),
    store.insert('amendments', amendmentColumns, lines.amendments),
  ])
  return cells
}

/**
 * The cells in which something changes: where each event that goes in counts, and where the same event counted before. Of
 * an amended event those are all places that were ever said of it, for which amendment counts is known only to the log.
 */
async function changedCells(
  store: Store,
  taken: readonly Named[],
  isRepeated: ReadonlySet<bigint>,
): Promise<Cells> {
  const cells = new Cells()
  /** Events of which more may be in the ledger, by identity, and of those that may be there the hash of the id. */
  const events = new Set<bigint>()
  const there = new Set<bigint>()
  for (const { message, source, identity, idHash: hash } of taken) {
    if ('scope' in message) continue
    if (!('event' in message)) {
      cells.add(source, message.timeMs, [message.subject])
      events.add(identity)
      if (isRepeated.has(identity)) there.add(hash)
      continue
    }
    const { data } = message.event
    events.add(pushedIdentity(data.source, data.id))
    there.add(idHash(data.source, data.id))
    if (message.amended) cells.add(data.source, message.amended.timeMs, [message.amended.subject])
  }
  await addAmended(store, Array.from(events), cells)
  await addPushed(store, Array.from(there), cells)
  return cells
}

/** Identities in the text of a query, which are longer than hashes. */
const identitiesMax = 4000

/** The cells that amendments of these events name: one may be there before its event. */
async function addAmended(store: Store, identities: readonly bigint[], cells: Cells): Promise<void> {
  if (identities.length === 0) return
  const some = await store.rows('select 1 from amendments limit 1')
  if (some.length === 0) return
  for (let at = 0; at < identities.length; at += identitiesMax) {
    const named = identities.slice(at, at + identitiesMax).map(identity => `'${identity}'`)
    await addRows(
      store,
      `amendments where action = 'amend' and identity in (select toUInt128(arrayJoin([${named.join(',')}])))`,
      cells,
    )
  }
}

/** The cells in which rows of these events are. */
async function addPushed(store: Store, hashes: readonly bigint[], cells: Cells): Promise<void> {
  for (let at = 0; at < hashes.length; at += hashesMax)
    await addRows(store, `pushed where id_hash in (${hashes.slice(at, at + hashesMax).join(',')})`, cells)
}

async function addRows(store: Store, from: string, cells: Cells): Promise<void> {
  const rows = await store.rows<{ source: string; subject: string; hour_s: number }>(
    `select distinct source, subject, toUnixTimestamp(toStartOfHour(time)) as hour_s from ${from}`,
  )
  for (const { source, subject, hour_s } of rows) cells.add(source, Number(hour_s) * 1000, [subject])
}

function name(
  putting: PuttingPushed,
  message: Message,
  { source, id }: { readonly source: string; readonly id: string },
): Named {
  return { putting, message, source, id, identity: pushedIdentity(source, id), idHash: idHash(source, id) }
}

/** Is it the first of its identity? If not it is noted what it is, and it is not put. */
function takes(
  { putting, message, source, id, identity }: Named,
  log: string,
  { firsts, displaced }: { readonly firsts: Map<bigint, First>; readonly displaced: LogPlace[] },
): boolean {
  const { partition, offset, content } = message
  const first = firsts.get(identity)
  const isHere = first?.log === log && first.partition === partition
  if (first === undefined) firsts.set(identity, { log, partition, offset, content })
  else if (isHere && first.offset === offset) return true
  else {
    const fate = first.content === content ? 'duplicate' : 'conflict'
    if (!isHere || first.offset < offset) {
      const value = fate === 'duplicate' ? '' : contentText(message)
      putting.passed.push({ partition, offset, fate, source, id, value })
      if ('event' in message) putting.droppedAmendments += 1
      else if ('scope' in message) putting.droppedPushedMarks += 1
      else putting.droppedPushed += 1
      return false
    }
    // The same partition was read on from a later offset before: that one gives way to this.
    putting.passed.push({ partition, offset: first.offset, fate, source, id, value: '' })
    displaced.push(first)
    firsts.set(identity, { log, partition, offset, content })
  }
  return true
}

function contentText(message: Message): string {
  if ('event' in message) return JSON.stringify(message.event.data)
  return 'scope' in message ? showMark(message) : showPushed(message)
}

/** Literals in the text of a query, which is shorter than what a server takes at most: 256 KiB. */
const hashesMax = 10_000

async function knownFirsts(store: Store, named: readonly Named[]): Promise<Map<bigint, First>> {
  const firsts = new Map<bigint, First>()
  const hashes = Array.from(new Set(named.map(one => one.idHash)))
  for (let at = 0; at < hashes.length; at += hashesMax) {
    const rows = await store.rows<{
      identity: string
      content: string
      log: string
      partition: number
      offset: string
    }>(
      // Numbers, and too many for the address of a request, where parameters travel.
      `select toString(identity) as identity, content, log, partition, offset from pushed_firsts final
       where id_hash in (${hashes.slice(at, at + hashesMax).join(',')})`,
    )
    for (const row of rows)
      firsts.set(BigInt(row.identity), {
        content: BigInt(row.content),
        log: row.log,
        partition: Number(row.partition),
        offset: BigInt(row.offset),
      })
  }
  return firsts
}

function pushedLine(
  { source, id, identity, idHash: hash }: Named,
  message: AcceptedPushed,
  log: string,
): string {
  return JSON.stringify([
    source,
    id,
    identity.toString(),
    hash.toString(),
    message.type,
    message.subject,
    showTime(message),
    message.time,
    message.data,
    message.attributes,
    message.content.toString(),
    log,
    message.partition,
    message.offset.toString(),
  ])
}

function amendmentLine(
  { idHash: hash }: Named,
  { event, amended, partition, offset }: AcceptedAmendment,
  log: string,
): string {
  const { source, id, action, author, reason } = event.data
  return JSON.stringify([
    source,
    id,
    pushedIdentity(source, id).toString(),
    action,
    amended?.type ?? '',
    amended?.subject ?? '',
    amended ? showTime(amended) : '1970-01-01T00:00:00.000Z',
    amended?.time ?? '',
    amended?.data ?? '',
    author,
    reason,
    event.time,
    `${event.source} ${event.id}`,
    hash.toString(),
    log,
    partition,
    offset.toString(),
  ])
}

function showTime({ timeMs }: PushedContent): string {
  return new Date(timeMs).toISOString()
}

/**
 * The pushed events that count, as they count: the first message of each identity, what it was amended to, and not those
 * that are void. Rows have source, id, type, subject, time, time_text, data, id_hash, attributes, log, partition and
 * offset (the last four of the first message), and `amended`.
 * @param range a condition on `time`. An end of it is a DateTime64, as `time` is: of `time < a DateTime` ClickHouse 26.7 makes
 *   `time <= the second before it` where it passes over parts by their first and last time, and so loses a part that begins
 *   within the last second.
 * @param asOf `position`: as the ledger stood there, with the parameters of `positionParams`
 */
export function currentPushed(range: string, asOf: 'now' | 'position' = 'now'): string {
  const there = asOf === 'now' ? 'true' : `offset < ${asOfEnd}`
  const firstsOf = (which: string) => `(identity, log, partition, offset) in (
      select identity, toString(log), partition, offset from pushed_firsts final
      where id_hash in (select id_hash from pushed where ${which}))`
  const amended = `identity in (select identity from amendments where ${there})`
  const columns =
    'source, id, type, subject, time, time_text, data, attributes, id_hash, log, partition, offset'
  return `(
    select ${columns}, false as amended from pushed final
    where ${range} and ${there} and not ${amended} and ${firstsOf(range)}
    union all
    select ${columns}, true as amended from (
      select first.source as source, first.id as id, first.id_hash as id_hash,
        first.attributes as attributes, first.log as log,
        first.partition as partition, first.offset as offset, latest.said.1 as action, latest.said.2 as type,
        latest.said.3 as subject, latest.said.4 as time, latest.said.5 as time_text, latest.said.6 as data
      from (select * from pushed final where ${there} and ${amended} and ${firstsOf(amended)}) as first
      inner join (
        select identity, argMax((action, type, subject, time, time_text, data), (log, partition, offset)) as said
        from amendments final where ${there} group by identity) as latest
      on first.identity = latest.identity)
    where action = 'amend' and ${range})`
}
