/** The outbox's statements on SQLite, prepared once, and what SQLite's failures mean: each is thrown as a Fault. */
import type { DatabaseSync, StatementSync } from 'node:sqlite'
import { Fault } from '../../schemas/fault.ts'

// Primary result codes, https://www.sqlite.org/rescode.html
export const sqliteBusy = 5
const sqliteFull = 13
/** CORRUPT, NOTADB: the content is not what SQLite wrote. */
const sqliteDamaged: readonly number[] = [11, 26]
/** READONLY, IOERR, CANTOPEN: the file cannot be had, whatever is in it. */
const sqliteUnreadable: readonly number[] = [8, 10, 14]

export type Statement = Pick<StatementSync, 'get' | 'all' | 'run' | 'iterate' | 'setReadBigInts'>

/** Prepares each statement of a database once. What they throw of the file is a Fault: see `sqliteFault`. */
export function preparedOnce(db: DatabaseSync): (sql: string) => Statement {
  const statements = new Map<string, Statement>()
  const dir = db.location() ?? ''
  return sql => {
    const held = statements.get(sql)
    if (held) return held
    const statement = faulting(
      faultsOf(dir, () => db.prepare(sql)),
      dir,
    )
    statements.set(sql, statement)
    return statement
  }
}

function faulting(statement: StatementSync, dir: string): Statement {
  return {
    get: (...values: Parameters<StatementSync['get']>) => faultsOf(dir, () => statement.get(...values)),
    all: (...values: Parameters<StatementSync['all']>) => faultsOf(dir, () => statement.all(...values)),
    run: (...values: Parameters<StatementSync['run']>) => faultsOf(dir, () => statement.run(...values)),
    *iterate(...values: Parameters<StatementSync['iterate']>) {
      try {
        yield* statement.iterate(...values)
      } catch (error) {
        throw sqliteFault(error, dir)
      }
    },
    setReadBigInts: enabled => statement.setReadBigInts(enabled),
  } as Statement
}

function faultsOf<Result>(dir: string, work: () => Result): Result {
  try {
    return work()
  } catch (error) {
    throw sqliteFault(error, dir)
  }
}

export function primaryCode(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('errcode' in error) || typeof error.errcode !== 'number')
    return undefined
  return error.errcode & 0xff
}

/** What SQLite says, in our words; what is no failure of the file comes back as it is. */
export function sqliteFault(error: unknown, dir: string): unknown {
  const code = primaryCode(error)
  if (code === undefined) return error
  const message = error instanceof Error ? error.message : String(error)
  if (code === sqliteFull)
    return new Fault('OUTBOX_FULL', `the disk is full: ${message}`, { dir }, { cause: error })
  if (code === sqliteBusy)
    return new Fault(
      'OUTBOX_LOCKED',
      `another process writes to the outbox in ${dir}`,
      { dir },
      { cause: error },
    )
  if (sqliteDamaged.includes(code))
    return new Fault(
      'OUTBOX_DAMAGED',
      `outbox in ${dir}: ${message}`,
      { dir, sqlite: code },
      { cause: error },
    )
  if (sqliteUnreadable.includes(code))
    return new Fault(
      'OUTBOX_UNREADABLE',
      `outbox in ${dir}: ${message}`,
      { dir, sqlite: code },
      { cause: error },
    )
  return error
}
