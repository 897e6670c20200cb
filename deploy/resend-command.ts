/** `meterline resend`: one comparison of what the outbox has sent with what the ledger has, by hand, beside a running collector. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { outboxName } from '../runtime/log/damaged.ts'
import { SqliteOutbox } from '../runtime/log/outbox.ts'
import { printJson } from '../runtime/print.ts'
import { Fault } from '../schemas/fault.ts'
import { dayMs, showInstant } from '../schemas/window.ts'
import { resendMissing, sentLog } from './resend.ts'
import { configured, kafkaConfig, openSources, openStore, type Settings, sourceNames } from './roles.ts'

/** Exit 0 where nothing is missing or all of it is sent again, 3 with the windows that have to be read again on stderr. */
export async function resendCommand(settings: Settings): Promise<number> {
  const config = await configured(settings, 'collect')
  if (!existsSync(join(config.data, outboxName)))
    throw new Fault(
      'USAGE',
      `there is no outbox in ${config.data}: run it where the collector has its data`,
      {
        dir: config.data,
      },
    )
  await using opening = new AsyncDisposableStack()
  const opened = await openSources(config, settings, opening)
  const outbox = opening.use(
    SqliteOutbox.open({
      dir: config.data,
      access: 'drain',
      retentionMs: config.outbox.retentionDays * dayMs,
      nowMs: settings.nowMs,
    }),
  )
  const { store } = opening.use(await openStore(config, settings))
  const report = await resendMissing({
    outbox,
    store,
    log: await sentLog(kafkaConfig(config, settings), outbox, { signal: settings.signal }),
    sources: sourceNames(opened),
    nowMs: settings.nowMs(),
    pastMs: Number.POSITIVE_INFINITY,
  })
  const { rowsMissing, rowsResent, windowsDue, windowsUnderWay } = report
  if (settings.json === true)
    settings.stdout(
      printJson({
        rows_missing: rowsMissing,
        rows_resent: rowsResent,
        windows_under_way: windowsUnderWay,
        windows_due: windowsDue.map(({ source, scope, startMs, endMs }) => ({
          source,
          scope,
          start: showInstant(startMs),
          end: showInstant(endMs),
        })),
      }),
    )
  else
    settings.stdout(
      `${rowsMissing} rows missing, ${rowsResent} sent again; ${windowsDue.length} windows due again, ${windowsUnderWay} on their way\n`,
    )
  for (const { source, scope, startMs, endMs } of windowsDue)
    settings.stderr(
      `gap: source=${source} scope=${scope} ${showInstant(startMs)}/${showInstant(endMs)} is read again`,
    )
  return windowsDue.length > 0 || rowsMissing > rowsResent ? 3 : 0
}
