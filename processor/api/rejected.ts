/** `GET /api/v1/rejected` and `/api/v1/conflicts`: messages that did not count, as the commands of these names print them. */
import Type from 'typebox'
import { Fault } from '../../schemas/fault.ts'
import { parseInstant } from '../../schemas/window.ts'
import { conflicts, rejectedRows } from '../replay.ts'
import type { Store } from '../store.ts'
import { type Routes, route } from './route.ts'

const strict = { additionalProperties: false }
const from = Type.String({ description: 'RFC 3339, inclusive.' })
const to = Type.String({ description: 'RFC 3339, exclusive.' })

const RejectedQuery = Type.Object(
  {
    from: Type.Optional(from),
    to: Type.Optional(to),
    code: Type.Optional(Type.String({ description: 'Only those with this code.' })),
    limit: Type.Optional(
      Type.String({ pattern: '^[1-9]\\d{0,4}$', description: 'So many at most; 1000 if not given.' }),
    ),
  },
  strict,
)
const ConflictsQuery = Type.Object({ from, to }, strict)

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
        answers: { 200: { description: 'A row a message.', body: Type.Array(Rejected) } },
      },
      async ({ query }) =>
        await rejectedRows(store, {
          span: {
            startMs: query.from === undefined ? 0 : parseInstant(query.from, 'from'),
            endMs: query.to === undefined ? nowMs() + 1 : parseInstant(query.to, 'to'),
          },
          ...(query.code !== undefined && { code: query.code }),
          ...(query.limit !== undefined && { limit: Number(query.limit) }),
        }),
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
        answers: { 200: { description: 'A row a conflict.', body: Type.Array(Conflict) } },
      },
      async ({ query }) => {
        const asked = { startMs: parseInstant(query.from, 'from'), endMs: parseInstant(query.to, 'to') }
        if (asked.startMs >= asked.endMs)
          throw new Fault('USAGE', `from ${query.from} is not before to ${query.to}`)
        return await conflicts(store, asked)
      },
    )
  }
}
