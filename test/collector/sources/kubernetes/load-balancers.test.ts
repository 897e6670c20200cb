/** When a Service costs as a load balancer. */
import { expect, test } from 'vitest'
import { isBalancing } from '../../../../collector/sources/kubernetes/load-balancers.ts'
import { serviceOf } from '../../../../collector/sources/kubernetes/objects.ts'
import { everything, json } from './manifests.ts'

const balancer = (type: string, ingress?: readonly object[]) =>
  serviceOf(
    json({
      metadata: { name: 'web', namespace: 'team', uid: 'uid-s' },
      spec: { type, loadBalancerClass: 'example.com/l4' },
      status: { loadBalancer: ingress ? { ingress } : {} },
    }),
    everything,
  )
const address = [{ ip: '203.0.113.7' }]

test('it costs from its first address on, also while that is lost, until it is another type', () => {
  const seen = [
    balancer('LoadBalancer'),
    balancer('LoadBalancer', []),
    balancer('LoadBalancer', address),
    balancer('LoadBalancer', []),
    balancer('ClusterIP', address),
    balancer('LoadBalancer'),
    balancer('LoadBalancer', [{ hostname: 'lb.example.com' }]),
  ]
  let before = false
  const costs = seen.map(each => {
    before = isBalancing(each, before)
    return before
  })
  expect(costs).toEqual([false, false, true, true, false, false, true])
})

test('its class is kept for prices', () => {
  expect(balancer('LoadBalancer', address).loadBalancerClass).toBe('example.com/l4')
})
