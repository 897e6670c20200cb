/** What a source keeps: in the outbox file and in memory alike, by one suite; and what only the file can show. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { SqliteOutbox } from '../../../runtime/log/outbox.ts'
import { passingState, type SourceState } from '../../../runtime/log/source-state.ts'
import { Fault } from '../../../schemas/fault.ts'
import { faultOf } from '../../faults.ts'
import { hourAfterJune1, june1Ms, readOf } from '../../reads.ts'

let dir: string
const opened: SqliteOutbox[] = []
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-state-'))
})
afterEach(() => {
  for (const outbox of opened.splice(0)) outbox[Symbol.dispose]()
  rmSync(dir, { recursive: true, force: true })
})

function open(options: Partial<Parameters<typeof SqliteOutbox.open>[0]> = {}): SqliteOutbox {
  const outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: () => june1Ms, ...options })
  opened.push(outbox)
  return outbox
}
function close(): void {
  for (const outbox of opened.splice(0)) outbox[Symbol.dispose]()
}

const source = 'meterline/kubernetes/a'
const last = '\u{10ffff}'
const all = (state: SourceState) => [...state.range('', last)]

describe.each<[string, () => SourceState]>([
  ['in the file', () => open().state(source)],
  ['in memory', () => passingState()],
])('%s', (_, begin) => {
  test('a key has its last value, and none when it was taken away or never there', () => {
    const state = begin()
    expect(state.get('pod/1')).toBeUndefined()
    state.write([
      ['pod/1', 'a'],
      ['pod/2', ''],
    ])
    state.write([
      ['pod/1', 'b'],
      ['gone', undefined],
    ])
    expect([state.get('pod/1'), state.get('pod/2')]).toEqual(['b', ''])
    state.write([
      ['pod/1', undefined],
      ['pod/2', 'c'],
      ['pod/2', undefined],
      ['pod/2', 'd'],
    ])
    expect(all(state)).toEqual([['pod/2', 'd']])
  })

  test('a range begins with its first key and ends before its last', () => {
    const state = begin()
    state.write(['pod/', 'pod/1', 'pod/10', 'pod/2', 'pod0', 'po'].map(key => [key, key.toUpperCase()]))
    expect([...state.range('pod/', 'pod0')].map(([key]) => key)).toEqual(['pod/', 'pod/1', 'pod/10', 'pod/2'])
    expect([...state.range('pod/1', 'pod/1')]).toEqual([])
    expect([...state.range('z', 'a')]).toEqual([])
  })

  test('keys are in order of their code points, which is not that of UTF-16', () => {
    const state = begin()
    // U+FF5E comes before U+1F600 by code points, and behind its first half as JavaScript compares.
    state.write([
      ['\u{1f600}', 'smile'],
      ['\uff5e', 'tilde'],
      ['é', 'e'],
      ['z', 'z'],
    ])
    expect(all(state).map(([key]) => key)).toEqual(['z', 'é', '\uff5e', '\u{1f600}'])
    expect([...state.range('\uff5e', '\u{1f600}')]).toEqual([['\uff5e', 'tilde']])
  })

  test('a range is as it was when it was begun, whatever is written while it is gone through', () => {
    const state = begin()
    state.write(['a', 'b', 'c'].map(key => [key, key]))
    const seen: string[] = []
    for (const [key] of state.range('', last)) {
      seen.push(key)
      state.write([
        [key, undefined],
        [`${key}later`, ''],
      ])
    }
    expect(seen).toEqual(['a', 'b', 'c'])
    expect(all(state).map(([key]) => key)).toEqual(['alater', 'blater', 'clater'])
  })

  test('of changes that break off none is made', () => {
    const state = begin()
    state.write([['a', '1']])
    function* breaking(): Generator<[string, string | undefined]> {
      yield ['a', undefined]
      yield ['b', '2']
      throw new Fault('BODY_UNREADABLE', 'no more of it')
    }
    expect(faultOf(() => state.write(breaking())).code).toBe('BODY_UNREADABLE')
    expect(all(state)).toEqual([['a', '1']])
    state.write([['c', '3']])
    expect(all(state)).toHaveLength(2)
  })
})

test('both say the same after any changes', () => {
  const text = fc.string({ unit: fc.constantFrom('', 'a', 'b', '/', '~', 'é', '\uffff', '\u{1f600}', "'") })
  const change = fc.tuple(text, fc.option(text, { nil: undefined }))
  const outbox = open()
  let run = 0
  fc.assert(
    fc.property(
      fc.array(fc.array(change, { maxLength: 5 }), { maxLength: 5 }),
      text,
      text,
      (writes, a, b) => {
        const file = outbox.state(`meterline/kubernetes/${run++}`)
        const memory = passingState()
        for (const changes of writes) {
          file.write(changes)
          memory.write(changes)
        }
        expect([...file.range(a, b)]).toEqual([...memory.range(a, b)])
        expect(all(file)).toEqual(all(memory))
        expect(file.get(a)).toBe(memory.get(a))
      },
    ),
    { numRuns: 60 },
  )
})

test('each source has its own, and finds it again when the file is opened anew, beside the reads', () => {
  const outbox = open()
  outbox.state(source).write([['a', '1']])
  outbox.state('meterline/kubernetes/b').write([['a', '2']])
  outbox.append(readOf({ window: hourAfterJune1(0) }))
  close()
  const again = open()
  expect(all(again.state(source))).toEqual([['a', '1']])
  expect(all(again.state('meterline/kubernetes/b'))).toEqual([['a', '2']])
  expect(all(again.state('meterline/kubernetes'))).toEqual([])
  expect(again.depth().rows).toBeGreaterThan(0)
})

test('what write returned from is there after kill -9', async () => {
  const child = spawn(
    process.execPath,
    [
      '--input-type=module',
      '-e',
      `import { SqliteOutbox } from ${JSON.stringify(new URL('../../../runtime/log/outbox.ts', import.meta.url).href)}
       const outbox = SqliteOutbox.open({ dir: process.argv[1], access: 'append', nowMs: Date.now })
       const state = outbox.state(${JSON.stringify(source)})
       for (let at = 0; ; at++) { state.write([['first', String(at)], ['second', String(at)]]); process.stdout.write(at + '\\n') }`,
      dir,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  let said = ''
  for await (const piece of child.stdout) {
    said += String(piece)
    if (said.split('\n').length > 20) break
  }
  const ended = once(child, 'exit')
  child.kill('SIGKILL')
  await ended
  const told = Number(said.trimEnd().split('\n').at(-1))
  const state = open().state(source)
  expect(Number(state.get('first'))).toBeGreaterThanOrEqual(told)
  expect(state.get('second')).toBe(state.get('first'))
})

test('a damaged file begins without it: what was seen is gone, and nobody makes it up', () => {
  const outbox = open()
  outbox.state(source).write(Array.from({ length: 2000 }, (_, at) => [`pod/${at}`, 'x'.repeat(200)]))
  close()
  const file = join(dir, 'outbox.db')
  const bytes = openSync(file, 'r+')
  writeSync(bytes, Buffer.alloc(20_000, 0xa5), 0, 20_000, Math.floor(statSync(file).size / 2))
  closeSync(bytes)
  const fresh = open()
  expect(fresh.damagedFiles).toHaveLength(1)
  const state = fresh.state(source)
  expect(all(state)).toEqual([])
  state.write([['pod/1', 'y']])
  expect(all(state)).toEqual([['pod/1', 'y']])
})

test('where the disk is full nothing of a write is kept, and the fault says so', () => {
  const state = open({ fileBytesMax: 512 * 1024 }).state(source)
  state.write([['a', 'before']])
  const fault = faultOf(() =>
    state.write([
      ['a', undefined],
      ...Array.from({ length: 2000 }, (_, at) => [`pod/${at}`, 'x'.repeat(1000)] as const),
    ]),
  )
  expect(fault.code).toBe('OUTBOX_FULL')
  expect(all(state)).toEqual([['a', 'before']])
  state.write([['a', 'after']])
  expect(state.get('a')).toBe('after')
})

test('only who has the lock keeps anything', () => {
  open()
  const pusher = open({ access: 'push' })
  expect(() => pusher.state(source)).toThrow(/the lock/)
})
