/** What the tests of Kafka into the ledger share: processors as processes, a relay that begins anew, and the proof of exactness. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { relay } from '../../../collector/relay.ts'
import type { Store, StoreAddress } from '../../../processor/store.ts'
import { quantities } from '../../../processor/usage.ts'
import { type KafkaConfig, kafkaLanes } from '../../../runtime/log/kafka.ts'
import type { SqliteOutbox } from '../../../runtime/log/outbox.ts'
import { show } from '../../../schemas/decimal.ts'
import { Fault } from '../../../schemas/fault.ts'
import { defaultMeters, type Meter } from '../../../schemas/meters.ts'
import type { Window } from '../../../schemas/window.ts'
import type { Processing } from './processing.ts'

export const instanceHours = defaultMeters.find(({ slug }) => slug === 'instance_hours') as Meter

/** A processor that is started again whenever it ends by itself, as a supervisor would. */
export class SupervisedProcessor implements AsyncDisposable {
  readonly #given: Omit<Processing, 'die'>
  #child: ChildProcess | undefined
  #stopped = false
  #said = ''
  /** How often it ended by itself with an error, and by -9. */
  failures = 0
  deaths = 0

  constructor(kafka: KafkaConfig, { url, user, password, database }: StoreAddress) {
    this.#given = { kafka, store: { url, user, password, database } }
  }

  /** Runs until stopped; resolves once it has started. `die` counts for the first start only. */
  async start(die?: Processing['die']): Promise<void> {
    this.#stopped = false
    const program = join(import.meta.dirname, 'processing.ts')
    const given: Processing = die ? { ...this.#given, die } : this.#given
    const child = spawn(process.execPath, [program, JSON.stringify(given)], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#child = child
    let said = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-4_000)
      this.#said = (this.#said + text).slice(-4_000)
    })
    child.once('exit', (code, signal) => {
      if (this.#child !== child) return
      this.#child = undefined
      if (signal === 'SIGKILL') this.deaths += 1
      else if (code !== null && code !== 0) {
        this.failures += 1
        console.log(`a processor ended with ${code}: ${said.slice(-1_500)}`)
      }
      if (!this.#stopped) void this.start()
    })
    await Promise.race([once(child.stdout, 'data'), once(child, 'exit')])
  }

  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    this.#stopped = true
    const child = this.#child
    if (!child) return
    const gone = once(child, 'exit')
    child.kill(signal)
    await gone
  }

  said(): string {
    return this.#said
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end('SIGKILL')
  }
}

/** Sends the outbox as the collector does: with new lanes whenever the old ones are given up. */
export async function relayOn(outbox: SqliteOutbox, config: KafkaConfig, signal: AbortSignal): Promise<void> {
  while (!signal.aborted)
    try {
      await using lanes = await kafkaLanes(config, { signal })
      await relay({ outbox, lanes, signal })
    } catch (error) {
      if (!(error instanceof Fault) || error.fate === 'halt') throw error
      await sleep(1_000)
    }
}

/** Waits until each partition of the topic is read to its end. */
export async function ledgerHasAll(
  store: Store,
  ends: ReadonlyMap<number, bigint>,
  limitMs: number,
): Promise<void> {
  const untilMs = performance.now() + limitMs
  const wanted = [...ends].filter(([, end]) => end > 0n)
  for (;;) {
    const rows = await store.rows<{ partition: number; next: string }>(
      'select partition, max(last) + 1 as next from positions group by partition',
    )
    const next = new Map(rows.map(row => [Number(row.partition), BigInt(row.next)]))
    if (wanted.every(([partition, end]) => (next.get(partition) ?? 0n) >= end)) return
    if (performance.now() > untilMs)
      throw new Error(
        `the ledger lacks ${wanted.map(([partition, end]) => `${partition}: ${end - (next.get(partition) ?? 0n)}`)}`,
      )
    await sleep(200)
  }
}

export interface LedgerFound {
  readonly messages: number
  readonly duplicates: number
}

/**
 * The ledger has each event of the outbox once and nothing else, every read is whole, every message has one fate, and
 * the meter says exactly one hour a reading.
 */
export async function expectExact(
  store: Store,
  outbox: SqliteOutbox,
  expected: { readonly readings: number; readonly reads: number; readonly span: Window },
): Promise<LedgerFound> {
  const { readings, reads, span } = expected
  const [events] = await store.rows<{ rows: string; ids: string }>(
    'select count() as rows, uniqExact(id_hash) as ids from events final',
  )
  expect(events, 'each reading is there once').toEqual({ rows: String(readings), ids: String(readings) })
  const [marks] = await store.rows<{ rows: string; ids: string; whole: string }>(
    'select count() as rows, uniqExact(id_hash) as ids, countIf(held) as whole from reads final',
  )
  expect(marks, 'each read is there once, and whole').toEqual({
    rows: String(reads),
    ids: String(reads),
    whole: String(reads),
  })
  // By window, so that one that was lost and another one doubled do not make up for each other.
  const held = await store.rows<{ scope: string; start_s: number; events: string; sum: string }>(
    `select scope, toUnixTimestamp(start) as start_s, count() as events, sum(id_hash) as sum
     from (select scope, start, id_hash from events final union all select scope, start, id_hash from reads final)
     group by scope, start`,
  )
  const sums = new Map(held.map(row => [`${row.scope} ${row.start_s}`, `${row.events} ${row.sum}`]))
  const sent = outbox.sums(span)
  for (const { scope, startMs, events: count, sum } of sent)
    expect(sums.get(`${scope} ${(startMs ?? 0) / 1000}`), `${scope} ${startMs}`).toBe(`${count} ${sum}`)
  expect(sums.size).toBe(sent.length)

  const [fates] = await store.rows<Record<string, string>>(
    `select sum(messages) as messages, sum(events) as events, sum(reads) as reads, sum(duplicates) as duplicates,
       sum(conflicts) as conflicts, sum(rejects) as rejects from positions final`,
  )
  expect(fates).toMatchObject({ conflicts: '0', rejects: '0' })
  const [hours] = await quantities(store, { meter: instanceHours, span, zone: 'UTC', groupBy: [], where: {} })
  expect(hours && show(hours.quantity), 'an hour for each reading').toBe(String(readings))
  return { messages: Number(fates?.messages), duplicates: Number(fates?.duplicates) }
}
