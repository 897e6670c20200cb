/** Small whole reads for the tests of outbox, logs and relay. Run as a program it appends them until it is killed. */

import { type EncodedEvent, type NewRead, SqliteOutbox } from '../../../runtime/log/outbox.ts'
import {
  contentHash,
  partitionKey,
  type ReadingEvent,
  sealMark,
  sealReading,
  showDigest,
} from '../../../schemas/event.ts'
import { hourMs, type Window } from '../../../schemas/window.ts'

export const june1Ms = Date.UTC(2025, 5, 1)
export const testSource = 'meterline/rafay/test'

export function hourAfterJune1(hours: number): Window {
  return { startMs: june1Ms + hours * hourMs, endMs: june1Ms + (hours + 1) * hourMs }
}

export interface ReadOf {
  readonly scope?: string
  readonly window?: Window
  readonly readatMs?: number
  readonly readings?: number
  readonly failed?: boolean
  readonly settled?: boolean
  readonly labelBytes?: number
}

/** A read of `readings` instances, sealed and encoded as collect does it. */
export function readOf(of: ReadOf): NewRead {
  const { scope = 'org/profile', window = hourAfterJune1(0), readings: count = 2, failed = false } = of
  const readatMs = of.readatMs ?? window.endMs + 1
  const identity = { source: testSource, scope, window, readatMs }
  const sealed = Array.from({ length: failed ? 0 : count }, (_, index) =>
    sealReading(
      {
        thing: 'instance',
        subject: 'org',
        resource: { kind: 'instance', id: `i-${index}` },
        measures: { instance_seconds: '3600' },
        labels: { note: 'x'.repeat(of.labelBytes ?? 1) },
      },
      'rafay',
      identity,
    ),
  )
  const digest = showDigest(sealed.reduce((sum, event) => sum + contentHash(event), 0n))
  const settled = of.settled ?? false
  const mark = sealMark(
    {
      outcome: failed ? 'failed' : 'complete',
      events: sealed.length,
      digest,
      settled,
      estimated: false,
      ...(failed && { fault: { code: 'SOURCE_BUSY', message: 'busy' } }),
    },
    identity,
  )
  return {
    identity,
    key: partitionKey(testSource, scope),
    readings: sealed.map(encode),
    mark: encode(mark),
    record: {
      source: testSource,
      scope,
      window,
      readatMs,
      attemptedMs: readatMs,
      ...(!failed && {
        complete: { digest, events: sealed.length, contentReadatMs: readatMs, settled },
      }),
    },
  }
}

function encode(event: ReadingEvent | ReturnType<typeof sealMark>): EncodedEvent {
  return { id: event.id, value: Buffer.from(JSON.stringify(event)) }
}

if (import.meta.main) {
  const [dir = '', seed = '0'] = process.argv.slice(2)
  using outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: Date.now })
  for (let hours = 0; ; hours += 1) {
    const scope = `${seed}/${hours % 7}`
    outbox.append(readOf({ scope, window: hourAfterJune1(hours), readings: 200, settled: hours % 2 === 0 }))
    process.stdout.write('.')
    // Lets rows go as a relay would, so that the kill hits that too.
    const rows = outbox.pending(0, { rowsMax: 150, bytesMax: 1e6 })
    outbox.release(
      0,
      rows.map(row => row.seq),
      BigInt(rows[0]?.seq ?? 0),
    )
  }
}
