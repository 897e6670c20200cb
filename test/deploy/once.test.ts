/** A bounded read of a console in which one profile fails: its windows are gaps, and the rest is whole. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { stringify } from 'yaml'
import {
  loadGoldenFixture,
  type RafayDouble,
  rafayDemoKey,
  startRafayDouble,
} from '../../deploy/demo/rafay.ts'
import type { CoverageRow } from '../../processor/coverage.ts'
import { meterline } from '../rig/meterline.ts'

const span = ['--from', '2025-06-01T00:00:00Z', '--to', '2025-06-01T02:00:00Z']
const env = { RAFAY_DEFAULT_API_KEY: rafayDemoKey }
let dir: string
let double: RafayDouble

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-once-test-'))
  const golden = readFileSync(new URL('../fixtures/rafay/golden/golden.json', import.meta.url), 'utf8')
  const fixture = loadGoldenFixture(golden)
  // Rows of the golden console are the same for every hour; those of more than an hour cannot be of one.
  fixture.instances = fixture.instances.filter(({ name }) =>
    ['zero', 'nvidia-h100-8gpu-vm', 'test-abc', 'i-001', 'i-002', 'null-usage'].includes(name),
  )
  double = await startRafayDouble({ fixture })
  double.behaviour.faults.push({
    endpoint: 'usage',
    organization: 'coke',
    profile: 'slurm-k8s',
    answer: { status: 404 },
  })
  writeFileSync(
    join(dir, 'meterline.yaml'),
    stringify({
      data: 'data',
      sources: [
        {
          kind: 'rafay',
          name: 'prod',
          dialect: 'console',
          url: double.url,
          apiKey: '${env:RAFAY_DEFAULT_API_KEY}',
          from: '2025-06-01T00:00:00Z',
        },
      ],
      listen: { port: 0 },
    }),
  )
})
afterAll(async () => {
  await double.close()
  rmSync(dir, { recursive: true, force: true })
})

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
