/** The embedded ClickHouse killed again and again at moments chosen by a seed: what was acknowledged stays, once. */
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

test('twenty kills while two connections insert: every acknowledged row is there, none twice', async () => {
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
      query: `create table acked (lane UInt8, n UInt64) engine = MergeTree order by (lane, n)
        settings fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000`,
    })
    const insertAll = async (lane: number): Promise<number> => {
      let acked = 0
      while (!running.signal.aborted) {
        const values = Array.from({ length: 300 }, (_, i) => [lane, acked * 300 + i])
        const done = await client
          .insert({
            table: 'acked',
            values,
            format: 'JSONCompactEachRow',
            clickhouse_settings: { insert_deduplication_token: `${lane}-${acked}` },
          })
          .then(
            () => true,
            () => false,
          )
        if (done) acked += 1
        else await sleep(50)
      }
      return acked
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
    const acked = await Promise.all(lanes)
    expect(pids.size).toBe(20)
    const result = await client.query({
      query:
        'select lane, count() as c, uniqExact(n) as u, max(n) as m from acked group by lane order by lane',
      format: 'JSONEachRow',
    })
    const expected = acked.map((batches, lane) => ({
      lane,
      c: String(batches * 300),
      u: String(batches * 300),
      m: String(batches * 300 - 1),
    }))
    expect(await result.json(), `seed ${seed}`).toEqual(expected)
    for (const batches of acked) expect(batches).toBeGreaterThan(20)
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
