/** Of servers that scrape the same twice (a pair for high availability behind one address), each series once. Pure. */
import type { Window } from '../../../schemas/window.ts'
import { keyOf, type Series } from './series.ts'

/**
 * Of series that are equal but for their replica the one to count in this window: that which reaches back no less than each
 * other, so that nothing of the windows before counts again; among these one that goes on to the end; among these the
 * first by name, so that windows stay with one replica. The difference at a change is at most what grew between the
 * scrapes of the two.
 * @param lateMs how far apart the scrapes of two replicas may be
 */
export function oneReplica(
  series: readonly Series[],
  label: string,
  window: Window,
  lateMs: number,
): readonly Series[] {
  const groups = new Map<string, { replica: string; metric: Series['metric']; series: Series }[]>()
  for (const each of series) {
    const { [label]: replica = '', ...metric } = each.metric
    const key = keyOf(metric)
    const known = groups.get(key)
    if (known) known.push({ replica, metric, series: each })
    else groups.set(key, [{ replica, metric, series: each }])
  }
  return [...groups.values()].map(group => {
    const ranked = group.map(each => ({
      ...each,
      sinceMs: lastMs(each.series, window.startMs),
      untilMs: lastMs(each.series, window.endMs),
    }))
    const newest = (of: 'sinceMs' | 'untilMs') => Math.max(...ranked.map(each => each[of]))
    const [sinceMs, untilMs] = [newest('sinceMs'), newest('untilMs')]
    const rank = (each: (typeof ranked)[number]) =>
      (each.sinceMs >= sinceMs - lateMs ? 2 : 0) + (each.untilMs >= untilMs - lateMs ? 1 : 0)
    const [chosen] = ranked.sort((a, b) => rank(b) - rank(a) || (a.replica < b.replica ? -1 : 1))
    return { ...chosen!.series, metric: chosen!.metric }
  })
}

/** Of the last sample before this time; none is never. */
function lastMs({ samples }: Series, beforeMs: number): number {
  return (
    samples.findLast(({ atMs, value }) => atMs < beforeMs && value !== 'NaN')?.atMs ?? Number.MIN_SAFE_INTEGER
  )
}
