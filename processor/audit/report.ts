/** What an audit answers: equations with their figures, what was compared, and what does not agree. Pure. */

export const checkNames = [
  'messages',
  'readings',
  'marks',
  'sent',
  'cells',
  'nodes',
  'lines',
  'contents',
  'totals',
] as const
/** What is compared with what; `meaningOf` says it in words. */
export type CheckName = (typeof checkNames)[number]

export const meaningOf: Readonly<Record<CheckName, string>> = {
  messages: 'log ↔ ledger: each message has one fate',
  readings: 'readings: each is in one class',
  marks: 'reads ↔ marks: as many readings, of the same content, as the mark says',
  sent: 'outbox ↔ ledger: what was sent has arrived',
  cells: 'ledger ↔ rollups: each fresh cell computed again',
  nodes: 'GPU seconds of a node ↔ its GPUs × time',
  lines: 'rollups ↔ lines: each quantity in one class',
  contents: 'deep: each reading hashed again',
  totals: "deep: each read's totals added up again",
}

/** Two figures that should be equal and are not: where, and what to do. */
export interface Difference {
  readonly check: CheckName
  readonly place: string
  readonly message: string
  readonly remedy: string
}

/** How much was compared, of what kind, and how many of it differ: the first of those are named. */
export interface Compared {
  readonly check: CheckName
  readonly compared: bigint
  /** What is counted: messages, reads, cells … */
  readonly things: string
  readonly differing: bigint
  readonly differences: readonly Difference[]
}

export interface Term {
  readonly name: string
  readonly value: string
  /** Why it is what it is, where that is not plain. */
  readonly note?: string
}

/** `left` = the sum of `right`. */
export interface Equation {
  readonly left: Term
  readonly right: readonly Term[]
  /** Of quantities: theirs. */
  readonly unit?: string
  readonly holds: boolean
}

export interface AuditReport {
  /** `gaps`: everything agrees, and something known is missing. */
  readonly state: 'ok' | 'gaps' | 'differs'
  readonly deep: boolean
  readonly equations: readonly Equation[]
  readonly compared: readonly Compared[]
  /** What is known to be missing, each in a line. */
  readonly gaps: readonly string[]
  /** What could not be compared, or what else a reader should know. */
  readonly notes: readonly string[]
}

/** Of what differs so many are named. */
export const namedMax = 20

export function differing(report: Pick<AuditReport, 'compared'>): bigint {
  return report.compared.reduce((sum, { differing }) => sum + differing, 0n)
}

export function firstDifference(report: Pick<AuditReport, 'compared'>): Difference | undefined {
  return report.compared.flatMap(({ differences }) => differences)[0]
}
