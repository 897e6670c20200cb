/**
 * Holds what the outbox has sent against what the ledger has, and heals the difference: rows that are still kept are sent
 * again under the ids they have, and windows of which rows are gone are due again. Only here do both sides meet.
 */
import { Counter, Gauge } from 'prom-client'
import { Ledger } from '../processor/ledger.ts'
import type { Store } from '../processor/store.ts'
import type { Health } from '../runtime/health.ts'
import type { KafkaCallOptions, KafkaConfig } from '../runtime/log/kafka.ts'
import type { ScopeMemory } from '../runtime/log/memory.ts'
import type { SqliteOutbox } from '../runtime/log/outbox.ts'
import type { WindowRow } from '../runtime/log/outbox-rows.ts'
import type { Logger } from '../runtime/logs.ts'
import { registry } from '../runtime/metrics.ts'
import { rest } from '../runtime/rest.ts'
import { asFault, describeFault, type Fault } from '../schemas/fault.ts'
import { dayMs, hourMs, minuteMs, type Window, windowsOver } from '../schemas/window.ts'

/** The log between them. */
export interface SentLog {
  /** As `positions` names it. */
  readonly id: string
  /** The first offset that each partition still has. */
  readonly starts: ReadonlyMap<number, bigint>
  /** Can rows be sent once more? An outbox that is read in place goes on from where it is. */
  readonly resends: boolean
}

/** The log as it is now. @throws Fault LOG_UNREACHABLE | LOG_UNSAFE */
export async function sentLog(
  kafka: KafkaConfig | undefined,
  outbox: SqliteOutbox,
  options: KafkaCallOptions,
): Promise<SentLog> {
  if (!kafka)
    return {
      id: outbox.id,
      starts: new Map([[0, BigInt(outbox.bounds().firstSeq)]]),
      resends: false,
    }
  const { kafkaLogStart } = await import('../runtime/log/kafka-event-log.ts')
  return { ...(await kafkaLogStart(kafka, options)), resends: true }
}

export interface ResendParts {
  readonly outbox: SqliteOutbox
  readonly store: Store
  readonly log: SentLog
  /** As they stand in events, and for how long their providers answer. */
  readonly sources: readonly { readonly name: string; readonly retentionMs: number }[]
  readonly nowMs: number
  /** How much of the past is looked at: what the ledger lacks of windows that end before is not found. */
  readonly pastMs: number
}

export interface SentWindow extends Window {
  readonly source: string
  readonly scope: string
}

/** What was found, and done about it. */
export interface ResendReport {
  /** Rows that the ledger lacks although it has read the log beyond them, or the log no longer has them. */
  readonly rowsMissing: number
  readonly rowsResent: number
  /** Windows that were read and that the ledger does not have whole, with nothing of them on its way: due again. */
  readonly windowsDue: readonly SentWindow[]
  /** The same, but rows of them are on their way. */
  readonly windowsUnderWay: number
}

/** Is nothing missing but what is on its way, as always something is? */
export function isClean(report: ResendReport): boolean {
  return report.rowsMissing === 0 && report.windowsDue.length === 0
}

const resentRows = new Counter({
  name: 'meterline_resent_rows_total',
  help: 'Rows that the log had acknowledged and the ledger lacked: sent again.',
  registers: [registry],
})
const dueAgainWindows = new Counter({
  name: 'meterline_reopened_windows_total',
  help: 'Windows that were read and that the ledger lacked, with no rows left to send: due again.',
  registers: [registry],
})
const comparedSeconds = new Gauge({
  name: 'meterline_resend_compared_timestamp_seconds',
  help: 'When outbox and ledger were last compared, in Unix time.',
  registers: [registry],
})

const windowsMax = 400
const pushesMax = 5_000
const weekMs = 7 * dayMs

/**
 * Compares once, and heals. What is on its way, between outbox and ledger, is not missing.
 * @throws Fault of the store or the outbox; what was healed by then stays healed.
 */
export async function resendMissing(parts: ResendParts): Promise<ResendReport> {
  const { outbox, store, log } = parts
  const read = rememberedWindows(parts)
  const known = await ledgerWindows(store, read)
  const places = await placesOf(parts)
  const sent = outbox.sums({ startMs: 0, endMs: Number.MAX_SAFE_INTEGER })
  const windows = sent.filter((sum): sum is typeof sum & WindowName => sum.scope !== undefined)
  const ledger = await ledgerSums(store, windows)
  const missing: WindowRow[] = []
  const unlike = windows.filter(sum => ledger.get(nameOf(sum)) !== `${sum.events} ${sum.sum}`)
  for (const some of lots(unlike, windowsMax)) {
    const rows = outbox.rowsOf(some).filter(row => places.isPast(row))
    // Readings behind a mark that counts are strangers to the ledger: such a window has to be read again.
    const resendable = rows.filter(row => !known.short.has(nameOf(row)))
    missing.push(...(await lackedBy(store, log, resendable, await idsOf(store, some))))
  }
  missing.push(...(await missingPushes(parts, places)))
  const resent = log.resends && missing.length > 0 ? outbox.resend(missing.map(row => row.seq)) : 0
  resentRows.inc(resent)

  const lacking = read.filter(window => !known.whole.has(nameOf(window)))
  const due: SentWindow[] = []
  for (const some of lots(lacking, windowsMax)) {
    // Read after the rows were put back to waiting, which so count as being on their way.
    const underWay = new Set(outbox.rowsOf(some).flatMap(row => (places.isPast(row) ? [] : [nameOf(row)])))
    due.push(...some.filter(window => !underWay.has(nameOf(window))))
  }
  outbox.reopen(due)
  dueAgainWindows.inc(due.length)
  comparedSeconds.setToCurrentTime()
  return {
    rowsMissing: missing.length,
    rowsResent: resent,
    windowsDue: due,
    windowsUnderWay: lacking.length - due.length,
  }
}

interface WindowName {
  readonly source: string
  readonly scope: string
  readonly startMs: number
}

function nameOf({ source, scope, startMs }: Partial<WindowName>): string {
  return `${source} ${scope} ${startMs}`
}

/** Which rows the ledger must have by now: behind them it has read on, or the log has lost them. */
async function placesOf({ store, log }: ResendParts): Promise<{ isPast(row: WindowRow): boolean }> {
  const ledger = new Ledger(store, log.id)
  const past = new Map<number, bigint>()
  for (const [partition, start] of log.starts) {
    const next = (await ledger.resumeAt(partition)) ?? 0n
    past.set(partition, next > start ? next : start)
  }
  return {
    isPast: row => row.offset !== undefined && row.offset < (past.get(row.partition) ?? 0n),
  }
}

// -- what the ledger has

/** `events sum` of each window, as an outbox that has sent all of it would say. */
async function ledgerSums(
  store: Store,
  windows: readonly WindowName[],
): Promise<ReadonlyMap<string, string>> {
  const sums = new Map<string, string>()
  const sources = Array.from(new Set(windows.map(({ source }) => source)))
  for (const span of weeksOver(windows.map(({ startMs }) => startMs))) {
    const range = 'source in ({sources:Array(String)}) and start >= {from:DateTime} and start < {to:DateTime}'
    const rows = await store.rows<{
      source: string
      scope: string
      start_s: number
      events: string
      sum: string
    }>(
      `select source, scope, toUnixTimestamp(start) as start_s, count() as events, sum(id_hash) as sum
       from (select source, scope, start, id_hash from events final where ${range}
         union all select source, scope, start, id_hash from reads final where ${range})
       group by source, scope, start`,
      { sources, ...params(span) },
    )
    for (const { source, scope, start_s, events, sum } of rows)
      sums.set(nameOf({ source, scope, startMs: Number(start_s) * 1000 }), `${events} ${sum}`)
  }
  return sums
}

/** The id hashes that the ledger has of these windows. */
async function idsOf(store: Store, windows: readonly WindowName[]): Promise<ReadonlySet<string>> {
  const named = `start in (select fromUnixTimestamp(arrayJoin({starts:Array(UInt32)})))
    and (toString(source), scope, toUnixTimestamp(start)) in
      (select w.1, w.2, w.3 from (select arrayJoin(arrayZip({sources:Array(String)}, {scopes:Array(String)},
        {starts:Array(UInt32)})) as w))`
  const rows = await store.rows<{ id_hash: string }>(
    `select id_hash from events where ${named} union all select id_hash from reads where ${named}`,
    {
      sources: windows.map(({ source }) => source),
      scopes: windows.map(({ scope }) => scope),
      starts: windows.map(({ startMs }) => startMs / 1000),
    },
  )
  return new Set(rows.map(row => row.id_hash))
}

/** Those of these rows whose ids the ledger lacks, and that it did not put elsewhere: a reject, one of two that conflict, a replay. */
async function lackedBy(
  store: Store,
  log: SentLog,
  rows: readonly WindowRow[],
  ids: ReadonlySet<string>,
): Promise<readonly WindowRow[]> {
  const lacked = rows.filter(row => !ids.has(String(row.idHash)))
  const elsewhere = new Set<string>()
  for (const some of lots(lacked, 1000)) {
    const at = `log = {log:String} and (partition, offset) in
      (select p.1, p.2 from (select arrayJoin(arrayZip({partitions:Array(UInt32)}, {offsets:Array(UInt64)})) as p))`
    const found = await store.rows<{ partition: number; offset: string }>(
      `select partition, offset from rejected where ${at}
       union all select partition, offset from passed where fate = 'conflict' and ${at}
       union all select via_partition, via_offset from replays
       where via_log = {log:String} and (via_partition, via_offset) in
         (select p.1, p.2 from (select arrayJoin(arrayZip({partitions:Array(UInt32)}, {offsets:Array(UInt64)})) as p))`,
      {
        log: log.id,
        partitions: some.map(row => row.partition),
        offsets: some.map(row => row.offset),
      },
    )
    for (const { partition, offset } of found) elsewhere.add(`${partition} ${offset}`)
  }
  return lacked.filter(row => !elsewhere.has(`${row.partition} ${row.offset}`))
}

/** Tables of what is no part of a read, as far as this store has them; each finds an id without reading all of it. */
const pushedTables = ['decisions', 'pushed_firsts', 'amendments']

async function missingPushes(
  { outbox, store, log }: ResendParts,
  places: { isPast(row: WindowRow): boolean },
): Promise<readonly WindowRow[]> {
  const tables = await store.rows<{ name: string }>(
    'select name from system.tables where database = currentDatabase() and name in ({names:Array(String)})',
    { names: pushedTables },
  )
  const missing: WindowRow[] = []
  for (let after = -1; ; ) {
    const rows = outbox.releasedPushes(after, pushesMax)
    const last = rows.at(-1)
    if (!last) return missing
    after = last.seq
    const ids = new Set<string>()
    for (const { name } of tables)
      for (const some of lots(rows, 1000)) {
        const found = await store.rows<{ id_hash: string }>(
          `select id_hash from ${name} where id_hash in ({ids:Array(UInt64)})`,
          { ids: some.map(row => row.idHash) },
        )
        for (const { id_hash } of found) ids.add(id_hash)
      }
    const past = rows.filter(row => places.isPast(row))
    missing.push(...(await lackedBy(store, log, past, ids)))
  }
}

interface LedgerWindows {
  /** Whose current read is there with every reading. */
  readonly whole: ReadonlySet<string>
  /** Of which a read counts, or did, that lacks readings. */
  readonly short: ReadonlySet<string>
}

/** By the readings that are there, not by what a mark was found to hold when it came. */
async function ledgerWindows(store: Store, windows: readonly SentWindow[]): Promise<LedgerWindows> {
  const whole = new Set<string>()
  const short = new Set<string>()
  for (const [source, some] of Map.groupBy(windows, window => window.source))
    for (const span of weeksOver(some.map(({ startMs }) => startMs))) {
      const range = 'source = {source:String} and start >= {from:DateTime} and start < {to:DateTime}'
      const rows = await store.rows<{ scope: string; start_s: number; whole: number; short: number }>(
        `select scope, toUnixTimestamp(start) as start_s, argMax(found >= events, rank) as whole,
           max(found < events) as short
         from (
           select scope, start, content_readat as content, events, (not estimated, readat) as rank
           from reads final where held and outcome = 'complete' and ${range}) as marks
         left join (
           select scope, start, readat as content, count() as found from events final where ${range}
           group by scope, start, readat) as readings using (scope, start, content)
         group by scope, start`,
        { source, ...params(span) },
      )
      for (const { scope, start_s, ...is } of rows) {
        const name = nameOf({ source, scope, startMs: Number(start_s) * 1000 })
        if (Number(is.whole) === 1) whole.add(name)
        if (Number(is.short) === 1) short.add(name)
      }
    }
  return { whole, short }
}

/** Windows that the collector takes for read, as far back as their providers still answer. */
function rememberedWindows({ outbox, sources, nowMs, pastMs }: ResendParts): readonly SentWindow[] {
  return sources.flatMap(({ name: source, retentionMs }) => {
    const fromMs = nowMs - Math.min(pastMs, retentionMs)
    return outbox.memory
      .scopes(source)
      .flatMap(memory =>
        Array.from(readWindows(memory), window => ({ source, scope: memory.scope, ...window })).filter(
          window => window.startMs >= fromMs,
        ),
      )
  })
}

function* readWindows({ windows, settled, grids }: ScopeMemory): Generator<Window> {
  for (const window of windows.values())
    if (window.complete) yield { startMs: window.startMs, endMs: window.endMs }
  for (const span of settled)
    for (const grid of grids) {
      const part = {
        startMs: Math.max(span.startMs, grid.startMs),
        endMs: Math.min(span.endMs, grid.endMs),
      }
      if (part.startMs < part.endMs) yield* windowsOver(part, grid.widthMinutes)
    }
}

function* weeksOver(times: readonly number[]): Generator<Window> {
  if (times.length === 0) return
  let lastMs = Number.NEGATIVE_INFINITY
  let atMs = Number.POSITIVE_INFINITY
  for (const time of times) {
    lastMs = Math.max(lastMs, time)
    atMs = Math.min(atMs, time)
  }
  for (; atMs <= lastMs; atMs += weekMs)
    yield { startMs: atMs, endMs: Math.min(atMs + weekMs, lastMs + 1000) }
}

function params({ startMs, endMs }: Window): Record<string, unknown> {
  return { from: Math.floor(startMs / 1000), to: Math.ceil(endMs / 1000) }
}

function* lots<Item>(items: readonly Item[], lot: number): Generator<readonly Item[]> {
  for (let at = 0; at < items.length; at += lot) yield items.slice(at, at + lot)
}

// -- again and again

export interface ResendingOptions {
  /** What a comparison needs, opened for it alone. */
  readonly open: () => Promise<
    Omit<ResendParts, 'nowMs' | 'pastMs'> & { readonly close: () => PromiseLike<void> }
  >
  readonly health: Health
  readonly log: Logger
  readonly nowMs: () => number
  readonly signal: AbortSignal
  /** How much of the past most rounds look at. The first one, one a day, and those after a loss look at all of it. */
  readonly recentMs: number
  readonly firstMs?: number
  readonly everyMs?: number
}

/** Compares hourly, and sooner while something is missing. */
export class Resending {
  readonly #options: ResendingOptions
  /** The log lost messages before the ledger had them. */
  #truncated: Fault | undefined
  #woken = Promise.withResolvers<void>()
  #failures = 0

  constructor(options: ResendingOptions) {
    this.#options = options
    options.health.report('resend', undefined)
  }

  /** LOG_TRUNCATED: not ready from now on, until a comparison finds nothing missing. */
  lost(fault: Fault): void {
    this.#truncated = fault
    this.#options.health.report('resend', describeFault(fault))
    this.#woken.resolve()
  }

  async run(): Promise<void> {
    const { signal, firstMs = minuteMs, everyMs = hourMs } = this.#options
    // A loss is looked at again soon, so that nobody is not ready for long after it is healed, then more and more seldom.
    const againMs = firstMs / 4
    let restMs = Math.min(firstMs, everyMs)
    let soonMs = againMs
    for (let round = 0; !signal.aborted; round += 1) {
      const known = this.#truncated
      await this.#wait(restMs)
      if (signal.aborted) return
      if (this.#truncated !== known) soonMs = againMs
      const clean = await this.#round(round % 24 === 0 || this.#truncated !== undefined)
      restMs = clean ? everyMs : soonMs
      soonMs = clean ? againMs : Math.min(soonMs * 2, everyMs)
    }
  }

  async #wait(ms: number): Promise<void> {
    const ending = new AbortController()
    await Promise.race([
      this.#woken.promise,
      rest(ms, AbortSignal.any([this.#options.signal, ending.signal])),
    ])
    ending.abort()
    this.#woken = Promise.withResolvers()
  }

  async #round(isDeep: boolean): Promise<boolean> {
    const { open, health, log, nowMs, recentMs, signal } = this.#options
    const truncated = this.#truncated
    try {
      const { close, ...parts } = await open()
      try {
        const pastMs = isDeep ? Number.POSITIVE_INFINITY : recentMs
        const report = await resendMissing({ ...parts, nowMs: nowMs(), pastMs })
        this.#failures = 0
        if (isClean(report)) {
          if (this.#truncated === truncated) this.#truncated = undefined
          if (!this.#truncated) health.report('resend', undefined)
          return true
        }
        const { rowsMissing, rowsResent, windowsDue, windowsUnderWay } = report
        log.error(
          { rowsMissing, rowsResent, windowsDue: windowsDue.length, windowsUnderWay },
          'the ledger lacks what was sent',
        )
        return false
      } finally {
        await close()
      }
    } catch (error) {
      if (signal.aborted) return true
      const fault = asFault(error, 'STORE_UNREACHABLE')
      this.#failures += 1
      log.warn({ fault }, 'outbox and ledger could not be compared')
      if (this.#failures >= failuresToTell && !this.#truncated)
        health.report('resend', `outbox and ledger could not be compared: ${describeFault(fault)}`)
      return false
    }
  }
}

const failuresToTell = 5
