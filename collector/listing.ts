/** Lists the scopes of a source: takes note of them, and writes the marks of the windows in which it was to list them. */
import type { SqliteOutbox } from '../runtime/log/outbox.ts'
import { type ListedScope, listedScopesMax, listingScope } from '../schemas/event.ts'
import { Fault } from '../schemas/fault.ts'
import { showInstant, type Window, windowAt } from '../schemas/window.ts'
import { askSource, failedRead, listingRead, type OpenedSource, sourceName } from './collect.ts'
import { expectedFromMs, openWindows, type Plan } from './schedule.ts'
import type { Scope } from './source.ts'

const scopeLengthMax = 512
/** Windows whose marks share a transaction. */
const marksMax = 500

/** Listing has the grid of its source; it tells what is there now, so there is nothing to read again. */
export function listingPlan(opened: OpenedSource): Plan {
  const { widthMinutes, retentionMs } = opened.source
  return { widthMinutes, retentionMs, rereadAfterMs: [] }
}

/** Windows that are over and without a listing. */
export function unlistedWindows(
  opened: OpenedSource,
  outbox: SqliteOutbox,
  nowMs: number,
): readonly Window[] {
  const listing = outbox.memory.scope(sourceName(opened), listingScope)
  if (!listing) return []
  const open = openWindows(listing, listingPlan(opened), nowMs, opened.fromMs)
  return [...open].filter(window => window.endMs <= nowMs)
}

export interface ListingOptions {
  readonly opened: OpenedSource
  readonly outbox: SqliteOutbox
  /** All that are over: one listing marks them all, for what it says holds for each. */
  readonly windows: readonly Window[]
  /** Since when scopes are expected whose provider does not say. */
  readonly expectedMs: number
  readonly nowMs: () => number
  readonly signal: AbortSignal
  readonly deadlineMs?: number
}

/**
 * Lists once. A failure leaves a failed mark in the newest of the windows, so that it is on record without a mark
 * for each of them at each try.
 * @throws Fault ABORTED | OUTBOX_FULL | OUTBOX_UNREADABLE
 */
export async function listScopes(
  options: ListingOptions,
): Promise<{ readonly scopes: readonly Scope[]; readonly fault?: never } | { readonly fault: Fault }> {
  const { opened, outbox, windows, signal } = options
  const source = sourceName(opened)
  const startedMs = options.nowMs()
  const readOf = (window: Window) => ({
    source,
    scope: listingScope,
    window,
    readatMs: outbox.memory.nextReadatMs(source, listingScope, window, startedMs),
  })
  // Listing is expected itself, from the first try on.
  outbox.see(source, [{ scope: listingScope }], options.expectedMs)

  const asked = await askSource(asking => wholeList(opened, asking), {
    signal,
    deadlineMs: options.deadlineMs,
    facts: { source, scope: listingScope },
  })
  if (asked.fault) {
    const newest = windows.at(-1)
    if (newest) outbox.append(failedRead(readOf(newest), startedMs, asked.fault))
    return { fault: asked.fault }
  }
  const scopes = asked.answer

  outbox.see(source, scopes, options.expectedMs)
  let unannounced = unannouncedScopes(opened, outbox)
  for (let from = 0; from < windows.length; from += marksMax)
    outbox.append(
      ...windows.slice(from, from + marksMax).map(window => {
        const named = unannounced.slice(0, listedScopesMax)
        unannounced = unannounced.slice(listedScopesMax)
        return listingRead({ identity: readOf(window), startedMs, scopes: named })
      }),
    )
  return { scopes }
}

async function wholeList(opened: OpenedSource, signal: AbortSignal): Promise<readonly Scope[]> {
  const scopes = await opened.source.scopes(signal)
  for (const { scope } of scopes)
    if (scope === '' || scope === listingScope || scope.length > scopeLengthMax)
      throw new Fault('BODY_UNREADABLE', `"${scope.slice(0, 60)}" cannot be a scope`, {
        source: sourceName(opened),
      })
  return scopes
}

function unannouncedScopes(opened: OpenedSource, outbox: SqliteOutbox): readonly ListedScope[] {
  const { widthMinutes } = opened.source
  return outbox.memory.unannounced(sourceName(opened)).map(life => ({
    scope: life.scope,
    since: showInstant(windowAt(expectedFromMs(life, opened.fromMs), widthMinutes).startMs),
    ...(life.endedMs !== undefined && { ended: showInstant(life.endedMs) }),
  }))
}
