/** Health: what makes a process unready, and what its small server answers. */
import { Counter, Registry } from 'prom-client'
import { afterEach, expect, test } from 'vitest'
import { Health, type HealthServer, serveHealth } from '../../runtime/health.ts'

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
