/** The Rafay source against its double, both dialects: the contract of every source, and what is its own. */
import { readFileSync } from 'node:fs'
import { afterEach, describe, expect, test } from 'vitest'
import type { Source } from '../../../collector/source.ts'
import { sources } from '../../../collector/sources/list.ts'
import { RafayConfig, type RafayItem, rafay } from '../../../collector/sources/rafay.ts'
import {
  juneFixture,
  juneHours,
  type RafayBehaviour,
  type RafayDouble,
  type RafayFixture,
  type RafayMisbehaviour,
  rafayDemoKey,
  rafayDemoPartnerKey,
  startRafayDouble,
} from '../../../deploy/demo/rafay.ts'
import { type Http, openHttp } from '../../../runtime/http.ts'
import { misfits } from '../../../schemas/check.ts'
import { exact, show } from '../../../schemas/decimal.ts'
import type { Usage } from '../../../schemas/event.ts'
import type { Fault } from '../../../schemas/fault.ts'
import { isJsonArray, isJsonObject, type Json, parseExact } from '../../../schemas/json.ts'
import { hourMs, minuteMs, type Window, windowsOver } from '../../../schemas/window.ts'
import { type Breakage, runSourceContract, type SourceRig } from '../../contract/source.ts'
import { faultFrom, faultOf } from '../../faults.ts'
import { sourceContext } from '../source-context.ts'

const live = new AbortController().signal
const opened: AsyncDisposable[] = []
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]()
})

const keyRef = `\${env:KEY}`
const partnerRef = `\${env:PARTNER}`
const secrets: Record<string, string> = { [keyRef]: rafayDemoKey, [partnerRef]: rafayDemoPartnerKey }

function configOf(config: object): RafayConfig {
  const whole = { name: 'test', apiKey: keyRef, ...structuredClone(config) }
  expect(misfits(RafayConfig, whole)).toEqual([])
  return whole as RafayConfig
}

function quickHttp(deadlineMs = 2000): Http {
  return openHttp({ retries: 2, deadlineMs, random: () => 0 })
}

interface Rafay extends AsyncDisposable {
  readonly source: Source<RafayItem>
  readonly double: RafayDouble
  readonly config: RafayConfig
}

/** The source against a double of its own. */
async function open(
  fixture: RafayFixture,
  config: object = {},
  options: { behaviour?: Partial<RafayBehaviour>; nowMs?: () => number; deadlineMs?: number } = {},
): Promise<Rafay> {
  const nowMs = options.nowMs ?? Date.now
  const double = await startRafayDouble({ fixture, nowMs, behaviour: { ...options.behaviour } })
  const http = quickHttp(options.deadlineMs)
  const whole = configOf({ url: double.url, ...config })
  const secret = (reference: string) => secrets[reference] ?? ''
  const source = rafay.open(whole, sourceContext({ http, secret, nowMs })) as Source<RafayItem>
  return {
    source,
    double,
    config: whole,
    async [Symbol.asyncDispose]() {
      await source[Symbol.asyncDispose]()
      await http[Symbol.asyncDispose]()
      await double.close()
    },
  }
}
async function openFor(...args: Parameters<typeof open>): Promise<Rafay> {
  const each = await open(...args)
  opened.push(each)
  return each
}

async function items(source: Source<RafayItem>, scope: string, window: Window): Promise<RafayItem[]> {
  const all: RafayItem[] = []
  for await (const item of source.read(scope, window, live)) all.push(item)
  return all
}
async function usages(source: Source<RafayItem>, scope: string, window: Window): Promise<Usage[]> {
  return (await items(source, scope, window)).flatMap(item => source.toUsage(item, window))
}
const dayMs = Date.UTC(2026, 1, 12)
const at = (hours: number, minutes = 0): number => dayMs + hours * hourMs + minutes * minuteMs
const hour = (from: number): Window => ({ startMs: at(from), endMs: at(from + 1) })

/** Two organizations, both kinds, a name that occurs twice, a quantity, and lives that begin and end at odd minutes. */
function smallFixture(): RafayFixture {
  const gpu = (type: string, count: string) => [
    { name: 'gpu_type', label: type },
    { name: 'GPU', label: count },
    { name: 'Memory', label: '256' },
  ]
  return {
    organizations: [
      { id: 'lk5xnd2', name: 'Goodlife', slug: 'goodlife', externalId: 'C-77' },
      { id: '7w2lnkp', name: 'Pepsi', slug: 'pepsi' },
    ],
    profiles: [
      { id: 'p-vm', name: 'small-gpu-vm', kind: 'compute' },
      { id: 'p-web', name: 'open/web ui', kind: 'service', organizationIds: ['lk5xnd2'] },
    ],
    instances: [
      {
        id: 'i-1',
        name: 'dev-vm-1',
        organizationId: 'lk5xnd2',
        profileId: 'p-vm',
        startMs: at(8, 51.6),
        endMs: at(11, 20.4),
        parameters: gpu('Nvidia H100', '8'),
      },
      {
        id: 'i-2',
        name: 'dev-vm-1',
        organizationId: 'lk5xnd2',
        profileId: 'p-vm',
        startMs: at(9),
        parameters: gpu('Nvidia H100', '8'),
      },
      {
        id: 'i-3',
        name: 'train',
        organizationId: 'lk5xnd2',
        profileId: 'p-vm',
        startMs: at(7, 3),
        endMs: at(10),
        parameters: gpu('Nvidia L40', '1'),
        status: 'stopped',
      },
      {
        id: 'i-4',
        name: 'other',
        organizationId: '7w2lnkp',
        profileId: 'p-vm',
        startMs: at(9, 0.6),
        endMs: at(9, 1.2),
        parameters: [{ name: 'storage_size', factor: 100 }],
      },
      { id: 'i-5', name: 'web', organizationId: 'lk5xnd2', profileId: 'p-web', startMs: at(6) },
    ],
    tokens: [
      { organizationId: 'lk5xnd2', model: 'llama', atMs: at(9, 5), inputTokens: 100, outputTokens: 20 },
      { organizationId: 'lk5xnd2', model: 'llama', atMs: at(9, 40), inputTokens: 11, outputTokens: 2 },
      { organizationId: '7w2lnkp', model: 'llama', atMs: at(10, 5), inputTokens: 7, outputTokens: 3 },
    ],
  }
}

const tokenUsage = { url: '', apiKey: partnerRef }
const misbehaviours: Record<Breakage, RafayMisbehaviour> = {
  '500': { status: 500 },
  '502 HTML': { status: 502, html: true },
  '401': { status: 401 },
  '404': { status: 404 },
  truncated: 'truncated',
  cut: 'cut',
  list: 'list',
  'empty object': 'empty_object',
  hang: 'hang',
}

async function rig(
  dialect: 'billing' | 'console',
  options: { pageSize?: number; widthMinutes?: number } = {},
): Promise<SourceRig> {
  const { pageSize, widthMinutes: windowMinutes } = options
  const more = { dialect, ...(pageSize && { pageSize }), ...(windowMinutes && { windowMinutes }) }
  const {
    source,
    double,
    [Symbol.asyncDispose]: dispose,
  } = await open(smallFixture(), more, { deadlineMs: 250 })
  return {
    kind: 'rafay',
    source: source as Source<unknown>,
    break: how => {
      double.behaviour.faults = [{ answer: misbehaviours[how as Breakage] }]
    },
    spoilOne: () => {
      double.behaviour.faults = [
        {
          endpoint: dialect === 'billing' ? 'instance_usage' : 'usage',
          instance: 'train',
          answer: 'usage_null',
        },
      ]
      return 'lk5xnd2'
    },
    [Symbol.asyncDispose]: dispose,
  }
}

const span = { startMs: at(7), endMs: at(12) }
runSourceContract('rafay, billing dialect', {
  open: options => rig('billing', options),
  span,
  window: { startMs: at(9), endMs: at(9, 15) },
  scope: 'compute',
  widthsMinutes: [15, 30, 60],
  secrets: [rafayDemoKey, rafayDemoPartnerKey],
})
runSourceContract('rafay, console dialect', {
  open: options => rig('console', options),
  span,
  window: hour(9),
  scope: 'lk5xnd2/small-gpu-vm',
  widthsMinutes: [60, 30, 15],
  secrets: [rafayDemoKey, rafayDemoPartnerKey],
})

test('it is in the list of sources, with a sentence for each of its options', () => {
  expect(sources).toContain(rafay)
  for (const [name, option] of Object.entries(RafayConfig.properties))
    if (name !== 'kind')
      expect((option as { description?: string }).description ?? '', name).toMatch(/\.( |$)|https\.|Write/)
})

describe('billing dialect', () => {
  const published = () =>
    parseExact(
      readFileSync(new URL('../../fixtures/rafay/compute-instance-usage.json', import.meta.url), 'utf8'),
    )

  test('the published row becomes 20.594723 hours, to the last digit, with its GPU and all its labels', async () => {
    const { source } = await openFor(smallFixture())
    const body = published()
    const rows = isJsonObject(body) ? body.instance_usage_data : undefined
    const [row] = isJsonArray(rows) ? rows : []
    const [usage] = source.toUsage({ of: 'instance', kind: 'compute', row: row as Json }, hour(9))
    expect(usage).toEqual({
      thing: 'instance',
      subject: 'lk5xnd2',
      resource: { kind: 'instance', id: '019c510c-86c4-707d-aef7-15fa6af0422e', name: 'dev-vm-1' },
      measures: { instance_seconds: '74141.0028', gpu_seconds: '74141.0028' },
      labels: {
        organization: 'Goodlife',
        project: 'development',
        project_id: '7krxjzk',
        profile: 'small-gpu-vm',
        profile_id: '019c2891-3cd2-7aec-a429-283874929fbd',
        profile_type: 'compute',
        gpu_count: '1',
        CPU: '24',
        Disk: '150',
        Memory: '256',
        ServiceID: '6c9da2c6-adb1-4a1b-90b3-2fde7d5632aa',
      },
    })
  })

  test('a read asks for exactly its window, with limit and offset, and meters GPUs times hours', async () => {
    const { source, double } = await openFor(smallFixture())
    const read = await usages(source, 'compute', { startMs: at(8, 45), endMs: at(9) })
    expect(double.calls.map(({ query }) => query)).toEqual([
      { range_from: '2026-02-12T08:45:00Z', range_to: '2026-02-12T09:00:00Z', limit: '400', offset: '0' },
    ])
    expect(read.map(({ resource, measures, labels }) => [resource.id, measures, labels.gpu_type])).toEqual([
      ['i-1', { instance_seconds: '504', gpu_seconds: '4032' }, 'Nvidia H100'],
      ['i-3', { instance_seconds: '900', gpu_seconds: '900' }, 'Nvidia L40'],
    ])
  })

  test('its scopes are its kinds; the service kind is a call of its own', async () => {
    const { source, double } = await openFor(smallFixture(), { kinds: ['compute', 'service'] })
    expect(await source.scopes(live)).toEqual([{ scope: 'compute' }, { scope: 'service' }])
    const [web] = await usages(source, 'service', hour(9))
    expect(web).toMatchObject({
      subject: 'lk5xnd2',
      labels: { profile_type: 'service', profile: 'open/web ui' },
    })
    expect(double.calls.at(-1)).toMatchObject({ endpoint: 'instance_usage', kind: 'service' })
    const fault = await faultFrom(usages(source, 'other', hour(9)))
    expect(fault.code).toBe('SOURCE_MISSING')
  })

  test('the June table comes out to the last digit, in hours and in pages of ten that nobody asked for', async () => {
    const { source, double } = await openFor(
      juneFixture(),
      { windowMinutes: 60 },
      { behaviour: { limitMax: 10, count: 1 } },
    )
    const june = { startMs: Date.UTC(2025, 5, 1), endMs: Date.UTC(2025, 6, 1) }
    const sums = new Map<string, ReturnType<typeof exact>>()
    for (const window of windowsOver(june, 60))
      for (const { labels, measures } of await usages(source, 'compute', window)) {
        const key = `${labels.gpu_type} ${labels.organization}`
        const seconds = exact(measures.gpu_seconds ?? '0')
        sums.set(key, sums.get(key)?.add(seconds) ?? seconds)
      }
    const hours = Object.fromEntries([...sums].map(([key, sum]) => [key, show(sum.div(3600))]))
    const expected = Object.entries(juneHours).flatMap(([type, cells]) =>
      Object.entries(cells).map(([organization, value]) => [`${type} ${organization}`, String(value)]),
    )
    expect(hours).toEqual(Object.fromEntries(expected))
    expect(double.calls.length).toBeGreaterThanOrEqual(720)
  })

  test.each([1, 0, 1_000_000, 'page' as const])('a count of %s changes nothing', async count => {
    const { source } = await openFor(smallFixture(), { pageSize: 2 }, { behaviour: { count } })
    expect((await usages(source, 'compute', hour(9))).map(({ resource }) => resource.id).sort()).toEqual([
      'i-1',
      'i-2',
      'i-3',
      'i-4',
    ])
  })

  test('a page that repeats makes the read start again; one that always repeats is PAGES_DRIFTED', async () => {
    const { source, double } = await openFor(smallFixture(), { pageSize: 2 })
    double.behaviour.faults = [{ endpoint: 'instance_usage', page: 2, times: 1, answer: 'repeat' }]
    expect(await usages(source, 'compute', hour(9))).toHaveLength(4)
    expect(double.calls.filter(({ page }) => page === 1)).toHaveLength(2)
    double.behaviour.faults = [{ endpoint: 'instance_usage', page: 2, answer: 'repeat' }]
    expect((await faultFrom(usages(source, 'compute', hour(9)))).code).toBe('PAGES_DRIFTED')
  })

  test.each([-1, 1])(
    'a page shifted by %i, even one that would lose a row, makes it start again',
    async shift => {
      const { source, double } = await openFor(smallFixture(), { pageSize: 2 })
      double.behaviour.faults = [{ endpoint: 'instance_usage', page: 2, times: 1, answer: { shift } }]
      expect(await usages(source, 'compute', hour(9))).toHaveLength(4)
    },
  )

  test('an instance that comes or goes between two pages is there once, or not at all', async () => {
    const fixture = smallFixture()
    const { source, double } = await openFor(fixture, { pageSize: 2 })
    let seen = 0
    double.behaviour.onCall = () => {
      if (++seen === 2) fixture.instances.unshift({ ...fixture.instances[2]!, id: 'i-0', name: 'new' })
      if (seen === 5) fixture.instances.shift()
    }
    const ids = (await usages(source, 'compute', hour(9))).map(({ resource }) => resource.id)
    expect(ids.filter(id => id !== 'i-0').sort()).toEqual(['i-1', 'i-2', 'i-3', 'i-4'])
  })

  test('figures settle late: the same window read later has more', async () => {
    let nowMs = at(10, 30)
    const { source } = await openFor(smallFixture(), {}, { behaviour: { lagMs: hourMs }, nowMs: () => nowMs })
    const seconds = async () =>
      (await usages(source, 'compute', hour(9))).find(({ resource }) => resource.id === 'i-2')?.measures
        .instance_seconds
    expect(await seconds()).toBe('1800')
    nowMs = at(11, 30)
    expect(await seconds()).toBe('3600')
    expect(source.rereadAfterMs).toEqual([hourMs, 24 * hourMs])
  })

  test.each([
    ['usage_null', 'is null'],
    ['usage_string', 'is the string "20.59h"'],
    ['usage_missing', 'is missing'],
  ] as const)('%s is a fault of that item, naming organization, profile and field', async (answer, what) => {
    const { source, double } = await openFor(smallFixture())
    double.behaviour.faults = [{ instance: 'train', answer }]
    const read = await items(source, 'compute', hour(9))
    const faults: Fault[] = []
    for (const item of read)
      try {
        source.toUsage(item, hour(9))
      } catch (error) {
        faults.push(error as Fault)
      }
    expect(read).toHaveLength(4)
    expect(faults).toHaveLength(1)
    expect(faults[0]).toMatchObject({
      code: 'ITEM_UNREADABLE',
      message: `organization Goodlife (lk5xnd2), profile small-gpu-vm, instance train: /raw_usage ${what}`,
      facts: { subject: 'lk5xnd2', organization: 'Goodlife', profile: 'small-gpu-vm', path: '/raw_usage' },
    })
  })

  const row = (change: object) =>
    parseExact(
      JSON.stringify({
        instance_organization_id: 'lk5xnd2',
        instance_organization_name: 'Goodlife',
        profile_name: 'vm',
        instance_id: 'i-1',
        instance_name: 'one',
        parameters: [],
        raw_usage: 0.5,
        ...change,
      }),
    )

  test.each([
    ['no organization', { instance_organization_id: null }, '/instance_organization_id is null'],
    ['no id', { instance_id: '' }, '/instance_id is empty'],
    ['a negative usage', { raw_usage: -1 }, '/raw_usage is -1, no quantity'],
    ['parameters that are no list', { parameters: {} }, '/parameters is not a list'],
    [
      'a GPU count that is no number',
      { parameters: [{ name: 'x' }, { name: 'GPU', is_label: true, label_value: 'eight' }] },
      '/parameters/1/label_value of "GPU" is "eight", not a number',
    ],
    [
      'a GPU type without a text',
      { parameters: [{ name: 'gpu_type', is_label: true }] },
      '/parameters/0/label_value of "gpu_type" is missing',
    ],
  ])('a row with %s is unreadable, and says where', async (_, change, message) => {
    const { source } = await openFor(smallFixture())
    const fault = faultOf(() =>
      source.toUsage({ of: 'instance', kind: 'compute', row: row(change) }, hour(9)),
    )
    expect(fault.code).toBe('ITEM_UNREADABLE')
    expect(fault.message).toContain(message)
  })

  test('a row that is no object is unreadable', async () => {
    const { source } = await openFor(smallFixture())
    const fault = faultOf(() => source.toUsage({ of: 'instance', kind: 'compute', row: null }, hour(9)))
    expect(fault.code).toBe('ITEM_UNREADABLE')
  })

  test('parameters: the type and count by configured names, quantities, mapped measures, and labels for the rest', async () => {
    const { source } = await openFor(smallFixture(), {
      gpuTypeParameters: ['card', 'gpu_type'],
      gpuCountParameters: ['cards'],
      customerParameter: 'External-ID',
      measures: [
        { parameter: 'disk', measure: 'storage_byte_seconds', perUnit: '1000000000' },
        { parameter: 'CPU', measure: 'cpu_core_seconds' },
      ],
    })
    const parameters = [
      { name: 'gpu_type', is_label: true, label_value: 'not this one' },
      { name: 'card', is_label: true, label_value: 'H200' },
      { name: 'cards', is_label: false, raw_usage: 2 },
      { name: 'disk', is_label: false, raw_usage: 50.5 },
      { name: 'CPU', is_label: true, label_value: '24' },
      { name: 'ram', is_label: false, raw_usage: 1.5 },
      { name: 'profile', is_label: true, label_value: 'theirs' },
      { name: 'External-ID', is_label: true, label_value: 'cust-9' },
    ]
    const [usage] = source.toUsage({ of: 'instance', kind: 'compute', row: row({ parameters }) }, hour(9))
    expect(usage?.measures).toEqual({
      instance_seconds: '1800',
      gpu_seconds: '7200',
      storage_byte_seconds: '181800000000000',
      cpu_core_seconds: '43200',
    })
    expect(usage?.labels).toEqual({
      gpu_type: 'H200',
      customer: 'cust-9',
      CPU: '24',
      'quantity.ram': '1.5',
      'External-ID': 'cust-9',
      'parameter.gpu_type': 'not this one',
      'parameter.profile': 'theirs',
      organization: 'Goodlife',
      profile: 'vm',
      profile_type: 'compute',
    })
  })

  test('a GPU type without a count is one GPU unless configured otherwise; without either there is no GPU time', async () => {
    const { source } = await openFor(smallFixture(), { gpuCountDefault: '2' })
    const typed = row({ parameters: [{ name: 'gpu_type', is_label: true, label_value: 'L40' }] })
    expect(source.toUsage({ of: 'instance', kind: 'compute', row: typed }, hour(9))[0]?.measures).toEqual({
      instance_seconds: '1800',
      gpu_seconds: '3600',
    })
    expect(source.toUsage({ of: 'instance', kind: 'compute', row: row({}) }, hour(9))[0]?.measures).toEqual({
      instance_seconds: '1800',
    })
  })

  test('hours are exact in any form a number has; float noise ends at 12 decimals of a second', async () => {
    const { source } = await openFor(smallFixture())
    const seconds = (text: string) => {
      const base = row({})
      const raw = isJsonObject(base) ? { ...base, raw_usage: parseExact(text) } : base
      return source.toUsage({ of: 'instance', kind: 'compute', row: raw }, hour(9))[0]?.measures
        .instance_seconds
    }
    expect(seconds('1e-07')).toBe('0.00036')
    expect(seconds('0.250000')).toBe('900')
    expect(seconds('1E0')).toBe('3600')
    expect(seconds('0.30000000000000004')).toBe('1080')
    expect(seconds('0.123456789012')).toBe('444.4444404432')
  })

  test('an answer for another range or kind is no answer', async () => {
    const { source, double } = await openFor(smallFixture())
    const window = hour(9)
    double.behaviour.onCall = call => {
      ;(call.query as Record<string, string>).range_to = '2026-02-12T11:00:00Z'
    }
    const range = await faultFrom(usages(source, 'compute', window))
    expect(range).toMatchObject({ code: 'BODY_UNREADABLE', facts: { path: '/range_to' } })
    double.behaviour.onCall = call => {
      ;(call as { kind: string }).kind = 'service'
    }
    const kind = await faultFrom(usages(source, 'compute', window))
    expect(kind).toMatchObject({ code: 'BODY_UNREADABLE', facts: { path: '/kind' } })
  })

  test('null for rows is not taken for none', async () => {
    const { source, double } = await openFor(smallFixture())
    double.behaviour.faults = [{ answer: 'null_rows' }]
    const fault = await faultFrom(usages(source, 'compute', hour(9)))
    expect(fault.code).toBe('BODY_UNREADABLE')
    expect(fault.message).toBe('instances of kind compute: instance_usage_data is null, not a list')
  })

  test('one unreadable body among good ones is asked for again', async () => {
    const { source, double } = await openFor(smallFixture())
    for (const answer of ['truncated', 'bad_gzip', { status: 429, retryAfter: '0' }] as const) {
      double.behaviour.faults = [{ times: 1, answer }]
      expect(await usages(source, 'compute', hour(9))).toHaveLength(4)
    }
  })

  test('with a partner key and the ops console, organizations carry their external id', async () => {
    const { source, config, double } = await openFor(smallFixture(), { partnerApiKey: partnerRef })
    expect(config.opsUrl).toBeUndefined()
    const without = await usages(source, 'compute', hour(9))
    expect(without.every(({ labels }) => labels.organization_external_id === undefined)).toBe(true)
    const http = quickHttp()
    opened.push(http)
    const withOps = rafay.open(
      { ...config, opsUrl: double.url },
      sourceContext({ http, secret: reference => secrets[reference] ?? '', nowMs: Date.now }),
    ) as Source<RafayItem>
    const ids = (await usages(withOps, 'compute', hour(9))).map(usage => [
      usage.subject,
      usage.labels.organization_external_id,
    ])
    expect(new Set(ids.map(pair => pair.join(' ')))).toEqual(new Set(['lk5xnd2 C-77', '7w2lnkp ']))
  })
})

describe('console dialect', () => {
  test('its scopes are organization and profile; a read asks for exactly its window', async () => {
    const { source, double } = await openFor(smallFixture(), { dialect: 'console' })
    expect(source.widthMinutes).toBe(60)
    expect((await source.scopes(live)).map(({ scope }) => scope)).toEqual([
      'lk5xnd2/small-gpu-vm',
      'lk5xnd2/open/web ui',
      '7w2lnkp/small-gpu-vm',
    ])
    const [web] = await usages(source, 'lk5xnd2/open/web ui', hour(9))
    expect(web).toEqual({
      thing: 'instance',
      subject: 'lk5xnd2',
      resource: { kind: 'instance', id: 'web', name: 'web' },
      measures: { instance_seconds: '3600' },
      labels: {
        organization: 'Goodlife',
        profile: 'open/web ui',
        profile_type: 'service',
        status: 'running',
      },
    })
    expect(double.calls.at(-1)).toMatchObject({
      organization: 'goodlife',
      profile: 'open/web ui',
      query: {
        start_time: '2026-02-12T09:00:00Z',
        end_time: '2026-02-12T10:00:00Z',
        limit: '400',
        offset: '0',
      },
    })
  })

  test('a listing is one call for the organizations and one for each; a read after it one more', async () => {
    const { source, double } = await openFor(smallFixture(), { dialect: 'console' })
    await source.scopes(live)
    expect(double.calls).toHaveLength(3)
    await usages(source, '7w2lnkp/small-gpu-vm', hour(9))
    expect(double.calls).toHaveLength(4)
  })

  test('rows of one name in one profile are one reading, summed, with their parts counted', async () => {
    const { source } = await openFor(smallFixture(), { dialect: 'console' })
    const read = await usages(source, 'lk5xnd2/small-gpu-vm', hour(10))
    expect(read).toEqual([
      {
        thing: 'instance',
        subject: 'lk5xnd2',
        resource: { kind: 'instance', id: 'dev-vm-1', name: 'dev-vm-1' },
        measures: { instance_seconds: '7200' },
        labels: {
          organization: 'Goodlife',
          profile: 'small-gpu-vm',
          profile_type: 'compute',
          status: 'running',
        },
        parts: 2,
      },
    ])
  })

  test('one unfit row of a name spoils that name, not a half of it', async () => {
    const { source, double } = await openFor(smallFixture(), { dialect: 'console' })
    double.behaviour.faults = [{ endpoint: 'usage', instance: 'dev-vm-1', answer: 'usage_string' }]
    const read = await items(source, 'lk5xnd2/small-gpu-vm', hour(9))
    expect(read).toHaveLength(2)
    const fault = faultOf(() => read.flatMap(item => source.toUsage(item, hour(9))))
    expect(fault.message).toBe(
      'organization Goodlife (lk5xnd2), profile small-gpu-vm, instance dev-vm-1: /usage_hours is the string "20.59h"',
    )
  })

  test.each(['metadata', 'top', 'none'] as const)(
    'it reads all rows where pages are told in: %s',
    async paging => {
      // Rows that are alike end an answer that does not tell its offset, where they fill a page: not so here.
      for (const echo of ['both', 'limit', 'neither'] as const)
        for (const limitMax of echo === 'both' ? [1, 2, 400] : [2, 400]) {
          await using each = await open(
            smallFixture(),
            { dialect: 'console' },
            { behaviour: { consolePaging: paging, echo, limitMax } },
          )
          const scopes = await each.source.scopes(live)
          expect(scopes).toHaveLength(3)
          const read = await usages(each.source, 'lk5xnd2/small-gpu-vm', hour(9))
          expect(read.map(({ resource, parts }) => [resource.id, parts])).toEqual([
            ['dev-vm-1', 2],
            ['train', undefined],
          ])
        }
    },
  )

  test('an organization without metadata fails the listing, by name', async () => {
    const { source, double } = await openFor(smallFixture(), { dialect: 'console' })
    double.behaviour.faults = [{ endpoint: 'organizations', answer: 'no_metadata' }]
    const fault = await faultFrom(source.scopes(live))
    expect(fault).toMatchObject({
      code: 'BODY_UNREADABLE',
      message: 'organization Goodlife has no metadata.name',
      facts: { organization: 'Goodlife', path: '/metadata/name' },
    })
    double.behaviour.faults = [{ endpoint: 'profiles', organization: 'pepsi', answer: 'no_metadata' }]
    expect(await faultFrom(source.scopes(live))).toMatchObject({
      code: 'BODY_UNREADABLE',
      message: 'organization pepsi: a profile has no metadata.name',
    })
  })

  test('one profile that fails is its own fault, named, and the others are read', async () => {
    const { source, double } = await openFor(smallFixture(), { dialect: 'console' })
    double.behaviour.faults = [
      { endpoint: 'usage', profile: 'open/web ui', answer: { status: 502, html: true } },
    ]
    const fault = await faultFrom(usages(source, 'lk5xnd2/open/web ui', hour(9)))
    expect(fault).toMatchObject({
      code: 'SOURCE_BUSY',
      facts: { organization: 'goodlife', profile: 'open/web ui', endpoint: 'rafay.usage', status: 502 },
    })
    expect(fault.message).toContain('organization goodlife, profile open/web ui')
    expect(await usages(source, 'lk5xnd2/small-gpu-vm', hour(9))).toHaveLength(2)
  })

  test('a scope of an organization that is not listed is missing; of a profile no longer listed, the console decides', async () => {
    const { source } = await openFor(smallFixture(), { dialect: 'console' })
    expect((await faultFrom(usages(source, 'gone/small-gpu-vm', hour(9)))).code).toBe('SOURCE_MISSING')
    expect((await faultFrom(usages(source, 'lk5xnd2/gone', hour(9)))).code).toBe('SOURCE_MISSING')
  })

  test('the partner key lists the organizations where it is given', async () => {
    const { source, double } = await openFor(smallFixture(), {
      dialect: 'console',
      partnerApiKey: 'file:/none',
    })
    expect((await faultFrom(source.scopes(live))).code).toBe('SOURCE_DENIED')
    expect(double.calls).toEqual([])
    const good = await openFor(smallFixture(), { dialect: 'console', partnerApiKey: partnerRef })
    expect(await good.source.scopes(live)).toHaveLength(3)
  })
})

describe('token usage', () => {
  async function openTokens(behaviour: Partial<RafayBehaviour> = {}, config: object = {}): Promise<Rafay> {
    const double = await startRafayDouble({ fixture: smallFixture(), behaviour })
    const http = quickHttp()
    const whole = configOf({ url: double.url, tokenUsage: { ...tokenUsage, url: double.url }, ...config })
    const source = rafay.open(
      whole,
      sourceContext({
        http,
        secret: reference => secrets[reference] ?? '',
        nowMs: Date.now,
      }),
    ) as Source<RafayItem>
    opened.push(double, http)
    return { source, double, config: whole, async [Symbol.asyncDispose]() {} }
  }

  test('it is a scope of its own, summed by organization and model', async () => {
    const { source } = await openTokens()
    expect((await source.scopes(live)).map(({ scope }) => scope)).toEqual(['compute', 'service', 'tokens'])
    expect(await usages(source, 'tokens', hour(9))).toEqual([
      {
        thing: 'tokens',
        subject: 'lk5xnd2',
        resource: { kind: 'model', id: 'llama' },
        measures: { tokens: '133', input_tokens: '111', output_tokens: '22' },
        labels: { organization: 'Goodlife', model: 'llama' },
      },
    ])
  })

  test('windows of 15 minutes and of an hour agree', async () => {
    const { source } = await openTokens()
    let sum = 0
    for (const window of windowsOver(hour(9), 15))
      for (const { measures } of await usages(source, 'tokens', window)) sum += Number(measures.tokens)
    expect(sum).toBe(133)
  })

  test('what it cannot read it throws: a list, an empty object, a missing count', async () => {
    const { source, double } = await openTokens()
    for (const answer of ['list', 'empty_object', 'truncated', { status: 500 }] as const) {
      double.behaviour.faults = [{ endpoint: 'token_usage', answer }]
      expect((await faultFrom(usages(source, 'tokens', hour(9)))).fate).toBe('retry')
    }
    const item = (row: object) =>
      ({ of: 'tokens', subject: 'o', model: 'm', rows: [parseExact(JSON.stringify(row))] }) as const
    expect(source.toUsage(item({ prompt_tokens: 3, completion_tokens: 4 }), hour(9))[0]?.measures).toEqual({
      tokens: '7',
      input_tokens: '3',
      output_tokens: '4',
    })
    expect(faultOf(() => source.toUsage(item({ input_tokens: 3 }), hour(9))).code).toBe('ITEM_UNREADABLE')
    expect(faultOf(() => source.toUsage(item({ total_tokens: '3' }), hour(9))).code).toBe('ITEM_UNREADABLE')
  })

  test('switched off it is no scope', async () => {
    const { source } = await openTokens(
      {},
      { tokenUsage: { ...tokenUsage, url: 'x.example', enabled: false } },
    )
    expect((await source.scopes(live)).map(({ scope }) => scope)).toEqual(['compute', 'service'])
  })
})

describe('what it says when it is asked whether it can work', () => {
  const nowMs = () => at(10, 7)
  async function asked(config: object, fixture = smallFixture()) {
    const { source, double, config: whole } = await openFor(fixture, config, { nowMs })
    return { double, whole, check: async () => await source.check!(live) }
  }

  test('billing: what was used in the last window, by kind, and all that was asked for besides', async () => {
    const parts = { partnerApiKey: partnerRef, tokenUsage: { apiKey: partnerRef } }
    const opsless = await asked(parts)
    const { url } = opsless.whole
    const { check } = await asked({ ...parts, opsUrl: url, tokenUsage: { apiKey: partnerRef, url } })
    expect(await check()).toEqual({
      works: [
        'compute: items: 3, organizations: 1, with GPUs: 3',
        'service: items: 1, organizations: 1',
        'ops console: external ids: 1',
        'token usage: answers, nothing used in 2026-02-12T09:45:00Z/2026-02-12T10:00:00Z',
      ],
      missing: [],
    })
    expect((await opsless.check()).missing).toContainEqual({
      what: 'the label organization_external_id',
      remedy: 'give both opsUrl and partnerApiKey',
    })
  })

  test('a key that is refused in one place is named with its option, and hides nothing of the others', async () => {
    const other = await asked({})
    const opsUrl = other.whole.url
    const { double, check } = await asked({
      opsUrl,
      partnerApiKey: keyRef,
      tokenUsage: { apiKey: keyRef },
    })
    double.behaviour.faults = [{ endpoint: 'instance_usage', kind: 'service', answer: { status: 404 } }]
    const { works, missing } = await check()
    expect(works).toEqual(['compute: items: 3, organizations: 1, with GPUs: 3'])
    expect(missing).toEqual([
      { what: expect.stringMatching(/^usage of service .*404/), remedy: expect.stringContaining('dialect') },
      {
        what: expect.stringMatching(/^the ops console .*403/),
        remedy: 'give partnerApiKey a key that may read this',
      },
      {
        what: expect.stringMatching(/^token usage .*403/),
        remedy: 'give tokenUsage.apiKey a key that may read this',
      },
    ])
  })

  test('console: organizations and profiles are counted, and the usage of one is asked for', async () => {
    const { check } = await asked({ dialect: 'console' })
    expect(await check()).toEqual({
      works: ['organizations: 2, profiles: 3', 'lk5xnd2/small-gpu-vm: items: 2, organizations: 1'],
      missing: [],
    })
    const nobody = await asked({ dialect: 'console' }, { ...smallFixture(), organizations: [] })
    expect((await nobody.check()).missing).toEqual([
      { what: 'no profile of any organization is listed', remedy: expect.stringContaining('apiKey') },
    ])
  })

  test('rows that cannot be read are counted, with the first reason', async () => {
    const { double, check } = await asked({ kinds: ['compute'] })
    double.behaviour.faults = [{ endpoint: 'instance_usage', instance: 'dev-vm-1', answer: 'usage_null' }]
    expect(await check()).toEqual({
      works: ['compute: items: 3, organizations: 1, with GPUs: 2'],
      missing: [
        {
          what: expect.stringMatching(/^1 of 3 items of compute .*dev-vm-1.* null/),
          remedy: expect.stringContaining('gap'),
        },
      ],
    })
  })
})
