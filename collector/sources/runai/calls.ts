/**
 * The calls to a Run:ai control plane: its address, a bearer token that is asked for when it is needed, and JSON answers
 * read exactly. Knows whose answer it is only to name it in a fault.
 */
import { Buffer } from 'node:buffer'
import type { Http } from '../../../runtime/http.ts'
import { Fault, type FaultFacts } from '../../../schemas/fault.ts'
import { isJsonArray, isJsonObject, type Json, JsonNumber, parseExact } from '../../../schemas/json.ts'
import { minuteMs, secondMs } from '../../../schemas/window.ts'
import { baseUrl, stopIfAborted } from '../../asking.ts'
import { unfit } from './unfit.ts'

/** What of the options says how to call. */
export interface RunaiAccess {
  readonly url: string
  readonly auth: 'auto' | 'v2' | 'v1' | 'app_token'
}

export interface RunaiAsk {
  /** Begins with a slash; ids in it are encoded by who asks. */
  readonly path: string
  /** A list is sent as one parameter with commas between (`explode: false` in the OpenAPI files). */
  readonly query?: Readonly<Record<string, string | number | readonly string[]>>
  /** A name for metrics and faults, such as `runai.pods`. */
  readonly endpoint: string
  /** Whose answer it is, for the message of a fault. */
  readonly about: string
  readonly facts?: FaultFacts
  readonly signal: AbortSignal
}

export interface RunaiAnswer {
  /** 200, or 207 where only a part of what was asked is there. */
  readonly status: number
  readonly body: Json
}

export interface RunaiCalls {
  /**
   * One GET, with a token.
   * @throws Fault as `Http.request`, naming what was asked; BODY_UNREADABLE where the answer is no JSON;
   * SOURCE_DENIED also where no token is given.
   */
  get(ask: RunaiAsk): Promise<RunaiAnswer>
}

interface Token {
  readonly text: string
  /** From here on it is not used any more. */
  readonly staleMs: number
}

/** The ways a control plane gives tokens: v2 since 2.24, client_credentials since 2.20, app_token before. */
const grants = ['v2', 'v1', 'app_token'] as const
type Grant = (typeof grants)[number]

/** Run:ai's own client refreshes this long before the end. */
const refreshBeforeMs = 60 * secondMs
/** Where neither the answer nor the token itself says how long it holds (v1 before 2.24, opaque tokens). */
const lifeUnknownMs = 10 * minuteMs
/** A body that is cut in two though its length is right is not seen by the client: it is asked for again here. */
const bodiesMax = 3

export function openCalls(
  access: RunaiAccess,
  given: {
    readonly http: Http
    /** Both are asked for anew for each token, so that a rotated secret counts at once. */
    readonly clientId: () => string
    readonly clientSecret: () => string
    readonly nowMs: () => number
  },
): RunaiCalls {
  const { http, nowMs } = given
  const base = baseUrl(access.url, { option: 'url', what: 'a control plane', example: 'tenant.run.ai' })
  let known: Grant | undefined = access.auth === 'auto' ? undefined : access.auth
  let held: Token | undefined
  let coming: Promise<Token> | undefined

  /** Callers that come together wait for one token; who is stopped meanwhile leaves it to the others. */
  async function token(signal: AbortSignal): Promise<Token> {
    if (held && nowMs() < held.staleMs) return held
    coming ??= newToken().finally(() => {
      coming = undefined
    })
    held = await unlessStopped(coming, signal)
    return held
  }

  async function newToken(): Promise<Token> {
    const tried: Fault[] = []
    for (const grant of known ? [known] : grants)
      try {
        const given = await askToken(grant)
        known = grant
        return given
      } catch (error) {
        if (!(error instanceof Fault)) throw error
        if (known || !isUnknownGrant(grant, error)) throw denied(error)
        tried.push(error)
      }
    const last = tried.at(-1)
    throw new Fault('SOURCE_DENIED', tried.map(({ message }) => message).join('; '), last?.facts ?? {}, {
      cause: last,
    })
  }

  async function askToken(grant: Grant): Promise<Token> {
    const id = given.clientId()
    const secret = given.clientSecret()
    const askedMs = nowMs()
    const endpoint = grant === 'v2' ? 'runai.token_v2' : 'runai.token'
    const form = new URLSearchParams({
      grant_type: 'client_credentials',
      client_id: id,
      client_secret: secret,
    })
    const [path, body, type] =
      grant === 'v2'
        ? ['/api/v2/token', form.toString(), 'application/x-www-form-urlencoded']
        : ['/api/v1/token', JSON.stringify(v1Body(grant, id, secret)), 'application/json']
    let text: string
    try {
      const answer = await http.request({
        method: 'POST',
        url: base + path,
        headers: { 'content-type': type },
        body,
        endpoint,
        // The token is for all who wait; the client's own deadline ends a call that hangs.
        signal: new AbortController().signal,
      })
      text = answer.text
    } catch (error) {
      throw error instanceof Fault ? without(error, [secret]) : error
    }
    return tokenOf(text, { askedMs, endpoint, grant })
  }

  async function get(ask: RunaiAsk): Promise<RunaiAnswer> {
    const { about, endpoint, signal } = ask
    const facts = { ...ask.facts, endpoint }
    let renewed = false
    for (let tried = 1; ; ) {
      let answer: { readonly status: number; readonly text: string }
      let used: Token | undefined
      try {
        used = await token(signal)
        answer = await http.request({
          url: base + ask.path + queryOf(ask.query),
          headers: { authorization: `Bearer ${used.text}` },
          endpoint,
          signal,
        })
      } catch (error) {
        if (!(error instanceof Fault)) throw error
        // A token may be revoked, or its keys rotated, before its time: a new one is asked for once.
        if (used && error.facts.status === 401 && !renewed) {
          renewed = true
          if (held === used) held = undefined
          continue
        }
        const said = without(error, used ? [used.text] : [])
        throw new Fault(said.code, `${about}: ${said.message}`, { ...said.facts, ...facts }, { cause: said })
      }
      try {
        return { status: answer.status, body: parseExact(answer.text) }
      } catch (error) {
        if (tried++ < bodiesMax) continue
        const shown = /^\s*</.test(answer.text) ? 'HTML' : 'no whole JSON'
        throw new Fault('BODY_UNREADABLE', `${about}: the answer is ${shown}`, facts, { cause: error })
      }
    }
  }

  return { get }
}

/** The rows of a list answer. `null` is not taken for none: nobody knows whether it means that. */
export function listOf(body: Json, key: string, ask: Pick<RunaiAsk, 'about' | 'facts'>): readonly Json[] {
  const rows = isJsonObject(body) ? body[key] : undefined
  if (isJsonArray(rows)) return rows
  throw new Fault('BODY_UNREADABLE', `${ask.about}: ${key} ${unfit(rows)}, not a list`, {
    ...ask.facts,
    path: `/${key}`,
  })
}

/** Commas stay commas: servers made from the OpenAPI files split a list before they decode its parts. */
function queryOf(query: RunaiAsk['query']): string {
  const parts = Object.entries(query ?? {}).map(([name, value]) => {
    const values = typeof value === 'object' ? value : [String(value)]
    return `${name}=${values.map(encodeURIComponent).join(',')}`
  })
  return parts.length === 0 ? '' : `?${parts.join('&')}`
}

/** Run:ai reads keys whatever their case; the spelling is that of its OpenAPI files. */
function v1Body(grant: Grant, id: string, secret: string): Readonly<Record<string, string>> {
  return grant === 'app_token'
    ? { grantType: 'app_token', appID: id, appSecret: secret }
    : { grantType: 'client_credentials', clientID: id, clientSecret: secret }
}

/**
 * Does this refusal mean that the control plane is too old for the grant? 404 for v2, which came with 2.24; 400 for
 * client_credentials, of which 2.19 knows nothing (it may also mean wrong credentials: then the next one says so too).
 */
function isUnknownGrant(grant: Grant, fault: Fault): boolean {
  const { status } = fault.facts
  return grant === 'v2' ? status === 404 || status === 405 : grant === 'v1' && status === 400
}

/** A refusal of the token is about the credentials, whatever its status. */
function denied(fault: Fault): Fault {
  return fault.code === 'SOURCE_REFUSED' && (fault.facts.status === 400 || fault.facts.status === 422)
    ? new Fault('SOURCE_DENIED', fault.message, fault.facts, { cause: fault })
    : fault
}

/** In case the control plane repeats what it was sent. */
function without(fault: Fault, secrets: readonly string[]): Fault {
  const message = secrets.reduce(
    (text, secret) => (secret === '' ? text : text.replaceAll(secret, '…')),
    fault.message,
  )
  return message === fault.message ? fault : new Fault(fault.code, message, fault.facts)
}

function tokenOf(
  text: string,
  asked: { readonly askedMs: number; readonly endpoint: string; readonly grant: Grant },
): Token {
  const { endpoint, askedMs, grant } = asked
  let body: Json
  try {
    body = parseExact(text)
  } catch {
    // Nothing of the text is shown: half a token may be in it.
    throw new Fault('BODY_UNREADABLE', `${endpoint}: the answer is no whole JSON`, { endpoint })
  }
  const fields = isJsonObject(body) ? body : {}
  const token = grant === 'v2' ? fields.access_token : fields.accessToken
  if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token))
    throw new Fault('BODY_UNREADABLE', `${endpoint}: the answer holds no token`, { endpoint })
  const seconds = wholeOf(grant === 'v2' ? fields.expires_in : fields.expiresIn)
  const lifeMs = seconds === undefined ? (lifeOfJwt(token) ?? lifeUnknownMs) : seconds * secondMs
  // A token of a short life is used for half of it rather than never.
  return { text: token, staleMs: askedMs + Math.max(lifeMs - refreshBeforeMs, lifeMs / 2) }
}

/** From its own issue to its own end, so that a clock which differs from ours does not matter. */
function lifeOfJwt(token: string): number | undefined {
  const payload = token.split('.')[1]
  if (payload === undefined) return undefined
  try {
    const claims = parseExact(Buffer.from(payload, 'base64url').toString('utf8'))
    const [from, to] = isJsonObject(claims) ? [wholeOf(claims.iat), wholeOf(claims.exp)] : []
    return from === undefined || to === undefined || to <= from ? undefined : (to - from) * secondMs
  } catch {
    return undefined
  }
}

/** A count of seconds; JWTs may write theirs with a fraction. */
function wholeOf(value: Json | undefined): number | undefined {
  const text = value instanceof JsonNumber ? value.text : typeof value === 'string' ? value : ''
  return /^\d{1,12}(\.\d+)?$/.test(text) ? Math.floor(Number(text)) : undefined
}

async function unlessStopped<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  stopIfAborted(signal)
  let stop: () => void = () => {}
  const stopped = new Promise<never>((_, reject) => {
    stop = () => reject(new Fault('ABORTED', 'stopped while waiting for a token'))
    signal.addEventListener('abort', stop, { once: true })
  })
  try {
    return await Promise.race([work, stopped])
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
