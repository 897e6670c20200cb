/** Checks name what does not fit by a JSON pointer, and fill in defaults. */
import fc from 'fast-check'
import Type from 'typebox'
import { describe, expect, test } from 'vitest'
import { fits, misfits, pointerPart, validator } from '../../schemas/check.ts'

const Instance = Type.Object(
  {
    id: Type.String({ minLength: 1 }),
    kind: Type.Enum(['pod', 'vm'] as const),
    version: Type.Literal('1'),
    count: Type.Integer({ minimum: 0, default: 7 }),
    labels: Type.Optional(Type.Record(Type.String(), Type.String())),
  },
  { additionalProperties: false },
)
const good = { id: 'a', kind: 'vm', version: '1', count: 1 }

describe('misfits', () => {
  test.each([
    ['a missing member', { id: undefined }, '/id', 'is missing'],
    ['an unknown member', { extra: 1 }, '/extra', 'is not known here'],
    ['an unknown member of an odd name', { 'a/b~c': 1 }, '/a~1b~0c', 'is not known here'],
    ['a word that is none of the list', { kind: 'disk' }, '/kind', 'must be one of ["pod","vm"]'],
    ['another constant', { version: '2' }, '/version', 'must be "1"'],
    ['another type', { count: '1' }, '/count', 'must be integer'],
    ['a value inside', { labels: { x: 1 } }, '/labels/x', 'must be string'],
  ])('%s is named with its path', (_, change, path, message) => {
    const value = JSON.parse(JSON.stringify({ ...good, ...change }))
    expect(misfits(Instance, value)).toEqual([{ path, message }])
    expect(fits(Instance, value)).toBe(false)
  })

  test('all of them are named, not the first alone', () => {
    const paths = misfits(Instance, { kind: 'x', version: '2', more: 1, count: -1 }).map(
      misfit => misfit.path,
    )
    expect(paths.sort()).toEqual(['/count', '/id', '/kind', '/more', '/version'])
  })

  test('what fits has none, and gets the defaults', () => {
    const value: Record<string, unknown> = { id: 'a', kind: 'pod', version: '1' }
    expect(misfits(Instance, value)).toEqual([])
    expect(value.count).toBe(7)
  })

  test('no value makes a check throw, and both ways of asking agree', () => {
    fc.assert(
      fc.property(fc.jsonValue(), value => {
        expect(misfits(Instance, structuredClone(value)).length === 0).toBe(
          fits(Instance, structuredClone(value)),
        )
      }),
    )
  })

  test('a schema is compiled once', () => {
    expect(validator(Instance)).toBe(validator(Instance))
  })

  test('the names in a path can be told apart', () => {
    fc.assert(
      fc.property(fc.string(), name => {
        const part = pointerPart(name)
        expect(part).not.toContain('/')
        expect(part.replaceAll('~1', '/').replaceAll('~0', '~')).toBe(name)
      }),
    )
  })
})
