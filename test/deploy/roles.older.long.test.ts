/** The whole `up` whose outbox, or whose ledger, is put back to an older copy, or lost: it says so, and heals by itself. */
import { cpSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { hourMs } from '../../schemas/window.ts'
import { type Configured, type Site, startSite, until } from './daemons.ts'

const endMs = Math.floor(Date.now() / hourMs) * hourMs
const hours = (before: number) => ({ startMs: endMs - before * hourMs, endMs })
let site: Site
let up: Configured
beforeAll(async () => {
  site = await startSite(hours(8))
  up = await site.configure('data', hours(3).startMs)
})
afterAll(async () => await site?.[Symbol.asyncDispose]())

/** Runs `up` until its ledger has what the console says of the last hours, and stops it. */
async function runOver(before: number): Promise<string> {
  const daemon = up.start('up')
  try {
    await up.comesToOracle(hours(before))
    await daemon.ready()
    expect(await daemon.stop(), daemon.stderr()).toBe(0)
    return daemon.stderr()
  } finally {
    await daemon.kill()
  }
}

function copy(of: string, name: string): { putBack(): void } {
  const kept = join(site.dir, name)
  const files = () => readdirSync(up.data).filter(file => file.startsWith(of))
  for (const file of files()) cpSync(join(up.data, file), join(kept, file), { recursive: true })
  return {
    putBack() {
      for (const file of files()) rmSync(join(up.data, file), { recursive: true })
      cpSync(kept, up.data, { recursive: true })
    },
  }
}

/** Where each row of the ledger stands. */
async function places(): Promise<readonly string[]> {
  const rows = await up.query<Record<string, string>>(
    `select id_hash, log, partition, offset from events final
     union all select id_hash, log, partition, offset from reads final`,
  )
  return rows.map(row => JSON.stringify(row))
}

/** Every row of then is where it was, no reading is there twice, and the audit finds no difference. */
async function expectKept(before: readonly string[]): Promise<void> {
  const now = new Set(await places())
  expect(
    before.filter(place => !now.has(place)),
    'rows of before are gone, or stand elsewhere',
  ).toEqual([])
  const [twice] = await up.query<{ rows: string; ids: string }>(
    'select count() as rows, uniqExact(id_hash) as ids from events final',
  )
  expect(twice?.rows).toBe(twice?.ids)
  const audit = await up.ask('audit')
  expect(audit.code, audit.stdout + audit.stderr).toBe(0)
}

test('an older copy of the outbox under a ledger that has more: said, read again, nothing lost, nothing twice', async () => {
  await runOver(3)
  const older = copy('outbox.db', 'older-outbox')
  up = await site.configure('data', hours(6).startMs)
  await runOver(6)
  const before = await places()
  older.putBack()
  // Of windows that the copy does not know to be read the console has changed its mind meanwhile.
  site.useMore(hours(5).startMs, 130)
  const said = await runOver(6)
  expect(said).toMatch(/LOG_TRUNCATED.*is an older copy of what the ledger has read/)
  await expectKept(before)
}, 240_000)

test('a lost outbox under a ledger that has more: said, read again, nothing lost, nothing twice', async () => {
  const before = await places()
  up.loseOutbox()
  site.useMore(hours(4).startMs, 70)
  const said = await runOver(6)
  expect(said).toMatch(/this outbox knows nothing of a source that the ledger has reads of/)
  await expectKept(before)
}, 240_000)

test('an older copy of the ledger under an outbox that keeps no more: LOG_TRUNCATED, red, and healed by reading', async () => {
  const older = copy('clickhouse', 'older-ledger')
  const before = await places()
  up = await site.configure('data', hours(8).startMs)
  await runOver(8)
  older.putBack()
  {
    // A week later.
    using outbox = SqliteOutbox.open({
      dir: up.data,
      access: 'drain',
      retentionMs: 0,
      nowMs: () => Date.now() + hourMs,
    })
    while (outbox.purge() > 0);
    expect(outbox.depth()).toMatchObject({ rows: 0, keptRows: 0 })
  }
  const daemon = up.start('up')
  try {
    let red = ''
    await until(
      async () => {
        const { status, text } = await daemon.get('/readyz')
        red = text
        return status === 503 && /"resend":"LOG_TRUNCATED the ledger lacks rows/.test(text)
      },
      () => `${red}\n${daemon.stderr()}`,
    )
    await up.comesToOracle(hours(8))
    await daemon.ready()
    expect(daemon.stderr()).toMatch(/the ledger lacks what was sent/)
    expect(await daemon.stop(), daemon.stderr()).toBe(0)
  } finally {
    await daemon.kill()
  }
  await expectKept(before)
}, 240_000)
