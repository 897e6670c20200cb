/** Notices that the ledger was put back to an older copy: what it acknowledged last is then no longer there. */
import { rest } from '../runtime/rest.ts'
import type { Store } from './store.ts'

/** A row of `positions` that must be there: its `last`, and where its `first` cannot be before. */
export interface Position {
  readonly partition: number
  readonly from: bigint
  readonly last: bigint
}

interface Span {
  readonly partition: number
  readonly first: bigint
  readonly last: bigint
}

/** A replica may be a moment behind: its word is believed only when it says the same again. */
const askAgainMs = 300
const askedMost = 3

/** What one processor knows of the positions of one log. */
export class Witness {
  readonly #store: Store
  readonly #log: string
  readonly #ends = new Map<number, bigint>()
  /** The row written last tells for all before it; until one is written, the rows that were found at the start. */
  #rows = new Map<number, Position>()

  constructor(store: Store, log: string) {
    this.#store = store
    this.#log = log
  }

  /** The ledger said where the partition goes on. */
  resumed(partition: number, next: bigint | undefined): void {
    this.#ends.set(partition, next ?? 0n)
    this.#rows.delete(partition)
    if (next !== undefined && next > 0n) this.#rows.set(partition, { partition, from: 0n, last: next - 1n })
  }

  /** Batches that were put as one, in the order of the log. */
  acknowledged(batches: readonly Span[]): void {
    // How the ledger draws the line between those of one partition is its own affair: none begins before the first.
    const from = new Map<number, bigint>()
    for (const { partition, first, last } of batches) {
      const before = from.get(partition) ?? this.#ends.get(partition) ?? 0n
      from.set(partition, before < first ? before : first)
      this.#rows = new Map([[partition, { partition, from: from.get(partition) ?? 0n, last }]])
    }
    for (const { partition, last } of batches) this.#ends.set(partition, last + 1n)
  }

  /** What must stand in the ledger whenever anything is put behind it. */
  proof(): readonly Position[] {
    return Array.from(this.#rows.values())
  }

  /**
   * Does the ledger lack what it had?
   * @throws Fault STORE_UNREACHABLE and the like
   */
  async isPutBack(signal: AbortSignal): Promise<boolean> {
    for (const row of this.#rows.values())
      for (let asked = 1; !(await this.#isThere(row)); asked += 1) {
        if (asked === askedMost) return !signal.aborted
        await rest(askAgainMs, signal)
      }
    return false
  }

  async #isThere({ partition, from, last }: Position): Promise<boolean> {
    const [row] = await this.#store.rows<{ found: string }>(
      `select count() as found from positions
       where log = {log:String} and partition = {partition:UInt32} and first >= {from:UInt64} and last = {last:UInt64}`,
      { log: this.#log, partition, from: from.toString(), last: last.toString() },
    )
    return row !== undefined && row.found !== '0'
  }
}
