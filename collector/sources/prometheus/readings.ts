/** From series and their samples to what each resource of each tenant used: the rules of the kinds of queries. Pure. */
import Fraction from 'fraction.js'
import { exact } from '../../../schemas/decimal.ts'
import { Fault } from '../../../schemas/fault.ts'
import { secondMs, type Window } from '../../../schemas/window.ts'
import { counterGrowth, gaugeIntegral, type Sample, type Scale, unitsOf } from '../../samples.ts'
import { type Query, subjectOf } from './queries.ts'
import { keyOf, labelOf, type Series } from './series.ts'

/** What was read for a query and window. */
export interface Answer {
  /** counter: with the last sample before the window. gauge: with those of the gap before it. */
  readonly series: readonly Series[]
  /** Of a counter: did this series begin at zero since it could have been seen before? */
  readonly beganAtZero?: (series: Series) => boolean
  /** Of a gauge: was it not scraped for a part of the window? What it says then is less than there was. */
  readonly isPartial?: (series: Series) => boolean
}

/** What one resource of one tenant used by one query; or why that cannot be said. */
export interface PrometheusItem {
  readonly query: string
  readonly subject?: string
  readonly resource?: { readonly id: string; readonly name?: string }
  readonly labels: Readonly<Record<string, string>>
  /** In the unit of the measure. */
  readonly amount: Fraction
  /** How many series were summed. */
  readonly parts: number
  readonly estimated: boolean
  /** Why it is none, in words. */
  readonly unfit?: string
}

/** A decimal of a measure has at most 12 places; a gauge leaves three of them to the milliseconds it is multiplied by. */
const places = { counter: 12, gauge: 9, value: 12 } as const
/** Of a resource whose id is not to be had. */
const unattributed = 'unattributed'

/** One series in the window: what it adds, nothing where it has no sample there, or why it is unfit. */
type Amount = Fraction | undefined | { readonly unfit: string }

/** Every resource once, in one order. */
export function itemsOf(query: Query, window: Window, answer: Answer): readonly PrometheusItem[] {
  // Pages and servers may give series in any order: what is left over when one value is divided goes by this one.
  const series = [...answer.series].sort((a, b) => (keyOf(a.metric) < keyOf(b.metric) ? -1 : 1))
  const amounts = amountsOf(query, window, { ...answer, series })
  const items = new Map<string, PrometheusItem>()
  for (const [index, each] of series.entries()) {
    const amount = amounts[index]
    if (amount === undefined) continue
    const item = itemOf(query, each, amount, answer.isPartial?.(each) ?? false)
    if (item === undefined) continue
    const key = JSON.stringify([item.subject, item.resource?.id])
    const known = items.get(key)
    items.set(key, known === undefined ? item : joined(known, item))
  }
  return [...items.values()]
}

function itemOf(
  query: Query,
  { metric }: Series,
  amount: Exclude<Amount, undefined>,
  estimated: boolean,
): PrometheusItem | undefined {
  const ids = query.resourceLabels.flatMap(label => labelOf(metric, label) ?? [])
  const named = query.resourceName === undefined ? undefined : labelOf(metric, query.resourceName)
  let subject = subjectOf(query, metric)
  if (subject === undefined && query.withoutSubject === 'leave_out') return undefined
  if (subject === undefined && query.withoutSubject === 'unattributed') subject = unattributed
  const labels: Record<string, string> = {}
  for (const [name, from] of Object.entries(query.labels)) {
    const text = labelOf(metric, from)
    if (text !== undefined) labels[name] = text
  }
  const id = ids.join('/')
  let unfit = amount instanceof Fraction ? undefined : amount.unfit
  if (ids.length === 0) unfit ??= `has none of the labels ${query.resourceLabels.join(', ')} (resourceLabels)`
  if (subject === undefined) unfit ??= `has no label ${query.subjectLabel} (subjectLabel)`
  return {
    query: query.name,
    ...(subject !== undefined && { subject }),
    ...(ids.length > 0 && { resource: { id, ...(named !== undefined && { name: named }) } }),
    labels,
    amount: amount instanceof Fraction ? amount : new Fraction(0),
    parts: 1,
    estimated,
    ...(unfit !== undefined && { unfit: `${shown(query, metric)}: ${unfit}` }),
  }
}

function joined(a: PrometheusItem, b: PrometheusItem): PrometheusItem {
  const unfit = a.unfit ?? b.unfit
  const labels = Object.fromEntries(
    Object.entries(a.labels).filter(([name, text]) => b.labels[name] === text),
  )
  const { name, ...resource } = a.resource ?? { id: '' }
  const sameName = name !== undefined && b.resource?.name === name
  return {
    ...a,
    ...(a.resource && { resource: { ...resource, ...(sameName && { name }) } }),
    labels,
    amount: a.amount.add(b.amount),
    parts: a.parts + b.parts,
    estimated: a.estimated || b.estimated,
    ...(unfit !== undefined && { unfit }),
  }
}

/** A series as a person finds it again; labels of a provider's own making stay out. */
function shown(query: Query, metric: Series['metric']): string {
  const resource = query.resourceLabels.flatMap(label => labelOf(metric, label) ?? []).join('/')
  return `${query.name}${resource === '' ? '' : `, ${resource}`}`
}

function amountsOf(query: Query, window: Window, answer: Answer): readonly Amount[] {
  const scale: Scale = { perUnit: exact(query.factor), places: places[query.kind] }
  const { kind, deviceLabels } = query
  if (kind === 'counter' && deviceLabels.length > 0) return deviceGrowth(query, window, answer.series, scale)
  const series = kind === 'gauge' ? ended(query, shared(query, answer.series, scale)) : answer.series
  return series.map(each => {
    if (each.unfit !== undefined) return { unfit: each.unfit }
    return attempt(() => {
      if (kind === 'counter') {
        const firstSight = answer.beganAtZero?.(each) ? 'zero' : 'first'
        const { growth, samples } = counterGrowth(each.samples, window, { firstSight, scale })
        return samples > 0 ? growth : undefined
      }
      if (kind === 'value') {
        const [sample] = each.samples
        return sample === undefined || sample.value === 'NaN'
          ? undefined
          : fractionOf(unitsOf(sample, scale), scale.places)
      }
      const maxGapMs = (query.selector === undefined ? query.stepSeconds : query.maxGapSeconds) * secondMs
      const { integral, coveredMs } = gaugeIntegral(each.samples, window, {
        maxGapMs,
        scale: isShared(each) ? { perUnit: new Fraction(1), places: scale.places } : scale,
      })
      return coveredMs > 0 ? integral : undefined
    })
  })
}

function attempt(work: () => Fraction | undefined): Amount {
  try {
    return work()
  } catch (error) {
    if (error instanceof Fault && error.code === 'ITEM_UNREADABLE') return { unfit: error.message }
    throw error
  }
}

function fractionOf(units: bigint, decimals: number): Fraction {
  return new Fraction(units, 10n ** BigInt(decimals))
}

// -- devices: one thing, seen by several

/** Which series are of one device, as indices. */
function devicesOf(labels: readonly string[], series: readonly Series[]): readonly (readonly number[])[] {
  const devices = new Map<string, number[]>()
  for (const [index, { metric }] of series.entries()) {
    const key = JSON.stringify(labels.map(label => labelOf(metric, label)))
    const known = devices.get(key)
    if (known) known.push(index)
    else devices.set(key, [index])
  }
  return [...devices.values()]
}

/** The whole in so many parts that differ by one unit at most; what is left over goes to the first. */
function divided(units: bigint, parts: number): readonly bigint[] {
  const count = BigInt(parts)
  const left = Number(units % count)
  return Array.from({ length: parts }, (_, index) => units / count + (index < left ? 1n : 0n))
}

/**
 * The counter of a device is one, under whatever labels it is seen: a time-sliced GPU has a series a pod, and another
 * one when a pod is gone. What it grew until an instant is divided among the series of that instant.
 */
function deviceGrowth(
  query: Query,
  window: Window,
  series: readonly Series[],
  scale: Scale,
): readonly Amount[] {
  const amounts: Amount[] = series.map(() => undefined)
  for (const device of devicesOf(query.deviceLabels, series)) {
    const unfit = device.flatMap(index => series[index]?.unfit ?? [])[0]
    const grown = unfit === undefined ? attemptAll(() => growthOf(device, window, series, scale)) : { unfit }
    for (const index of device)
      amounts[index] =
        grown instanceof Map
          ? grown.has(index)
            ? fractionOf(grown.get(index) ?? 0n, scale.places)
            : undefined
          : grown
  }
  return amounts
}

function attemptAll(work: () => Map<number, bigint>): Map<number, bigint> | { readonly unfit: string } {
  try {
    return work()
  } catch (error) {
    if (error instanceof Fault && error.code === 'ITEM_UNREADABLE') return { unfit: error.message }
    throw error
  }
}

/** By series, those with a sample in the window, in units of the scale. */
function growthOf(
  device: readonly number[],
  window: Window,
  series: readonly Series[],
  scale: Scale,
): Map<number, bigint> {
  const grown = new Map<number, bigint>()
  let before: bigint | undefined
  for (const { sample, holders } of instantsOf(device, series)) {
    if (sample.atMs >= window.endMs) break
    if (sample.value === 'NaN') continue
    const units = unitsOf(sample, scale)
    if (sample.atMs >= window.startMs) {
      const rise = before === undefined ? 0n : units < before ? units : units - before
      const parts = divided(rise, holders.length)
      for (const [at, holder] of holders.entries())
        grown.set(holder, (grown.get(holder) ?? 0n) + (parts[at] ?? 0n))
    }
    before = units
  }
  return grown
}

/** The samples of a device in time, each once, with the series that have it. */
function instantsOf(device: readonly number[], series: readonly Series[]) {
  const instants = new Map<number, { readonly sample: Sample; readonly holders: number[] }>()
  for (const index of device)
    for (const sample of series[index]?.samples ?? []) {
      const known = instants.get(sample.atMs)
      if (known === undefined) instants.set(sample.atMs, { sample, holders: [index] })
      else if (known.sample.value === sample.value) known.holders.push(index)
      else
        throw new Fault(
          'ITEM_UNREADABLE',
          'its device has two values at one time: is a label missing from deviceLabels?',
        )
    }
  return [...instants.values()].sort((a, b) => a.sample.atMs - b.sample.atMs)
}

interface SharedSeries extends Series {
  /** Its samples are in the unit of the measure. */
  readonly shared: true
}
function isShared(series: Series): series is SharedSeries {
  return 'shared' in series
}

/**
 * A device that several use shows its whole value to each: each has its part. And what one series says of a device ends
 * with the next instant at which others speak of it.
 */
function shared(query: Query, series: readonly Series[], scale: Scale): readonly Series[] {
  if (query.deviceLabels.length === 0) return series
  const all = [...series]
  for (const device of devicesOf(query.deviceLabels, series)) {
    if (device.length === 1) continue
    const holders = new Map<number, number[]>()
    for (const index of device)
      for (const { atMs } of series[index]?.samples ?? []) {
        const known = holders.get(atMs)
        if (known) known.push(index)
        else holders.set(atMs, [index])
      }
    for (const index of device) {
      const whole = series[index]
      if (whole === undefined || whole.unfit !== undefined) continue
      try {
        const samples = whole.samples.map(sample => {
          if (sample.value === 'NaN') return sample
          const among = holders.get(sample.atMs) ?? [index]
          const part = divided(unitsOf(sample, scale), among.length)[among.indexOf(index)] ?? 0n
          return { atMs: sample.atMs, value: decimalOf(part, scale.places) }
        })
        const divisible: SharedSeries = { metric: whole.metric, samples, shared: true }
        all[index] = { ...divisible, samples: endedAt(samples, [...holders.keys()]) }
      } catch (error) {
        if (!(error instanceof Fault) || error.code !== 'ITEM_UNREADABLE') throw error
        all[index] = { ...whole, unfit: error.message }
      }
    }
  }
  return all
}

function decimalOf(units: bigint, decimals: number): string {
  const digits = units.toString().padStart(decimals + 1, '0')
  return `${digits.slice(0, -decimals)}.${digits.slice(-decimals)}`
}

/** A series that is missing from a scrape of its target has ended there; what is only late or lost misses no other. */
function ended(query: Query, series: readonly Series[]): readonly Series[] {
  const { scrapeLabels } = query
  if (scrapeLabels.length === 0) return series
  const all = [...series]
  for (const target of devicesOf(scrapeLabels, series)) {
    const instants = new Set(target.flatMap(index => (series[index]?.samples ?? []).map(({ atMs }) => atMs)))
    for (const index of target) {
      const each = series[index]
      if (each) all[index] = { ...each, samples: endedAt(each.samples, [...instants]) }
    }
  }
  return all
}

/** With NaN at the first instant after each run of samples at which the series has none. */
function endedAt(samples: readonly Sample[], instantsMs: readonly number[]): readonly Sample[] {
  const own = new Set(samples.map(({ atMs }) => atMs))
  const marked: Sample[] = [...samples]
  let runs = false
  for (const atMs of [...instantsMs].sort((a, b) => a - b)) {
    if (own.has(atMs)) runs = true
    else if (runs) {
      marked.push({ atMs, value: 'NaN' })
      runs = false
    }
  }
  return marked
}
