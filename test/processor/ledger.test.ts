/** The ledger in a real ClickHouse: a read is a snapshot, replays vanish, and rollups are exact at every step. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import { coverage } from '../../processor/coverage.ts'
import { Ledger } from '../../processor/ledger.ts'
import { registerMeters } from '../../processor/rollups.ts'
import type { Store } from '../../processor/store.ts'
import { usage } from '../../processor/usage.ts'
import { Witness } from '../../processor/witness.ts'
import type { Meter } from '../../schemas/meters.ts'
import { hourMs } from '../../schemas/window.ts'
import { batchOf, instance, readEvents } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { dying } from './dying.ts'
import { day, expectTotals, hourOf, hours, openWorld, source } from './ledger-world.ts'

let rig: Awaited<ReturnType<typeof startClickHouse>>

beforeAll(async () => {
  rig = await startClickHouse()
})
afterAll(async () => {
  await rig?.stop()
})

const world = async () => await openWorld(rig)

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
    await registerMeters(at.store, [count])
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

  test('a zone off the hour splits its hours, and an unknown dim is named', async () => {
    await using at = await world()
    const ask = {
      meter: hours,
      span: day,
      zone: 'Asia/Kathmandu',
      step: 'DAY',
      groupBy: ['gpu_type'],
      where: {},
    } as const
    await at.read('compute', 18, 1000, [instance('a', 'i1', '3600')])
    for (const fresh of [false, true]) {
      if (fresh) await at.freshen()
      // Local midnight is 18:15 in UTC.
      expect(await usage(at.store, ask)).toEqual([
        { ...usageRow('2025-06-01T00:00:00Z', '2025-06-01T18:15:00Z', 'a', 'L40', '0.25'), split: true },
        { ...usageRow('2025-06-01T18:15:00Z', '2025-06-02T00:00:00Z', 'a', 'L40', '0.75'), split: true },
      ])
    }
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
