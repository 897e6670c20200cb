/** How answers are printed: a table for people, CSV or one JSON document for programs. */
import { stringify } from 'csv-stringify/sync'

export type Format = 'table' | 'csv' | 'json'

/** A column of a printed answer: its heading and its text in a row. */
export interface Column<Row> {
  readonly heading: string
  readonly text: (row: Row) => string
  readonly align?: 'left' | 'right'
}

/** Rows as text that ends in a line feed. With `json` the rows themselves are the document. */
export function printRows<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  format: Format,
): string {
  if (format === 'json') return printJson(rows)
  const cells = rows.map(row => columns.map(column => column.text(row)))
  const headings = columns.map(column => column.heading)
  if (format === 'csv') return stringify([headings, ...cells])
  return table(
    headings,
    cells,
    columns.map(column => column.align ?? 'left'),
  )
}

/** One JSON document and a line feed. */
export function printJson(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`
}

function table(
  headings: readonly string[],
  rows: readonly (readonly string[])[],
  aligns: readonly ('left' | 'right')[],
): string {
  const shown = [headings, ...rows].map(row => row.map(printable))
  const widths = headings.map((_, index) => Math.max(...shown.map(row => (row[index] ?? '').length)))
  const line = (row: readonly string[]) =>
    row
      .map((cell, index) =>
        aligns[index] === 'right' ? cell.padStart(widths[index] ?? 0) : cell.padEnd(widths[index] ?? 0),
      )
      .join('  ')
      .trimEnd()
  const [head = [], ...body] = shown
  return `${[line(head), widths.map(width => '-'.repeat(width)).join('  '), ...body.map(line)].join('\n')}\n`
}

/** Names come from tenants: what would steer a terminal is shown as its code. */
function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, control => `\\u${control.charCodeAt(0).toString(16).padStart(4, '0')}`)
}
