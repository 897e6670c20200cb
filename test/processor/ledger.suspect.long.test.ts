/** The ledger in a real ClickHouse: reads that take too much away, decisions, messages that come again, answers as of then. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import { positionAsOf, showPosition } from '../../processor/as-of.ts'
import { Ledger } from '../../processor/ledger.ts'
import { conflicts } from '../../processor/replay.ts'
import { registerMeters } from '../../processor/rollups.ts'
import { Store } from '../../processor/store.ts'
import { quantities } from '../../processor/usage.ts'
import { show } from '../../schemas/decimal.ts'
import {
  type DecisionEvent,
  decisionType,
  type MarkEvent,
  partitionKey,
  type ReadingEvent,
  showReadat,
  type Usage,
} from '../../schemas/event.ts'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { hourMs, minuteMs, showInstant, type Window } from '../../schemas/window.ts'
import { freshen } from '../freshen.ts'
import { batchOf, hourAfterJune1, instance, readEvents, testSource } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { dying } from './dying.ts'

type Events = readonly (ReadingEvent | MarkEvent | DecisionEvent)[]

const hours = defaultMeters.find(meter => meter.slug === 'instance_hours') as Meter
const scope = 'compute'
let rig: Awaited<ReturnType<typeof startClickHouse>>
let store: Store
/** Each world has a day and a log of its own in one database. */
let days = 0

beforeAll(async () => {
  rig = await startClickHouse()
  store = await Store.open({ ...rig, database: `suspect_${process.pid}` })
  await registerMeters(store, defaultMeters)
})
afterAll(async () => {
  await store?.[Symbol.asyncDispose]()
  await rig?.stop()
})

function hour(at: number): Window {
  return hourAfterJune1(days * 24 + at)
}

class World {
  readonly store = store
  readonly log: string
  offset = 0

  private constructor(log: string) {
    this.log = log
  }

  static open(): World {
    days += 1
    return new World(`log${days}`)
  }

  /** Each batch by a ledger of its own: what it knows is in the tables alone. */
  async put(events: Events, offset = this.offset, ledger = new Ledger(this.store, this.log)) {
    const outcome = await ledger.put([accept(batchOf(events as never, offset), this.log)])
    this.offset = Math.max(this.offset, offset + events.length)
    return outcome
  }

  async totals(asOf?: string): Promise<Record<string, string>> {
    const rows = await quantities(this.store, {
      meter: hours,
      span: { startMs: hour(0).startMs, endMs: hour(24).startMs },
      zone: 'UTC',
      groupBy: [],
      where: {},
      ...(asOf !== undefined && { asOf: await positionAsOf(this.store, asOf, Date.now()) }),
    })
    return Object.fromEntries(rows.map(row => [row.subject, show(row.quantity)]))
  }

  async expectTotals(expected: Record<string, string>): Promise<void> {
    expect(await this.totals(), 'from the ledger').toEqual(expected)
    await freshen(this.store)
    expect(await this.totals(), 'from rollups').toEqual(expected)
  }

  async fates(): Promise<readonly (readonly [string, string])[]> {
    const rows = await this.store.rows<{ offset: string; fate: string }>(
      'select offset, fate from passed final where log = {log:String} order by offset',
      { log: this.log },
    )
    return rows.map(row => [row.offset, row.fate] as const)
  }
}

function readAt(afterMs: number, usages: readonly Usage[], window = hour(0), mark = {}): Events {
  return readEvents({ source: testSource, scope, window, readatMs: window.endMs + afterMs }, usages, mark)
}

let decisions = 0
function decision(data: Partial<DecisionEvent['data']>, window: Window = hour(0)): DecisionEvent {
  return {
    specversion: '1.0',
    id: `decision-${decisions++}`,
    source: testSource,
    type: decisionType,
    time: '2025-06-02T00:00:00Z',
    scope,
    partitionkey: partitionKey(testSource, scope),
    datacontenttype: 'application/json',
    data: {
      action: 'confirm',
      window: { start: showInstant(window.startMs), end: showInstant(window.endMs) },
      author: 'Ada',
      reason: 'the machines were off',
      ...data,
    },
  }
}

const both = [instance('a', 'i1', '3600'), instance('b', 'i2', '3600')]
const one = [instance('a', 'i1', '3600')]

describe('a read that takes too much away', () => {
  test('waits, and counts once a second read an hour later agrees', async () => {
    const at = World.open()
    await at.put(readAt(0, both))
    await at.put(readAt(10 * minuteMs, one))
    await at.expectTotals({ a: '1', b: '1' })
    await at.put(readAt(40 * minuteMs, one))
    await at.expectTotals({ a: '1', b: '1' })
    await at.put(readAt(70 * minuteMs, one))
    await at.expectTotals({ a: '1' })
  })

  test('is not believed because the same mark comes again, by whatever process', async () => {
    const at = World.open()
    await at.put(readAt(0, both))
    const low = readAt(10 * minuteMs, one)
    await at.put(low, 3)
    await at.put(low, 3)
    await at.put(low, 9)
    await at.expectTotals({ a: '1', b: '1' })
  })

  test('that repeats the low one an hour later, as a mark alone, is the witness', async () => {
    const at = World.open()
    await at.put(readAt(0, both))
    await at.put(readAt(10 * minuteMs, one))
    const window = hour(0)
    const again = readAt(80 * minuteMs, one, window, { repeats: showReadat(window.endMs + 10 * minuteMs) })
    await at.put(again.slice(-1))
    await at.expectTotals({ a: '1' })
  })

  test('does not count for an outage that ends', async () => {
    const at = World.open()
    await at.put(readAt(0, both))
    await at.put(readAt(10 * minuteMs, []))
    await at.put(readAt(20 * minuteMs, both))
    await at.put(readAt(75 * minuteMs, one))
    await at.expectTotals({ a: '1', b: '1' })
  })

  test('a bound of half, and none at all', async () => {
    const at = World.open()
    const half = { percent: 50, confirmAfterMs: hourMs }
    await at.put(readAt(0, both))
    await at.put(readAt(1000, one), at.offset, new Ledger(at.store, at.log, half))
    await at.expectTotals({ a: '1' })
    await at.put(readAt(2000, []), at.offset, new Ledger(at.store, at.log, half))
    await at.expectTotals({ a: '1' })
    await at.put(readAt(3000, []), at.offset, new Ledger(at.store, at.log, null))
    await at.expectTotals({})
  })
})

describe('decisions', () => {
  test('a person confirms a suspect read, and the same decision again changes nothing', async () => {
    const at = World.open()
    await at.put(readAt(0, both))
    await at.put(readAt(10 * minuteMs, one))
    const confirm = decision({ readat: showReadat(hour(0).endMs + 10 * minuteMs) })
    const outcome = await at.put([confirm])
    expect(outcome).toMatchObject({ decisions: 1, duplicates: 0 })
    await at.expectTotals({ a: '1' })
    expect(await at.put([confirm])).toMatchObject({ decisions: 0, duplicates: 1 })
    await at.expectTotals({ a: '1' })
    const rows = await at.store.rows(
      'select action, author, reason, scope from decisions final where log = {log:String}',
      { log: at.log },
    )
    expect(rows).toEqual([{ action: 'confirm', author: 'Ada', reason: 'the machines were off', scope }])
  })

  test('in one batch with the read that it confirms', async () => {
    const at = World.open()
    await at.put(readAt(0, both))
    const low = readAt(10 * minuteMs, one)
    await at.put([...low, decision({ readat: showReadat(hour(0).endMs + 10 * minuteMs) })])
    await at.expectTotals({ a: '1' })
  })

  test('a confirmation of a read that is not suspect, or not there, is recorded and changes nothing', async () => {
    const at = World.open()
    await at.put(readAt(0, both))
    await at.put([decision({ readat: showReadat(hour(0).endMs) })])
    await at.put([decision({ readat: showReadat(hour(9).startMs) })])
    await at.expectTotals({ a: '1', b: '1' })
  })

  test('a crash after any statement leaves exact answers behind', async () => {
    const world = World.open()
    for (let at = 1; ; at += 1) {
      // Each crash in an hour and with tenants of its own.
      const window = hour(at)
      const kept = instance(`kept${at}`, 'i1', '3600')
      await world.put(readAt(0, [kept, instance(`gone${at}`, 'i2', '3600')], window))
      await world.put(readAt(10 * minuteMs, [kept], window))
      const batch = [decision({ readat: showReadat(window.endMs + 10 * minuteMs) }, window)]
      const offset = world.offset
      const { store, reached } = dying(world.store, at, 'after')
      await world.put(batch, offset, new Ledger(store, world.log)).catch(() => undefined)
      if (!reached()) {
        expect(at).toBeGreaterThan(6)
        return
      }
      await freshen(world.store)
      await world.put(batch, offset)
      await world.expectTotals(
        Object.fromEntries(Array.from({ length: at }, (_, done) => [`kept${done + 1}`, '1'])),
      )
    }
  })
})

describe('messages that come again', () => {
  test('a read sent twice is a read and its duplicates, and counts once', async () => {
    const at = World.open()
    const events = readAt(0, both)
    await at.put(events, 0)
    expect(await at.put(events, 3)).toMatchObject({ readings: 0, marks: 0, duplicates: 3, conflicts: 0 })
    await at.expectTotals({ a: '1', b: '1' })
    expect(await at.fates()).toEqual([
      ['3', 'duplicate'],
      ['4', 'duplicate'],
      ['5', 'duplicate'],
    ])
    // The same offsets once more, after a crash: nothing new is noted.
    expect(await at.put(events, 0)).toMatchObject({ readings: 2, marks: 1, duplicates: 0 })
    expect(await at.fates()).toHaveLength(3)
  })

  test('sent twice in part, over the edge of a batch: complete all the same', async () => {
    const at = World.open()
    const events = readAt(0, both)
    const ledger = new Ledger(at.store, at.log)
    await at.put(events.slice(0, 1), 0, ledger)
    const outcome = await at.put([events[0]!, events[1]!, events[2]!], 1, ledger)
    expect(outcome).toMatchObject({ readings: 1, marks: 1, duplicates: 1 })
    await at.expectTotals({ a: '1', b: '1' })
  })

  test('two batches of one put', async () => {
    const at = World.open()
    const events = readAt(0, both)
    const ledger = new Ledger(at.store, at.log)
    const batches = [events.slice(0, 2), events].map((some, index) =>
      accept(batchOf(some as never, index * 2), at.log),
    )
    expect(await ledger.put(batches)).toMatchObject({ readings: 2, marks: 1, duplicates: 2 })
    await at.expectTotals({ a: '1', b: '1' })
  })

  test('another content under the same id and readat is a conflict: the first counts, the other is kept', async () => {
    const at = World.open()
    await at.put(readAt(0, both))
    const other = readAt(0, [instance('a', 'i1', '60'), instance('c', 'i3', '60')])
    expect(await at.put(other)).toMatchObject({ readings: 0, marks: 0, duplicates: 0, conflicts: 3 })
    await at.expectTotals({ a: '1', b: '1' })
    const kept = await at.store.rows<{ value: string }>(
      'select value from passed final where log = {log:String} order by offset',
      { log: at.log },
    )
    expect(kept[0]?.value).toContain('"instance_seconds":"60"')
    expect(kept[1]?.value).toContain('"c"')
    const listed = (await conflicts(at.store, hour(0))).filter(row => row.log === at.log)
    expect(listed.map(({ what }) => what)).toEqual(expect.arrayContaining(['reading', 'mark']))
    const reading = listed.find(({ what }) => what === 'reading')
    expect(reading?.first).toContain('"instance_seconds":"3600"')
    expect(reading?.second).toContain('"instance_seconds":"60"')
  })

  test('from another log, such as an outbox that was put back: the first still counts', async () => {
    const at = World.open()
    const events = readAt(0, both)
    await at.put(events, 100)
    const ledger = new Ledger(at.store, `newer${days}`)
    const again = await ledger.put([accept(batchOf(events as never, 0), `newer${days}`)])
    expect(again).toMatchObject({ readings: 0, marks: 0, duplicates: 3 })
    await at.expectTotals({ a: '1', b: '1' })
    // Nor may what says something else win by its lower numbers.
    const less = readAt(0, [instance('a', 'i1', '60'), instance('b', 'i2', '60')])
    const other = await new Ledger(at.store, `other${days}`).put([
      accept(batchOf(less as never, 0), `other${days}`),
    ])
    expect(other).toMatchObject({ readings: 0, marks: 0, conflicts: 3 })
    // Asked of the rows: the totals stand in rollups that nothing made stale.
    expect(
      await at.store.rows('select distinct log from events where log like {logs:String}', {
        logs: `%r${days}`,
      }),
    ).toEqual([])
  })

  test('lost readings that are sent again heal their read', async () => {
    const at = World.open()
    const events = readAt(0, both)
    await at.put([events[0]!, events[2]!])
    await at.expectTotals({})
    expect(await at.put(events)).toMatchObject({ readings: 1, marks: 0, duplicates: 2 })
    await at.expectTotals({ a: '1', b: '1' })
  })
})

test('a window that crosses the grid of its scope is refused, and nothing changes', async () => {
  const at = World.open()
  await at.put(readAt(0, both))
  const { startMs } = hour(0)
  const half = { startMs, endMs: startMs + 30 * minuteMs }
  const outcome = await at.put(readAt(hourMs, [instance('a', 'i1', '60')], half))
  expect(outcome).toMatchObject({ readings: 1, marks: 0 })
  expect(outcome.rejects).toMatchObject([{ code: 'GRID_OVERLAP' }])
  await at.expectTotals({ a: '1', b: '1' })
})

describe('as of', () => {
  test('a place of the log gives the old answer, whatever came since', async () => {
    const at = World.open()
    const places: { place: string; expected: Record<string, string> }[] = []
    const note = async () => places.push({ place: `${at.log}/0:${at.offset}`, expected: await at.totals() })
    await at.put(readAt(0, both))
    await note()
    await at.put(readAt(10 * minuteMs, one))
    await note()
    await at.put([decision({ readat: showReadat(hour(0).endMs + 10 * minuteMs) })])
    await note()
    await at.put(readAt(20 * minuteMs, [...both, instance('c', 'i3', '1800')]))
    await note()
    await at.put(readAt(0, [instance('d', 'i4', '60')], hour(3)))
    expect(places.map(({ expected }) => expected)).toEqual([
      { a: '1', b: '1' },
      { a: '1', b: '1' },
      { a: '1' },
      { a: '1', b: '1', c: '0.5' },
    ])
    for (const { place, expected } of places) expect(await at.totals(place), place).toEqual(expected)
    expect(await at.totals('other/0:5')).toEqual({})
  })

  test('a time is translated once and then stands for that place for good', async () => {
    const at = World.open()
    await at.put(readAt(0, both))
    await at.store.run(
      'alter table positions update at = now64(3) - interval 2 hour where true settings mutations_sync = 1',
    )
    const then = showReadat(Date.now() - hourMs)
    expect(await at.totals(then)).toEqual({ a: '1', b: '1' })
    await at.put(readAt(minuteMs, [...both, instance('c', 'i3', '1800')]))
    expect(await at.totals(then)).toEqual({ a: '1', b: '1' })
    // Even where the note of when a batch came has been lost, as by a restore.
    await at.store.run('alter table positions update at = now64(3) where true settings mutations_sync = 1')
    expect(await at.totals(then)).toEqual({ a: '1', b: '1' })
    expect(showPosition(await positionAsOf(at.store, then, Date.now()))).toContain(`${at.log}/0:3`)
    await expect(positionAsOf(at.store, showReadat(Date.now() + hourMs), Date.now())).rejects.toMatchObject({
      code: 'USAGE',
    })
    await expect(positionAsOf(at.store, 'yesterday', Date.now())).rejects.toMatchObject({ code: 'USAGE' })
  })
})
