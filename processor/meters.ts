/** What a meter's definition means in SQL: which events, which value, which dims. */
import { asFault, Fault } from '../schemas/fault.ts'
import { measureNames } from '../schemas/measures.ts'
import type { Meter } from '../schemas/meters.ts'
import type { Params } from './store.ts'

export interface MeterSql {
  /** The meter's dims in the order of `dimNames`, each a String. */
  readonly dims: readonly string[]
  /** The Decimal(38, 12) that is aggregated. */
  readonly value: string
  /** Has an event this value at all? */
  readonly has: string
  /** Which events are looked at: the same for all meters of a family. */
  readonly where: string
  readonly params: Params
}

/** The meter's dims in the order in which rollups keep them. */
export function dimNames(meter: Meter): readonly string[] {
  return Object.keys(meter.groupBy).sort()
}

/** Why a meter cannot be computed, in a sentence; undefined where it can. */
export function meterMisfit(meter: Meter): string | undefined {
  try {
    meterSql(meter)
    return undefined
  } catch (error) {
    return asFault(error, 'CONFIG_INVALID').message
  }
}

/** The aggregations that rollups can answer today. */
const aggregable = ['SUM', 'COUNT', 'AVG', 'MIN', 'MAX']

/**
 * Meters of one family look at the same events by the same dims, and differ in their value: one pass does for all.
 * The key is equal for meters of one family.
 */
export function familyKey(meter: Meter): string {
  const entries = (record: Readonly<Record<string, string>>) => Object.entries(record).sort()
  return JSON.stringify([[...meter.eventTypes].sort(), entries(meter.groupBy), entries(meter.filter ?? {})])
}

/**
 * @param name tells the parameters of this meter's value from those of another in one statement.
 * @throws Fault CONFIG_INVALID for an aggregation or path that cannot be computed.
 */
export function meterSql(meter: Meter, name = 'measure'): MeterSql {
  if (!aggregable.includes(meter.aggregation))
    throw new Fault(
      'CONFIG_INVALID',
      `meter ${meter.slug}: aggregation ${meter.aggregation} is not there yet; there are ${aggregable.join(', ')}`,
    )
  const params: Record<string, unknown> = { types: [...meter.eventTypes] }
  const where = ['type in ({types:Array(String)})']
  const dims = dimNames(meter).map((name, index) =>
    pathSql(meter, meter.groupBy[name] ?? name, `dim${index}`, params),
  )
  let value = 'toDecimal128(1, 12)'
  let has = 'true'
  if (meter.aggregation !== 'COUNT') {
    const measure = /^\$\.measures\.([a-z_]+)$/.exec(meter.value ?? '')?.[1] ?? meter.value ?? ''
    if (!(measureNames as readonly string[]).includes(measure))
      throw new Fault('CONFIG_INVALID', `meter ${meter.slug}: value "${measure}" is no measure`, {
        meter: meter.slug,
      })
    params[name] = measure
    value = `measures[{${name}:String}]`
    has = `mapContains(measures, {${name}:String})`
  }
  Object.entries(meter.filter ?? {}).forEach(([name, wanted], index) => {
    params[`wanted${index}`] = wanted
    where.push(
      `${pathSql(meter, meter.groupBy[name] ?? name, `filter${index}`, params)} = {wanted${index}:String}`,
    )
  })
  return { dims, value, has, where: where.join(' and '), params }
}

const attributes: Readonly<Record<string, string>> = {
  subject: 'subject',
  scope: 'scope',
  source: 'toString(source)',
  '$.resource.id': 'resource_id',
  '$.resource.name': 'resource_name',
  '$.resource.kind': 'toString(resource_kind)',
}

/** A label by its name, an attribute, or a JSONPath into what the ledger keeps of `data`. */
function pathSql(meter: Meter, path: string, param: string, params: Record<string, unknown>): string {
  const attribute = attributes[path]
  if (attribute) return attribute
  const label = /^\$\.labels(?:\.([A-Za-z0-9_]+)|\['([^']+)'\])$/.exec(path)
  if (path.startsWith('$') && !label)
    throw new Fault('CONFIG_INVALID', `meter ${meter.slug}: the path ${path} is not one that events have`, {
      meter: meter.slug,
    })
  params[param] = label?.[1] ?? label?.[2] ?? path
  return `labels[{${param}:String}]`
}
