/**
 * Every current reading that a billed meter takes is in exactly one of: rated, unpriced, unassigned, or of an account that
 * is not billed by this meter. The sums of the ledger, of the answers for a meter and of the lines are each made by
 * themselves; nothing is the rest of another.
 */
import Fraction from 'fraction.js'
import { exact, show } from '../../schemas/decimal.ts'
import { asFault, describeFault } from '../../schemas/fault.ts'
import type { Meter } from '../../schemas/meters.ts'
import { type Book, bookMeters } from '../../schemas/pricebook.ts'
import { monthOf, showInstant, type Window } from '../../schemas/window.ts'
import { type Billing, bill, pays } from '../billing.ts'
import type { AccountLines } from '../line-items.ts'
import { familyKey, lookKey, meterSql } from '../meters.ts'
import type { Store } from '../store.ts'
import { type Quantity, quantities } from '../usage.ts'
import { type Compared, type Difference, type Equation, namedMax } from './report.ts'
import { inSlice, type Slice, sliceParams } from './slices.ts'

export interface QuantitiesFound {
  readonly equations: readonly Equation[]
  readonly compared: Compared
  readonly gaps: readonly string[]
  readonly notes: readonly string[]
}

/** What the readings of a meter are, by class: in its unit. */
interface Classes {
  ledger: Fraction
  readings: bigint
  rated: Fraction
  unpriced: Fraction
  unassigned: Fraction
  otherwise: Fraction
}

const zero = new Fraction(0)
/** While readings come in the ledger is one moment not what it was the moment before. */
const looksMax = 3

/** @param rate makes the lines; `bill` unless a test says otherwise. */
export async function auditQuantities(
  store: Store,
  slices: readonly Slice[],
  billing: Billing,
  rate: typeof bill = bill,
): Promise<QuantitiesFound> {
  const books = new Map(billing.books.map(book => [book.id, book]))
  const billed = new Set(
    billing.accounts.flatMap(({ priceBook }) => [
      ...(books.has(priceBook) ? bookMeters(books.get(priceBook)!) : []),
    ]),
  )
  const meters = billing.meters.filter(({ slug }) => billed.has(slug))
  const summed = meters.filter(({ aggregation }) => aggregation === 'SUM' || aggregation === 'COUNT')
  const months = await monthsOf(store, slices)
  const classes = new Map(summed.map(({ slug }) => [slug, newClasses()]))
  const differences: Difference[] = []
  const gaps: string[] = []
  const notes: string[] = []
  let compared = 0n
  if (meters.length === 0) notes.push('no account has a price book that takes a meter: nothing is billed')
  for (const { slug, aggregation } of meters)
    if (!summed.some(meter => meter.slug === slug))
      notes.push(`${slug}: figures of ${aggregation} do not add up; its cells are compared instead`)
  const unpriced = new Map<string, Fraction>()
  for (const month of summed.length === 0 ? [] : months) {
    const found = await lookAtMonth(store, month, slices, { billing, books, meters: summed, rate })
    if (found === undefined) {
      notes.push(
        `${showInstant(month.startMs)}: readings kept coming in, its quantities were not compared at rest`,
      )
      continue
    }
    compared += found.compared
    differences.push(...found.differences)
    for (const [slug, one] of found.classes) addTo(classes.get(slug)!, one)
    for (const { account, meter, quantity } of found.unpriced) {
      const key = `${account}: usage of ${meter}`
      unpriced.set(key, (unpriced.get(key) ?? zero).add(exact(quantity)))
    }
  }
  for (const [key, quantity] of unpriced) gaps.push(`unpriced: account ${key}, ${show(quantity)}`)
  for (const [slug, { unassigned }] of classes)
    if (!unassigned.equals(0))
      gaps.push(`unassigned: ${show(unassigned)} of ${slug} are of tenants that no account pays for`)
  return {
    equations: summed.map(({ slug, unit }) => equationOf(slug, unit, classes.get(slug)!)),
    compared: {
      check: 'lines',
      compared,
      things: 'quantities of a meter, month and account',
      differing: BigInt(differences.length),
      differences: differences.slice(0, namedMax),
    },
    gaps,
    notes,
  }
}

function equationOf(slug: string, unit: string, of: Classes): Equation {
  const later = 'always 0 until there are invoices'
  const sum = of.rated.add(of.unpriced).add(of.unassigned).add(of.otherwise)
  return {
    left: { name: `current ${slug}`, value: show(of.ledger), note: `${of.readings} readings` },
    right: [
      { name: 'rated (open)', value: show(of.rated) },
      { name: 'rated (issued)', value: '0', note: later },
      { name: 'unpriced', value: show(of.unpriced) },
      { name: 'unassigned', value: show(of.unassigned) },
      {
        name: 'billed by other meters',
        value: show(of.otherwise),
        note: 'of accounts whose book does not take this one',
      },
      { name: 'too late', value: '0', note: later },
      { name: 'not yet closed', value: '0', note: later },
    ],
    unit,
    holds: of.ledger.equals(sum),
  }
}

interface Asked {
  readonly billing: Billing
  readonly books: ReadonlyMap<string | undefined, Book>
  readonly meters: readonly Meter[]
  readonly rate: typeof bill
}

interface MonthFound {
  readonly classes: ReadonlyMap<string, Classes>
  readonly unpriced: AccountLines['unpriced']
  readonly differences: readonly Difference[]
  readonly compared: bigint
}

/** What counts changes by marks alone: where those are the same before and after, nothing has come in between. */
async function lookAtMonth(
  store: Store,
  month: Window,
  slices: readonly Slice[],
  asked: Asked,
): Promise<MonthFound | undefined> {
  let before = await marksOf(store, month)
  for (let look = 1; look <= looksMax; look += 1) {
    const found = await classesOf(store, month, await ledgerSums(store, month, slices, asked.meters), asked)
    const after = await marksOf(store, month)
    if (before === after) return found
    before = after
  }
  return undefined
}

/** A figure that changes with every mark of the month, and with what is decided of one. */
async function marksOf(store: Store, month: Window): Promise<string> {
  const [row] = await store.rows<{ marks: string; hash: string }>(
    `select count() as marks, sum(cityHash64(source, scope, start, readat, version, held, suspect)) as hash
     from reads final where ${inSlice}`,
    sliceParams(month),
  )
  return `${row?.marks} ${row?.hash}`
}

async function classesOf(
  store: Store,
  month: Window,
  ledger: ReadonlyMap<string, LedgerSum>,
  { billing, books, meters, rate }: Asked,
): Promise<MonthFound> {
  const name = showInstant(month.startMs).slice(0, 7)
  const differences: Difference[] = []
  // Usage without a price is a class of its own here, not a reason to stop.
  const reporting = {
    ...billing,
    books: billing.books.map(book => ({ ...book, unpriced: 'report' as const })),
  }
  let lines: readonly AccountLines[] = []
  try {
    lines = (await rate(store, reporting, month)).accounts
  } catch (error) {
    differences.push({
      check: 'lines',
      place: name,
      message: `the month cannot be rated: ${describeFault(asFault(error, 'INTERNAL'))}`,
      remedy: 'Mend what the fault names; `meterline check` finds most of it.',
    })
  }
  const classes = new Map<string, Classes>()
  let compared = 0n
  const byHour = billing.accounts.some(({ subjects }) =>
    subjects.some(({ from, to }) => from !== undefined || to !== undefined),
  )
  for (const meter of meters) {
    const { slug } = meter
    const rows = await quantities(store, {
      meter,
      span: month,
      zone: 'UTC',
      groupBy: [],
      where: {},
      ...(byHour && { step: 'HOUR' as const }),
    })
    const per = exact(meter.per ?? '1')
    const sums = ledger.get(slug)
    const one = newClasses()
    one.ledger = (sums?.total ?? zero).div(per)
    one.readings = sums?.readings ?? 0n
    const answered = sum(rows)
    compared += 1n
    if (!answered.equals(one.ledger))
      differences.push({
        check: 'lines',
        place: `${slug} ${name}`,
        message: `the answers for it add up to ${show(answered)}, its current readings to ${show(one.ledger)} ${meter.unit}`,
        remedy: 'The ledger ↔ rollups check names the cell.',
      })
    const payer = (row: Quantity) => billing.accounts.find(account => pays(account, row))
    const byAccount = Map.groupBy(rows, row => payer(row)?.id)
    one.unassigned = sum(byAccount.get(undefined) ?? [])
    for (const account of billing.accounts) {
      const used = sum(byAccount.get(account.id) ?? [])
      const book = books.get(account.priceBook)
      if (!book || !bookMeters(book).has(slug)) {
        one.otherwise = one.otherwise.add(used)
        continue
      }
      const rated = ratedOf(
        lines.find(line => line.account === account.id),
        slug,
        book,
      )
      one.rated = one.rated.add(rated.taken)
      one.unpriced = one.unpriced.add(rated.unpriced)
      compared += 1n
      const place = `account ${account.id} ${slug} ${name}`
      const taken = rated.taken.add(rated.unpriced)
      if (!taken.equals(used))
        differences.push({
          check: 'lines',
          place,
          message: `its lines take ${show(rated.taken)} and ${show(rated.unpriced)} have no price, and its usage is ${show(used)} ${meter.unit}`,
          remedy:
            'Rate the month again; if it stays, `meterline export jsonl` shows the proofs of its lines.',
        })
      for (const { charge, says, metered } of rated.wrong)
        differences.push({
          check: 'lines',
          place: `${place} line ${charge}`,
          message: `the line says ${show(says)}, and what it is made of is ${show(metered)}`,
          remedy: 'Rate the month again.',
        })
    }
    classes.set(slug, one)
  }
  return { classes, unpriced: lines.flatMap(line => line.unpriced), differences, compared }
}

interface RatedOf {
  readonly taken: Fraction
  readonly unpriced: Fraction
  readonly wrong: readonly { readonly charge: string; readonly says: Fraction; readonly metered: Fraction }[]
}

/** Prices under which the quantities of a charge's lines add up to what it took. */
const additiveModels = ['unit', 'graduated', 'volume']

/** What the lines say that they took of a meter. Lines of one charge and price have one proof. */
function ratedOf(of: AccountLines | undefined, slug: string, book: Book): RatedOf {
  const own = of?.lines.filter(line => line.meter === slug) ?? []
  const base = own.filter(line => !book.charges.find(({ id }) => id === line.proof.charge)?.additive)
  // Where a meter has additive charges only, they are its price.
  const byProof = Map.groupBy(base.length > 0 ? base : own, line => line.proof)
  const wrong: { charge: string; says: Fraction; metered: Fraction }[] = []
  let taken = zero
  for (const [proof, lines] of byProof) {
    const metered = exact(proof.metered ?? '0')
    taken = taken.add(metered)
    const addsUp =
      Object.keys(proof.modifiers).every(name => name === 'by') &&
      Object.keys(proof.price).some(name => additiveModels.includes(name))
    if (!addsUp) continue
    const says = lines
      .reduce((all, line) => all.add(exact(line.quantity === '' ? '0' : line.quantity)), zero)
      .mul(exact(proof.per))
    if (!says.equals(metered)) wrong.push({ charge: proof.charge, says, metered })
  }
  const unpriced = (of?.unpriced ?? []).filter(({ meter }) => meter === slug)
  return { taken, unpriced: unpriced.reduce((all, { quantity }) => all.add(exact(quantity)), zero), wrong }
}

// -- the ledger's side

interface LedgerSum {
  readonly total: Fraction
  readonly readings: bigint
}

/** Of each meter the sum over its current readings, straight from the events; one pass for a family of meters. */
async function ledgerSums(
  store: Store,
  month: Window,
  slices: readonly Slice[],
  meters: readonly Meter[],
): Promise<ReadonlyMap<string, LedgerSum>> {
  const sums = new Map<string, LedgerSum>()
  for (const family of Map.groupBy(meters, meter => familyKey(meter) + lookKey(meter)).values()) {
    const parts = family.map((meter, index) => ({
      slug: meter.slug,
      sql: meterSql(meter, `measure${index}`),
    }))
    for (const slice of slices) {
      const span = {
        startMs: Math.max(month.startMs, slice.startMs),
        endMs: Math.min(month.endMs, slice.endMs),
      }
      if (span.startMs >= span.endMs) continue
      const [row] = await store.rows<{ sums: readonly string[]; counts: readonly string[] }>(
        `select [${parts.map(({ sql }) => `sumIf(toDecimal256(${sql.value}, 12), ${sql.has})`).join(', ')}] as sums,
           [${parts.map(({ sql }) => `countIf(${sql.has})`).join(', ')}] as counts
         from events final
         where ${inSlice} and ${parts[0]?.sql.where} and (source, scope, start, readat) in (
           select source, scope, start, max((not estimated, readat, content_readat)).3 from reads final
           where ${inSlice} and outcome = 'complete' and held and not suspect group by source, scope, start)`,
        { ...Object.assign({}, ...parts.map(({ sql }) => sql.params)), ...sliceParams(span) },
      )
      parts.forEach(({ slug }, index) => {
        const before = sums.get(slug)
        sums.set(slug, {
          total: (before?.total ?? zero).add(exact(row?.sums[index] ?? '0')),
          readings: (before?.readings ?? 0n) + BigInt(row?.counts[index] ?? 0),
        })
      })
    }
  }
  return sums
}

async function monthsOf(store: Store, slices: readonly Slice[]): Promise<readonly Window[]> {
  const from = slices[0]
  const to = slices.at(-1)
  if (!from || !to) return []
  const rows = await store.rows<{ start_s: number }>(
    `select distinct toUnixTimestamp(toStartOfMonth(start)::DateTime('UTC')) as start_s from events where ${inSlice} order by start_s`,
    sliceParams({ startMs: from.startMs, endMs: to.endMs }),
  )
  return rows.map(({ start_s }) => {
    const month = monthOf(Number(start_s) * 1000, 'UTC')
    return { startMs: Math.max(month.startMs, from.startMs), endMs: Math.min(month.endMs, to.endMs) }
  })
}

function newClasses(): Classes {
  return { ledger: zero, readings: 0n, rated: zero, unpriced: zero, unassigned: zero, otherwise: zero }
}

function addTo(all: Classes, more: Classes): void {
  all.readings += more.readings
  for (const name of ['ledger', 'rated', 'unpriced', 'unassigned', 'otherwise'] as const)
    all[name] = all[name].add(more[name])
}

function sum(rows: readonly Quantity[]): Fraction {
  return rows.reduce((all, { quantity }) => all.add(quantity), zero)
}
