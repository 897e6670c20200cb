/** Events pushed over HTTP to `process` on Kafka, in each form, while it and the broker are killed: acknowledged is in the ledger, once. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { hourMs } from '../../schemas/window.ts'
import { type KafkaRig, startKafka } from '../rig/kafka.ts'
import { asAdmin, freshConfig } from '../rig/kafka-topics.ts'
import { type Daemon, type Site, startSite, until } from './daemons.ts'
import { eventOf, forms, inLedger, Pusher } from './pushing.ts'

const endMs = Math.floor(Date.now() / hourMs) * hourMs
let site: Site
let rig: KafkaRig
beforeAll(async () => {
  ;[site, rig] = await Promise.all([
    startSite({ startMs: endMs - 4 * hourMs, endMs }),
    startKafka({ mayKill: true }),
  ])
}, 300_000)
afterAll(async () => {
  await rig?.stop()
  await site?.[Symbol.asyncDispose]()
})

test('`process` and the broker killed with -9 under pushes of every form: acknowledged is there once, sent again is a duplicate', async () => {
  const { retentionMs: _, ...kafka } = freshConfig(rig)
  const configured = await site.configure('pushed', endMs - hourMs, { kafka })
  let running: Daemon = configured.start('process')
  const messages = async () => {
    const ends = await asAdmin(rig, admin => admin.fetchTopicOffsets(kafka.topic))
    return ends.reduce((sum, { high }) => sum + Number(high), 0)
  }
  const pushers: Pusher[] = []
  try {
    await running.ready()
    for (const name of ['a', 'b', 'c', 'd']) pushers.push(new Pusher(name, running.url))
    const pushing = Promise.all(pushers.map(pusher => pusher.run()))
    pushing.catch(() => undefined)
    const acknowledged = () => pushers.reduce((sum, pusher) => sum + pusher.acknowledged.size, 0)
    const moreIsAcknowledged = async () => {
      const wanted = acknowledged() + 200
      await until(async () => {
        // As a supervisor would.
        if (running.process.exitCode !== null) running = configured.start('process')
        return acknowledged() > wanted
      }, running.stderr)
    }

    await moreIsAcknowledged()
    for (let kill = 0; kill < 2; kill += 1) {
      await running.kill()
      running = configured.start('process')
      await moreIsAcknowledged()
    }
    await rig.kill(1)
    const deadMs = performance.now()
    await sleep(4000)
    const aliveMs = performance.now()
    await rig.restart(1)
    await moreIsAcknowledged()
    await running.kill()
    running = configured.start('process')
    await moreIsAcknowledged()
    for (const pusher of pushers) pusher.stop()
    await pushing

    const whileDead = pushers
      .flatMap(pusher => pusher.acknowledgedMs)
      .filter(atMs => atMs > deadMs + 300 && atMs < aliveMs)
    expect(whileDead, 'nothing is acknowledged that Kafka does not have').toEqual([])

    const sent = pushers.flatMap(pusher => [...pusher.sent])
    const surely = pushers.flatMap(pusher => [...pusher.acknowledged])
    expect(
      pushers.reduce((sum, pusher) => sum + pusher.again, 0),
      'some were sent again',
    ).toBeGreaterThan(0)
    await running.ready()
    let found = await inLedger(configured)
    await until(async () => {
      found = await inLedger(configured)
      return found.times.size + found.duplicates >= (await messages())
    }, running.stderr)
    expect(
      surely.filter(id => found.times.get(id) !== 1),
      'acknowledged, and not there once',
    ).toEqual([])
    expect(Array.from(found.times.keys()).filter(id => !sent.includes(id))).toEqual([])
    expect(Math.max(...found.times.values())).toBe(1)
    expect([found.conflicts, found.rejected]).toEqual([0, 0])
    expect(found.times.size + found.duplicates, 'every message has one fate').toBe(await messages())

    // Sent once more: duplicates, each of them, and a conflict where it says something else.
    const last = new Pusher('last', running.url)
    const some = surely.slice(0, 8)
    for (const form of [forms.single, forms.batch, forms.binary])
      expect(await last.post(form(some))).toBe(true)
    const other = { ...forms.single(some), body: JSON.stringify(eventOf(some[0]!, 8)) }
    expect(await last.post(other)).toBe(true)
    const before = found
    await until(async () => {
      found = await inLedger(configured)
      return found.duplicates + found.conflicts >= before.duplicates + 11
    }, running.stderr)
    expect(found).toEqual({ ...before, duplicates: before.duplicates + 10, conflicts: 1 })
    expect(await running.stop(), running.stderr()).toBe(0)
  } finally {
    for (const pusher of pushers) pusher.stop()
    await running.kill()
  }
}, 300_000)
