/**
 * The audit: three equations over everything that was ever received, and the chain outbox → log → ledger → rollups → lines
 * compared link by link, each side computed by itself. What lies behind the positions that are read first is in flight.
 */
import type { Window } from '../schemas/window.ts'
import { auditCells } from './audit/cells.ts'
import { auditContents } from './audit/deep.ts'
import { auditMessages, type LogBounds, positionOf, takenPartitions } from './audit/messages.ts'
import { auditNodes } from './audit/nodes.ts'
import { auditQuantities } from './audit/quantities.ts'
import { auditReadings } from './audit/readings.ts'
import { type AuditReport, type Compared, differing, type Equation } from './audit/report.ts'
import { auditSent, type SentEvents } from './audit/sent.ts'
import { always, slicesOf, wholeHours } from './audit/slices.ts'
import type { Billing, bill } from './billing.ts'
import type { Store } from './store.ts'

export interface AuditOptions {
  /** Every event is read again. */
  readonly deep: boolean
  /** The windows whose readings, cells and lines are looked at, widened to whole hours; all if not given. Messages are all. */
  readonly span?: Window
  /** Where the logs begin and end; asked after the positions were read, so that a log never ends before them. */
  readonly logs: () => Promise<readonly LogBounds[]>
  /** The outbox at hand, and the log that it sends to. */
  readonly sent?: { readonly outbox: SentEvents; readonly log: string }
  readonly billing: Billing
  /** Makes the lines: `bill`, unless a test says otherwise. */
  readonly rate?: typeof bill
  /** Told of each part that is done. */
  readonly progress?: (part: string) => void
}

/**
 * Looks once, and where anything differs once more: what was only on its way is then where it belongs.
 * @throws Fault STORE_UNREACHABLE and the like
 */
export async function audit(store: Store, options: AuditOptions): Promise<AuditReport> {
  const first = await look(store, options)
  if (first.state !== 'differs') return first
  const second = await look(store, options)
  return second.state === 'differs' ? second : { ...second, notes: [...second.notes, settledNote(first)] }
}

function settledNote({ compared }: AuditReport): string {
  const [found] = compared.flatMap(({ differences }) => differences)
  return `at a first look ${found?.place ?? 'something'} differed: it was being written`
}

async function look(store: Store, options: AuditOptions): Promise<AuditReport> {
  const { deep, logs, sent, billing, rate, progress = () => undefined } = options
  const span = options.span ? wholeHours(options.span) : always
  const taken = await takenPartitions(store)
  const bounds = await logs()
  const slices = await slicesOf(store, span)
  const compared: Compared[] = []
  const equations: Equation[] = []
  const gaps: string[] = []
  const notes: string[] = []

  const messages = await auditMessages(store, taken, bounds)
  equations.push(messages.equation)
  gaps.push(...messages.gaps)
  notes.push(...messages.notes)
  progress('messages')
  const readings = await auditReadings(store, slices, positionOf(taken), {
    isAtRest: messages.inFlight === 0n,
    accepted: options.span ? undefined : messages.accepted,
  })
  equations.push(readings.equation)
  gaps.push(...readings.gaps)
  progress('readings')
  if (sent) compared.push(await auditSent(store, slices, { ...sent, taken }))
  else notes.push('no outbox is at hand: what collectors sent was not compared with the ledger')
  progress('sent')
  compared.push(messages.compared, ...readings.compared)
  const cells = await auditCells(store, slices, deep ? 'by groups' : 'by sums')
  compared.push(cells.compared)
  notes.push(...cells.notes)
  progress('cells')
  const lines = await auditQuantities(store, slices, billing, rate)
  equations.push(...lines.equations)
  compared.push(lines.compared)
  gaps.push(...lines.gaps)
  notes.push(...lines.notes)
  progress('lines')
  compared.push(await auditNodes(store, slices, billing.meters))
  progress('nodes')
  if (deep) compared.push(...(await auditContents(store, slices)))
  const holds = equations.every(equation => equation.holds) && differing({ compared }) === 0n
  return {
    state: !holds ? 'differs' : gaps.length > 0 ? 'gaps' : 'ok',
    deep,
    equations,
    compared,
    gaps,
    notes,
  }
}
