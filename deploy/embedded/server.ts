/** The embedded ClickHouse as a process: it alone owns a data directory, and ends with its parent. */
import { once } from 'node:events'
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { Engine, LockedError, loadAddon } from './engine.ts'
import { HttpInterface, type HttpOptions, insertDir, keepAliveMs, killMs } from './http.ts'
import { watchParent } from './orphan.ts'

/** What the parent says in the first line of stdin: no secret in arguments or environment. Its pid is the argument. */
export interface ServerOptions extends HttpOptions {
  /** The data directory; the engine's files are in `clickhouse/`, the address in `store.json`. */
  readonly dataDir: string
  /** 0 takes a free one. */
  readonly port: number
  readonly memoryBytesMax: number
  /** How long the lock of a process that ended just now is waited for. */
  readonly lockWaitMs: number
}

/** What the child says on stdout, one JSON document a line. */
export type ServerMessage =
  | { readonly state: 'ready'; readonly url: string; readonly pid: number }
  | { readonly state: 'locked'; readonly holderPid: number | null; readonly final: boolean }
  | { readonly state: 'missing'; readonly message: string }
  | { readonly state: 'failed'; readonly message: string }
  | { readonly state: 'ended'; readonly code: number }

/** DATA/store.json: how other processes of the same user reach the store. */
export interface StoreFile {
  readonly url: string
  readonly user: string
  readonly password: string
  readonly pid: number
  readonly parent_pid: number
}

/** How long running statements may take to end when the server stops. */
const drainMs = 4_000
/** The same when the parent is dead: whoever asked for them is gone, and the next process waits for the lock. */
const orphanDrainMs = 500

function say(message: ServerMessage): void {
  process.stdout.write(`${JSON.stringify(message)}\n`)
}

/**
 * Not by process.exit: the engine's own end waits for ever where a statement was cut off (seen once in fifty kills of a
 * parent), and the directory stays locked. What the engine acknowledged is on disk.
 */
function end(code: number): void {
  say({ state: 'ended', code })
  process.kill(process.pid, 'SIGKILL')
}

/** Who has the directory, by the engine's own status file. */
function lockHolderPid(dataDir: string): number | null {
  try {
    const pid = Number(/^PID: (\d+)/m.exec(readFileSync(join(dataDir, 'clickhouse', 'status'), 'utf8'))?.[1])
    return Number.isInteger(pid) && pid > 0 ? pid : null
  } catch {
    return null
  }
}

async function openEngine(options: ServerOptions): Promise<Engine | undefined> {
  let addon: ReturnType<typeof loadAddon>
  try {
    addon = loadAddon()
  } catch (error) {
    say({ state: 'missing', message: error instanceof Error ? error.message.split('\n')[0]! : String(error) })
    return undefined
  }
  const directory = join(options.dataDir, 'clickhouse')
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const deadlineMs = performance.now() + options.lockWaitMs
  for (let told = false; ; told = true) {
    try {
      const engine = new Engine(addon, { directory, memoryBytesMax: options.memoryBytesMax })
      rmSync(insertDir(options.dataDir), { recursive: true, force: true })
      mkdirSync(insertDir(options.dataDir), { mode: 0o700 })
      return engine
    } catch (error) {
      if (!(error instanceof LockedError)) throw error
      const final = performance.now() >= deadlineMs
      if (!told || final) say({ state: 'locked', holderPid: lockHolderPid(options.dataDir), final })
      if (final) return undefined
      await sleep(100)
    }
  }
}

function writeStoreFile(dataDir: string, store: StoreFile): void {
  const file = join(dataDir, 'store.json')
  const draft = `${file}.${process.pid}`
  writeFileSync(draft, `${JSON.stringify(store)}\n`, { mode: 0o600 })
  renameSync(draft, file)
}

/** Only this process's own: a later one may have written its address since. */
function removeStoreFile(dataDir: string): void {
  const file = join(dataDir, 'store.json')
  try {
    const store = JSON.parse(readFileSync(file, 'utf8')) as StoreFile
    if (store.pid === process.pid) rmSync(file, { force: true })
  } catch {
    // No file, or not one that can be read: nothing of ours to remove.
  }
}

async function main(): Promise<void> {
  // Ctrl-C goes to the whole process group: the parent decides when its store ends.
  process.on('SIGINT', () => undefined)
  process.on('SIGHUP', () => undefined)
  const parentPid = Number(process.argv[2])
  watchParent(parentPid)
  const orphaned = () => process.ppid !== parentPid
  const stopped = Promise.withResolvers<void>()
  process.on('SIGTERM', () => stopped.resolve())

  const lines = createInterface({ input: process.stdin })
  // The pipe closes when the parent ends, however it ends: then nobody is left to serve.
  lines.on('close', () => stopped.resolve())
  const [line] = (await once(lines, 'line')) as [string]
  const options = JSON.parse(line) as ServerOptions
  process.stdout.on('error', () => stopped.resolve())

  const opening = openEngine(options)
  const engine = await Promise.race([opening, stopped.promise])
  if (!engine) return end(1)

  const server = new HttpInterface(engine, options, orphaned)
  const http = createServer(
    { keepAliveTimeout: keepAliveMs, requestTimeout: 0, maxHeaderSize: 1024 * 1024 },
    (request, response) => {
      void server.handle(request, response)
    },
  )
  await listen(http, options.port)
  const address = http.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  const url = `http://127.0.0.1:${port}`
  writeStoreFile(options.dataDir, {
    url,
    user: options.user,
    password: options.password,
    pid: process.pid,
    parent_pid: parentPid,
  })
  say({ state: 'ready', url, pid: process.pid })

  await stopped.promise
  removeStoreFile(options.dataDir)
  server.stop()
  http.close()
  http.closeIdleConnections()
  if (!(await idle(server, () => (orphaned() ? orphanDrainMs : drainMs)))) {
    await Promise.race([server.killAll(), sleep(killMs)])
    await idle(server, () => killMs)
  }
  if (server.activeCount === 0) engine.close()
  end(0)
}

/** A port asked for by number was this server's before it crashed: others may hold it for a moment. */
async function listen(http: ReturnType<typeof createServer>, port: number): Promise<void> {
  const deadlineMs = performance.now() + 10_000
  for (;;) {
    try {
      http.listen(port, '127.0.0.1')
      await once(http, 'listening')
      return
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || performance.now() > deadlineMs)
        throw error
      await sleep(100)
    }
  }
}

/**
 * Waits until no request is being answered, at most `waitMs`. That is asked again and again: a parent's pipe closes a
 * moment before it counts as dead.
 */
async function idle(server: HttpInterface, waitMs: () => number): Promise<boolean> {
  const startMs = performance.now()
  while (server.activeCount > 0) {
    if (performance.now() - startMs > waitMs()) return false
    await sleep(20)
  }
  return true
}

if (import.meta.main) {
  main().catch((error: unknown) => {
    say({ state: 'failed', message: error instanceof Error ? error.message : String(error) })
    end(1)
  })
}
