/** The JSON of the API server, without what is of no use here: nothing secret stays, and no number is rounded. */
import { expect, test } from 'vitest'
import { nanoOf } from '../../../../collector/quantity.ts'
import { parseLean } from '../../../../collector/sources/kubernetes/lean.ts'
import { JsonNumber } from '../../../../schemas/json.ts'

test('nothing of an environment is kept, and of managedFields the times alone', () => {
  const text = JSON.stringify({
    metadata: {
      name: 'p',
      managedFields: [{ manager: 'm', time: '2026-02-12T08:00:00Z', fieldsV1: { a: {} } }],
    },
    spec: {
      containers: [{ name: 'main', env: [{ name: 'PASSWORD', value: 'hunter2' }], args: ['--key=x'] }],
    },
  })
  expect(parseLean(text)).toEqual({
    metadata: { name: 'p', managedFields: [{ time: '2026-02-12T08:00:00Z' }] },
    spec: { containers: [{ name: 'main' }] },
  })
})

test('a number is exact, or is none', () => {
  const numbers = parseLean('[0, 30, -1, 9007199254740991, 9007199254740993, 0.1]') as JsonNumber[]
  expect(numbers.map(({ text }) => text)).toEqual(['0', '30', '-1', '9007199254740991', 'NaN', 'NaN'])
  expect(numbers[0]).toBeInstanceOf(JsonNumber)
  expect(nanoOf('NaN')).toBeUndefined()
})

test('a label of an odd name is a label', () => {
  const read = parseLean('{"__proto__": {"a": 1}, "constructor": "x"}')
  expect(Object.keys(read as object)).toEqual(['constructor'])
})
