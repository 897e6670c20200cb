/** Writes under an Idempotency-Key, with the real store: done once, also across a restart, and by nobody else's key. */
import { Registry } from 'prom-client'
import Type from 'typebox'
import { expect, test } from 'vitest'
import { openApi, problem } from '../../../processor/api/api.ts'
import { rememberedMs } from '../../../processor/api/idempotency.ts'
import { type Routes, route } from '../../../processor/api/route.ts'
import { Store } from '../../../processor/store.ts'
import { Health, serveHealth } from '../../../runtime/health.ts'
import { startClickHouse } from '../../rig/clickhouse.ts'

test('the same request under the same key is done once, and answered alike', async () => {
  await using rig = await startClickHouse()
  await using store = await Store.open({ ...rig, database: `idempotency_${process.pid}` })
  await using server = await serveHealth({
    health: new Health(),
    registry: new Registry(),
    host: '127.0.0.1',
    port: 0,
  })
  const done: string[] = []
  let hold: Promise<void> = Promise.resolve()
  let held = Promise.withResolvers<void>()
  const Body = Type.Object({ name: Type.String() }, { additionalProperties: false })
  const declared = (url: string, idempotent: 'answer' | 'secret') =>
    ({
      method: 'POST',
      url,
      scope: 'admin',
      tags: ['things'],
      summary: 'Makes',
      body: Body,
      idempotent,
      answers: { 201: { description: 'Made.', body: Type.Object({ number: Type.Integer() }) } },
    }) as const
  const routes: Routes = app => {
    route(app, declared('/api/v1/things', 'answer'), async ({ body }) => {
      held.resolve()
      await hold
      done.push(body.name)
      if (body.name === 'there') throw problem(409, 'it is there already')
      if (body.name === 'busy' && done.length < 3) throw problem(503, 'come again')
      return { number: done.length }
    })
    route(app, declared('/api/v1/secrets', 'secret'), async ({ body }) => {
      done.push(body.name)
      return { number: 42_4242 }
    })
  }
  const grant = (name: string) => ({ name, scopes: ['admin'], sources: [], subjects: [] }) as const
  const keys = { authorize: (token: string) => grant(token) }
  let nowMs = Date.now()
  const open = async () =>
    await openApi({ mount: server.mount, routes: [routes], access: 'keys', keys, store, nowMs: () => nowMs })
  let api = await open()
  const post = async (name: string, key: string | undefined, { path = 'things', who = 'one' } = {}) => {
    const response = await fetch(`${server.url}/api/v1/${path}`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${who}`,
        'content-type': 'application/json',
        ...(key !== undefined && { 'idempotency-key': key }),
      },
      body: JSON.stringify({ name }),
    })
    return {
      status: response.status,
      again: response.headers.get('idempotency-replayed') === 'true',
      type: response.headers.get('content-type'),
      body: (await response.json()) as Record<string, unknown>,
    }
  }
  const take = () => done.splice(0)

  const first = await post('a', 'k1')
  expect(first).toMatchObject({ status: 201, again: false, body: { number: 1 } })
  expect(await post('a', 'k1')).toEqual({ ...first, again: true })
  await api[Symbol.asyncDispose]()
  api = await open()
  expect(await post('a', 'k1')).toEqual({ ...first, again: true })
  expect(take()).toEqual(['a'])

  // Another request under it; another caller with the same text; and no key at all.
  expect(await post('b', 'k1')).toMatchObject({ status: 422, body: { code: 'IDEMPOTENCY_DIFFERS' } })
  expect(await post('a', 'k1', { path: 'secrets' })).toMatchObject({ status: 422 })
  expect(take()).toEqual([])
  expect(await post('a', 'k1', { who: 'two' })).toMatchObject({ status: 201, again: false })
  await post('a', undefined)
  await post('a', undefined)
  expect(take()).toEqual(['a', 'a', 'a'])

  // A refusal is an answer; a failure that may pass is none.
  const refused = await post('there', 'k2')
  expect(refused).toMatchObject({ status: 409, type: 'application/problem+json' })
  expect(await post('there', 'k2')).toEqual({ ...refused, again: true })
  expect(take()).toEqual(['there'])
  expect(await post('busy', 'k3')).toMatchObject({ status: 503 })
  expect(await post('busy', 'k3')).toMatchObject({ status: 503 })
  expect(await post('busy', 'k3')).toMatchObject({ status: 201 })
  expect(take()).toEqual(['busy', 'busy', 'busy'])

  // While it is being done it is not done beside.
  const gate = Promise.withResolvers<void>()
  hold = gate.promise
  held = Promise.withResolvers()
  const slow = post('slow', 'k4')
  await held.promise
  let beside = await post('slow', 'k4')
  expect(beside).toMatchObject({ status: 409, body: { code: 'IDEMPOTENCY_RUNNING', retryable: true } })
  gate.resolve()
  expect(await slow).toMatchObject({ status: 201 })
  beside = await post('slow', 'k4')
  expect(beside).toMatchObject({ status: 201, again: true })

  // What is shown once is not kept, and a day later nothing is known of it.
  take()
  expect(await post('s', 'k5', { path: 'secrets' })).toMatchObject({ status: 201 })
  expect(await post('s', 'k5', { path: 'secrets' })).toMatchObject({ status: 422 })
  expect(take()).toEqual(['s'])
  expect(JSON.stringify(await store.rows('select * from idempotency final'))).not.toContain('424242')
  nowMs += rememberedMs + 1
  expect(await post('s', 'k5', { path: 'secrets' })).toMatchObject({ status: 201 })

  for (const wrong of ['', 'with space', 'x'.repeat(256)])
    expect(await post('a', wrong)).toMatchObject({ status: 400, body: { code: 'USAGE' } })
  await api[Symbol.asyncDispose]()
})
