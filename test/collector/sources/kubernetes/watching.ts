/**
 * A collector of one cluster in a process of its own, so that its memory is its own: watches, and writes each window of a
 * minute that is over into an outbox. Its clock goes faster than ours. Says what came of each read, a line each.
 */
import { collectRead } from '../../../../collector/collect.ts'
import { KubernetesConfig, kubernetes } from '../../../../collector/sources/kubernetes.ts'
import { openHttp } from '../../../../runtime/http.ts'
import { SqliteOutbox } from '../../../../runtime/log/outbox.ts'
import { misfits } from '../../../../schemas/check.ts'
import { minuteMs, windowAt } from '../../../../schemas/window.ts'

/** What it is told, as JSON in its one argument. */
export interface Watching {
  readonly url: string
  readonly token: string
  readonly dir: string
  readonly startMs: number
  readonly realStartMs: number
  readonly speed: number
  readonly windows: number
}

export interface WatchingLine {
  readonly startMs: number
  readonly outcome: string
  readonly events: number
  /** The most memory that the process ever had. */
  readonly rssMostBytes: number
}

const told = JSON.parse(process.argv[2] ?? '{}') as Watching
const nowMs = () => Math.floor(told.startMs + (Date.now() - told.realStartMs) * told.speed)
const config = {
  name: 'large',
  url: told.url,
  token: '${env:TOKEN}',
  parts: ['pods'],
  dynamicResources: 'off',
  windowMinutes: 1,
}
const unfit = misfits(KubernetesConfig, config)
if (unfit.length > 0) throw new Error(JSON.stringify(unfit))

const stopping = new AbortController()
await using http = openHttp()
const outbox = SqliteOutbox.open({ dir: told.dir, access: 'append', nowMs })
await using source = kubernetes.open(config as unknown as KubernetesConfig, {
  http,
  client: openHttp,
  state: outbox.state('meterline/kubernetes/large'),
  secret: () => told.token,
  nowMs,
})
const watching = source.watch?.(stopping.signal)
const opened = { kind: 'kubernetes', name: 'large', source }

let startMs: number | undefined
while (startMs === undefined) {
  await new Promise(resolve => setTimeout(resolve, 20))
  startMs = (await source.scopes(stopping.signal))[0]?.sinceMs
}
for (let read = 0; read < told.windows; read++, startMs += minuteMs) {
  const window = windowAt(startMs, 1)
  while (nowMs() < window.endMs + 1000) await new Promise(resolve => setTimeout(resolve, 20))
  const outcome = await collectRead({
    opened,
    scope: 'pods',
    window,
    outbox,
    by: 'schedule',
    nowMs,
    signal: stopping.signal,
  })
  const line: WatchingLine = {
    startMs,
    outcome: outcome.outcome === 'failed' ? outcome.fault.message : outcome.outcome,
    events: outcome.outcome === 'failed' ? 0 : outcome.readings,
    rssMostBytes: process.resourceUsage().maxRSS * 1024,
  }
  process.stdout.write(`${JSON.stringify(line)}\n`)
}
stopping.abort()
await watching
