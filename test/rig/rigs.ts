/** Which real servers the tests can use on this machine, and how each is come by: what `npm test` prints first. */
import { execFile } from 'node:child_process'
import { createRequire } from 'node:module'
import { promisify } from 'node:util'

const execute = promisify(execFile)

export interface Rig {
  readonly name: string
  readonly found: boolean
  /** Where it comes from, or what was looked for in vain. */
  readonly how: string
  /** What a person does to have it. */
  readonly remedy: string
}

export async function findRigs(signal: AbortSignal): Promise<readonly Rig[]> {
  const docker = await answers('docker', ['info'], signal)
  return [await findKafka(docker, signal), findClickHouse(docker)]
}

async function findKafka(docker: boolean, signal: AbortSignal): Promise<Rig> {
  const name = 'Kafka'
  const remedy = 'Set KAFKA_BROKERS, start Docker, or install Java 17 and Maven (default-jre-headless maven).'
  const brokers = process.env.KAFKA_BROKERS
  if (brokers) return { name, found: true, how: `the brokers of KAFKA_BROKERS, ${brokers}`, remedy }
  if (docker) return { name, found: true, how: 'a container, by testcontainers', remedy }
  const java = await answers('java', ['-version'], signal)
  const maven = await answers('mvn', ['-version'], signal)
  if (!java || !maven) {
    const lacking = [java ? '' : 'java', maven ? '' : 'mvn'].filter(word => word !== '').join(' and ')
    return { name, found: false, how: `no KAFKA_BROKERS, no Docker engine, no ${lacking}`, remedy }
  }
  return { name, found: true, how: 'a broker of our own, from jars', remedy }
}

function findClickHouse(docker: boolean): Rig {
  const name = 'ClickHouse'
  const remedy = 'Set CLICKHOUSE_URL, start Docker, or run npm ci on a platform that chdb supports.'
  const url = process.env.CLICKHOUSE_URL
  if (url) return { name, found: true, how: `the server of CLICKHOUSE_URL, ${new URL(url).host}`, remedy }
  if (canResolve('chdb'))
    return { name, found: true, how: 'the embedded engine, chdb, as a process of its own', remedy }
  if (docker) return { name, found: true, how: 'a container, by testcontainers', remedy }
  return { name, found: false, how: 'no CLICKHOUSE_URL, no chdb, no Docker engine', remedy }
}

function canResolve(name: string): boolean {
  try {
    createRequire(import.meta.url).resolve(name)
    return true
  } catch {
    return false
  }
}

/** Whether a program is there and does what it is asked within its time. */
async function answers(program: string, args: readonly string[], signal: AbortSignal): Promise<boolean> {
  try {
    await execute(program, args, { signal, timeout: 20_000 })
    return true
  } catch {
    return false
  }
}
