/** `meterline audit` with Kafka as the log: its ends are asked, and what lies behind the positions is in flight. */
import { expect, test } from 'vitest'
import { World } from '../processor/planted.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { startKafka } from '../rig/kafka.ts'
import { freshConfig, sendAll } from '../rig/kafka-topics.ts'
import { auditedBy } from './audited.ts'

test('what Kafka has beyond the ledger is in flight', async () => {
  await using rig = await startClickHouse()
  await using kafkaRig = await startKafka()
  const config = freshConfig(kafkaRig)
  await sendAll(
    config,
    Array.from({ length: 5 }, (_, index) => ({ key: `k${index}`, value: Buffer.from('{}') })),
  )
  await using world = await World.open(rig)
  const { brokers, topic, rejectedTopic, partitions, replicationFactor, minInSyncReplicas, groupId } = config
  const kafka = { brokers, topic, rejectedTopic, partitions, replicationFactor, minInSyncReplicas, groupId }
  const { code, stdout } = await auditedBy(rig, world, { kafka })
  expect(stdout).toMatch(/received +5\n= accepted +0\n[\s\S]*\+ in flight +5\n/)
  expect(code).toBe(0)
}, 400_000)
