/**
 * OpenMeter's published JS client, unmodified, against a running Meterline: every call of its events, meters and subjects.
 * Each answer is held against OpenMeter's own shapes. The Python client is in openmeter.long.test.ts.
 */
import { HTTPError, OpenMeter } from '@openmeter/sdk'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { hourAfterJune1, readOf } from '../reads.ts'
import { type RunningOpenMeter, startOpenMeter } from '../rig/openmeter.ts'
import { type Exchange, listening, strayed } from './openmeter.ts'

const gpuHours = defaultMeters.find(({ slug }) => slug === 'gpu_hours') as Meter
/** All that OpenMeter has no word for. */
const strange: Meter = {
  slug: 'latency_p99',
  eventTypes: ['served', 'cached'],
  aggregation: 'PERCENTILE',
  percentile: '99',
  value: '$.seconds',
  per: '60',
  groupBy: { region: "$['the region']", source: 'source' },
  filter: { region: { $ne: 'test' } },
  unit: 'min',
}

let rig: RunningOpenMeter
let client: OpenMeter
let heard: Exchange[]

beforeAll(async () => {
  rig = await startOpenMeter({ meters: [gpuHours, strange] })
  const { fetch, ...wire } = listening()
  heard = wire.heard
  client = new OpenMeter({ baseUrl: rig.url, fetch })
})
afterAll(async () => {
  await rig?.[Symbol.asyncDispose]()
})
afterEach(() => {
  expect(heard.splice(0).flatMap(strayed)).toEqual([])
})

const minute = (at: number) => new Date(Date.UTC(2026, 1, 1, 8, at))
const call = (subject: string, at: number, data: Record<string, unknown>) => ({
  type: 'prompt',
  subject,
  time: minute(at),
  data,
})
/** An error of the client, or what it gave instead. */
const errorOf = async (asked: Promise<unknown>) => await asked.catch((error: unknown) => error as HTTPError)

test('a meter is made, events are sent and usage is asked, as its quickstart does it', async () => {
  const made = await client.meters.create({
    slug: 'prompt_tokens',
    description: 'Tokens of prompts',
    eventType: 'prompt',
    aggregation: 'SUM',
    valueProperty: '$.tokens',
    groupBy: { model: '$.model', gpuType: '$.gpu' },
    metadata: { team: 'ml' },
  })
  expect(made).toMatchObject({ name: 'prompt_tokens', metadata: { team: 'ml' }, aggregation: 'SUM' })

  // Without an id, a source or a specversion: the client fills them in.
  expect(await client.events.ingest(call('acme', 1, { tokens: '0.1', model: 'a' }))).toBeUndefined()
  await client.events.ingest([
    call('acme', 2, { tokens: 0.2, model: 'a', gpu: 'H100' }),
    call("it's", 61, { tokens: '12345678901234567890123.000000000001', model: 'b' }),
  ])
  await rig.settled()

  const all = await client.meters.query('prompt_tokens')
  expect(all).toMatchObject({
    data: [{ valueExact: '12345678901234567890123.300000000001', subject: null, groupBy: {} }],
  })
  expect(all).not.toHaveProperty('from')
  // The number on the wire has every digit; this reader keeps those of a double.
  expect(heard.at(-1)?.body).toContain('"value":12345678901234567890123.300000000001,')

  const asked = { from: minute(0), to: minute(120), windowSize: 'HOUR' } as const
  expect(await client.meters.query(made!.id, { ...asked, groupBy: ['subject', 'model', 'gpuType'] })).toEqual(
    {
      from: minute(0),
      to: minute(120),
      windowSize: 'HOUR',
      data: [
        row('0.2', 0, { subject: 'acme', groupBy: { model: 'a', gpuType: 'H100' } }),
        row('0.1', 0, { subject: 'acme', groupBy: { model: 'a', gpuType: null } }),
        row('12345678901234567890123.000000000001', 60, {
          subject: "it's",
          groupBy: { model: 'b', gpuType: null },
        }),
      ].toSorted(byWindow),
    },
  )
  // A subject is filtered by, and told apart. Without windows a row is all of what is asked for.
  const some = await client.meters.query('prompt_tokens', {
    from: minute(0),
    to: minute(120),
    subject: ['acme', 'nobody'],
    filterGroupBy: { model: 'a' },
  })
  expect(some).toMatchObject({
    data: [
      {
        ...row('0.3', 0, { subject: 'acme', groupBy: {} }),
        windowEnd: minute(120),
      },
    ],
  })
  const posted = await client.meters.queryPost('prompt_tokens', {
    advancedMeterGroupByFilters: { model: { $in: ['a', 'b'] }, gpuType: { $ne: 'H100' } },
    filterGroupBy: { model: ['b'] },
    groupBy: ['model'],
    windowSize: 'MONTH',
    windowTimeZone: 'Asia/Kathmandu',
  })
  expect(posted).toMatchObject({
    data: [
      {
        valueExact: '12345678901234567890123.000000000001',
        // A month of Kathmandu, 5:45 ahead.
        windowStart: new Date('2026-01-31T18:15:00Z'),
        windowEnd: new Date('2026-02-28T18:15:00Z'),
        groupBy: { model: 'b' },
      },
    ],
  })
  expect(await client.meters.listGroupByValues('prompt_tokens', 'model', { from: minute(0) })).toEqual([
    'a',
    'b',
  ])
  // The last day, unless it is asked from when.
  expect(await client.meters.listGroupByValues('prompt_tokens', 'model')).toEqual([])
})

function row(
  value: string,
  at: number,
  rest: { subject: string | null; groupBy: Record<string, string | null> },
) {
  return {
    value: Number(value),
    valueExact: value,
    windowStart: minute(at),
    windowEnd: minute(at + 60),
    ...rest,
  }
}

function byWindow(a: ReturnType<typeof row>, b: ReturnType<typeof row>): number {
  const keyOf = ({ windowStart, subject, groupBy }: typeof a) =>
    [windowStart.toISOString(), subject, ...Object.values(groupBy).map(value => value ?? '')].join()
  return keyOf(a) < keyOf(b) ? -1 : 1
}

test('an events list has what counts, in either version, and pages stay while others come', async () => {
  const send = async (id: string, at: number) =>
    await client.events.ingest({
      ...call(`s-${id}`, at, { tokens: 1 }),
      id,
      source: 'listed',
      type: 'listed',
    })
  const filter = JSON.stringify({ type: { $eq: 'listed' }, time: { $gte: minute(0).toISOString() } })
  // A page ends between two of one time.
  for (const [id, at] of [
    ['a', 1],
    ['b', 2],
    ['c', 2],
    ['e', 9],
  ] as const)
    await send(id, at)
  await rig.settled()
  const seen: (string | undefined)[] = []
  let cursor: string | undefined
  do {
    const page = await client.events.listV2({ limit: 2, filter, ...(cursor !== undefined && { cursor }) })
    seen.push(...page!.items.map(({ event }) => event.id))
    cursor = page!.nextCursor
    // One that is newer than the page, and one that is older than the last.
    if (seen.length === 2) await Promise.all([send('new', 30), send('0', 0)])
    await rig.settled()
  } while (cursor !== undefined)
  expect(seen).toEqual(['e', 'c', 'b', 'a', '0'])

  const [first] = (await client.events.list({ id: 'ew', subject: 's-n' }))!
  expect(first).toMatchObject({
    event: { id: 'new', source: 'listed', type: 'listed', time: minute(30), data: { tokens: 1 } },
    validationError: 'no meter counts events of the type listed',
  })
  const found = async (query: Parameters<typeof client.events.list>[0]) =>
    (await client.events.list({ subject: 's-', ...query }))!.map(({ event }) => event.id)
  expect(await found({ from: minute(2), to: minute(3) })).toEqual(['c', 'b'])
  expect(await found({ limit: 1 })).toEqual(['new'])
  expect(await found({ subject: '%' })).toEqual([])
  expect(await found({ ingestedAtFrom: new Date(Date.now() + 3_600_000) })).toEqual([])
  expect(await found({ ingestedAtFrom: new Date(0), ingestedAtTo: new Date(), to: minute(1) })).toEqual([
    'a',
    '0',
  ])

  // A reading stands as it was sealed.
  const window = hourAfterJune1(3)
  const read = readOf({ window, readings: 1 })
  rig.outbox.append(read)
  await rig.settled()
  const [reading] = (await client.events.list({
    from: new Date(window.startMs),
    to: new Date(window.startMs),
  }))!
  expect(JSON.parse(heard.at(-1)!.body)[0].event).toEqual(JSON.parse(String(read.readings[0]!.value)))
  expect(reading).not.toHaveProperty('validationError')
})

test('meters are listed, changed and removed, and those of the file stay as they are', async () => {
  const made = await client.meters.create({ slug: '4xx_calls', eventType: 'call', aggregation: 'COUNT' })
  await client.meters.create({ slug: 'a_mean', eventType: 'call', aggregation: 'AVG', valueProperty: '$.ms' })
  const slugs = async (query = '') => {
    const url = `${rig.url}/api/v1/meters${query}`
    return ((await (await fetch(url)).json()) as { slug: string }[]).map(({ slug }) => slug)
  }
  const all = (await client.meters.list())!.map(({ slug }) => slug)
  expect(all).toEqual(['4xx_calls', 'a_mean', 'gpu_hours', 'latency_p99', 'prompt_tokens'])
  const pages = await Promise.all([1, 2, 3, 4].map(page => slugs(`?page=${page}&pageSize=2`)))
  expect(pages.map(page => page.length)).toEqual([2, 2, 1, 0])
  expect(pages.flat()).toEqual(all)
  expect(await slugs('?order=DESC&orderBy=key&pageSize=1000')).toEqual(all.toReversed())
  expect((await slugs('?orderBy=createdAt')).slice(-3)).toEqual(['prompt_tokens', '4xx_calls', 'a_mean'])

  const changed = await client.meters.update('4xx_calls', { name: 'Refused', groupBy: { code: '$.code' } })
  expect(changed).toMatchObject({ id: made!.id, name: 'Refused', groupBy: { code: '$.code' } })
  expect(await client.meters.get(made!.id)).toMatchObject({ slug: '4xx_calls', name: 'Refused' })
  expect(await client.meters.delete(made!.id)).toBeUndefined()
  expect(await errorOf(client.meters.get('4xx_calls'))).toMatchObject({ status: 404, title: 'Not Found' })
  expect(await slugs()).not.toContain('4xx_calls')
  expect(await slugs('?includeDeleted=true')).toContain('4xx_calls')

  expect(await client.meters.get('latency_p99')).toMatchObject({
    aggregation: 'MAX',
    eventType: 'served',
    valueProperty: '$.seconds',
    groupBy: { region: "$['the region']", source: 'source' },
    annotations: {
      meterline: {
        origin: 'file',
        unit: 'min',
        per: '60',
        aggregation: 'PERCENTILE',
        percentile: '99',
        eventTypes: ['served', 'cached'],
        filter: { region: { $ne: 'test' } },
      },
    },
  })
  const own = await client.meters.get('gpu_hours')
  expect(own).toMatchObject({
    valueProperty: '$.measures.gpu_seconds',
    groupBy: { gpu_type: '$.labels.gpu_type' },
  })
  const refused = [
    () => client.meters.update(own!.id, { name: 'mine' }),
    () => client.meters.delete('gpu_hours'),
  ]
  for (const refuse of refused)
    expect(await errorOf(refuse())).toMatchObject({
      status: 409,
      message: expect.stringContaining('meter gpu_hours is of the catalogue file: change it there'),
    })
})

test('a subject is noted, found by its key and by its id, and forgotten', async () => {
  const period = { currentPeriodStart: minute(0), currentPeriodEnd: minute(60) }
  const noted = await client.subjects.upsert([
    { key: 'acme/eu', displayName: 'Acme', metadata: { tier: 1 }, ...period },
    { key: 'b' },
  ])
  expect(noted).toMatchObject([{ key: 'acme/eu', displayName: 'Acme', ...period }, { key: 'b' }])
  const again = await client.subjects.upsert({ key: 'acme/eu', displayName: null })
  expect(again).toMatchObject([{ displayName: null, metadata: { tier: 1 }, createdAt: noted![0]!.createdAt }])
  expect(await client.subjects.get('acme/eu')).toEqual(again![0])
  expect(await client.subjects.get(noted![0]!.id)).toEqual(again![0])
  expect((await client.subjects.list())!.map(({ key }) => key)).toEqual(['acme/eu', 'b'])
  expect(await client.subjects.delete('b')).toBeUndefined()
  // Any text is a key: none of it is taken for a part of an address, or of a statement.
  const odd = '\u0000\t\n\'"\\%_?&/é💥'
  await client.subjects.upsert({ key: odd })
  expect(await client.subjects.get(odd)).toMatchObject({ key: odd })
  await client.subjects.delete(odd)
  expect((await client.subjects.list())!.map(({ key }) => key)).toEqual(['acme/eu'])
  expect(await errorOf(client.subjects.get('b'))).toMatchObject({ status: 404 })
})

test('what is wrong is told in the words that the client reads', async () => {
  const errors = [
    [() => client.meters.query('none_such'), 404, 'there is no meter "none_such"'],
    [
      () => client.meters.query('gpu_hours', { groupBy: ['colour'] }),
      400,
      'meter gpu_hours has no dim "colour"',
    ],
    [() => client.meters.query('gpu_hours', { from: minute(5), to: minute(5) }), 400, 'is not after from'],
    [
      () => client.meters.create({ slug: 'gpu_hours', eventType: 'x', aggregation: 'COUNT' }),
      409,
      'there is a meter "gpu_hours"',
    ],
    [
      () => client.meters.create({ slug: 'sums', eventType: 'x', aggregation: 'SUM' }),
      400,
      'value is missing',
    ],
    [() => client.events.list({ limit: 101 }), 400, 'query limit'],
    [() => client.events.listV2({ cursor: 'nonsense' }), 400, 'query cursor'],
    [
      () => client.events.listV2({ cursor: Buffer.from('[1e300,"",""]').toString('base64url') }),
      400,
      'cursor',
    ],
    [() => client.events.listV2({ filter: '{"id":{"$eq":"\\ud800"}}' }), 400, 'half a character'],
    [() => client.meters.queryPost('gpu_hours', { subject: ['\ud800'] }), 400, 'half a character'],
    [() => client.subjects.upsert({ key: '\ud800' }), 400, 'half a character'],
    [() => client.events.listV2({ filter: '{"id":{"$near":"x"}}' }), 400, 'query filter/id/$near'],
    [() => client.events.ingest([{ ...call('a', 1, {}), type: '' }]), 400, 'type'],
  ] as const
  for (const [asked, status, words] of errors) {
    const error = await errorOf(asked())
    expect(error, words).toBeInstanceOf(HTTPError)
    expect(error).toMatchObject({ status, message: expect.stringContaining(words) })
  }
  const [{ validationErrors }] = heard
    .filter(({ status, url }) => status === 400 && url.includes('colour'))
    .map(({ body }) => JSON.parse(body).extensions)
  expect(validationErrors).toMatchObject([{ code: 'USAGE', field: 'query groupBy' }])
})
