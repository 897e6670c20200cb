/** What earlier versions sent is taken by this one, and means the same: the ledger keeps it for years. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { accept } from '../processor/accept.ts'
import { misfits } from '../schemas/check.ts'
import { type CloudEvent, decodeKafka, encodeKafka } from '../schemas/cloudevents.ts'
import {
  contentHash,
  MarkEvent,
  markType,
  type ReadIdentity,
  ReadingEvent,
  sealMark,
  sealReading,
  showDigest,
} from '../schemas/event.ts'
import { parseInstant } from '../schemas/window.ts'
import { eventsOfThisVersion, othersOfThisVersion, recordings } from './record-events.ts'

const read = (tag: string, file: string): unknown =>
  JSON.parse(readFileSync(join(recordings, tag, file), 'utf8'))
const tags = readdirSync(recordings)
const all = tags.flatMap(tag =>
  readdirSync(join(recordings, tag)).map(file => ({ tag, file, event: read(tag, file) as CloudEvent })),
)
/** Events of reads: all that have a readat. */
const recorded = all
  .filter(({ event }) => 'readat' in event)
  .map(one => ({ ...one, event: one.event as unknown as ReadingEvent | MarkEvent }))
const others = all.filter(({ event }) => !('readat' in event))
const isReading = (event: ReadingEvent | MarkEvent): event is ReadingEvent => event.type !== markType
const at = (text: string) => parseInstant(text, 'recorded event')
const identityOf = ({ source, scope, readat, data }: ReadingEvent | MarkEvent): ReadIdentity => ({
  source,
  scope,
  readatMs: at(readat),
  window: { startMs: at(data.window.start), endMs: at(data.window.end) },
})

test('there is a recording of this version or of one before it, with readings and marks', () => {
  expect(tags).toContain('v0.1.0')
  for (const tag of tags) {
    const types = new Set(recorded.filter(one => one.tag === tag).map(one => isReading(one.event)))
    expect(types).toEqual(new Set([true, false]))
  }
})

describe.each(recorded)('$tag $file', ({ tag, event }) => {
  test('fits the schema of today', () => {
    const schema = isReading(event) ? ReadingEvent : MarkEvent
    expect(misfits(schema, structuredClone(event))).toEqual([])
  })

  test('travels and comes back as it was, structured and binary', () => {
    for (const mode of ['structured', 'binary'] as const)
      expect(decodeKafka(encodeKafka(event, mode))).toEqual(event)
  })

  test('is accepted into the ledger', () => {
    const { headers, value } = encodeKafka(event, 'structured')
    const message = { offset: 7n, key: event.partitionkey, value, headers, appendedMs: 0 }
    const accepted = accept({ partition: 0, messages: [message] }, 'log')
    expect(accepted.rejects).toEqual([])
    expect(accepted.readings + accepted.marks.length).toBe(1)
  })

  test('has the identity and the key that it would have today', () => {
    const kind = event.source.split('/')[1] ?? ''
    if (!isReading(event)) {
      const { window: _, ...data } = event.data
      expect(sealMark(data, identityOf(event))).toEqual(event)
      return
    }
    const { interval, window: _, ...data } = event.data
    const usage = {
      ...data,
      thing: event.type.split('.')[3] ?? '',
      subject: event.subject,
      ...(interval && { interval: { startMs: at(interval.start), endMs: at(interval.end) } }),
    }
    expect(sealReading(usage, kind, identityOf(event))).toEqual(event)
  })

  test('has the digest that it would have today, where it is a complete read', () => {
    if (isReading(event) || event.data.outcome === 'failed' || event.data.events === 0) return
    const readat = event.data.repeats ?? event.readat
    const readings = recorded.flatMap(one =>
      one.tag === tag &&
      isReading(one.event) &&
      one.event.partitionkey === event.partitionkey &&
      one.event.readat === readat
        ? [one.event]
        : [],
    )
    expect(readings).toHaveLength(event.data.events)
    expect(showDigest(readings.reduce((sum, reading) => sum + contentHash(reading), 0n))).toBe(
      event.data.digest,
    )
  })
})

describe.each(others)('$tag $file', ({ file, event }) => {
  test('travels and comes back as it was, structured and binary', () => {
    for (const mode of ['structured', 'binary'] as const)
      expect(decodeKafka(encodeKafka(event, mode))).toEqual(event)
  })

  test('is taken for what it is', () => {
    const { headers, value } = encodeKafka(event, 'structured')
    const key = String(event.partitionkey ?? event.source)
    const message = { offset: 7n, key, value, headers, appendedMs: Date.parse('2026-02-12T10:00:00Z') }
    const { decisions, pushed, pushedMarks, amendments, replays, rejects } = accept(
      { partition: 0, messages: [message] },
      'log',
    )
    const found = { decisions, pushed, pushedMarks, amendments, replays, rejects }
    const counts = Object.fromEntries(
      Object.entries(found).flatMap(([name, { length }]) => (length > 0 ? [[name, length]] : [])),
    )
    const kind = file.split(/[-.]/)[0] ?? ''
    const expected = {
      decision: { decisions: 1 },
      pushed: file === 'pushed.json' ? { pushed: 1 } : { pushedMarks: 1 },
      amendment: { amendments: 1 },
      void: { amendments: 1 },
      refusal: { rejects: 1 },
      replay: { pushed: 1, replays: 1 },
    }[kind]
    expect(counts).toEqual(expected)
    expect(rejects.map(({ code, origin }) => [code, origin])).toEqual(
      kind === 'refusal' ? [['EVENT_INVALID', 'http']] : [],
    )
  })
})

test('what is recorded of this very version is what it sends', () => {
  const { version } = JSON.parse(readFileSync(join(import.meta.dirname, '../package.json'), 'utf8')) as {
    version: string
  }
  const ofThis = all.filter(one => one.tag === `v${version}`).map(({ file, event }) => [file, event] as const)
  // Between a raised version and its recording, at the tag, there is none.
  if (ofThis.length > 0)
    expect(Object.fromEntries(ofThis)).toEqual({ ...eventsOfThisVersion(), ...othersOfThisVersion() })
})
