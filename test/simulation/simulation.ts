/**
 * One seed of the simulation: the real collector, outbox, relay, processor, ledger and rollups through a random schedule of
 * crashes, lost answers, partial writes, restored backups, clocks that jump and a provider that lies; held against the
 * oracle after every recovery, and against what the provider finally said at the end.
 */
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import Fraction from 'fraction.js'
import { runCollector } from '../../collector/collector.ts'
import { collectOnce } from '../../collector/once.ts'
import { relay } from '../../collector/relay.ts'
import { coverage } from '../../processor/coverage.ts'
import { startProcessor } from '../../processor/process.ts'
import { Store } from '../../processor/store.ts'
import { quantities } from '../../processor/usage.ts'
import { Health } from '../../runtime/health.ts'
import { embeddedLog } from '../../runtime/log/embedded.ts'
import type { EventLog, LogBatch } from '../../runtime/log/log.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { partitionOf } from '../../runtime/log/partition.ts'
import { openLog } from '../../runtime/logs.ts'
import { rest } from '../../runtime/rest.ts'
import { listingScope } from '../../schemas/event.ts'
import { asFault, describeFault, Fault } from '../../schemas/fault.ts'
import { defaultMeters, type Meter } from '../../schemas/meters.ts'
import { dayMs, hourMs, minuteMs, secondMs, showInstant } from '../../schemas/window.ts'
import { Chance } from './chance.ts'
import { type Engine, fastDir, type Tables } from './engine.ts'
import { add, currentReads, type Totals, totalsOf } from './oracle.ts'
import { Clock, type How, Process, settle, type Turn, Turns } from './processes.ts'
import { Provider, type Script, sourceOfProvider } from './provider.ts'
import { Topic } from './topic.ts'

export const meters: readonly Meter[] = defaultMeters.filter(({ eventTypes }) =>
  eventTypes.includes('io.meterline.rafay.instance.v1'),
)
/** The same meters under names that have no rollups: answered from the ledger alone. */
const unrolled = meters.map(meter => ({ ...meter, slug: `${meter.slug}_unrolled` }))
const measureOf = (meter: Meter) => meter.value as 'instance_seconds' | 'gpu_seconds'

const log = openLog({ level: 'silent', role: 'simulation' })
const stepsMax = 60_000
const drainRoundsMax = 150
/** Notes every turn, for whoever looks for a fault. */
const traces = process.env.SIM_TRACE !== undefined

/** What a seed decided of its world. */
interface Plan {
  readonly log: 'embedded' | 'topic'
  readonly collectors: number
  readonly processors: number
  readonly partitions: number
  readonly batchRows: number
  /** Of a hundred turns, how many go wrong without anyone dying. */
  readonly faultPercent: number
  /** How often a statement has its turn before the clock goes on. */
  readonly haste: number
  readonly clocksJump: boolean
  readonly ledgerPutBack: boolean
  /** Does the log's retention take messages, read or not? */
  readonly logForgets: boolean
  /** How long a released row stays in an outbox. */
  readonly retentionMs: number
  readonly script: Script
}

export interface Outcome {
  readonly seed: number
  readonly statements: number
  readonly deaths: number
  readonly comparisons: number
}

/** @throws Error that says what differed, with every step that led to it and how to replay it. */
export async function simulate(seed: number, engine: Engine): Promise<Outcome> {
  await using tables = await engine.open()
  const world = new World(seed, tables)
  try {
    await world.live()
    return { seed, ...world.counts }
  } catch (error) {
    throw new Error(
      [
        `seed ${seed}: ${error instanceof Error ? error.message : String(error)}`,
        `replay: SIM_SEED=${seed} npm run test:long -- test/simulation`,
        `plan: ${JSON.stringify(world.plan)}`,
        ...world.steps.map(step => `  ${step}`),
      ].join('\n'),
      { cause: error },
    )
  } finally {
    world.end()
  }
}

/** Where a process is started again and again, with the disk that outlives it. */
interface Seat {
  readonly name: string
  readonly collects: boolean
  readonly processes: boolean
  /** Distance of its clock from the world's. */
  skewMs: number
  dir: string
  copy?: string
  outbox?: SqliteOutbox
  running: Process[]
  stop: AbortController
  stopReading: AbortController
  ended?: { readonly fault?: unknown }
  /** It dies at the n-th of its turns from now. */
  dies?: { turns: number; readonly how: How }
}

class World {
  readonly plan: Plan
  readonly steps: string[] = []
  readonly counts = { statements: 0, deaths: 0, comparisons: 0 }
  readonly #chance: Chance
  readonly #tables: Tables
  readonly #dir: string
  readonly #provider: Provider
  readonly #topic: Topic | undefined
  readonly #clock: Clock
  readonly #turns = new Turns()
  readonly #seats: Seat[]
  /** Messages by log, partition and offset, as they were handed out. */
  readonly #seen = new Map<string, Message>()
  /** What the ledger acknowledged, in that order. */
  #taken = new Map<string, Message>()
  /** When a mark last went into the ledger, as how many messages were taken before. */
  readonly #marked = new Map<string, number>()
  #takenCopy: Map<string, Message> | undefined
  /** Nothing goes wrong while this is set. */
  #calm = false
  #dirs = 0
  #violation: string | undefined

  constructor(seed: number, tables: Tables) {
    this.#chance = new Chance(seed)
    this.#tables = tables
    this.#dir = mkdtempSync(join(fastDir(), 'meterline-simulation-'))
    this.plan = planOf(this.#chance)
    const { script } = this.plan
    this.#clock = new Clock(script.span.startMs + 2 * minuteMs)
    this.#provider = new Provider(script, this.#chance)
    if (this.plan.log === 'topic') this.#topic = new Topic('topic', this.plan.partitions, this.#chance)
    this.#seats =
      this.plan.log === 'embedded'
        ? [this.#seat('up', { collects: true, processes: true })]
        : [
            ...named('collector', this.plan.collectors).map(name =>
              this.#seat(name, { collects: true, processes: false }),
            ),
            ...named('processor', this.plan.processors).map(name =>
              this.#seat(name, { collects: false, processes: true }),
            ),
          ]
  }

  /** The whole life of the world: its day with everything that goes wrong, then the time until all is settled. */
  async live(): Promise<void> {
    const { script } = this.plan
    const lastRereadMs = script.rereadAfterMs.at(-1) ?? 0
    const dayEndMs = script.span.endMs + lastRereadMs
    while (this.#clock.nowMs < dayEndMs) {
      await this.#something()
      for (const seat of this.#seats) if (!isRunning(seat) && this.#chance.is(0.8)) this.#start(seat)
      await this.#advance(this.#clock.nowMs + this.#chance.whole(30, 150) * minuteMs)
      if (this.#chance.is(0.12)) await this.#compare('on the way')
    }
    this.#calm = true
    for (const seat of this.#seats) this.#setClock(seat, 0)
    await this.#compare('at the end of the day')
    // The last step may have gone beyond the day: what failed in it rests up to an hour, more than once.
    await this.#advance(Math.max(dayEndMs, this.#clock.nowMs) + 3 * hourMs)
    await this.#compare('with all read')
    const { script: said, clocksJump, retentionMs, logForgets } = this.plan
    if (said.lies || clocksJump || retentionMs < dayMs || logForgets) {
      this.#provider.calm = true
      // Behind whatever a clock that ran ahead has stamped.
      this.#jump(2 * dayMs)
      for (const times of ['first', 'second']) {
        await this.#readByHand(times)
        this.#jump(2 * hourMs)
      }
    }
    await this.#compare('at last')
    await this.#compareTruth()
    await this.#account()
  }

  end(): void {
    for (const seat of this.#seats) this.#kill(seat)
    rmSync(this.#dir, { recursive: true, force: true })
  }

  // -- what happens

  async #something(): Promise<void> {
    const chance = this.#chance
    const seat = chance.one(this.#seats)
    const collector = chance.one(this.#seats.filter(({ collects }) => collects))
    if (chance.is(0.3)) this.#die(seat)
    if (chance.is(0.6))
      seat.dies = { turns: chance.whole(1, 20), how: chance.one(['whole', 'refused', 'partly'] as const) }
    const fate = chance.whole(1, 100)
    if (fate <= 20) this.#copyOutbox(collector)
    else if (fate <= 36) this.#putBackOutbox(collector)
    else if (fate <= 40) this.#freshDisk(collector)
    if (this.plan.ledgerPutBack) {
      if (this.#takenCopy === undefined && chance.is(0.3)) await this.#copyLedger()
      else if (this.#takenCopy !== undefined && chance.is(0.25)) await this.#putBackLedger()
    }
    if (this.plan.clocksJump && chance.is(0.25))
      this.#setClock(
        collector,
        collector.skewMs !== 0 ? 0 : chance.one([-1, 1]) * chance.whole(1, dayMs / minuteMs) * minuteMs,
      )
    if (this.plan.logForgets && chance.is(0.2)) {
      this.#note('the log forgets its oldest messages')
      this.#topic?.forget(partition => this.#firstInHand(partition))
    }
    if (this.#topic && chance.is(0.25)) {
      this.#note('the partitions are dealt anew')
      this.#topic.deal()
    }
  }

  #die(seat: Seat): void {
    if (!isRunning(seat)) return
    this.#note(`${seat.name} is killed`)
    this.counts.deaths += 1
    this.#kill(seat)
  }

  #copyOutbox(seat: Seat): void {
    if (seat.copy !== undefined) rmSync(seat.copy, { recursive: true, force: true })
    this.#note(`${seat.name}: its outbox is copied`)
    seat.copy = this.#copied(seat.dir)
  }

  #putBackOutbox(seat: Seat): void {
    if (seat.copy === undefined) return
    this.#die(seat)
    this.#note(`${seat.name}: its outbox is put back`)
    rmSync(seat.dir, { recursive: true, force: true })
    seat.dir = seat.copy
    delete seat.copy
  }

  #freshDisk(seat: Seat): void {
    this.#die(seat)
    this.#note(`${seat.name}: its disk is lost`)
    rmSync(seat.dir, { recursive: true, force: true })
    seat.dir = this.#newDir()
  }

  async #copyLedger(): Promise<void> {
    this.#note('the ledger is copied')
    await this.#tables.copy()
    this.#takenCopy = new Map(this.#taken)
  }

  async #putBackLedger(): Promise<void> {
    if (this.#takenCopy === undefined) return
    // Processors that go on meanwhile must find out by themselves.
    const alive = this.#chance.is(0.5)
    if (!alive) for (const seat of this.#seats) if (seat.processes) this.#die(seat)
    this.#turns.drop(() => true)
    this.#note(`the ledger is put back${alive ? ' under its processors' : ''}`)
    await this.#tables.putBack()
    this.#taken = this.#takenCopy
    this.#takenCopy = undefined
  }

  /**
   * The first message that was handed out and not acknowledged. Of those nobody knows whether the ledger has them, until
   * they come again: the oracle could not tell what counts if they never did.
   */
  #firstInHand(partition: number): number {
    const messages = this.#topic?.partitions[partition] ?? []
    const first = messages.findIndex(({ offset }) => {
      const place = `${this.#topic?.id} ${partition} ${offset}`
      return this.#seen.has(place) && !this.#taken.has(place)
    })
    return first < 0 ? messages.length : first
  }

  #setClock(seat: Seat, skewMs: number): void {
    if (seat.skewMs === skewMs) return
    this.#note(`${seat.name}: its clock is ${skewMs / minuteMs} min off`)
    seat.skewMs = skewMs
  }

  // -- processes

  #seat(name: string, roles: { readonly collects: boolean; readonly processes: boolean }): Seat {
    const seat = {
      name,
      ...roles,
      skewMs: 0,
      dir: this.#newDir(),
      running: [],
      stop: new AbortController(),
      stopReading: new AbortController(),
    }
    return seat
  }

  /** Two collectors never read in the same millisecond: their outboxes keep them apart, here their clocks. */
  #nowOf(seat: Seat): number {
    return this.#clock.nowMs + seat.skewMs + 137 * this.#seats.indexOf(seat)
  }

  #start(seat: Seat): void {
    // One that ended by itself leaves its outbox open.
    this.#kill(seat)
    this.#note(`${seat.name} starts`)
    seat.stop = new AbortController()
    seat.stopReading = new AbortController()
    delete seat.ended
    seat.running = []
    const nowMs = () => this.#nowOf(seat)
    if (seat.collects)
      seat.outbox = SqliteOutbox.open({
        dir: seat.dir,
        access: 'append',
        retentionMs: this.plan.retentionMs,
        nowMs,
        ...(this.#topic && {
          partitions: {
            count: this.plan.partitions,
            of: (key: string) => partitionOf(key, this.plan.partitions),
          },
        }),
      })
    const main = this.#process(seat, 'main', 'own')
    main
      .run(() => this.#work(seat, main))
      .then(
        () => this.#hasEnded(seat, main, {}),
        fault => this.#hasEnded(seat, main, { fault }),
      )
  }

  /** As deploy/roles.ts puts the roles together. */
  async #work(seat: Seat, main: Process): Promise<void> {
    const signal = AbortSignal.any([seat.stop.signal])
    const parts: Promise<void>[] = []
    if (seat.processes) {
      const eventLog = this.#topic
        ? this.#topic.reader(() => main.alive && seat.ended === undefined)
        : embeddedLog(seat.outbox!, { rowsMax: this.plan.batchRows })
      const processor = await startProcessor({
        store: this.#gatedStore(),
        log: this.#watched(eventLog),
        meters,
        signal,
        limits: { watchEveryMs: minuteMs },
        say: line => this.#note(`${seat.name}: ${line.slice(0, 200)}`),
      })
      parts.push(processor.done)
    }
    if (seat.collects) parts.push(this.#collect(seat))
    await Promise.all(parts)
  }

  async #collect(seat: Seat): Promise<void> {
    const { outbox } = seat
    if (!outbox) throw new Error('a collector has an outbox')
    const nowMs = () => this.#nowOf(seat)
    const collecting = this.#process(seat, 'collecting', 'world')
    await collecting.run(() =>
      runCollector({
        sources: [this.#opened()],
        outbox,
        health: new Health(),
        log,
        nowMs,
        signal: AbortSignal.any([seat.stop.signal, seat.stopReading.signal]),
        restMsMax: 10 * minuteMs,
        ...(this.#topic && { relay: (signal: AbortSignal) => this.#relay(seat, signal) }),
      }),
    )
  }

  async #relay(seat: Seat, signal: AbortSignal): Promise<void> {
    const { outbox } = seat
    if (!outbox || !this.#topic) throw new Error('a relay is between an outbox and a topic')
    const topic = this.#topic
    const relaying = this.#process(seat, 'relay', 'own')
    const turn = (what: string, send: () => Promise<bigint>) =>
      this.#turns.take('send', what, { whole: send }, () => new Fault('LOG_UNREACHABLE', 'no answer'))
    await relaying.run(async () => {
      while (!signal.aborted)
        try {
          const lanes = topic.lanes(turn, () => this.#clock.nowMs)
          await relay({ outbox, lanes, signal, drainMs: 1000 })
        } catch (error) {
          if (asFault(error, 'INTERNAL').fate === 'halt') throw error
          await rest(2 * secondMs, signal)
        }
    })
  }

  #opened() {
    return this.#provider.opened(
      () => this.#clock.nowMs,
      what => this.#turns.take('answer', what, { whole: async () => undefined }, () => new Error('never')),
    )
  }

  #process(seat: Seat, name: string, clock: 'own' | 'world'): Process {
    const process = new Process(
      `${seat.name} ${name}`,
      clock === 'world' ? this.#clock : new Clock(this.#clock.nowMs),
    )
    seat.running.push(process)
    return process
  }

  /** A process may end by itself where a supervisor would start it again; what it must not do is meet the impossible. */
  #hasEnded(seat: Seat, main: Process, ended: NonNullable<Seat['ended']>): void {
    // What a killed process unwinds is nobody's.
    if (!main.alive) return
    seat.ended = ended
    if (ended.fault === undefined) return
    const fault = asFault(ended.fault, 'INTERNAL')
    this.#note(`${seat.name} ended: ${describeFault(fault)}`)
    if (fault.fate === 'halt') this.#violation ??= `${seat.name} ended: ${fault.stack}`
  }

  #kill(seat: Seat): void {
    for (const process of seat.running) process.kill()
    seat.running = []
    delete seat.dies
    this.#turns.drop(() => this.#chance.is(0.5))
    if (!seat.outbox) return
    // Its disk goes on as it is at this moment; what the closing of the old one still stores is lost with it.
    const dir = this.#copied(seat.dir)
    seat.outbox[Symbol.dispose]()
    delete seat.outbox
    rmSync(seat.dir, { recursive: true, force: true })
    seat.dir = dir
  }

  // -- time and turns

  /** Until the world's clock says so: turns are given, clocks move, and some of it goes wrong. */
  async #advance(untilMs: number): Promise<void> {
    for (let steps = 0; this.#clock.nowMs < untilMs; steps += 1) {
      if (steps > stepsMax) throw new Error(`not done after ${stepsMax} steps`)
      await settle()
      this.#expectNoViolation()
      const { waiting } = this.#turns
      // The slower the ledger, the more of the world passes meanwhile.
      const haste = waiting.some(({ wire }) => wire !== 'statement') ? 0.9 : this.plan.haste
      if (waiting.length > 0 && this.#chance.is(haste)) await this.#give(this.#chance.one(waiting))
      else if (!this.#fireSoon()) this.#moveClock(untilMs)
    }
  }

  async #give(turn: Turn): Promise<void> {
    this.#turns.give(turn)
    if (turn.wire === 'statement') this.counts.statements += 1
    const seat = this.#seats.find(({ running }) => running.includes(turn.process))
    let how: How = 'whole'
    let dies = false
    if (!this.#calm && seat) {
      if (seat.dies && --seat.dies.turns === 0) {
        how = seat.dies.how
        dies = true
      } else if (turn.wire !== 'answer' && this.#chance.is(this.plan.faultPercent / 100))
        how = this.#chance.one(['refused', 'partly', 'unanswered'] as const)
    }
    if (traces || how !== 'whole' || dies)
      this.#note(
        `${turn.process.name}: ${turn.what}: ${turn.wire === 'answer' ? '' : `${how} `}${dies ? 'killed' : ''}`,
      )
    await turn.go(how, dies)
    if (dies && seat) {
      this.counts.deaths += 1
      this.#kill(seat)
    }
  }

  /** Fires what was to come within a moment of the world's clock. */
  #fireSoon(): boolean {
    let fired = 0
    for (const process of this.#alive()) {
      const nextMs = process.nextMs()
      if (process.clock !== this.#clock || nextMs === undefined || nextMs > this.#clock.nowMs + 100) continue
      this.#clock.nowMs = Math.max(this.#clock.nowMs, nextMs)
      fired += process.fire()
    }
    return fired > 0
  }

  #moveClock(untilMs: number): void {
    const own = this.#alive().filter(
      process => process.clock !== this.#clock && process.nextMs() !== undefined,
    )
    if (own.length > 0 && this.#chance.is(0.3)) {
      const process = this.#chance.one(own)
      process.clock.nowMs = Math.max(process.clock.nowMs, process.nextMs() ?? 0)
      process.fire()
      return
    }
    this.#jump(Math.min(this.#chance.whole(1, 40) * minuteMs, untilMs - this.#clock.nowMs))
  }

  #jump(ms: number): void {
    this.#clock.nowMs += ms
    for (const process of this.#alive()) if (process.clock === this.#clock) process.fire()
  }

  #alive(): readonly Process[] {
    return this.#seats.flatMap(({ running }) => running)
  }

  /** Starts whoever is down and lets everything come to rest, with nothing going wrong meanwhile. */
  async #drain(): Promise<void> {
    const calm = this.#calm
    this.#calm = true
    for (const seat of this.#seats) delete seat.dies
    for (let rounds = 0; ; rounds += 1) {
      for (const seat of this.#seats) if (!isRunning(seat)) this.#start(seat)
      await this.#giveAll()
      if (await this.#isAtRest()) break
      if (rounds > drainRoundsMax)
        throw new Error(`it does not come to rest: ${await this.#unrest()}; ${this.#state()}`)
      for (const process of this.#alive())
        if (process.clock !== this.#clock) process.clock.nowMs += 2 * secondMs
      for (const process of this.#alive()) process.fire()
    }
    this.#calm = calm
  }

  #state(): string {
    const timers = this.#alive().map(
      process => `${process.name} at ${process.clock.nowMs} waits until ${process.nextMs()}`,
    )
    const turns = this.#turns.waiting.map(turn => `${turn.process.name}: ${turn.what}`)
    return [...timers, ...turns].join(', ')
  }

  async #giveAll(): Promise<void> {
    for (let steps = 0; steps < stepsMax; steps += 1) {
      await settle()
      this.#expectNoViolation()
      const { waiting } = this.#turns
      if (waiting.length > 0) await this.#give(this.#chance.one(waiting))
      else if (!this.#fireSoon()) return
    }
    throw new Error(`turns do not end after ${stepsMax} steps`)
  }

  async #isAtRest(): Promise<boolean> {
    return (await this.#unrest()) === undefined
  }

  async #unrest(): Promise<string | undefined> {
    for (const { name, outbox } of this.#seats) {
      const rows = outbox?.depth().rows ?? 0
      if (rows > 0) return `${rows} rows wait in the outbox of ${name}`
    }
    const missing = this.#untaken()
    if (missing > 0) return `the ledger lacks ${missing} messages of the log`
    const [row] = await this.#tables.store.rows<{ cells: string }>(
      'select count() as cells from stale final where not done',
    )
    return row?.cells === '0' ? undefined : `${row?.cells} touches of cells are not done`
  }

  /** How many messages of the topic the ledger has not acknowledged. What an outbox holds, its depth tells. */
  #untaken(): number {
    let missing = 0
    for (const [partition, messages] of this.#topic?.partitions.entries() ?? [])
      for (const { offset } of messages)
        if (
          offset >= BigInt(this.#topic?.firsts[partition] ?? 0) &&
          !this.#taken.has(`${this.#topic?.id} ${partition} ${offset}`)
        )
          missing += 1
    return missing
  }

  // -- what the processes are given in place of the network

  #gatedStore(): Store {
    const gated = Object.create(Store.prototype) as Record<string, unknown>
    for (const name of Object.getOwnPropertyNames(Store.prototype)) {
      const method = Object.getOwnPropertyDescriptor(Store.prototype, name)?.value
      if (name === 'constructor' || typeof method !== 'function') continue
      gated[name] = (...args: unknown[]) => this.#statement(name, args)
    }
    return gated as unknown as Store
  }

  #statement(method: string, args: readonly unknown[]): Promise<unknown> {
    const call = (some: readonly unknown[]) => {
      const { store } = this.#tables
      return Reflect.apply(Reflect.get(store, method), store, some) as Promise<unknown>
    }
    const unreachable = () => new Fault('STORE_UNREACHABLE', 'simulated')
    if (method === 'insertWhere') {
      const [table, columns, , lines] = args as Parameters<Store['insertWhere']>
      const whole = async () => {
        const wentIn = await call(args)
        if (wentIn && table === 'positions') this.#acknowledged(columns, lines)
        return wentIn
      }
      return this.#turns.take('statement', `insert ${lines.length} ${table}`, { whole }, unreachable)
    }
    if (method !== 'insert' && method !== 'insertBytes')
      return this.#turns.take('statement', what(args[0]), { whole: () => call(args) }, unreachable)
    const [table, columns, body] = args as [string, readonly string[], readonly (string | Buffer)[]]
    const lines =
      method === 'insert'
        ? (body as readonly string[])
        : Buffer.concat(body as readonly Buffer[])
            .toString()
            .split('\n')
            .filter(line => line !== '')
    if (lines.length === 0) return Promise.resolve()
    const insert = async (some: readonly string[]) => {
      if (some.length === 0) return
      await call([table, columns, method === 'insert' ? some : [Buffer.from(`${some.join('\n')}\n`)]])
      if (table === 'reads') this.#hasMarks(columns, some)
    }
    const part = () => insert(lines.slice(0, this.#chance.whole(0, lines.length - 1)))
    return this.#turns.take(
      'statement',
      `insert ${lines.length} ${table}`,
      { whole: () => insert(lines), part },
      unreachable,
    )
  }

  /** The log, with a note of what it hands out, and a look at what it is told. */
  #watched(eventLog: EventLog): EventLog {
    const saw = (batch: LogBatch, from: bigint) => {
      // Of what retention took since it was handed out before, a ledger that was put back gets nothing.
      for (let offset = from; offset < (batch.messages.at(-1)?.offset ?? 0n); offset += 1n)
        this.#seen.delete(`${eventLog.id} ${batch.partition} ${offset}`)
      for (const message of batch.messages) {
        const event = JSON.parse(String(message.value)) as Message
        this.#seen.set(`${eventLog.id} ${batch.partition} ${message.offset}`, event)
      }
    }
    const isTaken = ({ partition, messages }: LogBatch) =>
      messages.every(({ offset }) => this.#taken.has(`${eventLog.id} ${partition} ${offset}`))
    const commit = async (batch: LogBatch) => {
      if (!isTaken(batch)) this.#violation ??= 'the log was told of what the ledger had not acknowledged'
      await eventLog.commit(batch)
    }
    return {
      get id() {
        return eventLog.id
      },
      async *batches(options) {
        const next = new Map<number, bigint>()
        const resumeAt = async (partition: number) => {
          const resume = await options.resumeAt(partition)
          next.set(partition, resume ?? 0n)
          return resume
        }
        for await (const batch of eventLog.batches({ ...options, resumeAt })) {
          saw(batch, next.get(batch.partition) ?? 0n)
          next.set(batch.partition, (batch.messages.at(-1)?.offset ?? -1n) + 1n)
          yield batch
        }
      },
      commit,
      state: () => eventLog.state(),
      [Symbol.asyncDispose]: () => eventLog[Symbol.asyncDispose](),
    }
  }

  #acknowledged(columns: readonly string[], lines: readonly string[]): void {
    for (const line of lines) {
      const values = JSON.parse(line) as unknown[]
      const of = (column: string) => String(values[columns.indexOf(column)])
      for (let offset = BigInt(of('first')); offset <= BigInt(of('last')); offset += 1n) {
        const place = `${of('log')} ${of('partition')} ${offset}`
        const message = this.#seen.get(place)
        if (message && !this.#taken.has(place)) this.#taken.set(place, message)
      }
    }
  }

  #hasMarks(columns: readonly string[], lines: readonly string[]): void {
    for (const line of lines) {
      const values = JSON.parse(line) as unknown[]
      const of = (column: string) => String(values[columns.indexOf(column)])
      this.#marked.set(`${of('log')} ${of('partition')} ${of('offset')}`, this.#taken.size)
    }
  }

  /**
   * What the ledger took, in that order: with messages of puts that it never acknowledged, where it has them and nobody
   * will bring them again. Their disk is lost: what they say was said, and counts.
   */
  async #standing(): Promise<readonly Message[]> {
    const unknown = new Map([...this.#seen].filter(([place]) => !this.#taken.has(place)))
    const taken = [...this.#taken.values()]
    if (unknown.size === 0) return taken
    const places = await this.#tables.store.rows<{ place: string }>(
      `select concat(log::String, ' ', toString(partition), ' ', toString(offset)) as place
       from (select log, partition, offset from events final union all select log, partition, offset from reads final)`,
    )
    const found = new Set(places.map(({ place }) => place))
    const orphans = [...unknown].filter(([place]) => found.has(place))
    // Readings count from their mark on, which tells when.
    const readings = orphans.filter(([place]) => !this.#marked.has(place)).map(([, message]) => message)
    const marks = Map.groupBy(
      orphans.filter(([place]) => this.#marked.has(place)),
      ([place]) => this.#marked.get(place) ?? 0,
    )
    const marksBefore = (index: number) => (marks.get(index) ?? []).map(([, message]) => message)
    return [
      ...readings,
      ...taken.flatMap((message, index) => [...marksBefore(index), message]),
      ...marksBefore(taken.length),
    ]
  }

  // -- what must be

  async #compare(when: string): Promise<void> {
    await this.#drain()
    this.counts.comparisons += 1
    this.#note(`compared ${when}`)
    this.#expectAllTaken(when)
    const reads = [...currentReads(await this.#standing()).values()]
    // One from rollups, one from the ledger; at the end all of both.
    await Promise.all(
      [this.#chance.one(meters), this.#chance.one(unrolled)].map(async meter =>
        same(await this.#answer(meter), totalsOf(reads, measureOf(meter)), `${meter.slug} ${when}`),
      ),
    )
  }

  /** Every event that a log still holds is in the ledger. */
  #expectAllTaken(when: string): void {
    // Then an outbox may still have what nobody can read any more.
    if (this.plan.logForgets) return
    const ids = new Set([...this.#taken.values()].map(({ id }) => id))
    for (const { name, outbox } of this.#seats)
      for (const { value } of outbox?.rowsFrom(0, { rowsMax: 1e6, bytesMax: 1e9 }) ?? []) {
        const { id } = JSON.parse(String(value)) as Message
        if (!ids.has(id))
          throw new Error(`${when} the outbox of ${name} holds ${id}, and the ledger does not`)
      }
  }

  async #answer(meter: Meter): Promise<Totals> {
    const { script } = this.plan
    const rows = await quantities(this.#tables.store, {
      meter,
      span: script.span,
      step: 'HOUR',
      zone: 'UTC',
      groupBy: ['instance'],
      where: {},
    })
    const totals = new Map<string, bigint>()
    for (const { window, subject, dims, quantity } of rows) {
      const millis = quantity.mul(new Fraction(hourMs))
      if (millis.d !== 1n)
        throw new Error(`${meter.slug}: ${quantity.toFraction()} h are no whole milliseconds`)
      add(totals, window.startMs, subject, dims.instance ?? '', millis.n)
    }
    return totals
  }

  async #readByHand(times: string): Promise<void> {
    for (const seat of this.#seats.filter(({ collects }) => collects)) {
      seat.stopReading.abort()
      await this.#giveAll()
      const { outbox } = seat
      if (!outbox) throw new Error('a collector has an outbox')
      const stop = new AbortController()
      if (this.#topic)
        this.#relay(seat, stop.signal).catch(fault => {
          if (seat.outbox === outbox)
            this.#violation ??= `the relay ended: ${describeFault(asFault(fault, 'INTERNAL'))}`
        })
      let ended: { readonly fault?: unknown } | undefined
      const byHand = this.#process(seat, 'by hand', 'world')
      byHand
        .run(() =>
          collectOnce({
            sources: [this.#opened()],
            outbox,
            span: this.plan.script.span,
            log,
            nowMs: () => this.#nowOf(seat),
            signal: stop.signal,
            retryRestsMs: [],
          }),
        )
        .then(
          () => {
            ended = {}
          },
          fault => {
            ended = { fault }
          },
        )
      this.#note(`${seat.name} reads by hand for the ${times} time`)
      for (let steps = 0; !ended; steps += 1) {
        await this.#giveAll()
        if (steps > drainRoundsMax) throw new Error('the read by hand does not end')
        if (!ended) this.#jump(secondMs)
      }
      if (ended.fault !== undefined)
        throw new Error(`read by hand: ${describeFault(asFault(ended.fault, 'INTERNAL'))}`)
      await this.#drain()
      stop.abort()
    }
  }

  /** All is read, settled and drained: the answers are what the provider finally said, and the gaps are where it would not. */
  async #compareTruth(): Promise<void> {
    const provider = this.#provider
    const { dark } = provider
    for (const meter of [...meters, ...unrolled]) {
      const truth = new Map<string, bigint>()
      for (const { scope, window } of provider.windows())
        for (const piece of isDark(scope, window.startMs) ? [] : provider.final(scope, window))
          if (!piece.broken) {
            const times = meter.value === 'gpu_seconds' ? piece.gpus : 1
            add(truth, window.startMs, piece.tenant, piece.instance, BigInt(piece.millis * times))
          }
      same(await this.#answer(meter), truth, `${meter.slug} against what the provider finally said`)
    }
    function isDark(scope: string, startMs: number): boolean {
      return [...dark].some(key => key.startsWith(`${scope} ${showInstant(startMs)}/`))
    }
    const found = await coverage(this.#tables.store, {
      span: this.plan.script.span,
      nowMs: this.#clock.nowMs,
    })
    const states = found
      .filter(({ scope }) => scope !== listingScope)
      .map(({ scope, start, state, subject }) => `${scope} ${start} ${state} ${subject ?? ''}`.trim())
    const expected = provider.windows().flatMap(({ scope, window }) => {
      const place = `${scope} ${showInstant(window.startMs)}`
      if (isDark(scope, window.startMs)) return [`${place} failed`]
      const broken = provider.final(scope, window).filter(piece => piece.broken)
      return [`${place} settled`, ...broken.map(({ tenant }) => `${place} failed ${tenant}`)]
    })
    same(counted(states), counted(expected), 'coverage')
    const unlisted = found.filter(({ scope, state }) => scope === listingScope && state !== 'settled')
    if (unlisted.length > 0) throw new Error(`listings are missing: ${JSON.stringify(unlisted.slice(0, 3))}`)
    if (found[0]?.source !== sourceOfProvider) throw new Error('coverage is of another source')
  }

  /** Every message has one fate: its place in the log stands in one table, once, and the record of positions adds up. */
  async #account(): Promise<void> {
    const { store } = this.#tables
    const fates = ['events', 'reads', 'passed', 'rejected']
    const places = await store.rows<{ log: string; partition: number; offset: string; fates: string[] }>(
      `select log, partition, offset, groupArray(fate) as fates from (
         ${fates.map(table => `select log::String as log, partition, offset, '${table}' as fate from ${table} final`).join(' union all ')})
       group by log, partition, offset`,
    )
    const found = new Map(
      places.map(place => [`${place.log} ${place.partition} ${place.offset}`, place.fates]),
    )
    const wrong = [...this.#taken.keys()]
      .map(place => ({ place, fates: found.get(place) ?? [] }))
      .filter(({ fates }) => fates.length !== 1)
      .map(({ place, fates }) => `${place}: ${fates.join(' and ') || 'none'}`)
    if (wrong.length > 0)
      throw new Error(`fates of messages: ${wrong.length} wrong: ${wrong.slice(0, 5).join('; ')}`)
    const sums = await store.rows(
      `select * from positions final where messages != events + reads + duplicates + conflicts + rejects`,
    )
    if (sums.length > 0) throw new Error(`positions do not add up: ${JSON.stringify(sums.slice(0, 2))}`)
  }

  #expectNoViolation(): void {
    if (this.#violation !== undefined) throw new Error(this.#violation)
  }

  // -- the rest

  #note(step: string): void {
    this.steps.push(`${new Date(this.#clock.nowMs).toISOString().slice(5, 16)} ${step}`)
  }

  #newDir(): string {
    const dir = join(this.#dir, String(this.#dirs++))
    mkdirSync(dir)
    return dir
  }

  #copied(dir: string): string {
    const to = this.#newDir()
    for (const file of ['outbox.db', 'outbox.db-wal'])
      if (existsSync(join(dir, file))) copyFileSync(join(dir, file), join(to, file))
    return to
  }
}

/** The part of an event that tells it from others; the oracle reads the rest. */
interface Message {
  readonly id: string
}

function planOf(chance: Chance): Plan {
  const hours = chance.whole(5, 9)
  const startMs = chance.one([
    Date.UTC(2025, 5, 1),
    // Over the end of a month, which is another partition of every table.
    Date.UTC(2025, 4, 31, 19),
    Date.UTC(2025, 11, 31, 17),
  ])
  const embedded = chance.is(0.5)
  return {
    log: embedded ? 'embedded' : 'topic',
    collectors: embedded ? 1 : chance.whole(1, 2),
    processors: embedded ? 1 : chance.whole(1, 2),
    partitions: embedded ? 1 : chance.whole(1, 3),
    batchRows: chance.one([7, 40, 200, 400]),
    faultPercent: chance.one([0, 2, 6]),
    haste: chance.one([0.8, 0.5, 0.3]),
    clocksJump: chance.is(0.25),
    ledgerPutBack: chance.is(0.4),
    logForgets: !embedded && chance.is(0.3),
    retentionMs: chance.is(0.2) ? 3 * hourMs : 7 * dayMs,
    script: {
      scopes: chance.whole(2, 3),
      tenants: chance.whole(3, 5),
      span: { startMs, endMs: startMs + hours * hourMs },
      widthMinutes: chance.is(0.2) ? 30 : 60,
      finalAfterMs: 3 * hourMs,
      rereadAfterMs: [hourMs, 4 * hourMs],
      lies: chance.is(0.5),
    },
  }
}

function named(name: string, count: number): readonly string[] {
  return Array.from({ length: count }, (_, index) => `${name}-${index + 1}`)
}

function isRunning(seat: Seat): boolean {
  return seat.running.length > 0 && seat.ended === undefined
}

function what(query: unknown): string {
  return String(query).replaceAll(/\s+/g, ' ').slice(0, 60)
}

function counted(texts: readonly string[]): Totals {
  const counts = new Map<string, bigint>()
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0n) + 1n)
  return counts
}

/** @throws Error naming the first differences. */
function same(found: Totals, expected: Totals, about: string): void {
  const differences = [...new Set([...found.keys(), ...expected.keys()])]
    .sort()
    .filter(key => (found.get(key) ?? 0n) !== (expected.get(key) ?? 0n))
    .map(key => `${key}: ${found.get(key) ?? 'none'} instead of ${expected.get(key) ?? 'none'}`)
  if (differences.length > 0)
    throw new Error(`${about}: ${differences.length} differ: ${differences.slice(0, 5).join('; ')}`)
}
