/**
 * Token usage of models, from the ops API, which both dialects may have beside them: one scope, a reading for each
 * organization and model.
 */
import type Fraction from 'fraction.js'
import type { Usage } from '../../../schemas/event.ts'
import { isJsonArray, isJsonObject, type Json, type JsonObject } from '../../../schemas/json.ts'
import type { MeasureName } from '../../../schemas/measures.ts'
import { secondMs, type Window } from '../../../schemas/window.ts'
import { readPages } from '../../paging.ts'
import type { SourceContext } from '../../source.ts'
import type { RafayConfig } from '../rafay.ts'
import { askJson, consoleUrl, pageOf } from './calls.ts'
import { quantityAt, showAll, textOf, unreadable, type Where } from './rows.ts'

export const tokensScope = 'tokens'

/** The rows of one model of one organization. Where one of the two is not told it is a single row. */
export interface TokensItem {
  readonly of: 'tokens'
  readonly subject?: string
  readonly model?: string
  readonly rows: readonly Json[]
}

/**
 * Names under which token usage may tell each thing: Rafay publishes the call, not its answer (Token Usage
 * collection), so the usual names are taken and a row without them is a gap, never a zero.
 */
const tokenFields = {
  organization: ['organization_id', 'organizationId', 'org_id', 'orgId'],
  organizationName: ['organization_name', 'organizationName', 'org_name', 'orgName', 'organization'],
  model: ['model_id', 'modelId', 'model', 'model_name', 'modelName'],
  modelName: ['model_name', 'modelName', 'model', 'model_id', 'modelId'],
  input: ['input_tokens', 'inputTokens', 'prompt_tokens', 'promptTokens'],
  output: ['output_tokens', 'outputTokens', 'completion_tokens', 'completionTokens'],
  total: ['total_tokens', 'totalTokens', 'tokens'],
} as const

export function openTokens(config: RafayConfig, context: SourceContext) {
  const { tokenUsage, opsUrl } = config
  const base = consoleUrl(tokenUsage?.url ?? opsUrl ?? config.url, 'tokenUsage.url')
  return async (window: Window, signal: AbortSignal): Promise<readonly TokensItem[]> => {
    const about = 'token usage'
    const facts = { scope: tokensScope }
    const rows = await readPages({
      about,
      facts,
      pageSize: config.pageSize,
      ask: async ({ offset, limit }) => {
        const body = await askJson(context.http, {
          base,
          path: '/api.gaap.k8smgmt.io/v1alpha1/model/usage/aggregated',
          // Its sister call counts pages, from 0: both ways are said, and mean the same.
          query: { limit, offset, page: Math.floor(offset / limit) },
          headers: {
            'content-type': 'application/json',
            'X-RAFAY': context.secret(tokenUsage?.apiKey ?? ''),
          },
          body: JSON.stringify({ start: window.startMs / secondMs, end: window.endMs / secondMs }),
          endpoint: 'rafay.token_usage',
          about,
          facts,
          signal,
        })
        return pageOf(body, onlyArrayOf(body) ?? 'items', about, facts)
      },
    })
    const items: TokensItem[] = []
    const byModel = new Map<string, { subject: string; model: string; rows: Json[] }>()
    for (const row of rows) {
      const subject = textAt(row, tokenFields.organization)
      const model = textAt(row, tokenFields.model)
      if (subject === undefined || model === undefined) {
        items.push({ of: 'tokens', rows: [row], ...(subject !== undefined && { subject }) })
        continue
      }
      const key = JSON.stringify([subject, model])
      const same = byModel.get(key) ?? { subject, model, rows: [] }
      same.rows.push(row)
      byModel.set(key, same)
    }
    for (const same of byModel.values()) items.push({ of: 'tokens', ...same })
    return items
  }
}

export function tokensUsage(item: TokensItem): Usage {
  const { subject, model, rows } = item
  const where: Where = {
    ...textOf('subject', subject),
    ...textOf('organization', textAt(rows[0] ?? null, tokenFields.organizationName)),
  }
  if (subject === undefined) throw unreadable(where, `/${tokenFields.organization[0]}`, 'is missing')
  if (model === undefined) throw unreadable(where, `/${tokenFields.model[0]}`, 'is missing')
  const sums = new Map<MeasureName, Fraction>()
  const add = (measure: MeasureName, value: Fraction) =>
    sums.set(measure, sums.get(measure)?.add(value) ?? value)
  for (const row of rows) {
    if (!isJsonObject(row)) throw unreadable(where, '/', 'is not an object')
    const present = (fields: readonly string[]) => fields.find(field => row[field] !== undefined)
    const quantity = (field: string | undefined) =>
      field === undefined ? undefined : quantityAt(row, field, { ...where, instance: model })
    const input = quantity(present(tokenFields.input))
    const output = quantity(present(tokenFields.output))
    const total = quantity(present(tokenFields.total)) ?? (input && output && input.add(output))
    if (!total) throw unreadable({ ...where, instance: model }, `/${tokenFields.total[0]}`, 'is missing')
    add('tokens', total)
    if (input) add('input_tokens', input)
    if (output) add('output_tokens', output)
  }
  return {
    thing: tokensScope,
    subject,
    resource: { kind: 'model', id: model },
    measures: showAll(sums, where),
    labels: {
      organization: where.organization ?? subject,
      model: textAt(rows[0] ?? null, tokenFields.modelName) ?? model,
    },
    ...(rows.length > 1 && { parts: rows.length }),
  }
}

/** The key of the one list in the body, if there is just one. */
function onlyArrayOf(body: JsonObject): string | undefined {
  const keys = Object.keys(body).filter(key => isJsonArray(body[key]))
  return keys.length === 1 ? keys[0] : undefined
}

function textAt(row: Json, fields: readonly string[]): string | undefined {
  if (!isJsonObject(row)) return undefined
  for (const field of fields) {
    const value = row[field]
    if (typeof value === 'string' && value !== '') return value
  }
  return undefined
}
