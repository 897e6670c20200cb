/** `/api/v1/keys`: keys of the store, as `meterline key` makes, lists and revokes them. */
import Type from 'typebox'
import type { Account } from '../../schemas/accounts.ts'
import { Fault } from '../../schemas/fault.ts'
import { KeyLimits, keyNameShape, keyScopes } from '../../schemas/keys.ts'
import { parseInstant } from '../../schemas/window.ts'
import { createKey, listKeys, revokeKey, type StoredKeys } from '../keys.ts'
import type { Store } from '../store.ts'
import { type Routes, route } from './route.ts'

const strict = { additionalProperties: false }
const OrNull = (description: string) => Type.Union([Type.String(), Type.Null()], { description })
const Scopes = Type.Array(Type.Enum(keyScopes), {
  minItems: 1,
  uniqueItems: true,
  description: 'What it may. None holds another.',
})
const Patterns = (description: string) =>
  Type.Array(Type.String({ minLength: 1, maxLength: 1024 }), { minItems: 1, maxItems: 1000, description })

const told = {
  name: Type.String({ description: 'What it is called, in lists and logs.' }),
  prefix: Type.String({ description: 'What the key begins with, after `mtl_`.' }),
  scopes: Scopes,
  account: OrNull('The account that it is bound to; null where it shows all.'),
  sources: Type.Array(Type.String(), { description: 'What it may write; `*` is any text.' }),
  subjects: Type.Array(Type.String(), { description: 'What it may write; `*` is any text.' }),
  limits: KeyLimits,
  state: Type.Enum(['valid', 'expired', 'revoked']),
  created_at: Type.String({ description: 'RFC 3339.' }),
  created_by: Type.String({ description: 'Who made it: a key by its name, or a user of the system.' }),
  expires_at: OrNull('RFC 3339; null where it has no end.'),
  last_used_hour: OrNull('The hour in which it was used last, as far as was noted.'),
  revoked_at: OrNull('RFC 3339; null while it is not.'),
  revoked_by: OrNull('Who revoked it.'),
}
const Key = Type.Object(told, { ...strict, title: 'Key' })
const NewKey = Type.Object(
  { key: Type.String({ description: 'The key itself: it is shown this once.' }), ...told },
  { ...strict, title: 'NewKey' },
)

const Wanted = Type.Object(
  {
    name: Type.String({ pattern: keyNameShape.source, description: 'Of no other key that is valid.' }),
    scopes: Scopes,
    account: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 128,
        description: 'It shows what this account pays for alone.',
      }),
    ),
    expires: Type.Optional(Type.String({ description: 'RFC 3339; without it the key has no end.' })),
    sources: Type.Optional(Patterns('What it may write, with ingest or amend; `*` is any text.')),
    subjects: Type.Optional(Patterns('What it may write, with ingest or amend; `*` is any text.')),
    limits: Type.Optional(KeyLimits),
  },
  { ...strict, title: 'WantedKey' },
)

export function keyRoutes(parts: {
  readonly store: Store
  readonly stored: Pick<StoredKeys, 'forget'>
  /** Names that keys of the configuration have. */
  readonly taken: readonly string[]
  readonly accounts: () => Promise<readonly Account[]>
  readonly nowMs: () => number
}): Routes {
  const { store, stored, taken, accounts, nowMs } = parts
  return app => {
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/keys',
        scope: 'admin',
        tags: ['keys'],
        summary: 'Lists the keys of the store',
        description: 'The newest first, also those that are over. No answer has a key itself.',
        answers: { 200: { description: 'All that were ever made.', body: Type.Array(Key) } },
      },
      async () => await listKeys(store, nowMs()),
    )
    route(
      app,
      {
        method: 'POST',
        url: '/api/v1/keys',
        scope: 'admin',
        tags: ['keys'],
        summary: 'Makes a key',
        description: 'The answer is the only one that ever shows it.',
        body: Wanted,
        answers: { 201: { description: 'The key.', body: NewKey } },
        idempotent: 'secret',
      },
      async ({ body: { expires, ...wanted }, caller }) => {
        if (wanted.account !== undefined && !(await accounts()).some(({ id }) => id === wanted.account))
          throw new Fault('USAGE', `account: there is no account "${wanted.account}"`)
        const { key, made } = await createKey(
          store,
          { ...wanted, ...(expires !== undefined && { expiresMs: parseInstant(expires, 'expires') }) },
          { by: caller.name, nowMs: nowMs(), taken },
        )
        stored.forget()
        return { key, ...made }
      },
    )
    route(
      app,
      {
        method: 'DELETE',
        url: '/api/v1/keys/:name',
        scope: 'admin',
        tags: ['keys'],
        summary: 'Revokes a key',
        description: 'All of that name, or the one that begins so; every process knows within a second.',
        params: Type.Object(
          { name: Type.String({ minLength: 1, maxLength: 128, description: 'Name or prefix.' }) },
          strict,
        ),
        answers: { 200: { description: 'Those that this revoked.', body: Type.Array(Key) } },
      },
      async ({ params: { name }, caller }) => {
        const revoked = await revokeKey(store, name, { by: caller.name, nowMs: nowMs() })
        stored.forget()
        return revoked
      },
    )
  }
}
