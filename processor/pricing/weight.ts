/**
 * The modifier `weight`: multiplies each piece of usage by the exact rational that a table gives for the value of a
 * dim, so that an hour of a 3g slice is 3/7 of a GPU-hour.
 */
import Type from 'typebox'
import { exact } from '../../schemas/decimal.ts'
import { Fault } from '../../schemas/fault.ts'
import { WeightTable } from '../../schemas/pricebook.ts'
import { defineModifier } from './model.ts'

export const weight = defineModifier({
  key: 'weight',
  schema: Type.Object(
    {
      dim: Type.String({ minLength: 1, maxLength: 256 }),
      table: Type.Union([Type.String({ description: "One of the book's `weights`." }), WeightTable]),
    },
    { additionalProperties: false },
  ),
  dims: ({ dim }) => [dim],
  check: ({ table }, { book }) =>
    typeof table !== 'string' || (book.weights && Object.hasOwn(book.weights, table))
      ? []
      : [{ path: '/table', message: `the book has no weights "${table}"` }],
  pieces: (pieces, { dim, table: named }, { book, charge }) => {
    const table = typeof named === 'string' ? (book.weights?.[named] ?? {}) : named
    return pieces.map(piece => {
      const value = piece.dims[dim] ?? ''
      const factor = Object.hasOwn(table, value) ? table[value] : undefined
      if (factor === undefined)
        throw new Fault(
          'WEIGHT_MISSING',
          `charge "${charge.id}" has no weight for ${dim} ${value === '' ? 'that is missing' : `"${value}"`}`,
          { charge: charge.id, dim, value },
        )
      return { ...piece, quantity: piece.quantity.mul(exact(factor)) }
    })
  },
})
