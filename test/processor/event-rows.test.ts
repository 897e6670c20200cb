/** Readings as columns that ClickHouse takes without parsing: what it has then is what they say, whatever it is. */
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { EventRows, type RowPlace } from '../../processor/event-rows.ts'
import { Store } from '../../processor/store.ts'
import { contentHash, contentOf, type ReadingEvent, showReadat } from '../../schemas/event.ts'
import { measureNames } from '../../schemas/measures.ts'
import { hourMs, minuteMs, secondMs, showInstant } from '../../schemas/window.ts'
import { startClickHouse, type TestClickHouse } from '../rig/clickhouse.ts'

let rig: TestClickHouse
let store: Store

beforeAll(async () => {
  rig = await startClickHouse()
  store = await Store.open({ ...rig, database: `event_rows_${process.pid}` })
})
afterAll(async () => {
  await store?.[Symbol.asyncDispose]()
  await rig?.stop()
})

interface Row {
  readonly event: ReadingEvent
  readonly place: RowPlace
  readonly isLeftOut: boolean
}

/** Of all lengths at which the format changes, in all alphabets, but without half a character. */
const text = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 20 }),
  fc.string({ unit: 'binary-ascii', maxLength: 20 }),
  fc.integer({ min: 120, max: 140 }).map(length => 'é'.repeat(length)),
  fc.constantFrom('', '\u0000', '"\\', '𝄞'.repeat(4000), 'x'.repeat(127), 'x'.repeat(128)),
)
const places = fc.stringMatching(/^[0-9]{1,12}$/)
const decimal = fc.oneof(
  fc.nat().map(String),
  fc.tuple(fc.bigInt(0n, 10n ** 24n - 1n), places).map(([whole, more]) => `${whole}.${more}`),
  fc.constantFrom('0', '0.000000000001', '999999999999999999999999.999999999999', '18446744.073709551616'),
)
const hours = fc.integer({ min: 0, max: 24 * 365 * 80 })
const row: fc.Arbitrary<Row> = fc
  .record({
    hour: hours.map(hour => Date.UTC(2001, 0, 1) + hour * hourMs),
    usedMs: fc.option(fc.tuple(fc.nat(hourMs / 2), fc.nat(hourMs / 2))),
    identity: fc.stringMatching(/^[0-9a-f]{32}$/),
    readatMs: hours.map(hour => Date.UTC(2001, 0, 1) + hour * minuteMs + 7),
    texts: fc.tuple(text, text, text, text, text),
    measures: fc.dictionary(fc.constantFrom(...measureNames), decimal, { maxKeys: 5 }),
    labels: fc.dictionary(text, text, { maxKeys: 6 }),
    parts: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
    estimated: fc.boolean(),
    offset: fc.bigInt(0n, 2n ** 63n - 1n),
    isLeftOut: fc.boolean(),
  })
  .map(({ hour, usedMs, identity, readatMs, texts, measures, labels, parts, ...more }) => {
    const [subject, kind, id, name, scope] = texts
    const window = { startMs: hour, endMs: hour + hourMs }
    const used = usedMs ? { startMs: hour + usedMs[0], endMs: window.endMs - usedMs[1] } : window
    const show = (one: typeof window) => ({ start: showInstant(one.startMs), end: showInstant(one.endMs) })
    const event = {
      id: `${identity}@${showReadat(readatMs)}`,
      type: `io.meterline.test.${kind}.v1`,
      source: 'meterline/test/rows',
      subject,
      scope,
      data: {
        window: show(window),
        ...(usedMs && { interval: show(used) }),
        resource: { kind, id, name },
        measures,
        labels,
        parts,
        estimated: more.estimated,
      },
    } as unknown as ReadingEvent
    const place = { readatMs, window, used, hash: contentHash(event), offset: more.offset }
    return { event, place, isLeftOut: more.isLeftOut }
  })

/** A row as ClickHouse shows it. */
function shown({ event, place }: Row, log: string, partition: number) {
  const [type, subject, , , , , kind, id, name, measures, labels, parts, estimated] = contentOf(event)
  return {
    type,
    subject,
    start_s: place.window.startMs / secondMs,
    end_s: place.window.endMs / secondMs,
    used: [place.used.startMs, place.used.endMs].map(String),
    resource: [kind, id, name],
    measures: Object.entries(measures).map(([key, value]) => [key, plain(value)]),
    labels: Object.entries(labels),
    parts,
    estimated,
    source: event.source,
    scope: event.scope,
    readat: String(place.readatMs),
    identity: event.id.slice(0, 32),
    content: String(place.hash),
    place: [log, partition, String(place.offset)],
  }
}

/** Without zeros at the end of what is behind the point, as ClickHouse shows a decimal. */
function plain(decimal: string): string {
  return decimal.includes('.') ? decimal.replace(/\.?0+$/, '') : decimal
}

const query = `select toString(type) as type, subject, toUnixTimestamp(start) as start_s, toUnixTimestamp(end) as end_s,
    arrayMap(at -> toString(toUnixTimestamp64Milli(at)), [used_start, used_end]) as used,
    [toString(resource_kind), resource_id, resource_name] as resource,
    arrayMap(m -> [toString(m.1), toString(m.2)], measures::Array(Tuple(String, Decimal(38, 12)))) as measures,
    arrayMap(l -> [toString(l.1), l.2], labels::Array(Tuple(String, String))) as labels,
    parts, estimated, toString(source) as source, scope, toString(toUnixTimestamp64Milli(readat)) as readat,
    lower(leftPad(hex(identity), 32, '0')) as identity, toString(content) as content,
    tuple(toString(log), partition, toString(offset)) as place
  from rows_taken order by n`

test('whatever readings say stands in the ledger as they say it, of batches side by side, without the rows left out', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(row, { maxLength: 12 }), { minLength: 1, maxLength: 3 }),
      async batches => {
        await store.run('drop table if exists rows_taken')
        await store.run(`create table rows_taken as events engine = Memory`)
        await store.run('alter table rows_taken add column n UInt64 materialized rowNumberInAllBlocks()')
        const blocks = batches.map((rows, partition) => {
          // Fewer than come, so that every column has to grow.
          const taken = new EventRows('log/é', partition, 1)
          for (const { event, place } of rows) taken.add(event, contentOf(event), place)
          expect(taken.count).toBe(rows.length)
          rows.forEach(({ event, place }, index) => {
            expect(taken.contentAt(index)).toBe(place.hash)
            expect(taken.identityAt(index)).toEqual({
              identity: event.id.slice(0, 32),
              content: place.hash,
              log: 'log/é',
              partition,
              offset: place.offset,
            })
          })
          return taken.block(new Set(rows.flatMap(({ isLeftOut }, index) => (isLeftOut ? [index] : []))))
        })
        await store.insertBlocks(
          'rows_taken',
          blocks.filter(block => block !== undefined),
        )
        const expected = batches.flatMap((rows, partition) =>
          rows.filter(({ isLeftOut }) => !isLeftOut).map(one => shown(one, 'log/é', partition)),
        )
        expect(await store.rows(query)).toEqual(expected)
      },
    ),
    { numRuns: 60 },
  )
})
