/** Who holds which key, who is let in without one, and the door of what is pushed. What a key may is schemas/keys.ts. */
import { hash, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { isDeepStrictEqual } from 'node:util'
import type { KeyConfig } from '../schemas/config.ts'
import { asFault, describeFault, Fault } from '../schemas/fault.ts'
import { type Grant, keyless, type PushBounds, seesAll } from '../schemas/keys.ts'
import { parseInstant, secondMs } from '../schemas/window.ts'
import { isFromHere } from './problem.ts'
import { type Environment, readSecret } from './secrets.ts'

/** Whoever knows keys: those of the configuration, or of a store. */
export interface Keys {
  /** @returns what who holds the token may do; KEY_UNKNOWN where nobody holds it */
  authorize(token: string, nowMs: number): Grant | Fault | Promise<Grant | Fault>
}

/** Who is answered without a key: nobody, programs of the machine that it runs on, or whoever reaches the port. */
export type Keyless = 'keys' | 'loopback' | 'anyone'

/** The key that comes with a request, empty where it is written as none can be; undefined where none is sent. */
export function bearerOf({
  headers: { authorization = '' },
}: Pick<IncomingMessage, 'headers'>): string | undefined {
  // What stands in front may have asked in a way of its own, Basic for instance.
  if (!/^Bearer\b/i.test(authorization)) return undefined
  return /^Bearer +([A-Za-z0-9._~+/-]+=*) *$/i.exec(authorization)?.[1] ?? ''
}

export function mayComeKeyless(
  request: Pick<IncomingMessage, 'headers' | 'socket'>,
  access: Keyless,
): boolean {
  return access === 'anyone' || (access === 'loopback' && isFromHere(request) && !isOfForeignPage(request))
}

const tokenLengthMax = 1024
const keyLengthMin = 20
/** So often a key that stands in a file or the environment is read again. */
const rereadMs = secondMs

interface Held {
  readonly grant: Grant
  readonly digest: (nowMs: number) => Buffer
}

/** The keys of the configuration. */
export class ConfiguredKeys implements Keys {
  readonly #held: readonly Held[]
  readonly #unread = new Map<string, Fault>()

  /** @throws Fault SECRET_MISSING | CONFIG_INVALID naming the key, never what it is */
  constructor(keys: readonly KeyConfig[], env: Environment, nowMs: number) {
    this.#held = keys.map(key => ({ grant: grantOf(key), digest: this.#digestOf(key, env) }))
    const names = new Map<string, string>()
    for (const { grant, digest } of this.#held) {
      const text = digest(nowMs).toString('hex')
      const other = names.get(text)
      if (other !== undefined)
        throw new Fault('CONFIG_INVALID', `keys ${other} and ${grant.name} are one key: whose would it be?`)
      names.set(text, grant.name)
    }
  }

  authorize(token: string, nowMs: number): Grant | Fault {
    let found: Grant | undefined
    const digest = hash('sha256', token.slice(0, tokenLengthMax), 'buffer')
    // All of them, whichever it is: how long it takes tells nothing.
    for (const held of this.#held) if (timingSafeEqual(held.digest(nowMs), digest)) found ??= held.grant
    if (found === undefined || token.length > tokenLengthMax) return unknownKey()
    return isOver(found, nowMs) ? new Fault('KEY_UNKNOWN', 'this key has expired') : found
  }

  /** For health: keys that could be read before, and now cannot. */
  problem(): string | undefined {
    return this.#unread.size === 0 ? undefined : Array.from(this.#unread.values(), describeFault).join('; ')
  }

  #digestOf({ name, sha256, key }: KeyConfig, env: Environment): Held['digest'] {
    if (key === undefined) {
      const digest = Buffer.from(sha256 ?? '', 'hex')
      return () => digest
    }
    let read: { readonly digest: Buffer; readonly atMs: number } | undefined
    return nowMs => {
      if (read && Math.abs(nowMs - read.atMs) < rereadMs) return read.digest
      try {
        const text = readSecret(key, { env, option: `keys ${name}` })
        if (text.length < keyLengthMin)
          throw new Fault('CONFIG_INVALID', `keys ${name}: a key has ${keyLengthMin} characters or more`)
        read = { digest: hash('sha256', text, 'buffer'), atMs: nowMs }
        this.#unread.delete(name)
      } catch (error) {
        if (!read) throw error
        // While a file is replaced the key that it held goes on: a sender that is told "unknown" does not come again.
        this.#unread.set(name, asFault(error, 'SECRET_MISSING'))
        read = { digest: read.digest, atMs: nowMs }
      }
      return read.digest
    }
  }
}

function grantOf(key: KeyConfig): Grant {
  const { name, scopes, account, expires, sources = [], subjects = [], rate, bodyMaxBytes } = key
  return {
    name,
    scopes,
    ...(account !== undefined && { account }),
    ...(expires !== undefined && { expiresMs: parseInstant(expires, `keys ${name}: expires`) }),
    sources,
    subjects,
    bounds: { ...rate, bodyMaxBytes },
    ...(key.requestsPerMinute !== undefined && { requestsPerMinute: key.requestsPerMinute }),
  }
}

/** Said of every key that is nobody's, whatever is wrong with it. */
export function unknownKey(): Fault {
  return new Fault('KEY_UNKNOWN', 'this key is not known here')
}

export function isOver({ expiresMs }: Grant, nowMs: number): boolean {
  return expiresMs !== undefined && nowMs >= expiresMs
}

/** All keys that a process knows: those of the configuration, and of the store while it has one. */
export class KeyRing implements Keys {
  readonly #configured: Keys
  #stored: Keys | undefined

  constructor(configured: Keys) {
    this.#configured = configured
  }

  /** Asked of what the configuration does not know, until it is disposed of. */
  add(stored: Keys): Disposable {
    this.#stored = stored
    return {
      [Symbol.dispose]: () => {
        if (this.#stored === stored) this.#stored = undefined
      },
    }
  }

  /** @returns a fault of the store where the key may be one of its own, and it cannot be asked */
  async authorize(token: string, nowMs: number): Promise<Grant | Fault> {
    const known = await this.#configured.authorize(token, nowMs)
    return known instanceof Fault && this.#stored ? await this.#stored.authorize(token, nowMs) : known
  }
}

/**
 * May who sends this see what tells of all alike, metrics for instance?
 * @returns why not: KEY_UNKNOWN, KEY_FORBIDS, or a fault of the store; undefined where they may
 */
export async function mayNotSeeAll(
  request: Pick<IncomingMessage, 'headers' | 'socket'>,
  { keys, access, nowMs }: { readonly keys: Keys; readonly access: Keyless; readonly nowMs: number },
): Promise<Fault | undefined> {
  const token = bearerOf(request)
  if (token === undefined)
    return mayComeKeyless(request, access)
      ? undefined
      : new Fault('KEY_UNKNOWN', 'a key is needed: Authorization: Bearer KEY')
  const grant = await keys.authorize(token, nowMs)
  if (grant instanceof Fault) return grant
  return seesAll(grant)
    ? undefined
    : new Fault('KEY_FORBIDS', 'this asks for a key with the scope read or admin that is bound to no account')
}

/** Somebody who may push now. */
export interface Admitted {
  readonly grant: Grant
  /** Says what it pushed, as far as that is known by now: it counts against what it may push next. */
  spend(events: number, bytes: number): void
}

/** Whoever is let in without a key and without bounds. */
export const anybody: Admitted = { grant: keyless, spend: () => undefined }

export interface DoorOptions {
  readonly keys?: Keys
  /** Who comes in without a key. */
  readonly open: Keyless
  readonly nowMs: () => number
  /** A clock that is never set. */
  readonly steadyMs?: () => number
}

/** Decides before a byte of the body is read. */
export class Door {
  readonly #options: DoorOptions
  readonly #steadyMs: () => number
  readonly #rates = new Map<string, Rate>()

  constructor(options: DoorOptions) {
    this.#options = options
    this.#steadyMs = options.steadyMs ?? (() => performance.now())
  }

  /**
   * @returns KEY_UNKNOWN, KEY_FORBIDS, or RATE_EXCEEDED with `retryAfterSeconds` in its facts, where it may not; a fault of the store
   * where the keys in it cannot be read
   */
  async admit(request: Pick<IncomingMessage, 'headers' | 'socket'>): Promise<Admitted | Fault> {
    const { keys, open, nowMs } = this.#options
    const token = bearerOf(request)
    if (token === undefined) {
      if (mayComeKeyless(request, open)) return anybody
      return new Fault(
        'KEY_UNKNOWN',
        open === 'loopback'
          ? 'without a key only programs of the machine it runs on may push'
          : 'a key is needed: Authorization: Bearer KEY',
      )
    }
    if (!keys)
      return mayComeKeyless(request, open) ? anybody : new Fault('KEY_UNKNOWN', 'there are no keys here')
    const grant = await keys.authorize(token, nowMs())
    if (grant instanceof Fault) return grant
    // What cannot be taken is kept as a reject: of who may write nothing, not even that.
    if (!grant.scopes.includes('ingest') && !grant.scopes.includes('amend'))
      return new Fault('KEY_FORBIDS', 'this asks for a key with the scope ingest', { key: grant.name })
    return this.#atItsRate(grant)
  }

  #atItsRate(grant: Grant): Admitted | Fault {
    const { name, bounds } = grant
    if (!bounds) return { grant, spend: () => undefined }
    let rate = this.#rates.get(name)
    if (!rate?.isOf(bounds)) {
      rate = new Rate(bounds, this.#steadyMs())
      this.#rates.set(name, rate)
    }
    const waitMs = rate.waitMs(this.#steadyMs())
    if (waitMs > 0) {
      const retryAfterSeconds = Math.ceil(waitMs / secondMs)
      return new Fault('RATE_EXCEEDED', 'this key has pushed more than it may', {
        key: name,
        retryAfterSeconds,
      })
    }
    return { grant, spend: (events, bytes) => rate.spend(events, bytes) }
  }
}

/** A page in a browser of this machine may post here, whoever made it, and says where it is from. */
function isOfForeignPage({ headers: { origin } }: Pick<IncomingMessage, 'headers'>): boolean {
  if (origin === undefined) return false
  const host = URL.parse(origin)?.hostname
  return !(host === 'localhost' || host === '127.0.0.1' || host === '[::1]')
}

/**
 * What a key may push over time. A request may take more than is left, so that none is too large for it, and the debt is
 * waited for before the next: over any time it is the rate, and one burst.
 */
class Rate {
  readonly #bounds: PushBounds
  #events: number
  #bytes: number
  #atMs: number

  constructor(bounds: PushBounds, nowMs: number) {
    this.#bounds = bounds
    this.#events = bounds.eventsPerSecond * bounds.burstSeconds
    this.#bytes = bounds.bytesPerSecond * bounds.burstSeconds
    this.#atMs = nowMs
  }

  isOf(bounds: PushBounds): boolean {
    return isDeepStrictEqual(this.#bounds, bounds)
  }

  /** How long until something may be pushed; 0 where it may now. */
  waitMs(nowMs: number): number {
    const { eventsPerSecond, bytesPerSecond, burstSeconds } = this.#bounds
    const seconds = Math.max(0, nowMs - this.#atMs) / secondMs
    this.#atMs = nowMs
    this.#events = Math.min(this.#events + seconds * eventsPerSecond, eventsPerSecond * burstSeconds)
    this.#bytes = Math.min(this.#bytes + seconds * bytesPerSecond, bytesPerSecond * burstSeconds)
    const owed = Math.max((1 - this.#events) / eventsPerSecond, (1 - this.#bytes) / bytesPerSecond)
    return Math.max(0, owed * secondMs)
  }

  spend(events: number, bytes: number): void {
    this.#events -= events
    this.#bytes -= bytes
  }
}
