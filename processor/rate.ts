/**
 * Rates usage by a price book: exact rationals in, one rounding a line, and with each line the proof of what made
 * it. What a price or a modifier means is pricing/'s. Pure.
 */
import assert from 'node:assert/strict'
import Fraction from 'fraction.js'
import { canonicalJson } from '../schemas/canonical.ts'
import { exact, roundHalfAway, roundHalfEven, show } from '../schemas/decimal.ts'
import { Fault } from '../schemas/fault.ts'
import { byCodePoint } from '../schemas/order.ts'
import {
  type Book,
  bookHash,
  bookMinorDigits,
  type Charge,
  type DatedPrice,
  modelOf,
  type Price,
} from '../schemas/pricebook.ts'
import { hourMs, instantMs, secondMs, showInstant, type Window } from '../schemas/window.ts'
import { chargeFinder } from './charges.ts'
import { modifiers, priceModels } from './pricing/list.ts'
import type { Piece, RatingContext, Rounded } from './pricing/model.ts'

const zero = new Fraction(0)
const one = new Fraction(1)

/** A quantity of a meter. With neither `startMs` nor `endMs` it lies in the period as a whole. */
export interface UsageRecord {
  readonly meter: string
  readonly quantity: Fraction
  readonly dims: Readonly<Record<string, string>>
  readonly startMs?: number
  /** Without it a record that has a start lies in that instant. */
  readonly endMs?: number
  /** That many copies, each starting `everySeconds` after the last and lasting as long. */
  readonly repeat?: number
  readonly everySeconds?: number
  /** With `source` its identity: the same again is a duplicate, other content under it a conflict. */
  readonly id?: string
  readonly source?: string
}

/** What made a line: enough to make it again. */
export interface LineProof {
  readonly book: string | null
  readonly version: number | null
  readonly sha256: string
  readonly charge: string
  readonly meter: string | null
  readonly where: Readonly<Record<string, string>>
  /** Of the meter, before modifiers and `per`. */
  readonly metered: string | null
  readonly per: string
  readonly unit: string | null
  /** The charge's modifiers, as written. */
  readonly modifiers: Readonly<Record<string, unknown>>
  readonly price: Price
  readonly period_start: string
  readonly period_end: string
}

export interface RatedLine {
  readonly charge: string
  readonly quantity: Fraction | null
  /** Before rounding. */
  readonly exact: Fraction
  readonly amount: Fraction
  /** Where the charge is itemised: the values of its `by`. */
  readonly group?: Readonly<Record<string, string>>
  /** Where the charge has dated prices: the `from` of this one, as written. */
  readonly priceFrom?: string
  readonly proof: LineProof
}

/** Usage that no charge takes. */
export interface Unpriced {
  readonly meter: string
  readonly quantity: Fraction
  readonly dims: Readonly<Record<string, string>>
}

export interface Rated {
  readonly lines: readonly RatedLine[]
  readonly total: Fraction
  readonly currency: string
  readonly minorDigits: number
  /** Empty unless the book says `unpriced: report`. */
  readonly unpriced: readonly Unpriced[]
  readonly duplicates: number
  readonly conflicts: number
}

/**
 * The lines of one account for one period. Needs a checked book (`bookMisfits` empty).
 * @throws Fault UNPRICED | PRICE_AMBIGUOUS | WEIGHT_MISSING | CASE_INVALID
 */
export function rate({
  book,
  period,
  usage,
}: {
  readonly book: Book
  readonly period: Window
  readonly usage: readonly UsageRecord[]
}): Rated {
  assert(period.startMs < period.endMs, 'a period has a length')
  const { records, duplicates, conflicts } = distinct(usage)
  const lots = records.flatMap(record => lotsOf(record, period))
  const takenBy = takePieces(lots, book, period)

  const tally: Tally = { lots, taken: lots.map(() => zero), extra: new Set(), charged: zero }
  const pins: Pins = { sha256: bookHash(book), round: roundingOf(book) }
  const lines = book.charges.flatMap((charge, place) =>
    chargeLines(takenBy[place]!, tally, { book, charge, period }, pins),
  )
  const unpriced = unpricedOf(tally, metersWithBase(book))
  if (unpriced.length > 0 && book.unpriced !== 'report') throw unpricedFault(unpriced)

  const minorDigits = bookMinorDigits(book)
  const minorUnits = 10n ** BigInt(minorDigits)
  const total = sum(lines.map(line => line.amount))
  assert(
    lines.every(line => line.amount.mul(minorUnits).d === 1n) && total.mul(minorUnits).d === 1n,
    'amounts are whole minor units of the currency, and so is their total',
  )
  return { lines, total, currency: book.currency, minorDigits, unpriced, duplicates, conflicts }
}

/** A record as it lies in the period: what is accounted for at the end. */
interface Lot {
  readonly meter: string
  readonly dims: Readonly<Record<string, string>>
  readonly quantity: Fraction
  readonly span?: Window
}

/** What charges took of each lot so far. */
interface Tally {
  readonly lots: readonly Lot[]
  /** The share of each lot that charges took. Additive ones are kept apart: they take it a second time. */
  readonly taken: Fraction[]
  readonly extra: Set<number>
  charged: Fraction
}

interface Pins {
  readonly sha256: string
  readonly round: (value: Fraction) => Fraction
}

/** Drops what came twice. Of two contents under one identity the first counts. */
function distinct(usage: readonly UsageRecord[]): {
  readonly records: readonly UsageRecord[]
  readonly duplicates: number
  readonly conflicts: number
} {
  const contents = new Map<string, string>()
  const records: UsageRecord[] = []
  let duplicates = 0
  let conflicts = 0
  for (const record of usage) {
    if (record.id === undefined) {
      records.push(record)
      continue
    }
    const identity = JSON.stringify([record.source ?? '', record.id])
    const content = canonicalJson({ ...record, quantity: record.quantity.toFraction() })
    const first = contents.get(identity)
    if (first === undefined) {
      contents.set(identity, content)
      records.push(record)
    } else if (first === content) duplicates += 1
    else conflicts += 1
  }
  return { records, duplicates, conflicts }
}

/** The copies of a record, each cut to the period: usage beyond its edges is another period's. */
function lotsOf(record: UsageRecord, period: Window): readonly Lot[] {
  const { meter, dims, quantity, startMs, repeat = 1, everySeconds } = record
  if (startMs === undefined)
    return [{ meter, dims, quantity: repeat === 1 ? quantity : quantity.mul(repeat) }]
  const stepMs = (everySeconds ?? 0) * secondMs
  const lastingMs = everySeconds === undefined ? (record.endMs ?? startMs) - startMs : stepMs
  return Array.from({ length: repeat }, (_, copy) => {
    const span = { startMs: startMs + copy * stepMs, endMs: startMs + copy * stepMs + lastingMs }
    const inside = within(span, period)
    if (!inside)
      throw new Fault(
        'CASE_INVALID',
        `usage of "${meter}" at ${showInstant(span.startMs)} is not in the period`,
        {
          meter,
          start: showInstant(span.startMs),
        },
      )
    return { meter, dims, quantity: portion(quantity, shareOf(span, inside)), span: inside }
  })
}

/** For each charge the pieces it takes, before modifiers. A book version prices nothing before its `from`. */
function takePieces(lots: readonly Lot[], book: Book, period: Window): readonly (readonly Piece[])[] {
  const fromMs = book.from === undefined ? period.startMs : (instantMs(book.from) ?? period.startMs)
  const find = chargeFinder(book.charges)
  const takenBy: Piece[][] = book.charges.map(() => [])
  for (const [of, lot] of lots.entries()) {
    const places = find(lot.meter, lot.dims)
    if (places.length === 0) continue
    const whole: Piece = { of, dims: lot.dims, quantity: lot.quantity, share: one, ...spanned(lot.span) }
    const piece =
      fromMs <= period.startMs
        ? whole
        : cut(whole, { startMs: fromMs, endMs: period.endMs }, period, 'the book')
    if (piece) for (const place of places) takenBy[place]!.push(piece)
  }
  return takenBy
}

function chargeLines(
  taken: readonly Piece[],
  tally: Tally,
  context: RatingContext,
  pins: Pins,
): readonly RatedLine[] {
  const { charge, period } = context
  const pieces = modifiers.reduce(
    (held, modifier) =>
      charge[modifier.key] === undefined
        ? held
        : (modifier.pieces?.(held, charge[modifier.key], context) ?? held),
    taken,
  )
  const per = perOf(charge, period)
  const segments = segmentsOf(charge, pieces, period)
  const quantities = modifiers.reduce<readonly Fraction[]>(
    (held, modifier) =>
      charge[modifier.key] === undefined
        ? held
        : (modifier.quantities?.(held, charge[modifier.key], context) ?? held),
    segments.map(segment => sum(segment.pieces.map(piece => piece.quantity)).div(per)),
  )
  const total = sum(quantities)
  const lines: RatedLine[] = []
  let before = zero
  for (const [place, segment] of segments.entries()) {
    const metered = take(segment.pieces, charge, tally)
    const quantity = quantities[place]!
    const model = modelOf(segment.price, priceModels)
    assert(model, 'a checked book names a price model')
    const proof = proofOf(context, segment.price, model.metered ? show(metered) : null, per, pins.sha256)
    for (const part of model.rate(segment.price, { quantity, before, total }, context)) {
      const whole = { ...part, amount: pins.round(part.exact) }
      const items = splitLine(whole, segment.pieces, context)
      assert(sum(items.map(item => item.amount)).equals(whole.amount), 'the items of a line sum to it')
      for (const { suffix, ...item } of items)
        lines.push({
          ...item,
          charge: suffix === undefined ? charge.id : `${charge.id}.${suffix}`,
          ...(segment.from !== undefined && { priceFrom: segment.from }),
          proof,
        })
    }
    before = before.add(quantity)
  }
  return lines
}

function splitLine(line: Rounded, pieces: readonly Piece[], context: RatingContext): readonly Rounded[] {
  const { charge } = context
  return modifiers.reduce<readonly Rounded[]>(
    (lines, modifier) =>
      modifier.split && charge[modifier.key] !== undefined
        ? lines.flatMap(each => modifier.split!(each, pieces, charge[modifier.key], context))
        : lines,
    [line],
  )
}

interface Segment {
  readonly from?: string
  readonly price: Price
  readonly pieces: readonly Piece[]
}

/** One segment a price: what straddles a change of price is split by time. */
function segmentsOf(charge: Charge, pieces: readonly Piece[], period: Window): readonly Segment[] {
  if (charge.price !== undefined) return [{ price: charge.price, pieces }]
  return (charge.prices ?? []).flatMap(dated => {
    const span = within(
      { startMs: instantMs(dated.from)!, endMs: dated.to === null ? period.endMs : instantMs(dated.to)! },
      period,
    )
    if (!span) return []
    return [
      {
        from: dated.from,
        price: priceOf(dated),
        pieces: pieces.flatMap(piece => cut(piece, span, period, `charge "${charge.id}"`) ?? []),
      },
    ]
  })
}

function priceOf({ from: _from, to: _to, source: _source, ...price }: DatedPrice): Price {
  return price
}

/** The part of a piece that lies in the span; undefined where it has none there. */
function cut(piece: Piece, span: Window, period: Window, whose: string): Piece | undefined {
  if (span.startMs <= period.startMs && span.endMs >= period.endMs) return piece
  if (!within(span, period)) return undefined
  if (!piece.span) {
    throw new Fault(
      'CASE_INVALID',
      `${whose} prices only part of the period, and some of its usage has no start: it cannot be split by time`,
      {},
    )
  }
  const inside = within(piece.span, span)
  if (!inside) return undefined
  const share = shareOf(piece.span, inside)
  return {
    ...piece,
    span: inside,
    quantity: portion(piece.quantity, share),
    share: portion(piece.share, share),
  }
}

/** Notes what the charge takes, and gives how much that is in the meter's unit. */
function take(pieces: readonly Piece[], charge: Charge, tally: Tally): Fraction {
  const metered = sum(pieces.map(piece => portion(tally.lots[piece.of]!.quantity, piece.share)))
  for (const { of, share } of pieces)
    if (charge.additive) tally.extra.add(of)
    else tally.taken[of] = tally.taken[of] === zero ? share : tally.taken[of]!.add(share)
  if (!charge.additive) tally.charged = tally.charged.add(metered)
  return metered
}

/** The meters of charges that are not additive. */
function metersWithBase(book: Book): ReadonlySet<string> {
  return new Set(book.charges.flatMap(charge => (charge.additive ? [] : (charge.meter ?? []))))
}

/**
 * What no charge took. Nothing is taken twice, and what is charged and what is left make up what was given.
 * An additive charge comes on top of another: where its meter has such others, it alone is no price. A new type of
 * GPU that only the support fee takes is usage without a price.
 */
function unpricedOf(
  { lots, taken, extra, charged }: Tally,
  withBase: ReadonlySet<string>,
): readonly Unpriced[] {
  const left: (Unpriced & { readonly of: number })[] = []
  for (const [of, { meter, dims, quantity }] of lots.entries()) {
    const share = taken[of]!
    if (share === one) continue
    if (share.gt(1))
      throw new Fault(
        'PRICE_AMBIGUOUS',
        `two charges take the same usage of "${meter}" (${showDims(dims)})`,
        { meter, dims: showDims(dims) },
      )
    if (share.lt(1)) left.push({ of, meter, dims, quantity: portion(quantity, one.sub(share)) })
  }
  assert(
    charged.add(sum(left.map(rest => rest.quantity))).equals(sum(lots.map(lot => lot.quantity))),
    'every unit is charged once, or left over',
  )
  return left
    .filter(rest => !rest.quantity.equals(0) && (withBase.has(rest.meter) || !extra.has(rest.of)))
    .map(({ meter, dims, quantity }) => ({ meter, dims, quantity }))
}

function unpricedFault(unpriced: readonly Unpriced[]): Fault {
  const first = unpriced[0]!
  const others = unpriced.length > 1 ? `, and ${unpriced.length - 1} more` : ''
  return new Fault(
    'UNPRICED',
    `no charge takes ${show(first.quantity)} of "${first.meter}" (${showDims(first.dims)})${others}`,
    {
      meter: first.meter,
      dims: showDims(first.dims),
      quantity: show(first.quantity),
      records: unpriced.length,
    },
  )
}

function proofOf(
  { book, charge, period }: RatingContext,
  price: Price,
  metered: string | null,
  per: Fraction,
  sha256: string,
): LineProof {
  return {
    book: book.id ?? null,
    version: book.version ?? null,
    sha256,
    charge: charge.id,
    meter: charge.meter ?? null,
    where: charge.where ?? {},
    metered,
    per: show(per),
    unit: charge.unit ?? null,
    modifiers: Object.fromEntries(
      modifiers.flatMap(({ key }) => (charge[key] === undefined ? [] : [[key, charge[key]]])),
    ),
    price,
    period_start: showInstant(period.startMs),
    period_end: showInstant(period.endMs),
  }
}

/** `month_hours` is the real hours of the period: 743 in a March with summer time. */
function perOf(charge: Charge, period: Window): Fraction {
  if (charge.per === undefined) return one
  return charge.per === 'month_hours'
    ? new Fraction(period.endMs - period.startMs, hourMs)
    : exact(String(charge.per))
}

function roundingOf(book: Book): (value: Fraction) => Fraction {
  const minorDigits = bookMinorDigits(book)
  return book.rounding?.mode === 'half_even'
    ? value => roundHalfEven(value, minorDigits)
    : value => roundHalfAway(value, minorDigits)
}

/** The part of a span inside another, half-open. An instant is inside where it is not the end. */
function within(span: Window, outer: Window): Window | undefined {
  const startMs = Math.max(span.startMs, outer.startMs)
  const endMs = Math.min(span.endMs, outer.endMs)
  const instant = span.startMs === span.endMs
  return startMs < endMs || (instant && startMs === endMs && span.startMs < outer.endMs)
    ? { startMs, endMs }
    : undefined
}

function shareOf(whole: Window, inside: Window): Fraction {
  return whole.startMs === inside.startMs && whole.endMs === inside.endMs
    ? one
    : new Fraction(inside.endMs - inside.startMs, whole.endMs - whole.startMs)
}

/** Nearly all records are taken whole: those cost no arithmetic. */
function portion(value: Fraction, share: Fraction): Fraction {
  return share === one ? value : value.mul(share)
}

function spanned(span: Window | undefined): { readonly span?: Window } {
  return span ? { span } : {}
}

function sum(values: readonly Fraction[]): Fraction {
  return values.reduce((total, value) => total.add(value), zero)
}

/** `gpu_type=H100;plan=spot`: sorted, for people and for files. */
export function showDims(dims: Readonly<Record<string, string>>): string {
  return Object.entries(dims)
    .sort(([a], [b]) => byCodePoint(a, b))
    .map(([dim, value]) => `${escapeDim(dim)}=${escapeDim(value)}`)
    .join(';')
}

function escapeDim(text: string): string {
  return text.replace(/[\\;=]/g, '\\$&')
}
