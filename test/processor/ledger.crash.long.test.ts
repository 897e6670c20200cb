/** The ledger in a real ClickHouse: a crash after each statement of a re-read, all of them. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import { Ledger } from '../../processor/ledger.ts'
import { batchOf, instance, readEvents } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { dying } from './dying.ts'
import { hourOf, openWorld, source } from './ledger-world.ts'

let rig: Awaited<ReturnType<typeof startClickHouse>>

beforeAll(async () => {
  rig = await startClickHouse()
})
afterAll(async () => {
  await rig?.stop()
})

test('a crash after any statement of a re-read leaves exact answers behind', async () => {
  await using world_ = await openWorld(rig)
  for (let at = 1; ; at += 1) {
    // Each crash in an hour and with tenants of its own.
    const [a, b] = [`a${at}`, `b${at}`]
    const mine = async () => {
      const { [a]: hoursOfA, [b]: hoursOfB } = await world_.total()
      return [hoursOfA, hoursOfB]
    }
    await world_.read('compute', at, 1000, [instance(a, 'i1', '3600'), instance(b, 'i2', '3600')])
    await world_.freshen()
    // The instance of b is gone, and that of a ran for half as long.
    const events = readEvents({ source, scope: 'compute', window: hourOf(at), readatMs: 2000 }, [
      instance(a, 'i1', '1800'),
    ])
    const batch = accept(batchOf(events, world_.offset), 'log')
    world_.offset += events.length
    const broken = dying(world_.store, at, 'after')
    const died = await new Ledger(broken.store, 'log', null).put([batch]).then(
      () => false,
      () => true,
    )
    if (!broken.reached()) {
      expect(at).toBeGreaterThan(6)
      return
    }
    // Whatever was touched so far is computed again before the replay, which is when a missing touch would hide.
    await world_.freshen()
    expect([
      ['1', '1'],
      ['0.5', undefined],
    ]).toContainEqual(await mine())
    await new Ledger(world_.store, 'log', null).put([batch])
    expect([at, died, await mine()]).toEqual([at, died, ['0.5', undefined]])
    await world_.freshen()
    expect([at, died, await mine()]).toEqual([at, died, ['0.5', undefined]])
  }
})
