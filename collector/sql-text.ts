/**
 * Placeholders in SQL that a person wrote: found where they are code, never in strings, quoted names or comments, and
 * replaced by what the dialect binds. Leaves the sense of the statement to the server. Pure.
 */
import { Fault } from '../schemas/fault.ts'

export const placeholders = ['start', 'end', 'after', 'limit'] as const
export type Placeholder = (typeof placeholders)[number]
/** MySQL has no source of its own here: docs/adding.md shows one. */
export type Dialect = 'postgresql' | 'clickhouse' | 'mysql'

/** A statement in which each placeholder stands as the server wants it. */
export interface BoundSql {
  readonly text: string
  readonly used: ReadonlySet<Placeholder>
  /** Where in the original the character at this offset of `text` stands; both count UTF-16 units from 0. */
  readonly originOf: (offset: number) => number
}

/**
 * @param write what stands for a placeholder; it may be asked several times for one.
 * @throws Fault CONFIG_INVALID where the text is no SELECT, holds several, or a string or comment that does not end
 */
export function bindPlaceholders(
  sql: string,
  dialect: Dialect,
  write: (name: Placeholder) => string,
): BoundSql {
  const used = new Set<Placeholder>()
  let text = ''
  /** Where pieces of the original begin: in `text`, and in the original. */
  const pieces: { readonly at: number; readonly origin: number }[] = [{ at: 0, origin: 0 }]
  let copied = 0
  let semicolonAt: number | undefined
  let first: string | undefined
  for (const token of tokensOf(sql, dialect)) {
    if (token.of === 'blank') continue
    if (semicolonAt !== undefined)
      throw new Fault(
        'CONFIG_INVALID',
        `more than one statement: ${placeIn(sql, token.start)} begins another`,
      )
    first ??= sql.slice(token.start, token.end).toLowerCase()
    if (token.of === 'semicolon') semicolonAt = token.start
    if (token.of !== 'placeholder') continue
    used.add(token.name)
    text += sql.slice(copied, token.start)
    pieces.push({ at: text.length, origin: token.start })
    text += write(token.name)
    pieces.push({ at: text.length, origin: token.end })
    copied = token.end
  }
  if (first === undefined || !['select', 'with', '('].includes(first))
    throw new Fault('CONFIG_INVALID', 'it is no SELECT')
  text += sql.slice(copied, semicolonAt)
  const originOf = (offset: number) => {
    const index = pieces.findLastIndex(piece => piece.at <= offset)
    const { at, origin } = pieces[Math.max(index, 0)]!
    // What was written for a placeholder is one place in the original.
    return index % 2 === 1 ? origin : origin + offset - at
  }
  return { text, used, originOf }
}

/** `line 3, column 9`, both from 1. */
export function placeIn(sql: string, offset: number): string {
  const before = sql.slice(0, offset).split('\n')
  return `line ${before.length}, column ${(before.at(-1)?.length ?? 0) + 1}`
}

type Token =
  | { readonly of: 'blank' | 'code' | 'semicolon'; readonly start: number; readonly end: number }
  | {
      readonly of: 'placeholder'
      readonly start: number
      readonly end: number
      readonly name: Placeholder
    }

const word = /[\p{L}_][\p{L}\p{N}_$]*/uy
const placeholderHere = new RegExp(`:(${placeholders.join('|')})(?![\\p{L}\\p{N}_$])`, 'uy')
const dollarTag = /\$(?:[\p{L}_][\p{L}\p{N}_]*)?\$/uy

function* tokensOf(sql: string, dialect: Dialect): Generator<Token> {
  const postgresql = dialect === 'postgresql'
  let at = 0
  const matched = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at
    return pattern.exec(sql)?.[0]
  }
  while (at < sql.length) {
    const start = at
    const here = sql[at]!
    const two = sql.slice(at, at + 2)
    if (/\s/.test(here)) {
      at += 1
      yield { of: 'blank', start, end: at }
    } else if (isLineComment(sql, at, dialect)) {
      const lineEnd = sql.indexOf('\n', at)
      at = lineEnd < 0 ? sql.length : lineEnd
      yield { of: 'blank', start, end: at }
    } else if (two === '/*') {
      at = commentEnd(sql, at, postgresql ? 'nested' : 'flat')
      yield { of: 'blank', start, end: at }
    } else if (here === ';') {
      at += 1
      yield { of: 'semicolon', start, end: at }
    } else if (here === "'" || here === '"' || (here === '`' && !postgresql)) {
      // In PostgreSQL a backslash is a letter but in E'…': the session sets standard_conforming_strings.
      at = quoteEnd(sql, at, postgresql ? 'plain' : 'escapes')
      yield { of: 'code', start, end: at }
    } else if (here === '$' && dialect !== 'mysql' && matched(dollarTag) !== undefined) {
      const tag = matched(dollarTag)!
      const end = sql.indexOf(tag, at + tag.length)
      if (end < 0) throw unended(sql, at, tag)
      at = end + tag.length
      yield { of: 'code', start, end: at }
    } else if (two === '::') {
      at += 2
      yield { of: 'code', start, end: at }
    } else if (here === ':' && matched(placeholderHere) !== undefined) {
      const found = matched(placeholderHere)!
      at += found.length
      yield { of: 'placeholder', start, end: at, name: found.slice(1) as Placeholder }
    } else {
      const found = matched(word)
      // A word is taken whole: the `e` of `name'…'` begins no escape string, the `$` of `a$b$` no dollar quote.
      at += found?.length ?? (sql.codePointAt(at)! > 0xffff ? 2 : 1)
      if (postgresql && found !== undefined && /^e$/i.test(found) && sql[at] === "'")
        at = quoteEnd(sql, at, 'escapes')
      yield { of: 'code', start, end: at }
    }
  }
}

function isLineComment(sql: string, at: number, dialect: Dialect): boolean {
  const two = sql.slice(at, at + 2)
  if (dialect === 'postgresql') return two === '--'
  if (dialect === 'clickhouse') return two === '--' || two === '# ' || two === '#!'
  // In MySQL `5--1` is 6.
  return two[0] === '#' || (two === '--' && /^\s?$/.test(sql.slice(at + 2, at + 3)))
}

/** Past the quote that ends what begins here; a doubled one is part of it. */
function quoteEnd(sql: string, start: number, how: 'plain' | 'escapes'): number {
  const quote = sql[start]!
  for (let at = start + 1; at < sql.length; at += 1) {
    if (how === 'escapes' && sql[at] === '\\') at += 1
    else if (sql[at] === quote) {
      if (sql[at + 1] !== quote) return at + 1
      at += 1
    }
  }
  throw unended(sql, start, quote)
}

function commentEnd(sql: string, start: number, how: 'nested' | 'flat'): number {
  let depth = 1
  for (let at = start + 2; at < sql.length; at += 1) {
    const two = sql.slice(at, at + 2)
    if (two === '*/') {
      depth -= 1
      if (depth === 0) return at + 2
      at += 1
    } else if (two === '/*' && how === 'nested') {
      depth += 1
      at += 1
    }
  }
  throw unended(sql, start, '/*')
}

function unended(sql: string, start: number, what: string): Fault {
  return new Fault('CONFIG_INVALID', `${what} at ${placeIn(sql, start)} has no end`)
}
