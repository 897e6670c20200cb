/** How a field that cannot be taken is told: where it stands, and why. Pure. */
import { isJsonArray, isJsonObject, type Json, JsonNumber } from '../../../schemas/json.ts'

/** What cannot stand where it does: the path of the field in its object, and why. */
export class Unfit extends Error {
  readonly path: string

  constructor(path: string, why: string) {
    super(why)
    this.path = path
  }
}

/** Why a value cannot stand where it does, without repeating more of it than a line. */
export function unfit(value: Json | undefined): string {
  if (value === undefined) return 'is missing'
  if (value === null) return 'is null'
  if (typeof value === 'string') return value === '' ? 'is empty' : `is the string "${clip(value)}"`
  return `is ${value instanceof JsonNumber ? 'a number' : isJsonArray(value) ? 'a list' : isJsonObject(value) ? 'an object' : typeof value}`
}

function clip(text: string): string {
  return text.length > 80 ? `${text.slice(0, 80)}…` : text
}
