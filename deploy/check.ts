/** `meterline check`: every problem of the configuration at once, then what each source says when it is asked whether it can work. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type OpenedSource, sourceName } from '../collector/collect.ts'
import type { Findings, Source } from '../collector/source.ts'
import { checkConfig, type LoadedConfig } from '../runtime/config.ts'
import { printJson } from '../runtime/print.ts'
import { readSecret } from '../runtime/secrets.ts'
import type { Problem } from '../runtime/yaml.ts'
import { secretShape } from '../schemas/config.ts'
import { asFault, describeFault, Fault, faults } from '../schemas/fault.ts'
import { billedTwice } from '../schemas/meters.ts'
import { secondMs } from '../schemas/window.ts'
import { type GridFindings, gridFindings } from './grids.ts'
import { configFile, configRules, configured, openStore, type Settings, sourceOpener } from './roles.ts'

/** What one source answered; one that could not answer misses just that. */
export interface CheckedSource extends Findings {
  /** As it stands in events. */
  readonly source: string
}

/** The document of `check --json`. */
export interface Checked {
  /** Null where there is none, and all is default. */
  readonly file: string | null
  /** What is wrong in the files. Where there is something, nothing else was looked at. */
  readonly problems: readonly Problem[]
  /** What the width of a source's windows does to hours that were read in another. */
  readonly grids: { readonly faults: readonly string[]; readonly notes: readonly string[] }
  /** What meters would count twice, and which of their paths stand for nothing in the last events, where a ledger is at hand. */
  readonly meters: { readonly faults: readonly string[]; readonly notes: readonly string[] }
  /** Of what accounts keys are bound to that are not there: such a key shows nothing. */
  readonly keys: { readonly faults: readonly string[]; readonly notes: readonly string[] }
  /** Empty with `--offline`, but for sources that cannot even be opened. */
  readonly sources: readonly CheckedSource[]
}

/** Time for a source's own deadlines and its one retry. */
const answerMsMaxDefault = 30 * secondMs
/** After that it is told to stop, and left alone where it does not. */
const stopMsMax = secondMs
const wordsLengthMax = 300
/** After that no further meter is held against the ledger. */
const ledgerMsMax = 30 * secondMs
const none = { faults: [], notes: [] }
const reference = new RegExp(secretShape)
/** A person waits. */
const bounds = { retries: 1, deadlineMs: 12 * secondMs, retryAfterMsMax: 5 * secondMs }

/**
 * Exits with 0 where nothing is wrong or missing, else with 1.
 * @throws Fault CONFIG_INVALID naming every problem | OUTBOX_DAMAGED | OUTBOX_UNREADABLE
 */
export async function check(
  settings: Settings & { readonly offline?: boolean; readonly answerMsMax?: number },
): Promise<number> {
  const { stdout, stderr, json } = settings
  const file = configFile(settings) ?? null
  if (json === true) {
    const { problems } = checkConfig(file ?? undefined, await configRules('price'))
    if (problems.length > 0)
      stdout(
        printJson({ file, problems, grids: none, meters: none, keys: none, sources: [] } satisfies Checked),
      )
  }
  const config = await configured(settings, 'price')

  await using opening = new AsyncDisposableStack()
  const { opened, shut } = await openEach(config, settings, opening)
  const grids = gridFindings(opened, { data: config.data, nowMs: settings.nowMs() })
  const asked = settings.offline === true ? [] : await askEach(opened, settings)
  const order = config.sources.map(sourceName)
  const secrets = secretsIn(config.sources, settings.env)
  const told = [...shut, ...asked].map(one => without(secrets, one))
  const sources = told.sort((a, b) => order.indexOf(a.source) - order.indexOf(b.source))
  const { meters, keys } = await heldFindings(config, settings)
  const lines = [gridLines(grids), meters, keys]
  const hasFaults = lines.some(({ faults }) => faults.length > 0)
  const isFine = !hasFaults && sources.every(({ missing }) => missing.length === 0)

  if (json === true)
    stdout(
      printJson({ file, problems: [], grids: gridLines(grids), meters, keys, sources } satisfies Checked),
    )
  else {
    for (const line of lines.flatMap(found => Object.values(found).flat())) stderr(line)
    if (!hasFaults)
      stdout(
        `${settings.config}: ${config.sources.length} sources, ${config.meters.length} meters, ${config.accounts.length} accounts, ${config.books.length} price books: no problem found in them\n`,
      )
    for (const source of sources) stdout(`${sourceLine(source)}\n`)
  }
  return isFine ? 0 : 1
}

/** Meters and keys, also against a ledger: one is at hand where its store has an address, or that of the data directory is running. */
async function heldFindings(
  config: LoadedConfig,
  settings: Settings & { readonly offline?: boolean },
): Promise<Pick<Checked, 'meters' | 'keys'>> {
  const twice = config.books.flatMap(book => {
    const slugs = new Set(book.charges.map(({ meter }) => meter))
    return billedTwice(config.meters.filter(({ slug }) => slugs.has(slug))).map(
      line => `price book ${book.id}: ${line}`,
    )
  })
  const unpaid = withoutAccount(config.keys, config)
  const found = (notes: readonly string[], ofKeys: readonly string[] = []) => ({
    meters: { faults: twice, notes },
    keys: { faults: unpaid, notes: ofKeys },
  })
  const isAtHand = config.store.url !== undefined || existsSync(join(config.data, 'store.json'))
  if (settings.offline === true || !isAtHand) return found([])
  const { misses } = await import('../processor/catalogue.ts')
  const { listKeys } = await import('../processor/keys.ts')
  const notes: string[] = []
  try {
    await using opened = await openStore(config, settings)
    const untilMs = performance.now() + ledgerMsMax
    for (const [index, meter] of config.meters.entries()) {
      if (performance.now() > untilMs) {
        const left = config.meters.length - index
        notes.push(
          `${left} of ${config.meters.length} meters were not held against the ledger: it takes too long`,
        )
        break
      }
      for (const line of await misses(opened.store, meter))
        if (!line.startsWith('there are no events')) notes.push(`meter ${meter.slug}: ${line}`)
    }
    const stored = await listKeys(opened.store, settings.nowMs())
    return found(
      notes,
      withoutAccount(
        stored.filter(({ state }) => state === 'valid'),
        config,
      ),
    )
  } catch (error) {
    notes.push(
      `meters were not held against the ledger: ${describeFault(asFault(error, 'STORE_UNREACHABLE'))}`,
    )
    return found(notes)
  }
}

function withoutAccount(
  keys: readonly { readonly name: string; readonly account?: string | null }[],
  { accounts }: LoadedConfig,
): readonly string[] {
  return keys
    .filter(({ account }) => typeof account === 'string' && !accounts.some(({ id }) => id === account))
    .map(({ name, account }) => `key ${name}: there is no account "${account}", so it shows nothing`)
}

/** All that the references of the sources point at, as far as it can be read. */
function secretsIn(value: unknown, env: Settings['env']): readonly string[] {
  if (typeof value === 'object' && value !== null)
    return Object.values(value).flatMap(inner => secretsIn(inner, env))
  if (typeof value !== 'string' || !reference.test(value)) return []
  try {
    return [readSecret(value, { env, option: '' })]
  } catch {
    return []
  }
}

/** Whatever a provider or a driver says: no secret is in it. */
function without(secrets: readonly string[], { source, works, missing }: CheckedSource): CheckedSource {
  const clean = (text: string) =>
    secrets.reduce((shown, secret) => (secret.length > 3 ? shown.replaceAll(secret, '…') : shown), text)
  return {
    source,
    works: works.map(clean),
    missing: missing.map(({ what, remedy }) => ({ what: clean(what), remedy: clean(remedy) })),
  }
}

function gridLines({ faults, notes }: GridFindings): Checked['grids'] {
  return { faults: faults.map(describeFault), notes }
}

/** One line: what works, what is missing, and after each thing that is missing how to mend it. */
export function sourceLine({ source, works, missing }: CheckedSource): string {
  const parts = [
    ...(works.length > 0 ? [`works: ${works.join('; ')}`] : []),
    ...(missing.length > 0
      ? [`MISSING: ${missing.map(({ what, remedy }) => `${what} → ${remedy}`).join('; ')}`]
      : []),
  ]
  return `${source}: ${parts.length > 0 ? parts.join('. ') : 'says nothing of itself'}`
}

// -- asking

/** The sources that open, and those that do not, each by itself: one that cannot hides no other. */
async function openEach(
  config: LoadedConfig,
  settings: Settings,
  opening: AsyncDisposableStack,
): Promise<{ readonly opened: readonly OpenedSource[]; readonly shut: readonly CheckedSource[] }> {
  const open = await sourceOpener(settings, { bounds })
  const opened: OpenedSource[] = []
  const shut: CheckedSource[] = []
  for (const one of config.sources)
    try {
      opened.push(open(one, opening))
    } catch (error) {
      shut.push({ source: sourceName(one), ...nothingBut(asFault(error, 'INTERNAL')) })
    }
  return { opened, shut }
}

async function askEach(
  opened: readonly OpenedSource[],
  { signal, answerMsMax = answerMsMaxDefault }: Pick<Settings, 'signal'> & { readonly answerMsMax?: number },
): Promise<readonly CheckedSource[]> {
  return await Promise.all(
    opened.map(async one => ({
      source: sourceName(one),
      ...(await findingsWithin(one.source, { signal, answerMsMax })),
    })),
  )
}

/** What the source found. It may take so long; what it throws is what is missing. */
export async function findingsWithin(
  source: Source<unknown>,
  { signal, answerMsMax }: { readonly signal: AbortSignal; readonly answerMsMax: number },
): Promise<Findings> {
  const late = new AbortController()
  const over = new AbortController()
  const asking = AbortSignal.any([signal, late.signal])
  const slow = () =>
    nothingBut(new Fault('SOURCE_UNREACHABLE', `no whole answer within ${answerMsMax / secondMs} s`))
  const found = Promise.resolve()
    .then(() => (source.check ? source.check(asking) : listing(source, asking)))
    .then(tidied, error => (late.signal.aborted ? slow() : nothingBut(asFault(error, 'INTERNAL'))))
  const givenUp = async () => {
    await sleep(answerMsMax, undefined, { signal: over.signal })
    late.abort()
    // It may yet say what it found until then.
    await sleep(stopMsMax, undefined, { signal: over.signal })
    return slow()
  }
  try {
    return await Promise.race([found, givenUp()])
  } finally {
    over.abort()
  }
}

/** Of a source that has no check of its own. */
async function listing(source: Source<unknown>, signal: AbortSignal): Promise<Findings> {
  const { length } = await source.scopes(signal)
  return length > 0
    ? { works: [`scopes: ${length}`], missing: [] }
    : {
        works: [],
        missing: [{ what: 'no scopes are listed', remedy: 'give its account the right to see something' }],
      }
}

/** Nothing works for this reason; the remedy is that of the table. */
function nothingBut(fault: Fault): Findings {
  return tidied({
    works: [],
    missing: [{ what: `${fault.code} ${fault.message}`, remedy: faults[fault.code].remedy }],
  })
}

/** A provider may have had its words in it: one line, and not too long. */
function tidied({ works, missing }: Findings): Findings {
  return {
    works: works.map(oneLine),
    missing: missing.map(({ what, remedy }) => ({ what: oneLine(what), remedy: oneLine(remedy) })),
  }
}

function oneLine(text: string): string {
  const shown = text.replace(/[\p{C}\s]+/gu, ' ').trim()
  return shown.length > wordsLengthMax ? `${shown.slice(0, wordsLengthMax)}…` : shown
}
