/** The price models and modifiers that there are: adding one is a file here and a line below. */
import type { Grammar } from '../../schemas/pricebook.ts'
import { by } from './by.ts'
import type { Modifier, PriceModel } from './model.ts'
import { times } from './times.ts'
import { unit } from './unit.ts'
import { weight } from './weight.ts'

export const priceModels: readonly PriceModel[] = [unit]

/** In the order in which they apply. */
export const modifiers: readonly Modifier[] = [weight, times, by]

/** What a price book is checked against when it is loaded. */
export const grammar: Grammar = { models: priceModels, modifiers, adjustments: [] }
