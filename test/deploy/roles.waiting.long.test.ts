/** Daemons whose ClickHouse is away when they start: not ready, in words, and up as soon as it is there. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { hourMs } from '../../schemas/window.ts'
import { startClickHouse, type TestClickHouse } from '../rig/clickhouse.ts'
import { type SlowProxy, slowProxy } from '../rig/slow-proxy.ts'
import { type Site, startSite, until } from './daemons.ts'

const endMs = Math.floor(Date.now() / hourMs) * hourMs
const span = { startMs: endMs - 4 * hourMs, endMs }
let site: Site
let clickhouse: TestClickHouse
let proxy: SlowProxy
beforeAll(async () => {
  ;[site, clickhouse] = await Promise.all([startSite(span), startClickHouse()])
  proxy = await slowProxy(clickhouse.url)
})
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]()
  await clickhouse?.stop()
  await site?.[Symbol.asyncDispose]()
})

const configure = (name: string, password = clickhouse.password) => {
  const { user, database } = clickhouse
  const store = { url: proxy.url, user, database, password: '${env:STORE_PASSWORD}' }
  return site.configure(name, span.startMs, { store }, { STORE_PASSWORD: password })
}

test('`up` waits for a ClickHouse that is away when it starts: red in words, its API asks to come again, then all runs', async () => {
  const configured = await configure('waiting')
  proxy.mode = 'gone'
  const up = configured.start('up')
  try {
    let text = ''
    await until(async () => {
      text = (await up.get('/readyz')).text
      return text.includes('STORE_UNREACHABLE')
    }, up.stderr)
    expect(JSON.parse(text)).toMatchObject({
      ready: false,
      checks: { start: expect.stringMatching(/^not started yet: STORE_UNREACHABLE ClickHouse: /) },
    })
    expect((await up.get('/readyz')).status).toBe(503)
    expect((await up.get('/healthz')).status).toBe(200)
    for (const [method, path] of [
      ['GET', '/api/v1/coverage'],
      ['POST', '/api/v1/events'],
    ] as const) {
      const answer = await fetch(up.url + path, { method, ...(method === 'POST' && { body: '{}' }) })
      expect([answer.status, answer.headers.get('content-type')]).toEqual([503, 'application/problem+json'])
      expect(answer.headers.get('retry-after')).not.toBeNull()
      expect(await answer.json()).toMatchObject({ status: 503, retryable: true })
    }
    expect(up.process.exitCode).toBeNull()
    proxy.mode = 'pass'
    await up.ready()
    expect((await up.get('/api/v1/coverage?to=never')).status, 'the API took its place').toBe(400)
    await configured.comesToOracle(span)
    expect(await up.stop(), up.stderr()).toBe(0)
  } finally {
    await up.kill()
  }
}, 180_000)

test('one that says nothing is no reason not to stop at once, and one that refuses us ends the process with its words', async () => {
  proxy.mode = 'silent'
  const up = (await configure('silent')).start('up')
  try {
    await until(async () => (await up.get('/readyz')).status === 503, up.stderr)
    expect((await up.get('/readyz')).text).toContain('"start":"not started yet"')
    const startedMs = performance.now()
    expect(await up.stop(), up.stderr()).toBe(0)
    expect(performance.now() - startedMs).toBeLessThan(10_000)
  } finally {
    await up.kill()
    proxy.mode = 'pass'
  }
  const refused = (await configure('refused', 'another one')).start('up')
  expect(await refused.ended).toBe(1)
  expect(refused.stderr()).toMatch(/STORE_REFUSED/)
}, 120_000)
