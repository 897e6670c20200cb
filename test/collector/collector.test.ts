/** The loop that reads what is due and the bounded read by hand, on a small provider whose failures the test sets. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type CollectorOptions, runCollector } from '../../collector/collector.ts'
import { collectOnce, type OnceOptions } from '../../collector/once.ts'
import { Health } from '../../runtime/health.ts'
import { type OutboxOptions, SqliteOutbox } from '../../runtime/log/outbox.ts'
import { openLog } from '../../runtime/logs.ts'
import { registry } from '../../runtime/metrics.ts'
import type { MarkEvent, ReadingEvent } from '../../schemas/event.ts'
import { Fault } from '../../schemas/fault.ts'
import { dayMs, hourMs, minuteMs, showInstant } from '../../schemas/window.ts'
import { hourAfterJune1, june1Ms } from '../reads.ts'
import { startLoop, until } from './looping.ts'
import { Provider } from './provider.ts'

let dir: string
let outbox: SqliteOutbox
let provider: Provider
let health: Health
let clockMs: number
let ends: (() => Promise<void>)[]
const log = openLog({ level: 'silent', role: 'test' })
const source = 'meterline/test/one'

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-collector-'))
  provider = new Provider()
  health = new Health()
  clockMs = june1Ms
  ends = []
  reopen()
})
afterEach(async () => {
  for (const end of ends) await end()
  outbox[Symbol.dispose]()
  rmSync(dir, { recursive: true, force: true })
})

function reopen(options: Partial<OutboxOptions> = {}): void {
  outbox?.[Symbol.dispose]()
  outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: () => clockMs, ...options })
}

/** Starts the loop; what it returns stops it and waits for its end. */
function start(options: Partial<CollectorOptions> = {}): () => Promise<void> {
  const loop = { outbox, health, log, nowMs: () => clockMs, restMsMax: 50 }
  const { end } = startLoop({ sources: [provider.opened()], ...loop, ...options })
  ends.push(() => end().catch(() => undefined))
  return end
}

function stored(): (MarkEvent | ReadingEvent)[] {
  return outbox.rowsFrom(0, { rowsMax: 1e6, bytesMax: 1e9 }).map(row => JSON.parse(row.value.toString()))
}

/** The marks of a scope, as `hour outcome`. */
function marks(scope: string): string[] {
  return stored()
    .filter((event): event is MarkEvent => event.type === 'io.meterline.read.v1' && event.scope === scope)
    .map(mark => `${(Date.parse(mark.time) - june1Ms) / hourMs} ${mark.data.outcome}`)
}

const hours = (count: number, outcome = 'complete', from = 0) =>
  Array.from({ length: count }, (_, index) => `${from + index} ${outcome}`)

describe('the loop', () => {
  test('lists the scopes, reads each window when it is over, and marks both', async () => {
    provider.scopes = [{ scope: 'a' }, { scope: 'b' }]
    start()
    await until(() => provider.listings === 1)
    expect(stored()).toEqual([])
    clockMs += hourMs + minuteMs
    await until(() => stored().length === 5)
    expect([marks('*'), marks('a'), marks('b')]).toEqual([hours(1), hours(1), hours(1)])
    const [listing] = stored().filter(event => event.scope === '*') as MarkEvent[]
    const since = showInstant(june1Ms)
    expect(listing?.data).toMatchObject({
      events: 0,
      scopes: [
        { scope: '*', since },
        { scope: 'a', since },
        { scope: 'b', since },
      ],
    })
    clockMs += hourMs
    await until(() => marks('a').length === 3 && marks('*').length === 2)
    // Named once, and then only what changes. The first hour is read again because its re-read is due.
    expect((stored().filter(event => event.scope === '*')[1] as MarkEvent).data.scopes).toBeUndefined()
    expect(marks('a').sort()).toEqual(['0 complete', '0 complete', '1 complete'])
    expect(health.problems()).toEqual([])
  })

  test('goes on where it was stopped, and reads what it missed meanwhile', async () => {
    const end = start()
    await until(() => provider.listings === 1)
    clockMs += hourMs + minuteMs
    await until(() => marks('a').length === 1)
    await end()
    const { id } = outbox
    reopen()
    expect(outbox.id).toBe(id)
    clockMs += 5 * hourMs
    start()
    await until(() => new Set(marks('a')).size === 6 && marks('*').length === 6)
    expect(new Set(marks('a'))).toEqual(new Set(hours(6)))
    expect(marks('*').sort()).toEqual(hours(6))
  })

  test('what somebody else ends or makes due again holds at once, also while nothing can be listed', async () => {
    provider.scopes = [{ scope: 'a' }, { scope: 'b' }]
    start()
    await until(() => provider.listings === 1)
    clockMs += hourMs + minuteMs
    await until(() => marks('a').length === 1 && marks('b').length === 1 && marks('*').length === 1)
    provider.listingFailure = new Fault('SOURCE_UNREACHABLE', 'away')
    provider.calls.length = 0
    {
      using elsewhere = SqliteOutbox.open({ dir, access: 'push', nowMs: () => clockMs })
      elsewhere.end(source, 'b', june1Ms + hourMs)
      elsewhere.reopen([{ source, scope: 'a', startMs: june1Ms, endMs: june1Ms + hourMs }])
    }
    await until(() => marks('a').length === 2)
    outbox.reopen([{ source, scope: 'a', startMs: june1Ms, endMs: june1Ms + hourMs }])
    await until(() => marks('a').length === 3)
    expect(provider.calls.map(({ scope, window }) => [scope, window.startMs])).toEqual([
      ['a', june1Ms],
      ['a', june1Ms],
    ])
    clockMs += 3 * hourMs
    await until(() => new Set(marks('a')).size === 4)
    // Of the scope that was ended only the planned re-read of before its end.
    expect(new Set(marks('b'))).toEqual(new Set(hours(1)))
  })

  test('stops promptly and writes nothing of what was being read', async () => {
    provider.latencyMs = 60_000
    provider.scopes = []
    outbox.see(source, [{ scope: 'a' }], june1Ms)
    clockMs += hourMs + minuteMs
    const end = start()
    await until(() => provider.running === 1)
    const startMs = performance.now()
    await end()
    expect(performance.now() - startMs).toBeLessThan(1500)
    expect(stored()).toEqual([])
  })

  test('a stop waits for a provider that takes no notice of it, without a busy loop', async () => {
    const opened = provider.opened()
    let ended = 0
    opened.source.read = async function* () {
      await sleep(300)
      ended += 1
      yield* []
    }
    const end = start({ sources: [opened] })
    await until(() => provider.listings === 1)
    clockMs += hourMs + minuteMs
    await sleep(150)
    let ticks = 0
    const ticking = setInterval(() => {
      ticks += 1
    }, 10)
    await end()
    clearInterval(ticking)
    expect(ended).toBeGreaterThan(0)
    expect(ticks).toBeGreaterThan(3)
  })

  test('one failing scope leaves failed marks of its own and stops nobody else', async () => {
    provider.scopes = [{ scope: 'bad' }, { scope: 'good' }, { scope: 'slow' }]
    provider.failure = scope => (scope === 'bad' ? new Fault('SOURCE_DENIED', 'bad: 403') : undefined)
    start({ sources: [provider.opened({ rereadAfterMs: [] })] })
    await until(() => provider.listings === 1)
    for (let hour = 1; hour <= 3; hour += 1) {
      clockMs = june1Ms + hour * hourMs + minuteMs
      await until(() => marks('good').length === hour && marks('slow').length === hour)
    }
    await until(() => new Set(marks('bad')).size === 3)
    expect(marks('good')).toEqual(hours(3))
    expect(new Set(marks('bad'))).toEqual(new Set(hours(3, 'failed')))
    expect(health.problems()).toEqual([])
  })

  test('reads at most so many scopes at once, and no fewer where there is enough to do', async () => {
    provider.scopes = Array.from({ length: 30 }, (_, index) => ({ scope: `s${index}` }))
    provider.latencyMs = 20
    start({ sources: [provider.opened({ concurrency: 5, rereadAfterMs: [] })] })
    await until(() => provider.listings === 1)
    clockMs += hourMs + minuteMs
    await until(() => stored().filter(event => event.type === 'io.meterline.read.v1').length === 31)
    expect(provider.runningMax).toBe(5)
    expect(provider.calls).toHaveLength(30)
  })

  test('a scope that is listed later is due from its beginning', async () => {
    start({ sources: [provider.opened({ rereadAfterMs: [] })] })
    await until(() => provider.listings === 1)
    provider.scopes = [{ scope: 'a' }, { scope: 'late', sinceMs: june1Ms - 2 * hourMs }]
    clockMs += hourMs + minuteMs
    await until(() => marks('late').length === 3)
    expect(marks('late').sort()).toEqual([...hours(2, 'complete', -2), '0 complete'].sort())
  })

  test('a scope that is no longer listed stays expected', async () => {
    start({ sources: [provider.opened({ rereadAfterMs: [] })] })
    await until(() => provider.listings === 1)
    provider.scopes = []
    clockMs += hourMs + minuteMs
    await until(() => marks('a').length === 1 && marks('*').length === 1)
    clockMs += hourMs
    await until(() => marks('a').length === 2)
  })

  test('while listing fails known scopes are read, health says so, and it heals', async () => {
    outbox.see(source, [{ scope: 'a' }, { scope: '*' }], june1Ms)
    provider.listingFailure = new Fault('SOURCE_BUSY', 'organizations: 503')
    clockMs += hourMs + minuteMs
    const end = start()
    await until(() => marks('a').length === 1 && marks('*').length === 1)
    expect(marks('*')).toEqual(['0 failed'])
    expect(health.problems()).toEqual([
      'source test/one: its scopes cannot be listed: SOURCE_BUSY organizations: 503',
    ])
    await end()
    provider.listingFailure = undefined
    start()
    await until(() => marks('*').length === 2)
    expect(marks('*')).toEqual(['0 failed', '0 complete'])
    expect(health.problems()).toEqual([])
  })

  test('a source of which every read fails makes the process unready', async () => {
    provider.scopes = ['a', 'b', 'c'].map(scope => ({ scope }))
    provider.failure = () => new Fault('SOURCE_DENIED', '401')
    start()
    await until(() => provider.listings === 1)
    clockMs += hourMs + minuteMs
    await until(() => health.problems().length === 1)
    expect(health.problems()[0]).toMatch(/^source test\/one: the last \d+ reads failed: SOURCE_DENIED 401/)
  })

  test('a full outbox stops reading, says so, and goes on without a loss when there is room', async () => {
    reopen({ bytesMax: 20_000 })
    provider.scopes = Array.from({ length: 20 }, (_, index) => ({ scope: `s${index}` }))
    // Slow enough for each read to be stored before the next one is done.
    provider.latencyMs = 40
    start({ sources: [provider.opened({ rereadAfterMs: [], concurrency: 1 })] })
    await until(() => provider.listings === 1)
    clockMs += hourMs + minuteMs
    await until(() => health.problems().length === 1)
    expect(health.problems()[0]).toMatch(/^outbox: .*(full|bytes wait in the outbox)/)
    const callsWhenFull = provider.calls.length
    expect(callsWhenFull).toBeLessThan(20)
    await sleep(1200)
    expect(provider.calls.length - callsWhenFull).toBeLessThanOrEqual(2)
    const seen = new Set<string>()
    const drain = () => {
      for (const row of outbox.rowsFrom(0, { rowsMax: 1e6, bytesMax: 1e9 })) {
        const event = JSON.parse(row.value.toString())
        if (event.type === 'io.meterline.instance.v1' || event.data.outcome) seen.add(event.scope)
      }
      outbox.releaseThrough(outbox.bounds().nextSeq - 1)
    }
    await until(() => {
      drain()
      return seen.size === 21
    }, 20_000)
    await until(() => health.problems().length === 0)
  })

  test('ends with the fault when the outbox cannot be written any more', async () => {
    const stop = new AbortController()
    const run = runCollector({
      sources: [provider.opened()],
      outbox,
      health,
      log,
      nowMs: () => clockMs,
      signal: stop.signal,
      restMsMax: 50,
    })
    await until(() => provider.listings === 1)
    outbox[Symbol.dispose]()
    clockMs += hourMs + minuteMs
    await expect(run).rejects.toThrow()
    stop.abort()
  })

  test('the relay runs beside it, has a moment for the last rows, and a broken one ends it', async () => {
    const sent: number[] = []
    const end = start({
      relay: async signal => {
        while (!signal.aborted) {
          const rows = outbox.pending(0, { rowsMax: 100, bytesMax: 1e6 })
          outbox.release(
            0,
            rows.map(row => row.seq),
            0n,
          )
          sent.push(...rows.map(row => row.seq))
          await sleep(300)
        }
      },
    })
    await until(() => provider.listings === 1)
    clockMs += hourMs + minuteMs
    await until(() => marks('a').length === 1)
    await end()
    expect(outbox.depth().rows).toBe(0)
    expect(sent.length).toBe(stored().length)
    const broken = start({ relay: () => Promise.reject(new Fault('LOG_UNSAFE', 'one replica')) })
    await expect(broken()).rejects.toMatchObject({ code: 'LOG_UNSAFE' })
  })

  test('counts scopes, tenants, windows and readings for Prometheus', async () => {
    provider.scopes = [{ scope: 'a' }, { scope: 'b' }]
    provider.items = scope => [{ id: 'i', subject: `org-${scope}`, seconds: '1' }]
    start({ sources: [{ ...provider.opened(), name: 'counted' }] })
    await until(() => provider.listings === 1)
    clockMs += hourMs + minuteMs
    await until(() => marks('b').length === 1 && marks('a').length === 1)
    const text = await registry.metrics()
    for (const line of [
      'meterline_collector_scopes{source="meterline/test/counted"} 2',
      'meterline_collector_tenants{source="meterline/test/counted"} 2',
      'meterline_collector_windows_read_total{source="meterline/test/counted",why="new"} 2',
      'meterline_collector_readings_total{source="meterline/test/counted"} 2',
      'meterline_outbox_rows 5',
    ])
      expect(text).toContain(`${line}\n`)
  })
})

describe('by hand', () => {
  const run = (options: Partial<OnceOptions> = {}) =>
    collectOnce({
      sources: [provider.opened()],
      outbox,
      span: { startMs: june1Ms, endMs: june1Ms + 6 * hourMs },
      log,
      nowMs: () => clockMs,
      signal: new AbortController().signal,
      retryRestsMs: [1, 1],
      ...options,
    })

  beforeEach(() => {
    clockMs = june1Ms + 60 * dayMs
    provider.scopes = [{ scope: 'a' }, { scope: 'b' }]
  })

  test('reads every window of the span, marks its listings, and tells how far it is', async () => {
    const told: number[] = []
    const summary = await run({
      progress: ({ windowsDue, windowsRead }) => told.push(windowsDue, windowsRead),
    })
    expect(summary).toEqual({
      windowsDue: 12,
      windowsRead: 12,
      windowsFailed: 0,
      windowsRunning: 0,
      windowsBefore: 0,
      readings: 12,
      gaps: [],
    })
    expect([marks('a').sort(), marks('b').sort(), marks('*')]).toEqual([hours(6), hours(6), hours(6)])
    expect(provider.listings).toBe(1)
    expect(told.slice(-2)).toEqual([12, 12])
    const settled = stored().filter(event => event.type === 'io.meterline.read.v1') as MarkEvent[]
    expect(settled.every(mark => mark.data.settled)).toBe(true)
    const listed = settled.flatMap(mark => mark.data.scopes ?? [])
    expect(listed.map(each => each.since)).toEqual(Array(3).fill(showInstant(june1Ms)))
  })

  test('sends everything again the second time, under a later readat', async () => {
    await run()
    const first = stored().length
    clockMs += 1000
    expect(await run()).toMatchObject({ windowsRead: 12, readings: 12 })
    // All but the three scopes' names, which are in the first listing's mark as it is.
    expect(stored()).toHaveLength(2 * first)
    expect(stored().some(event => 'repeats' in event.data)).toBe(false)
  })

  describe('cut short', () => {
    /** Stops a run when so many windows were read; says which it had read by then. */
    async function cutShort(): Promise<readonly string[]> {
      provider.latencyMs = 15
      const stop = new AbortController()
      const reading = run({ signal: stop.signal, sources: [provider.opened({ concurrency: 2 })] })
      await until(() => marks('a').length + marks('b').length >= 5)
      stop.abort()
      await expect(reading).rejects.toMatchObject({ code: 'ABORTED' })
      provider.latencyMs = 0
      provider.calls.length = 0
      return [...marks('a').map(mark => `a ${mark}`), ...marks('b').map(mark => `b ${mark}`)]
    }
    const calls = () =>
      provider.calls.map(({ scope, window }) => `${scope} ${(window.startMs - june1Ms) / hourMs} complete`)

    test('the same request goes on where it was, across a restart, and one more reads everything again', async () => {
      const read = await cutShort()
      reopen()
      clockMs += 23 * hourMs
      const told: number[] = []
      const summary = await run({ source: 'one', progress: ({ windowsRead }) => told.push(windowsRead) })
      expect(summary).toMatchObject({ windowsDue: 12, windowsRead: 12, windowsBefore: read.length })
      expect(told.at(0)).toBe(read.length)
      expect([...calls(), ...read].sort()).toEqual([
        ...hours(6).map(h => `a ${h}`),
        ...hours(6).map(h => `b ${h}`),
      ])
      provider.calls.length = 0
      expect(await run()).toMatchObject({ windowsRead: 12, windowsBefore: 0 })
      expect(provider.calls).toHaveLength(12)
    })

    test.each([
      ['a day later', { later: dayMs + 1 }],
      ['by a clock that fell back', { later: -hourMs }],
      ['anew', { begin: 'anew' as const }],
      ['of another span', { span: { startMs: june1Ms, endMs: june1Ms + 5 * hourMs } }],
      ['of one scope', { scope: 'a' }],
    ])(
      'a request %s begins from the start',
      async (_, { later = 0, ...options }: { later?: number } & Partial<OnceOptions>) => {
        await cutShort()
        clockMs += later
        const summary = await run(options)
        expect(summary.windowsBefore).toBe(0)
        expect(provider.calls).toHaveLength(summary.windowsDue)
      },
    )

    test('a figure that another contradicts is no gap, and its window is not read again', async () => {
      const plain = provider.source()
      const sources = [
        provider.opened({
          toUsage: (item, at) => plain.toUsage(item, at).map(usage => ({ ...usage, doubt: 'they differ' })),
        }),
      ]
      provider.failure = (scope, { startMs }) =>
        scope === 'a' && startMs === june1Ms ? new Fault('SOURCE_BUSY', '503') : undefined
      expect((await run({ sources })).gaps).toMatchObject([{ fault: { code: 'SOURCE_BUSY' } }])
      provider.failure = () => undefined
      expect(await run({ sources })).toMatchObject({ windowsBefore: 11, gaps: [] })
    })

    test('with gaps: only windows that failed, or of which an item did, are read the next time', async () => {
      const bad = [{ id: 'i', subject: 'org', seconds: '?' }]
      const good = provider.items
      provider.failure = (scope, { startMs }) =>
        scope === 'a' && startMs === june1Ms ? new Fault('SOURCE_BUSY', '503') : undefined
      provider.items = (scope, window) =>
        scope === 'b' && window.startMs === june1Ms ? bad : good(scope, window)
      expect((await run()).gaps).toHaveLength(2)
      provider.calls.length = 0
      provider.failure = () => undefined
      provider.items = good
      expect(await run()).toMatchObject({ windowsRead: 12, windowsBefore: 10, gaps: [] })
      expect(calls().sort()).toEqual(['a 0 complete', 'b 0 complete'])
    })
  })

  test('a window that heals within its tries is no gap; one that does not is named, and all else is whole', async () => {
    let tries = 0
    provider.failure = (scope, window) => {
      if (scope === 'b' && window.startMs === hourAfterJune1(2).startMs)
        return new Fault('SOURCE_BUSY', 'org-1/b: 500', { endpoint: 'usage' })
      if (scope === 'a' && window.startMs === june1Ms && tries++ < 2) return new Fault('SOURCE_BUSY', 'once')
      return undefined
    }
    const summary = await run()
    expect(summary).toMatchObject({ windowsDue: 12, windowsRead: 11, windowsFailed: 1 })
    expect(summary.gaps).toEqual([
      {
        source,
        scope: 'b',
        start: '2025-06-01T02:00:00Z',
        end: '2025-06-01T03:00:00Z',
        fault: { code: 'SOURCE_BUSY', message: 'org-1/b: 500' },
      },
    ])
    expect(marks('a').filter(mark => mark.startsWith('0 '))).toEqual(['0 failed', '0 failed', '0 complete'])
    expect(marks('b').filter(mark => mark.startsWith('2 '))).toEqual(Array(3).fill('2 failed'))
  })

  test('a scope that keeps failing is tried once a window after a while', async () => {
    provider.failure = scope => (scope === 'b' ? new Fault('SOURCE_DENIED', '403') : undefined)
    const summary = await run({ sources: [provider.opened({ concurrency: 1 })] })
    expect(summary).toMatchObject({ windowsRead: 6, windowsFailed: 6, gaps: { length: 6 } })
    expect(provider.calls.filter(call => call.scope === 'b')).toHaveLength(3 + 3 + 4)
  })

  test('bad items are gaps of their subject', async () => {
    provider.items = () => [
      { id: 'i-1', subject: 'org-1', seconds: '?' },
      { id: 'i-2', subject: 'org-1', seconds: '5' },
    ]
    const summary = await run({ span: hourAfterJune1(0), scope: 'a' })
    expect(summary).toMatchObject({ windowsRead: 1, windowsFailed: 0, readings: 1 })
    expect(summary.gaps).toMatchObject([{ scope: 'a', subject: 'org-1', fault: { code: 'ITEM_UNREADABLE' } }])
  })

  test('takes a source and a scope by name, and refuses names that are not there', async () => {
    expect(await run({ source: 'test/one', scope: 'b' })).toMatchObject({ windowsDue: 6 })
    expect(marks('a')).toEqual([])
    expect(marks('*')).toEqual([])
    await expect(run({ source: 'two' })).rejects.toMatchObject({ code: 'USAGE' })
    await expect(run({ scope: 'c' })).rejects.toMatchObject({ code: 'USAGE' })
  })

  test('windows that are not over are counted, not read', async () => {
    clockMs = june1Ms + 2.5 * hourMs
    expect(await run()).toMatchObject({ windowsDue: 4, windowsRead: 4, windowsRunning: 8, gaps: [] })
  })

  test('a listing that fails is a gap of its own, and the scopes that are known are read', async () => {
    outbox.see(source, [{ scope: 'a' }], june1Ms)
    provider.listingFailure = new Fault('SOURCE_DENIED', 'organizations: 401')
    const summary = await run()
    expect(summary).toMatchObject({ windowsRead: 6, windowsFailed: 0 })
    expect(summary.gaps.map(gap => gap.scope)).toEqual(Array(6).fill('*'))
    expect(marks('*')).toEqual(['5 failed'])
  })

  test('a stop ends it with what was read stored', async () => {
    provider.latencyMs = 30
    const stop = new AbortController()
    const reading = run({ signal: stop.signal, sources: [provider.opened({ concurrency: 1 })] })
    await until(() => marks('a').length >= 2)
    stop.abort()
    await expect(reading).rejects.toMatchObject({ code: 'ABORTED' })
    const read = stored().length
    expect(read).toBeGreaterThan(8)
    expect(marks('a').length).toBeLessThan(6)
  })

  test('waits for room in a full outbox, and gives up in words when none comes', async () => {
    reopen({ bytesMax: 8000 })
    await expect(run({ fullLimitMs: 500 })).rejects.toMatchObject({ code: 'OUTBOX_FULL' })
    const emptying = setInterval(() => outbox.releaseThrough(outbox.bounds().nextSeq - 1), 200)
    try {
      expect(await run({ fullLimitMs: 10_000 })).toMatchObject({ windowsRead: 12 })
    } finally {
      clearInterval(emptying)
    }
  })
})

test('six hours of 50 organizations with 20 profiles each is collected in less than 150 MB', async () => {
  const program = join(import.meta.dirname, 'thousand-scopes.ts')
  const child = spawn(process.execPath, [program, dir], { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.on('data', chunk => {
    text += chunk
  })
  const [code] = await once(child, 'exit')
  expect(code).toBe(0)
  const { windowsRead, rssMaxBytes } = JSON.parse(text)
  expect(windowsRead).toBe(6000)
  expect(rssMaxBytes).toBeLessThan(150e6)
}, 120_000)
