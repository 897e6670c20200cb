/**
 * A log as Kafka is one, in memory: partitions that outlive every process, sends whose answer may be lost, and a group
 * of readers among whom the partitions are dealt anew at any time.
 */
import { Buffer } from 'node:buffer'
import type { KafkaLanes } from '../../runtime/log/kafka.ts'
import type { EventLog, LogBatch, LogMessage } from '../../runtime/log/log.ts'
import { headers } from '../reads.ts'
import type { Chance } from './chance.ts'

/** Gives whoever is running its turn to send. */
export type SendTurn = (what: string, send: () => Promise<bigint>) => Promise<bigint>

const pollMs = 500

export class Topic {
  readonly id: string
  readonly partitions: readonly LogMessage[][]
  readonly #chance: Chance
  readonly #readers: Reader[] = []
  /** The first offset that each partition still has. */
  readonly firsts: number[]

  constructor(id: string, partitions: number, chance: Chance) {
    this.id = id
    this.partitions = Array.from({ length: partitions }, () => [])
    this.firsts = this.partitions.map(() => 0)
    this.#chance = chance
  }

  /** Retention takes the oldest messages, whether they were read or not, up to an offset of each partition. */
  forget(most: (partition: number) => number): void {
    for (const partition of this.partitions.keys())
      if (this.#chance.is(0.5)) {
        const first = this.firsts[partition] ?? 0
        this.firsts[partition] = this.#chance.whole(first, Math.max(first, most(partition)))
      }
  }

  /** The lanes of one relay. A send that got no answer may have arrived. */
  lanes(turn: SendTurn, nowMs: () => number): Pick<KafkaLanes, 'partitions' | 'limits' | 'send'> {
    return {
      partitions: this.partitions.length,
      limits: { rowsMax: 60, bytesMax: 700_000 },
      send: async (partition, rows) => {
        const some = rows.slice(0, this.#chance.whole(Math.ceil(rows.length / 2), rows.length))
        const baseOffset = await turn(`${some.length} rows to partition ${partition}`, async () => {
          const messages = this.partitions[partition]!
          const offset = BigInt(messages.length)
          for (const { key, value } of some)
            messages.push({
              offset: BigInt(messages.length),
              key,
              value: Buffer.from(value),
              headers,
              appendedMs: nowMs(),
            })
          return offset
        })
        return { rows: some.length, baseOffset }
      },
    }
  }

  /** Another member of the group, which takes part from when it is read. */
  reader(isAlive: () => boolean): EventLog {
    const reader = new Reader(this, this.#chance, isAlive)
    this.#readers.push(reader)
    return reader
  }

  /** Deals the partitions anew among who is there: each gets some, one may get none. */
  deal(): void {
    const present = this.#readers.filter(reader => reader.isPresent)
    for (const reader of present) reader.assigned = new Set()
    if (present.length > 0)
      for (const partition of this.partitions.keys()) this.#chance.one(present).assigned.add(partition)
  }
}

class Reader implements EventLog {
  readonly id: string
  readonly #topic: Topic
  readonly #chance: Chance
  readonly #isAlive: () => boolean
  assigned = new Set<number>()
  #isReading = false

  constructor(topic: Topic, chance: Chance, isAlive: () => boolean) {
    this.id = topic.id
    this.#topic = topic
    this.#chance = chance
    this.#isAlive = isAlive
  }

  get isPresent(): boolean {
    return this.#isReading && this.#isAlive()
  }

  async *batches({ resumeAt, signal }: Parameters<EventLog['batches']>[0]): AsyncGenerator<LogBatch> {
    const next = new Map<number, bigint>()
    this.#isReading = true
    this.#topic.deal()
    try {
      while (!signal.aborted) {
        for (const partition of next.keys()) if (!this.assigned.has(partition)) next.delete(partition)
        for (const partition of this.assigned)
          if (!next.has(partition)) next.set(partition, (await resumeAt(partition)) ?? 0n)
        const ready = [...next].filter(
          ([partition, offset]) =>
            this.assigned.has(partition) && offset < BigInt(this.#topic.partitions[partition]!.length),
        )
        if (ready.length === 0) {
          await pause(pollMs, signal)
          continue
        }
        const [partition, wanted] = this.#chance.one(ready)
        const from = Math.max(Number(wanted), this.#topic.firsts[partition] ?? 0)
        const messages = this.#topic.partitions[partition]!.slice(from, from + this.#chance.whole(20, 400))
        next.set(partition, BigInt(from + messages.length))
        if (messages.length === 0) continue
        yield { partition, messages }
      }
    } finally {
      this.#isReading = false
    }
  }

  async commit(): Promise<void> {}

  async state() {
    return { lag: 0n, partitions: [...this.assigned] }
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>(resolve => {
    const timer = setTimeout(resolve, ms)
    signal.addEventListener('abort', () => {
      clearTimeout(timer)
      resolve()
    })
  })
}
