/**
 * The pods of a cluster in a window, each with its workload, its node, and what was seen of it before: what readings are
 * made of. Owns the order of the calls; what the rows say is told by pods.ts.
 */
import type Fraction from 'fraction.js'
import { Fault } from '../../../schemas/fault.ts'
import { fractionOf, isJsonObject, type Json, JsonNumber, type JsonObject } from '../../../schemas/json.ts'
import { instantMs, minuteMs, showWindow, type Window } from '../../../schemas/window.ts'
import type { SourceContext } from '../../source.ts'
import type { RunaiCalls } from './calls.ts'
import { runningTimeDoubt, type Tolerance } from './crosscheck.ts'
import { runOf } from './intervals.ts'
import {
  type Cluster,
  idOf,
  type ListOptions,
  readPods,
  readPodsOf,
  readWorkload,
  readWorkloads,
} from './lists.ts'
import type { RunaiNodeFacts, RunaiNodes } from './nodes.ts'
import { clamped, type PodItem, type PodNode, podOf } from './pods.ts'
import { forgotten, recall, remember, type Seen } from './remembered.ts'
import { Unfit } from './unfit.ts'

export interface JoinOptions {
  readonly pageSize: number
  readonly counts: 'checked' | 'ignored'
  readonly retentionMs: number
  /** Bytes of one GPU by GPU type, for GPUs that are asked for by memory. */
  readonly gpuMemoryBytes: ReadonlyMap<string, Fraction>
  /** Undefined: workloads are not held against their running time. */
  readonly tolerance?: Tolerance
}

export interface Joined {
  /**
   * @throws Fault WINDOW_UNKNOWABLE where pods that were seen running in the window are in no list any more; and as the
   * lists do
   */
  pods(cluster: Cluster, window: Window, signal: AbortSignal): Promise<readonly PodItem[]>
}

export function openJoined(
  options: JoinOptions,
  given: {
    readonly calls: RunaiCalls
    readonly nodes: RunaiNodes
    readonly state: SourceContext['state']
    readonly nowMs: () => number
  },
): Joined {
  const { calls, nodes, state, nowMs } = given

  async function pods(cluster: Cluster, window: Window, signal: AbortSignal): Promise<readonly PodItem[]> {
    const lists: ListOptions = {
      clusterId: cluster.id,
      window,
      pageSize: options.pageSize,
      counts: options.counts,
      facts: { scope: cluster.id },
      signal,
    }
    const atMs = nowMs()
    const [rows, workloads, nodesByName] = await Promise.all([
      readPods(calls, lists),
      readWorkloads(calls, lists),
      nodes.of(cluster.id, signal),
    ])
    const before = recall(state, cluster.id)
    await refuseForgotten(forgotten(before, rows, window), lists)
    await addUnlisted(workloads, rows, lists)
    const known = remember(state, before, {
      clusterId: cluster.id,
      rows,
      workloadOf: row => workloads.get(textAt(row, 'workloadId')),
      atMs,
      retentionMs: options.retentionMs,
    })
    const items = rows.map(row => itemOf(row, { cluster, workloads, nodesByName, known }))
    return await withDoubts(items, workloads, lists)
  }

  /** What ended before the window by the cluster's word, though it was listed as running later, is no loss. */
  async function refuseForgotten(lost: ReadonlyMap<string, Seen>, lists: ListOptions): Promise<void> {
    if (lost.size === 0) return
    const { window } = lists
    const startMs = Math.min(...[...lost.values()].map(seen => seen.startMs)) - minuteMs
    const rows = await readPods(calls, { ...lists, window: { startMs, endMs: window.endMs } })
    const listed = new Set(rows.map(idOf))
    const missing = [...lost.keys()].filter(id => !listed.has(id)).sort()
    if (missing.length > 0)
      throw new Fault(
        'WINDOW_UNKNOWABLE',
        `${missing.length} pods that ran in ${showWindow(window)} are not listed any more, ${missing[0]} for one: the control plane has dropped them, or the access key may see less than before`,
        { ...lists.facts, pod: missing[0] ?? '' },
      )
  }

  async function addUnlisted(
    workloads: Map<string, JsonObject>,
    rows: readonly Json[],
    lists: ListOptions,
  ): Promise<void> {
    const wanted = new Set<string>()
    for (const row of rows) {
      const id = textAt(row, 'workloadId')
      if (id !== '' && !workloads.has(id)) wanted.add(id)
    }
    await Promise.all(
      [...wanted].map(async id => {
        const workload = await readWorkload(calls, id, lists)
        if (workload) workloads.set(id, workload)
      }),
    )
  }

  function itemOf(
    row: Json,
    given: {
      readonly cluster: Cluster
      readonly workloads: ReadonlyMap<string, JsonObject>
      readonly nodesByName: ReadonlyMap<string, RunaiNodeFacts>
      readonly known: ReadonlyMap<string, Seen>
    },
  ): PodItem {
    const { cluster, workloads, nodesByName, known } = given
    const workload = workloads.get(textAt(row, 'workloadId'))
    const facts = nodesByName.get(textAt(row, 'nodeName'))
    const remembered = known.get(textAt(row, 'id'))
    const gpuMemoryBytes =
      facts?.gpuType === undefined ? undefined : options.gpuMemoryBytes.get(facts.gpuType)
    const node: PodNode | undefined = facts && { ...facts, ...(gpuMemoryBytes && { gpuMemoryBytes }) }
    return {
      of: 'pod',
      row,
      cluster,
      ...(workload && { workload }),
      ...(node && { node }),
      ...(remembered && { remembered }),
    }
  }

  /**
   * Holds workloads that ended in this window against the running time that Run:ai counted for them. Of these alone all
   * pods and all the time are told; one that runs on is held against it when it ends.
   */
  async function withDoubts(
    items: readonly PodItem[],
    workloads: ReadonlyMap<string, JsonObject>,
    lists: ListOptions,
  ): Promise<readonly PodItem[]> {
    const { tolerance } = options
    if (!tolerance) return items
    const doubts = new Map<PodItem, string>()
    const byWorkload = Map.groupBy(items, ({ row }) => textAt(row, 'workloadId'))
    await Promise.all(
      [...workloads].map(async ([id, workload]) => {
        const endMs = endOf(workload)
        const total = totalOf(workload)
        if (endMs === undefined || total === undefined) return
        if (endMs < lists.window.startMs || endMs >= lists.window.endMs) return
        const first = byWorkload.get(id)?.find(item => isReadingOf(item, lists.window))
        if (!first) return
        const rows = await readPodsOf(calls, id, lists)
        const runs = runsOf(rows, workload, endMs)
        const doubt = runs && runningTimeDoubt(runs, total, endMs, tolerance)
        if (doubt !== undefined) doubts.set(first, doubt)
      }),
    )
    return items.map(item => {
      const doubt = doubts.get(item)
      return doubt === undefined ? item : { ...item, doubt }
    })
  }

  return { pods }
}

/** Empty where it is no text: a key of nothing. */
function textAt(row: Json, name: string): string {
  const value = isJsonObject(row) ? row[name] : undefined
  return typeof value === 'string' ? value : ''
}

function endOf(workload: JsonObject): number | undefined {
  const ends = [workload.completedAt, workload.deletedAt].flatMap(value =>
    typeof value === 'string' ? [instantMs(value) ?? Number.NaN] : [],
  )
  const endMs = Math.min(...ends)
  return Number.isFinite(endMs) ? endMs : undefined
}

/** Since 2.23; absent before. */
function totalOf(workload: JsonObject): Fraction | undefined {
  const total = workload.totalRunningTimeSeconds
  return total instanceof JsonNumber ? fractionOf(total) : undefined
}

function isReadingOf(item: PodItem, window: Window): boolean {
  try {
    const pod = podOf(item)
    return pod !== undefined && clamped(pod.run, window) !== undefined
  } catch {
    return false
  }
}

/** Undefined where one of them cannot be understood: it is a fault of its own. */
function runsOf(rows: readonly Json[], workload: JsonObject, endMs: number): readonly Window[] | undefined {
  try {
    return rows.flatMap(row => {
      const run = isJsonObject(row) ? runOf(row, workload) : undefined
      return run ? [{ startMs: run.startMs, endMs: run.endMs ?? endMs }] : []
    })
  } catch (error) {
    if (error instanceof Unfit) return undefined
    throw error
  }
}
