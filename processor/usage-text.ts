/**
 * Usage as text, a piece at a time: JSON and CSV of any number of rows. Written by hand, since it runs for hundreds of
 * thousands of rows: what neighbours have in common is made once.
 */
import { showInstant } from '../schemas/window.ts'
import { type Amount, valuePrinter } from './usage.ts'
import type { UsageQuery } from './usage-plan.ts'

export type UsageFormat = 'json' | 'csv'

/** The media types under which HTTP gives them. */
export const mediaTypes = {
  json: 'application/json',
  csv: 'text/csv; charset=utf-8; header=present',
} as const

/** The text of rows as they come: with what goes before the first and after the last, whether there are any or not. */
export async function* usageText(
  query: UsageQuery,
  format: UsageFormat,
  rows: AsyncIterable<readonly Amount[]>,
): AsyncGenerator<string> {
  const { head, tail, textOf } = (format === 'json' ? jsonText : csvText)(query)
  let pending = head
  for await (const some of rows) {
    for (const row of some) pending += textOf(row)
    yield pending
    pending = ''
  }
  yield pending + tail()
}

interface Written {
  readonly head: string
  readonly tail: () => string
  readonly textOf: (row: Amount) => string
}

/** An array with an object a line, in the words of design.md's `usage`. */
function jsonText({ meter, groupBy, ...query }: UsageQuery): Written {
  const print = valuePrinter({ meter })
  const named = `{"meter":${JSON.stringify(meter.slug)},"unit":${JSON.stringify(meter.unit)},"window_start":"`
  const dims = groupBy.map((dim, index) => `${index === 0 ? '' : ','}${JSON.stringify(dim)}:`)
  let window: Amount['window'] = query.span
  let start = ''
  const source = remembered(text => `","source":${JSON.stringify(text)},"subject":`)
  let isFirst = true
  return {
    head: '[',
    tail: () => (isFirst ? ']\n' : '\n]\n'),
    textOf(row) {
      if (row.window !== window || start === '') {
        window = row.window
        start = `${named}${showInstant(window.startMs)}","window_end":"${showInstant(window.endMs)}`
      }
      const before = isFirst ? '\n' : ',\n'
      isFirst = false
      const groups = dims.map((name, index) => name + JSON.stringify(row.dims[index])).join('')
      const split = row.parts.length > 0 ? ',"split":true' : ''
      return `${before}${start}${source(row.source)}${JSON.stringify(row.subject)},"group_by":{${groups}},"value":"${print(row)}"${split}}`
    },
  }
}

/** Rows of RFC 4180; the first names the columns. */
function csvText({ meter, groupBy, ...query }: UsageQuery): Written {
  const print = valuePrinter({ meter })
  const columns = [
    'meter',
    'window_start',
    'window_end',
    'source',
    'subject',
    ...groupBy,
    'value',
    'unit',
    'split',
  ]
  const slug = field(meter.slug)
  const unit = field(meter.unit)
  let window: Amount['window'] = query.span
  let start = ''
  const source = remembered(field)
  return {
    head: `${columns.map(field).join(',')}\n`,
    tail: () => '',
    textOf(row) {
      if (row.window !== window || start === '') {
        window = row.window
        start = `${slug},${showInstant(window.startMs)},${showInstant(window.endMs)},`
      }
      const dims = row.dims.map(dim => `${field(dim)},`).join('')
      const split = row.parts.length > 0 ? 'true' : ''
      return `${start}${source(row.source)},${field(row.subject)},${dims}${print(row)},${unit},${split}\n`
    },
  }
}

function field(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

/** A function whose last answer is kept: rows are in order, so most have what the one before had. */
function remembered(make: (text: string) => string): (text: string) => string {
  let last: string | undefined
  let made = ''
  return text => {
    if (text !== last) {
      last = text
      made = make(text)
    }
    return made
  }
}
