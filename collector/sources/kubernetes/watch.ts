/**
 * Follows one resource of the API server for as long as the collector runs: lists it, watches from there, goes on where it
 * stopped after whatever happened, and lists anew where the history is gone. What is seen goes to lives.ts.
 */
import { setTimeout as sleepFor } from 'node:timers/promises'
import { asFault, describeFault, type Fault } from '../../../schemas/fault.ts'
import { minuteMs, secondMs } from '../../../schemas/window.ts'
import { type Api, Expired, type Resource, type WatchEvent } from './api.ts'
import type { Lives, Picked, ResourceName } from './lives.ts'

export interface Followed {
  readonly name: ResourceName
  /** Where it is, asked for before each list; undefined where this API server has no such thing. */
  readonly locate: (signal: AbortSignal) => Promise<Resource | undefined>
}

/** How long to wait between tries; tests wait less. */
export interface Pace {
  readonly backoffFirstMs: number
  readonly backoffMostMs: number
  /** In [0, 1): the jitter. */
  readonly random: () => number
  /** Where an API is absent, it is looked for again this often. */
  readonly absentMs: number
}
export const usualPace: Pace = {
  backoffFirstMs: 500,
  backoffMostMs: 30 * secondMs,
  random: Math.random,
  absentMs: minuteMs,
}

/** What came while the watch was away for less than this happened just now: times of the API are no finer. */
const shortGapMs = secondMs

export interface FollowOptions {
  readonly api: Api
  readonly lives: Lives
  readonly nowMs: () => number
  readonly pace: Pace
  /** A sentence while it is not seen, undefined when it is. */
  readonly report: (problem: string | undefined) => void
  /** Called whenever something more was seen. */
  readonly advanced: () => void
}

/**
 * Resolves at the signal.
 * @throws Fault with fate `halt`
 */
export async function follow(followed: Followed, options: FollowOptions, signal: AbortSignal): Promise<void> {
  const { api, lives, nowMs, pace, report, advanced } = options
  const { name } = followed
  let failures = 0
  let expiries = 0

  while (!signal.aborted)
    try {
      const resource = await followed.locate(signal)
      if (!resource) {
        lives.absent(name, nowMs())
        report(undefined)
        advanced()
        await rest(pace.absentMs)
        continue
      }
      const position = lives.position(name)
      if (!position || position.resourceVersion === '') await list(resource)
      else await watch(resource, position)
    } catch (error) {
      if (signal.aborted) return
      if (error instanceof Expired) {
        lives.expire(name)
        // A list that has expired as soon as it is there would be asked for without end.
        expiries += 1
        if (expiries > 1) await rest(backoffMs(expiries))
        continue
      }
      const fault = asFault(error, 'INTERNAL')
      if (fault.fate === 'halt') throw fault
      failures += 1
      // A watch that breaks off and goes on at once is no problem.
      if (failures > 1) report(describeFault(fault))
      await rest(waitMs(fault))
    }

  async function list(resource: Resource): Promise<void> {
    let items: Picked[] = []
    const startedMs = nowMs()
    const { resourceVersion } = await api.list(
      resource,
      {
        reset: () => {
          items = []
        },
        take: item => items.push(lives.picked(name, item)),
      },
      signal,
    )
    lives.listed(name, items, { resourceVersion, startedMs, atMs: nowMs() })
    failures = 0
    report(undefined)
    advanced()
  }

  async function watch(resource: Resource, position: { resourceVersion: string; observedMs: number }) {
    let openedMs = Number.POSITIVE_INFINITY
    let isLive = false
    let moved = false
    const opened = () => {
      // Not when it was asked for: an answer may take its time, and what happens until it begins is told late.
      openedMs = nowMs()
      isLive = openedMs - position.observedMs < shortGapMs
      report(undefined)
    }
    for await (const batch of api.watch(resource, position.resourceVersion, signal, opened)) {
      for (const events of atBookmarks(batch)) {
        lives.happened(name, events, { atMs: nowMs(), how: isLive ? 'live' : 'replayed' })
        if (events.at(-1)?.type === 'BOOKMARK') isLive = true
      }
      moved = true
      failures = 0
      expiries = 0
      advanced()
    }
    const lastedMs = nowMs() - openedMs
    // It ended in its time: all that happened until now was told.
    if (lastedMs >= api.watchTimeoutSeconds * secondMs) {
      lives.observed(name, nowMs())
      advanced()
    }
    if (moved || lastedMs >= secondMs) {
      failures = 0
      return
    }
    failures += 1
    await rest(waitMs(undefined))
  }

  function waitMs(fault: Fault | undefined): number {
    const { retryAfterMs } = fault?.facts ?? {}
    return (typeof retryAfterMs === 'number' ? Math.min(retryAfterMs, 5 * minuteMs) : 0) + backoffMs(failures)
  }

  /** Full jitter: watches that broke together do not come back together. */
  function backoffMs(times: number): number {
    return pace.random() * Math.min(pace.backoffMostMs, pace.backoffFirstMs * 2 ** Math.min(times - 1, 20))
  }

  async function rest(ms: number): Promise<void> {
    await sleepFor(ms, undefined, { signal }).catch(() => {})
  }
}

/** Cut behind each bookmark: what comes after one is seen as it happens. */
function* atBookmarks(batch: readonly WatchEvent[]): Generator<readonly WatchEvent[]> {
  let from = 0
  for (const [index, { type }] of batch.entries())
    if (type === 'BOOKMARK') {
      yield batch.slice(from, index + 1)
      from = index + 1
    }
  if (from < batch.length) yield batch.slice(from)
}
