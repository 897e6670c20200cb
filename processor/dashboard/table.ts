/** A table as it is seen, and the same table as CSV (RFC 4180): one value for both, so that they cannot differ. Pure. */

export interface Column {
  readonly heading: string
  /** Numbers stand to the right, digit under digit. */
  readonly isNumber?: boolean
}

export interface Table {
  readonly caption: string
  readonly columns: readonly Column[]
  /** Numbers are the decimals of the API, not yet grouped. */
  readonly rows: readonly (readonly string[])[]
}

/** A spreadsheet would take a name that begins so for a formula. */
const formula = /^[=+\-@\t\r]/

export function csvOf({ columns, rows }: Table): string {
  const lines = [
    columns.map(({ heading }) => cell(heading, false)),
    ...rows.map(row => row.map((text, index) => cell(text, columns[index]?.isNumber === true))),
  ]
  return lines.map(line => `${line.join(',')}\r\n`).join('')
}

function cell(text: string, isNumber: boolean): string {
  const safe = !isNumber && formula.test(text) ? `'${text}` : text
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}
