/** The reader of a real Kafka: the contract of a log, rebalances, retention, and commits only behind the ledger. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { type KafkaConfig, kafkaLanes, withAdmin } from '../../../runtime/log/kafka.ts'
import { kafkaEventLog } from '../../../runtime/log/kafka-event-log.ts'
import type { EventLog, LogBatch } from '../../../runtime/log/log.ts'
import type { Fault } from '../../../schemas/fault.ts'
import { runLogContract } from '../../contract/log.ts'
import { type KafkaRig, startKafka } from '../../rig/kafka.ts'
import { asAdmin, freshConfig, sendAll, truncate } from '../../rig/kafka-topics.ts'

// One that hangs is told soon: a planted fault is known by it (test/simulation/mutations.ts).
vi.setConfig({ testTimeout: 60_000 })

let rig: KafkaRig
beforeAll(async () => {
  rig = await startKafka()
}, 300_000)
afterAll(() => rig?.stop())

runLogContract('Kafka', async () => {
  const config = freshConfig(rig)
  return {
    append: messages =>
      sendAll(
        config,
        messages.map(({ key, value }) => ({ key, value: Buffer.from(value) })),
      ),
    open: () => kafkaEventLog(config),
    async [Symbol.asyncDispose]() {},
  }
})

const rows = (count: number, from = 0) =>
  Array.from({ length: count }, (_, index) => ({
    key: `key-${(from + index) % 20}`,
    value: Buffer.from(`value-${from + index}`),
  }))

/** A ledger that several processors share: what it holds, and where each partition goes on. */
function sharedLedger() {
  const held = new Map<number, Set<bigint>>()
  const end = (partition: number) => {
    let next = 0n
    while (held.get(partition)?.has(next)) next += 1n
    return next
  }
  return {
    put(batch: LogBatch) {
      const offsets = held.get(batch.partition) ?? new Set()
      held.set(batch.partition, offsets)
      for (const message of batch.messages) offsets.add(message.offset)
    },
    resumeAt: async (partition: number) => (held.has(partition) ? end(partition) : undefined),
    count: () => [...held.values()].reduce((sum, offsets) => sum + offsets.size, 0),
  }
}

/** Reads in the background, handing each batch to `work`. */
function reading(
  log: EventLog,
  resumeAt: (partition: number) => Promise<bigint | undefined>,
  work: (batch: LogBatch) => Promise<void> | void,
) {
  const stop = new AbortController()
  const done = (async () => {
    for await (const batch of log.batches({ resumeAt, signal: stop.signal })) await work(batch)
  })()
  done.catch(() => {})
  return {
    done,
    stop: async () => {
      stop.abort()
      await done
    },
  }
}

async function eventually(isSo: () => boolean | Promise<boolean>, limitMs = 20_000): Promise<void> {
  const deadlineMs = performance.now() + limitMs
  while (!(await isSo())) {
    if (performance.now() > deadlineMs) throw new Error('it did not come to be')
    await sleep(50)
  }
}

const committed = (config: KafkaConfig) =>
  withAdmin(config, async admin => {
    const [topic] = await admin.fetchOffsets({ groupId: config.groupId, topics: [config.topic] })
    return new Map(topic!.partitions.map(one => [one.partition, BigInt(one.offset)]))
  })

test('the committed offset is the one after the last acknowledged batch, and nothing is committed before', async () => {
  const config = freshConfig(rig, { partitions: 1 })
  await sendAll(config, rows(10))
  await using log = await kafkaEventLog(config)
  let before: bigint | undefined
  const reader = reading(
    log,
    async () => 4n,
    async batch => {
      before = (await committed(config)).get(0)
      await log.commit(batch)
    },
  )
  await eventually(async () => (await committed(config)).get(0) === 10n)
  await reader.stop()
  expect(before).toBe(-1n)
})

test('batches acknowledged out of order are committed only as far as all before them are', async () => {
  const config = freshConfig(rig, { partitions: 1 })
  await using log = await kafkaEventLog(config, { messagesMax: 1 })
  const taken: LogBatch[] = []
  const reader = reading(
    log,
    async () => undefined,
    batch => void taken.push(batch),
  )
  for (let sent = 0; sent < 3; sent += 1) {
    await sendAll(config, rows(5, sent * 5))
    await eventually(() => taken.length > sent)
  }
  const [first, ...later] = taken
  for (const batch of later) await log.commit(batch)
  expect((await committed(config)).get(0)).toBe(-1n)

  await log.commit(first!)
  expect((await committed(config)).get(0)).toBe(15n)
  await reader.stop()
})

test('a second member takes over half of the partitions, and all of them when the first one goes', async () => {
  const config = freshConfig(rig, { partitions: 4 })
  const ledger = sharedLedger()
  await sendAll(config, rows(200))
  await using one = await kafkaEventLog(config)
  await using two = await kafkaEventLog(config)
  const take = (log: EventLog) => async (batch: LogBatch) => {
    ledger.put(batch)
    await log.commit(batch)
  }
  const first = reading(one, ledger.resumeAt, take(one))
  await eventually(() => ledger.count() === 200)

  const second = reading(two, ledger.resumeAt, take(two))
  await eventually(async () => (await two.state()).partitions.length === 2)
  await eventually(async () => (await one.state()).partitions.length === 2)
  await sendAll(config, rows(200, 200))
  await eventually(() => ledger.count() === 400)

  await first.stop()
  await sendAll(config, rows(200, 400))
  await eventually(() => ledger.count() === 600)
  expect((await two.state()).partitions).toEqual([0, 1, 2, 3])
  await second.stop()
})

test('a rebalance while a batch is in hand neither loses it nor commits over it', async () => {
  const config = freshConfig(rig, { partitions: 2 })
  const ledger = sharedLedger()
  await sendAll(config, rows(100))
  await using one = await kafkaEventLog(config)
  await using two = await kafkaEventLog(config)
  const release = Promise.withResolvers<void>()
  const holding = Promise.withResolvers<LogBatch>()
  const first = reading(one, ledger.resumeAt, async batch => {
    holding.resolve(batch)
    await release.promise
    ledger.put(batch)
    await one.commit(batch)
  })
  const held = await holding.promise

  // The second member gets one partition while the first still works on its batch, of which nothing is committed.
  const second = reading(two, ledger.resumeAt, async batch => {
    ledger.put(batch)
    await two.commit(batch)
  })
  await eventually(async () => (await two.state()).partitions.length === 1)
  await sendAll(config, rows(100, 100))
  await eventually(() => ledger.count() > 0)
  const before = await committed(config)
  expect(before.get(held.partition) === -1n || (await two.state()).partitions.includes(held.partition)).toBe(
    true,
  )

  release.resolve()
  await eventually(() => ledger.count() === 200)
  await first.stop()
  await second.stop()
  expect(await one.state()).toEqual({ lag: 0n, partitions: [] })
})

test('messages that retention took before they were read are reported, and reading goes on behind them', async () => {
  const config = freshConfig(rig, { partitions: 1 })
  await sendAll(config, rows(50))
  await truncate(rig, config.topic, 0, 20)
  const faults: Fault[] = []
  await using log = await kafkaEventLog(config, { onFault: fault => void faults.push(fault) })
  const offsets: bigint[] = []
  const reader = reading(
    log,
    async () => 5n,
    batch => void offsets.push(...batch.messages.map(message => message.offset)),
  )
  await eventually(() => offsets.length === 30)
  await reader.stop()

  expect(offsets[0]).toBe(20n)
  expect(faults.map(fault => [fault.code, fault.facts.wanted, fault.facts.found])).toEqual([
    ['LOG_TRUNCATED', '5', '20'],
  ])
})

test('a new ledger on an old topic begins where the log does; one whose group had committed is told what is gone', async () => {
  const config = freshConfig(rig, { partitions: 1 })
  await sendAll(config, rows(30))
  await truncate(rig, config.topic, 0, 10)
  const readAll = async () => {
    const faults: Fault[] = []
    const offsets: bigint[] = []
    await using log = await kafkaEventLog(config, { onFault: fault => void faults.push(fault) })
    const reader = reading(
      log,
      async () => undefined,
      async batch => {
        offsets.push(...batch.messages.map(message => message.offset))
        await log.commit(batch)
      },
    )
    await eventually(() => offsets.length === 20)
    await reader.stop()
    return { offsets, codes: faults.map(fault => fault.code) }
  }

  const first = await readAll()
  expect(first.offsets[0]).toBe(10n)
  expect(first.codes).toEqual([])

  const second = await readAll()
  expect(second.offsets).toEqual(first.offsets)
  expect(second.codes).toEqual(['LOG_TRUNCATED'])
})

test('messages that retention takes from under a slow reader are reported too', async () => {
  const config = freshConfig(rig, { partitions: 1 })
  const faults: Fault[] = []
  await using log = await kafkaEventLog(config, {
    onFault: fault => void faults.push(fault),
    aheadBytesMax: 1,
  })
  const release = Promise.withResolvers<void>()
  const offsets: bigint[] = []
  await sendAll(config, rows(10))
  const reader = reading(
    log,
    async () => undefined,
    async batch => {
      offsets.push(...batch.messages.map(message => message.offset))
      await release.promise
      await log.commit(batch)
    },
  )
  await eventually(() => offsets.length === 10)
  // One fetch waits for room, one is held ahead; what comes after them is deleted unread.
  for (let from = 10; from < 60; from += 10) {
    await sendAll(config, rows(10, from))
    await sleep(400)
  }
  await truncate(rig, config.topic, 0, -1)
  release.resolve()
  await sendAll(config, rows(5, 60))
  await eventually(() => offsets.at(-1) === 64n)
  await reader.stop()

  expect(faults.map(fault => fault.code)).toEqual(['LOG_TRUNCATED'])
  expect(faults[0]!.facts.found).toBe('60')
  expect(offsets).toEqual(offsets.toSorted((a, b) => (a < b ? -1 : 1)))
  const missing = Number(faults[0]!.facts.found) - Number(faults[0]!.facts.wanted)
  expect(offsets.length + missing, 'each offset was delivered or reported').toBe(65)
})

test('a ledger that has more than the log is a halt: the log lost its end', async () => {
  const config = freshConfig(rig, { partitions: 1 })
  await sendAll(config, rows(10))
  await using log = await kafkaEventLog(config, { unreachableAfterMs: 1_000 })
  const reader = reading(
    log,
    async () => 11n,
    () => {},
  )
  await expect(reader.done).rejects.toMatchObject({
    code: 'LOG_UNSAFE',
    facts: { wanted: '11', found: '10' },
  })
})

test('a topic made anew under the same name is another log', async () => {
  const config = freshConfig(rig, { partitions: 1 })
  await using before = await kafkaEventLog(config)
  await asAdmin(rig, admin => admin.deleteTopics({ topics: [config.topic] }))
  await eventually(async () => !(await asAdmin(rig, admin => admin.listTopics())).includes(config.topic))
  await using after = await kafkaEventLog(config)
  expect(before.id).toMatch(/^[\w-]{22}$/)
  expect(after.id).not.toBe(before.id)

  // A reader opened on the old one does not take the new one for it.
  const reader = reading(
    before,
    async () => undefined,
    () => {},
  )
  await expect(reader.done).rejects.toMatchObject({ code: 'LOG_UNSAFE' })
}, 60_000)

test('a consumer that crashes for good ends the reading with an error', async () => {
  // Longer than any broker allows by default (30 minutes): the group refuses the member.
  const config = freshConfig(rig, { sessionTimeoutMs: 3_600_000 })
  await using log = await kafkaEventLog(config)
  const reader = reading(
    log,
    async () => undefined,
    () => {},
  )
  await expect(reader.done).rejects.toMatchObject({
    code: 'LOG_UNREACHABLE',
    facts: { type: 'INVALID_SESSION_TIMEOUT' },
  })
})

test('an error that nobody expected ends the reading: kafkajs would join again for ever, and read nothing', async () => {
  const config = freshConfig(rig, { partitions: 1 })
  const poison = Buffer.from('poison')
  const textOf = Buffer.prototype.toString
  const broken = vi.spyOn(Buffer.prototype, 'toString').mockImplementation(function (this: Buffer, ...of) {
    if (this.length === poison.length && this.equals(poison)) throw new Error('a key that cannot be read')
    return textOf.apply(this, of as [])
  })
  try {
    await using log = await kafkaEventLog(config)
    const reader = reading(
      log,
      async () => undefined,
      () => {},
    )
    await sendAll(config, [{ key: null, value: Buffer.from('good') }])
    await using lanes = await kafkaLanes(config)
    await lanes.send(0, [{ key: 'poison', value: Buffer.from('bad') }])
    await expect(reader.done).rejects.toMatchObject({
      code: 'INTERNAL',
      message: 'a key that cannot be read',
    })
  } finally {
    broken.mockRestore()
  }
})

test('a partition of which nothing comes while it is behind is named, until it is read', async () => {
  const config = freshConfig(rig, { partitions: 2 })
  await sendAll(config, rows(40))
  await using log = await kafkaEventLog(config, { unreadAfterMs: 500 })
  const answer = Promise.withResolvers<undefined>()
  const partitions: number[] = []
  const reader = reading(
    log,
    partition => (partition === 1 ? answer.promise : Promise.resolve(undefined)),
    batch => void partitions.push(batch.partition),
  )
  await eventually(async () => (await log.state()).paused?.length === 1)
  expect(await log.state()).toMatchObject({ paused: [1], partitions: [0, 1] })
  expect(new Set(partitions)).toEqual(new Set([0]))
  answer.resolve(undefined)
  await eventually(async () => (await log.state()).paused?.length === 0)
  await reader.stop()
  expect(new Set(partitions)).toEqual(new Set([0, 1]))
})

test('a backlog comes in large batches, and a slow consumer bounds what is fetched ahead', async () => {
  const config = freshConfig(rig, { partitions: 1 })
  const value = Buffer.alloc(10_000, 'x')
  await sendAll(
    config,
    Array.from({ length: 2_000 }, () => ({ key: 'k', value })),
  )
  await using log = await kafkaEventLog(config, { aheadBytesMax: 4 * 1024 ** 2, bytesMax: 3 * 1024 ** 2 })
  const sizes: number[] = []
  const reader = reading(
    log,
    async () => undefined,
    async batch => {
      await sleep(200)
      sizes.push(batch.messages.length)
      await log.commit(batch)
    },
  )
  await eventually(() => sizes.reduce((sum, size) => sum + size, 0) === 2_000)
  await reader.stop()
  expect(Math.max(...sizes)).toBeGreaterThan(150)
  expect(Math.max(...sizes)).toBeLessThan(420)
})
