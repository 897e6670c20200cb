/**
 * A connection to PostgreSQL for one read: a snapshot that is read-only, values as the server writes them, a deadline for
 * each answer, and a query that is stopped at the server when we stop. What is asked in it is the source's.
 */
import type { TlsFiles } from '../../../runtime/http.ts'
import { Fault, type FaultFacts } from '../../../schemas/fault.ts'
import { secondMs } from '../../../schemas/window.ts'
import { stopIfAborted } from '../../asking.ts'
import { faultOfError } from './refusals.ts'

export interface Address {
  readonly host: string
  readonly port: number
  readonly database: string
  readonly user: string
  readonly password: string
  /** Without it nothing is encrypted. */
  readonly tls?: TlsFiles
  readonly connectMs: number
  readonly statementMs: number
}

export interface Answer {
  readonly columns: readonly { readonly name: string; readonly typeOid: number }[]
  readonly rows: readonly (readonly (string | null)[])[]
}

/** Inside a transaction: all that it asks is of one moment. */
export interface Session extends AsyncDisposable {
  /**
   * Until when it has seen all that was committed, by the clock of the database, before the snapshot was taken; NaN where
   * a standby does not say.
   */
  readonly seenMs: number
  readonly version: string
  /** What it has may lag behind its primary. */
  readonly isStandby: boolean
  /** @param placeOf see `faultOfError` @throws Fault */
  ask(
    text: string,
    values?: readonly (string | null)[],
    about?: { readonly what: string; readonly placeOf?: (position: number) => string | undefined },
  ): Promise<Answer>
}

/** What of the driver its types do not tell. */
interface Wire {
  readonly processID: number | null
  readonly secretKey: number | null
  readonly connection: { readonly stream: { destroy(): void } }
}
interface CancelWire {
  readonly stream: { destroy(): void }
  connect(port: number, host: string): void
  requestSsl(): void
  cancel(processId: number, secretKey: number): void
  on(event: 'connect' | 'sslconnect' | 'end' | 'error', listener: () => void): void
}

const boolOid = 16
/** Past its own time-out a server has so long to say so. */
const graceMs = 5 * secondMs
const cancelMsMax = 2 * secondMs
const closeMsMax = secondMs

/**
 * @param facts for the faults
 * @throws Fault SOURCE_UNREACHABLE | SOURCE_DENIED | SOURCE_BUSY | SOURCE_MISSING | SOURCE_REFUSED | ABORTED
 */
export async function openSession(
  address: Address,
  facts: FaultFacts,
  signal: AbortSignal,
): Promise<Session> {
  stopIfAborted(signal)
  // Only a collector that has such a source loads the driver.
  const { default: pg } = await import('pg')
  const { host, port, tls, connectMs, statementMs } = address
  const socket = host.startsWith('/') ? `${host}/.s.PGSQL.${port}` : undefined
  const ssl =
    tls === undefined || socket !== undefined
      ? false
      : {
          ...(tls.ca !== undefined && { ca: tls.ca }),
          ...(tls.cert !== undefined && { cert: tls.cert }),
          ...(tls.key !== undefined && { key: tls.key }),
          rejectUnauthorized: tls.verify === undefined,
        }
  const client = new pg.Client({
    host,
    port,
    database: address.database,
    user: address.user,
    // A function, or the driver takes an empty one from PGPASSWORD or ~/.pgpass.
    password: () => address.password,
    ssl,
    sslnegotiation: 'postgres',
    client_encoding: 'UTF8',
    application_name: 'meterline',
    connectionTimeoutMillis: connectMs,
    keepAlive: true,
    types: { getTypeParser: typeParser },
  })
  const wire = client as unknown as Wire
  // Whoever waits for an answer is told too.
  client.on('error', () => undefined)
  const cancels: Promise<void>[] = []

  /** Waits for the work, but no longer than the signal and the deadline allow; then the connection is done with. */
  async function within<T>(work: Promise<T>, deadlineMs: number, what: string): Promise<T> {
    work.catch(() => undefined)
    const { promise, reject } = Promise.withResolvers<never>()
    const stop = () => reject(aborted())
    const timer = setTimeout(
      () =>
        reject(
          new Fault('SOURCE_UNREACHABLE', `${what}: no answer within ${deadlineMs / secondMs} s`, facts),
        ),
      deadlineMs,
    )
    signal.addEventListener('abort', stop)
    if (signal.aborted) stop()
    try {
      return await Promise.race([work, promise])
    } catch (error) {
      if (error instanceof Fault) {
        cancels.push(cancel())
        wire.connection.stream.destroy()
      }
      throw error
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
    }
  }

  /** A broken connection alone stops nothing: the server finds out when it has rows to send. */
  async function cancel(): Promise<void> {
    const { processID, secretKey } = wire
    if (processID === null || secretKey === null) return
    const { promise, resolve } = Promise.withResolvers<void>()
    const con = new pg.Connection({ ssl }) as unknown as CancelWire
    const timer = setTimeout(resolve, cancelMsMax)
    const send = () => con.cancel(processID, secretKey)
    con.on('connect', ssl ? () => con.requestSsl() : send)
    con.on('sslconnect', send)
    con.on('error', resolve)
    con.on('end', resolve)
    con.connect(...((socket === undefined ? [port, host] : [socket]) as [number, string]))
    await promise
    clearTimeout(timer)
    con.stream.destroy()
  }

  async function close(): Promise<void> {
    const ended = client.end().catch(() => undefined)
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(resolve, closeMsMax)
    await Promise.race([ended, promise])
    clearTimeout(timer)
    wire.connection.stream.destroy()
    await Promise.all(cancels)
  }

  const ask: Session['ask'] = async (text, values, about = { what: 'PostgreSQL' }) => {
    stopIfAborted(signal)
    const asked = client.query<(string | null)[]>({
      text,
      rowMode: 'array',
      ...(values && { values: [...values] }),
    })
    try {
      const { fields, rows } = await within(asked, statementMs + graceMs, about.what)
      return {
        columns: fields.map(({ name, dataTypeID }) => ({ name, typeOid: dataTypeID })),
        rows,
      }
    } catch (error) {
      throw faultOfError(error, about.what, facts, about.placeOf)
    }
  }

  try {
    await within(client.connect(), connectMs + secondMs, 'connecting').catch(error => {
      throw faultOfError(error, 'connecting', facts)
    })
    const begin = async () => {
      await ask('begin transaction isolation level repeatable read, read only')
      const [row = []] = (await ask(beginSql, [`${statementMs}ms`])).rows
      const [nowMs, version, isStandby] = row.slice(-3)
      return { nowMs: Number(nowMs), version: version ?? '', isStandby: isStandby === 'true' }
    }
    let { nowMs: seenMs, version, isStandby } = await begin()
    if (isStandby) {
      await ask('rollback')
      // Before the snapshot: what is replayed after it is not in it.
      const [row = []] = (await ask(replayedSql)).rows
      seenMs = Math.min(Number(row[0] ?? Number.NaN), seenMs)
      await begin()
    }
    return {
      seenMs,
      version,
      isStandby,
      ask,
      [Symbol.asyncDispose]: close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

/** Whatever the role, the database or the collector's environment set: what is written depends on this alone. */
const beginSql = `
select set_config('statement_timeout', $1, true),
       set_config('idle_in_transaction_session_timeout', $1, true),
       set_config('TimeZone', 'UTC', true),
       set_config('DateStyle', 'ISO, YMD', true),
       set_config('standard_conforming_strings', 'on', true),
       set_config('extra_float_digits', '3', true),
       -- A cursor is planned for its first tenth otherwise; all of it is read.
       set_config('cursor_tuple_fraction', '1', true),
       floor(extract(epoch from now()) * 1000)::int8,
       current_setting('server_version'),
       pg_is_in_recovery()
`

/**
 * Until when a standby has replayed its primary: the time of the last message, where nothing of what it announced is still
 * to be replayed, else of the last commit. The first is told to roles with pg_read_all_stats (pg_stat_get_wal_receiver).
 */
const replayedSql = `
select floor(extract(epoch from case
         when receiver.latest_end_lsn <= pg_last_wal_replay_lsn() then receiver.last_msg_send_time
         else pg_last_xact_replay_timestamp()
       end) * 1000)::int8
from (values (1)) one left join pg_stat_wal_receiver receiver on true
`

/** All as the server writes it: numbers to the last digit, times to the microsecond. */
function typeParser(oid: number) {
  if (oid === boolOid) return (text: string | Buffer) => (String(text) === 't' ? 'true' : 'false')
  return (text: string | Buffer) => String(text)
}

function aborted(): Fault {
  return new Fault('ABORTED', 'stopped while reading PostgreSQL')
}
