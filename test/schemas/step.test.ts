/** Steps: their windows tile a span by any calendar, as a walk with Temporal finds them. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  parseStep,
  stepNames,
  type WindowRun,
  windowHolding,
  windowRuns,
  windowsIn,
  windowsMax,
} from '../../schemas/step.ts'
import {
  dayMs,
  hourMs,
  minuteMs,
  parseInstant,
  showInstant,
  showWindow,
  type Window,
} from '../../schemas/window.ts'
import { zones } from './zones.ts'

const at = (text: string): number => parseInstant(text, 'test')
const span = (start: string, end: string): Window => ({ startMs: at(start), endMs: at(end) })
const hours = (window: Window): number => (window.endMs - window.startMs) / hourMs
const ms = fc.integer({ min: at('1950-01-01T00:00:00Z'), max: at('2100-01-01T00:00:00Z') })
const calendarWindows = (of: Window, step: string, zone: string) =>
  Array.from(windowsIn(windowRuns(of, parseStep(step), zone)))

describe('the calendar of a zone', () => {
  const steps = ['HOUR', 'DAY', 'WEEK', 'MONTH'] as const
  const days = { HOUR: 3, DAY: 40, WEEK: 100, MONTH: 400 } as const

  test("its windows tile the span, and each begins where the zone's calendar says", () => {
    fc.assert(
      fc.property(
        ms,
        fc.constantFrom(...zones),
        fc
          .constantFrom(...steps)
          .chain(step => fc.tuple(fc.constant(step), fc.integer({ min: 1, max: days[step] * dayMs }))),
        (startMs, zone, [step, length]) => {
          const all = calendarWindows({ startMs, endMs: startMs + length }, step, zone)
          expect(all[0]!.startMs).toBe(startMs)
          expect(all.at(-1)!.endMs).toBe(startMs + length)
          for (const [index, window] of all.entries()) {
            expect(window.startMs).toBeLessThan(window.endMs)
            if (index === 0) continue
            expect(window.startMs).toBe(all[index - 1]!.endMs)
            const local = Temporal.Instant.fromEpochMilliseconds(window.startMs).toZonedDateTimeISO(zone)
            const before = Temporal.Instant.fromEpochMilliseconds(window.startMs - 1).toZonedDateTimeISO(zone)
            // A new hour, day, week or month: the one before it is another by the local clock.
            if (step === 'HOUR') expect([before.hour, before.offset]).not.toEqual([local.hour, local.offset])
            else expect(before.toPlainDate().toString()).not.toBe(local.toPlainDate().toString())
            if (step === 'WEEK') expect(local.dayOfWeek).toBe(1)
            if (step === 'MONTH') expect(local.day).toBe(1)
          }
        },
      ),
      { numRuns: 300 },
    )
  })

  test('where a span begins does not move the windows inside it', () => {
    fc.assert(
      fc.property(
        ms,
        fc.constantFrom(...zones),
        fc.constantFrom(...steps),
        fc.integer({ min: 0, max: 100 }),
        (startMs, zone, step, percent) => {
          const endMs = startMs + days[step] * dayMs
          const later = startMs + Math.floor(((endMs - startMs - 1) * percent) / 100)
          const whole = calendarWindows({ startMs, endMs }, step, zone)
          const part = calendarWindows({ startMs: later, endMs }, step, zone)
          expect(part.slice(1)).toEqual(whole.slice(whole.length - part.length + 1))
        },
      ),
      { numRuns: 200 },
    )
  })

  test('a day on which the clocks change has 23 or 25 hours', () => {
    const berlin = (day: string, next: string) => calendarWindows(span(day, next), 'DAY', 'Europe/Berlin')
    expect(berlin('2026-03-28T23:00:00Z', '2026-03-29T22:00:00Z').map(hours)).toEqual([23])
    expect(berlin('2026-10-24T22:00:00Z', '2026-10-25T23:00:00Z').map(hours)).toEqual([25])
    const hoursOfDay = calendarWindows(
      span('2026-10-24T22:00:00Z', '2026-10-25T23:00:00Z'),
      'HOUR',
      'Europe/Berlin',
    )
    expect(hoursOfDay.map(hours)).toEqual(Array(25).fill(1))
    // Havana goes back at midnight to 23:00 … and forward at midnight: that day begins at 01:00.
    expect(
      calendarWindows(span('2026-03-08T05:00:00Z', '2026-03-09T04:00:00Z'), 'DAY', 'America/Havana').map(
        hours,
      ),
    ).toEqual([23])
  })

  test('a zone off the whole hours begins its hours and days off them', () => {
    const kathmandu = calendarWindows(
      span('2026-02-11T18:15:00Z', '2026-02-12T18:15:00Z'),
      'DAY',
      'Asia/Kathmandu',
    )
    expect(kathmandu.map(showWindow)).toEqual(['2026-02-11T18:15:00Z/2026-02-12T18:15:00Z'])
    const hour = calendarWindows(
      span('2026-02-12T08:00:00Z', '2026-02-12T09:00:00Z'),
      'HOUR',
      'Asia/Kathmandu',
    )
    expect(hour.map(showWindow)).toEqual([
      '2026-02-12T08:00:00Z/2026-02-12T08:15:00Z',
      '2026-02-12T08:15:00Z/2026-02-12T09:00:00Z',
    ])
  })

  test('a clock that changes by half an hour makes one odd hour and leaves the rest whole', () => {
    // Lord Howe, 5 April 2026: 02:00 +11 becomes 01:30 +10:30.
    const back = calendarWindows(
      span('2026-04-04T13:00:00Z', '2026-04-04T18:30:00Z'),
      'HOUR',
      'Australia/Lord_Howe',
    )
    expect(back.map(hours)).toEqual([1, 1.5, 1, 1, 1])
    const forward = calendarWindows(
      span('2026-10-03T14:30:00Z', '2026-10-03T18:00:00Z'),
      'HOUR',
      'Australia/Lord_Howe',
    )
    expect(forward.map(hours)).toEqual([1, 0.5, 1, 1])
  })

  test('a day that a zone left out is no window', () => {
    // Samoa had no 30 December 2011.
    const samoa = calendarWindows(span('2011-12-29T10:00:00Z', '2012-01-01T10:00:00Z'), 'DAY', 'Pacific/Apia')
    expect(samoa.map(hours)).toEqual([24, 24, 24])
  })

  test('an empty span has no windows', () => {
    for (const step of steps) expect(calendarWindows({ startMs: 5, endMs: 5 }, step, 'UTC')).toEqual([])
  })
})

describe('steps', () => {
  const lengths: Record<string, number> = {
    MINUTE: dayMs / 12,
    HOUR: 20 * dayMs,
    DAY: 100 * dayMs,
    WEEK: 200 * dayMs,
    MONTH: 900 * dayMs,
    P1D: 50 * dayMs,
    P3D: 100 * dayMs,
    P2W: 200 * dayMs,
    P1M: 900 * dayMs,
    P1Y6M: 2000 * dayMs,
  }

  test('windows are those that a walk through the calendar finds, one by one', () => {
    fc.assert(
      fc.property(
        ms,
        fc.constantFrom(...zones),
        fc
          .constantFrom(...Object.keys(lengths))
          .chain(step => fc.tuple(fc.constant(step), fc.integer({ min: 1, max: lengths[step]! }))),
        (startMs, zone, [step, length]) => {
          const of = { startMs, endMs: startMs + length }
          expect(calendarWindows(of, step, zone)).toEqual(walk(of, step, zone))
        },
      ),
      { numRuns: 300 },
    )
  })

  test('hours and minutes around each change of the clocks are those of the walk', () => {
    for (const zone of zones) {
      let change = Temporal.Instant.from('1970-01-01T00:00:00Z')
        .toZonedDateTimeISO(zone)
        .getTimeZoneTransition('next')
      for (
        ;
        change !== null && change.epochMilliseconds < at('2027-01-01T00:00:00Z');
        change = change.getTimeZoneTransition('next')
      ) {
        const of = {
          startMs: change.epochMilliseconds - 3 * hourMs - 1,
          endMs: change.epochMilliseconds + 3 * hourMs,
        }
        for (const step of ['HOUR', 'DAY'])
          expect([zone, calendarWindows(of, step, zone)]).toEqual([zone, walk(of, step, zone)])
      }
    }
  })

  test('durations of any kind tile the span, and each window is found by any instant of it', () => {
    const step = fc.oneof(
      fc.constantFrom<string>(...stepNames),
      fc.integer({ min: 60, max: 200_000 }).map(seconds => `PT${seconds}S`),
      fc.integer({ min: 1, max: 100 }).map(days => `P${days}D`),
      fc.integer({ min: 1, max: 30 }).map(months => `P${months}M`),
    )
    fc.assert(
      fc.property(
        ms,
        fc.integer({ min: 1, max: 30 * dayMs }),
        step,
        fc.constantFrom(...zones),
        (startMs, length, name, zone) => {
          const of = { startMs, endMs: startMs + length }
          const runs = windowRuns(of, parseStep(name), zone)
          let endMs = startMs
          let before: WindowRun | undefined
          for (const run of runs) {
            expect(run.startMs).toBe(endMs)
            expect(run.widthMs > 0 && run.count > 0).toBe(true)
            expect(run.widthMs).not.toBe(before?.widthMs)
            endMs = run.startMs + run.widthMs * run.count
            before = run
          }
          expect(endMs).toBe(of.endMs)
          const all = Array.from(windowsIn(runs))
          const window = all[Math.abs(startMs) % all.length]!
          for (const instant of [window.startMs, window.endMs - 1])
            expect(windowHolding(runs, instant)).toEqual(window)
          expect(windowHolding(runs, startMs - 1)).toBeUndefined()
          expect(windowHolding(runs, of.endMs)).toBeUndefined()
        },
      ),
      { numRuns: 300 },
    )
  })

  test.each([
    ['PT15M', '2026-02-12T08:07:00Z', '2026-02-12T08:31:00Z', ['08:07', '08:15', '08:30']],
    ['PT24H', '2026-02-11T23:00:00Z', '2026-02-12T01:00:00Z', ['23:00', '00:00']],
    ['PT7M', '2026-02-12T08:02:00Z', '2026-02-12T08:20:00Z', ['08:02', '08:09', '08:16']],
    ['PT1H30M', '2026-02-12T08:00:00Z', '2026-02-12T11:00:00Z', ['08:00', '09:00', '10:30']],
  ])(
    '%s from %s begins at the day of UTC where it divides one, else with the span',
    (step, from, to, starts) => {
      const all = calendarWindows(span(from, to), step, 'Asia/Kolkata')
      expect(all.map(window => showInstant(window.startMs).slice(11, 16))).toEqual(starts)
    },
  )

  test('calendar durations begin at the midnight of the day on which the span begins, months never drift', () => {
    const days = (step: string, from: string, to: string) =>
      calendarWindows(span(from, to), step, 'Europe/Berlin').map(({ startMs }) =>
        Temporal.Instant.fromEpochMilliseconds(startMs)
          .toZonedDateTimeISO('Europe/Berlin')
          .toPlainDateTime()
          .toString(),
      )
    expect(days('P1M', '2025-01-31T09:00:00Z', '2025-05-01T00:00:00Z')).toEqual([
      '2025-01-31T10:00:00',
      '2025-02-28T00:00:00',
      '2025-03-31T00:00:00',
      '2025-04-30T00:00:00',
    ])
    expect(days('P2W', '2026-03-18T12:00:00Z', '2026-04-02T00:00:00Z')).toEqual([
      '2026-03-18T13:00:00',
      '2026-04-01T00:00:00',
    ])
    // MONTH is the calendar's own, P1M counts from the span.
    expect(days('MONTH', '2025-01-31T09:00:00Z', '2025-02-02T00:00:00Z')).toEqual([
      '2025-01-31T10:00:00',
      '2025-02-01T00:00:00',
    ])
  })

  test('windows travel as runs: a year of hours or days is a handful', () => {
    const year = span('2026-01-01T00:00:00Z', '2027-01-01T00:00:00Z')
    expect(windowRuns(year, parseStep('HOUR'), 'Europe/Berlin')).toEqual([
      { startMs: year.startMs, widthMs: hourMs, count: 8760 },
    ])
    expect(windowRuns(year, parseStep('DAY'), 'Europe/Berlin').length).toBeLessThan(8)
    expect(windowRuns(year, undefined, 'UTC')).toEqual([
      { startMs: year.startMs, widthMs: 365 * dayMs, count: 1 },
    ])
  })

  test('more windows than are allowed are refused at once, not made', () => {
    const minutes = { startMs: 0, endMs: windowsMax * minuteMs }
    expect(windowRuns(minutes, parseStep('MINUTE'), 'UTC')).toHaveLength(1)
    const refusal = expect.objectContaining({
      code: 'USAGE',
      message: expect.stringContaining('more than 100000'),
    })
    for (const step of ['MINUTE', 'PT60S', 'PT1S'])
      expect(() => windowRuns({ ...minutes, endMs: minutes.endMs + 1 }, parseStep(step), 'UTC')).toThrow(
        refusal,
      )
    expect(() =>
      windowRuns(span('0001-01-01T00:00:00Z', '9999-12-31T00:00:00Z'), parseStep('DAY'), 'America/New_York'),
    ).toThrow(refusal)
  })

  test.each([
    '',
    'P',
    'PT',
    'P0D',
    'PT0S',
    'P1M15D',
    'P1DT12H',
    'P1.5D',
    'PT1.5H',
    '-P1D',
    'P-1D',
    'p1d',
    'P1H',
    'PT1D',
    'P1D ',
    'HOURS',
    'hour',
    'P9999999D',
    'toString',
    'P٣D',
  ])('%j is no step', text => {
    expect(() => parseStep(text)).toThrow(expect.objectContaining({ code: 'USAGE' }))
  })
})

/** The slow way: one window after the other, each by asking the calendar. */
function walk(of: Window, step: string, zone: string): readonly Window[] {
  const local = (instantMs: number) =>
    Temporal.Instant.fromEpochMilliseconds(instantMs).toZonedDateTimeISO(zone)
  const floor = (when: Temporal.ZonedDateTime) =>
    step === 'MINUTE' || step === 'HOUR'
      ? when.round({ smallestUnit: step === 'HOUR' ? 'hour' : 'minute', roundingMode: 'floor' })
      : when.startOfDay()
  const starts: number[] = []
  if (step === 'MINUTE' || step === 'HOUR') {
    const width = { [step === 'HOUR' ? 'hours' : 'minutes']: 1 }
    let when = floor(local(of.startMs))
    while (when.epochMilliseconds < of.endMs) {
      starts.push(when.epochMilliseconds)
      let ahead = when.add(width)
      let next = floor(ahead)
      // The clocks went back by a part of an hour: the hour begins only once.
      while (next.epochMilliseconds <= when.epochMilliseconds) {
        ahead = ahead.add(width)
        next = floor(ahead)
      }
      // They went forward in the middle of an hour, as in St. John's at 00:01: another hour begins there.
      const change = when.getTimeZoneTransition('next')
      if (change && change.epochMilliseconds < next.epochMilliseconds)
        if (change.hour !== local(change.epochMilliseconds - 1).hour) next = change
      when = next
    }
  } else {
    let day = local(of.startMs).startOfDay()
    const length = Temporal.Duration.from(
      step === 'DAY' ? 'P1D' : step === 'WEEK' ? 'P1W' : step === 'MONTH' ? 'P1M' : step,
    )
    if (step === 'WEEK') while (day.dayOfWeek !== 1) day = day.subtract({ days: 1 }).startOfDay()
    if (step === 'MONTH') while (day.day !== 1) day = day.subtract({ days: 1 }).startOfDay()
    const first = day.toPlainDate()
    for (let index = 0; day.epochMilliseconds < of.endMs; index += 1) {
      starts.push(day.epochMilliseconds)
      let total = new Temporal.Duration()
      for (let times = 0; times <= index; times += 1)
        total = Temporal.Duration.from({
          years: total.years + length.years,
          months: total.months + length.months,
          weeks: total.weeks + length.weeks,
          days: total.days + length.days,
        })
      day = first.add(total).toZonedDateTime({ timeZone: zone, plainTime: '00:00' }).startOfDay()
    }
  }
  return starts
    .map((startMs, index) => ({
      startMs: Math.max(startMs, of.startMs),
      endMs: Math.min(starts[index + 1] ?? of.endMs, of.endMs),
    }))
    .filter(window => window.startMs < window.endMs)
}
