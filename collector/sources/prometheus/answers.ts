/**
 * Asks for all that a query needs of a window: its samples, those before it that they are held against, and whether the
 * server was scraping at all.
 */
import { Fault } from '../../../schemas/fault.ts'
import { hourMs, minuteMs, secondMs, showWindow, type Window } from '../../../schemas/window.ts'
import type { Api, Ask } from './api.ts'
import type { Query } from './queries.ts'
import type { Answer } from './readings.ts'
import { oneReplica } from './replicas.ts'
import { joinKeys, keyOf, type Series } from './series.ts'

export interface Reach {
  /** How far before the hour of a window the last sample of a counter is looked for. */
  readonly lookbackMs: number
  /** How late samples may come. */
  readonly lateMs: number
  /** A selector of series that have samples whenever the server scrapes. */
  readonly upSelector: string
  /** Whether what a target did while it could not be scraped is a gap of those who were seen there. */
  readonly downTargets: 'gap' | 'leave_out'
  /** The label in which the series of two servers that scrape the same differ. */
  readonly replicaLabel?: string | undefined
}

/** Most series have a sample in so long before a window. */
const nearbyMs = 5 * minuteMs

export async function readAnswer(
  api: Api,
  query: Query,
  window: Window,
  reach: Reach,
  ask: Ask,
): Promise<Answer> {
  const asked: Ask = { ...ask, histogram: query.histogram }
  if (query.kind === 'counter') {
    const answer = await readCounter(api, query, window, reach, asked)
    await demandScraped(api, answer.series, window, reach, asked)
    return {
      series: await kept(api, query, answer.series, window, reach, asked),
      ...(answer.beganAtZero && { beganAtZero: answer.beganAtZero }),
    }
  }
  const series =
    query.kind === 'gauge'
      ? eachOnce(await readGauge(api, query, window, asked), window, reach)
      : await readValue(api, query.query ?? '', window, asked)
  await demandScraped(api, series, window, reach, asked)
  const known = await kept(api, query, series, window, reach, asked)
  if (query.kind === 'value' || reach.upSelector === '') return { series: known }
  if (await wasSilent(api, query, window, reach, asked)) return { series: known, isPartial: () => true }
  return query.selector === undefined
    ? { series: known }
    : await withDown(api, query, window, reach, known, asked)
}

/**
 * A gauge says nothing of the time in which its target could not be scraped: a part of the window makes an estimate of
 * it, the whole of it a gap of each series that was seen there since the horizon.
 */
async function withDown(
  api: Api,
  query: Query,
  window: Window,
  reach: Reach,
  series: readonly Series[],
  ask: Ask,
): Promise<Answer> {
  if (reach.downTargets === 'leave_out') return { series }
  const range = `[${window.endMs - window.startMs}ms]`
  const failing = await api.instant(`min_over_time(${reach.upSelector}${range}) == 0`, window.endMs - 1, ask)
  const down = new Set(failing.flatMap(({ metric }) => targetOf(metric) ?? []))
  const isDown = ({ metric }: Series) => down.has(targetOf(metric) ?? '')
  if (down.size === 0) return { series }
  const seen = new Set(
    series
      .filter(({ samples }) => samples.some(({ atMs }) => atMs >= window.startMs))
      .map(({ metric }) => targetOf(metric)),
  )
  const horizonMs = horizonOf(window, reach)
  const last = await api.instant(
    `last_over_time(${query.selector}[${window.startMs - horizonMs}ms])`,
    window.startMs - 1,
    ask,
  )
  const before = await kept(api, query, eachOnce(last, window, reach), window, reach, ask)
  const unseen = before
    .filter(each => isDown(each) && !seen.has(targetOf(each.metric)))
    .map(({ metric }) => ({ metric, samples: [], unfit: 'its target could not be scraped (downTargets)' }))
  const lost = new Set(unseen.map(({ metric }) => keyOf(metric)))
  return {
    series: [...series.filter(({ metric }) => !lost.has(keyOf(metric))), ...unseen],
    isPartial: isDown,
  }
}

/** Job and instance, which every target has; undefined where they were taken away. */
function targetOf({ job, instance }: Series['metric']): string | undefined {
  return job === undefined || instance === undefined ? undefined : JSON.stringify([job, instance])
}

/** From here on the last sample before a window is looked for: the same for all windows of an hour. */
function horizonOf(window: Window, { lookbackMs }: Reach): number {
  return Math.floor(window.startMs / hourMs) * hourMs - lookbackMs
}

/** Without the series that `unless` finds in the window, or as late after it as what is new there may be told. */
async function kept(
  api: Api,
  { unless }: Query,
  series: readonly Series[],
  window: Window,
  { lateMs }: Reach,
  ask: Ask,
): Promise<readonly Series[]> {
  if (unless === undefined || series.length === 0) return series
  const keys = joinKeys(unless.on)
  const rangeMs = window.endMs - window.startMs + 2 * lateMs
  const found = `last_over_time(${unless.selector}[${rangeMs}ms])`
  const others = await api.instant(found, window.endMs + lateMs - 1, ask)
  const left = new Set(others.map(({ metric }) => keys.there(metric)))
  return series.filter(({ metric }) => !left.has(keys.here(metric)))
}

function readGauge(api: Api, query: Query, window: Window, ask: Ask): Promise<readonly Series[]> {
  const { selector, query: expression = '', maxGapSeconds, stepSeconds } = query
  return selector === undefined
    ? api.steps(expression, window, stepSeconds * secondMs, ask)
    : api.raw(selector, { startMs: window.startMs - maxGapSeconds * secondMs, endMs: window.endMs }, ask)
}

/** At the last millisecond of the window: a sample at its end belongs to the next. */
async function readValue(api: Api, expression: string, window: Window, ask: Ask): Promise<readonly Series[]> {
  let whole = expression
  if (expression.includes('$window')) {
    const widthMs = window.endMs - window.startMs
    const rangeMs = (await isClosed(api, window, ask)) ? widthMs - 1 : widthMs
    whole = expression.replaceAll('$window', `${rangeMs}ms`)
  }
  return api.instant(whole, window.endMs - 1, ask)
}

/** Does a range take the sample at its start too, as before Prometheus 3.0? Asked of the server, not of its version. */
export async function isClosed(api: Api, window: Window, ask: Ask): Promise<boolean> {
  const atMs = Math.floor(window.endMs / minuteMs) * minuteMs
  const [answer] = await api.instant('count_over_time(vector(0)[1m:1m])', atMs, ask)
  const points = answer?.samples[0]?.value
  if (points !== '1' && points !== '2')
    throw new Fault(
      'BODY_UNREADABLE',
      `${ask.about}: a range of one step has ${points ?? 'no'} points`,
      ask.facts,
    )
  return points === '2'
}

/** The series of the window, each behind the last sample before it, and which of them began at zero. */
async function readCounter(api: Api, query: Query, window: Window, reach: Reach, ask: Ask): Promise<Answer> {
  const { startedAt } = query
  const { lateMs } = reach
  const horizonMs = horizonOf(window, reach)
  // What goes on from one series to another needs to know when the others ended; else their last value is enough.
  const goesOver = query.deviceLabels.length > 0 || reach.replicaLabel !== undefined
  const far = goesOver ? 'samples' : 'last values'
  const found = await samplesBehind(api, query, window, { horizonMs, far }, ask)
  const series = eachOnce(found, window, reach)
  if (startedAt === undefined || series.length === 0) return { series }
  const beganAtMs = await startsOf(api, startedAt, window, lateMs, ask)
  return {
    series,
    beganAtZero: ({ metric, samples }) => {
      const [first] = samples.filter(({ value }) => value !== 'NaN')
      if (first === undefined || first.atMs < window.startMs) return false
      return (beganAtMs(metric) ?? []).some(
        ({ startMs, seenMs }) =>
          startMs >= horizonMs && startMs <= first.atMs && Math.abs(seenMs - first.atMs) <= lateMs,
      )
    },
  }
}

function eachOnce(
  series: readonly Series[],
  window: Window,
  { replicaLabel, lateMs }: Reach,
): readonly Series[] {
  return replicaLabel === undefined ? series : oneReplica(series, replicaLabel, window, lateMs)
}

/**
 * The samples of the window, each series behind the last one before it. That is looked for from the horizon, which is the
 * same for all windows of an hour, so that their sums do not depend on their width.
 */
async function samplesBehind(
  api: Api,
  { selector = '' }: Query,
  window: Window,
  { horizonMs, far }: { readonly horizonMs: number; readonly far: 'samples' | 'last values' },
  ask: Ask,
): Promise<readonly Series[]> {
  const nearMs = Math.max(horizonMs, window.startMs - nearbyMs)
  const near = await api.raw(selector, { startMs: nearMs, endMs: window.endMs }, ask)
  const isBehind = ({ samples }: Series) =>
    samples.some(({ atMs, value }) => atMs < window.startMs && value !== 'NaN')
  if (nearMs === horizonMs || near.every(isBehind)) return near
  const before = { startMs: horizonMs, endMs: nearMs }
  const atMs = nearMs - 1
  if (far === 'last values') {
    const last = await api.instant(`last_over_time(${selector}[${nearMs - horizonMs}ms])`, atMs, ask)
    // NaN is no value, and what was before it is not told: then all samples are asked for.
    if (!last.some(({ samples }) => samples[0]?.value === 'NaN')) {
      const values = last.map(series => ({
        ...series,
        samples: series.samples.map(({ value }) => ({ atMs, value })),
      }))
      const present = new Set(near.map(({ metric }) => keyOf(metric)))
      return together(
        values.filter(({ metric }) => present.has(keyOf(metric))),
        near,
      )
    }
  }
  return together(await api.raw(selector, before, ask), near)
}

/** By series, the earlier ones before the later ones. */
function together(earlier: readonly Series[], later: readonly Series[]): readonly Series[] {
  const all = new Map(earlier.map(series => [keyOf(series.metric), series]))
  for (const series of later) {
    const known = all.get(keyOf(series.metric))
    const unfit = series.unfit ?? known?.unfit
    all.set(keyOf(series.metric), {
      metric: series.metric,
      samples: [...(known?.samples ?? []), ...series.samples],
      ...(unfit !== undefined && { unfit }),
    })
  }
  return [...all.values()]
}

/** When what a series counts for began, and when that was said: a start that was not yet known is told a little later. */
async function startsOf(
  api: Api,
  { selector, on }: NonNullable<Query['startedAt']>,
  window: Window,
  lateMs: number,
  ask: Ask,
) {
  const span = { startMs: window.startMs - lateMs, endMs: window.endMs + lateMs }
  const keys = joinKeys(on)
  const starts = new Map<string, { startMs: number; seenMs: number }[]>()
  for (const { metric, samples } of await api.raw(selector, span, { ...ask, histogram: undefined })) {
    const key = keys.there(metric)
    const known = starts.get(key) ?? []
    starts.set(key, known)
    for (const { atMs, value } of samples)
      known.push({ startMs: Math.round(Number(value) * secondMs), seenMs: atMs })
  }
  return (metric: Series['metric']) => starts.get(keys.here(metric))
}

/**
 * An empty answer may mean that nothing was used, or that nobody looked.
 * @throws Fault WINDOW_UNKNOWABLE where the server has no sample at all of the window.
 */
async function demandScraped(
  api: Api,
  series: readonly Series[],
  window: Window,
  { upSelector }: Reach,
  ask: Ask,
): Promise<void> {
  if (upSelector === '') return
  if (series.some(({ samples }) => samples.some(({ atMs }) => atMs >= window.startMs))) return
  const scraped = await api.instant(
    `count(count_over_time(${upSelector}[${window.endMs - window.startMs}ms]))`,
    window.endMs - 1,
    ask,
  )
  if (scraped.length === 0)
    throw new Fault(
      'WINDOW_UNKNOWABLE',
      `${ask.about}: nothing was scraped in ${showWindow(window)}: the server has no sample of ${upSelector} (upSelector)`,
      ask.facts,
    )
}

/** Was nothing scraped for a whole gap of the window? Then its gauges say less than there was. */
async function wasSilent(
  api: Api,
  query: Query,
  window: Window,
  { upSelector }: Reach,
  ask: Ask,
): Promise<boolean> {
  const gapMs = Math.min(query.maxGapSeconds * secondMs, window.endMs - window.startMs)
  const span = { startMs: window.startMs + gapMs - 1, endMs: window.endMs }
  const points = Math.ceil((span.endMs - span.startMs) / gapMs)
  const [answer] = await api.steps(`count(count_over_time(${upSelector}[${gapMs}ms]))`, span, gapMs, ask)
  return (answer?.samples.length ?? 0) < points
}
