/** The catalogue: what a meter is, and the meters that come with Meterline. Pure. */

import { hash } from 'node:crypto'
import Type, { type Static, type TSchema } from 'typebox'
import { canonicalJson } from './canonical.ts'
import type { Misfit } from './check.ts'

export const aggregations = [
  'SUM',
  'COUNT',
  'UNIQUE_COUNT',
  'AVG',
  'MIN',
  'MAX',
  'LATEST',
  'PERCENTILE',
] as const

const Path = Type.String({
  minLength: 1,
  maxLength: 256,
  description:
    'A measure or label by its name, or a JSONPath into the event data such as $.resource.id; `subject`, `scope` and `source` are the attributes.',
})

const Text = Type.String({ maxLength: 1024 })
const Texts = Type.Array(Text, { minItems: 1, maxItems: 100 })
const operators = {
  $eq: Type.Optional(Text),
  $ne: Type.Optional(Text),
  $in: Type.Optional(Texts),
  $nin: Type.Optional(Texts),
  $like: Type.Optional(Text),
  $nlike: Type.Optional(Text),
  $ilike: Type.Optional(Text),
  $nilike: Type.Optional(Text),
  $gt: Type.Optional(Text),
  $gte: Type.Optional(Text),
  $lt: Type.Optional(Text),
  $lte: Type.Optional(Text),
}
const closed = { additionalProperties: false, minProperties: 1 }
const both = <Part extends TSchema>(part: Part) => {
  const parts = Type.Array(part, { minItems: 1, maxItems: 20 })
  return Type.Object({ ...operators, $and: Type.Optional(parts), $or: Type.Optional(parts) }, closed)
}

/** A filter over a text: all that it says must hold. Texts are compared as texts, `$and` and `$or` go two deep. */
export const FilterString = both(both(Type.Object(operators, closed)))
export interface FilterString extends Partial<Record<TextOperator, string>> {
  readonly $in?: readonly string[]
  readonly $nin?: readonly string[]
  readonly $and?: readonly FilterString[]
  readonly $or?: readonly FilterString[]
}
type TextOperator = Exclude<keyof typeof operators, '$in' | '$nin'>

/** A named aggregation over events. */
export const Meter = Type.Object(
  {
    slug: Type.String({
      pattern: '^[a-z0-9][a-z0-9_]{0,63}$',
      description: 'Its name, in answers and price books.',
    }),
    description: Type.Optional(Type.String({ maxLength: 1024, description: 'What it counts, for people.' })),
    eventTypes: Type.Array(Type.String({ minLength: 1, maxLength: 256 }), {
      minItems: 1,
      description: 'The event types it takes.',
    }),
    aggregation: Type.Enum(aggregations, { description: 'How the values of many events become one.' }),
    percentile: Type.Optional(
      Type.String({
        pattern: '^(?:100(?:\\.0{1,6})?|[1-9]?[0-9](?:\\.[0-9]{1,6})?)$',
        description:
          'Of PERCENTILE, 0 to 100 (default 95): the smallest value that at least so many percent of the values do not exceed.',
      }),
    ),
    value: Type.Optional(Path),
    per: Type.Optional(
      Type.String({
        pattern: '^[1-9][0-9]{0,17}$',
        description: 'Divides the finished aggregate once: 3600 makes hours of seconds.',
      }),
    ),
    groupBy: Type.Record(Type.String({ pattern: '^[A-Za-z0-9_]{1,63}$' }), Path, {
      default: {},
      description: 'The dims of the meter, each with its path.',
    }),
    filter: Type.Optional(
      Type.Record(Type.String(), Type.Union([Text, FilterString]), {
        description:
          'Dims or paths that must equal a value, or fit a filter: `$eq $ne $in $nin $like $nlike $ilike $nilike $gt $gte $lt $lte $and $or`, all compared as text.',
      }),
    ),
    unit: Type.String({ minLength: 1, maxLength: 64, description: 'Shown with every quantity.' }),
    disjoint: Type.Optional(
      Type.String({
        maxLength: 1024,
        description: 'What keeps two kinds of source apart that feed this meter.',
      }),
    ),
  },
  { additionalProperties: false },
)
export type Meter = Static<typeof Meter>

/** The catalogue file. */
export const CatalogueFile = Type.Object(
  { meters: Type.Array(Meter, { description: 'All meters: those that come with Meterline are not added.' }) },
  { additionalProperties: false },
)

/** What a schema cannot say of meters that fit it. Paths are pointers into the catalogue file. */
export function catalogueMisfits(meters: readonly Meter[]): readonly Misfit[] {
  const found: Misfit[] = []
  const bySlug = new Map<string, number>()
  for (const [index, meter] of meters.entries()) {
    const path = `/meters/${index}`
    const first = bySlug.get(meter.slug)
    if (first !== undefined)
      found.push({ path: `${path}/slug`, message: `"${meter.slug}" is also the slug of meters[${first}]` })
    else bySlug.set(meter.slug, index)
    if (meter.aggregation !== 'COUNT' && meter.value === undefined)
      found.push({ path: `${path}/value`, message: `is missing: ${meter.aggregation} needs to know of what` })
    if (meter.aggregation === 'COUNT' && meter.value !== undefined)
      found.push({ path: `${path}/value`, message: 'says nothing: COUNT counts events' })
    const kinds = kindsOf(meter)
    if (kinds.size > 1 && meter.disjoint === undefined)
      found.push({
        path: `${path}/disjoint`,
        message: `is missing: ${[...kinds].join(' and ')} may report one GPU twice; say what keeps them apart`,
      })
  }
  return found
}

/** The kinds of source that feed a meter; `pushed` is one of them. */
function kindsOf({ eventTypes }: Meter): ReadonlySet<string> {
  return new Set(eventTypes.map(type => /^io\.meterline\.([^.]+)\./.exec(type)?.[1] ?? 'pushed'))
}

/**
 * Measures that several of these meters, billed together, take from different kinds of source: one GPU would be paid for
 * twice, unless a meter says by `disjoint` what keeps them apart. A sentence each.
 */
export function billedTwice(meters: readonly Meter[]): readonly string[] {
  const sums = meters.filter(
    ({ aggregation, value, disjoint }) =>
      aggregation === 'SUM' && value !== undefined && disjoint === undefined,
  )
  const measureOf = ({ value = '' }: Meter) => value.replace(/^\$\.(?:measures\.)?/, '')
  return Array.from(Map.groupBy(sums, measureOf)).flatMap(([measure, alike]) => {
    const kinds = new Set(alike.flatMap(meter => [...kindsOf(meter)]))
    if (kinds.size < 2) return []
    const slugs = alike.map(({ slug }) => slug).join(' and ')
    return [
      `${slugs} bill ${measure} of ${[...kinds].join(' and ')}: one GPU may be reported by both; say in a meter's \`disjoint\` what keeps them apart`,
    ]
  })
}

/** 1024³ × 3600: from byte-seconds to GiB-hours. */
const gibHour = '3865470566400'

type Billed = Pick<Meter, 'slug' | 'description' | 'value' | 'per' | 'unit'>

/** Meters that add up a measure of one type of event each: two kinds of source may report one GPU twice. */
function sums(eventType: string, groupBy: Meter['groupBy'], billed: readonly Billed[]): readonly Meter[] {
  return billed.map(meter => ({ ...meter, eventTypes: [eventType], aggregation: 'SUM', groupBy }))
}

const rafayDims = {
  organization: 'organization',
  profile: 'profile',
  profile_type: 'profile_type',
  gpu_type: 'gpu_type',
  instance: '$.resource.id',
}
const kubernetesPodDims = {
  namespace: 'namespace',
  node_pool: 'node_pool',
  gpu_type: 'gpu_type',
  mig_profile: 'mig_profile',
  owner: 'owner',
  pod: '$.resource.id',
}
const runaiDims = {
  cluster: 'cluster',
  department: 'department',
  project: 'project',
  user: 'user',
  workload: 'workload',
  category: 'category',
  node_pool: 'node_pool',
  gpu_type: 'gpu_type',
}

/** Of the preset dcgm of the kind prometheus. */
const dcgmDims = {
  namespace: 'namespace',
  pod: 'pod',
  node: 'node',
  gpu_type: 'gpu_type',
  gpu: 'gpu_uuid',
}

/** The meters that are there when no catalogue is configured. */
export const defaultMeters: readonly Meter[] = [
  ...sums('io.meterline.rafay.instance.v1', rafayDims, [
    {
      slug: 'instance_hours',
      description: 'Hours that instances were allocated.',
      ...{ value: 'instance_seconds', per: '3600', unit: 'h' },
    },
    {
      slug: 'gpu_hours',
      description: 'GPU-hours allocated: GPUs times hours.',
      ...{ value: 'gpu_seconds', per: '3600', unit: 'h' },
    },
  ]),
  ...sums('io.meterline.rafay.tokens.v1', { organization: 'organization', model: 'model' }, [
    { slug: 'tokens', description: 'Model tokens.', value: 'tokens', unit: 'token' },
  ]),
  ...sums('io.meterline.kubernetes.pod.v1', kubernetesPodDims, [
    {
      slug: 'kubernetes_gpu_hours',
      description: 'GPU-hours that pods held.',
      ...{ value: 'gpu_seconds', per: '3600', unit: 'h' },
    },
    {
      slug: 'kubernetes_cpu_core_hours',
      description: 'Core-hours that pods reserved.',
      ...{ value: 'cpu_core_seconds', per: '3600', unit: 'core.h' },
    },
    {
      slug: 'kubernetes_memory_gib_hours',
      description: 'Memory that pods reserved, times the time.',
      ...{ value: 'memory_byte_seconds', per: gibHour, unit: 'GiB.h' },
    },
  ]),
  ...sums(
    'io.meterline.kubernetes.volume.v1',
    { namespace: 'namespace', storage_class: 'storage_class', volume: '$.resource.id' },
    [
      {
        slug: 'kubernetes_storage_gib_hours',
        description: 'Storage of volumes that are claimed, or kept after their claim, times the time.',
        ...{ value: 'storage_byte_seconds', per: gibHour, unit: 'GiB.h' },
      },
    ],
  ),
  ...sums(
    'io.meterline.kubernetes.load_balancer.v1',
    { namespace: 'namespace', load_balancer: '$.resource.id' },
    [
      {
        slug: 'kubernetes_load_balancer_hours',
        description: 'Hours that services of type LoadBalancer had an address.',
        ...{ value: 'load_balancer_seconds', per: '3600', unit: 'h' },
      },
    ],
  ),
  ...sums('io.meterline.kubernetes.network.v1', { namespace: 'namespace' }, [
    {
      slug: 'kubernetes_network_receive_bytes',
      description: 'Bytes that pods received.',
      ...{ value: 'network_receive_bytes', unit: 'By' },
    },
    {
      slug: 'kubernetes_network_transmit_bytes',
      description: 'Bytes that pods sent.',
      ...{ value: 'network_transmit_bytes', unit: 'By' },
    },
  ]),
  ...sums('io.meterline.runai.pod.v1', runaiDims, [
    {
      slug: 'runai_gpu_hours',
      description: 'GPU-hours that workloads held, fractions in part.',
      ...{ value: 'gpu_seconds', per: '3600', unit: 'h' },
    },
    {
      slug: 'runai_cpu_core_hours',
      description: 'Core-hours that workloads reserved.',
      ...{ value: 'cpu_core_seconds', per: '3600', unit: 'core.h' },
    },
    {
      slug: 'runai_memory_gib_hours',
      description: 'Memory that workloads reserved, times the time.',
      ...{ value: 'memory_byte_seconds', per: gibHour, unit: 'GiB.h' },
    },
  ]),
  ...sums('io.meterline.runai.gpu.v1', runaiDims, [
    {
      slug: 'runai_gpu_active_hours',
      description: 'GPU-hours worked: utilisation times the time.',
      ...{ value: 'gpu_active_seconds', per: '3600', unit: 'h' },
    },
    {
      slug: 'runai_gpu_idle_hours',
      description: 'GPU-hours held and idle.',
      ...{ value: 'gpu_idle_seconds', per: '3600', unit: 'h' },
    },
    {
      slug: 'runai_gpu_memory_gib_hours',
      description: 'GPU memory used, times the time.',
      ...{ value: 'gpu_memory_byte_seconds', per: gibHour, unit: 'GiB.h' },
    },
  ]),
  ...sums('io.meterline.prometheus.gpu.v1', dcgmDims, [
    {
      slug: 'dcgm_gpu_active_hours',
      description: 'GPU-hours worked as DCGM says: utilisation times the time.',
      ...{ value: 'gpu_active_seconds', per: '3600', unit: 'h' },
    },
    {
      slug: 'dcgm_gpu_memory_gib_hours',
      description: 'GPU memory used as DCGM says, times the time.',
      ...{ value: 'gpu_memory_byte_seconds', per: gibHour, unit: 'GiB.h' },
    },
    {
      slug: 'dcgm_energy_kwh',
      description: 'Energy that GPUs used as DCGM says.',
      ...{ value: 'energy_joules', per: '3600000', unit: 'kW.h' },
    },
  ]),
]

/** A changed definition is another meter to the rollups: this tells the two apart. */
export function meterHash(meter: Meter): string {
  const { description: _, unit: __, eventTypes, ...what } = meter
  const canonical = canonicalJson({ ...what, eventTypes: [...eventTypes].sort() })
  return hash('sha256', canonical, 'hex').slice(0, 16)
}

/** One row of `usage`: as design.md prints it. `value` is a decimal; `exact` the same as n/d where that has no finite form. */
export interface UsageRow {
  readonly meter: string
  readonly unit: string
  readonly window_start: string
  readonly window_end: string
  readonly source: string
  readonly subject: string
  readonly group_by: Readonly<Record<string, string>>
  readonly value: string
  /** Readings that reach over an edge of the window were split by the time really used. */
  readonly split?: true
}
