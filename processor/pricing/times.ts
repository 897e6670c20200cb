/**
 * The modifier `times`: multiplies each piece of usage by the number that a dim of it holds, so that hours of an
 * instance with `memory: "256"` become GB-hours. Rafay's ratecards price by such numbers (`count_from`).
 */
import Type from 'typebox'
import { exact } from '../../schemas/decimal.ts'
import { Fault } from '../../schemas/fault.ts'
import { defineModifier } from './model.ts'

const numberShape = /^(0|[1-9]\d{0,23})(\.\d{1,12})?$/

export const times = defineModifier({
  key: 'times',
  schema: Type.Object(
    { dim: Type.String({ minLength: 1, maxLength: 256, description: 'The dim that holds the number.' }) },
    { additionalProperties: false },
  ),
  dims: ({ dim }) => [dim],
  pieces: (pieces, { dim }, { charge }) =>
    pieces.map(piece => {
      const factor = piece.dims[dim] ?? ''
      // A missing number is never taken for 0 or 1: one gives the usage away, the other misprices it.
      if (!numberShape.test(factor))
        throw new Fault(
          'WEIGHT_MISSING',
          `charge "${charge.id}" multiplies by dim "${dim}", which is ${factor === '' ? 'missing' : `"${factor}", no number,`} in some of its usage`,
          { charge: charge.id, dim, value: factor },
        )
      return { ...piece, quantity: piece.quantity.mul(exact(factor)) }
    }),
})
