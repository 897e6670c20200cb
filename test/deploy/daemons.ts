/** What the tests of whole daemons share: a console whose lives are known to the second, the real command over it, and an oracle. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import Fraction from 'fraction.js'
import { stringify } from 'yaml'
import {
  type RafayCall,
  type RafayDouble,
  type RafayInstance,
  rafayDemoKey,
  startRafayDouble,
} from '../../deploy/demo/rafay.ts'
import { openEmbedded } from '../../deploy/embedded/embedded.ts'
import { Store } from '../../processor/store.ts'
import { show } from '../../schemas/decimal.ts'
import type { UsageRow } from '../../schemas/meters.ts'
import { hourMs, showInstant, type Window } from '../../schemas/window.ts'
import { type Answer, meterline, type RunningMeterline, start } from '../rig/meterline.ts'

export const source = 'meterline/rafay/site'
const organizations = ['aaaaaa1', 'bbbbbb2'].map((id, at) => ({ id, name: `Org ${at}`, slug: `org-${at}` }))
const profiles = ['h100', 'l40'].map(name => ({ id: name, name, kind: 'compute' as const }))
/** Times are multiples of 36 s, which Rafay's six decimals of an hour hold exactly. */
const unitMs = 36_000

export interface Daemon extends RunningMeterline {
  readonly url: string
  get(path: string): Promise<{ readonly status: number; readonly text: string }>
  /** All of it runs. */
  ready(): Promise<void>
  /** What it said matches. */
  says(what: RegExp): Promise<void>
}

export interface Site extends AsyncDisposable {
  readonly dir: string
  readonly double: RafayDouble
  /** A config that reads the console from a time on; `name` is its data directory too. */
  configure(
    name: string,
    fromMs: number,
    more?: object,
    secrets?: Readonly<Record<string, string>>,
  ): Promise<Configured>
  /** An instance uses more, from an hour on, by so many units of 36 s. */
  useMore(startMs: number, units: number): void
  oracle(span: Window): Readonly<Record<string, string>>
}

export interface Configured {
  readonly file: string
  readonly data: string
  start(role: 'up' | 'collect' | 'process'): Daemon
  ask(...args: string[]): Promise<Answer>
  /** Until every window of the span was read and the hours are what the console says. */
  comesToOracle(span: Window): Promise<void>
  /** Asks the store of the data directory, served by a daemon or for this question. */
  query<Row>(sql: string): Promise<readonly Row[]>
  loseOutbox(): void
}

export async function startSite(hours: Window): Promise<Site> {
  const dir = mkdtempSync(join(tmpdir(), 'meterline-site-'))
  const instances: RafayInstance[] = []
  const units = (hours.endMs - hours.startMs) / unitMs
  const live = (startMs: number, count: number, at: number) =>
    instances.push({
      id: `instance-${instances.length}`,
      name: `vm-${instances.length}`,
      organizationId: organizations[at % 2]!.id,
      profileId: profiles[(at >> 1) % 2]!.id,
      startMs,
      endMs: startMs + count * unitMs,
    })
  // Two in each scope, begun and ended at odd minutes.
  for (let at = 0; at < 8; at += 1)
    live(hours.startMs + ((at * 7) % 40) * unitMs, Math.floor((units * (at + 5)) / 13) - 41, at)
  const fixture = { organizations, profiles, instances, tokens: [] }
  const double = await startRafayDouble({ fixture, dialects: ['console'] })
  const oracle = (span: Window) => {
    const sums = new Map<string, Fraction>()
    for (const { organizationId, profileId, startMs, endMs = span.endMs } of instances) {
      const usedMs = Math.min(endMs, span.endMs) - Math.max(startMs, span.startMs)
      if (usedMs <= 0) continue
      const key = `${organizationId} ${profileId}`
      sums.set(key, (sums.get(key) ?? new Fraction(0)).add(new Fraction(usedMs, hourMs)))
    }
    return Object.fromEntries(Array.from(sums, ([key, sum]) => [key, show(sum)] as const).sort())
  }
  return {
    dir,
    double,
    oracle,
    useMore: (startMs, count) => void live(startMs, count, 0),
    async configure(name, fromMs, more = {}, secrets = {}) {
      const env = { RAFAY_DEFAULT_API_KEY: rafayDemoKey, METERLINE_LOG_LEVEL: 'info', ...secrets }
      const file = join(dir, `${name}.yaml`)
      const port = await freePort()
      const site = {
        ...{ kind: 'rafay', name: 'site', dialect: 'console', url: double.url, from: showInstant(fromMs) },
        apiKey: '${env:RAFAY_DEFAULT_API_KEY}',
        // What is over long since settles at once: nothing is read twice while a test looks on.
        rereadAfterMinutes: [1],
      }
      writeFileSync(
        file,
        stringify({ data: name, sources: [site], listen: { port, api: 'loopback' }, ...more }),
      )
      const data = join(dir, name)
      const ask = (...args: string[]) => meterline(['--config', file, ...args], { env, cwd: dir })
      return {
        file,
        data,
        ask,
        start: role => asDaemon(start(['--config', file, role], { env, cwd: dir }), port),
        async comesToOracle(span) {
          const spanArgs = ['--from', showInstant(span.startMs), '--to', showInstant(span.endMs), '--json']
          const expected = JSON.stringify(oracle(span))
          let found = ''
          await until(
            async () => {
              const usage = await ask('usage', 'instance_hours', '--group-by', 'profile', ...spanArgs)
              if (usage.code !== 0) throw new Error(usage.stderr)
              const rows = JSON.parse(usage.stdout) as UsageRow[]
              found = JSON.stringify(
                Object.fromEntries(
                  rows.map(row => [`${row.subject} ${row.group_by.profile}`, row.value] as const).sort(),
                ),
              )
              return found === expected && (await ask('coverage', ...spanArgs)).code === 0
            },
            () => `found    ${found}\nexpected ${expected}`,
          )
        },
        async query<Row>(sql: string) {
          await using embedded = await openEmbedded({ dataDir: data })
          const { url, user, password } = embedded
          await using store = await Store.open({ url, user, password, database: 'meterline' })
          if (/^\s*select/.test(sql)) return await store.rows<Row>(sql)
          await store.run(sql)
          return []
        },
        loseOutbox() {
          for (const lost of readdirSync(data)) if (lost.startsWith('outbox.db')) rmSync(join(data, lost))
        },
      }
    },
    async [Symbol.asyncDispose]() {
      await double.close()
      rmSync(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 })
    },
  }
}

export function asDaemon(running: RunningMeterline, port: number): Daemon {
  const url = `http://127.0.0.1:${port}`
  const get = async (path: string) => {
    try {
      const answer = await fetch(`${url}${path}`)
      return { status: answer.status, text: await answer.text() }
    } catch (error) {
      return { status: 0, text: String(error) }
    }
  }
  let last = ''
  const said = () => `${last}\n${running.stderr()}`
  return {
    ...running,
    url,
    get,
    async ready() {
      await until(async () => {
        const { status, text } = await get('/readyz')
        last = text
        return status === 200
      }, said)
    },
    says: what => until(async () => what.test(running.stderr()), said),
  }
}

/** The windows, by their starts, that were asked of a scope: `bbbbbb2/h100`. */
export function askedOf(calls: readonly RafayCall[], scope: string): readonly number[] {
  const [id, profile] = scope.split('/')
  const slug = organizations.find(organization => organization.id === id)?.slug
  return calls
    .filter(call => call.endpoint === 'usage' && call.organization === slug && call.profile === profile)
    .map(call => Date.parse(call.query.start_time ?? ''))
}

export async function until(
  isSo: () => Promise<boolean>,
  otherwise: () => string = () => '',
  limitMs = 120_000,
): Promise<void> {
  for (const endMs = performance.now() + limitMs; !(await isSo()); await sleep(150))
    if (performance.now() > endMs) throw new Error(`it did not come to pass\n${otherwise()}`)
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  const { port } = server.address() as { port: number }
  await new Promise(resolve => server.close(resolve))
  return port
}
