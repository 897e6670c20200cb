/** Reads as much of a statement as the server must know: its first word, its format, whether data follows. Pure. */

export interface Statement {
  /** First word in lower case: `select`, `insert`, …; empty for an empty text. */
  readonly verb: string
  /** The name after the last `format`, as written. */
  readonly format?: string
  /** Ends in `format X` or `values`: rows are expected after it. */
  readonly takesData: boolean
  /** Where `format X` begins, if it has one. */
  readonly formatStart?: number
  /** More than one statement in the text: a server refuses that. */
  readonly several: boolean
  /** The text without what follows the last statement: semicolons. */
  readonly text: string
}

interface Word {
  readonly text: string
  readonly start: number
}

/**
 * @param wholeIsStatement false where rows may follow in the same text (`insert … values (1)`): reading stops there,
 * as rows are not SQL.
 */
export function readStatement(sql: string): Statement {
  const words: Word[] = []
  let depth = 0
  let end: number | undefined
  let several = false
  let position = 0
  while (position < sql.length) {
    const next = skip(sql, position)
    if (next > position) {
      position = next
      continue
    }
    if (end !== undefined) {
      several = true
      break
    }
    const char = sql[position]!
    if (char === ';') {
      end = position
      position += 1
    } else if (char === "'" || char === '"' || char === '`') {
      words.push({ text: '', start: position })
      position = closing(sql, position)
    } else if (char === '(' || char === '[' || char === '{') {
      depth += 1
      words.push({ text: '', start: position })
      position += 1
    } else if (char === ')' || char === ']' || char === '}') {
      depth -= 1
      position += 1
    } else if (wordChar.test(char)) {
      let stop = position + 1
      while (stop < sql.length && wordChar.test(sql[stop]!)) stop += 1
      const text = sql.slice(position, stop)
      words.push({ text: depth === 0 ? text : '', start: position })
      position = stop
      if (depth === 0 && startsRows(words)) {
        // What follows is rows: JSON, CSV or whatever, and may hold quotes and semicolons that are not SQL's.
        position = sql.length
      }
    } else {
      const heredoc =
        char === '$' ? /^\$[A-Za-z0-9_]*\$/.exec(sql.slice(position, position + 64))?.[0] : undefined
      const close = heredoc === undefined ? -1 : sql.indexOf(heredoc, position + heredoc.length)
      words.push({ text: '', start: position })
      position = heredoc !== undefined && close >= 0 ? close + heredoc.length : position + 1
    }
  }

  // What begins with a bracket can only be a select.
  const verb = words.length === 0 ? '' : words[0]!.text.toLowerCase() || 'select'
  const formatIndex = words.findLastIndex(
    (word, index) => word.text.toLowerCase() === 'format' && index > 0 && words[index + 1]?.text,
  )
  const format = formatIndex < 0 ? undefined : words[formatIndex + 1]!
  const last = words.at(-1)
  const lastEnd = last === undefined ? 0 : last.start + last.text.length
  const takesData =
    verb === 'insert' &&
    /^[\s;]*$/.test(sql.slice(lastEnd)) &&
    ((format !== undefined && format === last) || /^values$/i.test(last?.text ?? ''))
  const text = sql.slice(0, takesData ? lastEnd : end)
  return {
    verb,
    ...(format === undefined ? {} : { format: format.text, formatStart: words[formatIndex]!.start }),
    takesData,
    several,
    text,
  }
}

const wordChar = /[\p{L}\p{N}_]/u

/** In an insert, rows start after `values` and after `format X`. */
function startsRows(words: readonly Word[]): boolean {
  if (words[0]?.text.toLowerCase() !== 'insert' || words.length < 3) return false
  if (words.at(-1)!.text.toLowerCase() === 'values') return true
  return words.at(-2)!.text.toLowerCase() === 'format'
}

/** The position after blanks and comments that begin here. */
function skip(sql: string, position: number): number {
  if (/\s/.test(sql[position]!)) return position + 1
  if (sql.startsWith('--', position) || sql.startsWith('# ', position) || sql.startsWith('#!', position)) {
    const end = sql.indexOf('\n', position)
    return end < 0 ? sql.length : end + 1
  }
  if (sql.startsWith('/*', position)) {
    const end = sql.indexOf('*/', position + 2)
    return end < 0 ? sql.length : end + 2
  }
  return position
}

/** The position after a quoted text that begins here. */
function closing(sql: string, start: number): number {
  const quote = sql[start]
  for (let position = start + 1; position < sql.length; position += 1) {
    if (sql[position] === '\\') position += 1
    else if (sql[position] === quote) {
      if (sql[position + 1] !== quote) return position + 1
      position += 1
    }
  }
  return sql.length
}
