/** What is looked at: meter, range, zone, tenant, resource. The address bar holds all of it, so that a view can be shared. Pure. */
import {
  type CalendarDay,
  dateOf,
  dateText,
  dayMs,
  floorTo,
  hourMs,
  type Step,
  shifted,
  startOf,
} from './zones.ts'

export const presets = ['last-data', '24h', '7d', '30d', 'month', 'last-month', '12m'] as const
export type Preset = (typeof presets)[number]

export const presetNames: Readonly<Record<Preset, string>> = {
  'last-data': 'Newest month',
  '24h': '24 hours',
  '7d': '7 days',
  '30d': '30 days',
  month: 'This month',
  'last-month': 'Last month',
  '12m': '12 months',
}

/** A preset, or whole days of the zone, both inclusive. */
export type Range = Preset | { readonly first: string; readonly last: string }

export interface Tenant {
  readonly source: string
  readonly subject: string
}

export interface View {
  readonly meter?: string
  readonly range: Range
  /** An IANA zone; the browser's where the address names none. */
  readonly zone: string
  /** The dim by which the chart is split, or `tenant`. */
  readonly by?: string
  readonly window?: Step
  readonly tenant?: Tenant
  /** One resource of the tenant: the value of the meter's dim for it. */
  readonly resource?: string
  readonly as: 'chart' | 'table'
}

export interface Span {
  readonly fromMs: number
  readonly toMs: number
}

export const steps: readonly Step[] = ['HOUR', 'DAY', 'WEEK', 'MONTH']

/** What the address says; what it says wrongly is as if it said nothing. */
export function viewOf(search: string, browserZone: string, isZone: (zone: string) => boolean): View {
  const asked = new URLSearchParams(search)
  const text = (name: string) => asked.get(name) || undefined
  const zone = text('zone')
  const [meter, by, subject, resource] = [text('meter'), text('by'), text('tenant'), text('resource')]
  const window = steps.find(step => step === text('window'))
  return {
    range: rangeOf(text('range')),
    zone: zone !== undefined && isZone(zone) ? zone : browserZone,
    as: text('as') === 'table' ? 'table' : 'chart',
    ...(meter !== undefined && { meter }),
    ...(by !== undefined && { by }),
    ...(window !== undefined && { window }),
    ...(subject !== undefined && { tenant: { source: text('source') ?? '', subject } }),
    ...(subject !== undefined && resource !== undefined && { resource }),
  }
}

function rangeOf(text: string | undefined): Range {
  const preset = presets.find(name => name === text)
  if (preset !== undefined) return preset
  const [first = '', last = ''] = text?.split('..') ?? []
  return dateOf(first) && dateOf(last) && first <= last ? { first, last } : 'last-data'
}

/** The address of a view. The zone is always in it: whoever gets it may live elsewhere. */
export function searchOf(view: View): string {
  const asked = new URLSearchParams()
  if (view.meter !== undefined) asked.set('meter', view.meter)
  asked.set('range', typeof view.range === 'string' ? view.range : `${view.range.first}..${view.range.last}`)
  asked.set('zone', view.zone)
  if (view.by !== undefined) asked.set('by', view.by)
  if (view.window !== undefined) asked.set('window', view.window)
  if (view.tenant) {
    asked.set('tenant', view.tenant.subject)
    if (view.tenant.source !== '') asked.set('source', view.tenant.source)
    if (view.resource !== undefined) asked.set('resource', view.resource)
  }
  if (view.as === 'table') asked.set('as', 'table')
  return `?${asked}`
}

/** The span of a range. `newestMs` is where the newest usage begins; without any, `last-data` is the last 7 days. */
export function spanOf(range: Range, zone: string, nowMs: number, newestMs?: number): Span {
  if (typeof range !== 'string') {
    const [first, last] = [dateOf(range.first) as CalendarDay, dateOf(range.last) as CalendarDay]
    return { fromMs: startOf(zone, first), toMs: startOf(zone, { ...last, day: last.day + 1 }) }
  }
  const today = floorTo(zone, 'DAY', nowMs)
  const tomorrow = shifted(zone, nowMs, { days: 1 })
  const month = floorTo(zone, 'MONTH', nowMs)
  switch (range) {
    case '24h': {
      const toMs = floorTo(zone, 'HOUR', nowMs) + hourMs
      return { fromMs: toMs - dayMs, toMs }
    }
    case '30d':
      return { fromMs: shifted(zone, today, { days: -29 }), toMs: tomorrow }
    case 'month':
      return { fromMs: month, toMs: shifted(zone, month, { months: 1 }) }
    case 'last-month':
      return { fromMs: shifted(zone, month, { months: -1 }), toMs: month }
    case '12m':
      return { fromMs: shifted(zone, month, { months: -11 }), toMs: shifted(zone, month, { months: 1 }) }
    case 'last-data': {
      if (newestMs === undefined) break
      const fromMs = floorTo(zone, 'MONTH', newestMs)
      return { fromMs, toMs: shifted(zone, fromMs, { months: 1 }) }
    }
  }
  return { fromMs: shifted(zone, today, { days: -6 }), toMs: tomorrow }
}

/** The days that a span shows in the fields of the picker, both inclusive. */
export function daysOf(span: Span, zone: string): { readonly first: string; readonly last: string } {
  return { first: dateText(zone, span.fromMs), last: dateText(zone, span.toMs - 1) }
}

/** The window that makes a chart of a span legible. */
export function fittingStep({ fromMs, toMs }: Span): Step {
  const days = (toMs - fromMs) / dayMs
  return days <= 3 ? 'HOUR' : days <= 93 ? 'DAY' : days <= 300 ? 'WEEK' : 'MONTH'
}

/** The month of the money that is shown: the one in which the span ends, or the present one where it is still going on. */
export function monthOf(span: Span, zone: string, nowMs: number): Span {
  const fromMs = floorTo(zone, 'MONTH', Math.max(span.fromMs, Math.min(span.toMs - 1, nowMs)))
  return { fromMs, toMs: shifted(zone, fromMs, { months: 1 }) }
}
