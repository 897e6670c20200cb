/** Readings and marks: identity, digest and bounds. */
import { hash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { misfits } from '../../schemas/check.ts'
import { decodeStructured, encodeStructured } from '../../schemas/cloudevents.ts'
import {
  checkBounds,
  contentHash,
  idHash,
  MarkEvent,
  partitionKey,
  type ReadIdentity,
  ReadingEvent,
  sealMark,
  sealReading,
  showDigest,
  type Usage,
} from '../../schemas/event.ts'
import { type MeasureName, measureNames, measures } from '../../schemas/measures.ts'
import { hourMs, windowAt } from '../../schemas/window.ts'

const name = fc.string({ minLength: 1, maxLength: 12 }).filter(text => !/[\p{Cc}\p{Cs}]/u.test(text))
const label = fc.string({ unit: 'grapheme', maxLength: 12 })
const decimal = fc
  .tuple(
    fc.bigInt({ min: 0n, max: 10n ** 24n - 1n }),
    fc.option(fc.stringMatching(/^\d{1,12}$/), { nil: undefined }),
  )
  .map(([whole, fraction]) => (fraction === undefined ? `${whole}` : `${whole}.${fraction}`))
const someMeasures = fc
  .uniqueArray(fc.tuple(fc.constantFrom(...measureNames), decimal), {
    minLength: 1,
    maxLength: 4,
    selector: ([key]) => key,
  })
  .map(pairs => Object.fromEntries(pairs) as Usage['measures'])
const read: fc.Arbitrary<ReadIdentity> = fc
  .record({
    source: fc.constantFrom('meterline/rafay/prod', 'meterline/rafay/test', 'meterline/sql/a.b'),
    scope: name,
    startMs: fc.integer({ min: 0, max: 4e12 }),
    readatMs: fc.integer({ min: 0, max: 4e12 }),
  })
  .map(({ source, scope, startMs, readatMs }) => ({ source, scope, window: windowAt(startMs, 15), readatMs }))
const optional = <Value>(value: fc.Arbitrary<Value>) => fc.option(value, { nil: undefined })
const usage: fc.Arbitrary<Usage> = fc
  .record({
    thing: fc.constantFrom('instance', 'tokens', 'pod_1'),
    subject: name,
    resource: fc.record({ kind: name, id: name }),
    measures: someMeasures,
    labels: fc.dictionary(
      fc.stringMatching(/^[^\n]{1,8}$/).filter(key => !/[\r\u2028\u2029]/.test(key)),
      label,
      { maxKeys: 4, noNullPrototype: true },
    ),
    parts: optional(fc.integer({ min: 1, max: 3 })),
    estimated: optional(fc.boolean()),
  })
  .map(
    made =>
      Object.fromEntries(Object.entries(made).filter(([, value]) => value !== undefined)) as unknown as Usage,
  )

const readAt = (scope = 'org/profile', readatMs = 5 * hourMs): ReadIdentity => ({
  source: 'meterline/rafay/prod',
  scope,
  window: windowAt(hourMs, 60),
  readatMs,
})
const plain: Usage = {
  thing: 'instance',
  subject: 'org',
  resource: { kind: 'instance', id: 'i-1', name: 'one' },
  measures: { instance_seconds: '3600', gpu_seconds: '28800' },
  labels: { profile: 'h100', gpu_type: 'H100' },
}
const identityOf = (event: { readonly id: string }) => event.id.split('@')[0]

describe('a sealed reading', () => {
  test('fits its schema, travels as a CloudEvent, and comes back with the same content', () => {
    fc.assert(
      fc.property(usage, read, (used, of) => {
        const event = sealReading(used, 'rafay', of)
        expect(misfits(ReadingEvent, structuredClone(event))).toEqual([])
        const back = decodeStructured(encodeStructured(event))
        expect(back).toEqual(event)
        expect(contentHash(back as unknown as ReadingEvent)).toBe(contentHash(event))
      }),
    )
  })

  test('says who, where and when in its attributes', () => {
    expect(sealReading(plain, 'rafay', readAt())).toEqual({
      specversion: '1.0',
      id: expect.stringMatching(/^[0-9a-f]{32}@1970-01-01T05:00:00\.000Z$/),
      source: 'meterline/rafay/prod',
      type: 'io.meterline.rafay.instance.v1',
      subject: 'org',
      time: '1970-01-01T01:00:00Z',
      scope: 'org/profile',
      readat: '1970-01-01T05:00:00.000Z',
      partitionkey: 'meterline/rafay/prod org/profile',
      datacontenttype: 'application/json',
      data: {
        window: { start: '1970-01-01T01:00:00Z', end: '1970-01-01T02:00:00Z' },
        resource: { kind: 'instance', id: 'i-1', name: 'one' },
        measures: { instance_seconds: '3600', gpu_seconds: '28800' },
        labels: { profile: 'h100', gpu_type: 'H100' },
        estimated: false,
      },
    })
  })

  test('keeps the id of its resource through another read, another name, other figures', () => {
    fc.assert(
      fc.property(usage, usage, read, fc.integer({ min: 0, max: 4e12 }), (used, other, of, readatMs) => {
        const later = {
          ...other,
          thing: used.thing,
          subject: used.subject,
          resource: { ...used.resource, name: 'new' },
        }
        expect(identityOf(sealReading(later, 'rafay', { ...of, readatMs }))).toBe(
          identityOf(sealReading(used, 'rafay', of)),
        )
      }),
    )
  })

  test('has another id where anything that tells readings apart differs, even by where a text is cut', () => {
    const texts = fc.constantFrom('a', 'b', 'ab', 'a b', 'a,b', '"', '', '\\', 'a","b')
    const parts = fc.tuple(
      texts,
      texts,
      texts,
      texts,
      texts,
      fc.constantFrom(15, 30, 60),
      fc.constantFrom(0, 1),
    )
    const idOf = ([scope, thing, subject, kind, id, minutes, hour]: [
      string,
      string,
      string,
      string,
      string,
      number,
      number,
    ]) =>
      identityOf(
        sealReading({ ...plain, thing, subject, resource: { kind, id } }, 'rafay', {
          ...readAt(scope),
          window: windowAt(hour * hourMs, minutes as 15),
        }),
      )
    fc.assert(
      fc.property(parts, parts, (one, other) => {
        expect(idOf(one) === idOf(other)).toBe(JSON.stringify(one) === JSON.stringify(other))
      }),
      { numRuns: 2000 },
    )
    expect(identityOf(sealReading(plain, 'rafay', readAt()))).not.toBe(
      identityOf(sealReading(plain, 'runai', readAt())),
    )
    const elsewhere = { ...readAt(), source: 'meterline/rafay/test' }
    expect(identityOf(sealReading(plain, 'rafay', elsewhere))).not.toBe(
      identityOf(sealReading(plain, 'rafay', readAt())),
    )
  })

  test('says parts only where there are several', () => {
    expect(sealReading({ ...plain, parts: 1 }, 'rafay', readAt()).data).not.toHaveProperty('parts')
    expect(sealReading({ ...plain, parts: 2 }, 'rafay', readAt()).data.parts).toBe(2)
  })

  test('has the partition key of its mark', () => {
    const mark = sealMark(
      { outcome: 'complete', events: 0, digest: showDigest(0n), settled: false, estimated: false },
      readAt(),
    )
    expect(mark.partitionkey).toBe(sealReading(plain, 'rafay', readAt()).partitionkey)
    expect(mark.partitionkey).toBe(partitionKey('meterline/rafay/prod', 'org/profile'))
  })
})

describe('a mark', () => {
  test('fits its schema whatever the outcome, and has one identity a window', () => {
    const mark = fc.record({
      events: fc.nat(),
      digest: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(showDigest),
      settled: fc.boolean(),
      estimated: fc.boolean(),
    })
    fc.assert(
      fc.property(mark, mark, read, (one, other, of) => {
        const complete = sealMark(
          { ...one, outcome: 'complete', bad: [{ subject: 'x', code: 'ITEM_UNREADABLE', message: 'm' }] },
          of,
        )
        const failed = sealMark(
          { ...other, outcome: 'failed', fault: { code: 'SOURCE_BUSY', message: 'm' } },
          { ...of, readatMs: 1 },
        )
        expect(misfits(MarkEvent, structuredClone(complete))).toEqual([])
        expect(misfits(MarkEvent, structuredClone(failed))).toEqual([])
        expect(identityOf(complete)).toBe(identityOf(failed))
        expect(decodeStructured(encodeStructured(complete))).toEqual(complete)
      }),
    )
  })
})

describe('the digest of a read', () => {
  const digestOf = (events: readonly ReadingEvent[]) =>
    showDigest(events.reduce((sum, event) => sum + contentHash(event), 0n))

  test('does not depend on the order of readings, nor on when they were read', () => {
    fc.assert(
      fc.property(
        fc
          .array(usage, { maxLength: 8 })
          .chain(all => fc.tuple(fc.constant(all), fc.shuffledSubarray(all, { minLength: all.length }))),
        read,
        ([all, shuffled], of) => {
          const seal = (readatMs: number) => (used: Usage) => sealReading(used, 'rafay', { ...of, readatMs })
          expect(digestOf(all.map(seal(1)))).toBe(digestOf(shuffled.map(seal(2))))
          expect(digestOf(all.map(seal(1)))).toMatch(/^[0-9a-f]{16}$/)
        },
      ),
    )
  })

  test('does not depend on the order of keys', () => {
    const turn = <Value extends object>(value: Value) =>
      Object.fromEntries(Object.entries(value).reverse()) as Value
    fc.assert(
      fc.property(usage, read, (used, of) => {
        const turned = {
          ...turn(used),
          measures: turn(used.measures),
          labels: turn(used.labels),
          resource: turn(used.resource),
        }
        expect(contentHash(sealReading(turned, 'rafay', of))).toBe(
          contentHash(sealReading(used, 'rafay', of)),
        )
      }),
    )
  })

  test('differs where a reading says anything else', () => {
    const window = windowAt(hourMs, 60)
    const changes: Usage[] = [
      { ...plain, thing: 'volume' },
      { ...plain, subject: 'org2' },
      { ...plain, resource: { ...plain.resource, id: 'i-2' } },
      { ...plain, resource: { ...plain.resource, kind: 'pod' } },
      { ...plain, resource: { ...plain.resource, name: 'two' } },
      { ...plain, resource: { kind: 'instance', id: 'i-1' } },
      { ...plain, measures: { instance_seconds: '3600' } },
      { ...plain, measures: { instance_seconds: '3600', gpu_seconds: '28800.5' } },
      { ...plain, measures: { instance_seconds: '28800', gpu_seconds: '3600' } },
      { ...plain, labels: {} },
      { ...plain, labels: { ...plain.labels, profile: 'H100', gpu_type: 'h100' } },
      { ...plain, labels: { ...plain.labels, more: '' } },
      { ...plain, interval: { startMs: window.startMs, endMs: window.startMs + 1000 } },
      { ...plain, parts: 2 },
      { ...plain, estimated: true },
    ]
    const all = [plain, ...changes].map(used => contentHash(sealReading(used, 'rafay', readAt())))
    expect(new Set(all).size).toBe(all.length)
  })

  test('is the same on both sides of the wire, even of a measure that is undefined', () => {
    const holey = {
      ...plain,
      measures: { ...plain.measures, tokens: undefined },
      labels: { ...plain.labels, none: undefined },
    }
    const event = sealReading(holey as unknown as Usage, 'rafay', readAt())
    expect(contentHash(decodeStructured(encodeStructured(event)) as unknown as ReadingEvent)).toBe(
      contentHash(event),
    )
  })

  test('counts a reading that stands there twice, and wraps at 64 bits', () => {
    const event = sealReading(plain, 'rafay', readAt())
    expect(digestOf([event, event])).not.toBe(digestOf([event]))
    expect(showDigest(2n ** 64n + 5n)).toBe('0000000000000005')
    expect(showDigest(-1n)).toBe('ffffffffffffffff')
  })

  test('an identity hash is the first 64 bits of the SHA-256 of source and id', () => {
    const expected = Buffer.from(hash('sha256', 'meterline/rafay/prod abc', 'buffer')).readBigUInt64BE(0)
    expect(idHash('meterline/rafay/prod', 'abc')).toBe(expected)
  })
})

describe('bounds', () => {
  const reading = (used: Usage['measures'], parts = 1) =>
    sealReading({ ...plain, measures: used, parts }, 'rafay', readAt())
  const held = (used: Usage['measures'], seconds: number, parts?: number) => () =>
    checkBounds(reading(used, parts), seconds)
  const windowed = measureNames.filter(measure => measures[measure].bound === 'window')

  test.each([
    ['3600', 3600, 1, true],
    ['3600.000', 3600, 1, true],
    ['3600.000000000001', 3600, 1, false],
    ['3601', 3600, 1, false],
    ['0', 900, 1, true],
    ['900.1', 900, 1, false],
    ['7200', 3600, 2, true],
    ['7200.1', 3600, 2, false],
  ])('%s instance_seconds in a window of %i s and %i parts: %s', (value, seconds, parts, fine) => {
    if (fine) expect(held({ instance_seconds: value }, seconds, parts)()).toBeUndefined()
    else
      expect(held({ instance_seconds: value }, seconds, parts)).toThrow(
        expect.objectContaining({
          code: 'VALUE_OUT_OF_BOUNDS',
          facts: expect.objectContaining({ measure: 'instance_seconds' }),
        }),
      )
  })

  test.each(['-1', '-0', '1e3', '1000000000000000000000000', '0.1234567890123', '', 'NaN', '01'])(
    '%j is no quantity of any measure',
    value => {
      for (const measure of measureNames)
        expect(held({ [measure]: value }, 3600)).toThrow(
          expect.objectContaining({ code: 'VALUE_OUT_OF_BOUNDS' }),
        )
    },
  )

  test('a measure that a window bounds is refused exactly where it is more than the window, to the last digit', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...windowed),
        fc.bigInt({ min: 0n, max: 8000n * 10n ** 12n }),
        fc.constantFrom(60, 300, 900, 1800, 3600),
        fc.integer({ min: 1, max: 2 }),
        (measure: MeasureName, value, seconds, parts) => {
          const digits = value.toString().padStart(13, '0')
          const work = held({ [measure]: `${digits.slice(0, -12)}.${digits.slice(-12)}` }, seconds, parts)
          if (value > BigInt(seconds * parts) * 10n ** 12n) expect(work).toThrow(/more than its window/)
          else expect(work()).toBeUndefined()
        },
      ),
    )
    expect(windowed).toContain('instance_seconds')
  })
})
