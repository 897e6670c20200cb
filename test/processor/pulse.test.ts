/** The processor's pulse: what makes it red, what makes it green again, and what does not worry it. */
import { expect, test } from 'vitest'
import { Pulse } from '../../processor/pulse.ts'
import { hourMs, minuteMs } from '../../schemas/window.ts'

const stuck = (messages: number) => [
  `stuck: nothing was acknowledged for 60 s, and ${messages} messages wait`,
]

test('messages in hand that are not acknowledged for a minute are trouble, until one is', () => {
  const pulse = new Pulse(0)
  pulse.heard({ lag: 0n }, minuteMs)
  pulse.given(3, minuteMs)
  pulse.heard({ lag: 0n }, 2 * minuteMs - 1)
  expect(pulse.problems(2 * minuteMs - 1)).toEqual([])
  expect(pulse.problems(2 * minuteMs)).toEqual(stuck(3))
  pulse.acknowledged(2, 0, 2 * minuteMs)
  expect(pulse.problems(3 * minuteMs - 2)).toEqual([])
})

test('lag without progress is trouble though nothing is in hand: a consumer that stopped looks like an idle one', () => {
  const pulse = new Pulse(0)
  for (let ms = 0; ms <= minuteMs; ms += 5000) pulse.heard({ lag: 7n }, ms)
  expect(pulse.problems(minuteMs)).toEqual(stuck(7))
  pulse.heard({ lag: 0n }, minuteMs + 1)
  expect(pulse.problems(minuteMs + 1)).toEqual([])
})

test('a log under steady load is never caught up with, and no trouble while batches are acknowledged', () => {
  const pulse = new Pulse(0)
  for (let ms = 0; ms < hourMs; ms += 20_000) {
    pulse.heard({ lag: 1000n }, ms)
    pulse.given(10, ms)
    pulse.acknowledged(10, 0, ms + 10)
    expect(pulse.problems(ms + 19_999)).toEqual([])
  }
})

test('a quiet log is no trouble for hours, one that does not say how far it is soon is', () => {
  const pulse = new Pulse(0)
  pulse.heard({ lag: 0n }, 10 * hourMs)
  expect(pulse.problems(10 * hourMs + minuteMs - 1)).toEqual([])
  pulse.unheard('LOG_UNREACHABLE no broker answers')
  expect(pulse.problems(10 * hourMs + minuteMs)).toEqual([
    'the log has not said for 60 s how far it is: LOG_UNREACHABLE no broker answers',
  ])
})

test('a partition that stays paused is named; one that is paused again and again is not', () => {
  const pulse = new Pulse(0)
  for (let ms = 0; ms <= minuteMs; ms += 10_000)
    pulse.heard({ lag: 0n, paused: ms % 20_000 === 0 ? [3, 5] : [3] }, ms)
  expect(pulse.problems(minuteMs)).toEqual(['paused: partitions 3 are not read'])
  pulse.heard({ lag: 0n, problem: 'member kicked out of its group' }, minuteMs)
  expect(pulse.problems(minuteMs)).toEqual(['the log: member kicked out of its group'])
})

test('batches that are dropped to be read again do not count as waiting', () => {
  const pulse = new Pulse(0)
  pulse.given(5, 0)
  pulse.dropped(5)
  pulse.heard({ lag: 0n }, 2 * minuteMs)
  expect(pulse.inHand).toBe(0)
  expect(pulse.problems(2 * minuteMs)).toEqual([])
})

test('cells stale for ten minutes are trouble', () => {
  const pulse = new Pulse(0)
  pulse.stale(10 * minuteMs - 1)
  expect(pulse.problems(0)).toEqual([])
  pulse.stale(10 * minuteMs)
  expect(pulse.problems(0)).toEqual([
    'rollups: cells have been stale for 600 s; answers come from the ledger, and are slow',
  ])
})

test('rejects are trouble where they are many and a percent of the last hour, and no longer an hour later', () => {
  const pulse = new Pulse(0)
  const take = (messages: number, rejects: number, ms: number) => {
    pulse.given(messages, ms)
    pulse.acknowledged(messages, rejects, ms)
    pulse.heard({ lag: 0n }, ms)
  }
  take(100, 19, 0)
  expect(pulse.problems(0)).toEqual([])
  take(1900, 1, minuteMs)
  expect(pulse.problems(minuteMs)).toEqual(['rejects: 20 of 2000 messages of the last hour'])
  take(1, 0, 2 * minuteMs)
  expect(pulse.problems(2 * minuteMs)).toEqual([])
  take(10, 10, hourMs + 2 * minuteMs)
  expect(pulse.rejectedLastHour(hourMs + 2 * minuteMs)).toEqual({ messages: 10, rejects: 10 })
})
