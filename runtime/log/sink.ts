/** Where events go that are no part of a read: into the outbox, or straight to Kafka; acknowledged when they are durable. */
import { setTimeout as sleep } from 'node:timers/promises'
import { asFault, Fault } from '../../schemas/fault.ts'
import { gathering } from './gathering.ts'
import type { KafkaLanes, LaneRow } from './kafka.ts'
import type { PushedEvent, SqliteOutbox } from './outbox.ts'
import { partitionOf } from './partition.ts'

export interface EventSink {
  /**
   * Resolves when the log has them all, or the outbox that sends them to it.
   * @throws Fault OUTBOX_FULL | LOG_UNREACHABLE and the like: then some may be there all the same; sent again, they are
   * duplicates.
   */
  put(events: readonly PushedEvent[]): Promise<void>
}

const gatherMs = 3
const gatheredMax = 5000

/** Requests that come together wait for the disk once. */
export function outboxSink(outbox: Pick<SqliteOutbox, 'push'>): EventSink {
  return gathering((some: readonly (readonly PushedEvent[])[]) => outbox.push(some.flat()), {
    waitMs: gatherMs,
    sizeOf: events => events.length,
    sizeMax: gatheredMax,
  })
}

interface Lane {
  readonly waiting: { readonly row: LaneRow; readonly sent: PromiseWithResolvers<void> }[]
  isSending: boolean
}

const sendTriesMax = 3
const retryMs = 500

/** Sends to Kafka: in each partition one send after the other, each with what has gathered behind the last. */
export function lanesSink(lanes: Pick<KafkaLanes, 'send' | 'partitions'>): EventSink {
  const open = new Map<number, Lane>()

  async function drain(partition: number, lane: Lane): Promise<void> {
    lane.isSending = true
    let failures = 0
    while (lane.waiting.length > 0)
      try {
        const ack = await lanes.send(
          partition,
          lane.waiting.map(({ row }) => row),
        )
        failures = 0
        for (const { sent } of lane.waiting.splice(0, ack.rows)) sent.resolve()
      } catch (error) {
        const fault = asFault(error, 'LOG_UNREACHABLE')
        if (fault.code === 'EVENT_TOO_LARGE') lane.waiting.shift()?.sent.reject(fault)
        else if (++failures < sendTriesMax) await sleep(retryMs)
        else for (const { sent } of lane.waiting.splice(0)) sent.reject(fault)
      }
    lane.isSending = false
  }

  return {
    async put(events) {
      const sent: Promise<void>[] = []
      for (const { key, value } of events) {
        const partition = partitionOf(key, lanes.partitions)
        const lane = open.get(partition) ?? { waiting: [], isSending: false }
        open.set(partition, lane)
        const ack = Promise.withResolvers<void>()
        lane.waiting.push({ row: { key, value }, sent: ack })
        sent.push(ack.promise)
        if (!lane.isSending) void drain(partition, lane)
      }
      const results = await Promise.allSettled(sent)
      const failed = results.find(result => result.status === 'rejected')
      if (failed)
        throw failed.reason instanceof Fault ? failed.reason : asFault(failed.reason, 'LOG_UNREACHABLE')
    },
  }
}
