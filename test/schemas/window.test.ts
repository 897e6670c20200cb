/** Windows, grids and calendars: they tile the time without overlap, whatever the clocks of a zone do. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  dayMs,
  gridMinutes,
  hourMs,
  instantMs,
  isOnGrid,
  isZone,
  minuteMs,
  monthOf,
  overlaps,
  parseInstant,
  showInstant,
  showWindow,
  type Window,
  windowAt,
  windowsOver,
} from '../../schemas/window.ts'
import { zones } from './zones.ts'

const at = (text: string): number => parseInstant(text, 'test')
const span = (start: string, end: string): Window => ({ startMs: at(start), endMs: at(end) })
const hours = (window: Window): number => (window.endMs - window.startMs) / hourMs
const ms = fc.integer({ min: at('1950-01-01T00:00:00Z'), max: at('2100-01-01T00:00:00Z') })
const grid = fc.constantFrom(...gridMinutes)

describe('instants', () => {
  test.each([
    ['2026-02-12T08:00:00Z', '2026-02-12T08:00:00.000Z'],
    ['2026-02-12t08:00:00z', '2026-02-12T08:00:00.000Z'],
    ['2026-02-12T08:00:00.1Z', '2026-02-12T08:00:00.100Z'],
    ['2026-02-12T08:00:00.123999999999Z', '2026-02-12T08:00:00.123Z'],
    ['2026-02-12T08:00:00+05:45', '2026-02-12T02:15:00.000Z'],
    ['2026-02-12T08:00:00-00:30', '2026-02-12T08:30:00.000Z'],
    ['2026-02-12T08:00:00-00:00', '2026-02-12T08:00:00.000Z'],
    ['2016-12-31T23:59:60Z', '2017-01-01T00:00:00.000Z'],
    ['2016-12-31T23:59:60.5Z', '2017-01-01T00:00:00.500Z'],
    ['2024-02-29T23:59:59Z', '2024-02-29T23:59:59.000Z'],
    ['2000-02-29T00:00:00Z', '2000-02-29T00:00:00.000Z'],
    ['0000-02-29T00:00:00Z', '0000-02-29T00:00:00.000Z'],
    ['0099-12-31T00:00:00Z', '0099-12-31T00:00:00.000Z'],
  ])('%s is %s', (text, iso) => {
    expect(instantMs(text)).toBe(Date.parse(iso))
  })

  test.each([
    '2026-02-29T00:00:00Z',
    '1900-02-29T00:00:00Z',
    '2026-02-30T00:00:00Z',
    '2026-04-31T00:00:00Z',
    '2026-00-01T00:00:00Z',
    '2026-13-01T00:00:00Z',
    '2026-01-00T00:00:00Z',
    '2026-01-32T00:00:00Z',
    '2026-01-01T24:00:00Z',
    '2026-01-01T00:60:00Z',
    '2026-01-01T00:00:61Z',
    '2026-01-01T00:00:00',
    '2026-01-01T00:00Z',
    '2026-01-01 00:00:00Z',
    '2026-01-01T00:00:00.Z',
    '2026-01-01T00:00:00,5Z',
    '2026-01-01T00:00:00ZZ',
    '2026-01-01T00:00:00+1:00',
    '2026-01-01T00:00:00+0100',
    '2026-01-01T00:00:00+24:00',
    '2026-01-01T00:00:00+01:60',
    '2026-01-01T00:00:00+01:00 ',
    ' 2026-01-01T00:00:00Z',
    '+002026-01-01T00:00:00Z',
    '2026-01-01',
    '٢026-01-01T00:00:00Z',
    '',
  ])('%j is no instant', text => {
    expect(instantMs(text)).toBeUndefined()
    expect(() => parseInstant(text, '--from')).toThrow(
      expect.objectContaining({ code: 'USAGE', message: expect.stringContaining('--from') }),
    )
  })

  test('agrees with the platform on every instant it prints, and on any offset', () => {
    fc.assert(
      fc.property(
        fc.date({
          min: new Date('0001-01-02T00:00:00Z'),
          max: new Date('9999-12-30T00:00:00Z'),
          noInvalidDate: true,
        }),
        fc.integer({ min: -23 * 60 - 59, max: 23 * 60 + 59 }),
        (date, offset) => {
          expect(instantMs(date.toISOString())).toBe(date.getTime())
          expect(instantMs(showInstant(date.getTime()))).toBe(date.getTime())
          const two = (n: number) => String(Math.floor(n)).padStart(2, '0')
          const zone = `${offset < 0 ? '-' : '+'}${two(Math.abs(offset) / 60)}:${two(Math.abs(offset) % 60)}`
          const local = new Date(date.getTime() + offset * minuteMs).toISOString().slice(0, 23)
          expect(instantMs(local + zone)).toBe(date.getTime())
        },
      ),
    )
  })

  test('any text is read as the platform reads it, or refused', () => {
    const near = fc.stringMatching(
      /^\d{4}-[01]\d-[0-3]\d[Tt ][0-2]\d:[0-6]\d:[0-6]\d(\.\d{1,4})?(Z|z|[+-][0-2]\d:[0-6]\d)$/,
    )
    fc.assert(
      fc.property(near, text => {
        const read = instantMs(text)
        if (read === undefined || text.slice(17, 19) === '60') return
        const iso = text.toUpperCase().replace(/\.(\d{3})\d+/, '.$1')
        expect(read).toBe(Date.parse(iso))
      }),
      { numRuns: 1000 },
    )
  })
})

describe('the grid', () => {
  test('the window of an instant holds it, lies on the grid and crosses no hour', () => {
    fc.assert(
      fc.property(ms, grid, (instant, width) => {
        const window = windowAt(instant, width)
        expect(window.startMs <= instant && instant < window.endMs).toBe(true)
        expect(isOnGrid(window)).toBe(true)
        expect(Math.floor(window.startMs / hourMs)).toBe(Math.floor((window.endMs - 1) / hourMs))
        // Half-open: its end belongs to the next.
        expect(windowAt(window.endMs, width).startMs).toBe(window.endMs)
        expect(windowAt(window.endMs - 1, width)).toEqual(window)
      }),
    )
  })

  test('windows over a span tile it: widened to the grid, in order, without hole or overlap', () => {
    fc.assert(
      fc.property(
        ms,
        fc.integer({ min: 1, max: 3 * dayMs }),
        fc.constantFrom(60, 30, 15, 5),
        (startMs, length, width) => {
          const windows = windowsOver({ startMs, endMs: startMs + length }, width as 60)
          expect(windows[0]!.startMs).toBe(windowAt(startMs, width as 60).startMs)
          expect(windows.at(-1)!.endMs).toBe(windowAt(startMs + length - 1, width as 60).endMs)
          for (const [index, window] of windows.entries()) {
            expect(isOnGrid(window)).toBe(true)
            if (index > 0) expect(window.startMs).toBe(windows[index - 1]!.endMs)
          }
        },
      ),
    )
    expect(windowsOver({ startMs: 0, endMs: 0 }, 60)).toEqual([])
  })

  test('spans that touch share nothing, and overlap does not depend on who asks', () => {
    expect(
      overlaps(
        span('2026-01-01T00:00:00Z', '2026-01-01T01:00:00Z'),
        span('2026-01-01T01:00:00Z', '2026-01-01T02:00:00Z'),
      ),
    ).toBe(false)
    const window = fc
      .tuple(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 1, max: 5 }))
      .map(([startMs, length]) => ({ startMs, endMs: startMs + length }))
    fc.assert(
      fc.property(window, window, (a, b) => {
        let shared = false
        for (let instant = 0; instant < 30; instant += 1)
          if (a.startMs <= instant && instant < a.endMs && b.startMs <= instant && instant < b.endMs)
            shared = true
        expect(overlaps(a, b)).toBe(shared)
        expect(overlaps(b, a)).toBe(shared)
      }),
    )
  })

  test.each([
    [span('2026-01-01T00:00:00Z', '2026-01-01T01:00:00Z'), true],
    [span('2026-01-01T00:45:00Z', '2026-01-01T01:00:00Z'), true],
    [span('2026-01-01T00:30:00Z', '2026-01-01T01:30:00Z'), false],
    [span('2026-01-01T00:00:00Z', '2026-01-01T02:00:00Z'), false],
    [span('2026-01-01T00:00:00Z', '2026-01-01T00:20:00Z'), false],
    [span('2026-01-01T00:00:01Z', '2026-01-01T01:00:01Z'), false],
    [span('2026-01-01T01:00:00Z', '2026-01-01T00:00:00Z'), false],
  ])('%j is on the grid: %s', (window, expected) => {
    expect(isOnGrid(window)).toBe(expected)
    expect(showWindow(window)).toMatch(/^2026-01-01T.*Z\/2026-01-01T.*Z$/)
  })
})

describe('the calendar of a zone', () => {
  test('the month of an instant holds it, and is as long as it is', () => {
    expect(hours(monthOf(at('2026-03-15T00:00:00Z'), 'Europe/Berlin'))).toBe(31 * 24 - 1)
    fc.assert(
      fc.property(ms, fc.constantFrom(...zones), (instant, zone) => {
        const month = monthOf(instant, zone)
        expect(month.startMs <= instant && instant < month.endMs).toBe(true)
        expect(monthOf(month.startMs, zone)).toEqual(month)
        expect(monthOf(month.endMs - 1, zone)).toEqual(month)
        expect(monthOf(month.endMs, zone).startMs).toBe(month.endMs)
      }),
    )
  })

  test.each([
    ['UTC', true],
    ['Europe/Berlin', true],
    ['Asia/Kathmandu', true],
    ['+02:00', false],
    ['Europe/Atlantis', false],
    ['', false],
    ['2026-01-01T00:00:00[Europe/Berlin]', false],
  ])('%j is a zone: %s', (name, expected) => {
    expect(isZone(name)).toBe(expected)
  })
})
