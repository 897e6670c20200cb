/** The PostgreSQL source against real servers at length: commits in any order, a standby that lags, and many rows. */
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import Fraction from 'fraction.js'
import type pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { exact, show } from '../../../schemas/decimal.ts'
import type { Fault } from '../../../schemas/fault.ts'
import { minuteMs, type Window, windowsOver } from '../../../schemas/window.ts'
import { faultFrom } from '../../faults.ts'
import { type PostgresRig, startPostgres } from '../../rig/postgres.ts'
import { at, hour, insertUsage, meterPassword, openSource, queryOf, usages } from './usage-tables.ts'

const live = new AbortController().signal
let server: PostgresRig
let admin: pg.Client
beforeAll(async () => {
  server = await startPostgres()
  admin = await server.connect()
  await admin.query(`create role meter login password '${meterPassword}'`)
})
afterAll(async () => {
  await admin?.end()
  await server?.[Symbol.asyncDispose]()
})
const usageTable = (rows: readonly string[] = []) => insertUsage(admin, rows)
const open = (...asked: Parameters<typeof openSource> extends [unknown, ...infer Rest] ? Rest : never) =>
  openSource(server, ...asked)

test('rows at random, in windows of any width and pages of any size, add up to what was inserted', async () => {
  const row = fc.record({
    tenant: fc.integer({ min: 0, max: 2 }),
    vm: fc.integer({ min: 0, max: 3 }),
    us: fc.integer({ min: 0, max: 2 * 3600 * 1_000_000 - 1 }),
    units: fc.bigInt({ min: 0n, max: 10n ** 20n }),
    places: fc.integer({ min: 0, max: 12 }),
  })
  await fc.assert(
    fc.asyncProperty(
      fc.array(row, { minLength: 1, maxLength: 60 }),
      fc.constantFrom(60, 30, 15, 5),
      fc.constantFrom(1, 3, 1000),
      async (rows, windowMinutes, pageSize) => {
        const quantity = (each: (typeof rows)[number]) => new Fraction(each.units, 10n ** BigInt(each.places))
        const table = await usageTable(
          rows.map(
            each =>
              `('t${each.tenant}', 'vm${each.vm}', '2026-02-12T08:00Z'::timestamptz + ${each.us} * interval '1 us', ${show(quantity(each))}, 1, 'H100')`,
          ),
        )
        const expected = new Map<string, Fraction>()
        for (const each of rows) {
          const key = `t${each.tenant} vm${each.vm}`
          expected.set(key, (expected.get(key) ?? new Fraction(0)).add(quantity(each)))
        }
        await using opened = open([queryOf(table)], { windowMinutes, pageSize })
        const sums = new Map<string, Fraction>()
        for (const window of windowsOver({ startMs: at(8), endMs: at(10) }, opened.source.widthMinutes))
          for (const { subject, resource, measures } of await usages(opened, window)) {
            const key = `${subject} ${resource.id}`
            sums.set(key, (sums.get(key) ?? new Fraction(0)).add(exact(measures.gpu_seconds ?? '')))
          }
        const plain = (of: Map<string, Fraction>) =>
          Object.fromEntries([...of].sort().map(([key, sum]) => [key, show(sum)]))
        expect(plain(sums)).toEqual(plain(expected))
        await admin.query(`drop table ${table}`)
      },
    ),
    { numRuns: 15 },
  )
})

test('transactions that commit in any order: each read is what was committed, the last one is all', async () => {
  const writers = await Promise.all([0, 1, 2].map(() => server.connect()))
  const act = fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({
        act: fc.constant('insert' as const),
        writer: fc.nat(2),
        minute: fc.nat(29),
        units: fc.nat(10 ** 9),
      }),
    },
    {
      weight: 2,
      arbitrary: fc.record({
        act: fc.constantFrom('commit' as const, 'rollback' as const),
        writer: fc.nat(2),
      }),
    },
    { weight: 3, arbitrary: fc.record({ act: fc.constant('read' as const), window: fc.nat(1) }) },
  )
  try {
    await fc.assert(
      fc.asyncProperty(fc.array(act, { minLength: 5, maxLength: 40 }), async acts => {
        const table = await usageTable()
        await using opened = open([queryOf(table)], { pageSize: 3 })
        const windows = windowsOver({ startMs: at(8), endMs: at(8, 30) }, 15)
        const committed = [0n, 0n]
        const waiting = [0, 1, 2].map(() => [0n, 0n])
        const begun = [false, false, false]
        const total = async (window: Window) =>
          (await usages(opened, window)).reduce(
            (sum, { measures }) => sum.add(exact(measures.gpu_seconds ?? '')),
            new Fraction(0),
          )
        const holds = async (index: number) =>
          expect(show(await total(windows[index]!))).toBe(show(new Fraction(committed[index]!, 1000n)))
        const end = async (writer: number, how: 'commit' | 'rollback') => {
          if (!begun[writer]) return
          await writers[writer]!.query(how)
          begun[writer] = false
          for (const index of [0, 1]) {
            if (how === 'commit') committed[index]! += waiting[writer]![index]!
            waiting[writer]![index] = 0n
          }
        }
        for (const step of acts)
          if (step.act === 'read') await holds(step.window)
          else if (step.act === 'insert') {
            const client = writers[step.writer]!
            if (!begun[step.writer]) await client.query('begin')
            begun[step.writer] = true
            const quantity = show(new Fraction(BigInt(step.units), 1000n))
            await client.query(
              `insert into ${table} (tenant, vm, at, seconds, bytes, gpu) values ('t', 'vm', '2026-02-12T08:00Z'::timestamptz + ${step.minute} * interval '1 min', ${quantity}, 1, 'H100')`,
            )
            waiting[step.writer]![step.minute < 15 ? 0 : 1]! += BigInt(step.units)
          } else await end(step.writer, step.act)
        for (const writer of [0, 1, 2]) await end(writer, 'commit')
        await holds(0)
        await holds(1)
        await admin.query(`drop table ${table}`)
      }),
      { numRuns: 25 },
    )
  } finally {
    for (const writer of writers) await writer.end()
  }
})

test('the pages of a read are of one moment, whatever is committed between them', async () => {
  const table = await usageTable(
    Array.from({ length: 40 }, (_, index) => `('t', 'vm-${index}', '2026-02-12T08:00Z', 100000, 1, 'H100')`),
  )
  const sql = `select * from ${table} where at >= :start and at < :end and (:after is null or id > :after::int8) order by id limit :limit`
  await using opened = open([queryOf(table, { sql, after: 'id' })], { pageSize: 1 })
  const mover = await server.connect()
  let moves = 0
  let isOver = false
  const moving = (async () => {
    for (; !isOver; moves += 1)
      await mover.query(
        `update ${table} set seconds = seconds + case when id <= 20 then -1 else 1 end where id in (${1 + (moves % 20)}, ${21 + (moves % 20)})`,
      )
  })()
  try {
    for (let reads = 0; reads < 10; reads += 1) {
      const all = await usages(opened, hour(8))
      const sum = all.reduce(
        (total, { measures }) => total.add(exact(measures.gpu_seconds ?? '')),
        new Fraction(0),
      )
      expect(show(sum)).toBe('4000000')
    }
    expect(moves).toBeGreaterThan(20)
  } finally {
    isOver = true
    await moving
    await mover.end()
  }
})

test('a standby knows a window when it has replayed it, not when its clock says so', async () => {
  const table = await usageTable()
  await using standby = await server.standby()
  const follower = await standby.connect()
  await using opened = openSource(standby, [queryOf(table)])
  const insert = async () => {
    await admin.query(
      `insert into ${table} (tenant, vm, at, seconds, bytes, gpu) values ('t', 'vm', now(), 1, 1, 'H100')`,
    )
    return await nowOf(admin)
  }
  try {
    const firstMs = await insert()
    await expect
      .poll(async () => (await follower.query(`select 1 from ${table}`)).rowCount, { timeout: 10_000 })
      .toBe(1)
    await follower.query('select pg_wal_replay_pause()')
    await expect
      .poll(
        async () => (await follower.query('select pg_get_wal_replay_pause_state() as state')).rows[0].state,
        { timeout: 10_000 },
      )
      .toBe('paused')
    const lastMs = await insert()
    const window = { startMs: firstMs - minuteMs, endMs: lastMs }
    await sleep(50)
    // Its clock is past the window, and one of the two rows is not there.
    expect(await nowOf(follower)).toBeGreaterThan(window.endMs)
    const fault = await faultFrom(usages(opened, window))
    expect(fault.code).toBe('WINDOW_UNKNOWABLE')
    expect(fault.message).toMatch(/not over yet by the standby/)
    await follower.query('select pg_wal_replay_resume()')
    await expect
      .poll(
        async () => {
          // A commit that comes after says that all before it was replayed.
          await insert()
          return await usages(opened, window).catch((error: Fault) => error.code)
        },
        { timeout: 10_000 },
      )
      .toMatchObject([{ measures: { gpu_seconds: '2' }, parts: 2 }])
    await admin.query('grant pg_read_all_stats to meter')
    await expect.poll(async () => (await opened.source.check!(live)).missing, { timeout: 10_000 }).toEqual([])
    expect((await opened.source.check!(live)).works[0]).toMatch(/a standby$/)
  } finally {
    await follower.end()
  }
})

async function nowOf(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ ms: string }>(
    'select ceil(extract(epoch from clock_timestamp()) * 1000)::text as ms',
  )
  return Number(rows[0]!.ms)
}

test('many rows of a hundred resources are read in little memory', async () => {
  const table = await usageTable()
  await admin.query(
    `insert into ${table} (tenant, vm, at, seconds, bytes, gpu) select 'tenant-' || i % 10, 'vm-' || i % 100, '2026-02-12T08:00Z', 0.000005, i, 'H100' from generate_series(1, 200000) i`,
  )
  await using opened = open([queryOf(table)], { pageSize: 5000, statementSeconds: 60 })
  // What is alive, not what was not collected yet.
  setFlagsFromString('--expose-gc')
  const collectGarbage = runInNewContext('gc') as () => void
  const liveBytes = () => {
    collectGarbage()
    return process.memoryUsage().heapUsed
  }
  const startBytes = liveBytes()
  let mostBytes = 0
  const watch = setInterval(() => {
    mostBytes = Math.max(mostBytes, liveBytes() - startBytes)
  }, 250)
  const startedMs = performance.now()
  const all = await usages(opened, hour(8))
  const seconds = (performance.now() - startedMs) / 1000
  clearInterval(watch)
  expect(all).toHaveLength(100)
  expect(
    all.reduce((sum, { measures }) => sum.add(exact(measures.gpu_seconds ?? '')), new Fraction(0)).toString(),
  ).toBe('1')
  expect(all.reduce((sum, { measures }) => sum + BigInt(measures.network_receive_bytes ?? ''), 0n)).toBe(
    20_000_100_000n,
  )
  console.info(`200,000 rows in ${seconds.toFixed(1)} s, ${Math.round(mostBytes / 2 ** 20)} MiB more`)
  expect(mostBytes).toBeGreaterThan(0)
  expect(mostBytes).toBeLessThan(40 * 2 ** 20)
})
