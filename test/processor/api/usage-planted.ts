/** `GET /api/v1/usage` over a real ClickHouse with as many cells as a test wants: what recomputes would have made of a ledger that takes a day to read. */
import { Registry } from 'prom-client'
import { openApi } from '../../../processor/api/api.ts'
import { lineItemRoutes } from '../../../processor/api/line-items.ts'
import { usageRoutes } from '../../../processor/api/usage.ts'
import type { Billing } from '../../../processor/billing.ts'
import { type Bounds, Queries, type QueryLimits } from '../../../processor/queries.ts'
import { registerMeters, rollupKey } from '../../../processor/rollups.ts'
import { Store } from '../../../processor/store.ts'
import { Health, serveHealth } from '../../../runtime/health.ts'
import type { Meter } from '../../../schemas/meters.ts'
import { hourMs, showInstant } from '../../../schemas/window.ts'
import type { TestClickHouse } from '../../rig/clickhouse.ts'

export const startMs = Date.UTC(2026, 0, 1)
export const hourCount = 600
export const span = { from: showInstant(startMs), to: showInstant(startMs + hourCount * hourMs) }
export const meter: Meter = {
  slug: 'seconds',
  eventTypes: ['io.meterline.rafay.instance.v1'],
  aggregation: 'SUM',
  value: 'instance_seconds',
  per: '3600',
  groupBy: { gpu_type: 'gpu_type', who: 'subject' },
  unit: 'h',
}
/** From when events count for the same meter under the name `late`. */
export const lateFromMs = startMs + 2 * hourMs
/** One account, with all that the first subject used. */
const billing: Billing = {
  accounts: [
    {
      id: 'acme',
      currency: 'USD',
      timezone: 'UTC',
      priceBook: 'list',
      subjects: [{ source: 'meterline/rafay/test', subject: 's0000' }],
    },
  ],
  books: [
    { id: 'list', currency: 'USD', charges: [{ id: 'hours', meter: 'seconds', price: { unit: '1' } }] },
  ],
  meters: [meter],
}
const limits: QueryLimits = { seconds: 60, memoryBytes: 2 ** 30, concurrency: 2, queued: 5 }

/** At which ClickHouse may read. */
type RowsPerSecond = number

export interface Planted extends AsyncDisposable {
  readonly store: Store
  serve(bounds?: Partial<QueryLimits>, slowTo?: RowsPerSecond): Promise<Served>
}

export interface Served extends AsyncDisposable {
  readonly url: string
  readonly queries: Queries
  ask(query: Record<string, string>, init?: RequestInit): Promise<Response>
}

/** Ends the rig with itself. A cell for each subject and hour; cell number n has 3 × (1 + n % 7) seconds, a third of them of one GPU type. */
export async function plant(rig: TestClickHouse, subjectCount: number): Promise<Planted> {
  const scope = new AsyncDisposableStack()
  scope.use(rig)
  const store = scope.use(await Store.open(rig))
  await registerMeters(store, [meter])
  await store.run(
    `insert into cells (meter, source, subject, hour, version, sum, dims, sums)
     select {key:String}, 'meterline/rafay/test', concat('s', leftPad(toString(number % ${subjectCount}), 4, '0')),
       toDateTime({start:UInt32} + 3600 * intDiv(number, ${subjectCount}), 'UTC'), 1, 3 * (1 + number % 7),
       [['H100, "big"', 's'], ['L40', 's']], [toDecimal256(1 + number % 7, 12), toDecimal256(2 * (1 + number % 7), 12)]
     from numbers(${subjectCount * hourCount})`,
    { key: rollupKey(meter), start: startMs / 1000 },
  )
  return {
    store,
    serve: (bounds, slowTo) => serve(store, bounds, slowTo),
    [Symbol.asyncDispose]: () => scope.disposeAsync(),
  }
}

class SlowQueries extends Queries {
  readonly #rowsPerSecond: RowsPerSecond

  constructor(bounds: QueryLimits, rowsPerSecond: RowsPerSecond) {
    super(bounds)
    this.#rowsPerSecond = rowsPerSecond
  }

  override async *ask<Rows>(
    signal: AbortSignal,
    question: (bounds: Bounds) => AsyncIterable<Rows>,
  ): AsyncGenerator<Rows> {
    const slow = {
      max_execution_speed: String(this.#rowsPerSecond),
      timeout_before_checking_execution_speed: 0,
    }
    yield* super.ask(signal, bounds => question({ ...bounds, settings: { ...bounds.settings, ...slow } }))
  }
}

async function serve(
  store: Store,
  bounds: Partial<QueryLimits> = {},
  slowTo?: RowsPerSecond,
): Promise<Served> {
  const scope = new AsyncDisposableStack()
  const server = scope.use(
    await serveHealth({ health: new Health(), registry: new Registry(), host: '127.0.0.1', port: 0 }),
  )
  const whole = { ...limits, ...bounds }
  const queries = slowTo === undefined ? new Queries(whole) : new SlowQueries(whole, slowTo)
  const lineItems = lineItemRoutes({ store, queries, billing: async () => billing, nowMs: () => startMs })
  const usage = usageRoutes({
    store,
    queries,
    meterOf: async slug => ({ answering: meter, ...(slug === 'late' && { eventFromMs: lateFromMs }) }),
    accounts: async () => [],
  })
  scope.use(await openApi({ mount: server.mount, routes: [usage, lineItems], access: 'anyone' }))
  const ask = async (query: Record<string, string>, init: RequestInit = {}) =>
    await fetch(
      `${server.url}/api/v1/usage?${new URLSearchParams({ meter: 'seconds', ...span, ...query })}`,
      init,
    )
  return { url: server.url, queries, ask, [Symbol.asyncDispose]: () => scope.disposeAsync() }
}
