/** The Prometheus source against a real server: the contract of every source, and what is its own. */
import Fraction from 'fraction.js'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { ClientOptions, Source } from '../../../collector/source.ts'
import { openApi } from '../../../collector/sources/prometheus/api.ts'
import { PrometheusConfig, prometheus } from '../../../collector/sources/prometheus.ts'
import { type Http, openHttp } from '../../../runtime/http.ts'
import { misfits } from '../../../schemas/check.ts'
import { exact, show } from '../../../schemas/decimal.ts'
import type { Usage } from '../../../schemas/event.ts'
import type { Fault } from '../../../schemas/fault.ts'
import { hourMs, minuteMs, secondMs, type Window, windowsOver } from '../../../schemas/window.ts'
import { httpBreakages, runSourceContract, type SourceRig } from '../../contract/source.ts'
import { faultFrom } from '../../faults.ts'
import {
  type Passing,
  type PastSeries,
  type PrometheusProxy,
  type PrometheusServer,
  startPrometheus,
  startPrometheusProxy,
} from '../../rig/prometheus.ts'
import { sourceContext } from '../source-context.ts'

const live = new AbortController().signal
const token = 'bearer-token-that-nobody-sees'
const opened: AsyncDisposable[] = []
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]()
})

/** Two whole hours that are just over: the suite's windows and the server's retention go by the clock. */
const endMs = Math.floor(Date.now() / hourMs) * hourMs - hourMs
const span: Window = { startMs: endMs - 2 * hourMs, endMs }
/** When the source is asked: what it checks is what was scraped last. */
const nowMs = endMs + 2 * minuteMs

/** Samples every so many seconds over the span and some minutes around it, where the function gives one. */
function every(
  seconds: number,
  valueAt: (atMs: number, index: number) => string | number | undefined,
  offsetMs = 0,
): PastSeries['samples'] {
  const samples: [number, string][] = []
  let index = 0
  for (let atMs = span.startMs - 10 * minuteMs + offsetMs; atMs < nowMs; atMs += seconds * secondMs) {
    const value = valueAt(atMs, index++)
    if (value !== undefined) samples.push([atMs, String(value)])
  }
  return samples
}

/**
 * A counter as its exporter makes it: what it adds before each scrape, beginning anew where the script says so. The
 * ledger is what was added after the first scrape that anyone saw, which is all that can be billed.
 */
function counterScript(added: readonly (string | 'restart')[], unit = 1) {
  let total = 0
  const values: string[] = []
  const ledger: number[] = []
  for (const step of added) {
    if (step === 'restart') total = 0
    else total += Number(step)
    values.push(String(total * unit))
    ledger.push(step === 'restart' ? 0 : Number(step))
  }
  return { values, ledger }
}

const scrapes = 521
const red2 = counterScript(
  Array.from({ length: scrapes }, (_, n) => (n % 97 === 60 ? 'restart' : String((n * 31) % 101))),
)

/** Of two tenants; one begins anew now and then, one is scraped only in part of the time and seldom. */
const past: readonly PastSeries[] = [
  { series: 'up{job="api",instance="a"}', samples: every(15, () => 1) },
  // It cannot be scraped from minute 20 of the span on.
  {
    series: 'up{job="api",instance="b"}',
    samples: every(15, atMs => (atMs < span.startMs + 20 * minuteMs ? 1 : 0)),
  },
  { series: 'util{job="api",instance="a",tenant="red",pod="on-a"}', samples: every(15, () => 1) },
  {
    series: 'util{job="api",instance="b",tenant="red",pod="on-b"}',
    samples: every(15, atMs => (atMs < span.startMs + 20 * minuteMs ? 1 : undefined)),
  },
  { series: 'requests_total{job="api",tenant="red",pod="r-1"}', samples: every(15, (_, n) => 1000 + n * 7) },
  {
    series: 'requests_total{job="api",tenant="red",pod="r-2"}',
    samples: every(15, (_, n) => red2.values[n], 1234),
  },
  {
    series: 'requests_total{job="api",tenant="blue",pod="b-1"}',
    samples: every(30, (atMs, n) => (atMs % hourMs < 20 * minuteMs ? (n / 10).toFixed(1) : undefined)),
  },
  {
    // Away for longer than half an hour within each hour; scraped a millisecond before each half minute.
    series: 'requests_total{job="api",tenant="blue",pod="b-2"}',
    samples: every(
      30,
      (atMs, n) => ((atMs / minuteMs) % 60 < 10 || (atMs / minuteMs) % 60 > 50 ? n : undefined),
      29_999,
    ),
  },
  // Two servers that scrape the same counter, 3 a scrape; one is away for ten minutes.
  { series: 'paired_total{tenant="red",pod="p",replica="b"}', samples: every(15, (_, n) => n * 3, 9000) },
  {
    series: 'paired_total{tenant="red",pod="p",replica="a"}',
    samples: every(15, (atMs, n) => (Math.abs((atMs - endMs) / minuteMs + 60) < 5 ? undefined : n * 3), 4000),
  },
  { series: 'memory_bytes{tenant="red",pod="r-1"}', samples: every(15, (_, n) => 1e6 + (n % 9) * 1024) },
  {
    series: 'memory_bytes{tenant="blue",pod="b-1"}',
    samples: every(60, (atMs, n) => (atMs % hourMs < 31 * minuteMs ? n / 3 : undefined), 777),
  },
]

const tenantOf = {
  subjectLabel: 'tenant',
  resourceKind: 'pod',
  resourceLabels: ['pod'],
  labels: { job: 'job' },
}
const queries = [
  { name: 'requests', kind: 'counter', selector: 'requests_total', measure: 'requests', ...tenantOf },
  {
    name: 'memory',
    kind: 'gauge',
    selector: 'memory_bytes',
    measure: 'memory_byte_seconds',
    ...tenantOf,
  },
  {
    name: 'grid',
    kind: 'gauge',
    query: 'memory_bytes > 0',
    stepSeconds: 30,
    measure: 'storage_byte_seconds',
    ...tenantOf,
  },
  {
    name: 'value',
    kind: 'value',
    query: 'count_over_time(requests_total[$window])',
    measure: 'tokens',
    ...tenantOf,
  },
]

let server: PrometheusServer
beforeAll(async () => {
  server = await startPrometheus({ past })
})
afterAll(async () => {
  await server?.[Symbol.asyncDispose]()
})

interface Opened extends AsyncDisposable {
  readonly source: Source<unknown>
  readonly proxy: PrometheusProxy
}

async function open(config: object = {}, upstream: string | undefined = server.url): Promise<Opened> {
  const proxy = await startPrometheusProxy(upstream)
  const http = openHttp({ retries: 1, deadlineMs: 500, random: () => 0 })
  const whole = {
    name: 'test',
    url: proxy.url,
    bearerToken: `\${env:TOKEN}`,
    queries: structuredClone(queries),
    retentionDays: 3650,
    ...structuredClone(config),
  }
  expect(misfits(PrometheusConfig, whole)).toEqual([])
  const source = prometheus.open(
    whole as object as PrometheusConfig,
    sourceContext({ http, secret: () => token, nowMs: () => nowMs }),
  )
  return {
    source: source as Source<unknown>,
    proxy,
    async [Symbol.asyncDispose]() {
      await source[Symbol.asyncDispose]()
      await http[Symbol.asyncDispose]()
      await proxy[Symbol.asyncDispose]()
    },
  }
}

async function openFor(...args: Parameters<typeof open>): Promise<Opened> {
  const each = await open(...args)
  opened.push(each)
  return each
}

async function usages(source: Source<unknown>, scope: string, window: Window): Promise<Usage[]> {
  const all: Usage[] = []
  for await (const item of source.read(scope, window, live)) all.push(...source.toUsage(item, window))
  return all
}

async function totals(source: Source<unknown>, scope: string): Promise<Record<string, string>> {
  const sums = new Map<string, Fraction>()
  for (const window of windowsOver(span, source.widthMinutes))
    for (const { resource, measures } of await usages(source, scope, window))
      for (const value of Object.values(measures))
        sums.set(resource.id, (sums.get(resource.id) ?? new Fraction(0)).add(exact(value)))
  return Object.fromEntries([...sums].map(([id, sum]) => [id, show(sum)]))
}

const truncation = (body: string) =>
  JSON.stringify({ ...JSON.parse(body), warnings: ['results truncated due to limit'] })

const breakages: Readonly<
  Record<string, (passing: Passing) => { status: number; body: string } | undefined>
> = {
  500: ({ body }) => ({ status: 500, body }),
  '502 HTML': () => ({ status: 502, body: '<html>bad gateway</html>' }),
  401: () => ({ status: 401, body: '{"error":"no"}' }),
  404: () => ({ status: 404, body: 'not found' }),
  truncated: ({ body }) => ({ status: 200, body: body.slice(0, body.length / 2) }),
  list: () => ({ status: 200, body: '[]' }),
  'empty object': () => ({ status: 200, body: '{}' }),
  'truncated by a limit': ({ body }) => ({ status: 200, body: truncation(body) }),
  'execution error': () => ({
    status: 422,
    body: '{"status":"error","errorType":"execution","error":"found duplicate series"}',
  }),
  timeout: () => ({
    status: 503,
    body: '{"status":"error","errorType":"timeout","error":"query timed out"}',
  }),
  'error in a 200': () => ({ status: 200, body: '{"status":"error","errorType":"internal","error":"x"}' }),
}

function breaking(proxy: PrometheusProxy, how: string): void {
  proxy.through = (passing, response) => {
    if (how === 'hang') return 'taken'
    if (how === 'cut') {
      response.writeHead(200, { 'content-length': String(passing.body.length + 10) })
      response.write(passing.body.slice(0, 20))
      setTimeout(() => response.destroy(), 10)
      return 'taken'
    }
    return breakages[how]?.(passing) ?? passing
  }
}

const spoiled = (body: string) => body.replaceAll(/("pod":"b-1".*?"values":\[\[[\d.]+,")[^"]*"/g, '$1+Inf"')

for (const [scope, wrong] of [
  ['requests', [...new Set([...httpBreakages, ...Object.keys(breakages)])]],
  ['memory', ['empty object', 'truncated by a limit']],
] as const)
  runSourceContract(`Prometheus, ${scope}`, {
    open: async ({ pageSize = 60, widthMinutes = 15 } = {}): Promise<SourceRig> => {
      const chosen = queries.filter(({ name }) => name === scope)
      const { source, proxy, ...rest } = await open({
        queries: chosen,
        windowMinutes: widthMinutes,
        pageMinutes: pageSize,
      })
      return {
        kind: 'prometheus',
        source,
        break: how => breaking(proxy, how),
        spoilOne() {
          proxy.through = ({ status, body }) => ({ status, body: spoiled(body) })
          return 'blue'
        },
        [Symbol.asyncDispose]: rest[Symbol.asyncDispose],
      }
    },
    span,
    window: { startMs: span.startMs, endMs: span.startMs + 15 * minuteMs },
    scope,
    widthsMinutes: scope === 'requests' ? [60, 15, 5, 1] : [60, 15, 5],
    breakages: wrong,
    secrets: [token],
  })

describe('what is read', () => {
  test('a counter is what its exporter added between the samples, over restarts and gaps', async () => {
    const { source } = await openFor()
    // Samples at or before the span's start are where counting begins, one at its end belongs to what follows.
    const added = red2.ledger.filter((_, n) => {
      const atMs = span.startMs - 10 * minuteMs + 1234 + n * 15 * secondMs
      return atMs >= span.startMs && atMs < span.endMs
    })
    expect(await totals(source, 'requests')).toEqual({
      'r-1': String(480 * 7),
      'r-2': String(added.reduce((sum, each) => sum + each, 0)),
      // Scraped from minute 0 to 20 of each hour, every 30 s: it is first seen at 2.0, and last at 17.9; what it rose
      // between the two spans of scraping comes with the first sample of the second.
      'b-1': '15.9',
      'b-2': '240',
    })
  })

  test('a gauge is each sample times the time to the next, or to the gap', async () => {
    const { source } = await openFor()
    const { startMs } = span
    const [blue, red] = await usages(source, 'memory', { startMs, endMs: startMs + minuteMs })
    // Scraped at 0, 15, 30 and 45 s, numbers 40 to 43.
    expect(red).toEqual({
      thing: 'series',
      subject: 'red',
      resource: { kind: 'pod', id: 'r-1' },
      measures: {
        memory_byte_seconds: String([4, 5, 6, 7].reduce((sum, n) => sum + (1e6 + n * 1024) * 15, 0)),
      },
      labels: {},
    })
    // Nothing was said of it for half an hour before; number 10 at 0.777 s.
    expect(blue?.measures).toEqual({ memory_byte_seconds: show(new Fraction('3.333333333').mul('59.223')) })
  })

  test('a value is what the query answers for the window, also where ranges are closed', async () => {
    const { source } = await openFor()
    const counts = (window: Window) => usages(source, 'value', window)
    const quarter = { startMs: span.startMs, endMs: span.startMs + 15 * minuteMs }
    expect((await counts(quarter)).map(({ resource, measures }) => [resource.id, measures.tokens])).toEqual([
      ['b-1', '30'],
      ['b-2', '20'],
      ['r-1', '60'],
      ['r-2', '60'],
    ])
  })

  test.each(['grid', 'value'])('%s adds up over windows of any width', async scope => {
    const sums: unknown[] = []
    for (const windowMinutes of [60, 5])
      sums.push(await totals((await openFor({ windowMinutes })).source, scope))
    expect(sums[1]).toEqual(sums[0])
    expect(Object.keys(sums[0] as object).length).toBeGreaterThan(1)
  })

  test('of two servers that scrape the same one counts, and the other where it was away', async () => {
    const paired = { ...queries[0], name: 'paired', selector: 'paired_total' }
    const { source } = await openFor({ replicaLabel: 'replica', windowMinutes: 5, queries: [paired] })
    // 3 each 15 s for two hours. At each of two changes it is off by what grew between the scrapes of both, at most.
    const sum = Number((await totals(source, 'paired')).p)
    expect(Math.abs(sum - 480 * 3)).toBeLessThanOrEqual(6)
    const { source: both } = await openFor({ windowMinutes: 5, queries: [paired] })
    expect(Number((await totals(both, 'paired')).p)).toBeGreaterThan(1.9 * 480 * 3)
  })

  test('a window of the past says what it said when it was live', async () => {
    const window = { startMs: span.startMs + 45 * minuteMs, endMs: span.startMs + hourMs }
    const { source: later } = await openFor()
    const { source, proxy } = await openFor()
    // Nothing is there yet that was scraped after the time at which the window is first read.
    const untilMs = window.endMs + 60 * secondMs
    proxy.through = ({ status, body }) => {
      const answer = JSON.parse(body)
      for (const series of answer.data.result)
        if (series.values) series.values = series.values.filter(([at]: [number]) => at * 1000 <= untilMs)
      return { status, body: JSON.stringify(answer) }
    }
    for (const { name } of queries)
      expect(await usages(source, name, window), name).toEqual(await usages(later, name, window))
    for (const { form } of proxy.asked)
      expect(Number(form.get('time') ?? form.get('end')) * 1000).toBeLessThanOrEqual(untilMs)
  })

  test('it can be checked', async () => {
    const { source } = await openFor()
    expect(await source.check?.(live)).toEqual({
      works: [
        'answers, version 2.42.0+ds, ranges closed',
        'keeps samples for 30y',
        'requests: 4 series, a sample about every 15 s',
        'memory: 2 series, a sample about every 15 s',
        'grid: 2 series',
        'value: 4 series',
      ],
      missing: [],
    })
  })
})

/** What a server from 3.0 on answers, made of what one before it did: ranges are open at their start. */
function leftOpen(proxy: PrometheusProxy): void {
  proxy.through = ({ form, status, body }) => {
    const range = /^(.*)\[(\d+)ms\]$/.exec(form.get('query') ?? '')
    if (form.get('query')?.startsWith('count_over_time(vector(0)'))
      return { status, body: body.replace('"2"]', '"1"]') }
    if (range === null) return { status, body }
    const afterMs = Math.round(Number(form.get('time')) * 1000) - Number(range[2])
    const answer = JSON.parse(body)
    for (const series of answer.data.result)
      series.values = series.values.filter(([at]: [number]) => Math.round(at * 1000) > afterMs)
    answer.data.result = answer.data.result.filter(
      (series: { values: unknown[] }) => series.values.length > 0,
    )
    return { status, body: JSON.stringify(answer) }
  }
}

describe('servers of all kinds', () => {
  test('ranges that are open at their start say the same as closed ones, sample on the edge or not', async () => {
    for (const scope of ['requests', 'memory']) {
      const closed = await openFor({ windowMinutes: 1, pageMinutes: 1 })
      const open_ = await openFor({ windowMinutes: 1, pageMinutes: 1 })
      leftOpen(open_.proxy)
      for (const window of windowsOver({ startMs: span.startMs, endMs: span.startMs + 12 * minuteMs }, 1)) {
        const said = await usages(closed.source, scope, window)
        expect(said.length).toBeGreaterThan(0)
        expect(await usages(open_.source, scope, window)).toEqual(said)
      }
    }
    const { source, proxy } = await openFor()
    leftOpen(proxy)
    await usages(source, 'value', { startMs: span.startMs, endMs: span.startMs + 15 * minuteMs })
    // The whole width here, a millisecond less where the start is in it too.
    expect(proxy.asked.at(-1)?.form.get('query')).toContain('[900000ms]')
    expect((await source.check?.(live))?.works[0]).toContain('left-open')
  })

  test('what is too much for one answer is asked for in halves', async () => {
    await using small = await startPrometheus({ past, flags: ['--query.max-samples=70'] })
    const { source, proxy } = await openFor({}, small.url)
    const window = { startMs: span.startMs, endMs: span.startMs + 15 * minuteMs }
    const { source: whole } = await openFor()
    expect(await usages(source, 'memory', window)).toEqual(await usages(whole, 'memory', window))
    expect(proxy.asked.length).toBeGreaterThan(3)
  })

  test('infos change nothing, and neither do those that older servers sent among warnings', async () => {
    const { source, proxy } = await openFor()
    const window = { startMs: span.startMs, endMs: span.startMs + 15 * minuteMs }
    const plain = await usages(source, 'requests', window)
    proxy.through = ({ status, body }) => ({
      status,
      body: JSON.stringify({
        ...JSON.parse(body),
        infos: ['PromQL info: metric might not be a counter'],
        warnings: ['PromQL info: metric might not be a counter'],
      }),
    })
    expect(await usages(source, 'requests', window)).toEqual(plain)
  })

  test('native histograms count by what is configured, and are named where nothing is', async () => {
    const histogram = (seconds: number, count: string, sum: string) => [seconds, { count, sum, buckets: [] }]
    const atS = span.startMs / 1000
    const metric = { __name__: 'latency', tenant: 'red', pod: 'p' }
    const histograms = [
      histogram(atS - 30, '3', '0.5'),
      histogram(atS + 1, '4', '0.75'),
      histogram(atS + 31, '9', '2.25'),
    ]
    const answer = (result: unknown[]) => ({
      status: 200,
      body: JSON.stringify({ status: 'success', data: { resultType: 'matrix', result } }),
    })
    for (const [given, expected] of [
      [{ histogram: 'count' }, '6'],
      [{ histogram: 'sum' }, '1.75'],
    ] as const) {
      const { source, proxy } = await openFor({ queries: [{ ...queries[0], selector: 'latency', ...given }] })
      proxy.through = () => answer([{ metric, histograms }])
      const [usage] = await usages(source, 'requests', {
        startMs: span.startMs,
        endMs: span.startMs + minuteMs,
      })
      expect(usage?.measures).toEqual({ requests: expected })
    }
    const { source, proxy } = await openFor()
    proxy.through = () => answer([{ metric, histograms }])
    const reading = usages(source, 'requests', { startMs: span.startMs, endMs: span.startMs + minuteMs })
    const fault = await faultFrom(reading)
    expect(fault.code).toBe('ITEM_UNREADABLE')
    expect(fault.message).toContain('histogram: count')
  })
})

test('pages of raw samples overlap nowhere, also where ranges are closed', async () => {
  await using http = openHttp({ retries: 0 })
  const headers = () => ({ headers: {}, secrets: [] })
  const api = openApi({ http, base: server.url, headers, pageMs: minuteMs })
  const window = { startMs: span.startMs - minuteMs, endMs: span.startMs + 9 * minuteMs }
  const ask = { signal: live, about: 'test', facts: {} }
  const [series] = await api.raw('requests_total{pod="b-2"}', window, ask)
  const expected = Array.from({ length: 20 }, (_, n) => window.startMs + 29_999 + n * 30_000)
  expect(series?.samples.map(({ atMs }) => atMs)).toEqual(expected)
})

describe('what cannot be known', () => {
  const before = { startMs: span.startMs - 6 * hourMs, endMs: span.startMs - 6 * hourMs + 15 * minuteMs }

  test.each(['requests', 'memory', 'value'])(
    'a window in which nothing was scraped is not empty: %s',
    async scope => {
      const { source } = await openFor()
      expect((await faultFrom(usages(source, scope, before))).code).toBe('WINDOW_UNKNOWABLE')
      const { source: trusting } = await openFor({ upSelector: '' })
      expect(await usages(trusting, scope, before)).toEqual([])
    },
  )

  test('one in which only this was not scraped is empty', async () => {
    const { source } = await openFor({ queries: [{ ...queries[0], selector: 'no_such_total' }] })
    expect(
      await usages(source, 'requests', { startMs: span.startMs, endMs: span.startMs + minuteMs }),
    ).toEqual([])
  })

  test('gauges of a time in which the server was away are estimates', async () => {
    const { source, proxy } = await openFor()
    const window = { startMs: span.startMs, endMs: span.startMs + 15 * minuteMs }
    expect((await usages(source, 'memory', window)).map(({ estimated }) => estimated)).toEqual([
      undefined,
      undefined,
    ])
    proxy.through = ({ path, status, body }) => ({
      status,
      // It has no answer for one of the gaps.
      body: path.endsWith('query_range') ? body.replace(/"values":\[\[[^\]]*\],/, '"values":[') : body,
    })
    expect((await usages(source, 'memory', window)).map(({ estimated }) => estimated)).toEqual([true, true])
  })

  test('what a target did while it could not be scraped is a gap of who was seen there, or an estimate', async () => {
    const util = { ...queries[1], name: 'util', selector: 'util' }
    const quarter = (n: number) => ({
      startMs: span.startMs + n * 15 * minuteMs,
      endMs: span.startMs + (n + 1) * 15 * minuteMs,
    })
    const { source } = await openFor({ queries: [util] })
    const readAll = async (from: Source<unknown>, window: Window) => {
      const said: unknown[] = []
      for await (const item of from.read('util', window, live))
        try {
          for (const { resource, estimated } of from.toUsage(item, window))
            said.push([resource.id, estimated ?? false])
        } catch (error) {
          said.push((error as Fault).facts)
        }
      return said
    }
    const gap = { subject: 'red', resource: 'on-b' }
    expect(await readAll(source, quarter(0))).toEqual([
      ['on-a', false],
      ['on-b', false],
    ])
    expect(await readAll(source, quarter(1))).toEqual([
      ['on-a', false],
      ['on-b', true],
    ])
    expect(await readAll(source, quarter(2))).toEqual([['on-a', false], gap])
    const { source: trusting } = await openFor({ queries: [util], downTargets: 'leave_out' })
    expect(await readAll(trusting, quarter(2))).toEqual([['on-a', false]])
  })

  test('a window is not read before samples may have come', async () => {
    const soon = { startMs: endMs, endMs: endMs + minuteMs }
    const { source } = await openFor({ windowMinutes: 1 })
    expect(source.settleDelayMs).toBe(60 * secondMs)
    expect(await usages(source, 'memory', soon)).toHaveLength(2)
    const { source: later } = await openFor({ windowMinutes: 1, lateSeconds: 61 })
    expect((await faultFrom(usages(later, 'memory', soon))).code).toBe('WINDOW_UNKNOWABLE')
  })

  test('a series is first seen behind the horizon of its hour, whatever the width of the window', async () => {
    for (const windowMinutes of [60, 5]) {
      const { source } = await openFor({ windowMinutes, lookbackMinutes: 30 })
      const sums = await totals(source, 'requests')
      // Silent from minute 20 to 60, longer than the half hour before the second hour: that rise is not seen.
      expect(sums['b-1']).toBe(show(new Fraction('5.9').sub(2).add(new Fraction('17.9').sub(14))))
      // Silent as long within each hour: the horizon is the same for all windows of it.
      expect(sums['b-2']).toBe('240')
    }
  })
})

describe('who asks', () => {
  const window = { startMs: span.startMs, endMs: span.startMs + minuteMs }

  test.each([
    [{}, { authorization: `Bearer ${token}` }],
    [
      { bearerToken: undefined, basic: { username: 'me', password: `\${env:P}` } },
      { authorization: `Basic ${Buffer.from(`me:${token}`).toString('base64')}` },
    ],
    [
      {
        headers: [
          { name: 'X-Scope-OrgID', value: 'a' },
          { name: 'X-Key', value: `\${env:K}` },
        ],
      },
      { 'x-scope-orgid': 'a', 'x-key': token },
    ],
  ])('%#', async (config, headers) => {
    const { source, proxy } = await openFor(config)
    await usages(source, 'memory', window)
    expect(proxy.asked[0]?.headers).toMatchObject(headers)
    // A server that repeats what it was sent tells nobody.
    for (const repeated of Object.values(headers)) {
      proxy.through = () => ({
        status: 400,
        body: JSON.stringify({ status: 'error', error: `bad ${repeated}` }),
      })
      const fault = await faultFrom(usages(source, 'memory', window))
      expect(fault.code).toBe('SOURCE_REFUSED')
      expect(JSON.stringify([fault.message, fault.facts])).not.toContain(token)
      expect(JSON.stringify([fault.message, fault.facts])).not.toContain(
        Buffer.from(`me:${token}`).toString('base64'),
      )
    }
  })

  test('certificates are read anew for each call', async () => {
    const read: string[] = []
    const asked: unknown[] = []
    const client = (options: ClientOptions): Http => {
      asked.push(options.tls?.())
      asked.push(options.tls?.())
      return openHttp({ retries: 0 })
    }
    const config = {
      name: 'test',
      url: 'https://prometheus.example.com',
      queries: structuredClone(queries),
      tls: { ca: 'file:ca.pem', cert: 'file:cert.pem', key: 'file:key.pem' },
    }
    expect(misfits(PrometheusConfig, config)).toEqual([])
    const secret = (reference: string) => `${reference} ${read.push(reference)}`
    await using http = openHttp({ retries: 0 })
    prometheus.open(config as object as PrometheusConfig, sourceContext({ http, client, secret }))
    expect(asked).toEqual([
      { ca: 'file:ca.pem 1', cert: 'file:cert.pem 2', key: 'file:key.pem 3' },
      { ca: 'file:ca.pem 4', cert: 'file:cert.pem 5', key: 'file:key.pem 6' },
    ])
  })
})

test('options that do not fit together are refused', async () => {
  const whole = {
    kind: 'counter',
    selector: 'x',
    name: 'q',
    measure: 'requests',
    subject: 's',
    resourceLabels: ['pod'],
  }
  const wrong = async (query: object, config: object = {}) =>
    (await faultFrom(open({ queries: [query], ...config }))).message
  expect(await wrong({ ...whole, selector: undefined, query: 'rate(x[5m])' })).toContain(
    'a counter takes a selector',
  )
  expect(await wrong({ ...whole, selector: 'rate(x[5m])' })).toContain('plain selector')
  expect(await wrong({ ...whole, subjectLabel: 'y' })).toContain('either subject or subjectLabel')
  expect(await wrong({ ...whole, firstSight: 'zero' })).toContain('go together')
  expect(await wrong(whole, { queries: [whole, whole] })).toContain('two are named "q"')
  expect(await wrong(whole, { queries: [] })).toContain('neither presets nor queries')
  expect(await wrong(whole, { url: 'https://me:secret@host' })).not.toContain('secret')
  expect(await wrong(whole, { basic: { username: 'a', password: `\${env:P}` } })).toContain(
    'exclude each other',
  )
})
