/**
 * `npm run bench -- readers [EVENTS]`: ingest at full speed, first alone, then with 200 readers of the API, each of which
 * asks for one subject's month by day every ten seconds.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { dayMs, showInstant } from '../../schemas/window.ts'
import { loadOf, openWorld, rate, runProcessor } from './ingest.ts'
import { loadStartMs, seeded } from './load.ts'
import { atLeast, atMost } from './wanted.ts'

const readers = 200
const everyMs = 10_000
const meters = 10

interface Asked {
  readonly status: number
  readonly tookMs: number
}

export async function benchReaders([given = '1000000']: readonly string[]): Promise<void> {
  await using world = await openWorld(loadOf(Number(given)))
  const { messages, load } = world
  // What was made for the bare insert is of no use here.
  world.bodies.length = 0
  const alone = await runProcessor(world, { database: 'bench_alone', meters })
  console.log(`without readers: ${rate(messages, alone.freshSeconds)} events/s`)
  const asked: Asked[] = []
  const random = seeded(2)
  const beside = await runProcessor(world, { database: 'bench_read', meters }, async (url, signal) => {
    await Promise.all(
      Array.from({ length: readers }, (_, reader) => {
        const subject = `tenant-${String(Math.floor(random() * load.subjects)).padStart(4, '0')}`
        return read({ url, subject, phaseMs: (reader / readers) * everyMs, signal, asked })
      }),
    )
  })
  console.log(`with ${readers} readers: ${rate(messages, beside.freshSeconds)} events/s`)
  const tookMs = asked
    .filter(({ status }) => status === 200)
    .map(({ tookMs }) => tookMs)
    .sort((a, b) => a - b)
  const at = (share: number) => `${Math.round(tookMs[Math.floor(tookMs.length * share)] ?? 0)} ms`
  const failed = asked.filter(({ status }) => status !== 200)
  const busy = failed.filter(({ status }) => status === 503).length
  console.log(
    `${asked.length} questions, ${failed.length - busy} errors and ${busy} times 503 ${atMost(failed.length, 0)}: p50 ${at(0.5)}, p95 ${at(0.95)}, p99 ${at(0.99)}, most ${at(0.9999)}`,
  )
  console.log(
    `ratio of ingest with and without readers: ${(alone.freshSeconds / beside.freshSeconds).toFixed(2)} ${atLeast(alone.freshSeconds / beside.freshSeconds, 0.7)}`,
  )
  if (failed.length > 0) throw new Error(`answered with ${[...new Set(failed.map(({ status }) => status))]}`)
}

/** Asks at its phase of every ten seconds, until the end of ingest; status 0 is no answer at all. */
async function read({
  url,
  subject,
  phaseMs,
  signal,
  asked,
}: {
  readonly url: string
  readonly subject: string
  readonly phaseMs: number
  readonly signal: AbortSignal
  readonly asked: Asked[]
}): Promise<void> {
  const query = new URLSearchParams({
    meter: 'gpu_hours',
    from: showInstant(loadStartMs),
    to: showInstant(loadStartMs + 30 * dayMs),
    window: 'DAY',
    subject,
  })
  const startedMs = performance.now()
  for (let dueMs = phaseMs; ; dueMs += everyMs) {
    const waitMs = startedMs + dueMs - performance.now()
    await sleep(Math.max(0, waitMs), undefined, { signal }).catch(() => undefined)
    if (signal.aborted) return
    const askedMs = performance.now()
    const status = await fetch(`${url}/api/v1/usage?${query}`)
      .then(async answer => {
        await answer.arrayBuffer()
        return answer.status
      })
      .catch(() => 0)
    // The API ends with ingest: what was asked just then is nobody's failure.
    if (status === 0 && signal.aborted) return
    asked.push({ status, tookMs: performance.now() - askedMs })
  }
}
