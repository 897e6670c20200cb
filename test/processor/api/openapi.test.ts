/** The OpenAPI document of all routes: whole, consistent, and what routes really answer. schemathesis asks it much more. */
import { Ajv2020 } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { documentOf } from '../../../processor/api/openapi.ts'
import { openTenantsWorld, type TenantsWorld, type Who } from '../../deploy/tenants-world.ts'
import { startClickHouse, type TestClickHouse } from '../../rig/clickhouse.ts'

interface Operation {
  readonly operationId: string
  readonly summary: string
  readonly tags: readonly string[]
  readonly security: readonly { readonly key: readonly string[] }[]
  readonly parameters?: readonly { readonly name: string; readonly in: string; readonly schema: object }[]
  readonly requestBody?: {
    readonly required: boolean
    readonly content: Readonly<Record<string, { readonly schema: object }>>
  }
  readonly responses: Readonly<
    Record<string, { readonly $ref?: string; readonly content?: Record<string, { schema: object }> }>
  >
}
interface Document {
  readonly openapi: string
  readonly tags: readonly { readonly name: string }[]
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
  readonly components: { readonly schemas: object; readonly responses: Readonly<Record<string, object>> }
}

let rig: TestClickHouse
let world: TenantsWorld
let document: Document
let operations: readonly (readonly [name: string, Operation])[]
beforeAll(async () => {
  rig = await startClickHouse()
  world = await openTenantsWorld(rig, `openapi_${process.pid}`, 'with')
  document = (await (await fetch(`${world.url}/api/openapi.json`)).json()) as Document
  operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, one]) => [`${method.toUpperCase()} ${path}`, one] as const),
  )
})
afterAll(async () => {
  await world?.[Symbol.asyncDispose]()
  await rig?.stop()
})

test('has every route of the API, with what people and programs need to know of it', () => {
  expect(document.openapi).toBe('3.1.0')
  const served = world.routes
    .filter(route => / \/api\/(v\d|openapi)/.test(route))
    .map(route => route.replace(/:(\w+)/g, '{$1}'))
  expect(operations.map(([name]) => name).sort()).toEqual(served.sort())
  const tags = new Set(document.tags.map(({ name }) => name))
  const ids = new Set<string>()
  for (const [
    name,
    { summary, tags: own, security, responses, parameters = [], operationId },
  ] of operations) {
    expect(summary, name).toMatch(/^[A-Z][^.]*$/)
    expect(own.length > 0 && own.every(tag => tags.has(tag)), `${name} ${own}`).toBe(true)
    const roles = name === 'GET /api/v1/me' ? 0 : 1
    if (name !== 'GET /api/openapi.json') expect(security[0]?.key, name).toHaveLength(roles)
    expect(ids.has(operationId), operationId).toBe(false)
    ids.add(operationId)
    expect(
      Object.keys(responses).filter(status => status.startsWith('2')),
      name,
    ).not.toEqual([])
    expect(Object.keys(responses), name).toEqual(expect.arrayContaining(['429', '500', '503']))
    if (security.length > 0)
      expect(Object.keys(responses), name).toEqual(expect.arrayContaining(['401', '403']))
    const inPath = Array.from(name.matchAll(/\{(\w+)\}/g), match => match[1])
    expect(
      parameters.filter(one => one.in === 'path').map(one => one.name),
      name,
    ).toEqual(inPath)
  }
})

test('refers to nothing that is not there, and every schema in it can be used', () => {
  const text = JSON.stringify(document)
  for (const [, ref] of text.matchAll(/"\$ref":"([^"]+)"/g)) {
    const found = ref!
      .slice(2)
      .split('/')
      .reduce<unknown>((node, name) => (node as Record<string, unknown> | undefined)?.[name], document)
    expect(found, ref).toBeDefined()
  }
  const ajv = openAjv()
  for (const [name, { parameters = [] }] of operations)
    for (const { name: parameter, schema } of parameters)
      expect(() => ajv.compile(located(schema)), `${name} ${parameter}`).not.toThrow()
})

/** What is asked of each route, where its own defaults do not do. */
const span = 'from=2025-06-01T00:00:00Z&to=2025-06-03T02:00:00Z'
const asks: Readonly<Record<string, string>> = {
  'GET /api/v1/accounts/{id}': '/api/v1/accounts/zebra',
  'GET /api/v1/conflicts': `/api/v1/conflicts?${span}`,
  'GET /api/v1/coverage': `/api/v1/coverage?${span}`,
  'GET /api/v1/coverage/days': `/api/v1/coverage/days?${span}`,
  'GET /api/v1/line-items': `/api/v1/line-items?${span}`,
  'GET /api/v1/line-items/totals': `/api/v1/line-items/totals?${span}`,
  // Rejects are as old as this test, which is later than the clock of its world.
  'GET /api/v1/rejected': '/api/v1/rejected?to=2100-01-01T00:00:00Z',
  'GET /api/v1/usage': `/api/v1/usage?${span}&meter=instance_hours&window=DAY`,
}

test('routes answer what it says, with something in it, and problems as it says', async () => {
  const ajv = openAjv()
  const answered: string[] = []
  for (const [name, { security, responses }] of operations) {
    const path = asks[name] ?? (/^GET [^{]+$/.test(name) ? name.slice(4) : undefined)
    if (path === undefined) continue
    // What takes any key names no scope.
    const [scope = 'ingest'] = security[0]?.key ?? []
    const asking = [
      security.length === 0 ? 'none' : (`all ${scope}` as 'all read'),
      'none',
      'all ingest',
    ] as const
    for (const [index, who] of asking.entries()) {
      const response = await fetch(world.url + path, { headers: world.as(who) })
      const type = response.headers.get('content-type')?.split(';')[0] ?? ''
      const said = responses[String(response.status)]
      const promised = said?.$ref ? document.components.responses[said.$ref.split('/').at(-1)!] : said
      const schema = (promised as typeof said)?.content?.[type]?.schema
      expect(schema, `${name} ${response.status} ${type}`).toBeDefined()
      const fits = ajv.compile(located(schema!))
      const body = await response.json()
      expect(
        fits(body),
        `${name}: ${ajv.errorsText(fits.errors)} ${JSON.stringify(body).slice(0, 500)}`,
      ).toBe(true)
      if (index > 0) continue
      expect(response.status, name).toBe(200)
      if (Array.isArray(body) && body.length > 0) answered.push(name)
    }
  }
  expect(answered).toEqual(
    expect.arrayContaining([
      'GET /api/v1/accounts',
      'GET /api/v1/conflicts',
      'GET /api/v1/coverage',
      'GET /api/v1/line-items',
      'GET /api/v1/line-items/totals',
      'GET /api/v1/rejected',
      'GET /api/v1/usage',
    ]),
  )
})

test('a body that the document does not have is refused, and one that it needs is missed', async () => {
  const ajv = openAjv()
  const asked: string[] = []
  for (const [name, { security, requestBody }] of operations) {
    const schema = requestBody?.content['application/json']?.schema
    if (!schema) continue
    const fits = ajv.compile(located(schema))
    const unfit = ['null', 'true', '7', '"text"', '[]', '{}', '[null]'].filter(
      text => !fits(JSON.parse(text)),
    )
    expect(unfit, name).toContain('null')
    const [method, path = ''] = name.split(' ')
    for (const body of [...unfit, ...(requestBody.required ? [''] : [])]) {
      const response = await fetch(world.url + path.replace('{meterIdOrSlug}', 'calls'), {
        method: method!,
        headers: { ...world.as(`all ${security[0]?.key[0]}` as Who), 'content-type': 'application/json' },
        body,
      })
      expect(`${response.status} ${await response.text()}`, `${name} ${body}`).toMatch(
        /^400 .*"code":"(USAGE|EVENT_\w+)"/,
      )
    }
    asked.push(name)
  }
  expect(asked.length).toBeGreaterThan(4)
})

test('the page stands in the package and takes nothing from anywhere else', async () => {
  const page = await fetch(`${world.url}/api/docs`)
  const html = await page.text()
  expect(page.headers.get('content-security-policy')).toMatch(/^default-src 'none'; script-src 'self';/)
  const named = Array.from(html.matchAll(/(?:src|href)="([^"]+)"/g), match => match[1]!)
  expect(named.length).toBeGreaterThan(4)
  for (const path of named) {
    expect(path).toMatch(/^\/api\/docs\//)
    expect((await fetch(world.url + path)).status, path).toBe(200)
  }
  expect(await (await fetch(`${world.url}/api/docs/json`)).json()).toEqual(document)
})

test('two schemas of one title are refused when the API starts', () => {
  const one = (url: string, description: string) =>
    ({
      method: 'GET',
      url,
      scope: 'read',
      tags: ['usage'],
      summary: 'Tests',
      answers: { 200: { description, body: { type: 'object', title: 'Thing', description } } },
    }) as const
  expect(() => documentOf([one('/a', 'x'), one('/b', 'x')])).not.toThrow()
  expect(() => documentOf([one('/a', 'x'), one('/b', 'y')])).toThrow('two schemas have the title Thing')
})

function openAjv(): Ajv2020 {
  const ajv = new Ajv2020({ strict: false, validateFormats: true })
  ;(addFormats as unknown as (instance: Ajv2020) => void)(ajv)
  ajv.addSchema({ $id: 'https://meterline.example/document.json', components: document.components })
  return ajv
}

/** With its references into the document. */
function located(schema: object): object {
  return JSON.parse(
    JSON.stringify(schema).replaceAll(
      '"#/components/',
      '"https://meterline.example/document.json#/components/',
    ),
  )
}
