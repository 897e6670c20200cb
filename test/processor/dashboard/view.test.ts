/** What is looked at and its address: the same both ways, for a zone that is not the reader's; and which days a range is. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  daysOf,
  fittingStep,
  monthOf,
  presets,
  searchOf,
  spanOf,
  steps,
  type View,
  viewOf,
} from '../../../processor/dashboard/view.ts'
import { isZone } from '../../../processor/dashboard/zones.ts'

const text = fc.string({ minLength: 1, maxLength: 20, unit: 'grapheme' })
const range = fc.oneof(fc.constantFrom(...presets), fc.constant({ first: '2025-06-01', last: '2025-06-30' }))
const view: fc.Arbitrary<View> = fc
  .record(
    {
      range,
      zone: fc.constantFrom('UTC', 'Europe/Berlin', 'Asia/Kolkata'),
      as: fc.constantFrom('chart' as const, 'table' as const),
      meter: text,
      by: text,
      window: fc.constantFrom(...steps),
      tenant: fc.record({ source: text, subject: text }),
      resource: text,
    },
    { requiredKeys: ['range', 'zone', 'as'] },
  )
  // A resource is one of a tenant.
  .map(({ resource, ...rest }) => (rest.tenant && resource ? { ...rest, resource } : rest))

test('a view comes back from its address, wherever the address is opened', () => {
  fc.assert(
    fc.property(view, shown => {
      expect(viewOf(searchOf(shown), 'America/Lima', isZone)).toEqual(shown)
    }),
  )
})

test('what an address says wrongly is as if it said nothing', () => {
  const bare = { range: 'last-data', zone: 'America/Lima', as: 'chart' }
  for (const search of [
    '',
    '?range=2025-07-01..2025-06-01',
    '?range=x..y&zone=Mars/Olympus',
    '?window=YEAR&as=pie',
  ])
    expect(viewOf(search, 'America/Lima', isZone)).toEqual(bare)
})

const at = (text: string) => Date.parse(text)
const shown = ({ fromMs, toMs }: { fromMs: number; toMs: number }) =>
  [fromMs, toMs].map(ms => new Date(ms).toISOString().replace(':00.000', ''))

test('ranges are whole days of the zone, half-open, also across a change of clocks', () => {
  const nowMs = at('2026-03-31T10:30:00Z')
  expect(shown(spanOf('7d', 'Europe/Berlin', nowMs))).toEqual(['2026-03-24T23:00Z', '2026-03-31T22:00Z'])
  expect(shown(spanOf('month', 'Europe/Berlin', nowMs))).toEqual(['2026-02-28T23:00Z', '2026-03-31T22:00Z'])
  expect(shown(spanOf('last-month', 'Asia/Kolkata', nowMs))).toEqual([
    '2026-01-31T18:30Z',
    '2026-02-28T18:30Z',
  ])
  expect(shown(spanOf('24h', 'Asia/Kolkata', nowMs))).toEqual(
    ['2026-03-30T10:30Z', '2026-03-31T10:30Z'].map(hour => hour.replace('10:30', '11:30')),
  )
  const chosen = { first: '2026-03-29', last: '2026-03-29' }
  expect(shown(spanOf(chosen, 'Europe/Berlin', nowMs))).toEqual(['2026-03-28T23:00Z', '2026-03-29T22:00Z'])
  expect(daysOf(spanOf(chosen, 'Europe/Berlin', nowMs), 'Europe/Berlin')).toEqual(chosen)
})

test('the default is the month of the newest usage, and without any the last 7 days', () => {
  const nowMs = at('2026-11-22T10:00:00Z')
  expect(shown(spanOf('last-data', 'UTC', nowMs, at('2025-06-01T00:00:00Z')))).toEqual([
    ...['2025-06-01T00:00Z', '2025-07-01T00:00Z'],
  ])
  expect(spanOf('last-data', 'UTC', nowMs)).toEqual(spanOf('7d', 'UTC', nowMs))
})

test('money is that of the month in which the range ends, or of the present one', () => {
  const june = { fromMs: at('2025-06-01T00:00:00Z'), toMs: at('2025-07-01T00:00:00Z') }
  const nowMs = at('2026-11-22T10:00:00Z')
  expect(monthOf(june, 'UTC', nowMs)).toEqual(june)
  expect(shown(monthOf({ ...june, toMs: at('2027-01-01T00:00:00Z') }, 'UTC', nowMs))).toEqual([
    ...['2026-11-01T00:00Z', '2026-12-01T00:00Z'],
  ])
})

test('windows fit a chart', () => {
  const step = (days: number) => fittingStep({ fromMs: 0, toMs: days * 86_400_000 })
  expect([1, 7, 30, 92, 200, 365].map(step)).toEqual(['HOUR', 'DAY', 'DAY', 'DAY', 'WEEK', 'MONTH'])
})
