/** The embedded ClickHouse as its clients see it: the real engine in its own process, the real client over HTTP. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { stripTypeScriptTypes } from 'node:module'
import { connect as netConnect } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { gunzipSync } from 'node:zlib'
import { type ClickHouseClient, ClickHouseError, ClickHouseLogLevel, createClient } from '@clickhouse/client'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { type Embedded, openEmbedded } from '../../deploy/embedded/embedded.ts'
import { Fault } from '../../schemas/fault.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const embeddedUrl = pathToFileURL(join(root, 'deploy/embedded/embedded.ts')).href

function temporaryDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'meterline-embedded-'))
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

function connect(
  store: { url: string; user: string; password: string },
  options: Parameters<typeof createClient>[0] = {},
): ClickHouseClient {
  return createClient({
    url: store.url,
    username: store.user,
    password: store.password,
    log: { level: ClickHouseLogLevel.OFF },
    // Off by default, as in a server of this version: large numbers would be read as floats.
    clickhouse_settings: { output_format_json_quote_64bit_integers: 1 },
    ...options,
  })
}

async function rows<T>(
  client: ClickHouseClient,
  query: string,
  params?: Record<string, unknown>,
): Promise<T[]> {
  const result = await client.query({
    query,
    format: 'JSONEachRow',
    ...(params ? { query_params: params } : {}),
  })
  return await result.json<T>()
}

async function failure(action: Promise<unknown>): Promise<ClickHouseError> {
  const error = await action.then(
    () => undefined,
    (caught: unknown) => caught,
  )
  expect(error).toBeInstanceOf(ClickHouseError)
  return error as ClickHouseError
}

async function gone(pid: number, waitMs: number): Promise<boolean> {
  for (const deadlineMs = performance.now() + waitMs; performance.now() < deadlineMs; await sleep(20)) {
    try {
      process.kill(pid, 0)
      // Ended, but not yet waited for by whoever inherited it.
      if (/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))) return true
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') return true
    }
  }
  return false
}

describe('one server, the official client', () => {
  let dir: string
  let store: Embedded
  let client: ClickHouseClient

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'meterline-embedded-'))
    store = await openEmbedded({ dataDir: dir, memoryBytesMax: 1_500_000_000 })
    client = connect(store)
  })

  afterAll(async () => {
    await client.close()
    await store[Symbol.asyncDispose]()
    rmSync(dir, { recursive: true, force: true })
  })

  test('answers both pings', async () => {
    expect(await client.ping()).toEqual({ success: true })
    expect(await client.ping({ select: true })).toEqual({ success: true })
  })

  test('rows inserted as objects, as a stream, as CSV and as compact rows come back as they were', async () => {
    await client.command({ query: 'create table kinds (n UInt64, s String) engine = MergeTree order by n' })
    const odd = 'tab\t quote\' " back\\slash\nline ü €😀; -- /* */'
    await client.insert({ table: 'kinds', values: [{ n: '1', s: odd }], format: 'JSONEachRow' })
    await client.insert({
      table: 'kinds',
      values: Readable.from([
        [2, odd],
        [3, ''],
      ]),
      format: 'JSONCompactEachRow',
    })
    const csv = Readable.from(['4,"a ""quoted""\nline"\n', '5,z\n'], { objectMode: false })
    await client.insert({ table: 'kinds', values: csv, format: 'CSV' })
    await client.command({ query: `insert into kinds values (6, 'x;y'), (7, 'it''s')` })
    await client.command({ query: 'insert into kinds format JSONEachRow {"n":8,"s":"inline; data"}' })
    const literals = Array.from({ length: 50_000 }, (_, i) => `(${100 + i}, 'literal ${i}')`)
    await client.command({ query: `insert into kinds values ${literals.join(', ')}` })
    expect(await rows(client, 'select count() as c from kinds where n >= 100')).toEqual([{ c: '50000' }])
    await client.command({ query: 'alter table kinds delete where n >= 100 settings mutations_sync = 1' })
    await client.insert({ table: 'kinds', columns: ['n'], values: [{ n: 9 }], format: 'JSONEachRow' })
    expect(await rows(client, 'select * from kinds order by n')).toEqual([
      { n: '1', s: odd },
      { n: '2', s: odd },
      { n: '3', s: '' },
      { n: '4', s: 'a "quoted"\nline' },
      { n: '5', s: 'z' },
      { n: '6', s: 'x;y' },
      { n: '7', s: "it's" },
      { n: '8', s: 'inline; data' },
      { n: '9', s: '' },
    ])
  })

  test('an insert says how many rows it wrote', async () => {
    await client.command({ query: 'create table counted (n UInt64) engine = MergeTree order by n' })
    const values = Array.from({ length: 1000 }, (_, n) => ({ n }))
    const result = await client.insert({ table: 'counted', values, format: 'JSONEachRow' })
    expect(result.summary?.written_rows).toBe('1000')
  })

  test('binary formats go in and out whole', async () => {
    await client.command({
      query: 'create table binary_rows (n UInt64, s String) engine = MergeTree order by n',
    })
    for (const format of ['Native', 'RowBinary', 'Parquet'] as const) {
      const out = await client.exec({
        query: `select number as n, repeat('\\0x', number % 50) as s from numbers(200000) format ${format}`,
      })
      await client.command({ query: 'truncate table binary_rows' })
      const into = await client.exec({
        query: `insert into binary_rows format ${format}`,
        values: out.stream as Readable,
      })
      into.stream.destroy()
      const [sum] = await rows(
        client,
        'select count() as c, sum(n) as n, sum(length(s)) as l from binary_rows',
      )
      expect(sum, format).toEqual({ c: '200000', n: '19999900000', l: '9800000' })
    }
  })

  test('an insert larger than one piece arrives whole, and its repeat with the same token is dropped whole', async () => {
    await client.command({
      query: `create table large (n UInt64, s String) engine = MergeTree order by n
        settings non_replicated_deduplication_window = 1000`,
    })
    const pad = 'x'.repeat(1000)
    const line = (n: number) => `${JSON.stringify([n, pad])}\n`
    // 70 MB: three pieces. Sent in uneven parts the second time: the cuts must not depend on how it arrives.
    const send = async (step: number) => {
      const body = Readable.from(
        (function* () {
          for (let n = 0; n < 70_000; n += step) {
            let part = ''
            for (let i = n; i < Math.min(n + step, 70_000); i += 1) part += line(i)
            yield part
          }
        })(),
        { objectMode: false },
      )
      const { stream } = await client.exec({
        query: 'insert into large format JSONCompactEachRow',
        values: body,
        clickhouse_settings: { insert_deduplication_token: 'topic-0-100' },
      })
      stream.destroy()
    }
    await send(100)
    await send(777)
    expect(await rows(client, 'select count() as c, uniqExact(n) as u from large')).toEqual([
      { c: '70000', u: '70000' },
    ])
  })

  test('settings end with their request: a token, a thread count, a time zone', async () => {
    await client.command({
      query: `create table tokens (n UInt64) engine = MergeTree order by n
        settings non_replicated_deduplication_window = 1000`,
    })
    const insert = async (n: number, token?: string) =>
      await client.insert({
        table: 'tokens',
        values: [{ n }],
        format: 'JSONEachRow',
        ...(token === undefined ? {} : { clickhouse_settings: { insert_deduplication_token: token } }),
      })
    await insert(1, 'once')
    for (let n = 2; n < 12; n += 1) await insert(n)
    await insert(99, 'once')
    expect(await rows(client, 'select count() as c, max(n) as m from tokens')).toEqual([{ c: '11', m: '11' }])

    const look = `select toString(getSetting('max_threads')) as threads, timezone() as zone, getSetting('insert_deduplication_token') as token`
    const [before] = await rows<Record<string, unknown>>(client, look)
    const within = await client.query({
      query: look,
      format: 'JSONEachRow',
      clickhouse_settings: {
        max_threads: 1,
        session_timezone: 'Asia/Tokyo',
        insert_deduplication_token: 'x',
      },
    })
    expect(await within.json()).toEqual([{ threads: '1', zone: 'Asia/Tokyo', token: 'x' }])
    for (let i = 0; i < 20; i += 1) expect(await rows(client, look)).toEqual([before])
  })

  test('what a statement sets for its session ends with it: set, use, temporary tables, params', async () => {
    await client.command({ query: 'set max_threads = 1' })
    await client.command({ query: 'create database elsewhere' })
    await client.command({ query: 'use elsewhere' })
    await client.command({ query: 'create temporary table passing (n UInt8)' })
    await rows(client, 'select {p:UInt8} as p', { p: 1 })
    expect(
      await rows(client, `select currentDatabase() as d, getSetting('max_threads') != '1' as t`),
    ).toEqual([{ d: 'default', t: 1 }])
    expect((await failure(rows(client, 'select * from passing'))).type).toBe('UNKNOWN_TABLE')
    expect((await failure(rows(client, 'select {p:UInt8} as p'))).type).toBe('UNKNOWN_QUERY_PARAMETER')
  })

  test('params arrive exact, whatever they hold', async () => {
    const text = 'it\'s "q" \\ back\ttab\nline ü😀 {x:String} $1; drop'
    const params = {
      text,
      u: '18446744073709551615',
      d: '123456789012345678901234.000000000001',
      t: '2026-02-03 04:05:06.789',
      date: new Date('2026-02-03T04:05:06.789Z'),
      list: ['a', "b'c", text],
      numbers: Array.from({ length: 5000 }, (_, n) => n),
      map: { "k'1": 'v1' },
      none: null,
      table: 'numbers',
    }
    const [row] = await rows(
      client,
      `select {text:String} as text, toString({u:UInt64}) as u, toString({d:Decimal(38,12)}) as d,
         {t:DateTime64(3,'UTC')} as t, toTimeZone({date:DateTime64(3)}, 'UTC') as date,
         {list:Array(String)} as list, arraySum({numbers:Array(UInt32)}) as numbers,
         {map:Map(String,String)} as map, {none:Nullable(String)} as none
       from {database:Identifier}.{table:Identifier} limit 1`,
      { ...params, database: 'system' },
    )
    expect(row).toEqual({
      text,
      u: params.u,
      d: params.d,
      t: params.t,
      date: params.t,
      list: params.list,
      numbers: '12497500',
      map: params.map,
      none: null,
    })
  })

  test('params too long for a URL come as a form', async () => {
    const list = Array.from({ length: 50_000 }, (_, n) => `subject/${n}`)
    const result = await client.query({
      query: 'select length({list:Array(String)}) as n, {list:Array(String)}[50000] as last',
      query_params: { list },
      use_multipart_params_auto: true,
      format: 'JSONEachRow',
    })
    expect(await result.json()).toEqual([{ n: '50000', last: 'subject/49999' }])
  })

  test('the JSON format carries names, types and a row count', async () => {
    const result = await client.query({
      query: `select toUInt64(1) as a, toDecimal64('1.50', 2) as b`,
      format: 'JSON',
    })
    expect(await result.json()).toMatchObject({
      meta: [
        { name: 'a', type: 'UInt64' },
        { name: 'b', type: 'Decimal(18, 2)' },
      ],
      rows: 1,
    })
  })

  test('a million rows stream through in flat memory', async () => {
    const rssMax = () =>
      Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${store.pid}/status`, 'utf8'))?.[1]) / 1024
    const linux = process.platform === 'linux'
    const beforeMb = linux ? rssMax() : 0
    const result = await client.query({
      query: `select number as n, repeat('x', 300) as s from numbers(1000000)`,
      format: 'JSONEachRow',
    })
    let count = 0
    for await (const part of result.stream()) count += part.length
    expect(count).toBe(1_000_000)
    // The answer is 330 MB; parts of 65,000 rows are 21 MB.
    if (linux) expect(rssMax() - beforeMb).toBeLessThan(200)
  })

  test('a reader that stops reading does not stop others', async () => {
    const reading = connect(store, { max_open_connections: 20 })
    const readers = await Promise.all(
      Array.from({ length: 12 }, () =>
        reading.query({ query: 'select * from numbers(100000000)', format: 'JSONEachRow' }),
      ),
    )
    try {
      const other = connect(store)
      expect(await rows(other, 'select 1 as one')).toEqual([{ one: 1 }])
      await other.close()
    } finally {
      for (const reader of readers) reader.close()
      await reading.close()
    }
    await untilNothingRuns()
  })

  test('errors keep their code and name', async () => {
    const expected: ReadonlyArray<readonly [string, string]> = [
      ['select nope from system.one', 'UNKNOWN_IDENTIFIER'],
      ['select * from nowhere', 'UNKNOWN_TABLE'],
      ['sel ect', 'SYNTAX_ERROR'],
      ['select 1; select 2', 'SYNTAX_ERROR'],
      ['', 'SYNTAX_ERROR'],
      ['select throwIf(1)', 'FUNCTION_THROW_IF_VALUE_IS_NON_ZERO'],
      [
        'select sum(length(x)) from (select groupArray(number) as x from numbers(400000000))',
        'MEMORY_LIMIT_EXCEEDED',
      ],
    ]
    for (const [query, type] of expected) {
      expect((await failure(client.command({ query }))).type, query).toBe(type)
    }
    const insert = client.insert({ table: 'nowhere', values: [{ a: 1 }], format: 'JSONEachRow' })
    expect((await failure(insert)).type).toBe('UNKNOWN_TABLE')
    const setting = client.query({ query: 'select 1', clickhouse_settings: { no_such: 1 } as never })
    expect((await failure(setting)).type).toBe('UNKNOWN_SETTING')
    const database = connect(store, { database: 'nowhere' })
    expect((await failure(database.query({ query: 'select 1' }))).type).toBe('UNKNOWN_DATABASE')
    await database.close()
  })

  test('answers what is not a plain select too', async () => {
    await client.command({ query: 'create table described (n UInt64) engine = MergeTree order by n' })
    expect(await rows(client, '(select 1 as n) union all (select 2 as n)')).toHaveLength(2)
    expect(await rows(client, `with 1 as n select n`)).toEqual([{ n: 1 }])
    expect(await rows(client, `show tables like 'described'`)).toEqual([{ name: 'described' }])
    expect(await rows(client, 'describe table described')).toMatchObject([{ name: 'n', type: 'UInt64' }])
    expect(await rows(client, 'exists table described')).toEqual([{ result: 1 }])
    expect((await rows(client, 'explain select 1')).length).toBeGreaterThan(0)
    await client.command({ query: 'with 5 as n insert into described select n' })
    await client.command({ query: 'insert into described with 6 as n select n' })
    expect(await rows(client, 'select n from described where n > 100')).toEqual([])
    expect(await rows(client, 'select sum(n) as n from described')).toEqual([{ n: '11' }])
  })

  test('a malformed request is refused and harms nobody', async () => {
    const { port } = new URL(store.url)
    for (const line of ['GET // HTTP/1.1', 'GET /?query_id=%0a%0d%ff&query=x HTTP/1.1', 'nonsense']) {
      const socket = netConnect(Number(port), '127.0.0.1')
      socket.on('error', () => undefined)
      socket.end(`${line}\r\nHost: x\r\nConnection: close\r\n\r\n`)
      let answer = ''
      for await (const part of socket) answer += part
      expect(answer, line).toMatch(/^HTTP\/1\.1 4\d\d /)
    }
    expect(await client.ping({ select: true })).toEqual({ success: true })
  })

  test('an error has its HTTP status and its code as a header', async () => {
    const headers = { 'X-ClickHouse-User': store.user, 'X-ClickHouse-Key': store.password }
    const answer = await fetch(store.url, { method: 'POST', body: 'select * from nowhere', headers })
    expect(answer.status).toBe(404)
    expect(answer.headers.get('x-clickhouse-exception-code')).toBe('60')
    expect(await answer.text()).toMatch(/^Code: 60\. DB::Exception: .*\(UNKNOWN_TABLE\)\n$/s)
  })

  test('an error in the middle of an answer reaches its reader, by tag or by a broken connection', async () => {
    const query = `select number, throwIf(number = 900000) from numbers(1000000)`
    for (const compression of [false, true]) {
      const other = connect(store, { compression: { response: compression } })
      const rowsRead = async () => {
        const result = await other.query({
          query,
          format: 'JSONEachRow',
          clickhouse_settings: { max_block_size: '10000' },
        })
        let count = 0
        for await (const part of result.stream()) count += part.length
        return count
      }
      const error = await rowsRead().catch((caught: unknown) => caught)
      // Compressed, the client may see the broken connection before it has unpacked the message.
      expect(String(error)).toMatch(compression ? /throwIf|aborted/ : /throwIf/)
      const text = other
        .query({ query, format: 'CSV', clickhouse_settings: { max_block_size: '10000' } })
        .then(result => result.text())
      await expect(text).rejects.toThrow()
      await other.close()
    }
    expect(await rows(client, 'select 1 as one')).toEqual([{ one: 1 }])
  })

  test('an answer that is waited for to its end comes whole, or as an error with its status', async () => {
    const asked = async (query: string) => {
      const url = `${store.url}/?wait_end_of_query=1&max_block_size=10000&default_format=JSONEachRow`
      const headers = { 'X-ClickHouse-User': store.user, 'X-ClickHouse-Key': store.password }
      const answer = await fetch(url, { method: 'POST', body: query, headers })
      return { status: answer.status, text: await answer.text() }
    }
    const whole = await asked('select number from numbers(200000)')
    expect(whole.status).toBe(200)
    expect(whole.text.split('\n')).toHaveLength(200_001)
    const failed = await asked('select number, throwIf(number = 190000) from numbers(200000)')
    expect(failed.status).toBe(500)
    expect(failed.text).toMatch(/^Code: 395\./)
  })

  test('a wrong password, or none, is refused', async () => {
    const wrong = connect(store, { password: 'wrong' })
    expect(await failure(wrong.query({ query: 'select 1' }))).toMatchObject({
      code: '516',
      type: 'AUTHENTICATION_FAILED',
    })
    expect((await wrong.ping()).success).toBe(false)
    await wrong.close()
    const none = await fetch(store.url, { method: 'POST', body: 'select 1' })
    expect(none.status).toBe(401)
    expect((await fetch(`${store.url}/ping`)).status).toBe(200)
  })

  test('compresses both ways', async () => {
    for (const codec of ['gzip', 'zstd', 'br'] as const) {
      const packed = connect(store, { compression: { request: { codec }, response: { codec } } as never })
      await packed.command({
        query: 'create or replace table packed (n UInt64) engine = MergeTree order by n',
      })
      const values = Array.from({ length: 50_000 }, (_, n) => ({ n }))
      await packed.insert({ table: 'packed', values, format: 'JSONEachRow' })
      expect((await rows<{ n: string }>(packed, 'select n from packed order by n')).length, codec).toBe(
        50_000,
      )
      await packed.close()
    }
    const answer = await fetch(
      `${store.url}/?enable_http_compression=1&query=${encodeURIComponent('select 1')}`,
      {
        headers: {
          'X-ClickHouse-User': store.user,
          'X-ClickHouse-Key': store.password,
          'Accept-Encoding': 'gzip',
        },
      },
    )
    expect(answer.headers.get('content-encoding')).toBe('gzip')
    expect(await answer.text()).toBe('1\n')
    expect(() => gunzipSync(Buffer.from('1\n'))).toThrow()
  })

  test('a body cut off inserts nothing', async () => {
    await client.command({ query: 'create table cut (n UInt64) engine = MergeTree order by n' })
    const control = new AbortController()
    const body = Readable.from(
      (async function* () {
        yield '[1]\n[2]\n'
        await sleep(200)
        control.abort()
        await sleep(10_000, undefined, { signal: control.signal }).catch(() => undefined)
      })(),
      { objectMode: false },
    )
    const sent = client.exec({
      query: 'insert into cut format JSONCompactEachRow',
      values: body,
      abort_signal: control.signal,
    })
    await expect(sent).rejects.toThrow('abort')
    await sleep(300)
    expect(await rows(client, 'select count() as c from cut')).toEqual([{ c: '0' }])
  })

  const endless = 'select count() from numbers(1000000000000) where sipHash64(number) % 7 = 1'

  async function untilNothingRuns(): Promise<void> {
    const running = `select count() as c from system.processes where query not ilike '%system.processes%'`
    await expect.poll(() => rows(client, running), { timeout: 15_000, interval: 100 }).toEqual([{ c: '0' }])
  }

  test('a small query is answered while heavy ones run; heavy ones end when their client leaves', async () => {
    const control = new AbortController()
    const heavy = Array.from({ length: 3 }, () =>
      client.query({ query: endless, abort_signal: control.signal }).catch((error: unknown) => String(error)),
    )
    await sleep(300)
    const first = await Promise.race([...heavy, rows(client, 'select 1 as one')])
    expect(first).toEqual([{ one: 1 }])
    control.abort()
    for (const outcome of await Promise.all(heavy)) expect(outcome).toContain('abort')
    await untilNothingRuns()
  })

  test('a statement waits for its turn, and leaves the queue when its client does', async () => {
    const control = new AbortController()
    const many = Array.from({ length: 9 }, () =>
      client.query({ query: endless, abort_signal: control.signal }).catch((error: unknown) => String(error)),
    )
    await sleep(500)
    const waiting = rows(client, 'select 1 as one')
    const early = await Promise.race([waiting, sleep(500).then(() => 'waits')])
    expect(early).toBe('waits')
    control.abort()
    await Promise.all(many)
    expect(await waiting).toEqual([{ one: 1 }])
    await untilNothingRuns()
  })

  test('max_execution_time ends a query in the engine', async () => {
    const error = await failure(
      client.query({ query: endless, clickhouse_settings: { max_execution_time: 1 } }),
    )
    expect(error.type).toBe('TIMEOUT_EXCEEDED')
    await untilNothingRuns()
  })

  test('what it cannot do is refused, not ignored', async () => {
    const asked = [
      client.query({ query: 'select 1', session_id: 'mine' }),
      client.query({ query: 'select 1', role: 'admin' }),
    ]
    for (const request of asked) expect((await failure(request)).type).toBe('NOT_IMPLEMENTED')
  })

  test('the address file is for its owner only, and names the process that serves', () => {
    const file = join(dir, 'store.json')
    expect(statSync(file).mode & 0o777).toBe(0o600)
    expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual({
      url: store.url,
      user: store.user,
      password: store.password,
      pid: store.pid,
      parent_pid: process.pid,
    })
  })

  test('one who comes later uses the process that is there, and leaves it running', async () => {
    const second = await openEmbedded({ dataDir: dir })
    expect(second).toMatchObject({ owned: false, url: store.url, pid: store.pid })
    await second[Symbol.asyncDispose]()
    expect(await client.ping()).toEqual({ success: true })
  })
})

describe('a process and its end', () => {
  /** A process of its own that opens the store and waits. */
  async function startParent(
    dataDir: string,
  ): Promise<{ parent: ChildProcess; store: { url: string; user: string; password: string; pid: number } }> {
    const program = `import { openEmbedded } from ${JSON.stringify(embeddedUrl)}
      const { url, user, password, pid } = await openEmbedded({ dataDir: ${JSON.stringify(dataDir)} })
      console.log(JSON.stringify({ url, user, password, pid }))
      setInterval(() => undefined, 1000)`
    const parent = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
      cwd: tmpdir(),
    })
    onTestFinished(() => void parent.kill('SIGKILL'))
    const [line] = (await once(createInterface({ input: parent.stdout! }), 'line')) as [string]
    return { parent, store: JSON.parse(line) }
  }

  test('a parent killed with -9 takes its store along, and the next start works at once', async () => {
    const dataDir = temporaryDir()
    const { parent, store } = await startParent(dataDir)
    const client = connect(store)
    await client.command({ query: 'create table kept (n UInt64) engine = MergeTree order by n' })
    await client.insert({ table: 'kept', values: [{ n: 7 }], format: 'JSONEachRow' })
    // Even with a query that would not end by itself.
    const endless = client
      .command({
        query: 'insert into kept select sleepEachRow(1) from numbers(100) settings max_block_size = 1',
      })
      .catch(() => undefined)
    await sleep(200)
    parent.kill('SIGKILL')
    await once(parent, 'exit')
    await using next = await openEmbedded({ dataDir })
    expect(next.owned).toBe(true)
    expect(await gone(store.pid, 5000)).toBe(true)
    await endless
    await client.close()
    const again = connect(next)
    expect(await rows(again, 'select max(n) as m from kept')).toEqual([{ m: '7' }])
    await again.close()
  })

  test('SIGTERM lets a running statement finish, then the process ends with 0 and leaves no address', async () => {
    const dataDir = temporaryDir()
    const store = await openEmbedded({ dataDir })
    const client = connect(store)
    await client.command({ query: 'create table slow (n UInt64) engine = MergeTree order by n' })
    const insert = client.command({
      query:
        'insert into slow select sleepEachRow(0.1) + number from numbers(10) settings max_block_size = 1',
    })
    await sleep(200)
    process.kill(store.pid, 'SIGTERM')
    await insert
    expect(await store.exited).toMatchObject({ code: 0, signal: null })
    expect(() => statSync(join(dataDir, 'store.json'))).toThrow('ENOENT')
    await client.close()
    await store[Symbol.asyncDispose]()
    await using next = await openEmbedded({ dataDir })
    const again = connect(next)
    expect(await rows(again, 'select count() as c from slow')).toEqual([{ c: '10' }])
    await again.close()
  })

  test('Ctrl-C, which reaches the whole process group, leaves the store to its parent', async () => {
    await using store = await openEmbedded({ dataDir: temporaryDir() })
    process.kill(store.pid, 'SIGINT')
    await sleep(200)
    const client = connect(store)
    expect(await rows(client, 'select 1 as one')).toEqual([{ one: 1 }])
    await client.close()
  })

  test('a stale address is passed over, also when something else has its port now', async () => {
    const stranger = createServer((_, response) => void response.end('Ok.\n, but not ours'))
    stranger.listen(0, '127.0.0.1')
    await once(stranger, 'listening')
    onTestFinished(() => void stranger.close())
    const address = stranger.address()
    const port = typeof address === 'object' ? address?.port : 0
    for (const stale of [`http://127.0.0.1:${port}`, 'http://127.0.0.1:1']) {
      const dataDir = temporaryDir()
      const file = { url: stale, user: 'default', password: 'old', pid: 1, parent_pid: 1 }
      writeFileSync(join(dataDir, 'store.json'), JSON.stringify(file))
      await using store = await openEmbedded({ dataDir })
      expect(store.owned).toBe(true)
      expect(JSON.parse(readFileSync(join(dataDir, 'store.json'), 'utf8'))).toMatchObject({ url: store.url })
    }
    const dataDir = temporaryDir()
    writeFileSync(join(dataDir, 'store.json'), '{"url":')
    await using store = await openEmbedded({ dataDir })
    expect(store.owned).toBe(true)
  })

  test('of those that start at one moment one wins, and the others use it', async () => {
    const dataDir = temporaryDir()
    const stores = await Promise.all(Array.from({ length: 3 }, () => openEmbedded({ dataDir })))
    try {
      expect(stores.filter(store => store.owned).length).toBe(1)
      expect(new Set(stores.map(store => store.url)).size).toBe(1)
    } finally {
      for (const store of stores) await store[Symbol.asyncDispose]()
    }
  })

  test('an owner that holds the lock and does not answer is named', async () => {
    const dataDir = temporaryDir()
    await using store = await openEmbedded({ dataDir })
    process.kill(store.pid, 'SIGSTOP')
    try {
      const error = await openEmbedded({ dataDir, lockWaitMs: 500 }).catch((caught: unknown) => caught)
      expect(error).toBeInstanceOf(Fault)
      expect(error).toMatchObject({ code: 'STORE_LOCKED', facts: { pid: store.pid, directory: dataDir } })
      expect((error as Fault).message).toContain(`process ${store.pid}`)
      expect((error as Fault).message).toContain(dataDir)
    } finally {
      process.kill(store.pid, 'SIGCONT')
    }
  })

  test('opening can be stopped, and leaves no process', async () => {
    const dataDir = temporaryDir()
    const control = new AbortController()
    const opening = openEmbedded({ dataDir, signal: control.signal })
    await sleep(50)
    control.abort()
    await expect(opening).rejects.toMatchObject({ code: 'ABORTED' })
    await using store = await openEmbedded({ dataDir })
    expect(store.owned).toBe(true)
  })

  test('a crash is reported to an owner who asked for no restart', async () => {
    const store = await openEmbedded({ dataDir: temporaryDir() })
    process.kill(store.pid, 'SIGKILL')
    expect(await store.exited).toMatchObject({ code: null, signal: 'SIGKILL' })
    await store[Symbol.asyncDispose]()
  })

  test('killed in the middle of inserts and restarted, it has every row that was acknowledged', async () => {
    await using store = await openEmbedded({ dataDir: temporaryDir(), restart: true })
    const client = connect(store)
    await client.command({
      query: `create table acked (batch UInt32, n UInt32) engine = MergeTree order by (batch, n)
        settings fsync_after_insert = 1, fsync_part_directory = 1`,
    })
    const { url, pid } = store
    /** Each attempt is a batch of its own: was it acknowledged? */
    const batches: boolean[] = []
    for (let round = 0; round < 3; round += 1) {
      const killAt = batches.length + 3 + round * 2
      for (let since = 0; since < 5; ) {
        const batch = batches.length
        const values = Array.from({ length: 500 }, (_, n) => ({ batch, n }))
        const insert = client.insert({ table: 'acked', values, format: 'JSONEachRow' })
        if (batch === killAt) process.kill(store.pid, 'SIGKILL')
        // A client only retries: the address and password stay.
        const done = await insert.then(
          () => true,
          () => false,
        )
        batches.push(done)
        if (done && batch > killAt) since += 1
        if (!done) await sleep(100)
      }
    }
    expect(store.url).toBe(url)
    expect(store.pid).not.toBe(pid)
    const held = await rows<{ batch: number; c: string; u: string }>(
      client,
      'select batch, count() as c, uniqExact(n) as u from acked group by batch order by batch',
    )
    for (const one of held) expect(one).toMatchObject({ c: '500', u: '500' })
    const there = new Set(held.map(({ batch }) => batch))
    for (const [batch, isAcked] of batches.entries()) if (isAcked) expect(there).toContain(batch)
    expect(batches).toContain(false)
    await client.close()
  })
})

describe('as it is shipped', () => {
  /** The files as `npm run build` leaves them: JavaScript, in a directory of another name. */
  function built(): string {
    const dir = temporaryDir()
    for (const file of [
      'deploy/embedded/embedded',
      'deploy/embedded/server',
      'deploy/embedded/http',
      'deploy/embedded/engine',
      'deploy/embedded/orphan',
      'deploy/embedded/statement',
      'schemas/fault',
    ]) {
      const source = stripTypeScriptTypes(readFileSync(join(root, `${file}.ts`), 'utf8'))
      const target = join(dir, 'dist', `${file}.js`)
      mkdirSync(dirname(target), { recursive: true })
      writeFileSync(target, source.replaceAll(/(from '\.[^']*)\.ts'/g, "$1.js'"))
    }
    writeFileSync(join(dir, 'package.json'), '{"type":"module"}')
    return dir
  }

  test('runs from dist/, from any working directory', async () => {
    const dir = built()
    symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'))
    const shipped = (await import(/* @vite-ignore */ join(dir, 'dist/deploy/embedded/embedded.js'))) as {
      openEmbedded: typeof openEmbedded
    }
    await using store = await shipped.openEmbedded({ dataDir: join(dir, 'data') })
    const client = connect(store)
    expect(await rows(client, 'select 1 as one')).toEqual([{ one: 1 }])
    await client.close()
  })

  test('without chdb it says what to install', async () => {
    const dir = built()
    const shipped = (await import(/* @vite-ignore */ join(dir, 'dist/deploy/embedded/embedded.js'))) as {
      openEmbedded: typeof openEmbedded
    }
    await expect(shipped.openEmbedded({ dataDir: join(dir, 'data') })).rejects.toMatchObject({
      code: 'STORE_MISSING',
    })
  })
})
