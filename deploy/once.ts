/** `meterline collect --once`: a bounded read of the past, waited for until the ledger has it, then its coverage. */
import { setTimeout as sleep } from 'node:timers/promises'
import { SingleBar } from 'cli-progress'
import { collectOnce, type OnceSummary } from '../collector/once.ts'
import { Health } from '../runtime/health.ts'
import { openLog } from '../runtime/logs.ts'
import { printJson } from '../runtime/print.ts'
import { secondMs, type Window } from '../schemas/window.ts'
import { printCoverage } from './commands.ts'
import { configured, type Running, type Settings, spanOf, startRoles } from './roles.ts'

export interface OnceSettings extends Settings {
  readonly from?: string
  readonly to?: string
  readonly source?: string
  readonly scope?: string
}

/** How long Kafka may take to have all that was read. */
const sentWithinMs = 120 * secondMs

/** Exit 0 when every window was read, 3 with the gaps named on stderr. */
export async function collectOnceCommand(settings: OnceSettings): Promise<number> {
  const span = spanOf(settings)
  const config = await configured(settings)
  const log = openLog({ level: 'warn', role: 'collect' })
  const health = new Health()
  // With the outbox read in place this process is also the one that reads it.
  const roles = config.kafka ? (['sender'] as const) : (['sender', 'processor'] as const)
  await using running = await startRoles(config, settings, roles, { log, health })
  const summary = await readSpan(running, { ...settings, span, log })
  settings.stderr(
    `${summary.windowsRead} of ${summary.windowsDue} windows read, ${summary.readings} readings, ${summary.windowsFailed} windows failed`,
  )
  await arrived(running, settings.signal)
  if (running.store) {
    const { coverage } = await import('../processor/coverage.ts')
    const rows = await coverage(running.store, {
      span,
      nowMs: settings.nowMs(),
      ...(settings.source !== undefined && { source: settings.source }),
      ...(settings.scope !== undefined && { scope: settings.scope }),
    })
    return printCoverage(rows, settings)
  }
  // Without a ledger at hand the collector tells of its own reads: what it could not read is a gap.
  if (settings.json === true)
    settings.stdout(printJson(summary.gaps.map(gap => ({ ...gap, state: 'failed' }))))
  for (const { source, scope, subject, start, end, fault } of summary.gaps)
    settings.stderr(
      `gap: source=${source} scope=${scope}${subject === undefined ? '' : ` subject=${subject}`} ${start}/${end} failed ${fault.code} ${fault.message}`,
    )
  return summary.gaps.length > 0 ? 3 : 0
}

/** Reads the span with a progress bar on a terminal. */
export async function readSpan(
  running: Running,
  settings: OnceSettings & { readonly span: Window; readonly log: ReturnType<typeof openLog> },
): Promise<OnceSummary> {
  const { span, log, signal, nowMs, source, scope } = settings
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
      progress: ({ windowsDue, windowsRead, windowsFailed }) => {
        bar?.setTotal(windowsDue)
        bar?.update(windowsRead + windowsFailed)
      },
      ...(source !== undefined && { source }),
      ...(scope !== undefined && { scope }),
    })
  } finally {
    bar?.stop()
  }
}

/** Resolves when the next holder has all that the outbox held when this was called. */
export async function arrived({ outbox, done }: Running, signal: AbortSignal): Promise<void> {
  if (!outbox) return
  const here = () => outbox.depth().rows === 0
  const untilMs = performance.now() + sentWithinMs
  let ended = false
  const ending = done.finally(() => {
    ended = true
  })
  // Whoever waits for the roles is told by `done`; this copy must not count as a failure nobody looked at.
  ending.catch(() => undefined)
  while (!here() && !signal.aborted && !ended && performance.now() < untilMs) await sleep(50)
  if (ended && !signal.aborted) await ending
}
