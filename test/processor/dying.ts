/** A store that dies at one of its statements, for tests of what a crash there leaves behind. */
import type { Store } from '../../processor/store.ts'

export interface DyingStore {
  readonly store: Store
  /** Was the statement asked for at which it dies? */
  readonly reached: () => boolean
}

/** The store as a process has it that is gone for good at its n-th statement, counted from 1: before it or right after. */
export function dying(store: Store, at: number, when: 'before' | 'after'): DyingStore {
  let count = 0
  const wrapped = Object.create(store) as Store
  const guarded =
    <Args extends unknown[], Result>(act: (...args: Args) => Promise<Result>) =>
    async (...args: Args): Promise<Result> => {
      count += 1
      if (count > at || (count === at && when === 'before')) throw new Error('killed')
      const result = await act.apply(store, args)
      if (count === at) throw new Error('killed')
      return result
    }
  wrapped.insert = guarded(store.insert)
  wrapped.insertBlocks = guarded(store.insertBlocks)
  wrapped.rows = guarded(store.rows) as Store['rows']
  wrapped.run = guarded(store.run)
  return { store: wrapped, reached: () => count >= at }
}
