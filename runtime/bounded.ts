/** Asynchronous work over a list, a few at a time. */

/**
 * Runs `work` over the items, at most `most` at once, and answers in the order of the items.
 * The first failure is thrown; what was not begun by then is not begun any more.
 */
export async function mapBounded<Item, Answer>(
  items: readonly Item[],
  most: number,
  work: (item: Item, index: number) => Promise<Answer>,
): Promise<Answer[]> {
  const answers: Answer[] = new Array(items.length)
  let next = 0
  let failed = false
  const lane = async () => {
    while (next < items.length && !failed) {
      const index = next++
      try {
        answers[index] = await work(items[index] as Item, index)
      } catch (error) {
        failed = true
        throw error
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(most, items.length) }, lane))
  return answers
}
