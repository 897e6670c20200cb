/** The ports of pricing: a price model, and a modifier of a charge. One file each, listed in list.ts. Pure. */
import type Fraction from 'fraction.js'
import type { Static, TSchema } from 'typebox'
import type { Misfit } from '../../schemas/check.ts'
import type { Book, BookContext, Charge, GrammarWord } from '../../schemas/pricebook.ts'
import type { Window } from '../../schemas/window.ts'

/** What a charge takes of one usage record. */
export interface Piece {
  readonly dims: Readonly<Record<string, string>>
  /** In the meter's unit; modifiers change it. */
  readonly quantity: Fraction
  /** The time it lies in; undefined where its record has none and lies in the period as a whole. */
  readonly span?: Window
  /** Which of the records rated it is part of, and how much of it: what is taken is accounted for by these. */
  readonly of: number
  readonly share: Fraction
}

export interface RatingContext {
  readonly book: Book
  readonly charge: Charge
  readonly period: Window
}

/** What there is to price: after modifiers, divided by `per`. */
export interface Priced {
  readonly quantity: Fraction
  /** What the charge's earlier prices of the period took already: a tier's position carries over. */
  readonly before: Fraction
  /** What all of the charge's prices of the period take together. */
  readonly total: Fraction
}

/** A line before rounding. `suffix` is put behind the charge's id with a dot. */
export interface Part {
  readonly suffix?: string
  readonly quantity: Fraction | null
  readonly exact: Fraction
}

/** A part after rounding. */
export interface Rounded extends Part {
  readonly amount: Fraction
  readonly group?: Readonly<Record<string, string>>
}

/** How a price makes money of a quantity. Its key, in a price of the book, names it. */
export interface PriceModel<Schema extends TSchema = TSchema> extends GrammarWord {
  readonly schema: Schema
  check?(price: Static<Schema>, context: BookContext): readonly Misfit[]
  /** Does it price usage? If not, it takes no meter. */
  readonly metered: boolean
  /** No part, no line. A quantity of zero is given too: a model that bills nothing for it gives no part. */
  rate(price: Static<Schema>, priced: Priced, context: RatingContext): readonly Part[]
}

/** Stands beside the price of a charge under its own key. Modifiers apply in the order of their list. */
export interface Modifier<Schema extends TSchema = TSchema> extends GrammarWord {
  readonly schema: Schema
  check?(setting: Static<Schema>, context: BookContext): readonly Misfit[]
  /** Do two charges with these settings never take the same usage? */
  disjoint?(one: Static<Schema>, other: Static<Schema>): boolean
  /** The dims it reads, for the check against the catalogue. */
  dims?(setting: Static<Schema>): readonly string[]
  /** Changes or narrows what the charge takes, before `per`. */
  pieces?(pieces: readonly Piece[], setting: Static<Schema>, context: RatingContext): readonly Piece[]
  /** Changes the quantities after `per`, one a price of the period, in the order of time. */
  quantities?(
    quantities: readonly Fraction[],
    setting: Static<Schema>,
    context: RatingContext,
  ): readonly Fraction[]
  /** Splits a line, made of these pieces, into lines that sum to it. */
  split?(
    line: Rounded,
    pieces: readonly Piece[],
    setting: Static<Schema>,
    context: RatingContext,
  ): readonly Rounded[]
}

/** Keeps the types of one file together; the list forgets them again. */
export function definePriceModel<Schema extends TSchema>(model: PriceModel<Schema>): PriceModel<Schema> {
  return model
}

export function defineModifier<Schema extends TSchema>(modifier: Modifier<Schema>): Modifier<Schema> {
  return modifier
}
