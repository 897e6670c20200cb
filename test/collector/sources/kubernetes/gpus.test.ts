/** GPUs of pods by requests and annotations, and what nodes say of them: worked by hand, and shares that sum to one. */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { describe, expect, test } from 'vitest'
import {
  type GpuRules,
  type GpuShare,
  gpuLabels,
  gpusOf,
  isGpu,
  isNodeFact,
  isReservationPod,
  nodeFacts,
  podGpus,
} from '../../../../collector/sources/kubernetes/gpus.ts'
import { podRequests } from '../../../../collector/sources/kubernetes/requests.ts'
import { show } from '../../../../schemas/decimal.ts'
import { faultOf } from '../../../faults.ts'
import { gpuDefaults, node, type PodManifest, pod } from './manifests.ts'

const rules = gpuDefaults()
const counting: GpuRules = { ...rules, gpuShares: 'count' }

function gpus(
  manifest: PodManifest,
  labels?: Readonly<Record<string, string>>,
  by = rules,
  claimed: readonly GpuShare[] = [],
): readonly GpuShare[] {
  const each = pod(manifest)
  const facts = labels && nodeFacts(node(labels), by)
  return podGpus(each, { requests: podRequests(each), node: facts, claimed }, by)
}
const asks = (resource: string, quantity = '1'): PodManifest => ({
  containers: [{ requests: { [resource]: quantity } }],
})
const annotated = (annotations: Readonly<Record<string, string>>): PodManifest => ({
  metadata: { annotations },
})
const h100 = { 'nvidia.com/gpu.product': 'NVIDIA-H100-80GB-HBM3', 'nvidia.com/gpu.memory': '81559' }

describe('GPUs by request', () => {
  test.each<[string, PodManifest, Record<string, string> | undefined, string, Record<string, string>]>([
    ['none', asks('cpu', '4'), h100, '0', {}],
    [
      'whole ones',
      asks('nvidia.com/gpu', '8'),
      h100,
      '8',
      { gpu_resource: 'nvidia.com/gpu', gpu_type: 'NVIDIA-H100-80GB-HBM3' },
    ],
    [
      'on a node of which nothing is known',
      asks('nvidia.com/gpu', '2'),
      undefined,
      '2',
      { gpu_resource: 'nvidia.com/gpu' },
    ],
    [
      'of AMD',
      asks('amd.com/gpu', '4'),
      { 'amd.com/gpu.product-name': 'AMD_Instinct_MI300X_OAM' },
      '4',
      { gpu_resource: 'amd.com/gpu', gpu_type: 'AMD_Instinct_MI300X_OAM' },
    ],
    ['of Intel', asks('gpu.intel.com/xe', '1'), {}, '1', { gpu_resource: 'gpu.intel.com/xe' }],
    [
      'a MIG slice is its part of the GPU',
      asks('nvidia.com/mig-1g.10gb'),
      h100,
      '1/7',
      {
        gpu_resource: 'nvidia.com/mig-1g.10gb',
        gpu_type: 'NVIDIA-H100-80GB-HBM3',
        mig_profile: '1g.10gb',
        gpu_sharing: 'mig',
      },
    ],
    [
      'two of three slices',
      asks('nvidia.com/mig-3g.40gb', '2'),
      h100,
      '6/7',
      {
        gpu_resource: 'nvidia.com/mig-3g.40gb',
        gpu_type: 'NVIDIA-H100-80GB-HBM3',
        mig_profile: '3g.40gb',
        gpu_sharing: 'mig',
      },
    ],
    [
      'a slice with media engines',
      asks('nvidia.com/mig-1g.10gb.me'),
      {},
      '1/7',
      { gpu_resource: 'nvidia.com/mig-1g.10gb.me', mig_profile: '1g.10gb.me', gpu_sharing: 'mig' },
    ],
    [
      'a compute instance inside a slice',
      asks('nvidia.com/mig-1c.3g.40gb'),
      {},
      '1/7',
      { gpu_resource: 'nvidia.com/mig-1c.3g.40gb', mig_profile: '1c.3g.40gb', gpu_sharing: 'mig' },
    ],
    [
      'an A30 has four slices',
      asks('nvidia.com/mig-2g.12gb'),
      { 'nvidia.com/gpu.product': 'NVIDIA-A30' },
      '0.5',
      {
        gpu_resource: 'nvidia.com/mig-2g.12gb',
        gpu_type: 'NVIDIA-A30',
        mig_profile: '2g.12gb',
        gpu_sharing: 'mig',
      },
    ],
    [
      'strategy single: slices are called gpu',
      asks('nvidia.com/gpu', '2'),
      { 'nvidia.com/gpu.product': 'A100-SXM4-40GB-MIG-1g.5gb' },
      '2/7',
      {
        gpu_resource: 'nvidia.com/gpu',
        gpu_type: 'A100-SXM4-40GB',
        mig_profile: '1g.5gb',
        gpu_sharing: 'mig',
      },
    ],
    [
      'time slicing: a replica is its part of the GPU',
      asks('nvidia.com/gpu'),
      { 'nvidia.com/gpu.product': 'Tesla-T4-SHARED', 'nvidia.com/gpu.replicas': '4' },
      '0.25',
      { gpu_resource: 'nvidia.com/gpu', gpu_type: 'Tesla-T4', gpu_sharing: 'replicas' },
    ],
    [
      'renamed to gpu.shared',
      asks('nvidia.com/gpu.shared', '2'),
      { 'nvidia.com/gpu.product': 'Tesla-T4', 'nvidia.com/gpu.replicas': '10' },
      '0.2',
      { gpu_resource: 'nvidia.com/gpu.shared', gpu_type: 'Tesla-T4', gpu_sharing: 'replicas' },
    ],
    [
      'replicas of slices of strategy single',
      asks('nvidia.com/gpu'),
      { 'nvidia.com/gpu.product': 'A100-SXM4-40GB-MIG-1g.5gb-SHARED', 'nvidia.com/gpu.replicas': '2' },
      '1/14',
      {
        gpu_resource: 'nvidia.com/gpu',
        gpu_type: 'A100-SXM4-40GB',
        mig_profile: '1g.5gb',
        gpu_sharing: 'replicas',
      },
    ],
    [
      'replicas of slices',
      asks('nvidia.com/mig-1g.10gb.shared'),
      { ...h100, 'nvidia.com/mig-1g.10gb.replicas': '3' },
      '1/21',
      {
        gpu_resource: 'nvidia.com/mig-1g.10gb.shared',
        gpu_type: 'NVIDIA-H100-80GB-HBM3',
        mig_profile: '1g.10gb',
        gpu_sharing: 'replicas',
      },
    ],
    [
      'discovery writes replicas 0 where there is nothing to share',
      asks('nvidia.com/gpu'),
      { ...h100, 'nvidia.com/gpu.replicas': '0' },
      '1',
      { gpu_resource: 'nvidia.com/gpu', gpu_type: 'NVIDIA-H100-80GB-HBM3' },
    ],
  ])('%s', (_, manifest, labels, sum, expected) => {
    const shares = gpus(manifest, labels)
    expect(show(gpusOf(shares))).toBe(sum)
    expect(gpuLabels(shares)).toEqual(expected)
  })

  test('counted as requested, a slice and a replica are one', () => {
    expect(show(gpusOf(gpus(asks('nvidia.com/mig-1g.10gb', '3'), h100, counting)))).toBe('3')
    expect(show(gpusOf(gpus(asks('nvidia.com/gpu.shared', '2'), {}, counting)))).toBe('2')
  })

  test.each<[string, PodManifest, Record<string, string> | undefined, RegExp]>([
    ['a share of unknown size', asks('nvidia.com/gpu.shared'), {}, /gpu\.replicas.*gpuShares: count/],
    ['a share on an unknown node', asks('nvidia.com/gpu.shared'), undefined, /node \(unknown\)/],
    ['replicas that are no number', asks('nvidia.com/gpu'), { 'nvidia.com/gpu.replicas': 'many' }, /"many"/],
    [
      'an invalid MIG configuration',
      asks('nvidia.com/gpu'),
      { 'nvidia.com/gpu.product': 'A100-SXM4-40GB-MIG-INVALID' },
      /n1 is invalid/,
    ],
    ['a profile of no known form', asks('nvidia.com/mig-huge'), {}, /"huge" is no MIG profile/],
  ])('%s is a fault, not a guess', (_, manifest, labels, words) => {
    const fault = faultOf(() => gpus(manifest, labels))
    expect(fault).toMatchObject({ code: 'ITEM_UNREADABLE', facts: { subject: 'team', pod: 'p' } })
    expect(fault.message).toMatch(words)
  })

  test('what only watches a GPU, or is a part of one counted already, is none', () => {
    for (const name of [
      'gpu.intel.com/i915_monitoring',
      'gpu.intel.com/millicores',
      'nvidia.com/gpumem',
      'nvidia.com/hostdev',
      'example.com/gpu',
    ])
      expect(isGpu(name)).toBe(false)
  })

  test('several kinds in one pod add up, and labels name them all', () => {
    const shares = gpus(
      {
        containers: [
          { requests: { 'nvidia.com/mig-3g.40gb': '1' } },
          { requests: { 'nvidia.com/mig-1g.10gb': '2' } },
        ],
      },
      h100,
    )
    expect(show(gpusOf(shares))).toBe('5/7')
    expect(gpuLabels(shares)).toMatchObject({ mig_profile: '1g.10gb,3g.40gb', gpu_sharing: 'mig' })
  })

  test('the replicas of all slices of a GPU sum to one, whatever they are', () => {
    fc.assert(
      fc.property(
        fc.shuffledSubarray([1, 1, 1, 1, 1, 1, 1]),
        fc.integer({ min: 1, max: 48 }),
        (slices, replicas) => {
          const labels = { ...h100, 'nvidia.com/mig-1g.10gb.replicas': String(replicas) }
          const rest = 7 - slices.length
          const all = [
            ...slices.flatMap(() =>
              Array.from({ length: replicas }, () => gpus(asks('nvidia.com/mig-1g.10gb.shared'), labels)),
            ),
            ...(rest > 0 ? [gpus(asks(`nvidia.com/mig-${rest}g.80gb`), labels)] : []),
          ].flat()
          expect(gpusOf(all).equals(1)).toBe(true)
        },
      ),
      { numRuns: 20 },
    )
  })
})

describe('fractions of Run:ai and KAI', () => {
  test.each<[string, Record<string, string>, Record<string, string> | undefined, string]>([
    ['a fraction', { 'gpu-fraction': '0.5' }, undefined, '0.5'],
    ['of several devices', { 'gpu-fraction': '0.25', 'gpu-fraction-num-devices': '3' }, undefined, '0.75'],
    ['memory, of that of the GPU', { 'gpu-memory': '10000' }, { 'nvidia.com/gpu.memory': '40000' }, '0.25'],
    ['a third stays a third', { 'gpu-memory': '10000' }, { 'nvidia.com/gpu.memory': '30000' }, '1/3'],
    [
      'what was given counts before what was asked for',
      { 'gpu-fraction': '0.5', 'runai-allocated-gpus': '0.6' },
      undefined,
      '0.6',
    ],
    ['and needs no label of the node', { 'gpu-memory': '2000', 'runai-allocated-gpus': '0.1' }, {}, '0.1'],
    ['nothing given is nothing', { 'runai-allocated-gpus': '0' }, {}, '0'],
    ['no annotation, no GPU', { other: '1' }, h100, '0'],
  ])('%s', (_, annotations, labels, sum) => {
    expect(show(gpusOf(gpus(annotated(annotations), labels)))).toBe(sum)
  })

  test('a pod that requests GPUs counts by its requests alone: Run:ai annotates it too', () => {
    const manifest = { ...asks('nvidia.com/gpu', '2'), ...annotated({ 'runai-allocated-gpus': '2' }) }
    expect(show(gpusOf(gpus(manifest, h100)))).toBe('2')
  })

  test('and one that holds them by a claim by its claim alone', () => {
    const held = { resource: 'gpu.nvidia.com', gpus: new Fraction(1), claim: 'c' }
    expect(gpus(annotated({ 'runai-allocated-gpus': '1' }), h100, rules, [held])).toEqual([held])
  })

  test.each(['half', '-0.5', '', '1e3', '0.1.2'])('an annotation of %j is a fault', text => {
    expect(faultOf(() => gpus(annotated({ 'gpu-fraction': text }))).code).toBe('ITEM_UNREADABLE')
  })

  test('memory of a GPU whose size nobody tells is a fault', () => {
    expect(faultOf(() => gpus(annotated({ 'gpu-memory': '2000' }), {})).message).toMatch(
      /nvidia\.com\/gpu\.memory/,
    )
  })

  test('a pod that only reserves the GPU others share is told by its namespace, not by a label', () => {
    expect(isReservationPod(pod({ metadata: { namespace: 'runai-reservation' } }), rules)).toBe(true)
    expect(isReservationPod(pod({ metadata: { namespace: 'kai-resource-reservation' } }), rules)).toBe(true)
    expect(isReservationPod(pod({ metadata: { labels: { app: 'kai-resource-reservation' } } }), rules)).toBe(
      false,
    )
  })
})

describe('what a node says', () => {
  test('its pool by the first label there is, its type without what tells of sharing', () => {
    expect(
      nodeFacts(
        node({
          'nvidia.com/gpu.product': 'A100-SXM4-40GB-MIG-1g.5gb-SHARED',
          'cloud.google.com/gke-nodepool': 'gke',
          'runai/node-pool': 'train',
          'node.kubernetes.io/instance-type': 'a2-highgpu-8g',
          'nvidia.com/mig-1g.5gb.replicas': '2',
        }),
        rules,
      ),
    ).toEqual({
      node: 'n1',
      pool: 'train',
      instanceType: 'a2-highgpu-8g',
      gpuType: 'A100-SXM4-40GB',
      migProfile: '1g.5gb',
      replicas: { 'mig-1g.5gb': '2' },
    })
  })

  test('every label it reads is one that is kept, and no other', () => {
    const kept = (name: string) => isNodeFact(name, rules)
    expect(
      [
        'nvidia.com/gpu.product',
        'nvidia.com/gpu.memory',
        'nvidia.com/gpu.replicas',
        'nvidia.com/mig-1g.10gb.replicas',
        'karpenter.sh/nodepool',
        'node.kubernetes.io/instance-type',
      ].every(kept),
    ).toBe(true)
    expect(
      ['kubernetes.io/hostname', 'nvidia.com/cuda.driver.major', 'nvidia.com/gpu.count'].some(kept),
    ).toBe(false)
  })
})
