/** The API's route for usage as it is served over HTTP, for the benchmarks. */
import { Registry } from 'prom-client'
import { openApi } from '../../processor/api/api.ts'
import { usageRoutes } from '../../processor/api/usage.ts'
import { Catalogue } from '../../processor/catalogue.ts'
import { Queries } from '../../processor/queries.ts'
import type { Store } from '../../processor/store.ts'
import { Health, serveHealth } from '../../runtime/health.ts'
import type { Meter } from '../../schemas/meters.ts'

/** The defaults of `query` in the configuration. */
export const queryLimits = { seconds: 60, memoryBytes: 1024 ** 3, concurrency: 3, queued: 200 }

export interface UsageApi extends AsyncDisposable {
  readonly url: string
}

/** Answers `/api/v1/usage` for these meters to anyone on this machine. */
export async function serveUsage(store: Store, meters: readonly Meter[]): Promise<UsageApi> {
  const served = await serveHealth({
    health: new Health(),
    registry: new Registry(),
    host: '127.0.0.1',
    port: 0,
  })
  const catalogue = new Catalogue(store, meters, Date.now)
  const api = await openApi({
    mount: served.mount,
    routes: [
      usageRoutes({
        store,
        queries: new Queries(queryLimits),
        accounts: async () => [],
        meterOf: slug => catalogue.find(slug),
      }),
    ],
    access: 'loopback',
  })
  return {
    url: served.url,
    [Symbol.asyncDispose]: async () => {
      await api[Symbol.asyncDispose]()
      await served[Symbol.asyncDispose]()
    },
  }
}

/** One question over HTTP, read to its end. @throws Error for any answer but 200 */
export async function askUsage(url: string, query: Readonly<Record<string, string>>): Promise<Buffer> {
  const answer = await fetch(`${url}/api/v1/usage?${new URLSearchParams(query)}`)
  const body = Buffer.from(await answer.arrayBuffer())
  if (answer.status !== 200) throw new Error(`${answer.status} ${body.toString().slice(0, 300)}`)
  return body
}
