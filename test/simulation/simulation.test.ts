/** A few seeds of the simulation, in every run of the tests; simulation.long.test.ts has the rest. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import '../rig/clickhouse.ts'
import { Engine } from './engine.ts'
import { meters, simulate } from './simulation.ts'

let engine: Engine

beforeAll(async () => {
  engine = await Engine.start(meters)
})
afterAll(async () => {
  await engine?.[Symbol.asyncDispose]()
})

test.each([1, 2, 3])('seed %i ends with what the provider said, and every gap known', async seed => {
  const { comparisons } = await simulate(seed, engine)
  expect(comparisons).toBeGreaterThan(1)
})
