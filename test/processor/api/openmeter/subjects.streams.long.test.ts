/** Lists of as many subjects as there are: made as they are read, and whole. */
import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { Registry } from 'prom-client'
import { expect, test } from 'vitest'
import { openApi } from '../../../../processor/api/api.ts'
import { queryRoutes } from '../../../../processor/api/openmeter/query.ts'
import { subjectRoutes } from '../../../../processor/api/openmeter/subjects.ts'
import { Queries } from '../../../../processor/queries.ts'
import { Store } from '../../../../processor/store.ts'
import { Health, serveHealth } from '../../../../runtime/health.ts'
import { startClickHouse } from '../../../rig/clickhouse.ts'

const subjectCount = 250_000
const key = `concat('customer-of-a-name-of-some-length-', leftPad(toString(number), 8, '0'))`
const june = 'from=2025-06-01T00:00:00Z&to=2025-07-01T00:00:00Z'

test('a list that is not read is not made, and one that is read is whole, in order', async () => {
  await using rig = await startClickHouse()
  await using store = await Store.open(rig)
  await store.run(
    `insert into subjects select ${key}, hex(number), '{}', now64(3), now64(3), number % 100 = 0, 1 from numbers(${subjectCount})`,
  )
  await store.run(
    `insert into pushed (source, id, identity, id_hash, type, subject, time, data, log, partition, offset)
     select 'app', toString(number), number, number, 'call', ${key}, toDateTime64('2025-06-01 00:00:00', 3, 'UTC') + number % 864000,
       concat('{"model":"', ${key}, '"}'), 'log', 0, number from numbers(${subjectCount})`,
  )
  await store.run(
    'insert into pushed_firsts select id_hash, identity, content, log, partition, offset, rank from pushed',
  )
  let rowsRead = 0
  const counted = Object.create(store, {
    stream: {
      async *value(...asked: Parameters<Store['stream']>) {
        for await (const rows of store.stream(...asked)) {
          rowsRead += rows.length
          yield rows
        }
      },
    },
  }) as Store
  const meter = {
    ...{ slug: 'calls', eventTypes: ['call'], aggregation: 'COUNT', unit: '1' },
    groupBy: { model: '$.model' },
  }
  const catalogue = {
    get: async () => ({ meter, answering: meter }),
    find: async () => ({ answering: meter }),
  }
  const queries = new Queries({ seconds: 60, memoryBytes: 2 ** 30, concurrency: 2, queued: 5 })
  const parts = { store: counted, queries, accounts: async () => [], nowMs: Date.now, catalogue } as never
  await using server = await serveHealth({
    ...{ health: new Health(), registry: new Registry(), host: '127.0.0.1', port: 0 },
  })
  await using _ = await openApi({
    ...{ mount: server.mount, routes: [subjectRoutes(parts), queryRoutes(parts)], access: 'anyone' },
  })
  for (const [path, count] of [
    ['/api/v1/subjects', subjectCount * 0.99],
    [`/api/v1/meters/calls/subjects?${june}`, subjectCount],
    [`/api/v1/meters/calls/group-by/model/values?${june}`, subjectCount],
  ] as const) {
    rowsRead = 0
    // A connection of its own: the buffers of one on which much was read grow until they hold all of such a list.
    const asked = request(server.url + path, { agent: false })
    const [answer] = (await once(asked.end(), 'response')) as [IncomingMessage]
    await sleep(3000)
    // What stands in sockets and between them.
    expect(rowsRead, path).toBeGreaterThan(0)
    expect(rowsRead, path).toBeLessThan(0.8 * subjectCount)
    let text = ''
    for await (const chunk of answer.setEncoding('utf8')) text += chunk
    const listed = (JSON.parse(text) as (string | { key: string })[]).map(one =>
      typeof one === 'string' ? one : one.key,
    )
    expect(listed.length, path).toBe(count)
    expect(
      listed.every((one, index) => index === 0 || one > listed[index - 1]!),
      path,
    ).toBe(true)
  }
})
