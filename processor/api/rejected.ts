/** `GET /api/v1/rejected` and `/api/v1/conflicts`: messages that did not count, as the commands of these names print them. */
import { Fault } from '../../schemas/fault.ts'
import { parseInstant } from '../../schemas/window.ts'
import { conflicts, rejectedRows } from '../replay.ts'
import type { Store } from '../store.ts'
import type { Routes } from './api.ts'

const span = {
  from: { type: 'string', description: 'RFC 3339, inclusive.' },
  to: { type: 'string', description: 'RFC 3339, exclusive.' },
} as const

const RejectedQuery = {
  type: 'object',
  additionalProperties: false,
  properties: {
    ...span,
    code: { type: 'string', description: 'Only those with this code.' },
    limit: { type: 'string', pattern: '^[1-9]\\d{0,4}$', description: 'So many at most; 1000 if not given.' },
  },
} as const

const ConflictsQuery = {
  type: 'object',
  additionalProperties: false,
  required: ['from', 'to'],
  properties: span,
} as const

interface Asked {
  readonly from?: string
  readonly to?: string
  readonly code?: string
  readonly limit?: string
}

export function rejectedRoutes({
  store,
  nowMs,
}: {
  readonly store: Store
  readonly nowMs: () => number
}): Routes {
  return app => {
    app.get<{ Querystring: Asked }>(
      '/api/v1/rejected',
      { config: { scope: 'admin' }, schema: { querystring: RejectedQuery } },
      async ({ query }) =>
        rejectedRows(store, {
          span: {
            startMs: query.from === undefined ? 0 : parseInstant(query.from, 'from'),
            endMs: query.to === undefined ? nowMs() + 1 : parseInstant(query.to, 'to'),
          },
          ...(query.code !== undefined && { code: query.code }),
          ...(query.limit !== undefined && { limit: Number(query.limit) }),
        }),
    )
    app.get<{ Querystring: Required<Pick<Asked, 'from' | 'to'>> }>(
      '/api/v1/conflicts',
      { config: { scope: 'admin' }, schema: { querystring: ConflictsQuery } },
      async ({ query }) => {
        const asked = { startMs: parseInstant(query.from, 'from'), endMs: parseInstant(query.to, 'to') }
        if (asked.startMs >= asked.endMs)
          throw new Fault('USAGE', `from ${query.from} is not before to ${query.to}`)
        return await conflicts(store, asked)
      },
    )
  }
}
