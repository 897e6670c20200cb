/** Secrets: where they come from, that they are read anew, and that no failure shows one. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { readSecret, secretFileOf } from '../../runtime/secrets.ts'
import { faultOf } from '../faults.ts'

const dir = mkdtempSync(join(tmpdir(), 'meterline-secrets-'))
afterAll(() => rmSync(dir, { recursive: true }))
const put = (name: string, text: string | Buffer): string => {
  writeFileSync(join(dir, name), text)
  return join(dir, name)
}
const option = 'sources[0].apiKey'

describe('a secret', () => {
  test('comes from the environment', () => {
    expect(readSecret('${env:RAFAY_KEY}', { env: { RAFAY_KEY: 's3cret\n' }, option })).toBe('s3cret\n')
  })

  test.each([
    ['a newline at its end is not part of it', 'abc\n', 'abc'],
    ['nor one of Windows', 'abc\r\n', 'abc'],
    ['only one is left out', 'abc\n\n', 'abc\n'],
    ['spaces are part of it', ' a b \n', ' a b '],
  ])('comes from a file: %s', (_, text, secret) => {
    const file = put('key', text)
    for (const reference of [`\${file:${file}}`, `file:${file}`])
      expect(readSecret(reference, { env: {}, option })).toBe(secret)
  })

  test('that is rotated counts at the next call', () => {
    const reference = `file:${put('rotated', 'one')}`
    expect(readSecret(reference, { env: {}, option })).toBe('one')
    put('rotated', 'two')
    expect(readSecret(reference, { env: {}, option })).toBe('two')
  })

  test('may stand in the config itself only where that is allowed', () => {
    expect(readSecret('hunter2', { env: {}, option, literal: 'allowed' })).toBe('hunter2')
    const fault = faultOf(() => readSecret('hunter2', { env: {}, option }))
    expect(fault).toMatchObject({ code: 'SECRET_MISSING', fate: 'halt', facts: { option } })
    expect(JSON.stringify([fault.message, fault.facts])).not.toContain('hunter2')
    expect(faultOf(() => readSecret('', { env: {}, option, literal: 'allowed' })).code).toBe('SECRET_MISSING')
  })

  test.each([
    ['a variable that is not set', '${env:NOT_SET}', 'is not set'],
    ['a variable that is empty', '${env:EMPTY}', 'is empty'],
    ['a file that is not there', `file:${dir}/none`, 'ENOENT'],
    ['a directory', `file:${dir}`, 'EISDIR'],
    ['an empty file', `file:${put('empty', '')}`, 'is empty'],
    ['a file with a newline alone', `file:${put('newline', '\n')}`, 'is empty'],
    ['a file without end', 'file:/dev/zero', 'is larger than 65536 bytes'],
  ])('%s is a fault that names the reference and the option', (_, reference, why) => {
    const fault = faultOf(() => readSecret(reference, { env: { EMPTY: '' }, option }))
    expect(fault).toMatchObject({ code: 'SECRET_MISSING', facts: { option, reference } })
    expect(fault.message).toContain(`${option}: ${reference}`)
    expect(fault.message).toContain(why)
  })

  test.each([
    ['${env:1X}'],
    ['${env:A B}'],
    ['$RAFAY_KEY'],
    ['${RAFAY_KEY}'],
    ['x${env:HOME}'],
    ['${env:HOME}x'],
  ])('%s is no reference', reference => {
    expect(
      faultOf(() => readSecret(reference, { env: { HOME: '/root', A: 'x' }, option })).message,
    ).toContain('is no reference')
  })

  test('a reference to a file tells the file', () => {
    expect(secretFileOf('file:/run/secrets/key')).toBe('/run/secrets/key')
    expect(secretFileOf('${file:keys/a}')).toBe('keys/a')
    expect(secretFileOf('${env:FILE}')).toBeUndefined()
    expect(secretFileOf('text')).toBeUndefined()
  })
})
