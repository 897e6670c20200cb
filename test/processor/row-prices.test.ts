/** What a row of instance hours costs, where the row tells enough to say. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { readBook } from '../../processor/book.ts'
import { ratecardsToBook } from '../../processor/ratecards.ts'
import { rowPrices } from '../../processor/row-prices.ts'

const period = { startMs: Date.UTC(2025, 5, 1), endMs: Date.UTC(2025, 6, 1) }
const row = (usageHours: string, rest: object = {}) => ({
  organization: 'Coke',
  profileType: 'compute',
  profile: 'slurm-k8s',
  instance: 'test-mohan',
  usageHours,
  ...rest,
})
const pricesOf = (yaml: string) => rowPrices(readBook(yaml, 'book.yaml'), period)

const book = pricesOf(`
currency: USD
charges:
- {id: slurm, meter: instance_hours, where: {profile: slurm-k8s}, unit: Instance-Hours, price: {unit: "12.0"}}
- {id: negotiated, meter: instance_hours, where: {profile: vm, organization: Pepsi}, price: {unit: "0.350"}}
- {id: list, meter: instance_hours, where: {profile: vm, organization: Coke, profile_type: service}, per: 24, price: {unit: "24"}}
- {id: one, meter: instance_hours, where: {profile: gpu, instance: i-1}, price: {unit: "1"}}
- {id: typed, meter: instance_hours, where: {profile: gpu, instance: i-2, gpu_type: H100}, price: {unit: "2"}}
- {id: sized, meter: instance_hours, where: {profile: sized}, times: [memory], price: {unit: "2"}}
- {id: gpu, meter: gpu_hours, price: {unit: "2.99"}}
`)

test('the rate is as the book writes it, the amount is rounded once to the currency', () => {
  expect(book(row('17.73'))).toEqual({ rate: '12.0', amount: '212.76' })
  expect(book(row('0.00042'))).toEqual({ rate: '12.0', amount: '0.01' })
  expect(book(row('1e-07'))).toEqual({ rate: '12.0', amount: '0.00' })
  expect(book(row('0'))).toEqual({ rate: '12.0', amount: '0.00' })
  expect(book(row('17.733333333333334'))).toEqual({ rate: '12.0', amount: '212.80' })
  expect(book(row('1e+16'))).toEqual({ rate: '12.0', amount: '120000000000000000.00' })
})

test('a charge is chosen by every column that it names', () => {
  expect(book(row('1', { profile: 'vm', organization: 'Pepsi' }))).toEqual({ rate: '0.350', amount: '0.35' })
  expect(book(row('12', { profile: 'vm', profileType: 'service' }))).toEqual({ rate: '24', amount: '12.00' })
  expect(book(row('12', { profile: 'vm', profileType: 'compute' }))).toBeUndefined()
  expect(book(row('1', { profile: 'gpu', instance: 'i-1' }))).toEqual({ rate: '1', amount: '1.00' })
})

test.each<[string, object]>([
  ['no charge takes the profile', { profile: 'nobody' }],
  ['the charge asks for a GPU type, which no column tells', { profile: 'gpu', instance: 'i-2' }],
  ['the charge multiplies by a parameter', { profile: 'sized' }],
  ['the usage is a text', { usageHours: '20.59h' }],
  ['the usage is empty', { usageHours: '' }],
  ['the usage is no number', { usageHours: 'NaN' }],
])('a row has no price where %s', (_name, rest) => {
  expect(book(row('1', rest))).toBeUndefined()
})

test('additive charges make one rate by the hour, and one that cannot be decided leaves the row without a price', () => {
  const charges = (fee: string) => `
currency: EUR
charges:
- {id: base, meter: instance_hours, where: {profile: slurm-k8s}, price: {unit: "1.00"}}
- {id: fee, meter: instance_hours, additive: true, per: 24, ${fee}}
`
  expect(pricesOf(charges('price: {unit: "6"}'))(row('10'))).toEqual({ rate: '1.25', amount: '12.50' })
  expect(pricesOf(charges('where: {region: eu}, price: {unit: "6"}'))(row('10'))).toBeUndefined()
})

test('of dated prices the one of the period counts, and none where it changes within', () => {
  const dated = (edge: string) =>
    pricesOf(`
currency: USD
charges:
- id: slurm
  meter: instance_hours
  prices:
  - {from: "2025-01-01T00:00:00Z", to: "${edge}", unit: "1.0"}
  - {from: "${edge}", to: null, unit: "2.0"}
`)(row('10'))
  expect(dated('2025-06-01T00:00:00Z')).toEqual({ rate: '2.0', amount: '20.00' })
  expect(dated('2025-07-01T00:00:00Z')).toEqual({ rate: '1.0', amount: '10.00' })
  expect(dated('2025-06-15T00:00:00Z')).toBeUndefined()
})

test('a book that reports usage without a price gives none either', () => {
  const later = pricesOf(`
currency: USD
unpriced: report
from: "2025-07-01T00:00:00Z"
charges: [{id: slurm, meter: instance_hours, price: {unit: "1"}}]
`)
  expect(later(row('10'))).toBeUndefined()
})

test('by ratecards, only the instance dimension can be told from a row', () => {
  const { book: made } = ratecardsToBook(
    `
profiles:
- name: slurm-k8s
  billing: {currency: [USD], dimensions: [instance], ratecard: {instance: [{price: 12.0, time_unit: h, currency: USD}]}}
- name: daily
  billing: {currency: [USD], dimensions: [instance], ratecard: {instance: [{price: 240, time_unit: d, currency: USD}]}}
- name: minutes
  billing: {currency: [USD], dimensions: [instance], ratecard: {instance: [{price: .5, time_unit: m, currency: USD}]}}
- name: sized
  billing: {currency: [USD], dimensions: [cpu], ratecard: {cpu: [{price: 1, time_unit: h, currency: USD}]}}
- name: both
  billing: {currency: [USD], dimensions: [instance, cpu], ratecard: {instance: [{price: 1, time_unit: h, currency: USD}], cpu: [{price: 1, time_unit: h, currency: USD}]}}
- name: typed
  billing: {currency: [USD], dimensions: [instance, GPU Type], ratecard: {instance: [{price: 1, time_unit: h, currency: USD}], "GPU Type": [{price: 1, time_unit: h, currency: USD, value: A4}]}}
`,
    { currency: 'USD' },
  )
  const price = rowPrices(made, period)
  expect(price(row('17.73'))).toEqual({ rate: '12.0', amount: '212.76' })
  expect(price(row('36', { profile: 'daily' }))).toEqual({ rate: '240', amount: '360.00' })
  expect(price(row('2', { profile: 'minutes' }))).toEqual({ rate: '0.5', amount: '60.00' })
  for (const profile of ['sized', 'both', 'typed', 'unheard'])
    expect(price(row('1', { profile }))).toBeUndefined()
})

test('what the console tells of parameters decides what the columns do not', () => {
  const { book: made, dimsOf } = ratecardsToBook(
    `
profiles:
- name: typed
  billing:
    currency: [USD]
    dimensions: [GPU Type, Disk]
    ratecard:
      GPU Type: [{price: 1.0, time_unit: h, value: A4, count_from: GPU Count}, {price: 1.2, time_unit: h, value: L40, count_from: GPU Count}]
      Disk: [{price: .5, time_unit: h, value: nvme}]
- name: gpus
  billing: {currency: USD, dimensions: [GPU], ratecard: {GPU: [{price: 2.50, time_unit: h}]}}
`,
    { currency: 'USD' },
  )
  const price = (parameters: Record<string, string>, profile = 'typed') =>
    rowPrices(made, period)({ ...row('10', { profile }), dims: dimsOf(parameters) })
  expect(price({ 'GPU Type': 'L40', 'GPU Count': '4', Disk: 'nvme' })).toEqual({
    rate: '5.3',
    amount: '53.00',
  })
  expect(price({ GPU: '3' }, 'gpus')).toEqual({ rate: '2.50', amount: '75.00' })
  expect(price({}, 'gpus')).toBeUndefined()
  for (const missing of ['GPU Type', 'GPU Count', 'Disk']) {
    const { [missing]: _, ...rest }: Record<string, string> = {
      'GPU Type': 'L40',
      'GPU Count': '4',
      Disk: 'nvme',
    }
    expect(price(rest)).toBeUndefined()
  }
  expect(price({ 'GPU Type': 'H100', 'GPU Count': '4', Disk: 'nvme' })).toBeUndefined()
  expect(price({ 'GPU Type': 'L40', 'GPU Count': '4', Disk: 'tape' })).toBeUndefined()
})

test('any hours within bounds have an amount in whole cents, the negative of its negative', () => {
  const number = fc
    .tuple(fc.bigInt(0n, 10n ** 15n), fc.integer({ min: -20, max: 5 }))
    .map(([n, e]) => `${n}e${e}`)
  fc.assert(
    fc.property(number, hours => {
      const amount = book(row(hours))!.amount
      expect(amount).toMatch(/^\d+\.\d{2}$/)
      expect(book(row(`-${hours}`))!.amount.replace('-', '')).toBe(amount)
    }),
  )
})
