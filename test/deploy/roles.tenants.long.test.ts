/**
 * Everything that a customer may try in order to learn of another, of every route: the answers are those of a ledger in
 * which the other one never was, and what is another's is answered as what is not there.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startClickHouse } from '../rig/clickhouse.ts'
import { ask, table, told } from './tenants-table.ts'
import { openTenantsWorlds, type TenantsWorlds } from './tenants-world.ts'

let worlds: TenantsWorlds
beforeAll(async () => {
  worlds = await openTenantsWorlds(await startClickHouse())
  // A meter of the API, whose history is not computed yet.
  const [meter] = table['POST /api/v1/meters']!.asks
  for (const at of [worlds.world, worlds.alone])
    expect((await ask(at, 'all admin', 'POST /api/v1/meters', meter!)).status).toBe(201)
  const [notes] = table['POST /api/v1/subjects']!.asks
  expect((await ask(worlds.world, 'all admin', 'POST /api/v1/subjects', notes!)).status).toBe(200)
})
afterAll(async () => {
  await worlds?.[Symbol.asyncDispose]()
})

const rows = Object.entries(table)

test.each(rows)('%s tells a customer nothing of another', async (route, { asks }) => {
  for (const asked of asks) expect(await told(worlds, route, asked), JSON.stringify(asked)).toBeUndefined()
})

test('who pays for nothing sees nothing', async () => {
  for (const [route, { scope, asks }] of rows) {
    // What meters there are is no secret.
    if ((scope !== 'read' && scope !== 'bill') || /\/me$|meters$|meters\/:meterIdOrSlug$/.test(route))
      continue
    for (const asked of asks) {
      const about = `${route} ${JSON.stringify(asked)}`
      if (/aardvark|\bant\b/.test(about)) continue
      const { body } = await ask(worlds.alone, scope === 'read' ? 'zebra read' : 'zebra bill', route, asked)
      expect(body, about).not.toMatch(/\bant\b|aardvark|L40|large|rafay/i)
    }
  }
})

test('who sees all sees the other one: what is searched for is there to be found', async () => {
  for (const [route, { scope, asks }] of rows) {
    if (scope !== 'read' && scope !== 'bill') continue
    if (/\/me$|meters$|meters\/:meterIdOrSlug$/.test(route)) continue
    const bodies = await Promise.all(asks.map(asked => ask(worlds.world, `all ${scope}`, route, asked)))
    expect(bodies.map(({ body }) => body).join(), route).toMatch(/zebra/i)
  }
  const { body } = await ask(worlds.world, 'zebra read', 'GET /api/v1/accounts', '/api/v1/accounts')
  expect(body).toMatch(/Zebra Ltd/)
})
