/** Every key × source × subject × type × mode against a table written by hand, and what the answers and the log tell of it. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { accept } from '../../../processor/accept.ts'
import { Door, type Keys } from '../../../runtime/keys.ts'
import { Ingest } from '../../../runtime/log/ingest.ts'
import type { PushedEvent } from '../../../runtime/log/outbox.ts'
import { registry } from '../../../runtime/metrics.ts'
import { Fault } from '../../../schemas/fault.ts'
import type { Grant, PushBounds } from '../../../schemas/keys.ts'
import { headers as logHeaders } from '../../reads.ts'

const nowMs = Date.UTC(2025, 5, 1, 12)

const grants: Readonly<Record<string, Omit<Grant, 'name'>>> = {
  'key-all': { scopes: ['ingest'], sources: ['*'], subjects: ['*'] },
  'key-app': { scopes: ['ingest'], sources: ['urn:app', 'https://app.example/*'], subjects: ['*'] },
  'key-acme': { scopes: ['ingest'], sources: ['urn:app'], subjects: ['acme', 'acme/*'] },
  'key-both': { scopes: ['ingest', 'amend'], sources: ['urn:app'], subjects: ['*'] },
  'key-amends': { scopes: ['amend'], sources: ['urn:app'], subjects: ['*'] },
  'key-reads': { scopes: ['read', 'bill', 'admin'], sources: ['*'], subjects: ['*'] },
  // The configuration lets none of these two through; a store might.
  'key-bound': { scopes: ['ingest', 'amend'], sources: ['urn:app'], subjects: ['acme'] },
  'key-greedy': { scopes: ['ingest', 'amend'], sources: ['meterline/*', '*'], subjects: ['*'] },
}
const sources = [
  'urn:app',
  'https://app.example/eu',
  'urn:other',
  'meterline/rafay/prod',
  'meterline/amend/person',
]
const subjects = ['acme', 'acme/eu', 'umbrella', undefined]
const amended = ['urn:app', 'https://app.example/eu', 'urn:other', 'meterline/rafay/prod']

/** t: 204. f: 403 KEY_FORBIDS. r: 403 SOURCE_RESERVED. i: 400, no event says nobody's usage. u: 401. */
type Outcome = 't' | 'f' | 'r' | 'i' | 'u'

/** A group for each source, in it a letter for each subject. */
const events: Readonly<Record<string, string>> = {
  'key-all': 'ttti ttti ttti rrrr rrrr',
  'key-app': 'ttti ttti ffff rrrr rrrr',
  'key-acme': 'ttff ffff ffff rrrr rrrr',
  'key-both': 'ttti ffff ffff rrrr rrrr',
  'key-amends': 'ffff ffff ffff rrrr rrrr',
  'key-bound': 'tfff ffff ffff rrrr rrrr',
  'key-greedy': 'ttti ttti ttti rrrr rrrr',
  'no key': 'uuuu uuuu uuuu uuuu uuuu',
  'a wrong key': 'uuuu uuuu uuuu uuuu uuuu',
}
const marks: typeof events = {
  'key-all': 'tttt tttt tttt rrrr rrrr',
  'key-app': 'tttt tttt ffff rrrr rrrr',
  'key-acme': 'ttff ffff ffff rrrr rrrr',
  'key-both': 'tttt ffff ffff rrrr rrrr',
  'key-amends': 'ffff ffff ffff rrrr rrrr',
  'key-bound': 'tfff ffff ffff rrrr rrrr',
  'key-greedy': 'tttt tttt tttt rrrr rrrr',
  'no key': 'uuuu uuuu uuuu uuuu uuuu',
  'a wrong key': 'uuuu uuuu uuuu uuuu uuuu',
}
/** Amendments: a group for each source that says it, in it a letter for each source of what is amended. */
const amendments: typeof events = {
  'key-all': 'ffff ffff ffff rrrr rrrr',
  'key-app': 'ffff ffff ffff rrrr rrrr',
  'key-acme': 'ffff ffff ffff rrrr rrrr',
  'key-both': 'tffr ffff ffff rrrr rrrr',
  'key-amends': 'tffr ffff ffff rrrr rrrr',
  'key-bound': 'fffr ffff ffff rrrr rrrr',
  'key-greedy': 'tttr tttr tttr rrrr rrrr',
  'no key': 'uuuu uuuu uuuu uuuu uuuu',
  'a wrong key': 'uuuu uuuu uuuu uuuu uuuu',
}

type Kind = 'event' | 'mark' | 'amend' | 'void'
interface Case {
  readonly kind: Kind
  readonly event: Readonly<Record<string, unknown>>
  readonly expected: Outcome
}

/** All that one key is tried with. */
function casesOf(key: string): readonly Case[] {
  const cases: Case[] = []
  const window = { start: '2025-06-01T08:00:00Z', end: '2025-06-01T09:00:00Z' }
  for (const [sourceAt, source] of sources.entries()) {
    const letter = (table: typeof events, at: number) => table[key]!.split(' ')[sourceAt]![at] as Outcome
    const envelope = (type: string) => ({ specversion: '1.0', id: `${cases.length}`, source, type })
    for (const [at, subject] of subjects.entries()) {
      const own = subject === undefined ? {} : { subject }
      const event = { ...envelope('call'), ...own, time: window.start, data: { tokens: 7 } }
      cases.push({ kind: 'event', event, expected: letter(events, at) })
      const mark = { ...envelope('io.meterline.pushed.v1'), ...own, data: { window, events: 1 } }
      cases.push({ kind: 'mark', event: mark, expected: letter(marks, at) })
    }
    for (const [at, of] of amended.entries()) {
      const expected = letter(amendments, at)
      const said = { source: of, id: 'x', reason: 'sent by mistake' }
      const amend = (data: object) => ({
        ...envelope('io.meterline.amendment.v1'),
        data: { ...said, ...data },
      })
      cases.push({ kind: 'void', event: amend({ action: 'void' }), expected })
      for (const subject of ['acme', 'umbrella']) {
        const instead = { type: 'call', subject, time: window.start, data: { tokens: 8 } }
        cases.push({ kind: 'amend', event: amend({ action: 'amend', event: instead }), expected })
      }
    }
  }
  return cases
}

let log: PushedEvent[] = []
const keys: Keys = {
  authorize: token =>
    grants[token]
      ? { name: token, ...grants[token] }
      : new Fault('KEY_UNKNOWN', 'this key is not known here'),
}
const sink = { put: async (some: readonly PushedEvent[]) => void log.push(...some) }
const ingest = new Ingest({
  sink,
  nowMs: () => nowMs,
  door: new Door({ keys, open: 'keys', nowMs: () => nowMs }),
})
const server = createServer((request, response) => void ingest.answer(request, response)).listen(
  0,
  '127.0.0.1',
)
await once(server, 'listening')
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/api/v1/events`
afterAll(() => {
  server.close()
  server.closeAllConnections()
})
beforeEach(() => {
  log = []
})

const modes = ['structured', 'binary', 'batch'] as const

async function post(key: string, mode: (typeof modes)[number], some: readonly Case['event'][]) {
  const headers: Record<string, string> = {}
  if (key !== 'no key') headers.authorization = `Bearer ${key.replaceAll(' ', '-')}`
  let body: string
  if (mode === 'binary') {
    const { data, ...attributes } = some[0]!
    headers['content-type'] = 'application/json'
    for (const [name, value] of Object.entries(attributes)) headers[`ce-${name}`] = String(value)
    body = JSON.stringify(data)
  } else {
    const suffix = mode === 'batch' ? '-batch+json' : '+json'
    headers['content-type'] = `application/cloudevents${suffix}`
    body = JSON.stringify(mode === 'batch' ? some : some[0])
  }
  const answer = await fetch(url, { method: 'POST', headers, body })
  const text = await answer.text()
  return { status: answer.status, text, code: text === '' ? '' : (JSON.parse(text).code as string) }
}

/** What the processor makes of what is in the log. */
function inLog() {
  if (log.length === 0) return { pushed: [], pushedMarks: [], amendments: [], rejects: [] }
  const messages = log.map(({ key, value }, index) => ({
    ...{ offset: BigInt(index), key, value, headers: logHeaders, appendedMs: nowMs },
  }))
  const { pushed, pushedMarks, amendments: accepted, rejects } = accept({ partition: 0, messages }, 'log')
  return { pushed, pushedMarks, amendments: accepted, rejects }
}

const answers: Readonly<Record<Outcome, readonly [status: number, code: string, messages: number]>> = {
  t: [204, '', 1],
  f: [403, 'KEY_FORBIDS', 0],
  r: [403, 'SOURCE_RESERVED', 1],
  i: [400, 'EVENT_INVALID', 1],
  u: [401, 'KEY_UNKNOWN', 0],
}

describe.each(Object.keys(events))('%s', key => {
  const cases = casesOf(key)

  test.each(modes)('writes what the table says and nothing else: %s', async mode => {
    for (const { kind, event, expected } of cases) {
      log = []
      const about = `${kind} ${JSON.stringify(event)}`
      const { status, text, code } = await post(key, mode, [event])
      const [wantedStatus, wantedCode, messages] = answers[expected]
      expect([status, code, log.length], about).toEqual([wantedStatus, wantedCode, messages])
      const { pushed, pushedMarks, amendments: made, rejects } = inLog()
      const isTaken = expected === 't'
      expect(pushed.length, about).toBe(isTaken && kind === 'event' ? 1 : 0)
      expect(pushedMarks.length, about).toBe(isTaken && kind === 'mark' ? 1 : 0)
      expect(made.length, about).toBe(isTaken && (kind === 'amend' || kind === 'void') ? 1 : 0)
      expect(rejects.length, about).toBe(expected === 'r' || expected === 'i' ? 1 : 0)
      for (const { event: amendment } of made) {
        expect(amendment.data).toMatchObject({ author: key, action: kind, reason: 'sent by mistake' })
      }
      // What is not in the event itself is not in the answer: no key, no pattern, no other's name.
      const said = JSON.stringify(event)
      const others = [...Object.keys(grants), 'app.example', 'urn:app', 'acme', 'umbrella', 'urn:other']
      for (const other of others) if (!said.includes(other)) expect(text, about).not.toContain(other)
    }
  })

  test('of all at once as a batch, those that it may write are taken, and the others are named', async () => {
    const { status, text } = await post(
      key,
      'batch',
      cases.map(({ event }) => event),
    )
    const taken = cases.filter(({ expected }) => expected === 't')
    if (cases[0]!.expected === 'u') {
      expect([status, log.length]).toEqual([401, 0])
      return
    }
    expect(status).toBe(taken.length === 0 ? 403 : 400)
    expect(JSON.parse(text)).toMatchObject({ taken: taken.length })
    const { pushed, pushedMarks, amendments: made } = inLog()
    const count = (...kinds: Kind[]) => taken.filter(({ kind }) => kinds.includes(kind)).length
    expect([pushed.length, pushedMarks.length, made.length]).toEqual([
      count('event'),
      count('mark'),
      count('amend', 'void'),
    ])
  })
})

test('a key that writes nothing leaves nothing, not even what cannot be read', async () => {
  const event = { specversion: '1.0', id: '1', source: 'urn:app', type: 'call', subject: 'acme' }
  const bodies = [
    event,
    { ...event, source: 'meterline/rafay/prod' },
    { ...event, id: '' },
    {},
    [],
    [event, {}],
  ]
  for (const body of [...bodies.map(one => JSON.stringify(one)), '{', 'null', ''])
    for (const type of ['application/cloudevents+json', 'application/cloudevents-batch+json', 'text/plain']) {
      log = []
      const answer = await fetch(url, {
        method: 'POST',
        headers: { authorization: 'Bearer key-reads', 'content-type': type },
        body,
      })
      expect([answer.status, await answer.json(), log], `${type} ${body}`).toEqual([
        ...[403, expect.objectContaining({ code: 'KEY_FORBIDS' }), []],
      ])
    }
})

describe('an amendment over HTTP', () => {
  const amendment = (data: object = {}, more: object = {}) => ({
    ...{ specversion: '1.0', id: 'a1', source: 'urn:app', type: 'io.meterline.amendment.v1' },
    ...more,
    data: { source: 'urn:app', id: 'x', action: 'void', reason: 'sent by mistake', ...data },
  })

  test('sent again it is the same one, whatever the mode; with another id it is another', async () => {
    for (const mode of modes)
      expect(await post('key-both', mode, [amendment()])).toMatchObject({ status: 204 })
    await post('key-both', 'structured', [amendment({}, { id: 'a2' })])
    const { amendments: made } = inLog()
    expect(made.map(({ content }) => content)).toHaveLength(4)
    expect(new Set(made.slice(0, 3).map(({ event }) => event.id)).size).toBe(1)
    expect(made[3]!.event.id).not.toBe(made[0]!.event.id)
    expect(new Set(log.map(({ key }) => key)), 'behind the event that it is about').toEqual(
      new Set(['urn:app x']),
    )
  })

  test('numbers of what it says keep their digits', async () => {
    const instead = { type: 'call', subject: 'acme', time: '2025-06-01T08:00:00.123456789+02:00', data: 0 }
    const event = JSON.stringify(amendment({ action: 'amend', event: instead }))
    const body = event.replace('"data":0', '"data":{"n":12345678901234567890.1}')
    const headers = { authorization: 'Bearer key-both', 'content-type': 'application/cloudevents+json' }
    expect((await fetch(url, { method: 'POST', headers, body })).status).toBe(204)
    expect(inLog().amendments[0]?.amended).toMatchObject({
      data: '{"n":12345678901234567890.1}',
      time: '2025-06-01T08:00:00.123456789+02:00',
      subject: 'acme',
    })
  })

  test.each([
    ['an author of its own', { author: 'somebody else' }, /author/],
    ['no reason', { reason: undefined }, /reason/],
    ['no id', { id: undefined }, /id/],
    ['a source that is none', { source: 7 }, /source/],
    ['nothing to say instead', { action: 'amend' }, /event/],
    [
      'something to say though it is void',
      { event: { type: 't', subject: 's', time: '2025-06-01T08:00:00Z' } },
      /event/,
    ],
    [
      'a time that is too late',
      { action: 'amend', event: { type: 't', subject: 's', time: '2027-06-01T08:00:00Z' } },
      /time/,
    ],
    [
      'a type of ours',
      {
        action: 'amend',
        event: { type: 'io.meterline.read.v1', subject: 's', time: '2025-06-01T08:00:00Z' },
      },
      /type/,
    ],
  ])('%s is refused, and amends nothing', async (_, data, reason) => {
    const { status, text } = await post('key-both', 'structured', [amendment(data)])
    expect([400, 403]).toContain(status)
    expect(JSON.parse(text).detail).toMatch(reason)
    const { amendments: made, rejects } = inLog()
    expect([made.length, rejects.length]).toEqual([0, 1])
  })
})

test('other paths and methods are no events', async () => {
  const headers = { authorization: 'Bearer key-all' }
  expect(await fetch(url, { headers })).toMatchObject({ status: 405 })
  expect((await fetch(url, { headers })).headers.get('allow')).toBe('POST')
  expect(await fetch(`${url}/x`, { method: 'POST', headers, body: '{}' })).toMatchObject({ status: 404 })
  expect(await fetch(`${url}?x=1`, { method: 'POST', headers, body: '{}' })).toMatchObject({ status: 400 })
})

describe('the bounds of a key', () => {
  const rate = { eventsPerSecond: 1, bytesPerSecond: 1_000_000_000, burstSeconds: 3, bodyMaxBytes: 2000 }
  const large = { ...rate, eventsPerSecond: 1_000_000, bodyMaxBytes: 10 * 1024 * 1024 }
  const bounds: Readonly<Record<string, PushBounds>> = { slow: rate, large, other: large }
  const bounded: Keys = {
    authorize: name =>
      name === 'away'
        ? new Fault('STORE_UNREACHABLE', 'ClickHouse is away')
        : { name, scopes: ['ingest'], sources: ['*'], subjects: ['*'], bounds: bounds[name]! },
  }
  const door = new Door({ keys: bounded, open: 'keys', nowMs: () => nowMs })
  const bounding = new Ingest({ sink, nowMs: () => nowMs, door })
  const bound = createServer((request, response) => void bounding.serve(request, response)).listen(
    0,
    '127.0.0.1',
  )
  const at = () => ({ host: '127.0.0.1', port: (bound.address() as AddressInfo).port })
  afterAll(() => {
    bound.close()
    bound.closeAllConnections()
  })
  const event = { specversion: '1.0', id: '1', source: 'urn:app', type: 'call', subject: 'acme' }
  const send = async (key: string, body: string) => {
    const { host, port } = at()
    const type = { 'content-type': 'application/cloudevents-batch+json' }
    const headers = { authorization: `Bearer ${key}`, ...type }
    return await fetch(`http://${host}:${port}/api/v1/events`, { method: 'POST', headers, body })
  }

  test('while nobody can say whose a key is, it is 503 and to come again, and no stranger', async () => {
    log.length = 0
    const response = await send('away', JSON.stringify([event]))
    expect([response.status, response.headers.get('retry-after'), log.length]).toEqual([503, '5', 0])
    expect(response.headers.get('www-authenticate')).toBeNull()
    expect(await response.json()).toMatchObject({ code: 'STORE_UNREACHABLE', retryable: true })
  })

  test('a body beyond its own bound is 413; beyond its rate it is 429, with when to come again, and nothing is read', async () => {
    expect((await send('slow', `[${' '.repeat(2000)}]`)).status).toBe(413)
    const three = JSON.stringify([1, 2, 3].map(id => ({ ...event, id: String(id) })))
    expect((await send('slow', three)).status).toBe(204)
    const answer = await send('slow', three)
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([429, '1'])
    expect(await answer.json()).toMatchObject({ code: 'RATE_EXCEEDED', retryable: true, taken: 0 })
    expect(log).toHaveLength(3)
    expect((await send('other', three)).status, 'a rate of its own').toBe(204)
  })

  const inHandBytes = async () =>
    (await registry.getSingleMetric('meterline_ingest_in_hand_bytes')?.get())?.values[0]?.value

  test('what one key has in hand leaves room for the others', async () => {
    const { host, port } = at()
    const head =
      'POST /api/v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer large\r\ncontent-length: 10485760\r\n\r\n['
    const held = await Promise.all(
      [1, 2, 3].map(async () => {
        const socket = connect(port, host)
        await once(socket, 'connect')
        socket.on('error', () => undefined).write(head)
        return socket
      }),
    )
    const one = JSON.stringify([{ ...event, data: 'x'.repeat(3_000_000) }])
    for (let tries = 0; (await inHandBytes()) !== 3 * 10_485_760 && tries < 500; tries += 1) await sleep(10)
    expect((await send('large', one)).status).toBe(503)
    expect((await send('other', JSON.stringify([event]))).status).toBe(204)
    for (const socket of held) socket.destroy()
    for (let tries = 0; (await inHandBytes()) !== 0 && tries < 500; tries += 1) await sleep(10)
    expect((await send('large', JSON.stringify([event]))).status, 'given back when they are gone').toBe(204)
  })
})
