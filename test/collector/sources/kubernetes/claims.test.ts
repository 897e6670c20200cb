/** GPUs held by ResourceClaims: which devices count, on what share of a GPU, and how those who share one split it. */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { describe, expect, test } from 'vitest'
import {
  type Claims,
  claimGpus,
  devicesOf,
  splitAmong,
} from '../../../../collector/sources/kubernetes/claims.ts'
import { gpuLabels, gpusOf, type NodeFacts, podGpus } from '../../../../collector/sources/kubernetes/gpus.ts'
import type { ResourceClaim } from '../../../../collector/sources/kubernetes/objects.ts'
import { podRequests } from '../../../../collector/sources/kubernetes/requests.ts'
import { show } from '../../../../schemas/decimal.ts'
import { faultOf } from '../../../faults.ts'
import { claim, given, gpuDefaults, type PodManifest, pod, slice } from './manifests.ts'

const rules = gpuDefaults()
const string = (text: string) => ({ string: text })
const whole = (name: string) => ({
  name,
  attributes: { type: string('gpu'), productName: string('NVIDIA H100 80GB HBM3') },
  capacity: { memory: { value: '80Gi' } },
})
const mig = (name: string, profile: string) => ({
  name,
  attributes: {
    'gpu.nvidia.com/type': string('mig'),
    'gpu.nvidia.com/profile': string(profile),
    productName: string('NVIDIA H100 80GB HBM3'),
    index: { int: 0 },
  },
  capacity: { memory: { value: '9728Mi' } },
})
const slices = [slice([whole('gpu-0'), whole('gpu-1'), mig('gpu-2-mig-0', '1g.10gb')])]

function known(...claims: readonly ResourceClaim[]): Claims {
  return {
    claim: (namespace, name) => claims.find(each => each.namespace === namespace && each.name === name),
    device: devicesOf(slices),
  }
}
const named = (...names: readonly string[]): PodManifest => ({
  spec: { resourceClaims: names.map(name => ({ name: `local-${name}`, resourceClaimName: name })) },
})

describe('devices of claims', () => {
  test('each counts, of each claim once, with the type as discovery writes it on nodes', () => {
    const shares = claimGpus(
      pod(named('a', 'b', 'a')),
      known(claim('a', [given('gpu-0')]), claim('b', [given('gpu-1')])),
      rules,
    )
    expect(show(gpusOf(shares))).toBe('2')
    expect(shares.map(share => share.claim)).toEqual(['uid-a', 'uid-b'])
    expect(gpuLabels(shares)).toEqual({ gpu_resource: 'gpu.nvidia.com', gpu_type: 'NVIDIA-H100-80GB-HBM3' })
  })

  test('a claim made from a template is found by the name that the status tells', () => {
    const each = pod({
      spec: { resourceClaims: [{ name: 'gpu', resourceClaimTemplateName: 'template' }] },
      status: { resourceClaimStatuses: [{ name: 'gpu', resourceClaimName: 'p-gpu-x7' }] },
    })
    expect(show(gpusOf(claimGpus(each, known(claim('p-gpu-x7', [given('gpu-0')])), rules)))).toBe('1')
  })

  test('one that was made from a template and is not there yet is nothing', () => {
    const each = pod({ spec: { resourceClaims: [{ name: 'gpu', resourceClaimTemplateName: 'template' }] } })
    expect(claimGpus(each, known(), rules)).toEqual([])
  })

  test('what is for administration counts nothing, nor does a device that is no GPU', () => {
    const results = [
      given('gpu-0', { adminAccess: true }),
      given('gpu-1', { adminAccess: false }),
      { ...given('channel-7'), driver: 'compute-domain.nvidia.com' },
    ]
    expect(show(gpusOf(claimGpus(pod(named('a')), known(claim('a', results)), rules)))).toBe('1')
  })

  test('an alternative that was taken, main/sub, is one device', () => {
    const results = [given('gpu-0', { request: 'main/big' })]
    expect(show(gpusOf(claimGpus(pod(named('a')), known(claim('a', results)), rules)))).toBe('1')
  })

  test('a MIG device is its part of the GPU', () => {
    const shares = claimGpus(pod(named('a')), known(claim('a', [given('gpu-2-mig-0')])), rules)
    expect(show(gpusOf(shares))).toBe('1/7')
    expect(gpuLabels(shares)).toMatchObject({ mig_profile: '1g.10gb', gpu_sharing: 'mig' })
  })

  test('a part of the capacity of a device is its part of the memory', () => {
    const results = [given('gpu-0', { shareID: 'uid-1', consumedCapacity: { memory: '20Gi' } })]
    const shares = claimGpus(pod(named('a')), known(claim('a', results)), rules)
    expect(show(gpusOf(shares))).toBe('0.25')
    expect(shares[0]?.sharing).toBe('capacity')
  })

  test.each<[string, object, RegExp]>([
    ['a device that no slice names', given('gpu-9'), /gpu-9.*gpuShares: count/],
    ['a part of unknown size', given('gpu-0', { shareID: 'uid-1' }), /does not tell how much/],
  ])('%s is a fault, not a guess', (_, result, words) => {
    const fault = faultOf(() => claimGpus(pod(named('a')), known(claim('a', [result])), rules))
    expect(fault.code).toBe('ITEM_UNREADABLE')
    expect(fault.message).toMatch(words)
  })

  test('a claim that is not known is a fault', () => {
    expect(faultOf(() => claimGpus(pod(named('a')), known(), rules)).message).toMatch(/claim a is not known/)
  })

  test('the latest generation of a pool counts, in any order of its slices', () => {
    const old = slice([mig('gpu-0', '1g.10gb')], 1)
    const now = slice([whole('gpu-0')], 2)
    const device = given('gpu-0')
    for (const order of [
      [old, now],
      [now, old],
    ])
      expect(devicesOf(order)(device)?.attributes.type).toBe('gpu')
  })
})

describe('a claim that stands behind requests', () => {
  const manifest = (resourceName: string): PodManifest => ({
    containers: [{ requests: { [resourceName]: '1' } }],
    status: {
      extendedResourceClaimStatus: {
        resourceClaimName: 'behind',
        requestMappings: [{ containerName: 'c0', resourceName, requestName: 'gpu' }],
      },
    },
  })
  function both(resourceName: string, facts?: NodeFacts) {
    const each = pod(manifest(resourceName))
    const claimed = claimGpus(each, known(claim('behind', [given('gpu-0')])), rules)
    return podGpus(each, { requests: podRequests(each), node: facts, claimed }, rules)
  }

  test('of nvidia.com/gpu is not counted a second time, and tells the type', () => {
    const shares = both('nvidia.com/gpu')
    expect(show(gpusOf(shares))).toBe('1')
    expect(gpuLabels(shares)).toEqual({ gpu_resource: 'nvidia.com/gpu', gpu_type: 'NVIDIA-H100-80GB-HBM3' })
  })

  test('does not tell the type where the node does: one GPU has one', () => {
    const facts = { node: 'n1', gpuType: 'nvidia-h100-80gb', replicas: {} }
    expect(gpuLabels(both('nvidia.com/gpu', facts)).gpu_type).toBe('nvidia-h100-80gb')
  })

  test('of nvidia.com/gpu need not be known', () => {
    const each = pod(manifest('nvidia.com/gpu'))
    expect(claimGpus(each, known(), rules)).toEqual([])
    expect(faultOf(() => claimGpus(pod(manifest('example.com/any')), known(), rules)).message).toMatch(
      /not known/,
    )
  })

  test('of a name that tells of no GPU is counted, once', () => {
    const shares = both('deviceclass.resource.kubernetes.io/gpu.nvidia.com')
    expect(shares.map(share => share.resource)).toEqual(['gpu.nvidia.com'])
    expect(show(gpusOf(shares))).toBe('1')
  })
})

describe('those who share a claim', () => {
  test('split it in equal parts as long as they are together', () => {
    const parts = splitAmong([
      { uid: 'a', startMs: 0, endMs: 30 },
      { uid: 'b', startMs: 10, endMs: 20 },
      { uid: 'c', startMs: 10, endMs: Number.POSITIVE_INFINITY },
    ])
    const of = (uid: string) =>
      parts.filter(part => part.uid === uid).map(({ startMs, endMs, share }) => [startMs, endMs, show(share)])
    expect(of('a')).toEqual([
      [0, 10, '1'],
      [10, 20, '1/3'],
      [20, 30, '0.5'],
    ])
    expect(of('b')).toEqual([[10, 20, '1/3']])
    expect(of('c')).toEqual([
      [10, 20, '1/3'],
      [20, 30, '0.5'],
      [30, Number.POSITIVE_INFINITY, '1'],
    ])
  })

  test('for any spans: at each instant the shares sum to one while anybody holds it, and are equal', () => {
    const holder = fc
      .record({
        uid: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
        startMs: fc.nat(50),
        length: fc.integer({ min: 1, max: 30 }),
      })
      .map(({ uid, startMs, length }) => ({ uid, startMs, endMs: startMs + length }))
    fc.assert(
      fc.property(fc.array(holder, { maxLength: 8 }), holders => {
        const parts = splitAmong(holders)
        for (let at = 0; at < 90; at++) {
          const now = parts.filter(part => part.startMs <= at && at < part.endMs)
          const holding = new Set(
            holders.filter(each => each.startMs <= at && at < each.endMs).map(each => each.uid),
          )
          expect(new Set(now.map(part => part.uid))).toEqual(holding)
          const sum = now.reduce((all, { share }) => all.add(share), new Fraction(0))
          expect(show(sum)).toBe(holding.size > 0 ? '1' : '0')
          expect(now.length).toBe(holding.size)
        }
      }),
    )
  })
})
