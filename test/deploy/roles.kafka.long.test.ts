/**
 * Whether a processor looks as it is: red while its Kafka says nothing or deals it no partitions, green again after, and an
 * end with exit code 1 where it cannot go on. The real command, and a broker that is stopped under it.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { stringify } from 'yaml'
import type { KafkaConfig } from '../../runtime/log/kafka.ts'
import { type KafkaRig, startKafka } from '../rig/kafka.ts'
import { freshConfig, sendAll } from '../rig/kafka-topics.ts'
import { type RunningMeterline, start } from '../rig/meterline.ts'

let rig: KafkaRig
let dir: string
beforeAll(async () => {
  rig = await startKafka({ mayKill: true })
  dir = mkdtempSync(join(tmpdir(), 'meterline-health-'))
}, 300_000)
afterAll(async () => {
  await rig?.stop()
  rmSync(dir, { recursive: true, force: true })
})

interface Health {
  readonly status: number
  readonly text: string
}

/** A processor with health at a port of its own. */
async function startProcess(changes: Partial<KafkaConfig> = {}) {
  const { retentionMs: _, ...kafka } = freshConfig(rig, { partitions: 2, ...changes })
  const port = await freePort()
  const file = join(dir, `${kafka.topic}.yaml`)
  writeFileSync(file, stringify({ data: join(dir, kafka.topic), kafka, listen: { port, api: 'loopback' } }))
  const running = start(['--config', file, 'process'])
  const readyz = async (): Promise<Health> => {
    try {
      const answer = await fetch(`http://127.0.0.1:${port}/readyz`)
      return { status: answer.status, text: await answer.text() }
    } catch (error) {
      return { status: 0, text: String(error) }
    }
  }
  /** Ready, and started to its last part. */
  const started = async () => {
    await until(running, readyz, isGreen, 90_000)
    const api = async () => ({
      status: (await fetch(`http://127.0.0.1:${port}/api/v1/coverage`)).status,
      text: 'the API is not there',
    })
    await until(running, api, ({ status }) => status !== 503, 30_000)
  }
  return { running, kafka, readyz, started }
}

async function until(
  running: RunningMeterline,
  ask: () => Promise<Health>,
  isSo: (health: Health) => boolean,
  limitMs: number,
): Promise<Health> {
  const untilMs = performance.now() + limitMs
  for (;;) {
    const health = await ask()
    if (isSo(health)) return health
    if (performance.now() > untilMs)
      throw new Error(`still ${health.status}: ${health.text}\n${running.stderr()}`)
    await sleep(200)
  }
}

const isGreen = ({ status, text }: Health) => status === 200 && text.includes('"processor":"ok"')

test('a processor whose broker says nothing turns red and names the reason, and green again when it speaks', async () => {
  const { running, kafka, readyz, started } = await startProcess()
  await using _ = running
  await started()
  rig.freeze(1)
  try {
    const red = await until(running, readyz, ({ status }) => status === 503, 45_000)
    expect(red.text).toMatch(/"processor":"the log: (no sign of Kafka|no member of group)/)
  } finally {
    rig.thaw(1)
  }
  await until(running, readyz, isGreen, 60_000)
  await sendAll({ ...kafka, retentionMs: 7 * 24 * 3_600_000 }, [{ key: 'k', value: Buffer.from('{}') }])
  expect(await running.stop(), running.stderr()).toBe(0)
}, 240_000)

test('a processor that its group does not take ends with exit code 1, and says why', async () => {
  // Longer than a broker allows by default: 30 minutes.
  const { running } = await startProcess({ sessionTimeoutMs: 3_600_000 })
  await using _ = running
  expect(await running.ended).toBe(1)
  expect(running.stderr()).toMatch(/INVALID_SESSION_TIMEOUT/)
}, 120_000)

test('a processor whose broker stays dead is red, and then ends with exit code 1 for its supervisor', async () => {
  const { running, readyz, started } = await startProcess()
  await using _ = running
  await started()
  await rig.kill(1)
  await until(running, readyz, ({ status }) => status === 503, 45_000)
  expect(await running.ended).toBe(1)
  expect(running.stderr()).toMatch(/LOG_UNREACHABLE/)
}, 240_000)

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  const { port } = server.address() as { port: number }
  await new Promise(resolve => server.close(resolve))
  return port
}
