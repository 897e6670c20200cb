/** The worked cases, and the format that they are written in. */
import { readdirSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { type FailedCase, type RatedCase, rateCaseFile } from '../../processor/rate-case.ts'
import { Fault } from '../../schemas/fault.ts'

const directory = 'test/cases/rating'
const golden = readdirSync(directory).sort()
const run = (file: object) => rateCaseFile(JSON.stringify(file))

/** What stands in the way of the cases that cannot be rated yet: a model that is built makes its test fail. */
const waitingFor: Readonly<Record<string, readonly string[]>> = {
  '00-full-invoice.json': [
    '"increment"',
    '"percent"',
    '"reserve"',
    '"flat"',
    '"discount"',
    '"commit"',
    '"credit"',
    '"tax"',
    '"tender"',
  ],
  '08-sla-flat-plus-variable.json': ['"reserve"'],
  '10-commitment.json': ['"commit"'],
  '14-late-adjustment.json': ['closed periods'],
  '18-workload-type-and-priority.json': ['"percent"'],
}

test.each(golden.filter(file => !waitingFor[file]))('the worked case %s comes out as written', file => {
  const { results, misses } = rateCaseFile(readFileSync(`${directory}/${file}`, 'utf8'))
  expect(misses).toEqual([])
  expect(results.length).toBeGreaterThan(0)
})

test.each(Object.entries(waitingFor))('%s is refused by name, since it waits for %s', (file, words) => {
  const { results, misses } = rateCaseFile(readFileSync(`${directory}/${file}`, 'utf8'))
  expect(misses).toHaveLength(results.length)
  for (const result of results) {
    expect(Object.keys(result)).toEqual(['name', 'error'])
    const { error } = result as FailedCase
    expect(error.code).toBe('CASE_INVALID')
    for (const word of words)
      expect(error.message).toMatch(new RegExp(`(^|"[^"]+": (price model )?)${word} (is|are) not built yet`))
  }
})

test('01 prints exactly what the format says, and nothing else', () => {
  const { results } = rateCaseFile(readFileSync(`${directory}/01-per-gpu-type.json`, 'utf8'))
  expect(JSON.parse(JSON.stringify(results[0]))).toEqual({
    name: 'Org-A',
    lines: [
      { charge: 'gpu.l40', quantity: '30', amount: '29.70' },
      { charge: 'gpu.a100', quantity: '10', amount: '17.90' },
      { charge: 'gpu.h100', quantity: '100', amount: '299.00' },
    ],
    total: '346.60',
  })
  expect(results.map(result => (result as RatedCase).total)).toEqual(['346.60', '214.80', '162.27'])
})

const pricebook = {
  currency: 'USD',
  timezone: 'UTC',
  charges: [
    { id: 'gpu', meter: 'gpu_alloc', where: { gpu_type: 'H100' }, per: '3600', price: { unit: '2.99' } },
  ],
}
const period = { start: '2025-06-01T00:00:00Z', end: '2025-07-01T00:00:00Z' }
const hour = { meter: 'gpu_alloc', quantity: '3600', dims: { gpu_type: 'H100' } }
const one = (rest: object, book: object = pricebook) =>
  run({ pricebook: book, cases: [{ name: 'n', period, usage: [], ...rest }] })
const errorOf = (rest: object, book?: object) => (one(rest, book).results[0] as FailedCase).error

test('a case that cannot be rated does not stop the others, and their order stays', () => {
  const { results, misses } = run({
    pricebook,
    cases: [
      { name: 'bad', period, usage: [{ ...hour, quantity: 'much' }] },
      { name: 'good', period, usage: [hour] },
      null,
      { name: 'patched', period, usage: [hour], pricebook_patch: { currency: 'JPY' } },
    ],
  })
  expect(
    results.map(result =>
      'error' in result ? `${result.name} ${result.error.code}` : `${result.name} ${result.total}`,
    ),
  ).toEqual(['bad CASE_INVALID', 'good 2.99', 'case 2 CASE_INVALID', 'patched 3'])
  expect(misses).toHaveLength(2)
})

test('an expectation is held in every key it names, and in no other', () => {
  const usage = [hour]
  expect(one({ usage, expect: { total: '2.99' } }).misses).toEqual([])
  expect(one({ usage, expect: { lines: [{ charge: 'gpu', exact: '9', packages: '9' }] } }).misses).toEqual([])
  expect(one({ usage, expect: { total: '3.00' } }).misses).toEqual(['n: total: expected "3.00", got "2.99"'])
  expect(one({ usage, expect: { lines: [] } }).misses).toHaveLength(1)
  expect(one({ usage, expect: { lines: [{ charge: 'gpu' }, { charge: 'x' }] } }).misses).toHaveLength(1)
  expect(one({ usage, expect: { lines: [{ amount: '2.990' }] } }).misses).toHaveLength(1)
  expect(one({ usage, expect: { due: '1.00' } }).misses).toHaveLength(1)
})

test('usage that no charge takes is an error, or a report where the book says so', () => {
  const usage = [hour, { ...hour, dims: { gpu_type: 'L40' } }, { meter: 'tokens', quantity: '5' }]
  expect(errorOf({ usage })).toEqual({
    code: 'UNPRICED',
    message: 'no charge takes 3600 of "gpu_alloc" (gpu_type=L40), and 1 more',
  })
  const { results } = one({ usage }, { ...pricebook, unpriced: 'report' })
  expect(results[0]).toMatchObject({
    total: '2.99',
    unpriced: [
      { meter: 'gpu_alloc', quantity: '3600', dims: { gpu_type: 'L40' } },
      { meter: 'tokens', quantity: '5', dims: {} },
    ],
  })
})

test('dims without a value match nothing', () => {
  for (const gpu_type of [null, '', undefined])
    expect(errorOf({ usage: [{ ...hour, dims: { gpu_type } }] }).code).toBe('UNPRICED')
})

test('zero usage gives no line and needs no price', () => {
  const { results } = one({
    usage: [
      { ...hour, quantity: '0' },
      { meter: 'tokens', quantity: '0.00' },
    ],
  })
  expect(results[0]).toEqual({ name: 'n', lines: [], total: '0.00' })
})

test('the same record twice is dropped and counted, other content under its name is a conflict', () => {
  const record = { ...hour, id: 'a', source: 's' }
  const reordered = { source: 's', id: 'a', dims: hour.dims, quantity: '3600.0', meter: hour.meter }
  const { results } = one({
    usage: [
      record,
      reordered,
      { ...record, quantity: '7200' },
      { ...record, source: 't' },
      { ...hour, id: 'a' },
    ],
  })
  expect(results[0]).toMatchObject({ total: '8.97', duplicates: 1, conflicts: 1 })
})

test('repeat makes copies, one behind the other', () => {
  const { results } = one({ usage: [{ ...hour, repeat: 100, every: 3600, start: '2025-06-02T00:00:00Z' }] })
  expect(results[0]).toMatchObject({ lines: [{ quantity: '100', amount: '299.00' }] })
  // 24 copies from the last day's noon: half of them lie in July.
  const late = one({ usage: [{ ...hour, repeat: 24, every: 3600, start: '2025-06-30T12:00:00Z' }] })
  expect((late.results[0] as FailedCase).error.message).toMatch(/2025-07-01T00:00:00Z is not in the period/)
})

test('usage across the edge of the period counts as far as it lies in it', () => {
  const usage = [{ ...hour, start: '2025-06-30T23:30:00Z', end: '2025-07-01T00:30:00Z' }]
  expect(one({ usage }).results[0]).toMatchObject({ lines: [{ quantity: '0.5', amount: '1.50' }] })
})

test.each<[string, object]>([
  ['an end without a start', { end: '2025-06-02T00:00:00Z' }],
  ['an end before its start', { start: '2025-06-02T00:00:00Z', end: '2025-06-01T00:00:00Z' }],
  ['repeat without every', { repeat: 2, start: '2025-06-02T00:00:00Z' }],
  [
    'repeat with an end',
    { repeat: 2, every: 60, start: '2025-06-02T00:00:00Z', end: '2025-06-03T00:00:00Z' },
  ],
  ['a start that is no time', { start: '2 June' }],
  ['a start outside the period', { start: '2025-05-02T00:00:00Z' }],
  ['a quantity that is a number', { quantity: 3600 }],
  ['a division by zero', { quantity: '1/0' }],
  ['a key it does not know', { quantty: '1' }],
  ['a dim that is a number', { dims: { gpu_type: 1 } }],
])('a usage record with %s is refused', (_name, rest) => {
  expect(errorOf({ usage: [{ ...hour, ...rest }] }).code).toBe('CASE_INVALID')
})

test('a straddling record is split by time at a change of price, and one without a start cannot be', () => {
  const prices = [
    { from: '2025-01-01T00:00:00Z', to: '2025-06-10T00:00:00Z', unit: '2.99' },
    { from: '2025-06-10T00:00:00Z', to: null, unit: '2.25' },
  ]
  const book = { ...pricebook, charges: [{ ...pricebook.charges[0], price: undefined, prices }] }
  const straddling = { ...hour, start: '2025-06-09T23:45:00Z', end: '2025-06-10T00:45:00Z' }
  expect(one({ usage: [straddling] }, book).results[0]).toEqual({
    name: 'n',
    lines: [
      { charge: 'gpu', quantity: '0.25', amount: '0.75', priceFrom: '2025-01-01T00:00:00Z' },
      { charge: 'gpu', quantity: '0.75', amount: '1.69', priceFrom: '2025-06-10T00:00:00Z' },
    ],
    total: '2.44',
  })
  expect(errorOf({ usage: [hour] }, book)).toMatchObject({
    code: 'CASE_INVALID',
    message: expect.stringMatching(/split by time/),
  })
})

test('a book version prices nothing before its from', () => {
  const book = { ...pricebook, from: '2025-06-10T00:00:00Z', unpriced: 'report' }
  const usage = [{ ...hour, start: '2025-06-09T23:45:00Z', end: '2025-06-10T00:45:00Z' }]
  expect(one({ usage }, book).results[0]).toMatchObject({
    lines: [{ quantity: '0.75', amount: '2.24' }],
    unpriced: [{ quantity: '900' }],
  })
  expect(errorOf({ usage }, { ...book, unpriced: 'error' }).code).toBe('UNPRICED')
  expect(one({ usage: [hour] }, { ...book, from: '2025-06-01T00:00:00Z' }).results[0]).toMatchObject({
    total: '2.99',
  })
  expect(one({ usage: [hour] }, { ...book, from: '2025-07-01T00:00:00Z' }).results[0]).toMatchObject({
    total: '0.00',
    unpriced: [{ quantity: '3600' }],
  })
})

test('month_hours are the real hours of the period, also where the clocks change', () => {
  const book = {
    currency: 'EUR',
    timezone: 'Europe/Berlin',
    charges: [{ id: 's', meter: 'gib_hours', per: 'month_hours', price: { unit: '1' } }],
  }
  const march = { start: '2025-02-28T23:00:00Z', end: '2025-03-31T22:00:00Z' }
  expect(
    one({ period: march, usage: [{ meter: 'gib_hours', quantity: '743' }] }, book).results[0],
  ).toMatchObject({
    lines: [{ quantity: '1', amount: '1.00' }],
  })
})

test.each(['', '{', '[]', '{"cases":[]}', '{"pricebook":{},"cases":{}}'])('%j is no file of cases', text => {
  expect(() => rateCaseFile(text)).toThrow(Fault)
})
