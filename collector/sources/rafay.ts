/**
 * Rafay: the time of its compute and service instances, and the tokens of its models, in two dialects. `billing` is
 * the published API (billing.envmgmt.io); `console` the one that Rafay's script ncp_metrics.py reads (/v2/organizations).
 */
import Fraction from 'fraction.js'
import { Gauge } from 'prom-client'
import Type, { type Static } from 'typebox'
import { mapBounded } from '../../runtime/bounded.ts'
import type { Http } from '../../runtime/http.ts'
import { registry } from '../../runtime/metrics.ts'
import { Secret } from '../../schemas/config.ts'
import { exact, isBoundedDecimal, show, showRounded } from '../../schemas/decimal.ts'
import type { Usage } from '../../schemas/event.ts'
import { Fault, type FaultFacts } from '../../schemas/fault.ts'
import {
  fractionOf,
  isJsonArray,
  isJsonObject,
  type Json,
  JsonNumber,
  type JsonObject,
  parseExact,
} from '../../schemas/json.ts'
import { type MeasureName, measureNames } from '../../schemas/measures.ts'
import {
  dayMs,
  instantMs,
  minuteMs,
  secondMs,
  showInstant,
  showWindow,
  type Window,
} from '../../schemas/window.ts'
import { type Page, readPages } from '../paging.ts'
import { defineSource, type Scope, type Source, type SourceContext } from '../source.ts'

const names = (description: string, defaults: readonly string[]) =>
  Type.Array(Type.String({ minLength: 1 }), { default: [...defaults], description })
const gpuTypeParameters = ['gpu_type', 'GPU Type', 'GPU_TYPE']
const gpuCountParameters = ['GPU', 'GPU Count', 'gpu_count', 'gpus']
const gpuCountDefault = '1'
/** A mapped parameter gives any measure but the two that the rows give themselves. */
const mappable = measureNames.filter(name => name !== 'instance_seconds' && name !== 'gpu_seconds')

export const RafayConfig = Type.Object(
  {
    kind: Type.Optional(Type.Literal('rafay')),
    name: Type.String({
      pattern: '^[A-Za-z0-9._-]{1,128}$',
      description: 'Its name in events: meterline/rafay/<name>.',
    }),
    dialect: Type.Enum(['billing', 'console'], {
      default: 'billing',
      description:
        'billing: the published API, all organizations in one answer. console: the one of ncp_metrics.py, an answer for each organization and profile.',
    }),
    url: Type.String({ minLength: 1, description: 'Address of the console; without a scheme it is https.' }),
    apiKey: Secret("Key of the default organization's admin, sent as x-api-key."),
    opsUrl: Type.Optional(Type.String({ minLength: 1, description: 'Address of the ops console.' })),
    partnerApiKey: Type.Optional(
      Secret(
        'Key of the ops console. billing: with opsUrl, adds the label organization_external_id. console: used to list the organizations.',
      ),
    ),
    kinds: Type.Array(Type.Enum(['compute', 'service']), {
      default: ['compute', 'service'],
      minItems: 1,
      uniqueItems: true,
      description: 'billing: the kinds of instances to read, each a scope.',
    }),
    windowMinutes: Type.Optional(
      Type.Enum([15, 30, 60], {
        description:
          'Width of the windows: 15 by default, 60 in the console dialect. Rafay tells hours to six decimals, which hold none of the narrower widths exactly.',
      }),
    ),
    rereadAfterMinutes: Type.Array(Type.Integer({ minimum: 1, maximum: 100_000 }), {
      default: [60, 1440],
      minItems: 1,
      description: 'When a window is read again, counted from its end: figures settle up to an hour late.',
    }),
    retentionDays: Type.Integer({
      default: 3650,
      minimum: 1,
      description: 'How far back the console still answers: windows before are faulted, not taken for empty.',
    }),
    pageSize: Type.Integer({
      default: 400,
      minimum: 1,
      maximum: 10_000,
      description: 'Rows to ask for in a page; Rafay gives 10 to who does not ask.',
    }),
    concurrency: Type.Integer({
      default: 4,
      minimum: 1,
      maximum: 64,
      description: 'How many scopes are read at once: Rafay takes seconds for an answer.',
    }),
    gpuTypeParameters: names(
      'Parameters that name the GPU type, the first one present counts.',
      gpuTypeParameters,
    ),
    gpuCountParameters: names(
      'Parameters that give the number of GPUs, the first one present counts.',
      gpuCountParameters,
    ),
    gpuCountDefault: Type.String({
      default: gpuCountDefault,
      pattern: '^(0|[1-9][0-9]{0,5})(\\.[0-9]{1,6})?$',
      description: 'GPUs of an instance that names a GPU type but no number.',
    }),
    customerParameter: Type.Optional(
      Type.String({ minLength: 1, description: 'A parameter whose text becomes the label `customer`.' }),
    ),
    measures: Type.Array(
      Type.Object(
        {
          parameter: Type.String({ minLength: 1, description: 'Name of the parameter.' }),
          measure: Type.Enum(mappable, { description: 'The measure it becomes.' }),
          perUnit: Type.String({
            default: '1',
            pattern: '^(0|[1-9][0-9]{0,23})(\\.[0-9]{1,12})?$',
            description: 'What one unit of it is in the unit of the measure: 1000000000 for GB.',
          }),
        },
        { additionalProperties: false },
      ),
      {
        default: [],
        description:
          'Parameters to take as measures, by their hours times 3600: a quantity as it is, a label as its number times the hours.',
      },
    ),
    tokenUsage: Type.Optional(
      Type.Object(
        {
          enabled: Type.Boolean({ default: true, description: 'Read token usage, as the scope `tokens`.' }),
          url: Type.Optional(
            Type.String({ minLength: 1, description: 'Address of the ops console, if not opsUrl.' }),
          ),
          apiKey: Secret('Key of the ops console, sent as X-RAFAY.'),
        },
        { additionalProperties: false, description: 'Token usage of the ops API.' },
      ),
    ),
  },
  { additionalProperties: false },
)
export type RafayConfig = Static<typeof RafayConfig>

/** One row of the billing API, or the rows of one name in one profile of a console, or those of one model. */
export type RafayItem =
  | { readonly of: 'instance'; readonly kind: string; readonly row: Json; readonly externalId?: string }
  | {
      readonly of: 'console'
      readonly place: ConsolePlace
      readonly name?: string
      readonly rows: readonly Json[]
    }
  | {
      readonly of: 'tokens'
      readonly subject?: string
      readonly model?: string
      readonly rows: readonly Json[]
    }

/** Where rows of the console dialect come from: they do not say it themselves. */
export interface ConsolePlace {
  readonly subject: string
  readonly organization: string
  readonly profile: string
  readonly profileType: string
}

const tokensScope = 'tokens'
/** Lists ask for no more than the collections do. */
const listPageSizeMax = 100
const tenantsKeptMs = 15 * minuteMs
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

export const rafay = defineSource({
  kind: 'rafay',
  summary: 'Time of Rafay instances by organization, profile and GPU type, and tokens of its models.',
  config: RafayConfig,
  open(config: RafayConfig, context: SourceContext): Source<RafayItem> {
    const widthMinutes = config.windowMinutes ?? (config.dialect === 'billing' ? 15 : 60)
    const retentionMs = config.retentionDays * dayMs
    const reader = config.dialect === 'billing' ? openBilling(config, context) : openConsole(config, context)
    const tokens = config.tokenUsage?.enabled ? openTokens(config, context) : undefined
    return {
      widthMinutes,
      rereadAfterMs: [...new Set(config.rereadAfterMinutes)].sort((a, b) => a - b).map(m => m * minuteMs),
      retentionMs,
      concurrency: config.concurrency,
      async scopes(signal) {
        const scopes = await reader.scopes(signal)
        return tokens ? [...scopes, { scope: tokensScope }] : scopes
      },
      async *read(scope, window, signal) {
        const nowMs = context.nowMs()
        if (window.endMs > nowMs)
          throw new Fault('WINDOW_UNKNOWABLE', `${showWindow(window)} is not over yet`, { scope })
        if (window.startMs < nowMs - retentionMs)
          throw new Fault(
            'WINDOW_UNKNOWABLE',
            `${showWindow(window)} is more than ${config.retentionDays} days ago (retentionDays)`,
            { scope },
          )
        const items =
          scope === tokensScope && tokens
            ? await tokens(window, signal)
            : await reader.read(scope, window, signal)
        for (const item of items) {
          stopIfAborted(signal)
          yield item
        }
      },
      toUsage: item => [usageOf(item, config)],
      async [Symbol.asyncDispose]() {},
    }
  },
})

function stopIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw new Fault('ABORTED', 'stopped while reading')
}

interface Reader {
  scopes(signal: AbortSignal): Promise<readonly Scope[]>
  read(scope: string, window: Window, signal: AbortSignal): Promise<readonly RafayItem[]>
}

// -- billing dialect

function openBilling(config: RafayConfig, context: SourceContext): Reader {
  const base = baseUrl(config.url, 'url')
  const tenants = openTenants(config, context)

  async function read(kind: string, window: Window, signal: AbortSignal): Promise<readonly RafayItem[]> {
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

/** External ids by organization, from the ops console; nothing where that is not configured. */
function openTenants(config: RafayConfig, context: SourceContext) {
  const { opsUrl, partnerApiKey } = config
  if (opsUrl === undefined || partnerApiKey === undefined) return undefined
  const base = baseUrl(opsUrl, 'opsUrl')
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

/** A SKU's ratecard, in the shape of Rafay's global settings. */
export interface RafayRatecards {
  readonly profiles: readonly { readonly name: string; readonly billing: JsonObject }[]
}

/**
 * The ratecards that SKUs carry in `spec.billing` (or `billing`), as one document of the shape of Rafay's global
 * settings. Where a console keeps them in its global settings only, there are none here.
 */
export async function readRatecards(
  config: RafayConfig,
  context: Pick<SourceContext, 'http' | 'secret'>,
  signal: AbortSignal,
): Promise<RafayRatecards> {
  const profiles: { name: string; billing: JsonObject }[] = []
  for (const kind of config.kinds) {
    const about = `SKUs of kind ${kind}`
    const rows = await readPages({
      about,
      pageSize: Math.min(config.pageSize, listPageSizeMax),
      ask: async page => {
        const body = await askJson(context.http, {
          base: baseUrl(config.url, 'url'),
          path: `/apis/paas.envmgmt.io/v1/projects/system-catalog/${kind}profiles`,
          query: page,
          headers: { 'x-api-key': context.secret(config.apiKey) },
          endpoint: 'rafay.skus',
          about,
          facts: {},
          signal,
        })
        return pageOf(body, 'items', about, {})
      },
    })
    for (const row of rows) {
      const metadata = isJsonObject(row) ? row.metadata : undefined
      const name = isJsonObject(metadata) ? metadata.name : undefined
      if (!isJsonObject(row) || typeof name !== 'string')
        throw new Fault('BODY_UNREADABLE', `${about}: one has no metadata.name`, { path: '/items' })
      const billing = (isJsonObject(row.spec) ? row.spec.billing : undefined) ?? row.billing
      if (isJsonObject(billing)) profiles.push({ name, billing })
    }
  }
  return { profiles }
}

// -- console dialect

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
  /** As `baseUrl` gives it. */
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

function openConsole(config: RafayConfig, context: SourceContext): Reader {
  const { partnerApiKey } = config
  const console = rafayConsole({
    http: context.http,
    base: baseUrl(config.url, 'url'),
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

  async function read(scope: string, window: Window, signal: AbortSignal): Promise<readonly RafayItem[]> {
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
    const items: RafayItem[] = []
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

// -- token usage

/**
 * Names under which token usage may tell each thing: Rafay publishes the call, not its answer (Token Usage
 * collection), so the usual names are taken and a row without them is a gap, never a zero.
 */
const tokenFields = {
  organization: ['organization_id', 'organizationId', 'org_id', 'orgId'],
  organizationName: ['organization_name', 'organizationName', 'org_name', 'orgName', 'organization'],
  model: ['model_id', 'modelId', 'model', 'model_name', 'modelName'],
  modelName: ['model_name', 'modelName', 'model', 'model_id', 'modelId'],
  input: ['input_tokens', 'inputTokens', 'prompt_tokens', 'promptTokens'],
  output: ['output_tokens', 'outputTokens', 'completion_tokens', 'completionTokens'],
  total: ['total_tokens', 'totalTokens', 'tokens'],
} as const

function openTokens(config: RafayConfig, context: SourceContext) {
  const { tokenUsage, opsUrl } = config
  const base = baseUrl(tokenUsage?.url ?? opsUrl ?? config.url, 'tokenUsage.url')
  return async (window: Window, signal: AbortSignal): Promise<readonly RafayItem[]> => {
    const about = 'token usage'
    const facts = { scope: tokensScope }
    const rows = await readPages({
      about,
      facts,
      pageSize: config.pageSize,
      ask: async ({ offset, limit }) => {
        const body = await askJson(context.http, {
          base,
          path: '/api.gaap.k8smgmt.io/v1alpha1/model/usage/aggregated',
          // Its sister call counts pages, from 0: both ways are said, and mean the same.
          query: { limit, offset, page: Math.floor(offset / limit) },
          headers: {
            'content-type': 'application/json',
            'X-RAFAY': context.secret(tokenUsage?.apiKey ?? ''),
          },
          body: JSON.stringify({ start: window.startMs / secondMs, end: window.endMs / secondMs }),
          endpoint: 'rafay.token_usage',
          about,
          facts,
          signal,
        })
        return pageOf(body, onlyArrayOf(body) ?? 'items', about, facts)
      },
    })
    const items: RafayItem[] = []
    const byModel = new Map<string, { subject: string; model: string; rows: Json[] }>()
    for (const row of rows) {
      const subject = textAt(row, tokenFields.organization)
      const model = textAt(row, tokenFields.model)
      if (subject === undefined || model === undefined) {
        items.push({ of: 'tokens', rows: [row], ...(subject !== undefined && { subject }) })
        continue
      }
      const key = JSON.stringify([subject, model])
      const same = byModel.get(key) ?? { subject, model, rows: [] }
      same.rows.push(row)
      byModel.set(key, same)
    }
    for (const same of byModel.values()) items.push({ of: 'tokens', ...same })
    return items
  }
}

/** The key of the one list in the body, if there is just one. */
function onlyArrayOf(body: JsonObject): string | undefined {
  const keys = Object.keys(body).filter(key => isJsonArray(body[key]))
  return keys.length === 1 ? keys[0] : undefined
}

function textAt(row: Json, fields: readonly string[]): string | undefined {
  if (!isJsonObject(row)) return undefined
  for (const field of fields) {
    const value = row[field]
    if (typeof value === 'string' && value !== '') return value
  }
  return undefined
}

// -- from rows to usage, pure

function usageOf(item: RafayItem, config: RafayConfig): Usage {
  if (item.of === 'instance') return instanceUsage(item, config)
  return item.of === 'console' ? consoleUsage(item, config) : tokensUsage(item)
}

/** What a fault of an item says: whose it is, and which field is unfit. */
interface Where {
  readonly subject?: string
  readonly organization?: string
  readonly profile?: string
  readonly instance?: string
}

function unreadable(where: Where, path: string, what: string): Fault {
  const { subject, organization, profile, instance } = where
  const shownOrganization =
    organization !== undefined && organization !== subject ? `${organization} (${subject ?? '?'})` : subject
  const place = [
    `organization ${shownOrganization ?? '?'}`,
    profile !== undefined && `profile ${profile}`,
    instance !== undefined && `instance ${instance}`,
  ]
  return new Fault('ITEM_UNREADABLE', `${place.filter(Boolean).join(', ')}: ${path} ${what}`, {
    ...where,
    path,
  })
}

function instanceUsage(item: Extract<RafayItem, { of: 'instance' }>, config: RafayConfig): Usage {
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

/** The rows of one name are one reading: their hours are summed, and what they say differently is listed. */
function consoleUsage(item: Extract<RafayItem, { of: 'console' }>, config: RafayConfig): Usage {
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

function tokensUsage(item: Extract<RafayItem, { of: 'tokens' }>): Usage {
  const { subject, model, rows } = item
  const where: Where = {
    ...textOf('subject', subject),
    ...textOf('organization', textAt(rows[0] ?? null, tokenFields.organizationName)),
  }
  if (subject === undefined) throw unreadable(where, `/${tokenFields.organization[0]}`, 'is missing')
  if (model === undefined) throw unreadable(where, `/${tokenFields.model[0]}`, 'is missing')
  const sums = new Map<MeasureName, Fraction>()
  const add = (measure: MeasureName, value: Fraction) =>
    sums.set(measure, sums.get(measure)?.add(value) ?? value)
  for (const row of rows) {
    if (!isJsonObject(row)) throw unreadable(where, '/', 'is not an object')
    const present = (fields: readonly string[]) => fields.find(field => row[field] !== undefined)
    const quantity = (field: string | undefined) =>
      field === undefined ? undefined : quantityAt(row, field, { ...where, instance: model })
    const input = quantity(present(tokenFields.input))
    const output = quantity(present(tokenFields.output))
    const total = quantity(present(tokenFields.total)) ?? (input && output && input.add(output))
    if (!total) throw unreadable({ ...where, instance: model }, `/${tokenFields.total[0]}`, 'is missing')
    add('tokens', total)
    if (input) add('input_tokens', input)
    if (output) add('output_tokens', output)
  }
  return {
    thing: tokensScope,
    subject,
    resource: { kind: 'model', id: model },
    measures: showAll(sums, where),
    labels: {
      organization: where.organization ?? subject,
      model: textAt(rows[0] ?? null, tokenFields.modelName) ?? model,
    },
    ...(rows.length > 1 && { parts: rows.length }),
  }
}

interface Parameter {
  readonly name: string
  /** Where it stands in the row. */
  readonly path: string
  readonly isLabel: boolean
  readonly text: string | undefined
  readonly raw: Json | undefined
}

function parametersOf(value: Json | undefined, where: Where): readonly Parameter[] {
  if (value === undefined || value === null) return []
  if (!isJsonArray(value)) throw unreadable(where, '/parameters', 'is not a list')
  const parameters: Parameter[] = []
  for (const [index, parameter] of value.entries()) {
    const path = `/parameters/${index}`
    if (!isJsonObject(parameter)) throw unreadable(where, path, 'is not an object')
    const { name, label_value: label, raw_usage: raw } = parameter
    if (typeof name !== 'string' || name === '') throw unreadable(where, `${path}/name`, unfit(name))
    const text = label instanceof JsonNumber ? label.text : typeof label === 'string' ? label : undefined
    parameters.push({ name, path, isLabel: parameter.is_label === true, text, raw })
  }
  return parameters
}

/** What of the configuration says how parameters are understood. */
type ParameterRules = Pick<
  RafayConfig,
  'gpuTypeParameters' | 'gpuCountParameters' | 'gpuCountDefault' | 'customerParameter' | 'measures'
>
const parameterDefaults: ParameterRules = {
  gpuTypeParameters,
  gpuCountParameters,
  gpuCountDefault,
  measures: [],
}

/**
 * The labels that the parameters of a row make where nothing is configured: what a price of the row may select by.
 * None where they are unreadable, so that such a row has no price.
 */
export function rowLabels(row: JsonObject): Readonly<Record<string, string>> {
  try {
    const own = measuresAndLabels(new Fraction(0), parametersOf(row.parameters, {}), parameterDefaults, {})
    return { ...parameterLabels(own.parameterLabels), ...own.labels }
  } catch (error) {
    if (error instanceof Fault) return {}
    throw error
  }
}

/** The quantities of one row, and what it is called; `parameterLabels` are those whose meaning only their maker knows. */
function measuresAndLabels(
  hours: Fraction,
  parameters: readonly Parameter[],
  config: ParameterRules,
  where: Where,
): {
  readonly measures: Map<MeasureName, Fraction>
  readonly labels: Record<string, string>
  readonly parameterLabels: Map<string, string>
} {
  const first = (wanted: readonly string[]) => {
    for (const name of wanted) {
      const found = parameters.find(parameter => parameter.name === name)
      if (found) return found
    }
    return undefined
  }
  const type = first(config.gpuTypeParameters)
  const count = first(config.gpuCountParameters)
  const measures = new Map<MeasureName, Fraction>([['instance_seconds', hours.mul(3600)]])
  const labels: Record<string, string> = {}
  const taken = new Set<Parameter>()
  if (type) {
    if (!type.text) throw unreadable(where, `${type.path}/label_value`, `of "${type.name}" is missing`)
    labels.gpu_type = type.text
    taken.add(type)
  }
  if (count || type) {
    // Rafay gives hours in raw_usage and the size as text in label_value (Usage Metrics collection), so GPU time is
    // count × hours; a quantity (is_label false) is multiplied already.
    const gpuHours = count ? hoursOf(count, hours, where) : hours.mul(config.gpuCountDefault)
    measures.set('gpu_seconds', gpuHours.mul(3600))
    if (count?.isLabel && count.text !== undefined) labels.gpu_count = count.text
    if (!count) labels.gpu_count = config.gpuCountDefault
    if (count) taken.add(count)
  }
  for (const { parameter: name, measure, perUnit } of config.measures) {
    const parameter = parameters.find(candidate => candidate.name === name)
    if (!parameter) continue
    const value = hoursOf(parameter, hours, where).mul(3600).mul(exact(perUnit))
    measures.set(measure, measures.get(measure)?.add(value) ?? value)
    if (!parameter.isLabel) taken.add(parameter)
  }
  const customer = parameters.find(({ name }) => name === config.customerParameter)
  if (customer?.text) labels.customer = customer.text
  const parameterLabels = new Map<string, string>()
  for (const parameter of parameters) {
    if (taken.has(parameter)) continue
    // A quantity nobody mapped is kept as well: its raw figure, in units × hours. Its name says so, or a price that
    // multiplies hours by the label would multiply by hours twice.
    const text = parameter.isLabel
      ? parameter.text
      : parameter.raw instanceof JsonNumber
        ? parameter.raw.text
        : undefined
    if (text !== undefined && text !== '')
      parameterLabels.set(`${parameter.isLabel ? '' : 'quantity.'}${parameter.name}`, text)
  }
  return { measures, labels, parameterLabels }
}

/** Size × hours of a parameter: its number times the instance's hours, or its own figure where it is a quantity. */
function hoursOf(parameter: Parameter, hours: Fraction, where: Where): Fraction {
  if (!parameter.isLabel) return quantity(parameter.raw, { ...where }, `${parameter.path}/raw_usage`)
  const text = parameter.text?.trim() ?? ''
  if (!/^(0|[1-9]\d{0,17})(\.\d{1,12})?$/.test(text))
    throw unreadable(
      where,
      `${parameter.path}/label_value`,
      `of "${parameter.name}" is ${parameter.text === undefined ? 'missing' : `"${clip(parameter.text)}"`}, not a number`,
    )
  return hours.mul(exact(text))
}

/** Labels that Meterline gives itself; a parameter of one of these names is kept under `parameter.<name>`. */
const ownLabels = new Set([
  'organization',
  'organization_external_id',
  'project',
  'project_id',
  'profile',
  'profile_id',
  'profile_type',
  'gpu_type',
  'gpu_count',
  'customer',
  'status',
])

/** Parameters keep the names their maker gave them. */
function parameterLabels(parameters: ReadonlyMap<string, string>): Record<string, string> {
  const labels: Record<string, string> = {}
  for (const [name, text] of parameters) labels[ownLabels.has(name) ? `parameter.${name}` : name] = text
  return labels
}

function quantityAt(row: JsonObject, field: string, where: Where): Fraction {
  return quantity(row[field], where, `/${field}`)
}

function quantity(value: Json | undefined, where: Where, path: string): Fraction {
  if (!(value instanceof JsonNumber)) throw unreadable(where, path, unfit(value))
  const fraction = fractionOf(value)
  if (!fraction || fraction.s < 0n) throw unreadable(where, path, `is ${clip(value.text)}, no quantity`)
  return fraction
}

/** Why a value cannot stand where it does. */
function unfit(value: Json | undefined): string {
  if (value === undefined) return 'is missing'
  if (value === null) return 'is null'
  if (typeof value === 'string') return value === '' ? 'is empty' : `is the string "${clip(value)}"`
  return `is ${value instanceof JsonNumber ? 'a number' : isJsonArray(value) ? 'a list' : typeof value}`
}

function showAll(values: ReadonlyMap<MeasureName, Fraction>, where: Where): Usage['measures'] {
  const shown: Partial<Record<MeasureName, string>> = {}
  for (const [measure, value] of values) {
    // A console that computes hours in floats sends noise in the 16th digit; beyond 12 decimals of a second there is
    // nothing else, and an event could not hold it.
    const text = show(value)
    const bounded = isBoundedDecimal(text) ? text : showRounded(value, 12).replace(/\.?0+$/, '')
    if (!isBoundedDecimal(bounded)) throw unreadable(where, measure, 'is beyond 1e24')
    shown[measure] = bounded
  }
  return shown
}

function textOf<Name extends string>(name: Name, value: Json | undefined): { readonly [K in Name]?: string } {
  return typeof value === 'string' && value !== '' ? ({ [name]: value } as { [K in Name]?: string }) : {}
}

function clip(text: string): string {
  return text.length > 80 ? `${text.slice(0, 80)}…` : text
}

// -- calls

/**
 * The address calls begin with: scheme and host, a path if one is given, no slash at the end.
 * @throws Fault CONFIG_INVALID where it is no address of a console.
 */
export function baseUrl(text: string, what: string): string {
  const whole = /^[a-z][a-z0-9+.-]*:\/\//i.test(text.trim()) ? text.trim() : `https://${text.trim()}`
  const url = URL.canParse(whole) ? new URL(whole) : undefined
  const isAddress =
    url !== undefined &&
    (url.protocol === 'https:' || url.protocol === 'http:') &&
    url.username === '' &&
    url.password === '' &&
    !/[?#\s]/.test(whole)
  if (!isAddress)
    throw new Fault(
      'CONFIG_INVALID',
      `${what}: "${clip(text)}" is not the address of a console, such as console.example.com`,
    )
  return url.href.replace(/\/+$/, '')
}

interface Ask {
  readonly base: string
  readonly path: string
  readonly query: Readonly<Record<string, string | number>>
  readonly headers: Readonly<Record<string, string>>
  readonly body?: string
  readonly endpoint: string
  readonly about: string
  readonly facts: FaultFacts
  readonly signal: AbortSignal
}

/** A body that is cut in two though its length is right is not seen by the client: it is asked for again here. */
const bodiesMax = 3

/** @throws Fault BODY_UNREADABLE where the answer is no JSON object; and what the client throws, naming whose it is. */
async function askJson(http: Http, ask: Ask): Promise<JsonObject> {
  const { about, endpoint, signal } = ask
  const facts = { ...ask.facts, endpoint }
  const url = new URL(ask.base + ask.path)
  for (const [name, value] of Object.entries(ask.query)) url.searchParams.set(name, String(value))
  for (let tried = 1; ; tried++) {
    let text: string
    try {
      const answer = await http.request({
        ...(ask.body !== undefined && { method: 'POST', body: ask.body }),
        url: url.href,
        headers: ask.headers,
        endpoint,
        signal,
      })
      text = answer.text
    } catch (error) {
      if (!(error instanceof Fault)) throw error
      throw new Fault(
        error.code,
        `${about}: ${error.message}`,
        { ...error.facts, ...facts },
        { cause: error },
      )
    }
    try {
      const body = parseExact(text)
      if (isJsonObject(body)) return body
      throw new Fault(
        'BODY_UNREADABLE',
        `${about}: the answer is ${isJsonArray(body) ? 'a list' : 'a bare value'}, not an object`,
        facts,
      )
    } catch (error) {
      if (error instanceof Fault) throw error
      if (tried < bodiesMax) continue
      const shown = /^\s*</.test(text) ? 'HTML' : 'no whole JSON'
      throw new Fault('BODY_UNREADABLE', `${about}: the answer is ${shown}`, facts, { cause: error })
    }
  }
}

/**
 * The rows of a body and what it says of its page, at the top or in `metadata`. `null` for rows is not taken for none:
 * nobody knows whether it means that.
 */
function pageOf(body: JsonObject, key: string, about: string, facts: FaultFacts): Page {
  const rows = body[key]
  if (!isJsonArray(rows))
    throw new Fault('BODY_UNREADABLE', `${about}: ${key} ${unfit(rows)}, not a list`, {
      ...facts,
      path: `/${key}`,
    })
  const metadata = isJsonObject(body.metadata) ? body.metadata : {}
  const limit = wholeOf(body.limit) ?? wholeOf(metadata.limit)
  const offset = wholeOf(body.offset) ?? wholeOf(metadata.offset)
  return { rows, ...(limit !== undefined && limit > 0 && { limit }), ...(offset !== undefined && { offset }) }
}

/** A whole number, also as text: 64-bit integers are often written so. */
function wholeOf(value: Json | undefined): number | undefined {
  const text = value instanceof JsonNumber ? value.text : typeof value === 'string' ? value : ''
  return /^\d{1,15}$/.test(text) ? Number(text) : undefined
}
