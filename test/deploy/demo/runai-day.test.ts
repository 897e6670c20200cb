/** The day of the Run:ai double, read by the source: what it says is what the fixture holds, and the figures agree. */
import Fraction from 'fraction.js'
import { expect, test } from 'vitest'
import type { Source } from '../../../collector/source.ts'
import { RunaiConfig, runai } from '../../../collector/sources/runai.ts'
import { runaiDemoClientId, runaiDemoSecret, startRunaiDouble } from '../../../deploy/demo/runai.ts'
import { runaiDay } from '../../../deploy/demo/runai-day.ts'
import { runaiMetricsBehaviour, runaiMetricsRoutes } from '../../../deploy/demo/runai-metrics.ts'
import { openHttp } from '../../../runtime/http.ts'
import { misfits } from '../../../schemas/check.ts'
import { exact, show } from '../../../schemas/decimal.ts'
import type { Usage } from '../../../schemas/event.ts'
import { dayMs, hourMs, type Window, windowsOver } from '../../../schemas/window.ts'
import { sourceContext } from '../../collector/source-context.ts'

const live = new AbortController().signal
const day: Window = { startMs: Date.UTC(2026, 2, 2), endMs: Date.UTC(2026, 2, 3) }
const fixture = runaiDay(day.startMs)
const ranMs = ({ startedMs = 0, completedMs = day.endMs }) =>
  Math.max(0, Math.min(completedMs, day.endMs) - Math.max(startedMs, day.startMs))

async function readDay(): Promise<readonly Usage[]> {
  const nowMs = () => day.endMs + hourMs
  await using double = await startRunaiDouble({
    fixture,
    nowMs,
    routes: runaiMetricsRoutes(fixture, runaiMetricsBehaviour()),
  })
  await using http = openHttp()
  const config = {
    name: 'day',
    url: double.url,
    clientId: runaiDemoClientId,
    clientSecret: '${env:SECRET}',
    windowMinutes: 60,
    metrics: { collect: ['utilization', 'idle'] },
  }
  expect(misfits(RunaiConfig, config)).toEqual([])
  await using source = runai.open(
    config as unknown as RunaiConfig,
    sourceContext({ http, secret: () => runaiDemoSecret, nowMs }),
  ) as Source<unknown>
  const usages: Usage[] = []
  for (const { scope } of await source.scopes(live))
    for (const window of windowsOver(day, 60))
      for await (const item of source.read(scope, window, live)) usages.push(...source.toUsage(item, window))
  return usages
}

function sums(usages: readonly Usage[], by: (usage: Usage) => string): Readonly<Record<string, string>> {
  const found = new Map<string, Fraction>()
  for (const usage of usages)
    for (const [measure, value] of Object.entries(usage.measures)) {
      const key = `${by(usage)} ${measure}`
      found.set(key, (found.get(key) ?? new Fraction(0)).add(exact(value)))
    }
  return Object.fromEntries([...found].map(([key, sum]) => [key, show(sum)] as const).sort())
}

test('the day that is read is the day that was, to the millisecond, and no figure contradicts another', async () => {
  const usages = await readDay()
  const byProject = sums(usages, usage => usage.labels.project ?? '')
  for (const project of ['vision', 'speech', 'support']) {
    const expected = fixture.pods
      .filter(pod =>
        fixture.workloads.some(each => each.id === pod.workloadId && each.projectName === project),
      )
      .reduce(
        (sum, pod) => sum.add(new Fraction(pod.allocated?.gpu ?? 0).mul(ranMs(pod)).div(1000)),
        new Fraction(0),
      )
    expect([project, byProject[`${project} gpu_seconds`]]).toEqual([project, show(expected)])
  }
  expect(usages.flatMap(({ doubt }) => doubt ?? [])).toEqual([])
  expect(usages.filter(({ estimated }) => estimated).map(({ resource }) => resource.name)).toEqual([])
  const byPod = sums(usages, ({ resource }) => resource.id)
  for (const pod of fixture.pods) {
    const of = (measure: string) => exact(byPod[`${pod.id} ${measure}`] ?? '0')
    // The one that failed was still loading.
    const isBusy = pod.allocated?.gpu !== '0' && pod.outcome !== 'Failed'
    expect([pod.name, of('gpu_active_seconds').compare(0)]).toEqual([pod.name, isBusy ? 1 : 0])
    expect(of('gpu_idle_seconds').compare(of('gpu_seconds'))).toBeLessThanOrEqual(0)
  }
})

test('no node has more GPUs allocated than it has', () => {
  for (const { name, gpuCount = 0 } of fixture.nodes)
    for (let atMs = day.startMs; atMs < day.endMs; atMs += dayMs / 96) {
      const allocated = fixture.pods
        .filter(pod => pod.nodeName === name)
        .filter(pod => (pod.startedMs ?? 0) <= atMs && atMs < (pod.completedMs ?? day.endMs))
        .reduce((sum, pod) => sum.add(pod.allocated?.gpu ?? 0), new Fraction(0))
      expect(allocated.compare(gpuCount)).toBeLessThanOrEqual(0)
    }
})
