/** The page of guarantees keeps its word: each names tests, every test named is there, and so is every planted fault. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { mutated, mutations } from './simulation/mutations.ts'

const root = join(import.meta.dirname, '..')
const text = (file: string): string => readFileSync(join(root, file), 'utf8')
const page = text('docs/guarantees.md')

/** The promises and their guarantees, each with the tests that it names. */
const guarantees = page
  .split(/^## /m)
  .filter(section => /^\d\. /.test(section))
  .flatMap(section => {
    const promise = section.split('\n')[0] ?? ''
    return section
      .split(/^- /m)
      .slice(1)
      .map(guarantee => ({ promise, guarantee: guarantee.split('\n')[0] ?? '', tests: testsIn(guarantee) }))
  })

function testsIn(guarantee: string): readonly { readonly file: string; readonly title: string }[] {
  return [...guarantee.matchAll(/`(test\/[^`]+\.ts)`: "([^"]+)"/g)].map(([, file, title]) => ({
    file: file!,
    title: title!,
  }))
}

/** Is this the title of a test there: a text behind `test(` or `test.each(…)(`? */
function hasTest(file: string, title: string): boolean {
  if (!existsSync(join(root, file))) return false
  const escaped = title.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  return new RegExp(`\\btest(\\.each\\([\\s\\S]{0,400}?\\))?\\(\\s*(['"\`])${escaped}\\2`).test(text(file))
}

test('all five promises are there, and every guarantee names a test', () => {
  expect([...new Set(guarantees.map(({ promise }) => promise))]).toEqual([
    '1. Nothing lost, nothing twice',
    '2. Gaps are known',
    '3. Exact',
    '4. Closed stays closed',
    '5. One process or a fleet',
  ])
  expect(guarantees.filter(({ tests }) => tests.length === 0)).toEqual([])
})

test('every test that it names is there, in the file that it names', () => {
  const missing = guarantees
    .flatMap(({ tests }) => tests)
    .filter(({ file, title }) => !hasTest(file, title))
    .map(({ file, title }) => `${file}: ${title}`)
  expect(missing).toEqual([])
})

test('no test is named that is not: the check finds nothing in a title that nobody wrote', () => {
  expect(hasTest('test/processor/ledger.test.ts', 'a title that nobody wrote')).toBe(false)
  expect(hasTest('test/nowhere.test.ts', 'an older read that arrives late does not win')).toBe(false)
})

test('its table of planted faults is the one that is run, and each still fits the code', () => {
  const rows = [...page.matchAll(/^\| (?!Planted|---)(.+) \| "(.+)" \|$/gm)].map(([, breaks, title]) => ({
    breaks,
    title,
  }))
  expect(rows).toEqual(mutations.map(({ breaks, test: { title } }) => ({ breaks, title })))
  for (const mutation of mutations) {
    const before = text(mutation.file)
    expect(mutated(before, mutation)).not.toBe(before)
  }
})
