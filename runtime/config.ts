/**
 * Reads the configuration and the files it names, and finds every problem in them at once. What an option means is
 * schemas/config.ts; what a kind of source takes and what a price book may say come in as arguments.
 */
import { dirname, isAbsolute, join } from 'node:path'
import type { TSchema } from 'typebox'
import { type Account, AccountsFile, accountMisfits } from '../schemas/accounts.ts'
import { type Misfit, misfits } from '../schemas/check.ts'
import { Config, SourceFrame } from '../schemas/config.ts'
import { Fault } from '../schemas/fault.ts'
import { keyMisfit } from '../schemas/keys.ts'
import { CatalogueFile, catalogueMisfits, defaultMeters, type Meter } from '../schemas/meters.ts'
import type { Book } from '../schemas/pricebook.ts'
import { instantMs } from '../schemas/window.ts'
import { secretFileOf } from './secrets.ts'
import { type Problem, pointerParts, showProblem, YamlFile } from './yaml.ts'

/** A source as configured: `options` fit the schema of its kind. */
export interface ConfiguredSource {
  readonly kind: string
  readonly name: string
  /** Nothing before this is expected of it. */
  readonly fromMs?: number
  readonly options: unknown
}

/** The whole configuration: defaults filled in, paths made good, the files it names read and checked. */
export interface LoadedConfig
  extends Readonly<Omit<Config, 'sources' | 'catalogue' | 'accounts' | 'priceBooks'>> {
  /** The file it stands in, undefined where there is none. */
  readonly file: string | undefined
  readonly sources: readonly ConfiguredSource[]
  readonly meters: readonly Meter[]
  /** Accounts and books are read, and here, only where the rules say what is wrong with a book. */
  readonly accounts: readonly Account[]
  /** Each with an id of its own. */
  readonly books: readonly (Book & { readonly id: string })[]
}

export interface ConfigRules {
  /** The schema of the options of each kind of source, without those that all have. */
  readonly sourceSchemas: Readonly<Record<string, TSchema>>
  /** Why a meter that fits its schema cannot be computed; undefined where it can. */
  readonly meterMisfit?: (meter: Meter) => string | undefined
  /**
   * What is wrong with a would-be price book; `meters` is undefined where the catalogue itself is wrong. Without it the
   * books, and the accounts that name them, are for somebody else: they are not read.
   */
  readonly bookMisfits?: (book: unknown, meters: readonly Meter[] | undefined) => readonly Misfit[]
}

const problemsShownMax = 100
/** The options of every source, which the schema of the file holds. */
const framed: readonly string[] = Object.keys(SourceFrame.properties)

/**
 * The configuration of a file, or the defaults alone where there is none.
 * @throws Fault CONFIG_INVALID that names every problem of all files, one a line, and no secret.
 */
export function loadConfig(file: string | undefined, rules: ConfigRules): LoadedConfig {
  const { config, problems } = checkConfig(file, rules)
  if (config && problems.length === 0) return config
  const shown = problems.slice(0, problemsShownMax).map(showProblem)
  if (problems.length > shown.length) shown.push(`and ${problems.length - shown.length} more`)
  throw new Fault('CONFIG_INVALID', shown.join('\n'), { problems: problems.length })
}

/** Every problem, by file and line; the configuration only where there is none. */
export function checkConfig(
  file: string | undefined,
  rules: ConfigRules,
): { readonly config?: LoadedConfig; readonly problems: readonly Problem[] } {
  const problems: Problem[] = []
  const yaml = file === undefined ? YamlFile.parse('', '') : YamlFile.read(file)
  if (!(yaml instanceof YamlFile)) return { problems: unreadable(file ?? '', yaml) }
  const dir = dirname(file ?? '')
  const value = (yaml.value ?? {}) as Record<string, unknown>
  const hasData = typeof value === 'object' && Object.hasOwn(value, 'data')
  const fitting = hold(yaml, Config, value, problems)
  const sources = sourcesOf(yaml, value.sources, { dir, rules, problems })
  const main = fitting ? (value as unknown as Config) : undefined
  if (main) problems.push(...mainMisfits(main).map(misfit => yaml.problem(misfit.path, misfit.message)))

  // Files are read even where the rest of the config is wrong, so that all is named at once.
  const catalogue = fileOf(yaml, value, '/catalogue', { dir, problems })
  const meters = catalogue === 'none' ? defaultMeters : metersOf(catalogue, rules, problems)
  const { bookMisfits } = rules
  const books = bookMisfits ? booksOf(yaml, value, { dir, bookMisfits, problems, meters }) : []
  const allBooks = Array.isArray(value.priceBooks) && books.length === value.priceBooks.length
  const accounts = bookMisfits
    ? accountsOf(fileOf(yaml, value, '/accounts', { dir, problems }), { books, allBooks, problems })
    : []

  if (problems.length > 0 || !main || !meters) return { problems: sorted(problems) }
  const {
    sources: _,
    catalogue: __,
    accounts: ___,
    priceBooks: ____,
    ...rest
  } = resolved(Config, main, dir) as Config
  return {
    config: {
      ...rest,
      // The default is the caller's directory, as is --data.
      data: hasData ? rest.data : main.data,
      file,
      sources,
      meters,
      accounts,
      books: books.map(({ book }) => book as Book & { readonly id: string }),
    },
    problems: [],
  }
}

interface Reading {
  /** What paths are relative to. */
  readonly dir: string
  readonly problems: Problem[]
}

// -- the parts

function sourcesOf(
  yaml: YamlFile,
  items: unknown,
  { dir, rules, problems }: Reading & { readonly rules: ConfigRules },
): readonly ConfiguredSource[] {
  const found: ConfiguredSource[] = []
  const places = new Map<string, number>()
  for (const [index, item] of (Array.isArray(items) ? (items as unknown[]) : []).entries()) {
    if (!isRecord(item)) continue
    const path = `/sources/${index}`
    const { kind, name, from } = item
    const schema =
      typeof kind === 'string' && Object.hasOwn(rules.sourceSchemas, kind)
        ? rules.sourceSchemas[kind]
        : undefined
    if (!schema) {
      const kinds = Object.keys(rules.sourceSchemas)
      if (typeof kind === 'string')
        problems.push(
          yaml.problem(
            `${path}/kind`,
            `is no kind of source${suggestion(kind, kinds)}; there are ${listed(kinds)}`,
          ),
        )
      continue
    }
    // What all sources have is held already; a kind that wants its name, say, asks for it in its schema.
    const asked = Object.keys((schema as SchemaNode).properties ?? {})
    const options = Object.fromEntries(
      Object.entries(item).filter(([option]) => !framed.includes(option) || asked.includes(option)),
    )
    hold(yaml, schema, options, problems, { path, framed })
    const id = `${kind}/${name}`
    const first = places.get(id)
    if (first !== undefined)
      problems.push(
        yaml.problem(`${path}/name`, `is also the name of sources[${first}]: each of a kind has its own`),
      )
    else places.set(id, index)
    const fromMs = typeof from === 'string' ? instantMs(from) : undefined
    if (typeof from === 'string' && fromMs === undefined)
      problems.push(yaml.problem(`${path}/from`, 'is not an RFC 3339 time such as 2026-02-12T08:00:00Z'))
    found.push({
      kind: String(kind),
      name: String(name),
      ...(fromMs !== undefined && { fromMs }),
      options: resolved(schema, options, dir),
    })
  }
  return found
}

/** What the schema of the main file cannot say. */
function mainMisfits({ kafka, store, keys }: Config): readonly Misfit[] {
  const found: Misfit[] = [...keyMisfits(keys)]
  if (kafka && kafka.minInSyncReplicas > kafka.replicationFactor)
    found.push({
      path: '/kafka/minInSyncReplicas',
      message: `is ${kafka.minInSyncReplicas}, more than replicationFactor, which is ${kafka.replicationFactor}: nothing could be sent`,
    })
  if (kafka && kafka.topic === kafka.rejectedTopic)
    found.push({ path: '/kafka/rejectedTopic', message: 'must be another topic than `topic`' })
  for (const option of ['user', 'password'] as const)
    if (store[option] !== undefined && store.url === undefined)
      found.push({ path: `/store/${option}`, message: 'is for a server: `url` is missing' })
  return found
}

function keyMisfits(keys: Config['keys']): readonly Misfit[] {
  return keys.flatMap((key, index) => {
    const found: Misfit[] = []
    const path = `/keys/${index}`
    const before = keys.slice(0, index)
    if ((key.sha256 === undefined) === (key.key === undefined))
      found.push({ path, message: 'needs either `sha256`, the hash of the key, or `key`, where it stands' })
    if (before.some(other => other.name === key.name))
      found.push({ path: `${path}/name`, message: 'is also the name of another key' })
    if (before.some(other => other.sha256 !== undefined && other.sha256 === key.sha256))
      found.push({ path: `${path}/sha256`, message: 'is also the hash of another key: whose would it be?' })
    const misfit = keyMisfit(key)
    if (misfit) found.push({ path: `${path}/${misfit.part}`, message: misfit.message })
    if (key.expires !== undefined && instantMs(key.expires) === undefined)
      found.push({ path: `${path}/expires`, message: 'is no RFC 3339 time such as 2027-01-01T00:00:00Z' })
    return found
  })
}

function metersOf(
  yaml: YamlFile | undefined,
  rules: ConfigRules,
  problems: Problem[],
): readonly Meter[] | undefined {
  if (!yaml || !hold(yaml, CatalogueFile, yaml.value, problems)) return undefined
  const { meters } = yaml.value as { readonly meters: readonly Meter[] }
  const found = [...catalogueMisfits(meters)]
  for (const [index, meter] of meters.entries()) {
    const message = rules.meterMisfit?.(meter)
    if (message !== undefined) found.push({ path: `/meters/${index}`, message })
  }
  problems.push(...found.map(({ path, message }) => yaml.problem(path, message)))
  return found.length === 0 ? meters : undefined
}

interface ReadBook {
  readonly yaml: YamlFile
  readonly book: Book
}

/** Those that are right; each file is one book. */
function booksOf(
  yaml: YamlFile,
  value: Readonly<Record<string, unknown>>,
  reading: Reading & {
    readonly bookMisfits: NonNullable<ConfigRules['bookMisfits']>
    readonly meters: readonly Meter[] | undefined
  },
): readonly ReadBook[] {
  const { problems, bookMisfits, meters } = reading
  const found: ReadBook[] = []
  const byId = new Map<string, string>()
  const files: readonly unknown[] = Array.isArray(value.priceBooks) ? value.priceBooks : []
  for (const index of files.keys()) {
    const book = fileOf(yaml, value, `/priceBooks/${index}`, reading)
    if (!(book instanceof YamlFile)) continue
    const wrong = bookMisfits(book.value, meters)
    problems.push(...wrong.map(({ path, message }) => book.problem(path, message)))
    if (!isRecord(book.value)) continue
    const { id } = book.value
    if (id === undefined) problems.push(book.problem('/id', 'is missing: accounts name a book by its id'))
    if (typeof id !== 'string') continue
    const other = byId.get(id)
    if (other !== undefined)
      problems.push(book.problem('/id', `is also the id of ${other}: accounts could not tell them apart`))
    else {
      byId.set(id, book.file)
      found.push({ yaml: book, book: book.value as unknown as Book })
    }
  }
  return found
}

function accountsOf(
  yaml: YamlFile | 'none' | undefined,
  {
    books,
    allBooks,
    problems,
  }: Readonly<{ books: readonly ReadBook[]; allBooks: boolean; problems: Problem[] }>,
): readonly Account[] {
  if (!(yaml instanceof YamlFile) || !hold(yaml, AccountsFile, yaml.value, problems)) return []
  const { accounts } = yaml.value as { readonly accounts: readonly Account[] }
  problems.push(...accountMisfits(accounts).map(({ path, message }) => yaml.problem(path, message)))
  for (const [index, account] of accounts.entries()) {
    const path = `/accounts/${index}`
    const found = books.find(({ book }) => book.id === account.priceBook)
    const ids = books.map(({ book }) => book.id ?? '')
    // Where a book could not be read, its id is not known.
    if (!found && !allBooks) continue
    if (!found)
      problems.push(
        yaml.problem(
          `${path}/priceBook`,
          `"${account.priceBook}" is the id of none of priceBooks${suggestion(account.priceBook, ids)}; there are ${listed(ids)}`,
        ),
      )
    else if (typeof found.book.currency === 'string' && found.book.currency !== account.currency)
      problems.push(
        yaml.problem(
          `${path}/currency`,
          `is ${account.currency}, but its price book "${account.priceBook}" (${found.yaml.file}) is in ${found.book.currency}`,
        ),
      )
  }
  return accounts
}

/** The file that an option names, `none` where the option is not there, undefined where the file is no YAML. */
function fileOf(
  yaml: YamlFile,
  value: Readonly<Record<string, unknown>>,
  pointer: string,
  { dir, problems }: Reading,
): YamlFile | 'none' | undefined {
  const name = pointerParts(pointer).reduce<unknown>(
    (at, part) => (typeof at === 'object' && at !== null ? (at as Record<string, unknown>)[part] : undefined),
    value,
  )
  if (name === undefined) return 'none'
  if (typeof name !== 'string' || name === '') return undefined
  const file = relativeTo(dir, name)
  const read = YamlFile.read(file)
  if (read instanceof YamlFile) return read
  if (typeof read === 'string') problems.push(yaml.problem(pointer, `${file}: ${read}`))
  else problems.push(...read)
  return undefined
}

// -- paths

/** The value with every path of a `file` option, and of a secret's file, made relative to where the caller is. */
function resolved(schema: TSchema, value: unknown, dir: string): unknown {
  const about = schema as SchemaNode
  if (typeof value === 'string') {
    if (about.file) return relativeTo(dir, value)
    const secretFile = about.secret ? secretFileOf(value) : undefined
    return secretFile === undefined ? value : `file:${relativeTo(dir, secretFile)}`
  }
  if (Array.isArray(value))
    return value.map((item: unknown) => (about.items ? resolved(about.items, item, dir) : item))
  if (!isRecord(value)) return value
  return Object.fromEntries(
    Object.entries(value).map(([name, member]) => {
      const schemaOfMember = memberSchema(about, name)
      return [name, schemaOfMember ? resolved(schemaOfMember, member, dir) : member]
    }),
  )
}

function relativeTo(dir: string, file: string): string {
  return isAbsolute(file) ? file : join(dir, file)
}

// -- misfits in words

interface SchemaNode {
  readonly type?: string | readonly string[]
  readonly description?: string
  readonly file?: boolean
  readonly secret?: boolean
  readonly properties?: Readonly<Record<string, TSchema>>
  readonly patternProperties?: Readonly<Record<string, TSchema>>
  readonly items?: TSchema
}

function memberSchema(schema: SchemaNode, name: string): TSchema | undefined {
  if (schema.properties && Object.hasOwn(schema.properties, name)) return schema.properties[name]
  return Object.entries(schema.patternProperties ?? {}).find(([pattern]) =>
    new RegExp(pattern).test(name),
  )?.[1]
}

/** Holds a value against its schema, fills in defaults, and files what does not fit. Does it fit? */
function hold(
  yaml: YamlFile,
  schema: TSchema,
  value: unknown,
  problems: Problem[],
  /** Where the value stands, and the members of it that are held elsewhere. */
  at: { readonly path: string; readonly framed: readonly string[] } = { path: '', framed: [] },
): boolean {
  const found = misfits(schema, value)
  const seen = new Set<string>()
  for (const { path, message } of found) {
    if (at.framed.some(name => path === `/${name}`)) continue
    const problem = yaml.problem(at.path + path, inWords(schema, value, { path, message }, at.framed))
    const shown = showProblem(problem)
    if (!seen.has(shown)) problems.push(problem)
    seen.add(shown)
  }
  return found.length === 0
}

/** Says what would be right, from the description of the option. Never shows the value: it may be a secret. */
function inWords(schema: TSchema, root: unknown, { path, message }: Misfit, more: readonly string[]): string {
  let around: SchemaNode | undefined
  let option: SchemaNode | undefined = schema as SchemaNode
  let value = root
  const parts = pointerParts(path)
  for (const part of parts) {
    around = option
    option = (option && (/^\d+$/.test(part) && option.items ? option.items : memberSchema(option, part))) as
      | SchemaNode
      | undefined
    value = typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[part] : undefined
  }
  const description = option?.description === undefined ? '' : `: ${option.description}`
  if (message === 'is not known here') {
    const known = [
      ...new Set([...(parts.length === 1 ? more : []), ...Object.keys(around?.properties ?? {})]),
    ]
    return `${message}${suggestion(parts.at(-1) ?? '', known)}; known are ${listed(known)}`
  }
  if (message === 'is missing') return message + description
  if (value === null) return `is empty: write a value, or leave the line out${description}`
  if (message === 'must be string' && (typeof value === 'number' || typeof value === 'boolean'))
    return `must be text: write it in quotes${description}`
  if (message.startsWith('must match pattern')) return `is not of the right form${description}`
  return message.startsWith('must be') && option?.type !== undefined ? message + description : message
}

/** Is there a name that was probably meant? */
function suggestion(name: string, known: readonly string[]): string {
  const near = known
    .map(candidate => ({ candidate, distance: editDistance(name.toLowerCase(), candidate.toLowerCase()) }))
    .filter(({ candidate, distance }) => distance <= Math.max(1, Math.floor(candidate.length / 3)))
    .sort((a, b) => a.distance - b.distance)[0]
  return near ? ` (is \`${near.candidate}\` meant?)` : ''
}

/** How many letters must be added, left out or changed. */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index)
  for (const [index, letter] of [...from].entries()) {
    const next = [index + 1]
    for (let at = 0; at < to.length; at += 1)
      next.push(Math.min(row[at + 1]! + 1, next[at]! + 1, row[at]! + (letter === to[at] ? 0 : 1)))
    row = next
  }
  return row[to.length] ?? 0
}

function listed(names: readonly string[]): string {
  return names.length === 0 ? 'none' : names.join(', ')
}

// -- problems

function unreadable(file: string, why: readonly Problem[] | string): readonly Problem[] {
  return typeof why === 'string' ? [{ file, line: 1, column: 1, path: '', message: why }] : why
}

/** By file, in the order in which the files were read, then by line. */
function sorted(problems: readonly Problem[]): readonly Problem[] {
  const files = [...new Set(problems.map(({ file }) => file))]
  return problems.toSorted(
    (a, b) => files.indexOf(a.file) - files.indexOf(b.file) || a.line - b.line || a.column - b.column,
  )
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
