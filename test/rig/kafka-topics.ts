/** Topics of a test's own on the rig's Kafka: fresh names, small sizes, and a way to put messages in and look at them. */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Admin, Kafka, logLevel } from 'kafkajs'
import { type KafkaConfig, kafkaLanes, type LaneRow, withAdmin } from '../../runtime/log/kafka.ts'
import { partitionOf } from '../../runtime/log/partition.ts'
import type { KafkaRig } from './kafka.ts'

/** A config for one broker, with topics and a group that no other test has. */
export function freshConfig(rig: KafkaRig, changes: Partial<KafkaConfig> = {}): KafkaConfig {
  const name = randomUUID().slice(0, 8)
  return {
    brokers: rig.brokers,
    topic: `events-${name}`,
    rejectedTopic: `rejected-${name}`,
    partitions: 3,
    replicationFactor: 1,
    minInSyncReplicas: 1,
    create: true,
    groupId: `group-${name}`,
    sessionTimeoutMs: 1_500,
    retentionMs: 7 * 24 * 3_600_000,
    ...changes,
  }
}

/** Runs `work` with an admin client; again, with a new one, where it meets a fail-over that the test has made. */
export async function asAdmin<T>(rig: KafkaRig, work: (admin: Admin) => Promise<T>): Promise<T> {
  return await withAdmin({ brokers: rig.brokers, ...rig.access }, work)
}

/** Deletes a partition's messages before `offset` (-1: all), as retention would. */
export async function truncate(
  rig: KafkaRig,
  topic: string,
  partition: number,
  offset: number,
): Promise<void> {
  await asAdmin(rig, async admin => {
    // kafkajs finds the leader only in metadata that something else has loaded.
    await admin.fetchTopicOffsets(topic)
    await admin.deleteTopicRecords({ topic, partitions: [{ partition, offset: String(offset) }] })
  })
}

/** The node that leads each partition. */
export async function leaders(rig: KafkaRig, config: KafkaConfig): Promise<number[]> {
  const found = await asAdmin(rig, admin => admin.fetchTopicMetadata({ topics: [config.topic] }))
  return found.topics[0]!.partitions.map(partition => partition.leader)
}

/** Waits until every replica of every partition is in sync. */
export async function allInSync(rig: KafkaRig, config: KafkaConfig): Promise<void> {
  for (let waitedMs = 0; waitedMs < 60_000; waitedMs += 500) {
    const found = await asAdmin(rig, admin => admin.fetchTopicMetadata({ topics: [config.topic] }))
    if (found.topics[0]!.partitions.every(partition => partition.isr.length === 3)) return
    await sleep(500)
  }
  throw new Error('the replicas do not catch up')
}

/** Deals rows to partitions by key and sends each partition's in order. */
export async function sendAll(config: KafkaConfig, rows: readonly LaneRow[]): Promise<void> {
  await using lanes = await kafkaLanes(config)
  const dealt = Map.groupBy(rows, row => partitionOf(row.key ?? '', config.partitions))
  await Promise.all(
    [...dealt].map(async ([partition, mine]) => {
      for (let rest = mine; rest.length > 0; ) rest = rest.slice((await lanes.send(partition, rest)).rows)
    }),
  )
}

export interface FoundMessage {
  readonly partition: number
  readonly offset: bigint
  readonly key: string | null
  readonly value: Buffer
  /** Of a tombstone it has none, and `value` is empty. */
  readonly hasValue: boolean
  readonly headers: Readonly<Record<string, string>>
}

/** The whole topic, read by a plain consumer of its own. */
export async function readTopic(rig: KafkaRig, topic: string): Promise<readonly FoundMessage[]> {
  const ends = await asAdmin(rig, admin => admin.fetchTopicOffsets(topic))
  const left = new Map(ends.filter(one => one.low !== one.high).map(one => [one.partition, BigInt(one.high)]))
  const found: FoundMessage[] = []
  if (left.size === 0) return found
  const consumer = new Kafka({ brokers: [...rig.brokers], logLevel: logLevel.NOTHING }).consumer({
    groupId: `reader-${randomUUID()}`,
    maxWaitTimeInMs: 100,
    retry: { retries: 10 },
  })
  try {
    await consumer.connect()
    await consumer.subscribe({ topic, fromBeginning: true })
    await new Promise<void>((resolve, reject) => {
      consumer.on(consumer.events.CRASH, event => {
        if (!event.payload.restart) reject(event.payload.error)
      })
      consumer
        .run({
          autoCommit: false,
          eachBatch: async ({ batch }) => {
            for (const message of batch.messages)
              found.push({
                partition: batch.partition,
                offset: BigInt(message.offset),
                key: message.key?.toString() ?? null,
                value: message.value ?? Buffer.alloc(0),
                hasValue: message.value !== null,
                headers: Object.fromEntries(
                  Object.entries(message.headers ?? {}).map(([name, value]) => [name, String(value)]),
                ),
              })
            const end = left.get(batch.partition)
            if (end !== undefined && BigInt(batch.lastOffset()) + 1n >= end) left.delete(batch.partition)
            if (left.size === 0) resolve()
          },
        })
        .catch(reject)
    })
  } finally {
    await consumer.disconnect()
  }
  return found
}
