/** The order of texts is that of their code points. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { byCodePoint } from '../../schemas/order.ts'

test('texts are ordered as their UTF-8 bytes are', () => {
  // Letters from both sides of the surrogates, where UTF-16 units and code points differ.
  const text = fc.string({
    unit: fc.constantFrom('a', 'Z', '-', 'Ü', '\ud7ff', '\ue000', '\uffff', '\u{10000}', '\u{10ffff}'),
    maxLength: 4,
  })
  fc.assert(
    fc.property(text, text, (a, b) => {
      expect(Math.sign(byCodePoint(a, b))).toBe(Buffer.compare(Buffer.from(a), Buffer.from(b)))
    }),
    { numRuns: 1000 },
  )
})

test('capitals come before small letters and node-10 before node-9', () => {
  expect(['node-9', 'demo', 'node-10', 'Demo', ''].sort(byCodePoint)).toEqual([
    '',
    'Demo',
    'demo',
    'node-10',
    'node-9',
  ])
})
