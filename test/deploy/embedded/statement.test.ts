/** What the embedded server reads in a statement. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { readStatement } from '../../../deploy/embedded/statement.ts'

describe('readStatement', () => {
  test('names the verb and the format, past comments, quotes and brackets', () => {
    const cases: ReadonlyArray<readonly [string, string, string | undefined]> = [
      ['select 1', 'select', undefined],
      ['  -- why\n/* who */ SELECT 1 FORMAT JSONEachRow', 'select', 'JSONEachRow'],
      ['select 1 format CSV settings max_threads = 1;', 'select', 'CSV'],
      [`select ' format A', "format B", \`format C\` from t`, 'select', undefined],
      [`select 'it''s \\' format X' format TSV`, 'select', 'TSV'],
      ['select $x$ format A ; $x$ format TSV', 'select', 'TSV'],
      [`select format('{}', 1) from (select 1 format Null)`, 'select', undefined],
      ['with x as (select 1) select * from x', 'with', undefined],
      ['(select 1) union all (select 2) format CSV', 'select', 'CSV'],
      ['', '', undefined],
      [' -- nothing', '', undefined],
    ]
    for (const [sql, verb, format] of cases) {
      const statement = readStatement(sql)
      expect([statement.verb, statement.format], sql).toEqual([verb, format])
      expect(statement.several, sql).toBe(false)
    }
  })

  test('expects rows after an insert that ends in a format or in values, and not otherwise', () => {
    const takes = [
      'INSERT INTO t FORMAT JSONEachRow',
      'insert into `format` (a, b) settings async_insert = 1 format CSV\n',
      'insert into t (a) values',
      'insert into t values;\n',
    ]
    const takesNot = [
      'insert into t select 1',
      'insert into t values (1)',
      'insert into t format JSONEachRow {"a":1}',
      'insert into t select * from values(1, 2)',
      'select 1 format JSONEachRow',
    ]
    for (const sql of takes) expect(readStatement(sql).takesData, sql).toBe(true)
    expect(readStatement('insert into t format CSV ;').text).toBe('insert into t format CSV')
    for (const sql of takesNot) expect(readStatement(sql).takesData, sql).toBe(false)
  })

  test('finds a second statement, but none in quotes, comments or rows', () => {
    expect(readStatement('select 1; select 2').several).toBe(true)
    expect(readStatement('select 1;; -- end').several).toBe(true)
    expect(readStatement('select 1; -- end').several).toBe(false)
    expect(readStatement(`insert into t values ('a;b'); (2)`).several).toBe(false)
    expect(readStatement('insert into t format TSV\na;b\n').several).toBe(false)
    expect(readStatement('select 1;').text).toBe('select 1')
  })

  test('no quoted text changes what is read around it', () => {
    fc.assert(
      fc.property(fc.string(), text => {
        const quoted = `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
        const statement = readStatement(`select ${quoted} as x from t format CSV`)
        expect(statement).toMatchObject({ verb: 'select', format: 'CSV', several: false })
      }),
    )
  })
})
