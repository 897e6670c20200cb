/**
 * A ledger that two customers share, and the API over it as a daemon serves it. What is theirs or bears upon them says
 * `Zebra` of the other one, in every place where something can be said; without the other one nothing else is different.
 */
import { hash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Registry } from 'prom-client'
import { stringify } from 'yaml'
import { apiRoutes, configured } from '../../deploy/roles.ts'
import { accept } from '../../processor/accept.ts'
import { openApi } from '../../processor/api/api.ts'
import type { Declared } from '../../processor/api/route.ts'
import { createKey, revokeKey, StoredKeys } from '../../processor/keys.ts'
import { Ledger } from '../../processor/ledger.ts'
import { registerMeters } from '../../processor/rollups.ts'
import { Store } from '../../processor/store.ts'
import { Health, serveHealth } from '../../runtime/health.ts'
import { ConfiguredKeys, Door, KeyRing } from '../../runtime/keys.ts'
import { Ingest } from '../../runtime/log/ingest.ts'
import { openLog } from '../../runtime/logs.ts'
import { type KeyScope, keyScopes } from '../../schemas/keys.ts'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { hourMs } from '../../schemas/window.ts'
import { freshen } from '../freshen.ts'
import { encode, headers, hourAfterJune1, instance, june1Ms, readEvents, testSource } from '../reads.ts'
import type { TestClickHouse } from '../rig/clickhouse.ts'

/** Two days and a bit after the beginning of June. */
export const nowMs = june1Ms + 50 * hourMs
/** A meter may leave out what is not to be billed, and names whose that is. */
const metersFor = (others: 'with' | 'without'): readonly Meter[] => [
  ...defaultMeters.filter(({ slug }) => slug === 'instance_hours'),
  {
    ...{ slug: 'calls', eventTypes: ['call'], aggregation: 'SUM', value: '$.tokens', unit: 'token' },
    groupBy: { model: '$.model' },
    filter: others === 'with' ? { model: { $ne: 'Zebra trial' } } : {},
  },
  {
    ...{ slug: 'models', eventTypes: ['call'], aggregation: 'UNIQUE_COUNT', value: '$.model', unit: 'model' },
    groupBy: {},
    filter: {},
  },
]
export const pushSource = 'https://push.example/usage'

/** Who asks: with no key, with one that is nobody's, or with one of a scope, of all accounts or of one. */
export const strangers = ['none', 'wrong', 'malformed', 'expired', 'revoked', 'ended'] as const
export const customers = ['aardvark read', 'aardvark bill', 'zebra read', 'zebra bill'] as const
export const operators = keyScopes.map(scope => `all ${scope}` as const)
export type Who = (typeof strangers)[number] | (typeof customers)[number] | (typeof operators)[number]

export interface TenantsWorld extends AsyncDisposable {
  readonly url: string
  readonly store: Store
  /** `METHOD path` of every route that there is. */
  readonly routes: readonly string[]
  /** Those that are ours, with the schemas of what may be asked. */
  readonly declared: readonly Declared[]
  /** The headers that say who asks. */
  as(who: Who): Record<string, string>
  /** All that was logged. */
  readonly logged: () => string
}

export interface TenantsWorlds extends AsyncDisposable {
  readonly world: TenantsWorld
  /** The same without the other customer. */
  readonly alone: TenantsWorld
}

/** Both, in a ClickHouse that ends with them. */
export async function openTenantsWorlds(rig: TestClickHouse): Promise<TenantsWorlds> {
  await using opening = new AsyncDisposableStack()
  opening.defer(() => rig.stop())
  const [world, alone] = await Promise.all([
    openTenantsWorld(rig, `tenants_${process.pid}`, 'with'),
    openTenantsWorld(rig, `tenants_alone_${process.pid}`, 'without'),
  ])
  opening.use(world)
  opening.use(alone)
  const opened = opening.move()
  return { world, alone, [Symbol.asyncDispose]: () => opened.disposeAsync() }
}

/** @param others `with` the other customer and everything of theirs, or `without` */
export async function openTenantsWorld(
  rig: TestClickHouse,
  database: string,
  others: 'with' | 'without',
): Promise<TenantsWorld> {
  await using opening = new AsyncDisposableStack()
  const dir = mkdtempSync(join(tmpdir(), 'meterline-tenants-'))
  opening.defer(() => rmSync(dir, { recursive: true, force: true }))
  const store = opening.use(await Store.open({ ...rig, database }))
  await fill(store, others)
  // Whole hours are answered from rollups, cut ones from the ledger.
  await registerMeters(store, metersFor(others))
  await freshen(store)

  const secrets = new Map<Who, string>()
  const keys = [...operators, ...customers].map(who => {
    const [whose, scope] = who.split(' ') as [string, KeyScope]
    const secret = hash('sha256', `${who} ${database}`, 'base64url')
    secrets.set(who, secret)
    const writes = scope === 'ingest' || scope === 'amend'
    return {
      name: who.replace(' ', '-'),
      sha256: hash('sha256', secret, 'hex'),
      scopes: [scope],
      ...(whose !== 'all' && { account: whose }),
      ...(writes && { sources: ['*'], subjects: ['*'] }),
    }
  })
  const over = 'a-key-that-was-good-until-May'
  secrets.set('expired', over)
  const expired = {
    ...{ name: 'expired', sha256: hash('sha256', over, 'hex'), expires: '2025-05-01T00:00:00Z' },
    ...{ scopes: [...keyScopes], sources: ['*'], subjects: ['*'] },
  }
  secrets.set('wrong', `mtl_${'0'.repeat(12)}_${'A'.repeat(43)}`)
  secrets.set('malformed', 'a b')
  for (const [who, expiresMs] of [
    ['revoked', undefined],
    ['ended', june1Ms],
  ] as const) {
    const wanted = { name: who, scopes: ['read', 'bill', 'admin'] as const, ...(expiresMs && { expiresMs }) }
    const { key } = await createKey(store, wanted, { by: 'test', nowMs: june1Ms - hourMs })
    secrets.set(who, key)
  }
  await revokeKey(store, 'revoked', { by: 'test', nowMs: june1Ms })

  const settings = {
    config: writeConfig(dir, { keys: [...keys, expired], others }),
    env: {},
    signal: new AbortController().signal,
    stdout: () => undefined,
    stderr: () => undefined,
    nowMs: () => nowMs,
  }
  const config = await configured(settings, 'price')
  const stored = opening.use(new StoredKeys(store))
  const ring = new KeyRing(new ConfiguredKeys(config.keys, {}, nowMs))
  opening.use(ring.add(stored))
  const health = new Health()
  health.report('source rafay/test', others === 'with' ? 'SOURCE_BUSY Zebra does not answer' : undefined)
  const server = opening.use(
    await serveHealth({ health, registry: new Registry(), host: '127.0.0.1', port: 0 }),
  )
  const lines: string[] = []
  const log = openLog({ level: 'debug', role: 'test', to: { write: line => void lines.push(line) } })
  const ingest = new Ingest({
    sink: { put: async () => undefined },
    nowMs: () => nowMs,
    door: new Door({ keys: ring, open: 'keys', nowMs: () => nowMs }),
  })
  const routes = await apiRoutes(config, settings, {
    store,
    ingest,
    stored,
    health,
    eventLog: { state: async () => ({ lag: 0n }) } as never,
    outbox: undefined,
  })
  const found = new Set<string>()
  const api = opening.use(
    await openApi({
      mount: server.mount,
      // The first of them sees all that are added after it; the others are declared.
      routes: [
        app =>
          void app.addHook('onRoute', ({ method, url }) => {
            for (const each of [method].flat()) found.add(`${each} ${url}`)
          }),
        ...routes,
      ],
      access: 'keys',
      keys: ring,
      nowMs: () => nowMs,
      log,
    }),
  )
  for (const { method, url } of api.routes) found.add(`${method} ${url}`)
  const opened = opening.move()
  return {
    url: server.url,
    store,
    routes: Array.from(found).filter(route => !route.startsWith('HEAD ')),
    declared: api.routes,
    as: who => (who === 'none' ? {} : { authorization: `Bearer ${secrets.get(who)}` }),
    logged: () => lines.join(''),
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  }
}

function writeConfig(
  dir: string,
  { keys, others }: { readonly keys: readonly object[]; readonly others: 'with' | 'without' },
): string {
  const payer = (id: string, name: string, subjects: readonly object[]) => ({
    id,
    name,
    currency: 'USD',
    priceBook: 'list',
    uncovered: 'allow',
    subjects,
  })
  const june2 = '2025-06-02T00:00:00Z'
  const accounts = [
    payer('aardvark', 'Aardvark', [
      { source: testSource, subject: 'ant' },
      { source: testSource, subject: 'moved', to: june2 },
      { source: pushSource, subject: 'ant' },
    ]),
    ...(others === 'with'
      ? [
          payer('zebra', 'Zebra Ltd', [
            { source: testSource, subject: 'Zebra' },
            { source: testSource, subject: 'moved', from: june2 },
            { source: pushSource, subject: 'Zebra' },
            // The same name at another source is another tenant.
            { source: 'https://Zebra.example/usage', subject: 'ant' },
          ]),
        ]
      : [payer('zebra', 'Nobody', [])]),
  ]
  const prices = {
    ...{ id: 'list', version: 1, currency: 'USD', timezone: 'UTC', unpriced: 'error' },
    charges: [{ id: 'hours', meter: 'instance_hours', unit: 'Hours', price: { unit: '1.25' } }],
  }
  const files = {
    'meterline.yaml': {
      catalogue: 'meters.yaml',
      accounts: 'accounts.yaml',
      priceBooks: ['prices.yaml'],
      keys,
    },
    'accounts.yaml': { accounts },
    'prices.yaml': prices,
    'meters.yaml': { meters: metersFor(others) },
  }
  for (const [name, content] of Object.entries(files)) writeFileSync(join(dir, name), stringify(content))
  return join(dir, 'meterline.yaml')
}

/** What is of the first customer comes first, so that it stands in the same places of the log with and without the other. */
async function fill(store: Store, others: 'with' | 'without'): Promise<void> {
  const ledger = new Ledger(store, 'log', null)
  let offset = 0n
  const put = async (values: readonly Buffer[]) => {
    const messages = values.map((value, index) => ({
      offset: offset + BigInt(index),
      key: null,
      value,
      headers,
      appendedMs: june1Ms,
    }))
    offset += BigInt(values.length)
    await ledger.put([accept({ partition: 0, messages }, 'log')])
  }
  const read = (scope: string, hour: number, subjects: readonly string[], mark = {}) => {
    const window = hourAfterJune1(hour)
    const usages = subjects.map(subject =>
      instance(subject, `${subject}-vm`, '3600', {
        gpu_type: subject === 'Zebra' ? 'Zebra' : 'L40',
        // What moved to the other customer says so from then on.
        ...(subject === 'moved' && hour >= 24 && { gpu_type: 'Zebra', organization: 'Zebra' }),
      }),
    )
    const events = readEvents({ source: testSource, scope, window, readatMs: window.endMs + 1 }, usages, mark)
    return events.map(event => encode(event).value)
  }
  const pushed = (id: string, change: Record<string, unknown> = {}) =>
    Buffer.from(
      JSON.stringify({
        ...{ specversion: '1.0', id, source: pushSource, type: 'call', subject: 'ant' },
        ...{ time: '2025-06-01T01:00:00Z', data: { tokens: 7, model: 'small' } },
        ...change,
      }),
    )
  await put([
    ...read('ant/pool', 0, ['ant']),
    ...read('ant/pool', 1, ['ant']),
    ...read('moved/pool', 2, ['moved']),
    pushed('a1'),
    pushed('a2', { time: '2025-06-01T02:00:00Z', data: { tokens: 5, model: 'large' } }),
  ])
  if (others === 'without') return
  const zebra = { subject: 'Zebra', data: { tokens: 11, model: 'Zebra', Zebra: 'Zebra' } }
  await put([
    ...read('Zebra/pool', 0, ['Zebra']),
    ...read('Zebra/pool', 1, ['Zebra']),
    ...read('Zebra/pool', 3, [], {
      outcome: 'failed',
      fault: { code: 'SOURCE_BUSY', message: 'Zebra is busy' },
    }),
    ...read('moved/pool', 25, ['moved']),
    pushed('Zebra-1', zebra),
    pushed('Zebra-2', { ...zebra, source: 'https://Zebra.example/usage', subject: 'ant' }),
    pushed('Zebra-3', { ...zebra, source: 'https://Zebra.example/usage', type: 'Zebra' }),
    // An hour in which nobody else did anything: how many there are shows in no progress.
    pushed('Zebra-5', { ...zebra, time: '2025-06-01T05:00:00Z' }),
    // Conflicts and rejects: one of each customer's own event, and what is not even readable.
    pushed('Zebra-1', { ...zebra, data: { tokens: 12, Zebra: 'Zebra' } }),
    pushed('Zebra-4', { ...zebra, time: 'Zebra o’clock' }),
    Buffer.from('{"specversion":"1.0","Zebra":'),
  ])
}
