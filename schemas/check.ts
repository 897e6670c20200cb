/** Holds unknown values against a TypeBox schema, with ajv, at the edges of the system. Pure. */
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv'
import addFormats from 'ajv-formats'
import type { Static, TSchema } from 'typebox'

// Lengths are counted in UTF-16 units: a bound is a bound, and counting characters costs more than all else here.
export const ajv = new Ajv({
  unicode: false,
  // It would call that option deprecated; in strict mode everything else it has to say is thrown.
  logger: false,
  allErrors: true,
  strict: true,
  useDefaults: true,
  allowUnionTypes: true,
})
// The package's types are CommonJS; its default export is the function.
;(addFormats as unknown as (instance: Ajv) => void)(ajv)
// What runtime/config.ts does with an option; see Secret and FilePath in config.ts.
ajv.addKeyword({ keyword: 'secret', schemaType: 'boolean' })
ajv.addKeyword({ keyword: 'file', schemaType: 'boolean' })

const compiled = new WeakMap<TSchema, ValidateFunction>()

/** One thing that does not fit: where (a JSON pointer) and what. */
export interface Misfit {
  readonly path: string
  readonly message: string
}

/** The compiled test of a schema; for hot paths, keep the function. Fills in defaults in place. */
export function validator(schema: TSchema): ValidateFunction {
  let validate = compiled.get(schema)
  if (!validate) {
    validate = ajv.compile(schema)
    compiled.set(schema, validate)
  }
  return validate
}

/** All misfits of a value, none when it fits. Fills in the schema's defaults in place. */
export function misfits(schema: TSchema, value: unknown): readonly Misfit[] {
  const validate = validator(schema)
  return validate(value) ? [] : (validate.errors ?? []).map(misfitOf)
}

/** Does it fit? Narrows the type. Fills in the schema's defaults in place. */
export function fits<Schema extends TSchema>(schema: Schema, value: unknown): value is Static<Schema> {
  return validator(schema)(value) === true
}

export function misfitOf(error: ErrorObject): Misfit {
  const params = error.params as Record<string, unknown>
  const extra = params.additionalProperty ?? params.missingProperty ?? params.unevaluatedProperty
  const inside = `${error.instancePath}/${pointerPart(String(extra))}`
  if (error.keyword === 'additionalProperties') return { path: inside, message: 'is not known here' }
  if (error.keyword === 'required') return { path: inside, message: 'is missing' }
  if (error.keyword === 'enum')
    return { path: error.instancePath, message: `must be one of ${JSON.stringify(params.allowedValues)}` }
  if (error.keyword === 'format' && params.format === 'date-time')
    return { path: error.instancePath, message: 'must be an RFC 3339 time such as 2026-02-12T08:00:00Z' }
  if (error.keyword === 'const')
    return { path: error.instancePath, message: `must be ${JSON.stringify(params.allowedValue)}` }
  return { path: error.instancePath, message: error.message ?? error.keyword }
}

/** A member's name as it stands in a JSON pointer. */
export function pointerPart(name: string): string {
  return name.replaceAll('~', '~0').replaceAll('/', '~1')
}
