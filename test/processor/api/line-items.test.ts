/** What usage costs, over HTTP, on a real ledger: the lines of the command, their sums, and what cannot be priced. */
import { Registry } from 'prom-client'
import { expect, test } from 'vitest'
import { accountRoutes } from '../../../processor/api/accounts.ts'
import { openApi } from '../../../processor/api/api.ts'
import { lineItemRoutes } from '../../../processor/api/line-items.ts'
import { statusRoutes } from '../../../processor/api/status.ts'
import { type Billing, bill } from '../../../processor/billing.ts'
import { Queries } from '../../../processor/queries.ts'
import { Health, serveHealth } from '../../../runtime/health.ts'
import { hourMs } from '../../../schemas/window.ts'
import { june1Ms } from '../../reads.ts'
import { startClickHouse } from '../../rig/clickhouse.ts'
import { billing as planted, World } from '../planted.ts'

test('prices the month so far as the command does, in pages and as CSV, and names what it cannot price', async () => {
  await using rig = await startClickHouse()
  await using world = await (await World.open(rig)).fill()
  const [acme] = planted.accounts
  const other = { ...acme!, id: 'umbrella', subjects: [{ ...acme!.subjects[0]!, subject: 'nobody' }] }
  let billing: Billing = { ...planted, accounts: [other, acme!] }
  await using server = await serveHealth({
    health: new Health(),
    registry: new Registry(),
    host: '127.0.0.1',
    port: 0,
  })
  const nowMs = () => june1Ms + 5 * hourMs
  const queries = new Queries({ seconds: 60, memoryBytes: 1e9, concurrency: 2, queued: 10 })
  const routes = [
    lineItemRoutes({ store: world.store, billing: async () => billing, queries, nowMs }),
    accountRoutes({ accounts: async () => billing.accounts }),
    statusRoutes({
      store: world.store,
      nowMs,
      checks: () => ({ log: 'ok', source: 'SOURCE_BUSY it does not answer' }),
      logState: async () => ({ lag: 3n, partitions: [0], paused: [0] }),
      outbox: { depth: () => world.outbox.depth(), bytesMax: 1000 },
    }),
  ]
  await using _api = await openApi({ mount: server.mount, routes, access: 'loopback' })
  const get = async (path: string, headers = {}) => {
    const response = await fetch(`${server.url}/api/v1/${path}`, { headers })
    const text = await response.text()
    const body = response.headers.get('content-type')?.includes('json') ? JSON.parse(text) : text
    return { status: response.status, body, link: response.headers.get('link'), headers: response.headers }
  }

  const period = { startMs: june1Ms, endMs: nowMs() }
  const { lines, total } = (await bill(world.store, billing, period, { only: 'acme' })).accounts[0]!
  expect(lines.length).toBeGreaterThan(1)
  expect(Number(total)).toBeGreaterThan(0)
  // Of two meters four rows each.
  const within = (rowsMax: number) =>
    bill(world.store, billing, period, { only: 'acme', bounds: { rowsMax } })
  expect((await within(8)).accounts[0]!.lines).toEqual(lines)
  await expect(within(7)).rejects.toMatchObject({ code: 'QUERY_TOO_LARGE' })
  const all = await get('line-items')
  expect(all.body).toEqual(lines)
  expect((await get('line-items?account=acme')).body).toEqual(lines)
  expect((await get('line-items?account=umbrella')).body).toEqual([])
  const first = await get('line-items?limit=1')
  expect(first.body).toEqual(lines.slice(0, 1))
  expect(first.link).toBe('</api/v1/line-items?limit=1&offset=1>; rel="next"')
  const rest = await get(`line-items?limit=${lines.length}&offset=1`)
  expect([rest.body, rest.link]).toEqual([lines.slice(1), null])
  const csv = await get('line-items', { accept: 'text/csv' })
  expect(csv.body.split('\r\n')[1]).toBe(
    `acme,${lines[0]!.charge},${lines[0]!.meter},,${lines[0]!.quantity},${lines[0]!.unit},${lines[0]!.price},${lines[0]!.amount},USD,2025-06-01T00:00:00Z,2025-06-01T05:00:00Z,${lines[0]!.book},${lines[0]!.book_sha256}`,
  )
  const sums = await get('line-items/totals')
  expect(sums.body).toMatchObject([
    { account: 'acme', currency: 'USD', total, lines: lines.length, unpriced: 0 },
    { account: 'umbrella', total: '0.00', lines: 0 },
  ])
  // Of the first of a month the month before: what is asked for up to a moment is what was before it.
  expect((await get('line-items/totals?to=2025-06-01T00:00:00Z')).body).toMatchObject([
    { total: '0.00', period_start: '2025-05-01T00:00:00Z', period_end: '2025-06-01T00:00:00Z' },
    {},
  ])
  expect(await get('line-items?account=none')).toMatchObject({ status: 404, body: { code: 'NOT_THERE' } })
  expect(await get('line-items?from=2025-06-02T00:00:00Z')).toMatchObject({ status: 400 })

  const accounts = await get('accounts')
  expect(accounts.body.map(({ id }: { id: string }) => id)).toEqual(['acme', 'umbrella'])
  expect((await get('accounts?limit=1&offset=1')).body).toEqual([accounts.body[1]])
  const held = { 'if-none-match': accounts.headers.get('etag') ?? '' }
  expect((await get('accounts', held)).status).toBe(304)
  billing = { ...billing, accounts: [acme!] }
  expect(await get('accounts', held)).toMatchObject({ status: 200, body: [{ id: 'acme' }] })
  expect((await get('accounts/umbrella')).status).toBe(404)

  const dear = {
    ...planted.books[0]!,
    charges: planted.books[0]!.charges.slice(0, 1),
    unpriced: 'error' as const,
  }
  const narrow = { ...dear, charges: [{ ...dear.charges[0]!, where: { profile: 'large' } }] }
  billing = { ...billing, books: [narrow as unknown as Billing['books'][number]] }
  expect(await get('line-items')).toMatchObject({ status: 409, body: { code: 'UNPRICED', retryable: false } })

  expect((await get('status')).body).toMatchObject({
    at: '2025-06-01T05:00:00Z',
    ready: false,
    log: { lag_messages: 3, paused_partitions: [0] },
    outbox: { waiting_rows: 0, bytes_max: 1000 },
    stale: { cells: 0, oldest_seconds: 0 },
    sources: [
      {
        source: 'meterline/rafay/test',
        covered_until: '2025-06-01T03:00:00Z',
        behind_seconds: 2 * 3600,
        windows: { settled: 6 },
      },
    ],
  })
})
