/** A source that watches as long as the collector runs: started once, stopped at the signal, and what its trouble does. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Source } from '../../collector/source.ts'
import { Health } from '../../runtime/health.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { openLog } from '../../runtime/logs.ts'
import { rest } from '../../runtime/rest.ts'
import { Fault } from '../../schemas/fault.ts'
import { hourMs, minuteMs } from '../../schemas/window.ts'
import { faultFrom } from '../faults.ts'
import { june1Ms } from '../reads.ts'
import { type Looping, startLoop, until } from './looping.ts'
import { type Item, Provider } from './provider.ts'

let dir: string
let outbox: SqliteOutbox
let health: Health
let clockMs: number
const running: Looping[] = []
let provider: Provider

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-watching-'))
  outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: () => clockMs })
  health = new Health()
  clockMs = june1Ms
  provider = new Provider()
})
afterEach(async () => {
  for (const { end } of running.splice(0)) await end().catch(() => undefined)
  outbox[Symbol.dispose]()
  rmSync(dir, { recursive: true, force: true })
})

function start(...sources: readonly Partial<Source<Item>>[]): Looping {
  const looping = startLoop({
    sources: sources.map((options, at) => ({ ...provider.opened(options), name: `n${at}` })),
    outbox,
    health,
    log: openLog({ level: 'silent', role: 'test' }),
    nowMs: () => clockMs,
    restMsMax: 20,
  })
  running.push(looping)
  return looping
}

test('it watches from the start, once, beside the reads, until the signal, and the loop waits for its end', async () => {
  let began = 0
  let ended = 0
  const { end } = start({
    watch: async signal => {
      began++
      await rest(60_000, signal)
      await rest(100, new AbortController().signal)
      ended++
    },
  })
  await until(() => provider.listings === 1)
  clockMs += hourMs + minuteMs
  await until(() => provider.calls.length > 0)
  expect([began, ended]).toEqual([1, 0])
  await end()
  expect([began, ended]).toEqual([1, 1])
})

test('what it keeps while it watches is there for its reads, and for the next collector', async () => {
  const state = outbox.state('meterline/test/n0')
  const { end } = start({
    watch: async signal => {
      state.write([['pod/1', 'seen']])
      await rest(60_000, signal)
    },
  })
  await until(() => state.get('pod/1') === 'seen')
  await end()
  outbox[Symbol.dispose]()
  outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: () => clockMs })
  expect(outbox.state('meterline/test/n0').get('pod/1')).toBe('seen')
})

test('a fault that halts it ends the collector, its other sources too', async () => {
  let stopped = false
  let fail: (fault: Fault) => void = () => undefined
  const { run } = start(
    { watch: () => new Promise((_, reject) => (fail = reject)) },
    {
      watch: async signal => {
        await rest(60_000, signal)
        stopped = true
      },
    },
  )
  await until(() => provider.listings > 1)
  fail(new Fault('OUTBOX_DAMAGED', 'what it kept cannot be read'))
  expect(await faultFrom(run)).toMatchObject({ code: 'OUTBOX_DAMAGED', fate: 'halt' })
  expect(stopped).toBe(true)
})

test('one that fails before it began ends the collector as well, and leaves nothing running', async () => {
  let stopped = false
  const { run } = start(
    {
      watch: async signal => {
        await rest(60_000, signal)
        stopped = true
      },
    },
    {
      watch: () => {
        throw new Fault('OUTBOX_DAMAGED', 'at once')
      },
    },
  )
  expect(await faultFrom(run)).toMatchObject({ code: 'OUTBOX_DAMAGED' })
  expect(stopped).toBe(true)
})

test('one that ends by itself is a mistake that must be seen: what happens from then on is not', async () => {
  const { run } = start({ watch: async () => undefined })
  expect(await faultFrom(run)).toMatchObject({
    code: 'INTERNAL',
    message: expect.stringContaining('test/n0'),
  })
})

test('why it sees nothing at present shows in health, for as long as it does', async () => {
  let problem: string | undefined = 'watch of pods: SOURCE_DENIED'
  start({ watch: signal => rest(60_000, signal), problem: () => problem })
  await until(() => provider.listings > 0)
  expect(health.problems()).toEqual(['source test/n0: watch of pods: SOURCE_DENIED'])
  problem = undefined
  expect(health.problems()).toEqual([])
})

test('a listing that fails says so before it', async () => {
  provider.listingFailure = new Fault('SOURCE_BUSY', '503')
  start({ watch: signal => rest(60_000, signal), problem: () => 'not seen' })
  await until(() => /503/.test(health.problems().join()))
})
