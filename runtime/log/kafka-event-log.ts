/**
 * The log read from Kafka: a consumer group whose place is decided by the ledger's own record, never by what was
 * committed. Fetching goes on, within a bound, while a batch is being worked on; sending is kafka.ts.
 */
import { strict as assert } from 'node:assert'
import {
  type Admin,
  type Cluster,
  type Consumer,
  type EachBatchPayload,
  type KafkaMessage,
  PartitionAssigners,
} from 'kafkajs'
import { Counter } from 'prom-client'
import { asFault, Fault } from '../../schemas/fault.ts'
import { registry } from '../metrics.ts'
import {
  ensureTopics,
  inTime,
  type KafkaCallOptions,
  type KafkaConfig,
  type KafkaTalk,
  kafkaClient,
  logFault,
  patiently,
  topicId,
  withAdmin,
  within,
} from './kafka.ts'
import type { EventLog, LogBatch, LogMessage, LogState } from './log.ts'

export interface KafkaEventLogOptions extends KafkaCallOptions {
  /** Told of LOG_TRUNCATED: messages the ledger lacks are gone from the log; reading goes on where it begins. */
  readonly onFault?: (fault: Fault) => void
  /** After how long without a sign of the brokers `batches` throws LOG_UNREACHABLE. */
  readonly unreachableAfterMs?: number
  /** A partition that is behind and of which nothing has come for so long is named as not being read. */
  readonly unreadAfterMs?: number
  /** Bounds of a batch, in fetches: one that is larger is not cut. */
  readonly messagesMax?: number
  readonly bytesMax?: number
  /** How much may be fetched ahead of the batch being worked on. */
  readonly aheadBytesMax?: number
}

type ResumeAt = (partition: number) => Promise<bigint | undefined>

const mebibyte = 1024 ** 2
const defaults = {
  unreachableAfterMs: 60_000,
  unreadAfterMs: 10_000,
  messagesMax: 25_000,
  bytesMax: 16 * mebibyte,
  aheadBytesMax: 32 * mebibyte,
}
/** One fetch. Measured: larger ones are slower, for the garbage they leave, and delay the heartbeat. */
const fetchBytesMax = 4 * mebibyte
const fetchPartitionBytesMax = mebibyte / 2
/** How long a fetch waits for a first message; also how soon partitions just assigned are fetched from. */
const fetchWaitMs = 250
const closeLimitMs = 5_000
/** How long a partition given again waits for its batches still being worked on, before it is asked for anew. */
const handsLimitMs = 10_000
/** How long the log may look shorter than the ledger knows it, as after a change of leader. */
const unsafeLimitMs = 10_000
/** How long a member may be out of its group beyond what a rebalance takes. */
const rebalanceGraceMs = 5_000
/** How long one question may take. */
const answerLimitMs = 30_000

const commitFailures = new Counter({
  name: 'meterline_log_commit_failures_total',
  help: 'Commits that Kafka did not take. Nothing depends on them but the lag that its own tools show.',
  registers: [registry],
})

/** @throws Fault LOG_UNSAFE | LOG_UNREACHABLE */
export async function kafkaEventLog(
  config: KafkaConfig,
  options: KafkaEventLogOptions = {},
): Promise<EventLog> {
  await ensureTopics(config, options)
  const id = await patiently(() => idOf(config, options.talk), {
    limitMs: ({ code }) =>
      code === 'LOG_UNSAFE' ? 0 : (options.unreachableAfterMs ?? defaults.unreachableAfterMs),
    ...(options.signal && { signal: options.signal }),
  })
  return new KafkaEventLog(config, options, id)
}

/**
 * The topic's id, and the first offset that each partition still has: what an outbox has sent before it is gone.
 * @throws Fault LOG_UNREACHABLE | LOG_UNSAFE
 */
export async function kafkaLogStart(
  config: KafkaConfig,
  options: KafkaCallOptions = {},
): Promise<{ readonly id: string; readonly starts: ReadonlyMap<number, bigint> }> {
  const id = await idOf(config, options.talk)
  const bounds = await withAdmin(config, admin => admin.fetchTopicOffsets(config.topic), options)
  return { id, starts: new Map(bounds.map(one => [one.partition, BigInt(one.low)])) }
}

async function idOf(config: KafkaConfig, talk?: KafkaTalk): Promise<string> {
  const cluster = clusterOf(config, talk)
  try {
    return await inTime(answerLimitMs, topicId(cluster, config.topic))
  } finally {
    await within(closeLimitMs, cluster.disconnect())
  }
}

/** kafkajs shows its connections to an assigner of partitions, and to nobody else. */
function clusterOf(config: KafkaConfig, talk?: KafkaTalk): Cluster {
  let seen: Cluster | undefined
  kafkaClient(config, talk).consumer({
    groupId: config.groupId,
    partitionAssigners: [
      given => {
        seen = given.cluster
        return PartitionAssigners.roundRobin(given)
      },
    ],
  })
  assert(seen, 'an assigner is made with its consumer')
  return seen
}

class KafkaEventLog implements EventLog {
  readonly id: string
  readonly #config: KafkaConfig
  readonly #options: KafkaEventLogOptions
  readonly #questions: Questions
  readonly #closing = new AbortController()
  #session: Session | undefined

  constructor(config: KafkaConfig, options: KafkaEventLogOptions, id: string) {
    this.id = id
    this.#config = config
    this.#options = options
    this.#questions = new Questions(config, options.talk)
  }

  async *batches(options: {
    readonly resumeAt: ResumeAt
    readonly signal: AbortSignal
  }): AsyncGenerator<LogBatch> {
    assert(!this.#session, 'a log is read once at a time')
    const signal = AbortSignal.any([options.signal, this.#closing.signal])
    const session = new Session(this.#config, this.#options, this.#questions, this.id, options.resumeAt)
    this.#session = session
    try {
      session.start()
      for (;;) {
        const batch = await session.take(signal)
        if (!batch) return
        yield batch
      }
    } finally {
      this.#session = undefined
      await session.stop()
    }
  }

  async commit(batch: LogBatch): Promise<void> {
    await this.#session?.commit(batch)
  }

  async state(): Promise<LogState> {
    return (await this.#session?.state()) ?? { lag: 0n, partitions: [] }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort()
    await this.#questions[Symbol.asyncDispose]()
  }
}

/** One admin client for many questions; after one that failed, another: a client can be knotted for good. */
class Questions implements AsyncDisposable {
  readonly #config: KafkaConfig
  readonly #talk: KafkaTalk | undefined
  #admin: { readonly client: Admin; readonly connected: Promise<void> } | undefined
  #closed = false

  constructor(config: KafkaConfig, talk: KafkaTalk | undefined) {
    this.#config = config
    this.#talk = talk
  }

  /** @throws Fault LOG_UNREACHABLE also where there is no answer in time */
  async ask<T>(question: (admin: Admin) => Promise<T>): Promise<T> {
    if (this.#closed) throw new Fault('ABORTED', 'the log is closed')
    if (!this.#admin) {
      const client = kafkaClient(this.#config, this.#talk).admin()
      this.#admin = { client, connected: client.connect() }
    }
    const admin = this.#admin
    try {
      return await inTime(
        answerLimitMs,
        admin.connected.then(() => question(admin.client)),
      )
    } catch (error) {
      if (this.#admin === admin) {
        this.#admin = undefined
        // Others whose question is under way are told, and ask again.
        void within(closeLimitMs, admin.client.disconnect())
      }
      throw logFault(error, { topic: this.#config.topic })
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    const admin = this.#admin
    this.#admin = undefined
    if (admin) await within(closeLimitMs, admin.client.disconnect())
  }
}

/** A batch that was given out and not yet acknowledged. */
interface Hand {
  readonly part: Part
  readonly endOffset: bigint
  acknowledged: boolean
}

/** A partition, for as long as it is assigned. Another assignment makes a new one, and the old one counts for nothing. */
interface Part {
  readonly partition: number
  /** The next offset wanted from Kafka; not known until the ledger was asked. */
  next: bigint | undefined
  /** The next offset to give out. */
  given: bigint | undefined
  /** Where a gap was found that may be the log's own; asked for once more before it is believed. */
  gapAt: bigint | undefined
  chunks: { readonly messages: readonly LogMessage[]; readonly bytes: number }[]
  /** Given out, oldest first. */
  readonly hands: Hand[]
}

/** One membership in the group, from `start` to `stop`. */
class Session {
  readonly #config: KafkaConfig
  readonly #options: KafkaEventLogOptions & typeof defaults
  readonly #questions: Questions
  readonly #id: string
  readonly #resumeAt: ResumeAt
  readonly #heartbeatMs: number
  /** How long the group may take to deal its partitions. */
  readonly #rebalanceMs: number
  /** Made at the start; another one until one has subscribed. */
  #consumer!: Consumer
  #cluster!: Cluster
  #parts = new Map<number, Part>()
  /** Parts with chunks, the one that waits longest first. */
  #filled: Part[] = []
  #aheadBytes = 0
  readonly #hands = new Map<LogBatch, Hand>()
  #failure: Fault | undefined
  readonly #stopping = new AbortController()
  #aliveMs = performance.now()
  /** Since when it is no member of its group. */
  #outsideMs: number | undefined = performance.now()
  /** When each partition was last seen to be read, or to have nothing to read: not forgotten over a new assignment. */
  #readMs = new Map<number, number>()
  #lag = 0n
  #watch: NodeJS.Timeout | undefined
  /** Woken at every change; each waiter looks for itself. */
  readonly #waiters = new Set<() => void>()

  constructor(
    config: KafkaConfig,
    options: KafkaEventLogOptions,
    questions: Questions,
    id: string,
    resumeAt: ResumeAt,
  ) {
    this.#config = config
    this.#options = { ...defaults, ...options }
    this.#questions = questions
    this.#id = id
    this.#resumeAt = resumeAt
    this.#heartbeatMs = Math.max(100, Math.floor(config.sessionTimeoutMs / 3))
    this.#rebalanceMs = Math.max(10_000, config.sessionTimeoutMs)
  }

  start(): void {
    this.#watch = setInterval(() => this.#watchBrokers(), 1_000)
    this.#watch.unref()
    const running = (async () => {
      await this.#patiently(() => this.#subscribe())
      // Stopped meanwhile, it must not join the group any more.
      if (this.#stopping.signal.aborted) return await within(closeLimitMs, this.#consumer.disconnect())
      await this.#consumer.run({
        autoCommit: false,
        eachBatchAutoResolve: false,
        eachBatch: payload => this.#receive(payload),
      })
    })()
    running.catch(error => this.#fail(logFault(error, { groupId: this.#config.groupId })))
  }

  async #subscribe(): Promise<void> {
    const { groupId, sessionTimeoutMs, topic } = this.#config
    let cluster: Cluster | undefined
    const consumer = kafkaClient(this.#config, this.#options.talk).consumer({
      groupId,
      sessionTimeout: sessionTimeoutMs,
      rebalanceTimeout: this.#rebalanceMs,
      heartbeatInterval: this.#heartbeatMs,
      maxBytes: fetchBytesMax,
      maxBytesPerPartition: fetchPartitionBytesMax,
      minBytes: 1,
      maxWaitTimeInMs: fetchWaitMs,
      allowAutoTopicCreation: false,
      // A restart that comes due while the session stops would bring up a member that nobody knows of.
      retry: { retries: 5, restartOnFailure: async () => !this.#stopping.signal.aborted },
      partitionAssigners: [
        given => {
          cluster = given.cluster
          return PartitionAssigners.roundRobin(given)
        },
      ],
    })
    assert(cluster, 'an assigner is made with its consumer')
    this.#consumer = consumer
    this.#cluster = cluster
    const { GROUP_JOIN, HEARTBEAT, REBALANCING, CRASH } = consumer.events
    consumer.on(GROUP_JOIN, event => {
      try {
        this.#assign(event.payload.memberAssignment[topic] ?? [])
      } catch (error) {
        // kafkajs would say nothing of it, and go on with partitions that nobody reads.
        this.#fail(asFault(error, 'INTERNAL', { groupId }))
      }
    })
    consumer.on(REBALANCING, () => {
      this.#outsideMs ??= performance.now()
    })
    consumer.on(HEARTBEAT, () => {
      this.#aliveMs = performance.now()
    })
    consumer.on(CRASH, event => {
      // A restart joins the group anew, which brings a new assignment; kafkajs ends quietly where there is none.
      this.#outsideMs ??= performance.now()
      this.#drop()
      if (!event.payload.restart) this.#fail(logFault(event.payload.error, { groupId }))
    })
    try {
      await consumer.connect()
      // Where even kafkajs decides for itself (an offset that the log no longer has), it begins at the log's start.
      await consumer.subscribe({ topic, fromBeginning: true })
    } catch (error) {
      await within(closeLimitMs, consumer.disconnect())
      throw error
    }
  }

  async stop(): Promise<void> {
    this.#stopping.abort()
    clearInterval(this.#watch)
    this.#drop()
    await within(closeLimitMs, this.#consumer.disconnect())
  }

  /** The next batch; nothing once the signal is aborted. */
  async take(signal: AbortSignal): Promise<LogBatch | undefined> {
    await this.#until(() => signal.aborted || this.#failure !== undefined || this.#filled.length > 0, {
      signal,
    })
    if (signal.aborted) return undefined
    if (this.#failure) throw this.#failure
    const part = this.#filled.shift()!
    const batch = this.#cut(part)
    if (part.chunks.length > 0) this.#filled.push(part)
    this.#wake()
    return batch
  }

  /** Chunks of one partition, together, up to the bounds. */
  #cut(part: Part): LogBatch {
    let count = 0
    let bytes = 0
    let taken = 0
    for (const chunk of part.chunks) {
      count += chunk.messages.length
      if (taken > 0 && (count > this.#options.messagesMax || bytes + chunk.bytes > this.#options.bytesMax))
        break
      bytes += chunk.bytes
      taken += 1
    }
    const chunks = part.chunks.splice(0, taken)
    this.#aheadBytes -= bytes
    const messages = chunks.length === 1 ? chunks[0]!.messages : chunks.flatMap(chunk => chunk.messages)
    const batch: LogBatch = { partition: part.partition, messages }
    const endOffset = messages.at(-1)!.offset + 1n
    const hand: Hand = { part, endOffset, acknowledged: false }
    part.given = endOffset
    part.hands.push(hand)
    this.#hands.set(batch, hand)
    return batch
  }

  /** Commits as far as every batch before this one is acknowledged too. */
  async commit(batch: LogBatch): Promise<void> {
    const hand = this.#hands.get(batch)
    if (!hand) return
    this.#hands.delete(batch)
    hand.acknowledged = true
    const { part } = hand
    let offset: bigint | undefined
    while (part.hands[0]?.acknowledged) offset = part.hands.shift()!.endOffset
    this.#wake()
    // Of an assignment that is over, the ledger's record tells whoever has the partition now.
    if (offset === undefined || this.#parts.get(part.partition) !== part) return
    try {
      await this.#consumer.commitOffsets([
        { topic: this.#config.topic, partition: part.partition, offset: String(offset) },
      ])
    } catch {
      commitFailures.inc()
    }
  }

  async state(): Promise<LogState> {
    const parts = [...this.#parts.values()]
    const partitions = parts.map(part => part.partition).sort((a, b) => a - b)
    let isAnswered = parts.length === 0
    const asked = isAnswered
      ? undefined
      : this.#patiently(() => this.#bounds()).finally(() => {
          isAnswered = true
          this.#wake()
        })
    // Brokers that say nothing are told of before their silence ends the reading.
    asked?.catch(() => {})
    await this.#until(() => isAnswered || this.#problem() !== undefined, {})
    const problem = this.#problem()
    if (problem !== undefined) return { lag: this.#lag, partitions, paused: this.#unread(), problem }
    const bounds = await asked
    if (!bounds) return { lag: this.#lag, partitions }
    let lag = 0n
    for (const part of parts) {
      const { low, high } = bounds(part.partition)
      const behind = high - (part.given ?? low)
      if (behind > 0n) lag += behind
      const isRead = part.next !== undefined && (part.next >= high || this.#isFull())
      if (isRead) this.#readMs.set(part.partition, performance.now())
    }
    this.#lag = lag
    return { lag, partitions, paused: this.#unread() }
  }

  /** What would otherwise look like a log with nothing to read. */
  #problem(): string | undefined {
    const { brokers, groupId } = this.#config
    // A member that waits for a rebalance says nothing meanwhile.
    const limitMs = this.#rebalanceMs + rebalanceGraceMs
    const nowMs = performance.now()
    const outsideMs = this.#outsideMs === undefined ? 0 : nowMs - this.#outsideMs
    if (outsideMs > limitMs) return `no member of group ${groupId} for ${seconds(outsideMs)}`
    const silentMs = nowMs - this.#aliveMs
    if (silentMs > limitMs) return `no sign of Kafka at ${brokers.join(',')} for ${seconds(silentMs)}`
    return undefined
  }

  /** Partitions that are behind, or whose place is not known, and of which nothing has come for a while. */
  #unread(): readonly number[] {
    const nowMs = performance.now()
    return [...this.#readMs]
      .filter(([, readMs]) => nowMs - readMs > this.#options.unreadAfterMs)
      .map(([partition]) => partition)
      .sort((a, b) => a - b)
  }

  #isFull(): boolean {
    return this.#aheadBytes >= this.#options.aheadBytesMax
  }

  // -- assignment

  #assign(partitions: readonly number[]): void {
    this.#aliveMs = performance.now()
    this.#outsideMs = undefined
    this.#drop()
    if (this.#stopping.signal.aborted) return
    this.#readMs = new Map(partitions.map(one => [one, this.#readMs.get(one) ?? performance.now()]))
    if (partitions.length === 0) this.#lag = 0n
    for (const partition of partitions)
      this.#parts.set(partition, {
        partition,
        next: undefined,
        given: undefined,
        gapAt: undefined,
        chunks: [],
        hands: [],
      })
    // Until the ledger was asked nothing may be fetched.
    if (partitions.length > 0)
      this.#consumer.pause([{ topic: this.#config.topic, partitions: [...partitions] }])
    void this.#begin([...this.#parts.values()])
    this.#wake()
  }

  /** What was fetched and not given out is fetched again by whoever has the partition now. */
  #drop(): void {
    this.#parts = new Map()
    this.#filled = []
    this.#aheadBytes = 0
    this.#wake()
  }

  #isCurrent(part: Part): boolean {
    return this.#parts.get(part.partition) === part
  }

  async #begin(parts: readonly Part[]): Promise<void> {
    try {
      if (parts.length === 0) return
      await this.#holdTopic()
      await Promise.all(parts.map(part => this.#beginOne(part)))
    } catch (error) {
      if (parts.some(part => this.#isCurrent(part)))
        this.#fail(logFault(error, { topic: this.#config.topic }))
    }
  }

  /** A topic made anew under the same name starts its offsets anew: the ledger's record does not speak of it. */
  async #holdTopic(): Promise<void> {
    const id = await this.#patiently(() => inTime(answerLimitMs, topicId(this.#cluster, this.#config.topic)))
    if (id !== this.#id)
      throw new Fault(
        'LOG_UNSAFE',
        `topic ${this.#config.topic} was deleted and made anew while it was read`,
        {
          topic: this.#config.topic,
          found: id,
          wanted: this.#id,
        },
      )
  }

  async #beginOne(part: Part): Promise<void> {
    const { partition } = part
    // Batches of this partition may still be in the consumer's hands from the assignment before: what they bring into
    // the ledger belongs to its answer. Should they never be acknowledged, their messages come again.
    const isInHand = () => [...this.#hands.values()].some(hand => hand.part.partition === partition)
    await this.#until(() => !this.#isCurrent(part) || !isInHand(), { limitMs: handsLimitMs })
    if (!this.#isCurrent(part)) return
    const wanted = await this.#resumeAt(partition)
    const next = await this.#startOf(part, wanted)
    if (!this.#isCurrent(part)) return
    part.next = next
    part.given = next
    this.#consumer.seek({ topic: this.#config.topic, partition, offset: String(next) })
    this.#consumer.resume([{ topic: this.#config.topic, partitions: [partition] }])
  }

  async #startOf(part: Part, wanted: bigint | undefined): Promise<bigint> {
    const { partition } = part
    // A new leader may know the end of the log only a moment later.
    const { low } = await this.#patiently(async () => {
      const bounds = (await this.#bounds())(partition)
      if (wanted !== undefined && wanted > bounds.high)
        throw new Fault(
          'LOG_UNSAFE',
          `the ledger has partition ${partition} up to ${wanted}, but the log ends at ${bounds.high}: it lost its end`,
          { topic: this.#config.topic, partition, wanted: String(wanted), found: String(bounds.high) },
        )
      return bounds
    })
    if (wanted !== undefined && wanted >= low) return wanted
    const lacks = wanted ?? (low > 0n && (await this.#wasCommitted(partition)) ? 0n : low)
    if (lacks < low) this.#tellTruncated(partition, lacks, low)
    return low
  }

  /** A ledger that knows nothing of a partition which someone has acknowledged before is not the one of that time. */
  async #wasCommitted(partition: number): Promise<boolean> {
    const { groupId, topic } = this.#config
    const topics = await this.#patiently(() =>
      this.#questions.ask(admin => admin.fetchOffsets({ groupId, topics: [topic] })),
    )
    const found = topics[0]?.partitions.find(one => one.partition === partition)
    return found !== undefined && Number(found.offset) >= 0
  }

  #tellTruncated(partition: number, wanted: bigint, low: bigint): void {
    this.#options.onFault?.(
      new Fault(
        'LOG_TRUNCATED',
        `partition ${partition}: the ledger lacks offsets ${wanted} to ${low - 1n}, which the log no longer has`,
        { topic: this.#config.topic, partition, wanted: String(wanted), found: String(low) },
      ),
    )
  }

  /** The first and the next offset of each partition. Nobody can tell them while one of the leaders is gone. */
  async #bounds(): Promise<(partition: number) => { readonly low: bigint; readonly high: bigint }> {
    const { topic } = this.#config
    const found = await this.#questions.ask(admin => admin.fetchTopicOffsets(topic))
    return partition => {
      const one = found.find(bounds => bounds.partition === partition)
      if (!one)
        throw new Fault('LOG_UNREACHABLE', `no broker knows of partition ${partition}`, { topic, partition })
      return { low: BigInt(one.low), high: BigInt(one.high) }
    }
  }

  /** In a fail-over a question may find nobody, or somebody who does not know yet. */
  async #patiently<T>(ask: () => Promise<T>): Promise<T> {
    const { unreachableAfterMs } = this.#options
    const limitMs = ({ code }: Fault) =>
      code === 'LOG_UNSAFE' ? Math.min(unsafeLimitMs, unreachableAfterMs) : unreachableAfterMs
    return await patiently(ask, { limitMs, signal: this.#stopping.signal })
  }

  // -- fetching

  /** kafkajs tries again, and joins again, whatever is thrown here: that is left to what may pass by itself. */
  async #receive(payload: EachBatchPayload): Promise<void> {
    let ofKafkaJs: unknown
    const heartbeat = () =>
      payload.heartbeat().catch(error => {
        ofKafkaJs = error
        throw error
      })
    try {
      await this.#takeIn({ ...payload, heartbeat })
    } catch (error) {
      const isPassing = error === ofKafkaJs || (error instanceof Fault && error.fate === 'retry')
      if (!isPassing) this.#fail(asFault(error, 'INTERNAL', { topic: this.#config.topic }))
      throw error
    }
  }

  async #takeIn({ batch, resolveOffset, heartbeat }: EachBatchPayload): Promise<void> {
    const part = this.#parts.get(batch.partition)
    // Not resolved, it is fetched again, from where the ledger wants it.
    if (part?.next === undefined) return
    const first = BigInt(batch.firstOffset() ?? batch.messages[0]!.offset)
    if (first > part.next && !(await this.#isGapReal(part, first))) return
    if (first < part.next && BigInt(batch.highWatermark) < part.next) {
      const { topic } = this.#config
      const message = `partition ${part.partition} was read up to ${part.next}, but the log ends at ${batch.highWatermark}: it lost its end`
      // Thrown from here, kafkajs would try again and again.
      this.#fail(new Fault('LOG_UNSAFE', message, { topic, partition: part.partition }))
      return
    }
    while (this.#isFull() && this.#isCurrent(part)) {
      await this.#until(() => !this.#isFull() || !this.#isCurrent(part), {
        limitMs: this.#heartbeatMs,
      })
      await heartbeat()
    }
    if (!this.#isCurrent(part)) return
    this.#put(part, batch.messages)
    this.#readMs.set(part.partition, performance.now())
    const last = batch.lastOffset()
    part.next = BigInt(last) + 1n
    resolveOffset(last)
  }

  #put(part: Part, fetched: readonly KafkaMessage[]): void {
    let bytes = 0
    const messages: LogMessage[] = []
    for (const message of fetched) {
      const offset = BigInt(message.offset)
      if (offset < part.next!) continue
      bytes += (message.value?.length ?? 0) + (message.key?.length ?? 0)
      messages.push({
        offset,
        key: message.key === null ? null : message.key.toString('utf8'),
        value: message.value,
        headers: headersOf(message),
        appendedMs: Number(message.timestamp),
      })
    }
    if (messages.length === 0) return
    if (part.chunks.length === 0) this.#filled.push(part)
    part.chunks.push({ messages, bytes })
    this.#aheadBytes += bytes
    this.#wake()
  }

  /**
   * Between the offset wanted and the first one fetched there may be nothing (a transaction's control records), the log
   * may have been cut by its retention, or kafkajs has lost its place. False: it was sent back.
   */
  async #isGapReal(part: Part, first: bigint): Promise<boolean> {
    const wanted = part.next!
    // Not patiently: the group hears nothing of this member meanwhile. kafkajs fetches again, and asks again.
    const { low } = (await this.#bounds())(part.partition)
    if (!this.#isCurrent(part)) return false
    if (low > wanted) {
      this.#tellTruncated(part.partition, wanted, low)
      part.next = low
      if (first <= low) return true
    }
    if (part.gapAt === part.next) return true
    part.gapAt = part.next
    this.#consumer.seek({ topic: this.#config.topic, partition: part.partition, offset: String(part.next) })
    return false
  }

  // -- life

  #watchBrokers(): void {
    const silentMs = performance.now() - this.#aliveMs
    this.#wake()
    if (silentMs < this.#options.unreachableAfterMs) return
    this.#fail(
      new Fault('LOG_UNREACHABLE', `no sign of Kafka for ${seconds(silentMs)}`, {
        brokers: this.#config.brokers.join(','),
        groupId: this.#config.groupId,
      }),
    )
  }

  #fail(fault: Fault): void {
    this.#failure ??= fault
    this.#wake()
  }

  #wake(): void {
    for (const look of [...this.#waiters]) look()
  }

  /** Waits until `isSo`, looked at after every change, the signal, or the limit. */
  async #until(
    isSo: () => boolean,
    end: { readonly signal?: AbortSignal; readonly limitMs?: number },
  ): Promise<void> {
    if (isSo()) return
    await new Promise<void>(resolve => {
      const done = () => {
        clearTimeout(timer)
        end.signal?.removeEventListener('abort', look)
        this.#waiters.delete(look)
        resolve()
      }
      const look = () => {
        if (isSo()) done()
      }
      const timer = end.limitMs === undefined ? undefined : setTimeout(done, end.limitMs)
      end.signal?.addEventListener('abort', look)
      this.#waiters.add(look)
    })
  }
}

const seconds = (durationMs: number) => `${Math.round(durationMs / 1000)} s`

const none: Readonly<Record<string, string>> = Object.freeze({})
/** Almost all messages carry the same one header: it is read once. */
let common: { readonly bytes: Buffer; readonly headers: Readonly<Record<string, string>> } | undefined

function headersOf(message: KafkaMessage): Readonly<Record<string, string>> {
  const given = message.headers ?? {}
  const names = Object.keys(given)
  if (names.length === 0) return none
  const alone = names.length === 1 ? given['content-type'] : undefined
  if (Buffer.isBuffer(alone) && common?.bytes.equals(alone)) return common.headers
  const headers: Record<string, string> = {}
  for (const name of names) {
    const value = given[name]
    // A name given twice: the last one counts.
    const last = Array.isArray(value) ? value.at(-1) : value
    if (last !== undefined) headers[name.toLowerCase()] = last.toString('utf8')
  }
  if (Buffer.isBuffer(alone)) common = { bytes: Buffer.from(alone), headers: Object.freeze(headers) }
  return headers
}
