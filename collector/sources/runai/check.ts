/** Whether a control plane can be read as configured: the key, what it may see, and what is missing. */
import { Fault } from '../../../schemas/fault.ts'
import type { Window } from '../../../schemas/window.ts'
import type { Findings } from '../../source.ts'
import type { Cluster } from './lists.ts'
import type { MeasuredPod } from './metrics.ts'
import { type PodItem, podUsage } from './pods.ts'

interface Asked {
  readonly clusters: () => Promise<readonly Cluster[]>
  readonly pods: (cluster: Cluster, window: Window) => Promise<readonly PodItem[]>
  readonly measured: (pods: readonly PodItem[], window: Window) => readonly MeasuredPod[]
  /** Where metrics are configured. */
  readonly metrics?: (pod: MeasuredPod) => Promise<Findings>
  /** The last one that is over. */
  readonly window: Window
}

const namesMax = 5

/** @throws Fault where not even the clusters are told */
export async function checkRunai(asked: Asked): Promise<Findings> {
  const { window } = asked
  const works: string[] = []
  const missing: { what: string; remedy: string }[] = []
  const clusters = (await asked.clusters()).filter(({ deletedMs }) => deletedMs === undefined)
  if (clusters.length === 0)
    missing.push({
      what: 'no cluster may be seen',
      remedy:
        'give the access key a role that views clusters and workloads, with the whole account as its scope',
    })
  else
    works.push(
      `${clusters.length} ${plural('cluster', clusters.length)}: ${some(clusters.map(({ name }) => name))}`,
    )
  for (const cluster of clusters) {
    if (cluster.lost)
      missing.push({
        what: `cluster ${cluster.name} has no connection to the control plane`,
        remedy: 'mend its connection: windows stay due until then',
      })
    let pods: readonly PodItem[]
    try {
      pods = await asked.pods(cluster, window)
    } catch (error) {
      if (!(error instanceof Fault) || error.code === 'ABORTED') throw error
      missing.push({ what: error.message, remedy: remedyOf(error) })
      continue
    }
    const usages = []
    for (const item of pods)
      try {
        usages.push(...podUsage(item, window))
      } catch (error) {
        if (!(error instanceof Fault)) throw error
        missing.push({ what: error.message, remedy: 'until it is mended it is a gap of its project' })
      }
    const projects = new Set(usages.map(({ subject, labels }) => labels.project ?? subject))
    works.push(
      `cluster ${cluster.name}: ${usages.length} ${plural('pod', usages.length)} ran in the last window${projects.size === 0 ? '' : `, of ${plural('project', projects.size)} ${some([...projects])}`}`,
    )
    const [pod] = asked.measured(pods, window).filter(({ gpus }) => gpus.compare(0) > 0)
    if (!asked.metrics) continue
    if (!pod) works.push(`cluster ${cluster.name}: no pod with a GPU ran, so metrics were not tried`)
    else
      try {
        const found = await asked.metrics(pod)
        works.push(...found.works)
        missing.push(...found.missing)
      } catch (error) {
        if (!(error instanceof Fault) || error.code === 'ABORTED') throw error
        missing.push({ what: error.message, remedy: remedyOf(error) })
      }
  }
  return { works, missing }
}

function remedyOf(fault: Fault): string {
  if (fault.code === 'SOURCE_DENIED')
    return 'give the access key a role that views workloads, with the whole account as its scope'
  if (fault.code === 'PAGES_DRIFTED')
    return 'give the access key the whole account as its scope; or set counts: ignored, where it is to see a part only'
  return 'see the table of faults'
}

function plural(word: string, count: number): string {
  return count === 1 ? word : `${word}s`
}

function some(names: readonly string[]): string {
  const sorted = [...names].sort()
  const more = sorted.length - namesMax
  return sorted.slice(0, namesMax).join(', ') + (more > 0 ? ` and ${more} more` : '')
}
