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
  await using _api = await openApi({ mount: server.mount, routes: [routes], access: 'loopback' })
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
  for (const wrong of [{ from: to, to: from }, { from: 'June' }, { account: 'none' }, { form: from }])
    expect(await get(wrong)).toMatchObject({ status: 400 })
})
