/** Effective requests of pods: each rule worked by hand, and all of them at once against a second formulation. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { nanoOf } from '../../../../collector/quantity.ts'
import type { Container, Pod, Texts } from '../../../../collector/sources/kubernetes/objects.ts'
import { podRequests } from '../../../../collector/sources/kubernetes/requests.ts'
import { show } from '../../../../schemas/decimal.ts'
import { faultOf } from '../../../faults.ts'
import { type PodManifest, pod } from './manifests.ts'

const unit = 1_000_000_000n

function cpuOf(manifest: PodManifest): string {
  return show(podRequests(pod(manifest)).cpuCores)
}
const cpu = (quantity: string) => ({ requests: { cpu: quantity } })
const sidecar = (quantity: string) => ({ restartPolicy: 'Always', requests: { cpu: quantity } })
const infeasible = { conditions: [{ type: 'PodResizePending', status: 'True', reason: 'Infeasible' }] }
const deferred = { conditions: [{ type: 'PodResizePending', status: 'True', reason: 'Deferred' }] }

describe('cores of a pod', () => {
  test.each<[string, PodManifest, string]>([
    ['nothing asked for is nothing', {}, '0'],
    ['containers run beside each other: their sum', { containers: [cpu('100m'), cpu('200m')] }, '0.3'],
    ['what has limits alone asks for its limits', { containers: [{ limits: { cpu: '2' } }, cpu('1')] }, '3'],
    [
      'requests count where there are both',
      { containers: [{ requests: { cpu: '1' }, limits: { cpu: '4' } }] },
      '1',
    ],
    [
      'init containers run one after the other: the greatest, where it is more than the containers',
      { containers: [cpu('1')], initContainers: [cpu('3'), cpu('2')] },
      '3',
    ],
    ['where it is less, it counts nothing', { containers: [cpu('4')], initContainers: [cpu('3')] }, '4'],
    [
      'a sidecar goes on beside the containers',
      { containers: [cpu('1')], initContainers: [sidecar('2')] },
      '3',
    ],
    [
      'an init container runs beside the sidecars before it',
      { containers: [cpu('1')], initContainers: [sidecar('2'), cpu('5'), sidecar('3')] },
      '7',
    ],
    [
      'and not beside those after it',
      { containers: [cpu('1')], initContainers: [cpu('5'), sidecar('2'), sidecar('3')] },
      '6',
    ],
    [
      'sidecars alone, started, may be what is most: 2+3 is less than 1+2+3',
      { containers: [cpu('1')], initContainers: [sidecar('2'), sidecar('3')] },
      '6',
    ],
    ['overhead is on top', { containers: [cpu('1')], spec: { overhead: { cpu: '250m' } } }, '1.25'],
    [
      'what the pod asks for as a whole is what it gets',
      { containers: [cpu('1'), cpu('1')], spec: { resources: { requests: { cpu: '5' } } } },
      '5',
    ],
    [
      'also where that is less than its containers ask for, and overhead is still on top',
      {
        containers: [cpu('4')],
        spec: { resources: { requests: { cpu: '3' } }, overhead: { cpu: '100m' } },
      },
      '3.1',
    ],
    [
      'a limit of the pod as a whole fills in for what nothing asks for',
      { containers: [{}], spec: { resources: { limits: { cpu: '6' } } } },
      '6',
    ],
    [
      'not where its containers ask for something',
      { containers: [cpu('2')], spec: { resources: { limits: { cpu: '6' } } } },
      '2',
    ],
    [
      'a resize down counts when it is done: until then what was set aside',
      { containers: [{ ...cpu('1'), allocated: { cpu: '4' }, actual: { cpu: '4' } }] },
      '4',
    ],
    [
      'while it runs with more than is set aside, that',
      { containers: [{ ...cpu('1'), allocated: { cpu: '1' }, actual: { cpu: '4' } }] },
      '4',
    ],
    [
      'a resize up counts from when it is asked for',
      { containers: [{ ...cpu('4'), allocated: { cpu: '1' }, actual: { cpu: '1' } }] },
      '4',
    ],
    [
      'also while it waits',
      { containers: [{ ...cpu('4'), allocated: { cpu: '1' }, actual: { cpu: '1' } }], status: deferred },
      '4',
    ],
    [
      'one that will never be granted does not count',
      { containers: [{ ...cpu('4'), allocated: { cpu: '1' }, actual: { cpu: '1' } }], status: infeasible },
      '1',
    ],
    [
      'two containers resized in opposite directions: the greatest of the sums, not the sum of the greatest',
      {
        containers: [
          { ...cpu('1'), allocated: { cpu: '3' }, actual: { cpu: '3' } },
          { ...cpu('3'), allocated: { cpu: '1' }, actual: { cpu: '1' } },
        ],
      },
      '4',
    ],
    [
      'a pod resized as a whole: the most of what is asked for, set aside and in use',
      {
        containers: [cpu('1')],
        spec: { resources: { requests: { cpu: '2' } } },
        status: { allocatedResources: { cpu: '3' }, resources: { requests: { cpu: '4' } } },
      },
      '4',
    ],
    [
      'the sums of the kubelet count before those over containers',
      {
        containers: [{ ...cpu('1'), allocated: { cpu: '9' }, actual: { cpu: '9' } }],
        status: { allocatedResources: { cpu: '2' }, resources: { requests: { cpu: '2' } } },
      },
      '2',
    ],
    [
      'what claims take of the node is on top, of containers once for each',
      {
        containers: [cpu('1')],
        status: {
          nodeAllocatableResourceClaimStatuses: [
            {
              resourceClaimName: 'x',
              containers: ['c0', 'c1'],
              mapping: [{ name: 'cpu', quantity: '500m' }],
              overhead: [{ name: 'cpu', perPod: '100m', perContainer: '10m' }],
            },
          ],
        },
      },
      '1.62',
    ],
  ])('%s', (_, manifest, cores) => {
    expect(cpuOf(manifest)).toBe(cores)
  })
})

test('memory and devices go the same way, each by itself', () => {
  const { memoryBytes, resources } = podRequests(
    pod({
      containers: [
        { requests: { memory: '1Gi', 'nvidia.com/gpu': '2' } },
        { limits: { memory: '512Mi', 'nvidia.com/gpu': '1' } },
      ],
      initContainers: [{ requests: { memory: '4Gi', cpu: '1' } }],
      spec: { resources: { requests: { 'nvidia.com/gpu': '9' } } },
    }),
  )
  expect(show(memoryBytes)).toBe(String(4 * 1024 ** 3))
  // Devices cannot be asked for by the pod as a whole.
  expect(resources.get('nvidia.com/gpu')).toBe(3n * unit)
  expect(resources.get('cpu')).toBe(unit)
})

test.each(['', 'lots', '-1', '1e'])(
  'a quantity of %j is a fault that names pod, container and resource',
  text => {
    const fault = faultOf(() => podRequests(pod({ containers: [cpu(text)] })))
    expect(fault).toMatchObject({
      code: 'ITEM_UNREADABLE',
      facts: { subject: 'team', pod: 'p', uid: 'uid-p', path: 'containers/c0/requests/cpu' },
    })
  },
)

describe('for any pod', () => {
  const names = ['cpu', 'memory', 'nvidia.com/gpu', 'hugepages-2Mi']
  const list = fc.dictionary(fc.constantFrom(...names), fc.constantFrom('0', '1', '2', '100m', '1Ki', '3'), {
    maxKeys: 3,
  })
  const option = <Value>(arbitrary: fc.Arbitrary<Value>) => fc.option(arbitrary, { nil: undefined })
  const container = fc.record({
    requests: option(list),
    limits: option(list),
    allocated: option(list),
    actual: option(list),
    isSidecar: fc.boolean(),
  })
  const anyPod = fc.record({
    containers: fc.array(container, { minLength: 1, maxLength: 3 }),
    initContainers: fc.array(container, { maxLength: 4 }),
    overhead: option(list),
    requests: option(list),
    limits: option(list),
    allocated: option(list),
    actual: option(list),
    isInfeasible: fc.boolean(),
  })
  const made = (generated: typeof anyPod extends fc.Arbitrary<infer Value> ? Value : never): Pod => {
    const containerOf = (each: (typeof generated.containers)[number], name: string): Container => ({
      name,
      wanted: {
        ...(each.requests && { requests: each.requests }),
        ...(each.limits && { limits: each.limits }),
      },
      ...(each.isSidecar && name.startsWith('i') && { sidecar: true as const }),
      ...(each.allocated && { allocated: each.allocated }),
      ...(each.actual && { actual: { requests: each.actual } }),
    })
    return {
      ...pod(),
      containers: generated.containers.map((each, index) => containerOf(each, `c${index}`)),
      initContainers: generated.initContainers.map((each, index) => containerOf(each, `i${index}`)),
      ...(generated.overhead && { overhead: generated.overhead }),
      wanted: {
        ...(generated.requests && { requests: generated.requests }),
        ...(generated.limits && { limits: generated.limits }),
      },
      ...(generated.allocated && { allocated: generated.allocated }),
      ...(generated.actual && { actual: { requests: generated.actual } }),
      ...(generated.isInfeasible && { resizeInfeasible: true as const }),
    }
  }

  test('each resource is what a formula for it alone says', () => {
    fc.assert(
      fc.property(anyPod.map(made), each => {
        const { resources } = podRequests(each)
        for (const name of names) expect(resources.get(name) ?? 0n).toBe(naively(each, name))
      }),
      { numRuns: 400 },
    )
  })
})

/** The rules again, one resource at a time: the moments of the start of a pod written out, and the most of them. */
function naively(each: Pod, name: string): bigint {
  const nano = (texts: Texts | undefined) => (texts?.[name] === undefined ? undefined : nanoOf(texts[name])!)
  const most = (...values: (bigint | undefined)[]) =>
    values.reduce<bigint>((most, value = 0n) => (value > most ? value : most), 0n)
  const spec = ({ wanted }: Container) => nano(wanted.requests) ?? nano(wanted.limits) ?? 0n
  const allocated = (one: Container) =>
    one.allocated ? (nano(one.allocated) ?? 0n) : each.resizeInfeasible ? 0n : spec(one)
  const actual = (one: Container) =>
    one.actual?.requests ? (nano(one.actual.requests) ?? 0n) : allocated(one)
  const peak = (of: (one: Container) => bigint) => {
    const running = each.containers.map(of).reduce((a, b) => a + b, 0n)
    const before = (end: number) =>
      each.initContainers
        .slice(0, end)
        .filter(({ sidecar }) => sidecar)
        .map(of)
        .reduce((a, b) => a + b, 0n)
    return most(
      running + before(each.initContainers.length),
      ...each.initContainers.map((one, index) => of(one) + before(index)),
    )
  }
  const hasPodSums = each.allocated !== undefined && each.actual?.requests !== undefined
  const [setAside, inUse] = hasPodSums
    ? [nano(each.allocated), nano(each.actual?.requests)]
    : [peak(allocated), peak(actual)]
  let effective = most(each.resizeInfeasible ? 0n : peak(spec), setAside, inUse)
  if (name !== 'nvidia.com/gpu') {
    const isLimited = Object.keys(each.wanted?.limits ?? {}).length > 0
    const isAsked = [...each.containers, ...each.initContainers].some(
      ({ wanted }) => (wanted.requests?.[name] ?? wanted.limits?.[name]) !== undefined,
    )
    const filledIn = isLimited && isAsked && name !== 'hugepages-2Mi' ? peak(spec) : nano(each.wanted?.limits)
    const whole = nano(each.wanted?.requests) ?? filledIn
    const isWhole = names(each).some(any => any)
    const statuses = each.actual ? [nano(each.actual.requests), nano(each.allocated)] : []
    if (isWhole && (whole !== undefined || statuses.some(status => status !== undefined))) {
      const asked = each.resizeInfeasible && each.actual ? undefined : whole
      if (asked !== undefined || statuses.some(status => status !== undefined))
        effective = most(asked, ...statuses)
    }
  }
  return effective + (nano(each.overhead) ?? 0n)

  /** Does the pod ask for anything as a whole, after what is left out was filled in? */
  function names({ wanted, containers, initContainers }: Pod): readonly boolean[] {
    const limits = Object.keys(wanted?.limits ?? {})
    const asked = [...containers, ...initContainers].flatMap(one =>
      Object.keys({ ...one.wanted.requests, ...one.wanted.limits }),
    )
    const all = [
      ...Object.keys(wanted?.requests ?? {}),
      ...limits,
      ...(limits.length > 0 ? asked.filter(one => one === 'cpu' || one === 'memory') : []),
    ]
    return all.map(one => one !== 'nvidia.com/gpu')
  }
}
