/**
 * No node can give more GPU seconds than its GPUs have: where events carry their node and its GPUs (labels `node` and
 * `node_gpus`, in a `cluster`), their sum in an hour is held against GPUs × 3600; where they carry the one GPU they used
 * (label `gpu_uuid`), against 3600. A source is held to this by itself, and the sources of one meter together: a GPU that
 * two of them report would be billed twice.
 */
import type { Meter } from '../../schemas/meters.ts'
import { showInstant } from '../../schemas/window.ts'
import { meterSql } from '../meters.ts'
import { currentReads } from '../reads.ts'
import type { Params, Store } from '../store.ts'
import { type Compared, type Difference, namedMax } from './report.ts'
import { inSlice, type Slice, sliceParams } from './slices.ts'

/** What is summed together, and how that is said. */
interface Together {
  readonly by: string
  readonly where: string
  readonly what: string
  readonly params: Params
}

interface NodeRow {
  readonly by: string
  readonly cluster: string
  readonly name: string
  readonly hour_s: number
  readonly seconds: string
  readonly most: string
}

export async function auditNodes(
  store: Store,
  slices: readonly Slice[],
  meters: readonly Meter[],
): Promise<Compared> {
  const ofMeters = meters
    .filter(
      ({ aggregation, value }) => aggregation === 'SUM' && /^(\$\.measures\.)?gpu_seconds$/.test(value ?? ''),
    )
    .map((meter): Together => {
      const { where, params } = meterSql(meter)
      return { by: "''", where, what: `meter ${meter.slug}`, params }
    })
  const all: readonly Together[] = [
    { by: 'toString(source)', where: 'true', what: '', params: {} },
    ...ofMeters,
  ]
  const differences: Difference[] = []
  let compared = 0n
  let differing = 0n
  for (const slice of slices) {
    if (!(await hasNodes(store, slice))) continue
    for (const [index, together] of all.entries())
      for (const kind of ['node', 'gpu'] as const) {
        const found = await compareSlice(store, slice, together, kind)
        // A meter adds up what its sources said each for itself: that is no further node.
        if (index === 0) compared += found.compared
        differing += found.differing
        differences.push(...found.rows.map(row => nodeDifference(row, together.what, kind)))
      }
  }
  return {
    check: 'nodes',
    compared,
    things: 'hours of nodes and GPUs',
    differing,
    differences: differences.slice(0, namedMax),
  }
}

async function hasNodes(store: Store, slice: Slice): Promise<boolean> {
  const rows = await store.rows(
    `select 1 from events where ${inSlice} and (mapContains(labels, 'node') or mapContains(labels, 'gpu_uuid'))
       and mapContains(measures, 'gpu_seconds') limit 1`,
    sliceParams(slice),
  )
  return rows.length > 0
}

async function compareSlice(
  store: Store,
  slice: Slice,
  { by, where, params }: Together,
  kind: 'node' | 'gpu',
): Promise<{ readonly compared: bigint; readonly differing: bigint; readonly rows: readonly NodeRow[] }> {
  const label = kind === 'node' ? 'node' : 'gpu_uuid'
  const gpus =
    kind === 'node' ? "toUInt64OrZero(labels['node_gpus'])" : "length(splitByChar(',', labels['gpu_uuid']))"
  const [row] = await store.rows<{ compared: string; differing: string; found: readonly NodeTuple[] }>(
    `select count() as compared, countIf(seconds > most) as differing,
       groupArrayIf(${namedMax})((by, cluster, name, toUnixTimestamp(hour), toString(seconds), toString(most)), seconds > most) as found
     from (
       select ${by} as by, labels['cluster'] as cluster, labels['${label}'] as name, toStartOfHour(start) as hour,
         sum(toDecimal256(measures['gpu_seconds'], 12)) as seconds, toDecimal256(max(${gpus}) * 3600, 12) as most
       from events final
       where ${inSlice} and ${where} and labels['${label}'] != '' and mapContains(measures, 'gpu_seconds')
         and (source, scope, start, readat) in (${currentReads(inSlice)})
       group by by, cluster, name, hour having most > 0)`,
    { ...params, ...sliceParams(slice) },
  )
  return {
    compared: BigInt(row?.compared ?? 0),
    differing: BigInt(row?.differing ?? 0),
    rows: (row?.found ?? []).map(([by, cluster, name, hour_s, seconds, most]) => ({
      by,
      cluster,
      name,
      hour_s,
      seconds,
      most,
    })),
  }
}

type NodeTuple = readonly [string, string, string, number, string, string]

function nodeDifference(row: NodeRow, what: string, kind: 'node' | 'gpu'): Difference {
  const cluster = row.cluster === '' ? '' : `${row.cluster} `
  return {
    check: 'nodes',
    place: `${kind} ${cluster}${row.name} ${showInstant(Number(row.hour_s) * 1000)} (${what === '' ? row.by : what})`,
    message: `${row.seconds} GPU seconds in an hour that has ${row.most}`,
    remedy:
      what === ''
        ? 'The source counts a GPU twice, or the node has more GPUs than its label says.'
        : 'Two sources of this meter report the same GPU: keep them apart (`disjoint`), or bill by one of them.',
  }
}
