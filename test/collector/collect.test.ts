/** A read made whole: what its mark says, what a re-read sends, and what of a bad answer is a gap and what a failure. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type CollectOptions, collectRead } from '../../collector/collect.ts'
import { dueWindows } from '../../collector/schedule.ts'
import { type OutboxOptions, SqliteOutbox } from '../../runtime/log/outbox.ts'
import { contentHash, type MarkEvent, type ReadingEvent, showDigest } from '../../schemas/event.ts'
import { Fault } from '../../schemas/fault.ts'
import { dayMs, hourMs, minuteMs } from '../../schemas/window.ts'
import { hourAfterJune1 } from '../reads.ts'
import { type Item, Provider } from './provider.ts'

let dir: string
let outbox: SqliteOutbox
let provider: Provider
let clockMs: number
const window = hourAfterJune1(0)

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-collect-'))
  provider = new Provider()
  clockMs = window.endMs + minuteMs
  reopen()
})
afterEach(() => {
  outbox[Symbol.dispose]()
  rmSync(dir, { recursive: true, force: true })
})

function reopen(options: Partial<OutboxOptions> = {}): void {
  outbox?.[Symbol.dispose]()
  outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: () => clockMs, ...options })
}

function read(options: Partial<CollectOptions> = {}) {
  return collectRead({
    opened: provider.opened(),
    scope: 'a',
    window,
    outbox,
    by: 'schedule',
    nowMs: () => clockMs,
    signal: new AbortController().signal,
    ...options,
  })
}

/** What is in the outbox, read by read: the readings before each mark. */
function stored(): { mark: MarkEvent; readings: ReadingEvent[] }[] {
  const reads: { mark: MarkEvent; readings: ReadingEvent[] }[] = []
  let readings: ReadingEvent[] = []
  for (const row of outbox.rowsFrom(0, { rowsMax: 1e6, bytesMax: 1e9 })) {
    const event = JSON.parse(row.value.toString()) as MarkEvent | ReadingEvent
    if (event.type === 'io.meterline.read.v1') {
      reads.push({ mark: event as MarkEvent, readings })
      readings = []
    } else readings.push(event as ReadingEvent)
  }
  expect(readings).toEqual([])
  return reads
}

const item = (id: string, more: Partial<Item> = {}): Item => ({
  id,
  subject: 'org-1',
  seconds: '3600',
  ...more,
})

describe('a complete read', () => {
  test('is its readings, then a mark with their count and digest', async () => {
    provider.items = () => [item('i-1'), item('i-2', { seconds: '60' })]
    expect(await read()).toMatchObject({
      outcome: 'complete',
      readings: 2,
      repeats: false,
      settled: false,
      bad: [],
    })
    const [only, ...rest] = stored()
    expect(rest).toEqual([])
    expect(
      only?.readings.map(event => [event.data.resource.id, event.data.measures.instance_seconds]),
    ).toEqual([
      ['i-1', '3600'],
      ['i-2', '60'],
    ])
    expect(only?.mark).toMatchObject({
      source: 'meterline/test/one',
      scope: 'a',
      readat: new Date(clockMs).toISOString(),
      partitionkey: 'meterline/test/one a',
      data: {
        window: { start: '2025-06-01T00:00:00Z', end: '2025-06-01T01:00:00Z' },
        outcome: 'complete',
        events: 2,
        digest: showDigest(only!.readings.reduce((sum, event) => sum + contentHash(event), 0n)),
        settled: false,
        estimated: false,
      },
    })
    expect(only?.mark.data.repeats).toBeUndefined()
    for (const event of only!.readings) expect(event.readat).toBe(only!.mark.readat)
  })

  test('may be empty: a scope in which nothing ran is a complete read of nothing', async () => {
    provider.items = () => []
    expect(await read()).toMatchObject({ outcome: 'complete', readings: 0 })
    expect(stored()[0]?.mark.data).toMatchObject({
      outcome: 'complete',
      events: 0,
      digest: '0000000000000000',
    })
    // An empty read has nothing to repeat.
    clockMs += hourMs
    expect(await read()).toMatchObject({ repeats: false })
    expect(stored()[1]?.mark.data.repeats).toBeUndefined()
  })

  test('settles the window exactly from the last planned re-read on', async () => {
    clockMs = window.endMs + dayMs - 1
    expect(await read()).toMatchObject({ settled: false })
    clockMs += 1
    expect(await read()).toMatchObject({ settled: true })
    expect(stored().map(each => each.mark.data.settled)).toEqual([false, true])
  })

  test('says that it holds estimates', async () => {
    provider.items = () => [item('i-1'), item('i-2', { estimated: true })]
    await read()
    expect(stored()[0]?.mark.data.estimated).toBe(true)
    expect(stored()[0]?.readings.map(event => event.data.estimated)).toEqual([false, true])
  })

  test('of a clock that fell back has a readat behind the last one', async () => {
    await read()
    const firstMs = clockMs
    clockMs -= 30 * 1000
    await read({ by: 'hand' })
    expect(stored().map(each => Date.parse(each.mark.readat))).toEqual([firstMs, firstMs + 1])
  })

  test('begins only when its window is over', async () => {
    clockMs = window.endMs - 1
    await expect(read()).rejects.toThrow('is over')
    expect(provider.calls).toEqual([])
  })
})

describe('a re-read', () => {
  beforeEach(async () => {
    provider.items = () => [item('i-1'), item('i-2')]
    await read()
    clockMs += hourMs
  })

  test('that says the same sends its mark alone, naming the read whose readings it repeats', async () => {
    provider.items = () => [item('i-2'), item('i-1')]
    expect(await read()).toMatchObject({ readings: 2, repeats: true })
    clockMs += hourMs
    await read()
    const [first, second, third] = stored()
    expect([second?.readings, third?.readings]).toEqual([[], []])
    // Always the read that holds the readings, never one that repeats them itself.
    expect([second?.mark.data.repeats, third?.mark.data.repeats]).toEqual([
      first?.mark.readat,
      first?.mark.readat,
    ])
    expect(second?.mark.data).toMatchObject({ events: 2, digest: first?.mark.data.digest })
  })

  test('that says something else sends all of it, and the next one repeats that', async () => {
    provider.items = () => [item('i-1', { seconds: '1800' })]
    await read()
    clockMs += 1
    await read()
    const [, second, third] = stored()
    expect(second?.readings).toHaveLength(1)
    expect(third?.mark.data.repeats).toBe(second?.mark.readat)
  })

  test('after a failed one still repeats the last complete one', async () => {
    provider.failure = () => new Fault('SOURCE_BUSY', 'busy')
    await read()
    provider.failure = () => undefined
    clockMs += 1
    await read()
    expect(stored()[2]?.mark.data.repeats).toBe(stored()[0]?.mark.readat)
  })

  test('by hand sends everything', async () => {
    await read({ by: 'hand' })
    expect(stored()[1]).toMatchObject({ readings: [{}, {}] })
    expect(stored()[1]?.mark.data.repeats).toBeUndefined()
  })

  test('of an outbox that has no memory of the window sends everything', async () => {
    outbox[Symbol.dispose]()
    rmSync(dir, { recursive: true })
    reopen()
    await read()
    expect(stored()[0]?.readings).toHaveLength(2)
  })

  test('in which a label alone has changed is another content', async () => {
    provider.items = () => [item('i-1', { labels: { status: 'stopped' } }), item('i-2')]
    expect(await read()).toMatchObject({ repeats: false })
    expect(stored()[1]?.readings).toHaveLength(2)
  })
})

describe('a read that says much less', () => {
  const rule = { percent: 10, confirmAfterMs: hourMs }
  const due = () =>
    dueWindows({
      plan: provider.opened().source,
      scopes: outbox.memory.scopes('meterline/test/one'),
      nowMs: clockMs + 10 * dayMs,
      limit: 10,
    }).due.filter(each => each.window.startMs === window.startMs)
  const lastRereadMs = () => window.endMs + (provider.opened().source.rereadAfterMs.at(-1) ?? 0)

  test('does not settle its window, and is followed by another an hour later, which does if it agrees', async () => {
    const { source } = provider.opened()
    outbox.see('meterline/test/one', [{ scope: 'a' }], window.startMs)
    provider.items = () => [item('i-1'), item('i-2')]
    await read()
    clockMs = lastRereadMs()
    provider.items = () => [item('i-1')]
    expect(await read({ suspect: rule })).toMatchObject({ outcome: 'complete', settled: false })
    expect(due()).toMatchObject([{ why: 'again', dueMs: clockMs + hourMs }])
    clockMs += 30 * minuteMs
    expect(await read({ suspect: rule })).toMatchObject({ repeats: true, settled: false })
    expect(due()).toMatchObject([{ dueMs: clockMs + 30 * minuteMs }])
    clockMs += 30 * minuteMs
    expect(await read({ suspect: rule })).toMatchObject({ repeats: true, settled: true })
    expect(due()).toEqual([])
    expect(source.rereadAfterMs.length).toBeGreaterThan(0)
  })

  test('and still less the next time waits anew, and one that is back settles at once', async () => {
    provider.items = () => [item('i-1'), item('i-2'), item('i-3'), item('i-4')]
    await read()
    clockMs = lastRereadMs()
    provider.items = () => [item('i-1'), item('i-2')]
    expect(await read()).toMatchObject({ settled: false })
    clockMs += hourMs
    provider.items = () => [item('i-1')]
    expect(await read()).toMatchObject({ settled: false })
    clockMs += minuteMs
    provider.items = () => [item('i-1'), item('i-2'), item('i-3'), item('i-4')]
    expect(await read()).toMatchObject({ settled: true })
  })
})

describe('a failed read', () => {
  test('is a mark with its fault and nothing else, though items had come before it', async () => {
    provider.failure = () => new Fault('BODY_UNREADABLE', 'org-1/a: page 2 is cut off', { endpoint: 'usage' })
    expect(await read()).toMatchObject({ outcome: 'failed', fault: { code: 'BODY_UNREADABLE' } })
    const [only] = stored()
    expect(only?.readings).toEqual([])
    expect(only?.mark.data).toEqual({
      window: { start: '2025-06-01T00:00:00Z', end: '2025-06-01T01:00:00Z' },
      outcome: 'failed',
      events: 0,
      digest: '0000000000000000',
      settled: false,
      estimated: false,
      fault: { code: 'BODY_UNREADABLE', message: 'org-1/a: page 2 is cut off' },
    })
    expect(outbox.memory.window('meterline/test/one', 'a', window.startMs)).toMatchObject({ failures: 1 })
  })

  test('comes of anything that is thrown, with a long message cut', async () => {
    provider.failure = () => new TypeError(`x is not iterable ${'y'.repeat(5000)}`)
    await read()
    expect(stored()[0]?.mark.data.fault?.code).toBe('BODY_UNREADABLE')
    expect(stored()[0]?.mark.data.fault?.message.length).toBeLessThanOrEqual(1024)
  })

  test('comes of one resource named twice', async () => {
    provider.items = () => [item('i-1'), item('i-2'), item('i-1', { seconds: '10' })]
    expect(await read()).toMatchObject({
      outcome: 'failed',
      fault: { code: 'READING_TWICE', facts: { resource: 'i-1' } },
    })
    expect(stored()).toMatchObject([{ readings: [], mark: { data: { fault: { code: 'READING_TWICE' } } } }])
  })

  test('comes of a read that is not done in its time', async () => {
    provider.latencyMs = 10_000
    const outcome = await read({ deadlineMs: 50 })
    expect(outcome).toMatchObject({ outcome: 'failed', fault: { code: 'SOURCE_UNREACHABLE' } })
    expect(stored()).toHaveLength(1)
  })

  test('comes of a source that ends quietly when its time is over', async () => {
    const quiet = provider.opened({
      async *read(_scope, _window, signal) {
        yield item('i-1')
        await new Promise(resolve => signal.addEventListener('abort', resolve))
      },
    })
    expect(await read({ opened: quiet, deadlineMs: 50 })).toMatchObject({ outcome: 'failed' })
    expect(stored()[0]?.readings).toEqual([])
  })

  test('a stop is no failure: nothing is written', async () => {
    provider.latencyMs = 10_000
    const stop = new AbortController()
    const reading = read({ signal: stop.signal })
    stop.abort()
    await expect(reading).rejects.toMatchObject({ code: 'ABORTED' })
    expect(stored()).toEqual([])
    expect(outbox.memory.window('meterline/test/one', 'a', window.startMs)).toBeUndefined()
  })
})

describe('bad items', () => {
  test('are named in the mark with their subject where it can be read, and the rest of the read counts', async () => {
    provider.items = () => [
      item('i-1'),
      item('i-2', { seconds: '20.59h' }),
      item('i-3', { seconds: '', subject: '' }),
      item('i-4', { seconds: '3601', subject: 'org-2' }),
      item('i-5', { labels: { note: 'x'.repeat(5000) } }),
      item('i-6'),
    ]
    expect(await read()).toMatchObject({ outcome: 'complete', readings: 2 })
    const [only] = stored()
    expect(only?.readings.map(event => event.data.resource.id)).toEqual(['i-1', 'i-6'])
    expect(only?.mark.data).toMatchObject({ outcome: 'complete', events: 2 })
    expect(only?.mark.data.bad).toEqual([
      { subject: 'org-1', code: 'ITEM_UNREADABLE', message: 'i-2: usage "20.59h" is no number' },
      { code: 'ITEM_UNREADABLE', message: 'i-3: usage "" is no number' },
      {
        subject: 'org-2',
        code: 'VALUE_OUT_OF_BOUNDS',
        message: expect.stringContaining('3601 is more than its window of 3600 s holds'),
      },
      {
        subject: 'org-1',
        code: 'ITEM_UNREADABLE',
        message: expect.stringMatching(/^i-5: \/data\/labels\/note /),
      },
    ])
  })

  test('that vanish in a re-read of the same readings are gone from its mark', async () => {
    provider.items = () => [item('i-1'), item('i-2', { seconds: '?' })]
    await read()
    provider.items = () => [item('i-1')]
    clockMs += hourMs
    expect(await read()).toMatchObject({ repeats: true, bad: [] })
    expect(stored()[1]?.mark.data.bad).toBeUndefined()
  })

  test('in their thousands fail the read', async () => {
    provider.items = () => Array.from({ length: 1001 }, (_, index) => item(`i-${index}`, { seconds: '?' }))
    expect(await read()).toMatchObject({ outcome: 'failed', fault: { code: 'BODY_UNREADABLE' } })
    expect(stored()[0]?.readings).toEqual([])
    expect(stored()[0]?.mark.data.fault?.message).toMatch(
      /more than 1000 items are unreadable, the first: i-0/,
    )
  })

  test('a thousand of them stay within what a message may hold, with shorter words', async () => {
    provider.items = () =>
      Array.from({ length: 1000 }, (_, index) => item(`i-${index}`, { seconds: 'x'.repeat(2000) }))
    expect(await read()).toMatchObject({ outcome: 'complete', bad: { length: 1000 } })
    const [row, ...rest] = outbox.rowsFrom(0, { rowsMax: 10, bytesMax: 1e9 })
    expect(rest).toEqual([])
    expect(row?.value.length).toBeLessThan(512 * 1024)
  })

  test('a reading too large for a message is one of them', async () => {
    const labels = Object.fromEntries(
      Array.from({ length: 64 }, (_, index) => [`l${index}`, '€'.repeat(4000)]),
    )
    provider.items = () => [item('i-1'), item('i-2', { labels })]
    await read()
    expect(stored()[0]?.mark.data.bad).toMatchObject([{ code: 'EVENT_TOO_LARGE', subject: 'org-1' }])
    expect(stored()[0]?.readings).toHaveLength(1)
  })
})

describe('a usage with a doubt', () => {
  const doubting = (doubts: Readonly<Record<string, string>>) => {
    const plain = provider.source()
    return provider.opened({
      toUsage: (given, at) =>
        plain.toUsage(given, at).map(usage => {
          const doubt = doubts[usage.resource.id]
          return doubt === undefined ? usage : { ...usage, doubt }
        }),
    })
  }

  test('counts, and is named in the mark behind what could not be taken', async () => {
    provider.items = () => [item('i-1'), item('i-2', { seconds: '?' }), item('i-3', { subject: 'org-2' })]
    const opened = doubting({ 'i-1': '3600 s, and 3599 s by its own count', 'i-3': 'y'.repeat(5000) })
    const outcome = await read({ opened })
    expect(outcome).toMatchObject({
      outcome: 'complete',
      readings: 2,
      bad: { length: 1 },
      doubts: { length: 2 },
    })
    const [only] = stored()
    expect(only?.readings.map(event => event.data.resource.id)).toEqual(['i-1', 'i-3'])
    expect(JSON.stringify(only?.readings)).not.toContain('by its own count')
    expect(only?.mark.data.bad).toEqual([
      { subject: 'org-1', code: 'ITEM_UNREADABLE', message: 'i-2: usage "?" is no number' },
      {
        subject: 'org-1',
        code: 'FIGURES_DIFFER',
        message: '3600 s, and 3599 s by its own count',
        counted: true,
      },
      {
        subject: 'org-2',
        code: 'FIGURES_DIFFER',
        message: expect.stringMatching(/^y{1000}…$/),
        counted: true,
      },
    ])
  })

  test('repeats the read before it where the readings are the same: the new mark alone has the doubt', async () => {
    provider.items = () => [item('i-1')]
    await read({ opened: doubting({}) })
    clockMs += hourMs
    expect(await read({ opened: doubting({ 'i-1': 'no' }) })).toMatchObject({ repeats: true })
    expect(stored().map(({ mark, readings }) => [readings.length, mark.data.bad?.length ?? 0])).toEqual([
      [1, 0],
      [0, 1],
    ])
  })

  test('in their thousands they neither fail the read nor make its mark larger than a message may be', async () => {
    provider.items = () => Array.from({ length: 1500 }, (_, index) => item(`i-${index}`))
    const doubts = Object.fromEntries(
      Array.from({ length: 1500 }, (_, index) => [`i-${index}`, 'x'.repeat(2000)]),
    )
    expect(await read({ opened: doubting(doubts) })).toMatchObject({ outcome: 'complete', readings: 1500 })
    const rows = outbox.rowsFrom(0, { rowsMax: 1e6, bytesMax: 1e9 })
    const mark = rows.at(-1)?.value ?? Buffer.alloc(0)
    expect(mark.length).toBeLessThan(512 * 1024)
    const { data } = JSON.parse(mark.toString()) as MarkEvent
    expect(data.bad).toHaveLength(1000)
    expect(data.bad?.every(({ counted }) => counted === true)).toBe(true)
  })
})

test('a full outbox is no failure of the source: it is thrown, nothing is stored, and the window stays due', async () => {
  reopen({ bytesMax: 3000 })
  provider.items = () => Array.from({ length: 10 }, (_, index) => item(`i-${index}`))
  await expect(read()).rejects.toMatchObject({ code: 'OUTBOX_FULL' })
  expect(stored()).toEqual([])
  expect(outbox.memory.nextReadatMs('meterline/test/one', 'a', window, 0)).toBe(0)
})
