/** The collector's loop: lists scopes, reads what is due, and keeps the outbox in order, until it is told to stop. */
import type { Health } from '../runtime/health.ts'
import type { ScopeMemory } from '../runtime/log/memory.ts'
import type { SqliteOutbox } from '../runtime/log/outbox.ts'
import type { Logger } from '../runtime/logs.ts'
import { rest } from '../runtime/rest.ts'
import { listingScope } from '../schemas/event.ts'
import { describeFault, Fault } from '../schemas/fault.ts'
import type { SuspectRule } from '../schemas/suspect.ts'
import { hourMs, minuteMs, secondMs, showWindow } from '../schemas/window.ts'
import { collectRead, type OpenedSource, sourceName } from './collect.ts'
import { SourceCounters, showDepthOf } from './counters.ts'
import { listScopes, unlistedWindows } from './listing.ts'
import { type DueWindow, dueWindows } from './schedule.ts'

export interface CollectorOptions {
  readonly sources: readonly OpenedSource[]
  readonly outbox: SqliteOutbox
  /** Sends the outbox to the log until its signal; absent where the outbox is read in place. */
  readonly relay?: (signal: AbortSignal) => Promise<void>
  readonly health: Health
  readonly log: Logger
  readonly nowMs: () => number
  readonly signal: AbortSignal
  readonly readDeadlineMs?: number
  /** By which the ledger holds reads back: after one that it will, another is planned. */
  readonly suspect?: SuspectRule
  /** How long the loop rests at most before it looks at the clock again, which may jump. */
  readonly restMsMax?: number
  /** How often the outbox's file is read through for damage, besides what its use finds out. */
  readonly checkEveryMs?: number
}

const restMsMaxDefault = secondMs
const fullRestMs = secondMs
const listingRetryMsMin = 5 * secondMs
const listingRetryMsMax = 5 * minuteMs
const tidyEveryMs = minuteMs
const checkEveryMsDefault = hourMs
/** Between the pieces of a purge, in which others get on. */
const purgeRestMs = 20
/**
 * Two collectors of one source begin by their clocks, so they would read a window in the same millisecond, and one
 * readat would stand for two answers: each comes later by a part of this that its outbox decides.
 */
const apartMsMax = 5 * secondMs
/** So many reads are planned ahead, for each that may run at once. */
const planAhead = 8
/** So many reads may wait to be stored together, beside those that wait for the provider. */
export const unstoredMax = 64
/** As much as clocks are set back without anything being wrong. */
const clockSlackMs = minuteMs
/** From so many failures in a row, and as many as there are scopes, the source counts as down. */
const failuresToBeDown = 3
/** How long the relay may go on sending after reading has stopped. */
const lastSendMs = 5 * secondMs

/**
 * Runs until the signal. What is being read then is dropped and stays due; what was read is in the outbox.
 * @throws the Fault with fate `halt` that made it impossible to go on.
 */
export async function runCollector(options: CollectorOptions): Promise<void> {
  const { outbox } = options
  const broken = new AbortController()
  const signal = AbortSignal.any([options.signal, broken.signal])
  const gate = new OutboxGate(outbox, options.health)
  using _depth = showDepthOf(outbox)
  const parts = options.sources.flatMap(opened => {
    const reader = new SourceReader(opened, { ...options, signal, gate })
    return [reader.keepListing(), reader.keepReading(), watched(opened, signal)]
  })
  parts.push(keepOutbox(options, signal))
  const sent = new AbortController()
  const relay = options.relay?.(sent.signal)
  for (const part of relay ? [...parts, relay] : parts) part.catch(() => broken.abort())

  const results = await Promise.allSettled(parts)
  if (relay) {
    // What the last reads left goes out now if the log takes it; else it is sent at the next start.
    const deadlineMs = performance.now() + lastSendMs
    while (!broken.signal.aborted && outbox.depth().rows > 0 && performance.now() < deadlineMs)
      await rest(50, broken.signal)
    sent.abort()
    results.push(...(await Promise.allSettled([relay])))
  }
  for (const result of results) if (result.status === 'rejected') throw result.reason
}

/** @throws Fault INTERNAL where it ends before the signal: what happens from then on nobody sees; or what it throws. */
async function watched(opened: OpenedSource, signal: AbortSignal): Promise<void> {
  if (!opened.source.watch) return
  await opened.source.watch(signal)
  if (!signal.aborted) throw new Fault('INTERNAL', `${sourceName(opened)} has ended its watch by itself`)
}

/** Stops reading while the outbox takes no more, and says so. */
export class OutboxGate {
  readonly #outbox: SqliteOutbox
  readonly #health: Health
  #refusedUntilMs = 0
  #restMs = secondMs

  constructor(outbox: SqliteOutbox, health: Health) {
    this.#outbox = outbox
    this.#health = health
    health.report('outbox', undefined)
  }

  /** A read was refused although there seemed to be room: it was too large for it, or the disk is full. */
  refused(fault: Fault): void {
    this.#health.report('outbox', describeFault(fault))
    this.#refusedUntilMs = performance.now() + this.#restMs
    this.#restMs = Math.min(this.#restMs * 2, minuteMs)
  }

  /** A read was stored. */
  stored(): void {
    if (this.#restMs === secondMs) return
    this.#restMs = secondMs
    this.#health.report('outbox', undefined)
  }

  isShut(): boolean {
    return this.#outbox.isFull() || performance.now() < this.#refusedUntilMs
  }

  /** Resolves when there is room, or at the signal. */
  async opened(signal: AbortSignal): Promise<void> {
    if (!this.isShut()) return
    while (this.isShut() && !signal.aborted) {
      if (this.#outbox.isFull()) {
        const { rows, bytes } = this.#outbox.depth()
        this.#health.report(
          'outbox',
          `full: ${rows} rows, ${bytes} bytes wait for the log; reading has stopped`,
        )
      }
      await rest(fullRestMs, signal)
    }
    if (this.#restMs === secondMs) this.#health.report('outbox', undefined)
  }
}

/** One source: its scopes, what is known of them, and the reads that run. */
class SourceReader {
  readonly #opened: OpenedSource
  readonly #name: string
  readonly #options: CollectorOptions & { readonly gate: OutboxGate }
  readonly #counters: SourceCounters
  readonly #delayMs: number
  readonly #scopes = new Map<string, ScopeMemory>()
  /** Of the outbox, when its memory was last taken over. */
  #revision: string
  /** Windows being read: their starts, by scope. */
  readonly #underWay = new Map<string, Set<number>>()
  /** Reads that wait for the provider, and those of them and others that are not stored yet. */
  #asking = 0
  #unstored = 0
  /** What is under way: a stop waits for it, with the event loop free to end it. */
  readonly #reads = new Set<Promise<void>>()
  #woke = false
  #endRest: () => void = () => undefined
  #failuresInRow = 0
  #lastFault: Fault | undefined
  #listingFault: Fault | undefined
  #halt: unknown

  constructor(opened: OpenedSource, options: CollectorOptions & { readonly gate: OutboxGate }) {
    this.#opened = opened
    this.#name = sourceName(opened)
    this.#options = options
    this.#counters = new SourceCounters(this.#name)
    this.#delayMs = Number.parseInt(options.outbox.id.slice(0, 8), 16) % apartMsMax
    this.#revision = options.outbox.revision
    for (const memory of options.outbox.memory.scopes(this.#name)) this.#remember(memory)
    options.health.check(`source ${opened.kind}/${opened.name}`, () => this.#problem())
  }

  /** Lists the scopes at the start and whenever a window has ended. */
  async keepListing(): Promise<void> {
    const { outbox, nowMs, signal, log, gate } = this.#options
    let failures = 0
    let listed = false
    while (!signal.aborted) {
      await gate.opened(signal)
      const windows = unlistedWindows(this.#opened, outbox, nowMs())
      if (listed && windows.length === 0) {
        await rest(this.#restMsMax(), signal)
        continue
      }
      const expectedMs = this.#opened.fromMs ?? Math.min(nowMs(), outbox.begunMs ?? Number.POSITIVE_INFINITY)
      const listing = await this.#unlessPassing(() => listScopes({ ...this.#asked(), windows, expectedMs }))
      if (!listing) continue
      this.#listingFault = listing.fault
      if (listing.fault) {
        log.warn({ source: this.#name, fault: listing.fault }, 'the scopes could not be listed')
        await rest(Math.min(listingRetryMsMin * 2 ** failures, listingRetryMsMax), signal)
        failures += 1
        continue
      }
      listed = true
      failures = 0
      this.#counters.listed(nowMs())
      for (const memory of outbox.memory.scopes(this.#name)) this.#remember(memory)
      this.#wakeUp()
    }
  }

  /** Reads what is due, as many at once as the source allows. */
  async keepReading(): Promise<void> {
    const { nowMs, signal, gate } = this.#options
    const { concurrency } = this.#opened.source
    const goesOn = () => !signal.aborted && this.#halt === undefined
    while (goesOn()) {
      await gate.opened(signal)
      const { due, nextMs } = this.#schedule(concurrency * planAhead)
      for (const next of due) {
        while ((this.#asking >= concurrency || this.#unstored >= concurrency + unstoredMax) && goesOn())
          await this.#woken(this.#restMsMax())
        if (!goesOn() || gate.isShut() || this.#takesNote()) break
        this.#start(next)
      }
      if (due.length === 0)
        await this.#woken(Math.min(this.#restMsMax(), (nextMs ?? Number.POSITIVE_INFINITY) - nowMs()))
    }
    await Promise.all(this.#reads)
    if (this.#halt !== undefined) throw this.#halt
  }

  /** Somebody else changed what is due, a person that ended a scope for instance: what was planned no longer holds. */
  #takesNote(): boolean {
    const { outbox } = this.#options
    const { revision } = outbox
    if (revision === this.#revision) return false
    this.#revision = revision
    for (const memory of outbox.memory.scopes(this.#name)) this.#remember(memory)
    return true
  }

  #schedule(limit: number): ReturnType<typeof dueWindows> {
    const { source, fromMs } = this.#opened
    this.#takesNote()
    this.#distrustClockAhead()
    const { suspect } = this.#options
    const schedule = dueWindows({
      ...(suspect && { confirmAfterMs: suspect.confirmAfterMs }),
      plan: source,
      scopes: this.#scopes.values(),
      nowMs: this.#options.nowMs(),
      ...(fromMs !== undefined && { fromMs }),
      limit,
      delayMs: this.#delayMs,
      underWay: scope => this.#underWay.get(scope),
    })
    this.#counters.due(schedule.count)
    return schedule
  }

  /** The clock fell back: what it settled while it was ahead may have been read before it was over. */
  #distrustClockAhead(): void {
    const { outbox, nowMs, log } = this.#options
    const trustedMs = nowMs() + clockSlackMs
    if (![...this.#scopes.values()].some(({ settledAtMs }) => settledAtMs > trustedMs)) return
    log.warn({ source: this.#name }, 'the clock was ahead: what was settled meanwhile is read again')
    outbox.distrust(this.#name, trustedMs)
    for (const memory of outbox.memory.scopes(this.#name)) this.#remember(memory)
  }

  #start(due: DueWindow): void {
    const starts = this.#underWay.get(due.scope) ?? new Set()
    this.#underWay.set(due.scope, starts.add(due.window.startMs))
    this.#asking += 1
    this.#unstored += 1
    let waits = true
    const answered = () => {
      if (!waits) return
      waits = false
      this.#asking -= 1
      this.#wakeUp()
    }
    const read = this.#read(due, answered)
      .catch(error => {
        this.#halt ??= error
      })
      .finally(() => {
        starts.delete(due.window.startMs)
        if (starts.size === 0) this.#underWay.delete(due.scope)
        this.#unstored -= 1
        answered()
        this.#wakeUp()
        this.#reads.delete(read)
      })
    this.#reads.add(read)
  }

  async #read({ scope, window, why }: DueWindow, answered: () => void): Promise<void> {
    const { outbox, log, nowMs } = this.#options
    const startedMs = performance.now()
    const outcome = await this.#unlessPassing(async () =>
      // Where the clock was set back since the window was due it is due again when it is over.
      window.endMs <= nowMs()
        ? await collectRead({ ...this.#asked(), scope, window, by: 'schedule', answered })
        : undefined,
    )
    if (!outcome) return
    this.#counters.read(scope, why, outcome, performance.now() - startedMs)
    this.#remember(outbox.memory.scope(this.#name, scope)!)
    const about = { source: this.#name, scope, window: showWindow(window) }
    if (outcome.outcome === 'failed') {
      this.#failuresInRow += 1
      this.#lastFault = outcome.fault
      log.warn({ ...about, fault: outcome.fault }, 'a window could not be read')
      return
    }
    this.#failuresInRow = 0
    for (const item of outcome.bad.slice(0, 5)) log.warn({ ...about, item }, 'an item could not be taken')
    for (const item of outcome.doubts.slice(0, 5)) log.warn({ ...about, item }, 'two figures contradict')
    log.debug({ ...about, why, readings: outcome.readings, repeats: outcome.repeats }, 'read')
  }

  #restMsMax(): number {
    return this.#options.restMsMax ?? restMsMaxDefault
  }

  /** What reading and listing are given alike. */
  #asked() {
    const { outbox, nowMs, signal, readDeadlineMs, suspect } = this.#options
    const deadline = readDeadlineMs === undefined ? {} : { deadlineMs: readDeadlineMs }
    return { opened: this.#opened, outbox, nowMs, signal, ...deadline, ...(suspect && { suspect }) }
  }

  /** Undefined where nothing was stored and it stays due: the outbox is full, or the collector stops. */
  async #unlessPassing<Result>(work: () => Promise<Result>): Promise<Result | undefined> {
    const { gate, signal } = this.#options
    try {
      const result = await work()
      gate.stored()
      return result
    } catch (error) {
      if (signal.aborted) return undefined
      if (!(error instanceof Fault) || error.code !== 'OUTBOX_FULL') throw error
      gate.refused(error)
      return undefined
    }
  }

  #remember(memory: ScopeMemory): void {
    if (memory.scope === listingScope) return
    this.#scopes.set(memory.scope, memory)
    this.#counters.scopes(this.#scopes.size)
  }

  #problem(): string | undefined {
    if (this.#listingFault) return `its scopes cannot be listed: ${describeFault(this.#listingFault)}`
    const down = this.#failuresInRow >= Math.max(failuresToBeDown, this.#scopes.size)
    return down && this.#lastFault
      ? `the last ${this.#failuresInRow} reads failed: ${describeFault(this.#lastFault)}`
      : this.#opened.source.problem?.()
  }

  #wakeUp(): void {
    this.#woke = true
    this.#endRest()
  }

  /** Until a read ends, a listing comes, the signal, or so long. */
  async #woken(atMostMs: number): Promise<void> {
    const { signal } = this.#options
    if (!this.#woke && !signal.aborted)
      await new Promise<void>(resolve => {
        const timer = setTimeout(resolve, Math.max(10, atMostMs))
        signal.addEventListener('abort', resolve as () => void)
        this.#endRest = () => {
          clearTimeout(timer)
          signal.removeEventListener('abort', resolve as () => void)
          resolve()
        }
      })
    this.#endRest()
    this.#woke = false
  }
}

/** @throws Fault OUTBOX_DAMAGED */
async function keepOutbox(options: CollectorOptions, signal: AbortSignal): Promise<void> {
  const { outbox, sources, nowMs, checkEveryMs = checkEveryMsDefault } = options
  let checkedMs = performance.now()
  while (!signal.aborted) {
    while (outbox.purge() > 0 && !signal.aborted) await rest(purgeRestMs, signal)
    for (const opened of sources) outbox.forget(sourceName(opened), nowMs() - opened.source.retentionMs)
    await rest(Math.min(tidyEveryMs, checkEveryMs), signal)
    if (performance.now() - checkedMs < checkEveryMs || signal.aborted) continue
    outbox.checkWhole()
    checkedMs = performance.now()
  }
}
