/**
 * Whom each route answers, and with what: all routes × all kinds of keys against a table written by hand, and what a
 * customer is answered held against a ledger in which the other customer never was. The routes are those that Fastify has:
 * one that is added, and not here, fails.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startClickHouse, type TestClickHouse } from '../rig/clickhouse.ts'
import {
  customers,
  openTenantsWorld,
  operators,
  pushSource,
  strangers,
  type TenantsWorld,
  type Who,
} from './tenants-world.ts'

type Scope = 'ingest' | 'amend' | 'read' | 'bill' | 'admin' | 'nobody'

interface Ask {
  readonly path: string
  readonly body?: unknown
  readonly type?: string
}

interface Row {
  /** Whose key it takes. */
  readonly scope: Scope
  /** What it answers to a key of all, and to one of an account, with that scope; the second only where there can be one. */
  readonly answers: readonly [all: number, account?: number]
  /** The first is what `answers` are of; `{own}` is the customer's own account. All are asked by the first customer. */
  readonly asks: readonly (string | Ask)[]
}

const span = 'from=2025-06-01T00:00:00Z&to=2025-06-03T02:00:00Z'
const call = { specversion: '1.0', id: 'new', source: pushSource, type: 'call', subject: 'ant' }

/** `Zebra` is the other customer, in every word of theirs; `Hyena` is nobody. */
const table: Readonly<Record<string, Row>> = {
  'GET /api/v1/me': { scope: 'read', answers: [200, 200], asks: ['/api/v1/me'] },
  'GET /': { scope: 'nobody', answers: [200], asks: ['/'] },
  'GET /dashboard/:name': { scope: 'nobody', answers: [200], asks: ['/dashboard/main.js', '/dashboard/no'] },
  'GET /api/docs': { scope: 'nobody', answers: [200], asks: ['/api/docs'] },
  'GET /api/docs/json': { scope: 'nobody', answers: [200], asks: ['/api/docs/json'] },
  'GET /api/docs/yaml': { scope: 'nobody', answers: [200], asks: ['/api/docs/yaml'] },
  'GET /api/docs/static/*': { scope: 'nobody', answers: [404], asks: ['/api/docs/static/no'] },
  'GET /api/docs/static/index.html': {
    scope: 'nobody',
    answers: [200],
    asks: ['/api/docs/static/index.html'],
  },
  'GET /api/docs/static/swagger-initializer.js': {
    scope: 'nobody',
    answers: [200],
    asks: ['/api/docs/static/swagger-initializer.js'],
  },
  'GET /api/openapi.json': { scope: 'nobody', answers: [200, 200], asks: ['/api/openapi.json'] },
  'GET /api/v1/accounts': {
    scope: 'read',
    answers: [200, 200],
    asks: ['/api/v1/accounts', '/api/v1/accounts?limit=1'],
  },
  'GET /api/v1/accounts/:id': {
    scope: 'read',
    answers: [200, 200],
    asks: ['/api/v1/accounts/{own}', '/api/v1/accounts/zebra', '/api/v1/accounts/hyena'],
  },
  'GET /api/v1/coverage': {
    scope: 'read',
    answers: [200, 200],
    asks: [
      `/api/v1/coverage?${span}`,
      `/api/v1/coverage?${span}&source=test`,
      `/api/v1/coverage?${span}&scope=Zebra/pool`,
      `/api/v1/coverage?${span}&scope=Hyena/pool`,
      `/api/v1/coverage?${span}&scope=moved/pool`,
      `/api/v1/coverage?${span}&account=aardvark`,
      `/api/v1/coverage?${span}&account=zebra`,
      `/api/v1/coverage?${span}&account=hyena`,
      `/api/v1/coverage?${span}&source=https://Zebra.example/usage`,
      `/api/v1/coverage?${span}&source=https://Hyena.example/usage`,
    ],
  },
  'GET /api/v1/coverage/days': {
    scope: 'read',
    answers: [200, 200],
    asks: [
      `/api/v1/coverage/days?${span}`,
      `/api/v1/coverage/days?${span}&account=zebra`,
      `/api/v1/coverage/days?${span}&account=hyena`,
    ],
  },
  'GET /api/v1/line-items': {
    scope: 'bill',
    answers: [200, 200],
    asks: [
      `/api/v1/line-items?${span}`,
      `/api/v1/line-items?${span}&format=csv`,
      `/api/v1/line-items?${span}&account=zebra`,
      `/api/v1/line-items?${span}&account=hyena`,
    ],
  },
  'GET /api/v1/line-items/totals': {
    scope: 'bill',
    answers: [200, 200],
    asks: [
      `/api/v1/line-items/totals?${span}`,
      `/api/v1/line-items/totals?${span}&account=zebra`,
      `/api/v1/line-items/totals?${span}&account=hyena`,
    ],
  },
  'GET /api/v1/status': { scope: 'admin', answers: [200], asks: ['/api/v1/status'] },
  'GET /api/v1/rejected': { scope: 'admin', answers: [200], asks: ['/api/v1/rejected'] },
  'GET /api/v1/conflicts': { scope: 'admin', answers: [200], asks: [`/api/v1/conflicts?${span}`] },
  'GET /api/v1/keys': { scope: 'admin', answers: [200], asks: ['/api/v1/keys'] },
  'POST /api/v1/keys': {
    scope: 'admin',
    answers: [201],
    asks: [{ path: '/api/v1/keys', body: { name: 'made', scopes: ['read'] } }],
  },
  'DELETE /api/v1/keys/:name': { scope: 'admin', answers: [200], asks: ['/api/v1/keys/made'] },
  'POST /api/v1/events': {
    scope: 'ingest',
    answers: [204],
    asks: [{ path: '/api/v1/events', body: call, type: 'application/cloudevents+json' }],
  },
}

let rig: TestClickHouse
let world: TenantsWorld
/** The same without the other customer. */
let alone: TenantsWorld
beforeAll(async () => {
  rig = await startClickHouse()
  ;[world, alone] = await Promise.all([
    openTenantsWorld(rig, `tenants_${process.pid}`, 'with'),
    openTenantsWorld(rig, `tenants_alone_${process.pid}`, 'without'),
  ])
})
afterAll(async () => {
  await world?.[Symbol.asyncDispose]()
  await alone?.[Symbol.asyncDispose]()
  await rig?.stop()
})

interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

async function ask(at: TenantsWorld, who: Who, route: string, asked: string | Ask): Promise<Answer> {
  const { path, body, type = 'application/json' } = typeof asked === 'string' ? { path: asked } : asked
  const own = who.startsWith('zebra') ? 'zebra' : 'aardvark'
  const response = await fetch(at.url + path.replace('{own}', own), {
    method: route.split(' ')[0]!,
    headers: {
      ...at.as(who),
      'x-request-id': 'one',
      ...(body !== undefined && { 'content-type': type }),
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  })
  // What differs from one moment to the next, for everybody: how much a key may still ask, and the day it is.
  const passing = /^(date|ratelimit|x-ratelimit|connection|keep-alive)/
  const headers = Object.fromEntries(Array.from(response.headers).filter(([name]) => !passing.test(name)))
  return { status: response.status, headers, body: await response.text() }
}

test('every route that there is stands in the table, and no other', () => {
  expect(world.routes.toSorted()).toEqual(Object.keys(table).toSorted())
})

describe.each(Object.entries(table))('%s', (route, { scope, answers, asks }) => {
  const [all, account] = answers
  const expected = (who: Who): number => {
    if (scope === 'nobody') return all
    if ((strangers as readonly Who[]).includes(who)) return 401
    const [whose, held] = who.split(' ')
    if (held !== scope) return 403
    return whose === 'all' ? all : (account ?? 403)
  }

  test(`takes a key with ${scope}, and no other`, async () => {
    const found: Record<string, number> = {}
    for (const who of [...strangers, ...customers, ...operators]) {
      const { status, headers, body } = await ask(world, who, route, asks[0]!)
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
  })

  test('tells a customer nothing of another, and the same as if there were no other', async () => {
    const who = scope === 'bill' ? 'aardvark bill' : 'aardvark read'
    await Promise.all(
      asks.map(async asked => {
        const about = `${who} ${JSON.stringify(asked)}`
        const path = typeof asked === 'string' ? asked : asked.path
        const [one, two] = await Promise.all([ask(world, who, route, asked), ask(alone, who, route, asked)])
        expect(one, about).toEqual(two)
        expect(one.status, about).toBeLessThan(500)
        // What it names itself it may be told, as it is of one that is nobody.
        if (!/zebra/i.test(path)) expect(JSON.stringify(one), about).not.toMatch(/zebra/i)
        else {
          const unknown = path.replaceAll('Zebra', 'Hyena').replaceAll('zebra', 'hyena')
          const said = JSON.stringify(one).replaceAll('Zebra', 'Hyena').replaceAll('zebra', 'hyena')
          expect(said, about).toBe(JSON.stringify(await ask(world, who, route, unknown)))
        }
      }),
    )
  })
})

test('who sees all sees the other one: what is searched for is there to be found', async () => {
  for (const [route, { scope, asks }] of Object.entries(table)) {
    if (scope !== 'read' && scope !== 'bill') continue
    if (/\/me$|accounts\/:id/.test(route)) continue
    const { body } = await ask(world, `all ${scope}`, route, asks[0]!)
    expect(body, route).toMatch(/zebra/i)
  }
  const { body } = await ask(world, 'zebra read', 'GET /api/v1/accounts', '/api/v1/accounts')
  expect(body).toMatch(/Zebra Ltd/)
})
