/** The ClickHouse source against a real engine: the contract of every source, and what is its own. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Source } from '../../../collector/source.ts'
import { ClickhouseConfig, clickhouse } from '../../../collector/sources/clickhouse.ts'
import type { SqlItem } from '../../../collector/sql.ts'
import { openHttp } from '../../../runtime/http.ts'
import { misfits } from '../../../schemas/check.ts'
import type { Usage } from '../../../schemas/event.ts'
import type { Fault } from '../../../schemas/fault.ts'
import { hourMs, minuteMs, type Window } from '../../../schemas/window.ts'
import { runSourceContract } from '../../contract/source.ts'
import { faultFrom } from '../../faults.ts'
import { startClickHouse, type TestClickHouse } from '../../rig/clickhouse.ts'
import { slowProxy } from '../../rig/slow-proxy.ts'
import { sourceContext } from '../source-context.ts'

const live = new AbortController().signal
const passwordRef = `\${env:METER_PASSWORD}`
const fixture = (name: string) => readFileSync(new URL(`../../fixtures/tls/${name}`, import.meta.url), 'utf8')
const dayStartMs = Date.UTC(2026, 1, 12)
const at = (hours: number, minutes = 0) => dayStartMs + hours * hourMs + minutes * minuteMs
const hour = (from: number): Window => ({ startMs: at(from), endMs: at(from + 1) })

let server: TestClickHouse
beforeAll(async () => {
  server = await startClickHouse()
})
afterAll(async () => {
  await server?.stop()
})

async function run(sql: string): Promise<string> {
  const answer = await fetch(`${server.url}/?database=${server.database}`, {
    method: 'POST',
    body: sql,
    headers: { 'x-clickhouse-user': server.user, 'x-clickhouse-key': server.password },
  })
  const text = await answer.text()
  if (!answer.ok) throw new Error(text)
  return text
}

let tables = 0
async function usageTable(select: string): Promise<string> {
  tables += 1
  const table = `usage_${tables}`
  await run(
    `create table ${table} (id UInt64, tenant Nullable(String), vm String, at DateTime64(6, 'Asia/Kolkata'), seconds Nullable(Decimal(38, 13)), bytes UInt64, gpu LowCardinality(String)) engine = MergeTree order by id`,
  )
  await run(`insert into ${table} ${select}`)
  return table
}

const someRows = `select number, concat('tenant-', number % 3), concat('vm-', number % 7),
  toDateTime64('2026-02-12 08:00:00.000001', 6, 'UTC') + toIntervalMillisecond(number * 29900), number + 0.25, number, 'H100' from numbers(240)`
const oneRow = (seconds: string, more: { bytes?: string; tenant?: string } = {}) =>
  `select 1, ${more.tenant ?? "'t'"}, 'a', toDateTime64('2026-02-12 08:00:00', 6, 'UTC'), ${seconds}, ${more.bytes ?? '1'}, 'H100'`

const queryOf = (table: string, more: object = {}) => ({
  name: 'vms',
  sql: `select id, tenant, vm, at, seconds, bytes, gpu\nfrom ${table}\nwhere at >= :start and at < :end`,
  thing: 'instance',
  subject: 'tenant',
  resource: { kind: 'vm', id: 'vm' },
  measures: { gpu_seconds: 'seconds', network_receive_bytes: 'bytes' },
  labels: { gpu_type: 'gpu' },
  time: 'at',
  ...more,
})
const pagedOf = (table: string) =>
  queryOf(table, {
    sql: `select * from ${table} where at >= :start and at < :end and (:after is null or id > toUInt64OrZero(:after)) order by id limit :limit`,
    after: 'id',
  })

interface Opened extends AsyncDisposable {
  readonly source: Source<SqlItem>
}

function open(
  queries: readonly object[],
  options: object = {},
  more: { password?: () => string; nowMs?: () => number } = {},
): Opened {
  const config = {
    name: 'test',
    url: server.url,
    database: server.database,
    user: server.user,
    password: passwordRef,
    queries: structuredClone(queries),
    ...options,
  }
  expect(misfits(ClickhouseConfig, config)).toEqual([])
  const http = openHttp()
  const source = clickhouse.open(
    config as unknown as ClickhouseConfig,
    sourceContext({
      http,
      client: asked => openHttp({ ...asked, retries: 1, deadlineMs: 250, random: () => 0 }),
      secret: reference =>
        reference === passwordRef
          ? (more.password?.() ?? server.password)
          : fixture(reference.slice('file:'.length)),
      nowMs: more.nowMs ?? Date.now,
    }),
  ) as Source<SqlItem>
  return {
    source,
    async [Symbol.asyncDispose]() {
      await source[Symbol.asyncDispose]()
      await http[Symbol.asyncDispose]()
    },
  }
}

async function usages({ source }: Opened, window: Window, scope = 'vms'): Promise<Usage[]> {
  const all: Usage[] = []
  for await (const item of source.read(scope, window, live)) all.push(...source.toUsage(item, window))
  return all.sort((a, b) => (a.resource.id < b.resource.id ? -1 : 1))
}

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

let sharedTable: Promise<string> | undefined
runSourceContract('clickhouse', {
  open: async options => {
    // Made once: to make a table takes the engine longer than all else here.
    sharedTable ??= usageTable(someRows)
    const table = await sharedTable
    const mend: string[] = []
    const proxy = await slowProxy(server.url)
    let password = server.password
    const opened = open(
      [pagedOf(table)],
      {
        url: proxy.url,
        ...(options?.widthMinutes && { windowMinutes: options.widthMinutes }),
        ...(options?.pageSize && { pageSize: options.pageSize }),
      },
      { password: () => password },
    )
    return {
      kind: 'clickhouse',
      source: opened.source as Source<unknown>,
      async break(how) {
        if (how === 'server gone') proxy.mode = 'gone'
        else if (how === 'hang') proxy.mode = 'silent'
        else if (how === 'cut') proxy.cutAfterBytes = 300
        else if (how === 'wrong password') password = 'mistaken-pa55'
        else if (how === 'table gone') {
          await run(`rename table ${table} to ${table}_gone`)
          mend.push(`rename table ${table}_gone to ${table}`)
        } else if (how === 'column gone') {
          await run(`alter table ${table} rename column seconds to hours`)
          mend.push(`alter table ${table} rename column hours to seconds`)
        } else throw new Error(`no way to break it: ${how}`)
      },
      async spoilOne() {
        const where = `at >= toDateTime64('2026-02-12 09:00:00', 6, 'UTC')`
        const id = (await run(`select id from ${table} where ${where} order by at limit 1`)).trim()
        await run(`alter table ${table} update seconds = null where id = ${id} settings mutations_sync = 2`)
        mend.push(
          `alter table ${table} update seconds = id + 0.25 where id = ${id} settings mutations_sync = 2`,
        )
        return (await run(`select tenant from ${table} where id = ${id}`)).trim()
      },
      async [Symbol.asyncDispose]() {
        for (const sql of mend) await run(sql)
        await opened[Symbol.asyncDispose]()
        await proxy[Symbol.asyncDispose]()
      },
    }
  },
  span: { startMs: at(8), endMs: at(10) },
  window: { startMs: at(9), endMs: at(9, 15) },
  scope: 'vms',
  widthsMinutes: [15, 5, 30, 60],
  breakages: ['hang', 'server gone', 'cut', 'wrong password', 'table gone', 'column gone'],
  secrets: ['mistaken-pa55'],
})

describe('what the tables say', () => {
  test('is kept to the last digit: 64 bits, decimals at the bounds, times to the microsecond', async () => {
    const most = `${'9'.repeat(24)}.${'9'.repeat(12)}`
    const table = await usageTable(oneRow(`toDecimal128('${most}', 13)`, { bytes: '18446744073709551615' }))
    await using opened = open([queryOf(table)])
    expect(await usages(opened, hour(8))).toEqual([
      {
        thing: 'instance',
        subject: 't',
        resource: { kind: 'vm', id: 'a' },
        measures: { gpu_seconds: most, network_receive_bytes: '18446744073709551615' },
        labels: { gpu_type: 'H100' },
      },
    ])
    expect(await usages(opened, hour(9))).toEqual([])
  })

  test.each([
    ['NaN', 'nan', /is "nan", no quantity/],
    ['infinity', 'inf', /is "inf", no quantity/],
    ['NULL', 'null', /is NULL/],
    ['a list', '[1, 2]', /is no single value/],
    ['1e24', "toDecimal128('1000000000000000000000000', 0)", /beyond 1e24/],
    ['thirteen decimals', "toDecimal128('0.0000000000001', 13)", /12 decimals/],
    ['below zero', "toDecimal128('-1', 13)", /below zero/],
  ])('%s is refused', async (_, value, why) => {
    const table = await usageTable(oneRow('1'))
    const sql = `select tenant, vm, at, ${value} as seconds, bytes, gpu from ${table} where at >= :start and at < :end`
    await using opened = open([queryOf(table, { sql })])
    const [fault] = await faultsOf(opened, hour(8))
    expect(fault).toMatchObject({ code: 'ITEM_UNREADABLE', facts: { subject: 't', resource: 'a' } })
    expect(fault?.message).toMatch(why)
  })

  test('a key that is text with tabs and backslashes pages on', async () => {
    const sql = `select concat('a\\\\b\\tc:end', toString(number)) as vm, 't' as tenant, 1 as seconds, 1 as bytes, '' as gpu
      from numbers(5) where :start < :end and (:after is null or vm > :after) order by vm limit :limit`
    const { time: _, ...query } = queryOf('', { sql, after: 'vm', resource: { kind: 'vm', id: 'tenant' } })
    await using opened = open([query], { pageSize: 2 })
    expect(await usages(opened, hour(8))).toMatchObject([{ measures: { gpu_seconds: '5' }, parts: 5 }])
  })

  test('its clock ends a window, not ours', async () => {
    const table = await usageTable(someRows)
    await using opened = open([queryOf(table)], {}, { nowMs: () => Date.now() + 2 * hourMs })
    const startMs = Math.floor(Date.now() / hourMs) * hourMs
    const fault = await faultFrom(usages(opened, { startMs, endMs: startMs + hourMs }))
    expect(fault.code).toBe('WINDOW_UNKNOWABLE')
    expect(fault.message).toMatch(/not over yet by the database/)
  })
})

describe('what the server says', () => {
  test('of a wrong query is told with its place, without what is in rows', async () => {
    const sql = `select '€', -- :start\n  wrng(1) from numbers(1)\nwhere :start < :end frm x`
    await using opened = open([queryOf('t', { sql })])
    const fault = await faultFrom(usages(opened, hour(8)))
    expect(fault.code).toBe('SOURCE_REFUSED')
    expect(fault.message).toMatch(
      /^query vms: ClickHouse says 62 SYNTAX_ERROR at line 3, column 21: Syntax error$/,
    )
    const secret = `select toUInt64(concat('top secret', toString(number))) as seconds from numbers(1) where :start < :end`
    await using second = open([queryOf('t', { sql: secret })])
    const parse = await faultFrom(usages(second, hour(8)))
    expect(parse.message).toMatch(/ClickHouse says \d+ CANNOT_PARSE/)
    expect(JSON.stringify([parse.message, parse.facts])).not.toContain('secret')
  })

  const table = (more: object = {}) =>
    JSON.stringify({
      meta: ['tenant', 'vm', 'at', 'seconds', 'bytes', 'gpu'].map(name => ({ name, type: 'String' })),
      data: [['t', 'a', '2026-02-12T08:00:00Z', '1', '1', 'H100']],
      rows: 1,
      ...more,
    })
  const exception =
    'Code: 241. DB::Exception: Memory limit exceeded: would use 9 GiB. (MEMORY_LIMIT_EXCEEDED) (version 25.8.1)'

  test.each([
    ['a whole table', 200, {}, table(), undefined],
    ['an exception behind the rows', 200, {}, `${table().slice(0, -20)}${exception}`, 'SOURCE_BUSY'],
    [
      'an exception with a marker',
      200,
      {},
      `${table().slice(0, -20)}\r\n__exception__\r\nabc\r\n${exception}\r\n76 abc\r\n__exception__\r\n`,
      'SOURCE_BUSY',
    ],
    ['an exception in the format', 200, {}, table({ exception }), 'SOURCE_BUSY'],
    [
      'an exception in the header alone',
      200,
      { 'x-clickhouse-exception-code': '241' },
      table(),
      'SOURCE_BUSY',
    ],
    ['an exception with its status', 500, { 'x-clickhouse-exception-code': '241' }, exception, 'SOURCE_BUSY'],
    [
      'a user without rights',
      500,
      {},
      'Code: 497. DB::Exception: x: Not enough privileges. (ACCESS_DENIED)',
      'SOURCE_DENIED',
    ],
    ['fewer rows than it says', 200, {}, table({ rows: 2 }), 'BODY_UNREADABLE'],
    ['a cut table', 200, {}, table().slice(0, -1), 'BODY_UNREADABLE'],
    ['a row that is cut', 200, {}, table({ data: [['t', 'a']] }), 'BODY_UNREADABLE'],
    ['nothing', 200, {}, '', 'BODY_UNREADABLE'],
    ['a page of a proxy', 200, {}, '<html>', 'BODY_UNREADABLE'],
    ['another format', 200, { 'x-clickhouse-format': 'CSV' }, 'a,b', 'SOURCE_REFUSED'],
  ] as const)('%s is taken for what it is', async (_, status, headers, body, code) => {
    const asked: string[] = []
    const double = createServer((request, response) => {
      const query = new URL(`http://x${request.url}`).searchParams
      asked.push(
        `${request.method} ${query.get('wait_end_of_query')} ${query.get('skip_unavailable_shards')}`,
      )
      if (query.get('query')?.includes('now64'))
        response.end('{"meta":[{"name":"t","type":"Int64"}],"data":[["4102444800000"]],"rows":1}')
      else response.writeHead(status, headers).end(body)
    })
    double.listen(0, '127.0.0.1')
    await once(double, 'listening')
    try {
      const url = `http://127.0.0.1:${(double.address() as AddressInfo).port}`
      await using opened = open([queryOf('t')], { url })
      const said = await usages(opened, hour(8)).catch((error: unknown) => error as Fault)
      if (code === undefined) expect(said).toHaveLength(1)
      else expect(said).toMatchObject({ code })
      expect(asked[0]).toBe('GET 1 0')
    } finally {
      double.closeAllConnections()
      double.close()
    }
  })

  const ca = 'file:loopback.cert.pem'
  test.each([
    ['of nobody we know', {}, 'SOURCE_UNREACHABLE'],
    ['of another', { ca: 'file:rotated.cert.pem' }, 'SOURCE_UNREACHABLE'],
    ['of its authority', { ca }, undefined],
    ['of anyone', { mode: 'unverified' }, undefined],
    ['that wants one of ours', { ca, cert: 'file:rotated.cert.pem', key: 'file:rotated.key.pem' }, undefined],
  ])('over TLS, with a certificate %s', async (_, tls, code) => {
    const shown: boolean[] = []
    const double = createTlsServer(
      {
        cert: fixture('loopback.cert.pem'),
        key: fixture('loopback.key.pem'),
        ca: fixture('rotated.cert.pem'),
        requestCert: true,
        rejectUnauthorized: false,
      },
      (request, response) => {
        shown.push((request.socket as TLSSocket).authorized)
        const isClock = request.url?.includes('now64')
        response.end(
          isClock ? '{"meta":[{"name":"t","type":"Int64"}],"data":[["4102444800000"]],"rows":1}' : table(),
        )
      },
    )
    double.listen(0, '127.0.0.1')
    await once(double, 'listening')
    try {
      const url = `https://127.0.0.1:${(double.address() as AddressInfo).port}`
      await using opened = open([queryOf('t')], { url, tls })
      const said = await usages(opened, hour(8)).catch((error: unknown) => error as Fault)
      if (code === undefined) expect(said).toHaveLength(1)
      else expect(said).toMatchObject({ code })
      expect(shown).toEqual(code === undefined ? ['cert' in tls, 'cert' in tls] : [])
    } finally {
      double.closeAllConnections()
      double.close()
    }
  })
})

test('check says what works, and what to mend', async () => {
  const table = await usageTable(someRows)
  await using opened = open([
    queryOf(table),
    queryOf(table, { name: 'lacking', measures: { gpu_seconds: 'hours' } }),
    queryOf(table, {
      name: 'floats',
      sql: queryOf(table).sql.replace('seconds,', 'toFloat64(assumeNotNull(seconds)) as seconds,'),
    }),
    queryOf('nonesuch', { name: 'wrong' }),
  ])
  const { works, missing } = await opened.source.check!(live)
  expect(works).toEqual([
    expect.stringMatching(/^ClickHouse \d+/),
    'query vms: 7 columns',
    'query floats: 7 columns',
  ])
  expect(missing.map(({ what }) => what)).toEqual([
    'query lacking: no column hours, or two',
    'query floats: seconds is Float64, no exact number',
    expect.stringMatching(/^query wrong: ClickHouse says 60 UNKNOWN_TABLE: .*nonesuch/),
  ])
})
