/** A source that watches the double, both by one clock that stands still until a test moves it. */
import { setTimeout as sleepFor } from 'node:timers/promises'
import { expect } from 'vitest'
import type { SourceContext } from '../../../../collector/source.ts'
import { KubernetesConfig, openKubernetes } from '../../../../collector/sources/kubernetes.ts'
import {
  clusterOf,
  type KubernetesDoubleOptions,
  startKubernetesDouble,
} from '../../../../deploy/demo/kubernetes.ts'
import { openHttp } from '../../../../runtime/http.ts'
import { passingState } from '../../../../runtime/log/source-state.ts'
import { misfits } from '../../../../schemas/check.ts'
import type { Usage } from '../../../../schemas/event.ts'
import { secondMs, type Window } from '../../../../schemas/window.ts'
import { sourceContext } from '../../source-context.ts'

export const testToken = 'token-of-the-service-account-4711'
const tokenRef = '${env:TOKEN}'
export const live = new AbortController().signal

export function configOf(config: object): KubernetesConfig {
  const whole = { name: 'test', token: tokenRef, ...structuredClone(config) }
  expect(misfits(KubernetesConfig, whole)).toEqual([])
  return whole as KubernetesConfig
}

/** Waits where a source would wait for half a second or more are of no use here. */
const pace = { backoffFirstMs: 2, backoffMostMs: 20, random: () => 0.5, absentMs: 5 }

export interface WatchedOptions {
  readonly config?: object
  readonly startMs: number
  readonly double?: Partial<KubernetesDoubleOptions>
  readonly deadlineMs?: number
  readonly state?: SourceContext['state']
}

export type Watched = Awaited<ReturnType<typeof openWatched>>

export async function openWatched(options: WatchedOptions) {
  let clockMs = options.startMs
  const nowMs = () => clockMs
  const double = await startKubernetesDouble({ nowMs, token: testToken, ...options.double })
  const cluster = clusterOf(double, nowMs)
  let state = options.state ?? passingState()
  const config = configOf({ url: double.url, ...options.config })
  const http = openHttp({ retries: 0 })
  const open = () =>
    openKubernetes(
      config,
      sourceContext({
        http,
        state,
        nowMs,
        secret: reference => (reference === tokenRef ? testToken : ''),
        client: given =>
          openHttp({ retries: 1, deadlineMs: options.deadlineMs ?? 5000, random: () => 0, ...given }),
      }),
      pace,
    )
  let source = open()
  let stopping = new AbortController()
  let watching: Promise<void> | undefined

  const watched = {
    double,
    cluster,
    config,
    nowMs,
    get state() {
      return state
    },
    get source() {
      return source
    },
    /** Moves the clock, in seconds. */
    pass(seconds: number): void {
      clockMs += seconds * secondMs
    },
    set(ms: number): void {
      clockMs = ms
    },
    watch(): void {
      stopping = new AbortController()
      watching = source.watch?.(stopping.signal)
      watching?.catch(() => {})
    },
    /** The collector ends; `again` begins with what it had kept. */
    async stop(): Promise<void> {
      stopping.abort()
      await watching
      await source[Symbol.asyncDispose]()
      // Else the next would seem to be watching before it is.
      await expect
        .poll(() => followed().filter(resource => double.watching(resource) > 0), { interval: 1 })
        .toEqual([])
    },
    again(): void {
      source = open()
      watched.watch()
    },
    /** Until all that happened was seen: every watch is open and has come to the version of the double. */
    async settled(): Promise<void> {
      const deadlineMs = performance.now() + 8000
      while (performance.now() < deadlineMs) {
        // A list has come to the version before its watch is open; what is told to watches alone shows that they are.
        if (followed().some(resource => double.watching(resource) === 0)) {
          await sleepFor(1)
          continue
        }
        double.bookmark()
        // A watch that was not open did not hear it: then there is another one.
        for (let waits = 0; waits < 15; waits++) {
          if (followed().every(isUpToDate) && absent().every(isSeen)) return
          await sleepFor(1)
        }
      }
      throw new Error(`nothing came to version ${double.version()}: ${source.problem?.()}`)
    },
    /** As `again`, on a disk that has nothing. */
    afresh(): void {
      state = passingState()
      watched.again()
    },
    async usages(scope: string, window: Window): Promise<Usage[]> {
      const usages: Usage[] = []
      for await (const item of source.read(scope, window, live)) usages.push(...source.toUsage(item, window))
      return usages
    },
    async [Symbol.asyncDispose]() {
      await watched.stop()
      await http[Symbol.asyncDispose]()
      await double.close()
    },
  }
  return watched

  function followed(): string[] {
    const of = {
      pods: ['nodes', 'namespaces', 'pods'],
      volumes: ['namespaces', 'persistentvolumes', 'persistentvolumeclaims'],
      services: ['namespaces', 'services'],
      network: ['nodes', 'namespaces', 'pods'],
    }
    const claims = options.double?.claims && config.dynamicResources !== 'off'
    return [
      ...new Set(config.parts.flatMap(part => of[part])),
      ...(claims && config.parts.includes('pods') ? ['resourceclaims', 'resourceslices'] : []),
    ]
  }

  /** Looked for again and again, and not there. */
  function absent(): string[] {
    const looks = config.parts.includes('pods') && config.dynamicResources === 'auto'
    return looks && !options.double?.claims ? ['resourceclaims', 'resourceslices'] : []
  }

  function isUpToDate(resource: string): boolean {
    return Number(positionOf(resource).resourceVersion) >= double.version() && isSeen(resource)
  }

  function isSeen(resource: string): boolean {
    return (positionOf(resource).observedMs ?? 0) >= clockMs
  }

  function positionOf(resource: string) {
    return JSON.parse(state.get(`at/${resource}`) ?? '{}') as {
      readonly resourceVersion?: string
      readonly observedMs?: number
    }
  }
}
