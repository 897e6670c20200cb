/** The whole process whose outbox is damaged under it: it sets the file aside, begins anew by itself, and says so until a person looks. */
import { mkdtempSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { stringify } from 'yaml'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { hourAfterJune1, readOf } from '../reads.ts'
import { start } from '../rig/meterline.ts'

test('an outbox that breaks while `up` reads it is begun anew in the same process, red until the file is taken away', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'meterline-damaged-'))
  const file = join(dir, 'outbox.db')
  // So much that the ledger takes it in several batches.
  {
    using outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: Date.now })
    for (let hour = 0; hour < 60; hour += 1)
      outbox.append(readOf({ window: hourAfterJune1(hour), readings: 999, labelBytes: 1500 }))
  }
  const config = join(dir, 'meterline.yaml')
  const port = 20_000 + (process.pid % 20_000)
  writeFileSync(
    config,
    stringify({
      data: dir,
      sources: [{ kind: 'rafay', name: 'prod', url: 'http://127.0.0.1:1', apiKey: '${env:KEY}' }],
      listen: { port, api: 'loopback' },
    }),
  )
  const get = (path: string) =>
    fetch(`http://127.0.0.1:${port}${path}`).then(
      answer => answer.text(),
      () => '',
    )
  const until = async (holds: () => Promise<boolean>) => {
    const deadlineMs = performance.now() + 120_000
    while (!(await holds())) {
      if (performance.now() > deadlineMs) throw new Error(`it did not come to hold: ${holds}\n${up.stderr()}`)
      await sleep(20)
    }
  }
  const up = start(['--config', config, 'up'], { env: { KEY: 'key', METERLINE_LOG_LEVEL: 'warn' } })
  try {
    await until(async () => /messages_total\{outcome="reading"\} [1-9]/.test(await get('/metrics')))
    truncateSync(file, Math.floor(statSync(file).size / 2 / 4096) * 4096)
    await until(async () => /the outbox is damaged: starting anew/.test(up.stderr()))
    await until(async () => /outbox file":"OUTBOX_DAMAGED outbox.db.damaged-/.test(await get('/readyz')))
    expect(up.stderr()).toMatch(/OUTBOX_DAMAGED.* [1-9]\d* rows that waited were brought over/)
    expect(up.process.exitCode).toBeNull()
    for (const name of readdirSync(dir)) if (name.startsWith('outbox.db.damaged-')) rmSync(join(dir, name))
    await until(async () => /outbox file":"ok/.test(await get('/readyz')))
    expect(up.process.exitCode).toBeNull()
  } finally {
    await up.stop()
    rmSync(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 })
  }
})
