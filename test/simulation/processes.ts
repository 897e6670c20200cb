/**
 * Whole processes inside one: each waits on a clock of its own that only the simulation moves, takes turns for what goes
 * over a wire, and can be killed at any await. What a killed process awaits never comes.
 */
import { AsyncLocalStorage } from 'node:async_hooks'

const running = new AsyncLocalStorage<Process>()

/** Time for those who share it: collectors live by the world's, every processor has one of its own. */
export class Clock {
  nowMs: number

  constructor(startMs: number) {
    this.nowMs = startMs
  }
}

interface Waiting {
  readonly process: Process
  readonly order: number
  readonly everyMs: number | undefined
  atMs: number
  readonly act: () => void
}

let timersMade = 0

export class Process {
  readonly name: string
  readonly clock: Clock
  readonly #timers = new Set<Waiting>()
  #alive = true

  constructor(name: string, clock: Clock) {
    this.name = name
    this.clock = clock
  }

  get alive(): boolean {
    return this.#alive
  }

  /** Runs code as this process: its timers, its turns, its clock. */
  run<Result>(act: () => Result): Result {
    return running.run(this, act)
  }

  kill(): void {
    this.#alive = false
    this.#timers.clear()
  }

  /** When its next timer is due, by its own clock. */
  nextMs(): number | undefined {
    let next: number | undefined
    for (const { atMs } of this.#timers) if (next === undefined || atMs < next) next = atMs
    return next
  }

  /** Fires what is due by its clock, in order, each once: a process that was stalled is late for all of it. */
  fire(): number {
    const due = [...this.#timers].filter(timer => timer.atMs <= this.clock.nowMs)
    due.sort((a, b) => a.atMs - b.atMs || a.order - b.order)
    for (const timer of due) {
      if (!this.#timers.has(timer)) continue
      if (timer.everyMs === undefined) this.#timers.delete(timer)
      else timer.atMs = this.clock.nowMs + timer.everyMs
      this.run(timer.act)
    }
    return due.length
  }

  wait(act: () => void, ms: number, everyMs?: number): Waiting {
    const atMs = this.clock.nowMs + Math.max(1, Number.isFinite(ms) ? ms : 2 ** 31)
    const timer = { process: this, order: timersMade++, everyMs, atMs, act }
    // A killed process may still be unwinding what was thrown at it: nothing of it happens any more.
    if (this.#alive) this.#timers.add(timer)
    return timer
  }

  forget(timer: Waiting): void {
    this.#timers.delete(timer)
  }
}

/** A timer as Node's callers know it. */
class VirtualTimer {
  readonly waiting: Waiting

  constructor(waiting: Waiting) {
    this.waiting = waiting
  }

  unref(): this {
    return this
  }

  ref(): this {
    return this
  }
}

/** Puts the timers of processes on their clocks, until disposed of; whoever is no process keeps the real ones. */
export function virtualTime(): Disposable {
  const real = { setTimeout, clearTimeout, setInterval, clearInterval, now: performance.now }
  const set =
    (repeats: boolean) =>
    (act: (...args: unknown[]) => void, ms?: number, ...args: unknown[]) => {
      const process = running.getStore()
      if (!process) return (repeats ? real.setInterval : real.setTimeout)(act, ms, ...args)
      return new VirtualTimer(
        process.wait(() => act(...args), ms ?? 0, repeats ? Math.max(1, ms ?? 1) : undefined),
      )
    }
  const clear = (clearReal: (timer: NodeJS.Timeout | undefined) => void) => (timer: unknown) => {
    if (timer instanceof VirtualTimer) timer.waiting.process.forget(timer.waiting)
    else clearReal(timer as NodeJS.Timeout | undefined)
  }
  Object.assign(globalThis, {
    setTimeout: set(false),
    setInterval: set(true),
    clearTimeout: clear(real.clearTimeout),
    clearInterval: clear(real.clearInterval),
  })
  performance.now = () => running.getStore()?.clock.nowMs ?? real.now.call(performance)
  return {
    [Symbol.dispose]() {
      const { now, ...timers } = real
      Object.assign(globalThis, timers)
      performance.now = now
    },
  }
}

/** How a turn goes: done, refused before anything happened, done in part, or done with its answer lost. */
export type How = 'whole' | 'refused' | 'partly' | 'unanswered'

export type Wire = 'statement' | 'send' | 'answer'

export interface Turn {
  readonly process: Process
  readonly wire: Wire
  readonly what: string
  /** `dies`: the process is killed at this very point, whatever became of its turn. */
  go(how: How, dies: boolean): Promise<void>
}

/** What processes wait for from outside: each gets it when the simulation gives it its turn, one at a time. */
export class Turns {
  #waiting: Turn[] = []

  /** `fault` is what the process sees where its turn does not go well. */
  take<Result>(
    wire: Wire,
    what: string,
    acts: { readonly whole: () => Promise<Result>; readonly part?: () => Promise<unknown> },
    fault: () => unknown,
  ): Promise<Result> {
    const process = running.getStore()
    if (!process) return acts.whole()
    return new Promise((resolve, reject) => {
      if (!process.alive) return
      const go = async (how: How, dies: boolean): Promise<void> => {
        let answer: Result | undefined
        let failure: unknown
        try {
          if (how === 'whole' || how === 'unanswered') answer = await acts.whole()
          if (how === 'partly') await acts.part?.()
        } catch (error) {
          failure = error
        }
        if (dies) process.kill()
        if (!process.alive) return
        if (failure !== undefined) reject(failure)
        else if (how === 'whole') resolve(answer as Result)
        else reject(fault())
      }
      this.#waiting.push({ process, wire, what, go })
    })
  }

  get waiting(): readonly Turn[] {
    return this.#waiting
  }

  give(turn: Turn): void {
    this.#waiting = this.#waiting.filter(other => other !== turn)
  }

  /** What a killed process had asked for: some of it is on its way all the same. */
  drop(isLost: (turn: Turn) => boolean): void {
    this.#waiting = this.#waiting.filter(turn => turn.process.alive || !isLost(turn))
  }
}

/** Lets everything go on that waits for nothing outside. */
export async function settle(): Promise<void> {
  for (let round = 0; round < 3; round += 1) await new Promise(resolve => setImmediate(resolve))
}
