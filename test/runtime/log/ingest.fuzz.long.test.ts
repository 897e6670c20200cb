/**
 * Malformed and hostile messages, over HTTP and in the log, into a real ledger: nothing crashes, memory stays flat, and each
 * message is accounted for. `METERLINE_FUZZ=1000000 METERLINE_FUZZ_SEED=7` runs more of them, or others.
 */
import { hash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Pool } from 'undici'
import { expect, test } from 'vitest'
import { startProcessor } from '../../../processor/process.ts'
import { Store } from '../../../processor/store.ts'
import { embeddedLog } from '../../../runtime/log/embedded.ts'
import { Ingest } from '../../../runtime/log/ingest.ts'
import { SqliteOutbox } from '../../../runtime/log/outbox.ts'
import { outboxSink } from '../../../runtime/log/sink.ts'
import { registry } from '../../../runtime/metrics.ts'
import { startClickHouse } from '../../rig/clickhouse.ts'
import { Chance } from '../../simulation/chance.ts'
import { hostile } from './hostile.ts'

const messagesTotal = Number(process.env.METERLINE_FUZZ ?? 50_000)
const seed = Number(process.env.METERLINE_FUZZ_SEED ?? 1)
/** 200 in a million. */
const largeTotal = Math.max(10, Math.round(messagesTotal / 5000))
const inFlightMax = 32
const mebibyte = 1024 * 1024

async function refusedForSize(): Promise<number> {
  const metric = await registry.getSingleMetric('meterline_ingest_requests_refused_total')?.get()
  return metric?.values.find(({ labels }) => labels.reason === 'size')?.value ?? 0
}

function hash64(bytes: Buffer): bigint {
  return BigInt(`0x${hash('sha256', bytes, 'hex').slice(0, 16)}`)
}

test(`${messagesTotal} hostile messages crash nothing, leave memory flat, and each is accounted for`, async () => {
  const startedMs = performance.now()
  const dir = mkdtempSync(join(tmpdir(), 'meterline-fuzz-'))
  await using scope = new AsyncDisposableStack()
  scope.defer(() => rmSync(dir, { recursive: true, force: true }))
  const rig = scope.use(await startClickHouse())
  const store = scope.use(await Store.open(rig))
  const outbox = scope.use(
    SqliteOutbox.open({ dir, access: 'append', nowMs: Date.now, bytesMax: 256 * mebibyte }),
  )
  const stop = new AbortController()
  const processor = await startProcessor({
    store,
    log: embeddedLog(outbox, { bytesMax: 4 * mebibyte }),
    meters: [],
    signal: stop.signal,
    say: () => {},
  })
  let ended: unknown
  processor.done.catch(error => (ended = error))
  scope.defer(async () => {
    stop.abort()
    await processor.done
  })
  const ingest = new Ingest({ sink: outboxSink(outbox), nowMs: Date.now })
  const server = createServer((request, response) => void ingest.serve(request, response)).listen(
    0,
    '127.0.0.1',
  )
  await once(server, 'listening')
  const pool = new Pool(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, {
    connections: inFlightMax,
  })
  scope.defer(async () => {
    await pool.close()
    server.close()
  })

  const chance = new Chance(seed)
  const sent = { http: 0, log: 0, taken: 0, refused: 0, size: 0, httpSum: 0n }
  const kinds = new Map<string, number>()
  const sizeBefore = await refusedForSize()
  const memory: number[] = []
  /** Of the log's side, by sequence number: what its reject has to keep. */
  const checked = new Map<string, Buffer>()

  async function post(headers: Readonly<Record<string, string>>, body: Buffer): Promise<void> {
    for (;;) {
      const answer = await pool.request({ path: '/', method: 'POST', headers, body })
      const text = await answer.body.text()
      if (answer.statusCode === 503) {
        await sleep(50)
        continue
      }
      sent.http += 1
      if (answer.statusCode === 204) sent.taken += 1
      else {
        const problem = JSON.parse(text)
        expect(answer.headers['content-type']).toBe('application/problem+json')
        if (answer.statusCode === 413 && body.length > 10 * mebibyte) sent.size += 1
        else {
          expect(problem.extensions.validationErrors, text).toHaveLength(1)
          expect(problem.detail).not.toBe('')
          sent.refused += 1
          sent.httpSum = BigInt.asUintN(64, sent.httpSum + hash64(body))
        }
      }
      return
    }
  }

  async function append(values: readonly Buffer[]): Promise<void> {
    for (;;)
      try {
        const from = outbox.bounds().nextSeq
        outbox.push(
          values.map((value, index) => ({ source: 'fuzz', id: `${sent.log + index}`, key: 'fuzz', value })),
        )
        if (checked.size < 2000) checked.set(String(from), values[0]!)
        sent.log += values.length
        return
      } catch (error) {
        if (ended !== undefined) throw ended
        expect(error).toMatchObject({ code: 'OUTBOX_FULL' })
        await sleep(100)
      }
  }

  const flying = new Set<Promise<void>>()
  let large = 0
  let logged: Buffer[] = []
  for (let number = 1; number <= messagesTotal; number += 1) {
    if (ended !== undefined) throw ended
    if (number % Math.floor(messagesTotal / largeTotal) === 0) {
      large += 1
      // Half of them are read and rejected, half are too large to be read.
      const body = Buffer.alloc(
        large % 2 === 0 ? 10_000_000 : 11 * mebibyte,
        chance.one(['[', 'x', '{"a":', '"', '[0,', '\\']),
      )
      await Promise.all(flying)
      await post({ 'content-type': chance.one(['application/cloudevents+json', 'application/json']) }, body)
      continue
    }
    const way = chance.is(0.5) ? 'http' : 'log'
    const message = hostile(chance, number, way)
    kinds.set(`${way}: ${message.kind}`, (kinds.get(`${way}: ${message.kind}`) ?? 0) + 1)
    if (way === 'log') {
      logged.push(message.body)
      if (logged.length === 500) {
        await append(logged)
        logged = []
      }
    } else {
      const done: Promise<void> = post(message.headers, message.body).finally(() => flying.delete(done))
      flying.add(done)
      if (flying.size >= inFlightMax) await Promise.race(flying)
    }
    // Not at a round number: large messages stand there.
    if (number % Math.floor(messagesTotal / 20) === 1)
      memory.push(Math.round(process.memoryUsage().rss / mebibyte))
  }
  await Promise.all(flying)
  if (logged.length > 0) await append(logged)
  const rows = outbox.bounds().nextSeq - 1
  while (processor.taken() < BigInt(rows)) {
    if (ended !== undefined) throw ended
    expect(processor.trouble() ?? '').not.toMatch(/STORE_REFUSED|INTERNAL/)
    await sleep(50)
  }
  const seconds = (performance.now() - startedMs) / 1000

  // Everything that was sent was taken into the log, refused and in the log all the same, or too large and counted.
  expect(sent.http + sent.log).toBe(messagesTotal)
  expect(sent.taken + sent.refused + sent.size).toBe(sent.http)
  expect((await refusedForSize()) - sizeBefore).toBe(sent.size)
  expect(rows).toBe(sent.log + sent.taken + sent.refused)
  const [fates] = await store.rows<Record<string, string>>(
    `select sum(messages) as messages, sum(events) as events, sum(reads) as reads, sum(decisions) as decisions,
       sum(pushed) as pushed, sum(pushed_marks) as pushed_marks, sum(amendments) as amendments, sum(duplicates) as duplicates,
       sum(conflicts) as conflicts, sum(rejects) as rejects from positions final`,
  )
  const { messages, ...parts } = Object.fromEntries(
    Object.entries(fates ?? {}).map(([name, n]) => [name, Number(n)]),
  )
  expect(messages).toBe(rows)
  expect(Object.values(parts).reduce((sum, n) => sum + n, 0)).toBe(rows)
  const [rejects] = await store.rows<Record<string, string>>(
    `select count() as all, countIf(reason = '' or code = '') as nameless, countIf(origin = 'http') as http,
       countIf(length(base64Decode(value_base64)) != least(bytes, 65536)) as cut,
       sumIf(reinterpretAsUInt64(reverse(substring(unhex(sha256), 1, 8))), origin = 'http') as sum from rejected final`,
  )
  expect(rejects).toEqual({
    all: String(parts.rejects),
    nameless: '0',
    http: String(sent.refused),
    cut: '0',
    sum: sent.httpSum.toString(),
  })
  const places = Array.from(checked.keys())
  const kept = await store.rows<{ offset: string; sha256: string; bytes: string; origin: string }>(
    `select offset, sha256, bytes, origin from rejected final where offset in (${places.join(',') || '0'})`,
  )
  for (const { offset, sha256, bytes, origin } of kept) {
    const body = checked.get(offset)!
    // A refusal that somebody made up says what it likes of itself.
    if (origin === 'log' && !body.includes('io.meterline.replay'))
      expect([sha256, Number(bytes)]).toEqual([hash('sha256', body, 'hex'), body.length])
  }
  expect(({} as { polluted?: boolean }).polluted).toBeUndefined()

  // Warm after a quarter; from then on what one message leaves behind would show.
  const warm = memory.slice(Math.floor(memory.length / 4))
  const growth = Math.max(...warm.slice(warm.length / 2)) - Math.max(...warm.slice(0, warm.length / 2))
  console.log(
    `${messagesTotal} messages (seed ${seed}) in ${seconds.toFixed(0)} s: ${sent.http} over HTTP (${sent.taken} taken, ${sent.refused} refused, ${sent.size} for size), ${sent.log} in the log; ${JSON.stringify(parts)}; RSS in MiB ${memory.join(' ')}`,
  )
  console.log(JSON.stringify(Object.fromEntries(kinds)))
  expect(growth).toBeLessThan(150)
}, 7_200_000)
