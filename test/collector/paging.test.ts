/** Paging: every row once, whatever a provider says of its pages; a drift begins the answer again. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type Page, readPages } from '../../collector/paging.ts'
import { type Json, JsonNumber } from '../../schemas/json.ts'

/** A provider with these rows, that pages as told, and the offsets it was asked for. */
function provider(
  rows: readonly Json[],
  how: { limitMax?: number; echo?: 'both' | 'limit' | 'neither'; pages?: boolean } = {},
) {
  const { limitMax = 1000, echo = 'both', pages = true } = how
  const offsets: number[] = []
  const ask = async ({ offset, limit }: { offset: number; limit: number }): Promise<Page> => {
    offsets.push(offset)
    const size = Math.min(limit, limitMax)
    return {
      rows: pages ? rows.slice(offset, offset + size) : rows,
      ...(echo !== 'neither' && { limit: size }),
      ...(echo === 'both' && { offset }),
    }
  }
  return { ask, offsets }
}
const numbered = (length: number) => Array.from({ length }, (_, i) => ({ id: `i-${i}` }))
const identityOf = (row: Json) => String((row as { id?: unknown }).id)

test('every row comes once and in order, whatever the page size, its bound, and what the replies say', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 0, max: 40 }),
      fc.integer({ min: 1, max: 50 }),
      fc.integer({ min: 1, max: 50 }),
      fc.constantFrom('both' as const, 'limit' as const, 'neither' as const),
      fc.boolean(),
      async (length, pageSize, limitMax, echo, withIdentity) => {
        const rows = numbered(length)
        const { ask } = provider(rows, { limitMax, echo })
        const read = await readPages({ ask, pageSize, about: 'test', ...(withIdentity && { identityOf }) })
        expect(read).toEqual(rows)
      },
    ),
  )
})

test('a provider that does not page, and says nothing, is read once', async () => {
  const rows = numbered(30)
  for (const more of [{}, { identityOf }]) {
    const { ask, offsets } = provider(rows, { echo: 'neither', pages: false })
    expect(await readPages({ ask, pageSize: 400, about: 'test', ...more })).toEqual(rows)
    expect(offsets).toHaveLength(2)
  }
})

test('a page shorter than the limit of the reply ends it, without another call', async () => {
  const { ask, offsets } = provider(numbered(20), { limitMax: 25 })
  await readPages({ ask, pageSize: 400, about: 'test' })
  expect(offsets).toEqual([0])
})

test('a reply that claims a larger limit than it serves loses nothing', async () => {
  const rows = numbered(25)
  const ask = async ({ offset, limit }: { offset: number; limit: number }): Promise<Page> => ({
    rows: rows.slice(offset, offset + limit),
    limit: 1000,
    offset,
  })
  expect(await readPages({ ask, pageSize: 10, about: 'test' })).toEqual(rows)
})

test('rows that are alike are all counted where the reply says its offset', async () => {
  const rows = Array.from({ length: 7 }, () => ({ name: 'test-abc', hours: new JsonNumber('0.12') }))
  const { ask } = provider(rows)
  expect(await readPages({ ask, pageSize: 2, about: 'test' })).toHaveLength(7)
})

test('the same page for ever is given up, even where it says the offset asked for', async () => {
  let calls = 0
  const ask = async ({ offset }: { offset: number }): Promise<Page> => {
    calls++
    return { rows: numbered(2), limit: 2, offset }
  }
  await expect(readPages({ ask, pageSize: 2, about: 'test' })).rejects.toMatchObject({
    code: 'PAGES_DRIFTED',
  })
  expect(calls).toBeLessThan(1000)
})

test('a page that answers another offset than asked is a drift, not an end', async () => {
  const ask = async (): Promise<Page> => ({ rows: numbered(2), limit: 2, offset: 0 })
  await expect(readPages({ ask, pageSize: 2, about: 'test' })).rejects.toMatchObject({
    code: 'PAGES_DRIFTED',
    message: 'test: page 2 answers offset 0 instead of 2, 4 times in a row',
  })
})

test.each([
  ['a row came in front', (rows: { id: string }[]) => [{ id: 'new' }, ...rows]],
  ['a row in front went away', (rows: { id: string }[]) => rows.slice(1)],
  ['half of the rows went away', (rows: { id: string }[]) => rows.slice(15)],
  ['two rows changed places', (rows: { id: string }[]) => [...rows.slice(10), ...rows.slice(0, 10)]],
])('while the pages were read, %s: the answer is read again and is whole', async (_, change) => {
  let rows = numbered(30)
  let calls = 0
  const read = await readPages({
    ask: async ({ offset, limit }) => {
      if (++calls === 3) rows = change(rows)
      return { rows: rows.slice(offset, offset + limit), limit, offset }
    },
    pageSize: 10,
    identityOf,
    about: 'test',
  })
  expect(read).toEqual(rows)
})

test('pages that never fit together are PAGES_DRIFTED, with what was wrong', async () => {
  const rows = numbered(30)
  const ask = async ({ offset, limit }: { offset: number; limit: number }): Promise<Page> => {
    const from = offset === 0 ? 0 : offset + 1
    return { rows: rows.slice(from, from + limit), limit, offset }
  }
  await expect(
    readPages({ ask, pageSize: 10, identityOf, about: 'kind compute', facts: { scope: 'compute' } }),
  ).rejects.toMatchObject({
    code: 'PAGES_DRIFTED',
    message: 'kind compute: page 2 does not begin where the page before ended, 4 times in a row',
    facts: { scope: 'compute' },
  })
})

test('one row twice in one page is not counted twice', async () => {
  const rows = [...numbered(3), { id: 'i-1' }]
  const { ask } = provider(rows)
  await expect(readPages({ ask, pageSize: 10, identityOf, about: 'test' })).rejects.toMatchObject({
    code: 'PAGES_DRIFTED',
  })
})
