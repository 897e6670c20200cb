/**
 * Rates the cases of a file: a price book, usage and what is expected of them, as facts of finance people and tests.
 * Owns the format, its output and the comparison; rating is rate.ts's. Pure.
 */
import Type, { type Static } from 'typebox'
import { type Misfit, misfits } from '../schemas/check.ts'
import { exact, show, showRounded } from '../schemas/decimal.ts'
import { asFault, Fault, type FaultCode } from '../schemas/fault.ts'
import { type Book, bookMisfits } from '../schemas/pricebook.ts'
import { instantMs, type Window } from '../schemas/window.ts'
import { grammar } from './pricing/list.ts'
import { rate, type UsageRecord } from './rate.ts'

const strict = { additionalProperties: false }
const Exact = Type.String({ pattern: '^-?(0|[1-9][0-9]*)(\\.[0-9]+)?(/0*[1-9][0-9]*)?$' })
const Text = Type.String({ minLength: 1, maxLength: 4096 })

const CasePeriod = Type.Object(
  { start: Text, end: Text, tz: Type.Optional(Text), activeFrom: Type.Optional(Text) },
  strict,
)

const CaseUsage = Type.Object(
  {
    meter: Text,
    quantity: Exact,
    dims: Type.Optional(Type.Record(Type.String(), Type.Unsafe<string | null>({ type: ['string', 'null'] }))),
    id: Type.Optional(Text),
    source: Type.Optional(Text),
    customer: Type.Optional(Text),
    start: Type.Optional(Text),
    end: Type.Optional(Text),
    repeat: Type.Optional(Type.Integer({ minimum: 1, maximum: 100_000 })),
    every: Type.Optional(Type.Integer({ minimum: 1 })),
  },
  strict,
)
type CaseUsage = Static<typeof CaseUsage>

const Case = Type.Object(
  {
    name: Type.String(),
    id: Type.Optional(Type.String()),
    title: Type.Optional(Type.String()),
    note: Type.Optional(Type.String()),
    period: CasePeriod,
    usage: Type.Array(CaseUsage),
    closed: Type.Optional(Type.Array(Type.Unknown())),
    pricebook_patch: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
    expect: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
  },
  strict,
)
type Case = Static<typeof Case>

const CaseFile = Type.Object({
  pricebook: Type.Record(Type.String(), Type.Unknown()),
  cases: Type.Array(Type.Unknown()),
})

export interface CaseLine {
  readonly charge: string
  readonly quantity: string | null
  readonly amount: string
  readonly group?: Readonly<Record<string, string>>
  readonly priceFrom?: string
  readonly corrects?: string
}

/** A rated case, as it is printed. Counts and lists stand there only where there is something to tell. */
export interface RatedCase {
  readonly name: string
  readonly lines: readonly CaseLine[]
  readonly total: string
  readonly duplicates?: number
  readonly conflicts?: number
  readonly unpriced?: readonly {
    readonly meter: string
    readonly quantity: string
    readonly dims: Readonly<Record<string, string>>
  }[]
}

export interface FailedCase {
  readonly name: string
  readonly error: { readonly code: FaultCode; readonly message: string }
}

export type CaseResult = RatedCase | FailedCase

export interface RatedCaseFile {
  /** One entry a case, in their order: what is printed with --json. */
  readonly results: readonly CaseResult[]
  /** What could not be rated or is not as expected, a line each; none means exit 0. */
  readonly misses: readonly string[]
}

/** @throws Fault CASE_INVALID where the file as a whole is not one of cases. */
export function rateCaseFile(text: string): RatedCaseFile {
  const file = parseFile(text)
  const results: CaseResult[] = []
  const misses: string[] = []
  for (const [place, value] of file.cases.entries()) {
    const name = nameOf(value, place)
    try {
      const { result, expect } = rateCase(value, file.pricebook)
      results.push(result)
      misses.push(...differences(expect ?? {}, result, '').map(difference => `${name}: ${difference}`))
    } catch (error) {
      const { code, message } = asFault(error, 'CASE_INVALID')
      results.push({ name, error: { code, message } })
      misses.push(`${name}: ${code} ${message}`)
    }
  }
  return { results, misses }
}

function parseFile(text: string): Static<typeof CaseFile> {
  let file: unknown
  try {
    file = JSON.parse(text)
  } catch (error) {
    throw new Fault('CASE_INVALID', `the file is not JSON: ${(error as Error).message}`, {}, { cause: error })
  }
  refuse(misfits(CaseFile, file), 'the file')
  return file as Static<typeof CaseFile>
}

function rateCase(
  value: unknown,
  pricebook: Readonly<Record<string, unknown>>,
): { readonly result: RatedCase; readonly expect: Case['expect'] } {
  refuse(misfits(Case, value), 'the case')
  const { name, period, usage, closed, pricebook_patch, expect } = value as Case
  const book = { ...pricebook, ...pricebook_patch }
  refuse(bookMisfits(book, grammar), 'the price book')
  if (closed && closed.length > 0) throw new Fault('CASE_INVALID', 'closed periods are not built yet')
  const rated = rate({ book: book as unknown as Book, period: windowOf(period), usage: usage.map(recordOf) })
  const result: RatedCase = {
    name,
    lines: rated.lines.map(line => ({
      charge: line.charge,
      quantity: line.quantity && show(line.quantity),
      amount: showRounded(line.amount, rated.minorDigits),
      ...(line.group && { group: line.group }),
      ...(line.priceFrom !== undefined && { priceFrom: line.priceFrom }),
    })),
    total: showRounded(rated.total, rated.minorDigits),
    ...(rated.duplicates > 0 && { duplicates: rated.duplicates }),
    ...(rated.conflicts > 0 && { conflicts: rated.conflicts }),
    ...(rated.unpriced.length > 0 && {
      unpriced: rated.unpriced.map(rest => ({ ...rest, quantity: show(rest.quantity) })),
    }),
  }
  return { result, expect }
}

function windowOf(period: Static<typeof CasePeriod>): Window {
  const startMs = instantOf(period.start, 'period.start')
  const endMs = instantOf(period.end, 'period.end')
  if (startMs >= endMs) throw new Fault('CASE_INVALID', 'the period ends before it begins')
  return { startMs, endMs }
}

function recordOf(usage: CaseUsage, place: number): UsageRecord {
  const { meter, quantity, dims = {}, id, source, start, end, repeat, every } = usage
  const at = `usage[${place}]`
  const startMs = start === undefined ? undefined : instantOf(start, `${at}.start`)
  const endMs = end === undefined ? undefined : instantOf(end, `${at}.end`)
  if (endMs !== undefined && startMs === undefined) invalid(at, 'has an end and no start')
  if (startMs !== undefined && endMs !== undefined && endMs < startMs) invalid(at, 'ends before it starts')
  if ((repeat === undefined) !== (every === undefined)) invalid(at, 'has one of `repeat` and `every`')
  if (repeat !== undefined && end !== undefined) invalid(at, 'has `repeat` and an end: `every` says how long')
  return {
    meter,
    quantity: exact(quantity),
    // A dim without a value matches nothing, so it may as well be away.
    dims: Object.fromEntries(
      Object.entries(dims).flatMap(([dim, value]) => (value === null || value === '' ? [] : [[dim, value]])),
    ),
    ...(id !== undefined && { id }),
    ...(source !== undefined && { source }),
    ...(startMs !== undefined && { startMs }),
    ...(endMs !== undefined && { endMs }),
    ...(repeat !== undefined && { repeat }),
    ...(every !== undefined && { everySeconds: every }),
  }
}

function instantOf(text: string, what: string): number {
  const ms = instantMs(text)
  if (ms === undefined) throw new Fault('CASE_INVALID', `${what}: "${text}" is not an RFC 3339 time`)
  return ms
}

function invalid(at: string, what: string): never {
  throw new Fault('CASE_INVALID', `${at} ${what}`)
}

function refuse(found: readonly Misfit[], whose: string): void {
  if (found.length === 0) return
  const listed = found.map(({ path, message }) => `${path === '' ? '/' : path} ${message}`)
  throw new Fault('CASE_INVALID', `${whose} does not fit: ${listed.join('; ')}`, { misfits: found.length })
}

function nameOf(value: unknown, place: number): string {
  const name = (value as { name?: unknown } | null)?.name
  return typeof name === 'string' ? name : `case ${place}`
}

/** Remarks of a case's author about a line, not part of the result. */
const notes = new Set(['exact', 'packages'])

/** Where a result is not as expected, in every key that the expectation names. */
function differences(expected: unknown, actual: unknown, at: string): readonly string[] {
  if (Array.isArray(expected)) {
    if (!Array.isArray(actual)) return [`${at}: expected a list, got ${JSON.stringify(actual)}`]
    const count =
      expected.length === actual.length
        ? []
        : [`${at}: expected ${expected.length} entries, got ${actual.length}: ${JSON.stringify(actual)}`]
    return [
      ...count,
      ...expected
        .slice(0, actual.length)
        .flatMap((part, place) => differences(part, (actual as unknown[])[place], `${at}[${place}]`)),
    ]
  }
  if (typeof expected === 'object' && expected !== null)
    return Object.entries(expected)
      .filter(([key]) => !notes.has(key))
      .flatMap(([key, part]) =>
        differences(
          part,
          (actual as Record<string, unknown> | null | undefined)?.[key],
          at === '' ? key : `${at}.${key}`,
        ),
      )
  return Object.is(expected, actual)
    ? []
    : [`${at}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(actual)}`]
}
