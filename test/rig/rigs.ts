/** Which real servers the tests can use on this machine, and how each is come by: what `npm test` prints first. */
import { execFile } from 'node:child_process'
import { createRequire } from 'node:module'
import { promisify } from 'node:util'
import { findChromium } from './chromium.ts'
import { dockerAnswers, ensureKafkaJars, java, kafkaVersion } from './kafka.ts'
import { goVersion } from './kubernetes-go.ts'
import { findPostgres } from './postgres.ts'
import { type Found, findCommand } from './promtool.ts'
import { goSdk, pythonSdk } from './sdks.ts'
import { mountSmallDisk } from './small-disk.ts'

export interface Rig {
  readonly name: string
  readonly found: boolean
  /** Where it comes from, or what was looked for in vain. */
  readonly how: string
  /** What a person does to have it. */
  readonly remedy: string
  /** The text of a test file that cannot run without it. */
  readonly usedBy: RegExp
}

/** Looks for each server, and installs what the tests would install: once, before any test waits for it. */
export async function findRigs(): Promise<readonly Rig[]> {
  const docker = await dockerAnswers()
  const jars = await kafkaJars()
  return [
    findKafka(docker, jars),
    killableKafka(jars),
    findClickHouse(docker),
    findSmallDisk(),
    commandRig(
      {
        name: 'promtool',
        remedy: 'Install Prometheus (Debian: prometheus), or only its promtool.',
        usedBy: /\/rig\/promtool\.ts'/,
      },
      await findCommand('promtool'),
    ),
    await findDatabase(),
    await findSdks(),
    await findKubernetesCode(),
    commandRig(
      {
        name: 'Prometheus',
        remedy: 'Install Prometheus (Debian: prometheus).',
        usedBy: /\/rig\/prometheus\.ts'/,
      },
      await findCommand('prometheus'),
    ),
    commandRig(
      {
        name: 'Chromium',
        remedy: 'Install Chromium (Debian: chromium), or set CHROMIUM.',
        usedBy: /\/rig\/chromium\.ts'/,
      },
      await findChromium(),
    ),
  ]
}

/** The folder of the broker's jars, or why there is none. */
async function kafkaJars(): Promise<{ readonly folder: string } | { readonly lacking: string }> {
  try {
    await promisify(execFile)(java(), ['-version'], { timeout: 20_000 })
  } catch {
    return { lacking: 'no java' }
  }
  try {
    return { folder: await ensureKafkaJars() }
  } catch (error) {
    return { lacking: `no jars (${error instanceof Error ? error.message : String(error)})` }
  }
}

const javaRemedy = 'Install Java 17 and Maven (Debian: default-jre-headless maven).'

function findKafka(docker: boolean, jars: Awaited<ReturnType<typeof kafkaJars>>): Rig {
  const rig = {
    name: 'Kafka',
    remedy: `${javaRemedy} Or set KAFKA_BROKERS, or start Docker.`,
    usedBy: /\/rig\/kafka\.ts'/,
  }
  const brokers = process.env.KAFKA_BROKERS
  if (brokers) return { ...rig, found: true, how: `KAFKA_BROKERS=${brokers}` }
  if (docker) return { ...rig, found: true, how: `${kafkaVersion} in a container, by testcontainers` }
  if ('folder' in jars) return { ...rig, found: true, how: `${kafkaVersion} from the jars in ${jars.folder}` }
  return { ...rig, found: false, how: `no KAFKA_BROKERS, no Docker engine, ${jars.lacking}` }
}

async function findDatabase(): Promise<Rig> {
  const found = await findPostgres()
  return {
    name: 'PostgreSQL',
    found: 'folder' in found,
    how: 'folder' in found ? found.folder : found.lacking,
    remedy: 'Install PostgreSQL (Debian: postgresql).',
    usedBy: /\/rig\/postgres\.ts'/,
  }
}

/** A command, on the PATH or from its Debian package. */
function commandRig(rig: Omit<Rig, 'found' | 'how'>, found: Found): Rig {
  return 'path' in found
    ? { ...rig, found: true, how: found.path }
    : { ...rig, found: false, how: found.lacking }
}

/** Brokers of others, and containers, are not killed: that takes processes of our own. */
function killableKafka(jars: Awaited<ReturnType<typeof kafkaJars>>): Rig {
  const rig = {
    name: 'Kafka to be killed',
    remedy: javaRemedy,
    usedBy: /startKafka\(\{[^)]*(mayKill|nodes: 3)/,
  }
  if ('folder' in jars) return { ...rig, found: true, how: `${kafkaVersion} from the jars in ${jars.folder}` }
  return { ...rig, found: false, how: jars.lacking }
}

function findClickHouse(docker: boolean): Rig {
  const rig = {
    name: 'ClickHouse',
    remedy: 'Run npm ci on a platform that chdb has a build for. Or set CLICKHOUSE_URL, or start Docker.',
    usedBy: /\/rig\/clickhouse\.ts'/,
  }
  const url = process.env.CLICKHOUSE_URL
  if (url) return { ...rig, found: true, how: `CLICKHOUSE_URL on ${new URL(url).host}` }
  const chdb = chdbVersion()
  if (chdb) return { ...rig, found: true, how: `the embedded engine, chdb ${chdb}, as a process of its own` }
  if (docker) return { ...rig, found: true, how: 'in a container, by testcontainers' }
  return { ...rig, found: false, how: 'no CLICKHOUSE_URL, no chdb, no Docker engine' }
}

async function findSdks(): Promise<Rig> {
  const rig = {
    name: 'CloudEvents SDKs',
    remedy: 'Install Go and Python 3 with pip, and let them reach proxy.golang.org and pypi.org once.',
    usedBy: /\/rig\/sdks\.ts'/,
  }
  try {
    await Promise.all([goSdk(), pythonSdk()])
    return { ...rig, found: true, how: 'of Go and Python, as test/interop pins them' }
  } catch (error) {
    const [line = ''] = (error instanceof Error ? error.message : String(error)).split('\n')
    return { ...rig, found: false, how: line }
  }
}

/** Only looks for Go: to build it takes most of a minute, and it is for test:long alone. */
async function findKubernetesCode(): Promise<Rig> {
  const rig = {
    name: 'Kubernetes code',
    remedy: 'Install Go, and let it reach proxy.golang.org once.',
    usedBy: /\/rig\/kubernetes-go\.ts'/,
  }
  try {
    return { ...rig, found: true, how: `component-helpers, built by ${await goVersion()}` }
  } catch {
    return { ...rig, found: false, how: 'no Go' }
  }
}

function findSmallDisk(): Rig {
  const rig = {
    name: 'A small disk',
    remedy: 'Run the tests as root, or with CAP_SYS_ADMIN: it is mounted.',
    usedBy: /\/rig\/small-disk\.ts'/,
  }
  try {
    mountSmallDisk(1)[Symbol.dispose]()
    return { ...rig, found: true, how: 'a tmpfs, mounted for the test' }
  } catch (error) {
    const [line = ''] = (error instanceof Error ? error.message : String(error)).split('\n').slice(-1)
    return { ...rig, found: false, how: `it cannot be mounted (${line})` }
  }
}

function chdbVersion(): string | undefined {
  try {
    return createRequire(import.meta.url)('chdb/package.json').version
  } catch {
    return undefined
  }
}
