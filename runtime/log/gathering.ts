/** Stores together what comes within some milliseconds: one wait for the disk, not one for each. */

export interface Gathering<Item> {
  /**
   * Resolves when the item is stored.
   * @throws (rejects with) what storing it alone throws
   */
  put(item: Item): Promise<void>
  /** Stores at once what waits. */
  flush(): void
}

/**
 * @param store all of them or none
 * @param limits how long the first waits, and the sum of sizes at which nobody does
 */
export function gathering<Item>(
  store: (items: readonly Item[]) => void,
  limits: { readonly waitMs: number; readonly sizeOf: (item: Item) => number; readonly sizeMax: number },
): Gathering<Item> {
  let waiting: { readonly item: Item; readonly stored: PromiseWithResolvers<void> }[] = []
  let size = 0
  let timer: NodeJS.Timeout | undefined

  function flush(): void {
    clearTimeout(timer)
    timer = undefined
    const together = waiting
    waiting = []
    size = 0
    if (together.length === 0) return
    try {
      store(together.map(({ item }) => item))
      for (const { stored } of together) stored.resolve()
    } catch (error) {
      if (together.length === 1) {
        together[0]?.stored.reject(error)
        return
      }
      // One of them did not go in, and took the others with it: each for itself, so that each has its own answer.
      for (const { item, stored } of together)
        try {
          store([item])
          stored.resolve()
        } catch (own) {
          stored.reject(own)
        }
    }
  }

  return {
    put(item) {
      const stored = Promise.withResolvers<void>()
      waiting.push({ item, stored })
      size += limits.sizeOf(item)
      if (size >= limits.sizeMax) flush()
      else timer ??= setTimeout(flush, limits.waitMs)
      return stored.promise
    },
    flush,
  }
}
