/**
 * What the answers must be, worked out again in the simplest way: from the messages in the order in which the ledger took
 * them. It knows nothing of tables, rollups or positions.
 */
import { contentHash, type MarkEvent, markType, type ReadingEvent } from '../../schemas/event.ts'
import { hourMs } from '../../schemas/window.ts'

/** Milliseconds by `hour subject instance`. */
export type Totals = ReadonlyMap<string, bigint>

interface OracleRead {
  readonly mark: MarkEvent
  readonly readings: readonly ReadingEvent[]
  readonly atMs: number
  readonly contentAt: string
}

/** The read that counts of each window, by source, scope and start. */
export function currentReads(messages: readonly unknown[]): ReadonlyMap<string, OracleRead> {
  const readings = new Map<string, Map<string, ReadingEvent>>()
  const marks = new Map<string, Map<string, MarkEvent>>()
  for (const message of messages) {
    const event = message as ReadingEvent | MarkEvent
    const window = windowOf(event)
    if (event.type === markType) {
      const ofWindow = marks.get(window) ?? new Map<string, MarkEvent>()
      if (!ofWindow.has(event.readat)) ofWindow.set(event.readat, event as MarkEvent)
      marks.set(window, ofWindow)
    } else {
      const read = `${window} ${event.readat}`
      const ofRead = readings.get(read) ?? new Map<string, ReadingEvent>()
      if (!ofRead.has(event.id)) ofRead.set(event.id, event as ReadingEvent)
      readings.set(read, ofRead)
    }
  }
  const current = new Map<string, OracleRead>()
  for (const [window, ofWindow] of marks) {
    const believed: OracleRead[] = []
    const suspects: OracleRead[] = []
    for (const mark of ofWindow.values()) {
      const contentAt = mark.data.repeats ?? mark.readat
      const content = readings.get(`${window} ${contentAt}`)
      const read = {
        mark,
        contentAt,
        atMs: Date.parse(mark.readat),
        readings: [...(content?.values() ?? [])],
      }
      if (mark.data.outcome !== 'complete' || !isWhole(read)) continue
      if (isDoubted(read, believed.filter(isPeerOf(read)), suspects.filter(isPeerOf(read))))
        suspects.push(read)
      else believed.push(read)
    }
    const exact = believed.filter(({ mark }) => !mark.data.estimated)
    const counts = newest(exact.length > 0 ? exact : believed)
    if (counts) current.set(window, counts)
  }
  return current
}

/** It takes more than a tenth of some measure away, or all of it, and no doubted read of an hour before says the same. */
function isDoubted(
  read: OracleRead,
  believed: readonly OracleRead[],
  suspects: readonly OracleRead[],
): boolean {
  const before = newest(believed)
  if (!before || before.atMs >= read.atMs || before.contentAt === read.contentAt) return false
  const witnesses = suspects.filter(({ atMs }) => atMs > before.atMs && atMs + hourMs <= read.atMs)
  return takesAway(before, read) && !witnesses.some(witness => !takesAway(witness, read))
}

function takesAway(before: OracleRead, after: OracleRead): boolean {
  return (['instance_seconds', 'gpu_seconds'] as const).some(measure => {
    const [was, is] = [sumOf(before, measure), sumOf(after, measure)]
    return was > 0n && (is === 0n || is * 10n < was * 9n)
  })
}

function sumOf({ readings }: OracleRead, measure: 'instance_seconds' | 'gpu_seconds'): bigint {
  return readings.reduce((sum, { data }) => sum + millisOf(data.measures[measure] ?? '0'), 0n)
}

function newest(reads: readonly OracleRead[]): OracleRead | undefined {
  return reads.toSorted((a, b) => a.atMs - b.atMs).at(-1)
}

function isPeerOf(read: OracleRead): (other: OracleRead) => boolean {
  return other => other.mark.data.estimated === read.mark.data.estimated
}

export function totalsOf(reads: Iterable<OracleRead>, measure: 'instance_seconds' | 'gpu_seconds'): Totals {
  const totals = new Map<string, bigint>()
  for (const { readings } of reads)
    for (const { subject, data } of readings)
      add(
        totals,
        Date.parse(data.window.start),
        subject,
        data.resource.id,
        millisOf(data.measures[measure] ?? '0'),
      )
  return totals
}

export function add(
  totals: Map<string, bigint>,
  startMs: number,
  subject: string,
  instance: string,
  millis: bigint,
): void {
  const hour = new Date(Math.floor(startMs / hourMs) * hourMs).toISOString()
  const key = `${hour} ${subject} ${instance}`
  totals.set(key, (totals.get(key) ?? 0n) + millis)
}

function isWhole({ mark, readings }: Pick<OracleRead, 'mark' | 'readings'>): boolean {
  const sum = readings.reduce((total, reading) => BigInt.asUintN(64, total + contentHash(reading)), 0n)
  return readings.length === mark.data.events && sum === BigInt(`0x${mark.data.digest}`)
}

export function windowOf({ source, scope, time }: { source: string; scope: string; time: string }): string {
  return `${source} ${scope} ${time}`
}

function millisOf(seconds: string): bigint {
  const [whole = '0', fraction = ''] = seconds.split('.')
  return BigInt(whole) * 1000n + BigInt(fraction.padEnd(3, '0'))
}
