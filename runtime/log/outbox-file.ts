/**
 * The file of an outbox: found and locked, opened, brought up to date, set aside where it is damaged; its transactions,
 * durable or not. Its content is others': rows are outbox-rows.ts, what the collector remembers memory.ts.
 */
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { asFault, Fault } from '../../schemas/fault.ts'
import { checkWhole, finishSetAside, outboxName, setAside } from './damaged.ts'
import { beliefs, endedByHand, memoryTables, requests, settledAt } from './memory.ts'
import { rowTables, sentIndex } from './outbox-rows.ts'
import { sourceStateTable } from './source-state.ts'
import { preparedOnce, primaryCode, type Statement, sqliteBusy, sqliteFault } from './sqlite.ts'

export interface FileOptions {
  /** The directory of outbox.db and its lock. */
  readonly dir: string
  /**
   * `append`: the one writer of reads, which locks other such writers out. Beside it, in as many processes as like:
   * `drain` takes rows away; `push` stores pushed events and ends scopes, and stores no reads.
   */
  readonly access: 'append' | 'drain' | 'push'
  /** A hard bound on the file, as a full disk would be; none if not given. */
  readonly fileBytesMax?: number
  readonly nowMs: () => number
}

/** Only added to: the file says how many of them it has. */
const migrations: readonly string[] = [
  `
create table meta (name text primary key, value text not null) strict, without rowid;
${rowTables}
${memoryTables}`,
  `
${sentIndex}
${endedByHand}`,
  requests,
  beliefs,
  settledAt,
  sourceStateTable,
]

export class OutboxFile implements Disposable {
  readonly db: DatabaseSync
  /** Prepared once each. What they throw of the file is a Fault. */
  readonly statement: (sql: string) => Statement
  /** What was wrong with the file that was set aside to begin this one. */
  readonly damage: Fault | undefined
  readonly #dir: string
  readonly #lock: DatabaseSync | undefined
  /** Of the file that a pusher opened: it may be set aside meanwhile. */
  readonly #inode: bigint | undefined

  /**
   * Opens the file, making it where there is none. For `append` a damaged one is set aside and a fresh one begun.
   * @throws Fault OUTBOX_LOCKED | OUTBOX_UNREADABLE | OUTBOX_FULL, or OUTBOX_DAMAGED where it is not for `append`
   */
  constructor(options: FileOptions) {
    const { dir, access, nowMs } = options
    this.#dir = dir
    try {
      mkdirSync(dir, { recursive: true })
    } catch (error) {
      throw asFault(error, 'OUTBOX_UNREADABLE', { dir })
    }
    this.#lock = access === 'append' ? holdLock(dir) : undefined
    let db: DatabaseSync | undefined
    try {
      if (access === 'append') finishSetAside(dir)
      try {
        db = openFile(options)
      } catch (error) {
        if (access !== 'append' || !(error instanceof Fault) || error.code !== 'OUTBOX_DAMAGED') throw error
        this.damage = error
        setAside(dir, nowMs())
        db = openFile(options)
      }
      this.db = db
      this.statement = preparedOnce(db)
      this.#inode = access === 'push' ? inodeOf(dir) : undefined
    } catch (error) {
      db?.close()
      this.#lock?.close()
      throw sqliteFault(error, dir)
    }
  }

  [Symbol.dispose](): void {
    if (this.db.isOpen) this.db.close()
    if (this.#lock?.isOpen) this.#lock.close()
  }

  /**
   * Reads through the file; nothing else goes on meanwhile, about a second for a gigabyte.
   * @throws Fault OUTBOX_DAMAGED
   */
  checkWhole(): void {
    try {
      checkWhole(this.db)
    } catch (error) {
      throw sqliteFault(error, this.#dir)
    }
  }

  /** What the file says of itself. */
  meta(name: string): string | undefined {
    const row = this.statement('select value from meta where name = ?').get(name) as
      | { value: string }
      | undefined
    return row?.value
  }

  setMeta(name: string, value: string): string {
    this.statement('insert or replace into meta (name, value) values (?, ?)').run(name, value)
    return value
  }

  /** As a transaction, that a power cut may undo: for what is known elsewhere, and only costs a repetition. */
  undurable<Result>(work: () => Result): Result {
    // In WAL mode the next durable commit takes it to the disk too: https://www.sqlite.org/pragma.html#pragma_synchronous
    this.db.exec('pragma synchronous = normal')
    try {
      return this.transaction(work)
    } finally {
      if (this.db.isOpen) this.db.exec('pragma synchronous = full')
    }
  }

  /** All of it or nothing; durable when it returns. */
  transaction<Result>(work: () => Result): Result {
    try {
      this.db.exec('begin immediate')
      const result = work()
      this.db.exec('commit')
      // Looked at after the commit: a file that is set aside later still has what was stored, and it is brought over.
      if (this.#inode !== undefined && this.#inode !== inodeOf(this.#dir))
        throw new Fault(
          'OUTBOX_DAMAGED',
          `the outbox in ${this.#dir} was set aside meanwhile: store it again`,
          {
            dir: this.#dir,
          },
        )
      return result
    } catch (error) {
      this.#rollback()
      throw sqliteFault(error, this.#dir)
    }
  }

  #rollback(): void {
    try {
      if (this.db.isOpen && this.db.isTransaction) this.db.exec('rollback')
    } catch {
      // What made it fail is thrown; SQLite rolls back by itself at the next opening.
    }
  }
}

/**
 * The file as it is, for reading: nothing is made, locked or brought up to date. Undefined where there is none.
 * @throws Fault OUTBOX_DAMAGED | OUTBOX_UNREADABLE
 */
export function openAsItIs(dir: string): DatabaseSync | undefined {
  if (inodeOf(dir) === undefined) return undefined
  try {
    return new DatabaseSync(join(dir, outboxName), { readOnly: true, timeout: 10_000 })
  } catch (error) {
    throw sqliteFault(error, dir)
  }
}

function inodeOf(dir: string): bigint | undefined {
  return statSync(join(dir, outboxName), { bigint: true, throwIfNoEntry: false })?.ino
}

/** Opens and brings up to date. @throws Fault, or what SQLite throws of no failure of the file */
function openFile({ dir, access, fileBytesMax }: FileOptions): DatabaseSync {
  let db: DatabaseSync | undefined
  try {
    db = new DatabaseSync(join(dir, outboxName), { timeout: 10_000 })
    inWalMode(db)
    db.exec('pragma synchronous = full; pragma journal_size_limit = 67108864')
    migrate(db)
    // About a second for a gigabyte, once in the life of a collector.
    if (access === 'append') checkWhole(db)
    if (fileBytesMax !== undefined) {
      const { page_size } = db.prepare('pragma page_size').get() as { page_size: number }
      db.exec(`pragma max_page_count = ${Math.floor(fileBytesMax / page_size)}`)
    }
    return db
  } catch (error) {
    db?.close()
    throw sqliteFault(error, dir)
  }
}

/**
 * Holds an exclusive lock for the life of the process: the operating system lets go of it at kill -9 too. It lies on a
 * file beside the outbox, so that reading and draining the outbox stay possible.
 */
function holdLock(dir: string): DatabaseSync {
  const ownerPath = join(dir, 'outbox.owner')
  let lock: DatabaseSync | undefined
  try {
    lock = new DatabaseSync(join(dir, 'outbox.lock'), { timeout: 0 })
    lock.exec('begin exclusive')
  } catch (error) {
    lock?.close()
    if (primaryCode(error) !== sqliteBusy) throw sqliteFault(error, dir)
    let owner = 'unknown'
    try {
      owner = readFileSync(ownerPath, 'utf8').trim()
    } catch {
      // It is about to write its name.
    }
    throw new Fault('OUTBOX_LOCKED', `process ${owner} has the outbox in ${dir}`, { pid: owner, dir })
  }
  writeFileSync(ownerPath, `${process.pid}\n`)
  return lock
}

/** A new file that several processes open at once is busy without the wait that `timeout` gives other statements. */
function inWalMode(db: DatabaseSync): void {
  for (let tries = 1; ; tries += 1)
    try {
      db.exec('pragma journal_mode = wal')
      return
    } catch (error) {
      if (primaryCode(error) !== sqliteBusy || tries === 100) throw error
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20)
    }
}

function migrate(db: DatabaseSync): void {
  const versionOf = () => (db.prepare('pragma user_version').get() as { user_version: number }).user_version
  if (versionOf() === migrations.length) return
  db.exec('begin immediate')
  const version = versionOf()
  if (version > migrations.length)
    throw new Fault(
      'OUTBOX_UNREADABLE',
      `the outbox has version ${version}, this Meterline knows ${migrations.length}`,
    )
  for (const migration of migrations.slice(version)) db.exec(migration)
  db.exec(`pragma user_version = ${migrations.length}; commit`)
}
