/** The shape of the tree: who imports whom, what is pure, what nobody uses, and that the documents tell the truth of it. */
import { existsSync, globSync, readFileSync, statSync } from 'node:fs'
import { isBuiltin, stripTypeScriptTypes } from 'node:module'
import { basename, dirname, join, normalize } from 'node:path'
import { describe, expect, test } from 'vitest'

const root = join(import.meta.dirname, '..')
const ours = (pattern: string): readonly string[] =>
  globSync(pattern, {
    cwd: root,
    exclude: ['**/node_modules', 'dist', 'test-reports', 'meterline-data'],
  }).sort()
const text = (file: string): string => readFileSync(join(root, file), 'utf8')

/** A source file, with its comments taken out, and what it imports: our files by their path, the rest by name. */
interface Source {
  readonly file: string
  readonly code: string
  readonly files: readonly string[]
  /** Those of `files` of which more than types is taken. */
  readonly run: readonly string[]
  readonly packages: readonly string[]
}

const importing =
  /(?:^|\n)\s*(?:import|export)\b[^'"`;]*?from\s*'([^']+)'|(?:^|\n)\s*import\s*'([^']+)'|\b(?:import|require|require\.resolve)\(\s*'([^']+)'\s*\)/g
/** A file that is started as a process of its own is named by its path, from the one that starts it or from the top. */
const naming = /'([\w./-]+\.ts)'/g

function read(file: string): Source {
  const code = text(file).replace(/\/\*[\s\S]*?\*\/|(?<=^|\s)\/\/.*$/gm, '')
  const imports = [...code.matchAll(importing)]
  const nameOf = (match: RegExpMatchArray) => (match[1] ?? match[2] ?? match[3])!
  const named = imports.map(nameOf)
  const relative = (name: string) => name.startsWith('.')
  const pathOf = (name: string) => normalize(join(dirname(file), name))
  const files = named.filter(relative).map(pathOf)
  const run = imports
    .filter(match => !/^\s*(import|export) type\b/.test(match[0]))
    .map(nameOf)
    .filter(relative)
    .map(pathOf)
  const packages = named
    .filter(name => !relative(name))
    .map(name =>
      isBuiltin(name)
        ? name
        : name
            .split('/')
            .slice(0, name.startsWith('@') ? 2 : 1)
            .join('/'),
    )
  return { file, code, files, run, packages: [...new Set(packages)] }
}

const sources = ours('**/*.ts').map(read)
const byFile = new Map(sources.map(source => [source.file, source]))
const layerOf = (file: string): string => (file.includes('/') ? file.slice(0, file.indexOf('/')) : file)
const product = ['schemas', 'runtime', 'collector', 'processor', 'deploy', 'meterline.ts']
const scripts: readonly string[] = ['deploy/build.ts', 'deploy/lock.ts']
const manifest = JSON.parse(text('package.json')) as Readonly<
  Record<
    'dependencies' | 'devDependencies' | 'optionalDependencies' | 'scripts',
    Readonly<Record<string, string>>
  >
>

describe('imports', () => {
  const mayImport: Readonly<Record<string, readonly string[]>> = {
    schemas: ['schemas'],
    runtime: ['schemas', 'runtime'],
    collector: ['schemas', 'runtime', 'collector'],
    processor: ['schemas', 'runtime', 'processor'],
    deploy: product,
    'meterline.ts': product,
  }
  test.each(Object.entries(mayImport))('%s imports only its own and what lies below it', (layer, allowed) => {
    const wrong = sources
      .filter(source => layerOf(source.file) === layer)
      .flatMap(source =>
        source.files.filter(to => !allowed.includes(layerOf(to))).map(to => `${source.file} imports ${to}`),
      )
    expect(wrong).toEqual([])
  })

  test('a source knows its provider, and nothing of CloudEvents, the outbox or Kafka', () => {
    const wrong = sources
      .filter(source => source.file.startsWith('collector/sources/'))
      .flatMap(source =>
        [...source.files, ...source.packages]
          .filter(to => /cloudevents|outbox|relay|collect\.ts|kafka|runtime\/log|sqlite/.test(to))
          .map(to => `${source.file} imports ${to}`),
      )
    expect(wrong).toEqual([])
  })

  const homes: Readonly<Record<string, RegExp>> = {
    chdb: /^deploy\/embedded\//,
    kafkajs: /^runtime\/log\//,
    undici: /^runtime\//,
    '@clickhouse/client': /^processor\//,
    commander: /^meterline\.ts$/,
    fastify: /^processor\/api\//,
  }
  test.each(Object.entries(homes))('%s has one home', (name, home) => {
    const elsewhere = sources
      .filter(source => product.includes(layerOf(source.file)) && source.packages.includes(name))
      .map(source => source.file)
      .filter(file => !home.test(file))
    expect(elsewhere).toEqual([])
  })
})

describe('purity', () => {
  const impure =
    /\bDate\.now\(|\bnew Date\(\)|\bTemporal\.Now\b|\bMath\.random\(|\brandomUUID\(|\brandomBytes\(|\bperformance\.now\(|\bprocess\.[a-z]|\bsetTimeout\(|\bfetch\(|\bconsole\./
  const pureBuiltins = ['node:assert', 'node:assert/strict', 'node:buffer', 'node:crypto']
  const pureLibraries = ['ajv', 'ajv-formats', 'csv-stringify', 'fraction.js', 'typebox', 'yaml']
  const always = /^(schemas|processor\/pricing)\/|^(processor\/rate|collector\/schedule)\.ts$/
  const pure = sources.filter(
    ({ file }) => always.test(file) || /^\/\*\*(?:(?!\*\/)[\s\S])*\bPure\b/.test(text(file)),
  )

  test('schemas, pricing, rating, scheduling and every file that says it is pure touch no clock, chance, environment or I/O', () => {
    const wrong = pure.flatMap(source => [
      ...(impure.exec(source.code) ?? []).map(found => `${source.file} uses ${found}`),
      ...source.packages
        .filter(name => (isBuiltin(name) ? !pureBuiltins.includes(name) : !pureLibraries.includes(name)))
        .map(name => `${source.file} imports ${name}`),
      ...source.run
        .filter(to => !pure.some(({ file }) => file === to))
        .map(to => `${source.file} runs ${to}, which is not pure`),
    ])
    expect(wrong).toEqual([])
  })
})

describe('files', () => {
  test('none is an orphan: each is reached from the command line, a test or a script', () => {
    const starts = [
      'meterline.ts',
      'vitest.config.ts',
      ...ours('test/**/*.test.ts'),
      ...Object.values(manifest.scripts).flatMap(script => /[\w/-]+\.ts/.exec(script) ?? []),
    ]
    const reached = new Set<string>()
    const todo = [...starts]
    for (let file = todo.pop(); file !== undefined; file = todo.pop()) {
      const source = byFile.get(file)
      if (!source || reached.has(file)) continue
      reached.add(file)
      const started = [...source.code.matchAll(naming)].flatMap(match => [
        normalize(join(dirname(file), match[1]!)),
        normalize(match[1]!),
      ])
      todo.push(...source.files, ...started)
    }
    expect(sources.map(source => source.file).filter(file => !reached.has(file))).toEqual([])
  })

  test('none has a name that says nothing', () => {
    const wrong = ours('{meterline.ts,bin,schemas,runtime,collector,processor,deploy,docs,test}/**/*').filter(
      file => /manager|service|helper|util|common|misc/i.test(basename(file)),
    )
    expect(wrong).toEqual([])
  })

  test('each opens with a sentence: what it owns', () => {
    const opens = (file: string): boolean => {
      const start = text(file).replace(/^#!.*\n/, '')
      const comment = file.endsWith('.ts')
        ? /^\/\*\*([\s\S]*?)\*\//.exec(start)?.[1]
        : /^((?:--|#) .*\n)+/.exec(start)?.[0]
      // A capital or a name in code, and somewhere the end of a sentence.
      return /^[A-Z0-9`'][\s\S]*[.:?!](\s|$)/.test((comment ?? '').replace(/^\s*(\*|--|#) ?/gm, '').trim())
    }
    const opened = [...sources.map(source => source.file), ...ours('{processor/tables/*.sql,bin/*,.ci/run}')]
    expect(opened.filter(file => !opens(file))).toEqual([])
  })

  test('none is a barrel', () => {
    const wrong = sources
      .filter(
        ({ file, code }) =>
          basename(file) === 'index.ts' || /^export (\*|\{[^}]*\}|type \{[^}]*\}).* from /m.test(code),
      )
      .map(source => source.file)
    expect(wrong).toEqual([])
  })

  test('none hides from the type checker', () => {
    const wrong = sources
      .filter(({ file }) => /(:|\bas|<) any\b|\bany\[\]|@ts-(ignore|nocheck|expect-error)/.test(text(file)))
      .map(source => source.file)
      .filter(file => file !== 'test/tidy.test.ts')
    expect(wrong).toEqual([])
  })

  test('each is TypeScript that Node runs as it is, which the tests would not tell', () => {
    const wrong = sources.filter(({ file }) => {
      try {
        return stripTypeScriptTypes(text(file)) === ''
      } catch {
        return true
      }
    })
    expect(wrong.map(({ file }) => file)).toEqual([])
  })

  test('none names a path of the machine it was written on', () => {
    const wrong = ours('{**/*.{ts,md,yaml,yml,json,sql},bin/*,.ci/run}')
      .filter(file => file !== 'package-lock.json' && file !== 'test/tidy.test.ts')
      .filter(file => /\/work\/(main|shared)|(\.\.\/)+shared\/|\/root\//.test(text(file)))
    expect(wrong).toEqual([])
  })
})

describe('tests', () => {
  test('each lies where what it tests lies, or beside it', () => {
    const apart = /^test\/([^/]+|(contract|cases|rig|bench|simulate)\/.*)$/
    const wrong = ours('test/**/*.test.ts').filter(file => {
      if (apart.test(file)) return false
      const tested = file.slice('test/'.length).replace(/\.test\.ts$/, '')
      // kafka.faults.test.ts and kafka.long.test.ts are both of kafka.ts.
      const names = [
        tested,
        tested.replace(/\.long$/, ''),
        join(dirname(tested), basename(tested).replace(/\..*$/, '')),
      ]
      return !names.some(name =>
        [`${name}.ts`, name, `test/${name}.ts`].some(path => existsSync(join(root, path))),
      )
    })
    expect(wrong).toEqual([])
  })

  test('all of them run: none is skipped, left for later, or alone', () => {
    const wrong = sources
      .filter(({ file }) => file.endsWith('.test.ts') || file.startsWith('test/contract/'))
      .filter(({ file }) => file !== 'test/tidy.test.ts')
      .filter(({ code }) => /\b(test|it|describe)\.(skip|only|todo|skipIf|runIf|fails)\b|\.skip\(/.test(code))
      .map(source => source.file)
    expect(wrong).toEqual([])
  })
})

describe('dependencies', () => {
  const { dependencies, devDependencies, optionalDependencies } = manifest
  const used = (of: (source: Source) => boolean): ReadonlySet<string> =>
    new Set(sources.filter(of).flatMap(source => source.packages.filter(name => !isBuiltin(name))))
  const byProduct = used(({ file }) => product.includes(layerOf(file)) && !scripts.includes(file))
  const byTests = used(({ file }) => !product.includes(layerOf(file)) || scripts.includes(file))

  test('are pinned to one version', () => {
    const all = Object.entries({ ...dependencies, ...devDependencies, ...optionalDependencies })
    expect(all.filter(([, version]) => !/^\d+\.\d+\.\d+(-[a-z]+\.\d+)?$/.test(version))).toEqual([])
  })

  test('are declared where they are imported', () => {
    const forProduct = { ...dependencies, ...optionalDependencies }
    expect([...byProduct].filter(name => !(name in forProduct))).toEqual([])
    expect([...byTests].filter(name => !(name in forProduct) && !(name in devDependencies))).toEqual([])
  })

  test('are imported where they are declared', () => {
    expect(Object.keys(dependencies).filter(name => !byProduct.has(name))).toEqual([])
    // The pinned Node is run, never imported.
    const optional = Object.keys(optionalDependencies).filter(name => !/^node-(linux|bin-darwin)-/.test(name))
    expect(optional.filter(name => !byProduct.has(name))).toEqual([])
    const commands = ['@biomejs/biome', 'typescript']
    const idle = Object.keys(devDependencies).filter(name => {
      const typed = name.startsWith('@types/') ? name.slice('@types/'.length) : name
      return typed !== 'node' && !commands.includes(name) && !byTests.has(typed) && !byProduct.has(typed)
    })
    expect(idle).toEqual([])
  })

  test('each has its sentence of reason in docs/decisions', () => {
    const reasons = text('docs/decisions/0002-dependencies.md')
    const all = Object.keys({ ...dependencies, ...devDependencies, ...optionalDependencies })
    const without = all.filter(name => !name.startsWith('@types/') && !reasons.includes(`\`${name}\``))
    expect(without).toEqual([])
  })
})

describe('documents', () => {
  const pages = ours('{*.md,docs/**/*.md,deploy/**/*.md}')
  /** The relative links of a page, as paths from the top, without what is in code. */
  const linksOf = (page: string): readonly string[] =>
    [
      ...text(page)
        .replace(/```[\s\S]*?```|`[^`\n]*`/g, '')
        .matchAll(/\]\(([^)\s]+)\)/g),
    ]
      .map(match => match[1]!)
      .filter(link => !/^([a-z]+:|#)/.test(link))
      .map(link => normalize(join(dirname(page), link.replace(/#.*$/, ''))))

  test('every relative link leads somewhere', () => {
    const wrong = pages.flatMap(page =>
      linksOf(page)
        .filter(to => !existsSync(join(root, to)))
        .map(to => `${page} links to ${to}`),
    )
    expect(wrong).toEqual([])
  })

  test('every page of docs/ is reached from README.md', () => {
    const reached = new Set<string>()
    const todo = ['README.md']
    for (let page = todo.pop(); page !== undefined; page = todo.pop()) {
      if (reached.has(page) || !existsSync(join(root, page))) continue
      reached.add(page)
      // A link to a folder leads to its pages: that is how a forge shows it.
      if (statSync(join(root, page)).isDirectory()) todo.push(...ours(`${page.replace(/\/$/, '')}/*.md`))
      else if (page.endsWith('.md')) todo.push(...linksOf(page))
    }
    expect(pages.filter(page => page.startsWith('docs/') && !reached.has(page))).toEqual([])
  })

  test('every command and npm script that a page names exists', () => {
    const commandLine = text('meterline.ts')
    const wrong = pages.flatMap(page => {
      const code = [...text(page).matchAll(/```[\s\S]*?```|`[^`\n]*`/g)].map(match => match[0]).join('\n')
      const commands = [...code.matchAll(/(?:^|[\s`/])meterline ([a-z][a-z-]*)/gm)]
        .map(match => match[1]!)
        .filter(name => !new RegExp(`\\.command\\(\\s*['"\`]${name}\\b`).test(commandLine))
        .map(name => `${page}: meterline ${name}`)
      const npm = [...code.matchAll(/\bnpm run ([\w:-]+)/g)]
        .map(match => match[1]!)
        .filter(name => !(name in manifest.scripts))
        .map(name => `${page}: npm run ${name}`)
      return [...commands, ...npm]
    })
    expect([...new Set(wrong)]).toEqual([])
  })

  test('every npm script runs a file or a command that is there', () => {
    const files = Object.values(manifest.scripts).flatMap(script => /\S+\.ts\b/.exec(script) ?? [])
    expect(files.filter(file => !existsSync(join(root, file)))).toEqual([])
  })
})
