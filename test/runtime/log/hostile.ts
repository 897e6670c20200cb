/** Messages that mean harm, or were never meant to be messages: made by a seed, a kibibyte long in the middle. */
import { instance, headers as logHeaders, readEvents } from '../../reads.ts'
import type { Chance } from '../../simulation/chance.ts'

export interface Hostile {
  readonly kind: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Buffer
}

type Make = (chance: Chance, number: number) => Omit<Hostile, 'kind'>

const structured = { 'content-type': 'application/cloudevents+json' }
const names = [
  '__proto__',
  'constructor',
  'prototype',
  'toString',
  'hasOwnProperty',
  'valueOf',
  '__defineGetter__',
  'then',
]
const numbers = [
  '1e400',
  '-1e400',
  '1e-400',
  '9'.repeat(500),
  `0.${'3'.repeat(400)}`,
  '-0',
  '1e999999999',
  '9007199254740993',
  '2147483648',
  '-2147483649',
  '1E+308',
  '0.1e1',
]
const times = [
  '2025-02-30T00:00:00Z',
  '0001-01-01T00:00:00Z',
  '9999-12-31T23:59:60Z',
  'yesterday',
  '2025-06-01',
  '2025-06-01T00:00:00',
  '1748736000',
]
const badUtf8 = ['c0a0', 'eda080', 'f8888080', 'ff', 'e28228', 'f0288cbc', '80', 'c2'].map(hex =>
  Buffer.from(hex, 'hex'),
)
const odd = ['\u0000', '\u0007', '\ud800', '\udfff', '\uffff', '\u202e', '😀', '\\', '"', '\u2028', '\u007f']

function filler(chance: Chance): string {
  return 'lorem ipsum dolor sit amet '.repeat(chance.whole(8, 60))
}

function eventOf(number: number, change: Record<string, unknown>): Record<string, unknown> {
  const base = { specversion: '1.0', id: `h${number}`, source: 'urn:fuzz', type: 'call', subject: 'acme' }
  return { ...base, time: '2025-06-01T08:00:00Z', ...change }
}

function json(value: unknown): Omit<Hostile, 'kind'> {
  return { headers: structured, body: Buffer.from(JSON.stringify(value)) }
}

function raw(text: string): Omit<Hostile, 'kind'> {
  return { headers: structured, body: Buffer.from(text) }
}

/** A text with a piece of it replaced. */
function mutated(chance: Chance, body: Buffer): Buffer {
  let bytes = body
  for (let times_ = chance.whole(1, 4); times_ > 0; times_ -= 1) {
    const at = chance.whole(0, bytes.length)
    const put = chance.one([
      Buffer.from([chance.whole(0, 255)]),
      chance.one(badUtf8),
      Buffer.from(chance.one(['"', '{', '}', '[', ']', ',', ':', 'null', '-', '\\', '\\ud83d', ' '])),
      Buffer.alloc(0),
    ])
    bytes = Buffer.concat([bytes.subarray(0, at), put, bytes.subarray(at + chance.whole(0, 8))])
  }
  return bytes
}

function reading(
  chance: Chance,
  number: number,
): Record<string, unknown> & { data: Record<string, unknown> } {
  const startMs = Date.UTC(2025, 5, 1, number % 24)
  const read = {
    source: 'meterline/rafay/fuzz',
    scope: `scope-${number % 50}`,
    window: { startMs, endMs: startMs + 3_600_000 },
    readatMs: startMs + 3_600_000 + (number % 1000),
  }
  const usages = [instance('acme', `i${number}`, '3600', { note: filler(chance) })]
  return structuredClone(chance.one(readEvents(read, usages))) as never
}

/** What anybody may send over HTTP, and what may stand in the log. */
const anywhere: Readonly<Record<string, Make>> = {
  'a good event': (chance, number) => json(eventOf(number, { data: { text: filler(chance) } })),
  'an event of an identity that others have': (chance, number) =>
    json(eventOf(0, { id: `same-${number % 7}`, data: { text: chance.one(['a', 'b']) } })),
  'an event with something replaced': (chance, number) => ({
    headers: structured,
    body: mutated(chance, json(eventOf(number, { data: { text: filler(chance) } })).body),
  }),
  'a mark of a pusher': (chance, number) => {
    const startMs = Date.UTC(2025, 5, 1, number % 24)
    const width = chance.one([60, 60, 60, 30, 15, 7, 0, -60])
    const instantOf = (ms: number) => (chance.is(0.1) ? chance.one(times) : new Date(ms).toISOString())
    const mark = {
      ...eventOf(number, {
        type: 'io.meterline.pushed.v1',
        ...(chance.is(0.1) && { source: chance.one(odd) }),
      }),
      subject: chance.is(0.4) ? undefined : chance.one(['acme', 'acme', 'all', '*', ...names, ...odd]),
      data: {
        window: { start: instantOf(startMs), end: instantOf(startMs + width * 60_000) },
        events: '#',
        ...(chance.is(0.3) && { settled: chance.one([true, false, 'true', null]) }),
        ...(chance.is(0.1) && { [chance.one(names)]: filler(chance) }),
      },
    }
    const events = chance.one(['0', '7', '1.0', '7', '9007199254740991', ...numbers, '"7"', 'null'])
    const { headers, body } = raw(JSON.stringify(mark).replace('"#"', events))
    return { headers, body: chance.is(0.2) ? mutated(chance, body) : body }
  },
  'bad UTF-8': (chance, number) => {
    const text = JSON.stringify(eventOf(number, { data: { text: `${filler(chance)}#` } }))
    const at = text.indexOf('#')
    return {
      headers: structured,
      body: Buffer.concat([Buffer.from(text.slice(0, at)), chance.one(badUtf8), Buffer.from(text.slice(at))]),
    }
  },
  'deep JSON': (chance, number) => {
    const depth = chance.is(0.03) ? 50_000 : chance.one([60, 64, 65, 66, 500, 2000])
    const [open, close] = chance.one([
      ['[', ']'],
      ['{"a":', '}'],
    ] as const)
    const closed = chance.is(0.7) ? close.repeat(depth) : ''
    const deep = `${open.repeat(depth)}${open === '[' ? '' : '1'}${closed}`
    if (chance.is(0.3)) return raw(deep)
    return raw(JSON.stringify(eventOf(number, { data: '#' })).replace('"#"', deep))
  },
  'huge numbers': (chance, number) => {
    const list = Array.from({ length: chance.whole(1, 40) }, () => chance.one(numbers)).join(',')
    const text = JSON.stringify(eventOf(number, { data: '#', ...(chance.is(0.3) && { extension: '#' }) }))
    return raw(
      text.replace('"extension":"#"', `"extension":${chance.one(numbers)}`).replace('"#"', `[${list}]`),
    )
  },
  'duplicate keys': (chance, number) => {
    const text = JSON.stringify(eventOf(number, { data: { text: filler(chance) } }))
    const again = Array.from({ length: chance.whole(1, 20) }, () =>
      chance.one([
        '"id":"x"',
        '"id":null',
        '"source":"meterline/rafay/prod"',
        '"specversion":"0.3"',
        '"data":1',
        '"data_base64":"AA=="',
        '"time":null',
        '"subject":"b"',
      ]),
    )
    return raw(`${text.slice(0, -1)},${again.join(',')}}`)
  },
  'names of prototypes': (chance, number) => {
    const name = chance.one(names)
    const value = chance.one(['1', 'null', '"x"', '{"polluted":true}', '[]', '{"toString":1,"valueOf":2}'])
    const data = `{"${name}":${value},"text":"${filler(chance)}"}`
    const text = JSON.stringify(eventOf(number, { data: '#' })).replace('"#"', data)
    if (chance.is(0.5)) return raw(text)
    const attribute = chance.one(['id', 'source', 'type', 'subject', 'time', 'specversion', 'data'])
    return raw(
      chance.is(0.5)
        ? `{"${name}":${value},${text.slice(1)}`
        : text.replace(new RegExp(`"${attribute}":"[^"]*"`), `"${attribute}":${value}`),
    )
  },
  'attributes of any kind': (chance, number) => {
    const values = [
      null,
      0,
      -1,
      1.5,
      true,
      [],
      {},
      '',
      ' ',
      'x'.repeat(5000),
      chance.one(odd),
      `a${chance.one(odd)}b`,
      chance.one(times),
    ]
    const change: Record<string, unknown> = { data: { text: filler(chance) } }
    for (const name of [
      'id',
      'source',
      'type',
      'subject',
      'time',
      'specversion',
      'datacontenttype',
      'dataschema',
      'extension',
      'Extension',
    ])
      if (chance.is(0.25)) change[name] = chance.one(values)
    return json(eventOf(number, change))
  },
  'odd characters': (chance, number) => {
    const text = () => Array.from({ length: chance.whole(1, 300) }, () => chance.one(odd)).join('')
    return json(eventOf(number, { data: { [text()]: text(), text: [text()] } }))
  },
  'many values': (chance, number) => {
    const count = chance.is(0.03) ? chance.one([9_990, 12_000]) : 100
    const data = Object.fromEntries(Array.from({ length: count }, (_, at) => [`k${at}`, at]))
    return json(eventOf(number, { data }))
  },
  'random bytes': chance => ({
    headers: structured,
    body: Buffer.from(Array.from({ length: chance.whole(0, 1500) }, () => chance.whole(0, 255))),
  }),
  'data that is no JSON': (chance, number) =>
    json(
      eventOf(number, {
        ...chance.one<Record<string, unknown>>([
          { data_base64: Buffer.from(filler(chance)).toString('base64') },
          { data_base64: 'not base64!', data: undefined },
          { data: filler(chance), datacontenttype: 'text/plain' },
          { data: {}, datacontenttype: 'image/png' },
        ]),
      }),
    ),
  'what only Meterline may say': (chance, number) => json(reading(chance, number)),
}

/** What only HTTP has: headers. */
const overHttp: Readonly<Record<string, Make>> = {
  'binary mode': (chance, number) => ({
    headers: {
      ...chance.one([
        {},
        { 'content-type': 'application/json' },
        { 'content-type': 'text/plain' },
        structured,
      ]),
      'ce-specversion': chance.one(['1.0', '0.3', '']),
      'ce-id': chance.one([`h${number}`, '%C0%A0', '%zz', '"a']),
      'ce-source': chance.one(['urn:fuzz', 'meterline/rafay/prod', 'a b', '%20']),
      'ce-type': 'call',
      ...(chance.is(0.7) && { 'ce-subject': 'acme' }),
      ...(chance.is(0.2) && { 'ce-data': 'x', 'ce-__proto__': 'x' }),
    },
    body: Buffer.from(JSON.stringify({ text: filler(chance) })),
  }),
  'a type that says otherwise': (chance, number) => ({
    headers: {
      'content-type': chance.one([
        'application/cloudevents-batch+json',
        'application/cloudevents+avro',
        'application/cloudevents+json; charset=utf-16',
        'application/json',
        'text/html',
        'application/x-www-form-urlencoded',
        '\u00ff/\u00ff',
      ]),
    },
    body: json(eventOf(number, { data: { text: filler(chance) } })).body,
  }),
}

/** What only the log has: events of Meterline's own that somebody has spoilt. */
const inLog: Readonly<Record<string, Make>> = {
  'a reading with something replaced': (chance, number) => ({
    headers: logHeaders,
    body: mutated(chance, json(reading(chance, number)).body),
  }),
  'a reading of anything': (chance, number) => {
    const event = reading(chance, number)
    const at = chance.one(['window', 'measures', 'labels', 'interval', 'resource', 'events', 'digest', 'bad'])
    event.data[at] = chance.one<unknown>([
      null,
      { start: chance.one(times), end: chance.one(times) },
      { instance_seconds: chance.one(numbers) },
      { [chance.one(names)]: chance.one(odd) },
      { label: chance.one(odd) },
      -1,
      'x',
    ])
    if (chance.is(0.2))
      event[chance.one(['readat', 'time', 'scope', 'partitionkey', 'subject'])] = chance.one([
        ...times,
        ...odd,
      ])
    return json(event)
  },
  'an event about pushed events': (chance, number) => {
    const type = chance.one(['amendment', 'refusal', 'replay', 'decision', 'read'])
    const source = chance.one([
      'meterline/amend/person',
      'meterline/ingest/http',
      'meterline/replay/rejected',
    ])
    const inner = chance.is(0.5) ? json(eventOf(number, {})).body : chance.one(badUtf8)
    const data = {
      ...(chance.is(0.7) && {
        log: 'log',
        partition: 0,
        offset: '1',
        part: 0,
        received: '2025-06-01T00:00:00Z',
      }),
      ...(chance.is(0.7) && { headers: logHeaders, value: inner.toString('base64') }),
      ...(chance.is(0.5) && {
        code: 'EVENT_INVALID',
        reason: chance.one(odd),
        bytes: 1,
        sha256: '0'.repeat(64),
      }),
      ...(chance.is(0.5) && { source: 'urn:fuzz', id: 'same-1', action: 'void', author: 'a', reason: 'b' }),
      [chance.one(names)]: filler(chance),
    }
    return json({
      ...eventOf(number, { data }),
      source,
      type: `io.meterline.${type}.v1`,
      subject: undefined,
      partitionkey: 'urn:fuzz same-1',
      datacontenttype: 'application/json',
    })
  },
}

const kinds = {
  http: Object.entries({ ...anywhere, ...overHttp }),
  log: Object.entries({ ...anywhere, ...inLog }),
} as const

export function hostile(chance: Chance, number: number, way: keyof typeof kinds): Hostile {
  const [kind, make] = chance.one(kinds[way])
  return { kind, ...make(chance, number) }
}
