/** A real ClickHouse for a test: the one of CLICKHOUSE_URL, else the embedded one, else a container; a fresh database each time. */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createClient } from '@clickhouse/client'
import { openEmbedded } from '../../deploy/embedded/embedded.ts'
import type { Store } from '../../processor/store.ts'
import { Fault } from '../../schemas/fault.ts'

export interface TestClickHouse extends AsyncDisposable {
  readonly url: string
  readonly user: string
  readonly password: string
  /** Empty, and of this call only. */
  readonly database: string
  readonly how: 'CLICKHOUSE_URL' | 'embedded' | 'container'
  /** Drops the database, or ends the server that was started for it. */
  stop(): Promise<void>
  /** kill -9; the server comes back at the same address by itself. Only of a server started here. */
  kill(): Promise<void>
  /**
   * kill -9, and `act` on the directory of the dead server before it comes back: to copy it, or to put a copy in its
   * place. Only of the embedded one.
   */
  whileDead(act: (directory: string) => void): Promise<void>
}

/** Finds or starts one; throws when there is no way to. */
export async function startClickHouse(
  options: { readonly memoryBytesMax?: number } = {},
): Promise<TestClickHouse> {
  const given = process.env.CLICKHOUSE_URL
  if (given) return await atUrl(given)
  try {
    return await embedded(options)
  } catch (error) {
    if (!(error instanceof Fault && error.code === 'STORE_MISSING')) throw error
    return await container(error)
  }
}

async function embedded(options: { readonly memoryBytesMax?: number }): Promise<TestClickHouse> {
  const dataDir = mkdtempSync(join(tmpdir(), 'meterline-store-'))
  const store = await openEmbedded({ dataDir, restart: true, ...options })
  const { url, user, password } = store
  const database = await createDatabase({ url, user, password })
  const stop = async () => {
    await store[Symbol.asyncDispose]()
    rmSync(dataDir, { recursive: true, force: true })
  }
  const kill = async () => {
    try {
      process.kill(store.pid, 'SIGKILL')
    } catch {
      // Dead already, and on its way back.
    }
  }
  const whileDead = async (act: (directory: string) => void) => {
    const { pid } = store
    await kill()
    // Without a turn of the event loop, in which the server would be started again.
    while (isAlive(pid)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2)
    act(join(dataDir, 'clickhouse'))
    while (store.pid === pid) await sleep(20)
  }
  return {
    url,
    user,
    password,
    database,
    how: 'embedded',
    stop,
    kill,
    whileDead,
    [Symbol.asyncDispose]: stop,
  }
}

/** A dead child whose end was not yet looked at is a zombie: its id still exists. */
function isAlive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

const notHere = async () => {
  throw new Error('Only the embedded server has its directory here')
}

async function atUrl(given: string): Promise<TestClickHouse> {
  const address = new URL(given)
  const user = decodeURIComponent(address.username) || 'default'
  const password = decodeURIComponent(address.password)
  const url = address.origin
  const database = await createDatabase({ url, user, password })
  const stop = async () => {
    await using client = clientOf({ url, user, password })
    await client.command({ query: `drop database if exists ${database}` })
  }
  const kill = async () => {
    throw new Error('The server of CLICKHOUSE_URL was not started by this test: it is not killed')
  }
  return {
    url,
    user,
    password,
    database,
    how: 'CLICKHOUSE_URL',
    stop,
    kill,
    whileDead: notHere,
    [Symbol.asyncDispose]: stop,
  }
}

async function container(missing: Fault): Promise<TestClickHouse> {
  const { GenericContainer, Wait } = await import('testcontainers')
  const password = randomBytes(12).toString('hex')
  const started = await new GenericContainer('clickhouse/clickhouse-server:26.7')
    .withEnvironment({ CLICKHOUSE_USER: 'default', CLICKHOUSE_PASSWORD: password })
    .withExposedPorts(8123)
    .withWaitStrategy(Wait.forHttp('/ping', 8123))
    .start()
    .catch((error: unknown) => {
      throw new Error(
        'No ClickHouse: CLICKHOUSE_URL is not set, chdb is not installed, Docker does not answer',
        {
          cause: new AggregateError([missing, error]),
        },
      )
    })
  const url = `http://${started.getHost()}:${started.getMappedPort(8123)}`
  const user = 'default'
  const database = await createDatabase({ url, user, password })
  const stop = async () => {
    await started.stop()
  }
  const kill = async () => {
    await started.restart({ timeout: 0 })
  }
  return {
    url,
    user,
    password,
    database,
    how: 'container',
    stop,
    kill,
    whileDead: notHere,
    [Symbol.asyncDispose]: stop,
  }
}

interface Address {
  readonly url: string
  readonly user: string
  readonly password: string
}

function clientOf({ url, user, password }: Address) {
  const client = createClient({ url, username: user, password })
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.close() })
}

async function createDatabase(address: Address): Promise<string> {
  const database = `test_${randomBytes(6).toString('hex')}`
  await using client = clientOf(address)
  await client.command({ query: `create database ${database}` })
  return database
}

/** Makes a database with the tables of another and what is in them: much sooner than by migrations and writing it again. */
export async function cloneDatabase(store: Store, from: string, to: string): Promise<void> {
  await store.run(`create database ${to}`)
  const tables = await store.rows<{ name: string }>(
    // Views name the database that they are made in, and nothing here asks them.
    "select name from system.tables where database = {from:String} and engine != 'View'",
    { from },
  )
  await Promise.all(
    tables.map(({ name }) => store.run(`create table ${to}.${name} clone as ${from}.${name}`)),
  )
}
