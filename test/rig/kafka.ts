/**
 * A real Kafka for tests: the brokers named by KAFKA_BROKERS, a container where a Docker engine answers, else
 * Kafka's own jars from Maven Central, run here and cached between runs. It fails where none of them is to be had;
 * it never skips.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { Kafka, logLevel } from 'kafkajs'
import type { StartedTestContainer } from 'testcontainers'

const run = promisify(execFile)

/** 4.4.0 is newer, but two of its modules cannot be resolved from Maven Central. */
export const kafkaVersion = '4.3.1'
const readyLimitMs = 120_000
const jarsLimitMs = 300_000
const stopLimitMs = 2_500
/** Any fixed id does: each cluster has ports and directories of its own. */
const clusterId = '4L6g3nShT-eMCtK--X86sw'

export interface KafkaRig extends AsyncDisposable {
  readonly brokers: readonly string[]
  readonly how: 'KAFKA_BROKERS' | 'testcontainers' | 'jars'
  /** What a client's config needs besides: nothing, unless `secured` was asked for. */
  readonly access: KafkaAccess
  /** kill -9. Nodes count from 1. Only brokers started from jars can be killed: ask for them with `mayKill`. */
  kill(node: number): Promise<void>
  /** Starts a killed node again, on the same ports and data, and waits until it serves. */
  restart(node: number): Promise<void>
  /** SIGSTOP and SIGCONT: a broker that is there but says nothing. */
  freeze(node: number): void
  thaw(node: number): void
  /** The process id of a node's broker. */
  pid(node: number): number
  stop(): Promise<void>
}

export interface KafkaWanted {
  readonly nodes?: 1 | 3
  /** Brokers of our own, started from the jars. */
  readonly mayKill?: boolean
  /** Given the port of a broker started from the jars, the port under which clients find it: a proxy's. */
  readonly through?: (port: number) => Promise<number>
  /** Clients must speak TLS and log in: see `KafkaRig.access`. */
  readonly secured?: boolean
}

export interface KafkaAccess {
  readonly ssl?: { readonly ca: string }
  readonly sasl?: { readonly mechanism: 'plain'; readonly username: string; readonly password: string }
}

/** One broker, or a cluster of three in which each is broker and controller. */
export async function startKafka(wanted: KafkaWanted = {}): Promise<KafkaRig> {
  const { nodes = 1, through = async port => port, secured = false } = wanted
  const mayKill = wanted.mayKill ?? (nodes === 3 || wanted.through !== undefined || secured)
  if (!mayKill && process.env.KAFKA_BROKERS) return fromEnvironment(process.env.KAFKA_BROKERS)
  if (!mayKill && (await dockerAnswers())) return fromContainer()
  return fromJars({ nodes, through, secured })
}

function rig(
  how: KafkaRig['how'],
  brokers: readonly string[],
  stop: () => Promise<void>,
  control: Partial<Pick<KafkaRig, 'access' | 'kill' | 'restart' | 'freeze' | 'thaw' | 'pid'>> = {},
): KafkaRig {
  const refuse = () => {
    throw new Error(`a broker of ${how} is not ours to kill: startKafka({ mayKill: true })`)
  }
  return {
    how,
    brokers,
    access: control.access ?? {},
    kill: control.kill ?? refuse,
    restart: control.restart ?? refuse,
    freeze: control.freeze ?? refuse,
    thaw: control.thaw ?? refuse,
    pid: control.pid ?? refuse,
    stop,
    [Symbol.asyncDispose]: stop,
  }
}

// -- KAFKA_BROKERS

async function fromEnvironment(list: string): Promise<KafkaRig> {
  const brokers = list.split(',').map(broker => broker.trim())
  await ready(brokers, { nodes: 1 })
  return rig('KAFKA_BROKERS', brokers, async () => {})
}

// -- Docker

export async function dockerAnswers(): Promise<boolean> {
  const { getContainerRuntimeClient } = await import('testcontainers')
  const found = getContainerRuntimeClient().then(
    () => true,
    () => false,
  )
  return Promise.race([found, sleep(10_000, false, { ref: false })])
}

async function fromContainer(): Promise<KafkaRig> {
  const { GenericContainer } = await import('testcontainers')
  const [port] = await freePorts(1)
  const environment = Object.fromEntries(
    Object.entries(settings(1)).map(([name, value]) => [
      `KAFKA_${name.toUpperCase().replaceAll('.', '_')}`,
      value,
    ]),
  )
  const container: StartedTestContainer = await new GenericContainer(`apache/kafka:${kafkaVersion}`)
    .withExposedPorts({ container: 9092, host: port! })
    .withEnvironment({
      ...environment,
      CLUSTER_ID: clusterId,
      KAFKA_NODE_ID: '1',
      KAFKA_CONTROLLER_QUORUM_VOTERS: '1@127.0.0.1:9093',
      KAFKA_LISTENERS: 'CLIENT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093',
      KAFKA_ADVERTISED_LISTENERS: `CLIENT://127.0.0.1:${port}`,
    })
    .withStartupTimeout(readyLimitMs)
    .start()
  const brokers = [`${container.getHost()}:${port}`]
  await ready(brokers, { nodes: 1 })
  return rig('testcontainers', brokers, async () => {
    await container.stop()
  })
}

// -- jars

interface Node {
  readonly id: number
  readonly port: number
  /** Where clients find it. */
  readonly advertised: number
  readonly directory: string
  process: ChildProcess | undefined
  pid: number
}

async function fromJars(wanted: Required<Omit<KafkaWanted, 'mayKill'>>): Promise<KafkaRig> {
  const { nodes: nodeCount, through, secured } = wanted
  const access = secured ? loginAccess() : {}
  const jars = await ensureKafkaJars()
  const directory = mkdtempSync(join(tmpdir(), 'meterline-kafka-'))
  // Two of each: one for clients and brokers, one for controllers.
  const ports = await freePorts(2 * nodeCount)
  const voters = ports.slice(nodeCount).map((port, index) => `${index + 1}@127.0.0.1:${port}`)
  const nodes: Node[] = []
  for (let id = 1; id <= nodeCount; id++) {
    const node: Node = {
      id,
      port: ports[id - 1]!,
      advertised: await through(ports[id - 1]!),
      directory: join(directory, String(id)),
      process: undefined,
      pid: 0,
    }
    mkdirSync(node.directory)
    writeFileSync(
      join(node.directory, 'server.properties'),
      properties({
        ...settings(nodeCount),
        ...(secured && securitySettings(node.directory)),
        'node.id': String(id),
        'controller.quorum.voters': voters.join(','),
        listeners: `CLIENT://127.0.0.1:${node.port},CONTROLLER://127.0.0.1:${ports[nodeCount + id - 1]}`,
        'advertised.listeners': `CLIENT://127.0.0.1:${node.advertised}`,
        'log.dirs': join(node.directory, 'data'),
      }),
    )
    cpSync(await ensureFormatted(jars, id), join(node.directory, 'data'), { recursive: true })
    nodes.push(node)
  }
  const brokers = nodes.map(node => `127.0.0.1:${node.advertised}`)
  const nodeOf = (id: number) => nodes.find(node => node.id === id)!

  const stop = async () => {
    await Promise.all(nodes.map(node => end(node, 'SIGTERM')))
    rmSync(directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 })
  }
  try {
    for (const node of nodes) await launch(jars, node)
    await ready(brokers, { nodes: nodeCount, access, alive: () => diedOf(nodes) })
  } catch (error) {
    await stop()
    throw error
  }
  return rig('jars', brokers, stop, {
    access,
    kill: id => end(nodeOf(id), 'SIGKILL'),
    restart: async id => {
      const node = nodeOf(id)
      await launch(jars, node)
      await ready([`127.0.0.1:${node.port}`], {
        nodes: 1,
        port: node.advertised,
        alive: () => diedOf([node]),
      })
    },
    freeze: id => process.kill(nodeOf(id).pid, 'SIGSTOP'),
    thaw: id => process.kill(nodeOf(id).pid, 'SIGCONT'),
    pid: id => nodeOf(id).pid,
  })
}

/**
 * The shell between us and the broker reads our pipe: when this process is gone, however it went, the pipe closes, and
 * a broker that is still there goes with its data. (Background jobs of a shell read /dev/null, hence descriptor 3.)
 */
const tether = `exec 3<&0
"$@" </dev/null 3<&- >>"$DIRECTORY/broker.log" 2>&1 & broker=$!
echo $broker
( cat <&3; kill -9 $broker || exit; while kill -0 $broker; do sleep 0.1; done
  rm -rf "$DIRECTORY"; rmdir "$(dirname "$DIRECTORY")" ) >/dev/null 2>&1 &
wait $broker`

async function launch(jars: string, node: Node): Promise<void> {
  const log4j = join(node.directory, 'log4j2.properties')
  writeFileSync(log4j, log4jProperties)
  const child = spawn(
    'sh',
    [
      ...['-c', tether, 'broker', java()],
      // C1 and the serial collector: ready in a third of the time, and half the memory.
      ...['-Xms64m', '-Xmx512m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-Xshare:auto'],
      ...[`-Dlog4j2.configurationFile=${log4j}`, '-cp', join(jars, '*')],
      ...['kafka.Kafka', join(node.directory, 'server.properties')],
    ],
    { stdio: ['pipe', 'pipe', 'ignore'], env: { ...process.env, DIRECTORY: node.directory } },
  )
  child.stdin.on('error', () => {})
  const [line] = (await once(child.stdout, 'data')) as [Buffer]
  node.process = child
  node.pid = Number(line.toString().trim())
}

async function end(node: Node, signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  const child = node.process
  if (!child) return
  node.process = undefined
  const gone = child.exitCode !== null || child.signalCode !== null ? Promise.resolve() : once(child, 'exit')
  if (signal === 'SIGTERM') {
    signalTo(node.pid, 'SIGTERM')
    // Without a quorum a broker waits for one for ever.
    await Promise.race([gone, sleep(stopLimitMs, undefined, { ref: false })])
  }
  signalTo(node.pid, 'SIGKILL')
  await gone
}

function signalTo(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // It is gone already.
  }
}

/** Why waiting on is useless: the last words of a broker that ended, if one has. */
function diedOf(nodes: readonly Node[]): string | undefined {
  const dead = nodes.find(node => node.process && node.process.exitCode !== null)
  if (!dead) return undefined
  const words = readFileSync(join(dead.directory, 'broker.log'), 'utf8').trim().split('\n').slice(-20)
  return `broker ${dead.id} ended with ${dead.process?.exitCode}:\n${words.join('\n')}`
}

function settings(nodes: 1 | 3): Record<string, string> {
  const copies = String(nodes)
  return {
    'process.roles': 'broker,controller',
    'listener.security.protocol.map': 'CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT',
    'controller.listener.names': 'CONTROLLER',
    'inter.broker.listener.name': 'CLIENT',
    'num.network.threads': '2',
    'num.io.threads': '2',
    'background.threads': '2',
    'num.recovery.threads.per.data.dir': '1',
    'num.replica.fetchers': '1',
    'num.partitions': '4',
    'default.replication.factor': copies,
    'min.insync.replicas': nodes === 3 ? '2' : '1',
    'auto.create.topics.enable': 'false',
    'offsets.topic.num.partitions': '4',
    'offsets.topic.replication.factor': copies,
    'transaction.state.log.num.partitions': '4',
    'transaction.state.log.replication.factor': copies,
    'transaction.state.log.min.isr': nodes === 3 ? '2' : '1',
    'share.coordinator.state.topic.num.partitions': '1',
    'share.coordinator.state.topic.replication.factor': copies,
    'share.coordinator.state.topic.min.isr': nodes === 3 ? '2' : '1',
    'group.initial.rebalance.delay.ms': '0',
    // kafkajs has no static membership: a killed consumer blocks its group for a session, so tests keep it short.
    'group.min.session.timeout.ms': '500',
    // A dead broker is replaced, and may come back, after this (9 s by default).
    'broker.session.timeout.ms': '4000',
    'broker.heartbeat.interval.ms': '1000',
    // A node that came back leads again soon, so that the next one to be killed has something to lose.
    'leader.imbalance.check.interval.seconds': '5',
    'log.cleaner.dedupe.buffer.size': '8388608',
    'log.cleaner.threads': '1',
  }
}

const password = 'for tests only'

function tlsFixture(name: string): string {
  return readFileSync(new URL(`../fixtures/tls/${name}`, import.meta.url), 'utf8')
}

function loginAccess(): KafkaAccess {
  return {
    ssl: { ca: tlsFixture('loopback.cert.pem') },
    sasl: { mechanism: 'plain', username: 'meterline', password },
  }
}

/** TLS with the certificate of the fixtures, and one user. */
function securitySettings(directory: string): Record<string, string> {
  const store = join(directory, 'keystore.pem')
  writeFileSync(store, tlsFixture('loopback.key.pem') + tlsFixture('loopback.cert.pem'))
  const trusted = join(directory, 'truststore.pem')
  writeFileSync(trusted, tlsFixture('loopback.cert.pem'))
  const login = 'org.apache.kafka.common.security.plain.PlainLoginModule required'
  return {
    'listener.security.protocol.map': 'CLIENT:SASL_SSL,CONTROLLER:PLAINTEXT',
    'ssl.keystore.type': 'PEM',
    'ssl.keystore.location': store,
    'ssl.truststore.type': 'PEM',
    'ssl.truststore.location': trusted,
    'sasl.enabled.mechanisms': 'PLAIN',
    'sasl.mechanism.inter.broker.protocol': 'PLAIN',
    'listener.name.client.plain.sasl.jaas.config': `${login} username="broker" password="${password}" user_broker="${password}" user_meterline="${password}";`,
  }
}

const log4jProperties = properties({
  'appender.console.type': 'Console',
  'appender.console.name': 'console',
  'appender.console.layout.type': 'PatternLayout',
  'appender.console.layout.pattern': '%d %p %c %m%n',
  'rootLogger.level': 'warn',
  'rootLogger.appenderRef.console.ref': 'console',
})

function properties(of: Readonly<Record<string, string>>): string {
  return Object.entries(of)
    .map(([name, value]) => `${name}=${value}\n`)
    .join('')
}

// -- what is downloaded and made once, and kept between runs

function cacheDirectory(): string {
  const base =
    process.env.METERLINE_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'meterline')
  return join(base, `kafka-${kafkaVersion}`)
}

const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>test</groupId><artifactId>kafka-broker</artifactId><version>1</version><packaging>pom</packaging><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>${kafkaVersion}</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version><scope>runtime</scope></dependency>
</dependencies></project>
`

/** The directory of the broker's jars (44 MB), downloaded by Maven at first use. Safe to call from many processes. */
export async function ensureKafkaJars(): Promise<string> {
  const jars = join(cacheDirectory(), 'jars')
  await makeOnce(jars, async draft => {
    const work = mkdtempSync(join(tmpdir(), 'meterline-pom-'))
    try {
      writeFileSync(join(work, 'pom.xml'), pom)
      await run(
        'mvn',
        ['-q', '-B', 'dependency:copy-dependencies', '-DincludeScope=runtime', `-DoutputDirectory=${draft}`],
        { cwd: work, timeout: jarsLimitMs, maxBuffer: 16 << 20 },
      )
    } catch (error) {
      throw missing(error, 'mvn', 'downloads the Kafka broker that tests run against')
    } finally {
      rmSync(work, { recursive: true, force: true })
    }
  })
  return jars
}

/** A formatted, empty data directory of node `id`; formatting takes a JVM of its own, so it is kept as well. */
async function ensureFormatted(jars: string, id: number): Promise<string> {
  const formatted = join(cacheDirectory(), `formatted-${id}`)
  await makeOnce(formatted, async draft => {
    const conf = `${draft}.properties`
    const listeners = 'CLIENT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093'
    writeFileSync(
      conf,
      properties({
        ...settings(1),
        'node.id': String(id),
        'controller.quorum.voters': `${id}@127.0.0.1:9093`,
        listeners,
        'log.dirs': draft,
      }),
    )
    try {
      await run(
        java(),
        [
          ...['-Xmx128m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-cp', join(jars, '*')],
          ...['kafka.tools.StorageTool', 'format', '-t', clusterId, '-c', conf],
        ],
        { timeout: readyLimitMs },
      )
    } catch (error) {
      throw missing(error, 'java (17 or newer)', 'runs the Kafka broker of the tests')
    } finally {
      rmSync(conf, { force: true })
    }
  })
  return formatted
}

export function java(): string {
  return process.env.JAVA_HOME ? join(process.env.JAVA_HOME, 'bin', 'java') : 'java'
}

function missing(error: unknown, program: string, purpose: string): Error {
  const notFound = error instanceof Error && 'code' in error && error.code === 'ENOENT'
  const output = error instanceof Error && 'stdout' in error ? String(error.stdout).trim().slice(-2000) : ''
  const what = notFound ? `${program} is not installed: it ${purpose}` : `${program} failed; it ${purpose}`
  const hint = 'Install it, or start a Docker engine, or name brokers in KAFKA_BROKERS.'
  return new Error(`${what}. ${hint}${output ? `\n${output}` : ''}`, { cause: error })
}

/** Makes `path` by `make` unless it is there; of several processes one makes it and the others wait. */
async function makeOnce(path: string, make: (draft: string) => Promise<void>): Promise<void> {
  if (existsSync(path)) return
  mkdirSync(cacheDirectory(), { recursive: true })
  const lock = `${path}.lock`
  const deadlineMs = Date.now() + jarsLimitMs
  while (!takeLock(lock)) {
    if (Date.now() > deadlineMs) throw new Error(`another process has held ${lock} for too long`)
    await sleep(200)
    if (existsSync(path)) return
  }
  try {
    if (existsSync(path)) return
    const draft = `${path}.${process.pid}`
    rmSync(draft, { recursive: true, force: true })
    await make(draft)
    renameSync(draft, path)
  } finally {
    rmSync(lock, { force: true })
  }
}

function takeLock(lock: string): boolean {
  try {
    writeFileSync(lock, String(process.pid), { flag: 'wx' })
    return true
  } catch {
    if (!isHeld(lock)) rmSync(lock, { force: true })
    return false
  }
}

function isHeld(lock: string): boolean {
  try {
    const owner = Number(readFileSync(lock, 'utf8'))
    // Between creation and writing the file is empty.
    if (owner) process.kill(owner, 0)
    return true
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM'
  }
}

// -- ports and readiness

async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer().listen(0, '127.0.0.1')
      await once(server, 'listening')
      return server
    }),
  )
  const ports = servers.map(server => (server.address() as { port: number }).port)
  await Promise.all(servers.map(server => new Promise(resolve => server.close(resolve))))
  return ports
}

/** Ready is when the protocol answers and the metadata lists the brokers: an open port is not enough. */
async function ready(
  brokers: readonly string[],
  wanted: {
    readonly nodes: number
    readonly port?: number
    readonly access?: KafkaAccess
    readonly alive?: () => string | undefined
  },
): Promise<void> {
  const deadlineMs = Date.now() + readyLimitMs
  const client = new Kafka({
    brokers: [...brokers],
    clientId: 'meterline-rig',
    logLevel: logLevel.NOTHING,
    retry: { retries: 0 },
    requestTimeout: 5_000,
    // A copy: kafkajs puts what it made of the password into the object it is given.
    ...structuredClone(wanted.access ?? {}),
  })
  let last: unknown
  while (Date.now() < deadlineMs) {
    const died = wanted.alive?.()
    if (died) throw new Error(died)
    const admin = client.admin()
    try {
      await admin.connect()
      const cluster = await admin.describeCluster()
      const listed = wanted.port === undefined || cluster.brokers.some(broker => broker.port === wanted.port)
      if (cluster.brokers.length >= wanted.nodes && listed && cluster.controller !== null) return
    } catch (error) {
      last = error
    } finally {
      await admin.disconnect().catch(() => {})
    }
    await sleep(200)
  }
  throw new Error(`no Kafka at ${brokers.join(',')} within ${readyLimitMs / 1000} s`, { cause: last })
}
