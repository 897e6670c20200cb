/**
 * What counts: every accepted reading is current, superseded, withdrawn, or of a read that is suspect or not complete; and
 * every read that is taken for whole has exactly the readings that its mark says. The snapshot rule is written here once
 * more, by the mark and not by `currentReads`, so that a mistake there shows as a difference.
 */
import { showInstant } from '../../schemas/window.ts'
import { undisplaced } from '../pushed-marks.ts'
import { asOfEnd, type Position, positionParams } from '../reads.ts'
import type { Params, Store } from '../store.ts'
import { type Compared, type Difference, type Equation, namedMax } from './report.ts'
import { inSlice, type Slice, sliceParams } from './slices.ts'

/** `counts_from` of a read that does not count. */
const never = '18446744073709551615'
const before = `${inSlice} and offset < ${asOfEnd}`

/**
 * A row a source, scope, window and `made` (the read that made the readings): how many there are, the sum of their
 * content hashes, and what the marks say that stand for them.
 */
const perRead = `
  select source, scope, start, made, sum(n) as readings, sum(hashes) as digest, countIf(is_mark) as marks,
    max(believed) as is_believed, max(suspected) as is_suspect, max(unheld) as is_incomplete,
    maxIf((exact, at), believed) as rank, maxIf(at, suspected or unheld) as waits_at,
    countIf(vouched) > 0 and (minIf(said_events, vouched) != readings or maxIf(said_events, vouched) != readings
      or minIf(said_digest, vouched) != digest or maxIf(said_digest, vouched) != digest) as is_wrong,
    maxIf(said_events, vouched) as said, maxIf(said_digest, vouched) = digest as is_same
  from (
    select source, scope, start, readat as made, count() as n, sum(content) as hashes, false as is_mark,
      false as believed, false as suspected, false as unheld, false as vouched, false as exact, readat as at,
      toUInt64(0) as said_events, toUInt64(0) as said_digest
    from events final where ${before} group by source, scope, start, readat
    union all
    select source, scope, start, content_readat, 0, 0, true, vouched and counts_from < ${asOfEnd},
      vouched and not counts_from < ${asOfEnd}, outcome = 'complete' and not held,
      outcome = 'complete' and held as vouched, not estimated, readat, toUInt64(events), digest
    from reads final where ${before})
  group by source, scope, start, made`

/** A row a window: its current read, and all reads as (made, readings, believed, suspect, incomplete, marks, wrong, said, same). */
const perWindow = `
  select source, scope, start, argMaxIf(made, rank, is_believed) as current, max(is_believed) as is_read,
    maxIf(rank.2, is_believed) as current_at, max(waits_at) as waiting_at,
    max(is_suspect and waits_at > toDateTime64(0, 3, 'UTC')) as any_suspect, max(is_incomplete) as any_incomplete,
    groupArray((made, readings, is_believed, is_suspect, is_incomplete, marks, is_wrong, said, is_same)) as all_reads,
    arrayMap(r -> r.1, arrayFilter(r -> r.3 and r.1 != current and r.2 > 0, all_reads)) as olds
  from (${perRead}) group by source, scope, start`

/** With `why` of an open window: 1 suspect, 2 incomplete, 3 failed, 4 no mark yet; 0 where nothing is open. */
const perWindowOpen = `
  select *,
    arrayExists(w -> w.1 = source and w.2 = scope and start >= w.3 and start < w.4, (
      select groupArray((toString(source), scope, start, end)) from decisions final
      where action = 'waive' and subject = '')) as is_waived,
    is_waived or (is_read and waiting_at <= current_at) as is_settled,
    multiIf(not is_settled and any_suspect, 1, not is_settled and any_incomplete, 2,
      not is_settled and not is_read and arrayExists(r -> r.6 > 0, all_reads), 3,
      arrayExists(r -> r.6 = 0, all_reads), 4, 0) as why
  from (${perWindow})`

const openWords = ['suspect', 'incomplete', 'failed', 'unmarked'] as const
const openRemedies: Readonly<Record<(typeof openWords)[number], string>> = {
  suspect: 'wait as suspect: a second read an hour later confirms them, or `meterline coverage confirm`',
  incomplete: 'are incomplete: the ledger lacks what their mark says; they are read again',
  failed: 'could not be read: `meterline coverage` says why',
  unmarked: 'have readings whose mark has not come',
}

interface SliceCounts {
  readonly reads: string
  readonly current_readings: string
  readonly older: string
  readonly suspect: string
  readonly incomplete: string
  readonly failed: string
  readonly unmarked: string
  readonly wrong: string
  readonly wrong_reads: readonly (readonly [string, string, number, WrongRead])[]
  readonly opens: readonly string[]
  readonly firsts: readonly (readonly [string, string, number])[]
}
/** made, readings, and at 7 what the mark says, at 8 whether the content is the same. */
type WrongRead = readonly [string, string, unknown, unknown, unknown, unknown, unknown, string, unknown]

export interface ReadingsFound {
  readonly equation: Equation
  readonly compared: readonly Compared[]
  readonly gaps: readonly string[]
}

const classes = ['current', 'superseded', 'withdrawn', 'suspect', 'incomplete', 'failed', 'unmarked'] as const
type Class = (typeof classes)[number]

/**
 * Classes all readings of the slices as the ledger stood at the position.
 * @param of.accepted how many messages were accepted in all; undefined where the slices are not all there is: then only
 * their readings and marks are counted.
 * @param of.isAtRest nothing is in flight, so that a mark that has not come is missing.
 */
export async function auditReadings(
  store: Store,
  slices: readonly Slice[],
  position: Position,
  of: { readonly accepted: bigint | undefined; readonly isAtRest: boolean },
): Promise<ReadingsFound> {
  const params = positionParams(position)
  const sums = new Map<Class, bigint>(classes.map(name => [name, 0n]))
  const add = (name: Class, value: string | undefined) =>
    sums.set(name, (sums.get(name) ?? 0n) + BigInt(value ?? 0))
  const open = openWords.map(word => ({ word, windows: 0n, first: '' }))
  const differences: Difference[] = []
  let reads = 0n
  let wrong = 0n
  for (const slice of slices) {
    const given = { ...params, ...sliceParams(slice) }
    const row = await countSlice(store, given)
    reads += BigInt(row.reads)
    add('current', row.current_readings)
    for (const name of ['suspect', 'incomplete', 'failed', 'unmarked'] as const) add(name, row[name])
    if (row.older !== '0') {
      const older = await countOlder(store, given)
      add('superseded', older?.superseded)
      add('withdrawn', older?.withdrawn)
    }
    for (const [index, one] of open.entries()) {
      one.windows += BigInt(row.opens[index] ?? 0)
      const first = row.firsts[index]
      if (one.first === '' && first && first[0] !== '') one.first = showPlace(first)
    }
    wrong += BigInt(row.wrong)
    differences.push(...row.wrong_reads.map(wrongRead))
  }
  const flags = await contradictingFlags(store, params)
  const span = { startMs: slices[0]?.startMs ?? 0, endMs: slices.at(-1)?.endMs ?? 0 }
  const accepted = of.accepted ?? (await countAccepted(store, { ...params, ...sliceParams(span) }))
  const right = [
    ...(await countOthers(
      store,
      { ...params, ...sliceParams(span) },
      of.accepted === undefined ? 'span' : 'all',
    )),
    ...classes.map(name => ({ name: className[name], value: String(sums.get(name)) })),
  ]
  const sum = right.reduce((all, { value }) => all + BigInt(value), 0n)
  const lost = sum > accepted ? sum - accepted : accepted - sum
  return {
    equation: {
      left: { name: 'accepted', value: accepted.toString() },
      right,
      holds: sum === accepted,
    },
    compared: [
      {
        check: 'readings',
        compared: sum,
        things: 'accepted messages',
        differing: lost,
        differences:
          lost === 0n
            ? []
            : [
                {
                  check: 'readings',
                  place: 'in total',
                  message: `${accepted} messages were accepted, and the rows of their classes are ${sum}`,
                  remedy: 'The log ↔ ledger check names the first offset: mend that first.',
                },
              ],
      },
      {
        check: 'marks',
        compared: reads,
        things: 'reads',
        differing: wrong + BigInt(flags.length),
        differences: [...differences, ...flags].slice(0, namedMax),
      },
    ],
    gaps: open.flatMap(({ word, windows, first }) =>
      windows === 0n || (word === 'unmarked' && !of.isAtRest)
        ? []
        : [`${windows} windows ${openRemedies[word]} (first: ${first})`],
    ),
  }
}

const className: Readonly<Record<Class, string>> = {
  current: 'current',
  superseded: 'superseded',
  withdrawn: 'withdrawn',
  suspect: 'of suspect reads',
  incomplete: 'of incomplete reads',
  failed: 'of failed reads',
  unmarked: 'of reads without a mark',
}

async function countSlice(store: Store, params: Params): Promise<SliceCounts> {
  const sumOf = (condition: string) => `sum(arraySum(r -> if(${condition}, r.2, 0), all_reads))`
  const [row] = await store.rows<SliceCounts>(
    `select sum(length(all_reads)) as reads,
       ${sumOf('r.3 and r.1 = current')} as current_readings, ${sumOf('r.3 and r.1 != current')} as older,
       ${sumOf('not r.3 and r.4')} as suspect, ${sumOf('not r.3 and not r.4 and r.5')} as incomplete,
       ${sumOf('not r.3 and not r.4 and not r.5 and r.6 > 0')} as failed, ${sumOf('r.6 = 0')} as unmarked,
       sum(arrayCount(r -> r.7, all_reads)) as wrong,
       groupArrayIf(${namedMax})((toString(source), scope, toUnixTimestamp(start), arrayFirst(r -> r.7, all_reads)),
         arrayExists(r -> r.7, all_reads)) as wrong_reads,
       [${openWords.map((_, index) => `countIf(why = ${index + 1})`).join(', ')}] as opens,
       [${openWords.map((_, index) => `minIf((toString(source), scope, toUnixTimestamp(start)), why = ${index + 1})`).join(', ')}] as firsts
     from (${perWindowOpen})`,
    params,
  )
  if (!row) throw new Error('an aggregate without groups has a row')
  return row
}

/** Readings of reads that were current once: is there one of the same identity in the read that is current now? */
async function countOlder(
  store: Store,
  params: Params,
): Promise<{ superseded: string; withdrawn: string } | undefined> {
  const [row] = await store.rows<{ superseded: string; withdrawn: string }>(
    `select sumIf(older, stays) as superseded, sumIf(older, not stays) as withdrawn
     from (
       select max(e.readat = w.current) as stays, countIf(has(w.olds, e.readat)) as older
       from (select source, scope, start, identity, readat from events final where ${before}) as e
       inner join (select source, scope, start, current, olds from (${perWindow}) where notEmpty(olds)) as w
         on e.source = w.source and e.scope = w.scope and e.start = w.start
       group by e.source, e.scope, e.start, e.identity)`,
    params,
  )
  return row
}

/** Distinct offsets of the readings and marks of a span. */
async function countAccepted(store: Store, params: Params): Promise<bigint> {
  const rows = await store.rows<{ offsets: string }>(
    `select groupBitmap(offset) as offsets from (
       select toString(log) as log, partition, offset from events final where ${before}
       union all select toString(log), partition, offset from reads final where ${before})
     group by log, partition`,
    params,
  )
  return rows.reduce((sum, { offsets }) => sum + BigInt(offsets), 0n)
}

/** What was accepted besides readings. */
async function countOthers(
  store: Store,
  params: Params,
  of: 'span' | 'all',
): Promise<readonly { readonly name: string; readonly value: string }[]> {
  const there = `offset < ${asOfEnd}`
  const firsts = 'select identity, toString(log), partition, offset from pushed_firsts final'
  const voided = `select identity from (
    select identity, argMax(action, (log, partition, offset)) as last from (select * from amendments final where ${there})
    group by identity having last = 'void')`
  const [row] = await store.rows<Readonly<Record<'marks' | 'control' | 'pushed' | 'voided', string>>>(
    `select (select count() from reads final where ${of === 'all' ? there : before}) as marks,
       (select count() from decisions final where ${there}) + (select count() from amendments final where ${there})
         + (select count() from pushed_marks final
            where ${there} and ${undisplaced}) as control,
       (select countIf(identity not in (${voided})) from pushed final
         where ${there} and (identity, log, partition, offset) in (${firsts})) as pushed,
       (select countIf(identity in (${voided})) from pushed final
         where ${there} and (identity, log, partition, offset) in (${firsts})) as voided`,
    params,
  )
  const marks = { name: 'marks', value: row?.marks ?? '0' }
  return of === 'span'
    ? [marks]
    : [
        marks,
        { name: 'other control events', value: row?.control ?? '0' },
        { name: 'pushed, current', value: row?.pushed ?? '0' },
        { name: 'pushed, voided', value: row?.voided ?? '0' },
      ]
}

/** A read waits as suspect exactly as long as nothing says since when it counts. */
async function contradictingFlags(store: Store, params: Params): Promise<readonly Difference[]> {
  const rows = await store.rows<{ source: string; scope: string; start_s: number; suspect: boolean }>(
    `select source, scope, toUnixTimestamp(start) as start_s, suspect from reads final
     where suspect != (counts_from = ${never}) and offset < ${asOfEnd} order by start, source, scope limit ${namedMax}`,
    params,
  )
  return rows.map(({ source, scope, start_s, suspect }) => ({
    check: 'marks',
    place: showPlace([source, scope, start_s]),
    message: suspect
      ? 'the read waits as suspect, and counts all the same'
      : 'the read counts, and nothing says since when: it waited as suspect, and nobody confirmed it',
    remedy: 'Look at the read, then read the window again; `meterline coverage confirm` if it is right.',
  }))
}

function wrongRead([source, scope, startS, read]: SliceCounts['wrong_reads'][number]): Difference {
  const [made, readings, , , , , , said, isSame] = read
  const message =
    readings === said
      ? `the mark says another content than that of the ${readings} readings there are`
      : `the mark says ${said} readings, and the ledger has ${readings}`
  return {
    check: 'marks',
    place: `${showPlace([source, scope, startS])} read ${made}`,
    message: isSame ? `${message}, though of the same sum` : message,
    remedy: 'Read the window again: `meterline collect --once`; the newer read replaces this one.',
  }
}

export function showPlace([source, scope, startS]: readonly [string, string, number]): string {
  return `${source} ${scope} ${showInstant(Number(startS) * 1000)}`
}
