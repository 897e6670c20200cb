/** The drop-in for Rafay's script: the golden bytes, and what it does where the script crashes or loses rows. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import type { WriteStream } from 'node:tty'
import { afterEach, expect, test } from 'vitest'
import {
  type RafayCsvExit,
  type RafayCsvOptions,
  readRafayCsvEnv,
  runRafayCsv,
} from '../../collector/rafay-csv.ts'
import {
  loadGoldenFixture,
  type RafayBehaviour,
  type RafayDouble,
  type RafayFixture,
  rafayDemoKey,
  rafayDemoPartnerKey,
  startRafayDouble,
} from '../../deploy/demo/rafay.ts'
import { Fault } from '../../schemas/fault.ts'
import { isJsonObject, parseExact } from '../../schemas/json.ts'
import { dayMs } from '../../schemas/window.ts'

const golden = (name: string) =>
  readFileSync(new URL(`../fixtures/rafay/golden/${name}`, import.meta.url), 'utf8')
const tlsFile = (name: string) => new URL(`../fixtures/tls/${name}`, import.meta.url)
const goldenFixture = () => loadGoldenFixture(golden('golden.json'))

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

async function start(
  behaviour: Partial<RafayBehaviour> = {},
  options: { fixture?: RafayFixture; tls?: { cert: string; key: string } } = {},
): Promise<RafayDouble> {
  const double = await startRafayDouble({
    fixture: options.fixture ?? goldenFixture(),
    dialects: ['console'],
    behaviour,
    ...(options.tls && { tls: options.tls }),
  })
  cleanups.push(() => double.close())
  return double
}

function outDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'meterline-csv-'))
  cleanups.push(() => rmSync(dir, { recursive: true }))
  return dir
}

interface Ran {
  readonly exit: RafayCsvExit
  readonly out: string[]
  readonly err: string[]
  readonly dir: string
  readonly files: string[]
  /** The text of each file, by the start of its name. */
  readonly plain: string | undefined
  readonly sorted: string | undefined
}

const nowMs = Date.parse('2025-09-14T07:54:29.321Z')

async function run(double: RafayDouble | undefined, options: Partial<RafayCsvOptions> = {}): Promise<Ran> {
  const out: string[] = []
  const err: string[] = []
  const dir = options.outDir ?? outDir()
  const exit = await runRafayCsv({
    outDir: dir,
    nowMs: () => nowMs,
    zone: 'UTC',
    signal: new AbortController().signal,
    stdout: line => out.push(line),
    stderr: line => err.push(line),
    ...options,
    env: {
      DAYS: '30',
      RAFAY_CONSOLE_URL: double?.url ?? 'http://127.0.0.1:9',
      RAFAY_DEFAULT_API_KEY: rafayDemoKey,
      ...options.env,
    },
    http: { random: () => 0, ...options.http },
  })
  const files = readdirSync(dir).sort()
  const text = (start: RegExp) => {
    const name = files.find(file => start.test(file))
    return name === undefined ? undefined : readFileSync(join(dir, name), 'utf8')
  }
  return { exit, out, err, dir, files, plain: text(/^ncp-metrics-\d/), sorted: text(/^ncp-metrics-sorted-/) }
}

test('for the golden console both files are those of the script, byte for byte', async () => {
  const double = await start()
  const { exit, out, files, plain, sorted, dir } = await run(double)
  expect(exit).toBe(0)
  expect(files).toEqual(['ncp-metrics-09142025-075429.csv', 'ncp-metrics-sorted-09142025-075429.csv'])
  expect(plain).toBe(golden('ncp-metrics.csv'))
  expect(sorted).toBe(golden('ncp-metrics-sorted.csv'))
  expect(out).toEqual([
    `Successfully sorted data and saved to '${join(dir, 'ncp-metrics-sorted-09142025-075429.csv')}'.`,
  ])
})

test('25 rows a page, one 429 and one 500 that heals give the same bytes', async () => {
  const double = await start({
    limitMax: 25,
    faults: [
      { endpoint: 'usage', profile: 'slurm-k8s', times: 1, answer: { status: 429, retryAfter: '0' } },
      { endpoint: 'usage', profile: 'many', page: 3, times: 1, answer: { status: 500 } },
    ],
  })
  const { exit, plain, sorted, err } = await run(double)
  expect(exit).toBe(0)
  expect(plain).toBe(golden('ncp-metrics.csv'))
  expect(sorted).toBe(golden('ncp-metrics-sorted.csv'))
  expect(err.filter(line => !line.startsWith('warning: '))).toEqual([])
  expect(
    double.calls.filter(({ profile, page }) => profile === 'many' && page > 1).length,
  ).toBeGreaterThanOrEqual(4)
})

test.each([
  ['metadata', 'both'],
  ['metadata', 'limit'],
  ['metadata', 'neither'],
  ['top', 'both'],
  ['top', 'neither'],
  ['none', 'neither'],
] as const)(
  'pages told in %s, echoing %s, with a count that lies: the same bytes',
  async (consolePaging, echo) => {
    for (const limitMax of [7, 25, 400]) {
      const double = await start({ consolePaging, echo, limitMax, count: 1 })
      const { plain, sorted } = await run(double)
      expect(plain).toBe(golden('ncp-metrics.csv'))
      expect(sorted).toBe(golden('ncp-metrics-sorted.csv'))
    }
  },
)

test('every call sends limit and offset, the usage calls exactly the days asked for', async () => {
  const double = await start()
  await run(double, { env: { DAYS: '7' } })
  expect(double.calls.every(({ query }) => query.limit !== undefined && query.offset !== undefined)).toBe(
    true,
  )
  const usage = double.calls.filter(({ endpoint }) => endpoint === 'usage')
  expect(usage).toHaveLength(7)
  for (const { query } of usage) {
    expect(query.end_time).toBe('2025-09-14T07:54:29Z')
    expect(Date.parse(query.end_time ?? '') - Date.parse(query.start_time ?? '')).toBe(7 * dayMs)
  }
})

test('odd values are warned of on stderr, and are no failure', async () => {
  const { exit, err } = await run(await start())
  expect(exit).toBe(0)
  expect(err).toEqual([
    'warning: org=acme profile=h110-small-vm instance=no-usage-field usage_hours is missing: written as 0',
    'warning: org=acme profile=h110-small-vm instance=string-usage usage_hours is a string: written as it is',
    'warning: org=acme profile=h110-small-vm instance=null-usage usage_hours is null: the cell is left empty',
  ])
})

/** The golden console with one row in place of Coke's. */
async function withRow(json: string): Promise<RafayDouble> {
  const fixture = goldenFixture()
  const row = parseExact(json)
  if (!isJsonObject(row) || !fixture.instances[0]) throw new Error('a row is an object')
  fixture.instances = [{ ...fixture.instances[0], row }]
  return start({}, { fixture })
}

test.each([
  ['9007199254740993', '9007199254740993'],
  ['1E5', '100000.0'],
  ['1e16', '1e+16'],
  ['-0.0', '-0.0'],
  ['1e-07', '1e-07'],
  ['2.0', '2.0'],
  ['123456789.123456789', '123456789.12345679'],
  ['true', 'True'],
  ['[1.50]', '[1.5]'],
])('usage_hours %s is written as Python writes it: %s', async (sent, cell) => {
  const { exit, plain } = await run(
    await withRow(`{"instance_name":"one","usage_hours":${sent},"status":"on"}`),
  )
  expect(exit).toBe(0)
  expect(plain?.split('\r\n')[1]).toBe(`Coke,service,managed-developer-pods-v2,one,${cell},on`)
})

test('names that are null, missing or hold line breaks are written as the script writes them, and warned of', async () => {
  const missing = await run(await withRow('{"usage_hours":1.0,"status":null}'))
  expect(missing.plain?.split('\r\n')[1]).toBe('Coke,service,managed-developer-pods-v2,,1.0,')
  expect(missing.err.some(line => line.includes('instance_name is missing'))).toBe(true)
  const broken = await run(await withRow('{"instance_name":"a\\nb","usage_hours":null,"status":"on"}'))
  expect(broken.plain).toContain('managed-developer-pods-v2,"a\nb",,on\r\n')
  expect(broken.err).toEqual([
    'warning: org=coke profile=managed-developer-pods-v2 instance=a b usage_hours is null: the cell is left empty',
  ])
})

test('a profile that keeps failing: exit 3, its gap named, no file, and the others were still tried', async () => {
  const double = await start({
    faults: [{ endpoint: 'usage', profile: 'unsloth-finetune', answer: { status: 500 } }],
  })
  const { exit, out, err, files } = await run(double)
  expect(exit).toBe(3)
  expect(files).toEqual([])
  expect(out).toEqual([])
  expect(err.filter(line => line.startsWith('gap: '))).toEqual([
    'gap: org=pepsi profile=unsloth-finetune SOURCE_BUSY organization pepsi, profile unsloth-finetune: rafay.usage: HTTP 500 (made to answer 500) (organization Pepsi)',
  ])
  expect(double.calls.filter(({ endpoint }) => endpoint === 'usage').map(({ profile }) => profile)).toContain(
    'many',
  )
})

test.each([
  [
    'one page',
    { endpoint: 'usage', profile: 'many', page: 3, answer: { status: 502, html: true } },
    'org=acme profile=many SOURCE_BUSY',
  ],
  [
    'an empty object',
    { endpoint: 'usage', profile: 'many', answer: 'empty_object' },
    'org=acme profile=many BODY_UNREADABLE',
  ],
  [
    'null for rows',
    { endpoint: 'usage', profile: 'many', answer: 'null_rows' },
    'org=acme profile=many BODY_UNREADABLE',
  ],
  ['a list', { endpoint: 'usage', profile: 'many', answer: 'list' }, 'org=acme profile=many BODY_UNREADABLE'],
  [
    'half a JSON',
    { endpoint: 'usage', profile: 'many', answer: 'truncated' },
    'org=acme profile=many BODY_UNREADABLE',
  ],
  [
    '404 for the profiles',
    { endpoint: 'profiles', organization: 'acme', answer: { status: 404 } },
    'org=acme profile=* SOURCE_MISSING',
  ],
  [
    'profiles without metadata',
    { endpoint: 'profiles', organization: 'pepsi', answer: 'no_metadata' },
    'org=pepsi profile=Unknown BODY_UNREADABLE',
  ],
  [
    'organizations without metadata',
    { endpoint: 'organizations', answer: 'no_metadata' },
    'org=Coke profile=* BODY_UNREADABLE',
  ],
  ['a denied key', { answer: { status: 403 } }, 'org=* profile=* SOURCE_DENIED'],
] as const)('%s that cannot be read is a named gap, exit 3, no file', async (_, fault, gap) => {
  const double = await start({ limitMax: 25, faults: [fault] })
  const { exit, err, files } = await run(double)
  expect(exit).toBe(3)
  expect(files).toEqual([])
  expect(
    err.some(line => line.startsWith(`gap: ${gap} `)),
    err.join('\n'),
  ).toBe(true)
})

test('each gap is a line, in order', async () => {
  const double = await start({
    faults: [
      { endpoint: 'usage', profile: 'openwebui', answer: { status: 404 } },
      { endpoint: 'profiles', organization: 'acme', answer: { status: 404 } },
      { endpoint: 'usage', profile: 'slurm-k8s', answer: { status: 404 } },
    ],
  })
  const { err } = await run(double)
  expect(
    err.filter(line => line.startsWith('gap: ')).map(line => line.split(' ').slice(0, 4).join(' ')),
  ).toEqual([
    'gap: org=acme profile=* SOURCE_MISSING',
    'gap: org=coke profile=slurm-k8s SOURCE_MISSING',
    'gap: org=pepsi profile=openwebui SOURCE_MISSING',
  ])
})

test.each(['DAYS', 'RAFAY_CONSOLE_URL', 'RAFAY_DEFAULT_API_KEY'])(
  'without %s: exit 2, and it says so',
  async name => {
    for (const value of [undefined, '']) {
      const { exit, err, files } = await run(undefined, { env: { [name]: value } })
      expect(exit).toBe(2)
      expect(err.join('\n')).toContain(`${name} is not set`)
      expect(files).toEqual([])
    }
  },
)

test('all that is missing is named at once', async () => {
  const { err } = await run(undefined, { env: { DAYS: undefined, RAFAY_DEFAULT_API_KEY: undefined } })
  expect(err.join('\n')).toMatch(/DAYS is not set.*\nRAFAY_DEFAULT_API_KEY is not set/)
})

test.each([
  ['DAYS', ['0', '-1', '1.5', 'thirty', '1e2', '99999999', '30 days']],
  [
    'RAFAY_CONSOLE_URL',
    ['ftp://rafay.acme.com', 'https://', 'a b', 'https://u:p@rafay.acme.com', 'rafay.acme.com?x=1'],
  ],
  ['RAFAY_DEFAULT_API_KEY', ['two words', 'line\nbreak', 'schlüssel']],
  ['PARTNER_API_KEY', ['two words', 'line\nbreak']],
  ['CURRENCY', ['usd', 'DOLLAR', 'XXX', 'US']],
  ['REQUESTS_CA_BUNDLE', ['/nowhere/at/all.pem', '/dev/null']],
])('a bad %s is exit 2, and its value is not shown', async (name, values) => {
  for (const value of values) {
    const { exit, err } = await run(undefined, { env: { [name]: value } })
    expect(exit, value).toBe(2)
    expect(err.join('\n')).toContain(`${name} is not `)
    if (name.endsWith('KEY')) expect(err.join('\n')).not.toContain(value)
  }
})

test('the environment is read as the script reads it', () => {
  const env = { DAYS: ' 030 ', RAFAY_CONSOLE_URL: 'rafay.acme.com/', RAFAY_DEFAULT_API_KEY: 'k' }
  expect(readRafayCsvEnv(env)).toEqual({
    days: 30,
    base: 'https://rafay.acme.com',
    apiKey: 'k',
    partnerApiKey: undefined,
    currency: 'USD',
    ca: undefined,
    proxy: {},
  })
  expect(
    readRafayCsvEnv({
      ...env,
      CURRENCY: 'JPY',
      PARTNER_API_KEY: 'p',
      https_proxy: 'http://proxy:3128',
      NO_PROXY: 'x',
    }),
  ).toMatchObject({ currency: 'JPY', partnerApiKey: 'p', proxy: { https: 'http://proxy:3128', none: 'x' } })
  expect(() => readRafayCsvEnv({})).toThrow(Fault)
})

test('the partner key, where it is set, lists the organizations, and nothing else', async () => {
  const double = await start()
  const good = await run(double, { env: { PARTNER_API_KEY: rafayDemoPartnerKey } })
  expect(good.exit).toBe(0)
  expect(good.plain).toBe(golden('ncp-metrics.csv'))
  const bad = await run(double, { env: { PARTNER_API_KEY: 'another' } })
  expect(bad.exit).toBe(3)
  expect(bad.err.join('\n')).toContain('gap: org=* profile=* SOURCE_DENIED')
})

test('a console behind its own certificate is read with REQUESTS_CA_BUNDLE, a file or a directory', async () => {
  const tls = {
    cert: readFileSync(tlsFile('loopback.cert.pem'), 'utf8'),
    key: readFileSync(tlsFile('loopback.key.pem'), 'utf8'),
  }
  const double = await start({}, { tls })
  // Without a scheme the address is https.
  const url = { RAFAY_CONSOLE_URL: `127.0.0.1:${double.port}` }
  const untrusted = await run(double, { env: url })
  expect(untrusted.exit).toBe(3)
  expect(untrusted.err.join('\n')).toContain('SOURCE_UNREACHABLE')
  const dir = outDir()
  writeFileSync(join(dir, 'ca.pem'), tls.cert)
  mkdirSync(join(dir, 'more'))
  for (const bundle of [join(dir, 'ca.pem'), dir]) {
    const { exit, plain } = await run(double, { env: { ...url, REQUESTS_CA_BUNDLE: bundle } })
    expect(exit).toBe(0)
    expect(plain).toBe(golden('ncp-metrics.csv'))
  }
})

test('no key is in anything it says', async () => {
  const double = await start({ faults: [{ endpoint: 'usage', answer: { status: 403 } }] })
  const { out, err } = await run(double, { env: { PARTNER_API_KEY: rafayDemoPartnerKey } })
  expect(err.length).toBeGreaterThan(0)
  expect([...out, ...err].join('\n')).not.toMatch(new RegExp(`${rafayDemoKey}|${rafayDemoPartnerKey}`))
})

test('a second run in the same second takes the next, and leaves the first as it was', async () => {
  const double = await start()
  const dir = outDir()
  await run(double, { outDir: dir })
  const { exit, files, out } = await run(double, { outDir: dir })
  expect(exit).toBe(0)
  expect(files).toEqual([
    'ncp-metrics-09142025-075429.csv',
    'ncp-metrics-09142025-075430.csv',
    'ncp-metrics-sorted-09142025-075429.csv',
    'ncp-metrics-sorted-09142025-075430.csv',
  ])
  expect(out[0]).toContain('ncp-metrics-sorted-09142025-075430.csv')
})

test('the stamp is local time; in the working directory the file is named without a path', async () => {
  const double = await start()
  const dir = outDir()
  const before = process.cwd()
  let out: string[]
  try {
    process.chdir(dir)
    out = (await run(double, { outDir: '.', zone: 'America/Los_Angeles' })).out
  } finally {
    process.chdir(before)
  }
  expect(out).toEqual(["Successfully sorted data and saved to 'ncp-metrics-sorted-09142025-005429.csv'."])
})

test('a directory that is not there is made; one that cannot be made is exit 1', async () => {
  const double = await start()
  const dir = outDir()
  expect((await run(double, { outDir: join(dir, 'a', 'b') })).exit).toBe(0)
  writeFileSync(join(dir, 'file'), '')
  const out: string[] = []
  const exit = await runRafayCsv({
    env: { DAYS: '1', RAFAY_CONSOLE_URL: double.url, RAFAY_DEFAULT_API_KEY: rafayDemoKey },
    outDir: join(dir, 'file', 'under'),
    nowMs: () => nowMs,
    zone: 'UTC',
    signal: new AbortController().signal,
    stdout: line => out.push(line),
    stderr: () => {},
  })
  expect(exit).toBe(1)
  expect(out).toEqual([])
})

test('stopped in the middle it leaves no file', async () => {
  const double = await start({ faults: [{ endpoint: 'usage', profile: 'many', answer: 'hang' }] })
  const stop = new AbortController()
  setTimeout(() => stop.abort(), 200)
  const { exit, files, err } = await run(double, { signal: stop.signal })
  expect(exit).toBe(1)
  expect(files).toEqual([])
  expect(err).toEqual(['stopped: no file was written'])
})

test('prices are two columns at the end; rows without one are named and exit 3, both files written', async () => {
  const double = await start()
  const asked: string[] = []
  const { exit, plain, sorted, err } = await run(double, {
    env: { CURRENCY: 'EUR' },
    price: (row, currency) => {
      asked.push(`${currency} ${row.organizationSlug} ${row.instance} ${row.usageHours}`)
      return row.profile === 'many' || row.profile === 'openwebui'
        ? { rate: '0.5', amount: '1.00' }
        : undefined
    },
  })
  expect(exit).toBe(3)
  expect(asked).toContain('EUR acme comma,name 0.0000001')
  expect(asked).toContain('EUR acme no-usage-field 0')
  expect(asked.some(line => line.includes('null-usage') || line.includes('string-usage'))).toBe(false)
  expect(plain?.split('\r\n')[0]).toBe(
    'Organization,Profile Type,Profile,Instance,Usage(h),Status,Billing Rate,Billing Amount',
  )
  expect(plain).toContain('Pepsi,service,openwebui,lan-openwebui,52.54,running,0.5,1.00\r\n')
  expect(plain).toContain('Coke,compute,slurm-k8s,node-10,2.0,running,,\r\n')
  expect(sorted?.split('\r\n')).toHaveLength(golden('ncp-metrics.csv').split('\r\n').length)
  expect(err).toContain('unpriced: org=coke profile=slurm-k8s instance=node-10 usage=2.0')
  expect(err).toContain('unpriced: org=acme profile=h110-small-vm instance=null-usage usage=')
})

test('with a price for every row the exit is 0', async () => {
  const double = await withRow(
    '{"instance_name":"one","usage_hours":2.5,"status":"on","parameters":[{"name":"GPU Type","is_label":true,"label_value":"L40"},{"name":"GPU","is_label":true,"label_value":"2"}]}',
  )
  const { exit, plain, err } = await run(double, {
    price: row =>
      row.labels.gpu_type === 'L40' && row.labels.gpu_count === '2'
        ? { rate: '0.99', amount: '2.48' }
        : undefined,
  })
  expect(exit).toBe(0)
  expect(err).toEqual([])
  expect(plain?.split('\r\n')[1]).toBe('Coke,service,managed-developer-pods-v2,one,2.5,on,0.99,2.48')
})

test('a progress bar is drawn on a terminal, and only there', async () => {
  const double = await start()
  const drawing = (isTTY: boolean) => {
    let drawn = ''
    const stream = new Writable({
      write(chunk, _, done) {
        drawn += String(chunk)
        done()
      },
    })
    Object.assign(stream, {
      isTTY,
      columns: 80,
      cursorTo: () => true,
      clearLine: () => true,
      moveCursor: () => true,
    })
    return { stream: stream as unknown as WriteStream, drawn: () => drawn }
  }
  const terminal = drawing(true)
  await run(double, { terminal: terminal.stream })
  expect(terminal.drawn()).toContain('7/7')
  const pipe = drawing(false)
  await run(double, { terminal: pipe.stream })
  expect(pipe.drawn()).toBe('')
})
