/** Makes reads for tests, sealed as collect seals them: as events, as a batch of the log, or to append to an outbox. */
import { type AcceptedBatch, Accepting } from '../processor/accept.ts'
import type { LogBatch } from '../runtime/log/log.ts'
import type { NewRead } from '../runtime/log/outbox.ts'
import type { EncodedEvent } from '../runtime/log/outbox-rows.ts'
import {
  contentHash,
  type MarkData,
  type MarkEvent,
  partitionKey,
  type ReadIdentity,
  type ReadingEvent,
  sealMark,
  sealReading,
  showDigest,
  type Usage,
} from '../schemas/event.ts'
import { hourMs, type Window } from '../schemas/window.ts'

export const june1Ms = Date.UTC(2025, 5, 1)
export const testSource = 'meterline/rafay/test'
export const headers = { 'content-type': 'application/cloudevents+json; charset=UTF-8' }

export function hourAfterJune1(hours: number): Window {
  return { startMs: june1Ms + hours * hourMs, endMs: june1Ms + (hours + 1) * hourMs }
}

export function instance(
  subject: string,
  id: string,
  seconds: string,
  labels: Record<string, string> = {},
): Usage {
  return {
    thing: 'instance',
    subject,
    resource: { kind: 'instance', id, name: `name of ${id}` },
    measures: { instance_seconds: seconds, gpu_seconds: seconds },
    labels: {
      organization: `Org ${subject}`,
      profile: 'small',
      profile_type: 'compute',
      gpu_type: 'L40',
      ...labels,
    },
  }
}

type MarkOf = Partial<Omit<MarkData, 'window'>>

function sealed(read: ReadIdentity, usages: readonly Usage[], mark: MarkOf) {
  const readings = usages.map(usage => sealReading(usage, 'rafay', read))
  const digest = showDigest(readings.reduce((sum, reading) => sum + contentHash(reading), 0n))
  const data = {
    outcome: 'complete',
    events: readings.length,
    digest,
    settled: true,
    estimated: false,
    ...mark,
  } as const
  return { readings, mark: sealMark(data, read) }
}

/** All events of a read: its readings, then its mark. One that repeats another is its mark alone. */
export function readEvents(
  read: ReadIdentity,
  usages: readonly Usage[],
  mark: MarkOf = {},
): readonly (ReadingEvent | MarkEvent)[] {
  const events = sealed(read, usages, mark)
  return [...(mark.repeats === undefined ? events.readings : []), events.mark]
}

/** Events as a collector would have put them into the log. */
export function batchOf(
  events: readonly (ReadingEvent | MarkEvent)[],
  firstOffset: bigint | number,
  partition = 0,
): LogBatch {
  const messages = events.map((event, index) => ({
    offset: BigInt(firstOffset) + BigInt(index),
    key: event.partitionkey,
    value: encode(event).value,
    headers,
    appendedMs: 0,
  }))
  return { partition, messages }
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

/** A read of `readings` instances of one tenant, an hour each, to append to an outbox. */
export function readOf(of: ReadOf): NewRead {
  const { scope = 'org/profile', window = hourAfterJune1(0), readings: count = 2, failed = false } = of
  const { readatMs = window.endMs + 1, settled = false, labelBytes = 1 } = of
  const usages = Array.from({ length: failed ? 0 : count }, (_, index) =>
    instance('org', `i-${index}`, '3600', { note: 'x'.repeat(labelBytes) }),
  )
  return newRead({ source: testSource, scope, window, readatMs }, usages, { settled, failed })
}

/** A read with these usages, to append to an outbox; one that failed has none. */
export function newRead(
  identity: ReadIdentity,
  usages: readonly Usage[],
  { settled, failed }: { readonly settled: boolean; readonly failed: boolean },
): NewRead {
  const { source, scope, window, readatMs } = identity
  const fault = { code: 'SOURCE_BUSY', message: 'busy' }
  const { readings, mark } = sealed(identity, usages, {
    settled,
    ...(failed && { outcome: 'failed', fault }),
  })
  const { digest, events } = mark.data
  return {
    identity,
    key: partitionKey(source, scope),
    readings: readings.map(encode),
    mark: encode(mark),
    record: {
      source,
      scope,
      window,
      readatMs,
      attemptedMs: readatMs,
      ...(!failed && { complete: { digest, events, contentReadatMs: readatMs, settled } }),
    },
  }
}

export function encode(event: ReadingEvent | MarkEvent): EncodedEvent {
  return { id: event.id, value: Buffer.from(JSON.stringify(event)) }
}

/** A batch of the log as the processor takes it apart: in several parts where a reading is behind the mark of its read. */
export function acceptParts(batch: LogBatch, log: string): readonly AcceptedBatch[] {
  const parts: AcceptedBatch[] = []
  for (let rest: LogBatch | undefined = batch; rest !== undefined; ) {
    const accepting = new Accepting(rest, log)
    while (accepting.take(3));
    parts.push(accepting.accepted())
    rest = accepting.rest()
  }
  return parts
}
