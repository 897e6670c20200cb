/**
 * What the rows of Rafay have in common: quantities, parameters, and the measures and labels they make; how a row
 * that cannot be read is told. Which fields a row has is its dialect's. Pure.
 */
import Fraction from 'fraction.js'
import { exact, isBoundedDecimal, show, showRounded } from '../../../schemas/decimal.ts'
import type { Usage } from '../../../schemas/event.ts'
import { Fault } from '../../../schemas/fault.ts'
import {
  fractionOf,
  isJsonArray,
  isJsonObject,
  type Json,
  JsonNumber,
  type JsonObject,
} from '../../../schemas/json.ts'
import type { MeasureName } from '../../../schemas/measures.ts'

/** What of the configuration says how parameters are understood. */
export interface ParameterRules {
  readonly gpuTypeParameters: readonly string[]
  readonly gpuCountParameters: readonly string[]
  readonly gpuCountDefault: string
  readonly customerParameter?: string
  readonly measures: readonly {
    readonly parameter: string
    readonly measure: MeasureName
    readonly perUnit: string
  }[]
}

export const parameterDefaults: ParameterRules = {
  gpuTypeParameters: ['gpu_type', 'GPU Type', 'GPU_TYPE'],
  gpuCountParameters: ['GPU', 'GPU Count', 'gpu_count', 'gpus'],
  gpuCountDefault: '1',
  measures: [],
}

/**
 * The labels that the parameters of a row make where nothing is configured: what a price of the row may select by.
 * None where they are unreadable, so that such a row has no price.
 */
export function rowLabels(row: JsonObject): Readonly<Record<string, string>> {
  try {
    const own = measuresAndLabels(new Fraction(0), parametersOf(row.parameters, {}), parameterDefaults, {})
    return { ...parameterLabels(own.parameterLabels), ...own.labels }
  } catch (error) {
    if (error instanceof Fault) return {}
    throw error
  }
}

interface Parameter {
  readonly name: string
  /** Where it stands in the row. */
  readonly path: string
  readonly isLabel: boolean
  readonly text: string | undefined
  readonly raw: Json | undefined
}

export function parametersOf(value: Json | undefined, where: Where): readonly Parameter[] {
  if (value === undefined || value === null) return []
  if (!isJsonArray(value)) throw unreadable(where, '/parameters', 'is not a list')
  const parameters: Parameter[] = []
  for (const [index, parameter] of value.entries()) {
    const path = `/parameters/${index}`
    if (!isJsonObject(parameter)) throw unreadable(where, path, 'is not an object')
    const { name, label_value: label, raw_usage: raw } = parameter
    if (typeof name !== 'string' || name === '') throw unreadable(where, `${path}/name`, unfit(name))
    const text = label instanceof JsonNumber ? label.text : typeof label === 'string' ? label : undefined
    parameters.push({ name, path, isLabel: parameter.is_label === true, text, raw })
  }
  return parameters
}

/** The quantities of one row, and what it is called; `parameterLabels` are those whose meaning only their maker knows. */
export function measuresAndLabels(
  hours: Fraction,
  parameters: readonly Parameter[],
  config: ParameterRules,
  where: Where,
): {
  readonly measures: Map<MeasureName, Fraction>
  readonly labels: Record<string, string>
  readonly parameterLabels: Map<string, string>
} {
  const first = (wanted: readonly string[]) => {
    for (const name of wanted) {
      const found = parameters.find(parameter => parameter.name === name)
      if (found) return found
    }
    return undefined
  }
  const type = first(config.gpuTypeParameters)
  const count = first(config.gpuCountParameters)
  const measures = new Map<MeasureName, Fraction>([['instance_seconds', hours.mul(3600)]])
  const labels: Record<string, string> = {}
  const taken = new Set<Parameter>()
  if (type) {
    if (!type.text) throw unreadable(where, `${type.path}/label_value`, `of "${type.name}" is missing`)
    labels.gpu_type = type.text
    taken.add(type)
  }
  if (count || type) {
    // Rafay gives hours in raw_usage and the size as text in label_value (Usage Metrics collection), so GPU time is
    // count × hours; a quantity (is_label false) is multiplied already.
    const gpuHours = count ? hoursOf(count, hours, where) : hours.mul(config.gpuCountDefault)
    measures.set('gpu_seconds', gpuHours.mul(3600))
    if (count?.isLabel && count.text !== undefined) labels.gpu_count = count.text
    if (!count) labels.gpu_count = config.gpuCountDefault
    if (count) taken.add(count)
  }
  for (const { parameter: name, measure, perUnit } of config.measures) {
    const parameter = parameters.find(candidate => candidate.name === name)
    if (!parameter) continue
    const value = hoursOf(parameter, hours, where).mul(3600).mul(exact(perUnit))
    measures.set(measure, measures.get(measure)?.add(value) ?? value)
    if (!parameter.isLabel) taken.add(parameter)
  }
  const customer = parameters.find(({ name }) => name === config.customerParameter)
  if (customer?.text) labels.customer = customer.text
  const parameterLabels = new Map<string, string>()
  for (const parameter of parameters) {
    if (taken.has(parameter)) continue
    // A quantity nobody mapped is kept as well: its raw figure, in units × hours. Its name says so, or a price that
    // multiplies hours by the label would multiply by hours twice.
    const text = parameter.isLabel
      ? parameter.text
      : parameter.raw instanceof JsonNumber
        ? parameter.raw.text
        : undefined
    if (text !== undefined && text !== '')
      parameterLabels.set(`${parameter.isLabel ? '' : 'quantity.'}${parameter.name}`, text)
  }
  return { measures, labels, parameterLabels }
}

/** Size × hours of a parameter: its number times the instance's hours, or its own figure where it is a quantity. */
function hoursOf(parameter: Parameter, hours: Fraction, where: Where): Fraction {
  if (!parameter.isLabel) return quantity(parameter.raw, { ...where }, `${parameter.path}/raw_usage`)
  const text = parameter.text?.trim() ?? ''
  if (!/^(0|[1-9]\d{0,17})(\.\d{1,12})?$/.test(text))
    throw unreadable(
      where,
      `${parameter.path}/label_value`,
      `of "${parameter.name}" is ${parameter.text === undefined ? 'missing' : `"${clip(parameter.text)}"`}, not a number`,
    )
  return hours.mul(exact(text))
}

/** Labels that Meterline gives itself; a parameter of one of these names is kept under `parameter.<name>`. */
const ownLabels = new Set([
  'organization',
  'organization_external_id',
  'project',
  'project_id',
  'profile',
  'profile_id',
  'profile_type',
  'gpu_type',
  'gpu_count',
  'customer',
  'status',
])

/** Parameters keep the names their maker gave them. */
export function parameterLabels(parameters: ReadonlyMap<string, string>): Record<string, string> {
  const labels: Record<string, string> = {}
  for (const [name, text] of parameters) labels[ownLabels.has(name) ? `parameter.${name}` : name] = text
  return labels
}

export function quantityAt(row: JsonObject, field: string, where: Where): Fraction {
  return quantity(row[field], where, `/${field}`)
}

function quantity(value: Json | undefined, where: Where, path: string): Fraction {
  if (!(value instanceof JsonNumber)) throw unreadable(where, path, unfit(value))
  const fraction = fractionOf(value)
  if (!fraction || fraction.s < 0n) throw unreadable(where, path, `is ${clip(value.text)}, no quantity`)
  return fraction
}

/** Why a value cannot stand where it does. */
export function unfit(value: Json | undefined): string {
  if (value === undefined) return 'is missing'
  if (value === null) return 'is null'
  if (typeof value === 'string') return value === '' ? 'is empty' : `is the string "${clip(value)}"`
  return `is ${value instanceof JsonNumber ? 'a number' : isJsonArray(value) ? 'a list' : typeof value}`
}

export function showAll(values: ReadonlyMap<MeasureName, Fraction>, where: Where): Usage['measures'] {
  const shown: Partial<Record<MeasureName, string>> = {}
  for (const [measure, value] of values) {
    // A console that computes hours in floats sends noise in the 16th digit; beyond 12 decimals of a second there is
    // nothing else, and an event could not hold it.
    const text = show(value)
    const bounded = isBoundedDecimal(text) ? text : showRounded(value, 12).replace(/\.?0+$/, '')
    if (!isBoundedDecimal(bounded)) throw unreadable(where, measure, 'is beyond 1e24')
    shown[measure] = bounded
  }
  return shown
}

export function textOf<Name extends string>(
  name: Name,
  value: Json | undefined,
): { readonly [K in Name]?: string } {
  return typeof value === 'string' && value !== '' ? ({ [name]: value } as { [K in Name]?: string }) : {}
}

/** What a fault of an item says: whose it is, and which field is unfit. */
export interface Where {
  readonly subject?: string
  readonly organization?: string
  readonly profile?: string
  readonly instance?: string
}

export function unreadable(where: Where, path: string, what: string): Fault {
  const { subject, organization, profile, instance } = where
  const shownOrganization =
    organization !== undefined && organization !== subject ? `${organization} (${subject ?? '?'})` : subject
  const place = [
    `organization ${shownOrganization ?? '?'}`,
    profile !== undefined && `profile ${profile}`,
    instance !== undefined && `instance ${instance}`,
  ]
  return new Fault('ITEM_UNREADABLE', `${place.filter(Boolean).join(', ')}: ${path} ${what}`, {
    ...where,
    path,
  })
}

export function clip(text: string): string {
  return text.length > 80 ? `${text.slice(0, 80)}…` : text
}
