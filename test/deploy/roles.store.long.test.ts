/** A collector of its own with a `store.url`, beside a `process` on Kafka: it asks the ledger what it may not know. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readMemory } from '../../runtime/log/outbox.ts'
import { hourMs, showInstant } from '../../schemas/window.ts'
import { type KafkaRig, startKafka } from '../rig/kafka.ts'
import { freshConfig } from '../rig/kafka-topics.ts'
import { askedOf, type Configured, type Daemon, type Site, source, startSite, until } from './daemons.ts'

const endMs = Math.floor(Date.now() / hourMs) * hourMs
const span = { startMs: endMs - 6 * hourMs, endMs }
const endedMs = endMs - 2 * hourMs
const [ended, other] = ['bbbbbb2/h100', 'aaaaaa1/h100']
let site: Site
let rig: KafkaRig
let ledger: Configured
let collector: Configured
let processor: Daemon
beforeAll(async () => {
  ;[site, rig] = await Promise.all([startSite(span), startKafka()])
  const { retentionMs: _, ...kafka } = freshConfig(rig)
  ledger = await site.configure('ledger', span.startMs, { kafka })
  processor = ledger.start('process')
  await processor.ready()
  // The store of the one is a server to the other, which has a data directory of its own.
  const served = JSON.parse(readFileSync(join(ledger.data, 'store.json'), 'utf8'))
  const { url, user, password } = served as Readonly<Record<string, string>>
  const store = { url, user, password: '${env:STORE_PASSWORD}' }
  collector = await site.configure('collector', span.startMs, { kafka, store }, { STORE_PASSWORD: password! })
}, 300_000)
afterAll(async () => {
  await processor?.kill()
  await rig?.stop()
  await site?.[Symbol.asyncDispose]()
})

/** Runs a collector, and stops it when the work with it is done. */
async function collecting(work: (daemon: Daemon) => Promise<void>): Promise<string> {
  const daemon = collector.start('collect')
  try {
    await work(daemon)
    expect(await daemon.stop(), daemon.stderr()).toBe(0)
    return daemon.stderr()
  } finally {
    await daemon.kill()
  }
}

const count = async (daemon: Daemon, metric: string) =>
  Number(new RegExp(`^${metric} (\\d+)`, 'm').exec((await daemon.get('/metrics')).text)?.[1] ?? 0)

test('what the ledger lost is sent again by the collector, and what it cannot send is read again; it hears that a scope was ended', async () => {
  await collecting(async () => await ledger.comesToOracle(span))
  const lost = (hour: number) => `start = '${showInstant(span.startMs + hour * hourMs).slice(0, 19)}'`
  // Of one hour all, of another one the readings of a scope alone, whose mark is there and counts.
  for (const table of ['events', 'reads']) await ledger.query(`delete from ${table} where ${lost(1)}`)
  await ledger.query(`delete from events where ${lost(2)} and scope = '${other}'`)
  site.double.calls.length = 0

  const said = await collecting(async daemon => {
    await daemon.ready()
    // Nobody tells this collector: its outbox is not where the decision is made.
    const decided = await ledger.ask(
      ...['coverage', 'end', '--source', 'site', '--scope', ended, '--from', showInstant(endedMs)],
      ...['--reason', 'the tenant is gone', '--author', 'test'],
    )
    expect(decided.stderr).toMatch(/ended: .*\n.*is not in this --data: unless it has a `store.url`/)
    await daemon.says(/the ledger lacks what was sent/)
    expect(await count(daemon, 'meterline_resent_rows_total')).toBeGreaterThan(0)
    expect(await count(daemon, 'meterline_reopened_windows_total')).toBe(1)
    await ledger.comesToOracle(span)
    await daemon.says(/a scope was ended by hand: it is not asked for/)
  })
  expect(askedOf(site.double.calls, other), 'read again').toEqual([span.startMs + 2 * hourMs])
  expect(said).not.toMatch(/cannot be asked|could not be compared/)
  using outbox = readMemory(collector.data)
  expect(outbox?.memory.scope(source, ended)?.endedByHandMs).toBe(endedMs)
}, 240_000)

test('a fresh outbox asks the ledger before anything else: an ended scope is left alone from its end on', async () => {
  collector.loseOutbox()
  site.double.calls.length = 0
  const said = await collecting(async daemon => {
    await until(
      async () =>
        new Set(askedOf(site.double.calls, other)).size === 6 &&
        new Set(askedOf(site.double.calls, ended)).size >= 4,
      daemon.stderr,
    )
    await ledger.comesToOracle(span)
  })
  expect(new Set(askedOf(site.double.calls, ended)), 'all before its end, and nothing from there on').toEqual(
    new Set([0, 1, 2, 3].map(hour => span.startMs + hour * hourMs)),
  )
  expect(said).toMatch(/knows nothing of a source that the ledger has reads of/)
}, 240_000)

test('a ledger that is away keeps no collector from reading', async () => {
  collector.loseOutbox()
  await processor.kill()
  site.double.calls.length = 0
  const said = await collecting(async daemon => {
    await until(async () => new Set(askedOf(site.double.calls, other)).size === 6, daemon.stderr)
    await daemon.ready()
  })
  expect(said).toMatch(/the ledger cannot be asked which scopes were ended/)
}, 120_000)
