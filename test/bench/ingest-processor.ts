/**
 * The processor of the benchmarks of ingest, with the API's route for usage beside it as in `process`, in a process of its
 * own so that its CPU and memory are its own.
 */
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { startProcessor } from '../../processor/process.ts'
import { Store, type StoreAddress } from '../../processor/store.ts'
import type { KafkaConfig } from '../../runtime/log/kafka.ts'
import { kafkaEventLog } from '../../runtime/log/kafka-event-log.ts'
import { tenMeters } from './load.ts'
import { serveUsage } from './usage-api.ts'

/** Said first: where the API answers. */
export interface IngestStart {
  readonly apiUrl: string
}

export interface IngestReport {
  readonly ingestedSeconds: number
  readonly freshSeconds: number
  readonly cpuSeconds: number
  readonly rssBytes: number
}

const {
  config,
  store: address,
  messages,
  types,
  meters: count,
} = JSON.parse(process.env.BENCH ?? '{}') as {
  config: KafkaConfig
  store: StoreAddress
  messages: number
  types: number
  meters: number
}

const stop = new AbortController()
const { signal } = stop
await using store = await Store.open(address)
await using log = await kafkaEventLog(config)
const meters = tenMeters(types).slice(0, count)
await using api = await serveUsage(store, meters)
process.send?.({ apiUrl: api.url } satisfies IngestStart)
let rssBytes = 0
const watch = setInterval(() => {
  rssBytes = Math.max(rssBytes, process.memoryUsage.rss())
}, 100)
const startedMs = performance.now()
const cpu = process.cpuUsage()
const processor = await startProcessor({ store, log, meters, signal, say: console.error })
const partitions = Array.from({ length: config.partitions }, (_, partition) => partition)
while (partitions.reduce((sum, partition) => sum + Number(processor.position(partition) ?? 0n), 0) < messages)
  // It ends only where it must not go on: then nothing would ever come.
  await Promise.race([sleep(20), processor.done])
const ingestedSeconds = (performance.now() - startedMs) / 1000
await processor.fresh(signal)
const freshSeconds = (performance.now() - startedMs) / 1000
const used = process.cpuUsage(cpu)
clearInterval(watch)
stop.abort()
await processor.done
process.send?.({
  ingestedSeconds,
  freshSeconds,
  cpuSeconds: (used.user + used.system) / 1e6,
  rssBytes,
} satisfies IngestReport)
// Until then those who read are answered.
await once(process, 'disconnect')
