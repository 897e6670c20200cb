/** Tokens of a control plane old or new, and what a call does when its token is refused. */
import { afterEach, expect, test } from 'vitest'
import { openCalls, type RunaiAccess, type RunaiCalls } from '../../../../collector/sources/runai/calls.ts'
import {
  type RunaiBehaviour,
  type RunaiDouble,
  runaiDemoClientId,
  runaiDemoSecret,
  startRunaiDouble,
} from '../../../../deploy/demo/runai.ts'
import { openHttp } from '../../../../runtime/http.ts'
import { Fault } from '../../../../schemas/fault.ts'
import { isJsonArray } from '../../../../schemas/json.ts'
import { hourMs, minuteMs, secondMs } from '../../../../schemas/window.ts'
import { faultFrom } from '../../../faults.ts'

const live = new AbortController().signal
const opened: AsyncDisposable[] = []
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]()
})

interface Rig {
  readonly calls: RunaiCalls
  readonly double: RunaiDouble
  readonly clock: { nowMs: number; aheadMs: number }
  readonly tokens: () => readonly string[]
}

async function open(
  options: { auth?: RunaiAccess['auth']; behaviour?: Partial<RunaiBehaviour>; secret?: () => string } = {},
): Promise<Rig> {
  // The control plane's clock may be ahead of ours.
  const clock = { nowMs: Date.UTC(2026, 4, 4), aheadMs: 0 }
  const double = await startRunaiDouble({
    fixture: { clusters: [], workloads: [], pods: [], nodes: [] },
    nowMs: () => clock.nowMs + clock.aheadMs,
    behaviour: options.behaviour ?? {},
  })
  const http = openHttp({ retries: 1, deadlineMs: 1000, random: () => 0 })
  opened.push(double, http)
  const calls = openCalls(
    { url: double.url, auth: options.auth ?? 'auto' },
    {
      http,
      clientId: () => runaiDemoClientId,
      clientSecret: options.secret ?? (() => runaiDemoSecret),
      nowMs: () => clock.nowMs,
    },
  )
  const tokens = () => double.calls.filter(({ method }) => method === 'POST').map(({ endpoint }) => endpoint)
  return { calls, double, clock, tokens }
}

const ask = (calls: RunaiCalls, signal = live) =>
  calls.get({ path: '/api/v1/clusters', endpoint: 'runai.clusters', about: 'clusters', signal })

test.each([
  ['latest', 'auto', ['token_v2']],
  ['2.19', 'auto', ['token_v2', 'token', 'token']],
  ['2.24', 'v2', ['token_v2']],
  ['2.24', 'v1', ['token']],
  ['2.24', 'app_token', ['token']],
  ['2.19', 'app_token', ['token']],
] as const)('a control plane of %s gives a token by %s', async (version, auth, asked) => {
  const { calls, tokens, clock } = await open({ auth, behaviour: { version } })
  expect(isJsonArray((await ask(calls)).body)).toBe(true)
  expect(tokens()).toEqual(asked)
  // What was found out is not found out again.
  clock.nowMs += 2 * hourMs
  await ask(calls)
  expect(tokens().length).toBe(asked.length + 1)
})

test('a grant that the control plane does not know is denied where it is asked for by name', async () => {
  for (const auth of ['v2', 'v1'] as const) {
    const { calls } = await open({ auth, behaviour: { version: '2.19' } })
    const fault = await faultFrom(ask(calls))
    expect(fault.code).toBe(auth === 'v2' ? 'SOURCE_MISSING' : 'SOURCE_DENIED')
  }
})

test.each(['latest', '2.19'] as const)('wrong credentials are denied, and not shown: %s', async version => {
  const { calls } = await open({ behaviour: { version }, secret: () => 'sk-wrong-secret' })
  const fault = await faultFrom(ask(calls))
  expect(fault.code).toBe('SOURCE_DENIED')
  expect(fault.message).toContain(version === 'latest' ? 'invalid_client' : 'Invalid client')
  expect(fault.message + JSON.stringify(fault.facts)).not.toContain('sk-wrong-secret')
})

test('a control plane that repeats the secret, or the token, does not bring it into a fault', async () => {
  const { calls, double } = await open()
  double.behaviour.faults = [
    { endpoint: 'token_v2', times: 1, answer: { status: 400, message: `unknown ${runaiDemoSecret}` } },
  ]
  const denied = await faultFrom(ask(calls))
  expect(denied.message).toContain('unknown …')
  let token = ''
  const sent = openCalls(
    { url: double.url, auth: 'v2' },
    {
      http: {
        request: asked => {
          token ||= asked.headers?.authorization?.slice('Bearer '.length) ?? ''
          if (token !== '') throw new Fault('SOURCE_REFUSED', `bad ${token}`, { status: 400 })
          return openedHttp.request(asked)
        },
        stream: () => Promise.reject(new Error('not asked for')),
        [Symbol.asyncDispose]: async () => {},
      },
      clientId: () => runaiDemoClientId,
      clientSecret: () => runaiDemoSecret,
      nowMs: Date.now,
    },
  )
  const openedHttp = openHttp()
  opened.push(openedHttp)
  const refused = await faultFrom(ask(sent))
  expect(refused.message).toBe('clusters: bad …')
  expect(token.length).toBeGreaterThan(20)
})

test('callers that come together wait for one token', async () => {
  const { calls, tokens } = await open({ behaviour: { latencyMs: 10 } })
  await Promise.all(Array.from({ length: 20 }, () => ask(calls)))
  expect(tokens()).toEqual(['token_v2'])
})

test('who is stopped while a token comes leaves it to the others', async () => {
  const { calls, tokens } = await open({ behaviour: { latencyMs: 50 } })
  const stop = new AbortController()
  const stopped = faultFrom(ask(calls, stop.signal))
  const others = ask(calls)
  stop.abort()
  expect((await stopped).code).toBe('ABORTED')
  expect((await others).status).toBe(200)
  expect(tokens()).toHaveLength(1)
})

test.each([
  ['v2, by expires_in', 'v2', true, 0],
  ['v1, by expiresIn', 'v1', true, 0],
  ['v1, by the token itself', 'v1', false, 0],
  ['v1, by the token itself, of a clock that is ahead', 'v1', false, 5 * hourMs],
] as const)('a token is replaced a minute before its end: %s', async (_, auth, tokenSaysLife, aheadMs) => {
  const { calls, tokens, clock } = await open({ auth, behaviour: { tokenSaysLife, tokenLifeMs: hourMs } })
  clock.aheadMs = aheadMs
  await ask(calls)
  clock.nowMs += 59 * minuteMs - 1
  await ask(calls)
  expect(tokens()).toHaveLength(1)
  clock.nowMs += 1
  await ask(calls)
  expect(tokens()).toHaveLength(2)
})

test('a token of less than two minutes is used for half of its life', async () => {
  const { calls, tokens, clock } = await open({ behaviour: { tokenLifeMs: 40 * secondMs } })
  await ask(calls)
  clock.nowMs += 19 * secondMs
  await ask(calls)
  expect(tokens()).toHaveLength(1)
  clock.nowMs += secondMs
  await ask(calls)
  expect(tokens()).toHaveLength(2)
})

test('a token that is refused before its end is replaced once, for all who used it, and the calls made again', async () => {
  const { calls, tokens, double } = await open({ behaviour: { latencyMs: 5 } })
  await ask(calls)
  double.revokeTokens()
  const answers = await Promise.all(Array.from({ length: 10 }, () => ask(calls)))
  expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 10 }, () => 200))
  expect(tokens()).toHaveLength(2)
})

test('a refusal that comes late, of a token that was replaced meanwhile, asks for no other', async () => {
  const { calls, tokens, double } = await open()
  await ask(calls)
  double.revokeTokens()
  const latenciesMs = [0, 100]
  double.behaviour.onCall = ({ endpoint }) => {
    double.behaviour.latencyMs = endpoint === 'clusters' ? (latenciesMs.shift() ?? 0) : 0
  }
  await Promise.all([ask(calls), ask(calls)])
  expect(tokens()).toHaveLength(2)
})

test('where new tokens are refused too it ends', async () => {
  const { calls, tokens, double } = await open()
  double.behaviour.faults = [
    { endpoint: 'clusters', answer: { status: 401, message: 'Issuer is not familiar.' } },
  ]
  const fault = await faultFrom(ask(calls))
  expect(fault.code).toBe('SOURCE_DENIED')
  expect(fault.message).toContain('Issuer is not familiar.')
  expect(tokens()).toHaveLength(2)
})

test('a rotated secret counts with the next token', async () => {
  let secret = 'old'
  const { calls, double } = await open({ secret: () => secret })
  expect((await faultFrom(ask(calls))).code).toBe('SOURCE_DENIED')
  secret = runaiDemoSecret
  expect((await ask(calls)).status).toBe(200)
  expect(double.calls.filter(({ endpoint }) => endpoint === 'token_v2')).toHaveLength(2)
})

test('a list of filters is one parameter, its commas as they are, the rest encoded', async () => {
  const { calls, double } = await open()
  await calls.get({
    path: '/api/v1/workloads/pods',
    query: { limit: 5, filterBy: ['clusterId==a b', 'createdAt<=2026-01-01T00:00:00Z'] },
    endpoint: 'runai.pods',
    about: 'pods',
    signal: live,
  })
  expect(double.calls.at(-1)?.rawQuery).toBe(
    'limit=5&filterBy=clusterId%3D%3Da%20b,createdAt%3C%3D2026-01-01T00%3A00%3A00Z',
  )
})
