/** The seeded load of the benchmarks: readings of many subjects and types in time order, as reads with their marks. */
import {
  contentHash,
  type MarkEvent,
  type ReadIdentity,
  type ReadingEvent,
  sealMark,
  sealReading,
  showDigest,
} from '../../schemas/event.ts'
import type { Meter } from '../../schemas/meters.ts'
import { hourMs } from '../../schemas/window.ts'

export interface LoadOptions {
  readonly events: number
  readonly subjects: number
  readonly types: number
  readonly days: number
  /** Of a hundred reads, how many are read again later with other figures. */
  readonly rereadPercent: number
  readonly seed: number
}

export const loadSource = 'meterline/bench/load'
export const loadStartMs = Date.UTC(2025, 5, 1)
const subjectsPerScope = 10

/** Deterministic numbers in [0, 1): a linear congruential generator is enough for a load. */
export function seeded(seed: number): () => number {
  let state = BigInt(seed) * 2862933555777941757n + 3037000493n
  return () => {
    state = BigInt.asUintN(64, state * 6364136223846793005n + 1442695040888963407n)
    return Number(state >> 11n) / 2 ** 53
  }
}

/** Whole reads in time order; about `events` readings in all, marks not counted. */
export function* loadReads(options: LoadOptions): Generator<readonly (ReadingEvent | MarkEvent)[]> {
  const random = seeded(options.seed)
  const hours = options.days * 24
  const scopes = Math.ceil(options.subjects / subjectsPerScope)
  // Not every series has a reading in every hour: instances come and go.
  const share =
    options.events / (options.subjects * options.types * hours * (1 + options.rereadPercent / 100))
  for (let hour = 0; hour < hours; hour += 1) {
    for (let scope = 0; scope < scopes; scope += 1) {
      yield readOf(
        options,
        { hour, scope, share, readatMs: loadStartMs + (hour + 1) * hourMs + scope },
        random,
      )
      if (random() * 100 < options.rereadPercent && hour > 0)
        yield readOf(
          options,
          { hour: hour - 1, scope, share, readatMs: loadStartMs + (hour + 1) * hourMs + 500_000 + scope },
          random,
        )
    }
  }
}

interface ReadPlan {
  readonly hour: number
  readonly scope: number
  readonly share: number
  readonly readatMs: number
}

function readOf(
  options: LoadOptions,
  plan: ReadPlan,
  random: () => number,
): readonly (ReadingEvent | MarkEvent)[] {
  const startMs = loadStartMs + plan.hour * hourMs
  const read: ReadIdentity = {
    source: loadSource,
    scope: `cluster-${plan.scope}`,
    window: { startMs, endMs: startMs + hourMs },
    readatMs: plan.readatMs,
  }
  const readings: ReadingEvent[] = []
  for (let at = 0; at < subjectsPerScope; at += 1) {
    const subject = plan.scope * subjectsPerScope + at
    for (let type = 0; type < options.types; type += 1) {
      if (random() >= plan.share) continue
      const seconds = Math.floor(random() * 3600)
      const gpus = 1 + Math.floor(random() * 8)
      readings.push(
        sealReading(
          {
            thing: `thing${type}`,
            subject: `tenant-${String(subject).padStart(4, '0')}`,
            resource: {
              kind: 'instance',
              id: `019c510c-86c4-707d-${String(type).padStart(4, '0')}-${String(subject).padStart(12, '0')}`,
            },
            measures: { instance_seconds: String(seconds), gpu_seconds: String(seconds * gpus) },
            labels: {
              organization: `Tenant ${subject}`,
              profile: `profile-${type}`,
              profile_type: 'compute',
              gpu_type: ['Nvidia L40', 'Nvidia A100', 'Nvidia H100'][subject % 3] ?? '',
              status: 'running',
            },
          },
          'bench',
          read,
        ),
      )
    }
  }
  const digest = showDigest(readings.reduce((sum, reading) => sum + contentHash(reading), 0n))
  return [
    ...readings,
    sealMark({ outcome: 'complete', events: readings.length, digest, settled: true, estimated: false }, read),
  ]
}

/** The meters of the benchmark: two over all types, as the first cut has. */
export function loadMeters(types: number): readonly Meter[] {
  const eventTypes = Array.from({ length: types }, (_, type) => `io.meterline.bench.thing${type}.v1`)
  const groupBy = { gpu_type: 'gpu_type', profile: 'profile' }
  return [
    {
      slug: 'instance_hours',
      eventTypes,
      aggregation: 'SUM',
      value: 'instance_seconds',
      per: '3600',
      groupBy,
      unit: 'h',
    },
    {
      slug: 'gpu_hours',
      eventTypes,
      aggregation: 'SUM',
      value: 'gpu_seconds',
      per: '3600',
      groupBy,
      unit: 'h',
    },
  ]
}

/** Ten meters: those two, one of nearly each other aggregation, one with a filter and one of a single type. */
export function tenMeters(types: number): readonly Meter[] {
  const [hours, gpuHours] = loadMeters(types) as [Meter, Meter]
  const of = (slug: string, aggregation: Meter['aggregation'], value?: string): Meter => ({
    slug,
    eventTypes: hours.eventTypes,
    aggregation,
    ...(value !== undefined && { value }),
    groupBy: hours.groupBy,
    unit: '1',
  })
  return [
    hours,
    gpuHours,
    of('readings', 'COUNT'),
    of('seconds_mean', 'AVG', 'instance_seconds'),
    of('gpu_seconds_most', 'MAX', 'gpu_seconds'),
    of('instances', 'UNIQUE_COUNT', '$.resource.id'),
    of('gpu_seconds_last', 'LATEST', 'gpu_seconds'),
    of('gpu_seconds_p95', 'PERCENTILE', 'gpu_seconds'),
    { ...gpuHours, slug: 'h100_hours', filter: { gpu_type: 'Nvidia H100' } },
    { ...gpuHours, slug: 'thing3_hours', eventTypes: hours.eventTypes.slice(3, 4) },
  ]
}
