/** A price book in a file: read exactly, and every misfit with its line. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { parseBook, readBook } from '../../processor/book.ts'
import { Fault } from '../../schemas/fault.ts'

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
        /book\.yaml:3 \/currency .*book\.yaml:6 \/charges\/0\/metre .*book\.yaml:8 \/charges\/0\/price\/unit charge "h100": must be text: write it in quotes/,
      ),
    }),
  )
})

test.each<[string, string, number]>([
  ['a key twice', `${yaml}currency: EUR\n`, 9],
  ['broken YAML', 'currency: [USD', 1],
  ['nothing', '', 1],
])('%s is a misfit with its line', (_name, text, line) => {
  const parsed = parseBook(text)
  expect('misfits' in parsed && parsed.misfits[0]?.line).toBe(line)
  expect(() => readBook(text, 'book.yaml')).toThrow(Fault)
})

test('the sample book is refused for what is not built yet, by name', () => {
  const parsed = parseBook(readFileSync('test/cases/pricebook.sample.yaml', 'utf8'))
  const says = 'misfits' in parsed ? parsed.misfits.map(({ line, message }) => `${line} ${message}`) : []
  expect(says).toContain('12 charge "gpu.h100.od": "increment" is not built yet')
})
