/**
 * What people decide of coverage: `meterline coverage confirm | waive | end`. A decision is an event in the log, among the
 * reads of its scope; the command waits until the ledger has it, and prints the coverage that it leads to.
 */
import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type CoverageRow, coverage, heldBack, scopeLives } from '../processor/coverage.ts'
import type { Store } from '../processor/store.ts'
import type { LoadedConfig } from '../runtime/config.ts'
import { Health } from '../runtime/health.ts'
import { SqliteOutbox } from '../runtime/log/outbox.ts'
import { partitionOf } from '../runtime/log/partition.ts'
import { openLog } from '../runtime/logs.ts'
import { misfits } from '../schemas/check.ts'
import { DecisionEvent, decisionType, partitionKey } from '../schemas/event.ts'
import { Fault } from '../schemas/fault.ts'
import {
  dayMs,
  hourMs,
  parseInstant,
  secondMs,
  showInstant,
  showWindow,
  type Window,
} from '../schemas/window.ts'
import { printCoverage } from './commands.ts'
import { arrived } from './once.ts'
import { configured, kafkaConfig, openStore, type Settings, spanOf, startRoles } from './roles.ts'

export interface DecideSettings extends Settings {
  readonly source?: string
  readonly scope?: string
  readonly from?: string
  readonly to?: string
  readonly reason: string
  /** Default: the user of the operating system. */
  readonly author?: string
  /** How long the ledger may take to have it. */
  readonly arrivesWithinMs?: number
}

const arrivesWithinMsDefault = 60 * secondMs

/** Takes the newest read that is held back of each window as it is. Without a scope of all scopes of the source. */
export async function confirmReads(settings: DecideSettings): Promise<number> {
  const span = spanOf(settings)
  const name = needed(settings.source, '--source')
  return await withLedger(settings, async ledger => {
    const source = await sourceNamed(ledger.store, name, settings.scope)
    const chosen = { span, source, ...(settings.scope !== undefined && { scope: settings.scope }) }
    const held = await heldBack(ledger.store, chosen)
    if (held.length === 0) settings.stderr(`no read of ${source} is held back in ${showWindow(span)}`)
    const decided = held.map(({ scope, window, readat }) =>
      decisionOf({ source, scope, window, data: { action: 'confirm', readat } }, settings),
    )
    await ledger.take(decided)
    for (const { scope, window, readat, before, after } of held)
      settings.stderr(
        `confirmed: source=${source} scope=${scope} ${showWindow(window)} readat=${readat} ${changes(before, after)}`,
      )
    return printCoverage(await coverage(ledger.store, { ...chosen, nowMs: settings.nowMs() }), settings)
  })
}

/**
 * Lets invoices close over what is missing of the span, or of one subject in it. Without a scope of each scope of the
 * source in which something is.
 */
export async function waiveGaps(settings: DecideSettings & { readonly subject?: string }): Promise<number> {
  const span = spanOf(settings)
  const { subject } = settings
  const name = needed(settings.source, '--source')
  return await withLedger(settings, async ledger => {
    const source = await sourceNamed(ledger.store, name, settings.scope)
    const chosen = { span, source, ...(settings.scope !== undefined && { scope: settings.scope }) }
    const rows = () => coverage(ledger.store, { ...chosen, nowMs: settings.nowMs() })
    const scopes =
      settings.scope !== undefined
        ? [settings.scope]
        : Array.from(
            new Set((await rows()).filter(row => isWaivable(row, subject)).map(({ scope }) => scope)),
          )
    if (scopes.length === 0) settings.stderr(`nothing is missing of ${source} in ${showWindow(span)}`)
    const data = { action: 'waive', ...(subject !== undefined && { subject }) } as const
    await ledger.take(scopes.map(scope => decisionOf({ source, scope, window: span, data }, settings)))
    for (const scope of scopes)
      settings.stderr(
        `waived: source=${source} scope=${scope}${subject === undefined ? '' : ` subject=${subject}`} ${showWindow(span)}`,
      )
    return printCoverage(await rows(), settings)
  })
}

/** Nothing is expected of the scope from then on, whatever its provider lists. */
export async function endScope(settings: DecideSettings): Promise<number> {
  const scope = needed(settings.scope, '--scope')
  const fromMs = parseInstant(needed(settings.from, '--from'), '--from')
  const name = needed(settings.source, '--source')
  return await withLedger(settings, async ledger => {
    const source = await sourceNamed(ledger.store, name, settings.scope)
    const window = { startMs: fromMs, endMs: fromMs + hourMs }
    await ledger.take([decisionOf({ source, scope, window, data: { action: 'end' } }, settings)])
    settings.stderr(`ended: source=${source} scope=${scope} from=${showInstant(fromMs)}`)
    if (!ledger.tellCollector(outbox => outbox.end(source, scope, fromMs)))
      settings.stderr(
        'the outbox of the collector is not in this --data: unless it has a `store.url`, run this there too, else it goes on asking for the scope',
      )
    const nowMs = settings.nowMs()
    const span = { startMs: Math.min(fromMs, nowMs) - 7 * dayMs, endMs: nowMs }
    return printCoverage(await coverage(ledger.store, { span, source, scope, nowMs }), settings)
  })
}

function needed(value: string | undefined, option: string): string {
  if (value === undefined) throw new Fault('USAGE', `${option} is needed`)
  return value
}

function isWaivable(row: CoverageRow, subject: string | undefined): boolean {
  return (
    row.state !== 'settled' && row.state !== 'waived' && (subject === undefined || row.subject === subject)
  )
}

/** `gpu_seconds 28800 → 3600` of each measure that changes. */
function changes(before: Readonly<Record<string, string>>, after: Readonly<Record<string, string>>): string {
  return Object.keys(before)
    .filter(name => before[name] !== after[name])
    .sort()
    .map(name => `${name} ${short(before[name])} → ${short(after[name])}`)
    .join(', ')
}

function short(decimal = '0'): string {
  return decimal.includes('.') ? decimal.replace(/\.?0+$/, '') : decimal
}

/**
 * A decision as an event: on record with its author and reason, in the order of the scope's reads.
 * @throws Fault USAGE where it does not fit, as the ledger would find
 */
export function decisionOf(
  of: {
    readonly source: string
    readonly scope: string
    readonly window: Window
    readonly data: Pick<DecisionEvent['data'], 'action' | 'readat' | 'subject'>
  },
  by: Pick<DecideSettings, 'author' | 'reason' | 'nowMs'>,
): DecisionEvent {
  const { source, scope, data } = of
  // The ledger keeps whole seconds.
  const startMs = Math.floor(of.window.startMs / secondMs) * secondMs
  const endMs = Math.ceil(of.window.endMs / secondMs) * secondMs
  const event = {
    specversion: '1.0',
    id: randomUUID(),
    source,
    type: decisionType,
    time: new Date(by.nowMs()).toISOString(),
    scope,
    partitionkey: partitionKey(source, scope),
    datacontenttype: 'application/json',
    data: {
      ...data,
      window: { start: showInstant(startMs), end: showInstant(endMs) },
      author: by.author ?? userInfo().username,
      reason: by.reason,
    },
  } as const
  const [misfit] = misfits(DecisionEvent, event)
  if (misfit) throw new Fault('USAGE', `${misfit.path.split('/').at(-1)} ${misfit.message}`)
  return event
}

/**
 * The whole name of a source that the ledger knows.
 * @throws Fault USAGE where it knows no such source, or not this scope of it: of what it does not expect nothing is missing.
 */
async function sourceNamed(store: Store, name: string, scope?: string): Promise<string> {
  const lives = await scopeLives(store, { source: name })
  const known = Array.from(new Set(lives.map(({ source }) => source)))
  const source = known.includes(name) ? name : known[0]
  if (source === undefined || (known.length > 1 && source !== name))
    throw new Fault(
      'USAGE',
      source === undefined
        ? `--source ${name}: the ledger knows no such source`
        : `--source ${name} is one of ${known.join(', ')}: write the whole name`,
    )
  if (scope !== undefined && !lives.some(life => life.source === source && life.scope === scope))
    throw new Fault('USAGE', `--scope ${scope}: the ledger knows no such scope of ${source}`)
  return source
}

// -- on the way to the ledger

interface OpenLedger {
  readonly store: Store
  /** Resolves when the ledger has them all. */
  take(events: readonly DecisionEvent[]): Promise<void>
  /** Acts on the outbox of the data directory; false where there is none. */
  tellCollector(act: (outbox: SqliteOutbox) => void): boolean
}

/**
 * With Kafka decisions are sent there. With the outbox read in place they are stored in it, beside the daemon that
 * serves it; where none does, this process is the one that reads it.
 */
async function withLedger(
  settings: DecideSettings,
  act: (ledger: OpenLedger) => Promise<number>,
): Promise<number> {
  const config = await configured(settings, 'meter')
  if (config.kafka) return await besideOthers(config, settings, act)
  await using scope = new AsyncDisposableStack()
  let running: Awaited<ReturnType<typeof startRoles>>
  try {
    const log = openLog({ level: 'warn', role: 'coverage' })
    running = scope.use(await startRoles(config, settings, ['processor'], { log, health: new Health() }))
  } catch (error) {
    if (!(error instanceof Fault) || error.code !== 'OUTBOX_LOCKED') throw error
    return await besideOthers(config, settings, act)
  }
  const { store, outbox } = running
  if (!store || !outbox)
    throw new Fault('INTERNAL', 'a processor has a store, and the embedded log an outbox')
  return await act({
    store,
    take: async events => {
      outbox.push(events.map(pushedOf))
      await arrived(running, { config, signal: settings.signal })
      await inLedger(store, events, settings)
    },
    tellCollector: tell => {
      tell(outbox)
      return true
    },
  })
}

/** Other processes bring what is decided into the ledger: this one hands it over and waits. */
async function besideOthers(
  config: LoadedConfig,
  settings: DecideSettings,
  act: (ledger: OpenLedger) => Promise<number>,
): Promise<number> {
  const { kafka } = config
  await using opened = await openStore(config, settings)
  const openOutbox = () =>
    SqliteOutbox.open({
      dir: config.data,
      access: 'push',
      ...(kafka && {
        partitions: { count: kafka.partitions, of: key => partitionOf(key, kafka.partitions) },
      }),
      nowMs: settings.nowMs,
    })
  return await act({
    store: opened.store,
    take: async events => {
      if (kafka) await sendToKafka(config, settings, events)
      else {
        using outbox = openOutbox()
        outbox.push(events.map(pushedOf))
      }
      await inLedger(opened.store, events, settings)
    },
    tellCollector: tell => {
      if (kafka && !existsSync(join(config.data, 'outbox.db'))) return false
      using outbox = openOutbox()
      tell(outbox)
      return true
    },
  })
}

/** As the outbox takes it. */
export function pushedOf(event: DecisionEvent) {
  const { id, source, partitionkey } = event
  return { id, source, key: partitionkey, value: encode(event) }
}

function encode(event: DecisionEvent): Buffer {
  return Buffer.from(JSON.stringify(event))
}

async function sendToKafka(
  config: LoadedConfig,
  settings: DecideSettings,
  events: readonly DecisionEvent[],
): Promise<void> {
  const kafka = kafkaConfig(config, settings)
  if (!kafka || events.length === 0) return
  const { kafkaLanes, structuredHeaders } = await import('../runtime/log/kafka.ts')
  await using lanes = await kafkaLanes(kafka, { signal: settings.signal })
  const byPartition = Map.groupBy(events, ({ partitionkey }) => partitionOf(partitionkey, kafka.partitions))
  for (const [partition, some] of byPartition) {
    let rest = some.map(event => ({
      key: event.partitionkey,
      value: encode(event),
      headers: structuredHeaders,
    }))
    while (rest.length > 0) rest = rest.slice((await lanes.send(partition, rest)).rows)
  }
}

/** @throws Fault STORE_UNREACHABLE where the ledger does not have them in time: then they are in the log, and it will. */
async function inLedger(
  store: Store,
  events: readonly DecisionEvent[],
  { signal, arrivesWithinMs = arrivesWithinMsDefault }: DecideSettings,
): Promise<void> {
  const untilMs = performance.now() + arrivesWithinMs
  let missing = new Set(events.map(({ id }) => id))
  while (missing.size > 0) {
    const rows = await store.rows<{ id: string }>(
      'select id from decisions where id in ({ids:Array(String)})',
      { ids: Array.from(missing).slice(0, 500) },
    )
    missing = missing.difference(new Set(rows.map(({ id }) => id)))
    if (missing.size === 0) return
    if (signal.aborted || performance.now() > untilMs)
      throw new Fault(
        signal.aborted ? 'ABORTED' : 'STORE_UNREACHABLE',
        `the log has ${missing.size} decisions that the ledger does not have yet: they count as soon as a processor has read them`,
        { waiting: missing.size },
      )
    await sleep(rows.length > 0 ? 0 : 100)
  }
}
