/** Ratecards become price books that bill the same, and what they leave open is refused. */
import Fraction from 'fraction.js'
import { expect, test } from 'vitest'
import { rate } from '../../processor/rate.ts'
import { ratecardsToBook } from '../../processor/ratecards.ts'
import { show, showRounded } from '../../schemas/decimal.ts'
import { parseExact } from '../../schemas/json.ts'

const period = { startMs: Date.UTC(2025, 5, 1), endMs: Date.UTC(2025, 6, 1) }

/** The lines for hours of one instance of profile p with these parameters. */
function bill(yaml: string, hours: string, dims: Record<string, string> = {}, currency = 'USD') {
  const { book } = ratecardsToBook(yaml, { currency })
  const usage = [{ meter: 'instance_hours', quantity: new Fraction(hours), dims: { profile: 'p', ...dims } }]
  const rated = rate({ book, period, usage })
  return {
    total: showRounded(rated.total, rated.minorDigits),
    lines: rated.lines.map(line => [
      line.charge,
      show(line.quantity!),
      line.proof.unit,
      line.proof.price.unit,
      show(line.amount),
    ]),
  }
}
const profile = (dimensions: string, ratecard: string, currency = '[USD]') =>
  `profiles:\n- name: p\n  billing: {currency: ${currency}, dimensions: ${dimensions}, ratecard: ${ratecard}}\n`

test('4 CPU at .5 and 2 GPU at 2 for 24 hours are 144', () => {
  const yaml = profile(
    '[CPU, GPU]',
    '{CPU: [{price: .5, time_unit: h, currency: USD}], GPU: [{price: 2, time_unit: h, currency: USD}]}',
  )
  expect(bill(yaml, '24', { cpu: '4', gpu_count: '2' })).toEqual({
    total: '144.00',
    lines: [
      ['p.CPU', '96', 'CPU-Hours', '0.5', '48'],
      ['p.GPU', '48', 'GPU-Hours', '2', '96'],
    ],
  })
  expect(ratecardsToBook(yaml, { currency: 'USD' }).dims).toEqual({ cpu: 'CPU', gpu_count: 'gpu_count' })
})

test('an instance is billed by the hour, the minute or the day, its price as written', () => {
  const per = (unit: string) =>
    bill(profile('[instance]', `{instance: [{price: 12.0, time_unit: ${unit}}]}`), '36').lines
  expect(per('h')).toEqual([['p.instance', '36', 'Instance-Hours', '12.0', '432']])
  expect(per('m')).toEqual([['p.instance', '2160', 'Instance-Minutes', '12.0', '25920']])
  expect(per('d')).toEqual([['p.instance', '1.5', 'Instance-Days', '12.0', '18']])
})

test('billable units are the number of the parameter divided by base_unit', () => {
  const yaml = profile(
    '[memory, cpu]',
    '{memory: [{price: 2, time_unit: h, currency: USD, base_unit: 1024}], cpu: [{price: 1, time_unit: h, currency: USD, base_unit: 1000}]}',
  )
  expect(bill(yaml, '10', { memory: '2048', cpu: '500' })).toEqual({
    total: '45.00',
    lines: [
      ['p.memory', '20', '1024 memory-Hours', '2', '40'],
      ['p.cpu', '5', '1000 cpu-Hours', '1', '5'],
    ],
  })
})

const typed = profile(
  '["GPU Type"]',
  '{"GPU Type": [{price: 1, time_unit: h, base_value: 1, count_from: "GPU Count", currency: USD, value: A4}, {price: 1.2, time_unit: h, base_value: 1, count_from: "GPU Count", currency: USD, value: L40}]}',
)

test('a row with a value prices the instances of that value, times the count', () => {
  expect(bill(typed, '10', { gpu_type: 'L40', gpu_count: '4' })).toEqual({
    total: '48.00',
    lines: [['p.GPU Type.L40', '40', 'GPU Count-Hours', '1.2', '48']],
  })
  expect(bill(typed, '10', { gpu_type: 'A4', gpu_count: '1' }).total).toBe('10.00')
  const { dims, dimsOf } = ratecardsToBook(typed, { currency: 'USD' })
  expect(dims).toEqual({ gpu_count: 'gpu_count' })
  expect(dimsOf({ 'GPU Type': 'L40', GPU: '4', Memory: '256' })).toEqual({ gpu_type: 'L40', gpu_count: '4' })
  expect(dimsOf({ 'GPU Type': 'L40' })).toEqual({ gpu_type: 'L40' })
})

test('a value without a row, a count that is missing and a profile without prices are errors, never free', () => {
  const code = (attempt: () => unknown) => {
    expect(attempt).toThrow(
      expect.objectContaining({ code: expect.stringMatching(/^(UNPRICED|WEIGHT_MISSING)$/) }),
    )
  }
  code(() => bill(typed, '10', { gpu_type: 'H100', gpu_count: '1' }))
  code(() => bill(typed, '10', { gpu_type: 'L40' }))
  code(() => bill(typed, '10', { profile: 'q', gpu_type: 'L40', gpu_count: '1' }))
  code(() => bill('profiles: [{name: p}]', '10'))
})

const mixed = profile(
  '[instance, gpu_type, disk, cpu]',
  `{instance: [{price: 1, time_unit: d}], cpu: [{price: 2, time_unit: h}],
    gpu_type: [{price: 3, time_unit: h, value: L40}],
    disk: [{price: 6, time_unit: m, value: nvme, count_from: disks}, {price: 4, time_unit: d, base_value: 2, value: hdd, count_from: disks}]}`,
)

test('dimensions of all kinds add up', () => {
  // 24 h: instance 1 day, GPU 24 × 3, disk 2 × 24 × 60 × 6 or 2 × 1 × 4 / 2, cpu 8 × 24 × 2
  expect(
    bill(mixed, '24', { gpu_type: 'L40', disk: 'nvme', disks: '2', cpu: '8' }).lines.map(line => [
      line[0],
      line[4],
    ]),
  ).toEqual([
    ['p.instance', '1'],
    ['p.gpu_type.L40', '72'],
    ['p.disk', '17280'],
    ['p.cpu', '384'],
  ])
  expect(bill(mixed, '24', { gpu_type: 'L40', disk: 'hdd', disks: '2', cpu: '8' }).total).toBe('461.00')
})

test('where several dimensions choose by value, a value without a row in any of them is an error', () => {
  const rest = { disks: '2', cpu: '8' }
  expect(() => bill(mixed, '24', { ...rest, gpu_type: 'H100', disk: 'nvme' })).toThrow(
    expect.objectContaining({ code: 'UNPRICED' }),
  )
  expect(() => bill(mixed, '24', { ...rest, gpu_type: 'L40', disk: 'tape' })).toThrow(
    expect.objectContaining({ code: 'WEIGHT_MISSING' }),
  )
})

test('prices of other currencies are left out, and the profile with them', () => {
  const yaml = profile(
    '[instance]',
    '{instance: [{price: 1, time_unit: h, currency: USD}, {price: 150, time_unit: h, currency: JPY}]}',
    '[USD, JPY]',
  )
  expect(bill(yaml, '10', {}, 'JPY').total).toBe('1500')
  expect(bill(yaml, '10').total).toBe('10.00')
  expect(ratecardsToBook(yaml, { currency: 'EUR' }).book.charges).toEqual([])
})

test('what a profile does not price by is ignored, also other settings beside the profiles', () => {
  const yaml = `kind: GlobalSettings\n${profile('[instance]', '{instance: [{price: "1.50", time_unit: h}]}')}- name: free\n  description: not billed\n`
  expect(ratecardsToBook(yaml, { currency: 'USD', id: 'rafay', version: 2 }).book).toMatchObject({
    id: 'rafay',
    version: 2,
    currency: 'USD',
    charges: [{ price: { unit: '1.50' }, where: { profile: 'p' } }],
  })
})

test.each<[string, string, RegExp]>([
  ['no YAML', 'profiles: [', /not YAML/],
  ['no profiles', 'a: 1', /\/profiles is missing/],
  ['a profile without a name', 'profiles: [{billing: {}}]', /profile 0: \/name is missing/],
  [
    'a profile twice with other prices',
    `${profile('[instance]', '{instance: [{price: 1, time_unit: h}]}')}- {name: p, billing: {}}`,
    /^p: .*twice/,
  ],
  [
    'a dimension without a ratecard',
    profile('[instance, cpu]', '{instance: [{price: 1, time_unit: h}]}'),
    /^p: \/billing\/ratecard\/cpu is missing/,
  ],
  [
    'a ratecard without its dimension',
    profile('[instance]', '{instance: [{price: 1, time_unit: h}], CPU: [{price: 1, time_unit: h}]}'),
    /^p: \/billing\/ratecard\/CPU .*dimensions/,
  ],
  [
    'no price',
    profile('[instance]', '{instance: [{time_unit: h}]}'),
    /^p: \/billing\/ratecard\/instance\/0\/price is missing/,
  ],
  [
    'a price that is no number',
    profile('[instance]', '{instance: [{price: free, time_unit: h}]}'),
    /instance\/0\/price/,
  ],
  [
    'a negative price',
    profile('[instance]', '{instance: [{price: -1, time_unit: h}]}'),
    /instance\/0\/price/,
  ],
  [
    'another time_unit',
    profile('[instance]', '{instance: [{price: 1, time_unit: w}]}'),
    /instance\/0\/time_unit/,
  ],
  [
    'an unknown field',
    profile('[instance]', '{instance: [{price: 1, time_unit: h, discount: 5}]}'),
    /instance\/0\/discount is not known/,
  ],
  [
    'two prices of one dimension',
    profile('[cpu]', '{cpu: [{price: 1, time_unit: h}, {price: 2, time_unit: m}]}'),
    /two prices in one currency/,
  ],
  [
    'two prices of one value',
    profile('[g]', '{g: [{price: 1, time_unit: h, value: a}, {price: 2, time_unit: h, value: a}]}'),
    /two prices for "a"/,
  ],
  [
    'rows with and without a value',
    profile('[g]', '{g: [{price: 1, time_unit: h, value: a}, {price: 2, time_unit: h}]}'),
    /with and without/,
  ],
  [
    'both bases',
    profile('[g]', '{g: [{price: 1, time_unit: h, base_unit: 2, base_value: 2}]}'),
    /both base_unit and base_value/,
  ],
  ['a base of zero', profile('[g]', '{g: [{price: 1, time_unit: h, base_unit: 0}]}'), /base of 0/],
  [
    'an instance by value',
    profile('[instance]', '{instance: [{price: 1, time_unit: h, value: a}]}'),
    /no parameter/,
  ],
  [
    'a price of no known currency',
    profile('[g]', '{g: [{price: 1, time_unit: h}]}', '[USD, EUR]'),
    /g\/0\/currency is missing/,
  ],
  [
    'half of the dimensions in the currency',
    profile(
      '[a, b]',
      '{a: [{price: 1, time_unit: h, currency: USD}], b: [{price: 1, time_unit: h, currency: EUR}]}',
    ),
    /b has no price in USD/,
  ],
  [
    'parameters that become one dim',
    profile(
      '["GPU Model", gpu-model]',
      '{"GPU Model": [{price: 1, time_unit: h}], gpu-model: [{price: 1, time_unit: h}]}',
    ),
    /would both be the dim gpu_model/,
  ],
])('%s is refused, naming profile and field', (_name, yaml, says) => {
  expect(() => ratecardsToBook(yaml, { currency: 'USD' })).toThrow(
    expect.objectContaining({ code: 'RATECARD_INVALID', message: expect.stringMatching(says) }),
  )
})

test('ratecards read from the API with exact numbers make the same book as the YAML of the settings', () => {
  const json = `{"profiles":[{"name":"p","billing":{"currency":["USD"],"dimensions":["instance"],
    "ratecard":{"instance":[{"price":12.0,"time_unit":"h","currency":"USD"}]}}},{"name":"q"}]}`
  const fromApi = ratecardsToBook(parseExact(json) as object, { currency: 'USD' })
  expect(fromApi.book).toEqual(ratecardsToBook(json, { currency: 'USD' }).book)
  expect(fromApi.book.charges[0]?.price).toEqual({ unit: '12.0' })
})

test('a compute and a service profile of one name and price are one, and parameters keep their labels', () => {
  const one =
    '{name: p, billing: {currency: USD, dimensions: [vCPU, profile], ratecard: {vCPU: [{price: 1, time_unit: h}], profile: [{price: 1, time_unit: h}]}}}'
  const { book, dims } = ratecardsToBook(`profiles: [${one}, ${one}]`, { currency: 'USD' })
  expect(book.charges.map(({ id, additive }) => [id, additive])).toEqual([
    ['p.vCPU', undefined],
    ['p.profile', true],
  ])
  expect(dims).toEqual({ vcpu: 'vCPU', parameter_profile: 'parameter.profile' })
})
