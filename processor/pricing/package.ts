/** The price model `package`: the period's total rounded up to whole packages, each at its amount. */
import type Fraction from 'fraction.js'
import Type from 'typebox'
import { exact } from '../../schemas/decimal.ts'
import { Amount, Money, moneyMisfits } from '../../schemas/pricebook.ts'
import { definePriceModel } from './model.ts'

export const packaged = definePriceModel({
  key: 'package',
  schema: Type.Object(
    {
      package: Type.Object(
        {
          size: Type.Unsafe<string | number>({ ...Amount, description: 'How much is in a package.' }),
          amount: Money,
        },
        { additionalProperties: false },
      ),
    },
    { additionalProperties: false },
  ),
  check: ({ package: { size, amount } }, { minorDigits }) => [
    ...(exact(String(size)).equals(0) ? [{ path: '/package/size', message: 'must be more than 0' }] : []),
    ...moneyMisfits(amount, minorDigits, '/package/amount'),
  ],
  metered: true,
  // The quantity stays what was used; how many packages that is follows from the price.
  rate: ({ package: { size, amount } }, { quantity, before }) => {
    if (quantity.equals(0)) return []
    const packages = (upTo: Fraction) => upTo.div(exact(String(size))).ceil()
    return [{ quantity, exact: packages(before.add(quantity)).sub(packages(before)).mul(exact(amount)) }]
  },
})
