/** `meterline sources`: the kinds of sources with their options, from their schemas. */

import type { SourceKind } from '../collector/source.ts'
import { sources } from '../collector/sources/list.ts'
import { printJson } from '../runtime/print.ts'
import { SourceFrame } from '../schemas/config.ts'
import { Fault } from '../schemas/fault.ts'
import { type SchemaOption, schemaOptions, showDefault } from '../schemas/options.ts'
import type { Settings } from './roles.ts'

/** One kind as it is printed: `options` are those of every source and its own. */
export interface ListedKind {
  readonly kind: string
  readonly summary: string
  readonly options: readonly SchemaOption[]
}

const columnsMax = 100

/** @throws Fault USAGE where there is no such kind */
export async function listSources(
  settings: Pick<Settings, 'json' | 'stdout'> & { readonly kind?: string },
): Promise<number> {
  const asked = sources.filter(({ kind }) => settings.kind === undefined || kind === settings.kind)
  if (asked.length === 0)
    throw new Fault(
      'USAGE',
      `there is no kind of source "${settings.kind}"; there are ${sources.map(({ kind }) => kind).join(', ')}`,
    )
  const kinds = asked.map(listedKind)
  settings.stdout(settings.json === true ? printJson(kinds) : kinds.map(shown).join('\n'))
  return 0
}

function listedKind({ kind, summary, config }: SourceKind): ListedKind {
  const frame = schemaOptions(SourceFrame)
  const framed = new Set(frame.map(({ name }) => name))
  const own = schemaOptions(config).filter(({ name }) => !framed.has(name))
  return { kind, summary, options: [...frame.map(option => kindFixed(option, kind)), ...own] }
}

/** Of `kind` itself there is one value here. */
function kindFixed(option: SchemaOption, kind: string): SchemaOption {
  return option.name === 'kind' ? { ...option, type: kind } : option
}

function shown({ kind, summary, options }: ListedKind): string {
  const entries = options.map(option => {
    const initial = showDefault(option)
    const otherwise = option.required ? '; required' : initial === '' ? '' : `; default ${initial}`
    const [head = '', ...more] = wrapped(`${option.name}: ${option.type}${otherwise}`, columnsMax - 6)
    return [
      `  ${head}`,
      ...[...more, ...wrapped(option.description, columnsMax - 6)].map(line => `      ${line}`),
    ].join('\n')
  })
  return `${[...wrapped(`${kind}: ${summary}`, columnsMax), ...entries].join('\n')}\n`
}

/** The words in lines of so many columns; a word that is longer has a line to itself. */
function wrapped(text: string, columns: number): readonly string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + 1 + word.length <= columns)
      lines[lines.length - 1] = `${last} ${word}`
    else lines.push(word)
  }
  return lines
}
