/** What the tests of the relay share: an outbox, the relay as a program of its own, and the proof that nothing was lost. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import type { KafkaConfig } from '../../runtime/log/kafka.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { partitionOf } from '../../runtime/log/partition.ts'
import type { KafkaRig } from '../rig/kafka.ts'
import { readTopic } from '../rig/kafka-topics.ts'

export function newOutbox(config: KafkaConfig): { readonly dir: string; readonly outbox: SqliteOutbox } {
  const dir = mkdtempSync(join(tmpdir(), 'meterline-relay-'))
  const partitions = {
    count: config.partitions,
    of: (key: string) => partitionOf(key, config.partitions),
  }
  return { dir, outbox: SqliteOutbox.open({ dir, access: 'append', partitions, nowMs: Date.now }) }
}

export interface StoredRow {
  readonly seq: number
  readonly partition: number
  readonly id: string
  readonly key: string
  readonly value: Buffer
  readonly offset: bigint | null
}

export function storedRows(dir: string): StoredRow[] {
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
export async function expectNothingLost(
  rig: KafkaRig,
  config: KafkaConfig,
  dir: string,
): Promise<{ duplicates: number }> {
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

export async function drained(outbox: SqliteOutbox, limitMs = 30_000): Promise<void> {
  const deadlineMs = performance.now() + limitMs
  while (outbox.depth().rows > outbox.depth().quarantinedRows) {
    if (performance.now() > deadlineMs) throw new Error(`${outbox.depth().rows} rows still wait`)
    await sleep(25)
  }
}

/** The relay in a process that can be killed; returns once its lanes are open. */
export async function startRelay(config: KafkaConfig, dir: string): Promise<ChildProcess> {
  const program = join(import.meta.dirname, 'relaying.ts')
  const child = spawn(process.execPath, [program, dir, JSON.stringify(config)], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  await Promise.race([once(child.stdout, 'data'), once(child, 'exit')])
  return child
}

export async function endOf(child: ChildProcess, signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
  child.kill(signal)
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
}

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}
