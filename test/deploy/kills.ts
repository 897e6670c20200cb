/** Kills collector and processor with -9 at random moments, lets them finish, and holds the totals against an oracle. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import Fraction from 'fraction.js'
import { expect } from 'vitest'
import { stringify } from 'yaml'
import { type RafayFixture, rafayDemoKey, startRafayDouble } from '../../deploy/demo/rafay.ts'
import { show } from '../../schemas/decimal.ts'
import type { UsageRow } from '../../schemas/meters.ts'
import { hourMs, showInstant, type Window } from '../../schemas/window.ts'
import { seeded } from '../bench/load.ts'
import { meterline, type RunningMeterline, start } from '../rig/meterline.ts'

export interface KillPlan {
  readonly seed: number
  readonly kills: number
  /** How much of the past is read while being killed. */
  readonly hours: number
  /** With brokers collector and processor are two processes, without one. */
  readonly brokers?: readonly string[]
}

/** Times are multiples of 36 s, which Rafay's six decimals of an hour hold exactly. */
const unitMs = 36_000
const gpuTypes = ['L40', 'A100', 'H100']
const settledWithinMs = 180_000

export async function surviveKills(plan: KillPlan): Promise<void> {
  const random = seeded(plan.seed)
  const endMs = Math.floor(Date.now() / hourMs) * hourMs
  const span = { startMs: endMs - plan.hours * hourMs, endMs }
  const fixture = randomFixture(span, random)
  const dir = mkdtempSync(join(tmpdir(), 'meterline-kills-'))
  await using double = await startRafayDouble({ fixture, behaviour: { latencyMs: 40 } })
  const file = writeConfig(dir, double.url, span, plan)
  const rig = new Rig(file, plan)
  try {
    for (let kill = 0; kill < plan.kills; kill += 1) {
      rig.startMissing()
      await sleep(200 + random() * 3500)
      await rig.killOne(random)
    }
    await rig.settled(span)
    await expectOracle(rig, fixture, span)

    // What the provider says has changed: an instance moved, one vanished, one used more. A read by hand finds it,
    // and is killed on its way as well.
    change(fixture, span)
    await rig.stopAll()
    for (let kill = 0; kill < Math.ceil(plan.kills / 10); kill += 1) await rig.killOnce(span, random)
    const once = await rig.ask(['collect', '--once', ...spanArgs(span)])
    // What takes much away from a window waits for a second read or a person, and nothing else may be missing.
    const gaps = once.stderr.split('\n').filter(line => line.startsWith('gap: '))
    expect(gaps.filter(line => !line.endsWith(' suspect'))).toEqual([])
    expect(once.code, once.stderr).toBe(gaps.length > 0 ? 3 : 0)
    if (plan.brokers) rig.startMissing()
    const why = ['--source', 'kills', '--reason', 'the instances are gone', '--author', 'test']
    await expectOracle(rig, fixture, span, ['coverage', 'confirm', ...why, ...spanArgs(span)])
  } catch (error) {
    throw new Error(`seed ${plan.seed}: ${(error as Error).message}\n${rig.said()}`, { cause: error })
  } finally {
    await rig.stopAll()
    rmSync(dir, { recursive: true, force: true })
  }
}

/** The processes under test: one `up`, or a collector and a processor. */
class Rig {
  readonly #file: string
  readonly #roles: readonly string[]
  readonly #running = new Map<string, RunningMeterline>()
  #said = ''

  constructor(file: string, plan: KillPlan) {
    this.#file = file
    this.#roles = plan.brokers ? ['collect', 'process'] : ['up']
  }

  startMissing(): void {
    for (const role of this.#roles)
      if (!this.#running.has(role)) this.#running.set(role, start(['--config', this.#file, role], { env }))
  }

  async killOne(random: () => number): Promise<void> {
    const role = this.#roles[Math.floor(random() * this.#roles.length)] ?? 'up'
    const running = this.#running.get(role)
    if (!running) return
    if (running.process.exitCode !== null)
      throw new Error(`${role} ended by itself with ${running.process.exitCode}: ${running.stderr()}`)
    await running.kill()
    this.#said = running.stderr()
    this.#running.delete(role)
  }

  /** A bounded read that is killed after a while. */
  async killOnce(span: Window, random: () => number): Promise<void> {
    const running = start(['--config', this.#file, 'collect', '--once', ...spanArgs(span)], { env })
    await sleep(500 + random() * 2500)
    await running.kill()
  }

  /** Waits until every window of the span was read. */
  async settled(span: Window): Promise<void> {
    this.startMissing()
    const untilMs = Date.now() + settledWithinMs
    for (;;) {
      const { code, stderr } = await this.ask(['coverage', ...spanArgs(span), '--json'])
      if (code === 0) return
      if (Date.now() > untilMs) throw new Error(`not all was read: ${stderr.slice(0, 3000)}`)
      await sleep(500)
    }
  }

  async ask(args: readonly string[]) {
    return await meterline(['--config', this.#file, ...args], { env })
  }

  async stopAll(): Promise<void> {
    await Promise.all(Array.from(this.#running.values(), running => running.stop()))
    this.#running.clear()
  }

  said(): string {
    return [this.#said, ...Array.from(this.#running.values(), running => running.stderr())]
      .join('\n')
      .slice(-4000)
  }
}

const spanArgs = (span: Window) => ['--from', showInstant(span.startMs), '--to', showInstant(span.endMs)]

const env = { RAFAY_DEFAULT_API_KEY: rafayDemoKey }

function writeConfig(dir: string, url: string, span: Window, plan: KillPlan): string {
  const topic = `kills.${process.pid}.${plan.seed}`
  writeFileSync(
    join(dir, 'meterline.yaml'),
    stringify({
      data: './data',
      sources: [
        {
          kind: 'rafay',
          name: 'kills',
          url,
          apiKey: '${env:RAFAY_DEFAULT_API_KEY}',
          from: showInstant(span.startMs),
          // Old windows settle at once, and nothing is read again while the test runs.
          rereadAfterMinutes: [1],
        },
      ],
      ...(plan.brokers && {
        kafka: {
          brokers: plan.brokers,
          topic,
          rejectedTopic: `${topic}.rejected`,
          partitions: 3,
          replicationFactor: 1,
          minInSyncReplicas: 1,
          groupId: topic,
          // kafkajs has no static membership: a killed member blocks its group for so long.
          sessionTimeoutMs: 1500,
        },
      }),
      listen: { port: 0, api: 'loopback' },
    }),
  )
  return join(dir, 'meterline.yaml')
}

function randomFixture(span: Window, random: () => number): RafayFixture {
  const units = (span.endMs - span.startMs) / unitMs
  const organizations = ['aaaaaa1', 'bbbbbb2', 'cccccc3'].map((id, index) => ({
    id,
    name: `Org ${index}`,
    slug: `org-${index}`,
  }))
  const profiles = gpuTypes.map((gpuType, index) => ({
    id: `profile-${index}`,
    name: gpuType.toLowerCase(),
    kind: index === 2 ? ('service' as const) : ('compute' as const),
  }))
  const instances = Array.from({ length: 18 }, (_, index) => {
    const start = Math.floor(random() * units * 0.8)
    const lived = 1 + Math.floor(random() * (units - start - 1))
    return {
      id: `instance-${index}`,
      name: `vm-${index}`,
      organizationId: organizations[index % 3]?.id ?? '',
      profileId: profiles[Math.floor(index / 3) % 3]?.id ?? '',
      startMs: span.startMs + start * unitMs,
      endMs: span.startMs + (start + lived) * unitMs,
      parameters: [
        { name: 'gpu_type', label: gpuTypes[Math.floor(index / 3) % 3] ?? '' },
        { name: 'GPU Count', label: String(1 + (index % 8)) },
      ],
    }
  })
  return { organizations, profiles, instances, tokens: [] }
}

/** An instance moves to another organization, one vanishes, one ends earlier. */
function change(fixture: RafayFixture, span: Window): void {
  const [moved, , shortened] = fixture.instances
  if (moved) moved.organizationId = 'bbbbbb2'
  if (shortened) shortened.endMs = Math.min(shortened.endMs ?? span.endMs, shortened.startMs + 10 * unitMs)
  fixture.instances.splice(1, 1)
}

/** Hours by organization and GPU type, from the lives themselves. */
function oracle(
  fixture: RafayFixture,
  span: Window,
  of: 'instance_hours' | 'gpu_hours',
): Record<string, string> {
  const sums = new Map<string, Fraction>()
  for (const instance of fixture.instances) {
    const label = (name: string) =>
      instance.parameters?.find(parameter => parameter.name === name && 'label' in parameter) as
        | { label: string }
        | undefined
    const from = Math.max(instance.startMs, span.startMs)
    const to = Math.min(instance.endMs ?? span.endMs, span.endMs)
    if (to <= from) continue
    const hours = new Fraction(to - from, hourMs)
    const gpus = of === 'gpu_hours' ? Number(label('GPU Count')?.label ?? 1) : 1
    const key = `${instance.organizationId} ${label('gpu_type')?.label}`
    sums.set(key, (sums.get(key) ?? new Fraction(0)).add(hours.mul(gpus)))
  }
  return Object.fromEntries(Array.from(sums, ([key, sum]) => [key, show(sum)] as const).sort())
}

/** @param first what is asked for before each look: what a person would do meanwhile */
async function expectOracle(
  rig: Rig,
  fixture: RafayFixture,
  span: Window,
  first?: readonly string[],
): Promise<void> {
  for (const meter of ['instance_hours', 'gpu_hours'] as const) {
    const expected = oracle(fixture, span, meter)
    const args = ['usage', meter, ...spanArgs(span), '--group-by', 'gpu_type', '--json']
    const untilMs = Date.now() + 60_000
    for (;;) {
      if (first) await rig.ask(first)
      const { code, stdout, stderr } = await rig.ask(args)
      expect(code, stderr).toBe(0)
      const rows = JSON.parse(stdout) as UsageRow[]
      const found = Object.fromEntries(
        rows.map(row => [`${row.subject} ${row.group_by.gpu_type}`, row.value] as const).sort(),
      )
      // Through Kafka the answer follows the read by hand after a moment; a wrong one stays wrong.
      if (JSON.stringify(found) === JSON.stringify(expected) || Date.now() > untilMs) {
        expect(found).toEqual(expected)
        break
      }
      await sleep(500)
    }
  }
}
