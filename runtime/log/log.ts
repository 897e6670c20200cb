/** The port between collector and processor: ordered partitions of messages, read in batches, committed after the ledger has them. */

/** One message as the log holds it. */
export interface LogMessage {
  readonly offset: bigint
  readonly key: string | null
  readonly value: Buffer | null
  /** Header names lower-cased, values as UTF-8. */
  readonly headers: Readonly<Record<string, string>>
  /** When the log appended it. */
  readonly appendedMs: number
}

/** Consecutive messages of one partition, oldest first; never empty. */
export interface LogBatch {
  readonly partition: number
  readonly messages: readonly LogMessage[]
}

/** What a consumer has: how far it is behind, and whether it is alive. */
export interface LogState {
  /** Messages not yet delivered, over the partitions this reader has. */
  readonly lag: bigint
  readonly partitions: readonly number[]
  /** Those of them that are not being read now. One that stays so turns readiness red. */
  readonly paused?: readonly number[]
  /** What keeps it from reading though its brokers answer, in words: readiness is red while it says so. */
  readonly problem?: string
}

/**
 * A reader of the log. At the start of each partition `resumeAt` says where the ledger's own record ends (the next
 * offset wanted, or undefined for a partition it knows nothing of): that decides, whatever was committed. `reachedAt`
 * says the highest offset of which it has anything, put whole or only begun; for logs whose numbers can go back.
 */
export interface EventLog extends AsyncDisposable {
  /** Tells logs apart in `positions`: the topic's id, or the outbox's. */
  readonly id: string
  batches(options: {
    readonly resumeAt: (partition: number) => Promise<bigint | undefined>
    readonly reachedAt?: (partition: number) => Promise<bigint | undefined>
    readonly signal: AbortSignal
  }): AsyncIterable<LogBatch>
  /** Call when the ledger has acknowledged every row of the batch. */
  commit(batch: LogBatch): Promise<void>
  state(): Promise<LogState>
}

/** A message that could not be accepted, with where it stood. */
export interface RejectedMessage {
  readonly partition: number
  readonly offset: bigint
  readonly code: string
  readonly reason: string
  /** Of the original message: they say what its bytes are. */
  readonly headers?: Readonly<Record<string, string>>
  /** Where HTTP refused it, which lets in less than the log does. */
  readonly origin?: 'http'
  /** The first 64 KiB of the original bytes; `bytes` and `sha256` are of the whole. */
  readonly value: Buffer
  readonly bytes: number
  readonly sha256: string
}

/** Where rejects go besides the ledger's table: Kafka's `meterline.rejected`, or nowhere when embedded. */
export interface RejectLog extends AsyncDisposable {
  put(rejects: readonly RejectedMessage[]): Promise<void>
}

/** A row of the outbox on its way to the log. */
export interface OutboxRow {
  readonly seq: number
  readonly partition: number
  readonly key: string
  readonly value: Buffer
}
