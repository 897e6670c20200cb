/** `meterline demo`: everything in one process against the Rafay double, from June 2025's usage to line items and files. */
import { mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { stringify } from 'yaml'
import { bill } from '../../processor/billing.ts'
import { coverage as coverageOf, isGap, scopeLives } from '../../processor/coverage.ts'
import { exportFormats } from '../../processor/exports/list.ts'
import { createKey, listKeys, revokeKey, type WantedKey } from '../../processor/keys.ts'
import { totalsByCurrency } from '../../processor/line-items.ts'
import type { Store } from '../../processor/store.ts'
import { usage as usageOf } from '../../processor/usage.ts'
import type { LoadedConfig } from '../../runtime/config.ts'
import { Health } from '../../runtime/health.ts'
import { openLog } from '../../runtime/logs.ts'
import { printJson, printRows } from '../../runtime/print.ts'
import { exact, showQuantity } from '../../schemas/decimal.ts'
import { Fault } from '../../schemas/fault.ts'
import type { UsageRow } from '../../schemas/meters.ts'
import { dayMs, secondMs, showInstant, type Window, windowAt } from '../../schemas/window.ts'
import { nameUnbilled, printUsage } from '../commands.ts'
import { decisionOf, pushedOf } from '../decide.ts'
import { arrived, readSpan } from '../once.ts'
import { configured, type Running, runRoles, type Settings, startRoles } from '../roles.ts'
import { juneBilling, juneFixture, junePrices, rafayDemoKey, startRafayDouble } from './rafay.ts'

const june: Window = { startMs: Date.UTC(2025, 5, 1), endMs: Date.UTC(2025, 6, 1) }
const ingestedWithinMs = 60 * secondMs

/** Prints usage, line items, coverage and where the files are; with `once` ends there, else goes on with live windows. */
export async function demo(
  settings: Settings & { readonly once?: boolean; readonly log: 'embedded' | 'kafka' },
): Promise<number> {
  const dir =
    settings.data === undefined ? await mkdtemp(join(tmpdir(), 'meterline-demo-')) : resolve(settings.data)
  await using double = await startRafayDouble({ fixture: juneFixture(), nowMs: settings.nowMs })
  const file = await writeConfig(dir, double.url, settings)
  const demoed = {
    ...settings,
    config: file,
    data: dir,
    env: { ...settings.env, RAFAY_DEFAULT_API_KEY: rafayDemoKey },
  }
  const config = await configured(demoed, 'price')
  const log = openLog({ level: 'warn', role: 'demo' })
  const health = new Health()

  settings.stderr(`reading June 2025 from a Rafay double at ${double.url}, data in ${dir}`)
  /** Live windows begin here. */
  const fromMs = windowAt(settings.nowMs(), 60).startMs
  let code: number
  let keys: readonly DemoKey[] = []
  {
    await using running = await startRoles(config, demoed, ['sender', 'processor'], { log, health })
    const before = running.outbox?.bounds().nextSeq ?? 1
    const summary = await readSpan(running, { ...demoed, span: june, log })
    settings.stderr(`${summary.windowsRead} windows read, ${summary.readings} readings`)
    await arrived(running, { config, signal: settings.signal })
    await ingested(running, before, settings.signal)
    code = await report(running, config, dir, demoed)
    if (settings.once !== true && running.store) {
      await waiveUntil(fromMs, running, config, settings)
      keys = await makeKeys(running.store, config, settings.nowMs())
    }
  }
  if (settings.once === true || settings.signal.aborted) return code
  const live = { ...config, sources: config.sources.map(source => ({ ...source, fromMs })) }
  const quiet = { ...demoed, env: { METERLINE_LOG_LEVEL: 'warn', ...demoed.env } }
  await runRoles(live, quiet, ['collector', 'processor'], url => {
    settings.stderr('\nlive windows are being read now; Ctrl-C ends')
    settings.stderr(
      `ask it, in another terminal: meterline --config ${file} usage gpu_hours --from 2025-06-01T00:00:00Z --to 2025-07-01T00:00:00Z --group-by gpu_type`,
    )
    for (const { whose, key } of keys) settings.stderr(`${whose}: ${url}/#key=${key}`)
  })
  return code
}

/** Between June and today the double has nothing to tell: what a person would say of it, so that the page is not red. */
async function waiveUntil(
  endMs: number,
  running: Running,
  config: LoadedConfig,
  settings: Settings,
): Promise<void> {
  const { store, outbox } = running
  if (!store || !outbox) return
  const by = { author: 'demo', reason: 'the double tells of June 2025 and of today', nowMs: settings.nowMs }
  const lives = await scopeLives(store)
  outbox.push(
    lives.map(({ source, scope }) =>
      pushedOf(
        decisionOf({ source, scope, window: { startMs: june.endMs, endMs }, data: { action: 'waive' } }, by),
      ),
    ),
  )
  await arrived(running, { config, signal: settings.signal })
}

interface DemoKey {
  /** What the page shows with it. */
  readonly whose: string
  readonly key: string
}

/** Keys for the page, for as long as somebody may look at a demo: of the provider, and of one of its customers. */
async function makeKeys(store: Store, config: LoadedConfig, nowMs: number): Promise<readonly DemoKey[]> {
  const made = { by: 'demo', nowMs }
  const expiresMs = nowMs + 7 * dayMs
  const make = async (wanted: WantedKey) => {
    // Of a demo before this one, in the same directory.
    const before = await listKeys(store, nowMs)
    if (before.some(({ name }) => name === wanted.name)) await revokeKey(store, wanted.name, made)
    return (await createKey(store, { ...wanted, expiresMs }, made)).key
  }
  const provider = await make({ name: 'demo', scopes: ['read', 'bill', 'admin'] })
  const keys = [{ whose: 'the page', key: provider }]
  const account = config.accounts[0]?.id
  if (account === undefined) return keys
  const customer = await make({ name: `demo-${account}`, scopes: ['read', 'bill'], account })
  return [...keys, { whose: `as ${account} sees it`, key: customer }]
}

/** The files a real set-up has, so that every other command works on the demo's data. */
async function writeConfig(
  dir: string,
  url: string,
  settings: Settings & { readonly log: 'embedded' | 'kafka' },
): Promise<string> {
  await mkdir(dir, { recursive: true })
  const brokers = settings.env.KAFKA_BROKERS?.split(',')
  if (settings.log === 'kafka' && !brokers)
    throw new Fault('USAGE', '--log kafka needs KAFKA_BROKERS=host:port[,host:port]')
  const topic = `meterline.demo.${Math.trunc(settings.nowMs())}.${process.pid}`
  const files = {
    'meterline.yaml': {
      data: '.',
      sources: [
        {
          kind: 'rafay',
          name: 'demo',
          dialect: 'billing',
          url,
          apiKey: '${env:RAFAY_DEFAULT_API_KEY}',
          windowMinutes: 60,
        },
      ],
      ...(settings.log === 'kafka' && {
        kafka: {
          brokers,
          topic,
          rejectedTopic: `${topic}.rejected`,
          partitions: 3,
          replicationFactor: 1,
          minInSyncReplicas: 1,
          groupId: topic,
        },
      }),
      listen: { port: 0 },
      accounts: 'accounts.yaml',
      priceBooks: ['prices.yaml'],
    },
    ...juneBilling('meterline/rafay/demo'),
  }
  for (const [name, content] of Object.entries(files)) await writeFile(join(dir, name), stringify(content))
  return join(dir, 'meterline.yaml')
}

/** Resolves when the ledger has every row that was sent: with Kafka the outbox is empty before that. */
async function ingested(
  { outbox, processor }: Running,
  firstSeq: number,
  signal: AbortSignal,
): Promise<void> {
  if (!outbox || !processor) return
  const sent = BigInt(outbox.bounds().nextSeq - firstSeq)
  const untilMs = performance.now() + ingestedWithinMs
  while (processor.taken() < sent && !signal.aborted) {
    if (performance.now() > untilMs)
      throw new Fault(
        'LOG_UNREACHABLE',
        `the ledger has ${processor.taken()} of ${sent} messages after a minute`,
      )
    await sleep(50)
  }
}

async function report(
  running: Running,
  config: LoadedConfig,
  dir: string,
  settings: Settings,
): Promise<number> {
  const { store } = running
  const meter = config.meters.find(({ slug }) => slug === 'gpu_hours')
  if (!store || !meter) throw new Fault('INTERNAL', 'the demo has a store and the meter gpu_hours')
  const usage = await usageOf(store, {
    meter,
    span: june,
    zone: 'UTC',
    groupBy: ['gpu_type', 'organization'],
    where: {},
  })
  const billed = await bill(store, config, june)
  const lines = billed.accounts.flatMap(account => account.lines)
  const total = totalsByCurrency(billed.accounts)
  const coverage = await coverageOf(store, { span: june, nowMs: settings.nowMs() })
  const files: string[] = []
  for (const format of exportFormats)
    for (const { name, chunks } of await format.write({
      period: june,
      nowMs: settings.nowMs(),
      zone: Temporal.Now.timeZoneId(),
      store,
      lineItems: async () => lines,
    })) {
      files.push(join(dir, name))
      await writeFile(join(dir, name), chunks)
    }
  files.push(join(dir, 'usage.csv'))
  await writeFile(join(dir, 'usage.csv'), printUsage(usage, 'csv'))

  if (settings.json === true)
    settings.stdout(printJson({ usage, lines, total: total.USD ?? '0.00', coverage, files }))
  else {
    settings.stdout(`\nUsage by GPU type, ${showInstant(june.startMs)} to ${showInstant(june.endMs)}\n\n`)
    settings.stdout(printByType(usage))
    settings.stdout('\nLine items\n\n')
    settings.stdout(
      printRows(
        [
          ...billed.accounts.flatMap(account => [
            ...account.lines,
            {
              account: account.account,
              charge: 'total',
              quantity: '',
              unit: '',
              price: '',
              amount: account.total,
              currency: account.currency,
            },
          ]),
          {
            account: 'all',
            charge: 'total',
            quantity: '',
            unit: '',
            price: '',
            amount: total.USD ?? '0.00',
            currency: 'USD',
          },
        ],
        [
          { heading: 'account', text: line => line.account },
          { heading: 'charge', text: line => line.charge },
          { heading: 'quantity', text: line => line.quantity, align: 'right' },
          { heading: 'unit', text: line => line.unit },
          { heading: 'price', text: line => line.price, align: 'right' },
          { heading: 'amount', text: line => line.amount, align: 'right' },
          { heading: 'currency', text: line => line.currency },
        ],
        'table',
      ),
    )
    const missing = coverage.filter(isGap).length
    settings.stdout(
      `\nCoverage: ${coverage.length} windows, ${missing === 0 ? 'complete' : `${missing} missing`}\n\nFiles\n${files.map(path => `  ${path}\n`).join('')}`,
    )
  }
  const unbilled = nameUnbilled(billed, settings)
  return coverage.some(isGap) ? 3 : unbilled
}

/** `L40 100 h`, and below it each organization's part. */
function printByType(usage: readonly UsageRow[]): string {
  const byType = new Map<string, UsageRow[]>()
  for (const row of usage)
    byType.set(row.group_by.gpu_type ?? '', [...(byType.get(row.group_by.gpu_type ?? '') ?? []), row])
  let text = ''
  for (const gpuType of Object.keys(junePrices)) {
    const rows = (byType.get(gpuType) ?? []).sort((a, b) =>
      (a.group_by.organization ?? '') < (b.group_by.organization ?? '') ? -1 : 1,
    )
    const sum = rows.reduce((total, row) => total.add(exact(row.value)), exact('0'))
    text += `${gpuType} ${showQuantity(sum)} h\n${rows.map(row => `  ${row.group_by.organization} ${row.value} h\n`).join('')}`
  }
  return text
}
