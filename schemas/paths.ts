/** Paths of meters: what is taken of an event as a value, a group or a filter, and how data is walked by one. Pure. */
import { Fault } from './fault.ts'

/** A step into an object by a key, or into a list by a number from 0. */
export type Step = string | number

/** `name`: a measure, a label or an attribute. `data`: a walk from the event's data. */
export type Path =
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'data'; readonly steps: readonly Step[] }

const stepsMax = 32
const indexMax = 1_000_000
const step =
  /\.([A-Za-z_][A-Za-z0-9_-]*)|\[(0|[1-9]\d*)\]|\['((?:[^'\\]|\\['\\])*)'\]|\["((?:[^"\\]|\\["\\])*)"\]/y

/**
 * Reads a path. Of JSONPath (RFC 9535) those that name one place: `$` and then `.name`, `['any key']`, `["any key"]` and
 * `[0]` (a place in a list, from 0), up to 32 of them. What does not begin with `$` is a name.
 * @throws Fault CONFIG_INVALID naming the path, and where it is no such path
 */
export function parsePath(text: string): Path {
  if (!text.startsWith('$')) return { kind: 'name', name: text }
  const steps: Step[] = []
  for (let at = 1; at < text.length; ) {
    step.lastIndex = at
    const match = step.exec(text)
    if (!match || Number(match[2]) > indexMax) throw bad(text, at)
    const [all, name, index, quoted, doublyQuoted] = match
    const key = quoted ?? doublyQuoted
    if (key !== undefined) steps.push(key.replace(/\\(.)/g, '$1'))
    else steps.push(name ?? Number(index))
    at += all.length
  }
  if (steps.length === 0 || steps.length > stepsMax) throw bad(text, 1)
  return { kind: 'data', steps }
}

function bad(text: string, at: number): Fault {
  return new Fault(
    'CONFIG_INVALID',
    `the path ${text} is not one that names a place in the data: ${JSON.stringify(text.slice(at))} is none of .name, ['any key'] and [0]; there are no wildcards, filters or slices`,
    { path: text },
  )
}

/** What stands there; undefined where nothing does. */
export function valueAt(data: unknown, steps: readonly Step[]): unknown {
  let value = data
  for (const by of steps) {
    if (typeof value !== 'object' || value === null) return undefined
    if (typeof by === 'number') {
      if (!Array.isArray(value)) return undefined
      value = value[by]
    } else {
      if (Array.isArray(value) || !Object.hasOwn(value, by)) return undefined
      value = (value as Readonly<Record<string, unknown>>)[by]
    }
  }
  return value
}
