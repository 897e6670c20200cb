/** What the page knows of meters: which dims name a tenant, which a resource, and how they are called. Pure. */

/** A meter of `GET /api/v1/meters`. */
export interface Meter {
  readonly slug: string
  readonly name?: string | null
  readonly description?: string | null
  readonly aggregation: string
  readonly groupBy?: Readonly<Record<string, string>> | null
}

/** The values of many windows or groups may be added up. */
export function isAdditive({ aggregation }: Meter): boolean {
  return aggregation === 'SUM' || aggregation === 'COUNT'
}

export function dimsOf({ groupBy }: Meter): readonly string[] {
  return Object.keys(groupBy ?? {})
}

/** The dim that names a tenant for people; its id is what counts. */
export function nameDim(meter: Meter): string | undefined {
  return ['organization', 'project', 'namespace', 'tenant', 'customer'].find(dim =>
    dimsOf(meter).includes(dim),
  )
}

/** The dim that tells the resources of a tenant apart. */
export function resourceDim(meter: Meter): string | undefined {
  const byId = Object.entries(meter.groupBy ?? {}).find(([, path]) => path === '$.resource.id')
  return byId?.[0] ?? ['workload', 'pod', 'instance', 'gpu', 'model'].find(dim => dimsOf(meter).includes(dim))
}

/** By what a chart may be split: GPU types first, tenants unless there is only one. */
export function splitsOf(meter: Meter, isOfTenant: boolean): readonly string[] {
  const dims = dimsOf(meter).filter(dim => dim !== nameDim(meter))
  const first: readonly string[] = dims.filter(dim => dim === 'gpu_type' || dim === 'model')
  const resource = resourceDim(meter)
  const others = dims.filter(dim => !first.includes(dim) && dim !== resource)
  return [
    ...first,
    ...(isOfTenant ? [] : ['tenant']),
    ...others,
    ...(resource !== undefined && !first.includes(resource) ? [resource] : []),
  ]
}

const words: Readonly<Record<string, string>> = {
  gpu_type: 'GPU type',
  gpu: 'GPU',
  mig_profile: 'MIG profile',
  tenant: 'Tenant',
}

/** `node_pool` as `Node pool`. */
export function dimName(dim: string): string {
  const text = dim.replaceAll('_', ' ')
  return words[dim] ?? text.charAt(0).toUpperCase() + text.slice(1)
}

/** `gpu_hours` as `GPU hours`. */
export function meterName({ slug, name }: Pick<Meter, 'slug' | 'name'>): string {
  if (name && name !== slug) return name
  const text = slug
    .split('_')
    .map(
      word =>
        ({
          gpu: 'GPU',
          cpu: 'CPU',
          gib: 'GiB',
          runai: 'Run:ai',
          dcgm: 'DCGM',
          kubernetes: 'Kubernetes',
        })[word] ?? word,
    )
    .join(' ')
  return text.charAt(0).toUpperCase() + text.slice(1)
}

/** Meters that a page of GPUs shows first where nobody chose one: in this order, the first that has usage. */
export function likely(meters: readonly Meter[]): readonly Meter[] {
  const rank = ({ slug }: Meter) =>
    slug === 'gpu_hours' ? 0 : /gpu_hours$/.test(slug) ? 1 : /gpu/.test(slug) ? 2 : 3
  return [...meters].sort((a, b) => rank(a) - rank(b))
}
