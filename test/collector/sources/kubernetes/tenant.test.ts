/** Whom usage is billed to: each place a tenant can stand, and the order of preference. */
import { describe, expect, test } from 'vitest'
import { namespaceOf } from '../../../../collector/sources/kubernetes/objects.ts'
import { type TenantRules, tenantNames, tenantOf } from '../../../../collector/sources/kubernetes/tenant.ts'
import { faultOf } from '../../../faults.ts'
import { everything, json } from './manifests.ts'

const namespace = namespaceOf(
  json({
    metadata: {
      name: 'team',
      uid: 'uid-team',
      labels: { customer: 'acme', empty: '' },
      annotations: { 'field.cattle.io/projectId': 'c-1:p-7', odd: 'a\nb', long: 'x'.repeat(513) },
    },
  }),
  everything,
)
const owned = {
  kind: 'pod',
  name: 'p',
  namespace: 'team',
  labels: { project: 'blue' },
  annotations: { cost: ' 42 ' },
}

function rules(...tenant: TenantRules['tenant']): TenantRules {
  return { tenant, tenantMissing: 'namespace' }
}

describe('the tenant', () => {
  test.each<[string, TenantRules, string]>([
    ['is the namespace where nothing else is asked for', rules(), 'team'],
    ['is a label of the namespace', rules({ from: 'namespace-label', name: 'customer' }), 'acme'],
    [
      'is an annotation of the namespace',
      rules({ from: 'namespace-annotation', name: 'field.cattle.io/projectId' }),
      'c-1:p-7',
    ],
    ['is a label of the pod', rules({ from: 'label', name: 'project' }), 'blue'],
    [
      'is an annotation of the pod, without spaces around it',
      rules({ from: 'annotation', name: 'cost' }),
      '42',
    ],
    [
      'is the first that is there',
      rules(
        { from: 'label', name: 'none' },
        { from: 'namespace-label', name: 'customer' },
        { from: 'label', name: 'project' },
      ),
      'acme',
    ],
    [
      'is none that is empty',
      rules({ from: 'namespace-label', name: 'empty' }, { from: 'label', name: 'project' }),
      'blue',
    ],
    ['falls back to the namespace', rules({ from: 'label', name: 'none' }), 'team'],
  ])('%s', (_, by, tenant) => {
    expect(tenantOf(owned, namespace, by)).toBe(tenant)
  })

  test('of a namespace that is not known is its name', () => {
    expect(tenantOf(owned, undefined, rules({ from: 'namespace-label', name: 'customer' }))).toBe('team')
  })

  test('that is missing and must not be is a fault with the namespace for its subject', () => {
    const fault = faultOf(() =>
      tenantOf(owned, namespace, { tenant: [{ from: 'label', name: 'none' }], tenantMissing: 'fault' }),
    )
    expect(fault).toMatchObject({ code: 'ITEM_UNREADABLE', facts: { subject: 'team', pod: 'p' } })
  })

  test.each(['odd', 'long'])('that no event can carry (%s) is a fault, and is not shown', name => {
    const fault = faultOf(() => tenantOf(owned, namespace, rules({ from: 'namespace-annotation', name })))
    expect(fault.code).toBe('ITEM_UNREADABLE')
    expect(fault.message).not.toContain('xxx')
  })

  test('the names it reads are those to keep', () => {
    const names = tenantNames(
      rules(
        { from: 'label', name: 'a' },
        { from: 'namespace-label', name: 'b' },
        { from: 'label', name: 'c' },
      ),
    )
    expect(names.label).toEqual(new Set(['a', 'c']))
    expect(names['namespace-label']).toEqual(new Set(['b']))
    expect(names.annotation.size).toBe(0)
  })
})
