/** What a collector counts of itself, for Prometheus; the calls to providers are counted by the HTTP client. */
import { Counter, Gauge, Histogram } from 'prom-client'
import type { SqliteOutbox } from '../runtime/log/outbox.ts'
import { registry } from '../runtime/metrics.ts'
import { secondMs } from '../schemas/window.ts'
import type { ReadOutcome } from './collect.ts'
import type { Why } from './schedule.ts'

const registers = [registry]
const labelNames = ['source'] as const

const scopes = new Gauge({
  name: 'meterline_collector_scopes',
  help: 'Scopes known of a source, such as organizations and profiles.',
  labelNames,
  registers,
})
/** By source and scope: who was in its latest read. Summed up when somebody asks. */
const subjectsSeen = new Map<string, Map<string, ReadonlySet<string>>>()
new Gauge({
  name: 'meterline_collector_tenants',
  help: 'Tenants seen in the latest reads of the scopes of a source.',
  labelNames,
  registers,
  collect() {
    for (const [source, byScope] of subjectsSeen) {
      const all = new Set<string>()
      for (const subjects of byScope.values()) for (const subject of subjects) all.add(subject)
      this.set({ source }, all.size)
    }
  },
})
const windowsDue = new Gauge({
  name: 'meterline_collector_windows_due',
  help: 'Windows that are due to be read now.',
  labelNames,
  registers,
})
const windowsRead = new Counter({
  name: 'meterline_collector_windows_read_total',
  help: 'Complete reads, by why they were made: new, again, missed, asked.',
  labelNames: ['source', 'why'] as const,
  registers,
})
const windowsFailed = new Counter({
  name: 'meterline_collector_windows_failed_total',
  help: 'Reads that failed, by the code of their fault.',
  labelNames: ['source', 'code'] as const,
  registers,
})
const readings = new Counter({
  name: 'meterline_collector_readings_total',
  help: 'Readings written to the outbox.',
  labelNames,
  registers,
})
const badItems = new Counter({
  name: 'meterline_collector_bad_items_total',
  help: 'Items of complete reads that could not be taken.',
  labelNames,
  registers,
})
const readSeconds = new Histogram({
  name: 'meterline_collector_read_seconds',
  help: 'How long a read took, from its first call to its row on the disk.',
  labelNames,
  buckets: [0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120, 600],
  registers,
})
const listedAt = new Gauge({
  name: 'meterline_collector_listed_timestamp_seconds',
  help: 'When the scopes of a source were last listed.',
  labelNames,
  registers,
})

/** The outboxes that are open here: one, but for tests. */
const outboxes = new Set<SqliteOutbox>()
type Depth = ReturnType<SqliteOutbox['depth']>

function outboxGauge(name: string, help: string, of: (depth: Depth) => number): void {
  new Gauge({
    name,
    help,
    registers,
    collect() {
      let sum = 0
      for (const outbox of outboxes) sum += of(outbox.depth())
      this.set(sum)
    },
  })
}
outboxGauge(
  'meterline_outbox_rows',
  'Rows of the outbox that the log does not have yet.',
  depth => depth.rows,
)
outboxGauge('meterline_outbox_bytes', 'Their bytes.', depth => depth.bytes)
outboxGauge(
  'meterline_outbox_oldest_age_seconds',
  'How long the oldest of them has waited.',
  depth => depth.oldestAgeMs / secondMs,
)
outboxGauge(
  'meterline_outbox_quarantined_rows',
  'Rows set aside because the log would never take them.',
  depth => depth.quarantinedRows,
)
outboxGauge(
  'meterline_outbox_kept_rows',
  'Rows that the log has and that are still kept.',
  depth => depth.keptRows,
)

/** Shows the depth of this outbox until disposed of. */
export function showDepthOf(outbox: SqliteOutbox): Disposable {
  outboxes.add(outbox)
  return { [Symbol.dispose]: () => void outboxes.delete(outbox) }
}

/** The counters of one source. */
export class SourceCounters {
  readonly #source: string
  readonly #subjects = new Map<string, ReadonlySet<string>>()

  constructor(source: string) {
    this.#source = source
    subjectsSeen.set(source, this.#subjects)
  }

  scopes(count: number): void {
    scopes.set({ source: this.#source }, count)
  }

  due(count: number): void {
    windowsDue.set({ source: this.#source }, count)
  }

  listed(atMs: number): void {
    listedAt.set({ source: this.#source }, atMs / secondMs)
  }

  read(scope: string, why: Why, outcome: ReadOutcome, tookMs: number): void {
    const source = this.#source
    readSeconds.observe({ source }, tookMs / secondMs)
    if (outcome.outcome === 'failed') {
      windowsFailed.inc({ source, code: outcome.fault.code })
      return
    }
    windowsRead.inc({ source, why })
    if (!outcome.repeats) readings.inc({ source }, outcome.readings)
    badItems.inc({ source }, outcome.bad.length)
    this.#subjects.set(scope, outcome.subjects)
  }
}
