/**
 * A bounded read of a console in which one profile fails: its windows are gaps, and the rest is whole. And one whose
 * Kafka is away: what was read is not taken for sent.
 */
import { randomUUID } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { type RafayDouble, rafayDemoKey } from '../../deploy/demo/rafay.ts'
import { collectOnceCommand } from '../../deploy/once.ts'
import type { CoverageRow } from '../../processor/coverage.ts'
import type { Fault } from '../../schemas/fault.ts'
import { startKafka } from '../rig/kafka.ts'
import { readTopic } from '../rig/kafka-topics.ts'
import { meterline, start } from '../rig/meterline.ts'
import { goldenSource, startGolden } from './golden.ts'

const span = ['--from', '2025-06-01T00:00:00Z', '--to', '2025-06-01T02:00:00Z']
const env = { RAFAY_DEFAULT_API_KEY: rafayDemoKey }
let dir: string
let double: RafayDouble

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-once-'))
  double = await startGolden(['zero', 'nvidia-h100-8gpu-vm', 'test-abc', 'i-001', 'i-002', 'null-usage'])
  double.behaviour.faults.push({
    endpoint: 'usage',
    organization: 'coke',
    profile: 'slurm-k8s',
    answer: { status: 404 },
  })
  configure('meterline.yaml', { data: 'data' })
})
afterAll(async () => {
  await double.close()
  rmSync(dir, { recursive: true, force: true })
})

/** Writes a config that reads the console, and more. */
function configure(name: string, more: Readonly<Record<string, unknown>>): string {
  const file = join(dir, name)
  writeFileSync(
    file,
    stringify({ sources: [goldenSource(double)], listen: { port: 0, api: 'loopback' }, ...more }),
  )
  return file
}

const ask = (...args: string[]) =>
  meterline(['--config', join(dir, 'meterline.yaml'), ...args], { env, cwd: dir })

test('a profile that keeps failing leaves failed windows and exit 3, and every other scope is whole', async () => {
  const answer = await ask('collect', '--once', ...span, '--json')
  expect(answer.code, answer.stderr).toBe(3)
  expect(answer.stderr).toMatch(
    /gap: source=meterline\/rafay\/prod scope=lk5xnd2\/slurm-k8s .*failed SOURCE_MISSING/,
  )
  const rows = JSON.parse(answer.stdout) as CoverageRow[]
  const failed = rows.filter(row => row.state === 'failed' && row.subject === undefined)
  expect(new Set(failed.map(row => row.scope))).toEqual(new Set(['lk5xnd2/slurm-k8s']))
  expect(failed).toHaveLength(2)
  // The item without a quantity is a gap of its tenant alone.
  const items = rows.filter(row => row.subject !== undefined)
  expect(items.map(row => [row.scope, row.subject, row.fault?.code])).toEqual([
    ['dk3opkn/h110-small-vm', 'dk3opkn', 'ITEM_UNREADABLE'],
    ['dk3opkn/h110-small-vm', 'dk3opkn', 'ITEM_UNREADABLE'],
  ])
  expect(rows.filter(row => row.state === 'settled').map(row => row.scope)).toContain(
    '7w2lnkp/unsloth-finetune',
  )
})

test('the same columns come from the ledger, names of one profile summed', async () => {
  const out = join(dir, 'out')
  const answer = await ask('export', 'rafay-csv', ...span, '--out', out)
  expect(answer.code, answer.stderr).toBe(0)
  const sorted = readdirSync(out).find(name => name.startsWith('ncp-metrics-sorted-'))
  expect(readFileSync(join(out, sorted ?? ''), 'utf8').split('\r\n')).toEqual([
    'Organization,Profile Type,Profile,Instance,Usage(h),Status',
    '"Acme, ""GPU"" GmbH Ü",compute,h110-small-vm,nvidia-h100-8gpu-vm,0.68,running',
    '"Acme, ""GPU"" GmbH Ü",compute,h110-small-vm,zero,0,stopped',
    '"Acme, ""GPU"" GmbH Ü",compute,many,i-001,0.5,running',
    '"Acme, ""GPU"" GmbH Ü",compute,many,i-002,1,running',
    // Two rows of one name, two hours: 4 × 0.12.
    'Pepsi,compute,unsloth-finetune,test-abc,0.48,terminated',
    '',
  ])
})

test('once the profile is back, reading by hand closes the gap', async () => {
  double.behaviour.faults.length = 0
  const answer = await ask('collect', '--once', ...span, '--scope', 'lk5xnd2/slurm-k8s')
  expect(answer.code, answer.stderr).toBe(0)
  const coverage = await ask('coverage', ...span, '--scope', 'lk5xnd2/slurm-k8s', '--json')
  expect((JSON.parse(coverage.stdout) as CoverageRow[]).map(row => row.state)).toEqual(['settled', 'settled'])
})

test('killed on its way, the same command reads what is left', async () => {
  const config = configure('killed.yaml', { data: 'killed' })
  double.behaviour.faults.length = 0
  const hours = ['--from', '2025-06-01T00:00:00Z', '--to', '2025-06-01T12:00:00Z']
  const args = ['--config', config, 'collect', '--once', ...hours]
  const windows = () => double.calls.filter(call => call.endpoint === 'usage').length
  double.behaviour.latencyMs = 20
  const killed = start(args, { env, cwd: dir })
  const before = windows()
  while (windows() < before + 50) await sleep(10)
  await killed.kill()
  const asked = windows()
  double.behaviour.latencyMs = 0
  const second = await meterline(args, { env, cwd: dir })
  const said = /(\d+) of (\d+) windows read \((\d+) by the run before\)/.exec(second.stderr)
  expect(said, second.stderr).not.toBeNull()
  const [, read, due, earlier] = said!.map(Number)
  expect(read).toBe(due)
  expect(earlier).toBeGreaterThan(10)
  expect(earlier).toBeLessThan(asked - before + 1)
  expect(windows() - asked).toBe(due! - earlier!)
}, 120_000)

describe('with Kafka away', () => {
  /** The command in this process, stopped once all is read, or left to wait until Kafka has it: for nobody a second and a half. */
  async function once(brokers: readonly string[], end: 'by itself' | 'stopped' = 'by itself') {
    const said: string[] = []
    const stop = new AbortController()
    const config = configure('away.yaml', { data: 'away', kafka: { ...kafka, brokers } })
    const fault = await collectOnceCommand({
      config,
      from: '2025-06-01T00:00:00Z',
      to: '2025-06-01T02:00:00Z',
      sentWithinMs: brokers === nobody ? 1500 : 60_000,
      signal: stop.signal,
      env,
      stdout: text => void said.push(text),
      stderr: line => {
        said.push(line)
        if (end === 'stopped' && line.includes('windows read')) stop.abort()
      },
      nowMs: Date.now,
    }).then(
      code => code,
      (error: Fault) => error,
    )
    return { fault, said: said.join('\n') }
  }
  const topic = `once-${randomUUID()}`
  const rejectedTopic = `${topic}.rejected`
  const kafka = { topic, rejectedTopic, partitions: 3, replicationFactor: 1, minInSyncReplicas: 1 }
  /** A port that nobody listens on. */
  const nobody = ['127.0.0.1:1']

  test('it fails, says how many rows wait and where, and the next run sends them all', async () => {
    const away = await once(nobody)
    expect(away.fault).toMatchObject({ code: 'LOG_UNREACHABLE', facts: { rows: expect.any(Number) } })
    const { rows } = (away.fault as Fault).facts
    expect((away.fault as Fault).message).toBe(
      `${rows} rows wait in ${join(dir, 'away/outbox.db')}: Kafka took none for 1.5 s; the next run, or \`meterline collect\`, sends them`,
    )
    // Its gaps are named all the same: the item without a quantity.
    expect(away.said).toMatch(/gap: .*subject=dk3opkn.* failed ITEM_UNREADABLE/)

    await using rig = await startKafka()
    const back = await once(rig.brokers)
    expect(back.fault, back.said).toBe(3)
    expect(await readTopic(rig, topic)).toHaveLength(2 * Number(rows))
  }, 200_000)

  test('a stop while it waits is a failure too', async () => {
    const { fault } = await once(nobody, 'stopped')
    expect(fault).toMatchObject({ code: 'ABORTED', message: expect.stringMatching(/^\d+ rows wait in /) })
  })
})
