/** Paths of meters: what they are, and what stands there. */
import { expect, test } from 'vitest'
import { parsePath, valueAt } from '../../schemas/paths.ts'

test.each([
  ['$.a', ['a']],
  ['$.a.b_2', ['a', 'b_2']],
  ['$.a[0].b', ['a', 0, 'b']],
  ["$['x y']", ['x y']],
  ['$["x y"][12]', ['x y', 12]],
  [String.raw`$['it\'s']['back\\slash']`, ["it's", 'back\\slash']],
  ['$.a-b', ['a-b']],
])('%s names a place', (text, steps) => {
  expect(parsePath(text)).toEqual({ kind: 'data', steps })
})

test('what does not begin with $ is a name', () => {
  expect(parsePath('gpu type')).toEqual({ kind: 'name', name: 'gpu type' })
})

test.each([
  '$',
  '$.',
  '$..a',
  '$.*',
  '$.a[*]',
  '$.a[1:2]',
  '$.a[?(@.b)]',
  "$['a",
  '$.a[01]',
  '$.a[-1]',
  '$a',
  '$.a b',
])('%s is an error that names it', text => {
  expect(() => parsePath(text)).toThrow(`the path ${text} is not one`)
})

test('a list is walked by places and an object by keys, never the other way round', () => {
  const data = { a: [{ b: 1 }], o: { 0: 'zero', k: null }, text: 'abc' }
  const at = (text: string) => {
    const path = parsePath(text)
    return path.kind === 'data' ? valueAt(data, path.steps) : 'a name'
  }
  expect(at('$.a[0].b')).toBe(1)
  expect(at('$.o[0]')).toBeUndefined()
  expect(at("$.o['0']")).toBe('zero')
  expect(at("$.a['0']")).toBeUndefined()
  expect(at('$.o.k')).toBeNull()
  expect(at('$.o.k.x')).toBeUndefined()
  expect(at('$.text[0]')).toBeUndefined()
  expect(at('$.constructor')).toBeUndefined()
})
