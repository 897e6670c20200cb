/** Whom the use of an object is billed to: by a label or annotation, in an order of preference, else its namespace. Pure. */
import Type, { type Static } from 'typebox'
import { Fault } from '../../../schemas/fault.ts'
import type { Namespace, Texts } from './objects.ts'

/** The options of tenants, to be spread into the schema of the source. */
export const tenantOptions = {
  tenant: Type.Array(
    Type.Object(
      {
        from: Type.Enum(['namespace-label', 'namespace-annotation', 'label', 'annotation'], {
          description:
            'Where it stands: at the namespace, or at the pod, volume claim or load balancer itself, where whoever may create one can write what they like.',
        }),
        name: Type.String({ minLength: 1, description: 'Name of the label or annotation.' }),
      },
      { additionalProperties: false },
    ),
    {
      default: [],
      description:
        'What names the tenant, the first that is there counts. With none, or where none is there, the name of the namespace does.',
    },
  ),
  tenantMissing: Type.Enum(['namespace', 'fault'], {
    default: 'namespace',
    description:
      'Where nothing of `tenant` is there. namespace: its name is the tenant. fault: a gap of its own.',
  }),
}
const TenantOptions = Type.Object(tenantOptions)
export type TenantRules = Static<typeof TenantOptions>

/** What names a tenant. */
export interface Owned {
  /** `pod`, `volume claim`: for faults. */
  readonly kind: string
  readonly name: string
  readonly namespace: string
  readonly labels: Texts
  readonly annotations: Texts
}

/** Which labels and annotations these rules read. */
export function tenantNames(
  rules: TenantRules,
): Readonly<Record<TenantRules['tenant'][number]['from'], ReadonlySet<string>>> {
  const of = (from: TenantRules['tenant'][number]['from']) =>
    new Set(rules.tenant.filter(each => each.from === from).map(({ name }) => name))
  return {
    'namespace-label': of('namespace-label'),
    'namespace-annotation': of('namespace-annotation'),
    label: of('label'),
    annotation: of('annotation'),
  }
}

/** What CloudEvents let a subject be. */
const subjectShape = /^\P{Cc}{1,512}$/u

/**
 * @param namespace of the object, as it was last seen; undefined where it never was
 * @throws Fault ITEM_UNREADABLE where the tenant is missing and must not be, or is no subject
 */
export function tenantOf(owned: Owned, namespace: Namespace | undefined, rules: TenantRules): string {
  for (const { from, name } of rules.tenant) {
    const text = textsOf(from, owned, namespace)?.[name]?.trim()
    if (text === undefined || text === '') continue
    if (!subjectShape.test(text)) throw unnamed(owned, `${from} ${name} is no tenant: too long, or not plain`)
    return text
  }
  if (rules.tenantMissing === 'fault' && rules.tenant.length > 0)
    throw unnamed(
      owned,
      `none of ${rules.tenant.map(({ from, name }) => `${from} ${name}`).join(', ')} is there`,
    )
  if (!subjectShape.test(owned.namespace)) throw unnamed(owned, 'it has no namespace')
  return owned.namespace
}

function textsOf(
  from: TenantRules['tenant'][number]['from'],
  { labels, annotations }: Owned,
  namespace: Namespace | undefined,
): Texts | undefined {
  if (from === 'label') return labels
  if (from === 'annotation') return annotations
  return from === 'namespace-label' ? namespace?.labels : namespace?.annotations
}

function unnamed({ kind, namespace, name }: Owned, what: string): Fault {
  return new Fault('ITEM_UNREADABLE', `${kind} ${namespace}/${name}: ${what}`, {
    subject: namespace === '' ? undefined : namespace,
    [kind.replaceAll(' ', '_')]: name,
  })
}
