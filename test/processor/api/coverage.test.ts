/** `GET /api/v1/coverage` on a real ledger: the rows, and what it refuses. The whole way is in test/deploy/decide.daemon.long.test.ts. */
import { Registry } from 'prom-client'
import { expect, test } from 'vitest'
import { accept } from '../../../processor/accept.ts'
import { openApi } from '../../../processor/api/api.ts'
import { coverageRoutes, rowsMax } from '../../../processor/api/coverage.ts'
import { Ledger } from '../../../processor/ledger.ts'
import { Store } from '../../../processor/store.ts'
import { Health, serveHealth } from '../../../runtime/health.ts'
import { hourMs, minuteMs } from '../../../schemas/window.ts'
import { batchOf, instance, june1Ms, readEvents, testSource } from '../../reads.ts'
import { startClickHouse } from '../../rig/clickhouse.ts'

test('answers rows, of an account what it waits for, and refuses what is wrong or too much', async () => {
  await using rig = await startClickHouse()
  await using store = await Store.open({ ...rig, database: `api_${process.pid}` })
  await using server = await serveHealth({
    health: new Health(),
    registry: new Registry(),
    host: '127.0.0.1',
    port: 0,
  })
  const account = (id: string, subject: string) => ({
    id,
    currency: 'USD',
    timezone: 'UTC',
    priceBook: 'list',
    subjects: [{ source: testSource, subject }],
  })
  const routes = coverageRoutes({
    store,
    accounts: async () => [account('one', 'a'), account('two', 'b')],
    nowMs: () => june1Ms + 2 * hourMs + 2 * minuteMs,
  })
  const grant = { name: 'k', scopes: ['read'], account: 'one', sources: [], subjects: [] } as const
  const keys = { authorize: () => grant }
  await using _api = await openApi({ mount: server.mount, routes: [routes], access: 'loopback', keys })
  const read = (scope: string, subject: string, startMs: number) => {
    const window = { startMs, endMs: startMs + minuteMs }
    return readEvents({ source: testSource, scope, window, readatMs: window.endMs }, [
      instance(subject, 'i', '60'),
    ])
  }
  // Two scopes of a tenant each, in windows of a minute; one since the beginning of June, one for two months before.
  const early = june1Ms - 60 * 24 * hourMs
  const events = [...read('a', 'a', june1Ms), ...read('b', 'b', early)]
  await new Ledger(store, 'log').put([accept(batchOf(events, 0), 'log')])

  const get = async (query: Record<string, string>) => {
    const response = await fetch(`${server.url}/api/v1/coverage?${new URLSearchParams(query)}`)
    return { status: response.status, body: await response.json() }
  }
  const [from, to] = ['2025-06-01T00:00:00Z', '2025-06-01T00:02:00Z']
  const first = { source: testSource, start: from, end: '2025-06-01T00:01:00Z' }
  expect(await get({ from, to })).toMatchObject({
    status: 200,
    body: [
      { ...first, scope: 'a', state: 'settled' },
      { scope: 'a', state: 'never' },
      { scope: 'b', state: 'never' },
      { scope: 'b', state: 'never' },
    ],
  })
  const scopesOf = async (query: Record<string, string>) =>
    ((await get({ from, to, ...query })).body as { scope: string }[]).map(({ scope }) => scope)
  expect(await scopesOf({ account: 'one' })).toEqual(['a', 'a'])
  expect(await scopesOf({ account: 'two' })).toEqual(['b', 'b'])
  expect(await scopesOf({ source: 'test', scope: 'b' })).toEqual(['b', 'b'])

  const much = await get({ from: '2025-04-02T00:00:00Z', to })
  const detail = expect.stringMatching(new RegExp(`^these are 8\\d{4} rows, and ${rowsMax} is the most`))
  expect(much).toMatchObject({ status: 400, body: { code: 'USAGE', detail } })
  for (const wrong of [{ from: to, to: from }, { from: 'June' }, { form: from }, { limit: '0' }])
    expect(await get(wrong)).toMatchObject({ status: 400 })
  expect(await get({ account: 'none' })).toMatchObject({ status: 404, body: { code: 'NOT_THERE' } })

  // In pages of any size the same rows, also more of them than one answer may have.
  const all = (await get({ from, to })).body
  const paged: unknown[] = []
  let next: string | undefined = `/api/v1/coverage?${new URLSearchParams({ from, to, limit: '3' })}`
  while (next !== undefined) {
    const response: Response = await fetch(`${server.url}${next}`)
    paged.push(...((await response.json()) as unknown[]))
    next = /^<([^>]+)>; rel="next"$/.exec(response.headers.get('link') ?? '')?.[1]
  }
  expect(paged).toEqual(all)
  const page = await get({ from: '2025-04-02T00:00:00Z', to, limit: '2', offset: '80000' })
  expect(page).toMatchObject({ status: 200, body: [{ scope: 'b' }, { scope: 'b' }] })
  const csv = await fetch(`${server.url}/api/v1/coverage?${new URLSearchParams({ from, to, format: 'csv' })}`)
  expect(csv.headers.get('content-type')).toBe('text/csv; charset=utf-8')
  expect((await csv.text()).split('\r\n').slice(0, 2)).toEqual([
    'source,scope,start,end,state,subject,fault_code,fault_message,partition',
    `${testSource},a,2025-06-01T00:00:00Z,2025-06-01T00:01:00Z,settled,,,,`,
  ])

  // Who is bound to an account sees where its own was read, not by which names, and nothing of another.
  const own = async (query: Record<string, string>) => {
    const url = `${server.url}/api/v1/coverage?${new URLSearchParams({ from, to, ...query })}`
    const response = await fetch(url, { headers: { authorization: 'Bearer of-one' } })
    const body = await response.json()
    return {
      status: response.status,
      body: JSON.parse(JSON.stringify(body).replace(/urn:request:[^"]+/, '')),
    }
  }
  const mine = [
    { ...first, scope: '', state: 'settled' },
    { source: testSource, scope: '', start: first.end, end: to, state: 'never' },
  ]
  expect(await own({})).toEqual({ status: 200, body: mine })
  expect(await own({ account: 'one' })).toEqual({ status: 200, body: mine })
  expect(await own({ scope: 'a' })).toEqual({ status: 200, body: [] })
  const [theirs, nobodys] = [await own({ account: 'two' }), await own({ account: 'six' })]
  expect(theirs.status).toBe(404)
  expect(JSON.stringify(theirs).replaceAll('two', 'six')).toBe(JSON.stringify(nobodys))
})
