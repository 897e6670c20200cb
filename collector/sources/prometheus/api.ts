/**
 * The calls to a Prometheus server, or to one that speaks as it does: expressions at an instant or in steps, and the
 * raw samples of a span. An answer that is not the whole one is a fault.
 */
import type { Http } from '../../../runtime/http.ts'
import { Fault, type FaultFacts } from '../../../schemas/fault.ts'
import { secondMs, type Window } from '../../../schemas/window.ts'
import type { Sample } from '../../samples.ts'
import { keyOf, type Series } from './series.ts'

export interface Ask {
  readonly signal: AbortSignal
  /** For the message of a fault: whose answer it is. */
  readonly about: string
  readonly facts: FaultFacts
  readonly histogram?: 'count' | 'sum' | undefined
}

export interface Api {
  /** What an expression is at an instant: one sample a series. */
  instant(expression: string, atMs: number, ask: Ask): Promise<readonly Series[]>
  /** What it is at `startMs` and each step after it, as far as before `endMs`. */
  steps(expression: string, window: Window, stepMs: number, ask: Ask): Promise<readonly Series[]>
  /** The stored samples of a selector in the window. */
  raw(selector: string, window: Window, ask: Ask): Promise<readonly Series[]>
  /** `data` of another endpoint under /api/v1, as it came. */
  status(path: string, query: Readonly<Record<string, string>>, ask: Ask): Promise<unknown>
}

export interface ApiOptions {
  readonly http: Http
  readonly base: string
  /** Made anew for each call, with their secrets apart, so that no fault repeats one. */
  readonly headers: () => {
    readonly headers: Readonly<Record<string, string>>
    readonly secrets: readonly string[]
  }
  /** The longest span of one call; what is still too much for the server is halved. */
  readonly pageMs: number
}

/** Servers refuse more in one answer. */
const stepsMax = 11_000
/** A body that is cut in two though its length is right is not seen by the client: it is asked for again here. */
const bodiesMax = 3
/** What is shorter is a word that may stand anywhere, the name of a tenant in a header for instance. */
const secretLengthMin = 6

export function openApi(options: ApiOptions): Api {
  const { http, base, pageMs } = options

  async function call(
    path: string,
    form: Readonly<Record<string, string>>,
    ask: Ask,
    method: 'GET' | 'POST',
  ) {
    const { about, signal } = ask
    const endpoint = `prometheus.${path.replaceAll('/', '_')}`
    const facts = { ...ask.facts, endpoint }
    const body = new URLSearchParams(form).toString()
    for (let tried = 1; ; tried++) {
      const { headers, secrets } = options.headers()
      try {
        const { text } = await http.request({
          method,
          url: `${base}/api/v1/${path}${method === 'GET' && body !== '' ? `?${body}` : ''}`,
          ...(method === 'POST' && { body }),
          headers: {
            ...headers,
            ...(method === 'POST' && { 'content-type': 'application/x-www-form-urlencoded' }),
          },
          endpoint,
          signal,
        })
        return dataOf(text, about, facts)
      } catch (error) {
        if (!(error instanceof Fault)) throw error
        if (error.code === 'BODY_UNREADABLE' && error.facts.whole === false && tried < bodiesMax) continue
        const { whole: _, ...told } = error.facts
        let message = error.message.startsWith(about) ? error.message : `${about}: ${error.message}`
        for (const secret of secrets)
          if (secret.length >= secretLengthMin) message = message.replaceAll(secret, '…')
        throw new Fault(error.code, message, { ...told, ...facts }, { cause: error.cause })
      }
    }
  }

  /** One answer a page, oldest first, put together again by series. A page is a number of units, at least one. */
  async function paged(
    window: Window,
    { pageMs: longestMs, unitMs }: { readonly pageMs: number; readonly unitMs: number },
    ask: (page: Window) => Promise<readonly Series[]>,
  ): Promise<readonly Series[]> {
    const joined = new Map<string, { metric: Series['metric']; samples: Sample[]; unfit?: string }>()
    let widthMs = Math.max(1, Math.floor(longestMs / unitMs)) * unitMs
    for (let startMs = window.startMs; startMs < window.endMs; ) {
      const page = { startMs, endMs: Math.min(startMs + widthMs, window.endMs) }
      let answer: readonly Series[]
      try {
        answer = await ask(page)
      } catch (error) {
        if (!isTooMuch(error) || widthMs === unitMs) throw error
        widthMs = Math.ceil(widthMs / unitMs / 2) * unitMs
        continue
      }
      for (const { metric, samples, unfit } of answer) {
        const key = keyOf(metric)
        const known = joined.get(key)
        if (!known) joined.set(key, { metric, samples: [...samples], ...(unfit !== undefined && { unfit }) })
        else {
          for (const sample of samples) known.samples.push(sample)
          if (unfit !== undefined) known.unfit = unfit
        }
      }
      startMs = page.endMs
    }
    return [...joined.values()]
  }

  return {
    async instant(expression, atMs, ask) {
      return seriesOf(await call('query', { query: expression, time: secondsOf(atMs) }, ask, 'POST'), ask)
    },
    steps(expression, window, stepMs, ask) {
      return paged(window, { pageMs: Math.min(pageMs, stepMs * stepsMax), unitMs: stepMs }, async page => {
        // Both ends are inclusive.
        const span = {
          start: secondsOf(page.startMs),
          end: secondsOf(page.endMs - 1),
          step: secondsOf(stepMs),
        }
        return seriesOf(await call('query_range', { query: expression, ...span }, ask, 'POST'), ask)
      })
    },
    raw(selector, window, ask) {
      return paged(window, { pageMs, unitMs: secondMs }, async ({ startMs, endMs }) => {
        // A range is open at its start since Prometheus 3.0 and was closed before: asked for to the last millisecond
        // of the page, a server gives this page, or with it the millisecond before.
        const expression = `${selector}[${endMs - startMs}ms]`
        const data = await call('query', { query: expression, time: secondsOf(endMs - 1) }, ask, 'POST')
        return seriesOf(data, ask).map(series => {
          const inside = (atMs: number) => atMs >= startMs && atMs < endMs
          return series.samples.every(({ atMs }) => inside(atMs))
            ? series
            : { ...series, samples: series.samples.filter(({ atMs }) => inside(atMs)) }
        })
      })
    },
    status: (path, query, ask) => call(path, query, ask, 'GET'),
  }
}

function isTooMuch(error: unknown): boolean {
  if (!(error instanceof Fault)) return false
  return (
    error.code === 'BODY_TOO_LARGE' ||
    (error.code === 'SOURCE_REFUSED' && /too many samples|maximum resolution/.test(error.message))
  )
}

function secondsOf(ms: number): string {
  return `${Math.floor(ms / secondMs)}.${String(ms % secondMs).padStart(3, '0')}`
}

/** Values are strings there, so plain JSON loses nothing of them; times are seconds to the millisecond. */
function dataOf(text: string, about: string, facts: FaultFacts): unknown {
  let body: unknown
  try {
    body = JSON.parse(text)
  } catch (error) {
    const shown = /^\s*</.test(text) ? 'HTML' : 'no whole JSON'
    throw new Fault(
      'BODY_UNREADABLE',
      `${about}: the answer is ${shown}`,
      { ...facts, whole: false },
      { cause: error },
    )
  }
  const { status, data, warnings, error } = isObject(body) ? body : {}
  if (status === 'error')
    throw new Fault('BODY_UNREADABLE', `${about}: the answer is an error (${lineOf(error)})`, facts)
  if (status !== 'success' || data === undefined)
    throw new Fault('BODY_UNREADABLE', `${about}: the answer is not one of Prometheus`, facts)
  // A limit that cut series away, a store of Thanos that was away: all tell of it here and answer 200.
  const told = Array.isArray(warnings)
    ? warnings.filter(warning => !/^PromQL info/.test(String(warning)))
    : []
  if (told.length > 0)
    throw new Fault('BODY_UNREADABLE', `${about}: the answer is not whole (${lineOf(told[0])})`, facts)
  return data
}

function seriesOf(data: unknown, { about, facts, histogram }: Ask): readonly Series[] {
  const unreadable = (what: string) => new Fault('BODY_UNREADABLE', `${about}: ${what}`, facts)
  const { resultType, result } = isObject(data) ? data : {}
  if (!Array.isArray(result)) throw unreadable('the answer has no result')
  const sampleOf = (pair: unknown): Sample => {
    const [seconds, value] = Array.isArray(pair) ? pair : []
    if (typeof seconds !== 'number' || typeof value !== 'string') throw unreadable('a sample is no pair')
    return { atMs: Math.round(seconds * secondMs), value }
  }
  const histogramOf = (pair: unknown): Sample => {
    const [seconds, parts] = Array.isArray(pair) ? pair : []
    return sampleOf([seconds, isObject(parts) ? parts[histogram ?? 'count'] : undefined])
  }
  if (resultType === 'scalar') return [{ metric: {}, samples: [sampleOf(result)] }]
  if (resultType !== 'vector' && resultType !== 'matrix')
    throw unreadable(`the answer is a ${lineOf(resultType)}`)
  return result.map((series: unknown) => {
    const { metric, value, values, histogram: one, histograms } = isObject(series) ? series : {}
    if (!isLabels(metric)) throw unreadable('a series has no labels')
    const many = resultType === 'vector' ? (value === undefined ? [] : [value]) : (values ?? [])
    const manyHistograms = resultType === 'vector' ? (one === undefined ? [] : [one]) : (histograms ?? [])
    if (!Array.isArray(many) || !Array.isArray(manyHistograms)) throw unreadable('a series has no samples')
    if (manyHistograms.length === 0) return { metric, samples: many.map(sampleOf) }
    if (histogram === undefined)
      return { metric, samples: [], unfit: 'is of native histograms: say `histogram: count` or `sum`' }
    const samples = [...many.map(sampleOf), ...manyHistograms.map(histogramOf)]
    return { metric, samples: samples.sort((a, b) => a.atMs - b.atMs) }
  })
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isLabels(value: unknown): value is Readonly<Record<string, string>> {
  return isObject(value) && Object.values(value).every(each => typeof each === 'string')
}

function lineOf(value: unknown): string {
  const text = String(value).replace(/[\p{C}\s]+/gu, ' ')
  return text.length > 160 ? `${text.slice(0, 160)}…` : text
}
