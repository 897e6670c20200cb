/** Thousands of generated pods and quantities, read by us and by Kubernetes' own Go code: both say the same of each. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { nanoOf } from '../../../../collector/quantity.ts'
import { podOf } from '../../../../collector/sources/kubernetes/objects.ts'
import { podRequests } from '../../../../collector/sources/kubernetes/requests.ts'
import { askComponentHelpers, type GoNumber } from '../../../rig/kubernetes-go.ts'
import { everything, json } from './manifests.ts'

const podCount = 5000
const quantityCount = 20_000

const option = <Value>(arbitrary: fc.Arbitrary<Value>) => fc.option(arbitrary, { nil: undefined, freq: 2 })
const quantity = fc
  .tuple(
    fc.nat(3000),
    fc.constantFrom('', '.5', '.125', '.3'),
    fc.constantFrom('', 'm', 'Ki', 'Mi', 'k', 'M', 'e2', 'u', 'n'),
  )
  .map(([whole, decimals, suffix]) => `${whole}${decimals}${suffix}`)
const names = ['cpu', 'memory', 'nvidia.com/gpu', 'hugepages-2Mi', 'ephemeral-storage']
const list = fc.dictionary(fc.constantFrom(...names), quantity, { maxKeys: 4 })
const resources = fc.record({ requests: list, limits: list }, { requiredKeys: [] })
const container = fc.record({
  resources,
  isSidecar: fc.boolean(),
  status: option(fc.record({ allocatedResources: list, resources }, { requiredKeys: [] })),
})
const claimed = fc.record(
  {
    containers: fc.uniqueArray(fc.constantFrom('c0', 'c1', 'i0'), { maxLength: 3 }),
    mapping: fc.array(fc.record({ name: fc.constantFrom(...names), quantity }), { maxLength: 2 }),
    overhead: fc.array(
      fc.record(
        { name: fc.constantFrom(...names), perPod: quantity, perContainer: quantity },
        { requiredKeys: ['name'] },
      ),
      { maxLength: 2 },
    ),
  },
  { requiredKeys: [] },
)
const manifest = fc
  .record({
    containers: fc.array(container, { minLength: 1, maxLength: 3 }),
    initContainers: fc.array(container, { maxLength: 4 }),
    overhead: option(list),
    whole: option(resources),
    allocatedResources: option(list),
    actual: option(resources),
    resize: option(fc.constantFrom('Infeasible', 'Deferred')),
    claims: option(fc.array(claimed, { maxLength: 2 })),
  })
  .map(({ containers, initContainers, overhead, whole, allocatedResources, actual, resize, claims }) => {
    const named = (all: typeof containers, prefix: string) =>
      all.map((each, index) => ({ ...each, name: `${prefix}${index}` }))
    const [plain, init] = [named(containers, 'c'), named(initContainers, 'i')]
    const statuses = (all: typeof plain) =>
      all.flatMap(({ name, status }) =>
        status ? [{ name, image: 'i', imageID: 'i', ready: true, restartCount: 0, ...status }] : [],
      )
    return {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'p', namespace: 'team', uid: 'uid-p' },
      spec: {
        containers: plain.map(({ name, resources }) => ({ name, resources })),
        initContainers: init.map(({ name, resources, isSidecar }) => ({
          name,
          resources,
          ...(isSidecar && { restartPolicy: 'Always' }),
        })),
        ...(overhead && { overhead }),
        ...(whole && { resources: whole }),
      },
      status: {
        containerStatuses: statuses(plain),
        initContainerStatuses: statuses(init),
        ...(allocatedResources && { allocatedResources }),
        ...(actual && { resources: actual }),
        ...(resize && { conditions: [{ type: 'PodResizePending', status: 'True', reason: resize }] }),
        ...(claims && {
          nodeAllocatableResourceClaimStatuses: claims.map((each, index) => ({
            resourceClaimName: `r${index}`,
            ...each,
          })),
        }),
      },
    }
  })

function nanoOfGo({ unscaled, scale }: GoNumber): bigint | undefined {
  if (unscaled === undefined) return undefined
  if (scale <= 9) return BigInt(unscaled) * 10n ** BigInt(9 - scale)
  const nano = BigInt(unscaled) / 10n ** BigInt(scale - 9)
  expect(nano * 10n ** BigInt(scale - 9)).toBe(BigInt(unscaled))
  return nano
}

test(`of ${podCount} pods, each asks for exactly what PodRequests of component-helpers says`, async () => {
  const pods = fc.sample(manifest, podCount)
  const { requests } = await askComponentHelpers({ pods, quantities: [] })
  expect(requests).toHaveLength(podCount)
  let asked = 0
  for (const [index, pod] of pods.entries()) {
    const { resources } = podRequests(podOf(json(pod), everything))
    for (const name of names) {
      const theirs = requests[index]?.[name]
      const ours = resources.get(name) ?? 0n
      if (ours > 0n) asked += 1
      expect(ours, `${name} of ${JSON.stringify(pod)}`).toBe((theirs && nanoOfGo(theirs)) ?? 0n)
    }
  }
  // Most of them ask for something, or this compared nothing with nothing.
  expect(asked).toBeGreaterThan(podCount * 2)
})

const most = (2n ** 63n - 1n) * 10n ** 9n
const size = (nano: bigint) => (nano < 0n ? -nano : nano)

test(`of ${quantityCount} texts, the same are quantities, and say the same to a billionth`, async () => {
  const suffix = fc.constantFrom(
    '',
    'n',
    'u',
    'm',
    'k',
    'M',
    'G',
    'T',
    'P',
    'E',
    'Ki',
    'Mi',
    'Gi',
    'Ti',
    'Pi',
    'Ei',
    'e3',
    'E3',
    'e-3',
    'E+2',
    'e',
    'K',
    'ki',
    'B',
    'e99',
  )
  const digits = fc.string({ unit: fc.constantFrom(...'0123456789'), minLength: 0, maxLength: 21 })
  const number = fc
    .tuple(fc.constantFrom('', '', '', '+', '-'), digits, fc.constantFrom('', '', '.'), digits, suffix)
    .map(parts => parts.join(''))
  const noise = fc.string({ unit: fc.constantFrom(...'019.+-eEKMGimnuk '), maxLength: 8 })
  const quantities = fc.sample(
    fc.oneof({ weight: 4, arbitrary: number }, { weight: 1, arbitrary: noise }),
    quantityCount,
  )
  const answer = await askComponentHelpers({ pods: [], quantities })
  let read = 0
  for (const [index, text] of quantities.entries()) {
    const theirs = nanoOfGo(answer.quantities[index]!)
    if (theirs !== undefined) read += 1
    const ours = nanoOf(text)
    // Beyond 2^63-1 theirs is cut off for some texts and not for others: more than any disk holds, for both of us.
    // Go reads a text without digits, such as `u`, as nothing; the API server writes none, and here it is no quantity.
    if (!/\d/.test(text.replace(/[eE][+-]?\d+$/, ''))) expect(ours, JSON.stringify(text)).toBeUndefined()
    else if (theirs !== undefined && size(theirs) >= most)
      expect(ours !== undefined && size(ours) >= most, JSON.stringify(text)).toBe(true)
    else expect(ours, JSON.stringify(text)).toBe(theirs)
  }
  expect(read).toBeGreaterThan(quantityCount / 3)
})
