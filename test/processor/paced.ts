/** A store whose user goes on one statement at a time, for tests of what others see meanwhile. */
import type { Store } from '../../processor/store.ts'

export interface Paced {
  /** For whoever is to go slowly. */
  readonly store: Store
  /** Lets the next statement begin and resolves when it has ended; at once where the user has ended. */
  step(): Promise<void>
  /** From now on nothing waits. */
  release(): void
  /** From now on every statement fails before it begins, as those of a process that is gone. */
  kill(): void
  /** Of the user: it is done, or has failed. */
  end(error?: unknown): void
  /** What the user failed of, but for being killed. */
  readonly failed: unknown
}

export function paced(store: Store): Paced {
  const waiting: { readonly go: () => void; readonly ended: Promise<void> }[] = []
  let state: 'paced' | 'free' | 'killed' | 'ended' = 'paced'
  let failed: unknown
  let arrived = Promise.withResolvers<void>()
  const wrapped = Object.create(store) as Store
  const guarded =
    <Args extends unknown[], Result>(act: (...args: Args) => Promise<Result>) =>
    async (...args: Args): Promise<Result> => {
      const ended = Promise.withResolvers<void>()
      if (state === 'paced') {
        const turn = Promise.withResolvers<void>()
        waiting.push({ go: turn.resolve, ended: ended.promise })
        arrived.resolve()
        await turn.promise
      }
      try {
        if (state === 'killed') throw new Error('killed')
        return await act.apply(store, args)
      } finally {
        ended.resolve()
      }
    }
  wrapped.insert = guarded(store.insert)
  wrapped.insertBlocks = guarded(store.insertBlocks)
  wrapped.rows = guarded(store.rows) as Store['rows']
  wrapped.run = guarded(store.run)
  const leave = (to: 'free' | 'killed' | 'ended') => {
    if (state === 'paced') state = to
    for (const { go } of waiting.splice(0)) go()
    arrived.resolve()
  }
  return {
    store: wrapped,
    async step() {
      while (state === 'paced' && waiting.length === 0) {
        arrived = Promise.withResolvers<void>()
        await arrived.promise
      }
      const next = waiting.shift()
      next?.go()
      await next?.ended
    },
    release: () => leave('free'),
    kill: () => leave('killed'),
    end(error) {
      if (state !== 'killed') failed = error
      leave('ended')
    },
    get failed() {
      return failed
    },
  }
}
