/** `check` with a ledger at hand: what it says of meters whose paths stand for nothing in it. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { stringify } from 'yaml'
import { check } from '../../deploy/check.ts'
import { accept } from '../../processor/accept.ts'
import { Ledger } from '../../processor/ledger.ts'
import { Store } from '../../processor/store.ts'
import { headers, june1Ms } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'

test('a path of a meter that stands for nothing in the last events is told, and is no mistake', async () => {
  await using stack = new AsyncDisposableStack()
  const rig = stack.use(await startClickHouse())
  const dir = mkdtempSync(join(tmpdir(), 'meterline-check-'))
  stack.defer(() => rmSync(dir, { recursive: true }))
  const call = {
    ...{ specversion: '1.0', id: '1', source: 'urn:app', type: 'call', subject: 'acme' },
    ...{ time: '2025-06-01T01:00:00Z', data: { tokens: 5, model: 'm' } },
  }
  {
    await using store = await Store.open(rig)
    const messages = [
      { offset: 0n, key: null, value: Buffer.from(JSON.stringify(call)), headers, appendedMs: june1Ms },
    ]
    await new Ledger(store, 'log', null).put([accept({ partition: 0, messages }, 'log')])
  }
  const meter = { slug: 'tokens', eventTypes: ['call'], aggregation: 'SUM', value: '$.tokens', unit: '1' }
  const meters = [
    { ...meter, groupBy: { model: '$.model', zone: '$.zone' } },
    { ...meter, slug: 'mistaken', value: '$.token', groupBy: {} },
    { ...meter, slug: 'of_no_events', eventTypes: ['other'], groupBy: {} },
  ]
  writeFileSync(join(dir, 'catalogue.yaml'), stringify({ meters }))
  const config = join(dir, 'meterline.yaml')
  const { url, user, password, database } = rig
  const address = { url, user, password: '${env:STORE_PASSWORD}', database }
  writeFileSync(config, stringify({ data: 'data', catalogue: 'catalogue.yaml', store: address }))
  const out: string[] = []
  const told: string[] = []
  const code = await check({
    config,
    env: { STORE_PASSWORD: password },
    signal: new AbortController().signal,
    stdout: text => void out.push(text),
    stderr: line => void told.push(line),
    nowMs: Date.now,
  })
  expect(told).toEqual([
    'meter tokens: groupBy.zone: $.zone stands for nothing in the last 1 events of call',
    'meter mistaken: value: $.token stands for no number in the last 1 events of call',
  ])
  expect(out).toEqual([expect.stringMatching(/3 meters, .*: no problem found in them\n$/)])
  expect(code).toBe(0)
})
