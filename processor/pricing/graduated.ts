/** The price model `graduated`: each tier's part of the quantity at the tier's own price. */
import Fraction from 'fraction.js'
import Type from 'typebox'
import { exact } from '../../schemas/decimal.ts'
import { definePriceModel } from './model.ts'
import { edgeOf, Tiers, tierMisfits } from './tiers.ts'

export const graduated = definePriceModel({
  key: 'graduated',
  schema: Type.Object({ graduated: Tiers }, { additionalProperties: false }),
  check: ({ graduated: tiers }) => tierMisfits(tiers, '/graduated'),
  metered: true,
  rate: ({ graduated: tiers }, { quantity, before }) =>
    quantity.equals(0)
      ? []
      : [{ quantity, exact: costUpTo(tiers, before.add(quantity)).sub(costUpTo(tiers, before)) }],
})

/** What the quantity costs from the first unit on. Below zero, a correction, the first tier's price holds. */
function costUpTo(tiers: Tiers, quantity: Fraction): Fraction {
  let cost = new Fraction(0)
  let floor = new Fraction(0)
  for (const tier of tiers) {
    const edge = edgeOf(tier)
    const ceiling = edge?.lt(quantity) ? edge : quantity
    cost = cost.add(ceiling.sub(floor).mul(exact(tier.unit)))
    if (ceiling === quantity) return cost
    floor = ceiling
  }
  return cost
}
