/** For `meterline check`: asks the server for all that the queries need, and says what is not there and how to mend it. */
import { Fault } from '../../../schemas/fault.ts'
import { dayMs, minuteMs, secondMs } from '../../../schemas/window.ts'
import type { Findings } from '../../source.ts'
import { isClosed } from './answers.ts'
import type { Api, Ask } from './api.ts'
import type { Query } from './queries.ts'
import type { Series } from './series.ts'

interface Checked {
  readonly retentionDays: number
  readonly lateMs: number
  readonly upSelector: string
  readonly nowMs: number
}

const lookMs = 10 * minuteMs

/** @throws Fault where the server does not answer: then nothing else can be said. */
export async function findings(
  api: Api,
  queries: readonly Query[],
  { retentionDays, lateMs, upSelector, nowMs }: Checked,
  signal: AbortSignal,
): Promise<Findings> {
  const works: string[] = []
  const missing: { what: string; remedy: string }[] = []
  const ask = (about: string): Ask => ({ signal, about, facts: {} })
  const atMs = nowMs - lateMs
  const closed = await isClosed(api, { startMs: atMs - lookMs, endMs: atMs }, ask('check'))
  const version = textAt(await optional(api.status('status/buildinfo', {}, ask('check'))), 'version')
  works.push(
    `answers${version === undefined ? '' : `, version ${version}`}, ranges ${closed ? 'closed' : 'left-open'}`,
  )

  const kept = textAt(await optional(api.status('status/runtimeinfo', {}, ask('check'))), 'storageRetention')
  const keptMs = kept === undefined ? undefined : durationMs(kept.split(' or ')[0] ?? '')
  if (keptMs !== undefined && keptMs < retentionDays * dayMs)
    missing.push({
      what: `it keeps samples for ${kept}, retentionDays is ${retentionDays}`,
      remedy: 'raise --storage.tsdb.retention.time, or lower retentionDays',
    })
  else if (kept !== undefined) works.push(`keeps samples for ${kept}`)

  if (upSelector.trim() !== '') {
    const [up] = await api.instant(`count(last_over_time(${upSelector}[${lookMs}ms]))`, atMs, ask('check'))
    if (up === undefined)
      missing.push({
        what: `no series of upSelector ${upSelector}: no window can be known`,
        remedy: 'name series that are there whenever it scrapes, or set it empty',
      })
  }

  for (const query of queries) {
    const { name, selector, query: expression = '' } = query
    if (selector === undefined) {
      const shown = expression.replaceAll('$window', `${lookMs}ms`)
      const [count] = await api.instant(`count(${shown})`, atMs, ask(name))
      if (count) works.push(`${name}: ${seriesIn(count)}`)
      else missing.push({ what: `${name}: its query has no series`, remedy: 'check its metrics and labels' })
      continue
    }
    const [count] = await api.instant(`count(last_over_time(${selector}[${lookMs}ms]))`, atMs, ask(name))
    if (count === undefined) {
      missing.push({ what: `${name}: no series of ${selector}`, remedy: remedyFor(selector) })
      continue
    }
    const [most] = await api.instant(`max(count_over_time(${selector}[${lookMs - 1}ms]))`, atMs, ask(name))
    const everyMs = most ? lookMs / Math.max(1, Number(most.samples[0]?.value)) : undefined
    works.push(
      `${name}: ${seriesIn(count)}${everyMs ? `, a sample about every ${Math.round(everyMs / secondMs)} s` : ''}`,
    )
    if (everyMs !== undefined && query.kind === 'gauge' && everyMs > query.maxGapSeconds * secondMs)
      missing.push({
        what: `${name}: its samples are further apart than maxGapSeconds`,
        remedy: `set maxGapSeconds to ${Math.ceil((2 * everyMs) / secondMs)}`,
      })
    if (everyMs !== undefined && lateMs < 2 * everyMs)
      missing.push({
        what: `${name}: lateSeconds is less than two scrapes`,
        remedy: `set lateSeconds to ${Math.ceil((2 * everyMs) / secondMs)}`,
      })
    const type = await typeOf(api, selector, ask(name))
    if (query.kind === 'counter' && type === 'gauge')
      missing.push({
        what: `${name}: the exporter calls it a gauge`,
        remedy: 'if it is one, or a rate, set kind: gauge',
      })
    if (query.deviceLabels.length === 0 && !(await hasSubject(api, query, selector, atMs, ask(name))))
      missing.push({
        what: `${name}: none of its series has ${query.subjectLabel} (subjectLabel)`,
        remedy: 'name the label that tells the tenant',
      })
  }
  return { works, missing }
}

async function hasSubject(
  api: Api,
  { subjectLabel }: Query,
  selector: string,
  atMs: number,
  ask: Ask,
): Promise<boolean> {
  if (subjectLabel === undefined) return true
  for (const label of subjectLabel.split('|')) {
    const counted = `count(last_over_time(${selector}[${lookMs}ms])) by (${label})`
    const groups = await api.instant(counted, atMs, ask)
    if (groups.some(({ metric }) => (metric[label] ?? '') !== '')) return true
  }
  return false
}

function seriesIn(count: Series): string {
  const text = count.samples[0]?.value ?? '0'
  return `${text} series`
}

/** What metadata says it is, where the server has any. */
async function typeOf(api: Api, selector: string, ask: Ask): Promise<string | undefined> {
  const metric = /^[A-Za-z_:][\w:]*/.exec(selector)?.[0]
  if (metric === undefined) return undefined
  const data = await optional(api.status('metadata', { metric, limit: '1' }, ask))
  const entries = (data as Readonly<Record<string, unknown>> | undefined)?.[metric]
  return Array.isArray(entries) ? textAt(entries[0], 'type') : undefined
}

/** Servers that only speak the queries of Prometheus have no status. */
async function optional(asked: Promise<unknown>): Promise<unknown> {
  try {
    return await asked
  } catch (error) {
    if (error instanceof Fault && error.code !== 'ABORTED') return undefined
    throw error
  }
}

function textAt(data: unknown, name: string): string | undefined {
  const text = (data as Readonly<Record<string, unknown>> | null | undefined)?.[name]
  return typeof text === 'string' && text !== '' ? text : undefined
}

const unitsMs: Readonly<Record<string, number>> = {
  ms: 1,
  s: secondMs,
  m: minuteMs,
  h: 60 * minuteMs,
  d: dayMs,
  w: 7 * dayMs,
  y: 365 * dayMs,
}

/** `1w2d`, as Prometheus prints durations; undefined where it is none, `0s` for instance, which is no bound. */
function durationMs(text: string): number | undefined {
  if (!/^(\d+(ms|[smhdwy]))+$/.test(text)) return undefined
  let ms = 0
  for (const [, count, unit = ''] of text.matchAll(/(\d+)(ms|[smhdwy])/g))
    ms += Number(count) * (unitsMs[unit] ?? 0)
  return ms > 0 ? ms : undefined
}

function remedyFor(selector: string): string {
  if (/^DCGM_FI_PROF_/.test(selector))
    return 'add it to the metrics file of the DCGM exporter, with profiling allowed; or list only the queries you want'
  if (/^DCGM_/.test(selector)) return 'is the DCGM exporter scraped, and this metric in its metrics file?'
  if (/^container_/.test(selector)) return 'is /metrics/cadvisor of the kubelets scraped?'
  return 'check its name and matchers, and whether its target is scraped'
}
