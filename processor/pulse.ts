/** Whether a processor does its work: is it stuck, does it reject much, do its rollups keep up. Pure: the time is an argument. */
import { hourMs, minuteMs } from '../schemas/window.ts'

export interface PulseLimits {
  /** Behind, and nothing acknowledged for so long: stuck. */
  readonly stuckAfterMs: number
  /** A partition paused, or a log silent about how far it is, for so long. */
  readonly silentAfterMs: number
  /** Cells stale for longer: the rollups do not keep up. */
  readonly staleAfterMs: number
  /** Rejects of the last hour: at least so many, and so large a share of what was taken. */
  readonly rejectsMin: number
  readonly rejectsShare: number
}

export const pulseDefaults: PulseLimits = {
  stuckAfterMs: minuteMs,
  silentAfterMs: minuteMs,
  staleAfterMs: 10 * minuteMs,
  rejectsMin: 20,
  rejectsShare: 0.01,
}

/** What a log says of itself. */
export interface Heard {
  readonly lag: bigint
  readonly paused?: readonly number[]
  readonly problem?: string
}

interface Bucket {
  readonly minute: number
  messages: number
  rejects: number
}

/** Times are milliseconds of a clock that never goes back. */
export class Pulse {
  readonly #limits: PulseLimits
  #inHand = 0
  #lag = 0n
  /** Since when there is something to do and nothing of it was done. */
  #waitingMs: number | undefined
  #heardMs: number
  #unheard: string | undefined
  #problem: string | undefined
  #pausedMs: ReadonlyMap<number, number> = new Map()
  #staleMs = 0
  #buckets: Bucket[] = []

  constructor(nowMs: number, limits: Partial<PulseLimits> = {}) {
    this.#limits = { ...pulseDefaults, ...limits }
    this.#heardMs = nowMs
  }

  /** Messages that the log gave out and the ledger has not acknowledged. */
  get inHand(): number {
    return this.#inHand
  }

  given(messages: number, nowMs: number): void {
    this.#inHand += messages
    this.#waitingMs ??= nowMs
  }

  acknowledged(messages: number, rejects: number, nowMs: number): void {
    this.#inHand -= messages
    this.#waitingMs = this.#isBehind() ? nowMs : undefined
    const minute = Math.floor(nowMs / minuteMs)
    let last = this.#buckets.at(-1)
    if (last?.minute !== minute) {
      last = { minute, messages: 0, rejects: 0 }
      this.#buckets = [...this.#lastHour(nowMs), last]
    }
    last.messages += messages
    last.rejects += rejects
  }

  /** Messages in hand that will be given out once more. */
  dropped(messages: number): void {
    this.#inHand -= messages
    if (!this.#isBehind()) this.#waitingMs = undefined
  }

  heard({ lag, paused = [], problem }: Heard, nowMs: number): void {
    this.#lag = lag
    this.#heardMs = nowMs
    this.#unheard = undefined
    this.#problem = problem
    this.#waitingMs = this.#isBehind() ? (this.#waitingMs ?? nowMs) : undefined
    this.#pausedMs = new Map(paused.map(partition => [partition, this.#pausedMs.get(partition) ?? nowMs]))
  }

  /** The log was asked and did not say. */
  unheard(why: string): void {
    this.#unheard = why
  }

  /** For how long the oldest stale cell has been stale. */
  stale(ms: number): void {
    this.#staleMs = ms
  }

  rejectedLastHour(nowMs: number): { readonly messages: number; readonly rejects: number } {
    const some = this.#lastHour(nowMs)
    const sum = (of: 'messages' | 'rejects') => some.reduce((total, bucket) => total + bucket[of], 0)
    return { messages: sum('messages'), rejects: sum('rejects') }
  }

  /** What is wrong, each in a sentence. */
  problems(nowMs: number): readonly string[] {
    const { stuckAfterMs, silentAfterMs, staleAfterMs, rejectsMin, rejectsShare } = this.#limits
    const found: string[] = []
    const waitedMs = this.#waitingMs === undefined ? 0 : nowMs - this.#waitingMs
    if (waitedMs >= stuckAfterMs)
      found.push(
        `stuck: nothing was acknowledged for ${seconds(waitedMs)}, and ${this.#lag + BigInt(this.#inHand)} messages wait`,
      )
    const silentMs = nowMs - this.#heardMs
    if (silentMs >= silentAfterMs)
      found.push(
        `the log has not said for ${seconds(silentMs)} how far it is${this.#unheard === undefined ? '' : `: ${this.#unheard}`}`,
      )
    const paused = [...this.#pausedMs].filter(([, sinceMs]) => nowMs - sinceMs >= silentAfterMs)
    if (paused.length > 0)
      found.push(`paused: partitions ${paused.map(([one]) => one).join(', ')} are not read`)
    if (this.#problem !== undefined) found.push(`the log: ${this.#problem}`)
    if (this.#staleMs >= staleAfterMs)
      found.push(
        `rollups: cells have been stale for ${seconds(this.#staleMs)}; answers come from the ledger, and are slow`,
      )
    const { messages, rejects } = this.rejectedLastHour(nowMs)
    if (rejects >= rejectsMin && rejects >= messages * rejectsShare)
      found.push(`rejects: ${rejects} of ${messages} messages of the last hour`)
    return found
  }

  #isBehind(): boolean {
    return this.#inHand > 0 || this.#lag > 0n
  }

  #lastHour(nowMs: number): Bucket[] {
    return this.#buckets.filter(({ minute }) => minute * minuteMs > nowMs - hourMs)
  }
}

function seconds(ms: number): string {
  return `${Math.round(ms / 1000)} s`
}
