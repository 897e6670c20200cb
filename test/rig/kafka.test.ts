/** The Kafka rig leaves nothing behind, however its owner ends. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'

const runsABroker = `
  import { startKafka } from './test/rig/kafka.ts'
  const rig = await startKafka({ mayKill: true })
  console.log('pid ' + rig.pid(1))
  setInterval(() => {}, 1000)
`

test('a broker ends with the process that started it, even when that is killed with -9', async () => {
  const owner = spawn(process.execPath, ['--input-type=module', '-e', runsABroker], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [line] = (await once(owner.stdout, 'data')) as [Buffer]
  const broker = Number(/pid (\d+)/.exec(line.toString())?.[1])
  expect(isAlive(broker)).toBe(true)

  owner.kill('SIGKILL')
  await once(owner, 'exit')

  for (let waitedMs = 0; isAlive(broker) && waitedMs < 5_000; waitedMs += 50) await sleep(50)
  expect(isAlive(broker)).toBe(false)
})

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
