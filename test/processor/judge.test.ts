/** Judging reads: which one counts, which one waits, and what must not be crossed. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { currentOf, isSuspect, type JudgedRead, overlapped } from '../../processor/judge.ts'
import { suspectDefault, takesAway } from '../../schemas/suspect.ts'
import { hourMs, minuteMs } from '../../schemas/window.ts'
import { hourAfterJune1 } from '../reads.ts'

function read(readatMs: number, seconds: bigint, changes: Partial<JudgedRead> = {}): JudgedRead {
  return {
    window: hourAfterJune1(0),
    readatMs,
    contentMs: readatMs,
    isComplete: true,
    isHeld: true,
    isSuspect: false,
    isEstimated: false,
    totals: new Map([['instance_seconds', seconds]]),
    ...changes,
  }
}

/** Reads as they come, one after the other, each judged by those before it: what the ledger does. */
function judged(reads: readonly JudgedRead[], rule = suspectDefault): readonly JudgedRead[] {
  const known: JudgedRead[] = []
  for (const one of reads) known.push({ ...one, isSuspect: isSuspect(one, known, rule) })
  return known
}

describe('the read that counts', () => {
  test('is the newest that is complete, held and believed, and an exact one before any estimate', () => {
    expect(currentOf([])).toBeUndefined()
    const reads = [
      read(1, 5n),
      read(2, 6n, { isEstimated: true }),
      read(3, 7n, { isHeld: false }),
      read(4, 8n, { isComplete: false }),
      read(5, 9n, { isSuspect: true }),
    ]
    expect(currentOf(reads)?.readatMs).toBe(1)
    expect(currentOf(reads.slice(1))?.readatMs).toBe(2)
    expect(currentOf(reads.slice(2))).toBeUndefined()
  })
})

describe('a read that takes away', () => {
  test.each([
    [100n, 90n, false],
    [100n, 89n, true],
    [1n, 0n, true],
    [100n, 200n, false],
    [0n, 0n, false],
  ])('%d → %d: %s', (before, after, expected) => {
    expect(takesAway(new Map([['gpu_seconds', before]]), new Map([['gpu_seconds', after]]), 10)).toBe(
      expected,
    )
  })

  test('one measure is enough, and one that is missing is all of it', () => {
    const before = new Map([
      ['a', 100n],
      ['b', 100n],
    ])
    expect(takesAway(before, new Map([['a', 100n]]), 100)).toBe(true)
    expect(takesAway(before, new Map([...before, ['c', 1n]]), 10)).toBe(false)
  })

  test('waits, until a second read an hour later agrees', () => {
    const reads = judged([
      read(0, 1000n),
      read(30 * minuteMs, 100n),
      read(80 * minuteMs, 100n),
      read(90 * minuteMs, 95n),
    ])
    expect(reads.map(one => one.isSuspect)).toEqual([false, true, true, false])
    expect(currentOf(reads)?.readatMs).toBe(90 * minuteMs)
  })

  test('is no witness for one that takes still more away', () => {
    const reads = judged([read(0, 1000n), read(hourMs, 500n), read(3 * hourMs, 300n), read(4 * hourMs, 300n)])
    expect(reads.map(one => one.isSuspect)).toEqual([false, true, true, false])
  })

  test('is forgotten once the figures are back', () => {
    const reads = judged([read(0, 1000n), read(hourMs, 10n), read(2 * hourMs, 1000n), read(4 * hourMs, 10n)])
    expect(reads.map(one => one.isSuspect)).toEqual([false, true, false, true])
    expect(currentOf(reads)?.readatMs).toBe(2 * hourMs)
  })

  test('is judged among its own rank: an exact read may say less than an estimate', () => {
    const reads = judged([read(0, 1000n, { isEstimated: true }), read(hourMs, 10n), read(2 * hourMs, 1n)])
    expect(reads.map(one => one.isSuspect)).toEqual([false, false, true])
  })

  test('of the same content, or older than the one that counts, takes nothing away', () => {
    const reads = judged([read(hourMs, 1000n), read(0, 1n), read(2 * hourMs, 1n, { contentMs: hourMs })])
    expect(reads.map(one => one.isSuspect)).toEqual([false, false, false])
  })

  test('never counts unless something at least an hour older was as low, and counts at last if it stays', () => {
    const steps = fc.array(
      fc.record({
        afterMs: fc.integer({ min: 1, max: 2 * hourMs }),
        seconds: fc.bigInt({ min: 0n, max: 200n }),
      }),
      { minLength: 1, maxLength: 12 },
    )
    fc.assert(
      fc.property(steps, steps => {
        let nowMs = 0
        const reads: JudgedRead[] = []
        for (const { afterMs, seconds } of steps) {
          nowMs += afterMs
          reads.push(read(nowMs, seconds))
        }
        const known = judged(reads)
        known.forEach((one, index) => {
          if (one.isSuspect || index === 0) return
          const before = currentOf(known.slice(0, index))
          const lost = before && takesAway(before.totals, one.totals, 10)
          const witness = known
            .slice(0, index)
            .some(
              other => other.readatMs + hourMs <= one.readatMs && !takesAway(other.totals, one.totals, 10),
            )
          expect(!lost || witness).toBe(true)
        })
        const last = reads.at(-1)!
        const stays = [read(nowMs + hourMs, 0n), read(nowMs + 3 * hourMs, 0n)].map(one => ({
          ...one,
          totals: last.totals,
        }))
        expect(currentOf(judged([...reads, ...stays]))?.readatMs).toBe(nowMs + 3 * hourMs)
      }),
    )
  })
})

test('a window of another width over the same time is crossed where one was read, and only there', () => {
  const half = { startMs: hourAfterJune1(0).startMs, endMs: hourAfterJune1(0).startMs + 30 * minuteMs }
  expect(overlapped(half, [read(1, 5n)])?.readatMs).toBe(1)
  expect(overlapped(hourAfterJune1(0), [read(1, 5n)])).toBeUndefined()
  expect(overlapped(hourAfterJune1(1), [read(1, 5n)])).toBeUndefined()
  expect(overlapped(half, [read(1, 5n, { isHeld: false })])).toBeUndefined()
})
