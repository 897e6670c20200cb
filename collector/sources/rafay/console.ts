/**
 * The console dialect: the API that Rafay's script ncp_metrics.py reads (/v2/organizations), a scope and an answer for
 * each organization and profile. Its three calls are also what `meterline rafay-csv` reads.
 */
import type Fraction from 'fraction.js'
import { Gauge } from 'prom-client'
import { mapBounded } from '../../../runtime/bounded.ts'
import type { Http } from '../../../runtime/http.ts'
import { registry } from '../../../runtime/metrics.ts'
import type { Usage } from '../../../schemas/event.ts'
import { Fault, type FaultFacts } from '../../../schemas/fault.ts'
import { isJsonObject, type Json } from '../../../schemas/json.ts'
import type { MeasureName } from '../../../schemas/measures.ts'
import { showInstant, type Window } from '../../../schemas/window.ts'
import { readPages } from '../../paging.ts'
import type { Scope, SourceContext } from '../../source.ts'
import type { Dialect, RafayConfig } from '../rafay.ts'
import { askJson, consoleUrl, listPageSizeMax, pageOf } from './calls.ts'
import {
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

/** The rows of one name in one profile. Without a name it is one row that says none. */
export interface ConsoleItem {
  readonly of: 'console'
  readonly place: ConsolePlace
  readonly name?: string
  readonly rows: readonly Json[]
}

/** Where rows of the console dialect come from: they do not say it themselves. */
interface ConsolePlace {
  readonly subject: string
  readonly organization: string
  readonly profile: string
  readonly profileType: string
}

/** What Rafay's script says where a console names no type. */
const typeUnknown = 'Unknown'

const organizationsSeen = new Gauge({
  name: 'meterline_rafay_organizations',
  help: 'Organizations in the last listing.',
  labelNames: ['source'],
  registers: [registry],
})
const profilesSeen = new Gauge({
  name: 'meterline_rafay_profiles',
  help: 'Profiles in the last listing, over all organizations.',
  labelNames: ['source'],
  registers: [registry],
})

/** The three calls of the console dialect, each a whole answer over all its pages: rows as they are. */
export interface RafayConsole {
  organizations(signal: AbortSignal): Promise<readonly Json[]>
  profiles(organization: string, signal: AbortSignal): Promise<readonly Json[]>
  usage(
    of: {
      readonly organization: string
      readonly profile: string
      readonly start: string
      readonly end: string
    },
    signal: AbortSignal,
  ): Promise<readonly Json[]>
}

export function rafayConsole(options: {
  readonly http: Http
  /** As `consoleUrl` gives it. */
  readonly base: string
  readonly pageSize: number
  readonly apiKey: () => string
  /** The key for the list of organizations, where that is another one. */
  readonly partnerApiKey?: (() => string) | undefined
}): RafayConsole {
  const { http, base, pageSize, apiKey, partnerApiKey } = options

  function rows(call: {
    readonly path: string
    readonly query?: Readonly<Record<string, string>>
    readonly headers: Readonly<Record<string, string>>
    readonly key: string
    readonly endpoint: string
    readonly about: string
    readonly facts: FaultFacts
    readonly pageSize: number
    readonly signal: AbortSignal
  }): Promise<readonly Json[]> {
    const { about, facts } = call
    return readPages({
      about,
      facts,
      pageSize: call.pageSize,
      ask: async page =>
        pageOf(
          await askJson(http, { ...call, base, query: { ...call.query, ...page } }),
          call.key,
          about,
          facts,
        ),
    })
  }
  const headers = () => ({ 'content-type': 'application/json', 'x-api-key': apiKey() })
  const listPageSize = Math.min(pageSize, listPageSizeMax)

  return {
    organizations: signal =>
      rows({
        path: '/v2/organizations',
        // A partner's key has a header of its own in the ops API; which one this path reads is not published.
        headers: partnerApiKey
          ? { ...headers(), 'x-api-key': partnerApiKey(), 'X-RAFAY-API-KEYID': partnerApiKey() }
          : headers(),
        key: 'items',
        endpoint: 'rafay.organizations',
        about: 'list of organizations',
        facts: {},
        pageSize: listPageSize,
        signal,
      }),
    profiles: (organization, signal) =>
      rows({
        path: `/v2/organizations/${encodeURIComponent(organization)}/ncp/profiles`,
        headers: headers(),
        key: 'items',
        endpoint: 'rafay.profiles',
        about: `profiles of organization ${organization}`,
        facts: { organization },
        pageSize: listPageSize,
        signal,
      }),
    usage: ({ organization, profile, start, end }, signal) =>
      rows({
        path: `/v2/organizations/${encodeURIComponent(organization)}/ncp/profiles/${encodeURIComponent(profile)}/usage`,
        query: { start_time: start, end_time: end },
        headers: headers(),
        key: 'instance_usage_data',
        endpoint: 'rafay.usage',
        about: `organization ${organization}, profile ${profile}`,
        facts: { organization, profile },
        pageSize,
        signal,
      }),
  }
}

interface ConsoleOrganization {
  readonly slug: string
  readonly subject: string
  readonly name: string
}

/** @throws Fault BODY_UNREADABLE where it has no metadata.name: nothing of it can be asked for then. */
function organizationOf(row: Json): ConsoleOrganization {
  const metadata = isJsonObject(row) ? row.metadata : undefined
  const slug = isJsonObject(metadata) ? metadata.name : undefined
  const name = isJsonObject(row) && typeof row.name === 'string' ? row.name : undefined
  if (!isJsonObject(metadata) || typeof slug !== 'string' || slug === '')
    throw new Fault('BODY_UNREADABLE', `organization ${name ?? 'without a name'} has no metadata.name`, {
      organization: name,
      path: '/metadata/name',
    })
  const id = metadata.id
  return { slug, subject: typeof id === 'string' && id !== '' ? id : slug, name: name ?? slug }
}

/** @throws Fault BODY_UNREADABLE where it has no metadata.name. */
function profileOf(
  row: Json,
  organization: ConsoleOrganization,
): { readonly name: string; readonly type: string } {
  const metadata = isJsonObject(row) ? row.metadata : undefined
  const name = isJsonObject(metadata) ? metadata.name : undefined
  if (!isJsonObject(row) || typeof name !== 'string' || name === '')
    throw new Fault('BODY_UNREADABLE', `organization ${organization.slug}: a profile has no metadata.name`, {
      organization: organization.slug,
      path: '/metadata/name',
    })
  const type = isJsonObject(row.spec) ? row.spec.type : undefined
  return { name, type: typeof type === 'string' && type !== '' ? type : typeUnknown }
}

/** `<organization>/<profile>`: the first part is the subject, in which a slash is written %2F. */
function scopeOf(subject: string, profile: string): string {
  return `${subject.replaceAll('%', '%25').replaceAll('/', '%2F')}/${profile}`
}

export function openConsole(config: RafayConfig, context: SourceContext): Dialect<ConsoleItem> {
  const { partnerApiKey } = config
  const console = rafayConsole({
    http: context.http,
    base: consoleUrl(config.url, 'url'),
    pageSize: config.pageSize,
    apiKey: () => context.secret(config.apiKey),
    ...(partnerApiKey !== undefined && { partnerApiKey: () => context.secret(partnerApiKey) }),
  })
  /** What is known of a scope, from the last listing that had it: rows do not name their profile. */
  const known = new Map<
    string,
    { readonly organization: ConsoleOrganization; readonly place: ConsolePlace }
  >()

  function learn(organization: ConsoleOrganization, profile: { name: string; type: string }): string {
    const { subject, name } = organization
    const scope = scopeOf(subject, profile.name)
    const place = { subject, organization: name, profile: profile.name, profileType: profile.type }
    known.set(scope, { organization, place })
    return scope
  }

  async function listed(organization: ConsoleOrganization, signal: AbortSignal): Promise<string[]> {
    const rows = await console.profiles(organization.slug, signal)
    return rows.map(row => learn(organization, profileOf(row, organization)))
  }

  async function scopes(signal: AbortSignal): Promise<readonly Scope[]> {
    const organizations = (await console.organizations(signal)).map(organizationOf)
    const perOrganization = await mapBounded(organizations, config.concurrency, organization =>
      listed(organization, signal),
    )
    organizationsSeen.set({ source: config.name }, organizations.length)
    profilesSeen.set({ source: config.name }, perOrganization.flat().length)
    return [...new Set(perOrganization.flat())].map(scope => ({ scope }))
  }

  /** A scope remembered from before this process, or that is listed no more: only its console can say. */
  async function find(scope: string, signal: AbortSignal) {
    const slash = scope.indexOf('/')
    const prefix = scope.slice(0, slash + 1)
    const organizations = (await console.organizations(signal)).map(organizationOf)
    const organization = organizations.find(({ subject }) => scopeOf(subject, '') === prefix)
    if (!organization || slash < 0)
      throw new Fault('SOURCE_MISSING', `no organization is listed for scope "${scope}"`, { scope })
    await listed(organization, signal)
    if (!known.has(scope)) learn(organization, { name: scope.slice(slash + 1), type: typeUnknown })
    return known.get(scope)
  }

  async function read(scope: string, window: Window, signal: AbortSignal): Promise<readonly ConsoleItem[]> {
    const found = known.get(scope) ?? (await find(scope, signal))
    if (!found) throw new Fault('SOURCE_MISSING', `scope "${scope}" is not listed`, { scope })
    const { organization, place } = found
    const rows = await console.usage(
      {
        organization: organization.slug,
        profile: place.profile,
        start: showInstant(window.startMs),
        end: showInstant(window.endMs),
      },
      signal,
    )
    const items: ConsoleItem[] = []
    const byName = new Map<string, Json[]>()
    for (const row of rows) {
      const name = isJsonObject(row) ? row.instance_name : undefined
      if (typeof name !== 'string' || name === '') items.push({ of: 'console', place, rows: [row] })
      else {
        const same = byName.get(name)
        if (same) same.push(row)
        else byName.set(name, [row])
      }
    }
    for (const [name, same] of byName) items.push({ of: 'console', place, name, rows: same })
    return items
  }

  return { scopes, read }
}

/** The rows of one name are one reading: their hours are summed, and what they say differently is listed. */
export function consoleUsage(item: ConsoleItem, config: RafayConfig): Usage {
  const { place, name, rows } = item
  const { subject, organization, profile, profileType } = place
  const where: Where = { subject, organization, profile, ...(name !== undefined && { instance: name }) }
  if (name === undefined) {
    const [row] = rows
    throw unreadable(where, '/instance_name', unfit(isJsonObject(row) ? row.instance_name : undefined))
  }
  const sums = new Map<MeasureName, Fraction>()
  const texts = new Map<string, Set<string>>()
  for (const row of rows) {
    if (!isJsonObject(row)) throw unreadable(where, '/', 'is not an object')
    const hours = quantityAt(row, row.raw_usage === undefined ? 'usage_hours' : 'raw_usage', where)
    const own = measuresAndLabels(hours, parametersOf(row.parameters, where), config, where)
    for (const [measure, value] of own.measures) sums.set(measure, sums.get(measure)?.add(value) ?? value)
    const labels = { ...parameterLabels(own.parameterLabels), ...own.labels, ...textOf('status', row.status) }
    for (const [label, text] of Object.entries(labels)) {
      const said = texts.get(label) ?? new Set()
      texts.set(label, said.add(text))
    }
  }
  return {
    thing: 'instance',
    subject,
    resource: { kind: 'instance', id: name, name },
    measures: showAll(sums, where),
    labels: {
      ...Object.fromEntries([...texts].map(([label, said]) => [label, [...said].sort().join(', ')])),
      organization,
      profile,
      profile_type: profileType,
    },
    ...(rows.length > 1 && { parts: rows.length }),
  }
}
