/**
 * A real Prometheus server for tests: filled with samples of the past, or scraping an exporter that the test scripts; and
 * a proxy before it that breaks its answers.
 */
import { execFile, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { type AddressInfo, createServer as createSocket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { hourMs } from '../../schemas/window.ts'
import { findCommand } from './promtool.ts'

export interface PastSeries {
  /** `requests_total{job="a"}`, as in an exposition. */
  readonly series: string
  /** Time in milliseconds and value as text, rising in time. */
  readonly samples: readonly (readonly [number, string])[]
}

export interface PrometheusServer extends AsyncDisposable {
  readonly url: string
}

export interface PrometheusOptions {
  readonly past?: readonly PastSeries[]
  /** Scraped every second: `127.0.0.1:9100`. */
  readonly targets?: readonly string[]
  readonly flags?: readonly string[]
  /** For how long it is asked to keep samples, such as `30y`. */
  readonly retention?: string
}

/** @throws Error where there is no Prometheus on this machine, or it does not start */
export async function startPrometheus(options: PrometheusOptions = {}): Promise<PrometheusServer> {
  const [server, tool] = [await findCommand('prometheus'), await findCommand('promtool')]
  if ('lacking' in server) throw new Error(`no prometheus: ${server.lacking}`)
  if ('lacking' in tool) throw new Error(`no promtool: ${tool.lacking}`)
  const folder = mkdtempSync(join(tmpdir(), 'meterline-prometheus-'))
  const data = join(folder, 'data')
  mkdirSync(data)
  if (options.past) {
    for (const [index, past] of byBlock(options.past).entries()) {
      const file = join(folder, `${index}.om`)
      writeFileSync(file, openMetrics(past))
      await promisify(execFile)(tool.path, ['tsdb', 'create-blocks-from', 'openmetrics', '-q', file, data])
      rmSync(file)
    }
  }
  const config = join(folder, 'prometheus.yml')
  // JSON is YAML.
  const jobs = options.targets?.map((target, index) => ({
    job_name: `exporter-${index}`,
    static_configs: [{ targets: [target] }],
  }))
  writeFileSync(
    config,
    JSON.stringify({ global: { scrape_interval: '1s', scrape_timeout: '1s' }, scrape_configs: jobs ?? [] }),
  )
  const port = await freePort()
  const child = spawn(
    server.path,
    [
      `--config.file=${config}`,
      `--storage.tsdb.path=${data}`,
      `--storage.tsdb.retention.time=${options.retention ?? '30y'}`,
      `--web.listen-address=127.0.0.1:${port}`,
      '--log.level=warn',
      ...(options.flags ?? []),
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  )
  let said = ''
  child.stderr.on('data', (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-4000)
  })
  const url = `http://127.0.0.1:${port}`
  const ended = new Promise<void>(resolve => child.once('exit', () => resolve()))
  for (let waited = 0; ; waited += 50) {
    if (child.exitCode !== null || waited > 30_000) throw new Error(`prometheus does not start: ${said}`)
    const ready = await fetch(`${url}/-/ready`).then(
      answer => answer.ok,
      () => false,
    )
    if (ready) break
    await sleep(50)
  }
  return {
    url,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await ended
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/** The tool reads a file once for each block of two hours that it makes: it is given one block at a time. */
function byBlock(past: readonly PastSeries[]): readonly (readonly PastSeries[])[] {
  const blocks = new Map<number, Map<string, (readonly [number, string])[]>>()
  for (const { series, samples } of past)
    for (const sample of samples) {
      const at = Math.floor(sample[0] / (2 * hourMs))
      const block = blocks.get(at) ?? new Map<string, (readonly [number, string])[]>()
      blocks.set(at, block)
      const known = block.get(series)
      if (known) known.push(sample)
      else block.set(series, [sample])
    }
  return [...blocks.values()].map(block => [...block].map(([series, samples]) => ({ series, samples })))
}

/** Series of one metric stand together there. */
function openMetrics(past: readonly PastSeries[]): string {
  const nameOf = ({ series }: PastSeries) => series.replace(/\{.*$/, '')
  const lines: string[] = []
  for (const name of new Set(past.map(nameOf))) {
    lines.push(`# TYPE ${name} unknown`)
    for (const each of past)
      if (nameOf(each) === name)
        for (const [atMs, value] of each.samples) lines.push(`${each.series} ${value} ${atMs / 1000}`)
  }
  return `${lines.join('\n')}\n# EOF\n`
}

async function freePort(): Promise<number> {
  const socket = createSocket()
  await new Promise<void>(resolve => socket.listen(0, '127.0.0.1', resolve))
  const { port } = socket.address() as AddressInfo
  await new Promise(resolve => socket.close(resolve))
  return port
}

/** An answer on its way: what the server said, and what was asked. */
export interface Passing {
  readonly path: string
  readonly form: URLSearchParams
  readonly headers: IncomingMessage['headers']
  readonly status: number
  readonly body: string
}

export interface PrometheusProxy extends AsyncDisposable {
  readonly url: string
  /** What was asked, in order. */
  readonly asked: {
    readonly path: string
    readonly form: URLSearchParams
    readonly headers: IncomingMessage['headers']
  }[]
  /** Changes an answer, or takes the connection over. */
  through: (passing: Passing, response: ServerResponse) => { status: number; body: string } | 'taken'
}

/** Stands before a server, or before none where `through` makes all answers up. */
export async function startPrometheusProxy(upstream?: string): Promise<PrometheusProxy> {
  const asked: PrometheusProxy['asked'] = []
  const proxy = {
    asked,
    through: (({ status, body }) => ({ status, body })) as PrometheusProxy['through'],
  }
  const server: Server = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const sent = Buffer.concat(chunks).toString('utf8')
    const { pathname, search } = new URL(request.url ?? '/', 'http://proxy')
    const form = new URLSearchParams(sent === '' ? search : sent)
    const about = { path: pathname, form, headers: request.headers }
    asked.push(about)
    let answer = { status: 200, body: '{}' }
    if (upstream !== undefined) {
      const real = await fetch(upstream + pathname + search, {
        method: request.method ?? 'GET',
        ...(sent !== '' && {
          body: sent,
          headers: { 'content-type': request.headers['content-type'] ?? '' },
        }),
      })
      answer = { status: real.status, body: await real.text() }
    }
    const passed = proxy.through({ ...about, ...answer }, response)
    if (passed === 'taken') return
    response.writeHead(passed.status, { 'content-type': 'application/json' })
    response.end(passed.body)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return Object.assign(proxy, {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise(resolve => server.close(resolve))
    },
  })
}
