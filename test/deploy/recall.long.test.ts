/** A scope that a person ended, under the whole `up`: not asked for from its end on, before it read all the same, whatever becomes of process and outbox. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { dayMs, hourMs, showInstant } from '../../schemas/window.ts'
import { askedOf, type Configured, type Daemon, type Site, startSite, until } from './daemons.ts'

const endMs = Math.floor(Date.now() / hourMs) * hourMs
const span = { startMs: endMs - dayMs, endMs }
/** The scope ends in the middle of what is read. */
const endedMs = span.startMs + 12 * hourMs
const [ended, other] = ['bbbbbb2/h100', 'aaaaaa1/h100']
let site: Site
let up: Configured
beforeAll(async () => {
  site = await startSite(span)
  up = await site.configure('data', span.startMs)
})
afterAll(async () => await site?.[Symbol.asyncDispose]())

const asked = (scope: string) => askedOf(site.double.calls, scope)
const hoursFrom = (startMs: number, to: number) =>
  Array.from({ length: (to - startMs) / hourMs }, (_, hour) => startMs + hour * hourMs)

/** Until all that is due of the other scopes was asked for, and nothing more came for a while. */
async function readToItsEnd(daemon: Daemon): Promise<void> {
  await until(
    async () => new Set(asked(other)).size === hoursFrom(span.startMs, endMs).length,
    () => `${new Set(asked(other)).size} windows of ${other}\n${daemon.stderr()}`,
  )
  for (let before = -1; before !== site.double.calls.length; await sleep(1500))
    before = site.double.calls.length
}

/** From the end on nothing is expected but what was read by then, and all before it was read. */
async function expectNothingExpectedAfter(readBefore: readonly number[]): Promise<void> {
  const spanArgs = ['--from', showInstant(span.startMs), '--to', showInstant(endMs), '--json']
  const answer = await up.ask('coverage', '--scope', ended, ...spanArgs)
  const rows = JSON.parse(answer.stdout) as { state: string; start: string; end: string }[]
  expect(rows.filter(({ state }) => !['read', 'settled'].includes(state))).toEqual([])
  expect(new Set(rows.map(({ start }) => Date.parse(start)))).toEqual(
    new Set([...hoursFrom(span.startMs, endedMs), ...readBefore]),
  )
  expect((await up.ask('coverage', ...spanArgs)).code).toBe(0)
}

test('a scope is ended while it is read: no request for what comes after the end, not after a restart, nor with a fresh outbox', async () => {
  let before: readonly number[] = []
  // Slow enough that the decision comes in time.
  site.double.behaviour.latencyMs = 3000
  const daemon = up.start('up')
  try {
    await until(async () => asked(ended).length > 0, daemon.stderr)
    await until(
      async () => (await up.ask('coverage', '--scope', ended)).stdout.includes('settled'),
      daemon.stderr,
    )
    const decided = await up.ask(
      ...['coverage', 'end', '--source', 'site', '--scope', ended, '--from', showInstant(endedMs)],
      ...['--reason', 'the tenant is gone', '--author', 'test'],
    )
    expect(decided.stderr).toContain(`ended: source=meterline/rafay/site scope=${ended}`)
    // What is new goes before what was missed: the last hour was there before anybody decided.
    before = asked(ended)
    expect(before.filter(startMs => startMs >= endedMs).length, 'the end came in time').toBeLessThan(6)
    site.double.behaviour.latencyMs = 20
    await readToItsEnd(daemon)
    const after = asked(ended).slice(before.length)
    expect(after.filter(startMs => startMs >= endedMs)).toEqual([])
    expect(new Set([...before, ...after].filter(startMs => startMs < endedMs))).toEqual(
      new Set(hoursFrom(span.startMs, endedMs)),
    )
    await expectNothingExpectedAfter(before)
    expect(await daemon.stop(), daemon.stderr()).toBe(0)
  } finally {
    await daemon.kill()
  }

  site.double.calls.length = 0
  const again = up.start('up')
  try {
    await again.ready()
    await sleep(4000)
    expect(asked(ended)).toEqual([])
    expect(await again.stop(), again.stderr()).toBe(0)
  } finally {
    await again.kill()
  }

  up.loseOutbox()
  const fresh = up.start('up')
  try {
    await readToItsEnd(fresh)
    expect(new Set(asked(ended)), 'read anew up to the end').toEqual(
      new Set(hoursFrom(span.startMs, endedMs)),
    )
    expect(fresh.stderr()).toMatch(/a scope was ended by hand: it is not asked for/)
    await expectNothingExpectedAfter(before)
    expect(await fresh.stop(), fresh.stderr()).toBe(0)
  } finally {
    await fresh.kill()
  }
}, 240_000)
