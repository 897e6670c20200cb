/** The ledger in a real ClickHouse: a read is a snapshot, replays vanish, and rollups are exact at every step. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import { coverage } from '../../processor/coverage.ts'
import { Ledger } from '../../processor/ledger.ts'
import { recompute, registerMeters } from '../../processor/rollups.ts'
import { Store } from '../../processor/store.ts'
import { quantities, usage } from '../../processor/usage.ts'
import { Witness } from '../../processor/witness.ts'
import { show } from '../../schemas/decimal.ts'
import type { MarkData, Usage } from '../../schemas/event.ts'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { hourMs, type Window } from '../../schemas/window.ts'
import { batchOf, instance, readEvents } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { dying } from './dying.ts'

const source = 'meterline/rafay/test'
const day = { startMs: Date.UTC(2025, 5, 1), endMs: Date.UTC(2025, 5, 2) }
const hours = defaultMeters.find(meter => meter.slug === 'instance_hours') as Meter
let rig: Awaited<ReturnType<typeof startClickHouse>>
let databases = 0
let tokens = 0n

beforeAll(async () => {
  rig = await startClickHouse()
})
afterAll(async () => {
  await rig?.stop()
})

interface World extends AsyncDisposable {
  readonly store: Store
  ledger: Ledger
  /** Puts a whole read into the ledger as one batch. */
  read(
    scope: string,
    hour: number,
    readatMs: number,
    usages: readonly Usage[],
    mark?: Partial<MarkData>,
  ): Promise<void>
  /** Hours by subject over the day, from whatever answers: `org: hours`. */
  total(meter?: Meter): Promise<Record<string, string>>
  freshen(): Promise<number>
  offset: number
}

async function world(): Promise<World> {
  const store = await Store.open({ ...rig, database: `ledger_${process.pid}_${databases++}` })
  await registerMeters(store, defaultMeters, () => ++tokens)
  const state: World = {
    store,
    ledger: new Ledger(store, 'log', null),
    offset: 0,
    async read(scope, hour, readatMs, usages, mark) {
      const events = readEvents({ source, scope, window: hourOf(hour), readatMs }, usages, mark)
      await this.ledger.put([accept(batchOf(events, this.offset), 'log')])
      this.offset += events.length
    },
    async total(meter = hours) {
      const rows = await quantities(store, { meter, span: day, zone: 'UTC', groupBy: [], where: {} })
      return Object.fromEntries(rows.map(row => [row.subject, show(row.quantity)]))
    },
    async freshen() {
      let cells = 0
      for (;;) {
        const taken = await recompute(store, { run: ++tokens, cellsMax: 3 })
        if (taken === 0) return cells
        cells += taken
      }
    },
    async [Symbol.asyncDispose]() {
      await store[Symbol.asyncDispose]()
    },
  }
  return state
}

function hourOf(hour: number): Window {
  return { startMs: day.startMs + hour * hourMs, endMs: day.startMs + (hour + 1) * hourMs }
}

/** Both ways to an answer must agree: stale cells from the ledger, then all from rollups. */
async function expectTotals(at: World, expected: Record<string, string>): Promise<void> {
  expect(await at.total()).toEqual(expected)
  await at.freshen()
  expect(await at.total()).toEqual(expected)
}

describe('a read is a snapshot', () => {
  test('a complete read counts, and reading the same again changes nothing', async () => {
    await using at = await world()
    await at.read('compute', 0, 1000, [instance('a', 'i1', '3600'), instance('b', 'i2', '1800')])
    await expectTotals(at, { a: '1', b: '0.5' })
    await at.read('compute', 0, 2000, [instance('a', 'i1', '3600'), instance('b', 'i2', '1800')])
    await expectTotals(at, { a: '1', b: '0.5' })
  })

  test('a newer read replaces: more hours, a vanished instance, and one that moved to another tenant', async () => {
    await using at = await world()
    await at.read('compute', 0, 1000, [instance('a', 'i1', '900'), instance('a', 'i2', '3600')])
    await expectTotals(at, { a: '1.25' })
    await at.read('compute', 0, 2000, [instance('a', 'i1', '1800'), instance('a', 'i2', '3600')])
    await expectTotals(at, { a: '1.5' })
    await at.read('compute', 0, 3000, [instance('a', 'i1', '1800')])
    await expectTotals(at, { a: '0.5' })
    await at.read('compute', 0, 4000, [instance('b', 'i1', '1800')])
    await expectTotals(at, { b: '0.5' })
  })

  test('an older read that arrives late does not win', async () => {
    await using at = await world()
    await at.read('compute', 0, 2000, [instance('a', 'i1', '3600')])
    await at.read('compute', 0, 1000, [instance('a', 'i1', '60'), instance('c', 'i9', '60')])
    await expectTotals(at, { a: '1' })
  })

  test('a read whose mark says more than arrived counts for nothing, and the older one stays', async () => {
    await using at = await world()
    await at.read('compute', 0, 1000, [instance('a', 'i1', '1800')])
    await at.read('compute', 0, 2000, [instance('a', 'i1', '3600')], { events: 2 })
    await expectTotals(at, { a: '0.5' })
    await at.read('compute', 1, 2000, [instance('a', 'i1', '3600')], { digest: '0000000000000001' })
    await expectTotals(at, { a: '0.5' })
    const states = (
      await coverage(at.store, {
        span: { startMs: day.startMs, endMs: day.startMs + 2 * hourMs },
        nowMs: day.endMs,
      })
    ).map(row => row.state)
    expect(states).toEqual(['settled', 'incomplete'])
  })

  test('half a read counts for nothing until the rest and its mark are in', async () => {
    await using at = await world()
    const events = readEvents({ source, scope: 'compute', window: hourOf(0), readatMs: 1000 }, [
      instance('a', 'i1', '3600'),
      instance('b', 'i2', '3600'),
    ])
    await at.ledger.put([accept(batchOf(events.slice(0, 1), 0), 'log')])
    await expectTotals(at, {})
    await at.ledger.put([accept(batchOf(events.slice(1), 1), 'log')])
    await expectTotals(at, { a: '1', b: '1' })
  })

  test('half a read before a restart and half after it count once', async () => {
    await using at = await world()
    const events = readEvents({ source, scope: 'compute', window: hourOf(0), readatMs: 1000 }, [
      instance('a', 'i1', '3600'),
      instance('b', 'i2', '3600'),
    ])
    await at.ledger.put([accept(batchOf(events.slice(0, 1), 0), 'log')])
    at.ledger = new Ledger(at.store, 'log', null)
    expect(await at.ledger.resumeAt(0)).toBe(1n)
    await at.ledger.put([accept(batchOf(events.slice(1), 1), 'log')])
    await expectTotals(at, { a: '1', b: '1' })
  })

  test('an empty complete read takes everything away, a failed one takes nothing', async () => {
    await using at = await world()
    await at.read('compute', 0, 1000, [instance('a', 'i1', '3600')])
    await at.read('compute', 0, 2000, [], {
      outcome: 'failed',
      fault: { code: 'SOURCE_BUSY', message: '503' },
      settled: false,
    })
    await expectTotals(at, { a: '1' })
    await at.read('compute', 0, 3000, [])
    await expectTotals(at, {})
  })

  test('a mark that repeats an earlier read sets its content at the new readat', async () => {
    await using at = await world()
    const usages = [instance('a', 'i1', '3600')]
    await at.read('compute', 0, 1000, usages, { settled: false })
    await at.read('compute', 0, 2000, usages, { repeats: '1970-01-01T00:00:01.000Z' })
    await expectTotals(at, { a: '1' })
    // A read between the two does not win over the repetition.
    await at.read('compute', 0, 1500, [instance('a', 'i1', '60')])
    await expectTotals(at, { a: '1' })
    await at.read('compute', 0, 3000, [instance('a', 'i1', '60')])
    await at.read('compute', 0, 4000, usages, { repeats: '1970-01-01T00:00:01.000Z' })
    await expectTotals(at, { a: '1' })
  })

  test('a repetition of something the ledger does not have is incomplete', async () => {
    await using at = await world()
    await at.read('compute', 0, 2000, [instance('a', 'i1', '3600')], { repeats: '1970-01-01T00:00:01.000Z' })
    await expectTotals(at, {})
    const rows = await coverage(at.store, { span: { ...hourOf(0) }, nowMs: day.endMs })
    expect(rows.map(row => row.state)).toEqual(['incomplete'])
  })

  test('a read with estimates does not replace one without, whatever its readat', async () => {
    await using at = await world()
    await at.read('compute', 0, 1000, [instance('a', 'i1', '3600')])
    await at.read('compute', 0, 2000, [instance('a', 'i1', '60')], { estimated: true })
    await expectTotals(at, { a: '1' })
    await at.read('compute', 1, 1000, [instance('a', 'i1', '60')], { estimated: true })
    await at.read('compute', 1, 500, [instance('a', 'i1', '3600')])
    await expectTotals(at, { a: '2' })
  })

  test('scopes and windows are apart', async () => {
    await using at = await world()
    await at.read('compute', 0, 1000, [instance('a', 'i1', '3600')])
    await at.read('service', 0, 1000, [instance('a', 'i1', '3600')])
    await at.read('compute', 1, 1000, [instance('a', 'i1', '3600')])
    await expectTotals(at, { a: '3' })
    await at.read('service', 0, 2000, [])
    await expectTotals(at, { a: '2' })
  })
})

describe('every step may be repeated', () => {
  test('the same batch again, by the same and by another process, changes nothing', async () => {
    await using at = await world()
    const events = [
      ...readEvents({ source, scope: 'compute', window: hourOf(0), readatMs: 1000 }, [
        instance('a', 'i1', '3600'),
      ]),
      ...readEvents({ source, scope: 'compute', window: hourOf(0), readatMs: 2000 }, [
        instance('a', 'i1', '1800'),
      ]),
    ]
    for (let times = 0; times < 3; times += 1) await at.ledger.put([accept(batchOf(events, 0), 'log')])
    await expectTotals(at, { a: '0.5' })
    const other = new Ledger(at.store, 'log', null)
    await other.put([accept(batchOf(events, 0), 'log')])
    await other.put([accept(batchOf(events.slice(2), 2), 'log')])
    await expectTotals(at, { a: '0.5' })
  })

  test('a partition resumes behind its last batch, and at a hole where there is one', async () => {
    await using at = await world()
    expect(await at.ledger.resumeAt(0)).toBeUndefined()
    const read = (hour: number) =>
      readEvents({ source, scope: 'compute', window: hourOf(hour), readatMs: 1000 }, [
        instance('a', 'i1', '60'),
      ])
    await at.ledger.put([accept(batchOf(read(0), 0), 'log')])
    await at.ledger.put([accept(batchOf(read(1), 2), 'log')])
    const fresh = new Ledger(at.store, 'log', null)
    expect(await fresh.resumeAt(0)).toBe(4n)
    // Another process went on at 6 without knowing of 4 and 5.
    await new Ledger(at.store, 'log', null).put([accept(batchOf(read(2), 6), 'log')])
    expect(await new Ledger(at.store, 'log', null).resumeAt(0)).toBe(4n)
    expect(await new Ledger(at.store, 'other', null).resumeAt(0)).toBeUndefined()
  })
})

describe('a ledger that is put back to an older copy in the middle of a put', () => {
  const read = readEvents({ source, scope: 'compute', window: hourOf(0), readatMs: 1000 }, [
    instance('a', 'i1', '60'),
  ])
  const before = { partition: 0, from: 0n, last: 9n }

  /** The store as it is once the table is emptied when the marks go in. */
  function emptied(store: Store, table: string): Store {
    const insert: Store['insert'] = async (into, columns, lines) => {
      if (into === 'reads') await store.run(`truncate table ${table}`)
      await store.insert(into, columns, lines)
    }
    return new Proxy(store, {
      get: (_, name) => (name === 'insert' ? insert : (Reflect.get(store, name) as () => void).bind(store)),
    })
  }

  test.each(['puts', 'positions'])('without its rows in %s no position goes in', async table => {
    await using at = await world()
    await at.ledger.put([
      accept(batchOf(readEvents({ source, scope: 'x', window: hourOf(1), readatMs: 1000 }, []), 9), 'log'),
    ])
    const put = new Ledger(emptied(at.store, table), 'log', null).put(
      [accept(batchOf(read, 10), 'log')],
      [before],
    )
    await expect(put).rejects.toMatchObject({ code: 'STORE_PUT_BACK', fate: 'retry' })
    const rows = await at.store.rows(`select last from positions where first = 10`)
    expect(rows).toEqual([])
  })

  test('with them it does', async () => {
    await using at = await world()
    await at.ledger.put([
      accept(batchOf(readEvents({ source, scope: 'x', window: hourOf(1), readatMs: 1000 }, []), 9), 'log'),
    ])
    await new Ledger(at.store, 'log', null).put([accept(batchOf(read, 10), 'log')], [before])
    expect(await new Ledger(at.store, 'log', null).resumeAt(0)).toBe(12n)
  })
})

describe('a crash between any two steps', () => {
  test('what a put had begun that never ended is known, though nothing resumes behind it', async () => {
    await using at = await world()
    expect(await at.ledger.reachedAt(0)).toBeUndefined()
    const read = readEvents({ source, scope: 'compute', window: hourOf(0), readatMs: 1000 }, [
      instance('a', 'i1', '60'),
    ])
    const batch = accept(batchOf(read, 7), 'log')
    const reached: (bigint | undefined)[] = []
    for (let dies = 1; (await at.ledger.resumeAt(0)) === undefined; dies += 1) {
      const broken = dying(at.store, dies, 'after')
      await new Ledger(broken.store, 'log', null).put([batch]).catch(() => undefined)
      reached.push(await at.ledger.reachedAt(0))
    }
    expect(new Set(reached)).toEqual(new Set([undefined, 7n, 8n]))
    expect(await at.ledger.reachedAt(1)).toBeUndefined()
    expect(await new Ledger(at.store, 'other', null).reachedAt(0)).toBeUndefined()
  })

  test('a crash after any statement of a re-read leaves exact answers behind', async () => {
    await using world_ = await world()
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
})

describe('rollups', () => {
  test('a new meter answers from history at once, and from rollups once computed', async () => {
    await using at = await world()
    await at.read('compute', 0, 1000, [
      instance('a', 'i1', '3600'),
      instance('a', 'i2', '900', { gpu_type: 'H100' }),
    ])
    await at.freshen()
    const count: Meter = { ...hours, slug: 'readings', aggregation: 'COUNT', per: '1', unit: '1' }
    expect(await at.total(count)).toEqual({ a: '2' })
    await registerMeters(at.store, [count], () => ++tokens)
    expect(await at.total(count)).toEqual({ a: '2' })
    expect(await at.freshen()).toBe(1)
    expect(await at.total(count)).toEqual({ a: '2' })
    const least: Meter = { ...hours, slug: 'least', aggregation: 'MIN' }
    const mean: Meter = { ...hours, slug: 'mean', aggregation: 'AVG' }
    expect(await at.total(least)).toEqual({ a: '0.25' })
    expect(await at.total(mean)).toEqual({ a: '0.625' })
  })

  test('after a recompute answers come from the rollups alone', async () => {
    await using at = await world()
    await at.read('compute', 0, 1000, [instance('a', 'i1', '3600')])
    await at.freshen()
    await at.store.run('truncate table events')
    expect(await at.total()).toEqual({ a: '1' })
  })

  test('usage is grouped by dims, cut into local days and filtered', async () => {
    await using at = await world()
    for (let hour = 0; hour < 24; hour += 1)
      await at.read('compute', hour, 1000, [
        instance('a', 'i1', '3600'),
        instance('b', 'i2', '1800', { gpu_type: 'H100' }),
      ])
    const ask = { meter: hours, span: day, groupBy: ['gpu_type'], where: {} }
    for (const fresh of [false, true]) {
      if (fresh) await at.freshen()
      expect(await usage(at.store, { ...ask, zone: 'Europe/Berlin', step: 'DAY' })).toEqual([
        usageRow('2025-06-01T00:00:00Z', '2025-06-01T22:00:00Z', 'a', 'L40', '22'),
        usageRow('2025-06-01T00:00:00Z', '2025-06-01T22:00:00Z', 'b', 'H100', '11'),
        usageRow('2025-06-01T22:00:00Z', '2025-06-02T00:00:00Z', 'a', 'L40', '2'),
        usageRow('2025-06-01T22:00:00Z', '2025-06-02T00:00:00Z', 'b', 'H100', '1'),
      ])
      expect(await usage(at.store, { ...ask, zone: 'UTC', where: { gpu_type: 'H100' } })).toEqual([
        usageRow('2025-06-01T00:00:00Z', '2025-06-02T00:00:00Z', 'b', 'H100', '12'),
      ])
      expect(await usage(at.store, { ...ask, zone: 'UTC', subjects: ['c'] })).toEqual([])
    }
  })

  test('an hour that a zone would cut is refused, and an unknown dim is named', async () => {
    await using at = await world()
    const ask = {
      meter: hours,
      span: day,
      zone: 'Asia/Kathmandu',
      step: 'DAY',
      groupBy: [],
      where: {},
    } as const
    await expect(usage(at.store, ask)).rejects.toMatchObject({ code: 'USAGE' })
    await expect(usage(at.store, { ...ask, zone: 'UTC', groupBy: ['colour'] })).rejects.toMatchObject({
      code: 'METER_UNKNOWN',
    })
  })

  test('one third of an hour is kept exactly until it is printed', async () => {
    await using at = await world()
    await at.read('compute', 0, 1000, [instance('a', 'i1', '1')])
    expect(await at.total()).toEqual({ a: '1/3600' })
    const [row] = await usage(at.store, { meter: hours, span: day, zone: 'UTC', groupBy: [], where: {} })
    expect(row?.value).toBe('0.000277777778')
  })
})

function usageRow(start: string, end: string, subject: string, gpuType: string, value: string) {
  return {
    meter: 'instance_hours',
    unit: 'h',
    window_start: start,
    window_end: end,
    source,
    subject,
    group_by: { gpu_type: gpuType },
    value,
  }
}

test('batches of a partition that are put together leave spans that touch, and the witness finds the last one', async () => {
  await using its = await world()
  const witness = new Witness(its.store, 'log')
  witness.resumed(0, await its.ledger.resumeAt(0))
  for (let put = 0; put < 2; put += 1) {
    const batches = [1, 2, 3].map(of => {
      const read = { source, scope: 'a', window: hourOf(put * 3 + of), readatMs: 3 }
      const events = readEvents(read, [instance('org', 'one', '3600')])
      const batch = accept(batchOf(events, its.offset), 'log')
      its.offset += events.length
      return batch
    })
    await its.ledger.put(batches)
    witness.acknowledged(batches)
    expect(await witness.isPutBack(new AbortController().signal)).toBe(false)
  }
  const spans = await its.store.rows<{ first: string; last: string }>(
    'select first, last from positions order by first, last',
  )
  expect(spans.map(({ first, last }) => [Number(first), Number(last)])).toEqual(
    [0, 2, 4, 6, 8, 10].map(first => [first, first + 1]),
  )
})
