/** What the witness of a ledger believes: the row written last, in whatever spans the ledger writes it. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Store } from '../../processor/store.ts'
import { Witness } from '../../processor/witness.ts'
import { startClickHouse, type TestClickHouse } from '../rig/clickhouse.ts'

const { signal } = new AbortController()
let rig: TestClickHouse
let store: Store

beforeAll(async () => {
  rig = await startClickHouse()
  store = await Store.open(rig)
})
afterAll(async () => {
  await store?.[Symbol.asyncDispose]()
  await rig?.stop()
})

async function position(log: string, partition: number, first: number, last: number): Promise<void> {
  const columns = ['log', 'partition', 'first', 'last', 'messages']
  await store.insert('positions', columns, [JSON.stringify([log, partition, first, last, last - first + 1])])
}

const span = (partition: number, first: bigint, last: bigint) => ({ partition, first, last })

test('nothing is missed where nothing was acknowledged, nor where a partition is new', async () => {
  const witness = new Witness(store, 'new')
  expect(await witness.isPutBack(signal)).toBe(false)
  witness.resumed(0, undefined)
  expect(await witness.isPutBack(signal)).toBe(false)
})

test('until something is put, every partition that was resumed is looked at', async () => {
  await position('resumed', 0, 0, 9)
  await position('resumed', 1, 0, 4)
  const witness = new Witness(store, 'resumed')
  witness.resumed(0, 10n)
  witness.resumed(1, 5n)
  expect(await witness.isPutBack(signal)).toBe(false)
  witness.resumed(1, 6n)
  expect(await witness.isPutBack(signal)).toBe(true)
})

test('after a put its last row tells for all before, wherever the ledger lets its spans begin', async () => {
  const witness = new Witness(store, 'put')
  await position('put', 0, 0, 9)
  witness.resumed(0, 10n)
  // A gap in the log, and two batches put as one, in spans that touch or that begin at one place.
  for (const [at, firsts] of [
    [10, [10, 30]],
    [100, [100, 100]],
  ] as const) {
    await position('put', 0, firsts[0], at + 19)
    await position('put', 0, firsts[1], at + 29)
    witness.acknowledged([
      span(0, BigInt(at + 5), BigInt(at + 19)),
      span(0, BigInt(at + 20), BigInt(at + 29)),
    ])
    expect(await witness.isPutBack(signal)).toBe(false)
  }
  witness.acknowledged([span(0, 130n, 139n)])
  expect(await witness.isPutBack(signal)).toBe(true)
  // A replica that was only late has it when it is asked again.
  const asked = witness.isPutBack(signal)
  await position('put', 0, 130, 139)
  expect(await asked).toBe(false)
})

test('rows of another log or partition are no proof', async () => {
  const witness = new Witness(store, 'mine')
  await position('other', 0, 0, 9)
  await position('mine', 1, 0, 9)
  witness.acknowledged([span(0, 0n, 9n)])
  expect(await witness.isPutBack(signal)).toBe(true)
})
