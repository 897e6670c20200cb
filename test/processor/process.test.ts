/** The processor's loop over an outbox and a real ClickHouse: nothing waits for a next batch, and a killed engine is waited for. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Catalogue } from '../../processor/catalogue.ts'
import { type Processor, startProcessor } from '../../processor/process.ts'
import { buildsOf, registerMeters } from '../../processor/rollups.ts'
import { Store } from '../../processor/store.ts'
import { quantities } from '../../processor/usage.ts'
import { embeddedLog } from '../../runtime/log/embedded.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { show } from '../../schemas/decimal.ts'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { dayMs } from '../../schemas/window.ts'
import { hourAfterJune1, june1Ms, readOf } from '../reads.ts'
import { startClickHouse, type TestClickHouse } from '../rig/clickhouse.ts'

const meter = defaultMeters.find(({ slug }) => slug === 'instance_hours') as Meter
let dir: string
let rig: TestClickHouse
let store: Store
let outbox: SqliteOutbox
let processor: Processor
let stop: AbortController
let said: string[]

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-process-'))
  rig = await startClickHouse()
  store = await Store.open(rig)
  outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: Date.now })
  said = []
  await start()
})
afterEach(async () => {
  stop.abort()
  await processor.done
  await store[Symbol.asyncDispose]()
  outbox[Symbol.dispose]()
  await rig.stop()
  rmSync(dir, { recursive: true, force: true })
})

async function start(): Promise<void> {
  stop = new AbortController()
  processor = await startProcessor({
    store,
    log: embeddedLog(outbox),
    meters: [meter],
    signal: stop.signal,
    say: line => void said.push(line),
  })
}

async function hours(): Promise<string> {
  const span = { startMs: june1Ms, endMs: june1Ms + dayMs }
  const rows = await quantities(store, { meter, span, zone: 'UTC', groupBy: [], where: {} })
  return rows.map(row => show(row.quantity)).join()
}

async function taken(count: number, limitMs: number): Promise<void> {
  const untilMs = performance.now() + limitMs
  while (processor.taken() < BigInt(count) && performance.now() < untilMs) await sleep(5)
  expect(processor.taken()).toBe(BigInt(count))
}

test('what comes at any moment is in every answer soon after, without waiting for more to come', async () => {
  let messages = 0
  for (let hour = 0; hour < 24; hour += 1) {
    outbox.append(readOf({ window: hourAfterJune1(hour), readings: 2 }))
    messages += 3
    // Now and then the next read comes while the one before is on its way into the ledger, or just when it arrives.
    if (hour % 3 !== 0) await taken(messages, 20_000)
    else await sleep(hour * 4)
  }
  await taken(messages, 20_000)
  expect(await hours()).toBe('48')
  await processor.fresh(AbortSignal.timeout(20_000))
  expect(await hours()).toBe('48')
  expect(outbox.depth().rows).toBe(0)
})

test('an engine that is killed is waited for, said so, and nothing is lost or doubled', async () => {
  for (let hour = 0; hour < 12; hour += 1) {
    outbox.append(readOf({ window: hourAfterJune1(hour), readings: 2 }))
    if (hour % 4 === 1) await rig.kill()
    await sleep(100)
  }
  await taken(36, 60_000)
  expect(await hours()).toBe('24')
  expect(said.join('\n')).toMatch(/STORE_UNREACHABLE[\s\S]*works again/)
  expect(processor.trouble()).toBeUndefined()
})

test('it begins with the meters made by API as well, and without those that are none any more', async () => {
  stop.abort()
  await processor.done
  const catalogue = new Catalogue(store, [meter], Date.now)
  for (const slug of ['made', 'removed']) await catalogue.create({ ...meter, slug })
  await catalogue.remove('removed')
  // As a copy of the store from in between would have it.
  await store.run('truncate table builds')
  await registerMeters(store, [{ ...meter, slug: 'removed' }])
  await start()
  const builds = await buildsOf(store)
  expect(builds.map(build => `${build.meter.slug} ${build.state}`).sort()).toEqual([
    'instance_hours ready',
    'made ready',
    'removed retired',
  ])
})
