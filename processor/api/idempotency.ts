/**
 * Requests that write are done once under an `Idempotency-Key`: the same request again gets the answer of the first, also
 * after a restart. Owns what is remembered of them, for a day, and for whom.
 */
import { hash } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { canonicalJson } from '../../schemas/canonical.ts'
import { asFault, Fault } from '../../schemas/fault.ts'
import { dayMs } from '../../schemas/window.ts'
import type { Store } from '../store.ts'

/** Printable ASCII, as the header's draft has it. */
const keyShape = /^[!-~]{1,255}$/
export const rememberedMs = dayMs

interface Remembered {
  readonly request: string
  readonly status: number
  readonly type: string
  readonly body: string
  /** False where the answer showed something once. */
  readonly kept: boolean
}

/** Of a request that is done under a key: what it is remembered by. */
interface Running {
  readonly key: string
  readonly request: string
}

declare module 'fastify' {
  interface FastifyRequest {
    idempotent: Running | undefined
  }
}

/**
 * Adds what is done before and after the routes that say `idempotent`. Two processors that get the same request at the same
 * moment both do it: what a route makes twice it must refuse by itself (a slug, a name).
 */
export function rememberWrites(
  app: FastifyInstance,
  {
    store,
    nowMs,
    onFault,
  }: {
    readonly store: Store
    readonly nowMs: () => number
    readonly onFault: (fault: Fault) => void
  },
): void {
  const running = new Set<string>()
  app.decorateRequest('idempotent', undefined)

  app.addHook('preHandler', async (request, reply) => {
    const { declared } = request.routeOptions.config
    const given = request.headers['idempotency-key']
    if (!declared?.idempotent || given === undefined) return
    if (typeof given !== 'string' || !keyShape.test(given))
      throw new Fault('USAGE', 'header idempotency-key: must be 1 to 255 printable characters without spaces')
    const asked = namedBy(request, given)
    if (running.has(asked.key))
      throw new Fault('IDEMPOTENCY_RUNNING', 'a request with this Idempotency-Key is still being done')
    // From here on nobody else does it; what was done before is looked up behind that.
    running.add(asked.key)
    let isOurs = false
    try {
      const before = await remembered(store, asked.key, nowMs())
      if (before) return answerAgain(before, asked, reply)
      request.idempotent = asked
      isOurs = true
    } finally {
      if (!isOurs) running.delete(asked.key)
    }
  })

  // It comes for every request that got so far, also where nobody is there any more to read the answer.
  app.addHook('onSend', async (request, reply, payload) => {
    const { idempotent: asked } = request
    if (!asked) return payload
    request.idempotent = undefined
    try {
      // What may go better the next time is to be done then.
      if (reply.statusCode < 500 && reply.statusCode !== 429) await remember(request, reply, asked, payload)
    } catch (error) {
      // It is done all the same, and who asked is told so: only its repetition would not be known.
      onFault(asFault(error, 'STORE_UNREACHABLE'))
    } finally {
      running.delete(asked.key)
    }
    return payload
  })

  const remember = async (request: FastifyRequest, reply: FastifyReply, asked: Running, payload: unknown) => {
    const kept = request.routeOptions.config.declared?.idempotent === 'answer' || reply.statusCode >= 300
    const type = String(reply.getHeader('content-type') ?? '')
    const body = kept ? textOf(payload) : ''
    const row = [
      asked.key,
      asked.request,
      reply.statusCode,
      type,
      body,
      kept,
      new Date(nowMs()).toISOString(),
    ]
    const columns = ['key', 'request', 'status', 'type', 'body', 'kept', 'at']
    await store.insert('idempotency', columns, [JSON.stringify(row)])
  }
}

/** The key is the caller's own: two callers may use the same text. */
function namedBy({ caller, method, url, body }: FastifyRequest, given: string): Running {
  return {
    key: hash('sha256', JSON.stringify([caller.name, caller.account ?? null, given]), 'hex'),
    request: hash('sha256', `${method} ${url}\n${body === undefined ? '' : canonicalJson(body)}`, 'hex'),
  }
}

async function remembered(store: Store, key: string, nowMs: number): Promise<Remembered | undefined> {
  const rows = await store.rows<Remembered>(
    `select request, status, type, body, kept from idempotency final
     where key = {key:String} and at >= fromUnixTimestamp64Milli({since:Int64})`,
    { key, since: nowMs - rememberedMs },
  )
  return rows[0]
}

/** @throws Fault IDEMPOTENCY_DIFFERS for another request, or an answer that is shown once only */
function answerAgain(before: Remembered, asked: Running, reply: FastifyReply): FastifyReply {
  if (before.request !== asked.request)
    throw new Fault('IDEMPOTENCY_DIFFERS', 'this Idempotency-Key was used for another request')
  if (!before.kept)
    throw new Fault(
      'IDEMPOTENCY_DIFFERS',
      'this was done before, and what it answered is shown once only: make another, under a new key',
    )
  if (before.type !== '') reply.header('content-type', before.type)
  // Bytes: to text that is JSON Fastify would add a charset.
  return reply
    .code(before.status)
    .header('idempotency-replayed', 'true')
    .send(before.body === '' ? undefined : Buffer.from(before.body))
}

function textOf(payload: unknown): string {
  if (typeof payload === 'string') return payload
  if (Buffer.isBuffer(payload)) return payload.toString()
  if (payload === undefined || payload === null) return ''
  throw new Error('an answer that is a stream cannot be given again: this route is not idempotent')
}
