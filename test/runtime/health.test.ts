/** Health: what makes a process unready, and what its small server answers. */
import { Counter, Registry } from 'prom-client'
import { afterEach, expect, test } from 'vitest'
import { Health, type HealthServer, serveHealth } from '../../runtime/health.ts'
import { Fault } from '../../schemas/fault.ts'

const servers: HealthServer[] = []
afterEach(async () => {
  for (const server of servers.splice(0)) await server[Symbol.asyncDispose]()
})

async function serve(): Promise<{ health: Health; registry: Registry; url: string }> {
  const health = new Health()
  const registry = new Registry()
  const server = await serveHealth({ health, registry, host: '127.0.0.1', port: 0 })
  servers.push(server)
  return { health, registry, url: server.url }
}

async function get(url: string): Promise<[number, unknown]> {
  const response = await fetch(url, { signal: AbortSignal.timeout(5000) })
  return [response.status, await response.json()]
}

test('is ready while every check is ok, and names what is not', async () => {
  const { health, url } = await serve()
  health.report('outbox', undefined)
  let lag: string | undefined
  health.check('log', () => lag)
  expect(await get(`${url}/readyz`)).toEqual([200, { ready: true, checks: { log: 'ok', outbox: 'ok' } }])
  lag = '3 partitions are paused'
  health.report('outbox', 'full')
  const checks = { log: '3 partitions are paused', outbox: 'full' }
  expect(await get(`${url}/readyz`)).toEqual([503, { ready: false, checks }])
  // The process itself is alive: to restart it would not help.
  expect(await get(`${url}/healthz`)).toEqual([200, { ready: false, checks }])
  expect(health.problems()).toEqual(['log: 3 partitions are paused', 'outbox: full'])
  health.report('outbox', undefined)
  lag = undefined
  expect((await get(`${url}/readyz`))[0]).toBe(200)
})

test('a check that throws is a problem, not a crash', async () => {
  const { health, url } = await serve()
  health.check('store', () => {
    throw new Error('no connection')
  })
  expect(await get(`${url}/readyz`)).toEqual([503, { ready: false, checks: { store: 'no connection' } }])
})

test('prints the metrics of the registry, and nothing else', async () => {
  const { registry, url } = await serve()
  new Counter({ name: 'reads_total', help: 'Reads.', registers: [registry] }).inc(3)
  const response = await fetch(`${url}/metrics`)
  expect(response.headers.get('content-type')).toBe(registry.contentType)
  expect(await response.text()).toContain('reads_total 3')
  expect((await fetch(`${url}/other`)).status).toBe(404)
  expect((await fetch(`${url}/metrics`, { method: 'POST' })).status).toBe(405)
})

test('an address that is taken is said in words', async () => {
  const { url } = await serve()
  const port = Number(new URL(url).port)
  await expect(
    serveHealth({ health: new Health(), registry: new Registry(), host: '127.0.0.1', port }),
  ).rejects.toMatchObject({ code: 'USAGE', message: `health: cannot listen on 127.0.0.1:${port}` })
})

test('who may not see all is told codes, and no metrics', async () => {
  const health = new Health()
  health.report('source rafay/prod', 'SOURCE_UNREACHABLE scope acme-7/h100 does not answer')
  health.report('start', 'not started yet: STORE_UNREACHABLE ClickHouse: acme-7 is away')
  health.report('log', undefined)
  const server = await serveHealth({
    health,
    registry: new Registry(),
    host: '127.0.0.1',
    port: 0,
    refusal: async ({ headers }) =>
      headers.authorization === undefined
        ? new Fault('KEY_UNKNOWN', 'a key is needed')
        : headers.authorization === 'Bearer all'
          ? undefined
          : new Fault('KEY_FORBIDS', 'not this one'),
  })
  servers.push(server)
  const checks = { log: 'ok', 'source rafay/prod': 'SOURCE_UNREACHABLE', start: 'not ok' }
  expect(await get(`${server.url}/readyz`)).toEqual([503, { ready: false, checks }])
  expect(await get(`${server.url}/healthz`)).toEqual([200, { ready: false, checks }])
  const asked = async (path: string, key?: string) => {
    const response = await fetch(
      server.url + path,
      key ? { headers: { authorization: `Bearer ${key}` } } : {},
    )
    return [response.status, response.headers.get('www-authenticate'), await response.text()] as const
  }
  expect(await asked('/metrics')).toEqual([401, 'Bearer realm="meterline"', 'a key is needed\n'])
  expect(await asked('/metrics', 'other')).toEqual([403, null, 'not this one\n'])
  expect((await asked('/metrics', 'all'))[0]).toBe(200)
  expect((await asked('/readyz', 'other'))[2]).not.toContain('acme-7')
  expect((await asked('/readyz', 'all'))[2]).toContain('acme-7/h100')
})

test('whatever it answers is no page of somebody else, and is taken for nothing that it is not', async () => {
  const { url } = await serve()
  for (const path of ['/healthz', '/readyz', '/metrics', '/none']) {
    const { headers } = await fetch(url + path)
    expect(Object.fromEntries(headers)).toMatchObject({
      'x-content-type-options': 'nosniff',
      'x-frame-options': 'DENY',
      'content-security-policy': "frame-ancestors 'none'",
      'referrer-policy': 'no-referrer',
      'cache-control': 'no-store',
    })
  }
})
