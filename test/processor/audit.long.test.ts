/** Twenty kinds of planted difference, each found and named by the audit, and by the checks that should see it alone. */
import { afterAll, beforeAll, test } from 'vitest'
import { startClickHouse } from '../rig/clickhouse.ts'
import { expectFound, plants, World } from './planted.ts'

let rig: Awaited<ReturnType<typeof startClickHouse>>
let whole: World

beforeAll(async () => {
  rig = await startClickHouse()
  whole = await (await World.open(rig)).fill()
  whole.outbox[Symbol.dispose]()
})
afterAll(async () => {
  await whole?.[Symbol.asyncDispose]()
  await rig?.stop()
})

test.each(plants)('$kind', async plant => {
  await using world = await whole.copy(rig)
  await expectFound(world, plant)
})
