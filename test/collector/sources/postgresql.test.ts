/** The PostgreSQL source against a real server: the contract of every source, and what is its own. */
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import type pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Source } from '../../../collector/source.ts'
import { Fault } from '../../../schemas/fault.ts'
import { hourMs, type Window } from '../../../schemas/window.ts'
import { runSourceContract } from '../../contract/source.ts'
import { faultFrom, faultOf } from '../../faults.ts'
import { type PostgresRig, startPostgres } from '../../rig/postgres.ts'
import { slowProxy } from '../../rig/slow-proxy.ts'
import {
  at,
  hour,
  insertUsage,
  meterPassword,
  type Opened,
  openSource,
  queryOf,
  usages,
} from './usage-tables.ts'

const live = new AbortController().signal
let server: PostgresRig
let admin: pg.Client
beforeAll(async () => {
  server = await startPostgres({
    rules: [
      'hostssl all certified 127.0.0.1/32 scram-sha-256 clientcert=verify-ca',
      'host all certified all reject',
    ],
  })
  admin = await server.connect()
  await admin.query(`create role meter login password '${meterPassword}'`)
  await admin.query(`create role certified login password '${meterPassword}' in role meter`)
})
afterAll(async () => {
  await admin?.end()
  await server?.[Symbol.asyncDispose]()
})

const usageTable = (rows: readonly string[] = []) => insertUsage(admin, rows)
const open = (...asked: Parameters<typeof openSource> extends [unknown, ...infer Rest] ? Rest : never) =>
  openSource(server, ...asked)

async function faultsOf({ source }: Opened, window: Window): Promise<Fault[]> {
  const faults: Fault[] = []
  for await (const item of source.read('vms', window, live))
    try {
      source.toUsage(item, window)
    } catch (error) {
      faults.push(error as Fault)
    }
  return faults
}

const someRows = Array.from(
  { length: 240 },
  (_, index) =>
    `('tenant-${index % 3}', 'vm-${index % 7}', '2026-02-12T08:00:00.000001Z'::timestamptz + ${index} * interval '29.9 s', ${index}.25, ${index}, 'H100')`,
)

runSourceContract('postgresql', {
  open: async options => {
    const table = await usageTable(someRows)
    const proxy = await slowProxy(`http://127.0.0.1:${server.port}`)
    let password = meterPassword
    const opened = open(
      [queryOf(table)],
      {
        ...(options?.widthMinutes && { windowMinutes: options.widthMinutes }),
        ...(options?.pageSize && { pageSize: options.pageSize }),
      },
      { port: Number(new URL(proxy.url).port), password: () => password },
    )
    return {
      kind: 'postgresql',
      source: opened.source as Source<unknown>,
      async break(how) {
        if (how === 'server gone') proxy.mode = 'gone'
        else if (how === 'hang') proxy.mode = 'silent'
        else if (how === 'cut') proxy.cutAfterBytes = 900
        else if (how === 'wrong password') password = 'mistaken-pa55'
        else if (how === 'table gone') await admin.query(`drop table ${table}`)
        else if (how === 'no right') await admin.query(`revoke select on ${table} from meter`)
        else if (how === 'column gone') await admin.query(`alter table ${table} drop column seconds`)
        else throw new Error(`no way to break it: ${how}`)
      },
      async spoilOne() {
        const { rows } = await admin.query<{ tenant: string }>(
          `update ${table} set seconds = 'NaN' where at = (select min(at) from ${table} where at >= '2026-02-12T09:00Z') returning tenant`,
        )
        return rows[0]!.tenant
      },
      async [Symbol.asyncDispose]() {
        await opened[Symbol.asyncDispose]()
        await proxy[Symbol.asyncDispose]()
      },
    }
  },
  span: { startMs: at(8), endMs: at(10) },
  window: { startMs: at(9), endMs: at(9, 15) },
  scope: 'vms',
  widthsMinutes: [15, 5, 30, 60],
  breakages: ['hang', 'server gone', 'cut', 'wrong password', 'table gone', 'no right', 'column gone'],
  secrets: [meterPassword, 'mistaken-pa55'],
})

describe('what the tables say', () => {
  test('is kept to the last digit, at the bounds of what an event can hold', async () => {
    const most = `${'9'.repeat(24)}.${'9'.repeat(12)}`
    const table = await usageTable([
      `('t', 'a', '2026-02-12T08:00Z', ${most}, 9223372036854775807, 'H100')`,
      `('t', 'b', '2026-02-12T08:59:59.999999Z', 0.000000000001, 0, 'H100')`,
      `('t', 'c', '2026-02-12T08:10Z', 1.500000000000000000000, 1, null)`,
    ])
    await using opened = open([queryOf(table)])
    expect(await usages(opened, hour(8))).toEqual([
      {
        thing: 'instance',
        subject: 't',
        resource: { kind: 'vm', id: 'a' },
        measures: { gpu_seconds: most, network_receive_bytes: '9223372036854775807' },
        labels: { gpu_type: 'H100' },
      },
      expect.objectContaining({ measures: { gpu_seconds: '0.000000000001', network_receive_bytes: '0' } }),
      expect.objectContaining({ measures: { gpu_seconds: '1.5', network_receive_bytes: '1' }, labels: {} }),
    ])
    expect(await usages(opened, hour(9))).toEqual([])
  })

  test.each([
    ['1e24', "'1e24'::numeric", /beyond 1e24/],
    ['thirteen decimals', '0.0000000000001', /12 decimals/],
    ['NaN', "'NaN'::numeric", /is "NaN", no quantity/],
    ['Infinity', "'Infinity'::numeric", /is "Infinity"/],
    ['-Infinity', "'-Infinity'::numeric", /is "-Infinity"/],
    ['NULL', 'null', /is NULL/],
    ['below zero', '-0.000000000001', /below zero/],
  ])('%s is refused, and the others count', async (_, value, why) => {
    const table = await usageTable([
      `('bad', 'a', '2026-02-12T08:00Z', ${value}, 1, 'H100')`,
      `('good', 'b', '2026-02-12T08:00Z', 1, 1, 'H100')`,
    ])
    await using opened = open([queryOf(table)])
    const [fault, ...others] = await faultsOf(opened, hour(8))
    expect(others).toEqual([])
    expect(fault).toMatchObject({ code: 'ITEM_UNREADABLE', facts: { subject: 'bad', resource: 'a' } })
    expect(fault?.message).toMatch(why)
  })

  test('rows of one resource are one reading, with the number of its parts', async () => {
    const table = await usageTable([
      `('t', 'a', '2026-02-12T08:00Z', 0.1, 1, 'H100')`,
      `('t', 'a', '2026-02-12T08:10Z', 0.2, 2, 'H100')`,
      `('u', 'a', '2026-02-12T08:10Z', 5, 3, 'H100')`,
    ])
    await using opened = open([queryOf(table)], { pageSize: 1 })
    expect(await usages(opened, hour(8))).toMatchObject([
      { subject: 't', measures: { gpu_seconds: '0.3', network_receive_bytes: '3' }, parts: 2 },
      { subject: 'u', measures: { gpu_seconds: '5' } },
    ])
  })

  test('rows of one resource that differ in a label are refused, not priced by either', async () => {
    const table = await usageTable([
      `('t', 'a', '2026-02-12T08:00Z', 1, 1, 'H100')`,
      `('t', 'a', '2026-02-12T08:10Z', 2, 2, null)`,
    ])
    await using opened = open([queryOf(table)])
    const [fault] = await faultsOf(opened, hour(8))
    expect(fault?.message).toMatch(/differ in gpu/)
    expect(fault?.facts.subject).toBe('t')
  })

  test('a row that names nobody is a gap of the whole scope', async () => {
    const table = await usageTable([`(null, 'a', '2026-02-12T08:00Z', 1, 1, 'H100')`])
    await using opened = open([queryOf(table)])
    const [fault] = await faultsOf(opened, hour(8))
    expect(fault).toMatchObject({ code: 'ITEM_UNREADABLE', facts: { query: 'vms' } })
    expect(fault?.facts.subject).toBeUndefined()
    expect(fault?.message).toMatch(/tenant is NULL/)
  })

  test('a row outside of its window shows that the query is wrong: nothing is read', async () => {
    const table = await usageTable([`('t', 'a', '2026-02-12T09:00Z', 1, 1, 'H100')`])
    const sql = `select * from ${table} where at >= :start and at <= :end`
    await using opened = open([queryOf(table, { sql })])
    const fault = await faultFrom(usages(opened, hour(8)))
    expect(fault.code).toBe('SOURCE_REFUSED')
    expect(fault.message).toMatch(/query vms: it gave a row whose at is 2026-02-12 09:00:00\+00, outside/)
  })

  test('an interval is told to the millisecond, outwards, and refused where it leaves the window', async () => {
    const table = await usageTable([`('t', 'a', '2026-02-12T08:00:00.000001Z', 1, 1, 'H100')`])
    const sql = (to: string) =>
      `select *, '2026-02-12T08:00:00.0009Z'::timestamptz as t0, '${to}'::timestamptz as t1 from ${table} where at >= :start and at < :end`
    const interval = { start: 't0', end: 't1' }
    await using whole = open([queryOf(table, { sql: sql('2026-02-12T08:59:59.999999Z'), interval })])
    expect((await usages(whole, hour(8)))[0]?.interval).toEqual(hour(8))
    await using beyond = open([queryOf(table, { sql: sql('2026-02-12T09:00:00.000001Z'), interval })])
    expect((await faultsOf(beyond, hour(8)))[0]?.message).toMatch(/reaches out of its window/)
  })

  test('columns without a zone, and dates, are UTC, whatever the role is set to', async () => {
    await admin.query(`alter role meter set timezone = 'Asia/Kolkata'`)
    const table = await usageTable([`('t', 'a', '2026-02-12T08:30Z', 1, 1, 'H100')`])
    await admin.query(`alter table ${table} alter at type timestamp using at at time zone 'UTC'`)
    await using opened = open([queryOf(table)])
    expect(await usages(opened, hour(8))).toHaveLength(1)
    await admin.query(`alter table ${table} alter at type date using at::date`)
    expect(await usages(opened, hour(8))).toEqual([])
    expect(await usages(opened, hour(0))).toHaveLength(1)
    await admin.query('alter role meter reset timezone')
  })

  test('pages by a key, of any size, are the rows that one answer has', async () => {
    const table = await usageTable(someRows)
    const sql = (limit: string) =>
      `select * from ${table} where at >= :start and at < :end and (:after is null or id > :after::int8) order by id ${limit}`
    await using cursor = open([queryOf(table)])
    const whole = await usages(cursor, hour(8))
    for (const pageSize of [7, 20, 1000]) {
      await using paged = open([queryOf(table, { sql: sql('limit :limit'), after: 'id' })], { pageSize })
      expect(await usages(paged, hour(8))).toEqual(whole)
    }
    await using unlimited = open([queryOf(table, { sql: sql('limit 50'), after: 'id' })])
    expect(await usages(unlimited, hour(8))).toEqual(whole)
    await using stuck = open([queryOf(table, { sql: `${sql('limit :limit')}`, after: 'gpu' })])
    expect((await faultFrom(usages(stuck, hour(8)))).message).toMatch(/gpu is the same in two rows/)
  })
})

describe('what the server says', () => {
  test('of a wrong query leads to its line and column in the config', async () => {
    const sql = `select '€😀', -- :start\n  wrng from pg_class\nwhere :start < :end`
    await using opened = open([queryOf('pg_class', { sql })])
    const fault = await faultFrom(usages(opened, hour(8)))
    expect(fault.message).toBe(
      'query vms: PostgreSQL says 42703 at line 2, column 3: column "wrng" does not exist',
    )
    const later = `select :start, :end,\n '😀' as "x:end", nonesuch`
    await using second = open([queryOf('pg_class', { sql: later })])
    expect((await faultFrom(usages(second, hour(8)))).message).toMatch(/at line 2, column 19/)
  })

  test('holds no value of a row in its words', async () => {
    const table = await usageTable([`('top secret tenant', 'a', '2026-02-12T08:00Z', 1, 1, 'H100')`])
    const sql = `select tenant::int as tenant, vm, seconds, bytes, gpu, at from ${table} where at >= :start and at < :end`
    await using opened = open([queryOf(table, { sql })])
    const fault = await faultFrom(usages(opened, hour(8)))
    expect(fault).toMatchObject({ code: 'SOURCE_REFUSED', facts: { sqlstate: '22P02' } })
    expect(JSON.stringify([fault.message, fault.facts, fault.cause])).not.toContain('secret')
  })

  test('nothing but a SELECT is run, and it changes nothing', async () => {
    const table = await usageTable(someRows)
    await admin.query(`grant all on ${table}, ${table}_id_seq to meter`)
    for (const [sql, sqlstate] of [
      [`with gone as (delete from ${table} where :start < :end returning *) select * from gone`, '0A000'],
      [`select *, nextval('${table}_id_seq') from ${table} where :start < :end`, '25006'],
    ] as const) {
      await using opened = open([queryOf(table, { sql })])
      expect((await faultFrom(usages(opened, hour(8)))).facts.sqlstate).toBe(sqlstate)
    }
    expect((await admin.query(`select 1 from ${table}`)).rowCount).toBe(someRows.length)
    await admin.query(`drop table ${table}`)
  })

  test('a statement that runs too long is stopped by the server', async () => {
    const table = await usageTable(someRows)
    await admin.query('begin')
    await admin.query(`lock table ${table} in access exclusive mode`)
    try {
      await using opened = open([queryOf(table)])
      const fault = await faultFrom(usages(opened, hour(8)))
      expect(fault).toMatchObject({ code: 'SOURCE_BUSY', facts: { sqlstate: '57014' } })
      expect(fault.message).toMatch(/statementSeconds/)
    } finally {
      await admin.query('rollback')
    }
  })

  test.each(['off', 'unverified'])('who stops waiting stops the query at the server, TLS %s', async mode => {
    const table = await usageTable(someRows)
    const running = async () =>
      (
        await admin.query(
          `select 1 from pg_stat_activity where application_name = 'meterline' and state = 'active' and query like '%${table}%' and pid <> pg_backend_pid()`,
        )
      ).rowCount
    const holder = await server.connect()
    await holder.query('begin')
    await holder.query(`lock table ${table} in access exclusive mode`)
    try {
      await using opened = open([queryOf(table)], { statementSeconds: 60, tls: { mode } })
      const stop = new AbortController()
      const reading = faultFrom(usages(opened, hour(8), 'vms', stop.signal))
      await expect.poll(running, { timeout: 5000 }).toBe(1)
      stop.abort()
      expect((await reading).code).toBe('ABORTED')
      await expect.poll(running, { timeout: 5000 }).toBe(0)
    } finally {
      await holder.end()
    }
  })

  test('is not taken for whole where it breaks off among the rows', async () => {
    const table = await usageTable(someRows)
    const proxy = await slowProxy(`http://127.0.0.1:${server.port}`)
    await using opened = open([queryOf(table)], { pageSize: 50 }, { port: Number(new URL(proxy.url).port) })
    const whole = await usages(opened, hour(8))
    expect(whole).toHaveLength(21)
    let faults = 0
    for (proxy.cutAfterBytes = 2000; faults < 100; proxy.cutAfterBytes += 1000) {
      const said = await usages(opened, hour(8)).catch((error: unknown) => error)
      if (!(said instanceof Fault)) {
        expect(said).toEqual(whole)
        break
      }
      expect(said.code).toBe('SOURCE_UNREACHABLE')
      faults += 1
    }
    expect(faults).toBeGreaterThan(5)
    await proxy[Symbol.asyncDispose]()
  })

  const ca = 'file:loopback.cert.pem'
  const other = 'file:rotated.cert.pem'
  test.each([
    ['its authority', { ca }],
    ['any certificate', { mode: 'unverified' }],
    ['a certificate of our own', { ca, cert: 'file:rotated.cert.pem', key: 'file:rotated.key.pem' }],
  ])('TLS with %s', async (_, tls) => {
    const table = await usageTable(someRows)
    await using opened = open([queryOf(table)], { tls, user: 'cert' in tls ? 'certified' : 'meter' })
    expect(await usages(opened, hour(8))).toHaveLength(21)
  })

  test('no TLS is named, and goes on in clear only where the config says so', async () => {
    const plain = createServer(socket => socket.on('data', () => socket.write('N')))
    plain.listen(0, '127.0.0.1')
    await once(plain, 'listening')
    const { port } = plain.address() as AddressInfo
    await using opened = open([queryOf('pg_class')], { tls: { mode: 'verify' } }, { port })
    expect(await faultFrom(usages(opened, hour(8)))).toMatchObject({
      code: 'SOURCE_REFUSED',
      message: 'connecting: the server speaks no TLS (tls.mode: off)',
    })
    plain.close()
  })

  test.each([
    ['a user that is none', { user: 'nobody_here' }, 'SOURCE_DENIED', /28P01/],
    ['a database that is none', { database: 'nowhere' }, 'SOURCE_MISSING', /3D000/],
    ['a certificate of nobody we know', { tls: {} }, 'SOURCE_UNREACHABLE', /SELF_SIGNED/],
    ['a certificate of another', { tls: { ca: other } }, 'SOURCE_UNREACHABLE', /SELF_SIGNED/],
    ['a host that it is not of', { host: '127.0.0.2', tls: { ca } }, 'SOURCE_UNREACHABLE', /ALTNAME/],
    ['no certificate of our own', { user: 'certified', tls: { ca } }, 'SOURCE_DENIED', /28000/],
    ['a host that is none', { host: 'nowhere.invalid' }, 'SOURCE_UNREACHABLE', /ENOTFOUND|EAI_AGAIN/],
  ])('%s is named', async (_, options, code, why) => {
    await using opened = open([queryOf('pg_class')], options)
    const fault = await faultFrom(usages(opened, hour(8)))
    expect(fault.code).toBe(code)
    expect(fault.message).toMatch(why)
  })
})

describe('the end of a window', () => {
  test('is when the clock of the database says so, not ours', async () => {
    const table = await usageTable(someRows)
    const ahead = () => Date.now() + 2 * hourMs
    await using opened = open([queryOf(table)], {}, { nowMs: ahead })
    const startMs = Math.floor(Date.now() / hourMs) * hourMs
    const fault = await faultFrom(usages(opened, { startMs, endMs: startMs + hourMs }))
    expect(fault.code).toBe('WINDOW_UNKNOWABLE')
    expect(fault.message).toMatch(/not over yet by the database/)
  })

  test('a row that was committed late, with an older time, is in the next read of its window', async () => {
    const table = await usageTable([`('t', 'a', '2026-02-12T08:00Z', 1, 1, 'H100')`])
    const late = await server.connect()
    try {
      await late.query('begin')
      await late.query(
        `insert into ${table} (tenant, vm, at, seconds, bytes, gpu) values ('t', 'a', '2026-02-12T08:30Z', 2, 1, 'H100')`,
      )
      await using opened = open([queryOf(table)])
      expect(await usages(opened, hour(8))).toMatchObject([{ measures: { gpu_seconds: '1' } }])
      await late.query('commit')
      expect(await usages(opened, hour(8))).toMatchObject([{ measures: { gpu_seconds: '3' }, parts: 2 }])
    } finally {
      await late.end()
    }
  })
})

describe('check', () => {
  test('says what works, and what to mend', async () => {
    const table = await usageTable(someRows)
    await using opened = open([
      queryOf(table),
      queryOf(table, { name: 'lacking', measures: { gpu_seconds: 'hours' } }),
      queryOf(table, {
        name: 'floats',
        sql: queryOf(table).sql.replace('seconds,', 'seconds::float8 as seconds,'),
      }),
      queryOf('nonesuch', { name: 'wrong' }),
    ])
    const { works, missing } = await opened.source.check!(live)
    expect(works).toEqual([
      expect.stringMatching(/^PostgreSQL \d+/),
      'query vms: 7 columns',
      'query floats: 7 columns',
    ])
    expect(missing.map(({ what }) => what)).toEqual([
      'query lacking: no column hours, or two',
      'query floats: seconds is double precision, no exact number',
      'query wrong: PostgreSQL says 42P01 at line 2, column 6: relation "nonesuch" does not exist',
    ])
    await admin.query(`revoke select on ${table} from meter`)
    expect((await opened.source.check!(live)).missing[0]).toEqual({
      what: expect.stringMatching(/42501: permission denied for table/),
      remedy: 'grant select on what it reads, and usage on its schema',
    })
  })

  test.each([
    [{ database: 'nowhere' }, 'check `database`'],
    [
      { user: 'nobody_here' },
      'check `user`, `password` and the certificate in `tls`, and pg_hba.conf of the server',
    ],
    [{ port: 1 }, 'check `host`, `port` and `tls`, and what is between'],
  ])('a connection that cannot be made is told once: %j', async (options, remedy) => {
    await using opened = open([queryOf('pg_class'), queryOf('pg_class', { name: 'second' })], options)
    expect(await opened.source.check!(live)).toEqual({
      works: [],
      missing: [{ what: expect.stringMatching(/^connecting: PostgreSQL/), remedy }],
    })
  })

  test('a role that may write is told', async () => {
    const table = await usageTable()
    await admin.query(`grant update on ${table} to meter`)
    await using opened = open([queryOf(table)])
    const { missing } = await opened.source.check!(live)
    expect(missing).toEqual([
      { what: expect.stringContaining(`may write, for instance public.usage_`), remedy: expect.any(String) },
    ])
    await admin.query(`revoke all on all tables in schema public from meter`)
  })
})

test.each([
  ['no :end', { sql: 'select 1 from t where at >= :start' }, /must say `:start` and `:end`/],
  ['in a comment', { sql: 'select 1 from t where at >= :start -- :end' }, /must say/],
  ['no SELECT', { sql: 'delete from t where at >= :start and at < :end' }, /is no SELECT/],
  ['two statements', { sql: 'select :start, :end; drop table t' }, /line 1, column 22 begins another/],
  ['a string without end', { sql: "select ':start, :end" }, /' at line 1, column 8 has no end/],
  ['a key that is not mapped', { sql: 'select :start, :end, :after' }, /go together/],
  ['a limit alone', { sql: 'select :start, :end limit :limit' }, /would leave rows out/],
])('a query with %s is refused before it is asked', async (_, more, why) => {
  const fault = faultOf(() => open([queryOf('t', more)]))
  expect(fault.code).toBe('CONFIG_INVALID')
  expect(fault.message).toMatch(why)
})
