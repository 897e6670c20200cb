/** What an error of PostgreSQL, or of the way to it, means: a fault with its code and words, and no value of any row. Pure. */
import { Fault, type FaultCode, type FaultFacts } from '../../../schemas/fault.ts'

/** What PostgreSQL sends of an error, in part. */
interface ServerError {
  readonly code?: unknown
  readonly message?: unknown
  readonly severity?: unknown
  readonly position?: unknown
}

/** Whose words tell a person what to mend, and name nothing but what stands in the query: others may quote values. */
const speaking = /^(08|0A|25|28|3D|3F|42|53|55|57)/

/** By the class of a SQLSTATE, or all of it: the longest prefix counts (PostgreSQL, Appendix A). */
const codes: readonly (readonly [prefix: string, code: FaultCode])[] = [
  ['42501', 'SOURCE_DENIED'],
  ['28', 'SOURCE_DENIED'],
  ['3D', 'SOURCE_MISSING'],
  ['08', 'SOURCE_UNREACHABLE'],
  ['40', 'SOURCE_BUSY'],
  ['53', 'SOURCE_BUSY'],
  ['55P03', 'SOURCE_BUSY'],
  ['57', 'SOURCE_BUSY'],
  ['58', 'SOURCE_BUSY'],
]

/**
 * @param about what was asked, such as `query vms`
 * @param placeOf says where in the person's own text a position of the statement is (from 1, in characters)
 */
export function faultOfError(
  error: unknown,
  about: string,
  facts: FaultFacts,
  placeOf: (position: number) => string | undefined = () => undefined,
): Fault {
  if (error instanceof Fault) return error
  const { code, message, severity, position } = error as ServerError
  if (typeof severity !== 'string' || typeof code !== 'string') return unreachable(error, about, facts)
  const said = speaking.test(code) && typeof message === 'string' ? `: ${oneLine(message)}` : ''
  const place = typeof position === 'string' ? placeOf(Number(position)) : undefined
  const hint = code === '57014' ? ' (statementSeconds)' : ''
  const at = place === undefined ? '' : ` at ${place}`
  return new Fault(
    codes.find(([prefix]) => code.startsWith(prefix))?.[1] ?? 'SOURCE_REFUSED',
    `${about}: PostgreSQL says ${code}${at}${said}${hint}`,
    { ...facts, sqlstate: code },
    { cause: undefined },
  )
}

/** No answer of the server: the connection, its certificate, or the words of the driver. */
function unreachable(error: unknown, about: string, facts: FaultFacts): Fault {
  const { code, message } = error as ServerError
  const words = typeof message === 'string' ? message : ''
  if (/does not support SSL/.test(words))
    return new Fault('SOURCE_REFUSED', `${about}: the server speaks no TLS (tls.mode: off)`, facts)
  if (/SASL|SCRAM|password must be/i.test(words))
    return new Fault('SOURCE_DENIED', `${about}: the server and we agree on no password`, facts)
  const why =
    typeof code === 'string' ? code : /timeout/.test(words) ? 'no answer in time' : 'the connection broke'
  return new Fault('SOURCE_UNREACHABLE', `${about}: PostgreSQL cannot be reached (${why})`, facts)
}

function oneLine(text: string): string {
  const line = text.replace(/[\p{C}\s]+/gu, ' ').trim()
  return line.length > 300 ? `${line.slice(0, 300)}…` : line
}
