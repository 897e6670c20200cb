/** Prometheus and its checker of rules: those on the PATH, or from the Debian package, unpacked and not installed. */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

export type Found = { readonly path: string } | { readonly lacking: string }

/** The command, or why there is none. */
export async function findCommand(name: 'promtool' | 'prometheus'): Promise<Found> {
  for (const path of [name, join(folder(), 'usr/bin', name)]) if (await answers(path)) return { path }
  try {
    await unpack()
    const path = join(folder(), 'usr/bin', name)
    return (await answers(path)) ? { path } : { lacking: `${path} does not run here` }
  } catch (error) {
    return { lacking: error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error) }
  }
}

function folder(): string {
  const cache =
    process.env.METERLINE_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'meterline')
  return join(cache, 'prometheus')
}

async function answers(path: string): Promise<boolean> {
  try {
    await run(path, ['--version'], { timeout: 20_000 })
    return true
  } catch {
    return false
  }
}

/** Downloads the package and takes it apart beside its place, so that a run that is cut short leaves none half there. */
async function unpack(): Promise<void> {
  mkdirSync(join(folder(), '..'), { recursive: true })
  const scratch = mkdtempSync(`${folder()}-`)
  try {
    await run('apt-get', ['download', 'prometheus'], { cwd: scratch, timeout: 120_000 })
    const name = readdirSync(scratch).find(file => file.endsWith('.deb'))
    if (name === undefined) throw new Error('apt-get download prometheus brought no package')
    await run('dpkg', ['-x', name, 'whole'], { cwd: scratch, timeout: 60_000 })
    if (!existsSync(folder())) renameSync(join(scratch, 'whole'), folder())
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

/** @throws Error with what promtool says of a file of rules that it does not take */
export async function checkRules(file: string): Promise<string> {
  const found = await findCommand('promtool')
  if ('lacking' in found) throw new Error(`no promtool: ${found.lacking}`)
  try {
    return (await run(found.path, ['check', 'rules', file], { timeout: 20_000 })).stdout
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string }
    throw new Error(`${stdout}${stderr}`, { cause: error })
  }
}
