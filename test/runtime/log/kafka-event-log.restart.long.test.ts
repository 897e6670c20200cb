/** The reader of a Kafka that goes away: it goes on where it was when the broker comes back, and says so when it does not. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { kafkaEventLog } from '../../../runtime/log/kafka-event-log.ts'
import { type KafkaRig, startKafka } from '../../rig/kafka.ts'
import { freshConfig, sendAll } from '../../rig/kafka-topics.ts'

let rig: KafkaRig
beforeAll(async () => {
  rig = await startKafka({ mayKill: true })
}, 300_000)
afterAll(() => rig?.stop())

const rows = (count: number, from: number) =>
  Array.from({ length: count }, (_, index) => ({
    key: `key-${index % 20}`,
    value: Buffer.from(`value-${from + index}`),
  }))

test('a reader goes on without a hole after the broker was killed and came back, and what it had in hand counts', async () => {
  const config = freshConfig(rig)
  await using log = await kafkaEventLog(config)
  const stop = new AbortController()
  const ends = new Map<number, bigint>()
  const values = new Set<string>()
  let hold = Promise.resolve()
  const reading = (async () => {
    for await (const batch of log.batches({
      resumeAt: async partition => ends.get(partition),
      signal: stop.signal,
    })) {
      await hold
      expect(batch.messages[0]!.offset).toBeLessThanOrEqual(ends.get(batch.partition) ?? 0n)
      for (const message of batch.messages) values.add(String(message.value))
      ends.set(batch.partition, batch.messages.at(-1)!.offset + 1n)
      await log.commit(batch)
    }
  })()
  reading.catch(() => {})
  const arrived = async (count: number) => {
    for (let waitedMs = 0; values.size < count && waitedMs < 40_000; waitedMs += 50) await sleep(50)
    expect(values.size).toBe(count)
  }
  await sendAll(config, rows(300, 0))
  await arrived(300)

  const release = Promise.withResolvers<void>()
  hold = release.promise
  await sendAll(config, rows(300, 300))
  await sleep(500)
  await rig.kill(1)
  await sleep(500)
  release.resolve()
  await sleep(1_000)
  await rig.restart(1)
  await sendAll(config, rows(300, 600))
  await arrived(900)
  stop.abort()
  await reading
}, 120_000)

// The last one: the broker stays away.
test('a reader whose brokers stay away ends with LOG_UNREACHABLE', async () => {
  const config = freshConfig(rig)
  await using log = await kafkaEventLog(config, { unreachableAfterMs: 3_000 })
  const reading = (async () => {
    for await (const batch of log.batches({
      resumeAt: async () => undefined,
      signal: new AbortController().signal,
    }))
      await log.commit(batch)
  })()
  reading.catch(() => {})
  for (let waitedMs = 0; (await log.state()).partitions.length === 0 && waitedMs < 10_000; waitedMs += 50)
    await sleep(50)
  await rig.kill(1)
  const sinceMs = performance.now()
  await expect(reading).rejects.toMatchObject({ code: 'LOG_UNREACHABLE', fate: 'retry' })
  expect(performance.now() - sinceMs).toBeLessThan(15_000)
}, 60_000)
