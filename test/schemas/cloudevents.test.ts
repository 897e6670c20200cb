/** The CloudEvents encoding against a table of the specification's rules, its feature files, its JSON schema, and round trips. */
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ajv } from '../../schemas/check.ts'
import {
  type CloudEvent,
  decodeBatch,
  decodeHttp,
  decodeKafka,
  decodeStructured,
  encodeBatch,
  encodeHttp,
  encodeHttpBatch,
  encodeKafka,
  encodeStructured,
  type HttpHeadersIn,
  type KafkaHeadersIn,
  kafkaKeyOf,
} from '../../schemas/cloudevents.ts'
import { Fault } from '../../schemas/fault.ts'
import { faultOf } from '../faults.ts'
import { type Document, features } from './gherkin.ts'

const fixtures = new URL('../fixtures/cloudevents/', import.meta.url)
const least = { specversion: '1.0', id: 'a-1', source: '/mine', type: 'com.example.some' } as const
const structured = (more: object = {}) => JSON.stringify({ ...least, ...more })
const ceHeaders = {
  'ce-specversion': '1.0',
  'ce-id': 'a-1',
  'ce-source': '/mine',
  'ce-type': 'com.example.some',
}
const kafkaHeaders = { ce_specversion: '1.0', ce_id: 'a-1', ce_source: '/mine', ce_type: 'com.example.some' }

function http(headers: HttpHeadersIn, body?: string | Uint8Array): CloudEvent {
  const events = decodeHttp(headers, body)
  expect(events).toHaveLength(1)
  return events[0]!
}

describe('what an attribute may be', () => {
  const accepted: [name: string, value: unknown][] = [
    ['id', ' '],
    ['id', 'ü€😀'],
    ['type', 'anything at all'],
    ['source', 'meterline/rafay/prod'],
    ['source', 'https://example.com/a?b=c#d'],
    ['source', 'mailto:ops@example.com'],
    ['source', 'urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66'],
    ['source', '1-555-123-4567'],
    ['source', '//host:80/p'],
    ['source', 'http://[::1]:8080/x'],
    ['source', '#fragment'],
    ['source', '?query'],
    ['source', 'a%20b'],
    ['subject', 'Euro € 😀'],
    ['subject', 'with "quotes" and 100%'],
    ['time', '2026-02-12T08:00:00Z'],
    ['time', '2026-02-12t08:00:00z'],
    ['time', '2026-02-12T08:00:00.123456789012+05:45'],
    ['time', '2026-02-12T08:00:00-00:00'],
    ['time', '2016-12-31T23:59:60Z'],
    ['time', '2024-02-29T00:00:00Z'],
    ['datacontenttype', 'application/json; charset=utf-8'],
    ['datacontenttype', 'multipart/form-data; boundary="a b;c"'],
    ['datacontenttype', 'application/vnd.acme.v1+json'],
    ['dataschema', 'https://example.com/schema/1'],
    ['dataschema', 'urn:example:schema'],
    ['partitionkey', 'a b/c'],
    ['empty', ''],
    ['flag', false],
    ['seq', 2147483647],
    ['seq', -2147483648],
    ['x', 'one letter'],
    ['averylongnamethatisonlydiscouraged', 'more than twenty characters'],
    ['constructor', 'no magic'],
    ['0', 'a digit'],
  ]
  test.each(accepted)('%s may be %j, and comes back as it was', (name, value) => {
    const event = decodeStructured(structured({ [name]: value }))
    expect(event[name]).toBe(value)
    expect(decodeStructured(encodeStructured(event))).toEqual(event)
  })

  const refused: [name: string, value: unknown][] = [
    ['specversion', '0.3'],
    ['specversion', '1.0.2'],
    ['specversion', 1],
    ['id', ''],
    ['id', 7],
    ['source', ''],
    ['source', 'a b'],
    ['source', 'http://exa mple.com'],
    ['source', 'über'],
    ['source', '%zz'],
    ['source', '1a:b'],
    ['source', 'a#b#c'],
    ['source', 'http://[::1'],
    ['source', true],
    ['type', ''],
    ['subject', ''],
    ['subject', 5],
    ['subject', {}],
    ['time', ''],
    ['time', 'yesterday'],
    ['time', '2026-02-12'],
    ['time', '2026-02-12T08:00:00'],
    ['time', '2026-02-12 08:00:00Z'],
    ['time', '2026-02-12T24:00:00Z'],
    ['time', '2026-02-12T08:60:00Z'],
    ['time', '2026-02-12T08:00:61Z'],
    ['time', '2026-02-30T08:00:00Z'],
    ['time', '2026-13-01T08:00:00Z'],
    ['time', '2026-02-12T08:00:00.Z'],
    ['time', '2026-02-12T08:00:00+0100'],
    ['time', '2026-02-12T08:00:00+24:00'],
    ['time', '2026-2-12T08:00:00Z'],
    ['time', '2026-02-12T08:00:00Z\n'],
    ['time', 1770883200],
    ['datacontenttype', ''],
    ['datacontenttype', 'json'],
    ['datacontenttype', 'application/json; charset'],
    ['datacontenttype', 'text/plain\r\nx: y'],
    ['dataschema', ''],
    ['dataschema', '/relative'],
    ['dataschema', 'https://example.com/schema#part'],
    ['partitionkey', ''],
    ['partitionkey', 12],
    ['float', 1.5],
    ['big', 5e9],
    ['big', 2147483648],
    ['big', -2147483649],
    ['object', { a: 1 }],
    ['list', ['a']],
    ['tab', 'a\tb'],
    ['nul', 'a\u0000b'],
    ['del', 'a\u007fb'],
    ['control', 'a\u0085b'],
    ['noncharacter', '\ufffe'],
    ['noncharacter', '\ufdd0'],
    ['noncharacter', '\u{1ffff}'],
    ['surrogate', 'a\ud83d'],
    ['surrogate', '\ude00a'],
    ['Upper', 'x'],
    ['under_score', 'x'],
    ['dash-ed', 'x'],
    ['', 'x'],
    ['ünicode', 'x'],
    ['data_base64', 'not base64!'],
    ['data_base64', 'Zm9v\nYg=='],
    ['data_base64', 'Zm9vYg'],
    ['data_base64', 12],
  ]
  test.each(refused)('%s may not be %j, whoever reads or writes it', (name, value) => {
    const read = faultOf(() => decodeStructured(structured({ [name]: value })))
    expect(read).toMatchObject({ code: 'EVENT_INVALID', facts: { attribute: name } })
    expect(read.message).toContain(name)
    if (name === 'data_base64') return
    const event = { ...least, [name]: value } as CloudEvent
    for (const write of [
      () => encodeStructured(event),
      () => encodeKafka(event, 'binary'),
      () => encodeHttp(event, 'binary'),
      () => encodeBatch([event]),
    ])
      expect(faultOf(write)).toMatchObject({ code: 'EVENT_INVALID', facts: { attribute: name } })
  })

  test('a magic name in JSON is a bad name, and touches no prototype', () => {
    const text = '{"specversion":"1.0","id":"1","source":"/s","type":"t","__proto__":"x"}'
    expect(faultOf(() => decodeStructured(text)).facts.attribute).toBe('__proto__')
  })

  test.each(['specversion', 'id', 'source', 'type'])(
    '%s is required, and null is the same as missing',
    name => {
      for (const value of [undefined, null])
        expect(faultOf(() => decodeStructured(structured({ [name]: value })))).toMatchObject({
          code: 'EVENT_INVALID',
          message: `${name} is missing`,
        })
    },
  )

  test('a null attribute is unset, on the way in and on the way out', () => {
    const event = decodeStructured(structured({ subject: null, time: null, mine: null, data_base64: null }))
    expect(event).toEqual(least)
    expect(JSON.parse(encodeStructured({ ...least, mine: null } as CloudEvent))).toEqual(least)
    expect(encodeKafka({ ...least, mine: null }, 'binary').headers).toEqual(kafkaHeaders)
  })

  test('a name that is refused is refused without a value too', () => {
    expect(faultOf(() => decodeStructured(structured({ 'bad-name': null }))).facts.attribute).toBe('bad-name')
  })
})

describe('data in JSON', () => {
  test.each([
    ['an object', { a: 1 }],
    ['null', null],
    ['false', false],
    ['zero', 0],
    ['an empty string', ''],
    ['a string that is JSON itself', '{"a":1}'],
    ['a list', [1, [2]]],
  ])('%s stays what it is', (_, data) => {
    const event = decodeStructured(structured({ data }))
    expect(event.data).toEqual(data)
    expect('data' in event).toBe(true)
    expect(JSON.parse(encodeStructured(event))).toEqual({ ...least, data })
  })

  test('absent data is not null data', () => {
    const event = decodeStructured(structured())
    expect('data' in event).toBe(false)
    expect(encodeStructured(event)).toBe(structured())
  })

  test('data_base64 is bytes, and goes out as data_base64, with no type made up', () => {
    const event = decodeStructured(structured({ data_base64: 'eyAieHl6IjogMTIzIH0=' }))
    expect(event.data).toEqual(Buffer.from('{ "xyz": 123 }'))
    expect(event.datacontenttype).toBeUndefined()
    expect(JSON.parse(encodeStructured(event))).toEqual({ ...least, data_base64: 'eyAieHl6IjogMTIzIH0=' })
    expect(encodeHttp(event, 'binary')).toEqual({ headers: ceHeaders, body: Buffer.from('{ "xyz": 123 }') })
  })

  test('data and data_base64 exclude each other', () => {
    const fault = faultOf(() => decodeStructured(structured({ data: 1, data_base64: 'AA==' })))
    expect(fault).toMatchObject({ code: 'EVENT_INVALID', facts: { attribute: 'data_base64' } })
    const withNull = faultOf(() => decodeStructured(structured({ data: null, data_base64: 'AA==' })))
    expect(withNull.code).toBe('EVENT_INVALID')
  })

  test('data that is declared to be no JSON is a string', () => {
    const xml = { datacontenttype: 'application/xml', data: '<much wow="xml"/>' }
    expect(encodeHttp(decodeStructured(structured(xml)), 'binary')).toEqual({
      headers: { ...ceHeaders, 'content-type': 'application/xml' },
      body: Buffer.from('<much wow="xml"/>'),
    })
    const bad = faultOf(() =>
      decodeStructured(structured({ datacontenttype: 'application/xml', data: { a: 1 } })),
    )
    expect(bad).toMatchObject({ code: 'EVENT_INVALID', facts: { attribute: 'data' } })
  })

  test.each(['application/json', 'APPLICATION/JSON; charset=utf-8', 'text/json', 'application/ld+JSON;v=1'])(
    '%s declares JSON',
    datacontenttype => {
      const event = decodeStructured(structured({ datacontenttype, data: { a: 1 } }))
      expect(encodeKafka(event, 'binary').value?.toString()).toBe('{"a":1}')
    },
  )

  test.each([
    ['12345678901234567890'],
    ['0.1000000000000000055511151231257827'],
    ['1e400'],
    ['1.5E-400'],
    ['-9007199254740993'],
  ])('the number %s is kept to the last digit', digits => {
    const text = structured({ data: { n: 0 } }).replace(':0}', `:${digits}}`)
    expect(encodeStructured(decodeStructured(text))).toBe(text)
    const alone = encodeKafka(decodeStructured(text), 'binary')
    expect(alone.value?.toString()).toBe(`{"n":${digits}}`)
    expect(encodeStructured(decodeKafka(alone))).toContain(`{"n":${digits}}`)
  })

  test.each([
    ['2.50', 2.5],
    ['100000000000000000000', 1e20],
    ['1e+2', 100],
    ['0.10000000000000000', 0.1],
    ['-0.0', -0],
  ])('the number %s, which a double holds, is a number', (digits, value) => {
    const event = decodeStructured(structured({ data: 0 }).replace(':0}', `: ${digits}}`))
    expect(event.data).toBe(value)
  })

  test.each([[Number.NaN], [Number.POSITIVE_INFINITY], [1n], [() => 1], [Symbol('s')], [Buffer.from('x')]])(
    '%s inside data is refused, not turned into null',
    value => {
      const fault = faultOf(() => encodeStructured({ ...least, data: { list: [value] } }))
      expect(fault).toMatchObject({ code: 'EVENT_INVALID', facts: { attribute: 'data' } })
    },
  )

  test('a nest too deep to print again is refused, in and out, and does not overflow the stack', () => {
    const deep = `${'['.repeat(200_000)}${']'.repeat(200_000)}`
    expect(faultOf(() => decodeStructured(structured({ data: 0 }).replace(':0}', `:${deep}}`))).code).toBe(
      'EVENT_INVALID',
    )
    const circle: unknown[] = []
    circle.push(circle)
    expect(faultOf(() => encodeStructured({ ...least, data: circle })).code).toBe('EVENT_INVALID')
  })

  test.each([['{'], [''], ['\ufeff{}'], ['{"a":01}'], ['undefined']])('%j is not JSON', text => {
    expect(faultOf(() => decodeStructured(text)).code).toBe('EVENT_NOT_JSON')
  })

  test.each([['[]'], ['null'], ['"text"'], ['1']])('%s is JSON and no event', text => {
    expect(faultOf(() => decodeStructured(text)).code).toBe('EVENT_INVALID')
  })

  test('bytes that are no UTF-8 are refused, never replaced', () => {
    const bytes = Buffer.concat([
      Buffer.from(structured({ subject: 'x' }).slice(0, -2)),
      Buffer.from([0xc0, 0xa0, 0x22, 0x7d]),
    ])
    expect(faultOf(() => decodeStructured(bytes)).code).toBe('EVENT_NOT_JSON')
  })
})

describe('a batch', () => {
  test('may be empty', () => {
    expect(decodeBatch('[]')).toEqual([])
    expect(encodeBatch([])).toBe('[]')
  })

  test('is a list of events, and a bad one is named by its index', () => {
    expect(decodeBatch(`[${structured()},${structured({ id: 'b' })}]`)).toEqual([
      least,
      { ...least, id: 'b' },
    ])
    const fault = faultOf(() => decodeBatch(`[${structured()},${structured({ time: 'x' })}]`))
    expect(fault).toMatchObject({ code: 'EVENT_INVALID', facts: { attribute: 'time', index: 1 } })
    expect(faultOf(() => decodeBatch(structured())).code).toBe('EVENT_INVALID')
    expect(faultOf(() => decodeBatch('[')).code).toBe('EVENT_NOT_JSON')
  })
})

describe('Kafka', () => {
  test('structured mode has its type, and the event as the value', () => {
    const message = encodeKafka({ ...least, data: 1 }, 'structured')
    expect(message.headers).toEqual({ 'content-type': 'application/cloudevents+json; charset=UTF-8' })
    expect(message.value?.toString()).toBe(structured({ data: 1 }))
  })

  test('binary mode spells attributes as text under ce_, raw, and the type without prefix', () => {
    const event: CloudEvent = {
      ...least,
      subject: 'Euro € 😀',
      seq: -7,
      flag: true,
      time: '2026-02-12T08:00:00.123456789+02:00',
      datacontenttype: 'application/json',
      data: 'text',
    }
    const message = encodeKafka(event, 'binary')
    expect(message.headers).toEqual({
      ...kafkaHeaders,
      ce_subject: 'Euro € 😀',
      ce_seq: '-7',
      ce_flag: 'true',
      ce_time: '2026-02-12T08:00:00.123456789+02:00',
      'content-type': 'application/json',
    })
    expect(message.value?.toString()).toBe('"text"')
    expect(decodeKafka(message)).toEqual({ ...event, seq: '-7', flag: 'true' })
  })

  test('no data is no value, a tombstone; null data is the four letters', () => {
    expect(encodeKafka({ ...least }, 'binary')).toEqual({ headers: kafkaHeaders, value: null })
    expect(decodeKafka({ headers: kafkaHeaders, value: null })).toEqual(least)
    const nothing = encodeKafka({ ...least, data: null }, 'binary')
    expect(nothing.value?.toString()).toBe('null')
    expect(decodeKafka(nothing)).toEqual({ ...least, datacontenttype: 'application/json', data: null })
  })

  test('data without a type is JSON, and says so once it is re-encoded', () => {
    expect(encodeKafka({ ...least, data: { a: 1 } }, 'binary').headers['content-type']).toBe(
      'application/json',
    )
    expect(encodeKafka({ ...least, data: Buffer.from('{}') }, 'binary').headers).toEqual(kafkaHeaders)
    expect(encodeKafka({ ...least }, 'binary').headers).toEqual(kafkaHeaders)
  })

  test('a value without a type stays bytes, even where it looks like JSON', () => {
    expect(decodeKafka({ headers: kafkaHeaders, value: Buffer.from('{}') })).toEqual({
      ...least,
      data: Buffer.from('{}'),
    })
  })

  test('headers come in any case, as text or bytes, alone or in a list', () => {
    const headers: KafkaHeadersIn = {
      CE_SpecVersion: Buffer.from('1.0'),
      ce_id: 'a-1',
      Ce_Source: [Buffer.from('/mine')],
      ce_type: ['com.example.some'],
      CE_SUBJECT: Buffer.from('€'),
      'Content-Type': Buffer.from('text/plain'),
      unrelated: [Buffer.from([0xff]).toString('latin1'), 'x'],
      ce_unset: undefined,
    }
    expect(decodeKafka({ headers, value: Buffer.from('é') })).toEqual({
      ...least,
      subject: '€',
      datacontenttype: 'text/plain',
      data: 'é',
    })
  })

  test('the mode is told by a prefix in any case', () => {
    const headers = { 'CONTENT-type': 'Application/CloudEvents+JSON' }
    expect(decodeKafka({ headers, value: Buffer.from(structured()) })).toEqual(least)
  })

  test('in structured mode the headers beside the type say nothing', () => {
    const headers = { ...kafkaHeaders, ce_id: 'other', 'content-type': 'application/cloudevents+json' }
    expect(decodeKafka({ headers, value: Buffer.from(structured()) })).toEqual(least)
  })

  const refused: [
    name: string,
    headers: KafkaHeadersIn,
    value: Buffer | null,
    code: string,
    attribute?: string,
  ][] = [
    [
      'a structured message without value',
      { 'content-type': 'application/cloudevents+json' },
      null,
      'EVENT_NOT_JSON',
    ],
    [
      'a batch',
      { 'content-type': 'application/cloudevents-batch+json' },
      Buffer.from('[]'),
      'EVENT_INVALID',
      'content-type',
    ],
    [
      'another format',
      { 'content-type': 'application/cloudevents+avro' },
      Buffer.from('x'),
      'EVENT_INVALID',
      'content-type',
    ],
    [
      'another charset',
      { 'content-type': 'application/cloudevents+json; charset=utf-16' },
      Buffer.from(structured()),
      'EVENT_INVALID',
      'content-type',
    ],
    ['a message without headers', {}, Buffer.from(structured()), 'EVENT_INVALID', 'specversion'],
    ['an attribute called data', { ...kafkaHeaders, ce_data: '1' }, null, 'EVENT_INVALID', 'data'],
    [
      'an attribute called data_base64',
      { ...kafkaHeaders, ce_data_base64: 'AA==' },
      null,
      'EVENT_INVALID',
      'data_base64',
    ],
    ['an attribute without name', { ...kafkaHeaders, ce_: '1' }, null, 'EVENT_INVALID', ''],
    [
      'a header given twice',
      { ...kafkaHeaders, ce_subject: ['a', 'a'] },
      null,
      'EVENT_INVALID',
      'ce_subject',
    ],
    ['a header given twice in two cases', { ...kafkaHeaders, CE_ID: 'a-1' }, null, 'EVENT_INVALID', 'ce_id'],
    [
      'a header that is no UTF-8',
      { ...kafkaHeaders, ce_subject: Buffer.from([0xc0, 0xa0]) },
      null,
      'EVENT_INVALID',
      'ce_subject',
    ],
    [
      'two types that differ',
      { ...kafkaHeaders, ce_datacontenttype: 'text/plain', 'content-type': 'application/json' },
      null,
      'EVENT_INVALID',
      'datacontenttype',
    ],
    [
      'a type that is none',
      { ...kafkaHeaders, 'content-type': 'json' },
      null,
      'EVENT_INVALID',
      'datacontenttype',
    ],
    [
      'data that is not the JSON it says',
      { ...kafkaHeaders, 'content-type': 'application/json' },
      Buffer.from('{'),
      'EVENT_NOT_JSON',
    ],
    [
      'an empty value that says JSON',
      { ...kafkaHeaders, 'content-type': 'application/json' },
      Buffer.alloc(0),
      'EVENT_NOT_JSON',
    ],
    ['an empty subject', { ...kafkaHeaders, ce_subject: '' }, null, 'EVENT_INVALID', 'subject'],
    [
      'an empty partition key',
      { ...kafkaHeaders, ce_partitionkey: '' },
      null,
      'EVENT_INVALID',
      'partitionkey',
    ],
  ]
  test.each(refused)('%s is refused', (_, headers, value, code, attribute) => {
    const fault = faultOf(() => decodeKafka({ headers, value }))
    expect(fault.code).toBe(code)
    if (attribute !== undefined) expect(fault.facts.attribute).toBe(attribute)
  })

  test('a type that is sent twice and agrees is taken once', () => {
    const headers = { ...kafkaHeaders, ce_datacontenttype: 'text/plain', 'content-type': 'text/plain' }
    expect(decodeKafka({ headers, value: null })).toEqual({ ...least, datacontenttype: 'text/plain' })
  })

  test('a key is made of partitionkey only where none is given, and never becomes an attribute', () => {
    const keyed: CloudEvent = { ...least, partitionkey: 'p' }
    expect(kafkaKeyOf(keyed)).toBe('p')
    expect(kafkaKeyOf(keyed, 'mine')).toBe('mine')
    expect(kafkaKeyOf({ ...least })).toBeNull()
    expect(encodeKafka(keyed, 'binary').headers.ce_partitionkey).toBe('p')
    expect(JSON.parse(encodeKafka(keyed, 'structured').value?.toString() ?? '').partitionkey).toBe('p')
    // What a consumer hands over has a key, which is not looked at.
    expect(decodeKafka({ ...encodeKafka({ ...least }, 'binary'), key: 'p' } as never)).toEqual(least)
  })

  test('bytes of text in another charset stay bytes', () => {
    const type = 'text/plain; charset=iso-8859-1'
    const event = decodeKafka({
      headers: { ...kafkaHeaders, 'content-type': type },
      value: Buffer.from([0xe9]),
    })
    expect(event.data).toEqual(Buffer.from([0xe9]))
    expect(encodeKafka(event, 'binary').value).toEqual(Buffer.from([0xe9]))
    expect(faultOf(() => encodeKafka({ ...least, datacontenttype: type, data: 'é' }, 'binary')).code).toBe(
      'EVENT_INVALID',
    )
  })
})

describe('HTTP', () => {
  test.each([
    ['Euro € 😀', 'Euro%20%E2%82%AC%20%F0%9F%98%80'],
    ['a"b%c', 'a%22b%25c'],
    ["!#$&'()*+,-./:;<=>?@[\\]^_`{|}~", "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"],
    ['%41', '%2541'],
    ['\u00a0', '%C2%A0'],
  ])('the value %s travels as %s', (subject, header) => {
    const message = encodeHttp({ ...least, subject }, 'binary')
    expect(message.headers['ce-subject']).toBe(header)
    expect(http(message.headers).subject).toBe(subject)
  })

  test.each([
    ['needless encoding', '%41%62c', 'Abc'],
    ['lower-case digits', '%e2%82%ac', '€'],
    ['one round only', '%2541', '%41'],
    ['a quoted value', '"a b"', 'a b'],
    ['a quoted value with escapes', '"a \\"b\\" \\\\ %20"', 'a "b" \\  '],
    ['quotes inside', 'a"b c"d', 'ab cd'],
    ['space around', '  a b\t', 'a b'],
    ['a backslash outside quotes', 'a\\b', 'a\\b'],
  ])('%s is understood: %s', (_, header, subject) => {
    expect(http({ ...ceHeaders, 'ce-subject': header }).subject).toBe(subject)
  })

  test('types become text, and the content type carries datacontenttype alone', () => {
    const message = encodeHttp(
      { ...least, seq: 3, flag: false, datacontenttype: 'text/json', data: [] },
      'binary',
    )
    expect(message.headers).toEqual({
      ...ceHeaders,
      'ce-seq': '3',
      'ce-flag': 'false',
      'content-type': 'text/json',
    })
    expect(message.body?.toString()).toBe('[]')
  })

  test('header names come in any case', () => {
    const headers = {
      'CE-SpecVersion': '1.0',
      'Ce-Id': 'a-1',
      'cE-source': '/mine',
      'ce-TYPE': 'com.example.some',
      'CE-TraceId': 'x',
    }
    expect(http(headers)).toEqual({ ...least, traceid: 'x' })
  })

  test('an empty body is no data, whatever the type', () => {
    expect(http({ ...ceHeaders, 'content-type': 'application/json' }, '')).toEqual({
      ...least,
      datacontenttype: 'application/json',
    })
    expect(encodeHttp({ ...least }, 'binary')).toEqual({ headers: ceHeaders, body: undefined })
  })

  test.each([
    ['application/cloudevents+json'],
    ['application/cloudevents+json; charset=utf-8'],
    ['Application/CloudEvents+JSON;charset="UTF-8"'],
  ])('%s is structured mode, and headers beside it say nothing', type => {
    expect(
      http({ ...ceHeaders, 'ce-id': 'other', 'content-type': type }, structured({ data: null })),
    ).toEqual({
      ...least,
      data: null,
    })
  })

  test.each([['application/cloudevents-batch+json'], ['APPLICATION/CLOUDEVENTS-BATCH+JSON; charset=utf-8']])(
    '%s is a batch, though it begins like structured mode',
    type => {
      expect(
        decodeHttp({ 'content-type': type }, `[${structured()},${structured({ id: 'b' })}]`),
      ).toHaveLength(2)
      expect(decodeHttp({ 'content-type': type }, '[]')).toEqual([])
    },
  )

  test('a batch is written with its type', () => {
    const message = encodeHttpBatch([least, { ...least, id: 'b' }])
    expect(message.headers).toEqual({ 'content-type': 'application/cloudevents-batch+json; charset=UTF-8' })
    expect(decodeHttp(message.headers, message.body)).toEqual([least, { ...least, id: 'b' }])
  })

  test('raw UTF-8, as the Go SDK sends it, is read as it is: whoever encodes nothing encodes no percent sign', () => {
    for (const subject of ['Euro € 😀', '100 % é %41 "é"']) {
      const sent = Buffer.from(subject).toString('latin1')
      expect(decodeHttp({ ...ceHeaders, 'ce-subject': sent }, undefined)).toMatchObject([{ subject }])
    }
  })

  const json = { 'content-type': 'application/cloudevents+json' }
  const refused: [
    name: string,
    headers: HttpHeadersIn,
    body: string | undefined,
    code: string,
    attribute?: string,
  ][] = [
    ['an overlong encoding', { ...ceHeaders, 'ce-subject': '%C0%A0' }, undefined, 'EVENT_INVALID', 'subject'],
    [
      'an encoded surrogate',
      { ...ceHeaders, 'ce-subject': '%ED%A0%80' },
      undefined,
      'EVENT_INVALID',
      'subject',
    ],
    ['half a percent sign', { ...ceHeaders, 'ce-subject': '100%' }, undefined, 'EVENT_INVALID', 'subject'],
    [
      'raw bytes that are no UTF-8',
      { ...ceHeaders, 'ce-subject': 'a\xff' },
      undefined,
      'EVENT_INVALID',
      'subject',
    ],
    [
      'a raw control character',
      { ...ceHeaders, 'ce-subject': '\xc2\x85' },
      undefined,
      'EVENT_INVALID',
      'subject',
    ],
    ['raw Unicode', { ...ceHeaders, 'ce-subject': 'â‚¬' }, undefined, 'EVENT_INVALID', 'subject'],
    [
      'an encoded control character',
      { ...ceHeaders, 'ce-subject': 'a%0Ab' },
      undefined,
      'EVENT_INVALID',
      'subject',
    ],
    ['an open quote', { ...ceHeaders, 'ce-subject': '"a' }, undefined, 'EVENT_INVALID', 'subject'],
    [
      'a quote with its end escaped',
      { ...ceHeaders, 'ce-subject': '"a\\"' },
      undefined,
      'EVENT_INVALID',
      'subject',
    ],
    [
      'ce-datacontenttype',
      { ...ceHeaders, 'ce-datacontenttype': 'text/plain', 'content-type': 'text/plain' },
      'x',
      'EVENT_INVALID',
      'datacontenttype',
    ],
    ['ce-data', { ...ceHeaders, 'ce-data': 'x' }, undefined, 'EVENT_INVALID', 'data'],
    ['a bad name', { ...ceHeaders, 'ce-my-name': 'x' }, undefined, 'EVENT_INVALID', 'my-name'],
    ['a header given twice', { ...ceHeaders, 'ce-id': ['a-1', 'a-1'] }, undefined, 'EVENT_INVALID', 'ce-id'],
    [
      'a header given twice in two cases',
      { ...ceHeaders, 'CE-ID': 'a-1' },
      undefined,
      'EVENT_INVALID',
      'ce-id',
    ],
    ['an event without type', { ...ceHeaders, 'ce-type': undefined }, undefined, 'EVENT_INVALID', 'type'],
    ['plain JSON', { 'content-type': 'application/json' }, structured(), 'EVENT_INVALID', 'specversion'],
    [
      'an unknown format',
      { 'content-type': 'application/cloudevents+avro' },
      'x',
      'EVENT_INVALID',
      'content-type',
    ],
    [
      'an unknown batch',
      { 'content-type': 'application/cloudevents-batch+xml' },
      '[]',
      'EVENT_INVALID',
      'content-type',
    ],
    ['a list sent as one event', json, '[]', 'EVENT_INVALID'],
    [
      'one event sent as a batch',
      { 'content-type': 'application/cloudevents-batch+json' },
      structured(),
      'EVENT_INVALID',
    ],
    ['nothing', json, undefined, 'EVENT_NOT_JSON'],
    [
      'a body that is not the JSON it says',
      { ...ceHeaders, 'content-type': 'application/json' },
      '{',
      'EVENT_NOT_JSON',
    ],
  ]
  test.each(refused)('%s is refused', (_, headers, body, code, attribute) => {
    const fault = faultOf(() => decodeHttp(headers, body))
    expect(fault.code).toBe(code)
    if (attribute !== undefined) expect(fault.facts.attribute).toBe(attribute)
  })
})

describe('every way out and in again', () => {
  const character = fc
    .oneof(fc.integer({ min: 0x20, max: 0x7e }), fc.integer({ min: 0xa0, max: 0x10ffff }))
    .filter(point => !(point >= 0xd800 && point <= 0xdfff))
    .filter(point => (point & 0xfffe) !== 0xfffe && !(point >= 0xfdd0 && point <= 0xfdef))
    .map(point => String.fromCodePoint(point))
  const text = (minLength: number) =>
    fc.array(character, { minLength, maxLength: 12 }).map(all => all.join(''))
  const name = fc.stringMatching(/^[a-z0-9]{1,12}$/)
  const reserved = new Set([
    'data',
    'id',
    'source',
    'type',
    'time',
    'subject',
    'specversion',
    'dataschema',
    'datacontenttype',
    'partitionkey',
  ])
  const extensions = fc
    .dictionary(name, fc.oneof(text(0), fc.boolean(), fc.integer()), { maxKeys: 4, noNullPrototype: true })
    .map(all => Object.fromEntries(Object.entries(all).filter(([key]) => !reserved.has(key))))
  const digits = (count: number) =>
    fc.integer({ min: 0, max: 10 ** count - 1 }).map(n => String(n).padStart(count, '0'))
  const time = fc
    .tuple(
      fc.date({
        min: new Date('1000-01-01T00:00:00Z'),
        max: new Date('9998-12-31T00:00:00Z'),
        noInvalidDate: true,
      }),
      fc.option(fc.array(digits(1), { minLength: 1, maxLength: 12 }), { nil: undefined }),
      fc.constantFrom('Z', 'z', '+00:00', '-00:00', '+05:45', '-11:30', '+23:59'),
      fc.constantFrom('T', 't'),
    )
    .map(
      ([date, fraction, zone, t]) =>
        `${date.toISOString().slice(0, 10)}${t}${date.toISOString().slice(11, 19)}${fraction ? `.${fraction.join('')}` : ''}${zone}`,
    )
  const source = fc.oneof(
    fc.webUrl({ withQueryParameters: true, withFragments: true }),
    fc.constantFrom('/a', 'a/b', 'urn:x:y', '?q', 'meterline/rafay/prod'),
  )
  const body = fc.oneof(
    fc.constant({}),
    fc.jsonValue({ maxDepth: 3 }).map(data => ({ data })),
    fc.record({
      data: fc.jsonValue({ maxDepth: 3 }),
      datacontenttype: fc.constantFrom('application/json', 'application/x+json; v=1', 'Text/JSON'),
    }),
    fc.record({
      data: fc.string({ unit: 'binary' }).filter(s => s.isWellFormed()),
      datacontenttype: fc.constantFrom('text/plain', 'application/xml', 'text/csv; charset=UTF-8'),
    }),
    fc.uint8Array({ maxLength: 20 }).map(data => ({ data })),
    fc.record({
      data: fc.uint8Array({ maxLength: 20 }),
      datacontenttype: fc.constantFrom('image/png', 'application/octet-stream'),
    }),
    fc.constant({ datacontenttype: 'application/json' }),
  )
  const optional = <Value>(value: fc.Arbitrary<Value>) => fc.option(value, { nil: undefined, freq: 3 })
  const event: fc.Arbitrary<CloudEvent> = fc
    .tuple(
      fc.record({
        id: text(1),
        source,
        type: text(1),
        subject: optional(text(1)),
        time: optional(time),
        partitionkey: optional(text(1)),
        dataschema: optional(fc.webUrl()),
      }),
      extensions,
      body,
    )
    .map(([core, more, payload]) => {
      const all = { specversion: '1.0', ...more, ...core, ...payload }
      return Object.fromEntries(
        Object.entries(all).filter(([, value]) => value !== undefined),
      ) as unknown as CloudEvent
    })

  /** Bytes of any kind as one kind, so that they compare. */
  const comparable = (one: CloudEvent): Record<string, unknown> => ({
    ...one,
    ...('data' in one && {
      data:
        one.data instanceof Uint8Array
          ? { bytes: Buffer.from(one.data).toString('hex') }
          : { json: JSON.stringify(one.data) },
    }),
  })
  /** What the binary modes lose by their nature: types of attributes, and that JSON went without a type. */
  const asText = (one: CloudEvent): CloudEvent => {
    const texts = Object.fromEntries(
      Object.entries(one).map(([key, value]) => [key, key === 'data' ? value : String(value)]),
    )
    const implied = 'data' in one && !(one.data instanceof Uint8Array) && one.datacontenttype === undefined
    return { ...texts, ...(implied && { datacontenttype: 'application/json' }) } as unknown as CloudEvent
  }

  test('JSON and structured modes give the event back', () => {
    fc.assert(
      fc.property(event, one => {
        expect(comparable(decodeStructured(encodeStructured(one)))).toEqual(comparable(one))
        expect(comparable(decodeStructured(Buffer.from(encodeStructured(one))))).toEqual(comparable(one))
        expect(comparable(decodeKafka(encodeKafka(one, 'structured')))).toEqual(comparable(one))
        const message = encodeHttp(one, 'structured')
        expect(comparable(http(message.headers, message.body))).toEqual(comparable(one))
      }),
      { numRuns: 500 },
    )
  })

  test('batches give the events back, in order', () => {
    fc.assert(
      fc.property(fc.array(event, { maxLength: 4 }), events => {
        const message = encodeHttpBatch(events)
        expect(decodeHttp(message.headers, message.body).map(comparable)).toEqual(events.map(comparable))
      }),
    )
  })

  test('binary modes give the event back, its attributes as text', () => {
    fc.assert(
      fc.property(event, one => {
        expect(comparable(decodeKafka(encodeKafka(one, 'binary')))).toEqual(comparable(asText(one)))
        const message = encodeHttp(one, 'binary')
        for (const value of Object.values(message.headers)) expect(value).toMatch(/^[\x20-\x7e]*$/)
        const back = comparable(http(message.headers, message.body))
        const { data: _, ...withoutData } = comparable(asText(one))
        expect(back).toEqual(message.body?.length ? comparable(asText(one)) : withoutData)
      }),
      { numRuns: 500 },
    )
  })

  test('what is encoded passes the official JSON schema', () => {
    const official = ajv.compile({
      ...JSON.parse(readFileSync(new URL('cloudevents.schema.json', fixtures), 'utf8')),
      $schema: undefined,
    })
    fc.assert(
      fc.property(event, one => {
        // The schema's date-time wants capitals, and its uri-reference is ajv's.
        const plain = { ...one, ...(one.time !== undefined && { time: one.time.toUpperCase() }) }
        const json = JSON.parse(encodeStructured(plain))
        expect(official(json), JSON.stringify([json, official.errors])).toBe(true)
      }),
    )
  })

  test('any JSON object is refused by a fault or goes out in every mode', () => {
    const nearly = fc
      .tuple(
        event,
        fc.dictionary(
          fc.oneof(name, fc.string(), fc.constantFrom(...reserved, 'data_base64')),
          fc.jsonValue(),
          { maxKeys: 2 },
        ),
      )
      .map(([one, more]) => ({ ...JSON.parse(encodeStructured(one)), ...more }))
    let accepted = 0
    fc.assert(
      fc.property(nearly, json => {
        let one: CloudEvent
        try {
          one = decodeStructured(JSON.stringify(json))
        } catch (error) {
          expect(error).toBeInstanceOf(Fault)
          return
        }
        accepted += 1
        expect(comparable(decodeStructured(encodeStructured(one)))).toEqual(comparable(one))
        expect(decodeKafka(encodeKafka(one, 'binary')).id).toBe(one.id)
        const message = encodeHttp(one, 'binary')
        expect(http(message.headers, message.body).id).toBe(one.id)
      }),
      { numRuns: 500 },
    )
    expect(accepted).toBeGreaterThan(20)
  })
})

describe('the official conformance scenarios', () => {
  test.each(scenarios())('$name', ({ given }) => {
    const { event, attributes, data } = given()
    const { data: actual, ...rest } = event
    expect(rest).toEqual(attributes)
    expect(actual).toEqual(data)
  })

  test('are all there: two for Kafka in structured mode, four for HTTP, one in Kafka binary', () => {
    expect(scenarios()).toHaveLength(7)
  })

  function scenarios() {
    return ['http-protocol-binding.feature', 'kafka-protocol-binding.feature'].flatMap(file =>
      features(readFileSync(new URL(file, fixtures), 'utf8')).map(scenario => ({
        name: scenario.name,
        given: () => run(scenario.steps),
      })),
    )
  }

  function run(steps: Document['steps']) {
    let request = ''
    let payload = ''
    let headers: Record<string, string> = {}
    let event: CloudEvent | undefined
    let attributes: Record<string, string> = {}
    let data: unknown
    for (const { text, docString, table } of steps) {
      const pairs = () => Object.fromEntries(table.slice(1).map(([key = '', value = '']) => [key, value]))
      if (text.endsWith('Protocol Binding is supported')) continue
      else if (text === 'an HTTP request') request = docString
      else if (text === 'a Kafka message with payload:') payload = docString
      else if (text === 'Kafka headers:') headers = pairs()
      else if (text === 'parsed as HTTP request') event = parseRequest(request)
      else if (text === 'parsed as Kafka message')
        event = decodeKafka({ headers, value: Buffer.from(payload) })
      else if (text === 'the attributes are:') attributes = pairs()
      else if (text === 'the data is equal to the following JSON:') data = JSON.parse(docString)
      else throw new Error(`unknown step: ${text}`)
    }
    if (!event) throw new Error('nothing was parsed')
    return { event, attributes, data }
  }

  function parseRequest(request: string): CloudEvent {
    const [head = '', ...body] = request.split('\n\n')
    const headers = Object.fromEntries(
      head
        .split('\n')
        .slice(1)
        .map(line => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()]),
    )
    return http(headers, body.join('\n\n'))
  }
})
