/** Stopping: the first signal asks, the second ends. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { expect, test } from 'vitest'

/** A process that waits for its stop signal, and then takes a while to end. */
function waiting(afterStop: string) {
  const stop = JSON.stringify(join(import.meta.dirname, '../../runtime/stop.ts'))
  const program = `
    const { stopSignal } = await import(${stop})
    const signal = stopSignal()
    const alive = setInterval(() => {}, 1000)
    signal.addEventListener('abort', () => {
      console.log(signal.reason.code, signal.reason.message)
      ${afterStop}
    })
    console.log('ready')`
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let said = ''
  child.stdout.on('data', chunk => {
    said += chunk
  })
  const saying = async (text: string) => {
    while (!said.includes(text)) await once(child.stdout, 'data')
  }
  return { child, saying, ended: once(child, 'exit'), said: () => said }
}

test.each(['SIGTERM', 'SIGINT'] as const)('the first %s asks for a graceful end', async signal => {
  const { child, saying, ended, said } = waiting('clearInterval(alive)')
  await saying('ready')
  child.kill(signal)
  expect(await ended).toEqual([0, null])
  expect(said()).toContain(`ABORTED stopped by ${signal}`)
})

test('the second one ends the process at once, with the code that shells give it', async () => {
  const { child, saying, ended } = waiting('// It goes on and on.')
  await saying('ready')
  child.kill('SIGTERM')
  await saying('ABORTED')
  child.kill('SIGINT')
  expect(await ended).toEqual([130, null])
})
