/** What a price book may say, what is refused when it is loaded, and its hash. */
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { grammar } from '../../processor/pricing/list.ts'
import { canonicalJson } from '../../schemas/canonical.ts'
import { defaultMeters } from '../../schemas/meters.ts'
import { type Book, bookHash, bookMeterMisfits, bookMeters, bookMisfits } from '../../schemas/pricebook.ts'

const charge = (id: string, rest: object = {}) => ({
  id,
  meter: 'gpu_hours',
  where: { gpu_type: id },
  unit: 'h',
  price: { unit: '2.99' },
  ...rest,
})
const book = (rest: object = {}) => ({ currency: 'USD', charges: [charge('L40'), charge('H100')], ...rest })
const saysOf = (value: unknown) =>
  bookMisfits(value, grammar).map(({ path, message }) => `${path} ${message}`)

test('a book of unit prices fits', () => {
  expect(
    saysOf(
      book({
        apiVersion: 'pricebook/v1',
        id: 'neocloud',
        version: 3,
        from: '2025-01-01T00:00:00Z',
        timezone: 'Europe/Berlin',
        rounding: { at: 'line', mode: 'half_even' },
        unpriced: 'report',
      }),
    ),
  ).toEqual([])
})

test.each<[string, object, RegExp]>([
  ['an id twice', { charges: [charge('a'), charge('a')] }, /\/charges\/1\/id the id "a" is taken/],
  ['an id of a charge and an adjustment', { adjust: [{ id: 'L40', tax: {} }] }, /\/adjust\/0\/id .*is taken/],
  ['money as a number', { charges: [charge('a', { price: { unit: 2.99 } })] }, /quotes, as "2.99"/],
  [
    'money with an exponent',
    { charges: [charge('a', { price: { unit: '1e3' } })] },
    /charge "a": must match/,
  ],
  ['negative money', { charges: [charge('a', { price: { unit: '-1' } })] }, /charge "a": must match/],
  ['a number to select by', { charges: [charge('a', { where: { gpus: 8 } })] }, /quotes, as "8"/],
  ['an empty value to select by', { charges: [charge('a', { where: { gpu_type: '' } })] }, /where\/gpu_type/],
  ['an unknown key of the book', { currancy: 'USD' }, /\/currancy is not known here/],
  ['an unknown key of a charge', { charges: [charge('a', { wher: {} })] }, /charge "a": is not known here/],
  [
    'an unknown key of a price',
    { charges: [charge('a', { price: { unit: '1', min: '2' } })] },
    /price\/min .*not known/,
  ],
  [
    'an unknown model',
    { charges: [charge('a', { price: { tiered: [] } })] },
    /names no price model: one of unit/,
  ],
  ['no price', { charges: [charge('a', { price: undefined })] }, /either `price` or `prices`/],
  [
    'usage priced without a meter',
    { charges: [{ id: 'a', price: { unit: '1' } }] },
    /charges\/0\/meter .*is missing/,
  ],
  ['an unknown currency', { currency: 'ZZZ' }, /"ZZZ" is no currency/],
  ['no currency', { currency: undefined }, /\/currency is missing/],
  ['an unknown zone', { timezone: 'Mars/Olympus' }, /no IANA time zone/],
  ['an offset for a zone', { timezone: '+02:00' }, /no IANA time zone/],
  ['a from that is no time', { from: '2025-01-01' }, /not an RFC 3339 time/],
  ['per zero', { charges: [charge('a', { per: '0' })] }, /charges\/0\/per/],
  ['per below zero', { charges: [charge('a', { per: -1 })] }, /charges\/0\/per/],
  ['another rounding', { rounding: { mode: 'truncate' } }, /rounding\/mode must be one of/],
  ['an adjustment of two kinds', { adjust: [{ id: 'x', tax: {}, credit: {} }] }, /does exactly one thing/],
  ['no list of charges', { charges: {} }, /\/charges must be array/],
  ['no dim to multiply by', { charges: [charge('a', { times: [] })] }, /charge "a": must NOT have fewer/],
])('%s is refused', (_name, rest, says) => {
  const found = saysOf(JSON.parse(JSON.stringify(book(rest))))
  expect(found.join('\n')).toMatch(says)
})

test.each([undefined, null, 'x', 7, []])('%j is no book', value => {
  expect(saysOf(value)).not.toEqual([])
})

test('what is not built yet is refused by the name of its charge and model', () => {
  const found = saysOf(
    book({
      charges: [
        charge('night', { price: { percent: '25' }, increment: '60' }),
        charge('res', { price: { reserve: {} } }),
      ],
      adjust: [{ id: 'vat', tax: { percent: '8.25' } }],
      overrides: [{}],
    }),
  )
  expect(found).toEqual([
    '/overrides overrides are not built yet',
    '/charges/0/increment charge "night": "increment" is not built yet',
    '/charges/0/price charge "night": price model "percent" is not built yet',
    '/charges/1/price charge "res": price model "reserve" is not built yet',
    '/adjust/0/tax adjustment "vat": "tax" is not built yet',
  ])
})

test('the sample book has nothing unknown in it, only what is not built yet', () => {
  const sample: unknown = parse(readFileSync('test/cases/pricebook.sample.yaml', 'utf8'))
  const found = saysOf(sample)
  expect(found.filter(says => !/not built yet/.test(says))).toEqual([])
})

test('all misfits of a book are named at once', () => {
  const found = saysOf(
    book({
      currency: 'ZZZ',
      charges: [charge('a', { price: { unit: 1 } }), { id: 7 }, charge('b', { x: 1 })],
    }),
  )
  expect(found).toHaveLength(4)
})

test('charges that can take the same usage are refused, unless one is additive', () => {
  const wide = charge('wide', { where: { plan: 'spot' } })
  const narrow = charge('narrow', { where: { plan: 'spot', gpu_type: 'H100' } })
  const apart = charge('apart', { where: { plan: 'sla', gpu_type: 'H100' } })
  const other = charge('other', { where: { gpu_type: 'H100' } })
  const elsewhere = charge('elsewhere', { meter: 'tokens', where: {} })
  expect(saysOf(book({ charges: [wide, apart, elsewhere] }))).toEqual([])
  expect(saysOf(book({ charges: [wide, narrow] })).join()).toMatch(
    /charge "narrow": can take .* charge "wide"/,
  )
  // Neither names the other's dim: usage with both exists as soon as somebody makes it.
  expect(saysOf(book({ charges: [wide, other] })).join()).toMatch(/charge "other": can take .* charge "wide"/)
  expect(saysOf(book({ charges: [wide, { ...narrow, additive: true }] }))).toEqual([])
  expect(saysOf(book({ charges: [charge('all', { where: undefined }), narrow] }).valueOf())).not.toEqual([])
})

test('dated prices must follow each other without gap or overlap', () => {
  const dated = (prices: object[]) => saysOf(book({ charges: [charge('a', { price: undefined, prices })] }))
  const [jan, feb, mar] = ['2025-01-01T00:00:00Z', '2025-02-01T00:00:00Z', '2025-03-01T00:00:00Z']
  expect(
    dated([
      { from: jan, to: feb, unit: '1' },
      { from: feb, to: null, unit: '2', source: 'x' },
    ]),
  ).toEqual([])
  expect(
    dated([
      { from: jan, to: feb, unit: '1' },
      { from: mar, to: null, unit: '2' },
    ]).join(),
  ).toMatch(/prices\/1\/from/)
  expect(
    dated([
      { from: jan, to: mar, unit: '1' },
      { from: feb, to: null, unit: '2' },
    ]).join(),
  ).toMatch(/prices\/1\/from/)
  expect(
    dated([
      { from: jan, to: null, unit: '1' },
      { from: feb, to: null, unit: '2' },
    ]).join(),
  ).toMatch(/prices\/1\/from/)
  expect(dated([{ from: feb, to: jan, unit: '1' }]).join()).toMatch(/must be after/)
  expect(dated([{ from: 'soon', to: null, unit: '1' }]).join()).toMatch(/RFC 3339/)
  expect(dated([{ from: jan, to: null, unit: 1 }]).join()).toMatch(/quotes/)
})

test('a book is held against the catalogue: its meters and every dim that it reads', () => {
  const found = bookMeterMisfits(
    book({
      charges: [
        charge('fits'),
        charge('gpu_hour', { meter: 'gpu_hour' }),
        charge('dim', { where: { gpu: 'H100' }, times: ['memory'] }),
      ],
    }) as unknown as Book,
    { meters: defaultMeters, grammar },
  )
  expect(found.map(({ path }) => path)).toEqual([
    '/charges/1/meter',
    '/charges/2/where/gpu',
    '/charges/2/times',
  ])
  expect([...bookMeters(book() as unknown as Book)]).toEqual(['gpu_hours'])
})

test('the hash of a book does not depend on the order of its keys, and does on everything else', () => {
  const shuffled = (value: unknown, turn: number): unknown => {
    if (Array.isArray(value)) return value.map(part => shuffled(part, turn))
    if (typeof value !== 'object' || value === null) return value
    const entries = Object.entries(value).map(([key, part]) => [key, shuffled(part, turn)] as const)
    return Object.fromEntries([
      ...entries.slice(turn % entries.length),
      ...entries.slice(0, turn % entries.length),
    ])
  }
  fc.assert(
    fc.property(fc.jsonValue(), fc.nat(7), (value, turn) => {
      expect(canonicalJson(shuffled(value, turn))).toBe(canonicalJson(value))
    }),
  )
  fc.assert(
    fc.property(fc.jsonValue(), value => {
      expect(canonicalJson(JSON.parse(canonicalJson(value)))).toBe(canonicalJson(value))
    }),
  )
  const hash = bookHash(book() as unknown as Book)
  expect(hash).toMatch(/^[0-9a-f]{64}$/)
  expect(bookHash(shuffled(book(), 1) as Book)).toBe(hash)
  expect(bookHash(book({ charges: [charge('H100'), charge('L40')] }) as unknown as Book)).not.toBe(hash)
  expect(bookHash(book({ currency: 'EUR' }) as unknown as Book)).not.toBe(hash)
})
