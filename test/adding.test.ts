/** The source that docs/adding.md shows, taken from there as it is: it compiles, keeps the contract of every source, and is read to the end. */
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TSchema } from 'typebox'
import { afterAll, expect, test } from 'vitest'
import { collectRead } from '../collector/collect.ts'
import type { Source, SourceKind } from '../collector/source.ts'
import { openHttp } from '../runtime/http.ts'
import { SqliteOutbox } from '../runtime/log/outbox.ts'
import { misfits } from '../schemas/check.ts'
import type { MarkEvent, ReadingEvent } from '../schemas/event.ts'
import { hourMs, instantMs, type Window, windowAt } from '../schemas/window.ts'
import { sourceContext } from './collector/source-context.ts'
import { runSourceContract, type SourceRig } from './contract/source.ts'

const root = join(import.meta.dirname, '..')
const section = readFileSync(join(root, 'docs/adding.md'), 'utf8').split(/^## /m)[1] ?? ''
const [, code = ''] = /^```ts\n([\s\S]*?)^```$/m.exec(section) ?? []

// As deep in the tree as a source is: all that is changed is where its neighbours are.
const scratch = join(root, `test-reports/adding-${process.pid}`)
const file = join(scratch, 'acme.ts')
mkdirSync(scratch, { recursive: true })
writeFileSync(file, code.replace(/from '\.\.\/(?!\.)/g, "from '../../collector/"))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))
const { acme } = (await import(/* @vite-ignore */ file)) as { readonly acme: SourceKind }

// -- the double: a small Acme, and the ways in which it goes wrong

const now = windowAt(Date.now(), 60).startMs
const at = (hours: number): number => now - 24 * hourMs + hours * hourMs
const key = 'acme-s3cr3t-key'
/** GPUs of pods by project, from when to when. */
const pods = [
  { cluster: 'east', project: 'red', pod: 'train-1', gpus: '8', from: at(1.25), to: at(3.5) },
  { cluster: 'east', project: 'blue', pod: 'web-1', gpus: '0.1', from: at(0), to: at(6) },
  { cluster: 'east', project: 'blue', pod: 'web-2', gpus: '0.55', from: at(2), to: at(4) },
  { cluster: 'west', project: 'red', pod: 'train-1', gpus: '4', from: at(2), to: at(3) },
]

async function startAcme() {
  const behaviour = { how: '', spoiled: false }
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://acme')
    if (behaviour.how !== '') return wrong(behaviour.how, response)
    if (request.headers.authorization !== `Bearer ${key}`) return void response.writeHead(401).end()
    const query = (name: string) => url.searchParams.get(name) ?? ''
    const rows = url.pathname === '/v1/clusters' ? ['"east"', '"west"'] : usage(query, behaviour.spoiled)
    const from = Number(query('offset'))
    response.end(`{"items":[${rows.slice(from, from + Number(query('limit'))).join()}]}`)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    behaviour,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => {
      server.closeAllConnections()
      server.close()
    },
  }
}

/** Rows of JSON, digit for digit: those of pods that ran in `[from, to)`. */
function usage(query: (name: string) => string, spoiled: boolean): readonly string[] {
  const window = { startMs: instantMs(query('from')) ?? 0, endMs: instantMs(query('to')) ?? 0 }
  return pods
    .filter(({ cluster }) => cluster === query('cluster'))
    .map(pod => ({ ...pod, ms: Math.min(pod.to, window.endMs) - Math.max(pod.from, window.startMs) }))
    .filter(({ ms }) => ms > 0)
    .map(({ project, pod, gpus, ms }) => {
      const seconds = spoiled && pod === 'web-1' ? 'null' : String(ms / 1000)
      return `{"project":"${project}","pod":"${pod}","gpus":${gpus},"seconds":${seconds}}`
    })
}

function wrong(how: string, response: ServerResponse): void {
  if (how === 'hang') return
  if (how === '502 HTML') return void response.writeHead(502).end('<html>')
  if (/^\d+$/.test(how)) return void response.writeHead(Number(how)).end()
  if (how === 'truncated') return void response.end('{"items":[')
  if (how === 'list') return void response.end('[{"items":[]}]')
  if (how === 'empty object') return void response.end('{}')
  response.writeHead(200, { 'content-length': '100' }).write('{"items":[')
  setTimeout(() => response.destroy(), 10)
}

async function rig({
  pageSize,
}: {
  readonly pageSize?: number
} = {}): Promise<SourceRig & { readonly source: Source<unknown> }> {
  const double = await startAcme()
  const config = { url: double.url, apiKey: '${env:ACME_KEY}', ...(pageSize && { pageSize }) }
  expect(misfits(acme.config as TSchema, config)).toEqual([])
  const http = openHttp({ retries: 1, deadlineMs: 250, random: () => 0 })
  const source = acme.open(config, sourceContext({ http, secret: () => key }))
  return {
    kind: 'acme',
    source,
    break: how => {
      double.behaviour.how = how
    },
    spoilOne: () => {
      double.behaviour.spoiled = true
      return 'blue'
    },
    async [Symbol.asyncDispose]() {
      await source[Symbol.asyncDispose]()
      await http[Symbol.asyncDispose]()
      double.close()
    },
  }
}

// -- what it keeps

const window: Window = { startMs: at(2), endMs: at(3) }
runSourceContract('acme of docs/adding.md', {
  open: rig,
  span: { startMs: at(0), endMs: at(7) },
  window,
  scope: 'east',
  widthsMinutes: [60],
  secrets: [key],
})

test('it is a whole source in under 80 lines, none of them too wide for the page, and compiles as the others do', () => {
  const lines = code.trimEnd().split('\n')
  expect(lines.length).toBeGreaterThan(40)
  expect(lines.length).toBeLessThan(80)
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

test('its read becomes readings and a mark, exactly, and a bad item a gap of its tenant', async () => {
  await using each = await rig()
  const dir = mkdtempSync(join(tmpdir(), 'meterline-adding-'))
  try {
    using outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: Date.now })
    const read = {
      opened: { kind: 'acme', name: 'prod', source: each.source },
      scope: 'east',
      window,
      outbox,
      by: 'schedule',
      nowMs: Date.now,
      signal: new AbortController().signal,
    } as const
    expect(await collectRead(read)).toMatchObject({ outcome: 'complete', readings: 3, bad: [] })
    await each.spoilOne()
    const again = await collectRead(read)
    expect(again).toMatchObject({ readings: 2, bad: [{ subject: 'blue', code: 'ITEM_UNREADABLE' }] })
    const rows = outbox.rowsFrom(0, { rowsMax: 100, bytesMax: 1e6 })
    const events = rows.map(row => JSON.parse(row.value.toString()) as ReadingEvent | MarkEvent)
    expect(events.slice(0, 3)).toMatchObject([
      { type: 'io.meterline.acme.pod.v1', subject: 'red', data: { measures: { gpu_seconds: '28800' } } },
      { subject: 'blue', data: { resource: { id: 'web-1' }, measures: { gpu_seconds: '360' } } },
      // 0.55 × 3600 is 1980.0000000000002 in floating point.
      { subject: 'blue', data: { resource: { id: 'web-2' }, measures: { gpu_seconds: '1980' } } },
    ])
    expect(JSON.stringify(events)).not.toContain(key)
  } finally {
    rmSync(dir, { recursive: true })
  }
})
