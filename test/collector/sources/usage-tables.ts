/** Usage in tables of a real PostgreSQL, and the source that reads it: what the tests of that source begin with. */
import { readFileSync } from 'node:fs'
import type pg from 'pg'
import { expect } from 'vitest'
import type { Source } from '../../../collector/source.ts'
import { PostgresqlConfig, postgresql } from '../../../collector/sources/postgresql.ts'
import type { SqlItem } from '../../../collector/sql.ts'
import { openHttp } from '../../../runtime/http.ts'
import { misfits } from '../../../schemas/check.ts'
import type { Usage } from '../../../schemas/event.ts'
import { hourMs, minuteMs, type Window } from '../../../schemas/window.ts'
import { sourceContext } from '../source-context.ts'

const live = new AbortController().signal
const passwordRef = `\${env:METER_PASSWORD}`
export const meterPassword = 'm3ter-pa55'
const dayStartMs = Date.UTC(2026, 1, 12)
export const at = (hours: number, minutes = 0) => dayStartMs + hours * hourMs + minutes * minuteMs
export const hour = (from: number): Window => ({ startMs: at(from), endMs: at(from + 1) })

let tables = 0
/** A table of its own for each: what happened when, to the microsecond. */
export async function insertUsage(admin: pg.Client, rows: readonly string[] = []): Promise<string> {
  tables += 1
  const table = `usage_${tables}`
  await admin.query(
    `create table ${table} (id bigserial primary key, tenant text, vm text, at timestamptz, seconds numeric, bytes int8, gpu text)`,
  )
  await admin.query(`grant select on ${table} to meter`)
  if (rows.length > 0)
    await admin.query(`insert into ${table} (tenant, vm, at, seconds, bytes, gpu) values ${rows.join(', ')}`)
  return table
}

export const queryOf = (table: string, more: object = {}) => ({
  name: 'vms',
  sql: `select id, tenant, vm, at, seconds, bytes, gpu\nfrom ${table}\nwhere at >= :start and at < :end`,
  thing: 'instance',
  subject: 'tenant',
  resource: { kind: 'vm', id: 'vm' },
  measures: { gpu_seconds: 'seconds', network_receive_bytes: 'bytes' },
  labels: { gpu_type: 'gpu' },
  time: 'at',
  ...more,
})

export interface Opened extends AsyncDisposable {
  readonly source: Source<SqlItem>
}

export function openSource(
  server: { readonly port: number },
  queries: readonly object[],
  options: object = {},
  more: { port?: number; password?: () => string; nowMs?: () => number } = {},
): Opened {
  const config = {
    name: 'test',
    host: '127.0.0.1',
    port: more.port ?? server.port,
    database: 'postgres',
    user: 'meter',
    password: passwordRef,
    tls: { mode: 'off' },
    queries: structuredClone(queries),
    connectSeconds: 1,
    statementSeconds: 1,
    ...options,
  }
  expect(misfits(PostgresqlConfig, config)).toEqual([])
  const http = openHttp()
  const secret = (reference: string) =>
    reference === passwordRef
      ? (more.password?.() ?? meterPassword)
      : readFileSync(new URL(`../../fixtures/tls/${reference.slice(5)}`, import.meta.url), 'utf8')
  const nowMs = more.nowMs ?? Date.now
  const source = postgresql.open(
    config as unknown as PostgresqlConfig,
    sourceContext({ http, secret, nowMs }),
  ) as Source<SqlItem>
  return {
    source,
    async [Symbol.asyncDispose]() {
      await source[Symbol.asyncDispose]()
      await http[Symbol.asyncDispose]()
    },
  }
}

export async function usages(
  { source }: Opened,
  window: Window,
  scope = 'vms',
  signal = live,
): Promise<Usage[]> {
  const all: Usage[] = []
  for await (const item of source.read(scope, window, signal)) all.push(...source.toUsage(item, window))
  return all.sort((a, b) => (a.resource.id < b.resource.id ? -1 : 1))
}
