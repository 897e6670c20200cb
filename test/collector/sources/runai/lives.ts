/**
 * Any lives of workloads, suspended, resumed and deleted, read window by window while they go on, whatever the pages and
 * however often: the sums are those of the lives.
 */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { expect } from 'vitest'
import type { Source } from '../../../../collector/source.ts'
import { RunaiConfig, type RunaiItem, runai } from '../../../../collector/sources/runai.ts'
import {
  type RunaiFixture,
  type RunaiPod,
  type RunaiWorkload,
  runaiDemoClientId,
  runaiDemoSecret,
  startRunaiDouble,
} from '../../../../deploy/demo/runai.ts'
import { openHttp } from '../../../../runtime/http.ts'
import { passingState } from '../../../../runtime/log/source-state.ts'
import { misfits } from '../../../../schemas/check.ts'
import { exact, show } from '../../../../schemas/decimal.ts'
import { hourMs, minuteMs, secondMs, type Window, windowsOver } from '../../../../schemas/window.ts'
import { sourceContext } from '../../source-context.ts'

const live = new AbortController().signal
const startMs = Date.UTC(2026, 4, 4, 8)
const span: Window = { startMs, endMs: startMs + 3 * hourMs }
const spanMs = span.endMs - span.startMs
const clusterId = '00000000-0000-4000-8000-000000000001'
const uuid = (number: number) => `00000000-0000-4000-8000-${String(number).padStart(12, '0')}`

/** One time of a workload between two suspends, in milliseconds from the one before; its pods are alike. */
const segment = fc.record({
  idleMs: fc.integer({ min: 1, max: spanMs / 2 }),
  pendingMs: fc.integer({ min: 0, max: 20 * minuteMs }),
  ranMs: fc.oneof(fc.integer({ min: 1, max: 5 * secondMs }), fc.integer({ min: 1, max: spanMs })),
  pods: fc.integer({ min: 1, max: 3 }),
  end: fc.constantFrom('Succeeded', 'Failed', 'deleted', 'both'),
})
const life = fc.record({
  project: fc.integer({ min: 1, max: 2 }),
  gpu: fc.constantFrom('0', '0.3', '0.30000000000000004', '1', '8'),
  segments: fc.array(segment, { minLength: 1, maxLength: 3 }),
  gone: fc.boolean(),
})
type Life = typeof life extends fc.Arbitrary<infer Value> ? Value : never

function fixtureOf(lives: readonly Life[]): RunaiFixture {
  const workloads: RunaiWorkload[] = []
  const pods: RunaiPod[] = []
  for (const { project, gpu, segments, gone } of lives) {
    const number = workloads.length + 1
    const createdMs = startMs - hourMs
    let atMs = createdMs
    const phases = [{ atMs, phase: 'Creating' }]
    for (const each of segments) {
      const pendingMs = atMs + each.idleMs
      const startedMs = pendingMs + each.pendingMs
      const endMs = startedMs + each.ranMs
      phases.push({ atMs: pendingMs, phase: 'Pending' }, { atMs: startedMs, phase: 'Running' })
      for (let index = 0; index < each.pods; index++)
        pods.push({
          id: uuid(1000 + pods.length),
          name: `w${number}-${pods.length}`,
          workloadId: uuid(number + 10),
          clusterId,
          createdMs: pendingMs,
          startedMs,
          ...(each.end !== 'deleted' && {
            completedMs: endMs,
            outcome: each.end === 'Failed' ? 'Failed' : 'Succeeded',
          }),
          ...((each.end === 'deleted' || each.end === 'both') && {
            deletedMs: endMs + (each.end === 'both' ? minuteMs : 0),
          }),
          allocated: { gpu, cpu: '0.5', cpuMemory: '100Mi' },
        })
      phases.push({ atMs: endMs, phase: 'Stopped' })
      atMs = endMs
    }
    workloads.push({
      id: uuid(number + 10),
      name: `w${number}`,
      clusterId,
      projectId: String(project),
      projectName: `project-${project}`,
      departmentId: '1',
      departmentName: 'd',
      type: 'runai-job',
      category: 'Train',
      submittedBy: 'me',
      priorityClassName: 'train',
      preemptible: false,
      createdMs,
      phases,
      ...(gone && { deletedMs: atMs + 1 }),
    })
  }
  return { clusters: [{ id: clusterId, name: 'gpu-1', createdMs: 0 }], workloads, pods, nodes: [] }
}

/** GPU time by pod, of what the lives are: rounded once, as a double has no more than 16 digits. */
function truth({ pods }: RunaiFixture): Record<string, string> {
  const sums: Record<string, string> = {}
  for (const { id, startedMs = 0, completedMs, deletedMs, allocated } of pods) {
    const endMs = Math.min(completedMs ?? Number.POSITIVE_INFINITY, deletedMs ?? Number.POSITIVE_INFINITY)
    const ranMs = Math.min(endMs, span.endMs) - Math.max(startedMs, span.startMs)
    const gpus = allocated?.gpu === '0.30000000000000004' ? '0.3' : (allocated?.gpu ?? '0')
    if (ranMs > 0) sums[id] = show(exact(gpus).mul(new Fraction(ranMs, 1000)))
  }
  return sums
}

export async function livesAddUp(runs: number): Promise<void> {
  await fc.assert(
    fc.asyncProperty(
      fc.array(life, { minLength: 1, maxLength: 5 }),
      fc.constantFrom(1, 2, 3, 7, 500),
      fc.constantFrom(15, 30, 60),
      fc.integer({ min: 0, max: 30 * secondMs }),
      fc.array(fc.nat(), { maxLength: 3 }),
      async (lives, pageSize, windowMinutes, stepMs, again) => {
        const fixture = fixtureOf(lives)
        const clock = { nowMs: span.startMs }
        const double = await startRunaiDouble({ fixture, nowMs: () => clock.nowMs })
        const http = openHttp({ retries: 0, deadlineMs: 5000 })
        const config = {
          name: 'test',
          url: double.url,
          clientId: runaiDemoClientId,
          clientSecret: `\${env:SECRET}`,
          pageSize,
          windowMinutes,
        }
        expect(misfits(RunaiConfig, config)).toEqual([])
        const source = runai.open(
          config as never as RunaiConfig,
          sourceContext({
            http,
            client: () => http,
            secret: () => runaiDemoSecret,
            nowMs: () => clock.nowMs,
            state: passingState(),
          }),
        ) as Source<RunaiItem>
        // Time goes on with each call: pods begin, end and are deleted between two pages.
        double.behaviour.onCall = () => {
          clock.nowMs += stepMs
        }
        const windows = windowsOver(span, windowMinutes as 15)
        const read = new Map<Window, Record<string, string>>()
        const readOne = async (window: Window) => {
          const sums: Record<string, string> = {}
          for await (const item of source.read(clusterId, window, live))
            for (const { resource, measures, estimated } of source.toUsage(item, window)) {
              expect(sums[resource.id]).toBeUndefined()
              expect(estimated).toBeUndefined()
              sums[resource.id] = measures.gpu_seconds ?? ''
            }
          read.set(window, sums)
        }
        try {
          for (const window of windows) {
            clock.nowMs = Math.max(clock.nowMs, window.endMs)
            await readOne(window)
          }
          // Read once more, some of them, when all is over: the same.
          clock.nowMs += 12 * hourMs
          for (const pick of again) {
            const window = windows[pick % windows.length]
            if (!window) continue
            const before = read.get(window)
            await readOne(window)
            expect(read.get(window)).toEqual(before)
          }
        } finally {
          await source[Symbol.asyncDispose]()
          await http[Symbol.asyncDispose]()
          await double.close()
        }
        const totals = new Map<string, Fraction>()
        for (const sums of read.values())
          for (const [id, value] of Object.entries(sums))
            totals.set(id, (totals.get(id) ?? new Fraction(0)).add(exact(value)))
        expect(Object.fromEntries([...totals].map(([id, sum]) => [id, show(sum)]))).toEqual(truth(fixture))
      },
    ),
    { numRuns: runs },
  )
}
