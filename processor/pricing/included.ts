/** The modifier `included`: a quantity of the period that is not charged, taken off the total, not below zero. */
import Fraction from 'fraction.js'
import Type from 'typebox'
import { exact } from '../../schemas/decimal.ts'
import { Amount } from '../../schemas/pricebook.ts'
import { defineModifier } from './model.ts'

export const included = defineModifier({
  key: 'included',
  schema: Type.Unsafe<string | number>({ ...Amount, description: 'In the unit of the charge, after `per`.' }),
  // Where prices change within the period, what is included is used up by what comes first.
  quantities: (quantities, setting) => {
    let left = exact(String(setting))
    return quantities.map(quantity => {
      const free = quantity.lt(left) ? quantity : left
      if (free.lte(0)) return quantity
      left = left.sub(free)
      return quantity.equals(free) ? new Fraction(0) : quantity.sub(free)
    })
  },
})
