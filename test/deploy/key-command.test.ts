/** `meterline key` and a daemon that is asked by it: closed until a key is made, and closed again within a second. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { check } from '../../deploy/check.ts'
import { createKeyCommand, listKeysCommand, revokeKeyCommand } from '../../deploy/key-command.ts'
import type { Settings } from '../../deploy/roles.ts'
import { faultFrom } from '../faults.ts'
import { meterline, start } from '../rig/meterline.ts'
import { asDaemon, freePort } from './daemons.ts'

const dir = mkdtempSync(join(tmpdir(), 'meterline-keys-'))
afterAll(() => rmSync(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }))

/** Every file below it, whatever it holds. */
function* bytesBelow(folder: string): Generator<readonly [string, string]> {
  for (const name of readdirSync(folder, { recursive: true }) as string[]) {
    const path = join(folder, name)
    if (statSync(path, { throwIfNoEntry: false })?.isFile()) yield [path, readFileSync(path, 'latin1')]
  }
}

test('nobody is answered until a key is made, nor a second after it was revoked; and no key is written anywhere', async () => {
  const [port, scraped] = [await freePort(), 'a-key-of-a-scraper-7f31c09a5d']
  const file = join(dir, 'meterline.yaml')
  const charges = [{ id: 'hours', meter: 'gpu_hours', unit: 'Hours', price: { unit: '1' } }]
  const secret = 'the-secret-of-a-source-2b7e1516'
  writeFileSync(
    file,
    stringify({
      data: 'data',
      accounts: 'accounts.yaml',
      priceBooks: ['prices.yaml'],
      listen: { port },
      sources: [{ kind: 'rafay', name: 'none', url: 'http://127.0.0.1:1', apiKey: '${env:SOURCE_SECRET}' }],
      keys: [{ name: 'scraper', key: '${env:SCRAPER_KEY}', scopes: ['read'] }],
    }),
  )
  writeFileSync(
    join(dir, 'accounts.yaml'),
    stringify({ accounts: [{ id: 'acme', currency: 'USD', priceBook: 'list', subjects: [] }] }),
  )
  writeFileSync(
    join(dir, 'prices.yaml'),
    stringify({ id: 'list', version: 1, currency: 'USD', timezone: 'UTC', unpriced: 'error', charges }),
  )
  const env = { SOURCE_SECRET: secret, SCRAPER_KEY: scraped, METERLINE_LOG_LEVEL: 'debug' }
  const ran = async (command: (settings: Settings) => Promise<number>) => {
    const [stdout, stderr]: [string[], string[]] = [[], []]
    const code = await command({
      ...{ config: file, env, signal: new AbortController().signal, nowMs: Date.now },
      stdout: text => void stdout.push(text),
      stderr: line => void stderr.push(line),
    })
    return { code, stdout: stdout.join(''), stderr: stderr.join('\n') }
  }
  await using up = asDaemon(start(['--config', file, 'up'], { env, cwd: dir }), port)
  const get = async (path: string, key?: string) => {
    const response = await fetch(up.url + path, key ? { headers: { authorization: `Bearer ${key}` } } : {})
    return [response.status, await response.text()] as const
  }
  const isUp = () =>
    get('/api/v1/coverage', scraped).then(
      ([status]) => status !== 503,
      () => false,
    )
  while (!(await isUp())) await sleep(100)

  const closed = await get('/api/v1/coverage')
  expect(closed[0]).toBe(401)
  expect(JSON.parse(closed[1]).detail).toMatch(/meterline key create --name NAME --scope read/)
  expect((await get('/metrics'))[0]).toBe(401)
  expect((await get('/metrics', scraped))[0]).toBe(200)
  expect((await get('/readyz'))[1]).not.toContain('127.0.0.1:1')

  const portal = { name: 'portal', scope: ['read'], account: 'amce' }
  const unknown = await faultFrom(ran(settings => createKeyCommand({ ...settings, ...portal })))
  expect(unknown).toMatchObject({ code: 'USAGE', message: expect.stringContaining('amce') })
  const wanted = [
    ...['--name', 'mine', '--scope', 'read', '--expires', '90d'],
    '--limit',
    'requests_per_minute=90',
  ]
  const made = await meterline(['--config', file, 'key', 'create', ...wanted], { env, cwd: dir })
  expect(made.code, made.stderr).toBe(0)
  // Nothing but the key, so that a script can take it.
  expect(made.stdout).toMatch(/^mtl_[0-9a-f]{12}_[A-Za-z0-9_-]{43}\n$/)
  const key = made.stdout.trim()
  // What is known of keys is half a second old at most.
  await sleep(600)
  expect((await get('/api/v1/coverage', key))[0]).toBe(200)
  expect((await get('/api/v1/rejected', key))[0]).toBe(403)
  const listed = await ran(settings => listKeysCommand({ ...settings, json: true }))
  expect(JSON.parse(listed.stdout)).toMatchObject([
    {
      ...{ name: 'mine', prefix: key.slice(4, 16), scopes: ['read'], account: null, state: 'valid' },
      limits: { requests_per_minute: 90 },
    },
  ])

  expect((await ran(settings => revokeKeyCommand({ ...settings, named: 'mine' }))).code).toBe(0)
  await sleep(1000)
  expect((await get('/api/v1/coverage', key))[0]).toBe(401)
  expect((await ran(listKeysCommand)).stdout).toContain('revoked')

  // Its customer has left.
  const bound = { name: 'left', scope: ['read'], account: 'acme' }
  expect((await ran(settings => createKeyCommand({ ...settings, ...bound }))).code).toBe(0)
  writeFileSync(join(dir, 'accounts.yaml'), stringify({ accounts: [] }))
  const checked = await ran(settings => check({ ...settings, json: true, answerMsMax: 100 }))
  const left = 'key left: there is no account "acme", so it shows nothing'
  expect(JSON.parse(checked.stdout).keys).toEqual({ faults: [], notes: [left] })

  const metrics = (await get('/metrics', scraped))[1]
  const said = `${up.stderr()}${metrics}${listed.stdout}${made.stderr}`
  expect(said).toContain('scraper')
  await up.stop()
  for (const hidden of [key.slice(17), scraped, secret]) {
    expect(said).not.toContain(hidden)
    for (const [path, bytes] of bytesBelow(dir)) expect(bytes.includes(hidden), path).toBe(false)
  }
})
