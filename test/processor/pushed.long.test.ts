/** Pushed events in a real ClickHouse: once each, conflicts kept with what they say, amended and voided with a name to it. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import { Ledger } from '../../processor/ledger.ts'
import { currentPushed } from '../../processor/pushed.ts'
import { positionParams } from '../../processor/reads.ts'
import { conflicts, rejectedRows, replayRejected } from '../../processor/replay.ts'
import { Store } from '../../processor/store.ts'
import type { LogBatch } from '../../runtime/log/log.ts'
import type { PushedEvent } from '../../runtime/log/outbox.ts'
import type { ReadingEvent } from '../../schemas/event.ts'
import { type AmendmentEvent, amendmentType, sealAbout } from '../../schemas/pushed.ts'
import { hourMs } from '../../schemas/window.ts'
import { batchOf, headers, instance, readEvents } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { dying } from './dying.ts'

const june = { startMs: Date.UTC(2025, 5, 1), endMs: Date.UTC(2025, 6, 1) }
const appendedMs = Date.UTC(2025, 5, 1, 12)
let rig: Awaited<ReturnType<typeof startClickHouse>>
let databases = 0

beforeAll(async () => {
  rig = await startClickHouse()
})
afterAll(async () => {
  await rig?.stop()
})

function event(id: string, change: Record<string, unknown> = {}): Buffer {
  const base = { specversion: '1.0', id, source: 'urn:app', type: 'call', subject: 'acme' }
  return Buffer.from(
    JSON.stringify({ ...base, time: '2025-06-01T08:00:00.123456789Z', data: { tokens: 7 }, ...change }),
  )
}

function amendment(data: Partial<AmendmentEvent['data']> & { readonly id: string }, name: string): Buffer {
  const whole = { source: 'urn:app', action: 'void' as const, author: 'Ann', reason: 'a test run', ...data }
  return Buffer.from(
    sealAbout<AmendmentEvent>({
      id: name,
      source: 'meterline/amend/person',
      type: amendmentType,
      partitionkey: `${whole.source} ${whole.id}`,
      timeMs: appendedMs,
      data: whole,
    }),
  )
}

function batch(values: readonly Buffer[], first: number, partition = 0): LogBatch {
  return {
    partition,
    messages: values.map((value, index) => ({
      offset: BigInt(first + index),
      key: null,
      value,
      headers,
      appendedMs,
    })),
  }
}

async function world() {
  const store = await Store.open({ ...rig, database: `pushed_${process.pid}_${databases++}` })
  let next = 0
  const state = {
    store,
    async put(...values: readonly Buffer[]) {
      const put = await new Ledger(store, 'log', null).put([accept(batch(values, next), 'log')])
      next += values.length
      return put
    },
    /** Sends what is replayed into the same log. */
    sink: {
      async put(events: readonly PushedEvent[]) {
        await state.put(...events.map(({ value }) => value))
      },
    },
    current: () =>
      store.rows<{
        id: string
        type: string
        time: string
        time_text: string
        data: string
        amended: boolean
      }>(
        `select id, type, time, time_text, data, amended from ${currentPushed('time >= toDateTime(0)')} order by id`,
      ),
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  }
  return state
}

const said = (rows: readonly { id: string; data: string }[]) => rows.map(({ id, data }) => `${id} ${data}`)

describe('an identity is one event', () => {
  test('the first counts; the same again is a duplicate, anything else a conflict that keeps what it says', async () => {
    await using at = await world()
    expect(await at.put(event('1'), event('2'), event('1'))).toMatchObject({ pushed: 2, duplicates: 1 })
    const outcome = await at.put(
      event('1'),
      event('1', { data: { tokens: 8 } }),
      event('1', { time: '2025-06-02T08:00:00Z' }),
      event('1', { type: 'other' }),
      event('1', { subject: 'b' }),
      event('1', { source: 'urn:other' }),
    )
    expect(outcome).toMatchObject({ pushed: 1, duplicates: 1, conflicts: 4 })
    const rows = await at.current()
    expect(said(rows)).toEqual(['1 {"tokens":7}', '1 {"tokens":7}', '2 {"tokens":7}'])
    expect(rows[0]).toMatchObject({
      time_text: '2025-06-01T08:00:00.123456789Z',
      time: '2025-06-01T08:00:00.123Z',
    })
    const found = await conflicts(at.store, june)
    expect(found.map(({ what, id, offset }) => [what, id, offset])).toEqual(
      ['4', '5', '6', '7'].map(offset => ['pushed', '1', offset]),
    )
    expect(await conflicts(at.store, june, { offset: 1, limit: 2 })).toEqual(found.slice(1, 3))
    expect(found.map(({ first }) => JSON.parse(first).data)).toEqual(Array(4).fill({ tokens: 7 }))
    expect(JSON.parse(found[0]?.second ?? '').data).toEqual({ tokens: 8 })
    expect(JSON.parse(found[1]?.second ?? '').time).toBe('2025-06-02T08:00:00Z')
    const [position] = await at.store.rows(
      `select sum(messages) = sum(events + reads + decisions + pushed + amendments + duplicates + conflicts + rejects) as all
       from positions final`,
    )
    expect(position).toEqual({ all: 1 })
  })

  test('without a time it happened when the log took it, and sent again it is the same', async () => {
    await using at = await world()
    expect(await at.put(event('1', { time: undefined }))).toMatchObject({ pushed: 1 })
    const later = batch([event('1', { time: undefined })], 1)
    const [message] = later.messages
    const put = { ...later, messages: [{ ...message!, appendedMs: appendedMs + hourMs }] }
    expect(await new Ledger(at.store, 'log', null).put([accept(put, 'log')])).toMatchObject({ duplicates: 1 })
    expect(await at.current()).toMatchObject([{ time_text: '', time: '2025-06-01T12:00:00.000Z' }])
  })

  test.each(['before', 'after'] as const)('dying %s any statement loses and doubles nothing', async when => {
    const values = [event('1'), event('1'), event('1', { data: 9 }), amendment({ id: '1' }, 'a'), event('2')]
    await using at = await world()
    await at.put(event('0'))
    const given = accept(batch(values, 1), 'log')
    for (let statement = 1; ; statement += 1) {
      const broken = dying(at.store, statement, when)
      const died = await new Ledger(broken.store, 'log', null).put([given]).then(
        () => false,
        () => true,
      )
      // What was there when it died is replayed over, again and again: each time it is the same messages.
      if (!died) {
        expect(statement).toBeGreaterThan(6)
        break
      }
    }
    expect(said(await at.current())).toEqual(['0 {"tokens":7}', '2 {"tokens":7}'])
    expect(
      await at.store.rows('select fate, count() as n from passed final group by fate order by fate'),
    ).toEqual([
      { fate: 'conflict', n: '1' },
      { fate: 'duplicate', n: '1' },
    ])
  })
})

describe('amendments', () => {
  test('void and amend count from then on, the latest by the log, and the original stays', async () => {
    await using at = await world()
    await at.put(event('1'), event('2'), event('3'))
    const amended = { type: 'call', subject: 'acme', time: '2025-06-02T00:00:00Z', data: { tokens: 70 } }
    const outcome = await at.put(
      amendment({ id: '1' }, 'a1'),
      amendment({ id: '2', action: 'amend', event: amended }, 'a2'),
      amendment({ id: '3' }, 'a3'),
      amendment({ id: '3', action: 'amend', event: amended }, 'a4'),
      amendment({ id: '2' }, 'a2'),
    )
    expect(outcome).toMatchObject({ amendments: 4, conflicts: 1 })
    expect(said(await at.current())).toEqual(['2 {"tokens":70}', '3 {"tokens":70}'])
    const asOf = async (end: bigint) =>
      said(
        await at.store.rows<{ id: string; data: string }>(
          `select id, data from ${currentPushed('time >= toDateTime(0)', 'position')} order by id`,
          positionParams(new Map([['log/0', end]])),
        ),
      )
    expect(await asOf(2n)).toEqual(['1 {"tokens":7}', '2 {"tokens":7}'])
    expect(await asOf(4n)).toEqual(['2 {"tokens":7}', '3 {"tokens":7}'])
    expect(await asOf(6n)).toEqual(['2 {"tokens":70}'])
    expect(await asOf(7n)).toEqual(['2 {"tokens":70}', '3 {"tokens":70}'])
    expect(
      await at.store.rows('select id, author, reason, action from amendments final order by offset'),
    ).toEqual(
      [
        ['1', 'void'],
        ['2', 'amend'],
        ['3', 'void'],
        ['3', 'amend'],
      ].map(([id, action]) => ({
        id,
        author: 'Ann',
        reason: 'a test run',
        action,
      })),
    )
    expect(await at.store.rows('select count() as n from pushed final')).toEqual([{ n: '3' }])
  })

  test('of a reading, without an author, or with a time beyond limits it is a reject', async () => {
    await using at = await world()
    const far = { type: 'call', subject: 'acme', time: '2035-06-03T00:00:00Z' }
    const outcome = await at.put(
      amendment({ id: '1', source: 'meterline/rafay/prod' }, 'a1'),
      amendment({ id: '1', author: '' }, 'a2'),
      amendment({ id: '1', action: 'amend', event: far }, 'a3'),
      amendment({ id: '1', action: 'amend' }, 'a4'),
    )
    expect(outcome.rejects.map(({ code }) => code)).toEqual([
      'EVENT_DATA_INVALID',
      'EVENT_DATA_INVALID',
      'TIME_OUT_OF_BOUNDS',
      'EVENT_DATA_INVALID',
    ])
  })
})

describe('replay', () => {
  const tomorrow = event('1', { time: '2025-06-03T00:00:00Z' })

  test('what can be taken by now comes in once, what was cut is named, and each reject says what became of it', async () => {
    await using at = await world()
    await at.put(
      tomorrow,
      Buffer.from('{'),
      event('2', { data: 'x'.repeat(100_000), time: '2025-06-03T00:00:00Z' }),
    )
    // In binary mode its headers are half of it.
    const binary = {
      'content-type': 'application/json',
      ce_specversion: '1.0',
      ce_id: '4',
      ce_source: 'urn:app',
      ce_type: 'call',
      ce_subject: 'acme',
      ce_time: '2025-06-03T00:00:00Z',
    }
    const [message] = batch([Buffer.from('{"tokens":4}')], 3).messages
    const refused = { partition: 0, messages: [{ ...message!, headers: binary }] }
    await new Ledger(at.store, 'log', null).put([accept(refused, 'log')])
    expect(await at.current()).toEqual([])
    const nowMs = Date.UTC(2025, 5, 3)
    // The log takes it a day later.
    const replay = () => replayRejected(at.store, { put: later }, { nowMs })
    let next = 4
    async function later(events: readonly PushedEvent[]) {
      const given = batch(
        events.map(({ value }) => value),
        next,
      )
      next += events.length
      const messages = given.messages.map(message => ({ ...message, appendedMs: nowMs }))
      await new Ledger(at.store, 'log', null).put([accept({ ...given, messages }, 'log')])
    }
    const first = await replay()
    expect(first.sent).toBe(2)
    expect(first.left.map(({ offset, why }) => [offset, why])).toEqual([
      ['1', 'refused'],
      ['2', 'cut'],
    ])
    expect(said(await at.current())).toEqual(['1 {"tokens":7}', '4 {"tokens":4}'])
    expect(await replay()).toMatchObject({ sent: 0, left: [{ why: 'done' }, {}, {}, { why: 'done' }] })
    // One that was under way when the other began.
    await at.store.run('truncate table replays')
    expect(await replay()).toMatchObject({ sent: 2 })
    expect(said(await at.current())).toEqual(['1 {"tokens":7}', '4 {"tokens":4}'])
    const rows = await rejectedRows(at.store)
    expect(rows.map(({ offset, code, replays }) => [offset, code, replays.map(({ fate }) => fate)])).toEqual([
      ['0', 'TIME_OUT_OF_BOUNDS', ['duplicate']],
      ['1', 'EVENT_NOT_JSON', []],
      ['2', 'TIME_OUT_OF_BOUNDS', []],
      ['3', 'TIME_OUT_OF_BOUNDS', ['duplicate']],
    ])
    expect(rows[2]).toMatchObject({ kept: 65_536, bytes: 100_120 })
  })

  test('a reading that comes back heals its read', async () => {
    await using at = await world()
    const read = {
      source: 'meterline/rafay/test',
      scope: 'compute',
      window: { startMs: june.startMs, endMs: june.startMs + hourMs },
      readatMs: june.startMs + 2 * hourMs,
    }
    const events = readEvents(read, [instance('a', 'i1', '3600'), instance('b', 'i2', '1800')])
    const { messages } = batchOf(events, 0)
    // As if an older version had refused the second reading.
    const refused = accept({ partition: 0, messages }, 'log', {
      refused: new Map([[1n, new Error('not yet') as never]]),
    })
    await new Ledger(at.store, 'log', null).put([refused])
    const held = () => at.store.rows<{ held: boolean }>('select held from reads final')
    expect(await held()).toEqual([{ held: false }])
    let next = 3
    const sink = {
      async put(again: readonly PushedEvent[]) {
        const given = batch(
          again.map(({ value }) => value),
          next,
        )
        next += again.length
        await new Ledger(at.store, 'log', null).put([accept(given, 'log')])
      },
    }
    expect(await replayRejected(at.store, sink, { nowMs: appendedMs })).toEqual({
      sent: 1,
      marks: 1,
      left: [],
      unmarked: [],
    })
    expect(await held()).toEqual([{ held: true }])
    expect((events[1] as ReadingEvent).subject).toBe('b')
    expect(await at.store.rows('select subject from events final order by subject')).toEqual([
      { subject: 'a' },
      { subject: 'b' },
    ])
  })

  test('what HTTP refused for its source does not get in by a replay', async () => {
    await using at = await world()
    const { Ingest } = await import('../../runtime/log/ingest.ts')
    const ingest = new Ingest({ sink: at.sink, nowMs: () => appendedMs })
    const forged = event('1', { source: 'meterline/rafay/prod' })
    const answer = await ingest.take({ 'content-type': 'application/cloudevents+json' }, forged)
    expect(answer.status).toBe(403)
    expect(await rejectedRows(at.store)).toMatchObject([
      { origin: 'http', code: 'SOURCE_RESERVED', bytes: forged.length },
    ])
    expect(await replayRejected(at.store, at.sink, { nowMs: appendedMs })).toMatchObject({
      sent: 0,
      left: [{ why: 'refused', code: 'SOURCE_RESERVED' }],
    })
    const early = await ingest.take({ 'content-type': 'application/json' }, tomorrow)
    expect(early.problem?.code).toBe('TIME_OUT_OF_BOUNDS')
    const later = Date.UTC(2025, 5, 3)
    expect(
      await replayRejected(at.store, at.sink, { nowMs: later, code: 'TIME_OUT_OF_BOUNDS' }),
    ).toMatchObject({
      sent: 1,
    })
  })
})
