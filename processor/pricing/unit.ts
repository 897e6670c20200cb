/** The price model `unit`: quantity times price. */
import Type from 'typebox'
import { exact } from '../../schemas/decimal.ts'
import { Money } from '../../schemas/pricebook.ts'
import { definePriceModel } from './model.ts'

export const unit = definePriceModel({
  key: 'unit',
  schema: Type.Object({ unit: Money }, { additionalProperties: false }),
  metered: true,
  rate: (price, { quantity }) =>
    quantity.equals(0) ? [] : [{ quantity, exact: quantity.mul(exact(price.unit)) }],
})
