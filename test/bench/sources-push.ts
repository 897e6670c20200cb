/** Benchmark: events pushed to a collector while Kafka is away, counted when they are acknowledged; and as many put into an outbox bare. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent, request } from 'undici'
import { mapBounded } from '../../runtime/bounded.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { outboxSink } from '../../runtime/log/sink.ts'
import { start } from '../rig/meterline.ts'
import { cpuSeconds } from './ingest.ts'
import type { ReaderFigures } from './source-reader.ts'

const batches = 500
const batchEvents = 200
const senders = 8

export const pushHolds = `${batches} batches of ${batchEvents} events of 400 bytes from ${senders} senders, into a sidecar`

export async function readPush(): Promise<ReaderFigures> {
  const dir = mkdtempSync(join(tmpdir(), 'meterline-bench-'))
  const port = await freePort()
  const config = join(dir, 'meterline.yaml')
  writeFileSync(
    config,
    `{data: data, kafka: {brokers: ['127.0.0.1:1']}, listen: {port: ${port}, push: true, api: loopback}}`,
  )
  const agent = new Agent({ connections: senders })
  const bodies = Array.from({ length: batches }, (_, batch) => JSON.stringify(eventsOf(batch)))
  await using collector = start(['--config', config, 'collect'], { env: { METERLINE_LOG_LEVEL: 'error' } })
  try {
    const url = `http://127.0.0.1:${port}/api/v1/events`
    const post = async (body: string): Promise<number> => {
      const { statusCode, body: answer } = await request(url, {
        method: 'POST',
        headers: { 'content-type': 'application/cloudevents-batch+json' },
        body,
        dispatcher: agent,
      })
      const said = await answer.text()
      if (statusCode >= 300 && statusCode !== 503)
        throw new Error(`HTTP ${statusCode}: ${said.slice(0, 200)}`)
      return statusCode
    }
    for (let waited = 0; ; waited += 100) {
      const status = await post(JSON.stringify(eventsOf(batches))).catch(() => 503)
      if (status < 300) break
      if (waited > 20_000) throw new Error(`it takes no events: ${collector.stderr()}`)
      await sleep(100)
    }
    const pid = serving(collector.process.pid ?? 0)
    const idleBytes = memory(pid, 'VmRSS')
    const before = cpuSeconds(pid)
    const startedMs = performance.now()
    let refused = 0
    await mapBounded(bodies, senders, async body => {
      while ((await post(body)) === 503) refused += 1
    })
    const seconds = (performance.now() - startedMs) / 1000
    const used = cpuSeconds(pid) - before
    const peakBytes = memory(pid, 'VmHWM')
    await collector.stop()
    return {
      items: batches * batchEvents,
      readings: batches * batchEvents,
      reads: batches,
      calls: batches + refused,
      seconds,
      cpuSeconds: used,
      idleBytes,
      peakBytes,
      digest: '',
      ...(await putBare(join(dir, 'bare'), bodies)),
    }
  } finally {
    await agent.destroy()
    rmSync(dir, { recursive: true, force: true })
  }
}

function eventsOf(batch: number): readonly object[] {
  return Array.from({ length: batchEvents }, (_, at) => ({
    specversion: '1.0',
    id: `${batch}-${at}`,
    source: 'https://inference.example/usage',
    type: 'com.example.tokens',
    subject: `tenant-${at % 50}`,
    time: new Date(Date.now() - 3_600_000 + at).toISOString(),
    data: { tokens: at, model: 'llama', note: 'x'.repeat(180) },
  }))
}

/** The same events put into an outbox of this process, a transaction for each batch. */
async function putBare(dir: string, bodies: readonly string[]) {
  using outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: Date.now })
  const sink = outboxSink(outbox)
  const batched = bodies.map(body =>
    (JSON.parse(body) as { id: string; source: string }[]).map(event => ({
      source: event.source,
      id: event.id,
      key: `${event.source} ${event.id}`,
      value: Buffer.from(JSON.stringify(event)),
    })),
  )
  const before = process.cpuUsage()
  const startedMs = performance.now()
  for (const events of batched) await sink.put(events)
  const bareSeconds = (performance.now() - startedMs) / 1000
  const { user, system } = process.cpuUsage(before)
  return { bareSeconds, bareCpuSeconds: (user + system) / 1e6 }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise(resolve => server.close(resolve))
  return port
}

/** The command is a script that hands over to the pinned Node: it, or the one process below it. */
function serving(pid: number): number {
  const below = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')[0]
  return below === undefined || below === '' ? pid : serving(Number(below))
}

function memory(pid: number, field: 'VmRSS' | 'VmHWM'): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)?.[1] ?? 0) * 1024
}
