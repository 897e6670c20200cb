/** What the sources have in common: addresses, windows that can be known, and when they are read again. */
import { describe, expect, test } from 'vitest'
import { baseUrl, checkKnowable, rereadsAfter, stopIfAborted } from '../../collector/asking.ts'
import { dayMs, hourMs, minuteMs, type Window } from '../../schemas/window.ts'
import { faultOf } from '../faults.ts'

const like = { option: 'url', what: 'a console', example: 'console.example.com' }

describe('an address', () => {
  test.each([
    ['rafay.acme.com', 'https://rafay.acme.com'],
    ['rafay.acme.com:8443/', 'https://rafay.acme.com:8443'],
    [' http://127.0.0.1:8080/console/ ', 'http://127.0.0.1:8080/console'],
  ])('%s is taken as %s', (text, address) => {
    expect(baseUrl(text, like)).toBe(address)
  })

  test.each([
    '',
    'https://',
    'ftp://rafay.acme.com',
    'https://me:pw@rafay.acme.com',
    'a b',
    'x.com?y=1',
    'x.com#y',
  ])('"%s" is none, and is not repeated: a password may stand in it', text => {
    const fault = faultOf(() => baseUrl(text, like))
    expect(fault.code).toBe('CONFIG_INVALID')
    expect(fault.message).toBe('url: not the address of a console, such as console.example.com')
  })
})

describe('a window', () => {
  const endMs = Date.UTC(2026, 1, 12, 9)
  const window: Window = { startMs: endMs - hourMs, endMs }
  const at = (nowMs: number, lateSeconds?: number) =>
    checkKnowable('s', window, {
      nowMs,
      retentionDays: 2,
      ...(lateSeconds !== undefined && { lateSeconds }),
    })

  test('can be known from its end on, as long as its start is kept', () => {
    at(endMs)
    at(window.startMs + 2 * dayMs)
    at(endMs + 30_000, 30)
  })

  test.each([
    ['before its end', endMs - 1, undefined, 'not over yet'],
    ['before it is known', endMs + 29_999, 30, 'not over for 30 s (lateSeconds)'],
    [
      'when it is forgotten',
      window.startMs + 2 * dayMs + 1,
      undefined,
      'more than 2 days ago (retentionDays)',
    ],
  ])('cannot be known %s', (_, nowMs, lateSeconds, why) => {
    const fault = faultOf(() => at(nowMs, lateSeconds))
    expect(fault.code).toBe('WINDOW_UNKNOWABLE')
    expect(fault.message).toContain(why)
    expect(fault.facts.scope).toBe('s')
  })
})

test('rereads rise, each once', () => {
  expect(rereadsAfter([1440, 60, 60])).toEqual([60 * minuteMs, dayMs])
})

test('who is stopped stops', () => {
  stopIfAborted(new AbortController().signal)
  expect(faultOf(() => stopIfAborted(AbortSignal.abort())).code).toBe('ABORTED')
})
