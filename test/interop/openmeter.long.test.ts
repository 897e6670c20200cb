/**
 * `meterline up` as users of OpenMeter meet it: its quickstart with the JS client, and every call of the published Python
 * client, both unmodified and with a key. What Python sends and cannot read otherwise is told by driver.py.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { OpenMeter } from '@openmeter/sdk'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { stringify } from 'yaml'
import { asDaemon, type Daemon, freePort } from '../deploy/daemons.ts'
import { start } from '../rig/meterline.ts'
import { openMeterPython, type Sdk } from '../rig/sdks.ts'
import { strayed } from './openmeter.ts'

const key = 'om-0123456789abcdefghijklmnop'
const dir = mkdtempSync(join(tmpdir(), 'meterline-openmeter-'))
let daemon: Daemon
let python: Sdk
beforeAll(async () => {
  const port = await freePort()
  const file = join(dir, 'meterline.yaml')
  const keys = [
    {
      name: 'app',
      key: '${env:APP_KEY}',
      scopes: ['ingest', 'read', 'admin'],
      sources: ['*'],
      subjects: ['*'],
    },
  ]
  writeFileSync(file, stringify({ data: join(dir, 'data'), listen: { port, push: true }, keys }))
  daemon = asDaemon(start(['--config', file, 'up'], { cwd: dir, env: { APP_KEY: key } }), port)
  ;[python] = await Promise.all([openMeterPython(), daemon.ready()])
}, 300_000)
afterAll(async () => {
  await daemon?.stop()
  rmSync(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 })
})

/** Asks until it holds: what was acknowledged is in the answers a moment later. */
async function soon(holds: () => Promise<void>): Promise<void> {
  await vi.waitFor(holds, { timeout: 60_000, interval: 200 })
}

test("the quickstart of OpenMeter's JS client", async () => {
  const openmeter = new OpenMeter({ baseUrl: daemon.url, apiKey: key })
  await openmeter.meters.create({
    slug: 'api_requests_total',
    description: 'API Requests',
    eventType: 'request',
    aggregation: 'COUNT',
    groupBy: { method: '$.method', route: '$.route' },
  })
  for (const [index, method] of ['GET', 'GET', 'POST'].entries())
    await openmeter.events.ingest({
      id: `00${index}`,
      type: 'request',
      source: 'my-service',
      subject: 'customer-1',
      time: new Date(`2026-01-01T00:0${index}:00Z`),
      data: { method, route: '/hello' },
    })
  // Sent again, as a client would that did not hear the answer.
  await openmeter.events.ingest({
    id: '000',
    type: 'request',
    source: 'my-service',
    subject: 'customer-1',
    time: new Date('2026-01-01T00:00:00Z'),
    data: { method: 'GET', route: '/hello' },
  })
  await soon(async () => {
    const result = await openmeter.meters.query('api_requests_total', {
      windowSize: 'HOUR',
      groupBy: ['method', 'route'],
      subject: ['customer-1'],
    })
    const row = (method: string, value: number) => ({
      value,
      subject: 'customer-1',
      windowStart: new Date('2026-01-01T00:00:00Z'),
      windowEnd: new Date('2026-01-01T01:00:00Z'),
      groupBy: { method, route: '/hello' },
    })
    expect(result).toMatchObject({ windowSize: 'HOUR', data: [row('GET', 2), row('POST', 1)] })
  })
  const stranger = new OpenMeter({ baseUrl: daemon.url, apiKey: 'om-not-a-key-that-is-known-here' })
  await expect(stranger.meters.list()).rejects.toMatchObject({ status: 401 })
})

interface Told {
  readonly value?: unknown
  readonly error?: {
    readonly name: string
    readonly status: number
    readonly model: { readonly detail: string }
  }
  readonly wire: readonly {
    readonly sent: { readonly method: string; readonly url: string; readonly type: string | null }
    readonly got: {
      readonly status: number
      readonly type: string | null
      readonly disposition: string | null
      readonly body: string
    }
  }[]
}

interface Call {
  readonly call: string
  readonly args?: readonly unknown[]
  readonly kwargs?: Readonly<Record<string, unknown>>
}

async function ask(calls: readonly Call[], token = key): Promise<readonly Told[]> {
  const answers = await python.ask<readonly Told[]>({ url: daemon.url, token, calls })
  const exchanges = answers.flatMap(({ wire }) =>
    wire.map(({ sent, got }) => ({
      method: sent.method,
      url: sent.url,
      status: got.status,
      type: got.type,
      body: got.body,
    })),
  )
  expect(exchanges.flatMap(strayed)).toEqual([])
  return answers
}

const event = (id: string, subject: string, data: object) => ({
  ...{ specversion: '1.0', id, source: 'py', type: 'prompt', subject, data },
  time: `2026-02-01T08:0${id}:00Z`,
})
const [from, to] = [{ $time: '2026-02-01T00:00:00+00:00' }, { $time: '2026-02-02T00:00:00+00:00' }]
const span = { from_parameter: from, to }

const slugsOf = (told?: Told) => (told?.value as { slug: string }[] | undefined)?.map(({ slug }) => slug)
const idsOf = (told?: Told) =>
  (told?.value as { event: { id: string } }[] | undefined)?.map(({ event: { id } }) => id)

test("every call of OpenMeter's Python client", async () => {
  const meter = {
    slug: 'prompts',
    eventType: 'prompt',
    aggregation: 'SUM',
    valueProperty: '$.tokens',
    groupBy: { model: '$.model' },
  }
  const written = await ask([
    { call: 'meters.create', args: [meter] },
    {
      call: 'events.ingest_event',
      args: [event('1', 'acme', { tokens: 1.5, model: "it's" })],
    },
    {
      call: 'events.ingest_events',
      args: [[event('2', 'acme', { tokens: '2', model: 'y' })]],
    },
    {
      call: 'events.ingest_events_json',
      args: [[event('3', 'b', { tokens: 3, model: 'y' })]],
    },
    { call: 'subjects.upsert', args: [[{ key: 'acme', displayName: 'Acme', metadata: { tier: 'gold' } }]] },
  ])
  expect(written.map(({ error }) => error)).toEqual(written.map(() => undefined))
  expect(written.slice(1, 4).map(({ wire: [exchange] }) => exchange?.sent.type)).toEqual([
    'application/cloudevents+json',
    'application/cloudevents-batch+json',
    'application/json',
  ])
  await soon(async () => {
    const [{ value }] = (await ask([{ call: 'meters.query_json', args: ['prompts'] }])) as [Told]
    expect(value).toMatchObject({ data: [{ value: 6.5 }] })
  })

  const found = await ask([
    {
      call: 'meters.list',
      kwargs: { page_size: 1000, order: 'DESC', order_by: 'createdAt', include_deleted: true },
    },
    { call: 'meters.get', args: ['prompts'] },
    {
      call: 'meters.query_json',
      args: ['prompts'],
      kwargs: { ...span, window_size: 'DAY', filter_group_by: { model: "it's" } },
    },
    {
      call: 'meters.query_json',
      args: ['prompts'],
      kwargs: { group_by: ['model'], subject: ['acme', 'b'], window_time_zone: 'Asia/Kolkata' },
    },
    {
      call: 'meters.query_json',
      args: ['prompts'],
      kwargs: { advanced_meter_group_by_filters: { model: { $ne: 'y' } } },
    },
    { call: 'meters.query_csv', args: ['prompts'], kwargs: { ...span, group_by: ['model', 'subject'] } },
    { call: 'meters.query', args: ['prompts', { groupBy: ['subject'], filterGroupBy: { model: ['y'] } }] },
    { call: 'meters.query_csv_post', args: ['prompts'] },
    { call: 'meters.list_subjects', args: ['prompts'], kwargs: span },
    { call: 'meters.list_group_by_values', args: ['prompts', 'model'], kwargs: span },
    { call: 'events.list', kwargs: { ...span, subject: 'acm', limit: 1 } },
    { call: 'events_v2.list', kwargs: { limit: 1, filter: { type: { $eq: 'prompt' } } } },
    { call: 'subjects.list' },
    { call: 'subjects.get', args: ['acme'] },
  ])
  expect(found.map(({ error }) => error)).toEqual(found.map(() => undefined))
  const [
    meters,
    got,
    byDict,
    bySubject,
    byJson,
    csv,
    posted,
    postedCsv,
    subjects,
    values,
    events,
    pages,
    noted,
    one,
  ] = found
  expect(slugsOf(meters)).toContain('gpu_hours')
  expect(got?.value).toMatchObject({ slug: 'prompts', aggregation: 'SUM', groupBy: { model: '$.model' } })
  expect(byDict?.value).toMatchObject({
    windowSize: 'DAY',
    data: [{ value: 1.5, windowStart: '2026-02-01T00:00:00Z' }],
  })
  expect(bySubject?.value).toMatchObject({
    data: [
      { value: 1.5, subject: 'acme', groupBy: { model: "it's" } },
      { value: 2, subject: 'acme', groupBy: { model: 'y' } },
      { value: 3, subject: 'b', groupBy: { model: 'y' } },
    ],
  })
  expect(byJson?.value).toMatchObject({ data: [{ value: 1.5, subject: null, groupBy: {} }] })
  expect(csv?.value).toBe(
    [
      'window_start,window_end,subject,model,value',
      "2026-02-01T00:00:00Z,2026-02-02T00:00:00Z,acme,it's,1.5",
      '2026-02-01T00:00:00Z,2026-02-02T00:00:00Z,acme,y,2',
      '2026-02-01T00:00:00Z,2026-02-02T00:00:00Z,b,y,3',
      '',
    ].join('\n'),
  )
  expect(csv?.wire[0]?.got).toMatchObject({
    type: 'text/csv',
    disposition: 'attachment; filename=prompts.csv',
  })
  expect(posted?.value).toMatchObject({
    data: [
      { value: 2, subject: 'acme' },
      { value: 3, subject: 'b' },
    ],
  })
  expect(postedCsv?.value).toMatch(/^window_start,window_end,subject,value\n.*,,6\.5\n$/)
  expect(subjects?.value).toEqual(['acme', 'b'])
  expect(values?.value).toEqual(["it's", 'y'])
  expect(events?.value).toMatchObject([{ event: { id: '2', subject: 'acme', data: { tokens: '2' } } }])
  // The client follows the cursor by itself.
  expect(idsOf(pages)).toEqual(['3', '2', '1'])
  expect(pages?.wire).toHaveLength(3)
  expect(noted?.value).toMatchObject([{ key: 'acme', displayName: 'Acme' }])
  expect(one?.value).toMatchObject({ key: 'acme', metadata: { tier: 'gold' } })

  const ended = await ask([
    { call: 'meters.update', args: ['prompts', { name: 'Prompts', metadata: { team: 'ml' } }] },
    { call: 'meters.delete', args: ['prompts'] },
    { call: 'meters.get', args: ['prompts'] },
    { call: 'meters.delete', args: ['gpu_hours'] },
    { call: 'meters.query_json', args: ['gpu_hours'], kwargs: { group_by: ['colour'] } },
    { call: 'subjects.delete', args: ['acme'] },
    { call: 'events.ingest_events', args: [[{ id: '9' }]] },
  ])
  expect(ended.map(({ error }) => error && [error.name, error.status])).toEqual([
    undefined,
    undefined,
    ['ResourceNotFoundError', 404],
    ['ResourceExistsError', 409],
    ['HttpResponseError', 400],
    undefined,
    ['HttpResponseError', 400],
  ])
  expect(ended[0]?.value).toMatchObject({
    name: 'Prompts',
    metadata: { team: 'ml' },
    groupBy: { model: '$.model' },
  })
  expect(ended[4]?.error?.model.detail).toContain('has no dim "colour"')
  const [stranger] = await ask([{ call: 'meters.list' }], 'om-not-a-key-that-is-known-here')
  expect(stranger?.error).toMatchObject({ name: 'ClientAuthenticationError', status: 401 })
})
