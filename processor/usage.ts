/** Answers for a meter: from rollups where they are fresh, from the ledger where they are not, exact either way. */
import Fraction from 'fraction.js'
import { exact, quotientPrinter, showQuantity, trillionths } from '../schemas/decimal.ts'
import { Fault } from '../schemas/fault.ts'
import type { UsageRow } from '../schemas/meters.ts'
import { windowHolding } from '../schemas/step.ts'
import { showInstant, type Window } from '../schemas/window.ts'
import type { Bounds } from './queries.ts'
import { settlingMs } from './rollups.ts'
import type { Reading, Store } from './store.ts'
import {
  type Freshness,
  isNone,
  planUsage,
  type RowKey,
  type StaleCell,
  staleHoursSql,
  staleSql,
  type UsagePlan,
  type UsageQuery,
  type UsageStatement,
  usageSql,
} from './usage-plan.ts'

/** One group of one window, with its exact quantity. Of what is not told apart, source or subject, it has ''. */
export interface Quantity {
  readonly window: Window
  readonly source: string
  readonly subject: string
  readonly dims: Readonly<Record<string, string>>
  readonly quantity: Fraction
  /** Readings reach over an edge of the window: they were split by the time really used. */
  readonly isSplit: boolean
}

/** Stale cells that are named one by one; beyond that, all of their hours come from the ledger. */
const staleNamedMax = 1000
/** Cells that were ready are kept fresh for much longer than this after another definition took their place (rollups.ts). */
const seenMsMax = 60_000
/** Of one source; there are few of those. */
const smallRowsMax = 10_000

/**
 * The quantities of a meter, ordered by window, source, subject and dims; groups without usage are not there.
 * @throws Fault METER_UNKNOWN for a dim the meter does not have; USAGE for a step or zone that is none; QUERY_TOO_LARGE
 */
export async function quantities(
  store: Store,
  query: UsageQuery,
  { rowsMax = Number.POSITIVE_INFINITY, ...reading }: Partial<Bounds> = {},
): Promise<readonly Quantity[]> {
  const found: Quantity[] = []
  for await (const rows of amounts(store, query, reading)) {
    if (found.length + rows.length > rowsMax)
      throw new Fault(
        'QUERY_TOO_LARGE',
        'the answer needs more rows of usage at once than there is memory for: ask for less at once',
      )
    for (const row of rows) found.push(quantityOf(query, row))
  }
  return found
}

/** As `quantities`, in the words of design.md's `usage`. */
export async function usage(
  store: Store,
  query: UsageQuery,
  reading?: Reading,
): Promise<readonly UsageRow[]> {
  const found: UsageRow[] = []
  for await (const rows of usageRows(store, query, reading)) found.push(...rows)
  return found
}

/** As `usage`, in the order of the rows, as they come. */
export async function* usageRows(
  store: Store,
  query: UsageQuery,
  reading?: Reading,
): AsyncGenerator<readonly UsageRow[]> {
  const { meter, groupBy } = query
  const print = valuePrinter(query)
  for await (const rows of amounts(store, query, reading))
    yield rows.map(row => ({
      meter: meter.slug,
      unit: meter.unit,
      window_start: showInstant(row.window.startMs),
      window_end: showInstant(row.window.endMs),
      source: row.source,
      subject: row.subject,
      group_by: Object.fromEntries(groupBy.map((dim, index) => [dim, row.dims[index] ?? ''])),
      value: print(row),
      ...(row.parts.length > 0 && { split: true as const }),
    }))
}

/** The key of a row, from which the page behind it is asked. */
export function keyOf(row: Amount, { keep = { source: true, subject: true } }: UsageQuery): RowKey {
  return [
    row.window.startMs,
    ...(keep.source ? [row.source] : []),
    ...(keep.subject ? [row.subject] : []),
    ...row.dims,
  ]
}

/** One row as the store has it: its value is (amount + Σ sum ÷ length of the parts) ÷ divisor ÷ the meter's `per`. */
export interface Amount {
  readonly window: Window
  readonly source: string
  readonly subject: string
  /** In the order of the query's `groupBy`. */
  readonly dims: readonly string[]
  readonly amount: string
  readonly divisor: string
  /** Of readings that an edge splits: sums of value × time, by the time over which the value was used, in milliseconds. */
  readonly parts: readonly (readonly [lengthMs: string, sum: string])[]
}

/** The rows of an answer in their order, as they come. */
export async function* amounts(
  store: Store,
  query: UsageQuery,
  reading?: Reading,
): AsyncGenerator<readonly Amount[]> {
  const plan = planUsage(query)
  if (plan.isEmpty) return
  const { statement, rows } = isSmall(plan)
    ? await smallAnswer(store, plan, inWhole(reading))
    : answer(store, plan, await freshness(store, plan, reading), reading)
  const read = rowReader(plan, statement.hasParts)
  if (query.top === undefined || statement.isTopped) for await (const some of rows) yield some.map(read)
  else yield* topOf(rows, read, query)
}

interface Answer {
  readonly statement: UsageStatement
  readonly rows: AsyncIterable<Rows> | Iterable<Rows>
}
type Rows = readonly (readonly unknown[])[]

function answer(store: Store, plan: UsagePlan, fresh: Freshness, reading?: Reading) {
  const statement = usageSql(plan, fresh)
  return { statement, rows: store.stream(statement.sql, statement.params, reading) }
}

/**
 * Of a small answer most of the time goes into planning statements: it is asked for as if nothing were stale, while that is
 * looked up, and asked for again where something is. So also where the look took so long that a cell which was stale when
 * the answer was read may be found fresh after (`settlingMs`).
 */
async function smallAnswer(store: Store, plan: UsagePlan, reading: Reading): Promise<Answer> {
  const startedMs = performance.now()
  const left = new AbortController()
  const signal = reading.signal ? AbortSignal.any([reading.signal, left.signal]) : left.signal
  const rollups = calm.get(store) ? knownRollups(plan) : undefined
  const guess =
    rollups === undefined
      ? undefined
      : answer(store, plan, { rollups, stale: { cells: [] } }, { ...reading, signal })
  const guessed = guess && Array.fromAsync(guess.rows)
  // Where the guess is not taken nobody asks what became of it.
  guessed?.catch(() => undefined)
  let isTaken = false
  try {
    const fresh = await freshness(store, plan, reading)
    const tookMs = performance.now() - startedMs
    const isAllFresh = fresh !== 'ledger only' && isNone(fresh.stale)
    // A question for the ledger alone looked nothing up.
    if (fresh !== 'ledger only') calm.set(store, isAllFresh && tookMs < settlingMs / 2)
    isTaken = isAllFresh && tookMs < settlingMs
    return isTaken && guess && guessed
      ? { ...guess, rows: await guessed }
      : answer(store, plan, fresh, reading)
  } finally {
    if (!isTaken) left.abort()
  }
}

/**
 * Of which stores the last small question found nothing stale, and soon: the next one likely finds the same. While events
 * come in, or many ask, a guess would mostly be work for nothing. Only time is lost where it is wrong.
 */
const calm = new WeakMap<Store, boolean>()

/** Rows that are surely few: what a chart of some tenants shows, and totals. */
function isSmall({ runs, query: { groupBy, subjects, keep } }: UsagePlan): boolean {
  const windows = runs.reduce((sum, { count }) => sum + count, 0)
  const tellsApart = keep?.subject === false ? 1 : (subjects?.length ?? Number.POSITIVE_INFINITY)
  return groupBy.length === 0 && windows * tellsApart <= smallRowsMax
}

/** As `reading`, with the answer in one piece: the embedded store takes such statements beside each other, and streams by turns. */
function inWhole(reading: Reading = {}): Reading {
  return { ...reading, settings: { ...reading.settings, wait_end_of_query: 1 } }
}

function rowReader(plan: UsagePlan, hasParts: boolean): (row: readonly unknown[]) => Amount {
  const { runs, query, keys } = plan
  const hasSource = keys.includes('source')
  const hasSubject = keys.includes('subject')
  const firstDim = 1 + Number(hasSource) + Number(hasSubject)
  const end = 1 + keys.length
  let lastText: unknown
  let window: Window = query.span
  return row => {
    if (row[0] !== lastText) {
      const found = windowHolding(runs, Number(row[0]))
      if (found === undefined) throw new Error(`no window starts at ${row[0]}`)
      window = found
      lastText = row[0]
    }
    return {
      window,
      source: hasSource ? (row[1] as string) : '',
      subject: hasSubject ? (row[firstDim - 1] as string) : '',
      dims: row.slice(firstDim, end) as string[],
      amount: row[end] as string,
      divisor: row[end + 1] as string,
      parts: hasParts ? (row[end + 2] as Amount['parts']) : none,
    }
  }
}

const none: Amount['parts'] = []

/** Where only rationals can tell which value is larger: the largest of each window are kept while its rows go by. */
async function* topOf(
  rows: Answer['rows'],
  read: (row: readonly unknown[]) => Amount,
  query: UsageQuery,
): AsyncGenerator<readonly Amount[]> {
  const { top = 0 } = query
  let kept: { readonly row: Amount; readonly value: Fraction }[] = []
  const largest = () => kept.map(({ row }) => row)
  for await (const some of rows)
    for (const row of some.map(read)) {
      if (kept[0] && kept[0].row.window.startMs !== row.window.startMs) {
        yield largest()
        kept = []
      }
      const value = undividedOf(row)
      // Rows come in the order of their keys: of equal values the first stays in front.
      let low = 0
      let high = kept.length
      while (low < high) {
        const middle = (low + high) >>> 1
        if (kept[middle]!.value.compare(value) >= 0) low = middle + 1
        else high = middle
      }
      if (low >= top) continue
      kept.splice(low, 0, { row, value })
      if (kept.length > top) kept.pop()
    }
  yield largest()
}

/** Before the meter's `per`. */
function undividedOf({ amount, divisor, parts }: Amount): Fraction {
  const whole = parts.reduce(
    (all, [lengthMs, sum]) => all.add(new Fraction(trillionths(sum), BigInt(lengthMs) * trillion)),
    exact(amount),
  )
  return whole.div(exact(divisor))
}

const trillion = 10n ** 12n

function quantityOf({ meter, groupBy }: UsageQuery, row: Amount): Quantity {
  const { window, source, subject, parts } = row
  return {
    window,
    source,
    subject,
    dims: Object.fromEntries(groupBy.map((dim, index) => [dim, row.dims[index] ?? ''])),
    quantity: undividedOf(row).div(exact(meter.per ?? '1')),
    isSplit: parts.length > 0,
  }
}

/** Prints the value of a row. */
export function valuePrinter({ meter: { per = '1' } }: Pick<UsageQuery, 'meter'>): (row: Amount) => string {
  const undivided = quotientPrinter(BigInt(per))
  return row => {
    if (row.parts.length > 0) return showQuantity(undividedOf(row).div(per))
    const amount = trillionths(row.amount)
    return row.divisor === '1'
      ? undivided(amount)
      : quotientPrinter(BigInt(row.divisor) * BigInt(per))(amount)
  }
}

/** Rollups stand for now: what was before is in the ledger alone. And they know whole hours. */
function isLedgerOnly({ query, cut }: UsagePlan): boolean {
  return query.asOf !== undefined || cut === 'all'
}

/** The key of the cells that may be read, where nobody need be asked for it. */
function knownRollups(plan: UsagePlan): string | undefined {
  const seen = plan.query.rollups
  if (seen === undefined || isLedgerOnly(plan) || performance.now() - seen.seenMs >= seenMsMax) return
  return seen.key
}

/**
 * What rollups are good for. The stale cells are looked up first, then rollups and ledger are read: a cell that is
 * recomputed in between is answered from the ledger, which is right as well. The other way round a rollup read before, and
 * a cell found fresh after, would lack what was acknowledged long ago; within `settlingMs` that cannot be.
 */
async function freshness(store: Store, plan: UsagePlan, reading?: Reading): Promise<Freshness> {
  if (isLedgerOnly(plan)) return 'ledger only'
  const cells: StaleCell[] = []
  let rollups = knownRollups(plan)
  const asked = staleSql(plan, { cellsMax: staleNamedMax, isReadyKnown: rollups !== undefined })
  for await (const rows of store.stream(asked.sql, asked.params, inWhole(reading)))
    for (const [kind, source, subject, hourS] of rows as [string, string, string, number][])
      if (kind === 'ready') rollups = source
      else cells.push({ source, subject, hourS })
  if (rollups === undefined) return 'ledger only'
  if (cells.length <= staleNamedMax) return { rollups, stale: { cells } }
  const hours: number[] = []
  const all = staleHoursSql(plan)
  for await (const rows of store.stream(all.sql, all.params, reading))
    for (const [hourS] of rows as [number][]) hours.push(hourS)
  return { rollups, stale: { hours } }
}
