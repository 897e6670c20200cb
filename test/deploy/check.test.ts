/** `check` and `sources` as commands: what they print, what they exit with, and that one source hides no other. */
import { hash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import type { Findings, Source } from '../../collector/source.ts'
import { sources } from '../../collector/sources/list.ts'
import { type Checked, check, findingsWithin } from '../../deploy/check.ts'
import {
  juneFixture,
  type RafayDouble,
  rafayDemoKey,
  rafayDemoPartnerKey,
  startRafayDouble,
} from '../../deploy/demo/rafay.ts'
import { type ListedKind, listSources } from '../../deploy/sources.ts'
import { referencePages } from '../../docs/generate.ts'
import { Fault } from '../../schemas/fault.ts'
import { faultFrom } from '../faults.ts'

const live = new AbortController().signal
let dir: string
let double: RafayDouble
beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-check-'))
  double = await startRafayDouble({ fixture: juneFixture() })
})
afterEach(async () => {
  await double.close()
  rmSync(dir, { recursive: true })
})

const key = '${env:KEY}'
const source = (name: string, options: object = {}) => ({
  kind: 'rafay',
  name,
  url: double.url,
  apiKey: key,
  ...options,
})

async function checked(
  listed: readonly object[],
  options: Partial<Parameters<typeof check>[0]> = {},
  more: object = {},
) {
  const config = join(dir, 'meterline.yaml')
  writeFileSync(config, stringify({ data: 'data', sources: listed, ...more }))
  let stdout = ''
  let stderr = ''
  const code = await check({
    config,
    env: { KEY: rafayDemoKey, OTHER: 'a-wrong-key' },
    signal: new AbortController().signal,
    stdout: text => {
      stdout += text
    },
    stderr: line => {
      stderr += `${line}\n`
    },
    nowMs: Date.now,
    ...options,
  })
  for (const secret of [rafayDemoKey, rafayDemoPartnerKey, 'a-wrong-key'])
    expect(stdout + stderr).not.toContain(secret)
  return { code, stdout, stderr, lines: stdout.trimEnd().split('\n') }
}

describe('check', () => {
  test('says in one line what each source finds, and exits with 0', async () => {
    const { code, lines } = await checked([source('one'), source('two', { dialect: 'console' })])
    expect(lines).toEqual([
      expect.stringMatching(/meterline.yaml: 2 sources, .*: no problem found in them$/),
      expect.stringMatching(/^meterline\/rafay\/one: works: compute: answers, nothing used in .*; service: /),
      'meterline/rafay/two: works: organizations: 3, profiles: 9; qm7kd2x/small: answers, nothing used in '.concat(
        lines.at(-1)?.split(' in ')[1] ?? 'nothing',
      ),
    ])
    expect(code).toBe(0)
  })

  test('a source that is refused, one without its secret, one that cannot be reached and one that cannot open hide no other', async () => {
    const { code, lines } = await checked([
      source('refused', { apiKey: '${env:OTHER}' }),
      source('no-secret', { apiKey: '${env:NOBODY}' }),
      source('away', { url: 'http://127.0.0.1:1' }),
      source('no-address', { url: 'https://me:pw@rafay.acme.com' }),
      source('fine'),
    ])
    const line = (name: string) => lines.find(each => each.startsWith(`meterline/rafay/${name}: `))
    expect(lines.slice(1).map(each => each.split(':')[0])).toEqual(
      ['refused', 'no-secret', 'away', 'no-address', 'fine'].map(name => `meterline/rafay/${name}`),
    )
    expect(line('refused')).toMatch(/^meterline\/rafay\/refused: MISSING: .*HTTP 403.* → give apiKey a key/)
    expect(line('no-secret')).toMatch(/MISSING: .*\$\{env:NOBODY\} is not set.* → /)
    expect(line('away')).toMatch(/MISSING: .*cannot be reached.* → check the address, DNS/)
    expect(line('no-address')).toMatch(/MISSING: CONFIG_INVALID url: .* → /)
    expect(line('fine')).toMatch(/: works: /)
    expect(code).toBe(1)
  })

  test('they are asked at once, each for so long: one that hangs takes nobody’s time', async () => {
    double.behaviour.faults = [{ kind: 'compute', answer: 'hang' }]
    const startedMs = performance.now()
    const { code, stdout } = await checked(
      [source('a'), source('b'), source('c'), source('fine', { kinds: ['service'] })],
      { answerMsMax: 700 },
    )
    expect(performance.now() - startedMs).toBeLessThan(2_600)
    // What they found until then is told.
    expect(stdout.match(/works: service: .* MISSING: usage of compute .*stopped/g)).toHaveLength(3)
    expect(stdout).toMatch(/rafay\/fine: works: service/)
    expect(code).toBe(1)
  })

  test('a source that throws at the end of its time, one that does not stop, and one that throws no Fault are told alike', async () => {
    const of = (check: (signal: AbortSignal) => Promise<Findings>) =>
      findingsWithin({ check } as unknown as Source<unknown>, { signal: live, answerMsMax: 50 })
    const slow = [expect.objectContaining({ what: 'SOURCE_UNREACHABLE no whole answer within 0.05 s' })]
    const stopped = of(async signal => {
      await once(signal, 'abort')
      throw new Fault('ABORTED', 'stopped')
    })
    expect(await stopped).toEqual({ works: [], missing: slow })
    expect(await of(() => new Promise(() => undefined))).toEqual({ works: [], missing: slow })
    const broken = await of(async () => {
      throw new Error(`first line\nsecond \u001b[31m ${'long '.repeat(100)}`)
    })
    expect(broken.missing[0]?.what).toMatch(/^INTERNAL first line second \[31m [long ]+…$/)
  })

  test('of a source that has no check the scopes are counted; none is nothing to be content with', async () => {
    const of = (listed: number) =>
      findingsWithin(
        { scopes: async () => Array.from({ length: listed }, (_, at) => ({ scope: `${at}` })) } as never,
        { signal: live, answerMsMax: 1000 },
      )
    expect(await of(3)).toEqual({ works: ['scopes: 3'], missing: [] })
    expect((await of(0)).missing).toHaveLength(1)
  })

  test('--offline asks nobody', async () => {
    const { code, lines } = await checked([source('one', { apiKey: '${env:NOBODY}' })], { offline: true })
    expect([code, lines.length, double.calls]).toEqual([0, 1, []])
    expect((await checked([source('one', { url: 'ftp://a' })], { offline: true })).code).toBe(1)
  })

  test('--json is one document, also of a file that is wrong', async () => {
    const fine = await checked([source('one'), source('away', { url: '127.0.0.1:1' })], { json: true })
    const document = JSON.parse(fine.stdout) as Checked
    expect(document.problems).toEqual([])
    expect(document.sources).toEqual([
      { source: 'meterline/rafay/one', works: expect.arrayContaining([expect.any(String)]), missing: [] },
      {
        source: 'meterline/rafay/away',
        works: [],
        missing: expect.arrayContaining([{ what: expect.any(String), remedy: expect.any(String) }]),
      },
    ])
    expect([fine.code, fine.stderr]).toEqual([1, ''])

    let stdout = ''
    const wrong = checked([source('one', { apikey: key }), { kind: 'rafey', name: 'b' }], {
      json: true,
      stdout: text => {
        stdout += text
      },
    })
    expect((await faultFrom(wrong)).code).toBe('CONFIG_INVALID')
    expect((JSON.parse(stdout) as Checked).problems).toEqual([
      expect.objectContaining({ path: 'sources[0].apikey', line: 7 }),
      expect.objectContaining({ path: 'sources[1].kind', message: expect.stringContaining('rafay') }),
    ])
  })

  test('a key that is bound to an account that is not there is named', async () => {
    const bound = (account: string) => ({
      name: `of-${account}`,
      sha256: hash('sha256', account),
      account,
      scopes: ['read'],
    })
    const accounts = [{ id: 'acme', currency: 'USD', priceBook: 'list', subjects: [] }]
    const charges = [{ id: 'hours', meter: 'gpu_hours', unit: 'Hours', price: { unit: '1' } }]
    const book = { id: 'list', version: 1, currency: 'USD', timezone: 'UTC', unpriced: 'error', charges }
    writeFileSync(join(dir, 'accounts.yaml'), stringify({ accounts }))
    writeFileSync(join(dir, 'list.yaml'), stringify(book))
    const of = (...keys: readonly object[]) =>
      checked([], { offline: true }, { accounts: 'accounts.yaml', priceBooks: ['list.yaml'], keys })
    expect((await of(bound('acme'), { ...bound('x'), account: undefined })).code).toBe(0)
    const { code, stdout, stderr } = await of(bound('acme'), bound('amce'))
    expect([code, stdout, stderr]).toEqual([
      ...[1, '', 'key of-amce: there is no account "amce", so it shows nothing\n'],
    ])
  })

  test('a secret that a provider puts into its answer is not printed', async () => {
    double.fixture.organizations.push({ id: 'x', name: 'X', slug: 'x' })
    double.fixture.profiles.push({
      id: 'p',
      name: `for ${rafayDemoKey}`,
      kind: 'compute',
      organizationIds: ['x'],
    })
    double.fixture.organizations.splice(0, 3)
    double.fixture.profiles.splice(0, 3)
    const { code, stdout } = await checked([source('one', { dialect: 'console' })])
    expect(stdout).toContain('for …: ')
    expect(code).toBe(0)
  })

  test('what a provider says stays on one line and steers no terminal', async () => {
    double.behaviour.faults = []
    const { stdout } = await checked([source('one', { url: `${double.url}/nowhere` })])
    expect(stdout.split('\n')).toHaveLength(3)
    expect(stdout).not.toMatch(/[^\P{Cc}\n]/u)
    expect(stdout).toMatch(/HTTP 404.* → check the address and dialect/)
  })
})

describe('sources', () => {
  async function listed(options: { json?: boolean; kind?: string } = {}): Promise<string> {
    let stdout = ''
    await listSources({
      ...options,
      stdout: text => {
        stdout += text
      },
    })
    return stdout
  }

  test('--json is one document: every kind with the options that the reference has, and no other', async () => {
    const kinds = JSON.parse(await listed({ json: true })) as ListedKind[]
    expect(kinds.map(({ kind }) => kind)).toEqual(sources.map(({ kind }) => kind))
    const page = referencePages()['sources.md'] ?? ''
    for (const { kind, summary, options } of kinds) {
      const section = page.split(/^## /m).find(part => part.startsWith(`${kind}\n`)) ?? ''
      expect(section).toContain(summary)
      const inPage = [...section.matchAll(/^\| `([^`]+)` \|/gm)].map(([, name]) => name)
      const names = options.map(({ name }) => name)
      expect(names.filter(name => !['kind', 'name', 'from'].includes(name))).toEqual(inPage)
      expect(names.slice(0, 3)).toEqual(['kind', 'name', 'from'])
    }
    expect(kinds.find(({ kind }) => kind === 'rafay')?.options).toContainEqual({
      name: 'pageSize',
      type: 'whole number, 1 to 10000',
      default: 400,
      required: false,
      secret: false,
      description: 'Rows to ask for in a page; Rafay gives 10 to who does not ask.',
    })
    expect(kinds.find(({ kind }) => kind === 'rafay')?.options).toContainEqual(
      expect.objectContaining({ name: 'apiKey', type: 'secret', required: true, secret: true }),
    )
  })

  test('for people: one kind or all, each option with its type and default, no line too wide', async () => {
    const all = await listed()
    for (const { kind } of sources) expect(all).toContain(`${kind}: `)
    const one = await listed({ kind: 'rafay' })
    expect(all).toContain(one)
    expect(one).toContain('\n  dialect: billing | console; default billing\n      billing: the published API')
    expect(one).toContain('\n  apiKey: secret; required\n')
    // A default that is a list has no place to break it.
    const wide = all.split('\n').filter(line => line.length > 100 && line.trim().includes(' '))
    expect(wide).toEqual([])
    expect(await faultFrom(listed({ kind: 'rafey' }))).toMatchObject({
      code: 'USAGE',
      message: expect.stringContaining('rafay'),
    })
  })
})
