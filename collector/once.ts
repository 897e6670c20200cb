/** A bounded read by hand: every window of a span, once, with its gaps named at the end. For CronJobs and backfill. */
import type { ScopeMemory } from '../runtime/log/memory.ts'
import type { SqliteOutbox } from '../runtime/log/outbox.ts'
import type { Logger } from '../runtime/logs.ts'
import { rest } from '../runtime/rest.ts'
import { listingScope } from '../schemas/event.ts'
import { Fault } from '../schemas/fault.ts'
import { minuteMs, secondMs, showInstant, showWindow, type Window, windowAt } from '../schemas/window.ts'
import { collectRead, type OpenedSource, type ReadOutcome, sourceName } from './collect.ts'
import { unstoredMax } from './collector.ts'
import { SourceCounters, showDepthOf } from './counters.ts'
import { listingPlan, listScopes } from './listing.ts'
import { askedWindows, type DueWindow } from './schedule.ts'
import { Slots } from './slots.ts'

export interface OnceProgress {
  readonly windowsDue: number
  /** Those of the run before are among them. */
  readonly windowsRead: number
  readonly windowsFailed: number
}

/** A window that could not be read, or an item of one that could. */
export interface Gap {
  readonly source: string
  readonly scope: string
  readonly start: string
  readonly end: string
  /** Whose gap it is, where it is one item's. */
  readonly subject?: string
  readonly fault: { readonly code: string; readonly message: string }
}

export interface OnceSummary extends OnceProgress {
  /** Read by a run before that was cut short, or that left gaps. */
  readonly windowsBefore: number
  /** Of this run. */
  readonly readings: number
  /** Windows of the span that are not over yet, and so were not asked for. */
  readonly windowsRunning: number
  /** By source, scope and start. */
  readonly gaps: readonly Gap[]
}

export interface OnceOptions {
  readonly sources: readonly OpenedSource[]
  readonly outbox: SqliteOutbox
  /** Widened to the grid of each source. */
  readonly span: Window
  /** Only this source: `prod`, `rafay/prod` or `meterline/rafay/prod`. */
  readonly source?: string
  readonly scope?: string
  /** `resume` leaves out what the same request has read within a day without finishing; `anew` reads everything. Default: resume. */
  readonly begin?: 'resume' | 'anew'
  readonly log: Logger
  readonly nowMs: () => number
  readonly signal: AbortSignal
  readonly progress?: (progress: OnceProgress) => void
  readonly readDeadlineMs?: number
  /** Rests between the tries of a window. */
  readonly retryRestsMs?: readonly number[]
  /** How long a full outbox may take to have room again. */
  readonly fullLimitMs?: number
}

const retryRestsMsDefault: readonly number[] = [2 * secondMs, 10 * secondMs]
const fullLimitMsDefault = 10 * minuteMs
/** After so many windows that failed in a row, the rest of a scope gets one try each. */
const failuresToBeDown = 2

/**
 * Reads every window of the span that is over, whatever was read before, sending everything. Gaps are in the answer,
 * not thrown. Cut short, or with windows that failed, it is taken up by the next that asks the same within a day: what it
 * has read it does not read again. Once all was read it is forgotten.
 * @throws Fault USAGE where no source has the name, ABORTED at the signal (what was read is stored), OUTBOX_FULL where
 * the outbox did not get room in time.
 */
export async function collectOnce(options: OnceOptions): Promise<OnceSummary> {
  const chosen = options.sources.filter(opened => isNamed(opened, options.source))
  if (chosen.length === 0)
    throw new Fault('USAGE', `no source is called "${options.source ?? ''}"`, { source: options.source })
  using _depth = showDepthOf(options.outbox)
  const request = requestOf(chosen, options)
  if (options.begin === 'anew') options.outbox.forgetRequest(request)
  const once = new Once(options, request)
  // Listed first, so that the progress knows its end.
  const planned: { opened: OpenedSource; scopes: readonly ScopeMemory[] }[] = []
  for (const opened of chosen) planned.push({ opened, scopes: await once.list(opened) })
  for (const { opened, scopes } of planned) once.plan(opened, scopes)
  const reads = await Promise.allSettled(planned.map(({ opened, scopes }) => once.read(opened, scopes)))
  for (const read of reads) if (read.status === 'rejected') throw read.reason
  const summary = once.summary()
  if (summary.windowsFailed === 0) options.outbox.forgetRequest(request)
  return summary
}

/** The same for the same question, however the source was named. */
function requestOf(chosen: readonly OpenedSource[], { span, scope }: OnceOptions): string {
  return JSON.stringify([span.startMs, span.endMs, chosen.map(sourceName).sort(), scope ?? null])
}

class Once {
  readonly #options: OnceOptions
  readonly #request: string
  /** Windows that the run before has read. */
  readonly #before: ReadonlySet<string>
  readonly #gaps: Gap[] = []
  readonly #startedMs: number
  #windowsDue = 0
  #windowsRunning = 0
  #windowsBefore = 0
  #windowsRead = 0
  #windowsFailed = 0
  #readings = 0

  constructor(options: OnceOptions, request: string) {
    this.#options = options
    this.#request = request
    this.#before = new Set(
      options.outbox
        .takeUpRequest(request)
        .map(({ source, scope, startMs }) => nameOf(source, scope, startMs)),
    )
    this.#startedMs = options.nowMs()
  }

  /** The scopes to read: those known, and those that the provider lists now, which also marks the listing's windows. */
  async list(opened: OpenedSource): Promise<readonly ScopeMemory[]> {
    const { outbox, span, scope, log } = this.#options
    const source = sourceName(opened)
    const { startMs } = windowAt(span.startMs, opened.source.widthMinutes)
    // A read of one scope is no statement about the others: it marks no listing.
    const windows = scope === undefined ? this.#listingWindows(opened) : []
    const listing = await this.#whenRoom(() =>
      listScopes({ ...this.#asked(opened), windows, expectedMs: startMs }),
    )
    if (listing.fault) {
      const { fault } = listing
      log.warn({ source, fault }, 'the scopes could not be listed')
      if (scope === undefined) for (const window of windows) this.#gap(source, listingScope, window, fault)
    }
    if (scope !== undefined && !outbox.memory.scope(source, scope)) {
      if (!listing.fault) throw new Fault('USAGE', `${source} has no scope "${scope}"`, { source, scope })
      outbox.see(source, [{ scope }], startMs)
    }
    return outbox.memory
      .scopes(source)
      .filter(memory => memory.scope !== listingScope && (scope === undefined || memory.scope === scope))
  }

  plan(opened: OpenedSource, scopes: readonly ScopeMemory[]): void {
    for (const asked of this.#asks(opened, scopes)) {
      this.#windowsDue += 1
      if (this.#wasRead(opened, asked)) this.#windowsBefore += 1
    }
    const { span } = this.#options
    const runningMs = Math.max(0, span.endMs - windowAt(this.#startedMs, opened.source.widthMinutes).startMs)
    this.#windowsRunning += scopes.length * Math.ceil(runningMs / (opened.source.widthMinutes * minuteMs))
    this.#tell()
  }

  async read(opened: OpenedSource, scopes: readonly ScopeMemory[]): Promise<void> {
    const asks = this.#asks(opened, scopes)
    const counters = new SourceCounters(sourceName(opened))
    counters.scopes(scopes.length)
    const failuresInRow = new Map<string, number>()
    const { concurrency } = opened.source
    const asking = new Slots(concurrency)
    const unstored = new Slots(concurrency + unstoredMax)
    const reads = new Set<Promise<void>>()
    let broken: unknown
    const take = async (asked: DueWindow, answered: () => void) => {
      const { scope } = asked
      const down = (failuresInRow.get(scope) ?? 0) >= failuresToBeDown
      const outcome = await this.#readWindow(opened, asked, {
        counters,
        answered,
        tries: down ? 'one' : 'all',
      })
      failuresInRow.set(scope, outcome.outcome === 'failed' ? (failuresInRow.get(scope) ?? 0) + 1 : 0)
      this.#note(sourceName(opened), asked, outcome)
    }
    for (const asked of asks) {
      if (this.#wasRead(opened, asked)) continue
      await unstored.take()
      await asking.take()
      if (broken) break
      let waits = true
      const answered = () => {
        if (waits) asking.give()
        waits = false
      }
      const read = take(asked, answered)
        .catch(error => {
          broken ??= error
        })
        .finally(() => {
          answered()
          unstored.give()
          reads.delete(read)
        })
      reads.add(read)
    }
    await Promise.all(reads)
    if (broken) throw broken
  }

  summary(): OnceSummary {
    const order = (gap: Gap) => JSON.stringify([gap.source, gap.scope, gap.start, gap.subject ?? ''])
    return {
      ...this.#progress(),
      windowsBefore: this.#windowsBefore,
      readings: this.#readings,
      windowsRunning: this.#windowsRunning,
      gaps: this.#gaps.toSorted((a, b) => (order(a) < order(b) ? -1 : 1)),
    }
  }

  async #readWindow(
    opened: OpenedSource,
    asked: DueWindow,
    how: {
      readonly counters: SourceCounters
      readonly answered: () => void
      readonly tries: 'one' | 'all'
    },
  ): Promise<ReadOutcome> {
    const { signal, retryRestsMs = retryRestsMsDefault, log } = this.#options
    const { scope, window, why } = asked
    for (let tries = 0; ; tries += 1) {
      const startedMs = performance.now()
      const outcome = await this.#whenRoom(() =>
        collectRead({
          ...this.#asked(opened),
          scope,
          window,
          by: 'hand',
          request: this.#request,
          answered: how.answered,
        }),
      )
      how.counters.read(scope, why, outcome, performance.now() - startedMs)
      if (outcome.outcome === 'complete') return outcome
      const { fault } = outcome
      log.warn(
        { source: sourceName(opened), scope, window: showWindow(window), fault },
        'a window could not be read',
      )
      const restMs =
        how.tries === 'one' || fault.code === 'WINDOW_UNKNOWABLE' ? undefined : retryRestsMs[tries]
      if (restMs === undefined) return outcome
      await rest(restMs, signal)
    }
  }

  /** Waits for room where the outbox is full: whatever drains it is running beside this. */
  async #whenRoom<Result>(work: () => Promise<Result>): Promise<Result> {
    const { outbox, signal, fullLimitMs = fullLimitMsDefault } = this.#options
    const limitMs = performance.now() + fullLimitMs
    for (;;) {
      if (signal.aborted) throw new Fault('ABORTED', 'stopped before all was read')
      try {
        if (!outbox.isFull()) return await work()
        if (performance.now() > limitMs)
          throw new Fault('OUTBOX_FULL', `the outbox had no room for ${fullLimitMs / secondMs} s`, {})
      } catch (error) {
        const full = error instanceof Fault && error.code === 'OUTBOX_FULL'
        if (!full || performance.now() > limitMs) throw error
      }
      await rest(secondMs, signal)
    }
  }

  #note(source: string, { scope, window }: DueWindow, outcome: ReadOutcome): void {
    if (outcome.outcome === 'failed') {
      this.#windowsFailed += 1
      this.#gap(source, scope, window, outcome.fault)
    } else {
      this.#windowsRead += 1
      this.#readings += outcome.readings
      for (const { subject, ...fault } of outcome.bad) this.#gap(source, scope, window, fault, subject)
    }
    this.#tell()
  }

  #gap(
    source: string,
    scope: string,
    window: Window,
    fault: { readonly code: string; readonly message: string },
    subject?: string,
  ): void {
    this.#gaps.push({
      source,
      scope,
      start: showInstant(window.startMs),
      end: showInstant(window.endMs),
      ...(subject !== undefined && { subject }),
      fault: { code: fault.code, message: fault.message },
    })
  }

  #wasRead(opened: OpenedSource, { scope, window }: DueWindow): boolean {
    return this.#before.has(nameOf(sourceName(opened), scope, window.startMs))
  }

  #asks(opened: OpenedSource, scopes: readonly ScopeMemory[]): Generator<DueWindow> {
    return askedWindows({ plan: opened.source, scopes, span: this.#options.span, nowMs: this.#startedMs })
  }

  /** The windows in which the source was to list its scopes: on the grid that the hour already has, if it has one. */
  #listingWindows(opened: OpenedSource): readonly Window[] {
    const { outbox, span } = this.#options
    const listing: ScopeMemory = outbox.memory.scope(sourceName(opened), listingScope) ?? {
      scope: listingScope,
      expectedMs: span.startMs,
      announced: false,
      settled: [],
      settledAtMs: 0,
      grids: [],
      windows: new Map(),
    }
    const plan = listingPlan(opened)
    return [...askedWindows({ plan, scopes: [listing], span, nowMs: this.#startedMs })].map(
      ({ window }) => window,
    )
  }

  #asked(opened: OpenedSource) {
    const { outbox, nowMs, signal, readDeadlineMs } = this.#options
    return {
      opened,
      outbox,
      nowMs,
      signal,
      ...(readDeadlineMs !== undefined && { deadlineMs: readDeadlineMs }),
    }
  }

  #progress(): OnceProgress {
    return {
      windowsDue: this.#windowsDue,
      windowsRead: this.#windowsBefore + this.#windowsRead,
      windowsFailed: this.#windowsFailed,
    }
  }

  #tell(): void {
    this.#options.progress?.(this.#progress())
  }
}

function nameOf(source: string, scope: string, startMs: number): string {
  return `${startMs} ${source} ${scope}`
}

function isNamed(opened: OpenedSource, name: string | undefined): boolean {
  return (
    name === undefined || [opened.name, `${opened.kind}/${opened.name}`, sourceName(opened)].includes(name)
  )
}
