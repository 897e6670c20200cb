/** One process killed with -9 a few times: the fifty kills, and those with Kafka, are in kills.long.test.ts. */
import { test } from 'vitest'
import { surviveKills } from './kills.ts'

test('killed with -9 six times, one process with everything embedded comes to the exact totals', async () => {
  await surviveKills({ seed: 1, kills: 6, hours: 12 })
}, 240_000)
