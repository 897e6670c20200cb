/** What a schema's options are, in words: inner ones, branches, members that are all alike, ranges and defaults. */
import Type from 'typebox'
import { expect, test } from 'vitest'
import { Secret } from '../../schemas/config.ts'
import { schemaOptions, showDefault } from '../../schemas/options.ts'

const text = (description: string) => Type.String({ description })

test('each has its name, type, default and sentence; inner ones are named behind their outer ones', () => {
  const schema = Type.Object({
    url: text('Where.'),
    key: Type.Optional(Secret('Whose.')),
    size: Type.Integer({ default: 5, minimum: 1, maximum: 9, description: 'How many.' }),
    days: Type.Optional(Type.Integer({ minimum: 1, description: 'How long.' })),
    rows: Type.Array(
      Type.Object({ a: text('One.'), b: Type.Boolean({ default: false, description: 'Two.' }) }),
      {
        default: [],
        description: 'Some.',
      },
    ),
    mode: Type.Enum(['on', 'off'], { default: 'on', description: 'How.' }),
  })
  const shown = schemaOptions(schema).map(
    option => `${option.name} ${option.type} ${option.required ? 'required' : showDefault(option)}`,
  )
  expect(shown).toEqual([
    'url text required',
    'key secret ',
    'size whole number, 1 to 9 5',
    'days whole number from 1 ',
    'rows list of map ',
    'rows[].a text required',
    'rows[].b true or false false',
    'mode on | off on',
  ])
  const [, key] = schemaOptions(schema)
  expect(key).toMatchObject({ secret: true, description: expect.stringContaining('Whose.') })
})

test('of one that may be several the members of each are there, each name once', () => {
  const schema = Type.Object({
    auth: Type.Union(
      [
        Type.Object({ kind: Type.Literal('basic'), user: text('Who.') }),
        Type.Object({ kind: Type.Literal('token'), token: Secret('What.') }),
      ],
      { description: 'How to log in.' },
    ),
  })
  expect(schemaOptions(schema).map(({ name }) => name)).toEqual([
    'auth',
    'auth.kind',
    'auth.user',
    'auth.token',
  ])
})

test('of many members that are alike one stands for all; those that differ stand for themselves', () => {
  const alike = Type.Object({ a: text('Same.'), b: text('Same.'), c: text('Same.') }, { description: 'All.' })
  const other = Type.Object({ a: text('Same.'), b: text('Same.'), c: text('Not.') }, { description: 'All.' })
  const options = schemaOptions(Type.Object({ alike, other }))
  expect(options.map(({ name, type }) => `${name} ${type}`)).toEqual([
    'alike map of a | b | c',
    'alike.* text',
    'other map',
    'other.a text',
    'other.b text',
    'other.c text',
  ])
})
