/**
 * Sends the outbox to the log, a lane for each partition, one send at a time, and releases rows only once the log has
 * acknowledged them. What was sent and not released is sent again: duplicates, never losses.
 */
import { Counter } from 'prom-client'
import { backoffMs, type KafkaLanes } from '../runtime/log/kafka.ts'
import type { OutboxRow } from '../runtime/log/log.ts'
import { registry } from '../runtime/metrics.ts'
import { rest } from '../runtime/rest.ts'
import { asFault, Fault } from '../schemas/fault.ts'

/** What the relay needs of an outbox. */
export interface RelayOutbox {
  /** The oldest rows of a partition that are not released; at least one where there is one. */
  pending(
    partition: number,
    limits: { readonly rowsMax: number; readonly bytesMax: number },
  ): readonly OutboxRow[]
  /** The log holds these rows, in this order, from `baseOffset` on. */
  release(partition: number, seqs: readonly number[], baseOffset: bigint): void
  /** Sets aside a row that the log will never take. */
  quarantine(seq: number, reason: string): void
  /** Waits until something may have been appended. */
  appended(options: { readonly signal: AbortSignal; readonly timeoutMs: number }): Promise<void>
}

export interface RelayOptions {
  readonly outbox: RelayOutbox
  readonly lanes: Pick<KafkaLanes, 'partitions' | 'limits' | 'send'>
  readonly signal: AbortSignal
  /** How soon rows are seen that another process appended. */
  readonly pollMs?: number
  /** Ends with LOG_UNREACHABLE when rows wait and no partition was acknowledged for so long. */
  readonly unreachableAfterMs?: number
  /** How long a stop waits for sends under way; what they leave open is sent again. */
  readonly drainMs?: number
  /** For the health of the role. */
  readonly onAck?: () => void
  readonly onFault?: (fault: Fault) => void
}

/** A send costs the same for one row as for hundreds, here, at the broker and at who reads it. */
const lingerMs = 100
/** A send that neither succeeds nor fails for so many times the limit is kafkajs's own knot: only a new client helps. */
const knotted = 5

const quarantined = new Counter({
  name: 'meterline_relay_quarantined_total',
  help: 'Rows of the outbox that the log would never take.',
  registers: [registry],
})

/**
 * Runs until the signal is aborted. There must be one relay to an outbox.
 * @throws Fault LOG_UNREACHABLE: begin again with new lanes | LOG_UNSAFE
 */
export async function relay(options: RelayOptions): Promise<void> {
  const { lanes, signal, unreachableAfterMs = 60_000, drainMs = 15_000 } = options
  const failure = Promise.withResolvers<never>()
  // A lane that fails ends the others too.
  const ending = new AbortController()
  const until = AbortSignal.any([signal, ending.signal])
  const watch = new Watch(lanes.partitions, unreachableAfterMs)
  const ticking = setInterval(
    () => {
      const fault = watch.fault()
      if (fault) failure.reject(fault)
    },
    Math.min(1_000, unreachableAfterMs),
  )
  const rows = new Rows(options.outbox, options.pollMs ?? 50, until)
  const all = Promise.all(
    Array.from({ length: lanes.partitions }, (_, partition) =>
      lane(partition, options, { until, watch, rows }),
    ),
  )
  try {
    const stopped = new Promise<void>(resolve => {
      until.addEventListener('abort', () => setTimeout(resolve, drainMs).unref(), { once: true })
      if (until.aborted) resolve()
    })
    await Promise.race([all, failure.promise, stopped])
  } finally {
    clearInterval(ticking)
    ending.abort()
    all.catch(() => {})
  }
}

async function lane(
  partition: number,
  options: RelayOptions,
  run: { readonly until: AbortSignal; readonly watch: Watch; readonly rows: Rows },
): Promise<void> {
  const { outbox, lanes } = options
  const { until, watch } = run
  let failures = 0
  while (!until.aborted) {
    const rows = outbox.pending(partition, lanes.limits)
    if (rows.length === 0) {
      watch.idle(partition)
      await run.rows.appended()
      continue
    }
    watch.busy(partition)
    const sent = await attempt(() => lanes.send(partition, rows))
    if (sent instanceof Fault) {
      options.onFault?.(sent)
      if (sent.code === 'EVENT_TOO_LARGE') {
        const { seq } = rows[0]!
        await persistently(until, options, () => outbox.quarantine(seq, `${sent.code} ${sent.message}`))
        quarantined.inc()
      } else if (sent.code === 'LOG_UNREACHABLE') {
        watch.failed(partition)
        await rest(backoffMs(failures++), until)
      } else throw sent
      continue
    }
    const seqs = rows.slice(0, sent.rows).map(row => row.seq)
    await persistently(until, options, () => outbox.release(partition, seqs, sent.baseOffset))
    watch.acknowledged(partition)
    options.onAck?.()
    failures = 0
    // What is left is less than a send may hold: what is read in a moment goes with it.
    if (sent.rows === rows.length && rows.length < lanes.limits.rowsMax / 2) await rest(lingerMs, until)
  }
}

/** What a lane answers: an acknowledgement, or the Fault that it throws. */
async function attempt<T>(send: () => Promise<T>): Promise<T | Fault> {
  try {
    return await send()
  } catch (error) {
    if (error instanceof Fault) return error
    throw error
  }
}

/**
 * The log has these rows: while the outbox cannot take note of it (its disk is full), sending them again and again
 * would only fill the log.
 */
async function persistently(until: AbortSignal, options: RelayOptions, note: () => void): Promise<void> {
  for (let failures = 0; ; failures += 1) {
    try {
      return note()
    } catch (error) {
      const isOfSqlite = error instanceof Error && 'code' in error && error.code === 'ERR_SQLITE_ERROR'
      if (!(error instanceof Fault) && !isOfSqlite) throw error
      const fault = asFault(error, 'OUTBOX_FULL')
      options.onFault?.(fault)
      if (until.aborted || fault.fate === 'halt') throw fault
      await rest(backoffMs(failures), until)
    }
  }
}

/** One wait for new rows, shared by the lanes that have none. */
class Rows {
  readonly #outbox: RelayOutbox
  readonly #timeoutMs: number
  readonly #signal: AbortSignal
  #waiting: Promise<void> | undefined

  constructor(outbox: RelayOutbox, timeoutMs: number, signal: AbortSignal) {
    this.#outbox = outbox
    this.#timeoutMs = timeoutMs
    this.#signal = signal
  }

  appended(): Promise<void> {
    this.#waiting ??= this.#outbox
      .appended({ signal: this.#signal, timeoutMs: this.#timeoutMs })
      .finally(() => {
        this.#waiting = undefined
      })
    return this.#waiting
  }
}

/** Knows since when rows wait in each partition, and when the log last acknowledged any. */
class Watch {
  readonly #limitMs: number
  readonly #waitingSinceMs: (number | undefined)[]
  readonly #sendingSinceMs: (number | undefined)[]
  #lastAckMs = performance.now()

  constructor(partitions: number, limitMs: number) {
    this.#limitMs = limitMs
    this.#waitingSinceMs = Array.from({ length: partitions }, () => undefined)
    this.#sendingSinceMs = Array.from({ length: partitions }, () => undefined)
  }

  idle(partition: number): void {
    this.#waitingSinceMs[partition] = undefined
    this.#sendingSinceMs[partition] = undefined
  }

  busy(partition: number): void {
    this.#sendingSinceMs[partition] = performance.now()
    this.#waitingSinceMs[partition] ??= this.#sendingSinceMs[partition]
  }

  failed(partition: number): void {
    this.#sendingSinceMs[partition] = undefined
  }

  acknowledged(partition: number): void {
    this.idle(partition)
    this.#lastAckMs = performance.now()
  }

  fault(): Fault | undefined {
    const nowMs = performance.now()
    const waitedMs = (since: number | undefined) => (since === undefined ? 0 : nowMs - since)
    const waitsMost = Math.max(...this.#waitingSinceMs.map(waitedMs))
    if (waitsMost > this.#limitMs && nowMs - this.#lastAckMs > this.#limitMs)
      return new Fault(
        'LOG_UNREACHABLE',
        `rows wait, and no send was acknowledged for ${seconds(waitsMost)}`,
        {
          waitedMs: Math.round(waitsMost),
        },
      )
    const sending = this.#sendingSinceMs.findIndex(since => waitedMs(since) > knotted * this.#limitMs)
    if (sending < 0) return undefined
    return new Fault('LOG_UNREACHABLE', `a send to partition ${sending} neither succeeds nor fails`, {
      partition: sending,
    })
  }
}

const seconds = (durationMs: number) => `${Math.round(durationMs / 1000)} s`
