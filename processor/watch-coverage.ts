/** Coverage as metrics, looked at every minute: how old the oldest gap of each source is, and how many windows are in which state. */
import { Gauge } from 'prom-client'
import { registry } from '../runtime/metrics.ts'
import { rest } from '../runtime/rest.ts'
import { asFault, describeFault } from '../schemas/fault.ts'
import { dayMs, minuteMs, secondMs } from '../schemas/window.ts'
import {
  type CoverageSpan,
  countRows,
  coverageSpans,
  coverageStates,
  isGap,
  type ScopeLife,
  scopeLives,
} from './coverage.ts'
import type { Store } from './store.ts'

const oldestGapSeconds = new Gauge({
  name: 'meterline_coverage_oldest_gap_seconds',
  help: 'How long ago the oldest window ended that is a gap, of the last seven days; 0 where there is none.',
  labelNames: ['source'] as const,
  registers: [registry],
})
const coverageWindows = new Gauge({
  name: 'meterline_coverage_windows',
  help: 'Windows of the last seven days by state; bad items are none.',
  labelNames: ['source', 'state'] as const,
  registers: [registry],
})
const badItems = new Gauge({
  name: 'meterline_coverage_bad_items',
  help: 'Bad items of the reads that count, of the last seven days, without those that are waived.',
  labelNames: ['source'] as const,
  registers: [registry],
})
const lookedAtSeconds = new Gauge({
  name: 'meterline_coverage_looked_at_timestamp_seconds',
  help: 'When coverage was last looked at, in Unix time: the other metrics of it are as of then.',
  registers: [registry],
})

/** What is older has been a gap for so long that it was told. */
export const watchedMs = 7 * dayMs
const everyMs = minuteMs
/** Looking takes at most this part of the time, however large the ledger. */
const shareMax = 1 / 50
/** What is expected changes with each listing; a scope that comes up is read, and shows, long before it is a gap to tell. */
const livesEveryMs = 10 * minuteMs

/** What the metrics say of one source. */
export interface SourceCoverage {
  readonly oldestGapSeconds: number
  readonly windows: ReadonlyMap<string, number>
  readonly badItems: number
}

/** Sums spans up by source. Pure. */
export function bySource(spans: readonly CoverageSpan[], nowMs: number): ReadonlyMap<string, SourceCoverage> {
  const sources = new Map<
    string,
    { oldestGapSeconds: number; windows: Map<string, number>; badItems: number }
  >()
  for (const span of spans) {
    const of = sources.get(span.source) ?? {
      oldestGapSeconds: 0,
      windows: new Map(coverageStates.map(state => [state, 0])),
      badItems: 0,
    }
    sources.set(span.source, of)
    const widthMs = span.widthMinutes * minuteMs
    const count = countRows([span])
    if (span.isItem) of.badItems += isGap(span) ? count : 0
    else of.windows.set(span.state, (of.windows.get(span.state) ?? 0) + count)
    if (isGap(span))
      of.oldestGapSeconds = Math.max(of.oldestGapSeconds, (nowMs - span.window.startMs - widthMs) / secondMs)
  }
  return sources
}

/** Keeps the metrics current until the signal. A ledger that cannot answer leaves them as they are: it has its own. */
export async function watchCoverage(options: {
  readonly store: Store
  readonly signal: AbortSignal
  readonly nowMs: () => number
  readonly say: (line: string) => void
}): Promise<void> {
  const { store, signal, nowMs, say } = options
  let lives: readonly ScopeLife[] = []
  let livesMs = Number.NEGATIVE_INFINITY
  let isTroubled = false
  const stopped = new Promise<void>(resolve => {
    signal.addEventListener('abort', () => resolve(), { once: true })
  })
  async function look(startedMs: number): Promise<void> {
    try {
      if (startedMs - livesMs > livesEveryMs) {
        lives = await scopeLives(store)
        livesMs = startedMs
      }
      const now = nowMs()
      const span = { startMs: now - watchedMs, endMs: now }
      show(bySource(await coverageSpans(store, { span, nowMs: now }, lives), now))
      lookedAtSeconds.setToCurrentTime()
      isTroubled = false
    } catch (error) {
      if (!isTroubled && !signal.aborted)
        say(`coverage cannot be told: ${describeFault(asFault(error, 'STORE_REFUSED'))}`)
      isTroubled = true
    }
  }
  while (!signal.aborted) {
    const startedMs = performance.now()
    // A stop does not wait for a ledger that is slow to answer.
    await Promise.race([look(startedMs), stopped])
    await rest(Math.max(everyMs, (performance.now() - startedMs) / shareMax), signal)
  }
}

function show(sources: ReadonlyMap<string, SourceCoverage>): void {
  for (const gauge of [oldestGapSeconds, coverageWindows, badItems]) gauge.reset()
  for (const [source, of] of sources) {
    oldestGapSeconds.set({ source }, of.oldestGapSeconds)
    badItems.set({ source }, of.badItems)
    for (const [state, count] of of.windows) coverageWindows.set({ source, state }, count)
  }
}
