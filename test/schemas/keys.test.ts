/** Patterns of keys, and the rule of what a key may write where the walk of test/runtime/log/ingest.keys.test.ts does not go. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { CloudEvent } from '../../schemas/cloudevents.ts'
import { type Grant, keyless, matches, mayWrite } from '../../schemas/keys.ts'

describe('a pattern', () => {
  test.each([
    ['a', 'a', true],
    ['a', 'A', false],
    ['a', 'ab', false],
    ['', '', true],
    ['*', '', true],
    ['*', 'anything at all\n', true],
    ['a*', 'a', true],
    ['a*', 'ba', false],
    ['*a', 'aba', true],
    ['a*b*c', 'a-b-b-c', true],
    ['a*b*c', 'a-c-b', false],
    ['https://x.example/*', 'https://x.example/', true],
    ['https://x.example/*', 'https://x.example.evil/', false],
    ['acme.*', 'acmeX', false],
    ['a**b', 'ab', true],
    ['[a-z]', 'b', false],
  ])('%j and %j: %j', (pattern, text, expected) => {
    expect(matches(pattern, text)).toBe(expected)
  })

  test('matches what a regular expression would, for every text', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', '.', '*'), maxLength: 12 })
    fc.assert(
      fc.property(letters, letters, (pattern, text) => {
        const parts = pattern.split('*').map(part => part.replaceAll('.', '\\.'))
        expect(matches(pattern, text)).toBe(new RegExp(`^${parts.join('[^]*')}$`).test(text))
      }),
      { numRuns: 3000 },
    )
  })

  test('takes no longer for one that is made to take long', () => {
    const startedMs = performance.now()
    expect(matches(`${'*a'.repeat(500)}b`, 'a'.repeat(2000))).toBe(false)
    expect(performance.now() - startedMs).toBeLessThan(1000)
  })
})

describe('what a key may write', () => {
  const event = (change: Record<string, unknown>): CloudEvent => ({
    ...{ specversion: '1.0', id: '1', source: 'urn:app', type: 'call', subject: 'acme' },
    ...change,
  })
  const anything = fc.record({
    name: fc.constant('k'),
    scopes: fc.subarray(['ingest', 'amend'] as const),
    sources: fc.array(fc.constantFrom('*', 'urn:app', 'meterline/*', 'm*', 'meterline/rafay/prod')),
    subjects: fc.array(fc.constantFrom('*', 'acme')),
  })
  const types = fc.constantFrom(
    'call',
    'io.meterline.pushed.v1',
    'io.meterline.amendment.v1',
    'io.meterline.read.v1',
    'io.meterline.decision.v1',
    'io.meterline.refusal.v1',
    'io.meterline.replay.v1',
    'io.meterline.rafay.instance.v1',
  )

  test('no pattern opens a source of Meterline, nor a type of its own but those for pushers', () => {
    fc.assert(
      fc.property(anything, types, fc.string(), (grant: Grant, type, rest) => {
        const own = mayWrite(grant, event({ source: `meterline/${rest}`, type }))
        expect(own?.code).toBe('SOURCE_RESERVED')
        const amended = { source: `meterline/${rest}`, id: '1', action: 'void', reason: 'x' }
        const amends = event({ type: 'io.meterline.amendment.v1', data: amended })
        expect(mayWrite(grant, amends)).toBeDefined()
        const forPushers = ['call', 'io.meterline.pushed.v1', 'io.meterline.amendment.v1']
        if (!forPushers.includes(type)) expect(mayWrite(grant, event({ type }))?.code).toBe('SOURCE_RESERVED')
      }),
    )
  })

  test('a grant of nothing writes nothing; without a key nothing is amended', () => {
    const nothing: Grant = { name: 'k', scopes: ['ingest', 'amend'], sources: [], subjects: [] }
    expect(mayWrite(nothing, event({}))?.code).toBe('KEY_FORBIDS')
    const amends = event({
      type: 'io.meterline.amendment.v1',
      data: { source: 'urn:app', id: '1', action: 'void' },
    })
    expect(mayWrite(keyless, amends)?.code).toBe('KEY_FORBIDS')
    expect(mayWrite(keyless, event({}))).toBeUndefined()
  })
})
