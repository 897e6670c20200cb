/** A collector that only takes what is pushed: Kafka away, its outbox full, killed with -9; acknowledged is in the ledger, once. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { hourMs } from '../../schemas/window.ts'
import { type KafkaRig, startKafka } from '../rig/kafka.ts'
import { asAdmin, freshConfig } from '../rig/kafka-topics.ts'
import { type Daemon, type Site, startSite, until } from './daemons.ts'
import { forms, inLedger, Pusher } from './pushing.ts'

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

const key = 'the-key-of-the-application-beside-it'

test('what an application pushes to its sidecar is in the ledger once, with Kafka away and the sidecar killed meanwhile', async () => {
  const { retentionMs: _, ...kafka } = freshConfig(rig)
  const secrets = { APP_KEY: key }
  const processing = await site.configure('ledger', endMs - hourMs, { kafka, sources: [] })
  const beside = await site.configure(
    'sidecar',
    endMs - hourMs,
    {
      ...{ kafka, sources: [], outbox: { maxBytes: 1024 ** 2 } },
      keys: [
        {
          ...{ name: 'app', key: '${env:APP_KEY}', sources: ['urn:app'], subjects: ['*'] },
          ...{ scopes: ['ingest', 'amend'], rate: { eventsPerSecond: 100_000 } },
        },
      ],
    },
    secrets,
  )
  const processor: Daemon = processing.start('process')
  let running: Daemon = beside.start('collect')
  const pushers: Pusher[] = []
  const messages = async () => {
    const ends = await asAdmin(rig, admin => admin.fetchTopicOffsets(kafka.topic))
    return ends.reduce((sum, { high }) => sum + Number(high), 0)
  }
  try {
    await Promise.all([processor.ready(), running.ready()])
    for (const name of ['a', 'b', 'c', 'd']) pushers.push(new Pusher(name, running.url, key))
    const pushing = Promise.all(pushers.map(pusher => pusher.run()))
    pushing.catch(() => undefined)
    const acknowledged = () => pushers.reduce((sum, pusher) => sum + pusher.acknowledged.size, 0)
    const answered = (status: number) =>
      pushers.reduce((sum, pusher) => sum + (pusher.statuses.get(status) ?? 0), 0)
    const moreIsAcknowledged = async (more: number) => {
      const wanted = acknowledged() + more
      await until(async () => acknowledged() > wanted, running.stderr)
    }

    await moreIsAcknowledged(200)
    await running.kill()
    running = beside.start('collect')
    await moreIsAcknowledged(200)

    await rig.kill(1)
    await sleep(300)
    const before = acknowledged()
    await moreIsAcknowledged(200)
    await running.kill()
    running = beside.start('collect')
    await moreIsAcknowledged(200)
    expect(acknowledged() - before, 'taken while there is no Kafka').toBeGreaterThan(400)
    await until(async () => answered(503) > 3, running.stderr)
    const full = await running.get('/readyz')
    expect(full.status).toBe(503)
    expect(JSON.parse(full.text).checks.push).toMatch(/^OUTBOX_FULL/)

    await rig.restart(1)
    await moreIsAcknowledged(200)
    for (const pusher of pushers) pusher.stop()
    await pushing

    // What it has acknowledged it sends before it ends.
    const last = new Pusher('last', running.url, key)
    expect(await last.post(forms.single(['last-0']))).toBe(true)
    const voided = { source: 'urn:app', id: 'last-0', action: 'void', reason: 'sent by mistake' }
    const amendment = {
      specversion: '1.0',
      id: 'v',
      source: 'urn:app',
      type: 'io.meterline.amendment.v1',
      data: voided,
    }
    const headers = { 'content-type': 'application/cloudevents+json' }
    expect(await last.post({ ids: [], headers, body: JSON.stringify(amendment) })).toBe(true)
    await until(async () => (await running.get('/readyz')).status === 200, running.stderr)
    expect(await running.stop(), running.stderr()).toBe(0)

    const sent = [...pushers, last].flatMap(pusher => [...pusher.sent, ...pusher.acknowledged])
    const surely = [...pushers, last].flatMap(pusher => [...pusher.acknowledged])
    let found = await inLedger(processing)
    await until(async () => {
      found = await inLedger(processing)
      return found.times.size + found.duplicates + 1 >= (await messages()) && found.times.has('last-0')
    }, processor.stderr)
    expect(
      surely.filter(id => found.times.get(id) !== 1),
      'acknowledged, and not there once',
    ).toEqual([])
    expect(Array.from(found.times.keys()).filter(id => !sent.includes(id))).toEqual([])
    expect([found.conflicts, found.rejected]).toEqual([0, 0])
    expect(found.times.size + found.duplicates + 1, 'every message has one fate').toBe(await messages())
    expect(
      await processing.query('select id, action, author, reason from amendments final'),
      'under the name of the key',
    ).toEqual([{ id: 'last-0', action: 'void', author: 'app', reason: 'sent by mistake' }])
    expect(await processor.stop(), processor.stderr()).toBe(0)
  } finally {
    for (const pusher of pushers) pusher.stop()
    await running.kill()
    await processor.kill()
  }
}, 300_000)
