/** A price book in a file: read exactly, and every misfit with its line. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { checkBook, readBook } from '../../processor/book.ts'
import { defaultMeters } from '../../schemas/meters.ts'

const yaml = `# prices
id: neocloud
currency: USD
charges:
- id: h100
  meter: gpu_hours
  where: {gpu_type: H100}
  price: {unit: "2.990"}
`

test('YAML and JSON give the same book, prices as written', () => {
  const book = readBook(yaml, 'book.yaml')
  expect(book.charges[0]?.price).toEqual({ unit: '2.990' })
  expect(readBook(JSON.stringify(book), 'book.json')).toEqual(book)
})

test('every misfit is named with file, line and path', () => {
  const broken = yaml.replace('"2.990"', '2.990').replace('USD', 'ZZZ').replace('meter:', 'metre:')
  expect(() => readBook(broken, 'book.yaml')).toThrow(
    expect.objectContaining({
      code: 'CONFIG_INVALID',
      message: expect.stringMatching(
        /^book\.yaml:3:.*currency .*\nbook\.yaml:6:.*charges\[0\]\.metre .*\nbook\.yaml:8:.*price\.unit charge "h100": must be text: write it in quotes/s,
      ),
    }),
  )
})

test.each<[string, string, RegExp]>([
  ['a key twice', `${yaml}currency: EUR\n`, /^book\.yaml:9:/],
  ['broken YAML', 'currency: [USD', /^book\.yaml:1:/],
  ['nothing', '', /^book\.yaml:1:/],
])('%s is refused with its line', (_name, text, says) => {
  expect(() => readBook(text, 'book.yaml')).toThrow(
    expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringMatching(says) }),
  )
})

test('the sample book is refused for what is not built yet, by name', () => {
  const text = readFileSync('test/cases/pricebook.sample.yaml', 'utf8')
  expect(() => readBook(text, 'sample.yaml')).toThrow(
    /sample\.yaml:\d+:\d+ charges\[0\]\.increment charge "gpu\.h100\.od": "increment" is not built yet/,
  )
})

test('a book is held against the catalogue only where it fits by itself', () => {
  const book = readBook(yaml, 'book.yaml')
  expect(checkBook(book, defaultMeters)).toEqual([])
  expect(checkBook(book, []).map(({ message }) => message)).toEqual([
    'charge "h100": there is no meter "gpu_hours"',
  ])
  expect(checkBook({ charges: 7 }, defaultMeters)).not.toEqual([])
})
