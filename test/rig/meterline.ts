/** The real command as a process of its own: started, asked, and killed with -9. */
import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const command = fileURLToPath(new URL('../../bin/meterline', import.meta.url))

export interface Answer {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs a command to its end. */
export async function meterline(
  args: readonly string[],
  options: {
    readonly env?: Readonly<Record<string, string>>
    readonly cwd?: string
    readonly limitMs?: number
  } = {},
): Promise<Answer> {
  const child = start(args, options)
  let stdout = ''
  child.process.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  const limit = setTimeout(() => void child.kill(), options.limitMs ?? 120_000)
  const code = await child.ended
  clearTimeout(limit)
  return { code, stdout, stderr: child.stderr() }
}

export interface RunningMeterline extends AsyncDisposable {
  readonly process: ChildProcess
  readonly ended: Promise<number | null>
  /** The last of what it said. */
  stderr(): string
  /** kill -9, and its end. */
  kill(): Promise<void>
  /** SIGTERM, and its exit code. */
  stop(): Promise<number | null>
}

/** Starts a command that goes on until it is stopped. */
export function start(
  args: readonly string[],
  options: { readonly env?: Readonly<Record<string, string>>; readonly cwd?: string } = {},
): RunningMeterline {
  const child = spawn(command, args, {
    env: { ...process.env, METERLINE_LOG_LEVEL: 'warn', ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(options.cwd !== undefined && { cwd: options.cwd }),
  })
  let said = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-20_000)
  })
  const ended = new Promise<number | null>(resolve => {
    child.once('close', code => resolve(code))
  })
  const kill = async () => {
    child.kill('SIGKILL')
    await ended
  }
  return {
    process: child,
    ended,
    stderr: () => said,
    kill,
    stop: async () => {
      child.kill('SIGTERM')
      return await ended
    },
    [Symbol.asyncDispose]: kill,
  }
}
