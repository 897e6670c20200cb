/**
 * What becomes of a read when its mark arrives: does it count, does it wait as suspect, is it known already. Reads of a
 * window are judged in the order of the log, each by what was there before it, so that a replay comes to the same. Pure.
 */
import { type SuspectRule, type Totals, takesAway } from '../schemas/suspect.ts'
import { overlaps, type Window } from '../schemas/window.ts'

/** A read of a window as far as judging needs it; times in milliseconds. */
export interface JudgedRead {
  readonly window: Window
  readonly readatMs: number
  /** The read whose readings these are: its own, or the one that it repeats. */
  readonly contentMs: number
  readonly isComplete: boolean
  /** The ledger has exactly what the mark says. */
  readonly isHeld: boolean
  readonly isSuspect: boolean
  readonly isEstimated: boolean
  readonly totals: Totals
}

/** The read that counts: the newest that is complete, held and believed; one with estimates where there is no other. */
export function currentOf<Read extends JudgedRead>(reads: readonly Read[]): Read | undefined {
  let current: Read | undefined
  for (const read of reads) {
    if (!read.isComplete || !read.isHeld || read.isSuspect) continue
    const newer = current === undefined || read.readatMs > current.readatMs
    const better = current?.isEstimated === true && !read.isEstimated
    const worse = current?.isEstimated === false && read.isEstimated
    if (better || (newer && !worse)) current = read
  }
  return current
}

/**
 * Must this read wait? Only where it would replace one of its own rank: exact figures say nothing wrong of estimates.
 * A suspect read of the same window, made at least `confirmAfterMs` before, is a witness where this one takes no more
 * than the bound away from it.
 */
export function isSuspect(
  read: Omit<JudgedRead, 'isSuspect'>,
  others: readonly JudgedRead[],
  rule: SuspectRule | null,
): boolean {
  if (rule === null || !read.isComplete || !read.isHeld) return false
  const peers = others.filter(other => other.isEstimated === read.isEstimated)
  const current = currentOf(peers)
  if (!current || current.readatMs >= read.readatMs || current.contentMs === read.contentMs) return false
  if (!takesAway(current.totals, read.totals, rule.percent)) return false
  return !peers.some(
    other =>
      other.isSuspect &&
      other.readatMs > current.readatMs &&
      other.readatMs + rule.confirmAfterMs <= read.readatMs &&
      !takesAway(other.totals, read.totals, rule.percent),
  )
}

/** The complete read that the ledger holds of another window over the same time: a grid must not be crossed. */
export function overlapped<Read extends JudgedRead>(
  window: Window,
  reads: readonly Read[],
): Read | undefined {
  return reads.find(
    read =>
      read.isComplete &&
      read.isHeld &&
      overlaps(read.window, window) &&
      (read.window.startMs !== window.startMs || read.window.endMs !== window.endMs),
  )
}
