/** Who asks: a key where one comes, else whoever may come without; and what routes that ask for themselves are spared. */
import { hash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { Registry } from 'prom-client'
import { describe, expect, test } from 'vitest'
import { openApi } from '../../../processor/api/api.ts'
import { callerOf, type Entrance } from '../../../processor/api/callers.ts'
import { route } from '../../../processor/api/route.ts'
import { tenantsOf } from '../../../processor/api/tenants.ts'
import { Health, serveHealth } from '../../../runtime/health.ts'
import { ConfiguredKeys, KeyRing, type Keys } from '../../../runtime/keys.ts'
import { Fault } from '../../../schemas/fault.ts'
import { type KeyScope, pushBoundsDefault } from '../../../schemas/keys.ts'
import { faultFrom } from '../../faults.ts'

const { bodyMaxBytes, ...rate } = pushBoundsDefault
const key = (name: string, scopes: readonly KeyScope[], more: object = {}) => ({
  ...{ name, sha256: hash('sha256', `token-of-${name}`, 'hex'), scopes: [...scopes], rate, bodyMaxBytes },
  ...more,
})
const configured = new ConfiguredKeys(
  [
    key('reader', ['read']),
    key('customer', ['read'], { account: 'acme', requestsPerMinute: 7 }),
    key('old', ['read'], { expires: '2025-06-01T00:00:00Z' }),
  ],
  {},
  0,
)
const june1Ms = Date.UTC(2025, 5, 1)
const entrance = (change: Partial<Entrance> = {}): Entrance => ({
  keys: configured,
  access: 'keys',
  nowMs: () => june1Ms,
  ...change,
})
function request(authorization?: string, headers: object = {}, remoteAddress = '127.0.0.1') {
  return {
    headers: { host: 'localhost', ...headers, ...(authorization !== undefined && { authorization }) },
    socket: { remoteAddress },
  } as unknown as IncomingMessage
}
const bearer = (name: string) => request(`Bearer token-of-${name}`)

describe('a key that comes along', () => {
  test.each(['keys', 'loopback', 'anyone'] as const)(
    'is what counts, where the API answers %s',
    async access => {
      const at = entrance({ access })
      expect(await callerOf(bearer('reader'), 'read', at)).toMatchObject({ name: 'reader', scopes: ['read'] })
      expect(await callerOf(bearer('customer'), 'read', at)).toMatchObject({
        account: 'acme',
        requestsPerMinute: 7,
      })
      expect(await faultFrom(callerOf(bearer('reader'), 'admin', at))).toMatchObject({ code: 'KEY_FORBIDS' })
      for (const wrong of ['Bearer token-of-nobody', 'Bearer', 'Bearer a b'])
        expect(await faultFrom(callerOf(request(wrong), 'read', at)), wrong).toMatchObject({
          code: 'KEY_UNKNOWN',
        })
    },
  )

  test('is over at its end, to the millisecond', async () => {
    const before = entrance({ nowMs: () => june1Ms - 1 })
    expect(await callerOf(bearer('old'), 'read', before)).toMatchObject({ name: 'old' })
    expect(await faultFrom(callerOf(bearer('old'), 'read', entrance()))).toMatchObject({
      code: 'KEY_UNKNOWN',
    })
  })

  test('opens nothing while the store that may know it is away; those of the configuration go on', async () => {
    const ring = new KeyRing(configured)
    const away: Keys = { authorize: () => new Fault('STORE_UNREACHABLE', 'ClickHouse is away') }
    const stored = ring.add(away)
    const at = entrance({ keys: ring })
    expect(await callerOf(bearer('reader'), 'read', at)).toMatchObject({ name: 'reader' })
    expect(await faultFrom(callerOf(bearer('nobody'), 'read', at))).toMatchObject({
      code: 'STORE_UNREACHABLE',
    })
    stored[Symbol.dispose]()
    expect(await faultFrom(callerOf(bearer('nobody'), 'read', at))).toMatchObject({ code: 'KEY_UNKNOWN' })
  })
})

test('without a key: nobody, whom the machine knows, or anyone; and a page of somebody else never on loopback', async () => {
  const entered = async (access: Entrance['access'], asked: IncomingMessage) =>
    await callerOf(asked, 'admin', entrance({ access })).then(
      ({ name }) => name,
      (fault: Fault) => fault.code,
    )
  const [near, far] = [request(), request(undefined, {}, '10.0.0.7')]
  const page = request(undefined, { origin: 'https://evil.example' })
  const renamed = request(undefined, { host: 'evil.example' })
  const all = [near, far, page, renamed]
  const of = (access: Entrance['access']) => Promise.all(all.map(asked => entered(access, asked)))
  expect(await of('keys')).toEqual(Array.from(all, () => 'KEY_UNKNOWN'))
  expect(await of('loopback')).toEqual(['', 'KEY_UNKNOWN', 'KEY_UNKNOWN', 'KEY_UNKNOWN'])
  expect(await of('anyone')).toEqual(['', '', '', ''])
  const { message } = await faultFrom(callerOf(near, 'read', entrance()))
  expect(message).toMatch(/meterline key create/)
})

test('a customer has the tenants of their account as it is now, and none where it is gone', async () => {
  const subjects = [{ source: 'meterline/rafay/prod', subject: 'a', to: '2025-07-01T00:00:00Z' }]
  const acme = { id: 'acme', currency: 'USD', timezone: 'UTC', priceBook: 'list', subjects }
  const bound = { name: 'customer', scopes: ['read'], account: 'acme' } as const
  expect(await tenantsOf(bound, async () => [acme])).toEqual(subjects)
  expect(await tenantsOf(bound, async () => [{ ...acme, id: 'acme-2' }])).toEqual([])
  const free = { name: 'reader', scopes: ['read'] } as const
  expect(await tenantsOf(free, () => Promise.reject(new Error('not asked for')))).toBeUndefined()
})

test('who pushes is not held to a number of requests, who asks is', async () => {
  await using server = await serveHealth({
    health: new Health(),
    registry: new Registry(),
    host: '127.0.0.1',
    port: 0,
  })
  await using _api = await openApi({
    mount: server.mount,
    routes: [
      app => {
        const told = {
          tags: ['api'],
          summary: 'Answers',
          answers: { 204: { description: 'Nothing.' } },
        } as const
        route(app, { method: 'GET', url: '/api/asked', scope: 'read', ...told }, async () => undefined)
        route(
          app,
          { method: 'POST', url: '/api/pushed', scope: 'ingest', guarded: true, ...told },
          async () => undefined,
        )
      },
    ],
    access: 'loopback',
    requestsPerMinute: 3,
  })
  const statuses = async (method: string, path: string) => {
    const found: number[] = []
    for (let times = 0; times < 5; times += 1) found.push((await fetch(server.url + path, { method })).status)
    return found
  }
  expect(await statuses('GET', '/api/asked')).toEqual([204, 204, 204, 429, 429])
  expect(await statuses('POST', '/api/pushed')).toEqual([204, 204, 204, 204, 204])
})
