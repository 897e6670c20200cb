/** A recompute that dies at any statement: answers stay exact at once, and so do the rollups that the next one leaves. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import { Ledger } from '../../processor/ledger.ts'
import { recompute, registerMeters } from '../../processor/rollups.ts'
import { newToken } from '../../processor/stale.ts'
import { Store } from '../../processor/store.ts'
import { quantities } from '../../processor/usage.ts'
import { show } from '../../schemas/decimal.ts'
import { defaultMeters } from '../../schemas/meters.ts'
import { dayMs } from '../../schemas/window.ts'
import { freshen } from '../freshen.ts'
import { batchOf, hourAfterJune1, instance, june1Ms, readEvents, testSource } from '../reads.ts'
import { startClickHouse, type TestClickHouse } from '../rig/clickhouse.ts'
import { dying } from './dying.ts'

const meters = defaultMeters.filter(({ slug }) => ['instance_hours', 'gpu_hours'].includes(slug))
let rig: TestClickHouse
let store: Store
let ledger: Ledger
let offset = 0
let readatMs = hourAfterJune1(2).endMs

beforeAll(async () => {
  rig = await startClickHouse()
  store = await Store.open(rig)
  await registerMeters(store, meters)
  ledger = new Ledger(store, 'log', null)
})
afterAll(async () => {
  await store?.[Symbol.asyncDispose]()
  await rig?.stop()
})

/** Reads an hour of one scope again: `a` has so many seconds of it, and `b` is there or is not. */
async function read(seconds: number, withB: boolean): Promise<void> {
  const usages = [instance('a', 'i1', String(seconds)), ...(withB ? [instance('b', 'i2', '3600')] : [])]
  readatMs += 1000
  const events = readEvents({ source: testSource, scope: 's', window: hourAfterJune1(0), readatMs }, usages)
  await ledger.put([accept(batchOf(events, offset), 'log')])
  offset += events.length
}

async function expectTotals(seconds: number, withB: boolean): Promise<void> {
  for (const meter of meters) {
    const span = { startMs: june1Ms, endMs: june1Ms + dayMs }
    const rows = await quantities(store, { meter, span, zone: 'UTC', groupBy: [], where: {} })
    const found = Object.fromEntries(rows.map(row => [row.subject, show(row.quantity)]))
    expect(found).toEqual({ a: String(seconds / 3600), ...(withB && { b: '1' }) })
  }
}

test('killed after any number of statements, a recompute leaves exact answers, and the next one exact rollups', async () => {
  for (let at = 0; ; at += 1) {
    const seconds = 450 * (1 + (at % 4))
    const withB = at % 2 === 0
    await read(seconds, withB)
    const broken = dying(store, at + 1, 'before')
    await recompute(broken.store, { run: newToken(), cellsMax: 100, settleMs: 0 }).catch(() => undefined)
    await expectTotals(seconds, withB)
    // What came between the death and the next recompute must not hide behind what that one finishes.
    await read(seconds + 900, !withB)
    await expectTotals(seconds + 900, !withB)
    await freshen(store)
    await expectTotals(seconds + 900, !withB)
    const [row] = await store.rows<{ stale: string }>(
      'select count() as stale from stale final where not done',
    )
    expect(row).toEqual({ stale: '0' })
    if (!broken.reached()) {
      expect(at).toBeGreaterThan(4)
      return
    }
  }
})
