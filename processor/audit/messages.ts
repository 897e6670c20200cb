/**
 * Each message of the log has one fate: it is accepted (an event, a mark, a decision), a duplicate, a conflict, rejected,
 * or still in flight. What was received is told by `positions` and the log's end; the fates by the tables that hold them.
 */
import { undisplaced } from '../pushed-marks.ts'
import { asOfEnd, chunksOf, type Position, positionParams } from '../reads.ts'
import type { Params, Store } from '../store.ts'
import { type Compared, type Difference, type Equation, namedMax } from './report.ts'

/** The log as it is now: of each partition the first offset that is still there, and the next that will be given. */
export interface LogBounds {
  readonly log: string
  readonly partitions: ReadonlyMap<number, { readonly first: bigint; readonly next: bigint }>
}

/** A span of offsets that the ledger took, as `positions` says; less `messages` where the log had holes. */
export interface TakenSpan {
  readonly first: bigint
  readonly last: bigint
  readonly messages: bigint
}

export interface TakenPartition {
  readonly log: string
  readonly partition: number
  readonly spans: readonly TakenSpan[]
  /** Behind the last of them. */
  readonly next: bigint
}

/** Every table that gives fates, with its fate: rows of all of them have log, partition and offset. */
const fates: readonly { readonly table: string; readonly fate: string; readonly where?: string }[] = [
  { table: 'events final', fate: "'accepted'" },
  { table: 'reads final', fate: "'accepted'" },
  { table: 'decisions final', fate: "'accepted'" },
  {
    table: 'pushed final',
    fate: "'accepted'",
    where:
      '(identity, log, partition, offset) in (select identity, toString(log), partition, offset from pushed_firsts final)',
  },
  {
    table: 'pushed_marks final',
    fate: "'accepted'",
    where: undisplaced,
  },
  { table: 'amendments final', fate: "'accepted'" },
  { table: 'passed final', fate: 'toString(fate)' },
  { table: 'rejected final', fate: "'rejected'" },
]

/** A row a fate, of the messages that `where` names. */
export function allFates(where: string): string {
  return fates
    .map(
      ({ table, fate, where: counting = 'true' }) =>
        `select ${fate} as fate, toString(log) as log, partition, offset from ${table} where ${where} and ${counting}`,
    )
    .join(' union all ')
}

/** All fates before the position; with `where` some of them. */
function fateRows(where = 'true'): string {
  return allFates(`${where} and offset < ${asOfEnd}`)
}

/** What the ledger says it took. Read before anything else: what comes in behind it is in flight. */
export async function takenPartitions(store: Store): Promise<readonly TakenPartition[]> {
  const rows = await store.rows<{
    log: string
    partition: number
    first: string
    last: string
    messages: string
  }>(`select log, partition, first, last, messages from positions final order by log, partition, first, last`)
  const byPlace = Map.groupBy(rows, row => placeOf(row))
  return Array.from(byPlace.values(), some => {
    const spans = some.map(row => ({
      first: BigInt(row.first),
      last: BigInt(row.last),
      messages: BigInt(row.messages),
    }))
    const next = spans.reduce((most, span) => (span.last >= most ? span.last + 1n : most), 0n)
    return { log: some[0]?.log ?? '', partition: Number(some[0]?.partition), spans, next }
  })
}

export function positionOf(taken: readonly TakenPartition[]): Position {
  return new Map(taken.map(one => [placeOf(one), one.next]))
}

export function placeOf({ log, partition }: { readonly log: string; readonly partition: number }): string {
  return `${log}/${partition}`
}

/** A stretch of offsets with as many messages as it must have fates: without holes, from one span or many. */
interface Stretch {
  readonly first: bigint
  readonly last: bigint
  readonly messages: bigint
}

/**
 * The spans as stretches that lie one behind the other. Spans of replays overlap and count once. Where two that overlap
 * both have holes they are taken to be the same ones: nobody can tell any more.
 */
export function stretchesOf(spans: readonly TakenSpan[]): readonly Stretch[] {
  const stretches: Stretch[] = []
  for (const span of [...spans].sort((a, b) =>
    a.first < b.first || (a.first === b.first && a.last > b.last) ? -1 : 1,
  )) {
    const before = stretches.at(-1)
    const isSolid = (one: Stretch) => one.messages === one.last - one.first + 1n
    if (before && span.last <= before.last) continue
    const touches =
      before !== undefined && span.first === before.last + 1n && isSolid(before) && isSolid(span)
    const crosses = before !== undefined && span.first <= before.last
    if (!before || !(touches || crosses)) {
      stretches.push(span)
      continue
    }
    const shared = crosses ? before.last - span.first + 1n : 0n
    const holes = (one: Stretch) => one.last - one.first + 1n - one.messages
    const sharedHoles = [holes(before), holes(span), shared].reduce((least, one) =>
      one < least ? one : least,
    )
    stretches[stretches.length - 1] = {
      first: before.first,
      last: span.last,
      messages: before.messages + span.messages - (shared - sharedHoles),
    }
  }
  return stretches
}

/** As Math.max, which takes no bigint. */
function laterOf(a: bigint, b: bigint): bigint {
  if (a > b) return a
  return b
}

/** Of one partition: rows and distinct offsets of all fates, the offsets of each, and those in each stretch. */
interface FateCounts {
  readonly rows: bigint
  readonly offsets: bigint
  readonly accepted: bigint
  readonly duplicate: bigint
  readonly conflict: bigint
  readonly rejected: bigint
  readonly inside: readonly bigint[]
}

export interface MessagesFound {
  readonly equation: Equation
  readonly compared: Compared
  readonly gaps: readonly string[]
  readonly notes: readonly string[]
  /** Distinct offsets of accepted messages. */
  readonly accepted: bigint
  readonly inFlight: bigint
}

/** Holds the fates against `positions` and the log. */
export async function auditMessages(
  store: Store,
  taken: readonly TakenPartition[],
  logs: readonly LogBounds[],
): Promise<MessagesFound> {
  const params = positionParams(positionOf(taken))
  const counts = await countFates(store, taken, params)
  const differences: Difference[] = []
  let differing = 0n
  let received = 0n
  let inFlight = 0n
  const gaps: string[] = []
  const notes: string[] = []
  for (const one of taken) {
    const place = placeOf(one)
    const found = counts.get(place)
    const stretches = stretchesOf(one.spans)
    received += stretches.reduce((sum, stretch) => sum + stretch.messages, 0n)
    let inside = 0n
    for (const [index, stretch] of stretches.entries()) {
      const offsets = found?.inside[index] ?? 0n
      inside += offsets
      if (offsets === stretch.messages) continue
      differing += offsets < stretch.messages ? stretch.messages - offsets : offsets - stretch.messages
      if (differences.length < namedMax)
        differences.push(await namedLack(store, one, stretch, offsets, params))
    }
    const beyond = (found?.offsets ?? 0n) - inside
    if (beyond > 0n) {
      differing += beyond
      differences.push(await namedStray(store, one, stretches, beyond, params))
    }
    const twice = (found?.rows ?? 0n) - (found?.offsets ?? 0n)
    if (twice > 0n) {
      differing += twice
      differences.push(await namedTwice(store, one, twice, params))
    }
    const log = logs.find(({ log }) => log === one.log)
    const bounds = log?.partitions.get(one.partition)
    if (bounds && bounds.next < one.next) {
      differing += one.next - bounds.next
      differences.push({
        check: 'messages',
        place: `${place} offsets ${bounds.next} to ${one.next - 1n}`,
        message: `positions says that they were taken, and the log ends at ${bounds.next}`,
        remedy:
          'The log was put back to an older copy, or the position is wrong: start the processor, which finds out.',
      })
    }
    if (bounds && bounds.next > one.next) inFlight += bounds.next - laterOf(bounds.first, one.next)
    if (bounds && bounds.first > one.next)
      gaps.push(
        `LOG_TRUNCATED ${place}: offsets ${one.next} to ${bounds.first - 1n} are gone from the log, and the ledger lacks them`,
      )
  }
  for (const log of logs)
    for (const [partition, bounds] of log.partitions)
      if (!taken.some(one => one.log === log.log && one.partition === partition))
        inFlight += bounds.next - bounds.first
  for (const name of new Set(taken.map(({ log }) => log)))
    if (!logs.some(({ log }) => log === name))
      notes.push(
        `log ${name} is not at hand: what it has beyond the ledger is not counted as received or in flight`,
      )
  const total = (of: 'accepted' | 'duplicate' | 'conflict' | 'rejected') =>
    Array.from(counts.values()).reduce((sum, row) => sum + row[of], 0n)
  const right = (['accepted', 'duplicate', 'conflict', 'rejected'] as const).map(name => ({
    name,
    value: total(name).toString(),
  }))
  const sum = right.reduce((all, term) => all + BigInt(term.value), inFlight)
  return {
    equation: {
      left: { name: 'received', value: (received + inFlight).toString() },
      right: [...right, { name: 'in flight', value: inFlight.toString() }],
      holds: received + inFlight === sum && differing === 0n,
    },
    compared: { check: 'messages', compared: received, things: 'messages', differing, differences },
    gaps,
    notes,
    accepted: total('accepted'),
    inFlight,
  }
}

/** One pass over all rows, unless the log had so many holes that the stretches need several. Offsets are kept as bitmaps. */
async function countFates(
  store: Store,
  taken: readonly TakenPartition[],
  params: Params,
): Promise<ReadonlyMap<string, FateCounts>> {
  const stretches = taken.flatMap(one =>
    stretchesOf(one.spans).map(stretch => ({ place: placeOf(one), ...stretch })),
  )
  const counts = new Map<string, FateCounts>()
  for (const some of chunksOf(stretches)) {
    const rows = await store.rows<
      Readonly<Record<Exclude<keyof FateCounts, 'inside'>, string>> & {
        readonly place: string
        readonly inside: readonly string[]
      }
    >(
      `select concat(log, '/', toString(partition)) as place, count() as rows, groupBitmap(offset) as offsets,
         groupBitmapIf(offset, fate = 'accepted') as accepted, groupBitmapIf(offset, fate = 'duplicate') as duplicate,
         groupBitmapIf(offset, fate = 'conflict') as conflict, groupBitmapIf(offset, fate = 'rejected') as rejected,
         arrayMap(s -> bitmapCardinality(bitmapSubsetInRange(groupBitmapState(offset), s.2, s.3)), arrayFilter(s -> s.1 = place,
           arrayZip({places:Array(String)}, {firsts:Array(UInt64)}, {afters:Array(UInt64)}))) as inside
       from (${fateRows()}) group by log, partition`,
      {
        ...params,
        places: some.map(({ place }) => place),
        firsts: some.map(({ first }) => first),
        afters: some.map(({ last }) => last + 1n),
      },
    )
    for (const row of rows) {
      const before = counts.get(row.place)?.inside ?? []
      counts.set(row.place, {
        rows: BigInt(row.rows),
        offsets: BigInt(row.offsets),
        accepted: BigInt(row.accepted),
        duplicate: BigInt(row.duplicate),
        conflict: BigInt(row.conflict),
        rejected: BigInt(row.rejected),
        inside: [...before, ...row.inside.map(BigInt)],
      })
    }
  }
  return counts
}

// -- which offsets

/** Offsets are looked at in blocks, so that one is found among millions without a list of them. */
const blockOffsets = 65_536n
const offsetsNamedMax = 5

/** The first offsets that have no fate, or the first that have one where the log had a hole. */
async function namedLack(
  store: Store,
  one: TakenPartition,
  stretch: Stretch,
  found: bigint,
  params: Params,
): Promise<Difference> {
  const place = placeOf(one)
  const span = `offsets ${stretch.first} to ${stretch.last}`
  const isSolid = stretch.messages === stretch.last - stretch.first + 1n
  if (!isSolid)
    return {
      check: 'messages',
      place: `${place} ${span}`,
      message: `positions counts ${stretch.messages} messages, and ${found} have a fate`,
      remedy: lostRemedy,
    }
  const counted = new Map(
    (
      await store.rows<{ block: string; offsets: string }>(
        `select intDiv(offset, ${blockOffsets}) as block, groupBitmap(offset) as offsets
         from (${fateRows(inStretch)}) group by block`,
        { ...params, ...stretchParams(one, stretch) },
      )
    ).map(row => [BigInt(row.block), BigInt(row.offsets)]),
  )
  for (let block = stretch.first / blockOffsets; block * blockOffsets <= stretch.last; block += 1n) {
    const first = block * blockOffsets > stretch.first ? block * blockOffsets : stretch.first
    const end = (block + 1n) * blockOffsets - 1n
    const last = end < stretch.last ? end : stretch.last
    if ((counted.get(block) ?? 0n) === last - first + 1n) continue
    const held = new Set(
      (
        await store.rows<{ offset: string }>(`select offset from (${fateRows(inStretch)})`, {
          ...params,
          ...stretchParams(one, { first, last }),
        })
      ).map(row => row.offset),
    )
    const lacking: bigint[] = []
    for (let offset = first; offset <= last && lacking.length < offsetsNamedMax; offset += 1n)
      if (!held.has(offset.toString())) lacking.push(offset)
    const lost = stretch.messages - found
    return {
      check: 'messages',
      place: `${place} offset ${lacking.join(', ')}${lost > BigInt(lacking.length) ? ' …' : ''}`,
      message: `${lost} of ${span} have no fate: they are no event, no mark, no decision, neither passed nor rejected`,
      remedy: lostRemedy,
    }
  }
  // By now they have one: the ledger was being written.
  return {
    check: 'messages',
    place: `${place} ${span}`,
    message: 'the fates changed meanwhile',
    remedy: 'Audit again.',
  }
}

const lostRemedy =
  'Read the windows again: `meterline collect --once` of the span, and `meterline coverage` says which are incomplete.'

/** Fates of offsets that no position claims. */
async function namedStray(
  store: Store,
  one: TakenPartition,
  stretches: readonly Stretch[],
  strays: bigint,
  params: Params,
): Promise<Difference> {
  const place = placeOf(one)
  let after = 0n
  for (const stretch of [...stretches, undefined]) {
    const last = (stretch?.first ?? one.next) - 1n
    if (last >= after) {
      const [row] = await store.rows<{ offset: string; found: string }>(
        `select min(offset) as offset, count() as found from (${fateRows(inStretch)})`,
        { ...params, ...stretchParams(one, { first: after, last }) },
      )
      if (row && row.found !== '0')
        return {
          check: 'messages',
          place: `${place} offset ${row.offset}`,
          message: `${strays} messages have a fate, and no position says that they were taken`,
          remedy: 'A row of `positions` is gone: start the processor, which reads on from where they end.',
        }
    }
    if (stretch) after = stretch.last + 1n
  }
  return {
    check: 'messages',
    place,
    message: `${strays} messages have a fate in holes of the log`,
    remedy: 'Audit again.',
  }
}

/** The first offset with two fates, and which. */
async function namedTwice(
  store: Store,
  one: TakenPartition,
  twice: bigint,
  params: Params,
): Promise<Difference> {
  const place = placeOf(one)
  const all = { first: 0n, last: one.next }
  const [block] = await store.rows<{ block: string }>(
    `select intDiv(offset, ${blockOffsets}) as block from (${fateRows(inStretch)})
     group by block having count() > groupBitmap(offset) order by block limit 1`,
    { ...params, ...stretchParams(one, all) },
  )
  const first = BigInt(block?.block ?? 0) * blockOffsets
  const [row] = await store.rows<{ offset: string; fates: readonly string[] }>(
    `select offset, groupArray(fate) as fates from (${fateRows(inStretch)})
     group by offset having count() > 1 order by offset limit 1`,
    { ...params, ...stretchParams(one, { first, last: first + blockOffsets - 1n }) },
  )
  return {
    check: 'messages',
    place: `${place} offset ${row?.offset ?? '?'}`,
    message: `${twice === 1n ? 'this message has' : `${twice} messages have`} two fates: ${row?.fates.join(' and ') ?? ''}`,
    remedy:
      'One of the rows was not written by the processor, or is what is left of a crash: compare them by hand.',
  }
}

const inStretch =
  'log = {oneLog:String} and partition = {onePartition:UInt32} and offset >= {oneFirst:UInt64} and offset <= {oneLast:UInt64}'

function stretchParams(
  one: TakenPartition,
  { first, last }: { readonly first: bigint; readonly last: bigint },
) {
  return {
    oneLog: one.log,
    onePartition: one.partition,
    oneFirst: first.toString(),
    oneLast: last.toString(),
  }
}
