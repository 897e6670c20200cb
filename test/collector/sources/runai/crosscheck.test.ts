/** When intervals and other figures of Run:ai are held to differ, and when not. */
import Fraction from 'fraction.js'
import Type from 'typebox'
import { describe, expect, test } from 'vitest'
import type { Sample } from '../../../../collector/samples.ts'
import {
  allocationDoubt,
  RunaiCrossCheckConfig,
  runningTimeDoubt,
  union,
} from '../../../../collector/sources/runai/crosscheck.ts'
import { misfits } from '../../../../schemas/check.ts'
import { hourMs, minuteMs, secondMs, type Window } from '../../../../schemas/window.ts'

const startMs = Date.parse('2026-03-02T08:00:00Z')
const hour: Window = { startMs, endMs: startMs + hourMs }
const from = (start: number, end: number): Window => ({
  startMs: startMs + start * minuteMs,
  endMs: startMs + end * minuteMs,
})
const tolerance = { toleranceSeconds: 120, tolerancePercent: '1', maxGapMs: 60 * secondMs }
const every30 = (from: number, to: number, value: string): Sample[] =>
  Array.from({ length: (to - from) * 2 }, (_, index) => ({
    atMs: startMs + from * minuteMs + index * 30 * secondMs,
    value,
  }))

describe('running seconds', () => {
  const toldAtMs = startMs + hourMs

  test('of pods side by side count once, over all suspends', () => {
    const runs = [from(0, 10), from(0, 10), from(5, 12), from(30, 60)]
    expect(runningTimeDoubt(runs, new Fraction(42 * 60), toldAtMs, tolerance)).toBeUndefined()
  })

  test('may differ by the tolerance at each start and end, and no more', () => {
    const given = (seconds: number) =>
      runningTimeDoubt([from(0, 60)], new Fraction(seconds), toldAtMs, tolerance)
    expect(given(3600 + 240 + 38)).toBeUndefined()
    expect(given(3600 + 240 + 39)).toBe('its pods ran 3600 s, totalRunningTimeSeconds is 3879')
    expect(given(3600 - 240 - 36)).toBeUndefined()
    expect(given(3600 - 240 - 37)).toContain('totalRunningTimeSeconds is 3323')
  })

  test('of what runs on are counted up to when they were told', () => {
    const runs = [{ startMs, endMs: Number.POSITIVE_INFINITY }]
    expect(runningTimeDoubt(runs, new Fraction(3600), toldAtMs, tolerance)).toBeUndefined()
    expect(runningTimeDoubt(runs, new Fraction(7200), toldAtMs, tolerance)).toBeDefined()
  })
})

describe('samples of allocation', () => {
  const eight = { gpus: new Fraction(8), runs: [from(-60, 600)] }

  test('that agree raise none, also with fractions and pods that come and go', () => {
    expect(allocationDoubt([eight], every30(0, 60, '8'), hour, tolerance)).toBeUndefined()
    const pods = [
      { gpus: new Fraction('0.25'), runs: [from(0, 20)] },
      { gpus: new Fraction('0.5'), runs: [from(10, 60)] },
    ]
    const samples = [...every30(0, 10, '0.25'), ...every30(10, 20, '0.75'), ...every30(20, 60, '0.5')]
    expect(allocationDoubt(pods, samples, hour, tolerance)).toBeUndefined()
  })

  test('of a GPU more or less are a doubt that says both', () => {
    expect(allocationDoubt([eight], every30(0, 60, '7'), hour, tolerance)).toBe(
      'gpu_seconds 28800 by its pods, 25200 by samples of GPU_ALLOCATION',
    )
  })

  test('that go on long after the pods ended are a doubt', () => {
    const ended = { gpus: new Fraction(8), runs: [from(-60, 30)] }
    expect(allocationDoubt([ended], every30(0, 31, '8'), hour, tolerance)).toBeUndefined()
    expect(allocationDoubt([ended], every30(0, 45, '8'), hour, tolerance)).toBeDefined()
  })

  test('are held against the same time alone: where there are none, there is no doubt', () => {
    expect(allocationDoubt([eight], [], hour, tolerance)).toBeUndefined()
    expect(allocationDoubt([eight], every30(0, 5, '8'), hour, tolerance)).toBeUndefined()
    expect(allocationDoubt([eight], every30(0, 5, '4'), hour, tolerance)).toBeDefined()
  })
})

test('spans that touch or overlap are one', () => {
  expect(union([from(5, 9), from(0, 5), from(20, 30), from(21, 22), from(40, 40)])).toEqual([
    from(0, 9),
    from(20, 30),
  ])
})

test('its options have defaults', () => {
  const config = {}
  expect(misfits(Type.Object({ crossCheck: RunaiCrossCheckConfig }), config)).toEqual([])
  expect(config).toEqual({ crossCheck: { enabled: true, toleranceSeconds: 120, tolerancePercent: '1' } })
})
