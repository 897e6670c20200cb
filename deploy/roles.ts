/** What each role is made of: a configuration in, running parts out. Here collector, log and ledger meet; read it from top to bottom. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { OpenedSource } from '../collector/collect.ts'
import type { Routes } from '../processor/api/route.ts'
import type { StoredKeys } from '../processor/keys.ts'
import type { Processor } from '../processor/process.ts'
import type { Store } from '../processor/store.ts'
import { type ConfigRules, type ConfiguredSource, type LoadedConfig, loadConfig } from '../runtime/config.ts'
import { Health, type HealthServer, serveHealth } from '../runtime/health.ts'
import type { HttpOptions } from '../runtime/http.ts'
import type { Door, KeyRing } from '../runtime/keys.ts'
import type { Ingest } from '../runtime/log/ingest.ts'
import type { KafkaConfig } from '../runtime/log/kafka.ts'
import type { EventLog, RejectLog } from '../runtime/log/log.ts'
import { SqliteOutbox } from '../runtime/log/outbox.ts'
import { partitionOf } from '../runtime/log/partition.ts'
import type { EventSink } from '../runtime/log/sink.ts'
import { type Logger, type LogLevel, logLevels, openLog } from '../runtime/logs.ts'
import { collectProcessMetrics, registry } from '../runtime/metrics.ts'
import { answerNotYet, apiPrefix } from '../runtime/problem.ts'
import { rest } from '../runtime/rest.ts'
import { readSecret } from '../runtime/secrets.ts'
import { asFault, describeFault, Fault } from '../schemas/fault.ts'
import type { SuspectRule } from '../schemas/suspect.ts'
import { dayMs, hourMs, minuteMs, parseInstant, secondMs } from '../schemas/window.ts'
import type { Resending } from './resend.ts'

/** What every command gets from the command line and the process. */
export interface Settings {
  readonly config: string
  readonly data?: string
  readonly json?: boolean
  readonly env: Readonly<Record<string, string | undefined>>
  readonly signal: AbortSignal
  readonly stdout: (text: string) => void
  readonly stderr: (line: string) => void
  readonly nowMs: () => number
}

/** The file that is looked for where no --config is given. */
export const configDefault = 'meterline.yaml'

// -- configuration

/** What a command does with usage. Each needs the code, and the files, of those before it. */
export type Use = 'collect' | 'meter' | 'price'

/**
 * The configuration, checked as far as the command uses it: a collector is small because it loads nothing that meters
 * or prices, and a mistake in a price book stops nobody who records usage. `check` uses all.
 * @throws Fault CONFIG_INVALID naming every problem.
 */
export async function configured(settings: Settings, use: Use): Promise<LoadedConfig> {
  return heldAt(loadConfig(configFile(settings), await configRules(use)), settings)
}

/** What a configuration is held against. */
export async function configRules(use: Use): Promise<ConfigRules> {
  const { sources } = await import('../collector/sources/list.ts')
  return {
    sourceSchemas: Object.fromEntries(sources.map(({ kind, config: schema }) => [kind, schema])),
    ...(use !== 'collect' && { meterMisfit: (await import('../processor/meters.ts')).meterMisfit }),
    ...(use === 'price' && { bookMisfits: (await import('../processor/book.ts')).checkBook }),
  }
}

/** The file to read; none where nobody named one and the usual one is not there. */
export function configFile(settings: Pick<Settings, 'config'>): string | undefined {
  return settings.config === configDefault && !existsSync(configDefault) ? undefined : settings.config
}

/** With the data directory of the command line, where it names one. */
export function heldAt(config: LoadedConfig, settings: Pick<Settings, 'data'>): LoadedConfig {
  return settings.data === undefined ? config : { ...config, data: resolve(settings.data) }
}

function suspectRule({ suspect }: LoadedConfig): SuspectRule {
  return { percent: suspect.percent, confirmAfterMs: suspect.confirmAfterMinutes * minuteMs }
}

export function kafkaConfig(config: LoadedConfig, settings: Settings): KafkaConfig | undefined {
  const { kafka } = config
  if (!kafka) return undefined
  const { sasl, ssl, ...rest } = kafka
  return {
    ...rest,
    retentionMs: config.outbox.retentionDays * dayMs,
    ...(ssl !== undefined && { ssl }),
    ...(sasl && {
      sasl: {
        ...sasl,
        password: readSecret(sasl.password, { env: settings.env, option: 'kafka.sasl.password' }),
      },
    }),
  }
}

// -- parts

export interface OpenedStore extends AsyncDisposable {
  readonly store: Store
  /** Why the embedded ClickHouse does not come up again, while that is so. */
  problem(): string | undefined
}

/** How long a daemon waits for a command that has started the store for its own length. */
const borrowedMsMax = 60 * secondMs

/**
 * The configured ClickHouse, or the embedded one of the data directory: the process that serves it, or one started here.
 * A daemon must be the one that starts it: a borrowed store would end with the command that it is borrowed from.
 * @throws Fault STORE_LOCKED where another daemon has it
 */
export async function openStore(
  config: LoadedConfig,
  settings: Settings,
  use: 'borrowed or own' | 'own' = 'borrowed or own',
): Promise<OpenedStore> {
  const { Store } = await import('../processor/store.ts')
  const { url, user = 'default', password, database } = config.store
  await using opening = new AsyncDisposableStack()
  let problem = (): string | undefined => undefined
  let address = { url: url ?? '', user, password: '', database }
  if (url !== undefined) {
    if (password !== undefined)
      address = {
        ...address,
        password: readSecret(password, { env: settings.env, option: 'store.password' }),
      }
  } else {
    const { openEmbedded } = await import('./embedded/embedded.ts')
    const open = () => openEmbedded({ dataDir: config.data, restart: true, signal: settings.signal })
    const untilMs = performance.now() + borrowedMsMax
    let embedded = await open()
    for (; use === 'own' && !embedded.owned; embedded = await open()) {
      if (performance.now() > untilMs)
        throw new Fault('STORE_LOCKED', `process ${embedded.pid} serves the store of ${config.data}`, {
          dir: config.data,
          pid: embedded.pid,
        })
      await sleep(200, undefined, { signal: settings.signal })
    }
    opening.use(embedded)
    problem = () => embedded.problem()
    address = { url: embedded.url, user: embedded.user, password: embedded.password, database }
  }
  const store = opening.use(await Store.open(address, { signal: settings.signal }))
  const opened = opening.move()
  return { store, problem, [Symbol.asyncDispose]: () => opened.disposeAsync() }
}

/** The sources as configured. */
export async function openSources(
  config: LoadedConfig,
  settings: Settings,
  scope: AsyncDisposableStack,
  /** Without it what a source watches is forgotten with the process. */
  outbox?: SqliteOutbox,
): Promise<readonly OpenedSource[]> {
  const open = await sourceOpener(settings, outbox && { outbox })
  return config.sources.map(configured => open(configured, scope))
}

/**
 * Opens one source after the other, each with an HTTP client of its own, so that a slow one takes nobody else's
 * connections. `bounds` hold whatever a source asks for.
 */
export async function sourceOpener(
  settings: Pick<Settings, 'env' | 'nowMs'>,
  { outbox, bounds }: { readonly outbox?: SqliteOutbox; readonly bounds?: HttpOptions } = {},
): Promise<(configured: ConfiguredSource, scope: AsyncDisposableStack) => OpenedSource> {
  const { sources } = await import('../collector/sources/list.ts')
  const { openHttp, proxyOf } = await import('../runtime/http.ts')
  const { sourceName } = await import('../collector/collect.ts')
  const { passingState } = await import('../runtime/log/source-state.ts')
  const proxy = proxyOf(settings.env)
  return ({ kind, name, fromMs, options }, scope) => {
    const source = sources.find(found => found.kind === kind)
    if (!source) throw new Fault('CONFIG_INVALID', `source ${name}: there is no kind "${kind}"`)
    const client = (asked: HttpOptions) => scope.use(openHttp({ proxy, ...asked, ...bounds }))
    const concurrency = (options as { readonly concurrency?: number }).concurrency
    const opened = source.open(
      { ...(options as object), name },
      {
        http: client(concurrency === undefined ? {} : { concurrency }),
        client,
        state: outbox?.state(sourceName({ kind, name })) ?? passingState(),
        secret: reference => readSecret(reference, { env: settings.env, option: `sources ${name}` }),
        nowMs: settings.nowMs,
      },
    )
    scope.use(opened)
    return { kind, name, source: opened, ...(fromMs !== undefined && { fromMs }) }
  }
}

/** The outbox of the data directory; health says so while a damaged one lies beside it. */
export function openOutbox(
  config: LoadedConfig,
  settings: Settings,
  { log, health }: Pick<Daemon, 'log' | 'health'>,
): SqliteOutbox {
  const { kafka } = config
  const outbox = SqliteOutbox.open({
    dir: config.data,
    access: 'append',
    ...(kafka && { partitions: { count: kafka.partitions, of: key => partitionOf(key, kafka.partitions) } }),
    bytesMax: config.outbox.maxBytes,
    retentionMs: config.outbox.retentionDays * dayMs,
    nowMs: settings.nowMs,
    onFault: fault => log.error({ fault }, 'the outbox was damaged, and a fresh one is begun'),
  })
  health.check('outbox file', () => {
    const damaged = outbox.damagedFiles
    return damaged.length === 0 ? undefined : `OUTBOX_DAMAGED ${damaged.join(', ')} in ${config.data}`
  })
  return outbox
}

/**
 * Where events go that are no part of a read: into the outbox that is open, straight to Kafka, or into the outbox of the
 * data directory beside whoever has it.
 */
export async function openSink(
  config: LoadedConfig,
  settings: Settings,
  { outbox, signal }: { readonly outbox?: SqliteOutbox; readonly signal: AbortSignal },
): Promise<EventSink & AsyncDisposable> {
  const { lanesSink, outboxSink } = await import('../runtime/log/sink.ts')
  await using opening = new AsyncDisposableStack()
  const kafka = kafkaConfig(config, settings)
  let sink: EventSink
  if (outbox) sink = outboxSink(outbox)
  else if (kafka) {
    const { kafkaLanes } = await import('../runtime/log/kafka.ts')
    sink = lanesSink(opening.use(await kafkaLanes(kafka, { signal })))
  } else
    sink = outboxSink(
      opening.use(
        SqliteOutbox.open({
          dir: config.data,
          access: 'push',
          bytesMax: config.outbox.maxBytes,
          retentionMs: config.outbox.retentionDays * dayMs,
          nowMs: settings.nowMs,
        }),
      ),
    )
  const opened = opening.move()
  return { put: events => sink.put(events), [Symbol.asyncDispose]: () => opened.disposeAsync() }
}

/** Sends the outbox to Kafka until the signal; while Kafka is away it says so and tries again. */
async function relayTo(
  kafka: KafkaConfig,
  outbox: SqliteOutbox,
  health: Health,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  const { kafkaLanes } = await import('../runtime/log/kafka.ts')
  const { relay } = await import('../collector/relay.ts')
  const talk = kafkaTalk(log)
  while (!signal.aborted) {
    try {
      await using lanes = await kafkaLanes(kafka, { talk, signal })
      health.report('log', undefined)
      await relay({
        outbox,
        lanes,
        signal,
        onAck: () => health.report('log', undefined),
        onFault: fault => health.report('log', describeFault(fault)),
      })
    } catch (error) {
      const fault = asFault(error, 'LOG_UNREACHABLE')
      if (fault.fate === 'halt') throw fault
      health.report('log', describeFault(fault))
      log.warn({ fault }, 'the log is away: events wait in the outbox')
      await rest(2 * secondMs, signal)
    }
  }
}

const kafkaTalk = (log: Logger) => (line: { readonly level: 'warn' | 'error'; readonly message: string }) =>
  log[line.level === 'error' ? 'warn' : 'debug'](line.message)

/** The ledger for one question of the collector, with a way to end it. */
type AskLedger = () => Promise<{ readonly store: Store; readonly close: () => Promise<void> }>

/** A ledger is at hand for the collector where its store is of this process, or has an address. */
function ledgerAtHand(
  config: LoadedConfig,
  settings: Settings,
  { store, signal }: { readonly store: Store | undefined; readonly signal: AbortSignal },
): AskLedger | undefined {
  if (store) return async () => ({ store, close: async () => {} })
  if (config.store.url === undefined) return undefined
  return async () => {
    const opened = await openStore(config, { ...settings, signal })
    return { store: opened.store, close: async () => await opened[Symbol.asyncDispose]() }
  }
}

/** Compares what was sent with what the ledger has. */
async function openResending(
  config: LoadedConfig,
  settings: Settings,
  parts: {
    readonly askLedger: AskLedger
    readonly kafka: KafkaConfig | undefined
    readonly outbox: SqliteOutbox
    readonly opened: readonly OpenedSource[]
    readonly health: Health
    readonly log: Logger
    readonly signal: AbortSignal
  },
): Promise<Resending> {
  const { askLedger, kafka, outbox, opened, health, log, signal } = parts
  const { Resending, sentLog } = await import('./resend.ts')
  const sources = sourceNames(opened)
  return new Resending({
    open: async () => {
      const { store, close } = await askLedger()
      try {
        return { outbox, sources, store, log: await sentLog(kafka, outbox, { signal }), close }
      } catch (error) {
        await close()
        throw error
      }
    },
    health,
    log,
    nowMs: settings.nowMs,
    signal,
    recentMs: config.outbox.retentionDays * dayMs,
  })
}

/** The sources as they stand in events. */
export function sourceNames(opened: readonly OpenedSource[]) {
  return opened.map(({ kind, name, source }) => ({
    name: `meterline/${kind}/${name}`,
    retentionMs: source.retentionMs,
  }))
}

/** The processor over a log, with its state in the health of the role. */
async function runningProcessor(
  config: LoadedConfig,
  parts: {
    readonly store: Store
    readonly eventLog: EventLog
    readonly rejects?: RejectLog
    readonly health: Health
    readonly log: Logger
    readonly signal: AbortSignal
  },
): Promise<Processor> {
  const { startProcessor } = await import('../processor/process.ts')
  const { store, eventLog, rejects, health, log, signal } = parts
  const processor = await startProcessor({
    store,
    log: eventLog,
    meters: config.meters,
    suspect: suspectRule(config),
    signal,
    say: line => log.warn(line),
    ...(rejects && { rejects }),
  })
  health.check('processor', () => processor.trouble())
  return processor
}

interface ApiParts {
  readonly store: Store
  readonly ingest: Ingest | undefined
  readonly stored: StoredKeys
  readonly health: Health
  readonly eventLog: EventLog
  readonly outbox: SqliteOutbox | undefined
}

/** The API of the processor, beside health. */
async function serveApi(
  config: LoadedConfig,
  settings: Settings,
  { served, log, keys, ...parts }: Pick<Daemon, 'served' | 'log' | 'keys'> & ApiParts,
): Promise<AsyncDisposable> {
  const { openApi } = await import('../processor/api/api.ts')
  return await openApi({
    mount: served.mount,
    routes: await apiRoutes(config, settings, parts),
    access: config.listen.api,
    keys,
    store: parts.store,
    nowMs: settings.nowMs,
    log,
    onFault: fault => log.error({ fault }, 'a request could not be answered'),
  })
}

/** All that the API answers. A noun is a file in processor/api/ and a line here. */
export async function apiRoutes(
  config: LoadedConfig,
  settings: Settings,
  { store, ingest, stored, health, eventLog, outbox }: ApiParts,
): Promise<readonly Routes[]> {
  const { accountRoutes } = await import('../processor/api/accounts.ts')
  const { coverageRoutes } = await import('../processor/api/coverage.ts')
  const { coverageDayRoutes } = await import('../processor/api/coverage-days.ts')
  const { dashboardRoutes } = await import('../processor/api/dashboard.ts')
  const { eventRoutes } = await import('../processor/api/events.ts')
  const { lineItemRoutes } = await import('../processor/api/line-items.ts')
  const { meRoutes } = await import('../processor/api/me.ts')
  const { eventListRoutes } = await import('../processor/api/openmeter/events.ts')
  const { meterRoutes } = await import('../processor/api/openmeter/meters.ts')
  const { queryRoutes } = await import('../processor/api/openmeter/query.ts')
  const { subjectRoutes } = await import('../processor/api/openmeter/subjects.ts')
  const { rejectedRoutes } = await import('../processor/api/rejected.ts')
  const { keyRoutes } = await import('../processor/api/keys.ts')
  const { statusRoutes } = await import('../processor/api/status.ts')
  const { usageRoutes } = await import('../processor/api/usage.ts')
  const { Catalogue } = await import('../processor/catalogue.ts')
  const { Queries } = await import('../processor/queries.ts')
  const { nowMs } = settings
  const taken = config.keys.map(({ name }) => name)
  // A mistake in a price book is no reason not to record usage: it shows when somebody asks by account.
  const billing = readAnew(async () => await configured(settings, 'price'))
  const accounts = async () => (await billing()).accounts
  const catalogue = new Catalogue(store, config.meters, nowMs)
  // All questions for usage take turns.
  const queries = new Queries(config.query)
  return [
    accountRoutes({ accounts }),
    coverageRoutes({ store, accounts, nowMs }),
    coverageDayRoutes({ store, accounts, nowMs }),
    dashboardRoutes(),
    lineItemRoutes({ store, billing, queries, nowMs }),
    meRoutes(),
    ...(ingest ? [eventRoutes({ ingest })] : []),
    rejectedRoutes({ store, nowMs }),
    keyRoutes({ store, stored, taken, accounts, nowMs }),
    statusRoutes({
      store,
      nowMs,
      checks: () => health.results(),
      logState: () => eventLog.state(),
      ...(outbox && { outbox: { depth: () => outbox.depth(), bytesMax: config.outbox.maxBytes } }),
    }),
    usageRoutes({ store, queries, meterOf: slug => catalogue.find(slug), accounts }),
    eventListRoutes({ store, queries, catalogue, accounts }),
    meterRoutes({ catalogue }),
    queryRoutes({ store, queries, catalogue, accounts, nowMs }),
    subjectRoutes({ store, queries, accounts, nowMs }),
  ]
}

/** What was read a second ago or later, however many ask: the files are many, and are held against each other. */
function readAnew<T>(read: () => Promise<T>): () => Promise<T> {
  let last: { readonly answer: Promise<T>; readonly atMs: number } | undefined
  return async () => {
    const nowMs = performance.now()
    if (!last || nowMs - last.atMs >= secondMs) last = { answer: read(), atMs: nowMs }
    return await last.answer
  }
}

/** All keys that a daemon knows, before it has a store. */
async function openKeys({ keys }: LoadedConfig, { env, nowMs }: Settings, health: Health): Promise<KeyRing> {
  const { ConfiguredKeys, KeyRing } = await import('../runtime/keys.ts')
  const configured = new ConfiguredKeys(keys, env, nowMs())
  health.check('keys', () => configured.problem())
  return new KeyRing(configured)
}

/** Who may push; undefined where nobody may. */
async function openDoor(
  { keys: configured, listen }: LoadedConfig,
  { nowMs }: Settings,
  keys: KeyRing,
): Promise<Door | undefined> {
  if (listen.push === false) return undefined
  const { Door } = await import('../runtime/keys.ts')
  // Where keys to push with are configured, who pushes has one, wherever they are.
  return new Door({ keys, open: configured.some(pushes) ? 'keys' : listen.api, nowMs })
}

function pushes({ scopes }: LoadedConfig['keys'][number]): boolean {
  return scopes.includes('ingest') || scopes.includes('amend')
}

interface PushParts extends Pick<Daemon, 'health'> {
  readonly door: Door
  /** Told of what only a fresh start, or a person, mends: a damaged outbox for instance. */
  readonly onHalt: (fault: Fault) => void
}

/** What others push, on its way to the sink. */
async function openIngest(
  { nowMs }: Settings,
  { door, sink, health, onHalt }: PushParts & { readonly sink: EventSink },
): Promise<Ingest> {
  const { Ingest } = await import('../runtime/log/ingest.ts')
  const onFault = (fault: Fault) => {
    if (fault.fate === 'halt') onHalt(fault)
  }
  const ingest = new Ingest({ sink, nowMs, door, onFault })
  health.check('push', () => ingest.trouble())
  return ingest
}

/** The collector's own way in for what applications push: into its outbox, whether the log is there or not. */
async function servePush(
  settings: Settings,
  parts: PushParts & Pick<Daemon, 'served'> & { readonly outbox: SqliteOutbox },
): Promise<Disposable> {
  const { outboxSink } = await import('../runtime/log/sink.ts')
  const ingest = await openIngest(settings, { ...parts, sink: outboxSink(parts.outbox) })
  return parts.served.mount(apiPrefix, (request, response) => void ingest.answer(request, response))
}

// -- roles

/** What a daemon has beside its role: a log on stderr, health and metrics over HTTP. */
interface Daemon extends AsyncDisposable {
  readonly log: Logger
  readonly health: Health
  readonly served: HealthServer
  readonly keys: KeyRing
}

/** In health until all of a role runs. */
const startCheck = 'start'
const notStarted = 'not started yet'

async function daemon(config: LoadedConfig, settings: Settings, role: string): Promise<Daemon> {
  const level = settings.env.METERLINE_LOG_LEVEL ?? 'info'
  if (!(logLevels as readonly string[]).includes(level))
    throw new Fault('CONFIG_INVALID', `METERLINE_LOG_LEVEL "${level}" is none of ${logLevels.join(', ')}`)
  const log = openLog({ level: level as LogLevel, role })
  const health = new Health()
  health.report(startCheck, notStarted)
  // Whoever sends requests here is to send them elsewhere, before there is nobody to answer.
  settings.signal.addEventListener('abort', () => health.report('stop', 'it is stopping'), { once: true })
  collectProcessMetrics()
  const keys = await openKeys(config, settings, health)
  const { mayNotSeeAll } = await import('../runtime/keys.ts')
  const { host, port, tls, api, metrics: access = api } = config.listen
  const served = await serveHealth({
    health,
    registry,
    host,
    port,
    ...(tls && { tls }),
    refusal: request => mayNotSeeAll(request, { keys, access, nowMs: settings.nowMs() }),
  })
  log.info({ url: served.url, data: config.data }, `${role}: health and metrics at ${served.url}`)
  return { log, health, served, keys, [Symbol.asyncDispose]: () => served[Symbol.asyncDispose]() }
}

/** `meterline collect`: without --once the daemon, with it a bounded read of the past. */
export async function collect(
  settings: Settings & {
    readonly once?: boolean
    readonly from?: string
    readonly to?: string
    readonly source?: string
    readonly scope?: string
    readonly restart?: boolean
  },
): Promise<number> {
  if (settings.once === true) return await (await import('./once.ts')).collectOnceCommand(settings)
  const config = await configured(settings, 'collect')
  if (!config.kafka)
    throw new Fault(
      'USAGE',
      'a collector of its own needs `kafka`: without it `meterline up` runs all in one process',
    )
  await runRoles(config, settings, ['collector'])
  return 0
}

/** `meterline process` */
export async function process(settings: Settings): Promise<number> {
  const config = await configured(settings, 'meter')
  if (!config.kafka)
    throw new Fault(
      'USAGE',
      'a processor of its own needs `kafka`: without it `meterline up` runs all in one process',
    )
  await runRoles(config, settings, ['processor'])
  return 0
}

/** `meterline up` */
export async function up(settings: Settings): Promise<number> {
  await runRoles(await configured(settings, 'meter'), settings, ['collector', 'processor'])
  return 0
}

/** A sender has sources and an outbox on their way to the log, and reads only what it is told to. */
export type Role = 'collector' | 'sender' | 'processor'

/** Runs the roles until the signal. What halts one of them ends them all and is thrown: a supervisor starts anew. */
export async function runRoles(
  config: LoadedConfig,
  settings: Settings,
  roles: readonly Role[],
  /** Told where it is served, each time that all of it runs. */
  onRunning?: (url: string) => void,
): Promise<void> {
  await using part = await daemon(config, settings, roles.length > 1 ? 'up' : (roles[0] ?? 'up'))
  // Whenever nobody else answers: before the roles run, between two of their starts, and while they end.
  const hasApi = roles.includes('processor') || config.listen.push !== false
  using _notYet = hasApi ? part.served.mount(apiPrefix, answerNotYet) : undefined
  for (let damagedMs = Number.NEGATIVE_INFINITY; ; damagedMs = performance.now())
    try {
      await using running = await started(config, settings, roles, part)
      if (running) onRunning?.(part.served.url)
      await running?.done
      break
    } catch (error) {
      // Opening sets the damaged file aside. A second one within the hour is the disk, and no start helps.
      const damaged = error instanceof Fault && error.code === 'OUTBOX_DAMAGED'
      if (!damaged || performance.now() - damagedMs < hourMs) throw error
      part.log.error({ fault: error }, 'the outbox is damaged: starting anew')
    }
  part.log.info('stopped')
}

/** Without sources a collector takes what is pushed, where the configuration says that this is meant. */
function isSidecar({ sources, listen, keys }: LoadedConfig): boolean {
  return sources.length === 0 && (listen.push ?? keys.some(pushes))
}

const startAgainMsMax = 10 * secondMs

/**
 * Starts the roles, again and again while what they need is away, ClickHouse for instance: until then the process is not
 * ready and says why, and its API asks to come again. Undefined where it was stopped before.
 */
async function started(
  config: LoadedConfig,
  settings: Settings,
  roles: readonly Role[],
  part: Daemon,
): Promise<Running | undefined> {
  const { log, health } = part
  health.report(startCheck, notStarted)
  let said: string | undefined
  for (let waitMs = secondMs; ; waitMs = Math.min(2 * waitMs, startAgainMsMax))
    try {
      const running = await startRoles(config, settings, roles, part)
      health.report(startCheck, undefined)
      return running
    } catch (error) {
      if (settings.signal.aborted) return undefined
      const fault = asFault(error, 'INTERNAL')
      if (fault.fate !== 'retry') throw error
      health.report(startCheck, `${notStarted}: ${describeFault(fault)}`)
      if (said !== fault.message) log.warn({ fault }, 'it cannot start yet: trying again until it can')
      said = fault.message
      await rest(waitMs, settings.signal)
    }
}

export interface Running extends AsyncDisposable {
  readonly done: Promise<void>
  readonly outbox?: SqliteOutbox
  readonly opened: readonly OpenedSource[]
  readonly store?: Store
  readonly processor?: Processor
}

/** Opens and starts the roles. The parts that wait for others are opened last and closed first. */
export async function startRoles(
  config: LoadedConfig,
  settings: Settings,
  roles: readonly Role[],
  { log, health, served, keys }: Pick<Daemon, 'log' | 'health'> & Partial<Daemon>,
): Promise<Running> {
  await using opening = new AsyncDisposableStack()
  const broken = new AbortController()
  const signal = AbortSignal.any([settings.signal, broken.signal])
  const kafka = kafkaConfig(config, settings)
  const collecting = roles.includes('collector') || roles.includes('sender')
  const processing = roles.includes('processor')

  const outbox = collecting || !kafka ? opening.use(openOutbox(config, settings, { log, health })) : undefined
  const opened = collecting ? await openSources(config, settings, opening, outbox) : []
  if (collecting && opened.length === 0 && !isSidecar(config))
    throw new Fault(
      'CONFIG_INVALID',
      'no `sources` are configured: nothing to read. To only take what applications push, say `listen: {push: true}`, or configure `keys`',
    )
  const door =
    served && keys && !roles.includes('sender') ? await openDoor(config, settings, keys) : undefined
  const parts: Promise<void>[] = []
  const pushing = Promise.withResolvers<void>()
  const onHalt = (fault: Fault) => pushing.reject(fault)
  if (door) {
    parts.push(pushing.promise)
    if (signal.aborted) pushing.resolve()
    else signal.addEventListener('abort', () => pushing.resolve(), { once: true })
  }
  /** What already runs ends before what it runs on is closed. */
  const endParts = async () => {
    broken.abort()
    await Promise.allSettled(parts)
  }
  let store: Store | undefined
  let processor: Processor | undefined

  let resending: Resending | undefined
  /** What the log said before there was somebody to mend it. */
  let lost: Fault | undefined
  if (processing) {
    const openedStore = opening.use(await openStore(config, { ...settings, signal }, 'own'))
    health.check('store', () => openedStore.problem())
    store = openedStore.store
    const onFault = (fault: Fault) => {
      lost = fault
      if (resending) resending.lost(fault)
      else if (!roles.includes('collector')) health.report('log', describeFault(fault))
      log.error({ fault }, 'log and ledger do not meet: what is missing has to come again')
    }
    let eventLog: EventLog
    let rejects: RejectLog | undefined
    if (kafka) {
      const { kafkaEventLog } = await import('../runtime/log/kafka-event-log.ts')
      const { kafkaRejectLog } = await import('../runtime/log/kafka.ts')
      eventLog = opening.use(await kafkaEventLog(kafka, { onFault, talk: kafkaTalk(log), signal }))
      rejects = opening.use(await kafkaRejectLog(kafka, { signal }))
    } else {
      const { embeddedLog } = await import('../runtime/log/embedded.ts')
      if (!outbox) throw new Fault('INTERNAL', 'the embedded log is the outbox')
      eventLog = opening.use(embeddedLog(outbox, { onFault }))
    }
    opening.defer(endParts)
    processor = await runningProcessor(config, {
      store,
      eventLog,
      health,
      log,
      signal,
      ...(rejects && { rejects }),
    })
    parts.push(processor.done)
    const { watchCoverage } = await import('../processor/watch-coverage.ts')
    parts.push(watchCoverage({ store, signal, nowMs: settings.nowMs, say: line => log.warn(line) }))
    if (served && keys) {
      const { StoredKeys } = await import('../processor/keys.ts')
      const stored = opening.use(new StoredKeys(store))
      opening.use(keys.add(stored))
      const sink = opening.use(await openSink(config, settings, { signal, ...(outbox && { outbox }) }))
      const ingest = door && (await openIngest(settings, { door, sink, health, onHalt }))
      opening.use(
        await serveApi(config, settings, {
          served,
          store,
          stored,
          log,
          keys,
          ingest,
          health,
          eventLog,
          outbox,
        }),
      )
    }
  }
  opening.defer(endParts)
  if (roles.includes('sender') && outbox && kafka) parts.push(relayTo(kafka, outbox, health, log, signal))
  const askLedger = ledgerAtHand(config, settings, { store, signal })
  if (collecting && outbox && askLedger) {
    const { startRecalling } = await import('./recall.ts')
    const sources = sourceNames(opened).map(({ name }) => name)
    const recalling = await startRecalling({ outbox, sources, open: askLedger, log, signal })
    parts.push(recalling())
  }
  if (roles.includes('collector') && outbox) {
    if (askLedger) {
      resending = await openResending(config, settings, {
        askLedger,
        kafka,
        outbox,
        opened,
        health,
        log,
        signal,
      })
      if (lost) resending.lost(lost)
      parts.push(resending.run())
    }
    const { runCollector } = await import('../collector/collector.ts')
    parts.push(
      runCollector({
        sources: opened,
        outbox,
        health,
        log,
        signal,
        nowMs: settings.nowMs,
        suspect: suspectRule(config),
        ...(kafka && { relay: sending => relayTo(kafka, outbox, health, log, sending) }),
      }),
    )
  }
  if (door && outbox && served && !processing)
    opening.use(await servePush(settings, { served, health, door, outbox, onHalt }))
  for (const part of parts) part.catch(() => broken.abort())
  const done = Promise.allSettled(parts).then(results => {
    for (const result of results) if (result.status === 'rejected') throw result.reason
  })
  done.catch(() => undefined)
  const held = opening.move()
  return {
    done,
    opened,
    ...(outbox && { outbox }),
    ...(store && { store }),
    ...(processor && { processor }),
    [Symbol.asyncDispose]: async () => {
      broken.abort()
      await done.catch(() => undefined)
      await held.disposeAsync()
    },
  }
}

/** @throws Fault USAGE where a span is missing or empty. */
export function spanOf({ from, to }: { readonly from?: string; readonly to?: string }): {
  readonly startMs: number
  readonly endMs: number
} {
  if (from === undefined || to === undefined) throw new Fault('USAGE', '--from and --to are needed')
  const span = { startMs: parseInstant(from, '--from'), endMs: parseInstant(to, '--to') }
  if (span.startMs >= span.endMs) throw new Fault('USAGE', `--from ${from} is not before --to ${to}`)
  return span
}
