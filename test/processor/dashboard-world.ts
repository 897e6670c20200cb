/**
 * A running Meterline for tests of its page: June 2025 of the demo's three tenants, of which some hours of 1 July could not
 * be read, the API and the page over HTTP, and keys of the provider, of a customer and of those who may see less.
 */
import { hash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Registry } from 'prom-client'
import { stringify } from 'yaml'
import { collectOnce } from '../../collector/once.ts'
import { juneBilling, juneFixture, rafayDemoKey, startRafayDouble } from '../../deploy/demo/rafay.ts'
import { arrived } from '../../deploy/once.ts'
import { configured, startRoles } from '../../deploy/roles.ts'
import { Health, serveHealth } from '../../runtime/health.ts'
import { ConfiguredKeys, KeyRing } from '../../runtime/keys.ts'
import { openLog } from '../../runtime/logs.ts'
import type { KeyScope } from '../../schemas/keys.ts'
import { hourMs } from '../../schemas/window.ts'

export const source = 'meterline/rafay/demo'
export const [juneMs, julyMs] = [Date.UTC(2025, 5, 1), Date.UTC(2025, 6, 1)]
/** Of these hours of 1 July the console knew nothing. */
export const gapHours = 6

export type Who = 'provider' | 'Org-A' | 'reader' | 'pusher'
const who: Readonly<Record<Who, { readonly scopes: readonly KeyScope[]; readonly account?: string }>> = {
  provider: { scopes: ['read', 'bill', 'admin'] },
  'Org-A': { scopes: ['read', 'bill'], account: 'Org-A' },
  reader: { scopes: ['read'] },
  pusher: { scopes: ['ingest'] },
}

export interface DashboardWorld extends AsyncDisposable {
  readonly url: string
  readonly health: Health
  /** The page as somebody opens it. */
  pageOf(whose: Who, search?: string): string
  /** What the API answers them. */
  ask<Answer>(whose: Who, path: string): Promise<Answer>
}

const keyOf = (whose: Who) => `key-of-${whose}-${'x'.repeat(20)}`

export async function openDashboardWorld(): Promise<DashboardWorld> {
  await using opening = new AsyncDisposableStack()
  const dir = mkdtempSync(join(tmpdir(), 'meterline-dashboard-'))
  opening.defer(() => rmSync(dir, { recursive: true, force: true }))
  const nowMs = () => julyMs + 2 * 24 * hourMs
  const double = opening.use(await startRafayDouble({ fixture: juneFixture(), nowMs }))
  const settings = {
    config: writeConfig(dir, double.url),
    data: dir,
    env: { RAFAY_DEFAULT_API_KEY: rafayDemoKey },
    signal: new AbortController().signal,
    stdout: () => undefined,
    stderr: () => undefined,
    nowMs,
  }
  const config = await configured(settings, 'price')
  const log = openLog({ level: 'fatal', role: 'test' })
  const health = new Health()
  const keys = new KeyRing(new ConfiguredKeys(config.keys, {}, nowMs()))
  const served = opening.use(
    await serveHealth({ health, registry: new Registry(), host: '127.0.0.1', port: 0 }),
  )
  const daemon = { log, health, served, keys }
  const running = opening.use(await startRoles(config, settings, ['sender', 'processor'], daemon))
  const { outbox } = running
  if (!outbox) throw new Error('what reads has an outbox')
  const read = async (startMs: number, endMs: number) => {
    const span = { startMs, endMs }
    // What fails is not tried again: nobody waits for it here.
    const { signal } = settings
    await collectOnce({ sources: running.opened, outbox, span, log, nowMs, signal, retryRestsMs: [] })
    await arrived(running, { config, signal: settings.signal })
  }
  await read(juneMs, julyMs)
  double.behaviour.faults.push({ endpoint: 'instance_usage', answer: 'empty_object' })
  await read(julyMs, julyMs + gapHours * hourMs)
  const ask = async <Answer>(whose: Who, path: string): Promise<Answer> => {
    const answer = await fetch(`${served.url}/api/v1/${path}`, {
      headers: { authorization: `Bearer ${keyOf(whose)}` },
    })
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`)
    return (await answer.json()) as Answer
  }
  const opened = opening.move()
  return {
    url: served.url,
    health,
    pageOf: (whose, search = '') => `${served.url}/${search}#key=${keyOf(whose)}`,
    ask,
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  }
}

function writeConfig(dir: string, url: string): string {
  const rafay = { kind: 'rafay', name: 'demo', dialect: 'billing', url, windowMinutes: 60 }
  const files = {
    'meterline.yaml': {
      data: '.',
      sources: [{ ...rafay, apiKey: '${env:RAFAY_DEFAULT_API_KEY}' }],
      accounts: 'accounts.yaml',
      priceBooks: ['prices.yaml'],
      keys: Object.entries(who).map(([name, { scopes, account }]) => ({
        name,
        sha256: hash('sha256', keyOf(name as Who), 'hex'),
        scopes,
        ...(account !== undefined && { account }),
        ...(scopes.includes('ingest') && { sources: ['*'], subjects: ['*'] }),
      })),
    },
    ...juneBilling(source),
  }
  for (const [name, content] of Object.entries(files)) writeFileSync(join(dir, name), stringify(content))
  return join(dir, 'meterline.yaml')
}
