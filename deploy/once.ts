/** `meterline collect --once`: a bounded read of the past, waited for until the ledger has it, then its coverage. */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { SingleBar } from 'cli-progress'
import { collectOnce, type Gap, type OnceProgress, type OnceSummary } from '../collector/once.ts'
import type { LoadedConfig } from '../runtime/config.ts'
import { Health } from '../runtime/health.ts'
import { openLog } from '../runtime/logs.ts'
import { printJson } from '../runtime/print.ts'
import { Fault } from '../schemas/fault.ts'
import { secondMs, type Window } from '../schemas/window.ts'
import { configured, type Running, type Settings, spanOf, startRoles } from './roles.ts'

export interface OnceSettings extends Settings {
  readonly from?: string
  readonly to?: string
  readonly source?: string
  readonly scope?: string
  /** Reads everything, also what the same command has read within a day without finishing. */
  readonly restart?: boolean
  /** How long the next holder may take none of the rows that wait for it; then the command gives up. Default: two minutes. */
  readonly sentWithinMs?: number
}

const sentWithinMsDefault = 120 * secondMs

/**
 * Exit 0 when every window was read and the log has it all, 3 with the gaps named on stderr.
 * @throws Fault where what was read waits in the outbox still: see `arrived`
 */
export async function collectOnceCommand(settings: OnceSettings): Promise<number> {
  const span = spanOf(settings)
  const collecting = await configured(settings, 'collect')
  // With the outbox read in place this process is also the one that reads it.
  const config = collecting.kafka ? collecting : await configured(settings, 'meter')
  const log = openLog({ level: 'warn', role: 'collect' })
  const health = new Health()
  const roles = config.kafka ? (['sender'] as const) : (['sender', 'processor'] as const)
  await using running = await startRoles(config, settings, roles, { log, health })
  const setAside = () => running.outbox?.depth().quarantinedRows ?? 0
  const asideBefore = setAside()
  const summary = await readSpan(running, { ...settings, span, log })
  const before = summary.windowsBefore > 0 ? ` (${summary.windowsBefore} by the run before)` : ''
  settings.stderr(
    `${summary.windowsRead} of ${summary.windowsDue} windows read${before}, ${summary.readings} readings, ${summary.windowsFailed} windows failed`,
  )
  // Without a ledger at hand the collector tells of its own reads, and at once: Kafka may be away.
  if (!running.store) printGaps(summary.gaps, settings)
  await arrived(running, { ...settings, config })
  const aside = setAside() - asideBefore
  if (aside > 0)
    settings.stderr(`gap: ${aside} rows are set aside in ${outboxFile(config)}: they are too large for Kafka`)
  if (running.store) {
    const { coverage } = await import('../processor/coverage.ts')
    const { printCoverage } = await import('./commands.ts')
    const rows = await coverage(running.store, {
      span,
      nowMs: settings.nowMs(),
      ...(settings.source !== undefined && { source: settings.source }),
      ...(settings.scope !== undefined && { scope: settings.scope }),
    })
    return printCoverage(rows, settings)
  }
  return summary.gaps.length + aside > 0 ? 3 : 0
}

function printGaps(gaps: readonly Gap[], settings: Settings): void {
  if (settings.json === true) settings.stdout(printJson(gaps.map(gap => ({ ...gap, state: 'failed' }))))
  for (const { source, scope, subject, start, end, fault } of gaps)
    settings.stderr(
      `gap: source=${source} scope=${scope}${subject === undefined ? '' : ` subject=${subject}`} ${start}/${end} failed ${fault.code} ${fault.message}`,
    )
}

/** Reads the span with a progress bar on a terminal. */
export async function readSpan(
  running: Running,
  settings: OnceSettings & { readonly span: Window; readonly log: ReturnType<typeof openLog> },
): Promise<OnceSummary> {
  const { span, log, signal, nowMs, source, scope, restart = false } = settings
  let told: OnceProgress | undefined
  const bar = process.stderr.isTTY
    ? new SingleBar({ format: 'reading [{bar}] {value}/{total} windows', stream: process.stderr })
    : undefined
  bar?.start(0, 0)
  try {
    if (!running.outbox) throw new Error('a collector has an outbox')
    return await collectOnce({
      sources: running.opened,
      outbox: running.outbox,
      span,
      log,
      nowMs,
      signal,
      begin: restart ? 'anew' : 'resume',
      progress: progress => {
        const { windowsDue, windowsRead, windowsFailed } = progress
        told = progress
        bar?.setTotal(windowsDue)
        bar?.update(windowsRead + windowsFailed)
      },
      ...(source !== undefined && { source }),
      ...(scope !== undefined && { scope }),
    })
  } catch (error) {
    if (told && told.windowsRead > 0)
      settings.stderr(
        `cut short with ${told.windowsRead} of ${told.windowsDue} windows read: the same command goes on there`,
      )
    throw error
  } finally {
    bar?.stop()
  }
}

const outboxFile = (config: LoadedConfig) => join(config.data, 'outbox.db')

/**
 * Resolves when the next holder (Kafka, or with the outbox read in place the ledger) has every row but those set aside.
 * While rows go it waits, however long that takes.
 * @throws Fault LOG_UNREACHABLE, or STORE_UNREACHABLE of the ledger, where none went for `sentWithinMs`; ABORTED at the
 * signal. Each says how many rows wait, where, and what sends them. Or what ended the roles.
 */
export async function arrived(
  { outbox, done, processor }: Running,
  wait: { readonly config: LoadedConfig; readonly signal: AbortSignal; readonly sentWithinMs?: number },
): Promise<void> {
  if (!outbox) return
  const { config, signal, sentWithinMs = sentWithinMsDefault } = wait
  let ended = false
  const ending = done.finally(() => {
    ended = true
  })
  // Whoever waits for the roles is told by `done`; this copy must not count as a failure nobody looked at.
  ending.catch(() => undefined)
  const waiting = () => {
    const { rows, quarantinedRows } = outbox.depth()
    return rows - quarantinedRows
  }
  let rows = waiting()
  let untilMs = performance.now() + sentWithinMs
  while (rows > 0 && !signal.aborted && !ended && performance.now() < untilMs) {
    await sleep(50)
    const left = waiting()
    if (left < rows) untilMs = performance.now() + sentWithinMs
    rows = left
  }
  if (ended && !signal.aborted) await ending
  if (rows === 0) return
  const [holder, daemon, code] = config.kafka
    ? (['Kafka', 'collect', 'LOG_UNREACHABLE'] as const)
    : (['the ledger', 'up', 'STORE_UNREACHABLE'] as const)
  const why = signal.aborted ? 'the wait was stopped' : `${holder} took none for ${sentWithinMs / secondMs} s`
  throw new Fault(
    signal.aborted ? 'ABORTED' : code,
    `${rows} rows wait in ${outboxFile(config)}: ${why}; the next run, or \`meterline ${daemon}\`, sends them`,
    { rows, trouble: processor?.trouble() },
  )
}
