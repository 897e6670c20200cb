/**
 * Rafay: the time of its compute and service instances, and the tokens of its models. Owns its options, and which of
 * its parts answers; the parts are beside this in rafay/: two dialects, billing.ts and console.ts, and tokens.ts, on
 * calls.ts and rows.ts; and check.ts, which tries them.
 */
import Type, { type Static } from 'typebox'
import { Secret } from '../../schemas/config.ts'
import type { Usage } from '../../schemas/event.ts'
import { measureNames } from '../../schemas/measures.ts'
import { dayMs, minuteMs, type Window, windowAt } from '../../schemas/window.ts'
import { checkKnowable, rereadsAfter, stopIfAborted } from '../asking.ts'
import { defineSource, type Scope, type Source, type SourceContext } from '../source.ts'
import { type InstanceItem, instanceUsage, openBilling, openTenants } from './rafay/billing.ts'
import { checkRafay } from './rafay/check.ts'
import { type ConsoleItem, consoleUsage, openConsole } from './rafay/console.ts'
import { parameterDefaults } from './rafay/rows.ts'
import { openTokens, type TokensItem, tokensScope, tokensUsage } from './rafay/tokens.ts'

const names = (description: string, defaults: readonly string[]) =>
  Type.Array(Type.String({ minLength: 1 }), { default: [...defaults], description })

/** A mapped parameter gives any measure but the two that the rows give themselves. */
const mappable = measureNames.filter(name => name !== 'instance_seconds' && name !== 'gpu_seconds')

export const RafayConfig = Type.Object(
  {
    kind: Type.Optional(Type.Literal('rafay')),
    name: Type.String({
      pattern: '^[A-Za-z0-9._-]{1,128}$',
      description: 'Its name in events: meterline/rafay/<name>.',
    }),
    dialect: Type.Enum(['billing', 'console'], {
      default: 'billing',
      description:
        'billing: the published API, all organizations in one answer. console: the one of ncp_metrics.py, an answer for each organization and profile.',
    }),
    url: Type.String({ minLength: 1, description: 'Address of the console; without a scheme it is https.' }),
    apiKey: Secret("Key of the default organization's admin, sent as x-api-key."),
    opsUrl: Type.Optional(Type.String({ minLength: 1, description: 'Address of the ops console.' })),
    partnerApiKey: Type.Optional(
      Secret(
        'Key of the ops console. billing: with opsUrl, adds the label organization_external_id. console: used to list the organizations.',
      ),
    ),
    kinds: Type.Array(Type.Enum(['compute', 'service']), {
      default: ['compute', 'service'],
      minItems: 1,
      uniqueItems: true,
      description: 'billing: the kinds of instances to read, each a scope.',
    }),
    windowMinutes: Type.Optional(
      Type.Enum([15, 30, 60], {
        description:
          'Width of the windows: 15 by default, 60 in the console dialect. Rafay tells hours to six decimals, which hold none of the narrower widths exactly.',
      }),
    ),
    rereadAfterMinutes: Type.Array(Type.Integer({ minimum: 1, maximum: 100_000 }), {
      default: [60, 1440],
      minItems: 1,
      description: 'When a window is read again, counted from its end: figures settle up to an hour late.',
    }),
    retentionDays: Type.Integer({
      default: 3650,
      minimum: 1,
      description: 'How far back the console still answers: windows before are faulted, not taken for empty.',
    }),
    pageSize: Type.Integer({
      default: 400,
      minimum: 1,
      maximum: 10_000,
      description: 'Rows to ask for in a page; Rafay gives 10 to who does not ask.',
    }),
    concurrency: Type.Integer({
      default: 4,
      minimum: 1,
      maximum: 64,
      description: 'How many scopes are read at once: Rafay takes seconds for an answer.',
    }),
    gpuTypeParameters: names(
      'Parameters that name the GPU type, the first one present counts.',
      parameterDefaults.gpuTypeParameters,
    ),
    gpuCountParameters: names(
      'Parameters that give the number of GPUs, the first one present counts.',
      parameterDefaults.gpuCountParameters,
    ),
    gpuCountDefault: Type.String({
      default: parameterDefaults.gpuCountDefault,
      pattern: '^(0|[1-9][0-9]{0,5})(\\.[0-9]{1,6})?$',
      description: 'GPUs of an instance that names a GPU type but no number.',
    }),
    customerParameter: Type.Optional(
      Type.String({ minLength: 1, description: 'A parameter whose text becomes the label `customer`.' }),
    ),
    measures: Type.Array(
      Type.Object(
        {
          parameter: Type.String({ minLength: 1, description: 'Name of the parameter.' }),
          measure: Type.Enum(mappable, { description: 'The measure it becomes.' }),
          perUnit: Type.String({
            default: '1',
            pattern: '^(0|[1-9][0-9]{0,23})(\\.[0-9]{1,12})?$',
            description: 'What one unit of it is in the unit of the measure: 1000000000 for GB.',
          }),
        },
        { additionalProperties: false },
      ),
      {
        default: [],
        description:
          'Parameters to take as measures, by their hours times 3600: a quantity as it is, a label as its number times the hours.',
      },
    ),
    tokenUsage: Type.Optional(
      Type.Object(
        {
          enabled: Type.Boolean({ default: true, description: 'Read token usage, as the scope `tokens`.' }),
          url: Type.Optional(
            Type.String({ minLength: 1, description: 'Address of the ops console, if not opsUrl.' }),
          ),
          apiKey: Secret('Key of the ops console, sent as X-RAFAY.'),
        },
        { additionalProperties: false, description: 'Token usage of the ops API.' },
      ),
    ),
  },
  { additionalProperties: false },
)
export type RafayConfig = Static<typeof RafayConfig>

/** One row of the billing API, or the rows of one name in one profile of a console, or those of one model. */
export type RafayItem = InstanceItem | ConsoleItem | TokensItem

/** A dialect as opened: what it asks for the time of instances. What its items say is a pure function beside it. */
export interface Dialect<Item> {
  scopes(signal: AbortSignal): Promise<readonly Scope[]>
  read(scope: string, window: Window, signal: AbortSignal): Promise<readonly Item[]>
}

export const rafay = defineSource({
  kind: 'rafay',
  summary: 'Time of Rafay instances by organization, profile and GPU type, and tokens of its models.',
  config: RafayConfig,
  open(config: RafayConfig, context: SourceContext): Source<RafayItem> {
    const widthMinutes = config.windowMinutes ?? (config.dialect === 'billing' ? 15 : 60)
    const retentionMs = config.retentionDays * dayMs
    const dialect: Dialect<RafayItem> =
      config.dialect === 'billing' ? openBilling(config, context) : openConsole(config, context)
    const tokens = config.tokenUsage?.enabled ? openTokens(config, context) : undefined
    return {
      widthMinutes,
      rereadAfterMs: rereadsAfter(config.rereadAfterMinutes),
      retentionMs,
      concurrency: config.concurrency,
      async scopes(signal) {
        const scopes = await dialect.scopes(signal)
        return tokens ? [...scopes, { scope: tokensScope }] : scopes
      },
      async *read(scope, window, signal) {
        checkKnowable(scope, window, { nowMs: context.nowMs(), retentionDays: config.retentionDays })
        const items =
          scope === tokensScope && tokens
            ? await tokens(window, signal)
            : await dialect.read(scope, window, signal)
        for (const item of items) {
          stopIfAborted(signal)
          yield item
        }
      },
      toUsage: item => [usageOf(item, config)],
      async check(signal) {
        // What they add to a row is asked for apart, so that a key that is refused there hides nothing here.
        const { partnerApiKey: _, ...own } = config
        const plain = config.dialect === 'billing' ? openBilling(own, context) : dialect
        return await checkRafay(
          {
            config,
            window: windowAt(context.nowMs() - widthMinutes * minuteMs, widthMinutes),
            scopes: plain.scopes,
            read: plain.read,
            toUsage: item => usageOf(item, config),
            tenants: config.dialect === 'billing' ? openTenants(config, context) : undefined,
            tokens,
          },
          signal,
        )
      },
      async [Symbol.asyncDispose]() {},
    }
  },
})

function usageOf(item: RafayItem, config: RafayConfig): Usage {
  if (item.of === 'instance') return instanceUsage(item, config)
  return item.of === 'console' ? consoleUsage(item, config) : tokensUsage(item)
}
