/** Those who push to a daemon over HTTP in each form, again until they are acknowledged, and what of it is in the ledger. */
import { setTimeout as sleep } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import { expect } from 'vitest'
import { hourMs, showInstant } from '../../schemas/window.ts'
import type { Configured } from './daemons.ts'

const endMs = Math.floor(Date.now() / hourMs) * hourMs

export const eventOf = (id: string, tokens = 7) => ({
  ...{ specversion: '1.0', id, source: 'urn:app', type: 'call', subject: 'acme' },
  ...{ time: showInstant(endMs - hourMs), datacontenttype: 'application/json', data: { tokens } },
})

export interface Push {
  readonly ids: readonly string[]
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

export const forms = {
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
export class Pusher {
  readonly sent = new Set<string>()
  readonly acknowledged = new Set<string>()
  readonly acknowledgedMs: number[] = []
  readonly statuses = new Map<number, number>()
  again = 0
  readonly #name: string
  readonly #url: string
  readonly #key: string | undefined
  #stopped = false

  constructor(name: string, url: string, key?: string) {
    this.#name = name
    this.#url = url
    this.#key = key
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

  async post({ ids, headers: said, body: text }: Push): Promise<boolean> {
    let status = 0
    try {
      const signal = AbortSignal.timeout(20_000)
      const headers: Record<string, string> = { ...said }
      let body: string | Uint8Array<ArrayBuffer> = text
      if (this.#key !== undefined) {
        headers.authorization = `Bearer ${this.#key}`
        headers['content-encoding'] = 'gzip'
        body = new Uint8Array(gzipSync(text))
      }
      const answer = await fetch(`${this.#url}/api/v1/events`, { method: 'POST', headers, body, signal })
      status = answer.status
      if (status === 503) expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
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
export async function inLedger(process: Configured) {
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
