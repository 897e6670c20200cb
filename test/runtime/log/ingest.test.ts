/** CloudEvents over HTTP: what is taken, what is refused with which answer, and that all of it is in the log. */
import { once } from 'node:events'
import { createServer, request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { accept } from '../../../processor/accept.ts'
import { bodyBytesMax, Ingest, type IngestAnswer } from '../../../runtime/log/ingest.ts'
import type { PushedEvent } from '../../../runtime/log/outbox.ts'
import { registry } from '../../../runtime/metrics.ts'
import { Fault } from '../../../schemas/fault.ts'
import { headers as logHeaders } from '../../reads.ts'

const nowMs = Date.UTC(2025, 5, 1, 12)
let log: PushedEvent[] = []
let away: Fault | undefined
const ingest = new Ingest({
  sink: {
    async put(events) {
      if (away) throw away
      log.push(...events)
    },
  },
  nowMs: () => nowMs,
})
const server = createServer((request, response) => void ingest.serve(request, response)).listen(
  0,
  '127.0.0.1',
)
await once(server, 'listening')
const { port } = server.address() as AddressInfo

beforeEach(() => {
  log = []
  away = undefined
})
afterAll(() => {
  server.close()
  server.closeAllConnections()
})

const structured = { 'content-type': 'application/cloudevents+json' }
const batch = { 'content-type': 'application/cloudevents-batch+json' }

function event(change: Record<string, unknown> = {}): Record<string, unknown> {
  const base = { specversion: '1.0', id: '1', source: 'urn:app', type: 'call', subject: 'acme' }
  return { ...base, time: '2025-06-01T08:00:00.123456789+02:00', data: { tokens: 7 }, ...change }
}

const post = (headers: Record<string, string>, body: string | Buffer): Promise<IngestAnswer> =>
  ingest.take(headers, Buffer.from(body))

/** What the processor makes of what is in the log. */
function accepted() {
  const messages = log.map(({ key, value }, index) => ({
    offset: BigInt(index),
    key,
    value,
    headers: logHeaders,
    appendedMs: nowMs,
  }))
  return messages.length === 0 ? undefined : accept({ partition: 0, messages }, 'log')
}

describe('what is taken', () => {
  test('an event comes through in each mode as it was sent, its time to the last digit', async () => {
    const binary = {
      'content-type': 'application/json',
      'ce-specversion': '1.0',
      'ce-id': '1',
      'ce-source': 'urn:app',
      'ce-type': 'call',
      'ce-subject': 'acme',
      'ce-time': '2025-06-01T08:00:00.123456789+02:00',
    }
    expect(await post(structured, JSON.stringify(event()))).toEqual({ status: 204 })
    expect(await post(batch, JSON.stringify([event()]))).toEqual({ status: 204 })
    expect(await post(binary, JSON.stringify({ tokens: 7 }))).toEqual({ status: 204 })
    // As OpenMeter's clients send it.
    expect(await post({ 'content-type': 'application/json' }, JSON.stringify([event()]))).toEqual({
      status: 204,
    })
    expect(await post({ 'content-type': 'application/json' }, JSON.stringify(event()))).toEqual({
      status: 204,
    })
    const pushed = accepted()?.pushed ?? []
    expect(pushed).toHaveLength(5)
    expect(new Set(pushed.map(({ content }) => content)).size, 'all of them say the same').toBe(1)
    expect(pushed[0]).toMatchObject({
      source: 'urn:app',
      id: '1',
      subject: 'acme',
      time: '2025-06-01T08:00:00.123456789+02:00',
      timeMs: Date.UTC(2025, 5, 1, 6, 0, 0, 123),
      data: '{"tokens":7}',
    })
    expect(new Set(log.map(({ key }) => key))).toEqual(new Set(['urn:app 1']))
  })

  test('an empty batch is nothing, and is taken', async () => {
    expect(await post(batch, ' [ ] ')).toEqual({ status: 204 })
    expect(log).toEqual([])
  })

  test('numbers keep their digits, and the order of keys says nothing', async () => {
    const one = '{"a":1e400,"b":12345678901234567890.1,"c":1}'
    const other = '{"c":1,"b":12345678901234567890.1,"a":1e400}'
    const text = JSON.stringify(event({ data: 0 }))
    await post(structured, text.replace('"data":0', `"data":${one}`))
    await post(structured, text.replace('"data":0', `"data":${other}`))
    const [first, second] = accepted()?.pushed ?? []
    expect(first?.data).toBe(one)
    expect(second?.content).toBe(first?.content)
  })
})

describe('what is refused', () => {
  const refused: [string, Record<string, string>, string | Buffer, number, string, RegExp][] = [
    ['no JSON', structured, '{"specversion":', 400, 'EVENT_NOT_JSON', /JSON/],
    ['an empty body', structured, '', 400, 'EVENT_NOT_JSON', /JSON/],
    [
      'bytes that are no UTF-8',
      structured,
      Buffer.from([0x22, 0xc0, 0xa0, 0x22]),
      400,
      'EVENT_NOT_JSON',
      /UTF-8/,
    ],
    ['no CloudEvent', structured, '{"hello":1}', 400, 'EVENT_INVALID', /specversion/],
    [
      'no subject',
      structured,
      JSON.stringify(event({ subject: undefined })),
      400,
      'EVENT_INVALID',
      /subject/,
    ],
    [
      'a name of a prototype',
      structured,
      '{"__proto__":"x","specversion":"1.0","id":"1","source":"s","type":"t"}',
      400,
      'EVENT_INVALID',
      /__proto__/,
    ],
    [
      'another time',
      structured,
      JSON.stringify(event({ time: '2026-01-01T00:00:00Z' })),
      400,
      'TIME_OUT_OF_BOUNDS',
      /a day after/,
    ],
    [
      'text',
      structured,
      JSON.stringify(event({ datacontenttype: 'text/plain', data: 'x' })),
      400,
      'EVENT_DATA_INVALID',
      /text/,
    ],
    [
      'a source of ours',
      structured,
      JSON.stringify(event({ source: 'meterline/rafay/prod' })),
      403,
      'SOURCE_RESERVED',
      /meterline/,
    ],
    [
      'a type of ours',
      structured,
      JSON.stringify(event({ type: 'io.meterline.rafay.instance.v1' })),
      403,
      'SOURCE_RESERVED',
      /type/,
    ],
    [
      'a mebibyte of data',
      structured,
      JSON.stringify(event({ data: 'x'.repeat(1024 * 1024) })),
      413,
      'EVENT_TOO_LARGE',
      /bytes/,
    ],
    ['brackets without end', structured, '['.repeat(500_000), 400, 'EVENT_DATA_INVALID', /deep/],
    [
      'values without end',
      structured,
      JSON.stringify(event({ data: Array(20_000).fill(0) })),
      400,
      'EVENT_DATA_INVALID',
      /values/,
    ],
    ['a batch that is none', batch, '{}', 400, 'EVENT_NOT_JSON', /array/],
    ['a batch with something behind it', batch, '[] x', 400, 'EVENT_NOT_JSON', /array/],
    ['a batch that is cut', batch, `[${JSON.stringify(event())},{"a":`, 400, 'EVENT_NOT_JSON', /array/],
    ['a batch without end', batch, `[${'0,'.repeat(20_000)}0]`, 413, 'EVENT_TOO_LARGE', /10000/],
    [
      'a format that nobody knows',
      { 'content-type': 'application/cloudevents+avro' },
      'x',
      400,
      'EVENT_INVALID',
      /format/,
    ],
    ['nothing that says what it is', {}, 'hello', 400, 'EVENT_INVALID', /specversion/],
  ]
  test.each(refused)(
    '%s is answered with its reason, and is a reject of the log',
    async (_, headers, body, status, code, reason) => {
      const answer = await post(headers, body)
      expect(answer).toMatchObject({ status, problem: { status, code, taken: 0 } })
      expect(answer.problem?.detail).toMatch(reason)
      expect(log).toHaveLength(1)
      const taken = accepted()
      expect(taken).toMatchObject({ pushed: [], readings: 0, marks: [] })
      expect(taken?.rejects).toMatchObject([{ code, bytes: Buffer.from(body).length, offset: 0n }])
      expect(taken?.rejects[0]?.reason).toMatch(reason)
      expect(taken?.rejects[0]?.value).toEqual(Buffer.from(body).subarray(0, 65_536))
    },
  )

  test('the good rest of a batch goes on, and the answer names what did not', async () => {
    const body = `[${JSON.stringify(event({ id: 'a' }))}, {"id": "b"} ,${JSON.stringify(event({ id: 'c' }))},{x}]`
    const answer = await post(batch, body)
    expect(answer).toMatchObject({ status: 400, problem: { taken: 2 } })
    expect(answer.problem?.extensions.validationErrors.map(({ index, code }) => [index, code])).toEqual([
      [1, 'EVENT_INVALID'],
      [3, 'EVENT_NOT_JSON'],
    ])
    const taken = accepted()
    expect(taken?.pushed.map(({ id }) => id)).toEqual(['a', 'c'])
    expect(taken?.rejects.map(({ value }) => value.toString())).toEqual(['{"id": "b"}', '{x}'])
  })

  test('a log that is away is answered as such, and nothing is said to be taken', async () => {
    away = new Fault('OUTBOX_FULL', 'the outbox is full')
    expect(await post(structured, JSON.stringify(event()))).toMatchObject({
      status: 503,
      problem: { code: 'OUTBOX_FULL', retryable: true, taken: 0 },
    })
  })
})

test('whatever is wrong with the log, the event may come again, and who runs the log is told', async () => {
  const told: Fault[] = []
  let fault = new Fault('OUTBOX_DAMAGED', 'the file is damaged')
  const sink = { put: () => Promise.reject(fault) }
  const failing = new Ingest({ sink, nowMs: () => nowMs, onFault: one => told.push(one) })
  const body = Buffer.from(JSON.stringify(event()))
  expect(await failing.take(structured, body)).toMatchObject({ status: 503, problem: { retryable: true } })
  expect(failing.trouble()).toMatch(/^OUTBOX_DAMAGED/)
  fault = new Fault('EVENT_TOO_LARGE', 'too large for Kafka')
  expect(await failing.take(structured, body)).toMatchObject({ status: 413, problem: { retryable: false } })
  expect(told.map(({ code }) => code)).toEqual(['OUTBOX_DAMAGED', 'EVENT_TOO_LARGE'])
})

describe('over a connection', () => {
  async function send(headers: Record<string, string>, chunks: readonly Buffer[]) {
    const sent = httpRequest({ port, host: '127.0.0.1', method: 'POST', path: '/api/v1/events', headers })
    for (const chunk of chunks) if (!sent.write(chunk)) await once(sent, 'drain')
    sent.end()
    const [response] = await once(sent, 'response')
    let text = ''
    for await (const chunk of response) text += chunk
    return { status: response.statusCode as number, headers: response.headers, text }
  }

  const refusedForSize = async () => {
    const metric = await registry.getSingleMetric('meterline_ingest_requests_refused_total')?.get()
    return metric?.values.find(({ labels }) => labels.reason === 'size')?.value ?? 0
  }

  const inHandBytes = async () =>
    (await registry.getSingleMetric('meterline_ingest_in_hand_bytes')?.get())?.values[0]?.value

  test('204 has no body and no type, a refusal is a problem', async () => {
    const good = await send(structured, [Buffer.from(JSON.stringify(event()))])
    expect(good).toMatchObject({ status: 204, text: '' })
    expect(good.headers).not.toHaveProperty('content-type')
    const bad = await send(structured, [Buffer.from('{')])
    expect(bad.status).toBe(400)
    expect(bad.headers['content-type']).toBe('application/problem+json')
    expect(JSON.parse(bad.text)).toMatchObject({ status: 400, code: 'EVENT_NOT_JSON' })
  })

  test('a body that is too large is counted and not kept, whether it says so or not', async () => {
    const before = await refusedForSize()
    const mebibyte = Buffer.alloc(1024 * 1024, '[')
    const eleven = Array.from({ length: 11 }, () => mebibyte)
    const declared = { ...structured, 'content-length': String(11 * mebibyte.length) }
    expect(await send(declared, eleven)).toMatchObject({ status: 413 })
    expect(await send(structured, eleven)).toMatchObject({ status: 413 })
    expect((await refusedForSize()) - before).toBe(2)
    expect(log).toEqual([])
    const most = Buffer.alloc(bodyBytesMax, 'x')
    expect(await send(structured, [most])).toMatchObject({ status: 413 })
    expect((await refusedForSize()) - before, 'this one was read, and is a reject').toBe(2)
    expect(accepted()?.rejects).toMatchObject([{ code: 'EVENT_TOO_LARGE', bytes: bodyBytesMax }])
  })

  test('gzip is taken, up to the bound of what it holds; half of it is not, nor another compression', async () => {
    const gzip = { ...structured, 'content-encoding': 'gzip' }
    const whole = gzipSync(JSON.stringify(event()))
    expect(await send(gzip, [whole.subarray(0, 20), whole.subarray(20)])).toMatchObject({ status: 204 })
    expect(accepted()?.pushed.map(({ id }) => id)).toEqual(['1'])
    const before = await refusedForSize()
    const bomb = gzipSync(Buffer.alloc(2 * bodyBytesMax, '['))
    expect(await send(gzip, [bomb])).toMatchObject({ status: 413 })
    expect((await refusedForSize()) - before).toBe(1)
    for (const bad of [whole.subarray(0, -4), Buffer.from('x')])
      expect(await send(gzip, [bad])).toMatchObject({ status: 400, text: expect.stringContaining('gzip') })
    expect(await send({ ...structured, 'content-encoding': 'br' }, [whole])).toMatchObject({ status: 415 })
    expect(log, 'a body that cannot be read is counted, and not kept').toHaveLength(1)
    expect(await inHandBytes()).toBe(0)
  })
})
