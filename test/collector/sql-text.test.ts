/** Placeholders in SQL: found in code alone, wherever strings, names and comments begin and end. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { bindPlaceholders, type Dialect, placeIn } from '../../collector/sql-text.ts'
import { faultOf } from '../faults.ts'

const bind = (sql: string, dialect: Dialect = 'postgresql') =>
  bindPlaceholders(sql, dialect, name => `<${name}>`).text

test.each([
  ['select :start', 'select <start>'],
  ['select x::start, y :: end', 'select x::start, y :: end'],
  ["select ':start' || :start", "select ':start' || <start>"],
  ["select 'it''s :start' || :end", "select 'it''s :start' || <end>"],
  ["select 'a\\' || :start || '\\'", "select 'a\\' || <start> || '\\'"],
  ["select E'a\\' :start' || :end", "select E'a\\' :start' || <end>"],
  ["select name'\\' || :start", "select name'\\' || <start>"],
  ['select ":start" || :end', 'select ":start" || <end>'],
  ['select 1 -- :start\n, :end', 'select 1 -- :start\n, <end>'],
  ['select /* :start /* nested */ :start */ :end', 'select /* :start /* nested */ :start */ <end>'],
  ['select $$:start$$, $a$ $$ :start $a$, :end', 'select $$:start$$, $a$ $$ :start $a$, <end>'],
  ['select a$b$ :start', 'select a$b$ <start>'],
  ['select :started, :end_at, :end2', 'select :started, :end_at, :end2'],
  ['select :start::date, (:end)', 'select <start>::date, (<end>)'],
  ['select 1;  -- done', 'select 1'],
  ['  (select :start)', '  (select <start>)'],
  ["WITH x AS (select ':end') select :start", "WITH x AS (select ':end') select <start>"],
])('PostgreSQL: %s', (sql, bound) => {
  expect(bind(sql)).toBe(bound)
})

test.each([
  ["select 'a\\' :start' || :end", "select 'a\\' :start' || <end>"],
  ['select `:start`, ":end", :end', 'select `:start`, ":end", <end>'],
  ['select /* /* :start */ :end', 'select /* /* :start */ <end>'],
  ['select 1 # :start\n, :end #! :end', 'select 1 # :start\n, <end> #! :end'],
  ['select $x$ :start $x$, :end', 'select $x$ :start $x$, <end>'],
  ['select a ? b : start', 'select a ? b : start'],
  ['select {start:UInt8}, x::UInt8, :start', 'select {start:UInt8}, x::UInt8, <start>'],
])('ClickHouse: %s', (sql, bound) => {
  expect(bind(sql, 'clickhouse')).toBe(bound)
})

test.each([
  ['select 5--1, :start -- :end', 'select 5--1, <start> -- :end'],
  ['select 1 #:start\n, :end', 'select 1 #:start\n, <end>'],
  ["select `:start`, 'it\\'s :end', $x$, :end, '$x$'", "select `:start`, 'it\\'s :end', $x$, <end>, '$x$'"],
])('MySQL: %s', (sql, bound) => {
  expect(bind(sql, 'mysql')).toBe(bound)
})

test.each([
  ["select 'a", /' at line 1, column 8 has no end/],
  ['select\n  $x$ $$', /\$x\$ at line 2, column 3 has no end/],
  ['select /* /* */', /\/\* at line 1, column 8 has no end/],
  ['select 1; select 2', /line 1, column 11 begins another/],
  ['select 1;;', /begins another/],
  ['-- nothing', /no SELECT/],
  ['/* select */ delete from x', /no SELECT/],
  ['insert into x select 1', /no SELECT/],
])('%s is refused', (sql, why) => {
  const fault = faultOf(() => bind(sql))
  expect(fault.code).toBe('CONFIG_INVALID')
  expect(fault.message).toMatch(why)
})

test('pieces in any order: placeholders are found in code, nowhere else, and lead back to where they stood', () => {
  const word = fc.constantFrom('start', 'end', 'after', 'limit')
  const code = word.map(name => ({ text: `:${name}`, bound: `<${name}>` }))
  const inert = (text: string) => ({ text, bound: text })
  const hidden = fc
    .tuple(word, fc.constantFrom('', ' x ', '\n', '"', '--', '/', '😀', ';'))
    .map(([a, b]) => `:${a}${b}`)
  const quoted = fc.oneof(
    hidden.map(text => inert(`'${text}'''`)),
    hidden.map(text => inert(`"${text.replaceAll('"', '""')}"`)),
    hidden.map(text => inert(`$q$${text}$q$`)),
    hidden.map(text => inert(`/*${text} /*${text} */ */`)),
    hidden.map(text => inert(`-- ${text.replaceAll('\n', ' ')}\n`)),
    fc.constantFrom('x::start', 'é', '😀', '1.5e3', 'a:b', ', ', '\n', '(').map(inert),
  )
  fc.assert(
    fc.property(fc.array(fc.oneof(code, quoted), { maxLength: 20 }), pieces => {
      const sql = `select ${pieces.map(piece => piece.text).join(' ')}`
      const bound = bindPlaceholders(sql, 'postgresql', name => `<${name}>`)
      expect(bound.text).toBe(`select ${pieces.map(piece => piece.bound).join(' ')}`)
      let origin = 'select '.length
      let at = origin
      for (const piece of pieces) {
        expect(bound.originOf(at)).toBe(origin)
        expect(placeIn(sql, bound.originOf(at))).toBe(placeIn(sql, origin))
        if (piece.text === piece.bound)
          expect(bound.originOf(at + piece.text.length - 1)).toBe(origin + piece.text.length - 1)
        origin += piece.text.length + 1
        at += piece.bound.length + 1
      }
    }),
    { numRuns: 500 },
  )
})
