/** The parts of the embedded server that need no engine: how bodies are cut, and who waits for whom. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { EngineError } from '../../../deploy/embedded/engine.ts'
import { pieces, Slots } from '../../../deploy/embedded/http.ts'

async function cutInto(
  chunks: readonly Buffer[],
  { bytesMax, cut }: { bytesMax: number; cut: 'at line ends' | 'never' },
): Promise<string[]> {
  const found: Buffer[] = []
  const body = (async function* () {
    yield* chunks
  })()
  for await (const piece of pieces(body, { cut, sizeHint: 0, bytesMax })) found.push(piece)
  return found.map(piece => piece.toString('latin1'))
}

describe('pieces', () => {
  const lines = fc.array(fc.string({ maxLength: 20, unit: fc.constantFrom('a', 'é', '"', ' ') }), {
    minLength: 1,
    maxLength: 60,
  })

  test('hold every byte once, end at line ends, and do not depend on how the body arrives', async () => {
    await fc.assert(
      fc.asyncProperty(lines, fc.array(fc.nat(30)), fc.boolean(), async (texts, cuts, closed) => {
        const whole = Buffer.from(texts.join('\n') + (closed ? '\n' : ''))
        const chunks: Buffer[] = []
        let rest = whole
        for (const size of cuts) {
          chunks.push(rest.subarray(0, size))
          rest = rest.subarray(size)
        }
        chunks.push(rest)
        const options = { bytesMax: 64, cut: 'at line ends' as const }
        const found = await cutInto(chunks, options)
        expect(found.join('')).toBe(whole.toString('latin1'))
        expect(found).toEqual(await cutInto([whole], options))
        for (const piece of found.slice(0, -1)) expect(piece.endsWith('\n')).toBe(true)
        for (const piece of found) expect(piece.length).toBeLessThanOrEqual(64)
      }),
    )
  })

  test('a format that cannot be cut stays whole', async () => {
    const chunks = Array.from({ length: 40 }, (_, i) => Buffer.from(`"${i}\n"\n`))
    expect(await cutInto(chunks, { bytesMax: 64, cut: 'never' })).toEqual([
      Buffer.concat(chunks).toString('latin1'),
    ])
  })

  test('a row larger than a piece is refused', async () => {
    const row = [Buffer.from('x'.repeat(100))]
    await expect(cutInto(row, { bytesMax: 64, cut: 'at line ends' })).rejects.toThrow('TOO_LARGE_STRING_SIZE')
  })

  test('an empty body is no piece', async () => {
    expect(await cutInto([], { bytesMax: 64, cut: 'at line ends' })).toEqual([])
  })
})

describe('Slots', () => {
  const never = new AbortController().signal

  test('never gives more than it has, and gives in the order asked', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 20 }),
        async (free, count) => {
          const slots = new Slots({ free, waitingMax: 100 })
          const order: number[] = []
          let held = 0
          let heldMax = 0
          await Promise.all(
            Array.from({ length: count }, async (_, i) => {
              const release = await slots.take(never)
              order.push(i)
              held += 1
              heldMax = Math.max(heldMax, held)
              await Promise.resolve()
              held -= 1
              release()
              release()
            }),
          )
          expect(heldMax).toBe(Math.min(free, count))
          expect(order).toEqual(Array.from({ length: count }, (_, i) => i))
        },
      ),
    )
  })

  test('refuses those beyond its bound, by the code of a busy server', async () => {
    const slots = new Slots({ free: 1, waitingMax: 1 })
    const release = await slots.take(never)
    const waiting = slots.take(never)
    const refused = await slots.take(never).catch((error: unknown) => error)
    expect(refused).toBeInstanceOf(EngineError)
    expect((refused as EngineError).code).toBe(202)
    release()
    const last = await waiting
    last()
  })

  test('one who leaves the queue takes nobody else’s turn', async () => {
    const slots = new Slots({ free: 1, waitingMax: 10 })
    const release = await slots.take(never)
    const control = new AbortController()
    const leaving = slots.take(control.signal)
    const staying = slots.take(never)
    control.abort()
    await expect(leaving).rejects.toThrow('QUERY_WAS_CANCELLED')
    release()
    const last = await staying
    last()
    const again = await slots.take(never)
    again()
  })
})
