/**
 * Prometheus, and what speaks as it does: counters by their raw samples, gauges times the time, values as they are. Owns
 * its options; beside this, in prometheus/, are what a query is, the presets, the calls, and the rules.
 */
import Type, { type Static } from 'typebox'
import { Secret, secretShape } from '../../schemas/config.ts'
import { showQuantity, showRounded } from '../../schemas/decimal.ts'
import { Fault } from '../../schemas/fault.ts'
import { dayMs, minuteMs, secondMs } from '../../schemas/window.ts'
import { baseUrl, checkKnowable, rereadsAfter, stopIfAborted } from '../asking.ts'
import { defineSource, type Source, type SourceContext } from '../source.ts'
import { readAnswer } from './prometheus/answers.ts'
import { type Api, openApi } from './prometheus/api.ts'
import { findings } from './prometheus/check.ts'
import { presetNames, queriesOf } from './prometheus/presets.ts'
import { checkQuery, type Query, QueryConfig } from './prometheus/queries.ts'
import { itemsOf, type PrometheusItem } from './prometheus/readings.ts'

export const PrometheusConfig = Type.Object(
  {
    kind: Type.Optional(Type.Literal('prometheus')),
    name: Type.String({
      pattern: '^[A-Za-z0-9._-]{1,128}$',
      description: 'Its name in events: meterline/prometheus/<name>.',
    }),
    url: Type.String({
      minLength: 1,
      description:
        'Address of the server, with the path before /api/v1 if there is one; without a scheme it is https.',
    }),
    bearerToken: Type.Optional(Secret('Sent as Authorization: Bearer.')),
    basic: Type.Optional(
      Type.Object(
        {
          username: Type.String({ minLength: 1, description: 'Who asks.' }),
          password: Secret('Their password.'),
        },
        { additionalProperties: false, description: 'Sent as Authorization: Basic.' },
      ),
    ),
    headers: Type.Array(
      Type.Object(
        {
          name: Type.String({ pattern: '^[A-Za-z0-9-]{1,64}$', description: 'X-Scope-OrgID for instance.' }),
          value: Secret('Its value.', { literal: 'allowed' }),
        },
        { additionalProperties: false },
      ),
      { default: [], description: 'Headers sent with each call.' },
    ),
    tls: Type.Optional(
      Type.Object(
        {
          ca: Type.Optional(Secret('The authority to trust besides those of the system, PEM.')),
          cert: Type.Optional(Secret('The certificate to show, PEM.')),
          key: Type.Optional(Secret('Its key, PEM.')),
        },
        {
          additionalProperties: false,
          description: 'Certificates; files are read anew when they are rotated.',
        },
      ),
    ),
    presets: Type.Array(Type.Enum(presetNames), {
      default: [],
      uniqueItems: true,
      description:
        'Queries that come with Meterline. dcgm: GPUs by the DCGM exporter. kube-state-metrics: what containers request. cadvisor-network: bytes of pods.',
    }),
    presetSelector: Type.String({
      default: '',
      maxLength: 1024,
      description: 'Matchers added to each selector of the presets: `cluster="a"`.',
    }),
    presetIdle: Type.Enum(['leave_out', 'unattributed'], {
      default: 'leave_out',
      description: 'What the preset dcgm does with a GPU that nobody uses: see `queries[].withoutSubject`.',
    }),
    queries: Type.Array(QueryConfig, {
      default: [],
      description: 'What to read, each a scope. One of the name of a query of a preset stands in its place.',
    }),
    windowMinutes: Type.Enum([1, 5, 15, 30, 60], { default: 15, description: 'Width of the windows.' }),
    lateSeconds: Type.Integer({
      default: 60,
      minimum: 0,
      maximum: 3600,
      description:
        'How late samples may come: no window is read before so long after its end. At least twice the interval of scrapes.',
    }),
    rereadAfterMinutes: Type.Array(Type.Integer({ minimum: 1, maximum: 100_000 }), {
      default: [60],
      minItems: 1,
      description: 'When a window is read again, counted from its end: for samples that came later still.',
    }),
    lookbackMinutes: Type.Integer({
      default: 60,
      minimum: 5,
      maximum: 10_080,
      description:
        'counter: how far before the hour of a window its last sample is looked for. A series that was silent for longer begins anew.',
    }),
    upSelector: Type.String({
      default: 'up',
      maxLength: 1024,
      description:
        'A selector of series that have samples whenever the server scrapes: a window without any cannot be known. Empty where there is none such.',
    }),
    downTargets: Type.Enum(['gap', 'leave_out'], {
      default: 'gap',
      description:
        'gauge by `selector`: what a target did in a window in which it could not be scraped. gap: not known, a gap of each tenant that was seen there within the lookback. leave_out: nothing.',
    }),
    replicaLabel: Type.Optional(
      Type.String({
        minLength: 1,
        description:
          'The label in which the series of two servers that scrape the same differ, `prometheus_replica` for instance: of samples one replica counts. In a `query` write `max without (…)`.',
      }),
    ),
    retentionDays: Type.Integer({
      default: 15,
      minimum: 1,
      maximum: 36_500,
      description: 'How far back the server still answers: windows before are faulted, not taken for empty.',
    }),
    pageMinutes: Type.Integer({
      default: 60,
      minimum: 1,
      maximum: 1440,
      description:
        'How long a span of samples is asked for at once; what is too much for the server is halved.',
    }),
    concurrency: Type.Integer({
      default: 2,
      minimum: 1,
      maximum: 64,
      description: 'How many scopes are read at once.',
    }),
  },
  { additionalProperties: false },
)
export type PrometheusConfig = Static<typeof PrometheusConfig>

export const prometheus = defineSource({
  kind: 'prometheus',
  summary:
    'What any query of a Prometheus server counts: counters exactly, gauges times the time. With presets for DCGM, kube-state-metrics and cAdvisor.',
  config: PrometheusConfig,
  open(config: PrometheusConfig, context: SourceContext): Source<PrometheusItem> {
    const queries = new Map<string, Query>()
    for (const query of [
      ...queriesOf(config.presets, { matchers: config.presetSelector, idle: config.presetIdle }),
      ...config.queries,
    ]) {
      if (config.queries.filter(({ name }) => name === query.name).length > 1)
        throw new Fault('CONFIG_INVALID', `queries: two are named "${query.name}"`)
      checkQuery(query)
      queries.set(query.name, query)
    }
    if (queries.size === 0) throw new Fault('CONFIG_INVALID', 'neither presets nor queries say what to read')
    const api = openCalls(config, context)
    const retentionMs = config.retentionDays * dayMs
    const lateMs = config.lateSeconds * secondMs
    const reach = {
      lookbackMs: config.lookbackMinutes * minuteMs,
      lateMs,
      upSelector: config.upSelector.trim(),
      replicaLabel: config.replicaLabel,
      downTargets: config.downTargets,
    }
    return {
      widthMinutes: config.windowMinutes,
      settleDelayMs: lateMs,
      rereadAfterMs: rereadsAfter(config.rereadAfterMinutes),
      retentionMs,
      concurrency: config.concurrency,
      async scopes(signal) {
        stopIfAborted(signal)
        return [...queries.keys()].map(scope => ({ scope }))
      },
      async *read(scope, window, signal) {
        stopIfAborted(signal)
        const facts = { scope }
        const query = queries.get(scope)
        if (query === undefined)
          throw new Fault('SOURCE_MISSING', `scope "${scope}" is none of the queries of this source`, facts)
        const { lateSeconds, retentionDays } = config
        checkKnowable(scope, window, { nowMs: context.nowMs(), retentionDays, lateSeconds })
        const answer = await readAnswer(api, query, window, reach, { signal, about: scope, facts })
        for (const item of itemsOf(query, window, answer)) {
          stopIfAborted(signal)
          yield item
        }
      },
      toUsage(item) {
        const query = queries.get(item.query)
        const { subject, resource, labels, parts, estimated, unfit } = item
        if (query === undefined || subject === undefined || resource === undefined || unfit !== undefined)
          throw new Fault('ITEM_UNREADABLE', unfit ?? `${item.query}: a series that is nobody's`, {
            ...(subject !== undefined && { subject }),
            ...(resource !== undefined && { resource: resource.id }),
          })
        return [
          {
            thing: query.thing,
            subject,
            resource: { kind: query.resourceKind, ...resource },
            measures: { [query.measure]: shownAmount(item) },
            labels,
            ...(parts > 1 && { parts }),
            ...(estimated && { estimated }),
          },
        ]
      },
      check: signal =>
        findings(api, [...queries.values()], { ...config, lateMs, nowMs: context.nowMs() }, signal),
      async [Symbol.asyncDispose]() {},
    }
  },
})

/** A value may have more places than an event holds; counters and gauges have not. */
function shownAmount({ amount }: PrometheusItem): string {
  const text = showQuantity(amount)
  return /\.\d{13}/.test(text) ? showRounded(amount, 12).replace(/\.?0+$/, '') : text
}

const secretReference = new RegExp(secretShape)

function openCalls(config: PrometheusConfig, context: SourceContext): Api {
  const { bearerToken, basic, tls } = config
  if (bearerToken !== undefined && basic !== undefined)
    throw new Fault('CONFIG_INVALID', 'bearerToken and basic exclude each other')
  const file = (reference: string | undefined) => reference !== undefined && context.secret(reference)
  const http = tls
    ? context.client({
        concurrency: config.concurrency,
        tls: () => {
          const [ca, cert, key] = [file(tls.ca), file(tls.cert), file(tls.key)]
          return { ...(ca && { ca }), ...(cert && { cert }), ...(key && { key }) }
        },
      })
    : context.http
  return openApi({
    http,
    base: baseOf(config.url),
    pageMs: config.pageMinutes * minuteMs,
    headers: () => {
      const headers: Record<string, string> = {}
      const secrets: string[] = []
      for (const { name, value } of config.headers) {
        const text = secretReference.test(value) ? context.secret(value) : value
        headers[name.toLowerCase()] = text
        secrets.push(text)
      }
      if (bearerToken !== undefined) {
        const token = context.secret(bearerToken)
        headers.authorization = `Bearer ${token}`
        secrets.push(token)
      }
      if (basic !== undefined) {
        const password = context.secret(basic.password)
        const encoded = Buffer.from(`${basic.username}:${password}`, 'utf8').toString('base64')
        headers.authorization = `Basic ${encoded}`
        secrets.push(password, encoded)
      }
      return { headers, secrets }
    },
  })
}

/** Also where it was written with the path of the API. */
function baseOf(text: string): string {
  const like = { option: 'url', what: 'the server', example: 'prometheus.example.com:9090' }
  return baseUrl(text, like).replace(/\/api\/v1$/, '')
}
