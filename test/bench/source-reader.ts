/**
 * One source in a process of its own, so that CPU and memory are its own: reads windows as the collector does, up to the
 * encoded event and short of the outbox; then the same calls bare. The load comes in as JSON on stdin, figures go out so.
 */
import { readFileSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { sources } from '../../collector/sources/list.ts'
import { mapBounded } from '../../runtime/bounded.ts'
import { type Http, type HttpOptions, type HttpRequest, openHttp } from '../../runtime/http.ts'
import { passingState } from '../../runtime/log/source-state.ts'
import { validator } from '../../schemas/check.ts'
import {
  checkBounds,
  contentHash,
  ReadingEvent,
  sealReading,
  showDigest,
  type Usage,
} from '../../schemas/event.ts'
import { Fault } from '../../schemas/fault.ts'
import { secondMs, type Window } from '../../schemas/window.ts'

/** What to read. Windows are read in turn, those of the first one also before the clock runs. */
export interface ReaderLoad {
  readonly kind: string
  readonly config: object
  readonly secrets: Readonly<Record<string, string>>
  readonly windows: readonly Window[]
  /** The time that the source is told. */
  readonly nowMs: number
  /** It watches first, from this time on, and is told `nowMs` when it has seen everything. */
  readonly watchedFromMs?: number
  /** A connection of pg and a statement with $1 and $2: what is asked bare where no HTTP is spoken. */
  readonly bareSql?: { readonly connection: string; readonly statement: string }
}

export interface ReaderFigures {
  readonly items: number
  readonly readings: number
  readonly reads: number
  readonly calls: number
  readonly seconds: number
  readonly cpuSeconds: number
  /** The same calls, or the statement, with their answers parsed and nothing done with them. */
  readonly bareSeconds?: number
  readonly bareCpuSeconds?: number
  /** How long the source watched until it had seen everything. */
  readonly watchSeconds?: number
  readonly idleBytes: number
  readonly peakBytes: number
  /** The sum of all content hashes, as a mark has it: nothing that was made was left out by the compiler. */
  readonly digest: string
}

const load = JSON.parse(await text(process.stdin)) as ReaderLoad
const live = new AbortController()
const calls: HttpRequest[] = []
const recording = (options: HttpOptions = {}): Http => {
  const http = openHttp({ retries: 3, ...options })
  return {
    ...http,
    request: asked => {
      calls.push(asked)
      return http.request(asked)
    },
    [Symbol.asyncDispose]: () => http[Symbol.asyncDispose](),
  }
}

const kind = sources.find(one => one.kind === load.kind)
if (!kind) throw new Error(`there is no kind ${load.kind}`)
let nowMs = load.watchedFromMs ?? load.nowMs
const filled = structuredClone(load.config)
validator(kind.config)(filled)
const source = kind.open(filled, {
  http: recording(),
  client: recording,
  state: passingState(),
  secret: reference => load.secrets[reference] ?? '',
  nowMs: () => nowMs,
})
const isFitting = validator(ReadingEvent)
let digests = 0n

async function read(scope: string, window: Window): Promise<{ items: number; readings: number }> {
  const counted = { items: 0, readings: 0 }
  const identity = {
    source: `meterline/${load.kind}/bench`,
    scope,
    window,
    readatMs: load.nowMs,
  }
  const encoded: Buffer[] = []
  for await (const item of source.read(scope, window, live.signal)) {
    counted.items += 1
    for (const usage of source.toUsage(item, window) as readonly Usage[]) {
      const event = sealReading(usage, load.kind, identity)
      if (!isFitting(event)) throw new Fault('ITEM_UNREADABLE', JSON.stringify(isFitting.errors))
      checkBounds(event, (window.endMs - window.startMs) / secondMs)
      encoded.push(Buffer.from(JSON.stringify(event)))
      digests += contentHash(event)
      counted.readings += 1
    }
  }
  return counted
}

let watchSeconds: number | undefined
if (source.watch) {
  const startedMs = performance.now()
  source.watch(live.signal).catch(error => {
    console.error(error)
    process.exitCode = 1
  })
  // A scope says since when it is seen as soon as all of it was.
  const isSeen = async () => (await source.scopes(live.signal)).every(({ sinceMs }) => sinceMs !== undefined)
  while (!(await isSeen())) {
    if (performance.now() - startedMs > 60_000) throw new Error(`it sees nothing: ${source.problem?.()}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  watchSeconds = (performance.now() - startedMs) / secondMs
  nowMs = load.nowMs
  // It notices the new time with its next look.
  await new Promise(resolve => setTimeout(resolve, 2000))
}

const scopes = (await source.scopes(live.signal)).map(({ scope }) => scope)
const [first] = load.windows
if (first) await mapBounded(scopes, source.concurrency, scope => read(scope, first))
const idleBytes = memory('VmRSS')

calls.length = 0
const before = process.cpuUsage()
const startedMs = performance.now()
const reads = load.windows.flatMap(window => scopes.map(scope => ({ scope, window })))
const counts = await mapBounded(reads, source.concurrency, ({ scope, window }) => read(scope, window))
const seconds = (performance.now() - startedMs) / secondMs
const used = process.cpuUsage(before)
const peakBytes = memory('VmHWM')

const figures: ReaderFigures = {
  items: counts.reduce((sum, { items }) => sum + items, 0),
  readings: counts.reduce((sum, { readings }) => sum + readings, 0),
  reads: reads.length,
  calls: calls.length,
  seconds,
  cpuSeconds: (used.user + used.system) / 1e6,
  idleBytes,
  peakBytes,
  digest: showDigest(BigInt.asUintN(64, digests)),
  ...(await bare()),
  ...(watchSeconds !== undefined && { watchSeconds }),
}
process.stdout.write(JSON.stringify(figures))
live.abort()
await source[Symbol.asyncDispose]()
process.exit()

async function bare(): Promise<Pick<ReaderFigures, 'bareSeconds' | 'bareCpuSeconds'>> {
  const before = process.cpuUsage()
  const bareSeconds = await askBare()
  const { user, system } = process.cpuUsage(before)
  return bareSeconds === undefined ? {} : { bareSeconds, bareCpuSeconds: (user + system) / 1e6 }
}

/** How long it took; undefined where nothing can be asked bare. */
async function askBare(): Promise<number | undefined> {
  if (load.bareSql) {
    const { default: pg } = await import('pg')
    const { connection, statement } = load.bareSql
    const client = new pg.Client({ connectionString: connection })
    await client.connect()
    const startedMs = performance.now()
    for (const { startMs, endMs } of load.windows)
      await client.query({
        text: statement,
        values: [new Date(startMs), new Date(endMs)],
        types: { getTypeParser: () => (value: string) => value },
      })
    const bareSeconds = (performance.now() - startedMs) / secondMs
    await client.end()
    return bareSeconds
  }
  if (calls.length === 0) return undefined
  await using http = openHttp({ concurrency: source.concurrency, responseBytesMax: 1024 ** 3 })
  const again = [...calls]
  const startedMs = performance.now()
  await mapBounded(again, source.concurrency, async asked => {
    for (const line of (await http.request({ ...asked, signal: live.signal })).text.split('\n'))
      if (line !== '' && /^[[{]/.test(line)) parsed(line)
  })
  return (performance.now() - startedMs) / secondMs
}

/** Where an answer is one JSON over many lines it is not parsed: the limit is the more severe. */
function parsed(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}

function memory(field: 'VmRSS' | 'VmHWM'): number {
  const status = readFileSync('/proc/self/status', 'utf8')
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)?.[1] ?? 0) * 1024
}
