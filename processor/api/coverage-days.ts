/** `GET /api/v1/coverage/days`: coverage by source and day, for a map of it: small, however many windows there are. */
import Type from 'typebox'
import type { Account } from '../../schemas/accounts.ts'
import { Fault } from '../../schemas/fault.ts'
import { parseStep, windowRuns, windowsIn } from '../../schemas/step.ts'
import { instantMs, isZone, minuteMs, type Window } from '../../schemas/window.ts'
import { type CoverageSpan, coverageSpans, coverageStates, scopeTenants } from '../coverage.ts'
import { coverageDays } from '../coverage-days.ts'
import type { Store } from '../store.ts'
import { type Routes, route } from './route.ts'
import { askedSpan, Instant } from './spans.ts'
import { type Tenant, tenantsOf } from './tenants.ts'

/** Of one answer. */
export const daysMax = 800

const Query = Type.Object(
  {
    from: Instant('inclusive'),
    to: Instant('exclusive'),
    zone: Type.Optional(
      Type.String({
        maxLength: 64,
        description: 'The IANA time zone of the days; UTC where it is not given.',
      }),
    ),
  },
  { additionalProperties: false },
)

const Gap = Type.Object(
  {
    scope: Type.Optional(
      Type.String({ description: 'The part of the source; not told to a key of an account.' }),
    ),
    start: Type.String({ description: 'RFC 3339, inclusive.' }),
    end: Type.String({ description: 'RFC 3339, exclusive.' }),
    state: Type.Enum(coverageStates),
    windows: Type.Integer({ description: 'How many consecutive windows.' }),
    subject: Type.Optional(Type.String({ description: 'Of a bad item: whose gap it is.' })),
    code: Type.Optional(Type.String({ description: 'Of the fault.' })),
    message: Type.Optional(Type.String({ description: 'Of the fault; not told to a key of an account.' })),
  },
  { additionalProperties: false },
)

const Day = Type.Object(
  {
    source: Type.String(),
    start: Type.String({ description: 'When the day begins in the zone, RFC 3339.' }),
    end: Type.String({ description: 'RFC 3339, exclusive.' }),
    windows: Type.Integer({ description: 'That were expected or read, and start on this day.' }),
    states: Type.Partial(
      Type.Object(Object.fromEntries(coverageStates.map(state => [state, Type.Integer()]))),
      { additionalProperties: false, description: 'How many windows are in which state.' },
    ),
    gaps: Type.Array(Gap, { description: 'The first gaps of the day.' }),
    gaps_more: Type.Integer({ description: 'Gaps beyond these.' }),
  },
  { additionalProperties: false, title: 'CoverageDay' },
)

export function coverageDayRoutes(parts: {
  readonly store: Store
  readonly accounts: () => Promise<readonly Account[]>
  readonly nowMs: () => number
}): Routes {
  return app => {
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/coverage/days',
        scope: 'read',
        tags: ['coverage'],
        summary: 'Counts which windows were read, by source and day',
        description: 'In order of source and day; with the first gaps of each day and their reasons.',
        query: Query,
        answers: { 200: { description: 'A row a source and day.', body: Type.Array(Day) } },
      },
      async ({ query, caller }) => {
        const span = askedSpan(query, { startMs: () => 0, endMs: parts.nowMs() })
        const days = daysOf(span, query.zone ?? 'UTC')
        const tenants = await tenantsOf(caller, parts.accounts)
        const spans = await coverageSpans(parts.store, { span, nowMs: parts.nowMs() })
        if (tenants === undefined) return coverageDays(spans, days, 'operator')
        return coverageDays(await ofTenants(parts.store, spans, tenants), days, 'tenant')
      },
    )
  }
}

/** @throws Fault USAGE for an empty span, a zone that is none, or too many days */
function daysOf(span: Window, zone: string): readonly Window[] {
  if (!isZone(zone)) throw new Fault('USAGE', `"${zone}" is no IANA time zone such as Europe/Berlin`)
  const runs = windowRuns(span, parseStep('DAY'), zone)
  const count = runs.reduce((sum, run) => sum + run.count, 0)
  if (count > daysMax)
    throw new Fault('USAGE', `these are ${count} days, and ${daysMax} is the most: ask for less time`)
  return Array.from(windowsIn(runs))
}

/**
 * What bears on these tenants: the scopes in which they were seen, while they are paid for, and their own bad items. A
 * scope that nobody was seen in may be anybody's, and its number of windows is nobody else's to know.
 */
export async function ofTenants(
  store: Store,
  spans: readonly CoverageSpan[],
  tenants: readonly Tenant[],
): Promise<readonly CoverageSpan[]> {
  if (tenants.length === 0) return []
  const sources = Array.from(new Set(tenants.map(({ source }) => source)))
  const seen = await scopeTenants(store, sources)
  const bearing = tenants.map(({ source, subject, from, to }) => ({
    source,
    subject,
    paid: {
      startMs: (from === undefined ? undefined : instantMs(from)) ?? Number.NEGATIVE_INFINITY,
      endMs: (to === undefined ? undefined : instantMs(to)) ?? Number.POSITIVE_INFINITY,
    },
    scopes: new Set(
      seen
        .filter(scope => scope.source === source && scope.subjects.includes(subject))
        .map(({ scope }) => scope),
    ),
  }))
  return spans.flatMap(span => {
    const paid = bearing
      .filter(
        ({ source, subject, scopes }) =>
          source === span.source && (span.isItem ? span.subject === subject : scopes.has(span.scope)),
      )
      .map(tenant => tenant.paid)
    return withinAny(span, paid).map(window => ({ ...span, window }))
  })
}

/** The windows of a run that touch one of the spans, as runs that do not overlap. */
function withinAny({ window, widthMinutes }: CoverageSpan, spans: readonly Window[]): readonly Window[] {
  const widthMs = widthMinutes * minuteMs
  const found: Window[] = []
  for (const { startMs, endMs } of spans.toSorted((a, b) => a.startMs - b.startMs)) {
    const from = Math.max(window.startMs, Math.floor(startMs / widthMs) * widthMs, found.at(-1)?.endMs ?? 0)
    const to = Math.min(window.endMs, Math.ceil(endMs / widthMs) * widthMs)
    if (from < to) found.push({ startMs: from, endMs: to })
  }
  return found
}
