/** A Kafka that wants TLS and a login: topics, lanes, the topic's id and the reader all go through it. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ensureTopics, kafkaLanes } from '../../../runtime/log/kafka.ts'
import { kafkaEventLog } from '../../../runtime/log/kafka-event-log.ts'
import { type KafkaRig, startKafka } from '../../rig/kafka.ts'
import { freshConfig } from '../../rig/kafka-topics.ts'

let rig: KafkaRig
beforeAll(async () => {
  rig = await startKafka({ secured: true })
}, 300_000)
afterAll(() => rig?.stop())

test('events go out and come back over TLS with a login', async () => {
  const config = freshConfig(rig, rig.access)
  await using lanes = await kafkaLanes(config)
  await lanes.send(1, [{ key: 'k', value: Buffer.from('secret') }])
  await using log = await kafkaEventLog(config)
  const stop = new AbortController()
  const values: string[] = []
  for await (const batch of log.batches({ resumeAt: async () => undefined, signal: stop.signal })) {
    values.push(...batch.messages.map(message => String(message.value)))
    await log.commit(batch)
    stop.abort()
  }
  expect(values).toEqual(['secret'])
  expect(log.id).toMatch(/^[\w-]{22}$/)
})

test('a wrong password, no login, no TLS and an unknown authority are faults in bounded time that say nothing secret', async () => {
  const { ssl, sasl } = rig.access
  const wrong = { ...sasl!, password: 'hunter2-wrong' }
  for (const access of [
    { ssl: ssl!, sasl: wrong },
    { ssl: ssl! },
    { sasl: sasl! },
    { ssl: true, sasl: sasl! },
  ]) {
    const attempt = ensureTopics(freshConfig(rig, access))
    await expect(attempt).rejects.toMatchObject({ code: 'LOG_UNREACHABLE' })
    const told = await attempt.catch(error => `${error.message} ${JSON.stringify(error.facts)}`)
    expect(told).not.toMatch(/hunter2|for tests only/)
  }
}, 60_000)
