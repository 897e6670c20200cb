/** `meterline audit`: opens what there is to compare, and prints what agrees and what does not. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { LogBounds } from '../processor/audit/messages.ts'
import { type AuditReport, differing, firstDifference, meaningOf } from '../processor/audit/report.ts'
import { audit } from '../processor/audit.ts'
import type { LoadedConfig } from '../runtime/config.ts'
import { SqliteOutbox } from '../runtime/log/outbox.ts'
import { printJson } from '../runtime/print.ts'
import { asFault, describeFault } from '../schemas/fault.ts'
import { configured, kafkaConfig, openStore, type Settings, spanOf } from './roles.ts'

export interface AuditSettings extends Settings {
  readonly deep?: boolean
  readonly from?: string
  readonly to?: string
}

const exitCodes: Readonly<Record<AuditReport['state'], number>> = { ok: 0, differs: 1, gaps: 3 }

/** Exit 0 when all agrees, 1 with the first difference named, 3 where only what is known to be missing is. */
export async function auditCommand(settings: AuditSettings): Promise<number> {
  const config = await configured(settings, 'price')
  await using opened = await openStore(config, settings)
  using outbox = openSent(config, settings)
  const log = await openLog(config, settings, outbox)
  const hasSpan = settings.from !== undefined || settings.to !== undefined
  const report = await audit(opened.store, {
    deep: settings.deep === true,
    billing: config,
    logs: log.bounds,
    ...(outbox && log.id !== undefined && { sent: { outbox, log: log.id } }),
    ...(hasSpan && { span: spanOf(settings) }),
  })
  const all = { ...report, notes: [...log.notes, ...report.notes] }
  settings.stdout(settings.json === true ? printJson(jsonOf(all)) : showAudit(all))
  for (const gap of all.gaps) settings.stderr(`gap: ${gap}`)
  return exitCodes[all.state]
}

/** The outbox of the data directory, beside the collector that writes it; none where there is none. */
function openSent(config: LoadedConfig, settings: Settings): SqliteOutbox | undefined {
  if (!existsSync(join(config.data, 'outbox.db'))) return undefined
  return SqliteOutbox.open({ dir: config.data, access: 'drain', nowMs: settings.nowMs })
}

interface AuditedLog {
  /** Undefined where it cannot be known. */
  readonly id: string | undefined
  readonly bounds: () => Promise<readonly LogBounds[]>
  readonly notes: readonly string[]
}

async function openLog(
  config: LoadedConfig,
  settings: Settings,
  outbox: SqliteOutbox | undefined,
): Promise<AuditedLog> {
  const kafka = kafkaConfig(config, settings)
  if (!kafka) {
    if (!outbox) return { id: undefined, bounds: async () => [], notes: [] }
    const bounds = async () => {
      const { firstSeq, nextSeq } = outbox.bounds()
      return [
        {
          log: outbox.id,
          partitions: new Map([[0, { first: BigInt(firstSeq), next: BigInt(nextSeq) }]]),
        },
      ]
    }
    return { id: outbox.id, bounds, notes: [] }
  }
  const { withAdmin } = await import('../runtime/log/kafka.ts')
  const { kafkaEventLog } = await import('../runtime/log/kafka-event-log.ts')
  const { signal } = settings
  try {
    // Opened for its id alone: nothing is read of it.
    await using log = await kafkaEventLog(kafka, { signal })
    const { id } = log
    const bounds = async () => {
      const offsets = await withAdmin(kafka, admin => admin.fetchTopicOffsets(kafka.topic), { signal })
      const partitions = offsets.map(
        ({ partition, low, high }) => [partition, { first: BigInt(low), next: BigInt(high) }] as const,
      )
      return [{ log: id, partitions: new Map(partitions) }]
    }
    return { id, bounds, notes: [] }
  } catch (error) {
    const fault = asFault(error, 'LOG_UNREACHABLE')
    if (fault.fate === 'halt') throw fault
    return {
      id: undefined,
      bounds: async () => [],
      notes: [`Kafka was not asked, so what is in flight is not known: ${describeFault(fault)}`],
    }
  }
}

/** The equations as people read them, each link of the chain in a line, and `ok` or the first difference. */
export function showAudit(report: AuditReport): string {
  const lines: string[] = []
  for (const { left, right, unit, holds } of report.equations) {
    const width = Math.max(left.name.length, ...right.map(({ name }) => name.length))
    const digits = Math.max(left.value.length, ...right.map(({ value }) => value.length))
    const suffix = (note: string | undefined) => (note === undefined ? '' : `  (${note})`)
    lines.push(
      `  ${left.name.padEnd(width)}  ${left.value.padStart(digits)}${unit === undefined ? '' : ` ${unit}`}${suffix(left.note)}`,
      ...right.map(
        ({ name, value, note }, index) =>
          `${index === 0 ? '= ' : '+ '}${name.padEnd(width)}  ${value.padStart(digits)}${suffix(note)}`,
      ),
      holds ? '' : `✗ the two sides are not equal\n`,
    )
  }
  for (const { check, compared, things, differing: wrong } of report.compared)
    lines.push(
      `${wrong === 0n ? '✓' : '✗'} ${meaningOf[check]} (${compared} ${things}${wrong === 0n ? '' : `, ${wrong} differ`})`,
    )
  lines.push('', ...report.notes.map(note => `note: ${note}`))
  const first = firstDifference(report)
  if (report.state !== 'differs')
    lines.push(report.state === 'ok' ? 'ok' : `ok, with ${report.gaps.length} known gaps`)
  else if (first) {
    const others = differing(report) - 1n
    lines.push(
      `first difference: ${first.place}: ${first.message}`,
      `  what to do: ${first.remedy}`,
      ...(others > 0n ? [`and ${others} more`] : []),
    )
  } else lines.push('an equation does not hold, and no single difference was found')
  return `${lines.join('\n').replaceAll(/\n{3,}/g, '\n\n')}\n`
}

function jsonOf(report: AuditReport): unknown {
  return {
    ...report,
    compared: report.compared.map(one => ({
      ...one,
      compared: one.compared.toString(),
      differing: one.differing.toString(),
    })),
  }
}
