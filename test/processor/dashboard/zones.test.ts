/** The page's own calendar against Temporal, which knows: days, weeks and months of any zone, also where clocks change. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  dateOf,
  dateText,
  floorTo,
  isZone,
  type Step,
  shifted,
  startOf,
  windowStarts,
} from '../../../processor/dashboard/zones.ts'
import { zones } from '../../schemas/zones.ts'

const zone = fc.constantFrom(...zones)
const instant = fc.integer({ min: Date.UTC(2019, 0, 1), max: Date.UTC(2029, 0, 1) })

/** What Temporal says. */
function beginsAt(step: Step, atMs: number, at: string): number {
  const there = Temporal.Instant.fromEpochMilliseconds(atMs).toZonedDateTimeISO(at)
  if (step === 'HOUR') return there.round({ smallestUnit: 'hour', roundingMode: 'floor' }).epochMilliseconds
  const day = there.toPlainDate()
  const first =
    step === 'MONTH'
      ? day.with({ day: 1 })
      : step === 'WEEK'
        ? day.subtract({ days: day.dayOfWeek - 1 })
        : day
  return first.toZonedDateTime({ timeZone: at }).epochMilliseconds
}

test('days, weeks and months begin where Temporal says', () => {
  fc.assert(
    fc.property(zone, instant, fc.constantFrom<Step>('DAY', 'WEEK', 'MONTH'), (at, atMs, step) => {
      expect(floorTo(at, step, atMs)).toBe(beginsAt(step, atMs, at))
    }),
    { numRuns: 1500 },
  )
})

test('every day of a decade begins where Temporal says, in zones where midnight is skipped', () => {
  for (const at of ['America/Santiago', 'Africa/Cairo', 'America/Havana'])
    for (let day = Temporal.PlainDate.from('2019-01-01'); day.year < 2026; day = day.add({ days: 1 })) {
      const { year, month, day: ofMonth } = day
      const said = day.toZonedDateTime({ timeZone: at }).epochMilliseconds
      if (startOf(at, { year, month, day: ofMonth }) !== said) expect.fail(`${day} in ${at}`)
    }
})

test('windows tile a span: the first begins with it, and each of the others at a boundary', () => {
  fc.assert(
    fc.property(
      zone,
      instant,
      fc.integer({ min: 1, max: 120 }),
      fc.constantFrom<Step>('DAY', 'WEEK', 'MONTH'),
      (at, fromMs, days, step) => {
        const toMs = fromMs + days * 86_400_000
        const starts = windowStarts({ fromMs, toMs }, at, step)
        expect(starts[0]).toBe(fromMs)
        for (const [index, start] of starts.entries()) {
          if (index > 0) expect(start).toBe(beginsAt(step, start, at))
          const end = starts[index + 1] ?? toMs
          expect(end).toBeGreaterThan(start)
          // Nothing begins within a window but the window itself.
          expect(beginsAt(step, end - 1, at)).toBeLessThanOrEqual(start)
        }
      },
    ),
    { numRuns: 300 },
  )
})

test('a day of 23 hours has 23 windows of an hour, and one of 25 has 25', () => {
  const hours = (day: string) => {
    const fromMs = startOf('Europe/Berlin', dateOf(day)!)
    return windowStarts(
      { fromMs, toMs: shifted('Europe/Berlin', fromMs, { days: 1 }) },
      'Europe/Berlin',
      'HOUR',
    ).length
  }
  expect([hours('2026-03-29'), hours('2026-10-25'), hours('2026-06-01')]).toEqual([23, 25, 24])
})

test('hours begin on the clock of the zone, where it is off the hour', () => {
  const atMs = Date.parse('2026-02-12T08:10:00Z')
  expect(new Date(floorTo('Asia/Kathmandu', 'HOUR', atMs)).toISOString()).toBe('2026-02-12T07:15:00.000Z')
  expect(new Date(floorTo('Asia/Kolkata', 'HOUR', atMs)).toISOString()).toBe('2026-02-12T07:30:00.000Z')
})

test('dates are read as they are written, and no others', () => {
  fc.assert(
    fc.property(zone, instant, (at, atMs) => {
      expect(startOf(at, dateOf(dateText(at, atMs))!)).toBe(floorTo(at, 'DAY', atMs))
    }),
  )
  expect(['2026-02-30', '2026-13-01', '26-1-1', '', 'today'].map(dateOf)).toEqual(
    Array.from({ length: 5 }, () => undefined),
  )
  expect([isZone('Europe/Berlin'), isZone('Mars/Olympus'), isZone('')]).toEqual([true, false, false])
})
