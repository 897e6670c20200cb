/** The outbox file: whole reads through crashes, bounds, releases, quarantine and its memory of windows. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type OutboxOptions, type PushedEvent, SqliteOutbox } from '../../../runtime/log/outbox.ts'
import { idHash } from '../../../schemas/event.ts'
import type { Fault } from '../../../schemas/fault.ts'
import { dayMs, hourMs, minuteMs } from '../../../schemas/window.ts'
import { faultOf } from '../../faults.ts'
import { hourAfterJune1, june1Ms, readOf, testSource } from '../../reads.ts'

let dir: string
let clockMs: number
const opened: SqliteOutbox[] = []
const everything = { rowsMax: 1e6, bytesMax: 1e9 }

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-outbox-'))
  clockMs = june1Ms
})
afterEach(() => {
  for (const outbox of opened.splice(0)) outbox[Symbol.dispose]()
  rmSync(dir, { recursive: true, force: true })
})

function open(options: Partial<OutboxOptions> = {}): SqliteOutbox {
  const outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: () => clockMs, ...options })
  opened.push(outbox)
  return outbox
}

/** Counts as the rows have them, against the outbox's own running totals. */
function expectTotalsToAgree(outbox: SqliteOutbox): void {
  const db = new DatabaseSync(join(dir, 'outbox.db'), { readOnly: true })
  const counted = db
    .prepare(`select count(*) filter (where log_offset is null) as rows,
      coalesce(sum(bytes) filter (where log_offset is null), 0) as bytes,
      count(*) filter (where quarantined is not null) as quarantinedRows,
      count(*) filter (where log_offset is not null) as keptRows,
      coalesce(sum(bytes) filter (where log_offset is not null), 0) as keptBytes from rows`)
    .get()
  db.close()
  const { oldestAgeMs: _, ...depth } = outbox.depth()
  expect(depth).toEqual({ ...counted })
}

const pushed = (id: string): PushedEvent => ({
  source: 'their/app',
  key: 'their/app',
  id,
  value: Buffer.from(JSON.stringify({ id, of: 'them' })),
})

function release(outbox: SqliteOutbox, baseOffset = 0n, partition = 0): number {
  const rows = outbox.pending(partition, everything)
  outbox.release(
    partition,
    rows.map(row => row.seq),
    baseOffset,
  )
  return rows.length
}

function see(outbox: SqliteOutbox, ...scopes: string[]): void {
  outbox.see(
    testSource,
    scopes.map(scope => ({ scope })),
    clockMs,
  )
}

describe('rows', () => {
  test('a read comes out as it went in: its events in order and its mark last', () => {
    const outbox = open()
    const read = readOf({ readings: 3 })
    outbox.append(read)
    const rows = outbox.pending(0, everything)
    expect(rows.map(row => row.value.toString())).toEqual(
      [...read.readings, read.mark].map(event => event.value.toString()),
    )
    expect(new Set(rows.map(row => row.key))).toEqual(new Set([`${testSource} org/profile`]))
    expect(outbox.depth()).toMatchObject({ rows: 4, keptRows: 0 })
  })

  test('what was stored is there after the process ended without closing', () => {
    const first = open()
    const { id } = first
    first.append(readOf({}))
    first[Symbol.dispose]()
    const again = open()
    expect(again.id).toBe(id)
    expect(again.pending(0, everything)).toHaveLength(3)
  })

  test('a batch is cut at rows and at bytes, but never below one row', () => {
    const outbox = open()
    outbox.append(readOf({ readings: 9 }))
    expect(outbox.pending(0, { rowsMax: 4, bytesMax: 1e9 }).map(row => row.seq)).toEqual([1, 2, 3, 4])
    const bytes = outbox.pending(0, everything)[0]!.value.length
    expect(outbox.pending(0, { rowsMax: 100, bytesMax: bytes * 3 })).toHaveLength(3)
    expect(outbox.pending(0, { rowsMax: 100, bytesMax: 1 })).toHaveLength(1)
  })

  test('each key goes to the partition that the function deals it to, and is released there alone', () => {
    const outbox = open({ partitions: { count: 2, of: key => (key.endsWith('b') ? 1 : 0) } })
    outbox.append(readOf({ scope: 'a' }), readOf({ scope: 'b', readings: 5 }))
    expect(outbox.pending(0, everything)).toHaveLength(3)
    expect(outbox.pending(1, everything)).toHaveLength(6)
    const foreign = outbox.pending(1, everything).map(row => row.seq)
    outbox.release(0, foreign, 0n)
    expect(outbox.pending(1, everything)).toHaveLength(6)
    release(outbox, 100n, 1)
    expect(outbox.pending(1, everything)).toHaveLength(0)
    expect(outbox.pending(0, everything)).toHaveLength(3)
    expectTotalsToAgree(outbox)
  })

  test('offsets are kept beyond what a float can hold', () => {
    const outbox = open()
    outbox.append(readOf({ readings: 1 }))
    release(outbox, 9_007_199_254_740_993n)
    const db = new DatabaseSync(join(dir, 'outbox.db'), { readOnly: true, readBigInts: true })
    expect(
      db
        .prepare('select log_offset from rows order by seq')
        .all()
        .map(row => row.log_offset),
    ).toEqual([9_007_199_254_740_993n, 9_007_199_254_740_994n])
    db.close()
  })

  test('releasing twice counts once', () => {
    const outbox = open()
    outbox.append(readOf({}))
    const seqs = outbox.pending(0, everything).map(row => row.seq)
    outbox.release(0, seqs, 0n)
    outbox.release(0, seqs, 50n)
    expect(outbox.depth()).toMatchObject({ rows: 0, bytes: 0, keptRows: 3 })
    expectTotalsToAgree(outbox)
  })

  test('a row in quarantine lets those behind it go on and is never dropped', () => {
    const outbox = open({ retentionMs: hourMs })
    outbox.append(readOf({}))
    outbox.quarantine(1, 'too large')
    outbox.quarantine(1, 'too large')
    expect(release(outbox)).toBe(2)
    clockMs += 2 * hourMs
    outbox.purge()
    expect(outbox.depth()).toMatchObject({ rows: 1, quarantinedRows: 1, keptRows: 0, oldestAgeMs: 0 })
    expectTotalsToAgree(outbox)
  })

  test('one read that does not fit the grid leaves nothing of those stored with it', () => {
    const outbox = open()
    const quarter = { startMs: june1Ms, endMs: june1Ms + 15 * minuteMs }
    expect(faultOf(() => outbox.append(readOf({}), readOf({ window: quarter }))).code).toBe('GRID_OVERLAP')
    expect(outbox.depth()).toMatchObject({ rows: 0, bytes: 0 })
    expect(outbox.memory.nextReadatMs(testSource, 'org/profile', hourAfterJune1(0), 0)).toBe(0)
  })
})

describe('what the log was given', () => {
  const june = { startMs: june1Ms, endMs: june1Ms + 30 * dayMs }
  const sumOf = (source: string, ...events: readonly { readonly id: string }[]) =>
    BigInt.asUintN(
      64,
      events.reduce((sum, { id }) => sum + idHash(source, id), 0n),
    )

  test('a window has the count and the sum of the id hashes of its released rows', () => {
    const outbox = open()
    const first = readOf({ readings: 400 })
    const again = readOf({ readings: 3, readatMs: first.identity.readatMs + 1 })
    const other = readOf({ window: hourAfterJune1(1), readings: 0 })
    outbox.append(first, again, readOf({ scope: 'other', readings: 1 }), other)
    release(outbox)
    const waiting = readOf({ window: hourAfterJune1(2) })
    outbox.append(waiting)
    const window = { source: testSource, scope: 'org/profile' }
    const sums = outbox.sums(june)
    expect(sums).toEqual([
      {
        ...window,
        startMs: june1Ms,
        events: 405,
        sum: sumOf(testSource, ...first.readings, first.mark, ...again.readings, again.mark),
      },
      { ...window, startMs: june1Ms + hourMs, events: 1, sum: sumOf(testSource, other.mark) },
      { source: testSource, scope: 'other', startMs: june1Ms, events: 2, sum: expect.any(BigInt) },
    ])
    // Beyond what a signed 64-bit sum holds: SQLite's own would have thrown.
    expect(sums[0]!.events * Number(2n ** 62n)).toBeGreaterThan(2 ** 64)
    expect(outbox.sums({ startMs: june1Ms + hourMs, endMs: june.endMs })).toEqual([sums[1]])
  })

  test('pushed events have a sum for each source and hour of their time, whatever its offset', () => {
    const outbox = open()
    const times = ['2025-06-01T00:10:00Z', '2025-06-01T02:30:00.123+02:00', '2025-06-01T01:00:00Z', undefined]
    const events = times.map((time, index) => ({
      ...pushed(`p-${index}`),
      value: Buffer.from(JSON.stringify({ id: `p-${index}`, time })),
    }))
    outbox.push(events)
    release(outbox)
    const sum = (...at: readonly number[]) => sumOf('their/app', ...at.map(index => events[index]!))
    expect(outbox.sums(june)).toEqual([
      { source: 'their/app', events: 1, sum: sum(3) },
      { source: 'their/app', startMs: june1Ms, events: 2, sum: sum(0, 1) },
      { source: 'their/app', startMs: june1Ms + hourMs, events: 1, sum: sum(2) },
    ])
  })

  test('released rows are listed by the offsets they got, and put back to waiting to be sent again', () => {
    const outbox = open({ partitions: { count: 2, of: key => (key.endsWith('b') ? 1 : 0) } })
    const read = readOf({ scope: 'a', readings: 4 })
    outbox.append(read, readOf({ scope: 'b' }))
    const offset = 9_007_199_254_740_993n
    release(outbox, offset)
    release(outbox, 0n, 1)
    const found = outbox.releasedRows(0, offset + 1n, 3)
    expect(found.map(row => [row.offset, row.id, row.idHash])).toEqual(
      read.readings
        .slice(1, 4)
        .map(({ id }, index) => [offset + BigInt(index + 1), id, idHash(testSource, id)]),
    )
    expect(outbox.releasedRows(0, offset, 100)).toHaveLength(5)
    expect(outbox.releasedRows(1, 0n, 100)).toHaveLength(3)

    expect(outbox.resend(found.slice(1).map(row => row.seq))).toBe(2)
    expect(outbox.resend([...found.slice(1).map(row => row.seq), 999])).toBe(0)
    expect(outbox.pending(0, everything).map(row => JSON.parse(row.value.toString()).id)).toEqual(
      found.slice(1).map(row => row.id),
    )
    expectTotalsToAgree(outbox)
    release(outbox, offset + 100n)
    expect(outbox.releasedRows(0, offset + 5n, 100).map(row => row.id)).toEqual(
      found.slice(1).map(row => row.id),
    )
    expectTotalsToAgree(outbox)
  })
})

describe('storing together', () => {
  test('reads of the same moment share a transaction, in their order', async () => {
    const outbox = open()
    const stored = [0, 1, 2].map(hour =>
      outbox.appendSoon(readOf({ window: hourAfterJune1(hour), readings: 1 })),
    )
    expect(outbox.depth().rows).toBe(0)
    await Promise.all(stored)
    const times = outbox.pending(0, everything).map(row => JSON.parse(row.value.toString()).time)
    expect(times).toEqual([0, 0, 1, 1, 2, 2].map(hour => `2025-06-01T0${hour}:00:00Z`))
    expectTotalsToAgree(outbox)
  })

  test('one that cannot be stored fails alone', async () => {
    const outbox = open({ bytesMax: 20_000 })
    const quarter = { startMs: june1Ms, endMs: june1Ms + 15 * minuteMs }
    const results = await Promise.allSettled([
      outbox.appendSoon(readOf({ readings: 1 })),
      outbox.appendSoon(readOf({ readings: 500, window: hourAfterJune1(1) })),
      outbox.appendSoon(readOf({ window: quarter })),
      outbox.appendSoon(readOf({ readings: 1, window: hourAfterJune1(2) })),
    ])
    expect(results).toMatchObject([
      { status: 'fulfilled' },
      { status: 'rejected', reason: { code: 'OUTBOX_FULL' } },
      { status: 'rejected', reason: { code: 'GRID_OVERLAP' } },
      { status: 'fulfilled' },
    ])
    expect(outbox.depth().rows).toBe(4)
    expectTotalsToAgree(outbox)
  })

  test('what waits is stored when the outbox is closed, or when it has become large', async () => {
    const first = open()
    const large = first.appendSoon(readOf({ readings: 1100, labelBytes: 4000 }))
    expect(first.depth().rows).toBe(1101)
    await large
    const last = first.appendSoon(readOf({ window: hourAfterJune1(1), readings: 1 }))
    first[Symbol.dispose]()
    await last
    expect(open().depth().rows).toBe(1103)
  })
})

describe('bounds', () => {
  test('released rows stay for the retention, then go; rows that wait never do', () => {
    const outbox = open({ retentionMs: dayMs })
    outbox.append(readOf({ scope: 'a' }))
    release(outbox)
    outbox.append(readOf({ scope: 'b' }))
    clockMs += dayMs
    expect(outbox.purge()).toBe(0)
    clockMs += 1
    expect(outbox.purge()).toBe(3)
    clockMs += 100 * dayMs
    expect(outbox.purge()).toBe(0)
    expect(outbox.depth()).toMatchObject({ rows: 3, keptRows: 0, oldestAgeMs: 101 * dayMs + 1 })
    expectTotalsToAgree(outbox)
  })

  test('full is refused in words, and heals when the log takes rows', () => {
    const outbox = open({ bytesMax: 20_000 })
    let hours = 0
    let fault: Fault | undefined
    while (!fault && hours < 100) {
      try {
        outbox.append(readOf({ window: hourAfterJune1(hours), readings: 5 }))
        hours += 1
      } catch (error) {
        fault = error as Fault
      }
    }
    expect(fault).toMatchObject({ code: 'OUTBOX_FULL', fate: 'retry' })
    expect(outbox.depth().bytes).toBeLessThanOrEqual(20_000)
    expect(outbox.pending(0, everything)).toHaveLength(hours * 6)
    // The window that did not fit is not remembered as read.
    expect(outbox.memory.window(testSource, 'org/profile', hourAfterJune1(hours).startMs)).toBeUndefined()
    release(outbox)
    outbox.append(readOf({ window: hourAfterJune1(hours), readings: 5 }))
    expectTotalsToAgree(outbox)
  })

  test('released rows give way to new ones, oldest first, so the file stays within its bound', () => {
    const outbox = open({ bytesMax: 60_000 })
    for (let hours = 0; hours < 50; hours += 1) {
      outbox.append(readOf({ window: hourAfterJune1(hours), readings: 5 }))
      release(outbox, BigInt(hours * 6))
      const { bytes, keptBytes } = outbox.depth()
      expect(bytes + keptBytes).toBeLessThanOrEqual(60_000)
    }
    const { firstSeq, nextSeq } = outbox.bounds()
    expect(nextSeq).toBe(301)
    expect(firstSeq).toBeGreaterThan(200)
    expect(outbox.rowsFrom(0, everything).at(0)?.seq).toBe(firstSeq)
    expect(outbox.depth().keptBytes).toBeGreaterThan(50_000)
    expectTotalsToAgree(outbox)
  })

  test('a read larger than the whole bound says so', () => {
    const outbox = open({ bytesMax: 2000 })
    expect(faultOf(() => outbox.append(readOf({ readings: 50 }))).message).toMatch(/one read of \d+ bytes/)
  })

  test('a full disk is the same fault, stores nothing, and heals', () => {
    const tight = open({ fileBytesMax: 200_000 })
    tight.append(readOf({ scope: 'before' }))
    expect(faultOf(() => tight.append(readOf({ scope: 'big', readings: 500 })))).toMatchObject({
      code: 'OUTBOX_FULL',
      message: 'the disk is full: database or disk is full',
    })
    expect(tight.depth().rows).toBe(3)
    expectTotalsToAgree(tight)
    tight[Symbol.dispose]()
    const roomy = open()
    roomy.append(readOf({ scope: 'big', readings: 500 }))
    expect(roomy.depth().rows).toBe(504)
    expectTotalsToAgree(roomy)
  })
})

describe('one writer', () => {
  test('a second writer is refused with the process and directory that has it', () => {
    open()
    const fault = faultOf(() => open())
    expect(fault).toMatchObject({ code: 'OUTBOX_LOCKED', fate: 'halt' })
    expect(fault.message).toContain(String(process.pid))
    expect(fault.message).toContain(dir)
  })

  test('one that drains may come beside the writer, and each sees what the other did', () => {
    const writer = open()
    const drain = open({ access: 'drain' })
    expect(drain.id).toBe(writer.id)
    writer.append(readOf({}))
    expect(drain.pending(0, everything)).toHaveLength(3)
    drain.releaseThrough(3)
    expect(writer.depth()).toMatchObject({ rows: 0, keptRows: 3 })
    expectTotalsToAgree(writer)
  })

  test('several processes push beside the writer, whose reader sees every row in its order, and end scopes', {
    timeout: 60_000,
  }, async () => {
    const program = join(import.meta.dirname, 'pushing.ts')
    const pushers = ['a', 'b', 'c'].map(name =>
      spawn(process.execPath, [program, dir, name, '40'], { stdio: ['ignore', 'ignore', 'inherit'] }),
    )
    const ends = pushers.map(pusher => new Promise(resolve => pusher.once('exit', resolve)))
    // They began before any outbox was there.
    await sleep(150)
    const writer = open()
    const ending = Promise.all(ends)
    let done = false
    ending.finally(() => {
      done = true
    })
    let nextSeq = 1
    const seen: string[] = []
    for (let hours = 0; !done || writer.bounds().nextSeq > nextSeq; hours += 1) {
      writer.append(readOf({ window: hourAfterJune1(hours), readings: 0 }))
      await writer.appended({ signal: AbortSignal.timeout(1000), timeoutMs: 10 })
      for (const row of writer.rowsFrom(nextSeq, everything)) {
        expect(row.seq).toBe(nextSeq)
        nextSeq += 1
        const event = JSON.parse(row.value.toString())
        if (event.of) seen.push(event.id)
      }
    }
    expect(await ending).toEqual([0, 0, 0])
    for (const name of ['a', 'b', 'c'])
      expect(seen.filter(id => id.startsWith(name))).toEqual(
        Array.from({ length: 80 }, (_, index) => `${name}-${index}`),
      )
    expectTotalsToAgree(writer)
    expect(
      writer.memory.scopes(testSource).map(({ scope, endedByHandMs }) => [scope, endedByHandMs]),
    ).toEqual(['a', 'b', 'c'].map(scope => [scope, june1Ms]))
  })

  test('a pusher does not lock the writer out, deals keys as it does, and stores no reads', () => {
    const pusher = open({ access: 'push', partitions: { count: 2, of: () => 1 } })
    const writer = open({ partitions: { count: 2, of: () => 1 } })
    pusher.push([pushed('p-1')])
    expect(writer.pending(1, everything)).toHaveLength(1)
    expect(() => pusher.append(readOf({}))).toThrow(/the one process that has the lock/)
    const other = open({ access: 'push', partitions: { count: 3, of: () => 2 } })
    expect(faultOf(() => other.push([pushed('p-2')]))).toMatchObject({ code: 'LOG_UNSAFE' })
    expect(writer.depth().rows).toBe(1)
    // The first to come says how keys are dealt, pusher or not.
    writer[Symbol.dispose]()
    expect(faultOf(() => open({ partitions: { count: 3, of: () => 2 } })).code).toBe('LOG_UNSAFE')
  })

  test('another count of partitions is refused while rows wait, and taken once they are gone', () => {
    const two = { count: 2, of: () => 1 }
    const before = open({ partitions: two })
    before.append(readOf({}))
    before[Symbol.dispose]()
    const fault = faultOf(() => open({ partitions: { count: 3, of: () => 2 } }))
    expect(fault.code).toBe('LOG_UNSAFE')
    expect(fault.message).toMatch(/3 rows wait .* 2 partitions; the log has 3/)
    const same = open({ partitions: two })
    release(same, 0n, 1)
    same[Symbol.dispose]()
    open({ partitions: { count: 3, of: () => 2 } }).append(readOf({ scope: 'other' }))
  })

  test('an outbox of the version before is brought up to date with all it holds', () => {
    const before = open()
    before.append(readOf({}))
    see(before, 'a')
    release(before)
    before[Symbol.dispose]()
    const old = new DatabaseSync(join(dir, 'outbox.db'))
    old.exec(
      `drop index rows_sent; drop table requests; drop table requested; drop table source_state;
      pragma user_version = 1;
      alter table scopes drop column ended_by_hand_ms; alter table scopes drop column readat_floor_ms;
      alter table settled drop column attempted_ms; alter table windows drop column totals;
      alter table windows drop column low_readat_ms; alter table windows drop column low_totals`,
    )
    old.close()
    const after = open()
    expect(after.releasedRows(0, 0n, 10)).toHaveLength(3)
    expect(after.memory.scope(testSource, 'a')).toMatchObject({ expectedMs: june1Ms })
  })

  test('a file that is no outbox is refused, not overwritten', () => {
    const other = new DatabaseSync(join(dir, 'outbox.db'))
    other.exec('pragma user_version = 99')
    other.close()
    expect(faultOf(() => open())).toMatchObject({ code: 'OUTBOX_UNREADABLE' })
    // The lock is free again after the refusal.
    const version = new DatabaseSync(join(dir, 'outbox.db'))
    version.exec('pragma user_version = 0')
    version.close()
    open()
  })
})

describe('kill -9', () => {
  test('a read is whole or absent, totals hold, and the lock is free at once', {
    timeout: 60_000,
  }, async () => {
    let wholeReads = 0
    for (let round = 0; round < 8; round += 1) {
      const program = join(import.meta.dirname, 'appending.ts')
      const writer = spawn(process.execPath, [program, dir, String(round)], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      const ended = new Promise(resolve => writer.once('exit', resolve))
      // It writes a dot after each read.
      for await (const _ of writer.stdout) break
      const fault = faultOf(() => open())
      expect(fault).toMatchObject({ code: 'OUTBOX_LOCKED', facts: { pid: String(writer.pid), dir } })
      // Somewhere within the next reads, each of which takes some milliseconds.
      await sleep(round * 7)
      writer.kill('SIGKILL')
      await ended
      const outbox = open()
      const reads = new Map<string, { readings: number; claimed: number | undefined }>()
      for (const row of outbox.rowsFrom(0, everything)) {
        const event = JSON.parse(row.value.toString())
        const name = `${event.scope} ${event.time} ${event.readat}`
        const read = reads.get(name) ?? { readings: 0, claimed: undefined }
        reads.set(name, read)
        if (event.type === 'io.meterline.read.v1') read.claimed = event.data.events
        else read.readings += 1
      }
      expect(reads.size).toBeGreaterThan(wholeReads)
      wholeReads = reads.size
      for (const read of reads.values()) expect(read).toEqual({ readings: 200, claimed: 200 })
      for (const name of reads.keys()) {
        const [scope = '', time = '', readat = ''] = name.split(' ')
        const startMs = Date.parse(time)
        const window = { startMs, endMs: startMs + hourMs }
        expect(outbox.memory.nextReadatMs(testSource, scope, window, 0)).toBe(Date.parse(readat) + 1)
      }
      expectTotalsToAgree(outbox)
      outbox[Symbol.dispose]()
    }
  })
})

describe('memory', () => {
  const scopeOf = (outbox: SqliteOutbox, scope = 'org/profile') => outbox.memory.scope(testSource, scope)

  test('a scope once seen stays, listed or not, and is expected from the earliest that was said', () => {
    const outbox = open()
    see(outbox, 'a', 'b')
    clockMs += dayMs
    outbox.see(testSource, [{ scope: 'b', sinceMs: june1Ms - dayMs }], clockMs)
    expect(outbox.memory.scopes(testSource)).toMatchObject([
      { scope: 'a', expectedMs: june1Ms },
      { scope: 'b', expectedMs: june1Ms, sinceMs: june1Ms - dayMs },
    ])
    outbox.see(testSource, [{ scope: 'b' }, { scope: 'a' }], june1Ms - hourMs)
    expect(outbox.memory.scopes(testSource)).toMatchObject([
      { scope: 'a', expectedMs: june1Ms - hourMs },
      { scope: 'b', expectedMs: june1Ms - hourMs, sinceMs: june1Ms - dayMs },
    ])
    expect(outbox.memory.scopes('meterline/rafay/other')).toEqual([])
  })

  test('a person ends a scope: that stays through listings, apart from what the provider says', () => {
    const outbox = open()
    see(outbox, 'a')
    outbox.end(testSource, 'a', june1Ms + dayMs)
    see(outbox, 'a')
    outbox.see(testSource, [{ scope: 'a', endedMs: june1Ms + 9 * dayMs }], clockMs)
    expect(scopeOf(outbox, 'a')).toMatchObject({
      endedMs: june1Ms + 9 * dayMs,
      endedByHandMs: june1Ms + dayMs,
    })
    see(outbox, 'a')
    expect(scopeOf(outbox, 'a')).toMatchObject({ endedByHandMs: june1Ms + dayMs })
    expect(scopeOf(outbox, 'a')?.endedMs).toBeUndefined()
    outbox.end(testSource, 'a', june1Ms + 2 * dayMs)
    outbox.end(testSource, 'never listed', june1Ms)
    outbox[Symbol.dispose]()
    const again = open()
    expect(scopeOf(again, 'a')?.endedByHandMs).toBe(june1Ms + 2 * dayMs)
    expect(scopeOf(again, 'never listed')?.endedByHandMs).toBe(june1Ms)
  })

  test('what changes about a scope is to be announced again, what does not is not', () => {
    const outbox = open()
    see(outbox, 'a')
    outbox.append({ ...readOf({ scope: '*', readings: 0 }), announces: ['a'] })
    expect(scopeOf(outbox, 'a')?.announced).toBe(true)
    see(outbox, 'a')
    expect(scopeOf(outbox, 'a')?.announced).toBe(true)
    outbox.see(testSource, [{ scope: 'a', endedMs: clockMs }], clockMs)
    expect(scopeOf(outbox, 'a')).toMatchObject({ announced: false, endedMs: clockMs })
  })

  test('failures are counted until a read is complete, which is kept through failures after it', () => {
    const outbox = open()
    see(outbox, 'org/profile')
    const window = hourAfterJune1(0)
    const remembered = () => outbox.memory.window(testSource, 'org/profile', window.startMs)
    const read = (readatMs: number, failed: boolean) => outbox.append(readOf({ window, readatMs, failed }))
    read(1000, true)
    read(2000, true)
    expect(remembered()).toMatchObject({ failures: 2, attemptedMs: 2000, readatMs: 2000 })
    expect(remembered()?.complete).toBeUndefined()
    read(3000, false)
    expect(remembered()).toMatchObject({
      failures: 0,
      complete: { atMs: 3000, events: 2, contentReadatMs: 3000 },
    })
    read(4000, true)
    expect(remembered()).toMatchObject({ failures: 1, attemptedMs: 4000, complete: { atMs: 3000 } })
    expect(scopeOf(outbox)?.windows.size).toBe(1)
  })

  test('readat never goes back, whatever the clock does, settled or not', () => {
    const outbox = open()
    const window = hourAfterJune1(5)
    const next = (nowMs: number) => outbox.memory.nextReadatMs(testSource, 'org/profile', window, nowMs)
    expect(next(7)).toBe(7)
    outbox.append(readOf({ window, readatMs: 10_000 }))
    expect(next(9000)).toBe(10_001)
    expect(next(10_000)).toBe(10_001)
    expect(next(10_002)).toBe(10_002)
    outbox.append(readOf({ window, readatMs: 20_000, settled: true }))
    expect(next(9000)).toBe(20_001)
    outbox.append(readOf({ window, readatMs: 20_001, failed: true }))
    expect(next(9000)).toBe(20_002)
    expect(() => outbox.append(readOf({ window, readatMs: 20_001 }))).toThrow(/never goes back/)
  })

  test('an hour keeps the width it was first read in; the next one may have another', () => {
    const outbox = open()
    see(outbox, 'org/profile')
    const quarter = (hour: number, index: number) => {
      const startMs = hourAfterJune1(hour).startMs + index * 15 * minuteMs
      return { startMs, endMs: startMs + 15 * minuteMs }
    }
    outbox.append(readOf({ window: quarter(0, 1) }), readOf({ window: quarter(0, 3) }))
    expect(faultOf(() => outbox.append(readOf({ window: hourAfterJune1(0) }))).code).toBe('GRID_OVERLAP')
    outbox.append(readOf({ window: hourAfterJune1(1) }), readOf({ window: hourAfterJune1(2) }))
    // Another scope has a grid of its own.
    outbox.append(readOf({ window: hourAfterJune1(0), scope: 'other' }))
    expect(scopeOf(outbox)?.grids).toEqual([
      { ...hourAfterJune1(0), widthMinutes: 15 },
      { startMs: hourAfterJune1(1).startMs, endMs: hourAfterJune1(2).endMs, widthMinutes: 60 },
    ])
  })

  test('settled windows merge into spans, in whatever order they settle', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 30 }), { maxLength: 40 }), hours => {
        const scratch = mkdtempSync(join(tmpdir(), 'meterline-outbox-'))
        try {
          using outbox = SqliteOutbox.open({ dir: scratch, access: 'append', nowMs: () => clockMs })
          see(outbox, 'org/profile')
          for (const [index, hour] of hours.entries()) {
            const readatMs = june1Ms + dayMs * 10 + index
            outbox.append(readOf({ window: hourAfterJune1(hour), readatMs, readings: 0, settled: true }))
          }
          const { settled, windows } = scopeOf(outbox)!
          expect(windows.size).toBe(0)
          const covered = settled.flatMap(span =>
            Array.from(
              { length: (span.endMs - span.startMs) / hourMs },
              (_, hour) => span.startMs + hour * hourMs,
            ),
          )
          expect(covered).toEqual([...new Set(hours)].sort((a, b) => a - b).map(h => june1Ms + h * hourMs))
          for (const [index, span] of settled.slice(1).entries())
            expect(span.startMs).toBeGreaterThan(settled[index]!.endMs)
        } finally {
          rmSync(scratch, { recursive: true })
        }
      }),
      { numRuns: 15 },
    )
  })

  test('what a clock ahead has settled can be let go of, and readat still does not go back', () => {
    const outbox = open()
    see(outbox, 'org/profile')
    const aheadMs = june1Ms + 9 * dayMs
    outbox.append(readOf({ window: hourAfterJune1(0), readatMs: june1Ms + 3 * hourMs, settled: true }))
    outbox.append(readOf({ window: hourAfterJune1(5), readatMs: aheadMs, settled: true }))
    expect(scopeOf(outbox)?.settledAtMs).toBe(aheadMs)
    outbox.distrust(testSource, june1Ms + 8 * hourMs)
    expect(scopeOf(outbox)).toMatchObject({
      settled: [hourAfterJune1(0)],
      settledAtMs: june1Ms + 3 * hourMs,
    })
    expect(
      outbox.memory.nextReadatMs(testSource, 'org/profile', hourAfterJune1(5), june1Ms + 8 * hourMs),
    ).toBe(aheadMs + 1)
  })

  test('a settled window that is read again is open until a read settles it', () => {
    const outbox = open()
    see(outbox, 'org/profile')
    for (const hour of [0, 1, 2]) outbox.append(readOf({ window: hourAfterJune1(hour), settled: true }))
    const again = { window: hourAfterJune1(1), readatMs: june1Ms + dayMs }
    outbox.append(readOf({ ...again, failed: true }))
    expect(scopeOf(outbox)?.settled).toEqual([hourAfterJune1(0), hourAfterJune1(2)])
    expect(outbox.memory.window(testSource, 'org/profile', hourAfterJune1(1).startMs)?.failures).toBe(1)
    outbox.append(readOf({ ...again, readatMs: again.readatMs + 1, settled: true }))
    expect(scopeOf(outbox)?.settled).toEqual([{ startMs: june1Ms, endMs: june1Ms + 3 * hourMs }])
  })

  test('open windows behind the retention are let go', () => {
    const outbox = open()
    see(outbox, 'org/profile')
    for (const hour of [0, 1, 2]) outbox.append(readOf({ window: hourAfterJune1(hour), failed: true }))
    outbox.memory.forget(testSource, hourAfterJune1(1).endMs)
    expect([...(scopeOf(outbox)?.windows.keys() ?? [])]).toEqual([hourAfterJune1(2).startMs])
  })
})
