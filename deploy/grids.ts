/** Holds the widths that the config gives its sources against the hours that the outbox of the data directory has read. */
import type { OpenedSource } from '../collector/collect.ts'
import { sourceName } from '../collector/collect.ts'
import { readMemory } from '../runtime/log/outbox.ts'
import { Fault } from '../schemas/fault.ts'
import { showInstant } from '../schemas/window.ts'

export interface GridFindings {
  /** GRID_OVERLAP: an hour that is not over was begun in another width. */
  readonly faults: readonly Fault[]
  /** What happens to hours that were read in another width, a line a source. */
  readonly notes: readonly string[]
}

/**
 * A new width begins at an hour of which nothing was read. Hours that were, are finished and read again in their own
 * width, so only one that is still running is a conflict. What other collectors have read, the ledger alone knows.
 * @throws Fault OUTBOX_DAMAGED | OUTBOX_UNREADABLE
 */
export function gridFindings(
  sources: readonly OpenedSource[],
  { data, nowMs }: { readonly data: string; readonly nowMs: number },
): GridFindings {
  using held = readMemory(data)
  if (!held) return { faults: [], notes: [] }
  const faults: Fault[] = []
  const notes: string[] = []
  for (const opened of sources) {
    const other = lastOfOtherWidth(held.memory.scopes(sourceName(opened)), opened)
    if (!other) continue
    const source = sourceName(opened)
    const { widthMinutes } = opened.source
    const facts = { source, scope: other.scope, widthMinutes, heldMinutes: other.widthMinutes }
    const said = `${source} ${other.scope}: hours up to ${showInstant(other.endMs)} were read in windows of ${other.widthMinutes} minutes`
    if (other.endMs > nowMs)
      faults.push(
        new Fault('GRID_OVERLAP', `${said}: begin the width of ${widthMinutes} minutes after that`, facts),
      )
    else notes.push(`${said} and are read again so; those after them in windows of ${widthMinutes}`)
  }
  return { faults, notes }
}

/** Of all scopes of a source, the latest span that was read in another width than the config's. */
function lastOfOtherWidth(
  scopes: ReturnType<NonNullable<ReturnType<typeof readMemory>>['memory']['scopes']>,
  { source }: OpenedSource,
) {
  return scopes
    .flatMap(({ scope, grids }) => grids.map(grid => ({ scope, ...grid })))
    .filter(grid => grid.widthMinutes !== source.widthMinutes)
    .reduce<{ scope: string; endMs: number; widthMinutes: number } | undefined>(
      (last, grid) => (last && last.endMs >= grid.endMs ? last : grid),
      undefined,
    )
}
