/** Coverage as metrics: sums of the spans of each source, and of a real ledger as it stands. */
import { expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import type { CoverageSpan } from '../../processor/coverage.ts'
import { Ledger } from '../../processor/ledger.ts'
import { Store } from '../../processor/store.ts'
import { bySource, watchCoverage } from '../../processor/watch-coverage.ts'
import { registry } from '../../runtime/metrics.ts'
import { hourMs, minuteMs } from '../../schemas/window.ts'
import { batchOf, hourAfterJune1, instance, june1Ms, readEvents, testSource } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'

function span(of: Partial<CoverageSpan> & { hours?: readonly [number, number] }): CoverageSpan {
  const { hours: [from, to] = [0, 1], ...rest } = of
  return {
    source: testSource,
    scope: 's',
    window: { startMs: june1Ms + from * hourMs, endMs: june1Ms + to * hourMs },
    widthMinutes: 60,
    isItem: false,
    state: 'read',
    ...rest,
  }
}

test('windows are counted by state, bad items apart, and a gap is as old as the end of its first window', () => {
  const nowMs = june1Ms + 24 * hourMs
  const sources = bySource(
    [
      span({ hours: [0, 4], state: 'settled' }),
      span({ hours: [4, 6], state: 'never', widthMinutes: 15 }),
      span({ hours: [6, 7], state: 'suspect' }),
      span({ hours: [2, 3], isItem: true, state: 'waived', subject: 'x' }),
      span({ source: 'meterline/k8s/b', hours: [3, 5], isItem: true, state: 'failed', subject: 'x' }),
      span({ source: 'meterline/k8s/b', hours: [0, 9], state: 'waived' }),
      span({ source: 'meterline/k8s/c' }),
    ],
    nowMs,
  )
  expect(
    Array.from(sources, ([source, { oldestGapSeconds, windows, badItems }]) => [
      source,
      oldestGapSeconds,
      Object.fromEntries([...windows].filter(([, count]) => count > 0)),
      badItems,
    ]),
  ).toEqual([
    // The first quarter of an hour after 04:00.
    [testSource, 19.75 * 3600, { settled: 4, never: 8, suspect: 1 }, 0],
    ['meterline/k8s/b', 20 * 3600, { waived: 9 }, 2],
    ['meterline/k8s/c', 0, { read: 1 }, 0],
  ])
  // States without windows are there as 0: an alert that looks at one must see it.
  expect(sources.get('meterline/k8s/c')?.windows.get('suspect')).toBe(0)
})

test('of a ledger: what it lacks shows, and a stop does not wait', async () => {
  await using rig = await startClickHouse()
  await using store = await Store.open({ ...rig, database: `watch_${process.pid}` })
  const ledger = new Ledger(store, 'log')
  const read = (hour: number, mark: object) => {
    const window = hourAfterJune1(hour)
    const identity = { source: testSource, scope: 'compute', window, readatMs: window.endMs }
    return readEvents(identity, [instance('a', 'i1', '3600')], mark)
  }
  const fault = { code: 'SOURCE_BUSY', message: 'busy' }
  const events = [
    ...read(0, {}),
    ...read(1, { events: 9 }),
    read(2, { outcome: 'failed', fault }).slice(-1),
  ].flat()
  await ledger.put([accept(batchOf(events, 0), 'log')])
  const stop = new AbortController()
  const said: string[] = []
  const nowMs = () => june1Ms + 4 * hourMs + 2 * minuteMs
  const watching = watchCoverage({ store, signal: stop.signal, nowMs, say: line => said.push(line) })
  const shown = async () => (await registry.metrics()).split('\n')
  for (
    let waits = 0;
    waits < 200 && !(await shown()).some(line => /^meterline_coverage_windows.*never/.test(line));
    waits++
  )
    await new Promise(resolve => setTimeout(resolve, 50))
  expect(await shown()).toEqual(
    expect.arrayContaining([
      // Hour 1 ended two hours and two minutes ago.
      `meterline_coverage_oldest_gap_seconds{source="${testSource}"} ${2 * 3600 + 120}`,
      `meterline_coverage_windows{source="${testSource}",state="settled"} 1`,
      `meterline_coverage_windows{source="${testSource}",state="incomplete"} 1`,
      `meterline_coverage_windows{source="${testSource}",state="failed"} 1`,
      `meterline_coverage_windows{source="${testSource}",state="never"} 1`,
      `meterline_coverage_bad_items{source="${testSource}"} 0`,
    ]),
  )
  stop.abort()
  await watching
  expect(said).toEqual([])
})
