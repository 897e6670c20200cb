/** What every EventLog does: the suite that Kafka and the embedded outbox both pass. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { EventLog, LogBatch, LogMessage } from '../../runtime/log/log.ts'

/** A log with nothing in it. */
export interface LogUnderTest extends AsyncDisposable {
  /** Appends in this order and returns when the log has them. Keys decide the partition. */
  append(messages: readonly { readonly key: string; readonly value: string }[]): Promise<void>
  /** Opens a reader. Readers of one log follow one another, as a processor that starts again. */
  open(): Promise<EventLog>
}

/** The ledger's part of the agreement: what it has of each partition, and so where it goes on. */
class Ledger {
  readonly messages: (LogMessage & { readonly partition: number })[] = []
  readonly #ends = new Map<number, bigint>()

  put(batch: LogBatch): void {
    for (const message of batch.messages) this.messages.push({ ...message, partition: batch.partition })
    this.#ends.set(batch.partition, batch.messages.at(-1)!.offset + 1n)
  }

  readonly resumeAt = async (partition: number): Promise<bigint | undefined> => this.#ends.get(partition)

  values(): string[] {
    return this.messages.map(message => String(message.value)).sort()
  }
}

const nothingHeld = async () => undefined

/** Reads until `count` messages have come, or nothing more does for `quietMs`. */
async function read(
  log: EventLog,
  ledger: Ledger,
  options: {
    readonly count: number
    readonly resumeAt?: (partition: number) => Promise<bigint | undefined>
    readonly commit?: 'yes' | 'no'
    readonly quietMs?: number
  },
): Promise<void> {
  const stop = new AbortController()
  let quiet: NodeJS.Timeout | undefined
  let left = options.count
  for await (const batch of log.batches({
    resumeAt: options.resumeAt ?? ledger.resumeAt,
    signal: stop.signal,
  })) {
    ledger.put(batch)
    if (options.commit !== 'no') await log.commit(batch)
    left -= batch.messages.length
    if (left > 0) continue
    // What should not come has a moment to come all the same.
    clearTimeout(quiet)
    quiet = setTimeout(() => stop.abort(), options.quietMs ?? 300)
  }
}

function numbered(count: number, from = 0): { key: string; value: string }[] {
  return Array.from({ length: count }, (_, index) => ({
    key: `scope-${(from + index) % 7}`,
    value: `message-${String(from + index).padStart(5, '0')}`,
  }))
}

const valuesOf = (messages: readonly { readonly value: string }[]) => messages.map(one => one.value).sort()

export function runLogContract(name: string, setup: () => Promise<LogUnderTest>): void {
  describe(`the log of ${name}`, () => {
    const opened: LogUnderTest[] = []
    const fresh = async () => {
      const log = await setup()
      opened.push(log)
      return log
    }
    beforeAll(() => {
      opened.length = 0
    })
    afterAll(async () => {
      for (const log of opened) await log[Symbol.asyncDispose]()
    })

    test('messages come whole, in the order of their partition, and each partition counts up', async () => {
      const log = await fresh()
      const sent = numbered(200)
      const beforeMs = Date.now()
      await log.append(sent)
      await using reader = await log.open()
      const ledger = new Ledger()

      await read(reader, ledger, { count: 200 })

      expect(ledger.values()).toEqual(valuesOf(sent))
      for (const [partition, messages] of Map.groupBy(ledger.messages, message => message.partition)) {
        expect(partition).toBeGreaterThanOrEqual(0)
        const offsets = messages.map(message => message.offset)
        expect(offsets).toEqual(offsets.toSorted((a, b) => (a < b ? -1 : 1)))
        expect(new Set(offsets).size).toBe(offsets.length)
        const values = messages.map(message => String(message.value))
        expect(values, 'the order in which they were appended').toEqual(values.toSorted())
      }
      for (const message of ledger.messages) {
        expect(sent).toContainEqual({ key: message.key, value: String(message.value) })
        expect(message.headers).toEqual({ 'content-type': 'application/cloudevents+json; charset=UTF-8' })
        expect(message.appendedMs).toBeGreaterThan(beforeMs - 60_000)
        expect(message.appendedMs).toBeLessThan(Date.now() + 60_000)
      }
    })

    test('messages of one key stay in one partition', async () => {
      const log = await fresh()
      await log.append(numbered(50))
      await using reader = await log.open()
      const ledger = new Ledger()

      await read(reader, ledger, { count: 50 })

      const places = Map.groupBy(ledger.messages, message => message.key)
      for (const [, messages] of places) expect(new Set(messages.map(one => one.partition)).size).toBe(1)
    })

    test('a batch is never empty, and its messages are consecutive', async () => {
      const log = await fresh()
      await log.append(numbered(100))
      await using reader = await log.open()
      const stop = new AbortController()
      let count = 0

      for await (const batch of reader.batches({ resumeAt: nothingHeld, signal: stop.signal })) {
        expect(batch.messages.length).toBeGreaterThan(0)
        for (const [index, message] of batch.messages.entries())
          expect(message.offset).toBe(batch.messages[0]!.offset + BigInt(index))
        count += batch.messages.length
        if (count >= 100) stop.abort()
      }
      expect(count).toBe(100)
    })

    test('what the ledger holds decides where reading begins, whatever was committed', async () => {
      const log = await fresh()
      await log.append(numbered(40))
      const first = new Ledger()
      await using reader = await log.open()
      await read(reader, first, { count: 40, commit: 'yes' })
      await reader[Symbol.asyncDispose]()

      // A ledger put back to a copy that ends earlier: of each partition it has the first message only.
      const held = new Map(first.messages.toReversed().map(one => [one.partition, one.offset + 1n]))
      const wanted = first.messages.filter(one => one.offset >= held.get(one.partition)!)
      const second = new Ledger()
      await using again = await log.open()
      await read(again, second, { count: wanted.length, resumeAt: async partition => held.get(partition) })

      expect(second.values()).toEqual(wanted.map(one => String(one.value)).sort())
    })

    test('an empty ledger gets everything, though all of it was committed', async () => {
      const log = await fresh()
      await log.append(numbered(30))
      await using reader = await log.open()
      await read(reader, new Ledger(), { count: 30, commit: 'yes' })
      await reader[Symbol.asyncDispose]()

      const ledger = new Ledger()
      await using again = await log.open()
      await read(again, ledger, { count: 30 })

      expect(ledger.values()).toEqual(valuesOf(numbered(30)))
    })

    test('a batch that was taken and not acknowledged comes again', async () => {
      const log = await fresh()
      await log.append(numbered(30))
      const ledger = new Ledger()
      await using reader = await log.open()
      // Crashed after reading: nothing was stored, nothing committed.
      await read(reader, new Ledger(), { count: 30, resumeAt: nothingHeld, commit: 'no' })
      await reader[Symbol.asyncDispose]()

      await using again = await log.open()
      await read(again, ledger, { count: 30 })

      expect(ledger.values()).toEqual(valuesOf(numbered(30)))
    })

    test('after a commit reading goes on behind it, and nothing comes twice', async () => {
      const log = await fresh()
      const ledger = new Ledger()
      await log.append(numbered(30))
      await using reader = await log.open()
      await read(reader, ledger, { count: 30 })
      await reader[Symbol.asyncDispose]()
      await log.append(numbered(20, 30))

      await using again = await log.open()
      await read(again, ledger, { count: 20 })

      expect(ledger.values()).toEqual(valuesOf(numbered(50)))
    })

    test('one reader can be read again after its loop was left', async () => {
      const log = await fresh()
      const ledger = new Ledger()
      await log.append(numbered(30))
      await using reader = await log.open()
      for await (const batch of reader.batches({
        resumeAt: ledger.resumeAt,
        signal: new AbortController().signal,
      })) {
        ledger.put(batch)
        await reader.commit(batch)
        break
      }

      await read(reader, ledger, { count: 30 - ledger.messages.length })

      expect(ledger.values()).toEqual(valuesOf(numbered(30)))
    })

    test('what is appended while the reader waits comes by itself', async () => {
      const log = await fresh()
      const ledger = new Ledger()
      await using reader = await log.open()
      const reading = read(reader, ledger, { count: 25 })
      await log.append(numbered(10))
      await log.append(numbered(15, 10))

      await reading

      expect(ledger.values()).toEqual(valuesOf(numbered(25)))
    })

    test('an abort ends reading promptly and without an error, waiting or working', async () => {
      const log = await fresh()
      await using reader = await log.open()
      const waiting = new AbortController()
      const idle = (async () => {
        for await (const _ of reader.batches({ resumeAt: nothingHeld, signal: waiting.signal }));
      })()
      setTimeout(() => waiting.abort(), 500)
      const idleMs = performance.now()
      await idle
      expect(performance.now() - idleMs).toBeLessThan(3_500)

      await log.append(numbered(10))
      const working = new AbortController()
      let abortedMs = 0
      for await (const _ of reader.batches({ resumeAt: nothingHeld, signal: working.signal })) {
        abortedMs = performance.now()
        working.abort()
      }
      expect(performance.now() - abortedMs).toBeLessThan(3_000)
    })

    test('a signal that was aborted before yields nothing', async () => {
      const log = await fresh()
      await log.append(numbered(5))
      await using reader = await log.open()
      let count = 0
      for await (const _ of reader.batches({ resumeAt: nothingHeld, signal: AbortSignal.abort() })) count += 1
      expect(count).toBe(0)
    })

    test('a ledger that cannot say where it ends stops the reading with its own error', async () => {
      const log = await fresh()
      await log.append(numbered(5))
      await using reader = await log.open()
      const broken = new Error('the ledger is away')
      const reading = async () => {
        for await (const _ of reader.batches({
          resumeAt: () => Promise.reject(broken),
          signal: new AbortController().signal,
        }));
      }
      await expect(reading()).rejects.toThrow('the ledger is away')
    })

    test('the lag counts what was not yet delivered', async () => {
      const log = await fresh()
      await log.append(numbered(20))
      await using reader = await log.open()
      const stop = new AbortController()
      let count = 0
      for await (const batch of reader.batches({ resumeAt: nothingHeld, signal: stop.signal })) {
        count += batch.messages.length
        await reader.commit(batch)
        const state = await reader.state()
        expect(state.lag).toBe(BigInt(20 - count))
        expect(state.partitions).toContain(batch.partition)
        if (count === 20) stop.abort()
      }
      expect(count).toBe(20)
    })

    test('the log keeps its id from one reader to the next, and another log has another', async () => {
      const log = await fresh()
      await using one = await log.open()
      const { id } = one
      await one[Symbol.asyncDispose]()
      await using two = await log.open()
      await using other = await (await fresh()).open()

      expect(id).not.toBe('')
      expect(two.id).toBe(id)
      expect(other.id).not.toBe(id)
    })
  })
}
