/**
 * What the ledger knows of a collector's scopes and its outbox may not: that a person ended one, where the outbox is a fresh
 * one or an older copy, or the decision was made elsewhere. Only here do both sides meet.
 */
import type { Store } from '../processor/store.ts'
import type { SqliteOutbox } from '../runtime/log/outbox.ts'
import type { Logger } from '../runtime/logs.ts'
import { rest } from '../runtime/rest.ts'
import { asFault } from '../schemas/fault.ts'
import { minuteMs, secondMs, showInstant } from '../schemas/window.ts'

export interface RecallParts {
  readonly outbox: SqliteOutbox
  readonly store: Store
  /** As they stand in events. */
  readonly sources: readonly string[]
}

export interface EndedScope {
  readonly source: string
  readonly scope: string
  readonly fromMs: number
}

/**
 * Ends in the outbox each scope that was ended by hand in the ledger: the latest decision on it counts. Returns those that
 * the outbox did not have so.
 * @throws Fault of the store or the outbox
 */
export async function recallEnds({ outbox, store, sources }: RecallParts): Promise<readonly EndedScope[]> {
  const rows = await store.rows<{ source: string; scope: string; from_s: number }>(
    `select source, scope, toUnixTimestamp(argMax(start, tuple(decided, offset))) as from_s
     from decisions final where action = 'end' and source in ({sources:Array(String)})
     group by source, scope order by source, scope`,
    { sources },
  )
  const ended = rows
    .map(({ source, scope, from_s }) => ({ source, scope, fromMs: Number(from_s) * 1000 }))
    .filter(({ source, scope, fromMs }) => outbox.memory.scope(source, scope)?.endedByHandMs !== fromMs)
  for (const { source, scope, fromMs } of ended) outbox.end(source, scope, fromMs)
  return ended
}

/** Sources of which the ledger has reads and the outbox knows no scope: it is not the one that stored those. */
export async function forgottenSources({ outbox, store, sources }: RecallParts): Promise<readonly string[]> {
  const blank = sources.filter(source => outbox.memory.scopes(source).length === 0)
  if (blank.length === 0) return []
  const rows = await store.rows<{ source: string }>(
    'select distinct source from reads where source in ({blank:Array(String)}) order by source',
    { blank },
  )
  return rows.map(({ source }) => source)
}

export interface RecallingOptions {
  readonly outbox: SqliteOutbox
  readonly sources: readonly string[]
  /** The ledger, opened for one question. */
  readonly open: () => Promise<{ readonly store: Store; readonly close: () => PromiseLike<void> }>
  readonly log: Logger
  readonly signal: AbortSignal
}

/** A collector that cannot ask the ledger goes on after so long: usage is to be recorded all the same. */
const firstWithinMs = 10 * secondMs

/** Asks the ledger before anything is read, and from then on each minute: resolves after the first time, answered or not. */
export async function startRecalling(options: RecallingOptions): Promise<() => Promise<void>> {
  const { outbox, sources, open, log, signal } = options
  let unanswered: string | undefined

  async function ask(when: 'first' | 'again'): Promise<void> {
    try {
      const { store, close } = await open()
      try {
        const parts = { outbox, store, sources }
        if (when === 'first')
          for (const source of await forgottenSources(parts))
            log.warn(
              { source, outbox: outbox.id },
              'this outbox knows nothing of a source that the ledger has reads of: it was lost, or is another one; every window is read anew',
            )
        for (const { source, scope, fromMs } of await recallEnds(parts))
          log.warn(
            { source, scope, from: showInstant(fromMs) },
            'a scope was ended by hand: it is not asked for',
          )
      } finally {
        await close()
      }
      unanswered = undefined
    } catch (error) {
      if (signal.aborted) return
      const fault = asFault(error, 'STORE_UNREACHABLE')
      if (fault.fate === 'halt' && fault.code.startsWith('OUTBOX_')) throw fault
      if (unanswered !== fault.message)
        log.warn({ fault }, 'the ledger cannot be asked which scopes were ended: what is known here counts')
      unanswered = fault.message
    }
  }

  const first = ask('first')
  // Whoever runs the rest is told; this copy must not count as a failure nobody looked at.
  first.catch(() => undefined)
  await Promise.race([first, rest(firstWithinMs, signal)])
  return async () => {
    await first
    while (!signal.aborted) {
      await rest(minuteMs, signal)
      if (!signal.aborted) await ask('again')
    }
  }
}
