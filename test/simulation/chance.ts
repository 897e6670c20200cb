/** Chance that a seed decides, so that whatever happened can happen again. */

export class Chance {
  #state: number

  /** Neighbouring seeds have nothing in common. */
  constructor(seed: number) {
    this.#state = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) | 0
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

  /** Mulberry32, by Tommy Ettinger: from 0 up to 1. */
  #next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
