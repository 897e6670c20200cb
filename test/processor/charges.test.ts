/** Which charges take a piece of usage: as if each were asked in turn. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { chargeFinder } from '../../processor/charges.ts'
import type { Charge } from '../../schemas/pricebook.ts'

const dims = fc.dictionary(
  fc.constantFrom('gpu_type', 'plan', 'region', 'constructor'),
  fc.constantFrom('a', 'b', 'c'),
  {
    maxKeys: 3,
  },
)
const charges = fc.array(
  fc.record(
    { id: fc.string(), meter: fc.constantFrom('gpu', 'disk'), where: dims },
    { requiredKeys: ['id', 'where'] },
  ),
  { maxLength: 12 },
)

test('a charge takes usage of its meter whose dims equal every entry of its where', () => {
  fc.assert(
    fc.property(charges, fc.constantFrom('gpu', 'disk', 'net'), dims, (list, meter, held) => {
      const expected = list.flatMap((charge, place) =>
        charge.meter === meter &&
        Object.entries(charge.where).every(([dim, value]) => Object.hasOwn(held, dim) && held[dim] === value)
          ? [place]
          : [],
      )
      expect(chargeFinder(list as readonly Charge[])(meter, held)).toEqual(expected)
    }),
  )
})

test('an empty value is no value: a charge that names the dim does not take it', () => {
  const find = chargeFinder([
    { id: 'typed', meter: 'gpu', where: { gpu_type: 'H100' } },
    { id: 'any', meter: 'gpu' },
  ])
  expect(find('gpu', { gpu_type: '' })).toEqual([1])
  expect(find('gpu', {})).toEqual([1])
  expect(find('gpu', { gpu_type: 'H100' })).toEqual([0, 1])
})
