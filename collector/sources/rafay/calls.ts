/**
 * The calls to a console and its ops API: addresses, JSON answers read exactly, and the pages of a list. Knows whose
 * answer it is only to name it in a fault.
 */
import type { Http } from '../../../runtime/http.ts'
import { Fault, type FaultFacts } from '../../../schemas/fault.ts'
import {
  isJsonArray,
  isJsonObject,
  type Json,
  JsonNumber,
  type JsonObject,
  parseExact,
} from '../../../schemas/json.ts'
import { baseUrl } from '../../asking.ts'
import type { Page } from '../../paging.ts'
import { unfit } from './rows.ts'

/** Lists ask for no more than the collections do. */
export const listPageSizeMax = 100

/** @throws Fault CONFIG_INVALID where it is no address of a console. */
export function consoleUrl(text: string, option: string): string {
  return baseUrl(text, { option, what: 'a console', example: 'console.example.com' })
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
export async function askJson(http: Http, ask: Ask): Promise<JsonObject> {
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
export function pageOf(body: JsonObject, key: string, about: string, facts: FaultFacts): Page {
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
