/** The relay as a program of its own, for tests that kill it: arguments are the outbox's directory and the Kafka config. */
import { relay } from '../../collector/relay.ts'
import { type KafkaConfig, kafkaLanes } from '../../runtime/log/kafka.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'

const [dir, config] = [process.argv[2]!, JSON.parse(process.argv[3]!) as KafkaConfig]
using outbox = SqliteOutbox.open({ dir, access: 'drain', nowMs: Date.now })
await using lanes = await kafkaLanes(config)
const stop = new AbortController()
process.on('SIGTERM', () => stop.abort())
console.log('relaying')
await relay({ outbox, lanes, signal: stop.signal })
