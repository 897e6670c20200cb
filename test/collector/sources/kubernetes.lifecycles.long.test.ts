/** As kubernetes.lifecycles.test.ts, many more times. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { anySteps, counted, holds } from './kubernetes/lifecycles.ts'

test('of many lives, each window is exact, or says that it is not', async () => {
  await fc.assert(fc.asyncProperty(anySteps, holds), { numRuns: 150, endOnFailure: true })
  expect(counted.exact).toBeGreaterThan(1000)
  expect(counted.estimated).toBeGreaterThan(20)
  expect(counted.missing).toBeGreaterThan(20)
}, 300_000)
