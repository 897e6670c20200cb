/** Marks of pushers: which are taken, which are refused and with which words, and which say the same. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { CloudEvent } from '../../schemas/cloudevents.ts'
import { Fault } from '../../schemas/fault.ts'
import { checkPushedMark, checkSent, pushedMarkType } from '../../schemas/pushed.ts'
import { gridMinutes, minuteMs, showInstant, windowAt } from '../../schemas/window.ts'

const nowMs = Date.UTC(2025, 5, 1, 12)
const [start, end] = ['2025-06-01T08:00:00Z', '2025-06-01T09:00:00Z']

function mark(data: object = {}, envelope: object = {}): CloudEvent {
  return {
    specversion: '1.0',
    id: 'm1',
    source: 'urn:app',
    type: pushedMarkType,
    ...envelope,
    data: { window: { start, end }, events: 10, ...data },
  } as CloudEvent
}

function refusal(event: CloudEvent): string {
  try {
    checkPushedMark(event, nowMs)
  } catch (error) {
    if (error instanceof Fault) return `${error.code} ${error.message}`
  }
  throw new Error('it was taken')
}

describe('a mark of a pusher', () => {
  test('speaks for all tenants or for one, is settled unless it says otherwise, and goes with the others of its scope', () => {
    expect(checkPushedMark(mark(), nowMs)).toMatchObject({
      source: 'urn:app',
      id: 'm1',
      scope: 'all',
      window: { startMs: Date.parse(start), endMs: Date.parse(end) },
      events: 10,
      isSettled: true,
    })
    const one = mark({ settled: false, events: 0 }, { subject: 'acme' })
    expect(checkPushedMark(one, nowMs)).toMatchObject({ scope: 'acme', events: 0, isSettled: false })
    expect([mark(), one].map(event => checkSent(event, nowMs).key)).toEqual(['urn:app all', 'urn:app acme'])
  })

  test('says the same whatever its envelope says, however its window is written, and something else otherwise', () => {
    const content = (event: CloudEvent) => checkPushedMark(event, nowMs).content
    for (const same of [
      mark({ settled: true }),
      mark({ window: { start: '2025-06-01T10:00:00+02:00', end: '2025-06-01T09:00:00.000000Z' } }),
      mark({}, { time: '2025-06-01T09:01:00Z', traceparent: '00-1', datacontenttype: 'application/json' }),
    ])
      expect(content(same)).toBe(content(mark()))
    const others = [
      mark({ events: 11 }),
      mark({ settled: false }),
      mark({}, { subject: 'acme' }),
      mark({ window: { start: end, end: '2025-06-01T10:00:00Z' } }),
    ].map(content)
    expect(new Set([content(mark()), ...others]).size).toBe(5)
  })

  test('may name any window of a grid, and no other', () => {
    const span = fc.record({
      atMs: fc.integer({ min: 0, max: 600 }).map(count => nowMs - count * minuteMs),
      minutes: fc.integer({ min: -1, max: 121 }),
    })
    fc.assert(
      fc.property(span, fc.constantFrom(...gridMinutes), ({ atMs, minutes }, width) => {
        const said = (startMs: number, endMs: number) =>
          mark({ window: { start: showInstant(startMs), end: showInstant(endMs) } })
        const { startMs, endMs } = windowAt(atMs, width)
        expect(checkPushedMark(said(startMs, endMs), nowMs).window).toEqual({ startMs, endMs })
        const isWindow =
          (gridMinutes as readonly number[]).includes(minutes) && atMs % (minutes * minuteMs) === 0
        const any = said(atMs, atMs + minutes * minuteMs)
        if (isWindow) expect(checkPushedMark(any, nowMs).scope).toBe('all')
        else expect(refusal(any)).toContain(`/data/window "${showInstant(atMs)}/`)
      }),
    )
  })

  const window = (from: string, to: string) => ({ window: { start: from, end: to } })
  test.each<[string, CloudEvent, RegExp]>([
    [
      'a window of ten minutes',
      mark(window(start, '2025-06-01T08:10:00Z')),
      /^EVENT_DATA_INVALID \/data\/window "2025-06-01T08:00:00Z\/2025-06-01T08:10:00Z" .*60, 30, 15, 5 or 1 minutes/,
    ],
    [
      'one that crosses an hour',
      mark(window('2025-06-01T08:30:00Z', '2025-06-01T09:30:00Z')),
      /no window of a grid/,
    ],
    ['one by the nanosecond', mark(window('2025-06-01T08:00:00.000001Z', end)), /no window of a grid/],
    ['one of no time', mark(window('8 o’clock', end)), /\/data\/window "8 o’clock\/.*no window of a grid/],
    [
      'one of 1999',
      mark(window('1999-12-31T23:00:00Z', '2000-01-01T00:00:00Z')),
      /^TIME_OUT_OF_BOUNDS .*2000/,
    ],
    [
      'one of the day after tomorrow',
      mark(window('2025-06-02T12:00:00Z', '2025-06-02T13:00:00Z')),
      /^TIME_OUT_OF_BOUNDS .*a day after 2025-06-01T12:00:00Z/,
    ],
    ['no window', mark({ window: undefined }), /^EVENT_DATA_INVALID \/data\/window .*missing: .*60, 30/],
    ['half a window', mark({ window: { start } }), /\/data\/window\/end is missing/],
    ['a number below nothing', mark({ events: -1 }), /\/data\/events "-1" must be >= 0: .*whole number/],
    ['half an event', mark({ events: 1.5 }), /\/data\/events "1.5" must be integer/],
    [
      'a number as text',
      mark({ events: '10' }),
      /\/data\/events ""10"" must be integer|\/data\/events .*10.* must be integer/,
    ],
    [
      'a word for settled',
      mark({ settled: 'yes' }),
      /\/data\/settled .*yes.* must be boolean: say true or false/,
    ],
    ['something more', mark({ digest: 'x' }), /\/data\/digest .*is not known here: data holds window/],
    ['no data', { ...mark(), data: undefined }, /\/data/],
    ['the subject all', mark({}, { subject: 'all' }), /^EVENT_INVALID subject "all" .*leave subject out/],
    ['the subject *', mark({}, { subject: '*' }), /^EVENT_INVALID subject "\*"/],
    ['a long subject', mark({}, { subject: 'x'.repeat(1025) }), /^EVENT_INVALID subject is longer than 1024/],
    ['a source of ours', mark({}, { source: 'meterline/rafay/prod' }), /^SOURCE_RESERVED/],
    [
      'text',
      mark({}, { datacontenttype: 'text/plain' }),
      /^EVENT_DATA_INVALID \/datacontenttype "text\/plain"/,
    ],
  ])('with %s is refused, with what is wrong and what to do', (_, event, words) => {
    expect(refusal(event)).toMatch(words)
    expect(() => checkSent(event, nowMs)).toThrow(Fault)
  })
})
