/** An answer of hundreds of thousands of rows, in memory that does not grow with it. */
import { expect, test } from 'vitest'
import { startClickHouse } from '../../rig/clickhouse.ts'
import { hourCount, plant } from './usage-planted.ts'

const subjectCount = 1000

test('an answer of 600,000 rows goes out whole, in memory that does not grow with it', async () => {
  await using planted = await plant(await startClickHouse(), subjectCount)
  await using server = await planted.serve()
  const answer = await server.ask({ window: 'HOUR' })
  let bytes = 0
  let rows = 0
  let peak = 0
  let settled = 0
  let end = ''
  const decoder = new TextDecoder()
  for await (const chunk of answer.body ?? []) {
    const text = decoder.decode(chunk, { stream: true })
    for (let at = text.indexOf('"meter"'); at >= 0; at = text.indexOf('"meter"', at + 1)) rows += 1
    bytes += chunk.byteLength
    end = text.slice(-3)
    const { rss } = process.memoryUsage()
    peak = Math.max(peak, rss)
    if (settled === 0 && bytes > 20 * 2 ** 20) settled = rss
  }
  expect(end).toBe('\n]\n')
  // A text may be cut between two chunks, in the middle of the word.
  expect(rows).toBeGreaterThan(0.99 * subjectCount * hourCount)
  expect(bytes).toBeGreaterThan(100 * 2 ** 20)
  expect(peak - settled).toBeLessThan(60 * 2 ** 20)
})
