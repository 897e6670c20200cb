/** Reads a price book as people write it, in YAML or JSON, and names every misfit with its line. Pure. */
import { LineCounter, parseDocument } from 'yaml'
import type { Misfit } from '../schemas/check.ts'
import { Fault } from '../schemas/fault.ts'
import { type Book, bookMisfits } from '../schemas/pricebook.ts'
import { grammar } from './pricing/list.ts'

/** A misfit and the line it stands on, counted from 1. */
export interface PlacedMisfit extends Misfit {
  readonly line: number
}

/** The book, or all that is wrong with it. */
export function parseBook(
  text: string,
): { readonly book: Book } | { readonly misfits: readonly PlacedMisfit[] } {
  const lines = new LineCounter()
  // Keys written twice are an error here: the first would be lost without a word.
  const document = parseDocument(text, { lineCounter: lines, uniqueKeys: true })
  if (document.errors.length > 0)
    return {
      misfits: document.errors.map(error => ({
        path: '',
        message: error.message.split('\n')[0]!,
        line: lines.linePos(error.pos[0]).line,
      })),
    }
  const value: unknown = document.toJS({ maxAliasCount: 1000 })
  const misfits = bookMisfits(value, grammar)
  if (misfits.length === 0) return { book: value as Book }
  return {
    misfits: misfits.map(misfit => ({
      ...misfit,
      line: lines.linePos(offsetOf(document, misfit.path)).line,
    })),
  }
}

/** @throws Fault CONFIG_INVALID naming file, line, path and what is wrong, each misfit. */
export function readBook(text: string, file: string): Book {
  const parsed = parseBook(text)
  if ('book' in parsed) return parsed.book
  const listed = parsed.misfits.map(({ line, path, message }) => `${file}:${line} ${path} ${message}`)
  throw new Fault('CONFIG_INVALID', `the price book does not fit: ${listed.join('; ')}`, {
    file,
    misfits: listed.length,
  })
}

/** Where a pointer leads in the text; as far as it does, for what is missing. */
function offsetOf(document: ReturnType<typeof parseDocument>, pointer: string): number {
  const keys = pointer
    .split('/')
    .slice(1)
    .map(key => key.replaceAll('~1', '/').replaceAll('~0', '~'))
  for (let length = keys.length; length > 0; length -= 1) {
    const node = document.getIn(keys.slice(0, length), true) as { range?: readonly number[] } | undefined
    if (node?.range) return node.range[0]!
  }
  return document.contents?.range?.[0] ?? 0
}
