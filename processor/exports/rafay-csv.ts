/**
 * Instance hours from the ledger in the two files of Rafay's published script, the plain and the sorted one. Unlike
 * the script's, hours are exact decimals, and rows of one name in one profile are one row, summed.
 */
import { exact, showQuantity } from '../../schemas/decimal.ts'
import { type NcpRow, ncpFileNames, printNcpCsv, sortNcpRows } from '../../schemas/ncp-metrics.ts'
import type { Window } from '../../schemas/window.ts'
import { currentReads } from '../reads.ts'
import type { Store } from '../store.ts'
import type { Export } from './export.ts'

export const rafayCsv: Export = {
  name: 'rafay-csv',
  summary: "Instance hours in the columns of Rafay's ncp_metrics.py, plain and sorted.",
  makes: 'several',
  async write({ store, period, nowMs, zone }) {
    const rows = await instanceRows(store, period)
    const names = ncpFileNames(nowMs, zone)
    return [
      { name: names.plain, chunks: [printNcpCsv(rows, 'unpriced')] },
      { name: names.sorted, chunks: [printNcpCsv(sortNcpRows(rows), 'unpriced')] },
    ]
  },
}

interface InstanceSum {
  readonly organization: string
  readonly profile_type: string
  readonly profile: string
  readonly instance: string
  readonly seconds: string
  readonly status: string
}

/**
 * A row an instance name of a tenant's profile, in the order of source, tenant, profile and name. An instance that
 * has no name goes by its id. Status, and the name of the organization, are those of the newest reading.
 */
async function instanceRows(store: Store, { startMs, endMs }: Window): Promise<readonly NcpRow[]> {
  // Edges inside an hour or a window are no matter here: a reading belongs to the instant at which its window starts.
  const range = 'start >= fromUnixTimestamp({from:UInt32}) and start < fromUnixTimestamp({to:UInt32})'
  const sums = await store.rows<InstanceSum>(
    `select argMax(labels['organization'], newest) as organization, labels['profile_type'] as profile_type,
       labels['profile'] as profile, if(resource_name = '', resource_id, resource_name) as instance,
       sum(toDecimal256(measures['instance_seconds'], 12)) as seconds,
       argMax(labels['status'], newest) as status
     from (
       select *, (start, labels['status'], labels['organization']) as newest from events final
       where ${range} and startsWith(type, 'io.meterline.rafay.instance.')
         and mapContains(measures, 'instance_seconds')
         and (source, scope, start, readat) in (${currentReads(range)}))
     group by source, subject, profile_type, profile, instance
     order by source, subject, profile_type, profile, instance`,
    { from: Math.ceil(startMs / 1000), to: Math.ceil(endMs / 1000) },
  )
  return sums.map(({ seconds, profile_type, ...row }) => ({
    ...row,
    profileType: profile_type,
    usage: showQuantity(exact(seconds).div(3600)),
  }))
}
