/** The price model `volume`: all of the quantity at the price of the tier that the period's total reaches. */
import Type from 'typebox'
import { exact } from '../../schemas/decimal.ts'
import { definePriceModel } from './model.ts'
import { edgeOf, Tiers, tierMisfits } from './tiers.ts'

export const volume = definePriceModel({
  key: 'volume',
  schema: Type.Object({ volume: Tiers }, { additionalProperties: false }),
  check: ({ volume: tiers }) => tierMisfits(tiers, '/volume'),
  metered: true,
  rate: ({ volume: tiers }, { quantity, total }) => {
    if (quantity.equals(0)) return []
    const reached = tiers.find(tier => edgeOf(tier)?.gte(total) ?? true) ?? tiers.at(-1)!
    return [{ quantity, exact: quantity.mul(exact(reached.unit)) }]
  },
})
