/**
 * The whole API, over a real store with usage in it, asked by schemathesis for whatever its document lets it think of: no
 * failure inside, nothing answered that the document does not say, nothing taken that it forbids, nobody let in without a
 * key. For longer: SECONDS=600; as a run before: SEED=, of its last lines.
 */
import { expect, test } from 'vitest'
import { createKey } from '../../../processor/keys.ts'
import { keyScopes } from '../../../schemas/keys.ts'
import { nowMs, openTenantsWorld } from '../../deploy/tenants-world.ts'
import { startClickHouse } from '../../rig/clickhouse.ts'
import { schemathesis } from '../../rig/schemathesis.ts'

const seconds = Number(process.env.SECONDS ?? 60)
const seed = process.env.SEED

test('keeps to its document whatever it is asked', { timeout: (seconds + 300) * 1000 }, async () => {
  await using rig = await startClickHouse()
  await using world = await openTenantsWorld(rig, `fuzzed_${process.pid}`, 'with')
  const all = { name: 'all', scopes: keyScopes, sources: ['*'], subjects: ['*'] }
  const { key } = await createKey(world.store, all, { by: 'test', nowMs })
  const { code, text } = await schemathesis({
    url: `${world.url}/api/openapi.json`,
    // It leaves the header away by this name, to see whether it is asked for.
    headers: { Authorization: `Bearer ${key}` },
    seconds,
    // Times have an order that no schema can say; of names, those that there are.
    values: {
      'query.from': '2025-05-31T00:00:00Z',
      'query.meter': 'instance_hours',
      'path.meterIdOrSlug': 'calls',
    },
    // What a schema cannot say is refused all the same: a time before another, a name that is there already.
    options: ['--exclude-checks', 'positive_data_acceptance', ...(seed ? ['--seed', seed] : [])],
  })
  expect(code, text.slice(-20_000)).toBe(0)
  // It tried all of them, on average more than twice, also where the machine has other work.
  const [, selected, total] = /Operations: +(\d+) selected \/ (\d+) total/.exec(text) ?? []
  const tested = /Tested: +(\d+)/.exec(text)?.[1]
  expect([selected, tested], text.slice(0, 3000)).toEqual([total, total])
  expect(Number(total)).toBeGreaterThan(20)
  expect(Number(/(\d+) generated/.exec(text)?.[1])).toBeGreaterThan(2 * Number(total))
})
