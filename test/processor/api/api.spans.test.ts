/** The spans of requests as a real SDK of OpenTelemetry exports them, to whoever loads one. */
import { context, propagation, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api'
import {
  InMemorySpanExporter,
  NodeTracerProvider,
  type ReadableSpan,
  SimpleSpanProcessor,
} from '@opentelemetry/sdk-trace-node'
import { Registry } from 'prom-client'
import Type from 'typebox'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type Api, openApi } from '../../../processor/api/api.ts'
import { route } from '../../../processor/api/route.ts'
import { Health, serveHealth } from '../../../runtime/health.ts'

const exporter = new InMemorySpanExporter()
const provider = new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] })
let served: Awaited<ReturnType<typeof serveHealth>>
let api: Api

beforeAll(async () => {
  // After the API was loaded, as it may be with an SDK that begins late.
  provider.register()
  served = await serveHealth({ health: new Health(), registry: new Registry(), host: '127.0.0.1', port: 0 })
  const declared = {
    scope: 'read',
    tags: ['things'],
    summary: 'Tests',
    answers: { 200: { description: 'Something.', body: Type.Any() } },
  } as const
  const body = Type.Object({ name: Type.String() })
  api = await openApi({
    mount: served.mount,
    access: 'loopback',
    routes: [
      app => {
        // As an instrumented client of a store does.
        const inside = async () => {
          await new Promise(resolve => setTimeout(resolve, 1))
          trace.getTracer('store').startSpan('select').end()
          return ['done']
        }
        route(app, { ...declared, method: 'GET', url: '/api/v1/things/:id' }, inside)
        route(app, { ...declared, method: 'POST', url: '/api/v1/things', body }, inside)
        route(app, { ...declared, method: 'GET', url: '/api/v1/broken' }, async () => {
          throw new Error('what is wrong inside')
        })
      },
    ],
  })
})
beforeEach(() => exporter.reset())
afterAll(async () => {
  await api?.[Symbol.asyncDispose]()
  await served?.[Symbol.asyncDispose]()
  await provider.shutdown()
  for (const each of [trace, context, propagation]) each.disable()
})

/** What was exported of a request, when it has ended. */
async function spansOf(path: string, init: RequestInit = {}): Promise<readonly ReadableSpan[]> {
  await (await fetch(served.url + path, init)).text()
  await expect
    .poll(() => exporter.getFinishedSpans().filter(({ kind }) => kind === SpanKind.SERVER).length)
    .toBe(1)
  return exporter.getFinishedSpans()
}
const serverSpan = (spans: readonly ReadableSpan[]) => spans.find(({ kind }) => kind === SpanKind.SERVER)!

test('a request is a span of its route, its id and its status, in the trace of who asks', async () => {
  const [traceId, parent] = ['ab'.repeat(16), 'cd'.repeat(8)]
  const span = serverSpan(
    await spansOf('/api/v1/things/7', {
      headers: { 'x-request-id': 'mine/1', traceparent: `00-${traceId}-${parent}-01` },
    }),
  )
  expect(span.name).toBe('GET /api/v1/things/:id')
  expect(span.attributes).toEqual({
    'http.request.method': 'GET',
    'http.route': '/api/v1/things/:id',
    'meterline.request.id': 'mine/1',
    'http.response.status_code': 200,
  })
  expect(span.spanContext().traceId).toBe(traceId)
  expect(span.parentSpanContext?.spanId).toBe(parent)
  expect(span.status.code).toBe(SpanStatusCode.UNSET)
  expect(span.instrumentationScope.name).toBe('meterline')
})

test.each([
  ['without a body', '/api/v1/things/7', {}],
  [
    'with a body',
    '/api/v1/things',
    { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"name":"a"}' },
  ],
] as const)('what is done for a request is below its span: %s', async (_, path, init) => {
  const spans = await spansOf(path, init)
  const child = spans.find(({ name }) => name === 'select')
  expect(child?.parentSpanContext?.spanId).toBe(serverSpan(spans).spanContext().spanId)
})

test('a failure inside is an error of its span, with what is wrong; one of who asks is not', async () => {
  const broken = serverSpan(await spansOf('/api/v1/broken'))
  expect(broken.status.code).toBe(SpanStatusCode.ERROR)
  expect(broken.attributes['http.response.status_code']).toBe(500)
  expect(broken.events.map(({ attributes }) => attributes?.['exception.message'])).toEqual([
    'what is wrong inside',
  ])
  exporter.reset()
  const unknown = serverSpan(await spansOf('/api/v1/nothing'))
  expect(unknown.status.code).toBe(SpanStatusCode.UNSET)
  expect(unknown.attributes['http.response.status_code']).toBe(404)
})
