/** The relay killed again and again, and its broker away: nothing lost, nothing released that the log has not. */
import { rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { relay } from '../../collector/relay.ts'
import { kafkaLanes } from '../../runtime/log/kafka.ts'
import { hourAfterJune1, readOf } from '../reads.ts'
import { type KafkaRig, startKafka } from '../rig/kafka.ts'
import { freshConfig } from '../rig/kafka-topics.ts'
import { drained, endOf, expectNothingLost, newOutbox, seeded, startRelay, storedRows } from './relayed.ts'

let rig: KafkaRig
const dirs: string[] = []
beforeAll(async () => {
  rig = await startKafka({ mayKill: true })
}, 300_000)
afterAll(async () => {
  await rig.stop()
  for (const dir of dirs) rmSync(dir, { recursive: true, force: true })
})

test('a relay killed with -9 ten times, at any moment, loses nothing and releases only what the log has', async () => {
  const config = freshConfig(rig, { partitions: 2 })
  const { dir, outbox } = newOutbox(config)
  dirs.push(dir)
  using _ = outbox
  const random = seeded(20250601)
  let scope = 0
  const append = (reads: number) => {
    for (let read = 0; read < reads; read += 1)
      outbox.append(
        readOf({ scope: `s${scope++ % 9}`, window: hourAfterJune1(Math.floor(scope / 9)), readings: 100 }),
      )
  }

  let underWay = 0
  for (let kill = 0; kill < 10; kill += 1) {
    append(25)
    const waiting = outbox.depth().rows
    const child = await startRelay(config, dir)
    // Every third dies before its first send is through, the others while later ones are.
    if (kill % 3 === 0) await sleep(random() * 100)
    else {
      while (outbox.depth().rows === waiting) await sleep(1)
      await sleep(random() * 25)
    }
    if (random() < 0.5) append(3)
    await endOf(child, 'SIGKILL')
    if (outbox.depth().rows > 0) underWay += 1
  }
  expect(underWay, 'kills with rows under way').toBeGreaterThan(3)
  const last = await startRelay(config, dir)
  await drained(outbox)
  await endOf(last, 'SIGTERM')

  const { duplicates } = await expectNothingLost(rig, config, dir)
  console.log(`relay: ${storedRows(dir).length} rows, ${duplicates} duplicates after 10 kills`)
}, 120_000)

// The last one: it kills the broker.
test('without a broker the relay ends with LOG_UNREACHABLE, and a new one sends what waited', async () => {
  const config = freshConfig(rig)
  const { dir, outbox } = newOutbox(config)
  dirs.push(dir)
  using _ = outbox
  {
    await using lanes = await kafkaLanes(config)
    await rig.kill(1)
    outbox.append(readOf({ readings: 20 }))
    const sinceMs = performance.now()
    const relaying = relay({ outbox, lanes, signal: new AbortController().signal, unreachableAfterMs: 2_000 })
    await expect(relaying).rejects.toMatchObject({ code: 'LOG_UNREACHABLE', fate: 'retry' })
    expect(performance.now() - sinceMs).toBeGreaterThan(1_900)
    expect(performance.now() - sinceMs).toBeLessThan(6_000)
    expect(outbox.depth().rows).toBe(21)
  }
  await rig.restart(1)
  await using lanes = await kafkaLanes(config)
  const stop = new AbortController()
  const relaying = relay({ outbox, lanes, signal: stop.signal })
  await drained(outbox)
  stop.abort()
  await relaying
  await expectNothingLost(rig, config, dir)
}, 120_000)
