/** An outbox whose file is damaged: found out at open and while it runs, set aside, and what can be read brought over. */
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type OutboxOptions, SqliteOutbox } from '../../../runtime/log/outbox.ts'
import type { Fault } from '../../../schemas/fault.ts'
import { dayMs, minuteMs } from '../../../schemas/window.ts'
import { faultOf } from '../../faults.ts'
import { hourAfterJune1, june1Ms, readOf, testSource } from '../../reads.ts'

let dir: string
let faults: Fault[]
const opened: SqliteOutbox[] = []
const everything = { rowsMax: 1e6, bytesMax: 1e9 }
const pageBytes = 4096

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-damaged-'))
  faults = []
})
afterEach(() => {
  for (const outbox of opened.splice(0)) outbox[Symbol.dispose]()
  rmSync(dir, { recursive: true, force: true })
})

function open(options: Partial<OutboxOptions> = {}): SqliteOutbox {
  const nowMs = () => june1Ms + dayMs
  const onFault = (fault: Fault) => faults.push(fault)
  const outbox = SqliteOutbox.open({ dir, access: 'append', nowMs, onFault, ...options })
  opened.push(outbox)
  return outbox
}

const file = () => join(dir, 'outbox.db')
const pushed = (id: string) => ({ source: 'a', key: 'a', id, value: Buffer.from(JSON.stringify({ id })) })
const idsOf = (outbox: SqliteOutbox) =>
  outbox.pending(0, everything).map(row => JSON.parse(row.value.toString()).id as string)

/** An outbox with so many reads, of which the log has the first ten; closed. Returns the ids that wait. */
function filled(hours = 100): { readonly id: string; readonly waiting: readonly string[] } {
  const outbox = open()
  outbox.see(testSource, [{ scope: 'org/profile' }, { scope: 'gone' }], june1Ms - 9 * dayMs)
  outbox.end(testSource, 'gone', june1Ms)
  for (let hour = 0; hour < hours; hour += 1)
    outbox.append(readOf({ window: hourAfterJune1(hour), readings: 9, settled: hour < 50, labelBytes: 500 }))
  const taken = outbox.pending(0, { rowsMax: 100, bytesMax: 1e9 }).map(row => row.seq)
  outbox.release(0, taken, 0n)
  const { id } = outbox
  const waiting = idsOf(outbox)
  outbox[Symbol.dispose]()
  return { id, waiting }
}

/** The file and its journal as a kill would leave them now. */
function copied(): { readonly restore: () => void } {
  const names = [file(), `${file()}-wal`]
  const bytes = names.map(name => readFileSync(name))
  return {
    restore: () => {
      for (const [index, name] of names.entries()) writeFileSync(name, bytes[index]!)
    },
  }
}

function overwrite(fromByte: number, bytes: number): void {
  const opened = openSync(file(), 'r+')
  writeSync(opened, Buffer.alloc(bytes, 0xa5), 0, bytes, fromByte)
  closeSync(opened)
}

test('pages that are damaged cost the rows on them: the others are brought over, and all windows are due again', () => {
  const { id, waiting } = filled()
  const pages = statSync(file()).size / pageBytes
  for (const part of [0.3, 0.5, 0.7]) overwrite(Math.floor(pages * part) * pageBytes, 3 * pageBytes)

  const fresh = open()
  expect(fresh.id).not.toBe(id)
  expect(fresh.damagedFiles).toHaveLength(1)
  const kept = idsOf(fresh)
  expect(kept.length).toBeGreaterThan(waiting.length * 0.8)
  expect(kept.length).toBeLessThan(waiting.length)
  const held = new Set(kept)
  expect(kept).toEqual(waiting.filter(each => held.has(each)))

  expect(faults).toMatchObject([{ code: 'OUTBOX_DAMAGED', facts: { dir, rows: kept.length } }])
  expect(faults[0]?.facts.unreadable).toBeGreaterThan(0)
  expect(faults[0]?.message).toContain(fresh.damagedFiles[0])
  expect(fresh.depth().rows).toBe(kept.length)
  const memory = fresh.memory.scope(testSource, 'org/profile')
  expect(memory).toMatchObject({ expectedMs: june1Ms - 9 * dayMs, announced: false, settled: [] })
  expect(memory?.windows.size).toBe(0)
  expect(memory?.grids).toMatchObject([{ widthMinutes: 60 }])
  expect(fresh.memory.scope(testSource, 'gone')?.endedByHandMs).toBe(june1Ms)
  // The next ones go on as always, and a second start finds nothing to do.
  fresh.append(readOf({ window: hourAfterJune1(3), readatMs: june1Ms + 2 * dayMs }))
  fresh[Symbol.dispose]()
  const again = open()
  expect(again.id).toBe(fresh.id)
  expect(again.depth().rows).toBe(kept.length + 3)
  expect(faults).toHaveLength(1)
})

test('a file that is no database any more is set aside whole, and the fresh one knows since when it is to read', () => {
  filled()
  const { birthtimeMs } = statSync(file())
  writeFileSync(file(), 'x'.repeat(10_000))
  const fresh = open()
  expect(fresh.depth().rows).toBe(0)
  expect(faults).toMatchObject([{ code: 'OUTBOX_DAMAGED', facts: { rows: 0, scopes: null } }])
  expect(fresh.begunMs).toBe(Math.floor(birthtimeMs))
})

test('a file cut short is found out at open', () => {
  const { waiting } = filled()
  truncateSync(file(), Math.floor(statSync(file()).size / 2 / pageBytes) * pageBytes)
  const fresh = open()
  expect(faults).toMatchObject([{ code: 'OUTBOX_DAMAGED' }])
  const kept = idsOf(fresh)
  expect(kept.length).toBeGreaterThan(waiting.length / 4)
  expect(kept).toEqual(waiting.filter(id => kept.includes(id)))
})

test('rows that are in the journal only are brought over', () => {
  filled()
  const writer = open()
  writer.push([pushed('in the journal')])
  const crash = copied()
  writer[Symbol.dispose]()
  crash.restore()
  overwrite(Math.floor((statSync(file()).size / pageBytes) * 0.5) * pageBytes, pageBytes)
  const fresh = open()
  expect(faults).toMatchObject([{ code: 'OUTBOX_DAMAGED' }])
  expect(idsOf(fresh)).toContain('in the journal')
})

test('what breaks while it runs ends it with the same fault, and the next opening sets it aside', () => {
  // More than SQLite keeps of it in memory, from which it would go on for a while.
  filled(400)
  const running = open({ bytesMax: 1e9 })
  const pages = statSync(file()).size / pageBytes
  overwrite(4 * pageBytes, (pages - 4) * pageBytes)
  const found = faultOf(() => {
    idsOf(running)
    running.append(readOf({ window: hourAfterJune1(200) }))
    running.releaseThrough(900)
  })
  expect(found).toMatchObject({ code: 'OUTBOX_DAMAGED', fate: 'halt' })
  running[Symbol.dispose]()
  const fresh = open()
  expect(faults).toMatchObject([{ code: 'OUTBOX_DAMAGED' }])
  fresh.append(readOf({ window: hourAfterJune1(200) }))
  expect(fresh.depth().rows).toBeGreaterThanOrEqual(3)
})

test('who pushes into a file that is set aside is told, and nothing that was taken is lost', () => {
  filled()
  const pusher = open({ access: 'push' })
  pusher.push([pushed('before')])
  const pages = statSync(file()).size / pageBytes
  overwrite(Math.floor(pages * 0.5) * pageBytes, pageBytes)
  const fresh = open()
  expect(faultOf(() => pusher.push([pushed('late')]))).toMatchObject({ code: 'OUTBOX_DAMAGED' })
  const again = open({ access: 'push' })
  again.push([pushed('late')])
  expect(idsOf(fresh)).toEqual(expect.arrayContaining(['before', 'late']))
})

test('one that only drains or pushes sets nothing aside', () => {
  filled()
  writeFileSync(file(), 'x'.repeat(10_000))
  for (const access of ['push', 'drain'] as const)
    expect(faultOf(() => open({ access }))).toMatchObject({ code: 'OUTBOX_DAMAGED', fate: 'halt' })
  expect(readdirSync(dir).some(name => name.includes('damaged'))).toBe(false)
})

test('a set-aside that was cut short between two names is finished, and what was brought over is not again', () => {
  const writer = open()
  writer.append(readOf({ readings: 5 }))
  const crash = copied()
  writer[Symbol.dispose]()
  crash.restore()
  renameSync(file(), join(dir, 'outbox.db.damaged-2025-06-01T000000.000Z'))
  const fresh = open()
  expect(fresh.depth().rows).toBe(6)
  expect(existsSync(join(dir, 'outbox.db.damaged-2025-06-01T000000.000Z-wal'))).toBe(true)
  fresh[Symbol.dispose]()
  expect(open().depth().rows).toBe(6)
})

test('an hour keeps its width through a damaged file', () => {
  filled()
  const pages = statSync(file()).size / pageBytes
  overwrite(Math.floor(pages * 0.5) * pageBytes, pageBytes)
  const quarter = { startMs: june1Ms, endMs: june1Ms + 15 * minuteMs }
  expect(faultOf(() => open().append(readOf({ window: quarter })))).toMatchObject({ code: 'GRID_OVERLAP' })
})
