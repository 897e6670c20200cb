/** What an exception of ClickHouse means: a fault with its code and words, and no value of any row. Pure. */
import { Buffer } from 'node:buffer'
import { Fault, type FaultCode } from '../../../schemas/fault.ts'
import type { PreparedQuery } from '../../sql.ts'
import { placeIn } from '../../sql-text.ts'

/** `Code: 47. DB::Exception: words. (UNKNOWN_IDENTIFIER) (version …)` */
export interface Exception {
  readonly code: number
  readonly name: string
  readonly words: string
}

/** The last one in a body, which may come after rows; by the header alone, where the body says nothing. */
export function exceptionIn(answer: {
  readonly headers: Readonly<Record<string, string>>
  readonly text: string
}): Exception | undefined {
  const tail = answer.text.slice(-16_384)
  const match = [...tail.matchAll(/Code: (\d{1,5})\. DB::(?:\w+)?Exception: ([\s\S]*?)(?=Code: \d|$)/g)].at(
    -1,
  )
  const code = match?.[1] ?? answer.headers['x-clickhouse-exception-code']
  if (code === undefined || !/^\d{1,5}$/.test(code)) return undefined
  const words = match?.[2] ?? ''
  return { code: Number(code), name: /\(([A-Z][A-Z0-9_]+)\)/.exec(words)?.[1] ?? '', words }
}

const denied = [164, 192, 193, 194, 195, 497, 516]
/** They may pass by themselves; of the first, another attempt at once may do. */
const passing = [202, 209, 210, 279, 425, 999]
const lasting = [159, 160, 201, 236, 241, 243, 394, 473]
const missing = [81]
/** Whose words name only what stands in the query or in the schema: those of others may quote values. */
const speaking = new Set([
  ...[36, 42, 43, 46, 47, 60, 62, 81, 115, 159, 164, 179, 184, 202, 207, 215, 241, 352, 386, 452, 456],
  ...[497, 516],
])

/** The fault, and whether the same call may succeed at once. */
export function faultOfException(
  { code, name, words }: Exception,
  about: string,
  prepared: PreparedQuery | undefined,
): { readonly fault: Fault; readonly again: boolean } {
  const kind: FaultCode = denied.includes(code)
    ? 'SOURCE_DENIED'
    : missing.includes(code)
      ? 'SOURCE_MISSING'
      : passing.includes(code) || lasting.includes(code)
        ? 'SOURCE_BUSY'
        : 'SOURCE_REFUSED'
  const place = prepared && placeOf(words, prepared)
  const said = speaking.has(code) ? firstSentence(words) : ''
  const hint = code === 159 ? ' (statementSeconds)' : ''
  const message = `${about}: ClickHouse says ${code}${name && ` ${name}`}${place ? ` at ${place}` : ''}${said && `: ${said}`}${hint}`
  return { fault: new Fault(kind, message, { exception: code }), again: passing.includes(code) }
}

/** A syntax error says at which byte, from 1, of what was sent. */
function placeOf(words: string, { bound, query }: PreparedQuery): string | undefined {
  const position = /failed at position (\d{1,6})/.exec(words)?.[1]
  if (position === undefined) return undefined
  const before = Buffer.from(bound.text).subarray(0, Number(position) - 1)
  return placeIn(query.sql, bound.originOf(before.toString().length))
}

/** Without the statement that it is about, which ClickHouse repeats. */
function firstSentence(words: string): string {
  const [sentence = ''] = words
    .replace(/[\p{C}\s]+/gu, ' ')
    .split(/ failed at position|,? (?:in|In) (?:the )?scope |: (?:While|while|In scope) |\. \(|\(version /)
  const line = sentence.trim().replace(/[.:]$/, '')
  return line.length > 200 ? `${line.slice(0, 200)}…` : line
}
