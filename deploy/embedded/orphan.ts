/**
 * Ends the process of the embedded ClickHouse for certain when its parent is dead: a thread of its own, as the engine can
 * block the main one for good (it locks its directory then, and nobody else gets it).
 */
import { isMainThread, Worker, workerData } from 'node:worker_threads'

/** Longer than the main thread takes to kill running statements and to close; shorter than the next one waits for the lock. */
const graceMs = 6_000
const lookEveryMs = 500

/**
 * Call it before the engine is opened.
 * @param parentPid as the parent said it: one that died before anybody looked is no longer there to ask
 */
export function watchParent(parentPid: number): void {
  new Worker(new URL(import.meta.url), { workerData: parentPid, execArgv: [] }).unref()
}

if (!isMainThread && Number.isInteger(workerData)) {
  let orphanedMs: number | undefined
  setInterval(() => {
    if (process.ppid === workerData) return
    orphanedMs ??= performance.now()
    if (performance.now() - orphanedMs >= graceMs) process.kill(process.pid, 'SIGKILL')
  }, lookEveryMs)
}
