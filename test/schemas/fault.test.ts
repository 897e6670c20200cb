/** Faults: one table, and errors that carry their code, their fate and their facts. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { asFault, describeFault, Fault, type FaultCode, faults } from '../../schemas/fault.ts'

const codes = Object.keys(faults) as FaultCode[]

describe('the table', () => {
  test.each(codes)('%s has a fate, and says what it is and what to do in sentences', code => {
    const { fate, meaning, remedy } = faults[code]
    expect(['retry', 'reject', 'halt']).toContain(fate)
    expect(meaning).toMatch(/^[A-Z].*\.$/)
    expect(remedy).toMatch(/^[A-Za-z`].*\.$/)
    expect(code).toMatch(/^[A-Z]+(_[A-Z]+)*$/)
  })

  test('no two codes mean the same', () => {
    expect(new Set(codes.map(code => faults[code].meaning)).size).toBe(codes.length)
  })
})

describe('a fault', () => {
  test('is an error with its code, its fate from the table, its facts and its cause', () => {
    const cause = new Error('socket hang up')
    const fault = new Fault('SOURCE_BUSY', 'the provider answered 503', { status: 503 }, { cause })
    expect(fault).toBeInstanceOf(Error)
    expect(fault).toMatchObject({
      name: 'Fault',
      code: 'SOURCE_BUSY',
      fate: 'retry',
      facts: { status: 503 },
      cause,
    })
    expect(fault.stack).toContain('the provider answered 503')
  })

  test('is told in one line, without the facts that are not there', () => {
    const fault = new Fault('EVENT_INVALID', 'id is missing', {
      attribute: 'id',
      index: 0,
      flag: false,
      a: null,
      b: undefined,
    })
    expect(describeFault(fault)).toBe('EVENT_INVALID id is missing (attribute=id index=0 flag=false)')
    expect(describeFault(new Fault('USAGE', 'no such option'))).toBe('USAGE no such option')
  })

  test('stays itself, and anything else that is thrown becomes one with its words', () => {
    const fault = new Fault('USAGE', 'no')
    expect(asFault(fault, 'ABORTED')).toBe(fault)
    fc.assert(
      fc.property(fc.anything(), fc.constantFrom(...codes), (thrown, code) => {
        const made = asFault(thrown, code, { source: 's' })
        expect(made).toBeInstanceOf(Fault)
        expect(made).toMatchObject({ code, facts: { source: 's' } })
        expect(made.cause).toBe(thrown)
      }),
    )
    expect(asFault(Object.create(null), 'ABORTED').message).toBe('a thrown object that has no text')
    expect(asFault(new TypeError('x is not a function'), 'ABORTED').message).toBe('x is not a function')
  })
})
