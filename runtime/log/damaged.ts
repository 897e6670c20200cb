/** Damaged outboxes: how one is recognised and set aside, and what can still be read of it. The outbox decides what becomes of that. */
import { existsSync, readdirSync, renameSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { idHash } from '../../schemas/event.ts'
import { Fault } from '../../schemas/fault.ts'

export const outboxName = 'outbox.db'
const setAsidePrefix = `${outboxName}.damaged-`
/** SQLite keeps these beside its file, under its name. */
const companions = ['-wal', '-shm'] as const

/** A row that was on its way, with nothing of the file's own numbers. */
export interface RescuedRow {
  readonly key: string
  readonly id: string
  readonly source: string
  readonly scope: string | null
  readonly start_ms: bigint | null
  readonly end_ms: bigint | null
  readonly readat_ms: bigint | null
  readonly value: Uint8Array
  readonly appended_ms: bigint
  readonly quarantined: string | null
}

/** Rows of the tables that the collector's memory keeps of scopes. */
export type RescuedMemory = Readonly<Record<string, string | number | null>>

export interface Rescued {
  /** When the file was made, as far as its file system knows. */
  readonly begunMs: number
  readonly rows: Iterable<RescuedRow>
  /** Undefined where the table cannot be read whole. */
  readonly scopes: readonly RescuedMemory[] | undefined
  readonly grids: readonly RescuedMemory[] | undefined
  /** Rows that could not be read, or are not what was written; more once `rows` was gone through. */
  readonly unreadable: () => number
}

/**
 * Reads through all of a database: pages that do not hang together, and a file that is none.
 * A flipped bit inside a value is not seen here: the digest of its read tells of it in the ledger.
 * @throws Fault OUTBOX_DAMAGED, or what SQLite throws
 */
export function checkWhole(db: DatabaseSync): void {
  const [found] = db.prepare('pragma quick_check(1)').all() as { quick_check: string }[]
  if (found?.quick_check !== 'ok')
    throw new Fault('OUTBOX_DAMAGED', `outbox ${db.location()}: ${found?.quick_check}`, {})
}

/** Names of the outboxes of a directory that were set aside, oldest first. */
export function setAsideIn(dir: string): readonly string[] {
  return readdirSync(dir)
    .filter(name => name.startsWith(setAsidePrefix) && !companions.some(suffix => name.endsWith(suffix)))
    .sort()
}

/** Gives the outbox of a directory the name `outbox.db.damaged-<time>`, which it returns. It must not be open here. */
export function setAside(dir: string, nowMs: number): string {
  const time = new Date(nowMs).toISOString().replaceAll(':', '')
  let name = `${setAsidePrefix}${time}`
  for (let again = 2; existsSync(join(dir, name)); again += 1) name = `${setAsidePrefix}${time}-${again}`
  renameSync(join(dir, outboxName), join(dir, name))
  moveCompanions(dir, name)
  return name
}

/** Takes up a set-aside that ended between two names: what SQLite kept beside the file goes after it. */
export function finishSetAside(dir: string): void {
  if (existsSync(join(dir, outboxName))) return
  const last = setAsideIn(dir).at(-1)
  if (last !== undefined) moveCompanions(dir, last)
}

function moveCompanions(dir: string, name: string): void {
  for (const suffix of companions) {
    const from = join(dir, `${outboxName}${suffix}`)
    const to = join(dir, `${name}${suffix}`)
    if (existsSync(from) && !existsSync(to)) renameSync(from, to)
  }
}

/** Opens a damaged outbox for what can still be read of it; nothing is written to it. Undefined where it is no database any more. */
export function openDamaged(file: string): (Rescued & Disposable) | undefined {
  let db: DatabaseSync
  try {
    db = new DatabaseSync(file, { readOnly: true, defensive: false, timeout: 10_000 })
    // Without it SQLite reads nothing of a file that is shorter than its first page says (lockBtree in its btree.c).
    db.exec('pragma writable_schema = on')
  } catch {
    return undefined
  }
  let unreadable = 0
  return {
    begunMs: Math.floor(statSync(file).birthtimeMs),
    scopes: tableOf(db, 'scopes'),
    grids: tableOf(db, 'grids'),
    rows: readableRows(db, lost => {
      unreadable += lost
    }),
    unreadable: () => unreadable,
    [Symbol.dispose]: () => db.close(),
  }
}

function tableOf(db: DatabaseSync, table: 'scopes' | 'grids'): readonly RescuedMemory[] | undefined {
  try {
    return db.prepare(`select * from ${table}`).all() as RescuedMemory[]
  } catch {
    return undefined
  }
}

/** How many numbers are asked for at once: a range that cannot be read is halved until single rows are left out. */
const rangeRows = 256

/** The rows that the log does not have, in their order, each as it was written. */
function* readableRows(db: DatabaseSync, onLost: (rows: number) => void): Generator<RescuedRow> {
  const bounds = boundsOf(db)
  if (!bounds) return
  const columns =
    'key, id, id_hash, source, scope, start_ms, end_ms, readat_ms, value, appended_ms, quarantined'
  // Not by an index, which may be what is damaged.
  const select = db.prepare(
    `select ${columns} from rows not indexed where seq >= ? and seq < ? and log_offset is null order by seq`,
  )
  const rowsIn = (from: number, to: number): readonly RescuedRow[] => {
    try {
      const found = select.all(from, to) as unknown as (RescuedRow & { readonly id_hash: bigint })[]
      const sound = found.filter(isAsWritten)
      onLost(found.length - sound.length)
      return sound
    } catch {
      if (to - from === 1) {
        onLost(1)
        return []
      }
      const middle = from + Math.floor((to - from) / 2)
      return [...rowsIn(from, middle), ...rowsIn(middle, to)]
    }
  }
  select.setReadBigInts(true)
  for (let from = bounds.firstSeq; from < bounds.nextSeq; from += rangeRows)
    for (const row of rowsIn(from, Math.min(from + rangeRows, bounds.nextSeq))) yield row
}

function boundsOf(db: DatabaseSync): { readonly firstSeq: number; readonly nextSeq: number } | undefined {
  const numberOf = (sql: string) => {
    try {
      return (db.prepare(sql).get() as { seq: number | null } | undefined)?.seq ?? undefined
    } catch {
      return undefined
    }
  }
  const last = [
    numberOf('select max(seq) as seq from rows'),
    numberOf(`select seq from sqlite_sequence where name = 'rows'`),
  ].filter(seq => seq !== undefined)
  if (last.length === 0) return undefined
  return { firstSeq: numberOf('select min(seq) as seq from rows') ?? 1, nextSeq: Math.max(...last) + 1 }
}

/** Is the value the event that its row says? A damaged page may hold anything. */
function isAsWritten(row: RescuedRow & { readonly id_hash: bigint }): boolean {
  if (typeof row.key !== 'string' || typeof row.id !== 'string' || typeof row.source !== 'string')
    return false
  if (BigInt.asIntN(64, idHash(row.source, row.id)) !== row.id_hash) return false
  try {
    const event: unknown = JSON.parse(Buffer.from(row.value).toString())
    return typeof event === 'object' && event !== null && 'id' in event && event.id === row.id
  } catch {
    return false
  }
}
