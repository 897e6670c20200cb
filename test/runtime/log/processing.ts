/**
 * A processor as a program of its own, which a test can stop, and which can be told to die with -9 at the worst moment.
 * Argument: JSON of `Processing`.
 */
import { startProcessor } from '../../../processor/process.ts'
import { Store, type StoreAddress } from '../../../processor/store.ts'
import { type KafkaConfig, kafkaRejectLog } from '../../../runtime/log/kafka.ts'
import { kafkaEventLog } from '../../../runtime/log/kafka-event-log.ts'
import { stopSignal } from '../../../runtime/stop.ts'
import { defaultMeters } from '../../../schemas/meters.ts'

export interface Processing {
  readonly kafka: KafkaConfig
  readonly store: StoreAddress
  /** Die after the n-th insert into this table, or before the n-th commit to Kafka, when the ledger has all. */
  readonly die?: { readonly after: 'events' | 'reads' | 'positions' | 'ledger'; readonly times: number }
}

const { kafka, store: address, die } = JSON.parse(process.argv[2] ?? '{}') as Processing
let left = die?.times ?? 0
const dieAfter = (what: string) => {
  if (die?.after !== what) return
  left -= 1
  if (left === 0) process.kill(process.pid, 'SIGKILL')
}

const { insert, insertBlocks } = Store.prototype
Store.prototype.insert = async function (this: Store, table, columns, lines) {
  await insert.call(this, table, columns, lines)
  if (lines.length > 0) dieAfter(table)
}
Store.prototype.insertBlocks = async function (this: Store, table, blocks) {
  await insertBlocks.call(this, table, blocks)
  if (blocks.length > 0) dieAfter(table)
}

await using store = await Store.open(address)
await using log = await kafkaEventLog(kafka)
await using rejects = await kafkaRejectLog(kafka)
const commit = log.commit.bind(log)
log.commit = async batch => {
  dieAfter('ledger')
  await commit(batch)
}
const processor = await startProcessor({
  store,
  log,
  rejects,
  meters: defaultMeters.filter(({ slug }) => slug === 'instance_hours'),
  signal: stopSignal(),
  say: line => console.error(line),
})
process.stdout.write('started\n')
await processor.done
