/** What a person does about coverage beside a daemon: sees a gap, waives it, ends its scope; command and API agree. */
import { userInfo } from 'node:os'
import { expect, test } from 'vitest'
import { decisionOf } from '../../deploy/decide.ts'
import type { CoverageRow } from '../../processor/coverage.ts'
import { hourMs, showInstant } from '../../schemas/window.ts'
import { broken, source, startConsole, told, until } from './decide.ts'

test('a decision is an event that the ledger takes, with whole seconds and somebody to answer for it', () => {
  const of = {
    source,
    scope: 'a',
    window: { startMs: 1500, endMs: 2500 },
    data: { action: 'waive' } as const,
  }
  const by = { reason: 'the site was closed', nowMs: () => 0 }
  const event = decisionOf(of, by)
  expect(event).toMatchObject({
    time: '1970-01-01T00:00:00.000Z',
    partitionkey: `${source} a`,
    data: {
      action: 'waive',
      window: { start: '1970-01-01T00:00:01Z', end: '1970-01-01T00:00:03Z' },
      author: userInfo().username,
      reason: by.reason,
    },
  })
  expect(decisionOf(of, by).id).not.toBe(event.id)
  expect(() => decisionOf(of, { ...by, reason: 'a line\nand more' })).toThrow(/^reason must match pattern/)
  expect(() => decisionOf({ ...of, source: 'meterline/else' }, by)).toThrow(/^source must match pattern/)
})

test('beside a daemon: what an account waits for, a waiver and an end; command and API say the same', async () => {
  const fromMs = Math.floor(Date.now() / hourMs) * hourMs - 2 * hourMs
  const from = showInstant(fromMs)
  const span = ['--from', from, '--to', showInstant(fromMs + 2 * hourMs)]
  await using rafay = await startConsole()
  const { ask, start } = rafay.configure('daemon', from)
  await using daemon = start('up')
  const url = await told(daemon, /health and metrics at (http:[^"]+)"/)
  const api = async (query: Record<string, string>) => {
    const asked = new URLSearchParams({ from, to: showInstant(fromMs + 2 * hourMs), ...query })
    const response = await fetch(`${url}/api/v1/coverage?${asked}`)
    return { status: response.status, body: (await response.json()) as CoverageRow[] }
  }
  const states = async (query: Record<string, string>) => (await api(query)).body.map(({ state }) => state)
  await until(async () => {
    const rows = (await api({})).body ?? []
    return rows.filter(({ scope, state }) => scope === broken && state === 'failed').length === 2
  })
  expect(await states({ scope: broken })).toEqual(['failed', 'failed'])
  // Its own scopes: the other account waits for none of them, for each holds one tenant.
  const mine = (await api({ account: 'lk5xnd2' })).body
  expect(new Set(mine.filter(({ state }) => state === 'failed').map(({ scope }) => scope))).toEqual(
    new Set([broken]),
  )
  const command = await ask('coverage', ...span, '--account', 'lk5xnd2')
  expect([command.code, command.rows]).toEqual([3, mine])
  expect((await api({ account: 'nobody' })).status).toBe(404)
  expect((await api({ from: 'yesterday' })).status).toBe(400)

  // Not a word of why, an unknown source, nothing to confirm: refused, refused, and told.
  expect((await ask('coverage', 'waive', '--source', 'prod', ...span)).code).toBe(2)
  const wrong = {
    '--source prd': 'knows no such source',
    '--source prod --scope gone': 'knows no such scope',
  }
  for (const [about, says] of Object.entries(wrong)) {
    const refused = await ask('coverage', 'waive', ...about.split(' '), '--reason', 'gone', ...span)
    expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining(says)])
  }
  const nothing = await ask(
    'coverage',
    'confirm',
    '--source',
    'prod',
    '--reason',
    'sure',
    '--scope',
    broken,
    ...span,
  )
  expect([nothing.code, nothing.stderr]).toEqual([
    3,
    expect.stringContaining(`no read of ${source} is held back`),
  ])

  const waived = await ask(
    'coverage',
    'waive',
    '--source',
    'prod',
    '--scope',
    broken,
    '--reason',
    'gone',
    ...span,
  )
  expect([waived.code, waived.states], waived.stderr).toEqual([0, ['waived', 'waived']])
  expect(await states({ scope: broken })).toEqual(['waived', 'waived'])
  const later = showInstant(fromMs + hourMs)
  const ended = await ask(
    'coverage',
    'end',
    '--source',
    'prod',
    '--scope',
    broken,
    '--reason',
    'gone',
    '--from',
    later,
  )
  expect([ended.code, ended.states], ended.stderr).toEqual([0, ['waived']])
  expect(await states({ scope: broken })).toEqual(['waived'])

  const metrics = await (await fetch(`${url}/metrics`)).text()
  expect(metrics).toMatch(/meterline_coverage_oldest_gap_seconds/)
  expect(await daemon.stop(), daemon.stderr()).toBe(0)
}, 180_000)
