/** The price models and modifiers that there are: adding one is a file here and a line below. */
import type { Grammar } from '../../schemas/pricebook.ts'
import { by } from './by.ts'
import { graduated } from './graduated.ts'
import { included } from './included.ts'
import type { Modifier, PriceModel } from './model.ts'
import { packaged } from './package.ts'
import { times } from './times.ts'
import { unit } from './unit.ts'
import { volume } from './volume.ts'
import { weight } from './weight.ts'

export const priceModels: readonly PriceModel[] = [unit, graduated, volume, packaged]

/** In the order in which they apply. */
export const modifiers: readonly Modifier[] = [weight, times, included, by]

/** What a price book is checked against when it is loaded. */
export const grammar: Grammar = { models: priceModels, modifiers, adjustments: [] }
