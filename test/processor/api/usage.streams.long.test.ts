/** An answer of hundreds of thousands of rows, in memory that does not grow with it, however slowly it is read. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { hourMs, showInstant } from '../../../schemas/window.ts'
import { hourCount, span, startMs } from './usage-planted.ts'
import type { Told } from './usage-process.ts'

const subjectCount = 1000
const mib = 2 ** 20
/** Long enough for all of the answer to be made, were nobody to hold it back. */
const stalledMs = 6_000

test('an answer of 600,000 rows goes out whole, in memory that does not grow with it', async () => {
  await using server = await serving()
  await read(server, { to: showInstant(startMs + (hourCount / 3) * hourMs) })
  const third = await server.tell()
  let stalled: Told | undefined
  const whole = await read(server, {}, async bytes => {
    if (stalled || bytes < 20 * mib) return
    await sleep(stalledMs)
    stalled = await server.tell()
  })
  expect(whole.end).toBe('\n]\n')
  expect(whole.rows).toBe(subjectCount * hourCount)
  expect(whole.bytes).toBeGreaterThan(100 * mib)
  // Some pieces of every stage between the store and the socket: the rest is not yet made.
  expect(stalled!.heldBytes - third.heldBytes).toBeLessThan(16 * mib)
  expect((await server.tell()).rssPeakBytes - third.rssPeakBytes).toBeLessThan(40 * mib)
})

interface Serving extends AsyncDisposable {
  readonly url: string
  tell(): Promise<Told>
}

async function serving(): Promise<Serving> {
  const child = fork(new URL('./usage-process.ts', import.meta.url), [String(subjectCount)], {
    // Collected soon, so that what is held is seen; and an answer that is held as a whole ends it.
    execArgv: ['--expose-gc', '--max-semi-space-size=2', '--max-old-space-size=80'],
  })
  const ended = once(child, 'exit')
  const told = async () => {
    const [said] = await Promise.race([
      once(child, 'message') as Promise<[Told]>,
      ended.then(([code]) => Promise.reject(new Error(`the server ended with ${code}`))),
    ])
    return said
  }
  const { url } = await told()
  const tell = async () => {
    const said = told()
    child.send('tell')
    return await said
  }
  const leave = async () => {
    if (child.connected) child.disconnect()
    await ended
  }
  return { url, tell, [Symbol.asyncDispose]: leave }
}

async function read(
  { url }: Serving,
  query: Readonly<Record<string, string>>,
  each: (bytes: number) => Promise<void> = async () => {},
): Promise<{ readonly bytes: number; readonly rows: number; readonly end: string }> {
  const asked = new URLSearchParams({ meter: 'seconds', ...span, window: 'HOUR', ...query })
  const answer = await fetch(`${url}/api/v1/usage?${asked}`)
  let bytes = 0
  let rows = 0
  let end = ''
  for await (const chunk of answer.body ?? []) {
    bytes += chunk.byteLength
    // A row begins with a brace on a line of its own.
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, at + 1)) rows += 1
    end = (end + Buffer.from(chunk.subarray(-3)).toString('latin1')).slice(-3)
    await each(bytes)
  }
  // The line of the closing bracket, and the end of it.
  return { bytes, rows: rows - 2, end }
}
