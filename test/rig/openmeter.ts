/**
 * Meterline as OpenMeter's clients meet it: the way in, the embedded log, a processor, a real ClickHouse and the API, in
 * the process of the test.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Registry } from 'prom-client'
import { openApi } from '../../processor/api/api.ts'
import { eventRoutes } from '../../processor/api/events.ts'
import { eventListRoutes } from '../../processor/api/openmeter/events.ts'
import { meterRoutes } from '../../processor/api/openmeter/meters.ts'
import { queryRoutes } from '../../processor/api/openmeter/query.ts'
import { subjectRoutes } from '../../processor/api/openmeter/subjects.ts'
import { Catalogue } from '../../processor/catalogue.ts'
import { startProcessor } from '../../processor/process.ts'
import { Queries } from '../../processor/queries.ts'
import { Store } from '../../processor/store.ts'
import { Health, serveHealth } from '../../runtime/health.ts'
import type { Keys } from '../../runtime/keys.ts'
import { embeddedLog } from '../../runtime/log/embedded.ts'
import { Ingest } from '../../runtime/log/ingest.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { outboxSink } from '../../runtime/log/sink.ts'
import type { Account } from '../../schemas/accounts.ts'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { startClickHouse } from './clickhouse.ts'

export interface RunningOpenMeter extends AsyncDisposable {
  readonly url: string
  readonly store: Store
  readonly outbox: SqliteOutbox
  /** Waits until the ledger has all that the log has. */
  settled(): Promise<void>
}

export async function startOpenMeter(
  options: {
    readonly meters?: readonly Meter[]
    readonly accounts?: readonly Account[]
    readonly keys?: Keys
    readonly nowMs?: () => number
  } = {},
): Promise<RunningOpenMeter> {
  const { meters = defaultMeters, accounts = [], keys, nowMs = Date.now } = options
  await using opening = new AsyncDisposableStack()
  const dir = mkdtempSync(join(tmpdir(), 'meterline-openmeter-'))
  opening.defer(() => rmSync(dir, { recursive: true, force: true }))
  const rig = opening.use(await startClickHouse())
  const store = opening.use(await Store.open(rig))
  const outbox = opening.use(SqliteOutbox.open({ dir, access: 'append', nowMs }))
  const stop = new AbortController()
  const processor = await startProcessor({
    store,
    log: embeddedLog(outbox),
    meters,
    signal: stop.signal,
    say: line => console.log(line),
  })
  opening.defer(async () => {
    stop.abort()
    await processor.done
  })
  const server = opening.use(
    await serveHealth({ health: new Health(), registry: new Registry(), host: '127.0.0.1', port: 0 }),
  )
  const ingest = new Ingest({ sink: outboxSink(outbox), nowMs })
  const catalogue = new Catalogue(store, meters, nowMs)
  const queries = new Queries({ seconds: 30, memoryBytes: 1e9, concurrency: 2, queued: 100 })
  const parts = { store, queries, catalogue, accounts: async () => accounts, nowMs }

  const api = await openApi({
    mount: server.mount,
    routes: [
      eventRoutes({ ingest }),
      eventListRoutes(parts),
      subjectRoutes(parts),
      queryRoutes(parts),
      meterRoutes(parts),
    ],
    access: keys ? 'keys' : 'loopback',
    ...(keys && { keys }),
    nowMs,
    onFault: fault => console.log(fault),
  })
  opening.use(api)
  const held = opening.move()
  return {
    url: server.url,
    store,
    outbox,
    async settled() {
      const untilMs = performance.now() + 30_000
      while (outbox.depth().rows > 0) {
        if (performance.now() > untilMs) throw new Error('the ledger does not take what the log has')
        await sleep(5)
      }
    },
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  }
}
