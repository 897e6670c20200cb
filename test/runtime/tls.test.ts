/** TLS by file, on a real server: what it shows, what it takes, and files that are replaced while it runs. */
import { cpSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { request as requestInTheClear } from 'node:http'
import { Agent, request } from 'node:https'
import { connect as connectInTheClear } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect, type TLSSocket } from 'node:tls'
import { Registry } from 'prom-client'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Health, serveHealth } from '../../runtime/health.ts'
import { faultFrom } from '../faults.ts'

const fixtures = new URL('../fixtures/tls/', import.meta.url)
let dir = ''
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-tls-'))
  lay('loopback')
})
afterEach(() => rmSync(dir, { recursive: true }))

const paths = () => ({ cert: join(dir, 'tls.crt'), key: join(dir, 'tls.key') })
/** Replaces the files as whoever rotates them does: each at once, one after the other. */
function lay(name: string, which: readonly ('cert' | 'key')[] = ['cert', 'key']): void {
  for (const part of which) {
    cpSync(new URL(`${name}.${part}.pem`, fixtures), join(dir, 'new'))
    renameSync(join(dir, 'new'), paths()[part])
  }
}

function serve(health = new Health()) {
  return serveHealth({ health, registry: new Registry(), host: '127.0.0.1', port: 0, tls: paths() })
}

/** The fingerprint that is shown to a new connection. */
function shown(url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket: TLSSocket = connect(
      { host: '127.0.0.1', port: Number(new URL(url).port), rejectUnauthorized: false },
      () => {
        resolve(socket.getPeerCertificate().fingerprint256)
        socket.destroy()
      },
    )
    socket.once('error', reject)
  })
}

function statusOf(url: string, agent?: Agent): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    request(url, { rejectUnauthorized: false, ...(agent && { agent }) }, response => {
      response.resume()
      response.once('end', () => resolve(response.statusCode))
    })
      .once('error', reject)
      .end()
  })
}

test('everything is served over TLS, and nothing in the clear or over what is broken', async () => {
  await using server = await serve()
  expect(server.url).toMatch(/^https:/)
  expect(await statusOf(`${server.url}/healthz`)).toBe(200)
  const { port } = new URL(server.url)
  const inTheClear = new Promise((resolve, reject) => {
    requestInTheClear(`http://127.0.0.1:${port}/healthz`, resolve).once('error', reject).end()
  })
  await expect(inTheClear).rejects.toThrow(/socket hang up|ECONNRESET/)
  const old = new Promise((resolve, reject) => {
    connect({ host: '127.0.0.1', port: Number(port), rejectUnauthorized: false, maxVersion: 'TLSv1.1' })
      .once('secureConnect', resolve)
      .once('error', reject)
  })
  await expect(old).rejects.toThrow()
  // Neither stops it, nor does one who hangs up amid the handshake.
  connectInTheClear(Number(port), '127.0.0.1')
    .once('error', () => undefined)
    .end('\x16\x03\x01\x02')
  await sleep(50)
  expect(await statusOf(`${server.url}/healthz`)).toBe(200)
})

test('files that are replaced count without a restart, once they fit each other', async () => {
  const health = new Health()
  await using server = await serve(health)
  const first = await shown(server.url)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  expect(await statusOf(`${server.url}/healthz`, agent)).toBe(200)
  lay('rotated', ['cert'])
  await sleep(1200)
  expect(health.results().tls).toMatch(/^CONFIG_INVALID .*tls\.crt and .*tls\.key cannot be used together/)
  expect(await shown(server.url)).toBe(first)
  lay('rotated', ['key'])
  await sleep(1200)
  expect(health.results().tls).toBe('ok')
  const second = await shown(server.url)
  expect(second).not.toBe(first)
  // Who was connected stays so.
  expect(await statusOf(`${server.url}/healthz`, agent)).toBe(200)
  agent.destroy()
  rmSync(paths().key)
  await sleep(1200)
  expect(health.results().tls).toMatch(/^CONFIG_INVALID listen\.tls\.key: .* cannot be read \(ENOENT\)/)
  expect(await shown(server.url)).toBe(second)
})

test('it does not start with what is no certificate, and tells neither file', async () => {
  lay('rotated', ['key'])
  expect((await faultFrom(serve())).code).toBe('CONFIG_INVALID')
  writeFileSync(paths().key, 'a secret that is no key')
  const fault = await faultFrom(serve())
  expect(fault.code).toBe('CONFIG_INVALID')
  expect(`${fault.message} ${JSON.stringify(fault.facts)} ${fault.cause}`).not.toContain('a secret')
  rmSync(paths().cert)
  expect((await faultFrom(serve())).message).toMatch(/listen\.tls\.cert: .* cannot be read \(ENOENT\)/)
})
