/**
 * Any sequence of what pods, watches, the API server and the collector may do, beside a ledger of what is true; then each
 * window of each pod is held against it.
 */
import fc from 'fast-check'
import { expect } from 'vitest'
import type { Usage } from '../../../../schemas/event.ts'
import { minuteMs, overlaps, secondMs, type Window, windowsOver } from '../../../../schemas/window.ts'
import { openWatched } from './watched.ts'

const widthMinutes = 5
const beginMs = Date.UTC(2026, 1, 12, 7, 59, 30)

export type Step =
  | {
      readonly do: 'create' | 'schedule' | 'start' | 'restart' | 'resize' | 'ask' | 'stop' | 'force'
      readonly pod: number
      readonly passSeconds: number
    }
  | {
      readonly do: 'finish'
      readonly pod: number
      readonly phase: 'Succeeded' | 'Failed'
      readonly passSeconds: number
    }
  | {
      readonly do: 'break'
      readonly how: 'end' | 'reset' | 'mid_line' | 'broken_line' | 'error_410' | 'error_500'
      readonly passSeconds: number
    }
  /** The API server, or the collector, is away while `steps` happen; in `forgets` the history goes too. */
  | {
      readonly do: 'away'
      readonly who: 'server' | 'collector'
      readonly forgets: boolean
      readonly steps: readonly Step[]
      readonly passSeconds: number
    }

const pods = 4
const passSeconds = fc.oneof(fc.integer({ min: 0, max: 5 }), fc.integer({ min: 0, max: 200 }))
const pod = fc.integer({ min: 0, max: pods - 1 })
const lifeStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom(
        'create',
        'schedule',
        'start',
        'restart',
        'resize',
        'ask',
        'stop',
        'force' as const,
      ),
      pod,
      passSeconds,
    }) as fc.Arbitrary<Step>,
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('finish' as const),
      pod,
      phase: fc.constantFrom('Succeeded' as const, 'Failed' as const),
      passSeconds,
    }),
  },
)
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 10, arbitrary: lifeStep },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('break' as const),
      how: fc.constantFrom('end', 'reset', 'mid_line', 'broken_line', 'error_410', 'error_500' as const),
      passSeconds,
    }) as fc.Arbitrary<Step>,
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('away' as const),
      who: fc.constantFrom('server' as const, 'collector' as const),
      forgets: fc.boolean(),
      steps: fc.array(lifeStep, { maxLength: 8 }),
      passSeconds,
    }),
  },
)
export const anySteps = fc.array(step, { minLength: 10, maxLength: 45 })

/** What is true of one pod. */
interface Truth {
  readonly uid: string
  /** Since when it held how many thousandths of a core. */
  readonly pieces: { readonly fromMs: number; readonly milli: number }[]
  endMs?: number
  /** Spans in which it changed while nobody looked and its history went: nobody can know when. */
  readonly unseen: Window[]
  /** A change of what it held, or its death by force, that was told later. */
  readonly late: Window[]
}

type PodState = 'pending' | 'scheduled' | 'running' | 'asked' | 'over'

export async function holds(steps: readonly Step[]): Promise<void> {
  await using it = await openWatched({
    startMs: beginMs,
    config: { windowMinutes: widthMinutes, parts: ['pods'], pageSize: 2 },
    // Either is an answer of real servers.
    double: { gone: steps.length % 2 === 0 ? 'http' : 'stream' },
  })
  const { cluster, double } = it
  const truths: Truth[] = []
  const alive = new Map<number, { readonly truth: Truth; state: PodState; milli: number }>()
  const blind: Window[] = []
  let away: { readonly fromMs: number; readonly touched: Set<Truth> } | undefined

  cluster.namespace('default')
  cluster.node('node-1')
  it.watch()
  await it.settled()
  for (const each of steps) await take(each)
  it.set(Math.ceil((it.nowMs() + 1) / (widthMinutes * minuteMs)) * widthMinutes * minuteMs + secondMs)
  await it.settled()
  await compare()

  async function take(step: Step): Promise<void> {
    it.pass(step.passSeconds)
    if (step.do === 'break') {
      // One that is not open yet would not hear of it.
      await expect.poll(() => double.watching('pods'), { interval: 1, timeout: 8000 }).toBe(1)
      if (step.how === 'error_410') {
        // Only what is told between the end of the watch and the list is not seen: nothing, here.
        blindSince(await lastSeenMs())
      }
      double.breakWatches(step.how)
    } else if (step.do === 'away') {
      await leave(step)
    } else happen(step)
    if (!away) await it.settled()
  }

  async function lastSeenMs(): Promise<number> {
    const at = JSON.parse(it.state.get('at/pods') ?? '{}') as { observedMs: number }
    return at.observedMs
  }

  function blindSince(fromMs: number): void {
    if (it.nowMs() > fromMs) blind.push({ startMs: fromMs, endMs: it.nowMs() })
  }

  async function leave(step: Extract<Step, { do: 'away' }>): Promise<void> {
    const fromMs = await lastSeenMs()
    const version = double.version()
    away = { fromMs, touched: new Set() }
    if (step.who === 'collector') await it.stop()
    else {
      double.faults.push({ answer: 'reset' })
      double.breakWatches('reset')
    }
    for (const each of step.steps) await take(each)
    it.pass(3)
    const span = { startMs: fromMs, endMs: it.nowMs() + secondMs }
    if (step.forgets) {
      // Where nothing happened, nothing was forgotten that it had not seen.
      if (double.version() > version) blind.push({ startMs: fromMs, endMs: it.nowMs() })
      double.compact()
    }
    for (const truth of away.touched) {
      truth.late.push(span)
      if (step.forgets) truth.unseen.push(span)
    }
    away = undefined
    double.faults.length = 0
    if (step.who === 'collector') it.again()
  }

  function happen(step: Extract<Step, { pod: number }>): void {
    const now = it.nowMs()
    const one = alive.get(step.pod)
    if (step.do === 'create') {
      if (one) return
      const milli = 100 * (1 + (truths.length % 7))
      const truth: Truth = { uid: `uid-${truths.length}`, pieces: [], unseen: [], late: [] }
      truths.push(truth)
      alive.set(step.pod, { truth, state: 'pending', milli })
      // The name comes again with each life: only the uid is its own.
      cluster.create({ uid: truth.uid, name: `web-${step.pod}`, requests: { cpu: `${milli}m` } })
      return
    }
    if (!one) return
    const { truth, state } = one
    const end = () => {
      if (truth.pieces.length > 0) truth.endMs ??= now
    }
    switch (step.do) {
      case 'schedule':
        if (state !== 'pending') return
        one.state = 'scheduled'
        truth.pieces.push({ fromMs: now, milli: one.milli })
        cluster.schedule(truth.uid)
        return
      case 'start':
        if (state !== 'scheduled') return
        one.state = 'running'
        cluster.start(truth.uid)
        return
      case 'restart':
        if (state !== 'running') return
        cluster.restart(truth.uid)
        return
      case 'resize': {
        if (state !== 'running' && state !== 'scheduled') return
        one.milli = one.milli === 900 ? 300 : one.milli + 100
        truth.pieces.push({ fromMs: now, milli: one.milli })
        away?.touched.add(truth)
        cluster.resize(truth.uid, { cpu: `${one.milli}m` })
        return
      }
      case 'finish':
        if (state !== 'running') return
        one.state = 'over'
        end()
        cluster.finish(truth.uid, step.phase)
        return
      case 'ask':
        if (state !== 'running') return
        one.state = 'asked'
        away?.touched.add(truth)
        cluster.ask(truth.uid)
        return
      case 'stop':
        if (state !== 'asked') return
        alive.delete(step.pod)
        away?.touched.add(truth)
        end()
        cluster.finish(truth.uid)
        cluster.remove(truth.uid)
        return
      case 'force':
        alive.delete(step.pod)
        away?.touched.add(truth)
        end()
        cluster.ask(truth.uid, 0)
        cluster.remove(truth.uid)
        return
    }
  }

  function milliSecondsIn(truth: Truth, window: Window): number {
    let sum = 0
    truth.pieces.forEach(({ fromMs, milli }, index) => {
      const untilMs = Math.min(truth.pieces[index + 1]?.fromMs ?? window.endMs, truth.endMs ?? window.endMs)
      const span = Math.min(untilMs, window.endMs) - Math.max(fromMs, window.startMs)
      if (span > 0) sum += (span / secondMs) * milli
    })
    return sum
  }

  async function compare(): Promise<void> {
    const first = Math.ceil(beginMs / (widthMinutes * minuteMs)) * widthMinutes * minuteMs
    const endMs = it.nowMs() - secondMs
    const seen = { exact: 0, estimated: 0, missing: 0 }
    for (const window of windowsOver({ startMs: first, endMs }, widthMinutes)) {
      const usages = await it.usages('pods', window)
      const byUid = new Map<string, Usage>(usages.map(usage => [usage.resource.id, usage]))
      expect(byUid.size).toBe(usages.length)
      const isBlind = blind.some(span => overlaps(span, window))
      expect(usages.some(usage => usage.doubt !== undefined)).toBe(isBlind && usages.length > 0)
      for (const truth of truths) {
        const usage = byUid.get(truth.uid)
        const expected = milliSecondsIn(truth, window)
        const told = usage ? Math.round(Number(usage.measures.cpu_core_seconds) * 1000) : 0
        const where = `${truth.uid} in ${new Date(window.startMs).toISOString()}: ${JSON.stringify(truth)}`
        const mayBeGuess = truth.late.some(span => overlaps(span, window))
        const mayBeLost = truth.unseen.some(span => overlaps(span, window))
        if (usage?.estimated) {
          expect(mayBeGuess, `${where} is marked estimated`).toBe(true)
          seen.estimated += 1
        } else if (mayBeLost) {
          // It began and ended, or changed twice, while nobody saw and nothing was kept: the window says that much.
          if (told !== expected) expect(isBlind, `${where}: ${told}, not ${expected}`).toBe(true)
          seen.missing += 1
        } else {
          expect(told, where).toBe(expected)
          seen.exact += 1
        }
      }
    }
    counted.exact += seen.exact
    counted.estimated += seen.estimated
    counted.missing += seen.missing
  }
}

/** How many windows of pods were held against the truth, and how. */
export const counted = { exact: 0, estimated: 0, missing: 0 }
