import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type RelayOutbox, relay } from '../../collector/relay.ts'
import { type KafkaConfig, kafkaLanes } from '../../runtime/log/kafka.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { partitionOf } from '../../runtime/log/partition.ts'
import { Fault } from '../../schemas/fault.ts'
import { type KafkaRig, startKafka } from '../rig/kafka.ts'
import { asAdmin, freshConfig, readTopic } from '../rig/kafka-topics.ts'
import { hourAfterJune1, readOf } from '../runtime/log/reads.ts'

let rig: KafkaRig
const dirs: string[] = []
beforeAll(async () => {
  rig = await startKafka({ mayKill: true })
}, 300_000)
afterAll(async () => {
  await rig.stop()
  for (const dir of dirs) rmSync(dir, { recursive: true, force: true })
})

function newOutbox(config: KafkaConfig): { readonly dir: string; readonly outbox: SqliteOutbox } {
  const dir = mkdtempSync(join(tmpdir(), 'meterline-relay-'))
  dirs.push(dir)
  const partitions = {
    count: config.partitions,
    of: (key: string) => partitionOf(key, config.partitions),
  }
  return { dir, outbox: SqliteOutbox.open({ dir, access: 'append', partitions, nowMs: Date.now }) }
}

interface StoredRow {
  readonly seq: number
  readonly partition: number
  readonly id: string
  readonly key: string
  readonly value: Buffer
  readonly offset: bigint | null
}

function storedRows(dir: string): StoredRow[] {
  using db = new DatabaseSync(join(dir, 'outbox.db'), { readOnly: true })
  const rows = db.prepare('select seq, partition, id, key, value, log_offset from rows order by seq').all()
  return rows.map(row => ({
    seq: Number(row.seq),
    partition: Number(row.partition),
    id: String(row.id),
    key: String(row.key),
    value: Buffer.from(row.value as Uint8Array),
    offset: row.log_offset === null ? null : BigInt(row.log_offset as number),
  }))
}

/** Each row released is in the log where the outbox says it is; each row is there at all; first arrivals are in order. */
async function expectNothingLost(config: KafkaConfig, dir: string): Promise<{ duplicates: number }> {
  const rows = storedRows(dir)
  const found = await readTopic(rig, config.topic)
  const at = new Map(found.map(one => [`${one.partition}/${one.offset}`, one]))
  const firstOffset = new Map<string, bigint>()
  for (const one of found) {
    const id = (JSON.parse(String(one.value)) as { id: string }).id
    const place = `${one.partition} ${id}`
    if (!firstOffset.has(place) || one.offset < firstOffset.get(place)!) firstOffset.set(place, one.offset)
  }
  for (const row of rows) {
    expect(row.offset, `row ${row.seq} is released`).not.toBeNull()
    const held = at.get(`${row.partition}/${row.offset}`)
    expect(held?.key).toBe(row.key)
    expect(held?.value.equals(row.value), `row ${row.seq} is where the outbox says`).toBe(true)
  }
  for (const [partition, mine] of Map.groupBy(rows, row => row.partition)) {
    const firsts = mine.map(row => firstOffset.get(`${partition} ${row.id}`)!)
    expect(firsts).toEqual(firsts.toSorted((a, b) => (a < b ? -1 : 1)))
  }
  return { duplicates: found.length - rows.length }
}

async function drained(outbox: SqliteOutbox, limitMs = 30_000): Promise<void> {
  const deadlineMs = performance.now() + limitMs
  while (outbox.depth().rows > outbox.depth().quarantinedRows) {
    if (performance.now() > deadlineMs) throw new Error(`${outbox.depth().rows} rows still wait`)
    await sleep(25)
  }
}

test('rows of the outbox reach the log once each, in order, and are released with their offsets', async () => {
  const config = freshConfig(rig)
  const { dir, outbox } = newOutbox(config)
  using _ = outbox
  await using lanes = await kafkaLanes(config)
  const stop = new AbortController()
  for (let scope = 0; scope < 10; scope += 1) outbox.append(readOf({ scope: `s${scope}`, readings: 100 }))
  const relaying = relay({ outbox, lanes, signal: stop.signal })
  await drained(outbox)
  outbox.append(readOf({ scope: 'later', readings: 3 }))
  await drained(outbox)
  stop.abort()
  await relaying

  const { duplicates } = await expectNothingLost(config, dir)
  expect(duplicates).toBe(0)
  expect(storedRows(dir)).toHaveLength(10 * 101 + 4)
})

test('a row that the log does not take is set aside with its reason, and those behind it go on', async () => {
  const config = freshConfig(rig, { partitions: 1 })
  const settings = {
    'message.timestamp.type': 'LogAppendTime',
    'unclean.leader.election.enable': 'false',
    'retention.ms': String(config.retentionMs),
    'max.message.bytes': '20000',
  }
  const configEntries = Object.entries(settings).map(([name, value]) => ({ name, value }))
  await asAdmin(rig, admin =>
    admin.createTopics({
      waitForLeaders: true,
      topics: [{ topic: config.topic, numPartitions: 1, configEntries }],
    }),
  )
  const { dir, outbox } = newOutbox(config)
  using _ = outbox
  outbox.append(readOf({ scope: 'before', readings: 2 }))
  outbox.append(readOf({ scope: 'giant', readings: 1, labelBytes: 40_000 }))
  outbox.append(readOf({ scope: 'after', readings: 2 }))
  await using lanes = await kafkaLanes(config)
  const stop = new AbortController()
  const faults: Fault[] = []
  const relaying = relay({ outbox, lanes, signal: stop.signal, onFault: fault => void faults.push(fault) })
  await drained(outbox)
  stop.abort()
  await relaying

  expect(faults.map(fault => fault.code)).toEqual(['EVENT_TOO_LARGE'])
  expect(outbox.depth().quarantinedRows).toBe(1)
  expect(await readTopic(rig, config.topic)).toHaveLength(7)
  expect(storedRows(dir).filter(row => row.offset === null)).toHaveLength(1)
})

test('while the outbox cannot take note of an acknowledgement, nothing is sent a second time', async () => {
  const config = freshConfig(rig, { partitions: 1 })
  const { dir, outbox } = newOutbox(config)
  using _ = outbox
  outbox.append(readOf({ readings: 50 }))
  let refusals = 3
  const fullDisk: RelayOutbox = {
    pending: outbox.pending.bind(outbox),
    quarantine: outbox.quarantine.bind(outbox),
    appended: outbox.appended.bind(outbox),
    release(partition, seqs, baseOffset) {
      refusals -= 1
      if (refusals >= 0) throw new Fault('OUTBOX_FULL', 'the disk is full')
      outbox.release(partition, seqs, baseOffset)
    },
  }
  await using lanes = await kafkaLanes(config)
  const stop = new AbortController()
  const relaying = relay({ outbox: fullDisk, lanes, signal: stop.signal })
  await drained(outbox)
  stop.abort()
  await relaying
  expect(await expectNothingLost(config, dir)).toEqual({ duplicates: 0 })
})

test('an idle relay stops at once', async () => {
  const config = freshConfig(rig)
  const { outbox } = newOutbox(config)
  using _ = outbox
  await using lanes = await kafkaLanes(config)
  const stop = new AbortController()
  const relaying = relay({ outbox, lanes, signal: stop.signal })
  await sleep(200)
  const sinceMs = performance.now()
  stop.abort()
  await relaying
  expect(performance.now() - sinceMs).toBeLessThan(500)
})

test('a relay killed with -9 ten times, at any moment, loses nothing and releases only what the log has', async () => {
  const config = freshConfig(rig)
  const { dir, outbox } = newOutbox(config)
  using _ = outbox
  const random = seeded(20250601)
  const start = async (): Promise<ChildProcess> => {
    const child = spawn(
      process.execPath,
      [join(import.meta.dirname, 'relaying.ts'), dir, JSON.stringify(config)],
      { stdio: ['ignore', 'pipe', 'ignore'] },
    )
    await Promise.race([once(child.stdout, 'data'), once(child, 'exit')])
    return child
  }
  let scope = 0
  const append = (reads: number) => {
    for (let read = 0; read < reads; read += 1)
      outbox.append(
        readOf({ scope: `s${scope++ % 9}`, window: hourAfterJune1(Math.floor(scope / 9)), readings: 100 }),
      )
  }

  for (let kill = 0; kill < 10; kill += 1) {
    append(15)
    const child = await start()
    await sleep(random() * 120)
    if (random() < 0.5) append(3)
    await sleep(random() * 30)
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    for (const row of storedRows(dir)) if (row.offset !== null) expect(row.offset).toBeGreaterThanOrEqual(0n)
  }
  const last = await start()
  await drained(outbox)
  last.kill('SIGTERM')
  await once(last, 'exit')

  const { duplicates } = await expectNothingLost(config, dir)
  console.log(`relay: ${storedRows(dir).length} rows, ${duplicates} duplicates after 10 kills`)
}, 120_000)

// The last one: it kills the broker.
test('without a broker the relay ends with LOG_UNREACHABLE, and a new one sends what waited', async () => {
  const config = freshConfig(rig)
  const { dir, outbox } = newOutbox(config)
  using _ = outbox
  {
    await using lanes = await kafkaLanes(config)
    await rig.kill(1)
    outbox.append(readOf({ readings: 20 }))
    const sinceMs = performance.now()
    const relaying = relay({ outbox, lanes, signal: new AbortController().signal, unreachableAfterMs: 2_000 })
    await expect(relaying).rejects.toMatchObject({ code: 'LOG_UNREACHABLE', fate: 'retry' })
    expect(performance.now() - sinceMs).toBeGreaterThan(1_900)
    expect(performance.now() - sinceMs).toBeLessThan(6_000)
    expect(outbox.depth().rows).toBe(21)
  }
  await rig.restart(1)
  await using lanes = await kafkaLanes(config)
  const stop = new AbortController()
  const relaying = relay({ outbox, lanes, signal: stop.signal })
  await drained(outbox)
  stop.abort()
  await relaying
  await expectNothingLost(config, dir)
}, 120_000)

/** mulberry32 */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}
