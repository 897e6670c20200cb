/** Keys in the store, on the real engine: made, shown once, known by their hash, over and revoked in every process. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createKey, listKeys, revokeKey, StoredKeys } from '../../processor/keys.ts'
import { Store } from '../../processor/store.ts'
import { Fault } from '../../schemas/fault.ts'
import { pushBoundsDefault } from '../../schemas/keys.ts'
import { hourMs, showInstant } from '../../schemas/window.ts'
import { faultFrom } from '../faults.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { slowProxy } from '../rig/slow-proxy.ts'

const rig = await startClickHouse()
let store: Store
const nowMs = Date.UTC(2025, 5, 1, 12, 30)
const database = `keys_${process.pid}`
beforeAll(async () => {
  store = await Store.open({ ...rig, database })
})
afterAll(async () => {
  await store[Symbol.asyncDispose]()
  await rig[Symbol.asyncDispose]()
})

const made = { by: 'ops', nowMs }

test('a key is shown once: the store has its hash, and no answer has the key', async () => {
  const { key, made: shown } = await createKey(
    store,
    { name: 'portal', scopes: ['read', 'bill'], account: 'acme', expiresMs: nowMs + hourMs },
    made,
  )
  expect(key).toMatch(/^mtl_[0-9a-f]{12}_[A-Za-z0-9_-]{43}$/)
  expect(shown).toEqual({
    name: 'portal',
    prefix: key.slice(4, 16),
    scopes: ['read', 'bill'],
    account: 'acme',
    sources: [],
    subjects: [],
    limits: {},
    state: 'valid',
    created_at: '2025-06-01T12:30:00Z',
    created_by: 'ops',
    expires_at: '2025-06-01T13:30:00Z',
    last_used_hour: null,
    revoked_at: null,
    revoked_by: null,
  })
  expect(await listKeys(store, nowMs)).toEqual([shown])
  await using keys = new StoredKeys(store)
  expect(await keys.authorize(key, nowMs)).toMatchObject({
    name: 'portal',
    scopes: ['read', 'bill'],
    account: 'acme',
  })
  const rows = JSON.stringify(await store.rows('select * from api_keys'))
  expect(rows).toContain(shown.prefix)
  expect(rows).not.toContain(key.slice(17, 40))
  // It ends by itself, to the millisecond.
  expect(await keys.authorize(key, nowMs + hourMs - 1)).toMatchObject({ name: 'portal' })
  expect(await keys.authorize(key, nowMs + hourMs)).toMatchObject({ code: 'KEY_UNKNOWN' })
  expect((await listKeys(store, nowMs + hourMs))[0]).toMatchObject({ state: 'expired' })
})

test('two keys begin differently and have nothing in common', async () => {
  const { key } = await createKey(store, { name: 'entropy', scopes: ['read'] }, made)
  const { key: other } = await createKey(store, { name: 'entropy-2', scopes: ['read'] }, made)
  expect(new Set([key.slice(0, 16), other.slice(0, 16)]).size).toBe(2)
  // 43 characters of 64 each: two of them alike in half the places would be no chance.
  const alike = Array.from(key.slice(17)).filter((character, at) => character === other.slice(17)[at])
  expect(alike.length).toBeLessThan(15)
})

test('how much it may is kept with it, and what is not said is as in the configuration', async () => {
  const writes = { scopes: ['ingest'], sources: ['urn:app'], subjects: ['a*'] } as const
  const limits = {
    ...{ events_per_second: 5, bytes_per_second: 2048, burst_seconds: 2, body_max_bytes: 4096 },
    requests_per_minute: 7,
  }
  const { key, made: shown } = await createKey(store, { name: 'slow', ...writes, limits }, made)
  const { key: plain } = await createKey(store, { name: 'plain', ...writes }, made)
  expect(shown.limits).toEqual(limits)
  await using keys = new StoredKeys(store)
  expect(await keys.authorize(key, nowMs)).toEqual({
    name: 'slow',
    ...writes,
    bounds: { eventsPerSecond: 5, bytesPerSecond: 2048, burstSeconds: 2, bodyMaxBytes: 4096 },
    requestsPerMinute: 7,
  })
  expect(await keys.authorize(plain, nowMs)).toEqual({ name: 'plain', ...writes, bounds: pushBoundsDefault })
  // One that was made by a version before has nothing there.
  await store.run(
    `insert into api_keys select * replace('old' as name, '' as limits, 'aaaaaaaaaaaa' as prefix)
     from api_keys as made where made.name = 'slow'`,
  )
  expect((await listKeys(store, nowMs)).find(({ name }) => name === 'old')?.limits).toEqual({})
  expect((await revokeKey(store, 'slow', made))[0]?.limits).toEqual(limits)
})

test('what is not the whole key, to the last character, is nobody’s', async () => {
  const { key } = await createKey(store, { name: 'whole', scopes: ['read'] }, made)
  const { key: other } = await createKey(store, { name: 'other', scopes: ['admin'] }, made)
  await using keys = new StoredKeys(store)
  const turned = key.slice(0, -1) + (key.endsWith('A') ? 'E' : 'A')
  for (const wrong of [
    '',
    key.slice(0, -1),
    `${key}A`,
    turned,
    key.toUpperCase(),
    key.slice(0, 17) + other.slice(17),
    other.slice(0, 17) + key.slice(17),
    `mtl_${'0'.repeat(12)}_${'A'.repeat(43)}`,
    "mtl_' or 1=1 --_AAAA",
  ])
    expect(await keys.authorize(wrong, nowMs), wrong).toMatchObject({
      code: 'KEY_UNKNOWN',
      message: 'this key is not known here',
    })
  expect(await keys.authorize(key, nowMs)).toMatchObject({ name: 'whole' })
})

describe('revoked', () => {
  test('counts within a second in another process, and from there on for ever', async () => {
    const { key } = await createKey(store, { name: 'leaked', scopes: ['read'] }, made)
    await using keys = new StoredKeys(store)
    expect(await keys.authorize(key, nowMs)).toMatchObject({ name: 'leaked' })
    await using elsewhere = await Store.open({ ...rig, database })
    const revoked = await revokeKey(elsewhere, 'leaked', { by: 'security', nowMs: nowMs + 1 })
    expect(revoked).toMatchObject([{ state: 'revoked', revoked_by: 'security' }])
    await sleep(1000)
    expect(await keys.authorize(key, nowMs)).toMatchObject({ code: 'KEY_UNKNOWN' })
    // Its name is free again, and the new one is another.
    const { key: next } = await createKey(store, { name: 'leaked', scopes: ['read'] }, made)
    keys.forget()
    expect(await keys.authorize(key, nowMs)).toBeInstanceOf(Fault)
    expect(await keys.authorize(next, nowMs)).toMatchObject({ name: 'leaked' })
    // By its prefix as well, as it is written at the beginning of the key.
    expect(await revokeKey(store, next.slice(0, 16), made)).toMatchObject([{ name: 'leaked' }])
    expect(await revokeKey(store, 'leaked', made)).toEqual([])
    keys.forget()
    expect(await keys.authorize(next, nowMs)).toBeInstanceOf(Fault)
    const states = (await listKeys(store, nowMs)).filter(({ name }) => name === 'leaked')
    expect(states.map(({ state }) => state)).toEqual(['revoked', 'revoked'])
  })

  test('what is not there cannot be', async () => {
    expect(await faultFrom(revokeKey(store, "no' such", made))).toMatchObject({ code: 'NOT_THERE' })
  })
})

test('in which hour it was used last is noted, and of a new one nothing', async () => {
  const { key } = await createKey(store, { name: 'used', scopes: ['read'] }, made)
  {
    await using keys = new StoredKeys(store)
    await keys.authorize(key, nowMs)
    await keys.authorize(key, nowMs + hourMs)
    await keys.authorize(`${key.slice(0, -2)}AA`, nowMs + 9 * hourMs)
  }
  const found = (await listKeys(store, nowMs)).find(({ name }) => name === 'used')
  expect(found?.last_used_hour).toBe(showInstant(Date.UTC(2025, 5, 1, 13)))
})

test('while the store is away nobody comes in by a key of it, and is told to come again', async () => {
  const { key } = await createKey(store, { name: 'away', scopes: ['read'] }, made)
  await using between = await slowProxy(rig.url)
  await using far = await Store.open({ ...rig, url: between.url, database })
  let steadyMs = 0
  const keys = new StoredKeys(far, () => steadyMs)
  expect(await keys.authorize(key, nowMs)).toMatchObject({ name: 'away' })
  between.mode = 'gone'
  between.cut()
  steadyMs += 400
  expect(await keys.authorize(key, nowMs)).toMatchObject({ name: 'away' })
  steadyMs += 200
  expect(await keys.authorize(key, nowMs)).toMatchObject({ code: 'STORE_UNREACHABLE', fate: 'retry' })
  between.mode = 'pass'
  expect(await keys.authorize(key, nowMs)).toMatchObject({ name: 'away' })
})

test('what a key cannot be is said, and nothing is made', async () => {
  const before = (await listKeys(store, nowMs)).length
  const wrong = [
    [{ name: 'a b', scopes: ['read'] }, /name/],
    [{ name: 'whole', scopes: ['read'] }, /already/],
    [{ name: 'configured', scopes: ['read'] }, /already/],
    [{ name: 'n', scopes: [] }, /scopes/],
    [{ name: 'n', scopes: ['read', 'admin'], account: 'acme' }, /admin.*account/],
    [{ name: 'n', scopes: ['ingest'], account: 'acme', sources: ['*'], subjects: ['*'] }, /ingest.*account/],
    [{ name: 'n', scopes: ['ingest'] }, /sources/],
    [{ name: 'n', scopes: ['amend'], sources: ['*'], subjects: ['a'] }, /subjects/],
    [{ name: 'n', scopes: ['read'], expiresMs: nowMs }, /expires/],
    [{ name: 'n', scopes: ['read'], limits: { requests_per_minute: 0 } }, /requests_per_minute/],
    [{ name: 'n', scopes: ['read'], limits: { events_per_second: 1.5 } }, /events_per_second/],
    [{ name: 'n', scopes: ['read'], limits: { eventsPerSecond: 5 } as object }, /limits/],
  ] as const
  for (const [wanted, message] of wrong) {
    const fault = await faultFrom(createKey(store, wanted, { ...made, taken: ['configured'] }))
    expect(fault).toMatchObject({ code: 'USAGE', message: expect.stringMatching(message) })
  }
  expect((await listKeys(store, nowMs)).length).toBe(before)
})
