/** Benchmark: events from a real Kafka into the ledger until no cell is stale, against inserting the same rows bare. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { type ClickHouseSettings, createClient } from '@clickhouse/client'
import { type Embedded, openEmbedded } from '../../deploy/embedded/embedded.ts'
import { Store, type StoreAddress } from '../../processor/store.ts'
import { type KafkaConfig, kafkaLanes } from '../../runtime/log/kafka.ts'
import { partitionOf } from '../../runtime/log/partition.ts'
import { contentHash, contentOf, type MarkEvent, markType, type ReadingEvent } from '../../schemas/event.ts'
import { dayMs } from '../../schemas/window.ts'
import { startKafka } from '../rig/kafka.ts'
import type { IngestReport, IngestStart } from './ingest-processor.ts'
import { type LoadOptions, loadReads } from './load.ts'
import { atLeast } from './wanted.ts'

const batchRows = 25_000
const partitions = 4
const metersMax = 10

/** Prints the rates and their ratios; `events` is a million unless said otherwise, `meters` ten. */
export async function benchIngest([
  given = '1000000',
  meters = String(metersMax),
]: readonly string[]): Promise<void> {
  await using world = await openWorld(loadOf(Number(given)))
  const { store, pid, bodies, messages, readings } = world
  const start = cpuSeconds(pid)
  const one = await bareInsert(world, 1)
  const bare = cpuSeconds(pid) - start
  const two = await bareInsert(world, 2)
  const lighter = await bareInsert(world, 1, { optimize_on_insert: 0 })
  console.log(`bare insert, one connection:  ${rate(readings, one)} rows/s`)
  console.log(`bare insert, two connections: ${rate(readings, two)} rows/s`)
  console.log(
    `bare insert, one connection, optimize_on_insert = 0 as ours: ${rate(readings, lighter)} rows/s`,
  )
  bodies.length = 0

  const before = { clickhouse: cpuSeconds(pid), kafka: cpuSeconds(world.kafkaPid) }
  const report = await runProcessor(world, { database: 'bench', meters: Number(meters) })
  const used = {
    clickhouse: cpuSeconds(pid) - before.clickhouse,
    kafka: cpuSeconds(world.kafkaPid) - before.kafka,
  }
  const perEvent = (seconds: number) => `${((seconds * 1e6) / messages).toFixed(1)} µs`
  console.log(
    `ingested in ${report.ingestedSeconds.toFixed(1)} s, no cell of ${meters} meters stale after ${report.freshSeconds.toFixed(1)} s: ${rate(messages, report.freshSeconds)} events/s`,
  )
  console.log(`CPU a row of the bare insert, ClickHouse: ${((bare * 1e6) / readings).toFixed(1)} µs`)
  console.log(
    `CPU an event: processor ${perEvent(report.cpuSeconds)}, ClickHouse ${perEvent(used.clickhouse)}, Kafka ${perEvent(used.kafka)}`,
  )
  console.log(`RSS: processor ${megabytes(report.rssBytes)} at most, ClickHouse ${megabytes(rssBytes(pid))}`)
  console.log(
    `ratio to the bare insert over one connection: ${(one / report.freshSeconds).toFixed(2)} ${atLeast(one / report.freshSeconds, 0.5)}`,
  )
  console.log(`ratio to the bare insert over two connections: ${(two / report.freshSeconds).toFixed(2)}`)
  console.log(`ratio to the one with optimize_on_insert = 0: ${(lighter / report.freshSeconds).toFixed(2)}`)
  const [held] = await store.rows<{ readings: string; reads: string; puts: string }>(
    `select (select count() from events final) as readings, (select count() from reads final where held) as reads,
       (select count() from puts) as puts`,
  )
  console.log(
    `in the ledger: ${held?.readings} readings of ${held?.reads} complete reads, in ${held?.puts} puts`,
  )
  if (Number(held?.readings) !== readings)
    throw new Error(`the ledger holds ${held?.readings} of ${readings} readings`)
}

/** So many events in cells and reads as full as those of a million in a week. */
export function loadOf(events: number): LoadOptions {
  const days = Math.max(1, Math.round((7 * events) / 1_000_000))
  return { events, subjects: 1000, types: 10, days, rereadPercent: 2, seed: 1 }
}

/** A Kafka that holds the load, and a store that has nothing of it yet. */
export interface World extends AsyncDisposable {
  readonly load: LoadOptions
  readonly kafka: KafkaConfig
  readonly kafkaPid: number
  readonly address: StoreAddress
  /** Of the process of ClickHouse. */
  readonly pid: number
  /** Of the database `bench`. */
  readonly store: Store
  /** The readings as rows of `events` in JSON, batch by batch. */
  readonly bodies: Buffer[]
  readonly messages: number
  readonly readings: number
}

export async function openWorld(load: LoadOptions): Promise<World> {
  await using opening = new AsyncDisposableStack()
  const kafka = opening.use(await startKafka({ mayKill: true }))
  const dataDir = mkdtempSync(join(tmpdir(), 'meterline-bench-'))
  opening.defer(() => rmSync(dataDir, { recursive: true, force: true }))
  const clickhouse: Embedded = opening.use(await openEmbedded({ dataDir }))
  const { url, user, password, pid } = clickhouse
  const address = { url, user, password, database: 'bench' }
  const config: KafkaConfig = {
    brokers: kafka.brokers,
    topic: 'bench.events',
    rejectedTopic: 'bench.rejected',
    partitions,
    replicationFactor: 1,
    minInSyncReplicas: 1,
    create: true,
    groupId: 'bench',
    sessionTimeoutMs: 10_000,
    retentionMs: 7 * dayMs,
  }
  const produced = await produce(load, config)
  const store = opening.use(await Store.open(address))
  const opened = opening.move()
  return {
    load,
    kafka: config,
    kafkaPid: kafka.pid(1),
    address,
    pid,
    store,
    ...produced,
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  }
}

async function produce(
  load: LoadOptions,
  config: KafkaConfig,
): Promise<Pick<World, 'bodies' | 'messages' | 'readings'>> {
  const bodies: Buffer[] = []
  let rows: Buffer[] = []
  let messages = 0
  let readings = 0
  let bytes = 0
  await using lanes = await kafkaLanes(config)
  const queues: { key: string; value: Buffer }[][] = Array.from({ length: partitions }, () => [])
  for (const read of loadReads(load)) {
    for (const event of read) {
      const value = Buffer.from(JSON.stringify(event))
      queues[partitionOf(event.partitionkey, partitions)]?.push({ key: event.partitionkey, value })
      messages += 1
      bytes += value.length
    }
    const lines = linesOf(read)
    rows.push(Buffer.from(lines.join('')))
    readings += lines.length
    if (readings >= (bodies.length + 1) * batchRows) {
      bodies.push(Buffer.concat(rows))
      rows = []
    }
    if (messages % 5000 < 100) await sendAll(queues, lanes)
  }
  await sendAll(queues, lanes)
  bodies.push(Buffer.concat(rows))
  console.log(
    `${readings} readings in ${messages} messages of ${Math.round(bytes / messages)} bytes on average`,
  )
  return { bodies, messages, readings }
}

const bareColumns = `type, subject, start, end, used_start, used_end, resource_kind, resource_id, resource_name, measures,
  labels, parts, estimated, source, scope, readat, identity, content, log, partition, offset`

/** The readings as a plain client would send them. */
function linesOf(read: readonly (ReadingEvent | MarkEvent)[]): readonly string[] {
  return read.flatMap((event, offset) => {
    if (event.type === markType) return []
    const reading = event as ReadingEvent
    const { source, scope, readat, id } = reading
    const identity = BigInt(`0x${id.slice(0, 32)}`).toString()
    const place = [
      source,
      scope,
      readat,
      identity,
      contentHash(reading).toString(),
      'bare',
      0,
      String(offset),
    ]
    return [`${JSON.stringify([...contentOf(reading), ...place])}\n`]
  })
}

async function sendAll(
  queues: { key: string; value: Buffer }[][],
  lanes: Awaited<ReturnType<typeof kafkaLanes>>,
): Promise<void> {
  await Promise.all(
    queues.map(async (queue, partition) => {
      while (queue.length > 0) queue.splice(0, (await lanes.send(partition, queue)).rows)
    }),
  )
}

/** Takes all that the log has into a database of its own. `during` is told where its API answers, and ended with it. */
export async function runProcessor(
  { kafka, address, messages, load }: World,
  { database, meters }: { readonly database: string; readonly meters: number },
  during?: (apiUrl: string, signal: AbortSignal) => Promise<void>,
): Promise<IngestReport> {
  const config = { ...kafka, groupId: database }
  const task = { config, store: { ...address, database }, messages, types: load.types, meters }
  const child = fork(new URL('./ingest-processor.ts', import.meta.url), {
    execArgv: (process.env.BENCH_NODE ?? '').split(' ').filter(flag => flag !== ''),
    env: { ...process.env, BENCH: JSON.stringify(task) },
  })
  const died = new AbortController()
  child.once('exit', code => died.abort(new Error(`the processor ended with ${code}`)))
  const { signal } = died
  const [{ apiUrl }] = (await once(child, 'message', { signal })) as [IngestStart]
  const over = new AbortController()
  const beside = during?.(apiUrl, over.signal)
  const [report] = (await once(child, 'message', { signal })) as [IngestReport]
  over.abort()
  await beside
  child.disconnect()
  return report
}

/**
 * Seconds to insert the same rows, already serialised, over so many connections, by a plain client: of its settings only
 * what the rows need to be read, and parsing in one thread, with which it is faster.
 */
async function bareInsert(
  { store, bodies, address }: World,
  connections: number,
  settings: ClickHouseSettings = {},
): Promise<number> {
  const table = 'bare'
  await store.run(`create table ${table} as events`)
  const { url, user, password, database } = address
  const client = createClient({ url, username: user, password, database, max_open_connections: connections })
  const startedMs = performance.now()
  let next = 0
  await Promise.all(
    Array.from({ length: connections }, async () => {
      for (let body = bodies[next++]; body; body = bodies[next++]) {
        const { stream } = await client.exec({
          query: `insert into ${table} (${bareColumns}) format JSONCompactEachRow`,
          values: Readable.from([body], { objectMode: false }),
          clickhouse_settings: {
            date_time_input_format: 'best_effort',
            input_format_parallel_parsing: 0,
            ...settings,
          },
        })
        await finished(stream.resume())
      }
    }),
  )
  const seconds = (performance.now() - startedMs) / 1000
  await client.close()
  await store.run(`drop table ${table}`)
  return seconds
}

export const rate = (count: number, seconds: number) => Math.round(count / seconds).toLocaleString('en')
const megabytes = (bytes: number) => `${Math.round(bytes / 1e6)} MB`

/** CPU that a process has used, from /proc: its user and system ticks of 10 ms. */
export function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}

function rssBytes(pid: number): number {
  return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024
}
