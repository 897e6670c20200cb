/** A real browser for the page: Chromium on the PATH, or from its Debian package, driven by playwright-core. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { type Browser, chromium } from 'playwright-core'
import type { Found } from './promtool.ts'

const run = promisify(execFile)

/** The command, or why there is none; installed where the machine lets us. */
export async function findChromium(): Promise<Found> {
  const found = await chromiumHere()
  if (found !== undefined) return { path: found }
  try {
    const apt = (...args: readonly string[]) =>
      run('apt-get', [...args], {
        timeout: 240_000,
        env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
      })
    // Without a font there is no text.
    const install = () => apt('install', '-y', '--no-install-recommends', 'chromium', 'fonts-dejavu-core')
    // A fresh machine may not know yet what packages there are.
    await install().catch(async () => {
      await apt('update', '-qq')
      await install()
    })
  } catch (error) {
    const [line = ''] = (error instanceof Error ? error.message : String(error)).split('\n')
    return { lacking: `no chromium on the PATH, and ${line}` }
  }
  const installed = await chromiumHere()
  return installed === undefined ? { lacking: 'Debian brought no chromium' } : { path: installed }
}

async function chromiumHere(): Promise<string | undefined> {
  for (const name of [process.env.CHROMIUM, 'chromium', 'chromium-browser', 'google-chrome'])
    if (name !== undefined && name !== '')
      try {
        await run(name, ['--version'], { timeout: 20_000 })
        return (await run('sh', ['-c', 'command -v "$1"', 'sh', name])).stdout.trim()
      } catch {
        // The next one, then.
      }
  return undefined
}

/** @throws Error where there is no Chromium on this machine, or it does not start */
export async function startChromium(): Promise<Browser> {
  const found = await findChromium()
  if ('lacking' in found) throw new Error(`no Chromium: ${found.lacking}`)
  // The tests run as root in containers, where its sandbox cannot be made; it opens nothing but pages of ours.
  return await chromium.launch({
    executablePath: found.path,
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--disable-background-networking'],
  })
}
