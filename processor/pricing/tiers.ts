/** The tiers that graduated and volume prices share: their grammar, and that they rise and end open. */
import type Fraction from 'fraction.js'
import Type, { type Static } from 'typebox'
import type { Misfit } from '../../schemas/check.ts'
import { exact } from '../../schemas/decimal.ts'
import { Amount, Money } from '../../schemas/pricebook.ts'

export const Tiers = Type.Array(
  Type.Object(
    {
      upTo: Type.Unsafe<string | number | null>({
        ...Amount,
        type: ['string', 'integer', 'null'],
        description: 'The last quantity of the tier, inclusive; null in the last tier.',
      }),
      unit: Money,
    },
    { additionalProperties: false },
  ),
  { minItems: 1, maxItems: 1000 },
)
export type Tiers = Static<typeof Tiers>

/** A tier has no `from`, so tiers can neither overlap nor leave a gap. */
export function tierMisfits(tiers: Tiers, path: string): readonly Misfit[] {
  const found: Misfit[] = []
  for (const [place, { upTo }] of tiers.entries()) {
    const isLast = place === tiers.length - 1
    const at = `${path}/${place}/upTo`
    const before = tiers[place - 1]?.upTo
    if (isLast !== (upTo === null))
      found.push({
        path: at,
        message: isLast ? 'must be null: the last tier is open' : 'is null before the last tier',
      })
    else if (upTo !== null && place > 0 && before !== null && !edge(upTo).gt(edge(before!)))
      found.push({ path: at, message: 'must be more than that of the tier before' })
    else if (upTo !== null && place === 0 && edge(upTo).equals(0))
      found.push({ path: at, message: 'must be more than 0' })
  }
  return found
}

/** The upper edge of a tier; undefined where it is open. */
export function edgeOf({ upTo }: Tiers[number]): Fraction | undefined {
  return upTo === null ? undefined : edge(upTo)
}

function edge(upTo: string | number): Fraction {
  return exact(String(upTo))
}
