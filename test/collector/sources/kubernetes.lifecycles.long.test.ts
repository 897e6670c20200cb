/** As kubernetes.lifecycles.test.ts, many more times. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { anySteps, counted, holds } from './kubernetes/lifecycles.ts'

test('of many lives, each window is exact, or says that it is not', async () => {
  await fc.assert(fc.asyncProperty(anySteps, holds), { numRuns: 150, endOnFailure: true })
  expect(counted.exact).toBeGreaterThan(500)
  expect(counted.estimated).toBeGreaterThan(2)
  expect(counted.missing).toBeGreaterThan(2)
}, 300_000)
