/** Kafka at its worst: leaders killed under load, and acknowledgements that never arrive. Nothing acknowledged is lost. */
import { rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, expect, test } from 'vitest'
import { relay } from '../../../collector/relay.ts'
import { type KafkaConfig, kafkaLanes } from '../../../runtime/log/kafka.ts'
import { kafkaEventLog } from '../../../runtime/log/kafka-event-log.ts'
import type { EventLog } from '../../../runtime/log/log.ts'
import type { SqliteOutbox } from '../../../runtime/log/outbox.ts'
import {
  drained,
  endOf,
  expectNothingLost,
  newOutbox,
  seeded,
  startRelay,
  storedRows,
} from '../../collector/relayed.ts'
import { hourAfterJune1, readOf } from '../../reads.ts'
import { type AckProxy, ackProxy } from '../../rig/ack-proxy.ts'
import { startKafka } from '../../rig/kafka.ts'
import { allInSync, asAdmin, freshConfig, leaders, sendAll, truncate } from '../../rig/kafka-topics.ts'

const dirs: string[] = []
afterAll(() => {
  for (const dir of dirs) rmSync(dir, { recursive: true, force: true })
})

/** Appends whole reads, one after the other, until told to stop. */
function load(outbox: SqliteOutbox, signal: AbortSignal): Promise<void> {
  return (async () => {
    for (let read = 0; !signal.aborted; read += 1) {
      outbox.append(
        readOf({ scope: `s${read % 40}`, window: hourAfterJune1(Math.floor(read / 40)), readings: 20 }),
      )
      await sleep(15)
    }
  })()
}

/** Reads without a ledger, in the background; `read` is when so many messages have come. */
function readAll(log: EventLog, count: number): { readonly read: Promise<void>; stop(): Promise<void> } {
  const stop = new AbortController()
  const all = Promise.withResolvers<void>()
  let seen = 0
  const done = (async () => {
    for await (const batch of log.batches({ resumeAt: async () => undefined, signal: stop.signal })) {
      seen += batch.messages.length
      await log.commit(batch)
      if (seen >= count) all.resolve()
    }
  })()
  done.catch(all.reject)
  return {
    read: all.promise,
    stop: async () => {
      stop.abort()
      await done
    },
  }
}

test('three nodes whose leaders are killed with -9 under load: nothing acknowledged is lost, nothing is missed', async () => {
  await using rig = await startKafka({ nodes: 3 })
  const config = freshConfig(rig, { partitions: 6, replicationFactor: 3, minInSyncReplicas: 2 })
  const { dir, outbox } = newOutbox(config)
  dirs.push(dir)
  using _ = outbox
  await using lanes = await kafkaLanes(config)
  await using log = await kafkaEventLog(config, { unreachableAfterMs: 120_000 })
  const stop = new AbortController()
  const quiet = new AbortController()
  const relaying = relay({ outbox, lanes, signal: stop.signal, unreachableAfterMs: 120_000 })
  const loading = load(outbox, quiet.signal)

  // A ledger that takes note of what it has, and complains of a hole.
  const ends = new Map<number, bigint>()
  const seen = new Set<string>()
  const reading = (async () => {
    for await (const batch of log.batches({
      resumeAt: async partition => ends.get(partition),
      signal: stop.signal,
    })) {
      const first = batch.messages[0]!.offset
      expect(first, 'no offset is skipped').toBeLessThanOrEqual(ends.get(batch.partition) ?? 0n)
      for (const message of batch.messages) {
        seen.add(`${batch.partition}/${message.offset}`)
        const end = ends.get(batch.partition) ?? 0n
        if (message.offset + 1n > end) ends.set(batch.partition, message.offset + 1n)
      }
      await log.commit(batch)
    }
  })()
  const running = Promise.all([relaying, reading])
  running.catch(() => {})

  for (let kill = 0; kill < 4; kill += 1) {
    await sleep(3_000)
    const victim = (await leaders(rig, config))[kill]!
    await rig.kill(victim)
    await sleep(8_000)
    await rig.restart(victim)
    await allInSync(rig, config)
  }
  quiet.abort()
  await loading
  await drained(outbox, 60_000)
  const { duplicates } = await expectNothingLost(rig, config, dir)
  const bounds = await asAdmin(rig, admin => admin.fetchTopicOffsets(config.topic))
  const inLog = bounds.reduce((sum, one) => sum + Number(one.high), 0)
  for (let waitedMs = 0; seen.size < inLog && waitedMs < 30_000; waitedMs += 100) await sleep(100)
  expect(seen.size).toBe(inLog)
  stop.abort()
  await running
  console.log(`4 leaders killed: ${storedRows(dir).length} rows, ${duplicates} duplicates, 0 lost`)
}, 400_000)

test('while a leader dies, processors that start find their topic and their place, and the lag is answered', async () => {
  await using rig = await startKafka({ nodes: 3 })
  const config = freshConfig(rig, { partitions: 6, replicationFactor: 3, minInSyncReplicas: 2 })
  const rows = Array.from({ length: 600 }, (_, at) => ({ key: `k${at}`, value: Buffer.from(`${at}`) }))
  await sendAll(config, rows)
  // Where the log does not begin at 0, a reader without a ledger asks the coordinator of its group too.
  for (let partition = 0; partition < 6; partition += 1) await truncate(rig, config.topic, partition, 1)
  await using log = await kafkaEventLog(config)
  const reader = readAll(log, 594)
  await reader.read

  const answersMs: number[] = []
  const lagNow = async () => {
    const sinceMs = performance.now()
    const { lag } = await log.state()
    answersMs.push(performance.now() - sinceMs)
    return lag
  }
  for (let kill = 0; kill < 3; kill += 1) {
    const victim = (await leaders(rig, config))[kill]!
    await rig.kill(victim)
    const asked: Promise<unknown>[] = []
    for (let at = 0; at < 6; at += 1) {
      const groupId = `${config.groupId}-${kill}-${at}`
      asked.push(Promise.all([startedReader({ ...config, groupId }), lagNow()]))
      asked.at(-1)?.catch(() => {})
      await sleep(500)
    }
    await Promise.all(asked)
    await rig.restart(victim)
    await allInSync(rig, config)
    // It may read all again meanwhile: it has no ledger, and the coordinator of its group may have died.
    for (let waitedMs = 0; (await lagNow()) !== 0n && waitedMs < 20_000; waitedMs += 200) await sleep(200)
    expect(await lagNow()).toBe(0n)
  }
  await reader.stop()
  console.log(`18 starts in fail-overs; the lag took up to ${Math.round(Math.max(...answersMs))} ms`)

  async function startedReader(its: KafkaConfig): Promise<void> {
    await using other = await kafkaEventLog(its)
    const reading = readAll(other, 594)
    await reading.read
    await reading.stop()
  }
}, 400_000)

test('a third of the acknowledgements never arrive, and the relay is killed meanwhile: nothing is lost', async () => {
  let proxy: AckProxy | undefined
  await using rig = await startKafka({
    through: async port => {
      proxy = await ackProxy(port)
      return proxy.port
    },
  })
  const config = freshConfig(rig, { partitions: 6 })
  const { dir, outbox } = newOutbox(config)
  dirs.push(dir)
  using _ = outbox
  const random = seeded(7)
  proxy!.decide = () => (random() < 0.3 ? (random() < 0.9 ? 'close' : 'swallow') : 'pass')
  for (let read = 0; read < 400; read += 1)
    outbox.append(readOf({ scope: `s${read % 40}`, window: hourAfterJune1(read), readings: 100 }))
  for (let kill = 0; kill < 4; kill += 1) {
    const child = await startRelay(config, dir)
    await sleep(1_000 + random() * 2_000)
    await endOf(child, 'SIGKILL')
  }
  const child = await startRelay(config, dir)
  await drained(outbox, 300_000)
  await endOf(child, 'SIGTERM')
  proxy!.decide = () => 'pass'

  const { duplicates } = await expectNothingLost(rig, config, dir)
  expect(proxy!.dropped).toBeGreaterThan(10)
  console.log(`${proxy!.dropped} acknowledgements dropped: ${duplicates} duplicates, 0 lost`)
  await proxy!.stop()
}, 500_000)
