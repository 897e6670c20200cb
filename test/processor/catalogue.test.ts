/** The catalogue over a real ClickHouse: meters of the file and those made by API, and which definition answers. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import { beginMeters, Catalogue, misses } from '../../processor/catalogue.ts'
import { Ledger } from '../../processor/ledger.ts'
import { buildsOf } from '../../processor/rollups.ts'
import { Store } from '../../processor/store.ts'
import type { Meter } from '../../schemas/meters.ts'
import { dayMs } from '../../schemas/window.ts'
import { freshen } from '../freshen.ts'
import { headers, june1Ms } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'

const calls: Meter = { slug: 'calls', eventTypes: ['call'], aggregation: 'COUNT', groupBy: {}, unit: '1' }
const tokens: Meter = {
  slug: 'tokens',
  eventTypes: ['call'],
  aggregation: 'SUM',
  value: '$.tokens',
  groupBy: { model: '$.model' },
  unit: 'token',
}
let rig: Awaited<ReturnType<typeof startClickHouse>>
let store: Store
let nowMs = june1Ms

beforeAll(async () => {
  rig = await startClickHouse()
  store = await Store.open(rig)
  const messages = [1, 2].map(id => ({
    offset: BigInt(id),
    key: null,
    value: Buffer.from(
      `{"specversion":"1.0","id":"${id}","source":"urn:app","type":"call","subject":"acme","time":"2025-06-01T0${id}:00:00Z","data":{"tokens":5,"model":"m"}}`,
    ),
    headers,
    appendedMs: june1Ms + dayMs,
  }))
  await new Ledger(store, 'log', null).put([accept({ partition: 0, messages }, 'log')])
})
afterAll(async () => {
  await store?.[Symbol.asyncDispose]()
  await rig?.stop()
})
beforeEach(async () => {
  for (const table of ['meters', 'builds', 'built', 'cells']) await store.run(`truncate table ${table}`)
})

function catalogue(file: readonly Meter[] = []): Catalogue {
  return new Catalogue(store, file, () => nowMs)
}

const states = async () => (await buildsOf(store)).map(({ meter, state }) => `${meter.slug} ${state}`)

test('a meter that is made, changed and removed: the old definition answers until the new one is computed', async () => {
  const meters = catalogue([calls])
  await beginMeters(store, [calls])
  const made = await meters.create(tokens, { name: 'Tokens', metadata: { team: 'a' }, eventFromMs: june1Ms })
  expect(made.warnings).toEqual([])
  expect(made.entry).toMatchObject({
    ...{ meter: tokens, answering: tokens, origin: 'api', name: 'Tokens', metadata: { team: 'a' } },
    ...{ eventFromMs: june1Ms, createdMs: june1Ms, state: 'computing', progress: { hoursDone: 0, hours: 2 } },
  })
  expect(made.entry.id).toMatch(/^[0-7][0-9A-HJKMNP-TV-Z]{25}$/)
  await freshen(store)
  expect(await meters.get('tokens')).toMatchObject({ state: 'ready', progress: { hoursDone: 2, hours: 2 } })
  expect(await meters.get(made.entry.id.toLowerCase())).toMatchObject({ meter: { slug: 'tokens' } })

  nowMs += 1000
  const thousands = { ...tokens, per: '1000' }
  const { entry } = await meters.update('tokens', { meter: thousands, metadata: null })
  expect(entry).toMatchObject({
    ...{ id: made.entry.id, meter: thousands, answering: tokens, state: 'computing', name: 'Tokens' },
    ...{ metadata: null, createdMs: june1Ms, updatedMs: nowMs },
  })
  // In another process too, and after a start.
  const other = catalogue([calls])
  await beginMeters(store, [calls])
  expect((await other.get('tokens')).answering).toEqual(tokens)
  await freshen(store)
  expect(await other.get('tokens')).toMatchObject({ state: 'ready', answering: thousands })

  await meters.remove('tokens')
  await expect(meters.get('tokens')).rejects.toMatchObject({ code: 'METER_UNKNOWN' })
  expect(await meters.get(made.entry.id)).toMatchObject({ deletedMs: nowMs })
  expect((await meters.list()).map(({ meter }) => meter.slug)).toEqual(['calls'])
  expect((await meters.list({ withDeleted: true })).map(({ meter }) => meter.slug)).toEqual([
    'calls',
    'tokens',
  ])
  await expect(meters.remove(made.entry.id)).rejects.toMatchObject({ code: 'METER_UNKNOWN' })
  expect(await states()).toEqual(['calls ready', 'tokens retired', 'tokens retired'])
  // The slug is free again.
  expect((await meters.create(tokens)).entry.id).not.toBe(made.entry.id)
})

test('a change that is taken back before it is computed leaves the definition that was there', async () => {
  const meters = catalogue()
  await meters.create(tokens)
  await freshen(store)
  await meters.update('tokens', { meter: { ...tokens, per: '1000' } })
  expect((await meters.update('tokens', { meter: tokens })).entry).toMatchObject({ state: 'ready' })
  await freshen(store)
  expect(await meters.get('tokens')).toMatchObject({ state: 'ready', answering: tokens })
  expect(await states()).toEqual(['tokens ready', 'tokens retired'])
})

test('meters of the file are fixed, have the same id everywhere, and what left the file is computed no more', async () => {
  const meters = catalogue([calls, tokens])
  await beginMeters(store, [calls, tokens])
  const { id } = await meters.get('calls')
  expect(id).toMatch(/^[0-7][0-9A-HJKMNP-TV-Z]{25}$/)
  await expect(meters.update('calls', { name: 'x' })).rejects.toMatchObject({ code: 'METER_FIXED' })
  await expect(meters.remove(id)).rejects.toMatchObject({ code: 'METER_FIXED' })
  await freshen(store)
  const later = catalogue([calls])
  await beginMeters(store, [calls])
  expect((await later.get('calls')).id).toBe(id)
  expect(await states()).toEqual(['calls ready', 'tokens retired'])
})

test('two that make one meter at once: there is one of it, and none after it is removed', async () => {
  for (let round = 0; round < 5; round += 1) {
    const outcomes = await Promise.allSettled([catalogue().create(tokens), catalogue().create(tokens)])
    const failed = outcomes.filter(({ status }) => status === 'rejected')
    expect(failed.map(one => (one as PromiseRejectedResult).reason.code)).toEqual(
      failed.map(() => 'METER_EXISTS'),
    )
    expect(failed.length).toBeLessThan(2)
    expect(await catalogue().list()).toHaveLength(1)
    await catalogue().remove('tokens')
    expect(await catalogue().list()).toEqual([])
  }
})

test('a question asks one small statement for a meter of the file and two for others, and none of the ledger', async () => {
  await beginMeters(store, [calls])
  const asked: string[] = []
  const counted = Object.create(store) as Store
  counted.rows = async (query, params) => {
    asked.push(query)
    return await store.rows(query, params)
  }
  const meters = new Catalogue(counted, [calls], () => nowMs)
  const { id } = (await catalogue([calls]).create(tokens)).entry
  const statements = async (act: () => Promise<unknown>) => {
    asked.length = 0
    await act()
    return [asked.length, asked.filter(query => /\b(events|pushed|built)\b/.test(query)).length]
  }
  // Both are computing, which is when progress would look through the ledger.
  expect(await statements(() => meters.find('calls'))).toEqual([1, 0])
  expect(await statements(() => meters.find('tokens'))).toEqual([2, 0])
  expect(await statements(() => meters.find(id))).toEqual([3, 0])
  expect(await statements(() => meters.meters())).toEqual([2, 0])
  expect(await statements(() => meters.list())).toEqual([4, 2])
  await catalogue([calls]).remove('tokens')
  await expect(meters.find(id)).rejects.toMatchObject({ code: 'METER_UNKNOWN', message: /was removed/ })
})

test('a bad definition is an error that names every problem', async () => {
  const meters = catalogue([calls])
  const refused = async (definition: unknown) => {
    const fault = await meters.create(definition).catch((error: Error & { code: string }) => error)
    return fault instanceof Error ? `${(fault as { code?: string }).code} ${fault.message}` : 'made'
  }
  expect(await refused({ ...tokens, slug: 'calls' })).toMatch(/^METER_EXISTS/)
  expect(await refused({ slug: 'Bad', unit: '' })).toMatch(/^METER_INVALID.*\/eventTypes is missing.*\/slug/)
  expect(await refused({ ...tokens, value: '$.a[*]' })).toMatch(/^METER_INVALID the path \$\.a\[\*\]/)
  expect(await refused({ ...tokens, value: undefined })).toMatch(/^METER_INVALID \/value is missing/)
  expect(await refused({ ...tokens, eventTypes: ['call', 'io.meterline.rafay.tokens.v1'] })).toMatch(
    /METER_INVALID \/disjoint is missing: pushed and rafay/,
  )
  expect(await meters.list()).toHaveLength(1)
})

test('a path that stands for nothing in the last events is a warning', async () => {
  const meters = catalogue()
  const warnings = async (change: Partial<Meter>) => (await meters.create({ ...tokens, ...change })).warnings
  expect(
    await warnings({ slug: 'a', value: '$.token', groupBy: { model: '$.model', zone: '$.zone' } }),
  ).toEqual([
    'value: $.token stands for no number in the last 2 events of call',
    'groupBy.zone: $.zone stands for nothing in the last 2 events of call',
  ])
  expect(await warnings({ slug: 'b', filter: { model: { $ne: 'm' } } })).toEqual([
    'filter: it leaves none of the last 2 events of call',
  ])
  expect(await warnings({ slug: 'c', eventTypes: ['cal'] })).toEqual(['there are no events of cal yet'])
  // A ledger that is too large to be looked through in time.
  const slow = Object.create(store) as Store
  slow.rows = async (query, ...more) => await store.rows(`${query} settings max_rows_to_read = 1`, ...more)
  expect(await misses(slow, tokens)).toEqual([
    'whether its paths stand for anything in events of call takes too long to find out',
  ])
})

test('a meter of the file that was found ready is looked up again a second later, one that is being computed at once', async () => {
  let looks = 0
  const counted = Object.create(store) as Store
  counted.rows = (async (...args: Parameters<Store['rows']>) => {
    looks += 1
    return await store.rows(...args)
  }) as Store['rows']
  const meters = new Catalogue(counted, [calls], () => nowMs)
  await beginMeters(store, [calls])
  for (const found of [1, 2]) {
    expect(await meters.find('calls')).toMatchObject({ state: 'computing' })
    expect(looks, 'while it is computed').toBe(found)
  }
  await freshen(store)
  for (let turn = 0; turn < 3; turn += 1)
    expect(await meters.find('calls')).toMatchObject({ state: 'ready', rollups: { key: expect.any(String) } })
  expect(looks).toBe(3)
  await expect.poll(async () => [await meters.find('calls'), looks].at(-1), { timeout: 5000 }).toBe(4)
})
