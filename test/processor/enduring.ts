/**
 * Kills ClickHouse with -9 and puts its directory back to older copies, at moments chosen by a seed, while reads pour in;
 * then holds the ledger and every total against an oracle.
 */
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import Fraction from 'fraction.js'
import { expect } from 'vitest'
import { relay } from '../../collector/relay.ts'
import { type Processor, startProcessor } from '../../processor/process.ts'
import { Store } from '../../processor/store.ts'
import { quantities } from '../../processor/usage.ts'
import { embeddedLog } from '../../runtime/log/embedded.ts'
import { type KafkaConfig, kafkaLanes } from '../../runtime/log/kafka.ts'
import { kafkaEventLog } from '../../runtime/log/kafka-event-log.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { partitionOf } from '../../runtime/log/partition.ts'
import { rest } from '../../runtime/rest.ts'
import { show } from '../../schemas/decimal.ts'
import type { Usage } from '../../schemas/event.ts'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { dayMs, hourMs } from '../../schemas/window.ts'
import { seeded } from '../bench/load.ts'
import { hourAfterJune1, instance, june1Ms, newRead, testSource } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'

export interface EndurancePlan {
  readonly seed: number
  readonly kills: number
  readonly restores: number
  /** Without it the processor reads the outbox in place. */
  readonly kafka?: KafkaConfig
}

export interface Endured {
  readonly kills: number
  readonly restores: number
  readonly readings: number
  readonly seconds: number
  /** Messages that the ledger acknowledged, those that came again included. */
  readonly acknowledged: bigint
}

const meter = defaultMeters.find(({ slug }) => slug === 'instance_hours') as Meter
const subjects = ['org-a', 'org-b', 'org-c', 'org-d']
const scopes = 8
const hours = 24
const caughtUpMs = 240_000

export async function endure(plan: EndurancePlan): Promise<Endured> {
  const random = seeded(plan.seed)
  const beganMs = performance.now()
  await using stack = new AsyncDisposableStack()
  const dir = stack.adopt(mkdtempSync(join(tmpdir(), 'meterline-enduring-')), path =>
    rmSync(path, { recursive: true, force: true }),
  )
  const rig = stack.use(await startClickHouse())
  const store = stack.use(await Store.open(rig))
  const { kafka } = plan
  const outbox = stack.use(
    SqliteOutbox.open({
      dir,
      access: 'append',
      nowMs: Date.now,
      ...(kafka && {
        partitions: { count: kafka.partitions, of: key => partitionOf(key, kafka.partitions) },
      }),
    }),
  )
  const feed = new Feed(outbox, random)
  const stop = new AbortController()
  const parts: Promise<void>[] = [feed.pour(stop.signal)]
  if (kafka) {
    const lanes = stack.use(await kafkaLanes(kafka))
    parts.push(relay({ outbox, lanes, signal: stop.signal }))
  }
  const role = new Role(store, outbox, kafka)
  stack.defer(async () => {
    stop.abort()
    await Promise.allSettled(parts)
    await role.stop()
  })
  for (const part of parts) part.catch(() => undefined)
  await role.start()

  const copies: string[] = []
  const everyKills = Math.floor(plan.kills / (plan.restores + 1))
  let restores = 0
  for (let kill = 0; kill < plan.kills + plan.restores; kill += 1) {
    // Something was acknowledged since the last kill, so each of them finds work under way.
    await Promise.race([role.progress(), ...parts, role.ended()])
    await Promise.race([sleep(random() * 1000), ...parts, role.ended()])
    const restoresNow = restores < plan.restores && kill > 0 && kill % (everyKills + 1) === everyKills
    // Every other time the processor is not there either while it happens; the last time it is.
    const isStopped = restoresNow && (plan.restores - restores) % 2 === 0
    if (isStopped) await role.stop()
    await rig.whileDead(directory => {
      const copy = copies[Math.floor(random() * Math.max(1, copies.length - 1))]
      if (restoresNow && copy !== undefined) {
        rmSync(directory, { recursive: true })
        cpSync(copy, directory, { recursive: true })
        restores += 1
      } else if (kill % 4 === 1) {
        const path = join(dir, `copy-${kill}`)
        cpSync(directory, path, { recursive: true })
        copies.push(path)
        if (copies.length > 3) rmSync(copies.shift()!, { recursive: true })
      }
    })
    if (isStopped) await role.start()
  }
  await feed.stop()
  await expectOracle({ store, feed, role, seed: plan.seed })
  expect(restores).toBe(plan.restores)
  // Noticed each time that it happened under its eyes, and never otherwise.
  expect(role.said.filter(line => line.includes('put back'))).toHaveLength(Math.ceil(restores / 2))
  return {
    kills: plan.kills,
    restores,
    readings: feed.readings,
    seconds: Math.round((performance.now() - beganMs) / 1000),
    acknowledged: role.acknowledged(),
  }
}

/** Reads with what they say drawn by the seed, and what counts of them in the end. */
class Feed {
  readonly #outbox: SqliteOutbox
  readonly #random: () => number
  readonly #current = new Map<string, readonly Usage[]>()
  readonly #readats = new Map<string, number>()
  readonly #stopped = new AbortController()
  #pouring: Promise<void> = Promise.resolve()
  readings = 0

  constructor(outbox: SqliteOutbox, random: () => number) {
    this.#outbox = outbox
    this.#random = random
  }

  pour(signal: AbortSignal): Promise<void> {
    const until = AbortSignal.any([signal, this.#stopped.signal])
    this.#pouring = (async () => {
      while (!until.aborted) {
        for (let read = 0; read < 4; read += 1) this.#append()
        await rest(80, until)
      }
    })()
    return this.#pouring
  }

  async stop(): Promise<void> {
    this.#stopped.abort()
    await this.#pouring
  }

  #append(): void {
    const scope = `org/profile-${this.#below(scopes)}`
    const window = hourAfterJune1(this.#below(hours))
    const key = `${scope} ${window.startMs}`
    const readatMs = (this.#readats.get(key) ?? window.endMs) + 1 + this.#below(60_000)
    this.#readats.set(key, readatMs)
    const isComplete = this.#random() > 0.1
    const usages = Array.from({ length: isComplete ? this.#below(20) : 0 }, (_, index) =>
      instance(
        subjects[this.#below(subjects.length)] ?? '',
        `i-${index}`,
        show(new Fraction(this.#below(3_600_001), 1000)),
      ),
    )
    const identity = { source: testSource, scope, window, readatMs }
    this.#outbox.append(newRead(identity, usages, { settled: false, failed: !isComplete }))
    this.readings += usages.length
    if (isComplete) this.#current.set(key, usages)
  }

  /** Hours by subject and hour, as texts. */
  totals(): Record<string, string> {
    const sums = new Map<string, Fraction>()
    for (const [key, usages] of this.#current) {
      const startMs = Number(key.slice(key.lastIndexOf(' ') + 1))
      for (const { subject, measures } of usages) {
        const cell = `${subject} ${(startMs - june1Ms) / hourMs}`
        const seconds = new Fraction(measures.instance_seconds ?? '0')
        sums.set(cell, (sums.get(cell) ?? new Fraction(0)).add(seconds))
      }
    }
    return sorted(Array.from(sums, ([cell, sum]) => [cell, show(sum.div(3600))]))
  }

  #below(end: number): number {
    return Math.floor(this.#random() * end)
  }
}

/** The processor, which may be stopped and started anew. */
class Role {
  readonly #store: Store
  readonly #outbox: SqliteOutbox
  readonly #kafka: KafkaConfig | undefined
  #stack = new AsyncDisposableStack()
  #stop = new AbortController()
  #acknowledgedBefore = 0n
  #seen = 0n
  processor: Processor | undefined
  readonly said: string[] = []

  constructor(store: Store, outbox: SqliteOutbox, kafka: KafkaConfig | undefined) {
    this.#store = store
    this.#outbox = outbox
    this.#kafka = kafka
  }

  async start(): Promise<void> {
    this.#stack = new AsyncDisposableStack()
    this.#stop = new AbortController()
    const log = this.#stack.use(
      this.#kafka ? await kafkaEventLog(this.#kafka) : embeddedLog(this.#outbox, { rowsMax: 500 }),
    )
    // A supervisor would start it again until the store answers.
    for (;;) {
      try {
        this.processor = await startProcessor({
          store: this.#store,
          log,
          meters: [meter],
          suspect: null,
          signal: this.#stop.signal,
          say: line => void this.said.push(line),
        })
        return
      } catch {
        await sleep(200)
      }
    }
  }

  /** Rejects when the processor ended by itself. */
  async ended(): Promise<void> {
    await this.processor?.done
    throw new Error(`the processor ended by itself\n${this.said.slice(-20).join('\n')}`)
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.processor?.done
    this.#acknowledgedBefore += this.processor?.taken() ?? 0n
    this.processor = undefined
    await this.#stack.disposeAsync()
  }

  /** Resolves when more was acknowledged than at the last time. */
  async progress(): Promise<void> {
    const untilMs = performance.now() + caughtUpMs
    while (this.acknowledged() <= this.#seen) {
      if (performance.now() > untilMs)
        throw new Error(`nothing is acknowledged\n${this.said.slice(-20).join('\n')}`)
      await sleep(20)
    }
    this.#seen = this.acknowledged()
  }

  acknowledged(): bigint {
    return this.#acknowledgedBefore + (this.processor?.taken() ?? 0n)
  }
}

async function expectOracle(at: {
  readonly store: Store
  readonly feed: Feed
  readonly role: Role
  readonly seed: number
}): Promise<void> {
  const { store, feed, role, seed } = at
  const words = () => `seed ${seed}\n${role.said.slice(-30).join('\n')}`
  const expected = feed.totals()
  const untilMs = performance.now() + caughtUpMs
  let found: unknown
  do {
    await Promise.race([sleep(300), role.ended()])
    found = await totals(store).catch(String)
  } while (JSON.stringify(found) !== JSON.stringify(expected) && performance.now() < untilMs)
  expect(found, words()).toEqual(expected)
  await role.processor?.fresh(AbortSignal.timeout(60_000))
  expect(await totals(store), words()).toEqual(expected)
  const [events] = await store.rows<{ n: string; ids: string }>(
    'select count() as n, uniqExact(identity, readat) as ids from events final',
  )
  const count = String(feed.readings)
  expect({ ...events, lost: 0, doubled: 0 }, words()).toEqual({ n: count, ids: count, lost: 0, doubled: 0 })
  await expect.poll(() => role.processor?.trouble(), { timeout: 30_000 }).toBeUndefined()
}

async function totals(store: Store): Promise<Record<string, string>> {
  const span = { startMs: june1Ms, endMs: june1Ms + dayMs }
  const rows = await quantities(store, { meter, span, step: 'HOUR', zone: 'UTC', groupBy: [], where: {} })
  return sorted(
    rows.map(({ subject, window, quantity }) => [
      `${subject} ${(window.startMs - june1Ms) / hourMs}`,
      show(quantity),
    ]),
  )
}

function sorted(entries: readonly (readonly [string, string])[]): Record<string, string> {
  return Object.fromEntries([...entries].sort(([a], [b]) => (a < b ? -1 : 1)))
}
