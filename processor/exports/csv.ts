/**
 * Line items as CSV (RFC 4180: CRLF, quotes doubled). `group` holds the dims of an itemised line, sorted, as
 * `dim=value;dim=value`; a backslash stands before a `;`, `=` or backslash of their own.
 */
import { stringify } from 'csv-stringify/sync'
import type { LineItem } from '../line-items.ts'
import { showDims } from '../rate.ts'
import type { Export } from './export.ts'

const columns = [
  'account',
  'charge',
  'meter',
  'group',
  'quantity',
  'unit',
  'price',
  'amount',
  'currency',
  'period_start',
  'period_end',
  'book',
  'book_sha256',
] as const

export const csv: Export = {
  name: 'csv',
  summary: 'Line items, one a row.',
  makes: 'one',
  write: async input => [{ name: 'line-items.csv', chunks: csvOf(await input.lineItems()) }],
}

/** The header, then a row a line item. */
export function* csvOf(lines: Iterable<LineItem>): Generator<string> {
  yield row([...columns])
  for (const line of lines)
    yield row(columns.map(column => (column === 'group' ? showDims(line.group) : line[column])))
}

function row(cells: readonly string[]): string {
  return stringify([[...cells]], { record_delimiter: 'windows' })
}
