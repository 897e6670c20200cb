/**
 * Holds calls and their answers against a cut OpenAPI file: path, query, form or JSON body, status and body of the answer.
 * Stricter than the file: what it does not name is not taken, so a field that a version lacks is found.
 */
import { readFileSync } from 'node:fs'
import { Ajv2019, type ValidateFunction } from 'ajv/dist/2019.js'
import addFormats from 'ajv-formats'
import {
  type CutVersion,
  cutFile,
  type OpenApi,
  type Operation,
  type Parameter,
  type Reference,
  type Schema,
} from '../../../fixtures/runai/cut.ts'

/** One call with its answer, as a double shows it; numbers as JSON.parse gives them. */
export interface Exchange {
  readonly method: string
  readonly path: string
  /** Undecoded, without the question mark. */
  readonly rawQuery: string
  readonly body?: string
  readonly status: number
  readonly answer: unknown
}

export interface OpenApiCheck {
  readonly api: OpenApi
  /** What does not fit, in words; none where all does. */
  misfits(exchange: Exchange): readonly string[]
  /** The path of the file that this call is of. */
  pathOf(exchange: Pick<Exchange, 'method' | 'path'>): string | undefined
}

const read = new Map<CutVersion, OpenApiCheck>()

export function openApiOf(version: CutVersion): OpenApiCheck {
  const check = read.get(version) ?? readOpenApi(version)
  read.set(version, check)
  return check
}

function readOpenApi(version: CutVersion): OpenApiCheck {
  const api = JSON.parse(readFileSync(cutFile(version), 'utf8')) as OpenApi
  const ajv = new Ajv2019({ strict: false, allErrors: true, coerceTypes: false })
  ;(addFormats as unknown as (instance: Ajv2019) => void)(ajv)
  const schemas = Object.entries(api.components.schemas ?? {})
  ajv.addSchema({
    $id: 'api',
    $defs: {
      // Within `allOf` a schema is a part of a whole and cannot say what else there may be.
      closed: Object.fromEntries(schemas.map(([name, schema]) => [name, jsonSchema(schema, 'closed')])),
      open: Object.fromEntries(schemas.map(([name, schema]) => [name, jsonSchema(schema, 'open')])),
    },
  })
  const compiled = new Map<string, ValidateFunction>()
  const validatorOf = (schema: Schema): ValidateFunction => {
    const key = JSON.stringify(schema)
    const found = compiled.get(key) ?? ajv.compile(jsonSchema(schema, 'closed'))
    compiled.set(key, found)
    return found
  }
  const misfitsOf = (what: string, schema: Schema | undefined, value: unknown): readonly string[] => {
    if (!schema) return []
    const validate = validatorOf(schema)
    return validate(value)
      ? []
      : (validate.errors ?? []).map(
          error => `${what}${error.instancePath} ${error.message} ${JSON.stringify(error.params)}`,
        )
  }
  const resolved = <T extends object>(value: T | Reference): T => {
    if (!('$ref' in value)) return value
    const [, , kind = '', name = ''] = value.$ref.split('/')
    return api.components[kind]?.[name] as unknown as T
  }

  const pathOf: OpenApiCheck['pathOf'] = ({ method, path }) => {
    const parts = path.split('/')
    // A path without a parameter goes before one with.
    return Object.keys(api.paths)
      .filter(each => api.paths[each]?.[method.toLowerCase()])
      .filter(each => {
        const wanted = each.split('/')
        return (
          wanted.length === parts.length &&
          wanted.every((part, index) => part.startsWith('{') || part === parts[index])
        )
      })
      .sort((a, b) => a.split('{').length - b.split('{').length)[0]
  }

  function misfits(exchange: Exchange): readonly string[] {
    const { method, path, status } = exchange
    const called = pathOf(exchange)
    if (called === undefined) return [`${method} ${path} is not in this version`]
    const operation = api.paths[called]?.[method.toLowerCase()] as Operation
    const parameters = (operation.parameters ?? []).map(each => resolved<Parameter>(each))
    const response = operation.responses[String(status)]
    return [
      ...pathMisfits(called, path, parameters),
      ...queryMisfits(exchange.rawQuery, parameters),
      ...bodyMisfits(operation, exchange.body),
      ...(response
        ? misfitsOf('answer', resolved(response).content?.['application/json']?.schema, exchange.answer)
        : [`status ${status} is not in this version`]),
    ].map(misfit => `${method} ${called}: ${misfit}`)
  }

  function pathMisfits(called: string, path: string, parameters: readonly Parameter[]): readonly string[] {
    const parts = path.split('/')
    return called.split('/').flatMap((part, index) => {
      const name = /^\{(.+)\}$/.exec(part)?.[1]
      const parameter = parameters.find(each => each.in === 'path' && each.name === name)
      return name === undefined || !parameter
        ? []
        : misfitsOf(name, parameter.schema, decodeURIComponent(parts[index] ?? ''))
    })
  }

  function queryMisfits(rawQuery: string, parameters: readonly Parameter[]): readonly string[] {
    const known = parameters.filter(each => each.in === 'query')
    const given = rawQuery
      .split('&')
      .filter(Boolean)
      .map(pair => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)] as const)
    const names = given.map(([name]) => name)
    return [
      ...known
        .filter(({ name, required }) => required && !names.includes(name))
        .map(({ name }) => `${name} is missing`),
      ...given.flatMap(([name, text], index) => {
        const parameter = known.find(each => each.name === name)
        if (!parameter) return [`${name} is not known`]
        // A list is one parameter with commas where `explode` is false, as all of Run:ai's are.
        if (names.indexOf(name) !== index && parameter.explode === false) return [`${name} is given twice`]
        return misfitsOf(name, parameter.schema, plainOf(text, parameter))
      }),
    ]
  }

  function plainOf(text: string, parameter: Parameter): unknown {
    const { type, $ref } = parameter.schema
    const kind = type ?? (typeof $ref === 'string' ? resolved<{ type?: string }>({ $ref }).type : undefined)
    if (kind === 'array')
      return parameter.explode === false
        ? text.split(',').map(decodeURIComponent)
        : [decodeURIComponent(text)]
    const plain = decodeURIComponent(text)
    if (kind === 'integer' || kind === 'number') return /^-?\d+(\.\d+)?$/.test(plain) ? Number(plain) : plain
    return kind === 'boolean' && /^(true|false)$/.test(plain) ? plain === 'true' : plain
  }

  function bodyMisfits(operation: Operation, body: string | undefined): readonly string[] {
    const content = operation.requestBody?.content
    if (!content) return body ? ['a body that is not asked for'] : []
    const form = content['application/x-www-form-urlencoded']
    if (form) return misfitsOf('form', form.schema, Object.fromEntries(new URLSearchParams(body)))
    return misfitsOf('body', content['application/json']?.schema, JSON.parse(body ?? 'null'))
  }

  return { api, misfits, pathOf }
}

/** OpenAPI 3.0 as JSON Schema: what is `nullable` may be null, and references lead into one document. */
function jsonSchema(schema: Schema, ends: 'open' | 'closed'): Schema {
  const { nullable, ...rest } = schema
  const converted: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(rest))
    if (key === '$ref') converted.$ref = `api#/$defs/${ends}/${String(value).split('/').at(-1)}`
    else if (key === 'allOf' || key === 'oneOf' || key === 'anyOf')
      converted[key] = (value as Schema[]).map(part => jsonSchema(part, 'open'))
    else if (key === 'properties')
      converted[key] = Object.fromEntries(
        Object.entries(value as Record<string, Schema>).map(([name, each]) => [
          name,
          jsonSchema(each, 'closed'),
        ]),
      )
    else if ((key === 'items' || key === 'additionalProperties') && typeof value === 'object')
      converted[key] = jsonSchema(value as Schema, 'closed')
    else converted[key] = value
  // A free object has no fields of its own.
  const hasFields = 'properties' in rest || 'allOf' in rest
  if (ends === 'closed' && hasFields && !('additionalProperties' in rest))
    converted.unevaluatedProperties = false
  return nullable === true ? { anyOf: [converted, { type: 'null' }] } : converted
}
