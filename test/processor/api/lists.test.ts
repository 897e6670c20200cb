/** Answers that begin before their status is sent. */
import { expect, test } from 'vitest'
import { started } from '../../../processor/api/lists.ts'

function counted(fails: boolean): { readonly pieces: AsyncGenerator<number>; readonly ends: string[] } {
  const ends: string[] = []
  const pieces = (async function* () {
    try {
      if (fails) throw new Error('before the first')
      yield 1
      yield 2
    } finally {
      ends.push('ended')
    }
  })()
  return { pieces, ends }
}

test('what is started has all of its pieces, and ends however far it is read', async () => {
  const whole = counted(false)
  expect(await Array.fromAsync(await started(whole.pieces))).toEqual([1, 2])
  expect(whole.ends).toEqual(['ended'])
  for (const read of [0, 1]) {
    const { pieces, ends } = counted(false)
    const text = await started(pieces)
    for (let piece = 0; piece < read; piece += 1) await text.next()
    await text.return(undefined)
    expect([read, ends]).toEqual([read, ['ended']])
  }
  expect(await Array.fromAsync(await started((async function* () {})()))).toEqual([])
})

test('what fails before its first piece fails at once', async () => {
  const { pieces, ends } = counted(true)
  await expect(started(pieces)).rejects.toThrow('before the first')
  expect(ends).toEqual(['ended'])
})
