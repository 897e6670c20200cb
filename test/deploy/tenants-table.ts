/** Every route of the API as a row written by hand: whose key it takes, what it answers, and what a customer may try. */
import { pushSource, type TenantsWorld, type Who } from './tenants-world.ts'

type Scope = 'ingest' | 'amend' | 'read' | 'bill' | 'admin' | 'any' | 'nobody'

export interface Ask {
  readonly path: string
  readonly body?: unknown
  readonly type?: string
}

export interface Row {
  /** Whose key it takes. */
  readonly scope: Scope
  /** What it answers to a key of all, and to one of an account, with that scope; the second only where there can be one. */
  readonly answers: readonly [all: number, account?: number]
  /** The first is what `answers` are of; `{own}` is the customer's own account. All are asked by the first customer. */
  readonly asks: readonly (string | Ask)[]
}

const span = 'from=2025-06-01T00:00:00Z&to=2025-06-03T02:00:00Z'
const call = { specversion: '1.0', id: 'new', source: pushSource, type: 'call', subject: 'ant' }

/** `Zebra` is the other customer, in every word of theirs; `Hyena` is nobody. */
export const table: Readonly<Record<string, Row>> = {
  'GET /api/v1/me': { scope: 'any', answers: [200, 200], asks: ['/api/v1/me'] },
  'GET /': { scope: 'nobody', answers: [200], asks: ['/'] },
  'GET /dashboard/:name': { scope: 'nobody', answers: [200], asks: ['/dashboard/main.js', '/dashboard/no'] },
  'GET /api/docs': { scope: 'nobody', answers: [200], asks: ['/api/docs'] },
  'GET /api/docs/json': { scope: 'nobody', answers: [200], asks: ['/api/docs/json'] },
  'GET /api/docs/yaml': { scope: 'nobody', answers: [200], asks: ['/api/docs/yaml'] },
  'GET /api/docs/static/*': { scope: 'nobody', answers: [404], asks: ['/api/docs/static/no'] },
  'GET /api/docs/static/index.html': {
    scope: 'nobody',
    answers: [200],
    asks: ['/api/docs/static/index.html'],
  },
  'GET /api/docs/static/swagger-initializer.js': {
    scope: 'nobody',
    answers: [200],
    asks: ['/api/docs/static/swagger-initializer.js'],
  },
  'GET /api/openapi.json': { scope: 'nobody', answers: [200, 200], asks: ['/api/openapi.json'] },
  'GET /api/v1/accounts': {
    scope: 'read',
    answers: [200, 200],
    asks: ['/api/v1/accounts', '/api/v1/accounts?limit=1'],
  },
  'GET /api/v1/accounts/:id': {
    scope: 'read',
    answers: [200, 200],
    asks: ['/api/v1/accounts/{own}', '/api/v1/accounts/zebra', '/api/v1/accounts/hyena'],
  },
  'GET /api/v1/coverage': {
    scope: 'read',
    answers: [200, 200],
    asks: [
      `/api/v1/coverage?${span}`,
      `/api/v1/coverage?${span}&source=test`,
      `/api/v1/coverage?${span}&scope=Zebra/pool`,
      `/api/v1/coverage?${span}&scope=Hyena/pool`,
      `/api/v1/coverage?${span}&scope=moved/pool`,
      `/api/v1/coverage?${span}&account=aardvark`,
      `/api/v1/coverage?${span}&account=zebra`,
      `/api/v1/coverage?${span}&account=hyena`,
      `/api/v1/coverage?${span}&source=https://Zebra.example/usage`,
      `/api/v1/coverage?${span}&source=https://Hyena.example/usage`,
    ],
  },
  'GET /api/v1/coverage/days': {
    scope: 'read',
    answers: [200, 200],
    asks: [
      `/api/v1/coverage/days?${span}`,
      `/api/v1/coverage/days?${span}&account=zebra`,
      `/api/v1/coverage/days?${span}&account=hyena`,
    ],
  },
  'GET /api/v1/usage': {
    scope: 'read',
    answers: [200, 200],
    asks: [
      ...['instance_hours', 'calls', 'models'].flatMap(meter =>
        [
          '',
          '&format=csv',
          '&window=HOUR',
          '&window=MINUTE&zone=Asia/Kolkata',
          '&window=P1D&zone=Asia/Kathmandu',
        ].map(more => `/api/v1/usage?meter=${meter}&${span}${more}`),
      ),
      ...[
        '&groupBy=gpu_type',
        '&groupBy=subject,gpu_type&window=DAY',
        '&groupBy=source',
        '&top=1&groupBy=organization',
        '&limit=1',
        '&limit=1&window=HOUR',
        '&subject=Zebra',
        '&subject=Hyena',
        '&subject=moved&window=HOUR',
        '&source=https://Zebra.example/usage',
        '&filter[gpu_type]=Zebra',
        '&filter[gpu_type]=Hyena',
        '&groupBy=gpu_type&filter[gpu_type]=Zebra&subject=moved',
        `&where=${encodeURIComponent('{"gpu_type":{"$ne":"L40"}}')}`,
        `&where=${encodeURIComponent('{"gpu_type":{"$or":[{"$like":"Z%"},{"$gt":""}]}}')}`,
      ].map(more => `/api/v1/usage?meter=instance_hours&${span}${more}`),
      ...['&subject=ant', '&groupBy=model&top=5', '&filter[model]=Zebra', '&subject=Zebra'].map(
        more => `/api/v1/usage?meter=calls&${span}${more}`,
      ),
      `/api/v1/usage?meter=Zebra&${span}`,
      `/api/v1/usage?meter=Hyena&${span}`,
      `/api/v1/usage?meter=instance_hours&${span}&groupBy=Zebra`,
      `/api/v1/usage?meter=instance_hours&${span}&groupBy=Hyena`,
      `/api/v1/usage?meter=instance_hours&${span}&where=Zebra`,
    ],
  },
  ...openMeter(),
  'GET /api/v1/line-items': {
    scope: 'bill',
    answers: [200, 200],
    asks: [
      `/api/v1/line-items?${span}`,
      `/api/v1/line-items?${span}&format=csv`,
      `/api/v1/line-items?${span}&account=zebra`,
      `/api/v1/line-items?${span}&account=hyena`,
    ],
  },
  'GET /api/v1/line-items/totals': {
    scope: 'bill',
    answers: [200, 200],
    asks: [
      `/api/v1/line-items/totals?${span}`,
      `/api/v1/line-items/totals?${span}&account=zebra`,
      `/api/v1/line-items/totals?${span}&account=hyena`,
    ],
  },
  'GET /api/v1/status': { scope: 'admin', answers: [200], asks: ['/api/v1/status'] },
  'GET /api/v1/rejected': { scope: 'admin', answers: [200], asks: ['/api/v1/rejected'] },
  'GET /api/v1/conflicts': { scope: 'admin', answers: [200], asks: [`/api/v1/conflicts?${span}`] },
  'GET /api/v1/keys': { scope: 'admin', answers: [200], asks: ['/api/v1/keys'] },
  'POST /api/v1/keys': {
    scope: 'admin',
    answers: [201],
    asks: [{ path: '/api/v1/keys', body: { name: 'made', scopes: ['read'] } }],
  },
  'DELETE /api/v1/keys/:name': { scope: 'admin', answers: [200], asks: ['/api/v1/keys/made'] },
  'POST /api/v1/events': {
    scope: 'ingest',
    answers: [204],
    asks: [{ path: '/api/v1/events', body: call, type: 'application/cloudevents+json' }],
  },
}

/** As OpenMeter has them. */
function openMeter(): Readonly<Record<string, Row>> {
  const calls = '/api/v1/meters/calls'
  const hours = '/api/v1/meters/instance_hours'
  const made = { slug: 'made', eventType: 'call', aggregation: 'SUM', valueProperty: '$.tokens' }
  const filtered = (filter: object) => `/api/v2/events?filter=${encodeURIComponent(JSON.stringify(filter))}`
  const posted = (body: object): Ask => ({ path: `${hours}/query`, body })
  return {
    'GET /api/v1/events': {
      scope: 'read',
      answers: [200, 200],
      asks: [
        '/api/v1/events',
        '/api/v1/events?limit=1',
        '/api/v1/events?subject=Zebra',
        '/api/v1/events?subject=Hyena',
        '/api/v1/events?subject=moved',
        '/api/v1/events?id=Zebra',
        `/api/v1/events?${span}`,
      ],
    },
    'GET /api/v2/events': {
      scope: 'read',
      answers: [200, 200],
      asks: [
        '/api/v2/events',
        '/api/v2/events?limit=1',
        '/api/v2/events?limit=2',
        filtered({ subject: { $eq: 'Zebra' } }),
        filtered({ subject: { $eq: 'Hyena' } }),
        filtered({ source: { $ne: pushSource } }),
        filtered({ $or: [{ subject: { $ilike: '%' } }] }),
        filtered({ id: { $ilike: '%zebra%' } }),
      ],
    },
    'GET /api/v1/subjects': { scope: 'read', answers: [200, 200], asks: ['/api/v1/subjects'] },
    'POST /api/v1/subjects': {
      scope: 'admin',
      answers: [200],
      asks: [
        {
          path: '/api/v1/subjects',
          body: [
            { key: 'Zebra', displayName: 'Zebra' },
            // Both customers have one of this name, at different sources: whose note is it?
            { key: 'ant', displayName: 'Zebra’s ant' },
            { key: 'made' },
          ],
        },
      ],
    },
    'GET /api/v1/subjects/:subjectIdOrKey': {
      scope: 'read',
      answers: [200, 404],
      asks: [
        '/api/v1/subjects/ant',
        '/api/v1/subjects/Zebra',
        '/api/v1/subjects/Hyena',
        '/api/v1/subjects/moved',
      ],
    },
    'DELETE /api/v1/subjects/:subjectIdOrKey': {
      scope: 'admin',
      answers: [204],
      asks: ['/api/v1/subjects/made'],
    },
    'GET /api/v1/meters': { scope: 'read', answers: [200, 200], asks: ['/api/v1/meters'] },
    'GET /api/v1/meters/:meterIdOrSlug': {
      scope: 'read',
      answers: [200, 200],
      asks: [calls, '/api/v1/meters/made', '/api/v1/meters/Zebra', '/api/v1/meters/Hyena'],
    },
    'POST /api/v1/meters': {
      scope: 'admin',
      answers: [201],
      asks: [{ path: '/api/v1/meters', body: made }],
    },
    'PUT /api/v1/meters/:meterIdOrSlug': {
      scope: 'admin',
      answers: [200],
      asks: [{ path: '/api/v1/meters/made', body: { description: 'of a test' } }],
    },
    'DELETE /api/v1/meters/:meterIdOrSlug': {
      scope: 'admin',
      answers: [204],
      asks: ['/api/v1/meters/made'],
    },
    'GET /api/v1/meters/:meterIdOrSlug/query': {
      scope: 'read',
      answers: [200, 200],
      asks: [
        `${hours}/query?${span}`,
        `${hours}/query`,
        `${hours}/query?${span}&windowSize=HOUR`,
        `${hours}/query?${span}&windowSize=MINUTE&groupBy=subject`,
        `${hours}/query?${span}&groupBy=subject&groupBy=gpu_type`,
        `${hours}/query?${span}&subject=Zebra`,
        `${hours}/query?${span}&subject=Hyena`,
        `${hours}/query?${span}&filterGroupBy[gpu_type]=Zebra`,
        `${hours}/query?${span}&filterGroupBy[gpu_type]=Hyena`,
        `${calls}/query?${span}&groupBy=model`,
        `/api/v1/meters/models/query?${span}`,
        `/api/v1/meters/Zebra/query?${span}`,
        `/api/v1/meters/Hyena/query?${span}`,
      ],
    },
    'POST /api/v1/meters/:meterIdOrSlug/query': {
      scope: 'read',
      answers: [200, 200],
      asks: [
        posted({}),
        posted({
          from: '2025-06-01T00:00:00Z',
          to: '2025-06-03T00:00:00Z',
          groupBy: ['subject', 'gpu_type'],
        }),
        posted({ subject: ['Zebra', 'moved'] }),
        posted({ filterGroupBy: { gpu_type: ['Zebra'] } }),
      ],
    },
    'GET /api/v1/meters/:meterIdOrSlug/subjects': {
      scope: 'read',
      answers: [200, 200],
      asks: [`${calls}/subjects`, `${hours}/subjects`, `${hours}/subjects?${span}`],
    },
    'GET /api/v1/meters/:meterIdOrSlug/group-by/:groupByKey/values': {
      scope: 'read',
      answers: [200, 200],
      asks: [
        `${hours}/group-by/gpu_type/values`,
        `${hours}/group-by/gpu_type/values?${span}`,
        `${calls}/group-by/model/values`,
        `${calls}/group-by/Zebra/values`,
        `${calls}/group-by/Hyena/values`,
      ],
    },
  }
}

// -- asking

export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

export async function ask(at: TenantsWorld, who: Who, route: string, asked: string | Ask): Promise<Answer> {
  const { path, body: sent, type = 'application/json' } = typeof asked === 'string' ? { path: asked } : asked
  const own = who.startsWith('zebra') ? 'zebra' : 'aardvark'
  const response = await fetch(at.url + path.replace('{own}', own), {
    method: route.split(' ')[0]!,
    headers: {
      ...at.as(who),
      'x-request-id': 'one',
      ...(sent !== undefined && { 'content-type': type }),
    },
    ...(sent !== undefined && { body: JSON.stringify(sent) }),
  })
  // What differs from one moment to the next, for everybody: how much a key may still ask, and the day it is.
  const passing = /^(date|ratelimit|x-ratelimit|connection|keep-alive|content-length)/
  const headers = Object.fromEntries(Array.from(response.headers).filter(([name]) => !passing.test(name)))
  const said = await response.text()
  // When the ledger took an event is said by the clock of the server, and a meter of the API has an id made at random.
  const body = said
    .replaceAll(/"20(?!25)\d\d-\d\d-\d\dT[\d:.]+Z"/g, '"now"')
    .replaceAll(/"01J[0-9A-Z]{23}"/g, '"random"')
  if (body !== said) delete headers.etag
  return { status: response.status, headers, body }
}

/**
 * Holds what a customer is answered against the ledger in which the other one never was, and what they ask of the other
 * one against what they ask of nobody.
 * @returns why not; undefined where nothing is told
 */
export async function told(
  { world, alone }: { readonly world: TenantsWorld; readonly alone: TenantsWorld },
  route: string,
  asked: string | Ask,
): Promise<string | undefined> {
  const who = table[route]?.scope === 'bill' ? 'aardvark bill' : 'aardvark read'
  const path = typeof asked === 'string' ? asked : asked.path
  const [one, two] = (await Promise.all([ask(world, who, route, asked), ask(alone, who, route, asked)])).map(
    answer => JSON.stringify(answer),
  )
  if (one !== two) return `with the other one ${one}, without ${two}`
  if (/"status":5/.test(one ?? '')) return one
  // What it names itself it may be told, as it is of one that is nobody.
  if (!/zebra/i.test(path)) return /zebra/i.test(one ?? '') ? one : undefined
  const rename = (text: string) => text.replaceAll('Zebra', 'Hyena').replaceAll('zebra', 'hyena')
  const nobodys = JSON.stringify(await ask(world, who, route, rename(path)))
  return rename(one ?? '') === nobodys ? undefined : `of the other one ${one}, of nobody ${nobodys}`
}
