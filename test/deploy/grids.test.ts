/** `check` holds a source's width against the hours that the outbox of the data directory has read. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { check } from '../../deploy/check.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { dayMs, hourMs, minuteMs } from '../../schemas/window.ts'
import { june1Ms, readOf, testSource } from '../reads.ts'

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-grids-'))
})
afterEach(() => rmSync(dir, { recursive: true }))

/** What `check` says of a source with windows of 60 minutes, at a time after 1 June. */
async function checked(afterMs: number, name = 'test') {
  const config = join(dir, 'meterline.yaml')
  const source = { kind: 'rafay', name, dialect: 'console', url: 'http://127.0.0.1:1', apiKey: '${env:KEY}' }
  writeFileSync(config, stringify({ data: 'data', sources: [source] }))
  const said: string[] = []
  const code = await check({
    config,
    offline: true,
    env: { KEY: 'key' },
    signal: new AbortController().signal,
    stdout: () => undefined,
    stderr: line => void said.push(line),
    nowMs: () => june1Ms + afterMs,
  })
  return { code, said: said.join('\n') }
}

/** An outbox that has read the first quarter of an hour of 1 June. */
function remember(hour: number): void {
  using outbox = SqliteOutbox.open({ dir: join(dir, 'data'), access: 'append', nowMs: () => june1Ms })
  const startMs = june1Ms + hour * hourMs
  outbox.see(testSource, [{ scope: 'org/profile' }], june1Ms)
  outbox.append(readOf({ window: { startMs, endMs: startMs + 15 * minuteMs } }))
}

test('an hour that was begun in another width and is not over is refused, and said when it may begin', async () => {
  remember(7)
  expect(await checked(7.5 * hourMs)).toEqual({
    code: 1,
    said: expect.stringMatching(
      /^GRID_OVERLAP .* up to 2025-06-01T08:00:00Z were read in windows of 15 minutes: begin the width of 60/,
    ),
  })
  // Nobody is in the way of a collector that runs meanwhile.
  using _running = SqliteOutbox.open({ dir: join(dir, 'data'), access: 'append', nowMs: () => june1Ms })
  expect((await checked(7.5 * hourMs)).code).toBe(1)
})

test('hours of another width that are over are named and no problem, nor is another source, nor no outbox', async () => {
  expect(await checked(0)).toEqual({ code: 0, said: '' })
  remember(7)
  expect(await checked(8 * hourMs)).toEqual({
    code: 0,
    said: expect.stringContaining('those after them in windows of 60'),
  })
  expect(await checked(7.5 * hourMs, 'other')).toEqual({ code: 0, said: '' })
})

test('a damaged outbox is a problem', async () => {
  remember(7)
  writeFileSync(join(dir, 'data', 'outbox.db'), 'x'.repeat(10_000))
  await expect(checked(dayMs)).rejects.toMatchObject({ code: 'OUTBOX_DAMAGED' })
})
