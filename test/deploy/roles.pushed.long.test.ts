/** Events pushed over HTTP to `process` on Kafka, in each form, while it and the broker are killed: acknowledged is in the ledger, once. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { hourMs, showInstant } from '../../schemas/window.ts'
import { type KafkaRig, startKafka } from '../rig/kafka.ts'
import { asAdmin, freshConfig } from '../rig/kafka-topics.ts'
import { type Configured, type Daemon, type Site, startSite, until } from './daemons.ts'

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

const eventOf = (id: string, tokens = 7) => ({
  ...{ specversion: '1.0', id, source: 'urn:app', type: 'call', subject: 'acme' },
  ...{ time: showInstant(endMs - hourMs), datacontenttype: 'application/json', data: { tokens } },
})

interface Push {
  readonly ids: readonly string[]
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

const forms = {
  single: (ids: readonly string[]): Push => ({
    ids: ids.slice(0, 1),
    headers: { 'content-type': 'application/cloudevents+json' },
    body: JSON.stringify(eventOf(ids[0]!)),
  }),
  batch: (ids: readonly string[]): Push => ({
    ids,
    headers: { 'content-type': 'application/cloudevents-batch+json' },
    body: JSON.stringify(ids.map(id => eventOf(id))),
  }),
  binary: (ids: readonly string[]): Push => {
    const { data, datacontenttype, ...attributes } = eventOf(ids[0]!)
    const named = Object.entries(attributes).map(([name, value]) => [`ce-${name}`, value] as const)
    return {
      ids: ids.slice(0, 1),
      headers: { 'content-type': datacontenttype, ...Object.fromEntries(named) },
      body: JSON.stringify(data),
    }
  },
} as const

/** Pushes one after the other, each again until it is acknowledged; what the last answer leaves open is in `sent` alone. */
class Pusher {
  readonly sent = new Set<string>()
  readonly acknowledged = new Set<string>()
  readonly acknowledgedMs: number[] = []
  readonly statuses = new Map<number, number>()
  again = 0
  readonly #name: string
  readonly #url: string
  #stopped = false

  constructor(name: string, url: string) {
    this.#name = name
    this.#url = url
  }

  async run(): Promise<void> {
    for (let at = 0; !this.#stopped; at += 1) {
      const form = (['single', 'batch', 'binary'] as const)[at % 3]!
      const push = forms[form](Array.from({ length: 8 }, (_, index) => `${this.#name}-${at}-${index}`))
      for (const id of push.ids) this.sent.add(id)
      while (!(await this.post(push)) && !this.#stopped) {
        this.again += 1
        await sleep(200)
      }
    }
  }

  async post({ ids, headers, body }: Push): Promise<boolean> {
    let status = 0
    try {
      const signal = AbortSignal.timeout(20_000)
      const answer = await fetch(`${this.#url}/api/v1/events`, { method: 'POST', headers, body, signal })
      status = answer.status
      if (status !== 204) expect(await answer.json()).toMatchObject({ status: 503, retryable: true })
    } catch (error) {
      if (status !== 0) throw error
    }
    this.statuses.set(status, (this.statuses.get(status) ?? 0) + 1)
    if (status !== 204) return false
    this.acknowledgedMs.push(performance.now())
    for (const id of ids) this.acknowledged.add(id)
    return true
  }

  stop(): void {
    this.#stopped = true
  }
}

/** Ids by how often they are in the ledger, and what became of the other messages. */
async function inLedger(process: Configured) {
  const firsts = await process.query<{ id: string; times: string }>(
    `select id, count() as times from pushed final where (identity, log, partition, offset) in
       (select identity, log, partition, offset from pushed_firsts final) group by id`,
  )
  const [others] = await process.query<{ duplicates: string; conflicts: string; rejected: string }>(
    `select countIf(fate = 'duplicate') as duplicates, countIf(fate = 'conflict') as conflicts,
       (select count() from rejected final) as rejected from passed final`,
  )
  return {
    times: new Map(firsts.map(({ id, times }) => [id, Number(times)])),
    duplicates: Number(others?.duplicates),
    conflicts: Number(others?.conflicts),
    rejected: Number(others?.rejected),
  }
}

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
