/**
 * Which cells do not stand for the ledger: marked before and after whatever changes them, so that answers for them come
 * from the ledger until they were computed again.
 */
import { randomBytes } from 'node:crypto'
import { hourMs } from '../schemas/window.ts'
import type { Store } from './store.ts'

const staleColumns = ['source', 'hour', 'token', 'subjects', 'done'] as const

/** Tokens are never ordered, only told apart. */
export function newToken(): bigint {
  return randomBytes(8).readBigUInt64BE()
}

/** Cells (source, subject, hour), gathered by source and hour: that is how they come and how they are stored. */
export class Cells {
  readonly #subjects = new Map<string, Set<string>>()

  add(source: string, startMs: number, subjects: Iterable<string>): void {
    const key = JSON.stringify([source, Math.floor(startMs / hourMs) * (hourMs / 1000)])
    const all = this.#subjects.get(key) ?? new Set()
    for (const subject of subjects) all.add(subject)
    // A touch of no cell, as by a read without readings, would never be done.
    if (all.size > 0) this.#subjects.set(key, all)
  }

  /** Rows of `stale`, as lines of its columns. */
  lines(token: bigint): readonly string[] {
    return Array.from(
      this.#subjects,
      ([key, subjects]) => `${key.slice(0, -1)},"${token}",${JSON.stringify(Array.from(subjects))},0]`,
    )
  }
}

/** Marks cells stale: until a recompute that saw the token, answers for them come from the ledger. */
export async function touchCells(store: Store, cells: Cells, token: bigint): Promise<void> {
  await store.insert('stale', staleColumns, cells.lines(token))
}
