/** Which windows are due and in what order, by example and over any history. */
import { DatabaseSync } from 'node:sqlite'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  askedWindows,
  type DueWindow,
  dueWindows,
  type Plan,
  retryAfterMs,
  settleDelayMs,
} from '../../collector/schedule.ts'
import { beliefs, CollectorMemory, endedByHand, memoryTables, settledAt } from '../../runtime/log/memory.ts'
import { dayMs, gridMinutes, hourMs, minuteMs, type Window, windowsOver } from '../../schemas/window.ts'

const source = 'meterline/test/one'
const startMs = Date.UTC(2025, 5, 1)
const hourly: Plan = { widthMinutes: 60, rereadAfterMs: [hourMs, dayMs], retentionMs: 30 * dayMs }

/** The collector's real memory on a database in memory, and the reads as collect would note them. */
class Notebook {
  readonly memory: CollectorMemory
  readonly plan: Plan
  constructor(plan: Plan, scopes: readonly string[] = ['a'], expectedMs = startMs) {
    const db = new DatabaseSync(':memory:')
    db.exec(memoryTables + endedByHand + beliefs + settledAt)
    this.memory = new CollectorMemory(db)
    this.plan = plan
    this.see(scopes, expectedMs)
  }
  see(scopes: readonly string[], expectedMs = startMs) {
    this.memory.see(
      source,
      scopes.map(scope => ({ scope })),
      expectedMs,
    )
  }
  due(nowMs: number, limit = 1000, plan = this.plan) {
    return dueWindows({ plan, scopes: this.memory.scopes(source), nowMs, limit })
  }
  note(due: DueWindow, nowMs: number, outcome: 'complete' | 'failed' = 'complete') {
    const readatMs = this.memory.nextReadatMs(source, due.scope, due.window, nowMs)
    this.memory.record({
      source,
      scope: due.scope,
      window: due.window,
      readatMs,
      attemptedMs: nowMs,
      ...(outcome === 'complete' && {
        complete: { digest: '0', events: 0, contentReadatMs: readatMs, settled: due.last },
      }),
    })
  }
  /** Reads all that is due. */
  readAll(nowMs: number): readonly DueWindow[] {
    const { due } = this.due(nowMs)
    for (const each of due) this.note(each, nowMs)
    return due
  }
  settled(scope = 'a') {
    return this.memory.scope(source, scope)?.settled ?? []
  }
}

const hours = (due: readonly DueWindow[]) => due.map(({ window }) => (window.startMs - startMs) / hourMs)
const whys = (due: readonly DueWindow[]) => due.map(({ why }) => why)

describe('when a window is due', () => {
  test('a new window is due a little after its end, not before, and once', () => {
    const notebook = new Notebook(hourly)
    const endMs = startMs + hourMs
    const before = notebook.due(endMs + settleDelayMs - 1)
    expect(before).toEqual({ due: [], count: 0, nextMs: endMs + settleDelayMs })
    const [first, ...rest] = notebook.readAll(endMs + settleDelayMs)
    expect(rest).toEqual([])
    expect(first).toMatchObject({ scope: 'a', why: 'new', rereadIndex: 0, last: false })
    expect(notebook.due(endMs + settleDelayMs)).toMatchObject({ due: [], nextMs: endMs + hourMs })
  })

  test('a source whose provider writes late is first asked so much later, and the window is new until then', () => {
    const lateMs = 5 * minuteMs
    const endMs = startMs + hourMs
    for (const [settleMs, dueMs] of [
      [lateMs, lateMs],
      [1, settleDelayMs],
    ] as const) {
      const notebook = new Notebook({ ...hourly, settleDelayMs: settleMs })
      expect(notebook.due(endMs + dueMs - 1)).toEqual({ due: [], count: 0, nextMs: endMs + dueMs })
      expect(whys(notebook.due(endMs + hourMs + dueMs - 1).due)).toEqual(['new'])
    }
  })

  test('the planned re-reads follow, the last one settles, and then there is quiet', () => {
    const notebook = new Notebook(hourly)
    const endMs = startMs + hourMs
    const read: [number, string, number, boolean][] = []
    for (let nowMs = startMs; nowMs <= endMs + 2 * dayMs; nowMs += 5 * minuteMs)
      for (const due of notebook.readAll(nowMs))
        if (due.window.startMs === startMs) read.push([nowMs - endMs, due.why, due.rereadIndex, due.last])
    expect(read).toEqual([
      [5 * minuteMs, 'new', 0, false],
      [hourMs, 'again', 1, false],
      [dayMs, 'again', 2, true],
    ])
  })

  test('one read serves all re-reads that have fallen due by then', () => {
    const notebook = new Notebook(hourly)
    const late = notebook.readAll(startMs + hourMs + 2 * hourMs).find(due => due.window.startMs === startMs)
    expect(late).toMatchObject({ why: 'missed', rereadIndex: 1, last: false })
    const [last] = notebook.readAll(startMs + 5 * dayMs).filter(due => due.window.startMs === startMs)
    expect(last).toMatchObject({ why: 'again', rereadIndex: 2, last: true })
    expect(notebook.settled()[0]?.startMs).toBe(startMs)
  })

  test('a source without re-reads settles a window with its first read', () => {
    const notebook = new Notebook({ ...hourly, rereadAfterMs: [] })
    expect(notebook.readAll(startMs + 2 * hourMs)[0]).toMatchObject({ last: true })
    expect(notebook.settled()).toEqual([{ startMs, endMs: startMs + hourMs }])
  })

  test('a collector that comes later by some seconds keeps to that in every read, and still reads all', () => {
    const notebook = new Notebook(hourly)
    const delayMs = 3000
    const reads: number[] = []
    const dueAt = (nowMs: number) =>
      dueWindows({ plan: hourly, scopes: notebook.memory.scopes(source), nowMs, limit: 10, delayMs })
    for (let nowMs = startMs; reads.length < 3; nowMs = Math.max(nowMs + 1, dueAt(nowMs).nextMs ?? 0))
      for (const due of dueAt(nowMs).due) {
        if (due.window.startMs === startMs) reads.push(nowMs - startMs - hourMs)
        notebook.note(due, nowMs)
      }
    expect(reads).toEqual([settleDelayMs + delayMs, hourMs + delayMs, dayMs + delayMs])
  })

  test('a scope is expected from its beginning as its provider says, until its end', () => {
    const notebook = new Notebook(hourly, [])
    notebook.memory.see(
      source,
      [{ scope: 'a', sinceMs: startMs + 2.5 * hourMs, endedMs: startMs + 4 * hourMs }],
      startMs + 9 * hourMs,
    )
    expect(hours(notebook.due(startMs + 10 * hourMs).due)).toEqual([2, 3])
  })

  test('what a person ended is not due from then on, by schedule or by hand, even if its provider still lists it', () => {
    const notebook = new Notebook(hourly, ['a', 'b'])
    const nowMs = startMs + 10 * hourMs
    notebook.memory.end(source, 'a', startMs + 2 * hourMs)
    notebook.see(['a', 'b'])
    const ofA = (due: readonly DueWindow[]) => hours(due.filter(({ scope }) => scope === 'a'))
    expect(ofA(notebook.due(nowMs).due)).toEqual([0, 1])
    const span = { startMs, endMs: nowMs }
    const asked = [...askedWindows({ plan: hourly, scopes: notebook.memory.scopes(source), span, nowMs })]
    expect(ofA(asked)).toEqual([0, 1])
    expect(asked).toHaveLength(12)
    // The earlier of the two ends counts.
    notebook.memory.see(source, [{ scope: 'a', endedMs: startMs + hourMs }], startMs)
    expect(ofA(notebook.due(nowMs).due)).toEqual([0])
  })

  test('nothing before `fromMs` is expected, and nothing that begins behind the retention', () => {
    const notebook = new Notebook(hourly)
    const nowMs = startMs + 10 * hourMs
    const scopes = notebook.memory.scopes(source)
    const from = dueWindows({ plan: hourly, scopes, nowMs, limit: 100, fromMs: startMs + 7 * hourMs })
    expect(hours(from.due).sort()).toEqual([7, 8])
    const short = { ...hourly, retentionMs: 3.5 * hourMs }
    expect(hours(notebook.due(nowMs, 100, short).due).sort()).toEqual([7, 8])
  })

  test('a longer plan has its last re-read still to come; a shorter one settles with one more read', () => {
    const once: Plan = { ...hourly, rereadAfterMs: [hourMs] }
    const longer = new Notebook(once)
    longer.note(longer.due(startMs + 1.9 * hourMs).due[0]!, startMs + 1.9 * hourMs)
    expect(longer.due(startMs + 25 * hourMs, 100, hourly).due.at(0)).toMatchObject({
      last: true,
      why: 'again',
    })
    const shorter = new Notebook(hourly)
    const nowMs = startMs + 2.1 * hourMs
    const [first] = shorter.due(nowMs).due.filter(due => due.window.startMs === startMs)
    expect(first).toMatchObject({ rereadIndex: 1, last: false })
    shorter.note(first!, nowMs)
    const [settling] = shorter.due(nowMs + 1, 100, once).due.filter(due => due.window.startMs === startMs)
    expect(settling).toMatchObject({ why: 'again', last: true })
  })
})

describe('failures', () => {
  test('a failed window is tried again after rests that grow to an hour', () => {
    const notebook = new Notebook({ ...hourly, rereadAfterMs: [] })
    const attempts: number[] = []
    const untilMs = startMs + 6 * hourMs
    for (let nowMs = startMs; nowMs < untilMs; nowMs += minuteMs)
      for (const due of notebook.due(nowMs).due) {
        if (due.window.startMs === startMs) attempts.push(nowMs)
        notebook.note(due, nowMs, due.window.startMs === startMs ? 'failed' : 'complete')
      }
    const rests = attempts.slice(1).map((at, index) => (at - attempts[index]!) / minuteMs)
    expect(rests).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60])
    expect(retryAfterMs(1000)).toBe(hourMs)
  })

  test('while a scope is down its new windows are tried once each, and old ones one at a time', () => {
    const notebook = new Notebook({ ...hourly, rereadAfterMs: [] })
    const attempts = new Map<number, number>()
    let all = 0
    for (let nowMs = startMs; nowMs < startMs + 2 * dayMs; nowMs += minuteMs) {
      const { due } = notebook.due(nowMs)
      expect(due.length).toBeLessThanOrEqual(2)
      for (const each of due) {
        notebook.note(each, nowMs, 'failed')
        attempts.set(each.window.startMs, (attempts.get(each.window.startMs) ?? 0) + 1)
        all += 1
      }
    }
    expect(attempts.size).toBe(47)
    // Every window at its time, and between them a probe each quarter of an hour.
    expect(all).toBeLessThan(47 + 2 * 24 * 4 + 10)
    // Then the provider is back: one probe opens the scope, and all is read within its rest of an hour.
    let nowMs = startMs + 2 * dayMs
    for (; nowMs < startMs + 2 * dayMs + hourMs + 30 * minuteMs; nowMs += minuteMs) notebook.readAll(nowMs)
    expect(notebook.settled()).toEqual([{ startMs, endMs: startMs + 49 * hourMs }])
  })

  test('one failing scope delays no other', () => {
    const notebook = new Notebook({ ...hourly, rereadAfterMs: [] }, ['bad', 'good'])
    for (let nowMs = startMs; nowMs < startMs + dayMs; nowMs += 5 * minuteMs)
      for (const due of notebook.due(nowMs).due)
        notebook.note(due, nowMs, due.scope === 'bad' ? 'failed' : 'complete')
    expect(notebook.settled('good')).toEqual([{ startMs, endMs: startMs + 23 * hourMs }])
    expect(notebook.settled('bad')).toEqual([])
  })

  test('a failed re-read does not take the first read away: it stays a re-read', () => {
    const notebook = new Notebook(hourly)
    const endMs = startMs + hourMs
    notebook.note(notebook.due(endMs + minuteMs).due[0]!, endMs + minuteMs)
    const [reread] = notebook.due(endMs + hourMs).due
    notebook.note(reread!, endMs + hourMs, 'failed')
    expect(notebook.due(endMs + hourMs + minuteMs - 1).due.filter(due => due.why === 'again')).toEqual([])
    expect(whys(notebook.due(endMs + hourMs + minuteMs).due)).toContain('again')
  })
})

describe('order', () => {
  test('what was missed goes oldest first and has every fourth place while there is live work', () => {
    const notebook = new Notebook({ ...hourly, rereadAfterMs: [] }, ['a', 'b', 'c', 'd', 'e', 'f'])
    const nowMs = startMs + 100 * hourMs + settleDelayMs
    const { due, count } = notebook.due(nowMs, 8)
    expect(count).toBe(600)
    expect(whys(due)).toEqual(['new', 'new', 'new', 'missed', 'new', 'new', 'new', 'missed'])
    expect(hours(due.filter(each => each.why === 'missed'))).toEqual([0, 0])
    expect(hours(notebook.due(nowMs, 600).due.filter(each => each.why === 'missed'))).toEqual(
      Array.from({ length: 594 }, (_, index) => Math.floor(index / 6)),
    )
  })

  test('a window that is being read is not given out again', () => {
    const notebook = new Notebook(hourly)
    const nowMs = startMs + 3 * hourMs + settleDelayMs
    const underWay = () => new Set([startMs, startMs + 2 * hourMs])
    const { due } = dueWindows({
      plan: hourly,
      scopes: notebook.memory.scopes(source),
      nowMs,
      limit: 10,
      underWay,
    })
    expect(hours(due)).toEqual([1])
  })
})

describe('clocks and grids', () => {
  test('after a clock that ran a day ahead, what it read and settled too early is read again at its time', () => {
    const notebook = new Notebook(hourly)
    const nowMs = startMs + 3 * hourMs
    notebook.readAll(nowMs + dayMs)
    expect(notebook.settled()).toEqual([{ startMs, endMs: startMs + 3 * hourMs }])
    expect(notebook.due(nowMs).due.length).toBeGreaterThan(0)
    for (let atMs = nowMs; atMs < nowMs + 3 * dayMs; atMs += 10 * minuteMs) notebook.readAll(atMs)
    // 75 hours less ten minutes later by the right clock, every hour that ended a day before is settled.
    expect(notebook.settled()).toEqual([{ startMs, endMs: startMs + 50 * hourMs }])
    expect(notebook.due(nowMs + 3 * dayMs - 10 * minuteMs).due).toEqual([])
  })

  test('a window that a clock ahead read before its time is new when it is over, and its failures delay nothing', () => {
    const notebook = new Notebook(hourly)
    const nowMs = startMs + 3 * hourMs
    for (const due of notebook.due(nowMs + dayMs).due)
      notebook.note(due, nowMs + dayMs, due.window.startMs === startMs + 5 * hourMs ? 'failed' : 'complete')
    for (const hour of [4, 5, 20]) {
      const atMs = startMs + (hour + 1) * hourMs + settleDelayMs
      const [due] = notebook.due(atMs).due.filter(each => each.window.startMs === startMs + hour * hourMs)
      expect(due).toMatchObject({ why: 'new', rereadIndex: 0, last: false })
    }
  })

  test('a clock that fell a day back reads nothing twice, and goes on when it has caught up', () => {
    const notebook = new Notebook({ ...hourly, rereadAfterMs: [] })
    const nowMs = startMs + 30 * hourMs + minuteMs
    notebook.readAll(nowMs)
    expect(notebook.readAll(nowMs - dayMs)).toEqual([])
    expect(hours(notebook.readAll(nowMs + hourMs))).toEqual([30])
  })

  test('hours that were begun in one width are finished in it, and the next have the new one', () => {
    const quarters: Plan = { widthMinutes: 15, rereadAfterMs: [], retentionMs: dayMs }
    const notebook = new Notebook(quarters)
    notebook.readAll(startMs + 20 * minuteMs)
    const nowMs = startMs + 3 * hourMs
    const { due } = notebook.due(nowMs, 100, { ...quarters, widthMinutes: 60 })
    const minutes = due.map(({ window }) => [
      (window.startMs - startMs) / minuteMs,
      (window.endMs - window.startMs) / minuteMs,
    ])
    expect(minutes.sort((a, b) => a[0]! - b[0]!)).toEqual([
      [15, 15],
      [30, 15],
      [45, 15],
      [60, 60],
    ])
  })
})

describe('over any history', () => {
  const history = fc.record({
    widthMinutes: fc.constantFrom(...gridMinutes.filter(minutes => minutes >= 15)),
    rereadAfterMs: fc
      .uniqueArray(fc.integer({ min: 1, max: 30 * 60 }), { maxLength: 3 })
      .map(afterMinutes => afterMinutes.sort((a, b) => a - b).map(minutes => minutes * minuteMs)),
    stepsMinutes: fc.array(fc.oneof(fc.integer({ min: 1, max: 45 }), fc.integer({ min: 1, max: 400 })), {
      minLength: 1,
      maxLength: 60,
    }),
    limit: fc.integer({ min: 1, max: 20 }),
    outcomes: fc.infiniteStream(fc.constantFrom('complete', 'complete', 'complete', 'failed', 'lost')),
    scopes: fc.constantFrom(['a'], ['a', 'b']),
  })

  test('every window is read, none before its end, none twice without cause, and its last read settles it', () => {
    fc.assert(
      fc.property(history, ({ widthMinutes, rereadAfterMs, stepsMinutes, limit, outcomes, scopes }) => {
        const plan: Plan = { widthMinutes, rereadAfterMs, retentionMs: 3650 * dayMs }
        const notebook = new Notebook(plan, scopes)
        const lastMs = rereadAfterMs.at(-1) ?? 0
        const reads = new Map<
          string,
          { atMs: number; failures: number; served: number | undefined; settled: boolean }
        >()
        let nowMs = startMs
        const pass = (healthy: boolean) => {
          const { due } = notebook.due(nowMs, limit)
          expect(due.length).toBeLessThanOrEqual(limit)
          for (const each of due) {
            const { window, scope, rereadIndex, last } = each
            expect(window.endMs + settleDelayMs).toBeLessThanOrEqual(nowMs)
            expect(last).toBe(nowMs >= window.endMs + lastMs)
            const name = `${scope} ${window.startMs}`
            const before = reads.get(name)
            expect(before?.settled ?? false).toBe(false)
            if (before) {
              if (before.failures > 0)
                expect(nowMs - before.atMs).toBeGreaterThanOrEqual(retryAfterMs(before.failures))
              else expect(rereadIndex).toBeGreaterThan(before.served!)
            }
            const outcome = healthy ? 'complete' : outcomes.next().value
            if (outcome === 'lost') continue
            notebook.note(each, nowMs, outcome)
            const complete = outcome === 'complete'
            reads.set(name, {
              atMs: nowMs,
              failures: complete ? 0 : (before?.failures ?? 0) + 1,
              served: complete ? rereadIndex : before?.served,
              settled: complete && last,
            })
          }
          return due.length
        }
        for (const minutes of stepsMinutes) {
          nowMs += minutes * minuteMs
          pass(false)
        }
        const span: Window = { startMs, endMs: nowMs }
        nowMs += lastMs + hourMs
        // All is well now: what is left is read as its rests end, in passes of the same bound.
        for (let hour = 0; hour < 3; hour += 1, nowMs += hourMs) while (pass(true) > 0);
        for (const scope of scopes)
          for (const window of windowsOver(span, widthMinutes))
            expect(reads.get(`${scope} ${window.startMs}`)?.settled).toBe(true)
      }),
      { numRuns: 60 },
    )
  })

  test('`nextMs` is never late: nothing falls due before it', () => {
    fc.assert(
      fc.property(history, ({ widthMinutes, rereadAfterMs, stepsMinutes, outcomes, scopes }) => {
        const plan: Plan = { widthMinutes, rereadAfterMs, retentionMs: 3650 * dayMs }
        const notebook = new Notebook(plan, scopes)
        let nowMs = startMs
        for (const minutes of stepsMinutes.slice(0, 20)) {
          nowMs += minutes * minuteMs
          for (const due of notebook.due(nowMs).due) {
            const outcome = outcomes.next().value
            if (outcome !== 'lost') notebook.note(due, nowMs, outcome)
          }
          for (let calm = notebook.due(nowMs); calm.due.length > 0; calm = notebook.due(nowMs))
            for (const due of calm.due) notebook.note(due, nowMs)
          const { nextMs } = notebook.due(nowMs)
          expect(nextMs).toBeGreaterThan(nowMs)
          expect(notebook.due(nextMs! - 1).due).toEqual([])
          expect(notebook.due(nextMs!).count).toBeGreaterThan(0)
        }
      }),
      { numRuns: 40 },
    )
  })
})

describe('backfill', () => {
  const outages = fc.record({
    scopes: fc.integer({ min: 1, max: 4 }),
    outageHours: fc.integer({ min: 24, max: 20 * 24 }),
    readsAnHour: fc.integer({ min: 20, max: 60 }),
    retentionDays: fc.integer({ min: 2, max: 30 }),
    failing: fc.infiniteStream(fc.nat(9).map(die => die === 0)),
  })
  /** As many as a collector of one read at a time plans at once. */
  const planned = 8

  test('after an outage all that the provider still knows is read, oldest first, and live windows keep their time', () => {
    fc.assert(
      fc.property(outages, ({ scopes, outageHours, readsAnHour, retentionDays, failing }) => {
        const plan: Plan = { widthMinutes: 60, rereadAfterMs: [hourMs], retentionMs: retentionDays * dayMs }
        const names = Array.from({ length: scopes }, (_, index) => `s${index}`)
        const notebook = new Notebook(plan, names)
        const outageEndMs = startMs + outageHours * hourMs
        const readMs = Math.ceil(hourMs / readsAnHour)
        const caughtUp: number[] = []
        let failures = 0
        let newDelayMsMax = 0
        let nowMs = outageEndMs
        const untilMs = outageEndMs + 20 * dayMs
        for (let quiet = false; !quiet && nowMs < untilMs; ) {
          const { due } = notebook.due(nowMs, planned)
          quiet = nowMs > outageEndMs + hourMs && due.every(({ why }) => why !== 'missed')
          // A scope that is down has nothing due, and is not done.
          for (const { windows } of notebook.memory.scopes(source))
            for (const { failures } of windows.values()) quiet &&= failures === 0
          if (due.length === 0) nowMs += minuteMs
          notebook.memory.forget(source, nowMs - plan.retentionMs)
          for (const each of due) {
            nowMs += readMs
            const failed = failing.next().value
            notebook.note(each, nowMs, failed ? 'failed' : 'complete')
            if (failed) failures += 1
            else if (each.why === 'missed' && each.window.endMs < outageEndMs - hourMs)
              caughtUp.push(each.window.startMs)
            if (each.why === 'new' && each.dueMs > outageEndMs)
              newDelayMsMax = Math.max(newDelayMsMax, nowMs - each.dueMs)
          }
        }
        expect(nowMs).toBeLessThan(untilMs)
        // The rest of a plan, then at most what is due at that hour itself, in three of four places.
        const ahead = planned + Math.ceil((2 * scopes + failures / 10) * (4 / 3)) + 1
        expect(newDelayMsMax).toBeLessThanOrEqual(Math.max(ahead, 2 * planned) * readMs + minuteMs)
        // Oldest first; one that failed comes later.
        const firstKnownMs = Math.ceil((outageEndMs - plan.retentionMs) / hourMs) * hourMs
        if (outageHours > 30)
          expect(caughtUp.at(0)! - Math.max(startMs, firstKnownMs)).toBeLessThanOrEqual(2 * hourMs)
        const steppedBack = caughtUp.filter((at, index) => index > 0 && at < caughtUp[index - 1]!)
        expect(steppedBack.length).toBeLessThanOrEqual(2 * failures + scopes)
        // And all of it: but for what left the retention while it waited, which are the oldest.
        const lastLostMs = nowMs - plan.retentionMs
        for (const name of names)
          for (const window of windowsOver(
            { startMs: Math.max(startMs, firstKnownMs), endMs: outageEndMs },
            60,
          )) {
            if (window.startMs < lastLostMs) continue
            const isSettled = notebook
              .settled(name)
              .some(span => span.startMs <= window.startMs && span.endMs >= window.endMs)
            const memory = notebook.memory.window(source, name, window.startMs)
            expect(isSettled || memory?.complete !== undefined).toBe(true)
          }
      }),
      { numRuns: 8 },
    )
  })

  test.each([
    { reads: 60, live: 40, old: 20 },
    // Of a plan of eight, two; the last six reads of an hour have one.
    { reads: 30, live: 23, old: 7 },
  ])('of $reads reads an hour with 40 new windows, $old are for what was missed', ({ reads, live, old }) => {
    const names = Array.from({ length: 40 }, (_, index) => `s${index}`)
    const plan: Plan = { widthMinutes: 60, rereadAfterMs: [], retentionMs: 30 * dayMs }
    const notebook = new Notebook(plan, names)
    const outageEndMs = startMs + 2 * dayMs
    const read = { live: 0, old: 0 }
    for (let hour = 1; hour <= 12; hour += 1) {
      const nowMs = outageEndMs + hour * hourMs + settleDelayMs
      for (let done = 0; done < reads; ) {
        const { due } = notebook.due(nowMs + done * minuteMs, planned)
        if (due.length === 0) break
        for (const each of due.slice(0, reads - done)) {
          notebook.note(each, nowMs + done * minuteMs)
          read[each.window.startMs < outageEndMs ? 'old' : 'live'] += 1
          done += 1
        }
      }
    }
    expect(read).toEqual({ live: live * 12, old: old * 12 })
    const settledTo = names.map(name => notebook.settled(name)[0]?.endMs ?? startMs)
    expect(Math.max(...settledTo) - Math.min(...settledTo)).toBeLessThanOrEqual(hourMs)
  })
})

describe('by hand', () => {
  test('a span is widened to the grid and given whole, oldest first, whatever was read before', () => {
    const notebook = new Notebook(hourly, ['a', 'b'])
    notebook.readAll(startMs + 20 * dayMs)
    const span = { startMs: startMs + 1.5 * hourMs, endMs: startMs + 3.2 * hourMs }
    const nowMs = startMs + 20 * dayMs
    const asked = [...askedWindows({ plan: hourly, scopes: notebook.memory.scopes(source), span, nowMs })]
    expect(asked.map(({ scope, window }) => [scope, (window.startMs - startMs) / hourMs])).toEqual([
      ['a', 1],
      ['b', 1],
      ['a', 2],
      ['b', 2],
      ['a', 3],
      ['b', 3],
    ])
    expect(asked.every(each => each.why === 'asked' && each.last)).toBe(true)
  })

  test('what is not over yet is not read, and what a scope did not live is not asked', () => {
    const notebook = new Notebook(hourly, [])
    notebook.memory.see(source, [{ scope: 'a', sinceMs: startMs + hourMs }], startMs)
    const nowMs = startMs + 3.5 * hourMs
    const span = { startMs: startMs - dayMs, endMs: startMs + dayMs }
    const asked = [...askedWindows({ plan: hourly, scopes: notebook.memory.scopes(source), span, nowMs })]
    expect(hours(asked)).toEqual([1, 2])
    expect(asked.map(each => each.last)).toEqual([false, false])
  })
})
