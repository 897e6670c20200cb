/** `GET /api/v1/rejected` and `/api/v1/conflicts`: messages that did not count, as the commands of these names print them. */
import Type from 'typebox'
import { Fault } from '../../schemas/fault.ts'
import { type ConflictRow, conflicts, type Place, type RejectedRow, rejectedRows } from '../replay.ts'
import type { Store } from '../store.ts'
import {
  asAsked,
  type Columns,
  endPage,
  formatQuery,
  linkNext,
  listAnswer,
  pageOf,
  pageQuery,
} from './lists.ts'
import { type Routes, route } from './route.ts'
import { askedSpan, Instant } from './spans.ts'

const strict = { additionalProperties: false }
const from = Instant('inclusive')
const to = Instant('exclusive')

const RejectedQuery = Type.Object(
  {
    from: Type.Optional(from),
    to: Type.Optional(to),
    code: Type.Optional(Type.String({ description: 'Only those with this code.' })),
    limit: Type.Optional(
      Type.String({
        pattern: '^([1-9]\\d{0,3}|10000)$',
        description: 'So many at most; 1000 if not given. The header Link leads to those behind them.',
      }),
    ),
    after: Type.Optional(
      Type.String({
        pattern: '^.{1,256}/[0-9]{1,10}/[0-9]{1,20}$',
        description:
          'Only those behind this place in the log: log/partition/offset, as the header Link has it.',
      }),
    ),
    ...formatQuery,
  },
  strict,
)
const ConflictsQuery = Type.Object({ from, to, ...pageQuery, ...formatQuery }, strict)

const place = {
  log: Type.String({ description: 'Of the log: the topic, or the id of the outbox.' }),
  partition: Type.Integer({ minimum: 0 }),
  offset: Type.String({ pattern: '^[0-9]+$' }),
}

const Rejected = Type.Object(
  {
    ...place,
    at: Type.String({ description: 'When the ledger noted it, RFC 3339.' }),
    origin: Type.Enum(['log', 'http']),
    code: Type.String({ description: 'Of the table of faults.' }),
    reason: Type.String(),
    bytes: Type.Integer({ minimum: 0, description: 'How long the message was.' }),
    kept: Type.Integer({
      minimum: 0,
      description: 'How many of its bytes are kept: where that is all of them it can be replayed.',
    }),
    sha256: Type.String(),
    replays: Type.Array(
      Type.Object(
        {
          fate: Type.Enum(['accepted', 'duplicate', 'conflict', 'rejected']),
          part: Type.Integer({ minimum: 0 }),
          ...place,
          code: Type.Optional(Type.String()),
          reason: Type.Optional(Type.String()),
        },
        strict,
      ),
      { description: 'What became of it when it came again.' },
    ),
  },
  { ...strict, title: 'RejectedMessage' },
)

const Conflict = Type.Object(
  {
    source: Type.String(),
    id: Type.String(),
    what: Type.Enum(['reading', 'mark', 'pushed', 'other']),
    ...place,
    time: Type.Optional(Type.String({ description: 'When it happened, by the first, RFC 3339.' })),
    first: Type.String({ description: 'What counts: JSON as text.' }),
    second: Type.String({ description: 'What does not.' }),
  },
  { ...strict, title: 'Conflict' },
)

export function rejectedRoutes({
  store,
  nowMs,
}: {
  readonly store: Store
  readonly nowMs: () => number
}): Routes {
  return app => {
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/rejected',
        scope: 'admin',
        tags: ['rejected'],
        summary: 'Lists messages that were not accepted',
        description: 'In order of their place in the log, each with what became of it when it came again.',
        query: RejectedQuery,
        answers: { 200: listAnswer(Rejected, 'A row a message.') },
      },
      async asked => {
        const { query, request, reply } = asked
        const limit = Number(query.limit ?? limitDefault)
        const rows = await rejectedRows(store, {
          span: askedSpan(query, { startMs: () => 0, endMs: nowMs() + 1 }),
          ...(query.code !== undefined && { code: query.code }),
          ...(query.after !== undefined && { after: placeOf(query.after) }),
          // One more tells whether there is a next page.
          limit: limit + 1,
        })
        const page = rows.slice(0, limit)
        const last = page.at(-1)
        if (rows.length > limit && last)
          linkNext(request, reply, {
            limit: String(limit),
            after: `${last.log}/${last.partition}/${last.offset}`,
          })
        return asAsked(page, rejectedColumns, { ...asked, name: 'rejected' })
      },
    )
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/conflicts',
        scope: 'admin',
        tags: ['rejected'],
        summary: 'Lists events that came twice and differ',
        description: 'The first counts. In order of time, source and id.',
        query: ConflictsQuery,
        answers: { 200: listAnswer(Conflict, 'A row a conflict.') },
      },
      async asked => {
        const span = askedSpan(asked.query, { startMs: () => 0, endMs: nowMs() })
        const { offset, limit } = pageOf(asked.query)
        // One more tells whether there is a next page.
        const page = endPage(await conflicts(store, span, { offset, limit: limit + 1 }), asked)
        return asAsked(page, conflictColumns, { ...asked, name: 'conflicts' })
      },
    )
  }
}

const limitDefault = 1000

const rejectedColumns: Columns<RejectedRow> = {
  log: row => row.log,
  partition: row => row.partition,
  offset: row => row.offset,
  at: row => row.at,
  origin: row => row.origin,
  code: row => row.code,
  reason: row => row.reason,
  bytes: row => row.bytes,
  kept: row => row.kept,
  sha256: row => row.sha256,
  replays: row => row.replays.map(({ fate }) => fate).join(' '),
}

const conflictColumns: Columns<ConflictRow> = {
  source: row => row.source,
  id: row => row.id,
  what: row => row.what,
  log: row => row.log,
  partition: row => row.partition,
  offset: row => row.offset,
  time: row => row.time,
  first: row => row.first,
  second: row => row.second,
}

/** @throws Fault USAGE where a number is beyond what the log can have */
function placeOf(text: string): Place {
  const [, log = '', partition = '', offset = ''] = /^(.*)\/(\d+)\/(\d+)$/s.exec(text) ?? []
  if (Number(partition) > 2 ** 32 - 1 || BigInt(offset) > 2n ** 63n - 1n)
    throw new Fault('USAGE', `after: there is no place ${text}`)
  return { log, partition: Number(partition), offset }
}
