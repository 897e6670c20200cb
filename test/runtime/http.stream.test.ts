/** The body that is read while it comes, from real servers that stall, break off, refuse and go on for ever. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import { type Http, type HttpOptions, type HttpStreamRequest, openHttp } from '../../runtime/http.ts'
import { registry } from '../../runtime/metrics.ts'
import { Fault } from '../../schemas/fault.ts'
import { faultFrom } from '../faults.ts'

const cleanups: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

async function serve(listener: (request: IncomingMessage, response: ServerResponse) => void) {
  const server = createServer(listener).listen(0, '127.0.0.1')
  let closed = 0
  server.on('connection', socket => socket.on('close', () => closed++))
  await once(server, 'listening')
  cleanups.push(async () => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/watch`, closed: () => closed }
}

function client(options: HttpOptions = {}): Http {
  const http = openHttp({ retries: 3, ...options })
  cleanups.push(async () => http[Symbol.asyncDispose]())
  return http
}

const live = new AbortController().signal
const asked = (url: string, more: Partial<HttpStreamRequest> = {}): HttpStreamRequest => ({
  url,
  endpoint: 'test.watch',
  signal: live,
  idleMs: 5000,
  ...more,
})

async function textOf(pieces: AsyncIterable<string>): Promise<string> {
  let text = ''
  for await (const piece of pieces) text += piece
  return text
}

async function until(holds: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + 5000
  while (!holds()) {
    if (performance.now() > deadlineMs) throw new Error(`it did not come to hold: ${holds}`)
    await sleep(5)
  }
}

test('pieces come while the provider still writes, and letters that are cut in two come whole', async () => {
  const bytes = Buffer.from('{"name":"Zürich 🚀"}\n')
  let goOn: () => void = () => undefined
  const { url } = await serve((_, response) => {
    response.writeHead(200, { 'X-Kind': 'watch' }).write('first\n')
    goOn = () => {
      void (async () => {
        for (const byte of bytes) {
          response.write(Buffer.of(byte))
          await sleep(1)
        }
        response.end()
      })()
    }
  })
  const { status, headers, pieces } = await client().stream(asked(url))
  expect([status, headers['x-kind']]).toEqual([200, 'watch'])
  const all: string[] = []
  for await (const piece of pieces) {
    if (all.length === 0) goOn()
    expect(piece).not.toBe('')
    all.push(piece)
  }
  expect(all[0]).toBe('first\n')
  expect(all.slice(1).join('')).toBe(bytes.toString())
  expect(all.length).toBeGreaterThan(5)
})

test('silence is SOURCE_UNREACHABLE: before the answer, and between two pieces of it', async () => {
  const silent = await serve(() => undefined)
  const before = await faultFrom(client().stream(asked(silent.url, { idleMs: 60 })))
  expect(before).toMatchObject({ code: 'SOURCE_UNREACHABLE', message: 'test.watch: silent for 0.06 s' })
  await until(() => silent.closed() === 1)

  const stalling = await serve((_, response) => void response.writeHead(200).write('one'))
  const { pieces } = await client().stream(asked(stalling.url, { idleMs: 400 }))
  const startedMs = performance.now()
  const between = await faultFrom(textOf(pieces))
  expect(between).toMatchObject({ code: 'SOURCE_UNREACHABLE', facts: { status: 200 } })
  expect(performance.now() - startedMs).toBeLessThan(2000)
  await until(() => stalling.closed() === 1)
})

test('what is never silent for so long goes on for longer than that', async () => {
  const { url } = await serve((_, response) => {
    response.writeHead(200)
    void (async () => {
      for (let at = 0; at < 10; at++) {
        response.write(`${at}`)
        await sleep(60)
      }
      response.end()
    })()
  })
  const { pieces } = await client().stream(asked(url, { idleMs: 450 }))
  expect(await textOf(pieces)).toBe('0123456789')
})

test('who takes long over a piece is not taken for a silent provider, where the next ones are there', async () => {
  const { url } = await serve((_, response) => {
    response.writeHead(200).write('a')
    setTimeout(() => response.end('b'), 20)
  })
  const { pieces } = await client().stream(asked(url, { idleMs: 400 }))
  let text = ''
  for await (const piece of pieces) {
    text += piece
    await sleep(600)
  }
  expect(text).toBe('ab')
})

test.each([
  ['breaks off', (response: ServerResponse) => setTimeout(() => response.destroy(), 20)],
  ['is no UTF-8', (response: ServerResponse) => response.end(Buffer.from([0x7b, 0xff]))],
  ['ends in the middle of a letter', (response: ServerResponse) => response.end(Buffer.from([0xe2, 0x82]))],
])('a body that %s is BODY_UNREADABLE, behind the pieces that came', async (_, then) => {
  const { url } = await serve((_request, response) => {
    response.writeHead(200).write('one\n')
    setTimeout(() => then(response), 20)
  })
  const { pieces } = await client().stream(asked(url))
  let text = ''
  const fault = await faultFrom(
    (async () => {
      for await (const piece of pieces) text += piece
    })(),
  )
  expect([text, fault.code, fault.facts.status]).toEqual(['one\n', 'BODY_UNREADABLE', 200])
})

test.each([
  [429, { 'retry-after': '7' }, 'SOURCE_BUSY', 7000],
  [503, {}, 'SOURCE_BUSY', undefined],
  [302, { location: '/elsewhere' }, 'SOURCE_REFUSED', undefined],
  [401, {}, 'SOURCE_DENIED', undefined],
  [410, {}, 'SOURCE_MISSING', undefined],
])(
  'a %i is its fault, asked for once, with what the provider said',
  async (status, headers, code, waitMs) => {
    const paths: (string | undefined)[] = []
    const { url } = await serve((request, response) => {
      paths.push(request.url)
      response.writeHead(status, headers).end('{"kind":"Status","message":"too old: Bearer s3cr3t"}')
    })
    const fault = await faultFrom(
      client().stream(asked(url, { headers: { authorization: 'Bearer s3cr3t' } })),
    )
    expect(fault.code).toBe(code)
    expect(fault.facts.retryAfterMs).toBe(waitMs)
    expect(fault.message).toBe(`test.watch: HTTP ${status} (too old: …)`)
    expect(paths).toEqual(['/watch'])
  },
)

test('nobody listening is SOURCE_UNREACHABLE, without the query', async () => {
  const { url } = await serve(() => undefined)
  for (const cleanup of cleanups.splice(0)) await cleanup()
  const fault = await faultFrom(client().stream(asked(`${url}?token=hunter2`)))
  expect(fault).toMatchObject({
    code: 'SOURCE_UNREACHABLE',
    message: expect.stringContaining('ECONNREFUSED'),
  })
  expect(fault.message).not.toContain('hunter2')
})

test('an abort ends it: before the answer, between pieces, and before the first was asked for', async () => {
  const { url, closed } = await serve((request, response) => {
    if (request.url !== '/silent') response.writeHead(200).write('one')
  })
  const http = client()
  const aborting = async (work: (signal: AbortSignal) => Promise<unknown>) => {
    const stop = new AbortController()
    setTimeout(() => stop.abort(), 60)
    return (await faultFrom(work(stop.signal))).code
  }
  const silent = url.replace('/watch', '/silent')
  expect(await aborting(signal => http.stream(asked(silent, { signal })))).toBe('ABORTED')
  expect(await aborting(async signal => textOf((await http.stream(asked(url, { signal }))).pieces))).toBe(
    'ABORTED',
  )
  expect(
    await aborting(async signal => {
      const { pieces } = await http.stream(asked(url, { signal }))
      await once(signal, 'abort')
      await sleep(20)
      return await textOf(pieces)
    }),
  ).toBe('ABORTED')
  expect((await faultFrom(http.stream(asked(url, { signal: AbortSignal.abort() })))).code).toBe('ABORTED')
  await until(() => closed() === 3)
})

test('a stream that nobody reads is let go of when it was silent for so long, and breaks nothing', async () => {
  const { url, closed } = await serve((_, response) => void response.writeHead(200).write('one'))
  const failures: unknown[] = []
  const note = (error: unknown) => failures.push(error)
  process.on('uncaughtException', note)
  cleanups.push(async () => process.off('uncaughtException', note))
  await client().stream(asked(url, { idleMs: 400 }))
  await until(() => closed() === 1)
  await sleep(20)
  expect(failures).toEqual([])
})

test('it takes no slot: calls go on beside streams that never end', async () => {
  const { url } = await serve((request, response) => {
    response.writeHead(200)
    if (request.url === '/watch') response.write('one')
    else response.end('{}')
  })
  const http = client({ concurrency: 1, deadlineMs: 3000 })
  const streams = await Promise.all(Array.from({ length: 20 }, () => http.stream(asked(url))))
  const call = { url: url.replace('/watch', '/list'), endpoint: 'test.list', signal: live }
  expect((await http.request(call)).text).toBe('{}')
  const running = streams.map(({ pieces }) => faultFrom(textOf(pieces)))
  expect((await http.request(call)).text).toBe('{}')
  // And closing the client ends them all.
  await http[Symbol.asyncDispose]()
  expect(new Set((await Promise.all(running)).map(({ code }) => code))).toEqual(new Set(['ABORTED']))
})

test('to leave the loop closes the connection', async () => {
  const { url, closed } = await serve((_, response) => {
    const timer = setInterval(() => response.write('line\n'), 5)
    response.on('close', () => clearInterval(timer))
    response.writeHead(200)
  })
  const { pieces } = await client().stream(asked(url))
  for await (const _ of pieces) break
  await until(() => closed() === 1)

  const thrown = await client().stream(asked(url))
  const broken = async () => {
    for await (const _ of thrown.pieces) throw new Fault('ITEM_UNREADABLE', 'mine')
  }
  expect((await faultFrom(broken())).message).toBe('mine')
  await until(() => closed() === 2)
})

test('each is counted once, by its status, and nothing is left listening to the signal', async () => {
  registry.resetMetrics()
  const { url } = await serve((_, response) => response.writeHead(200).end('one'))
  const stop = new AbortController()
  let listening = 0
  const { addEventListener, removeEventListener } = stop.signal
  stop.signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
    listening++
    addEventListener.apply(stop.signal, args)
  }
  stop.signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
    listening--
    removeEventListener.apply(stop.signal, args)
  }
  const http = client()
  for (let at = 0; at < 3; at++) await textOf((await http.stream(asked(url, { signal: stop.signal }))).pieces)
  expect(listening).toBe(0)
  expect(await registry.metrics()).toContain(
    'meterline_http_calls_total{endpoint="test.watch",status="200"} 3',
  )
})
