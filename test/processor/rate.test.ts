/** The invariants of rating: what must hold for every book and every usage. */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { expect, test } from 'vitest'
import { grammar } from '../../processor/pricing/list.ts'
import { type Rated, rate, showDims, type UsageRecord } from '../../processor/rate.ts'
import { minorDigitsOf } from '../../schemas/currency.ts'
import { exact, roundHalfAway, roundHalfEven, show } from '../../schemas/decimal.ts'
import { Fault } from '../../schemas/fault.ts'
import { type Book, bookMisfits } from '../../schemas/pricebook.ts'
import { hourMs, type Window } from '../../schemas/window.ts'

const period: Window = { startMs: Date.UTC(2025, 5, 1), endMs: Date.UTC(2025, 6, 1) }
const gpuTypes = ['L40', 'A100', 'H100']

const priceText = fc
  .tuple(fc.bigInt(0n, 10n ** 9n), fc.integer({ min: 0, max: 8 }))
  .map(([digits, places]) => show(new Fraction(digits, 10n ** BigInt(places))))
const quantity = fc
  .tuple(fc.bigInt(-(10n ** 12n), 10n ** 12n), fc.constantFrom(1n, 3n, 7n, 1000n, 3600n, 10n ** 12n))
  .map(([n, d]) => new Fraction(n, d))
const currency = fc.constantFrom('USD', 'JPY', 'KWD', 'CLF')
const mode = fc.constantFrom('half_up' as const, 'half_even' as const)

/** A book with a price for each type of GPU, and one fee on top for what is in region b. */
const book: fc.Arbitrary<Book> = fc
  .record({
    currency,
    mode,
    prices: fc.tuple(priceText, priceText, priceText),
    fee: priceText,
    per: fc.constantFrom('1', '3600', '1/60', 'month_hours'),
  })
  .map(({ currency, mode, prices, fee, per }) => ({
    currency,
    rounding: { mode },
    charges: [
      ...gpuTypes.map((gpu_type, index) => ({
        id: gpu_type,
        meter: 'gpu',
        where: { gpu_type },
        per,
        price: { unit: prices[index]! },
      })),
      { id: 'fee', meter: 'gpu', where: { region: 'b' }, additive: true, price: { unit: fee } },
    ],
  }))

const record: fc.Arbitrary<UsageRecord> = fc
  .record({
    meter: fc.constant('gpu'),
    quantity,
    dims: fc.record({ gpu_type: fc.constantFrom(...gpuTypes), region: fc.constantFrom('a', 'b', '') }),
    at: fc.option(fc.tuple(fc.integer({ min: 0, max: 700 }), fc.integer({ min: 0, max: 20 }))),
  })
  .map(({ at, ...rest }) =>
    at
      ? {
          ...rest,
          startMs: period.startMs + at[0] * hourMs,
          endMs: period.startMs + (at[0] + at[1]) * hourMs,
        }
      : rest,
  )
const usage = fc.array(record, { maxLength: 20 })

const sum = (values: readonly Fraction[]) => values.reduce((a, b) => a.add(b), new Fraction(0))
const printed = (rated: Rated) =>
  JSON.stringify({
    ...rated,
    total: show(rated.total),
    lines: rated.lines.map(line => ({
      ...line,
      quantity: line.quantity && show(line.quantity),
      exact: show(line.exact),
      amount: show(line.amount),
    })),
    unpriced: rated.unpriced.map(rest => ({ ...rest, quantity: show(rest.quantity) })),
  })

test('the books of these tests fit the grammar', () => {
  fc.assert(
    fc.property(book, made => {
      expect(bookMisfits(made, grammar)).toEqual([])
    }),
  )
})

test('a line is quantity times price, rounded once, whole in minor units; the total is their sum', () => {
  fc.assert(
    fc.property(book, usage, (made, given) => {
      const rated = rate({ book: made, period, usage: given })
      const digits = minorDigitsOf(made.currency)!
      for (const line of rated.lines) {
        const charge = made.charges.find(({ id }) => id === line.charge)!
        const metered = sum(
          given
            .filter(({ dims }) =>
              Object.entries(charge.where ?? {}).every(([dim, value]) => dims[dim] === value),
            )
            .map(each => each.quantity),
        )
        const per = charge.per === 'month_hours' ? new Fraction(720) : exact(String(charge.per ?? '1'))
        expect(show(line.quantity!)).toBe(show(metered.div(per)))
        expect(line.proof.metered).toBe(show(metered))
        expect(line.exact.equals(line.quantity!.mul(exact(charge.price!.unit as string)))).toBe(true)
        expect(line.amount.mul(10 ** digits).d).toBe(1n)
        expect(
          line.amount
            .sub(line.exact)
            .abs()
            .lte(new Fraction(1, 2n * 10n ** BigInt(digits))),
        ).toBe(true)
      }
      expect(rated.total.equals(sum(rated.lines.map(line => line.amount)))).toBe(true)
    }),
  )
})

test('every unit of usage is on one line, or named as unpriced', () => {
  const other = record.map(each => ({ ...each, dims: { gpu_type: 'B200' } }))
  fc.assert(
    fc.property(book, usage, fc.array(other, { maxLength: 4 }), (made, given, strange) => {
      const rated = rate({ book: { ...made, unpriced: 'report' }, period, usage: [...strange, ...given] })
      const charged = rated.lines
        .filter(({ charge }) => charge !== 'fee')
        .map(({ proof }) => exact(proof.metered!))
      // A zero total has no line, and a zero record is nothing to price.
      expect(show(sum([...charged, ...rated.unpriced.map(rest => rest.quantity)]))).toBe(
        show(sum([...given, ...strange].map(each => each.quantity))),
      )
      expect(rated.unpriced).toHaveLength(strange.filter(each => !each.quantity.equals(0)).length)
      if (rated.unpriced.length > 0)
        expect(() => rate({ book: made, period, usage: [...strange, ...given] })).toThrow(Fault)
    }),
  )
})

test('the order of usage does not matter', () => {
  fc.assert(
    fc.property(
      book,
      usage.chain(given =>
        fc.tuple(fc.constant(given), fc.shuffledSubarray(given, { minLength: given.length })),
      ),
      (made, [given, shuffled]) => {
        expect(printed(rate({ book: made, period, usage: shuffled }))).toBe(
          printed(rate({ book: made, period, usage: given })),
        )
      },
    ),
  )
})

test('sending any of it again changes nothing but the count of duplicates', () => {
  fc.assert(
    fc.property(
      book,
      usage
        .map(given => given.map((each, index) => ({ ...each, id: `r${index}`, source: 's' })))
        .chain(given => fc.tuple(fc.constant(given), fc.subarray(given))),
      (made, [given, again]) => {
        const once = rate({ book: made, period, usage: given })
        const twice = rate({ book: made, period, usage: [...given, ...again.map(each => ({ ...each }))] })
        expect(twice.duplicates).toBe(again.length)
        expect(printed({ ...twice, duplicates: 0 })).toBe(printed(once))
      },
    ),
  )
})

test('other content under a taken identity is a conflict, and the first counts', () => {
  fc.assert(
    fc.property(book, record, quantity, (made, first, other) => {
      fc.pre(!first.quantity.equals(other))
      const named = { ...first, id: 'r', source: 's' }
      const rated = rate({ book: made, period, usage: [named, { ...named, quantity: other }] })
      expect(rated.conflicts).toBe(1)
      expect(printed({ ...rated, conflicts: 0 })).toBe(printed(rate({ book: made, period, usage: [named] })))
    }),
  )
})

test('exact amounts add up: rating two halves and both together differs by rounding only', () => {
  fc.assert(
    fc.property(book, usage, usage, (made, some, more) => {
      const [a, b, both] = [some, more, [...some, ...more]].map(given =>
        rate({ book: made, period, usage: given }),
      )
      expect(show(sum([...a!.lines, ...b!.lines].map(line => line.exact)))).toBe(
        show(sum(both!.lines.map(line => line.exact))),
      )
      const halfUnits = a!.lines.length + b!.lines.length + both!.lines.length
      const off = a!.total.add(b!.total).sub(both!.total).abs()
      expect(off.lte(new Fraction(halfUnits, 2n * 10n ** BigInt(both!.minorDigits)))).toBe(true)
    }),
  )
})

test('cutting a record in two by time changes nothing', () => {
  fc.assert(
    fc.property(book, usage, fc.integer({ min: 1, max: 6 }), (made, given, parts) => {
      const cut = given.flatMap(each => {
        if (each.startMs === undefined || each.endMs === undefined) return [each]
        const edgeMs = each.startMs + Math.floor((each.endMs - each.startMs) / (parts + 1))
        if (edgeMs === each.startMs) return [each]
        const share = new Fraction(edgeMs - each.startMs, each.endMs - each.startMs)
        return [
          { ...each, endMs: edgeMs, quantity: each.quantity.mul(share) },
          { ...each, startMs: edgeMs, quantity: each.quantity.mul(new Fraction(1).sub(share)) },
        ]
      })
      expect(printed(rate({ book: made, period, usage: cut }))).toBe(
        printed(rate({ book: made, period, usage: given })),
      )
    }),
  )
})

test('a price that changes to itself changes no quantity and no exact amount', () => {
  const timed = record.map(each => ({
    ...each,
    startMs: each.startMs ?? period.startMs,
    endMs: each.endMs ?? period.endMs,
  }))
  fc.assert(
    fc.property(
      book,
      fc.array(timed, { maxLength: 10 }),
      fc.integer({ min: 1, max: 719 }),
      (made, given, hour) => {
        const edge = new Date(period.startMs + hour * hourMs).toISOString()
        const dated: Book = {
          ...made,
          charges: made.charges.map(({ price, ...charge }) => ({
            ...charge,
            prices: [
              { from: '2020-01-01T00:00:00Z', to: edge, ...price },
              { from: edge, to: null, ...price },
            ],
          })),
        }
        expect(bookMisfits(dated, grammar)).toEqual([])
        const [whole, split] = [made, dated].map(each => rate({ book: each, period, usage: given }))
        const exactOf = (rated: Rated, id: string) =>
          show(sum(rated.lines.filter(line => line.charge === id).map(line => line.exact)))
        for (const { id } of made.charges) expect(exactOf(split!, id)).toBe(exactOf(whole!, id))
      },
    ),
  )
})

test('seconds priced per 3600 and hours priced by the hour cost the same', () => {
  fc.assert(
    fc.property(priceText, quantity, currency, (price, hours, code) => {
      const charge = (per: string) => ({
        currency: code,
        charges: [{ id: 'gpu', meter: 'gpu', per, price: { unit: price } }],
      })
      const one = (per: string, amount: Fraction) =>
        rate({ book: charge(per), period, usage: [{ meter: 'gpu', dims: {}, quantity: amount }] }).total
      expect(show(one('3600', hours.mul(3600)))).toBe(show(one('1', hours)))
      expect(show(one('1/60', hours.div(60)))).toBe(show(one('1', hours)))
    }),
  )
})

test('a credit is the exact negative of its charge', () => {
  fc.assert(
    fc.property(book, usage, (made, given) => {
      const negative = given.map(each => ({ ...each, quantity: each.quantity.neg() }))
      expect(show(rate({ book: made, period, usage: negative }).total.neg())).toBe(
        show(rate({ book: made, period, usage: given }).total),
      )
    }),
  )
})

test('rounding is symmetric, and ties go away from zero or to the even digit', () => {
  const places = fc.integer({ min: 0, max: 6 })
  fc.assert(
    fc.property(quantity, places, (value, digits) => {
      for (const round of [roundHalfAway, roundHalfEven]) {
        expect(show(round(value.neg(), digits))).toBe(show(round(value, digits).neg()))
        expect(
          round(value, digits)
            .sub(value)
            .abs()
            .lte(new Fraction(1, 2n * 10n ** BigInt(digits))),
        ).toBe(true)
      }
    }),
  )
  const cents = (text: string) => [roundHalfAway, roundHalfEven].map(round => show(round(exact(text), 2)))
  expect(cents('0.125')).toEqual(['0.13', '0.12'])
  expect(cents('0.135')).toEqual(['0.14', '0.14'])
  expect(cents('-0.125')).toEqual(['-0.13', '-0.12'])
  expect(cents('0.1250000000000000000000000001')).toEqual(['0.13', '0.13'])
  expect(cents('360.295')).toEqual(['360.3', '360.3'])
})

test('usage that two charges take is refused, also by a book nobody has checked', () => {
  const charges = ['one', 'two'].map(id => ({ id, meter: 'gpu', price: { unit: '1' } }))
  const attempt = () =>
    rate({
      book: { currency: 'USD', charges },
      period,
      usage: [{ meter: 'gpu', dims: {}, quantity: new Fraction(1) }],
    })
  expect(attempt).toThrow(expect.objectContaining({ code: 'PRICE_AMBIGUOUS' }))
})

test('an additive charge comes on top, and alone is no price where there are others for its meter', () => {
  const charge = (id: string, additive: boolean, where = {}) => ({
    id,
    meter: 'gpu',
    additive,
    where,
    price: { unit: '1.50' },
  })
  const given = [{ meter: 'gpu', dims: { gpu_type: 'B300' }, quantity: new Fraction(2) }]
  const rated = (...charges: ReturnType<typeof charge>[]) =>
    rate({ book: { currency: 'USD', unpriced: 'report', charges }, period, usage: given })
  expect(show(rated(charge('base', false), charge('support', true)).total)).toBe('6')
  expect(show(rated(charge('support', true), charge('tax', true)).total)).toBe('6')
  const leak = rated(charge('h100', false, { gpu_type: 'H100' }), charge('support', true))
  expect(leak.unpriced.map(rest => show(rest.quantity))).toEqual(['2'])
})

test('a line carries the proof of what made it', () => {
  const made: Book = {
    id: 'neocloud',
    version: 3,
    currency: 'USD',
    charges: [
      {
        id: 'h100',
        meter: 'gpu',
        where: { gpu_type: 'H100' },
        per: 3600,
        unit: 'GPU-Hours',
        price: { unit: '2.99' },
      },
    ],
  }
  const { lines } = rate({
    book: made,
    period,
    usage: [{ meter: 'gpu', dims: { gpu_type: 'H100' }, quantity: new Fraction(5400) }],
  })
  expect(lines[0]?.proof).toEqual({
    book: 'neocloud',
    version: 3,
    sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
    charge: 'h100',
    meter: 'gpu',
    where: { gpu_type: 'H100' },
    metered: '5400',
    per: '3600',
    unit: 'GPU-Hours',
    modifiers: {},
    price: { unit: '2.99' },
    period_start: '2025-06-01T00:00:00Z',
    period_end: '2025-07-01T00:00:00Z',
  })
})

test('hours of an instance times a number it carries are priced, and a missing number is an error', () => {
  const made: Book = {
    currency: 'USD',
    charges: [{ id: 'memory', meter: 'hours', per: '1024', times: ['memory'], price: { unit: '2' } }],
  }
  const one = (dims: Record<string, string>) =>
    rate({ book: made, period, usage: [{ meter: 'hours', dims, quantity: new Fraction(24) }] })
  expect(one({ memory: '2048' }).lines.map(line => [show(line.quantity!), show(line.amount)])).toEqual([
    ['48', '96'],
  ])
  expect(one({ memory: '0' }).lines).toEqual([])
  for (const dims of [{}, { memory: '' }, { memory: 'big' }, { memory: '-1' }, { memory: '1e3' }] as Record<
    string,
    string
  >[])
    expect(() => one(dims)).toThrow(expect.objectContaining({ code: 'WEIGHT_MISSING' }))
})

test('dims are shown sorted, and read back without doubt', () => {
  expect(showDims({ plan: 'spot', gpu_type: 'H100' })).toBe('gpu_type=H100;plan=spot')
  expect(showDims({ a: 'x;b=y', 'c=d': '\\' })).toBe('a=x\\;b\\=y;c\\=d=\\\\')
  expect(showDims({})).toBe('')
})
