/** Coverage by day: every window is in one day, gaps have their reasons, and who is bound to an account gets no words. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type CoverageSpan, type CoverageState, coverageStates } from '../../processor/coverage.ts'
import { coverageDays, gapsNamedMax } from '../../processor/coverage-days.ts'
import { parseStep, windowRuns } from '../../schemas/step.ts'
import { type GridMinutes, gridMinutes, hourMs, minuteMs, type Window } from '../../schemas/window.ts'

const from = Date.UTC(2025, 2, 28)
const span: Window = { startMs: from, endMs: from + 5 * 24 * hourMs }

function daysOf(zone: string): readonly Window[] {
  return windowRuns(span, parseStep('DAY'), zone).flatMap(({ startMs, widthMs, count }) =>
    Array.from({ length: count }, (_, index) => ({
      startMs: startMs + index * widthMs,
      endMs: startMs + (index + 1) * widthMs,
    })),
  )
}

function spanOf(
  startMs: number,
  windows: number,
  state: CoverageState,
  more: Partial<CoverageSpan> = {},
): CoverageSpan {
  const widthMinutes: GridMinutes = more.widthMinutes ?? 60
  const window = { startMs, endMs: startMs + windows * widthMinutes * minuteMs }
  return { source: 'meterline/rafay/a', scope: 's', state, isItem: false, ...more, widthMinutes, window }
}

test('every window is counted in the day in which it starts, and in no other', () => {
  const one = fc
    .record({
      width: fc.constantFrom(...gridMinutes),
      offset: fc.integer({ min: 0, max: 60 }),
      count: fc.integer({ min: 1, max: 55 }),
      state: fc.constantFrom(...coverageStates),
      source: fc.constantFrom('meterline/rafay/a', 'meterline/rafay/b'),
    })
    .map(({ width, offset, count, state, source }) =>
      spanOf(from + offset * hourMs, count, state, { widthMinutes: width, source }),
    )
  fc.assert(
    fc.property(
      fc.array(one, { maxLength: 12 }),
      fc.constantFrom('UTC', 'Europe/Berlin', 'Asia/Kolkata'),
      (spans, zone) => {
        const days = daysOf(zone)
        const expected = new Map<string, number>()
        for (const { source, state, window, widthMinutes } of spans)
          for (let at = window.startMs; at < window.endMs; at += widthMinutes * minuteMs) {
            const day = days.find(({ startMs, endMs }) => startMs <= at && at < endMs)
            const key = `${source} ${day?.startMs} ${state}`
            expected.set(key, (expected.get(key) ?? 0) + 1)
          }
        const found = new Map(
          coverageDays(spans, days, 'operator').flatMap(({ source, start, states }) =>
            Object.entries(states).map(
              ([state, count]) => [`${source} ${Date.parse(start)} ${state}`, count] as const,
            ),
          ),
        )
        expect(found).toEqual(expected)
      },
    ),
    { numRuns: 300 },
  )
})

test('gaps are named with scope and reason, cut at midnight, the first of them; a bad item is one without a window', () => {
  const fault = { code: 'SOURCE_BUSY', message: 'https://inside.example answers 503' }
  const [first, second] = coverageDays(
    [
      spanOf(from + 22 * hourMs, 4, 'failed', { fault }),
      spanOf(from, 1, 'failed', { isItem: true, subject: 'org-1', fault }),
      spanOf(from, 22, 'settled'),
    ],
    daysOf('UTC'),
    'operator',
  )
  expect(first).toEqual({
    source: 'meterline/rafay/a',
    start: '2025-03-28T00:00:00Z',
    end: '2025-03-29T00:00:00Z',
    windows: 24,
    states: { failed: 2, settled: 22 },
    gaps: [
      {
        ...{ scope: 's', start: '2025-03-28T22:00:00Z', end: '2025-03-29T00:00:00Z', windows: 2 },
        ...{ state: 'failed', ...fault },
      },
      {
        ...{ scope: 's', start: '2025-03-28T00:00:00Z', end: '2025-03-28T01:00:00Z', windows: 1 },
        ...{ state: 'failed', subject: 'org-1', ...fault },
      },
    ],
    gaps_more: 0,
  })
  expect(second?.states).toEqual({ failed: 2 })

  const many = Array.from({ length: gapsNamedMax + 3 }, (_, index) =>
    spanOf(from, 1, 'never', { scope: `s${index}` }),
  )
  const [crowded] = coverageDays(many, daysOf('UTC'), 'operator')
  expect([crowded?.gaps.length, crowded?.gaps_more, crowded?.states.never]).toEqual([
    gapsNamedMax,
    3,
    many.length,
  ])
})

test('who is bound to an account is told the code, not the words nor the scope: these may name others', () => {
  const fault = { code: 'SOURCE_BUSY', message: 'Zebra does not answer' }
  const days = coverageDays(
    [spanOf(from, 3, 'failed', { fault, scope: 'zebra/h100' })],
    daysOf('UTC'),
    'tenant',
  )
  expect(JSON.stringify(days)).not.toMatch(/zebra/i)
  expect(days[0]?.gaps[0]?.code).toBe('SOURCE_BUSY')
})
