/**
 * Texts that mean something to SQL, to a URL or to ClickHouse's own placeholders, in every parameter of every route that
 * there is: none is taken for more than a text, so each is answered as one that means nothing.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Declared } from '../../processor/api/route.ts'
import { startClickHouse, type TestClickHouse } from '../rig/clickhouse.ts'
import { table } from './tenants-table.ts'
import { openTenantsWorld, type TenantsWorld, type Who } from './tenants-world.ts'

let rig: TestClickHouse
let world: TenantsWorld
beforeAll(async () => {
  rig = await startClickHouse()
  world = await openTenantsWorld(rig, `sql_${process.pid}`, 'with')
})
afterAll(async () => {
  await world?.[Symbol.asyncDispose]()
  await rig?.stop()
})

/** What none of the texts is: the same number of characters, and nowhere in the ledger. */
const plain = 'means-nothing'
const texts = [
  `'"\`\\`,
  `') or 1=1 --`,
  `\\') or (\\'\\'=\\'`,
  '{from:Int64}{p0:String}',
  'a\0b\u2028\u{1f980}',
  '*/ union all select 1 /*',
]

interface Answer {
  readonly status: number
  readonly body: string
}

async function answered({ method, scope }: Declared, path: string, body?: unknown): Promise<Answer> {
  const response = await fetch(world.url + path, {
    method,
    headers: {
      ...world.as(`all ${scope}` as Who),
      'x-request-id': 'one',
      ...(body !== undefined && { 'content-type': 'application/json' }),
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  })
  return { status: response.status, body: await response.text() }
}

/** As the plain text would be answered, where it says the text back. */
function plainly({ status, body }: Answer, text: string): Answer {
  if (status >= 400) return { status, body: '' }
  const written = JSON.stringify(text).slice(1, -1)
  return { status, body: body.replaceAll(written, plain).replaceAll(text, plain) }
}

/** Each text in the place of one parameter, against the plain one there. */
async function tried(declared: Declared, at: (text: string) => string): Promise<void> {
  const expected = plainly(await answered(declared, at(plain)), plain)
  expect(expected.status, at(plain)).toBeLessThan(500)
  for (const text of texts) {
    const found = plainly(await answered(declared, at(text)), text)
    // What is not even a name may be refused where one that nobody has is only not there.
    if (expected.status === 404 && found.status === 400) continue
    if (expected.status === 200 && found.status === 400) continue
    expect(found, `${declared.method} ${at(text)}`).toEqual(expected)
  }
}

test('of every parameter of a query and of every path', async () => {
  let tries = 0
  for (const declared of world.declared) {
    const { method, url, scope, query, params } = declared
    if (scope === 'nobody' || declared.guarded) continue
    const [first] = table[`${method} ${url}`]!.asks
    const asked = new URL(
      (typeof first === 'string' ? first : first!.path).replace('{own}', 'aardvark'),
      world.url,
    )
    const names = Object.keys((query as { properties?: object } | undefined)?.properties ?? {})
    if (method === 'GET')
      for (const name of names) {
        const at = (key: string, text: string) => {
          const changed = new URL(asked)
          changed.searchParams.set(key, text)
          return changed.pathname + changed.search
        }
        await tried(declared, text => at(name, text))
        // Of those that are maps, the keys too.
        if (/filter|where/i.test(name)) {
          await tried(declared, text => at(`${name}[${text}]`, 'x'))
          await tried(declared, text => at(`${name}[gpu_type]`, text))
          await tried(declared, text => at(name, JSON.stringify({ gpu_type: { $eq: text } })))
          await tried(declared, text => at(name, JSON.stringify({ [text]: { $like: text } })))
        }
        tries += 1
      }
    for (const name of Object.keys((params as { properties?: object } | undefined)?.properties ?? {})) {
      const parts = url.split('/')
      const place = parts.indexOf(`:${name}`)
      await tried(declared, text =>
        asked.pathname
          .split('/')
          .map((part, index) => (index === place ? encodeURIComponent(text) : part))
          .join('/'),
      )
      tries += 1
    }
  }
  expect(tries).toBeGreaterThan(60)
})

test('of what is posted: a meter, a question, subjects and keys', async () => {
  const route = (method: string, url: string) =>
    world.declared.find(declared => declared.method === method && declared.url === url)!
  const [meters, query, subjects, keys] = [
    route('POST', '/api/v1/meters'),
    route('POST', '/api/v1/meters/:meterIdOrSlug/query'),
    route('POST', '/api/v1/subjects'),
    route('POST', '/api/v1/keys'),
  ]
  for (const [index, text] of [plain, ...texts].entries()) {
    const slug = `odd_${index}`
    const path = `$[${JSON.stringify(text)}]`
    const meter = { slug, eventType: text, aggregation: 'SUM', valueProperty: path, groupBy: { dim: path } }
    const made = await answered(meters, '/api/v1/meters', meter)
    expect(made.status, text).toBeLessThan(500)
    if (made.status < 400) {
      const found = await answered(query, `/api/v1/meters/${slug}/query`, { groupBy: ['dim'] })
      expect(found.status, `${text} ${found.body}`).toBe(200)
      expect(JSON.parse(found.body).data, text).toEqual([])
    }
    const asked = { subject: [text], groupBy: ['gpu_type'], filterGroupBy: { gpu_type: [text] } }
    const found = await answered(query, '/api/v1/meters/instance_hours/query', asked)
    expect([found.status, JSON.parse(found.body).data], text).toEqual([200, []])
    const noted = await answered(subjects, '/api/v1/subjects', [{ key: text, displayName: text }])
    expect(noted.status, text).toBeLessThan(500)
    if (noted.status === 200) expect(JSON.parse(noted.body)).toMatchObject([{ key: text, displayName: text }])
    const pattern = { name: slug, scopes: ['ingest'], sources: [text], subjects: [text] }
    const key = await answered(keys, '/api/v1/keys', pattern)
    expect([key.status, JSON.parse(key.body).sources], text).toEqual([201, [text]])
  }
  // All of it is still there, and nothing else.
  const [left] = await world.store.rows<{ n: string }>('select count() as n from events')
  expect(left?.n).toBe('6')
})
