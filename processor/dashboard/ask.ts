/** Asks the API as who holds the key, and says in words why it did not answer. */

/** The API did not answer with what was asked: its problem (RFC 9457), or that it is away. */
export class Refusal extends Error {
  /** 0 where no answer came. */
  readonly status: number
  readonly code: string | undefined
  /** When to come again; undefined where that would not help. */
  readonly retryAfterMs: number | undefined

  constructor(
    status: number,
    message: string,
    about: { readonly code?: string | undefined; readonly retryAfterMs?: number | undefined } = {},
  ) {
    super(message)
    this.status = status
    this.code = about.code
    this.retryAfterMs = about.retryAfterMs
  }
}

export type Params = Readonly<Record<string, string | undefined>>
export type Ask = <Answer>(path: string, params: Params, signal: AbortSignal) => Promise<Answer>

const againMs = 5000
const keyName = 'meterline-key'

/** The key of this tab: from `#key=…`, which leaves the address at once, or from before in the same tab. */
export function takeKey(): string | undefined {
  const given = new URLSearchParams(location.hash.slice(1)).get('key')
  if (given) {
    sessionStorage.setItem(keyName, given)
    history.replaceState(history.state, '', location.pathname + location.search)
  }
  return sessionStorage.getItem(keyName) ?? undefined
}

export function keepKey(key: string | undefined): void {
  if (key === undefined) sessionStorage.removeItem(keyName)
  else sessionStorage.setItem(keyName, key)
}

/** @throws Refusal */
export const ask: Ask = async <Answer>(path: string, params: Params, signal: AbortSignal) => {
  const url = new URL(`api/v1/${path}`, document.baseURI)
  for (const [name, value] of Object.entries(params))
    if (value !== undefined) url.searchParams.append(name, value)
  const key = sessionStorage.getItem(keyName)
  let response: Response
  try {
    response = await fetch(url, {
      signal,
      cache: 'no-cache',
      credentials: 'omit',
      headers: { accept: 'application/json', ...(key !== null && { authorization: `Bearer ${key}` }) },
    })
  } catch (error) {
    if (signal.aborted) throw error
    throw new Refusal(0, 'Meterline cannot be reached from here.', { retryAfterMs: againMs })
  }
  if (response.ok) return (await response.json()) as Answer
  const problem = (await response.json().catch(() => ({}))) as {
    readonly title?: string
    readonly detail?: string
    readonly code?: string
    readonly retryable?: boolean
  }
  const after = Number(response.headers.get('retry-after') ?? Number.NaN)
  const comesBack = problem.retryable === true || [429, 502, 503, 504].includes(response.status)
  throw new Refusal(response.status, problem.detail ?? problem.title ?? `HTTP ${response.status}`, {
    code: problem.code,
    retryAfterMs: Number.isFinite(after) ? Math.max(1, after) * 1000 : comesBack ? againMs : undefined,
  })
}
