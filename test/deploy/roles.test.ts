/** The configuration as the roles read it, with the real sources, meters and price models, and what each role loads for it. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { configured } from '../../deploy/roles.ts'
import { meterline, start } from '../rig/meterline.ts'

const dir = mkdtempSync(join(tmpdir(), 'meterline-roles-'))
afterAll(() => rmSync(dir, { recursive: true }))

function settings(config: string) {
  return {
    config,
    signal: new AbortController().signal,
    stdout: () => {},
    stderr: () => {},
    env: {},
    nowMs: () => 0,
  }
}

describe('configured', () => {
  test('refuses an option that a kind of source does not know, and names what was meant', async () => {
    const file = join(dir, 'meterline.yaml')
    writeFileSync(
      file,
      'sources:\n- kind: rafay\n  name: prod\n  url: https://console\n  apiKey: ${env:KEY}\n  pageSise: 4\nlisten: {port: 80800}\n',
    )
    const failed = configured(settings(file), 'price')
    await expect(failed).rejects.toMatchObject({ code: 'CONFIG_INVALID', facts: { problems: 2 } })
    await expect(failed).rejects.toThrow(
      /meterline\.yaml:6:3 sources\[0\]\.pageSise is not known here \(is `pageSize` meant\?\)/,
    )
    await expect(failed).rejects.toThrow(/meterline\.yaml:7:10 listen\.port must be <= 65535/)
  })
})

describe('a mistake in what is metered or priced', () => {
  const file = join(dir, 'priced.yaml')
  writeFileSync(file, 'priceBooks: [prices.yaml]\ncatalogue: meters.yaml\n')
  writeFileSync(join(dir, 'prices.yaml'), 'id: list\ncharges: []\n')
  writeFileSync(
    join(dir, 'meters.yaml'),
    'meters: [{ slug: m, eventTypes: [a], aggregation: SUM, value: "$.a[*]", unit: h }]\n',
  )
  const problems = (use: 'collect' | 'meter' | 'price') =>
    configured(settings(file), use).then(
      () => [],
      (error: Error) => error.message.split('\n').map(line => relative(dir, line.replace(/:.*/, ''))),
    )

  test('stops those who meter or price, and no collector', async () => {
    expect(await problems('collect')).toEqual([])
    expect(await problems('meter')).toEqual(['meters.yaml'])
    expect(new Set(await problems('price'))).toEqual(new Set(['meters.yaml', 'prices.yaml']))
  })
})

describe('a collector', () => {
  const root = join(import.meta.dirname, '../..')
  const file = join(dir, 'collector.yaml')
  const list = join(dir, 'loaded')
  const note = `import { appendFileSync } from 'node:fs'; import { registerHooks } from 'node:module'
registerHooks({ load(url, about, next) { appendFileSync(${JSON.stringify(list)}, url + '\\n'); return next(url, about) } })`
  const env = {
    NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(note)}`,
    METERLINE_LOG_LEVEL: 'info',
  }
  writeFileSync(
    file,
    stringify({
      data: 'data',
      sources: [{ kind: 'rafay', name: 'prod', url: 'http://127.0.0.1:1', apiKey: '${env:NODE_OPTIONS}' }],
      kafka: { brokers: ['127.0.0.1:1'] },
      listen: { port: 0, api: 'loopback' },
    }),
  )
  const loaded = () =>
    readFileSync(list, 'utf8')
      .split('\n')
      .filter(url => url.startsWith('file:'))
      .map(url => relative(root, fileURLToPath(url)))

  test('loads nothing of the processor, nor of the embedded store', async () => {
    const args = ['--config', file, 'collect']
    const collector = start(args, { env })
    for (let waitedMs = 0; waitedMs < 20_000 && !/the log is away/.test(collector.stderr()); waitedMs += 50)
      await sleep(50)
    expect(await collector.stop(), collector.stderr()).toBe(0)
    const span = ['--from', '2026-01-01T00:00:00Z', '--to', '2026-01-01T01:00:00Z']
    const once = await meterline([...args, '--once', ...span, '--source', 'nobody'], { env })
    expect(once.code, once.stderr).toBe(2)

    expect(loaded()).toEqual(
      expect.arrayContaining(['collector/collector.ts', 'collector/relay.ts', 'deploy/once.ts']),
    )
    expect(
      loaded().filter(path =>
        /^(processor|deploy\/(embedded|demo|commands)|node_modules\/(fastify|@clickhouse|chdb)\/)/.test(path),
      ),
    ).toEqual([])
  })
})
