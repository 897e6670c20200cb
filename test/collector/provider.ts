/** A small provider for the tests of the collector, and the source that reads it: what it holds and how it fails is set by the test. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { OpenedSource } from '../../collector/collect.ts'
import type { Scope, Source } from '../../collector/source.ts'
import type { Usage } from '../../schemas/event.ts'
import { Fault } from '../../schemas/fault.ts'
import { dayMs, type GridMinutes, hourMs, type Window } from '../../schemas/window.ts'

export interface Item {
  readonly id: string
  readonly subject: string
  readonly seconds: string
  readonly labels?: Readonly<Record<string, string>>
  readonly estimated?: boolean
}

export interface Call {
  readonly scope: string
  readonly window: Window
  readonly endedMs?: number
}

export class Provider {
  scopes: Scope[] = [{ scope: 'a' }]
  /** What it answers; the default is one instance for the whole window. */
  items: (scope: string, window: Window) => readonly Item[] = (_, window) => [
    { id: 'i-1', subject: 'org-1', seconds: String((window.endMs - window.startMs) / 1000) },
  ]
  /** Thrown in place of an answer, after the items. */
  failure: (scope: string, window: Window) => unknown = () => undefined
  listingFailure: unknown
  latencyMs = 0
  readonly calls: Call[] = []
  listings = 0
  running = 0
  runningMax = 0

  source(options: Partial<Source<Item>> = {}): Source<Item> {
    const provider = this
    return {
      widthMinutes: 60 as GridMinutes,
      rereadAfterMs: [hourMs, dayMs],
      retentionMs: 30 * dayMs,
      concurrency: 4,
      async scopes(signal) {
        provider.listings += 1
        if (provider.latencyMs > 0) await sleep(provider.latencyMs, undefined, { signal })
        if (provider.listingFailure) throw provider.listingFailure
        return provider.scopes
      },
      async *read(scope, window, signal) {
        provider.calls.push({ scope, window })
        provider.running += 1
        provider.runningMax = Math.max(provider.runningMax, provider.running)
        try {
          if (provider.latencyMs > 0) await sleep(provider.latencyMs, undefined, { signal })
          yield* provider.items(scope, window)
          const failure = provider.failure(scope, window)
          if (failure) throw failure
        } finally {
          provider.running -= 1
        }
      },
      toUsage(item): readonly Usage[] {
        if (!/^\d+$/.test(item.seconds))
          throw new Fault('ITEM_UNREADABLE', `${item.id}: usage "${item.seconds}" is no number`, {
            subject: item.subject === '' ? undefined : item.subject,
          })
        return [
          {
            thing: 'instance',
            subject: item.subject,
            resource: { kind: 'instance', id: item.id },
            measures: { instance_seconds: item.seconds },
            labels: item.labels ?? {},
            ...(item.estimated && { estimated: true }),
          },
        ]
      },
      async [Symbol.asyncDispose]() {},
      ...options,
    }
  }

  opened(options: Partial<Source<Item>> = {}, fromMs?: number): OpenedSource {
    const source = this.source(options) as Source<unknown>
    return { kind: 'test', name: 'one', source, ...(fromMs !== undefined && { fromMs }) }
  }
}
