/** The configuration: its defaults, its files and paths, and that every problem is named with its place at once. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Type, { type TSchema } from 'typebox'
import { afterAll, describe, expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { type ConfigRules, checkConfig, loadConfig } from '../../runtime/config.ts'
import { readSecret } from '../../runtime/secrets.ts'
import { showProblem } from '../../runtime/yaml.ts'
import { AccountsFile } from '../../schemas/accounts.ts'
import { Config, FilePath, Secret } from '../../schemas/config.ts'
import { Fault } from '../../schemas/fault.ts'
import { CatalogueFile, defaultMeters } from '../../schemas/meters.ts'

const top = mkdtempSync(join(tmpdir(), 'meterline-config-'))
afterAll(() => rmSync(top, { recursive: true }))
let count = 0
/** Writes files into a directory of their own and gives the path of the first one. */
function files(all: Readonly<Record<string, unknown>>): string {
  const dir = join(top, String(count++))
  for (const [name, content] of Object.entries(all)) {
    mkdirSync(join(dir, name, '..'), { recursive: true })
    writeFileSync(join(dir, name), typeof content === 'string' ? content : stringify(content))
  }
  return join(dir, Object.keys(all)[0] ?? '')
}

/** A kind of source that has one of everything. */
const Double = Type.Object(
  {
    url: Type.String({ minLength: 1, description: 'Address of the console.' }),
    apiKey: Secret('The key.'),
    caFile: Type.Optional(FilePath('Its authority.')),
    pageSize: Type.Integer({ minimum: 1, default: 100, description: 'Rows in a page.' }),
    more: Type.Optional(
      Type.Array(Type.Object({ token: Secret('Another.') }, { additionalProperties: false })),
    ),
  },
  { additionalProperties: false },
)
/** As a kind that wants its name among its options. */
const Named = Type.Object(
  { name: Type.String(), kind: Type.Literal('named') },
  { additionalProperties: false },
)
const rules: ConfigRules = {
  sourceSchemas: { double: Double, named: Named },
  bookMisfits: (book, meters) => {
    const { charges } = book as { charges?: { meter?: string }[] }
    if (!Array.isArray(charges)) return [{ path: '/charges', message: 'is missing' }]
    return charges.flatMap((charge, index) =>
      meters?.some(({ slug }) => slug === charge.meter) === false
        ? [{ path: `/charges/${index}/meter`, message: `there is no meter "${charge.meter}"` }]
        : [],
    )
  },
}

function problemsOf(file: string): readonly string[] {
  return checkConfig(file, rules).problems.map(problem =>
    showProblem(problem).replaceAll(join(file, '..'), ''),
  )
}

describe('what is not written', () => {
  test('has its default, with a file or without one', () => {
    const expected = {
      data: './meterline-data',
      sources: [],
      outbox: { maxBytes: 2147483648, retentionDays: 7 },
      store: { database: 'meterline' },
      suspect: { percent: 10, confirmAfterMinutes: 60 },
      listen: { host: '127.0.0.1', port: 8080, api: 'keys' },
      meters: defaultMeters,
      accounts: [],
      books: [],
      keys: [],
      query: { concurrency: 3, memoryBytes: 1_073_741_824, queued: 200, seconds: 60 },
    }
    expect(loadConfig(undefined, rules)).toEqual({ ...expected, file: undefined })
    const empty = files({ 'meterline.yaml': '# nothing yet\n' })
    expect(loadConfig(empty, rules)).toEqual({ ...expected, file: empty })
  })

  test('has its default inside what is written', () => {
    const file = files({
      'meterline.yaml': { kafka: { brokers: ['localhost:9092'] }, outbox: { retentionDays: 1 } },
    })
    const config = loadConfig(file, rules)
    expect(config.kafka).toEqual({
      brokers: ['localhost:9092'],
      topic: 'meterline.events',
      rejectedTopic: 'meterline.rejected',
      partitions: 12,
      replicationFactor: 3,
      minInSyncReplicas: 2,
      create: true,
      groupId: 'meterline',
      sessionTimeoutMs: 30_000,
    })
    expect(config.outbox).toEqual({ maxBytes: 2147483648, retentionDays: 1 })
  })
})

const whole = {
  'conf/meterline.yaml': {
    data: 'var/data',
    sources: [
      {
        kind: 'double',
        name: 'prod',
        url: 'https://console',
        apiKey: '${env:KEY}',
        caFile: 'ca.pem',
        from: '2026-01-01T00:00:00+01:00',
      },
      {
        kind: 'double',
        name: 'test',
        url: 'http://other',
        apiKey: '${file:keys/test}',
        more: [{ token: 'file:/abs/token' }],
      },
      { kind: 'named', name: 'prod' },
    ],
    outbox: { maxBytes: 4194304, retentionDays: 3 },
    kafka: {
      brokers: ['one:9092', '[::1]:9093'],
      topic: 'e',
      rejectedTopic: 'r',
      partitions: 3,
      replicationFactor: 1,
      minInSyncReplicas: 1,
      create: false,
      groupId: 'g',
      sessionTimeoutMs: 1500,
      ssl: true,
      sasl: { mechanism: 'plain', username: 'u', password: '${env:KAFKA}' },
    },
    store: { url: 'http://127.0.0.1:8123', user: 'default', password: '${env:STORE}', database: 'm' },
    catalogue: '../catalogue.yaml',
    accounts: 'accounts.yaml',
    priceBooks: ['books/us.yaml', 'books/eu.yaml'],
    listen: { host: '0.0.0.0', port: 0 },
  },
  'catalogue.yaml': {
    meters: [
      {
        slug: 'hours',
        eventTypes: ['a.b'],
        aggregation: 'SUM',
        value: 'instance_seconds',
        per: '3600',
        groupBy: { gpu: 'gpu_type' },
        filter: { status: 'running' },
        unit: 'h',
        description: 'd',
      },
      { slug: 'count', eventTypes: ['a.b', 'c.d'], aggregation: 'COUNT', unit: '1' },
    ],
  },
  'conf/accounts.yaml': {
    accounts: [
      {
        id: 'acme',
        name: 'Acme',
        currency: 'USD',
        timezone: 'America/New_York',
        priceBook: 'us',
        dims: { plan: 'on_demand' },
        subjects: [{ source: 's', subject: 't', from: '2026-01-01T00:00:00Z', to: '2026-02-01T00:00:00Z' }],
      },
      {
        id: 'beta',
        currency: 'EUR',
        priceBook: 'eu',
        subjects: [{ source: 's', subject: 't', from: '2026-02-01T00:00:00Z' }],
      },
    ],
  },
  'conf/books/us.yaml': { id: 'us', currency: 'USD', charges: [{ meter: 'hours' }] },
  'conf/books/eu.yaml': { id: 'eu', currency: 'EUR', charges: [] },
}

describe('a whole configuration', () => {
  test('is read with its files, each path from the file it stands in', () => {
    const file = files(whole)
    const dir = join(file, '..')
    const config = loadConfig(file, rules)
    expect(config.data).toBe(join(dir, 'var/data'))
    expect(config.sources).toEqual([
      {
        kind: 'double',
        name: 'prod',
        fromMs: Date.parse('2025-12-31T23:00:00Z'),
        options: { url: 'https://console', apiKey: '${env:KEY}', caFile: join(dir, 'ca.pem'), pageSize: 100 },
      },
      {
        kind: 'double',
        name: 'test',
        options: {
          url: 'http://other',
          apiKey: `file:${join(dir, 'keys/test')}`,
          pageSize: 100,
          more: [{ token: 'file:/abs/token' }],
        },
      },
      { kind: 'named', name: 'prod', options: { kind: 'named', name: 'prod' } },
    ])
    expect(config.meters.map(({ slug, groupBy }) => [slug, groupBy])).toEqual([
      ['hours', { gpu: 'gpu_type' }],
      ['count', {}],
    ])
    expect(config.accounts.map(({ id, timezone }) => [id, timezone])).toEqual([
      ['acme', 'America/New_York'],
      ['beta', 'UTC'],
    ])
    expect(config.books.map(({ id }) => id)).toEqual(['us', 'eu'])
    expect(config.kafka?.sasl?.password).toBe('${env:KAFKA}')
  })

  test('leaves a book as it is written, so that its hash is that of what was written', () => {
    expect(loadConfig(files(whole), rules).books[1]).toEqual(whole['conf/books/eu.yaml'])
  })

  test('its references read the secrets beside it, wherever the command runs', () => {
    const file = files({
      'meterline.yaml': { sources: [{ kind: 'double', name: 'a', url: 'u', apiKey: 'file:keys/a' }] },
      'keys/a': 's3cret\n',
    })
    const { apiKey } = loadConfig(file, rules).sources[0]!.options as { apiKey: string }
    expect(readSecret(apiKey, { env: {}, option: 'apiKey' })).toBe('s3cret')
  })
})

describe('problems', () => {
  test('are all named at once, over all files, with file, line, column and path', () => {
    const file = files({
      'meterline.yaml': [
        'sources:',
        '  - kind: double',
        '    name: prod',
        '    apiKy: ${env:KEY}',
        '    pageSize: none',
        '  - kind: dubble',
        '    name: prod',
        'kafka: {brokers: [], topik: x}',
        'listen:',
        '  port: 99999',
        'accounts: accounts.yaml',
        'priceBooks: [us.yaml]',
        '',
      ].join('\n'),
      'accounts.yaml': 'accounts:\n- id: acme\n  currency: usd\n  priceBook: us\n  subjects: []\n',
      'us.yaml': 'id: us\ncurrency: USD\ncharges:\n- meter: gpu_hours\n- {meter: gpu_hors}\n',
    })
    expect(problemsOf(file)).toEqual([
      '/meterline.yaml:2:5 sources[0].url is missing: Address of the console.',
      '/meterline.yaml:2:5 sources[0].apiKey is missing: The key. Write ${env:NAME} or ${file:path}.',
      '/meterline.yaml:4:5 sources[0].apiKy is not known here (is `apiKey` meant?); known are kind, name, from, url, apiKey, caFile, pageSize, more',
      '/meterline.yaml:5:5 sources[0].pageSize must be integer: Rows in a page.',
      '/meterline.yaml:6:5 sources[1].kind is no kind of source (is `double` meant?); there are double, named',
      '/meterline.yaml:8:9 kafka.brokers must NOT have fewer than 1 items',
      '/meterline.yaml:8:22 kafka.topik is not known here (is `topic` meant?); known are brokers, topic, rejectedTopic, partitions, replicationFactor, minInSyncReplicas, create, groupId, sessionTimeoutMs, ssl, sasl',
      '/meterline.yaml:10:3 listen.port must be <= 65535: The port; 0 takes a free one.',
      '/us.yaml:5:4 charges[1].meter there is no meter "gpu_hors"',
      '/accounts.yaml:3:3 accounts[0].currency is not of the right form: The currency it pays in, by its ISO 4217 code in capitals, such as USD; that of its price book.',
    ])
  })

  test('are one fault, one a line, with their number', () => {
    const file = files({ 'meterline.yaml': 'lissen: 1\ndata: 5\n' })
    let fault: unknown
    try {
      loadConfig(file, rules)
    } catch (error) {
      fault = error
    }
    expect(fault).toBeInstanceOf(Fault)
    expect(fault).toMatchObject({ code: 'CONFIG_INVALID', facts: { problems: 2 } })
    expect((fault as Fault).message.split('\n')).toEqual([
      expect.stringMatching(/meterline\.yaml:1:1 lissen is not known here \(is `listen` meant\?\)/),
      expect.stringMatching(/meterline\.yaml:2:1 data must be text: write it in quotes/),
    ])
  })

  test('are shown up to a bound', () => {
    const many = Array.from({ length: 300 }, (_, index) => `unknown${index}: 1\n`).join('')
    expect(() => loadConfig(files({ 'meterline.yaml': many }), rules)).toThrow(/\nand 200 more$/)
  })

  test.each([
    ['a missing file', undefined, 'there is no such file'],
    ['a file that is not YAML', 'a: [1\nb: 2\n', ':2:1 '],
    ['a name that stands twice', 'data: a\ndata: b\n', ':2:1 this name stands here a second time'],
    ['a tab', 'outbox:\n\tmaxBytes: 1\n', ':2:1 a tab cannot indent'],
    ['two documents', 'data: a\n---\ndata: b\n', 'a second document begins here'],
    ['a list', '- data\n', ':1:1 must be object'],
    ['a text', 'just text\n', ':1:1 must be object'],
    ['a tag', 'data: !env DATA\n', ':1:7 this tag'],
    [
      'aliases that unfold without end',
      `a: &a [x,x,x,x,x,x,x,x,x,x]\n${'bcdefgh'.replace(/./g, (letter, at: number) => `${letter}: &${letter} [${Array(10).fill(`*${'abcdefgh'[at]}`).join(',')}]\n`)}`,
      'aliases unfold to too much',
    ],
    ['a member without value', 'kafka:\n', 'kafka is empty: write a value, or leave the line out'],
    ['null for the account file', 'accounts:\n', 'accounts is empty: write a value, or leave the line out'],
    ['a number for a text', 'catalogue: 12\n', 'catalogue must be text: write it in quotes'],
    [
      'a file that is not there',
      'catalogue: none.yaml\n',
      ':1:1 catalogue /none.yaml: there is no such file',
    ],
    [
      'a book that is not there',
      'priceBooks:\n- b.yaml\n',
      ':2:3 priceBooks[0] /b.yaml: there is no such file',
    ],
    ['a directory', 'catalogue: .\n', 'cannot be read (EISDIR)'],
    [
      'more replicas in sync than there are',
      'kafka: {brokers: [a:1], minInSyncReplicas: 4}\n',
      'kafka.minInSyncReplicas is 4, more than replicationFactor, which is 3',
    ],
    [
      'one topic for both',
      'kafka: {brokers: [a:1], topic: x, rejectedTopic: x}\n',
      'kafka.rejectedTopic must be another topic',
    ],
    ['a user without server', 'store: {user: u}\n', 'store.user is for a server: `url` is missing'],
    [
      'a password in the address',
      'store: {url: "http://u:p@host:8123"}\n',
      'store.url is not of the right form',
    ],
    [
      'a broker without port',
      'kafka: {brokers: [localhost]}\n',
      'kafka.brokers[0] is not of the right form: host:port',
    ],
    [
      'two sources of one name',
      'sources:\n- {kind: named, name: a}\n- {kind: named, name: a}\n',
      ':3:17 sources[1].name is also the name of sources[0]',
    ],
    ['a source without kind', 'sources:\n- {name: a}\n', ':2:3 sources[0].kind is missing'],
    [
      'a source of a kind that every object knows',
      'sources:\n- {name: a, kind: constructor}\n',
      'sources[0].kind is no kind of source',
    ],
    ['a source that is no object', 'sources:\n- rafay\n', 'sources[0] must be object'],
    [
      'a source since never',
      'sources:\n- {kind: named, name: a, from: 2026-01-01}\n',
      'sources[0].from is not an RFC 3339 time',
    ],
    [
      'a name with a slash',
      'sources:\n- {kind: named, name: a/b}\n',
      'sources[0].name is not of the right form',
    ],
  ])('%s is named', (_, text, words) => {
    const file = text === undefined ? join(top, 'none.yaml') : files({ 'meterline.yaml': text })
    const problems = problemsOf(file)
    expect(problems).toHaveLength(1)
    expect(problems[0]).toContain(words)
  })

  test('a file that is not UTF-8 is named', () => {
    const file = files({ 'meterline.yaml': '' })
    writeFileSync(file, Buffer.from([0x61, 0x3a, 0x20, 0xff]))
    expect(problemsOf(file)).toEqual(['/meterline.yaml:1:1 is not UTF-8'])
  })

  test('an alias leads to where its value stands, and the two share no defaults', () => {
    const text =
      'kafka: &k {brokers: [a:1], topik: x}\nsources:\n- {kind: double, name: a, url: u, apiKey: "${env:A}", more: [*k]}\n'
    expect(problemsOf(files({ 'meterline.yaml': text }))).toEqual([
      expect.stringContaining(':1:12 sources[0].more[0].brokers is not known'),
      expect.stringContaining(':1:28 kafka.topik'),
      expect.stringContaining(':1:28 sources[0].more[0].topik is not known'),
      expect.stringMatching(/:3:\d+ sources\[0\]\.more\[0\]\.token is missing/),
    ])
  })
})

describe('a secret in the wrong place', () => {
  test.each([
    [
      'as the value of an option that wants a reference',
      'sources: [{kind: double, name: a, url: u, apiKey: HUNTER2}]',
    ],
    ['as a list', 'sources: [{kind: double, name: a, url: u, apiKey: [HUNTER2]}]'],
    ['for Kafka', 'kafka: {brokers: ["a:1"], sasl: {mechanism: plain, username: u, password: HUNTER2}}'],
    ['in broken YAML', 'store: {password: "HUNTER2}'],
    ['after a colon too many', 'store:\n  password: HUNTER2: x'],
    ['behind an unknown tag', 'store: {password: !HUNTER2 x}'],
    ['as an alias', 'store: {password: *HUNTER2}'],
    ['after a reserved sign', 'store:\n  password: @HUNTER2'],
    ['in an address', 'store: {url: "http://u:HUNTER2@h"}'],
    ['twice', 'store: {password: HUNTER2, password: HUNTER2}'],
    ['after the end', 'store: {} HUNTER2'],
  ])('%s is refused and never shown', (_, text) => {
    const problems = problemsOf(files({ 'meterline.yaml': text }))
    expect(problems.length).toBeGreaterThan(0)
    expect(problems.join('\n')).not.toContain('HUNTER2')
  })
})

describe('accounts, books and the catalogue hold each other', () => {
  const withAccounts = (accounts: unknown, more: Record<string, unknown> = {}) =>
    files({
      'meterline.yaml': { accounts: 'a.yaml', priceBooks: ['us.yaml'] },
      'a.yaml': { accounts },
      'us.yaml': { id: 'us', currency: 'USD', charges: [] },
      ...more,
    })
  const acme = { id: 'acme', currency: 'USD', priceBook: 'us', subjects: [{ source: 's', subject: 't' }] }

  test.each([
    [
      'an unknown book',
      [{ ...acme, priceBook: 'uss' }],
      'accounts[0].priceBook "uss" is the id of none of priceBooks (is `us` meant?); there are us',
    ],
    [
      'another currency than the book',
      [{ ...acme, currency: 'EUR' }],
      'accounts[0].currency is EUR, but its price book "us"',
    ],
    ['a currency that is none', [{ ...acme, currency: 'XYZ' }], '"XYZ" is no currency of ISO 4217'],
    [
      'a zone that is none',
      [{ ...acme, timezone: 'Mars/Olympus' }],
      'accounts[0].timezone "Mars/Olympus" is no IANA time zone',
    ],
    ['an offset for a zone', [{ ...acme, timezone: '+02:00' }], 'is no IANA time zone'],
    ['an id twice', [acme, { ...acme, subjects: [] }], 'accounts[1].id "acme" is also the id of accounts[0]'],
    [
      'a tenant with two payers',
      [acme, { ...acme, id: 'b' }],
      'accounts[1].subjects[0] is paid by account "acme" at the same time',
    ],
    [
      'a tenant twice in one account',
      [{ ...acme, subjects: [...acme.subjects, ...acme.subjects] }],
      'accounts[0].subjects[1] is paid by account "acme"',
    ],
    [
      'a time that is none',
      [{ ...acme, subjects: [{ source: 's', subject: 't', from: '2026-01' }] }],
      'accounts[0].subjects[0].from "2026-01" is not an RFC 3339 time',
    ],
    [
      'an end before the beginning',
      [
        {
          ...acme,
          subjects: [{ source: 's', subject: 't', from: '2026-02-01T00:00:00Z', to: '2026-01-01T00:00:00Z' }],
        },
      ],
      'accounts[0].subjects[0].to must be after `from`',
    ],
    ['a dim without value', [{ ...acme, dims: { plan: '' } }], 'accounts[0].dims.plan is empty'],
  ])('%s is named', (_, accounts, words) => {
    const problems = problemsOf(withAccounts(accounts))
    expect(
      problems.some(problem => problem.startsWith('/a.yaml:') && problem.includes(words)),
      problems.join('\n'),
    ).toBe(true)
  })

  test('a tenant may pass from one account to another', () => {
    const from = { ...acme, subjects: [{ source: 's', subject: 't', to: '2026-02-01T00:00:00+01:00' }] }
    const to = { ...acme, id: 'b', subjects: [{ source: 's', subject: 't', from: '2026-01-31T23:00:00Z' }] }
    expect(problemsOf(withAccounts([from, to]))).toEqual([])
  })

  test('an account of a book that cannot be read is not blamed for it', () => {
    expect(problemsOf(withAccounts([acme], { 'us.yaml': 'id: [us\n' }))).toEqual([
      expect.stringMatching(/^\/us\.yaml:/),
    ])
  })

  test('books without an id, or with one that is taken, are named', () => {
    const file = files({
      'meterline.yaml': { priceBooks: ['a.yaml', 'b.yaml', 'c.yaml'] },
      'a.yaml': { id: 'us', charges: [] },
      'b.yaml': { charges: [] },
      'c.yaml': { id: 'us', charges: [] },
    })
    expect(problemsOf(file)).toEqual([
      '/b.yaml:1:1 id is missing: accounts name a book by its id',
      '/c.yaml:1:1 id is also the id of /a.yaml: accounts could not tell them apart',
    ])
  })

  test.each([
    ['a slug twice', [{}, {}], 'meters[1].slug "m" is also the slug of meters[0]'],
    ['a sum of nothing', [{ value: undefined }], 'meters[0].value is missing: SUM needs to know of what'],
    ['a count of something', [{ aggregation: 'COUNT' }], 'meters[0].value says nothing'],
    [
      'two kinds of source that may tell the same',
      [{ eventTypes: ['io.meterline.rafay.x.v1', 'io.meterline.runai.y.v1'] }],
      'meters[0].disjoint is missing: rafay and runai',
    ],
    ['another aggregation', [{ aggregation: 'sum' }], 'meters[0].aggregation must be one of ["SUM"'],
  ])('%s in the catalogue is named', (_, changes, words) => {
    const meter = { slug: 'm', eventTypes: ['a'], aggregation: 'SUM', value: 'tokens', unit: '1' }
    const meters = changes.map(change => ({ ...meter, ...change }))
    const file = files({ 'meterline.yaml': 'catalogue: c.yaml', 'c.yaml': { meters } })
    expect(problemsOf(file)).toEqual([expect.stringContaining(words)])
  })
})

describe('a meter that cannot be computed', () => {
  test('is named at its place, beside all other problems', () => {
    const meter = { slug: 'm', eventTypes: ['a'], aggregation: 'SUM', value: 'tokens', unit: '1' }
    const file = files({
      'meterline.yaml': 'catalogue: c.yaml\ndata: 1\n',
      'c.yaml': { meters: [meter, { ...meter, slug: 'other' }] },
    })
    const { problems } = checkConfig(file, {
      ...rules,
      meterMisfit: ({ slug }) => (slug === 'other' ? 'cannot be' : undefined),
    })
    expect(problems.map(({ line, path, message }) => [line, path, message])).toEqual([
      [2, 'data', expect.stringContaining('must be text')],
      [8, 'meters[1]', 'cannot be'],
    ])
  })
})

describe('any one error in a whole configuration', () => {
  type Tree = Record<string, unknown>
  interface Error {
    readonly file: keyof typeof whole
    readonly parts: readonly (string | number)[]
    readonly change: (holder: Tree, name: string) => void
    readonly what: string
  }
  const schemas: Readonly<Record<string, TSchema>> = {
    'conf/meterline.yaml': Config,
    'catalogue.yaml': CatalogueFile,
    'conf/accounts.yaml': AccountsFile,
  }
  interface SchemaNode {
    readonly type?: string
    readonly enum?: readonly unknown[]
    readonly pattern?: string
    readonly minimum?: number
    readonly default?: unknown
    readonly required?: readonly string[]
    readonly properties?: Readonly<Record<string, SchemaNode>>
    readonly items?: SchemaNode
    readonly additionalProperties?: unknown
  }

  /** Every way to spoil one value of a file, each at the path that must be named. */
  function errorsIn(
    file: keyof typeof whole,
    schema: SchemaNode,
    value: unknown,
    parts: readonly (string | number)[],
  ): readonly Error[] {
    const found: Error[] = []
    const spoil = (what: string, spoilt: unknown) =>
      found.push({
        file,
        parts,
        what,
        change: (holder, name) => {
          holder[name] = spoilt
        },
      })
    if (parts.length > 0) {
      spoil('of another type', schema.type === 'object' ? 'text' : { an: 'object' })
      spoil('null', null)
      if (schema.enum) spoil('none of the list', 'nothing of the kind')
      if (schema.pattern) spoil('of another form', '\n')
      if (schema.minimum !== undefined) spoil('too small', schema.minimum - 1)
      if (schema.type === 'integer') spoil('a fraction', 1.5)
    }
    if (Array.isArray(value) && schema.items)
      for (const [index, item] of value.entries())
        found.push(...errorsIn(file, schema.items, item, [...parts, index]))
    if (schema.properties) {
      const kind = (value as Tree).kind
      const ofKind =
        parts[0] === 'sources' && typeof kind === 'string'
          ? (rules.sourceSchemas[kind] as SchemaNode)
          : undefined
      const properties = { ...ofKind?.properties, ...schema.properties }
      found.push({
        file,
        parts: [...parts, 'unheardOf'],
        what: 'unknown',
        change: (holder, name) => {
          holder[name] = 1
        },
      })
      for (const name of [...(schema.required ?? []), ...(ofKind?.required ?? [])])
        if (properties[name]?.default === undefined)
          found.push({
            file,
            parts: [...parts, name],
            what: 'missing',
            change: holder => {
              delete holder[name]
            },
          })
      for (const [name, inner] of Object.entries(properties))
        if ((value as Tree)[name] !== undefined)
          found.push(...errorsIn(file, inner, (value as Tree)[name], [...parts, name]))
    }
    return found
  }
  const all = Object.entries(schemas).flatMap(([file, schema]) =>
    errorsIn(file as keyof typeof whole, schema as SchemaNode, whole[file as keyof typeof whole], []),
  )

  test('is named by the path it stands at, in its file, at its line', () => {
    expect(all.length).toBeGreaterThan(200)
    for (const { file, parts, what, change } of all) {
      const spoilt = structuredClone(whole) as Record<string, unknown>
      let holder = spoilt[file] as Tree
      for (const part of parts.slice(0, -1)) holder = holder[part] as Tree
      const name = String(parts.at(-1))
      change(holder, name)
      const start = files(spoilt)
      const { problems, config } = checkConfig(start, rules)
      expect(config).toBeUndefined()
      const path = parts
        .map(part => (typeof part === 'number' ? `[${part}]` : `.${part}`))
        .join('')
        .slice(1)
      const place = join(start, '..', '..', file)
      const named = problems.find(problem => problem.path === path && problem.file === place)
      expect(named, `${path} ${what}: ${problems.map(showProblem).join('\n')}`).toMatchObject({ path })
      const line = stringify(spoilt[file]).split('\n')[(named?.line ?? 0) - 1] ?? ''
      // What is missing is named where it should stand.
      if (typeof parts.at(-1) === 'string' && name in holder) expect(line).toContain(`${name}:`)
    }
  })

  test('and without it there is none', () => {
    expect(problemsOf(files(whole))).toEqual([])
    expect(parse(stringify(whole))).toEqual(whole)
  })
})

test('keys that nobody could tell apart, that are none, or that amend of some subjects are named', () => {
  const key = { name: 'a', sha256: 'a'.repeat(64), sources: ['*'], subjects: ['*'] }
  const { sha256: _, ...none } = key
  const keys = [
    key,
    { ...key, name: 'b' },
    { ...none, key: '${env:KEY}' },
    { ...none, name: 'c' },
    { ...key, name: 'd', sha256: 'd'.repeat(64), key: '${env:KEY}' },
    { ...key, name: 'e', sha256: 'e'.repeat(64), scopes: ['amend'], subjects: ['acme'] },
  ]
  const found = problemsOf(files({ 'meterline.yaml': { keys } })).join('\n')
  for (const what of [
    /keys\[1\]\.sha256 is also the hash of another key/,
    /keys\[2\]\.name is also the name of another key/,
    /keys\[3\] needs either `sha256`/,
    /keys\[4\] needs either `sha256`/,
    /keys\[5\]\.subjects must be \['\*'\] where a key may amend/,
  ])
    expect(found).toMatch(what)
  expect(found.split('\n')).toHaveLength(5)
  const written = problemsOf(
    files({ 'meterline.yaml': { keys: [{ ...none, key: 'a key as it is, written out' }] } }),
  )
  expect(written.join('\n')).toMatch(/keys\[0\]\.key is not of the right form/)
  expect(written.join('\n'), 'never the key').not.toContain('written out')
})
