/** Benchmark: a window of a thousand scopes read by the built collector, against calls × latency ÷ concurrency. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { stringify } from 'yaml'
import { type RafayFixture, rafayDemoKey, startRafayDouble } from '../../deploy/demo/rafay.ts'
import { hourMs, showInstant } from '../../schemas/window.ts'
import { startKafka } from '../rig/kafka.ts'
import { cpuSeconds } from './ingest.ts'

const organizations = 50
const profiles = 20
const latencyMs = 20
/** One-hour windows of each scope: with a single one the start of the runtime would be half of the time. */
const hours = 2
const root = fileURLToPath(new URL('../../', import.meta.url))

/** The collector as it is shipped: built, with Kafka as its log; at the default concurrency of the source, or as given. */
export async function benchCollect(args: readonly string[]): Promise<void> {
  const concurrency = Number(args[0] ?? 4)
  execFileSync(process.execPath, ['deploy/build.ts'], { cwd: root, stdio: 'inherit' })
  const hour = Math.floor(Date.now() / hourMs) * hourMs - hours * hourMs
  const fixture = fixtureOf(hour)
  let firstMs = 0
  let lastMs = 0
  await using double = await startRafayDouble({
    fixture,
    dialects: ['console'],
    behaviour: {
      latencyMs,
      onCall: () => {
        firstMs ||= performance.now()
        lastMs = performance.now()
      },
    },
  })
  await using kafka = await startKafka()
  const dir = mkdtempSync(join(tmpdir(), 'meterline-bench-'))
  try {
    const file = join(dir, 'meterline.yaml')
    const topic = `bench.${process.pid}`
    writeFileSync(
      file,
      stringify({
        data: 'data',
        sources: [
          {
            kind: 'rafay',
            name: 'bench',
            dialect: 'console',
            url: double.url,
            apiKey: '${env:RAFAY_DEFAULT_API_KEY}',
            concurrency,
            from: showInstant(hour),
          },
        ],
        kafka: {
          brokers: kafka.brokers,
          topic,
          rejectedTopic: `${topic}.rejected`,
          partitions: 4,
          replicationFactor: 1,
          minInSyncReplicas: 1,
        },
        listen: { port: 0, api: 'loopback' },
      }),
    )
    const span = ['--once', '--from', showInstant(hour), '--to', showInstant(hour + hours * hourMs)]
    const reading = await run(['--config', file, 'collect', ...span])
    const calls = double.calls.length
    const seconds = (lastMs - firstMs + latencyMs) / 1000
    const floor = (calls * latencyMs) / concurrency / 1000
    console.log(
      `${organizations} organizations × ${profiles} profiles × ${hours} hours, ${latencyMs} ms a call, ${concurrency} at once`,
    )
    console.log(reading.stderr.trim().split('\n').at(-1))
    console.log(
      `${calls} calls in ${seconds.toFixed(2)} s; floor (calls × latency ÷ concurrency) ${floor.toFixed(2)} s`,
    )
    console.log(`ratio to the floor: ${(seconds / floor).toFixed(2)} (wanted: at most 1.5)`)
    console.log(
      `CPU of the whole command: ${reading.cpuSeconds.toFixed(2)} s, ${((reading.cpuSeconds / calls) * 1000).toFixed(2)} ms a call`,
    )

    // Idle: the daemon when everything is read, its relay connected.
    const idle = spawn(process.execPath, [join(root, 'dist/meterline.js'), '--config', file, 'collect'], {
      env,
      stdio: 'ignore',
    })
    await sleep(8000)
    const idleBytes = memory(idle.pid ?? 0, 'VmRSS')
    idle.kill('SIGTERM')
    await once(idle, 'close')
    console.log(
      `RSS: idle ${megabytes(idleBytes)}, peak ${megabytes(reading.peakBytes)} (wanted: under 150 MB)`,
    )
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

const env = { ...process.env, RAFAY_DEFAULT_API_KEY: rafayDemoKey, METERLINE_LOG_LEVEL: 'error' }

async function run(
  args: readonly string[],
): Promise<{ stderr: string; peakBytes: number; cpuSeconds: number }> {
  const child = spawn(
    process.execPath,
    [
      ...(process.env.PROF ? ['--cpu-prof', '--cpu-prof-dir=/tmp/prof'] : []),
      join(root, 'dist/meterline.js'),
      ...args,
    ],
    {
      env,
      stdio: ['ignore', 'ignore', 'pipe'],
    },
  )
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  let peakBytes = 0
  let used = 0
  const watch = setInterval(() => {
    if (child.exitCode !== null || child.pid === undefined) return
    try {
      peakBytes = Math.max(peakBytes, memory(child.pid, 'VmHWM'))
      used = cpuSeconds(child.pid)
    } catch {
      // It has just ended.
    }
  }, 50)
  const [code] = await once(child, 'close')
  clearInterval(watch)
  if (code !== 0) throw new Error(`the collector ended with ${code}: ${stderr}`)
  return { stderr, peakBytes, cpuSeconds: used }
}

function fixtureOf(hour: number): RafayFixture {
  const fixture: RafayFixture = { organizations: [], profiles: [], instances: [], tokens: [] }
  for (let profile = 0; profile < profiles; profile += 1)
    fixture.profiles.push({ id: `p${profile}`, name: `profile-${profile}`, kind: 'compute' })
  for (let organization = 0; organization < organizations; organization += 1) {
    const id = `org${String(organization).padStart(4, '0')}`
    fixture.organizations.push({
      id,
      name: `Organization ${organization}`,
      slug: `organization-${organization}`,
    })
    for (let profile = 0; profile < profiles; profile += 1)
      for (let instance = 0; instance < 3; instance += 1)
        fixture.instances.push({
          id: `${id}-${profile}-${instance}`,
          name: `vm-${instance}`,
          organizationId: id,
          profileId: `p${profile}`,
          startMs: hour,
          parameters: [],
        })
  }
  return fixture
}

function memory(pid: number, field: 'VmRSS' | 'VmHWM'): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)?.[1] ?? 0) * 1024
}

const megabytes = (bytes: number) => `${Math.round(bytes / 1e6)} MB`
