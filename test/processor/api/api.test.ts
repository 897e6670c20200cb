/** The API as clients meet it: beside health on one server, its problems as RFC 9457 has them, and whom it answers. */
import { request } from 'node:http'
import { Readable } from 'node:stream'
import { Registry } from 'prom-client'
import Type from 'typebox'
import { expect, test } from 'vitest'
import { type ApiOptions, openApi, problem } from '../../../processor/api/api.ts'
import { acceptedType, type Routes, route } from '../../../processor/api/route.ts'
import { Health, serveHealth } from '../../../runtime/health.ts'
import type { Keyless } from '../../../runtime/keys.ts'
import { openLog } from '../../../runtime/logs.ts'
import { answerNotYet, isFromHere } from '../../../runtime/problem.ts'
import { Fault } from '../../../schemas/fault.ts'

const strict = { additionalProperties: false }
const something = { description: 'Something.', body: Type.Any() }
const plain = { scope: 'read', tags: ['things'], summary: 'Tests', answers: { 200: something } } as const

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

async function serve(access: Keyless = 'loopback', more: Partial<ApiOptions> = {}) {
  const faults: Fault[] = []
  const held: string[] = []
  const signals: AbortSignal[] = []
  let content = 'first'
  const behaving: Routes = app => {
    const ms = Type.Object({ ms: Type.String() })
    route(app, { ...plain, method: 'GET', url: '/api/v1/kept', etag: true }, async () => [content])
    route(app, { ...plain, method: 'GET', url: '/api/v1/held', query: ms }, async ({ query }) => {
      held.push(query.ms)
      await new Promise(resolve => setTimeout(resolve, Number(query.ms)))
      return ['done']
    })
    route(app, { ...plain, method: 'GET', url: '/api/v1/stream' }, async ({ reply, signal }) => {
      signals.push(signal)
      const endless = async function* () {
        for (;;) {
          yield 'more '
          await new Promise(resolve => setTimeout(resolve, 20))
        }
      }
      return await reply.type('text/plain').send(Readable.from(endless()))
    })
  }
  const scope = new AsyncDisposableStack()
  const server = scope.use(
    await serveHealth({ health: new Health(), registry: new Registry(), host: '127.0.0.1', port: 0 }),
  )
  const api = await openApi({
    mount: server.mount,
    routes: [routes, behaving],
    access,
    onFault: fault => faults.push(fault),
    ...more,
  })
  const change = () => {
    content = 'second'
  }
  const { url, mount } = server
  return { url, mount, faults, held, signals, change, api, [Symbol.asyncDispose]: () => scope.disposeAsync() }
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

test('a query is read as its schema means it, and nothing is turned into something else', async () => {
  await using server = await serve()
  const read = async (query: string) => (await get(`${server.url}/api/v1/things?${query}`)).body
  expect(await read('id=7')).toEqual([{ id: ['7'] }])
  expect(await read('id=7&id=8')).toEqual([{ id: ['7', '8'] }])
  expect(await read('where[gpu]=H100&where[a%5Bb]=1')).toEqual([{ where: { gpu: 'H100', 'a[b': '1' } }])
  expect(await read('where[gpu]=H100&where[__proto__]=1')).toEqual([
    { where: JSON.parse('{"gpu":"H100","__proto__":"1"}') },
  ])
  expect(await read('id=1&id=2&id=3')).toMatchObject({
    status: 400,
    detail: 'query id: must NOT have more than 2 items',
    extensions: { validationErrors: [{ field: 'query id', code: 'USAGE' }] },
  })
})

test('says under which id a request is known, in the answer, the problem and the log', async () => {
  const lines: string[] = []
  const log = openLog({ level: 'debug', role: 'test', to: { write: line => void lines.push(line) } })
  await using server = await serve('loopback', { log })
  const traceparent = `00-${'ab'.repeat(16)}-${'cd'.repeat(8)}-01`
  const given = { headers: { 'x-request-id': 'mine/1', traceparent } }
  const named = await fetch(`${server.url}/api/v1/wrong`, given)
  expect(named.headers.get('x-request-id')).toBe('mine/1')
  expect(await named.json()).toMatchObject({ instance: 'urn:request:mine/1' })
  await expect
    .poll(() => lines.map(line => JSON.parse(line)))
    .toContainEqual(
      expect.objectContaining({
        ...{ request_id: 'mine/1', trace_id: 'ab'.repeat(16), route: '/api/v1/wrong', status: 400 },
        level: 'debug',
      }),
    )
  for (const unfit of ['a b', 'x'.repeat(129), '\u00e9'])
    expect(
      (await fetch(`${server.url}/api/v1/things`, { headers: { 'x-request-id': unfit } })).headers.get(
        'x-request-id',
      ),
    ).toMatch(/^[0-9a-f-]{36}$/)
})

test('an answer has the ETag of its content, and is not sent to who has it', async () => {
  await using server = await serve()
  const ask = async (ifNoneMatch?: string) => {
    const headers = ifNoneMatch === undefined ? {} : { 'if-none-match': ifNoneMatch }
    const response = await fetch(`${server.url}/api/v1/kept`, { headers })
    const { status, headers: got } = response
    return {
      ...{ status, etag: got.get('etag') ?? '', length: got.get('content-length') },
      text: await response.text(),
    }
  }
  const first = await ask()
  expect(first).toMatchObject({ status: 200, etag: expect.stringMatching(/^"[\w-]{32}"$/) })
  for (const held of [first.etag, `W/${first.etag}`, `"other", ${first.etag}`, '*'])
    expect(await ask(held)).toEqual({ status: 304, etag: first.etag, length: null, text: '' })
  expect(await ask('"other"')).toEqual(first)
  server.change()
  const changed = await ask(first.etag)
  expect(changed.status).toBe(200)
  expect(changed.etag).not.toBe(first.etag)
})

test('what is not there, not taken or not offered is told, with what is', async () => {
  await using server = await serve()
  const url = `${server.url}/api/v1/things`
  const method = await fetch(url, { method: 'DELETE' })
  expect(method.status).toBe(405)
  expect(method.headers.get('allow')?.split(', ').sort()).toEqual(['GET', 'HEAD', 'POST'])
  const headers = { accept: 'text/csv' }
  expect(await get(url, { headers })).toMatchObject({
    status: 406,
    body: { detail: 'accept: this answers application/json' },
  })
  const xml = { method: 'POST', headers: { 'content-type': 'text/xml' }, body: '<a/>' }
  expect(await get(url, xml)).toMatchObject({ status: 415, type: 'application/problem+json' })
  const json = { 'content-type': 'application/json' }
  expect(await get(url, { method: 'POST', headers: json, body: '{' })).toMatchObject({ status: 400 })
  expect(await get(url, { method: 'POST', headers: json })).toMatchObject({
    status: 400,
    body: { detail: 'body: must be object' },
  })
  expect(await get(`${url}?name=${'a'.repeat(20_000)}`)).toMatchObject({
    status: 431,
    type: 'application/problem+json',
  })

  const offered = ['application/json', 'text/csv']
  const likes = (accept: string | undefined) => acceptedType(accept, offered)
  expect([undefined, '', '*/*', 'text/csv', 'text/*;q=0.5', 'text/csv;q=0.1, */*;q=0.2'].map(likes)).toEqual([
    ...['application/json', 'application/json', 'application/json'],
    ...['text/csv', 'text/csv', 'application/json'],
  ])
  expect(['text/html', 'application/json;q=0', 'image/*'].map(likes)).toEqual([
    undefined,
    undefined,
    undefined,
  ])
})

test('a key asks as often as it may, and is told when it may again; another one is not held up', async () => {
  const keys = {
    authorize: (token: string) => ({ name: token, scopes: ['read'], sources: [], subjects: [] }) as const,
  }
  await using server = await serve('keys', { keys, requestsPerMinute: 3 })
  const ask = async (token: string) => {
    const headers = { authorization: `Bearer ${token}` }
    return await fetch(`${server.url}/api/v1/things`, { headers })
  }
  const answers = [await ask('one'), await ask('one'), await ask('one'), await ask('one')]
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 429])
  expect(answers.map(({ headers }) => headers.get('ratelimit-remaining'))).toEqual(['2', '1', '0', '0'])
  expect(Number(answers[3]!.headers.get('retry-after'))).toBeGreaterThan(0)
  expect(await answers[3]!.json()).toMatchObject({ code: 'RATE_EXCEEDED', retryable: true })
  expect((await ask('two')).status).toBe(200)
})

test('what is being answered may end when the API does; what takes too long is cut, and what is new turned away', async () => {
  const server = await serve('loopback', { drainMs: 500 })
  await using _server = server
  const quick = fetch(`${server.url}/api/v1/held?ms=200`)
  const slow = fetch(`${server.url}/api/v1/stream`)
  const reading = (await slow).body!.getReader()
  await reading.read()
  await expect.poll(() => server.held.length).toBe(1)
  using _notYet = server.mount('/api/', answerNotYet)
  const closing = server.api[Symbol.asyncDispose]()
  const late = await fetch(`${server.url}/api/v1/things`)
  expect([late.status, late.headers.get('retry-after')]).toEqual([503, '5'])
  expect([(await quick).status, await (await quick).json()]).toEqual([200, ['done']])
  // A stream that is cut has no end: its reader fails, and does not take what it has for all.
  await expect(
    (async () => {
      for (let read = await reading.read(); !read.done; read = await reading.read());
    })(),
  ).rejects.toThrow()
  await closing
  await expect.poll(() => server.signals.map(({ aborted }) => aborted)).toEqual([true])
})
