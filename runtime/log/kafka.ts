/**
 * Kafka's sending side: the topics as Meterline needs them, and the lanes through which rows reach them. This is the
 * only file that may make a kafkajs producer; reading is kafka-event-log.ts.
 */
import { strict as assert } from 'node:assert'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type Admin,
  type Cluster,
  Kafka,
  type KafkaConfig as KafkaJsConfig,
  logLevel,
  type Producer,
  type RecordMetadata,
  type SASLOptions,
} from 'kafkajs'
import { Counter } from 'prom-client'
import { asFault, Fault } from '../../schemas/fault.ts'
import { registry } from '../metrics.ts'
import { rest } from '../rest.ts'
import type { RejectedMessage, RejectLog } from './log.ts'

export interface KafkaConfig {
  readonly brokers: readonly string[]
  readonly topic: string
  readonly rejectedTopic: string
  /** Fixed for the life of a topic: keys are dealt by it. */
  readonly partitions: number
  readonly replicationFactor: number
  readonly minInSyncReplicas: number
  /** Make topics that are missing. */
  readonly create: boolean
  readonly groupId: string
  /** How long a processor that was killed blocks its partitions. */
  readonly sessionTimeoutMs: number
  /** At least as long as an outbox keeps its released rows. */
  readonly retentionMs: number
  readonly ssl?: boolean | { readonly ca?: string; readonly cert?: string; readonly key?: string }
  readonly sasl?: {
    readonly mechanism: 'plain' | 'scram-sha-256' | 'scram-sha-512'
    readonly username: string
    readonly password: string
  }
}

/** What the client itself has to say (warnings and errors it deals with by itself), for a log. */
export type KafkaTalk = (line: { readonly level: 'warn' | 'error'; readonly message: string }) => void

const requestTimeoutMs = 10_000
/** Less than a request may take, so that the broker's own answer arrives in time. */
const produceTimeoutMs = 8_000
const closeLimitMs = 5_000
const topicLimitMs = 30_000
/** How long brokers may not agree who leads: by default a dead one is named as a leader for 9 s. */
const failOverLimitMs = 30_000
/** How long they may hang up: those that die do so once, those that want a login or TLS each time. */
const hangUpLimitMs = 5_000

export function kafkaClient(config: Pick<KafkaConfig, 'brokers' | 'ssl' | 'sasl'>, talk?: KafkaTalk): Kafka {
  const options: KafkaJsConfig = {
    clientId: 'meterline',
    brokers: inTurn(config.brokers),
    connectionTimeout: 5_000,
    requestTimeout: requestTimeoutMs,
    retry: { initialRetryTime: 200, maxRetryTime: 5_000, retries: 5 },
    logLevel: talk ? logLevel.WARN : logLevel.NOTHING,
    logCreator:
      () =>
      ({ level, namespace, log }) =>
        talk?.({
          level: level === logLevel.WARN ? 'warn' : 'error',
          message: `${namespace}: ${log.message}`,
        }),
  }
  if (config.ssl !== undefined) options.ssl = config.ssl
  if (config.sasl) options.sasl = { ...config.sasl } as SASLOptions
  return new Kafka(options)
}

let begun = Math.trunc(Math.random() * 1_000)
/**
 * kafkajs begins with the first broker of its list, and goes on to the next only where that one takes no connection. One
 * that takes it and says nothing would hold up every client for as long as it likes: so each begins at another.
 */
function inTurn(brokers: readonly string[]): string[] {
  begun += 1
  const at = begun % brokers.length
  return [...brokers.slice(at), ...brokers.slice(0, at)]
}

export interface KafkaCallOptions {
  readonly talk?: KafkaTalk
  /** Ends the patience with brokers in a fail-over; what is thrown then is what they answered last. */
  readonly signal?: AbortSignal
}

/**
 * Runs `work` with an admin client. Where brokers are there and a fail-over spoils the work, it runs again with a new
 * client, which knows of nothing old: kafkajs tries one broker only, and that may be the dead one.
 * @throws Fault
 */
export async function withAdmin<T>(
  config: Pick<KafkaConfig, 'brokers' | 'ssl' | 'sasl'>,
  work: (admin: Admin) => Promise<T>,
  { talk, signal }: KafkaCallOptions = {},
): Promise<T> {
  let isThere = false
  const attempt = async () => {
    const admin = kafkaClient(config, talk).admin()
    try {
      isThere = false
      await admin.connect()
      isThere = true
      return await work(admin)
    } catch (error) {
      throw logFault(error, { brokers: config.brokers.join(',') })
    } finally {
      await within(closeLimitMs, admin.disconnect())
    }
  }
  const limitMs = (fault: Fault) => {
    if (!isThere || !isPassing(fault)) return 0
    return fault.facts.type === 'KafkaJSConnectionClosedError' ? hangUpLimitMs : failOverLimitMs
  }
  return await patiently(attempt, { limitMs, ...(signal && { signal }) })
}

/** Asks again, ever more slowly, until a fault has lasted for its `limitMs` since the first try: that one is thrown. */
export async function patiently<T>(
  ask: () => Promise<T>,
  end: { readonly limitMs: (fault: Fault) => number; readonly signal?: AbortSignal },
): Promise<T> {
  const signal = end.signal ?? new AbortController().signal
  const sinceMs = performance.now()
  for (let failures = 0; ; failures += 1) {
    try {
      return await ask()
    } catch (error) {
      const fault = logFault(error)
      if (signal.aborted || performance.now() - sinceMs >= end.limitMs(fault)) throw fault
      await rest(backoffMs(failures), signal)
    }
  }
}

/**
 * Is it what a fail-over makes of a question? By kafkajs's own rule, all that is not marked otherwise: it wraps the errors
 * that it marks, and trips over itself (a TypeError, a bare Error) where no broker answers or one is not connected yet.
 */
function isPassing(error: unknown): boolean {
  let first = error
  while (first instanceof Error && first.cause instanceof Error) first = first.cause
  if (first instanceof Fault) return false
  return !(first instanceof Error && 'retriable' in first && first.retriable === false)
}

export function logFault(error: unknown, facts: Record<string, string | number> = {}): Fault {
  const type = typeOf(error)
  return asFault(error, /AUTHORIZATION_FAILED$/.test(type) ? 'LOG_UNSAFE' : 'LOG_UNREACHABLE', {
    ...facts,
    type,
  })
}

/** kafkajs wraps the error that says what happened into others. */
function typeOf(error: unknown): string {
  let found = 'unknown'
  for (let at = error; at instanceof Error; at = at.cause) {
    if ('type' in at && typeof at.type === 'string') return at.type
    found = at.name
  }
  return found
}

/**
 * Waits, but not long: kafkajs can wait for ever on a connection that is gone.
 * @throws Fault LOG_UNREACHABLE where there is no answer in time
 */
export async function inTime<T>(limitMs: number, work: Promise<T>): Promise<T> {
  const timer = new AbortController()
  const late = sleep(limitMs, undefined, { signal: timer.signal }).then(() => {
    throw new Fault('LOG_UNREACHABLE', `no answer of the brokers for ${limitMs / 1000} s`, {
      type: 'UNANSWERED',
    })
  })
  try {
    return await Promise.race([work, late])
  } finally {
    timer.abort()
  }
}

/** Waits in time for something whose outcome nobody needs. */
export async function within(limitMs: number, work: Promise<unknown>): Promise<void> {
  await inTime(limitMs, work).catch(() => {})
}

// -- topics

/** What Meterline needs of a topic, beside its partitions and replicas. */
function topicSettings(config: KafkaConfig): Record<string, string> {
  return {
    'min.insync.replicas': String(config.minInSyncReplicas),
    'unclean.leader.election.enable': 'false',
    'message.timestamp.type': 'LogAppendTime',
    'cleanup.policy': 'delete',
    'retention.ms': String(config.retentionMs),
    'retention.bytes': '-1',
  }
}

export interface TopicFound {
  readonly partitions: number
  readonly replicationFactor: number
  readonly settings: Readonly<Record<string, string>>
}

/** In which ways a topic is weaker than, or cut otherwise than, the config says: `name is found, wanted`. Pure. */
export function weaknesses(
  config: KafkaConfig,
  found: TopicFound,
): readonly { readonly name: string; readonly found: string; readonly wanted: string }[] {
  const wanted = topicSettings(config)
  const weak: { name: string; found: string; wanted: string }[] = []
  const hold = (name: string, isEnough: boolean, is: string | number, want: string | number) => {
    if (!isEnough) weak.push({ name, found: String(is), wanted: String(want) })
  }
  hold('partitions', found.partitions === config.partitions, found.partitions, config.partitions)
  const copies = found.replicationFactor
  hold('replicationFactor', copies >= config.replicationFactor, copies, config.replicationFactor)
  for (const [name, want] of Object.entries(wanted)) {
    const is = found.settings[name] ?? 'unknown'
    hold(name, isEnough(name, is, want), is, want)
  }
  return weak
}

function isEnough(name: string, found: string, wanted: string): boolean {
  if (name === 'min.insync.replicas') return Number(found) >= Number(wanted)
  // -1 keeps for ever.
  if (name === 'retention.ms') return found === '-1' || (wanted !== '-1' && Number(found) >= Number(wanted))
  return found === wanted
}

/**
 * Makes both topics where they are missing, and compares them with the config where they are there.
 * @throws Fault LOG_UNSAFE that names each value with the one of the config | LOG_UNREACHABLE
 */
export async function ensureTopics(config: KafkaConfig, options: KafkaCallOptions = {}): Promise<void> {
  await withAdmin(
    config,
    async admin => {
      for (const topic of [config.topic, config.rejectedTopic]) await ensureTopic(admin, config, topic)
    },
    options,
  )
}

async function ensureTopic(admin: Admin, config: KafkaConfig, topic: string): Promise<void> {
  const isThere = (await admin.listTopics()).includes(topic)
  if (!isThere) {
    if (!config.create)
      throw new Fault('LOG_UNSAFE', `topic ${topic} does not exist, and kafka.create is false`, { topic })
    await createTopic(admin, config, topic)
  }
  const found = await describeTopic(admin, topic, isThere ? undefined : config.partitions)
  const weak = weaknesses(config, found)
  if (weak.length === 0) return
  const words = weak.map(({ name, found: is, wanted }) => `${name} is ${is}, the config says ${wanted}`)
  throw new Fault('LOG_UNSAFE', `topic ${topic}: ${words.join('; ')}`, { topic, ...weak[0]! })
}

async function createTopic(admin: Admin, config: KafkaConfig, topic: string): Promise<void> {
  // False, and no error, when another process was faster.
  await admin.createTopics({
    topics: [
      {
        topic,
        numPartitions: config.partitions,
        replicationFactor: config.replicationFactor,
        configEntries: Object.entries(topicSettings(config)).map(([name, value]) => ({ name, value })),
      },
    ],
    timeout: requestTimeoutMs,
    waitForLeaders: false,
  })
}

/** ConfigResourceTypes.TOPIC, an export of kafkajs that Node does not see from a module. */
const topicResource = 2

/** The topic as the brokers have it. One just made is known everywhere only after a moment: then `partitions` are awaited. */
async function describeTopic(admin: Admin, topic: string, partitions?: number): Promise<TopicFound> {
  const deadlineMs = performance.now() + topicLimitMs
  for (;;) {
    try {
      const metadata = await admin.fetchTopicMetadata({ topics: [topic] })
      const cut = metadata.topics[0]?.partitions ?? []
      const hasLeaders = cut.length > 0 && cut.every(partition => partition.leader >= 0)
      if (hasLeaders && (partitions === undefined || cut.length >= partitions)) {
        const described = await admin.describeConfigs({
          includeSynonyms: false,
          resources: [{ type: topicResource, name: topic }],
        })
        const entries = described.resources[0]?.configEntries ?? []
        return {
          partitions: cut.length,
          replicationFactor: Math.min(...cut.map(partition => partition.replicas.length)),
          settings: Object.fromEntries(entries.map(entry => [entry.configName, entry.configValue])),
        }
      }
    } catch (error) {
      if (performance.now() > deadlineMs || typeOf(error) !== 'UNKNOWN_TOPIC_OR_PARTITION') throw error
    }
    if (performance.now() > deadlineMs)
      throw new Fault('LOG_UNREACHABLE', `topic ${topic} has partitions without a leader`, { topic })
    await sleep(200)
  }
}

// -- the topic's id

/** The part of kafkajs's broker that its types leave out. */
interface RawBroker {
  readonly versions: Readonly<Record<number, { readonly maxVersion: number }>>
  readonly connectionPool: { send(exchange: RawExchange): Promise<string> }
}

interface RawExchange {
  readonly request: {
    readonly apiKey: number
    readonly apiVersion: number
    readonly apiName: string
    readonly encode: () => Promise<{
      readonly buf: Buffer
      readonly buffer: Buffer
      readonly size: () => number
    }>
  }
  readonly response: {
    readonly decode: (payload: Buffer) => Promise<Buffer>
    readonly parse: (payload: Buffer) => Promise<string>
  }
}

const metadataKey = 3
/** The oldest version that takes and gives topic ids together with names (Kafka 3.1). kafkajs itself ends at 6. */
const metadataVersion = 12

/**
 * The id that a topic got when it was made: one deleted and made anew has another, and its offsets mean other messages.
 * @throws Fault LOG_UNREACHABLE | LOG_UNSAFE
 */
export async function topicId(cluster: Cluster, topic: string): Promise<string> {
  try {
    await cluster.connect()
    await cluster.addTargetTopic(topic)
    const broker = (await cluster.findControllerBroker()) as unknown as RawBroker
    if ((broker.versions[metadataKey]?.maxVersion ?? 0) < metadataVersion)
      throw new Fault('LOG_UNSAFE', 'the brokers are older than Kafka 3.1: their topics have no ids', {
        topic,
      })
    return await broker.connectionPool.send({
      request: {
        apiKey: metadataKey,
        apiVersion: metadataVersion,
        apiName: 'Metadata',
        encode: async () => encoded(metadataRequest(topic)),
      },
      response: { decode: async payload => payload, parse: async payload => topicIdIn(payload, topic) },
    })
  } catch (error) {
    // What is known of the brokers may be minutes old, and name one that is gone since: the next try knows better.
    await within(closeLimitMs, cluster.refreshMetadata())
    throw logFault(error, { topic })
  }
}

function encoded(bytes: Buffer) {
  return { buf: bytes, buffer: bytes, size: () => bytes.length }
}

/** From the end of the client id on: kafkajs writes the header of older requests, which lacks the tagged fields. */
function metadataRequest(topic: string): Buffer {
  const name = Buffer.from(topic)
  return Buffer.concat([
    Buffer.from([0, 2]), // no tagged fields; one topic (compact lengths are one more)
    Buffer.alloc(16), // its id is not known
    Buffer.from([...varint(name.length + 1), ...name]),
    Buffer.from([0, 0, 0, 0]), // no tagged fields, no automatic creation, no authorized operations, no tagged fields
  ])
}

function varint(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...varint(value >>> 7)]
}

/** Reads a Metadata response of version 12 as far as the first topic's id. */
function topicIdIn(payload: Buffer, topic: string): string {
  let at = 0
  const length = () => {
    let value = 0
    for (let shift = 0; ; shift += 7) {
      const byte = payload[at++]!
      value |= (byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
  }
  const skipText = () => {
    const bytes = Math.max(0, length() - 1)
    at += bytes
  }
  const skipTags = () => {
    for (let count = length(); count > 0; count -= 1) {
      length()
      const bytes = length()
      at += bytes
    }
  }
  skipTags() // of the header
  at += 4 // throttle time
  for (let brokers = length() - 1; brokers > 0; brokers -= 1) {
    at += 4
    skipText()
    at += 4
    skipText()
    skipTags()
  }
  skipText() // cluster id
  at += 4 // controller
  const topics = length() - 1
  const code = payload.readInt16BE(at)
  at += 2
  skipText()
  const id = payload.subarray(at, at + 16)
  if (topics !== 1 || code !== 0 || id.length !== 16)
    throw new Fault('LOG_UNREACHABLE', `topic ${topic} is not known to the brokers`, { topic, code })
  return id.toString('base64url')
}

// -- lanes

/** A row on its way. Without headers it is a structured CloudEvent. */
export interface LaneRow {
  readonly key: string | null
  readonly value: Buffer
  readonly headers?: Readonly<Record<string, string>>
}

/** The log holds the first `rows` of those given, at `baseOffset` and the offsets after it. */
export interface LaneAck {
  readonly rows: number
  readonly baseOffset: bigint
}

export interface KafkaLanes extends AsyncDisposable {
  readonly partitions: number
  readonly limits: { readonly rowsMax: number; readonly bytesMax: number }
  /**
   * Sends the first rows, as many as one send may hold, to one partition. Only one send may be under way in a partition.
   * @throws Fault EVENT_TOO_LARGE when the log refuses the first row alone | LOG_UNREACHABLE when the outcome is unknown:
   * the same rows must be sent again, which makes duplicates and loses nothing.
   */
  send(partition: number, rows: readonly LaneRow[]): Promise<LaneAck>
}

export const structuredHeaders = { 'content-type': 'application/cloudevents+json; charset=UTF-8' }

/** A send is one record batch, and a broker takes 1 MiB by default. */
const limits = { rowsMax: 800, bytesMax: 700_000 }
/** What a record takes beside key and value, with the header of a structured event. */
const recordOverheadBytes = 90
const rejectionsMax = 3

const rowsSent = new Counter({
  name: 'meterline_log_rows_sent_total',
  help: 'Rows that Kafka acknowledged.',
  labelNames: ['topic'] as const,
  registers: [registry],
})
const sendsRejected = new Counter({
  name: 'meterline_log_sends_rejected_total',
  help: 'Sends that were not acknowledged, by the type of error; their rows are sent again.',
  labelNames: ['topic', 'type'] as const,
  registers: [registry],
})

/**
 * Opens the one safe way to send with kafkajs (measured: every other shape lost acknowledged messages when a leader
 * died): one partition a send, named in each message; one send in flight a partition; not idempotent; acks of all
 * replicas in sync; and the returned metadata must name this very partition and an offset, for kafkajs also resolves
 * sends that reached nobody.
 * @throws Fault LOG_UNSAFE | LOG_UNREACHABLE: no lane is opened to a topic that was not held against the config.
 */
export async function kafkaLanes(
  config: KafkaConfig,
  options: KafkaCallOptions & { readonly topic?: string } = {},
): Promise<KafkaLanes> {
  await ensureTopics(config, options)
  return new Lanes(config, options.topic ?? config.topic, options.talk)
}

interface Line {
  readonly producer: Producer
  readonly connected: Promise<void>
  sends: number
  retired: boolean
}

class Lanes implements KafkaLanes {
  readonly limits = limits
  readonly #config: KafkaConfig
  readonly #topic: string
  readonly #talk: KafkaTalk | undefined
  readonly #busy = new Set<number>()
  /** How many rows a partition takes at once, where it took fewer than the limit. */
  readonly #rowsMax = new Map<number, number>()
  #line: Line | undefined
  #rejections = 0
  #closed = false

  constructor(config: KafkaConfig, topic: string, talk: KafkaTalk | undefined) {
    this.#config = config
    this.#topic = topic
    this.#talk = talk
  }

  get partitions(): number {
    return this.#config.partitions
  }

  async send(partition: number, rows: readonly LaneRow[]): Promise<LaneAck> {
    assert(rows.length > 0 && !this.#closed, 'rows are sent while the lanes are open')
    assert(!this.#busy.has(partition), 'one send is in flight in a partition')
    this.#busy.add(partition)
    try {
      return await this.#sendWhatFits(partition, rows)
    } finally {
      this.#busy.delete(partition)
    }
  }

  /** Halves what is too large for the broker, down to one row, and remembers what passed. */
  async #sendWhatFits(partition: number, rows: readonly LaneRow[]): Promise<LaneAck> {
    let count = countWithin(rows, { ...limits, rowsMax: this.#rowsMax.get(partition) ?? limits.rowsMax })
    for (;;) {
      try {
        const baseOffset = await this.#sendOnce(partition, rows.slice(0, count))
        const rowsMax = this.#rowsMax.get(partition)
        if (rowsMax !== undefined) this.#rowsMax.set(partition, Math.min(limits.rowsMax, rowsMax * 2))
        return { rows: count, baseOffset }
      } catch (error) {
        const fault = logFault(error, { topic: this.#topic, partition })
        const type = String(fault.facts.type)
        sendsRejected.inc({ topic: this.#topic, type })
        if (type !== 'MESSAGE_TOO_LARGE' && type !== 'RECORD_LIST_TOO_LARGE') {
          this.#reject()
          throw fault
        }
        if (count === 1)
          throw new Fault(
            'EVENT_TOO_LARGE',
            `topic ${this.#topic} does not take a message of ${bytesOf(rows[0]!)} bytes`,
            { topic: this.#topic, partition, bytes: bytesOf(rows[0]!) },
            { cause: error },
          )
        count = Math.floor(count / 2)
        this.#rowsMax.set(partition, count)
      }
    }
  }

  async #sendOnce(partition: number, rows: readonly LaneRow[]): Promise<bigint> {
    const line = this.#lineNow()
    line.sends += 1
    try {
      await line.connected
      const answer = await line.producer.send({
        topic: this.#topic,
        acks: -1,
        timeout: produceTimeoutMs,
        messages: rows.map(row => ({
          partition,
          key: row.key,
          value: row.value,
          headers: row.headers ?? structuredHeaders,
        })),
      })
      const baseOffset = this.#confirmed(partition, answer)
      this.#rejections = 0
      rowsSent.inc({ topic: this.#topic }, rows.length)
      return baseOffset
    } finally {
      line.sends -= 1
      hangUp(line)
    }
  }

  /** kafkajs resolves with nothing at all for a partition that its metadata lacks, and sends nothing. */
  #confirmed(partition: number, answer: readonly RecordMetadata[]): bigint {
    const [made] = answer
    const isConfirmed =
      answer.length === 1 &&
      made?.topicName === this.#topic &&
      made.partition === partition &&
      made.errorCode === 0 &&
      made.baseOffset !== undefined &&
      BigInt(made.baseOffset) >= 0n
    if (isConfirmed) return BigInt(made.baseOffset!)
    throw new Fault('LOG_UNREACHABLE', `no partition ${partition} of ${this.#topic} confirmed the send`, {
      topic: this.#topic,
      partition,
      type: 'UNCONFIRMED',
      answers: answer.length,
    })
  }

  #lineNow(): Line {
    if (this.#line) return this.#line
    const producer = kafkaClient(this.#config, this.#talk).producer({
      idempotent: false,
      allowAutoTopicCreation: false,
      retry: { retries: 5 },
      // The partition is the row's; a producer must never choose one.
      createPartitioner:
        () =>
        ({ message }) =>
          message.partition!,
    })
    const connected = producer.connect()
    connected.catch(() => {
      // Each send that waits for it is told; no other may get this producer.
      if (this.#line?.producer === producer) this.#retire()
    })
    this.#line = { producer, connected, sends: 0, retired: false }
    return this.#line
  }

  /** A producer that keeps failing may hold on to old metadata: after a few rejections the next send makes a new one. */
  #reject(): void {
    this.#rejections += 1
    if (this.#rejections >= rejectionsMax) this.#retire()
  }

  #retire(): void {
    const line = this.#line
    this.#line = undefined
    this.#rejections = 0
    if (!line) return
    line.retired = true
    hangUp(line)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    const line = this.#line
    this.#line = undefined
    if (line) await within(closeLimitMs, line.producer.disconnect())
  }
}

function hangUp(line: Line): void {
  if (line.retired && line.sends === 0) void within(closeLimitMs, line.producer.disconnect())
}

/** How many of the first rows one send may hold; at least one. */
function countWithin(
  rows: readonly LaneRow[],
  bound: { readonly rowsMax: number; readonly bytesMax: number },
): number {
  let bytes = 0
  let count = 0
  for (const row of rows) {
    bytes += bytesOf(row)
    if (count > 0 && (bytes > bound.bytesMax || count >= bound.rowsMax)) break
    count += 1
  }
  return count
}

function bytesOf(row: LaneRow): number {
  let bytes = row.value.length + (row.key?.length ?? 0) + recordOverheadBytes
  for (const [name, value] of Object.entries(row.headers ?? {})) bytes += name.length + value.length + 4
  return bytes
}

// -- rejects

const rejectedReasonMax = 4096

/** Puts messages that could not be accepted into `rejectedTopic`, by the same lanes. */
export async function kafkaRejectLog(
  config: KafkaConfig,
  options: KafkaCallOptions & { readonly unreachableAfterMs?: number } = {},
): Promise<RejectLog> {
  const lanes = await kafkaLanes(config, { ...options, topic: config.rejectedTopic })
  return new KafkaRejectLog(lanes, options.unreachableAfterMs ?? 60_000)
}

class KafkaRejectLog implements RejectLog {
  readonly #lanes: KafkaLanes
  readonly #unreachableAfterMs: number
  /** The end of the queue of each partition. */
  readonly #last = new Map<number, Promise<void>>()

  constructor(lanes: KafkaLanes, unreachableAfterMs: number) {
    this.#lanes = lanes
    this.#unreachableAfterMs = unreachableAfterMs
  }

  async put(rejects: readonly RejectedMessage[]): Promise<void> {
    const byPartition = Map.groupBy(rejects, reject => reject.partition % this.#lanes.partitions)
    const puts = [...byPartition].map(([partition, some]) => {
      const before = this.#last.get(partition) ?? Promise.resolve()
      const put = before.then(() => this.#putInto(partition, some.map(rejectedRow)))
      this.#last.set(
        partition,
        put.catch(() => {}),
      )
      return put
    })
    await Promise.all(puts)
  }

  async #putInto(partition: number, rows: readonly LaneRow[]): Promise<void> {
    let rest = rows
    let failures = 0
    let lastAckMs = performance.now()
    while (rest.length > 0) {
      try {
        const ack = await this.#lanes.send(partition, rest)
        rest = rest.slice(ack.rows)
        lastAckMs = performance.now()
        failures = 0
      } catch (error) {
        const fault = logFault(error)
        if (fault.code !== 'LOG_UNREACHABLE' || performance.now() - lastAckMs > this.#unreachableAfterMs)
          throw fault
        await sleep(backoffMs(failures++))
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lanes[Symbol.asyncDispose]()
  }
}

/** How long to wait after the n-th failure in a row. */
export function backoffMs(failures: number): number {
  return Math.min(5_000, 100 * 2 ** failures)
}

function rejectedRow(reject: RejectedMessage): LaneRow {
  return {
    key: `${reject.partition}/${reject.offset}`,
    value: reject.value,
    headers: {
      reason: reject.reason.slice(0, rejectedReasonMax),
      code: reject.code,
      partition: String(reject.partition),
      offset: String(reject.offset),
      bytes: String(reject.bytes),
      sha256: reject.sha256,
    },
  }
}
