/**
 * A random world put into the real ledger, batch by batch as its log has it, and what is asked of it over HTTP held against
 * the oracle: all rows, in order, as texts.
 */
import fc from 'fast-check'
import { Registry } from 'prom-client'
import { type AcceptedBatch, fitTogether } from '../../processor/accept.ts'
import { openApi } from '../../processor/api/api.ts'
import { queryRoutes } from '../../processor/api/openmeter/query.ts'
import { usageRoutes } from '../../processor/api/usage.ts'
import { beginMeters, Catalogue, type CatalogueMeter } from '../../processor/catalogue.ts'
import { Ledger } from '../../processor/ledger.ts'
import { Queries } from '../../processor/queries.ts'
import { recompute } from '../../processor/rollups.ts'
import { newToken } from '../../processor/stale.ts'
import { Store } from '../../processor/store.ts'
import { usage } from '../../processor/usage.ts'
import { Health, serveHealth } from '../../runtime/health.ts'
import type { LogBatch } from '../../runtime/log/log.ts'
import type { Account } from '../../schemas/accounts.ts'
import { type Grant, keyless } from '../../schemas/keys.ts'
import type { Meter, UsageRow } from '../../schemas/meters.ts'
import { suspectDefault } from '../../schemas/suspect.ts'
import { showInstant } from '../../schemas/window.ts'
import { freshen } from '../freshen.ts'
import { acceptParts, headers } from '../reads.ts'
import type { TestClickHouse } from '../rig/clickhouse.ts'
import { dying } from './dying.ts'
import { type Paced, paced } from './paced.ts'
import {
  type Answer,
  type Asked,
  answer,
  type Counted,
  counted,
  type Ends,
  type Message,
  print,
} from './usage.oracle.ts'
import {
  type MeterSpec,
  meterOf,
  type QuestionSpec,
  type Sizes,
  Speaker,
  type StageSpec,
  type WorldSpec,
  worlds,
} from './usage.oracle-world.ts'

/** How much was compared, and of it how much where things are hard. */
export interface Count {
  readonly cases: number
  readonly rows: number
  readonly split: number
  /** Questions asked between the statements of a recompute or of a build. */
  readonly meanwhile: number
  /** Questions over more stale cells than are named one by one. */
  readonly crowded: number
}

/** One database and one server for all worlds: each finds it empty. */
export interface Bench extends AsyncDisposable {
  /** Asks all that the world asks. @throws Differs with the first question that is answered otherwise */
  run(spec: WorldSpec, isOver: (cases: number) => boolean): Promise<Count>
}

export class Differs extends Error {
  constructor(asked: Asked, how: string, ours: readonly string[], theirs: readonly string[]) {
    const only = (some: readonly string[], others: readonly string[]) =>
      some.filter(row => !others.includes(row))
    const lines = [
      `${how}: ${JSON.stringify({ ...asked, from: showInstant(asked.fromMs), to: showInstant(asked.toMs) })}`,
      'only the oracle says:',
      ...only(ours, theirs),
      'only the engine says:',
      ...only(theirs, ours),
      'the engine says:',
      ...theirs,
    ]
    super(lines.join('\n'))
  }
}

export interface Run {
  readonly seed: number
  readonly worlds: number
  readonly sizes: Sizes
  /** No world is begun after it, however many were asked for, */
  readonly timeMaxMs: number
  /** unless fewer questions were compared by then. */
  readonly casesMin: number
  /** Of a world that failed, as fast-check says it. */
  readonly path?: string
  /** Whether a smaller world is looked for where one fails, which takes its time. */
  readonly shrinks?: boolean
}

const nothing = { cases: 0, rows: 0, split: 0, meanwhile: 0, crowded: 0 }

/** Makes worlds and holds each against the oracle. @throws the first that differs, with seed and path */
export async function holdsFor(bench: Bench, run: Run): Promise<Count & { readonly worlds: number }> {
  const { seed, worlds: numRuns, sizes, timeMaxMs, casesMin, path, shrinks = false } = run
  const sum = { worlds: 0, ...nothing }
  const endMs = performance.now() + timeMaxMs
  const found = await fc.check(
    fc.asyncProperty(worlds(sizes), async spec => {
      // A world may be long: it ends early where the time is over and enough was compared.
      const isOver = (cases: number) => performance.now() > endMs && sum.cases + cases >= casesMin
      if (isOver(0)) return
      const count = await bench.run(spec, isOver)
      sum.worlds += 1
      for (const name of Object.keys(nothing) as (keyof Count)[]) sum[name] += count[name]
    }),
    {
      seed,
      numRuns,
      ...(path !== undefined && { path }),
      endOnFailure: !shrinks,
    },
  )
  if (found.failed) {
    // The world is long, and its seed and path are the same in short.
    const world = shrinks ? `\n${fc.stringify(found.counterexample)}` : ''
    const replay = `METERLINE_ORACLE_SEED=${seed} METERLINE_ORACLE_PATH=${found.counterexamplePath}`
    const error = found.errorInstance
    throw new Error(`${replay}: ${error instanceof Error ? error.message : error}${world}`, { cause: error })
  }
  return sum
}

/** Questions that are asked at once: the engine has as many threads for them. */
const atOnce = 3

export async function openBench(rig: TestClickHouse): Promise<Bench> {
  const scope = new AsyncDisposableStack()
  const store = scope.use(await Store.open(rig))
  const server = scope.use(
    await serveHealth({ health: new Health(), registry: new Registry(), host: '127.0.0.1', port: 0 }),
  )
  const entries = new Map<string, CatalogueMeter>()
  const accounts = new Map<string, Account>()
  const faults: Error[] = []
  const bench: Parts = { store, url: server.url, entries, accounts, faults, before: undefined, crowded: 0 }
  const asked = Object.create(store) as Store
  asked.stream = async function* (...args) {
    await bench.before?.()
    if (args[0].includes('from stale') && !args[0].includes("'ready'")) bench.crowded += 1
    yield* store.stream(...args)
  }
  const parts = {
    store: asked,
    queries: new Queries({ seconds: 30, memoryBytes: 1e9, concurrency: atOnce, queued: 100 }),
    accounts: async () => Array.from(accounts.values()),
    nowMs: () => 0,
  }
  const get = async (slug: string) => {
    const found = entries.get(slug)
    if (!found) throw new Error(`no meter ${slug}`)
    return found
  }
  scope.use(
    await openApi({
      mount: server.mount,
      routes: [usageRoutes({ ...parts, meterOf: get }), queryRoutes({ ...parts, catalogue: { find: get } })],
      access: 'keys',
      onFault: fault => faults.push(fault),
      keys: {
        authorize: (token): Grant => ({
          ...keyless,
          name: token,
          scopes: ['read'],
          ...(token !== 'all' && { account: token }),
        }),
      },
    }),
  )
  return {
    async run(spec, isOver) {
      const used = await store.rows<{ name: string }>(
        "select name from system.tables where database = currentDatabase() and total_rows > 0 and name != 'migrations'",
      )
      await Promise.all(used.map(({ name }) => store.run(`truncate table ${name}`)))
      entries.clear()
      accounts.clear()
      bench.crowded = 0
      return await runWorld(bench, spec, isOver)
    },
    [Symbol.asyncDispose]: () => scope.disposeAsync(),
  }
}

interface Parts {
  readonly store: Store
  readonly url: string
  /** As the catalogue has them now: of a meter that changed the old definition may answer. */
  readonly entries: Map<string, CatalogueMeter>
  readonly accounts: Map<string, Account>
  /** What went wrong inside, that an answer does not tell. */
  readonly faults: Error[]
  /** What happens before each statement of a question. */
  before: (() => Promise<void>) | undefined
  /** Of this world: questions that had too many stale cells to name. */
  crowded: number
}

async function runWorld(parts: Parts, spec: WorldSpec, isOver: (cases: number) => boolean): Promise<Count> {
  const { store } = parts
  const speaker = new Speaker(spec)
  const rule = spec.isJudged ? suspectDefault : null
  const ledger = new Ledger(store, 'log', rule)
  const meters = new Meters(store, spec.meters, speaker)
  const ends: Ends[] = []
  const count = { ...nothing }
  let put = 0
  const ask = async (questions: readonly QuestionSpec[], lanes = atOnce) => {
    for (const entry of await meters.entries()) parts.entries.set(entry.meter.slug, entry)
    // What counts, by the place in the log as of which it is asked.
    const known = new Map<Ends | undefined, readonly Counted[]>()
    const waiting = [...questions]
    const lane = async () => {
      for (let question = waiting.shift(); question && !isOver(count.cases); question = waiting.shift()) {
        const entry = parts.entries.get(`m${question.meter % spec.meters.length}`)
        if (!entry) continue
        const asOf = question.asOf === undefined ? undefined : ends[question.asOf % ends.length]
        const events = known.get(asOf) ?? counted(speaker.messages, { rule, asOf })
        known.set(asOf, events)
        const asked = speaker.question(question, entry.answering)
        const rows = await compare(parts, { question, asked, asOf, events, entry })
        count.cases += 1
        count.rows += rows.length
        count.split += rows.filter(({ isSplit }) => isSplit).length
        if (parts.before) count.meanwhile += 1
      }
    }
    await Promise.all(Array.from({ length: lanes }, lane))
  }
  for (const [index, [stage, questions]] of spec.stages.entries()) {
    if (stage.change) meters.change(...stage.change)
    if (stage.isKnownBefore) await meters.begin()
    for (const one of stage.said) speaker.say(one)
    if (spec.crowd && spec.crowd.stage % spec.stages.length === index) speaker.crowd(spec.crowd)
    for (let at = 0; put < speaker.messages.length; at += 1) {
      const { messages = Number.POSITIVE_INFINITY, dies } = stage.puts[at] ?? {}
      const some = speaker.messages.slice(put, put + messages)
      for (const batches of fitting(batchesOf(some).flatMap(batch => acceptParts(batch, 'log')))) {
        if (dies !== undefined) {
          const killed = dying(store, Math.floor(dies / 2) + 1, dies % 2 === 0 ? 'before' : 'after').store
          await new Ledger(killed, 'log', rule).put(batches).catch(() => undefined)
        }
        const { rejects } = await ledger.put(batches)
        if (rejects.length > 0) throw new Error(`rejected: ${rejects.map(({ reason }) => reason).join('; ')}`)
      }
      put += some.length
      ends.push(
        new Map([0, 1].map(partition => [partition, endOf(speaker.messages.slice(0, put), partition)])),
      )
    }
    if (!stage.isKnownBefore) await meters.begin()
    // What was fresh is stale by now.
    await ask(spec.again)
    const rest = [...questions, ...spec.again]
    const share = Math.ceil(rest.length / (stage.recomputes.length + 1))
    for (const one of stage.recomputes) {
      const some = one.pace === 'now' ? [] : rest.splice(0, share)
      await recomputing(parts, one, () => ask(some, 1))
    }
    if (stage.isFreshThen) await freshen(store, { cellsMax: 10_000 })
    await ask(rest)
  }
  return { ...count, crowded: parts.crowded }
}

/** Recomputes while somebody asks, a statement whenever one of theirs is due, so that a seed tells all of it. */
async function recomputing(
  parts: Parts,
  { pace, ...options }: StageSpec['recomputes'][number],
  ask: () => Promise<void>,
): Promise<void> {
  const { store } = parts
  if (pace === 'now') await recompute(store, { run: newToken(), settleMs: 0, ...options })
  else {
    const slow: Paced = paced(store)
    const work = recompute(slow.store, { run: newToken(), ...options }).then(
      () => slow.end(),
      (error: unknown) => slow.end(error),
    )
    parts.before = () => slow.step()
    try {
      await ask()
    } finally {
      parts.before = undefined
      if (pace === 'dies') slow.kill()
      else slow.release()
      await work
    }
    if (slow.failed !== undefined) throw slow.failed
  }
}

/** The meters of a world: those of the file and those made by API, as they are now. */
class Meters {
  readonly #store: Store
  readonly #specs: MeterSpec[]
  readonly #speaker: Speaker
  readonly #made = new Map<number, MeterSpec>()

  constructor(store: Store, specs: readonly MeterSpec[], speaker: Speaker) {
    this.#store = store
    this.#specs = [...specs]
    this.#speaker = speaker
  }

  /** From now on one of them means something else. It stays where it was made. */
  change(which: number, spec: MeterSpec): void {
    const index = which % this.#specs.length
    const { api } = this.#specs[index] ?? spec
    this.#specs[index] = { ...spec, api: api && (spec.api ?? api) }
  }

  async begin(): Promise<void> {
    const catalogue = new Catalogue(this.#store, this.#file(), () => 0)
    await beginMeters(this.#store, this.#file())
    for (const [index, spec] of this.#specs.entries()) {
      if (!spec.api || this.#made.get(index) === spec) continue
      const meter = meterOf(spec, `m${index}`)
      const from = spec.api.eventFrom
      const notes = { eventFromMs: from && this.#speaker.slotMs(from[0]) + from[1] }
      if (this.#made.has(index)) await catalogue.update(meter.slug, { meter, ...notes })
      else await catalogue.create(meter, notes)
      this.#made.set(index, spec)
    }
  }

  async entries(): Promise<readonly CatalogueMeter[]> {
    return await new Catalogue(this.#store, this.#file(), () => 0).meters()
  }

  #file(): readonly Meter[] {
    return this.#specs.flatMap((spec, index) => (spec.api ? [] : [meterOf(spec, `m${index}`)]))
  }
}

/** What may go in at once, in the order of the log. */
function fitting(batches: readonly AcceptedBatch[]): readonly (readonly AcceptedBatch[])[] {
  const puts: AcceptedBatch[][] = []
  for (const batch of batches) {
    const last = puts.at(-1)
    if (last?.every(one => fitTogether(one, batch))) last.push(batch)
    else puts.push([batch])
  }
  return puts
}

function endOf(messages: readonly Message[], partition: number): number {
  return messages.filter(message => message.partition === partition).length
}

function batchesOf(messages: readonly Message[]): readonly LogBatch[] {
  const of = Map.groupBy(messages, ({ partition }) => partition)
  return Array.from(of, ([partition, some]) => ({
    partition,
    messages: some.map(({ offset, appendedMs, event }) => ({
      offset: BigInt(offset),
      key: null,
      value: Buffer.from(JSON.stringify(event)),
      headers,
      appendedMs,
    })),
  }))
}

interface Case {
  readonly question: QuestionSpec
  readonly asked: Asked
  readonly asOf: Ends | undefined
  readonly events: readonly Counted[]
  readonly entry: CatalogueMeter
}

/** Asks in the way that the question says, and gives the oracle's rows where both agree. */
async function compare(
  parts: Parts,
  { question, asked, asOf, events, entry }: Case,
): Promise<readonly Answer[]> {
  // Before its `eventFrom` nothing counts: the span begins there.
  const fromMs = Math.max(asked.fromMs, (asOf ? undefined : entry.eventFromMs) ?? asked.fromMs)
  const count = (some: Asked) => (fromMs < asked.toMs ? answer(events, { ...some, fromMs }) : [])
  const { by, limit } = question
  const steps = [undefined, 'MINUTE', 'HOUR', 'DAY', 'MONTH']
  const isOpenMeter = by.startsWith('openmeter') && asOf === undefined && steps.includes(asked.window)
  if (isOpenMeter) {
    const { top: _, sources: __, ...rest } = asked
    const wire = { ...rest, keep: { source: false, subject: asked.subjects !== undefined } }
    const ours = count(wire)
    const texts = ours.map(row => wireText(row, wire, by.endsWith('csv')))
    differ(wire, by, texts, await askOpenMeter(parts, wire, by))
    return ours
  }
  const ours = count(asked)
  const texts = ours.map(row => rowText(expected(row, asked)))
  // As of an earlier place there is no answer over HTTP, and a top has no pages.
  if (asOf)
    differ(
      asked,
      `as of ${JSON.stringify([...asOf])}`,
      texts,
      (await askStore(parts, asked, asOf)).map(rowText),
    )
  else if (by === 'csv') differ(asked, by, texts, await askCsv(parts, asked))
  else {
    // A page is a question of its own: of a long answer there are not many.
    const rowsMax = Math.max(limit, Math.ceil(ours.length / 8))
    const pageOf = by === 'pages' && asked.top === undefined ? rowsMax : undefined
    differ(asked, by, texts, (await askPages(parts, asked, pageOf)).map(rowText))
  }
  return ours
}

function differ(asked: Asked, how: string, ours: readonly string[], theirs: readonly string[]): void {
  if (ours.join('\n') !== theirs.join('\n')) throw new Differs(asked, how, ours, theirs)
}

/** What the oracle says, in the words of an answer. */
function expected(row: Answer, { meter }: Asked): UsageRow {
  return {
    meter: meter.slug,
    unit: meter.unit,
    window_start: showInstant(row.startMs),
    window_end: showInstant(row.endMs),
    source: row.source,
    subject: row.subject,
    group_by: row.dims,
    value: print(row.quantity),
    ...(row.isSplit && { split: true as const }),
  }
}

function rowText(row: UsageRow): string {
  const { meter, unit, window_start, window_end, source, subject, group_by: dims, value, split = false } = row
  const groups = Object.entries(dims).sort()
  return JSON.stringify([meter, unit, window_start, window_end, source, subject, groups, value, split])
}

function wireText(row: Answer, { keep }: Asked, isCsv: boolean): string {
  const dims = Object.values(row.dims).map(value => (isCsv || value !== '' ? value : null))
  const subject = keep.subject ? row.subject : isCsv ? '' : null
  return JSON.stringify([
    showInstant(row.startMs),
    showInstant(row.endMs),
    subject,
    ...dims,
    print(row.quantity),
  ])
}

// -- asking

async function get(
  parts: Parts,
  path: string,
  asked: Asked,
  { accept = '*/*', body }: { readonly accept?: string; readonly body?: unknown } = {},
): Promise<Response> {
  const { tenants } = asked
  // Whoever may see some tenants alone is a customer with a key of their own.
  const token = tenants ? `customer-${parts.accounts.size}` : 'all'
  if (tenants)
    parts.accounts.set(token, {
      id: token,
      currency: 'USD',
      timezone: 'UTC',
      priceBook: 'none',
      subjects: tenants.map(({ source, subject, fromMs, toMs }) => ({
        source,
        subject,
        ...(fromMs !== undefined && { from: showInstant(fromMs) }),
        ...(toMs !== undefined && { to: showInstant(toMs) }),
      })),
    } as Account)
  const response = await fetch(new URL(path, parts.url), {
    headers: {
      authorization: `Bearer ${token}`,
      accept,
      ...(body !== undefined && { 'content-type': 'application/json' }),
    },
    ...(body !== undefined && { method: 'POST', body: JSON.stringify(body) }),
  })
  if (!response.ok)
    throw new Error(`${response.status} ${path}: ${await response.text()}`, { cause: parts.faults.at(-1) })
  return response
}

function addressOf({
  meter,
  fromMs,
  toMs,
  window,
  zone,
  groupBy,
  where,
  subjects,
  sources,
  keep,
  top,
}: Asked): string {
  const query = new URLSearchParams({
    meter: meter.slug,
    from: showInstant(fromMs),
    to: showInstant(toMs),
    zone,
  })
  if (window !== undefined) query.set('window', window)
  const kept = [...(keep.source ? ['source'] : []), ...(keep.subject ? ['subject'] : []), ...groupBy]
  // Without it rows are told apart by source and subject; an empty one tells nothing apart.
  query.set('groupBy', kept.join(',') || ',')
  const texts = Object.entries(where).filter(([, wanted]) => typeof wanted === 'string' && wanted !== '')
  for (const [dim, wanted] of texts) query.append(`filter[${dim}]`, wanted as string)
  const rest = Object.entries(where).filter(([, wanted]) => typeof wanted !== 'string' || wanted === '')
  if (rest.length > 0) query.set('where', JSON.stringify(Object.fromEntries(rest)))
  for (const subject of subjects ?? []) query.append('subject', subject)
  for (const source of sources ?? []) query.append('source', source)
  if (top !== undefined) query.set('top', String(top))
  return `/api/v1/usage?${query}`
}

/** All rows, or page by page by the links until there is none. */
async function askPages(parts: Parts, asked: Asked, limit: number | undefined): Promise<readonly UsageRow[]> {
  const rows: UsageRow[] = []
  let path: string | undefined = `${addressOf(asked)}${limit === undefined ? '' : `&limit=${limit}`}`
  while (path !== undefined) {
    const response: Response = await get(parts, path, asked)
    const page = (await response.json()) as UsageRow[]
    if (limit !== undefined && page.length > limit)
      throw new Error(`a page of ${page.length} rows for ${limit}`)
    rows.push(...page)
    path = /<([^>]+)>; rel="next"/.exec(response.headers.get('link') ?? '')?.[1]
    if (path !== undefined && page.length !== limit)
      throw new Error('a page that is not full has another behind it')
  }
  return rows
}

async function askCsv(parts: Parts, asked: Asked): Promise<readonly string[]> {
  const response = await get(parts, addressOf(asked), asked, { accept: 'text/csv' })
  const [names = [], ...lines] = csvLines(await response.text())
  return lines.map(line => {
    const row = Object.fromEntries(names.map((name, index) => [name, line[index] ?? '']))
    const { split, ...rest } = row
    for (const dim of asked.groupBy) delete rest[dim]
    const dims = Object.fromEntries(asked.groupBy.map(dim => [dim, line[names.indexOf(dim)] ?? '']))
    return rowText({
      ...(rest as unknown as UsageRow),
      ...(split === 'true' && { split: true }),
      group_by: dims,
    })
  })
}

/** RFC 4180, read one character after the other. */
function csvLines(text: string): readonly (readonly string[])[] {
  const lines: string[][] = []
  let line: string[] = []
  let field = ''
  let isQuoted = false
  for (let at = 0; at < text.length; at += 1) {
    const one = text[at]
    if (isQuoted && one === '"' && text[at + 1] === '"') {
      field += '"'
      at += 1
    } else if (one === '"') isQuoted = !isQuoted
    else if (!isQuoted && (one === ',' || one === '\n')) {
      line.push(field)
      field = ''
      if (one === '\n') {
        lines.push(line)
        line = []
      }
    } else if (isQuoted || one !== '\r') field += one
  }
  return lines
}

async function askOpenMeter(parts: Parts, asked: Asked, by: string): Promise<readonly string[]> {
  const { meter, fromMs, toMs, window, zone, groupBy, where, subjects } = asked
  const simple = Object.entries(where).filter(([, wanted]) => typeof wanted === 'string')
  const advanced = Object.entries(where).filter(([, wanted]) => typeof wanted !== 'string')
  const plain = {
    from: showInstant(fromMs),
    to: showInstant(toMs),
    windowTimeZone: zone,
    ...(window !== undefined && { windowSize: window }),
  }
  const path = `/api/v1/meters/${meter.slug}/query`
  const isCsv = by.endsWith('csv')
  const accept = isCsv ? 'text/csv' : 'application/json'
  const query = new URLSearchParams(plain)
  for (const subject of subjects ?? []) query.append('subject', subject)
  for (const dim of groupBy) query.append('groupBy', dim)
  for (const [dim, wanted] of simple) query.append(`filterGroupBy[${dim}]`, wanted as string)
  if (advanced.length > 0)
    query.set('advancedMeterGroupByFilters', JSON.stringify(Object.fromEntries(advanced)))
  const body = {
    ...plain,
    ...(subjects && { subject: subjects }),
    groupBy,
    filterGroupBy: Object.fromEntries(simple.map(([dim, wanted]) => [dim, [wanted]])),
    advancedMeterGroupByFilters: Object.fromEntries(advanced),
  }
  const response = by.includes('post')
    ? await get(parts, path, asked, { accept, body })
    : await get(parts, `${path}?${query}`, asked, { accept })
  const text = await response.text()
  if (isCsv)
    return csvLines(text)
      .slice(1)
      .map(line => JSON.stringify(line))
  // A value is a number with all its digits, which is read as it stands there.
  const { data } = JSON.parse(text, function (
    this: unknown,
    key,
    value,
    context?: { readonly source?: string },
  ) {
    return key === 'value' && typeof value === 'number' ? context?.source : value
  } as Parameters<typeof JSON.parse>[1]) as { data: WireRow[] }
  return data.map(row => {
    if (row.value !== row.valueExact) throw new Error(`value ${row.value}, valueExact ${row.valueExact}`)
    const dims = groupBy.map(dim => row.groupBy[dim])
    return JSON.stringify([row.windowStart, row.windowEnd, row.subject, ...dims, row.value])
  })
}

interface WireRow {
  readonly value: string
  readonly valueExact: string
  readonly windowStart: string
  readonly windowEnd: string
  readonly subject: string | null
  readonly groupBy: Readonly<Record<string, string | null>>
}

async function askStore(parts: Parts, asked: Asked, asOf: Ends): Promise<readonly UsageRow[]> {
  const { meter, fromMs, toMs, window, zone, groupBy, where, subjects, sources, keep, top, tenants } = asked
  return await usage(parts.store, {
    meter,
    span: { startMs: fromMs, endMs: toMs },
    ...(window !== undefined && { step: window }),
    zone,
    groupBy,
    where: where as never,
    ...(subjects && { subjects }),
    ...(sources && { sources }),
    keep,
    ...(top !== undefined && { top }),
    ...(tenants && {
      tenants: tenants.map(({ source, subject, fromMs: from, toMs: to }) => ({
        source,
        subject,
        ...(from !== undefined && { from: showInstant(from) }),
        ...(to !== undefined && { to: showInstant(to) }),
      })),
    }),
    asOf: new Map(Array.from(asOf, ([partition, next]) => [`log/${partition}`, BigInt(next)])),
  })
}
