/** The embedded ClickHouse killed again and again at moments chosen by a seed: what was acknowledged stays. */
import { randomInt } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ClickHouseLogLevel, createClient } from '@clickhouse/client'
import { expect, test } from 'vitest'
import { openEmbedded } from '../../deploy/embedded/embedded.ts'

/** A small generator of its own, so that a seed names the same moments everywhere. */
function randomsFrom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

/**
 * Each attempt is a batch of its own, and the engine is asked for no deduplication: it notes the token of an insert before
 * the part that it names (MergeTreeSink), so a kill between the two drops what is sent again, and acknowledges it.
 */
test('twenty kills while two connections insert: what was acknowledged is there, and of the rest all or nothing', async () => {
  const rowsOfBatch = 300
  const seed = Number(process.env.METERLINE_TEST_SEED ?? randomInt(2 ** 31))
  const random = randomsFrom(seed)
  const dataDir = mkdtempSync(join(tmpdir(), 'meterline-embedded-'))
  const running = new AbortController()
  try {
    await using store = await openEmbedded({ dataDir, restart: true })
    const client = createClient({
      url: store.url,
      username: store.user,
      password: store.password,
      log: { level: ClickHouseLogLevel.OFF },
      clickhouse_settings: { output_format_json_quote_64bit_integers: 1 },
    })
    await client.command({
      query: `create table acked (lane UInt8, batch UInt32, n UInt32) engine = MergeTree order by (lane, batch, n)
        settings fsync_after_insert = 1, fsync_part_directory = 1`,
    })
    /** Of each batch in turn: was it acknowledged? */
    const insertAll = async (lane: number): Promise<readonly boolean[]> => {
      const batches: boolean[] = []
      while (!running.signal.aborted) {
        const values = Array.from({ length: rowsOfBatch }, (_, n) => [lane, batches.length, n])
        const done = await client.insert({ table: 'acked', values, format: 'JSONCompactEachRow' }).then(
          () => true,
          () => false,
        )
        batches.push(done)
        if (!done) await sleep(50)
      }
      return batches
    }
    const lanes = [insertAll(0), insertAll(1)]
    const pids = new Set<number>()
    for (let kill = 0; kill < 20; kill += 1) {
      const { pid } = store
      pids.add(pid)
      await sleep(200 + random() * 1500)
      process.kill(pid, 'SIGKILL')
      await expect.poll(() => store.pid, { timeout: 60_000, interval: 50 }).not.toBe(pid)
    }
    await sleep(500)
    running.abort()
    const batches = await Promise.all(lanes)
    expect(pids.size).toBe(20)
    const result = await client.query({
      query: 'select lane, batch, count() as c, uniqExact(n) as u from acked group by lane, batch',
      format: 'JSONEachRow',
    })
    const held = new Map(
      (await result.json<{ lane: number; batch: number; c: string; u: string }>()).map(row => [
        `${row.lane} ${row.batch}`,
        { rows: Number(row.c), unlike: Number(row.u) },
      ]),
    )
    const whole = { rows: rowsOfBatch, unlike: rowsOfBatch }
    for (const [lane, each] of batches.entries())
      for (const [batch, isAcked] of each.entries()) {
        const found = held.get(`${lane} ${batch}`)
        if (isAcked || found) expect(found, `seed ${seed}: lane ${lane} batch ${batch}`).toEqual(whole)
      }
    for (const each of batches) expect(each.filter(isAcked => isAcked).length).toBeGreaterThan(20)
    expect(batches.flat().filter(isAcked => !isAcked).length).toBeGreaterThan(5)
    await client.close()
  } finally {
    running.abort()
    rmSync(dataDir, { recursive: true, force: true })
  }
})

test('eight thousand small statements leave memory where it was', async () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'meterline-embedded-'))
  try {
    await using store = await openEmbedded({ dataDir })
    const client = createClient({ url: store.url, username: store.user, password: store.password })
    const settled = async (count: number): Promise<number> => {
      for (let i = 0; i < count; i += 4) {
        await Promise.all(
          Array.from({ length: 4 }, async (_, j) => {
            const result = await client.query({
              query: 'select {n:UInt32} as n',
              query_params: { n: i + j },
              format: 'JSONEachRow',
              clickhouse_settings: { max_threads: 1 },
            })
            expect(await result.json()).toEqual([{ n: i + j }])
          }),
        )
      }
      const { readFile } = await import('node:fs/promises')
      return Number(/VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${store.pid}/status`, 'utf8'))?.[1]) / 1024
    }
    const beforeMb = await settled(1_000)
    const afterMb = await settled(8_000)
    expect(afterMb - beforeMb).toBeLessThan(100)
    await client.close()
  } finally {
    rmSync(dataDir, { recursive: true, force: true })
  }
})
