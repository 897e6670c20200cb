/**
 * `/api/v1/subjects` as OpenMeter has it: what its users note of a subject, under the key that is the `subject` of events.
 * Usage counts whether its subject is noted here or not; deleting one takes the note away and no usage.
 */
import { hash } from 'node:crypto'
import { Readable } from 'node:stream'
import Type from 'typebox'
import type { Account } from '../../../schemas/accounts.ts'
import { showInstant } from '../../../schemas/window.ts'
import type { Queries } from '../../queries.ts'
import type { Params as Bound, Reading, Store } from '../../store.ts'
import { problem } from '../api.ts'
import { arrayText, started } from '../lists.ts'
import { type Caller, type Routes, route } from '../route.ts'
import { tenantsOf } from '../tenants.ts'
import { momentOf } from './asked.ts'
import { checkTexts, ulidPattern, WireSubject, WireSubjectUpsert } from './wire.ts'

const subjectsMax = 1000
const Params = Type.Object({
  subjectIdOrKey: Type.String({ minLength: 1, maxLength: 1024, description: 'Its id, or its key.' }),
})
const tags = ['openmeter'] as const

export interface SubjectParts {
  readonly store: Store
  readonly queries: Queries
  readonly accounts: () => Promise<readonly Account[]>
  readonly nowMs: () => number
}

export function subjectRoutes({ store, queries, accounts, nowMs }: SubjectParts): Routes {
  /**
   * The keys that a caller may see; undefined where that is all of them. A note says nothing of the source: of a subject
   * that another account pays for as well, under another source, nobody knows whose it is, so neither sees it.
   */
  const keysOf = async (caller: Caller): Promise<ReadonlySet<string> | undefined> => {
    const tenants = await tenantsOf(caller, accounts)
    if (!tenants) return undefined
    const others = (await accounts()).filter(({ id }) => id !== caller.account)
    const theirs = new Set(others.flatMap(({ subjects }) => subjects.map(({ subject }) => subject)))
    return new Set(tenants.map(({ subject }) => subject).filter(subject => !theirs.has(subject)))
  }
  const find = async (idOrKey: string, seen?: ReadonlySet<string>): Promise<Row> => {
    const id = new RegExp(ulidPattern).test(idOrKey) ? [idOrKey.toUpperCase()] : []
    const found = (await named(store, 'key', [idOrKey]))[0] ?? (await named(store, 'id', id))[0]
    if (!found || found.deleted || seen?.has(found.key) === false)
      throw problem(404, `there is no subject "${idOrKey}"`)
    return found
  }
  return app => {
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/subjects',
        scope: 'read',
        tags,
        summary: 'Lists the subjects of which something is noted',
        answers: { 200: { description: 'By key.', body: Type.Array(WireSubject) } },
      },
      async ({ caller, signal, reply }) => {
        const seen = await keysOf(caller)
        const where = seen ? 'not deleted and key in {keys:Array(String)}' : 'not deleted'
        const texts = queries.ask(signal, async function* (reading) {
          for await (const rows of select(store, where, { keys: Array.from(seen ?? []) }, reading))
            yield rows.map(row => JSON.stringify(wireSubject(row)))
        })
        return reply.type('application/json').send(Readable.from(await started(arrayText(texts))))
      },
    )
    route(
      app,
      {
        method: 'POST',
        url: '/api/v1/subjects',
        scope: 'admin',
        tags,
        summary: 'Notes subjects, or notes them anew',
        description: 'What is not said of one that is there stays as it was; null takes it away.',
        body: Type.Array(WireSubjectUpsert, { maxItems: subjectsMax }),
        answers: { 200: { description: 'As they are now.', body: Type.Array(WireSubject) } },
      },
      async ({ body }) => {
        checkTexts('body', body)
        // Of a key that is named twice the last word counts, as if they had come one after the other.
        const known = new Map(
          (
            await named(
              store,
              'key',
              body.map(({ key }) => key),
            )
          ).map(row => [row.key, row]),
        )
        const atMs = nowMs()
        for (const [index, { key, ...said }] of body.entries()) {
          for (const name of ['currentPeriodStart', 'currentPeriodEnd'] as const)
            momentOf(said[name], 'body', `${index}/${name}`)
          const before = known.get(key)
          const kept = before && !before.deleted ? before : undefined
          known.set(key, {
            key,
            said: { ...kept?.said, ...said },
            createdMs: kept?.createdMs ?? atMs,
            updatedMs: atMs,
            deleted: false,
            version: Math.max(atMs, (before?.version ?? 0) + 1),
          })
        }
        const noted = Array.from(new Set(body.map(({ key }) => key)), key => known.get(key)!)
        await put(store, noted)
        return noted.map(wireSubject)
      },
    )
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/subjects/:subjectIdOrKey',
        scope: 'read',
        tags,
        summary: 'Gives what is noted of a subject',
        params: Params,
        answers: { 200: { description: 'The subject.', body: WireSubject } },
        problems: [404],
      },
      async ({ params, caller }) => wireSubject(await find(params.subjectIdOrKey, await keysOf(caller))),
    )
    route(
      app,
      {
        method: 'DELETE',
        url: '/api/v1/subjects/:subjectIdOrKey',
        scope: 'admin',
        tags,
        summary: 'Takes away what is noted of a subject; its usage stays',
        params: Params,
        answers: { 204: { description: 'It is gone.' } },
        problems: [404],
      },
      async ({ params }) => {
        const found = await find(params.subjectIdOrKey)
        const atMs = nowMs()
        await put(store, [
          { ...found, updatedMs: atMs, deleted: true, version: Math.max(atMs, found.version + 1) },
        ])
        return undefined
      },
    )
  }
}

type Said = Omit<WireSubjectUpsert, 'key'>

interface Row {
  readonly key: string
  readonly said: Said
  readonly createdMs: number
  readonly updatedMs: number
  readonly deleted: boolean
  readonly version: number
}

/** Those of these keys, or ids, also where they are deleted; by key. */
async function named(store: Store, by: 'key' | 'id', values: readonly string[]): Promise<readonly Row[]> {
  if (values.length === 0) return []
  const found: Row[] = []
  for await (const rows of select(store, `${by} in {values:Array(String)}`, { values })) found.push(...rows)
  return found
}

/** By key, as they come. */
async function* select(
  store: Store,
  where: string,
  params: Bound,
  reading?: Reading,
): AsyncGenerator<readonly Row[]> {
  const sql = `select key, said, toUnixTimestamp64Milli(created), toUnixTimestamp64Milli(updated), deleted, version
     from subjects final where ${where} order by key`
  for await (const rows of store.stream(sql, params, reading))
    yield (rows as readonly Columns[]).map(([key, said, createdMs, updatedMs, deleted, version]) => ({
      key,
      said: JSON.parse(said),
      createdMs: Number(createdMs),
      updatedMs: Number(updatedMs),
      deleted,
      version: Number(version),
    }))
}

type Columns = readonly [
  key: string,
  said: string,
  createdMs: string,
  updatedMs: string,
  deleted: boolean,
  version: string,
]

async function put(store: Store, rows: readonly Row[]): Promise<void> {
  await store.insert(
    'subjects',
    ['key', 'id', 'said', 'created', 'updated', 'deleted', 'version'],
    rows.map(({ key, said, createdMs, updatedMs, deleted, version }) =>
      JSON.stringify([
        key,
        subjectId(key),
        JSON.stringify(said),
        new Date(createdMs).toISOString(),
        new Date(updatedMs).toISOString(),
        deleted,
        version,
      ]),
    ),
  )
}

function wireSubject({ key, said, createdMs, updatedMs }: Row): WireSubject {
  return {
    id: subjectId(key),
    key,
    ...said,
    createdAt: showInstant(createdMs),
    updatedAt: showInstant(updatedMs),
  }
}

const digits = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'

/** Of the shape of a ULID, and the same for a key for ever: two that note it at once agree on it. */
export function subjectId(key: string): string {
  const bits = BigInt(`0x${hash('sha256', key, 'hex').slice(0, 32)}`)
  return Array.from(
    { length: 26 },
    (_, index) => digits[Number((bits >> BigInt(5 * (25 - index))) & 31n)],
  ).join('')
}
