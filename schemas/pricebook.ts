/**
 * The price book: the frame of its grammar, the checks made when one is loaded, and its hash. What a price model or
 * modifier means is processor/pricing's; the list of them comes in as an argument. Pure.
 */
import { hash } from 'node:crypto'
import Type, { type Static, type TSchema } from 'typebox'
import { canonicalJson } from './canonical.ts'
import { type Misfit, misfits, pointerPart } from './check.ts'
import { minorDigitsOf } from './currency.ts'
import type { Meter } from './meters.ts'
import { instantMs, isZone } from './window.ts'

/** Money, and prices, which may have more decimals than the currency: text always, never a JSON number. */
export const Money = Type.String({
  pattern: '^(0|[1-9][0-9]{0,23})(\\.[0-9]{1,24})?$',
  description: 'A decimal in quotes, such as "2.99".',
})

/** A quantity that a book names, as text or as a JSON integer: both are exact. */
export const Amount = {
  type: ['string', 'integer'],
  pattern: '^(0|[1-9][0-9]{0,23})(\\.[0-9]{1,12})?$',
  minimum: 0,
} as const

const Name = Type.String({ pattern: '^[^\\u0000-\\u001f\\u007f]{1,256}$' })
const Dim = Type.String({ pattern: '^[^\\u0000-\\u001f\\u007f]{1,256}$' })

/** Dims and the values they must have. An empty value is none, and matches nothing. */
export const Where = Type.Record(Dim, Type.String({ minLength: 1, maxLength: 4096 }), {
  description: 'The charge takes usage whose dims equal every entry.',
})

/** Exact rationals by the value of a dim: `3g.40gb: 3/7`. */
export const WeightTable = Type.Record(
  Type.String(),
  Type.String({ pattern: '^(0|[1-9][0-9]{0,23})(\\.[0-9]{1,24})?(/[1-9][0-9]{0,17})?$' }),
)

/** `2.99` a unit, tiers, a flat fee …: which is told by its key; each model holds its own schema. */
const Price = Type.Record(Type.String(), Type.Unknown(), { minProperties: 1 })
export type Price = Static<typeof Price>

const DatedPrice = Type.Object({
  from: Type.String(),
  to: Type.Unsafe<string | null>({ type: ['string', 'null'] }),
  source: Type.Optional(Type.String({ maxLength: 256, description: 'Where this price comes from.' })),
})
/** A price and the half-open span in which it holds; the model's key stands beside `from` and `to`. */
export type DatedPrice = Static<typeof DatedPrice> & { readonly [model: string]: unknown }

const ChargeFrame = Type.Object({
  id: Name,
  meter: Type.Optional(
    Type.String({ minLength: 1, maxLength: 64, description: 'The meter whose usage it takes.' }),
  ),
  where: Type.Optional(Where),
  per: Type.Optional(
    Type.Unsafe<string | number>({
      type: ['string', 'integer'],
      pattern: '^(month_hours|[1-9][0-9]{0,17}(/[1-9][0-9]{0,17})?)$',
      minimum: 1,
      description:
        'Divides the quantity: 3600 makes hours of seconds, 1/60 minutes of hours, month_hours the real hours of the period.',
    }),
  ),
  unit: Type.Optional(
    Type.String({ minLength: 1, maxLength: 256, description: 'What the divided quantity counts.' }),
  ),
  price: Type.Optional(Price),
  prices: Type.Optional(Type.Array(DatedPrice, { minItems: 1, maxItems: 1000 })),
  additive: Type.Optional(
    Type.Boolean({
      description: 'Comes on top of another charge that takes the same usage, and alone is no price of it.',
    }),
  ),
})

/** One charge. Modifiers stand beside the named keys, each under its own. */
export type Charge = Readonly<Omit<Static<typeof ChargeFrame>, 'prices'>> & {
  readonly prices?: readonly DatedPrice[]
} & { readonly [modifier: string]: unknown }

const AdjustFrame = Type.Object({ id: Name })

export const BookFrame = Type.Object(
  {
    apiVersion: Type.Optional(Type.Literal('pricebook/v1')),
    id: Type.Optional(Name),
    version: Type.Optional(Type.Integer({ minimum: 1 })),
    from: Type.Optional(Type.String({ description: 'The book prices nothing before this instant.' })),
    currency: Type.String({ description: 'ISO 4217.' }),
    timezone: Type.Optional(Type.String({ description: 'IANA name; of periods and times of day.' })),
    rounding: Type.Optional(
      Type.Object(
        {
          at: Type.Optional(Type.Literal('line')),
          mode: Type.Optional(
            Type.Enum(['half_up', 'half_even'] as const, { description: 'half_up is half away from zero.' }),
          ),
        },
        { additionalProperties: false },
      ),
    ),
    unpriced: Type.Optional(
      Type.Enum(['error', 'report'] as const, { description: 'What usage is that no charge takes.' }),
    ),
    weights: Type.Optional(Type.Record(Name, WeightTable)),
    charges: Type.Array(ChargeFrame, { maxItems: 100_000 }),
    adjust: Type.Optional(Type.Array(AdjustFrame, { maxItems: 1000 })),
    overrides: Type.Optional(Type.Array(Type.Unknown(), { maxItems: 100_000 })),
  },
  { additionalProperties: false },
)
/** A checked price book, as written: no defaults are filled in, so its hash is that of what was written. */
export type Book = Readonly<Omit<Static<typeof BookFrame>, 'charges'>> & {
  readonly charges: readonly Charge[]
}

/** The words of the whole grammar. One that no list has yet is refused by name, never silently passed over. */
const grammarWords = {
  price: ['unit', 'graduated', 'volume', 'package', 'flat', 'percent', 'reserve'],
  modifier: ['increment', 'weight', 'times', 'when', 'included', 'by', 'min', 'max', 'active'],
  adjust: ['discount', 'commit', 'credit', 'tax', 'tender', 'active'],
} as const

/** What a check may need to know of the book around a setting. */
export interface BookContext {
  readonly book: Book
  readonly minorDigits: number
}

/** A word that a file of processor/pricing gives meaning to: its key, its schema, and what a schema cannot say. */
export interface GrammarWord {
  readonly key: string
  /** Of the setting under the key; for a price model, of the whole price object. */
  readonly schema: TSchema
  /** What a schema cannot say; asked only where the schema fits. */
  check?(setting: unknown, context: BookContext): readonly Misfit[]
}

export interface Grammar {
  readonly models: readonly (GrammarWord & { readonly metered: boolean })[]
  readonly modifiers: readonly (GrammarWord & {
    /** Do two charges with these settings never take the same usage? */
    disjoint?(one: unknown, other: unknown): boolean
    /** The dims that a setting reads. */
    dims?(setting: unknown): readonly string[]
  })[]
  readonly adjustments: readonly GrammarWord[]
}

/** sha256 of the book's canonical JSON: what every line pins. */
export function bookHash(book: Book): string {
  return hash('sha256', canonicalJson(book), 'hex')
}

/** An amount that is billed as it stands has no more decimals than the currency. */
export function moneyMisfits(amount: string, minorDigits: number, path: string): readonly Misfit[] {
  const decimals = amount.split('.')[1]?.length ?? 0
  return decimals > minorDigits
    ? [{ path, message: `has ${decimals} decimals, and the currency ${minorDigits}` }]
    : []
}

/** How many decimals the book's amounts have. */
export function bookMinorDigits(book: Book): number {
  return minorDigitsOf(book.currency) ?? 2
}

/** The meters a book prices. */
export function bookMeters(book: Book): ReadonlySet<string> {
  return new Set(book.charges.flatMap(charge => charge.meter ?? []))
}

/** The price model's key of a price, by the grammar. */
export function modelOf<Model extends GrammarWord>(
  price: Readonly<Record<string, unknown>>,
  models: readonly Model[],
): Model | undefined {
  return models.find(model => Object.hasOwn(price, model.key))
}

/** Every misfit of a would-be book, none when it is a `Book`. Paths are JSON pointers into it. */
export function bookMisfits(value: unknown, grammar: Grammar): readonly Misfit[] {
  const found: Misfit[] = misfits(BookFrame, value).map(misfit => friendly(misfit, value))
  if (!isRecord(value) || !Array.isArray(value.charges)) return found
  const brokenAt = new Set(found.map(misfit => /^\/(charges|adjust)\/\d+/.exec(misfit.path)?.[0]))
  const book = value as unknown as Book
  found.push(...headMisfits(book))
  const context: BookContext = { book, minorDigits: minorDigitsOf(book.currency) ?? 2 }
  const whole: { charge: Charge; path: string }[] = []
  for (const [index, charge] of book.charges.entries()) {
    const path = `/charges/${index}`
    if (brokenAt.has(path)) continue
    whole.push({ charge, path })
    found.push(...chargeMisfits(charge, path, grammar, context))
  }
  for (const [index, entry] of (Array.isArray(book.adjust) ? book.adjust : []).entries()) {
    const path = `/adjust/${index}`
    if (!brokenAt.has(path)) found.push(...adjustMisfits(entry, path, grammar, context))
  }
  return [...found, ...idMisfits(value), ...overlapMisfits(whole, grammar)]
}

/** Holds a book against the catalogue: its meters, and the dims it selects by, must be there. */
export function bookMeterMisfits(
  book: Book,
  { meters, grammar }: { readonly meters: readonly Meter[]; readonly grammar: Grammar },
): readonly Misfit[] {
  const bySlug = new Map(meters.map(meter => [meter.slug, meter]))
  return book.charges.flatMap((charge, index) => {
    if (charge.meter === undefined) return []
    const path = `/charges/${index}`
    const meter = bySlug.get(charge.meter)
    if (!meter) return [misfitOfCharge(charge, `${path}/meter`, `there is no meter "${charge.meter}"`)]
    const read = [
      ...Object.keys(charge.where ?? {}).map(dim => ({ dim, at: `/where/${pointerPart(dim)}` })),
      ...grammar.modifiers.flatMap(modifier =>
        charge[modifier.key] === undefined
          ? []
          : (modifier.dims?.(charge[modifier.key]) ?? []).map(dim => ({ dim, at: `/${modifier.key}` })),
      ),
    ]
    return read
      .filter(({ dim }) => !Object.hasOwn(meter.groupBy, dim))
      .map(({ dim, at }) => misfitOfCharge(charge, path + at, `meter "${meter.slug}" has no dim "${dim}"`))
  })
}

function headMisfits(book: Book): readonly Misfit[] {
  const found: Misfit[] = []
  if (typeof book.currency === 'string' && minorDigitsOf(book.currency) === undefined)
    found.push({ path: '/currency', message: `"${book.currency}" is no currency of ISO 4217` })
  if (typeof book.timezone === 'string' && !isZone(book.timezone))
    found.push({ path: '/timezone', message: `"${book.timezone}" is no IANA time zone` })
  if (typeof book.from === 'string' && instantMs(book.from) === undefined)
    found.push({ path: '/from', message: `"${book.from}" is not an RFC 3339 time` })
  if (Array.isArray(book.overrides) && book.overrides.length > 0)
    found.push({ path: '/overrides', message: 'overrides are not built yet' })
  return found
}

function chargeMisfits(
  charge: Charge,
  path: string,
  grammar: Grammar,
  context: BookContext,
): readonly Misfit[] {
  const found: Misfit[] = []
  const say = (at: string, message: string) => found.push(misfitOfCharge(charge, `${path}${at}`, message))

  for (const key of Object.keys(charge)) {
    if (Object.hasOwn(ChargeFrame.properties, key)) continue
    const word = grammar.modifiers.find(modifier => modifier.key === key)
    if (word) {
      const setting = charge[key]
      for (const misfit of settingMisfits(word, setting, context))
        say(`/${key}${misfit.path}`, misfit.message)
    } else if ((grammarWords.modifier as readonly string[]).includes(key))
      say(`/${key}`, `"${key}" is not built yet`)
    else say(`/${pointerPart(key)}`, 'is not known here')
  }

  const prices = [
    ...(charge.price ? [{ price: charge.price, at: '/price' }] : []),
    ...(charge.prices ?? []).map((dated, index) => ({ price: withoutSpan(dated), at: `/prices/${index}` })),
  ]
  if ((charge.price === undefined) === (charge.prices === undefined))
    say('', 'has either `price` or `prices`')
  for (const misfit of spanMisfits(charge.prices ?? [])) say(`/prices${misfit.path}`, misfit.message)

  const models = new Set<string>()
  for (const { price, at } of prices) {
    const model = modelOf(price, grammar.models)
    if (!model) {
      const known = grammarWords.price.find(word => Object.hasOwn(price, word))
      say(
        at,
        known
          ? `price model "${known}" is not built yet`
          : `names no price model: one of ${grammar.models.map(word => word.key).join(', ')}`,
      )
      continue
    }
    models.add(model.key)
    for (const misfit of settingMisfits(model, price, context)) say(at + misfit.path, misfit.message)
    if (model.metered && charge.meter === undefined) say('/meter', `is missing: "${model.key}" prices usage`)
    if (!model.metered)
      for (const key of ['meter', 'where', 'per', 'prices'] as const)
        if (charge[key] !== undefined) say(`/${key}`, `"${model.key}" prices no usage`)
  }
  if (models.size > 1) say('/prices', `are of one model, not of ${[...models].join(' and ')}`)
  return found
}

function adjustMisfits(
  entry: Readonly<Record<string, unknown>>,
  path: string,
  grammar: Grammar,
  context: BookContext,
): readonly Misfit[] {
  const found: Misfit[] = []
  const say = (at: string, message: string) =>
    found.push({ path: path + at, message: `adjustment "${String(entry.id)}": ${message}` })
  for (const [key, setting] of Object.entries(entry)) {
    if (key === 'id') continue
    const word = grammar.adjustments.find(adjustment => adjustment.key === key)
    if (word)
      for (const misfit of settingMisfits(word, setting, context))
        say(`/${key}${misfit.path}`, misfit.message)
    else if ((grammarWords.adjust as readonly string[]).includes(key))
      say(`/${key}`, `"${key}" is not built yet`)
    else say(`/${pointerPart(key)}`, 'is not known here')
  }
  const does = grammarWords.adjust.filter(word => word !== 'active' && Object.hasOwn(entry, word))
  if (does.length !== 1) say('', 'does exactly one thing')
  return found
}

function settingMisfits(word: GrammarWord, setting: unknown, context: BookContext): readonly Misfit[] {
  const found = misfits(word.schema, setting).map(misfit => friendly(misfit, setting))
  return found.length > 0 ? found : (word.check?.(setting, context) ?? [])
}

/** Dated prices are contiguous: each begins where the last ends, and only the last may be open. */
function spanMisfits(prices: readonly DatedPrice[]): readonly Misfit[] {
  const found: Misfit[] = []
  for (const [index, { from, to }] of prices.entries()) {
    const fromMs = instantMs(from)
    const toMs = to === null ? Number.POSITIVE_INFINITY : instantMs(to)
    if (fromMs === undefined) found.push({ path: `/${index}/from`, message: 'is not an RFC 3339 time' })
    if (toMs === undefined) found.push({ path: `/${index}/to`, message: 'is not an RFC 3339 time' })
    if (fromMs === undefined || toMs === undefined) continue
    if (fromMs >= toMs) found.push({ path: `/${index}/to`, message: 'must be after `from`' })
    const next = prices[index + 1]
    if (next && instantMs(next.from) !== toMs)
      found.push({ path: `/${index + 1}/from`, message: 'must be where the price before it ends' })
  }
  return found
}

function idMisfits(book: Readonly<Record<string, unknown>>): readonly Misfit[] {
  const seen = new Set<string>()
  const found: Misfit[] = []
  for (const list of ['charges', 'adjust'])
    for (const [index, entry] of (Array.isArray(book[list]) ? (book[list] as unknown[]) : []).entries()) {
      if (!isRecord(entry) || typeof entry.id !== 'string') continue
      if (seen.has(entry.id))
        found.push({ path: `/${list}/${index}/id`, message: `the id "${entry.id}" is taken` })
      seen.add(entry.id)
    }
  return found
}

/** Two charges that can take the same usage are refused here, before any usage does it, unless one is additive. */
function overlapMisfits(
  charges: readonly { readonly charge: Charge; readonly path: string }[],
  grammar: Grammar,
): readonly Misfit[] {
  const found: Misfit[] = []
  const byMeter = Map.groupBy(
    // What a modifier that is not built yet would narrow is not known, and it is refused for itself.
    charges.filter(
      ({ charge }) =>
        charge.meter !== undefined &&
        !charge.additive &&
        grammarWords.modifier.every(
          word => charge[word] === undefined || grammar.modifiers.some(modifier => modifier.key === word),
        ),
    ),
    ({ charge }) => charge.meter,
  )
  for (const group of byMeter.values())
    for (const [index, { charge, path }] of group.entries()) {
      const rival = group.slice(0, index).find(earlier => mayShare(earlier.charge, charge, grammar))
      if (rival)
        found.push(
          misfitOfCharge(
            charge,
            `${path}/where`,
            `can take the same usage as charge "${rival.charge.id}": narrow one \`where\`, or mark one \`additive\``,
          ),
        )
    }
  return found
}

function mayShare(one: Charge, other: Charge, grammar: Grammar): boolean {
  for (const [dim, value] of Object.entries(one.where ?? {})) {
    const theirs = other.where?.[dim]
    if (theirs !== undefined && theirs !== value) return false
  }
  return !grammar.modifiers.some(
    modifier =>
      one[modifier.key] !== undefined &&
      other[modifier.key] !== undefined &&
      modifier.disjoint?.(one[modifier.key], other[modifier.key]),
  )
}

function withoutSpan({ from: _from, to: _to, source: _source, ...price }: DatedPrice): Price {
  return price
}

function misfitOfCharge(charge: Charge, path: string, message: string): Misfit {
  return { path, message: `charge "${charge.id}": ${message}` }
}

/** YAML makes a number of 2.99, and a float is no money: say what to do rather than what it is not. */
function friendly(misfit: Misfit, root: unknown): Misfit {
  const value = at(root, misfit.path)
  return typeof value === 'number' && /^must be (string|string,integer)$/.test(misfit.message)
    ? { path: misfit.path, message: `must be text: write it in quotes, as "${value}"` }
    : misfit
}

function at(root: unknown, pointer: string): unknown {
  return pointer
    .split('/')
    .slice(1)
    .reduce<unknown>(
      (node, key) =>
        typeof node === 'object' && node !== null
          ? (node as Record<string, unknown>)[key.replaceAll('~1', '/').replaceAll('~0', '~')]
          : undefined,
      root,
    )
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
