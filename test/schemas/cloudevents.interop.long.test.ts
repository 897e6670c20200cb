/**
 * Events over a real Kafka, and over HTTP, between us and the published SDKs of Go and Python: what we write they read, and
 * what they write we take. Where an SDK does not keep to the specification, the case says how.
 */
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import { Door } from '../../runtime/keys.ts'
import { Ingest } from '../../runtime/log/ingest.ts'
import type { KafkaConfig } from '../../runtime/log/kafka.ts'
import {
  type CloudEvent,
  type ContentMode,
  decodeKafka,
  decodeStructured,
  encodeKafka,
  encodeStructured,
  type KafkaMessage,
} from '../../schemas/cloudevents.ts'
import { instantMs } from '../../schemas/window.ts'
import { type KafkaRig, startKafka } from '../rig/kafka.ts'
import { type FoundMessage, freshConfig, readTopic, sendAll } from '../rig/kafka-topics.ts'
import { goSdk, pythonSdk, type Sdk } from '../rig/sdks.ts'

let rig: KafkaRig
let go: Sdk
let python: Sdk
beforeAll(async () => {
  ;[rig, go, python] = await Promise.all([startKafka(), goSdk(), pythonSdk()])
}, 600_000)
afterAll(async () => await rig?.stop())

// -- the events

type Kind = 'String' | 'Boolean' | 'Integer' | 'Binary' | 'URI' | 'URIReference' | 'Timestamp'

/** An event as the drivers of test/interop tell it. */
interface Told {
  readonly attributes: Readonly<Record<string, { readonly type: Kind | string; readonly value: string }>>
  readonly data: { readonly kind: 'none' | 'json' | 'text' | 'bytes'; readonly value: string }
  readonly error?: string
}

type Attributes = Readonly<Record<string, string | readonly [Kind, string]>>

function event(id: string, attributes: Attributes, data: Told['data']): Told {
  const all = {
    source: 'https://app.example/usage',
    type: 'com.example.call',
    subject: 'acme',
    ...attributes,
  }
  const time = '2026-02-12T10:00:00.123456789+02:00'
  const typed = Object.entries({ id, time, ...all }).map(
    ([name, value]) =>
      [
        name,
        typeof value === 'string' ? { type: 'String', value } : { type: value[0], value: value[1] },
      ] as const,
  )
  return { attributes: Object.fromEntries(typed), data }
}

const json = (value: string): Told['data'] => ({ kind: 'json', value })
const isJson = { datacontenttype: 'application/json' }
const events = {
  plain: event('plain', isJson, json('{"tokens":"7","calls":3}')),
  all: event(
    'all',
    {
      ...{ ...isJson, dataschema: 'https://app.example/schema/1' },
      astring: 'text',
      ...{ least: ['Integer', '-2147483648'], most: ['Integer', '2147483647'], bytes: ['Binary', 'AP8B'] },
      ...{ auri: ['URI', 'https://app.example/a?b=c'], areference: ['URIReference', '../a/b?c'] },
      atimestamp: ['Timestamp', '2026-02-12T08:00:00Z'],
    },
    json('{}'),
  ),
  unicode: event(
    'ünï 日本 😀',
    { ...isJson, subject: 'Euro € 😀 "quoted" \\', name: 'Ελλάδα' },
    json('{"Ελλάδα":"😀 \\u0000 \\\\ \\"","deep":[[[{"a":null}]]]}'),
  ),
  flags: event('flags', { ...isJson, yes: ['Boolean', 'true'], no: ['Boolean', 'false'] }, json('{}')),
  spaces: event('spaces', { ...isJson, note: ' space around ' }, json('{}')),
  percent: event(
    'percent',
    { ...isJson, source: 'https://app.example/usage?x=%C3%BC', subject: '100 % %41' },
    json('{}'),
  ),
  noType: event('no type', {}, json('{"a":[1,2.5,true,null,"x"]}')),
  suffix: event('suffix', { datacontenttype: 'application/vnd.app+json; charset=utf-8' }, json('{"a":1}')),
  whole: event('whole', isJson, json('{"n":12345678901234567890}')),
  text: event('a string', isJson, json('"just \\"text\\""')),
  list: event('a list', isJson, json('["a","b"]')),
  number: event('a number', isJson, json('42')),
  null: event('null', isJson, json('null')),
  none: event('none', {}, { kind: 'none', value: '' }),
  key: event('key', { ...isJson, partitionkey: 'acme/1' }, json('{"a":1}')),
  early: event('early', { ...isJson, time: '2000-01-01T00:00:00Z' }, json('{"a":1}')),
  west: event('west', { ...isJson, time: '2026-02-11T20:30:00.5-11:30' }, json('{"a":1}')),
  plainText: event('plain text', { datacontenttype: 'text/plain' }, { kind: 'text', value: 'grüße 😀\n' }),
  bytes: event(
    'bytes',
    { datacontenttype: 'application/octet-stream' },
    { kind: 'bytes', value: 'AP8BgA==' },
  ),
} as const satisfies Readonly<Record<string, Told>>
type Name = keyof typeof events
const names = Object.keys(events) as Name[]
/** Of these Meterline bills: the others are CloudEvents all the same, and are told why they are not taken. */
const notBilled: readonly Name[] = ['plainText', 'bytes']

/** The same event as we hold it. */
function ours({ attributes, data }: Told): CloudEvent {
  const values = Object.entries(attributes).map(([name, { type, value }]) => {
    if (type === 'Boolean') return [name, value === 'true'] as const
    return [name, type === 'Integer' ? Number(value) : value] as const
  })
  const value = {
    none: () => undefined,
    json: () =>
      decodeStructured(`{"specversion":"1.0","id":"1","source":"1","type":"1","data":${data.value}}`).data,
    text: () => data.value,
    bytes: () => Buffer.from(data.value, 'base64'),
  }[data.kind]()
  return {
    specversion: '1.0',
    ...Object.fromEntries(values),
    ...(value !== undefined && { data: value }),
  } as CloudEvent
}

// -- compared

/** Nanoseconds since 1970. */
function nanoseconds(time: string): bigint {
  const fraction = /\.(\d+)/.exec(time)?.[1] ?? ''
  const seconds = instantMs(time.replace(/\.\d+/, ''))
  if (seconds === undefined) throw new Error(`${time} is no time`)
  return BigInt(seconds) * 1_000_000n + BigInt(fraction.padEnd(9, '0').slice(0, 9))
}

/** Everything of an event, its attributes as text, so that two of them can be compared whatever they came through. */
function shape(of: CloudEvent, digits = 9) {
  const { data, time, specversion: _, ...rest } = of
  const attributes = Object.entries(rest)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) => [name, String(value)] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1))
  const unit = 10n ** BigInt(9 - digits)
  return {
    attributes: Object.fromEntries(attributes),
    time: time === undefined ? undefined : nanoseconds(time) / unit,
    data: bytesOf(data),
  }
}

function bytesOf(data: unknown): string | undefined {
  if (data === undefined) return undefined
  return data instanceof Uint8Array ? `bytes ${Buffer.from(data).toString('base64')}` : JSON.stringify(data)
}

/** What an SDK says it has read, as we hold it. */
function read(told: Told, original: CloudEvent): CloudEvent {
  if (told.error !== undefined) throw new Error(told.error)
  const { attributes, data } = told
  // Go gives bytes, whatever they are of.
  const wantsJson = data.kind === 'bytes' && !(original.data instanceof Uint8Array)
  const text = wantsJson ? Buffer.from(data.value, 'base64').toString() : data.value
  const isText = wantsJson && original.datacontenttype === 'text/plain'
  return ours({ attributes, data: wantsJson ? { kind: isText ? 'text' : 'json', value: text } : data })
}

type Mode = ContentMode | 'batch'

interface Quirks {
  /** Digits of a second that it keeps. */
  readonly digits: number
  /** What it does not keep, though the specification asks for it. */
  readonly misreads: (name: Name, mode: Mode) => boolean
  readonly miswrites: (name: Name, mode: Mode, over: 'Kafka' | 'HTTP') => boolean
}

const sdks: Readonly<Record<'Go' | 'Python', Quirks>> = {
  Go: {
    digits: 9,
    // In JSON it takes no type but application/json for JSON.
    misreads: (name, mode) => name === 'suffix' && mode !== 'binary',
    miswrites: (name, mode, over) => {
      // In binary mode it writes no type where there is none, and in a header of HTTP it encodes nothing: what is beyond
      // ASCII is read all the same, but a percent sign is taken for what it stands for, and space around is lost.
      if (mode !== 'binary') return name === 'suffix'
      return name === 'noType' || (over === 'HTTP' && (name === 'percent' || name === 'spaces'))
    },
  },
  Python: {
    digits: 6,
    // It takes null for no data.
    misreads: name => name === 'null',
    // And in binary mode it writes as Python has it what is no text or object, and no type where there is none.
    miswrites: (name, mode) =>
      name === 'null' || (mode === 'binary' && ['noType', 'flags', 'text', 'list', 'number'].includes(name)),
  },
}
const sdkOf = (name: 'Go' | 'Python') => (name === 'Go' ? go : python)

async function freshTopic(): Promise<KafkaConfig> {
  const config = freshConfig(rig)
  await sendAll(config, [])
  return config
}

const asRaw = ({ headers, value }: KafkaMessage, key: string | null) => ({
  headers,
  key,
  value: value === null ? null : value.toString('base64'),
})

/** Messages as they are, through the client of the Go SDK: ours sends only structured ones. */
async function putRaw(config: KafkaConfig, messages: readonly object[]): Promise<void> {
  await go.ask({ do: 'raw', brokers: config.brokers, topic: config.topic, messages })
}

async function readBy(sdk: Sdk, config: KafkaConfig): Promise<readonly Told[]> {
  if (sdk.name === 'Go') return await sdk.ask({ do: 'consume', brokers: config.brokers, topic: config.topic })
  const messages = await readTopic(rig, config.topic)
  const raw = messages.map(({ headers, value, hasValue, key }) =>
    asRaw({ headers, value: hasValue ? value : null }, key),
  )
  return await sdk.ask({ do: 'read', messages: raw })
}

async function writtenBy(
  sdk: Sdk,
  config: KafkaConfig,
  mode: ContentMode,
  some: readonly Told[],
): Promise<void> {
  if (sdk.name === 'Go')
    await sdk.ask({ do: 'produce', brokers: config.brokers, topic: config.topic, mode, events: some })
  else await putRaw(config, await sdk.ask<object[]>({ do: 'write', mode, events: some }))
}

const ids = (told: Told) => told.error ?? told.attributes.id?.value ?? ''
const nameOf = (id: string) => names.find(name => events[name].attributes.id?.value === id)!

describe.each(['Go', 'Python'] as const)('the SDK of %s', which => {
  const { digits, misreads, miswrites } = sdks[which]

  test.each(['structured', 'binary'] as const)('reads what we write to Kafka, %s', async mode => {
    const config = await freshTopic()
    const kept = names.filter(name => !misreads(name, mode))
    if (mode === 'structured') {
      // The way of the relay, under keys that are no attribute of the event.
      const rows = kept.map(name => {
        const value = Buffer.from(encodeStructured(ours(events[name])))
        return { key: events[name].attributes.partitionkey?.value ?? `row ${name}`, value }
      })
      await sendAll(config, rows)
    } else
      await putRaw(
        config,
        kept.map(name => asRaw(encodeKafka(ours(events[name]), 'binary'), null)),
      )
    const found = await readBy(sdkOf(which), config)
    expect(found.map(ids).sort()).toEqual(kept.map(name => events[name].attributes.id!.value).sort())
    for (const told of found) {
      const name = nameOf(ids(told))
      const original = ours(events[name])
      const { partitionkey, ...rest } = read(told, original)
      // Python makes one of any key, and JSON in binary mode goes with its type written out.
      const same = { ...rest, ...(original.partitionkey !== undefined && { partitionkey }) } as CloudEvent
      const typed =
        mode === 'binary' && name === 'noType'
          ? { ...original, datacontenttype: 'application/json' }
          : original
      expect(shape(same, digits), name).toEqual(shape(typed, digits))
    }
  })

  test('reads every event that Meterline itself makes', async () => {
    const folder = join(import.meta.dirname, '../fixtures/events/v0.2.0')
    const own = readdirSync(folder).map(file => decodeStructured(readFileSync(join(folder, file))))
    const config = await freshTopic()
    await sendAll(
      config,
      own.map(each => ({
        key: String(each.partitionkey ?? each.id),
        value: Buffer.from(encodeStructured(each)),
      })),
    )
    const found = await readBy(sdkOf(which), config)
    expect(found).toHaveLength(own.length)
    for (const told of found) {
      const original = own.find(
        ({ id, source }) => id === ids(told) && source === told.attributes.source?.value,
      )
      const { partitionkey, ...rest } = read(told, original!)
      const same = { ...rest, ...(original?.partitionkey !== undefined && { partitionkey }) } as CloudEvent
      expect(shape(same, digits)).toEqual(shape(original!, digits))
    }
  })

  test.each(['structured', 'binary'] as const)('what it writes to Kafka, %s, is taken here', async mode => {
    const config = await freshTopic()
    const kept = names.filter(name => !miswrites(name, mode, 'Kafka'))
    await writtenBy(
      sdkOf(which),
      config,
      mode,
      kept.map(name => events[name]),
    )
    const messages = await readTopic(rig, config.topic)
    const fates = { pushed: [] as Name[], rejected: [] as string[] }
    for (const message of messages) {
      const decoded = decodeKafka(asMessage(message, which))
      const name = nameOf(decoded.id)
      const original = ours(events[name])
      const typed = decoded.datacontenttype !== undefined && original.datacontenttype === undefined
      const expected = typed ? { ...original, datacontenttype: 'application/json' } : original
      expect(shape(decoded, digits), name).toEqual(shape(expected, digits))
      const batch = {
        partition: message.partition,
        messages: [
          { ...asMessage(message, which), offset: message.offset, key: message.key, appendedMs: Date.now() },
        ],
      }
      const { pushed, rejects } = accept(batch, 'log')
      fates.pushed.push(...pushed.map(({ id }) => nameOf(id)))
      fates.rejected.push(...rejects.map(({ code }) => `${name} ${code}`))
    }
    expect(fates.pushed.sort()).toEqual(kept.filter(name => !notBilled.includes(name)).sort())
    expect(fates.rejected.sort()).toEqual(notBilled.map(name => `${name} EVENT_DATA_INVALID`).sort())
  })

  test.each(['structured', 'binary', 'batch'] as const)('what it posts, %s, is taken here', async mode => {
    await using pushing = await startPush()
    const kept = names.filter(
      name => !miswrites(name, mode, 'HTTP') && !(mode === 'batch' && notBilled.includes(name)),
    )
    const { url } = pushing
    const asked = { do: 'post', url, mode, key: 'the-key', events: kept.map(name => events[name]) }
    const answers = await sdkOf(which).ask<readonly Answer[]>(asked)
    const good: Answer = { status: 204, type: '', body: '' }
    if (mode === 'batch') expect(answers).toEqual([good])
    else
      for (const [at, name] of kept.entries())
        if (notBilled.includes(name)) {
          expect(answers[at], name).toMatchObject({ status: 400, type: 'application/problem+json' })
          expect(JSON.parse(answers[at]!.body)).toMatchObject({ code: 'EVENT_DATA_INVALID', taken: 0 })
        } else expect(answers[at], name).toEqual(good)
    const taken = pushing.log
      .map(value => decodeStructured(value))
      .filter(({ source }) => !source.startsWith('meterline/'))
    const wanted = kept.filter(name => !notBilled.includes(name))
    expect(taken.map(({ id }) => nameOf(id)).sort()).toEqual(wanted.toSorted())
    for (const found of taken) {
      const original = ours(events[nameOf(found.id)])
      const typed = found.datacontenttype !== undefined && original.datacontenttype === undefined
      const expected = typed ? { ...original, datacontenttype: 'application/json' } : original
      expect(shape(found, digits), found.id).toEqual(shape(expected, digits))
    }
  })
})

/** The binding of Python knows no message without a value. */
function asMessage({ headers, value, hasValue }: FoundMessage, which: 'Go' | 'Python') {
  return { headers, value: hasValue && !(which === 'Python' && value.length === 0) ? value : null }
}

interface Answer {
  readonly status: number
  readonly type: string
  readonly body: string
}

/** Our route, with a key. */
async function startPush() {
  const log: Buffer[] = []
  const grant = {
    name: 'key',
    scopes: ['ingest'],
    sources: ['https://app.example/*'],
    subjects: ['*'],
  } as const
  const ingest = new Ingest({
    sink: { put: async some => void log.push(...some.map(({ value }) => value)) },
    nowMs: Date.now,
    door: new Door({ keys: { authorize: () => grant }, open: 'loopback', nowMs: Date.now }),
  })
  const server = createServer((request, response) => void ingest.answer(request, response)).listen(
    0,
    '127.0.0.1',
  )
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    log,
    url: `http://127.0.0.1:${port}/api/v1/events`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise(resolve => server.close(resolve))
    },
  }
}
