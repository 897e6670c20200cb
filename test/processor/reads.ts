/** Makes the messages of reads for tests: what a collector would have put into the log. */
import type { LogBatch, LogMessage } from '../../runtime/log/log.ts'
import {
  contentHash,
  type MarkData,
  type MarkEvent,
  type ReadIdentity,
  type ReadingEvent,
  sealMark,
  sealReading,
  showDigest,
  type Usage,
} from '../../schemas/event.ts'

export const headers = { 'content-type': 'application/cloudevents+json; charset=UTF-8' }

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

/** All events of a read: its readings, then its mark. */
export function readEvents(
  read: ReadIdentity,
  usages: readonly Usage[],
  mark: Partial<Omit<MarkData, 'window'>> = {},
): readonly (ReadingEvent | MarkEvent)[] {
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
  return [...(mark.repeats === undefined ? readings : []), sealMark(data, read)]
}

export function messagesOf(events: readonly (ReadingEvent | MarkEvent)[], firstOffset: bigint): LogMessage[] {
  return events.map((event, index) => ({
    offset: firstOffset + BigInt(index),
    key: event.partitionkey,
    value: Buffer.from(JSON.stringify(event)),
    headers,
    appendedMs: 0,
  }))
}

export function batchOf(
  events: readonly (ReadingEvent | MarkEvent)[],
  firstOffset: bigint | number,
  partition = 0,
): LogBatch {
  return { partition, messages: messagesOf(events, BigInt(firstOffset)) }
}
