/**
 * The SDKs of others for tests, in Go and Python, pinned by test/interop/: built and installed once from their registries,
 * and kept between runs. They fail where they are not to be had; they never skip.
 */
import { execFile, spawn } from 'node:child_process'
import { hash, randomUUID } from 'node:crypto'
import { existsSync, globSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
const interop = join(import.meta.dirname, '../interop')
const makeLimitMs = 300_000
const commandLimitMs = 60_000

export interface Sdk {
  readonly name: 'Go' | 'Python'
  /** Runs one command, and gives its answer. */
  ask<Answer>(command: object): Promise<Answer>
}

/** Where something is kept that is made of these files of test/interop/: another place for every change of them. */
export function cached(name: string, pattern: string): string {
  const base =
    process.env.METERLINE_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'meterline')
  const files = globSync(pattern, { cwd: interop }).sort()
  const content = files.map(file => readFileSync(join(interop, file), 'utf8')).join('\0')
  return join(base, `interop-${name}-${hash('sha256', content, 'hex').slice(0, 16)}`)
}

export async function madeOnce(path: string, make: (draft: string) => Promise<unknown>): Promise<string> {
  if (existsSync(path)) return path
  mkdirSync(join(path, '..'), { recursive: true })
  const draft = `${path}.${randomUUID()}`
  try {
    await make(draft)
    // Of several that make it, one is first, and theirs are the same.
    if (!existsSync(path)) renameSync(draft, path)
  } finally {
    rmSync(draft, { recursive: true, force: true })
  }
  return path
}

/** @throws Error where there is no Go, or a module cannot be had */
export async function goSdk(): Promise<Sdk> {
  const driver = await madeOnce(cached('go', 'go/*'), async draft => {
    const env = { ...process.env, GOFLAGS: '-mod=readonly', CGO_ENABLED: '0' }
    const options = { cwd: join(interop, 'go'), env, timeout: makeLimitMs }
    await run('go', ['build', '-trimpath', '-buildvcs=false', '-o', draft, '.'], options)
  })
  return { name: 'Go', ask: command => asked(driver, [], {}, command) }
}

/** @throws Error where there is no Python with pip, or a package cannot be had */
export async function pythonSdk(): Promise<Sdk> {
  return { name: 'Python', ask: await pythonDriver('python') }
}

/** OpenMeter's published Python client: see test/interop/openmeter/driver.py. @throws Error as `pythonSdk` */
export async function openMeterPython(): Promise<Sdk> {
  return { name: 'Python', ask: await pythonDriver('openmeter') }
}

/** The driver of a folder of test/interop, with the packages that it requires. */
async function pythonDriver(folder: string): Promise<Sdk['ask']> {
  const requirements = join(interop, folder, 'requirements.txt')
  const packages = await madeOnce(cached(folder, `${folder}/requirements.txt`), draft =>
    run(
      'python3',
      [
        ...[
          '-m',
          'pip',
          'install',
          '--quiet',
          '--disable-pip-version-check',
          '--no-deps',
          '--require-hashes',
        ],
        ...['--target', draft, '--requirement', requirements],
      ],
      { timeout: makeLimitMs },
    ),
  )
  const env = { PYTHONPATH: packages, PYTHONDONTWRITEBYTECODE: '1' }
  return command => asked('python3', [join(interop, folder, 'driver.py')], env, command)
}

/** One process a command: JSON in, JSON out. */
async function asked<Answer>(
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  command: object,
): Promise<Answer> {
  const child = spawn(program, args, { env: { ...process.env, ...env }, timeout: commandLimitMs })
  let [stdout, stderr] = ['', '']
  child.stdout.setEncoding('utf8').on('data', text => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', text => {
    stderr += text
  })
  child.stdin.end(JSON.stringify(command))
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  if (code !== 0) throw new Error(`${program} ended with ${code}: ${stderr.slice(-2000)}`)
  return JSON.parse(stdout) as Answer
}
