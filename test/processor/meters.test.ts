/** Meters against a real ClickHouse: exact values, filters, paths, and each aggregation from the ledger and from cells. */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import { binder, filterSql, fits } from '../../processor/filters.ts'
import { Ledger } from '../../processor/ledger.ts'
import { decimalSql, meterMisfit } from '../../processor/meters.ts'
import { buildsOf, progressOf, readyKey, recompute, registerMeters, retire } from '../../processor/rollups.ts'
import { newToken } from '../../processor/stale.ts'
import { Store } from '../../processor/store.ts'
import { quantities } from '../../processor/usage.ts'
import { decimalOfJsonNumber, show } from '../../schemas/decimal.ts'
import type { FilterString, Meter } from '../../schemas/meters.ts'
import { dayMs, hourMs } from '../../schemas/window.ts'
import { batchOf, headers, hourAfterJune1, instance, june1Ms, readEvents, testSource } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { dying } from './dying.ts'

let rig: Awaited<ReturnType<typeof startClickHouse>>
let store: Store
let databases = 0

beforeAll(async () => {
  rig = await startClickHouse()
  store = await Store.open(rig)
})
afterAll(async () => {
  await store?.[Symbol.asyncDispose]()
  await rig?.stop()
})

async function world() {
  const own = await Store.open({ ...rig, database: `meters_${process.pid}_${databases++}` })
  const ledger = new Ledger(own, 'log', null)
  let next = 0
  return {
    store: own,
    async push(...events: readonly (readonly [id: string, time: string, data: string, more?: object])[]) {
      const messages = events.map(([id, time, data, more], index) => {
        const head = {
          specversion: '1.0',
          id,
          source: 'urn:app',
          type: 'call',
          subject: 'acme',
          time,
          ...more,
        }
        const value = Buffer.from(`${JSON.stringify(head).slice(0, -1)},"data":${data}}`)
        return { offset: BigInt(next + index), key: null, value, headers, appendedMs: june1Ms + dayMs }
      })
      next += messages.length
      const { rejects } = await ledger.put([accept({ partition: 0, messages }, 'log')])
      expect(rejects).toEqual([])
    },
    async read(window: ReturnType<typeof hourAfterJune1>, usages: Parameters<typeof readEvents>[1]) {
      const events = readEvents({ source: testSource, scope: 's', window, readatMs: june1Ms + next }, usages)
      await ledger.put([accept(batchOf(events, next), 'log')])
      next += events.length
    },
    async freshen(rowsMax?: number) {
      let steps = 0
      const options = { cellsMax: 1000, settleMs: 0, ...(rowsMax !== undefined && { rowsMax }) }
      while ((await recompute(own, { run: newToken(), ...options })) > 0) steps += 1
      return steps
    },
    /** As if what builds are now had been so for an hour. */
    async age() {
      await own.run('insert into builds select * replace(now64(3) - interval 1 hour as at) from builds final')
    },
    /** Groups of the day, or of its first hours, as `dims: value`. */
    async answer(meter: Meter, hours = 24) {
      const rows = await quantities(own, {
        meter,
        span: { startMs: june1Ms, endMs: june1Ms + hours * hourMs },
        zone: 'UTC',
        groupBy: Object.keys(meter.groupBy).sort(),
        where: {},
      })
      return rows.map(({ dims, quantity }) => `${Object.values(dims).join(' ')}: ${show(quantity)}`)
    },
    [Symbol.asyncDispose]: () => own[Symbol.asyncDispose](),
  }
}

// -- values

const digits = fc.stringMatching(/^\d{1,28}$/).map(text => text.replace(/^0+(?=\d)/, ''))
const jsonNumber = fc
  .tuple(
    fc.constantFrom('', '-'),
    digits,
    fc.option(fc.stringMatching(/^\d{1,16}$/)),
    fc.option(fc.tuple(fc.constantFrom('e', 'E', 'e+', 'e-'), fc.nat({ max: 40 }))),
  )
  .map(([sign, whole, fraction, power]) => {
    const behind = fraction === null ? '' : `.${fraction}`
    return `${sign}${whole}${behind}${power === null ? '' : power.join('')}`
  })
const odd = [
  '1e-7',
  '1E3',
  '-0',
  '0e999',
  '1e101',
  '1e-101',
  '',
  'abc',
  '+5',
  ' 5',
  '5 ',
  '007',
  '1.',
  '.5',
  'NaN',
]
odd.push(
  'inf',
  '0x10',
  '1_000',
  '1,5',
  '123456789012345678901234.123456789012',
  '1e24',
  '-1e24',
  '0.0000000000001',
)

test('a text becomes a decimal exactly as the reader of JSON numbers says, or none', async () => {
  const texts = [...odd, ...fc.sample(jsonNumber, 2000)]
  for (let at = 0; at < texts.length; at += 1000) {
    const some = texts.slice(at, at + 1000)
    const rows = await store.rows<{ text: string; value: string | null }>(
      `select text, toString(${decimalSql('text')}) as value from (select arrayJoin({texts:Array(String)}) as text)`,
      { texts: some },
    )
    expect(rows.length).toBe(some.length)
    for (const { text, value } of rows) {
      let wanted: string | null
      try {
        wanted = decimalOfJsonNumber(text)
      } catch {
        wanted = null
      }
      expect([text, value]).toEqual([text, wanted])
    }
  }
})

// -- filters

const word = fc.constantFrom(
  '',
  'a',
  'A',
  'ab',
  'aB',
  'b%',
  'a_b',
  'a\\b',
  'ß',
  'é',
  'z\nz',
  "x' or 1=1 --",
  '💡',
)
const pattern = fc
  .array(fc.constantFrom('%', '_', 'a', 'B', '\\%', '\\_', '\\\\', 'é', '.', '*', '💡'), { maxLength: 4 })
  .map(parts => parts.join(''))
const operators = {
  ...{ $eq: word, $ne: word, $gt: word, $gte: word, $lt: word, $lte: word },
  ...{ $like: pattern, $nlike: pattern, $ilike: pattern, $nilike: pattern },
  $in: fc.array(word, { minLength: 1, maxLength: 3 }),
  $nin: fc.array(word, { minLength: 1, maxLength: 3 }),
}
function some<Value>(of: Readonly<Record<string, fc.Arbitrary<Value>>>): fc.Arbitrary<Record<string, Value>> {
  return fc
    .subarray(Object.keys(of), { minLength: 1, maxLength: 3 })
    .chain(keys => fc.record(Object.fromEntries(keys.map(key => [key, of[key] as fc.Arbitrary<Value>]))))
}
const simple = some<unknown>(operators)
const filter = some<unknown>({
  ...operators,
  $and: fc.array(simple, { minLength: 1, maxLength: 2 }),
  $or: fc.array(simple, { minLength: 1, maxLength: 3 }),
})

test('a filter holds in ClickHouse where it holds for the text at hand', async () => {
  const texts = [
    '',
    'a',
    'A',
    'ab',
    'aB',
    'AB',
    'b%',
    'a_b',
    'axb',
    'a\\b',
    'ß',
    'é',
    'É',
    'z\nz',
    "x' or 1=1 --",
    '💡',
    'a.',
  ]
  const filters = fc.sample(fc.oneof(word, filter, filter, filter), 200) as readonly (string | FilterString)[]
  for (let at = 0; at < filters.length; at += 40) {
    const some = filters.slice(at, at + 40)
    const params: Record<string, unknown> = { texts }
    const bind = binder(params, 'b')
    const rows = await store.rows<{ text: string; held: readonly boolean[] }>(
      `select text, [${some.map(one => `(${filterSql('text', one, bind)})::Bool`).join(', ')}] as held
       from (select arrayJoin({texts:Array(String)}) as text)`,
      params,
    )
    for (const { text, held } of rows)
      held.forEach((found, index) => {
        const one = some[index] ?? ''
        expect([text, one, found]).toEqual([text, one, fits(text, one)])
      })
  }
})

// -- aggregations

const call: Meter = {
  slug: 'calls',
  eventTypes: ['call'],
  aggregation: 'COUNT',
  groupBy: { model: '$.a.m' },
  unit: '1',
}
const meters = (['SUM', 'AVG', 'MIN', 'MAX', 'LATEST', 'PERCENTILE', 'UNIQUE_COUNT'] as const).map(
  (aggregation): Meter => ({
    ...call,
    slug: aggregation.toLowerCase(),
    aggregation,
    value: "$.list[1]['n n']",
  }),
)
const named = (aggregation: Meter['aggregation']) =>
  meters.find(meter => meter.aggregation === aggregation) as Meter

describe('a meter of pushed events', () => {
  test('each aggregation is the same from the ledger, as built from history, and as recomputed', async () => {
    await using at = await world()
    const n = (value: string, model = 'x') => `{"a":{"m":"${model}"},"list":[0,{"n n":${value}}]}`
    await at.push(
      ['1', '2025-06-01T10:00:00Z', n('1e-12')],
      ['2', '2025-06-01T10:30:00.001Z', n('"99999999999999999999999.5"')],
      ['3', '2025-06-01T10:30:00Z', n('-3')],
      ['4', '2025-06-01T12:00:00Z', n('7', 'y')],
      ['5', '2025-06-01T12:00:00Z', n('"7"', 'y')],
      // Nothing there, and what is no number: they count for COUNT alone, and the text for UNIQUE_COUNT.
      ['6', '2025-06-01T13:00:00Z', n('null')],
      ['7', '2025-06-01T13:00:00Z', '{"a":{"m":"x"},"list":{"k":0,"l":{"n n":5}}}'],
      ['8', '2025-06-01T13:00:00Z', n('1e30', 'z')],
    )
    const expected = {
      SUM: ['x: 99999999999999999999996.500000000001', 'y: 14'],
      AVG: ['x: 33333333333333333333332.166666666667', 'y: 7'],
      MIN: ['x: -3', 'y: 7'],
      MAX: ['x: 99999999999999999999999.5', 'y: 7'],
      LATEST: ['x: 99999999999999999999999.5', 'y: 7'],
      PERCENTILE: ['x: 99999999999999999999999.5', 'y: 7'],
      UNIQUE_COUNT: ['x: 3', 'y: 1', 'z: 1'],
      COUNT: ['x: 5', 'y: 2', 'z: 1'],
    } as const
    const check = async () => {
      for (const meter of [call, ...meters])
        expect([meter.slug, await at.answer(meter)]).toEqual([meter.slug, expected[meter.aggregation]])
    }
    await check()
    await registerMeters(at.store, [call, ...meters])
    await check()
    await at.freshen()
    expect(await readyKey(at.store, named('SUM'))).toBeDefined()
    await check()
    const builds = await buildsOf(at.store)
    const [sum] = builds.filter(({ meter }) => meter.slug === 'sum')
    expect((await progressOf(at.store, builds)).get(sum?.key ?? '')).toEqual({
      hoursDone: 3,
      hours: 3,
      unusable: 1,
      example: 'urn:app acme 2025-06-01 13:00:00.000 1e+30',
    })
    // The same once more, by touch.
    await at.push(['9', '2025-06-01T10:00:01Z', n('0', 'w')])
    await at.freshen()
    expect(await at.answer(named('SUM'))).toEqual(['w: 0', ...expected.SUM])
    expect(await at.answer(named('LATEST'))).toEqual(['w: 0', ...expected.LATEST])
  })

  test('the last millisecond of an hour is in it, also where nothing stands before it in its part of the table', async () => {
    await using at = await world()
    await at.push(['1', '2025-06-01T10:59:59.999999Z', '{"a":{"m":"x"}}'])
    expect(await at.answer(call, 11)).toEqual(['x: 1'])
    expect(await at.answer(call, 10)).toEqual([])
  })

  test('names that every object of JavaScript has are names like others', async () => {
    await using at = await world()
    await at.push(['1', '2025-06-01T10:00:00Z', '{"constructor":"c"}'])
    await at.read(hourAfterJune1(9), [instance('org', 'i-1', '1800')])
    const meter = { ...call, groupBy: { constructor: 'constructor' }, filter: { toString: '' } }
    expect(await at.answer(meter)).toEqual(['c: 1'])
    const eventTypes = ['io.meterline.rafay.instance.v1']
    expect(await at.answer({ ...meter, eventTypes })).toEqual([': 1'])
  })

  test('the percentile is the smallest value that so many percent do not exceed', async () => {
    await using at = await world()
    const values = ['10', '20', '20', '30', '40', '50', '60', '70', '80', '90']
    await at.push(
      ...values.map((value, index) => [`${index}`, '2025-06-01T10:00:00Z', `{"n":${value}}`] as const),
    )
    const of = async (percentile: string) =>
      await at.answer({
        ...call,
        slug: 'p',
        aggregation: 'PERCENTILE',
        value: '$.n',
        groupBy: {},
        percentile,
      })
    expect(await of('0')).toEqual([': 10'])
    expect(await of('10')).toEqual([': 10'])
    expect(await of('10.000001')).toEqual([': 20'])
    expect(await of('30')).toEqual([': 20'])
    expect(await of('50')).toEqual([': 40'])
    expect(await of('90')).toEqual([': 80'])
    expect(await of('90.5')).toEqual([': 90'])
    expect(await of('100')).toEqual([': 90'])
  })

  test('readings and pushed events add up in one meter, each by its own words', async () => {
    await using at = await world()
    const both: Meter = {
      slug: 'both',
      eventTypes: ['io.meterline.rafay.instance.v1', 'call'],
      aggregation: 'SUM',
      value: 'instance_seconds',
      groupBy: { profile: 'profile', deep: '$.a.m' },
      unit: 's',
      disjoint: 'they are other machines',
    }
    await registerMeters(at.store, [both])
    await at.read(hourAfterJune1(9), [instance('org', 'i-1', '1800')])
    await at.push(['1', '2025-06-01T10:00:00Z', '{"instance_seconds":0.25,"profile":"p","a":{"m":"q"}}'])
    const expected = [' small: 1800', 'q p: 1/4']
    const found = async () => (await at.answer(both)).map(row => row.replace('0.25', '1/4'))
    expect(await found()).toEqual(expected)
    await at.freshen()
    expect(await found()).toEqual(expected)
  })
})

describe('a build', () => {
  test('goes on hour by hour where a process left it, while the old definition answers, and then takes its place', async () => {
    await using at = await world()
    const sum = { ...named('SUM'), value: '$.n' }
    await at.push(
      ...Array.from(
        { length: 5 },
        (_, hour) => [`${hour}`, `2025-06-01T1${hour}:00:00Z`, '{"n":2,"m":4}'] as const,
      ),
    )
    await registerMeters(at.store, [sum])
    await at.freshen()
    const old = await readyKey(at.store, sum)
    const changed = { ...sum, value: '$.m' }
    await registerMeters(at.store, [changed])
    const state = async () => {
      const builds = (await buildsOf(at.store)).filter(({ state }) => state === 'building')
      return Array.from((await progressOf(at.store, builds)).values(), ({ hoursDone, hours }) => [
        hoursDone,
        hours,
      ])
    }
    expect(await state()).toEqual([[0, 5]])
    await recompute(at.store, { run: newToken(), cellsMax: 10, rowsMax: 2 })
    expect(await state()).toEqual([[2, 5]])
    expect([await readyKey(at.store, sum), await readyKey(at.store, changed)]).toEqual([old, undefined])
    // Registered again, as by another process after a start: nothing begins anew.
    await registerMeters(at.store, [changed])
    // What comes meanwhile, before and behind the place of the build, is in both.
    await at.push(
      ['a', '2025-06-01T10:30:00Z', '{"n":1,"m":1}'],
      ['b', '2025-06-01T14:30:00Z', '{"n":1,"m":1}'],
    )
    expect(await at.answer(sum)).toEqual([': 12'])
    expect(await at.answer(changed)).toEqual([': 22'])
    expect(await at.freshen(2)).toBe(2)
    expect(await state()).toEqual([])
    expect([await readyKey(at.store, sum), await readyKey(at.store, changed)]).toEqual([
      undefined,
      expect.any(String),
    ])
    expect(await at.answer(changed)).toEqual([': 22'])
    expect(await at.answer(sum)).toEqual([': 12'])
    // Back to what it was: under a new key, since the old cells stood still meanwhile.
    await registerMeters(at.store, [sum])
    await at.freshen()
    expect(await readyKey(at.store, sum)).toMatch(/:1$/)
    expect(await at.answer(sum)).toEqual([': 12'])
    await retire(at.store, slug => slug === 'sum')
    expect(await readyKey(at.store, sum)).toBeUndefined()
    expect(await at.answer(sum)).toEqual([': 12'])
  })
})

describe('a cell of history', () => {
  const seconds: Meter = {
    slug: 'seconds',
    eventTypes: ['io.meterline.rafay.instance.v1'],
    aggregation: 'SUM',
    value: 'instance_seconds',
    groupBy: { tenant: 'subject' },
    unit: 's',
  }
  const hour = hourAfterJune1(9)
  const ofOrg = instance('org', 'i-1', '1800')
  const ofOther = instance('other', 'i-2', '60')

  test('that was built and then loses its events is empty', async () => {
    await using at = await world()
    await at.read(hour, [ofOrg, ofOther])
    await at.freshen()
    await registerMeters(at.store, [seconds])
    await at.freshen()
    await at.age()
    expect(await at.answer(seconds)).toEqual(['org: 1800', 'other: 60'])
    await at.read(hour, [ofOther])
    await at.freshen()
    expect(await readyKey(at.store, seconds)).toBeDefined()
    expect(await at.answer(seconds)).toEqual(['other: 60'])
  })

  test.each([
    ['more events', [instance('org', 'i-1', '3600'), ofOther], ['org: 3600', 'other: 60']],
    ['none', [ofOther], ['other: 60']],
  ] as const)(
    'that is recomputed with %s, between the reading and the writing of its build, keeps what the recompute said',
    async (_, later, expected) => {
      await using at = await world()
      await at.read(hour, [ofOrg, ofOther])
      await at.freshen()
      await registerMeters(at.store, [seconds])
      await at.store.run('create table cells_read as cells')
      const slow = Object.create(at.store) as Store
      let writes = 0
      // As the statement does it, but with time in between.
      slow.run = async (query, params) => {
        if (!query.startsWith('insert into cells ')) return await at.store.run(query, params)
        writes += 1
        await at.store.run(query.replace('insert into cells ', 'insert into cells_read '), params)
        await at.read(hour, later)
        // Another process, which ends the build as well.
        await at.freshen()
        expect(await at.answer(seconds)).toEqual(expected)
        await at.store.run('insert into cells select * from cells_read')
      }
      slow.rows = (query, params) => at.store.rows(query, params)
      slow.insert = (table, columns, lines) => at.store.insert(table, columns, lines)
      await recompute(slow, { run: newToken(), cellsMax: 1000 })
      expect(writes).toBe(1)
      expect(await readyKey(at.store, seconds)).toBeDefined()
      expect(await at.store.rows('select * from stale final where not done')).toEqual([])
      expect(await at.answer(seconds)).toEqual(expected)
    },
  )
})

test('cells of definitions that were given up are deleted, all and no others, wherever the process dies', async () => {
  await using at = await world()
  const [kept, changed, removed] = ['kept', 'changed', 'removed'].map(slug => ({ ...call, slug }))
  await at.push(['1', '2025-06-01T10:00:00Z', '{}'], ['2', '2025-06-01T11:00:00Z', '{}'])
  await registerMeters(at.store, [kept, changed, removed] as Meter[])
  await at.freshen()
  await registerMeters(at.store, [{ ...changed, groupBy: { m: '$.m' } } as Meter])
  await retire(at.store, slug => slug === 'removed')
  await at.freshen()
  const isRetired = async () => (await buildsOf(at.store)).some(({ state }) => state === 'retired')
  const cells = async () =>
    await at.store.rows<{ meter: string }>(
      `select * from (select meter, 'cells' as of, count() as rows, sum(cityHash64(*)) as hash from cells final group by meter
       union all select meter, 'built' as of, count() as rows, sum(cityHash64(*)) as hash from built final group by meter)
       order by meter, of`,
    )
  const before = await cells()
  expect(before).toHaveLength(8)
  await at.age()
  for (let step = 0; await isRetired(); step += 1) {
    expect(step).toBeLessThan(100)
    const died = dying(at.store, 4 + (step >> 1), step % 2 === 0 ? 'before' : 'after')
    await recompute(died.store, { run: newToken(), cellsMax: 100 }).catch(() => undefined)
  }
  const ready = await Promise.all(
    [kept, { ...changed, groupBy: { m: '$.m' } }].map(meter => readyKey(at.store, meter as Meter)),
  )
  expect(await cells()).toEqual(before.filter(({ meter }) => ready.includes(meter)))
  expect(ready).toHaveLength(2)
  expect(await at.answer(kept as Meter)).toEqual([': 2'])
})

test('what cannot be computed is said with the path', () => {
  const of = (change: Partial<Meter>) => meterMisfit({ ...call, ...change })
  expect(of({})).toBeUndefined()
  expect(of({ groupBy: { a: '$.b[*]' } })).toMatch(/the path \$\.b\[\*\] is not one/)
  expect(of({ aggregation: 'SUM', value: '$' })).toMatch(/the path \$ is not one/)
  expect(of({ filter: { subject: { $like: 'a\\' } } })).toMatch(/backslash/)
  expect(of({ eventTypes: ['io.meterline.rafay.instance.v1'], groupBy: { a: '$.list[0]' } })).toMatch(
    /not one that readings have/,
  )
})
