/**
 * The CSV of Rafay's published script ncp_metrics.py: its columns, its order, and its text, byte for byte as Python's
 * csv.writer and str() make it. Pure: whoever writes the file has the rows.
 */

import { isJsonArray, isJsonObject, type Json, JsonNumber } from './json.ts'
import { byCodePoint } from './order.ts'

/** A row as text: what a cell shows. */
export interface NcpRow {
  readonly organization: string
  readonly profileType: string
  readonly profile: string
  readonly instance: string
  /** In hours. */
  readonly usage: string
  readonly status: string
  /** Only in a priced file; empty where the row has no price. */
  readonly rate?: string
  readonly amount?: string
}

export const ncpColumns = [
  'Organization',
  'Profile Type',
  'Profile',
  'Instance',
  'Usage(h)',
  'Status',
] as const
export const ncpPriceColumns = ['Billing Rate', 'Billing Amount'] as const

/** The whole file: header first, CRLF after every line, priced columns at the end where `priced` says so. */
export function printNcpCsv(rows: readonly NcpRow[], priced: 'priced' | 'unpriced'): string {
  const withPrices = priced === 'priced'
  const lines = [csvLine(withPrices ? [...ncpColumns, ...ncpPriceColumns] : ncpColumns)]
  for (const row of rows) {
    const cells = [row.organization, row.profileType, row.profile, row.instance, row.usage, row.status]
    lines.push(csvLine(withPrices ? [...cells, row.rate ?? '', row.amount ?? ''] : cells))
  }
  return lines.join('')
}

/** By organization, profile type, profile and instance, each by code point; rows alike stay in their order. */
export function sortNcpRows(rows: readonly NcpRow[]): readonly NcpRow[] {
  return rows.toSorted(
    (a, b) =>
      byCodePoint(a.organization, b.organization) ||
      byCodePoint(a.profileType, b.profileType) ||
      byCodePoint(a.profile, b.profile) ||
      byCodePoint(a.instance, b.instance),
  )
}

/** `ncp-metrics-mmddYYYY-HHMMSS.csv` by the wall clock of the zone, and the sorted one. */
export function ncpFileNames(
  nowMs: number,
  zone: string,
): { readonly plain: string; readonly sorted: string } {
  const at = Temporal.Instant.fromEpochMilliseconds(nowMs).toZonedDateTimeISO(zone)
  const two = (value: number) => String(value).padStart(2, '0')
  const year = String(at.year).padStart(4, '0')
  const stamp = `${two(at.month)}${two(at.day)}${year}-${two(at.hour)}${two(at.minute)}${two(at.second)}`
  return { plain: `ncp-metrics-${stamp}.csv`, sorted: `ncp-metrics-sorted-${stamp}.csv` }
}

/** What the script says on stdout when it is done. */
export function ncpDoneLine(sortedFile: string): string {
  return `Successfully sorted data and saved to '${sortedFile}'.`
}

/** As csv.writer quotes: only where a cell holds a comma, a quote or a line break. */
function csvLine(cells: readonly string[]): string {
  const shown = cells.map(cell => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell))
  return `${shown.join(',')}\r\n`
}

/** A cell as csv.writer shows what json.loads made of it: nothing for null, a text as it is, the rest by str(). */
export function pythonCell(value: Json): string {
  if (value === null) return ''
  return typeof value === 'string' ? value : pythonRepr(value)
}

/**
 * str(json.loads(text)) of a JSON number: a whole one digit for digit, a float with the fewest digits that mean it,
 * with an exponent below 1e-4 and from 1e16.
 */
export function pythonNumber(text: string): string {
  if (/^-?\d+$/.test(text)) return text === '-0' ? '0' : text
  const value = Number(text)
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf'
  if (value === 0) return Object.is(value, -0) ? '-0.0' : '0.0'
  // Without an argument toExponential gives the fewest digits that mean the same float, as Python's repr does.
  const [mantissa = '', exponentText = '0'] = Math.abs(value).toExponential().split('e')
  const digits = mantissa.replace('.', '')
  const exponent = Number(exponentText)
  const sign = value < 0 ? '-' : ''
  if (exponent < -4 || exponent >= 16) {
    const fraction = digits.length > 1 ? `.${digits.slice(1)}` : ''
    const shownExponent = String(Math.abs(exponent)).padStart(2, '0')
    return `${sign}${digits[0]}${fraction}e${exponent < 0 ? '-' : '+'}${shownExponent}`
  }
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${digits}`
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, '0')
  return `${sign}${whole}.${digits.slice(exponent + 1) || '0'}`
}

function pythonRepr(value: Json): string {
  if (value === null) return 'None'
  if (value instanceof JsonNumber) return pythonNumber(value.text)
  if (typeof value === 'boolean') return value ? 'True' : 'False'
  if (typeof value === 'string') return pythonString(value)
  if (isJsonArray(value)) return `[${value.map(pythonRepr).join(', ')}]`
  if (!isJsonObject(value)) return ''
  const entries = Object.entries(value).map(
    ([key, part]) => `${pythonString(key)}: ${pythonRepr(part ?? null)}`,
  )
  return `{${entries.join(', ')}}`
}

function pythonString(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'"
  let shown = ''
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0
    if (character === quote || character === '\\') shown += `\\${character}`
    else if (character === '\n') shown += '\\n'
    else if (character === '\r') shown += '\\r'
    else if (character === '\t') shown += '\\t'
    else if (character === ' ' || !/[\p{C}\p{Z}]/u.test(character)) shown += character
    else if (code <= 0xff) shown += `\\x${code.toString(16).padStart(2, '0')}`
    else if (code <= 0xffff) shown += `\\u${code.toString(16).padStart(4, '0')}`
    else shown += `\\U${code.toString(16).padStart(8, '0')}`
  }
  return quote + shown + quote
}
