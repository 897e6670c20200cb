/** What becomes of a batch of messages: readings, marks, duplicates and rejects, and nothing between. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { accept, fitTogether, messageBytesMax } from '../../processor/accept.ts'
import type { LogMessage } from '../../runtime/log/log.ts'
import { contentText, type MarkEvent, type ReadingEvent } from '../../schemas/event.ts'
import { type ReplayEvent, replayType, sealAbout } from '../../schemas/pushed.ts'
import { hourMs } from '../../schemas/window.ts'
import { acceptParts, batchOf, headers, instance, readEvents } from '../reads.ts'

const read = {
  source: 'meterline/rafay/test',
  scope: 'compute',
  window: { startMs: Date.UTC(2025, 5, 1), endMs: Date.UTC(2025, 5, 1) + hourMs },
  readatMs: Date.UTC(2025, 5, 1, 2),
}
const events = readEvents(read, [instance('a', 'i1', '3600'), instance('b', 'i2', '1800')])

/** The first reading with one thing changed: `change` gets the parsed event. */
function changed(
  change: (event: Record<string, unknown> & { data: Record<string, unknown> }) => void,
): LogMessage {
  const event = structuredClone(events[0]) as never
  change(event)
  return message(Buffer.from(JSON.stringify(event)))
}

function message(value: Buffer | null, more: Record<string, string> = headers): LogMessage {
  return { offset: 7n, key: null, value, headers: more, appendedMs: 0 }
}

/** An event that somebody else pushed, one day after it could say tomorrow. */
function pushed(change: Record<string, unknown>): LogMessage {
  const event = {
    specversion: '1.0',
    id: '1',
    source: 'urn:app',
    type: 'call',
    subject: 'a',
    data: {},
    ...change,
  }
  const appendedMs = Date.UTC(2025, 5, 1)
  return { ...message(Buffer.from(JSON.stringify(event))), appendedMs }
}

function pushersMark(count: number): Buffer {
  const window = { start: '2025-05-31T23:00:00Z', end: '2025-06-01T00:00:00Z' }
  const mark = { specversion: '1.0', id: 'm', source: 'urn:app', type: 'io.meterline.pushed.v1' }
  return Buffer.from(JSON.stringify({ ...mark, data: { window, events: count } }))
}

test('a whole read is taken apart into its readings and its mark', () => {
  const accepted = accept(batchOf(events, 5), 'log')
  expect(accepted).toMatchObject({ first: 5n, last: 7n, messages: 3, passed: [], rejects: [] })
  expect(accepted.readings).toBe(2)
  expect(accepted.rows.count).toBe(2)
  expect(accepted.rows.identityAt(1)).toMatchObject({ log: 'log', partition: 0, offset: 6n })
  expect([5n, 6n].map(offset => JSON.parse(accepted.said(offset))[1])).toEqual(['a', 'b'])
  expect(accepted.marks).toHaveLength(1)
  const [mark] = accepted.marks
  const [name, part] = [...accepted.reads][0]!
  expect(name).toBe(mark?.read)
  expect(part).toMatchObject({ readings: 2, digest: BigInt(`0x${mark?.event.data.digest}`) })
  expect(part.subjects).toEqual(new Set(['a', 'b']))
  expect(part.rows).toEqual([0, 1])
})

test('the same event twice in a batch is one event and a duplicate', () => {
  const accepted = accept(batchOf([...events, ...events], 0), 'log')
  expect(accepted).toMatchObject({ messages: 6, readings: 2, rejects: [] })
  expect(accepted.passed.map(({ offset, fate }) => [offset, fate])).toEqual([
    [3n, 'duplicate'],
    [4n, 'duplicate'],
    [5n, 'duplicate'],
  ])
})

test('what a reading says is found in its message again, also where that came from the rejects', () => {
  const [first] = events as [ReadingEvent]
  const direct = batchOf([first], 3).messages[0]!
  const replay = sealAbout<ReplayEvent>({
    source: 'meterline/replay/rejected',
    id: 'a'.repeat(32),
    type: replayType,
    partitionkey: first.partitionkey,
    timeMs: read.readatMs,
    data: {
      log: 'log',
      partition: 0,
      offset: '1',
      part: 0,
      received: '2025-06-01T02:00:00Z',
      headers,
      value: direct.value!.toString('base64'),
    },
  })
  for (const message of [direct, { ...direct, value: Buffer.from(replay) }]) {
    const accepted = accept({ partition: 0, messages: [message] }, 'log')
    expect(accepted).toMatchObject({ readings: 1, rejects: [] })
    expect(accepted.said(3n)).toBe(contentText(first))
  }
})

test('another content under the same id is a conflict, which keeps what it says', () => {
  const [first, second, mark] = structuredClone(events) as [ReadingEvent, ReadingEvent, MarkEvent]
  const other = structuredClone(first)
  other.data.measures.instance_seconds = '7'
  const otherMark = structuredClone(mark)
  otherMark.data.settled = !mark.data.settled
  const accepted = accept(batchOf([first, second, other, mark, otherMark], 0), 'log')
  expect(accepted).toMatchObject({ messages: 5, readings: 2, rejects: [] })
  expect(accepted.marks).toHaveLength(1)
  expect(accepted.passed.map(({ offset, fate, id }) => [offset, fate, id])).toEqual([
    [2n, 'conflict', first.id],
    [4n, 'conflict', mark.id],
  ])
  expect(accepted.passed[0]?.value).toContain('"instance_seconds":"7"')
})

const rejects: [string, LogMessage, string, RegExp][] = [
  ['no JSON', message(Buffer.from('{"specversion":')), 'EVENT_NOT_JSON', /JSON/],
  ['a tombstone', message(null), 'EVENT_NOT_JSON', /no value/],
  [
    'another specversion',
    changed(event => Object.assign(event, { specversion: '0.3' })),
    'EVENT_INVALID',
    /specversion/,
  ],
  ['no id', changed(event => void delete event.id), 'EVENT_INVALID', /id/],
  [
    'a foreign source',
    changed(event => Object.assign(event, { source: 'urn:app' })),
    'SOURCE_RESERVED',
    /type.*io\.meterline\.rafay/,
  ],
  [
    'a kind that the source is not',
    changed(event => Object.assign(event, { type: 'io.meterline.runai.pod.v1' })),
    'EVENT_DATA_INVALID',
    /type/,
  ],
  [
    'an id of another readat',
    changed(event =>
      Object.assign(event, { id: `${String(event.id).slice(0, 33)}2025-06-01T02:00:00.001Z` }),
    ),
    'EVENT_DATA_INVALID',
    /readat/,
  ],
  [
    'a time that is not the window',
    changed(event => Object.assign(event, { time: '2025-06-01T01:00:00Z' })),
    'EVENT_DATA_INVALID',
    /time/,
  ],
  [
    'another key',
    changed(event => Object.assign(event, { partitionkey: 'x' })),
    'EVENT_DATA_INVALID',
    /partitionkey/,
  ],
  [
    'a window off the grid',
    changed(event =>
      Object.assign(event.data, { window: { start: '2025-06-01T00:00:00Z', end: '2025-06-01T00:59:00Z' } }),
    ),
    'EVENT_DATA_INVALID',
    /window/,
  ],
  [
    'a measure nobody knows',
    changed(event => Object.assign(event.data, { measures: { coffee_cups: '1' } })),
    'EVENT_DATA_INVALID',
    /coffee_cups/,
  ],
  [
    'a negative quantity',
    changed(event => Object.assign(event.data, { measures: { instance_seconds: '-1' } })),
    'EVENT_DATA_INVALID',
    /instance_seconds/,
  ],
  [
    'a quantity as a number',
    changed(event => Object.assign(event.data, { measures: { instance_seconds: 3600 } })),
    'EVENT_DATA_INVALID',
    /instance_seconds/,
  ],
  [
    'thirteen decimals',
    changed(event => Object.assign(event.data, { measures: { gpu_seconds: '0.0000000000001' } })),
    'EVENT_DATA_INVALID',
    /gpu_seconds/,
  ],
  [
    'more seconds than the window holds',
    changed(event => Object.assign(event.data, { measures: { instance_seconds: '3600.000000000001' } })),
    'VALUE_OUT_OF_BOUNDS',
    /instance_seconds/,
  ],
  [
    'an interval outside the window',
    changed(event =>
      Object.assign(event.data, { interval: { start: '2025-06-01T00:00:00Z', end: '2025-06-01T02:00:00Z' } }),
    ),
    'EVENT_DATA_INVALID',
    /interval/,
  ],
  [
    'a window of another century',
    changed(event =>
      Object.assign(event, {
        time: '1925-06-01T00:00:00Z',
        data: { ...event.data, window: { start: '1925-06-01T00:00:00Z', end: '1925-06-01T01:00:00Z' } },
      }),
    ),
    'TIME_OUT_OF_BOUNDS',
    /1925/,
  ],
  ['a pushed event without a subject', pushed({ subject: undefined }), 'EVENT_INVALID', /subject/],
  ['a pushed event of bytes', pushed({ data: undefined, data_base64: 'AAAA' }), 'EVENT_DATA_INVALID', /JSON/],
  [
    'a pushed event of text',
    pushed({ datacontenttype: 'text/plain', data: 'x' }),
    'EVENT_DATA_INVALID',
    /text\/plain/,
  ],
  ['a pushed event of 1999', pushed({ time: '1999-12-31T23:59:59Z' }), 'TIME_OUT_OF_BOUNDS', /1999/],
  [
    'a pushed event of the day after tomorrow',
    pushed({ time: '2025-06-02T00:00:00.001Z' }),
    'TIME_OUT_OF_BOUNDS',
    /a day after/,
  ],
  [
    'a pushed event that is deep',
    pushed({ data: JSON.parse(`${'['.repeat(65)}${']'.repeat(65)}`) }),
    'EVENT_DATA_INVALID',
    /deep/,
  ],
  [
    'a pushed event of many values',
    pushed({ data: Array.from({ length: 10_000 }, () => 0) }),
    'EVENT_DATA_INVALID',
    /10000 values/,
  ],
  ['too many bytes', message(Buffer.alloc(messageBytesMax + 1, 'x')), 'EVENT_TOO_LARGE', /bytes/],
]

test.each(rejects)('%s is rejected with its reason, and the rest goes on', (_, bad, code, reason) => {
  const good = batchOf(events, 8).messages
  const accepted = accept({ partition: 3, messages: [bad, ...good] }, 'log')
  expect(accepted.readings).toBe(2)
  expect(accepted.rejects).toHaveLength(1)
  const [reject] = accepted.rejects
  expect(reject).toMatchObject({ partition: 3, offset: 7n, code, bytes: bad.value?.length ?? 0 })
  expect(reject?.reason).toMatch(reason)
  expect(reject?.value.length).toBeLessThanOrEqual(65_536)
  expect(reject?.sha256).toMatch(/^[0-9a-f]{64}$/)
})

test('a reject keeps the headers that say what its bytes are, and no others', () => {
  const bad = message(Buffer.from('{'), { ...headers, authorization: 'Bearer 1', ce_id: 'x' })
  const [reject] = accept({ partition: 0, messages: [bad] }, 'log').rejects
  expect(reject?.headers).toEqual({ ...headers, ce_id: 'x' })
})

test('a message that comes again has the fate of what it holds, at its own place', () => {
  const replay = (value: Buffer) => ({
    specversion: '1.0',
    id: 'r',
    source: 'meterline/replay/rejected',
    type: 'io.meterline.replay.v1',
    time: '2025-06-01T00:00:00Z',
    partitionkey: 'k',
    datacontenttype: 'application/json',
    data: {
      log: 'old',
      partition: 4,
      offset: '99',
      part: 0,
      received: '2025-05-31T00:00:00Z',
      headers,
      value: value.toString('base64'),
    },
  })
  const take = (event: object) =>
    accept({ partition: 0, messages: [message(Buffer.from(JSON.stringify(event)))] }, 'log')
  const timeless = pushed({ time: undefined }).value ?? Buffer.alloc(0)
  const good = take(replay(timeless))
  expect(good.pushed).toMatchObject([{ offset: 7n, timeMs: Date.UTC(2025, 4, 31) }])
  expect(good.replays).toEqual([{ offset: 7n, part: 0, from: { log: 'old', partition: 4, offset: 99n } }])
  const bad = take(replay(Buffer.from('{')))
  expect(bad.rejects).toMatchObject([{ offset: 7n, code: 'EVENT_NOT_JSON', value: Buffer.from('{') }])
  expect(bad.replays).toHaveLength(1)
  const nested = take(replay(Buffer.from(JSON.stringify(replay(timeless)))))
  expect(nested).toMatchObject({ pushed: [], rejects: [{ code: 'EVENT_INVALID' }] })
})

test('half a character in a reading is a reject, before ClickHouse refuses it', () => {
  const half = changed(event => Object.assign(event.data, { labels: { name: '\ud83d' } }))
  expect(accept({ partition: 0, messages: [half] }, 'log').rejects).toMatchObject([
    { code: 'EVENT_DATA_INVALID', reason: expect.stringContaining('half a character') },
  ])
  const backslash = changed(event => Object.assign(event.data, { labels: { name: '\\ud83d 😀' } }))
  expect(accept({ partition: 0, messages: [backslash] }, 'log').readings).toBe(1)
})

test('a reading of two summed rows may hold two windows of seconds', () => {
  const bad = changed(event =>
    Object.assign(event.data, { measures: { instance_seconds: '7200' }, parts: 2 }),
  )
  expect(accept({ partition: 0, messages: [bad] }, 'log')).toMatchObject({ rejects: [], messages: 1 })
})

test('whatever comes, every message is in exactly one of readings, marks, pushed events, duplicates and rejects', () => {
  const text = JSON.stringify(events[0])
  const anything = fc.oneof(
    fc.uint8Array({ maxLength: 200 }).map(bytes => Buffer.from(bytes)),
    fc.json().map(json => Buffer.from(json)),
    // A real event with a piece of its text replaced.
    fc
      .tuple(fc.nat(text.length - 1), fc.nat(20), fc.string({ maxLength: 20 }))
      .map(([at, length, put]) => Buffer.from(text.slice(0, at) + put + text.slice(at + length))),
    fc.constantFrom(...events.map(event => Buffer.from(JSON.stringify(event)))),
    fc.integer({ min: -1, max: 1 }).map(count => pushersMark(count)),
  )
  const anyHeaders = fc.oneof(
    fc.constant(headers),
    fc.dictionary(fc.string({ maxLength: 12 }), fc.string({ maxLength: 40 })),
  )
  fc.assert(
    fc.property(fc.array(fc.tuple(anything, anyHeaders), { minLength: 1, maxLength: 20 }), items => {
      const messages = items.map(([value, more], index) => ({
        ...message(value, more),
        offset: BigInt(index),
        appendedMs: Date.UTC(2025, 5, 1),
      }))
      let from = 0
      for (const accepted of acceptParts({ partition: 0, messages }, 'log')) {
        const { readings, marks, decisions, pushed: others, pushedMarks, amendments, passed } = accepted
        const lists = [marks, decisions, others, pushedMarks, amendments, passed, accepted.rejects]
        expect(readings + lists.reduce((sum, list) => sum + list.length, 0)).toBe(accepted.messages)
        expect(accepted).toMatchObject({ first: BigInt(from), last: BigInt(from + accepted.messages - 1) })
        from += accepted.messages
      }
      expect(from).toBe(items.length)
    }),
    { numRuns: 2000 },
  )
})

test('a batch ends before a reading that comes behind the mark of its read, unless it came before as well', () => {
  const [a, b, mark] = events
  const [other] = readEvents({ ...read, scope: 'storage' }, [instance('a', 'i3', '3600')])
  const messages = (...events: readonly (typeof mark)[]) => batchOf(events as never, 0)
  const parts = (...events: readonly (typeof mark)[]) =>
    acceptParts(messages(...events), 'log').map(part => part.messages)
  expect(parts(a, b, mark, other)).toEqual([4])
  expect(parts(a, b, mark, a, b, mark)).toEqual([6])
  expect(parts(a, mark, b, mark)).toEqual([2, 2])
  expect(parts(mark, a, b, mark, mark, other)).toEqual([1, 5])
  // The mark of the first may not be held against the readings of the second, so they do not go in at once either.
  const [first, second] = acceptParts(messages(a, mark, b, mark), 'log')
  expect(first && second && fitTogether(first, second)).toBe(false)
  const [whole] = acceptParts(messages(a, b, mark), 'log')
  const [stranger] = acceptParts(messages(other), 'log')
  expect(whole && stranger && fitTogether(whole, stranger)).toBe(true)
})
