/**
 * The billing dialect: the published API (billing.envmgmt.io), all organizations in one answer, a scope for each kind
 * of instance; with it what only that API tells, the external ids of organizations.
 */
import type { Usage } from '../../../schemas/event.ts'
import { Fault, type FaultFacts } from '../../../schemas/fault.ts'
import { isJsonArray, isJsonObject, type Json, type JsonObject } from '../../../schemas/json.ts'
import { instantMs, minuteMs, showInstant, type Window } from '../../../schemas/window.ts'
import { stopIfAborted } from '../../asking.ts'
import { readPages } from '../../paging.ts'
import type { SourceContext } from '../../source.ts'
import type { Dialect, RafayConfig } from '../rafay.ts'
import { askJson, consoleUrl, listPageSizeMax, pageOf } from './calls.ts'
import {
  clip,
  measuresAndLabels,
  parameterLabels,
  parametersOf,
  quantityAt,
  showAll,
  textOf,
  unfit,
  unreadable,
  type Where,
} from './rows.ts'

/** One row, and what is known of its organization besides. */
export interface InstanceItem {
  readonly of: 'instance'
  readonly kind: string
  readonly row: Json
  readonly externalId?: string
}

const tenantsKeptMs = 15 * minuteMs

export function openBilling(config: RafayConfig, context: SourceContext): Dialect<InstanceItem> {
  const base = consoleUrl(config.url, 'url')
  const tenants = openTenants(config, context)

  async function read(kind: string, window: Window, signal: AbortSignal): Promise<readonly InstanceItem[]> {
    if (!config.kinds.includes(kind as 'compute'))
      throw new Fault('SOURCE_MISSING', `scope "${kind}" is none of the kinds of this source`, {
        scope: kind,
      })
    const about = `instances of kind ${kind}`
    const facts = { scope: kind }
    const rows = await readPages({
      about,
      facts,
      pageSize: config.pageSize,
      identityOf: instanceOf,
      ask: async page => {
        const body = await askJson(context.http, {
          base,
          path: `/apis/billing.envmgmt.io/v1/metrics/partner/instance/kind/${kind}/usage`,
          query: { range_from: showInstant(window.startMs), range_to: showInstant(window.endMs), ...page },
          headers: { 'x-api-key': context.secret(config.apiKey) },
          endpoint: 'rafay.instance_usage',
          about,
          facts,
          signal,
        })
        checkAnswers(body, { kind, window, about, facts })
        return pageOf(body, 'instance_usage_data', about, facts)
      },
    })
    const externalIds = tenants && (await tenants(signal))
    return rows.map(row => {
      const organization = isJsonObject(row) ? row.instance_organization_id : undefined
      const externalId = typeof organization === 'string' ? externalIds?.get(organization) : undefined
      return { of: 'instance', kind, row, ...(externalId !== undefined && { externalId }) }
    })
  }

  return {
    async scopes(signal) {
      stopIfAborted(signal)
      return config.kinds.map(kind => ({ scope: kind }))
    },
    read,
  }
}

/** Which instance of which organization a row is of; undefined where it does not say. */
function instanceOf(row: Json): string | undefined {
  if (!isJsonObject(row)) return undefined
  const { instance_id: instance, instance_organization_id: organization } = row
  return typeof instance === 'string' && typeof organization === 'string'
    ? `instance ${instance} of organization ${organization}`
    : undefined
}

/** Usage of another range or kind than was asked for must never be billed as this one's. */
function checkAnswers(
  body: JsonObject,
  asked: {
    readonly kind: string
    readonly window: Window
    readonly about: string
    readonly facts: FaultFacts
  },
): void {
  const { kind, window, about, facts } = asked
  if (typeof body.kind === 'string' && body.kind !== kind)
    throw new Fault('BODY_UNREADABLE', `${about}: the answer is of kind "${clip(body.kind)}"`, {
      ...facts,
      path: '/kind',
    })
  for (const [path, ms] of [
    ['range_from', window.startMs],
    ['range_to', window.endMs],
  ] as const) {
    const said = body[path]
    if (typeof said === 'string' && instantMs(said) !== ms)
      throw new Fault(
        'BODY_UNREADABLE',
        `${about}: the answer has ${path} ${clip(said)}, not ${showInstant(ms)}`,
        {
          ...facts,
          path: `/${path}`,
        },
      )
  }
}

export function instanceUsage(item: InstanceItem, config: RafayConfig): Usage {
  const { row, kind } = item
  if (!isJsonObject(row)) throw unreadable({}, '/', 'is not an object')
  const where: Where = {
    ...textOf('subject', row.instance_organization_id),
    ...textOf('organization', row.instance_organization_name),
    ...textOf('profile', row.profile_name),
    ...textOf('instance', row.instance_name),
  }
  const { subject } = where
  if (subject === undefined)
    throw unreadable(where, '/instance_organization_id', unfit(row.instance_organization_id))
  const id = row.instance_id
  if (typeof id !== 'string' || id === '') throw unreadable(where, '/instance_id', unfit(id))
  const hours = quantityAt(row, 'raw_usage', where)
  const parameters = parametersOf(row.parameters, where)
  const own = measuresAndLabels(hours, parameters, config, where)
  return {
    thing: 'instance',
    subject,
    resource: { kind: 'instance', id, ...(where.instance !== undefined && { name: where.instance }) },
    measures: showAll(own.measures, where),
    labels: {
      ...parameterLabels(own.parameterLabels),
      ...own.labels,
      organization: where.organization ?? subject,
      ...textOf('project', row.instance_project_name),
      ...textOf('project_id', row.instance_project_id),
      ...textOf('profile', row.profile_name),
      ...textOf('profile_id', row.profile_id),
      profile_type: kind,
      ...(item.externalId !== undefined && { organization_external_id: item.externalId }),
    },
  }
}

/** External ids by organization, from the ops console; nothing where that is not configured. */
export function openTenants(config: RafayConfig, context: SourceContext) {
  const { opsUrl, partnerApiKey } = config
  if (opsUrl === undefined || partnerApiKey === undefined) return undefined
  const base = consoleUrl(opsUrl, 'opsUrl')
  let kept: { readonly ids: ReadonlyMap<string, string>; readonly atMs: number } | undefined
  return async (signal: AbortSignal): Promise<ReadonlyMap<string, string>> => {
    if (kept && context.nowMs() - kept.atMs < tenantsKeptMs) return kept.ids
    const about = 'organizations of the ops console'
    const rows = await readPages({
      about,
      pageSize: Math.min(config.pageSize, listPageSizeMax),
      ask: async page => {
        const body = await askJson(context.http, {
          base,
          path: '/auth/v1/organizations',
          query: page,
          headers: { 'X-RAFAY-API-KEYID': context.secret(partnerApiKey) },
          endpoint: 'rafay.tenants',
          about,
          facts: {},
          signal,
        })
        return pageOf(body, isJsonArray(body.results) ? 'results' : 'items', about, {})
      },
    })
    const ids = new Map<string, string>()
    for (const row of rows)
      if (
        isJsonObject(row) &&
        typeof row.id === 'string' &&
        typeof row.external_id === 'string' &&
        row.external_id !== ''
      )
        ids.set(row.id, row.external_id)
    kept = { ids, atMs: context.nowMs() }
    return ids
  }
}
