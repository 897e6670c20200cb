/** `GET /api/v1/usage`: one answer in all its forms, cut short by nobody unseen. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { usage } from '../../../processor/usage.ts'
import type { UsageRow } from '../../../schemas/meters.ts'
import { dayMs, hourMs, showInstant } from '../../../schemas/window.ts'
import { startClickHouse } from '../../rig/clickhouse.ts'
import { lateFromMs, meter, type Planted, plant, span, startMs } from './usage-planted.ts'

let planted: Planted
beforeAll(async () => {
  planted = await plant(await startClickHouse(), 500)
})
afterAll(async () => {
  await planted?.[Symbol.asyncDispose]()
})

const ofThisTest = "query like '%window_ms%' and query not like '%system.processes%'"

/** Statements of this test that ClickHouse works on. */
async function running(): Promise<number> {
  const [row] = await planted.store.rows<{ running: string }>(
    `select count() as running from system.processes where ${ofThisTest}`,
  )
  return Number(row?.running)
}

async function eventually(holds: () => Promise<boolean>): Promise<void> {
  const untilMs = performance.now() + 10_000
  while (!(await holds())) {
    if (performance.now() > untilMs) throw new Error('it did not come to pass')
    await sleep(50)
  }
}

/** Rows a second: all of them would take a quarter of a minute. */
const slow = 20_000

const day = { to: showInstant(startMs + dayMs), subject: 's0003' }

test('JSON, CSV and pages say what the command says', async () => {
  await using server = await planted.serve()
  for (const query of [{ window: 'HOUR' }, { window: 'DAY', groupBy: 'gpu_type,subject' }, { groupBy: '' }]) {
    const rows = (await (await server.ask({ ...day, ...query })).json()) as UsageRow[]
    expect(rows).toEqual(
      await usage(planted.store, {
        meter,
        span: { startMs, endMs: startMs + dayMs },
        zone: 'UTC',
        groupBy: query.groupBy?.startsWith('gpu') ? ['gpu_type'] : [],
        ...(query.groupBy !== undefined && { keep: { source: false, subject: query.groupBy !== '' } }),
        where: {},
        subjects: ['s0003'],
        ...(query.window && { step: query.window }),
      }),
    )
    expect(rows.length).toBeGreaterThan(0)
    const csv = await server.ask({ ...day, ...query }, { headers: { accept: 'text/csv' } })
    expect(csv.headers.get('content-type')).toContain('text/csv')
    expect(await csv.text()).toBe(await (await server.ask({ ...day, ...query, format: 'csv' })).text())
    const paged: UsageRow[] = []
    let next: string | undefined =
      `/api/v1/usage?${new URLSearchParams({ meter: 'seconds', ...span, ...day, ...query, limit: '5' })}`
    while (next !== undefined) {
      const page = await fetch(`${server.url}${next}`)
      const of = (await page.json()) as UsageRow[]
      expect(of.length).toBeLessThanOrEqual(5)
      paged.push(...of)
      next = /^<([^>]+)>; rel="next"$/.exec(page.headers.get('link') ?? '')?.[1]
    }
    expect(paged).toEqual(rows)
  }
})

test('a CSV row is one however odd its texts are', async () => {
  await using server = await planted.serve()
  const csv = await (await server.ask({ ...day, groupBy: 'gpu_type', format: 'csv' })).text()
  expect(csv.split('\n')).toEqual([
    'meter,window_start,window_end,source,subject,gpu_type,value,unit,split',
    `seconds,${span.from},${day.to},,,"H100, ""big""",0.027222222222,h,`,
    `seconds,${span.from},${day.to},,,L40,0.054444444444,h,`,
    '',
  ])
})

test('filters, and the largest of each window', async () => {
  await using server = await planted.serve()
  const of = async (query: Record<string, string>) =>
    ((await (await server.ask(query)).json()) as UsageRow[]).map(row => [row.subject, row.value])
  const hour = { to: showInstant(startMs + 2 * hourMs), window: 'HOUR', top: '2' }
  // Cell number n of the hour has 3 × (1 + n % 7): of equal values the first by name comes first.
  expect(await of(hour)).toEqual([
    ['s0006', '0.005833333333'],
    ['s0013', '0.005833333333'],
    ['s0003', '0.005833333333'],
    ['s0010', '0.005833333333'],
  ])
  const where = JSON.stringify({ gpu_type: { $like: 'H%' } })
  expect(await of({ ...day, groupBy: 'subject', where })).toEqual([['s0003', '0.027222222222']])
  expect(await of({ ...day, groupBy: 'subject', 'filter[gpu_type]': 'L40' })).toEqual([
    ['s0003', '0.054444444444'],
  ])
  expect(await of({ ...day, groupBy: 'subject', 'filter[gpu_type]': 'none' })).toEqual([])
})

test.each([
  [{ window: 'P1DT1H' }, 400, 'USAGE'],
  [{ window: 'PT1S' }, 400, 'USAGE'],
  [{ zone: 'Europe/Atlantis' }, 400, 'USAGE'],
  [{ to: span.from }, 400, 'USAGE'],
  [{ where: '{"gpu_type":{"$near":"H"}}' }, 400, 'USAGE'],
  [{ cursor: 'bm9uZQ' }, 400, 'USAGE'],
  [{ cursor: Buffer.from('[1,"a"]').toString('base64url'), limit: '5' }, 400, 'USAGE'],
  [{ groupBy: 'colour' }, 404, 'METER_UNKNOWN'],
  [{ subject: 's0001', format: 'xml' }, 400, 'USAGE'],
])('%j is refused with %s %s', async (query, status, code) => {
  await using server = await planted.serve()
  const answer = await server.ask(query as Record<string, string>)
  expect([answer.status, ((await answer.json()) as { code: string }).code]).toEqual([status, code])
})

test('whoever leaves in the middle ends the statement, and the next question has its turn', async () => {
  await using server = await planted.serve({ concurrency: 1, queued: 0 })
  const client = new AbortController()
  const answer = await server.ask({ window: 'HOUR' }, { signal: client.signal })
  const reader = answer.body!.getReader()
  await reader.read()
  expect(await running()).toBe(1)
  const [asked] = await planted.store.rows<{ settings: Record<string, string> }>(
    `select Settings as settings from system.processes where ${ofThisTest}`,
  )
  expect(asked?.settings).toMatchObject({
    max_threads: '1',
    priority: '2',
    os_threads_nice_value_query: '10',
  })
  // It is made by now, and only handed out: its turn is over.
  expect((await server.ask(day)).status).toBe(200)
  client.abort()
  await eventually(async () => (await running()) === 0)
})

test.each(['usage?window=HOUR&meter=seconds', 'line-items?'])(
  'whoever leaves before the first row of %s ends the statement',
  async asked => {
    await using server = await planted.serve({ concurrency: 1, queued: 0 }, slow)
    const client = new AbortController()
    const address = `${server.url}/api/v1/${asked}&${new URLSearchParams(span)}`
    const answer = fetch(address, { signal: client.signal }).catch((error: Error) => error.name)
    await eventually(async () => (await running()) === 1)
    expect((await server.ask(day)).status).toBe(503)
    client.abort()
    await eventually(async () => (await running()) === 0)
    expect(await answer).toBe('AbortError')
    const untilMs = performance.now() + 1000
    while ((await server.ask({ ...day, to: span.from.replace('T00', 'T01') })).status !== 200)
      expect(performance.now()).toBeLessThan(untilMs)
  },
)

test('an answer that fails in the middle breaks off: nobody takes it for whole', async () => {
  await using server = await planted.serve()
  const answer = await server.ask({ window: 'HOUR' })
  expect(answer.status).toBe(200)
  const reader = answer.body!.getReader()
  await reader.read()
  await planted.store.run(`kill query where ${ofThisTest} async`)
  const rest = async () => {
    while (!(await reader.read()).done);
  }
  await expect(rest()).rejects.toThrow('terminated')
})

test.each([
  ['usage?window=DAY&meter=seconds&groupBy=gpu_type,subject', { memoryBytes: 1_000_000 }, 'memory'],
  ['line-items?', { memoryBytes: 1_000_000 }, 'memory'],
  ['line-items?', { seconds: 1 }, 'longer than 1 s'],
])('%s beyond %j is refused with words for it', async (asked, bounds, words) => {
  await using server = await planted.serve(bounds, 'seconds' in bounds ? slow : undefined)
  const answer = await fetch(`${server.url}/api/v1/${asked}&${new URLSearchParams(span)}`)
  expect([answer.status, await answer.json()]).toEqual([
    422,
    expect.objectContaining({
      code: 'QUERY_TOO_LARGE',
      retryable: false,
      detail: expect.stringContaining(words),
    }),
  ])
})

test('where too many wait the answer is 503, and when to come again', async () => {
  await using server = await planted.serve({ concurrency: 1, queued: 0 })
  const { promise, resolve } = Promise.withResolvers<void>()
  const slow = server.queries.ask(new AbortController().signal, async function* () {
    await promise
    yield 1
  })
  const first = slow.next()
  const answer = await server.ask(day)
  expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '2'])
  expect(((await answer.json()) as { code: string }).code).toBe('QUERY_BUSY')
  resolve()
  await first
  expect((await server.ask(day)).status).toBe(200)
})

test('of a meter that begins in the span only what came since then counts, and of one that begins later nothing', async () => {
  await using server = await planted.serve()
  const rows = async (query: Record<string, string>) =>
    (await (await server.ask({ subject: 's0003', ...query })).json()) as UsageRow[]
  const sinceThen = await rows({ from: showInstant(lateFromMs), to: day.to })
  expect(sinceThen).toHaveLength(1)
  expect(await rows({ meter: 'late', to: day.to })).toEqual(sinceThen)
  expect((await rows({ to: day.to }))[0]?.value).not.toBe(sinceThen[0]?.value)
  expect(await rows({ meter: 'late', to: showInstant(lateFromMs) })).toEqual([])
})
