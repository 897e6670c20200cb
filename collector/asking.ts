/**
 * What the sources have in common when they ask: addresses, whether a window can be known at all, when it is read again,
 * and being stopped. What they ask, and of whom, is theirs.
 */
import { Fault } from '../schemas/fault.ts'
import { dayMs, minuteMs, secondMs, showWindow, type Window } from '../schemas/window.ts'

/** @throws Fault ABORTED */
export function stopIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw new Fault('ABORTED', 'stopped while reading')
}

/**
 * Is the window over, for so long as the provider takes to know it, and not too long ago?
 * @throws Fault WINDOW_UNKNOWABLE
 */
export function checkKnowable(
  scope: string,
  window: Window,
  limits: { readonly nowMs: number; readonly retentionDays: number; readonly lateSeconds?: number },
): void {
  const { nowMs, retentionDays, lateSeconds = 0 } = limits
  const unknowable = (why: string) =>
    new Fault('WINDOW_UNKNOWABLE', `${showWindow(window)} is ${why}`, { scope })
  if (window.endMs > nowMs) throw unknowable('not over yet')
  if (window.endMs + lateSeconds * secondMs > nowMs)
    throw unknowable(`not over for ${lateSeconds} s (lateSeconds)`)
  if (window.startMs < nowMs - retentionDays * dayMs)
    throw unknowable(`more than ${retentionDays} days ago (retentionDays)`)
}

/** As a source says when a window is read again: rising, each once. */
export function rereadsAfter(minutes: readonly number[]): readonly number[] {
  return [...new Set(minutes)].sort((a, b) => a - b).map(each => each * minuteMs)
}

/**
 * The address calls begin with: scheme and host, https where there is no scheme, a path if one is given, no slash at the
 * end.
 * @throws Fault CONFIG_INVALID where it is none: `option: "text" is not the address of what, such as example`
 */
export function baseUrl(
  text: string,
  { option, what, example }: { readonly option: string; readonly what: string; readonly example: string },
): string {
  const whole = /^[a-z][a-z0-9+.-]*:\/\//i.test(text.trim()) ? text.trim() : `https://${text.trim()}`
  const url = URL.canParse(whole) ? new URL(whole) : undefined
  const isAddress =
    url !== undefined &&
    (url.protocol === 'https:' || url.protocol === 'http:') &&
    url.username === '' &&
    url.password === '' &&
    !/[?#\s]/.test(whole)
  // What was written is not shown: a user and a password may stand in it.
  if (!isAddress)
    throw new Fault('CONFIG_INVALID', `${option}: not the address of ${what}, such as ${example}`)
  return url.href.replace(/\/+$/, '')
}
