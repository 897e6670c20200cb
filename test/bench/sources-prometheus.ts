/** A day of 200 counters at 15 s in a real Prometheus, read whole: how long a backfill takes. */
import { PrometheusConfig, prometheus } from '../../collector/sources/prometheus.ts'
import { openHttp } from '../../runtime/http.ts'
import { misfits } from '../../schemas/check.ts'
import { exact } from '../../schemas/decimal.ts'
import { dayMs, hourMs, secondMs, type Window, windowsOver } from '../../schemas/window.ts'
import { sourceContext } from '../collector/source-context.ts'
import { type PastSeries, startPrometheus } from '../rig/prometheus.ts'

export interface Backfill {
  /** Readings, one a series and window. */
  readonly items: number
  /** Samples that the readings were made of. */
  readonly samples: number
  readonly seconds: number
  /** What was read, and what the samples were made of. */
  readonly total: string
  readonly ledger: string
}

const seriesCount = 200
const scrapeMs = 15 * secondMs

/** @throws Error where there is no Prometheus on this machine */
export async function backfillDay(): Promise<Backfill> {
  const endMs = Math.floor(Date.now() / hourMs) * hourMs
  const span: Window = { startMs: endMs - dayMs, endMs }
  const past: PastSeries[] = [{ series: 'up{job="api"}', samples: dayOf(span, () => 1) }]
  let ledger = 0
  for (let index = 0; index < seriesCount; index++) {
    let value = 0
    past.push({
      series: `requests_total{job="api",tenant="t${index % 7}",pod="pod-${index}"}`,
      samples: dayOf(span, (atMs, sample) => {
        const added = (index + sample * 13) % 29
        if (atMs >= span.startMs) ledger += added
        // A restart just after a scrape: nothing that was counted is hidden.
        value = (sample + index) % 1000 === 999 ? added : value + added
        return value
      }),
    })
  }
  await using server = await startPrometheus({ past })
  await using http = openHttp({ retries: 0 })
  const config = {
    name: 'bench',
    url: server.url,
    windowMinutes: 15,
    queries: [
      {
        name: 'requests',
        kind: 'counter',
        selector: 'requests_total',
        measure: 'requests',
        subjectLabel: 'tenant',
        resourceLabels: ['pod'],
      },
    ],
  }
  const wrong = misfits(PrometheusConfig, config)
  if (wrong[0]) throw new Error(`${wrong[0].path} ${wrong[0].message}`)
  await using source = prometheus.open(
    config as object as PrometheusConfig,
    sourceContext({ http, nowMs: () => endMs + hourMs }),
  )
  const signal = new AbortController().signal
  let items = 0
  let total = exact('0')
  const startedMs = performance.now()
  for (const window of windowsOver(span, source.widthMinutes))
    for await (const item of source.read('requests', window, signal))
      for (const { measures } of source.toUsage(item, window)) {
        items += 1
        total = total.add(exact(measures.requests ?? '0'))
      }
  return {
    items,
    samples: seriesCount * (dayMs / scrapeMs),
    seconds: (performance.now() - startedMs) / secondMs,
    total: total.toFraction(),
    ledger: String(ledger),
  }
}

/** From an hour before the day, so that its first window has something to count from. */
function dayOf(span: Window, valueAt: (atMs: number, sample: number) => number): PastSeries['samples'] {
  const samples: [number, string][] = []
  let sample = 0
  for (let atMs = span.startMs - hourMs; atMs < span.endMs; atMs += scrapeMs)
    samples.push([atMs, String(valueAt(atMs, sample++))])
  return samples
}
