/**
 * Those who ask: so many questions are worked on at once, so many wait, and what is beyond is told to come again. A question
 * has one thread, a bound on time and memory, and gives way to inserts.
 */
import { Counter, Gauge } from 'prom-client'
import { registry } from '../runtime/metrics.ts'
import { Fault } from '../schemas/fault.ts'
import type { Reading } from './store.ts'

export interface QueryLimits {
  readonly seconds: number
  readonly memoryBytes: number
  readonly concurrency: number
  readonly queued: number
}

/** What one question may take. */
export interface Bounds extends Reading {
  /** Rows of usage that it may hold, where it needs them all at once: of `memoryBytes`. */
  readonly rowsMax: number
}

/** Measured: 270 for a quantity with two dims, and about as much again while it is priced. */
const heldRowBytes = 512

const asked = new Counter({
  name: 'meterline_queries_total',
  help: 'Questions for usage, by what became of them: answered, refused (too many waited), failed, left (by who asked).',
  labelNames: ['outcome'] as const,
  registers: [registry],
})
const waiting = new Gauge({
  name: 'meterline_queries_waiting',
  help: 'Questions that wait for their turn.',
  registers: [registry],
})

/** Answers that are made but not yet read to the end, for each question that may be worked on at once. */
const unreadMax = 8
const retryAfterSeconds = 2

export class Queries {
  readonly #limits: QueryLimits
  readonly #working: Turns
  readonly #unread: Turns

  constructor(limits: QueryLimits) {
    this.#limits = limits
    this.#working = new Turns(limits.concurrency, limits.queued)
    this.#unread = new Turns(limits.concurrency * unreadMax, limits.queued)
  }

  /**
   * Asks when it is its turn. The turn ends with the first rows, since what is left then is to hand the others out: who reads
   * slowly keeps nobody waiting.
   * @throws Fault QUERY_BUSY where too many wait already
   */
  async *ask<Rows>(
    signal: AbortSignal,
    question: (bounds: Bounds) => AsyncIterable<Rows>,
  ): AsyncGenerator<Rows> {
    let outcome = 'failed'
    let endUnread: (() => void) | undefined
    let endWork: (() => void) | undefined
    try {
      endUnread = await this.#unread.take(signal)
      endWork = await this.#working.take(signal)
      // Left by its reader in the middle unless it says otherwise at its end.
      outcome = 'left'
      const rowsMax = Math.floor(this.#limits.memoryBytes / heldRowBytes)
      for await (const rows of question({ signal, settings: this.#settings(), rowsMax })) {
        endWork()
        yield rows
      }
      outcome = 'answered'
    } catch (error) {
      const code = error instanceof Fault ? error.code : ''
      outcome = code === 'QUERY_BUSY' ? 'refused' : code === 'ABORTED' ? 'left' : 'failed'
      throw error
    } finally {
      endWork?.()
      endUnread?.()
      asked.inc({ outcome })
    }
  }

  #settings(): Required<Reading>['settings'] {
    const { seconds, memoryBytes } = this.#limits
    return {
      max_threads: 1,
      max_execution_time: seconds,
      max_memory_usage: String(memoryBytes),
      // Groups that do not fit go to the disk before the bound is reached.
      max_bytes_before_external_group_by: String(Math.floor(memoryBytes / 2)),
      // Groups in 256 buckets are for many threads; with one, sorting them together costs more than grouping.
      group_by_two_level_threshold: '0',
      group_by_two_level_threshold_bytes: '0',
      max_bytes_before_external_sort: String(Math.floor(memoryBytes / 2)),
      // Nice, where the server may set it (CAP_SYS_NICE); and at each block a moment's rest while rows go in, whose
      // statements have 1 (store.ts). The default of a second would stop questions for as long as anything comes in.
      os_thread_priority: '10',
      priority: '2',
      low_priority_query_wait_time_ms: '5',
    }
  }
}

/** A count of places: whoever wants one waits for it, in the order of asking, and not with too many others. */
class Turns {
  #free: number
  readonly #waitingMax: number
  readonly #waiting: (() => void)[] = []

  constructor(free: number, waitingMax: number) {
    this.#free = free
    this.#waitingMax = waitingMax
  }

  /** Resolves to what ends the turn; that may be called more than once. */
  async take(signal: AbortSignal): Promise<() => void> {
    if (this.#free > 0) this.#free -= 1
    else await this.#wait(signal)
    let isHeld = true
    return () => {
      if (!isHeld) return
      isHeld = false
      const next = this.#waiting.shift()
      if (next) next()
      else this.#free += 1
    }
  }

  async #wait(signal: AbortSignal): Promise<void> {
    if (this.#waiting.length >= this.#waitingMax)
      throw new Fault('QUERY_BUSY', `${this.#waiting.length} questions wait already`, { retryAfterSeconds })
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const leave = () => {
      const at = this.#waiting.indexOf(resolve)
      if (at < 0) return
      this.#waiting.splice(at, 1)
      reject(new Fault('ABORTED', 'nobody waits for the answer any longer'))
    }
    this.#waiting.push(resolve)
    waiting.inc()
    signal.addEventListener('abort', leave, { once: true })
    if (signal.aborted) leave()
    try {
      await promise
    } finally {
      waiting.dec()
      signal.removeEventListener('abort', leave)
    }
  }
}
