/** Events are listed whole, page by page, of a ledger that is larger than one look goes over. */
import { expect, test } from 'vitest'
import { type ListedEvent, type ListPlace, listEvents } from '../../../../processor/api/openmeter/listed.ts'
import { Store } from '../../../../processor/store.ts'
import { makeLedger } from '../../../bench/made-ledger.ts'
import { startClickHouse } from '../../../rig/clickhouse.ts'

test('every event once, newest first, also where many have one time', async () => {
  await using rig = await startClickHouse()
  await using store = await Store.open(rig)
  const plan = { events: 12_000, subjects: 50, types: 2, hours: 40, rereadPercent: 2 }
  await makeLedger(store, plan)
  // Before, among and after the readings; a third of them at the times of others.
  await store.run(
    `insert into pushed (source, id, identity, id_hash, type, subject, time, log, partition, offset)
     select concat('urn:', toString(number % 3)), toString(intDiv(number, 3)), number, number, 'call', 'tenant-0001',
       (select toDateTime64(min(start), 3, 'UTC') from events) + toIntervalMillisecond((number % 12000) * 14221 - 9000000),
       'bench', 9, number
     from numbers(18000)`,
  )
  await store.run(
    'insert into pushed_firsts select id_hash, identity, content, log, partition, offset, rank from pushed',
  )
  const [counts] = await store.rows<{ readings: string }>(
    `select count() as readings from events
     where (scope, start, readat) in (select scope, start, max(readat) from events group by scope, start)`,
  )
  const asked = { texts: {}, time: [], ingestedAt: [], limit: 4001 }
  const found: ListedEvent[] = []
  for (let after: ListPlace | undefined; ; ) {
    const page = await listEvents(store, { ...asked, after })
    found.push(...page)
    after = page.at(-1)
    if (page.length < asked.limit) break
  }
  expect(found.length).toBe(Number(counts!.readings) + 18_000)
  expect(new Set(found.map(({ source, id }) => `${source} ${id}`)).size).toBe(found.length)
  const kinds = new Set(found.slice(0, 10_000).map(({ kind }) => kind))
  expect(kinds).toEqual(new Set(['pushed', 'reading']))
  for (const [index, { timeMs, key, source }] of found.entries()) {
    const before = found[index - 1]
    if (!before || timeMs < before.timeMs) continue
    expect(timeMs).toBe(before.timeMs)
    expect(key < before.key || (key === before.key && source < before.source)).toBe(true)
  }
})
