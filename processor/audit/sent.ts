/**
 * What an outbox gave to the log has arrived: by counts and 64-bit sums of id hashes of each window, made in SQL at both
 * ends. Only where these differ are single events looked at. The ledger may have more than one outbox remembers: from other
 * collectors, or from before its retention; but where the log is this outbox itself, every event of it must be in it.
 */
import type { ReleasedSum, WindowRow } from '../../runtime/log/outbox-rows.ts'
import { showInstant, type Window } from '../../schemas/window.ts'
import { chunksOf } from '../reads.ts'
import type { Store } from '../store.ts'
import { allFates, type TakenPartition } from './messages.ts'
import { type Compared, type Difference, namedMax } from './report.ts'
import { inSlice, type Slice, sliceParams } from './slices.ts'

/** The outbox, as far as an audit asks it. */
export interface SentEvents {
  readonly id: string
  sums(span: Window): readonly ReleasedSum[]
  rowsOf(windows: readonly ScopeStart[]): readonly WindowRow[]
  releasedPushes(afterSeq: number, limit: number): readonly WindowRow[]
  bounds(): { readonly firstSeq: number; readonly nextSeq: number }
}

interface ScopeStart {
  readonly source: string
  readonly scope: string
  readonly startMs: number
}

/** How many rows of the outbox are held against the ledger at once. */
const rowsPerLook = 5_000

/** @param log the log that the outbox sends to: its own id where that is read in place. */
export async function auditSent(
  store: Store,
  slices: readonly Slice[],
  {
    outbox,
    log,
    taken,
  }: { readonly outbox: SentEvents; readonly log: string; readonly taken: readonly TakenPartition[] },
): Promise<Compared> {
  const span = { startMs: slices[0]?.startMs ?? 0, endMs: slices.at(-1)?.endMs ?? 0 }
  const ends = new Map(taken.filter(one => one.log === log).map(one => [one.partition, one.next]))
  const sums = outbox.sums(span)
  const windows = sums.filter(isOfScope)
  const unlike = await unlikeWindows(store, slices, windows)
  const differences: Difference[] = []
  let differing = 0n
  const note = (rows: readonly Difference[]) => {
    differing += BigInt(rows.length)
    differences.push(...rows.slice(0, namedMax - differences.length))
  }
  const looking = { store, outbox, log, ends }
  for (const some of chunksOf(unlike)) note(await lookAtWindows(looking, some))
  if (sums.some(one => !isOfScope(one))) note(await lookAtPushes(looking))
  return {
    check: 'sent',
    compared: sums.reduce((all, { events }) => all + BigInt(events), 0n),
    things: 'events that the outbox keeps',
    differing,
    differences,
  }
}

type ScopeSum = ReleasedSum & ScopeStart

function isOfScope(one: ReleasedSum): one is ScopeSum {
  return one.scope !== undefined && one.startMs !== undefined
}

/** The windows of which the outbox released other events than the ledger has. */
async function unlikeWindows(
  store: Store,
  slices: readonly Slice[],
  sums: readonly ScopeSum[],
): Promise<readonly ScopeStart[]> {
  const unlike: ScopeStart[] = []
  for (const slice of slices) {
    const mine = sums.filter(({ startMs }) => startMs >= slice.startMs && startMs < slice.endMs)
    if (mine.length === 0) continue
    const span = {
      startMs: Math.min(...mine.map(({ startMs }) => startMs)),
      endMs: Math.max(...mine.map(({ startMs }) => startMs)) + 1,
    }
    const rows = await store.rows<{
      source: string
      scope: string
      start_s: number
      events: string
      ids: string
    }>(
      `select source, scope, toUnixTimestamp(start) as start_s, count() as events, sum(id_hash) as ids from (
         select toString(source) as source, scope, start, id_hash from events final where ${inSlice}
         union all select toString(source), scope, start, id_hash from reads final where ${inSlice})
       where start >= fromUnixTimestamp({from:UInt32}) and start < fromUnixTimestamp({to:UInt32})
       group by source, scope, start_s`,
      { ...sliceParams(slice), from: span.startMs / 1000, to: Math.ceil(span.endMs / 1000) },
    )
    const held = new Map(rows.map(row => [keyOf({ ...row, startMs: Number(row.start_s) * 1000 }), row]))
    for (const { source, scope, startMs, events, sum } of mine) {
      const row = held.get(keyOf({ source, scope, startMs }))
      if (row?.events !== String(events) || BigInt(row.ids) !== sum) unlike.push({ source, scope, startMs })
    }
  }
  return unlike
}

interface Looking {
  readonly store: Store
  readonly outbox: SentEvents
  readonly log: string
  readonly ends: ReadonlyMap<number, bigint>
}

/** Events of these windows that one side has and the other should. */
async function lookAtWindows(
  looking: Looking,
  windows: readonly ScopeStart[],
): Promise<readonly Difference[]> {
  const { store, outbox, log, ends } = looking
  const rows = outbox.rowsOf(windows)
  const held = await store.rows<{
    id_hash: string
    source: string
    scope: string
    start_s: number
    place: string
    offset: string
  }>(
    `select id_hash, source, scope, toUnixTimestamp(start) as start_s, concat(log, '/', toString(partition)) as place, offset
     from (
       select toString(source) as source, scope, start, id_hash, toString(log) as log, partition, offset
       from events final where ${inWindows}
       union all
       select toString(source), scope, start, id_hash, toString(log), partition, offset from reads final where ${inWindows})`,
    {
      sources: windows.map(({ source }) => source),
      scopes: windows.map(({ scope }) => scope),
      starts: windows.map(({ startMs }) => startMs / 1000),
    },
  )
  const hashes = new Set(held.map(row => row.id_hash))
  const missing = rows.filter(row => isDue(row, ends) && !hashes.has(row.idHash.toString()))
  // Of a duplicate the ledger has the first, so its id is there; a conflict and a reject are all that is left of theirs.
  const found = await withoutFate(looking, missing, ['conflict', 'rejected'])
  if (outbox.id !== log) return found
  const seqs = new Map(rows.map(row => [String(row.seq), row.idHash.toString()]))
  const end = ends.get(0) ?? 0n
  const first = BigInt(outbox.bounds().firstSeq)
  const strange = held.filter(
    row =>
      row.place === `${log}/0` &&
      BigInt(row.offset) >= first &&
      BigInt(row.offset) < end &&
      seqs.get(row.offset) !== row.id_hash,
  )
  return [
    ...found,
    ...strange.map(
      (row): Difference => ({
        check: 'sent',
        place: `${row.source} ${row.scope} ${showInstant(Number(row.start_s) * 1000)}`,
        message: `the ledger has an event (id hash ${hex(BigInt(row.id_hash))}) from offset ${row.offset}, and the outbox has ${seqs.has(row.offset) ? 'another one' : 'none of this window'} there`,
        remedy: 'The row was not written by the processor: read the window again, which replaces it.',
      }),
    ),
  ]
}

/** What is no part of a read: pushed events, decisions. Each is looked up by its place in the log. */
async function lookAtPushes(looking: Looking): Promise<readonly Difference[]> {
  const found: Difference[] = []
  let after = 0
  for (;;) {
    const rows = looking.outbox.releasedPushes(after, rowsPerLook)
    const last = rows.at(-1)
    if (!last) return found
    after = last.seq
    found.push(
      ...(await withoutFate(
        looking,
        rows.filter(row => isDue(row, looking.ends)),
        anyFate,
      )),
    )
  }
}

const anyFate = ['accepted', 'duplicate', 'conflict', 'rejected']

/** Those at whose place in the log the ledger has none of these fates, named. */
async function withoutFate(
  { store, log }: Looking,
  rows: readonly WindowRow[],
  fates: readonly string[],
): Promise<readonly Difference[]> {
  const lost: WindowRow[] = []
  for (const [partition, ofPartition] of Map.groupBy(rows, row => row.partition))
    for (const some of chunksOf(ofPartition)) {
      const known = new Set(
        (
          await store.rows<{ offset: string }>(
            `select distinct offset from (${allFates('log = {log:String} and partition = {partition:UInt32} and offset in ({offsets:Array(UInt64)})')}) where fate in ({fates:Array(String)})`,
            { log, partition, fates, offsets: some.map(row => row.offset ?? 0n) },
          )
        ).map(row => row.offset),
      )
      lost.push(...some.filter(row => !known.has(String(row.offset))))
    }
  return lost.map(row => ({
    check: 'sent',
    place:
      `${row.source} ${row.scope ?? ''} ${row.startMs === undefined ? '' : showInstant(row.startMs)}`.trim(),
    message: `outbox row ${row.seq} (id hash ${hex(row.idHash)}) was given to the log at ${row.partition}/${row.offset} and is not in the ledger`,
    remedy:
      'The collector sends it again once it hears of it; or read the window again: `meterline collect --once`.',
  }))
}

/** Was it released, to a place that the ledger has passed? What lies behind that is in flight. */
function isDue({ partition, offset }: WindowRow, ends: ReadonlyMap<number, bigint>): boolean {
  return offset !== undefined && offset < (ends.get(partition) ?? 0n)
}

const inWindows = `toStartOfHour(start) in (select toStartOfHour(fromUnixTimestamp(arrayJoin({starts:Array(UInt32)}))))
  and (toString(source), scope, toUnixTimestamp(start)) in (
    select r.1, r.2, r.3 from (select arrayJoin(arrayZip({sources:Array(String)}, {scopes:Array(String)},
      {starts:Array(UInt32)})) as r))`

function keyOf({ source, scope, startMs }: ScopeStart): string {
  return JSON.stringify([source, scope, startMs])
}

function hex(hash: bigint): string {
  return hash.toString(16).padStart(16, '0')
}
