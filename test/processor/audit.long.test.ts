/** Twenty kinds of planted difference, each found and named by the audit, and by the checks that should see it alone. */
import { afterAll, beforeAll, test } from 'vitest'
import { startClickHouse } from '../rig/clickhouse.ts'
import { expectFound, plants } from './planted.ts'

let rig: Awaited<ReturnType<typeof startClickHouse>>

beforeAll(async () => {
  rig = await startClickHouse()
})
afterAll(async () => {
  await rig?.stop()
})

test.each(plants)('$kind', async plant => await expectFound(rig, plant))
