/** The MySQL source that docs/adding.md shows, taken from there as it is: it compiles and keeps the contract, with a stand-in for its driver. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TSchema } from 'typebox'
import { afterAll, expect, test } from 'vitest'
import type { SourceKind } from '../collector/source.ts'
import { openHttp } from '../runtime/http.ts'
import { misfits } from '../schemas/check.ts'
import { hourMs, minuteMs } from '../schemas/window.ts'
import { sourceContext } from './collector/source-context.ts'
import { runSourceContract } from './contract/source.ts'
import { faultFrom, faultOf } from './faults.ts'

const root = join(import.meta.dirname, '..')
const section =
  readFileSync(join(root, 'docs/adding.md'), 'utf8')
    .split(/^## /m)
    .find(part => part.startsWith('A source for another database')) ?? ''
const [, code = ''] = /^```ts\n([\s\S]*?)^```$/m.exec(section) ?? []

/** As much of mysql2 as the recipe uses: it answers from rows, between @start and @end, and goes wrong when it is told to. */
const driverCode = `/** A stand-in for mysql2. */
export interface RowDataPacket { readonly constructor: { readonly name: 'RowDataPacket' } }
interface Field { string(): string | null }
interface Options {
  readonly host: string; readonly port: number; readonly database: string; readonly user: string
  readonly password: string; readonly connectTimeout: number; readonly ssl?: { readonly ca: string }
  readonly rowsAsArray: boolean; readonly typeCast: (field: Field) => unknown
}
export const server = {
  how: '', password: '', nowMs: Date.now, asked: [] as string[],
  columns: [] as string[], rows: [] as { readonly atMs: number; readonly row: (string | null)[] }[],
}
const failing = (code: string, errno: number) => Object.assign(new Error('words with s3cret-row-value'), { code, errno })
export async function createConnection(options: Options) {
  if (server.how === 'hang') await new Promise(() => {})
  if (server.how === 'gone') throw failing('ECONNREFUSED', -111)
  if (server.how === 'denied' || options.password !== server.password) throw failing('ER_ACCESS_DENIED_ERROR', 1045)
  const set: number[] = []
  const answer = async (sql: string, values: readonly unknown[]): Promise<[unknown[], { name: string }[]]> => {
    server.asked.push(sql)
    if (sql.startsWith('set time_zone')) set.push(...values.map(value => Date.parse(value + 'Z')))
    if (sql.includes('unix_timestamp')) return [[[String(server.nowMs())]], []]
    if (!sql.startsWith('select')) return [[], []]
    if (server.how === 'column gone') throw failing('ER_BAD_FIELD_ERROR', 1054)
    if (!sql.includes('>= cast(@start as datetime(6)) and at < cast(@end as datetime(6))')) throw failing('ER_PARSE_ERROR', 1064)
    if (server.how === 'cut') throw failing('PROTOCOL_CONNECTION_LOST', 0)
    const [from = 0, to = 0] = set
    const rows = server.rows.filter(({ atMs }) => atMs >= from && atMs < to)
    return [rows.map(({ row }) => row.map(cell => options.typeCast({ string: () => cell }))), server.columns.map(name => ({ name }))]
  }
  return {
    query: <Rows>(sql: string, values: readonly unknown[] = []) => answer(sql, values) as unknown as Promise<[Rows, { name: string }[]]>,
    destroy: () => {},
  }
}
`
const scratch = join(root, `test-reports/adding-mysql-${process.pid}`)
const file = join(scratch, 'mysql.ts')
mkdirSync(scratch, { recursive: true })
writeFileSync(join(scratch, 'driver.ts'), driverCode)
writeFileSync(
  file,
  code
    .replace(/from '\.\.\/(?!\.)/g, "from '../../collector/")
    .replace(/'mysql2(\/promise)?'/g, "'./driver.ts'"),
)
afterAll(() => rmSync(scratch, { recursive: true, force: true }))
interface Server {
  how: string
  password: string
  nowMs: () => number
  asked: string[]
  columns: string[]
  rows: { atMs: number; row: (string | null)[] }[]
}
const { mysql } = (await import(/* @vite-ignore */ file)) as { readonly mysql: SourceKind }
const { server } = (await import(/* @vite-ignore */ join(scratch, 'driver.ts'))) as {
  readonly server: Server
}

const at = (hours: number) => Date.UTC(2026, 1, 12) + hours * hourMs
const password = 'my-s3cr3t-pa55'

function rig(options: { readonly widthMinutes?: number; readonly sql?: string } = {}) {
  Object.assign(server, { how: '', password, nowMs: Date.now, asked: [] })
  server.columns = ['tenant', 'vm', 'at', 'seconds']
  server.rows = Array.from({ length: 120 }, (_, index) => {
    const atMs = at(8) + index * minuteMs + 1
    const time = new Date(atMs).toISOString().slice(0, 23).replace('T', ' ')
    return { atMs, row: [`t${index % 3}`, `vm${index % 5}`, time, `${index}.1`] }
  })
  const config = {
    host: 'db',
    database: 'd',
    user: 'meter',
    password: 'file:password',
    ...(options.widthMinutes && { windowMinutes: options.widthMinutes }),
    queries: [
      {
        name: 'vms',
        sql:
          options.sql ?? 'select tenant, vm, at, seconds from vms where at >= :start and at < :end # :start',
        subject: 'tenant',
        resource: { kind: 'vm', id: 'vm' },
        measures: { gpu_seconds: 'seconds' },
        time: 'at',
      },
    ],
  }
  expect(misfits(mysql.config as TSchema, config)).toEqual([])
  const http = openHttp()
  const source = mysql.open(config, sourceContext({ http, secret: () => password }))
  return {
    kind: 'mysql',
    source,
    break(how: string) {
      server.how = how
    },
    spoilOne() {
      const row = server.rows.find(({ atMs }) => atMs >= at(9))!.row
      row[3] = null
      return row[0]!
    },
    async [Symbol.asyncDispose]() {
      await source[Symbol.asyncDispose]()
      await http[Symbol.asyncDispose]()
    },
  }
}

runSourceContract('mysql of docs/adding.md', {
  open: async options => rig(options),
  span: { startMs: at(8), endMs: at(10) },
  window: { startMs: at(9), endMs: at(9.25) },
  scope: 'vms',
  widthsMinutes: [15, 5, 60],
  // `hang` waits for its deadline, which is minutes: the abort of one is held all the same.
  breakages: ['gone', 'denied', 'column gone', 'cut'],
  secrets: [password, 's3cret-row-value'],
})

test('all is asked of one moment, read-only, after its clock', async () => {
  await using each = rig()
  const read = async () => {
    for await (const _ of each.source.read(
      'vms',
      { startMs: at(8), endMs: at(9) },
      new AbortController().signal,
    )) {
      // Read to its end.
    }
  }
  await read()
  expect(server.asked.map(sql => sql.slice(0, 30))).toEqual([
    "set time_zone = '+00:00', @sta",
    'select floor(unix_timestamp(no',
    'set transaction isolation leve',
    'start transaction with consist',
    'select tenant, vm, at, seconds',
  ])
  server.nowMs = () => at(9) - 1
  expect((await faultFrom(read())).code).toBe('WINDOW_UNKNOWABLE')
})

test('what it does not know is refused when it is opened', () => {
  expect(faultOf(() => rig({ sql: 'select 1 where at >= :start' })).code).toBe('CONFIG_INVALID')
})

test('it compiles as the others do, none of its lines too wide for the page', () => {
  const lines = code.trimEnd().split('\n')
  expect(lines.length).toBeGreaterThan(60)
  expect(lines.length).toBeLessThan(110)
  expect(lines.filter(line => line.length > 120)).toEqual([])
  const project = join(scratch, 'tsconfig.json')
  writeFileSync(
    project,
    JSON.stringify({
      extends: join(root, 'tsconfig.json'),
      include: [file],
      compilerOptions: { rootDir: root },
    }),
  )
  const tsc = join(root, 'node_modules/typescript/bin/tsc')
  expect(execFileSync(process.execPath, [tsc, '-p', project], { encoding: 'utf8' })).toBe('')
})
