/**
 * A real PostgreSQL for a test: the one of Debian, in a directory of its own, on loopback, with passwords, and with TLS by the
 * certificates of the fixtures for who wants it; gone when stopped.
 */
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  globSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import pg from 'pg'

const run = promisify(execFile)
const readyLimitMs = 60_000

export interface PostgresRig extends AsyncDisposable {
  readonly host: '127.0.0.1'
  readonly port: number
  /** The role that owns everything. */
  readonly user: 'postgres'
  readonly password: string
  readonly directory: string
  /** A connection of that role; the test ends it. */
  connect(database?: string): Promise<pg.Client>
  /** Another that follows it. */
  standby(): Promise<PostgresRig>
}

export interface PostgresWanted {
  /** The lines of pg_hba.conf before those of the rig. */
  readonly rules?: readonly string[]
}

/** The folder of its commands, or why there is none. */
export async function findPostgres(): Promise<{ readonly folder: string } | { readonly lacking: string }> {
  const found = foldersHere()[0]
  if (found !== undefined) return { folder: found }
  try {
    const apt = (...args: readonly string[]) =>
      run('apt-get', [...args], {
        timeout: 170_000,
        env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
      })
    const install = () => apt('install', '-y', '--no-install-recommends', 'postgresql')
    // A fresh machine may not know yet what packages there are.
    await install().catch(async () => {
      await apt('update', '-qq')
      await install()
    })
  } catch (error) {
    const [line = ''] = (error instanceof Error ? error.message : String(error)).split('\n')
    return { lacking: `no PostgreSQL in /usr/lib/postgresql, and ${line}` }
  }
  const installed = foldersHere()[0]
  return installed === undefined ? { lacking: 'Debian brought no PostgreSQL' } : { folder: installed }
}

function foldersHere(): readonly string[] {
  const onPath = (process.env.PATH ?? '').split(':').filter(folder => existsSync(join(folder, 'initdb')))
  return [...globSync('/usr/lib/postgresql/*/bin').sort().reverse(), ...onPath].filter(folder =>
    existsSync(join(folder, 'postgres')),
  )
}

export async function startPostgres(wanted: PostgresWanted = {}): Promise<PostgresRig> {
  const found = await findPostgres()
  if ('lacking' in found) throw new Error(`No PostgreSQL: ${found.lacking}`)
  const { folder } = found
  const directory = ownDirectory()
  const password = randomBytes(12).toString('hex')
  const passwordFile = join(directory, 'password')
  writeFileSync(passwordFile, password)
  const data = join(directory, 'data')
  own(passwordFile)
  const [command = '', ...args] = asPostgres([
    join(folder, 'initdb'),
    ...['--pgdata', data, '--username', 'postgres', '--pwfile', passwordFile],
    ...['--auth', 'scram-sha-256', '--encoding', 'UTF8', '--no-locale', '--no-sync'],
  ])
  await run(command, args, { cwd: directory, timeout: readyLimitMs })
  const rules = join(data, 'pg_hba.conf')
  writeFileSync(rules, [...(wanted.rules ?? []), readFileSync(rules, 'utf8')].join('\n'))
  for (const name of ['loopback.cert.pem', 'loopback.key.pem', 'rotated.cert.pem']) {
    const file = join(data, name)
    copyFileSync(new URL(`../fixtures/tls/${name}`, import.meta.url), file)
    chmodSync(file, 0o600)
    own(file)
  }
  return await serve({ folder, directory, data, password })
}

interface Place {
  readonly folder: string
  readonly directory: string
  readonly data: string
  readonly password: string
}

async function serve(place: Place): Promise<PostgresRig> {
  const { folder, directory, data, password } = place
  const port = await freePort()
  const settings = [
    'listen_addresses=127.0.0.1,127.0.0.2',
    `unix_socket_directories=${directory}`,
    'fsync=off',
    'full_page_writes=off',
    'shared_buffers=16MB',
    'max_connections=40',
    'max_wal_senders=4',
    'jit=off',
    'log_timezone=UTC',
    'ssl=on',
    'ssl_cert_file=loopback.cert.pem',
    'ssl_key_file=loopback.key.pem',
    'ssl_ca_file=rotated.cert.pem',
  ]
  const [command = '', ...args] = asPostgres([
    join(folder, 'postgres'),
    ...['-D', data, '-p', String(port)],
    ...settings.flatMap(setting => ['-c', setting]),
  ])
  const server = spawn(command, args, { cwd: directory, stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  server.stderr?.on('data', (data: Buffer) => {
    said = (said + data.toString()).slice(-4000)
  })
  const connect = async (database = 'postgres') => {
    const client = new pg.Client({
      host: '127.0.0.1',
      port,
      user: 'postgres',
      password,
      database,
      ssl: false,
    })
    client.on('error', () => undefined)
    await client.connect()
    return client
  }
  await ready(server, connect, () => said)
  const stop = async () => {
    await end(server)
    rmSync(directory, { recursive: true, force: true })
  }
  return {
    host: '127.0.0.1',
    port,
    user: 'postgres',
    password,
    directory,
    connect,
    standby: () => follow(place, port),
    [Symbol.asyncDispose]: stop,
  }
}

async function follow(primary: Place, primaryPort: number): Promise<PostgresRig> {
  const directory = ownDirectory()
  const data = join(directory, 'data')
  const [command = '', ...args] = asPostgres([
    join(primary.folder, 'pg_basebackup'),
    ...['--pgdata', data, '--write-recovery-conf', '--checkpoint', 'fast', '--no-sync'],
    '--dbname',
    `host=127.0.0.1 port=${primaryPort} user=postgres password=${primary.password} sslmode=disable`,
  ])
  await run(command, args, { cwd: directory, timeout: readyLimitMs })
  return await serve({ ...primary, directory, data })
}

async function ready(
  server: ChildProcess,
  connect: () => Promise<pg.Client>,
  said: () => string,
): Promise<void> {
  const untilMs = performance.now() + readyLimitMs
  for (;;) {
    try {
      await (await connect()).end()
      return
    } catch (error) {
      if (server.exitCode !== null || performance.now() > untilMs) {
        await end(server)
        throw new Error(`PostgreSQL did not start: ${said()}`, { cause: error })
      }
      await sleep(50)
    }
  }
}

/** Immediately: what it holds is thrown away. */
async function end(server: ChildProcess): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return
  const exited = once(server, 'exit')
  server.kill('SIGQUIT')
  const kill = setTimeout(() => server.kill('SIGKILL'), 5000)
  await exited
  clearTimeout(kill)
}

const isRoot = process.getuid?.() === 0

/** PostgreSQL refuses to run as root: then it is run as the user that its package makes. */
function asPostgres(command: readonly string[]): readonly string[] {
  if (!isRoot) return command
  return ['setpriv', '--reuid=postgres', '--regid=postgres', '--clear-groups', '--', ...command]
}

function ownDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'meterline-postgres-'))
  chmodSync(directory, 0o700)
  own(directory)
  return directory
}

/** Gives a file or directory to who runs the server. */
function own(path: string): void {
  if (!isRoot) return
  const id = (flag: string) => Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8' }))
  chownSync(path, id('-u'), id('-g'))
}

async function freePort(): Promise<number> {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  return typeof address === 'object' && address !== null ? address.port : 0
}
