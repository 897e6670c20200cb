/** `meterline key create | list | revoke`: keys in the store, which every process that has the store knows. */
import { userInfo } from 'node:os'
import { createKey, listKeys, revokeKey, type StoredKey } from '../processor/keys.ts'
import { printJson, printRows } from '../runtime/print.ts'
import { Fault } from '../schemas/fault.ts'
import { type KeyScope, keyScopes } from '../schemas/keys.ts'
import { dayMs, hourMs, parseInstant } from '../schemas/window.ts'
import { configured, openStore, type Settings } from './roles.ts'

export interface CreateSettings extends Settings {
  readonly name: string
  readonly scope: readonly string[]
  readonly account?: string
  /** `90d`, `12h`, or an RFC 3339 time; without it the key has no end. */
  readonly expires?: string
  readonly source?: readonly string[]
  readonly subject?: readonly string[]
  /** Each a `name=number` of KeyLimits. */
  readonly limit?: readonly string[]
}

/** Prints the key, and nothing else, on stdout: it is shown this once. */
export async function createKeyCommand(settings: CreateSettings): Promise<number> {
  const { name, scope, account, expires, source: sources, subject: subjects, limit = [] } = settings
  const config = await configured(settings, account === undefined ? 'collect' : 'price')
  if (account !== undefined && !config.accounts.some(({ id }) => id === account))
    throw new Fault('USAGE', `--account: there is no account "${account}"`)
  const nowMs = settings.nowMs()
  await using opened = await openStore(config, settings)
  const { key, made } = await createKey(
    opened.store,
    {
      name,
      scopes: scope.map(asScope),
      ...(account !== undefined && { account }),
      ...(expires !== undefined && { expiresMs: endOf(expires, nowMs) }),
      ...(sources && { sources }),
      ...(subjects && { subjects }),
      limits: Object.fromEntries(limit.map(limitIn)),
    },
    { by: userInfo().username, nowMs, taken: config.keys.map(({ name }) => name) },
  )
  settings.stdout(settings.json === true ? printJson({ key, ...made }) : `${key}\n`)
  settings.stderr(
    `key ${name}: ${made.scopes.join(', ')} of ${made.account === null ? 'all accounts' : `account ${made.account}`}${made.expires_at === null ? '' : ` until ${made.expires_at}`}. It is shown this once; send it as: Authorization: Bearer KEY`,
  )
  return 0
}

export async function listKeysCommand(settings: Settings): Promise<number> {
  const config = await configured(settings, 'collect')
  await using opened = await openStore(config, settings)
  const keys = await listKeys(opened.store, settings.nowMs())
  settings.stdout(
    printRows<StoredKey>(
      keys,
      [
        { heading: 'name', text: key => key.name },
        { heading: 'begins', text: key => `mtl_${key.prefix}` },
        { heading: 'state', text: key => key.state },
        { heading: 'scopes', text: key => key.scopes.join(' ') },
        { heading: 'account', text: key => key.account ?? 'all' },
        { heading: 'made', text: key => `${key.created_at} ${key.created_by}` },
        { heading: 'ends', text: key => key.revoked_at ?? key.expires_at ?? '' },
        { heading: 'used last', text: key => key.last_used_hour ?? 'never' },
      ],
      settings.json === true ? 'json' : 'table',
    ),
  )
  return 0
}

/** Takes back all keys of a name, or the one that begins so. */
export async function revokeKeyCommand(settings: Settings & { readonly named: string }): Promise<number> {
  const config = await configured(settings, 'collect')
  await using opened = await openStore(config, settings)
  const revoked = await revokeKey(opened.store, settings.named, {
    by: userInfo().username,
    nowMs: settings.nowMs(),
  })
  if (settings.json === true) settings.stdout(printJson(revoked))
  if (revoked.length === 0) settings.stderr(`${settings.named} was revoked already`)
  for (const { name, prefix } of revoked)
    settings.stderr(
      `key ${name}, mtl_${prefix}…, is nobody's from now on: every process knows within a second`,
    )
  return 0
}

function asScope(text: string): KeyScope {
  const scope = keyScopes.find(known => known === text)
  if (scope === undefined) throw new Fault('USAGE', `--scope: "${text}" is none of ${keyScopes.join(', ')}`)
  return scope
}

/** What it is called, and how much; whether there is one so is said by its schema. */
function limitIn(text: string): readonly [string, number] {
  const [, name = '', number] = /^(\w+)=(\d{1,15})$/.exec(text) ?? []
  if (number === undefined) throw new Fault('USAGE', `--limit: "${text}" is no NAME=NUMBER`)
  return [name, Number(number)]
}

const steps: Readonly<Record<string, number>> = { h: hourMs, d: dayMs, w: 7 * dayMs }

function endOf(text: string, nowMs: number): number {
  const [, count, step = ''] = /^(\d{1,5})([hdw])$/.exec(text) ?? []
  return count === undefined
    ? parseInstant(text, '--expires')
    : nowMs + Number(count) * (steps[step] ?? dayMs)
}
