/**
 * What a query asks, from the ways in which OpenMeter's clients say it: the parameters of an address, as its JS and its
 * Python client write them, which differ, and a JSON body.
 */
import { misfits } from '../../../schemas/check.ts'
import { asFault } from '../../../schemas/fault.ts'
import type { FilterString } from '../../../schemas/meters.ts'
import { instantMs, isZone } from '../../../schemas/window.ts'
import { filterSql } from '../../filters.ts'
import {
  checkTexts,
  invalid,
  type Part,
  WireFilterString,
  type WireMeterQuery,
  type WireWindowSize,
} from './wire.ts'

/** A query of any meter; whether it has the dims is for whoever answers. */
export interface Asked {
  readonly fromMs?: number
  /** Exclusive. */
  readonly toMs?: number
  readonly windowSize?: WireWindowSize
  readonly zone: string
  /** Only these, and each by itself. */
  readonly subjects?: readonly string[]
  /** Dims to keep apart. */
  readonly groupBy: readonly string[]
  readonly bySubject: boolean
  /** By dim: all that is said of it holds. */
  readonly where: Readonly<Record<string, FilterString>>
}

/** The parameters of an address; the filters in either of the forms that clients write. */
export interface AddressQuery extends Omit<WireMeterQuery, 'filterGroupBy' | 'advancedMeterGroupByFilters'> {
  /** By dim; or a dict as Python prints it, `{'gpu': 'H100'}`; or JSON. */
  readonly filterGroupBy?: string | Readonly<Record<string, string | readonly string[]>>
  /** JSON. */
  readonly advancedMeterGroupByFilters?: string
}

/** @throws Unfit naming the parameter */
export function askedInAddress(query: AddressQuery): Asked {
  const { filterGroupBy: said, advancedMeterGroupByFilters: written, ...rest } = query
  const filters = typeof said === 'string' ? filtersIn(said) : said
  const advanced = written === undefined ? undefined : jsonOf(written, 'advancedMeterGroupByFilters')
  const body = {
    ...rest,
    ...(filters && {
      filterGroupBy: Object.fromEntries(
        Object.entries(filters).map(([dim, value]) => [
          dim,
          typeof value === 'string' ? [value] : [...value],
        ]),
      ),
    }),
    ...(advanced !== undefined && {
      advancedMeterGroupByFilters: filterRecord(advanced, 'advancedMeterGroupByFilters'),
    }),
  }
  return askedInBody(body as WireMeterQuery, 'query')
}

/** @throws Unfit naming the member */
export function askedInBody(query: WireMeterQuery, part: Part = 'body'): Asked {
  const { from, to, windowSize, windowTimeZone: zone = 'UTC', subject, filterCustomerId } = query
  checkTexts(part, query)
  const fromMs = momentOf(from, part, 'from')
  const toMs = momentOf(to, part, 'to')
  if (fromMs !== undefined && toMs !== undefined && fromMs >= toMs)
    throw invalid(part, 'to', `${to} is not after from ${from}`)
  if (!isZone(zone)) throw invalid(part, 'windowTimeZone', `"${zone}" is no IANA time zone`)
  if (filterCustomerId !== undefined && filterCustomerId.length > 0)
    throw invalid(part, 'filterCustomerId', 'there are no customers here: say which subjects')
  const where = new Map<string, FilterString>()
  for (const [dim, values] of Object.entries(query.filterGroupBy ?? {}))
    if (values.length > 0) where.set(dim, { $in: values })
  for (const [dim, filter] of Object.entries(query.advancedMeterGroupByFilters ?? {})) {
    const said = filterOf(filter, part, `advancedMeterGroupByFilters/${dim}`)
    const simple = where.get(dim)
    where.set(dim, simple === undefined ? said : { $and: [simple, said] })
  }
  const subjects = subject !== undefined && subject.length > 0 ? Array.from(new Set(subject)) : undefined
  const groupBy = Array.from(new Set(query.groupBy ?? []))
  return {
    ...(fromMs !== undefined && { fromMs }),
    ...(toMs !== undefined && { toMs }),
    ...(windowSize !== undefined && { windowSize }),
    zone,
    ...(subjects && { subjects }),
    groupBy: groupBy.filter(dim => dim !== 'subject'),
    bySubject: subjects !== undefined || groupBy.includes('subject'),
    where: Object.fromEntries(where),
  }
}

/** @throws Unfit */
export function momentOf(text: string | undefined, part: Part, field: string): number | undefined {
  if (text === undefined) return undefined
  const ms = instantMs(text)
  if (ms === undefined)
    throw invalid(part, field, `"${text}" is not an RFC 3339 time such as 2026-02-12T08:00:00Z`)
  return ms
}

/**
 * A filter as clients write it, without its nulls.
 * @throws Unfit for one that says nothing, or has a pattern that ends in a lone backslash
 */
export function filterOf(filter: unknown, part: Part, field: string): FilterString {
  const said = withoutNulls(filter) as FilterString
  try {
    filterSql('value', said, () => '')
  } catch (error) {
    throw invalid(part, field, asFault(error, 'USAGE').message)
  }
  return said
}

/** @throws Unfit */
export function jsonOf(text: string, field: string): unknown {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw invalid('query', field, 'is not JSON')
  }
  checkTexts('query', value, `/${field}`)
  return value
}

function filterRecord(value: unknown, field: string): Record<string, FilterString> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw invalid('query', field, 'is a JSON object: a filter for each dim')
  for (const [dim, filter] of Object.entries(value)) {
    const [misfit] = misfits(WireFilterString, filter)
    if (misfit) throw invalid('query', `${field}/${dim}${misfit.path}`, misfit.message)
  }
  return value as Record<string, FilterString>
}

function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls)
  if (typeof value !== 'object' || value === null) return value
  const said = Object.entries(value).filter(([, member]) => member !== null && member !== undefined)
  return Object.fromEntries(said.map(([name, member]) => [name, withoutNulls(member)]))
}

/** Dims with the values that each may have, written as one text. */
function filtersIn(text: string): Readonly<Record<string, string | readonly string[]>> {
  const said = readDict(text) ?? tryJson(text)
  const fits =
    typeof said === 'object' &&
    said !== null &&
    !Array.isArray(said) &&
    Object.values(said).every(
      value =>
        typeof value === 'string' || (Array.isArray(value) && value.every(part => typeof part === 'string')),
    )
  if (!fits) throw invalid('query', 'filterGroupBy', 'is filterGroupBy[dim]=value, or {"dim": "value"}')
  return said as Record<string, string | readonly string[]>
}

function tryJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/**
 * A dict of texts, or of lists of texts, as Python's `repr` prints it: OpenMeter's Python client puts that into the
 * address. Undefined for anything else.
 */
export function readDict(text: string): Readonly<Record<string, string | readonly string[]>> | undefined {
  let at = 0
  const take = (token: string): boolean => {
    while (text[at] === ' ') at += 1
    if (text[at] !== token) return false
    at += 1
    return true
  }
  const string = (): string | undefined => {
    while (text[at] === ' ') at += 1
    const found = literal.exec(text.slice(at))
    if (!found) return undefined
    at += found[0].length
    return unescaped(found[0].slice(1, -1))
  }
  const list = (): readonly string[] | undefined => {
    const parts: string[] = []
    if (take(']')) return parts
    for (;;) {
      const part = string()
      if (part === undefined) return undefined
      parts.push(part)
      if (take(']')) return parts
      if (!take(',')) return undefined
    }
  }
  const entries: [string, string | readonly string[]][] = []
  if (!take('{')) return undefined
  if (!take('}'))
    for (;;) {
      const key = string()
      if (key === undefined || !take(':')) return undefined
      const value = take('[') ? list() : string()
      if (value === undefined) return undefined
      entries.push([key, value])
      if (take('}')) break
      if (!take(',')) return undefined
    }
  return text.slice(at).trim() === '' ? Object.fromEntries(entries) : undefined
}

const literal = /^(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")/s
const escapes: Readonly<Record<string, string>> = {
  n: '\n',
  r: '\r',
  t: '\t',
  '\\': '\\',
  "'": "'",
  '"': '"',
}

/** Undefined for an escape that `repr` does not write. */
function unescaped(text: string): string | undefined {
  let isWrong = false
  const plain = text.replace(
    /\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|([\s\S]))/g,
    (_, byte?: string, short?: string, long?: string, one?: string) => {
      const code = Number.parseInt(byte ?? short ?? long ?? '', 16)
      const character = one === undefined ? undefined : escapes[one]
      if (one === undefined && code <= 0x10ffff) return String.fromCodePoint(code)
      isWrong ||= character === undefined
      return character ?? ''
    },
  )
  return isWrong ? undefined : plain
}
