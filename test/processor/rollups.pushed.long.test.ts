/**
 * Cells of pushed events: whatever comes, is amended, voided or displaced, and wherever a process dies, the answer from the
 * cells is the answer from the ledger as soon as the batch is acknowledged.
 */
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { accept } from '../../processor/accept.ts'
import { Ledger } from '../../processor/ledger.ts'
import { registerMeters } from '../../processor/rollups.ts'
import { Store } from '../../processor/store.ts'
import { quantities } from '../../processor/usage.ts'
import { show } from '../../schemas/decimal.ts'
import type { Meter } from '../../schemas/meters.ts'
import { type AmendmentEvent, amendmentType, sealAbout } from '../../schemas/pushed.ts'
import { dayMs, hourMs, showInstant } from '../../schemas/window.ts'
import { freshen } from '../freshen.ts'
import { headers, june1Ms } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { dying } from './dying.ts'

const meter: Meter = {
  slug: 'in_cells',
  eventTypes: ['call'],
  aggregation: 'SUM',
  value: '$.n',
  groupBy: { m: '$.m' },
  unit: '1',
}
/** Not registered: always from the ledger. */
const unbuilt: Meter = { ...meter, slug: 'in_the_ledger' }

let rig: Awaited<ReturnType<typeof startClickHouse>>
let store: Store
let runs = 0

beforeAll(async () => {
  rig = await startClickHouse()
  store = await Store.open(rig)
  await registerMeters(store, [meter])
})
afterAll(async () => {
  await store?.[Symbol.asyncDispose]()
  await rig?.stop()
})

interface Said {
  readonly id: number
  readonly hour: number
  readonly subject: string
  readonly n: number
}
type Step =
  | { readonly kind: 'event' | 'amend'; readonly said: Said; readonly late: boolean }
  | { readonly kind: 'void'; readonly id: number }

const said = fc.record({
  id: fc.nat({ max: 3 }),
  hour: fc.nat({ max: 2 }),
  subject: fc.constantFrom('a', 'b'),
  n: fc.integer({ min: 1, max: 9 }),
})
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('event' as const), said, late: fc.boolean() }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('amend' as const), said, late: fc.constant(false) }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('void' as const), id: fc.nat({ max: 3 }) }) },
)
const turn = fc.record({
  steps: fc.array(step, { minLength: 1, maxLength: 3 }),
  /** The put dies there first, and comes again; a recompute may run in between. */
  dies: fc.option(
    fc.record({ at: fc.integer({ min: 1, max: 16 }), when: fc.constantFrom('before', 'after') }),
  ),
  between: fc.boolean(),
  after: fc.boolean(),
})

function timeOf({ hour }: Said): string {
  return showInstant(june1Ms + hour * hourMs + 60_000)
}

function textOf(one: Step, source: string, name: string): string {
  if (one.kind === 'event') {
    const { id, subject, n } = one.said
    const data = { n, m: `m${n % 2}` }
    return JSON.stringify({
      ...{ specversion: '1.0', id: `${id}`, source, type: 'call', subject },
      ...{ time: timeOf(one.said), data },
    })
  }
  const id = one.kind === 'void' ? one.id : one.said.id
  return sealAbout<AmendmentEvent>({
    id: name,
    source: 'meterline/amend/person',
    type: amendmentType,
    partitionkey: `${source} ${id}`,
    timeMs: june1Ms + dayMs,
    data: {
      ...{ source, id: `${id}`, action: one.kind, author: 'Ann', reason: 'a test' },
      ...(one.kind === 'amend' && {
        event: {
          type: 'call',
          subject: one.said.subject,
          time: timeOf(one.said),
          data: { n: one.said.n, m: 'amended' },
        },
      }),
    },
  })
}

test('the cells say what the ledger says, after every put and wherever one died', async () => {
  let deaths = 0
  await fc.assert(
    fc.asyncProperty(fc.array(turn, { minLength: 3, maxLength: 5 }), async turns => {
      // Each run is a pusher of its own in a partition of its own.
      const partition = runs++
      const source = `urn:app:${partition}`
      const answer = async (asked: Meter) => {
        const span = { startMs: june1Ms, endMs: june1Ms + dayMs }
        const rows = await quantities(store, {
          meter: asked,
          sources: [source],
          span,
          step: 'HOUR',
          zone: 'UTC',
          groupBy: ['m'],
          where: {},
        } as never)
        return rows.map(row => `${row.window.startMs} ${row.subject} ${row.dims.m} ${show(row.quantity)}`)
      }
      // Offsets that are read late lie before the others: a partition that was read on from further behind.
      let next = 1000
      let late = 0
      for (const { steps, dies, between, after } of turns) {
        for (const isLate of [false, true]) {
          const some = steps.filter(one => ('late' in one && one.late) === isLate)
          if (some.length === 0) continue
          const messages = some.map((one, index) => ({
            offset: BigInt((isLate ? late : next) + index),
            key: null,
            value: Buffer.from(
              textOf(one, source, `${partition} ${isLate} ${(isLate ? late : next) + index}`),
            ),
            headers,
            appendedMs: june1Ms + dayMs,
          }))
          if (isLate) late += some.length
          else next += some.length
          const batch = accept({ partition, messages }, 'log')
          expect(batch.rejects).toEqual([])
          if (dies) {
            const died = dying(store, dies.at, dies.when)
            await new Ledger(died.store, 'log', null).put([batch]).catch(() => undefined)
            if (died.reached()) deaths += 1
            if (between) await freshen(store, { cellsMax: 2 })
          }
          await new Ledger(store, 'log', null).put([batch])
          expect(await answer(meter)).toEqual(await answer(unbuilt))
        }
        if (after) {
          await freshen(store, { cellsMax: 2 })
          expect(await answer(meter)).toEqual(await answer(unbuilt))
        }
      }
    }),
    { numRuns: 6, endOnFailure: true },
  )
  expect(deaths).toBeGreaterThan(0)
})
