/**
 * The processor's loop: log → accept → ledger → commit, with rollups recomputed beside it. Where ClickHouse is away,
 * full or read-only it waits, and so does the log; where it refuses a message for its content, that one is rejected.
 */
import { setImmediate } from 'node:timers/promises'
import { Counter, Gauge, Histogram } from 'prom-client'
import type { EventLog, LogBatch, LogMessage, RejectLog } from '../runtime/log/log.ts'
import { registry } from '../runtime/metrics.ts'
import { rest } from '../runtime/rest.ts'
import { asFault, describeFault, Fault } from '../schemas/fault.ts'
import type { Meter } from '../schemas/meters.ts'
import type { SuspectRule } from '../schemas/suspect.ts'
import { type AcceptedBatch, Accepting, accept, fitTogether } from './accept.ts'
import { beginMeters } from './catalogue.ts'
import { Ledger, type PutOutcome } from './ledger.ts'
import { Pulse, type PulseLimits } from './pulse.ts'
import { buildsOf, recompute } from './rollups.ts'
import { newToken } from './stale.ts'
import { isContentRefusal, type Store } from './store.ts'
import { type ValueCheck, valueCheck } from './values.ts'
import { Witness } from './witness.ts'

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
const inHandMessages = new Gauge({
  name: 'meterline_processor_in_hand_messages',
  help: 'Messages taken from the log that wait for the ledger.',
  registers: [registry],
})
const acknowledgedSeconds = new Gauge({
  name: 'meterline_processor_last_acknowledged_timestamp_seconds',
  help: 'When the ledger last acknowledged a batch, in Unix time.',
  registers: [registry],
})
const rejectedLastHour = new Gauge({
  name: 'meterline_processor_rejected_last_hour',
  help: 'Messages rejected by this process within the last hour.',
  registers: [registry],
})
const putBackTotal = new Counter({
  name: 'meterline_ledger_put_back_total',
  help: 'How often the ledger was found to be an older copy of itself, and read again from the log.',
  registers: [registry],
})
const staleSeconds = new Gauge({
  name: 'meterline_rollup_stale_seconds',
  help: 'For how long the oldest stale cell has been stale: 0 where none is.',
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
  /** Those of the catalogue file. */
  readonly meters: readonly Meter[]
  /** When a complete read has to wait; null where none ever has. */
  readonly suspect?: SuspectRule | null
  readonly signal: AbortSignal
  /** One line for the operator. */
  readonly say: (line: string) => void
  readonly limits?: Partial<ProcessorLimits>
}

export interface ProcessorLimits extends PulseLimits {
  /** As much as may wait for the ledger, in messages and in their bytes: beyond it the log waits. */
  readonly waitingMessagesMax: number
  readonly waitingBytesMax: number
  /** Messages of a kind that are refused for their content one after another: more are not their own fault. */
  readonly refusedInARowMax: number
  /** How often the log is asked how far it is, and the ledger whether it is still the same. */
  readonly watchEveryMs: number
  /** How long a stop waits for a statement that does not end: what is cut off comes again. */
  readonly stopWithinMs: number
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
  /** A batch of the log, or a part of it. */
  readonly batch: LogBatch
  readonly accepted: AcceptedBatch
  /** The batch of the log that ends with it. */
  readonly ends: LogBatch | undefined
  readonly bytes: number
  /** Of its partition, when it was taken. */
  readonly assignment: number
}

/** Thrown by a put that found the ledger put back to an older copy. */
class PutBack extends Error {}

/** Some ten milliseconds of work. */
const turnMessages = 400
const limitsDefault = {
  waitingMessagesMax: 50_000,
  waitingBytesMax: 32 * 1024 ** 2,
  refusedInARowMax: 20,
  watchEveryMs: 5000,
  stopWithinMs: 10_000,
}
const retryMsMax = 10_000
/** So many cells of two dims and their groups fit in a few hundred megabytes. */
const cellsMax = 50_000
const freshenEveryMs = 200
/** Where nothing came in: another processor may have left something. */
const idleEveryMs = 1000
/** So long after the last batch the log counts as quiet. */
const quietMs = 500
const busyRestMs = 5000
/** A put that comes so soon after the last one need not ask whether the ledger is still the same. */
const trustMs = 250

/** Starts the loop. Meters come first, those made by API as well, so that every recompute knows them. */
export async function startProcessor(options: ProcessorOptions): Promise<Processor> {
  const { store, log, meters, signal } = options
  const limits = { ...limitsDefault, ...options.limits }
  await beginMeters(store, meters)
  const stop = new AbortController()
  const running = AbortSignal.any([signal, stop.signal])
  const nowMs = () => performance.now()
  const pulse = new Pulse(nowMs(), options.limits)
  const positions = new Map<number, bigint>()
  let taken = 0n
  let takenMs = Number.NEGATIVE_INFINITY
  let isPutting = false
  const troubles = new Map<'ledger' | 'rollups' | 'log', string>()

  function isWorking(what: 'ledger' | 'rollups' | 'log'): void {
    if (troubles.delete(what)) options.say(`${what}: works again`)
  }

  function isTroubled(what: 'ledger' | 'rollups' | 'log', fault: Fault): void {
    if (!troubles.has(what)) options.say(`${what}: ${describeFault(fault)}: trying again until it works`)
    troubles.set(what, describeFault(fault))
  }

  async function insisting<T>(what: 'ledger' | 'rollups', act: () => Promise<T>): Promise<T | undefined> {
    for (let waitMs = 100; ; waitMs = Math.min(waitMs * 2, retryMsMax)) {
      try {
        const done = await unlessStopped(act(), limits.stopWithinMs)
        isWorking(what)
        return done
      } catch (error) {
        if (error instanceof PutBack) throw error
        const fault = asFault(error, 'STORE_REFUSED')
        if (fault.fate !== 'retry') throw fault
        if (running.aborted) return undefined
        isTroubled(what, fault)
        await rest(waitMs, running)
      }
    }
  }

  async function unlessStopped<T>(act: Promise<T>, withinMs: number): Promise<T> {
    const late = Promise.withResolvers<never>()
    let timer: NodeJS.Timeout | undefined
    const onStop = () => {
      const words = `no answer within ${withinMs} ms of the stop`
      timer = setTimeout(() => late.reject(new Fault('ABORTED', words)), withinMs)
    }
    running.addEventListener('abort', onStop, { once: true })
    if (running.aborted) onStop()
    try {
      return await Promise.race([act, late.promise])
    } finally {
      clearTimeout(timer)
      running.removeEventListener('abort', onStop)
    }
  }

  // -- into the ledger

  /** Of the meters that are known, those made by API as well: another process may have made one. */
  let checkValues: ValueCheck | undefined
  async function learnMeters(): Promise<void> {
    const builds = await buildsOf(store)
    checkValues = valueCheck(builds.filter(({ state }) => state !== 'retired').map(({ meter }) => meter))
  }
  await learnMeters()

  let logId = log.id
  let ledger = new Ledger(store, logId, options.suspect)
  let witness = new Witness(store, logId)
  /** Aborted when the log is to be read once more from where the ledger ends. */
  let again = new AbortController()
  const assignments = new Map<number, number>()
  const assignmentOf = (partition: number) => assignments.get(partition) ?? 0
  /** Messages refused for their content one after another, by kind. */
  const refusedInARow = new Map<'readings' | 'others', number>()

  /** Batches as one; nothing where the processor was stopped meanwhile. */
  async function put(accepted: readonly AcceptedBatch[]): Promise<PutOutcome | undefined> {
    let isTrusted = nowMs() - takenMs < trustMs
    const outcome = await insisting('ledger', async () => {
      if (!isTrusted && (await witness.isPutBack(running))) throw new PutBack()
      isTrusted = false
      const done = await ledger.put(accepted, witness.proof())
      if (done.rejects.length > 0) await options.rejects?.put(done.rejects)
      return done
    })
    takenMs = nowMs()
    if (!outcome) return undefined
    witness.acknowledged(accepted)
    for (const batch of accepted) {
      positions.set(batch.partition, batch.last + 1n)
      taken += BigInt(batch.messages)
      if (batch.readings > 0) refusedInARow.delete('readings')
      if (batch.marks.length > 0) refusedInARow.delete('others')
    }
    const { rejects } = outcome
    const messages = accepted.reduce((sum, batch) => sum + batch.messages, 0)
    pulse.acknowledged(messages, rejects.length, takenMs)
    acknowledgedSeconds.setToCurrentTime()
    messagesTotal.inc({ outcome: 'reading' }, outcome.readings)
    messagesTotal.inc({ outcome: 'mark' }, outcome.marks)
    messagesTotal.inc({ outcome: 'decision' }, outcome.decisions)
    messagesTotal.inc({ outcome: 'pushed' }, outcome.pushed)
    messagesTotal.inc({ outcome: 'pushed mark' }, outcome.pushedMarks)
    messagesTotal.inc({ outcome: 'amendment' }, outcome.amendments)
    messagesTotal.inc({ outcome: 'duplicate' }, outcome.duplicates)
    messagesTotal.inc({ outcome: 'conflict' }, outcome.conflicts)
    messagesTotal.inc({ outcome: 'rejected' }, rejects.length)
    for (const reject of rejects.slice(0, 5))
      options.say(
        `rejected: partition=${reject.partition} offset=${reject.offset} ${reject.code} ${reject.reason}`,
      )
    return outcome
  }

  /** False where the processor was stopped meanwhile: nothing may go in behind what did not. */
  async function take(batches: readonly Taken[]): Promise<boolean> {
    const timer = putSeconds.startTimer()
    try {
      if (!(await put(batches.map(batch => batch.accepted)))) return false
    } catch (error) {
      if (!isContentRefusal(error)) throw error
      for (const { batch } of batches) if (!(await takeApart(batch))) return false
    }
    timer()
    for (const { ends } of batches) if (ends) await commit(ends)
    return true
  }

  /**
   * Puts a batch in which ClickHouse refuses something, by halves, in the order of the log, down to the messages that
   * it refuses. Those go in as rejects together with what follows them, so that the record of positions has no hole.
   */
  async function takeApart({ partition, messages }: LogBatch): Promise<boolean> {
    const refused = new Map<bigint, Fault>()
    let before: LogMessage[] = []
    /** Without what is left where a half begins with a mark of which the whole had the readings. */
    const taken = (some: readonly LogMessage[]): Accepting => {
      const batch = { partition, messages: [...before, ...some] }
      const accepting = new Accepting(batch, logId, { refused, checkValues })
      while (accepting.take(batch.messages.length));
      return accepting
    }
    const putTaken = async (accepting: Accepting): Promise<boolean> => {
      const done = await put([accepting.accepted()])
      before = []
      return done !== undefined
    }
    for (const spans = [messages]; spans.length > 0; ) {
      const span = spans.pop() ?? []
      const accepting = taken(span)
      const rest = accepting.rest()?.messages ?? []
      if (rest.length > 0) spans.push(rest)
      const some = span.slice(0, span.length - rest.length)
      try {
        if (!(await putTaken(accepting))) return false
      } catch (error) {
        if (!isContentRefusal(error)) throw error
        const [first, ...others] = some
        if (first === undefined) throw error
        if (others.length > 0) {
          const half = some.length >> 1
          spans.push(some.slice(half), some.slice(0, half))
          continue
        }
        countRefusal({ partition, messages: [first] }, error)
        before.push(first)
        refused.set(first.offset, new Fault('STORE_POISON', error.message, error.facts))
      }
    }
    return before.length === 0 || (await putTaken(taken([])))
  }

  /** @throws Fault STORE_REFUSED where so many in a row are refused that it cannot be their fault: the rest stays in the log. */
  function countRefusal(batch: LogBatch, error: Fault): void {
    const kind = accept(batch, logId).readings > 0 ? 'readings' : 'others'
    const inARow = (refusedInARow.get(kind) ?? 0) + 1
    refusedInARow.set(kind, inARow)
    if (inARow <= limits.refusedInARowMax) return
    throw new Fault(
      'STORE_REFUSED',
      `ClickHouse refuses one message after another for its content, ${inARow} by now: ${error.message}`,
      { ...error.facts, in_a_row: inARow },
      { cause: error },
    )
  }

  /** What the log remembers of it only saves work: the ledger's own record decides where reading goes on. */
  async function commit(batch: LogBatch): Promise<void> {
    try {
      await log.commit(batch)
      isWorking('log')
    } catch (error) {
      const fault = asFault(error, 'LOG_UNREACHABLE')
      if (fault.fate === 'halt') throw fault
      isTroubled('log', fault)
    }
  }

  /** Reads the log, and once more from where the ledger ends each time that this has gone back. */
  async function ingest(): Promise<void> {
    for (;;) {
      again = new AbortController()
      await readLog(AbortSignal.any([running, again.signal]))
      if (running.aborted || !again.signal.aborted) return
      options.say('ledger: it was put back to an older copy: the log is read again from where that ends')
      putBackTotal.inc()
      ledger = new Ledger(store, logId, options.suspect)
      witness = new Witness(store, logId)
      await insisting('ledger', () => beginMeters(store, meters))
    }
  }

  /**
   * What comes and is decoded while batches are on their way into the ledger goes in together after them: the slower
   * the ledger, the larger its inserts, up to a bound at which the log has to wait.
   */
  async function readLog(reading: AbortSignal): Promise<void> {
    const waiting: Taken[] = []
    let putting: Promise<void> = Promise.resolve()
    /** Resolves when what waits is on its way, or will not go. */
    let room = Promise.withResolvers<void>()
    /** Without those whose partition was given away since: they come again, from where the ledger ends. */
    const nextTaken = (): readonly Taken[] => {
      const some: Taken[] = []
      for (let next = waiting[0]; next !== undefined; next = waiting[0]) {
        const { accepted, assignment, batch } = next
        if (again.signal.aborted || assignment !== assignmentOf(batch.partition))
          pulse.dropped(batch.messages.length)
        else if (some.every(one => fitTogether(one.accepted, accepted))) some.push(next)
        else break
        waiting.shift()
      }
      room.resolve()
      room = Promise.withResolvers()
      return some
    }
    async function putWaiting(): Promise<void> {
      isPutting = true
      try {
        while (waiting.length > 0) {
          const some = nextTaken()
          if (some.length > 0 && !(await take(some))) again.abort()
        }
      } catch (error) {
        if (!(error instanceof PutBack)) throw error
        again.abort()
      } finally {
        // In one turn with the look at `waiting`: what comes after it finds nobody putting, and starts.
        isPutting = false
        room.resolve()
      }
    }
    const start = () => {
      if (isPutting) return
      putting = putWaiting()
      putting.catch(() => stop.abort())
    }
    const resumeAt = async (partition: number) => {
      // What was decoded and not put by now is not in the answer, and must not be put behind it.
      assignments.set(partition, assignmentOf(partition) + 1)
      await putting.catch(() => undefined)
      if (logId !== log.id) {
        logId = log.id
        ledger = new Ledger(store, logId, options.suspect)
        witness = new Witness(store, logId)
      }
      return await insisting('ledger', async () => {
        const next = await ledger.resumeAt(partition)
        witness.resumed(partition, next)
        return next
      })
    }
    const reachedAt = async (partition: number) =>
      await insisting('ledger', async () => await ledger.reachedAt(partition))
    for await (const given of log.batches({ resumeAt, reachedAt, signal: reading })) {
      const assignment = assignmentOf(given.partition)
      pulse.given(given.messages.length, nowMs())
      for (let rest: LogBatch | undefined = given; rest !== undefined; ) {
        const accepting: Accepting = new Accepting(rest, logId, { checkValues })
        // In turns with the batches before, whose steps would otherwise wait for this one's end.
        while (accepting.take(turnMessages)) await setImmediate()
        const accepted = accepting.accepted()
        const batch = { ...rest, messages: rest.messages.slice(0, accepted.messages) }
        const bytes = batch.messages.reduce((sum, { value }) => sum + (value?.length ?? 0), 0)
        rest = accepting.rest()
        waiting.push({ batch, accepted, bytes, assignment, ends: rest ? undefined : given })
        start()
      }
      const messages = waiting.reduce((sum, one) => sum + one.accepted.messages, 0)
      const waitingBytes = waiting.reduce((sum, one) => sum + one.bytes, 0)
      // For those on their way to end would be to let this process rest while ClickHouse works, and the other way round.
      const isFull = messages >= limits.waitingMessagesMax || waitingBytes >= limits.waitingBytesMax
      if (isFull) await room.promise
    }
    await putting
    pulse.dropped(pulse.inHand)
  }

  // -- beside it

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

  /** Looks now and then at what nobody else would notice. */
  async function watching(look: () => Promise<void>): Promise<void> {
    while (!running.aborted) {
      await look()
      await rest(limits.watchEveryMs, running)
    }
  }

  async function watchLog(): Promise<void> {
    inHandMessages.set(pulse.inHand)
    rejectedLastHour.set(pulse.rejectedLastHour(nowMs()).rejects)
    try {
      const state = await unlessStopped(log.state(), 0)
      lagMessages.set(Number(state.lag))
      pulse.heard(state, nowMs())
    } catch (error) {
      pulse.unheard(describeFault(asFault(error, 'LOG_UNREACHABLE')))
    }
  }

  async function watchLedger(): Promise<void> {
    try {
      const [row] = await unlessStopped(
        store.rows<{ seconds: string }>(
          `select max(dateDiff('second', at, now())) as seconds from stale final where not done`,
        ),
        0,
      )
      staleSeconds.set(Number(row?.seconds ?? 0))
      pulse.stale(Number(row?.seconds ?? 0) * 1000)
      await unlessStopped(learnMeters(), 0)
      // Whoever puts asks this for himself.
      if (!isPutting && (await unlessStopped(witness.isPutBack(running), 0))) again.abort()
    } catch {
      // Recomputing needs the ledger as well: it says what is wrong.
    }
  }

  const parts = [ingest(), freshen(), watching(watchLog), watching(watchLedger)]
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
    trouble: () => {
      const all = new Set([...troubles.values(), ...pulse.problems(nowMs())])
      return all.size === 0 ? undefined : [...all].join('; ')
    },
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
