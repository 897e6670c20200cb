/** Line items of the June table, and how they are exported. */
import { parse } from 'csv-parse/sync'
import Fraction from 'fraction.js'
import { expect, test } from 'vitest'
import { csvOf } from '../../processor/exports/csv.ts'
import type { ExportInput } from '../../processor/exports/export.ts'
import { exportFormats } from '../../processor/exports/list.ts'
import { type LineItem, needsHours, rateLines, totalsByCurrency } from '../../processor/line-items.ts'
import { type Book, bookHash } from '../../schemas/pricebook.ts'

const period = { startMs: Date.UTC(2025, 5, 1), endMs: Date.UTC(2025, 6, 1) }
const prices = { L40: '0.99', A100: '1.79', H100: '2.99' }
const book: Book = {
  id: 'demo',
  version: 1,
  currency: 'USD',
  charges: Object.entries(prices).map(([gpu_type, price]) => ({
    id: `gpu.${gpu_type.toLowerCase()}`,
    meter: 'gpu_hours',
    where: { gpu_type },
    unit: 'h',
    price: { unit: price },
  })),
}
/** GPU hours of each organization by GPU type (Rafay's table of June 2025), two instances a type. */
const june = { 'Org-A': [30, 10, 100], 'Org-B': [60, 20, 40], 'Org-C': [10, 30, 33] } as const
const usageOf = (hours: readonly number[]) =>
  Object.keys(prices).flatMap((gpu_type, index) =>
    ['1/3', '2/3'].map((share, instance) => ({
      meter: 'gpu_hours',
      source: 'meterline/rafay/demo',
      subject: 'org',
      dims: { gpu_type, instance: `i-${instance}`, profile: 'p' },
      quantity: new Fraction(share).mul(hours[index]!).toFraction(),
      window: period,
    })),
  )
const accounts = Object.entries(june).map(([account, hours]) =>
  rateLines({ account, book, period, usage: usageOf(hours) }),
)
const exported = async (name: string, lines: readonly LineItem[]) => {
  const format = exportFormats.find(each => each.name === name)!
  const [file] = await format.write({
    period,
    nowMs: 0,
    lineItems: async () => lines,
  } as unknown as ExportInput)
  return [...file!.chunks].join('')
}

test('the June table costs 346.60, 214.80 and 162.27, all 723.67', () => {
  expect(accounts.map(({ account, total }) => `${account} ${total}`)).toEqual([
    'Org-A 346.60',
    'Org-B 214.80',
    'Org-C 162.27',
  ])
  expect(totalsByCurrency(accounts)).toEqual({ USD: '723.67' })
})

test('a line item says all that makes its amount, and carries its proof', () => {
  const [first] = accounts[0]!.lines
  expect(first).toMatchObject({
    account: 'Org-A',
    charge: 'gpu.l40',
    meter: 'gpu_hours',
    group: {},
    quantity: '30',
    unit: 'h',
    price: '0.99',
    amount: '29.70',
    currency: 'USD',
    period_start: '2025-06-01T00:00:00Z',
    period_end: '2025-07-01T00:00:00Z',
    book: 'demo@1',
    book_sha256: bookHash(book),
  })
  expect(first?.proof).toMatchObject({
    charge: 'gpu.l40',
    metered: '30',
    where: { gpu_type: 'L40' },
    price: { unit: '0.99' },
  })
})

test("a contract's dims win over those of the usage", () => {
  const { lines } = rateLines({
    account: 'a',
    book,
    period,
    usage: usageOf([1, 1, 1]),
    dims: { gpu_type: 'H100' },
  })
  expect(lines.map(({ charge, quantity }) => [charge, quantity])).toEqual([['gpu.h100', '3']])
})

test("another account's usage is not in it: rating one account knows nothing of others", () => {
  const alone = rateLines({ account: 'Org-B', book, period, usage: usageOf(june['Org-B']) })
  expect(accounts[1]).toEqual(alone)
})

test('usage without a price is reported where the book says so, and refused otherwise', () => {
  const usage = [
    { meter: 'gpu_hours', source: 's', subject: 't', dims: { gpu_type: 'B300' }, quantity: '2/3' },
  ]
  const reporting = rateLines({ account: 'a', book: { ...book, unpriced: 'report' }, period, usage })
  expect(reporting).toMatchObject({
    total: '0.00',
    lines: [],
    unpriced: [{ account: 'a', meter: 'gpu_hours', dims: { gpu_type: 'B300' }, quantity: '2/3' }],
  })
  expect(() => rateLines({ account: 'a', book, period, usage })).toThrow(
    expect.objectContaining({
      code: 'UNPRICED',
      message: expect.stringMatching(/^account a: no charge takes 2\/3/),
    }),
  )
})

test('a book whose prices change within the period needs the usage by the hour', () => {
  const dated: Book = {
    currency: 'USD',
    charges: [
      {
        id: 'gpu',
        meter: 'gpu_hours',
        by: ['gpu_type'],
        prices: [
          { from: '2025-01-01T00:00:00Z', to: '2025-06-10T00:00:00Z', unit: '2' },
          { from: '2025-06-10T00:00:00Z', to: null, unit: '1' },
        ],
      },
    ],
  }
  expect(
    [book, dated, { ...book, from: '2025-06-02T00:00:00Z' }, { ...book, from: '2025-06-01T00:00:00Z' }].map(
      each => needsHours(each, period),
    ),
  ).toEqual([false, true, true, false])
  const row = (hour: number) => ({
    meter: 'gpu_hours',
    source: 's',
    subject: 't',
    dims: { gpu_type: 'L40' },
    quantity: '1',
    window: { startMs: period.startMs + hour * 3_600_000, endMs: period.startMs + (hour + 1) * 3_600_000 },
  })
  const { lines } = rateLines({ account: 'a', book: dated, period, usage: [row(215), row(216), row(700)] })
  expect(lines.map(({ group, quantity, amount }) => [group, quantity, amount])).toEqual([
    [{ gpu_type: 'L40' }, '1', '2.00'],
    [{ gpu_type: 'L40' }, '2', '2.00'],
  ])
  // One quantity for the whole period does not say on which side of the change it lies.
  expect(() =>
    rateLines({ account: 'a', book: dated, period, usage: [{ ...row(0), window: period }] }),
  ).toThrow(/cannot be split by time/)
})

test('csv has the columns of the command line in their order, and reads back whatever stands in them', async () => {
  const odd = {
    ...accounts[0]!.lines[0]!,
    account: 'Acme, "GPU" GmbH Ü',
    group: { team: 'a;b=c', project: 'x\r\ny' },
  }
  const text = await exported('csv', [...accounts[0]!.lines, odd])
  expect(
    text.startsWith(
      'account,charge,meter,group,quantity,unit,price,amount,currency,period_start,period_end,book,book_sha256\r\n',
    ),
  ).toBe(true)
  expect(text.split('\r\n')[1]).toBe(
    `Org-A,gpu.l40,gpu_hours,,30,h,0.99,29.70,USD,2025-06-01T00:00:00Z,2025-07-01T00:00:00Z,demo@1,${bookHash(book)}`,
  )
  const rows = parse(text, { columns: true }) as Record<string, string>[]
  expect(rows).toHaveLength(4)
  expect(rows[3]).toMatchObject({
    account: odd.account,
    group: 'project=x\r\ny;team=a\\;b\\=c',
    amount: '29.70',
  })
})

test('csv of no lines is its header alone', () => {
  expect([...csvOf([])].join('').split('\r\n')).toHaveLength(2)
})

test('jsonl is one line item a line, with its proof', async () => {
  const lines = accounts.flatMap(account => account.lines)
  const text = await exported('jsonl', lines)
  expect(text.endsWith('\n')).toBe(true)
  expect(
    text
      .trimEnd()
      .split('\n')
      .map(line => JSON.parse(line) as unknown),
  ).toEqual(lines)
})

test('totals of two currencies are never added', () => {
  expect(
    totalsByCurrency([
      { currency: 'USD', total: '-0.05' },
      { currency: 'JPY', total: '7' },
      { currency: 'USD', total: '1.00' },
    ]),
  ).toEqual({ USD: '0.95', JPY: '7' })
})
