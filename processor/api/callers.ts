/** From a request to who asks, and whether a route answers them. Who holds which key is of runtime/keys.ts. */
import type { IncomingMessage } from 'node:http'
import { bearerOf, type Keyless, type Keys, mayComeKeyless } from '../../runtime/keys.ts'
import { Fault } from '../../schemas/fault.ts'
import type { Caller, RouteScope } from './route.ts'

export interface Entrance {
  /** Without them no key is known. */
  readonly keys?: Keys
  /** Who is answered without a key. */
  readonly access: Keyless
  readonly nowMs: () => number
}

/** Whoever is let in without a key. */
const local: Caller = { name: '', scopes: ['ingest', 'amend', 'read', 'bill', 'admin'] }
/** Who asks what anybody may. */
const nobody: Caller = { name: '', scopes: [] }

/**
 * Who asks, where the route answers them. A key that comes along is what counts, also from where none is needed.
 * @throws Fault KEY_UNKNOWN where nobody known asks, KEY_FORBIDS where their key lacks the scope; a fault of the store
 * where the keys in it cannot be read
 */
export async function callerOf(
  request: IncomingMessage,
  scope: RouteScope | undefined,
  { keys, access, nowMs }: Entrance,
): Promise<Caller> {
  if (scope === 'nobody') return nobody
  const token = bearerOf(request)
  if (token === undefined) {
    if (mayComeKeyless(request, access)) return local
    throw new Fault('KEY_UNKNOWN', needed[access])
  }
  const grant =
    (await keys?.authorize(token, nowMs())) ??
    new Fault('KEY_UNKNOWN', 'there are no keys here: see `listen.api`')
  if (grant instanceof Fault) throw grant
  const { name, scopes, account, bounds, requestsPerMinute } = grant
  // A way that is not there asks for no scope: what there is may be known to whoever has a key.
  if (scope !== undefined && scope !== 'any' && !scopes.includes(scope))
    throw new Fault('KEY_FORBIDS', `this asks for a key with the scope ${scope}`)
  return {
    name,
    scopes,
    ...(account !== undefined && { account }),
    ...(bounds && { bodyMaxBytes: bounds.bodyMaxBytes }),
    ...(requestsPerMinute !== undefined && { requestsPerMinute }),
  }
}

const needed: Readonly<Record<Keyless, string>> = {
  keys: 'a key is needed: Authorization: Bearer KEY. To make one: meterline key create --name NAME --scope read',
  loopback:
    'without a key this API answers only programs of the machine it runs on: send Authorization: Bearer KEY',
  anyone: 'a key is needed: Authorization: Bearer KEY',
}
