/** The disk under the embedded ClickHouse really full: the engine is killed on it, comes back by itself once it is freed, and nothing is lost. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { openEmbedded } from '../../deploy/embedded/embedded.ts'
import { startProcessor } from '../../processor/process.ts'
import { Store } from '../../processor/store.ts'
import { quantities } from '../../processor/usage.ts'
import { embeddedLog } from '../../runtime/log/embedded.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { show } from '../../schemas/decimal.ts'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { dayMs } from '../../schemas/window.ts'
import { hourAfterJune1, june1Ms, readOf } from '../reads.ts'
import { mountSmallDisk } from '../rig/small-disk.ts'

const meter = defaultMeters.find(({ slug }) => slug === 'instance_hours') as Meter
const patienceMs = 60_000

test('a disk that fills up, also under a crash: red in words, and all of it comes in when it is freed', async () => {
  await using stack = new AsyncDisposableStack()
  const disk = stack.use(mountSmallDisk())
  const dir = stack.adopt(mkdtempSync(join(tmpdir(), 'meterline-full-')), path =>
    rmSync(path, { recursive: true }),
  )
  const embedded = stack.use(await openEmbedded({ dataDir: join(disk.dir, 'data'), restart: true }))
  const { url, user, password } = embedded
  const store = stack.use(await Store.open({ url, user, password, database: 'full' }))
  const outbox = stack.use(SqliteOutbox.open({ dir, access: 'append', nowMs: Date.now }))
  const stop = new AbortController()
  const processor = await startProcessor({
    store,
    log: embeddedLog(outbox),
    meters: [meter],
    signal: stop.signal,
    say: () => undefined,
    limits: { watchEveryMs: 200 },
  })
  stack.defer(async () => {
    stop.abort()
    await processor.done
  })
  const hours = async () => {
    const span = { startMs: june1Ms, endMs: june1Ms + dayMs }
    const rows = await quantities(store, { meter, span, zone: 'UTC', groupBy: [], where: {} })
    return rows.map(row => show(row.quantity)).join()
  }
  const all = async (count: number) => {
    await expect.poll(() => hours().catch(String), { timeout: patienceMs, interval: 200 }).toBe(String(count))
    await expect.poll(() => processor.trouble(), { timeout: patienceMs }).toBeUndefined()
    await processor.fresh(AbortSignal.timeout(patienceMs))
    expect(await hours()).toBe(String(count))
  }
  for (let hour = 0; hour < 4; hour += 1) outbox.append(readOf({ window: hourAfterJune1(hour) }))
  await all(8)

  disk.fill()
  for (let hour = 4; hour < 8; hour += 1) outbox.append(readOf({ window: hourAfterJune1(hour) }))
  await expect
    .poll(() => processor.trouble(), { timeout: patienceMs })
    .toMatch(/^STORE_FULL .*not enough space/)
  // Answers still come from what is there.
  expect(await hours()).toBe('8')
  disk.free()
  await all(16)

  disk.fill()
  for (let hour = 8; hour < 12; hour += 1) outbox.append(readOf({ window: hourAfterJune1(hour) }))
  process.kill(embedded.pid, 'SIGKILL')
  await expect
    .poll(() => embedded.problem(), { timeout: patienceMs })
    .toMatch(/ENOSPC|No space left|not enough space/)
  await sleep(5_000)
  expect(processor.trouble()).toMatch(/^STORE_UNREACHABLE /)
  disk.free()
  await all(24)
  expect(embedded.problem()).toBeUndefined()
})
