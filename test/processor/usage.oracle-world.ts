/**
 * Random worlds for the oracle: what is said in the log and in which batches, the meters, and what is asked after each
 * stage. All of it is plain data that fast-check makes, shrinks and replays from a seed; `messagesOf` turns what is said
 * into messages.
 */
import fc from 'fast-check'
import {
  contentHash,
  type DecisionEvent,
  type MarkData,
  partitionKey,
  sealMark,
  sealReading,
  showDigest,
  showReadat,
  type Usage,
} from '../../schemas/event.ts'
import { aggregations, type Meter } from '../../schemas/meters.ts'
import { type AmendmentEvent, sealAbout } from '../../schemas/pushed.ts'
import { dayMs, hourMs, minuteMs, showInstant } from '../../schemas/window.ts'
import type { Asked, Condition, Message, Said } from './usage.oracle.ts'

/** Where clocks change, days are missing, or months end. */
const places = [
  { zone: 'America/New_York', at: '2025-03-09T07:00:00Z' },
  { zone: 'America/New_York', at: '2025-11-02T06:00:00Z' },
  { zone: 'Europe/Berlin', at: '2025-03-30T01:00:00Z' },
  { zone: 'Europe/Berlin', at: '2025-10-26T01:00:00Z' },
  { zone: 'Australia/Lord_Howe', at: '2025-04-05T15:00:00Z' },
  { zone: 'Australia/Lord_Howe', at: '2025-10-04T15:30:00Z' },
  { zone: 'Pacific/Apia', at: '2011-12-30T10:00:00Z' },
  { zone: 'Pacific/Chatham', at: '2025-04-05T14:00:00Z' },
  { zone: 'Pacific/Chatham', at: '2025-09-27T14:00:00Z' },
  { zone: 'Asia/Kolkata', at: '2025-01-31T18:30:00Z' },
  { zone: 'Asia/Kathmandu', at: '2025-02-28T18:15:00Z' },
  { zone: 'UTC', at: '2024-02-29T00:00:00Z' },
  { zone: 'UTC', at: '2025-12-31T23:00:00Z' },
] as const
const zones = Array.from(new Set(places.map(({ zone }) => zone)))

const subjects = ['acme', 'default', 'Ünï "x"', 'b\\c,d'] as const
/** The scopes of our own sources, each with the width of its windows. */
const scopes = [
  { kind: 'rafay', thing: 'instance', source: 'meterline/rafay/one', scope: 'org/big', minutes: 60 },
  { kind: 'rafay', thing: 'instance', source: 'meterline/rafay/one', scope: 'org/small', minutes: 15 },
  { kind: 'kubernetes', thing: 'pod', source: 'meterline/kubernetes/one', scope: 'cluster', minutes: 5 },
  { kind: 'rafay', thing: 'tokens', source: 'meterline/rafay/two', scope: 'org/big', minutes: 30 },
  { kind: 'kubernetes', thing: 'pod', source: 'meterline/kubernetes/two', scope: 'cluster', minutes: 1 },
] as const
const pushers = ['urn:app', 'urn:gateway'] as const
const sources = Array.from(new Set([...scopes.map(({ source }) => source), ...pushers]))
const pushedTypes = ['call', 'io.other.used'] as const
const gpuTypes = ['H100', 'h100', 'L40', 'L4_0%', '', 'Ä'] as const
const readingTypes = Array.from(new Set(scopes.map(({ kind, thing }) => `io.meterline.${kind}.${thing}.v1`)))
const types = [...readingTypes, ...pushedTypes]

/** Mostly not there. */
const seldom = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.oneof({ weight: 4, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary })

/** Wholes, odd fractions, the largest and the smallest. */
const amount = fc.oneof(
  { weight: 6, arbitrary: fc.nat(3600).map(String) },
  { weight: 2, arbitrary: fc.constantFrom('0', '1', '0.1', '0.000000000001', '33.333333333333') },
  {
    weight: 1,
    arbitrary: fc.constantFrom('999999999999999999999999.999999999999', '123456789012345678901234'),
  },
)
/** What a measure bounded by the window of a minute may hold too. */
const smallAmount = fc.constantFrom('0', '1', '20', '59.999999999999', '60')

const label = fc.option(fc.constantFrom('H100', 'H100', ...gpuTypes), { nil: undefined })

/** Mostly the first, so that much is of one. */
const subject = fc.oneof(fc.constant(0), fc.nat(subjects.length - 1))

const usage = fc.record({
  subject,
  resource: fc.nat(2),
  instanceSeconds: fc.option(smallAmount, { nil: undefined }),
  gpuSeconds: fc.option(amount, { nil: undefined, freq: 4 }),
  tokens: fc.option(amount, { nil: undefined, freq: 3 }),
  gpuType: label,
  region: label,
  /** Thousandths of the window. */
  used: fc.option(fc.tuple(fc.nat(999), fc.nat(999)), { nil: undefined }),
})
type UsageSpec = typeof usage extends fc.Arbitrary<infer Spec> ? Spec : never

const read = fc.record({
  say: fc.constant('read' as const),
  scope: fc.nat(scopes.length - 1),
  slot: fc.nat(7),
  minute: fc.oneof(fc.constant(0), fc.nat(59)),
  /** Of a window that was read before; else of these three. */
  like: fc.option(fc.nat(), { nil: undefined, freq: 1 }),
  usages: fc.uniqueArray(usage, {
    maxLength: 4,
    selector: ({ subject, resource }) => `${subject} ${resource}`,
  }),
  how: fc.constantFrom(
    ...(['plain', 'plain', 'plain', 'plain', 'estimated', 'failed', 'half', 'repeats', 'older'] as const),
  ),
  laterMs: fc.constantFrom(1000, 20 * minuteMs, 2 * hourMs),
})

const edge = fc.oneof(
  // So that much happens at one instant.
  { weight: 5, arbitrary: fc.constant(0) },
  {
    weight: 2,
    arbitrary: fc.constantFrom(0, -1, 1, hourMs - 1, 30 * minuteMs, 45 * minuteMs, -15 * minuteMs),
  },
  { weight: 1, arbitrary: fc.nat(hourMs) },
)
/** As text or as a number of JSON: exponents, too many decimals, too large, and what is no number. */
const number = fc.oneof(
  { weight: 4, arbitrary: amount },
  {
    weight: 2,
    arbitrary: fc.constantFrom('-5', '-0.5', '7.250', '1e3', '25E-2', '1.5e-12', '-0', '12.5000000000000'),
  },
  { weight: 1, arbitrary: fc.constantFrom('1e24', '-1e24', '1e-13', '0.1234567890123', '9.99e23', '1e101') },
)
const noNumber = fc.constantFrom('', 'many', '05', '+1', ' 1', '1.', '0x10')
const pushedContent = fc.record({
  type: fc.nat(pushedTypes.length - 1),
  subject,
  slot: fc.nat(7),
  edge,
  /** How the time is written; `none` is when the log took it. */
  time: fc.constantFrom('utc', 'utc', 'utc', 'offset', 'nanos', 'none'),
  tokens: fc.option(fc.tuple(number, fc.boolean()), { nil: undefined }),
  measured: fc.option(fc.oneof(number, noNumber), { nil: undefined }),
  gpuType: label,
  region: label,
  resource: fc.option(fc.oneof(fc.constantFrom<unknown>('i-0', 7, true, null), fc.constant({})), {
    nil: undefined,
  }),
})
type PushedSpec = typeof pushedContent extends fc.Arbitrary<infer Spec> ? Spec : never

const name = { pusher: fc.nat(pushers.length - 1), id: fc.nat(9) }
const push = fc.record({ say: fc.constant('push' as const), ...name, content: pushedContent })
const amend = fc.record({
  say: fc.constant('amend' as const),
  ...name,
  content: fc.option(pushedContent, { nil: undefined }),
})
const again = fc.record({
  say: fc.constant('again' as const),
  which: fc.nat(),
  count: fc.integer({ min: 1, max: 6 }),
})
const confirm = fc.record({ say: fc.constant('confirm' as const), which: fc.nat() })
const said = fc.oneof(
  { weight: 8, arbitrary: read },
  { weight: 6, arbitrary: push },
  { weight: 1, arbitrary: amend },
  { weight: 1, arbitrary: again },
  { weight: 1, arbitrary: confirm },
)

// -- meters

/** What a meter may look at, by the name of its dim. */
const dims = {
  gpu: 'gpu_type',
  region: '$.labels.region',
  resource: '$.resource.id',
  who: 'subject',
  where: 'scope',
} as const
type Dim = keyof typeof dims
const dimNames = Object.keys(dims) as Dim[]

const text = fc.constantFrom('H100', 'H100', ...gpuTypes, 'i-0', 'i-1', 'acme', 'org/big')
const pattern = fc.constantFrom('%', 'H%', '%1_0', '_40', 'L4\\_0\\%', '', '%0%', 'h1__', 'Ä', '_')
const simple = fc.oneof(
  fc.record({ $eq: text }),
  fc.record({ $ne: text }),
  fc.record({ $in: fc.array(text, { minLength: 1, maxLength: 3 }) }),
  fc.record({ $nin: fc.array(text, { minLength: 1, maxLength: 3 }) }),
  fc.record({ $like: pattern }),
  fc.record({ $nlike: pattern }),
  fc.record({ $ilike: pattern }),
  fc.record({ $nilike: pattern }),
  fc.record({ $gt: text }),
  fc.record({ $gte: text }),
  fc.record({ $lt: text }),
  fc.record({ $lte: text }),
)
const several = fc.array(simple, { minLength: 1, maxLength: 3 })
export const condition = fc.oneof(
  { weight: 3, arbitrary: text },
  { weight: 5, arbitrary: simple },
  { weight: 1, arbitrary: fc.record({ $and: several }) },
  { weight: 1, arbitrary: fc.record({ $or: several }) },
  { weight: 1, arbitrary: fc.record({ $gte: text, $lt: text }) },
)

const meter = fc.record({
  aggregation: fc.constantFrom(
    ...(['SUM', 'SUM', 'SUM', 'SUM', 'LATEST', 'LATEST', ...aggregations] as const),
  ),
  percentile: fc.constantFrom(undefined, undefined, '0', '50', '66.666667', '100'),
  // What counts readings and pushed events both costs the engine the most.
  types: fc.oneof(
    { weight: 3, arbitrary: fc.subarray(readingTypes, { minLength: 1 }) },
    { weight: 2, arbitrary: fc.subarray([...pushedTypes], { minLength: 1 }) },
    { weight: 1, arbitrary: fc.subarray(types, { minLength: 2 }) },
  ),
  value: fc.constantFrom('gpu_seconds', 'tokens', 'tokens', '$.measures.tokens', 'instance_seconds'),
  /** What UNIQUE_COUNT counts instead, sometimes. */
  unique: fc.constantFrom(undefined, 'gpu_type', '$.resource.id', 'subject'),
  per: fc.constantFrom(undefined, undefined, '3600', '7'),
  groupBy: fc.uniqueArray(fc.constantFrom(...dimNames), { maxLength: 3 }),
  filter: seldom(fc.tuple(fc.constantFrom(...dimNames, 'gpu_type'), condition)),
  /** Made by API, with the time from which events count, where it has one; else of the file. */
  api: seldom(fc.record({ eventFrom: fc.option(fc.tuple(fc.nat(7), edge), { nil: undefined, freq: 1 }) })),
})
export type MeterSpec = typeof meter extends fc.Arbitrary<infer Spec> ? Spec : never

export function meterOf(spec: MeterSpec, slug: string): Meter {
  const { aggregation, percentile, per, unique, filter } = spec
  // What is pushed has no other measure.
  const measure = spec.types.some(type => readingTypes.includes(type)) ? spec.value : 'tokens'
  const value = aggregation === 'UNIQUE_COUNT' && unique !== undefined ? unique : measure
  const groupBy = Object.fromEntries(spec.groupBy.map(dim => [dim, dims[dim]]))
  // A filter is over a dim of the meter, or over a path.
  const filtered = filter && (filter[0] in groupBy ? filter[0] : (dims[filter[0] as Dim] ?? filter[0]))
  return {
    slug,
    eventTypes: spec.types,
    aggregation,
    ...(aggregation === 'PERCENTILE' && percentile !== undefined && { percentile }),
    ...(aggregation !== 'COUNT' && { value }),
    ...(per !== undefined && { per }),
    groupBy,
    ...(filter && filtered !== undefined && { filter: { [filtered]: filter[1] as never } }),
    unit: 'x',
    disjoint: 'a test',
  }
}

// -- questions

const span = fc.record({
  slot: fc.nat(7),
  fromEdge: edge,
  odd: fc.constantFrom('hour', 'hour', 'hour', 'hour', 'minute', 'second'),
  hours: fc.constantFrom(1, 2, 5, 26, 72, 1000),
})
const tenant = fc.record({
  source: fc.constantFrom(...sources),
  subject: fc.constantFrom(...subjects),
  from: seldom(fc.tuple(fc.nat(7), edge)),
  to: seldom(fc.tuple(fc.nat(7), edge)),
})
/** How a question is asked and answered: Meterline's own way, and OpenMeter's by address and by body. */
const ways = [
  ...(['json', 'json', 'csv', 'pages'] as const),
  ...(['openmeter', 'openmeter csv', 'openmeter post', 'openmeter post csv'] as const),
]
const question = fc.record({
  meter: fc.nat(),
  span,
  window: fc.oneof(
    { weight: 1, arbitrary: fc.constant(undefined) },
    {
      weight: 4,
      arbitrary: fc.constantFrom('MINUTE', 'HOUR', 'HOUR', 'HOUR', 'DAY', 'DAY', 'DAY', 'WEEK', 'MONTH'),
    },
    {
      weight: 2,
      arbitrary: fc.constantFrom('PT15M', 'PT7M', 'PT2H', 'PT5H', 'P1D', 'P2D', 'P1W', 'P1M', 'P1Y'),
    },
  ),
  zone: fc.option(fc.constantFrom(...zones, 'Asia/Kolkata', 'Asia/Kathmandu'), { nil: undefined }),
  groupBy: fc.uniqueArray(fc.nat(4), { maxLength: 3 }),
  where: fc.oneof(
    { weight: 5, arbitrary: fc.constant([]) },
    { weight: 2, arbitrary: fc.array(fc.tuple(fc.nat(4), condition), { minLength: 1, maxLength: 2 }) },
  ),
  keep: fc.constantFrom(
    ...([
      [true, true],
      [true, true],
      [true, false],
      [false, true],
      [false, false],
    ] as const),
  ),
  subjects: seldom(fc.subarray([...subjects], { minLength: 2 })),
  sources: seldom(fc.subarray(sources, { minLength: 3 })),
  tenants: seldom(
    fc.uniqueArray(tenant, {
      maxLength: 24,
      size: 'max',
      selector: ({ source, subject }) => `${source} ${subject}`,
    }),
  ),
  top: seldom(fc.integer({ min: 1, max: 4 })),
  by: fc.constantFrom(...ways),
  limit: fc.integer({ min: 1, max: 5 }),
  /** After which put the ledger stood as it is asked for. */
  asOf: fc.oneof({ weight: 9, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: fc.nat() }),
})
export type QuestionSpec = typeof question extends fc.Arbitrary<infer Spec> ? Spec : never

const stage = fc.record({
  said: fc.array(said, { minLength: 5, maxLength: 40, size: 'max' }),
  /** After which messages a put ends, and whether it dies at one of its statements. */
  puts: fc.array(
    fc.record({ messages: fc.integer({ min: 1, max: 60 }), dies: fc.option(fc.nat(40), { nil: undefined }) }),
    {
      minLength: 1,
      maxLength: 3,
    },
  ),
  /** A meter that means something else from then on. */
  change: seldom(fc.tuple(fc.nat(), meter)),
  /** Whether the meters that are new are known before these puts or behind them, when they have a history. */
  isKnownBefore: fc.boolean(),
  /** What is recomputed then: how many cells, and rows of a history, at most. */
  recomputes: fc.array(
    fc.record({
      cellsMax: fc.constantFrom(1, 3, 1000),
      rowsMax: fc.constantFrom(1, 10, 1000),
      /** All at once; or one statement whenever a question is asked, and then to its end, or never. */
      pace: fc.constantFrom(...(['now', 'now', 'meanwhile', 'meanwhile', 'dies'] as const)),
    }),
    { maxLength: 4 },
  ),
  /** Whether all is fresh then, and answered from rollups where no edge cuts an hour. */
  isFreshThen: fc.constantFrom(true, true, false),
})
export type StageSpec = typeof stage extends fc.Arbitrary<infer Spec> ? Spec : never

export interface Sizes {
  /** At most. */
  readonly stages: number
  /** So many are asked after each stage alone, */
  readonly questions: number
  /** and so many after each put and each stage. */
  readonly again: number
  /** At most so many hours are spoken of. */
  readonly slots: number
  /** Whether now and then more cells are stale than a question names one by one. */
  readonly crowds: boolean
}

export function worlds({ stages, questions, again, slots, crowds }: Sizes) {
  const many = (count: number) =>
    fc.array(question, { minLength: count, maxLength: count, size: 'max' as const })
  return fc.record({
    place: fc.nat(places.length - 1),
    isJudged: fc.boolean(),
    /** Hours from the place. */
    slots: fc.array(
      fc.oneof(
        { weight: 3, arbitrary: fc.integer({ min: -3, max: 3 }) },
        { weight: 1, arbitrary: fc.integer({ min: -40, max: 40 }) },
      ),
      { minLength: 1, maxLength: slots },
    ),
    /** More subjects at once than a question names stale cells, said in one of the stages. */
    crowd: fc.oneof(
      { weight: 6, arbitrary: fc.constant(undefined) },
      {
        weight: crowds ? 1 : 0,
        arbitrary: fc.record({
          stage: fc.nat(stages - 1),
          slot: fc.nat(7),
          count: fc.integer({ min: 990, max: 1100 }),
        }),
      },
    ),
    again: many(again),
    meters: fc.array(meter, { minLength: 2, maxLength: 5 }),
    stages: fc.array(fc.tuple(stage, many(questions)), {
      minLength: Math.min(2, stages),
      maxLength: stages,
      size: 'max',
    }),
  })
}
type ReadSpec = typeof read extends fc.Arbitrary<infer Spec> ? Spec : never
export type WorldSpec = ReturnType<typeof worlds> extends fc.Arbitrary<infer Spec> ? Spec : never

/** Turns what is said of a world into messages, one after the other. */
export class Speaker {
  readonly spec: WorldSpec
  readonly messages: Message[] = []
  readonly #placeMs: number
  readonly #next = [0, 0]
  readonly #windows: Pick<ReadSpec, 'scope' | 'slot' | 'minute'>[] = []
  readonly #reads: {
    readonly source: string
    readonly scope: string
    readonly start: string
    readonly readat: string
  }[] = []
  /** What a half read did not say. */
  readonly #rest: { readonly at: number; readonly events: unknown[] }[] = []
  #readatMs: number

  constructor(spec: WorldSpec) {
    this.spec = spec
    this.#placeMs = Date.parse(places[spec.place]?.at ?? '')
    this.#readatMs = this.#placeMs + 3 * dayMs
  }

  get zone(): string {
    return places[this.spec.place]?.zone ?? 'UTC'
  }

  slotMs(slot: number): number {
    const { slots } = this.spec
    return this.#placeMs + (slots[slot % slots.length] ?? 0) * hourMs
  }

  /** What is asked of a meter, in times of this world and dims of the meter. */
  question(spec: QuestionSpec, meter: Meter): Asked {
    const { slot, fromEdge, odd, hours } = spec.span
    const { window, zone = this.zone, subjects: who, sources: which, tenants, top, keep } = spec
    const unitMs = { hour: hourMs, minute: minuteMs, second: 1000 }[odd as 'hour']
    const down = (ms: number) => Math.floor(ms / unitMs) * unitMs
    const fromMs = down(this.slotMs(slot) + fromEdge - (hours > 24 ? 24 * hourMs : 0))
    // Days in minutes are a long answer.
    const most = window === 'MINUTE' || window === 'PT7M' ? 5 : hours
    const toMs = down(fromMs + Math.min(hours, most) * hourMs + (odd === 'hour' ? 0 : fromEdge / 2))
    const names = Object.keys(meter.groupBy).sort()
    const pick = (index: number) => names[index % names.length] ?? ''
    const at = ([slot, plusMs]: readonly [number, number]) => this.slotMs(slot) + plusMs
    return {
      meter,
      fromMs,
      toMs: Math.max(toMs, fromMs + unitMs),
      window,
      zone,
      groupBy: names.length === 0 ? [] : Array.from(new Set(spec.groupBy.map(pick))),
      where:
        names.length === 0
          ? {}
          : Object.fromEntries(
              (spec.where as [number, Condition][]).map(([dim, wanted]) => [pick(dim), wanted]),
            ),
      subjects: who,
      sources: which,
      keep: { source: keep[0], subject: keep[1] },
      top,
      tenants: tenants?.map(({ source, subject, from, to }) => ({
        source,
        subject,
        fromMs: from && at(from),
        toMs: to && at(to),
      })),
    }
  }

  say(one: WorldSpec['stages'][number][0]['said'][number]): void {
    if (one.say === 'read') this.#read(one)
    else if (one.say === 'push') this.#push(one)
    else if (one.say === 'amend') this.#amend(one)
    else if (one.say === 'again') this.#again(one)
    else this.#confirm(one)
  }

  /** Others than those that a question can name one by one, each with one event, in two hours. */
  crowd({ slot, count }: { readonly slot: number; readonly count: number }): void {
    const source = pushers[0]
    for (let one = 0; one < count; one += 1) {
      const id = `crowd-${this.messages.length}`
      const time = showInstant(this.slotMs(slot + (one % 2)))
      const data = { tokens: String(one % 7), gpu_type: one % 3 === 0 ? 'H100' : 'L40' }
      const event = { specversion: '1.0', source, id, type: 'call', subject: `crowd-${one}`, time, data }
      this.#add(`${source} ${id}`, event)
    }
  }

  #add(key: string, event: unknown): void {
    const partition = Buffer.from(key).reduce((sum, byte) => sum + byte, 0) % 2
    const offset = this.#next[partition] ?? 0
    this.#next[partition] = offset + 1
    // A second of the log apart, so that what says no time has one of its own.
    const appendedMs = this.#placeMs + 36 * hourMs + this.messages.length * 1000
    this.messages.push({ partition, offset, appendedMs, event: event as Said })
  }

  #read({ usages, how, laterMs, like, ...its }: ReadSpec): void {
    const said = like === undefined ? its : (this.#windows[like % Math.max(1, this.#windows.length)] ?? its)
    const { scope: at, slot, minute } = said
    this.#windows.push(said)
    const { kind, thing, source, scope, minutes } = scopes[at] ?? scopes[0]
    const startMs = this.slotMs(slot) + Math.floor(minute / minutes) * minutes * minuteMs
    const aligned = Math.floor(startMs / (minutes * minuteMs)) * minutes * minuteMs
    const window = { startMs: aligned, endMs: aligned + minutes * minuteMs }
    this.#readatMs += laterMs
    // A clock that was put back; it says no readat twice.
    const readatMs = how === 'older' ? this.#readatMs - 30 * hourMs + this.messages.length : this.#readatMs
    const identity = { source, scope, window, readatMs }
    const key = partitionKey(source, scope)
    const start = showInstant(window.startMs)
    const earlier = this.#reads.filter(
      one => one.source === source && one.scope === scope && one.start === start,
    )
    const common = { outcome: 'complete', settled: false, estimated: how === 'estimated' } as const
    this.#reads.push({ source, scope, start, readat: showReadat(readatMs) })
    if (how === 'failed') {
      const fault = { code: 'SOURCE_BUSY', message: 'busy' }
      this.#add(
        key,
        sealMark({ ...common, outcome: 'failed', events: 0, digest: showDigest(0n), fault }, identity),
      )
      return
    }
    const repeated = how === 'repeats' ? earlier.at(-1) : undefined
    if (repeated) {
      const of = this.messages.findLast(
        ({ event }) =>
          event.type === 'io.meterline.read.v1' &&
          event.source === source &&
          event.scope === scope &&
          event.readat === repeated.readat &&
          event.data.window.start === start,
      )
      const {
        events = 0,
        digest = '',
        outcome,
        repeats,
        estimated = false,
      } = (of?.event.data ?? {}) as Partial<MarkData>
      if (outcome === 'complete') {
        this.#add(
          key,
          sealMark({ ...common, estimated, events, digest, repeats: repeats ?? repeated.readat }, identity),
        )
        return
      }
    }
    const readings = usages.map(one => sealReading(usageOf(one, thing, window), kind, identity))
    const digest = showDigest(readings.reduce((sum, reading) => sum + contentHash(reading), 0n))
    const mark = sealMark({ ...common, events: readings.length, digest }, identity)
    const sent = how === 'half' ? readings.slice(1) : readings
    for (const reading of sent) this.#add(key, reading)
    this.#add(key, mark)
    if (sent.length < readings.length)
      this.#rest.push({ at: this.messages.length, events: [...readings, mark] })
  }

  #push({ pusher, id, content }: typeof push extends fc.Arbitrary<infer Spec> ? Spec : never): void {
    const source = pushers[pusher] ?? pushers[0]
    const event = { specversion: '1.0', source, id: `e${id}`, ...this.#contentOf(content) }
    this.#add(`${source} e${id}`, event)
  }

  #amend({ pusher, id, content }: typeof amend extends fc.Arbitrary<infer Spec> ? Spec : never): void {
    const source = pushers[pusher] ?? pushers[0]
    const key = `${source} e${id}`
    const said = content && this.#contentOf({ ...content, time: 'utc' })
    const event = sealAbout<AmendmentEvent>({
      id: `a${this.messages.length}`,
      source: 'meterline/amend/person',
      type: 'io.meterline.amendment.v1',
      partitionkey: key,
      timeMs: this.#placeMs,
      data: {
        source,
        id: `e${id}`,
        action: said ? 'amend' : 'void',
        ...(said && { event: said as never }),
        author: 'Ann',
        reason: 'a test',
      },
    })
    this.#add(key, JSON.parse(event))
  }

  /** The same messages once more, at new places; or all of a read that was half. */
  #again({ which, count }: typeof again extends fc.Arbitrary<infer Spec> ? Spec : never): void {
    const half = this.#rest[which % (this.#rest.length + 1)]
    if (half)
      for (const event of half.events) this.#add((event as { partitionkey: string }).partitionkey, event)
    else {
      const from = which % (this.messages.length + 1)
      for (const { event } of this.messages.slice(from, from + count))
        this.#add(event.partitionkey ?? `${event.source} ${event.id}`, event)
    }
  }

  #confirm({ which }: typeof confirm extends fc.Arbitrary<infer Spec> ? Spec : never): void {
    const of = this.#reads[which % Math.max(1, this.#reads.length)]
    if (!of) return
    const { source, scope, start, readat } = of
    const decision: DecisionEvent = {
      specversion: '1.0',
      id: `d${this.messages.length}`,
      source,
      type: 'io.meterline.decision.v1',
      time: start,
      scope,
      partitionkey: partitionKey(source, scope),
      datacontenttype: 'application/json',
      data: { action: 'confirm', window: { start, end: start }, readat, author: 'Ann', reason: 'a test' },
    }
    this.#add(decision.partitionkey, decision)
  }

  #contentOf({ type, subject, slot, edge: plusMs, time, ...says }: PushedSpec): Record<string, unknown> {
    const atMs = this.slotMs(slot) + plusMs
    const text = new Date(atMs).toISOString()
    const written = {
      utc: text,
      nanos: text.replace('Z', '999999Z'),
      offset: `${new Date(atMs + 5.5 * hourMs).toISOString().slice(0, -1)}+05:30`,
      none: undefined,
    }[time as 'utc']
    const { tokens, measured, gpuType, region, resource } = says
    const labels = { ...(region !== undefined && { region }) }
    return {
      type: pushedTypes[type],
      subject: subjects[subject],
      ...(written !== undefined && { time: written }),
      data: {
        ...(tokens !== undefined && { tokens: tokens[1] ? rawJSON(tokens[0]) : tokens[0] }),
        ...(measured !== undefined && { measures: { tokens: measured } }),
        ...(gpuType !== undefined && { gpu_type: gpuType }),
        labels,
        ...(resource !== undefined && { resource: { id: resource } }),
      },
    }
  }
}

// In Node 26, and not yet in TypeScript's library.
const { rawJSON } = JSON as unknown as { readonly rawJSON: (text: string) => { readonly rawJSON: string } }

function usageOf(
  spec: UsageSpec,
  thing: string,
  window: { readonly startMs: number; readonly endMs: number },
): Usage {
  const { instanceSeconds, gpuSeconds, tokens, gpuType, region, used } = spec
  const widthMs = window.endMs - window.startMs
  const [from, to] = [Math.min(...(used ?? [0])), Math.max(...(used ?? [0])) + 1]
  const at = (thousandth: number) => window.startMs + Math.floor((thousandth * widthMs) / 1000)
  return {
    thing,
    subject: subjects[spec.subject] ?? 'acme',
    resource: { kind: thing, id: `i-${spec.resource}` },
    measures: {
      ...(instanceSeconds !== undefined && { instance_seconds: instanceSeconds }),
      ...(gpuSeconds !== undefined && { gpu_seconds: gpuSeconds }),
      ...(tokens !== undefined && { tokens }),
      // A reading says at least one.
      ...(instanceSeconds === undefined &&
        gpuSeconds === undefined &&
        tokens === undefined && { requests: '1' }),
    },
    labels: {
      ...(gpuType !== undefined && { gpu_type: gpuType }),
      ...(region !== undefined && { region }),
    },
    ...(used !== undefined && { interval: { startMs: at(from), endMs: at(to) } }),
  }
}
