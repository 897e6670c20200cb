/** A ledger in a database of its own, for tests of what it makes of reads. */
import { expect } from 'vitest'
import { accept } from '../../processor/accept.ts'
import { Ledger } from '../../processor/ledger.ts'
import { registerMeters } from '../../processor/rollups.ts'
import { Store } from '../../processor/store.ts'
import { quantities } from '../../processor/usage.ts'
import { show } from '../../schemas/decimal.ts'
import type { MarkData, Usage } from '../../schemas/event.ts'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { hourMs, type Window } from '../../schemas/window.ts'
import { freshen } from '../freshen.ts'
import { batchOf, readEvents } from '../reads.ts'
import type { TestClickHouse } from '../rig/clickhouse.ts'

export const source = 'meterline/rafay/test'
export const day = { startMs: Date.UTC(2025, 5, 1), endMs: Date.UTC(2025, 5, 2) }
export const hours = defaultMeters.find(meter => meter.slug === 'instance_hours') as Meter
let databases = 0
let tokens = 0n
/** Each later than the last, over all worlds. */
export const nextToken = () => ++tokens

export interface World extends AsyncDisposable {
  readonly store: Store
  ledger: Ledger
  /** Puts a whole read into the ledger as one batch. */
  read(
    scope: string,
    hour: number,
    readatMs: number,
    usages: readonly Usage[],
    mark?: Partial<MarkData>,
  ): Promise<void>
  /** Hours by subject over the day, from whatever answers: `org: hours`. */
  total(meter?: Meter): Promise<Record<string, string>>
  freshen(): Promise<number>
  offset: number
}

export async function openWorld(rig: TestClickHouse): Promise<World> {
  const store = await Store.open({ ...rig, database: `ledger_${process.pid}_${databases++}` })
  await registerMeters(store, defaultMeters)
  const state: World = {
    store,
    ledger: new Ledger(store, 'log', null),
    offset: 0,
    async read(scope, hour, readatMs, usages, mark) {
      const events = readEvents({ source, scope, window: hourOf(hour), readatMs }, usages, mark)
      await this.ledger.put([accept(batchOf(events, this.offset), 'log')])
      this.offset += events.length
    },
    async total(meter = hours) {
      const rows = await quantities(store, { meter, span: day, zone: 'UTC', groupBy: [], where: {} })
      return Object.fromEntries(rows.map(row => [row.subject, show(row.quantity)]))
    },
    async freshen() {
      return await freshen(store, { cellsMax: 3 })
    },
    async [Symbol.asyncDispose]() {
      await store[Symbol.asyncDispose]()
    },
  }
  return state
}

export function hourOf(hour: number): Window {
  return { startMs: day.startMs + hour * hourMs, endMs: day.startMs + (hour + 1) * hourMs }
}

/** Both ways to an answer must agree: stale cells from the ledger, then all from rollups. */
export async function expectTotals(at: World, expected: Record<string, string>): Promise<void> {
  expect(await at.total()).toEqual(expected)
  await at.freshen()
  expect(await at.total()).toEqual(expected)
}
