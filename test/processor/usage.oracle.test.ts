/** The differential test, a short run of it: the same worlds each time. The long one makes others, and thousands of cases. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startClickHouse } from '../rig/clickhouse.ts'
import { type Bench, holdsFor, openBench } from './usage.oracle-run.ts'

let rig: Awaited<ReturnType<typeof startClickHouse>>
let bench: Bench

beforeAll(async () => {
  rig = await startClickHouse()
  bench = await openBench(rig)
})
afterAll(async () => {
  await bench?.[Symbol.asyncDispose]()
  await rig?.stop()
})

test('what the API answers is what a plain sum over all messages is, in some worlds', async () => {
  const { cases, rows, split } = await holdsFor(bench, {
    seed: 2,
    worlds: 2,
    sizes: { stages: 2, questions: 12 },
    timeMaxMs: 120_000,
  })
  // Worlds without usage would be equal whatever the engine did.
  expect(cases).toBeGreaterThan(20)
  expect(rows).toBeGreaterThan(cases / 2)
  expect(split).toBeGreaterThan(0)
}, 180_000)
