/**
 * The lists of a control plane: the clusters, and the workloads and pods of a cluster that may have lived in a window,
 * whole though they change while their pages are read. What a row says is told by others.
 */
import { Fault, type FaultFacts } from '../../../schemas/fault.ts'
import { isJsonArray, isJsonObject, type Json, JsonNumber, type JsonObject } from '../../../schemas/json.ts'
import { instantMs, minuteMs, showInstant, type Window } from '../../../schemas/window.ts'
import { stopIfAborted } from '../../asking.ts'
import { listOf, type RunaiAsk, type RunaiCalls } from './calls.ts'
import { unfit } from './unfit.ts'

export interface Cluster {
  readonly id: string
  readonly name: string
  readonly createdMs?: number
  readonly deletedMs?: number
  /** The control plane has lost it, and heard from it last then. */
  readonly lost?: { readonly sinceMs?: number }
}

/** Those that the caller's role lets it see, in order of their ids. */
export async function readClusters(calls: RunaiCalls, signal: AbortSignal): Promise<readonly Cluster[]> {
  const about = 'clusters'
  const endpoint = 'runai.clusters'
  const { body } = await calls.get({ path: '/api/v1/clusters', endpoint, about, signal })
  if (!isJsonArray(body))
    throw new Fault('BODY_UNREADABLE', `${about}: the answer ${unfit(body)}, not a list`, { endpoint })
  const clusters = body.map((row, index) => clusterOf(row, index))
  return clusters.sort((a, b) => (a.id < b.id ? -1 : 1))
}

function clusterOf(row: Json, index: number): Cluster {
  const fields = isJsonObject(row) ? row : {}
  const { uuid, name, status } = fields
  if (typeof uuid !== 'string' || uuid === '')
    throw new Fault('BODY_UNREADABLE', `clusters: /${index}/uuid ${unfit(uuid)}`, { path: `/${index}/uuid` })
  const at = (value: Json | undefined) => (typeof value === 'string' ? instantMs(value) : undefined)
  const createdMs = at(fields.createdAt)
  const deletedMs = at(fields.deletedAt)
  const sinceMs = at(fields.lastLiveness)
  const isLost = isJsonObject(status) && status.state === 'Disconnected'
  return {
    id: uuid,
    name: typeof name === 'string' && name !== '' ? name : uuid,
    ...(createdMs !== undefined && { createdMs }),
    ...(deletedMs !== undefined && { deletedMs }),
    ...(isLost && { lost: { ...(sinceMs !== undefined && { sinceMs }) } }),
  }
}

export interface ListOptions {
  readonly clusterId: string
  readonly window: Window
  readonly pageSize: number
  /** Hold the pods read against the count endpoint. */
  readonly counts: 'checked' | 'ignored'
  readonly facts: FaultFacts
  readonly signal: AbortSignal
}

/** One list, by what selects its rows. */
interface Selection {
  readonly deleted?: 'true'
  readonly completed?: 'false'
  readonly filters: readonly string[]
}

const readingsMax = 4
/** From this reading on the long list is read in place of the two short ones. */
const wholeFrom = 3
const pagesMax = 100_000
/** A node whose clock is behind says that a container started before its pod was created, by another clock. */
const clocksApartMs = 10 * minuteMs
const resumesMax = 1000

/**
 * Rows of all pods of the cluster that may have lived in the window, each once.
 *
 * Three lists hold them: those that have not ended, those that ended since the window began, and the deleted ones. They
 * are read in this order, in which a pod can move, so that one which moves meanwhile is met at least once; of one met
 * twice the later row counts. What was there at the beginning must have been met in the end: the counts say how many.
 * @throws Fault PAGES_DRIFTED where less was met several times in a row; and as `RunaiCalls.get`
 */
export async function readPods(calls: RunaiCalls, options: ListOptions): Promise<readonly Json[]> {
  const { clusterId, window, facts, signal } = options
  const about = `pods of cluster ${clusterId}`
  const ask = { about, facts, signal }
  const ofCluster = createdIn(clusterId, window)
  const from = showInstant(window.startMs)
  const ended = { filters: [...ofCluster, `completedAt>=${from}`] }
  const endedBefore = { filters: [...ofCluster, `completedAt<=${from}`] }
  const deleted = { deleted: 'true', filters: [...ofCluster, `deletedAt>=${from}`] } as const
  const count = (selection: Selection) =>
    readCount(calls, {
      ...ask,
      path: '/api/v1/workloads/pods/count',
      endpoint: 'runai.pods_count',
      selection,
    })
  const isAtEdge = (row: Json) =>
    isJsonObject(row) &&
    typeof row.completedAt === 'string' &&
    typeof row.deletedAt !== 'string' &&
    instantMs(row.completedAt) === window.startMs

  let short = ''
  for (let reading = 1; reading <= readingsMax; reading++) {
    const whole = reading >= wholeFrom
    // In this order a pod that moves between two counts is in neither, never in both: the sum is not too large.
    const checked = options.counts === 'checked'
    const gone = checked ? await count(deleted) : 0
    const before = checked && !whole ? await count(endedBefore) : 0
    const all = checked ? await count({ filters: ofCluster }) : 0
    const rows = new Map<string, Json>()
    const nameless: Json[] = []
    // A provider that means something else by `completed` than that completedAt is set would hide pods from both short
    // lists: the counts tell, and the whole list cannot.
    const selections: readonly Selection[] = whole
      ? [{ filters: ofCluster }, deleted]
      : [{ completed: 'false', filters: ofCluster }, ended, deleted]
    for (const selection of selections) {
      const list = { path: '/api/v1/workloads/pods', key: 'pods', endpoint: 'runai.pods', selection }
      for (const row of await readList(calls, { ...ask, ...list, pageSize: options.pageSize })) {
        const id = idOf(row)
        if (id === undefined) nameless.push(row)
        else rows.set(id, row)
      }
    }
    const met = [...rows.values(), ...nameless]
    const expected = all - before + gone
    const counted = whole ? met.length : met.filter(row => !isAtEdge(row)).length
    if (counted >= expected) return met
    short = `${counted} were listed and ${expected} counted`
  }
  throw new Fault('PAGES_DRIFTED', `${about}: ${short}, after ${readingsMax} readings`, facts)
}

/**
 * Rows of the workloads named, by id. They are looked for in the lists of those that may have lived in the window, and
 * one by one where they are in none. What the control plane does not know any more is left out.
 */
export async function readWorkloads(
  calls: RunaiCalls,
  options: ListOptions,
): Promise<Map<string, JsonObject>> {
  const { clusterId, window, facts, signal } = options
  const about = `workloads of cluster ${clusterId}`
  const ofCluster = createdIn(clusterId, window)
  const from = showInstant(window.startMs)
  const selections: readonly Selection[] = [
    { filters: [...ofCluster, 'phase!=Completed', 'phase!=Failed'] },
    { filters: [...ofCluster, `completedAt>=${from}`] },
    { deleted: 'true', filters: [...ofCluster, `deletedAt>=${from}`] },
  ]
  const byId = new Map<string, JsonObject>()
  for (const selection of selections) {
    const list = { path: '/api/v1/workloads', key: 'workloads', endpoint: 'runai.workloads', selection }
    const rows = await readList(calls, { about, facts, signal, ...list, pageSize: options.pageSize })
    for (const row of rows) {
      const id = idOf(row)
      if (id !== undefined && isJsonObject(row)) byId.set(id, row)
    }
  }
  return byId
}

/** Rows of all pods that a workload ever had, those of its suspended times and deleted ones too. */
export async function readPodsOf(
  calls: RunaiCalls,
  workloadId: string,
  options: Pick<ListOptions, 'facts' | 'signal' | 'pageSize'>,
): Promise<readonly Json[]> {
  const about = `pods of workload ${workloadId}`
  const filters = [`workloadId==${workloadId}`]
  const rows = new Map<string, Json>()
  for (const selection of [{ filters }, { deleted: 'true', filters }] as const) {
    const list = { path: '/api/v1/workloads/pods', key: 'pods', endpoint: 'runai.pods', selection }
    for (const row of await readList(calls, { about, ...list, ...options })) rows.set(idOf(row) ?? '', row)
  }
  return [...rows.values()]
}

/** One workload; undefined where the control plane does not know it. */
export async function readWorkload(
  calls: RunaiCalls,
  id: string,
  options: Pick<ListOptions, 'facts' | 'signal'>,
): Promise<JsonObject | undefined> {
  const about = `workload ${id}`
  try {
    const path = `/api/v1/workloads/${encodeURIComponent(id)}`
    const { body } = await calls.get({ path, endpoint: 'runai.workload', about, ...options })
    if (!isJsonObject(body) || idOf(body) !== id)
      throw new Fault('BODY_UNREADABLE', `${about}: the answer is of another`, options.facts)
    return body
  } catch (error) {
    if (error instanceof Fault && error.facts.status === 404) return undefined
    throw error
  }
}

function createdIn(clusterId: string, window: Window): readonly string[] {
  return [`clusterId==${clusterId}`, `createdAt<=${showInstant(window.endMs + clocksApartMs)}`]
}

interface List extends Pick<RunaiAsk, 'path' | 'endpoint' | 'about' | 'signal'> {
  readonly facts: FaultFacts
  readonly key: string
  readonly selection: Selection
  readonly pageSize: number
}

/**
 * The rows of one list by `next`, in order of creation. Each page begins with the last row of the page before: where it
 * does not, rows were taken out or put in before it, and reading goes on at the creation of that row, which no shift
 * moves. So what is in the list from beginning to end is met, and nothing twice.
 */
async function readList(calls: RunaiCalls, list: List): Promise<readonly Json[]> {
  const { path, key, endpoint, about, facts, selection, signal } = list
  // A page of one row would have no room for more than the last of the page before.
  const limit = Math.max(2, list.pageSize)
  const rows: Json[] = []
  const seen = new Set<string>()
  let fromCreated: string | undefined
  let offset = 0
  let anchor: Json | undefined
  let resumes = 0
  for (let number = 1; number <= pagesMax; number++) {
    stopIfAborted(signal)
    const filters = [
      ...selection.filters,
      ...(fromCreated === undefined ? [] : [`createdAt>=${fromCreated}`]),
    ]
    const { body } = await calls.get({
      path,
      query: {
        ...(selection.deleted && { deleted: selection.deleted }),
        ...(selection.completed && { completed: selection.completed }),
        offset,
        limit,
        sortBy: 'createdAt',
        sortOrder: 'asc',
        filterBy: filters,
      },
      endpoint,
      about,
      facts,
      signal,
    })
    const page = listOf(body, key, { about, facts })
    if (anchor !== undefined && idOf(page[0] ?? null) !== idOf(anchor)) {
      const created = isJsonObject(anchor) ? anchor.createdAt : undefined
      if (typeof created !== 'string' || ++resumes > resumesMax)
        throw new Fault('PAGES_DRIFTED', `${about}: a page does not begin where the one before ended`, facts)
      fromCreated = created
      offset = 0
      anchor = undefined
      continue
    }
    for (const row of page) {
      const id = idOf(row)
      if (id !== undefined && seen.has(id)) continue
      if (id !== undefined) seen.add(id)
      // A row without an id stands at the overlap twice.
      else if (row === page[0] && anchor !== undefined) continue
      rows.push(row)
    }
    const next = nextOf(body, { about, facts })
    if (next === undefined || page.length === 0) return rows
    if (next <= offset)
      throw new Fault('BODY_UNREADABLE', `${about}: next ${next} does not lead on from ${offset}`, {
        ...facts,
        path: '/next',
      })
    const last = page.at(-1)
    anchor =
      page.length > 1 && next - 1 > offset && last !== undefined && idOf(last) !== undefined
        ? last
        : undefined
    offset = anchor === undefined ? next : next - 1
  }
  throw new Fault('PAGES_DRIFTED', `${about}: there are more than ${pagesMax} pages`, facts)
}

async function readCount(
  calls: RunaiCalls,
  asked: Pick<RunaiAsk, 'path' | 'endpoint' | 'about' | 'signal'> & {
    readonly facts: FaultFacts
    readonly selection: Selection
  },
): Promise<number> {
  const { selection, ...ask } = asked
  const query = { ...(selection.deleted && { deleted: selection.deleted }), filterBy: selection.filters }
  const { body } = await calls.get({ ...ask, query })
  const count = isJsonObject(body) ? body.count : undefined
  if (count instanceof JsonNumber && /^\d{1,15}$/.test(count.text)) return Number(count.text)
  throw new Fault('BODY_UNREADABLE', `${ask.about}: count ${unfit(count)}`, { ...ask.facts, path: '/count' })
}

/** Where the next page begins; absent, null or empty on the last one. */
function nextOf(body: Json, ask: Pick<List, 'about' | 'facts'>): number | undefined {
  const next = isJsonObject(body) ? body.next : undefined
  if (next === undefined || next === null || next === '') return undefined
  const text = next instanceof JsonNumber ? next.text : typeof next === 'string' ? next : ''
  if (/^\d{1,15}$/.test(text)) return Number(text)
  throw new Fault('BODY_UNREADABLE', `${ask.about}: next ${unfit(next)}, not an offset`, {
    ...ask.facts,
    path: '/next',
  })
}

export function idOf(row: Json): string | undefined {
  const id = isJsonObject(row) ? row.id : undefined
  return typeof id === 'string' && id !== '' ? id : undefined
}
