/** The outbox read in place: the contract of a log, and what happens when outbox or ledger is an older copy. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type EmbeddedOptions, embeddedLog } from '../../../runtime/log/embedded.ts'
import type { LogBatch } from '../../../runtime/log/log.ts'
import { type OutboxOptions, SqliteOutbox } from '../../../runtime/log/outbox.ts'
import type { Fault } from '../../../schemas/fault.ts'
import { runLogContract } from '../../contract/log.ts'
import { hourAfterJune1, readOf } from '../../reads.ts'

const freshDir = () => mkdtempSync(join(tmpdir(), 'meterline-embedded-'))

runLogContract('the embedded outbox', async () => {
  const contractDir = freshDir()
  const outbox = SqliteOutbox.open({ dir: contractDir, access: 'append', nowMs: Date.now })
  let pushed = 0
  return {
    async append(messages) {
      outbox.push(
        messages.map(({ key, value }) => ({
          source: 'pushed',
          id: String(pushed++),
          key,
          value: Buffer.from(value),
        })),
      )
    },
    async open() {
      // Small batches, so that the suite sees more than one.
      return embeddedLog(outbox, { rowsMax: 16 })
    },
    async [Symbol.asyncDispose]() {
      outbox[Symbol.dispose]()
      rmSync(contractDir, { recursive: true })
    },
  }
})

let dir: string
const opened: SqliteOutbox[] = []
beforeEach(() => {
  dir = freshDir()
})
afterEach(() => {
  for (const outbox of opened.splice(0)) outbox[Symbol.dispose]()
  rmSync(dir, { recursive: true, force: true })
})

function open(options: Partial<OutboxOptions> = {}): SqliteOutbox {
  const outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: Date.now, ...options })
  opened.push(outbox)
  return outbox
}

/** Reads until so many messages have come; commits what `commit` says. */
async function take(
  outbox: SqliteOutbox,
  options: { resumeAt?: bigint; count: number; commit?: boolean } & EmbeddedOptions,
): Promise<{ offsets: number[]; batches: LogBatch[]; tookMs: number }> {
  const { resumeAt, count, commit = true, ...embedded } = options
  await using log = embeddedLog(outbox, embedded)
  const stop = new AbortController()
  const batches: LogBatch[] = []
  let left = count
  const startMs = performance.now()
  for await (const batch of log.batches({ resumeAt: async () => resumeAt, signal: stop.signal })) {
    batches.push(batch)
    if (commit) await log.commit(batch)
    left -= batch.messages.length
    if (left <= 0) stop.abort()
  }
  const offsets = batches.flatMap(batch => batch.messages.map(message => Number(message.offset)))
  return { offsets, batches, tookMs: performance.now() - startMs }
}

const upTo = (last: number, first = 1) =>
  Array.from({ length: last - first + 1 }, (_, index) => first + index)

test('what the ledger holds is released at the start, though the commit was lost in a crash', async () => {
  const outbox = open()
  outbox.append(readOf({ readings: 5 }))
  expect((await take(outbox, { count: 6, commit: false })).offsets).toEqual(upTo(6))
  expect(outbox.depth().rows).toBe(6)
  outbox.append(readOf({ window: hourAfterJune1(1), readings: 1 }))
  expect((await take(outbox, { count: 2, resumeAt: 7n, commit: false })).offsets).toEqual([7, 8])
  expect(outbox.depth()).toMatchObject({ rows: 2, keptRows: 6 })
})

test('a ledger put back to an older copy gets the kept rows once more', async () => {
  const outbox = open()
  outbox.append(readOf({ readings: 9 }))
  await take(outbox, { count: 10 })
  expect(outbox.depth()).toMatchObject({ rows: 0, keptRows: 10 })
  expect((await take(outbox, { count: 7, resumeAt: 4n })).offsets).toEqual(upTo(10, 4))
})

test('rows that are gone are named as LOG_TRUNCATED, and reading goes on behind them', async () => {
  let nowMs = Date.now()
  const outbox = open({ retentionMs: 1000, nowMs: () => nowMs })
  outbox.append(readOf({ readings: 4 }))
  await take(outbox, { count: 5 })
  nowMs += 2000
  outbox.purge()
  outbox.append(readOf({ window: hourAfterJune1(1), readings: 1 }))
  const faults: Fault[] = []
  const onFault = (fault: Fault) => faults.push(fault)
  expect((await take(outbox, { count: 2, resumeAt: 3n, onFault })).offsets).toEqual([6, 7])
  expect(faults).toMatchObject([{ code: 'LOG_TRUNCATED', facts: { wantedSeq: 3, firstSeq: 6 } }])
  expect((await take(outbox, { count: 1, resumeAt: 7n, onFault })).offsets).toEqual([7])
  expect(faults).toHaveLength(1)
})

test('a purged outbox whose ledger has all of it is not called truncated', async () => {
  let nowMs = Date.now()
  const outbox = open({ retentionMs: 1000, nowMs: () => nowMs })
  outbox.append(readOf({ readings: 1 }))
  await take(outbox, { count: 2 })
  nowMs += 2000
  outbox.purge()
  const faults: Fault[] = []
  setTimeout(() => outbox.append(readOf({ window: hourAfterJune1(1), readings: 0 })), 50)
  const { offsets } = await take(outbox, { count: 1, resumeAt: 3n, onFault: fault => faults.push(fault) })
  expect(offsets).toEqual([3])
  expect(faults).toEqual([])
})

/** The offsets of the first batch that an outbox has for a ledger which holds one log up to an offset, and no other. */
async function offeredTo(
  ledger: { log: string; resumeAt: bigint; reachedAt?: bigint },
  outbox: SqliteOutbox,
  options: EmbeddedOptions = {},
): Promise<number[]> {
  await using log = embeddedLog(outbox, options)
  const resumeAt = async () => (log.id === ledger.log ? ledger.resumeAt : undefined)
  const reachedAt = async () => (log.id === ledger.log ? ledger.reachedAt : undefined)
  for await (const batch of log.batches({ resumeAt, reachedAt, signal: AbortSignal.timeout(10_000) }))
    return batch.messages.map(message => Number(message.offset))
  return []
}

test('an outbox put back to an older copy is another log: its new rows are not taken for those the ledger had', async () => {
  const outbox = open()
  outbox.append(readOf({ readings: 2 }))
  const before = outbox.id
  // The ledger has read up to row 10 of the file that was lost.
  const faults: Fault[] = []
  const onFault = (fault: Fault) => faults.push(fault)
  expect(await offeredTo({ log: before, resumeAt: 11n }, outbox, { onFault })).toEqual([1, 2, 3])
  expect(faults).toMatchObject([{ code: 'LOG_TRUNCATED', facts: { log: outbox.id, before } }])
  expect(outbox.id).not.toBe(before)
  expect(outbox.depth().rows).toBe(3)
})

test('so it is where the older copy has grown past what the ledger had before anybody reads it', async () => {
  const outbox = open()
  outbox.append(readOf({ readings: 2 }))
  const before = outbox.id
  outbox[Symbol.dispose]()
  // Rows 4 to 6 of the ledger were of the file that was lost; these are others, with more of the same numbers.
  const copy = open()
  copy.append(readOf({ window: hourAfterJune1(7), readings: 5 }))
  expect(await offeredTo({ log: before, resumeAt: 7n }, copy)).toEqual(upTo(9))
  expect(copy.id).not.toBe(before)
})

test('and where the process died once more before anybody asked the ledger', async () => {
  const first = open()
  first.append(readOf({ readings: 2 }))
  expect((await take(first, { count: 3 })).offsets).toEqual([1, 2, 3])
  const before = first.id
  first[Symbol.dispose]()
  // The copy of then, of whose later self the ledger had 4 to 6; it was opened, appended to, and left.
  const copy = open()
  copy.append(readOf({ window: hourAfterJune1(7), readings: 5 }))
  copy[Symbol.dispose]()
  const again = open()
  expect(await offeredTo({ log: before, resumeAt: 7n }, again)).toEqual(upTo(9))
  expect(again.id).not.toBe(before)
})

test('and where the ledger had only begun to take what the lost file held', async () => {
  const first = open()
  first.append(readOf({ readings: 2 }))
  await take(first, { count: 3 })
  const before = first.id
  first[Symbol.dispose]()
  const copy = open()
  copy.append(readOf({ window: hourAfterJune1(7), readings: 5 }))
  // A crash leaves the same behind of rows that are here: they come again, under the same id.
  expect(await offeredTo({ log: before, resumeAt: 2n, reachedAt: 3n }, copy)).toEqual(upTo(9, 2))
  expect(copy.id).toBe(before)
  copy[Symbol.dispose]()
  const again = open()
  expect(await offeredTo({ log: before, resumeAt: 4n, reachedAt: 10n }, again)).toEqual(upTo(9))
  expect(again.id).not.toBe(before)
})

test('a ledger that goes by the old id of such an outbox is told to start again, and then gets all', async () => {
  const outbox = open()
  outbox.append(readOf({ readings: 2 }))
  await expect(take(outbox, { count: 3, resumeAt: 11n })).rejects.toMatchObject({ code: 'LOG_TRUNCATED' })
  expect((await take(outbox, { count: 3 })).offsets).toEqual([1, 2, 3])
})

test('batches are cut at rows and at bytes', async () => {
  const outbox = open()
  outbox.append(readOf({ readings: 9 }))
  const byRows = await take(outbox, { count: 10, rowsMax: 4, commit: false })
  expect(byRows.batches.map(batch => batch.messages.length)).toEqual([4, 4, 2])
  const bytesMax = 2 * byRows.batches[0]!.messages[0]!.value!.length
  const byBytes = await take(outbox, { count: 10, bytesMax, commit: false })
  expect(Math.max(...byBytes.batches.map(batch => batch.messages.length))).toBe(2)
})

test('what this process appends is there at once, without waiting for a poll', async () => {
  const outbox = open()
  setTimeout(() => outbox.append(readOf({ readings: 0 })), 100)
  expect((await take(outbox, { count: 1, pollMs: 30_000 })).tookMs).toBeLessThan(1000)
})

test('what is pushed from the side is seen within a poll', async () => {
  const outbox = open()
  const pusher = open({ access: 'push' })
  const event = { source: 'their/app', key: 'k', id: 'p-1', value: Buffer.from('{"id":"p-1"}') }
  setTimeout(() => pusher.push([event]), 100)
  const { batches, tookMs } = await take(outbox, { count: 1, pollMs: 50 })
  expect(batches[0]?.messages[0]?.value?.toString()).toBe('{"id":"p-1"}')
  expect(tookMs).toBeLessThan(1000)
})

test('what another process appends is seen, and its releases too', async () => {
  const drain = open({ access: 'drain' })
  const writer = spawn(process.execPath, [join(import.meta.dirname, 'appending.ts'), dir, 'other'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  try {
    const { offsets } = await take(drain, { count: 2000 })
    expect(offsets).toEqual(upTo(offsets.length))
  } finally {
    const ended = new Promise(resolve => writer.once('exit', resolve))
    writer.kill('SIGKILL')
    await ended
  }
  const db = new DatabaseSync(join(dir, 'outbox.db'), { readOnly: true })
  expect(
    db.prepare('select count(*) as held from rows where seq <= 2000 and log_offset is null').get(),
  ).toEqual({
    held: 0,
  })
  db.close()
})
