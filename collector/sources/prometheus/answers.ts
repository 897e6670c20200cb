/**
 * Asks for all that a query needs of a window: its samples, those before it that they are held against, and whether the
 * server was scraping at all.
 */
import { Fault } from '../../../schemas/fault.ts'
import { hourMs, minuteMs, secondMs, showWindow, type Window } from '../../../schemas/window.ts'
import type { Sample } from '../../samples.ts'
import type { Api, Ask } from './api.ts'
import type { Query } from './queries.ts'
import type { Answer } from './readings.ts'
import { joinKeys, keyOf, type Series } from './series.ts'

export interface Reach {
  /** How far before the hour of a window the last sample of a counter is looked for. */
  readonly lookbackMs: number
  /** How late samples may come. */
  readonly lateMs: number
  /** A selector of series that have samples whenever the server scrapes. */
  readonly upSelector: string
}

/** Most devices have a sample in so long before a window. */
const deviceLookbackMs = 5 * minuteMs

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
      series: await kept(api, query, answer.series, window, asked),
      ...(answer.beganAtZero && { beganAtZero: answer.beganAtZero }),
      silent: false,
    }
  }
  const series =
    query.kind === 'gauge'
      ? await readGauge(api, query, window, asked)
      : await readValue(api, query.query ?? '', window, asked)
  await demandScraped(api, series, window, reach, asked)
  return {
    series: await kept(api, query, series, window, asked),
    silent: query.kind === 'gauge' && (await wasSilent(api, query, window, reach, asked)),
  }
}

/** Without the series that `unless` finds in the window. */
async function kept(
  api: Api,
  { unless }: Query,
  series: readonly Series[],
  window: Window,
  ask: Ask,
): Promise<readonly Series[]> {
  if (unless === undefined || series.length === 0) return series
  const keys = joinKeys(unless.on)
  const widthMs = window.endMs - window.startMs
  const others = await api.instant(`last_over_time(${unless.selector}[${widthMs}ms])`, window.endMs - 1, ask)
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

/**
 * The samples of the window, each series behind the last one before it. That is looked for from the same place by all
 * windows of an hour, so that their sums do not depend on their width.
 */
async function readCounter(
  api: Api,
  query: Query,
  window: Window,
  { lookbackMs, lateMs }: Reach,
  ask: Ask,
): Promise<Omit<Answer, 'silent'>> {
  const { selector = '', startedAt } = query
  const horizonMs = Math.floor(window.startMs / hourMs) * hourMs - lookbackMs
  if (query.deviceLabels.length > 0) {
    const nearMs = Math.max(horizonMs, window.startMs - deviceLookbackMs)
    const near = await api.raw(selector, { startMs: nearMs, endMs: window.endMs }, ask)
    if (nearMs === horizonMs || near.every(({ samples }) => isBefore(samples[0], window)))
      return { series: near }
    const far = await api.raw(selector, { startMs: horizonMs, endMs: nearMs }, ask)
    return { series: together(far, near) }
  }
  const inside = await api.raw(selector, window, ask)
  if (inside.length === 0) return { series: inside }
  const last = await api.instant(
    `last_over_time(${selector}[${window.startMs - horizonMs}ms])`,
    window.startMs - 1,
    ask,
  )
  // NaN is no value, and what was before it is not told: then all samples are asked for.
  const before = last.some(({ samples }) => samples[0]?.value === 'NaN')
    ? await api.raw(selector, { startMs: horizonMs, endMs: window.startMs }, ask)
    : last.map(({ metric, samples, unfit }) => ({
        metric,
        samples: samples.map(({ value }) => ({ atMs: window.startMs - 1, value })),
        ...(unfit !== undefined && { unfit }),
      }))
  const present = new Set(inside.map(({ metric }) => keyOf(metric)))
  const series = together(
    before.filter(({ metric }) => present.has(keyOf(metric))),
    inside,
  )
  if (startedAt === undefined) return { series }
  const beganAtMs = await startsOf(api, startedAt, window, lateMs, ask)
  return {
    series,
    beganAtZero: ({ metric, samples }) => {
      const first = samples[0]
      if (first === undefined || first.atMs < window.startMs) return false
      return (beganAtMs(metric) ?? []).some(
        ({ startMs, seenMs }) =>
          startMs >= horizonMs && startMs <= first.atMs && Math.abs(seenMs - first.atMs) <= lateMs,
      )
    },
  }
}

function isBefore(sample: Sample | undefined, window: Window): boolean {
  return sample !== undefined && sample.atMs < window.startMs
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
  if (upSelector === '') return false
  const gapMs = Math.min(query.maxGapSeconds * secondMs, window.endMs - window.startMs)
  const span = { startMs: window.startMs + gapMs - 1, endMs: window.endMs }
  const points = Math.ceil((span.endMs - span.startMs) / gapMs)
  const [answer] = await api.steps(`count(count_over_time(${upSelector}[${gapMs}ms]))`, span, gapMs, ask)
  return (answer?.samples.length ?? 0) < points
}
