/** A ledger of many readings made by SQL, as the processor would have left it, and the table a peer makes of the same events. */
import { hash128, identitySql } from '../../processor/audit/deep.ts'
import type { Store } from '../../processor/store.ts'
import { hourMs } from '../../schemas/window.ts'
import { loadSource, loadStartMs } from './load.ts'

/** The load of `loadReads` with as many resources of each subject and type as the number of events asks for. */
export interface MadePlan {
  readonly events: number
  readonly subjects: number
  readonly types: number
  readonly hours: number
  readonly rereadPercent: number
}

const subjectsPerScope = 10
/** Readings of a statement: enough for parts of a size that a store has, few enough for its memory. */
const lotReadings = 250_000
const lotsAtOnce = 2

/** What has to be known to compute a reading from its number: all windows in time order, then those read again. */
function numbersOf(plan: MadePlan) {
  const scopes = Math.ceil(plan.subjects / subjectsPerScope)
  const windows = scopes * plan.hours
  const rereadEvery = Math.round(100 / plan.rereadPercent)
  const again = Math.floor(windows / rereadEvery)
  const share = plan.events / ((windows + again) * subjectsPerScope * plan.types)
  const resources = Math.ceil(share)
  const perRead = subjectsPerScope * plan.types * resources
  return {
    scopes,
    windows,
    rereadEvery,
    reads: windows + again,
    resources,
    perRead,
    chance: share / resources,
  }
}

/** Fills `events` and `reads`. Resolves to how many readings there are. */
export async function makeLedger(store: Store, plan: MadePlan): Promise<number> {
  const { scopes, windows, rereadEvery, reads, perRead, chance } = numbersOf(plan)
  const window = `if(r < ${windows}, r, (r - ${windows}) * ${rereadEvery})`
  const makeLot = async (from: number, to: number) => {
    await store.run(`
      insert into events (source, scope, start, end, readat, type, subject, used_start, used_end, resource_kind, resource_id,
        resource_name, measures, labels, parts, estimated, log, partition, offset, content, identity)
      select source, scope, start, end, readat, type, subject, used_start, used_end, resource_kind, resource_id,
        resource_name, measures, labels, parts, estimated, log, partition, offset, cityHash64(r, i), ${hash128(identitySql)}
      from (
        select intDiv(number, ${perRead}) + ${from} as r, number % ${perRead} as i, ${window} as w,
          '${loadSource}' as source, concat('cluster-', toString(w % ${scopes})) as scope,
          toDateTime(${loadStartMs / 1000}, 'UTC') + intDiv(w, ${scopes}) * 3600 as start, start + 3600 as end,
          fromUnixTimestamp64Milli(toInt64(toUnixTimestamp(end)) * 1000 + if(r < ${windows}, 1, 500000), 'UTC') as readat,
          'bench' as log, r % 4 as partition, intDiv(r, 4) * ${perRead + 1} + i as offset,
          i % ${plan.types} as t, intDiv(i, ${plan.types}) % ${subjectsPerScope} as j,
          intDiv(i, ${plan.types * subjectsPerScope}) as k, (w % ${scopes}) * ${subjectsPerScope} + j as s,
          concat('io.meterline.bench.thing', toString(t), '.v1') as type,
          concat('tenant-', leftPad(toString(s), 4, '0')) as subject, toDateTime64(start, 3, 'UTC') as used_start,
          toDateTime64(end, 3, 'UTC') as used_end, 'instance' as resource_kind,
          concat('019c510c-86c4-7', leftPad(toString(k), 3, '0'), '-', leftPad(toString(t), 4, '0'), '-', leftPad(toString(s), 12, '0')) as resource_id,
          '' as resource_name, cityHash64(r, i, 'seconds') % 3600 as seconds, 1 + cityHash64(r, i, 'gpus') % 8 as gpus,
          map('gpu_seconds', toDecimal128(seconds * gpus, 12), 'instance_seconds', toDecimal128(seconds, 12)) as measures,
          map('gpu_type', ['Nvidia L40', 'Nvidia A100', 'Nvidia H100'][s % 3 + 1], 'organization', concat('Tenant ', toString(s)),
            'profile', concat('profile-', toString(t)), 'profile_type', 'compute', 'status', 'running') as labels,
          1 as parts, false as estimated
        from numbers(${(to - from) * perRead})
        where cityHash64(r, i, 'there') % 1000000 < ${Math.round(chance * 1e6)} and s < ${plan.subjects})`)
    const places = `(intDiv(offset, ${perRead + 1}) * 4 + partition) between ${from} and ${to - 1}`
    await store.run(`
      insert into reads (source, scope, start, end, readat, content_readat, outcome, held, events, digest, subjects, totals,
        settled, estimated, log, partition, offset, counts_from, version)
      select source, scope, start, any(e.end), readat, readat, 'complete', true, count(), sum(content), groupUniqArray(subject),
        cast(sumMap(arrayMap(k -> toString(k), mapKeys(measures)), arrayMap(v -> toDecimal256(v, 12), mapValues(measures))),
          'Map(LowCardinality(String), Decimal(76, 12))'), true, false, any(log), any(partition), max(e.offset) + 1, max(e.offset) + 1, 1
      from events as e where ${places} group by source, scope, start, readat`)
  }
  const step = Math.max(1, Math.round(lotReadings / (perRead * chance)))
  const lots = Array.from({ length: Math.ceil(reads / step) }, (_, lot) => lot * step)
  await Promise.all(
    Array.from({ length: lotsAtOnce }, async () => {
      for (let from = lots.shift(); from !== undefined; from = lots.shift())
        await makeLot(from, Math.min(from + step, reads))
    }),
  )
  const [held] = await store.rows<{ readings: string }>('select count() as readings from events')
  return Number(held?.readings ?? 0)
}

/** Fills `om_events`, the table OpenMeter's migrations make, with the ledger's events as CloudEvents, re-reads as well. */
export async function makePeerTable(store: Store, plan: MadePlan): Promise<void> {
  await store.run(`
    create table if not exists om_events (namespace String, id String, type LowCardinality(String), subject String,
      source String, time DateTime, data String, ingested_at DateTime, stored_at DateTime,
      index om_events_stored_at stored_at type minmax granularity 4, store_row_id String)
    engine = MergeTree partition by toYYYYMM(time) order by (namespace, type, subject, toStartOfHour(time))`)
  const iso = (time: string) => `formatDateTime(${time}, '%Y-%m-%dT%H:%i:%SZ', 'UTC')`
  const list = (map: string, value: string) =>
    `arrayStringConcat(arrayMap((k, v) -> concat('"', k, '":"', ${value}, '"'), mapKeys(${map}), mapValues(${map})), ',')`
  for (let hour = 0; hour < plan.hours; hour += 6)
    await store.run(
      `insert into om_events
       select 'default', ${peerId}, type, subject, source, start,
         concat('{"window":{"start":"', ${iso('start')}, '","end":"', ${iso('end')}, '"},"resource":{"kind":"instance","id":"', resource_id,
           '"},"measures":{', ${list('measures', 'toString(v)')}, '},"labels":{', ${list('labels', 'v')}, '},"estimated":false}'),
         readat, readat + 2, ${ulid('readat')}
       from events where start >= {from:DateTime('UTC')} and start < {from:DateTime('UTC')} + interval 6 hour`,
      { from: (loadStartMs + hour * hourMs) / 1000 },
    )
}

/** As OpenMeter's row ids: ten characters of the time, sixteen of chance. */
const ulid = (time: string) =>
  `concat('01J', substring(base32Encode(reverse(reinterpretAsString(toUnixTimestamp64Milli(${time})))), 4, 7), base32Encode(randomFixedString(10)))`

/** The id of the ledger's rows as their CloudEvents have it. */
export const peerId = `concat(lower(leftPad(hex(identity), 32, '0')), '@', formatDateTime(readat, '%Y-%m-%dT%H:%i:%S', 'UTC'), '.',
  leftPad(toString(toUnixTimestamp64Milli(readat) % 1000), 3, '0'), 'Z')`
