/** The processor's loop: log → accept → ledger → commit, with rollups recomputed beside it. */
import { setImmediate } from 'node:timers/promises'
import { Counter, Gauge, Histogram } from 'prom-client'
import type { EventLog, LogBatch, RejectLog } from '../runtime/log/log.ts'
import { registry } from '../runtime/metrics.ts'
import { rest } from '../runtime/rest.ts'
import { asFault, describeFault, Fault } from '../schemas/fault.ts'
import type { Meter } from '../schemas/meters.ts'
import { type AcceptedBatch, Accepting } from './accept.ts'
import type { SuspectRule } from './judge.ts'
import { Ledger } from './ledger.ts'
import { newToken, recompute, registerMeters } from './rollups.ts'
import type { Store } from './store.ts'

const messagesTotal = new Counter({
  name: 'meterline_processor_messages_total',
  help: 'Messages taken from the log, by what became of them.',
  labelNames: ['outcome'],
  registers: [registry],
})
const putSeconds = new Histogram({
  name: 'meterline_processor_put_seconds',
  help: 'Time from a decoded batch to its acknowledgement by the ledger.',
  buckets: [0.01, 0.05, 0.1, 0.5, 1, 5, 30],
  registers: [registry],
})
const lagMessages = new Gauge({
  name: 'meterline_processor_lag_messages',
  help: 'Messages of the log that are not yet in the ledger.',
  registers: [registry],
})
const recomputedCells = new Counter({
  name: 'meterline_rollup_cells_recomputed_total',
  help: 'Cells computed again from the ledger.',
  registers: [registry],
})

export interface ProcessorOptions {
  readonly store: Store
  readonly log: EventLog
  readonly rejects?: RejectLog
  readonly meters: readonly Meter[]
  /** When a complete read has to wait; null where none ever has. */
  readonly suspect?: SuspectRule | null
  readonly signal: AbortSignal
  /** One line for the operator. */
  readonly say: (line: string) => void
}

/** A running processor. `done` resolves when it was stopped, and rejects when it must not go on. */
export interface Processor {
  readonly done: Promise<void>
  /** The offset behind the last one acknowledged by the ledger in this run. */
  position(partition: number): bigint | undefined
  /** How many messages the ledger acknowledged in this run. */
  taken(): bigint
  /** What is wrong now, or undefined: for readiness. */
  trouble(): string | undefined
  /** Resolves when no cell is stale. */
  fresh(signal: AbortSignal): Promise<void>
}

interface Taken {
  readonly batch: LogBatch
  readonly accepted: AcceptedBatch
}

/** Some ten milliseconds of work. */
const turnMessages = 400
/** As much as one insert may hold: beyond it the log waits. */
const waitingMessagesMax = 50_000
const retryMsMax = 10_000
/** So many cells of two dims and their groups fit in a few hundred megabytes. */
const cellsMax = 50_000
const freshenEveryMs = 200
/** Where nothing came in: another processor may have left something. */
const idleEveryMs = 1000
/** So long after the last batch the log counts as quiet. */
const quietMs = 500
const busyRestMs = 5000

/** Starts the loop. Registering meters happens first, so that every recompute knows them. */
export async function startProcessor(options: ProcessorOptions): Promise<Processor> {
  const { store, log, meters, signal } = options
  await registerMeters(store, meters, newToken)
  const stop = new AbortController()
  const running = AbortSignal.any([signal, stop.signal])
  const ledger = new Ledger(store, log.id, options.suspect)
  const positions = new Map<number, bigint>()
  let taken = 0n
  let takenMs = Number.NEGATIVE_INFINITY
  let isPutting = false
  const troubles = new Map<'ledger' | 'rollups', string>()

  async function insisting<T>(what: 'ledger' | 'rollups', act: () => Promise<T>): Promise<T | undefined> {
    for (let waitMs = 100; ; waitMs = Math.min(waitMs * 2, retryMsMax)) {
      try {
        const done = await act()
        if (troubles.delete(what)) options.say(`${what}: works again`)
        return done
      } catch (error) {
        const fault = asFault(error, 'STORE_REFUSED')
        if (fault.fate !== 'retry') throw fault
        if (running.aborted) return undefined
        if (!troubles.has(what)) options.say(`${what}: ${describeFault(fault)}: trying again until it works`)
        troubles.set(what, describeFault(fault))
        await rest(waitMs, running)
      }
    }
  }

  async function take(batches: readonly Taken[]): Promise<void> {
    const timer = putSeconds.startTimer()
    const accepted = batches.map(batch => batch.accepted)
    const put = await insisting('ledger', async () => {
      const outcome = await ledger.put(accepted)
      if (outcome.rejects.length > 0) await options.rejects?.put(outcome.rejects)
      return outcome
    })
    takenMs = performance.now()
    if (!put) return
    timer()
    for (const { batch } of batches) await log.commit(batch)
    for (const { partition, last, messages } of accepted) {
      positions.set(partition, last + 1n)
      taken += BigInt(messages)
    }
    const { rejects } = put
    messagesTotal.inc({ outcome: 'reading' }, put.readings)
    messagesTotal.inc({ outcome: 'mark' }, put.marks)
    messagesTotal.inc({ outcome: 'decision' }, put.decisions)
    messagesTotal.inc({ outcome: 'duplicate' }, put.duplicates)
    messagesTotal.inc({ outcome: 'conflict' }, put.conflicts)
    messagesTotal.inc({ outcome: 'rejected' }, rejects.length)
    for (const reject of rejects.slice(0, 5))
      options.say(
        `rejected: partition=${reject.partition} offset=${reject.offset} ${reject.code} ${reject.reason}`,
      )
  }

  /**
   * What comes and is decoded while batches are on their way into the ledger goes in together after them: the slower
   * the ledger, the larger its inserts, up to a bound at which the log has to wait.
   */
  async function ingest(): Promise<void> {
    let waiting: Taken[] = []
    let putting: Promise<void> = Promise.resolve()
    async function putWaiting(): Promise<void> {
      isPutting = true
      try {
        for (let some = waiting; some.length > 0; some = waiting) {
          waiting = []
          await take(some)
        }
      } finally {
        // In one turn with the look at `waiting`: what comes after it finds nobody putting, and starts.
        isPutting = false
      }
    }
    const start = () => {
      if (isPutting) return
      putting = putWaiting()
      putting.catch(() => stop.abort())
    }
    const resumeAt = async (partition: number) => {
      await putting.catch(() => undefined)
      return await insisting('ledger', () => ledger.resumeAt(partition))
    }
    for await (const batch of log.batches({ resumeAt, signal: running })) {
      const accepting = new Accepting(batch, log.id)
      // In turns with the batches before, whose steps would otherwise wait for this one's end.
      while (accepting.take(turnMessages)) await setImmediate()
      waiting.push({ batch, accepted: accepting.accepted() })
      start()
      if (waiting.reduce((sum, { accepted }) => sum + accepted.messages, 0) >= waitingMessagesMax)
        await putting
    }
    await putting
  }

  /**
   * While batches come in, cells are left stale for a while: the hour that is coming in is touched again and again,
   * and its answers come from the ledger meanwhile. Once nothing comes, they are computed at once.
   */
  async function freshen(): Promise<void> {
    for (let startedMs = performance.now(); !running.aborted; startedMs = performance.now()) {
      const cells = (await insisting('rollups', () => recompute(store, { run: newToken(), cellsMax }))) ?? 0
      recomputedCells.inc(cells)
      const isBusy = () => isPutting || performance.now() - takenMs < quietMs
      const mostMs = Math.max(busyRestMs, 2 * (performance.now() - startedMs))
      const everyMs = cells === 0 && takenMs < startedMs ? idleEveryMs : freshenEveryMs
      do await rest(everyMs, running)
      while (!running.aborted && isBusy() && performance.now() - startedMs < mostMs)
    }
  }

  async function measureLag(): Promise<void> {
    while (!running.aborted) {
      await log.state().then(
        state => lagMessages.set(Number(state.lag)),
        () => undefined,
      )
      await rest(5000, running)
    }
  }

  const parts = [ingest(), freshen(), measureLag()]
  for (const part of parts) part.catch(() => stop.abort())
  const done = Promise.allSettled(parts).then(results => {
    for (const result of results) if (result.status === 'rejected') throw result.reason
    if (!signal.aborted) throw new Fault('LOG_UNREACHABLE', 'the log ended by itself', { log: log.id })
  })
  done.catch(() => undefined)
  return {
    done,
    position: partition => positions.get(partition),
    taken: () => taken,
    trouble: () => troubles.values().next().value,
    fresh: async until => {
      while (!until.aborted) {
        const [row] = await store.rows<{ cells: string }>(
          'select count() as cells from stale final where not done',
        )
        if (row?.cells === '0') return
        await rest(100, until)
      }
    },
  }
}
