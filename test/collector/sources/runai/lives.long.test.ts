/** Many lives of workloads read while they go on: lives.ts says how. */
import { test } from 'vitest'
import { livesAddUp } from './lives.ts'

test('whatever lives go on while they are read, the sums are theirs', async () => {
  await livesAddUp(100)
})
