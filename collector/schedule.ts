/**
 * Decides which windows of which scopes are due to be read, and in what order. Pure: the clock is an argument, and the
 * outbox's memory tells what was read. Listing the scopes is a scope like any other here, without re-reads.
 */
import type { ScopeLife, ScopeMemory, WindowMemory } from '../runtime/log/memory.ts'
import { suspectDefault } from '../schemas/suspect.ts'
import { type GridMinutes, hourMs, minuteMs, secondMs, type Window, windowsOver } from '../schemas/window.ts'

/** What a source says of its windows. */
export interface Plan {
  readonly widthMinutes: GridMinutes
  /** At least so long after its end a window is first read. */
  readonly settleDelayMs?: number
  /** Rising, counted from a window's end; the last one settles it. */
  readonly rereadAfterMs: readonly number[]
  readonly retentionMs: number
}

/** `new`: just over. `again`: a planned re-read. `missed`: never read whole in its time. `asked`: by hand. */
export type Why = 'new' | 'again' | 'missed' | 'asked'

export interface DueWindow {
  readonly scope: string
  readonly window: Window
  readonly why: Why
  /** How many of the planned re-reads one read now serves. */
  readonly rereadIndex: number
  /** It serves the last planned one, and so settles the window. */
  readonly last: boolean
  readonly dueMs: number
}

export interface Schedule {
  /** At most `limit`, in the order to read them. */
  readonly due: readonly DueWindow[]
  /** How many are due in all. */
  readonly count: number
  /** When the next window becomes due, if nothing is read until then; undefined when none is expected. */
  readonly nextMs: number | undefined
}

/** A window is first read this long after its end, so that what a provider writes at its end is there. */
export const settleDelayMs = 15 * secondMs
const settleAfterMs = (plan: Plan) => Math.max(settleDelayMs, plan.settleDelayMs ?? 0)
const retryMsMin = minuteMs
const retryMsMax = hourMs
/** A scope whose last read failed is tried no less often than this. */
const probeMsMax = 15 * minuteMs
/** Of every four reads one is for what was missed: neither starves the other. */
const liveShare = 3

/** Since when windows of a scope are expected: what its provider says, else since it is known; never before `fromMs`. */
export function expectedFromMs(scope: ScopeLife, fromMs = Number.NEGATIVE_INFINITY): number {
  return Math.max(scope.sinceMs ?? scope.expectedMs, fromMs)
}

/** From when on nothing is expected of a scope: its provider ended it, or a person did. */
function endMs({ endedMs, endedByHandMs }: ScopeLife): number {
  return Math.min(endedMs ?? Number.POSITIVE_INFINITY, endedByHandMs ?? Number.POSITIVE_INFINITY)
}

/** How many of the planned re-reads a read that begins at this time serves. */
export function rereadsServed(window: Window, rereadAfterMs: readonly number[], atMs: number): number {
  return rereadAfterMs.filter(afterMs => window.endMs + afterMs <= atMs).length
}

/** How long a window rests after so many failures in a row. */
export function retryAfterMs(failures: number): number {
  return Math.min(retryMsMin * 2 ** Math.min(failures - 1, 20), retryMsMax)
}

/**
 * What is due now. New windows and re-reads go first, by when they fell due; what was missed goes oldest first,
 * and has every fourth place.
 */
export function dueWindows(input: {
  readonly plan: Plan
  readonly scopes: Iterable<ScopeMemory>
  readonly nowMs: number
  /** Nothing before this is expected. */
  readonly fromMs?: number
  readonly limit: number
  /** How long after a read that said much less another one is to confirm it, or not. */
  readonly confirmAfterMs?: number
  /** Added to every planned time, so that two collectors of one source do not read in the same millisecond. */
  readonly delayMs?: number
  /** Starts of the windows of a scope that are being read. */
  readonly underWay?: (scope: string) => ReadonlySet<number> | undefined
}): Schedule {
  const { plan, nowMs, limit, delayMs = 0, confirmAfterMs = suspectDefault.confirmAfterMs } = input
  const live: DueWindow[] = []
  const missed: DueWindow[] = []
  let count = 0
  let nextMs = Number.POSITIVE_INFINITY
  for (const scope of input.scopes) {
    const underWay = input.underWay?.(scope.scope)
    const downUntilMs = restingUntilMs(scope, nowMs)
    let probes = downUntilMs === undefined ? Number.POSITIVE_INFINITY : underWay?.size ? 0 : 1
    let missedHere = 0
    for (const window of openWindows(scope, plan, nowMs, input.fromMs)) {
      if (underWay?.has(window.startMs)) continue
      const memory = trusted(scope.windows.get(window.startMs), nowMs)
      const ownMs = dueAtMs(window, memory, plan, { delayMs, confirmAfterMs })
      const why = whyOf(window, memory, plan, Math.max(nowMs, ownMs) - delayMs)
      const resting = why !== 'new' && downUntilMs !== undefined
      const dueMs = resting ? Math.max(ownMs, downUntilMs) : ownMs
      if (dueMs > nowMs) {
        nextMs = Math.min(nextMs, dueMs)
        continue
      }
      if (resting && probes === 0) continue
      if (resting) probes -= 1
      count += 1
      if (why === 'missed') {
        missedHere += 1
        if (missedHere > limit) continue
      }
      const rereadIndex = rereadsServed(window, plan.rereadAfterMs, nowMs)
      const due = {
        scope: scope.scope,
        window,
        why,
        rereadIndex,
        last: rereadIndex === plan.rereadAfterMs.length,
        dueMs,
      }
      if (why === 'missed') missed.push(due)
      else live.push(due)
    }
  }
  live.sort((a, b) => a.dueMs - b.dueMs)
  missed.sort((a, b) => a.window.startMs - b.window.startMs)
  return { due: woven(live, missed, limit), count, nextMs: Number.isFinite(nextMs) ? nextMs : undefined }
}

/** Every window of the span that is over and expected, oldest first, whatever was read: a read by hand. */
export function* askedWindows(input: {
  readonly plan: Plan
  readonly scopes: readonly ScopeMemory[]
  readonly span: Window
  readonly nowMs: number
}): Generator<DueWindow> {
  const { plan, scopes, nowMs } = input
  const startMs = floorHour(input.span.startMs)
  for (let atMs = startMs; atMs < Math.min(input.span.endMs, nowMs); atMs += hourMs)
    for (const scope of scopes)
      for (const window of hourWindows(scope, plan, atMs)) {
        if (window.endMs <= Math.max(input.span.startMs, scope.sinceMs ?? Number.NEGATIVE_INFINITY)) continue
        if (window.startMs >= Math.min(input.span.endMs, endMs(scope))) continue
        if (window.endMs > nowMs) continue
        const rereadIndex = rereadsServed(window, plan.rereadAfterMs, nowMs)
        yield {
          scope: scope.scope,
          window,
          why: 'asked',
          rereadIndex,
          last: rereadIndex === plan.rereadAfterMs.length,
          dueMs: window.endMs,
        }
      }
}

/** Windows of a scope that are expected and not settled, oldest first, up to and with the one that is running. */
export function* openWindows(
  scope: ScopeMemory,
  plan: Plan,
  nowMs: number,
  fromMs?: number,
): Generator<Window> {
  const expectedMs = expectedFromMs(scope, fromMs)
  const knowableMs = nowMs - plan.retentionMs
  // What is settled by a clock that ran ahead is not: its last planned re-read is still to come.
  const settledMsMax = nowMs - (plan.rereadAfterMs.at(-1) ?? 0)
  let spanIndex = 0
  for (let atMs = floorHour(Math.max(expectedMs, knowableMs)); atMs <= nowMs; ) {
    while ((scope.settled[spanIndex]?.endMs ?? Number.POSITIVE_INFINITY) <= atMs) spanIndex += 1
    const span = scope.settled[spanIndex]
    const skipMs = span && span.startMs <= atMs ? floorHour(Math.min(span.endMs, settledMsMax)) : atMs
    if (skipMs > atMs) {
      atMs = skipMs
      continue
    }
    for (const window of hourWindows(scope, plan, atMs)) {
      if (window.endMs <= expectedMs || window.startMs < knowableMs) continue
      if (window.startMs >= endMs(scope)) return
      const settled =
        window.endMs <= settledMsMax &&
        scope.settled.some(held => held.startMs <= window.startMs && held.endMs >= window.endMs)
      if (!settled) yield window
      if (window.endMs > nowMs) return
    }
    atMs += hourMs
  }
}

/** The windows of an hour: of the width it was read in before, else of the plan's. */
function hourWindows(scope: ScopeMemory, plan: Plan, hourStartMs: number): readonly Window[] {
  const grid = scope.grids.find(span => span.startMs <= hourStartMs && span.endMs > hourStartMs)
  return windowsOver(
    { startMs: hourStartMs, endMs: hourStartMs + hourMs },
    grid?.widthMinutes ?? plan.widthMinutes,
  )
}

/** What was remembered by a clock that ran ahead did not happen yet: it serves nothing and delays nothing. */
function trusted(memory: WindowMemory | undefined, nowMs: number): WindowMemory | undefined {
  if (!memory || memory.attemptedMs <= nowMs) return memory
  return memory.complete && memory.complete.atMs <= nowMs ? { ...memory, failures: 0 } : undefined
}

function dueAtMs(
  window: Window,
  memory: WindowMemory | undefined,
  plan: Plan,
  { delayMs, confirmAfterMs }: { readonly delayMs: number; readonly confirmAfterMs: number },
): number {
  const served = memory?.complete && rereadsServed(window, plan.rereadAfterMs, memory.complete.atMs)
  const nextMs = served === undefined ? settleAfterMs(plan) : plan.rereadAfterMs[served]
  const low = memory?.complete?.belief?.low
  // One that is open although all was served was read under a longer plan, and one more read settles it; or it said
  // much less than before, and waits for a read that agrees.
  let plannedMs = window.endMs + delayMs + (nextMs ?? plan.rereadAfterMs.at(-1) ?? 0)
  if (low && nextMs === undefined) plannedMs = low.readatMs + confirmAfterMs
  else if (low) plannedMs = Math.min(plannedMs, low.readatMs + confirmAfterMs)
  if (!memory || memory.failures === 0) return plannedMs
  return Math.max(plannedMs, memory.attemptedMs + retryAfterMs(memory.failures))
}

function whyOf(window: Window, memory: WindowMemory | undefined, plan: Plan, nowMs: number): Why {
  if (memory?.complete) return 'again'
  const widthMs = window.endMs - window.startMs
  return !memory && nowMs < window.endMs + widthMs + settleAfterMs(plan) ? 'new' : 'missed'
}

/**
 * A scope whose newest attempt failed is down: new windows are still tried once each, but of what is due again only
 * one at a time, and not before this time. One success opens it again.
 */
function restingUntilMs(scope: ScopeMemory, nowMs: number): number | undefined {
  let failedMs = Number.NEGATIVE_INFINITY
  let failures = 0
  let readMs = Number.NEGATIVE_INFINITY
  for (const memory of scope.windows.values()) {
    if (memory.attemptedMs > nowMs) continue
    if (memory.complete) readMs = Math.max(readMs, memory.complete.atMs)
    if (memory.failures === 0) continue
    failedMs = Math.max(failedMs, memory.attemptedMs)
    failures = Math.max(failures, memory.failures)
  }
  if (failures === 0 || failedMs < readMs) return undefined
  return failedMs + Math.min(retryAfterMs(failures), probeMsMax)
}

function woven(
  live: readonly DueWindow[],
  missed: readonly DueWindow[],
  limit: number,
): readonly DueWindow[] {
  const due: DueWindow[] = []
  let nextLive = 0
  let nextMissed = 0
  while (due.length < limit && (nextLive < live.length || nextMissed < missed.length)) {
    const missedTurn = due.length % (liveShare + 1) === liveShare
    const takeMissed = nextMissed < missed.length && (missedTurn || nextLive >= live.length)
    due.push(takeMissed ? missed[nextMissed++]! : live[nextLive++]!)
  }
  return due
}

function floorHour(ms: number): number {
  return Math.floor(ms / hourMs) * hourMs
}
