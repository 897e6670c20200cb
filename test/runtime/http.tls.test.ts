/** Certificates of a client and of whom it trusts, on real TLS servers: shown, rotated while it runs, and wrong. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { TLSSocket } from 'node:tls'
import { afterEach, expect, test } from 'vitest'
import { type Http, openHttp, type TlsFiles } from '../../runtime/http.ts'
import { Fault } from '../../schemas/fault.ts'
import { faultFrom } from '../faults.ts'

const cleanups: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

const pem = (name: string) => readFileSync(new URL(`../fixtures/tls/${name}.pem`, import.meta.url), 'utf8')
const pairOf = (name: string) => ({ cert: pem(`${name}.cert`), key: pem(`${name}.key`) })
const first = pairOf('loopback')
const second = pairOf('rotated')

interface Served {
  readonly server: Server
  readonly url: string
  /** Of the certificate that each call's client showed, `none` without one. */
  readonly shown: string[]
  /** Answers to calls of /slow, which wait. */
  readonly slow: (() => void)[]
}

/** `trusts` asks clients for a certificate that one of these signed. */
async function serve(pair: TlsFiles, trusts?: readonly string[]): Promise<Served> {
  const shown: string[] = []
  const slow: (() => void)[] = []
  const server = createServer(
    { ...pair, ...(trusts && { ca: [...trusts], requestCert: true, rejectUnauthorized: true }) },
    (request, response) => {
      const peer = (request.socket as TLSSocket).getPeerCertificate()
      shown.push(String(peer?.subject?.CN ?? 'none'))
      if (request.url === '/slow') slow.push(() => response.end('late'))
      else if (request.url === '/stream') response.writeHead(200).write('one')
      else response.end('{}')
    },
  ).listen(0, '127.0.0.1')
  await once(server, 'listening')
  cleanups.push(async () => {
    server.closeAllConnections()
    server.close()
  })
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`
  return { server, url, shown, slow }
}

function client(tls: () => TlsFiles, concurrency = 8): Http {
  const http = openHttp({ tls, concurrency, retries: 0, deadlineMs: 5000 })
  cleanups.push(async () => http[Symbol.asyncDispose]())
  return http
}

const live = new AbortController().signal
const ask = (http: Http, url: string) => http.request({ url, endpoint: 'test.tls', signal: live })
const watch = (http: Http, url: string) =>
  http.stream({ url: `${url}/stream`, endpoint: 'test.tls', signal: live, idleMs: 5000 })

test('a server that asks for a certificate is shown the one that is configured, by calls and streams', async () => {
  const { url, shown } = await serve(first, [second.cert])
  const http = client(() => ({ ca: first.cert, ...second }))
  expect((await ask(http, url)).text).toBe('{}')
  for await (const piece of (await watch(http, url)).pieces) {
    expect(piece).toBe('one')
    break
  }
  expect(shown).toEqual(['meterline test, rotated', 'meterline test, rotated'])
})

test('without a certificate, or with one that the server does not trust, it is not reached, and no key is told', async () => {
  const { url, shown } = await serve(first, [second.cert])
  for (const files of [{ ca: first.cert }, { ca: first.cert, ...first }]) {
    const fault = await faultFrom(
      ask(
        client(() => files),
        url,
      ),
    )
    expect(fault.code).toBe('SOURCE_UNREACHABLE')
    expect(fault.message + JSON.stringify(fault.facts)).not.toContain('PRIVATE')
  }
  expect(shown).toEqual([])
})

test('a certificate and an authority that were rotated count at the next call', async () => {
  const before = await serve(first)
  const after = await serve(second, [second.cert])
  let files: TlsFiles = { ca: first.cert }
  const http = client(() => files)
  expect((await ask(http, before.url)).text).toBe('{}')
  expect((await faultFrom(ask(http, after.url))).message).toContain('DEPTH_ZERO_SELF_SIGNED_CERT')

  files = { ca: second.cert, ...second }
  expect((await ask(http, after.url)).text).toBe('{}')
  expect(after.shown).toEqual(['meterline test, rotated'])
  // Whom nobody vouches for any more is not spoken to over a connection of before.
  expect((await faultFrom(ask(http, before.url))).code).toBe('SOURCE_UNREACHABLE')
  expect(before.shown).toHaveLength(1)
})

test('a call and a stream that are under way end on the certificates they began with', async () => {
  const before = await serve(first)
  const after = await serve(second)
  let files: TlsFiles = { ca: first.cert }
  const http = client(() => files)
  const slow = ask(http, `${before.url}/slow`)
  const stream = await watch(http, before.url)
  await expect.poll(() => before.slow.length).toBe(1)

  files = { ca: second.cert }
  expect((await ask(http, after.url)).text).toBe('{}')
  await sleep(50)
  before.slow[0]?.()
  expect((await slow).text).toBe('late')
  for await (const piece of stream.pieces) {
    expect(piece).toBe('one')
    break
  }
})

test('closing ends also what is under way on certificates of before', async () => {
  const { url, slow } = await serve(first)
  let files: TlsFiles = { ca: first.cert }
  const http = client(() => files)
  const call = faultFrom(ask(http, `${url}/slow`))
  const unread = await watch(http, url)
  await expect.poll(() => slow.length).toBe(1)
  files = { ca: second.cert }
  expect((await faultFrom(ask(http, url))).code).toBe('SOURCE_UNREACHABLE')
  const startedMs = performance.now()
  await http[Symbol.asyncDispose]()
  expect(performance.now() - startedMs).toBeLessThan(2000)
  expect((await call).code).toBe('ABORTED')
  const stopped = async () => {
    for await (const _ of unread.pieces);
  }
  expect((await faultFrom(stopped())).code).toBe('ABORTED')
})

test('files that are the same keep their connections', async () => {
  const { url, server } = await serve(first)
  let connections = 0
  server.on('secureConnection', () => connections++)
  let asked = 0
  const http = client(() => {
    asked++
    return { ca: `${first.cert}` }
  }, 1)
  for (let at = 0; at < 4; at++) await ask(http, url)
  expect([asked, connections]).toEqual([4, 1])
})

test('what cannot be read is its own fault, and is asked for again at the next call', async () => {
  const { url } = await serve(first)
  let isThere = false
  const http = client(() => {
    if (!isThere) throw new Fault('SECRET_MISSING', 'the file is not there')
    return { ca: first.cert }
  })
  expect((await faultFrom(ask(http, url))).code).toBe('SECRET_MISSING')
  expect((await faultFrom(watch(http, url))).code).toBe('SECRET_MISSING')
  isThere = true
  expect((await ask(http, url)).text).toBe('{}')
})

test('what is no certificate reaches nobody, and says so without its text', async () => {
  const { url } = await serve(first)
  const http = client(() => ({ ca: first.cert, cert: 'not a certificate', key: 's3cr3t' }))
  const fault = await faultFrom(ask(http, url))
  expect(fault.code).toBe('SOURCE_UNREACHABLE')
  expect(fault.message).not.toMatch(/s3cr3t|not a certificate/)
})

test('anybody is trusted only where that is said', async () => {
  const { url } = await serve(second)
  expect(
    (
      await faultFrom(
        ask(
          client(() => ({})),
          url,
        ),
      )
    ).code,
  ).toBe('SOURCE_UNREACHABLE')
  expect(
    (
      await ask(
        client(() => ({ verify: 'nobody checks' })),
        url,
      )
    ).text,
  ).toBe('{}')
})
