/**
 * Answers as the ledger stood at an earlier place of the log. A place is one offset a partition, never a clock: a time is
 * translated once, and the translation kept, so that whoever names that time again gets the same answer.
 */
import { showReadat } from '../schemas/event.ts'
import { Fault } from '../schemas/fault.ts'
import { instantMs, minuteMs, showInstant } from '../schemas/window.ts'
import type { Position } from './reads.ts'
import type { Store } from './store.ts'

/** Batches on their way may still be noted with a time so far back: before that no translation is kept. */
const settledMs = minuteMs

/**
 * The position that a text names: an RFC 3339 time, or `LOG/PARTITION:OFFSET` with commas between, each offset the first
 * that is not looked at.
 * @throws Fault USAGE for a text that is neither, or a time that has not come.
 */
export async function positionAsOf(store: Store, text: string, nowMs: number): Promise<Position> {
  const atMs = instantMs(text)
  if (atMs === undefined) return positionFrom(text)
  if (atMs > nowMs) throw new Fault('USAGE', `as of ${text}: that time has not come`)
  const moment = { moment: atMs }
  const noted = await placesOf(
    store,
    `select log, partition, next from moments final where moment = fromUnixTimestamp64Milli({moment:Int64})`,
    moment,
  )
  if (noted.size > 0) return noted
  const position = await placesOf(
    store,
    `select log, partition, max(last) + 1 as next from positions
     where at <= fromUnixTimestamp64Milli({moment:Int64}) group by log, partition`,
    moment,
  )
  if (position.size === 0)
    throw new Fault('USAGE', `as of ${showInstant(atMs)}: the ledger had nothing by then`)
  if (atMs + settledMs <= nowMs) {
    const lines = Array.from(position, ([place, next]) => {
      const at = place.lastIndexOf('/')
      return JSON.stringify([
        showReadat(atMs),
        place.slice(0, at),
        Number(place.slice(at + 1)),
        next.toString(),
      ])
    })
    await store.insert('moments', ['moment', 'log', 'partition', 'next'], lines)
  }
  return position
}

/** A position as text: what `positionAsOf` reads. */
export function showPosition(position: Position): string {
  return Array.from(position, ([place, next]) => `${place}:${next}`)
    .sort()
    .join(',')
}

function positionFrom(text: string): Position {
  const position = new Map<string, bigint>()
  for (const part of text.split(',')) {
    const found = /^(.+\/\d+):(\d{1,20})$/.exec(part.trim())
    if (!found)
      throw new Fault(
        'USAGE',
        `as of "${part}": write a time (RFC 3339) or LOG/PARTITION:OFFSET with commas between`,
      )
    position.set(found[1] ?? '', BigInt(found[2] ?? 0))
  }
  return position
}

async function placesOf(store: Store, query: string, params: Record<string, unknown>): Promise<Position> {
  const rows = await store.rows<{ log: string; partition: number; next: string }>(query, params)
  return new Map(rows.map(row => [`${row.log}/${row.partition}`, BigInt(row.next)]))
}
