/**
 * The modifier `by`: itemises a line over the values of dims. The line is rounded once as a whole and then split by
 * largest remainder, so that its items always sum to it.
 */
import Fraction from 'fraction.js'
import Type from 'typebox'
import { byCodePoint } from '../../schemas/order.ts'
import { bookMinorDigits } from '../../schemas/pricebook.ts'
import { defineModifier, type Piece } from './model.ts'

export const by = defineModifier({
  key: 'by',
  schema: Type.Array(Type.String({ minLength: 1, maxLength: 256 }), {
    minItems: 1,
    maxItems: 8,
    uniqueItems: true,
    description: 'The dims over whose values the line is split.',
  }),
  dims: dims => dims,
  split: (line, pieces, dims, { book }) => {
    const groups = groupsOf(pieces, dims)
    const total = groups.reduce((sum, { quantity }) => sum.add(quantity), new Fraction(0))
    if (line.quantity === null || total.equals(0)) return [line]
    const shares = groups.map(({ quantity }) => quantity.div(total))
    const amounts = largestRemainder({
      total: line.amount,
      parts: shares.map(share => line.exact.mul(share)),
      minorDigits: bookMinorDigits(book),
    })
    return groups.map(({ group }, place) => ({
      ...line,
      group,
      quantity: line.quantity!.mul(shares[place]!),
      exact: line.exact.mul(shares[place]!),
      amount: amounts[place]!,
    }))
  },
})

interface Group {
  readonly group: Readonly<Record<string, string>>
  readonly key: readonly string[]
  readonly quantity: Fraction
}

/** In the order of their keys. Usage without the dim is a group of its own, of the empty value. */
function groupsOf(pieces: readonly Piece[], dims: readonly string[]): readonly Group[] {
  const groups = new Map<string, Group>()
  for (const piece of pieces) {
    const key = dims.map(dim => piece.dims[dim] ?? '')
    const name = JSON.stringify(key)
    const held = groups.get(name)
    groups.set(name, {
      key,
      group: Object.fromEntries(dims.map((dim, place) => [dim, key[place]!])),
      quantity: held ? held.quantity.add(piece.quantity) : piece.quantity,
    })
  }
  return [...groups.values()].filter(({ quantity }) => !quantity.equals(0)).sort(byKey)
}

function byKey(a: Group, b: Group): number {
  for (const [place, text] of a.key.entries()) {
    const order = byCodePoint(text, b.key[place]!)
    if (order !== 0) return order
  }
  return 0
}

/**
 * Whole minor units that sum to the total exactly, each less than one from its part: all are rounded down, then
 * those with the largest remainders are given the units that are left, ties in their order.
 */
export function largestRemainder({
  total,
  parts,
  minorDigits,
}: {
  readonly total: Fraction
  readonly parts: readonly Fraction[]
  readonly minorDigits: number
}): readonly Fraction[] {
  const scale = 10n ** BigInt(minorDigits)
  const units = parts.map(part => part.mul(scale).floor())
  const remainders = parts.map((part, place) => part.mul(scale).sub(units[place]!))
  const left = Number(units.reduce((rest, unit) => rest.sub(unit), total.mul(scale)).valueOf())
  const lifted = new Set(
    remainders
      .map((remainder, place) => ({ remainder, place }))
      .sort((a, b) => b.remainder.compare(a.remainder) || a.place - b.place)
      .slice(0, left)
      .map(({ place }) => place),
  )
  return units.map((unit, place) => unit.add(lifted.has(place) ? 1 : 0).div(scale))
}
