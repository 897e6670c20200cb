/**
 * The catalogue: the meters of the file, which the API can only look at, and those made by API, which live in the store.
 * Says of each which definition answers now: a changed one answers when its history is computed, until then the old one.
 */
import { hash, randomBytes } from 'node:crypto'
import { misfitOf, validator } from '../schemas/check.ts'
import { Fault } from '../schemas/fault.ts'
import { catalogueMisfits, Meter, meterHash } from '../schemas/meters.ts'
import { dimNames, ledgerRows, meterMisfit } from './meters.ts'
import {
  type Build,
  type BuildProgress,
  buildsOf,
  hoursOf,
  inHours,
  progressOf,
  registerMeters,
  retire,
} from './rollups.ts'
import type { Store } from './store.ts'
import type { SeenRollups } from './usage-plan.ts'

/** What is said of a meter besides its definition. */
export interface MeterNotes {
  readonly name?: string | undefined
  readonly metadata?: Readonly<Record<string, string>> | null | undefined
  /** As OpenMeter has it: events before it do not count. `sinceMs` of a question (usage-plan.ts). */
  readonly eventFromMs?: number | undefined
}

/** A meter, and which definition answers. */
export interface CatalogueMeter extends MeterNotes {
  /** A ULID. */
  readonly id: string
  /** As it was asked for. */
  readonly meter: Meter
  /** The definition that answers now: of a changed meter the old one, until the new one is computed. */
  readonly answering: Meter
  /** The cells of that, where all of history is in them. */
  readonly rollups?: SeenRollups | undefined
  readonly origin: 'file' | 'api'
  readonly createdMs: number
  readonly updatedMs: number
  readonly deletedMs?: number | undefined
  /** `computing`: its history is on its way. Answers are exact all the same, of a new meter from the ledger, and slower. */
  readonly state: 'ready' | 'computing'
}

/** As it is shown. */
export interface CatalogueEntry extends CatalogueMeter {
  readonly progress: BuildProgress
}

/** An entry, and what may be a mistake in it. */
export interface Changed {
  readonly entry: CatalogueEntry
  readonly warnings: readonly string[]
}

/** A meter beside the build of its definition; without one where nothing computes it. */
interface Known {
  readonly meter: CatalogueMeter
  readonly own: Build | undefined
}

interface Row extends MeterNotes {
  readonly id: string
  readonly meter: Meter
  readonly createdMs: number
  readonly updatedMs: number
  readonly deletedMs?: number | undefined
  readonly version: number
}

const isMeter = validator(Meter)
/** Another process may have taken a meter of the file away. */
const readyMs = 1000
const nothing: BuildProgress = { hoursDone: 0, hours: 0, unusable: 0, example: '' }

/** At the start of a processor: every meter of the file or made by API has its cells computed, and what is none any more has not. */
export async function beginMeters(store: Store, file: readonly Meter[]): Promise<void> {
  const rows = (await rowsOf(store)).filter(({ deletedMs }) => deletedMs === undefined)
  const meters = [...file, ...unshadowed(rows, file).map(({ meter }) => meter)]
  await registerMeters(store, meters)
  const slugs = new Set(meters.map(({ slug }) => slug))
  await retire(store, slug => !slugs.has(slug))
}

export class Catalogue {
  readonly #store: Store
  readonly #file: readonly Meter[]
  readonly #nowMs: () => number
  readonly #startedMs: number
  /** Meters of the file that were found ready, by slug: nothing but that can change of them. */
  readonly #ready = new Map<string, CatalogueMeter>()

  /** @param file the meters of the catalogue file, or those that come with Meterline. */
  constructor(store: Store, file: readonly Meter[], nowMs: () => number) {
    this.#store = store
    this.#file = file
    this.#nowMs = nowMs
    this.#startedMs = nowMs()
  }

  /**
   * What a question has to know of a meter, by its id or slug. By slug it is one small statement for a meter of the file, or
   * none where that was found ready just now, and two side by side for others; how far a computation is, which `get` says,
   * costs a look through the ledger.
   * @throws Fault METER_UNKNOWN, also for one that was removed
   */
  async find(idOrSlug: string): Promise<CatalogueMeter> {
    const before = this.#ready.get(idOrSlug)
    if (before?.rollups && performance.now() - before.rollups.seenMs < readyMs) return before
    const { meter } = await this.#named(idOrSlug)
    if (meter.origin === 'file' && meter.state === 'ready') this.#ready.set(meter.meter.slug, meter)
    if (meter.deletedMs === undefined) return meter
    const { slug } = meter.meter
    throw new Fault('METER_UNKNOWN', `meter ${slug} was removed`, { meter: slug })
  }

  /** By slug, as `find` has them. */
  async meters(): Promise<readonly CatalogueMeter[]> {
    const known = (await this.#known()).map(({ meter }) => meter)
    return known.filter(({ deletedMs }) => deletedMs === undefined)
  }

  /** By slug. With `withDeleted` those made by API that were removed come too. */
  async list({
    withDeleted = false,
  }: {
    readonly withDeleted?: boolean
  } = {}): Promise<readonly CatalogueEntry[]> {
    const known = await this.#known()
    return await this.#entries(known.filter(({ meter }) => withDeleted || meter.deletedMs === undefined))
  }

  /**
   * By its id or slug; one that was removed by its id alone.
   * @throws Fault METER_UNKNOWN
   */
  async get(idOrSlug: string): Promise<CatalogueEntry> {
    const [entry] = await this.#entries([await this.#named(idOrSlug)])
    return entry as CatalogueEntry
  }

  /**
   * Makes a meter. Its answers are exact at once, and fast when its history is computed.
   * @throws Fault METER_INVALID naming every problem, METER_EXISTS where the slug has a meter
   */
  async create(definition: unknown, notes: MeterNotes = {}): Promise<Changed> {
    const meter = this.#checked(definition)
    const others = await this.#known(meter.slug)
    if (others.some(other => other.meter.deletedMs === undefined)) throw exists(meter)
    const atMs = this.#nowMs()
    const row: Row = { ...notes, id: newId(atMs), meter, createdMs: atMs, updatedMs: atMs, version: 1 }
    await this.#write(row)
    // Of two that are made at once the first by id stays. Where that one was written after the look of the other, both
    // were told that it is made, and it is: `unshadowed` knows one.
    const rivals = (await rowsOf(this.#store, meter.slug)).filter(
      other => other.deletedMs === undefined && other.id < row.id,
    )
    const withdrawn = async () => {
      await this.#write({ ...row, deletedMs: atMs, version: 2 })
      return exists(meter)
    }
    if (rivals.length > 0) throw await withdrawn()
    return await this.#changed(row).catch(async (error: unknown) => {
      throw error instanceof Fault && error.code === 'METER_UNKNOWN' ? await withdrawn() : error
    })
  }

  /**
   * Changes a meter; what is not named stays. A changed definition answers when its history is computed.
   * @throws Fault METER_UNKNOWN | METER_FIXED | METER_INVALID
   */
  async update(idOrSlug: string, change: { readonly meter?: unknown } & MeterNotes): Promise<Changed> {
    const row = await this.#own(idOrSlug)
    const meter = change.meter === undefined ? row.meter : this.#checked(change.meter)
    if (meter.slug !== row.meter.slug)
      throw new Fault('METER_INVALID', `/slug: a meter keeps its slug, which is "${row.meter.slug}"`)
    const { meter: _, ...notes } = change
    const changed: Row = { ...row, ...notes, meter, updatedMs: this.#nowMs(), version: row.version + 1 }
    await this.#write(changed)
    return await this.#changed(changed)
  }

  /**
   * Removes a meter; its events stay.
   * @throws Fault METER_UNKNOWN | METER_FIXED
   */
  async remove(idOrSlug: string): Promise<void> {
    const row = await this.#own(idOrSlug)
    const atMs = this.#nowMs()
    // One that was made beside it must not come to light now.
    for (const one of await rowsOf(this.#store, row.meter.slug))
      if (one.deletedMs === undefined)
        await this.#write({ ...one, deletedMs: atMs, updatedMs: atMs, version: one.version + 1 })
    await retire(this.#store, slug => slug === row.meter.slug)
  }

  #checked(definition: unknown): Meter {
    if (!isMeter(definition)) {
      const problems = (isMeter.errors ?? []).map(error => {
        const { path, message } = misfitOf(error)
        return `${path === '' ? '/' : path} ${message}`
      })
      throw new Fault('METER_INVALID', problems.join('; ').slice(0, 2000))
    }
    const meter = definition as Meter
    const found = catalogueMisfits([meter]).map(
      ({ path, message }) => `${path.replace(/^\/meters\/0/, '')} ${message}`,
    )
    const misfit = meterMisfit(meter)
    if (misfit !== undefined) found.push(misfit)
    if (found.length > 0) throw new Fault('METER_INVALID', found.join('; '))
    return meter
  }

  async #changed(row: Row): Promise<Changed> {
    await registerMeters(this.#store, [row.meter])
    const warnings = await misses(this.#store, row.meter)
    return { entry: await this.get(row.id), warnings }
  }

  async #own(idOrSlug: string): Promise<Row> {
    const { id, meter, origin } = await this.find(idOrSlug)
    const { slug } = meter
    if (origin === 'file')
      throw new Fault('METER_FIXED', `meter ${slug} is of the catalogue file: change it there`)
    const row = (await rowsOf(this.#store, slug)).find(row => row.id === id)
    if (!row || row.deletedMs !== undefined) throw new Fault('METER_UNKNOWN', `meter ${slug} was removed`)
    return row
  }

  /** @throws Fault METER_UNKNOWN */
  async #named(idOrSlug: string): Promise<Known> {
    const found =
      (await this.#withId(idOrSlug.toUpperCase())) ??
      (await this.#known(idOrSlug)).find(({ meter }) => meter.deletedMs === undefined)
    if (found) return found
    throw new Fault('METER_UNKNOWN', `there is no meter "${idOrSlug.slice(0, 80)}"`, {
      meter: idOrSlug.slice(0, 80),
    })
  }

  async #withId(id: string): Promise<Known | undefined> {
    if (!idShape.test(id)) return undefined
    const [row] = await this.#store.rows<{ slug: string }>(
      'select slug from meters where id = {id:String} limit 1',
      { id },
    )
    const slug = this.#file.find(({ slug }) => fileId(slug) === id)?.slug ?? row?.slug
    if (slug === undefined) return undefined
    return (await this.#known(slug)).find(({ meter }) => meter.id === id)
  }

  /** All, or those of a slug, by slug. */
  async #known(slug?: string): Promise<readonly Known[]> {
    const file = slug === undefined ? this.#file : this.#file.filter(meter => meter.slug === slug)
    // Where the file has the slug, what was made by API under it is no meter.
    const isFixed = slug !== undefined && file.length > 0
    const [rows, builds] = await Promise.all([
      isFixed ? [] : rowsOf(this.#store, slug),
      buildsOf(this.#store, slug),
    ])
    const fixed = file.map(meter => ({
      id: fileId(meter.slug),
      meter,
      origin: 'file' as const,
      createdMs: this.#startedMs,
      updatedMs: this.#startedMs,
    }))
    const made = unshadowed(rows, this.#file).map(({ version: _, ...row }) => ({
      ...row,
      origin: 'api' as const,
    }))
    const known = [...fixed, ...made].map(one => {
      const { own, ...answers } = answer(one.meter, builds)
      return { own, meter: { ...one, ...answers } }
    })
    return known.sort((a, b) => (a.meter.meter.slug < b.meter.meter.slug ? -1 : 1))
  }

  async #entries(known: readonly Known[]): Promise<readonly CatalogueEntry[]> {
    const progress = await progressOf(
      this.#store,
      known.flatMap(({ own }) => own ?? []),
    )
    return known.map(({ meter, own }) => ({
      ...meter,
      progress: (own && progress.get(own.key)) ?? nothing,
    }))
  }

  async #write(row: Row): Promise<void> {
    const { id, meter, createdMs, updatedMs, deletedMs, version, ...notes } = row
    const at = (ms: number) => new Date(ms).toISOString()
    await this.#store.insert(
      'meters',
      ['id', 'slug', 'definition', 'named', 'created', 'updated', 'deleted', 'version'],
      [
        JSON.stringify([
          id,
          meter.slug,
          JSON.stringify(meter),
          JSON.stringify(notes),
          at(createdMs),
          at(updatedMs),
          deletedMs === undefined ? null : at(deletedMs),
          version,
        ]),
      ],
    )
  }
}

/** Those made by API: all, or those of a slug, by id. */
async function rowsOf(store: Store, slug?: string): Promise<readonly Row[]> {
  const rows = await store.rows<{
    id: string
    definition: string
    named: string
    created_ms: string
    updated_ms: string
    deleted_ms: string | null
    version: string
  }>(
    `select id, definition, named, toUnixTimestamp64Milli(created) as created_ms,
       toUnixTimestamp64Milli(updated) as updated_ms, toUnixTimestamp64Milli(deleted) as deleted_ms, version
     from meters final ${slug === undefined ? '' : 'where slug = {slug:String}'} order by id`,
    { slug },
  )
  return rows.map(row => ({
    ...(JSON.parse(row.named) as MeterNotes),
    id: row.id,
    meter: JSON.parse(row.definition) as Meter,
    createdMs: Number(row.created_ms),
    updatedMs: Number(row.updated_ms),
    ...(row.deleted_ms !== null && { deletedMs: Number(row.deleted_ms) }),
    version: Number(row.version),
  }))
}

/** A meter of the file takes the place of one of its slug that was made by API, and of two of those the first by id. */
function unshadowed(rows: readonly Row[], file: readonly Meter[]): readonly Row[] {
  const slugs = new Set(file.map(({ slug }) => slug))
  const firsts = new Map<string, string>()
  for (const { id, meter, deletedMs } of rows)
    if (deletedMs === undefined && !firsts.has(meter.slug)) firsts.set(meter.slug, id)
  return rows.filter(
    ({ id, meter, deletedMs }) =>
      !slugs.has(meter.slug) && (deletedMs !== undefined || firsts.get(meter.slug) === id),
  )
}

/** Exactly this definition where it is ready, else the last of the slug that is, else this one from the ledger. */
function answer(
  meter: Meter,
  builds: readonly Build[],
): Pick<CatalogueMeter, 'answering' | 'rollups' | 'state'> & Pick<Known, 'own'> {
  const own = builds.findLast(
    build =>
      build.meter.slug === meter.slug &&
      build.state !== 'retired' &&
      meterHash(build.meter) === meterHash(meter),
  )
  const seen = (build: Build | undefined) => build && { key: build.key, seenMs: performance.now() }
  if (own?.state === 'ready') return { answering: meter, rollups: seen(own), state: 'ready', own }
  const before = builds.findLast(build => build.meter.slug === meter.slug && build.state === 'ready')
  return { answering: before?.meter ?? meter, rollups: seen(before), state: 'computing', own }
}

function exists({ slug }: Meter): Fault {
  return new Fault('METER_EXISTS', `there is a meter "${slug}" already`, { meter: slug })
}

// -- ids

const base32 = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'
const idShape = new RegExp(`^[${base32}]{26}$`)

function ulid(bits: bigint): string {
  return Array.from({ length: 26 }, (_, at) => base32[Number((bits >> BigInt(5 * (25 - at))) & 31n)]).join('')
}

function newId(atMs: number): string {
  return ulid((BigInt(atMs) << 80n) | BigInt(`0x${randomBytes(10).toString('hex')}`))
}

/** The same in every process and after every start: of no time, and of the slug. */
function fileId(slug: string): string {
  return ulid(BigInt(`0x${hash('sha256', `meter ${slug}`, 'hex').slice(0, 20)}`))
}

// -- what may be a mistake

/** Of hours with events of the meter's types, the last are looked at: so many, or fewer where these have so many rows. */
const missHoursMax = 24
const missRowsMax = 200_000
/** For each statement: who makes a meter, or has it checked, waits. */
const missBounds = { settings: { max_execution_time: 5 } }

/** Paths of a meter that stand for nothing in the last events of its types, as sentences. */
export async function misses(store: Store, meter: Meter): Promise<readonly string[]> {
  const types = meter.eventTypes.join(', ')
  try {
    const hours = lastOf(await hoursOf(store, meter, missBounds))
    if (hours.length === 0) return [`there are no events of ${types} yet`]
    const { filter, ...unfiltered } = meter
    const all = await standing(store, unfiltered, hours)
    if (all.rows === '0') return [`there are no events of ${types} that count yet`]
    const recent = `the last ${all.rows} events of ${types}`
    const found = dimNames(meter).flatMap((dim, index) =>
      all.dims[index] === '0'
        ? [`groupBy.${dim}: ${meter.groupBy[dim]} stands for nothing in ${recent}`]
        : [],
    )
    if (all.there === '0') found.unshift(`value: ${meter.value} stands for no number in ${recent}`)
    if (filter && (await standing(store, meter, hours)).rows === '0')
      found.push(`filter: it leaves none of ${recent}`)
    return found
  } catch (error) {
    if (!(error instanceof Fault && error.code === 'QUERY_TOO_LARGE')) throw error
    return [`whether its paths stand for anything in events of ${types} takes too long to find out`]
  }
}

function lastOf(hours: Awaited<ReturnType<typeof hoursOf>>): readonly number[] {
  let rows = 0
  const last = hours.slice(0, missHoursMax).filter((hour, index) => {
    rows += hour.rows
    return index === 0 || rows <= missRowsMax
  })
  return last.map(({ hourS }) => hourS)
}

/** How many events of these hours the meter looks at, in how many something stands where its value should be, and each dim. */
async function standing(store: Store, meter: Meter, hours: readonly number[]) {
  const { sql, params } = ledgerRows([meter], { range: inHours })
  const dims = dimNames(meter).map((_, index) => `countIf(dim${index} != '')`)
  const [row] = await store.rows<{ rows: string; there: string; dims: readonly string[] }>(
    `select count() as rows, countIf(has0) as there, [${dims.join(', ')}]::Array(UInt64) as dims from ${sql}`,
    { ...params, hours },
    missBounds,
  )
  return row ?? { rows: '0', there: '0', dims: [] }
}
