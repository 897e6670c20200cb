/** Prices by tiers and packages, and what is included: their invariants, and what a book of them is refused for. */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { expect, test } from 'vitest'
import { grammar } from '../../../processor/pricing/list.ts'
import { rate } from '../../../processor/rate.ts'
import { exact, show } from '../../../schemas/decimal.ts'
import { type Book, bookMisfits } from '../../../schemas/pricebook.ts'
import { hourMs } from '../../../schemas/window.ts'

const period = { startMs: Date.UTC(2025, 5, 1), endMs: Date.UTC(2025, 6, 1) }
const bookOf = (charge: object): Book => ({ currency: 'USD', charges: [{ id: 'c', meter: 'm', ...charge }] })
const lineOf = (charge: object, quantity: Fraction | string) =>
  rate({ book: bookOf(charge), period, usage: [{ meter: 'm', dims: {}, quantity: new Fraction(quantity) }] })
    .lines[0]
const costOf = (charge: object, quantity: Fraction | string) =>
  lineOf(charge, quantity)?.exact ?? new Fraction(0)
const says = (charge: object) =>
  bookMisfits(bookOf(charge), grammar).map(({ path, message }) => `${path} ${message}`)

const quantity = fc
  .tuple(fc.bigInt(0n, 10n ** 6n), fc.constantFrom(1n, 3n, 7n, 100n))
  .map(([n, d]) => new Fraction(n, d))
const cents = fc.bigInt(0n, 500n).map(n => show(new Fraction(n, 100n)))
const tiers = fc
  .tuple(
    fc.uniqueArray(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 4 }),
    fc.array(cents, { minLength: 5, maxLength: 5 }),
  )
  .map(([edges, units]) => [
    ...edges.sort((a, b) => a - b).map((edge, place) => ({ upTo: String(edge), unit: units[place]! })),
    { upTo: null, unit: units[4]! },
  ])

test('graduated costs are monotone and continuous at every edge, and the sum over tiers of their parts', () => {
  fc.assert(
    fc.property(tiers, quantity, quantity, (graduated, a, b) => {
      const price = { price: { graduated } }
      expect(says(price)).toEqual([])
      const [less, more] = a.lt(b) ? [a, b] : [b, a]
      expect(costOf(price, less).lte(costOf(price, more))).toBe(true)
      let floor = new Fraction(0)
      let expected = new Fraction(0)
      for (const { upTo, unit } of graduated) {
        const ceiling = upTo === null ? new Fraction(10n ** 9n) : exact(upTo)
        const part = (a.lt(ceiling) ? a : ceiling).sub(floor)
        if (part.gt(0)) expected = expected.add(part.mul(exact(unit)))
        const step = new Fraction(1, 10n ** 9n)
        if (upTo !== null) {
          const jump = costOf(price, ceiling.add(step)).sub(costOf(price, ceiling))
          expect(jump.lte(step.mul(5))).toBe(true)
        }
        floor = ceiling
      }
      expect(show(costOf(price, a))).toBe(show(expected))
    }),
  )
})

test('volume prices all of it at the tier that is reached, and costs no more than graduated where prices fall', () => {
  fc.assert(
    fc.property(tiers, quantity, (made, used) => {
      const reached = made.find(({ upTo }) => upTo === null || used.lte(exact(upTo)))!
      expect(show(costOf({ price: { volume: made } }, used))).toBe(show(used.mul(exact(reached.unit))))
      const units = made
        .map(({ unit }) => exact(unit))
        .sort((a, b) => b.compare(a))
        .map(show)
      const falling = made.map((tier, place) => ({ ...tier, unit: units[place]! }))
      expect(
        costOf({ price: { volume: falling } }, used).lte(costOf({ price: { graduated: falling } }, used)),
      ).toBe(true)
    }),
  )
})

test('the documented jump of volume: one unit more costs less', () => {
  const price = {
    price: {
      volume: [
        { upTo: 500, unit: '2.50' },
        { upTo: null, unit: '2.00' },
      ],
    },
  }
  expect([costOf(price, '500'), costOf(price, '501')].map(show)).toEqual(['1250', '1002'])
})

test('packages are whole and hold all that was used, with less than one to spare', () => {
  fc.assert(
    fc.property(quantity, fc.integer({ min: 1, max: 1000 }), (used, size) => {
      const packages = costOf({ price: { package: { size, amount: '1.00' } } }, used)
      expect(packages.d).toBe(1n)
      expect(packages.mul(size).gte(used)).toBe(true)
      expect(packages.mul(size).sub(used).lt(size)).toBe(true)
    }),
  )
})

test('what is included is taken off once, and never makes a quantity negative', () => {
  fc.assert(
    fc.property(quantity, fc.integer({ min: 0, max: 10 ** 6 }), (used, included) => {
      const line = lineOf({ included, price: { unit: '2' } }, used)
      if (used.lte(included)) expect(line).toBeUndefined()
      else expect(show(line!.quantity!)).toBe(show(used.sub(included)))
    }),
  )
})

test('where a price changes, tiers, packages and what is included go on from where they stood', () => {
  const edge = new Date(period.startMs + 10 * hourMs).toISOString()
  const dated = (price: object) => ({
    prices: [
      { from: '2025-01-01T00:00:00Z', to: edge, ...price },
      { from: edge, to: null, ...price },
    ],
  })
  const usage = [4, 15].map((hour, place) => ({
    meter: 'm',
    dims: {},
    quantity: new Fraction(place === 0 ? 70 : 65),
    startMs: period.startMs + hour * hourMs,
    endMs: period.startMs + (hour + 1) * hourMs,
  }))
  const lines = (charge: object) =>
    rate({ book: bookOf(charge), period, usage }).lines.map(line => [show(line.quantity!), show(line.amount)])
  const tiers = [
    { upTo: '100', unit: '3' },
    { upTo: null, unit: '2' },
  ]
  expect(lines(dated({ graduated: tiers }))).toEqual([
    ['70', '210'],
    ['65', '160'],
  ])
  expect(lines(dated({ volume: tiers }))).toEqual([
    ['70', '140'],
    ['65', '130'],
  ])
  expect(lines(dated({ package: { size: '50', amount: '5.00' } }))).toEqual([
    ['70', '10'],
    ['65', '5'],
  ])
  expect(lines({ ...dated({ unit: '1' }), included: '80' })).toEqual([['55', '55']])
})

test('an itemised line of tiers still sums to the line', () => {
  const charge = {
    by: ['project'],
    included: '10',
    price: {
      graduated: [
        { upTo: '20', unit: '1' },
        { upTo: null, unit: '0.5' },
      ],
    },
  }
  const usage = ['a', 'b', 'c'].map(project => ({
    meter: 'm',
    dims: { project },
    quantity: new Fraction(20),
  }))
  const { lines, total } = rate({ book: bookOf(charge), period, usage })
  expect(lines.map(line => [line.group?.project, show(line.quantity!), show(line.amount)])).toEqual([
    ['a', '50/3', '11.67'],
    ['b', '50/3', '11.67'],
    ['c', '50/3', '11.66'],
  ])
  expect(show(total)).toBe('35')
})

test.each<[string, object, RegExp]>([
  [
    'tiers that fall',
    {
      price: {
        graduated: [
          { upTo: '5', unit: '1' },
          { upTo: '5', unit: '1' },
          { upTo: null, unit: '1' },
        ],
      },
    },
    /graduated\/1\/upTo .*more than that of the tier before/,
  ],
  [
    'a last tier with an edge',
    { price: { volume: [{ upTo: '5', unit: '1' }] } },
    /volume\/0\/upTo .*must be null/,
  ],
  [
    'an open tier before the last',
    {
      price: {
        volume: [
          { upTo: null, unit: '1' },
          { upTo: null, unit: '1' },
        ],
      },
    },
    /volume\/0\/upTo .*null before the last/,
  ],
  [
    'a first tier of nothing',
    {
      price: {
        volume: [
          { upTo: 0, unit: '1' },
          { upTo: null, unit: '1' },
        ],
      },
    },
    /volume\/0\/upTo .*more than 0/,
  ],
  ['no tiers', { price: { volume: [] } }, /price\/volume/],
  [
    'a `from` in a tier',
    { price: { volume: [{ from: '0', upTo: null, unit: '1' }] } },
    /volume\/0\/from .*not known/,
  ],
  ['packages of nothing', { price: { package: { size: 0, amount: '1' } } }, /package\/size .*more than 0/],
  [
    'a package amount below the smallest coin',
    { price: { package: { size: 1, amount: '0.005' } } },
    /package\/amount .*3 decimals, and the currency 2/,
  ],
  ['a negative inclusion', { included: -1, price: { unit: '1' } }, /\/included/],
  [
    'a weight table that is not there',
    { weight: { dim: 'mig', table: 'mig' }, price: { unit: '1' } },
    /weight\/table .*no weights "mig"/,
  ],
  [
    'a weight that is no rational',
    { weight: { dim: 'mig', table: { a: '1/0' } }, price: { unit: '1' } },
    /weight\/table/,
  ],
])('a book with %s is refused', (_name, charge, message) => {
  expect(says(charge).join('\n')).toMatch(message)
})
