/** A YAML file with the place of each of its values, so that a problem can be named by file, line and column. */
import { isUtf8 } from 'node:buffer'
import { readFileSync } from 'node:fs'
import { type Document, isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseDocument } from 'yaml'

/** Something that is not right in a file that a person wrote. `path` is as people write it: `sources[0].name`. */
export interface Problem {
  readonly file: string
  readonly line: number
  readonly column: number
  readonly path: string
  readonly message: string
}

/** `file:line:column path message`: the first part is what editors and terminals jump to. */
export function showProblem(problem: Problem): string {
  const { file, line, column, path, message } = problem
  return `${file}:${line}:${column} ${path === '' ? '' : `${path} `}${message}`
}

export class YamlFile {
  readonly file: string
  /** As plain values, which the caller may fill in. */
  readonly value: unknown
  readonly #document: Document
  readonly #lines: LineCounter

  private constructor(file: string, document: Document, lines: LineCounter) {
    this.file = file
    this.#document = document
    this.#lines = lines
    // Bounded: a document may not unfold its aliases without end. By way of text, so that two aliases share nothing.
    this.value = JSON.parse(JSON.stringify(document.toJS({ maxAliasCount: 100 }) ?? null))
  }

  /** The file, or why it is none: problems of its syntax, or one sentence where it cannot be read at all. */
  static read(file: string): YamlFile | readonly Problem[] | string {
    let bytes: Buffer
    try {
      bytes = readFileSync(file)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      return code === 'ENOENT' ? 'there is no such file' : `cannot be read (${code ?? 'unknown error'})`
    }
    if (!isUtf8(bytes)) return 'is not UTF-8'
    return YamlFile.parse(file, bytes.toString('utf8'))
  }

  static parse(file: string, text: string): YamlFile | readonly Problem[] {
    const lines = new LineCounter()
    const document = parseDocument(text, {
      lineCounter: lines,
      prettyErrors: false,
      logLevel: 'error',
      stringKeys: true,
    })
    const errors = [...document.errors, ...document.warnings]
    const problemAt = (offset: number, message: string): Problem => ({
      file,
      ...placeOf(lines, offset),
      path: '',
      message,
    })
    // The library's own words quote the text, in which a secret may stand.
    if (errors.length > 0)
      return errors.map(({ pos, code }) =>
        problemAt(pos[0], syntaxWords[code] ?? `this is not YAML (${code})`),
      )
    try {
      return new YamlFile(file, document, lines)
    } catch {
      return [problemAt(0, 'aliases unfold to too much')]
    }
  }

  /** The problem at a JSON pointer into the file; where nothing stands there, at what should hold it. */
  problem(pointer: string, message: string): Problem {
    let node: Node | null | undefined = this.#document.contents
    let offset = node?.range?.[0] ?? 0
    let path = ''
    let isThere = true
    for (const part of pointerParts(pointer)) {
      if (isAlias(node)) node = node.resolve(this.#document)
      if (isSeq(node)) path += `[${part}]`
      else
        path += /^[A-Za-z_][\w-]*$/.test(part)
          ? `${path === '' ? '' : '.'}${part}`
          : `[${JSON.stringify(part)}]`
      if (!isThere) continue
      const found = childOf(node, part)
      if (!found) {
        isThere = false
        continue
      }
      offset = found.offset
      node = found.node
    }
    return { file: this.file, ...placeOf(this.#lines, offset), path, message }
  }
}

/** The parts of a JSON pointer. */
export function pointerParts(pointer: string): readonly string[] {
  return pointer
    .split('/')
    .slice(1)
    .map(part => part.replaceAll('~1', '/').replaceAll('~0', '~'))
}

function childOf(
  node: Node | null | undefined,
  part: string,
): { readonly node: Node | undefined; readonly offset: number } | undefined {
  if (isMap<Node, Node | null>(node)) {
    const pair = node.items.find(({ key }) => isScalar(key) && String(key.value) === part)
    return pair && { node: pair.value ?? undefined, offset: pair.key.range?.[0] ?? 0 }
  }
  if (!isSeq<Node>(node)) return undefined
  const item = node.items[Number(part)]
  return item && { node: item, offset: item.range?.[0] ?? 0 }
}

function placeOf(lines: LineCounter, offset: number): { readonly line: number; readonly column: number } {
  const { line, col } = lines.linePos(offset)
  return { line: Math.max(line, 1), column: Math.max(col, 1) }
}

const syntaxWords: Readonly<Record<string, string>> = {
  BAD_ALIAS: 'an alias stands here that no anchor defines',
  BAD_INDENT: 'this is indented otherwise than its neighbours',
  BAD_SCALAR_START: 'this text must stand in quotes',
  BLOCK_AS_IMPLICIT_KEY: 'a colon too many, or a text with a colon that must stand in quotes',
  DUPLICATE_KEY: 'this name stands here a second time',
  MISSING_CHAR: 'a quote, bracket or colon is missing',
  MULTILINE_IMPLICIT_KEY: 'a name must stand on one line: a colon may be missing',
  MULTIPLE_DOCS: 'a second document begins here: a file is one',
  NON_STRING_KEY: 'a name must be text',
  TAB_AS_INDENT: 'a tab cannot indent: use spaces',
  TAG_RESOLVE_FAILED: 'this tag (!…) means nothing here: to write text that begins with !, use quotes',
}
