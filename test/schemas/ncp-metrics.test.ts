/** The CSV of Rafay's script against what Python wrote. */
import { parse } from 'csv-parse/sync'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { parseExact } from '../../schemas/json.ts'
import {
  type NcpRow,
  ncpDoneLine,
  ncpFileNames,
  printNcpCsv,
  pythonCell,
  pythonNumber,
  sortNcpRows,
} from '../../schemas/ncp-metrics.ts'
import { byCodePoint } from '../../schemas/order.ts'

/** What Python 3.11 printed for str(json.loads(text)). */
test.each([
  ['0', '0'],
  ['-0', '0'],
  ['-5', '-5'],
  ['9007199254740993', '9007199254740993'],
  ['123456789012345678901234567890', '123456789012345678901234567890'],
  ['0.0', '0.0'],
  ['-0.0', '-0.0'],
  ['0e5', '0.0'],
  ['2.0', '2.0'],
  ['2.50', '2.5'],
  ['123e-2', '1.23'],
  ['1.0E+2', '100.0'],
  ['1E5', '100000.0'],
  ['1e-07', '1e-07'],
  ['-1e-7', '-1e-07'],
  ['1e-10', '1e-10'],
  ['0.0001', '0.0001'],
  ['1e-4', '0.0001'],
  ['0.000123', '0.000123'],
  ['0.00001', '1e-05'],
  ['9.999e-5', '9.999e-05'],
  ['1e15', '1000000000000000.0'],
  ['9999999999999998.0', '9999999999999998.0'],
  ['1e16', '1e+16'],
  ['12345678901234567.0', '1.2345678901234568e+16'],
  ['100000000000000000000.5', '1e+20'],
  ['1e21', '1e+21'],
  ['1e100', '1e+100'],
  ['5e-324', '5e-324'],
  ['1.7976931348623157e308', '1.7976931348623157e+308'],
  ['1e400', 'inf'],
  ['-1e400', '-inf'],
  ['123456789.123456789', '123456789.12345679'],
  ['0.30000000000000004', '0.30000000000000004'],
  ['4503599627370497.5', '4503599627370498.0'],
  ['20.594723', '20.594723'],
])('the number %s is shown as Python shows it: %s', (text, shown) => {
  expect(pythonNumber(text)).toBe(shown)
})

test('what is shown of a float means that float', () => {
  fc.assert(
    fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), value => {
      const text = JSON.stringify(value)
      const shown = pythonNumber(text.includes('.') || text.includes('e') ? text : `${text}.0`)
      expect(Number(shown)).toBe(value === 0 ? 0 : value)
      expect(shown).toMatch(/^-?(\d+\.\d+|\d(\.\d+)?e[+-]\d{2,3})$/)
    }),
  )
})

/** What Python's csv.writer made of json.loads(text). */
test.each([
  ['null', ''],
  ['""', ''],
  ['"20.59h"', '20.59h'],
  ['true', 'True'],
  ['false', 'False'],
  ['[]', '[]'],
  ['{}', '{}'],
  ['[1, 2.0, "x", null, true]', "[1, 2.0, 'x', None, True]"],
  ['{"a": {"b": [1e-7]}}', "{'a': {'b': [1e-07]}}"],
  ['["it\'s"]', '["it\'s"]'],
  ['["\\"q\\" it\'s"]', "['\"q\" it\\'s']"],
  ['["\\n\\t\\\\"]', "['\\n\\t\\\\']"],
  ['["\\u00a0\\u200b\\ud83d\\ude00\\u00e9\\u0001"]', "['\\xa0\\u200b😀é\\x01']"],
])('the value %s is shown as Python shows it: %s', (text, shown) => {
  expect(pythonCell(parseExact(text))).toBe(shown)
})

test('texts are ordered by code point, as Python orders them', () => {
  const inPython = [
    '',
    'Demo',
    'Z',
    'a',
    'a ',
    'demo',
    'node-10',
    'node-9',
    'z',
    'Ü',
    '\ue000',
    '\ufffd',
    '\uffff',
    '𐀀',
    '😀',
  ]
  expect([...inPython].reverse().sort(byCodePoint)).toEqual(inPython)
})

test('the order is that of code points for any texts', () => {
  const points = (text: string) => [...text].map(character => character.codePointAt(0) ?? 0)
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (a, b) => {
      const [left, right] = [points(a), points(b)]
      const at = left.findIndex((point, index) => point !== right[index])
      const expected = at < 0 ? left.length - right.length : (left[at] ?? 0) - (right[at] ?? -1)
      expect(Math.sign(byCodePoint(a, b))).toBe(Math.sign(expected))
    }),
  )
})

const row = (change: Partial<NcpRow>): NcpRow => ({
  organization: 'Coke',
  profileType: 'compute',
  profile: 'vm',
  instance: 'one',
  usage: '1.0',
  status: 'running',
  ...change,
})

test('rows are sorted by their first four columns, and alike ones keep their order', () => {
  const rows = [
    row({ instance: 'node-9', usage: '1' }),
    row({ instance: 'node-10', usage: '2' }),
    row({ profileType: 'Compute', usage: '3' }),
    row({ instance: 'node-9', usage: '4' }),
    row({ organization: 'Acme', profile: 'zz', usage: '5' }),
    row({ organization: 'Acme', profile: 'b', instance: 'z', usage: '6' }),
  ]
  expect(sortNcpRows(rows).map(({ usage }) => usage)).toEqual(['6', '5', '3', '2', '1', '4'])
})

test('cells are quoted as csv.writer quotes them', () => {
  const line = (instance: string) =>
    printNcpCsv([row({ instance })], 'unpriced')
      .split('\r\n')
      .slice(1)
      .join('\r\n')
  expect(line('a,b')).toBe('Coke,compute,vm,"a,b",1.0,running\r\n')
  expect(line('say "x"')).toBe('Coke,compute,vm,"say ""x""",1.0,running\r\n')
  expect(line('line\nbreak')).toBe('Coke,compute,vm,"line\nbreak",1.0,running\r\n')
  expect(line('cr\rhere')).toBe('Coke,compute,vm,"cr\rhere",1.0,running\r\n')
  for (const plain of [' lead', 'trail ', 'tab\tx', 'semi;colon', 'é', '', "'q'"])
    expect(line(plain)).toBe(`Coke,compute,vm,${plain},1.0,running\r\n`)
})

test('what is written is read back as it was, by any reader of CSV', () => {
  const cell = fc.string({ unit: 'grapheme', maxLength: 12 })
  fc.assert(
    fc.property(fc.array(fc.tuple(cell, cell, cell, cell, cell, cell), { maxLength: 5 }), tuples => {
      const rows = tuples.map(([organization, profileType, profile, instance, usage, status]) => ({
        organization,
        profileType,
        profile,
        instance,
        usage,
        status,
      }))
      const read = parse(printNcpCsv(rows, 'unpriced'), { record_delimiter: '\r\n' }) as string[][]
      expect(read.slice(1)).toEqual(tuples)
    }),
  )
})

test('the header is that of the script; prices are two columns at the end, empty where there are none', () => {
  expect(printNcpCsv([], 'unpriced')).toBe('Organization,Profile Type,Profile,Instance,Usage(h),Status\r\n')
  expect(printNcpCsv([row({ rate: '2.99', amount: '2.99' }), row({})], 'priced')).toBe(
    'Organization,Profile Type,Profile,Instance,Usage(h),Status,Billing Rate,Billing Amount\r\n' +
      'Coke,compute,vm,one,1.0,running,2.99,2.99\r\n' +
      'Coke,compute,vm,one,1.0,running,,\r\n',
  )
})

test('the files are named by the wall clock of the zone', () => {
  const nowMs = Date.parse('2025-12-09T23:41:46.987Z')
  expect(ncpFileNames(nowMs, 'UTC')).toEqual({
    plain: 'ncp-metrics-12092025-234146.csv',
    sorted: 'ncp-metrics-sorted-12092025-234146.csv',
  })
  expect(ncpFileNames(nowMs, 'Asia/Kolkata').plain).toBe('ncp-metrics-12102025-051146.csv')
  expect(ncpDoneLine('ncp-metrics-sorted-12092025-234146.csv')).toBe(
    "Successfully sorted data and saved to 'ncp-metrics-sorted-12092025-234146.csv'.",
  )
})
