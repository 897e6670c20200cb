/** `GET /api/v1/status`: how the processor does: how far it is, what waits, what was rejected, and what is wrong. */
import Type from 'typebox'
import type { LogState } from '../../runtime/log/log.ts'
import type { OutboxDepth } from '../../runtime/log/outbox-rows.ts'
import { dayMs, minuteMs, secondMs, showInstant, type Window } from '../../schemas/window.ts'
import { type CoverageSpan, coverageSpans, coverageStates } from '../coverage.ts'
import type { Store } from '../store.ts'
import { type Routes, route } from './route.ts'

const strict = { additionalProperties: false }
const count = (description: string) => Type.Integer({ minimum: 0, description })
const instant = (description: string) =>
  Type.Optional(Type.String({ description: `${description}, RFC 3339.` }))

const Source = Type.Object(
  {
    source: Type.String({ description: 'The `source` of its events.' }),
    covered_until: instant('The end of the newest window of which there is a complete read, or a mark'),
    behind_seconds: Type.Optional(count('How long ago that was.')),
    windows: Type.Partial(
      Type.Object(Object.fromEntries(coverageStates.map(state => [state, Type.Integer()]))),
      {
        ...strict,
        description: 'Windows of the last day, by their state.',
      },
    ),
  },
  { ...strict, title: 'SourceStatus' },
)

const Status = Type.Object(
  {
    at: Type.String({ description: 'When this was asked, RFC 3339.' }),
    ready: Type.Boolean({ description: 'Nothing is wrong.' }),
    checks: Type.Record(Type.String(), Type.String(), {
      description: 'What is looked at, by name: ok, or what is wrong.',
    }),
    log: Type.Optional(
      Type.Object(
        {
          lag_messages: count('Messages of the log that were not taken yet.'),
          paused_partitions: Type.Array(Type.Integer({ minimum: 0 })),
          problem: Type.Optional(Type.String({ description: 'What keeps it from reading.' })),
        },
        { ...strict, description: 'Not there while it does not answer.' },
      ),
    ),
    outbox: Type.Optional(
      Type.Object(
        {
          waiting_rows: count('Events that the log does not have.'),
          waiting_bytes: count('Their size.'),
          kept_bytes: count('Of events that the log has, and that are kept.'),
          bytes_max: count('What it may hold: `outbox.maxBytes`.'),
          oldest_seconds: count('How long the oldest event has waited.'),
          quarantined_rows: count('Events that the log would never take.'),
        },
        { ...strict, description: 'Where the collector is in the same process.' },
      ),
    ),
    acknowledged: instant('When the ledger last acknowledged a batch'),
    rejected: Type.Array(Type.Object({ code: Type.String(), messages: count('Of the last day.') }, strict), {
      description: 'The most frequent first.',
    }),
    stale: Type.Object(
      {
        cells: count(
          'Hours of a tenant whose rollups are computed anew; answers come from the ledger meanwhile.',
        ),
        oldest_seconds: count('How long the oldest has been stale.'),
      },
      strict,
    ),
    sources: Type.Array(Source, { description: 'In order of their names.' }),
  },
  { ...strict, title: 'Status' },
)

export interface StatusParts {
  readonly store: Store
  readonly nowMs: () => number
  /** The checks of health, each ok or with its problem. */
  readonly checks: () => Readonly<Record<string, string>>
  readonly logState?: () => Promise<LogState>
  readonly outbox?: { readonly depth: () => OutboxDepth; readonly bytesMax: number }
}

/** So long the log may take to say how far it is. */
const logWithinMs = 2 * secondMs

export function statusRoutes(parts: StatusParts): Routes {
  return app => {
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/status',
        scope: 'admin',
        tags: ['status'],
        summary: 'Says how the processor does',
        answers: { 200: { description: 'As it is now.', body: Status } },
      },
      async () => {
        const nowMs = parts.nowMs()
        const span = { startMs: nowMs - dayMs, endMs: nowMs }
        const [log, ledger, spans] = await Promise.all([
          logNow(parts),
          ledgerNow(parts.store, span),
          coverageSpans(parts.store, { span, nowMs }),
        ])
        const checks = parts.checks()
        return {
          at: showInstant(nowMs),
          ready: Object.values(checks).every(result => result === 'ok'),
          checks,
          ...(log && { log }),
          ...outboxNow(parts),
          ...ledger,
          sources: sourcesOf(spans, nowMs),
        }
      },
    )
  }
}

async function logNow({ logState }: StatusParts) {
  if (!logState) return undefined
  const late = AbortSignal.timeout(logWithinMs)
  const state = await Promise.race([
    logState().catch(() => undefined),
    new Promise<undefined>(resolve => late.addEventListener('abort', () => resolve(undefined))),
  ])
  return (
    state && {
      lag_messages: Number(state.lag),
      paused_partitions: [...(state.paused ?? [])],
      ...(state.problem !== undefined && { problem: state.problem }),
    }
  )
}

function outboxNow({ outbox }: StatusParts) {
  if (!outbox) return {}
  const { rows, bytes, keptBytes, oldestAgeMs, quarantinedRows } = outbox.depth()
  return {
    outbox: {
      waiting_rows: rows,
      waiting_bytes: bytes,
      kept_bytes: keptBytes,
      bytes_max: outbox.bytesMax,
      oldest_seconds: Math.max(0, Math.floor(oldestAgeMs / secondMs)),
      quarantined_rows: quarantinedRows,
    },
  }
}

async function ledgerNow(store: Store, day: Window) {
  const since = { from: day.startMs }
  const [last, rejected, stale] = await Promise.all([
    store.rows<{ at_ms: string; count: string }>(
      'select toUnixTimestamp64Milli(max(at)) as at_ms, count() as count from positions',
    ),
    store.rows<{ code: string; messages: string }>(
      `select code, uniqExact(log, partition, offset) as messages from rejected
       where at >= fromUnixTimestamp64Milli({from:Int64}) group by code order by messages desc, code limit 100`,
      since,
    ),
    store.rows<{ cells: string; seconds: string }>(
      `select uniqExact(source, hour, subject) as cells, if(cells = 0, 0, dateDiff('second', min(at), now())) as seconds
       from (select source, hour, at, arrayJoin(subjects) as subject from stale final where not done)`,
    ),
  ])
  return {
    ...(Number(last[0]?.count ?? 0) > 0 && { acknowledged: showInstant(Number(last[0]?.at_ms)) }),
    rejected: rejected.map(({ code, messages }) => ({ code, messages: Number(messages) })),
    stale: {
      cells: Number(stale[0]?.cells ?? 0),
      oldest_seconds: Math.max(0, Number(stale[0]?.seconds ?? 0)),
    },
  }
}

/** How far each source is covered, of what was expected or read within the last day. */
function sourcesOf(spans: readonly CoverageSpan[], nowMs: number) {
  const bySource = Map.groupBy(
    spans.filter(({ isItem }) => !isItem),
    ({ source }) => source,
  )
  return Array.from(bySource)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([source, some]) => {
      const windows = new Map<string, number>()
      let untilMs: number | undefined
      for (const { state, window, widthMinutes } of some) {
        const number = (window.endMs - window.startMs) / (widthMinutes * minuteMs)
        windows.set(state, (windows.get(state) ?? 0) + number)
        if (state === 'read' || state === 'settled') untilMs = Math.max(untilMs ?? 0, window.endMs)
      }
      return {
        source,
        ...(untilMs !== undefined && {
          covered_until: showInstant(untilMs),
          behind_seconds: Math.max(0, Math.floor((nowMs - untilMs) / secondMs)),
        }),
        windows: Object.fromEntries(windows),
      }
    })
}
