/** What a person does about coverage where no daemon serves the outbox, and where Kafka is the log. */
import { userInfo } from 'node:os'
import { expect, test } from 'vitest'
import { configured, openStore } from '../../deploy/roles.ts'
import { startKafka } from '../rig/kafka.ts'
import { broken, env, gapsOf, item, source, startConsole, told, until } from './decide.ts'

test('without a daemon: a gap is waived, a bad item too, a read that takes too much away is confirmed', async () => {
  const hour = ['--from', '2025-06-01T00:00:00Z', '--to', '2025-06-01T01:00:00Z']
  await using rafay = await startConsole()
  const { double } = rafay
  const { ask, file } = rafay.configure('by-hand', '2025-06-01T00:00:00Z')
  const first = await ask('collect', '--once', ...hour)
  expect(first.code, first.stderr).toBe(3)
  expect(gapsOf(first.rows)).toMatchObject([item, { scope: broken, state: 'failed' }])

  const why = ['--source', 'prod', '--reason', 'the profile was deleted', ...hour]
  const some = await ask('coverage', 'waive', ...why, '--scope', broken, '--author', 'Ada')
  expect([some.code, some.states, some.stderr]).toEqual([
    0,
    ['waived'],
    expect.stringContaining(
      `waived: source=${source} scope=${broken} 2025-06-01T00:00:00Z/2025-06-01T01:00:00Z`,
    ),
  ])
  // Without a scope: of each in which something is missing of that tenant.
  const bad = await ask('coverage', 'waive', ...why, '--subject', item.subject)
  expect(bad.code, bad.stderr).toBe(0)
  expect(bad.rows.filter(row => row.subject !== undefined)).toMatchObject([{ ...item, state: 'waived' }])

  // The console says much less: the read is held back, and the person told what it takes away.
  double.fixture.instances = double.fixture.instances.filter(({ name }) => name !== 'i-002')
  const less = await ask('collect', '--once', ...hour, '--scope', 'dk3opkn/many')
  expect([less.code, gapsOf(less.rows)]).toEqual([3, [expect.objectContaining({ state: 'suspect' })]])
  const confirmed = await ask('coverage', 'confirm', ...why)
  expect(confirmed.code, confirmed.stderr).toBe(0)
  expect(confirmed.stderr).toMatch(
    /confirmed: source=meterline\/rafay\/prod scope=dk3opkn\/many .* readat=.*Z .*instance_seconds 2700 → 900/,
  )
  expect(gapsOf(confirmed.rows)).toEqual([])
  // All of it is on record.
  const settings = { config: file, env, signal: new AbortController().signal, nowMs: () => Date.now() }
  const quiet = { stdout: () => {}, stderr: () => {} }
  await using opened = await openStore(await configured({ ...settings, ...quiet }, 'collect'), {
    ...settings,
    ...quiet,
  })
  const recorded = await opened.store.rows(
    'select action, scope, subject, author, reason from decisions order by decided',
  )
  const reason = 'the profile was deleted'
  const { username } = userInfo()
  expect(recorded).toEqual([
    { action: 'waive', scope: broken, subject: '', author: 'Ada', reason },
    { action: 'waive', scope: item.scope, subject: item.subject, author: username, reason },
    { action: 'confirm', scope: 'dk3opkn/many', subject: '', author: username, reason },
  ])
}, 400_000)

test('with Kafka: decisions go there, beside a processor elsewhere; an end finds no outbox to tell', async () => {
  const span = ['--from', '2025-06-01T00:00:00Z', '--to', '2025-06-01T01:00:00Z']
  await using kafka = await startKafka()
  await using rafay = await startConsole()
  const topics = { topic: 'decided', rejectedTopic: 'decided.rejected', groupId: 'decided' }
  const one = { partitions: 3, replicationFactor: 1, minInSyncReplicas: 1, create: true }
  const more = { kafka: { brokers: kafka.brokers, ...topics, ...one } }
  const collector = rafay.configure('collector', '2025-06-01T00:00:00Z', more)
  const { ask, start } = rafay.configure('processor', '2025-06-01T00:00:00Z', more)
  expect((await collector.ask('collect', '--once', ...span)).code).toBe(3)
  await using processor = start('process')
  const url = await told(processor, /health and metrics at (http:[^"]+)"/)
  const asked = `${url}/api/v1/coverage?from=2025-06-01T00:00:00Z&to=2025-06-01T01:00:00Z`
  await until(async () => ((await (await fetch(asked)).json()) as unknown[]).length > 5)
  const why = ['--source', 'prod', '--reason', 'gone', ...span, '--scope', broken]
  const waived = await ask('coverage', 'waive', ...why)
  expect([waived.code, waived.states], waived.stderr).toEqual([0, ['waived']])

  rafay.double.fixture.instances = rafay.double.fixture.instances.filter(({ name }) => name !== 'i-002')
  const less = ['collect', '--once', ...span, '--scope', 'dk3opkn/many']
  expect((await collector.ask(...less)).code).toBe(0)
  await until(async () => (await ask('coverage', ...span, '--scope', 'dk3opkn/many')).states[0] === 'suspect')
  const confirmed = await ask('coverage', 'confirm', '--source', source, '--reason', 'true', ...span)
  expect(confirmed.stderr).toContain('scope=dk3opkn/many')
  expect(confirmed.states).not.toContain('suspect')

  const from = ['--from', '2025-06-01T00:00:00Z', '--reason', 'gone']
  const ended = await ask('coverage', 'end', '--source', 'prod', '--scope', broken, ...from)
  expect([ended.code, ended.states]).toEqual([0, []])
  expect(ended.stderr).toContain('the outbox of the collector is not in this --data')
}, 400_000)
