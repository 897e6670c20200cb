/** When a pod ran, by what the control plane says of it and, where it says nothing, by the rules of decision 0017. */
import { describe, expect, test } from 'vitest'
import { hasEnded, runOf } from '../../../../collector/sources/runai/intervals.ts'
import { Unfit } from '../../../../collector/sources/runai/unfit.ts'
import type { JsonObject } from '../../../../schemas/json.ts'

const ms = (text: string) => Date.parse(`2026-05-04T${text}Z`)
const time = (text: string) => `2026-05-04T${text}Z`

const pod = (more: JsonObject = {}): JsonObject => ({
  id: 'p',
  createdAt: time('08:00:00'),
  containers: [{ name: 'main', image: 'x', startedAt: time('08:05:00.250') }],
  k8sPhase: 'Running',
  k8sPhaseUpdatedAt: time('08:05:01'),
  updatedAt: time('08:05:01'),
  completedAt: null,
  deletedAt: null,
  ...more,
})

describe('the start', () => {
  test('is that of the first container', () => {
    const containers = [
      { name: 'a', startedAt: null },
      { name: 'b', startedAt: time('08:06:00') },
      { name: 'c', startedAt: time('08:05:00.250') },
    ]
    expect(runOf(pod({ containers }), undefined)).toEqual({ startMs: ms('08:05:00.250') })
  })

  test('is not moved by a container that was started again: the pod is Running since before', () => {
    const containers = [{ name: 'a', startedAt: time('11:30:00') }]
    expect(runOf(pod({ containers }), undefined)?.startMs).toBe(ms('08:05:01'))
    // Afterwards only what was seen then tells.
    const ended = pod({
      containers,
      k8sPhase: 'Succeeded',
      k8sPhaseUpdatedAt: time('12:00:00'),
      completedAt: time('12:00:00'),
    })
    expect(runOf(ended, undefined)?.startMs).toBe(ms('11:30:00'))
    expect(runOf(ended, undefined, ms('08:05:00'))?.startMs).toBe(ms('08:05:00'))
  })

  test('is the time since when it is Running where no container says any', () => {
    expect(runOf(pod({ containers: [] }), undefined)?.startMs).toBe(ms('08:05:01'))
    expect(runOf(pod({ containers: null }), undefined)?.startMs).toBe(ms('08:05:01'))
  })

  test.each(['Pending', 'Failed', 'Unknown'])('there is none where nothing ran: %s', k8sPhase => {
    const containers = [{ name: 'a', startedAt: null }]
    expect(runOf(pod({ containers, k8sPhase, completedAt: time('09:00:00') }), undefined)).toBeUndefined()
  })

  test('of a pod that succeeded and does not say when it began is not guessed', () => {
    const row = pod({ containers: [{ name: 'a' }], k8sPhase: 'Succeeded', completedAt: time('09:00:00') })
    expect(() => runOf(row, undefined)).toThrow(Unfit)
    expect(runOf(row, undefined, ms('08:10:00'))).toEqual({ startMs: ms('08:10:00'), endMs: ms('09:00:00') })
  })
})

describe('the end', () => {
  test.each([
    ['completed', { completedAt: time('09:00:00.001') }, '09:00:00.001'],
    ['deleted', { deletedAt: time('09:10:00') }, '09:10:00'],
    ['completed, deleted later', { completedAt: time('09:00:00'), deletedAt: time('10:00:00') }, '09:00:00'],
    [
      'deleted before it completed',
      { completedAt: time('10:00:00'), deletedAt: time('09:00:00') },
      '09:00:00',
    ],
    ['of its phase alone', { k8sPhase: 'Failed', k8sPhaseUpdatedAt: time('09:20:00') }, '09:20:00'],
  ])('is its own word: %s', (_, more, end) => {
    expect(runOf(pod(more), undefined)).toEqual({ startMs: ms('08:05:00.250'), endMs: ms(end) })
    expect(hasEnded(pod(more))).toBe(true)
  })

  test('is open while it runs, whatever its workload is about to do', () => {
    for (const phase of ['Running', 'Stopping', 'Deleting', 'Terminating', 'Degraded', 'Updating'])
      expect(runOf(pod(), { phase, phaseUpdatedAt: time('09:00:00') })).toEqual({
        startMs: ms('08:05:00.250'),
      })
    expect(hasEnded(pod())).toBe(false)
  })

  test.each([
    ['completed', { phase: 'Completed', completedAt: time('09:00:00'), phaseUpdatedAt: time('09:00:02') }],
    ['suspended', { phase: 'Stopped', phaseUpdatedAt: time('09:00:00') }],
    ['deleted', { phase: 'Deleting', deletedAt: time('09:00:00') }],
  ])('is estimated by its workload where nobody told its own: %s', (_, workload) => {
    const run = runOf(pod(), workload)
    expect(run?.endMs).toBe(ms('09:00:00'))
    expect(run?.estimated).toMatch(/no end is told/)
    // Its own word counts before that.
    const own = runOf(pod({ completedAt: time('08:50:00') }), workload)
    expect(own).toEqual({ startMs: ms('08:05:00.250'), endMs: ms('08:50:00') })
  })

  test('is not before the last word that the cluster had of it', () => {
    const workload = { phase: 'Completed', completedAt: time('09:00:00') }
    expect(runOf(pod({ updatedAt: time('09:30:00') }), workload)?.endMs).toBe(ms('09:30:00'))
  })

  test('before the start is no time at all', () => {
    expect(runOf(pod({ completedAt: time('08:05:00.250') }), undefined)).toBeUndefined()
    expect(runOf(pod({ completedAt: time('08:00:00') }), undefined)).toBeUndefined()
  })
})

test.each([
  ['/containers', { containers: 'main' }],
  ['/containers/0', { containers: ['main'] }],
  ['/containers/0/startedAt', { containers: [{ startedAt: 'yesterday' }] }],
  ['/completedAt', { completedAt: '2026-05-04 09:00' }],
  ['/deletedAt', { deletedAt: false }],
])('what is no time is not taken for none: %s', (path, more) => {
  try {
    runOf(pod(more as JsonObject), undefined)
    expect.unreachable()
  } catch (error) {
    expect(error).toBeInstanceOf(Unfit)
    expect((error as Unfit).path).toBe(path)
  }
})
