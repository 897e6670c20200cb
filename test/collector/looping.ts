/** The collector's loop as tests run it: started, stopped and waited for, and a moment in it waited for. */
import { setTimeout as sleep } from 'node:timers/promises'
import { type CollectorOptions, runCollector } from '../../collector/collector.ts'

export interface Looping {
  /** Ends as the loop does. */
  readonly run: Promise<void>
  /** Stops the loop and waits for its end; rejects where the loop failed. */
  readonly end: () => Promise<void>
}

/** Starts the loop. That it fails is told by `run` and `end` alone. */
export function startLoop(options: Omit<CollectorOptions, 'signal'>): Looping {
  const stop = new AbortController()
  const run = runCollector({ ...options, signal: stop.signal })
  run.catch(() => undefined)
  const end = async () => {
    stop.abort()
    await run
  }
  return { run, end }
}

/** @throws Error where it does not come to hold in time */
export async function until(holds: () => boolean, limitMs = 30_000): Promise<void> {
  const deadlineMs = performance.now() + limitMs
  while (!holds()) {
    if (performance.now() > deadlineMs) throw new Error(`it did not come to hold: ${holds}`)
    await sleep(20)
  }
}
