/** Whether a console answers all that the options need: each thing is asked for once, in the window that ended last. */
import type { Usage } from '../../../schemas/event.ts'
import { asFault, type FaultCode, faults } from '../../../schemas/fault.ts'
import { showWindow, type Window } from '../../../schemas/window.ts'
import type { Findings, Scope } from '../../source.ts'
import type { RafayConfig, RafayItem } from '../rafay.ts'

export interface RafayParts {
  readonly config: RafayConfig
  readonly window: Window
  readonly scopes: (signal: AbortSignal) => Promise<readonly Scope[]>
  readonly read: (scope: string, window: Window, signal: AbortSignal) => Promise<readonly RafayItem[]>
  readonly toUsage: (item: RafayItem) => Usage
  /** External ids by organization; undefined where the options do not ask for them. */
  readonly tenants: ((signal: AbortSignal) => Promise<ReadonlyMap<string, string>>) | undefined
  readonly tokens: ((window: Window, signal: AbortSignal) => Promise<readonly RafayItem[]>) | undefined
}

export async function checkRafay(parts: RafayParts, signal: AbortSignal): Promise<Findings> {
  const { config, window, tenants, tokens } = parts
  const probes =
    config.dialect === 'billing'
      ? config.kinds.map(kind => usageOf(parts, kind, 'apiKey', signal))
      : [consoleUsageOf(parts, signal)]
  if (tenants)
    probes.push(
      found('the ops console', 'partnerApiKey', async () => {
        const { size } = await tenants(signal)
        return { works: [`ops console: external ids: ${size}`], missing: [] }
      }),
    )
  else if (config.dialect === 'billing' && (config.opsUrl ?? config.partnerApiKey) !== undefined)
    probes.push(
      Promise.resolve({
        works: [],
        missing: [
          { what: 'the label organization_external_id', remedy: 'give both opsUrl and partnerApiKey' },
        ],
      }),
    )
  if (tokens)
    probes.push(
      found('token usage', 'tokenUsage.apiKey', async () =>
        countedOf('token usage', await tokens(window, signal), parts),
      ),
    )
  const all = await Promise.all(probes)
  return { works: all.flatMap(({ works }) => works), missing: all.flatMap(({ missing }) => missing) }
}

/** The scopes of a console, and the usage of the first of them. */
async function consoleUsageOf(parts: RafayParts, signal: AbortSignal): Promise<Findings> {
  const key = parts.config.partnerApiKey === undefined ? 'apiKey' : 'apiKey and partnerApiKey'
  let first: string | undefined
  const listed = await found('organizations and profiles', key, async () => {
    const scopes = (await parts.scopes(signal)).map(({ scope }) => scope)
    first = scopes.at(0)
    const organizations = new Set(scopes.map(scope => scope.slice(0, scope.indexOf('/'))))
    if (first === undefined)
      return {
        works: [],
        missing: [
          {
            what: 'no profile of any organization is listed',
            remedy: 'give apiKey the key of an admin of the default organization',
          },
        ],
      }
    return { works: [`organizations: ${organizations.size}, profiles: ${scopes.length}`], missing: [] }
  })
  if (first === undefined) return listed
  const used = await usageOf(parts, first, 'apiKey', signal)
  return { works: [...listed.works, ...used.works], missing: [...listed.missing, ...used.missing] }
}

function usageOf(parts: RafayParts, scope: string, key: string, signal: AbortSignal): Promise<Findings> {
  return found(`usage of ${scope}`, key, async () =>
    countedOf(scope, await parts.read(scope, parts.window, signal), parts),
  )
}

function countedOf(
  scope: string,
  items: readonly RafayItem[],
  { window, toUsage }: Pick<RafayParts, 'window' | 'toUsage'>,
): Findings {
  const subjects = new Set<string>()
  let gpus = 0
  const bad: string[] = []
  for (const item of items)
    try {
      const { subject, measures } = toUsage(item)
      subjects.add(subject)
      if (measures.gpu_seconds !== undefined) gpus += 1
    } catch (error) {
      bad.push(asFault(error, 'ITEM_UNREADABLE').message)
    }
  const counts =
    items.length === 0
      ? `answers, nothing used in ${showWindow(window)}`
      : `items: ${items.length}, organizations: ${subjects.size}${gpus > 0 ? `, with GPUs: ${gpus}` : ''}`
  return {
    works: [`${scope}: ${counts}`],
    missing:
      bad.length === 0
        ? []
        : [
            {
              what: `${bad.length} of ${items.length} items of ${scope} cannot be read, such as ${bad[0]}`,
              remedy: 'mend them at the console; until then each is a gap',
            },
          ],
  }
}

/** What was asked for, or why it is missing, and which option mends that. */
async function found(what: string, key: string, ask: () => Promise<Findings>): Promise<Findings> {
  try {
    return await ask()
  } catch (error) {
    const fault = asFault(error, 'BODY_UNREADABLE')
    const unreached = 'check the address, DNS, the proxy and NODE_EXTRA_CA_CERTS'
    const remedies: Partial<Record<FaultCode, string>> = {
      // What the others found by then is worth telling.
      ABORTED: unreached,
      SOURCE_DENIED: `give ${key} a key that may read this`,
      SOURCE_MISSING: 'check the address and dialect: this console does not know the call',
      SOURCE_UNREACHABLE: unreached,
    }
    return {
      works: [],
      missing: [
        { what: `${what} (${fault.message})`, remedy: remedies[fault.code] ?? faults[fault.code].remedy },
      ],
    }
  }
}
