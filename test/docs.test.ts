/** The reference is that of the code, every option says what it is, and every fault can happen. */
import { globSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Ajv } from 'ajv'
import addFormats from 'ajv-formats'
import type { TSchema } from 'typebox'
import { describe, expect, test } from 'vitest'
import { sources } from '../collector/sources/list.ts'
import { referencePages } from '../docs/generate.ts'
import { AccountsFile } from '../schemas/accounts.ts'
import { Config } from '../schemas/config.ts'
import { MarkEvent, ReadingEvent } from '../schemas/event.ts'
import { faults } from '../schemas/fault.ts'
import { CatalogueFile } from '../schemas/meters.ts'

const root = join(import.meta.dirname, '..')
const reference = join(root, 'docs/reference')
const pages = referencePages()

describe('docs/reference', () => {
  test.each(Object.keys(pages))('%s is what `npm run docs` writes', name => {
    expect(readFileSync(join(reference, name), 'utf8')).toBe(pages[name])
  })

  test('names every fault, every option, every measure and every kind of source', () => {
    for (const code of Object.keys(faults)) expect(pages['faults.md']).toContain(`| ${code} |`)
    for (const { kind } of sources) expect(pages['sources.md']).toContain(`## ${kind}\n`)
    expect(pages['config.md']).toContain('| `kafka.sasl.password` | secret | required |')
    expect(pages['config.md']).toContain('| `outbox.maxBytes` | whole number from 1048576 | `2147483648` |')
    expect(pages['config.md']).toContain('| `accounts[].subjects[].from` | text |  |')
    expect(pages['measures.md']).toContain('| `gpu_seconds` | GPU.s |')
  })

  test('holds no page that somebody else must keep up', () => {
    const kept = readdirSync(reference).filter(name => !(name in pages))
    for (const name of kept)
      expect(readFileSync(join(reference, name), 'utf8')).not.toContain('docs/generate.ts')
  })
})

describe('the schema for editors', () => {
  const ajv = new Ajv({ allErrors: true, strict: true, allowUnionTypes: true })
  ;(addFormats as unknown as (instance: Ajv) => void)(ajv)
  const schema = JSON.parse(pages['config.schema.json'] ?? '')
  const fits = ajv.compile(schema)

  test('takes a file that leaves out what has a default', () => {
    expect(fits({})).toBe(true)
    expect(fits({ kafka: { brokers: ['a:1'] }, outbox: {}, listen: { port: 1 } })).toBe(true)
  })

  test.each([
    ['an unknown option', { outboks: {} }],
    ['a wrong type', { listen: { port: 'http' } }],
    ['a missing member', { kafka: {} }],
    ['an unknown kind of source', { sources: [{ kind: 'nothing', name: 'a' }] }],
    ['an unknown option of a source', { sources: [{ kind: sources[0]?.kind, name: 'a', nothing: 1 }] }],
  ])('refuses %s', (_, value) => {
    expect(fits(value)).toBe(false)
  })

  test('is plain JSON Schema, without our own words', () => {
    expect(pages['config.schema.json']).not.toMatch(/"(secret|file)":/)
  })
})

describe('what a schema says of itself', () => {
  interface SchemaNode {
    readonly description?: string
    readonly properties?: Readonly<Record<string, SchemaNode>>
    readonly items?: SchemaNode
  }
  const schemas: Readonly<Record<string, TSchema>> = {
    config: Config,
    accounts: AccountsFile,
    catalogue: CatalogueFile,
    reading: ReadingEvent,
    mark: MarkEvent,
    ...Object.fromEntries(sources.map(({ kind, config }) => [`source ${kind}`, config])),
  }

  test.each(Object.keys(schemas))('every member of %s has its sentence', name => {
    const silent: string[] = []
    const walk = (node: SchemaNode, path: string): void => {
      for (const [member, inner] of Object.entries(node.properties ?? {})) {
        const at = `${path}.${member}`
        // The measures have theirs in the table of measures; what a kind is called needs none.
        const elsewhere = (at.includes('.measures.') && name === 'reading') || member === 'kind'
        if (!elsewhere && !/^\S.*[.…]$/.test(inner.description ?? '')) silent.push(at)
        walk(inner, at)
      }
      if (node.items) walk(node.items, `${path}[]`)
    }
    walk(schemas[name] as SchemaNode, name)
    expect(silent).toEqual([])
  })
})

describe('faults', () => {
  const code = globSync('{meterline.ts,{schemas,runtime,collector,processor,deploy}/**/*.ts}', { cwd: root })
    .filter(file => file !== join('schemas', 'fault.ts'))
    .map(file => readFileSync(join(root, file), 'utf8'))
    .join('\n')

  test.each(Object.keys(faults))('%s of the table can happen: the code names it', fault => {
    expect(code).toContain(`'${fault}'`)
  })

  test('that the code names are all in the table', () => {
    const named = [...code.matchAll(/(?:new Fault|asFault)\(\s*(?:[^'()]*,\s*)?'([A-Z_]+)'/g)].map(
      ([, name]) => name,
    )
    expect(named.length).toBeGreaterThan(20)
    expect(named.filter(name => name === undefined || !(name in faults))).toEqual([])
  })
})
