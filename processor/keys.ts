/**
 * Keys in the store: made at random, shown once, known by their hash, taken back within a second. They open the API and
 * the door of what is pushed to every process that has the store.
 */
import { hash, randomBytes, timingSafeEqual } from 'node:crypto'
import { isOver, type Keys, unknownKey } from '../runtime/keys.ts'
import { misfits } from '../schemas/check.ts'
import { asFault, Fault } from '../schemas/fault.ts'
import {
  type Grant,
  KeyLimits,
  type KeyScope,
  keyMisfit,
  keyNameShape,
  pushBoundsDefault,
} from '../schemas/keys.ts'
import { hourMs, minuteMs, secondMs, showInstant } from '../schemas/window.ts'
import type { Store } from './store.ts'

/** A key as people see it: what it may, never what it is. Times are RFC 3339. */
export interface StoredKey {
  readonly name: string
  /** What the key begins with, after `mtl_`: by it one that is found somewhere can be told. */
  readonly prefix: string
  readonly scopes: readonly KeyScope[]
  /** Null where it shows all accounts. */
  readonly account: string | null
  readonly sources: readonly string[]
  readonly subjects: readonly string[]
  /** What was said of how much it may. */
  readonly limits: KeyLimits
  readonly state: 'valid' | 'expired' | 'revoked'
  readonly created_at: string
  readonly created_by: string
  readonly expires_at: string | null
  /** The hour in which it was used last, as far as was noted; null where it never was. */
  readonly last_used_hour: string | null
  readonly revoked_at: string | null
  readonly revoked_by: string | null
}

export interface WantedKey {
  readonly name: string
  readonly scopes: readonly KeyScope[]
  readonly account?: string
  readonly expiresMs?: number
  /** Patterns of what it may write; needed with ingest or amend. */
  readonly sources?: readonly string[]
  readonly subjects?: readonly string[]
  readonly limits?: KeyLimits
}

interface Row {
  readonly prefix: string
  readonly name: string
  readonly sha256: string
  readonly scopes: readonly KeyScope[]
  readonly account: string
  readonly sources: readonly string[]
  readonly subjects: readonly string[]
  /** JSON, or empty. */
  readonly limits: string
  readonly created_ms: string
  readonly created_by: string
  readonly expires_ms: string | null
  readonly revoked_ms: string | null
  readonly revoked_by: string
}

const columns = [
  'prefix',
  'name',
  'sha256',
  'scopes',
  'account',
  'sources',
  'subjects',
  'limits',
  'created_at',
  'created_by',
  'expires_at',
  'revoked_at',
  'revoked_by',
  'revision',
] as const

const prefixBytes = 6
const secretBytes = 32
/** The prefix is no secret: it finds the row, and the hash of all of it decides. */
const tokenShape = new RegExp(`^mtl_([0-9a-f]{${2 * prefixBytes}})_[A-Za-z0-9_-]{43}$`)

/**
 * Makes a key. `key` is all there ever is to see of it.
 * @throws Fault USAGE where it may not be as wanted, or another that is valid has its name
 */
export async function createKey(
  store: Store,
  wanted: WantedKey,
  {
    by,
    nowMs,
    taken = [],
  }: { readonly by: string; readonly nowMs: number; readonly taken?: readonly string[] },
): Promise<{ readonly key: string; readonly made: StoredKey }> {
  const { name, scopes, account, expiresMs, sources, subjects, limits = {} } = wanted
  if (!keyNameShape.test(name))
    throw new Fault(
      'USAGE',
      `name: "${name}" is not of letters, digits, dot, dash and underscore, 128 at most`,
    )
  if (scopes.length === 0) throw new Fault('USAGE', 'scopes: a key without one opens nothing')
  const misfit = keyMisfit(wanted)
  if (misfit) throw new Fault('USAGE', `${misfit.part}: ${misfit.message}`)
  const [wrong] = misfits(KeyLimits, limits)
  if (wrong) throw new Fault('USAGE', `limits${wrong.path}: ${wrong.message}`)
  if (expiresMs !== undefined && expiresMs <= nowMs)
    throw new Fault('USAGE', `expires: ${showInstant(expiresMs)} is over`)
  // Of two that are made at once under one name both are there, and both are revoked by it.
  const isThere = (await listKeys(store, nowMs)).some(key => key.name === name && key.state === 'valid')
  if (isThere || taken.includes(name))
    throw new Fault('USAGE', `name: there is a key "${name}" already; revoke it, or take another name`)
  const prefix = randomBytes(prefixBytes).toString('hex')
  const key = `mtl_${prefix}_${randomBytes(secretBytes).toString('base64url')}`
  const row: Row = {
    prefix,
    name,
    sha256: digestOf(key).toString('hex'),
    scopes: Array.from(new Set(scopes)),
    account: account ?? '',
    sources: sources ?? [],
    subjects: subjects ?? [],
    limits: JSON.stringify(limits),
    created_ms: String(nowMs),
    created_by: by,
    expires_ms: expiresMs === undefined ? null : String(expiresMs),
    revoked_ms: null,
    revoked_by: '',
  }
  await put(store, [row])
  return { key, made: shown(row, null, nowMs) }
}

/** All that were ever made, the newest first. */
export async function listKeys(store: Store, nowMs: number): Promise<readonly StoredKey[]> {
  const rows = await store.rows<Row & { readonly hour_ms: string }>(
    `select ${selected}, toUnixTimestamp64Milli(toDateTime64(uses.hour, 3)) as hour_ms
     from (select * from api_keys final) as keys
     left join (select prefix, max(hour) as hour from api_key_uses group by prefix) as uses on uses.prefix = keys.prefix
     order by created_at desc, prefix`,
  )
  return rows.map(row => shown(row, row.hour_ms === '0' ? null : Number(row.hour_ms), nowMs))
}

/**
 * Takes back all keys of this name, or the one with this prefix. Those that are revoked already stay as they are.
 * @returns those that were revoked by this
 * @throws Fault NOT_THERE where there is none of that name
 */
export async function revokeKey(
  store: Store,
  named: string,
  { by, nowMs }: { readonly by: string; readonly nowMs: number },
): Promise<readonly StoredKey[]> {
  const rows = await store.rows<Row>(
    `select ${selected} from api_keys as keys final where name = {named:String} or prefix = {named:String}`,
    { named: named.replace(/^mtl_/, '').slice(0, 1024) },
  )
  if (rows.length === 0) throw new Fault('NOT_THERE', `there is no key "${named}" in the store`)
  const revoked = rows
    .filter(row => row.revoked_ms === null)
    .map(row => ({ ...row, revoked_ms: String(nowMs), revoked_by: by }))
  await put(store, revoked)
  return revoked.map(row => shown(row, null, nowMs))
}

const selected = `keys.prefix as prefix, name, sha256, scopes, account, sources, subjects, limits,
  toUnixTimestamp64Milli(created_at) as created_ms, created_by, toUnixTimestamp64Milli(expires_at) as expires_ms,
  toUnixTimestamp64Milli(revoked_at) as revoked_ms, revoked_by`

async function put(store: Store, rows: readonly Row[]): Promise<void> {
  const time = (ms: string | null) => (ms === null ? null : showInstant(Number(ms)))
  await store.insert(
    'api_keys',
    columns,
    rows.map(row =>
      JSON.stringify([
        row.prefix,
        row.name,
        row.sha256,
        row.scopes,
        row.account,
        row.sources,
        row.subjects,
        row.limits,
        time(row.created_ms),
        row.created_by,
        time(row.expires_ms),
        time(row.revoked_ms),
        row.revoked_by,
        row.revoked_ms === null ? 0 : 1,
      ]),
    ),
  )
}

function shown(row: Row, usedMs: number | null, nowMs: number): StoredKey {
  const time = (ms: string | null) => (ms === null ? null : showInstant(Number(ms)))
  const isExpired = row.expires_ms !== null && Number(row.expires_ms) <= nowMs
  return {
    name: row.name,
    prefix: row.prefix,
    scopes: row.scopes,
    account: row.account === '' ? null : row.account,
    sources: row.sources,
    subjects: row.subjects,
    limits: limitsOf(row),
    state: row.revoked_ms !== null ? 'revoked' : isExpired ? 'expired' : 'valid',
    created_at: showInstant(Number(row.created_ms)),
    created_by: row.created_by,
    expires_at: time(row.expires_ms),
    last_used_hour: usedMs === null ? null : showInstant(usedMs),
    revoked_at: time(row.revoked_ms),
    revoked_by: row.revoked_ms === null ? null : row.revoked_by,
  }
}

/**
 * SHA-256 alone, unsalted: what is hashed has 256 random bits, so there is no list of likely ones that a slow hash would
 * make dear to try, while each request would have to pay for it.
 */
function digestOf(key: string): Buffer {
  return hash('sha256', key, 'buffer')
}

// -- who asks

/** So old may be what is known of keys when it decides. */
const staleMs = secondMs / 2
/** So long whoever asks waits for the store. */
const loadWithinMs = 5 * secondMs
const usesEveryMs = minuteMs
const noDigest = Buffer.alloc(32)

interface Held {
  readonly grant: Grant
  readonly digest: Buffer
}

/** The keys of the store, for every request as they stood half a second ago or later. */
export class StoredKeys implements Keys, AsyncDisposable {
  readonly #store: Store
  readonly #steadyMs: () => number
  #known: { readonly byPrefix: ReadonlyMap<string, Held>; readonly askedMs: number } | undefined
  #generation = 0
  #loading: Promise<ReadonlyMap<string, Held>> | undefined
  readonly #uses = new Map<string, number>()
  readonly #noted = new Map<string, number>()
  #notedMs: number

  constructor(store: Store, steadyMs: () => number = () => performance.now()) {
    this.#store = store
    this.#steadyMs = steadyMs
    this.#notedMs = steadyMs()
  }

  /** @returns STORE_UNREACHABLE and its kin where the keys cannot be read: whether it was revoked nobody knows */
  async authorize(token: string, nowMs: number): Promise<Grant | Fault> {
    const prefix = tokenShape.exec(token)?.[1]
    if (prefix === undefined) return unknownKey()
    let byPrefix: ReadonlyMap<string, Held>
    try {
      byPrefix = await this.#fresh()
    } catch (error) {
      return asFault(error, 'STORE_UNREACHABLE')
    }
    const held = byPrefix.get(prefix)
    // One that is not there is compared all the same: neither prefix nor secret shows in how long it takes.
    const isRight = timingSafeEqual(digestOf(token), held?.digest ?? noDigest)
    if (!held || !isRight) return unknownKey()
    if (isOver(held.grant, nowMs)) return new Fault('KEY_UNKNOWN', 'this key has expired')
    this.#use(prefix, nowMs)
    return held.grant
  }

  /** After a key was made or revoked here: the next request knows. */
  forget(): void {
    this.#generation += 1
    this.#known = undefined
    this.#loading = undefined
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#noteUses()
  }

  async #fresh(): Promise<ReadonlyMap<string, Held>> {
    const askedMs = this.#steadyMs()
    if (this.#known && askedMs - this.#known.askedMs < staleMs) return this.#known.byPrefix
    if (askedMs - this.#notedMs > usesEveryMs) {
      this.#notedMs = askedMs
      void this.#noteUses()
    }
    this.#loading ??= this.#loadedAs(this.#generation, askedMs)
    return await within(this.#loading, loadWithinMs)
  }

  async #loadedAs(generation: number, askedMs: number): Promise<ReadonlyMap<string, Held>> {
    try {
      const byPrefix = await this.#load()
      if (generation === this.#generation) this.#known = { byPrefix, askedMs }
      return byPrefix
    } finally {
      if (generation === this.#generation) this.#loading = undefined
    }
  }

  async #load(): Promise<ReadonlyMap<string, Held>> {
    const rows = await this.#store.rows<Row>(
      `select ${selected} from api_keys as keys final where revoked_at is null`,
    )
    return new Map(
      rows.map(row => [row.prefix, { grant: grantOf(row), digest: Buffer.from(row.sha256, 'hex') }]),
    )
  }

  #use(prefix: string, nowMs: number): void {
    const hour = Math.floor(nowMs / hourMs) * hourMs
    if ((this.#noted.get(prefix) ?? 0) < hour) this.#uses.set(prefix, hour)
  }

  async #noteUses(): Promise<void> {
    const uses = Array.from(this.#uses)
    if (uses.length === 0) return
    this.#uses.clear()
    try {
      const lines = uses.map(([prefix, hour]) => JSON.stringify([prefix, showInstant(hour)]))
      await this.#store.insert('api_key_uses', ['prefix', 'hour'], lines)
      for (const [prefix, hour] of uses) this.#noted.set(prefix, hour)
    } catch {
      // The next use says it again.
    }
  }
}

function limitsOf({ limits }: Row): KeyLimits {
  return limits === '' ? {} : JSON.parse(limits)
}

function grantOf(row: Row): Grant {
  const limits = limitsOf(row)
  return {
    name: row.name,
    scopes: row.scopes,
    ...(row.account !== '' && { account: row.account }),
    ...(row.expires_ms !== null && { expiresMs: Number(row.expires_ms) }),
    sources: row.sources,
    subjects: row.subjects,
    bounds: {
      eventsPerSecond: limits.events_per_second ?? pushBoundsDefault.eventsPerSecond,
      bytesPerSecond: limits.bytes_per_second ?? pushBoundsDefault.bytesPerSecond,
      burstSeconds: limits.burst_seconds ?? pushBoundsDefault.burstSeconds,
      bodyMaxBytes: limits.body_max_bytes ?? pushBoundsDefault.bodyMaxBytes,
    },
    ...(limits.requests_per_minute !== undefined && { requestsPerMinute: limits.requests_per_minute }),
  }
}

async function within<T>(answer: Promise<T>, ms: number): Promise<T> {
  const late = Promise.withResolvers<never>()
  const timer = setTimeout(
    () => late.reject(new Fault('STORE_UNREACHABLE', `the keys could not be read within ${ms / secondMs} s`)),
    ms,
  )
  try {
    return await Promise.race([answer, late.promise])
  } finally {
    clearTimeout(timer)
  }
}
