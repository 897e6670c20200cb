/** The parent's side of the embedded ClickHouse: finds the process that serves a data directory, or starts one. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync } from 'node:fs'
import { totalmem } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Fault } from '../../schemas/fault.ts'
import type { ServerMessage, ServerOptions, StoreFile } from './server.ts'

export interface EmbeddedOptions {
  /** The whole store lies in `clickhouse/` below it. */
  readonly dataDir: string
  /** What the engine may use, beyond which a query fails with code 241. */
  readonly memoryBytesMax?: number
  /** Statements that run at once. */
  readonly runningMax?: number
  /**
   * Starts the process again after a crash, with the same address and password, for as long as it takes: clients only
   * retry.
   */
  readonly restart?: boolean
  /** How long the lock of an owner that does not answer is waited for; it may have died just now. */
  readonly lockWaitMs?: number
  readonly signal?: AbortSignal
}

export interface EmbeddedExit {
  readonly code: number | null
  readonly signal: string | null
  /** The last of what the process wrote to stderr. */
  readonly stderr: string
}

/** A ClickHouse that answers at `url`; disposing ends it if it is `owned`, and only then. */
export interface Embedded extends AsyncDisposable {
  readonly url: string
  readonly user: string
  readonly password: string
  /** The process that serves; after a restart another one. */
  readonly pid: number
  /** False when another process of this machine started it: it ends with that one. */
  readonly owned: boolean
  /** When an owned process has ended and will not be started again; never for one that is not owned. */
  readonly exited: Promise<EmbeddedExit>
  /** Why there is no process at the moment, where it does not come up again at once. */
  problem(): string | undefined
}

const memoryBytesDefault = Math.min(3 * 1024 ** 3, Math.floor(totalmem() / 2))
const lockWaitMsDefault = 10_000
/** From the start of the process to its address, without the wait for a lock. */
const startMs = 60_000
/** Longer than the process takes to end running statements (server.ts). */
const stopMs = 10_000
const pingMs = 2_000
/** A process that ended sooner after it answered counts as a quick crash. */
const quickCrashMs = 1_000
/** The most between two starts, where it crashes again and again, or cannot start: for lack of disk, for instance. */
const restartWaitMsMax = 5_000

/**
 * Uses the process named in DATA/store.json if it answers, else starts one for as long as the result is not disposed.
 * @throws Fault STORE_LOCKED | STORE_MISSING | STORE_UNREACHABLE | ABORTED
 */
export async function openEmbedded(options: EmbeddedOptions): Promise<Embedded> {
  const dataDir = resolve(options.dataDir)
  const { signal } = options
  throwIfAborted(signal)
  mkdirSync(dataDir, { recursive: true, mode: 0o700 })
  const served = await answeringStore(dataDir)
  if (served) return borrowed(served)

  const serverOptions: ServerOptions = {
    dataDir,
    user: 'default',
    password: randomBytes(24).toString('base64url'),
    port: 0,
    memoryBytesMax: options.memoryBytesMax ?? memoryBytesDefault,
    runningMax: options.runningMax ?? 5,
    waitingMax: 256,
    lockWaitMs: options.lockWaitMs ?? lockWaitMsDefault,
  }
  const started = await start(serverOptions, signal)
  if (started.kind === 'borrowed') return borrowed(started.store)
  return new OwnedStore(started.process, serverOptions, options.restart === true)
}

/** The store of DATA/store.json, if the process named there answers to its password. */
async function answeringStore(dataDir: string): Promise<StoreFile | undefined> {
  let store: StoreFile
  try {
    store = JSON.parse(readFileSync(join(dataDir, 'store.json'), 'utf8')) as StoreFile
  } catch {
    return undefined
  }
  try {
    // A process that took the port since does not know the password: it answers otherwise, or not at all.
    const answer = await fetch(`${store.url}/ping`, {
      headers: { 'X-ClickHouse-User': store.user, 'X-ClickHouse-Key': store.password },
      signal: AbortSignal.timeout(pingMs),
    })
    return answer.ok && (await answer.text()) === 'Ok.\n' ? store : undefined
  } catch {
    return undefined
  }
}

function borrowed(store: StoreFile): Embedded {
  return {
    url: store.url,
    user: store.user,
    password: store.password,
    pid: store.pid,
    owned: false,
    exited: new Promise(() => undefined),
    problem: () => undefined,
    [Symbol.asyncDispose]: async () => undefined,
  }
}

interface Serving {
  readonly child: ChildProcess
  readonly url: string
  readonly pid: number
  readonly exit: Promise<EmbeddedExit>
}

type Started =
  | { readonly kind: 'owned'; readonly process: Serving }
  | { readonly kind: 'borrowed'; readonly store: StoreFile }

/** Starts the process; while it waits for the lock, whoever has it may come to answer, and is used then. */
async function start(options: ServerOptions, signal: AbortSignal | undefined): Promise<Started> {
  const program = new URL(import.meta.url.endsWith('.ts') ? './server.ts' : './server.js', import.meta.url)
  const child = spawn(process.execPath, [fileURLToPath(program), String(process.pid)], {
    stdio: ['pipe', 'pipe', 'pipe'],
    // Each running statement holds a thread of libuv's pool; some are left for files and compression.
    env: { ...process.env, UV_THREADPOOL_SIZE: String(options.runningMax + 4) },
  })
  let stderr = ''
  let ended: number | undefined
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-4096)
  })
  const exit = new Promise<EmbeddedExit>(done => {
    child.on('error', error => done({ code: null, signal: null, stderr: error.message }))
    child.on('close', (code, signalName) =>
      // It says how it ends, and then kills itself.
      done({ code: ended ?? code, signal: ended === undefined ? signalName : null, stderr }),
    )
  })
  child.stdin.on('error', () => undefined)
  child.stdin.write(`${JSON.stringify(options)}\n`)

  const startSignal = AbortSignal.any([AbortSignal.timeout(startMs), ...(signal ? [signal] : [])])
  const found = Promise.withResolvers<Started>()
  found.promise.catch(() => undefined)
  const { dataDir } = options
  const lines = createInterface({ input: child.stdout })
  lines.on('line', line => {
    const message = parseMessage(line)
    if (message?.state === 'ended') ended = message.code
    else if (message?.state === 'ready') {
      found.resolve({ kind: 'owned', process: { child, url: message.url, pid: message.pid, exit } })
    } else if (message?.state === 'locked') {
      if (message.final) found.reject(lockedFault(dataDir, message.holderPid, stderr))
      else {
        void untilAnswering(options, startSignal).then(
          store => store && found.resolve({ kind: 'borrowed', store }),
        )
      }
    } else if (message?.state === 'missing') {
      found.reject(
        new Fault('STORE_MISSING', `The embedded ClickHouse cannot be loaded: ${message.message}`, {
          platform: `${process.platform}-${process.arch}`,
        }),
      )
    } else if (message?.state === 'failed') {
      found.reject(
        new Fault('STORE_UNREACHABLE', `The embedded ClickHouse failed to start: ${message.message}`),
      )
    }
  })
  void exit.then(({ code, signal: signalName, stderr: last }) =>
    found.reject(
      new Fault('STORE_UNREACHABLE', `The embedded ClickHouse ended while it started: ${last.trim()}`, {
        directory: dataDir,
        exit: code ?? signalName,
      }),
    ),
  )
  const onAbort = () =>
    found.reject(
      signal?.aborted
        ? new Fault('ABORTED', 'Opening the embedded ClickHouse was stopped.')
        : new Fault('STORE_UNREACHABLE', `The embedded ClickHouse did not start in ${startMs / 1000} s.`, {
            directory: dataDir,
          }),
    )
  startSignal.addEventListener('abort', onAbort, { once: true })
  if (startSignal.aborted) onAbort()
  let outcome: Started | undefined
  try {
    outcome = await found.promise
    return outcome
  } finally {
    startSignal.removeEventListener('abort', onAbort)
    if (outcome?.kind !== 'owned') {
      child.kill('SIGKILL')
      await exit
    }
  }
}

function parseMessage(line: string): ServerMessage | undefined {
  try {
    return JSON.parse(line) as ServerMessage
  } catch {
    return undefined
  }
}

async function untilAnswering(
  { dataDir, lockWaitMs }: ServerOptions,
  signal: AbortSignal,
): Promise<StoreFile | undefined> {
  const deadlineMs = performance.now() + lockWaitMs
  while (!signal.aborted && performance.now() < deadlineMs) {
    const store = await answeringStore(dataDir)
    if (store) return store
    await sleep(200)
  }
  return undefined
}

/** The addon says only that it could not open the directory; the engine's last words tell whether that is the lock. */
function lockedFault(dataDir: string, holderPid: number | null, stderr: string): Fault {
  const words = stderr.trim().split('\n').at(-1) ?? ''
  if (words !== '' && !words.includes('Cannot lock file'))
    return new Fault('STORE_UNREACHABLE', `The embedded ClickHouse cannot open ${dataDir}: ${words}`, {
      directory: dataDir,
    })
  const holder = holderPid === null ? 'another process' : `process ${holderPid}`
  return new Fault(
    'STORE_LOCKED',
    `The store in ${dataDir} belongs to ${holder}, which holds its lock and does not answer. Stop that process, or use another --data directory.`,
    { pid: holderPid, directory: dataDir },
  )
}

class OwnedStore implements Embedded {
  readonly owned = true
  readonly exited: Promise<EmbeddedExit>
  readonly #options: ServerOptions
  readonly #closing = new AbortController()
  #process: Serving
  #problem: string | undefined

  constructor(process: Serving, options: ServerOptions, restart: boolean) {
    this.#process = process
    this.#options = { ...options, port: Number(new URL(process.url).port) }
    this.exited = restart ? this.#supervise() : process.exit
  }

  get url(): string {
    return this.#process.url
  }

  get user(): string {
    return this.#options.user
  }

  get password(): string {
    return this.#options.password
  }

  get pid(): number {
    return this.#process.pid
  }

  problem(): string | undefined {
    return this.#problem
  }

  /** Ends the process: running statements may finish within a bound. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort()
    const { child } = this.#process
    child.stdin?.end()
    const late = setTimeout(() => child.kill('SIGKILL'), stopMs)
    try {
      await this.#process.exit
      await this.exited
    } finally {
      clearTimeout(late)
    }
  }

  async #supervise(): Promise<EmbeddedExit> {
    const { signal } = this.#closing
    for (let quickCrashes = 0; ; ) {
      const sinceMs = performance.now()
      const exit = await this.#process.exit
      if (signal.aborted) return exit
      quickCrashes = performance.now() - sinceMs < quickCrashMs ? quickCrashes + 1 : 0
      if (quickCrashes > 1)
        this.#problem = `the embedded ClickHouse crashes as soon as it is up: ${exit.stderr.trim() || (exit.code ?? exit.signal)}`
      const waitMs = Math.min(200 * quickCrashes, restartWaitMsMax)
      await sleep(waitMs, undefined, { signal }).catch(() => undefined)
      const next = await this.#startAgain()
      if (!next) return exit
      this.#process = next
      // Disposed in the moment in which it came up: the pipe of the old one was closed, not this one's.
      if (signal.aborted) next.child.stdin?.end()
    }
  }

  /**
   * Until it comes up, or nobody wants it any more: a full disk may be freed after hours, and another process that has
   * taken the directory for a command's length gives it back.
   */
  async #startAgain(): Promise<Serving | undefined> {
    const { signal } = this.#closing
    for (let waitMs = 500; !signal.aborted; waitMs = Math.min(2 * waitMs, restartWaitMsMax)) {
      try {
        const started = await start(this.#options, signal)
        if (started.kind === 'owned') {
          this.#problem = undefined
          return started.process
        }
      } catch (error) {
        this.#problem = error instanceof Error ? error.message : String(error)
      }
      await sleep(waitMs, undefined, { signal }).catch(() => undefined)
    }
    return undefined
  }
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new Fault('ABORTED', 'Opening the embedded ClickHouse was stopped.')
}
