/**
 * The modifier `times`: multiplies each piece of usage by the numbers that dims of it hold, so that hours of an
 * instance with `memory: "256"` become GB-hours. Rafay's ratecards price by such numbers (`count_from`).
 */
import Type from 'typebox'
import { exact } from '../../schemas/decimal.ts'
import { Fault } from '../../schemas/fault.ts'
import { defineModifier } from './model.ts'

const numberShape = /^(0|[1-9]\d{0,23})(\.\d{1,12})?$/

export const times = defineModifier({
  key: 'times',
  schema: Type.Array(Type.String({ minLength: 1, maxLength: 256 }), {
    minItems: 1,
    maxItems: 8,
    description: 'The dims whose numbers the quantity is multiplied by.',
  }),
  dims: dims => dims,
  pieces: (pieces, dims, { charge }) =>
    pieces.map(piece => {
      let quantity = piece.quantity
      for (const dim of dims) {
        const factor = piece.dims[dim] ?? ''
        // A missing number is never taken for 0 or 1: one gives the usage away, the other misprices it.
        if (!numberShape.test(factor))
          throw new Fault(
            'WEIGHT_MISSING',
            `charge "${charge.id}" multiplies by dim "${dim}", which is ${factor === '' ? 'missing' : `"${factor}", no number,`} in some of its usage`,
            { charge: charge.id, dim, value: factor },
          )
        quantity = quantity.mul(exact(factor))
      }
      return { ...piece, quantity }
    }),
})
