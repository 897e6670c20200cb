/**
 * A stand-in for a Rafay console, both dialects, over HTTP: what the demo runs against, and what tests make misbehave.
 * Its billing answers have the shape of the one published response (Usage Metrics collection); of the console dialect
 * only the fields that Rafay's script reads are known.
 */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleepFor } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import {
  isJsonArray,
  isJsonObject,
  type Json,
  JsonNumber,
  type JsonObject,
  parseExact,
  stringifyExact,
} from '../../schemas/json.ts'
import { hourMs, instantMs, showInstant } from '../../schemas/window.ts'

export type RafayKind = 'compute' | 'service'

export interface RafayOrganization {
  id: string
  name: string
  /** metadata.name of the console dialect: what its paths say. */
  slug: string
  externalId?: string
}

/** A profile is what Rafay sells as a SKU. */
export interface RafayProfile {
  id: string
  name: string
  kind: RafayKind
  /** Who sees it in the console dialect; everybody where absent. */
  organizationIds?: string[]
  /** Its ratecard, as Rafay's global settings write it. */
  billing?: Json
}

/** A billable parameter: a label with its text, or a quantity whose hours are multiplied by `factor`. */
export type RafayParameter = { name: string; label: string } | { name: string; factor: number }

export interface RafayInstance {
  id: string
  name: string
  organizationId: string
  profileId: string
  projectId?: string
  projectName?: string
  /** It lives in `[startMs, endMs)`, still where there is no end. */
  startMs: number
  endMs?: number
  status?: string
  parameters?: RafayParameter[]
  /** The console's row as it is, whatever the range. */
  row?: JsonObject
}

export interface RafayTokenUse {
  organizationId: string
  model: string
  atMs: number
  inputTokens: number
  outputTokens: number
}

export interface RafayFixture {
  organizations: RafayOrganization[]
  profiles: RafayProfile[]
  instances: RafayInstance[]
  tokens: RafayTokenUse[]
}

export type RafayEndpoint =
  | 'instance_usage'
  | 'profile_usage'
  | 'skus'
  | 'tenants'
  | 'token_usage'
  | 'organizations'
  | 'profiles'
  | 'usage'

/** One call as it came in. */
export interface RafayCall {
  readonly endpoint: RafayEndpoint
  readonly kind?: string
  readonly organization?: string
  readonly profile?: string
  readonly query: Readonly<Record<string, string>>
  /** 1 for the first page of an answer, and so on. */
  readonly page: number
}

/**
 * What can go wrong with an answer: a status; `cut` (the connection ends in mid-body), `truncated` (whole by its
 * length, half a JSON), `reset` (no answer), `hang`, `bad_gzip`; a body of another shape; a row whose usage is unfit
 * (`instance` says which, else the first); the page before once more; or rows shifted by some places.
 */
export type RafayMisbehaviour =
  | { readonly status: number; readonly retryAfter?: string; readonly html?: boolean }
  | { readonly shift: number }
  | 'cut'
  | 'truncated'
  | 'reset'
  | 'hang'
  | 'bad_gzip'
  | 'list'
  | 'empty_object'
  | 'null_rows'
  | 'no_metadata'
  | 'usage_null'
  | 'usage_string'
  | 'usage_missing'
  | 'repeat'

/** A misbehaviour, and which calls it hits: all that match every field given. */
export interface RafayFault {
  readonly endpoint?: RafayEndpoint
  readonly kind?: string
  /** The slug in the path. */
  readonly organization?: string
  readonly profile?: string
  readonly page?: number
  readonly instance?: string
  /** The first matching call that it hits, from 1, and how many from there on (default: all). */
  readonly from?: number
  readonly times?: number
  readonly answer: RafayMisbehaviour
}

export interface RafayDoubleOptions {
  readonly fixture: RafayFixture
  readonly dialects?: readonly ('billing' | 'console')[]
  readonly apiKey?: string
  readonly partnerApiKey?: string
  readonly port?: number
  readonly nowMs?: () => number
  readonly tls?: { readonly cert: string; readonly key: string }
  readonly behaviour?: Partial<RafayBehaviour>
}

/** May be changed while it runs. */
export interface RafayBehaviour {
  latencyMs: number
  /** The page size where a call asks for none: Rafay's is 10. */
  defaultLimit: number
  limitMax: number
  /** Does the reply say which offset and limit it answers? */
  echo: 'both' | 'limit' | 'neither'
  /** The console dialect: its page in `metadata`, at the top level, or all rows whatever is asked. */
  consolePaging: 'metadata' | 'top' | 'none'
  count: 'total' | 'page' | number
  gzip: boolean
  /** Usage of the last lagMs is not counted yet: read later, the same range has more. */
  lagMs: number
  faults: RafayFault[]
  /** Runs before an answer is made: the place to change the fixture between two pages. */
  onCall: (call: RafayCall) => void
}

export interface RafayDouble extends AsyncDisposable {
  readonly url: string
  readonly port: number
  readonly fixture: RafayFixture
  readonly behaviour: RafayBehaviour
  /** The calls so far, oldest first; beyond a hundred thousand the oldest are dropped. */
  readonly calls: RafayCall[]
  close(): Promise<void>
}

export const rafayDemoKey = 'demo-default-org-key'
export const rafayDemoPartnerKey = 'demo-partner-key'
const partnerId = 'd27v024'
const defaultOrganizationId = 'dk3opkn'
const callsKept = 100_000
const answersKept = 100_000

export async function startRafayDouble(options: RafayDoubleOptions): Promise<RafayDouble> {
  const { fixture } = options
  const dialects = options.dialects ?? ['billing', 'console']
  const nowMs = options.nowMs ?? Date.now
  const keys = {
    default: options.apiKey ?? rafayDemoKey,
    partner: options.partnerApiKey ?? rafayDemoPartnerKey,
  }
  const behaviour: RafayBehaviour = {
    latencyMs: 0,
    defaultLimit: 10,
    limitMax: Number.POSITIVE_INFINITY,
    echo: 'both',
    consolePaging: 'metadata',
    count: 'total',
    gzip: true,
    lagMs: 0,
    faults: [],
    onCall: () => {},
    ...options.behaviour,
  }
  const calls: RafayCall[] = []
  const hits = new WeakMap<RafayFault, number>()
  const pages = new Map<string, { readonly page: number; readonly offset: number }>()
  const closing = new AbortController()

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'http://double')
    const route = routeOf(request.method ?? 'GET', url.pathname)
    const asked = await bodyOf(request)
    if (!route || !dialects.includes(dialectOf(route.endpoint)))
      return send(response, 404, { error: 'not found' })
    const denied = denialOf(request, route.endpoint, keys)
    if (denied) return send(response, denied, { error: denied === 401 ? 'no API key' : 'wrong API key' })
    const call: RafayCall = {
      ...route,
      query: Object.fromEntries(url.searchParams),
      page: pageOf(route, url),
    }
    calls.push(call)
    if (calls.length > callsKept) calls.shift()
    behaviour.onCall(call)
    if (behaviour.latencyMs > 0) await sleepFor(behaviour.latencyMs, undefined, { signal: closing.signal })
    const fault = faultFor(call)
    await reply(response, call, asked, fault)
  }

  /** Which page of its answer this call asks for: an answer begins again at offset 0, a retry asks for the same. */
  function pageOf(route: Route, url: URL): number {
    const query = new URLSearchParams(url.searchParams)
    const offset = Number(query.get('offset') ?? '0')
    for (const name of ['offset', 'page', 'limit']) query.delete(name)
    const answerKey = `${route.endpoint} ${route.kind} ${route.organization} ${route.profile} ${query}`
    const last = pages.get(answerKey)
    const page = offset === 0 || !last ? 1 : offset === last.offset ? last.page : last.page + 1
    if (pages.size > answersKept) pages.clear()
    pages.set(answerKey, { page, offset })
    return page
  }

  function faultFor(call: RafayCall): RafayFault | undefined {
    for (const fault of behaviour.faults) {
      const matches =
        (fault.endpoint === undefined || fault.endpoint === call.endpoint) &&
        (fault.kind === undefined || fault.kind === call.kind) &&
        (fault.organization === undefined || fault.organization === call.organization) &&
        (fault.profile === undefined || fault.profile === call.profile) &&
        (fault.page === undefined || fault.page === call.page)
      if (!matches) continue
      const hit = (hits.get(fault) ?? 0) + 1
      hits.set(fault, hit)
      const from = fault.from ?? 1
      if (hit >= from && hit < from + (fault.times ?? Number.POSITIVE_INFINITY)) return fault
    }
    return undefined
  }

  async function reply(
    response: ServerResponse,
    call: RafayCall,
    asked: string,
    fault: RafayFault | undefined,
  ): Promise<void> {
    const how = fault?.answer
    if (how === 'reset') {
      response.destroy()
      return
    }
    if (how === 'hang') {
      await once(response, 'close')
      return
    }
    if (typeof how === 'object' && 'status' in how) {
      if (how.retryAfter !== undefined) response.setHeader('retry-after', how.retryAfter)
      if (!how.html) return send(response, how.status, { error: `made to answer ${how.status}` })
      const page = `<html><head><title>${how.status}</title></head><body>upstream connect error</body></html>`
      response.writeHead(how.status, { 'content-type': 'text/html', server: 'istio-envoy' }).end(page)
      return
    }
    const made = answerTo(call, asked, how)
    if (made.status !== 200) return send(response, made.status, made.body)
    const body = how === undefined ? made.body : bent(made.body, made.rowsKey, how, fault?.instance)
    const text = stringifyExact(body)
    if (how === 'truncated') return sendText(response, text.slice(0, Math.floor(text.length / 2)))
    if (how === 'cut') {
      response.writeHead(200, { 'content-type': 'application/json' })
      response.write(text.slice(0, Math.floor(text.length / 2)))
      await sleepFor(5)
      response.destroy()
      return
    }
    if (how === 'bad_gzip') {
      response.writeHead(200, { 'content-type': 'application/json', 'content-encoding': 'gzip' })
      response.end(gzipSync(text).subarray(0, 12))
      return
    }
    sendText(response, text)
  }

  /** The answer of a console in order, but for rows that are repeated or shifted. */
  function answerTo(
    call: RafayCall,
    asked: string,
    how: RafayMisbehaviour | undefined,
  ): { readonly status: number; readonly body: Json; readonly rowsKey: string } {
    const bad = (error: string) => ({ status: 400, body: { error }, rowsKey: '' })
    const limit = Math.min(behaviour.limitMax, wholeOf(call.query.limit) ?? behaviour.defaultLimit)
    const offset = wholeOf(call.query.offset) ?? 0
    if (Number.isNaN(limit) || Number.isNaN(offset) || limit < 1) return bad('limit and offset are numbers')
    const rows = rowsOf(call, asked)
    if (typeof rows === 'string') return rows === 'not found' ? { ...bad(rows), status: 404 } : bad(rows)
    const unpaged = dialectOf(call.endpoint) === 'console' && behaviour.consolePaging === 'none'
    const moved = how === 'repeat' ? -limit : typeof how === 'object' && 'shift' in how ? how.shift : 0
    const start = Math.max(0, offset + moved)
    const page = unpaged ? rows : rows.slice(start, start + limit)
    const count =
      behaviour.count === 'total' ? rows.length : behaviour.count === 'page' ? page.length : behaviour.count
    const paging: JsonObject = {
      count: whole(count),
      ...(behaviour.echo === 'both' && { offset: whole(offset) }),
      ...(behaviour.echo !== 'neither' && { limit: whole(limit) }),
    }
    return { status: 200, ...enveloped(call, page, unpaged ? undefined : paging) }
  }

  function enveloped(call: RafayCall, rows: readonly Json[], paging: JsonObject | undefined) {
    const { query } = call
    switch (call.endpoint) {
      case 'instance_usage':
      case 'profile_usage': {
        const rowsKey = call.endpoint === 'instance_usage' ? 'instance_usage_data' : 'profile_usage_data'
        const body: JsonObject = {
          kind: call.kind,
          partner_id: partnerId,
          organization_id: defaultOrganizationId,
          [rowsKey]: rows,
          ...paging,
          range_from: wholeSeconds(query.range_from),
          range_to: wholeSeconds(query.range_to),
        }
        return { body, rowsKey }
      }
      case 'skus': {
        const kind = call.kind === 'compute' ? 'ComputeProfileList' : 'ServiceProfileList'
        const body: JsonObject = {
          apiVersion: 'paas.envmgmt.io/v1',
          kind,
          metadata: paging ?? {},
          items: rows,
        }
        return { body, rowsKey: 'items' }
      }
      case 'tenants':
        return { body: { ...paging, next: null, previous: null, results: rows }, rowsKey: 'results' }
      case 'token_usage':
        return { body: { ...paging, items: rows }, rowsKey: 'items' }
      case 'organizations':
      case 'profiles':
      case 'usage': {
        const rowsKey = call.endpoint === 'usage' ? 'instance_usage_data' : 'items'
        const shown = behaviour.consolePaging === 'metadata' && paging ? { metadata: paging } : paging
        return { body: { [rowsKey]: rows, ...shown }, rowsKey }
      }
    }
  }

  /** All rows of an answer, or why there is none. */
  function rowsOf(call: RafayCall, asked: string): readonly Json[] | string {
    const { query } = call
    switch (call.endpoint) {
      case 'instance_usage':
      case 'profile_usage': {
        const range = rangeOf(query.range_from, query.range_to)
        if (!range) return 'range_from and range_to are RFC 3339 times'
        const living = livingIn(range).filter(
          ({ instance }) =>
            profileOf(instance)?.kind === call.kind &&
            (query.instance_organization_id === undefined ||
              query.instance_organization_id === instance.organizationId),
        )
        return call.endpoint === 'instance_usage'
          ? living.map(({ instance, microHours }) => billingRow(instance, microHours, query))
          : profileRows(living, query)
      }
      case 'skus': {
        const named = fixture.profiles.filter(
          profile =>
            profile.kind === call.kind && (call.profile === undefined || profile.name === call.profile),
        )
        return named.map(profile => ({
          apiVersion: 'paas.envmgmt.io/v1',
          kind: profile.kind === 'compute' ? 'ComputeProfile' : 'ServiceProfile',
          metadata: { name: profile.name, id: profile.id, project: 'system-catalog' },
          spec: profile.billing === undefined ? {} : { billing: profile.billing },
        }))
      }
      case 'tenants':
        return fixture.organizations.map(({ id, name, externalId }) => ({
          id,
          name,
          settings: { currency: 'USD' },
          active: true,
          partner_id: partnerId,
          external_id: externalId ?? '',
          created_at: '2026-02-11T13:38:00.868365Z',
        }))
      case 'token_usage':
        return tokenRows(asked)
      case 'organizations':
        return fixture.organizations.map(({ id, name, slug }) => ({ name, metadata: { name: slug, id } }))
      case 'profiles': {
        const organization = organizationOf(call)
        if (!organization) return 'not found'
        return profilesOf(organization).map(({ name, kind }) => ({
          metadata: { name },
          spec: { type: kind },
        }))
      }
      case 'usage': {
        const organization = organizationOf(call)
        const profile = organization && profilesOf(organization).find(({ name }) => name === call.profile)
        const range = rangeOf(query.start_time, query.end_time)
        if (!organization || !profile) return 'not found'
        if (!range) return 'start_time and end_time are RFC 3339 times'
        const own = (instance: RafayInstance) =>
          instance.organizationId === organization.id && instance.profileId === profile.id
        return [
          ...fixture.instances.filter(own).flatMap(({ row }) => (row ? [row] : [])),
          ...livingIn(range)
            .filter(({ instance }) => own(instance))
            .map(({ instance, microHours }) => ({
              instance_name: instance.name,
              usage_hours: hours(microHours),
              status: instance.status ?? 'running',
            })),
        ]
      }
    }
  }

  function organizationOf(call: RafayCall): RafayOrganization | undefined {
    return fixture.organizations.find(({ slug }) => slug === call.organization)
  }

  function profilesOf(organization: RafayOrganization): readonly RafayProfile[] {
    return fixture.profiles.filter(
      ({ organizationIds }) => organizationIds === undefined || organizationIds.includes(organization.id),
    )
  }

  function profileOf(instance: RafayInstance): RafayProfile | undefined {
    return fixture.profiles.find(({ id }) => id === instance.profileId)
  }

  /** Who lived in the range, and for how many millionths of an hour, as far as usage is counted yet. */
  function livingIn(range: Range): readonly Living[] {
    const countedMs = nowMs() - behaviour.lagMs
    const living: Living[] = []
    for (const instance of fixture.instances) {
      if (instance.row) continue
      const endMs = Math.min(instance.endMs ?? Number.POSITIVE_INFINITY, range.toMs, countedMs)
      const usedMs = endMs - Math.max(instance.startMs, range.fromMs)
      if (usedMs > 0) living.push({ instance, microHours: Math.round((usedMs * 1_000_000) / hourMs) })
    }
    return living
  }

  function billingRow(
    instance: RafayInstance,
    microHours: number,
    query: Readonly<Record<string, string>>,
  ): JsonObject {
    const organization = fixture.organizations.find(({ id }) => id === instance.organizationId)
    return {
      instance_organization_id: instance.organizationId,
      instance_organization_name: organization?.name ?? '',
      instance_project_id: instance.projectId ?? '7krxjzk',
      instance_project_name: instance.projectName ?? 'development',
      profile_id: instance.profileId,
      profile_name: profileOf(instance)?.name ?? '',
      instance_id: instance.id,
      instance_name: instance.name,
      created_at: showInstant(instance.startMs),
      parameters: (instance.parameters ?? []).map(parameter => {
        const used = 'factor' in parameter ? microHours * parameter.factor : microHours
        return {
          name: parameter.name,
          usage: hoursText(used),
          is_label: 'label' in parameter,
          raw_usage: hours(used),
          ...('label' in parameter && { label_value: parameter.label }),
        }
      }),
      usage: hoursText(microHours),
      raw_usage: hours(microHours),
      start_time: wholeSeconds(query.range_from),
      end_time: wholeSeconds(query.range_to),
    }
  }

  function profileRows(living: readonly Living[], query: Readonly<Record<string, string>>): readonly Json[] {
    const sums = new Map<string, { instance: RafayInstance; microHours: number }>()
    for (const { instance, microHours } of living) {
      const key = `${instance.organizationId} ${instance.profileId}`
      const sum = sums.get(key) ?? { instance, microHours: 0 }
      sum.microHours += microHours
      sums.set(key, sum)
    }
    return [...sums.values()].map(({ instance, microHours }) => {
      const row = billingRow(instance, microHours, query)
      const { instance_id: _, instance_name: __, created_at: ___, ...profileRow } = row
      return profileRow
    })
  }

  function tokenRows(asked: string): readonly Json[] | string {
    let range: Json
    try {
      range = parseExact(asked)
    } catch {
      return 'the body is no JSON'
    }
    if (!isJsonObject(range)) return 'start and end are epoch seconds'
    const { start, end } = range
    if (!(start instanceof JsonNumber) || !(end instanceof JsonNumber))
      return 'start and end are epoch seconds'
    const sums = new Map<string, { use: RafayTokenUse; input: number; output: number }>()
    const countedMs = nowMs() - behaviour.lagMs
    for (const use of fixture.tokens) {
      if (
        use.atMs < Number(start.text) * 1000 ||
        use.atMs >= Number(end.text) * 1000 ||
        use.atMs >= countedMs
      )
        continue
      const key = `${use.organizationId} ${use.model}`
      const sum = sums.get(key) ?? { use, input: 0, output: 0 }
      sum.input += use.inputTokens
      sum.output += use.outputTokens
      sums.set(key, sum)
    }
    return [...sums.values()].map(({ use, input, output }) => ({
      organization_id: use.organizationId,
      organization_name: fixture.organizations.find(({ id }) => id === use.organizationId)?.name ?? '',
      model_id: use.model,
      model_name: use.model,
      input_tokens: whole(input),
      output_tokens: whole(output),
      total_tokens: whole(input + output),
    }))
  }

  function sendText(response: ServerResponse, text: string): void {
    const headers = {
      'content-type': 'application/json',
      'x-envoy-upstream-service-time': String(Math.round(behaviour.latencyMs)),
      server: 'istio-envoy',
      vary: 'Accept-Encoding',
    }
    const accepts = String(response.req.headers['accept-encoding'] ?? '').includes('gzip')
    if (behaviour.gzip && accepts)
      response.writeHead(200, { ...headers, 'content-encoding': 'gzip' }).end(gzipSync(text))
    else response.writeHead(200, headers).end(text)
  }

  const listener = (request: IncomingMessage, response: ServerResponse) => {
    answer(request, response).catch(error => {
      if (!response.headersSent && !response.destroyed)
        send(response, 500, { error: error instanceof Error ? error.message : 'failed' })
    })
  }
  const server = options.tls ? createTlsServer(options.tls, listener) : createServer(listener)
  server.listen(options.port ?? 0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const close = async () => {
    closing.abort()
    if (!server.listening) return
    const closed = once(server, 'close')
    server.close()
    server.closeAllConnections()
    await closed
  }
  return {
    url: `${options.tls ? 'https' : 'http'}://127.0.0.1:${port}`,
    port,
    fixture,
    behaviour,
    calls,
    close,
    [Symbol.asyncDispose]: close,
  }
}

interface Range {
  readonly fromMs: number
  readonly toMs: number
}

interface Living {
  readonly instance: RafayInstance
  readonly microHours: number
}

interface Route {
  readonly endpoint: RafayEndpoint
  readonly kind?: string
  readonly organization?: string
  readonly profile?: string
}

function routeOf(method: string, path: string): Route | undefined {
  const parts = path.split('/').filter(Boolean).map(decodeURIComponent)
  const at = (index: number) => parts[index] ?? ''
  if (method === 'POST')
    return /^\/api\.gaap\.k8smgmt\.io\/v1alpha1\/model\/usage\/(total)?aggregated$/.test(path)
      ? { endpoint: 'token_usage' }
      : undefined
  if (method !== 'GET') return undefined
  const metrics =
    /^\/apis\/billing\.envmgmt\.io\/v1\/metrics\/partner\/(instance|profile)\/kind\/(compute|service)\/usage$/
  const metric = metrics.exec(path)
  if (metric)
    return { endpoint: metric[1] === 'instance' ? 'instance_usage' : 'profile_usage', kind: metric[2] ?? '' }
  if (path.startsWith('/apis/paas.envmgmt.io/v1/projects/system-catalog/')) {
    const kinds: Record<string, RafayKind> = { computeprofiles: 'compute', serviceprofiles: 'service' }
    const kind = kinds[at(5)]
    return kind && parts.length === 6 ? { endpoint: 'skus', kind } : undefined
  }
  if (/^\/auth\/v1\/organizations\/?$/.test(path)) return { endpoint: 'tenants' }
  if (at(0) !== 'v2' || at(1) !== 'organizations') return undefined
  if (parts.length === 2) return { endpoint: 'organizations' }
  if (at(3) !== 'ncp' || at(4) !== 'profiles') return undefined
  if (parts.length === 5) return { endpoint: 'profiles', organization: at(2) }
  if (parts.length === 7 && at(6) === 'usage')
    return { endpoint: 'usage', organization: at(2), profile: at(5) }
  return undefined
}

function dialectOf(endpoint: RafayEndpoint): 'billing' | 'console' {
  return endpoint === 'organizations' || endpoint === 'profiles' || endpoint === 'usage'
    ? 'console'
    : 'billing'
}

/** 401 without a key, 403 with a wrong one: each endpoint has its own header, and the ops ones their own key. */
function denialOf(
  request: IncomingMessage,
  endpoint: RafayEndpoint,
  keys: { readonly default: string; readonly partner: string },
): 401 | 403 | undefined {
  const header =
    endpoint === 'tenants' ? 'x-rafay-api-keyid' : endpoint === 'token_usage' ? 'x-rafay' : 'x-api-key'
  const given = request.headers[header]
  if (typeof given !== 'string' || given === '') return 401
  const good =
    header !== 'x-api-key'
      ? [keys.partner]
      : endpoint === 'organizations'
        ? [keys.default, keys.partner]
        : [keys.default]
  return good.includes(given) ? undefined : 403
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}

function send(response: ServerResponse, status: number, body: Json): void {
  response
    .writeHead(status, { 'content-type': 'application/json', server: 'istio-envoy' })
    .end(stringifyExact(body))
}

/** A body as a broken provider would send it. */
function bent(body: Json, rowsKey: string, how: RafayMisbehaviour, instance: string | undefined): Json {
  if (how === 'list') return [body]
  if (how === 'empty_object') return {}
  if (!isJsonObject(body)) return body
  const rows = body[rowsKey]
  if (how === 'null_rows') return { ...body, [rowsKey]: null }
  if (!isJsonArray(rows)) return body
  if (how === 'no_metadata')
    return {
      ...body,
      [rowsKey]: rows.map(row => (isJsonObject(row) ? { ...row, metadata: undefined } : row)),
    }
  if (how !== 'usage_null' && how !== 'usage_string' && how !== 'usage_missing') return body
  const hit = rows.findIndex(
    row => isJsonObject(row) && (instance === undefined || row.instance_name === instance),
  )
  const unfit = how === 'usage_null' ? null : how === 'usage_string' ? '20.59h' : undefined
  return {
    ...body,
    [rowsKey]: rows.map((row, at) => {
      if (at !== hit || !isJsonObject(row)) return row
      return { ...row, ['raw_usage' in row ? 'raw_usage' : 'usage_hours']: unfit }
    }),
  }
}

function rangeOf(from: string | undefined, to: string | undefined): Range | undefined {
  const fromMs = instantMs(from ?? '')
  const toMs = instantMs(to ?? '')
  return fromMs === undefined || toMs === undefined ? undefined : { fromMs, toMs }
}

/** Times of the billing answers are whole seconds, whatever was asked. */
function wholeSeconds(text: string | undefined): string {
  return showInstant(Math.floor((instantMs(text ?? '') ?? 0) / 1000) * 1000)
}

function wholeOf(text: string | undefined): number | undefined {
  if (text === undefined || text === '') return undefined
  return /^\d+$/.test(text) ? Number(text) : Number.NaN
}

function whole(value: number): JsonNumber {
  return new JsonNumber(String(value))
}

/** Hours with six decimals, trailing zeros left out, as the published response has them. */
function hours(microHours: number): JsonNumber {
  const fraction = String(microHours % 1_000_000)
    .padStart(6, '0')
    .replace(/0+$/, '')
  return new JsonNumber(`${Math.floor(microHours / 1_000_000)}${fraction && `.${fraction}`}`)
}

/** The same as text with two decimals: what nobody should meter. */
function hoursText(microHours: number): string {
  return `${(microHours / 1_000_000).toFixed(2)}h`
}

/**
 * The console that Rafay's script was run against to make the golden CSVs: rows are served as they stand in the file,
 * numbers digit for digit.
 */
export function loadGoldenFixture(text: string): RafayFixture {
  const fixture: RafayFixture = { organizations: [], profiles: [], instances: [], tokens: [] }
  const objects = (value: Json | undefined) => (isJsonArray(value) ? value.filter(isJsonObject) : [])
  const string = (value: Json | undefined) => (typeof value === 'string' ? value : '')
  const golden = parseExact(text)
  for (const organization of objects(isJsonObject(golden) ? golden.organizations : undefined)) {
    const metadata = isJsonObject(organization.metadata) ? organization.metadata : {}
    const id = string(metadata.id)
    const slug = string(metadata.name)
    fixture.organizations.push({ id, name: string(organization.name), slug })
    for (const profile of objects(organization.profiles)) {
      const name = string(profile.name)
      const profileId = `${slug}/${name}`
      const kind = profile.type === 'service' ? 'service' : 'compute'
      fixture.profiles.push({ id: profileId, name, kind, organizationIds: [id] })
      for (const row of objects(profile.instances))
        fixture.instances.push({
          id: `${profileId}/${fixture.instances.length}`,
          name: string(row.instance_name),
          organizationId: id,
          profileId,
          startMs: 0,
          row,
        })
    }
  }
  return fixture
}

const juneMs = Date.UTC(2025, 5, 1)
/** Usage is told in millionths of an hour: times that are multiples of 36 s are exact in them, and in hundredths. */
const unitMs = 36_000
const juneUnits = (30 * 24 * hourMs) / unitMs
const unitsAnHour = hourMs / unitMs

/** GPU-hours of June 2025 by type and organization: the table of Rafay's "Usage by GPU type". */
export const juneHours = {
  L40: { 'Org-A': 30, 'Org-B': 60, 'Org-C': 10 },
  A100: { 'Org-A': 10, 'Org-B': 20, 'Org-C': 30 },
  H100: { 'Org-A': 100, 'Org-B': 40, 'Org-C': 33 },
} as const

/** What an hour of each costs in the demo, in USD. */
export const junePrices = { L40: '0.99', A100: '1.79', H100: '2.99' } as const

/** Who pays for June and what: the files of a configuration that say so. `source` is the double's, as it is configured. */
export function juneBilling(source: string) {
  return {
    'accounts.yaml': {
      accounts: juneFixture().organizations.map(({ id, name }) => ({
        id: name,
        currency: 'USD',
        priceBook: 'demo',
        subjects: [{ source, subject: id }],
      })),
    },
    'prices.yaml': {
      id: 'demo',
      version: 1,
      currency: 'USD',
      timezone: 'UTC',
      unpriced: 'error',
      charges: Object.entries(junePrices).map(([gpuType, unit]) => ({
        id: `gpu.${gpuType.toLowerCase()}`,
        meter: 'gpu_hours',
        where: { gpu_type: gpuType },
        unit: 'GPU-Hours',
        price: { unit },
      })),
    },
  }
}

/** The table as lives: several instances a cell, begun and ended at odd minutes, all of them inside June. */
export function juneFixture(): RafayFixture {
  const fixture: RafayFixture = {
    organizations: [
      { id: 'qm7kd2x', name: 'Org-A', slug: 'org-a', externalId: 'A-1001' },
      { id: 'rk29wzn', name: 'Org-B', slug: 'org-b', externalId: 'B-1002' },
      { id: '4mx8k5n', name: 'Org-C', slug: 'org-c', externalId: 'C-1003' },
    ],
    profiles: [],
    instances: [],
    tokens: [],
  }
  const profileNames = { L40: 'small', A100: 'medium', H100: 'large' }
  for (const gpuType of ['L40', 'A100', 'H100'] as const) {
    const profileId = uuidOf(fixture.profiles.length + 1)
    fixture.profiles.push({
      id: profileId,
      name: profileNames[gpuType],
      kind: 'compute',
      billing: parseExact(
        `{"currency":["USD"],"dimensions":["gpu_type"],"ratecard":{"gpu_type":[{"price":${junePrices[gpuType]},"time_unit":"h","currency":"USD","base_value":1,"count_from":"GPU Count","value":"${gpuType}"}]}}`,
      ),
    })
    for (const organization of fixture.organizations) {
      const units = juneHours[gpuType][organization.name as 'Org-A' | 'Org-B' | 'Org-C'] * unitsAnHour
      let left = units
      for (const share of [0.37, 0.29, 0.21, 1]) {
        const lived = Math.min(left, Math.ceil(units * share))
        left -= lived
        const number = fixture.instances.length + 1
        // The first one begins with the month, the last ends with it; the others anywhere between.
        const start =
          number === 1 ? 0 : number === 36 ? juneUnits - lived : (number * 7919 * 17) % (juneUnits - lived)
        fixture.instances.push({
          id: uuidOf(1000 + number),
          name: `${gpuType.toLowerCase()}-vm-${number}`,
          organizationId: organization.id,
          profileId,
          startMs: juneMs + start * unitMs,
          endMs: juneMs + (start + lived) * unitMs,
          parameters: [
            { name: 'gpu_type', label: gpuType },
            { name: 'GPU Count', label: '1' },
            { name: 'Memory', label: '256' },
          ],
        })
      }
    }
  }
  return fixture
}

/** Shaped like Rafay's ids of profiles and instances. */
function uuidOf(number: number): string {
  return `01972800-0000-7000-8000-${String(number).padStart(12, '0')}`
}
