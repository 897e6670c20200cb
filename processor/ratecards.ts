/**
 * Makes a price book of Rafay's ratecards, the `profiles` of its Global Settings. Pure.
 *
 * The format is that of docs.rafay.dev (gpu-paas/usage: per_sku, dimensions): a profile is billed by dimensions;
 * `instance` counts hours, another dimension the number that the instance's parameter of that name holds, times
 * hours. Rows with a `value` choose the price by the parameter's text, `count_from` multiplies by another parameter.
 */
import type Fraction from 'fraction.js'
import Type, { type Static } from 'typebox'
import { parseDocument } from 'yaml'
import { canonicalJson } from '../schemas/canonical.ts'
import { type Misfit, misfits } from '../schemas/check.ts'
import { exact, show } from '../schemas/decimal.ts'
import { Fault } from '../schemas/fault.ts'
import { fractionOf, JsonNumber } from '../schemas/json.ts'
import { type Book, bookMisfits, type Charge } from '../schemas/pricebook.ts'
import { grammar } from './pricing/list.ts'

/** All scalars are read as text, as written: `12.0` stays `12.0`, and no float comes between. */
const Row = Type.Object(
  {
    price: Type.String({ pattern: '^([0-9]{1,24}\\.?[0-9]{0,24}|\\.[0-9]{1,24})([eE][+-]?[0-9]{1,2})?$' }),
    time_unit: Type.Enum(['m', 'h', 'd'] as const),
    currency: Type.Optional(Type.String({ pattern: '^[A-Z]{3}$' })),
    base_unit: Type.Optional(Type.String({ pattern: '^[0-9]{1,15}(\\.[0-9]{1,6})?$' })),
    base_value: Type.Optional(Type.String({ pattern: '^[0-9]{1,15}(\\.[0-9]{1,6})?$' })),
    value: Type.Optional(Type.String({ minLength: 1 })),
    count_from: Type.Optional(Type.String({ minLength: 1 })),
  },
  { additionalProperties: false },
)
type Row = Static<typeof Row>

const Billing = Type.Object(
  {
    currency: Type.Optional(
      Type.Unsafe<string | readonly string[]>({
        type: ['string', 'array'],
        pattern: '^[A-Z]{3}$',
        items: { type: 'string', pattern: '^[A-Z]{3}$' },
        minItems: 1,
      }),
    ),
    dimensions: Type.Array(Type.String({ minLength: 1, maxLength: 128 }), { minItems: 1, uniqueItems: true }),
    ratecard: Type.Record(Type.String({ minLength: 1 }), Type.Array(Row, { minItems: 1 })),
  },
  { additionalProperties: false },
)
type Billing = Static<typeof Billing>

const Document = Type.Object({ profiles: Type.Array(Type.Unknown()) })
const Profile = Type.Object({
  name: Type.String({ minLength: 1, maxLength: 128 }),
  billing: Type.Optional(Type.Unknown()),
})

const hoursOf = { m: exact('1/60'), h: exact('1'), d: exact('24') } as const
const unitOf = { m: 'Minutes', h: 'Hours', d: 'Days' } as const

/** The meter that ratecards price, and the dims of it that are not parameters of instances. */
export const ratecardMeter = 'instance_hours'
const ownDims: ReadonlySet<string> = new Set([
  'organization',
  'profile',
  'profile_type',
  'gpu_type',
  'gpu_count',
  'instance',
])
/** Labels that the source gives itself. */
const ownLabels: ReadonlySet<string> = new Set([
  ...['organization', 'organization_external_id', 'project', 'project_id', 'profile', 'profile_id'],
  ...['profile_type', 'gpu_type', 'gpu_count', 'customer', 'status'],
])

export interface RatecardOptions {
  readonly currency: string
  readonly id?: string
  readonly version?: number
  /** As the source has them in its config. */
  readonly gpuTypeParameters?: readonly string[]
  readonly gpuCountParameters?: readonly string[]
}

export interface RatecardBook {
  readonly book: Book
  /**
   * The dims that the book reads beyond those of `instance_hours`, each with the label that fills it: what the
   * meter's `groupBy` must have besides.
   */
  readonly dims: Readonly<Record<string, string>>
  /** An instance's parameters as the dims of the book. */
  readonly dimsOf: (parameters: Readonly<Record<string, string>>) => Readonly<Record<string, string>>
}

/** A dimension's rows in the currency asked for. */
interface Dimension {
  readonly name: string
  readonly rows: readonly Row[]
  readonly byValue: boolean
}

/**
 * Makes the book of Rafay's global settings, as YAML, or as `{profiles: [{name, billing}]}` read with exact numbers.
 * Prices are of one currency; a profile without any in it gets no charge, so its usage is unpriced and named.
 * @throws Fault RATECARD_INVALID naming profile and field.
 */
export function ratecardsToBook(
  ratecards: string | object,
  {
    currency,
    id = 'ratecards',
    version,
    gpuTypeParameters = ['gpu_type', 'GPU Type', 'GPU_TYPE'],
    gpuCountParameters = ['GPU', 'GPU Count', 'gpu_count', 'gpus'],
  }: RatecardOptions,
): RatecardBook {
  const dims = parameterDims({ gpu_type: gpuTypeParameters, gpu_count: gpuCountParameters })
  const seen = new Map<string, string>()
  const charges: Charge[] = []
  for (const [place, value] of profilesOf(ratecards).entries()) {
    refuse(misfits(Profile, value), `profile ${place}`)
    const { name, billing } = value as Static<typeof Profile>
    if (billing === undefined) continue
    // A compute and a service profile may share a name, and then hours of either are billed alike.
    const content = canonicalJson(billing)
    if (seen.get(name) === content) continue
    if (seen.has(name)) invalid(name, '/billing', 'is there twice, and not the same')
    seen.set(name, content)
    refuse(misfits(Billing, billing), name, '/billing')
    charges.push(...profileCharges(name, dimensionsOf(name, billing as Billing, currency), dims.dimOf))
  }
  const book: Book = {
    apiVersion: 'pricebook/v1',
    id,
    ...(version !== undefined && { version }),
    currency,
    timezone: 'UTC',
    charges,
  }
  refuse(bookMisfits(book, grammar), 'the book made of them')
  return { book, dims: dims.labels(), dimsOf: dims.dimsOf }
}

function profilesOf(ratecards: string | object): readonly unknown[] {
  const value = typeof ratecards === 'string' ? parseYaml(ratecards) : asWritten(ratecards)
  refuse(misfits(Document, value), 'the document')
  return (value as Static<typeof Document>).profiles
}

function parseYaml(text: string): unknown {
  const document = parseDocument(text, { schema: 'failsafe', uniqueKeys: true })
  const [error] = document.errors
  if (error)
    throw new Fault('RATECARD_INVALID', `the ratecards are not YAML: ${error.message.split('\n')[0]}`)
  return document.toJS({ maxAliasCount: 1000 })
}

/** JSON with exact numbers, as the YAML comes: every scalar its text. */
function asWritten(value: unknown): unknown {
  if (value instanceof JsonNumber) return value.text
  if (Array.isArray(value)) return value.map(asWritten)
  if (typeof value === 'object' && value !== null)
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, asWritten(part)]))
  return typeof value === 'string' ? value : ''
}

function dimensionsOf(profile: string, billing: Billing, currency: string): readonly Dimension[] {
  const currencies = [billing.currency ?? []].flat()
  const only = currencies.length === 1 ? currencies[0] : undefined
  for (const name of Object.keys(billing.ratecard))
    if (!billing.dimensions.includes(name))
      invalid(profile, `/billing/ratecard/${name}`, 'is not among its dimensions')
  const dimensions = billing.dimensions.map(name => {
    const all = billing.ratecard[name]
    if (!all) return invalid(profile, `/billing/ratecard/${name}`, 'is missing: it is one of its dimensions')
    for (const [place, row] of all.entries())
      if (row.currency === undefined && only === undefined)
        invalid(profile, `/billing/ratecard/${name}/${place}/currency`, 'is missing')
    const rows = all.filter(row => (row.currency ?? only) === currency)
    return dimensionOf(profile, name, rows)
  })
  const priced = dimensions.filter(({ rows }) => rows.length > 0)
  const without = dimensions.find(({ rows }) => rows.length === 0)
  // Half of the dimensions would be half of the price.
  if (priced.length > 0 && without)
    invalid(profile, `/billing/ratecard/${without.name}`, `has no price in ${currency}, and others have`)
  return priced
}

function dimensionOf(profile: string, name: string, rows: readonly Row[]): Dimension {
  const at = `/billing/ratecard/${name}`
  const byValue = rows.some(row => row.value !== undefined)
  const values = rows.map(row => row.value)
  if (byValue && values.includes(undefined)) invalid(profile, at, 'has rows with and without a `value`')
  if (new Set(values).size < values.length) {
    const twice = values.find((value, place) => values.indexOf(value) < place)
    invalid(
      profile,
      at,
      twice === undefined ? 'has two prices in one currency' : `has two prices for "${twice}"`,
    )
  }
  for (const row of rows) {
    if (row.base_unit !== undefined && row.base_value !== undefined)
      invalid(profile, at, 'has both base_unit and base_value')
    if (baseOf(row).equals(0)) invalid(profile, at, 'has a base of 0')
    if (byValue && name === 'instance') invalid(profile, at, 'has a `value`: an instance is no parameter')
  }
  return { name, rows, byValue }
}

/**
 * The dimensions of a profile add up: one charge is its price and the others come on top. The first whose rows choose
 * by value is that one, so that an instance of a value without a row is unpriced, and named. Further ones of the kind
 * become weight tables, where a value without an entry is an error.
 */
function profileCharges(
  profile: string,
  dimensions: readonly Dimension[],
  noteDim: (profile: string, parameter: string) => string,
): readonly Charge[] {
  const base = dimensions.find(({ byValue }) => byValue) ?? dimensions[0]
  const dimOf = (parameter: string) => noteDim(profile, parameter)
  return dimensions.flatMap(dimension => {
    const additive = dimension === base ? {} : { additive: true }
    return dimension.byValue && dimension !== base
      ? [{ ...weighted(profile, dimension, dimOf), ...additive }]
      : dimension.rows.map(row => ({ ...charged(profile, dimension, row, dimOf), ...additive }))
  })
}

function charged(
  profile: string,
  { name, byValue }: Dimension,
  row: Row,
  dimOf: (parameter: string) => string,
): Charge {
  const factors = factorsOf(name, byValue, row).map(dimOf)
  return {
    id: [profile, name, ...(row.value === undefined ? [] : [row.value])].join('.'),
    meter: ratecardMeter,
    where: { profile, ...(row.value !== undefined && { [dimOf(name)]: row.value }) },
    per: hoursOf[row.time_unit].mul(baseOf(row)).toFraction(),
    unit: unitText(name, byValue, row),
    ...(factors.length > 0 && { times: factors }),
    price: { unit: priceText(row.price) },
  }
}

function weighted(profile: string, { name, rows }: Dimension, dimOf: (parameter: string) => string): Charge {
  const factors = new Set(rows.map(row => JSON.stringify(factorsOf(name, true, row))))
  if (factors.size > 1) invalid(profile, `/billing/ratecard/${name}`, 'has rows of unlike count_from')
  const times = factorsOf(name, true, rows[0]!).map(dimOf)
  const table = rows.map(row => {
    const perHour = exact(priceText(row.price)).div(hoursOf[row.time_unit].mul(baseOf(row)))
    return [row.value!, perHour.toFraction()]
  })
  return {
    id: `${profile}.${name}`,
    meter: ratecardMeter,
    where: { profile },
    unit: `price of ${name}`,
    weight: { dim: dimOf(name), table: Object.fromEntries(table) },
    ...(times.length > 0 && { times }),
    price: { unit: '1' },
  }
}

/** The parameters whose numbers multiply the hours. */
function factorsOf(dimension: string, byValue: boolean, row: Row): readonly string[] {
  const counted = byValue || dimension === 'instance' ? [] : [dimension]
  return row.count_from === undefined ? counted : [...counted, row.count_from]
}

/** `base_value` is documented only as 1; it is taken as `base_unit` is, a divisor of the number billed. */
function baseOf(row: Row): Fraction {
  return exact(row.base_unit ?? row.base_value ?? '1')
}

function unitText(dimension: string, byValue: boolean, row: Row): string {
  const what = byValue ? (row.count_from ?? 'Instance') : dimension === 'instance' ? 'Instance' : dimension
  const base = baseOf(row)
  return `${base.equals(1) ? '' : `${show(base)} `}${what}-${unitOf[row.time_unit]}`
}

/** As written where that is a decimal; `.5`, `5.` and `1e-3` are spelt out. */
function priceText(written: string): string {
  if (/^(0|[1-9]\d*)(\.\d+)?$/.test(written)) return written
  const [mantissa = '', exponent = '0'] = written.toLowerCase().split('e')
  const [whole = '', places = ''] = mantissa.split('.')
  const digits = `${whole.replace(/^0+(?=\d)/, '') || '0'}${places && `.${places}`}`
  return show(fractionOf(new JsonNumber(`${digits}e${exponent}`))!)
}

/**
 * Parameters as dims of a meter, and the labels that fill them. The source keeps a parameter under its own name; the
 * GPU's type and count under `gpu_type` and `gpu_count`, and what is called as a label of Meterline's behind
 * `parameter.` (collector/sources/rafay/rows.ts).
 */
function parameterDims(special: Readonly<Record<string, readonly string[]>>): {
  readonly dimOf: (profile: string, parameter: string) => string
  readonly labels: () => Readonly<Record<string, string>>
  readonly dimsOf: RatecardBook['dimsOf']
} {
  const parameters = new Map<string, string>()
  const labels = new Map<string, string>()
  return {
    dimOf: (profile, parameter) => {
      const role = Object.keys(special).find(dim => special[dim]!.includes(parameter))
      const dim = role ?? wordOf(parameter)
      const held = parameters.get(dim)
      if (role === undefined && held !== undefined && held !== parameter)
        invalid(profile, '/billing', `parameters "${held}" and "${parameter}" would both be the dim ${dim}`)
      parameters.set(dim, parameter)
      if (dim !== 'gpu_type')
        labels.set(dim, role ?? (ownLabels.has(parameter) ? `parameter.${parameter}` : parameter))
      return dim
    },
    labels: () => Object.fromEntries(labels),
    // Of the parameters that may name the GPU's type or count, the first in their order counts, as in the source.
    dimsOf: held =>
      Object.fromEntries(
        [...parameters].flatMap(([dim, parameter]) => {
          const name = (special[dim] ?? [parameter]).find(each => Object.hasOwn(held, each))
          return name === undefined ? [] : [[dim, held[name]!]]
        }),
      ),
  }
}

/** `GPU Model` becomes gpu_model; what a dim is called already becomes parameter_… */
function wordOf(parameter: string): string {
  const word = parameter
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '_')
    .replace(/^_+|_+$/g, '')
  return (/^[a-z]/.test(word) && !ownDims.has(word) ? word : `parameter_${word}`).slice(0, 63)
}

function refuse(found: readonly Misfit[], profile: string, at = ''): void {
  if (found.length === 0) return
  const listed = found.map(({ path, message }) => `${at}${path} ${message}`)
  throw new Fault('RATECARD_INVALID', `${profile}: ${listed.join('; ')}`, {
    profile,
    field: `${at}${found[0]!.path}`,
  })
}

function invalid(profile: string, field: string, what: string): never {
  throw new Fault('RATECARD_INVALID', `${profile}: ${field} ${what}`, { profile, field })
}
