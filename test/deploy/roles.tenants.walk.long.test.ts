/**
 * Whom each route answers: all routes × all kinds of keys against a table written by hand, and that a customer is told
 * nothing of another. The routes are those that Fastify has: one that is added, and not in the table, fails. Everything
 * that a customer may try is asked in roles.tenants.long.test.ts.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startClickHouse } from '../rig/clickhouse.ts'
import { ask, table, told } from './tenants-table.ts'
import {
  customers,
  openTenantsWorlds,
  operators,
  strangers,
  type TenantsWorlds,
  type Who,
} from './tenants-world.ts'

let worlds: TenantsWorlds
beforeAll(async () => {
  worlds = await openTenantsWorlds(await startClickHouse())
})
afterAll(async () => {
  await worlds?.[Symbol.asyncDispose]()
})

test('every route that there is stands in the table, and no other', () => {
  expect(worlds.world.routes.toSorted()).toEqual(Object.keys(table).toSorted())
})

describe.each(Object.entries(table))('%s', (route, { scope, answers, asks }) => {
  const [all, account] = answers
  const expected = (who: Who): number => {
    if (scope === 'nobody') return all
    if ((strangers as readonly Who[]).includes(who)) return 401
    const [whose, held] = who.split(' ')
    if (scope !== 'any' && held !== scope) return 403
    return whose === 'all' ? all : (account ?? 403)
  }

  test(`takes a key with ${scope}, and no other`, async () => {
    const found: Record<string, number> = {}
    for (const who of [...strangers, ...customers, ...operators]) {
      const { status, headers, body } = await ask(worlds.world, who, route, asks[0]!)
      found[who] = status
      if (status === 401) expect(headers['www-authenticate'], who).toBe('Bearer realm="meterline"')
      if (status >= 400) {
        expect(headers['content-type'], who).toBe('application/problem+json')
        expect(JSON.parse(body), who).toMatchObject({ status })
        expect(body, who).not.toMatch(/zebra/i)
      }
      expect(headers['x-content-type-options'], who).toBe('nosniff')
      if (scope !== 'nobody') expect(headers['cache-control'], who).toMatch(/no-store|private, no-cache/)
    }
    const all = [...strangers, ...customers, ...operators].map(who => [who, expected(who)])
    expect(found).toEqual(Object.fromEntries(all))
    // Whose answer it is shows in its headers too.
    if (route.startsWith('GET '))
      for (const who of ['none', 'aardvark read', 'all ingest'] as const)
        expect((await ask(worlds.world, who, `HEAD${route.slice(3)}`, asks[0]!)).status, who).toBe(found[who])
  })

  test('tells a customer nothing of another, and the same as if there were no other', async () => {
    expect(await told(worlds, route, asks[0]!)).toBeUndefined()
  })
})
