/** A real Prometheus that scrapes a scripted exporter: what is billed is what the script added, where increase() is off. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import Fraction from 'fraction.js'
import { expect, test } from 'vitest'
import { PrometheusConfig, prometheus } from '../../../collector/sources/prometheus.ts'
import { openHttp } from '../../../runtime/http.ts'
import { misfits } from '../../../schemas/check.ts'
import { exact, show } from '../../../schemas/decimal.ts'
import { minuteMs, type Window, windowsOver } from '../../../schemas/window.ts'
import { backfillDay } from '../../bench/sources-prometheus.ts'
import { startPrometheus } from '../../rig/prometheus.ts'
import { sourceContext } from '../source-context.ts'

/** One counter of the exporter, which adds before each scrape that it is asked for. */
interface Scripted {
  readonly labels: string
  /** What it adds before its n-th scrape. */
  readonly adds: (scrape: number) => number
  /**
   * It begins anew after these. Nobody can see a restart in samples between which it passes its old value, so these
   * are not before a gap.
   */
  readonly restartsAfter?: readonly number[]
  /** It is there only from this scrape on, and as far as before that. */
  readonly livesFrom?: number
  readonly livesTo?: number
}

const scripts: readonly Scripted[] = [
  { labels: 'tenant="red",pod="steady"', adds: () => 3 },
  { labels: 'tenant="red",pod="bursts"', adds: n => (n % 4 === 1 ? 1000 : 0) },
  { labels: 'tenant="red",pod="restarts"', adds: n => (n * 7) % 11, restartsAfter: [5, 13] },
  { labels: 'tenant="blue",pod="parts"', adds: n => (n % 3) * 0.25, restartsAfter: [9] },
  { labels: 'tenant="blue",pod="brief"', adds: () => 40, livesFrom: 8, livesTo: 11 },
  { labels: 'tenant="blue",pod="late"', adds: n => n, livesFrom: 14 },
]
/** Scrapes that fail: what is added meanwhile is in the next one. */
const fails = new Set([7, 8, 17, 18, 19])
const scrapes = 26

/** Its ledger: what was added after the first scrape of a series, or after its start where that is known. */
async function startExporter() {
  let scrape = 0
  const values = scripts.map(() => 0)
  const seen = scripts.map(() => false)
  const startedMs = scripts.map(() => 0)
  const pending = scripts.map(() => 0)
  const ledger = scripts.map(() => 0)
  const server = createServer((_, response) => {
    const n = scrape++
    const lines = ['# TYPE requests_total counter']
    const starts = ['# TYPE pod_start_seconds gauge']
    const failing = fails.has(n) || n >= scrapes
    for (const [
      index,
      { labels, adds, restartsAfter, livesFrom = 0, livesTo = scrapes },
    ] of scripts.entries()) {
      if (n < livesFrom || n >= livesTo) continue
      if (startedMs[index] === 0) startedMs[index] = Date.now() - 500
      const added = n < scrapes ? adds(n) : 0
      values[index] = (values[index] ?? 0) + added
      pending[index] = (pending[index] ?? 0) + added
      if (failing) continue
      // Those that are there from the first scrape on may be older than anyone can tell.
      if (seen[index] || livesFrom > 0) ledger[index] = (ledger[index] ?? 0) + (pending[index] ?? 0)
      seen[index] = true
      pending[index] = 0
      lines.push(`requests_total{${labels}} ${values[index]}`)
      if (livesFrom > 0) starts.push(`pod_start_seconds{${labels}} ${(startedMs[index] ?? 0) / 1000}`)
      if (restartsAfter?.includes(n)) values[index] = 0
    }
    if (failing) response.writeHead(500).end()
    else response.end(`${[...lines, ...starts].join('\n')}\n`)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    target: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    ledger,
    done: () => scrape > scrapes,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise(resolve => server.close(resolve))
    },
  }
}

test('what a scripted exporter added is read to the last unit: over restarts, gaps, and series that come and go', async () => {
  await using exporter = await startExporter()
  await using server = await startPrometheus({ targets: [exporter.target] })
  for (let waited = 0; !exporter.done() && waited < 90_000; waited += 200) await sleep(200)
  expect(exporter.done()).toBe(true)
  const span = await scrapedMinutes(server.url)
  await using http = openHttp({ retries: 0 })
  const config = {
    name: 'test',
    url: server.url,
    windowMinutes: 1,
    lateSeconds: 5,
    queries: [
      {
        name: 'requests',
        kind: 'counter',
        selector: 'requests_total',
        measure: 'requests',
        subjectLabel: 'tenant',
        resourceLabels: ['pod'],
        firstSight: 'zero',
        startedAt: { selector: 'pod_start_seconds', on: ['tenant', 'pod'] },
      },
    ],
  }
  expect(misfits(PrometheusConfig, config)).toEqual([])
  await using source = prometheus.open(
    config as object as PrometheusConfig,
    sourceContext({ http, nowMs: () => span.endMs + minuteMs }),
  )
  const live = new AbortController().signal
  const read = new Map<string, Fraction>()
  for (const window of windowsOver(span, 1))
    for await (const item of source.read('requests', window, live))
      for (const { resource, measures } of source.toUsage(item, window))
        read.set(resource.id, (read.get(resource.id) ?? new Fraction(0)).add(exact(measures.requests ?? '0')))
  const billed = (labels: string) => show(read.get(/pod="(.*)"/.exec(labels)?.[1] ?? '') ?? new Fraction(0))
  const increased = await increaseBy(server.url, span, 5)
  const rows = scripts.map(({ labels }, index) => {
    const pod = /pod="(.*)"/.exec(labels)?.[1] ?? ''
    return { pod, ledger: exporter.ledger[index], billed: billed(labels), 'increase()': increased[pod] ?? 0 }
  })
  process.stdout.write(`${rows.map(row => JSON.stringify(row)).join('\n')}\n`)
  expect(rows.map(row => row.billed)).toEqual(rows.map(row => String(row.ledger)))
  expect(rows.some(row => Math.abs(row['increase()'] - Number(row.ledger)) > 0.05 * Number(row.ledger))).toBe(
    true,
  )
})

/**
 * The minutes in which the server scraped, by its own samples. It may have started, or looked last, so near to the end of
 * a minute that our clock names one more: of that one it rightly knows nothing.
 */
async function scrapedMinutes(url: string): Promise<Window> {
  const answer = await fetch(`${url}/api/v1/query?${new URLSearchParams({ query: 'up[10m]' })}`)
  const body = (await answer.json()) as { data: { result: { values: [number, string][] }[] } }
  const times = body.data.result.flatMap(({ values }) => values.map(([seconds]) => seconds * 1000))
  return {
    startMs: Math.floor(Math.min(...times) / minuteMs) * minuteMs,
    endMs: (Math.floor(Math.max(...times) / minuteMs) + 1) * minuteMs,
  }
}

/** What tumbling windows of so many seconds make of it by increase(). */
async function increaseBy(url: string, span: Window, seconds: number): Promise<Record<string, number>> {
  const sums: Record<string, number> = {}
  for (let atMs = span.startMs + seconds * 1000; atMs <= span.endMs; atMs += seconds * 1000) {
    const form = new URLSearchParams({
      query: `increase(requests_total[${seconds}s])`,
      time: String(atMs / 1000),
    })
    const answer = await fetch(`${url}/api/v1/query?${form}`)
    const body = (await answer.json()) as {
      data: { result: { metric: Record<string, string>; value: [number, string] }[] }
    }
    for (const { metric, value } of body.data.result)
      sums[metric.pod ?? ''] = (sums[metric.pod ?? ''] ?? 0) + Number(value[1])
  }
  return sums
}

test('a day at 15 s of 200 series is read in less than 30 s, exactly', async () => {
  const { seconds, total, ledger, items } = await backfillDay()
  process.stdout.write(`a day of 200 series at 15 s: ${seconds.toFixed(1)} s\n`)
  expect(total).toBe(ledger)
  expect(items).toBe(200 * 96)
  expect(seconds).toBeLessThan(30)
})
