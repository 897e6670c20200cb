/** The log without Kafka: the outbox read in place, as one partition whose offsets are its sequence numbers. */
import { Fault } from '../../schemas/fault.ts'
import type { EventLog, LogBatch, LogState } from './log.ts'
import type { SqliteOutbox } from './outbox.ts'

export interface EmbeddedOptions {
  /** Bounds of a batch. */
  readonly rowsMax?: number
  readonly bytesMax?: number
  /** How soon rows are seen that another process appended; those of this process are seen at once. */
  readonly pollMs?: number
  /**
   * Told of LOG_TRUNCATED: rows the ledger lacks are gone from the outbox, and reading goes on behind them; or the outbox is
   * an older copy of what the ledger has read, and all of it is read as another log.
   */
  readonly onFault?: (fault: Fault) => void
}

const structuredHeaders = { 'content-type': 'application/cloudevents+json; charset=UTF-8' }

/** Closing it leaves the outbox open: that belongs to who opened it. */
export function embeddedLog(outbox: SqliteOutbox, options: EmbeddedOptions = {}): EventLog {
  const limits = { rowsMax: options.rowsMax ?? 25_000, bytesMax: options.bytesMax ?? 16 * 1024 ** 2 }
  const timeoutMs = options.pollMs ?? 200
  const closing = new AbortController()
  let nextSeq = 1

  /** Where to begin: the ledger's own record decides, whatever was released. */
  async function begin({ resumeAt, reachedAt }: Parameters<EventLog['batches']>[0]): Promise<number> {
    let wanted = await resumeAt(0)
    const reached = await reachedAt?.(0)
    if ((wanted ?? 0n) > outbox.readableSeq || (reached ?? -1n) >= outbox.readableSeq) {
      // The ledger has more than was here to be read, be it of a batch that it never acknowledged: the file is an older
      // copy, and its next rows carry numbers that others had, even where there are as many of them by now. Under a new
      // id all of it is new, and what the ledger has vanishes by identity.
      const before = outbox.id
      outbox.renew()
      wanted = await resumeAt(0)
      if (wanted !== undefined && wanted > outbox.bounds().nextSeq)
        throw new Fault(
          'LOG_TRUNCATED',
          `outbox ${before} is an older copy of what the ledger has read; start again to read it under its new id`,
          { log: before, wanted: String(wanted) },
        )
      options.onFault?.(
        new Fault(
          'LOG_TRUNCATED',
          `outbox ${before} is an older copy of what the ledger has read: all of it is read again, as ${outbox.id}, and what it does not know to be read is due`,
          { log: outbox.id, before },
        ),
      )
    }
    const { firstSeq } = outbox.bounds()
    if (wanted === undefined) return firstSeq
    const wantedSeq = Number(wanted)
    outbox.releaseThrough(wantedSeq - 1)
    if (wantedSeq < firstSeq)
      options.onFault?.(
        new Fault(
          'LOG_TRUNCATED',
          `the ledger lacks rows ${wantedSeq} to ${firstSeq - 1}, which the outbox no longer keeps`,
          { log: outbox.id, wantedSeq, firstSeq },
        ),
      )
    return Math.max(wantedSeq, firstSeq)
  }

  return {
    get id() {
      return outbox.id
    },

    async *batches(reader): AsyncGenerator<LogBatch> {
      const signal = AbortSignal.any([reader.signal, closing.signal])
      nextSeq = await begin(reader)
      while (!signal.aborted) {
        const rows = outbox.rowsFrom(nextSeq, limits)
        if (rows.length === 0) {
          await outbox.appended({ signal, timeoutMs })
          continue
        }
        nextSeq = rows.at(-1)!.seq + 1
        yield {
          partition: 0,
          messages: rows.map(row => ({
            offset: BigInt(row.seq),
            key: row.key,
            value: row.value,
            headers: structuredHeaders,
            appendedMs: row.appendedMs,
          })),
        }
      }
    },

    async commit(batch): Promise<void> {
      outbox.releaseThrough(Number(batch.messages.at(-1)!.offset))
    },

    async state(): Promise<LogState> {
      return { lag: BigInt(Math.max(0, outbox.bounds().nextSeq - nextSeq)), partitions: [0] }
    },

    async [Symbol.asyncDispose](): Promise<void> {
      closing.abort()
    },
  }
}
