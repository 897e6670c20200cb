/**
 * `npm run bench -- audit [EVENTS] [deep]`: the audit over a ledger of ten million readings in the embedded store, with the outbox
 * that sent the last of them. The ledger is made by SQL, as the processor would have left it; the outbox by its own code.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openEmbedded } from '../../deploy/embedded/embedded.ts'
import { contentSql, hash64, hash128, identitySql } from '../../processor/audit/deep.ts'
import { differing, firstDifference } from '../../processor/audit/report.ts'
import { audit } from '../../processor/audit.ts'
import type { Billing } from '../../processor/billing.ts'
import { registerMeters } from '../../processor/rollups.ts'
import { Store } from '../../processor/store.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { partitionKey, sealMark, sealReading } from '../../schemas/event.ts'
import type { Book } from '../../schemas/pricebook.ts'
import { hourMs } from '../../schemas/window.ts'
import { freshen } from '../freshen.ts'
import { loadMeters, loadSource, loadStartMs } from './load.ts'

const scopes = 100
const subjectsPerScope = 10
const types = 10
const perRead = subjectsPerScope * types
const partitions = 4
/** Every fiftieth window was read again, with other figures. */
const rereadEvery = 50
const sentRows = 200_000
const log = 'bench'
/** Reads of an insert, and how many of these go at once. */
const lotReads = 2000
const lotsAtOnce = 4

/** A read by its number: all windows in time order, then those that were read again. */
interface Plan {
  readonly hours: number
  readonly reads: number
}

/** As the load of the other benchmarks: 1,000 subjects × 10 types, an hour each, 100 readings a read. */
export async function benchAudit([given = '10000000', also]: readonly string[]): Promise<void> {
  const windows = Math.floor(Number(given) / perRead / (1 + 1 / rereadEvery))
  const hours = Math.max(1, Math.floor(windows / scopes))
  const plan = { hours, reads: hours * scopes + Math.floor((hours * scopes) / rereadEvery) }
  const dir = mkdtempSync(join(tmpdir(), 'meterline-bench-audit-'))
  try {
    await using embedded = await openEmbedded({ dataDir: dir })
    const { url, user, password, pid } = embedded
    await using store = await Store.open({ url, user, password, database: 'bench' }, { deadlineMs: 900_000 })
    const lap = stopwatch()
    await makeLedger(store, plan, also === 'deep' ? 'true contents' : 'any contents')
    lap(`${plan.reads * perRead} readings and ${plan.reads} marks are in the ledger`)
    await registerMeters(store, loadMeters(types))
    await freshen(store, { cellsMax: 50_000 })
    lap('no cell is stale')
    using outbox = makeOutbox(dir, plan)
    lap(`${outbox.depth().keptRows} released rows are in the outbox`)
    for (const deep of also === 'deep' ? [false, true] : [false]) {
      const cpu = process.cpuUsage()
      const storeCpu = cpuSecondsOf(pid)
      const report = await audit(store, {
        deep,
        billing,
        sent: { outbox, log },
        logs: async () => [{ log, partitions: boundsOf(plan) }],
        progress: part =>
          lap(`  ${part} (ClickHouse so far ${(cpuSecondsOf(pid) - storeCpu).toFixed(1)} s of CPU)`),
      })
      const used = process.cpuUsage(cpu)
      const seconds = lap.total()
      const first = firstDifference(report)
      console.log(
        `audit${deep ? ' --deep' : ''}: ${seconds.toFixed(1)} s, ${report.state}, ${differing(report)} differences${first ? `: ${first.place} ${first.message}` : ''}`,
      )
      console.log(
        `  CPU of the command ${((used.user + used.system) / 1e6).toFixed(1)} s, of ClickHouse ${(cpuSecondsOf(pid) - storeCpu).toFixed(1)} s; RSS ${megabytes(process.memoryUsage.rss())}, at most ${megabytes(peakBytes(pid))} since its start`,
      )
    }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

const billing: Billing = {
  accounts: [
    {
      id: 'all',
      currency: 'USD',
      timezone: 'UTC',
      priceBook: 'b',
      subjects: Array.from({ length: scopes * subjectsPerScope }, (_, subject) => ({
        source: loadSource,
        subject: `tenant-${String(subject).padStart(4, '0')}`,
      })),
    } as unknown as Billing['accounts'][number],
  ],
  books: [
    {
      id: 'b',
      currency: 'USD',
      charges: loadMeters(types).map(({ slug }) => ({ id: slug, meter: slug, price: { unit: '1.5' } })),
    } as unknown as Book & { id: string },
  ],
  meters: loadMeters(types),
}

// -- the ledger

/** `r` is the number of a read, `i` of a reading in it; both may stand for columns or be computed. */
async function makeLedger(
  store: Store,
  { hours, reads }: Plan,
  contents: 'true contents' | 'any contents',
): Promise<void> {
  const content = contents === 'true contents' ? hash64(contentSql) : 'cityHash64(r, i)'
  const first = hours * scopes
  const window = `if(r < ${first}, r, (r - ${first}) * ${rereadEvery})`
  const common = `'${loadSource}' as source, concat('cluster-', toString(w % ${scopes})) as scope,
    toDateTime(${loadStartMs / 1000}, 'UTC') + intDiv(w, ${scopes}) * 3600 as start, start + 3600 as end,
    fromUnixTimestamp64Milli(toInt64(toUnixTimestamp(end)) * 1000 + if(r < ${first}, 1, 500000), 'UTC') as readat`
  const place = `'${log}' as log, r % ${partitions} as partition`
  const makeLot = async (from: number) => {
    const to = Math.min(from + lotReads, reads)
    await store.run(`
      insert into events (source, scope, start, end, readat, type, subject, used_start, used_end, resource_kind, resource_id,
        resource_name, measures, labels, parts, estimated, log, partition, offset, content, identity)
      select source, scope, start, end, readat, type, subject, used_start, used_end, resource_kind, resource_id,
        resource_name, measures, labels, parts, estimated, log, partition, offset, ${content}, ${hash128(identitySql)}
      from (
        select intDiv(number, ${perRead}) + ${from} as r, number % ${perRead} as i, ${window} as w, ${common}, ${place},
          intDiv(r, ${partitions}) * ${perRead + 1} + i as offset, i % ${types} as t,
          (w % ${scopes}) * ${subjectsPerScope} + intDiv(i, ${types}) as s,
          concat('io.meterline.bench.thing', toString(t), '.v1') as type,
          concat('tenant-', leftPad(toString(s), 4, '0')) as subject, toDateTime64(start, 3, 'UTC') as used_start,
          toDateTime64(end, 3, 'UTC') as used_end, 'instance' as resource_kind,
          concat('019c510c-86c4-707d-', leftPad(toString(t), 4, '0'), '-', leftPad(toString(s), 12, '0')) as resource_id,
          '' as resource_name, cityHash64(r, i) % 3600 as seconds,
          map('gpu_seconds', toDecimal128(seconds * (1 + s % 8), 12), 'instance_seconds', toDecimal128(seconds, 12)) as measures,
          map('gpu_type', ['Nvidia L40', 'Nvidia A100', 'Nvidia H100'][s % 3 + 1], 'organization', concat('Tenant ', toString(s)),
            'profile', concat('profile-', toString(t)), 'profile_type', 'compute', 'status', 'running') as labels,
          1 as parts, false as estimated
        from numbers(${(to - from) * perRead}))
      settings output_format_json_escape_forward_slashes = 0`)
    await store.run(
      `insert into reads (source, scope, start, end, readat, content_readat, outcome, held, events, digest, subjects, totals,
         settled, estimated, log, partition, offset, counts_from, version, id_hash)
       select '${loadSource}', e.scope, e.start, e.end, e.readat, e.readat, 'complete', true, n, digest, subjects, totals, true,
         false, log, partition, last + 1, last + 1, 1, ${markHash}
       from (
         select scope, start, any(events.end) as end, readat, count() as n, sum(content) as digest, groupUniqArray(subject) as subjects,
           cast(sumMap(arrayMap(k -> toString(k), mapKeys(measures)), arrayMap(v -> toDecimal256(v, 12), mapValues(measures))),
             'Map(LowCardinality(String), Decimal(76, 12))') as totals,
           any(events.log) as log, any(events.partition) as partition, max(events.offset) as last
         from events where intDiv(events.offset, ${perRead + 1}) * ${partitions} + events.partition >= ${from}
           and intDiv(events.offset, ${perRead + 1}) * ${partitions} + events.partition < ${to}
         group by scope, start, readat) as e`,
    )
  }
  const lots = Array.from({ length: Math.ceil(reads / lotReads) }, (_, lot) => lot * lotReads)
  await Promise.all(
    Array.from({ length: lotsAtOnce }, async () => {
      for (let from = lots.shift(); from !== undefined; from = lots.shift()) await makeLot(from)
    }),
  )

  const offsets = `(intDiv(${reads} - p + ${partitions - 1}, ${partitions})) * ${perRead + 1}`
  await store.run(
    `insert into positions (log, partition, first, last, messages)
     select '${log}', p, at * 25000 as first, least(first + 24999, ends - 1) as last, last - first + 1
     from (select number as p, ${offsets} as ends from numbers(${partitions})) array join range(intDiv(ends + 24999, 25000)) as at`,
  )
}

/** `idHash` of a mark, from the columns of its row. */
const iso = (column: string) => `formatDateTime(${column}, '%Y-%m-%dT%H:%i:%SZ', 'UTC')`
const markHash =
  hash64(`concat('${loadSource} ', lower(hex(substring(SHA256(concat('["${loadSource}","', e.scope,
  '","io.meterline.read.v1","","","","', ${iso('e.start')}, '","', ${iso('e.end')}, '"]')), 1, 16))), '@',
  formatDateTime(e.readat, '%Y-%m-%dT%H:%i:%S', 'UTC'), '.', leftPad(toString(toUnixTimestamp64Milli(e.readat) % 1000), 3, '0'), 'Z')`)

function boundsOf({ reads }: Plan): ReadonlyMap<number, { readonly first: bigint; readonly next: bigint }> {
  return new Map(
    Array.from({ length: partitions }, (_, partition) => [
      partition,
      { first: 0n, next: BigInt(Math.ceil((reads - partition) / partitions) * (perRead + 1)) },
    ]),
  )
}

// -- the outbox

/** What was sent of the last hours, released where the ledger has it. */
function makeOutbox(dir: string, { hours }: Plan): SqliteOutbox {
  const fromHour = Math.max(0, hours - Math.ceil(sentRows / (scopes * (perRead + 1))))
  const scopeOf = (key: string) => Number(key.slice(key.lastIndexOf('-') + 1))
  const outbox = SqliteOutbox.open({
    dir,
    access: 'append',
    partitions: { count: partitions, of: key => scopeOf(key) % partitions },
    nowMs: () => loadStartMs,
  })
  const value = Buffer.from('{}')
  for (let hour = fromHour; hour < hours; hour += 1)
    outbox.append(
      ...Array.from({ length: scopes }, (_, at) => {
        const window = { startMs: loadStartMs + hour * hourMs, endMs: loadStartMs + (hour + 1) * hourMs }
        const scope = `cluster-${at}`
        const identity = { source: loadSource, scope, window, readatMs: window.endMs + 1 }
        const readings = Array.from({ length: perRead }, (_, index) => {
          const subject = String(at * subjectsPerScope + Math.floor(index / types))
          const type = index % types
          const id = `019c510c-86c4-707d-${String(type).padStart(4, '0')}-${subject.padStart(12, '0')}`
          const usage = {
            thing: `thing${type}`,
            subject: `tenant-${subject.padStart(4, '0')}`,
            resource: { kind: 'instance', id },
            measures: {},
            labels: {},
          }
          return { id: sealReading(usage, 'bench', identity).id, value }
        })
        const data = {
          outcome: 'complete',
          events: perRead,
          digest: '',
          settled: true,
          estimated: false,
        } as const
        return {
          identity,
          key: partitionKey(loadSource, scope),
          readings,
          mark: { id: sealMark(data, identity).id, value },
          record: { ...identity, attemptedMs: identity.readatMs },
        }
      }),
    )
  for (let partition = 0; partition < partitions; partition += 1) {
    let offset = BigInt(((fromHour * scopes) / partitions) * (perRead + 1))
    for (;;) {
      const rows = outbox.pending(partition, { rowsMax: 20_000, bytesMax: 1e9 })
      if (rows.length === 0) break
      outbox.release(
        partition,
        rows.map(({ seq }) => seq),
        offset,
      )
      offset += BigInt(rows.length)
    }
  }
  return outbox
}

// -- figures

/** Says how long each part took; `total` is of all since it was asked last. */
function stopwatch(): ((what: string) => void) & { total(): number } {
  let atMs = performance.now()
  let totalMs = atMs
  const lap = (what: string) => {
    const nowMs = performance.now()
    console.log(`${((nowMs - atMs) / 1000).toFixed(1)} s: ${what}`)
    atMs = nowMs
    if (!what.startsWith(' ')) totalMs = nowMs
  }
  return Object.assign(lap, {
    total: () => {
      const nowMs = performance.now()
      const seconds = (nowMs - totalMs) / 1000
      atMs = nowMs
      totalMs = nowMs
      return seconds
    },
  })
}

/** User and system, in ticks of a hundredth: fields 14 and 15 of /proc/PID/stat, behind the name in brackets. */
function cpuSecondsOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}

function peakBytes(pid: number): number {
  return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 1e6)} MB`
}
