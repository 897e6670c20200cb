/**
 * The port of a source: what happened in this window of this scope? One file a source, under sources/; a large one keeps
 * its parts in a folder of its name beside that file.
 */
import type { Static, TSchema } from 'typebox'
import type { Http, HttpOptions } from '../runtime/http.ts'
import type { SourceState } from '../runtime/log/source-state.ts'
import type { Usage } from '../schemas/event.ts'
import type { GridMinutes, Window } from '../schemas/window.ts'

/** What opening a source gives it: everything from outside comes in here. */
export interface SourceContext {
  readonly http: Http
  /** A client with certificates or bounds of its own, closed with the source. */
  readonly client: (options: ClientOptions) => Http
  /** What it keeps over a restart of the collector. */
  readonly state: SourceState
  /** Reads `${env:NAME}` or `${file:path}` anew at each call, so a rotated secret counts at once. */
  readonly secret: (reference: string) => string
  readonly nowMs: () => number
}

export type ClientOptions = Pick<
  HttpOptions,
  'tls' | 'concurrency' | 'deadlineMs' | 'retries' | 'responseBytesMax'
>

/** What a source found when it was asked whether it can work as configured: each entry a few words of one line. */
export interface Findings {
  /** What is there: `pods of 3 namespaces`, `DCGM_FI_DEV_GPU_UTIL: 8 series`. */
  readonly works: readonly string[]
  /** What is not, a permission, a metric or a flag for instance, and what to do about it. */
  readonly missing: readonly { readonly what: string; readonly remedy: string }[]
}

export interface Scope {
  readonly scope: string
  /** Since when its provider has it, where that is known: windows before are not expected. */
  readonly sinceMs?: number
  /** When its provider ended it, where it says so: windows after are not expected. Not to be listed ends nothing. */
  readonly endedMs?: number
}

/**
 * An opened source. It knows its provider and nothing of CloudEvents, the outbox or Kafka.
 * - `scopes` lists the parts that one answer covers; it throws rather than list less than there is.
 * - `read` yields every item of the whole answer for the window, or throws a Fault: what it cannot know it throws,
 *   it never answers empty. It honours the signal.
 * - `toUsage` is pure; a bad item throws a Fault ITEM_UNREADABLE whose facts hold `subject` where it can be read.
 */
export interface Source<Item> extends AsyncDisposable {
  readonly widthMinutes: GridMinutes
  /** How long after its end a window is first read, where 15 seconds are too soon for what its provider writes late. */
  readonly settleDelayMs?: number
  /** When to read a window again, counted from its end, rising: figures settle late. The last one settles it. */
  readonly rereadAfterMs: readonly number[]
  /** How far back the provider still answers. */
  readonly retentionMs: number
  /** How many scopes may be read at once. */
  readonly concurrency: number
  scopes(signal: AbortSignal): Promise<readonly Scope[]>
  read(scope: string, window: Window, signal: AbortSignal): AsyncIterable<Item>
  toUsage(item: Item, window: Window): readonly Usage[]
  /**
   * Looks on as long as the collector runs, where the provider forgets what has been: what it sees goes into `state`, and
   * `read` answers from there. Tries again by itself whatever the provider does; resolves at the signal.
   * @throws a Fault with fate `halt` alone
   */
  watch?(signal: AbortSignal): Promise<void>
  /** Why what it watches is not seen at present, for health; undefined while it is. */
  problem?(): string | undefined
  /**
   * For `meterline check`: asks the provider for all that the options need. Without it, the scopes are listed. At the
   * signal it throws, or says what it found until then.
   */
  check?(signal: AbortSignal): Promise<Findings>
}

export interface SourceKind<Config extends TSchema = TSchema, Item = unknown> {
  readonly kind: string
  readonly summary: string
  readonly config: Config
  open(config: Static<Config>, context: SourceContext): Source<Item>
}

/** Keeps the types of one source file together; the list of sources forgets them again. */
export function defineSource<Config extends TSchema, Item>(
  source: SourceKind<Config, Item>,
): SourceKind<Config, Item> {
  return source
}
