/** The HTTP client against real servers on the loopback, which fail in every way a provider does. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, type RequestListener, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { brotliCompressSync, gzipSync } from 'node:zlib'
import { afterEach, expect, test } from 'vitest'
import { type Http, type HttpOptions, openHttp } from '../../runtime/http.ts'
import { registry } from '../../runtime/metrics.ts'
import { Fault } from '../../schemas/fault.ts'
import { faultFrom } from '../faults.ts'

const cleanups: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

/** A real server on a free port of the loopback. */
async function serve(listener: RequestListener): Promise<string> {
  const server = createServer(listener).listen(0, '127.0.0.1')
  await once(server, 'listening')
  cleanups.push(async () => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** A client whose waits are written down instead of waited for. */
function client(options: HttpOptions = {}): { http: Http; waitsMs: number[] } {
  const waitsMs: number[] = []
  const http = openHttp({
    random: () => 0.5,
    sleep: async (ms, signal) => {
      signal.throwIfAborted()
      waitsMs.push(ms)
    },
    ...options,
  })
  cleanups.push(async () => http[Symbol.asyncDispose]())
  return { http, waitsMs }
}

const live = new AbortController().signal
const ask = (http: Http, url: string, signal = live, headers: Record<string, string> = {}) =>
  http.request({ url, endpoint: 'test.answer', signal, headers })

/** Answers with each of the listed ways in turn, the last for good, and counts. */
function inTurn(...ways: RequestListener[]) {
  const counted = { calls: 0 }
  const listener: RequestListener = (request, response) => {
    const way = ways[Math.min(counted.calls, ways.length - 1)]
    counted.calls++
    way?.(request, response)
  }
  return { counted, listener }
}
const status =
  (code: number, headers: Record<string, string> = {}, body = ''): RequestListener =>
  (_, response) => {
    response.writeHead(code, headers).end(body)
  }
const fine = status(200, { 'content-type': 'application/json' }, '{"fine":true}')

test('a 2xx is answered with its text and lower-cased headers', async () => {
  const url = await serve(status(200, { 'X-Page': '1' }, 'Grüße'))
  const answer = await ask(client().http, url)
  expect(answer).toMatchObject({ status: 200, text: 'Grüße' })
  expect(answer.headers['x-page']).toBe('1')
})

test('gzip and brotli are decoded', async () => {
  for (const [name, encode] of [
    ['gzip', gzipSync],
    ['br', brotliCompressSync],
  ] as const) {
    const url = await serve((_, response) =>
      response.writeHead(200, { 'content-encoding': name }).end(encode('{"rows":[]}')),
    )
    expect((await ask(client().http, url)).text).toBe('{"rows":[]}')
  }
})

test('busy answers are tried again, with growing jittered waits, until one is fine', async () => {
  const { counted, listener } = inTurn(status(500), status(503), status(408), status(425), fine)
  const { http, waitsMs } = client()
  expect((await ask(http, await serve(listener))).text).toBe('{"fine":true}')
  expect(counted.calls).toBe(5)
  expect(waitsMs).toEqual([125, 250, 500, 1000])
})

test('a server that stays busy is SOURCE_BUSY after the last retry, with what it said', async () => {
  const { counted, listener } = inTurn(status(500, {}, '{"error":"the shard is\\nmoving"}'))
  const { http } = client({ retries: 2 })
  const fault = await faultFrom(ask(http, await serve(listener)))
  expect(counted.calls).toBe(3)
  expect(fault).toMatchObject({
    code: 'SOURCE_BUSY',
    message: 'test.answer: HTTP 500 (the shard is moving)',
    facts: { endpoint: 'test.answer', status: 500, attempts: 3 },
  })
})

test('Retry-After is waited for, in seconds and as a date', async () => {
  const nowMs = Date.parse('2026-02-12T08:00:00Z')
  const { listener } = inTurn(
    status(429, { 'retry-after': '7' }),
    status(429, { 'retry-after': 'Thu, 12 Feb 2026 08:00:03 GMT' }),
    fine,
  )
  const { http, waitsMs } = client({ nowMs: () => nowMs, random: () => 0 })
  await ask(http, await serve(listener))
  expect(waitsMs).toEqual([7000, 3000])
})

test('a Retry-After beyond the bound is given up at once, and the fault says how long', async () => {
  const { counted, listener } = inTurn(status(429, { 'retry-after': '86400' }))
  const fault = await faultFrom(ask(client().http, await serve(listener)))
  expect(counted.calls).toBe(1)
  expect(fault).toMatchObject({ code: 'SOURCE_BUSY', facts: { retryAfterMs: 86_400_000 } })
})

test.each([
  [301, 'SOURCE_REFUSED'],
  [400, 'SOURCE_REFUSED'],
  [401, 'SOURCE_DENIED'],
  [403, 'SOURCE_DENIED'],
  [404, 'SOURCE_MISSING'],
  [410, 'SOURCE_MISSING'],
  [422, 'SOURCE_REFUSED'],
])('%i is %s, and asked only once', async (code, expected) => {
  const { counted, listener } = inTurn(status(code, { location: '/elsewhere' }))
  const fault = await faultFrom(ask(client().http, await serve(listener)))
  expect(fault.code).toBe(expected)
  expect(counted.calls).toBe(1)
})

test('a connection that breaks before the answer is tried again', async () => {
  const { counted, listener } = inTurn((_, response) => response.destroy(), fine)
  expect((await ask(client().http, await serve(listener))).status).toBe(200)
  expect(counted.calls).toBe(2)
})

test.each([
  [
    'cut short of its content-length',
    (_: unknown, response: ServerResponse) => {
      response.writeHead(200, { 'content-length': '100' })
      response.write('{"rows":[')
      setTimeout(() => response.destroy(), 20)
    },
  ],
  [
    'cut before its last chunk',
    (_: unknown, response: ServerResponse) => {
      response.writeHead(200)
      response.write('{"rows":[')
      setTimeout(() => response.destroy(), 20)
    },
  ],
  [
    'half of a gzip stream',
    (_: unknown, response: ServerResponse) => {
      const whole = gzipSync(JSON.stringify({ rows: Array.from({ length: 500 }, (_, i) => i * 7919) }))
      response.writeHead(200, { 'content-encoding': 'gzip' }).end(whole.subarray(0, whole.length / 2))
    },
  ],
  [
    'no gzip though it says so',
    (_: unknown, response: ServerResponse) => {
      response.writeHead(200, { 'content-encoding': 'gzip' }).end('<html>')
    },
  ],
  [
    'in an encoding nobody asked for',
    (_: unknown, response: ServerResponse) => {
      response.writeHead(200, { 'content-encoding': 'compress' }).end('x')
    },
  ],
  [
    'not UTF-8',
    (_: unknown, response: ServerResponse) => {
      response.writeHead(200).end(Buffer.from([0x7b, 0xff, 0x7d]))
    },
  ],
])('a body %s is tried again, then BODY_UNREADABLE', async (_, way) => {
  const healing = inTurn(way, fine)
  expect((await ask(client().http, await serve(healing.listener))).text).toBe('{"fine":true}')
  const lasting = inTurn(way)
  const fault = await faultFrom(ask(client({ retries: 1 }).http, await serve(lasting.listener)))
  expect(fault).toMatchObject({ code: 'BODY_UNREADABLE', facts: { status: 200, attempts: 2 } })
  expect(lasting.counted.calls).toBe(2)
})

test('a body beyond the bound is BODY_TOO_LARGE, also when only its decoded form is', async () => {
  const large = 'x'.repeat(5000)
  const { http } = client({ responseBytesMax: 1000 })
  const plain = inTurn(status(200, {}, large))
  expect((await faultFrom(ask(http, await serve(plain.listener)))).code).toBe('BODY_TOO_LARGE')
  expect(plain.counted.calls).toBe(1)
  const packed = await serve((_, response) =>
    response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(large)),
  )
  expect((await faultFrom(ask(http, packed))).code).toBe('BODY_TOO_LARGE')
})

test('nobody listening is SOURCE_UNREACHABLE, naming the host and no query', async () => {
  const url = await serve(fine)
  for (const cleanup of cleanups.splice(0)) await cleanup()
  const fault = await faultFrom(ask(client({ retries: 1 }).http, `${url}/usage?token=hunter2`))
  expect(fault.code).toBe('SOURCE_UNREACHABLE')
  expect(fault.message).toContain('ECONNREFUSED')
  expect(fault.message).not.toContain('hunter2')
})

test('an answer that never comes ends at the deadline, and one whose body stalls too', async () => {
  const { http } = client({ deadlineMs: 80, retries: 0 })
  const silent = await serve(() => {})
  expect((await faultFrom(ask(http, silent))).code).toBe('SOURCE_UNREACHABLE')
  const stalling = await serve((_, response) => {
    response.writeHead(200)
    response.write('{')
  })
  expect((await faultFrom(ask(http, stalling))).code).toBe('SOURCE_UNREACHABLE')
})

test('an abort ends a call at once: under way, waiting for a slot, and between two attempts', async () => {
  const silent = await serve(() => {})
  const { http } = client({ concurrency: 1 })
  const stop = new AbortController()
  const running = faultFrom(ask(http, silent, stop.signal))
  const waiting = faultFrom(ask(http, silent, stop.signal))
  setTimeout(() => stop.abort(), 30)
  expect((await running).code).toBe('ABORTED')
  expect((await waiting).code).toBe('ABORTED')

  const busy = await serve(status(503, { 'retry-after': '60' }))
  const sleeping = openHttp({})
  cleanups.push(async () => sleeping[Symbol.asyncDispose]())
  const stopLater = new AbortController()
  const startedMs = performance.now()
  setTimeout(() => stopLater.abort(), 100)
  expect((await faultFrom(ask(sleeping, busy, stopLater.signal))).code).toBe('ABORTED')
  expect(performance.now() - startedMs).toBeLessThan(5000)
})

test('closing the client aborts what is under way', async () => {
  const http = openHttp()
  const running = faultFrom(ask(http, await serve(() => {})))
  setTimeout(() => http[Symbol.asyncDispose](), 30)
  expect((await running).code).toBe('ABORTED')
})

test('never more than `concurrency` calls at once, and none is lost', async () => {
  let now = 0
  let most = 0
  const url = await serve((_, response) => {
    most = Math.max(most, ++now)
    setTimeout(() => {
      now--
      response.end('{}')
    }, 5)
  })
  const { http } = client({ concurrency: 3 })
  const answers = await Promise.all(Array.from({ length: 30 }, () => ask(http, url)))
  expect(answers).toHaveLength(30)
  expect(most).toBe(3)
})

test('a call that waits to be tried again leaves its slot to others', async () => {
  const { listener } = inTurn(status(503, { 'retry-after': '1' }), fine)
  const url = await serve(listener)
  const other = await serve(fine)
  const http = openHttp({ concurrency: 1 })
  cleanups.push(async () => http[Symbol.asyncDispose]())
  const order: string[] = []
  await Promise.all([
    ask(http, url).then(() => order.push('patient')),
    ask(http, other).then(() => order.push('other')),
  ])
  expect(order).toEqual(['other', 'patient'])
})

test('connections are kept between calls', async () => {
  const ports = new Set<number | undefined>()
  const url = await serve((request, response) => {
    ports.add(request.socket.remotePort)
    response.end('{}')
  })
  const { http } = client({ concurrency: 1 })
  for (let i = 0; i < 5; i++) await ask(http, url)
  expect(ports.size).toBe(1)
})

test('what a refusal says is shown without the key, even when the provider repeats it', async () => {
  const url = await serve((request, response) =>
    response
      .writeHead(403)
      .end(JSON.stringify({ error: `key ${String(request.headers['x-api-key'])} may not` })),
  )
  const fault = await faultFrom(ask(client().http, url, live, { 'x-api-key': 's3cr3t-key' }))
  expect(fault.message).toBe('test.answer: HTTP 403 (key … may not)')
})

test('who asks may tell more of a refusal than its status does, and whether to try again', async () => {
  const { counted, listener } = inTurn(
    status(500, { 'x-code': '60' }),
    status(500, { 'x-code': '202' }),
    fine,
  )
  const url = await serve(listener)
  const { http } = client()
  const refused = () =>
    http.request({
      url,
      endpoint: 'test.answer',
      signal: live,
      refusal: ({ status, headers }) => ({
        fault: new Fault('SOURCE_REFUSED', `${status} and ${headers['x-code']}`),
        again: headers['x-code'] === '202',
      }),
    })
  expect(await faultFrom(refused())).toMatchObject({ code: 'SOURCE_REFUSED', message: '500 and 60' })
  expect(counted.calls).toBe(1)
  expect((await refused()).status).toBe(200)
  expect(counted.calls).toBe(3)
})

test.each([
  ['Bearer s3cr3t-key', 's3cr3t-key'],
  [`Basic ${Buffer.from('me:s3cr3t:key').toString('base64')}`, 's3cr3t:key'],
  ['s3cr3t-key', 's3cr3t-key'],
])('nor without the scheme it was sent by: %s', async (value, secret) => {
  const url = await serve((_, response) =>
    response.writeHead(401).end(JSON.stringify({ message: `${secret} (${value}) is not valid` })),
  )
  for (const header of ['authorization', 'X-Of-The-Proxy']) {
    const fault = await faultFrom(ask(client().http, url, live, { [header]: value }))
    expect(fault.message).toBe('test.answer: HTTP 401 (… (…) is not valid)')
  }
})

test('a self-signed server is refused at once, and trusted with its certificate in `ca`', async () => {
  const tls = (name: string) => readFileSync(new URL(`../fixtures/tls/${name}`, import.meta.url), 'utf8')
  let connections = 0
  const server = createTlsServer(
    { cert: tls('loopback.cert.pem'), key: tls('loopback.key.pem') },
    (_, response) => response.end('{}'),
  ).listen(0, '127.0.0.1')
  server.on('connection', () => connections++)
  await once(server, 'listening')
  cleanups.push(async () => server.close())
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const fault = await faultFrom(ask(client().http, url))
  expect(fault.code).toBe('SOURCE_UNREACHABLE')
  expect(fault.message).toContain('DEPTH_ZERO_SELF_SIGNED_CERT')
  expect(connections).toBe(1)
  expect((await ask(client({ tls: () => ({ ca: tls('loopback.cert.pem') }) }).http, url)).text).toBe('{}')
})

test('a proxy is used for the protocol it is named for, and not for hosts it is not for', async () => {
  const target = await serve(fine)
  const seen: string[] = []
  const proxy = createServer().on('connect', (request, socket) => {
    seen.push(request.url ?? '')
    socket.end('HTTP/1.1 502 no\r\n\r\n')
  })
  proxy.on('request', (request, response) => {
    seen.push(request.url ?? '')
    response.end('{"proxied":true}')
  })
  proxy.listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  cleanups.push(async () => proxy.close())
  const address = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`
  await ask(client({ proxy: { http: address }, retries: 0 }).http, target).catch(() => undefined)
  expect(seen).toHaveLength(1)
  await ask(client({ proxy: { http: address, none: '127.0.0.1' } }).http, target)
  await ask(client({ proxy: { https: address } }).http, target)
  expect(seen).toHaveLength(1)
})

test('calls, retries and latency are counted by endpoint and status', async () => {
  registry.resetMetrics()
  const { listener } = inTurn(status(500), fine)
  await ask(client().http, await serve(listener))
  const text = await registry.metrics()
  expect(text).toContain('meterline_http_calls_total{endpoint="test.answer",status="500"} 1')
  expect(text).toContain('meterline_http_calls_total{endpoint="test.answer",status="200"} 1')
  expect(text).toContain('meterline_http_retries_total{endpoint="test.answer"} 1')
  expect(text).toContain('meterline_http_call_seconds_count{endpoint="test.answer",status="200"} 1')
})
