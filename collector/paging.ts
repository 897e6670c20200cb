/**
 * Takes a whole answer that comes in pages by limit and offset, from a provider whose word on how much there is cannot
 * be trusted. Knows nothing of HTTP: it is given the way to ask for a page.
 */
import assert from 'node:assert'
import { Fault, type FaultFacts } from '../schemas/fault.ts'
import { type Json, stringifyExact } from '../schemas/json.ts'

/** A page as it came: what the reply says of its own limit and offset, where it says anything. */
export interface Page {
  readonly rows: readonly Json[]
  readonly limit?: number
  readonly offset?: number
}

export interface Paging {
  readonly ask: (at: { readonly offset: number; readonly limit: number }) => Promise<Page>
  readonly pageSize: number
  /**
   * Tells rows apart where they have an identity that one answer holds once. Then pages overlap by one row, and an
   * answer whose pages do not fit together, or that holds a row twice, is read again from its start.
   */
  readonly identityOf?: (row: Json) => string | undefined
  /** For the message of a fault: whose answer it is. */
  readonly about: string
  readonly facts?: FaultFacts
}

const readingsMax = 4
const pagesMax = 100_000
/** Rows without an identity may be alike, whole pages of them too: but not for ever. */
const alikeInTurnMax = 100

/**
 * All rows of an answer, each once. The page size is the reply's own limit, else the rows received. The answer ends at
 * an empty page, at one shorter than that limit, or, where the reply does not say its offset, at rows equal to those
 * of the page before (a provider that does not page answers the same to every call).
 * @throws Fault PAGES_DRIFTED when the pages did not fit together several times in a row; and what `ask` throws.
 */
export async function readPages(paging: Paging): Promise<readonly Json[]> {
  let reason = ''
  for (let reading = 1; reading <= readingsMax; reading++) {
    const answer = await readOnce(paging)
    if (typeof answer !== 'string') return answer
    reason = answer
  }
  throw new Fault(
    'PAGES_DRIFTED',
    `${paging.about}: ${reason}, ${readingsMax} times in a row`,
    paging.facts ?? {},
  )
}

/** The rows, or why the pages do not make one answer. */
async function readOnce({ ask, pageSize, identityOf }: Paging): Promise<readonly Json[] | string> {
  assert(pageSize >= 1, 'a page has a size')
  const rows: Json[] = []
  const seen = new Set<string>()
  let anchor: string | undefined
  let before: readonly Json[] | undefined
  let alikeInTurn = 0
  for (let number = 1; number <= pagesMax; number++) {
    // Asking for the last row once more shows a shift that moved rows past us: they would be missing, not doubled.
    const offset = rows.length - (anchor === undefined ? 0 : 1)
    const page = await ask({ offset, limit: pageSize })
    if (page.rows.length === 0)
      return anchor === undefined ? rows : `page ${number} has lost the last row of the page before`
    const alike = before?.length === page.rows.length && stringifyExact(before) === stringifyExact(page.rows)
    if (alike && page.offset === undefined) return rows
    if (page.offset !== undefined && page.offset !== offset)
      return `page ${number} answers offset ${page.offset} instead of ${offset}`
    alikeInTurn = alike ? alikeInTurn + 1 : 0
    if (alikeInTurn > alikeInTurnMax) return `page ${number} is the same as the ${alikeInTurnMax} before`
    before = page.rows

    const overlap = anchor === undefined ? 0 : 1
    if (anchor !== undefined && identityOf?.(page.rows[0] ?? null) !== anchor)
      return `page ${number} does not begin where the page before ended`
    for (const row of page.rows.slice(overlap)) {
      const identity = identityOf?.(row)
      if (identity !== undefined && seen.has(identity)) return `${identity} comes twice`
      if (identity !== undefined) seen.add(identity)
      rows.push(row)
    }
    // A reply may claim a larger limit than it was asked for: what fills our own page is not short.
    const full = page.limit === undefined ? overlap + 1 : Math.min(page.limit, pageSize)
    if (page.rows.length < full) return rows
    anchor = page.rows.length > 1 ? identityOf?.(page.rows.at(-1) ?? null) : undefined
  }
  return `there are more than ${pagesMax} pages`
}
