/** Each planted fault makes its test fail, on the real servers that the test uses (test/rig/clickhouse.ts, test/rig/kafka.ts). */
import { afterAll, beforeAll, expect, test } from 'vitest'
import '../rig/clickhouse.ts'
import { Copy, mutations } from './mutations.ts'

let copy: Copy

beforeAll(() => {
  copy = new Copy()
})
afterAll(() => {
  copy?.[Symbol.dispose]()
})

test.each(mutations)('$breaks: $test.file fails', async mutation => {
  expect(await copy.outcome(mutation)).toMatch(mutation.says)
})
