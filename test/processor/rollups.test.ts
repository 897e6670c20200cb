/** Recomputing cells against a real ClickHouse, with its process dying at each of its statements. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import { Ledger } from '../../processor/ledger.ts'
import { recompute, registerMeters } from '../../processor/rollups.ts'
import { Store } from '../../processor/store.ts'
import { quantities } from '../../processor/usage.ts'
import { show } from '../../schemas/decimal.ts'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { batchOf, hourAfterJune1, instance, readEvents, testSource } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { dying } from './dying.ts'

const meter = defaultMeters.find(({ slug }) => slug === 'instance_hours') as Meter
let rig: Awaited<ReturnType<typeof startClickHouse>>
let store: Store
let tokens = 0n

beforeAll(async () => {
  rig = await startClickHouse()
  store = await Store.open(rig)
  await registerMeters(store, [meter])
})
afterAll(async () => {
  await store?.[Symbol.asyncDispose]()
  await rig?.stop()
})

test.each(['before', 'after'] as const)(
  'a recompute that dies %s any of its statements leaves no cell fresh that is wrong',
  async when => {
    const ledger = new Ledger(store, when)
    let offset = 0
    for (let at = 1; ; at += 1) {
      const window = hourAfterJune1(at + (when === 'before' ? 0 : 24))
      const read = async (readatMs: number, seconds: string) => {
        const scope = 'org/profile'
        const events = readEvents({ source: testSource, scope, window, readatMs }, [
          instance('org', 'i-1', seconds),
        ])
        await ledger.put([accept(batchOf(events, offset), when)])
        offset += events.length
      }
      const hours = async () => {
        const rows = await quantities(store, { meter, span: window, zone: 'UTC', groupBy: [], where: {} })
        return rows.map(row => show(row.quantity)).join()
      }
      await read(1000, '1800')
      await recompute(store, { run: ++tokens, cellsMax: 100, settleMs: 0 })
      await read(2000, '3600')
      const died = dying(store, at, when)
      await recompute(died.store, { run: ++tokens, cellsMax: 100, settleMs: 0 }).catch(() => undefined)
      expect([at, await hours()]).toEqual([at, '1'])
      await recompute(store, { run: ++tokens, cellsMax: 100, settleMs: 0 })
      expect([at, await hours()]).toEqual([at, '1'])
      if (!died.reached()) {
        expect(at).toBeGreaterThan(4)
        return
      }
    }
  },
)

test('a touch of no cell leaves nothing to be done', async () => {
  const events = readEvents(
    { source: testSource, scope: '*', window: hourAfterJune1(60), readatMs: 1000 },
    [],
  )
  await new Ledger(store, 'empty').put([accept(batchOf(events, 0), 'empty')])
  const stale = await store.rows('select * from stale final where not done')
  expect(stale).toEqual([])
})
