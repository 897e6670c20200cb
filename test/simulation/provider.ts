/**
 * A provider that is written before the simulation begins: what it will finally say of each window, what it says before
 * that (less, more, of other tenants, estimated, nothing), and when it does not answer or answers what is not so.
 */
import type { OpenedSource } from '../../collector/collect.ts'
import type { Scope, Source } from '../../collector/source.ts'
import type { Usage } from '../../schemas/event.ts'
import { Fault } from '../../schemas/fault.ts'
import {
  type GridMinutes,
  hourMs,
  minuteMs,
  showWindow,
  type Window,
  windowsOver,
} from '../../schemas/window.ts'
import type { Chance } from './chance.ts'

/** What one instance used, in thousandths of a second. */
export interface Piece {
  readonly instance: string
  readonly tenant: string
  readonly millis: number
  readonly gpus: number
  readonly estimated: boolean
  /** It cannot be read: a gap of its tenant. */
  readonly broken: boolean
}

export interface Script {
  readonly scopes: number
  readonly tenants: number
  readonly span: Window
  readonly widthMinutes: GridMinutes
  /** So long after its end a window's figures are final. */
  readonly finalAfterMs: number
  readonly rereadAfterMs: readonly number[]
  /** Does it answer what is not so now and then, or only late? */
  readonly lies: boolean
}

interface Version {
  readonly fromMs: number
  readonly untilMs: number
  readonly pieces: readonly Piece[]
}

interface Outage {
  readonly scope: string | undefined
  readonly fromMs: number
  readonly untilMs: number
  readonly how: 'busy' | 'midway' | 'hangs'
}

export class Provider {
  readonly script: Script
  readonly scopes: readonly Scope[]
  /** Windows that it never answers for. */
  readonly dark = new Set<string>()
  readonly #versions = new Map<string, readonly Version[]>()
  readonly #outages: readonly Outage[]
  /** All is well from now on: the end of the simulation. */
  calm = false

  constructor(script: Script, chance: Chance) {
    this.script = script
    const { span } = script
    this.scopes = Array.from({ length: script.scopes }, (_, index) => ({
      scope: `org-${index}/h100`,
      // The last one is made in the middle of the span.
      sinceMs:
        index > 0 && index === script.scopes - 1
          ? span.startMs + chance.whole(1, (span.endMs - span.startMs) / hourMs - 2) * hourMs
          : span.startMs,
    }))
    for (const { scope, sinceMs } of this.scopes)
      for (const window of windowsOver(span, script.widthMinutes)) {
        if (window.startMs < (sinceMs ?? 0)) continue
        if (chance.is(0.02)) this.dark.add(windowKey(scope, window))
        this.#versions.set(windowKey(scope, window), this.#write(scope, window, chance))
      }
    this.#outages = Array.from({ length: chance.whole(0, 3) }, () => {
      const fromMs = span.startMs + chance.whole(0, (span.endMs - span.startMs) / minuteMs) * minuteMs
      return {
        scope: chance.is(0.5) ? undefined : chance.one(this.scopes).scope,
        fromMs,
        untilMs: fromMs + chance.whole(10, 200) * minuteMs,
        how: chance.one(['busy', 'midway', 'hangs'] as const),
      }
    })
  }

  /** What it says in the end of a window. */
  final(scope: string, window: Window): readonly Piece[] {
    return this.#versions.get(windowKey(scope, window))?.at(-1)?.pieces ?? []
  }

  windows(): readonly { readonly scope: string; readonly window: Window }[] {
    return this.scopes.flatMap(({ scope, sinceMs }) =>
      windowsOver(this.script.span, this.script.widthMinutes)
        .filter(window => window.startMs >= (sinceMs ?? 0))
        .map(window => ({ scope, window })),
    )
  }

  /** What it says now. */
  #says(scope: string, window: Window, nowMs: number): readonly Piece[] {
    const versions = this.#versions.get(windowKey(scope, window)) ?? []
    return versions.findLast(({ fromMs, untilMs }) => fromMs <= nowMs && nowMs < untilMs)?.pieces ?? []
  }

  #outage(scope: string | undefined, nowMs: number): Outage | undefined {
    if (this.calm) return undefined
    return this.#outages.find(
      outage =>
        outage.fromMs <= nowMs &&
        nowMs < outage.untilMs &&
        (outage.scope === undefined || outage.scope === scope),
    )
  }

  #write(scope: string, window: Window, chance: Chance): readonly Version[] {
    const { tenants, finalAfterMs, lies } = this.script
    const widthMs = window.endMs - window.startMs
    const final: Piece[] = []
    for (let index = 0; index < 4; index += 1)
      if (chance.is(0.7))
        final.push({
          instance: `${scope}/i-${index}`,
          tenant: `tenant-${(index + chance.whole(0, 1)) % tenants}`,
          millis: chance.is(0.3) ? widthMs : chance.whole(1, widthMs),
          gpus: chance.whole(1, 8),
          estimated: false,
          broken: chance.is(0.01),
        })
    const last = { fromMs: window.endMs + finalAfterMs, untilMs: Number.POSITIVE_INFINITY, pieces: final }
    if (chance.is(0.3)) return [{ ...last, fromMs: Number.NEGATIVE_INFINITY }]
    const halfMs = window.endMs + finalAfterMs / 2
    const versions: Version[] = [
      {
        fromMs: Number.NEGATIVE_INFINITY,
        untilMs: last.fromMs,
        pieces: earlier(final, widthMs, this.script, chance),
      },
    ]
    if (chance.is(0.5))
      versions.push({
        fromMs: halfMs,
        untilMs: last.fromMs,
        pieces: earlier(final, widthMs, this.script, chance),
      })
    if (lies && chance.is(0.6)) {
      const fromMs = window.endMs + chance.whole(1, finalAfterMs / minuteMs) * minuteMs
      const pieces = chance.is(0.3) ? [] : final.filter(() => chance.is(0.5))
      versions.push({ fromMs, untilMs: Math.min(fromMs + 2 * hourMs, last.fromMs), pieces })
    }
    return [...versions, last]
  }

  /** The source as a collector has it; each step of an answer waits for `turn`. */
  opened(nowMs: () => number, turn: (what: string) => Promise<unknown>): OpenedSource {
    const provider = this
    const { script } = this
    const fail = async (outage: Outage, signal: AbortSignal): Promise<never> => {
      if (outage.how === 'hangs' && !signal.aborted)
        await new Promise<void>(resolve => signal.addEventListener('abort', () => resolve()))
      throw new Fault('SOURCE_BUSY', 'out of order')
    }
    const source: Source<Piece> = {
      widthMinutes: script.widthMinutes,
      rereadAfterMs: script.rereadAfterMs,
      retentionMs: 30 * 24 * hourMs,
      concurrency: 4,
      async scopes(signal) {
        await turn('list')
        const outage = provider.#outage(undefined, nowMs())
        if (outage) await fail(outage, signal)
        return provider.scopes.filter(({ sinceMs }) => (sinceMs ?? 0) <= nowMs())
      },
      async *read(scope, window, signal) {
        await turn(`read ${scope} ${showWindow(window)}`)
        if (provider.dark.has(windowKey(scope, window)))
          throw new Fault('WINDOW_UNKNOWABLE', 'nobody knows any more')
        const outage = provider.#outage(scope, nowMs())
        if (outage && outage.how !== 'midway') await fail(outage, signal)
        const [first, ...others] = provider.#says(scope, window, nowMs())
        if (first) yield first
        if (outage) await fail(outage, signal)
        if (others.length > 0) await turn(`read on ${scope} ${showWindow(window)}`)
        yield* others
      },
      toUsage: usagesOf,
      async [Symbol.asyncDispose]() {},
    }
    return { kind: 'rafay', name: 'sim', source: source as Source<unknown>, fromMs: script.span.startMs }
  }
}

export const sourceOfProvider = 'meterline/rafay/sim'

export function windowKey(scope: string, window: Window): string {
  return `${scope} ${showWindow(window)}`
}

/** What it may have said before: a piece that is not there yet, smaller, larger, of another tenant, estimated, or one too many. */
function earlier(final: readonly Piece[], widthMs: number, script: Script, chance: Chance): readonly Piece[] {
  const { tenants, lies } = script
  const pieces = final
    .filter(() => chance.is(0.8))
    .map(piece => {
      const change = chance.whole(0, 5)
      if (change === 0) return { ...piece, millis: chance.whole(1, piece.millis) }
      if (change === 1) return { ...piece, tenant: `tenant-${chance.whole(0, tenants - 1)}` }
      if (change === 2) return { ...piece, estimated: true }
      // More than in the end: what is right later then looks like too little.
      if (change === 3 && lies) return { ...piece, millis: widthMs }
      return piece
    })
  if (chance.is(0.2))
    pieces.push({
      instance: `gone-${chance.whole(0, 9)}`,
      tenant: `tenant-${chance.whole(0, tenants - 1)}`,
      millis: chance.whole(1, 60_000),
      gpus: 1,
      estimated: false,
      broken: false,
    })
  return pieces
}

function usagesOf(piece: Piece): readonly Usage[] {
  if (piece.broken)
    throw new Fault('ITEM_UNREADABLE', `${piece.instance} has no size`, { subject: piece.tenant })
  return [
    {
      thing: 'instance',
      subject: piece.tenant,
      resource: { kind: 'instance', id: piece.instance },
      measures: {
        instance_seconds: secondsOf(piece.millis),
        gpu_seconds: secondsOf(piece.millis * piece.gpus),
      },
      labels: { profile: 'h100', gpu_type: 'H100', status: 'running' },
      ...(piece.estimated && { estimated: true }),
    },
  ]
}

function secondsOf(millis: number): string {
  const fraction = String(millis % 1000)
    .padStart(3, '0')
    .replace(/0+$/, '')
  return `${Math.floor(millis / 1000)}${fraction === '' ? '' : `.${fraction}`}`
}
