/** Where pushed events go: acknowledged only when they are durable, many at once, each in the partition of its key. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { kafkaLanes } from '../../../runtime/log/kafka.ts'
import { type PushedEvent, SqliteOutbox } from '../../../runtime/log/outbox.ts'
import { partitionOf } from '../../../runtime/log/partition.ts'
import { lanesSink, outboxSink } from '../../../runtime/log/sink.ts'
import { startKafka } from '../../rig/kafka.ts'
import { freshConfig, readTopic } from '../../rig/kafka-topics.ts'

const dir = mkdtempSync(join(tmpdir(), 'meterline-sink-'))
afterAll(() => rmSync(dir, { recursive: true }))

function event(id: number, bytes = 100): PushedEvent {
  const value = Buffer.from(JSON.stringify({ id, data: 'x'.repeat(bytes) }))
  return { source: 'urn:app', id: String(id), key: `urn:app ${id}`, value }
}

test('requests that come together are in the outbox when they are acknowledged; what does not fit fails alone', async () => {
  using outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: Date.now, bytesMax: 100_000 })
  const sink = outboxSink(outbox)
  await Promise.all(Array.from({ length: 100 }, (_, id) => sink.put([event(id)])))
  expect(outbox.depth().rows).toBe(100)
  const results = await Promise.allSettled([sink.put([event(100, 200_000)]), sink.put([event(101)])])
  expect(results).toMatchObject([
    { status: 'rejected', reason: { code: 'OUTBOX_FULL' } },
    { status: 'fulfilled' },
  ])
  expect(outbox.depth().rows).toBe(101)
})

test('in Kafka each is in the partition of its key when it is acknowledged, and one that is too large fails alone', async () => {
  await using rig = await startKafka()
  const config = freshConfig(rig)
  await using lanes = await kafkaLanes(config)
  const sink = lanesSink(lanes)
  const requests = Array.from({ length: 200 }, (_, at) =>
    Array.from({ length: 10 }, (__, index) => event(at * 10 + index)),
  )
  const large = sink.put([event(5000, 2_000_000)])
  const refused = expect(large).rejects.toMatchObject({ code: 'EVENT_TOO_LARGE' })
  await Promise.all(requests.map(events => sink.put(events)))
  await refused
  const found = await readTopic(rig, config.topic)
  expect(found.map(({ value }) => JSON.parse(String(value)).id).sort((a, b) => a - b)).toEqual(
    Array.from({ length: 2000 }, (_, id) => id),
  )
  for (const { partition, value } of found)
    expect(partition).toBe(partitionOf(`urn:app ${JSON.parse(String(value)).id}`, config.partitions))
}, 300_000)
