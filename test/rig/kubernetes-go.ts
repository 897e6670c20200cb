/**
 * Kubernetes' own Go code for what pods take, pinned by test/interop/kubernetes/: built once from the Go module proxy and
 * kept between runs. Where there is no Go the tests of it fail; they never skip.
 */
import { execFile } from 'node:child_process'
import { hash, randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const folder = join(import.meta.dirname, '../interop/kubernetes')
const buildMs = 500_000
const askMs = 60_000

/** `unscaled` over ten to the `scale`; without digits it is no quantity. */
export interface GoNumber {
  readonly unscaled?: string
  readonly scale: number
}

export interface GoAnswer {
  readonly requests: readonly Readonly<Record<string, GoNumber>>[]
  readonly quantities: readonly GoNumber[]
}

/** The Go that would build it. @throws Error where there is none */
export async function goVersion(): Promise<string> {
  return (await promisify(execFile)('go', ['version'], { timeout: askMs })).stdout.trim()
}

/** @throws Error where there is no Go, or a module cannot be had */
export async function askComponentHelpers(question: {
  readonly pods: readonly object[]
  readonly quantities: readonly string[]
}): Promise<GoAnswer> {
  const program = await built()
  const asking = promisify(execFile)(program, [], { timeout: askMs, maxBuffer: 512 * 1024 * 1024 })
  asking.child.stdin?.end(JSON.stringify(question))
  return JSON.parse((await asking).stdout) as GoAnswer
}

async function built(): Promise<string> {
  const files = ['main.go', 'go.mod', 'go.sum'].map(file => readFileSync(join(folder, file), 'utf8'))
  const cache =
    process.env.METERLINE_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'meterline')
  const path = join(cache, `component-helpers-${hash('sha256', files.join('\0'), 'hex').slice(0, 16)}`)
  if (existsSync(path)) return path
  mkdirSync(cache, { recursive: true })
  const draft = `${path}.${randomUUID()}`
  try {
    const env = { ...process.env, GOFLAGS: '-mod=readonly', CGO_ENABLED: '0' }
    const options = { cwd: folder, env, timeout: buildMs }
    await promisify(execFile)('go', ['build', '-trimpath', '-buildvcs=false', '-o', draft, '.'], options)
    renameSync(draft, path)
  } finally {
    rmSync(draft, { force: true })
  }
  return path
}
