/** What the tests of decisions share: a console of which one profile fails, a config that reads it, and how to ask. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { stringify } from 'yaml'
import { type RafayDouble, rafayDemoKey } from '../../deploy/demo/rafay.ts'
import type { CoverageRow } from '../../processor/coverage.ts'
import { meterline, start } from '../rig/meterline.ts'
import { goldenSource, startGolden } from './golden.ts'

export const env = { RAFAY_DEFAULT_API_KEY: rafayDemoKey, METERLINE_LOG_LEVEL: 'info' }
export const source = 'meterline/rafay/prod'
/** Its windows fail. */
export const broken = 'lk5xnd2/slurm-k8s'
/** An item of it cannot be read. */
export const item = { subject: 'dk3opkn', state: 'failed', scope: 'dk3opkn/h110-small-vm' }

export interface Console extends AsyncDisposable {
  readonly double: RafayDouble
  /** A config that reads it from a time on, and how to ask it. */
  configure(name: string, from: string, more?: object): Configured
}

export interface Configured {
  readonly file: string
  start(...args: string[]): ReturnType<typeof start>
  ask(...args: string[]): Promise<{
    readonly code: number | null
    readonly stderr: string
    readonly rows: readonly CoverageRow[]
    readonly states: readonly string[]
  }>
}

export async function startConsole(): Promise<Console> {
  const dir = mkdtempSync(join(tmpdir(), 'meterline-decide-test-'))
  const double = await startGolden(['zero', 'nvidia-h100-8gpu-vm', 'i-001', 'i-002', 'null-usage'])
  const [organization, profile] = ['coke', 'slurm-k8s']
  double.behaviour.faults.push({ endpoint: 'usage', organization, profile, answer: { status: 404 } })
  return {
    double,
    configure(name, from, more = {}) {
      const file = join(dir, `${name}.yaml`)
      const accounts = ['lk5xnd2', '7w2lnkp'].map(subject => ({
        id: subject,
        currency: 'USD',
        priceBook: 'list',
        subjects: [{ source, subject }],
      }))
      writeFileSync(join(dir, 'accounts.yaml'), stringify({ accounts }))
      writeFileSync(join(dir, 'book.yaml'), stringify({ id: 'list', currency: 'USD', charges: [] }))
      const files = { accounts: 'accounts.yaml', priceBooks: ['book.yaml'] }
      writeFileSync(
        file,
        stringify({
          data: name,
          sources: [goldenSource(double, from)],
          listen: { port: 0, api: 'loopback' },
          ...files,
          ...more,
        }),
      )
      const args = ['--config', file]
      return {
        file,
        start: (...some) => start([...args, ...some], { env, cwd: dir }),
        ask: async (...some) => {
          const answer = await meterline([...args, '--json', ...some], { env, cwd: dir })
          const rows = answer.stdout === '' ? [] : (JSON.parse(answer.stdout) as CoverageRow[])
          return { ...answer, rows, states: rows.map(({ state }) => state) }
        },
      }
    },
    async [Symbol.asyncDispose]() {
      await double.close()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

export function gapsOf(rows: readonly CoverageRow[]): readonly CoverageRow[] {
  return rows.filter(({ state }) => !['read', 'settled', 'waived'].includes(state))
}

export async function told(daemon: ReturnType<typeof start>, what: RegExp): Promise<string> {
  let found: RegExpExecArray | null = null
  await until(async () => {
    found = what.exec(daemon.stderr())
    return found !== null
  })
  return found![1]!
}

export async function until(isSo: () => Promise<boolean>): Promise<void> {
  for (const endMs = Date.now() + 90_000; !(await isSo().catch(() => false)); await sleep(200))
    if (Date.now() > endMs) throw new Error('it did not come to pass')
}
