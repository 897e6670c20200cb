/** The options of a schema as a list, for the reference and for `meterline sources`. Pure. */
import type { TSchema } from 'typebox'

/** What is read of a JSON schema. */
export interface SchemaNode {
  readonly type?: string | readonly string[]
  readonly description?: string
  readonly default?: unknown
  readonly const?: unknown
  readonly enum?: readonly unknown[]
  readonly anyOf?: readonly SchemaNode[]
  readonly minimum?: number
  readonly maximum?: number
  readonly secret?: boolean
  readonly file?: boolean
  readonly required?: readonly string[]
  readonly properties?: Readonly<Record<string, SchemaNode>>
  readonly patternProperties?: Readonly<Record<string, SchemaNode>>
  readonly items?: SchemaNode
}

/** One member of a schema; an inner one is named behind its outer one: `kafka.brokers`, `sources[].kind`. */
export interface SchemaOption {
  readonly name: string
  /** In words: `text`, `whole number, 1 to 64`, `list of text`; the values themselves where there are only some. */
  readonly type: string
  readonly default?: unknown
  readonly required: boolean
  /** Written as a reference; or one holds what is. */
  readonly secret: boolean
  readonly description: string
}

export interface OptionWords {
  /** How the values that there may be are written in `type`. */
  readonly values?: (values: readonly string[]) => string
  /** Members that stand alone: what they hold is told elsewhere. */
  readonly closed?: (name: string) => boolean
}

/** All members of a schema. Where it may be one of several, those of each, each name once. */
export function schemaOptions(schema: TSchema, words: OptionWords = {}): readonly SchemaOption[] {
  return optionsOf(schema as SchemaNode, '', words)
}

function optionsOf(node: SchemaNode, prefix: string, words: OptionWords): readonly SchemaOption[] {
  const values = words.values ?? (some => some.join(' | '))
  const own = Object.entries(node.properties ?? {}).flatMap(([member, inner]) => {
    const name = `${prefix}${member}`
    const option: SchemaOption = {
      name,
      type: typeOf(inner, values),
      ...(inner.default !== undefined && { default: inner.default }),
      required: inner.default === undefined && (node.required?.includes(member) ?? false),
      secret: inner.secret === true || inner.items?.secret === true,
      description: inner.description ?? '',
    }
    if (words.closed?.(name)) return [option]
    const [alike, ...others] = Object.values(inner.properties ?? {})
    if (alike && others.length > 1 && others.every(other => isAlike(other, alike))) {
      const names = values(Object.keys(inner.properties ?? {}))
      return [
        { ...option, type: `map of ${names}` },
        ...optionsOf({ properties: { '*': alike } }, `${name}.`, words),
      ]
    }
    const held = inner.items
      ? optionsOf(inner.items, `${name}[].`, words)
      : optionsOf(inner, `${name}.`, words)
    return [option, ...held]
  })
  const branches = (node.anyOf ?? []).flatMap(branch => optionsOf(branch, prefix, words))
  const names = new Set(own.map(({ name }) => name))
  return [...own, ...branches.filter(({ name }) => !names.has(name) && names.add(name))]
}

/** Of many members that are all the same one stands for all, as `*`. */
function isAlike(one: SchemaNode, other: SchemaNode): boolean {
  return JSON.stringify(one) === JSON.stringify(other)
}

function typeOf(node: SchemaNode, show: (values: readonly string[]) => string): string {
  const values = node.enum ?? node.anyOf?.flatMap(one => (one.const === undefined ? [] : [one.const]))
  if (values && values.length > 0) return show(values.map(String))
  if (node.const !== undefined) return show([String(node.const)])
  if (node.secret) return 'secret'
  if (node.file) return 'path'
  if (node.items) return `list of ${typeOf(node.items, show)}`
  if (node.patternProperties) return 'map'
  if (node.anyOf) return [...new Set(node.anyOf.map(one => typeOf(one, show)))].join(' or ')
  const type = typeof node.type === 'string' ? node.type : (node.type ?? ['anything']).join(' or ')
  return { string: 'text', integer: rangeOf(node), boolean: 'true or false', object: 'map' }[type] ?? type
}

function rangeOf({ minimum, maximum }: SchemaNode): string {
  if (minimum === undefined) return 'whole number'
  if (maximum === undefined || maximum >= Number.MAX_SAFE_INTEGER) return `whole number from ${minimum}`
  return `whole number, ${minimum} to ${maximum}`
}

/** A default as text, empty where there is none: a map or list that is empty is as good as none. */
export function showDefault({ default: initial }: Pick<SchemaOption, 'default'>): string {
  if (initial === undefined) return ''
  if (typeof initial !== 'object') return String(initial)
  return Object.keys(initial ?? {}).length === 0 ? '' : JSON.stringify(initial)
}
