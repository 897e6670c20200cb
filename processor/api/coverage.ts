/** `GET /api/v1/coverage`: which windows were read, as `meterline coverage --json` prints it. */
import { dayMs, parseInstant } from '../../schemas/window.ts'
import { coverage } from '../coverage.ts'
import type { Store } from '../store.ts'
import type { Routes } from './api.ts'

const Query = {
  type: 'object',
  additionalProperties: false,
  properties: {
    from: { type: 'string', description: 'RFC 3339, inclusive; a week before `to` where it is not given.' },
    to: { type: 'string', description: 'RFC 3339, exclusive; now where it is not given.' },
    source: { type: 'string', description: 'Only this source: its name, or meterline/kind/name.' },
    scope: { type: 'string', description: 'Only this scope.' },
  },
} as const

interface Asked {
  readonly from?: string
  readonly to?: string
  readonly source?: string
  readonly scope?: string
}

export function coverageRoutes({
  store,
  nowMs,
}: {
  readonly store: Store
  readonly nowMs: () => number
}): Routes {
  return app => {
    app.get<{ Querystring: Asked }>(
      '/api/v1/coverage',
      { schema: { querystring: Query } },
      async ({ query }) => {
        const now = nowMs()
        const endMs = query.to === undefined ? now : parseInstant(query.to, 'to')
        return await coverage(store, {
          span: {
            startMs: query.from === undefined ? endMs - 7 * dayMs : parseInstant(query.from, 'from'),
            endMs,
          },
          nowMs: now,
          ...(query.source !== undefined && { source: query.source }),
          ...(query.scope !== undefined && { scope: query.scope }),
        })
      },
    )
  }
}
