/** What is pushed against what meters look for in it: a number within bounds, or nothing. */
import { describe, expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import { valueCheck } from '../../processor/values.ts'
import type { Meter } from '../../schemas/meters.ts'
import { type AmendmentEvent, amendmentType, sealAbout } from '../../schemas/pushed.ts'
import { headers } from '../reads.ts'

const tokens: Meter = {
  slug: 'tokens',
  eventTypes: ['call'],
  aggregation: 'SUM',
  value: '$.use.tokens',
  groupBy: { model: '$.model' },
  filter: { model: { $nlike: 'test-%' } },
  unit: 'token',
}
const checkValues = valueCheck([
  tokens,
  { ...tokens, slug: 'calls', aggregation: 'UNIQUE_COUNT', value: '$.name' },
])
const appendedMs = Date.UTC(2025, 5, 1, 12)

/** What becomes of a message: its reject as code and reason, else nothing. */
function taken(text: string): string | undefined {
  const message = { offset: 0n, key: null, value: Buffer.from(text), headers, appendedMs }
  const { rejects } = accept({ partition: 0, messages: [message] }, 'log', { checkValues })
  return rejects[0] && `${rejects[0].code} ${rejects[0].reason}`
}

function event(data: string, type = 'call'): string {
  return `{"specversion":"1.0","id":"1","source":"urn:app","type":"${type}","subject":"acme","time":"2025-06-01T08:00:00Z","data":${data}}`
}

describe('a pushed event that a meter counts', () => {
  test.each(['1e-7', '1E3', '-0', '123456789012345678901234.123456789012', '"0.5"', '"1e3"', '0', 'null'])(
    'is taken with %s',
    value => {
      expect(taken(event(`{"use":{"tokens":${value}}}`))).toBeUndefined()
    },
  )
  test.each([
    ['1e24', '1e+24 is beyond 1e24 or has more than 12 decimals'],
    ['1234567890123456789012345', '1234567890123456789012345 is beyond'],
    ['0.1234567890123', '0.1234567890123 is beyond'],
    ['"1e-13"', '1e-13 is beyond'],
    ['1e999', '"1e999" is not a number within bounds'],
    ['"12,5"', '"12,5" is not a number'],
    ['true', '"true" is not a number'],
    ['{"n":1}', 'there stands an object or a list'],
  ])('is rejected with %s, naming meter and path', (value, says) => {
    expect(taken(event(`{"use":{"tokens":${value}}}`))).toMatch(
      /^VALUE_OUT_OF_BOUNDS meter tokens wants a number at \$\.use\.tokens/,
    )
    expect(taken(event(`{"use":{"tokens":${value}}}`))).toContain(says)
  })
})

test('without the value, of another type, or left out by the filter it is taken', () => {
  expect(taken(event('{"other":1e99}'))).toBeUndefined()
  expect(taken(event('{"use":{"tokens":"x"}}', 'other'))).toBeUndefined()
  expect(taken(event('{"model":"test-1","use":{"tokens":"x"}}'))).toBeUndefined()
  expect(taken(event('{"model":"prod","use":{"tokens":"x"}}'))).toMatch(/^VALUE_OUT/)
})

test('what an event is amended to is held against the same', () => {
  const amend = (tokens: unknown) =>
    sealAbout<AmendmentEvent>({
      id: 'a1',
      source: 'meterline/amend/person',
      type: amendmentType,
      partitionkey: 'urn:app 1',
      timeMs: appendedMs,
      data: {
        source: 'urn:app',
        id: '1',
        action: 'amend',
        author: 'Ann',
        reason: 'a typo',
        event: { type: 'call', subject: 'acme', time: '2025-06-01T08:00:00Z', data: { use: { tokens } } },
      },
    })
  expect(taken(amend('7'))).toBeUndefined()
  expect(taken(amend('seven'))).toMatch(/^VALUE_OUT_OF_BOUNDS meter tokens/)
})
