/**
 * `meterline rafay-csv`: the drop-in for Rafay's published script ncp_metrics.py. The same environment, files and
 * bytes; but it reads every page, tries again, and leaves no file where something is missing from it.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { link, mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { WriteStream } from 'node:tty'
import { SingleBar } from 'cli-progress'
import { Counter } from 'prom-client'
import { mapBounded } from '../runtime/bounded.ts'
import { type HttpOptions, type HttpProxy, openHttp, proxyOf } from '../runtime/http.ts'
import { registry } from '../runtime/metrics.ts'
import { minorDigitsOf } from '../schemas/currency.ts'
import { type DecimalText, show } from '../schemas/decimal.ts'
import { asFault, describeFault, Fault } from '../schemas/fault.ts'
import { fractionOf, isJsonArray, isJsonObject, type Json, JsonNumber } from '../schemas/json.ts'
import {
  type NcpRow,
  ncpDoneLine,
  ncpFileNames,
  printNcpCsv,
  pythonCell,
  sortNcpRows,
} from '../schemas/ncp-metrics.ts'
import { byCodePoint } from '../schemas/order.ts'
import { dayMs, secondMs, showInstant } from '../schemas/window.ts'
import { consoleUrl } from './sources/rafay/calls.ts'
import { type RafayConsole, rafayConsole } from './sources/rafay/console.ts'
import { rowLabels } from './sources/rafay/rows.ts'

export type Environment = Readonly<Record<string, string | undefined>>

/** What the environment says. */
export interface RafayCsvSettings {
  readonly days: number
  readonly base: string
  readonly apiKey: string
  readonly partnerApiKey: string | undefined
  readonly currency: string
  readonly ca: string | undefined
  readonly proxy: HttpProxy
}

/** A row to be priced: its cells, its usage as an exact decimal, and what the provider says of it besides. */
export interface PriceableRow extends NcpRow {
  readonly usageHours: DecimalText
  /** metadata.name of the organization: what paths and gaps call it. */
  readonly organizationSlug: string
  /** What its billable parameters say, where the console sends them, under the names that the source gives labels. */
  readonly labels: Readonly<Record<string, string>>
}

/** What a row costs: both as they are to be written. */
export interface RowPrice {
  readonly rate: string
  readonly amount: string
}

export interface RafayCsvOptions {
  readonly env: Environment
  /** Where the two files go. */
  readonly outDir: string
  readonly nowMs: () => number
  /** IANA zone of the stamp in the file names: the machine's own. */
  readonly zone: string
  readonly signal: AbortSignal
  readonly stdout: (line: string) => void
  readonly stderr: (line: string) => void
  /** Where a progress bar may be drawn; it is, if this is a terminal. */
  readonly terminal?: WriteStream
  /** Adds Billing Rate and Billing Amount; undefined for a row that has no price. */
  readonly price?: (row: PriceableRow, currency: string) => RowPrice | undefined
  readonly http?: HttpOptions
}

/** 0 done, 1 failed or stopped, 2 used wrongly, 3 with gaps (no file) or with rows that have no price (both files). */
export type RafayCsvExit = 0 | 1 | 2 | 3

const concurrency = 8
/** What the published collections ask for at most. */
const pageSize = 400
const daysMax = 36_500
/** Two runs in one second must not write over each other: the later one takes the next free second. */
const secondsTaken = 60

const rowsWritten = new Counter({
  name: 'meterline_rafay_csv_rows_total',
  help: 'Rows written to CSV files.',
  registers: [registry],
})

/** Reads, sorts and writes; everything it has to say is said when it returns. */
export async function runRafayCsv(options: RafayCsvOptions): Promise<RafayCsvExit> {
  const { env, stderr, signal } = options
  let settings: RafayCsvSettings
  try {
    settings = readRafayCsvEnv(env)
  } catch (error) {
    stderr(asFault(error, 'USAGE').message)
    return 2
  }
  try {
    return await run(settings, options)
  } catch (error) {
    const fault = asFault(error, 'USAGE')
    stderr(
      signal.aborted
        ? 'stopped: no file was written'
        : error instanceof Fault
          ? describeFault(fault)
          : fault.message,
    )
    return 1
  }
}

/**
 * The settings of the environment, as the script reads them.
 * @throws Fault USAGE naming everything that is missing or bad, and no key.
 */
export function readRafayCsvEnv(env: Environment): RafayCsvSettings {
  const problems: string[] = []
  /** The value where it is set and good; an empty one counts as not set, as a shell makes it. */
  function read<Value>(
    name: string,
    presence: 'required' | 'optional',
    parse: (text: string) => Value | undefined,
    wanted: string,
  ): Value | undefined {
    const text = env[name]
    if (text === undefined || text === '') {
      if (presence === 'required') problems.push(`${name} is not set: ${wanted}`)
      return undefined
    }
    const value = parse(text)
    if (value === undefined) problems.push(`${name} is not ${wanted}`)
    return value
  }
  const key = (text: string) => (/^[\x21-\x7e]+$/.test(text) ? text : undefined)
  const days = read(
    'DAYS',
    'required',
    text => (/^\s*\+?0*[1-9]\d{0,5}\s*$/.test(text) && Number(text) <= daysMax ? Number(text) : undefined),
    `a whole number of days to look back, from 1 to ${daysMax}`,
  )
  const base = read(
    'RAFAY_CONSOLE_URL',
    'required',
    addressOf,
    'the address of the console, such as rafay.acme.com',
  )
  const apiKey = read(
    'RAFAY_DEFAULT_API_KEY',
    'required',
    key,
    "the API key of the default organization's admin",
  )
  const partnerApiKey = read('PARTNER_API_KEY', 'optional', key, 'an API key')
  const currency = read(
    'CURRENCY',
    'optional',
    text => (minorDigitsOf(text) === undefined ? undefined : text),
    'a currency code of ISO 4217, such as USD',
  )
  // Python's requests takes either, a file or a directory of certificates.
  const caName = env.REQUESTS_CA_BUNDLE ? 'REQUESTS_CA_BUNDLE' : 'CURL_CA_BUNDLE'
  const ca = read(caName, 'optional', certificatesOf, 'a file or directory of PEM certificates')
  if (problems.length > 0 || days === undefined || base === undefined || apiKey === undefined)
    throw new Fault('USAGE', problems.join('\n'))
  return { days, base, apiKey, partnerApiKey, currency: currency ?? 'USD', ca, proxy: proxyOf(env) }
}

function addressOf(text: string): string | undefined {
  try {
    return consoleUrl(text, 'RAFAY_CONSOLE_URL')
  } catch {
    return undefined
  }
}

function certificatesOf(path: string): string | undefined {
  try {
    const files = statSync(path).isDirectory() ? readdirSync(path).map(name => join(path, name)) : [path]
    const texts = files.filter(file => statSync(file).isFile()).map(file => readFileSync(file, 'utf8'))
    const certificates = texts.flatMap(
      text => text.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g) ?? [],
    )
    return certificates.length > 0 ? certificates.join('\n') : undefined
  } catch {
    return undefined
  }
}

/** What could not be read. */
interface Gap {
  /** metadata.name, as paths have it; the CSV shows `name`. */
  readonly organization: string
  readonly name: string
  readonly profile: string
  readonly fault: Fault
}

/** A row before it is priced, with the odd things about it. */
interface ReadRow {
  readonly row: NcpRow
  readonly usage: Json | undefined
  readonly slug: string
  readonly labels: Readonly<Record<string, string>>
  readonly warnings: readonly string[]
}

async function run(settings: RafayCsvSettings, options: RafayCsvOptions): Promise<RafayCsvExit> {
  const { stderr, signal, price } = options
  const startedMs = Math.floor(options.nowMs() / secondMs) * secondMs
  const { rows, gaps } = await readAll(settings, startedMs, options)
  if (signal.aborted) throw new Fault('ABORTED', 'stopped')
  for (const { warnings } of rows) for (const warning of warnings) stderr(`warning: ${warning}`)
  if (gaps.length > 0) {
    for (const { organization, name, profile, fault } of gaps) {
      const shownName = name === organization ? '' : ` (organization ${name})`
      stderr(
        oneLine(`gap: org=${organization} profile=${profile} ${fault.code} ${fault.message}${shownName}`),
      )
    }
    return 3
  }
  const written: NcpRow[] = []
  let unpriced = 0
  for (const read of rows) {
    const { row, slug } = read
    if (!price) {
      written.push(row)
      continue
    }
    const priced = priceOf(read, price, settings.currency)
    if (!priced) {
      unpriced++
      stderr(
        oneLine(`unpriced: org=${slug} profile=${row.profile} instance=${row.instance} usage=${row.usage}`),
      )
    }
    written.push({ ...row, rate: priced?.rate ?? '', amount: priced?.amount ?? '' })
  }
  const sortedFile = await writeBoth(written, startedMs, options)
  rowsWritten.inc(written.length)
  options.stdout(ncpDoneLine(sortedFile))
  return unpriced > 0 ? 3 : 0
}

/** A usage that is no number has no price, whatever the book says. */
function priceOf(
  { row, usage, slug, labels }: ReadRow,
  price: NonNullable<RafayCsvOptions['price']>,
  currency: string,
): RowPrice | undefined {
  const hours =
    usage === undefined
      ? fractionOf(new JsonNumber('0'))
      : usage instanceof JsonNumber
        ? fractionOf(usage)
        : undefined
  if (!hours) return undefined
  return price({ ...row, usageHours: show(hours), organizationSlug: slug, labels }, currency)
}

async function readAll(
  settings: RafayCsvSettings,
  endMs: number,
  options: RafayCsvOptions,
): Promise<{ readonly rows: readonly ReadRow[]; readonly gaps: readonly Gap[] }> {
  const { signal } = options
  const { partnerApiKey, ca } = settings
  await using http = openHttp({
    concurrency,
    userAgent: 'meterline',
    proxy: settings.proxy,
    ...(ca !== undefined && { tls: () => ({ ca }) }),
    ...options.http,
  })
  const console = rafayConsole({
    http,
    base: settings.base,
    pageSize,
    apiKey: () => settings.apiKey,
    ...(partnerApiKey !== undefined && { partnerApiKey: () => partnerApiKey }),
  })
  const gaps: Gap[] = []
  /** The answer, or nothing where it is a gap; stopping is none. */
  async function orGap<Answer>(
    place: Omit<Gap, 'fault'>,
    work: () => Promise<Answer>,
  ): Promise<Answer | undefined> {
    try {
      return await work()
    } catch (error) {
      const fault = asFault(error, 'BODY_UNREADABLE')
      if (fault.code === 'ABORTED' || signal.aborted) throw fault
      gaps.push({ ...place, fault })
      return undefined
    }
  }

  const organizations =
    (await orGap({ organization: '*', name: '*', profile: '*' }, () => console.organizations(signal))) ?? []
  const lists = await mapBounded(organizations, concurrency, async organization => {
    const name =
      isJsonObject(organization) && organization.name !== undefined
        ? pythonCell(organization.name)
        : 'Unknown'
    return orGap({ organization: slugOf(organization) ?? name, name, profile: '*' }, () =>
      profilesOf(organization, name, console, signal),
    )
  })
  const profiles = lists.flatMap(list => list ?? [])
  using bar = progressBar(profiles.length, options.terminal)
  const answers = await mapBounded(profiles, concurrency, async place => {
    const read = await orGap(
      { organization: place.slug, name: place.organization, profile: place.profileText },
      async () => {
        if (place.profile === undefined)
          throw new Fault(
            'BODY_UNREADABLE',
            `a profile of organization ${place.organization} has no metadata.name`,
          )
        const rows = await console.usage(
          {
            organization: place.slug,
            profile: place.profile,
            start: showInstant(endMs - settings.days * dayMs),
            end: showInstant(endMs),
          },
          signal,
        )
        return rows.map(row => readRow(row, place))
      },
    )
    bar.step()
    return read ?? []
  })
  gaps.sort((a, b) => byCodePoint(a.organization, b.organization) || byCodePoint(a.profile, b.profile))
  return { rows: answers.flat(), gaps }
}

function slugOf(organization: Json): string | undefined {
  const metadata = isJsonObject(organization) ? organization.metadata : undefined
  const slug = isJsonObject(metadata) ? metadata.name : undefined
  return typeof slug === 'string' && slug !== '' ? slug : undefined
}

interface Place {
  readonly slug: string
  readonly organization: string
  readonly profileType: string
  /** Undefined where the console gives it no name: then nothing of it can be asked for. */
  readonly profile: string | undefined
  readonly profileText: string
}

async function profilesOf(
  organization: Json,
  name: string,
  console: RafayConsole,
  signal: AbortSignal,
): Promise<readonly Place[]> {
  const slug = slugOf(organization)
  if (slug === undefined)
    throw new Fault('BODY_UNREADABLE', `organization ${name} has no metadata.name`, {
      path: '/metadata/name',
    })
  const rows = await console.profiles(slug, signal)
  return rows.map(row => {
    const metadata = isJsonObject(row) && isJsonObject(row.metadata) ? row.metadata : {}
    const spec = isJsonObject(row) && isJsonObject(row.spec) ? row.spec : {}
    const profile = typeof metadata.name === 'string' && metadata.name !== '' ? metadata.name : undefined
    return {
      slug,
      organization: name,
      // The script writes Unknown for what is not there.
      profileType: spec.type === undefined ? 'Unknown' : pythonCell(spec.type),
      profile,
      profileText: profile ?? 'Unknown',
    }
  })
}

/** A row is what the provider sent; what is odd about it is said, and changes nothing. */
function readRow(row: Json, place: Place): ReadRow {
  const { slug, organization, profileType, profileText } = place
  if (!isJsonObject(row))
    throw new Fault('BODY_UNREADABLE', `organization ${slug}, profile ${profileText}: a row is not an object`)
  const { instance_name: name, usage_hours: usage, status } = row
  const instance = name === undefined ? '' : pythonCell(name)
  const warnings: string[] = []
  const warn = (what: string) =>
    warnings.push(oneLine(`org=${slug} profile=${profileText} instance=${instance} ${what}`))
  if (typeof name !== 'string' || name === '') warn(`instance_name ${oddity(name)}`)
  if (!(usage instanceof JsonNumber))
    warn(
      usage === undefined
        ? 'usage_hours is missing: written as 0'
        : usage === null
          ? 'usage_hours is null: the cell is left empty'
          : `usage_hours ${oddity(usage)}: written as it is`,
    )
  else if (usage.text.startsWith('-')) warn(`usage_hours is negative: ${usage.text}`)
  if (status !== undefined && typeof status !== 'string') warn(`status ${oddity(status)}`)
  return {
    row: {
      organization,
      profileType,
      profile: profileText,
      instance,
      usage: usage === undefined ? '0' : pythonCell(usage),
      status: status === undefined ? '' : pythonCell(status),
    },
    usage,
    slug,
    labels: rowLabels(row),
    warnings,
  }
}

function oddity(value: Json | undefined): string {
  if (value === undefined) return 'is missing'
  if (value === null) return 'is null'
  if (value === '') return 'is empty'
  if (typeof value === 'string') return 'is a string'
  if (value instanceof JsonNumber) return 'is a number'
  return isJsonArray(value) ? 'is a list' : `is ${typeof value === 'boolean' ? 'a boolean' : 'an object'}`
}

function progressBar(total: number, terminal: WriteStream | undefined) {
  const bar =
    terminal?.isTTY && total > 0
      ? new SingleBar({
          stream: terminal,
          format: 'profiles {bar} {value}/{total} {eta_formatted}',
          hideCursor: true,
        })
      : undefined
  bar?.start(total, 0)
  return {
    step: () => bar?.increment(),
    [Symbol.dispose]: () => bar?.stop(),
  }
}

/** Both files whole, or neither: written under other names first. Answers the name of the sorted one. */
async function writeBoth(
  rows: readonly NcpRow[],
  startedMs: number,
  options: RafayCsvOptions,
): Promise<string> {
  const { outDir, zone } = options
  const priced = options.price ? 'priced' : 'unpriced'
  await mkdir(outDir, { recursive: true })
  const draft = (name: string) => join(outDir, `.${name}.${process.pid}.part`)
  const first = ncpFileNames(startedMs, zone)
  const drafts = { plain: draft(first.plain), sorted: draft(first.sorted) }
  try {
    await writeFile(drafts.plain, printNcpCsv(rows, priced))
    await writeFile(drafts.sorted, printNcpCsv(sortNcpRows(rows), priced))
    for (let later = 0; later < secondsTaken; later++) {
      const names = ncpFileNames(startedMs + later * secondMs, zone)
      const plain = join(outDir, names.plain)
      const sorted = join(outDir, names.sorted)
      if (!(await placed(drafts.plain, plain))) continue
      if (await placed(drafts.sorted, sorted)) return sorted
      await rm(plain)
    }
    throw new Fault('USAGE', `${outDir} has files of the last ${secondsTaken} seconds already`)
  } finally {
    await rm(drafts.plain, { force: true })
    await rm(drafts.sorted, { force: true })
  }
}

/** Gives a finished file its name, unless there is one of that name. */
async function placed(draft: string, file: string): Promise<boolean> {
  try {
    await link(draft, file)
    return true
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return false
    // A file system without hard links: the second best, which cannot look and place in one step.
    if (code !== 'EPERM' && code !== 'ENOTSUP' && code !== 'ENOSYS') throw error
    if (statSync(file, { throwIfNoEntry: false })) return false
    await rename(draft, file)
    return true
  }
}

/** Names are the provider's: a line break in one must not make a second line. */
function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\u2028\u2029]+/gu, ' ')
}
