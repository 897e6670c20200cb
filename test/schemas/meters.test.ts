/** The catalogue's own meters fit its schema, and a meter's hash tells definitions apart and nothing else. */
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fits, misfits } from '../../schemas/check.ts'
import { measureNames, measures } from '../../schemas/measures.ts'
import {
  aggregations,
  billedTwice,
  catalogueMisfits,
  defaultMeters,
  Meter,
  meterHash,
} from '../../schemas/meters.ts'

const slug = fc.stringMatching(/^[a-z][a-z0-9_]{0,8}$/)
const word = fc.stringMatching(/^[A-Za-z$.*[\]_]{1,8}$/)
const optional = <Value>(value: fc.Arbitrary<Value>) => fc.option(value, { nil: undefined })
const meter: fc.Arbitrary<Meter> = fc
  .record({
    slug,
    eventTypes: fc.uniqueArray(word, { minLength: 1, maxLength: 3 }),
    aggregation: fc.constantFrom(...aggregations),
    value: optional(word),
    per: optional(fc.constantFrom('60', '3600')),
    groupBy: fc.dictionary(slug, word, { maxKeys: 3, noNullPrototype: true }),
    filter: optional(fc.dictionary(word, word, { maxKeys: 2, noNullPrototype: true })),
    unit: word,
  })
  .map(
    made =>
      Object.fromEntries(Object.entries(made).filter(([, value]) => value !== undefined)) as unknown as Meter,
  )

/** The same meter with its keys, and its event types, the other way round. */
function turned(of: Meter): Meter {
  const turn = (value: unknown): unknown =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.fromEntries(
          Object.entries(value)
            .reverse()
            .map(([key, inner]) => [key, turn(inner)]),
        )
      : value
  return { ...(turn(of) as Meter), eventTypes: [...of.eventTypes].reverse() }
}

describe('the meters that come with Meterline', () => {
  test.each(defaultMeters.map(own => [own.slug, own] as const))(
    '%s fits the schema and takes a known measure',
    (_, own) => {
      expect(misfits(Meter, structuredClone(own))).toEqual([])
      expect(measureNames).toContain(own.value)
    },
  )

  test('have names of their own', () => {
    expect(new Set(defaultMeters.map(own => own.slug)).size).toBe(defaultMeters.length)
  })

  test('every measure ends in its unit and says what it is', () => {
    for (const name of measureNames) {
      expect(measures[name].meaning).toMatch(/^[A-Z].*\.$/)
      expect(name).toMatch(/(_seconds|_bytes|_joules|tokens|requests)$/)
    }
  })
})

describe('a meter hash', () => {
  test('does not depend on the order of keys or event types, nor on what is only shown', () => {
    fc.assert(
      fc.property(meter, one => {
        expect(meterHash(turned(one))).toBe(meterHash(one))
        expect(meterHash({ ...one, description: 'other words', unit: 'other' })).toBe(meterHash(one))
        expect(meterHash(one)).toMatch(/^[0-9a-f]{16}$/)
      }),
    )
  })

  test('differs where the definition does', () => {
    const { description: _, unit: __, ...plain } = defaultMeters[0]!
    const what = { ...plain, unit: 'h' }
    const others: Meter[] = [
      { ...what, slug: 'other' },
      { ...what, aggregation: 'MAX' },
      { ...what, value: 'gpu_seconds' },
      { ...what, per: '60' },
      { ...what, eventTypes: [...what.eventTypes, 'more'] },
      { ...what, groupBy: {} },
      { ...what, groupBy: { ...what.groupBy, organization: 'profile' } },
      { ...what, groupBy: { ...what.groupBy, more: 'profile' } },
      { ...what, filter: {} },
      { ...what, filter: { status: 'running' } },
      { ...what, filter: { status: 'stopped' } },
      { ...what, disjoint: 'by the label cluster' },
    ]
    for (const other of others) expect(fits(Meter, structuredClone(other))).toBe(true)
    expect(new Set([what, ...others].map(meterHash)).size).toBe(others.length + 1)
  })

  test('tells two meters apart by any one member, unless they mean the same', () => {
    const members = ['slug', 'eventTypes', 'aggregation', 'value', 'per', 'groupBy', 'filter'] as const
    fc.assert(
      fc.property(meter, meter, fc.constantFrom(...members), (one, other, member) => {
        const { [member]: mine, ...rest } = one
        const theirs = other[member]
        const changed = { ...rest, ...(theirs !== undefined && { [member]: theirs }) } as Meter
        const plain = (value: unknown) => (Array.isArray(value) ? value.toSorted() : value)
        const same = isDeepStrictEqual(plain(mine), plain(theirs))
        expect(meterHash(changed) === meterHash(one)).toBe(same)
      }),
    )
  })
})

describe('what may be billed twice', () => {
  const of = (slug: string, change: Partial<Meter> = {}): Meter => ({
    ...(defaultMeters.find(own => own.slug === slug) as Meter),
    ...change,
  })

  test('one meter of two kinds, pushed events among them, needs to say what keeps them apart', () => {
    const both = of('gpu_hours', { eventTypes: ['io.meterline.rafay.instance.v1', 'shop.order'] })
    expect(catalogueMisfits([both])).toEqual([
      { path: '/meters/0/disjoint', message: expect.stringMatching(/^is missing: rafay and pushed/) },
    ])
    expect(catalogueMisfits([{ ...both, disjoint: 'other machines' }])).toEqual([])
    expect(catalogueMisfits([of('gpu_hours', { eventTypes: ['shop.order', 'shop.return'] })])).toEqual([])
  })

  test('meters that are billed together may not take one measure of two kinds', () => {
    expect(billedTwice([of('gpu_hours'), of('runai_gpu_hours'), of('tokens')])).toEqual([
      expect.stringMatching(/^gpu_hours and runai_gpu_hours bill gpu_seconds of rafay and runai:/),
    ])
    expect(billedTwice([of('gpu_hours'), of('runai_gpu_hours', { disjoint: 'other clusters' })])).toEqual([])
    expect(billedTwice([of('gpu_hours'), of('gpu_hours', { slug: 'again' })])).toEqual([])
    expect(billedTwice([of('gpu_hours'), of('runai_gpu_active_hours')])).toEqual([])
  })
})
