/** The commands that ask and end: each opens what it needs, prints its answer to stdout and the rest to stderr. */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { coverageAnswer } from '../processor/api/coverage.ts'
import { positionAsOf } from '../processor/as-of.ts'
import type { bill } from '../processor/billing.ts'
import { Catalogue, type CatalogueMeter } from '../processor/catalogue.ts'
import { type CoverageRow, gapLine, isGap, spansOf } from '../processor/coverage.ts'
import type { ExportFile } from '../processor/exports/export.ts'
import { unknownLine } from '../processor/gate.ts'
import { amounts, usage as usageOf } from '../processor/usage.ts'
import type { UsageQuery } from '../processor/usage-plan.ts'
import { usageText } from '../processor/usage-text.ts'
import { type Format, printJson, printRows } from '../runtime/print.ts'
import { misfits } from '../schemas/check.ts'
import { Fault } from '../schemas/fault.ts'
import { FilterString, type UsageRow } from '../schemas/meters.ts'
import { dayMs } from '../schemas/window.ts'
import { configured, openStore, type Settings, spanOf } from './roles.ts'

const done = 0
const failed = 1
const gaps = 3

export async function coverage(
  settings: Settings & {
    readonly from?: string
    readonly to?: string
    readonly source?: string
    readonly scope?: string
    readonly account?: string
  },
): Promise<number> {
  const config = await configured(settings, settings.account === undefined ? 'meter' : 'price')
  await using opened = await openStore(config, settings)
  const { rows, unknown, span } = await coverageAnswer(opened.store, settings, {
    accounts: config.accounts,
    nowMs: settings.nowMs(),
  })
  const code = printCoverage(rows, settings)
  for (const one of unknown) settings.stderr(unknownLine(one, span))
  return unknown.every(({ isAllowed }) => isAllowed) ? code : gaps
}

/** Prints coverage, names its gaps on stderr, and says with which code to exit. */
export function printCoverage(rows: readonly CoverageRow[], settings: Settings): number {
  const spans = spansOf(rows)
  settings.stdout(
    settings.json === true
      ? printJson(rows)
      : printRows(
          spans,
          [
            { heading: 'source', text: row => row.source },
            { heading: 'scope', text: row => row.scope },
            { heading: 'from', text: row => row.start },
            { heading: 'to', text: row => row.end },
            { heading: 'windows', text: row => String(row.windows), align: 'right' },
            { heading: 'state', text: row => row.state },
            { heading: 'subject', text: row => row.subject ?? '' },
            { heading: 'fault', text: row => (row.fault ? `${row.fault.code} ${row.fault.message}` : '') },
          ],
          'table',
        ),
  )
  for (const span of spans) if (isGap(span)) settings.stderr(gapLine(span))
  return rows.some(isGap) ? gaps : done
}

export async function usage(
  settings: Settings & {
    readonly from: string
    readonly to: string
    readonly meter: string
    readonly window?: string
    readonly zone: string
    readonly groupBy?: string
    readonly where?: Readonly<Record<string, readonly string[]>>
    readonly subject?: readonly string[]
    readonly source?: readonly string[]
    readonly top?: string
    readonly asOf?: string
    readonly format: Format
  },
): Promise<number> {
  const config = await configured(settings, 'meter')
  const span = spanOf(settings)
  await using opened = await openStore(config, settings)
  const { store } = opened
  const { signal, stdout, window, subject, source, top, asOf } = settings
  const found = await meterNamed(new Catalogue(store, config.meters, settings.nowMs), settings.meter)
  const query: UsageQuery = {
    meter: found.answering,
    span,
    sinceMs: found.eventFromMs,
    zone: zoneOf(settings.zone),
    groupBy: (settings.groupBy ?? '').split(',').filter(dim => dim !== ''),
    where: filtersOf(settings.where ?? {}),
    ...(window !== undefined && { step: window }),
    ...(subject && { subjects: subject }),
    ...(source && { sources: source }),
    ...(top !== undefined && { top: topOf(top) }),
    ...(asOf !== undefined && { asOf: await positionAsOf(store, asOf, settings.nowMs()) }),
  }
  const format = settings.json === true ? 'json' : settings.format
  if (format === 'table') stdout(printUsage(await usageOf(store, query, { signal }), format))
  else for await (const text of usageText(query, format, amounts(store, query, { signal }))) stdout(text)
  return done
}

/** @throws Fault METER_UNKNOWN naming those that there are */
async function meterNamed(catalogue: Catalogue, slug: string): Promise<CatalogueMeter> {
  const entries = await catalogue.meters()
  const found = entries.find(({ meter }) => meter.slug === slug)
  if (found) return found
  const slugs = entries.map(({ meter }) => meter.slug).join(', ')
  throw new Fault('METER_UNKNOWN', `there is no meter "${slug}"; there are ${slugs}`)
}

const splitColumn = { heading: 'split', text: (row: UsageRow) => (row.split === true ? 'true' : '') }

/** Several values of a dim are any of them; one that begins with a brace is a filter in JSON. */
function filtersOf(where: Readonly<Record<string, readonly string[]>>): UsageQuery['where'] {
  const filters = Object.entries(where).map(([dim, values]) => {
    const [value = ''] = values
    if (values.length > 1) return [dim, { $in: values }]
    if (!value.startsWith('{')) return [dim, value]
    let filter: unknown
    try {
      filter = JSON.parse(value)
    } catch (error) {
      throw new Fault('USAGE', `--where ${dim}: it is no JSON`, {}, { cause: error })
    }
    const [misfit] = misfits(FilterString, filter)
    if (misfit) throw new Fault('USAGE', `--where ${dim}: ${misfit.path} ${misfit.message}`)
    return [dim, filter]
  })
  return Object.fromEntries(filters)
}

function topOf(text: string): number {
  if (!/^[1-9][0-9]{0,3}$/.test(text)) throw new Fault('USAGE', `--top ${text}: write a number up to 9999`)
  return Number(text)
}

/** Usage as a table, CSV or JSON; the dims that were asked for have a column each. */
export function printUsage(rows: readonly UsageRow[], format: Format): string {
  const dims = Object.keys(rows[0]?.group_by ?? {})
  return printRows(
    rows,
    [
      { heading: 'meter', text: row => row.meter },
      { heading: 'window_start', text: row => row.window_start },
      { heading: 'window_end', text: row => row.window_end },
      { heading: 'source', text: row => row.source },
      { heading: 'subject', text: row => row.subject },
      ...dims.map(dim => ({ heading: dim, text: (row: UsageRow) => row.group_by[dim] ?? '' })),
      { heading: 'value', text: row => row.value, align: 'right' as const },
      { heading: 'unit', text: row => row.unit },
      ...(format === 'csv' || rows.some(({ split }) => split) ? [splitColumn] : []),
    ],
    format,
  )
}

function zoneOf(zone: string): string {
  try {
    return Temporal.Now.zonedDateTimeISO(zone).timeZoneId
  } catch (error) {
    throw new Fault('USAGE', `--zone ${zone} is no IANA time zone`, {}, { cause: error })
  }
}

export async function rate(settings: Settings & { readonly case: string }): Promise<number> {
  const { rateCaseFile } = await import('../processor/rate-case.ts')
  const { results, misses } = rateCaseFile(await readText(settings.case, '--case'))
  if (settings.json === true) settings.stdout(printJson(results))
  else
    for (const result of results) {
      settings.stdout(`${result.name}\n`)
      if ('error' in result) settings.stdout(`  ${result.error.code} ${result.error.message}\n\n`)
      else
        settings.stdout(
          `${printRows(
            [...result.lines, { charge: 'total', quantity: null, amount: result.total }],
            [
              { heading: 'charge', text: line => line.charge },
              { heading: 'quantity', text: line => line.quantity ?? '', align: 'right' },
              { heading: 'amount', text: line => line.amount, align: 'right' },
            ],
            'table',
          )}\n`,
        )
    }
  for (const miss of misses) settings.stderr(miss)
  return misses.length === 0 ? done : failed
}

export async function exportTo(
  settings: Settings & {
    readonly from: string
    readonly to: string
    readonly format: string
    readonly account?: string
    readonly out?: string
  },
): Promise<number> {
  const { exportFormats } = await import('../processor/exports/list.ts')
  const format = exportFormats.find(({ name }) => name === settings.format)
  if (!format)
    throw new Fault(
      'USAGE',
      `there is no export "${settings.format}"; there are ${exportFormats.map(({ name }) => name).join(', ')}`,
    )
  const config = await configured(settings, 'price')
  await using opened = await openStore(config, settings)
  const period = spanOf(settings)
  let billed: Awaited<ReturnType<typeof bill>> | undefined
  const files = await format.write({
    period,
    nowMs: settings.nowMs(),
    zone: Temporal.Now.timeZoneId(),
    store: opened.store,
    lineItems: async () => {
      const { bill } = await import('../processor/billing.ts')
      billed = await bill(opened.store, config, period, {
        only: settings.account,
        bounds: { signal: settings.signal },
      })
      return billed.accounts.flatMap(account => account.lines)
    },
  })
  await writeFiles(files, format.makes, settings)
  return nameUnbilled(billed, settings)
}

/** One file goes to stdout or to --out; several go into the directory --out, or here. */
async function writeFiles(
  files: readonly ExportFile[],
  makes: 'one' | 'several',
  settings: Settings & { readonly out?: string },
): Promise<void> {
  const [first] = files
  if (makes === 'one' && first && settings.out === undefined) {
    for (const chunk of first.chunks) settings.stdout(chunk)
    return
  }
  if (makes === 'several') await mkdir(settings.out ?? '.', { recursive: true })
  for (const { name, chunks } of files) {
    const path = makes === 'one' ? (settings.out ?? name) : join(settings.out ?? '.', name)
    await writeFile(path, chunks)
    settings.stderr(`wrote ${path}`)
  }
}

/** Usage that is on no line is named, one a line, and is a gap. */
export function nameUnbilled(
  billed: Awaited<ReturnType<typeof bill>> | undefined,
  settings: Settings,
): number {
  const unassigned = billed?.unassigned ?? []
  const unpriced = billed?.accounts.flatMap(account => account.unpriced) ?? []
  for (const { source, subject, meter } of unassigned)
    settings.stderr(`unassigned: source=${source} subject=${subject} meter=${meter}: no account pays for it`)
  for (const { account, meter, quantity, dims } of unpriced)
    settings.stderr(
      `unpriced: account=${account} meter=${meter} quantity=${quantity} ${JSON.stringify(dims)}`,
    )
  return unassigned.length + unpriced.length > 0 ? gaps : done
}

/** Exit codes as the issue of a drop-in asks: 2 for a bad environment or book, 3 with gaps. */
export async function rafayCsv(
  settings: Settings & { readonly out: string; readonly book?: string; readonly ratecards?: string },
): Promise<number> {
  const { readRafayCsvEnv, runRafayCsv } = await import('../collector/rafay-csv.ts')
  if (settings.book !== undefined && settings.ratecards !== undefined)
    throw new Fault('USAGE', 'give --book or --ratecards, not both')
  const file = settings.book ?? settings.ratecards
  let price: Parameters<typeof runRafayCsv>[0]['price']
  if (file !== undefined) {
    const { days, currency } = readRafayCsvEnv(settings.env)
    const { rowPrices } = await import('../processor/row-prices.ts')
    const period = { startMs: settings.nowMs() - days * dayMs, endMs: settings.nowMs() }
    const text = await readText(file, settings.book === undefined ? '--ratecards' : '--book')
    if (settings.book !== undefined) {
      const { readBook } = await import('../processor/book.ts')
      const book = readBook(text, file)
      if (book.currency !== currency)
        throw new Fault('USAGE', `${file} is in ${book.currency}, and CURRENCY is ${currency}`)
      const priceOf = rowPrices(book, period)
      price = row => priceOf({ ...row, dims: row.labels })
    } else {
      const { ratecardsToBook } = await import('../processor/ratecards.ts')
      const { book, dimsOf } = ratecardsToBook(text, { currency })
      const priceOf = rowPrices(book, period)
      price = row => priceOf({ ...row, dims: { ...row.labels, ...dimsOf(row.labels) } })
    }
  }
  const { env, signal, nowMs, stdout, stderr } = settings
  return await runRafayCsv({
    env,
    outDir: settings.out,
    nowMs,
    zone: Temporal.Now.timeZoneId(),
    signal,
    stdout: line => stdout(`${line}\n`),
    stderr,
    terminal: process.stderr,
    ...(price && { price }),
  })
}

async function readText(file: string, option: string): Promise<string> {
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    throw new Fault('USAGE', `${option} ${file} cannot be read`, {}, { cause: error })
  }
}
