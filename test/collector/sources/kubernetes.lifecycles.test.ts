/** Lives of pods, faults of the watch and restarts of the collector in any order: what is billed is what has been. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { anySteps, counted, holds } from './kubernetes/lifecycles.ts'

test('the integral of the truth wherever the API let it be seen, and an estimate that says so where not', async () => {
  await fc.assert(fc.asyncProperty(anySteps, holds), { numRuns: 8 })
  expect(counted.exact).toBeGreaterThan(5)
}, 60_000)
