/** The API as clients meet it: beside health on one server, its problems as RFC 9457 has them, and whom it answers. */
import { request } from 'node:http'
import { Registry } from 'prom-client'
import Type from 'typebox'
import { expect, test } from 'vitest'
import { openApi, problem } from '../../../processor/api/api.ts'
import { type Routes, route } from '../../../processor/api/route.ts'
import { Health, serveHealth } from '../../../runtime/health.ts'
import { isFromHere } from '../../../runtime/problem.ts'
import { Fault } from '../../../schemas/fault.ts'

const strict = { additionalProperties: false }
const any = { description: 'Something.', body: Type.Any() }
const plain = { scope: 'read', tags: ['things'], summary: 'Tests', answers: { 200: any } } as const

const routes: Routes = app => {
  const query = Type.Object(
    {
      name: Type.Optional(Type.String({ pattern: '^[a-z]+$' })),
      id: Type.Optional(Type.Array(Type.String(), { maxItems: 2 })),
      where: Type.Optional(Type.Record(Type.String(), Type.String())),
    },
    strict,
  )
  route(app, { ...plain, method: 'GET', url: '/api/v1/things', query }, async asked => [asked.query])
  route(app, { ...plain, method: 'GET', url: '/api/v1/guarded', guarded: true }, async () => [2])
  route(app, { ...plain, method: 'GET', url: '/api/v1/busy' }, async () => {
    throw new Fault('STORE_UNREACHABLE', 'ClickHouse is away')
  })
  route(app, { ...plain, method: 'GET', url: '/api/v1/wrong' }, async () => {
    throw new Fault('USAGE', 'from is not before to')
  })
  route(app, { ...plain, method: 'GET', url: '/api/v1/broken' }, async () => {
    throw new Error('a secret of the inside')
  })
  const body = Type.Object({ name: Type.String() }, strict)
  route(
    app,
    { ...plain, scope: 'admin', method: 'POST', url: '/api/v1/things', bodyMaxBytes: 20, body },
    async () => {
      throw problem(409, 'it is there already')
    },
  )
}

async function serve(access: 'loopback' | 'anyone' = 'loopback') {
  const faults: Fault[] = []
  const scope = new AsyncDisposableStack()
  const server = scope.use(
    await serveHealth({ health: new Health(), registry: new Registry(), host: '127.0.0.1', port: 0 }),
  )
  const api = await openApi({
    mount: server.mount,
    routes: [routes],
    access,
    onFault: fault => faults.push(fault),
  })
  return { url: server.url, faults, api, [Symbol.asyncDispose]: () => scope.disposeAsync() }
}

async function get(url: string, init: RequestInit = {}) {
  const response = await fetch(url, { signal: AbortSignal.timeout(5000), ...init })
  return {
    status: response.status,
    // As a whole: clients of OpenMeter compare it so.
    type: response.headers.get('content-type'),
    body: await response.json(),
  }
}

/** With a Host header of one's own, which fetch does not let through. */
function statusAs(url: string, host: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    request(url, { headers: { host } }, response => resolve(response.resume().statusCode))
      .once('error', reject)
      .end()
  })
}

test('answers beside health on one port, and leaves it when it is closed', async () => {
  await using server = await serve()
  expect(await get(`${server.url}/api/v1/things`)).toMatchObject({ status: 200, body: [{}] })
  expect(await get(`${server.url}/healthz`)).toMatchObject({ status: 200 })
  await server.api[Symbol.asyncDispose]()
  expect((await fetch(`${server.url}/api/v1/things`)).status).toBe(404)
  expect(await get(`${server.url}/healthz`)).toMatchObject({ status: 200 })
})

test('every failure is a problem as RFC 9457 has it', async () => {
  await using server = await serve()
  const answers = [
    ['/api/v1/nothing', 404, { title: 'Not Found', detail: 'there is no GET /api/v1/nothing' }],
    ['/api/v1/things?nmae=x', 400, { title: 'Bad Request', detail: 'query nmae: is not known here' }],
    ['/api/v1/things?name=a&name=b', 400, { detail: 'query name: must be string' }],
    ['/api/v1/things?name=A', 400, { detail: 'query name: must match pattern "^[a-z]+$"' }],
    ['/api/v1/wrong', 400, { code: 'USAGE', retryable: false }],
    ['/api/v1/busy', 503, { title: 'Service Unavailable', code: 'STORE_UNREACHABLE', retryable: true }],
    ['/api/v1/broken', 500, { title: 'Internal Server Error' }],
  ] as const
  for (const [path, status, body] of answers)
    expect(await get(`${server.url}${path}`)).toMatchObject({
      status,
      type: 'application/problem+json',
      body: { type: 'about:blank', status, ...body },
    })
  expect(JSON.stringify((await get(`${server.url}/api/v1/broken`)).body)).not.toContain(
    'secret of the inside',
  )
  expect(server.faults.map(fault => fault.message)).toEqual([
    'ClickHouse is away',
    'a secret of the inside',
    'a secret of the inside',
  ])
  const headers = { 'content-type': 'application/json' }
  expect(
    await get(`${server.url}/api/v1/things`, { method: 'POST', headers, body: '{"name":"a"}' }),
  ).toMatchObject({
    status: 409,
    body: { title: 'Conflict' },
  })
  expect(
    await get(`${server.url}/api/v1/things`, { method: 'POST', headers, body: '{"name":"much too long"}' }),
  ).toMatchObject({ status: 413 })
})

test('answers its own machine alone, under a name that can mean no other', async () => {
  await using shut = await serve()
  const { port } = new URL(shut.url)
  expect(await statusAs(`${shut.url}/api/v1/things`, `localhost:${port}`)).toBe(200)
  // A page whose name was made to point here.
  expect(await statusAs(`${shut.url}/api/v1/things`, `evil.example:${port}`)).toBe(401)
  // One that asks for itself, by keys for instance.
  expect(await statusAs(`${shut.url}/api/v1/guarded`, `evil.example:${port}`)).toBe(200)
  await using open = await serve('anyone')
  expect(await statusAs(`${open.url}/api/v1/things`, 'meterline.example')).toBe(200)

  const from = (remoteAddress: string, host = 'localhost') =>
    isFromHere({ headers: { host }, socket: { remoteAddress } })
  expect(['127.0.0.1', '::1', '::ffff:127.0.0.1', '127.9.9.9'].map(address => from(address))).toEqual([
    true,
    true,
    true,
    true,
  ])
  expect(['10.0.0.7', '::2', '::ffff:10.0.0.7', '', '127.0.0.1.evil'].map(address => from(address))).toEqual([
    false,
    false,
    false,
    false,
    false,
  ])
  expect(['[::1]:8080', '127.0.0.1:8080'].map(host => from('::1', host))).toEqual([true, true])
  expect(['', '127.0.0.1.evil', '127.evil.example:80'].map(host => from('::1', host))).toEqual([
    false,
    false,
    false,
  ])
})
