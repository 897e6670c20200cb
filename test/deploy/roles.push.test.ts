/** A collector without sources: a mistake, or a sidecar where it is said to be one; what it answers with no Kafka there. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { collect } from '../../deploy/roles.ts'
import { registry } from '../../runtime/metrics.ts'
import { faultFrom } from '../faults.ts'
import { start } from '../rig/meterline.ts'
import { asDaemon, freePort } from './daemons.ts'

const dir = mkdtempSync(join(tmpdir(), 'meterline-push-'))
afterAll(() => rmSync(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }))
// A daemon is one a process, and registers itself.
afterEach(() => registry.clear())
// Nobody listens there.
const kafka = { brokers: ['127.0.0.1:1'], replicationFactor: 1, minInSyncReplicas: 1 }

function configured(name: string, more: object): string {
  const file = join(dir, `${name}.yaml`)
  writeFileSync(file, stringify({ data: join(dir, name), kafka, ...more }))
  return file
}

test.each([
  ['neither sources nor keys', {}, /no `sources` are configured.*`listen: \{push: true\}`.*`keys`/],
  [
    'keys, and nobody may push',
    {
      listen: { push: false },
      keys: [{ name: 'a', sha256: 'a'.repeat(64), sources: ['*'], subjects: ['*'] }],
    },
    /no `sources` are configured/,
  ],
  [
    'a key that is not there',
    { keys: [{ name: 'app', key: '${env:NOT_SET}', sources: ['*'], subjects: ['*'] }] },
    /SECRET_MISSING keys app/,
  ],
])('%s: it does not start, and says what to do', async (name, more, says) => {
  const port = await freePort()
  const listen = { port, api: 'loopback', ...('listen' in more ? more.listen : {}) }
  const file = configured(name.replaceAll(' ', '-'), { ...more, listen })
  const settings = { config: file, signal: new AbortController().signal, env: {}, nowMs: Date.now }
  const said = { stdout: () => undefined, stderr: () => undefined }
  const fault = await faultFrom(collect({ ...settings, ...said }))
  expect(`${fault.code} ${fault.message}`).toMatch(says)
})

test('a sidecar takes from its own machine what is pushed, while there is no Kafka, and answers nothing else', async () => {
  const port = await freePort()
  const file = configured('sidecar', { listen: { port, push: true, api: 'loopback' } })
  await using running = start(['--config', file, 'collect'], { cwd: dir })
  const daemon = asDaemon(running, port)
  // While it starts it asks to come again, with 503, or cannot be reached.
  const event = {
    specversion: '1.0',
    id: '1',
    source: 'urn:app',
    type: 'call',
    subject: 'acme',
    data: { n: 1 },
  }
  const post = (headers: Record<string, string> = {}) =>
    new Promise<number | undefined>(resolve => {
      const type = { 'content-type': 'application/cloudevents+json' }
      request(`${daemon.url}/api/v1/events`, { method: 'POST', headers: { ...type, ...headers } }, answer =>
        resolve(answer.resume().statusCode),
      )
        .once('error', () => resolve(undefined))
        .end(JSON.stringify(event))
    })
  const seen = new Set<number | undefined>()
  for (let tries = 0; !seen.has(204) && tries < 600; tries += 1) {
    seen.add(await post())
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  expect([...seen].filter(status => status !== undefined && status !== 503)).toEqual([204])
  expect(await post({ host: 'evil.example' })).toBe(401)
  expect(await post({ origin: 'https://evil.example' })).toBe(401)
  expect((await daemon.get('/api/v1/events')).status).toBe(405)
  expect((await daemon.get('/api/v1/coverage')).status).toBe(404)
  expect((await daemon.get('/healthz')).status).toBe(200)
  expect((await daemon.get('/metrics')).text).toMatch(/^meterline_outbox_\w+\S* 1$/m)
}, 90_000)
