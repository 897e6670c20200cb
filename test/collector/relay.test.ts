/** The relay with a real broker and outbox: nothing lost, nothing released that the log has not, whatever is killed. */
import { rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type RelayOutbox, relay } from '../../collector/relay.ts'
import { kafkaLanes } from '../../runtime/log/kafka.ts'
import { Fault } from '../../schemas/fault.ts'
import { readOf } from '../reads.ts'
import { type KafkaRig, startKafka } from '../rig/kafka.ts'
import { asAdmin, freshConfig, readTopic } from '../rig/kafka-topics.ts'
import { drained, expectNothingLost, newOutbox, storedRows } from './relayed.ts'

let rig: KafkaRig
const dirs: string[] = []
beforeAll(async () => {
  rig = await startKafka({ mayKill: true })
}, 300_000)
afterAll(async () => {
  await rig.stop()
  for (const dir of dirs) rmSync(dir, { recursive: true, force: true })
})

test('rows of the outbox reach the log once each, in order, and are released with their offsets', async () => {
  const config = freshConfig(rig)
  const { dir, outbox } = newOutbox(config)
  dirs.push(dir)
  using _ = outbox
  await using lanes = await kafkaLanes(config)
  const stop = new AbortController()
  for (let scope = 0; scope < 10; scope += 1) outbox.append(readOf({ scope: `s${scope}`, readings: 100 }))
  const relaying = relay({ outbox, lanes, signal: stop.signal })
  await drained(outbox)
  outbox.append(readOf({ scope: 'later', readings: 3 }))
  await drained(outbox)
  stop.abort()
  await relaying

  const { duplicates } = await expectNothingLost(rig, config, dir)
  expect(duplicates).toBe(0)
  expect(storedRows(dir)).toHaveLength(10 * 101 + 4)
})

test('a row that the log does not take is set aside with its reason, and those behind it go on', async () => {
  const config = freshConfig(rig, { partitions: 1 })
  const settings = {
    'message.timestamp.type': 'LogAppendTime',
    'unclean.leader.election.enable': 'false',
    'retention.ms': String(config.retentionMs),
    'max.message.bytes': '20000',
  }
  const configEntries = Object.entries(settings).map(([name, value]) => ({ name, value }))
  await asAdmin(rig, admin =>
    admin.createTopics({
      waitForLeaders: true,
      topics: [{ topic: config.topic, numPartitions: 1, configEntries }],
    }),
  )
  const { dir, outbox } = newOutbox(config)
  dirs.push(dir)
  using _ = outbox
  outbox.append(readOf({ scope: 'before', readings: 2 }))
  outbox.append(readOf({ scope: 'giant', readings: 1, labelBytes: 40_000 }))
  outbox.append(readOf({ scope: 'after', readings: 2 }))
  await using lanes = await kafkaLanes(config)
  const stop = new AbortController()
  const faults: Fault[] = []
  const relaying = relay({ outbox, lanes, signal: stop.signal, onFault: fault => void faults.push(fault) })
  await drained(outbox)
  stop.abort()
  await relaying

  expect(faults.map(fault => fault.code)).toEqual(['EVENT_TOO_LARGE'])
  expect(outbox.depth().quarantinedRows).toBe(1)
  expect(await readTopic(rig, config.topic)).toHaveLength(7)
  expect(storedRows(dir).filter(row => row.offset === null)).toHaveLength(1)
})

test('while the outbox cannot take note of an acknowledgement, nothing is sent a second time', async () => {
  const config = freshConfig(rig, { partitions: 1 })
  const { dir, outbox } = newOutbox(config)
  dirs.push(dir)
  using _ = outbox
  outbox.append(readOf({ readings: 50 }))
  let refusals = 3
  const fullDisk: RelayOutbox = {
    pending: outbox.pending.bind(outbox),
    quarantine: outbox.quarantine.bind(outbox),
    appended: outbox.appended.bind(outbox),
    release(partition, seqs, baseOffset) {
      refusals -= 1
      if (refusals >= 0) throw new Fault('OUTBOX_FULL', 'the disk is full')
      outbox.release(partition, seqs, baseOffset)
    },
  }
  await using lanes = await kafkaLanes(config)
  const stop = new AbortController()
  const relaying = relay({ outbox: fullDisk, lanes, signal: stop.signal })
  await drained(outbox)
  stop.abort()
  await relaying
  expect(await expectNothingLost(rig, config, dir)).toEqual({ duplicates: 0 })
})

test('an idle relay stops at once', async () => {
  const config = freshConfig(rig)
  const { dir, outbox } = newOutbox(config)
  dirs.push(dir)
  using _ = outbox
  await using lanes = await kafkaLanes(config)
  const stop = new AbortController()
  const relaying = relay({ outbox, lanes, signal: stop.signal })
  await sleep(200)
  const sinceMs = performance.now()
  stop.abort()
  await relaying
  expect(performance.now() - sinceMs).toBeLessThan(500)
})
