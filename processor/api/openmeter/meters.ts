/**
 * `/api/v1/meters` as OpenMeter has it, over the catalogue. Meters of the catalogue file can be looked at and asked, and
 * are changed in the file alone. A change leaves what it does not name; OpenMeter would take away dims that are not named.
 *
 * What of a meter of ours has no word in OpenMeter's shape is told in `annotations.meterline`, and is lost for who does
 * not look there: the unit and what divides the value (`per`), the filter, `disjoint`, event types beside the first, and
 * that MAX stands for PERCENTILE, which OpenMeter does not have. A measure or label that is named goes as its JSONPath
 * (`$.measures.gpu_seconds`); `subject`, `scope` and `source` as these words. `eventType` is the first of several.
 */
import Type from 'typebox'
import { measureNames } from '../../../schemas/measures.ts'
import type { Meter } from '../../../schemas/meters.ts'
import { isOwnType } from '../../../schemas/pushed.ts'
import { showInstant } from '../../../schemas/window.ts'
import type { Catalogue, CatalogueEntry } from '../../catalogue.ts'
import { type Caller, type Routes, route } from '../route.ts'
import { momentOf } from './asked.ts'
import {
  type WireMeterCreate as Create,
  checkTexts,
  type WireAggregation,
  WireMeter,
  WireMeterCreate,
  WireMeterUpdate,
} from './wire.ts'

const orders = ['key', 'name', 'aggregation', 'createdAt', 'updatedAt'] as const
type OrderBy = (typeof orders)[number]
const tags = ['openmeter'] as const
const Params = Type.Object({
  meterIdOrSlug: Type.String({ minLength: 1, maxLength: 64, description: 'Its id, or its slug.' }),
})

const ListQuery = Type.Object(
  {
    page: Type.Optional(Type.String({ pattern: '^[1-9][0-9]{0,8}$', description: 'From 1, the first.' })),
    pageSize: Type.Optional(
      Type.String({ pattern: '^(?:[1-9][0-9]{0,2}|1000)$', description: '1 to 1000; 100 if not given.' }),
    ),
    order: Type.Optional(Type.Enum(['ASC', 'DESC'])),
    orderBy: Type.Optional(
      Type.Enum(orders, { description: '`key` if not given. By `createdAt` new ones come at the end.' }),
    ),
    includeDeleted: Type.Optional(Type.Enum(['true', 'false', 'True', 'False'])),
  },
  { additionalProperties: false },
)

export interface MeterParts {
  readonly catalogue: Pick<Catalogue, 'list' | 'get' | 'create' | 'update' | 'remove'>
}

export function meterRoutes({ catalogue }: MeterParts): Routes {
  return app => {
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/meters',
        scope: 'read',
        tags,
        summary: 'Lists the meters, page by page',
        description: 'The last page is the one with fewer than `pageSize`.',
        query: ListQuery,
        answers: { 200: { description: 'Meters.', body: Type.Array(WireMeter) } },
        etag: true,
      },
      async ({ query, caller }) => {
        const { page = '1', pageSize = '100', order = 'ASC', orderBy = 'key', includeDeleted } = query
        const entries = await catalogue.list({ withDeleted: includeDeleted?.toLowerCase() === 'true' })
        const sorted = entries.toSorted(byOrder(orderBy, order))
        const first = (Number(page) - 1) * Number(pageSize)
        return sorted.slice(first, first + Number(pageSize)).map(entry => wireMeter(entry, caller))
      },
    )
    route(
      app,
      {
        method: 'POST',
        url: '/api/v1/meters',
        scope: 'admin',
        tags,
        summary: 'Makes a meter',
        description:
          'It answers for all events there ever were, at once; faster when its history is computed. What may be a mistake, a path that stands for nothing in recent events for instance, is told in `annotations.meterline.warnings`.',
        body: WireMeterCreate,
        answers: { 201: { description: 'The meter.', body: WireMeter } },
        problems: [409],
        idempotent: 'answer',
      },
      async ({ body, caller }) => {
        checkTexts('body', body)
        const { name, metadata, eventFrom } = body
        const eventFromMs = momentOf(eventFrom, 'body', 'eventFrom')
        const { entry, warnings } = await catalogue.create(meterOf(body), {
          ...(name !== undefined && { name }),
          ...(metadata !== undefined && { metadata }),
          ...(eventFromMs !== undefined && { eventFromMs }),
        })
        return wireMeter(entry, caller, warnings)
      },
    )
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/meters/:meterIdOrSlug',
        scope: 'read',
        tags,
        summary: 'Gives a meter',
        params: Params,
        answers: { 200: { description: 'The meter.', body: WireMeter } },
        etag: true,
      },
      async ({ params, caller }) => wireMeter(await catalogue.get(params.meterIdOrSlug), caller),
    )
    route(
      app,
      {
        method: 'PUT',
        url: '/api/v1/meters/:meterIdOrSlug',
        scope: 'admin',
        tags,
        summary: 'Changes a meter that was made by API',
        description:
          'What is not said stays. With other dims it is computed anew, and answers as before until that is done.',
        params: Params,
        body: WireMeterUpdate,
        answers: { 200: { description: 'The meter.', body: WireMeter } },
        problems: [409],
      },
      async ({ params: { meterIdOrSlug }, body, caller }) => {
        checkTexts('body', body)
        const { name, description, metadata, groupBy } = body
        const { meter } = await catalogue.get(meterIdOrSlug)
        const { entry, warnings } = await catalogue.update(meterIdOrSlug, {
          meter: {
            ...meter,
            ...(description !== undefined && { description }),
            ...(groupBy !== undefined && { groupBy }),
          },
          ...(name !== undefined && { name }),
          ...(metadata !== undefined && { metadata }),
        })
        return wireMeter(entry, caller, warnings)
      },
    )
    route(
      app,
      {
        method: 'DELETE',
        url: '/api/v1/meters/:meterIdOrSlug',
        scope: 'admin',
        tags,
        summary: 'Removes a meter that was made by API; its events stay',
        params: Params,
        answers: { 204: { description: 'It is gone.' } },
        problems: [409],
      },
      async ({ params }) => {
        await catalogue.remove(params.meterIdOrSlug)
        return undefined
      },
    )
  }
}

function byOrder(orderBy: OrderBy, order: 'ASC' | 'DESC'): (a: CatalogueEntry, b: CatalogueEntry) => number {
  const sign = order === 'ASC' ? 1 : -1
  const keyOf = ({ meter, name, createdMs, updatedMs }: CatalogueEntry): string | number => {
    if (orderBy === 'createdAt') return createdMs
    if (orderBy === 'updatedAt') return updatedMs
    if (orderBy === 'aggregation') return meter.aggregation
    return orderBy === 'name' ? (name ?? meter.slug) : meter.slug
  }
  return (a, b) =>
    sign * (compare(keyOf(a), keyOf(b)) || compare(a.meter.slug, b.meter.slug) || compare(a.id, b.id))
}

function compare(a: string | number, b: string | number): number {
  return a < b ? -1 : a > b ? 1 : 0
}

/** In OpenMeter's shape. What is lost stands at the top of this file. */
export function wireMeter(
  entry: CatalogueEntry,
  { account }: Pick<Caller, 'account'> = {},
  warnings: readonly string[] = [],
) {
  const { meter, name, metadata, eventFromMs, deletedMs } = entry
  const { slug, description, eventTypes, aggregation, value, groupBy } = meter
  const [eventType = ''] = eventTypes
  const dims = Object.entries(groupBy).map(([dim, path]) => [dim, wirePath(path, eventTypes, 'labels')])
  return {
    id: entry.id,
    slug,
    name: name ?? slug,
    ...(description !== undefined && { description }),
    // What its maker remembers is not for their customers.
    ...(metadata !== undefined && account === undefined && { metadata }),
    aggregation: aggregation === 'PERCENTILE' ? 'MAX' : (aggregation satisfies WireAggregation),
    eventType,
    ...(eventFromMs !== undefined && { eventFrom: showInstant(eventFromMs) }),
    ...(value !== undefined && { valueProperty: wirePath(value, eventTypes, 'measures') }),
    groupBy: Object.fromEntries(dims) as Record<string, string>,
    createdAt: showInstant(entry.createdMs),
    updatedAt: showInstant(entry.updatedMs),
    ...(deletedMs !== undefined && { deletedAt: showInstant(deletedMs) }),
    annotations: {
      meterline: {
        ...beyondOpenMeter(entry),
        // What it leaves out may be called by the names of others.
        ...(entry.meter.filter !== undefined && account === undefined && { filter: entry.meter.filter }),
        // How much there is to compute says something of the usage of others.
        ...(account === undefined && stateOf(entry)),
        ...(warnings.length > 0 && { warnings }),
      },
    },
  } as const
}

function beyondOpenMeter({ meter, origin }: CatalogueEntry) {
  const { eventTypes, aggregation, percentile, per, disjoint, unit } = meter
  return {
    origin,
    unit,
    ...(per !== undefined && { per }),
    ...(disjoint !== undefined && { disjoint }),
    ...(eventTypes.length > 1 && { eventTypes }),
    ...(aggregation === 'PERCENTILE' && { aggregation, percentile: percentile ?? '95' }),
  }
}

function stateOf({ state, progress: { hoursDone, hours } }: CatalogueEntry) {
  return { state, ...(state === 'computing' && { progress: { hoursDone, hours } }) }
}

/** Where a name stands in the data: a measure or a label of a reading, a member of what was pushed. */
function wirePath(path: string, eventTypes: readonly string[], folder: 'measures' | 'labels'): string {
  if (path.startsWith('$') || path === 'subject' || path === 'scope' || path === 'source') return path
  const member = /^[A-Za-z_][A-Za-z0-9_]*$/.test(path) ? `.${path}` : `[${quoted(path)}]`
  if (!eventTypes.some(isOwnType)) return `$${member}`
  const isMeasure = folder === 'measures' && (measureNames as readonly string[]).includes(path)
  return `$.${isMeasure ? 'measures' : 'labels'}${member}`
}

function quoted(key: string): string {
  return `'${key.replace(/[\\']/g, '\\$&')}'`
}

/** Of a unit nothing is said in OpenMeter: UCUM's for what has none. */
const unitDefault = '1'

/** The meter that OpenMeter's clients ask for; COUNT ignores the value, as theirs does. */
export function meterOf({
  slug,
  description,
  aggregation,
  eventType,
  valueProperty,
  groupBy,
}: Create): Meter {
  return {
    slug,
    ...(description !== undefined && { description }),
    eventTypes: [eventType],
    aggregation,
    ...(valueProperty !== undefined && aggregation !== 'COUNT' && { value: valueProperty }),
    groupBy: { ...groupBy },
    unit: unitDefault,
  }
}
