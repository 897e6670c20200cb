/** Chance that a seed decides, so that whatever happened can happen again. */
import { seeded } from '../bench/load.ts'

export class Chance {
  readonly #next: () => number

  constructor(seed: number) {
    this.#next = seeded(seed)
    // The first numbers of neighbouring seeds are alike.
    for (let skipped = 0; skipped < 8; skipped += 1) this.#next()
  }

  is(probability: number): boolean {
    return this.#next() < probability
  }

  /** From `least` to `most`, both included. */
  whole(least: number, most: number): number {
    return least + Math.floor(this.#next() * (Math.max(least, most) - least + 1))
  }

  one<Item>(items: readonly Item[]): Item {
    const item = items[this.whole(0, items.length - 1)]
    if (item === undefined) throw new Error('there is nothing to choose from')
    return item
  }
}
