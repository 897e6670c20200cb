/**
 * What was seen of pods while they ran, kept over a restart: the control plane shows the last start of a container alone,
 * and of a pod that has ended nothing that was allocated to it. And which pods were seen, so that none is forgotten.
 */
import { exact, show } from '../../../schemas/decimal.ts'
import { isJsonObject, type Json, type JsonObject, parseExact } from '../../../schemas/json.ts'
import { minuteMs, type Window } from '../../../schemas/window.ts'
import type { SourceContext } from '../../source.ts'
import { runOf } from './intervals.ts'
import { idOf } from './lists.ts'
import type { Remembered } from './pods.ts'
import { allocatedOf, type Held } from './resources.ts'

export interface Seen extends Remembered {
  /** When it was last listed as running, by our clock. */
  readonly runningMs: number
}

/** Clocks of a cluster and ours may be apart by so much. */
const apartMs = minuteMs

/** All pods of the cluster that were ever seen running, by id. */
export function recall(state: SourceContext['state'], clusterId: string): Map<string, Seen> {
  const prefix = prefixOf(clusterId)
  const seen = new Map<string, Seen>()
  for (const [key, text] of state.range(prefix, `${prefix.slice(0, -1)}!`)) {
    const entry = entryOf(text)
    if (entry) seen.set(key.slice(prefix.length), entry)
  }
  return seen
}

/**
 * Takes what these rows add to what is known, and forgets what no window is read of any more.
 * @returns what is known now
 */
export function remember(
  state: SourceContext['state'],
  known: Map<string, Seen>,
  given: {
    readonly clusterId: string
    readonly rows: readonly Json[]
    /** Of a pod of one that has ended it is not known whether it runs, whatever is listed. */
    readonly workloadOf: (row: Json) => JsonObject | undefined
    /** When the rows were asked for. */
    readonly atMs: number
    readonly retentionMs: number
  },
): ReadonlyMap<string, Seen> {
  const { clusterId, rows, workloadOf, atMs, retentionMs } = given
  const changes: [string, string | undefined][] = []
  const prefix = prefixOf(clusterId)
  for (const row of rows) {
    const id = idOf(row)
    const entry =
      id === undefined ? undefined : running(row, { workload: workloadOf(row), before: known.get(id), atMs })
    if (id === undefined || entry === undefined) continue
    known.set(id, entry)
    changes.push([prefix + id, textOf(entry)])
  }
  for (const [id, { runningMs }] of known)
    if (runningMs < atMs - retentionMs) {
      known.delete(id)
      changes.push([prefix + id, undefined])
    }
  if (changes.length > 0) state.write(changes)
  return known
}

/** Those that were seen running in the window, and are in none of these rows. */
export function forgotten(
  known: ReadonlyMap<string, Seen>,
  rows: readonly Json[],
  window: Window,
): ReadonlyMap<string, Seen> {
  const listed = new Set(rows.map(idOf))
  return new Map(
    [...known].filter(
      ([id, { startMs, runningMs }]) =>
        startMs < window.endMs && runningMs > window.startMs + apartMs && !listed.has(id),
    ),
  )
}

/** What a row of a pod that runs adds; undefined where it does not run, or is not to be understood. */
function running(
  row: Json,
  given: {
    readonly workload: JsonObject | undefined
    readonly before: Seen | undefined
    readonly atMs: number
  },
): Seen | undefined {
  const { workload, before, atMs } = given
  if (!isJsonObject(row)) return undefined
  try {
    const run = runOf(row, workload, before?.startMs)
    if (!run || run.endMs !== undefined) return undefined
    const held = allocatedOf(row.allocatedResources)
    const told = Object.keys(held).length > 0 ? held : before?.held
    return {
      startMs: run.startMs,
      runningMs: Math.max(atMs, before?.runningMs ?? 0),
      ...(told && { held: told }),
    }
  } catch {
    // What cannot be understood is told where it becomes a reading.
    return undefined
  }
}

const names = ['gpus', 'cpuCores', 'memoryBytes', 'gpuMemoryBytes'] as const satisfies readonly (keyof Held)[]

function prefixOf(clusterId: string): string {
  return `pod ${clusterId} `
}

function textOf({ startMs, runningMs, held = {} }: Seen): string {
  const shown = Object.fromEntries(names.flatMap(name => (held[name] ? [[name, show(held[name])]] : [])))
  return JSON.stringify({ start: String(startMs), running: String(runningMs), ...shown })
}

function entryOf(text: string): Seen | undefined {
  const entry = parseExact(text)
  if (!isJsonObject(entry)) return undefined
  const [startMs, runningMs] = [Number(entry.start), Number(entry.running)]
  if (!Number.isSafeInteger(startMs) || !Number.isSafeInteger(runningMs)) return undefined
  const held = Object.fromEntries(
    names.flatMap(name => {
      const value = entry[name]
      return typeof value === 'string' ? [[name, exact(value)]] : []
    }),
  ) as Held
  return { startMs, runningMs, ...(Object.keys(held).length > 0 && { held }) }
}
