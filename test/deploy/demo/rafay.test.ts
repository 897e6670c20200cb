/** The Rafay double: its answers against the published one, and its misbehaviour on request. */
import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { afterEach, expect, test } from 'vitest'
import {
  juneFixture,
  juneHours,
  loadGoldenFixture,
  type RafayDouble,
  type RafayDoubleOptions,
  type RafayFixture,
  rafayDemoKey,
  rafayDemoPartnerKey,
  startRafayDouble,
} from '../../../deploy/demo/rafay.ts'
import { hourMs } from '../../../schemas/window.ts'

const started: RafayDouble[] = []
afterEach(async () => {
  for (const double of started.splice(0)) await double.close()
})

async function start(options: RafayDoubleOptions): Promise<RafayDouble> {
  const double = await startRafayDouble(options)
  started.push(double)
  return double
}

const fixtureText = (name: string) =>
  readFileSync(new URL(`../../fixtures/rafay/${name}`, import.meta.url), 'utf8')

type Body = Record<string, unknown> & { instance_usage_data: Record<string, unknown>[] }

async function get(
  double: RafayDouble,
  path: string,
  headers: Record<string, string> = { 'x-api-key': rafayDemoKey },
): Promise<{ status: number; body: Body; response: Response }> {
  const response = await fetch(double.url + path, { headers })
  const text = await response.text()
  return {
    status: response.status,
    body: text.startsWith('{') ? (JSON.parse(text) as Body) : ({} as Body),
    response,
  }
}

const instancePath = (from: string, to: string, more = '') =>
  `/apis/billing.envmgmt.io/v1/metrics/partner/instance/kind/compute/usage?range_from=${encodeURIComponent(from)}&range_to=${encodeURIComponent(to)}${more}`
const june = ['2025-06-01T00:00:00Z', '2025-07-01T00:00:00Z'] as const

/** The instance of the published response. */
const published: RafayFixture = {
  organizations: [{ id: 'lk5xnd2', name: 'Goodlife', slug: 'goodlife' }],
  profiles: [{ id: '019c2891-3cd2-7aec-a429-283874929fbd', name: 'small-gpu-vm', kind: 'compute' }],
  instances: [
    {
      id: '019c510c-86c4-707d-aef7-15fa6af0422e',
      name: 'dev-vm-1',
      organizationId: 'lk5xnd2',
      profileId: '019c2891-3cd2-7aec-a429-283874929fbd',
      startMs: Date.parse('2026-02-12T08:51:41Z'),
      // The published figure is less than the life up to the end of the range: usage is counted late.
      endMs: Date.parse('2026-02-12T08:51:41Z') + 20.594723 * hourMs,
      parameters: [
        { name: 'CPU', label: '24' },
        { name: 'Disk', label: '150' },
        { name: 'ServiceID', label: '6c9da2c6-adb1-4a1b-90b3-2fde7d5632aa' },
        { name: 'GPU', label: '1' },
        { name: 'Memory', label: '256' },
      ],
    },
  ],
  tokens: [],
}

test('its answer for the published instance is the published answer, to the byte', async () => {
  const double = await start({ fixture: published })
  const { body, response } = await get(double, instancePath('2026-02-12T00:00:00Z', '2026-02-13T10:20:46Z'))
  expect(body).toEqual(JSON.parse(fixtureText('compute-instance-usage.json')))
  expect(JSON.stringify(body)).toBe(JSON.stringify(JSON.parse(fixtureText('compute-instance-usage.json'))))
  expect(response.headers.get('content-type')).toBe('application/json')
})

test('without a limit ten rows come, though there are more; limit and offset move over all of them', async () => {
  const double = await start({ fixture: juneFixture() })
  const first = await get(double, instancePath(...june))
  expect(first.body.instance_usage_data).toHaveLength(10)
  expect(first.body).toMatchObject({ count: 36, offset: 0, limit: 10 })
  const last = await get(double, instancePath(...june, '&limit=20&offset=20'))
  expect(last.body.instance_usage_data).toHaveLength(16)
  expect(last.body).toMatchObject({ offset: 20, limit: 20 })
})

test('the June table: hours by type and organization, every life inside June, each row exact', async () => {
  const fixture = juneFixture()
  const double = await start({ fixture })
  const { body } = await get(double, instancePath(...june, '&limit=400'))
  const sums: Record<string, Record<string, number>> = { L40: {}, A100: {}, H100: {} }
  for (const row of body.instance_usage_data) {
    const parameters = row.parameters as { name: string; label_value: string }[]
    const type = parameters.find(({ name }) => name === 'gpu_type')?.label_value ?? ''
    const organization = row.instance_organization_name as string
    const sum = sums[type] as Record<string, number>
    sum[organization] = (sum[organization] ?? 0) + Math.round((row.raw_usage as number) * 1e6)
  }
  for (const [type, byOrganization] of Object.entries(juneHours))
    for (const [organization, hours] of Object.entries(byOrganization))
      expect(sums[type]?.[organization]).toBe(hours * 1e6)
  for (const { startMs, endMs = 0 } of fixture.instances) {
    expect(startMs).toBeGreaterThanOrEqual(Date.parse(june[0]))
    expect(endMs).toBeLessThanOrEqual(Date.parse(june[1]))
    expect(endMs).toBeGreaterThan(startMs)
  }
  expect(fixture.instances.filter(({ startMs }) => startMs % hourMs !== 0).length).toBeGreaterThan(30)
})

test('a range has the part of a life that lies in it', async () => {
  const double = await start({ fixture: published })
  const hours = async (from: string, to: string) =>
    (await get(double, instancePath(from, to))).body.instance_usage_data.map(row => row.raw_usage)
  expect(await hours('2026-02-12T08:00:00Z', '2026-02-12T09:00:00Z')).toEqual([0.138611])
  expect(await hours('2026-02-12T10:00:00Z', '2026-02-12T10:15:00Z')).toEqual([0.25])
  expect(await hours('2026-02-12T07:00:00Z', '2026-02-12T08:00:00Z')).toEqual([])
})

test('usage settles late: the same range has more when it is asked again', async () => {
  let nowMs = Date.parse('2026-02-12T11:00:00Z')
  const double = await start({ fixture: published, nowMs: () => nowMs, behaviour: { lagMs: hourMs } })
  const ask = async () =>
    (await get(double, instancePath('2026-02-12T10:00:00Z', '2026-02-12T11:00:00Z'))).body.instance_usage_data
  expect(await ask()).toEqual([])
  nowMs += hourMs / 2
  expect(await ask()).toMatchObject([{ raw_usage: 0.5 }])
  nowMs += hourMs
  expect(await ask()).toMatchObject([{ raw_usage: 1 }])
})

test('a quantity is multiplied, a label is not', async () => {
  const fixture = structuredClone(published)
  Object.assign(fixture.instances[0] as object, { parameters: [{ name: 'storage_size', factor: 100 }] })
  const double = await start({ fixture })
  const { body } = await get(double, instancePath('2026-02-12T10:00:00Z', '2026-02-12T22:00:00Z'))
  expect(body.instance_usage_data[0]?.parameters).toEqual([
    { name: 'storage_size', usage: '1200.00h', is_label: false, raw_usage: 1200 },
  ])
})

test('each endpoint wants its own key', async () => {
  const double = await start({ fixture: published })
  const status = async (path: string, headers: Record<string, string>) =>
    (await get(double, path, headers)).status
  const usage = instancePath(...june)
  expect(await status(usage, {})).toBe(401)
  expect(await status(usage, { 'x-api-key': 'other' })).toBe(403)
  expect(await status('/v2/organizations', { 'x-api-key': rafayDemoKey })).toBe(200)
  expect(await status('/v2/organizations', { 'x-api-key': rafayDemoPartnerKey })).toBe(200)
  expect(await status('/auth/v1/organizations', { 'x-api-key': rafayDemoKey })).toBe(401)
  expect(await status('/auth/v1/organizations', { 'x-rafay-api-keyid': rafayDemoPartnerKey })).toBe(200)
  expect(await status('/elsewhere', { 'x-api-key': rafayDemoKey })).toBe(404)
})

test('the golden console serves its rows digit for digit, by its paths', async () => {
  const double = await start({ fixture: loadGoldenFixture(fixtureText('golden/golden.json')) })
  const organizations = await get(double, '/v2/organizations')
  expect(organizations.body.items).toMatchObject([
    { name: 'Coke', metadata: { name: 'coke', id: 'lk5xnd2' } },
    { name: 'Pepsi', metadata: { name: 'pepsi' } },
    { name: 'Acme, "GPU" GmbH Ü', metadata: { name: 'acme' } },
  ])
  const profiles = await get(double, '/v2/organizations/acme/ncp/profiles')
  expect(profiles.body.items).toEqual([
    { metadata: { name: 'h110-small-vm' }, spec: { type: 'compute' } },
    { metadata: { name: 'many' }, spec: { type: 'compute' } },
  ])
  const response = await fetch(
    `${double.url}/v2/organizations/acme/ncp/profiles/h110-small-vm/usage?start_time=${june[0]}&end_time=${june[1]}`,
    { headers: { 'x-api-key': rafayDemoKey } },
  )
  const text = await response.text()
  expect(text).toContain('"usage_hours":1e-07')
  expect(text).toContain('"usage_hours":null')
  expect(text).toContain('{"instance_name":"no-usage-field","status":"running"}')
  expect((await get(double, '/v2/organizations/acme/ncp/profiles/none/usage')).status).toBe(404)
})

test('faults hit the calls they name, the n-th only where told so', async () => {
  const double = await start({
    fixture: loadGoldenFixture(fixtureText('golden/golden.json')),
    behaviour: {
      faults: [
        { endpoint: 'organizations', times: 1, answer: { status: 429, retryAfter: '3' } },
        { endpoint: 'usage', profile: 'many', page: 2, answer: { status: 502, html: true } },
        { endpoint: 'usage', profile: 'openwebui', from: 2, answer: 'list' },
      ],
    },
  })
  const busy = await get(double, '/v2/organizations')
  expect(busy.status).toBe(429)
  expect(busy.response.headers.get('retry-after')).toBe('3')
  expect((await get(double, '/v2/organizations')).status).toBe(200)
  const range = `start_time=${june[0]}&end_time=${june[1]}`
  const many = `/v2/organizations/acme/ncp/profiles/many/usage?${range}&limit=50`
  expect((await get(double, `${many}&offset=0`)).status).toBe(200)
  const html = await get(double, `${many}&offset=50`)
  expect(html.status).toBe(502)
  expect(html.response.headers.get('content-type')).toBe('text/html')
  const web = `/v2/organizations/pepsi/ncp/profiles/openwebui/usage?${range}`
  expect((await get(double, web)).body.instance_usage_data).toHaveLength(1)
  expect((await get(double, web)).body).toEqual({})
  expect(double.calls.map(({ endpoint }) => endpoint)).toEqual([
    'organizations',
    'organizations',
    'usage',
    'usage',
    'usage',
    'usage',
  ])
})

test('its answers are gzip where that is taken', async () => {
  const double = await start({ fixture: published })
  const { request } = await import('undici')
  const { headers, body } = await request(double.url + instancePath(...june), {
    headers: { 'x-api-key': rafayDemoKey, 'accept-encoding': 'gzip' },
  })
  expect(headers['content-encoding']).toBe('gzip')
  expect(JSON.parse(gunzipSync(Buffer.from(await body.arrayBuffer())).toString())).toMatchObject({ count: 0 })
})

test('token usage is summed by organization and model over the epoch seconds asked for', async () => {
  const at = Date.parse('2026-02-12T08:00:10Z')
  const double = await start({
    fixture: {
      ...published,
      tokens: [
        { organizationId: 'lk5xnd2', model: 'llama', atMs: at, inputTokens: 10, outputTokens: 5 },
        { organizationId: 'lk5xnd2', model: 'llama', atMs: at + 1000, inputTokens: 1, outputTokens: 2 },
        { organizationId: 'lk5xnd2', model: 'llama', atMs: at + hourMs, inputTokens: 7, outputTokens: 7 },
      ],
    },
  })
  const start1 = Date.parse('2026-02-12T08:00:00Z') / 1000
  const response = await fetch(`${double.url}/api.gaap.k8smgmt.io/v1alpha1/model/usage/aggregated?limit=30`, {
    method: 'POST',
    headers: { 'X-RAFAY': rafayDemoPartnerKey },
    body: JSON.stringify({ start: start1, end: start1 + 900 }),
  })
  expect(await response.json()).toMatchObject({
    items: [
      { organization_id: 'lk5xnd2', model_id: 'llama', input_tokens: 11, output_tokens: 7, total_tokens: 18 },
    ],
  })
})
