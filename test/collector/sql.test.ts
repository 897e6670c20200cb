/** Rows into usages: exact sums, in any order of rows, and no value taken for what it is not. */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { expect, test } from 'vitest'
import { ResourceSums, type SqlQuery, type SqlValue, scaledOf, usageOfSql } from '../../collector/sql.ts'
import { show } from '../../schemas/decimal.ts'
import type { Usage } from '../../schemas/event.ts'
import { Fault } from '../../schemas/fault.ts'
import { faultOf } from '../faults.ts'

const query: SqlQuery = {
  name: 'q',
  sql: 'select :start, :end',
  thing: 'usage',
  subject: 'tenant',
  resource: { kind: 'vm', id: 'vm', name: 'called' },
  measures: { gpu_seconds: 'seconds' },
  labels: { gpu_type: 'gpu' },
  time: 'at',
}
const columns = ['tenant', 'vm', 'called', 'seconds', 'gpu', 'at']
const window = { startMs: Date.UTC(2026, 1, 12, 8), endMs: Date.UTC(2026, 1, 12, 9) }
const noon = '2026-02-12T08:00:00Z'

const usagesOf = (rows: readonly (readonly SqlValue[])[]) => {
  const sums = new ResourceSums(query, window, columns)
  for (const row of rows) sums.add(row)
  return [...sums.items()].map(item => {
    try {
      return usageOfSql(item)
    } catch (error) {
      return error as Fault
    }
  })
}

test.each([
  ['0', 0n, 0],
  ['-0.00', 0n, 0],
  ['12.50', 125n, 1],
  ['+1.', 1n, 0],
  ['1e3', 1000n, 0],
  ['1.5E-3', 15n, 4],
  ['9'.repeat(38), 10n ** 38n - 1n, 0],
])('%s is read digit for digit', (text, units, places) => {
  expect(scaledOf(text)).toEqual({ units, places })
})

test.each(['', ' 1', 'NaN', 'Infinity', '1,5', '0x10', '$1.00', '1e9999', '.5', '01:00:00', '1'.repeat(401)])(
  '"%s" is no quantity',
  text => {
    expect(scaledOf(text)).toBeUndefined()
  },
)

test.each([
  ['2026-02-12 08:59:59.999999+00', true],
  ['2026-02-12 09:00:00+00', false],
  ['2026-02-12 07:59:59.999999+00', false],
  ['2026-02-12 14:29:59.999999+05:30', true],
  ['2026-02-12 14:30:00+0530', false],
  ['2026-02-12T08:00:00.000000001Z', true],
  ['2026-02-12 08:30:00', true],
])('%s is in the hour of eight: %s', (at, isInside) => {
  const add = () => usagesOf([['t', 'a', null, '1', 'x', at]])
  if (isInside) expect(add()).toMatchObject([{ subject: 't' }])
  else expect(faultOf(add).code).toBe('SOURCE_REFUSED')
})

test.each([
  ['infinity', /at is "infinity", no time/],
  ['2026-02-30 08:00:00+00', /no time/],
  ['0044-03-15 08:00:00+00 BC', /no time/],
  [null, /at is NULL, no time/],
])('%s is no time', (at, why) => {
  const [said] = usagesOf([['t', 'a', null, '1', 'x', at]])
  expect(said).toBeInstanceOf(Fault)
  expect((said as Fault).message).toMatch(why)
})

test.each([
  ['a subject of control characters', ['t\n', 'a', null, '1', 'x', noon], undefined],
  ['a subject that is too long', ['t'.repeat(513), 'a', null, '1', 'x', noon], undefined],
  ['an empty id', ['t', '', null, '1', 'x', noon], 't'],
  ['a list for a label', ['t', 'a', null, '1', undefined, noon], 't'],
  ['a label that is too long', ['t', 'a', null, '1', 'x'.repeat(4097), noon], 't'],
])('%s makes the row a gap', (_, row, subject) => {
  const [said] = usagesOf([row])
  expect(said).toMatchObject({ code: 'ITEM_UNREADABLE' })
  expect((said as Fault).facts.subject).toBe(subject)
})

test('one bad row spoils its resource, not half of it, whichever comes first', () => {
  const good = ['t', 'a', null, '1', 'x', noon]
  const bad = ['t', 'a', null, 'NaN', 'x', noon]
  const other = ['t', 'b', null, '2', 'x', noon]
  for (const rows of [
    [good, bad, other],
    [bad, good, other],
    [other, good, good, bad],
  ]) {
    const said = usagesOf(rows)
    expect(said.filter(each => each instanceof Fault)).toHaveLength(1)
    expect(said.filter(each => !(each instanceof Fault))).toMatchObject([{ measures: { gpu_seconds: '2' } }])
  }
})

test('rows in any order make the same usages, and their sums are exact', () => {
  const row = fc.record({
    tenant: fc.constantFrom('t', 'u', 'a","b'),
    vm: fc.constantFrom('a', 'b', '","'),
    called: fc.constantFrom('one', 'two', null),
    units: fc.bigInt({ min: -(10n ** 18n), max: 10n ** 20n }),
    places: fc.integer({ min: 0, max: 12 }),
  })
  fc.assert(
    fc.property(fc.array(row, { maxLength: 30 }), fc.infiniteStream(fc.nat()), (rows, chance) => {
      const quantity = (each: (typeof rows)[number]) => new Fraction(each.units, 10n ** BigInt(each.places))
      const asRow = (each: (typeof rows)[number]) => [
        each.tenant,
        each.vm,
        each.called,
        show(quantity(each)),
        'x',
        noon,
      ]
      const plain = (said: ReturnType<typeof usagesOf>) =>
        said.map(each => (each instanceof Fault ? each.message : JSON.stringify(each))).sort()
      const shuffled = rows
        .map(each => [chance.next().value ?? 0, each] as const)
        .sort(([a], [b]) => a - b)
        .map(([, each]) => each)
      expect(plain(usagesOf(shuffled.map(asRow)))).toEqual(plain(usagesOf(rows.map(asRow))))
      const expected = new Map<string, Fraction>()
      for (const each of rows) {
        const key = JSON.stringify([each.tenant, each.vm])
        expected.set(key, (expected.get(key) ?? new Fraction(0)).add(quantity(each)))
      }
      const usages = usagesOf(rows.map(asRow)).filter((each): each is Usage => !(each instanceof Fault))
      expect(usages).toHaveLength([...expected.values()].filter(sum => sum.s >= 0n).length)
      for (const { subject, resource, measures } of usages)
        expect(measures.gpu_seconds).toBe(show(expected.get(JSON.stringify([subject, resource.id]))!))
    }),
    { numRuns: 300 },
  )
})
