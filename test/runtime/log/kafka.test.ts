/** Topics and lanes on a real Kafka: what is refused at the start, and what a send may call acknowledged. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join, relative } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  ensureTopics,
  kafkaLanes,
  kafkaRejectLog,
  type LaneRow,
  weaknesses,
} from '../../../runtime/log/kafka.ts'
import { type KafkaRig, startKafka } from '../../rig/kafka.ts'
import { asAdmin, freshConfig, readTopic } from '../../rig/kafka-topics.ts'

let rig: KafkaRig
beforeAll(async () => {
  rig = await startKafka()
}, 300_000)
afterAll(() => rig?.stop())

const row = (value: string | Buffer, key = 'key'): LaneRow => ({ key, value: Buffer.from(value) })

async function settingsOf(topic: string): Promise<Record<string, string>> {
  const found = await asAdmin(rig, admin =>
    admin.describeConfigs({ includeSynonyms: false, resources: [{ type: 2, name: topic }] }),
  )
  return Object.fromEntries(
    found.resources[0]!.configEntries.map(entry => [entry.configName, entry.configValue]),
  )
}

async function makeTopic(topic: string, partitions: number, settings: Record<string, string>): Promise<void> {
  const configEntries = Object.entries(settings).map(([name, value]) => ({ name, value }))
  await asAdmin(rig, admin =>
    admin.createTopics({
      waitForLeaders: true,
      topics: [{ topic, numPartitions: partitions, configEntries }],
    }),
  )
}

describe('topics', () => {
  test('missing ones are made as the config says, and are found good the next time', async () => {
    const config = freshConfig(rig, { partitions: 5 })
    await ensureTopics(config)
    await ensureTopics(config)

    for (const topic of [config.topic, config.rejectedTopic]) {
      expect(await settingsOf(topic)).toMatchObject({
        'message.timestamp.type': 'LogAppendTime',
        'unclean.leader.election.enable': 'false',
        'min.insync.replicas': '1',
        'retention.ms': String(config.retentionMs),
        'retention.bytes': '-1',
        'cleanup.policy': 'delete',
      })
      const cut = await asAdmin(rig, admin => admin.fetchTopicMetadata({ topics: [topic] }))
      expect(cut.topics[0]!.partitions.length).toBe(5)
    }
  })

  test('two processes that start at once make them once', async () => {
    const config = freshConfig(rig)
    await Promise.all([ensureTopics(config), ensureTopics(config), ensureTopics(config)])
  })

  test('another count of partitions is a halt that names both', async () => {
    const config = freshConfig(rig, { partitions: 3 })
    await ensureTopics(config)
    await expect(ensureTopics({ ...config, partitions: 4 })).rejects.toMatchObject({
      code: 'LOG_UNSAFE',
      message: expect.stringMatching(/partitions is 3, the config says 4/),
      facts: { topic: config.topic, name: 'partitions', found: '3', wanted: '4' },
    })
    await expect(ensureTopics({ ...config, partitions: 2 })).rejects.toMatchObject({ code: 'LOG_UNSAFE' })
  })

  test('each setting that is weaker is a halt that names both values', async () => {
    const config = freshConfig(rig)
    const good = {
      'message.timestamp.type': 'LogAppendTime',
      'unclean.leader.election.enable': 'false',
      'retention.ms': String(config.retentionMs),
      'retention.bytes': '-1',
    }
    const weak: readonly (readonly [string, string])[] = [
      ['message.timestamp.type', 'CreateTime'],
      ['unclean.leader.election.enable', 'true'],
      ['retention.ms', '3600000'],
      ['retention.bytes', '1000000'],
      ['cleanup.policy', 'compact'],
    ]
    for (const [index, [name, value]] of weak.entries()) {
      const topic = `${config.topic}-${index}`
      await makeTopic(topic, 3, { ...good, [name]: value })
      await expect(ensureTopics({ ...config, topic })).rejects.toMatchObject({
        code: 'LOG_UNSAFE',
        facts: { topic, name, found: value },
      })
    }
    await makeTopic(config.topic, 3, good)
    await expect(ensureTopics({ ...config, replicationFactor: 3 })).rejects.toMatchObject({
      message: expect.stringContaining('replicationFactor is 1, the config says 3'),
    })
    await expect(ensureTopics({ ...config, minInSyncReplicas: 2 })).rejects.toMatchObject({
      message: expect.stringContaining('min.insync.replicas is 1, the config says 2'),
    })
    await ensureTopics(config)
  })

  test('a topic that is stronger than the config is taken', () => {
    const config = freshConfig(rig)
    const found = {
      partitions: 3,
      replicationFactor: 3,
      settings: {
        'min.insync.replicas': '2',
        'unclean.leader.election.enable': 'false',
        'message.timestamp.type': 'LogAppendTime',
        'cleanup.policy': 'delete',
        'retention.ms': '-1',
        'retention.bytes': '-1',
      },
    }
    expect(weaknesses(config, found)).toEqual([])
    const shorter = { ...found.settings, 'retention.ms': String(config.retentionMs - 1) }
    expect(weaknesses(config, { ...found, settings: shorter })).toHaveLength(1)
    expect(weaknesses({ ...config, retentionMs: -1 }, { ...found, settings: shorter })).toHaveLength(1)
  })

  test('a missing topic is a halt where the config forbids to make it', async () => {
    await expect(ensureTopics(freshConfig(rig, { create: false }))).rejects.toMatchObject({
      code: 'LOG_UNSAFE',
      message: expect.stringContaining('does not exist'),
    })
  })

  test('brokers that are not there are LOG_UNREACHABLE, in bounded time', async () => {
    const config = freshConfig(rig, { brokers: [`127.0.0.1:${await closedPort()}`] })
    await expect(ensureTopics(config)).rejects.toMatchObject({ code: 'LOG_UNREACHABLE' })
  }, 60_000)
})

describe('lanes', () => {
  test('rows arrive in the partition named, in order, from the offset acknowledged, as structured CloudEvents', async () => {
    const config = freshConfig(rig)
    await using lanes = await kafkaLanes(config)
    const first = await lanes.send(2, [row('a'), row('b')])
    const second = await lanes.send(2, [row('c', 'other')])
    const aside = await lanes.send(0, [{ key: null, value: Buffer.from('d'), headers: { kind: 'plain' } }])

    expect([first, second, aside]).toEqual([
      { rows: 2, baseOffset: 0n },
      { rows: 1, baseOffset: 2n },
      { rows: 1, baseOffset: 0n },
    ])
    const found = await readTopic(rig, config.topic)
    const structured = { 'content-type': 'application/cloudevents+json; charset=UTF-8' }
    const inTwo = found.filter(one => one.partition === 2)
    expect(inTwo.map(one => [one.offset, one.key, String(one.value), one.headers])).toEqual([
      [0n, 'key', 'a', structured],
      [1n, 'key', 'b', structured],
      [2n, 'other', 'c', structured],
    ])
    const inZero = found.filter(one => one.partition === 0)
    expect(inZero.map(one => [one.key, one.headers])).toEqual([[null, { kind: 'plain' }]])
  })

  test('a send that kafkajs calls done without an answer is not acknowledged', async () => {
    const config = freshConfig(rig)
    await using lanes = await kafkaLanes(config)
    await expect(lanes.send(99, [row('lost otherwise')])).rejects.toMatchObject({
      code: 'LOG_UNREACHABLE',
      facts: { type: 'UNCONFIRMED', partition: 99 },
    })
    expect(await readTopic(rig, config.topic)).toEqual([])
  })

  test('after rejections in a row the lanes go on with a new producer', async () => {
    const config = freshConfig(rig)
    await using lanes = await kafkaLanes(config)
    for (let attempt = 0; attempt < 7; attempt += 1)
      await expect(lanes.send(99, [row('x')])).rejects.toMatchObject({ code: 'LOG_UNREACHABLE' })
    expect(await lanes.send(1, [row('y')])).toEqual({ rows: 1, baseOffset: 0n })
  })

  test('a second send in the same partition at the same time is refused; other partitions go side by side', async () => {
    const config = freshConfig(rig)
    await using lanes = await kafkaLanes(config)
    const first = lanes.send(0, [row('a')])
    await expect(lanes.send(0, [row('b')])).rejects.toThrow('one send is in flight')
    await Promise.all([first, lanes.send(1, [row('c')]), lanes.send(2, [row('d')])])
    expect(await lanes.send(0, [row('b')])).toEqual({ rows: 1, baseOffset: 1n })
  })

  test('one send holds at most 800 rows and 700 kB, and says how many it took', async () => {
    const config = freshConfig(rig)
    await using lanes = await kafkaLanes(config)
    const small = Array.from({ length: 1_000 }, (_, index) => row(`v${index}`))
    expect(await lanes.send(0, small)).toEqual({ rows: 800, baseOffset: 0n })
    const large = Array.from({ length: 20 }, () => row(Buffer.alloc(100_000, 'x')))
    expect(await lanes.send(1, large)).toEqual({ rows: 6, baseOffset: 0n })
  })

  test('what is too large for the topic is halved until it passes; one row alone that does not is named', async () => {
    const config = freshConfig(rig)
    await makeTopic(config.topic, 3, {
      'message.timestamp.type': 'LogAppendTime',
      'unclean.leader.election.enable': 'false',
      'retention.ms': String(config.retentionMs),
      'max.message.bytes': '5000',
    })
    await using lanes = await kafkaLanes(config)
    const rows = Array.from({ length: 40 }, (_, index) => row(Buffer.alloc(1_000, String(index % 10))))
    let rest = rows
    const counts: number[] = []
    while (rest.length > 0) {
      const ack = await lanes.send(0, rest)
      expect(ack.baseOffset).toBe(BigInt(40 - rest.length))
      counts.push(ack.rows)
      rest = rest.slice(ack.rows)
    }
    expect(Math.max(...counts)).toBeLessThanOrEqual(5)
    expect((await readTopic(rig, config.topic)).map(one => one.value)).toEqual(rows.map(one => one.value))

    const giant = row(Buffer.alloc(10_000, 'g'))
    await expect(lanes.send(0, [giant, row('small')])).rejects.toMatchObject({
      code: 'EVENT_TOO_LARGE',
      fate: 'reject',
      facts: { partition: 0 },
    })
    expect(await lanes.send(0, [row('small')])).toEqual({ rows: 1, baseOffset: 40n })
  })

  test('no lane is opened to a topic that is weaker than the config', async () => {
    const config = freshConfig(rig)
    await ensureTopics(config)
    await expect(kafkaLanes({ ...config, minInSyncReplicas: 2 })).rejects.toMatchObject({
      code: 'LOG_UNSAFE',
    })
  })
})

describe('the log of rejects', () => {
  const reject = (partition: number, offset: bigint, value: string) => ({
    partition,
    offset,
    code: 'EVENT_NOT_JSON',
    reason: `Unexpected token 'x' in “${value}”`,
    value: Buffer.from(value),
    bytes: value.length,
    sha256: createHash('sha256').update(value).digest('hex'),
  })

  test('a reject keeps its bytes, and says why and where it stood', async () => {
    const config = freshConfig(rig)
    await using log = await kafkaRejectLog(config)
    await log.put([reject(1, 17n, 'xyz'), reject(2, 4n, 'other')])
    await log.put([])
    const rejects = Array.from({ length: 1_500 }, (_, index) =>
      reject(index % 7, BigInt(index), `bad ${index}`),
    )
    await Promise.all([log.put(rejects.slice(0, 800)), log.put(rejects.slice(800))])

    const found = await readTopic(rig, config.rejectedTopic)
    expect(found).toHaveLength(1_502)
    expect(found.find(one => String(one.value) === 'xyz')).toMatchObject({
      partition: 1,
      key: '1/17',
      headers: {
        code: 'EVENT_NOT_JSON',
        reason: "Unexpected token 'x' in “xyz”",
        partition: '1',
        offset: '17',
        bytes: '3',
        sha256: createHash('sha256').update('xyz').digest('hex'),
      },
    })
  })
})

test('nothing else in the project makes a kafkajs producer, sends batches, or asks for idempotence', () => {
  const root = join(import.meta.dirname, '../../..')
  const sources = readdirSync(root, { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile() && entry.name.endsWith('.ts'))
    .map(entry => relative(root, join(entry.parentPath, entry.name)))
    .filter(path => !/(^|\/)(node_modules|dist)\//.test(path) && path !== 'test/runtime/log/kafka.test.ts')
  expect(sources).toContain('runtime/log/kafka.ts')
  const offences = sources.flatMap(path => {
    const text = readFileSync(join(root, path), 'utf8')
    const found: string[] = []
    if (path !== 'runtime/log/kafka.ts' && /\.producer\s*\(/.test(text)) found.push(`${path}: producer(`)
    if (/\bsendBatch\b/.test(text)) found.push(`${path}: sendBatch`)
    if (/\btransactionalId\b|\.transaction\s*\(\s*\)/.test(text)) found.push(`${path}: transaction`)
    // Requests of the API may be idempotent; a file that knows of Kafka means a producer.
    const isOfKafka = /kafka/i.test(text)
    if (isOfKafka && /\bidempotent\s*:(?!\s*false\b)/.test(text)) found.push(`${path}: idempotent`)
    if (/\backs\s*:(?!\s*-1\b)/.test(text)) found.push(`${path}: acks`)
    return found
  })
  expect(offences).toEqual([])
  const lanes = readFileSync(join(root, 'runtime/log/kafka.ts'), 'utf8')
  expect(lanes.match(/\.producer\s*\(/g)).toHaveLength(1)
  expect(lanes.match(/\.send\(\{\s*topic/g)).toHaveLength(1)
})

async function closedPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  const { port } = server.address() as { port: number }
  await new Promise(resolve => server.close(resolve))
  return port
}
