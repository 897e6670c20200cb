/** The door: which key is whose, how it is read again, and how much may be pushed by it over time. */
import { hash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Admitted, ConfiguredKeys, Door } from '../../runtime/keys.ts'
import type { KeyConfig } from '../../schemas/config.ts'
import { Fault } from '../../schemas/fault.ts'
import { faultOf } from '../faults.ts'

const one = 'a key of twenty-one characters'
const other = 'another key of many characters'
const rate = { eventsPerSecond: 10, bytesPerSecond: 1000, burstSeconds: 5 }
function key(name: string, change: Partial<KeyConfig>): KeyConfig {
  return { name, scopes: ['ingest'], sources: ['*'], subjects: ['*'], rate, bodyMaxBytes: 1024, ...change }
}
const hashed = (name: string, token: string) => key(name, { sha256: hash('sha256', token, 'hex') })

describe('the keys of the configuration', () => {
  const keys = new ConfiguredKeys([hashed('one', one), key('two', { key: '${env:KEY}' })], { KEY: other }, 0)

  test('are known by their hash or where they stand, and nothing else is', () => {
    expect(keys.authorize(one, 0)).toMatchObject({ name: 'one', scopes: ['ingest'], bounds: { ...rate } })
    expect(keys.authorize(other, 0)).toMatchObject({ name: 'two' })
    const wrong = ['', 'x', `${one} `, one.slice(1), one.toUpperCase(), hash('sha256', one, 'hex')]
    for (const token of [...wrong, one.repeat(100)])
      expect(keys.authorize(token, 0), token).toMatchObject({ code: 'KEY_UNKNOWN', facts: {} })
  })

  test('a key that stands in a file is read again, and goes on while the file is away', () => {
    const dir = mkdtempSync(join(tmpdir(), 'meterline-keys-'))
    const file = join(dir, 'key')
    try {
      writeFileSync(file, `${one}\n`)
      const rotated = new ConfiguredKeys([key('two', { key: `file:${file}` })], {}, 0)
      writeFileSync(file, other)
      expect(rotated.authorize(one, 500)).toMatchObject({ name: 'two' })
      expect(rotated.authorize(one, 2000)).toMatchObject({ code: 'KEY_UNKNOWN' })
      expect(rotated.authorize(other, 2000)).toMatchObject({ name: 'two' })
      expect(rotated.problem()).toBeUndefined()
      rmSync(file)
      expect(rotated.authorize(other, 4000)).toMatchObject({ name: 'two' })
      expect(rotated.problem()).toMatch(/^SECRET_MISSING keys two/)
      writeFileSync(file, other)
      expect(rotated.authorize(other, 6000)).toMatchObject({ name: 'two' })
      expect(rotated.problem()).toBeUndefined()
    } finally {
      rmSync(dir, { recursive: true })
    }
  })

  test('one that is missing, short, or that of another stops the start, and is not told', () => {
    const start = (second: KeyConfig, env: Readonly<Record<string, string>> = {}) =>
      faultOf(() => new ConfiguredKeys([hashed('one', one), second], env, 0))
    const there = key('two', { key: '${env:KEY}' })
    expect(start(there)).toMatchObject({ code: 'SECRET_MISSING' })
    for (const text of ['too short', one]) {
      const fault = start(there, { KEY: text })
      expect(fault.code).toBe('CONFIG_INVALID')
      expect(fault.message).toContain('two')
      expect(JSON.stringify([fault.message, fault.facts])).not.toContain(text)
    }
  })
})

const request = (headers: Record<string, string>, remoteAddress = '10.0.0.7') =>
  ({
    headers: { host: 'meterline.example', ...headers },
    socket: { remoteAddress },
  }) as unknown as IncomingMessage
const bearer = (token: string) => request({ authorization: `Bearer ${token}` })
const nowMs = () => 0

describe('without keys', () => {
  const local = { host: 'localhost:8080' }
  test('programs of this machine come in, and no pages of others; or whoever reaches the port', async () => {
    const door = new Door({ open: 'loopback', nowMs })
    const enters = async (asked: IncomingMessage) => !((await door.admit(asked)) instanceof Fault)
    expect(await enters(request(local, '127.0.0.1'))).toBe(true)
    expect(await enters(request({ ...local, origin: 'http://localhost:3000' }, '::1'))).toBe(true)
    for (const origin of ['https://evil.example', 'null', 'http://localhost.evil.example', ''])
      expect(await enters(request({ ...local, origin }, '127.0.0.1')), origin).toBe(false)
    expect(await enters(request(local))).toBe(false)
    expect(await enters(request({}, '127.0.0.1'))).toBe(false)
    expect(await new Door({ open: 'anyone', nowMs }).admit(request({}))).toMatchObject({
      grant: { name: '' },
    })
  })
})

describe('with keys', () => {
  const token = one.replaceAll(' ', '-')
  const keys = new ConfiguredKeys([hashed('one', token)], {}, 0)
  let steadyMs = 0
  const doorAtNow = () => new Door({ keys, open: 'keys', nowMs, steadyMs: () => steadyMs })
  const entered = async (door: Door): Promise<Admitted> => {
    const admitted = await door.admit(bearer(token))
    if (admitted instanceof Fault) throw admitted
    return admitted
  }

  test('nobody comes in without one, from wherever and however it is written', async () => {
    const door = doorAtNow()
    const wrong = [
      undefined,
      '',
      'Bearer',
      'Bearer ',
      `Basic ${token}`,
      token,
      `Bearer ${token}x`,
      `Bearer ${token} x`,
    ]
    for (const authorization of wrong) {
      const headers = authorization === undefined ? {} : { authorization }
      const asked = request({ ...headers, host: 'localhost' }, '127.0.0.1')
      expect(await door.admit(asked), authorization).toMatchObject({ code: 'KEY_UNKNOWN', facts: {} })
    }
    expect(await door.admit(request({ authorization: `bearer  ${token} ` }))).toMatchObject({
      grant: { name: 'one' },
    })
  })

  test('a burst may be spent at once, then it is the rate; the answer says when to come again', async () => {
    const door = doorAtNow()
    ;(await entered(door)).spend(50, 0)
    expect(await door.admit(bearer(token))).toMatchObject({
      code: 'RATE_EXCEEDED',
      facts: { retryAfterSeconds: 1 },
    })
    steadyMs += 99
    expect(await door.admit(bearer(token))).toBeInstanceOf(Fault)
    steadyMs += 2
    ;(await entered(door)).spend(1, 0)
    expect(await door.admit(bearer(token))).toBeInstanceOf(Fault)
    // More than is left is let through, and waited for.
    steadyMs += 5000
    ;(await entered(door)).spend(0, 15_000)
    expect(await door.admit(bearer(token))).toMatchObject({ facts: { retryAfterSeconds: 11 } })
    steadyMs += 10_000
    expect(await door.admit(bearer(token))).toBeInstanceOf(Fault)
    steadyMs += 11
    await entered(door)
  })

  test('whatever is pushed whenever: over any time it is no more than the rate, a burst, and one request', async () => {
    const asked = fc.record({
      afterMs: fc.integer({ min: 0, max: 3000 }),
      events: fc.integer({ min: 1, max: 60 }),
      bytes: fc.integer({ min: 1, max: 6000 }),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(asked, { maxLength: 60 }), async requests => {
        const door = doorAtNow()
        const taken: { atMs: number; events: number; bytes: number }[] = []
        for (const { afterMs, events, bytes } of requests) {
          steadyMs += afterMs
          const admitted = await door.admit(bearer(token))
          if (admitted instanceof Fault) continue
          admitted.spend(events, bytes)
          taken.push({ atMs: steadyMs, events, bytes })
        }
        for (const [first, from] of taken.entries())
          for (let last = first; last < taken.length; last += 1) {
            const seconds = (taken[last]!.atMs - from.atMs) / 1000
            const before = taken.slice(first, last)
            const sum = (what: 'events' | 'bytes') => before.reduce((total, each) => total + each[what], 0)
            expect(sum('events')).toBeLessThanOrEqual(10 * (5 + seconds) + 1e-6)
            expect(sum('bytes')).toBeLessThanOrEqual(1000 * (5 + seconds) + 1e-6)
          }
      }),
    )
  })
})
