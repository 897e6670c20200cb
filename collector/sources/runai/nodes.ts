/**
 * The nodes of a cluster: GPU type and node pool by the node's name, for the labels of what runs there. Run:ai tells how
 * much memory a GPU has in no version of this list. Nodes that are gone stay known, so that a window that is read again
 * says what it said before.
 */
import { Fault } from '../../../schemas/fault.ts'
import { isJsonObject, type Json, JsonNumber, parseExact } from '../../../schemas/json.ts'
import { minuteMs } from '../../../schemas/window.ts'
import type { SourceContext } from '../../source.ts'
import { listOf, type RunaiCalls } from './calls.ts'

export interface RunaiNodeFacts {
  readonly nodePool?: string
  /** Of all its GPUs; absent where it has none, or does not say. */
  readonly gpuType?: string
  readonly gpuCount?: number
}

export interface RunaiNodes {
  /**
   * By name: those that there are, and those that were.
   * @throws Fault as `RunaiCalls.get`, and BODY_UNREADABLE
   */
  of(clusterId: string, signal: AbortSignal): Promise<ReadonlyMap<string, RunaiNodeFacts>>
}

const pageSizeMax = 500
/** Of who asks for none, since the list is paged. */
const pageSizeDefault = 50
const keptMs = 5 * minuteMs

export function openNodes(given: {
  readonly calls: RunaiCalls
  readonly state: SourceContext['state']
  readonly nowMs: () => number
  readonly pageSize?: number
}): RunaiNodes {
  const { calls, state, nowMs, pageSize = pageSizeMax } = given
  const kept = new Map<
    string,
    { readonly nodes: ReadonlyMap<string, RunaiNodeFacts>; readonly atMs: number }
  >()
  let isOld = false

  async function rowsOf(clusterId: string, signal: AbortSignal): Promise<readonly Json[]> {
    const asked = { endpoint: 'runai.nodes', about: `nodes of cluster ${clusterId}`, signal }
    const rows: Json[] = []
    if (!isOld)
      try {
        // No answer names a next page: one that is not full is the last.
        for (let page: readonly Json[] | undefined; page === undefined || page.length >= pageSize; ) {
          const { body } = await calls.get({
            ...asked,
            path: '/api/v1/nodes',
            query: {
              filterBy: [`clusterUuid==${clusterId}`],
              sortBy: 'name',
              sortOrder: 'asc',
              offset: rows.length,
              limit: pageSize,
            },
          })
          page = listOf(body, 'nodes', asked)
          rows.push(...page)
        }
        return rows
      } catch (error) {
        if (!(error instanceof Fault) || error.code !== 'SOURCE_MISSING') throw error
      }
    // Before 2.24 nodes are asked for by cluster, all at once in 2.19, in pages of which nothing is said later on.
    const path = `/api/v1/clusters/${encodeURIComponent(clusterId)}/nodes`
    rows.push(...listOf((await calls.get({ ...asked, path })).body, 'nodes', asked))
    isOld = true
    while (rows.length > 0 && rows.length % pageSizeDefault === 0) {
      const query = { sortBy: 'name', sortOrder: 'asc', offset: rows.length, limit: pageSizeDefault }
      const page = listOf((await calls.get({ ...asked, path, query })).body, 'nodes', asked)
      const seen = new Set(rows.map(nameOf))
      const fresh = page.filter(row => !seen.has(nameOf(row)))
      if (fresh.length === 0) break
      rows.push(...fresh)
    }
    return rows
  }

  return {
    async of(clusterId, signal) {
      const held = kept.get(clusterId)
      if (held && nowMs() - held.atMs < keptMs) return held.nodes
      const prefix = `node ${clusterId} `
      const nodes = new Map<string, RunaiNodeFacts>()
      for (const [key, text] of state.range(prefix, `${prefix}\u{10ffff}`))
        nodes.set(key.slice(prefix.length), factsOf(parseExact(text)))
      const changed: (readonly [string, string])[] = []
      for (const row of await rowsOf(clusterId, signal)) {
        const name = nameOf(row)
        // Unnamed, it can be joined to nothing; of another cluster, it is not what was asked for.
        if (name === undefined || !isJsonObject(row)) continue
        if (typeof row.clusterUuid === 'string' && row.clusterUuid !== clusterId) continue
        const gpuInfo = isJsonObject(row.gpuInfo) ? row.gpuInfo : {}
        const before = nodes.get(name)
        // A node that is down for a while may not know its GPUs: what it said before stays.
        const facts = {
          ...before,
          ...factsOf({ nodePool: row.nodePool, gpuType: gpuInfo.gpuType, gpuCount: gpuInfo.gpuCount }),
        }
        if (JSON.stringify(facts) !== JSON.stringify(before))
          changed.push([prefix + name, JSON.stringify(facts)])
        nodes.set(name, facts)
      }
      if (changed.length > 0) state.write(changed)
      kept.set(clusterId, { nodes, atMs: nowMs() })
      return nodes
    },
  }
}

function nameOf(row: Json): string | undefined {
  return isJsonObject(row) && typeof row.name === 'string' && row.name !== '' ? row.name : undefined
}

function factsOf(value: Json): RunaiNodeFacts {
  const { nodePool, gpuType, gpuCount } = isJsonObject(value) ? value : {}
  const count =
    gpuCount instanceof JsonNumber && /^\d{1,6}$/.test(gpuCount.text) ? Number(gpuCount.text) : undefined
  return {
    ...(typeof nodePool === 'string' && nodePool !== '' && { nodePool }),
    ...(typeof gpuType === 'string' && gpuType !== '' && { gpuType }),
    ...(count !== undefined && { gpuCount: count }),
  }
}
