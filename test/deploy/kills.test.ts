/** Processes killed with -9, a few times: the fifty kills are in kills.long.test.ts. */
import { afterAll, beforeAll, test } from 'vitest'
import { type KafkaRig, startKafka } from '../rig/kafka.ts'
import { surviveKills } from './kills.ts'

let kafka: KafkaRig

beforeAll(async () => {
  kafka = await startKafka()
})
afterAll(async () => {
  await kafka?.stop()
})

test('killed with -9 six times, one process with everything embedded comes to the exact totals', async () => {
  await surviveKills({ seed: 1, kills: 6, hours: 12 })
}, 240_000)

test('killed with -9 six times, collector and processor on a real Kafka come to the exact totals', async () => {
  await surviveKills({ seed: 2, kills: 6, hours: 12, brokers: kafka.brokers })
}, 240_000)
