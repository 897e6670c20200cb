/**
 * The life of what is billed by time: from when to when it held what, as far as it was seen, and which of that is a guess.
 * Grows by what is seen, and says what a window holds of it; docs/decisions/0015 has the rules. Pure.
 */
import Fraction from 'fraction.js'
import { exact, show, showQuantity } from '../../../schemas/decimal.ts'
import type { Usage } from '../../../schemas/event.ts'
import { Fault } from '../../../schemas/fault.ts'
import type { MeasureName } from '../../../schemas/measures.ts'
import { overlaps, secondMs, type Window } from '../../../schemas/window.ts'
import { amountIn } from './integral.ts'
import type { Texts } from './objects.ts'

/** What a second of it counts, each an exact number as text. */
export type Rates = Readonly<Partial<Record<MeasureName, string>>>

/** It held this from here on, until the next piece or its end. */
export interface Piece {
  readonly fromMs: number
  readonly rates: Rates
  /** GPUs of claims that others may hold too, as if it held them alone. */
  readonly shared?: readonly SharedGpus[]
  /** Why it cannot be known what it held. */
  readonly fault?: string
}

export interface SharedGpus {
  /** Its uid. */
  readonly claim: string
  /** An exact number as text. */
  readonly gpus: string
}

/** All of it is JSON, as it is kept. */
export interface Life {
  /** pod, volume_claim, volume, load_balancer */
  readonly kind: string
  readonly uid: string
  readonly name: string
  readonly namespace: string
  /** Whose it is; absent until its namespace is known. */
  readonly subject?: string
  readonly labels: Texts
  readonly startMs: number
  readonly endMs?: number
  /** In order, the first at the start; never empty. */
  readonly pieces: readonly Piece[]
  /** Spans in which an edge lies that nobody saw: readings of windows that touch one are estimates. */
  readonly guessed: readonly Window[]
}

/** What an object says of itself now. */
export interface Says {
  readonly kind: string
  readonly name: string
  readonly namespace: string
  readonly subject?: string
  readonly labels: Texts
  /** Since when it holds; absent while it does not yet. */
  readonly startMs?: number
  /** Where the start is a guess: the span in which it lies. */
  readonly startGuessed?: Window
  /** It has ended by itself, though the object stays. */
  readonly endMs?: number
  readonly rates: Rates
  readonly shared?: readonly SharedGpus[]
  readonly fault?: string
}

/** How something was seen. */
export interface Sight {
  /** By our clock, cut to the second as all times of the API are. */
  readonly atMs: number
  /** When the object was last changed, by the clock of the API server: the latest time of its managedFields. */
  readonly changedMs?: number
  /**
   * `live`: as it happened. `replayed`: each change in its order, but later. `listed`: the state after any number of
   * changes.
   */
  readonly how: 'live' | 'replayed' | 'listed'
  /** Until when everything had been seen before this, where it was not seen live. */
  readonly sureMs: number
}

/** When a change happened that was seen, and the span in which it may have, where that is a guess. */
export function changeAt({ atMs, changedMs, how, sureMs }: Sight): {
  readonly ms: number
  readonly guessed?: Window
} {
  const ms = changedMs ?? (how === 'live' ? atMs : sureMs)
  if (how === 'live' || (how === 'replayed' && changedMs !== undefined)) return { ms }
  const startMs = Math.min(sureMs, ms)
  return { ms: Math.max(ms, startMs), guessed: { startMs, endMs: Math.max(atMs, ms) + 1 } }
}

/** The life after an object was seen; undefined while it has not begun. */
export function advance(life: Life | undefined, uid: string, says: Says, sight: Sight): Life | undefined {
  const isKnowable = says.fault === undefined && says.startMs !== undefined
  // What could not be known, and now can be, was so all the time.
  if (!life || (isKnowable && life.pieces.every(piece => piece.fault !== undefined)))
    return begun(life, uid, says)
  // Whose it is and what it is called stay as first known; what was not known is filled in when it is.
  const subject = life.subject ?? says.subject
  const grown: Life = {
    ...life,
    labels: { ...says.labels, ...life.labels },
    ...(subject !== undefined && { subject }),
  }
  if (says.endMs === undefined) return { ...grown, ...changed(grown, says, sight) }
  const endMs = Math.max(says.endMs, life.startMs)
  // What it held when it ended is what it held before, unless something may have come in between that nobody saw.
  return {
    ...grown,
    ...(sight.how === 'listed' && life.endMs === undefined && changed(grown, says, sight)),
    endMs,
  }
}

function begun(before: Life | undefined, uid: string, says: Says): Life | undefined {
  const { kind, name, namespace, labels, startMs, startGuessed, endMs } = says
  if (startMs === undefined) return undefined
  const subject = before?.subject ?? says.subject
  return {
    kind,
    uid,
    name,
    namespace,
    labels: { ...labels, ...before?.labels },
    startMs,
    pieces: [{ fromMs: startMs, ...heldOf(says) }],
    guessed: startGuessed ? [startGuessed] : [],
    ...(subject !== undefined && { subject }),
    ...(endMs !== undefined && { endMs: Math.max(endMs, startMs) }),
  }
}

type Held = Omit<Piece, 'fromMs'>

function heldOf({ rates, shared, fault }: Says): Held {
  return { rates, ...(shared && shared.length > 0 && { shared }), ...(fault !== undefined && { fault }) }
}

function changed(life: Life, says: Says, sight: Sight): Partial<Life> {
  const last = life.pieces.at(-1)!
  const held = heldOf(says)
  if (sameHeld(last, held)) return {}
  if (last.fault !== undefined && says.fault === undefined)
    return { pieces: [...life.pieces.slice(0, -1), { fromMs: last.fromMs, ...held }] }
  const { ms, guessed } = changeAt(sight)
  const fromMs = Math.max(ms, last.fromMs)
  const before = fromMs === last.fromMs ? life.pieces.slice(0, -1) : life.pieces
  return {
    pieces: [...before, { fromMs, ...held }],
    ...(guessed && { guessed: [...life.guessed, guessed] }),
  }
}

function sameHeld(a: Held, b: Held): boolean {
  const names = Object.keys({ ...a.rates, ...b.rates }) as MeasureName[]
  const shared = ({ shared = [] }: Held) => shared.map(({ claim, gpus }) => `${claim} ${gpus}`).join()
  return (
    a.fault === b.fault && names.every(name => a.rates[name] === b.rates[name]) && shared(a) === shared(b)
  )
}

/** The life of which the end is known, or guessed to lie in a span. */
export function ended(life: Life, end: { readonly ms: number; readonly guessed?: Window }): Life {
  const endMs = Math.max(end.ms, life.startMs)
  return { ...life, endMs, ...(end.guessed && { guessed: [...life.guessed, end.guessed] }) }
}

/** Without the pieces that ended before this: nobody asks for them any more. */
export function forgotten(life: Life, beforeMs: number): Life {
  const first = life.pieces.findLastIndex(piece => piece.fromMs <= beforeMs)
  const guessed = life.guessed.filter(span => span.endMs > beforeMs)
  if (first <= 0 && guessed.length === life.guessed.length) return life
  return { ...life, pieces: life.pieces.slice(Math.max(first, 0)), guessed }
}

/** Does it hold something at some time of the window? */
export function isIn(life: Life, window: Window): boolean {
  return life.startMs < window.endMs && (life.endMs ?? Number.POSITIVE_INFINITY) > window.startMs
}

/** When it alone, or it among others, held a claim: from claims.ts. */
export type SharesOf = (
  claim: string,
) => readonly (Window & { readonly uid: string; readonly share: Fraction })[]

/**
 * What of it lies in the window.
 * @param sharesOf who held which claim, in all of the window
 * @throws Fault ITEM_UNREADABLE where it cannot be known what it held there
 */
export function usageOf(
  life: Life,
  thing: string,
  window: Window,
  sharesOf: SharesOf = () => [],
): Usage | undefined {
  const { kind, uid, name, subject = life.namespace } = life
  const sums = new Map<MeasureName, Fraction>()
  const add = (measure: MeasureName, rate: Fraction, span: Window) =>
    sums.set(measure, (sums.get(measure) ?? new Fraction(0)).add(amountIn(rate, span, window)))
  let used: Window | undefined
  for (const { span, piece } of spansOf(life)) {
    const inside = within(span, window)
    if (!inside) continue
    if (piece.fault !== undefined)
      throw new Fault('ITEM_UNREADABLE', piece.fault, { subject, [kind]: name, uid })
    const rates = Object.entries(piece.rates) as [MeasureName, string][]
    if (rates.length === 0) continue
    used = { startMs: used?.startMs ?? inside.startMs, endMs: inside.endMs }
    for (const [measure, rate] of rates) add(measure, exact(rate), span)
    for (const { claim, gpus } of piece.shared ?? [])
      for (const held of sharesOf(claim)) {
        const part = held.uid === uid ? within(held, span) : undefined
        if (part) add('gpu_seconds', exact(gpus).mul(held.share), part)
      }
  }
  if (!used) return undefined
  return {
    thing,
    subject,
    resource: { kind, id: uid, name },
    measures: Object.fromEntries([...sums].map(([measure, sum]) => [measure, showQuantity(sum)])),
    labels: life.labels,
    interval: used,
    ...(life.guessed.some(span => overlaps(span, window)) && { estimated: true }),
  }
}

/** Its pieces with the span of each; one that goes on ends at Infinity. */
export function spansOf(life: Life): readonly { readonly piece: Piece; readonly span: Window }[] {
  const endMs = life.endMs ?? Number.POSITIVE_INFINITY
  return life.pieces.map((piece, index) => ({
    piece,
    span: { startMs: piece.fromMs, endMs: Math.min(life.pieces[index + 1]?.fromMs ?? endMs, endMs) },
  }))
}

function within(a: Window, b: Window): Window | undefined {
  const span = { startMs: Math.max(a.startMs, b.startMs), endMs: Math.min(a.endMs, b.endMs) }
  return span.startMs < span.endMs ? span : undefined
}

/**
 * When something ended that is gone, where it does not say so itself.
 * @param askedMs when it was asked to go
 */
export function goneAt(
  askedMs: number | undefined,
  { atMs, how, sureMs }: Sight,
): { readonly ms: number; readonly guessed?: Window } {
  if (how === 'live') return { ms: Math.max(atMs, askedMs ?? atMs) }
  const ms = Math.max(sureMs, Math.min(askedMs ?? sureMs, atMs))
  return { ms, guessed: { startMs: sureMs, endMs: Math.max(atMs, ms) + 1 } }
}

/** Its deletionTimestamp lies ahead by the grace while it terminates. */
export function askedToGoMs(object: {
  readonly deletionMs?: number
  readonly deletionGraceSeconds?: number
}): number | undefined {
  return object.deletionMs === undefined
    ? undefined
    : object.deletionMs - (object.deletionGraceSeconds ?? 0) * secondMs
}

/** A rate as it is kept. */
export const rateText = (rate: Fraction): string => show(rate)

/** The sentence of a fault about one object, to be kept with it; anything else goes on. */
export function asFaultText(error: unknown): string {
  if (error instanceof Fault && error.fate === 'reject') return error.message
  throw error
}
