/**
 * What usage is, worked out as slowly and plainly as can be from every message that was ever put: the answer that the
 * engine's is held against. Written from design.md and the issue, in arrays and loops; it shares with the engine only the
 * meaning of a message's hash, so that it can tell a whole read from a half one.
 */
import Fraction from 'fraction.js'
import { contentHash, type MarkEvent, markType, type ReadingEvent } from '../../schemas/event.ts'
import type { Meter } from '../../schemas/meters.ts'

/** One message of the log, at its place there. */
export interface Message {
  readonly partition: number
  readonly offset: number
  readonly appendedMs: number
  readonly event: Said
}

/** Whatever travels: which of it is there, its type says. */
export interface Said {
  readonly source: string
  readonly id: string
  readonly type: string
  readonly subject: string
  readonly scope: string
  readonly readat: string
  readonly time?: string
  readonly partitionkey?: string
  readonly data: SaidData
}

export interface SaidData {
  readonly window: { readonly start: string; readonly end: string }
  readonly interval?: { readonly start: string; readonly end: string }
  readonly measures: Readonly<Record<string, string>>
  readonly labels: Readonly<Record<string, string>>
  /** Of a decision. */
  readonly readat?: string
  /** Of an amendment: which event, and what it says instead. */
  readonly source?: string
  readonly id?: string
  readonly action?: string
  readonly event?: Said
  readonly [member: string]: unknown
}

/** One event that counts. */
export interface Counted {
  readonly isReading: boolean
  readonly source: string
  readonly subject: string
  readonly type: string
  readonly scope: string
  /** Where it stands: the start of a reading's window, the time of a pushed event. */
  readonly atMs: number
  /** The time really used: equal for an instant. */
  readonly fromMs: number
  readonly toMs: number
  readonly partition: number
  readonly offset: number
  /** `data` of the event as it was written. */
  readonly data: SaidData
}

export interface Rule {
  readonly percent: number
  readonly confirmAfterMs: number
}

/** How far the log was: of each partition the offset behind the last message. */
export type Ends = ReadonlyMap<number, number>

/** The events that count after these messages, or as of an earlier place in the log. */
export function counted(
  messages: readonly Message[],
  { rule, asOf }: { readonly rule: Rule | null; readonly asOf?: Ends | undefined },
): readonly Counted[] {
  const seen = messages
    .filter(({ partition, offset }) => asOf === undefined || offset < (asOf.get(partition) ?? 0))
    .sort((a, b) => a.partition - b.partition || a.offset - b.offset)
  return [...readings(seen, rule), ...pushed(seen)]
}

// -- reads: the newest complete one of a scope and window counts, and nothing else of that window

interface Read {
  readonly readat: string
  /** The read whose readings these are. */
  readonly content: string
  readonly mark: MarkEvent
  readonly events: readonly Message[]
  readonly isHeld: boolean
  isSuspect: boolean
}

function readings(messages: readonly Message[], rule: Rule | null): Counted[] {
  const windows = new Map<string, Message[]>()
  for (const message of messages) {
    const { event } = message
    if (!event.source.startsWith('meterline/') || event.type === 'io.meterline.amendment.v1') continue
    const start = event.data.window.start
    const key = JSON.stringify([event.source, event.scope, start])
    windows.set(key, [...(windows.get(key) ?? []), message])
  }
  return Array.from(windows.values()).flatMap(ofWindow => {
    const read = currentRead(ofWindow, rule)
    return (read?.events ?? []).map(({ event, partition, offset }) => {
      const { window, interval } = event.data
      return {
        isReading: true,
        source: event.source,
        subject: event.subject,
        type: event.type,
        scope: event.scope,
        atMs: Date.parse(window.start),
        fromMs: Date.parse(interval?.start ?? window.start),
        toMs: Date.parse(interval?.end ?? window.end),
        partition,
        offset,
        data: event.data,
      }
    })
  })
}

function currentRead(messages: readonly Message[], rule: Rule | null): Read | undefined {
  const events = new Map<string, Message>()
  let reads: Read[] = []
  for (const message of messages) {
    const { event } = message
    if (event.type === 'io.meterline.decision.v1') {
      for (const read of reads) if (read.readat === event.data.readat) read.isSuspect = false
    } else if (event.type !== markType) {
      // The first message of an id counts: the same again is a duplicate, anything else a conflict.
      if (!events.has(event.id)) events.set(event.id, message)
    } else {
      const mark = event as unknown as MarkEvent
      const same = reads.find(({ readat }) => readat === mark.readat)
      // Of two marks of one read the first counts, but for one that comes again with what was missing.
      if (same && (same.isHeld || JSON.stringify(same.mark.data) !== JSON.stringify(mark.data))) continue
      const content = mark.data.repeats ?? mark.readat
      const there = Array.from(events.values()).filter(one => one.event.readat === content)
      const digest = there.reduce(
        (sum, one) => (sum + contentHash(one.event as unknown as ReadingEvent)) % 2n ** 64n,
        0n,
      )
      const isHeld =
        mark.data.outcome === 'complete' &&
        there.length === mark.data.events &&
        digest === BigInt(`0x${mark.data.digest}`)
      const others = reads.filter(read => read !== same)
      const read = { readat: mark.readat, content, mark, events: there, isHeld, isSuspect: false }
      read.isSuspect = rule !== null && isHeld && waits(read, others, rule)
      reads = [...others, read]
    }
  }
  return newest(reads)
}

/** One with estimates ranks below one without, whatever their readat. */
function newest(reads: readonly Read[]): Read | undefined {
  return reads
    .filter(read => read.isHeld && !read.isSuspect)
    .sort((a, b) => {
      const rank = Number(a.mark.data.estimated) - Number(b.mark.data.estimated)
      return rank || (a.readat < b.readat ? 1 : -1)
    })[0]
}

/** It takes more away than is likely, and no earlier one agrees with it. */
function waits(read: Read, others: readonly Read[], rule: Rule): boolean {
  const peers = others.filter(other => other.mark.data.estimated === read.mark.data.estimated)
  const counts = newest(peers)
  if (!counts || counts.readat >= read.readat || counts.content === read.content) return false
  if (!takes(counts, read, rule)) return false
  return !peers.some(
    other =>
      other.isSuspect &&
      other.readat > counts.readat &&
      Date.parse(other.readat) + rule.confirmAfterMs <= Date.parse(read.readat) &&
      !takes(other, read, rule),
  )
}

function takes(before: Read, after: Read, { percent }: Rule): boolean {
  const total = (read: Read, name: string) =>
    sum(read.events.map(({ event }) => new Fraction(event.data.measures[name] ?? 0)))
  const names = new Set(before.events.flatMap(({ event }) => Object.keys(event.data.measures)))
  return Array.from(names).some(name => {
    const [was, is] = [total(before, name), total(after, name)]
    return was.compare(0) > 0 && (is.equals(0) || was.sub(is).mul(100).compare(was.mul(percent)) > 0)
  })
}

// -- pushed events: the first of an identity counts, as the latest amendment says

function pushed(messages: readonly Message[]): Counted[] {
  const firsts = new Map<string, Message>()
  const amendments = new Map<string, Message>()
  for (const message of messages) {
    const { source, id, type } = message.event
    const key = JSON.stringify([source, id])
    if (type === 'io.meterline.amendment.v1') {
      if (!amendments.has(key)) amendments.set(key, message)
    } else if (!source.startsWith('meterline/') && !firsts.has(key)) firsts.set(key, message)
  }
  const all: Counted[] = []
  for (const { event, partition, offset, appendedMs } of firsts.values()) {
    let says: Said | undefined = event
    let saidMs = appendedMs
    for (const { event: amendment, appendedMs: amendedMs } of amendments.values())
      if (amendment.data.source === event.source && amendment.data.id === event.id) {
        says = amendment.data.action === 'void' ? undefined : amendment.data.event
        saidMs = amendedMs
      }
    if (says === undefined) continue
    const atMs = says.time === undefined ? saidMs : Date.parse(says.time)
    const { source } = event
    const { subject, type, data } = says
    const instant = { atMs, fromMs: atMs, toMs: atMs }
    all.push({ isReading: false, source, subject, type, scope: '', ...instant, partition, offset, data })
  }
  return all
}

// -- questions

export type Condition =
  | string
  | {
      readonly $eq?: string
      readonly $ne?: string
      readonly $in?: readonly string[]
      readonly $nin?: readonly string[]
      readonly $like?: string
      readonly $nlike?: string
      readonly $ilike?: string
      readonly $nilike?: string
      readonly $gt?: string
      readonly $gte?: string
      readonly $lt?: string
      readonly $lte?: string
      readonly $and?: readonly Condition[]
      readonly $or?: readonly Condition[]
    }

export interface Asked {
  readonly meter: Meter
  readonly fromMs: number
  readonly toMs: number
  /** A step of the calendar or an ISO 8601 duration; without it all is one window. */
  readonly window?: string | undefined
  readonly zone: string
  readonly groupBy: readonly string[]
  readonly where: Readonly<Record<string, Condition>>
  readonly subjects?: readonly string[] | undefined
  readonly sources?: readonly string[] | undefined
  /** Which of the two tell rows apart. */
  readonly keep: { readonly source: boolean; readonly subject: boolean }
  /** So many rows of each window, those of the largest values first; of equal ones the first by key. */
  readonly top?: number | undefined
  /** What the caller may see, whatever is asked. */
  readonly tenants?:
    | readonly {
        readonly source: string
        readonly subject: string
        readonly fromMs?: number | undefined
        readonly toMs?: number | undefined
      }[]
    | undefined
}

export interface Answer {
  readonly startMs: number
  readonly endMs: number
  readonly source: string
  readonly subject: string
  readonly dims: Readonly<Record<string, string>>
  readonly quantity: Fraction
  readonly isSplit: boolean
}

/** The rows of an answer by window, source, subject and dims; what has no event has no row. */
export function answer(events: readonly Counted[], asked: Asked): readonly Answer[] {
  const { meter } = asked
  const rows: Answer[] = []
  const chosen = events
    .filter(event => isAsked(event, asked))
    .flatMap(event => {
      const value = amountOf(event, meter)
      const dims = asked.groupBy.map(dim => dimOf(event, meter, dim))
      const kept = [asked.keep.source ? event.source : '', asked.keep.subject ? event.subject : '', dims]
      return value === undefined ? [] : [{ event, value, key: JSON.stringify(kept) }]
    })
  for (const window of windowsOf(asked)) {
    const groups = new Map<string, Share[]>()
    for (const { event, value, key } of chosen) {
      if (Math.min(event.atMs, event.fromMs) >= window.endMs) continue
      if (Math.max(event.atMs, event.toMs) < window.startMs) continue
      for (const span of allowed(event, window, asked)) {
        const share = shareOf(event, value, span, meter)
        if (share) groups.set(key, [...(groups.get(key) ?? []), share])
      }
    }
    const found: Answer[] = []
    for (const key of Array.from(groups.keys()).sort(byParts)) {
      const [source, subject, values] = JSON.parse(key)
      const shares = groups.get(key) ?? []
      found.push({
        ...window,
        source,
        subject,
        dims: Object.fromEntries(asked.groupBy.map((dim, index) => [dim, values[index]])),
        quantity: aggregate(meter, shares).div(meter.per ?? '1'),
        isSplit: shares.some(({ isPart }) => isPart),
      })
    }
    if (asked.top !== undefined) found.sort((a, b) => b.quantity.compare(a.quantity))
    rows.push(...found.slice(0, asked.top))
  }
  return rows
}

/** As ClickHouse orders: bytes of UTF-8, parts one after the other. */
function byParts(a: string, b: string): number {
  const [x, y] = [JSON.parse(a).flat(), JSON.parse(b).flat()] as [string[], string[]]
  for (const [index, text] of x.entries()) {
    const order = Buffer.compare(Buffer.from(text), Buffer.from(y[index] ?? ''))
    if (order !== 0) return order
  }
  return 0
}

function isAsked(event: Counted, { meter, where, subjects, sources }: Asked): boolean {
  return (
    meter.eventTypes.includes(event.type) &&
    Object.entries(meter.filter ?? {}).every(([dim, wanted]) => holds(dimOf(event, meter, dim), wanted)) &&
    Object.entries(where).every(([dim, wanted]) => holds(dimOf(event, meter, dim), wanted)) &&
    (subjects === undefined || subjects.includes(event.subject)) &&
    (sources === undefined || sources.includes(event.source))
  )
}

interface Span {
  readonly startMs: number
  readonly endMs: number
}

/** The parts of the window in which the caller may see this event. */
function allowed(event: Counted, window: Span, { tenants }: Asked): readonly Span[] {
  if (tenants === undefined) return [window]
  return tenants
    .filter(({ source, subject }) => source === event.source && subject === event.subject)
    .map(({ fromMs, toMs }) => ({
      startMs: Math.max(window.startMs, fromMs ?? window.startMs),
      endMs: Math.min(window.endMs, toMs ?? window.endMs),
    }))
    .filter(({ startMs, endMs }) => startMs < endMs)
}

interface Share {
  readonly event: Counted
  readonly value: Fraction
  readonly text: string
  readonly isPart: boolean
}

/** What of the event's value falls into the span: all of an instant or of what begins there, of a sum its part. */
function shareOf(event: Counted, text: string, span: Span, meter: Meter): Share | undefined {
  const value = meter.aggregation === 'UNIQUE_COUNT' ? new Fraction(0) : new Fraction(text)
  const isThere = (ms: number) => span.startMs <= ms && ms < span.endMs
  if (meter.aggregation !== 'SUM' || event.fromMs === event.toMs)
    return isThere(event.atMs) ? { event, value, text, isPart: false } : undefined
  const overlapMs = Math.min(span.endMs, event.toMs) - Math.max(span.startMs, event.fromMs)
  if (overlapMs <= 0) return undefined
  const lengthMs = event.toMs - event.fromMs
  return { event, value: value.mul(overlapMs).div(lengthMs), text, isPart: overlapMs < lengthMs }
}

function aggregate(meter: Meter, shares: readonly Share[]): Fraction {
  const values = shares.map(({ value }) => value)
  const sorted = [...values].sort((a, b) => a.compare(b))
  switch (meter.aggregation) {
    case 'SUM':
      return sum(values)
    case 'COUNT':
      return new Fraction(shares.length)
    case 'UNIQUE_COUNT':
      return new Fraction(new Set(shares.map(({ text }) => text)).size)
    case 'AVG':
      return sum(values).div(values.length)
    case 'MIN':
      return sorted[0] as Fraction
    case 'MAX':
      return sorted.at(-1) as Fraction
    case 'PERCENTILE': {
      const percentile = new Fraction((meter as { percentile?: string }).percentile ?? '95')
      const enough = (value: Fraction) =>
        new Fraction(values.filter(other => other.compare(value) <= 0).length).div(values.length)
      return sorted.find(value => enough(value).mul(100).compare(percentile) >= 0) as Fraction
    }
    case 'LATEST': {
      const isLater = (a: Counted, b: Counted) =>
        a.atMs - b.atMs || a.partition - b.partition || a.offset - b.offset
      return shares.reduce((last, share) => (isLater(share.event, last.event) > 0 ? share : last)).value
    }
  }
}

function sum(values: readonly Fraction[]): Fraction {
  return values.reduce((total, value) => total.add(value), new Fraction(0))
}

/** Is the text what the condition says? A condition with several parts wants all of them. */
export function holds(text: string, wanted: Condition): boolean {
  if (typeof wanted === 'string') return text === wanted
  const order = (other: string) => Buffer.compare(Buffer.from(text), Buffer.from(other))
  return Object.entries(wanted).every(([operator, said]) => {
    const value = typeof said === 'string' ? said : ''
    const texts = said as readonly string[]
    const parts = said as readonly Condition[]
    switch (operator) {
      case '$eq':
        return text === value
      case '$ne':
        return text !== value
      case '$in':
        return texts.includes(text)
      case '$nin':
        return !texts.includes(text)
      case '$like':
        return isLike(text, value)
      case '$nlike':
        return !isLike(text, value)
      case '$ilike':
        return isLike(text.toLowerCase(), value.toLowerCase())
      case '$nilike':
        return !isLike(text.toLowerCase(), value.toLowerCase())
      case '$gt':
        return order(value) > 0
      case '$gte':
        return order(value) >= 0
      case '$lt':
        return order(value) < 0
      case '$lte':
        return order(value) <= 0
      case '$and':
        return parts.every(one => holds(text, one))
      case '$or':
        return parts.some(one => holds(text, one))
      default:
        throw new Error(`no operator ${operator}`)
    }
  })
}

/** `%` is any text, `_` one character, a backslash takes the next one as it is. */
function isLike(text: string, pattern: string): boolean {
  const matches = (at: number, from: number): boolean => {
    const [one, next] = [characters[from], characters[from + 1]]
    if (one === undefined) return at === letters.length
    if (one === '%')
      return Array.from({ length: letters.length - at + 1 }).some((_, skip) => matches(at + skip, from + 1))
    if (one === '\\' && next !== undefined) return letters[at] === next && matches(at + 1, from + 2)
    return at < letters.length && (one === '_' || letters[at] === one) && matches(at + 1, from + 1)
  }
  const [letters, characters] = [Array.from(text), Array.from(pattern)]
  return matches(0, 0)
}

// -- what an event says

function dimOf(event: Counted, meter: Meter, dim: string): string {
  return textAt(event, meter.groupBy[dim] ?? dim) ?? ''
}

/** The value that is aggregated as text, undefined where the event has none. */
function amountOf(event: Counted, meter: Meter): string | undefined {
  if (meter.aggregation === 'COUNT') return '1'
  const path = meter.value ?? ''
  const measure = event.isReading && event.data.measures[/^\$\.measures\.([a-z_]+)$/.exec(path)?.[1] ?? path]
  const text = measure || textAt(event, path)
  if (meter.aggregation === 'UNIQUE_COUNT') {
    // A measure is a number, so 1.50 is 1.5; what others write is a text.
    const unique = measure ? measure.replace(/(\.\d*?)0+$/, '$1').replace(/\.$/, '') : text
    return unique === '' ? undefined : unique
  }
  return text === undefined ? undefined : decimalOf(text)
}

/** A number as JSON writes it as a decimal; undefined for any other text, and beyond 1e24 or 12 decimals. */
export function decimalOf(text: string): string | undefined {
  const [, sign, whole = '', parts = '', exponent = '0'] =
    /^(-?)(0|[1-9]\d*)(?:\.(\d+))?(?:[eE]([-+]?\d+))?$/.exec(text) ?? []
  if (whole === '' || Math.abs(Number(exponent)) > 100) return undefined
  const value = new Fraction(BigInt(`${sign}${whole}${parts}`))
    .div(new Fraction(10).pow(parts.length))
    .mul(new Fraction(10).pow(Number(exponent)))
  const isBounded = value.abs().compare(new Fraction(10).pow(24)) < 0
  return isBounded && value.mul(10n ** 12n).d === 1n ? value.toFraction() : undefined
}

/** A label or attribute of a reading, a member of a pushed event's data, or what stands at a path in either. */
function textAt(event: Counted, path: string): string | undefined {
  if (path === 'subject') return event.subject
  if (path === 'source') return event.source
  if (path === 'scope') return event.scope
  const steps = path.startsWith('$')
    ? Array.from(path.slice(1).matchAll(/\.([A-Za-z0-9_]+)|\['([^']+)'\]/g), step => step[1] ?? step[2] ?? '')
    : event.isReading
      ? ['labels', path]
      : [path]
  let at: unknown = event.data
  for (const step of steps) at = (at as Readonly<Record<string, unknown>> | undefined | null)?.[step]
  if (typeof at === 'object' && at !== null && 'rawJSON' in at) return String(at.rawJSON)
  return typeof at === 'string' || typeof at === 'number' || typeof at === 'boolean' ? String(at) : undefined
}

// -- as text

/** To the last digit where there is one; else 12 places, half away from zero. */
export function print(value: Fraction): string {
  for (let places = 0; places <= 200; places += 1) {
    const scaled = value.mul(10n ** BigInt(places))
    if (scaled.d === 1n) return placed(scaled, places)
  }
  const twice = value.abs().mul(2n * 10n ** 12n)
  const rounded = new Fraction((twice.n / twice.d + 1n) / 2n)
  return placed(value.s < 0n ? rounded.neg() : rounded, 12).replace(/\.?0+$/, '')
}

function placed(whole: Fraction, places: number): string {
  const digits = whole.n.toString().padStart(places + 1, '0')
  const sign = whole.s < 0n ? '-' : ''
  return places === 0 ? sign + digits : `${sign}${digits.slice(0, -places)}.${digits.slice(-places)}`
}

// -- windows

const quarterMs = 15 * 60_000

/** The windows that touch the span, cut to it. */
export function windowsOf({ fromMs, toMs, window, zone }: Asked): readonly Span[] {
  if (window === undefined) return [{ startMs: fromMs, endMs: toMs }]
  const starts = startsOf(fromMs, toMs, window, zone)
  return starts
    .map((startMs, index) => ({
      startMs: Math.max(startMs, fromMs),
      endMs: Math.min(starts[index + 1] ?? Number.POSITIVE_INFINITY, toMs),
    }))
    .filter(({ startMs, endMs }) => startMs < endMs)
}

/**
 * Where windows begin, from the one that holds the span's start on. A window of the calendar begins where the wall clock
 * says so: that is looked at every quarter of an hour, since no zone's clock is off by less or changes in between. One of
 * a duration in time is as long as it says, from midnight UTC where it divides a day, else from the span's start. One in
 * days or months is counted from the day on which the span begins.
 */
function startsOf(fromMs: number, toMs: number, window: string, zone: string): readonly number[] {
  const starts: number[] = []
  const widthMs = window === 'MINUTE' ? 60_000 : window.startsWith('PT') ? lengthMs(window) : undefined
  if (widthMs !== undefined) {
    const originMs = (24 * 3_600_000) % widthMs === 0 ? 0 : fromMs
    for (let at = originMs + Math.floor((fromMs - originMs) / widthMs) * widthMs; at < toMs; at += widthMs)
      starts.push(at)
    return starts
  }
  if (window.startsWith('P')) {
    const first = Temporal.Instant.fromEpochMilliseconds(fromMs).toZonedDateTimeISO(zone).toPlainDate()
    for (let count = 0; ; count += 1) {
      let day = first
      const { years, months, weeks, days } = Temporal.Duration.from(window)
      const many = { years: years * count, months: months * count, weeks: weeks * count, days: days * count }
      day = first.add(many)
      const at = day.toZonedDateTime(zone).epochMilliseconds
      if (at >= toMs) return starts
      starts.push(at)
    }
  }
  const longestHours = { HOUR: 2, DAY: 50, WEEK: 24 * 8, MONTH: 24 * 32 }[window] as number
  let before: Temporal.ZonedDateTime | undefined
  const firstMs = Math.floor((fromMs - longestHours * 3_600_000) / quarterMs) * quarterMs
  for (let at = firstMs; at < toMs; at += quarterMs) {
    const clock = clockAt(at, zone)
    if (before && begins(before, clock, window)) starts.push(at)
    before = clock
  }
  while ((starts[1] ?? Number.POSITIVE_INFINITY) <= fromMs) starts.shift()
  return starts
}

/** Looked at so often that it is kept. */
function clockAt(ms: number, zone: string): Temporal.ZonedDateTime {
  const key = `${zone} ${ms}`
  const clock = clocks.get(key) ?? Temporal.Instant.fromEpochMilliseconds(ms).toZonedDateTimeISO(zone)
  if (clocks.size > 100_000) clocks.clear()
  clocks.set(key, clock)
  return clock
}
const clocks = new Map<string, Temporal.ZonedDateTime>()

function lengthMs(duration: string): number {
  return Temporal.Duration.from(duration).total('milliseconds')
}

function begins(before: Temporal.ZonedDateTime, clock: Temporal.ZonedDateTime, window: string): boolean {
  if (window === 'HOUR') return clock.minute === 0 || clock.hour !== before.hour
  if (clock.toPlainDate().equals(before.toPlainDate())) return false
  if (window === 'DAY') return true
  if (window === 'MONTH') return clock.month !== before.month
  return clock.weekOfYear !== before.weekOfYear
}
