/** Pushed events through the real command: taken over HTTP, listed where they were not, amended, and replayed. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { meterline, start } from '../rig/meterline.ts'

const dir = mkdtempSync(join(tmpdir(), 'meterline-replay-test-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const env = { KEY: 'none', METERLINE_LOG_LEVEL: 'info' }
writeFileSync(
  join(dir, 'm.yaml'),
  stringify({
    data: 'data',
    sources: [{ kind: 'rafay', name: 'prod', url: 'http://127.0.0.1:1', apiKey: '${env:KEY}' }],
    listen: { port: 0, api: 'loopback' },
  }),
)

async function ask(...args: string[]) {
  const answer = await meterline(['--config', join(dir, 'm.yaml'), '--json', ...args], { env, cwd: dir })
  return { ...answer, json: answer.stdout === '' ? undefined : JSON.parse(answer.stdout) }
}

async function until<Value>(ask: () => Promise<Value | undefined>, what: string): Promise<Value> {
  for (const untilMs = performance.now() + 60_000; performance.now() < untilMs; await sleep(200)) {
    const found = await ask()
    if (found !== undefined) return found
  }
  throw new Error(`${what} did not come`)
}

test('events are pushed, refused, amended and replayed beside a running daemon', async () => {
  await using up = start(['--config', join(dir, 'm.yaml'), 'up'], { env, cwd: dir })
  const url = await until(async () => /http:\/\/127\.0\.0\.1:\d+/.exec(up.stderr())?.[0], 'the address')
  const nowMs = Date.now()
  const event = (id: string, change: object = {}) => {
    const time = new Date(nowMs - 60_000).toISOString()
    return {
      specversion: '1.0',
      id,
      source: 'urn:app',
      type: 'call',
      subject: 'acme',
      time,
      data: { n: 1 },
      ...change,
    }
  }
  const post = (body: string) =>
    fetch(`${url}/api/v1/events`, {
      method: 'POST',
      headers: { 'content-type': 'application/cloudevents-batch+json' },
      body,
    })
  const list = async (path: string) =>
    (await (await fetch(`${url}/api/v1/${path}`)).json()) as Record<string, unknown>[]

  await until(async () => ((await fetch(`${url}/api/v1/rejected`)).ok ? true : undefined), 'the API')
  expect((await post(JSON.stringify([event('1'), event('2')]))).status).toBe(204)
  const takenMs = Date.now() + 8_000
  const soon = new Date(takenMs + 86_400_000).toISOString()
  const some = await post(
    JSON.stringify([event('1', { data: { n: 2 } }), event('3', { time: soon }), { id: 'x' }]),
  )
  expect(some.status).toBe(400)
  expect(await some.json()).toMatchObject({
    taken: 1,
    extensions: { validationErrors: [{ index: 1 }, { index: 2 }] },
  })

  const refused = await until(async () => {
    const rows = await list('rejected')
    return rows.length === 2 ? rows : undefined
  }, 'the rejects')
  expect(refused).toMatchObject([
    { origin: 'http', code: 'TIME_OUT_OF_BOUNDS', replays: [] },
    { origin: 'http', code: 'EVENT_INVALID', replays: [] },
  ])
  const span = ['--from', new Date(nowMs - 3_600_000).toISOString(), '--to', soon]
  const conflicting = await ask('conflicts', ...span)
  expect(conflicting.code, conflicting.stderr).toBe(3)
  expect(conflicting.json).toMatchObject([{ what: 'pushed', source: 'urn:app', id: '1' }])
  expect([JSON.parse(conflicting.json[0].first).data, JSON.parse(conflicting.json[0].second).data]).toEqual([
    { n: 1 },
    { n: 2 },
  ])
  const asked = new URLSearchParams({ from: span[1] ?? '', to: soon })
  expect(await list(`conflicts?${asked}`)).toEqual(conflicting.json)

  const why = ['--author', 'Ann', '--reason', 'a test run']
  expect((await ask('amend', '--source', 'meterline/rafay/prod', '--id', '2', '--void', ...why)).code).toBe(2)
  expect((await ask('amend', '--source', 'urn:app', '--id', '2', '--void', ...why)).code).toBe(0)

  // By now one of them is no more than a day ahead.
  await sleep(Math.max(0, takenMs + 100 - Date.now()))
  const replayed = await ask('replay')
  expect(replayed.code, replayed.stderr).toBe(3)
  expect(replayed.json).toMatchObject({ sent: 1, left: [{ why: 'refused', code: 'EVENT_INVALID' }] })
  await until(async () => {
    const rows = (await list('rejected?code=TIME_OUT_OF_BOUNDS')) as { replays?: { fate: string }[] }[]
    return rows[0]?.replays?.[0]?.fate === 'accepted' ? rows : undefined
  }, 'the replayed event')
  const listed = await ask('rejected')
  expect(listed.code, 'one has not come in').toBe(3)
  expect(listed.json).toEqual(await list('rejected'))
  expect(await up.stop()).toBe(0)
}, 180_000)
