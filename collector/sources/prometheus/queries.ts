/** What a query is: which series, how their samples become a measure, and whose and what of they are. Pure. */
import Type, { type Static } from 'typebox'
import { Fault } from '../../../schemas/fault.ts'
import { measureNames } from '../../../schemas/measures.ts'
import { labelOf } from './series.ts'

const from = (description: string) =>
  Type.String({
    minLength: 1,
    maxLength: 512,
    description: `${description} Of \`a|b\` the first present counts.`,
  })

const joins = Type.Array(Type.String({ minLength: 1, maxLength: 512 }), {
  minItems: 1,
  description:
    'The labels in which both are equal: each `name`, or `name=name there`, with `a|b` as elsewhere.',
})

export const QueryConfig = Type.Object(
  {
    name: Type.String({
      pattern: '^[A-Za-z0-9._-]{1,128}$',
      description: 'Its name: its scope in events. Another name is another scope.',
    }),
    thing: Type.String({
      pattern: '^[a-z0-9_-]{1,40}$',
      default: 'series',
      description: 'The last word of its event type: `gpu` gives io.meterline.prometheus.gpu.v1.',
    }),
    kind: Type.Enum(['counter', 'gauge', 'value'], {
      description:
        'counter: how much the samples of `selector` grew. gauge: the samples of `selector`, or `query` at each step, times the time. value: what `query` answers at the end of the window, as it is.',
    }),
    selector: Type.Optional(
      Type.String({
        minLength: 1,
        description:
          'counter, gauge: the series whose samples are read, such as `requests_total{job="api"}`.',
      }),
    ),
    query: Type.Optional(
      Type.String({
        minLength: 1,
        description:
          'gauge, value: an expression. In a value `$window` is the width of the window as a range, `[$window]`.',
      }),
    ),
    stepSeconds: Type.Enum([1, 5, 10, 15, 20, 30, 60], {
      default: 60,
      description: 'gauge by `query`: how often it is evaluated; each answer holds for one step.',
    }),
    measure: Type.Enum(measureNames, { description: 'The measure it becomes.' }),
    factor: Type.String({
      default: '1',
      pattern: '^(0|[1-9][0-9]{0,23})(\\.[0-9]{1,12})?(/[1-9][0-9]{0,23})?$',
      description:
        'What one unit of the samples is in the unit of the measure, or of that a second for a gauge: 1048576 for MiB, 1/100 for percent.',
    }),
    maxGapSeconds: Type.Integer({
      default: 120,
      minimum: 1,
      maximum: 3600,
      description:
        'gauge by `selector`: how long a sample holds where no other follows; of a series that ends, that long is billed after its last sample.',
    }),
    firstSight: Type.Enum(['first', 'zero'], {
      default: 'first',
      description:
        'counter: what the first sample of a new series counts. first: nothing. zero: its whole value, where `startedAt` says that it began since it could have been seen before.',
    }),
    startedAt: Type.Optional(
      Type.Object(
        {
          selector: Type.String({
            minLength: 1,
            description: 'Series whose value is a start in seconds since 1970: `kube_pod_start_time`.',
          }),
          on: joins,
        },
        { additionalProperties: false, description: 'Where `firstSight: zero` learns when a counter began.' },
      ),
    ),
    histogram: Type.Optional(
      Type.Enum(['count', 'sum'], {
        description:
          'counter: of native histograms, what counts. Without it a series of histograms is a fault.',
      }),
    ),
    deviceLabels: Type.Array(from('A label.'), {
      default: [],
      description:
        'Labels that name the device that is measured, where the others only say who uses it: its value is divided among the series of one instant, and its counter goes on from one to the next.',
    }),
    scrapeLabels: Type.Array(from('A label.'), {
      default: [],
      description:
        'gauge: labels that name the target that is scraped, such as job and instance: a series that is missing from a scrape of its target has ended there. Only for targets whose samples have no times of their own, which those of cAdvisor have.',
    }),
    subject: Type.Optional(
      Type.String({ minLength: 1, maxLength: 512, description: 'The tenant of all of it.' }),
    ),
    subjectLabel: Type.Optional(from('The label whose value is the tenant.')),
    withoutSubject: Type.Enum(['fault', 'leave_out', 'unattributed'], {
      default: 'fault',
      description:
        'What a series without a tenant is. fault: a gap of the scope. leave_out: nobody uses it, it counts nothing. unattributed: usage of the subject `unattributed`.',
    }),
    idle: Type.Optional(
      Type.Object(
        {
          label: from('The label that names who uses it.'),
          contains: Type.String({ minLength: 1, description: 'What is in its value when nobody does.' }),
        },
        {
          additionalProperties: false,
          description:
            'A series that looks so has no tenant: where nobody uses a GPU, the labels of a target may name its exporter instead.',
        },
      ),
    ),
    unless: Type.Optional(
      Type.Object(
        {
          selector: Type.String({ minLength: 1, description: 'Series of what is left out.' }),
          on: joins,
        },
        {
          additionalProperties: false,
          description: 'Series that match one of these are left out: pods on the network of their node.',
        },
      ),
    ),
    resourceKind: Type.String({
      minLength: 1,
      maxLength: 64,
      default: 'series',
      description: 'What was used: gpu, pod …',
    }),
    resourceLabels: Type.Array(from('A label.'), {
      minItems: 1,
      description:
        'The labels whose values, joined by `/`, are the id of the resource; those that a series lacks are passed over. Series of one tenant and resource are summed.',
    }),
    resourceName: Type.Optional(from('The label whose value people call it by.')),
    labels: Type.Unsafe<Record<string, string>>({
      type: 'object',
      propertyNames: { pattern: '^[a-z][a-z0-9_]{0,63}$' },
      additionalProperties: { type: 'string', minLength: 1, maxLength: 512 },
      maxProperties: 48,
      default: {},
      description:
        'Labels of the reading and the labels of the series they come from: `node: hostname|Hostname`. One in which summed series differ is left out.',
    }),
  },
  { additionalProperties: false },
)
export type Query = Static<typeof QueryConfig>

/** @throws Fault CONFIG_INVALID where options do not fit together. */
export function checkQuery(query: Query): void {
  const wrong = misfit(query)
  if (wrong !== undefined) throw new Fault('CONFIG_INVALID', `queries, ${query.name}: ${wrong}`)
}

function misfit(query: Query): string | undefined {
  const { kind, selector, query: expression, subject, subjectLabel, firstSight, startedAt } = query
  if ((selector === undefined) === (expression === undefined)) return 'has either selector or query'
  if (kind === 'counter' && selector === undefined)
    return 'a counter takes a selector: its own samples are counted, not what a function makes of them'
  if (kind === 'value' && expression === undefined) return 'a value takes a query'
  if (selector !== undefined && /[[\]()]\s*$/.test(selector))
    return 'selector is a plain selector, without a range or a function'
  if ((subject === undefined) === (subjectLabel === undefined)) return 'has either subject or subjectLabel'
  if ((firstSight === 'zero') !== (startedAt !== undefined))
    return 'firstSight: zero and startedAt go together'
  if (firstSight === 'zero' && query.deviceLabels.length > 0)
    return 'a device goes on counting for whoever uses it: firstSight zero does not fit deviceLabels'
  if (kind !== 'counter' && (firstSight === 'zero' || query.histogram !== undefined))
    return 'firstSight and histogram are of counters'
  if (kind === 'value' && query.deviceLabels.length > 0) return 'deviceLabels are of counters and gauges'
  return undefined
}

/** The tenant of a series; undefined where it has none. */
export function subjectOf(query: Query, metric: Readonly<Record<string, string>>): string | undefined {
  const { subject, subjectLabel = '', idle } = query
  if (idle !== undefined && labelOf(metric, idle.label)?.includes(idle.contains)) return undefined
  return subject ?? labelOf(metric, subjectLabel)
}
