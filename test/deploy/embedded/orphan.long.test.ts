/** The watch over a parent: what ends a process of the embedded ClickHouse whose main thread is blocked. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'

const orphanUrl = new URL('../../../deploy/embedded/orphan.ts', import.meta.url).href

/** A parent, and its child that blocks its main thread for good after it asked to be watched. */
async function startBlocked(watched: boolean) {
  const child = `import { watchParent } from ${JSON.stringify(orphanUrl)}
    ${watched ? 'watchParent(process.ppid)' : ''}
    setTimeout(() => { console.log(process.pid); for (;;); }, 500)`
  const program = `import { spawn } from 'node:child_process'
    spawn(process.execPath, ['--input-type=module', '-e', ${JSON.stringify(child)}], { stdio: ['ignore', 'inherit', 'inherit'] })
    setInterval(() => undefined, 1000)`
  const parent = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [line] = (await once(createInterface({ input: parent.stdout }), 'line')) as [string]
  const pid = Number(line)
  onTestFinished(() => {
    parent.kill('SIGKILL')
    if (isThere(pid)) process.kill(pid, 'SIGKILL')
  })
  return { parent, pid }
}

function isThere(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

test('a process that the engine blocks ends soon after its parent, and not before', async () => {
  const watched = await startBlocked(true)
  const alone = await startBlocked(false)
  await sleep(8_000)
  expect(isThere(watched.pid)).toBe(true)
  watched.parent.kill('SIGKILL')
  alone.parent.kill('SIGKILL')
  for (let waits = 0; waits < 100 && isThere(watched.pid); waits += 1) await sleep(100)
  expect(isThere(watched.pid)).toBe(false)
  // What it would be without.
  expect(isThere(alone.pid)).toBe(true)
})
