/**
 * JSON of the API server read with little memory: an object is as large as its environment and its managedFields, of which
 * nothing is kept but times. Numbers stay exact: those that JavaScript does not hold exactly cannot be read. Pure.
 */
import { type Json, JsonNumber, type JsonObject } from '../../../schemas/json.ts'

/** What is large, of no use here, and in part secret. Nothing of these names is picked from any object. */
const skipped: ReadonlySet<string> = new Set([
  'env',
  'envFrom',
  'command',
  'args',
  'volumes',
  'volumeMounts',
  'lifecycle',
  'livenessProbe',
  'readinessProbe',
  'startupProbe',
  'affinity',
  'tolerations',
  'topologySpreadConstraints',
  'securityContext',
  'images',
  'kubectl.kubernetes.io/last-applied-configuration',
])

/** @throws SyntaxError where the text is no JSON */
export function parseLean(text: string): Json {
  return lean(JSON.parse(text))
}

function lean(value: unknown): Json {
  if (typeof value === 'number')
    // Of what the API server writes as a number all are counts and seconds; NaN is none of them, and no quantity.
    return new JsonNumber(Number.isSafeInteger(value) ? String(value) : 'NaN')
  if (Array.isArray(value)) return value.map(lean)
  if (typeof value !== 'object' || value === null) return value as Json
  const kept: Record<string, Json> = {}
  for (const [name, inner] of Object.entries(value)) {
    if (skipped.has(name) || name === '__proto__') continue
    kept[name] = name === 'managedFields' ? timesOf(inner) : lean(inner)
  }
  return kept as JsonObject
}

function timesOf(fields: unknown): Json {
  if (!Array.isArray(fields)) return null
  return fields.map(each => {
    const time = (each as { readonly time?: unknown } | null)?.time
    return typeof time === 'string' ? { time } : {}
  })
}
